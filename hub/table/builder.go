package table

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"unsafe"

	"github.com/tidwall/btree"
)

// Builder is the one writer of a table. It belongs to one goroutine.
type Builder[T any] struct {
	t       Table
	gen     uint64
	shared  bool // everything is as at the last Share
	last    *Table
	touched uint64 // orders that changed since, by bit; see touch
	freed   []Slot
	classOf map[string]uint32
	bare    []uint32 // classes without rows; some may have got rows again
	symbols []map[string]uint32
	cover   func(c, old *Class) map[int]Value
	key     []byte
	traits  []Value
}

func unlocked[T any](less func(a, b T) bool) *btree.BTreeG[T] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true, Degree: 32})
}

// NewBuilder starts with no rows.
func NewBuilder[T any](s *Schema) *Builder[T] {
	if s.row != reflect.TypeFor[T]() {
		panic("table: the schema is of another type")
	}
	byName := func(a, b *Ident) bool { return a.Compare(b) < 0 }
	b := &Builder[T]{gen: 1, classOf: map[string]uint32{}, traits: make([]Value, len(s.traits))}
	b.t = Table{schema: s, keyed: newKeyed(), names: unlocked(byName), keys: unlocked(func(a, b *Ident) bool {
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

// Row makes the row at a slot as it was put, whatever its class covers; nil
// when there is none.
func (b *Builder[T]) Row(s Slot) *T {
	c, i := b.t.At(s)
	if c == nil {
		return nil
	}
	row := new(T)
	b.t.fill(unsafe.Pointer(row), c, i, false)
	return row
}

// Bits of touched; those of orders follow.
const (
	touchedNames = 1 << iota
	touchedOrders
)

// Share gives a table of everything set so far. It costs the same however
// many rows there are.
func (b *Builder[T]) Share() *Table {
	if b.last != nil && b.shared {
		return b.last
	}
	t := b.t
	if old := b.last; old != nil && b.touched&touchedNames == 0 {
		t.names, t.keys = old.names, old.keys
	} else {
		t.names, t.keys = b.t.names.Copy(), b.t.keys.Copy()
	}
	t.orders = make([]sorted, len(b.t.orders))
	for i, o := range b.t.orders {
		if old := b.last; old != nil && b.touched&(touchedOrders<<i) == 0 {
			t.orders[i] = old.orders[i]
		} else {
			t.orders[i] = sorted{o.rows.Copy(), o.nulls.Copy()}
		}
	}
	t.dicts = slices.Clone(b.t.dicts)
	b.gen++
	b.last, b.shared, b.touched = &t, true, 0
	return &t
}

// chunk is the chunk of a slot, to be changed.
func (b *Builder[T]) chunk(s Slot) (*Chunk, int) {
	b.shared = false
	at := b.t.chunks.mine(b.gen, int(s)/ChunkRows)
	switch c := *at; {
	case c == nil:
		*at = newChunk(b.t.schema, b.gen)
	case c.gen != b.gen:
		d := *c
		d.gen, d.owned = b.gen, 0
		*at = &d
	}
	return *at, int(s % ChunkRows)
}

// Put sets a row: the one with its region and root (or its name), or a new
// one. Only what differs is written. The row's lists and maps belong to the
// table from now on.
func (b *Builder[T]) Put(row *T) (s Slot, isNew bool) {
	sc, p := b.t.schema, unsafe.Pointer(row)
	var id Ident
	for part, col := range sc.names {
		if col < 0 {
			continue
		}
		switch text := sc.fields[col].read(p).text; part {
		case 0:
			id.Slate = text
		case 1:
			id.Region = text
		default:
			id.Root = text
		}
	}
	if s = b.t.keyed.find(&b.t, &id); s != None {
		b.change(s, &id, p)
		return s, false
	}
	return b.add(id, p), true
}

// add puts a row that is not there yet.
func (b *Builder[T]) add(id Ident, p unsafe.Pointer) Slot {
	sc, t := b.t.schema, &b.t
	for k, col := range sc.traits {
		x := sc.fields[col].read(p)
		b.traits[k] = Value{x.null, x.num, x.text}
	}
	class := b.class(b.traits)
	if id.Root == id.Slate {
		id.Root = id.Slate // one text, not two
	}
	if col := sc.names[1]; col >= 0 && sc.fields[col].kind == Trait {
		id.Region = t.Class(class).Stored(col).Text // one text for all
	}
	id.Slot = b.room()
	c, i := b.chunk(id.Slot)
	c.mySlab()
	t.keyed.add(b.gen, &id, func(yield func(*Ident)) {
		t.names.Scan(func(id *Ident) bool { yield(id); return true })
	})
	c.live |= 1 << i
	t.live++
	c.myIdents()[i] = &id
	c.myClasses()[i] = class
	for col := range sc.fields {
		f := &sc.fields[col]
		if f.index == nil || f.kind == Trait || f.kind == Name {
			continue
		}
		if x := f.read(p); f.kind != Number && f.kind != Time {
			b.store(c, i, f, x)
		} else if !x.null {
			c.setNumber(f.at, i, x.num)
		}
	}
	b.count(class, c, i, 1)
	b.touched |= touchedNames
	t.names.Set(&id)
	t.keys.Set(&id)
	for k, col := range sc.orders {
		b.touched |= touchedOrders << k
		if n, ok := c.Number(col, i); ok {
			t.orders[k].rows.Set(item{n, &id})
		} else {
			t.orders[k].nulls.Set(&id)
		}
	}
	return id.Slot
}

func (b *Builder[T]) room() Slot {
	if n := len(b.freed); n > 0 {
		s := b.freed[n-1]
		b.freed = b.freed[:n-1]
		return s
	}
	if b.t.high == maxSlots-1 {
		panic("table: too many rows")
	}
	s := Slot(b.t.high)
	b.t.high++
	return s
}

// change brings the row at a slot to what p says.
func (b *Builder[T]) change(s Slot, id *Ident, p unsafe.Pointer) {
	sc := b.t.schema
	c, i := b.t.At(s)
	if old := c.idents[i]; old.Slate != id.Slate {
		named := &Ident{id.Slate, old.Region, old.Root, s}
		if named.Slate == named.Root {
			named.Slate = named.Root // one text, not two
		}
		b.rename(old, named)
		c, i = b.t.At(s)
	}
	class := b.t.Class(c.classes[i])
	copy(b.traits, class.stored)
	other := false
	for col := range sc.fields {
		f := &sc.fields[col]
		if f.index == nil || f.kind == Name {
			continue // hidden, or told by the ident
		}
		now := f.read(p)
		switch f.kind {
		case Trait:
			if x := (Value{now.null, now.num, now.text}); x != b.traits[f.at] {
				b.traits[f.at], other = x, true
			}
			continue
		case Number, Time:
			switch n, ok := c.number(f.at, i); {
			case ok == !now.null && (!ok || n == now.num):
				continue
			case now.null:
				b.SetNull(s, col)
			default:
				b.SetNumber(s, col, now.num)
			}
			c, i = b.t.At(s)
		default:
			if !b.same(c, i, f, &now) {
				c, i = b.chunk(s)
				b.store(c, i, f, now)
			}
		}
	}
	if other {
		c, i = b.chunk(s)
		b.count(c.classes[i], c, i, ^uint64(0))
		id := b.class(b.traits)
		c.myClasses()[i] = id
		b.count(id, c, i, 1)
	}
}

// same reports whether a row has that cell; lists are compared by what is in
// them.
func (b *Builder[T]) same(c *Chunk, i int, f *field, x *cell) bool {
	switch f.kind {
	case Symbol:
		ids := c.rest.syms[f.at]
		if ids == nil || ids[i] == 0 {
			m, _ := x.obj.(map[string]string)
			return x.text == "" && len(m) == 0
		}
		d := &b.t.dicts[f.at]
		if d.maps == nil {
			return d.texts[ids[i]] == x.text
		}
		return reflect.DeepEqual(d.maps[ids[i]], x.obj)
	case Text:
		texts := c.rest.texts[f.at]
		return texts == nil && x.text == "" || texts != nil && texts[i] == x.text
	}
	empty := x.num == 1
	o := &c.rest.objs[f.at]
	if o.empty>>i&1 != 0 || empty {
		return o.empty>>i&1 != 0 && empty
	}
	if o.v == nil || o.v[i] == nil || x.obj == nil {
		return x.obj == nil && (o.v == nil || o.v[i] == nil)
	}
	return reflect.DeepEqual(o.v[i], x.obj)
}

// store writes a cell that is neither a trait nor a number.
func (b *Builder[T]) store(c *Chunk, i int, f *field, x cell) {
	switch f.kind {
	case Symbol:
		c.setSymbol(f.at, i, b.symbol(f, x))
	case Text:
		if f.at > 0 { // what two columns say is one text
			if before := c.rest.texts[f.at-1]; before != nil && before[i] == x.text {
				x.text = before[i]
			}
		}
		c.setText(f.at, i, x.text)
	case Object:
		c.setObject(f.at, i, x.obj, x.num == 1)
	}
}

func (b *Builder[T]) rename(old, id *Ident) {
	c, i := b.chunk(id.Slot)
	c.myIdents()[i] = id
	b.touched |= touchedNames
	b.t.names.Delete(old)
	b.t.names.Set(id)
	b.t.keys.Set(id)
	for k, col := range b.t.schema.orders {
		b.touched |= touchedOrders << k
		if n, ok := c.Number(col, i); ok {
			b.t.orders[k].rows.Delete(item{n, old})
			b.t.orders[k].rows.Set(item{n, id})
		} else {
			b.t.orders[k].nulls.Delete(old)
			b.t.orders[k].nulls.Set(id)
		}
	}
}

// Number is a row's number or time; ok is false when it has none.
func (b *Builder[T]) Number(s Slot, col int) (v uint64, ok bool) {
	c, i := b.t.At(s)
	if c == nil {
		return 0, false
	}
	return c.Number(col, i)
}

// SetNumber sets a number or time of a row that is there.
func (b *Builder[T]) SetNumber(s Slot, col int, v uint64) {
	f := &b.t.schema.fields[col]
	c, i := b.t.At(s)
	was, had := c.number(f.at, i)
	if had && was == v {
		return
	}
	c, i = b.chunk(s)
	b.reorder(c, i, f, was, had, v, true)
	c.setNumber(f.at, i, v)
}

// SetNull takes a number or time of a row that is there away.
func (b *Builder[T]) SetNull(s Slot, col int) {
	f := &b.t.schema.fields[col]
	c, i := b.t.At(s)
	was, had := c.number(f.at, i)
	if !had {
		return
	}
	c, i = b.chunk(s)
	b.reorder(c, i, f, was, true, 0, false)
	c.unsetNumber(f.at, i)
}

// reorder brings the order and the sums of a column to a row's new number.
func (b *Builder[T]) reorder(c *Chunk, i int, f *field, was uint64, had bool, is uint64, has bool) {
	if f.sum >= 0 {
		sum := &b.classMine(c.classes[i]).sums[f.sum]
		if had {
			sum.of -= was
			sum.unknown++
		}
		if has {
			sum.of += is
			sum.unknown--
		}
	}
	if f.order < 0 {
		return
	}
	b.touched |= touchedOrders << f.order
	o, id := &b.t.orders[f.order], c.idents[i]
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
	if c, _ := b.t.At(s); c == nil {
		return
	}
	c, i := b.chunk(s)
	id := c.idents[i]
	b.count(c.classes[i], c, i, ^uint64(0))
	b.t.keyed.remove(b.gen, &b.t, id)
	b.touched |= touchedNames
	b.t.names.Delete(id)
	b.t.keys.Delete(id)
	for k, col := range b.t.schema.orders {
		b.touched |= touchedOrders << k
		if n, ok := c.Number(col, i); ok {
			b.t.orders[k].rows.Delete(item{n, id})
		} else {
			b.t.orders[k].nulls.Delete(id)
		}
	}
	c.empty(i)
	b.t.live--
	b.freed = append(b.freed, s)
}
