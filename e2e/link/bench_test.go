package link

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkSnapshot is the way of a whole region, from a fresh agent to a hub
// that has it all, over loopback TCP.
func BenchmarkSnapshot(b *testing.B) {
	const rows = 10_000
	h := startHub(b, newMirror(b), "127.0.0.1:0")
	start := uint64(1000)
	for b.Loop() {
		start++
		o := options(h.addr)
		o.Start = start
		r, stop := startAgent(b, o)
		for i := range uint64(rows) {
			r.Set(place(fmt.Sprintf("dbs/%d", i), i))
		}
		r.Ready()
		for !r.Status().Connected || r.Status().Acked.Counter < rows {
			time.Sleep(time.Millisecond)
		}
		stop()
	}
	b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
}
