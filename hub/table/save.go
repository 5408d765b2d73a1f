package table

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"math/bits"
	"reflect"

	"github.com/quarry-db/quarry/hub/pack"
)

// A saved table is blocks, each with its length and checksum before it: what
// the schema was, the classes and symbols, the chunks much as they lie in
// memory, and the slots in the order of each index, so that nothing has to be
// sorted when it is read back.

// ErrDamaged is wrapped by errors of [Read] about bytes that no [Table.Write]
// wrote, or one of another schema or version.
var ErrDamaged = errors.New("damaged")

const (
	maxBlock  = 64 << 20
	perBlock  = 64 // chunks
	codecForm = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func writeBlock(w io.Writer, b []byte) error {
	var head [8]byte
	le.PutUint32(head[:], uint32(len(b)))
	le.PutUint32(head[4:], crc32.Checksum(b, castagnoli))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

type tableHead struct {
	Form    int
	Columns []Column
	Shapes  []string // of the Object columns
	High    int
	Live    int
	Classes int
}

// Write saves the table, for [Read]. Any number of goroutines may read the
// table meanwhile, and builders go on.
func (t *Table) Write(w io.Writer) error {
	head, err := json.Marshal(tableHead{codecForm, t.schema.cols, t.schema.shapes(), t.high, t.live, t.kinds})
	if err != nil {
		return err
	}
	if err := writeBlock(w, head); err != nil {
		return err
	}
	var b []byte
	for id := range t.kinds {
		for _, v := range t.classes.at(id).stored {
			b = appendText(binary.AppendUvarint(appendBool(b, v.Null), v.Num), v.Text)
		}
	}
	if err := writeBlock(w, b); err != nil {
		return err
	}
	for at := range t.dicts {
		d := &t.dicts[at]
		b = binary.AppendUvarint(b[:0], uint64(len(d.texts)))
		for _, text := range d.texts {
			b = appendText(b, text)
		}
		if err := writeBlock(w, b); err != nil {
			return err
		}
	}
	var s saving
	for i := 0; i < t.Chunks(); i += perBlock {
		s.b = s.b[:0]
		for k := i; k < min(i+perBlock, t.Chunks()); k++ {
			s.chunk(t.Chunk(k))
		}
		if err := writeBlock(w, s.b); err != nil {
			return err
		}
	}
	return t.writeOrders(w)
}

func (t *Table) writeOrders(w io.Writer) error {
	orders := []func(func(*Ident) bool){t.names.Scan, t.keys.Scan}
	for _, o := range t.orders {
		orders = append(orders, func(yield func(*Ident) bool) { o.rows.Scan(func(x item) bool { return yield(x.id) }) }, o.nulls.Scan)
	}
	var b []byte
	for _, o := range orders {
		b = b[:0]
		o(func(id *Ident) bool {
			b = le.AppendUint32(b, uint32(id.Slot))
			return true
		})
		if err := writeLong(w, b); err != nil {
			return err
		}
	}
	return nil
}

// writeLong writes bytes that may be more than a block, and an empty block.
func writeLong(w io.Writer, b []byte) error {
	const most = 4 << 20
	for len(b) > 0 {
		n := min(most, len(b))
		if err := writeBlock(w, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return writeBlock(w, nil)
}

// saving is buffers of a table that is written.
type saving struct {
	b    []byte // the block
	text []byte // all texts of the chunk
	lens []byte // and how long they are
	objs pack.Writer
}

// shapes are how objects lie in bytes, for only the same can be read back.
func (s *Schema) shapes() []string {
	var out []string
	for i := range s.fields {
		if f := &s.fields[i]; f.kind == Object {
			out = append(out, f.packed.Shape())
		}
	}
	return out
}

// chunk appends a chunk: which rows are there; all its texts in one piece, so
// that they are one text when they are read; what is cut from it; the rest.
func (s *saving) chunk(c *Chunk) {
	if c == nil {
		s.b = le.AppendUint64(s.b, 0)
		return
	}
	s.b = le.AppendUint64(s.b, uint64(c.live))
	s.text, s.lens = s.text[:0], s.lens[:0]
	regions := c.schema.regionOf() < 0
	for m := c.live; m != 0; m &= m - 1 {
		id := c.idents[bits.TrailingZeros64(uint64(m))]
		s.cut(id.Slate, "")
		s.cut(id.Root, id.Slate)
		if regions {
			s.cut(id.Region, "")
		}
	}
	for at, texts := range c.rest.texts {
		if s.lens = appendBool(s.lens, texts != nil); texts == nil {
			continue
		}
		var before *[ChunkRows]string
		if at > 0 {
			before = c.rest.texts[at-1]
		}
		for m := c.live; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(uint64(m))
			if before != nil {
				s.cut(texts[i], before[i])
			} else {
				s.cut(texts[i], "")
			}
		}
	}
	b := binary.AppendUvarint(s.b, uint64(len(s.text)))
	b = append(append(b, s.text...), s.lens...)
	for m := c.live; m != 0; m &= m - 1 {
		b = binary.AppendUvarint(b, uint64(c.classes[bits.TrailingZeros64(uint64(m))]))
	}
	b = c.appendNumbers(b)
	for _, ids := range c.rest.syms {
		if b = appendBool(b, ids != nil); ids != nil {
			for m := c.live; m != 0; m &= m - 1 {
				b = binary.AppendUvarint(b, uint64(ids[bits.TrailingZeros64(uint64(m))]))
			}
		}
	}
	for col := range c.schema.fields {
		if f := &c.schema.fields[col]; f.kind == Object {
			b = s.objects(b, c, f)
		}
	}
	s.b = b
}

// objects appends a column of objects: in which rows they are empty; in which
// there is one; these, in one piece.
func (s *saving) objects(b []byte, c *Chunk, f *field) []byte {
	o := &c.rest.objs[f.at]
	present := Mask(0)
	s.objs.Reset()
	for m := c.live; o.v != nil && m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(uint64(m))
		x := o.v[i]
		if x == nil {
			continue
		}
		present |= 1 << i
		if !f.ptr {
			p := reflect.New(f.typ)
			p.Elem().Set(reflect.ValueOf(x))
			x = p.Interface()
		}
		s.objs.Add(f.packed, x)
	}
	b = le.AppendUint64(le.AppendUint64(b, uint64(o.empty&c.live)), uint64(present))
	return append(binary.AppendUvarint(b, uint64(len(s.objs.B))), s.objs.B...)
}

// cut writes a text: 0 stands for the one it is like, else its length plus one.
func (s *saving) cut(text, like string) {
	if text == like {
		s.lens = append(s.lens, 0)
		return
	}
	s.lens = binary.AppendUvarint(s.lens, uint64(len(text))+1)
	s.text = append(s.text, text...)
}

// appendNumbers appends a slab with its columns in their order, of live rows
// only.
func (c *Chunk) appendNumbers(b []byte) []byte {
	nums := c.nums
	if c.moved != nil {
		d := *c
		d.owned = 0
		d.mySlab()
		nums = d.nums
	}
	cols := c.schema.nums
	head := len(b)
	b = append(b, make([]byte, 4+2*cols)...)
	start := head + 4
	for k := range cols {
		n := nums.column(k)
		present := n.present & c.live
		if present == 0 {
			continue
		}
		at := len(b)
		le.PutUint16(b[start+2*k:], uint16(at-start))
		b = append(b, nums[n.at-columnHead:n.at+ChunkRows*n.width]...)
		le.PutUint64(b[at:], uint64(present))
	}
	b = le.AppendUint64(b, 0)
	le.PutUint32(b[head:], uint32(len(b)-start))
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}
