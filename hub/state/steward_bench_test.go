package state_test

import (
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// A pass over 10,000 slates that are published as they should be: how long it
// takes, and how long one slice of it holds the loop.
func BenchmarkPass(b *testing.B) {
	const slates = 10_000
	f := newCrew(b, state.Config{}, slates, "ap", "eu", "us")
	upTo := uint64(100)
	for region := range f.points {
		for slate := range f.points[region] {
			f.permits[region][slate] = &catalog.Permit{Version: 1, Number: 1, Slate: slate, Root: slate, Incarnation: "I" + region, UpTo: &upTo, PositionDomain: "lsn", Lineage: "X",
				Decision: "6f1c1c3e-9d1e-4c8c-9a50-0b6a3c1b0002", Ledger: aLedger, Term: 1, Sequence: 1, Issued: f.now, NotAfter: f.now.Add(24 * time.Hour)}
		}
		f.connect(region)
	}
	f.apply(policyOf("{require: {all: true}}", ""))
	f.pass(10 * time.Second) // after the first its policy is settled
	b.ResetTimer()
	longest, slices := time.Duration(0), 0
	for range b.N {
		f.now = f.now.Add(20 * time.Second)
		for region := range f.session {
			f.beat(region)
		}
		for r := f.s.Step(state.Tick{}, f.now); r.Tend; slices++ {
			began := time.Now()
			r = f.s.Step(state.Tend{}, f.now)
			longest = max(longest, time.Since(began))
			if len(r.Records) > 0 {
				b.Fatalf("%d records of a pass that changes nothing", len(r.Records))
			}
		}
	}
	b.ReportMetric(float64(longest.Microseconds()), "µs/longest-slice")
	b.ReportMetric(float64(slices)/float64(b.N), "slices/pass")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/slates, "ns/slate")
}
