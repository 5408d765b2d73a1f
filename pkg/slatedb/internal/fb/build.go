package fb

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Builder makes one FlatBuffer, from its end to its beginning as all writers
// of the format do: what is referred to is made before what refers to it. The
// zero Builder is ready. What it makes is aligned and passes the verifiers of
// the official libraries; tables of the same shape share a vtable.
type Builder struct {
	b       []byte // backwards: the last byte of the buffer first
	align   int    // the greatest seen
	vtables []Ref
}

// Ref is where something in a buffer begins, counted from the buffer's end.
type Ref int

// prep pads so that n bytes written after size other ones begin aligned.
func (b *Builder) prep(align, size int) {
	b.align = max(b.align, align)
	for (len(b.b)+size)%align != 0 {
		b.b = append(b.b, 0)
	}
}

func (b *Builder) at() Ref { return Ref(len(b.b)) }

func (b *Builder) put(n int, v uint64) {
	for i := n - 1; i >= 0; i-- {
		b.b = append(b.b, byte(v>>(8*i)))
	}
}

func (b *Builder) refer(to Ref) { b.put(4, uint64(len(b.b)+4-int(to))) }

// Bytes makes a vector of bytes.
func (b *Builder) Bytes(p []byte) Ref {
	b.prep(4, len(p))
	for i := len(p) - 1; i >= 0; i-- {
		b.b = append(b.b, p[i])
	}
	b.put(4, uint64(len(p)))
	return b.at()
}

// String makes a string, which must be UTF-8.
func (b *Builder) String(s string) Ref {
	b.prep(4, len(s)+1)
	b.b = append(b.b, 0)
	for i := len(s) - 1; i >= 0; i-- {
		b.b = append(b.b, s[i])
	}
	b.put(4, uint64(len(s)))
	return b.at()
}

// Refs makes a vector of tables.
func (b *Builder) Refs(refs []Ref) Ref {
	b.prep(4, 4*len(refs))
	for _, r := range slices.Backward(refs) {
		b.refer(r)
	}
	b.put(4, uint64(len(refs)))
	return b.at()
}

// Uint32s makes a vector of u32.
func (b *Builder) Uint32s(v []uint32) Ref {
	b.prep(4, 4*len(v))
	for _, x := range slices.Backward(v) {
		b.put(4, uint64(x))
	}
	b.put(4, uint64(len(v)))
	return b.at()
}

// Fields collects the fields of one table. Fields that are not given, or that
// have their default, are absent.
type Fields struct {
	b     *Builder
	slots []slot
}

type slot struct {
	id, size int
	v        uint64
	ref      Ref // when it is a reference
}

// Table begins a table. What its fields refer to must have been made.
func (b *Builder) Table() *Fields { return &Fields{b: b} }

func (f *Fields) scalar(id, size int, v uint64) {
	f.slots = append(f.slots, slot{id: id, size: size, v: v})
}

// Uint64 gives field id, absent when it is def.
func (f *Fields) Uint64(id int, v, def uint64) {
	if v != def {
		f.scalar(id, 8, v)
	}
}

// Uint32 is like [Fields.Uint64].
func (f *Fields) Uint32(id int, v, def uint32) {
	if v != def {
		f.scalar(id, 4, uint64(v))
	}
}

// Uint8 is like [Fields.Uint64].
func (f *Fields) Uint8(id int, v, def uint8) {
	if v != def {
		f.scalar(id, 1, uint64(v))
	}
}

// Uint16 gives field id, which is present whatever its value.
func (f *Fields) Uint16(id int, v uint16) { f.scalar(id, 2, uint64(v)) }

// Bool gives field id, absent when false.
func (f *Fields) Bool(id int, v bool) {
	if v {
		f.scalar(id, 1, 1)
	}
}

// Ref gives field id; a zero Ref leaves it absent.
func (f *Fields) Ref(id int, r Ref) {
	if r != 0 {
		f.slots = append(f.slots, slot{id: id, size: 4, ref: r})
	}
}

// End makes the table.
func (f *Fields) End() Ref {
	b := f.b
	// The wide ones first, of equal ones the last id first: SlateDB's own
	// order, and nothing is padded in between.
	slices.SortFunc(f.slots, func(x, y slot) int {
		if c := cmp.Compare(y.size, x.size); c != 0 {
			return c
		}
		return cmp.Compare(y.id, x.id)
	})
	// The table ends with its first field; aligning it like the others keeps
	// the table's own size a sum of widths.
	end := b.at()
	slots := 0
	where := make([]Ref, len(f.slots))
	for i, s := range f.slots {
		slots = max(slots, s.id+1)
		b.prep(s.size, s.size)
		if s.ref != 0 {
			b.refer(s.ref)
		} else {
			b.put(s.size, s.v)
		}
		where[i] = b.at()
	}
	b.prep(4, 0)
	b.put(4, 0) // the way to the vtable, below
	table := b.at()
	vtab := make([]byte, 4+2*slots)
	binary.LittleEndian.PutUint16(vtab, uint16(len(vtab)))
	binary.LittleEndian.PutUint16(vtab[2:], uint16(table-end))
	for i, s := range f.slots {
		binary.LittleEndian.PutUint16(vtab[4+2*s.id:], uint16(table-where[i]))
	}
	v, ok := b.sharedVtable(vtab)
	if !ok {
		for i := len(vtab) - 1; i >= 0; i-- {
			b.b = append(b.b, vtab[i])
		}
		v = b.at()
		b.vtables = append(b.vtables, v)
	}
	// Signed, from the table back to the vtable.
	way := uint32(int32(v - table))
	for i := range 4 {
		b.b[int(table)-1-i] = byte(way >> (8 * i))
	}
	return table
}

func (b *Builder) sharedVtable(vtab []byte) (Ref, bool) {
next:
	for _, v := range slices.Backward(b.vtables) {
		for i, c := range vtab {
			if at := int(v) - 1 - i; at < 0 || b.b[at] != c {
				continue next
			}
		}
		return v, true
	}
	return 0, false
}

// Finish returns the buffer whose root is the given table. The builder is
// used up.
func (b *Builder) Finish(root Ref) []byte {
	b.prep(max(b.align, 4), 4)
	b.refer(root)
	slices.Reverse(b.b)
	return b.b
}
