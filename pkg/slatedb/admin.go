package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// Admin changes a database that others write: it makes, prolongs and removes
// checkpoints, fences, closes for deletion, clones, copies, collects and
// repairs. It patches the newest manifest and nothing else of it, so live
// writers, compactors, collectors and readers of every release go on unless the
// call is there to stop them. It refuses a database that is closed for deletion,
// under construction, of an unknown version or with unknown fields, and one
// whose boundary makes others spin; [Refused] knows these errors. Calls may run
// at once, here and in other processes.
type Admin struct {
	// Store holds the database.
	Store AdminStore
	// Root is the database's path in the store.
	Root string
	// WALStore holds the WAL when it is not in Store.
	WALStore AdminStore
	// Now is the clock for creation and expiry; nil means time.Now.
	Now func() time.Time
}

func (a *Admin) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

// second is now in the whole seconds that manifests keep.
func (a *Admin) second() time.Time { return a.now().Truncate(time.Second).UTC() }

func (a *Admin) walStore() AdminStore {
	if a.WALStore != nil {
		return a.WALStore
	}
	return a.Store
}

// walEnd returns the last WAL id. A clone that nobody has opened yet begins
// without the objects of its parent that are in tables: it has none at all, and
// nothing is wrong with that.
func (a *Admin) walEnd(ctx context.Context, m *manifest.Manifest) (uint64, error) {
	last, err := walEnd(ctx, a.walStore(), a.Root, m, a.WALStore != nil)
	if errors.Is(err, ErrWALUnmarked) && begun(m) {
		return m.ReplayAfterWAL, nil
	}
	return last, err
}

// begun: a clone that needs nothing of any WAL.
func begun(m *manifest.Manifest) bool {
	return len(m.ExternalDBs) > 0 && m.WALLastSeen <= m.ReplayAfterWAL
}

// CheckpointOptions say what [Admin.CreateCheckpoint] makes.
type CheckpointOptions struct {
	// Name says who holds the checkpoint and why; storage has no other place
	// for it. Names need not be unique. "" makes one without a name, which
	// nobody can tell from a reader's.
	Name string
	// Lifetime is how long it lives; 0 means until it is deleted. Parts of a
	// second count as a whole one.
	Lifetime time.Duration
	// Source is the id of a checkpoint whose state to pin; the zero id means
	// the newest state, with all rows that are in the WAL.
	Source uuid.UUID
	// Head is the manifest that must still be the newest; nil: any. When it
	// is not, the error wraps [ErrBusy].
	Head *Head
}

// CreateCheckpoint pins the state of this moment, or that of another
// checkpoint: every object of it stays until the checkpoint expires or is
// deleted. It returns the checkpoint and the id of the manifest that was
// written. When the error wraps [ErrUncertain] the checkpoint may exist; its
// name tells.
//
// The state has every row that was durable when CreateCheckpoint was called.
// SlateDB's own checkpoints from outside have those of the tables alone: a
// checkpoint's WAL ends at wal_id_last_seen, which a writer leaves behind for
// as long as it does not flush. So the same manifest sets it to the last WAL
// object there is; the writer will set it again, to no less. Writers that write
// manifests of version 1 can leave it ahead of that when they crash: a checkpoint
// with it would have a hole, until the next writer's rows filled it.
func (a *Admin) CreateCheckpoint(ctx context.Context, o CheckpointOptions) (manifest.Checkpoint, uint64, error) {
	if o.Lifetime < 0 {
		return manifest.Checkpoint{}, 0, fmt.Errorf("a lifetime of %v: %w", o.Lifetime, fs.ErrInvalid)
	}
	var made manifest.Checkpoint
	h, err := commit(ctx, a.Store, a.Root, o.Head, func(h *Head, m *manifest.Manifest) error {
		if o.Head != nil && h.ID != o.Head.ID {
			return fmt.Errorf("manifest %d is not the newest any more, %d is: %w", o.Head.ID, h.ID, ErrBusy)
		}
		if err := writable(h, a.WALStore != nil); err != nil {
			return err
		}
		now := a.now()
		made = manifest.Checkpoint{
			ID: uuid.New(), ManifestID: h.ID + 1, Create: now.Truncate(time.Second).UTC(),
			Name: o.Name, Named: o.Name != "",
		}
		if o.Lifetime > 0 {
			made.Expire = expiry(now, o.Lifetime)
		}
		if o.Source != uuid.Nil {
			i := m.Checkpoint(o.Source)
			if i < 0 {
				return fmt.Errorf("checkpoint %s in manifest %d: %w", o.Source, h.ID, fs.ErrNotExist)
			}
			made.ManifestID = m.Checkpoints[i].ManifestID
		} else {
			last, err := a.walEnd(ctx, m)
			if err != nil {
				return err
			}
			// Also when it was more: see checkTail.
			m.WALLastSeen = last
		}
		m.Checkpoints = append(m.Checkpoints, made)
		return nil
	})
	if err != nil {
		return manifest.Checkpoint{}, 0, err
	}
	return made, h.ID, nil
}

// expiry is in whole seconds, rounded up.
func expiry(now time.Time, lifetime time.Duration) time.Time {
	return now.Add(lifetime + time.Second - 1).Truncate(time.Second).UTC()
}

// RefreshCheckpoint lets the checkpoint live for lifetime from now on, for ever
// when it is 0. It never shortens a life. One that is not there is an error
// that wraps [fs.ErrNotExist]: what it pinned may be gone.
func (a *Admin) RefreshCheckpoint(ctx context.Context, id uuid.UUID, lifetime time.Duration) (manifest.Checkpoint, uint64, error) {
	if lifetime < 0 {
		return manifest.Checkpoint{}, 0, fmt.Errorf("a lifetime of %v: %w", lifetime, fs.ErrInvalid)
	}
	var kept manifest.Checkpoint
	h, err := commit(ctx, a.Store, a.Root, nil, func(h *Head, m *manifest.Manifest) error {
		if err := writable(h, true); err != nil { // the WAL is not touched
			return err
		}
		i := m.Checkpoint(id)
		if i < 0 {
			return fmt.Errorf("checkpoint %s in manifest %d: %w", id, h.ID, fs.ErrNotExist)
		}
		c := &m.Checkpoints[i]
		kept = *c
		if c.Expire.IsZero() {
			return errNoChange
		}
		until := time.Time{}
		if lifetime > 0 {
			if until = expiry(a.now(), lifetime); !until.After(c.Expire) {
				return errNoChange
			}
		}
		c.Expire = until
		kept = *c
		return nil
	})
	if err != nil {
		return manifest.Checkpoint{}, 0, err
	}
	return kept, h.ID, nil
}

// DeleteCheckpoint removes the checkpoint from the newest manifest and returns
// the id of the manifest without it. Its objects go when a collector runs. One
// that is not there is an error that wraps [fs.ErrNotExist].
func (a *Admin) DeleteCheckpoint(ctx context.Context, id uuid.UUID) (uint64, error) {
	h, err := commit(ctx, a.Store, a.Root, nil, func(h *Head, m *manifest.Manifest) error {
		if err := writable(h, true); err != nil {
			return err
		}
		i := m.Checkpoint(id)
		if i < 0 {
			return fmt.Errorf("checkpoint %s in manifest %d: %w", id, h.ID, fs.ErrNotExist)
		}
		m.Checkpoints = append(m.Checkpoints[:i], m.Checkpoints[i+1:]...)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return h.ID, nil
}

// Checkpoints lists the checkpoints of the newest manifest, in its order.
func (a *Admin) Checkpoints(ctx context.Context) ([]CheckpointRow, error) {
	h, err := Latest(ctx, a.Store, a.Root)
	if err != nil {
		return nil, err
	}
	return h.Checkpoints(a.now()), nil
}

// Refused reports whether err says that a database must not be changed as it
// is, or as was asked: closed for deletion, under construction, segmented, of an
// unknown version or with unknown fields, its WAL elsewhere or with a hole, its
// boundary ahead, perhaps written by others, not to be understood in full, there
// already, or not there with something left of an earlier one.
func Refused(err error) bool {
	_, pill := errors.AsType[*manifest.Pill](err)
	_, version := errors.AsType[*manifest.VersionError](err)
	_, hole := errors.AsType[*wal.Hole](err)
	if pill || version || hole {
		return true
	}
	for _, e := range []error{
		manifest.ErrUnwritable, ErrUninitialized, ErrWALStore, ErrWALUnmarked, ErrBoundaryAhead, ErrSegmented,
		ErrUnproven, ErrPilled, ErrNotPilled, ErrTaken, ErrMoving, ErrMayBeIdle, errLeftover,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
