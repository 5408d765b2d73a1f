package state_test

import (
	"fmt"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// archivesEverywhere is a view of so many archives in three regions, and beside
// each nine databases that no policy is about.
func archivesEverywhere(b *testing.B, archives int) *view.View {
	names := []string{"ap", "eu", "us"}
	set, err := regions.Parse(names)
	if err != nil {
		b.Fatal(err)
	}
	s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
	for i, n := range names {
		id, rev := state.SessionID(i+1), catalog.Revision{Start: uint64(i + 1), Counter: 1}
		s.Step(state.Hello{Session: id, Region: n, Cluster: "c", Agent: n, Generation: 1, Start: rev.Start, BucketID: n}, dawn)
		s.Step(state.Beat{Session: id, BucketID: n, ReadOK: true}, dawn)
		var facts []catalog.Fact
		for k := range archives {
			for j := range 10 {
				name, kind := fmt.Sprintf("a%06d/%d", k, j), catalog.KindSlateDB
				if j == 0 {
					kind = catalog.KindSnapshots
					at := uint64(100 + k + i)
					facts = append(facts, catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(name, "s"), Revision: rev, RestorePoint: &catalog.RestorePoint{
						Slate: name, Root: name, ID: "s", Source: catalog.SourceSnapshot, Position: &at, State: catalog.RestoreVerified, Lineage: name}})
				}
				facts = append(facts, catalog.Fact{Kind: catalog.FactPlacement, Key: name, Revision: rev, Sighting: &catalog.Sighting{
					Slate: name, Root: name, Kind: kind, Seen: catalog.SeenLive, Lineage: name}})
			}
		}
		s.Step(state.Snapshot{Session: id, Facts: facts, Upto: rev}, dawn)
	}
	docs, err := regions.ParseDocuments("p.yaml", []byte(archivesPolicy("{all: true}")))
	if err != nil {
		b.Fatal(err)
	}
	if r := s.Step(state.ApplyDocuments{Documents: docs, By: "b"}, dawn); r.Err != nil {
		b.Fatal(r.Err)
	}
	for s.Step(state.Tend{}, dawn).Tend {
	}
	return s.View()
}

func archivesPolicy(require string) string {
	return "apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: archives}\nselect: {kinds: [snapshots]}\ntrim: {require: " + require + "}\n"
}

// BenchmarkPolicyTest compares the verdicts on 10,000 archives among 100,000
// slates, three placements each.
func BenchmarkPolicyTest(b *testing.B) {
	v := archivesEverywhere(b, 10_000)
	docs, err := regions.ParseDocuments("p.yaml", []byte(archivesPolicy("{atLeast: 2}")))
	if err != nil {
		b.Fatal(err)
	}
	set, err := regions.Parse([]string{"ap", "eu", "us"})
	if err != nil {
		b.Fatal(err)
	}
	after, _, err := v.Rules().Apply(docs, set, "b", dawn)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if t := state.TestTrim(v, after, dawn); t.Slates != 10_000 || t.Raised != 10_000 {
			b.Fatalf("%+v", t)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10_000, "ns/slate")
}

// BenchmarkExplain is one verdict with its words.
func BenchmarkExplain(b *testing.B) {
	v := archivesEverywhere(b, 1000)
	for b.Loop() {
		if e, err := state.ExplainTrim(v, "a000500/0", "", dawn); err != nil || e.UpTo == nil {
			b.Fatal(err)
		}
	}
}
