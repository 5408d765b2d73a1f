package state_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func revOf(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }

func (a *agentSide) beat(n uint64) state.Beat {
	return state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: revOf(n), Digest: a.digest.Root()}
}

// A record that nobody understood was put aside. It was withdrawn while nobody
// heard the agent, and the next report of everything comes without it: it is
// counted no more, and hub and agent agree.
func TestARecordPutAsideIsLetGoWhenAReportLacksIt(t *testing.T) {
	var a agentSide
	s := begin(t, state.Config{}, nil)
	orders := a.fact("orders", 1)
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{orders}, Upto: revOf(1)}, dawn)
	bad := state.Quarantined{Session: 1, Kind: "restore-point", Key: "orders\x00x", Why: "no id", Fact: uint32(catalog.FactRestorePoint),
		Revision: revOf(2), Sum: catalog.NewSum(uint32(catalog.FactRestorePoint), "orders\x00x", 2, 0, []byte("?"))}
	s.Step(bad, dawn)
	s.Step(state.Delta{Session: 1, Upto: revOf(2)}, dawn)
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{orders}, Upto: revOf(3)}, dawn)
	if wanted(s.Step(a.beat(3), dawn)) {
		t.Error("the hub counts a record that the agent's report of everything lacks")
	}
	for f := range s.View().Findings() {
		t.Errorf("the finding stays: %+v", f)
	}
}

// The same, and the withdrawal was lost: the repair of its bucket lacks it.
func TestARecordPutAsideIsLetGoWhenARepairLacksIt(t *testing.T) {
	var a agentSide
	s := begin(t, state.Config{}, nil)
	s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{a.fact("orders", 1)}, Upto: revOf(1)}, dawn)
	bad := state.Quarantined{Session: 1, Kind: "restore-point", Key: "orders\x00x", Why: "no id", Fact: uint32(catalog.FactRestorePoint),
		Revision: revOf(2), Sum: catalog.NewSum(uint32(catalog.FactRestorePoint), "orders\x00x", 2, 0, []byte("?"))}
	s.Step(bad, dawn)
	s.Step(state.Delta{Session: 1, Upto: revOf(3)}, dawn)
	if !wanted(s.Step(a.beat(3), dawn)) {
		t.Fatal("the difference was not noticed")
	}
	buckets, _ := a.told(s, revOf(3), dawn)
	if len(buckets) != 1 || buckets[0] != bad.Sum.Bucket {
		t.Fatalf("the hub wants buckets %v, want %d", buckets, bad.Sum.Bucket)
	}
	s.Step(state.Repair{Session: 1, Buckets: buckets, Upto: revOf(3)}, dawn)
	if wanted(s.Step(a.beat(3), dawn.Add(time.Second))) {
		t.Error("a repair does not cure it: hub and agent differ for good")
	}
	for f := range s.View().Findings() {
		t.Errorf("the finding stays: %+v", f)
	}
}

// A hub goes on with a saved view from which much was lost on the way. The
// digests differ in so many buckets that all is told again, at revisions that
// the saved view says it has: what it lacks is taken all the same.
func TestAReportOfEverythingBringsWhatASavedViewLost(t *testing.T) {
	var a agentSide
	s := begin(t, state.Config{}, nil)
	first := []catalog.Fact{a.fact("orders", 1)}
	s.Step(state.Snapshot{Session: 1, Facts: first, Upto: revOf(1)}, dawn)
	all := first
	for i := range uint64(600) {
		all = append(all, a.fact(fmt.Sprintf("lost-%d", i), i+2)) // told, and lost
	}
	last := a.fact("users", 700)
	all = append(all, last)
	s.Step(state.Delta{Session: 1, Facts: []catalog.Fact{last}, Upto: revOf(700)}, dawn)

	saved := store(t, s.View())
	now := dawn.Add(time.Minute)
	s = state.New(state.Config{}, state.Saved{Regions: s.Set(), View: saved.read(t)}, now)
	resumed := false
	for _, m := range s.Step(state.Hello{Session: 1, Region: "eu", Cluster: "k", Agent: "a", Generation: 1, Start: 1, BucketID: "B"}, now).Send {
		if w, ok := m.Message.(state.Welcome); ok {
			resumed = w.Resume == revOf(700)
		}
	}
	if !resumed {
		t.Fatal("the saved view was not gone on with")
	}
	if !wanted(s.Step(a.beat(700), now)) {
		t.Fatal("the difference was not noticed")
	}
	if _, whole := a.told(s, revOf(700), now); !whole {
		t.Fatal("so many buckets differ, and a report of everything is not wanted")
	}
	s.Step(state.Snapshot{Session: 1, Facts: all, Upto: revOf(700)}, now)
	if wanted(s.Step(a.beat(700), now)) {
		t.Error("hub and agent differ still")
	}
	lacks := 0
	for _, f := range all {
		if p := s.View().Placement("eu", f.Key); p == nil || *p.ManifestID != *f.Sighting.ManifestID {
			lacks++
		}
	}
	if lacks > 0 {
		t.Errorf("the digests agree and %d of %d rows are not what the agent holds", lacks, len(all))
	}
}

// An agent that began anew read the past: what it told was not taken. What it
// tells as moves from there is not put on top of what was known before, or the
// row would be of two moments while the sums agree.
func TestMovesFromAReadOfThePastAreNotMixedWithThePresent(t *testing.T) {
	for name, how := range map[string]func(s *state.State, a *agentSide, past catalog.Fact){
		"told whole": func(s *state.State, a *agentSide, past catalog.Fact) {
			s.Step(state.Delta{Session: 1, Facts: []catalog.Fact{past}, Upto: revOf(2)}, dawn)
		},
		"moved back": func(s *state.State, a *agentSide, past catalog.Fact) {
			m := catalog.Move{Ordinal: 1, Counter: 2, Mask: 1 | 1<<8, Packed: []byte{2}}
			m.Values[0], m.Values[8] = *past.Sighting.ManifestID, *past.Sighting.Position
			a.move("orders", 2)
			s.Step(state.Moves{Session: 1, Moves: []catalog.Move{m}, Upto: revOf(2)}, dawn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var a agentSide
			s := begin(t, state.Config{}, nil)
			at := func(n, manifest, position uint64) catalog.Fact {
				f := a.fact("orders", n)
				f.Ordinal, f.Sighting.ManifestID, f.Sighting.Position = 1, &manifest, &position
				return f
			}
			s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{at(1, 7, 700)}, Upto: revOf(1)}, dawn)
			kept := a.sums["orders"]
			past := at(2, 5, 500)
			if name == "moved back" { // the chain goes on from what was told whole
				a.digest.Remove(a.sums["orders"])
				a.digest.Add(kept)
				a.sums["orders"] = kept
			}
			how(s, &a, past)
			if p := s.View().Placement("eu", "orders"); *p.ManifestID != 7 || *p.Position != 700 {
				t.Fatalf("a read of the past was taken: manifest %d, position %d", *p.ManifestID, *p.Position)
			}
			// Manifest 8 at the position that the agent told before: only the
			// manifest travels.
			m := catalog.Move{Ordinal: 1, Counter: 3, Mask: 1, Packed: []byte{3}}
			m.Values[0] = 8
			a.move("orders", 3)
			s.Step(state.Moves{Session: 1, Moves: []catalog.Move{m}, Upto: revOf(3)}, dawn)
			differ := wanted(s.Step(a.beat(3), dawn))
			if p := s.View().Placement("eu", "orders"); *p.ManifestID == 8 && *p.Position != 500 {
				t.Errorf("the row is at manifest 8 and position %d, the agent holds 500; the difference was noticed: %v", *p.Position, differ)
			}
			if !differ {
				t.Fatal("the rows differ and nobody notices")
			}
			buckets, _ := a.told(s, revOf(3), dawn)
			whole := at(3, 8, 500)
			s.Step(state.Repair{Session: 1, Buckets: buckets, Facts: []catalog.Fact{whole}, Upto: revOf(3)}, dawn)
			if p := s.View().Placement("eu", "orders"); *p.ManifestID != 8 || *p.Position != 500 {
				t.Errorf("after the repair: manifest %d, position %d", *p.ManifestID, *p.Position)
			}
			if wanted(s.Step(a.beat(3), dawn.Add(time.Second))) {
				t.Error("hub and agent differ still")
			}
		})
	}
}

// move chains what an agent tells as a move.
func (a *agentSide) move(root string, counter uint64) {
	before := a.sums[root]
	a.digest.Remove(before)
	a.sums[root] = before.Moved(counter, []byte{byte(counter)})
	a.digest.Add(a.sums[root])
}

// A clock was set back between two lives of a hub. Publications of the second
// have numbers that no publication of the first had, also not one after its
// last save: a watcher's cursor of then must not fit into the numbers of now.
func TestALifeAfterAClockSetBackUsesNoNumberTwice(t *testing.T) {
	s := begin(t, state.Config{}, nil)
	saved := store(t, s.View())
	for i := range uint64(1000) {
		s.Step(state.Snapshot{Session: 1, Facts: []catalog.Fact{(&agentSide{}).fact("orders", i+1)}, Upto: revOf(i + 1)}, dawn)
		s.View()
	}
	last := s.View().Seq()
	now := dawn.Add(-time.Hour)
	s = state.New(state.Config{}, state.Saved{Regions: s.Set(), View: saved.read(t)}, now)
	if is := s.View().Seq(); is <= last {
		t.Errorf("the first view has the number %d, the life before went up to %d", is, last)
	}
}
