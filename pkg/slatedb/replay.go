package slatedb

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// atOnce bounds the requests in flight for one call.
const atOnce = 8

// walIDs lists the WAL objects after m's tables. For a checkpoint they end
// where the manifest ends, else where the listing does.
func walIDs(ctx context.Context, s Store, root string, m *manifest.Manifest, checkpoint bool) ([]uint64, error) {
	var ids []uint64
	prefix := below(root, "wal/")
	past := errors.New("past the checkpoint")
	err := s.Walk(ctx, prefix, WALKey(root, m.ReplayAfterWAL), func(key string, _ int64, _ time.Time) error {
		id, ok := ParseWALKey(root, key)
		switch {
		case !ok: // SlateDB passes over it too
		case checkpoint && id > m.WALLastSeen:
			return past
		case id > m.ReplayAfterWAL:
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil && !errors.Is(err, past) {
		return nil, &ObjectError{Key: prefix, Err: err}
	}
	return ids, nil
}

// checkWAL refuses ids with a gap, or that end before the last one that the
// manifest knows.
func checkWAL(root string, m *manifest.Manifest, ids []uint64) error {
	err := wal.Check(m.ReplayAfterWAL, m.WALLastSeen, ids)
	if h, ok := errors.AsType[*wal.Hole](err); ok {
		return &ObjectError{Key: WALKey(root, h.ID), Err: err}
	}
	return err
}

// checkTail is checkWAL for a manifest whose WAL has no end yet. Writers up to
// 0.14 count WAL objects that they hold in memory, so after a crash their
// manifest, which is of version 1, may know more ids than there are; nothing of
// those was acknowledged.
func checkTail(root string, m *manifest.Manifest, ids []uint64) error {
	err := checkWAL(root, m, ids)
	if unwritten(err, m, ids) {
		return nil
	}
	return err
}

// checkPinned is checkWAL for the manifest of a checkpoint, whose ids end where
// it ends. One that such a writer left ahead of its WAL is whole, too, as long as
// nobody has gone on: whoever does takes the ids that were claimed first.
func checkPinned(ctx context.Context, s Store, root string, m *manifest.Manifest, ids []uint64) error {
	err := checkWAL(root, m, ids)
	if !unwritten(err, m, ids) {
		return err
	}
	all, listed := walIDs(ctx, s, root, m, false)
	if listed != nil {
		return listed
	}
	if len(all) > len(ids) {
		return err
	}
	return nil
}

// unwritten reports whether err says no more than that the last ids which m
// claims are not there, and m may claim ids that were never put. A last object
// that was lost looks the same; the real cores open either without a word.
func unwritten(err error, m *manifest.Manifest, ids []uint64) bool {
	h, ok := errors.AsType[*wal.Hole](err)
	return ok && m.Version == manifest.V1 && !m.WALStoreMarked && (len(ids) == 0 || h.ID > ids[len(ids)-1])
}

// TailHole returns the id that is missing among ids, the WAL objects that are
// there after the tables of m, in ascending order. Ids at the end that a manifest
// of version 1 claims are none: writers up to 0.15 claim them before they put
// them, and may crash between.
func TailHole(m *manifest.Manifest, ids []uint64) (*wal.Hole, bool) {
	err := wal.Check(m.ReplayAfterWAL, m.WALLastSeen, ids)
	if unwritten(err, m, ids) {
		return nil, false
	}
	return errors.AsType[*wal.Hole](err)
}

// replay reads the rows that are in the WAL and not in tables, and the last id.
func replay(ctx context.Context, s Store, root string, m *manifest.Manifest, checkpoint bool) (memory, uint64, error) {
	ids, err := walIDs(ctx, s, root, m, checkpoint)
	if err != nil {
		return nil, 0, err
	}
	if checkpoint {
		err = checkPinned(ctx, s, root, m, ids)
	} else {
		err = checkTail(root, m, ids)
	}
	if err != nil {
		return nil, 0, err
	}
	if len(ids) == 0 {
		return nil, m.ReplayAfterWAL, nil
	}
	objects := make([]wal.Object, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, id := range ids {
		g.Go(func() error {
			var err error
			objects[i], err = readWAL(gctx, s, WALKey(root, id))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	n := 0
	for i := range objects {
		n += len(objects[i].Rows)
	}
	rows := make(memory, 0, n)
	for i := range objects {
		for _, row := range objects[i].Rows {
			if row.Seq > m.LastL0Seq {
				rows = append(rows, row)
			}
		}
	}
	rows.sort()
	return rows, ids[len(ids)-1], nil
}

func readWAL(ctx context.Context, s Store, key string) (wal.Object, error) {
	raw, err := s.Get(ctx, key)
	if err != nil {
		return wal.Object{}, &ObjectError{Key: key, Err: missing(err)}
	}
	o, err := wal.Decode(raw)
	if err != nil {
		return wal.Object{}, &ObjectError{Key: key, Err: err}
	}
	return o, nil
}
