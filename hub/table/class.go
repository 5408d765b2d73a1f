package table

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Classes is how many ids of classes there are: as many as ever had rows at
// once. A class without rows counts 0, and its id is another class's later.
func (t *Table) Classes() int { return t.kinds }

// Class is the class with that id.
func (t *Table) Class(id uint32) *Class { return t.classes.at(int(id)) }

// Class is what rows with the same traits have in common. It never changes.
type Class struct {
	gen    uint64
	schema *Schema
	ID     uint32
	Count  uint64  // rows
	bare   bool    // it is among the builder's classes without rows
	key    string  // the traits
	stored []Value // by trait
	covers []cover
	sums   []sum
}

// sum is that of a Summed column, and how many rows have none.
type sum struct{ of, unknown uint64 }

type cover struct {
	col int
	v   Value
}

// Covers is what all rows of the class show in a column, whatever they store.
func (c *Class) Covers(col int) (Value, bool) {
	for i := range c.covers {
		if c.covers[i].col == col {
			return c.covers[i].v, true
		}
	}
	return Value{}, false
}

// Covered reports whether the class covers any column.
func (c *Class) Covered() bool { return len(c.covers) > 0 }

// Value is what the rows show in a Trait column.
func (c *Class) Value(col int) Value {
	if v, ok := c.Covers(col); ok {
		return v
	}
	return c.Stored(col)
}

// Stored is what the rows store in a Trait column.
func (c *Class) Stored(col int) Value { return c.stored[c.schema.fields[col].at] }

// Sum adds up a Summed column over the rows that have it, modulo 2^64; known
// is how many have.
func (c *Class) Sum(col int) (sum, known uint64) {
	i := c.schema.fields[col].sum
	if i < 0 {
		return 0, 0
	}
	return c.sums[i].of, c.Count - c.sums[i].unknown
}

// symbol is the id of a text or map, a new one when it was not seen before.
func (b *Builder[T]) symbol(f *field, x cell) uint32 {
	d := &b.t.dicts[f.at]
	m, _ := x.obj.(map[string]string)
	key := b.key[:0]
	if d.maps == nil {
		key = append(key, x.text...)
	} else if len(m) > 0 {
		names := make([]string, 0, len(m))
		for k := range m {
			names = append(names, k)
		}
		slices.Sort(names)
		for _, k := range names {
			key = appendText(appendText(key, k), m[k])
		}
	}
	b.key = key
	if id, ok := b.symbols[f.at][string(key)]; ok {
		return id
	}
	id, text := uint32(len(d.texts)), string(key)
	d.texts = append(d.texts, text)
	if d.maps != nil {
		d.maps = append(d.maps, m)
	}
	b.symbols[f.at][text] = id
	return id
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// class is the id of the class with these traits, a new one when there was none.
func (b *Builder[T]) class(traits []Value) uint32 {
	key := b.key[:0]
	for i := range traits {
		if traits[i].Null {
			key = append(key, 0)
			continue
		}
		key = appendText(binary.AppendUvarint(append(key, 1), traits[i].Num), traits[i].Text)
	}
	b.key = key
	if id, ok := b.classOf[string(key)]; ok {
		return id
	}
	sc := b.t.schema
	id, old := b.classRoom()
	if old != nil {
		delete(b.classOf, old.key)
	}
	c := &Class{gen: b.gen, schema: sc, ID: id, key: string(key), stored: slices.Clone(traits), sums: make([]sum, len(sc.sums))}
	b.classOf[c.key] = id
	if b.cover != nil {
		c.covers = covers(b.cover(c, old))
	}
	b.shared = false
	*b.t.classes.mine(b.gen, int(id)) = c
	return id
}

// classRoom is the id of a class to be, and the class without rows that had it
// before; nil: none.
func (b *Builder[T]) classRoom() (uint32, *Class) {
	for n := len(b.bare); n > 0; n = len(b.bare) {
		id := b.bare[n-1]
		b.bare = b.bare[:n-1]
		c := b.t.Class(id)
		if b.classMine(id).bare = false; c.Count == 0 {
			return id, c
		}
	}
	b.t.kinds++
	return uint32(b.t.kinds - 1), nil
}

// classMine gives a class that may be changed.
func (b *Builder[T]) classMine(id uint32) *Class {
	b.shared = false
	c := b.t.Class(id)
	if c.gen != b.gen {
		d := *c
		d.gen, d.sums = b.gen, slices.Clone(c.sums)
		c = &d
		*b.t.classes.mine(b.gen, int(id)) = c
	}
	return c
}

// count adds a row to its class, or takes it out when by is -1.
func (b *Builder[T]) count(id uint32, c *Chunk, i int, by uint64) {
	class := b.classMine(id)
	class.Count += by
	for k, col := range b.t.schema.sums {
		if n, ok := c.Number(col, i); ok {
			class.sums[k].of += n * by
		} else {
			class.sums[k].unknown += by
		}
	}
	if class.Count == 0 && !class.bare {
		class.bare = true
		b.bare = append(b.bare, id)
	}
}

func covers(m map[int]Value) []cover {
	var out []cover
	for col, v := range m {
		out = append(out, cover{col, v})
	}
	slices.SortFunc(out, func(a, b cover) int { return cmp.Compare(a.col, b.col) })
	return out
}

// Cover says what the rows of each class show instead of what they store; nil:
// nothing else. It is asked now for all classes and later for each new one, so
// it must go by the class alone. A new class may have the id of one without
// rows, old, which is no more then; nil: there was none. It costs by the number
// of classes.
func (b *Builder[T]) Cover(f func(c, old *Class) map[int]Value) {
	b.cover = f
	for id := range uint32(b.t.kinds) {
		b.coverClass(id)
	}
}

// CoverAgain asks anew about some classes: what was said of them is not so any
// more.
func (b *Builder[T]) CoverAgain(ids []uint32) {
	for _, id := range ids {
		b.coverClass(id)
	}
}

func (b *Builder[T]) coverClass(id uint32) {
	c := b.t.Class(id)
	if now := covers(b.cover(c, nil)); !slices.Equal(now, c.covers) {
		b.classMine(id).covers = now
	}
}
