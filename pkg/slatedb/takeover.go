package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// takeOver claims an epoch, fences the WAL and reads it.
func (w *Writer) takeOver(ctx context.Context) error {
	h, err := w.find(ctx)
	if err != nil {
		return err
	}
	// Before anything is written: the end of the WAL, and that it has no
	// hole. Into a hole a fence would go, and the rows behind it be lost.
	if err := w.mayWrite(h); err != nil {
		return err
	}
	last, err := walEnd(ctx, w.wal, w.root, h.Manifest, w.o.WALStore != nil)
	if err != nil {
		return err
	}
	if err := w.mark(ctx, h, last); err != nil {
		return err
	}
	h, err = commitWithin(ctx, w.store, w.root, h, w.o.Patience, func(h *Head, m *manifest.Manifest) error {
		m.WriterEpoch++
		w.epoch = m.WriterEpoch
		if w.o.Tidy != nil {
			m.CompactorEpoch++
			w.compactor = m.CompactorEpoch
		}
		return w.mayWrite(h)
	})
	if err != nil {
		return err
	}
	fence, err := w.fence(ctx, h)
	if err != nil {
		return err
	}
	// The one before us may have flushed after we looked and before our
	// claim; after it nobody has, and nobody has claimed after us.
	if h, err = w.still(ctx); err != nil {
		return err
	}
	var rows memory
	rows, last, err = replay(ctx, w.wal, w.root, h.Manifest, false)
	if err != nil {
		return err
	}
	if last != fence {
		return outrun(ctx, w.store, w.wal, w.root, last, w.epoch)
	}
	m := h.Manifest
	w.lastSeq, w.tick, w.newest = m.LastL0Seq, m.LastL0ClockTick, newestL0(m)
	for i := range rows {
		r := &rows[i]
		w.mem.add(r)
		w.lastSeq = max(w.lastSeq, r.Seq)
		if r.Flags&sst.HasCreate != 0 {
			w.tick = max(w.tick, r.CreateTS)
		}
	}
	w.mem.lastSeq = w.lastSeq
	w.mem.lastWAL = fence
	w.nextWAL = fence + 1
	w.adopt(h)
	return nil
}

// find reads the newest manifest, or makes the first.
func (w *Writer) find(ctx context.Context) (*Head, error) {
	h, err := Latest(ctx, w.store, w.root)
	if !errors.Is(err, fs.ErrNotExist) || w.o.Existing {
		return h, err
	}
	// What an earlier database left behind would meet the new one later: a
	// boundary makes every open spin, a WAL object stops its writer.
	boundary, err := Boundary(ctx, w.store, w.root)
	if err != nil {
		return nil, err
	}
	// Unless another opener has just made the database: then it is that one's.
	made := func() (*Head, bool) {
		h, err := Latest(ctx, w.store, w.root)
		return h, err == nil
	}
	if boundary > 0 {
		if h, ok := made(); ok {
			return h, nil
		}
		return nil, &ObjectError{Key: BoundaryKey(w.root), Err: fmt.Errorf("%w: there is no manifest; the boundary of a deleted database is left, remove it first", ErrBoundaryAhead)}
	}
	left, err := listNumbered(ctx, w.wal, below(w.root, "wal/"), "", func(key string) (uint64, bool) { return ParseWALKey(w.root, key) })
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		if h, ok := made(); ok {
			return h, nil
		}
		return nil, &ObjectError{Key: WALKey(w.root, left[0].id), Err: errLeftover}
	}
	m := manifest.New()
	m.WALStoreMarked = w.o.WALStore != nil
	h, err = putManifest(ctx, w.store, w.root, 1, m, w.o.Patience)
	if errors.Is(err, fs.ErrExist) {
		return Latest(ctx, w.store, w.root)
	}
	return h, err
}

var errLeftover = errors.New("there is no database, but a WAL object of an earlier one, which would stop the writer of a new one; remove it, or choose another root")

// mayWrite refuses what this writer cannot continue.
func (w *Writer) mayWrite(h *Head) error {
	if err := writable(h, w.o.WALStore != nil); err != nil {
		return err
	}
	if m := h.Manifest; len(m.Segments) > 0 || m.ExtractorName != "" {
		return &ObjectError{Key: ManifestKey(w.root, h.ID), Err: fmt.Errorf("%w by %q: only its own application can write it", ErrSegmented, m.ExtractorName)}
	}
	return nil
}

// mark puts an empty object at the id that a copy or clone begins after. In
// other databases it is there and every collector keeps it. From our claim on
// nothing else tells that the WAL is here and not in another store.
func (w *Writer) mark(ctx context.Context, h *Head, last uint64) error {
	if last == 0 || last > h.Manifest.ReplayAfterWAL {
		return nil
	}
	key := WALKey(w.root, last)
	_, _, err := w.wal.Stat(ctx, key)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := sst.EncodeWAL(nil, sst.None, putID())
	if err != nil {
		return err
	}
	if err := putWithin(ctx, w.wal, key, data, w.o.Patience); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// fence takes the next WAL id, so that whoever wrote before us cannot. What he
// has put meanwhile is part of the database.
func (w *Writer) fence(ctx context.Context, h *Head) (uint64, error) {
	last, err := walEnd(ctx, w.wal, w.root, h.Manifest, w.o.WALStore != nil)
	if err != nil {
		return 0, err
	}
	for {
		last++
		data, err := sst.EncodeWAL(nil, sst.None, putID())
		if err != nil {
			return 0, err
		}
		err = putWithin(ctx, w.wal, WALKey(w.root, last), data, w.o.Patience)
		if err == nil {
			return last, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return 0, err
		}
		if _, err := w.still(ctx); err != nil {
			return 0, err
		}
	}
}

// still reads the newest manifest and checks that the epoch is ours.
func (w *Writer) still(ctx context.Context) (*Head, error) {
	h, err := aboveBoundary(ctx, w.store, w.root, nil)
	if err != nil {
		return nil, err
	}
	if h.Manifest.WriterEpoch != w.epoch {
		return nil, deposed(ctx, w.store, h, w.epoch)
	}
	return h, nil
}

// Still proves that nobody has claimed the database since this writer did, up to
// the moment of the call: what was decided from its rows before was decided from
// the newest ones. A write proves the same; this is for who has nothing to write.
// The error wraps [ErrFenced] when somebody has, and the writer is ended then.
// Anybody may call it at any time; it costs some three requests.
func (w *Writer) Still(ctx context.Context) error {
	if err := w.Status().Err; err != nil {
		return err
	}
	_, err := w.still(ctx)
	if err != nil && final(err) {
		w.die(err)
	}
	return err
}

// newestL0 returns the newest table id that the writer of m has given out.
func newestL0(m *manifest.Manifest) *ulid.ULID {
	newest := m.LastCompactedL0
	for i := range m.L0 {
		for _, id := range []*ulid.ULID{&m.L0[i].ID, &m.L0[i].ViewID} {
			if newest == nil || id.Compare(*newest) > 0 {
				newest = id
			}
		}
	}
	return newest
}
