package state_test

import (
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// agentSide is what an agent holds, with the digest it sends.
type agentSide struct {
	digest catalog.Digest
	sums   map[string]catalog.Sum
}

func (a *agentSide) fact(root string, n uint64) catalog.Fact {
	m := n
	f := catalog.Fact{Kind: catalog.FactPlacement, Key: root, Revision: catalog.Revision{Start: 1, Counter: n},
		Sighting: &catalog.Sighting{Slate: root, Root: root, Seen: catalog.SeenLive, ManifestID: &m, Incarnation: "I"}}
	f.Sum = a.sum(root, n)
	return f
}

func (a *agentSide) sum(root string, n uint64) catalog.Sum {
	sum := catalog.NewSum(uint32(catalog.FactPlacement), root, n, 0, []byte{byte(n)})
	if a.sums == nil {
		a.sums = map[string]catalog.Sum{}
	}
	a.digest.Remove(a.sums[root])
	a.digest.Add(sum)
	a.sums[root] = sum
	return sum
}

func wanted(r state.Ready) bool {
	for _, m := range r.Send {
		if _, ok := m.Message.(state.WantSnapshot); ok {
			return true
		}
	}
	return false
}

// A delta is lost on its way. The next beat finds it, everything is asked for
// once, and after that hub and agent agree.
func TestALostDeltaIsFoundByTheNextBeat(t *testing.T) {
	var a agentSide
	first := []catalog.Fact{a.fact("orders", 1), a.fact("users", 2)}
	s := begin(t, state.Config{}, nil)
	rev := func(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }
	now := dawn
	beat := func(n uint64) state.Ready {
		now = now.Add(5 * time.Second)
		return s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: rev(n), Digest: a.digest.Root()}, now)
	}
	s.Step(state.Snapshot{Session: 1, Facts: first, Upto: rev(2)}, now)
	if wanted(beat(2)) {
		t.Fatal("hub and agent hold the same")
	}
	s.Step(state.Delta{Session: 1, Facts: []catalog.Fact{a.fact("orders", 3)}, Upto: rev(3)}, now)
	s.Step(state.Delta{Session: 1, Facts: []catalog.Fact{a.fact("orders", 3)}, Upto: rev(3)}, now) // twice
	if wanted(beat(3)) {
		t.Fatal("a repeated delta is no drift")
	}
	lost := a.fact("users", 4)
	kept := a.fact("orders", 5)
	s.Step(state.Delta{Session: 1, Facts: []catalog.Fact{kept}, Upto: rev(5)}, now)
	asOf := *s.View().Region("eu").AsOf
	if !wanted(beat(5)) {
		t.Fatal("a lost fact was not noticed")
	}
	if !s.View().Region("eu").AsOf.Equal(asOf) {
		t.Error("rows that are known to differ are not called current")
	}
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{kept, lost}, Upto: rev(5)}, now)
	if wanted(beat(5)) {
		t.Error("it asks again")
	}
	if p := s.View().Placement("eu", "users"); *p.ManifestID != 4 {
		t.Errorf("users is at manifest %d, want 4", *p.ManifestID)
	}
	// A fault that a snapshot does not cure is not asked about at every beat.
	a.sum("ghost", 6)
	asked := 0
	for range 20 {
		if wanted(beat(5)) {
			asked++
			s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{kept, lost}, Upto: rev(5)}, now)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times in 100 s, want once", asked)
	}
}

// A record of a snapshot cannot be understood. What it described is not
// missing for that (P1), it counts in the digest, and the finding stays until
// a snapshot comes without it.
func TestARecordThatIsNotUnderstoodIsNotMissing(t *testing.T) {
	var a agentSide
	s := begin(t, state.Config{}, nil)
	rev := func(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{a.fact("orders", 1), a.fact("users", 2)}, Upto: rev(2)}, dawn)

	bad := state.Quarantined{Session: 1, Kind: "placement", Key: "users", Why: "no UTF-8", Fact: uint32(catalog.FactPlacement), Revision: rev(3), Sum: a.sum("users", 3)}
	s.Step(bad, dawn)
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{a.fact("orders", 1)}, Upto: rev(3)}, dawn)
	if p := s.View().Placement("eu", "users"); p.State != catalog.StateLive {
		t.Errorf("users is %s: %s", p.State, p.StateReason)
	}
	found := 0
	for range s.View().Findings() {
		found++
	}
	if found != 1 {
		t.Errorf("%d findings, want the one", found)
	}
	if wanted(s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: rev(3), Digest: a.digest.Root()}, dawn)) {
		t.Error("a record put aside counts on both sides")
	}
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{a.fact("orders", 1), a.fact("users", 4)}, Upto: rev(4)}, dawn)
	for f := range s.View().Findings() {
		t.Errorf("finding stays: %+v", f)
	}
}
