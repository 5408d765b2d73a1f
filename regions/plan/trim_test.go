package plan

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func policy(t testing.TB, trim string) regions.Policy {
	t.Helper()
	d, err := regions.ParseDocuments("p.yaml", []byte("apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: p}\nselect: {kinds: [snapshots]}\n"+trim))
	if err != nil {
		t.Fatal(err)
	}
	return d.Policies[0]
}

// at is a region, connected and heard, whose verified restore points are at
// these positions, newest first.
func at(name string, positions ...uint64) Region {
	r := Region{Name: name, Membership: catalog.Active, State: catalog.RegionConnected, Heard: true, Placed: true, Lineage: "l"}
	for i, p := range positions {
		r.Points = append(r.Points, Point{ID: fmt.Sprintf("%s%d", name, i), Position: p, State: catalog.RestoreVerified, FirstSeen: now.Add(-time.Hour), VerifiedAt: now.Add(-time.Hour)})
	}
	return r
}

func with(r Region, change func(*Region)) Region {
	r.Points = slices.Clone(r.Points)
	change(&r)
	return r
}

func slate(rs ...Region) Slate {
	head := uint64(1000)
	return Slate{Name: "archive/0", Domain: "lsn", Lineage: "l", Head: &head, Regions: rs}
}

// is writes a verdict as a line: what to do, how far, who binds, why not.
func is(v Verdict) string {
	if v.Action == Permit {
		return fmt.Sprintf("permit %d by %s", *v.UpTo, v.Binding)
	}
	var codes []string
	for _, r := range v.Reasons {
		codes = append(codes, string(r.Code))
	}
	return "wait " + strings.Join(codes, " ")
}

func TestRS2_TrimOnlyWhatEveryRequiredRegionHas(t *testing.T) {
	s := slate(at("a", 120), at("b", 100), at("c", 80))
	for _, c := range []struct{ trim, want string }{
		{"trim: {require: {all: true}}", "permit 80 by c"},
		{"trim: {require: {atLeast: 2}}", "permit 100 by b"},
		{"trim: {require: {atLeast: 1}}", "permit 120 by a"},
		{"trim: {require: {atLeast: 1, include: [b]}}", "permit 100 by b"},
		{"trim: {require: {all: true}, safetyGap: {positions: 10}}", "permit 70 by c"},
		{"trim: {require: {all: true}, safetyGap: {positions: 80}}", "permit 0 by c"},
		{"trim: {require: {all: true}, safetyGap: {positions: 81}}", "wait below-min-snapshots"},
		{"trim: {require: {all: true}, keepNewest: {positions: 950}}", "permit 50 by "},
		{"trim: {require: {all: true}, safetyGap: {age: 2h}}", "wait below-min-snapshots below-min-snapshots below-min-snapshots"},
		{"restorePoints: {perRegion: 1}", "wait no-policy"},
	} {
		if got := is(Trim(policy(t, c.trim), s, now)); got != c.want {
			t.Errorf("%s: %s, want %s", c.trim, got, c.want)
		}
	}
	// Named regions only: c is not asked.
	p := policy(t, "trim: {require: {all: true}}")
	p.Select.Regions = []string{"a", "b"}
	if got := is(Trim(p, s, now)); got != "permit 100 by b" {
		t.Error(got)
	}
}

func TestWhatHoldsATrimBack(t *testing.T) {
	all := "trim: {require: {all: true}}"
	seven := uint64(7)
	for _, c := range []struct {
		story, trim string
		s           Slate
		want        string
	}{
		{"RS-3: a region fell silent", all, slate(at("a", 120), with(at("b", 100), func(r *Region) { r.State, r.Since = catalog.RegionStale, now.Add(-time.Hour) })), "wait region-stale"},
		{"a region that is only late still counts", all, slate(at("a", 120), with(at("b", 100), func(r *Region) { r.State = catalog.RegionSuspect })), "permit 100 by b"},
		{"two of three: the silent one counts as nothing", "trim: {require: {atLeast: 2}}", slate(at("a", 120), at("b", 100), with(at("c", 999), func(r *Region) { r.State = catalog.RegionStale })), "permit 100 by b"},
		{"the hub has just begun", all, slate(at("a", 120), with(at("b", 100), func(r *Region) { r.Heard = false })), "wait region-stale"},
		{"a blind region", all, slate(with(at("a", 120), func(r *Region) { r.State = catalog.RegionBlind })), "wait region-blind"},
		{"a region that came back empty", all, slate(with(at("a", 120), func(r *Region) { r.State = catalog.RegionReset })), "wait region-reset"},
		{"RS-4: a joining region has nothing yet", all, slate(at("a", 120), with(at("d"), func(r *Region) { r.Membership = catalog.Joining })), "wait region-joining"},
		{"RS-4: nor beside two of three", "trim: {require: {atLeast: 1}}", slate(at("a", 120), with(at("d"), func(r *Region) { r.Membership = catalog.Joining })), "wait region-joining"},
		{"RS-4: and binds once it has", "trim: {require: {atLeast: 1}}", slate(at("a", 120), with(at("d", 90), func(r *Region) { r.Membership = catalog.Joining })), "permit 90 by d"},
		{"a retired region is not asked", all, slate(at("a", 120), with(at("b"), func(r *Region) { r.Membership = catalog.Retired })), "permit 120 by a"},
		{"RS-5: the newest is damaged, the next counts", all, slate(with(at("a", 120, 90), func(r *Region) { r.Points[0].State = catalog.RestoreIncomplete })), "permit 90 by a"},
		{"a pointer that cannot be read is not an empty one", all, slate(with(at("a", 120), func(r *Region) { r.Unreadable = "no JSON" })), "wait archive-unreadable"},
		{"RS-12: no repository", all, slate(at("a", 120), with(at("b"), func(r *Region) { r.Placed = false })), "wait no-archive"},
		{"P3: listed is a claim", all, slate(with(at("a", 120), func(r *Region) { r.Points[0].State = catalog.RestoreListed })), "wait no-archive"},
		{"P3: a verification of yesterday is a claim", all, slate(with(at("a", 120), func(r *Region) { r.Points[0].VerifiedAt = now.Add(-25 * time.Hour) })), "wait no-archive"},
		{"the third newest is what can still be brought up to date", all + "\nrestorePoints: {perRegion: 3}", slate(at("a", 120, 110, 100, 90)), "permit 100 by a"},
		{"fewer than the policy asks for", all + "\nrestorePoints: {perRegion: 3}", slate(at("a", 120, 110)), "wait below-min-snapshots"},
		{"another database by the same name", all, slate(at("a", 120), with(at("b", 100), func(r *Region) { r.Lineage = "m" })), "wait incomparable-positions"},
		{"no region at all", all, slate(), "wait no-archive"},
		{"frozen", all, func() Slate { s := slate(at("a", 120)); s.Frozen = "frozen by ann"; return s }(), "wait frozen"},
		{"a hold in the middle", all, func() Slate {
			s := slate(at("a", 120))
			s.Pins = []Pin{{Kind: PinHold, ID: "h", Position: &seven}}
			return s
		}(), "permit 6 by "},
		{"a hold above the floor holds nothing back", all, func() Slate {
			s := slate(at("a", 5))
			s.Pins = []Pin{{Kind: PinHold, ID: "h", Position: &seven}}
			return s
		}(), "permit 5 by a"},
		{"a hold on everything", all, func() Slate {
			s := slate(at("a", 120))
			s.Pins = []Pin{{Kind: PinLegal, ID: "h", Position: new(uint64(0))}}
			return s
		}(), "wait legal-hold"},
		{"a reader of whom nothing is known", all, func() Slate { s := slate(at("a", 120)); s.Pins = []Pin{{Kind: PinReader, ID: "r"}}; return s }(), "wait reader-active"},
		{"a clone", all, func() Slate { s := slate(at("a", 120)); s.Pins = []Pin{{Kind: PinClone, ID: "c"}}; return s }(), "wait pinned-by-clone"},
		{"RS-10: who is behind begins again from its own region", all, func() Slate {
			s := slate(at("a", 120), at("b", 100))
			s.Pins = []Pin{{Kind: PinConsumer, ID: "x", Region: "b", Position: &seven}}
			return s
		}(), "permit 100 by b"},
		{"RS-10: and is stranded where there is none", "trim: {require: {atLeast: 1}}", func() Slate {
			s := slate(at("a", 120), at("b", 100))
			s.Pins = []Pin{{Kind: PinConsumer, ID: "x", Region: "b", Position: &seven}}
			return s
		}(), "wait would-strand"},
		{"a closed window", all + "\nwindows: [{allow: [trim], cron: '0 3 * * *'}]", slate(at("a", 120)), "wait window-closed"},
	} {
		v := Trim(policy(t, c.trim), c.s, now)
		if got := is(v); got != c.want {
			t.Errorf("%s: %s, want %s", c.story, got, c.want)
		}
		for _, r := range v.Reasons {
			if r.Message == "" {
				t.Errorf("%s: %s has no message", c.story, r.Code)
			}
		}
	}
}

// A damaged newest snapshot does not stop the verdict and is told all the same.
func TestADamagedSnapshotIsToldBesideThePermit(t *testing.T) {
	r := with(at("a", 120, 90), func(r *Region) {
		r.Points[0].State, r.Points[0].Reason = catalog.RestoreIncomplete, "0007.sst is not there"
	})
	v := Trim(policy(t, "trim: {require: {all: true}}"), slate(r), now)
	o := v.Regions[0]
	if v.Action != Permit || len(o.Reasons) != 1 || o.Reasons[0].Code != SnapshotIncomplete || !strings.Contains(o.Reasons[0].Message, "0007.sst") || *o.Newest != 120 || *o.Verified != 90 {
		t.Errorf("%+v", v)
	}
}

// slow is the rule as one would say it, position by position: P may be cut when
// everybody who must have archived it has, and nobody needs it. It knows none of
// Trim's code.
func slow(p regions.Policy, s Slate, now time.Time) (floor int64) {
	floor = -1
	if p.Trim == nil || s.Frozen != "" {
		return -1
	}
	has := func(r *Region, pos uint64) bool {
		if !r.Heard || (r.State != catalog.RegionConnected && r.State != catalog.RegionSuspect) || r.Unreadable != "" || r.Placed && r.Lineage != s.Lineage {
			return false
		}
		n := 0
		for _, pt := range r.Points {
			young := now.Sub(pt.FirstSeen) < time.Duration(p.Trim.SafetyGap.Age) || now.Sub(pt.FirstSeen) < time.Duration(p.Trim.KeepNewest.Age)
			if pt.State == catalog.RestoreVerified && now.Sub(pt.VerifiedAt) <= FreshFor && !young && pt.Position >= pos {
				n++
			}
		}
		return n >= p.RestorePoints.PerRegion
	}
	for pos := uint64(0); pos <= 60; pos++ {
		need := pos + p.Trim.SafetyGap.Positions // what must be archived for pos to go
		if s.Head == nil {
			need = pos + max(p.Trim.SafetyGap.Positions, p.Trim.KeepNewest.Positions)
		}
		active, yes, ok := 0, 0, true
		for i := range s.Regions {
			r := &s.Regions[i]
			if r.Membership == catalog.Retired || !p.Select.InRegion(r.Name) {
				continue
			}
			h := has(r, need)
			if r.Membership == catalog.Joining {
				ok = ok && h
				continue
			}
			active++
			if h {
				yes++
			}
			if slices.Contains(p.Trim.Require.Include, r.Name) {
				ok = ok && h
			}
		}
		if p.Trim.Require.All {
			ok = ok && yes == active && active > 0
		} else {
			ok = ok && yes >= p.Trim.Require.AtLeast && active > 0
		}
		if k := p.Trim.KeepNewest.Positions; k > 0 && s.Head != nil {
			ok = ok && pos+k <= *s.Head
		}
		for _, pin := range s.Pins {
			if pin.Kind != PinConsumer && (pin.Position == nil || *pin.Position <= pos) {
				ok = false
			}
		}
		if ok {
			floor = int64(pos)
		}
	}
	for _, pin := range s.Pins {
		if floor < 0 || pin.Kind != PinConsumer || pin.Position != nil && int64(*pin.Position) > floor {
			continue
		}
		found := false
		for i := range s.Regions {
			r := &s.Regions[i]
			if r.Name != pin.Region || r.Membership == catalog.Retired || !p.Select.InRegion(r.Name) || !has(r, 0) {
				continue
			}
			for _, pt := range r.Points {
				young := now.Sub(pt.FirstSeen) < time.Duration(p.Trim.SafetyGap.Age) || now.Sub(pt.FirstSeen) < time.Duration(p.Trim.KeepNewest.Age)
				found = found || pt.State == catalog.RestoreVerified && now.Sub(pt.VerifiedAt) <= FreshFor && !young && int64(pt.Position) >= floor
			}
		}
		if !found {
			return -1
		}
	}
	return floor
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func randomWorld(rng *rand.Rand) (regions.Policy, Slate) {
	p := regions.Policy{Name: "p", Trim: &regions.Trim{}, RestorePoints: regions.RestorePoints{PerRegion: 1 + rng.IntN(3)}}
	head := uint64(rng.IntN(60))
	s := Slate{Name: "s", Lineage: "l", Head: &head}
	if rng.IntN(8) == 0 {
		s.Head = nil
	}
	for i := range 1 + rng.IntN(5) {
		r := Region{
			Name:       string(rune('a' + i)),
			Membership: pick(rng, catalog.Active, catalog.Active, catalog.Active, catalog.Joining, catalog.Retired),
			State:      pick(rng, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionConnected, catalog.RegionSuspect, catalog.RegionStale, catalog.RegionBlind, catalog.RegionReset, ""),
			Heard:      rng.IntN(40) > 0, Placed: rng.IntN(10) > 0, Lineage: pick(rng, slices.Concat(slices.Repeat([]string{"l"}, 20), []string{"m"})...),
			Unreadable: pick(rng, slices.Concat(slices.Repeat([]string{""}, 20), []string{"broken"})...),
		}
		for j := range 1 + rng.IntN(8) {
			r.Points = append(r.Points, Point{
				ID: fmt.Sprint(j), Position: uint64(rng.IntN(60)),
				State:      pick(rng, catalog.RestoreVerified, catalog.RestoreVerified, catalog.RestoreVerified, catalog.RestoreListed, catalog.RestoreIncomplete, catalog.RestoreUnreadable),
				FirstSeen:  now.Add(-time.Duration(rng.IntN(180)) * time.Minute),
				VerifiedAt: now.Add(-time.Duration(rng.IntN(26*60)) * time.Minute),
			})
		}
		s.Regions = append(s.Regions, r)
	}
	if rng.IntN(2) == 0 {
		p.Trim.Require.All = true
	} else {
		p.Trim.Require.AtLeast = 1 + rng.IntN(3)
	}
	if rng.IntN(4) == 0 {
		p.Trim.Require.Include = []string{s.Regions[rng.IntN(len(s.Regions))].Name}
	}
	if rng.IntN(3) == 0 {
		p.Select.Regions = []string{"a", "b", "d"}
	}
	p.Trim.SafetyGap.Positions = uint64(pick(rng, 0, 0, 1, 7))
	p.Trim.SafetyGap.Age = regions.Duration(pick(rng, 0, 0, time.Hour))
	p.Trim.KeepNewest.Positions = uint64(pick(rng, 0, 0, 5, 30))
	p.Trim.KeepNewest.Age = regions.Duration(pick(rng, 0, 0, 2*time.Hour))
	for range pick(rng, 0, 0, 1, 2) {
		pin := Pin{Kind: pick(rng, PinHold, PinLegal, PinReader, PinClone, PinConsumer), ID: "x", Region: string(rune('a' + rng.IntN(5)))}
		if rng.IntN(6) > 0 {
			pin.Position = new(uint64(rng.IntN(60)))
		}
		s.Pins = append(s.Pins, pin)
	}
	if rng.IntN(50) == 0 {
		s.Frozen = "frozen"
	}
	return p, s
}

func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano()) & 0xffffffff
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d", seed)
	return seed
}

// P2, P3, P5: on random worlds the rule is the one that everybody would have
// written slowly; a verdict is something to do or the reasons to wait.
func TestTrimIsTheSlowRule(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 6))
	permits, codes := 0, map[Code]int{}
	for n := range 100_000 {
		p, s := randomWorld(rng)
		if len(p.Trim.Require.Include) > 0 && !slices.ContainsFunc(s.Regions, func(r Region) bool {
			return r.Name == p.Trim.Require.Include[0] && r.Membership != catalog.Retired && p.Select.InRegion(r.Name)
		}) {
			p.Trim.Require.Include = nil // Policy.CheckIn refuses it
		}
		v, want := Trim(p, s, now), slow(p, s, now)
		if r := ruledInFleet(t, &p, &s, rng); asRuling(v, r.Why) != r.line() {
			t.Fatalf("seed %d, world %d: Trim says %s, the fleet %s\n%+v\n%+v", seed, n, asRuling(v, r.Why), r.line(), p, s)
		}
		got := int64(-1)
		if v.Action == Permit {
			got = int64(*v.UpTo)
			permits++
		}
		if got != want || (v.Action == Permit) != (len(v.Reasons) == 0) || (v.Action == Permit) != (v.UpTo != nil) {
			t.Fatalf("seed %d, world %d: %s, the slow rule says %d\n%+v\n%+v", seed, n, is(v), want, p, s)
		}
		for _, r := range v.Reasons {
			codes[r.Code]++
		}
	}
	t.Logf("%d permits; %v", permits, codes)
	if permits < 1000 {
		t.Errorf("only %d permits: the worlds prove little", permits)
	}
}

// P2, P7: who knows less, or knows of more who need it, never cuts further. (Who
// reads on from a position is left out: where less is cut fewer are stranded.)
func TestKnowingLessNeverCutsFurther(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 8))
	floor := func(v Verdict) int64 {
		if v.Action != Permit {
			return -1
		}
		return int64(*v.UpTo)
	}
	lower := 0
	for n := range 50_000 {
		p, s := randomWorld(rng)
		s.Pins = slices.DeleteFunc(s.Pins, func(p Pin) bool { return p.Kind == PinConsumer })
		before := floor(Trim(p, s, now))
		r := &s.Regions[rng.IntN(len(s.Regions))]
		pt := &r.Points[rng.IntN(len(r.Points))]
		what := pick(rng, "gone", "listed", "older", "incomplete", "unheard", "stale", "unreadable", "younger", "joins", "pinned", "frozen")
		switch what {
		case "gone":
			*pt = r.Points[len(r.Points)-1]
			r.Points = r.Points[:len(r.Points)-1]
		case "listed":
			pt.State = catalog.RestoreListed
		case "older":
			pt.VerifiedAt = now.Add(-25 * time.Hour)
		case "incomplete":
			pt.State = catalog.RestoreIncomplete
		case "unheard":
			r.Heard = false
		case "stale":
			r.State = catalog.RegionStale
		case "unreadable":
			r.Unreadable = "broken"
		case "younger":
			pt.FirstSeen = now
		case "joins":
			s.Regions = append(s.Regions, Region{Name: "b2", Membership: catalog.Joining, State: catalog.RegionConnected, Heard: true})
			p.Select.Regions = nil
			if before = floor(Trim(p, Slate{Name: s.Name, Lineage: s.Lineage, Head: s.Head, Regions: s.Regions[:len(s.Regions)-1], Pins: s.Pins, Frozen: s.Frozen}, now)); before < 0 {
				continue
			}
		case "pinned":
			s.Pins = append(s.Pins, Pin{Kind: PinHold, ID: "new", Position: new(uint64(rng.IntN(60)))})
		case "frozen":
			s.Frozen = "frozen"
		}
		after := floor(Trim(p, s, now))
		if after > before {
			t.Fatalf("seed %d, world %d: %s, and it may be cut to %d, before to %d\n%+v\n%+v", seed, n, what, after, before, p, s)
		}
		if after < before {
			lower++
		}
	}
	if lower < 500 {
		t.Errorf("only %d times it made a difference: this proves little", lower)
	}
}

// Of three the second newest is the one from which two can be brought up to date.
func TestArchivedIsTheKthNewest(t *testing.T) {
	for _, c := range []struct {
		verified []uint64
		k        uint64
		at       uint64
		ok       bool
	}{
		{nil, 1, 0, false}, {[]uint64{5}, 0, 0, false}, {[]uint64{5}, 1, 5, true}, {[]uint64{5}, 2, 0, false},
		{[]uint64{10, 30, 20}, 1, 30, true}, {[]uint64{10, 30, 20}, 2, 20, true}, {[]uint64{30, 20, 10}, 3, 10, true}, {[]uint64{30, 20, 10}, 4, 0, false},
		{[]uint64{0, 0}, 2, 0, true},
	} {
		if at, ok := Archived(c.verified, c.k); at != c.at || ok != c.ok {
			t.Errorf("%v, %d: %d %v", c.verified, c.k, at, ok)
		}
	}
}
