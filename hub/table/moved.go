package table

import "math/bits"

// A patch is numbers of a chunk that are newer than its slab's: few, so that a
// publication that moved one row in a chunk copies them and not the slab. It
// is one piece without pointers too: which rows have any; how many there are,
// and above that a hint at which columns; their keys, four to a word; their
// values. A patch never takes a number away: that is done to the slab.
type patch []uint64

// patchMost is how many numbers a patch holds before they go into the slab.
const patchMost = 64

const (
	lanes = 0x0001_0001_0001_0001
	highs = 0x8000_8000_8000_8000
)

func patchKey(k, i int) uint64 { return uint64(k)<<6 | uint64(i) }

// hint is a bit for a column.
func hint(k int) uint64 { return 1 << (8 + k%56) }

func (p patch) room() int { return (len(p) - 2) * 4 / 5 }

func (p patch) len() int { return int(p[1] & 0xff) }

// find is where the number of row i in column k is; -1: it has none.
func (p patch) find(k, i int) int {
	if p == nil || p[0]>>i&1 == 0 || p[1]&hint(k) == 0 {
		return -1
	}
	key := patchKey(k, i) * lanes
	n := (p.len() + 3) / 4
	for w, keys := range p[2 : 2+n] {
		x := keys ^ key
		// The lowest lane of a zero in x: those above it may be wrong.
		if hit := (x - lanes) &^ x & highs; hit != 0 {
			return 4*w + bits.TrailingZeros64(hit)/16
		}
	}
	return -1
}

func (p patch) value(at int) *uint64 { return &p[2+p.room()/4+at] }

func (p patch) key(at int) (k, i int) {
	key := p[2+at/4] >> (16 * (at % 4)) & 0xffff
	return int(key >> 6), int(key & 63)
}

// over puts what the patch has of column k over the slab's numbers.
func (p patch) over(k int, into *[ChunkRows]uint64) (present Mask) {
	if p == nil || p[1]&hint(k) == 0 {
		return 0
	}
	col, n := uint64(k)<<6*lanes, p.len()
	for w := 0; 4*w < n; w++ {
		x := (p[2+w] ^ col) &^ (63 * lanes)
		if (x-lanes)&^x&highs == 0 {
			continue
		}
		for at := 4 * w; at < min(4*w+4, n); at++ {
			if c, i := p.key(at); c == k {
				into[i] = *p.value(at)
				present |= 1 << i
			}
		}
	}
	return present
}

// with is the patch with one number more, which it has not; nil when it is
// full. A patch that is not the publication's own is copied.
func (p patch) with(own bool, k, i int, v uint64) patch {
	n := 0
	if p != nil {
		n = p.len()
	}
	if n == patchMost {
		return nil
	}
	if p == nil || n == p.room() {
		room := max(8, 2*n)
		q := make(patch, 2+room/4+room)
		for w := 2; w < 2+room/4; w++ {
			q[w] = ^uint64(0) // no column's key
		}
		if p != nil {
			copy(q, p[:2+n/4])
			copy(q[2+room/4:], p[2+n/4:])
		}
		p = q
	} else if !own {
		p = p.clone()
	}
	p[0] |= 1 << i
	p[1] = (p[1] | hint(k)) + 1
	w, shift := &p[2+n/4], 16*(n%4)
	*w = *w&^(0xffff<<shift) | patchKey(k, i)<<shift
	*p.value(n) = v
	return p
}

func (p patch) clone() patch {
	q := make(patch, len(p))
	copy(q, p)
	return q
}
