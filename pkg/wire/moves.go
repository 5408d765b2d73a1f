package wire

import (
	"fmt"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// AppendMove appends one move to those of a frame: its ordinal, the step from
// the revision before it, and the numbers in mask. packed is what both ends
// chain ([catalog.Sum.Moved]); it is part of the result.
func AppendMove(b []byte, ordinal uint32, step uint64, mask uint32, n *Numbers) (all, packed []byte) {
	b = protowire.AppendVarint(b, uint64(ordinal))
	b = protowire.AppendVarint(b, step)
	at := len(b)
	null := mask &^ n.Known
	if null == 0 {
		b = protowire.AppendVarint(b, uint64(mask)<<1)
	} else {
		b = protowire.AppendVarint(b, uint64(mask)<<1|1)
		b = protowire.AppendVarint(b, uint64(null))
	}
	for m := mask &^ null; m != 0; m &= m - 1 {
		b = protowire.AppendVarint(b, n.Values[bits.TrailingZeros32(m)])
	}
	return b, b[at:]
}

// maxMove is the most bytes that AppendMove appends.
const maxMove = 5 + 10 + catalog.MaxPacked

// DecodeMoves reads a frame's moves, whose revisions are after from and not
// after upto. It is strict: moves that this package would not have written
// are refused, all together, for after a wrong one nothing can be trusted to
// begin where it seems to. Fields that this version does not know are left
// out. The moves' Packed are parts of b.
func DecodeMoves(b []byte, from, upto uint64) ([]catalog.Move, error) {
	if len(b) == 0 {
		return nil, nil
	}
	// A move has at least four bytes, and mostly about twenty.
	moves := make([]catalog.Move, 0, len(b)/16+1)
	r := moveReader{b: b}
	for len(r.b) > 0 {
		if len(moves) == cap(moves) {
			moves = append(moves, catalog.Move{})
		} else {
			moves = moves[:len(moves)+1]
		}
		m := &moves[len(moves)-1]
		ordinal, step := r.next(), r.next()
		if ordinal == 0 || ordinal > 1<<32-1 {
			r.wrong("ordinal %d", ordinal)
		}
		if step == 0 || step > upto-from {
			r.wrong("step of %d, at most %d are left", step, upto-from)
		}
		from += step
		m.Ordinal, m.Counter = uint32(ordinal), from
		body := r.b
		mask, null := r.next(), uint64(0)
		if mask&1 != 0 {
			if null = r.next(); null == 0 {
				r.wrong("an empty mask of what is not known")
			}
		}
		mask >>= 1
		if mask == 0 || mask > 1<<32-1 || null&^mask != 0 {
			r.wrong("mask %x, of it not known %x", mask, null)
		}
		for left := uint32(mask &^ null); left != 0 && r.err == nil; left &= left - 1 {
			v := r.next()
			if i := bits.TrailingZeros32(left); i < len(m.Values) {
				m.Values[i] = v
			}
		}
		if r.err != nil {
			return nil, fmt.Errorf("move %d of the frame: %w: %w", len(moves), r.err, catalog.ErrInvalid)
		}
		m.Mask, m.Null = uint32(mask)&knownFields, uint32(null)&knownFields
		n := len(body) - len(r.b)
		m.Packed = body[:n:n]
	}
	return moves, nil
}

const knownFields = 1<<len(catalog.MoveFields) - 1

// moveReader reads varints in their shortest form and remembers the first
// thing that is wrong.
type moveReader struct {
	b   []byte
	err error
}

func (r *moveReader) next() uint64 {
	v, n := uvarint(r.b)
	switch {
	case r.err != nil:
		return 0
	case n <= 0:
		r.wrong("it ends in the middle of a number")
		return 0
	case n > 1 && r.b[n-1] == 0:
		r.wrong("a number is longer than it must be")
	}
	r.b = r.b[n:]
	return v
}

func (r *moveReader) wrong(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}
