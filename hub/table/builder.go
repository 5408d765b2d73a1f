package table

import (
	"cmp"
	"encoding/binary"
	"reflect"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// Builder is the one writer of a table. It belongs to one goroutine.
type Builder[T any] struct {
	t       Table
	gen     uint64
	shared  bool // everything is as at the last Share
	last    *Table
	pagesIs uint64 // generation of t.pages
	classIs uint64 // generation of t.classes
	freed   []Slot
	classOf map[string]uint32
	symbols []map[string]uint32
	cover   func(*Class) map[int]Value
	key     []byte
	traits  []Value
}

func unlocked[T any](less func(a, b T) bool) *btree.BTreeG[T] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

// NewBuilder starts with no rows.
func NewBuilder[T any](s *Schema) *Builder[T] {
	if s.row != reflect.TypeFor[T]() {
		panic("table: the schema is of another type")
	}
	byName := func(a, b *Ident) bool { return a.Compare(b) < 0 }
	b := &Builder[T]{gen: 1, classOf: map[string]uint32{}, traits: make([]Value, len(s.traits))}
	b.t = Table{schema: s, names: unlocked(byName), keys: unlocked(func(a, b *Ident) bool {
		return cmp.Or(strings.Compare(a.Region, b.Region), strings.Compare(a.Root, b.Root), strings.Compare(keyName(a), keyName(b))) < 0
	})}
	for range s.orders {
		b.t.orders = append(b.t.orders, sorted{rows: unlocked(func(a, b item) bool {
			if a.num != b.num {
				return a.num < b.num
			}
			return a.id.Compare(b.id) < 0
		}), nulls: unlocked(byName)})
	}
	b.t.dicts = make([]dict, s.syms)
	b.symbols = make([]map[string]uint32, s.syms)
	for col, c := range s.cols {
		if c.Kind == Symbol {
			d := &b.t.dicts[s.fields[col].at]
			d.texts = []string{""}
			if s.fields[col].typ.Kind() == reflect.Map {
				d.maps = []map[string]string{nil}
			}
			b.symbols[s.fields[col].at] = map[string]uint32{"": 0}
		}
	}
	return b
}

// keyName is the name of rows that are known by their name alone.
func keyName(a *Ident) string {
	if a.Region == "" && a.Root == "" {
		return a.Slate
	}
	return ""
}

// Table is what has been set so far; it is only good until the next change,
// and only for the builder's goroutine.
func (b *Builder[T]) Table() *Table { return &b.t }

// Len is how many rows there are.
func (b *Builder[T]) Len() int { return b.t.live }

// Find is the slot of the row with that region and root, or [None]. Tables
// whose rows have a name alone: see [Builder.Named].
func (b *Builder[T]) Find(region, root string) Slot { return b.t.Find(region, root) }

// Named is the slot of the row with that name, in a table whose idents have
// neither region nor root; or [None].
func (b *Builder[T]) Named(name string) Slot { return b.t.Named(name) }

// Named is the slot of the row with that name, in a table whose idents have
// neither region nor root; or [None].
func (t *Table) Named(name string) Slot {
	if id, ok := t.keys.Get(&Ident{Slate: name}); ok {
		return id.Slot
	}
	return None
}

// Row makes the row at a slot as it was put, whatever its class covers; nil
// when there is none.
func (b *Builder[T]) Row(s Slot) *T {
	r, _ := b.t.Stored(s).(*T)
	return r
}

// Share gives a table of everything set so far. It costs the same however
// many rows there are.
func (b *Builder[T]) Share() *Table {
	if b.last != nil && b.shared {
		return b.last
	}
	t := b.t
	t.pages = b.t.pages
	t.names, t.keys = b.t.names.Copy(), b.t.keys.Copy()
	t.orders = make([]sorted, len(b.t.orders))
	for i, o := range b.t.orders {
		t.orders[i] = sorted{o.rows.Copy(), o.nulls.Copy()}
	}
	t.dicts = slices.Clone(b.t.dicts)
	b.gen++
	b.last, b.shared = &t, true
	return &t
}

// chunk is the chunk of a slot, to be changed.
func (b *Builder[T]) chunk(s Slot) (*Chunk, int) {
	b.shared = false
	i := int(s) / ChunkRows
	if b.pagesIs != b.gen {
		b.t.pages, b.pagesIs = slices.Clone(b.t.pages), b.gen
	}
	for len(b.t.pages) <= i/pageChunks {
		b.t.pages = append(b.t.pages, &page{gen: b.gen})
	}
	p := b.t.pages[i/pageChunks]
	if p.gen != b.gen {
		c := *p
		c.gen = b.gen
		p = &c
		b.t.pages[i/pageChunks] = p
	}
	c := p.chunks[i%pageChunks]
	switch {
	case c == nil:
		sc := b.t.schema
		c = &Chunk{schema: sc, gen: b.gen, classes: &own[uint32]{gen: b.gen}, idents: &own[*Ident]{gen: b.gen},
			lists: 7, nums: &block{gen: b.gen, cols: make([]numbers, sc.nums), data: make([]byte, 8)}, syms: make([]*own[uint32], sc.syms), texts: make([]*own[string], sc.texts), objs: make([]*own[any], sc.objs)}
		p.chunks[i%pageChunks] = c
	case c.gen != b.gen:
		d := *c
		d.gen = b.gen
		d.lists = 0
		c = &d
		p.chunks[i%pageChunks] = c
	}
	return c, int(s % ChunkRows)
}

// mine gives a column that may be changed.
func mine[V any](gen uint64, o **own[V]) *[ChunkRows]V {
	switch {
	case *o == nil:
		*o = &own[V]{gen: gen}
	case (*o).gen != gen:
		c := **o
		c.gen = gen
		*o = &c
	}
	return &(*o).v
}

// Put sets a row: the one with its region and root (or its name), or a new
// one. Only what differs is written. The row's lists and maps belong to the
// table from now on.
func (b *Builder[T]) Put(row *T) (s Slot, isNew bool) {
	sc := b.t.schema
	v := reflect.ValueOf(row).Elem()
	var id Ident
	for part, col := range sc.names {
		if col < 0 {
			continue
		}
		switch text := v.FieldByIndex(sc.fields[col].index).String(); part {
		case 0:
			id.Slate = text
		case 1:
			id.Region = text
		default:
			id.Root = text
		}
	}
	old, had := b.t.keys.Get(&id)
	if had {
		return b.change(old, &id, v), false
	}
	if id.Root == id.Slate {
		id.Root = id.Slate // one text, not two
	}
	s = b.room()
	id.Slot = s
	c, i := b.chunk(s)
	c.live |= 1 << i
	b.t.live++
	mine(b.gen, &c.idents)[i] = &id
	b.t.names.Set(&id)
	b.t.keys.Set(&id)
	for col := range sc.fields {
		if f := &sc.fields[col]; f.index != nil {
			b.store(c, i, col, f.read(v))
		}
	}
	class := b.class(b.traits)
	mine(b.gen, &c.classes)[i] = class
	b.count(class, c, i, 1)
	for k, col := range sc.orders {
		if n, ok := c.Number(col, i); ok {
			b.t.orders[k].rows.Set(item{n, &id})
		} else {
			b.t.orders[k].nulls.Set(&id)
		}
	}
	return s, true
}

func (b *Builder[T]) room() Slot {
	if n := len(b.freed); n > 0 {
		s := b.freed[n-1]
		b.freed = b.freed[:n-1]
		return s
	}
	s := Slot(b.t.high)
	b.t.high++
	return s
}

// change brings the row of an ident to what v says.
func (b *Builder[T]) change(old, id *Ident, v reflect.Value) Slot {
	sc := b.t.schema
	s := old.Slot
	c, i := b.t.at(s)
	if old.Compare(id) != 0 {
		id.Slot = s
		b.rename(old, id)
		c, i = b.t.at(s)
	}
	class := b.t.classes[c.classes.v[i]]
	copy(b.traits, class.stored)
	other := false
	for col := range sc.fields {
		f := &sc.fields[col]
		if f.index == nil || f.kind == Name {
			continue // hidden, or told by the ident
		}
		now := f.read(v)
		switch f.kind {
		case Trait:
			if x := (Value{now.null, now.num, now.text}); x != b.traits[f.at] {
				b.traits[f.at], other = x, true
			}
			continue
		case Number, Time:
			n, ok := c.Number(col, i)
			switch {
			case now.null && ok:
				b.SetNull(s, col)
			case !now.null && (!ok || n != now.num):
				b.SetNumber(s, col, now.num)
			}
		default:
			if was, _ := b.t.cell(class, c, i, col); same(f, was, now) {
				continue
			}
			w, _ := b.chunk(s)
			b.store(w, i, col, now)
		}
		c, i = b.t.at(s)
	}
	if other {
		w, _ := b.chunk(s)
		b.count(w.classes.v[i], w, i, ^uint64(0))
		id := b.class(b.traits)
		mine(b.gen, &w.classes)[i] = id
		b.count(id, w, i, 1)
	}
	return s
}

// same compares cells; lists are compared by what is in them.
func same(f *field, a, b cell) bool {
	if f.kind == Text || f.kind == Symbol && f.typ.Kind() == reflect.String {
		return a.text == b.text
	}
	if a.obj == nil || b.obj == nil {
		return a.obj == nil && b.obj == nil
	}
	return reflect.DeepEqual(a.obj, b.obj)
}

func (b *Builder[T]) rename(old, id *Ident) {
	s := id.Slot
	c, i := b.chunk(s)
	mine(b.gen, &c.idents)[i] = id
	b.t.names.Delete(old)
	b.t.names.Set(id)
	b.t.keys.Set(id)
	for k, col := range b.t.schema.orders {
		if n, ok := c.Number(col, i); ok {
			b.t.orders[k].rows.Delete(item{n, old})
			b.t.orders[k].rows.Set(item{n, id})
		} else {
			b.t.orders[k].nulls.Delete(old)
			b.t.orders[k].nulls.Set(id)
		}
	}
}

// store writes a cell into an owned chunk; traits go to b.traits. Orders and
// sums are not touched.
func (b *Builder[T]) store(c *Chunk, i, col int, x cell) {
	f := &b.t.schema.fields[col]
	switch f.kind {
	case Trait:
		b.traits[f.at] = Value{x.null, x.num, x.text}
	case Number, Time:
		if !x.null {
			c.set(b.gen, f.at, i, x.num)
		}
	case Symbol:
		id := b.symbol(f, x)
		if id != 0 || c.syms[f.at] != nil && c.syms[f.at].v[i] != 0 {
			cloneOnce(c, &c.syms, 1)
			mine(b.gen, &c.syms[f.at])[i] = id
		}
	case Text:
		if x.text != "" || c.texts[f.at] != nil && c.texts[f.at].v[i] != "" {
			cloneOnce(c, &c.texts, 2)
			mine(b.gen, &c.texts[f.at])[i] = x.text
		}
	case Object:
		if x.obj != nil || c.objs[f.at] != nil && c.objs[f.at].v[i] != nil {
			cloneOnce(c, &c.objs, 4)
			mine(b.gen, &c.objs[f.at])[i] = x.obj
		}
	}
}

// cloneOnce makes a chunk's list of columns its own, once a publication.
func cloneOnce[V any](c *Chunk, list *[]*own[V], bit uint8) {
	if c.lists&bit == 0 {
		*list = slices.Clone(*list)
		c.lists |= bit
	}
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
	c := &Class{gen: b.gen, schema: sc, ID: uint32(len(b.t.classes)), stored: slices.Clone(traits), sums: make([]uint64, len(sc.sums)), unknown: make([]uint64, len(sc.sums))}
	if b.cover != nil {
		c.covers = covers(b.cover(c))
	}
	id := uint32(len(b.t.classes))
	b.ownClasses()
	b.t.classes = append(b.t.classes, c)
	b.classOf[string(key)] = id
	return id
}

func (b *Builder[T]) ownClasses() {
	b.shared = false
	if b.classIs != b.gen {
		b.t.classes, b.classIs = slices.Clone(b.t.classes), b.gen
	}
}

// classMine gives a class that may be changed.
func (b *Builder[T]) classMine(id uint32) *Class {
	b.ownClasses()
	c := b.t.classes[id]
	if c.gen != b.gen {
		d := *c
		d.gen, d.sums, d.unknown = b.gen, slices.Clone(c.sums), slices.Clone(c.unknown)
		c = &d
		b.t.classes[id] = c
	}
	return c
}

// count adds a row to its class, or takes it out when by is -1.
func (b *Builder[T]) count(id uint32, c *Chunk, i int, by uint64) {
	class := b.classMine(id)
	class.Count += by
	for k, col := range b.t.schema.sums {
		if n, ok := c.Number(col, i); ok {
			class.sums[k] += n * by
		} else {
			class.unknown[k] += by
		}
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
// it must go by the class alone. It costs by the number of classes.
func (b *Builder[T]) Cover(f func(*Class) map[int]Value) {
	b.cover = f
	for id, c := range b.t.classes {
		now := covers(f(c))
		if !slices.Equal(now, c.covers) {
			b.classMine(uint32(id)).covers = now
		}
	}
}

// CoverAgain asks anew about some classes: what was said of them is not so any
// more.
func (b *Builder[T]) CoverAgain(ids []uint32) {
	for _, id := range ids {
		if now := covers(b.cover(b.t.classes[id])); !slices.Equal(now, b.t.classes[id].covers) {
			b.classMine(id).covers = now
		}
	}
}

// Number is a row's number or time; ok is false when it has none.
func (b *Builder[T]) Number(s Slot, col int) (v uint64, ok bool) {
	c, i := b.t.at(s)
	if c == nil {
		return 0, false
	}
	return c.Number(col, i)
}

// SetNumber sets a number or time of a row that is there.
func (b *Builder[T]) SetNumber(s Slot, col int, v uint64) {
	sc := b.t.schema
	c, i := b.chunk(s)
	at, info := sc.fields[col].at, &sc.cols[col]
	if info.Ordered || info.Summed {
		was, had := c.Number(col, i)
		if had && was == v {
			return
		}
		b.reorder(c, i, col, was, had, v, true)
	}
	c.set(b.gen, at, i, v)
}

// SetNull takes a number or time of a row that is there away.
func (b *Builder[T]) SetNull(s Slot, col int) {
	if _, had := b.Number(s, col); !had {
		return
	}
	c, i := b.chunk(s)
	was, had := c.Number(col, i)
	if !had {
		return
	}
	b.reorder(c, i, col, was, true, 0, false)
	at := b.t.schema.fields[col].at
	c.unset(b.gen, at, i)
}

// reorder brings the order and the sums of a column to a row's new number.
func (b *Builder[T]) reorder(c *Chunk, i, col int, was uint64, had bool, is uint64, has bool) {
	sc := b.t.schema
	if sc.cols[col].Summed {
		class := b.classMine(c.classes.v[i])
		k := slices.Index(sc.sums, col)
		if had {
			class.sums[k] -= was
			class.unknown[k]++
		}
		if has {
			class.sums[k] += is
			class.unknown[k]--
		}
	}
	if !sc.cols[col].Ordered {
		return
	}
	o, id := &b.t.orders[slices.Index(sc.orders, col)], c.idents.v[i]
	if had {
		o.rows.Delete(item{was, id})
	} else {
		o.nulls.Delete(id)
	}
	if has {
		o.rows.Set(item{is, id})
	} else {
		o.nulls.Set(id)
	}
}

// Remove takes a row out. Its slot may be another row's afterwards.
func (b *Builder[T]) Remove(s Slot) {
	if c, _ := b.t.at(s); c == nil {
		return
	}
	sc := b.t.schema
	c, i := b.chunk(s)
	id := c.idents.v[i]
	b.count(c.classes.v[i], c, i, ^uint64(0))
	b.t.names.Delete(id)
	b.t.keys.Delete(id)
	for k, col := range sc.orders {
		if n, ok := c.Number(col, i); ok {
			b.t.orders[k].rows.Delete(item{n, id})
		} else {
			b.t.orders[k].nulls.Delete(id)
		}
	}
	c.live &^= 1 << i
	b.t.live--
	mine(b.gen, &c.idents)[i] = nil
	for k := range c.nums.cols {
		c.unset(b.gen, k, i)
	}
	clearAt(b.gen, c, &c.syms, 1, i)
	clearAt(b.gen, c, &c.texts, 2, i)
	clearAt(b.gen, c, &c.objs, 4, i)
	b.freed = append(b.freed, s)
}

func clearAt[V any](gen uint64, c *Chunk, list *[]*own[V], bit uint8, i int) {
	for k, o := range *list {
		if o != nil {
			cloneOnce(c, list, bit)
			var none V
			mine(gen, &(*list)[k])[i] = none
		}
	}
}
