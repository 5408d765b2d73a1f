package query

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// test compiles a comparison with what is at the end of a path.
func (p path) test(r *restriction, name string) (pred, error) {
	f := p.last()
	get := f.get
	if p.keyed {
		get = func(v reflect.Value) value { return f.at(v, p.key) }
	}
	null := func(v reflect.Value) bool { x := get(v); return x.null() || x.kind == Text && x.s == "" && !p.keyed }
	if !p.keyed && !f.Kind.scalar() {
		null = f.empty
	}
	switch {
	case r.op == "" && p.kind() == Bool:
		return func(v reflect.Value, _ time.Time) bool { x := get(v); return !x.null() && x.b }, nil
	case r.op == "":
		return nil, fail(r.cols[0], fmt.Sprintf("for example %s:*", name), "%s is %s and needs a comparison", name, p.kind())
	case r.op == ":" && r.arg == "*" && !r.quoted:
		return func(v reflect.Value, _ time.Time) bool { return !null(v) }, nil
	case r.arg == "null" && !r.quoted && (r.op == "=" || r.op == "!="):
		want := r.op == "="
		return func(v reflect.Value, _ time.Time) bool { return null(v) == want }, nil
	}
	switch {
	case !p.keyed && f.Kind == Text && (r.op == "=" || r.op == "!="):
		// The most frequent comparison goes without a value in between.
		accept, err := acceptsText(f, r.op, r, name)
		return func(v reflect.Value, _ time.Time) bool {
			v = f.in(v)
			return v.IsValid() && accept(v.String())
		}, err
	case p.keyed || f.Kind.scalar():
		accept, err := accepts(p.kind(), f, p.keyed, r, name)
		return func(v reflect.Value, now time.Time) bool {
			x := get(v)
			return !x.null() && accept(x, now)
		}, err
	case r.op != ":":
		return nil, fail(r.argAt, fmt.Sprintf("write %s:%s", name, r.arg), "%s is %s; compare it with :, which means has", name, f.Kind)
	case f.Kind == Map:
		key := unescape(r.arg)
		return func(v reflect.Value, _ time.Time) bool { return !f.at(v, key).null() }, nil
	case f.Kind == List:
		accept, err := accepts(f.Elem, f, true, r, name)
		return func(v reflect.Value, now time.Time) bool {
			v = f.in(v)
			for i := range v.Len() {
				if accept(read(v.Index(i), f.Elem), now) {
					return true
				}
			}
			return false
		}, err
	}
	return nil, fail(r.argAt, fmt.Sprintf("name a field of it: %s.%s:%s", name, f.Sub.Fields[0].Name, r.arg), "%s is %s", name, f.Kind)
}

// accepts compiles the comparison of a value that is there. element: it is in
// a map or a list, where : means equality and not "contains".
func accepts(k Kind, f *Field, element bool, r *restriction, name string) (func(value, time.Time) bool, error) {
	op := r.op
	if op == ":" && (k != Text || element) {
		op = "="
	}
	switch k {
	case Text:
		accept, err := acceptsText(f, op, r, name)
		return func(x value, _ time.Time) bool { return accept(x.s) }, err
	case Bool:
		if r.arg != "true" && r.arg != "false" || op != "=" && op != "!=" {
			return nil, fail(r.argAt, fmt.Sprintf("write %s = true or %s = false", name, name), "%s is true or false, not %s %q", name, r.op, r.arg)
		}
		want := (r.arg == "true") == (op == "=")
		return func(x value, _ time.Time) bool { return x.b == want }, nil
	case Number:
		n, ok := parseNumber(r.arg)
		if !ok {
			return nil, fail(r.argAt, "for example 42, 1e9 or 1GiB", "%s is a number, %q is none", name, r.arg)
		}
		ok2 := holdsFor(op)
		return func(x value, _ time.Time) bool { return ok2(x.num.compare(n)) }, nil
	}
	m, ok := parseMoment(r.arg)
	if !ok {
		return nil, fail(r.argAt, "for example now-10m, now-7d, 2026-11-21 or 2026-11-21T04:00:00Z", "%s is a time, %q is none", name, r.arg)
	}
	ok2 := holdsFor(op)
	return func(x value, now time.Time) bool { return ok2(x.t.Compare(m.at(now))) }, nil
}

func acceptsText(f *Field, op string, r *restriction, name string) (func(string) bool, error) {
	switch op {
	case ":":
		return holds(unescape(r.arg)), nil
	case "=", "!=":
		p := newPattern(r.arg)
		if p.exact && f.Values != nil && !slices.Contains(f.Values, p.parts[0]) && p.parts[0] != "" {
			return nil, fail(r.argAt, didYouMean(p.parts[0], f.Values), "%s is never %q", name, p.parts[0])
		}
		equal := op == "="
		if p.exact {
			want := p.parts[0]
			return func(s string) bool { return (s == want) == equal }, nil
		}
		return func(s string) bool { return p.match(s) == equal }, nil
	}
	ok, arg := holdsFor(op), unescape(r.arg)
	return func(s string) bool { return ok(strings.Compare(s, arg)) }, nil
}

// holdsFor says for which outcome of a three-way comparison op holds.
func holdsFor(op string) func(int) bool {
	switch op {
	case "=":
		return func(c int) bool { return c == 0 }
	case "!=":
		return func(c int) bool { return c != 0 }
	case "<":
		return func(c int) bool { return c < 0 }
	case "<=":
		return func(c int) bool { return c <= 0 }
	case ">":
		return func(c int) bool { return c > 0 }
	}
	return func(c int) bool { return c >= 0 }
}

// pattern is a text with stars.
type pattern struct {
	parts []string // between the stars
	exact bool     // no star
}

// newPattern splits at stars that no backslash escapes. Quotes do not take a
// star's meaning away, for values with a space need them.
func newPattern(s string) pattern {
	var p pattern
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '*' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == '*':
			p.parts = append(p.parts, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	p.parts = append(p.parts, b.String())
	p.exact = len(p.parts) == 1
	return p
}

func unescape(s string) string {
	return strings.NewReplacer(`\\`, `\`, `\*`, `*`).Replace(s)
}

func (p pattern) match(s string) bool {
	last := len(p.parts) - 1
	if p.exact {
		return s == p.parts[0]
	}
	if !strings.HasPrefix(s, p.parts[0]) {
		return false
	}
	s = s[len(p.parts[0]):]
	for _, part := range p.parts[1:last] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, p.parts[last])
}
