package state_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// Ten agents come at once to a hub that has forgotten everything. Four tell,
// the others wait in the order in which they came; one who holds its ticket
// and says nothing keeps nobody waiting for long (T11).
func TestAHerdTellsInTurn(t *testing.T) {
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("r%d", i))
	}
	set, err := regions.Parse(names)
	if err != nil {
		t.Fatal(err)
	}
	s := state.New(state.Config{Tickets: 4}, state.Saved{Regions: set}, dawn)
	now := dawn
	telling := map[state.SessionID]bool{}
	hear := func(r state.Ready) {
		for _, m := range r.Send {
			switch w := m.Message.(type) {
			case state.Welcome:
				telling[m.To] = w.Reporter && !w.Wait
				if want := int(m.To) - 5; w.Wait && w.Ahead != want {
					t.Errorf("session %d has %d ahead, want %d", m.To, w.Ahead, want)
				}
			case state.WantSnapshot:
				telling[m.To] = true
			}
		}
	}
	count := func() (n int) {
		for _, is := range telling {
			if is {
				n++
			}
		}
		return n
	}
	for i, name := range names {
		hear(s.Step(state.Hello{Session: state.SessionID(i + 1), Region: name, Cluster: "k", Agent: name, Generation: 1, Start: 1, BucketID: "B" + name}, now))
	}
	if count() != 4 || !telling[1] || !telling[4] || telling[5] {
		t.Fatalf("%v tell at once, want the first four", telling)
	}
	tell := func(id state.SessionID) {
		root := "orders"
		hear(s.Step(state.Snapshot{Session: id, Upto: catalog.Revision{Start: 1, Counter: 1}, Facts: []catalog.Fact{{
			Kind: catalog.FactPlacement, Key: root, Revision: catalog.Revision{Start: 1, Counter: 1},
			Sighting: &catalog.Sighting{Slate: root, Root: root, Seen: catalog.SeenLive}}}}, now))
	}
	tell(2)
	if !telling[5] || telling[6] {
		t.Errorf("after one was done: %v", telling)
	}
	hear(s.Step(state.Closed{Session: 3}, now)) // its ticket goes on
	if !telling[6] || telling[7] {
		t.Errorf("after one was gone: %v", telling)
	}
	hear(s.Step(state.Closed{Session: 7}, now)) // and one who waited goes
	now = now.Add(40 * time.Second)
	hear(s.Step(state.Tick{}, now)) // those that say nothing
	for _, id := range []state.SessionID{8, 9, 10} {
		if !telling[id] {
			t.Errorf("session %d still waits behind agents that say nothing", id)
		}
	}
	if telling[7] {
		t.Error("a session that is gone was asked")
	}
}

// A large snapshot takes its time while it is applied, longer than a ticket
// lasts without progress. Its agent has told everything and says so with every
// beat; it is not asked for all of it again, or it would never end.
func TestASnapshotThatIsAppliedSlowlyIsNotAskedForAgain(t *testing.T) {
	var a agentSide
	s := begin(t, state.Config{Slice: 1}, nil)
	var facts []catalog.Fact
	for i := range uint64(50) {
		facts = append(facts, a.fact(fmt.Sprintf("dbs/%d", i), i+1))
	}
	now := dawn
	ready := s.Step(state.Snapshot{Session: 1, Facts: facts, Upto: revOf(50)}, now)
	for n := 0; ready.More; n++ {
		if n > 1000 {
			t.Fatal("it does not end")
		}
		now = now.Add(5 * time.Second)
		for _, e := range []state.Event{a.beat(50), state.Tick{}} {
			for _, m := range s.Step(e, now).Send {
				if w, again := m.Message.(state.WantSnapshot); again {
					t.Fatalf("after %s it is asked for again: %s", now.Sub(dawn), w.Why)
				}
			}
		}
		ready = s.Step(state.Continue{}, now)
	}
	if now.Sub(dawn) < 2*time.Minute {
		t.Errorf("it was applied within %s: the test proves nothing", now.Sub(dawn))
	}
	if wanted(s.Step(a.beat(50), now)) || s.View().Placement("eu", "dbs/49") == nil {
		t.Error("it was not applied")
	}
}
