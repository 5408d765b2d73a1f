package query

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Kind is what a field holds, as far as comparing goes.
type Kind uint8

// The kinds of fields.
const (
	Text Kind = iota + 1
	Number
	Time
	Bool
	Map     // from text to text or numbers
	List    // of text or numbers
	Record  // one struct
	Records // a list of structs
)

var kindNames = [...]string{Text: "text", Number: "a number", Time: "a time", Bool: "true or false", Map: "a map", List: "a list", Record: "a record", Records: "a list of records"}

func (k Kind) String() string { return kindNames[k] }

// Type is the Go type of the field.
func (f *Field) Type() reflect.Type { return f.typ }

func (k Kind) scalar() bool { return k >= Text && k <= Bool }

// Field is one field of a row, as JSON shows it.
type Field struct {
	Name      string // JSON name
	Kind      Kind
	Elem      Kind // of a Map's values or a List's elements
	Doc       string
	Nullable  bool     // JSON may show null
	OmitEmpty bool     // JSON leaves it out when it has nothing
	Values    []string // the only values it can have; nil: any
	Sub       *Shape   // of a Record or Records
	index     []int
	typ       reflect.Type
	quoted    string // the name as JSON has it, with the colon
}

// Shape is the fields of a struct, in the order JSON shows them.
type Shape struct {
	Name   string // of the Go type
	Fields []*Field
	byName map[string]*Field
}

// Type is what can be asked of rows of one struct type. It is made once, at
// start, and never changes.
type Type struct {
	*Shape
	Name string // of the resource, for messages and page tokens
	// Default is the order_by of lists that ask for none; the key follows in
	// any case. Set it before the type is used.
	Default string
	key     []*Field
	row     reflect.Type
}

// Values lists what fields of a named string type can hold, so that a filter
// that compares with anything else is refused rather than empty.
type Values map[reflect.Type][]string

// TypeOf derives a Type from the JSON tags of T. key names the fields that
// identify a row; they must be set, unique together, and of kind Text or
// Number. It panics when T cannot be described: that is a mistake in the
// program.
func TypeOf[T any](name string, values Values, key ...string) *Type {
	row := reflect.TypeFor[T]()
	t := &Type{Name: name, row: row, Shape: describe(row, values, map[reflect.Type]*Shape{})}
	for _, k := range key {
		f := t.byName[k]
		if f == nil || f.Kind != Text && f.Kind != Number {
			panic(fmt.Sprintf("query: %s has no key field %s", row, k))
		}
		t.key = append(t.key, f)
	}
	if len(t.key) == 0 {
		panic(fmt.Sprintf("query: %s has no key", row))
	}
	return t
}

// New makes an empty row.
func (t *Type) New() any { return reflect.New(t.row).Interface() }

// Key is the row's key: the values of its key fields.
func (t *Type) Key(row any) []string {
	v := elem(row)
	key := make([]string, len(t.key))
	for i, f := range t.key {
		x := f.get(v)
		if x.kind == Text {
			key[i] = x.s
		} else {
			key[i] = x.num.String()
		}
	}
	return key
}

// KeyFields names the fields of the key.
func (t *Type) KeyFields() []string {
	var names []string
	for _, f := range t.key {
		names = append(names, f.Name)
	}
	return names
}

var timeType = reflect.TypeFor[time.Time]()

func describe(t reflect.Type, values Values, seen map[reflect.Type]*Shape) *Shape {
	if r := seen[t]; r != nil {
		return r
	}
	r := &Shape{Name: t.Name(), byName: map[string]*Field{}}
	seen[t] = r
	for _, sf := range reflect.VisibleFields(t) {
		tag, _ := sf.Tag.Lookup("json")
		name, opts, _ := strings.Cut(tag, ",")
		if !sf.IsExported() || sf.Anonymous && name == "" || name == "-" {
			continue
		}
		if name == "" {
			name = sf.Name
		}
		f := &Field{Name: name, Doc: sf.Tag.Get("doc"), index: sf.Index, typ: sf.Type, OmitEmpty: slices.Contains(strings.Split(opts, ","), "omitempty")}
		ft := sf.Type
		if ft.Kind() == reflect.Pointer {
			f.Nullable = !f.OmitEmpty
			ft = ft.Elem()
		}
		f.Values = values[ft]
		switch k := scalarKind(ft); {
		case k != 0:
			f.Kind = k
		case ft.Kind() == reflect.Map && ft.Key().Kind() == reflect.String && scalarKind(ft.Elem()) != 0:
			f.Kind, f.Elem = Map, scalarKind(ft.Elem())
		case ft.Kind() == reflect.Slice && scalarKind(ft.Elem()) != 0:
			f.Kind, f.Elem = List, scalarKind(ft.Elem())
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
			f.Kind, f.Sub = Records, describe(ft.Elem(), values, seen)
		case ft.Kind() == reflect.Struct:
			f.Kind, f.Sub = Record, describe(ft, values, seen)
		default:
			panic(fmt.Sprintf("query: %s.%s: nobody can ask for a %s", t, sf.Name, ft))
		}
		if r.byName[name] != nil {
			panic(fmt.Sprintf("query: %s has two fields %s", t, name))
		}
		f.quoted = string(append(appendString(nil, name), ':'))
		r.byName[name] = f
		r.Fields = append(r.Fields, f)
	}
	return r
}

func scalarKind(t reflect.Type) Kind {
	switch t.Kind() {
	case reflect.String:
		return Text
	case reflect.Bool:
		return Bool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return Number
	}
	if t == timeType {
		return Time
	}
	return 0
}

// elem is the struct behind a row.
func elem(row any) reflect.Value { return reflect.ValueOf(row).Elem() }

// in is the field of the struct v, or the zero Value when a pointer on the way
// is nil.
func (f *Field) in(v reflect.Value) reflect.Value {
	v = v.FieldByIndex(f.index)
	if v.Kind() == reflect.Pointer {
		return v.Elem()
	}
	return v
}

// empty says that JSON shows the field as null or not at all.
func (f *Field) empty(v reflect.Value) bool {
	v = f.in(v)
	if !v.IsValid() {
		return true
	}
	switch f.Kind {
	case Map, List, Records:
		return v.Len() == 0
	}
	return f.OmitEmpty && f.typ.Kind() != reflect.Pointer && f.Kind != Record && f.typ != timeType && v.IsZero()
}

// value is a scalar out of a row. The zero value is null.
type value struct {
	kind Kind // 0: null
	b    bool
	s    string
	num  number
	t    time.Time
}

func (x value) null() bool { return x.kind == 0 }

// get reads a scalar field.
func (f *Field) get(v reflect.Value) value {
	v = f.in(v)
	if !v.IsValid() {
		return value{}
	}
	x := read(v, f.Kind)
	// A number that JSON leaves out when zero was not observed.
	if f.OmitEmpty && f.Kind == Number && f.typ.Kind() != reflect.Pointer && v.IsZero() {
		return value{}
	}
	return x
}

func read(v reflect.Value, k Kind) value {
	switch k {
	case Text:
		return value{kind: Text, s: v.String()}
	case Bool:
		return value{kind: Bool, b: v.Bool()}
	case Time:
		return value{kind: Time, t: *v.Addr().Interface().(*time.Time)}
	}
	switch {
	case v.CanUint():
		return value{kind: Number, num: number{mag: v.Uint()}}
	case v.CanInt():
		return value{kind: Number, num: integer(v.Int())}
	}
	return value{kind: Number, num: float(v.Float())}
}

// path is where a dotted name leads: through fields, and at the end perhaps
// into a map.
type path struct {
	fields []*Field
	key    string // of the map that the last field is
	keyed  bool
}

func (p path) last() *Field { return p.fields[len(p.fields)-1] }

// kind is what is at the end.
func (p path) kind() Kind {
	if p.keyed {
		return p.last().Elem
	}
	return p.last().Kind
}

// repeated says that the name leads through a list of records.
func (p path) repeated() bool {
	for _, f := range p.fields[:len(p.fields)-1] {
		if f.Kind == Records {
			return true
		}
	}
	return false
}

// resolve finds a dotted name. When it cannot, bad is the part at fault, and
// the hint says what is known there.
func (r *Shape) resolve(parts []string) (p path, bad int, hint string) {
	for i, part := range parts {
		f := r.byName[part]
		if f == nil {
			return p, i, didYouMean(strings.Join(parts[i:], "."), r.names(""))
		}
		p.fields = append(p.fields, f)
		if i == len(parts)-1 {
			return p, -1, ""
		}
		switch f.Kind {
		case Map:
			// Keys may hold dots: labels.app.kubernetes.io/name.
			p.key, p.keyed = strings.Join(parts[i+1:], "."), true
			return p, -1, ""
		case Record, Records:
			r = f.Sub
		default:
			return p, i + 1, fmt.Sprintf("%s is %s and has no fields", part, f.Kind)
		}
	}
	return p, 0, "name a field"
}

// names lists every name that can be asked for, nested ones with dots.
func (r *Shape) names(prefix string) []string {
	var names []string
	for _, f := range r.Fields {
		names = append(names, prefix+f.Name)
		if f.Sub != nil && strings.Count(prefix, ".") < 3 {
			names = append(names, f.Sub.names(prefix+f.Name+".")...)
		}
	}
	return names
}

// Names lists every name that can be asked for, nested ones with dots.
func (r *Shape) Names() []string { return r.names("") }

// scalar reads the value at the end of a path that leads through no list.
func (p path) scalar(v reflect.Value) value {
	for _, f := range p.fields[:len(p.fields)-1] {
		if v = f.in(v); !v.IsValid() {
			return value{}
		}
	}
	f := p.last()
	if !p.keyed {
		return f.get(v)
	}
	return f.at(v, p.key)
}

// at reads a map's value.
func (f *Field) at(v reflect.Value, key string) value {
	v = f.in(v)
	if !v.IsValid() || v.Len() == 0 {
		return value{}
	}
	switch m := v.Interface().(type) {
	case map[string]string:
		if s, ok := m[key]; ok {
			return value{kind: Text, s: s}
		}
		return value{}
	case map[string]float64:
		if x, ok := m[key]; ok {
			return value{kind: Number, num: float(x)}
		}
		return value{}
	}
	e := v.MapIndex(reflect.ValueOf(key).Convert(v.Type().Key()))
	if !e.IsValid() {
		return value{}
	}
	return read(e, f.Elem)
}
