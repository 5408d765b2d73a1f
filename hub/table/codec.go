package table

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"reflect"
)

// A saved table is blocks, each with its length and checksum before it: what
// the schema was, the classes and symbols, the chunks as they lie in memory,
// and the slots in the order of each index, so that nothing has to be sorted
// when it is read back.

// ErrDamaged is wrapped by errors of [Read] about bytes that no [Table.Write]
// wrote.
var ErrDamaged = errors.New("damaged")

const (
	maxBlock  = 64 << 20
	perBlock  = 64 // chunks
	maxRows   = 64 << 20
	codecForm = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func writeBlock(w io.Writer, b []byte) error {
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(b)))
	binary.LittleEndian.PutUint32(head[4:], crc32.Checksum(b, castagnoli))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

func readBlock(r io.Reader) (*reading, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read a block: %w: %w", err, ErrDamaged)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxBlock {
		return nil, fmt.Errorf("a block of %d bytes: %w", n, ErrDamaged)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read a block: %w: %w", err, ErrDamaged)
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, fmt.Errorf("a block's checksum is wrong: %w", ErrDamaged)
	}
	return &reading{b: b}, nil
}

type tableHead struct {
	Form    int
	Columns []Column
	High    int
	Live    int
	Classes int
}

// Write saves the table.
func (t *Table) Write(w io.Writer) error {
	head, err := json.Marshal(tableHead{codecForm, t.schema.cols, t.high, t.live, len(t.classes)})
	if err != nil {
		return err
	}
	if err := writeBlock(w, head); err != nil {
		return err
	}
	var b []byte
	for _, c := range t.classes {
		for _, v := range c.stored {
			if b = append(b, 0); v.Null {
				b[len(b)-1] = 1
			}
			b = appendText(binary.AppendUvarint(b, v.Num), v.Text)
		}
	}
	if err := writeBlock(w, b); err != nil {
		return err
	}
	for at := range t.dicts {
		d := &t.dicts[at]
		b = binary.AppendUvarint(b[:0], uint64(len(d.texts)))
		for id, text := range d.texts {
			if d.maps != nil {
				j, err := json.Marshal(d.maps[id])
				if err != nil {
					return err
				}
				text = string(j)
			}
			b = appendText(b, text)
		}
		if err := writeBlock(w, b); err != nil {
			return err
		}
	}
	for i := 0; i < t.Chunks(); i += perBlock {
		b = b[:0]
		for k := i; k < min(i+perBlock, t.Chunks()); k++ {
			if b, err = t.appendChunk(b, t.Chunk(k)); err != nil {
				return err
			}
		}
		if err := writeBlock(w, b); err != nil {
			return err
		}
	}
	orders := []func(func(Slot)){
		func(yield func(Slot)) { t.names.Scan(func(id *Ident) bool { yield(id.Slot); return true }) },
		func(yield func(Slot)) { t.keys.Scan(func(id *Ident) bool { yield(id.Slot); return true }) },
	}
	for _, o := range t.orders {
		orders = append(orders,
			func(yield func(Slot)) { o.rows.Scan(func(x item) bool { yield(x.id.Slot); return true }) },
			func(yield func(Slot)) { o.nulls.Scan(func(id *Ident) bool { yield(id.Slot); return true }) })
	}
	for _, o := range orders {
		b = b[:0]
		n := 0
		o(func(s Slot) {
			b = binary.LittleEndian.AppendUint32(b, uint32(s))
			n++
		})
		if err := writeLong(w, b); err != nil {
			return err
		}
	}
	return nil
}

// writeLong writes bytes that may be more than a block, and an empty block.
func writeLong(w io.Writer, b []byte) error {
	const most = 4 << 20
	for len(b) > 0 {
		n := min(most, len(b))
		if err := writeBlock(w, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return writeBlock(w, nil)
}

func (t *Table) appendChunk(b []byte, c *Chunk) ([]byte, error) {
	if c == nil {
		return binary.LittleEndian.AppendUint64(b, 0), nil
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(c.live))
	for m := c.live; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(uint64(m))
		b = binary.AppendUvarint(b, uint64(c.classes.v[i]))
		id := c.idents.v[i]
		b = appendText(appendText(b, id.Slate), id.Region)
		if same := id.Root == id.Slate; same {
			b = append(b, 1)
		} else {
			b = appendText(append(b, 0), id.Root)
		}
	}
	for k := range c.nums.cols {
		n := &c.nums.cols[k]
		present := n.present & c.live
		b = binary.LittleEndian.AppendUint64(b, uint64(present))
		if present == 0 {
			continue
		}
		b = append(binary.LittleEndian.AppendUint64(b, n.base), n.width)
		b = append(b, c.nums.data[n.off:int(n.off)+ChunkRows*int(n.width)]...)
	}
	for _, s := range c.syms {
		b = appendBool(b, s != nil)
		if s != nil {
			for m := c.live; m != 0; m &= m - 1 {
				b = binary.AppendUvarint(b, uint64(s.v[bits.TrailingZeros64(uint64(m))]))
			}
		}
	}
	for _, s := range c.texts {
		b = appendBool(b, s != nil)
		if s != nil {
			for m := c.live; m != 0; m &= m - 1 {
				b = appendText(b, s.v[bits.TrailingZeros64(uint64(m))])
			}
		}
	}
	for _, s := range c.objs {
		b = appendBool(b, s != nil)
		if s == nil {
			continue
		}
		for m := c.live; m != 0; m &= m - 1 {
			o := s.v[bits.TrailingZeros64(uint64(m))]
			switch v := reflect.ValueOf(o); {
			case o == nil:
				b = append(b, 0)
			case (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0:
				b = append(b, 1)
			default:
				j, err := json.Marshal(o)
				if err != nil {
					return nil, err
				}
				b = append(append(binary.AppendUvarint(append(b, 2), uint64(len(j))), j...), 0)
			}
		}
	}
	return b, nil
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// reading takes a block apart; after a mistake it gives zeroes.
type reading struct {
	b   []byte
	bad bool
}

func (r *reading) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reading) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reading) word() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reading) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reading) text() string { return string(r.bytes(r.uvarint())) }

func (r *reading) end() error {
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("a block is not what it should be: %w", ErrDamaged)
	}
	return nil
}

// Read gives a builder what [Table.Write] saved with the same schema; else, and
// when the bytes are not whole, the error wraps [ErrDamaged].
func Read[T any](s *Schema, from io.Reader) (*Builder[T], error) {
	b := NewBuilder[T](s)
	t := &b.t
	r, err := readBlock(from)
	if err != nil {
		return nil, err
	}
	var head tableHead
	if err := json.Unmarshal(r.b, &head); err != nil {
		return nil, fmt.Errorf("a table's head: %w: %w", err, ErrDamaged)
	}
	if head.Form != codecForm || !reflect.DeepEqual(head.Columns, s.cols) || head.High < 0 || head.High > maxRows || head.Classes < 0 || head.Classes > maxRows {
		return nil, fmt.Errorf("a table of another make: %w", ErrDamaged)
	}
	if r, err = readBlock(from); err != nil {
		return nil, err
	}
	for range head.Classes {
		for k := range b.traits {
			b.traits[k] = Value{Null: r.byte() == 1, Num: r.uvarint(), Text: r.text()}
		}
		if r.bad {
			break
		}
		if n := len(t.classes); int(b.class(b.traits)) != n {
			return nil, fmt.Errorf("a class is there twice: %w", ErrDamaged)
		}
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	for at := range t.dicts {
		if r, err = readBlock(from); err != nil {
			return nil, err
		}
		if err := b.readSymbols(at, r); err != nil {
			return nil, err
		}
	}
	t.high = head.High
	for i := 0; i < t.Chunks(); i += perBlock {
		if r, err = readBlock(from); err != nil {
			return nil, err
		}
		for k := i; k < min(i+perBlock, t.Chunks()); k++ {
			if err := b.readChunk(k, r); err != nil {
				return nil, err
			}
		}
		if err := r.end(); err != nil {
			return nil, err
		}
	}
	if t.live != head.Live {
		return nil, fmt.Errorf("%d rows, %d were saved: %w", t.live, head.Live, ErrDamaged)
	}
	if err := b.readOrders(from); err != nil {
		return nil, err
	}
	for s := t.high - 1; s >= 0; s-- {
		if c, _ := t.at(Slot(s)); c == nil {
			b.freed = append(b.freed, Slot(s))
		}
	}
	return b, nil
}

func (b *Builder[T]) readSymbols(at int, r *reading) error {
	d := &b.t.dicts[at]
	n := r.uvarint()
	for id := uint64(0); id < n && !r.bad; id++ {
		text := r.text()
		if id == 0 {
			continue // the empty one
		}
		var f field
		x := cell{text: text}
		for k := range b.t.schema.fields {
			if f = b.t.schema.fields[k]; f.kind == Symbol && f.at == at {
				break
			}
		}
		if d.maps != nil {
			var m map[string]string
			if err := json.Unmarshal([]byte(text), &m); err != nil {
				return fmt.Errorf("a symbol: %w: %w", err, ErrDamaged)
			}
			x = cell{obj: m}
		}
		if got := b.symbol(&f, x); uint64(got) != id {
			return fmt.Errorf("a symbol is there twice: %w", ErrDamaged)
		}
	}
	return r.end()
}

func (b *Builder[T]) readChunk(k int, r *reading) error {
	live := Mask(r.word())
	if live == 0 || r.bad {
		return nil
	}
	damaged := fmt.Errorf("a chunk is not what it should be: %w", ErrDamaged)
	t := &b.t
	if last := t.high - k*ChunkRows; last < ChunkRows && live>>last != 0 {
		return damaged
	}
	c, _ := b.chunk(Slot(k * ChunkRows))
	c.live = live
	t.live += live.Len()
	for m := live; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(uint64(m))
		class := r.uvarint()
		id := &Ident{Slate: r.text(), Region: r.text(), Slot: Slot(k*ChunkRows + i)}
		if id.Root = id.Slate; r.byte() == 0 {
			id.Root = r.text()
		}
		if class >= uint64(len(t.classes)) || r.bad {
			return damaged
		}
		if regions := t.classes[class]; len(regions.stored) > 0 && t.schema.names[1] >= 0 && t.schema.fields[t.schema.names[1]].kind == Trait {
			id.Region = regions.Stored(t.schema.names[1]).Text // one text for all
		}
		c.classes.v[i], c.idents.v[i] = uint32(class), id
	}
	nums := c.nums
	for at := range nums.cols {
		n := &nums.cols[at]
		n.off = uint32(len(nums.data) - 8)
		if n.present = Mask(r.word()); n.present == 0 {
			continue
		}
		n.base, n.width = r.word(), r.byte()
		data := r.bytes(ChunkRows * uint64(n.width))
		if n.width > 8 || r.bad || n.present&^live != 0 {
			return damaged
		}
		nums.data = append(append(nums.data[:n.off], data...), 0, 0, 0, 0, 0, 0, 0, 0)
	}
	for at := range c.syms {
		if r.byte() == 0 {
			continue
		}
		c.syms[at] = &own[uint32]{gen: b.gen}
		for m := live; m != 0; m &= m - 1 {
			id := r.uvarint()
			if id >= uint64(len(t.dicts[at].texts)) {
				return damaged
			}
			c.syms[at].v[bits.TrailingZeros64(uint64(m))] = uint32(id)
		}
	}
	for at := range c.texts {
		if r.byte() == 0 {
			continue
		}
		c.texts[at] = &own[string]{gen: b.gen}
		before := (*[ChunkRows]string)(nil)
		if at > 0 && c.texts[at-1] != nil {
			before = &c.texts[at-1].v
		}
		for m := live; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(uint64(m))
			raw := r.bytes(r.uvarint())
			switch {
			case before != nil && before[i] == string(raw):
				c.texts[at].v[i] = before[i] // one text, not two
			default:
				c.texts[at].v[i] = string(raw)
			}
		}
	}
	for col := range t.schema.fields {
		f := &t.schema.fields[col]
		if f.kind != Object || r.byte() == 0 {
			continue
		}
		o := &own[any]{gen: b.gen}
		c.objs[f.at] = o
		for m := live; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(uint64(m))
			switch r.byte() {
			case 0:
			case 1:
				if f.typ.Kind() == reflect.Map {
					o.v[i] = reflect.MakeMap(f.typ).Interface()
				} else {
					o.v[i] = reflect.MakeSlice(f.typ, 0, 0).Interface()
				}
			default:
				p := reflect.New(f.typ)
				if err := json.Unmarshal(r.bytes(r.uvarint()), p.Interface()); err != nil || r.byte() != 0 {
					return damaged
				}
				if f.ptr {
					o.v[i] = p.Interface()
				} else {
					o.v[i] = p.Elem().Interface()
				}
			}
		}
	}
	if r.bad {
		return damaged
	}
	for m := live; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(uint64(m))
		b.count(c.classes.v[i], c, i, 1)
	}
	return nil
}

// readOrders fills the trees: everything comes in order.
func (b *Builder[T]) readOrders(from io.Reader) error {
	t := &b.t
	damaged := fmt.Errorf("an index is not what it should be: %w", ErrDamaged)
	each := func(take func(c *Chunk, i int) bool) (n int, err error) {
		for {
			r, err := readBlock(from)
			if err != nil {
				return 0, err
			}
			if len(r.b) == 0 {
				return n, nil
			}
			for ; len(r.b) >= 4; r.b = r.b[4:] {
				c, i := t.at(Slot(binary.LittleEndian.Uint32(r.b)))
				if n++; c == nil || !take(c, i) {
					return 0, damaged
				}
			}
			if err := r.end(); err != nil {
				return 0, err
			}
		}
	}
	for _, tree := range []interface {
		Load(*Ident) (*Ident, bool)
		Less(a, b *Ident) bool
		Len() int
	}{t.names, t.keys} {
		var last *Ident
		n, err := each(func(c *Chunk, i int) bool {
			id := c.idents.v[i]
			ok := last == nil || tree.Less(last, id)
			tree.Load(id)
			last = id
			return ok
		})
		if err != nil {
			return err
		}
		if n != t.live {
			return damaged
		}
	}
	for k, col := range t.schema.orders {
		o := &t.orders[k]
		var last item
		rows, err := each(func(c *Chunk, i int) bool {
			num, has := c.Number(col, i)
			x := item{num, c.idents.v[i]}
			ok := has && (last.id == nil || o.rows.Less(last, x))
			o.rows.Load(x)
			last = x
			return ok
		})
		if err != nil {
			return err
		}
		var lastID *Ident
		nulls, err := each(func(c *Chunk, i int) bool {
			_, has := c.Number(col, i)
			id := c.idents.v[i]
			ok := !has && (lastID == nil || o.nulls.Less(lastID, id))
			o.nulls.Load(id)
			lastID = id
			return ok
		})
		if err != nil {
			return err
		}
		if rows+nulls != t.live {
			return damaged
		}
	}
	return nil
}
