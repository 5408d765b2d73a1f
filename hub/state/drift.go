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
	rev   catalog.Revision
	sum   catalog.Sum
	fresh bool // since the last snapshot
}

// counted counts a record of a delta or a snapshot, after it was applied.
func (s *State) counted(r *region, f *catalog.Fact) {
	k := factKey{f.Kind, f.Key}
	s.hold(r, k, f.Revision.Counter, f.Sum)
	if a, ok := r.copied.aside[k]; ok && a.rev.Counter < f.Revision.Counter {
		delete(r.copied.aside, k)
	}
}

// holdAside counts a record that could not be understood.
func (s *State) holdAside(r *region, k factKey, rev catalog.Revision, sum catalog.Sum) {
	if r.copied.aside == nil {
		r.copied.aside = map[factKey]aside{}
	}
	r.copied.aside[k] = aside{rev, sum, true}
	s.hold(r, k, rev.Counter, sum)
}

// keepHeld goes on counting the record of a placement whose row goes: the agent
// holds it still.
func (s *State) keepHeld(r *region, st *seat) {
	if h := st.hidden; h.Sum != (catalog.Sum{}) && s.b.HeldOf(r.name, catalog.FactPlacement, st.root) == nil {
		s.b.Hold(&view.Held{Region: r.name, Kind: catalog.FactPlacement, Key: st.root, Counter: h.Counter, Sum: h.Sum})
	}
}
