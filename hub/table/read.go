package table

import (
	"reflect"
	"unsafe"

	"github.com/tidwall/btree"
)

// Table is what a [Builder] held at one moment. It never changes; any number
// of goroutines may read it and keep it.
type Table struct {
	schema  *Schema
	chunks  paged[*Chunk]
	high    int // slots below it were used
	live    int
	classes paged[*Class]
	kinds   int    // of classes
	dicts   []dict // by symbol column
	keyed   keyed
	names   *btree.BTreeG[*Ident]
	keys    *btree.BTreeG[*Ident]
	orders  []sorted // by schema.orders
}

// dict is the dictionary of a Symbol column. It is only ever added to.
type dict struct {
	texts []string
	maps  []map[string]string // nil when the column holds texts
}

// Schema is how the rows lie in columns.
func (t *Table) Schema() *Schema { return t.schema }

// Len is how many rows there are.
func (t *Table) Len() int { return t.live }

// Chunks is how many chunks there are.
func (t *Table) Chunks() int { return (t.high + ChunkRows - 1) / ChunkRows }

// Chunk is chunk i of [Table.Chunks]; nil when no row is in it.
func (t *Table) Chunk(i int) *Chunk {
	c := t.chunks.at(i)
	if c == nil || c.live == 0 {
		return nil
	}
	return c
}

// At is the chunk of slot s and the row in it; nil when no row is there.
func (t *Table) At(s Slot) (*Chunk, int) {
	if int(s) >= t.high {
		return nil, 0
	}
	c, i := t.chunks.at(int(s)/ChunkRows), int(s%ChunkRows)
	if c == nil || c.live>>i&1 == 0 {
		return nil, 0
	}
	return c, i
}

// Ident is the row at s; nil when no row is there.
func (t *Table) Ident(s Slot) *Ident {
	if c, i := t.At(s); c != nil {
		return c.idents[i]
	}
	return nil
}

// Find is the slot of the row with that region and root, or [None].
func (t *Table) Find(region, root string) Slot {
	return t.keyed.find(t, &Ident{Region: region, Root: root})
}

// Named is the slot of the row with that name, in a table whose idents have
// neither region nor root; or [None].
func (t *Table) Named(name string) Slot { return t.keyed.find(t, &Ident{Slate: name}) }

// In yields the rows of a region in the order of their roots.
func (t *Table) In(region string, yield func(id *Ident) bool) {
	t.keys.Ascend(&Ident{Region: region}, func(id *Ident) bool { return id.Region == region && yield(id) })
}

// Stored makes the row at s as it was put, whatever its class covers; nil when
// no row is there.
func (t *Table) Stored(s Slot) any { return t.made(s, false) }

// Row makes the row at s: a pointer to the struct of the schema, the caller's
// to keep; lists and maps in it are shared and nobody may change them. Virtual
// fields are empty. nil when no row is there.
func (t *Table) Row(s Slot) any { return t.made(s, true) }

func (t *Table) made(s Slot, covered bool) any {
	c, i := t.At(s)
	if c == nil {
		return nil
	}
	v := reflect.New(t.schema.row)
	t.fill(v.UnsafePointer(), c, i, covered)
	return v.Interface()
}

// fill writes the fields of an empty row.
func (t *Table) fill(row unsafe.Pointer, c *Chunk, i int, covered bool) {
	s := t.schema
	class := t.Class(c.classes[i])
	covered = covered && len(class.covers) > 0
	a := make(arena, 0, s.pointers)
	for col := range s.fields {
		f := &s.fields[col]
		if f.index == nil {
			continue // hidden
		}
		if covered && s.cols[col].Covered {
			if x, ok := class.Covers(col); ok {
				f.write(row, cell{num: x.Num, text: x.Text, null: x.Null}, &a)
				continue
			}
		}
		switch f.kind {
		case Name:
			f.write(row, cell{text: c.idents[i].part(f.at)}, &a)
		case Trait:
			x := &class.stored[f.at]
			f.write(row, cell{num: x.Num, text: x.Text, null: x.Null}, &a)
		case Number, Time:
			if n, ok := c.number(f.at, i); ok {
				f.write(row, cell{num: n}, &a)
			}
		case Symbol:
			if ids := c.rest.syms[f.at]; ids != nil && ids[i] != 0 {
				f.write(row, t.dicts[f.at].cell(ids[i]), &a)
			}
		case Text:
			if texts := c.rest.texts[f.at]; texts != nil {
				f.write(row, cell{text: texts[i]}, &a)
			}
		case Object:
			if o := c.object(f, i); o != nil {
				f.write(row, cell{obj: o}, &a)
			}
		}
	}
}

// cell is what a symbol stands for.
func (d *dict) cell(id uint32) cell {
	switch {
	case id == 0:
		return cell{null: true}
	case d.maps != nil:
		return cell{obj: d.maps[id]}
	}
	return cell{text: d.texts[id]}
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
