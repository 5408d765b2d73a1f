package query

import (
	"iter"
	"math/bits"
	"reflect"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// A page of a table is found in one of three ways. Few rows that the filter
// names are looked up. Walking goes through the rows in the order that was
// asked for and tests each until the page is full: good when many match.
// Scanning decides about all rows chunk by chunk and keeps the first of the
// order: its cost is the same whatever matches. Classes tell how many rows can
// match; a walk that finds less than it hoped for turns into a scan.

// What looking at one row costs, in nanoseconds, beyond its filter.
const (
	walkCost = 300 // it may lie anywhere
	scanCost = 4
)

// pageOf reads one page of a table.
func (p *Plan) pageOf(src *Source, now time.Time) Page {
	n := p.size + 1 // one more tells that there are more
	x := newScan(src, p.typ, now)
	s := x.sorter(p.order, p.after)
	if s == nil {
		return p.plainPage(src, now)
	}
	return p.page(x, p.find(x, x.filter(p.Filter), s, n))
}

// page makes a page of the rows found, one more than fit when there are more.
func (p *Plan) page(x *scan, slots []table.Slot) Page {
	var extra []any
	if x.src.Extra != nil {
		extra = p.plain(&Source{Rows: x.src.Extra}, x.now)
	}
	page := Page{Rows: make([]Row, 0, len(slots)+len(extra))}
	for _, s := range slots {
		for len(extra) > 0 && p.order.compare(elem(extra[0]), elem(x.src.at(s))) < 0 {
			page.Rows, extra = append(page.Rows, Row{made: extra[0], typ: p.typ}), extra[1:]
		}
		page.Rows = append(page.Rows, Row{slot: s, src: x.src, typ: p.typ})
	}
	for _, row := range extra {
		page.Rows = append(page.Rows, Row{made: row, typ: p.typ})
	}
	return p.cut(page)
}

// find gives the slots of the first n matching rows, or of all when there are
// fewer.
func (p *Plan) find(x *scan, c *clause, s *sorter, n int) []table.Slot {
	atMost := x.atMost(c)
	if atMost == 0 {
		return nil
	}
	cost := 0
	if c != nil {
		cost = c.cost
	}
	total := x.t.Len()
	scan := total * (scanCost + cost)
	b := &best{sorter: s, n: n}
	w := p.walk(x, c, b)
	// A walk by name keeps within what the filter says of names by itself.
	if some, ok := p.named(x, scan/(2*walkCost), w == nil || !w.byName); ok {
		for _, slot := range some {
			if x.matches(c, slot) {
				i := int(slot) % table.ChunkRows
				if k := s.read[0](x.c, i); s.isAfter(k, x.c, i) {
					b.add(k, slot)
				}
			}
		}
		return b.slots()
	}
	expect := min(float64(n)*float64(total)/float64(atMost), float64(total))
	if w != nil && expect*float64(walkCost+cost) < float64(scan) {
		w.budget, w.start = scan/(walkCost+cost), min(scan/(8*(walkCost+cost)), 1024)
		if slots, ok := w.run(); ok {
			return slots
		}
		b.rows = b.rows[:0]
	}
	if w == nil {
		if slots, ok := p.inParts(x, c, s, n, scan/(walkCost+cost)); ok {
			return slots
		}
	}
	seen := uint64(0)
	x.each(c, func(in table.Mask) bool {
		b.chunk(in)
		seen += uint64(in.Len())
		return seen < atMost
	})
	return b.slots()
}

// fewParts is how many values a field may have for a list in its order to be
// made of one list for each.
const fewParts = 12

// parts are the values of the first term, when that is a trait with few, in the
// order that was asked for and without those before the page.
func (p *Plan) parts(x *scan, c *clause, s *sorter) []sortKey {
	col, ok := x.column(s.terms[0].path.fields[0])
	if !ok || x.cols[col].Kind != table.Trait || len(s.terms) < 2 {
		return nil
	}
	var keys []sortKey
	desc := s.terms[0].desc
	for id := range x.t.Classes() {
		if x.t.Class(uint32(id)).Count == 0 || c != nil && c.may != nil && c.may[id] == 0 {
			continue
		}
		k := s.classes(uint32(id))
		if !slices.Contains(keys, k) && (s.after == nil || k.compare(s.after[0], desc) >= 0) {
			if keys = append(keys, k); len(keys) > fewParts {
				return nil
			}
		}
	}
	slices.SortFunc(keys, func(a, b sortKey) int { return a.compare(b, desc) })
	return keys
}

// inParts walks to the rows of each value of the first term, after those of the
// one before, in the order of the other terms. All walks together look at no
// more rows than the budget; ok is false when that is not enough, or when the
// table has no such order.
func (p *Plan) inParts(x *scan, c *clause, s *sorter, n, budget int) (slots []table.Slot, ok bool) {
	parts := p.parts(x, c, s)
	if parts == nil {
		return nil, false
	}
	for _, part := range parts {
		may := make([]uint8, x.t.Classes())
		for id := range may {
			if (c == nil || c.may == nil || c.may[id] != 0) && s.classes(uint32(id)) == part {
				may[id] = 1
			}
		}
		of := classClause(may)
		if c != nil && !c.exact {
			of.exact, of.cost, of.step = false, c.cost, allSteps{byClass(may), c.step}
		}
		rest := s.rest()
		if s.after != nil && part == s.after[0] {
			rest.after = s.after[1:]
		}
		w := p.walk(x, &of, &best{sorter: rest, n: n - len(slots)})
		if w == nil {
			return nil, false
		}
		w.budget, w.start = budget, min(budget/8, 1024)
		found, ok := w.run()
		if !ok {
			return nil, false
		}
		budget -= w.tried
		if slots = append(slots, found...); len(slots) == n {
			break
		}
	}
	return slots, true
}

// named gives the rows among which those that match must be, when the filter
// names few: by name, a part of the name from its start, or root. ok is false
// when it names none, or more than limit.
func (p *Plan) named(x *scan, limit int, spans bool) (slots []table.Slot, ok bool) {
	t := x.typ
	ascend := func(from, to string) bool { // to is exclusive; empty: the end
		x.t.Names().Ascend(table.Mark{Slate: from}, func(_ uint64, id *table.Ident) bool {
			if to != "" && id.Slate >= to {
				return false
			}
			slots = append(slots, id.Slot)
			return len(slots) <= limit
		})
		return len(slots) <= limit
	}
	if names, is := p.Filter.Only(t.key[0].Name); is {
		for _, name := range names {
			if !ascend(name, name+"\x00") {
				return nil, false
			}
		}
		return slots, true
	}
	if len(t.key) == 3 {
		if roots, is := p.Filter.Only(t.key[2].Name); is {
			if col := t.key[1]; len(roots) <= 100 {
				for _, region := range x.regions(col) {
					for _, root := range roots {
						if s := x.t.Find(region, root); s != table.None {
							slots = append(slots, s)
						}
					}
				}
				return slots, true
			}
		}
	}
	if !spans {
		return nil, false
	}
	from, to := p.Filter.span(t.key[0].Name)
	if from == "" && to == "" || to != "" && from >= to {
		return nil, from != "" && to != ""
	}
	if !ascend(from, to) {
		return nil, false
	}
	return slots, true
}

// regions are the values of a trait that rows have.
func (x *scan) regions(f *Field) []string {
	col, _ := x.column(f)
	if x.cols[col].Kind != table.Trait {
		return nil
	}
	var out []string
	for id := range x.t.Classes() {
		if c := x.t.Class(uint32(id)); c.Count > 0 {
			out = append(out, c.Value(col).Text)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// span gives bounds of a text field that every matching row is within: from
// inclusive, to exclusive, empty for none.
func (f *Filter) span(field string) (from, to string) {
	ns, ok := f.root.(allOf)
	if !ok {
		ns = allOf{f.root}
	}
	for _, n := range ns {
		r, ok := n.(*restriction)
		if !ok || len(r.parts) != 1 || r.parts[0] != field {
			continue
		}
		lo, hi := "", ""
		switch r.op {
		case "=":
			if p := newPattern(r.arg); !p.exact && p.parts[0] != "" {
				lo, hi = p.parts[0], past(p.parts[0])
			}
		case "<", "<=":
			if hi = unescape(r.arg); r.op == "<=" {
				hi += "\x00"
			}
		case ">", ">=":
			lo = unescape(r.arg)
		}
		from = max(from, lo)
		if hi != "" && (to == "" || hi < to) {
			to = hi
		}
	}
	return from, to
}

// past is the lowest text above all that begin with a prefix; empty: none is.
func past(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return ""
}

// walk goes through rows in an order.
type walk struct {
	x *scan
	c *clause
	// rows yields the rows from where the page begins; first is the key of
	// the first term.
	rows func(yield func(first sortKey, s table.Slot) bool)
	// exact: the rows come in the order that was asked for. Else only the
	// first term's, and best sorts those that are alike.
	exact  bool
	byName bool
	best   *best
	budget int // rows to look at, at most
	start  int // rows after which it must have found something
	tried  int // rows looked at
}

// run gives the page; ok is false when it gave up.
func (w *walk) run() (slots []table.Slot, ok bool) {
	found := 0
	gaveUp := false
	w.rows(func(k sortKey, s table.Slot) bool {
		if !w.exact && w.best.over(k) {
			return false
		}
		if w.tried++; w.tried&255 == 0 && (w.tried > w.budget || w.tried > w.start && w.tried/max(found, 1)*w.best.n > w.budget) {
			gaveUp = true
			return false
		}
		if !w.x.matches(w.c, s) {
			return true
		}
		if w.exact {
			found++
			slots = append(slots, s)
			return found < w.best.n
		}
		if i := int(s) % table.ChunkRows; w.best.isAfter(k, w.x.c, i) {
			found++
			w.best.add(k, s)
		}
		return true
	})
	if gaveUp || w.exact {
		return slots, !gaveUp
	}
	return w.best.slots(), true
}

// walk finds an order of the table that begins as the plan's does; nil: none.
func (p *Plan) walk(x *scan, c *clause, b *best) *walk {
	terms := b.terms
	w := &walk{x: x, c: c, best: b}
	first := terms[0].path.fields[0]
	if len(terms[0].path.fields) != 1 || terms[0].path.keyed {
		return nil
	}
	if first == x.typ.key[0] {
		desc := terms[0].desc
		w.exact, w.byName = x.isKey(terms, desc), true
		from := table.Mark{}
		if desc {
			from = table.Last
		}
		switch {
		case b.after == nil:
		case w.exact:
			from = markOf(b.after, 0, !desc)
		case desc:
			from = table.Mark{Slate: b.after[0].text + "\x00"}
		default:
			from = table.Mark{Slate: b.after[0].text}
		}
		lo, hi := p.Filter.span(first.Name)
		if !desc && lo > from.Slate {
			from = table.Mark{Slate: lo}
		}
		if desc && hi != "" && hi < from.Slate {
			from = table.Mark{Slate: hi}
		}
		w.rows = func(yield func(sortKey, table.Slot) bool) {
			step := func(_ uint64, id *table.Ident) bool {
				if desc && id.Slate < lo || !desc && hi != "" && id.Slate >= hi {
					return false
				}
				return yield(sortKey{rank: valued, text: id.Slate}, id.Slot)
			}
			if desc {
				x.t.Names().Descend(from, step)
			} else {
				x.t.Names().Ascend(from, step)
			}
		}
		return w
	}
	col, ok := x.column(first)
	if !ok || x.t.Order(col) == nil || x.cols[col].Covered || first.signed() || first.typ.Kind() != reflect.Pointer && (first.OmitEmpty || first.Kind == Time) {
		return nil
	}
	w.exact = x.isKey(terms[1:], false)
	w.rows = func(yield func(sortKey, table.Slot) bool) {
		more := true
		valuedRows := func(v uint64, id *table.Ident) bool {
			more = yield(sortKey{rank: valued, num: v}, id.Slot)
			return more
		}
		nulls := table.First
		switch o := x.t.Order(col); {
		case b.after != nil && b.after[0].rank == absent:
			if w.exact {
				nulls = markOf(b.after[1:], 0, true)
			}
		case terms[0].desc:
			descend(o, w.exact, b.after, valuedRows)
		case b.after == nil:
			o.Ascend(table.First, valuedRows)
		case w.exact:
			o.Ascend(markOf(b.after[1:], b.after[0].num, true), valuedRows)
		default:
			o.Ascend(table.Mark{Num: b.after[0].num}, valuedRows)
		}
		if more {
			x.t.Nulls(col).Ascend(nulls, func(_ uint64, id *table.Ident) bool { return yield(sortKey{rank: absent}, id.Slot) })
		}
	}
	return w
}

// isKey says whether terms are just the key, all in one direction.
func (x *scan) isKey(terms []term, desc bool) bool {
	if len(terms) != len(x.typ.key) {
		return false
	}
	for i, tm := range terms {
		if len(tm.path.fields) != 1 || tm.path.keyed || tm.path.fields[0] != x.typ.key[i] || tm.desc != desc {
			return false
		}
	}
	return true
}

// markOf is the place beside the row whose ident has these parts.
func markOf(parts []sortKey, num uint64, after bool) table.Mark {
	m := table.Mark{Num: num, After: after, Slate: parts[0].text}
	if len(parts) > 2 {
		m.Region, m.Root = parts[1].text, parts[2].text
	}
	return m
}

// many rows of one value are walked on their own.
const many = 64

// descend walks an order from its highest value. When it must be exact, rows
// of one value come in the order of their idents.
func descend(o *table.Order, exact bool, after []sortKey, yield func(uint64, *table.Ident) bool) {
	from := table.Last
	more := true
	group := func(at table.Mark) { // the rows of one value
		o.Ascend(at, func(v uint64, id *table.Ident) bool {
			if v != at.Num {
				return false
			}
			more = yield(v, id)
			return more
		})
	}
	switch {
	case after == nil:
	case exact:
		if group(markOf(after[1:], after[0].num, true)); !more {
			return
		}
		from = table.Mark{Num: after[0].num}
	default:
		from = table.Mark{Num: after[0].num, Slate: table.Last.Slate, After: true}
	}
	if !exact {
		o.Descend(from, yield)
		return
	}
	for more {
		var alike []*table.Ident // of one value, the last first
		var num uint64
		crowd := false
		flush := func() {
			for _, id := range slices.Backward(alike) {
				if more = yield(num, id); !more {
					break
				}
			}
			alike = alike[:0]
		}
		o.Descend(from, func(v uint64, id *table.Ident) bool {
			if len(alike) > 0 && v != num {
				if flush(); !more {
					return false
				}
			}
			num, alike = v, append(alike, id)
			crowd = len(alike) > many
			return !crowd
		})
		if !more {
			return
		}
		if !crowd {
			flush()
			return
		}
		group(table.Mark{Num: num})
		from = table.Mark{Num: num}
	}
}

// matchesOf yields the matching rows of a table in the order of their idents.
func (p *Plan) matchesOf(src *Source, now time.Time) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		x := newScan(src, p.typ, now)
		c := x.filter(p.Filter)
		going := true
		give := func(s table.Slot) bool {
			going = going && yield(Row{slot: s, src: src, typ: p.typ})
			return going
		}
		if c == nil {
			x.t.Names().Ascend(table.First, func(_ uint64, id *table.Ident) bool { return give(id.Slot) })
		} else {
			p.marked(x, c, give)
		}
		if going && src.Extra != nil {
			for row := range p.Matches(Source{Rows: src.Extra}, now) {
				if !yield(row) {
					return
				}
			}
		}
	}
}

// marked decides about all rows first, and then goes through them in order:
// few are sorted, many are met on a walk.
func (p *Plan) marked(x *scan, c *clause, give func(table.Slot) bool) {
	is := make([]table.Mask, x.t.Chunks())
	n := 0
	x.each(c, func(in table.Mask) bool {
		is[x.ci] = in
		n += in.Len()
		return true
	})
	if n*bits.Len(uint(n)) > x.t.Len() {
		x.t.Names().Ascend(table.First, func(_ uint64, id *table.Ident) bool {
			return is[id.Slot/table.ChunkRows]&(1<<(id.Slot%table.ChunkRows)) == 0 || give(id.Slot)
		})
		return
	}
	ids := make([]*table.Ident, 0, n)
	for ci, m := range is {
		for ; m != 0; m &= m - 1 {
			ids = append(ids, x.t.Chunk(ci).Idents()[first(m)])
		}
	}
	slices.SortFunc(ids, (*table.Ident).Compare)
	for _, id := range ids {
		if !give(id.Slot) {
			return
		}
	}
}
