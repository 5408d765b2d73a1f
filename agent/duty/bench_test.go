package duty

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// BenchmarkSeats is what 10,000 slates cost the holder of the duty: to write
// them all, to compare them all when nothing changed, and in memory besides what
// the catalog's writer keeps.
func BenchmarkSeats(b *testing.B) {
	const slates = 10_000
	store10k := func(b *testing.B) (*world, *keeper) {
		bk, err := bucket.Open(b.Context(), "mem://")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = bk.Close() })
		w := newWorld()
		w.d, err = New(bk, Options{Holder: "a", Ready: func() bool { return true }, Seen: w})
		if err != nil {
			b.Fatal(err)
		}
		w.d.notes.ask(true)
		for i := range slates {
			w.see(sighted(fmt.Sprintf("dbs/team-%02d/orders-%05d", i%37, i), uint64(i), catalog.Checkpoint{ID: fmt.Sprintf("%032d", i), ManifestID: 1}))
		}
		k, err := open(b.Context(), Store{b: bk}, newSeats(w, &w.d.notes, DefaultEvery))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(k.w.Abandon)
		return w, k
	}
	all := func(b *testing.B, k *keeper) (batches int) {
		for busy := true; busy; batches++ {
			if err := k.follow(b.Context(), claim{Number: 1}); err != nil {
				b.Fatal(err)
			}
			busy = len(k.seats.todo) > 0
		}
		return batches
	}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			_, k := store10k(b)
			b.StartTimer()
			b.ReportMetric(float64(all(b, k)), "batches")
		}
	})
	b.Run("compare", func(b *testing.B) {
		w, k := store10k(b)
		all(b, k)
		for b.Loop() {
			for _, root := range w.Roots() {
				k.seats.todo[root] = struct{}{}
			}
			if n := all(b, k); n != 1 {
				b.Fatalf("%d batches", n)
			}
		}
		b.StopTimer()
		heap := func() float64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return float64(m.HeapAlloc)
		}
		with := heap()
		k.seats.roots = nil
		b.ReportMetric((with-heap())/slates, "B/slate")
		runtime.KeepAlive(w)
	})
}
