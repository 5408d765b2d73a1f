// Package fb reads FlatBuffers that nobody has verified. Every access is
// bounds-checked, so a damaged buffer gives an error that names the field and
// never a panic; the official Go runtime has no verifier and does panic.
//
// Begin with [Root]. Reads of one buffer share a sticky error: accessors
// return the default after the first fault, and [Table.Err] tells what it was.
package fb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrCorrupt is wrapped by every error of this package.
var ErrCorrupt = errors.New("corrupt flatbuffer")

// Error is the first fault met in a buffer.
type Error struct {
	// Field is where it was, as the caller named the fields on the way
	// there: "l0[2].info.index_len".
	Field  string
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("field %s: %s: %v", e.Field, e.Reason, ErrCorrupt)
}

// Unwrap returns [ErrCorrupt].
func (e *Error) Unwrap() error { return ErrCorrupt }

// buffer is the state that all tables of one buffer share.
type buffer struct {
	b   []byte
	err *Error
	// left bounds the elements that may still be visited. Offsets may point
	// at the same place many times, so without it a small buffer could make
	// a reader work for hours.
	left int
}

func (s *buffer) fail(field, format string, args ...any) {
	if s.err == nil {
		s.err = &Error{Field: field, Reason: fmt.Sprintf(format, args...)}
	}
}

// within says that the fault met just now was inside of field step.
func (s *buffer) within(step string) {
	if rest := s.err.Field; strings.HasPrefix(rest, "[") {
		s.err.Field = step + rest
	} else {
		s.err.Field = step + "." + rest
	}
}

// wrapped returns the fault as an error: a nil *Error would not be a nil
// error.
func (s *buffer) wrapped() error {
	if s.err == nil {
		return nil
	}
	return s.err
}

func (s *buffer) spend(field string, n int) bool {
	if s.left -= n; s.left < 0 {
		s.fail(field, "more elements than the buffer can hold")
		return false
	}
	return true
}

func (s *buffer) u32(field string, at int) (uint32, bool) {
	if s.err != nil {
		return 0, false
	}
	if at < 0 || at > len(s.b)-4 {
		s.fail(field, "offset %d is outside of %d bytes", at, len(s.b))
		return 0, false
	}
	return binary.LittleEndian.Uint32(s.b[at:]), true
}

// Table is one FlatBuffers table. The zero Table stands for an absent one:
// all its fields are absent.
type Table struct {
	s    *buffer
	pos  int // of the table in the buffer
	vtab int // of its vtable
	vlen int // bytes of the vtable
	size int // bytes of the inline part
}

// Root returns the root table of buf. buf must not change while tables of it
// are in use; byte slices that accessors return alias it.
func Root(buf []byte) (Table, error) {
	// What costs one takes at least four bytes of a buffer that shares
	// nothing, as no real writer does.
	s := &buffer{b: buf, left: 1024 + len(buf)/4}
	off, ok := s.u32("root", 0)
	if !ok {
		return Table{}, s.wrapped()
	}
	t := s.table("root", int(off))
	return t, s.wrapped()
}

// Err returns the first fault met in the buffer that t belongs to, or nil. It
// is an [*Error].
func (t Table) Err() error {
	if t.s == nil {
		return nil
	}
	return t.s.wrapped()
}

// Present reports whether t stands for a table that is there.
func (t Table) Present() bool { return t.s != nil && t.vlen > 0 }

// Fail records a fault found by the caller (a union tag out of range, say).
func (t Table) Fail(field, format string, args ...any) {
	if t.s != nil {
		t.s.fail(field, format, args...)
	}
}

func (s *buffer) table(field string, pos int) Table {
	none := Table{s: s}
	if !s.spend(field, 1) {
		return none
	}
	so, ok := s.u32(field, pos)
	if !ok {
		return none
	}
	vtab := pos - int(int32(so))
	if vtab < 0 || vtab > len(s.b)-4 {
		s.fail(field, "vtable at %d is outside of %d bytes", vtab, len(s.b))
		return none
	}
	vlen := int(binary.LittleEndian.Uint16(s.b[vtab:]))
	size := int(binary.LittleEndian.Uint16(s.b[vtab+2:]))
	if vlen < 4 || vlen%2 != 0 || vtab+vlen > len(s.b) || size < 4 || pos+size > len(s.b) {
		s.fail(field, "vtable at %d of %d bytes for a table of %d bytes", vtab, vlen, size)
		return none
	}
	return Table{s: s, pos: pos, vtab: vtab, vlen: vlen, size: size}
}

// at returns where the n bytes of field id begin, or false when it is absent.
func (t Table) at(id int, field string, n int) (int, bool) {
	if t.s == nil || t.s.err != nil {
		return 0, false
	}
	slot := 4 + 2*id
	if slot+2 > t.vlen {
		return 0, false
	}
	off := int(binary.LittleEndian.Uint16(t.s.b[t.vtab+slot:]))
	if off == 0 {
		return 0, false
	}
	if off < 4 || off+n > t.size {
		t.s.fail(field, "offset %d of %d bytes in a table of %d", off, n, t.size)
		return 0, false
	}
	return t.pos + off, true
}

// Has reports whether field id is present.
func (t Table) Has(id int) bool {
	_, ok := t.at(id, "presence", 0)
	return ok
}

// Fields returns how many field slots the vtable has: a reader that knows
// fewer meets a newer writer.
func (t Table) Fields() int {
	if t.vlen < 4 {
		return 0
	}
	return (t.vlen - 4) / 2
}

// Uint64 returns field id, or def when it is absent.
func (t Table) Uint64(id int, field string, def uint64) uint64 {
	if p, ok := t.at(id, field, 8); ok {
		return binary.LittleEndian.Uint64(t.s.b[p:])
	}
	return def
}

// Int64 is like [Table.Uint64].
func (t Table) Int64(id int, field string, def int64) int64 {
	return int64(t.Uint64(id, field, uint64(def)))
}

// Uint32 is like [Table.Uint64].
func (t Table) Uint32(id int, field string, def uint32) uint32 {
	if p, ok := t.at(id, field, 4); ok {
		return binary.LittleEndian.Uint32(t.s.b[p:])
	}
	return def
}

// Uint16 is like [Table.Uint64].
func (t Table) Uint16(id int, field string, def uint16) uint16 {
	if p, ok := t.at(id, field, 2); ok {
		return binary.LittleEndian.Uint16(t.s.b[p:])
	}
	return def
}

// Uint8 is like [Table.Uint64].
func (t Table) Uint8(id int, field string, def uint8) uint8 {
	if p, ok := t.at(id, field, 1); ok {
		return t.s.b[p]
	}
	return def
}

// Bool is like [Table.Uint64].
func (t Table) Bool(id int, field string) bool { return t.Uint8(id, field, 0) != 0 }

// ref follows the offset stored at p.
func (s *buffer) ref(field string, p int) (int, bool) {
	off, ok := s.u32(field, p)
	if !ok {
		return 0, false
	}
	to := p + int(off)
	if off < 4 || to < 0 || to > len(s.b)-4 {
		s.fail(field, "reference to %d is outside of %d bytes", to, len(s.b))
		return 0, false
	}
	return to, true
}

// vector returns the start and length of the vector field id with elements of
// width bytes. present is false when the field is absent.
func (t Table) vector(id int, field string, width int) (start, n int, present bool) {
	p, ok := t.at(id, field, 4)
	if !ok {
		return 0, 0, false
	}
	to, ok := t.s.ref(field, p)
	if !ok {
		return 0, 0, false
	}
	count, ok := t.s.u32(field, to)
	if !ok {
		return 0, 0, false
	}
	if int64(count)*int64(width) > int64(len(t.s.b)-to-4) {
		t.s.fail(field, "%d elements do not fit into %d bytes", count, len(t.s.b)-to-4)
		return 0, 0, false
	}
	return to + 4, int(count), true
}

// Bytes returns the byte vector or string field id, aliasing the buffer; nil
// when it is absent, empty but not nil when it is present and empty.
func (t Table) Bytes(id int, field string) []byte {
	start, n, ok := t.vector(id, field, 1)
	if !ok || !t.s.spend(field, 1+n/64) {
		return nil
	}
	return t.s.b[start : start+n : start+n]
}

// String returns the string field id and whether it is present. Strings are
// UTF-8 and end in a zero byte behind their length; others are faults, as
// they are to the verifier that SlateDB itself uses.
func (t Table) String(id int, field string) (string, bool) {
	start, n, ok := t.vector(id, field, 1)
	// Unlike Bytes this copies.
	if !ok || !t.s.spend(field, 1+n/4) {
		return "", false
	}
	end := start + n
	if end >= len(t.s.b) || t.s.b[end] != 0 {
		t.s.fail(field, "a string of %d bytes has no zero byte behind it", n)
		return "", false
	}
	if !utf8.Valid(t.s.b[start:end]) {
		t.s.fail(field, "a string of %d bytes is not UTF-8", n)
		return "", false
	}
	return string(t.s.b[start:end]), true
}

// Uint16s returns the vector of u16 field id.
func (t Table) Uint16s(id int, field string) []uint16 {
	start, n, ok := t.vector(id, field, 2)
	if !ok || !t.s.spend(field, 1+n/2) {
		return nil
	}
	out := make([]uint16, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint16(t.s.b[start+2*i:])
	}
	return out
}

// Uint32s returns the vector of u32 field id.
func (t Table) Uint32s(id int, field string) []uint32 {
	start, n, ok := t.vector(id, field, 4)
	if !ok || !t.s.spend(field, n) {
		return nil
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(t.s.b[start+4*i:])
	}
	return out
}

// Table returns the sub-table field id; check [Table.Present].
func (t Table) Table(id int, field string) Table {
	p, ok := t.at(id, field, 4)
	if !ok {
		return Table{s: t.s}
	}
	to, ok := t.s.ref(field, p)
	if !ok {
		return Table{s: t.s}
	}
	return t.s.table(field, to)
}

// Sub calls each with the sub-table field id and reports whether it is there.
// A fault that each meets is told with the name of this field before its own.
func (t Table) Sub(id int, field string, each func(e Table)) bool {
	e := t.Table(id, field)
	if !e.Present() {
		return false
	}
	if each(e); t.s.err != nil {
		t.s.within(field)
	}
	return true
}

// Tables calls each with every table of the vector field id, in order, and
// reports whether the field is present. It stops at the first fault, which is
// told with the name of this field and the index before its own.
func (t Table) Tables(id int, field string, each func(i int, e Table)) bool {
	start, n, ok := t.vector(id, field, 4)
	if !ok {
		return false
	}
	for i := range n {
		var e Table
		if to, ok := t.s.ref("offset", start+4*i); ok {
			e = t.s.table("table", to)
		}
		if t.s.err == nil {
			each(i, e)
		}
		if t.s.err != nil {
			t.s.within(field + "[" + strconv.Itoa(i) + "]")
			return true
		}
	}
	return true
}

// Len returns the number of elements of the vector field id whose elements
// are width bytes wide.
func (t Table) Len(id int, field string, width int) int {
	_, n, _ := t.vector(id, field, width)
	return n
}
