package plan

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

var fourRegions = []string{"ams", "eu", "sgp", "us"}

var connected = connectedTo(fourRegions...)

// fillSlate makes s one of a fleet: in each of four regions one to three
// restore points, some not verified, some verified too long ago; a hold here
// and there, and readers.
func fillSlate(rng *rand.Rand, s *Slate) {
	*s = Slate{Name: "archive/0", Lineage: "l", Head: new(uint64(2000)), Regions: s.Regions[:0], Pins: s.Pins[:0]}
	for _, name := range fourRegions {
		r := Region{Name: name, Membership: catalog.Active, State: catalog.RegionConnected, Heard: true, Placed: true, Lineage: "l"}
		position := 1000 + uint64(rng.IntN(1000))
		for range 1 + rng.IntN(3) {
			seen := now.Add(-time.Duration(rng.IntN(3000)) * time.Minute)
			pt := Point{Position: position, State: catalog.RestoreVerified, FirstSeen: seen, VerifiedAt: seen.Add(time.Duration(rng.IntN(100)) * time.Minute)}
			if rng.IntN(8) > 0 {
				pt.VerifiedAt = now.Add(-time.Duration(rng.IntN(1200)) * time.Minute)
			}
			if rng.IntN(50) == 0 {
				pt.State = catalog.RestoreIncomplete
			}
			r.Points = append(r.Points, pt)
			position -= uint64(rng.IntN(300))
		}
		s.Regions = append(s.Regions, r)
	}
	if rng.IntN(20) == 0 {
		s.Pins = append(s.Pins, Pin{Kind: pick(rng, PinHold, PinReader), ID: "h", Position: new(uint64(rng.IntN(3000)))})
	}
	if rng.IntN(1000) == 0 {
		s.Frozen = "frozen"
	}
}

func benchFleet(b *testing.B, slates int) *Fleet {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 6))
	f := NewFleet(fourRegions...)
	var s Slate
	for i := range slates {
		fillSlate(rng, &s)
		if err := f.Put(i, &s); err != nil {
			b.Fatal(err)
		}
	}
	return f
}

// onCPU is what this process has spent on cores: on a machine with other work it
// says more than the clock.
func onCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFleet is the decision engine at a million slates in four regions
// (QUARRY_BENCH_SLATES for another number), on one core: all of them ruled upon
// again, one of them changed and ruled upon, and what another policy would
// change, its selection by name and label included.
func BenchmarkFleet(b *testing.B) {
	slates := 1_000_000
	if n, err := strconv.Atoi(os.Getenv("QUARRY_BENCH_SLATES")); err == nil && n > 0 {
		slates = n
	}
	f := benchFleet(b, slates)
	perSlate := func(b *testing.B, began time.Duration) {
		b.ReportMetric(float64((onCPU()-began).Microseconds())/float64(b.N)/1000, "cpu-ms/op")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(slates), "ns/slate")
	}
	for _, c := range []struct{ name, trim string }{
		{"all", "trim: {require: {all: true}}"},
		{"gaps", "trim: {require: {all: true}, safetyGap: {positions: 100, age: 1h}, keepNewest: {positions: 500}}\nrestorePoints: {perRegion: 2}"},
		{"2of4", "trim: {require: {atLeast: 2, include: [eu]}}"},
	} {
		p := policy(b, c.trim)
		b.Run("again/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			permits, began := 0, onCPU()
			for b.Loop() {
				rule := f.Rule([]regions.Policy{p}, connected, now)
				permits = 0
				for i := range f.Len() {
					if f.Decide(rule, i).Permit {
						permits++
					}
				}
			}
			perSlate(b, began)
			b.ReportMetric(float64(permits)/float64(slates)*100, "%permits")
		})
	}

	p := policy(b, "trim: {require: {all: true}}")
	b.Run("change", func(b *testing.B) {
		rng := rand.New(rand.NewPCG(2, 6))
		changes := make([]Slate, 4096)
		places := make([]int, 4096)
		for i := range changes {
			fillSlate(rng, &changes[i])
			places[i] = rng.IntN(slates)
		}
		rule := f.Rule([]regions.Policy{p}, connected, now)
		b.ReportAllocs()
		began := onCPU()
		for n := 0; b.Loop(); n++ {
			i := n % len(changes)
			if err := f.Put(places[i], &changes[i]); err != nil {
				b.Fatal(err)
			}
			f.Decide(rule, places[i])
		}
		b.ReportMetric(float64((onCPU()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
	})

	b.Run("policytest", func(b *testing.B) {
		subjects := make([]regions.Subject, slates)
		labels := []map[string]string{{"env": "prod"}, {"env": "test"}}
		for i := range subjects {
			subjects[i] = regions.Subject{Name: fmt.Sprintf("orders-%d/0", i), Kind: catalog.KindSnapshots, Labels: labels[i%2]}
		}
		was := policy(b, "trim: {require: {all: true}}")
		is := policy(b, "trim: {require: {atLeast: 3}, safetyGap: {positions: 10}}")
		for _, p := range []*regions.Policy{&was, &is} {
			p.Select.Names, p.Select.Labels = []string{"orders*"}, map[string]string{"env": "prod"}
		}
		differ := 0
		b.ReportAllocs()
		began := onCPU()
		for b.Loop() {
			before, after := f.Rule([]regions.Policy{was}, connected, now), f.Rule([]regions.Policy{is}, connected, now)
			differ = 0
			for i := range subjects {
				var r, o *Rule
				if was.Select.Matches(subjects[i]) {
					r = before
				}
				if is.Select.Matches(subjects[i]) {
					o = after
				}
				if f.Decide(r, i) != f.Decide(o, i) {
					differ++
				}
			}
		}
		perSlate(b, began)
		b.ReportMetric(float64(differ)/float64(slates)*100, "%differ")
	})
}

func BenchmarkTrim(b *testing.B) {
	p := policy(b, "trim: {require: {all: true}}")
	s := slate(at("a", 120, 110), at("b", 100, 90), at("c", 80), at("d", 130))
	b.ReportAllocs()
	for b.Loop() {
		Trim(p, s, now)
	}
}
