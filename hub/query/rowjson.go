package query

import (
	"reflect"
	"strconv"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// writer writes rows of a table as JSON without making them.
type writer struct {
	cols   []jsonColumn
	beyond []string // fields that no column has
}

type jsonColumn struct {
	f        *Field
	col      int
	info     table.Column
	part     int  // of the ident, of a Name
	pointer  bool // null is possible
	leaveOut bool // when there is nothing
	signed   bool
}

// writer is made once for a source.
func (s *Source) writer(t *Type) *writer {
	if s.json != nil {
		return s.json
	}
	w := &writer{}
	infos := s.Table.Schema().Columns()
	for _, f := range t.Fields {
		name := f.Name
		if as, ok := s.Columns[name]; ok {
			name = as
		}
		col, ok := s.Table.Schema().Column(name)
		if !ok {
			w.beyond = append(w.beyond, f.Name)
			continue
		}
		w.cols = append(w.cols, jsonColumn{f: f, col: col, info: infos[col], part: t.keyPart(f), pointer: f.typ.Kind() == reflect.Pointer,
			leaveOut: f.OmitEmpty, signed: f.signed()})
	}
	s.json = w
	return w
}

// tells says whether all that a mask shows is in columns.
func (w *writer) tells(m *Mask) bool {
	for _, name := range w.beyond {
		if _, shown := m.shows(name); shown {
			return false
		}
	}
	return true
}

func (w *writer) append(dst []byte, t *table.Table, s table.Slot, m *Mask) []byte {
	c, i := t.At(s)
	class := t.Class(c.Class(i))
	covered := class.Covered()
	dst = append(dst, '{')
	begin := len(dst)
	for k := range w.cols {
		j := &w.cols[k]
		var inner *Mask
		if m != nil {
			var shown bool
			if inner, shown = m.fields[j.f.Name]; !shown {
				continue
			}
		}
		before := len(dst)
		if before > begin {
			dst = append(dst, ',')
		}
		dst = append(dst, j.f.quoted...)
		var there bool
		if dst, there = j.append(dst, t, c, class, i, inner, covered); !there {
			if dst = dst[:before]; !j.leaveOut {
				panic("query: " + j.f.Name + " left out")
			}
		}
	}
	return append(dst, '}')
}

// append writes the value; there is false when JSON leaves the field out.
func (j *jsonColumn) append(dst []byte, t *table.Table, c *table.Chunk, class *table.Class, i int, m *Mask, covered bool) (out []byte, there bool) {
	if j.info.Kind == table.Trait {
		return j.value(dst, class.Value(j.col))
	}
	if covered && j.info.Covered {
		if v, ok := class.Covers(j.col); ok {
			return j.value(dst, v)
		}
	}
	switch j.info.Kind {
	case table.Name:
		return j.text(dst, partOf(c.Idents()[i], j.part))
	case table.Text:
		if texts := c.Texts(j.col); texts != nil {
			return j.text(dst, texts[i])
		}
		return j.text(dst, "")
	case table.Symbol:
		id := uint32(0)
		if ids := c.Symbols(j.col); ids != nil {
			id = ids[i]
		}
		if j.f.Kind != Map {
			return j.text(dst, t.Symbol(j.col, id))
		}
		labels := t.SymbolMap(j.col, id)
		if len(labels) == 0 && j.leaveOut {
			return dst, false
		}
		return appendTexts(dst, labels, m), true
	case table.Object:
		o := c.Object(j.col, i)
		v := reflect.ValueOf(o)
		if o == nil || j.f.Kind != Record && v.Len() == 0 {
			return j.nothing(dst)
		}
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		return j.f.appendIn(dst, v, m), true
	}
	n, ok := c.Number(j.col, i)
	return j.value(dst, table.Value{Null: !ok, Num: n})
}

// nothing writes a list or map without elements, or no record.
func (j *jsonColumn) nothing(dst []byte) ([]byte, bool) {
	switch {
	case j.leaveOut:
		return dst, false
	case j.f.Kind == Record:
		return append(dst, "null"...), true
	case j.f.Kind == Map:
		return append(dst, "{}"...), true
	}
	return append(dst, "[]"...), true
}

func (j *jsonColumn) text(dst []byte, s string) ([]byte, bool) {
	if s == "" && j.leaveOut {
		return dst, false
	}
	return appendString(dst, s), true
}

func (j *jsonColumn) value(dst []byte, v table.Value) ([]byte, bool) {
	if v.Null && j.pointer {
		return append(dst, "null"...), !j.leaveOut
	}
	switch j.f.Kind {
	case Text:
		return j.text(dst, v.Text)
	case Bool:
		return strconv.AppendBool(dst, v.Num != 0), v.Num != 0 || j.pointer || !j.leaveOut
	case Time:
		at := time.Time{}
		if !v.Null {
			at = table.NumberTime(v.Num)
		}
		return appendTime(dst, at), true
	case Number:
		if v.Null {
			v.Num = 0
		}
		if v.Num == 0 && j.leaveOut && !j.pointer {
			return dst, false
		}
		if j.signed {
			return strconv.AppendInt(dst, int64(v.Num), 10), true
		}
		return strconv.AppendUint(dst, v.Num, 10), true
	}
	list := table.List(v) // a list as a trait
	if len(list) == 0 {
		return j.nothing(dst)
	}
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s)
	}
	return append(dst, ']'), true
}
