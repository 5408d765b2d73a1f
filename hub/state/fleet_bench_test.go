package state_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// BenchmarkFleet is what the hub does with a million slates under a policy
// (QUARRY_BENCH_SLATES for another number; 20,000 by default): each a snapshot
// repository in four regions with a verified restore point in each. All of it is
// over the view that a state publishes.
func BenchmarkFleet(b *testing.B) {
	slates := 20_000
	if n, err := strconv.Atoi(os.Getenv("QUARRY_BENCH_SLATES")); err == nil && n > 0 {
		slates = n
	}
	names := []string{"ams", "eu", "sgp", "us"}
	set, err := regions.Parse(names)
	if err != nil {
		b.Fatal(err)
	}
	s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
	point := func(name string, at uint64, rev catalog.Revision) catalog.Fact {
		return catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(name, "s"), Revision: rev, RestorePoint: &catalog.RestorePoint{
			Slate: name, Root: name, ID: "s", Source: catalog.SourceSnapshot, Position: &at, PositionDomain: "lsn", State: catalog.RestoreVerified, Incarnation: "I", Lineage: "L"}}
	}
	for i, n := range names {
		id, rev := state.SessionID(i+1), catalog.Revision{Start: uint64(i + 1), Counter: 1}
		s.Step(state.Hello{Session: id, Region: n, Cluster: "c", Agent: n, Generation: 1, Start: rev.Start, BucketID: n}, dawn)
		s.Step(state.Beat{Session: id, BucketID: n, ReadOK: true}, dawn)
		var facts []catalog.Fact
		for k := range slates {
			name, at := fmt.Sprintf("logs-%07d/0", k), uint64(1000+k%100)
			facts = append(facts, point(name, uint64(100+(k*7+i*13)%500), rev), catalog.Fact{Kind: catalog.FactPlacement, Key: name, Revision: rev, Sighting: &catalog.Sighting{
				Slate: name, Root: name, Kind: catalog.KindSnapshots, Seen: catalog.SeenLive, Incarnation: "I", IncarnationKept: true, Lineage: "L", PositionDomain: "lsn", Position: &at}})
		}
		s.Step(state.Snapshot{Session: id, Facts: facts, Upto: rev}, dawn)
	}
	apply := func(to *state.State, text string) *regions.Rules {
		docs, err := regions.ParseDocuments("p.yaml", []byte(text))
		if err != nil {
			b.Fatal(err)
		}
		if to == nil {
			after, _, err := s.View().Rules().Apply(docs, set, "b", dawn)
			if err != nil {
				b.Fatal(err)
			}
			return after
		}
		if r := to.Step(state.ApplyDocuments{Documents: docs, By: "b"}, dawn); r.Err != nil {
			b.Fatal(r.Err)
		}
		return nil
	}
	policy := func(trim string) string {
		return "apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: archives}\nselect: {kinds: [snapshots], names: [\"logs-*\"]}\ntrim: " + trim + "\n"
	}
	s.View()
	atLeast2 := apply(nil, policy("{require: {atLeast: 2}}"))
	keepNewest := apply(nil, policy("{require: {all: true}, keepNewest: {positions: 700}}"))
	test := func(v *view.View, after *regions.Rules) func(b *testing.B) {
		return func(b *testing.B) {
			began := onCPU()
			for b.Loop() {
				if t := state.TestTrim(v, after, dawn); t.Slates != uint64(slates) || t.Opened+t.Raised+t.Lowered < uint64(slates)/3 {
					t.Changes = nil
					b.Fatalf("%+v", t)
				}
			}
			b.ReportMetric(float64((onCPU()-began).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(slates), "ns/slate")
		}
	}
	b.Run("policytest/first", test(s.View(), atLeast2)) // no policy is in force

	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	apply(s, policy("{require: {all: true}}"))
	steps, began := 0, onCPU()
	for s.Step(state.Tend{}, dawn).Tend {
		steps++
	}
	v := s.View()
	b.Logf("kept in %d steps of %.2f ms, %.0f bytes a slate", steps, float64((onCPU()-began).Microseconds())/1000/float64(steps), float64(heap()-before)/float64(slates))
	b.Run("policytest", test(v, atLeast2))
	b.Run("policytest/keepnewest", test(v, keepNewest))
	b.Run("summary", func(b *testing.B) {
		began := onCPU()
		for b.Loop() {
			if t := state.SumTrims(v, dawn); t.Permitted != uint64(slates) {
				b.Fatalf("%+v", t)
			}
		}
		b.ReportMetric(float64((onCPU()-began).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
	})
	b.Run("unchanged", func(b *testing.B) { // a pass of the steward that finds nothing new
		for b.Loop() {
			s.LookAtAll(func(string) {})
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(slates), "ns/slate")
	})
	// One of them changes: what is told of it in a step, and what of that is the
	// keeping of what rules read.
	counter := uint64(1)
	b.Run("change", func(b *testing.B) {
		began := onCPU()
		for n := 0; b.Loop(); n++ {
			counter++
			rev := catalog.Revision{Start: 1, Counter: counter}
			k := int(counter*7919) % slates
			s.Step(state.Delta{Session: 1, Facts: []catalog.Fact{point(fmt.Sprintf("logs-%07d/0", k), 600+counter%100, rev)}, Upto: rev}, dawn)
			if n%100 == 0 {
				s.View()
			}
		}
		b.ReportMetric(float64((onCPU()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
	})
	for _, publish := range []int{1, 100} {
		b.Run(fmt.Sprintf("change/kept/%d-a-view", publish), func(b *testing.B) {
			began := onCPU()
			for n := 0; b.Loop(); n++ {
				s.HearAgain(fmt.Sprintf("logs-%07d/0", n*7919%slates))
				if n%publish == 0 {
					s.ShareDocket()
				}
			}
			b.ReportMetric(float64((onCPU()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}
