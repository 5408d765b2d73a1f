package plan

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// In random worlds no pruning breaks a promise, a second one after it was carried
// out removes nothing more, and often enough there is something to remove.
func TestRandomPruningsLoseNothingThatMustStay(t *testing.T) {
	worlds := 100_000
	if testing.Short() {
		worlds = 10_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 7))
	pruned := 0
	for i := range worlds {
		policies, s, floor := randomPruning(r)
		got := Prune(policies, s, floor, now)
		if why := wrongPruning(policies, &s, floor, now, &got); why != "" {
			t.Fatalf("seed %d, world %d: %s\npolicies %+v\nfloor %v\n%+v\n%+v", seed, i, why, policies, floor, s, got)
		}
		if got.Action != Remove {
			continue
		}
		pruned++
		// While the decisions are under way, and when they are done, it asks for nothing else.
		for _, gone := range []bool{false, true} {
			after := s
			after.Regions = nil
			for _, region := range s.Regions {
				var left []Point
				for _, p := range region.Points {
					for _, one := range got.Regions {
						for _, id := range one.Remove {
							if one.Region == region.Name && id == p.ID {
								p.Leaving = true
							}
						}
					}
					if !gone || !p.Leaving {
						left = append(left, p)
					}
				}
				region.Points, region.Orphans = left, nil
				after.Regions = append(after.Regions, region)
			}
			if again := Prune(policies, after, floor, now); again.Action == Remove {
				t.Fatalf("seed %d, world %d: after %+v\nit wants %+v\nof %+v", seed, i, got, again, after)
			}
		}
	}
	if pruned < worlds/50 {
		t.Errorf("of %d worlds %d had something to prune", worlds, pruned)
	}
	t.Logf("%d of %d worlds had something to prune", pruned, worlds)
}

// One policy says what is kept in ams, another is about fra and only sweeps there:
// nothing of fra's goes by the word for ams.
func TestASchedulePrunesOnlyWhereItsPolicyIs(t *testing.T) {
	ams, fra := regions.Policy{Name: "ams"}, regions.Policy{Name: "fra"}
	ams.Select.Regions, ams.RestorePoints.PerRegion, ams.RestorePoints.Keep.Hourly = []string{"ams"}, 1, 1
	fra.Select.Regions, fra.RestorePoints.PerRegion = []string{"fra"}, 1
	fra.RestorePoints.SweepOrphans = regions.Sweep{Enabled: true, OlderThan: regions.Duration(time.Hour)}
	s := Slate{Name: "archive/0", Domain: "lsn", Lineage: "L"}
	for _, name := range []string{"ams", "fra"} {
		r := Region{Name: name, Membership: catalog.Active, State: catalog.RegionConnected, Heard: true, Placed: true, Lineage: "L", Permitted: new(uint64(30))}
		for _, at := range []uint64{10, 20, 30} {
			r.Points = append(r.Points, Point{ID: fmt.Sprint(at), Position: at, State: catalog.RestoreVerified, VerifiedAt: now, FirstSeen: now, Made: now})
		}
		r.Orphans = []Orphan{{"o", now.Add(-2 * time.Hour)}}
		s.Regions = append(s.Regions, r)
	}
	for _, policies := range [][]regions.Policy{{ams, fra}, {fra, ams}} {
		got := Prune(policies, s, new(uint64(30)), now).Regions
		if a := got[0]; len(a.Remove) != 2 || a.Sweep {
			t.Errorf("ams: %v, orphans %v", a.Remove, a.Sweep)
		}
		if f := got[1]; len(f.Remove) != 0 || !f.Sweep || f.Left != 3 {
			t.Errorf("fra: %v, orphans %v, %d are left", f.Remove, f.Sweep, f.Left)
		}
	}
}

func randomPruning(r *rand.Rand) (policies []regions.Policy, s Slate, floor *uint64) {
	some := func(n uint64) *uint64 {
		if r.IntN(5) == 0 {
			return nil
		}
		return new(r.Uint64N(n))
	}
	for range 1 + r.IntN(2) {
		p := regions.Policy{Name: "p"}
		p.RestorePoints.PerRegion = 1 + r.IntN(3)
		if r.IntN(4) > 0 {
			p.RestorePoints.Keep = regions.Keep{Hourly: r.IntN(3), Daily: r.IntN(3), Weekly: r.IntN(2)}
		}
		if r.IntN(3) == 0 {
			p.RestorePoints.Total = r.IntN(8)
		}
		if r.IntN(6) == 0 {
			p.RestorePoints.MaxAgeOfNewest = regions.Duration(time.Hour * time.Duration(r.IntN(200)))
		}
		if r.IntN(3) == 0 {
			p.RestorePoints.SweepOrphans = regions.Sweep{Enabled: true, OlderThan: regions.Duration(time.Hour)}
		}
		if r.IntN(8) == 0 {
			p.Select.Regions = []string{"r0"}
		}
		policies = append(policies, p)
	}
	s = Slate{Name: "archive/0", Domain: "lsn", Lineage: "cluster"}
	for i := range 1 + r.IntN(4) {
		region := Region{Name: fmt.Sprintf("r%d", i), Membership: catalog.Active, State: catalog.RegionConnected, Heard: true, Placed: true, Lineage: s.Lineage, Permitted: some(40)}
		switch r.IntN(12) {
		case 0:
			region.State = catalog.RegionStale
		case 1:
			region.Heard = false
		case 2:
			region.Membership = catalog.Joining
		case 3:
			region.Unreadable = "it is empty"
		case 4:
			region.Lineage = "another"
		case 5:
			region.Placed = false
		}
		for j := range r.IntN(8) {
			p := Point{ID: fmt.Sprintf("p%d", j), Position: 1 + r.Uint64N(30), State: catalog.RestoreVerified, VerifiedAt: now.Add(-time.Duration(r.IntN(26)) * time.Hour)}
			p.FirstSeen = now.Add(-time.Duration(r.IntN(500)) * time.Hour)
			p.Made = now.Add(-time.Duration(r.IntN(1000)-100) * time.Hour)
			if r.IntN(3) == 0 {
				p.State = []catalog.RestoreState{catalog.RestoreListed, catalog.RestoreIncomplete, catalog.RestoreUnreadable}[r.IntN(3)]
			}
			p.Leaving = r.IntN(12) == 0
			region.Points = append(region.Points, p)
		}
		if r.IntN(3) == 0 {
			region.Orphans = []Orphan{{"o", now.Add(-time.Duration(r.IntN(120)) * time.Minute)}}
		}
		s.Regions = append(s.Regions, region)
	}
	for range r.IntN(2) {
		s.Pins = append(s.Pins, Pin{Kind: []PinKind{PinHold, PinLegal, PinReader, PinConsumer}[r.IntN(4)], ID: "h", Position: some(40)})
	}
	if r.IntN(12) == 0 {
		s.Lost = "r0 lost its last"
	}
	return policies, s, some(40)
}
