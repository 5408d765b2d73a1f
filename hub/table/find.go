package table

import (
	"hash/maphash"
	"math/bits"
)

// keyed finds slots by what their rows are called for good: region and root,
// or the name of those that have neither. It is a hash table of pages that are
// shared with older publications; entries stay on the page of their hash, and
// when one runs full there will be twice as many.
type keyed struct {
	seed  maphash.Seed
	pages paged[*keyPage]
	bits  int // pages: 1<<bits
	n     int
}

const (
	keyPageLen  = 256
	keyPageMost = 200 // entries in one page
	keyPageMean = 160 // entries in a page on average
	slotBits    = 26
	maxSlots    = 1<<slotBits - 1
)

// keyPage has slots plus one, below 6 bits of their keys' hash; 0: free. An
// entry lies at its hash or next after it.
type keyPage struct {
	gen uint64
	n   int
	v   [keyPageLen]uint32
}

func newKeyed() keyed {
	k := keyed{seed: maphash.MakeSeed()}
	*k.pages.mine(1, 0) = &keyPage{gen: 1}
	return k
}

// keyName is the name of rows that are known by their name alone.
func keyName(a *Ident) string {
	if a.Region == "" && a.Root == "" {
		return a.Slate
	}
	return ""
}

func sameKey(a, b *Ident) bool {
	return a.Root == b.Root && a.Region == b.Region && (a.Root != "" || a.Region != "" || a.Slate == b.Slate)
}

func (k *keyed) hash(id *Ident) uint64 {
	h := maphash.String(k.seed, id.Root) ^ bits.RotateLeft64(maphash.String(k.seed, id.Region), 23)
	if name := keyName(id); name != "" {
		h ^= maphash.String(k.seed, name)
	}
	return h
}

// place takes a hash apart: its page, the entry on the page, the tag.
func (k *keyed) place(h uint64) (page, at int, tag uint32) {
	return int(h & (1<<k.bits - 1)), int(h >> 48 & (keyPageLen - 1)), uint32(h>>58) << slotBits
}

// find is the slot of a key's row, or [None].
func (k *keyed) find(t *Table, id *Ident) Slot {
	page, at, tag := k.place(k.hash(id))
	p := k.pages.at(page)
	for ; p.v[at] != 0; at = (at + 1) % keyPageLen {
		if e := p.v[at]; e&^maxSlots == tag {
			s := Slot(e&maxSlots - 1)
			if sameKey(t.Ident(s), id) {
				return s
			}
		}
	}
	return None
}

func (k *keyed) mine(gen uint64, page int) *keyPage {
	at := k.pages.mine(gen, page)
	if (*at).gen != gen {
		c := **at
		c.gen = gen
		*at = &c
	}
	return *at
}

// add puts a row that is not in it yet; each yields all others, should they
// have to move.
func (k *keyed) add(gen uint64, id *Ident, each func(func(*Ident))) {
	h := k.hash(id)
	page, _, _ := k.place(h)
	if k.n >= keyPageMean<<k.bits || k.pages.at(page).n >= keyPageMost {
		for k.bits++; !k.grow(gen, each); k.bits++ {
		}
	}
	k.put(gen, h, id.Slot)
	k.n++
}

// put enters a slot; false: the page is full. One entry stays free, where
// searches end.
func (k *keyed) put(gen uint64, h uint64, s Slot) bool {
	page, at, tag := k.place(h)
	p := k.mine(gen, page)
	if p.n == keyPageLen-1 {
		return false
	}
	for p.v[at] != 0 {
		at = (at + 1) % keyPageLen
	}
	p.v[at] = tag | uint32(s+1)
	p.n++
	return true
}

// remove takes a row out that is in it; the rows behind it, which t still has,
// close the gap.
func (k *keyed) remove(gen uint64, t *Table, id *Ident) {
	page, at, tag := k.place(k.hash(id))
	p := k.mine(gen, page)
	for p.v[at] != tag|uint32(id.Slot+1) {
		at = (at + 1) % keyPageLen
	}
	for next := (at + 1) % keyPageLen; p.v[next] != 0; next = (next + 1) % keyPageLen {
		_, home, _ := k.place(k.hash(t.Ident(Slot(p.v[next]&maxSlots - 1))))
		if (next-home+keyPageLen)%keyPageLen >= (next-at+keyPageLen)%keyPageLen {
			p.v[at] = p.v[next]
			at = next
		}
	}
	p.v[at] = 0
	p.n--
	k.n--
}

// fill makes it anew from all rows of a table; false: a page ran full, which
// takes many rows of one name, and only a damaged file has them.
func (k *keyed) fill(gen uint64, t *Table) bool {
	for k.bits = 0; t.live >= keyPageMean<<k.bits*3/4; k.bits++ {
	}
	k.n = t.live
	return k.grow(gen, func(yield func(*Ident)) {
		for i := range t.Chunks() {
			if c := t.Chunk(i); c != nil {
				for _, id := range c.idents {
					if id != nil {
						yield(id)
					}
				}
			}
		}
	})
}

// grow has room for 1<<bits pages and puts everything in again; false: that was
// not enough.
func (k *keyed) grow(gen uint64, each func(func(*Ident))) bool {
	k.pages = paged[*keyPage]{gen: gen}
	for i := range 1 << k.bits {
		*k.pages.mine(gen, i) = &keyPage{gen: gen}
	}
	all := true
	each(func(id *Ident) { all = k.put(gen, k.hash(id), id.Slot) && all })
	return all
}
