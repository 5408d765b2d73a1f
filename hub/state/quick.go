package state

import (
	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Most of what agents say is that some numbers of a database went on. Such
// news changes no rule's mind, makes no event and needs no seat: it goes
// straight into the columns. Everything else takes the long way.

const stirring = view.MovedManifest | view.MovedWALTail | view.MovedPosition

// quick takes a sighting the short way, if that will do.
func (s *State) quick(r *region, p *session, f *catalog.Fact) bool {
	slot := s.b.Slot(r.name, f.Key)
	if slot == table.None {
		return false
	}
	name, ok := s.ready(r, p, slot, f.Key)
	if !ok {
		return false
	}
	if counter, _ := s.b.Sum(slot); f.Revision.Counter <= counter {
		return false
	}
	if is, had := s.b.ManifestID(slot); had && (f.Sighting.ManifestID == nil || *f.Sighting.ManifestID < is) {
		return false // perhaps a read of the past
	}
	var values [len(catalog.MoveFields)]uint64
	var m view.Moved
	if !s.b.OnlyNumbers(slot, f.Sighting, name, &m, &values) {
		return false
	}
	s.move(r, slot, &m)
	if f.Ordinal > 0 {
		p.named(f.Ordinal, slot)
	}
	return true
}

// ready reports whether the placement at a slot may be moved the short way,
// and what its agent calls it.
func (s *State) ready(r *region, p *session, slot table.Slot, root string) (name string, ok bool) {
	if r.seats[root] != nil {
		return "", false // something else of this step is on its way
	}
	name = s.b.Name(slot)
	if other, is := r.names[root]; is {
		name = other
	}
	start, flags := s.b.Kept(slot)
	return name, start == p.start && flags == 0
}

func (s *State) move(r *region, slot table.Slot, m *view.Moved) {
	m.At = s.wall
	m.Stirred = m.Mask&stirring != 0
	changed, alone := s.b.Move(slot, m)
	if !alone {
		name := s.b.Name(slot)
		s.slates[name] = s.slates[name] || changed
	}
}

// named remembers what an agent calls a placement in this session.
func (p *session) named(ordinal uint32, slot table.Slot) {
	if ordinal > maxOrdinal {
		return
	}
	for int(ordinal) >= len(p.slots) {
		p.slots = append(p.slots, table.None)
	}
	p.slots[ordinal] = slot
}

// maxOrdinal bounds what a session may have us remember.
const maxOrdinal = 16 << 20

// ordinal is what an agent calls a placement that has no row yet.
type ordinal struct {
	p    *session
	n    uint32
	root string
}

func (s *State) nameOrdinals() {
	for _, o := range s.ordinals {
		if slot := s.b.Slot(o.p.region.name, o.root); slot != table.None {
			o.p.named(o.n, slot)
		}
	}
	clear(s.ordinals)
	s.ordinals = s.ordinals[:0]
}

// moves takes what only moved.
func (s *State) moves(e Moves) {
	r, p := s.reporter(e.Session)
	if r == nil || !p.synced || !s.proven(r, p) {
		return
	}
	s.stirred[r.name] = true
	for i := range e.Moves {
		s.moveOne(r, p, &e.Moves[i])
	}
	if e.Upto.Start == p.start && e.Upto.Compare(r.applied) > 0 {
		r.applied = e.Upto
	}
	s.send(p.id, Ack{Applied: r.applied})
}

func (s *State) moveOne(r *region, p *session, m *catalog.Move) {
	if m.Ordinal == 0 || int(m.Ordinal) >= len(p.slots) || p.slots[m.Ordinal] == table.None {
		return // the digest will find it
	}
	slot := p.slots[m.Ordinal]
	root := s.b.Root(slot)
	k := factKey{catalog.FactPlacement, root}
	counter, sum := s.heldOf(r, root)
	if m.Counter <= counter {
		return
	}
	_, ok := s.ready(r, p, slot, root)
	if is, had := s.b.ManifestID(slot); ok && m.Mask&view.MovedManifest != 0 && had && (m.Null&view.MovedManifest != 0 || m.Values[0] < is) {
		ok = false
	}
	var st *seat
	if !ok {
		// Before it is counted: what is not told apart has the record's counter.
		st = s.seatAt(r, root)
	}
	s.hold(r, k, m.Counter, sum.Moved(m.Counter, m.Packed))
	if ok {
		s.move(r, slot, &view.Moved{Mask: m.Mask, Null: m.Null, Values: &m.Values})
		return
	}
	if st == nil || st.content == nil {
		return
	}
	g := *st.content
	g.Slate, g.Seen, g.Reason = st.name, st.presence, st.presenceWhy
	for i, field := range numbersOf(&g) {
		switch bit := uint32(1) << i; {
		case m.Mask&bit == 0:
		case m.Null&bit != 0:
			*field = nil
		default:
			v := m.Values[i]
			*field = &v
		}
	}
	if !s.sighted(r, p, &catalog.Fact{Kind: catalog.FactPlacement, Key: root, Revision: catalog.Revision{Start: p.start, Counter: m.Counter}, Sighting: &g}) {
		p.slots[m.Ordinal] = table.None
	}
}

// numbersOf are the fields of a sighting that a move can carry, in its order.
func numbersOf(g *catalog.Sighting) [len(catalog.MoveFields)]**uint64 {
	return [...]**uint64{&g.ManifestID, &g.LastL0Seq, &g.ReplayAfterWAL, &g.WALTail, &g.WALGap, &g.L0Count, &g.RunCount, &g.SegmentCount,
		&g.Position, &g.TrimmedTo, &g.Archived, &g.Bytes, &g.ListedBytes, &g.ListedObjects, &g.Backlog}
}
