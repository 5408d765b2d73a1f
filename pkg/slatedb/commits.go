package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// pending is a batch that somebody waits for.
type pending struct {
	rows []sst.Row
	ttls []time.Duration
	size int
	done chan outcome // has room for one
}

type outcome struct {
	seq uint64
	err error
}

// ErrMemoryFull is wrapped by the error of a write for which there is no room:
// memory is full of rows that are in the WAL and cannot be moved to a table.
// What keeps them from it is wrapped too. Nothing was written, and the next
// write may work.
var ErrMemoryFull = errors.New("memory is full, and no table can be made of it")

// objectBytes is about how large a WAL object with several batches becomes.
const objectBytes = 8 << 20

// Put is Write of one change.
func (w *Writer) Put(ctx context.Context, key, value []byte) (uint64, error) {
	var b Batch
	b.Put(key, value)
	return w.Write(ctx, &b)
}

// Delete is Write of one change.
func (w *Writer) Delete(ctx context.Context, key []byte) (uint64, error) {
	var b Batch
	b.Delete(key)
	return w.Write(ctx, &b)
}

// Write makes the changes of b and returns when they are durable, with their
// sequence number. The batch is in one WAL object, whole; batches of other
// callers may be in the same one. An empty batch does nothing.
//
// An error that wraps [ErrUncertain] means that it is not known whether the
// batch is durable; the next one to open the database finds out. After any
// other error it is not: [ErrFenced], [ErrClosed], or the error of a batch that
// cannot be written. The batch may be used again.
func (w *Writer) Write(ctx context.Context, b *Batch) (uint64, error) {
	rows, ttls, err := b.sealed()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("write to %s: %w", named(w.root), err)
	}
	p := &pending{rows: rows, ttls: ttls, size: b.size, done: make(chan outcome, 1)}
	w.mu.Lock()
	switch {
	case w.dead != nil:
		err = w.dead
	case w.closing:
		err = ErrClosed
	case len(rows) == 0:
		seq := w.lastSeq
		w.mu.Unlock()
		return seq, nil
	default:
		w.queue = append(w.queue, p)
	}
	w.mu.Unlock()
	if err != nil {
		return 0, fmt.Errorf("write to %s: %w", named(w.root), err)
	}
	poke(w.work)
	select {
	case o := <-p.done:
		return o.seq, o.err
	case <-ctx.Done():
		if w.forget(p) {
			return 0, fmt.Errorf("write to %s: %w", named(w.root), ctx.Err())
		}
		select {
		case o := <-p.done: // just now
			return o.seq, o.err
		default:
		}
		return 0, fmt.Errorf("write to %s, given up on its way: %w: %w", named(w.root), ErrUncertain, ctx.Err())
	}
}

// forget takes p out of the queue. It is false when it is on its way.
func (w *Writer) forget(p *pending) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.queue {
		if w.queue[i] == p {
			w.queue = append(w.queue[:i], w.queue[i+1:]...)
			return true
		}
	}
	return false
}

// commits puts one WAL object after the other for as long as the writer lives.
func (w *Writer) commits() {
	for {
		select {
		case <-w.work:
		case <-w.ctx.Done():
			return
		}
		if w.o.Linger > 0 {
			w.linger()
		}
		for w.commitOne() {
		}
	}
}

func (w *Writer) linger() {
	w.mu.Lock()
	closing := w.closing
	w.mu.Unlock()
	if closing {
		return
	}
	t := time.NewTimer(w.o.Linger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
	}
}

// commitOne puts the next WAL object. It is false when there is nothing to put.
func (w *Writer) commitOne() bool {
	batch, first, id := w.take()
	if len(batch) == 0 {
		return false
	}
	var rows []sst.Row
	tick := w.stamp(batch, first)
	for _, p := range batch {
		rows = append(rows, p.rows...)
	}
	data, err := sst.EncodeWAL(rows, w.o.Table.Compression, putID())
	if err == nil {
		err = putWithin(w.ctx, w.wal, WALKey(w.root, id), data, w.o.Patience)
	}
	if err == nil {
		w.applied(batch, rows, first, tick)
		return true
	}
	if errors.Is(err, fs.ErrExist) {
		err = outrun(w.ctx, w.store, w.wal, w.root, id, w.epoch)
		w.die(err)
	} else {
		err = fmt.Errorf("write to %s: %w", named(w.root), err)
		if errors.Is(err, ErrUncertain) {
			// Whether it was taken or not, the id is not ours to give.
			w.die(err)
		}
		w.unput()
	}
	for _, p := range batch {
		p.done <- outcome{err: err}
	}
	return true
}

// take removes the batches of the next object from the queue.
func (w *Writer) take() (batch []*pending, first, id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Memory is bounded: two memtables, one of them on its way to a table.
	// Where tables cannot be put, who writes is told and need not wait.
	for w.dead == nil && len(w.frozen) > 0 && w.mem.bytes >= w.o.FlushBytes {
		if w.stuck != nil {
			err := fmt.Errorf("write to %s: %w: %w", named(w.root), ErrMemoryFull, w.stuck)
			for _, p := range w.queue {
				p.done <- outcome{err: err}
			}
			w.queue = nil
		}
		if len(w.queue) == 0 {
			break
		}
		w.room.Wait()
	}
	if w.dead != nil {
		return nil, 0, 0
	}
	size, n := 0, 0
	for n < len(w.queue) && (n == 0 || size+w.queue[n].size <= objectBytes) {
		size += w.queue[n].size
		n++
	}
	batch = append(batch, w.queue[:n]...)
	w.queue = append(w.queue[:0:0], w.queue[n:]...)
	w.putting = n > 0
	if n == 0 {
		w.room.Broadcast()
	}
	return batch, w.lastSeq + 1, w.nextWAL
}

// stamp gives the rows their sequence numbers, one a batch, and times: those of
// our clock, or of the newest row when that is later. SlateDB's own writer
// waits, or fails, when its clock is behind the rows it finds; what matters is
// only that time does not go back.
func (w *Writer) stamp(batch []*pending, first uint64) int64 {
	now := w.o.Now().UnixMilli()
	w.mu.Lock()
	tick := max(now, w.tick)
	w.mu.Unlock()
	for i, p := range batch {
		for j := range p.rows {
			r := &p.rows[j]
			r.Seq, r.CreateTS, r.Flags = first+uint64(i), tick, r.Flags|sst.HasCreate
			if ttl := p.ttls[j]; ttl > 0 {
				r.ExpireTS, r.Flags = tick+max(ttl.Milliseconds(), 1), r.Flags|sst.HasExpire
			}
		}
	}
	return tick
}

// applied makes durable rows visible and tells those who wait.
func (w *Writer) applied(batch []*pending, rows []sst.Row, first uint64, tick int64) {
	w.mu.Lock()
	for i := range rows {
		w.mem.add(&rows[i])
	}
	w.mem.lastWAL = w.nextWAL
	w.nextWAL++
	w.lastSeq = first + uint64(len(batch)) - 1
	w.tick = tick
	w.putting = false
	w.room.Broadcast()
	full := w.full()
	if full && len(w.frozen) == 0 {
		w.freeze()
	}
	w.mu.Unlock()
	if full {
		poke(w.flushes)
	}
	for i, p := range batch {
		p.done <- outcome{seq: first + uint64(i)}
	}
}

// unput ends an attempt to put.
func (w *Writer) unput() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.putting = false
	w.room.Broadcast()
}

// settle waits until no batch is queued or on its way.
func (w *Writer) settle(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.room.Broadcast()
	})()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.dead == nil && ctx.Err() == nil && (len(w.queue) > 0 || w.putting) {
		w.room.Wait()
	}
	if w.dead != nil {
		return w.dead
	}
	return ctx.Err()
}
