package slatedb

import (
	"bytes"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// source gives rows in the order of their keys, the versions of one key newest
// first.
type source interface {
	next() bool
	// row is the current row, valid until next is called again.
	row() *sst.Row
	err() error
	close()
}

// head is a source and its current row in the heap of a merge.
type head struct {
	src  source
	row  *sst.Row // nil: not begun, nothing has been read of the source
	key  []byte   // of row, else a key that no row of the source is below
	rank int      // breaks ties of key and sequence number; newer is less
}

// merge gives the rows of many sources as one, in the order of their keys, the
// versions of one key newest first. A source is not touched before its first
// possible key is reached.
type merge struct {
	heap  []head
	fault error
}

func (m *merge) add(src source, lowest []byte) {
	m.heap = append(m.heap, head{src: src, key: lowest, rank: len(m.heap)})
	for i := len(m.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !m.heap[i].before(&m.heap[up]) {
			return
		}
		m.heap[i], m.heap[up] = m.heap[up], m.heap[i]
		i = up
	}
}

func (h *head) before(o *head) bool {
	if c := bytes.Compare(h.key, o.key); c != 0 {
		return c < 0
	}
	if h.row == nil || o.row == nil {
		return h.row == nil && o.row != nil // begin it: it may hold the key
	}
	if h.row.Seq != o.row.Seq {
		return h.row.Seq > o.row.Seq
	}
	return h.rank < o.rank
}

// settle moves the top of the heap to its place.
func (m *merge) settle() {
	h := m.heap
	for i := 0; ; {
		least := i
		if l := 2*i + 1; l < len(h) && h[l].before(&h[least]) {
			least = l
		}
		if r := 2*i + 2; r < len(h) && h[r].before(&h[least]) {
			least = r
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// top returns the current row, nil at the end or after a fault.
func (m *merge) top() *sst.Row {
	for len(m.heap) > 0 {
		if row := m.heap[0].row; row != nil {
			return row
		}
		if !m.pass() {
			return nil
		}
	}
	return nil
}

// pass goes on from the current row. It is false after a fault.
func (m *merge) pass() bool {
	h := &m.heap[0]
	if h.src.next() {
		h.row = h.src.row()
		h.key = h.row.Key
	} else {
		err := h.src.err()
		h.src.close()
		last := len(m.heap) - 1
		m.heap[0] = m.heap[last]
		m.heap[last] = head{}
		m.heap = m.heap[:last]
		if err != nil {
			m.fault = err
			m.close()
			return false
		}
	}
	if len(m.heap) > 1 {
		m.settle()
	}
	return true
}

func (m *merge) close() {
	for i := range m.heap {
		m.heap[i].src.close()
	}
	m.heap = nil
}

// view turns rows into entries: the newest of each key, with the operands on
// it joined to their list, and without deleted keys.
type view struct {
	merge
	entry Entry
	last  []byte // key whose versions have been seen
	any   bool   // last is set
}

// next makes the next entry. It is valid until the next call.
func (v *view) next() bool {
	for {
		row := v.top()
		if row == nil {
			return false
		}
		if v.any && bytes.Equal(row.Key, v.last) {
			if !v.pass() {
				return false
			}
			continue
		}
		v.last, v.any = append(v.last[:0], row.Key...), true
		switch {
		case row.Tombstone():
			if !v.pass() {
				return false
			}
		case row.Merge():
			return v.join(row)
		default:
			v.entry.set(row)
			return true
		}
	}
}

// join reads the versions below an operand. They come from several blocks, so
// everything is copied.
func (v *view) join(row *sst.Row) bool {
	var g gather
	for row != nil && bytes.Equal(row.Key, v.last) && !g.done {
		kept := *row
		kept.Value = bytes.Clone(row.Value)
		g.add(&kept)
		if !v.pass() {
			return false
		}
		row = v.top()
	}
	if v.fault != nil {
		return false
	}
	g.finish()
	v.entry = g.e
	v.entry.Key = v.last
	return true
}

// nextVersion makes an entry of the next row, whatever it is.
func (v *view) nextVersion() bool {
	if v.any && !v.pass() {
		return false
	}
	row := v.top()
	if row == nil {
		return false
	}
	v.any = true
	v.entry.set(row)
	v.entry.Tombstone, v.entry.Merge = row.Tombstone(), row.Merge()
	return true
}
