package table

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/pack"
)

// Options say how the fields of a row are stored. Fields are named as in JSON.
type Options struct {
	// Ident are the fields that make the [Ident], in its order; empty: none.
	Ident                                     [3]string
	Traits, Symbols, Ordered, Summed, Covered []string
	// Hidden are further Number columns that no field of the row shows.
	Hidden []string
	// Virtual fields are not stored; whoever reads rows fills them in.
	Virtual []string
}

// Schema is how rows of one struct type lie in columns. It never changes.
type Schema struct {
	row                     reflect.Type
	cols                    []Column
	fields                  []field // by column
	byName                  map[string]int
	names                   [3]int // columns of the ident; -1: none
	traits                  []int
	sums                    []int // columns that classes sum up
	orders                  []int
	nums, syms, texts, objs int // how many of each kind are stored
	pointers                int // numbers that rows have as pointers
}

var timeType = reflect.TypeFor[time.Time]()

// SchemaOf derives a schema from the JSON tags of T, embedded structs
// included. It panics on a field that it cannot store or an option that names
// none: that is a mistake in the program.
func SchemaOf[T any](o Options) *Schema {
	s := &Schema{row: reflect.TypeFor[T](), byName: map[string]int{}, names: [3]int{-1, -1, -1}}
	for _, sf := range reflect.VisibleFields(s.row) {
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if !sf.IsExported() || sf.Anonymous && name == "" || name == "-" || slices.Contains(o.Virtual, name) {
			continue
		}
		f := field{index: sf.Index, typ: sf.Type, off: offset(s.row, sf.Index)}
		if sf.Type.Kind() == reflect.Pointer {
			f.ptr, f.typ = true, sf.Type.Elem()
		}
		f.form = formOf(f.typ)
		part := slices.Index(o.Ident[:], name)
		switch {
		case part >= 0 && !slices.Contains(o.Traits, name):
			f.kind, f.at = Name, part
		case slices.Contains(o.Traits, name):
			// May be a part of the ident too: then classes tell it apart.
			f.kind, f.at = Trait, len(s.traits)
			s.traits = append(s.traits, len(s.cols))
		case slices.Contains(o.Symbols, name):
			f.kind = Symbol
		case f.typ == timeType:
			f.kind = Time
		case f.typ.Kind() >= reflect.Int && f.typ.Kind() <= reflect.Uint64:
			f.kind = Number
		case f.typ.Kind() == reflect.String && !f.ptr:
			f.kind = Text
		case f.typ.Kind() == reflect.Slice || f.typ.Kind() == reflect.Map || f.typ.Kind() == reflect.Struct:
			f.kind, f.form, f.packed = Object, formOther, pack.Of(f.typ)
			if k := f.typ.Kind(); k == reflect.Slice && !f.ptr {
				f.none = reflect.MakeSlice(f.typ, 0, 0).Interface()
			} else if k == reflect.Map && !f.ptr {
				f.none = reflect.MakeMap(f.typ).Interface()
			}
		default:
			panic(fmt.Sprintf("table: %s.%s: no column for a %s; make it a trait", s.row, sf.Name, sf.Type))
		}
		if part >= 0 {
			s.names[part] = len(s.cols)
		}
		s.add(name, f, o)
	}
	for _, name := range o.Hidden {
		s.add(name, field{kind: Number}, o)
	}
	if s.nums > maxNumbers || s.syms+s.texts+s.objs > maxColumns {
		panic(fmt.Sprintf("table: %s has too many fields: at most %d numbers and %d others", s.row, maxNumbers, maxColumns))
	}
	for _, list := range [][]string{o.Traits, o.Symbols, o.Ordered, o.Summed, o.Covered} {
		for _, name := range list {
			if _, ok := s.byName[name]; !ok {
				panic(fmt.Sprintf("table: %s has no field %s", s.row, name))
			}
		}
	}
	return s
}

func (s *Schema) add(name string, f field, o Options) {
	c := Column{Name: name, Kind: f.kind,
		Ordered: slices.Contains(o.Ordered, name), Summed: slices.Contains(o.Summed, name), Covered: slices.Contains(o.Covered, name)}
	if (c.Ordered && f.kind != Number && f.kind != Time) || c.Summed && f.kind != Number {
		panic(fmt.Sprintf("table: %s is neither a number nor a time", name))
	}
	count := map[Kind]*int{Number: &s.nums, Time: &s.nums, Symbol: &s.syms, Text: &s.texts, Object: &s.objs}[f.kind]
	if count != nil {
		f.at = *count
		*count++
	}
	if f.kind == Number && f.ptr {
		s.pointers++
	}
	if f.order = -1; c.Ordered {
		f.order = len(s.orders)
		s.orders = append(s.orders, len(s.cols))
	}
	if f.sum = -1; c.Summed {
		f.sum = len(s.sums)
		s.sums = append(s.sums, len(s.cols))
	}
	s.byName[name] = len(s.cols)
	s.cols, s.fields = append(s.cols, c), append(s.fields, f)
}

// Columns lists the columns; a column's number is its place here.
func (s *Schema) Columns() []Column { return s.cols }

// Column finds a column by its name.
func (s *Schema) Column(name string) (col int, ok bool) {
	col, ok = s.byName[name]
	return col, ok
}

// Col is [Schema.Column] for a name that must be there; it panics when not.
func (s *Schema) Col(name string) int {
	col, ok := s.byName[name]
	if !ok {
		panic(fmt.Sprintf("table: %s has no column %s", s.row, name))
	}
	return col
}

// TimeNumber is the form in which times are numbers: Unix nanoseconds with the
// sign turned, so that earlier is less. Times outside the years 1678 to 2261
// become the nearest that fits. ok is false for the zero time, which is null.
func TimeNumber(t time.Time) (n uint64, ok bool) {
	if t.IsZero() {
		return 0, false
	}
	ns := t.UnixNano()
	switch y := t.Year(); {
	case y < 1678:
		ns = math.MinInt64
	case y > 2261:
		ns = math.MaxInt64
	}
	return uint64(ns) ^ 1<<63, true
}

// NumberTime turns [TimeNumber] back, in UTC.
func NumberTime(n uint64) time.Time { return time.Unix(0, int64(n^1<<63)).UTC() }

// Value is what a trait or a cover holds. Booleans are 0 and 1.
type Value struct {
	Null bool
	Num  uint64
	Text string
}

// Compare orders idents: slate, region, root.
func (a *Ident) Compare(b *Ident) int {
	return cmp.Or(strings.Compare(a.Slate, b.Slate), strings.Compare(a.Region, b.Region), strings.Compare(a.Root, b.Root))
}

// List is a trait's value that is a list of texts.
func List(v Value) []string {
	if v.Text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(v.Text, "\x00"), "\x00")
}
