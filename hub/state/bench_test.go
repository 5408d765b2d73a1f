package state_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

const benchRows = 100_000

func benchFact(i int, counter uint64) catalog.Fact {
	root := fmt.Sprintf("dbs/team-%02d/service-%06d", i%50, i)
	m, e, p, b, z := counter, uint64(3), counter*100, uint64(1<<30), uint64(0)
	made, dies := dawn, dawn.Add(10*time.Minute)
	return catalog.Fact{Kind: catalog.FactPlacement, Key: root, Revision: catalog.Revision{Start: 1, Counter: counter}, Sighting: &catalog.Sighting{
		Slate: root, Root: root, Kind: catalog.KindKeyValue, KindFrom: "first-key", Seen: catalog.SeenLive,
		Incarnation: "01JH0000000000000000000000", IncarnationKept: true, Lineage: "01JH0000000000000000000000",
		ManifestID: &m, ManifestVersion: &z, WriterEpoch: &e, CompactorEpoch: &e, LastL0Seq: &p, ReplayAfterWAL: &m, WALTail: &m, WALGap: &z,
		L0Count: &e, RunCount: &e, Position: &p, PositionDomain: "seq", Bytes: &b,
		Checkpoints: []catalog.Checkpoint{{ID: "c8f2b6e0-0000-4000-8000-000000000000", ManifestID: 1, Created: &made, Expires: &dies, Looks: "reader"}},
	}}
}

func benchState(b *testing.B) *state.State {
	facts := make([]catalog.Fact, benchRows)
	for i := range facts {
		facts[i] = benchFact(i, 1)
	}
	s := begin(b, state.Config{}, facts)
	s.View()
	return s
}

// BenchmarkStepDelta applies 100 changed sightings among 100k rows and
// publishes the view.
func BenchmarkStepDelta(b *testing.B) {
	s := benchState(b)
	counter := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		counter++
		facts := make([]catalog.Fact, 100)
		for i := range facts {
			facts[i] = benchFact(i*997%benchRows, counter)
		}
		b.StartTimer()
		s.Step(state.Delta{Session: 1, Facts: facts, Upto: catalog.Revision{Start: 1, Counter: counter}}, dawn)
		s.View()
	}
}

// BenchmarkSnapshot applies a snapshot of 100k rows in which nothing changed.
func BenchmarkSnapshot(b *testing.B) {
	s := benchState(b)
	counter := uint64(1)
	for b.Loop() {
		b.StopTimer()
		counter++
		facts := make([]catalog.Fact, benchRows)
		for i := range facts {
			facts[i] = benchFact(i, 1)
			facts[i].Revision.Counter = counter
		}
		b.StartTimer()
		s.Step(state.Snapshot{Session: 1, Facts: facts, Upto: catalog.Revision{Start: 1, Counter: counter}}, dawn)
		s.View()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRows, "ns/row")
}

// BenchmarkRegionFallsSilent rewrites the 100k rows of a region twice.
func BenchmarkRegionFallsSilent(b *testing.B) {
	s := benchState(b)
	now := dawn
	for b.Loop() {
		now = now.Add(2 * time.Minute)
		s.Step(state.Tick{}, now)
		s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: catalog.Revision{Start: 1}}, now)
		s.View()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRows/2, "ns/row")
}

// BenchmarkBytesPerRow reports what a placement costs in memory, with its
// slate, its owner's row and the event of its appearing.
func BenchmarkBytesPerRow(b *testing.B) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		s := benchState(b)
		b.ReportMetric(float64(heap()-before)/benchRows, "B/row")
		runtime.KeepAlive(s)
	}
}
