package slatedb_test

import (
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/internal/dirstore"
)

// bigStore is the folder that e2e/peers/make_big.py filled.
func bigStore(b *testing.B) *dirstore.Store {
	b.Helper()
	dir := os.Getenv("QUARRY_BENCH_DB")
	if dir == "" {
		b.Skip("NOT MEASURED: fill a folder with e2e/peers/make_big.py and name it in QUARRY_BENCH_DB")
	}
	return dirstore.New(dir)
}

func BenchmarkBigScan(b *testing.B) {
	for _, root := range []string{"live", "deleted"} {
		b.Run(root, func(b *testing.B) {
			s := bigStore(b)
			var rows, bytes, requests int64
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				r, err := slatedb.OpenReader(b.Context(), s, root, slatedb.ReaderOptions{})
				if err != nil {
					b.Fatal(err)
				}
				for e, err := range r.Scan(b.Context(), nil, nil) {
					if err != nil {
						b.Fatal(err)
					}
					rows++
					bytes += int64(len(e.Key) + len(e.Value))
				}
				requests += r.Requests().Gets
			}
			if root == "live" && rows == 0 {
				b.Fatal("no rows")
			}
			b.ReportMetric((cpu()-before).Seconds()/float64(b.N), "cpu-s/op")
			seconds := b.Elapsed().Seconds()
			b.ReportMetric(float64(rows)/seconds, "rows/s")
			b.ReportMetric(float64(bytes)/seconds/1e6, "MB/s")
			b.ReportMetric(float64(requests)/float64(b.N), "requests/op")
		})
	}
}

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bigKeys are keys of the database in random order.
func bigKeys(b *testing.B, r *slatedb.Reader) [][]byte {
	var keys [][]byte
	for e, err := range r.Scan(b.Context(), nil, nil) {
		if err != nil {
			b.Fatal(err)
		}
		keys = append(keys, append([]byte(nil), e.Key...))
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys
}

func BenchmarkBigGet(b *testing.B) {
	s := bigStore(b)
	for _, c := range []struct {
		name     string
		cache    int64
		parallel int
	}{{"cached", 0, 1}, {"uncached", -1, 1}, {"uncached-16", -1, 16}} {
		b.Run(c.name, func(b *testing.B) {
			r, err := slatedb.OpenReader(b.Context(), s, "live", slatedb.ReaderOptions{BlockCacheBytes: c.cache})
			if err != nil {
				b.Fatal(err)
			}
			keys := bigKeys(b, r)
			if _, err := r.Get(b.Context(), keys[0]); err != nil { // filters and indexes
				b.Fatal(err)
			}
			s.Forget()
			before := r.Requests().Gets
			b.ResetTimer()
			b.ReportAllocs()
			if c.parallel == 1 {
				for i := 0; i < b.N; i++ {
					if _, err := r.Get(b.Context(), keys[i%len(keys)]); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				var next atomic.Int64
				b.SetParallelism(c.parallel)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := r.Get(b.Context(), keys[int(next.Add(1))%len(keys)]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
			b.ReportMetric(float64(r.Requests().Gets-before)/float64(b.N), "requests/get")
		})
	}
}
