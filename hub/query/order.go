package query

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// order is a total order of rows: what was asked for, then the key. Null comes
// last whichever way a field is sorted, for nobody looks for it first.
type order struct {
	terms []term
	text  string // canonical
}

type term struct {
	path path
	name string
	desc bool
}

// order reads "bytes desc, slate"; "" is the type's default.
func (t *Type) order(src string) (order, error) {
	if strings.TrimSpace(src) == "" {
		src = t.Default
	}
	var o order
	at := 0
	refuse := func(col int, hint, format string, args ...any) (order, error) {
		return order{}, &Error{Param: "order_by", Input: src, Column: utf8.RuneCountInString(src[:col]) + 1, Msg: fmt.Sprintf(format, args...), Hint: hint}
	}
	if len(src) > 1024 || !utf8.ValidString(src) {
		return order{}, &Error{Param: "order_by", Msg: "at most 1024 bytes of UTF-8"}
	}
	for part := range strings.SplitSeq(src, ",") {
		col := at + len(part) - len(strings.TrimLeft(part, " "))
		at += len(part) + 1
		words := strings.Fields(part)
		if len(words) == 0 {
			if t.Default == "" && src == "" {
				continue
			}
			return refuse(min(col, len(src)), "for example bytes desc, slate", "a field is missing")
		}
		tm := term{name: words[0]}
		switch {
		case len(words) == 1 || len(words) == 2 && words[1] == "asc":
		case len(words) == 2 && words[1] == "desc":
			tm.desc = true
		default:
			return refuse(col, "write asc or desc after a field, and commas between fields", "%q is no order", strings.TrimSpace(part))
		}
		p, bad, hint := t.resolve(strings.Split(tm.name, "."))
		if bad >= 0 {
			return refuse(col, hint, "%s have no field %s", t.Name, tm.name)
		}
		if p.repeated() || !p.kind().scalar() {
			return refuse(col, "order by a text, a number, a time, or true and false", "%s is a list", tm.name)
		}
		tm.path = p
		if slices.ContainsFunc(o.terms, func(x term) bool { return x.name == tm.name }) {
			return refuse(col, "", "%s is there twice", tm.name)
		}
		o.terms = append(o.terms, tm)
	}
	for _, f := range t.key {
		if !slices.ContainsFunc(o.terms, func(x term) bool { return x.name == f.Name }) {
			o.terms = append(o.terms, term{path: path{fields: []*Field{f}}, name: f.Name})
		}
	}
	var names []string
	for _, tm := range o.terms {
		if tm.desc {
			names = append(names, tm.name+" desc")
		} else {
			names = append(names, tm.name)
		}
	}
	o.text = strings.Join(names, ",")
	return o, nil
}

// read gives what a term sorts a row by. A text that JSON leaves out when
// empty is null.
func (tm term) read(v reflect.Value) value {
	x := tm.path.scalar(v)
	if x.kind == Text && x.s == "" && !tm.path.keyed && tm.path.last().OmitEmpty {
		return value{}
	}
	return x
}

func (tm term) compare(a, b value) int {
	switch {
	case a.null() && b.null():
		return 0
	case a.null():
		return 1
	case b.null():
		return -1
	}
	c := a.compare(b)
	if tm.desc {
		return -c
	}
	return c
}

func (x value) compare(o value) int {
	switch x.kind {
	case Text:
		return strings.Compare(x.s, o.s)
	case Number:
		return x.num.compare(o.num)
	case Time:
		return x.t.Compare(o.t)
	}
	switch {
	case x.b == o.b:
		return 0
	case o.b:
		return -1
	}
	return 1
}

func (o order) compare(a, b reflect.Value) int {
	for _, tm := range o.terms {
		if c := tm.compare(tm.read(a), tm.read(b)); c != 0 {
			return c
		}
	}
	return 0
}

func (o order) compareTo(v reflect.Value, mark []value) int {
	for i, tm := range o.terms {
		if c := tm.compare(tm.read(v), mark[i]); c != 0 {
			return c
		}
	}
	return 0
}

// top keeps the first n rows of an order, as a heap with the last on top.
type top struct {
	order order
	n     int
	rows  []kept
}

type kept struct {
	row   any
	v     reflect.Value
	first value // of the first term: most comparisons end there
}

func newTop(o order, n int) *top { return &top{order: o, n: n} }

func (h *top) full() bool { return len(h.rows) == h.n }

func (h *top) compare(a, b kept) int {
	if c := h.order.terms[0].compare(a.first, b.first); c != 0 {
		return c
	}
	return h.order.compare(a.v, b.v)
}

func (h *top) add(row any, v reflect.Value) {
	k := kept{row, v, h.order.terms[0].read(v)}
	if !h.full() {
		h.rows = append(h.rows, k)
		for i := len(h.rows) - 1; i > 0; {
			up := (i - 1) / 2
			if h.compare(h.rows[i], h.rows[up]) <= 0 {
				break
			}
			h.rows[i], h.rows[up] = h.rows[up], h.rows[i]
			i = up
		}
		return
	}
	if c := h.order.terms[0].compare(k.first, h.rows[0].first); c > 0 || c == 0 && h.compare(k, h.rows[0]) >= 0 {
		return
	}
	h.rows[0] = k
	for i := 0; ; {
		big := i
		for _, c := range []int{2*i + 1, 2*i + 2} {
			if c < len(h.rows) && h.compare(h.rows[c], h.rows[big]) > 0 {
				big = c
			}
		}
		if big == i {
			return
		}
		h.rows[i], h.rows[big] = h.rows[big], h.rows[i]
		i = big
	}
}

func (h *top) sorted() []any {
	slices.SortFunc(h.rows, h.compare)
	rows := make([]any, len(h.rows))
	for i, k := range h.rows {
		rows[i] = k.row
	}
	return rows
}

// A page token is base64 of JSON: what it is bound to, and the sort values of
// the last row given. It holds no secret and grants nothing: a forged one only
// begins a page elsewhere in rows that may be read anyway.
type token struct {
	Bind []byte `json:"b"`
	Last []any  `json:"l"`
}

func binding(resource, filter string, o order) (b [8]byte) {
	sum := sha256.Sum256([]byte(resource + "\x00" + strings.TrimSpace(filter) + "\x00" + o.text))
	copy(b[:], sum[:])
	return b
}

const maxToken = 16 << 10

func (o order) encode(v reflect.Value, bind [8]byte) string {
	t := token{Bind: bind[:]}
	for _, tm := range o.terms {
		var last any
		switch x := tm.read(v); x.kind {
		case Text:
			last = []byte(x.s) // bytes, for JSON would mend what is not UTF-8
		case Number:
			last = x.num.String()
		case Time:
			last = x.t.UTC().Format(time.RFC3339Nano)
		case Bool:
			last = x.b
		}
		t.Last = append(t.Last, last)
	}
	b, err := json.Marshal(t)
	if err != nil {
		panic("query: page token: " + err.Error()) // texts and booleans always marshal
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func (o order) decode(s string, bind [8]byte) ([]value, error) {
	broken := &Error{Param: "page_token", Msg: "this is no page token of this list", Hint: "leave it out to begin with the first page"}
	if len(s) > maxToken {
		return nil, broken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, broken
	}
	var t token
	if json.Unmarshal(b, &t) != nil {
		return nil, broken
	}
	if string(t.Bind) != string(bind[:]) {
		return nil, &Error{Param: "page_token", Msg: "this page token belongs to another resource, filter or order_by", Hint: "use it with those of the page it came with, or leave it out", Token: true}
	}
	if len(t.Last) != len(o.terms) {
		return nil, broken
	}
	last := make([]value, len(t.Last))
	for i, x := range t.Last {
		if last[i], err = fromToken(o.terms[i].path.kind(), x); err != nil {
			return nil, broken
		}
	}
	return last, nil
}

var errToken = errors.New("no value of a page token")

func fromToken(k Kind, x any) (value, error) {
	switch x := x.(type) {
	case nil:
		return value{}, nil
	case bool:
		if k == Bool {
			return value{kind: Bool, b: x}, nil
		}
	case string:
		switch k {
		case Text:
			b, err := base64.StdEncoding.DecodeString(x)
			return value{kind: Text, s: string(b)}, err
		case Number:
			n, ok := parseNumber(x)
			if !ok {
				return value{}, errToken
			}
			return value{kind: Number, num: n}, nil
		case Time:
			t, err := time.Parse(time.RFC3339Nano, x)
			return value{kind: Time, t: t}, err
		}
	}
	return value{}, errToken
}
