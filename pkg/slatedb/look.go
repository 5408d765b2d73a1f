package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// LookOptions are what the caller of [Look] knows already. The zero value knows
// nothing.
type LookOptions struct {
	// Head is the newest manifest when it has just been read.
	Head *Head
	// Before are manifests before it, such as the one that was the newest
	// when the database was last looked at; nil: those that are still there
	// are read, up to 32.
	Before []*Head
	// WALStore holds the WAL when it is not in the store of the tables.
	WALStore Store
	// InUse are the releases that are known to open the database.
	InUse []string
	// Now is the clock by which collectors are judged; nil means time.Now.
	Now func() time.Time
}

// Look gathers what [Symptoms] needs: three listings, the collector's mark, the
// compactor's state (where there is one) and, unless the caller has them,
// manifests. When the store
// does not answer there is no sight. The errors for the newest manifest are
// those of [Latest].
func Look(ctx context.Context, s Store, root string, o LookOptions) (*Sight, error) {
	sight := &Sight{Root: root, Head: o.Head, Before: o.Before, WALNamed: o.WALStore != nil, InUse: o.InUse, Now: time.Now()}
	if o.Now != nil {
		sight.Now = o.Now()
	}
	var err error
	if sight.Head == nil {
		if sight.Head, err = Latest(ctx, s, root); err != nil {
			return nil, err
		}
	}
	b, err := Boundary(ctx, s, root)
	switch {
	case errors.Is(err, manifest.ErrCorrupt):
		sight.BoundaryError = err
	case err != nil:
		return nil, err
	default:
		sight.Boundary = &b
	}
	logs := s
	if o.WALStore != nil {
		logs = o.WALStore
	}
	after := ""
	if m := sight.Head.Manifest; m != nil && m.ReplayAfterWAL > 0 {
		after = WALKey(root, m.ReplayAfterWAL-1)
	}
	for _, l := range []struct {
		s             Store
		folder, after string
		into          *[]Stored
	}{{s, "manifest/", "", &sight.Manifests}, {s, "compactions/", "", &sight.Compactions}, {logs, "wal/", after, &sight.WAL}} {
		if *l.into, err = listed(ctx, l.s, below(root, l.folder), l.after); err != nil {
			return nil, err
		}
	}
	if len(sight.Compactions) > 0 {
		state, err := LatestCompactions(ctx, s, root)
		switch {
		case err == nil:
			sight.CompactionsVersion = state.Compactions.Version
		case !errors.Is(err, fs.ErrNotExist) && !undecodable(err):
			return nil, err
		}
	}
	if sight.Before == nil {
		sight.Before = before(ctx, s, root, sight.Head, sight.Manifests)
	}
	return sight, nil
}

// listed lists a folder behind the key after; the result is never nil.
func listed(ctx context.Context, s Store, folder, after string) ([]Stored, error) {
	all := []Stored{}
	err := s.Walk(ctx, folder, after, func(key string, size int64, modified time.Time) error {
		all = append(all, Stored{key, size, modified})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", folder, err)
	}
	return all, nil
}

// history is how many earlier manifests are read for what the newest has lost.
const history = 32

// before reads the manifests before head that are still there, not too many,
// the oldest first. One that cannot be read says nothing: nobody needs it.
func before(ctx context.Context, s Store, root string, head *Head, all []Stored) []*Head {
	var ids []uint64
	for _, o := range all {
		if id, ok := ParseManifestKey(root, o.Key); ok && id < head.ID {
			ids = append(ids, id)
		}
	}
	ids = ids[max(0, len(ids)-history):]
	heads := make([]*Head, len(ids))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, id := range ids {
		g.Go(func() error {
			if h, err := At(ctx, s, root, id); err == nil {
				heads[i] = h
			}
			return nil
		})
	}
	_ = g.Wait()
	return slices.DeleteFunc(heads, func(h *Head) bool { return h == nil })
}
