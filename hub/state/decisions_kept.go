package state

import (
	"maps"
	"slices"
)

// putDecided keeps a decision and has it recorded.
func (s *State) putDecided(d *Decided) {
	s.keepDecided(d)
	s.record(decisionKey(d.Number), d)
}

func (s *State) keepDecided(d *Decided) {
	s.rememberDecided(d.Number)
	s.setDecided(d.Number, d)
}

func (s *State) dropDecided(d *Decided) {
	s.rememberDecided(d.Number)
	s.setDecided(d.Number, nil)
}

// setDecided puts a decision, and its row, in the place of the one of its number;
// nil: it is forgotten.
func (s *State) setDecided(n uint64, d *Decided) {
	if was := s.dec.all[n]; was != nil && (d == nil || d.Decision.ID != was.Decision.ID) {
		s.b.RemoveDecision(was.Decision.ID)
	}
	s.dec.set(n, d)
	if d != nil {
		s.showDecided(d)
	}
}

// matter is what at most one decision at a time is about.
type matter struct{ region, slate string }

// set puts a decision in the place of the one of its number; nil: it is forgotten.
func (x *decisions) set(n uint64, d *Decided) {
	if was := x.all[n]; was != nil {
		delete(x.all, n)
		delete(x.ids, was.Decision.ID)
		delete(x.open, n)
		delete(x.recent, n)
		if m := (matter{was.Decision.Region, was.Decision.Slate}); d == nil || m != (matter{d.Decision.Region, d.Decision.Slate}) {
			if i, found := slices.BinarySearch(x.about[m], n); found {
				x.about[m] = slices.Delete(x.about[m], i, i+1)
			}
			if len(x.about[m]) == 0 {
				delete(x.about, m)
			}
		}
	}
	if d == nil {
		return
	}
	x.all[n], x.ids[d.Decision.ID] = d, n
	if !d.Stage.Settled() {
		x.open[n] = true
	}
	if !d.Sent.IsZero() && d.spends() {
		x.recent[n] = true
	}
	m := matter{d.Decision.Region, d.Decision.Slate}
	if i, found := slices.BinarySearch(x.about[m], n); !found {
		x.about[m] = slices.Insert(x.about[m], i, n)
	}
}

func (s *State) rememberDecided(n uint64) {
	if _, known := s.dec.were[n]; !known {
		s.dec.were[n] = s.dec.all[n]
	}
}

func (s *State) count(change func(*counters)) {
	next := counters{1, s.dec.counters.Number, maps.Clone(s.dec.counters.Sequences)}
	if next.Sequences == nil {
		next.Sequences = map[string]uint64{}
	}
	change(&next)
	s.dec.counters = next
	s.record(countersKey, next)
}

func (s *State) markDecisions() {
	clear(s.dec.were)
	s.dec.countersWas, s.dec.breakerWas, s.dec.settledWas = s.dec.counters, s.dec.breaker, s.dec.settled
}

func (s *State) undoDecisions() {
	for n, d := range s.dec.were {
		s.setDecided(n, d)
	}
	clear(s.dec.were)
	s.dec.counters, s.dec.breaker, s.dec.settled = s.dec.countersWas, s.dec.breakerWas, s.dec.settledWas
	s.showBreaker()
}

func newDecisions() decisions {
	return decisions{all: map[uint64]*Decided{}, ids: map[string]uint64{}, open: map[uint64]bool{}, about: map[matter][]uint64{}, recent: map[uint64]bool{}, were: map[uint64]*Decided{}}
}
