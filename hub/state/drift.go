package state

import (
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// copied is what the hub holds of an agent's records, as they travelled: the
// agent keeps the same, and each beat says whether the two still agree. Rows
// are made from more than this (what is missing stays, registrations join), so
// it is kept beside them.
type copied struct {
	digest catalog.Digest
	// aside are records that could not be understood. They count, and they say
	// nothing about what they described (P1).
	aside map[factKey]aside
}

type heldSum struct {
	counter uint64
	sum     catalog.Sum
}

type aside struct {
	rev catalog.Revision
	sum catalog.Sum
	// fresh: the snapshot or repair that comes next has it. What was put aside
	// before says nothing of what the agent holds by then.
	fresh bool
}

// counted counts a record of a delta or a snapshot, after it was applied.
func (s *State) counted(r *region, f *catalog.Fact) {
	k := factKey{f.Kind, f.Key}
	s.hold(r, k, f.Revision.Counter, f.Sum)
	if a, ok := r.copied.aside[k]; ok && a.rev.Counter < f.Revision.Counter {
		delete(r.copied.aside, k)
	}
}

// holdAside counts a record that could not be understood; one that is told
// again with everything else (staged) is held as it is told now.
func (s *State) holdAside(r *region, k factKey, rev catalog.Revision, sum catalog.Sum, staged bool) {
	if r.copied.aside == nil {
		r.copied.aside = map[factKey]aside{}
	}
	r.copied.aside[k] = aside{rev, sum, staged}
	s.holdIf(r, k, rev.Counter, sum, staged)
}

// unstage is for a snapshot or a repair that is not taken: what was put aside
// with it is no part of the next one.
func (r *region) unstage() {
	for k, a := range r.copied.aside {
		a.fresh = false
		r.copied.aside[k] = a
	}
}

// keepHeld goes on counting the record of a placement whose row goes: the agent
// holds it still.
func (s *State) keepHeld(r *region, st *seat) {
	if h := st.hidden; h.Sum != (catalog.Sum{}) && s.b.HeldOf(r.name, catalog.FactPlacement, st.root) == nil {
		s.b.Hold(&view.Held{Region: r.name, Kind: catalog.FactPlacement, Key: st.root, Counter: h.Counter, Sum: h.Sum})
	}
}
