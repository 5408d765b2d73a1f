package query

import (
	"iter"
	"reflect"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// A page of a table is found in one of two ways. Walking goes through the rows
// in the order that was asked for and tests each, until the page is full: good
// when many rows match. Scanning decides about all rows chunk by chunk and
// keeps the first of the order: its cost is the same whatever matches. Classes
// tell how many rows may match at most; a walk that finds too little turns into
// a scan.

// pageOf reads one page of a table.
func (p *Plan) pageOf(src Source, now time.Time) Page {
	x := newScan(src.Table, p.typ, now, src.Fill)
	f := p.Filter.columns(x)
	atMost := x.upper(p.Filter.root)
	if atMost == 0 {
		return Page{}
	}
	n := p.size + 1
	if names, ok := p.Filter.Only(p.typ.key[0].Name); ok && x.named(p.typ.key[0].Name) && len(names) <= 100 {
		return p.rows(x, x.ofNames(p, f, names), n)
	}
	var slots []table.Slot
	done := false
	if w := p.walker(x); w != nil {
		total := src.Table.Len()
		expect := uint64(n) * uint64(total) / atMost
		budget := total/20 + 1000
		if expect <= uint64(budget) {
			slots, done = w(f, n, budget)
		}
	}
	if !done {
		slots = p.best(x, f, n)
	}
	return p.rows(x, slots, n)
}

// rows makes the rows of a page.
func (p *Plan) rows(x *scan, slots []table.Slot, n int) Page {
	var page Page
	if len(slots) >= n {
		slots = slots[:p.size]
	} else {
		n = -1
	}
	for _, s := range slots {
		x.ci = int(s) / table.ChunkRows
		page.Rows = append(page.Rows, x.row(int(s)%table.ChunkRows))
	}
	if n > 0 {
		page.Next = p.order.encode(elem(page.Rows[p.size-1]), p.bind)
	}
	return page
}

// named reports whether a field is the first part of idents.
func (x *scan) named(field string) bool {
	c := x.t.Schema().IdentColumns()[0]
	return c >= 0 && x.t.Schema().Columns()[c].Name == field
}

// at brings the scan to a slot.
func (x *scan) at(s table.Slot) (i int) {
	x.ci = int(s) / table.ChunkRows
	x.c, i = x.t.At(s)
	return i
}

func (x *scan) matches(f *clause, s table.Slot) bool {
	i := x.at(s)
	return f == nil || f.vec(x, 1<<i) != 0
}

// ofNames is a page of the rows with some names.
func (x *scan) ofNames(p *Plan, f *clause, names []string) []table.Slot {
	t := p.topOf(x, p.size+1)
	for _, name := range names {
		x.t.Names().Ascend(table.Mark{Slate: name}, func(_ uint64, id *table.Ident) bool {
			if id.Slate != name {
				return false
			}
			if x.matches(f, id.Slot) {
				t.add(id.Slot)
			}
			return true
		})
	}
	return t.slots()
}

// walker finds a way to walk the rows in the plan's order; nil: there is none.
// The way gives up when it has looked at budget rows.
func (p *Plan) walker(x *scan) func(f *clause, n, budget int) ([]table.Slot, bool) {
	sc := x.t.Schema()
	ident := sc.IdentColumns()
	terms := p.order.terms
	// The rest of the order must be that of idents.
	rest := func(terms []term) bool {
		for _, col := range ident {
			if col < 0 {
				continue
			}
			if len(terms) == 0 || terms[0].desc || len(terms[0].path.fields) != 1 || terms[0].path.keyed || terms[0].name != sc.Columns()[col].Name {
				return false
			}
			terms = terms[1:]
		}
		return len(terms) == 0
	}
	if rest(terms) {
		return func(f *clause, n, budget int) ([]table.Slot, bool) {
			w := walk{x: x, f: f, n: n, budget: budget}
			from := table.First
			if p.after != nil {
				from = markOf(ident, 0, p.after, 0)
			}
			x.t.Names().Ascend(from, func(_ uint64, id *table.Ident) bool { return w.take(id.Slot) })
			return w.found, !w.spent
		}
	}
	col, ok := sc.Column(terms[0].name)
	if !ok || len(terms[0].path.fields) != 1 || x.t.Order(col) == nil || !rest(terms[1:]) {
		return nil
	}
	if f := terms[0].path.fields[0]; f.OmitEmpty && !f.Nullable && f.typ.Kind() != reflect.Pointer {
		return nil // a zero would be null
	}
	return func(f *clause, n, budget int) ([]table.Slot, bool) {
		w := walk{x: x, f: f, n: n, budget: budget}
		nulls := table.First
		if p.after != nil && p.after[0].null() {
			nulls = markOf(ident, 0, p.after[1:], 0)
		} else if terms[0].desc {
			w.down(x.t.Order(col), p, ident)
		} else {
			from := table.First
			if p.after != nil {
				from = markOf(ident, numberOf(p.after[0]), p.after[1:], 0)
			}
			x.t.Order(col).Ascend(from, func(_ uint64, id *table.Ident) bool { return w.take(id.Slot) })
		}
		if len(w.found) < n && !w.spent {
			x.t.Nulls(col).Ascend(nulls, func(_ uint64, id *table.Ident) bool { return w.take(id.Slot) })
		}
		return w.found, !w.spent
	}
}

func numberOf(v value) uint64 {
	if v.kind == Time {
		n, _ := table.TimeNumber(v.t)
		return n
	}
	return v.num.mag
}

// markOf is the place right after the row with these ident values.
func markOf(ident [3]int, num uint64, vals []value, at int) table.Mark {
	m := table.Mark{Num: num, After: true}
	for part, col := range ident {
		if col < 0 {
			continue
		}
		switch s := vals[at].s; part {
		case 0:
			m.Slate = s
		case 1:
			m.Region = s
		default:
			m.Root = s
		}
		at++
	}
	return m
}

// walk gathers the rows of a page on its way.
type walk struct {
	x      *scan
	f      *clause
	n      int
	budget int
	found  []table.Slot
	spent  bool // gave up
}

func (w *walk) take(s table.Slot) bool {
	if w.budget--; w.budget < 0 {
		w.spent = true
		return false
	}
	if w.x.matches(w.f, s) {
		w.found = append(w.found, s)
	}
	return len(w.found) < w.n
}

// down walks an order from its highest value, rows of equal value in the order
// of their idents.
func (w *walk) down(o *table.Order, p *Plan, ident [3]int) {
	from := table.Last
	var group []table.Slot // of one value, the last ident first
	var num uint64
	flush := func() bool {
		slices.Reverse(group)
		for _, s := range group {
			if !w.take(s) {
				return false
			}
		}
		group = group[:0]
		return true
	}
	if p.after != nil {
		// First what is left of the value where the page before ended.
		num = numberOf(p.after[0])
		more := true
		o.Ascend(markOf(ident, num, p.after[1:], 0), func(v uint64, id *table.Ident) bool {
			more = v == num && w.take(id.Slot)
			return more
		})
		if w.spent || len(w.found) >= w.n {
			return
		}
		from = table.Mark{Num: num}
	}
	more := true
	o.Descend(from, func(v uint64, id *table.Ident) bool {
		if len(group) > 0 && v != num {
			more = flush()
		}
		num = v
		group = append(group, id.Slot)
		if len(group) > w.budget {
			w.spent, more = true, false
		}
		return more
	})
	if more {
		flush()
	}
}

// best is the first n matching rows of the order, by looking at all.
func (p *Plan) best(x *scan, f *clause, n int) []table.Slot {
	t := p.topOf(x, n)
	x.each64(f, func(in table.Mask) {
		for m := in; m != 0; m &= m - 1 {
			t.add(table.Slot(x.ci*table.ChunkRows + first(m)))
		}
	})
	return t.slots()
}

// each64 goes through the chunks with their matching rows.
func (x *scan) each64(f *clause, yield func(in table.Mask)) {
	for x.ci = range x.t.Chunks() {
		if x.c = x.t.Chunk(x.ci); x.c == nil {
			continue
		}
		in := x.c.Live()
		if f != nil {
			in = f.vec(x, in)
		}
		if in != 0 {
			yield(in)
		}
	}
}

// topOf keeps the first rows of an order, reading only what it compares.
type topOf struct {
	x     *scan
	p     *Plan
	n     int
	read  []func(i int) value // by term; nil: on the whole row
	rows  []topRow            // a heap with the last on top
	probe []value
}

type topRow struct {
	slot table.Slot
	vals []value
}

func (p *Plan) topOf(x *scan, n int) *topOf {
	t := &topOf{x: x, p: p, n: n, probe: make([]value, len(p.order.terms))}
	for _, tm := range p.order.terms {
		read, ok := x.reader(tm)
		if !ok {
			read = func(i int) value { return tm.read(elem(x.row(i))) }
		}
		t.read = append(t.read, read)
	}
	return t
}

// add takes a row of the chunk where the scan is.
func (t *topOf) add(s table.Slot) {
	i := int(s) % table.ChunkRows
	known := 0
	val := func(k int) value {
		for known <= k {
			t.probe[known] = t.read[known](i)
			known++
		}
		return t.probe[k]
	}
	if t.p.after != nil {
		c := 0
		for k, tm := range t.p.order.terms {
			if c = tm.compare(val(k), t.p.after[k]); c != 0 {
				break
			}
		}
		if c <= 0 {
			return
		}
	}
	if len(t.rows) == t.n {
		worst := t.rows[0].vals
		for k, tm := range t.p.order.terms {
			if c := tm.compare(val(k), worst[k]); c > 0 {
				return
			} else if c < 0 {
				break
			}
		}
	}
	val(len(t.read) - 1)
	if len(t.rows) < t.n {
		t.rows = append(t.rows, topRow{s, slices.Clone(t.probe)})
		for i := len(t.rows) - 1; i > 0; {
			up := (i - 1) / 2
			if t.compare(t.rows[i], t.rows[up]) <= 0 {
				break
			}
			t.rows[i], t.rows[up] = t.rows[up], t.rows[i]
			i = up
		}
		return
	}
	copy(t.rows[0].vals, t.probe)
	t.rows[0].slot = s
	for i := 0; ; {
		big := i
		for _, c := range []int{2*i + 1, 2*i + 2} {
			if c < len(t.rows) && t.compare(t.rows[c], t.rows[big]) > 0 {
				big = c
			}
		}
		if big == i {
			return
		}
		t.rows[i], t.rows[big] = t.rows[big], t.rows[i]
		i = big
	}
}

func (t *topOf) compare(a, b topRow) int {
	for k, tm := range t.p.order.terms {
		if c := tm.compare(a.vals[k], b.vals[k]); c != 0 {
			return c
		}
	}
	return 0
}

func (t *topOf) slots() []table.Slot {
	slices.SortFunc(t.rows, t.compare)
	var out []table.Slot
	for _, r := range t.rows {
		out = append(out, r.slot)
	}
	return out
}

// matchesOf yields the matching rows of a table in the order of idents.
func (p *Plan) matchesOf(src Source, now time.Time) iter.Seq[any] {
	return func(yield func(any) bool) {
		x := newScan(src.Table, p.typ, now, src.Fill)
		f := p.Filter.columns(x)
		if f == nil {
			src.Table.Names().Ascend(table.First, func(_ uint64, id *table.Ident) bool { return yield(x.row(x.at(id.Slot))) })
			return
		}
		var ids []*table.Ident
		x.each64(f, func(in table.Mask) {
			for m := in; m != 0; m &= m - 1 {
				ids = append(ids, x.c.Idents()[first(m)])
			}
		})
		slices.SortFunc(ids, (*table.Ident).Compare)
		for _, id := range ids {
			if !yield(x.row(x.at(id.Slot))) {
				return
			}
		}
	}
}
