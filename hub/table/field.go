package table

import (
	"reflect"
	"strings"
	"time"
	"unsafe"

	"github.com/quarry-db/quarry/hub/pack"
)

// field is how a column is read from a row and written to one. Fields of the
// usual types are reached at their offset, for that is many times faster than
// by reflection.
type field struct {
	index      []int // nil: no field of the row
	off        uintptr
	typ        reflect.Type // without the pointer
	ptr        bool
	form       form
	kind       Kind
	at         int        // among the stored columns of its kind; of a Name: which part
	order, sum int        // among those; -1: neither
	none       any        // the empty list or map
	packed     *pack.Form // of an object
}

// form is how a value lies in memory.
type form uint8

const (
	formOther form = iota // by reflection
	formText
	formTruth
	formWord // 64 bits
	formTime
)

func formOf(t reflect.Type) form {
	switch t.Kind() {
	case reflect.String:
		return formText
	case reflect.Bool:
		return formTruth
	case reflect.Uint64, reflect.Int64, reflect.Uint, reflect.Int:
		if t.Size() == 8 {
			return formWord
		}
	}
	if t == timeType {
		return formTime
	}
	return formOther
}

// offset is where a field lies in its struct. Embedded pointers are not
// followed: they would have to be made.
func offset(t reflect.Type, index []int) (off uintptr) {
	for _, i := range index {
		f := t.Field(i)
		off += f.Offset
		t = f.Type
	}
	return off
}

// cell is one field of a row on its way into or out of columns.
type cell struct {
	num  uint64
	text string
	obj  any
	null bool
}

// read takes a field out of a row.
func (f *field) read(row unsafe.Pointer) (c cell) {
	p := unsafe.Add(row, f.off)
	if f.form == formOther {
		return f.readOther(p)
	}
	if f.ptr {
		if p = *(*unsafe.Pointer)(p); p == nil {
			return cell{null: true}
		}
	}
	switch f.form {
	case formText:
		c.text = *(*string)(p)
	case formTruth:
		if *(*bool)(p) {
			c.num = 1
		}
	case formWord:
		c.num = *(*uint64)(p)
	case formTime:
		n, ok := TimeNumber(*(*time.Time)(p))
		return cell{num: n, null: !ok}
	}
	return c
}

func (f *field) readOther(p unsafe.Pointer) (c cell) {
	typ := f.typ
	if f.ptr {
		typ = reflect.PointerTo(typ)
	}
	v := reflect.NewAt(typ, p).Elem()
	if f.ptr && f.kind != Object {
		if v.IsNil() {
			return cell{null: true}
		}
		v = v.Elem()
	}
	switch {
	case f.kind == Trait && v.Kind() == reflect.Slice:
		// A list as a trait: its elements, each ended by NUL.
		for i := range v.Len() {
			c.text += v.Index(i).String() + "\x00"
		}
		c.null = v.IsNil()
		return c
	case v.CanInt():
		return cell{num: uint64(v.Int())}
	case v.CanUint():
		return cell{num: v.Uint()}
	}
	switch v.Kind() {
	case reflect.Struct:
	default:
		if v.IsNil() {
			return cell{null: true}
		}
		if (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0 && f.none != nil {
			return cell{obj: f.none, num: 1}
		}
	}
	c.obj = v.Interface()
	return c
}

// arena has the numbers that pointers of one row point to, in one piece.
type arena []uint64

// write puts a cell into a row whose field is empty.
func (f *field) write(row unsafe.Pointer, c cell, a *arena) {
	if c.null {
		return
	}
	p := unsafe.Add(row, f.off)
	if f.form == formOther {
		f.writeOther(p, c)
		return
	}
	if f.ptr {
		var to unsafe.Pointer
		switch f.form {
		case formWord:
			if len(*a) < cap(*a) {
				*a = append(*a, c.num)
				*(*unsafe.Pointer)(p) = unsafe.Pointer(&(*a)[len(*a)-1])
				return
			}
			to = unsafe.Pointer(new(uint64))
		case formTruth:
			to = unsafe.Pointer(new(bool))
		case formTime:
			to = unsafe.Pointer(new(time.Time))
		default:
			to = unsafe.Pointer(new(string))
		}
		*(*unsafe.Pointer)(p) = to
		p = to
	}
	switch f.form {
	case formText:
		*(*string)(p) = c.text
	case formTruth:
		*(*bool)(p) = c.num != 0
	case formWord:
		*(*uint64)(p) = c.num
	case formTime:
		*(*time.Time)(p) = NumberTime(c.num)
	}
}

func (f *field) writeOther(p unsafe.Pointer, c cell) {
	typ := f.typ
	if f.ptr {
		typ = reflect.PointerTo(typ)
	}
	v := reflect.NewAt(typ, p).Elem()
	if f.kind == Object {
		if c.obj != nil {
			v.Set(reflect.ValueOf(c.obj))
		}
		return
	}
	if f.kind == Symbol && f.typ.Kind() == reflect.Map {
		if c.obj != nil {
			v.Set(reflect.ValueOf(c.obj).Convert(f.typ))
		}
		return
	}
	if f.ptr {
		v.Set(reflect.New(f.typ))
		v = v.Elem()
	}
	switch {
	case v.CanInt():
		v.SetInt(int64(c.num))
	case v.CanUint():
		v.SetUint(c.num)
	case v.Kind() == reflect.Slice:
		list := reflect.MakeSlice(f.typ, 0, strings.Count(c.text, "\x00"))
		for part := range strings.SplitSeq(strings.TrimSuffix(c.text, "\x00"), "\x00") {
			if c.text != "" {
				list = reflect.Append(list, reflect.ValueOf(part).Convert(f.typ.Elem()))
			}
		}
		v.Set(list)
	}
}
