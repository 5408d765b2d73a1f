package table

// Chunk is 64 rows of a [Table]. It never changes.
//
// A chunk that is changed is copied, and of its parts those that are changed:
// owned says which are this publication's own already.
type Chunk struct {
	schema  *Schema
	gen     uint64
	owned   uint64
	live    Mask
	classes *[ChunkRows]uint32
	idents  *[ChunkRows]*Ident
	nums    slab
	moved   patch // over nums
	rest    *rest
}

// Parts of a chunk; those of rest follow from ownRest+1 on, a bit for a column.
const (
	ownClasses = 1 << iota
	ownIdents
	ownNums
	ownMoved
	ownRest
	ownColumns = 5
	maxColumns = 64 - ownColumns
)

// rest is the columns that are not numbers. Those without a value in the whole
// chunk are nil.
type rest struct {
	syms  []*[ChunkRows]uint32
	texts []*[ChunkRows]string
	objs  []objects
}

// objects is a column of objects. Empty lists and maps, which many rows have,
// are a bit.
type objects struct {
	empty Mask
	v     *[ChunkRows]any
}

func newChunk(s *Schema, gen uint64) *Chunk {
	return &Chunk{schema: s, gen: gen, owned: ^uint64(0), classes: new([ChunkRows]uint32), idents: new([ChunkRows]*Ident), nums: newSlab(s.nums),
		rest: &rest{make([]*[ChunkRows]uint32, s.syms), make([]*[ChunkRows]string, s.texts), make([]objects, s.objs)}}
}

// own reports whether a part is this publication's own, and that from now on
// it is.
func (c *Chunk) own(part uint64) bool {
	is := c.owned&part != 0
	c.owned |= part
	return is
}

// mine gives a column that may be changed.
func mine[V any](c *Chunk, part uint64, at **[ChunkRows]V) *[ChunkRows]V {
	if *at == nil {
		c.owned |= part
		*at = new([ChunkRows]V)
	} else if !c.own(part) {
		v := **at
		*at = &v
	}
	return *at
}

func (c *Chunk) myClasses() *[ChunkRows]uint32 { return mine(c, ownClasses, &c.classes) }

func (c *Chunk) myIdents() *[ChunkRows]*Ident { return mine(c, ownIdents, &c.idents) }

// myRest gives the columns that are not numbers, to be changed one by one.
func (c *Chunk) myRest() *rest {
	if !c.own(ownRest) {
		r := c.rest
		c.rest = &rest{append(make([]*[ChunkRows]uint32, 0, len(r.syms)), r.syms...),
			append(make([]*[ChunkRows]string, 0, len(r.texts)), r.texts...), append(make([]objects, 0, len(r.objs)), r.objs...)}
	}
	return c.rest
}

func (c *Chunk) setSymbol(at, i int, id uint32) {
	if s := c.rest.syms[at]; id == 0 && s == nil || s != nil && s[i] == id {
		return
	}
	mine(c, 1<<(ownColumns+at), &c.myRest().syms[at])[i] = id
}

func (c *Chunk) setText(at, i int, text string) {
	if s := c.rest.texts[at]; text == "" && s == nil || s != nil && s[i] == text {
		return
	}
	mine(c, 1<<(ownColumns+c.schema.syms+at), &c.myRest().texts[at])[i] = text
}

// setObject sets an object; nil: none. empty: it is an empty list or map.
func (c *Chunk) setObject(at, i int, o any, empty bool) {
	was := &c.rest.objs[at]
	if bit := Mask(1) << i; (was.empty&bit != 0) != empty {
		c.myRest().objs[at].empty ^= bit
		was = &c.rest.objs[at]
	}
	if empty {
		o = nil
	}
	if o == nil && (was.v == nil || was.v[i] == nil) {
		return
	}
	mine(c, 1<<(ownColumns+c.schema.syms+c.schema.texts+at), &c.myRest().objs[at].v)[i] = o
}

// mySlab makes the slab one that may be changed, with what moved in it.
func (c *Chunk) mySlab() {
	if !c.own(ownNums) {
		c.nums = append(make(slab, 0, len(c.nums)), c.nums...)
	}
	if c.moved != nil {
		for at := range c.moved.len() {
			k, i := c.moved.key(at)
			c.nums = c.nums.set(c.schema.nums, k, i, *c.moved.value(at))
		}
		c.moved = nil
	}
}

// setNumber sets number k of row i.
func (c *Chunk) setNumber(k, i int, v uint64) {
	if c.owned&ownNums == 0 {
		if at := c.moved.find(k, i); at >= 0 {
			if !c.own(ownMoved) {
				c.moved = c.moved.clone()
			}
			*c.moved.value(at) = v
			return
		}
		if p := c.moved.with(c.own(ownMoved), k, i, v); p != nil {
			c.moved = p
			return
		}
	}
	c.mySlab()
	c.nums = c.nums.set(c.schema.nums, k, i, v)
}

func (c *Chunk) unsetNumber(k, i int) {
	if _, ok := c.number(k, i); ok {
		c.mySlab()
		c.nums.unset(k, i)
	}
}

func (c *Chunk) number(k, i int) (v uint64, ok bool) {
	if at := c.moved.find(k, i); at >= 0 {
		return *c.moved.value(at), true
	}
	n := c.nums.column(k)
	if n.present>>i&1 == 0 {
		return 0, false
	}
	return c.nums.get(&n, i), true
}

// empty takes everything of row i out but its class.
func (c *Chunk) empty(i int) {
	c.live &^= 1 << i
	c.myIdents()[i] = nil
	c.mySlab()
	for k := range c.schema.nums {
		c.nums.unset(k, i)
	}
	for at := range c.rest.syms {
		c.setSymbol(at, i, 0)
	}
	for at := range c.rest.texts {
		c.setText(at, i, "")
	}
	for at := range c.rest.objs {
		c.setObject(at, i, nil, false)
	}
}

// Live are the rows that are there.
func (c *Chunk) Live() Mask { return c.live }

// Class is the class of a row that is there.
func (c *Chunk) Class(i int) uint32 { return c.classes[i] }

// Classes are those of all rows; of rows that are not there they mean nothing.
func (c *Chunk) Classes() *[ChunkRows]uint32 { return c.classes }

// Idents are those of all rows; nil where no row is.
func (c *Chunk) Idents() *[ChunkRows]*Ident { return c.idents }

// Numbers gives a Number or Time column's values into a buffer, and which rows
// have one. Of the others the buffer means nothing.
func (c *Chunk) Numbers(col int, into *[ChunkRows]uint64) (present Mask) {
	k := c.schema.fields[col].at
	n := c.nums.column(k)
	if n.present != 0 {
		c.nums.all(&n, into)
	}
	return n.present | c.moved.over(k, into)
}

// Number is one row's number or time; ok is false when it has none.
func (c *Chunk) Number(col, i int) (v uint64, ok bool) { return c.number(c.schema.fields[col].at, i) }

// Range is what all values of a Number or Time column lie between, both
// included, read without looking at them; ok is false when there is none. There
// may be no value near the ends.
func (c *Chunk) Range(col int) (lo, hi uint64, ok bool) {
	k := c.schema.fields[col].at
	n := c.nums.column(k)
	if ok = n.present != 0; ok {
		lo = n.base
		if hi = n.base + widthMask[n.width]; hi < lo {
			hi = ^uint64(0)
		}
	}
	if p := c.moved; p != nil && p[1]&hint(k) != 0 {
		for at := range p.len() {
			if x, _ := p.key(at); x == k {
				if v := *p.value(at); !ok {
					lo, hi, ok = v, v, true
				} else {
					lo, hi = min(lo, v), max(hi, v)
				}
			}
		}
	}
	return lo, hi, ok
}

// Symbols are a Symbol column's ids; nil: all are 0.
func (c *Chunk) Symbols(col int) *[ChunkRows]uint32 { return c.rest.syms[c.schema.fields[col].at] }

// Texts are a Text column's values; nil: all are empty.
func (c *Chunk) Texts(col int) *[ChunkRows]string { return c.rest.texts[c.schema.fields[col].at] }

// Object is a row's value of an Object column, of the field's type; nil: none.
func (c *Chunk) Object(col, i int) any {
	f := &c.schema.fields[col]
	return c.object(f, i)
}

func (c *Chunk) object(f *field, i int) any {
	switch o := &c.rest.objs[f.at]; {
	case o.empty>>i&1 != 0:
		return f.none
	case o.v != nil:
		return o.v[i]
	}
	return nil
}

// Objects reports whether any row of the chunk may have an object there.
func (c *Chunk) Objects(col int) bool {
	o := &c.rest.objs[c.schema.fields[col].at]
	return o.empty != 0 || o.v != nil
}
