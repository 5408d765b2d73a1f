package query

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/hub/table"
)

// sortKey is what a row of a table is sorted by: a value in a form that is
// compared quickly. Of one term either num or text counts, or neither.
type sortKey struct {
	rank uint8
	num  uint64
	text string
}

// Ranks of keys, whichever way a term is sorted null comes last.
const (
	never  uint8 = iota // a time that was never set, and is no null
	valued              // num or text
	absent              // null
)

func (a sortKey) compare(b sortKey, desc bool) int {
	if a.rank != b.rank {
		if desc && a.rank != absent && b.rank != absent {
			return cmp.Compare(b.rank, a.rank)
		}
		return cmp.Compare(a.rank, b.rank)
	}
	c := cmp.Compare(a.num, b.num)
	if c == 0 {
		c = strings.Compare(a.text, b.text)
	}
	if desc {
		return -c
	}
	return c
}

// key is a value as a sort key; ok is false for what no column holds.
func (x value) key(signed bool) (k sortKey, ok bool) {
	k.rank = valued
	switch x.kind {
	case 0:
		k.rank = absent
	case Text:
		k.text = x.s
	case Bool:
		if x.b {
			k.num = 1
		}
	case Time:
		if k.num, ok = table.TimeNumber(x.t); !ok {
			k.rank = never
		}
	default:
		switch {
		case x.num.fract:
			return k, false
		case signed && x.num.neg:
			k.num = -x.num.mag ^ 1<<63
		case signed:
			k.num = x.num.mag ^ 1<<63
		case x.num.neg:
			return k, false
		default:
			k.num = x.num.mag
		}
	}
	return k, true
}

// value turns [value.key] back.
func (p path) value(k sortKey) value {
	switch {
	case k.rank == absent:
		return value{}
	case p.kind() == Text:
		return value{kind: Text, s: k.text}
	case p.kind() == Bool:
		return value{kind: Bool, b: k.num != 0}
	case p.kind() == Time && k.rank == never:
		return value{kind: Time}
	case p.kind() == Time:
		return value{kind: Time, t: table.NumberTime(k.num)}
	case p.last().signed():
		return value{kind: Number, num: integer(int64(k.num ^ 1<<63))}
	}
	return value{kind: Number, num: number{mag: k.num}}
}

func (f *Field) signed() bool {
	t := f.typ
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return f.Kind == Number && t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64
}

// sorter reads the keys of rows by the terms of an order.
type sorter struct {
	x     *scan
	terms []term
	read  []func(c *table.Chunk, i int) sortKey
	after []sortKey // of the last row of the page before; nil: the first page
	// number is the column of the first term when it is a number or time, else
	// -1; none is the key of rows without one.
	number   int
	zeroNull bool
	none     sortKey
}

// sorter reads what columns tell; nil: the order needs more.
func (x *scan) sorter(o order, after []value) *sorter {
	s := &sorter{x: x, terms: o.terms}
	for i, tm := range o.terms {
		read := x.reader(tm)
		if read == nil {
			return nil
		}
		s.read = append(s.read, read)
		if after != nil {
			k, ok := after[i].key(tm.path.last().signed())
			if !ok {
				return nil
			}
			s.after = append(s.after, k)
		}
	}
	s.begin()
	return s
}

// begin prepares for the first term.
func (s *sorter) begin() {
	f := s.terms[0].path.fields[0]
	col, _ := s.x.column(f)
	c, pointer := s.x.cols[col], f.typ.Kind() == reflect.Pointer
	s.number = -1
	if (c.Kind == table.Number || c.Kind == table.Time) && !(c.Covered && s.x.cover) && !f.signed() {
		s.number, s.zeroNull = col, f.Kind == Number && f.OmitEmpty && !pointer
		s.none, _ = s.terms[0].read(s.x.one).key(false)
	}
}

// rest sorts by all terms but the first, from the first row on.
func (s *sorter) rest() *sorter {
	r := &sorter{x: s.x, terms: s.terms[1:], read: s.read[1:]}
	r.begin()
	return r
}

// classes is what the first term, a trait, is for a class.
func (s *sorter) classes(id uint32) (k sortKey) {
	f := s.terms[0].path.fields[0]
	col, _ := s.x.column(f)
	s.x.with(f, s.x.t.Class(id).Value(col), func(row reflect.Value) { k, _ = s.terms[0].read(row).key(f.signed()) })
	return k
}

// reader gives what a term sorts rows by; nil: no column tells.
func (x *scan) reader(tm term) func(c *table.Chunk, i int) sortKey {
	f := tm.path.fields[0]
	col, ok := x.column(f)
	if !ok || len(tm.path.fields) != 1 || tm.path.keyed && tm.path.kind() != Text {
		return nil
	}
	of := func(row reflect.Value) (k sortKey) {
		k, _ = tm.read(row).key(f.signed())
		return k
	}
	class := func(v table.Value) (k sortKey) {
		x.with(f, v, func(row reflect.Value) { k = of(row) })
		return k
	}
	info := x.cols[col]
	var read func(c *table.Chunk, i int) sortKey
	switch info.Kind {
	case table.Trait:
		memo := make([]sortKey, x.t.Classes())
		known := make([]bool, x.t.Classes())
		return func(c *table.Chunk, i int) sortKey {
			id := c.Class(i)
			if !known[id] {
				known[id], memo[id] = true, class(x.t.Class(id).Value(col))
			}
			return memo[id]
		}
	case table.Symbol:
		memo := map[uint32]sortKey{}
		return func(c *table.Chunk, i int) sortKey {
			id := uint32(0)
			if ids := c.Symbols(col); ids != nil {
				id = ids[i]
			}
			k, known := memo[id]
			if !known {
				x.withSymbol(f, col, id, func(row reflect.Value) { k = of(row) })
				memo[id] = k
			}
			return k
		}
	case table.Object:
		return func(c *table.Chunk, i int) (k sortKey) {
			o := c.Object(col, i)
			if o == nil {
				return of(x.one)
			}
			x.withObject(f, o, func(row reflect.Value) { k = of(row) })
			return k
		}
	case table.Name:
		at := x.typ.keyPart(f)
		return func(c *table.Chunk, i int) sortKey { return sortKey{rank: valued, text: partOf(c.Idents()[i], at)} }
	case table.Text:
		none := of(x.one)
		read = func(c *table.Chunk, i int) sortKey {
			if texts := c.Texts(col); texts != nil && texts[i] != "" {
				return sortKey{rank: valued, text: texts[i]}
			}
			return none
		}
	default:
		none := of(x.one)
		zeroNull := f.Kind == Number && f.OmitEmpty && f.typ.Kind() != reflect.Pointer
		flip := uint64(0)
		if f.signed() {
			flip = 1 << 63
		}
		read = func(c *table.Chunk, i int) sortKey {
			if v, has := c.Number(col, i); has && !(zeroNull && v == 0) {
				return sortKey{rank: valued, num: v ^ flip}
			}
			return none
		}
	}
	if !x.cover || !info.Covered {
		return read
	}
	covers := map[uint32]*sortKey{}
	for id := range x.t.Classes() {
		if v, ok := x.t.Class(uint32(id)).Covers(col); ok {
			k := class(v)
			covers[uint32(id)] = &k
		}
	}
	return func(c *table.Chunk, i int) sortKey {
		if k := covers[c.Class(i)]; k != nil {
			return *k
		}
		return read(c, i)
	}
}

// isAfter says whether a row comes after the page before; first is its first key.
func (s *sorter) isAfter(first sortKey, c *table.Chunk, i int) bool {
	for k, mark := range s.after {
		key := first
		if k > 0 {
			key = s.read[k](c, i)
		}
		if d := key.compare(mark, s.terms[k].desc); d != 0 {
			return d > 0
		}
	}
	return s.after == nil
}

// best keeps the first n rows of an order, as a heap with the last on top.
type best struct {
	*sorter
	n    int
	rows []bestRow
}

type bestRow struct {
	first sortKey
	slot  table.Slot
}

func (b *best) compare(p, q bestRow) int {
	if c := p.first.compare(q.first, b.terms[0].desc); c != 0 || len(b.terms) == 1 {
		return c
	}
	cp, ip := b.x.t.At(p.slot)
	cq, iq := b.x.t.At(q.slot)
	for k := 1; k < len(b.terms); k++ {
		if c := b.read[k](cp, ip).compare(b.read[k](cq, iq), b.terms[k].desc); c != 0 {
			return c
		}
	}
	return 0
}

// add takes a row; first is its first key.
func (b *best) add(first sortKey, s table.Slot) {
	row := bestRow{first, s}
	if len(b.rows) < b.n {
		b.rows = append(b.rows, row)
		for i := len(b.rows) - 1; i > 0; {
			up := (i - 1) / 2
			if b.compare(b.rows[i], b.rows[up]) <= 0 {
				break
			}
			b.rows[i], b.rows[up] = b.rows[up], b.rows[i]
			i = up
		}
		return
	}
	if b.compare(row, b.rows[0]) >= 0 {
		return
	}
	b.rows[0] = row
	for i := 0; ; {
		big := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < len(b.rows) && b.compare(b.rows[c], b.rows[big]) > 0 {
				big = c
			}
		}
		if big == i {
			return
		}
		b.rows[i], b.rows[big] = b.rows[big], b.rows[i]
		i = big
	}
}

// over says that a row with this first key comes after all that are wanted, as
// far as its first key tells.
func (b *best) over(first sortKey) bool {
	return len(b.rows) == b.n && first.compare(b.rows[0].first, b.terms[0].desc) > 0
}

func (b *best) slots() []table.Slot {
	slices.SortFunc(b.rows, b.compare)
	out := make([]table.Slot, len(b.rows))
	for i, r := range b.rows {
		out[i] = r.slot
	}
	return out
}

// chunk takes the rows of the chunk where the scan is. Most are turned away by
// the number they are sorted by first.
func (b *best) chunk(in table.Mask) {
	x := b.x
	if b.number < 0 || !dense(in) {
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			if k := b.read[0](x.c, i); !b.over(k) && (b.after == nil || b.isAfter(k, x.c, i)) {
				b.add(k, x.slot(i))
			}
		}
		return
	}
	has := x.c.Numbers(b.number, &x.buf)
	lo, hi := b.window()
	for m := in; m != 0; m &= m - 1 {
		i := first(m)
		k := b.none
		if has&(1<<i) != 0 && !(b.zeroNull && x.buf[i] == 0) {
			v := x.buf[i]
			if v < lo || v > hi {
				continue
			}
			k = sortKey{rank: valued, num: v}
		}
		if !b.over(k) && (b.after == nil || b.isAfter(k, x.c, i)) {
			b.add(k, x.slot(i))
		}
	}
}

// window is where a first number must lie to be of the page.
func (b *best) window() (lo, hi uint64) {
	hi = ^lo
	desc := b.terms[0].desc
	if b.after != nil && b.after[0].rank == valued {
		if desc {
			hi = b.after[0].num
		} else {
			lo = b.after[0].num
		}
	}
	if len(b.rows) == b.n && b.rows[0].first.rank == valued {
		if desc {
			lo = max(lo, b.rows[0].first.num)
		} else {
			hi = min(hi, b.rows[0].first.num)
		}
	}
	if b.after != nil && b.after[0].rank == absent {
		lo, hi = 1, 0 // only nulls are left
	}
	return lo, hi
}
