package table

import (
	"encoding/binary"
	"math/bits"
)

// A slab has the numbers of a chunk, column by column, in one piece without
// pointers. It begins with where each column lies (two bytes; 0: none of its
// numbers was ever set); there are which rows have a number, the base, the
// width, and what each row's number is above the base, in so many bytes. Width
// 0: all are the base. It ends with 8 bytes more, so that a word can be read
// anywhere.
type slab []byte

const (
	columnHead = 17 // present, base, width
	slabTail   = 8
	maxNumbers = 100 // columns; so that all at full width end below 1<<16
)

func newSlab(cols int) slab { return make(slab, 2*cols+slabTail) }

var le = binary.LittleEndian

// column is the head of a column, read.
type column struct {
	present Mask
	base    uint64
	width   int
	at      int // where its numbers begin; 0: never set
}

func (s slab) column(k int) (c column) {
	if off := int(le.Uint16(s[2*k:])); off != 0 {
		h := s[off : off+columnHead]
		c = column{Mask(le.Uint64(h)), le.Uint64(h[8:]), int(h[16]), off + columnHead}
	}
	return c
}

// widthMask has the bits of so many bytes.
var widthMask = [9]uint64{0, 1<<8 - 1, 1<<16 - 1, 1<<24 - 1, 1<<32 - 1, 1<<40 - 1, 1<<48 - 1, 1<<56 - 1, 1<<64 - 1}

// get is the number of row i, in a column that was set.
func (s slab) get(c *column, i int) uint64 {
	return c.base + le.Uint64(s[c.at+i*c.width:])&widthMask[c.width]
}

// all gives the numbers of all rows.
func (s slab) all(c *column, into *[ChunkRows]uint64) {
	base := c.base
	switch d := s[c.at:]; c.width {
	case 0:
		for i := range into {
			into[i] = base
		}
	case 1:
		d = d[:ChunkRows]
		for i := range into {
			into[i] = base + uint64(d[i])
		}
	case 2:
		d = d[:2*ChunkRows]
		for i := range into {
			into[i] = base + uint64(le.Uint16(d[2*i:]))
		}
	case 4:
		d = d[:4*ChunkRows]
		for i := range into {
			into[i] = base + uint64(le.Uint32(d[4*i:]))
		}
	case 8:
		d = d[:8*ChunkRows]
		for i := range into {
			into[i] = base + le.Uint64(d[8*i:])
		}
	default:
		m, w := widthMask[c.width], c.width
		for i := range into {
			into[i] = base + le.Uint64(d)&m
			d = d[w:]
		}
	}
}

// set gives row i of column k, of so many, a number and returns the slab, which
// may be another one. Only the builder may, and only on a slab that no reader
// has.
func (s slab) set(cols, k, i int, v uint64) slab {
	c := s.column(k)
	if c.at == 0 || v < c.base || v-c.base > widthMask[c.width] {
		s = s.widen(cols, k, &c, i, v)
	}
	s.put(&c, i, v)
	le.PutUint64(s[c.at-columnHead:], uint64(c.present|1<<i))
	return s
}

// put writes a number that fits.
func (s slab) put(c *column, i int, v uint64) {
	if c.width == 0 {
		return
	}
	at, m := s[c.at+i*c.width:], widthMask[c.width]
	le.PutUint64(at, le.Uint64(at)&^m|(v-c.base)&m)
}

func (s slab) unset(k, i int) {
	if c := s.column(k); c.present&(1<<i) != 0 {
		le.PutUint64(s[c.at-columnHead:], uint64(c.present&^(1<<i)))
	}
}

// widen packs a column anew so that row i can have v. A column that outgrew
// its width goes on growing, so it gets some room.
func (s slab) widen(cols, k int, c *column, i int, v uint64) slab {
	var vals [ChunkRows]uint64
	others := c.present &^ (1 << i)
	lo, hi := v, v
	if others != 0 {
		s.all(c, &vals)
		for m := uint64(others); m != 0; m &= m - 1 {
			x := vals[bits.TrailingZeros64(m)]
			lo, hi = min(lo, x), max(hi, x)
		}
	}
	span := hi - lo
	if c.width > 0 && bits.Len64(span) < 61 {
		span <<= 3
	}
	width := (bits.Len64(span) + 7) / 8
	at, was := c.at-columnHead, columnHead+ChunkRows*c.width
	if c.at == 0 {
		at, was = len(s)-slabTail, 0
	}
	is := columnHead + ChunkRows*width
	if by := is - was; by != 0 {
		t := make(slab, len(s)+by)
		copy(t, s[:at])
		copy(t[at+is:], s[at+was:])
		for o := 0; o < 2*cols; o += 2 {
			if off := int(le.Uint16(t[o:])); off > at {
				le.PutUint16(t[o:], uint16(off+by))
			}
		}
		le.PutUint16(t[2*k:], uint16(at))
		s = t
	}
	*c = column{c.present, lo, width, at + columnHead}
	h := s[at : at+columnHead]
	le.PutUint64(h[8:], lo)
	h[16] = byte(width)
	for m := uint64(others); m != 0; m &= m - 1 {
		j := bits.TrailingZeros64(m)
		s.put(c, j, vals[j])
	}
	return s
}
