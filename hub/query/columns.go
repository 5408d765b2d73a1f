package query

import (
	"math/bits"
	"reflect"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// A filter over a [table.Table] is decided chunk by chunk: each step turns a
// set of 64 rows into those of them that fulfil it. What classes tell is
// decided once per class, what symbols tell once per symbol; numbers and times
// are intervals, compared in tight loops; texts are tested one by one. What is
// left is decided by the predicate for rows in memory, on a row that has only
// the one field, so that both ways agree.

// scan is where a filter stands in a table. It belongs to one goroutine.
type scan struct {
	src    *Source
	t      *table.Table
	typ    *Type
	cols   []table.Column
	now    time.Time
	c      *table.Chunk
	ci     int                     // of the chunk
	begin  int                     // the first chunk that each goes through
	end    int                     // the one after the last
	one    reflect.Value           // a row with nothing in it but while someone asks
	buf    [table.ChunkRows]uint64 // numbers of the chunk
	texts  [table.ChunkRows]string // texts of the chunk
	cover  bool                    // some class shows what its rows do not store
	warmed uint64                  // means nothing; see [warmer]
	// texted are the columns that [Sketches] cover, sketched is how many were
	// made.
	texted   []int
	sketched int
}

func newScan(src *Source, typ *Type, now time.Time) *scan {
	x := &scan{src: src, t: src.Table, typ: typ, now: now, one: reflect.New(typ.row).Elem(), cols: src.Table.Schema().Columns(), end: src.Table.Chunks()}
	if src.Sketches != nil {
		x.texted = textColumns(x.cols)
	}
	for id := range x.t.Classes() {
		x.cover = x.cover || x.t.Class(uint32(id)).Covered()
	}
	return x
}

// step is one part of a filter. It gives the rows of in that fulfil it; in is
// never empty and has only rows that are there.
type step interface {
	mask(x *scan, in table.Mask) table.Mask
}

// clause is a step, and what is known of it before any row is read.
type clause struct {
	step step
	cost int // nanoseconds for a row, roughly
	// may says by class whether rows of it can match; nil: any can.
	may []uint8
	// exact: may is the whole truth.
	exact bool
}

func first(m table.Mask) int { return bits.TrailingZeros64(uint64(m)) }

// dense says whether it is cheaper to do all rows of a chunk than one by one.
func dense(m table.Mask) bool { return m.Len() > 12 }

// filter compiles a filter for the table; nil: everything matches.
func (x *scan) filter(f *Filter) *clause {
	if f.root == nil {
		return nil
	}
	c := x.compile(f.root)
	if c.may != nil && !c.exact {
		c.step = allSteps{byClass(c.may), c.step}
	}
	return &c
}

// atMost is how many rows can match, as far as classes tell.
func (x *scan) atMost(c *clause) uint64 {
	if c == nil || c.may == nil {
		return uint64(x.t.Len())
	}
	n := uint64(0)
	for id, ok := range c.may {
		if ok != 0 {
			n += x.t.Class(uint32(id)).Count
		}
	}
	return n
}

func (x *scan) compile(n node) clause {
	switch n := n.(type) {
	case allOf:
		return x.all(n)
	case anyOf:
		parts := make([]clause, len(n))
		for i, k := range n {
			parts[i] = x.compile(k)
		}
		return anyClause(parts)
	case not:
		c := x.compile(n.of)
		if c.exact {
			return classClause(mapped(c.may, func(ok uint8) uint8 { return 1 - ok }))
		}
		return clause{step: notStep{c.step}, cost: c.cost}
	case anyHas:
		return x.contains(n.text)
	case *restriction:
		return x.restrict(n)
	}
	panic("query: unknown node")
}

func mapped(a []uint8, f func(uint8) uint8) []uint8 {
	out := make([]uint8, len(a))
	for i, v := range a {
		out[i] = f(v)
	}
	return out
}

func classClause(may []uint8) clause {
	return clause{step: byClass(may), cost: 1, may: may, exact: true}
}

// all is a conjunction: what classes tell becomes one step, the cheapest of the
// others follows.
func (x *scan) all(ns []node) clause {
	var rest []clause
	var may []uint8
	exact := true
	for _, n := range ns {
		c := x.compile(n)
		if c.may != nil {
			if may == nil {
				may = slices.Clone(c.may)
			} else {
				for id, ok := range c.may {
					may[id] &= ok
				}
			}
		}
		if !c.exact {
			exact = false
			rest = append(rest, c)
		}
	}
	if exact {
		return classClause(may)
	}
	slices.SortStableFunc(rest, func(a, b clause) int { return a.cost - b.cost })
	out := clause{may: may}
	var steps allSteps
	if may != nil {
		steps = append(steps, byClass(may))
	}
	for i, c := range rest {
		steps = append(steps, c.step)
		out.cost += max(1, c.cost>>i) // the first ones leave few rows
	}
	out.step = steps
	if len(steps) == 1 {
		out.step = steps[0]
	}
	return out
}

func anyClause(parts []clause) clause {
	slices.SortStableFunc(parts, func(a, b clause) int { return a.cost - b.cost })
	var known []uint8
	var steps anySteps
	out := clause{}
	bounded := true
	for _, c := range parts {
		bounded = bounded && c.may != nil
		if !c.exact {
			steps = append(steps, c.step)
			out.cost += c.cost
			continue
		}
		if known == nil {
			known = slices.Clone(c.may)
			continue
		}
		for id, ok := range c.may {
			known[id] |= ok
		}
	}
	if len(steps) == 0 {
		return classClause(known)
	}
	if known != nil {
		steps = append(anySteps{byClass(known)}, steps...)
		out.cost++
	}
	if bounded {
		out.may = make([]uint8, len(parts[0].may))
		for _, c := range parts {
			for id, ok := range c.may {
				out.may[id] |= ok
			}
		}
	}
	out.step = steps
	if len(steps) == 1 {
		out.step = steps[0]
	}
	return out
}

type (
	allSteps []step
	anySteps []step
	notStep  struct{ step }
	// byClass decides by the row's class: 1 or 0.
	byClass []uint8
)

func (s allSteps) mask(x *scan, in table.Mask) table.Mask {
	for _, s := range s {
		if in = s.mask(x, in); in == 0 {
			return 0
		}
	}
	return in
}

func (s anySteps) mask(x *scan, in table.Mask) (is table.Mask) {
	for _, s := range s {
		is |= s.mask(x, in&^is)
		if is == in {
			break
		}
	}
	return is
}

func (s notStep) mask(x *scan, in table.Mask) table.Mask { return in &^ s.step.mask(x, in) }

func (ok byClass) mask(x *scan, in table.Mask) (is table.Mask) {
	classes := x.c.Classes()
	if in == ^table.Mask(0) {
		for i, id := range classes {
			is |= table.Mask(ok[id]) << i
		}
		return is
	}
	for m := in; m != 0; m &= m - 1 {
		i := first(m)
		is |= table.Mask(ok[classes[i]]) << i
	}
	return is
}

// restrict compiles one comparison.
func (x *scan) restrict(r *restriction) clause {
	test, err := x.typ.restrict(r)
	if err != nil {
		panic("query: a filter that was compiled does not compile: " + err.Error())
	}
	p, _, _ := x.typ.resolve(r.parts)
	f := p.fields[0]
	col, ok := x.column(f)
	if !ok {
		return x.beyond(r, f, test)
	}
	single := len(p.fields) == 1 && !p.keyed
	switch info := x.cols[col]; {
	case info.Kind == table.Trait:
		return classClause(x.ofClasses(f, col, test))
	case info.Kind == table.Symbol:
		return x.bySymbol(f, col, test)
	case info.Kind == table.Object:
		return x.byObject(f, col, test)
	case single && (info.Kind == table.Name || info.Kind == table.Text):
		return x.byText(f, col, textTest(r, f), test, needleFor(r))
	case single:
		return x.byNumber(r, f, col, test)
	}
	panic("query: no way to read column " + x.cols[col].Name)
}

// column is the column of a field.
func (x *scan) column(f *Field) (int, bool) {
	name := f.Name
	if as, ok := x.src.Columns[name]; ok {
		name = as
	}
	return x.t.Schema().Column(name)
}

// with asks about a row that has nothing but one field.
func (x *scan) with(f *Field, v table.Value, ask func(reflect.Value)) {
	f.set(x.one, v)
	ask(x.one)
	x.one.FieldByIndex(f.index).SetZero()
}

func (x *scan) holds(f *Field, v table.Value, test pred) (ok uint8) {
	x.with(f, v, func(row reflect.Value) {
		if test(row, x.now) {
			ok = 1
		}
	})
	return ok
}

// ofClasses decides about a trait for each class.
func (x *scan) ofClasses(f *Field, col int, test pred) []uint8 {
	out := make([]uint8, x.t.Classes())
	known := map[table.Value]uint8{}
	for id := range out {
		v := x.t.Class(uint32(id)).Value(col)
		ok, had := known[v]
		if !had {
			ok = x.holds(f, v, test)
			known[v] = ok
		}
		out[id] = ok
	}
	return out
}

// covers decides for classes that show something else than their rows store:
// 0: what is stored counts, 1: no row fulfils it, 2: all do. nil: there is none.
func (x *scan) covers(f *Field, col int, test pred) []uint8 {
	if !x.cover || !x.cols[col].Covered {
		return nil
	}
	out := make([]uint8, x.t.Classes())
	for id := range out {
		if v, ok := x.t.Class(uint32(id)).Covers(col); ok {
			out[id] = 1 + x.holds(f, v, test)
		}
	}
	return out
}

// covering replaces what was found for the rows of classes that cover.
func (x *scan) covering(by []uint8, in, is table.Mask) table.Mask {
	if by == nil {
		return is
	}
	classes := x.c.Classes()
	for m := in; m != 0; m &= m - 1 {
		switch i := first(m); by[classes[i]] {
		case 1:
			is &^= 1 << i
		case 2:
			is |= 1 << i
		}
	}
	return is
}

// bySymbol decides once for each symbol that is met.
func (x *scan) bySymbol(f *Field, col int, test pred) clause {
	return clause{cost: 2, step: &symbolStep{f: f, col: col, test: test, known: make([]uint8, x.t.Symbols(col))}}
}

type symbolStep struct {
	f     *Field
	col   int
	test  pred
	known []uint8 // 0: not asked yet, 1: no, 2: yes
}

func (s *symbolStep) decide(x *scan, id uint32) (ok uint8) {
	ask := func(row reflect.Value) {
		if s.known[id] = 1; s.test(row, x.now) {
			s.known[id] = 2
		}
	}
	x.withSymbol(s.f, s.col, id, ask)
	return s.known[id]
}

// withSymbol asks about a row that has nothing but a symbol.
func (x *scan) withSymbol(f *Field, col int, id uint32, ask func(reflect.Value)) {
	if id != 0 && f.Kind == Map {
		x.withObject(f, x.t.SymbolMap(col, id), ask)
		return
	}
	x.with(f, table.Value{Null: id == 0, Text: x.t.Symbol(col, id)}, ask)
}

func (x *scan) withObject(f *Field, o any, ask func(reflect.Value)) {
	at := x.one.FieldByIndex(f.index)
	at.Set(reflect.ValueOf(o))
	ask(x.one)
	at.SetZero()
}

func (s *symbolStep) warm(c *table.Chunk) uint64 {
	if ids := c.Symbols(s.col); ids != nil {
		return uint64(ids[0] + ids[16] + ids[32] + ids[48])
	}
	return 0
}

func (s *symbolStep) mask(x *scan, in table.Mask) (is table.Mask) {
	ids := x.c.Symbols(s.col)
	if ids == nil {
		if s.known[0] == 2 || s.known[0] == 0 && s.decide(x, 0) == 2 {
			return in
		}
		return 0
	}
	for m := in; m != 0; m &= m - 1 {
		i := first(m)
		k := s.known[ids[i]]
		if k == 0 {
			k = s.decide(x, ids[i])
		}
		is |= table.Mask(k>>1) << i
	}
	return is
}

// byObject decides about a list or record; rows without one are all alike.
func (x *scan) byObject(f *Field, col int, test pred) clause {
	return clause{cost: 20, step: &objectStep{f: f, col: col, test: test, none: test(x.one, x.now)}}
}

type objectStep struct {
	f    *Field
	col  int
	test pred
	none bool // what holds of a row without
}

func (s *objectStep) warm(c *table.Chunk) (n uint64) {
	for i := 0; i < table.ChunkRows; i += 4 {
		if c.Object(s.col, i) != nil {
			n++
		}
	}
	return n
}

func (s *objectStep) mask(x *scan, in table.Mask) (is table.Mask) {
	if !x.c.Objects(s.col) {
		if s.none {
			return in
		}
		return 0
	}
	// Which have something, before the first is asked about.
	var some table.Mask
	for m := in; m != 0; m &= m - 1 {
		i := first(m)
		if o := x.c.Object(s.col, i); o != nil && (s.f.Kind == Record || reflect.ValueOf(o).Len() > 0) {
			some |= 1 << i
		}
	}
	if s.none {
		is = in &^ some
	}
	at := x.one.FieldByIndex(s.f.index)
	for m := some; m != 0; m &= m - 1 {
		i := first(m)
		at.Set(reflect.ValueOf(x.c.Object(s.col, i)))
		if s.test(x.one, x.now) {
			is |= 1 << i
		}
	}
	at.SetZero()
	return is
}

// beyond decides about a field that no column has.
func (x *scan) beyond(r *restriction, f *Field, test pred) clause {
	if th, ok := x.src.Through[f.Name]; ok {
		return x.through(th, r)
	}
	return clause{cost: 5000, step: rowStep{test}}
}

// rowStep makes the whole row.
type rowStep struct{ test pred }

func (s rowStep) mask(x *scan, in table.Mask) (is table.Mask) {
	for m := in; m != 0; m &= m - 1 {
		if i := first(m); s.test(elem(x.src.at(x.slot(i))), x.now) {
			is |= 1 << i
		}
	}
	return is
}

// slot is that of row i of the chunk.
func (x *scan) slot(i int) table.Slot { return table.Slot(x.ci*table.ChunkRows + i) }

// to brings the scan to a slot.
func (x *scan) to(s table.Slot) (i int) {
	x.ci = int(s) / table.ChunkRows
	x.c, i = x.t.At(s)
	return i
}

// matches decides about one row that is there.
func (x *scan) matches(c *clause, s table.Slot) bool {
	i := x.to(s)
	return c == nil || c.step.mask(x, 1<<i) != 0
}

// ahead is how many chunks are fetched at once. What a chunk has lies all over
// the memory, and reaching it takes longer than deciding about it: a scan asks
// for that of many chunks before it looks at the first.
const ahead = 16

// warmer is a step that can fetch early what it will read of a chunk. What it
// returns means nothing, but keeps the reading from being left out.
type warmer interface{ warm(c *table.Chunk) uint64 }

func (s allSteps) warm(c *table.Chunk) uint64 {
	if w, ok := s[0].(warmer); ok {
		return w.warm(c)
	}
	return 0
}

func (s anySteps) warm(c *table.Chunk) (n uint64) {
	for _, s := range s {
		if w, ok := s.(warmer); ok {
			n += w.warm(c)
		}
	}
	return n
}

func (s notStep) warm(c *table.Chunk) uint64 { return allSteps{s.step}.warm(c) }

func (byClass) warm(c *table.Chunk) uint64 {
	classes := c.Classes()
	return uint64(classes[0] + classes[16] + classes[32] + classes[48])
}

// each goes through its chunks from begin to end, with their matching rows.
func (x *scan) each(c *clause, yield func(in table.Mask) bool) {
	var w warmer
	if c != nil {
		w, _ = c.step.(warmer)
	}
	var chunks [ahead]*table.Chunk
	for from := x.begin; from < x.end; from += ahead {
		n := min(ahead, x.end-from)
		for i := range n {
			chunks[i] = x.t.Chunk(from + i)
		}
		if w != nil {
			for _, c := range chunks[:n] {
				if c != nil {
					x.warmed += w.warm(c)
				}
			}
		}
		for i, chunk := range chunks[:n] {
			if chunk == nil {
				continue
			}
			x.c, x.ci = chunk, from+i
			in := chunk.Live()
			if c != nil {
				in = c.step.mask(x, in)
			}
			if in != 0 && !yield(in) {
				return
			}
		}
	}
}
