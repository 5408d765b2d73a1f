package table

import (
	"encoding/binary"
	"math/bits"
)

// Chunk is 64 rows of a [Table]. It never changes.
type Chunk struct {
	schema  *Schema
	gen     uint64
	live    Mask
	lists   uint8 // which of syms, texts and objs are this publication's own
	classes *own[uint32]
	idents  *own[*Ident]
	nums    *block
	syms    []*own[uint32]
	texts   []*own[string]
	objs    []*own[any]
}

// own is one value for each row, and at which publication it was made: one
// made since the last may still be changed.
type own[T any] struct {
	gen uint64
	v   [ChunkRows]T
}

// Live are the rows that are there.
func (c *Chunk) Live() Mask { return c.live }

// Class is the class of a row that is there.
func (c *Chunk) Class(i int) uint32 { return c.classes.v[i] }

// Classes are those of all rows; of rows that are not there they mean nothing.
func (c *Chunk) Classes() *[ChunkRows]uint32 { return &c.classes.v }

// Idents are those of all rows; nil where no row is.
func (c *Chunk) Idents() *[ChunkRows]*Ident { return &c.idents.v }

// block has all numbers of a chunk, column after column, so that a row's lie
// together: one object for the collector, one copy for a change.
type block struct {
	gen  uint64
	cols []numbers
	data []byte // ends with 8 bytes more, so that a word can be read anywhere
}

// numbers is a column of 64 numbers, packed: each is base and what its width
// bytes hold. Width 0: all are base.
type numbers struct {
	base    uint64
	present Mask
	off     uint32
	width   uint8
}

func (n *numbers) mask() uint64 {
	if n.width == 8 {
		return ^uint64(0)
	}
	return 1<<(8*n.width) - 1
}

func (b *block) get(n *numbers, i int) uint64 {
	if n.width == 0 {
		return n.base
	}
	return n.base + binary.LittleEndian.Uint64(b.data[int(n.off)+i*int(n.width):])&n.mask()
}

func (b *block) all(n *numbers, into *[ChunkRows]uint64) {
	switch d := b.data[n.off:]; n.width {
	case 0:
		for i := range into {
			into[i] = n.base
		}
	case 1:
		d = d[:ChunkRows]
		for i := range into {
			into[i] = n.base + uint64(d[i])
		}
	case 4:
		d = d[:4*ChunkRows]
		for i := range into {
			into[i] = n.base + uint64(binary.LittleEndian.Uint32(d[4*i:]))
		}
	case 8:
		d = d[:8*ChunkRows]
		for i := range into {
			into[i] = n.base + binary.LittleEndian.Uint64(d[8*i:])
		}
	default:
		m, w := n.mask(), int(n.width)
		for i := range into {
			into[i] = n.base + binary.LittleEndian.Uint64(d[i*w:])&m
		}
	}
}

// fits reports whether v can be put without packing anew.
func (n *numbers) fits(v uint64) bool {
	return n.present == 0 && n.width == 0 || v >= n.base && v-n.base <= n.mask()
}

// put sets a row's number; the block is owned and v fits.
func (b *block) put(n *numbers, i int, v uint64) {
	if n.present == 0 && n.width == 0 {
		n.base = v
	}
	n.present |= 1 << i
	if n.width == 0 {
		return
	}
	at := b.data[int(n.off)+i*int(n.width):]
	m := n.mask()
	binary.LittleEndian.PutUint64(at, binary.LittleEndian.Uint64(at)&^m|(v-n.base)&m)
}

// mine gives the block that may be changed.
func (c *Chunk) ownNumbers(gen uint64) *block {
	if b := c.nums; b.gen != gen {
		c.nums = &block{gen: gen, cols: append(make([]numbers, 0, len(b.cols)), b.cols...), data: append(make([]byte, 0, len(b.data)), b.data...)}
	}
	return c.nums
}

// set sets a row's number.
func (c *Chunk) set(gen uint64, at, i int, v uint64) {
	b := c.ownNumbers(gen)
	n := &b.cols[at]
	if !n.fits(v) {
		b.widen(at, i, v)
	}
	b.put(n, i, v)
}

func (c *Chunk) unset(gen uint64, at, i int) {
	if c.nums.cols[at].present&(1<<i) != 0 {
		c.ownNumbers(gen).cols[at].present &^= 1 << i
	}
}

// widen packs a column anew so that row i can have v. A column that outgrew
// its width goes on growing: it gets some room.
func (b *block) widen(at, i int, v uint64) {
	n := &b.cols[at]
	var vals [ChunkRows]uint64
	b.all(n, &vals)
	lo, hi := v, v
	for m := uint64(n.present &^ (1 << i)); m != 0; m &= m - 1 {
		x := vals[bits.TrailingZeros64(m)]
		lo, hi = min(lo, x), max(hi, x)
	}
	span := hi - lo
	if n.width > 0 && bits.Len64(span) < 61 {
		span <<= 3
	}
	width := uint8((bits.Len64(span) + 7) / 8)
	was, is := ChunkRows*int(n.width), ChunkRows*int(width)
	if was != is {
		end := int(n.off) + was
		data := make([]byte, len(b.data)+is-was)
		copy(data, b.data[:n.off])
		copy(data[int(n.off)+is:], b.data[end:])
		b.data = data
		for k := range b.cols {
			if o := &b.cols[k]; k != at && (o.off > n.off || o.off == n.off && k > at) {
				o.off = uint32(int(o.off) + is - was)
			}
		}
	}
	present := n.present
	n.base, n.width = lo, width
	for m := uint64(present &^ (1 << i)); m != 0; m &= m - 1 {
		k := bits.TrailingZeros64(m)
		b.put(n, k, vals[k])
	}
	n.present = present
}

// Numbers gives a Number or Time column's values into a buffer, and which rows
// have one. Of the others the buffer means nothing.
func (c *Chunk) Numbers(col int, into *[ChunkRows]uint64) (present Mask) {
	n := &c.nums.cols[c.schema.fields[col].at]
	if n.present != 0 {
		c.nums.all(n, into)
	}
	return n.present
}

// Number is one row's number or time; ok is false when it has none.
func (c *Chunk) Number(col, i int) (v uint64, ok bool) {
	n := &c.nums.cols[c.schema.fields[col].at]
	if n.present&(1<<i) == 0 {
		return 0, false
	}
	return c.nums.get(n, i), true
}

// Symbols are a Symbol column's ids; nil: all are 0.
func (c *Chunk) Symbols(col int) *[ChunkRows]uint32 {
	if s := c.syms[c.schema.fields[col].at]; s != nil {
		return &s.v
	}
	return nil
}

// Texts are a Text column's values; nil: all are empty.
func (c *Chunk) Texts(col int) *[ChunkRows]string {
	if s := c.texts[c.schema.fields[col].at]; s != nil {
		return &s.v
	}
	return nil
}

// Object is a row's value of an Object column, of the field's type; nil: none.
func (c *Chunk) Object(col, i int) any {
	if s := c.objs[c.schema.fields[col].at]; s != nil {
		return s.v[i]
	}
	return nil
}

// Objects reports whether any row of the chunk has ever had an object there.
func (c *Chunk) Objects(col int) bool { return c.objs[c.schema.fields[col].at] != nil }
