// Package pack lays structs out as bytes and makes them again: fields in their
// order, without names. It is for what the hub saves in bulk and reads at its
// start, where JSON would cost most of the time. The bytes mean something only
// to a form of the same shape; whoever saves them saves [Form.Shape] beside
// them and compares.
//
// Begin with [Of], [Writer] and [Reader].
package pack

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// Form is how a type is laid out. It never changes.
type Form struct {
	typ    reflect.Type
	kind   kind
	fields []part // of a record
	elem   *Form  // of a list or pointer
	least  int    // bytes that any value takes at least
}

type part struct {
	name string
	off  uintptr
	form *Form
}

type kind byte

const (
	text   kind = 's'
	truth  kind = 'b'
	whole  kind = 'i'
	count  kind = 'u'
	real   kind = 'f'
	moment kind = 't'
	labels kind = 'm' // map[string]string
	list   kind = '['
	maybe  kind = '*'
	record kind = '{'
)

// Of derives the form of a type: structs of exported fields, slices, pointers,
// maps of texts, texts, numbers, booleans and times. It panics on any other:
// that is a mistake in the program.
func Of(t reflect.Type) *Form {
	f := &Form{typ: t, least: 1}
	switch t.Kind() {
	case reflect.String:
		f.kind = text
	case reflect.Bool:
		f.kind = truth
	case reflect.Int, reflect.Int64:
		f.kind = whole
	case reflect.Uint, reflect.Uint64, reflect.Uint8:
		f.kind = count
	case reflect.Float64:
		f.kind, f.least = real, 8
	case reflect.Slice:
		f.kind, f.elem = list, Of(t.Elem())
	case reflect.Pointer:
		f.kind, f.elem = maybe, Of(t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			f.kind = moment
			break
		}
		f.kind, f.least = record, 0
		for i := range t.NumField() {
			sf := t.Field(i)
			if !sf.IsExported() {
				panic(fmt.Sprintf("pack: %s.%s is not exported", t, sf.Name))
			}
			p := part{sf.Name, sf.Offset, Of(sf.Type)}
			f.fields, f.least = append(f.fields, p), f.least+p.form.least
		}
	case reflect.Map:
		if t == reflect.TypeFor[map[string]string]() {
			f.kind = labels
		}
	}
	if f.kind == 0 || f.least == 0 {
		panic(fmt.Sprintf("pack: no form for a %s", t))
	}
	return f
}

// Shape says what is laid out in which order: bytes written by a form of one
// shape are read by any form of the same.
func (f *Form) Shape() string {
	switch f.kind {
	case list, maybe:
		return string(f.kind) + f.elem.Shape()
	case record:
		var b strings.Builder
		b.WriteByte('{')
		for i, p := range f.fields {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(p.name + ":" + p.form.Shape())
		}
		return b.String() + "}"
	}
	return string(f.kind)
}

// Writer lays values out one after the other. Its zero value is ready. It
// belongs to one goroutine.
type Writer struct {
	B    []byte // what was written
	last string
	keys []string
}

// Reset begins anew, in the same memory.
func (w *Writer) Reset() { w.B, w.last = w.B[:0], "" }

// Add writes the value that v points to; v is a pointer to the form's type.
func (w *Writer) Add(f *Form, v any) {
	p := reflect.ValueOf(v)
	if p.Type().Elem() != f.typ {
		panic(fmt.Sprintf("pack: a %s where a %s is written", p.Type().Elem(), f.typ))
	}
	w.add(f, p.UnsafePointer())
}

func (w *Writer) uvarint(n uint64) { w.B = binary.AppendUvarint(w.B, n) }

// text writes a text; one that is as the one before takes one byte.
func (w *Writer) text(s string) {
	if s == w.last {
		w.B = append(w.B, 0)
		return
	}
	w.last = s
	w.uvarint(uint64(len(s)) + 1)
	w.B = append(w.B, s...)
}

func (w *Writer) add(f *Form, p unsafe.Pointer) {
	switch f.kind {
	case text:
		w.text(*(*string)(p))
	case truth:
		if *(*bool)(p) {
			w.B = append(w.B, 1)
		} else {
			w.B = append(w.B, 0)
		}
	case whole:
		w.B = binary.AppendVarint(w.B, reflect.NewAt(f.typ, p).Elem().Int())
	case count:
		switch f.typ.Size() {
		case 1:
			w.B = append(w.B, *(*uint8)(p))
		case 8:
			w.uvarint(*(*uint64)(p))
		default:
			w.uvarint(reflect.NewAt(f.typ, p).Elem().Uint())
		}
	case real:
		w.B = binary.LittleEndian.AppendUint64(w.B, math.Float64bits(*(*float64)(p)))
	case moment:
		w.moment(*(*time.Time)(p))
	case labels:
		w.labels(*(*map[string]string)(p))
	case list:
		v := reflect.NewAt(f.typ, p).Elem()
		if v.IsNil() {
			w.B = append(w.B, 0)
			return
		}
		w.uvarint(uint64(v.Len()) + 1)
		for i, at := 0, v.UnsafePointer(); i < v.Len(); i++ {
			w.add(f.elem, unsafe.Add(at, uintptr(i)*f.elem.typ.Size()))
		}
	case maybe:
		if p = *(*unsafe.Pointer)(p); p == nil {
			w.B = append(w.B, 0)
			return
		}
		w.B = append(w.B, 1)
		w.add(f.elem, p)
	case record:
		for i := range f.fields {
			w.add(f.fields[i].form, unsafe.Add(p, f.fields[i].off))
		}
	}
}

// How a time is written: its zone goes before it.
const (
	noTime = iota
	inUTC
	elsewhere
)

func (w *Writer) moment(t time.Time) {
	if t.IsZero() {
		w.B = append(w.B, noTime)
		return
	}
	if _, off := t.Zone(); off == 0 {
		w.B = append(w.B, inUTC)
	} else {
		w.B = binary.AppendVarint(append(w.B, elsewhere), int64(off))
	}
	w.B = binary.AppendVarint(w.B, t.Unix())
	w.uvarint(uint64(t.Nanosecond()))
}

// labels writes a map in the order of its keys, behind its length, so that
// equal maps are equal bytes.
func (w *Writer) labels(m map[string]string) {
	if m == nil {
		w.B = append(w.B, 0)
		return
	}
	w.keys = w.keys[:0]
	for k := range m {
		w.keys = append(w.keys, k)
	}
	slices.Sort(w.keys)
	n := 0
	for _, k := range w.keys {
		n += sizeOf(k) + sizeOf(m[k])
	}
	w.uvarint(uint64(n) + 1)
	for _, k := range w.keys {
		for _, s := range [...]string{k, m[k]} {
			w.uvarint(uint64(len(s)))
			w.B = append(w.B, s...)
		}
	}
}

// sizeOf is how many bytes a text takes behind its length.
func sizeOf(s string) int {
	n := 1
	for x := len(s); x >= 0x80; x >>= 7 {
		n++
	}
	return n + len(s)
}
