package state

import (
	"fmt"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// A snapshot of a large region is applied in slices, so that nobody else waits
// for it. What it has is taken as deltas are; what it lacks, that it is whole
// and how current the region is show only at its end. Whatever else the
// session says waits behind it.

// Continue goes on with what was begun; see [Ready.More].
type Continue struct{}

func (Continue) event() {}

// whole is a snapshot under way.
type whole struct {
	r *region
	p *session
	e Snapshot

	inside  map[factKey]bool // what it has so far
	slots   []table.Slot     // what the region had before
	swept   int
	live    uint64 // of these, not missing
	lacking []string
	told    int     // of those lacking
	waiting []Event // of the same session
}

// mostWaiting bounds what waits behind a snapshot: with more it is finished at
// once.
const mostWaiting = 4096

// behind puts an event behind the snapshot that is under way in its session,
// and reports whether there is one.
func (s *State) behind(e Event) bool {
	var id SessionID
	switch e := e.(type) {
	case Delta:
		id = e.Session
	case Moves:
		id = e.Session
	case Snapshot:
		id = e.Session
	case Digests:
		id = e.Session
	case Repair:
		id = e.Session
	case Quarantined:
		id = e.Session
	case AcceptRegion, ForgetPlacement: // somebody waits for the answer
		for len(s.wholes) > 0 {
			s.goOn(s.wholes[0], 0)
		}
		return false
	default:
		return false
	}
	for _, w := range s.wholes {
		if w.p.id != id {
			continue
		}
		w.waiting = append(w.waiting, e)
		if len(w.waiting) > mostWaiting {
			s.goOn(w, 0)
		}
		return true
	}
	return false
}

// begin begins to apply a snapshot.
func (s *State) begin(r *region, p *session, e Snapshot) {
	w := &whole{r: r, p: p, e: e, inside: map[factKey]bool{}}
	for k, a := range r.copied.aside {
		// What was put aside while it was staged is part of it: it is there, only
		// not understood.
		if !a.fresh || a.rev.Start != p.start {
			delete(r.copied.aside, k)
			continue
		}
		a.fresh = false
		r.copied.aside[k] = a
		w.inside[k] = true
		w.inside[asideKey(kindName(k.kind), k.key)] = true
	}
	all, missing := s.b.Count(r.name)
	w.live = all - missing
	w.slots = make([]table.Slot, 0, all)
	for _, slot := range s.b.Roots(r.name) {
		w.slots = append(w.slots, slot)
	}
	// Nothing goes on from the middle of it.
	r.applied, p.synced = catalog.Revision{}, false
	s.wholes = append(s.wholes, w)
	s.bringing[p.id] = &ticket{at: s.mono}
	s.goOn(w, s.cfg.Slice)
}

// goOn applies a slice of so many facts, or with 0 all that is left. When the
// snapshot is whole, what waited behind it is taken.
func (s *State) goOn(w *whole, slice int) {
	r, p := w.r, w.p
	s.stirred[r.name] = true
	// While it is applied its turn does not end: an agent whose turn has ended and
	// who has told everything would be asked for all of it again.
	if t := s.bringing[p.id]; t != nil {
		t.at = s.mono
	}
	if r.reporter != p || r.blind != "" || !s.proven(r, p) {
		r.owed = r.reporter == p
		s.leaveOff(w)
		s.done(p.id)
		return
	}
	left := slice
	for f := range w.e.All() {
		s.takeWhole(w, f)
		if left--; slice > 0 && left <= 0 {
			return
		}
	}
	for left *= sweepFaster; w.swept < len(w.slots); w.swept++ {
		if slice > 0 && left <= 0 {
			return
		}
		left--
		s.sweep(w, w.slots[w.swept])
	}
	if w.told == 0 {
		s.lacks(w)
	}
	for left /= sweepFaster; w.told < len(w.lacking); w.told++ {
		if slice > 0 && left <= 0 {
			return
		}
		left--
		s.absent(r, w.lacking[w.told], w.e.Upto)
	}
	s.finishWhole(w)
}

// sweepFaster is how many rows are swept in the time that one fact takes.
const sweepFaster = 16

func (s *State) takeWhole(w *whole, f *catalog.Fact) {
	r, k := w.r, factKey{f.Kind, f.Key}
	w.inside[k] = true
	if sd := r.said[k]; sd != nil && sd.gone {
		delete(r.said, k)
	}
	if s.lost(r, k, f) {
		s.again(r, f)
	}
	s.apply(r, w.p, f)
	if a, ok := r.copied.aside[k]; ok {
		if a.rev.Counter >= f.Revision.Counter {
			return
		}
		delete(r.copied.aside, k)
	}
	s.holdAnew(r, k, f.Revision.Counter, f.Sum)
}

// sweep finds out whether a row that was there is in the snapshot.
func (s *State) sweep(w *whole, slot table.Slot) {
	id := s.b.PlacementTable().Ident(slot)
	if id == nil || id.Region != w.r.name || w.inside[factKey{catalog.FactPlacement, id.Root}] {
		return
	}
	h := s.b.Hidden(slot)
	if h.Sum != (catalog.Sum{}) || h.Counter != 0 {
		w.r.copied.digest.Remove(h.Sum)
		h.Counter, h.Sum = 0, catalog.Sum{}
		if st := w.r.seats[id.Root]; st != nil {
			st.hidden = h
		}
		s.b.SetHidden(slot, h)
	}
	if s.b.Seen(slot) != catalog.SeenMissing && w.e.older(h.Presence) {
		w.lacking = append(w.lacking, id.Root)
	}
}

// older reports whether a snapshot speaks of what has a revision.
func (e *Snapshot) older(rev catalog.Revision) bool {
	return rev.Start != e.Upto.Start || rev.Counter <= e.Upto.Counter
}

// lacks judges what the snapshot does not have, when all that it has is known.
func (s *State) lacks(w *whole) {
	r := w.r
	var gone []factKey
	for h := range s.b.HeldIn(r.name) {
		if k := (factKey{h.Kind, h.Key}); !w.inside[k] {
			gone = append(gone, k)
		}
	}
	for _, k := range gone {
		s.letGo(r, k)
	}
	for k, sd := range r.said {
		switch {
		case sd.gone:
			if !w.inside[k] {
				delete(r.said, k) // the floor keeps it gone
			}
		case !w.inside[k] && w.e.older(sd.rev):
			s.lacked(r, sd, w.e.Upto)
		}
	}
	if n := len(w.lacking); n > guarded(int(w.live)) && !r.accepted {
		s.set.Get(r.name).Reset = fmt.Sprintf("%s: a report of %s lacked %d of %d slates; if it is right as it is: quarry region accept %s",
			regionReset, r.name, n, w.live, r.name)
		s.setDone = false
	}
}

// absent makes a row that a report of everything lacks missing, never gone (P1).
func (s *State) absent(r *region, root string, at catalog.Revision) {
	st := s.seatAt(r, root)
	st.presence, st.presenceRev = catalog.SeenMissing, at
	st.presenceWhy = absentReason + ": its agent's report of everything does not have it any more"
	s.touch(r, st.root)
}

func (s *State) finishWhole(w *whole) {
	r, p := w.r, w.p
	r.accepted = false
	r.applied, r.floor = w.e.Upto, w.e.Upto
	p.synced, r.confirmed, r.confirmedAt = true, true, s.mono
	at := s.wall
	r.asOf = &at
	s.send(p.id, Ack{Applied: r.applied})
	r.snapped = true
	s.recollect(r)
	s.leaveOff(w)
	s.done(p.id)
	for _, e := range w.waiting {
		if !s.behind(e) {
			s.settleAll()
			s.take(e)
		}
	}
}

// leaveOff ends a snapshot, whole or not.
func (s *State) leaveOff(w *whole) {
	for i := range s.wholes {
		if s.wholes[i] == w {
			s.wholes = append(s.wholes[:i:i], s.wholes[i+1:]...)
			return
		}
	}
}
