package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

var (
	// ErrBoundaryAhead is wrapped when the collector's mark is not below the
	// newest manifest: every open of SlateDB 0.14 to 0.17 spins then, and
	// what we wrote would be taken for collected.
	ErrBoundaryAhead = errors.New("the collector's boundary is not below the newest manifest")
	// ErrSegmented is wrapped when a database has segments and the operation
	// would have to know how keys are divided among them.
	ErrSegmented = errors.New("the database is segmented")
	// ErrWALUnmarked is wrapped when WAL ids were given out and the store
	// has no WAL object at all: the WAL is elsewhere, and nothing says so.
	ErrWALUnmarked = errors.New("WAL ids were claimed and the store holds no WAL object: name the WAL's own store")
	// ErrBusy is wrapped when others changed the manifest again and again
	// before we could.
	ErrBusy = errors.New("others change the manifest faster than we can")
)

// attempts bounds how often a change is tried on ever newer manifests.
const attempts = 50

// change makes the next manifest of the one in h, whose lists it may change. An
// error ends the attempt; errNoChange ends it without one.
type change func(h *Head, m *manifest.Manifest) error

var errNoChange = errors.New("no change")

// commit patches the newest manifest: it reads it, lets fn change a copy and
// puts that as the next id, again and again until no other process was faster.
// It keeps the version and everything fn does not touch. h is the newest
// manifest when the caller has just read it, else nil. It returns the manifest
// that was written, or the newest when fn had nothing to change.
func commit(ctx context.Context, s WriteStore, root string, h *Head, fn change) (*Head, error) {
	return commitWithin(ctx, s, root, h, patience, fn)
}

// commitWithin is commit with the patience of each put.
func commitWithin(ctx context.Context, s WriteStore, root string, known *Head, patience time.Duration, fn change) (*Head, error) {
	for try := range attempts {
		h, err := aboveBoundary(ctx, s, root, known)
		if err != nil {
			return nil, err
		}
		m := h.Manifest.Clone()
		if err := fn(h, m); errors.Is(err, errNoChange) {
			return h, nil
		} else if err != nil {
			return nil, err
		}
		next, err := putManifest(ctx, s, root, h.ID+1, m, patience)
		if err == nil {
			return next, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		known = nil
		if try > 2 {
			select {
			case <-time.After(rand.N(20 * time.Millisecond)):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	return nil, fmt.Errorf("manifest of %s: %w", named(root), ErrBusy)
}

// aboveBoundary returns the newest manifest: h when that is still it as far as
// the boundary tells, else it is read, when h is nil in any case.
func aboveBoundary(ctx context.Context, s Store, root string, h *Head) (*Head, error) {
	for fresh := h == nil; ; fresh = true {
		if fresh {
			newest, err := Latest(ctx, s, root)
			if err != nil {
				return nil, err
			}
			if h != nil && newest.ID <= h.ID {
				return newest, underBoundary(ctx, s, root, newest)
			}
			h = newest
		}
		// Between the two reads others may have gone on, and a collector
		// after them: then there is a newer one.
		if err := underBoundary(ctx, s, root, h); err == nil || !errors.Is(err, ErrBoundaryAhead) {
			return h, err
		}
	}
}

// underBoundary refuses a manifest at or under the boundary.
func underBoundary(ctx context.Context, s Store, root string, h *Head) error {
	boundary, err := Boundary(ctx, s, root)
	if err != nil {
		return err
	}
	if boundary >= h.ID {
		return &ObjectError{Key: BoundaryKey(root), Err: fmt.Errorf("%w: it says %d, the newest is %d; see `verify`", ErrBoundaryAhead, boundary, h.ID)}
	}
	return nil
}

// putManifest creates manifest id. It fails with [fs.ErrExist] when the id is
// taken, and also when it was free only because a collector had removed it: we
// were so slow that the database has gone on without us, and what we have just
// made lies in the past. It stays there; nobody reads it.
func putManifest(ctx context.Context, s WriteStore, root string, id uint64, m *manifest.Manifest, patience time.Duration) (*Head, error) {
	raw, err := manifest.Encode(m)
	if err != nil {
		return nil, fmt.Errorf("manifest %d of %s: %w", id, named(root), err)
	}
	unique := putID()
	raw = append(raw, unique[:]...)
	key := ManifestKey(root, id)
	if err := putWithin(ctx, s, key, raw, patience); err != nil {
		return nil, err
	}
	boundary, err := Boundary(ctx, s, root)
	if err != nil {
		return nil, fmt.Errorf("manifest %d of %s: %w: %w", id, named(root), ErrUncertain, err)
	}
	if id <= boundary {
		return nil, fmt.Errorf("manifest %d of %s had been collected: %w", id, named(root), fs.ErrExist)
	}
	return headOf(root, id, raw)
}

// writable refuses what must not be changed from outside.
func writable(h *Head, walStore bool) error {
	m := h.Manifest
	var err error
	switch {
	case m.UnknownFields:
		err = fmt.Errorf("fields that this release of quarry does not know: %w", manifest.ErrUnwritable)
	case !m.Initialized:
		err = ErrUninitialized
	case m.WALStoreMarked && !walStore:
		err = fmt.Errorf("%w; name it (--wal)", ErrWALStore)
	}
	if err != nil {
		return &ObjectError{Key: ManifestKey(h.Root, h.ID), Err: err}
	}
	return nil
}

// walEnd returns the last WAL id after the tables of m: the id that its replay
// ends with. Ids with a gap are an error that holds a *wal.Hole, see checkTail.
// When ids were given out and there is no object of any, the WAL is likely
// elsewhere, whether its store was named or not.
func walEnd(ctx context.Context, s Store, root string, m *manifest.Manifest, named bool) (uint64, error) {
	ids, err := walIDs(ctx, s, root, m, false)
	if err != nil {
		return 0, err
	}
	if len(ids) > 0 {
		if err := checkTail(root, m, ids); err != nil {
			return 0, err
		}
		return ids[len(ids)-1], nil
	}
	if m.ReplayAfterWAL == 0 && (m.WALLastSeen == 0 || named) {
		return 0, checkTail(root, m, ids)
	}
	// None after the tables. That is how a clean close looks; but then the
	// last one is kept, by every collector there is.
	if _, _, err := s.Stat(ctx, WALKey(root, m.ReplayAfterWAL)); err == nil {
		return m.ReplayAfterWAL, checkTail(root, m, ids)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0, &ObjectError{Key: WALKey(root, m.ReplayAfterWAL), Err: err}
	}
	if born, err := bornWithout(ctx, s, root, m); err != nil {
		return 0, err
	} else if born {
		return m.ReplayAfterWAL, nil
	}
	return 0, &ObjectError{Key: below(root, "wal/"), Err: fmt.Errorf("%w; ids up to %d are in use", ErrWALUnmarked, max(m.WALLastSeen, m.ReplayAfterWAL))}
}

// bornWithout reports whether m is of a clone or a copy that nobody has opened
// for writing yet, all of whose rows are in tables: it begins with the ids of
// the database it was made from and has no WAL object of its own.
func bornWithout(ctx context.Context, s Store, root string, m *manifest.Manifest) (bool, error) {
	if m.WALLastSeen > m.ReplayAfterWAL {
		return false, nil
	}
	if len(m.ExternalDBs) > 0 {
		return true, nil
	}
	first, err := At(ctx, s, root, 1)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err != nil && first != nil: // collected, or no manifest
		return false, nil
	case err != nil:
		return false, err
	}
	return first.Manifest.ReplayAfterWAL == m.ReplayAfterWAL && first.Manifest.WriterEpoch == m.WriterEpoch, nil
}
