package state_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// What the hub keeps of slates, to rule upon all of them at once, says of each
// after every step of any history what its evidence says when it is read anew.
func TestWhatIsKeptRulesAsTheEvidenceDoes(t *testing.T) {
	histories := 150
	if os.Getenv("QUARRY_SOAK") != "" {
		histories = 20_000
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	var sum keptSum
	for h := range histories {
		keptHistory(t, seed+uint64(h), &sum)
		if t.Failed() {
			return
		}
	}
	t.Logf("seed %d: %d histories, %+v", seed, histories, sum)
	if sum.Permits < histories || sum.Waits < histories || sum.Whole < 10*histories || sum.Lineages < histories || sum.Changes < histories {
		t.Errorf("%+v in %d histories: this shows little", sum, histories)
	}
}

type keptSum struct{ Permits, Waits, Whole, Lineages, Changes int }

// keptAgent tells random things of the same few roots and names, so that they
// meet: slates of several lineages, placements that change their name.
type keptAgent struct {
	region  string
	session state.SessionID
	start   uint64
	counter uint64
	facts   map[string]catalog.Fact // by kind and key
}

func (a *keptAgent) change(rng *rand.Rand) catalog.Fact {
	a.counter++
	names := []string{"a", "b", "c", "logs/0", "logs/1"}
	root := fmt.Sprintf("r%d", rng.IntN(4))
	oneOf := func(of ...string) string { return of[rng.IntN(len(of))] }
	f := catalog.Fact{Revision: catalog.Revision{Start: a.start, Counter: a.counter}}
	switch n := rng.IntN(10); {
	case n < 4:
		g := &catalog.Sighting{Slate: oneOf(names...), Root: root, Kind: catalog.Kind(oneOf("snapshots", "snapshots", "slatedb")), Seen: catalog.SeenLive,
			Incarnation: "I", IncarnationKept: true, Lineage: oneOf("X", "X", "X", "Y", ""), PositionDomain: oneOf("lsn", "lsn", "lsn", "seq")}
		if was, had := a.facts["p"+root]; had && rng.IntN(3) > 0 {
			c := *was.Sighting
			g = &c
		}
		g.Seen = catalog.Seen(oneOf("live", "live", "live", "live", "missing", "unreadable"))
		if rng.IntN(2) == 0 {
			g.Position = new(uint64(rng.IntN(300)))
		}
		if rng.IntN(6) == 0 {
			g.Checkpoints = []catalog.Checkpoint{{ID: oneOf("s0", "s1"), Name: oneOf("quarry:case:1", "quarry:trim:2", "mine", "")}}
		}
		f.Kind, f.Key, f.Sighting = catalog.FactPlacement, root, g
	case n < 8:
		id := fmt.Sprintf("s%d", rng.IntN(3))
		r := &catalog.RestorePoint{Slate: oneOf(names...), Root: root, ID: id, Source: catalog.SourceSnapshot, Incarnation: "I",
			Lineage: oneOf("X", "X", "X", "Y"), PositionDomain: oneOf("lsn", "lsn", "lsn", "seq"),
			State: catalog.RestoreState(oneOf("verified", "verified", "verified", "listed", "incomplete"))}
		if at, had := a.facts["p"+root]; had {
			r.Slate = at.Sighting.Slate
			if at.Sighting.Lineage != "" {
				r.Lineage, r.PositionDomain = at.Sighting.Lineage, at.Sighting.PositionDomain
			}
		}
		if rng.IntN(8) > 0 {
			r.Position = new(uint64(rng.IntN(300)))
		}
		if r.State == catalog.RestoreVerified {
			at := dawn.Add(time.Duration(rng.IntN(1e6)) * time.Second)
			r.VerifiedAt = &at
		}
		f.Kind, f.Key, f.RestorePoint = catalog.FactRestorePoint, catalog.RestorePointKey(root, id), r
	case n < 9:
		f.Kind, f.Key = catalog.FactRegistration, fmt.Sprint("01", rng.IntN(3))
		f.Registration = &catalog.Registration{Version: 1, Action: catalog.Register, ID: f.Key, Slate: oneOf(names...), Root: root,
			Labels: map[string]string{"env": oneOf("prod", "test")}}
	default:
		l := &catalog.Lease{Version: 1, Slate: oneOf(names...), Role: "reader", ID: oneOf("x", "y"), TTL: float64(10 + rng.IntN(100)), Touched: dawn.Add(time.Duration(rng.IntN(1e6)) * time.Second)}
		f.Kind, f.Key, f.Lease = catalog.FactLease, catalog.LeaseKey(l.Slate, l.Role, l.ID), l
	}
	at := string(rune('0'+f.Kind)) + f.Key
	if f.Kind == catalog.FactPlacement {
		at = "p" + root
	}
	if _, had := a.facts[at]; had && rng.IntN(8) == 0 {
		delete(a.facts, at)
		return catalog.Fact{Kind: f.Kind, Key: f.Key, Revision: f.Revision, Gone: "removed"}
	}
	a.facts[at] = f
	return f
}

func keptHistory(t *testing.T, seed uint64, sum *keptSum) {
	rng := rand.New(rand.NewPCG(seed, 9))
	names := []string{"ap", "eu", "us"}
	set, err := regions.Parse(names)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, now: dawn, start: map[state.SessionID]uint64{}, ledger: map[string][]byte{}, set: set, cfg: state.Config{StaleAfter: staleAfter}}
	w.s = state.New(w.cfg, state.Saved{Regions: set}, w.now)
	next := state.SessionID(1)
	agents := map[string]*keptAgent{}
	var tale []string
	step := func(e state.Event) {
		tale = append(tale, fmt.Sprintf("%T %+v", e, e))
		w.step(e)
	}
	beat := func(a *keptAgent) {
		step(state.Beat{Session: a.session, BucketID: "B" + a.region, ReadOK: true, At: catalog.Revision{Start: a.start, Counter: a.counter}})
	}
	connect := func(n string) {
		a := agents[n]
		if a == nil {
			a = &keptAgent{region: n, facts: map[string]catalog.Fact{}}
			agents[n] = a
			for i, name := range []string{"a", "b", "c", "logs/0"} { // all is well at first
				root := fmt.Sprintf("r%d", i)
				a.facts["p"+root] = catalog.Fact{Kind: catalog.FactPlacement, Key: root, Sighting: &catalog.Sighting{Slate: name, Root: root, Kind: catalog.KindSnapshots,
					Seen: catalog.SeenLive, Incarnation: "I", IncarnationKept: true, Lineage: "X", PositionDomain: "lsn", Position: new(uint64(300))}}
				key := catalog.RestorePointKey(root, "s0")
				a.facts[string(rune('0'+catalog.FactRestorePoint))+key] = catalog.Fact{Kind: catalog.FactRestorePoint, Key: key, RestorePoint: &catalog.RestorePoint{Slate: name, Root: root,
					ID: "s0", Source: catalog.SourceSnapshot, Incarnation: "I", Lineage: "X", PositionDomain: "lsn", State: catalog.RestoreVerified, Position: new(uint64(50 + rng.IntN(200)))}}
			}
		}
		a.session, a.counter = next, a.counter+1
		next++
		a.start = 1000 + uint64(a.session)
		step(state.Hello{Session: a.session, Region: n, Cluster: "c", Agent: fmt.Sprint(a.start), Generation: a.start, Start: a.start, BucketID: "B" + n})
		beat(a)
		var all []catalog.Fact
		rev := catalog.Revision{Start: a.start, Counter: a.counter}
		for _, k := range slices.Sorted(maps.Keys(a.facts)) {
			f := a.facts[k]
			f.Revision = rev
			all = append(all, f)
		}
		step(state.Snapshot{Session: a.session, Facts: all, Upto: rev, Empty: len(all) == 0})
		beat(a)
	}
	document := func() string {
		oneOf := func(of ...string) string { return of[rng.IntN(len(of))] }
		sel := oneOf("{}", "{kinds: [snapshots]}", "{names: [a, b]}", `{names: ["logs/*"]}`, "{kinds: [slatedb]}",
			"{kinds: [snapshots], except: {names: [a]}}", "{kinds: [snapshots], except: {labels: {env: test}}}", "{labels: {env: prod}}", `{names: ["*"], regions: [eu, us]}`)
		if sel == "{}" {
			sel = `{names: ["*"]}`
		}
		if rng.IntN(3) == 0 {
			return fmt.Sprintf("apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: h%d}\nselect: %s\nfrom: {position: %d}\n", rng.IntN(3), sel, rng.IntN(200))
		}
		trim := oneOf("", "trim: {require: {all: true}}\n", "trim: {require: {atLeast: 1}}\n", "trim: {require: {atLeast: 1}}\n", "trim: {require: {atLeast: 2}, safetyGap: {positions: 5}}\n",
			"trim: {require: {atLeast: 1}, keepNewest: {positions: 20}}\n", "trim: {require: {atLeast: 1}, maxLag: {positions: 50, then: block}}\n",
			"trim: {require: {all: true}, safetyGap: {age: 1m}}\n")
		rest := oneOf("", "", "restorePoints: {perRegion: 2}\n", "windows: [{deny: [all], from: 2030-01-01, to: 2030-01-02, reason: x}]\n")
		if trim == "" && rest == "" {
			rest = "restorePoints: {perRegion: 1}\n"
		}
		return fmt.Sprintf("apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: p%d}\nselect: %s\n%s%s", rng.IntN(3), sel, trim, rest)
	}
	parse := func(text string) regions.Documents {
		docs, err := regions.ParseDocuments("d.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return docs
	}
	check := func() {
		v := w.s.View()
		rules := w.s.Rules()
		got, whole := state.RulingsOf(v, rules, w.now)
		want := state.SubjectRulings(v, rules, w.now)
		fail := func(format string, args ...any) {
			t.Fatalf("seed %d: %s\n%s", seed, fmt.Sprintf(format, args...), strings.Join(slices.Concat(tale, w.show("regions"), w.show("points")), "\n"))
		}
		for id, r := range got {
			if is, there := want[id]; !there || is != r {
				fail("kept of %s: %+v %s, the evidence says %+v %s (%t)", id, r, r.Why, is, is.Why, there)
			}
		}
		if !whole {
			return
		}
		if len(rules.Policies) > 0 {
			sum.Whole++
		}
		seen := map[string]bool{}
		for id, r := range want {
			if _, there := got[id]; !there {
				fail("%s is not kept", id)
			}
			if r.Permit {
				sum.Permits++
			} else {
				sum.Waits++
			}
			name, _, _ := strings.Cut(id, "|")
			if seen[name] {
				sum.Lineages++
			}
			seen[name] = true
		}
		after, _, err := rules.Apply(parse(document()), w.s.Set(), "x", w.now)
		if err != nil {
			return // a region set that it cannot be satisfied in
		}
		fast, slow := state.TestTrim(v, after, w.now), state.TrimTestedOneByOne(v, after, w.now)
		if !reflect.DeepEqual(fast, slow) {
			fail("policy test says %+v, one by one %+v", fast, slow)
		}
		sum.Changes += len(fast.Changes)
		if fast, slow := state.SumTrims(v, w.now), state.TrimsSummedOneByOne(v, w.now); !reflect.DeepEqual(fast, slow) {
			fail("the summary says %+v, one by one %+v", fast, slow)
		}
	}
	for _, n := range names {
		connect(n)
	}
	for range 60 {
		a := agents[names[rng.IntN(len(names))]]
		gone := a.session == 0 || w.s.Set().Get(a.region).Membership == catalog.Retired
		switch n := rng.IntN(24); {
		case n < 8 && !gone:
			var facts []catalog.Fact
			for range 1 + rng.IntN(3) {
				f := a.change(rng)
				facts = slices.DeleteFunc(facts, func(o catalog.Fact) bool { return o.Kind == f.Kind && o.Key == f.Key })
				facts = append(facts, f)
			}
			step(state.Delta{Session: a.session, Facts: facts, Upto: catalog.Revision{Start: a.start, Counter: a.counter}})
		case n == 8 && !gone && rng.IntN(3) == 0:
			step(state.Closed{Session: a.session})
			a.session = 0
		case n == 10 || n == 11:
			if w.s.Set().Get(a.region).Membership != catalog.Retired {
				connect(a.region)
			}
		case n < 14:
			step(state.ApplyDocuments{Documents: parse(document()), By: "x"})
		case n == 14:
			step(state.RemovePolicy{Name: fmt.Sprint("p", rng.IntN(3)), By: "x"})
		case n == 15:
			step(state.ReleaseHold{Name: fmt.Sprint("h", rng.IntN(3)), By: "x"})
		case n == 16:
			scope := []string{"all", "region/eu", "slate/a", "slate/logs/0"}[rng.IntN(4)]
			if rng.IntN(2) == 0 {
				step(state.Freeze{Scope: scope, By: "x"})
			} else {
				step(state.Thaw{Scope: scope, By: "x"})
			}
		case n == 17:
			switch w.s.Set().Get(a.region).Membership {
			case catalog.Retired:
				step(state.JoinRegion{Region: a.region, By: "x", Active: rng.IntN(2) == 0})
			default:
				step(state.RetireRegion{Region: a.region, By: "x"})
				a.session = 0
			}
		case n == 18: // what was decided could not be made durable
			mark := w.s.Mark(true)
			set, ledger, log := w.set.Clone(), maps.Clone(w.ledger), slices.Clone(w.log)
			switch rng.IntN(3) {
			case 0:
				step(state.ApplyDocuments{Documents: parse(document()), By: "x"})
			case 1:
				step(state.Freeze{Scope: "all", By: "x"})
			default:
				step(state.JoinRegion{Region: "zz", By: "x"})
			}
			if rng.IntN(2) == 0 {
				check()
			}
			tale = append(tale, "undo")
			w.s.Undo(mark)
			w.set, w.ledger, w.log = set, ledger, log
		case n == 19:
			if rng.IntN(3) == 0 && len(names) == 3 {
				step(state.JoinRegion{Region: "sa", By: "x", Active: true})
				names = w.s.Set().Names()
				for _, n := range names {
					if agents[n] == nil {
						connect(n)
					}
				}
				break
			}
			w.save()
			tale = append(tale, "the hub starts anew")
			w.revive()
			for _, a := range agents {
				a.session = 0
			}
		case n == 20:
			step(state.ForgetPlacement{Region: a.region, Slate: fmt.Sprint("r", rng.IntN(4)), By: "x"})
		default:
			for _, n := range names {
				if agents[n].session != 0 {
					beat(agents[n])
				}
			}
			w.now = w.now.Add(time.Duration(rng.IntN(90)) * time.Second)
			if rng.IntN(20) == 0 {
				w.now = w.now.Add(20 * time.Hour)
			}
			step(state.Tick{})
		}
		if rng.IntN(4) > 0 {
			for range 100 {
				if r := w.s.Step(state.Tend{}, w.now); !r.Tend {
					break
				}
			}
		}
		check()
	}
}
