package table

import (
	"math"

	"github.com/tidwall/btree"
)

// sorted is the order of one column: rows that have a value, and those that
// have none. Items tell their order by themselves, so that readers of an old
// table never look into a newer one.
type sorted struct {
	rows  *btree.BTreeG[item]
	nulls *btree.BTreeG[*Ident]
}

type item struct {
	num uint64
	id  *Ident
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
	if k := t.schema.fields[col].order; k >= 0 {
		return &Order{rows: t.orders[k].rows}
	}
	return nil
}

// Nulls are the rows without a value in an Ordered column, in the order of
// their idents.
func (t *Table) Nulls(col int) *Order {
	if k := t.schema.fields[col].order; k >= 0 {
		return &Order{ids: t.orders[k].nulls}
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
