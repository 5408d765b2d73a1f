package slatedb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// flushWait is somebody who waits for rows to be in tables.
type flushWait struct {
	wal  uint64 // all up to this WAL object
	done chan error
}

// Flush moves all rows that were acknowledged before it was called to a table.
// Nothing needs it to be durable; the next open has less to replay, and readers
// without the WAL see the rows.
func (w *Writer) Flush(ctx context.Context) error {
	w.mu.Lock()
	closing := w.closing
	w.mu.Unlock()
	if closing {
		return ErrClosed
	}
	return w.flush(ctx)
}

func (w *Writer) flush(ctx context.Context) error {
	w.mu.Lock()
	if w.dead != nil {
		defer w.mu.Unlock()
		return w.dead
	}
	w.freeze()
	f := &flushWait{wal: w.mem.lastWAL, done: make(chan error, 1)}
	if w.head.Manifest.ReplayAfterWAL >= f.wal {
		w.mu.Unlock()
		return nil
	}
	w.waiting = append(w.waiting, f)
	w.mu.Unlock()
	poke(w.flushes)
	select {
	case err := <-f.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// full reports whether it is time for a table. The lock is held.
func (w *Writer) full() bool {
	covered := w.head.Manifest.ReplayAfterWAL
	if len(w.frozen) > 0 {
		covered = w.frozen[0].lastWAL
	}
	return w.mem.bytes >= w.o.FlushBytes || w.mem.lastWAL-min(covered, w.mem.lastWAL) >= uint64(w.o.FlushWAL)
}

// freeze sets the memtable aside for the next table. The lock is held.
func (w *Writer) freeze() {
	covered := w.head.Manifest.ReplayAfterWAL
	if len(w.frozen) > 0 {
		covered = w.frozen[0].lastWAL
	}
	if w.mem.lastWAL <= covered {
		return
	}
	fresh := newMemtable()
	fresh.lastSeq, fresh.lastWAL = w.mem.lastSeq, w.mem.lastWAL
	w.frozen = append([]*memtable{w.mem}, w.frozen...)
	w.mem = fresh
}

// upkeep makes tables and looks after the manifest for as long as the writer
// lives.
func (w *Writer) upkeep() {
	t := time.NewTicker(w.o.Poll)
	defer t.Stop()
	again := time.NewTimer(0) // after a flush that did not work
	defer again.Stop()
	pause := flushPause
	for {
		select {
		case <-w.flushes:
		case <-again.C:
		case <-t.C:
			w.look()
		case <-w.ctx.Done():
			return
		}
		for w.flushOldest() {
			pause = flushPause
		}
		if w.behind() {
			again.Reset(pause)
			pause = min(2*pause, time.Minute)
		}
	}
}

// flushPause is after what time a flush that did not work is tried again; the
// second time it is twice that.
const flushPause = 100 * time.Millisecond

// behind reports whether there is something to flush.
func (w *Writer) behind() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead == nil && len(w.frozen) > 0
}

// flushOldest makes a table of the oldest memtable that was set aside. It is
// false when there is none, or when it did not work.
func (w *Writer) flushOldest() bool {
	w.mu.Lock()
	if w.dead != nil || len(w.frozen) == 0 {
		w.mu.Unlock()
		return false
	}
	m := w.frozen[len(w.frozen)-1] // nobody else writes to it
	tick := w.tick
	w.mu.Unlock()

	h, err := w.publish(m, tick)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if final(err) {
			w.dieLocked(err)
		}
		// Otherwise the rows are still in the WAL and in memory, and it is
		// tried again. Who waits for it is told.
		w.stuck = err
		for _, f := range w.waiting {
			f.done <- err
		}
		w.waiting = nil
		w.room.Broadcast()
		return false
	}
	w.stuck = nil
	w.frozen = slices.Clone(w.frozen[:len(w.frozen)-1]) // snapshots keep the old list
	w.adopt(h)
	poke(w.untidy)
	if w.full() {
		w.freeze()
	}
	w.waiting = slices.DeleteFunc(w.waiting, func(f *flushWait) bool {
		if f.wal > m.lastWAL {
			return false
		}
		f.done <- nil
		return true
	})
	w.room.Broadcast()
	return true
}

// final reports whether err ends a writer: trying again changes nothing.
func final(err error) bool {
	return errors.Is(err, ErrFenced) || Refused(err)
}

// publish puts the rows of m into a table and the table into the manifest. The
// rows have been durable in the WAL for long.
func (w *Writer) publish(m *memtable, tick int64) (*Head, error) {
	// A table that could be put and not named in a manifest is named at the
	// next attempt.
	if m.table == nil {
		var err error
		if m.table, err = w.upload(m, tick); err != nil {
			return nil, err
		}
	}
	added := m.table
	// What we know may be old. Where collectors leave no boundary (before
	// 0.14) an id after an old one can be free again: look it up.
	return commitWithin(w.ctx, w.store, w.root, nil, w.o.Patience, func(h *Head, next *manifest.Manifest) error {
		if err := w.mine(h); err != nil {
			return err
		}
		if next.ReplayAfterWAL >= m.lastWAL {
			return errNoChange // an attempt without an answer had worked
		}
		// Ours are the tables in L0, the WAL and the times. What compactors,
		// collectors and readers did to the rest since we last looked stays.
		if added != nil {
			next.L0 = append([]manifest.Table{*added}, next.L0...)
			next.LastL0ClockTick = max(next.LastL0ClockTick, tick)
		}
		next.ReplayAfterWAL = m.lastWAL
		next.WALLastSeen = w.put()
		next.LastL0Seq = max(next.LastL0Seq, m.lastSeq)
		// No snapshot of ours needs older versions: it holds the memtables
		// and tables it began with.
		next.RecentSnapshotMinSeq = next.LastL0Seq
		return nil
	})
}

// put returns the id of the last WAL object that is ours.
func (w *Writer) put() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nextWAL - 1
}

// mine checks that nobody has taken over.
func (w *Writer) mine(h *Head) error {
	if h.Manifest.WriterEpoch != w.epoch {
		return deposed(w.ctx, w.store, h, w.epoch)
	}
	return w.mayWrite(h)
}

// upload makes the table of m; nil when m has no rows, only fences.
func (w *Writer) upload(m *memtable, tick int64) (*manifest.Table, error) {
	if m.rows.Len() == 0 {
		return nil, nil
	}
	b, err := sst.NewWriter(w.o.Table)
	if err != nil {
		return nil, err
	}
	if err := m.flushed(tick, b.Add); err != nil {
		return nil, fmt.Errorf("make a table of %s: %w", named(w.root), err)
	}
	return w.putTable(w.ctx, b, w.mint())
}

// mint returns an id for a table that is greater than those of all tables
// before it, whatever the clocks of their writers said: collectors take the
// time in the newest one for the time up to which strays may be removed.
func (w *Writer) mint() ulid.ULID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ms := uint64(w.o.Now().UnixMilli())
	if w.newest != nil && ms <= w.newest.Time() {
		ms = w.newest.Time() + 1
	}
	id := ulid.MustNew(ms, ulid.DefaultEntropy())
	w.newest = &id
	return id
}

// look sees what others did to the manifest.
func (w *Writer) look() {
	w.mu.Lock()
	head, dead := w.head, w.dead
	w.mu.Unlock()
	if dead != nil {
		return
	}
	next, err := head.Next(w.ctx, w.counted)
	if next == nil && err == nil {
		// Nothing after ours: or a collector has removed it and more.
		if b, e := Boundary(w.ctx, w.counted, w.root); e == nil && b >= head.ID {
			next, err = Latest(w.ctx, w.counted, w.root)
		}
	}
	switch {
	case err != nil:
		if undecodable(err) || final(err) {
			w.die(fmt.Errorf("writer of %s: %w", named(w.root), err))
		}
	case next == nil:
	default:
		if err := w.mine(next); err != nil {
			w.die(err)
			return
		}
		w.mu.Lock()
		w.adopt(next)
		w.mu.Unlock()
	}
}
