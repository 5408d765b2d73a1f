package slatedb

import (
	"bytes"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// Entry is what a database holds under one key.
//
// A key whose newest rows are merge operands has them in Operands, and the
// value below them in Base: only the application knows how to join them.
// Otherwise Operands is empty and Value is the value.
type Entry struct {
	Key   []byte
	Value []byte // nil when there are operands, else not nil

	Operands [][]byte // oldest first
	Base     []byte   // nil when the operands stand on nothing

	// Seq, CreateTS and ExpireTS are the row's. For operands: the greatest
	// sequence number and creation time and the earliest expiry of all rows
	// that take part, as SlateDB itself has it. Times are ms since 1970 by
	// the writer's clock and may be zero: ask HasCreate and HasExpire.
	Seq                  uint64
	CreateTS, ExpireTS   int64
	HasCreate, HasExpire bool

	// Tombstone and Merge are set only where single versions are asked for
	// ([ScanOptions.Versions]): the row deletes its key, or Value is an
	// operand.
	Tombstone, Merge bool
}

// Clone returns a copy that shares no memory with e.
func (e *Entry) Clone() Entry {
	c := *e
	c.Key, c.Value, c.Base = bytes.Clone(e.Key), bytes.Clone(e.Value), bytes.Clone(e.Base)
	c.Operands = nil
	for _, o := range e.Operands {
		c.Operands = append(c.Operands, bytes.Clone(o))
	}
	return c
}

// set makes e the row alone.
func (e *Entry) set(r *sst.Row) {
	*e = Entry{
		Key: r.Key, Value: r.Value, Seq: r.Seq,
		CreateTS: r.CreateTS, ExpireTS: r.ExpireTS,
		HasCreate: r.Flags&sst.HasCreate != 0, HasExpire: r.Flags&sst.HasExpire != 0,
	}
}

// gather makes an entry of the rows of one key, given newest first, until one
// is no operand.
type gather struct {
	e    Entry
	rows int
	done bool // older rows do not matter
	gone bool // a tombstone is all there is
}

// add takes the next older row. Only memory that row keeps may be given when
// it is an operand or a base below one.
func (g *gather) add(r *sst.Row) {
	switch {
	case g.done:
		return
	case g.rows == 0:
		g.e.set(r)
		if r.Merge() {
			g.e.Value, g.e.Operands = nil, [][]byte{r.Value}
		}
		g.gone = r.Tombstone()
	default:
		g.times(r)
		if r.Merge() {
			g.e.Operands = append(g.e.Operands, r.Value)
		} else {
			g.e.Base = r.Value // nil for a tombstone
		}
	}
	g.rows++
	g.done = !r.Merge()
}

func (g *gather) times(r *sst.Row) {
	e := &g.e
	if r.Flags&sst.HasCreate != 0 && (!e.HasCreate || r.CreateTS > e.CreateTS) {
		e.CreateTS, e.HasCreate = r.CreateTS, true
	}
	if r.Flags&sst.HasExpire != 0 && (!e.HasExpire || r.ExpireTS < e.ExpireTS) {
		e.ExpireTS, e.HasExpire = r.ExpireTS, true
	}
}

// finish turns the operands to their order and reports whether the key is
// there.
func (g *gather) finish() bool {
	ops := g.e.Operands
	for i, j := 0, len(ops)-1; i < j; i, j = i+1, j-1 {
		ops[i], ops[j] = ops[j], ops[i]
	}
	return g.rows > 0 && !g.gone
}
