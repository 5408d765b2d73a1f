package table

import (
	"math"
	"reflect"

	"github.com/tidwall/btree"
)

// Table is what a [Builder] held at one moment. It never changes; any number
// of goroutines may read it and keep it.
type Table struct {
	schema  *Schema
	pages   []*page
	high    int // slots below it were used
	live    int
	classes []*Class
	dicts   []dict // by symbol column
	names   *btree.BTreeG[*Ident]
	keys    *btree.BTreeG[*Ident]
	orders  []sorted // by schema.orders
}

const pageChunks = 256

type page struct {
	gen    uint64
	chunks [pageChunks]*Chunk
}

// dict is the dictionary of a Symbol column. It is only ever added to.
type dict struct {
	texts []string
	maps  []map[string]string // nil when the column holds texts
}

// sorted is the order of one column: rows that have a value, and those that
// have none.
type sorted struct {
	rows  *btree.BTreeG[item]
	nulls *btree.BTreeG[*Ident]
}

type item struct {
	num uint64
	id  *Ident
}

// Schema is how the rows lie in columns.
func (t *Table) Schema() *Schema { return t.schema }

// Len is how many rows there are.
func (t *Table) Len() int { return t.live }

// Chunks is how many chunks there are.
func (t *Table) Chunks() int { return (t.high + ChunkRows - 1) / ChunkRows }

// Chunk is chunk i of [Table.Chunks]; nil when no row is in it.
func (t *Table) Chunk(i int) *Chunk {
	c := t.pages[i/pageChunks].chunks[i%pageChunks]
	if c == nil || c.live == 0 {
		return nil
	}
	return c
}

func (t *Table) at(s Slot) (*Chunk, int) {
	if int(s) >= t.high {
		return nil, 0
	}
	i := int(s) / ChunkRows
	c := t.pages[i/pageChunks].chunks[i%pageChunks]
	if c == nil || c.live&(1<<(s%ChunkRows)) == 0 {
		return nil, 0
	}
	return c, int(s % ChunkRows)
}

// Ident is the row at s; nil when no row is there.
func (t *Table) Ident(s Slot) *Ident {
	if c, i := t.at(s); c != nil {
		return c.idents.v[i]
	}
	return nil
}

// At is the chunk of slot s and the row in it; nil when no row is there.
func (t *Table) At(s Slot) (*Chunk, int) { return t.at(s) }

// Find is the slot of the row with that region and root, or [None].
func (t *Table) Find(region, root string) Slot {
	if id, ok := t.keys.Get(&Ident{Region: region, Root: root}); ok {
		return id.Slot
	}
	return None
}

// In yields the rows of a region in the order of their roots.
func (t *Table) In(region string, yield func(id *Ident) bool) {
	t.keys.Ascend(&Ident{Region: region}, func(id *Ident) bool { return id.Region == region && yield(id) })
}

// Stored makes the row at s as it was put, whatever its class covers; nil when
// no row is there.
func (t *Table) Stored(s Slot) any {
	c, i := t.at(s)
	if c == nil {
		return nil
	}
	v := reflect.New(t.schema.row)
	t.fill(v.Elem(), c, i, false)
	return v.Interface()
}

// Row makes the row at s: a pointer to the struct of the schema, the caller's
// to keep; lists and maps in it are shared and nobody may change them. Virtual
// fields are empty. nil when no row is there.
func (t *Table) Row(s Slot) any {
	c, i := t.at(s)
	if c == nil {
		return nil
	}
	v := reflect.New(t.schema.row)
	t.fill(v.Elem(), c, i, true)
	return v.Interface()
}

// fill writes the fields of a row.
func (t *Table) fill(v reflect.Value, c *Chunk, i int, covered bool) {
	s := t.schema
	a := arena{nums: make([]uint64, 0, s.nums)}
	class := t.classes[c.classes.v[i]]
	for col := range s.fields {
		f := &s.fields[col]
		if f.index == nil {
			continue // hidden
		}
		if covered && s.cols[col].Covered {
			if x, ok := class.Covers(col); ok {
				f.write(v, cell{num: x.Num, text: x.Text, null: x.Null}, &a)
				continue
			}
		}
		if x, ok := t.cell(class, c, i, col); ok {
			f.write(v, x, &a)
		}
	}
}

// cell is what is stored; ok is false when the field stays as it is in an
// empty row.
func (t *Table) cell(class *Class, c *Chunk, i, col int) (cell, bool) {
	f := &t.schema.fields[col]
	switch f.kind {
	case Name:
		return cell{text: c.idents.v[i].part(f.at)}, true
	case Trait:
		x := class.stored[f.at]
		return cell{num: x.Num, text: x.Text, null: x.Null}, !x.Null
	case Number, Time:
		n := &c.nums.cols[f.at]
		if n.present&(1<<i) == 0 {
			return cell{null: true}, false
		}
		return cell{num: c.nums.get(n, i)}, true
	case Symbol:
		ids := c.syms[f.at]
		if ids == nil || ids.v[i] == 0 {
			return cell{}, false
		}
		d := &t.dicts[f.at]
		if d.maps != nil {
			return cell{obj: d.maps[ids.v[i]]}, true
		}
		return cell{text: d.texts[ids.v[i]]}, true
	case Text:
		if s := c.texts[f.at]; s != nil && s.v[i] != "" {
			return cell{text: s.v[i]}, true
		}
	case Object:
		if s := c.objs[f.at]; s != nil && s.v[i] != nil {
			return cell{obj: s.v[i]}, true
		}
	}
	return cell{null: true}, false
}

func (a *Ident) part(i int) string {
	switch i {
	case 0:
		return a.Slate
	case 1:
		return a.Region
	}
	return a.Root
}

// Classes is how many classes there have been; those without rows count 0.
func (t *Table) Classes() int { return len(t.classes) }

// Class is the class with that id.
func (t *Table) Class(id uint32) *Class { return t.classes[id] }

// Symbols is how many symbols a Symbol column has had, the empty one included.
func (t *Table) Symbols(col int) int { return len(t.dicts[t.schema.fields[col].at].texts) }

// Symbol is the text of a symbol; of a map it is one that tells maps apart.
func (t *Table) Symbol(col int, id uint32) string { return t.dicts[t.schema.fields[col].at].texts[id] }

// SymbolMap is the map of a symbol; nil for the empty map or a text.
func (t *Table) SymbolMap(col int, id uint32) map[string]string {
	if m := t.dicts[t.schema.fields[col].at].maps; m != nil {
		return m[id]
	}
	return nil
}

// Class is what rows with the same traits have in common. It never changes.
type Class struct {
	gen     uint64
	schema  *Schema
	ID      uint32
	Count   uint64 // rows
	stored  []Value
	covers  []cover
	sums    []uint64
	unknown []uint64
}

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
	for i, s := range c.schema.sums {
		if s == col {
			return c.sums[i], c.Count - c.unknown[i]
		}
	}
	return 0, 0
}

// Mark is a place in an [Order]: right before the row with this value and
// ident, or right after it.
type Mark struct {
	Num                 uint64
	Slate, Region, Root string
	After               bool
}

func (m Mark) ident() *Ident { return &Ident{Slate: m.Slate, Region: m.Region, Root: m.Root} }

// First is before everything.
var First = Mark{}

// Last is after everything.
var Last = Mark{Num: math.MaxUint64, Slate: "\U0010ffff\U0010ffff", After: true}

// Order is the rows in the order of a column's values and then idents, without
// those that have none; or of idents alone.
type Order struct {
	ids  *btree.BTreeG[*Ident]
	rows *btree.BTreeG[item]
}

// Names are all rows in the order of their idents.
func (t *Table) Names() *Order { return &Order{ids: t.names} }

// Order is the order of an Ordered column; nil when it is not one.
func (t *Table) Order(col int) *Order {
	for i, c := range t.schema.orders {
		if c == col {
			return &Order{rows: t.orders[i].rows}
		}
	}
	return nil
}

// Nulls are the rows without a value in an Ordered column, in the order of
// their idents.
func (t *Table) Nulls(col int) *Order {
	for i, c := range t.schema.orders {
		if c == col {
			return &Order{ids: t.orders[i].nulls}
		}
	}
	return nil
}

// Len is how many rows the order has.
func (o *Order) Len() int {
	if o.ids != nil {
		return o.ids.Len()
	}
	return o.rows.Len()
}

// Ascend yields rows from the mark on.
func (o *Order) Ascend(from Mark, yield func(num uint64, id *Ident) bool) {
	id := from.ident()
	if o.ids != nil {
		o.ids.Ascend(id, func(x *Ident) bool {
			if from.After && x.Compare(id) == 0 {
				return true
			}
			return yield(0, x)
		})
		return
	}
	o.rows.Ascend(item{from.Num, id}, func(x item) bool {
		if from.After && x.num == from.Num && x.id.Compare(id) == 0 {
			return true
		}
		return yield(x.num, x.id)
	})
}

// Descend yields rows before the mark, the last first.
func (o *Order) Descend(from Mark, yield func(num uint64, id *Ident) bool) {
	id := from.ident()
	if o.ids != nil {
		o.ids.Descend(id, func(x *Ident) bool {
			if !from.After && x.Compare(id) == 0 {
				return true
			}
			return yield(0, x)
		})
		return
	}
	o.rows.Descend(item{from.Num, id}, func(x item) bool {
		if !from.After && x.num == from.Num && x.id.Compare(id) == 0 {
			return true
		}
		return yield(x.num, x.id)
	})
}
