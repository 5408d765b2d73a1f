package state_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// P1 to P5 of what leaves: whatever happens, in whatever order, the steward has
// a permit written only for what every region that has to agree can restore, by
// what it has told in this hub's life and lately, and what the region itself can;
// never beyond a hold, never while frozen; and after people's word nothing of
// what agents had written goes beyond it. A hub that was replaced has nothing
// written at all.
func TestP5_PermitsThatLeaveNeverPassTheFloorInRandomHistories(t *testing.T) {
	histories := 300
	if os.Getenv("QUARRY_SOAK") != "" {
		histories = 20_000
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	permits, withdrawn := 0, 0
	for h := range histories {
		p, w := tendedHistory(t, seed+uint64(h))
		permits, withdrawn = permits+p, withdrawn+w
		if t.Failed() {
			return
		}
	}
	t.Logf("seed %d: %d histories, %d permits, %d withdrawals", seed, histories, permits, withdrawn)
	if permits < histories || withdrawn < histories/2 {
		t.Errorf("%d permits and %d withdrawals in %d histories: this shows nothing", permits, withdrawn, histories)
	}
}

func tendedHistory(t *testing.T, seed uint64) (permits, withdrawn int) {
	const slate = "archive/0"
	rnd := rand.New(rand.NewPCG(seed, 6))
	names := []string{"ap", "eu", "us"}
	is := &truth{regions: map[string]*trueRegion{}, holds: map[string]uint64{}}
	for _, n := range names {
		is.regions[n] = &trueRegion{membership: catalog.Active, told: true, points: map[string]*truePoint{}}
	}
	var log []string
	say := func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }
	ruled := false // a policy was ever in force
	before := map[string]bool{}
	f := newCrew(t, state.Config{StaleAfter: staleAfter, Budgets: state.Budgets{SlateHour: 1000}}, 1, names...)
	for _, n := range names {
		is.regions[n].points["s"] = &truePoint{position: f.points[n][slate]}
	}
	f.left = func(d *catalog.Decision) {
		switch d.Verb {
		case catalog.VerbWithdraw:
			withdrawn++
			return
		case catalog.VerbPermit:
			permits++
		default:
			return
		}
		again := before[d.ID]
		before[d.ID] = true
		why := is.wrong(*d.Position)
		if again { // it is said again to an agent that may have it: of silence alone nothing follows
			for name, from := range is.holds {
				if *d.Position >= from {
					t.Fatalf("seed %d: permit up to %d for %s is said again, beyond hold %s\n%s", seed, *d.Position, d.Region, name, strings.Join(log, "\n"))
				}
			}
			if is.frozen {
				t.Fatalf("seed %d: permit up to %d for %s is said again, and it is frozen\n%s", seed, *d.Position, d.Region, strings.Join(log, "\n"))
			}
			return
		}
		if !ruled {
			why = "no policy was ever applied"
		}
		own, ok := is.archived(is.regions[d.Region])
		if !ok || *d.Position > own {
			why = fmt.Sprintf("%s itself can restore %d (%t)", d.Region, own, ok)
		}
		if why != "" {
			t.Fatalf("seed %d: permit up to %d for %s leaves, but %s\n%s", seed, *d.Position, d.Region, why, strings.Join(log, "\n"))
		}
	}
	// What agents see for themselves: no more than what they can restore is written.
	f.refuse = func(d *catalog.Decision) *catalog.Reason {
		p := is.regions[d.Region].points["s"]
		if d.Verb == catalog.VerbPermit && (p.broken || *d.Position > p.position) {
			return &catalog.Reason{Code: catalog.CodeAboveLimit, Message: "it can restore less"}
		}
		return nil
	}
	// narrow checks, after people's word was carried out, what rules in the buckets
	// of regions that hear.
	narrow := func() {
		f.obey()
		for n := range f.session {
			p := f.permits[n][slate]
			if p == nil || p.UpTo == nil || !f.now.Before(p.NotAfter) {
				continue
			}
			for name, from := range is.holds {
				if *p.UpTo >= from {
					t.Fatalf("seed %d: %d rules in %s beyond hold %s from %d\n%s", seed, *p.UpTo, n, name, from, strings.Join(log, "\n"))
				}
			}
			if is.frozen {
				t.Fatalf("seed %d: %d rules in %s while all is frozen\n%s", seed, *p.UpTo, n, strings.Join(log, "\n"))
			}
		}
	}
	tell := func(n string, broken bool) {
		r := is.regions[n]
		p := r.points["s"]
		p.broken, p.since = broken, is.mono
		if !broken {
			f.snapshot(n, slate, p.position)
			return
		}
		f.counter[n]++
		at := p.position
		_ = f.step(state.Delta{Session: f.session[n], Upto: f.rev(n), Facts: []catalog.Fact{{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(slate, fmt.Sprint("s", at)), Revision: f.rev(n),
			RestorePoint: &catalog.RestorePoint{Slate: slate, Root: slate, ID: fmt.Sprint("s", at), Source: catalog.SourceSnapshot, Position: &at, PositionDomain: "lsn",
				Incarnation: "I" + n, Lineage: "X", State: catalog.RestoreIncomplete, Reason: "an object is missing"}}}})
	}
	apply := func(text string) {
		docs, err := regions.ParseDocuments("p.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		_ = f.step(state.ApplyDocuments{Documents: docs, By: "x"})
	}
	f.passed = func(d time.Duration) {
		is.mono += d
		for n := range f.session {
			is.regions[n].heard = is.mono // they beat first
		}
	}
	connect := func(n string) {
		r := is.regions[n]
		p := r.points["s"]
		p.since = is.mono // it looks at everything when it begins
		r.heard, r.told = is.mono, true
		f.points[n][slate] = p.position
		f.connect(n)
		if p.broken {
			tell(n, true)
		}
	}
	for range 30 {
		n := names[rnd.IntN(len(names))]
		r := is.regions[n]
		_, connected := f.session[n]
		switch rnd.IntN(14) {
		case 0, 1, 2:
			if connected {
				r.points["s"].position = uint64(50 + rnd.IntN(200))
				say("%s has a snapshot at %d", n, r.points["s"].position)
				tell(n, false)
			}
		case 3:
			if connected && !r.points["s"].broken {
				say("the snapshot of %s is damaged", n)
				tell(n, true)
			}
		case 4:
			if connected {
				say("%s falls silent", n)
				_ = f.step(state.Closed{Session: f.session[n]})
				delete(f.session, n)
			}
		case 5, 6:
			if !connected && r.membership != catalog.Retired {
				say("%s is back", n)
				connect(n)
			}
		case 7, 8:
			is.all, is.least, is.gap = rnd.IntN(2) == 0, 1+rnd.IntN(2), uint64(rnd.IntN(3))*5
			require := "{all: true}"
			if !is.all {
				require = fmt.Sprintf("{atLeast: %d}", is.least)
			}
			say("policy %s gap %d", require, is.gap)
			apply(policyOf(fmt.Sprintf("{require: %s, safetyGap: {positions: %d}}", require, is.gap), ""))
			ruled = true
			if p := f.s.Rules().Policy("archives"); p != nil {
				is.all, is.least, is.gap = p.Trim.Require.All, p.Trim.Require.AtLeast, p.Trim.SafetyGap.Positions
			}
			narrow()
		case 9:
			if _, held := is.holds["h"]; held {
				say("the hold is released")
				delete(is.holds, "h")
				_ = f.step(state.ReleaseHold{Name: "h", By: "x"})
			} else {
				is.holds["h"] = uint64(40 + rnd.IntN(150))
				say("hold from %d", is.holds["h"])
				apply(fmt.Sprintf("apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: h}\nselect: {names: [%s]}\nfrom: {position: %d}\n", slate, is.holds["h"]))
				narrow()
			}
		case 10:
			if is.frozen = !is.frozen; is.frozen {
				say("freeze")
				_ = f.step(state.Freeze{Scope: "all", By: "x"})
				narrow()
			} else {
				say("thaw")
				_ = f.step(state.Thaw{Scope: "all", By: "x"})
			}
		case 11: // another hub takes the ledger; the one before goes on and has nothing done
			say("another hub takes over")
			old := f.s
			f.s = state.New(f.cfg, state.Saved{Regions: f.set}, f.now)
			for k, v := range f.ledger {
				if err := f.s.Replay(state.Record{Key: k, Value: v}); err != nil {
					t.Fatal(err)
				}
			}
			f.term++
			_ = f.step(state.Office{Term: f.term, Ledger: aLedger})
			for range 3 {
				for _, e := range []state.Event{state.Office{Term: f.term - 1, Ledger: aLedger, Why: "another hub holds the store"}, state.Tick{}, state.Tend{},
					state.Carry{Verb: catalog.VerbPermit, Slate: slate, By: "x"}} {
					if r := old.Step(e, f.now); len(r.Records) > 0 || slices.ContainsFunc(r.Send, func(m state.Send) bool { _, is := m.Message.(state.Decide); return is }) {
						t.Fatalf("seed %d: a hub that was replaced decides: %+v", seed, r)
					}
				}
			}
			is.mono = 0
			for _, m := range names {
				r := is.regions[m]
				r.told, r.heard, r.points["s"].since = false, 0, 0
			}
			for _, m := range names {
				if _, ok := f.session[m]; ok && rnd.IntN(3) > 0 {
					connect(m)
				} else {
					delete(f.session, m)
				}
			}
		case 12:
			if d := time.Duration(rnd.IntN(26)) * time.Hour; rnd.IntN(2) == 0 {
				say("%s pass", d)
				f.now = f.now.Add(d)
				is.mono += d
			} else {
				say("the clock goes back by %s", d)
				f.now = f.now.Add(-d)
				f.pass(5 * time.Second)
			}
		}
		d := time.Duration(1+rnd.IntN(5)) * 5 * time.Second
		say("%s pass with beats", d)
		f.pass(d)
		if rnd.IntN(3) == 0 {
			say("a person trims")
			_ = f.step(state.Carry{Verb: catalog.VerbPermit, Slate: slate, By: "x"})
			f.obey()
		}
	}
	return permits, withdrawn
}
