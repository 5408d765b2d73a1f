package query

import (
	"iter"
	"reflect"
	"strings"

	"github.com/quarry-db/quarry/hub/table"
)

// Row is one row of an answer. One that lies in a table is made only when
// someone wants it whole.
type Row struct {
	made any
	slot table.Slot
	src  *Source
	typ  *Type
}

// Value is the row itself, a pointer to the struct that the [Type] was made
// of. Nobody may change it.
func (r Row) Value() any {
	if r.made == nil {
		return r.src.at(r.slot)
	}
	return r.made
}

// AppendJSON appends the row as [Type.AppendJSON] does.
func (r Row) AppendJSON(dst []byte, m *Mask) []byte {
	if r.made == nil {
		if w := r.src.writer(r.typ); w.tells(m) {
			return w.append(dst, r.src.Table, r.slot, m)
		}
	}
	return r.typ.AppendJSON(dst, r.Value(), m)
}

// at makes the row at a slot of the table.
func (s *Source) at(slot table.Slot) any {
	if s.Row != nil {
		return s.Row(slot)
	}
	row := s.Table.Row(slot)
	if s.Fill != nil {
		s.Fill(row)
	}
	return row
}

// all yields every row that the filter can match, made one by one.
func (s *Source) all(f *Filter) iter.Seq[any] {
	if s.Table == nil {
		return s.Rows(f)
	}
	return func(yield func(any) bool) {
		going := true
		s.Table.Names().Ascend(table.First, func(_ uint64, id *table.Ident) bool {
			going = yield(s.at(id.Slot))
			return going
		})
		if going && s.Extra != nil {
			s.Extra(f)(yield)
		}
	}
}

// partOf is a part of an ident by its place in the key.
func partOf(id *table.Ident, i int) string {
	switch i {
	case 0:
		return id.Slate
	case 1:
		return id.Region
	}
	return id.Root
}

// keyPart is the place of a field in the key, -1 when it is not in it.
func (t *Type) keyPart(f *Field) int {
	for i, k := range t.key {
		if k == f {
			return i
		}
	}
	return -1
}

// set gives a field of the row v what a trait or a cover holds.
func (f *Field) set(v reflect.Value, x table.Value) {
	v = v.FieldByIndex(f.index)
	if x.Null {
		v.SetZero()
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch {
	case v.Type() == timeType:
		v.Set(reflect.ValueOf(table.NumberTime(x.Num)))
	case v.Kind() == reflect.String:
		v.SetString(x.Text)
	case v.Kind() == reflect.Bool:
		v.SetBool(x.Num != 0)
	case v.CanUint():
		v.SetUint(x.Num)
	case v.CanInt():
		v.SetInt(int64(x.Num))
	case v.Kind() == reflect.Slice:
		// Elements, each ended by NUL.
		list := reflect.MakeSlice(v.Type(), 0, 4)
		for rest := x.Text; rest != ""; {
			var e string
			e, rest, _ = strings.Cut(rest, "\x00")
			list = reflect.Append(list, reflect.ValueOf(e).Convert(v.Type().Elem()))
		}
		v.Set(list)
	}
}
