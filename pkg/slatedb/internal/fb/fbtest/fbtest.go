// Package fbtest builds FlatBuffers for tests: small ones, odd ones, and ones
// that no real writer would make. It pays no attention to alignment, which
// package fb does not ask for.
//
// Begin with [Build].
package fbtest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// Table is a table: values by field id. Values are bool, int8, uint8, uint16,
// uint32, int64, uint64, string, []byte, []uint16, []uint32, Table, []Table,
// or an [Offset].
type Table map[int]any

// Offset is a reference to wherever the test wants it to go, relative to
// itself.
type Offset uint32

// Build returns the buffer whose root table is t.
func Build(t Table) []byte {
	b := &builder{buf: make([]byte, 4)}
	b.point(0, b.table(t))
	return b.buf
}

type builder struct{ buf []byte }

func (b *builder) point(at, to int) {
	binary.LittleEndian.PutUint32(b.buf[at:], uint32(to-at))
}

func (b *builder) table(t Table) int {
	ids := slices.Sorted(maps.Keys(t))
	slots := 0
	if len(ids) > 0 {
		slots = ids[len(ids)-1] + 1
	}
	vtab := len(b.buf)
	b.buf = append(b.buf, make([]byte, 4+2*slots)...)
	pos := len(b.buf)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(pos-vtab))
	refs := make(map[int]int)
	for _, id := range ids {
		at := len(b.buf)
		binary.LittleEndian.PutUint16(b.buf[vtab+4+2*id:], uint16(at-pos))
		switch v := t[id].(type) {
		case bool:
			n := byte(0)
			if v {
				n = 1
			}
			b.buf = append(b.buf, n)
		case int8:
			b.buf = append(b.buf, byte(v))
		case uint8:
			b.buf = append(b.buf, v)
		case uint16:
			b.buf = binary.LittleEndian.AppendUint16(b.buf, v)
		case uint32:
			b.buf = binary.LittleEndian.AppendUint32(b.buf, v)
		case int64:
			b.buf = binary.LittleEndian.AppendUint64(b.buf, uint64(v))
		case uint64:
			b.buf = binary.LittleEndian.AppendUint64(b.buf, v)
		case Offset:
			b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(v))
		default:
			refs[id] = at
			b.buf = append(b.buf, 0, 0, 0, 0)
		}
	}
	binary.LittleEndian.PutUint16(b.buf[vtab:], uint16(4+2*slots))
	binary.LittleEndian.PutUint16(b.buf[vtab+2:], uint16(len(b.buf)-pos))
	for _, id := range ids {
		if at, ok := refs[id]; ok {
			b.point(at, b.value(t[id]))
		}
	}
	return pos
}

func (b *builder) value(v any) int {
	pos := len(b.buf)
	count := func(n int) { b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(n)) }
	switch v := v.(type) {
	case Table:
		return b.table(v)
	case string:
		count(len(v))
		b.buf = append(append(b.buf, v...), 0)
	case []byte:
		count(len(v))
		b.buf = append(b.buf, v...)
	case []uint16:
		count(len(v))
		for _, x := range v {
			b.buf = binary.LittleEndian.AppendUint16(b.buf, x)
		}
	case []uint32:
		count(len(v))
		for _, x := range v {
			b.buf = binary.LittleEndian.AppendUint32(b.buf, x)
		}
	case []Table:
		count(len(v))
		b.buf = append(b.buf, make([]byte, 4*len(v))...)
		for i, x := range v {
			b.point(pos+4+4*i, b.table(x))
		}
	default:
		panic(fmt.Sprintf("fbtest: no way to write a %T", v))
	}
	return pos
}
