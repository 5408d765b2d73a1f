package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// Benchmarks run at 100k placements, and at a million unless -short is given.
// What a step costs is with its publication, shared by the 100 updates of a
// batch.

func benchSizes(b *testing.B) []int {
	if testing.Short() {
		return []int{100_000}
	}
	return []int{100_000, 1_000_000}
}

// benchFact is one of a fleet in which three slates in ten have a reader.
func benchFact(i int, counter uint64) catalog.Fact {
	root := fmt.Sprintf("dbs/team-%02d/service-%07d", i%50, i)
	n := new([5]uint64)
	n[0], n[1], n[2], n[3] = counter, 3, counter*100, uint64(i)<<20
	f := catalog.Fact{Kind: catalog.FactPlacement, Key: root, Revision: catalog.Revision{Start: 1, Counter: counter}, Ordinal: uint32(i + 1),
		Sum: catalog.Sum{Bucket: uint8(i), Hi: uint64(i) * 0x9E3779B97F4A7C15, Lo: counter * 0xC2B2AE3D27D4EB4F},
		Sighting: &catalog.Sighting{
			Slate: root, Root: root, Kind: catalog.KindKeyValue, KindFrom: "first-key", Seen: catalog.SeenLive,
			Incarnation: "01JH0000000000000000000000", IncarnationKept: true, Lineage: "01JH0000000000000000000000",
			ManifestID: &n[0], ManifestVersion: &n[4], WriterEpoch: &n[1], CompactorEpoch: &n[1], LastL0Seq: &n[2], ReplayAfterWAL: &n[0], WALTail: &n[0], WALGap: &n[4],
			L0Count: &n[1], RunCount: &n[1], Position: &n[2], PositionDomain: "seq", Bytes: &n[3],
		}}
	if i%10 < 3 {
		made, dies := dawn, dawn.AddDate(10, 0, 0)
		f.Sighting.Checkpoints = []catalog.Checkpoint{{ID: "c8f2b6e0-0000-4000-8000-000000000000", ManifestID: 1, Created: &made, Expires: &dies, Looks: "reader"}}
	}
	return f
}

func benchFacts(n int, counter uint64) []catalog.Fact {
	facts := make([]catalog.Fact, n)
	for i := range facts {
		facts[i] = benchFact(i, counter)
	}
	return facts
}

func benchState(b *testing.B, n int) *state.State {
	s := begin(b, state.Config{}, benchFacts(n, 1))
	s.View()
	return s
}

const batch = 100

// spent is the CPU time of this process, its collector's included: on a busy
// machine the wall clock says little.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// each runs a benchmark whose operation is a batch on one state, and reports
// what one update costs.
func each(b *testing.B, events func(round uint64, n int) state.Event) {
	for _, n := range benchSizes(b) {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := benchState(b, n)
			round := uint64(1)
			now := dawn
			var cpu time.Duration
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				round++
				now = now.Add(5 * time.Millisecond)
				e := events(round, n)
				b.StartTimer()
				before := spent()
				s.Step(e, now)
				s.View()
				cpu += spent() - before
			}
			b.ReportMetric(float64(cpu)/float64(b.N)/batch, "cpu-ns/update")
		})
	}
}

// BenchmarkMove applies what only moved.
func BenchmarkMove(b *testing.B) {
	each(b, func(round uint64, n int) state.Event {
		moves := make([]catalog.Move, batch)
		for i := range moves {
			m := &moves[i]
			m.Ordinal, m.Counter = uint32((int(round)*batch+i)*7919%n)+1, round
			m.Mask = 1<<0 | 1<<1 | 1<<3 | 1<<8
			m.Values = [len(catalog.MoveFields)]uint64{0: round, 1: round * 100, 3: round, 8: round * 100}
			m.Packed = []byte{2, 2, 2, 2}
		}
		return state.Moves{Session: 1, Moves: moves, Upto: catalog.Revision{Start: 1, Counter: round}}
	})
}

// BenchmarkFact applies whole facts of which only numbers changed.
func BenchmarkFact(b *testing.B) {
	each(b, func(round uint64, n int) state.Event {
		facts := make([]catalog.Fact, batch)
		for i := range facts {
			facts[i] = benchFact((int(round)*batch+i)*7919%n, round)
		}
		return state.Delta{Session: 1, Facts: facts, Upto: catalog.Revision{Start: 1, Counter: round}}
	})
}

// BenchmarkNewRow applies facts of slates that were not known.
func BenchmarkNewRow(b *testing.B) {
	each(b, func(round uint64, n int) state.Event {
		facts := make([]catalog.Fact, batch)
		for i := range facts {
			facts[i] = benchFact(n+int(round)*batch+i, round)
		}
		return state.Delta{Session: 1, Facts: facts, Upto: catalog.Revision{Start: 1, Counter: round}}
	})
}

// BenchmarkSnapshot applies a snapshot of 100k rows in which nothing changed.
func BenchmarkSnapshot(b *testing.B) {
	const rows = 100_000
	s := benchState(b, rows)
	counter := uint64(1)
	for b.Loop() {
		b.StopTimer()
		counter++
		facts := benchFacts(rows, 1)
		for i := range facts {
			facts[i].Revision.Counter = counter
		}
		b.StartTimer()
		s.Step(state.Snapshot{Session: 1, Facts: facts, Upto: catalog.Revision{Start: 1, Counter: counter}}, dawn)
		s.View()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}

// BenchmarkRegionFallsSilent has all rows of a region go stale and be current
// again.
func BenchmarkRegionFallsSilent(b *testing.B) {
	for _, n := range benchSizes(b) {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := benchState(b, n)
			now := dawn
			for b.Loop() {
				now = now.Add(2 * time.Minute)
				s.Step(state.Tick{}, now)
				s.View()
				b.StopTimer()
				s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: catalog.Revision{Start: 1}}, now)
				s.Step(state.Tick{}, now)
				s.View()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkBytesPerRow reports what a placement costs in memory with all that
// is known of it, strings included.
func BenchmarkBytesPerRow(b *testing.B) {
	for _, n := range benchSizes(b) {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				s := benchState(b, n)
				b.ReportMetric(float64(heap()-before)/float64(n), "B/row")
				b.ReportMetric(0, "ns/op")
				runtime.KeepAlive(s)
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkBegin begins a hub's life with a view that was saved by columns.
func BenchmarkBegin(b *testing.B) {
	set, err := regions.Parse([]string{"eu"})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range benchSizes(b) {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			v := benchState(b, n).View()
			var saved, slates bytes.Buffer
			if err := errors.Join(v.WritePlacements(&saved), v.WriteSlates(&slates)); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(saved.Len()+slates.Len())/float64(n), "B/row")
			for b.Loop() {
				t, err := view.ReadTables(bytes.NewReader(saved.Bytes()), bytes.NewReader(slates.Bytes()))
				if err != nil {
					b.Fatal(err)
				}
				beside := state.Beside(v)
				beside.Tables = t
				s := state.New(state.Config{}, state.Saved{Regions: set, View: beside}, dawn)
				if s.View().PlacementTable().Len() != n {
					b.Fatal("rows are lacking")
				}
			}
		})
	}
}
