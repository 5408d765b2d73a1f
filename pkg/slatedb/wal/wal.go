// Package wal reads and writes the objects of SlateDB's write-ahead log. Each holds whole
// batches in the order they were committed, and their ids have no gaps; an
// object without rows, of any form, is a fence: it takes an id so that an
// older writer cannot. The package is pure: bytes in, rows or an error out.
//
// Begin with [Decode] and [Encode]. Format: shared notes "SlateDB on-disk format", §4.
package wal

import (
	"context"
	"fmt"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// Object is one decoded WAL object.
type Object struct {
	Rows []sst.Row // in commit order; they share memory of their own
}

// Fence reports whether the object holds no rows.
func (o *Object) Fence() bool { return len(o.Rows) == 0 }

// Decode reads a whole WAL object. The result does not alias raw, except the
// values when nothing is compressed.
func Decode(raw []byte) (Object, error) {
	if len(raw) == 0 { // the fence of 0.14 and later
		return Object{}, nil
	}
	t, err := sst.Whole(raw)
	if err != nil {
		return Object{}, err
	}
	ctx := context.Background() // nothing waits: the object is in memory
	x, err := t.Index(ctx)
	if err != nil {
		return Object{}, err
	}
	var (
		o    Object
		cur  sst.Cursor
		keys []byte
	)
	for i := range x.Blocks {
		b, err := t.Block(ctx, i)
		if err != nil {
			return Object{}, err
		}
		cur.Reset(b)
		for cur.Next() {
			row := cur.Row
			row.Key, keys = keep(keys, row.Key)
			o.Rows = append(o.Rows, row)
		}
		if err := cur.Err(); err != nil {
			off, _ := x.Span(i)
			return Object{}, &sst.Fault{Part: sst.PartBlock, Offset: off, Err: err}
		}
	}
	for i := 1; i < len(o.Rows); i++ {
		if o.Rows[i].Seq < o.Rows[i-1].Seq && o.sequenced(t) {
			return Object{}, &sst.Fault{Part: sst.PartBlock, Err: fmt.Errorf(
				"sequence number %d after %d: %w", o.Rows[i].Seq, o.Rows[i-1].Seq, sst.ErrCorrupt)}
		}
	}
	return o, nil
}

// sequenced tells WAL objects in commit order from those of releases up to
// 0.10, which are sorted by key.
func (o *Object) sequenced(t *sst.Table) bool {
	f, err := t.Footer(context.Background())
	return err == nil && f.Info.Type == 1
}

// keep copies key into the arena. Full arenas are left to the keys in them.
func keep(arena, key []byte) (kept, rest []byte) {
	if cap(arena)-len(arena) < len(key) {
		arena = make([]byte, 0, max(len(key), 16<<10))
	}
	n := len(arena)
	arena = append(arena, key...)
	return arena[n:len(arena):len(arena)], arena
}

// Hole is the error for a WAL id that is missing although a later one exists
// or the manifest names it: rows between are lost, or lie in another store.
type Hole struct {
	ID   uint64
	Last uint64 // a later id that exists or must exist
}

func (h *Hole) Error() string {
	return fmt.Sprintf("WAL object %d is missing, %d is needed after it", h.ID, h.Last)
}

// Check returns a [Hole] unless ids ascend without a gap from after+1 and
// reach last.
func Check(after, last uint64, ids []uint64) error {
	want := after + 1
	for _, id := range ids {
		if id > want {
			return &Hole{ID: want, Last: id}
		}
		want = id + 1
	}
	if want <= last {
		return &Hole{ID: want, Last: last}
	}
	return nil
}

// Encode makes the object of rows, which are whole batches in commit order:
// those of one batch share a sequence number and stand in the order of their
// keys. No rows make a fence. See [sst.EncodeWAL] for the mark.
func Encode(rows []sst.Row, codec int8, mark [16]byte) ([]byte, error) {
	return sst.EncodeWAL(rows, codec, mark)
}
