package slatedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// CloneOptions say what [Admin.Clone] makes.
type CloneOptions struct {
	// ToRoot is the path of the clone, in the same store.
	ToRoot string
	// Checkpoint is the id or name of a checkpoint whose state to clone; ""
	// makes one of this moment, with all rows in the WAL.
	Checkpoint string
}

// Cloned is what [Admin.Clone] has made.
type Cloned struct {
	ManifestID uint64 `json:"manifest_id"` // of the clone
	Tables     int    `json:"tables"`      // borrowed
	WALObjects int    `json:"wal_objects"` // copied
	// Pins are the checkpoints without expiry that hold the tables in the
	// databases they are borrowed from, by path. They are to be deleted when
	// the clone is.
	Pins map[string]uuid.UUID `json:"pins"`
}

// Clone makes a database that borrows all its tables from this one and goes its
// own way from there. It costs two manifests and the WAL tail, and a checkpoint
// without expiry in every database it borrows from: their tables stay for as
// long as the clone needs them. Unlike SlateDB's own clones of a live database
// it has the rows that are only in the WAL.
//
// An attempt that was interrupted leaves a clone under construction, which
// nobody can read; Clone of the same two databases finishes it. Readers of 0.14
// and earlier cannot read clones, writers of 0.12 and 0.13 damage or refuse some.
func (a *Admin) Clone(ctx context.Context, o CloneOptions) (Cloned, error) {
	if strings.Trim(o.ToRoot, "/") == strings.Trim(a.Root, "/") {
		return Cloned{}, fmt.Errorf("a clone of %s at its own place: %w", named(a.Root), fs.ErrInvalid)
	}
	child, err := Latest(ctx, a.Store, o.ToRoot)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Cloned{}, err
	default:
		return a.resumeClone(ctx, o, child)
	}
	source, release, err := a.holdSource(ctx, o.Checkpoint, "quarry clone to "+named(o.ToRoot))
	if err != nil {
		return Cloned{}, err
	}
	c, err := a.beginClone(ctx, o, source)
	return c, errors.Join(err, release())
}

// beginClone puts manifest 1 of the clone, not initialized, and goes on.
func (a *Admin) beginClone(ctx context.Context, o CloneOptions, source *Head) (Cloned, error) {
	at, err := a.pinning(ctx, source.ID)
	if err != nil {
		return Cloned{}, err
	}
	m := source.Manifest.Clone()
	m.Initialized, m.Checkpoints, m.WALStoreMarked = false, nil, false
	m.ExternalDBs = borrowed(a.Root, at, m)
	if mark, err := Boundary(ctx, a.Store, o.ToRoot); err != nil {
		return Cloned{}, err
	} else if mark > 0 {
		return Cloned{}, &ObjectError{Key: BoundaryKey(o.ToRoot), Err: fmt.Errorf("%w: what is left of a deleted database would make every open of the clone spin; remove it first", ErrBoundaryAhead)}
	}
	child, err := putManifest(ctx, a.Store, o.ToRoot, 1, m, patience)
	if errors.Is(err, fs.ErrExist) {
		return Cloned{}, &ObjectError{Key: ManifestKey(o.ToRoot, 1), Err: fmt.Errorf("%w: %w", ErrTaken, err)}
	}
	if err != nil {
		return Cloned{}, err
	}
	return a.finishClone(ctx, o, child, source)
}

// pinning returns the checkpoint that pins manifest id.
func (a *Admin) pinning(ctx context.Context, id uint64) (uuid.UUID, error) {
	h, err := Latest(ctx, a.Store, a.Root)
	if err != nil {
		return uuid.Nil, err
	}
	for _, c := range h.Manifest.Checkpoints {
		if c.ManifestID == id && !c.Expired(a.now()) {
			return c.ID, nil
		}
	}
	return uuid.Nil, fmt.Errorf("a checkpoint of %s that pins manifest %d: %w", named(a.Root), id, fs.ErrNotExist)
}

// borrowed are the external databases of a clone of the database at root: those
// it borrows from itself, each with a pin of its own, and itself.
func borrowed(root string, source uuid.UUID, m *manifest.Manifest) []manifest.ExternalDB {
	var all []manifest.ExternalDB
	theirs := map[ulid.ULID]bool{}
	for _, e := range m.ExternalDBs {
		from := e.SourceCheckpoint
		if e.FinalCheckpoint != nil {
			from = *e.FinalCheckpoint
		}
		pin := uuid.New()
		all = append(all, manifest.ExternalDB{Path: e.Path, SourceCheckpoint: from, FinalCheckpoint: &pin, Tables: e.Tables})
		for _, id := range e.Tables {
			theirs[id] = true
		}
	}
	var own []ulid.ULID
	m.Tables(func(t *manifest.Table) {
		if !theirs[t.ID] {
			own = append(own, t.ID)
		}
	})
	slices.SortFunc(own, ulid.ULID.Compare)
	pin := uuid.New()
	return append(all, manifest.ExternalDB{
		Path: strings.Trim(root, "/"), SourceCheckpoint: source, FinalCheckpoint: &pin, Tables: slices.Compact(own),
	})
}

// resumeClone finishes a clone of this database that an earlier attempt began.
func (a *Admin) resumeClone(ctx context.Context, o CloneOptions, child *Head) (Cloned, error) {
	i := slices.IndexFunc(child.Manifest.ExternalDBs, func(e manifest.ExternalDB) bool { return path.Clean(e.Path) == path.Clean(strings.Trim(a.Root, "/")) })
	if child.Manifest.Initialized || child.ID != 1 || i < 0 {
		return Cloned{}, &ObjectError{Key: ManifestKey(o.ToRoot, child.ID), Err: fmt.Errorf("%w: %w; clone to an empty place", ErrTaken, fs.ErrExist)}
	}
	e := child.Manifest.ExternalDBs[i]
	h, err := Latest(ctx, a.Store, a.Root)
	if err != nil {
		return Cloned{}, err
	}
	// The pin, when it is there already; else what was cloned from, when it
	// still holds.
	at := -1
	if e.FinalCheckpoint != nil {
		at = h.Manifest.Checkpoint(*e.FinalCheckpoint)
	}
	if at < 0 {
		at = h.Manifest.Checkpoint(e.SourceCheckpoint)
	}
	if at < 0 || h.Manifest.Checkpoints[at].Expired(a.now()) {
		return Cloned{}, &ObjectError{Key: ManifestKey(o.ToRoot, 1), Err: fmt.Errorf("%w: a clone that was begun, and the checkpoint that held its source is gone; remove it, or choose another place", ErrTaken)}
	}
	source, err := At(ctx, a.Store, a.Root, h.Manifest.Checkpoints[at].ManifestID)
	if err != nil {
		return Cloned{}, err
	}
	return a.finishClone(ctx, o, child, source)
}

// finishClone pins what is borrowed, copies the WAL and makes the clone one
// that can be opened.
func (a *Admin) finishClone(ctx context.Context, o CloneOptions, child, source *Head) (Cloned, error) {
	done := Cloned{Pins: map[string]uuid.UUID{}}
	for _, e := range child.Manifest.ExternalDBs {
		if err := a.pin(ctx, o, e); err != nil {
			return done, fmt.Errorf("pin the tables of %s: %w", named(e.Path), err)
		}
		done.Pins[e.Path] = *e.FinalCheckpoint
		done.Tables += len(e.Tables)
	}
	n, err := a.cloneWAL(ctx, o.ToRoot, source)
	if err != nil {
		return done, err
	}
	done.WALObjects = n
	m := child.Manifest.Clone()
	m.Initialized = true
	ready, err := putManifest(ctx, a.Store, o.ToRoot, child.ID+1, m, patience)
	if err != nil {
		return done, err
	}
	done.ManifestID = ready.ID
	return done, nil
}

// pin puts the checkpoint that holds what the clone borrows into the database
// it borrows from.
func (a *Admin) pin(ctx context.Context, o CloneOptions, e manifest.ExternalDB) error {
	if e.FinalCheckpoint == nil {
		return fmt.Errorf("manifest 1 of %s names no checkpoint for it: %w", named(o.ToRoot), fs.ErrInvalid)
	}
	root := path.Clean(e.Path)
	if root == "." {
		root = ""
	}
	_, err := commit(ctx, a.Store, root, nil, func(h *Head, m *manifest.Manifest) error {
		if m.UnknownFields {
			return &ObjectError{Key: ManifestKey(root, h.ID), Err: fmt.Errorf("fields that this release of quarry does not know: %w", manifest.ErrUnwritable)}
		}
		if m.Checkpoint(*e.FinalCheckpoint) >= 0 {
			return errNoChange
		}
		i := m.Checkpoint(e.SourceCheckpoint)
		if i < 0 {
			return fmt.Errorf("checkpoint %s in manifest %d: %w", e.SourceCheckpoint, h.ID, fs.ErrNotExist)
		}
		m.Checkpoints = append(m.Checkpoints, manifest.Checkpoint{
			ID: *e.FinalCheckpoint, ManifestID: m.Checkpoints[i].ManifestID, Create: a.second(),
		})
		return nil
	})
	return err
}

// cloneWAL copies the WAL tail of the source, and makes an object at the mark
// of its tables, which shows where the WAL of the clone is.
func (a *Admin) cloneWAL(ctx context.Context, toRoot string, source *Head) (int, error) {
	from, m := a.walStore(), source.Manifest
	ids, err := walIDs(ctx, from, a.Root, m, true)
	if err == nil {
		err = checkPinned(ctx, from, a.Root, m, ids)
	}
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		raw, err := from.Get(ctx, WALKey(a.Root, id))
		if err != nil {
			return 0, &ObjectError{Key: WALKey(a.Root, id), Err: missing(err)}
		}
		if err := a.putSame(ctx, WALKey(toRoot, id), raw); err != nil {
			return 0, err
		}
	}
	if m.ReplayAfterWAL == 0 {
		return len(ids), nil
	}
	mark, err := wal.Encode(nil, sst.None, [16]byte{})
	if err != nil {
		return 0, err
	}
	return len(ids), a.putSame(ctx, WALKey(toRoot, m.ReplayAfterWAL), mark)
}

// putSame creates an object, or finds it there with the same bytes.
func (a *Admin) putSame(ctx context.Context, key string, raw []byte) error {
	err := putNew(ctx, a.Store, key, raw)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, again := a.Store.Get(ctx, key)
	if again != nil {
		return &ObjectError{Key: key, Err: again}
	}
	if !bytes.Equal(there, raw) {
		return &ObjectError{Key: key, Err: fmt.Errorf("%w: another object than the clone's: %w", ErrTaken, fs.ErrExist)}
	}
	return nil
}
