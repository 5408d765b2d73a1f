package query

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Filter says which rows are wanted, in the syntax of AIP-160:
//
//	region = "eu" AND state != live AND bytes > 1GiB
//	labels.team = "payments" AND observed_at < now-10m
//	state = (stale OR missing) AND NOT registered
//	readers:* AND checkpoints.expires < now+1h AND slate = "dbs/*"
//
// As AIP-160 has it, OR binds tighter than AND, and a space is AND. The
// comparisons:
//
//   - text: = and != with * as wildcard (\* is a star), < <= > >= by bytes, and
//     : for "contains", in any case. Quotes are needed for spaces and ()"'<>=!,
//     only.
//   - numbers: 42, 1e9, and sizes 10MB, 1GiB; exact for all 64 bits.
//   - times: RFC 3339, a date (UTC midnight), now, now-10m, now-7d.
//   - true, false; a field that is true or false may stand alone.
//   - null: = null and != null. Nothing else matches null, != neither. A text
//     that is empty is both "" and null.
//   - FIELD:* or has:FIELD says that it is there: not null, not empty.
//   - maps: labels:team (has the key), labels.team = "x", labels."a.b/c":*.
//   - lists: regions:eu (has the element). Through a list of records
//     (readers.name = "x") a comparison holds when any element fulfils it; !=
//     is refused there, for it would not say what one thinks: write NOT.
//   - a quoted text alone: any text of the row contains it, in any case.
//
// A Filter may be used by many at once.
type Filter struct {
	src   string
	match pred
	root  node
}

// pred decides about one struct; now is what "now" means.
type pred func(v reflect.Value, now time.Time) bool

// Filter compiles a filter; "" matches every row. A refusal is an [*Error]
// with the column.
func (t *Type) Filter(src string) (*Filter, error) {
	f := &Filter{src: src}
	var err error
	if f.root, err = parse(src); err == nil && f.root != nil {
		f.match, err = t.compile(f.root)
	}
	if err == nil {
		return f, nil
	}
	e := &Error{Param: "filter", Input: src, Msg: err.Error()}
	if s, ok := errors.AsType[*syntax](err); ok {
		e.Hint, e.Column = s.hint, utf8.RuneCountInString(src[:s.at])+1
	}
	return nil, e
}

// Match decides about one row.
func (f *Filter) Match(row any, now time.Time) bool {
	return f.match == nil || f.match(elem(row), now)
}

func (f *Filter) at(now time.Time) func(reflect.Value) bool {
	if f.match == nil {
		return func(reflect.Value) bool { return true }
	}
	return func(v reflect.Value) bool { return f.match(v, now) }
}

func (f *Filter) String() string { return f.src }

// Only gives the values that the named text field must have one of for a row
// to match; ok is false when the filter does not narrow it that way. Rows with
// one of these values need not match.
func (f *Filter) Only(field string) (values []string, ok bool) { return only(f.root, field) }

func only(n node, field string) ([]string, bool) {
	switch n := n.(type) {
	case allOf:
		var all []string
		found := false
		for _, k := range n {
			vs, ok := only(k, field)
			if !ok {
				continue
			}
			if found {
				vs = slices.DeleteFunc(slices.Clone(vs), func(v string) bool { return !slices.Contains(all, v) })
			}
			all, found = vs, true
		}
		return all, found
	case anyOf:
		var all []string
		for _, k := range n {
			vs, ok := only(k, field)
			if !ok {
				return nil, false
			}
			all = append(all, vs...)
		}
		slices.Sort(all)
		return slices.Compact(all), true
	case *restriction:
		if n.op == "=" && len(n.parts) == 1 && n.parts[0] == field && (n.quoted || n.arg != "null") {
			if p := newPattern(n.arg); p.exact {
				return []string{p.parts[0]}, true
			}
		}
	}
	return nil, false
}

func (t *Type) compile(n node) (pred, error) {
	switch n := n.(type) {
	case allOf:
		ps, err := t.compileEach(n)
		return func(v reflect.Value, now time.Time) bool {
			for _, p := range ps {
				if !p(v, now) {
					return false
				}
			}
			return true
		}, err
	case anyOf:
		ps, err := t.compileEach(n)
		return func(v reflect.Value, now time.Time) bool {
			for _, p := range ps {
				if p(v, now) {
					return true
				}
			}
			return false
		}, err
	case not:
		p, err := t.compile(n.of)
		return func(v reflect.Value, now time.Time) bool { return !p(v, now) }, err
	case anyHas:
		return t.contains(n.text), nil
	case *restriction:
		return t.restrict(n)
	}
	panic(fmt.Sprintf("query: unknown node %T", n))
}

func (t *Type) compileEach(ns []node) ([]pred, error) {
	ps := make([]pred, len(ns))
	for i, n := range ns {
		p, err := t.compile(n)
		if err != nil {
			return nil, err
		}
		ps[i] = p
	}
	return ps, nil
}

// restrict compiles one comparison.
func (t *Type) restrict(r *restriction) (pred, error) {
	name := strings.Join(r.parts, ".")
	p, bad, hint := t.resolve(r.parts)
	if bad >= 0 {
		return nil, t.unknown(r, bad, hint)
	}
	if p.repeated() && r.op == "!=" {
		return nil, fail(r.cols[0], fmt.Sprintf("write NOT %s:… when none may have it", name), "!= on an element of a list")
	}
	test, err := p.test(r, name)
	if err != nil {
		return nil, err
	}
	return through(p.fields[:len(p.fields)-1], test), nil
}

func (t *Type) unknown(r *restriction, bad int, hint string) error {
	if bad > 0 {
		return fail(r.cols[bad], hint, "%s has no field %s", strings.Join(r.parts[:bad], "."), r.parts[bad])
	}
	if r.op == "" {
		switch w := r.parts[0]; strings.ToUpper(w) {
		case "AND", "OR", "NOT":
			return fail(r.cols[0], "write "+strings.ToUpper(w)+" in capitals", "%q is no field", w)
		}
		if len(nearest(r.parts[0], t.Names())) == 0 {
			hint = fmt.Sprintf("to search for a text, quote it: %q", strings.Join(r.parts, "."))
		}
	}
	return fail(r.cols[0], hint, "%s have no field %s", t.Name, strings.Join(r.parts, "."))
}

// through applies a test to the struct that the fields lead to; behind a list
// one element is enough.
func through(fields []*Field, test pred) pred {
	if len(fields) == 0 {
		return test
	}
	f, rest := fields[0], through(fields[1:], test)
	if f.Kind == Record {
		return func(v reflect.Value, now time.Time) bool {
			v = f.in(v)
			return v.IsValid() && rest(v, now)
		}
	}
	return func(v reflect.Value, now time.Time) bool {
		v = f.in(v)
		for i := range v.Len() {
			if rest(v.Index(i), now) {
				return true
			}
		}
		return false
	}
}

// contains is the search for a text in all texts of a row.
func (t *Type) contains(text string) pred {
	has := holds(unescape(text))
	var tests []pred
	for _, f := range t.Fields {
		switch {
		case f.Kind == Text:
			tests = append(tests, func(v reflect.Value, _ time.Time) bool {
				v = f.in(v)
				return v.IsValid() && has(v.String())
			})
		case f.Kind == List && f.Elem == Text:
			tests = append(tests, func(v reflect.Value, _ time.Time) bool {
				v = f.in(v)
				for i := range v.Len() {
					if has(v.Index(i).String()) {
						return true
					}
				}
				return false
			})
		case f.Kind == Map && f.Elem == Text:
			tests = append(tests, func(v reflect.Value, _ time.Time) bool {
				m, _ := f.in(v).Interface().(map[string]string)
				for k, x := range m {
					if has(k) || has(x) {
						return true
					}
				}
				return false
			})
		}
	}
	return func(v reflect.Value, now time.Time) bool {
		return slices.ContainsFunc(tests, func(p pred) bool { return p(v, now) })
	}
}
