package state

import (
	"slices"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Between steps nothing is kept of most roots but their row in the view and
// what lies beside it in hidden columns. A seat is made of these when
// something happens at the root, and put back at the end of the step; only
// when there is more to remember (statements, readers' looks, a deadline) that
// stays in region.kept.

// Flags that are kept beside a row.
const (
	flagBare = 1 << iota
	flagHeardOf
	flagDeclaredGone
	flagMovedSinceGone
)

// seatAt is the seat of a root; nil when nothing is known of it.
func (s *State) seatAt(r *region, root string) *seat {
	if st := r.seats[root]; st != nil {
		return st
	}
	slot, k := s.b.Slot(r.name, root), r.kept[root]
	if slot == table.None && k == nil {
		return nil
	}
	return s.warmUp(r, root, slot, k)
}

// seat is the seat of a root, made when there is none.
func (s *State) seat(r *region, root string) *seat {
	if st := r.seats[root]; st != nil {
		return st
	}
	return s.warmUp(r, root, s.b.Slot(r.name, root), r.kept[root])
}

// known reports whether anything is known of a root.
func (s *State) known(r *region, root string) bool {
	return r.seats[root] != nil || r.kept[root] != nil || s.b.Slot(r.name, root) != table.None
}

// keptOf is what is remembered of a root, to be changed; nil: nothing.
func (s *State) keptOf(r *region, root string) *kept {
	if st := r.seats[root]; st != nil {
		return &st.kept
	}
	return r.kept[root]
}

// keep is [State.keptOf], begun when there is nothing.
func (s *State) keep(r *region, root string) *kept {
	k := s.keptOf(r, root)
	if k == nil {
		k = &kept{}
		r.kept[root] = k
	}
	return k
}

type warmSeat struct {
	r  *region
	st *seat
}

func (s *State) warmUp(r *region, root string, slot table.Slot, k *kept) *seat {
	st := &seat{root: root}
	r.seats[root] = st
	s.warm = append(s.warm, warmSeat{r, st})
	if k != nil {
		st.kept = *k
		st.next = k.due
	}
	if slot == table.None {
		return st
	}
	st.row = s.b.PlacementAt(slot)
	st.content, st.name = &st.row.Sighting, st.row.Slate
	if name, other := r.names[root]; other {
		st.name = name
	}
	st.observed, st.presence, st.presenceWhy = st.row.ObservedAt, st.row.Seen, st.row.Reason
	st.movedAt = s.b.MovedAt(slot)
	h := s.b.Hidden(slot)
	st.hidden = h
	st.contentRev, st.presenceRev, st.agentStart = h.Content, h.Presence, h.Start
	st.bare, st.heardOf = h.Flags&flagBare != 0, h.Flags&flagHeardOf != 0
	st.declaredGone, st.movedSinceGone = h.Flags&flagDeclaredGone != 0, h.Flags&flagMovedSinceGone != 0
	return st
}

// cool puts the seats of this step back.
func (s *State) cool() {
	for _, w := range s.warm {
		r, st := w.r, w.st
		if slot := s.b.Slot(r.name, st.root); slot != table.None {
			h := st.hidden
			h.Content, h.Presence, h.Start, h.Flags = st.contentRev, st.presenceRev, st.agentStart, 0
			for _, f := range [...]struct {
				is  bool
				bit uint64
			}{{st.bare, flagBare}, {st.heardOf, flagHeardOf}, {st.declaredGone, flagDeclaredGone}, {st.movedSinceGone, flagMovedSinceGone}} {
				if f.is {
					h.Flags |= f.bit
				}
			}
			s.b.SetHidden(slot, h)
			if st.movedAt != nil {
				s.b.SetMovedAt(slot, *st.movedAt)
			}
			s.wake(r, st, slot)
			if st.name != s.b.Name(slot) {
				r.names[st.root] = st.name
			} else {
				delete(r.names, st.root)
			}
		}
		if k := r.kept[st.root]; st.kept.empty() {
			delete(r.kept, st.root)
		} else if k != nil {
			*k = st.kept
		} else {
			r.kept[st.root] = &kept{st.said, st.since, st.due, st.late, st.conflicts}
		}
	}
	if len(s.warm) > 1000 { // a map keeps its room
		for _, w := range s.warm {
			w.r.seats = map[string]*seat{}
		}
	}
	for _, w := range s.warm {
		delete(w.r.seats, w.st.root)
	}
	clear(s.warm)
	s.warm = s.warm[:0]
}

// hold counts a record of the region's agent, as it travelled, in the place of
// the one before. What is not newer is not counted. The sums of placements lie
// beside their rows, those of other records by themselves.
func (s *State) hold(r *region, k factKey, counter uint64, sum catalog.Sum) {
	s.holdIf(r, k, counter, sum, false)
}

// holdAnew is [State.hold] for a snapshot, which knows better.
func (s *State) holdAnew(r *region, k factKey, counter uint64, sum catalog.Sum) {
	s.holdIf(r, k, counter, sum, true)
}

func (s *State) holdIf(r *region, k factKey, counter uint64, sum catalog.Sum, anew bool) {
	var old heldSum
	var st *seat
	slot := table.None
	apart := s.b.HeldOf(r.name, k.kind, k.key)
	if apart != nil {
		old = heldSum{apart.Counter, apart.Sum}
	}
	if k.kind == catalog.FactPlacement {
		if w := r.seats[k.key]; w != nil {
			if st = w; apart == nil {
				old = heldSum{st.hidden.Counter, st.hidden.Sum}
			}
		} else if slot = s.b.Slot(r.name, k.key); slot != table.None && apart == nil {
			old.counter, old.sum = s.b.Sum(slot)
		}
	}
	if !anew && counter <= old.counter && old.counter > 0 {
		return
	}
	r.copied.digest.Remove(old.sum)
	r.copied.digest.Add(sum)
	switch {
	case st != nil:
		st.hidden.Counter, st.hidden.Sum = counter, sum
	case slot != table.None:
		s.b.SetSum(slot, counter, sum)
	default:
		s.b.Hold(&view.Held{Region: r.name, Kind: k.kind, Key: k.key, Counter: counter, Sum: sum})
		return
	}
	if apart != nil {
		s.b.Release(r.name, k.kind, k.key)
	}
}

// letGo counts a record of a region no more.
func (s *State) letGo(r *region, k factKey) {
	if h := s.b.HeldOf(r.name, k.kind, k.key); h != nil {
		r.copied.digest.Remove(h.Sum)
		s.b.Release(r.name, k.kind, k.key)
	}
}

// heldOf is what is counted of a placement's record.
func (s *State) heldOf(r *region, root string) (counter uint64, sum catalog.Sum) {
	if st := r.seats[root]; st != nil {
		return st.hidden.Counter, st.hidden.Sum
	}
	if slot := s.b.Slot(r.name, root); slot != table.None {
		return s.b.Sum(slot)
	}
	return 0, catalog.Sum{}
}

// put adds a statement, in the place of the one with its key.
func (k *kept) put(sd *said) {
	k.drop(sd.key)
	k.said = append(k.said, sd)
}

func (k *kept) drop(key factKey) {
	k.said = slices.DeleteFunc(k.said, func(sd *said) bool { return sd.key == key })
}
