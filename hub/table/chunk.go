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
	nums    []*numbers
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

// numbers is a column of 64 numbers, packed: each is base and what its width
// bytes hold. Width 0: all are base.
type numbers struct {
	gen     uint64
	base    uint64
	present Mask
	width   uint8
	data    []byte // 64*width bytes and 8 more, so that a word can be read anywhere
}

func (n *numbers) mask() uint64 {
	if n.width == 8 {
		return ^uint64(0)
	}
	return 1<<(8*n.width) - 1
}

func (n *numbers) get(i int) uint64 {
	if n.width == 0 {
		return n.base
	}
	return n.base + binary.LittleEndian.Uint64(n.data[i*int(n.width):])&n.mask()
}

func (n *numbers) all(into *[ChunkRows]uint64) {
	switch n.width {
	case 0:
		for i := range into {
			into[i] = n.base
		}
	case 1:
		d := n.data[:ChunkRows]
		for i := range into {
			into[i] = n.base + uint64(d[i])
		}
	case 4:
		d := n.data[:4*ChunkRows]
		for i := range into {
			into[i] = n.base + uint64(binary.LittleEndian.Uint32(d[4*i:]))
		}
	case 8:
		d := n.data[:8*ChunkRows]
		for i := range into {
			into[i] = n.base + binary.LittleEndian.Uint64(d[8*i:])
		}
	default:
		m, w := n.mask(), int(n.width)
		for i := range into {
			into[i] = n.base + binary.LittleEndian.Uint64(n.data[i*w:])&m
		}
	}
}

// fits reports whether v can be put without packing anew.
func (n *numbers) fits(v uint64) bool {
	return v >= n.base && v-n.base <= n.mask() || n.width == 0 && v == n.base
}

// put sets a row's number; n is owned and v fits.
func (n *numbers) put(i int, v uint64) {
	n.present |= 1 << i
	if n.width == 0 {
		return
	}
	at := n.data[i*int(n.width):]
	m := n.mask()
	binary.LittleEndian.PutUint64(at, binary.LittleEndian.Uint64(at)&^m|(v-n.base)&m)
}

func packedSize(width uint8) int {
	if width == 0 {
		return 0
	}
	return ChunkRows*int(width) + 8
}

// pack makes a column of the values present.
func pack(gen uint64, vals *[ChunkRows]uint64, present Mask, spare bool) *numbers {
	n := &numbers{gen: gen, present: present}
	if present == 0 {
		return n
	}
	lo, hi := ^uint64(0), uint64(0)
	for m := uint64(present); m != 0; m &= m - 1 {
		v := vals[bits.TrailingZeros64(m)]
		lo, hi = min(lo, v), max(hi, v)
	}
	n.base = lo
	span := hi - lo
	if spare && span != 0 {
		// A column that outgrew its width will go on growing.
		span |= span << 4
		if span < hi-lo {
			span = ^uint64(0)
		}
	}
	n.width = uint8((bits.Len64(span) + 7) / 8)
	if n.width > 0 {
		n.data = make([]byte, packedSize(n.width))
		for m := uint64(present); m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(m)
			n.put(i, vals[i])
		}
	}
	return n
}

// Numbers gives a Number or Time column's values into a buffer, and which rows
// have one. Of the others the buffer means nothing.
func (c *Chunk) Numbers(col int, into *[ChunkRows]uint64) (present Mask) {
	n := c.nums[c.schema.fields[col].at]
	if n == nil || n.present == 0 {
		return 0
	}
	n.all(into)
	return n.present
}

// with gives the column with a row's number set, changed in place when it is
// owned by this publication.
func (n *numbers) with(gen uint64, i int, v uint64) *numbers {
	switch {
	case n == nil || n.present == 0:
		fresh := &numbers{gen: gen, base: v, present: 1 << i}
		return fresh
	case n.fits(v):
		if n.gen != gen {
			c := *n
			c.gen = gen
			if n.width > 0 {
				c.data = append(make([]byte, 0, len(n.data)), n.data...)
			}
			n = &c
		}
		n.put(i, v)
		return n
	}
	var vals [ChunkRows]uint64
	n.all(&vals)
	vals[i] = v
	return pack(gen, &vals, n.present|1<<i, n.width > 0)
}

func (n *numbers) without(gen uint64, i int) *numbers {
	if n == nil || n.present&(1<<i) == 0 {
		return n
	}
	c := *n
	if n.gen != gen {
		c.gen = gen
		if n.width > 0 {
			c.data = append(make([]byte, 0, len(n.data)), n.data...)
		}
	}
	c.present &^= 1 << i
	return &c
}

// Number is one row's number or time; ok is false when it has none.
func (c *Chunk) Number(col, i int) (v uint64, ok bool) {
	n := c.nums[c.schema.fields[col].at]
	if n == nil || n.present&(1<<i) == 0 {
		return 0, false
	}
	return n.get(i), true
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
