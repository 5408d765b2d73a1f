// Package query answers questions about rows: which match a filter, in which
// order, which page of them, which fields of each, and how many of what. It is
// pure: rows, a request and a time in; rows and errors that point at the
// column out. It knows no particular rows: a [Type] is derived from a struct's
// JSON tags, so that what people filter by is exactly what they read.
//
// It never finds rows itself: a [Source] hands them over and may leave out
// what the filter excludes, which is where indexes come in.
//
// Begin with [TypeOf], [Type.Plan] and [Plan.Page]. The filter language is
// described at [Filter].
package query

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// Page sizes.
const (
	DefaultPage = 50
	MaxPage     = 1000
)

// Request is what someone asks of a list. The zero value asks for the first
// page of everything in the order of the key.
type Request struct {
	Filter    string
	OrderBy   string // "bytes desc, slate"
	Fields    string // "slate,readers.id"; empty: all
	PageSize  int    // 0: DefaultPage; more than MaxPage gives MaxPage
	PageToken string // from the page before; only with the same Filter and OrderBy
}

// Source gives a plan its rows.
type Source struct {
	// Rows yields pointers to the struct the plan's [Type] was made of. It
	// must yield every row that the filter can match and may yield others; it
	// may use [Filter.Only] to yield fewer. Rows must not change while read.
	Rows func(f *Filter) iter.Seq[any]
	// Order is the order they come in, written as an order_by ("" is the
	// type's default order), when Ordered is true: a page in that order may
	// then stop early.
	Order   string
	Ordered bool

	// Table, when not nil, has the rows in columns, and Rows is not asked. Its
	// idents are made of the fields of the type's key.
	Table *table.Table
	// Columns names the columns of fields whose columns are named otherwise.
	Columns map[string]string
	// Row makes the row at a slot; nil: the table makes it, and Fill, when not
	// nil, completes it.
	Row  func(table.Slot) any
	Fill func(row any)
	// Through says where fields are found that no column has. A field that is
	// neither here nor there costs a whole row each time it is compared.
	Through map[string]Through
	// Sketches make searches for texts in Table fast; nil: none are kept.
	Sketches *Sketches
	// Extra yields a few rows more that the table does not have.
	Extra func(f *Filter) iter.Seq[any]

	json *writer
}

// Plan is a checked request. It may be used many times and by many at once.
type Plan struct {
	Filter *Filter
	Mask   *Mask // nil: all fields
	typ    *Type
	order  order
	size   int
	after  []value // sort values of the last row of the page before
	bind   [8]byte // what page tokens are bound to
}

// Page is one page of rows and where the next begins.
type Page struct {
	Rows []Row
	Next string // empty: this was the last page
}

// Plan checks a request. Every refusal is an [*Error] whose Param is the part
// of the request that is wrong.
func (t *Type) Plan(r Request) (*Plan, error) {
	f, err := t.Filter(r.Filter)
	if err != nil {
		return nil, err
	}
	o, err := t.order(r.OrderBy)
	if err != nil {
		return nil, err
	}
	m, err := t.Mask(r.Fields)
	if err != nil {
		return nil, err
	}
	p := &Plan{Filter: f, Mask: m, typ: t, order: o, bind: binding(t.Name, f.src, o)}
	switch {
	case r.PageSize < 0:
		return nil, &Error{Param: "page_size", Msg: fmt.Sprintf("%d is negative", r.PageSize), Hint: fmt.Sprintf("write 1 to %d, or 0 for %d", MaxPage, DefaultPage)}
	case r.PageSize == 0:
		p.size = DefaultPage
	default:
		p.size = min(r.PageSize, MaxPage)
	}
	if r.PageToken != "" {
		if p.after, err = o.decode(r.PageToken, p.bind); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Page reads one page. now is what the filter's "now" means. Pages are stable
// while rows change: a page begins right after the last row of the one before,
// wherever that row is now, so that a row that did not move is given once.
func (p *Plan) Page(src Source, now time.Time) Page {
	if src.Table != nil {
		return p.pageOf(&src, now)
	}
	return p.plainPage(&src, now)
}

// plainPage looks at rows one by one.
func (p *Plan) plainPage(src *Source, now time.Time) Page {
	var page Page
	for _, row := range p.plain(src, now) {
		page.Rows = append(page.Rows, Row{made: row, typ: p.typ})
	}
	return p.cut(page)
}

// cut ends a page that was found with one row too many.
func (p *Plan) cut(page Page) Page {
	if len(page.Rows) > p.size {
		page.Rows = page.Rows[:p.size]
		page.Next = p.order.encode(elem(page.Rows[p.size-1].Value()), p.bind)
	}
	return page
}

// plain gives the rows of a page, and one more when there are more.
func (p *Plan) plain(src *Source, now time.Time) []any {
	match := p.Filter.at(now)
	best := newTop(p.order, p.size+1)
	early := false
	if src.Ordered && src.Table == nil {
		o, err := p.typ.order(src.Order)
		early = err == nil && o.text == p.order.text
	}
	for row := range src.all(p.Filter) {
		v := elem(row)
		if p.after != nil && p.order.compareTo(v, p.after) <= 0 {
			continue
		}
		if !match(v) {
			continue
		}
		if best.add(row, v); early && best.full() {
			break
		}
	}
	return best.sorted()
}

// Matches yields the rows that match: in the source's order, those of a table
// in the order of the key.
func (p *Plan) Matches(src Source, now time.Time) iter.Seq[Row] {
	if src.Table != nil {
		return p.matchesOf(&src, now)
	}
	match := p.Filter.at(now)
	return func(yield func(Row) bool) {
		for row := range src.Rows(p.Filter) {
			if match(elem(row)) && !yield(Row{made: row, typ: p.typ}) {
				return
			}
		}
	}
}

// Error says what is wrong with a request, and where.
type Error struct {
	Param  string // filter, order_by, fields, page_token, page_size, by
	Input  string // what was given
	Column int    // 1-based, in characters; 0: the whole
	Msg    string
	Hint   string // what would be right
	Token  bool   // a page token that belongs to another request
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Param)
	if e.Column > 0 {
		fmt.Fprintf(&b, " column %d", e.Column)
	}
	b.WriteString(": ")
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString("; ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// Caret is the input and, on a line below, a caret under the column that is
// wrong; empty when there is no column to show.
func (e *Error) Caret() string {
	if e.Column == 0 || strings.ContainsAny(e.Input, "\r\n") {
		return ""
	}
	return e.Input + "\n" + strings.Repeat(" ", e.Column-1) + "^"
}

// nearest gives the known names most like the one asked for, best first.
func nearest(name string, known []string) []string {
	type scored struct {
		name string
		d    int
	}
	var out []scored
	for _, k := range known {
		d := distance(strings.ToLower(name), strings.ToLower(k))
		if strings.HasSuffix(k, "."+name) || strings.HasPrefix(k, name) {
			d = min(d, 1)
		}
		if d <= max(2, len(name)/3) {
			out = append(out, scored{k, d})
		}
	}
	slices.SortStableFunc(out, func(a, b scored) int { return a.d - b.d })
	var names []string
	for _, s := range out[:min(3, len(out))] {
		names = append(names, s.name)
	}
	return names
}

func didYouMean(name string, known []string) string {
	if near := nearest(name, known); len(near) > 0 {
		return "did you mean " + strings.Join(near, " or ") + "?"
	}
	if len(known) > 40 {
		known = known[:40]
	}
	return "known: " + strings.Join(known, ", ")
}

// distance is Levenshtein's, by bytes; long names are far from everything.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}
