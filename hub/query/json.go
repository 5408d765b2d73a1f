package query

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Mask says which fields of a row are shown. A nil Mask shows all.
type Mask struct {
	fields map[string]*Mask // nil inside: the whole field
}

// Mask reads "slate,readers.id,labels.team"; "" and "*" are all fields.
func (t *Type) Mask(src string) (*Mask, error) {
	if s := strings.TrimSpace(src); s == "" || s == "*" {
		return nil, nil
	}
	if len(src) > 4096 || !utf8.ValidString(src) {
		return nil, &Error{Param: "fields", Msg: "at most 4096 bytes of UTF-8"}
	}
	m := &Mask{fields: map[string]*Mask{}}
	at := 0
	for part := range strings.SplitSeq(src, ",") {
		col := at + len(part) - len(strings.TrimLeft(part, " "))
		at += len(part) + 1
		name := strings.TrimSpace(part)
		p, bad, hint := t.resolve(strings.Split(name, "."))
		if bad >= 0 {
			return nil, &Error{Param: "fields", Input: src, Column: utf8.RuneCountInString(src[:col]) + 1, Msg: fmt.Sprintf("%s have no field %q", t.Name, name), Hint: hint}
		}
		m.add(p)
	}
	return m, nil
}

func (m *Mask) add(p path) {
	steps := make([]string, 0, len(p.fields)+1)
	for _, f := range p.fields {
		steps = append(steps, f.Name)
	}
	if p.keyed {
		steps = append(steps, p.key)
	}
	for i, s := range steps {
		inner, known := m.fields[s]
		switch {
		case known && inner == nil: // already whole
			return
		case i == len(steps)-1:
			m.fields[s] = nil
			return
		case !known:
			inner = &Mask{fields: map[string]*Mask{}}
			m.fields[s] = inner
		}
		m = inner
	}
}

// shows says whether a field is shown, and what of it.
func (m *Mask) shows(name string) (inner *Mask, ok bool) {
	if m == nil {
		return nil, true
	}
	inner, ok = m.fields[name]
	return inner, ok
}

// AppendJSON appends a row as JSON, as encoding/json would, but for two
// things: a list without elements is [] and never null, and only what the mask
// shows is there.
func (t *Type) AppendJSON(dst []byte, row any, m *Mask) []byte {
	return t.append(dst, elem(row), m)
}

func (r *Shape) append(dst []byte, v reflect.Value, m *Mask) []byte {
	dst = append(dst, '{')
	begin := len(dst)
	for _, f := range r.Fields {
		inner, shown := m.shows(f.Name)
		if !shown {
			continue
		}
		at := v.FieldByIndex(f.index)
		if f.OmitEmpty && leftOut(at) {
			continue
		}
		if len(dst) > begin {
			dst = append(dst, ',')
		}
		dst = append(dst, f.quoted...)
		if at.Kind() == reflect.Pointer {
			if at = at.Elem(); !at.IsValid() {
				dst = append(dst, "null"...)
				continue
			}
		}
		dst = f.appendIn(dst, at, inner)
	}
	return append(dst, '}')
}

// leftOut is omitempty as encoding/json has it.
func leftOut(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// appendIn appends what is in a field.
func (f *Field) appendIn(dst []byte, v reflect.Value, m *Mask) []byte {
	switch f.Kind {
	case Record:
		return f.Sub.append(dst, v, m)
	case Records, List:
		dst = append(dst, '[')
		for i := range v.Len() {
			if i > 0 {
				dst = append(dst, ',')
			}
			if f.Kind == List {
				dst = appendScalar(dst, v.Index(i), f.Elem)
			} else {
				dst = f.Sub.append(dst, v.Index(i), m)
			}
		}
		return append(dst, ']')
	case Map:
		if texts, ok := v.Interface().(map[string]string); ok {
			return appendTexts(dst, texts, m)
		}
		dst = append(dst, '{')
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		first := true
		for _, k := range keys {
			if _, shown := m.shows(k.String()); !shown {
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = appendString(dst, k.String())
			dst = append(dst, ':')
			dst = appendScalar(dst, v.MapIndex(k), f.Elem)
		}
		return append(dst, '}')
	}
	return appendScalar(dst, v, f.Kind)
}

func appendScalar(dst []byte, v reflect.Value, k Kind) []byte {
	switch {
	case k == Text:
		return appendString(dst, v.String())
	case k == Bool:
		return strconv.AppendBool(dst, v.Bool())
	case k == Time:
		return appendTime(dst, *v.Addr().Interface().(*time.Time))
	case v.CanUint():
		return strconv.AppendUint(dst, v.Uint(), 10)
	case v.CanInt():
		return strconv.AppendInt(dst, v.Int(), 10)
	}
	b, err := json.Marshal(v.Float())
	if err != nil { // NaN and infinities were not observed
		return append(dst, "null"...)
	}
	return append(dst, b...)
}

func appendTime(dst []byte, t time.Time) []byte {
	dst = t.AppendFormat(append(dst, '"'), time.RFC3339Nano)
	return append(dst, '"')
}

// appendTexts appends a map of texts in the order of its keys.
func appendTexts(dst []byte, texts map[string]string, m *Mask) []byte {
	var few [8]string
	keys := few[:0]
	for k := range texts {
		if _, shown := m.shows(k); shown {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, k), ':')
		dst = appendString(dst, texts[k])
	}
	return append(dst, '}')
}

func appendValue(dst []byte, x value) []byte {
	switch x.kind {
	case Text:
		return appendString(dst, x.s)
	case Bool:
		return strconv.AppendBool(dst, x.b)
	case Time:
		return appendString(dst, x.t.Format(time.RFC3339Nano))
	case Number:
		return append(dst, x.num.String()...)
	}
	return append(dst, "null"...)
}

func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			b, err := json.Marshal(s)
			if err != nil {
				panic("query: " + err.Error()) // a string always marshals
			}
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
