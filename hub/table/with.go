package table

import "reflect"

// The With functions set one field of an otherwise empty row, ask about it,
// and empty it again. row is an addressable struct of the schema's type.

// WithTrait asks about a row that shows a class's value in a Trait column.
func (t *Table) WithTrait(row reflect.Value, col int, c *Class, ask func(reflect.Value) bool) bool {
	v := c.Value(col)
	return t.with(row, col, cell{num: v.Num, text: v.Text, null: v.Null}, ask)
}

// WithSymbol asks about a row that has a symbol in a Symbol column.
func (t *Table) WithSymbol(row reflect.Value, col int, id uint32, ask func(reflect.Value) bool) bool {
	return t.with(row, col, t.dicts[t.schema.fields[col].at].cell(id), ask)
}

// WithObject asks about a row that has an object in an Object column.
func (t *Table) WithObject(row reflect.Value, col int, o any, ask func(reflect.Value) bool) bool {
	return t.with(row, col, cell{obj: o}, ask)
}

func (t *Table) with(row reflect.Value, col int, x cell, ask func(reflect.Value) bool) bool {
	f := &t.schema.fields[col]
	var a arena
	f.write(row.Addr().UnsafePointer(), x, &a)
	is := ask(row)
	row.FieldByIndex(f.index).SetZero()
	return is
}

// Part is the text of an ident that a Name column shows.
func (s *Schema) Part(id *Ident, col int) string { return id.part(s.fields[col].at) }

// IdentColumns are the columns of slate, region and root in the ident; -1: none.
func (s *Schema) IdentColumns() [3]int { return s.names }
