package state_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// crew is a hub with agents that obey: what they are told to permit lies in
// their buckets and is told as seen.
type crew struct {
	sessions state.SessionID // how many there were
	t        testing.TB
	s        *state.State
	cfg      state.Config
	now      time.Time
	ledger   map[string][]byte
	session  map[string]state.SessionID
	counter  map[string]uint64
	points   map[string]map[string]uint64              // by region and slate: the position of its restore point
	permits  map[string]map[string]*catalog.Permit     // by region and slate
	told     []catalog.Decision                        // in the order in which they left
	deaf     bool                                      // agents do nothing of what they are told
	refuse   func(d *catalog.Decision) *catalog.Reason // why an agent refuses it
	written  map[string]map[string][]uint64            // all permits of a slate, in their order
	term     uint64
	set      regions.Set                                      // as it was recorded last
	passed   func(d time.Duration)                            // is told of time that passed
	left     func(d *catalog.Decision)                        // is told what leaves
	wall     func(what string, took time.Duration, slice int) // how long slices took
}

func newCrew(t testing.TB, cfg state.Config, slates int, names ...string) *crew {
	set, err := regions.Parse(names)
	if err != nil {
		t.Fatal(err)
	}
	f := &crew{t: t, cfg: cfg, now: dawn, ledger: map[string][]byte{}, session: map[string]state.SessionID{}, counter: map[string]uint64{},
		points: map[string]map[string]uint64{}, permits: map[string]map[string]*catalog.Permit{}, written: map[string]map[string][]uint64{}}
	f.set = set
	f.s = state.New(cfg, state.Saved{Regions: set}, f.now)
	f.term = 1
	_ = f.step(state.Office{Term: f.term, Ledger: aLedger})
	for i, n := range names {
		f.points[n], f.permits[n], f.written[n] = map[string]uint64{}, map[string]*catalog.Permit{}, map[string][]uint64{}
		for k := range slates {
			f.points[n][fmt.Sprintf("archive/%d", k)] = uint64(100 + i)
		}
		f.connect(n)
	}
	return f
}

func (f *crew) step(e state.Event) error {
	r := f.s.Step(e, f.now)
	f.take(r)
	if r.Then != nil {
		f.take(f.s.Step(r.Then, f.now))
	}
	return r.Err
}

// take does what a hub does with the results of a step.
func (f *crew) take(r state.Ready) {
	for _, rec := range r.Records {
		if rec.Value == nil {
			delete(f.ledger, rec.Key)
		} else {
			f.ledger[rec.Key] = rec.Value
		}
	}
	for _, o := range r.Objects {
		if set, ok := o.(state.RegionsRecord); ok {
			f.set = set.Set
		}
	}
	for _, m := range r.Send {
		if d, ok := m.Message.(state.Decide); ok {
			f.told = append(f.told, d.Decision)
			if f.left != nil {
				f.left(&d.Decision)
			}
		}
	}
}

func (f *crew) fact(region, slate string) []catalog.Fact {
	n := f.points[region][slate]
	rev := f.rev(region)
	at := f.now
	return []catalog.Fact{
		{Kind: catalog.FactPlacement, Key: slate, Revision: rev, Sighting: &catalog.Sighting{Slate: slate, Root: slate, Kind: catalog.KindSnapshots, Seen: catalog.SeenLive,
			Incarnation: "I" + region, IncarnationKept: true, Lineage: "X", PositionDomain: "lsn"}},
		{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(slate, fmt.Sprint("s", n)), Revision: rev, RestorePoint: &catalog.RestorePoint{Slate: slate, Root: slate, ID: fmt.Sprint("s", n),
			Source: catalog.SourceSnapshot, Position: &n, PositionDomain: "lsn", Incarnation: "I" + region, Lineage: "X", State: catalog.RestoreVerified, VerifiedAt: &at}},
	}
}

func (f *crew) rev(region string) catalog.Revision {
	return catalog.Revision{Start: 1000 + uint64(f.session[region]), Counter: f.counter[region]}
}

func (f *crew) connect(region string) {
	f.sessions++ // a number that was used is not used again: it is the agent's generation too
	id := f.sessions
	f.session[region], f.counter[region] = id, 1
	_ = f.step(state.Hello{Session: id, Region: region, Cluster: "c", Agent: fmt.Sprint(id), Generation: uint64(id), Start: 1000 + uint64(id), BucketID: "B" + region, Decides: true})
	f.beat(region)
	var facts []catalog.Fact
	for slate := range f.points[region] {
		facts = append(facts, f.fact(region, slate)...)
	}
	for slate, p := range f.permits[region] {
		facts = append(facts, catalog.Fact{Kind: catalog.FactPermit, Key: slate, Revision: f.rev(region), Permit: p})
	}
	_ = f.step(state.Snapshot{Session: id, Facts: facts, Upto: f.rev(region)})
	f.beat(region)
}

func (f *crew) beat(region string) {
	_ = f.step(state.Beat{Session: f.session[region], BucketID: "B" + region, ReadOK: true, At: f.rev(region)})
}

// snapshot has a region's restore point of a slate be another one.
func (f *crew) snapshot(region, slate string, position uint64) {
	old := f.points[region][slate]
	f.counter[region]++
	f.points[region][slate] = position
	facts := f.fact(region, slate)
	facts = append(facts, catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(slate, fmt.Sprint("s", old)), Revision: f.rev(region), Gone: "it was removed"})
	_ = f.step(state.Delta{Session: f.session[region], Facts: facts, Upto: f.rev(region)})
}

// obey carries out what agents were told since.
func (f *crew) obey() {
	for len(f.told) > 0 && !f.deaf {
		d := f.told[0]
		f.told = f.told[1:]
		o := catalog.Outcome{Decision: d.ID, Region: d.Region, Verb: d.Verb, Slate: d.Slate, Sequence: d.Sequence, State: catalog.OutcomeDone}
		if f.refuse != nil {
			if why := f.refuse(&d); why != nil {
				o.State, o.Reasons = catalog.OutcomeRefused, []catalog.Reason{*why}
				_ = f.step(state.Settled{Session: f.session[d.Region], Outcome: o})
				continue
			}
		}
		was := f.permits[d.Region][d.Slate]
		p := &catalog.Permit{Version: 1, Number: 1, Slate: d.Slate, Root: d.Root, Incarnation: d.Incarnation, PositionDomain: d.PositionDomain, Lineage: d.Lineage,
			Decision: d.ID, Ledger: d.Ledger, Term: d.Term, Sequence: d.Sequence, Issued: f.now, NotAfter: f.now}
		if was != nil {
			p.Number = was.Number + 1
		}
		if d.Verb == catalog.VerbPermit {
			p.UpTo, p.NotAfter = d.Position, f.now.Add(d.Parameters.ValidFor)
			f.written[d.Region][d.Slate] = append(f.written[d.Region][d.Slate], *d.Position)
		}
		f.permits[d.Region][d.Slate] = p
		o.Saw.Permit = &p.Number
		_ = f.step(state.Settled{Session: f.session[d.Region], Outcome: o})
		f.counter[d.Region]++
		_ = f.step(state.Delta{Session: f.session[d.Region], Upto: f.rev(d.Region), Facts: []catalog.Fact{{Kind: catalog.FactPermit, Key: d.Slate, Revision: f.rev(d.Region), Permit: p}}})
	}
}

// pass lets time go by, with beats, and has the steward work.
func (f *crew) pass(d time.Duration) {
	for till := f.now.Add(d); f.now.Before(till); {
		d := min(5*time.Second, till.Sub(f.now))
		f.now = f.now.Add(d)
		if f.passed != nil {
			f.passed(d)
		}
		for region := range f.session {
			f.beat(region)
		}
		r := f.s.Step(state.Tick{}, f.now)
		for f.take(r); r.Tend; {
			began := time.Now()
			r = f.s.Step(state.Tend{}, f.now)
			if f.wall != nil {
				f.wall("tend", time.Since(began), len(r.Records))
			}
			f.take(r)
		}
		_ = f.step(state.Tick{})
		f.obey()
	}
}

func (f *crew) apply(text string) (withdrawn []state.Withdrawal) {
	f.t.Helper()
	docs, err := regions.ParseDocuments("p.yaml", []byte(text))
	if err == nil {
		err = f.step(state.ApplyDocuments{Documents: docs, By: "ann", Withdrawn: &withdrawn})
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.obey()
	return withdrawn
}

// ruling is what rules a slate in the regions, such as "eu=100 us=none".
func (f *crew) ruling(slate string) string {
	var out []string
	for _, region := range f.s.Set().Names() {
		p, is := f.permits[region][slate], "-"
		if p != nil && p.UpTo == nil {
			is = "none"
		} else if p != nil {
			is = fmt.Sprint(*p.UpTo)
		}
		out = append(out, region+"="+is)
	}
	return strings.Join(out, " ")
}

func (f *crew) is(slate, want string) {
	f.t.Helper()
	if got := f.ruling(slate); got != want {
		f.t.Errorf("%s: permits %s, want %s", slate, got, want)
	}
}

func policyOf(trim, more string) string {
	return "apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: archives}\nselect: {kinds: [snapshots]}\ntrim: " + trim + "\nrestorePoints: {perRegion: 1}\n" + more
}

const holdAt50 = "apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: case-1}\nselect: {names: [archive/0]}\nfrom: {position: 51}\n"

// P5, RS-2: what is published follows the floor and each region's own archive,
// up and, where something is lost or forbidden, down.
func TestPermitsFollowTheVerdict(t *testing.T) {
	f := newCrew(t, state.Config{Budgets: state.Budgets{SlateHour: 10}}, 1, "ap", "eu", "us") // at 100, 101, 102
	f.pass(time.Minute)
	f.is("archive/0", "ap=- eu=- us=-") // no policy permits nothing
	f.apply(policyOf("{require: {all: true}}", ""))
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=100 eu=100 us=100")
	f.pass(10 * time.Minute)
	if n := len(f.written["eu"]["archive/0"]); n != 1 {
		t.Errorf("%d permits for one verdict", n)
	}
	f.snapshot("ap", "archive/0", 200)
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=101 eu=101 us=101")
	f.apply(policyOf("{require: {atLeast: 2}}", ""))
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=102 eu=101 us=102") // eu's own archive is lower than the floor

	// A hold: withdrawn in the same step, with what had been carried out.
	gone := f.apply(holdAt50)
	f.is("archive/0", "ap=none eu=none us=none")
	if len(gone) != 3 || gone[0].Stage != catalog.StageDone || gone[0].UpTo != 102 || gone[0].Permit == "" || gone[0].Decision == "" {
		t.Errorf("%+v", gone)
	}
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=50 eu=50 us=50")
	if err := f.step(state.ReleaseHold{Name: "case-1", By: "bob"}); err != nil {
		t.Fatal(err)
	}
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=102 eu=101 us=102")

	// A restore point is lost: its region cannot do what was published.
	f.snapshot("us", "archive/0", 60)
	f.pass(20 * time.Second)
	f.is("archive/0", "ap=101 eu=101 us=60")

	var off []state.Withdrawal
	if err := f.step(state.Freeze{Scope: "slate/archive/0", By: "bob", Withdrawn: &off}); err != nil || len(off) != 3 {
		t.Errorf("%v %+v", err, off)
	}
	f.obey()
	f.is("archive/0", "ap=none eu=none us=none")
	f.pass(time.Minute)
	f.is("archive/0", "ap=none eu=none us=none")
	if err := f.step(state.Thaw{Scope: "slate/archive/0", By: "bob"}); err != nil {
		t.Fatal(err)
	}
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=101 eu=101 us=60")
	if err := f.step(state.RemovePolicy{Name: "archives", By: "bob", Withdrawn: &off}); err != nil || len(off) != 3 {
		t.Errorf("%v %+v", err, off)
	}
	f.obey()
	f.is("archive/0", "ap=none eu=none us=none")
}

// RS-3: who falls silent holds back what is new, and takes nothing back.
func TestSilenceWithdrawsNothing(t *testing.T) {
	f := newCrew(t, state.Config{}, 1, "ap", "eu", "us")
	f.apply(policyOf("{require: {all: true}}", ""))
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=100 eu=100 us=100")
	silent := f.session["us"]
	_ = f.step(state.Closed{Session: silent})
	delete(f.session, "us")
	f.pass(10 * time.Minute)
	f.snapshot("ap", "archive/0", 200)
	f.pass(10 * time.Minute)
	f.is("archive/0", "ap=100 eu=100 us=100")
	// Nor does a region that joins, and has archived nothing yet.
	if err := f.step(state.JoinRegion{Region: "za", By: "ann"}); err != nil {
		t.Fatal(err)
	}
	f.pass(time.Minute)
	for _, region := range []string{"ap", "eu"} {
		if n := len(f.written[region]["archive/0"]); n != 1 {
			t.Errorf("%s had %d permits", region, n)
		}
	}
}

// A permit is renewed while it is true, before it is over, and that costs no
// budget.
func TestPermitsAreRenewed(t *testing.T) {
	f := newCrew(t, state.Config{Budgets: state.Budgets{SlateHour: 1, RegionHour: 1, FleetHour: 2}}, 1, "ap", "eu")
	f.apply(policyOf("{require: {all: true}}", ""))
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=100 eu=100")
	issued := f.permits["eu"]["archive/0"].Issued
	for range 30 {
		f.pass(time.Minute)
		f.now = f.now.Add(59 * time.Minute)
		for _, region := range []string{"ap", "eu"} { // verified anew each hour
			f.snapshot(region, "archive/0", f.points[region]["archive/0"])
		}
		if left := f.permits["eu"]["archive/0"].NotAfter.Sub(f.now); left < 3*time.Hour {
			t.Fatalf("%v are left of the permit", left)
		}
	}
	if p := f.permits["eu"]["archive/0"]; !p.Issued.After(issued) {
		t.Error("it was not renewed")
	}
	if n := len(f.written["eu"]["archive/0"]); n > 4 {
		t.Errorf("%d permits in 30 hours", n)
	}
}

// P11: a policy that would touch everything acts on none until a person names
// the count; then it goes on, and what it asks for day by day is what it is for.
func TestAPolicyThatTouchesEverythingOpensTheBreaker(t *testing.T) {
	f := newCrew(t, state.Config{Budgets: state.Budgets{RegionHour: 10_000, FleetHour: 10_000}}, 100, "ap", "eu")
	f.apply(policyOf("{require: {all: true}}", "limits: {breaker: {ackTTL: 5m}}\n"))
	f.pass(time.Minute)
	for region := range f.permits {
		if len(f.permits[region]) > 0 {
			t.Fatalf("%s has permits", region)
		}
	}
	b := f.s.Breaker()
	if !b.Open || b.Slates != 100 || !strings.Contains(b.Why, "100 of 100 slates") || !strings.Contains(b.Why, "archives") {
		t.Fatalf("%+v", b)
	}
	if err := f.step(state.CloseBreaker{By: "ann", Why: "meant", Slates: 99}); !errors.Is(err, state.ErrBreakerCount) {
		t.Errorf("%v", err)
	}
	if err := f.step(state.CloseBreaker{By: "ann", Why: "not sure"}); err != nil {
		t.Fatal(err)
	}
	f.pass(10 * time.Second)
	if b := f.s.Breaker(); !b.Open {
		t.Fatal("closed without a count, it lets everything go")
	}
	if err := f.step(state.CloseBreaker{By: "ann", Why: "meant", Slates: 100}); err != nil {
		t.Fatal(err)
	}
	f.pass(time.Minute)
	f.is("archive/0", "ap=100 eu=100")
	f.is("archive/99", "ap=100 eu=100")
	if len(f.permits["eu"]) != 100 {
		t.Errorf("%d permits", len(f.permits["eu"]))
	}
	// The days after: all logs go on at once.
	f.now = f.now.Add(time.Hour)
	for slate := range f.points["ap"] {
		f.snapshot("ap", slate, 300)
		f.snapshot("eu", slate, 200)
	}
	f.pass(time.Minute)
	f.is("archive/42", "ap=200 eu=200")
	// Another revision is another policy.
	f.now = f.now.Add(time.Hour)
	f.apply(policyOf("{require: {atLeast: 1}}", ""))
	f.pass(time.Minute)
	f.is("archive/42", "ap=200 eu=200")
	if b := f.s.Breaker(); !b.Open || b.Slates != 100 {
		t.Errorf("%+v", b)
	}
	// What it stops is no more than what lets go.
	gone := f.apply(policyOf("{require: {all: true}, safetyGap: {positions: 50}}", ""))
	if len(gone) != 200 {
		t.Errorf("%d withdrawn", len(gone))
	}
	f.is("archive/42", "ap=none eu=none")
}

// What budgets have no room for waits, and comes in its turn.
func TestBudgetsHaveWishesWait(t *testing.T) {
	f := newCrew(t, state.Config{Budgets: state.Budgets{RegionHour: 4, FleetHour: 100, Slates: 1000}}, 10, "ap", "eu")
	f.apply(policyOf("{require: {all: true}}", ""))
	for hour, want := range []int{4, 8, 10, 10} {
		f.pass(10 * time.Minute)
		if n := len(f.permits["eu"]); n != want {
			t.Errorf("after %d hours %d permits, %d were wanted", hour, n, want)
		}
		f.now = f.now.Add(51 * time.Minute)
	}
	for _, d := range f.s.Decisions() {
		if d.Stage != state.StageDone {
			t.Errorf("%+v", d)
		}
	}
	// And so do those of a policy's own limit.
	f = newCrew(t, state.Config{}, 10, "ap", "eu")
	f.apply(policyOf("{require: {all: true}}", "limits: {perHour: {slates: 3}}\n"))
	f.pass(10 * time.Minute)
	if n := len(f.permits["eu"]); n != 3 {
		t.Errorf("%d slates in an hour, 3 may be", n)
	}
}

// What an agent refuses is not asked of it at every pass.
func TestWhatIsRefusedIsTriedLessOften(t *testing.T) {
	f := newCrew(t, state.Config{}, 1, "ap", "eu")
	asked := 0
	f.refuse = func(d *catalog.Decision) *catalog.Reason {
		asked++
		return &catalog.Reason{Code: catalog.CodeNotAllowed, Message: "not here"}
	}
	f.apply(policyOf("{require: {all: true}}", ""))
	f.pass(59 * time.Minute)
	if asked < 8 || asked > 14 {
		t.Errorf("two agents were asked %d times in an hour", asked)
	}
}

// RS-13: a person's word is judged anew, and goes no further than the rules.
func TestRS13_AWordAboveTheFloorIsRefused(t *testing.T) {
	f := newCrew(t, state.Config{PassEvery: 24 * time.Hour}, 1, "ap", "eu")
	upTo := func(n uint64) *uint64 { return &n }
	var made []state.Decided
	if err := f.step(state.Carry{Verb: catalog.VerbPermit, Slate: "archive/0", By: "ann", Decided: &made}); !errors.Is(err, state.ErrRefused) || !strings.Contains(err.Error(), "no-policy") {
		t.Errorf("%v", err)
	}
	f.apply(policyOf("{require: {all: true}}", ""))
	v := f.s.View()
	p, err := state.PlanFor(v, catalog.VerbPermit, "archive/0", "", nil, f.now)
	if err != nil || len(p.Steps) != 2 || p.Steps[0].Doing != "permit" || *p.Steps[0].UpTo != 100 || *p.Wanted != 100 {
		t.Fatalf("%+v %v", p, err)
	}
	var refused *state.Refused
	_, err = state.PlanFor(v, catalog.VerbPermit, "archive/0", "", upTo(101), f.now)
	if !errors.As(err, &refused) || len(refused.Reasons) != 1 || refused.Reasons[0].Code != plan.BelowMinSnapshots || !strings.Contains(refused.Reasons[0].Message, "ap") {
		t.Errorf("%v", err)
	}
	for _, e := range []state.Carry{{UpTo: upTo(101)}, {UpTo: upTo(101), Plan: p.Plan}} {
		e.Verb, e.Slate, e.By = catalog.VerbPermit, "archive/0", "ann"
		if err := f.step(e); !errors.As(err, &refused) {
			t.Errorf("%v", err)
		}
	}
	if err := f.step(state.Carry{Verb: catalog.VerbPermit, Slate: "archive/0", Plan: "p-0000000000000000", By: "ann"}); !errors.Is(err, state.ErrPlanExpired) {
		t.Errorf("%v", err)
	}
	if n := len(f.s.Decisions()); n != 0 {
		t.Fatalf("%d decisions", n)
	}
	if err := f.step(state.Carry{Verb: catalog.VerbPermit, Slate: "archive/0", Plan: p.Plan, UpTo: upTo(90), By: "ann", Decided: &made}); err != nil || len(made) != 2 {
		t.Fatalf("%v %+v", err, made)
	}
	// Said twice, it is done once.
	var again []state.Decided
	if err := f.step(state.Carry{Verb: catalog.VerbPermit, Slate: "archive/0", UpTo: upTo(90), By: "ann", Decided: &again}); err != nil || len(again) != 2 || again[0].Decision.ID != made[0].Decision.ID {
		t.Fatalf("%v %+v", err, again)
	}
	f.obey()
	f.is("archive/0", "ap=90 eu=90")
	if err := f.step(state.Carry{Verb: catalog.VerbPermit, Slate: "archive/0", UpTo: upTo(90), By: "ann", Decided: &again}); err != nil || len(again) != 0 {
		t.Fatalf("%v %+v", err, again)
	}
	if err := f.step(state.Carry{Verb: catalog.VerbPermit, Slate: "nothere", By: "ann"}); err == nil {
		t.Error("nothing is there")
	}
}
