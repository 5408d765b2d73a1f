package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// standings are how the regions of a slate stand.
func standings(s *Slate) (set []Standing) {
	for _, r := range s.Regions {
		set = append(set, Standing{r.Name, r.Membership, r.State, r.Heard})
	}
	return set
}

// ruledInFleet rules upon a slate in a fleet of its own, whose regions are in
// another order than the slate's.
func ruledInFleet(t *testing.T, p *regions.Policy, s *Slate, rng *rand.Rand) ruled {
	t.Helper()
	var names []string
	for _, r := range s.Regions {
		names = append(names, r.Name)
	}
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	f := NewFleet(names...)
	if err := f.Put(0, s); err != nil {
		t.Fatal(err)
	}
	return ruled{f.Decide(f.Rule([]regions.Policy{*p}, standings(s), now), 0), names}
}

type ruled struct {
	Ruling
	names []string
}

// line writes a ruling as [asRuling] writes a verdict.
func (r ruled) line() string {
	if r.Permit {
		binding := ""
		if r.Binding >= 0 {
			binding = r.names[r.Binding]
		}
		return fmt.Sprintf("permit %d by %s, %s", r.UpTo, binding, r.Why)
	}
	return "wait " + r.Why.String()
}

// asRuling is a verdict as a line, with its codes in the order of a set; the
// codes must be those.
func asRuling(v Verdict, same Codes) string {
	var codes []string
	for one := range same.All() {
		if slices.ContainsFunc(v.Reasons, func(r Reason) bool { return r.Code == one }) {
			codes = append(codes, string(one))
		}
	}
	for _, r := range v.Reasons {
		if !same.Has(r.Code) {
			codes = append(codes, string(r.Code))
		}
	}
	if v.Action == Permit {
		return fmt.Sprintf("permit %d by %s, %s", *v.UpTo, v.Binding, strings.Join(codes, " "))
	}
	return "wait " + strings.Join(codes, " ")
}

// The fleet's answer for each slate is Under's, whatever was put before, beside
// and over it, and whatever became of the regions since.
func TestAFleetRulesAsTheVerdictsDo(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 7))
	names := []string{"b", "a", "d", "c", "f", "e"}
	silent := policy(t, "restorePoints: {perRegion: 2}")
	shut := policy(t, "windows: [{deny: [all], from: 2026-11-01, to: 2026-12-01}]")
	counts := map[Code]int{}
	permits := 0
	for fleet := range 50 {
		f := NewFleet(names...)
		var all []*Slate // nil: dropped
		for step := range 400 {
			p, s := randomWorld(rng)
			var places []int
			switch n := rng.IntN(len(all) + 1); {
			case n == len(all) || rng.IntN(4) == 0 || all[n] == nil: // a new one
				places, all = append(places, len(all)), append(all, &s)
			case rng.IntN(20) == 0:
				f.Drop(n)
				places, all[n] = append(places, n), nil
			default:
				places, all[n] = append(places, n), &s
			}
			if all[places[0]] != nil {
				if err := f.Put(places[0], &s); err != nil {
					t.Fatal(err)
				}
			}
			var set []Standing
			for i, name := range names {
				set = append(set, Standing{name, catalog.Active, catalog.RegionConnected, true})
				if i < len(s.Regions) {
					set[i] = standings(&s)[i]
					set[i].Name = name
				}
			}
			policies := []regions.Policy{p}
			for range rng.IntN(3) {
				more, _ := randomWorld(rng)
				policies = append(policies, pick(rng, more, more, more, silent, shut))
			}
			if rng.IntN(10) == 0 {
				policies = policies[1:]
			}
			rule := f.Rule(policies, set, now)
			for range 3 {
				places = append(places, rng.IntN(len(all)))
			}
			for _, i := range places {
				got := f.Decide(rule, i)
				if all[i] == nil {
					if got != (Ruling{}) {
						t.Fatalf("seed %d: a dropped slate: %+v", seed, got)
					}
					continue
				}
				full := *all[i]
				full.Regions = nil
				for _, one := range set {
					r := Region{Name: one.Name}
					if at := slices.IndexFunc(all[i].Regions, func(r Region) bool { return r.Name == one.Name }); at >= 0 {
						r = all[i].Regions[at]
					}
					r.Membership, r.State, r.Heard = one.Membership, one.State, one.Heard
					full.Regions = append(full.Regions, r)
				}
				v, _ := Under(policies, full, now)
				if g := (ruled{got, names}); g.line() != asRuling(v, got.Why) {
					t.Fatalf("seed %d, fleet %d, step %d, slate %d: the fleet says %s, Under %s\n%+v\n%+v", seed, fleet, step, i, g.line(), asRuling(v, got.Why), policies, full)
				}
				for code := range got.Why.All() {
					counts[code]++
				}
				if got.Permit {
					permits++
				}
			}
		}
	}
	t.Logf("%d permits; %v", permits, counts)
	if permits < 500 {
		t.Errorf("only %d permits: this proves little", permits)
	}
}

func TestWhatAFleetDoesNotKnowPermitsNothing(t *testing.T) {
	p := policy(t, "trim: {require: {all: true}}")
	s := slate(at("a", 120), at("b", 100))
	f := NewFleet("a", "b")
	if err := f.Put(0, &s); err != nil {
		t.Fatal(err)
	}
	if got := f.Decide(f.Rule([]regions.Policy{p}, standings(&s), now), 0); !got.Permit || got.UpTo != 100 || got.Binding != 1 {
		t.Fatalf("%+v", got)
	}
	for _, place := range []int{-1, 1, 1 << 40} {
		if got := f.Decide(f.Rule([]regions.Policy{p}, standings(&s), now), place); got != (Ruling{}) {
			t.Errorf("there is no slate at %d: %+v", place, got)
		}
		f.Drop(place) // nor is it an error
	}
	if got := f.Decide(nil, 0); got.Permit || !got.Why.Has(NoPolicy) || got.Binding != -1 {
		t.Errorf("no policy: %+v", got)
	}
	// A region joined the set and the fleet does not have it yet.
	set := append(standings(&s), Standing{"c", catalog.Active, catalog.RegionConnected, true})
	if got := f.Decide(f.Rule([]regions.Policy{p}, set, now), 0); got.Permit || !got.Why.Has(NoArchive) {
		t.Errorf("a region that no slate is known of in: %+v", got)
	}
	// A slate speaks of a region that the fleet does not have.
	more := slate(at("a", 120), at("b", 100), at("c", 80))
	if err := f.Put(0, &more); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := f.Put(2, &s); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a hole would be left:", err)
	}
	if got := f.Decide(f.Rule([]regions.Policy{p}, standings(&s), now), 0); !got.Permit || f.Len() != 1 {
		t.Errorf("what was refused has changed something: %+v", got)
	}
	// A slate that says nothing of b has nothing there.
	less := slate(at("a", 120))
	if err := f.Put(0, &less); err != nil {
		t.Fatal(err)
	}
	if got := f.Decide(f.Rule([]regions.Policy{p}, standings(&s), now), 0); got.Permit || !got.Why.Has(NoArchive) {
		t.Errorf("%+v", got)
	}
	f.Drop(0)
	if got := f.Decide(f.Rule([]regions.Policy{p}, standings(&s), now), 0); got != (Ruling{}) {
		t.Errorf("dropped: %+v", got)
	}
}

// What slates leave behind that have grown is given back, and nobody's facts
// are mixed up by it.
func TestAFleetGivesBackWhatIsLeft(t *testing.T) {
	p := policy(t, "trim: {require: {all: true}}")
	f := NewFleet("a")
	const slates = 2*perPage + 7
	for size := range 40 {
		for i := range slates {
			s := slate(at("a"))
			for k := range size {
				s.Regions[0].Points = append(s.Regions[0].Points, at("a", uint64(1000*i+k)).Points...)
				s.Pins = append(s.Pins, Pin{Kind: PinHold, ID: "h", Position: new(uint64(1000*i + 900 + k))})
			}
			if err := f.Put(i, &s); err != nil {
				t.Fatal(err)
			}
		}
		rule := f.Rule([]regions.Policy{p}, connectedTo("a"), now)
		for i := range slates {
			got := f.Decide(rule, i)
			if got.Permit != (size > 0) || got.Permit && got.UpTo != uint64(1000*i+size-1) {
				t.Fatalf("slate %d with %d restore points: %+v", i, size, got)
			}
		}
	}
	for _, page := range f.pages {
		if has, uses := len(page.marks.all), 39*perPage; has > 3*uses {
			t.Errorf("%d marks are kept where at most %d are used", has, uses)
		}
	}
}

func connectedTo(names ...string) (set []Standing) {
	for _, n := range names {
		set = append(set, Standing{n, catalog.Active, catalog.RegionConnected, true})
	}
	return set
}

// A region with more restore points than can be counted is as good as its
// newest.
func TestARegionWithVeryManyRestorePoints(t *testing.T) {
	r := at("a")
	for i := range 70_000 {
		r.Points = append(r.Points, Point{ID: "x", Position: uint64(i), State: catalog.RestoreVerified, FirstSeen: now, VerifiedAt: now})
	}
	p := policy(t, "trim: {require: {all: true}}")
	if got := is(Trim(p, slate(r, at("b", 80_000)), now)); got != "permit 69999 by a" {
		t.Error(got)
	}
}

func TestTheStricterRulingWins(t *testing.T) {
	low, high := Ruling{Permit: true, UpTo: 5, Binding: 0}, Ruling{Permit: true, UpTo: 9, Binding: 2}
	stale, held := Ruling{Binding: -1, Why: regionStale}, Ruling{Binding: -1, Why: onHold | regionStale}
	for _, c := range []struct{ a, b, want Ruling }{
		{low, high, low}, {high, low, low}, {low, low, low}, {low, stale, stale}, {held, high, held}, {stale, held, held}, {Ruling{}, low, Ruling{Binding: -1}},
	} {
		if got := Stricter(c.a, c.b); got != c.want {
			t.Errorf("of %+v and %+v: %+v", c.a, c.b, got)
		}
	}
}

// Moments that no int64 of nanoseconds can tell are as far away as it can.
func TestMomentsFarAwayKeepTheirOrder(t *testing.T) {
	if a, b, c := nanos(time.Time{}), nanos(now), nanos(now.AddDate(1000, 0, 0)); a >= b || b >= c {
		t.Error(a, b, c)
	}
}

// Deciding costs no allocation, nor does a change of a slate that has grown no
// larger.
func TestDecidingAllocatesNothing(t *testing.T) {
	p := policy(t, "trim: {require: {atLeast: 2, include: [b]}, safetyGap: {positions: 3}}")
	s := slate(at("a", 120, 110), at("b", 100, 90), at("c", 80), at("d", 130))
	s.Pins = []Pin{{Kind: PinConsumer, ID: "x", Region: "b", Position: new(uint64(7))}, {Kind: PinHold, ID: "h", Position: new(uint64(200))}}
	f := NewFleet("a", "b", "c", "d")
	if err := f.Put(0, &s); err != nil {
		t.Fatal(err)
	}
	rule := f.Rule([]regions.Policy{p}, standings(&s), now)
	if n := testing.AllocsPerRun(100, func() {
		if !f.Decide(rule, 0).Permit {
			t.Error("it should be permitted")
		}
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = f.Put(0, &s) }); n != 0 {
		t.Errorf("%g allocations to put", n)
	}
}
