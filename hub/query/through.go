package query

import (
	"reflect"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// Through says that a field of the rows, a list, is not stored: its elements
// are rows of another table, those whose slate is the row's name; or one text
// of each of them, the empty one left out.
type Through struct {
	Table *table.Table
	Type  *Type  // of the rows of Table; has the fields that elements have
	Text  string // the column whose texts are the elements; empty: records
	// Slot, when not empty, is a Number column of Table that says where the row
	// lies that the element is of; wrong and missing numbers do no harm.
	Slot string
	// Sketches are those of Table; nil: none.
	Sketches *Sketches
}

// throughStep holds of the rows that some row of the other table is of which
// fulfils a clause.
type throughStep struct {
	other *scan
	want  *clause
	hint  int // column of slots; -1: none
	not   bool
	tried int
	rows  []table.Mask // by chunk, once it pays to know all
}

// through compiles a comparison with what is in another table.
func (x *scan) through(th Through, r *restriction) clause {
	y := newScan(&Source{Table: th.Table, Sketches: th.Sketches}, th.Type, x.now)
	s := &throughStep{other: y, hint: -1}
	if col, ok := th.Table.Schema().Column(th.Slot); ok {
		s.hint = col
	}
	there := r.op == ":" && r.arg == "*" && !r.quoted
	null := r.arg == "null" && !r.quoted
	switch {
	case len(r.parts) > 1:
		inner := *r
		inner.parts, inner.cols = r.parts[1:], r.cols[1:]
		c := y.restrict(&inner)
		s.want = &c
	case th.Text == "":
		s.not = null && r.op == "=" // none at all
	default:
		f := th.Type.byName[th.Text]
		accept := func(s string) bool { return s != "" }
		var n needle
		if !there && !null {
			// An element is equal or it is not, whatever stands between.
			n = needleOf(newPattern(r.arg).parts...)
			equal, err := acceptsText(f, "=", r, f.Name)
			if err != nil {
				panic("query: a filter that was compiled does not compile: " + err.Error())
			}
			accept = func(s string) bool { return s != "" && equal(s) }
		}
		c := y.textOf(f, accept, n)
		s.want, s.not = &c, null && r.op == "="
	}
	return clause{cost: 300, step: s}
}

// textOf compiles a test of one text field.
func (x *scan) textOf(f *Field, accept func(string) bool, n needle) clause {
	col, _ := x.column(f)
	test := func(v reflect.Value, _ time.Time) bool { return accept(f.in(v).String()) }
	switch x.cols[col].Kind {
	case table.Trait:
		return classClause(x.ofClasses(f, col, test))
	case table.Symbol:
		return x.bySymbol(f, col, test)
	}
	return x.byText(f, col, accept, test, n)
}

func (s *throughStep) mask(x *scan, in table.Mask) (is table.Mask) {
	// A walk asks for few rows, whatever there is; a scan for all.
	if s.tried += in.Len(); s.rows == nil && s.tried > 1000 {
		s.all(x)
	}
	if s.rows != nil {
		is = s.rows[x.ci] & in
	} else {
		for m := in; m != 0; m &= m - 1 {
			if i := first(m); s.any(x.c.Idents()[i].Slate) {
				is |= 1 << i
			}
		}
	}
	if s.not {
		return in &^ is
	}
	return is
}

// any asks the rows of one name.
func (s *throughStep) any(name string) (found bool) {
	s.other.t.Names().Ascend(table.Mark{Slate: name}, func(_ uint64, id *table.Ident) bool {
		if id.Slate != name {
			return false
		}
		found = s.other.matches(s.want, id.Slot)
		return !found
	})
	return found
}

// all finds the rows of all matching rows of the other table.
func (s *throughStep) all(x *scan) {
	s.rows = make([]table.Mask, x.t.Chunks())
	y := s.other
	y.each(s.want, func(in table.Mask) bool {
		ids := y.c.Idents()
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			name := ids[i].Slate
			slot := y.slot(i) // both tables were filled alike, as a rule
			if s.hint >= 0 {
				if n, ok := y.c.Number(s.hint, i); ok {
					slot = table.Slot(n)
				}
			}
			if id := x.t.Ident(slot); id == nil || id.Slate != name {
				if slot = x.t.Named(name); slot == table.None {
					continue
				}
			}
			s.rows[slot/table.ChunkRows] |= 1 << (slot % table.ChunkRows)
		}
		return true
	})
}

// contains is the search for a text in all texts of a row.
func (x *scan) contains(text string) clause {
	has := holds(unescape(text))
	whole := x.typ.contains(text)
	needle := needleOf(strings.ToLower(unescape(text)))
	var parts []clause
	var own containsStep
	for _, f := range x.typ.Fields {
		if f.Kind != Text && (f.Kind != List && f.Kind != Map || f.Elem != Text) {
			continue
		}
		col, ok := x.column(f)
		if !ok {
			th, ok := x.src.Through[f.Name]
			if !ok {
				return clause{cost: 5000, step: rowStep{whole}}
			}
			y := newScan(&Source{Table: th.Table, Sketches: th.Sketches}, th.Type, x.now)
			c := y.textOf(th.Type.byName[th.Text], func(s string) bool { return s != "" && has(s) }, needle)
			s := &throughStep{other: y, want: &c, hint: -1}
			if col, ok := th.Table.Schema().Column(th.Slot); ok {
				s.hint = col
			}
			parts = append(parts, clause{cost: 400, step: s})
			continue
		}
		switch info := x.cols[col]; info.Kind {
		case table.Trait:
			parts = append(parts, classClause(x.ofClasses(f, col, whole)))
		case table.Symbol:
			parts = append(parts, x.bySymbol(f, col, whole))
		case table.Object:
			parts = append(parts, x.byObject(f, col, whole))
		default:
			if covers := x.covers(f, col, whole); covers != nil || info.Covered {
				parts = append(parts, x.byText(f, col, has, whole, needle))
				continue
			}
			own.texts = append(own.texts, x.byText(f, col, has, whole, needle).step.(*textStep))
		}
	}
	own.has, own.needle = has, needle
	return anyClause(append(parts, clause{cost: x.textCost(100, needle), step: &own}))
}

// containsStep searches several texts of a row. The next is often the one
// before, as a root is its slate's name.
type containsStep struct {
	texts  []*textStep
	has    func(string) bool
	needle needle
	last   [table.ChunkRows]string
}

func (s *containsStep) warm(c *table.Chunk) (n uint64) {
	for _, t := range s.texts {
		n += t.warm(c)
	}
	return n
}

func (s *containsStep) mask(x *scan, in table.Mask) (is table.Mask) {
	if s.has("") {
		return in
	}
	if !x.mayHave(s.needle, dense(in)) {
		return 0
	}
	clear(s.last[:])
	for _, t := range s.texts {
		texts := t.read(x, in&^is)
		if texts == nil {
			continue
		}
		for m := in &^ is; m != 0; m &= m - 1 {
			i := first(m)
			if text := texts[i]; text != "" && text != s.last[i] {
				if s.last[i] = text; s.has(text) {
					is |= 1 << i
				}
			}
		}
	}
	return is
}
