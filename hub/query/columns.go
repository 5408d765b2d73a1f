package query

import (
	"math/bits"
	"reflect"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// A filter over a [table.Table] is decided chunk by chunk: each comparison
// turns a set of 64 rows into the subset that fulfils it. What has few values
// is decided once per class or symbol, numbers and times are compared in
// tight loops, texts one by one. Whatever is left is decided as it is for rows
// in memory, on a row with just the one field set, so that both ways agree.

// scan is where a filter stands in a table.
type scan struct {
	t   *table.Table
	typ *Type
	now time.Time
	c   *table.Chunk
	ci  int // of the chunk
	one reflect.Value
	// fill completes a row that the table made.
	fill func(row any)
}

func newScan(t *table.Table, typ *Type, now time.Time, fill func(any)) *scan {
	return &scan{t: t, typ: typ, now: now, fill: fill, one: reflect.New(typ.row).Elem()}
}

// row makes the whole row i of the chunk.
func (x *scan) row(i int) any {
	r := x.t.Row(table.Slot(x.ci*table.ChunkRows + i))
	if x.fill != nil {
		x.fill(r)
	}
	return r
}

// vec gives the rows of in that fulfil something; in is never empty.
type vec func(x *scan, in table.Mask) table.Mask

// clause is a compiled part of a filter.
type clause struct {
	vec  vec
	cost int
	// class decides for all rows of a class; nil: classes do not tell.
	class func(c *table.Class) bool
}

// columns compiles a filter for a table; nil: everything matches.
func (f *Filter) columns(x *scan) *clause {
	if f.root == nil {
		return nil
	}
	p := x.compile(f.root)
	return &p
}

func (x *scan) compile(n node) clause {
	switch n := n.(type) {
	case allOf:
		parts := x.each(n)
		// The cheapest first; stable, so that equal ones stay as written.
		for i := range parts {
			for k := i; k > 0 && parts[k].cost < parts[k-1].cost; k-- {
				parts[k], parts[k-1] = parts[k-1], parts[k]
			}
		}
		out := clause{vec: func(x *scan, in table.Mask) table.Mask {
			for i := range parts {
				if in = parts[i].vec(x, in); in == 0 {
					return 0
				}
			}
			return in
		}}
		known := true
		for _, p := range parts {
			out.cost += p.cost
			known = known && p.class != nil
		}
		if known {
			out.class = func(c *table.Class) bool {
				for i := range parts {
					if !parts[i].class(c) {
						return false
					}
				}
				return true
			}
		}
		return x.byClass(out)
	case anyOf:
		parts := x.each(n)
		out := clause{vec: func(x *scan, in table.Mask) (is table.Mask) {
			for i := range parts {
				if rest := in &^ is; rest != 0 {
					is |= parts[i].vec(x, rest)
				}
			}
			return is
		}}
		known := true
		for _, p := range parts {
			out.cost += p.cost
			known = known && p.class != nil
		}
		if known {
			out.class = func(c *table.Class) bool {
				for i := range parts {
					if parts[i].class(c) {
						return true
					}
				}
				return false
			}
		}
		return x.byClass(out)
	case not:
		p := x.compile(n.of)
		out := clause{cost: p.cost, vec: func(x *scan, in table.Mask) table.Mask { return in &^ p.vec(x, in) }}
		if p.class != nil {
			out.class = func(c *table.Class) bool { return !p.class(c) }
		}
		return x.byClass(out)
	case anyHas:
		return x.contains(n.text)
	case *restriction:
		return x.restrict(n)
	}
	panic("query: unknown node")
}

func (x *scan) each(ns []node) []clause {
	parts := make([]clause, len(ns))
	for i, n := range ns {
		parts[i] = x.compile(n)
	}
	return parts
}

// byClass makes a part that classes decide look at nothing else.
func (x *scan) byClass(p clause) clause {
	if p.class == nil {
		return p
	}
	memo := make([]uint8, x.t.Classes()) // 0: not asked, 1: no, 2: yes
	decide := p.class
	p.cost = 1
	p.class = func(c *table.Class) bool { return decide(c) }
	p.vec = func(x *scan, in table.Mask) (is table.Mask) {
		classes := x.c.Classes()
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			id := classes[i]
			if memo[id] == 0 {
				memo[id] = 1
				if decide(x.t.Class(id)) {
					memo[id] = 2
				}
			}
			if memo[id] == 2 {
				is |= 1 << i
			}
		}
		return is
	}
	return p
}

// upper is how many rows may match at most, as far as classes tell.
func (x *scan) upper(n node) (atMost uint64) {
	for id := range x.t.Classes() {
		if c := x.t.Class(uint32(id)); c.Count > 0 && (n == nil || x.may(n, c)) {
			atMost += c.Count
		}
	}
	return atMost
}

// may reports whether rows of a class can match.
func (x *scan) may(n node, c *table.Class) bool {
	switch n := n.(type) {
	case allOf:
		for _, k := range n {
			if !x.may(k, c) {
				return false
			}
		}
		return true
	case anyOf:
		for _, k := range n {
			if x.may(k, c) {
				return true
			}
		}
		return false
	case *restriction:
		p, col, ok := x.trait(n)
		return !ok || x.onClass(p, col, c)
	case not:
		if r, is := n.of.(*restriction); is {
			if p, col, ok := x.trait(r); ok {
				return !x.onClass(p, col, c)
			}
		}
	}
	return true
}

// trait compiles a comparison of a trait.
func (x *scan) trait(r *restriction) (pred, int, bool) {
	p, bad, _ := x.typ.resolve(r.parts)
	if bad >= 0 {
		return nil, 0, false
	}
	col, ok := x.t.Schema().Column(p.fields[0].Name)
	if !ok || x.t.Schema().Columns()[col].Kind != table.Trait {
		return nil, 0, false
	}
	test, err := x.typ.restrict(r)
	return test, col, err == nil
}

// onClass asks a predicate about a row of a class that has only one trait.
func (x *scan) onClass(test pred, col int, c *table.Class) bool {
	return x.t.WithTrait(x.one, col, c, func(row reflect.Value) bool { return test(row, x.now) })
}

func (x *scan) restrict(r *restriction) clause {
	test, err := x.typ.restrict(r)
	if err != nil {
		panic("query: a compiled filter does not compile: " + err.Error())
	}
	p, _, _ := x.typ.resolve(r.parts)
	f := p.fields[0]
	col, ok := x.t.Schema().Column(f.Name)
	if !ok {
		return clause{cost: 10_000, vec: func(x *scan, in table.Mask) (is table.Mask) {
			for m := in; m != 0; m &= m - 1 {
				if i := first(m); test(elem(x.row(i)), x.now) {
					is |= 1 << i
				}
			}
			return is
		}}
	}
	info := x.t.Schema().Columns()[col]
	single := len(p.fields) == 1 && !p.keyed
	switch info.Kind {
	case table.Trait:
		return x.byClass(clause{class: func(c *table.Class) bool { return x.onClass(test, col, c) }})
	case table.Number, table.Time:
		if single {
			return x.numbers(r, f, col, info)
		}
	case table.Name, table.Text:
		if single {
			return x.texts(r, f, col, info)
		}
	case table.Symbol:
		return x.symbols(test, col)
	case table.Object:
		return x.objects(test, col)
	}
	panic("query: no way to read column " + info.Name)
}

func (x *scan) symbols(test pred, col int) clause {
	memo := make([]uint8, x.t.Symbols(col))
	decide := func(x *scan, id uint32) bool {
		if memo[id] == 0 {
			memo[id] = 1
			if x.t.WithSymbol(x.one, col, id, func(row reflect.Value) bool { return test(row, x.now) }) {
				memo[id] = 2
			}
		}
		return memo[id] == 2
	}
	return clause{cost: 3, vec: func(x *scan, in table.Mask) (is table.Mask) {
		ids := x.c.Symbols(col)
		if ids == nil {
			if decide(x, 0) {
				return in
			}
			return 0
		}
		for m := in; m != 0; m &= m - 1 {
			if i := first(m); decide(x, ids[i]) {
				is |= 1 << i
			}
		}
		return is
	}}
}

func (x *scan) objects(test pred, col int) clause {
	none := test(x.one, x.now) // of a row without
	return clause{cost: 50, vec: func(x *scan, in table.Mask) (is table.Mask) {
		if !x.c.Objects(col) {
			if none {
				return in
			}
			return 0
		}
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			o := x.c.Object(col, i)
			if o == nil && none || o != nil && x.t.WithObject(x.one, col, o, func(row reflect.Value) bool { return test(row, x.now) }) {
				is |= 1 << i
			}
		}
		return is
	}}
}

// texts compiles a comparison of a text that each row has for itself.
func (x *scan) texts(r *restriction, f *Field, col int, info table.Column) clause {
	accept := textTest(r, f)
	return clause{cost: 20, vec: func(x *scan, in table.Mask) (is table.Mask) {
		for m := in; m != 0; m &= m - 1 {
			if i := first(m); accept(x.text(col, info, i)) {
				is |= 1 << i
			}
		}
		return is
	}}
}

// text is a Name or Text of a row as it is shown.
func (x *scan) text(col int, info table.Column, i int) string {
	if info.Covered {
		if v, ok := x.t.Class(x.c.Class(i)).Covers(col); ok {
			return v.Text
		}
	}
	if info.Kind == table.Name {
		return x.t.Schema().Part(x.c.Idents()[i], col)
	}
	if s := x.c.Texts(col); s != nil {
		return s[i]
	}
	return ""
}

func textTest(r *restriction, f *Field) func(string) bool {
	switch {
	case r.op == ":" && r.arg == "*" && !r.quoted:
		return func(s string) bool { return s != "" }
	case r.arg == "null" && !r.quoted && (r.op == "=" || r.op == "!="):
		want := r.op == "="
		return func(s string) bool { return (s == "") == want }
	}
	accept, err := acceptsText(f, r.op, r, f.Name)
	if err != nil {
		panic("query: a compiled filter does not compile: " + err.Error())
	}
	return accept
}

// numbers compiles a comparison of a number or a time.
func (x *scan) numbers(r *restriction, f *Field, col int, info table.Column) clause {
	pointer := f.typ.Kind() == reflect.Pointer
	zeroIsNull := info.Kind == table.Number && f.OmitEmpty && !pointer
	var want func(has table.Mask) table.Mask // instead of a comparison
	switch {
	case r.op == ":" && r.arg == "*" && !r.quoted:
		want = func(has table.Mask) table.Mask { return has }
	case r.arg == "null" && !r.quoted && r.op == "=":
		want = func(has table.Mask) table.Mask { return ^has }
	case r.arg == "null" && !r.quoted && r.op == "!=":
		want = func(has table.Mask) table.Mask { return has }
	}
	op := r.op
	if op == ":" {
		op = "="
	}
	holds := holdsFor(op)
	var at uint64
	var odd *number // one that no column holds
	absent := false // what holds of a time that was never set, where that is no null
	if want == nil && info.Kind == table.Time {
		m, _ := parseMoment(r.arg)
		t := m.at(x.now)
		at, _ = table.TimeNumber(t)
		absent = !pointer && holds(time.Time{}.Compare(t))
		if t.IsZero() {
			at = 0
		}
	} else if want == nil {
		n, _ := parseNumber(r.arg)
		if at = n.mag; n.neg || n.fract {
			odd = &n
		}
	} else if info.Kind == table.Time && !pointer {
		want = func(table.Mask) table.Mask { // a time is there, be it never
			if r.arg == "null" && r.op == "=" {
				return 0
			}
			return ^table.Mask(0)
		}
	}
	compare := func(v uint64) bool {
		switch {
		case odd != nil:
			return holds(number{mag: v}.compare(*odd))
		case v < at:
			return holds(-1)
		case v > at:
			return holds(1)
		}
		return holds(0)
	}
	below, equal, above := holds(-1), holds(0), holds(1)
	return clause{cost: 5, vec: func(x *scan, in table.Mask) (is table.Mask) {
		if in&(in-1) == 0 && !info.Covered { // a single row
			v, has := x.c.Number(col, first(in))
			has = has && !(zeroIsNull && v == 0)
			switch {
			case want != nil:
				var m table.Mask
				if has {
					m = in
				}
				return want(m) & in
			case has && compare(v), !has && absent:
				return in
			}
			return 0
		}
		var buf [table.ChunkRows]uint64
		has := x.c.Numbers(col, &buf)
		if info.Covered {
			for m := in; m != 0; m &= m - 1 {
				i := first(m)
				if v, ok := x.t.Class(x.c.Class(i)).Covers(col); ok {
					buf[i] = v.Num
					if has |= 1 << i; v.Null {
						has &^= 1 << i
					}
				}
			}
		}
		if zeroIsNull {
			for m := has; m != 0; m &= m - 1 {
				if i := first(m); buf[i] == 0 {
					has &^= 1 << i
				}
			}
		}
		if want != nil {
			return want(has) & in
		}
		if odd != nil {
			for m := has & in; m != 0; m &= m - 1 {
				if i := first(m); compare(buf[i]) {
					is |= 1 << i
				}
			}
			return is
		}
		var lt, gt table.Mask
		for i, v := range buf {
			if v < at {
				lt |= 1 << i
			}
			if v > at {
				gt |= 1 << i
			}
		}
		if below {
			is |= lt
		}
		if above {
			is |= gt
		}
		if equal {
			is |= ^(lt | gt)
		}
		is &= has
		if absent {
			is |= ^has
		}
		return is & in
	}}
}

// contains is the search for a text in all texts of a row.
func (x *scan) contains(text string) clause {
	has := holds(unescape(text))
	whole := x.typ.contains(text)
	var parts []clause
	var traits []int
	for col, info := range x.t.Schema().Columns() {
		f := x.typ.byName[info.Name]
		if f == nil {
			continue
		}
		isText := f.Kind == Text || (f.Kind == List || f.Kind == Map) && f.Elem == Text
		switch {
		case !isText:
		case info.Kind == table.Trait:
			traits = append(traits, col)
		case info.Kind == table.Symbol:
			parts = append(parts, x.symbols(whole, col))
		case info.Kind == table.Object:
			parts = append(parts, x.objects(whole, col))
		default:
			parts = append(parts, clause{vec: func(x *scan, in table.Mask) (is table.Mask) {
				for m := in; m != 0; m &= m - 1 {
					if i := first(m); has(x.text(col, info, i)) {
						is |= 1 << i
					}
				}
				return is
			}})
		}
	}
	parts = append([]clause{x.byClass(clause{class: func(c *table.Class) bool {
		for _, col := range traits {
			if x.onClass(whole, col, c) {
				return true
			}
		}
		return false
	}})}, parts...)
	virtual := len(x.t.Schema().Columns()) == 0 // never
	for _, f := range x.typ.Fields {
		if _, stored := x.t.Schema().Column(f.Name); !stored && (f.Kind == Text || (f.Kind == List || f.Kind == Map) && f.Elem == Text) {
			virtual = true
		}
	}
	return clause{cost: 200, vec: func(x *scan, in table.Mask) (is table.Mask) {
		for i := range parts {
			if rest := in &^ is; rest != 0 {
				is |= parts[i].vec(x, rest)
			}
		}
		if rest := in &^ is; virtual {
			for m := rest; m != 0; m &= m - 1 {
				if i := first(m); whole(elem(x.row(i)), x.now) {
					is |= 1 << i
				}
			}
		}
		return is
	}}
}

// ofClass is what a term, a trait, is for the rows of a class.
func (x *scan) ofClass(tm term, id uint32) (v value) {
	x.t.WithTrait(x.one, x.t.Schema().Col(tm.path.fields[0].Name), x.t.Class(id), func(row reflect.Value) bool {
		v = tm.read(row)
		return true
	})
	return v
}

// reader gives what a term sorts a row by; ok is false when columns do not tell.
func (x *scan) reader(tm term) (read func(i int) value, ok bool) {
	f := tm.path.fields[0]
	col, stored := x.t.Schema().Column(f.Name)
	if !stored || len(tm.path.fields) != 1 {
		return nil, false
	}
	info := x.t.Schema().Columns()[col]
	text := func(s string) value {
		if s == "" && f.OmitEmpty {
			return value{}
		}
		return value{kind: Text, s: s}
	}
	switch info.Kind {
	case table.Trait:
		memo := make([]value, x.t.Classes())
		known := make([]bool, x.t.Classes())
		return func(i int) value {
			id := x.c.Class(i)
			if !known[id] {
				known[id], memo[id] = true, x.ofClass(tm, id)
			}
			return memo[id]
		}, true
	case table.Symbol:
		memo := map[uint32]value{}
		return func(i int) value {
			id := uint32(0)
			if ids := x.c.Symbols(col); ids != nil {
				id = ids[i]
			}
			v, known := memo[id]
			if !known {
				x.t.WithSymbol(x.one, col, id, func(row reflect.Value) bool { v = tm.read(row); return true })
				memo[id] = v
			}
			return v
		}, true
	case table.Name, table.Text:
		return func(i int) value { return text(x.text(col, info, i)) }, !tm.path.keyed
	case table.Number, table.Time:
		zeroIsNull := info.Kind == table.Number && f.OmitEmpty && f.typ.Kind() != reflect.Pointer
		return func(i int) value {
			v, has := x.c.Number(col, i)
			if info.Covered {
				if cv, ok := x.t.Class(x.c.Class(i)).Covers(col); ok {
					v, has = cv.Num, !cv.Null
				}
			}
			switch {
			case !has && info.Kind == table.Time && f.typ.Kind() != reflect.Pointer:
				return value{kind: Time}
			case !has || zeroIsNull && v == 0:
				return value{}
			case info.Kind == table.Time:
				return value{kind: Time, t: table.NumberTime(v)}
			}
			return value{kind: Number, num: number{mag: v}}
		}, true
	}
	return nil, false
}

func first(m table.Mask) int { return bits.TrailingZeros64(uint64(m)) }
