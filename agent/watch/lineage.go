package watch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// inherit looks whether a database that is seen for the first time is a copy:
// then its positions are those of what it was copied from, as long as nobody
// writes to it. Only a record beside it says so, for this very manifest 1. When
// that cannot be read now it is asked for again; one that cannot be understood
// is none, and the database is its own. since is when its root was found.
func (w *Watcher) inherit(ctx context.Context, r *record, since time.Time) error {
	r.Lineage, r.LineageEpoch = "", 0
	if r.Layout != layoutDatabase {
		return nil
	}
	if some, err := w.mayBeCopy(ctx, r, since); err != nil || !some {
		return err
	}
	raw, err := w.tend.Get(ctx, slatedb.ManifestKey(r.Root, 1))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was collected: nobody can say any more
	}
	if err != nil {
		return w.unlessForbidden(err)
	}
	m, err := manifest.Decode(raw)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(raw)
	text := hex.EncodeToString(sum[:])
	key := catalog.LineageKey(r.Root, text)
	if raw, err = w.tend.Get(ctx, key); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return w.unlessForbidden(err)
	}
	l, err := catalog.DecodeLineage(raw)
	if err == nil && (l.Root != r.Root || l.ManifestSHA256 != text) {
		err = fmt.Errorf("it is of %s, manifest %s: %w", l.Root, l.ManifestSHA256, catalog.ErrInvalid)
	}
	if err != nil {
		w.log.Warn("a record of where a copy came from cannot be understood", "key", key, "error", err)
		return nil
	}
	r.Lineage, r.LineageEpoch = l.Of(), m.WriterEpoch
	return nil
}

// mayBeCopy reports whether there is any record of a copy at the root. Of all
// databases that are found at once they are listed once: a record is there
// before its copy is a database.
func (w *Watcher) mayBeCopy(ctx context.Context, r *record, since time.Time) (bool, error) {
	if r.ID == 1 {
		return true, nil // it may have been made since; asking costs as little
	}
	// One lists for all; a lock would be held while the store answers.
	select {
	case w.copies.turn <- struct{}{}:
		defer func() { <-w.copies.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if w.copies.roots == nil || w.copies.at.Before(since) {
		at, roots := time.Now(), map[string]bool{}
		err := w.tend.Walk(ctx, catalog.LineagePrefix, "", func(key string, _ int64, _ time.Time) error {
			escaped, _, _ := strings.Cut(strings.TrimPrefix(key, catalog.LineagePrefix), "/")
			if root, err := url.PathUnescape(escaped); err == nil {
				roots[root] = true
			}
			return nil
		})
		if err != nil {
			return false, w.unlessForbidden(err)
		}
		w.copies.at, w.copies.roots = at, roots
	}
	return w.copies.roots[r.Root], nil
}

// copies are the roots beside which a record of a copy was listed.
type copies struct {
	turn  chan struct{} // of size 1: whose it is
	at    time.Time
	roots map[string]bool
}

// unlessForbidden is err, unless it is this object's alone: who may not read it
// goes without it.
func (w *Watcher) unlessForbidden(err error) error {
	if errors.Is(err, fs.ErrPermission) && !bucketWide(err) {
		return nil
	}
	return err
}

// lineage says with which databases the positions may be compared. A copy that
// somebody has opened as its writer goes its own way: what it contains from then
// on the others have never seen.
func (r *identity) lineage(writerEpoch uint64) string {
	if r.Lineage != "" && writerEpoch == r.LineageEpoch {
		return r.Lineage
	}
	return r.Incarnation
}
