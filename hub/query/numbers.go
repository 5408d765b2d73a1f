package query

import (
	"math"
	"reflect"

	"github.com/quarry-db/quarry/hub/table"
)

// numberStep: the number is within an interval, or outside it.
type numberStep struct {
	col      int
	lo, span uint64 // v-lo <= span
	none     bool   // the interval is empty
	outside  bool
	flip     uint64 // the sign, of numbers that have one
	null     bool   // what holds of rows that have none
	zeroNull bool   // zero is none
	covers   []uint8
}

// byNumber compiles a comparison of a number or time. A comparison with any
// argument, 1.5 and 1e300 too, is an interval of what the column can hold; its
// ends are found by asking the comparison itself.
func (x *scan) byNumber(r *restriction, f *Field, col int, test pred) clause {
	s := &numberStep{col: col, null: test(x.one, x.now), covers: x.covers(f, col, test)}
	typ := f.typ
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	} else {
		s.zeroNull = f.Kind == Number && f.OmitEmpty
	}
	if typ.Kind() >= reflect.Int && typ.Kind() <= reflect.Int64 {
		s.flip = 1 << 63
	}
	out := clause{cost: 3, step: s}
	if r.arg == "*" && r.op == ":" || r.arg == "null" {
		// There or not: one that is there may be anything.
		s.span, s.none = math.MaxUint64, !test(somewhere(x, f), x.now)
		x.one.FieldByIndex(f.index).SetZero()
		return out
	}
	var compare func(v uint64) int
	if f.Kind == Time {
		m, _ := parseMoment(r.arg)
		t := m.at(x.now)
		compare = func(v uint64) int { return table.NumberTime(v).Compare(t) }
	} else {
		n, _ := parseNumber(r.arg)
		compare = func(v uint64) int {
			if s.flip != 0 {
				return integer(int64(v ^ s.flip)).compare(n)
			}
			return number{mag: v}.compare(n)
		}
	}
	s.interval(r.op, compare)
	return out
}

// somewhere is a row in which a number or time is there.
func somewhere(x *scan, f *Field) reflect.Value {
	f.set(x.one, table.Value{Num: 1})
	return x.one
}

// interval finds the numbers for which a comparison holds.
func (s *numberStep) interval(op string, compare func(uint64) int) {
	equal, equalIs := lowest(func(v uint64) bool { return compare(v) >= 0 })
	above, aboveIs := lowest(func(v uint64) bool { return compare(v) > 0 })
	from, to := uint64(0), uint64(math.MaxUint64) // inclusive
	switch op {
	case "<":
		s.none = equalIs && equal == 0
		if equalIs {
			to = equal - 1
		}
	case "<=":
		s.none = aboveIs && above == 0
		if aboveIs {
			to = above - 1
		}
	case ">":
		from, s.none = above, !aboveIs
	case ">=":
		from, s.none = equal, !equalIs
	default: // = and != and :
		s.outside = op == "!="
		from, s.none = equal, !equalIs || aboveIs && above == equal
		if aboveIs {
			to = above - 1
		}
	}
	if !s.none {
		s.lo, s.span = from, to-from
	}
}

// lowest is the lowest number for which something holds that holds for all
// above it; ok is false when it holds for none.
func lowest(holds func(uint64) bool) (v uint64, ok bool) {
	if !holds(math.MaxUint64) {
		return 0, false
	}
	lo, hi := uint64(0), uint64(math.MaxUint64)
	for lo < hi {
		if mid := lo + (hi-lo)/2; holds(mid) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo, true
}

func (s *numberStep) accepts(v uint64) bool {
	return (!s.none && (v^s.flip)-s.lo <= s.span) != s.outside
}

func (s *numberStep) warm(c *table.Chunk) (n uint64) {
	for i := 0; i < table.ChunkRows; i += 16 {
		v, _ := c.Number(s.col, i)
		n += v
	}
	return n
}

func (s *numberStep) mask(x *scan, in table.Mask) (is table.Mask) {
	if !dense(in) {
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			v, has := x.c.Number(s.col, i)
			if s.zeroNull && v == 0 {
				has = false
			}
			if has && s.accepts(v) || !has && s.null {
				is |= 1 << i
			}
		}
		return x.covering(s.covers, in, is)
	}
	has := x.c.Numbers(s.col, &x.buf)
	if has != 0 && !s.none {
		lo, span, flip := s.lo, s.span, s.flip
		for i, v := range &x.buf {
			var b table.Mask
			if (v^flip)-lo <= span {
				b = 1
			}
			is |= b << i
		}
	}
	if s.outside {
		is = ^is
	}
	if s.zeroNull {
		for i, v := range &x.buf {
			if v == 0 {
				has &^= 1 << i
			}
		}
	}
	if is &= has; s.null {
		is |= ^has
	}
	return x.covering(s.covers, in, is&in)
}
