package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// FenceOptions say what [Admin.Fence] does besides.
type FenceOptions struct {
	// Checkpoint is the name of a checkpoint without expiry that pins every
	// row the fenced writer has acknowledged; "" makes none.
	Checkpoint string
}

// Fence is what [Admin.Fence] has done.
type Fence struct {
	ManifestID     uint64 `json:"manifest_id"` // the newest that was written
	WriterEpoch    uint64 `json:"writer_epoch"`
	CompactorEpoch uint64 `json:"compactor_epoch"`
	// WALID is the object without rows that stops the writer's next put.
	WALID uint64 `json:"wal_id"`
	// Checkpoint is the one that was asked for.
	Checkpoint *uuid.UUID `json:"checkpoint,omitempty"`
}

// Fence stops whoever writes the database: one manifest with both epochs
// raised, then a WAL object without rows at the next id. The writer's next put
// fails, its compactor when it next looks at the manifest; nothing that it
// acknowledged is lost. Managed and other readers go on, and whoever opens the
// database later can. Segmented databases can be fenced like others.
//
// An error that wraps [ErrFenced] means that somebody else has opened the
// database meanwhile: begin again.
func (a *Admin) Fence(ctx context.Context, o FenceOptions) (Fence, error) {
	var id uuid.UUID
	h, err := commit(ctx, a.Store, a.Root, nil, func(h *Head, m *manifest.Manifest) error {
		if err := writable(h, a.WALStore != nil); err != nil {
			return err
		}
		last, err := a.walEnd(ctx, m)
		if err != nil {
			return err
		}
		m.WriterEpoch++
		m.CompactorEpoch++
		if o.Checkpoint != "" {
			id = uuid.New()
			m.WALLastSeen = last
			m.Checkpoints = append(m.Checkpoints, manifest.Checkpoint{
				ID: id, ManifestID: h.ID + 1, Create: a.second(), Name: o.Checkpoint, Named: true,
			})
		}
		return nil
	})
	if err != nil {
		return Fence{}, err
	}
	f := Fence{ManifestID: h.ID, WriterEpoch: h.Manifest.WriterEpoch, CompactorEpoch: h.Manifest.CompactorEpoch}
	if f.WALID, err = a.blockWAL(ctx, h); err != nil {
		return f, err
	}
	if o.Checkpoint == "" {
		return f, nil
	}
	f.Checkpoint = &id
	// What the writer put between our manifest and our WAL object it has
	// acknowledged: the checkpoint moves on to a manifest that has it.
	h, err = commit(ctx, a.Store, a.Root, nil, func(h *Head, m *manifest.Manifest) error {
		if m.WriterEpoch != f.WriterEpoch {
			return deposed(ctx, a.Store, h, f.WriterEpoch)
		}
		i := m.Checkpoint(id)
		if i < 0 {
			return fmt.Errorf("checkpoint %s, which was just made, in manifest %d: %w", id, h.ID, fs.ErrNotExist)
		}
		m.WALLastSeen = f.WALID
		m.Checkpoints[i].ManifestID = h.ID + 1
		return nil
	})
	if err != nil {
		return f, err
	}
	f.ManifestID = h.ID
	return f, nil
}

// blockWAL puts an object without rows at the next WAL id, so that the writer
// of an older epoch than that of h cannot. What he put meanwhile is part of
// the database.
func (a *Admin) blockWAL(ctx context.Context, h *Head) (uint64, error) {
	walStore := a.walStore()
	id, err := a.walEnd(ctx, h.Manifest)
	if err != nil {
		return 0, err
	}
	data, err := wal.Encode(nil, 0, putID())
	if err != nil {
		return 0, err
	}
	for {
		id++
		err := putNew(ctx, walStore, WALKey(a.Root, id), data)
		if err == nil {
			return id, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return 0, err
		}
		now, err := Latest(ctx, a.Store, a.Root)
		if err != nil {
			return 0, err
		}
		if now.Manifest.WriterEpoch != h.Manifest.WriterEpoch {
			return 0, deposed(ctx, a.Store, now, h.Manifest.WriterEpoch)
		}
	}
}
