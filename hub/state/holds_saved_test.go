package state_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// A hub that begins anew beside an agent that goes on is told nothing again: it
// knows from before what is held, and lets go of what people release then.
func TestHoldsAreKnownAfterARestart(t *testing.T) {
	set, err := regions.Parse([]string{"eu"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, now: dawn, set: set, start: map[state.SessionID]uint64{}, ledger: map[string][]byte{}}
	w.s = state.New(w.cfg, state.Saved{Regions: set}, w.now)
	w.step(state.Office{Term: 1, Ledger: aLedger})
	docs, err := regions.ParseDocuments("hold.yaml", []byte("apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: case-1}\nselect: {names: [orders]}\nscope: [trim]\nfrom: {position: 1}\nenforce: checkpoint\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.step(state.ApplyDocuments{Documents: docs, By: "mina"})
	upto := catalog.Revision{Start: 7, Counter: 2}
	name, manifest := catalog.NameHold("case-1", "d1"), uint64(4)
	var digest catalog.Digest
	facts := []catalog.Fact{
		{Kind: catalog.FactPlacement, Key: "orders", Revision: catalog.Revision{Start: 7, Counter: 1}, Sighting: &catalog.Sighting{
			Slate: "orders", Root: "orders", Kind: catalog.KindSlateDB, Seen: catalog.SeenLive, Incarnation: "I", IncarnationKept: true, Lineage: "I",
			ManifestID: &manifest, PositionDomain: "seq", Checkpoints: []catalog.Checkpoint{{ID: "c1", Name: name, ManifestID: 3}},
		}},
		{Kind: catalog.FactHold, Key: catalog.PinKey("orders", "c1"), Revision: upto, Pin: &catalog.Pin{Root: "orders", Slate: "orders", Incarnation: "I", ID: "c1", Name: name, ManifestID: 3}},
	}
	for i := range facts {
		f := &facts[i]
		f.Sum = catalog.NewSum(uint32(f.Kind), f.Key, f.Revision.Counter, 0, []byte(f.Key))
		digest.Add(f.Sum)
	}
	hello := func() {
		w.step(state.Hello{Session: 1, Region: "eu", Cluster: "a", Agent: "a", Generation: 1, Start: 7, BucketID: "E", Decides: true})
	}
	hello()
	w.step(state.Beat{Session: 1, BucketID: "E", ReadOK: true})
	w.step(state.Snapshot{Session: 1, Facts: facts, Upto: upto})
	before := slices.Collect(w.s.View().Pins())
	if len(before) != 1 {
		t.Fatalf("%+v", before)
	}
	w.now = w.now.Add(time.Minute)
	w.save()
	w.revive()
	after := slices.Collect(w.s.View().Pins())
	if len(after) != 1 || *after[0] != *before[0] {
		t.Fatalf("%+v after a restart, %+v before", after, before)
	}
	w.sent = nil
	w.step(state.Office{Term: 2, Ledger: aLedger})
	hello()
	w.step(state.ReleaseHold{Name: "case-1", By: "mina"})
	for range 60 {
		w.now = w.now.Add(time.Second)
		w.step(state.Beat{Session: 1, BucketID: "E", ReadOK: true, At: upto, Digest: digest.Root()})
		w.step(state.Tick{})
		for range 10 {
			w.step(state.Tend{})
		}
	}
	released := slices.ContainsFunc(w.s.Decisions(), func(d *state.Decided) bool {
		return d.Decision.Verb == catalog.VerbRelease && d.Decision.Parameters.Checkpoint == "c1"
	})
	if !released {
		t.Errorf("the hold is not let go of: %v", w.sent)
	}
	if s := strings.Join(w.sent, " "); strings.Contains(s, "WantSnapshot") || strings.Contains(s, "WantDigests") {
		t.Errorf("something is told again: %s", s)
	}
}
