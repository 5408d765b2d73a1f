package plan

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/quarry-db/quarry/regions"
)

// Fleet keeps what rules read of many slates, packed, so that all of them can be
// ruled upon at once: some 200 bytes for a slate with two restore points in each
// of four regions. Slates have the places 0, 1, 2 and so on, which the caller
// remembers. One goroutine changes it, and nobody reads meanwhile.
type Fleet struct {
	columns map[string]int // of the regions
	names   []string
	pages   []*page
	slates  int
	room    facts // of the slate that is put
}

// page has the facts of some slates that stand side by side.
type page struct {
	rows     [perPage]row
	archives []archive // perPage * columns
	marks    slab[mark]
	pins     slab[fact]
}

const perPage = 256

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
			f.pages = append(f.pages, &page{archives: make([]archive, perPage*len(f.names))})
		}
	}
	p := f.pages[place/perPage]
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
		f.pages[place/perPage].rows[place%perPage].there = false
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

// Decide rules upon the slate at a place, by a rule of this fleet: as [Under]
// does, without its words. It allocates nothing for up to 16 active regions.
// A nil rule is that of a slate that no policy selects. Binding is a place in
// the names given to [NewFleet]. Where there is no slate the ruling is the zero
// one.
func (f *Fleet) Decide(r *Rule, place int) Ruling {
	if place < 0 || place >= f.slates {
		return Ruling{}
	}
	p, i := f.pages[place/perPage], place%perPage
	at := &p.rows[i]
	if !at.there {
		return Ruling{}
	}
	if r == nil {
		return Ruling{Binding: -1, Why: noPolicy}
	}
	return r.strictest(&facts{
		head: at.head, hasHead: at.hasHead, frozen: at.froze, lost: at.lost,
		archives: p.archives[i*len(f.names) : (i+1)*len(f.names)],
		marks:    p.marks.of(at.marks), pins: p.pins.of(at.pins),
	})
}

// slab has the lists of many side by side.
type slab[T any] struct {
	all  []T
	left int // of all, that nobody's list is in any more
}

// span is a list in a slab: n of room for more.
type span struct{ from, n, room uint32 }

func (s *slab[T]) of(p span) []T { return s.all[p.from : p.from+p.n] }

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
