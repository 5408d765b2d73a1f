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
		switch m.Message.(type) {
		case state.WantSnapshot, state.WantDigests:
			return true
		}
	}
	return false
}

// told answers WantDigests as an agent does, and gives what the hub wants then.
func (a *agentSide) told(s *state.State, at catalog.Revision, now time.Time) (buckets []uint8, snapshot bool) {
	e := state.Digests{Session: 1, At: at, Count: a.digest.Count()}
	for i := range e.Buckets {
		e.Buckets[i] = a.digest.Bucket(uint8(i))
	}
	for _, m := range s.Step(e, now).Send {
		switch m := m.Message.(type) {
		case state.WantBuckets:
			buckets = m.Buckets
		case state.WantSnapshot:
			snapshot = true
		}
	}
	return buckets, snapshot
}

// A delta is lost on its way. The next beat finds it, the digests tell in which
// bucket, only that is told again, and after that hub and agent agree (T27).
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
	buckets, _ := a.told(s, rev(5), now)
	if len(buckets) != 1 || buckets[0] != lost.Sum.Bucket {
		t.Fatalf("the hub wants buckets %v, want that of users, %d; orders is in %d", buckets, lost.Sum.Bucket, kept.Sum.Bucket)
	}
	s.Step(state.Repair{Session: 1, Buckets: buckets, Facts: []catalog.Fact{lost}, Upto: rev(5)}, now)
	if wanted(beat(5)) {
		t.Error("it asks again")
	}
	if p := s.View().Placement("eu", "users"); *p.ManifestID != 4 {
		t.Errorf("users is at manifest %d, want 4", *p.ManifestID)
	}
	if s.View().Region("eu").AsOf.Equal(asOf) {
		t.Error("the rows are current again")
	}
	// A fault that a repair does not cure is not asked about at every beat.
	ghost := a.sum("ghost", 6)
	asked := 0
	for range 20 {
		if wanted(beat(5)) {
			asked++
			buckets, _ := a.told(s, rev(5), now)
			if len(buckets) != 1 || buckets[0] != ghost.Bucket {
				t.Fatalf("ask %d: the hub wants buckets %v, want %d; orders %d, users %d", asked, buckets, ghost.Bucket, kept.Sum.Bucket, lost.Sum.Bucket)
			}
			var facts []catalog.Fact
			for _, f := range []catalog.Fact{kept, lost} {
				if f.Sum.Bucket == ghost.Bucket {
					facts = append(facts, f)
				}
			}
			s.Step(state.Repair{Session: 1, Buckets: buckets, Facts: facts, Upto: rev(5)}, now)
		}
	}
	if asked < 1 || asked > 5 {
		t.Errorf("asked %d times in 100 s, want a few", asked)
	}
}

// A repaired bucket lacks a placement that the hub shows: it is missing and
// not gone (P1), and a fact that the hub has wrong at the very same revision
// is set right.
func TestARepairTakesTheAgentsWord(t *testing.T) {
	var a agentSide
	s := begin(t, state.Config{}, nil)
	rev := func(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }
	orders, users := a.fact("orders", 1), a.fact("users", 2)
	wrong := users
	g := *users.Sighting
	n := uint64(99)
	g.ManifestID, wrong.Sighting = &n, &g
	wrong.Sum.Lo++
	ghost := catalog.Fact{Kind: catalog.FactPlacement, Key: "ghost", Revision: rev(2),
		Sighting: &catalog.Sighting{Slate: "ghost", Root: "ghost", Seen: catalog.SeenLive, ManifestID: &n},
		Sum:      catalog.NewSum(uint32(catalog.FactPlacement), "ghost", 2, 0, nil)}
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{orders, wrong, ghost}, Upto: rev(2)}, dawn)
	if !wanted(s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: rev(2), Digest: a.digest.Root()}, dawn)) {
		t.Fatal("the difference was not noticed")
	}
	buckets, _ := a.told(s, rev(2), dawn)
	if len(buckets) != 2 {
		t.Fatalf("the hub wants buckets %v, want two", buckets)
	}
	s.Step(state.Repair{Session: 1, Buckets: buckets, Facts: []catalog.Fact{users}, Upto: rev(2)}, dawn)
	if p := s.View().Placement("eu", "users"); *p.ManifestID != 2 {
		t.Errorf("users is at manifest %d, want 2", *p.ManifestID)
	}
	if p := s.View().Placement("eu", "ghost"); p == nil || p.State != catalog.StateMissing {
		t.Errorf("the ghost is %+v, want missing", p)
	}
	if p := s.View().Placement("eu", "orders"); p.State != catalog.StateLive {
		t.Errorf("orders is %s", p.State)
	}
	if wanted(s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: rev(2), Digest: a.digest.Root()}, dawn.Add(5*time.Second))) {
		t.Error("hub and agent agree now")
	}
}

// What only moved comes by its ordinal and is held under the sum that both
// sides chain; an ordinal that nobody gave is found by the digest.
func TestMovesAreHeldAsTheyTravelled(t *testing.T) {
	var a agentSide
	s := begin(t, state.Config{}, nil)
	rev := func(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }
	orders := a.fact("orders", 1)
	orders.Ordinal = 1
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{orders}, Upto: rev(1)}, dawn)
	move := func(ordinal uint32, counter, manifest, position uint64) state.Event {
		m := catalog.Move{Ordinal: ordinal, Counter: counter, Mask: 1 | 1<<8, Packed: []byte{byte(counter)}}
		m.Values[0], m.Values[8] = manifest, position
		return state.Moves{Session: 1, Moves: []catalog.Move{m}, Upto: rev(counter)}
	}
	agree := func(n uint64, want bool) {
		t.Helper()
		r := s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: rev(n), Digest: a.digest.Root()}, dawn)
		if wanted(r) == want {
			t.Errorf("at %d: agree is %v, want %v", n, !want, want)
		}
	}
	chain := func(counter uint64) {
		before := a.sums["orders"]
		a.digest.Remove(before)
		a.sums["orders"] = before.Moved(counter, []byte{byte(counter)})
		a.digest.Add(a.sums["orders"])
	}
	s.Step(move(1, 2, 5, 500), dawn.Add(time.Second))
	chain(2)
	p := s.View().Placement("eu", "orders")
	if *p.ManifestID != 5 || *p.Position != 500 || !p.ObservedAt.Equal(dawn.Add(time.Second)) {
		t.Errorf("orders is %+v", p)
	}
	if w := s.View().Slate("orders").Where[0]; *w.Position != 500 {
		t.Errorf("the slate is at %d", *w.Position)
	}
	agree(2, true)
	s.Step(move(1, 2, 6, 600), dawn) // a repetition
	agree(2, true)
	if p := s.View().Placement("eu", "orders"); *p.ManifestID != 5 {
		t.Error("a repetition was taken")
	}
	s.Step(move(7, 3, 6, 600), dawn) // nobody was called that
	chain(3)
	agree(3, false)
}

// A record of a snapshot cannot be understood. What it described is not
// missing for that (P1), it counts in the digest, and the finding stays until
// a snapshot comes without it.
func TestARecordThatIsNotUnderstoodIsNotMissing(t *testing.T) {
	var a agentSide
	s := begin(t, state.Config{}, nil)
	rev := func(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{a.fact("orders", 1), a.fact("users", 2)}, Upto: rev(2)}, dawn)

	bad := state.Quarantined{Session: 1, Kind: "placement", Key: "users", Why: "no UTF-8", Fact: uint32(catalog.FactPlacement), Revision: rev(3), Sum: a.sum("users", 3), Staged: true}
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
