package load_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/quarry-db/quarry/e2e/load"
	"github.com/quarry-db/quarry/e2e/load/house"
)

// BenchmarkQuery asks a hub over HTTP with JSON, alone and while 5,000 updates
// a second pour in over the real link. p50-ms and p99-ms are of the clock; the
// same questions beside other systems are in make bench-peers.
func BenchmarkQuery(b *testing.B) {
	const size = 100_000
	regions := []string{"r1", "r2", "r3", "r4"}
	up := startHub(b, house.Options{Regions: regions})
	f, err := load.New(load.Options{Regions: regions, Slates: size / len(regions), Seed: 1, Epoch: 1000})
	if err != nil {
		b.Fatal(err)
	}
	a := startAgents(b, f, load.Link{Hub: up.Agents, Seed: 1})
	await(b, a)
	ask := func(b *testing.B, path string, v url.Values) {
		resp, err := http.Get("http://" + up.Web + path + "?" + v.Encode())
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || n == 0 {
			b.Fatalf("%s: %d bytes, %v", resp.Status, n, err)
		}
	}
	for _, q := range []struct{ name, path, filter, order, by string }{
		{name: "filter-sort-page", filter: `region="r2" AND kind="log" AND state="live"`, order: "bytes desc"},
		{name: "unindexed-label", filter: `labels.team="routing"`, order: "bytes desc"},
		{name: "rare-state-against-order", filter: `state="unreadable" AND bytes<4096`, order: "bytes desc"},
		{name: "nothing", filter: `owner="nobody"`, order: "position desc"},
		{name: "facets", path: ":summarize", by: "region,kind,state"},
		{name: "count", path: ":summarize", by: "state", filter: `region="r2" AND kind="log"`},
	} {
		v := url.Values{"filter": {q.filter}, "order_by": {q.order}, "page_size": {"50"}}
		if q.by != "" {
			v = url.Values{"filter": {q.filter}, "by": {q.by}}
		}
		for _, busy := range []bool{false, true} {
			name := fmt.Sprintf("%s/%d/quiet", q.name, size)
			if busy {
				name = fmt.Sprintf("%s/%d/updates", q.name, size)
			}
			b.Run(name, func(b *testing.B) {
				var pouring sync.WaitGroup
				ctx, cancel := context.WithCancel(b.Context())
				if busy {
					pouring.Go(func() {
						pace := rate.NewLimiter(5000, 50)
						for pace.WaitN(ctx, 50) == nil {
							for range 50 {
								a.Set(f.Next())
							}
						}
					})
				}
				var h load.Histogram
				for b.Loop() {
					at := time.Now()
					ask(b, "/v1/placements"+q.path, v)
					h.Add(time.Since(at))
				}
				cancel()
				pouring.Wait()
				b.ReportMetric(float64(h.Quantile(.5).Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(h.Quantile(.99).Microseconds())/1000, "p99-ms")
			})
		}
	}
}
