package plan

import (
	"cmp"
	"fmt"
	"io/fs"
	"math/bits"
	"slices"
	"time"

	"github.com/quarry-db/quarry/regions"
)

// Fleet keeps what rules read of many slates, packed, so that all of them can be
// ruled upon at once: some 250 bytes for a slate with two restore points in each
// of four regions. Slates have the places 0, 1, 2 and so on, which the caller
// remembers. One goroutine changes it, and nobody reads meanwhile but from what
// [Fleet.Share] gave.
type Fleet struct {
	columns map[string]int // of the regions
	names   []string
	pages   []*page
	slates  int
	gen     uint64 // of pages that are not shared
	room    facts  // of the slate that is put
}

// page has the facts of some slates that stand side by side. It is copied before
// it is changed when somebody else may have it: a few tens of kilobytes at most.
type page struct {
	gen      uint64
	rows     [perPage]row
	archives []archive // perPage * columns
	marks    slab[mark]
	pins     slab[fact]
}

const perPage = 32

// row says where the facts of a slate are in its page.
type row struct {
	head                  uint64
	marks, pins           span
	there, hasHead, froze bool
	lost                  bool
}

// NewFleet makes an empty one over these regions: all of the region set.
func NewFleet(regions ...string) *Fleet {
	f := &Fleet{columns: map[string]int{}, names: slices.Clone(regions)}
	for i, name := range regions {
		f.columns[name] = i
	}
	return f
}

// Len is how many places there are.
func (f *Fleet) Len() int { return f.slates }

// Share gives the fleet as it is now: it never changes, and anybody may read it
// and keep it. It costs 8 bytes for 32 slates, and pages are copied when they
// change for the first time after it.
func (f *Fleet) Share() *Fleet {
	f.gen++
	return &Fleet{columns: f.columns, names: f.names, pages: slices.Clone(f.pages), slates: f.slates, gen: f.gen}
}

// Over gives a fleet with what is known of the same slates at the same places,
// over another region set: of regions that are new to it nothing is known.
func (f *Fleet) Over(regions ...string) *Fleet {
	n := NewFleet(regions...)
	n.slates = f.slates
	to := make([]int, len(f.names))
	for c, name := range f.names {
		to[c] = n.column(name, c)
	}
	for _, old := range f.pages {
		p := &page{rows: old.rows, archives: make([]archive, perPage*len(regions)), marks: old.marks.clone(), pins: old.pins.clone()}
		for i := range perPage {
			for c, at := range to {
				if at >= 0 {
					p.archives[i*len(regions)+at] = old.archives[i*len(f.names)+c]
				}
			}
		}
		for i := range p.pins.all {
			if pin := &p.pins.all[i]; pin.column >= 0 {
				pin.column = to[pin.column]
			}
		}
		n.pages = append(n.pages, p)
	}
	return n
}

// mine is the page of a place, to be changed.
func (f *Fleet) mine(place int) *page {
	p := &f.pages[place/perPage]
	if (*p).gen != f.gen {
		c := **p
		c.gen, c.archives, c.marks, c.pins = f.gen, slices.Clone(c.archives), c.marks.clone(), c.pins.clone()
		*p = &c
	}
	return *p
}

// Put sets what is known of the slate at a place, from 0 to Len: at Len it is a
// new one. A region of s that the fleet has not is an error that wraps
// fs.ErrNotExist, and nothing is changed; one of the fleet that s has not is one
// where nothing is archived.
func (f *Fleet) Put(place int, s *Slate) error {
	if place < 0 || place > f.slates {
		return fmt.Errorf("slate %s at %d: there are %d: %w", s.Name, place, f.slates, fs.ErrNotExist)
	}
	for i := range s.Regions {
		if f.column(s.Regions[i].Name, i) < 0 {
			return fmt.Errorf("region %s of slate %s is not of this region set: %w", s.Regions[i].Name, s.Name, fs.ErrNotExist)
		}
	}
	f.room.read(s, len(f.names), func(i int) int { return f.column(s.Regions[i].Name, i) }, func(name string) int { return f.column(name, -1) })
	if place == f.slates {
		if f.slates++; (f.slates-1)/perPage == len(f.pages) {
			f.pages = append(f.pages, &page{gen: f.gen, archives: make([]archive, perPage*len(f.names))})
		}
	}
	p := f.mine(place)
	r := &p.rows[place%perPage]
	r.there, r.head, r.hasHead, r.froze, r.lost = true, f.room.head, f.room.hasHead, f.room.frozen, f.room.lost
	copy(p.archives[place%perPage*len(f.names):], f.room.archives)
	if !p.marks.put(&r.marks, f.room.marks) {
		p.marks.renew(perPage, func(i int) *span { return &p.rows[i].marks })
	}
	if !p.pins.put(&r.pins, f.room.pins) {
		p.pins.renew(perPage, func(i int) *span { return &p.rows[i].pins })
	}
	return nil
}

// Drop forgets the slate at a place; the place stays, and no rule permits
// anything there.
func (f *Fleet) Drop(place int) {
	if place >= 0 && place < f.slates {
		f.mine(place).rows[place%perPage].there = false
	}
}

// column is that of a region, which is looked for at a place first; -1: none.
func (f *Fleet) column(name string, at int) int {
	if at >= 0 && at < len(f.names) && f.names[at] == name {
		return at
	}
	if c, ok := f.columns[name]; ok {
		return c
	}
	return -1
}

// Rule reads the policies that select a slate, at a moment of the hub's clock:
// one rule for each of the few selections that there are. set must be all of the
// region set, in any order.
func (f *Fleet) Rule(policies []regions.Policy, set []Standing, now time.Time) *Rule {
	set = slices.Clone(set)
	slices.SortStableFunc(set, func(a, b Standing) int { return cmp.Compare(a.Name, b.Name) })
	speak, keep := together(policies)
	var all []*Rule
	for _, p := range speak {
		p.RestorePoints.PerRegion = keep
		all = append(all, newRule(&p, set, func(i int) int { return f.column(set[i].Name, -1) }, now))
	}
	if len(all) == 0 {
		return &Rule{}
	}
	for i := range policies {
		if closed, _ := onlyClosed(&policies[i], now); closed {
			all = append(all, &Rule{closed: "a window"})
		}
	}
	all[0].others = all[1:]
	return all[0]
}

// Beside is what rules read of a slate that is not put into its place: what
// people decided about it, and what changes all the time.
type Beside struct {
	Head   *uint64 // as in [Slate]; nil: as it was put
	Frozen bool
	Lost   bool  // a region lost its last restore point
	Pins   []Pin // beside those that were put; none of a consumer
}

// Decide rules upon the slate at a place, by a rule of this fleet: as [Under]
// does, without its words. It allocates nothing for up to 16 active regions.
// A nil rule is that of a slate that no policy selects. Binding is a place in
// the names given to [NewFleet]. Where there is no slate the ruling is the zero
// one.
func (f *Fleet) Decide(r *Rule, place int) Ruling {
	var known facts
	if there := f.know(place, &known); !there || r == nil {
		return unruled(there)
	}
	return r.strictest(&known)
}

// unruled is the ruling when there is no rule, or no slate.
func unruled(there bool) Ruling {
	if !there {
		return Ruling{}
	}
	return Ruling{Binding: -1, Why: noPolicy}
}

// DecideBeside is [Fleet.Decide] with more that is known of the slate.
func (f *Fleet) DecideBeside(r *Rule, place int, beside *Beside) Ruling {
	var known facts
	if there := f.know(place, &known); !there || r == nil {
		return unruled(there)
	}
	var room [8]fact
	beside.add(&known, room[:0])
	return r.strictest(&known)
}

// know sets the facts of the slate at a place, and reports whether there is one.
func (f *Fleet) know(place int, known *facts) bool {
	if place < 0 || place >= f.slates {
		return false
	}
	p, i := f.pages[place/perPage], place%perPage
	at := &p.rows[i]
	if !at.there {
		return false
	}
	known.head, known.hasHead, known.frozen, known.lost = at.head, at.hasHead, at.froze, at.lost
	known.archives = p.archives[i*len(f.names) : (i+1)*len(f.names)]
	known.marks, known.pins = p.marks.of(at.marks), p.pins.of(at.pins)
	return true
}

// add adds it to what is known. room is for pins.
func (b *Beside) add(known *facts, room []fact) {
	known.frozen, known.lost = known.frozen || b.Frozen, known.lost || b.Lost
	if b.Head != nil {
		known.head, known.hasHead = *b.Head, true
	}
	if len(b.Pins) == 0 {
		return
	}
	known.pins = append(room, known.pins...)
	for i := range b.Pins {
		p := &b.Pins[i]
		pin := fact{kind: p.Kind.fact(), known: p.Position != nil, column: -1}
		if pin.known {
			pin.position = *p.Position
		}
		known.pins = append(known.pins, pin)
	}
}

// NeedsHead reports whether it matters to a rule how far a slate's history goes
// on. A nil rule needs nothing.
func (r *Rule) NeedsHead() bool {
	return r != nil && (r.keep > 0 || r.behind != nil || slices.ContainsFunc(r.others, (*Rule).NeedsHead))
}

// Mark is a number that is the same while a rule finds the same of the slate at a
// place: the ruling, what each region that is asked has archived, and whether it
// lags. Others are most probably different. No slate at the place: 0.
func (f *Fleet) Mark(r *Rule, place int, beside *Beside) uint64 {
	var known facts
	if !f.know(place, &known) {
		return 0
	}
	var room [8]fact
	beside.add(&known, room[:0])
	if r == nil {
		r = &Rule{}
	}
	v := r.strictest(&known)
	h := mix(mix(uint64(v.Why), v.UpTo), uint64(uint32(v.Binding)))
	for one := -1; one < len(r.others); one++ {
		o := r
		if one >= 0 {
			o = r.others[one]
		}
		for i := range o.asked {
			a := &o.asked[i]
			_, marks := known.of(a.column)
			got, says := o.reach(marks), o.hear(a, &known)
			h = mix(mix(mix(h, uint64(says.stance)), got.position), uint64(got.counted))
			if o.behind != nil && says.stance == archived && o.lags(&known, says) {
				h = mix(h, 1)
			}
		}
	}
	return h | 1
}

// mix adds a number to a hash.
func mix(h, n uint64) uint64 {
	hi, lo := bits.Mul64(h^0x9e3779b97f4a7c15, n^0xbf58476d1ce4e5b9)
	return hi ^ lo ^ h<<1
}

// slab has the lists of many side by side.
type slab[T any] struct {
	all  []T
	left int // of all, that nobody's list is in any more
}

// span is a list in a slab: n of room for more.
type span struct{ from, n, room uint32 }

func (s *slab[T]) of(p span) []T { return s.all[p.from : p.from+p.n] }

// clone is a slab of the same lists.
func (s *slab[T]) clone() slab[T] { return slab[T]{slices.Clone(s.all), s.left} }

// put sets a list. It reports whether the slab is still mostly lists.
func (s *slab[T]) put(p *span, list []T) bool {
	n := uint32(len(list))
	if n > p.room {
		s.left += int(p.room)
		*p = span{uint32(len(s.all)), n, n}
		s.all = append(s.all, list...)
	} else {
		copy(s.all[p.from:], list)
		p.n = n
	}
	return s.left <= 64 || s.left < len(s.all)/2
}

// renew leaves out what nobody's list is in.
func (s *slab[T]) renew(spans int, at func(i int) *span) {
	all := make([]T, 0, len(s.all)-s.left)
	for i := range spans {
		p := at(i)
		from := uint32(len(all))
		all = append(all, s.all[p.from:p.from+p.room]...)
		p.from = from
	}
	s.all, s.left = all, 0
}
