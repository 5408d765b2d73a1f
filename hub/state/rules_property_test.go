package state_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// truth is what really is, kept apart from the state that is tested: the
// simplest thing that can say whether a permit was right.
type truth struct {
	mono    time.Duration
	regions map[string]*trueRegion
	all     bool // the policy: every region, or
	least   int  // at least so many
	gap     uint64
	holds   map[string]uint64 // by name: from
	frozen  bool
}

type trueRegion struct {
	membership catalog.Membership
	session    state.SessionID // 0: nobody is connected
	told       bool            // everything, in this hub's life
	heard      time.Duration
	counter    uint64
	points     map[string]*truePoint
	missing    bool
}

type truePoint struct {
	position uint64
	verified int           // the how-manieth verification
	since    time.Duration // when the hub was told of it
	broken   bool
}

const staleAfter = time.Minute

// archived is the highest position that a region can restore, by what it has
// told lately; ok is false when that is nothing.
func (w *truth) archived(r *trueRegion) (best uint64, ok bool) {
	if !r.told || w.mono-r.heard >= staleAfter || r.missing {
		return 0, false
	}
	for _, p := range r.points {
		if !p.broken && w.mono-p.since < 24*time.Hour && (!ok || p.position > best) {
			best, ok = p.position, true
		}
	}
	return best, ok
}

// wrong says why a permit up to n must not be; empty: it may.
func (w *truth) wrong(n uint64) string {
	if w.frozen {
		return "it is frozen"
	}
	for name, from := range w.holds {
		if n >= from {
			return fmt.Sprintf("hold %s keeps what begins at %d", name, from)
		}
	}
	agree := 0
	for name, r := range w.regions {
		best, ok := w.archived(r)
		ok = ok && n <= best && best-n >= w.gap
		switch {
		case r.membership == catalog.Retired:
		case r.membership == catalog.Joining && !ok, w.all && !ok:
			return fmt.Sprintf("%s can restore %d (%t)", name, best, ok)
		case r.membership == catalog.Active && ok:
			agree++
		}
	}
	if agree == 0 || !w.all && agree < w.least {
		return fmt.Sprintf("only %d regions agree", agree)
	}
	return ""
}

// P1 to P5: whatever happens, in whatever order, a permit is only ever for what
// every region that has to agree can restore, by what it has told in this hub's
// life and lately; never beyond a hold, never while frozen.
func TestP5_PermitsNeverPassTheFloorInRandomHistories(t *testing.T) {
	histories := 1000
	if os.Getenv("QUARRY_SOAK") != "" {
		histories = 100_000
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	var permitted, waited atomic.Int64
	t.Run("histories", func(t *testing.T) { // on each core every so-manieth
		for core := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(core), func(t *testing.T) {
				t.Parallel()
				for h := core; h < histories && !t.Failed(); h += runtime.GOMAXPROCS(0) {
					p, w := ruledHistory(t, seed+uint64(h))
					permitted.Add(int64(p))
					waited.Add(int64(w))
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	permits, waits := int(permitted.Load()), int(waited.Load())
	t.Logf("seed %d: %d histories, %d permits, %d waits", seed, histories, permits, waits)
	if permits < histories/2 || waits < histories/2 {
		t.Errorf("%d permits and %d waits in %d histories: this shows nothing", permits, waits, histories)
	}
}

func ruledHistory(t *testing.T, seed uint64) (permits, waits int) {
	rnd := rand.New(rand.NewPCG(seed, 5))
	names := []string{"ap", "eu", "us"}
	set, err := regions.Parse(names)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, now: dawn, start: map[state.SessionID]uint64{}, ledger: map[string][]byte{}, set: set, cfg: state.Config{StaleAfter: staleAfter}}
	w.s = state.New(w.cfg, state.Saved{Regions: set}, w.now)
	is := &truth{regions: map[string]*trueRegion{}, holds: map[string]uint64{}}
	for _, n := range names {
		is.regions[n] = &trueRegion{membership: catalog.Active, points: map[string]*truePoint{}}
	}
	next := state.SessionID(1)
	var log []string
	step := func(e state.Event, format string, args ...any) {
		log = append(log, fmt.Sprintf(format, args...))
		w.step(e)
	}
	pass := func(d time.Duration, jump bool) {
		if w.now = w.now.Add(d); d > 0 {
			is.mono += d
		}
		step(state.Tick{}, "%s pass (jump %t)", d, jump)
	}
	facts := func(r *trueRegion, rev catalog.Revision) []catalog.Fact {
		g := &catalog.Sighting{Slate: "a", Root: "a", Kind: catalog.KindSnapshots, Seen: catalog.SeenLive, Incarnation: "I", IncarnationKept: true, Lineage: "X"}
		if r.missing {
			g.Seen = catalog.SeenMissing
		}
		out := []catalog.Fact{{Kind: catalog.FactPlacement, Key: "a", Revision: rev, Sighting: g}}
		for id, p := range r.points {
			n, at := p.position, dawn.Add(time.Duration(p.verified)*time.Second)
			rp := &catalog.RestorePoint{Slate: "a", Root: "a", ID: id, Source: catalog.SourceSnapshot, Position: &n, Incarnation: "I", Lineage: "X", State: catalog.RestoreVerified, VerifiedAt: &at}
			if p.broken {
				rp.State, rp.VerifiedAt, rp.Reason = catalog.RestoreIncomplete, nil, "an object is missing"
			}
			out = append(out, catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey("a", id), Revision: rev, RestorePoint: rp})
		}
		return out
	}
	beat := func(n string) {
		r := is.regions[n]
		step(state.Beat{Session: r.session, BucketID: "B" + n, ReadOK: true, At: catalog.Revision{Start: w.start[r.session], Counter: r.counter}}, "%s beats", n)
		r.heard = is.mono
	}
	check := func() {
		e, err := state.ExplainTrim(w.s.View(), "a", "", w.now)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if e.Action == plan.Wait {
			if waits++; len(e.Reasons) == 0 || e.UpTo != nil {
				t.Fatalf("seed %d: a verdict that waits without a reason: %+v", seed, e)
			}
			return
		}
		permits++
		if why := is.wrong(*e.UpTo); why != "" {
			t.Fatalf("seed %d: permit up to %d, but %s\n%s", seed, *e.UpTo, why, strings.Join(slices.Concat(log, w.show("regions"), w.show("points")), "\n"))
		}
	}
	connect := func(n string) {
		r := is.regions[n]
		if r.session != 0 {
			step(state.Closed{Session: r.session}, "%s goes", n)
		}
		if !r.told { // in this hub's life: what was not saved counts from now on
			for _, p := range r.points {
				p.since = is.mono
			}
		}
		r.session, r.counter = next, 1
		next++
		w.start[r.session] = 1000 + uint64(r.session)
		rev := catalog.Revision{Start: w.start[r.session], Counter: 1}
		step(state.Hello{Session: r.session, Region: n, Cluster: "c", Agent: fmt.Sprint(rev.Start), Generation: rev.Start, Start: rev.Start, BucketID: "B" + n}, "%s says hello", n)
		beat(n)
		if !r.told && len(w.log) > 0 && w.saved != nil {
			check() // what it said in another life of the hub does not count
		}
		step(state.Snapshot{Session: r.session, Facts: facts(r, rev), Upto: rev}, "%s tells %d points", n, len(r.points))
		r.told = true
		beat(n)
	}
	apply := func(text string) {
		docs, err := regions.ParseDocuments("p.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		step(state.ApplyDocuments{Documents: docs, By: "x"}, "%s", strings.ReplaceAll(text, "\n", " "))
	}
	policy := func() {
		is.all, is.least, is.gap = rnd.IntN(2) == 0, 1+rnd.IntN(2), uint64(rnd.IntN(3))*5
		require := "{all: true}"
		if !is.all {
			require = fmt.Sprintf("{atLeast: %d}", is.least)
		}
		apply(fmt.Sprintf("apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: p}\nselect: {kinds: [snapshots]}\ntrim: {require: %s, safetyGap: {positions: %d}}\n", require, is.gap))
		// What the rules refuse stays as it was.
		if p := w.s.Rules().Policy("p"); p != nil {
			is.all, is.least, is.gap = p.Trim.Require.All, p.Trim.Require.AtLeast, p.Trim.SafetyGap.Positions
		}
	}
	policy()
	for _, n := range names {
		is.regions[n].points["s0"] = &truePoint{position: uint64(10 + rnd.IntN(90))}
		connect(n)
	}
	for range 40 {
		n := names[rnd.IntN(len(names))]
		r := is.regions[n]
		gone := r.membership == catalog.Retired || r.session == 0
		switch rnd.IntN(16) {
		case 0, 1, 2: // a new snapshot, or one verified anew or found broken
			if gone {
				break
			}
			id := fmt.Sprintf("s%d", rnd.IntN(4))
			p := r.points[id]
			if p == nil || rnd.IntN(2) == 0 {
				verified := rnd.IntN(1 << 30)
				r.points[id] = &truePoint{position: uint64(10 + rnd.IntN(200)), verified: verified, since: is.mono}
			} else {
				p.broken = !p.broken
				p.verified, p.since = rnd.IntN(1<<30), is.mono
			}
			r.counter++
			rev := catalog.Revision{Start: w.start[r.session], Counter: r.counter}
			step(state.Delta{Session: r.session, Facts: facts(r, rev), Upto: rev}, "%s tells of %s %+v", n, id, *r.points[id])
		case 3: // the whole archive goes, or is back
			if gone {
				break
			}
			r.missing = !r.missing
			r.counter++
			rev := catalog.Revision{Start: w.start[r.session], Counter: r.counter}
			step(state.Delta{Session: r.session, Facts: facts(r, rev), Upto: rev}, "%s is missing: %t", n, r.missing)
		case 4: // a region falls silent
			if !gone {
				step(state.Closed{Session: r.session}, "%s goes", n)
				r.session = 0
			}
		case 5, 6:
			if r.membership != catalog.Retired {
				connect(n)
			}
		case 7:
			pass(time.Duration(rnd.IntN(50))*time.Second, false)
		case 8: // the clock goes back, or a day passes
			if rnd.IntN(2) == 0 {
				pass(-time.Duration(rnd.IntN(3600))*time.Second, true)
			} else {
				pass(time.Duration(rnd.IntN(25))*time.Hour, true)
			}
		case 9:
			policy()
		case 10:
			name := fmt.Sprintf("h%d", rnd.IntN(2))
			if _, held := is.holds[name]; held {
				step(state.ReleaseHold{Name: name, By: "x"}, "release %s", name)
				delete(is.holds, name)
			} else {
				is.holds[name] = uint64(rnd.IntN(150))
				apply(fmt.Sprintf("apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: %s}\nselect: {names: [a]}\nfrom: {position: %d}\n", name, is.holds[name]))
			}
		case 11:
			if is.frozen = !is.frozen; is.frozen {
				step(state.Freeze{Scope: "all", By: "x"}, "freeze")
			} else {
				step(state.Thaw{Scope: "all", By: "x"}, "thaw")
			}
		case 12: // people change who is in the set
			switch r.membership {
			case catalog.Retired:
				step(state.JoinRegion{Region: n, By: "x"}, "%s joins", n)
			case catalog.Joining:
				step(state.JoinRegion{Region: n, By: "x", Active: true}, "%s is active", n)
			default:
				step(state.RetireRegion{Region: n, By: "x"}, "x has %s retire", n)
				step(state.RetireRegion{Region: n, By: "y"}, "y has %s retire", n) // where a policy requires it
			}
			if r.membership = w.s.Set().Get(n).Membership; r.membership == catalog.Retired {
				r.session = 0
			}
		case 13: // the hub is killed or replaced; what it saved may be of long ago
			if rnd.IntN(2) == 0 {
				w.save()
			}
			log = append(log, "the hub starts anew")
			w.revive()
			for _, n := range names {
				r := is.regions[n]
				r.session, r.told, r.counter = 0, false, 0
			}
		default:
			for _, n := range names {
				if r := is.regions[n]; r.session != 0 {
					beat(n)
				}
			}
			pass(5*time.Second, false)
		}
		check()
	}
	return permits, waits
}
