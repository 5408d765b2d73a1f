package pack

import (
	"fmt"
	"math"
	"reflect"
	"time"
	"unsafe"
)

// Reader makes the values again that a [Writer] laid out. Whatever the bytes
// are, it takes no more memory than some twenty times as many and never
// panics; after a mistake it gives zeroes and [Reader.Whole] is false. It
// belongs to one goroutine.
type Reader struct {
	s    string
	last string
	bad  bool
	same Same
}

// Same keeps maps that were read, so that equal ones are one. Nobody may
// change a map that was read. It belongs to one goroutine.
type Same map[string]map[string]string

// NewReader reads what was laid out in s. Texts that it gives are pieces of s,
// which stays in memory while one of them does. same may be nil.
func NewReader(s string, same Same) *Reader { return &Reader{s: s, same: same} }

// Next reads a value into what v points to, which must be empty; v is a
// pointer to the form's type. It reports whether that went well.
func (r *Reader) Next(f *Form, v any) bool {
	p := reflect.ValueOf(v)
	if p.Type().Elem() != f.typ {
		panic(fmt.Sprintf("pack: a %s where a %s is read", p.Type().Elem(), f.typ))
	}
	r.read(f, p.UnsafePointer())
	return !r.bad
}

// Whole reports whether everything was read, and nothing was wrong.
func (r *Reader) Whole() bool { return !r.bad && r.s == "" }

// Fits reports whether so many values can be in what is left.
func (r *Reader) Fits(f *Form, n uint64) bool { return n <= uint64(len(r.s)/f.least) }

func (r *Reader) wrong() {
	r.bad, r.s = true, ""
}

// Uvarint reads a number that was not written by a form.
func (r *Reader) Uvarint() (n uint64) {
	for i, shift := 0, 0; i < len(r.s) && i < 10; i, shift = i+1, shift+7 {
		b := r.s[i]
		if b < 0x80 {
			if i == 9 && b > 1 {
				break
			}
			r.s = r.s[i+1:]
			return n | uint64(b)<<shift
		}
		n |= uint64(b&0x7f) << shift
	}
	r.wrong()
	return 0
}

func (r *Reader) varint() int64 {
	n := r.Uvarint()
	return int64(n>>1) ^ -int64(n&1)
}

func (r *Reader) byte() byte {
	if r.s == "" {
		r.wrong()
		return 0
	}
	b := r.s[0]
	r.s = r.s[1:]
	return b
}

func (r *Reader) cut(n uint64) string {
	if n > uint64(len(r.s)) {
		r.wrong()
		return ""
	}
	s := r.s[:n]
	r.s = r.s[n:]
	return s
}

func (r *Reader) read(f *Form, p unsafe.Pointer) {
	switch f.kind {
	case text:
		if n := r.Uvarint(); n > 0 {
			r.last = r.cut(n - 1)
		}
		if !r.bad {
			*(*string)(p) = r.last
		}
	case truth:
		b := r.byte()
		if b > 1 {
			r.wrong()
		}
		*(*bool)(p) = b == 1
	case whole:
		n, v := r.varint(), reflect.NewAt(f.typ, p).Elem()
		if v.OverflowInt(n) {
			r.wrong()
		}
		v.SetInt(n)
	case count:
		switch f.typ.Size() {
		case 1:
			*(*uint8)(p) = r.byte()
		case 8:
			*(*uint64)(p) = r.Uvarint()
		default: // of a machine with shorter words
			n, v := r.Uvarint(), reflect.NewAt(f.typ, p).Elem()
			if v.OverflowUint(n) {
				r.wrong()
			}
			v.SetUint(n)
		}
	case real:
		if s := r.cut(8); s != "" {
			var n uint64
			for i := range 8 {
				n |= uint64(s[i]) << (8 * i)
			}
			*(*float64)(p) = math.Float64frombits(n)
		}
	case moment:
		*(*time.Time)(p) = r.moment()
	case labels:
		*(*map[string]string)(p) = r.labels()
	case list:
		r.list(f, p)
	case maybe:
		switch b := r.byte(); {
		case b > 1:
			r.wrong()
		case b == 1:
			to := reflect.New(f.elem.typ).UnsafePointer()
			*(*unsafe.Pointer)(p) = to
			r.read(f.elem, to)
		}
	case record:
		for i := range f.fields {
			r.read(f.fields[i].form, unsafe.Add(p, f.fields[i].off))
			if r.bad {
				return
			}
		}
	}
}

func (r *Reader) list(f *Form, p unsafe.Pointer) {
	n := r.Uvarint()
	if n == 0 {
		return
	}
	if n--; !r.Fits(f.elem, n) {
		r.wrong()
		return
	}
	v := reflect.NewAt(f.typ, p).Elem()
	v.Set(reflect.MakeSlice(f.typ, int(n), int(n)))
	for i, at := 0, v.UnsafePointer(); i < int(n) && !r.bad; i++ {
		r.read(f.elem, unsafe.Add(at, uintptr(i)*f.elem.typ.Size()))
	}
}

func (r *Reader) moment() (t time.Time) {
	zone := time.UTC
	switch r.byte() {
	case noTime:
		return t
	case inUTC:
	case elsewhere:
		off := r.varint()
		if off < -86400 || off > 86400 {
			r.wrong()
			return t
		}
		zone = time.FixedZone("", int(off))
	default:
		r.wrong()
	}
	sec, nano := r.varint(), r.Uvarint()
	if r.bad || nano >= 1e9 {
		r.wrong()
		return t
	}
	return time.Unix(sec, int64(nano)).In(zone)
}

func (r *Reader) labels() map[string]string {
	n := r.Uvarint()
	if n == 0 {
		return nil
	}
	all := r.cut(n - 1)
	if r.bad {
		return nil
	}
	if m, ok := r.same[all]; ok {
		return m
	}
	m, in := map[string]string{}, Reader{s: all}
	for in.s != "" {
		k := in.cut(in.Uvarint())
		m[k] = in.cut(in.Uvarint())
	}
	if in.bad {
		r.wrong()
		return nil
	}
	if r.same != nil {
		r.same[all] = m
	}
	return m
}
