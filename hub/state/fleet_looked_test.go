package state_test

import (
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// A slate that was looked at, and for which nothing was wished, is looked at
// again when something has changed of it, when the documents have, when its
// regions stand otherwise, and after some minutes; and not for anything else.
func TestASlateIsLookedAtAgainWhenItsRulingMayBeAnother(t *testing.T) {
	set, err := regions.Parse([]string{"eu"})
	if err != nil {
		t.Fatal(err)
	}
	s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
	now, counter := dawn, uint64(0)
	tell := func(facts ...catalog.Fact) {
		counter++
		for i := range facts {
			facts[i].Revision = revOf(counter)
		}
		s.Step(state.Delta{Session: 1, Facts: facts, Upto: revOf(counter)}, now)
	}
	placed := func(slate string, position uint64) catalog.Fact {
		return catalog.Fact{Kind: catalog.FactPlacement, Key: slate, Sighting: &catalog.Sighting{Slate: slate, Root: slate, Kind: catalog.KindSnapshots,
			Seen: catalog.SeenLive, Incarnation: "I", IncarnationKept: true, Lineage: "X", PositionDomain: "lsn", Position: &position}}
	}
	point := func(slate string, at uint64) catalog.Fact {
		return catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(slate, "s"), RestorePoint: &catalog.RestorePoint{Slate: slate, Root: slate, ID: "s",
			Source: catalog.SourceSnapshot, Incarnation: "I", Lineage: "X", PositionDomain: "lsn", Position: &at, State: catalog.RestoreVerified}}
	}
	apply := func(text string) {
		t.Helper()
		docs, err := regions.ParseDocuments("d.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if r := s.Step(state.ApplyDocuments{Documents: docs, By: "x"}, now); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	pass := func(d time.Duration) {
		for ; d > 0; d -= 10 * time.Second {
			now = now.Add(10 * time.Second)
			s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: revOf(counter)}, now)
			s.Step(state.Tick{}, now)
		}
	}
	s.Step(state.Hello{Session: 1, Region: "eu", Cluster: "k", Agent: "a", Generation: 1, Start: 1, BucketID: "B"}, now)
	s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true}, now)
	s.Step(state.Snapshot{Session: 1, Upto: revOf(0), Empty: true}, now)
	tell(placed("a", 100), placed("b", 100), point("a", 90))
	for range 2 {
		if !s.LookedAgain("a") {
			continue
		}
		t.Error("without a policy nothing is known to be unchanged")
	}
	const policy = "apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: p}\nselect: {kinds: [snapshots]}\n"
	apply(policy + "trim: {require: {all: true}, keepNewest: {positions: 20}}\n")
	for s.Step(state.Tend{}, now).Tend {
	}
	look := func(what string, wantA, wantB bool) {
		t.Helper()
		if a, b := s.LookedAgain("a"), s.LookedAgain("b"); a != wantA || b != wantB {
			t.Errorf("%s: unchanged are a %t, b %t; want %t, %t", what, a, b, wantA, wantB)
		}
		if !s.LookedAgain("a") || !s.LookedAgain("b") {
			t.Errorf("%s: what was looked at just now has changed", what)
		}
	}
	look("they were not looked at yet", false, false)
	pass(10 * time.Second)
	look("time passes", true, true)
	tell(placed("b", 150))
	look("b goes on, and there is no restore point to cut to", true, true)
	tell(placed("a", 105))
	look("a goes on, and keepNewest lets more go", false, true)
	tell(point("b", 80))
	look("b has a restore point", true, false)
	apply("apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: h}\nselect: {names: [nothing]}\nfrom: {position: 0}\n")
	look("a hold is applied, whatever it is about", false, false)
	s.Step(state.Freeze{Scope: "slate/b", By: "x"}, now)
	look("b is frozen", true, false)
	apply(policy + "trim: {require: {all: true}, keepNewest: {positions: 21}}\n")
	look("the policy is another one", false, false)
	s.Step(state.Closed{Session: 1}, now)
	now = now.Add(2 * time.Minute)
	s.Step(state.Tick{}, now)
	look("the region is silent", false, false)
	now = now.Add(11 * time.Minute)
	s.Step(state.Tick{}, now)
	look("minutes pass", false, false)
	for range 2 {
		if !s.LookedAgain("nothere") {
			continue
		}
		t.Error("what does not exist is not known to be unchanged")
	}
}

// What cannot be kept is ruled upon one by one: slower, and the same.
func TestADocketThatCannotBeKeptIsDoneWithout(t *testing.T) {
	f := newCrew(t, state.Config{}, 2, "ap", "eu")
	f.apply(policyOf("{require: {all: true}}", ""))
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=100 eu=100")
	if _, whole := state.RulingsOf(f.s.View(), f.s.Rules(), f.now); !whole {
		t.Fatal("it is not kept to begin with")
	}
	state.SpoilDocket(f.s)
	f.snapshot("ap", "archive/0", 200)
	f.snapshot("eu", "archive/0", 150)
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=150 eu=150")
	v := f.s.View()
	if says, whole := state.RulingsOf(v, f.s.Rules(), f.now); whole || says != nil {
		t.Errorf("what is kept is believed: %v", says)
	}
	if sum := state.SumTrims(v, f.now); sum.Slates != 2 || sum.Permitted != 2 {
		t.Errorf("%+v", sum)
	}
	if tested := state.TestTrim(v, f.s.Rules(), f.now); tested.Slates != 2 || tested.Unchanged != 2 {
		t.Errorf("%+v", tested)
	}
}
