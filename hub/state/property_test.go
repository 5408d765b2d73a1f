package state_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// begin is a hub with one region, a reporter and an applied snapshot.
func begin(t interface{ Fatal(...any) }, cfg state.Config, first []catalog.Fact) *state.State {
	set, err := regions.Parse([]string{"eu"})
	if err != nil {
		t.Fatal(err)
	}
	s := state.New(cfg, state.Saved{Regions: set}, dawn)
	s.Step(state.Hello{Session: 1, Region: "eu", Cluster: "a", Agent: "x", Generation: 1, Start: 1, BucketID: "B"}, dawn)
	s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: catalog.Revision{Start: 1}}, dawn)
	s.Step(state.Snapshot{Session: 1, Facts: first, Empty: true}, dawn)
	return s
}

// history draws what one agent may tell of a few roots in its life: revisions
// grow, and within one incarnation manifests do.
func history(t *rapid.T) (facts []catalog.Fact) {
	type root struct {
		manifest uint64
		inc      int
	}
	roots := map[string]*root{"a": {}, "b": {}, "c": {}}
	n := rapid.IntRange(1, 40).Draw(t, "facts")
	for i := range n {
		rev := catalog.Revision{Start: 1, Counter: uint64(i + 1)}
		name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "root")
		id := rapid.SampledFrom([]string{"1", "2"}).Draw(t, "id")
		gone := ""
		if rapid.Bool().Draw(t, "gone") {
			gone = "withdrawn"
		}
		f := catalog.Fact{Revision: rev, Gone: gone}
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0, 1:
			f.Gone = ""
			r := roots[name]
			g := &catalog.Sighting{Slate: name, Root: name, Seen: rapid.SampledFrom([]catalog.Seen{catalog.SeenLive, catalog.SeenLive, catalog.SeenMissing, catalog.SeenUnreadable}).Draw(t, "seen")}
			if g.Seen == catalog.SeenLive {
				if rapid.IntRange(0, 5).Draw(t, "another") == 0 {
					r.inc++
					r.manifest = 0
				}
				r.manifest += uint64(rapid.IntRange(0, 2).Draw(t, "step"))
				m, e := r.manifest, uint64(rapid.IntRange(1, 3).Draw(t, "epoch"))
				g.ManifestID, g.WriterEpoch = &m, &e
				g.Incarnation, g.IncarnationKept = fmt.Sprintf("%s-%d", name, r.inc), true
				if rapid.Bool().Draw(t, "clone") {
					g.External = []catalog.ExternalDB{{Path: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "parent")}}
				}
			}
			f.Kind, f.Key, f.Sighting = catalog.FactPlacement, name, g
		case 2:
			f.Kind, f.Key = catalog.FactRegistration, id
			if gone == "" {
				f.Registration = &catalog.Registration{Version: 1, Action: catalog.Register, ID: id, Slate: name, Root: "a",
					Owner: rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "owner")}
			}
		case 3:
			f.Kind, f.Key = catalog.FactLease, catalog.LeaseKey(name, "reader", id)
			if gone == "" {
				f.Lease = &catalog.Lease{Slate: name, Role: "reader", ID: id, TTL: float64(i)}
			}
		case 4:
			f.Kind, f.Key = catalog.FactFinding, catalog.FindingKey("wal-hole", name, id)
			if gone == "" {
				f.Finding = &catalog.Finding{Code: "wal-hole", Root: name, Slate: name, Object: id, What: fmt.Sprint(i)}
			}
		}
		facts = append(facts, f)
	}
	return facts
}

// rowsOf is everything people see, but for what is history and not state: the
// region's clocks and the disagreement that remembers movements.
func rowsOf(v *view.View) string {
	rows := state.Rows(v)
	rows.Seq, rows.Event, rows.At, rows.Regions, rows.Clusters = 0, 0, time.Time{}, nil, nil
	for i, p := range rows.Placements {
		c := *p
		c.WriterSince, c.Disagreement = nil, ""
		rows.Placements[i] = &c
	}
	for i, p := range rows.Owners {
		c := *p
		c.WriterSince, c.MovedAt, c.Disagreement = nil, nil, ""
		rows.Owners[i] = &c
	}
	b, err := json.MarshalIndent(rows, "", " ")
	if err != nil {
		panic(err)
	}
	return string(b)
}

func deliver(s *state.State, facts []catalog.Fact) {
	for i := range facts {
		s.Step(state.Delta{Session: 1, Facts: facts[i : i+1], Upto: facts[i].Revision}, dawn)
	}
}

// Facts that are repeated, delayed and in any order give the same rows as
// facts in order, once (DESIGN §6: idempotent, commutative, replay-safe). What
// is withdrawn while its placement is missing stays as last seen, so it
// depends on which is heard first; agents tell of a placement before what is
// about it, and the test keeps the two apart.
func TestAnyOrderAndRepetitionOfFactsGivesTheSameRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		facts := history(t)
		withdrawn := slices.ContainsFunc(facts, func(f catalog.Fact) bool { return f.Gone != "" })
		if withdrawn {
			for i := range facts {
				if g := facts[i].Sighting; g != nil && g.Seen == catalog.SeenMissing {
					g.Seen = catalog.SeenUnreadable
				}
			}
		}
		straight := begin(t, state.Config{}, nil)
		deliver(straight, facts)

		again := slices.Clone(facts)
		for range rapid.IntRange(0, 10).Draw(t, "repeats") {
			again = append(again, rapid.SampledFrom(facts).Draw(t, "repeat"))
		}
		again = rapid.Permutation(again).Draw(t, "order")
		crooked := begin(t, state.Config{}, nil)
		deliver(crooked, again)

		if a, b := rowsOf(straight.View()), rowsOf(crooked.View()); a != b {
			t.Fatalf("in order:\n%s\nout of order:\n%s", a, b)
		}
		// A snapshot of the end state is the end state, too.
		deliver(crooked, again)
		if a, b := rowsOf(straight.View()), rowsOf(crooked.View()); a != b {
			t.Fatalf("a second time:\n%s\n%s", a, b)
		}
	})
}

// P1: whatever happens, short of a person's word, no placement's row is ever
// gone; and the view's rows and counters agree with each other.
func TestNothingButAPersonRemovesARow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, err := regions.Parse([]string{"eu", "us"})
		if err != nil {
			t.Fatal(err)
		}
		s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
		now := dawn
		ever := map[string]bool{}
		forgotten := map[string]bool{}
		var log []catalog.Event
		var saved *state.SavedView
		next := state.SessionID(1)
		starts := map[state.SessionID]uint64{}
		counter := uint64(1)

		pick := func() state.SessionID {
			return state.SessionID(rapid.Uint64Range(0, uint64(next)).Draw(t, "session"))
		}
		draw := func(id state.SessionID) (out []catalog.Fact) {
			for range rapid.IntRange(0, 15).Draw(t, "n") {
				name := fmt.Sprintf("db-%d", rapid.IntRange(0, 14).Draw(t, "db"))
				counter++
				m := rapid.Uint64Range(0, 3).Draw(t, "m")
				g := &catalog.Sighting{Slate: name, Root: name, ManifestID: &m, Incarnation: "I",
					Seen: rapid.SampledFrom([]catalog.Seen{catalog.SeenLive, catalog.SeenLive, catalog.SeenMissing}).Draw(t, "seen")}
				out = append(out, catalog.Fact{Kind: catalog.FactPlacement, Key: name, Sighting: g,
					Revision: catalog.Revision{Start: starts[id], Counter: counter}})
			}
			return out
		}
		var step func(state.Event)
		step = func(e state.Event) {
			r := s.Step(e, now)
			for _, rec := range r.Objects {
				switch rec := rec.(type) {
				case state.EventsRecord:
					log = append(log, rec.Events...)
				case state.RegionsRecord:
					if rec.Set.Number != set.Number+1 {
						t.Fatalf("region set %d follows %d", rec.Set.Number, set.Number)
					}
					set = rec.Set
				}
			}
			if f, ok := e.(state.ForgetPlacement); ok && r.Err == nil {
				forgotten[f.Region+"/"+f.Slate] = true
			}
			if r.Then != nil {
				step(r.Then)
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(-5, 40).Draw(t, "seconds")) * time.Second)
			id := pick()
			bucket := rapid.SampledFrom([]string{"B", "B", "B", "C", ""}).Draw(t, "bucket")
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0, 1:
				next++
				starts[next] = rapid.Uint64Range(1, 4).Draw(t, "start")
				step(state.Hello{Session: next, Region: rapid.SampledFrom([]string{"eu", "us", "mars"}).Draw(t, "region"),
					Cluster: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "cluster"), Agent: fmt.Sprint(starts[next]),
					Generation: starts[next], Start: starts[next], BucketID: bucket})
			case 2, 3:
				step(state.Beat{Session: id, BucketID: bucket, ReadOK: rapid.Bool().Draw(t, "read"), At: catalog.Revision{Start: starts[id]}})
			case 4:
				step(state.Delta{Session: id, Facts: draw(id), Upto: catalog.Revision{Start: starts[id], Counter: counter}})
			case 5, 6:
				step(state.Snapshot{Session: id, Facts: draw(id), Upto: catalog.Revision{Start: starts[id], Counter: counter}, Empty: rapid.Bool().Draw(t, "empty")})
			case 7:
				step(rapid.SampledFrom([]state.Event{state.Tick{}, state.Closed{Session: id}, state.AcceptRegion{Region: "eu", By: "eve"}}).Draw(t, "other"))
			case 8:
				name := fmt.Sprintf("db-%d", rapid.IntRange(0, 14).Draw(t, "forget"))
				was := s.View().Placement("eu", name)
				step(state.ForgetPlacement{Region: "eu", Slate: name, By: "eve"})
				if forgotten["eu/"+name] && was != nil && was.State != catalog.StateMissing && s.View().Placement("eu", name) == nil {
					t.Fatalf("%s was %s and could be forgotten", name, was.State)
				}
			case 9:
				if rapid.Bool().Draw(t, "save") || saved == nil {
					b, err := json.Marshal(state.Rows(s.View()))
					if err != nil {
						t.Fatal(err)
					}
					saved = new(state.SavedView)
					if err := json.Unmarshal(b, saved); err != nil {
						t.Fatal(err)
					}
				}
				b, _ := json.Marshal(saved)
				mine := new(state.SavedView)
				if err := json.Unmarshal(b, mine); err != nil {
					t.Fatal(err)
				}
				s = state.New(state.Config{}, state.Saved{Regions: set, View: mine, Events: log}, now)
				next, starts = 0, map[state.SessionID]uint64{}
			}
			v := s.View()
			for p := range v.Placements() {
				ever[p.Region+"/"+p.Root] = true
				delete(forgotten, p.Region+"/"+p.Root)
			}
			for k := range ever {
				region, root := k[:2], k[3:]
				if v.Placement(region, root) == nil && !forgotten[k] {
					t.Fatalf("the row of %s is gone", k)
				}
			}
			for r := range v.Regions() {
				var all, missing uint64
				for p := range v.PlacementsIn(r.Name) {
					all++
					if p.State == catalog.StateMissing {
						missing++
					} else if r.State == catalog.RegionBlind || r.State == catalog.RegionStale {
						if p.State != catalog.StateStale {
							t.Fatalf("%s in %s (%s) is %s", p.Root, r.Name, r.State, p.State)
						}
					}
				}
				if all != r.Placements || missing != r.Missing {
					t.Fatalf("%s says %d placements, %d missing; there are %d, %d", r.Name, r.Placements, r.Missing, all, missing)
				}
			}
		}
		// Each change once: the log says of a root what follows from what it
		// said before.
		said := map[string]string{}
		for i, e := range log {
			if e.Seq != uint64(i+1) {
				t.Fatalf("event %d has number %d", i+1, e.Seq)
			}
			k := e.Region + "/" + e.Root
			switch e.Type {
			case catalog.EventSlateForgotten:
				said[k] = ""
			case catalog.EventSlateAppeared, catalog.EventSlateMissing, catalog.EventSlateBack:
				if said[k] != e.Before || e.Before == e.After {
					t.Fatalf("%s went from %q, was %q: %+v", k, e.Before, said[k], e)
				}
				said[k] = e.After
			}
		}
	})
}
