package state

import (
	"maps"
	"reflect"
	"slices"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// While policies are in force the state keeps, of each slate that one of them
// may be about, what rules read of it, packed ([plan.Fleet]), so that all of them
// are ruled upon in the time that one explanation takes many times over. Nothing
// of it is a second source: it is made of [Subjects], anew whenever the evidence
// of a slate changes. What people decided, how regions stand, and how far a
// history goes on is not in it and is asked for when it is ruled upon.

// docket is what is kept of slates. Its pages are shared with those that were
// published.
type docket struct {
	facts   *plan.Fleet
	regions []string // of the set, by name: the columns of facts
	pages   []*docketPage
	places  int
	free    []uint32
	classes int // ids of classes are below it
	whole   bool
	// rules are those whose policies say who is kept.
	rules *regions.Rules
}

// docketRow says whose facts are at a place.
type docketRow struct {
	name, lineage, domain string
	class                 *docketClass // nil: nobody's
	next                  uint32       // of the same name, place+1; 0: none
	stirs                 uint32       // how often its evidence has changed
}

const docketPerPage = 32

type docketPage struct {
	gen  uint64
	rows [docketPerPage]docketRow
}

// docketClass is what a rule selects slates by, but for their names: the same for
// very many of them. It never changes but for who uses it.
type docketClass struct {
	id       int
	key      string
	kind     catalog.Kind
	placed   []string
	declared []map[string]string
	uses     int
}

// clerk is the one who keeps. It belongs to the state's goroutine.
type clerk struct {
	docket
	gen     uint64
	first   map[string]uint32 // by name: the place of its first subject, plus 1
	byKey   map[string]*docketClass
	freeIDs []int
	hears   witness
	key     []byte
	at      string // the walk over all slates has come to this name
	begun   bool
	changed bool    // since it was shared
	broken  bool    // what is kept is not to be believed; until there are no policies
	stamps  []stamp // by place of a first subject; see [looked]
}

// walkAtOnce is how many slates one step looks at when policies change whom they
// are about: a millisecond or two.
const walkAtOnce = 256

// clerks has the facts follow the rules and the evidence, and reports whether there
// is more to do.
func (s *State) clerks() bool {
	if len(s.rules.Policies) == 0 {
		if s.clerk != nil {
			s.clerk = nil
			s.b.Rest()
			s.b.SetKept(nil)
		}
		return false
	}
	k := s.clerk
	if k == nil {
		k = &clerk{first: map[string]uint32{}, byKey: map[string]*docketClass{}, gen: 1, changed: true}
		k.facts = plan.NewFleet()
		s.clerk = k
		s.b.Stir()
	}
	if k.broken {
		s.b.Rest()
		s.b.SetKept(nil)
		return false
	}
	if k.rules != s.rules {
		if k.rules == nil || !sameSelections(k.rules, s.rules) {
			k.whole, k.begun, k.at = false, false, ""
		}
		k.rules, k.changed = s.rules, true
	}
	return !k.whole
}

// sameSelections reports whether the policies of two rules are about the same
// slates.
func sameSelections(a, b *regions.Rules) bool {
	return slices.EqualFunc(a.Policies, b.Policies, func(p, q regions.Policy) bool { return reflect.DeepEqual(p.Select, q.Select) })
}

// walkOn looks at some more slates that have to be kept or not.
func (s *State) walkOn(atOnce int) {
	k := s.clerk
	if k == nil || k.whole || k.broken {
		return
	}
	k.set(&s.b.View)
	var names []string
	from := table.First
	if k.begun {
		from = table.Mark{Slate: k.at}
	}
	more := false
	last := ""
	s.b.PlacementTable().Names().Ascend(from, func(_ uint64, id *table.Ident) bool {
		switch {
		case id.Slate == last && len(names) > 0 || k.begun && id.Slate == k.at:
			return true
		case len(names) == atOnce:
			more = true
			return false
		}
		last = id.Slate
		names = append(names, last)
		return true
	})
	for _, n := range names {
		k.hear(&s.b.View, n)
		k.at, k.begun = n, true
	}
	k.whole, k.changed = !more && !k.broken, true
}

// shareDocket brings what is kept up to date and puts it into the view that is
// published next.
func (s *State) shareDocket() {
	s.clerks()
	k := s.clerk
	if k == nil || k.broken {
		return
	}
	s.hearStirred()
	if s.clerks(); k.broken || !k.changed {
		return
	}
	out := k.docket
	out.facts, out.pages = k.facts.Share(), slices.Clone(k.pages)
	k.gen++
	k.changed = false
	s.b.SetKept(&out)
}

// hearStirred brings what is kept up to date.
func (s *State) hearStirred() {
	k := s.clerk
	k.set(&s.b.View)
	s.b.Stirred(func(name string) { k.hear(&s.b.View, name) })
}

// set makes the columns those of the region set, and looks at the regions as they
// stand.
func (k *clerk) set(v *view.View) {
	k.hears.regions = standings(v)
	same := slices.EqualFunc(k.hears.regions, k.regions, func(r plan.Region, name string) bool { return r.Name == name })
	if same {
		return
	}
	var names []string
	for i := range k.hears.regions {
		names = append(names, k.hears.regions[i].Name)
	}
	var again []string
	for _, n := range names {
		if !slices.Contains(k.regions, n) && len(k.first) > 0 {
			v.PlacementTable().In(n, func(id *table.Ident) bool {
				again = append(again, id.Slate)
				return true
			})
		}
	}
	k.facts, k.regions, k.changed = k.facts.Over(names...), names, true
	for _, n := range again {
		if k.first[n] != 0 {
			k.hear(v, n)
		}
	}
}

// hear keeps what is known of a slate now, or nothing when no policy may be about
// it.
func (k *clerk) hear(v *view.View, name string) {
	if k.broken {
		return
	}
	var subjects []Subject
	at := k.first[name]
	if at != 0 || selectedIn(v, k.rules, name) {
		subjects = k.hears.hear(v, name)
		if !slices.ContainsFunc(k.hears.placed, func(p catalog.Placement) bool { return selected(k.rules, regions.Subject{Name: name, Kind: p.Kind}) }) {
			subjects = nil
		}
	}
	if at == 0 && len(subjects) == 0 {
		return
	}
	k.changed = true
	link := uint32(0) // the place before, plus 1
	for i := range subjects {
		s := &subjects[i]
		s.Head = nil // see [view.View.Head]
		place := int(at) - 1
		if at == 0 {
			place = k.room()
			k.linkTo(name, link, uint32(place+1))
		}
		if err := k.facts.Put(place, &s.Slate); err != nil {
			// Its regions are those of the set, and the places are counted here: should
			// that be wrong all the same, nothing is kept, and all are ruled upon one by
			// one.
			k.broken, k.whole = true, false
			return
		}
		row := k.mine(place)
		class := k.class(s)
		k.leave(row.class)
		row.class = class
		if row.name != name || row.lineage != s.Lineage || row.domain != s.Domain { // else the same texts stay
			row.name, row.lineage, row.domain = name, s.Lineage, s.Domain
		}
		row.stirs++
		link, at = uint32(place+1), row.next
	}
	if at != 0 {
		k.linkTo(name, link, 0)
	}
	for at != 0 {
		place := int(at) - 1
		row := k.mine(place)
		at = row.next
		k.leave(row.class)
		*row = docketRow{stirs: row.stirs}
		k.facts.Drop(place)
		k.free = append(k.free, uint32(place))
	}
}

// linkTo has the place that comes after another in the chain of a name be this
// one; after 0 it is the first, and 0 is none.
func (k *clerk) linkTo(name string, after, place uint32) {
	switch {
	case after != 0:
		k.mine(int(after) - 1).next = place
	case place == 0:
		delete(k.first, name)
	default:
		k.first[name] = place
	}
}

// room is a place that is nobody's.
func (k *clerk) room() int {
	if n := len(k.free); n > 0 {
		place := k.free[n-1]
		k.free = k.free[:n-1]
		return int(place)
	}
	k.places++
	k.stamps = append(k.stamps, stamp{})
	if (k.places-1)/docketPerPage == len(k.pages) {
		k.pages = append(k.pages, &docketPage{gen: k.gen})
	}
	return k.places - 1
}

func (k *docket) row(place int) *docketRow {
	return &k.pages[place/docketPerPage].rows[place%docketPerPage]
}

// mine is the row of a place, to be changed.
func (k *clerk) mine(place int) *docketRow {
	p := &k.pages[place/docketPerPage]
	if (*p).gen != k.gen {
		c := **p
		c.gen = k.gen
		*p = &c
	}
	return &(*p).rows[place%docketPerPage]
}

// class is that of a subject, with one use more.
func (k *clerk) class(s *Subject) *docketClass {
	b := append(k.key[:0], s.Kind...)
	for _, r := range s.Placed {
		b = append(append(b, 0), r...)
	}
	for _, labels := range s.Declared {
		b = append(b, 1)
		for _, name := range slices.Sorted(maps.Keys(labels)) {
			b = append(append(append(append(b, name...), 2), labels[name]...), 3)
		}
	}
	k.key = b
	c := k.byKey[string(b)]
	if c == nil {
		c = &docketClass{id: k.classes, key: string(b), kind: s.Kind, placed: slices.Clone(s.Placed), declared: slices.Clone(s.Declared)}
		if n := len(k.freeIDs); n > 0 {
			c.id = k.freeIDs[n-1]
			k.freeIDs = k.freeIDs[:n-1]
		} else {
			k.classes++
		}
		k.byKey[c.key] = c
	}
	c.uses++
	return c
}

// leave takes a use of a class away.
func (k *clerk) leave(c *docketClass) {
	if c == nil {
		return
	}
	if c.uses--; c.uses == 0 {
		delete(k.byKey, c.key)
		k.freeIDs = append(k.freeIDs, c.id)
	}
}

// selectedIn reports whether a policy may be about a slate of that name.
func selectedIn(v *view.View, rules *regions.Rules, name string) (is bool) {
	v.PlacementTable().Names().Ascend(table.Mark{Slate: name}, func(_ uint64, id *table.Ident) bool {
		if id.Slate != name {
			return false
		}
		is = selected(rules, regions.Subject{Name: name, Kind: v.KindAt(id.Slot)})
		return !is
	})
	return is
}
