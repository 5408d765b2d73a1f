package table

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// filled is a fleet as the hub keeps it: hidden columns, few values in what
// has few, every root its own incarnation.
func filled(n int) (*Builder[catalog.Placement], *Schema) {
	sc := placements()
	b := NewBuilder[catalog.Placement](sc)
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range n {
		s, _ := b.Put(usual(rng, i))
		b.SetNumber(s, sc.Col("sum_hi"), rng.Uint64())
		b.SetNumber(s, sc.Col("sum_lo"), rng.Uint64())
		b.SetNumber(s, sc.Col("counter"), uint64(i))
	}
	return b, sc
}

// usual is a placement as most are.
func usual(rng *rand.Rand, i int) *catalog.Placement {
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &catalog.Placement{Region: fmt.Sprint("region-", i%8), State: "live", ObservedAt: base.Add(time.Duration(i) * time.Millisecond), FirstSeen: base, StateSince: base}
	p.Slate = fmt.Sprintf("dbs/team-%02d/db-%07d", i%50, i)
	p.Root, p.Kind, p.Seen, p.PositionDomain = p.Slate, catalog.Kinds[i%5], "live", "seq"
	p.Incarnation = fmt.Sprintf("01JD%022d", i)
	p.Lineage = p.Incarnation
	p.Checkpoints, p.Readers = []catalog.Checkpoint{}, []catalog.Reader{}
	p.ManifestID, p.WriterEpoch, p.CompactorEpoch = ptr(uint64(rng.IntN(1000))), ptr(uint64(rng.IntN(20))), ptr(uint64(rng.IntN(20)))
	p.LastL0Seq, p.WALTail, p.ReplayAfterWAL = ptr(uint64(rng.IntN(1e6))), ptr(uint64(rng.IntN(1e5))), ptr(uint64(rng.IntN(1e5)))
	p.L0Count, p.RunCount, p.Position, p.Bytes = ptr(uint64(rng.IntN(8))), ptr(uint64(rng.IntN(8))), ptr(uint64(rng.IntN(1e9))), ptr(rng.Uint64N(1<<36))
	return p
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// cpu is what this process has spent on all its threads, the collector's
// included: other work on the machine does not show in it.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perOp runs step in a benchmark's loop and reports the CPU of each.
func perOp(b *testing.B, step func()) {
	b.ReportAllocs()
	runtime.GC()
	began, n := time.Duration(0), 0
	for b.Loop() {
		if n == 0 {
			began = cpu()
		}
		step()
		n++
	}
	b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(n), "cpu-ns/op")
}

// What a table costs, each as CPU of one operation; QUARRY_BENCH_BIG=1 adds a
// million rows.
func BenchmarkTable(b *testing.B) {
	for _, n := range sizes() {
		before, began := heap(), cpu()
		w, sc := filled(n)
		put := float64((cpu() - began).Nanoseconds()) / float64(n)
		tb := w.Share()
		bytesOf := float64(heap()-before) / float64(n)
		rng := rand.New(rand.NewPCG(4, 4))
		i := 0
		share := func() {
			if i++; i%100 == 0 {
				w.Share()
			}
		}
		run := func(name string, step func()) {
			b.Run(fmt.Sprintf("rows=%d/%s", n, name), func(b *testing.B) { perOp(b, step) })
		}
		b.Run(fmt.Sprintf("rows=%d/Fill", n), func(b *testing.B) {
			for b.Loop() {
			}
			b.ReportMetric(bytesOf, "B/row")
			b.ReportMetric(put, "cpu-ns/row")
		})
		cols := []int{sc.Col("position"), sc.Col("wal_tail_id"), sc.Col("observed_at"), sc.Col("counter"), sc.Col("last_l0_seq")}
		at, _ := TimeNumber(time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC))
		run("SetFive", func() {
			s := Slot(rng.IntN(n))
			for k, col := range cols {
				if k == 2 {
					w.SetNumber(s, col, at+uint64(i)*1000)
					continue
				}
				v, _ := w.Number(s, col)
				w.SetNumber(s, col, v+3)
			}
			share()
		})
		// One in a hundred rows moves all the time, as in most fleets.
		run("SetFiveHot", func() {
			s := Slot(rng.IntN(n / 100))
			for k, col := range cols {
				if k == 2 {
					w.SetNumber(s, col, at+uint64(i)*1000)
					continue
				}
				v, _ := w.Number(s, col)
				w.SetNumber(s, col, v+3)
			}
			share()
		})
		run("SetBytes", func() {
			w.SetNumber(Slot(rng.IntN(n)), sc.Col("bytes"), rng.Uint64N(1<<36))
			share()
		})
		run("PutChanged", func() {
			p := w.Row(Slot(rng.IntN(n)))
			*p.Position++
			w.Put(p)
			share()
		})
		run("PutSame", func() {
			w.Put(w.Row(Slot(rng.IntN(n))))
			share()
		})
		run("Row", func() { tb.Row(Slot(rng.IntN(n))) })
		run("Find", func() {
			k := rng.IntN(n)
			if tb.Find(fmt.Sprint("region-", k%8), fmt.Sprintf("dbs/team-%02d/db-%07d", k%50, k)) == None {
				b.Fatal("not found")
			}
		})
		var buf [ChunkRows]uint64
		position := sc.Col("position")
		run("Scan", func() {
			hits := 0
			for i := range tb.Chunks() {
				c := tb.Chunk(i)
				m := c.Numbers(position, &buf)
				var hit Mask
				for k, v := range buf {
					if v > 999_000_000 {
						hit |= 1 << k
					}
				}
				hits += (hit & m & c.Live()).Len()
			}
			if hits == 0 {
				b.Fatal("nothing")
			}
		})
		var file bytes.Buffer
		run("Save", func() {
			file.Reset()
			if err := tb.Write(&file); err != nil {
				b.Fatal(err)
			}
		})
		run("Load", func() {
			if _, err := Read[catalog.Placement](sc, bytes.NewReader(file.Bytes())); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// sizes are 10,000 and 100,000 rows, and a million with QUARRY_BENCH_BIG=1.
func sizes() []int {
	if os.Getenv("QUARRY_BENCH_BIG") == "1" {
		return []int{1_000_000}
	}
	return []int{10_000, 100_000}
}
