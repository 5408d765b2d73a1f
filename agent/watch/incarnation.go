package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// record is one object below .quarry/incarnations/: which incarnation was at a
// root, and the newest moment of its history that was seen when it was written.
//
// Objects are created and never overwritten. <n>.json is written when an
// incarnation is minted and stays for ever. While its history goes on an
// observation <n>.<mark>.json is written now and then, and after it the one
// before is removed: a restarted agent proves continuity from the newest. The
// folder is the root percent-encoded, not the slate's name, for a name comes
// and goes with a registration.
type record struct {
	Version int          `json:"version"` // 1
	Root    string       `json:"root"`
	Kind    catalog.Kind `json:"kind,omitempty"`
	At      time.Time    `json:"at"` // agent's clock, for people
	identity
}

// identity is what of a record is kept in memory for every root.
type identity struct {
	Incarnation string `json:"incarnation"`
	N           uint64 `json:"n"`
	Predecessor string `json:"predecessor,omitempty"`
	Layout      layout `json:"layout"`
	mark
	// Cluster is a snapshot repository's fingerprint.
	Cluster string `json:"cluster,omitempty"`
	// Position is a repository's newest LSN, a buffer's next sequence.
	Position uint64 `json:"position,omitempty"`
	// Lineage is that of the database that this one is a copy of, as long as its
	// writer epoch is LineageEpoch; empty: it is its own.
	Lineage      string `json:"lineage,omitempty"`
	LineageEpoch uint64 `json:"lineage_epoch,omitempty"`
}

// folder is where the records of a root are.
func folder(root string) string {
	return catalog.IncarnationsPrefix + url.PathEscape(root) + "/"
}

func mintedKey(root string, n uint64) string {
	return fmt.Sprintf("%s%d.json", folder(root), n)
}

// progress is what grows along one incarnation, for the names of observations.
func (r *identity) progress() uint64 {
	if r.Layout == layoutDatabase {
		return r.ID
	}
	return r.Position
}

func observedKey(r *record) string {
	return fmt.Sprintf("%s%d.%d.json", folder(r.Root), r.N, r.progress())
}

// remembered is what the names of a root's records say.
type remembered struct {
	newest      string // key of the newest record
	n, progress uint64
	observation bool // newest is an observation
}

// remember lists all records. It reads none of them: that is done when a root
// is looked at for the first time.
func (w *Watcher) remember(ctx context.Context) (map[string]remembered, error) {
	return w.rememberBelow(ctx, catalog.IncarnationsPrefix)
}

func (w *Watcher) rememberBelow(ctx context.Context, prefix string) (map[string]remembered, error) {
	all := map[string]remembered{}
	err := w.tend.Walk(ctx, prefix, "", func(key string, _ int64, _ time.Time) error {
		root, r, ok := parseRecordKey(key)
		if !ok {
			return nil
		}
		if was, some := all[root]; !some || was.n < r.n || was.n == r.n && was.progress <= r.progress && !was.observation || was.n == r.n && was.progress < r.progress {
			all[root] = r
		}
		return nil
	})
	return all, err
}

func parseRecordKey(key string) (root string, r remembered, ok bool) {
	escaped, name, ok := strings.Cut(strings.TrimPrefix(key, catalog.IncarnationsPrefix), "/")
	if !ok {
		return "", r, false
	}
	root, err := url.PathUnescape(escaped)
	name, isJSON := strings.CutSuffix(name, ".json")
	if err != nil || !isJSON || catalog.CheckName(root) != nil {
		return "", r, false
	}
	n, progress, observed := strings.Cut(name, ".")
	if r.n, err = strconv.ParseUint(n, 10, 64); err != nil || r.n == 0 {
		return "", r, false
	}
	if observed {
		if r.progress, err = strconv.ParseUint(progress, 10, 64); err != nil {
			return "", r, false
		}
	}
	r.newest, r.observation = key, observed
	return root, r, true
}

// newestRecord reads the newest record of a root. Another agent of the region
// may have written a newer observation since they were listed, and removed the
// one before: then they are listed again.
func (w *Watcher) newestRecord(ctx context.Context, root string, known remembered) (record, remembered, error) {
	for range 3 {
		r, err := w.readRecord(ctx, known.newest, root)
		if !errors.Is(err, fs.ErrNotExist) {
			return r, known, err
		}
		now, err := w.rememberBelow(ctx, folder(root))
		if err != nil {
			return record{}, known, err
		}
		w.mu.Lock()
		if _, some := now[root]; some {
			w.records[root] = now[root]
		} else {
			delete(w.records, root) // they were taken away
		}
		w.mu.Unlock()
		if _, some := now[root]; !some {
			return record{}, remembered{}, nil
		}
		known = now[root]
	}
	return record{}, known, fmt.Errorf("%s: listed as the newest record of %s, and not there: %w", known.newest, root, bucket.ErrUnavailable)
}

func (w *Watcher) readRecord(ctx context.Context, key, root string) (record, error) {
	raw, err := w.tend.Get(ctx, key)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w: %w", key, err, catalog.ErrInvalid)
	}
	if _, err := ulid.ParseStrict(r.Incarnation); err != nil || r.Version != 1 || r.Root != root || r.N == 0 {
		return r, fmt.Errorf("%s: version %d, incarnation %q, root %q: not a record of %s: %w", key, r.Version, r.Incarnation, r.Root, root, catalog.ErrInvalid)
	}
	return r, nil
}

// mint makes and records an incarnation as r.N of its root. When another agent
// was faster the error is [fs.ErrExist] and its record is returned: what is
// there now must be proven against that. kept is false when the bucket does
// not take the record; then the incarnation lasts as long as this process.
func (w *Watcher) mint(ctx context.Context, r record) (_ record, kept bool, err error) {
	r.Version, r.At, r.Incarnation = 1, time.Now().UTC(), ulid.Make().String()
	raw, err := json.Marshal(r)
	if err != nil {
		return r, false, err
	}
	key := mintedKey(r.Root, r.N)
	err = w.tend.putNew(ctx, key, raw)
	switch {
	case err == nil:
		return r, true, nil
	case errors.Is(err, fs.ErrExist):
		other, readErr := w.readRecord(ctx, key, r.Root)
		switch {
		case readErr == nil:
			return other, true, err
		case errors.Is(readErr, catalog.ErrInvalid):
			return record{identity: identity{Incarnation: illegible, N: r.N}}, true, err
		case bucketWide(readErr):
			return r, false, readErr
		}
		return r, false, nil // it may not be read: ours is kept in memory only
	case errors.Is(err, bucket.ErrUnavailable), errors.Is(err, bucket.ErrNoBucket), ctx.Err() != nil:
		return r, false, err
	}
	w.log.Debug("incarnation is not recorded", "root", r.Root, "err", err)
	return r, false, nil
}

// observe writes where the history has come to, and removes the observation
// before. It returns the new one's key.
func (w *Watcher) observe(ctx context.Context, r record, before string) (string, error) {
	r.Version, r.At = 1, time.Now().UTC()
	raw, err := json.Marshal(r)
	if err != nil {
		return before, err
	}
	key := observedKey(&r)
	if key == before {
		return before, nil
	}
	if err := w.tend.putNew(ctx, key, raw); err != nil && !errors.Is(err, fs.ErrExist) {
		return before, err
	}
	if before != "" {
		// Best effort: an old observation is passed over by number.
		if err := w.tend.delete(ctx, before); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.log.Debug("an old observation stays", "key", before, "err", err)
		}
	}
	return key, nil
}
