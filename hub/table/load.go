package table

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"reflect"
	"runtime"
	"slices"
	"sync"

	"github.com/tidwall/btree"

	"github.com/quarry-db/quarry/hub/pack"
)

// blocks reads one block after the other. No more memory is taken on a
// block's word than as much again as was read before, for its length may be a
// lie.
type blocks struct {
	from io.Reader
	got  int
}

const atOnce = 64 << 10

func (r *blocks) next() (*reading, error) {
	var head [8]byte
	if _, err := io.ReadFull(r.from, head[:]); err != nil {
		return nil, fmt.Errorf("read a block: %w: %w", err, ErrDamaged)
	}
	n := int(min(le.Uint32(head[:]), maxBlock+1))
	if n > maxBlock {
		return nil, fmt.Errorf("a block of more than %d bytes: %w", maxBlock, ErrDamaged)
	}
	var b []byte
	for len(b) < n {
		at := len(b)
		b = append(b, make([]byte, min(n-at, max(r.got, atOnce)))...)
		m, err := io.ReadFull(r.from, b[at:])
		if r.got += m; err != nil {
			return nil, fmt.Errorf("read a block: %w: %w", err, ErrDamaged)
		}
	}
	if crc32.Checksum(b, castagnoli) != le.Uint32(head[4:]) {
		return nil, fmt.Errorf("a block's checksum is wrong: %w", ErrDamaged)
	}
	return &reading{b: b}, nil
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
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reading) word() uint64 {
	if b := r.bytes(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

func (r *reading) truth() bool {
	b := r.bytes(1)
	return b != nil && b[0] != 0
}

func (r *reading) text() string { return string(r.bytes(r.uvarint())) }

func (r *reading) end() error {
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("a block is not what it should be: %w", ErrDamaged)
	}
	return nil
}

// Read gives a builder what [Table.Write] saved with the same schema; else, and
// when the bytes are not whole, the error wraps [ErrDamaged]. Chunks are read
// by all processors. What was saved together lies together: a chunk's texts are
// one piece of memory, which stays while one of them is in use.
func Read[T any](s *Schema, from io.Reader) (*Builder[T], error) {
	b := NewBuilder[T](s)
	t := &b.t
	in := &blocks{from: from}
	r, err := in.next()
	if err != nil {
		return nil, err
	}
	var head tableHead
	if err := json.Unmarshal(r.b, &head); err != nil {
		return nil, fmt.Errorf("a table's head: %w: %w", err, ErrDamaged)
	}
	if head.Form != codecForm || !reflect.DeepEqual(head.Columns, s.cols) || !slices.Equal(head.Shapes, s.shapes()) || head.High < 0 || head.High >= maxSlots || head.Classes < 0 || head.Classes > maxSlots {
		return nil, fmt.Errorf("a table of another make: %w", ErrDamaged)
	}
	if r, err = in.next(); err != nil {
		return nil, err
	}
	for id := range head.Classes {
		for k := range b.traits {
			b.traits[k] = Value{Null: r.truth(), Num: r.uvarint(), Text: r.text()}
		}
		if r.bad || int(b.class(b.traits)) != id {
			return nil, fmt.Errorf("a class is there twice: %w", ErrDamaged)
		}
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	for col := range s.fields {
		if f := &s.fields[col]; f.kind == Symbol {
			if r, err = in.next(); err != nil {
				return nil, err
			}
			if err := b.readSymbols(f, r); err != nil {
				return nil, err
			}
		}
	}
	t.high = head.High
	if err := b.readChunks(in); err != nil {
		return nil, err
	}
	if t.live != head.Live {
		return nil, fmt.Errorf("%d rows, %d were saved: %w", t.live, head.Live, ErrDamaged)
	}
	if err := b.readOrders(in); err != nil {
		return nil, err
	}
	for id := range uint32(t.kinds) {
		if c := t.Class(id); c.Count == 0 {
			c.bare = true
			b.bare = append(b.bare, id)
		}
	}
	b.touched = ^uint64(0)
	for s := t.high - 1; s >= 0; s-- {
		if c, _ := t.At(Slot(s)); c == nil {
			b.freed = append(b.freed, Slot(s))
		}
	}
	return b, nil
}

func (b *Builder[T]) readSymbols(f *field, r *reading) error {
	d, ids := &b.t.dicts[f.at], b.symbols[f.at]
	n := r.uvarint()
	for id := uint64(0); id < n && !r.bad; id++ {
		text := r.text()
		if id == 0 {
			continue // the empty one
		}
		if _, there := ids[text]; there {
			return fmt.Errorf("a symbol is there twice: %w", ErrDamaged)
		}
		if d.maps != nil {
			m := map[string]string{}
			for in := (reading{b: []byte(text)}); len(in.b) > 0; {
				name := in.text()
				if m[name] = in.text(); in.bad {
					return fmt.Errorf("a symbol is no map: %w", ErrDamaged)
				}
			}
			d.maps = append(d.maps, m)
		}
		ids[text] = uint32(len(d.texts))
		d.texts = append(d.texts, text)
	}
	return r.end()
}

// group is the chunks of a block, and what their rows add to each class.
type group struct {
	at     int
	from   *reading
	chunks []*Chunk
	err    error
}

// readChunks reads blocks one after the other and takes them apart on all
// processors.
func (b *Builder[T]) readChunks(from *blocks) error {
	t := &b.t
	work, done := make(chan *group), make(chan *group, 8)
	var workers sync.WaitGroup
	for range min(4, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for g := range work {
				for k := range g.chunks {
					if g.chunks[k], g.err = b.readChunk(g.at+k, g.from); g.err != nil {
						break
					}
				}
				if g.err == nil {
					g.err = g.from.end()
				}
				g.from = nil
				done <- g
			}
		})
	}
	var failed error
	take := func(g *group) {
		if failed == nil {
			failed = g.err
		}
		for k, c := range g.chunks {
			at := t.chunks.mine(b.gen, g.at+k) // the list grows even where nothing is
			if *at = c; c != nil && failed == nil {
				t.live += c.live.Len()
				b.countAll(c)
			}
		}
	}
	out := 0
	for i := 0; i < t.Chunks() && failed == nil; i += perBlock {
		r, err := from.next()
		if err != nil {
			failed = err
			break
		}
		g := &group{at: i, from: r, chunks: make([]*Chunk, min(perBlock, t.Chunks()-i))}
		for sent := false; !sent; {
			select {
			case work <- g:
				sent = true
				out++
			case d := <-done:
				out--
				take(d)
			}
		}
	}
	close(work)
	for ; out > 0; out-- {
		take(<-done)
	}
	workers.Wait()
	return failed
}

// countAll adds a chunk's rows to their classes.
func (b *Builder[T]) countAll(c *Chunk) {
	for m := c.live; m != 0; m &= m - 1 {
		b.t.Class(c.classes[bits.TrailingZeros64(uint64(m))]).Count++
	}
	var buf [ChunkRows]uint64
	for k, col := range b.t.schema.sums {
		present := c.Numbers(col, &buf)
		for m := c.live; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(uint64(m))
			if sum := &b.t.Class(c.classes[i]).sums[k]; present>>i&1 != 0 {
				sum.of += buf[i]
			} else {
				sum.unknown++
			}
		}
	}
}

var errChunk = fmt.Errorf("a chunk is not what it should be: %w", ErrDamaged)

// regionOf is the column of a region that is a trait; -1: it is none.
func (s *Schema) regionOf() int {
	if col := s.names[1]; col >= 0 && s.fields[col].kind == Trait {
		return col
	}
	return -1
}

// readChunk takes chunk k out of its block. It only reads the builder.
func (b *Builder[T]) readChunk(k int, r *reading) (*Chunk, error) {
	t, s := &b.t, b.t.schema
	live := Mask(r.word())
	if r.bad {
		return nil, errChunk
	}
	if live == 0 {
		return nil, nil
	}
	if last := t.high - k*ChunkRows; last < ChunkRows && live>>last != 0 {
		return nil, errChunk
	}
	c := newChunk(s, b.gen)
	c.live = live
	text, at := r.text(), uint64(0)
	cut := func(like string) string {
		n := r.uvarint()
		if n == 0 {
			return like
		}
		if n--; n > uint64(len(text))-at {
			r.bad = true
			return ""
		}
		at += n
		return text[at-n : at]
	}
	region := s.regionOf()
	ids := make([]Ident, live.Len())
	for m, n := live, 0; m != 0; m, n = m&(m-1), n+1 {
		i := bits.TrailingZeros64(uint64(m))
		id := &ids[n]
		id.Slot = Slot(k*ChunkRows + i)
		id.Slate = cut("")
		id.Root = cut(id.Slate)
		if region < 0 {
			id.Region = cut("")
		}
		if s.names[1] < 0 && id.Region != "" || s.names[2] < 0 && id.Root != "" {
			return nil, errChunk // nobody could ask for it
		}
		c.idents[i] = id
	}
	for k := range c.rest.texts {
		if !r.truth() {
			continue
		}
		c.rest.texts[k] = new([ChunkRows]string)
		for m := live; m != 0; m &= m - 1 {
			i, like := bits.TrailingZeros64(uint64(m)), ""
			if k > 0 && c.rest.texts[k-1] != nil {
				like = c.rest.texts[k-1][i]
			}
			c.rest.texts[k][i] = cut(like)
		}
	}
	if r.bad || at != uint64(len(text)) {
		return nil, errChunk
	}
	for m := live; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(uint64(m))
		class := r.uvarint()
		if class >= uint64(t.kinds) {
			return nil, errChunk
		}
		if c.classes[i] = uint32(class); region >= 0 {
			c.idents[i].Region = t.Class(uint32(class)).Stored(region).Text // one text for all
		}
	}
	if !c.readNumbers(r) {
		return nil, errChunk
	}
	for k := range c.rest.syms {
		if !r.truth() {
			continue
		}
		c.rest.syms[k] = new([ChunkRows]uint32)
		for m := live; m != 0; m &= m - 1 {
			id := r.uvarint()
			if id >= uint64(len(t.dicts[k].texts)) {
				return nil, errChunk
			}
			c.rest.syms[k][bits.TrailingZeros64(uint64(m))] = uint32(id)
		}
	}
	for col := range s.fields {
		if f := &s.fields[col]; f.kind == Object && !c.readObjects(f, r) {
			return nil, errChunk
		}
	}
	if r.bad {
		return nil, errChunk
	}
	return c, nil
}

// readNumbers takes a slab as it is, but looks whether it is one.
func (c *Chunk) readNumbers(r *reading) bool {
	n := r.bytes(4)
	if n == nil {
		return false
	}
	raw := slab(r.bytes(uint64(le.Uint32(n))))
	head := 2 * c.schema.nums
	if len(raw) < head+slabTail || len(raw) >= 1<<16 {
		return false
	}
	at := head
	for k := range c.schema.nums {
		off := int(le.Uint16(raw[2*k:]))
		if off == 0 {
			continue
		}
		if off != at || off+columnHead > len(raw)-slabTail {
			return false
		}
		n := raw.column(k)
		if n.width > 8 || n.present&^c.live != 0 || n.present == 0 {
			return false
		}
		at += columnHead + ChunkRows*n.width
	}
	if at != len(raw)-slabTail {
		return false
	}
	c.nums = append(make(slab, 0, len(raw)), raw...)
	return true
}

func (c *Chunk) readObjects(f *field, r *reading) bool {
	o := &c.rest.objs[f.at]
	if o.empty = Mask(r.word()); o.empty&^c.live != 0 || o.empty != 0 && f.none == nil {
		return false
	}
	present := Mask(r.word())
	all := r.text()
	if r.bad || present&^c.live != 0 || present&o.empty != 0 {
		return false
	}
	if present == 0 {
		return all == ""
	}
	o.v = new([ChunkRows]any)
	in := pack.NewReader(all, nil)
	for m := present; m != 0; m &= m - 1 {
		p := reflect.New(f.typ)
		x := p.Interface()
		if !in.Next(f.packed, x) {
			return false
		}
		if !f.ptr {
			x = p.Elem().Interface()
		}
		o.v[bits.TrailingZeros64(uint64(m))] = x
	}
	return in.Whole()
}

// readOrders fills the indexes: everything comes in order. Each is built beside
// the reading of the next.
func (b *Builder[T]) readOrders(from *blocks) error {
	t := &b.t
	errs := make(chan error, 3+2*len(t.orders))
	var building sync.WaitGroup
	defer building.Wait()
	building.Go(func() {
		if !t.keyed.fill(b.gen, t) {
			errs <- fmt.Errorf("too many rows of one name: %w", ErrDamaged)
		}
	})
	begin := func(build func(slots []byte) bool) error {
		var all []byte
		for {
			r, err := from.next()
			if err != nil {
				return err
			}
			if len(r.b) == 0 {
				break
			}
			if all = append(all, r.b...); len(all) > 4*t.live {
				break
			}
		}
		building.Go(func() {
			if len(all)%4 != 0 || len(all) > 4*t.live || !build(all) {
				errs <- fmt.Errorf("an index is not what it should be: %w", ErrDamaged)
			}
		})
		return nil
	}
	for _, tree := range []*btree.BTreeG[*Ident]{t.names, t.keys} {
		if err := begin(func(slots []byte) bool {
			return fillTree(t, tree, slots, func(c *Chunk, i int) (*Ident, bool) { return c.idents[i], true }) && tree.Len() == t.live
		}); err != nil {
			return err
		}
	}
	for k, col := range t.schema.orders {
		o := &t.orders[k]
		err := begin(func(slots []byte) bool {
			return fillTree(t, o.rows, slots, func(c *Chunk, i int) (item, bool) {
				num, has := c.Number(col, i)
				return item{num, c.idents[i]}, has
			})
		})
		if err != nil {
			return err
		}
		if err := begin(func(slots []byte) bool {
			return fillTree(t, o.nulls, slots, func(c *Chunk, i int) (*Ident, bool) {
				_, has := c.Number(col, i)
				return c.idents[i], !has
			})
		}); err != nil {
			return err
		}
	}
	building.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	for k := range t.orders {
		if t.orders[k].rows.Len()+t.orders[k].nulls.Len() != t.live {
			return fmt.Errorf("an index has not all rows: %w", ErrDamaged)
		}
	}
	return nil
}

// fillTree puts the rows at slots into an empty tree; false: they are not there
// or not in order.
func fillTree[I any](t *Table, tree *btree.BTreeG[I], slots []byte, of func(*Chunk, int) (I, bool)) bool {
	var last I
	for n := 0; n < len(slots); n += 4 {
		c, i := t.At(Slot(le.Uint32(slots[n:])))
		if c == nil {
			return false
		}
		x, ok := of(c, i)
		if !ok || n > 0 && !tree.Less(last, x) {
			return false
		}
		tree.Load(x)
		last = x
	}
	return true
}
