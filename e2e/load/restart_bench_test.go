package load_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/load"
	"github.com/quarry-db/quarry/hub"
	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	regionset "github.com/quarry-db/quarry/regions"
)

// settled is the view of a hub that has heard everything of a fleet, with
// readers, registrations and restore points.
func settled(b *testing.B, f *load.Fleet, at time.Time) *view.View {
	b.Helper()
	set, err := regionset.Parse(f.Regions())
	if err != nil {
		b.Fatal(err)
	}
	s := state.New(state.Config{}, state.Saved{Regions: set}, at)
	rng := rand.New(rand.NewPCG(1, 2))
	for r, name := range f.Regions() {
		id := state.SessionID(r + 1)
		s.Step(state.Hello{Session: id, Region: name, Cluster: "a", Agent: "x", Generation: 1, Start: 1, BucketID: load.BucketID(name)}, at)
		s.Step(state.Beat{Session: id, BucketID: load.BucketID(name), ReadOK: true, At: catalog.Revision{Start: 1}}, at)
		var facts []catalog.Fact
		for fact := range f.Facts(r) {
			fact.Revision = catalog.Revision{Start: 1, Counter: uint64(len(facts) + 1)}
			fact.Sum = catalog.Sum{Bucket: uint8(rng.Uint32()), Hi: rng.Uint64(), Lo: rng.Uint64()}
			facts = append(facts, fact)
		}
		s.Step(state.Snapshot{Session: id, Facts: facts, Upto: facts[len(facts)-1].Revision}, at)
	}
	v := s.View()
	if v.PlacementTable().Len() != f.Size() {
		b.Fatalf("%d placements, want %d", v.PlacementTable().Len(), f.Size())
	}
	return v
}

// BenchmarkRestart begins a hub's life with the saved view of a fleet: from
// the claim of its store to the view that answers, which is when /readyz says
// so. QUARRY_BENCH_BIG=1 takes a million placements.
func BenchmarkRestart(b *testing.B) {
	n := 100_000
	if os.Getenv("QUARRY_BENCH_BIG") == "1" {
		n = 1_000_000
	}
	b.Run(fmt.Sprint(n), func(b *testing.B) {
		regions := []string{"r1", "r2", "r3", "r4"}
		f, err := load.New(load.Options{Regions: regions, Slates: n / len(regions), Seed: 1, Epoch: 1000})
		if err != nil {
			b.Fatal(err)
		}
		ctx := context.Background()
		store, err := bucket.Open(ctx, "file://"+b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		defer store.Close()
		size := func() (all int64) {
			if err := store.Walk(ctx, "view/", "", func(_ string, size int64, _ time.Time) error { all += size; return nil }); err != nil {
				b.Fatal(err)
			}
			return all
		}
		now := time.Now()
		l, _, err := ledger.Open(ctx, store, ledger.Config{Regions: regions, Holder: "bench", ID: "before", Now: now})
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		v := settled(b, f, now)
		told := time.Since(began)
		began = time.Now()
		if err := l.SaveView(ctx, v); err != nil {
			b.Fatal(err)
		}
		saved := time.Since(began)
		want := v.Seq()
		v = nil //nolint:wastedassign // it is a million rows, which the collector may have
		var took, slowest, busy time.Duration
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			runtime.GC()
			b.StartTimer()
			began, before := time.Now(), cpu()
			h, err := hub.New(ctx, hub.Config{Store: store, ID: fmt.Sprint("life ", i), Post: func(state.SessionID, state.Message) {}})
			if err != nil {
				b.Fatal(err)
			}
			d := time.Since(began)
			took, slowest, busy = took+d, max(slowest, d), busy+cpu()-before
			if got := h.View(); got.PlacementTable().Len() != n || got.Seq() < want {
				b.Fatalf("%d placements at %d, want %d at %d", got.PlacementTable().Len(), got.Seq(), n, want)
			}
		}
		b.ReportMetric(took.Seconds()/float64(b.N)*1e6/float64(n), "s/million")
		b.ReportMetric(busy.Seconds()/float64(b.N)*1e6/float64(n), "cpu-s/million")
		b.ReportMetric(slowest.Seconds()*1e6/float64(n), "slowest-s/million")
		b.ReportMetric(saved.Seconds()*1e6/float64(n), "save-s/million")
		b.ReportMetric(told.Seconds()*1e6/float64(n), "told-s/million")
		b.ReportMetric(float64(size())/float64(n), "saved-B/row")
	})
}
