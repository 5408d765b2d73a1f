package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// history is a log, what regions really have of it, and what a hub knows of
// that. A region that is connected tells at once what it loses; one that is
// silent loses without anybody's knowing.
type history struct {
	rng  *rand.Rand
	p    regions.Policy
	now  time.Time
	head uint64
	cut  int64 // up to here the log is gone; -1: nothing is
	real []site
	hub  Slate // what the hub knows
	tale []string
}

// site is what a region really has.
type site struct {
	name       string
	membership catalog.Membership
	silent     bool
	whole      []uint64 // positions of snapshots that are whole
	broken     []uint64
}

func newHistory(rng *rand.Rand) *history {
	h := &history{rng: rng, now: now, head: 10, cut: -1}
	h.p = regions.Policy{Name: "p", Trim: &regions.Trim{}, RestorePoints: regions.RestorePoints{PerRegion: 1 + rng.IntN(2)}}
	if rng.IntN(2) == 0 {
		h.p.Trim.Require.All = true
	} else {
		h.p.Trim.Require.AtLeast = 1 + rng.IntN(2)
		if rng.IntN(3) == 0 {
			h.p.Trim.Require.Include = []string{"a"}
		}
	}
	h.p.Trim.SafetyGap.Positions = uint64(pick(rng, 0, 0, 3))
	h.p.Trim.KeepNewest.Positions = uint64(pick(rng, 0, 0, 5))
	h.p.Trim.SafetyGap.Age = regions.Duration(pick(rng, 0, 0, time.Hour))
	h.hub = Slate{Name: "s", Lineage: "l"}
	for range 2 + rng.IntN(2) {
		h.join(catalog.Active)
	}
	return h
}

func (h *history) say(format string, args ...any) {
	h.tale = append(h.tale, fmt.Sprintf(format, args...))
}

func (h *history) join(m catalog.Membership) {
	name := string(rune('a' + len(h.real)))
	h.real = append(h.real, site{name: name, membership: m})
	h.hub.Regions = append(h.hub.Regions, Region{Name: name, Membership: m, State: catalog.RegionConnected, Placed: true, Lineage: "l"})
	h.say("%s is %s", name, m)
}

// report is what a region tells: all that it has, verified at this moment.
func (h *history) report(i int) {
	s, r := &h.real[i], &h.hub.Regions[i]
	if s.silent {
		return
	}
	first := map[uint64]time.Time{}
	for _, pt := range r.Points {
		first[pt.Position] = pt.FirstSeen
	}
	r.Heard, r.Points = true, r.Points[:0]
	for _, list := range []struct {
		of    []uint64
		state catalog.RestoreState
	}{{s.whole, catalog.RestoreVerified}, {s.broken, catalog.RestoreIncomplete}} {
		for _, pos := range list.of {
			seen, known := first[pos]
			if !known {
				seen = h.now
			}
			r.Points = append(r.Points, Point{ID: "x", Position: pos, State: list.state, FirstSeen: seen, VerifiedAt: h.now})
		}
	}
}

func (h *history) step() {
	i := h.rng.IntN(len(h.real))
	s, r := &h.real[i], &h.hub.Regions[i]
	switch h.rng.IntN(16) {
	case 0, 1:
		h.head += 1 + uint64(h.rng.IntN(10))
		h.hub.Head = new(h.head)
	case 2, 3, 4, 5: // a snapshot, of what the region has by now
		pos := h.head - uint64(h.rng.IntN(int(min(h.head, 8))))
		if s.membership != catalog.Retired && !slices.Contains(s.whole, pos) && !slices.Contains(s.broken, pos) {
			s.whole = append(s.whole, pos)
			h.say("%s has a snapshot at %d", s.name, pos)
		}
		h.report(i)
	case 6: // an object disappears
		if n := len(s.whole); n > 0 {
			k := h.rng.IntN(n)
			h.say("%s loses that at %d", s.name, s.whole[k])
			if h.rng.IntN(2) == 0 {
				s.broken = append(s.broken, s.whole[k])
			}
			s.whole = slices.Delete(s.whole, k, k+1)
		}
		h.report(i)
	case 7:
		s.silent = true
		r.State, r.Since = catalog.RegionStale, h.now
		h.say("%s falls silent", s.name)
	case 8:
		s.silent = false
		r.State = catalog.RegionConnected
		h.say("%s is back", s.name)
		h.report(i)
	case 9:
		if len(h.real) < 5 {
			h.join(catalog.Joining)
		}
	case 10:
		if s.membership == catalog.Joining {
			s.membership, r.Membership = catalog.Active, catalog.Active
			h.say("%s is active", s.name)
		} else if h.rng.IntN(4) == 0 {
			s.membership, r.Membership = catalog.Retired, catalog.Retired
			h.say("%s is retired", s.name)
		}
	case 11: // another hub takes over, with what was saved
		for j := range h.hub.Regions {
			h.hub.Regions[j].Heard = false
		}
		h.say("another hub takes over")
	case 12:
		h.now = h.now.Add(time.Duration(h.rng.IntN(20)) * time.Hour)
	case 13: // its clock is set
		h.now = h.now.Add(time.Duration(h.rng.IntN(120)-60) * time.Minute)
	case 14:
		if len(h.hub.Pins) > 0 {
			h.hub.Pins = h.hub.Pins[1:]
		} else {
			h.hub.Pins = append(h.hub.Pins, Pin{Kind: pick(h.rng, PinHold, PinReader), ID: "h", Position: new(h.head - uint64(h.rng.IntN(int(h.head))))})
			h.say("held from %d", *h.hub.Pins[0].Position)
		}
	case 15:
		for j := range h.real {
			h.report(j)
		}
	}
}

// wrong says what a cut up to a position breaks, by what regions really have;
// empty: nothing. It knows nothing of the rule but its promise: every region
// that must can be brought up to date from as many of its own snapshots as the
// policy counts, and what remains of the log.
func (h *history) wrong(upTo uint64) string {
	active, able := 0, 0
	for i, s := range h.real {
		if s.membership == catalog.Retired {
			continue
		}
		n := 0
		for _, pos := range s.whole {
			if pos >= upTo+h.p.Trim.SafetyGap.Positions {
				n++
			}
		}
		can := n >= h.p.RestorePoints.PerRegion && !s.silent && h.hub.Regions[i].Heard
		if s.membership == catalog.Active {
			active++
			if can {
				able++
			}
		}
		must := h.p.Trim.Require.All || s.membership == catalog.Joining || slices.Contains(h.p.Trim.Require.Include, s.name)
		if must && !can {
			return fmt.Sprintf("%s, which is %s (silent: %t, heard: %t), has %v", s.name, s.membership, s.silent, h.hub.Regions[i].Heard, s.whole)
		}
	}
	if active == 0 || able < h.p.Trim.Require.AtLeast {
		return fmt.Sprintf("of %d active regions only %d have archived it", active, able)
	}
	if k := h.p.Trim.KeepNewest.Positions; k > 0 && upTo+k > h.head {
		return fmt.Sprintf("the newest %d of %d are kept", k, h.head)
	}
	for _, pin := range h.hub.Pins {
		if *pin.Position <= upTo {
			return fmt.Sprintf("it is held from %d", *pin.Position)
		}
	}
	return ""
}

// P1 to P5: whatever happens to regions, hubs and clocks, no history cuts a log
// that a required region still needs. A hundred thousand histories are played,
// and the rule is asked after every step.
func TestNoHistoryCutsWhatARegionNeeds(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 9))
	cuts, asked := 0, 0
	for n := range 100_000 {
		h := newHistory(rng)
		f := NewFleet("a", "b", "c", "d", "e")
		for range 10 + rng.IntN(30) {
			h.step()
			if err := f.Put(0, &h.hub); err != nil {
				t.Fatal(err)
			}
			r := f.Decide(f.Rule([]regions.Policy{h.p}, standings(&h.hub), h.now), 0)
			asked++
			if !r.Permit {
				continue
			}
			h.say("permitted up to %d", r.UpTo)
			if why := h.wrong(r.UpTo); why != "" {
				t.Fatalf("seed %d, history %d: it may be cut up to %d, but %s\n%+v\n%s", seed, n, r.UpTo, why, *h.p.Trim, strings.Join(h.tale, "\n"))
			}
			if int64(r.UpTo) > h.cut {
				h.cut = int64(r.UpTo)
				cuts++
			}
		}
	}
	t.Logf("asked %d times, cut %d times", asked, cuts)
	if cuts < 20_000 {
		t.Errorf("only %d cuts in 100,000 histories: they prove little", cuts)
	}
}
