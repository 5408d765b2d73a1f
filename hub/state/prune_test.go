package state_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// pruneWorld has two regions with a snapshot repository of one log each; their
// agents do what is decided.
type pruneWorld struct {
	*world
	revision map[string]uint64
	points   map[string]map[uint64]catalog.RestoreState
	orphans  map[string][]catalog.Orphan
	permit   map[string]*catalog.Permit
	sees     bool // the agents say what is in their buckets after they did something
	taken    map[string]bool
	did      []string
}

var pruneSessions = map[string]state.SessionID{"ap": 1, "eu": 2}

func newPruneWorld(t *testing.T, policy string) *pruneWorld {
	set, err := regions.Parse([]string{"ap", "eu"})
	if err != nil {
		t.Fatal(err)
	}
	w := &pruneWorld{world: &world{t: t, now: dawn, set: set, start: map[state.SessionID]uint64{}, ledger: map[string][]byte{}}, sees: true, taken: map[string]bool{},
		revision: map[string]uint64{}, points: map[string]map[uint64]catalog.RestoreState{}, orphans: map[string][]catalog.Orphan{}, permit: map[string]*catalog.Permit{}}
	w.s = state.New(w.cfg, state.Saved{Regions: set}, w.now)
	w.step(state.Office{Term: 1, Ledger: aLedger})
	for region := range pruneSessions {
		w.points[region] = map[uint64]catalog.RestoreState{}
	}
	w.apply(policy)
	return w
}

func (w *pruneWorld) apply(policy string) {
	w.t.Helper()
	docs, err := regions.ParseDocuments("policy.yaml", []byte("apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: archives}\nselect: {kinds: [snapshots]}\n"+policy))
	if err != nil {
		w.t.Fatal(err)
	}
	w.step(state.ApplyDocuments{Documents: docs, By: "mina"})
}

// begin has both agents connect and tell everything.
func (w *pruneWorld) begin() {
	for _, region := range []string{"ap", "eu"} {
		id := pruneSessions[region]
		w.start[id] = uint64(id)
		w.step(state.Hello{Session: id, Region: region, Cluster: "a", Agent: region, Generation: 1, Start: uint64(id), BucketID: region, Decides: true})
		w.step(state.Beat{Session: id, BucketID: region, ReadOK: true})
		facts, upto := w.facts(region)
		w.step(state.Snapshot{Session: id, Facts: facts, Upto: upto})
	}
}

func (w *pruneWorld) facts(region string) ([]catalog.Fact, catalog.Revision) {
	rev := func() catalog.Revision {
		w.revision[region]++
		return catalog.Revision{Start: uint64(pruneSessions[region]), Counter: w.revision[region]}
	}
	head := uint64(0)
	for p := range w.points[region] {
		head = max(head, p)
	}
	facts := []catalog.Fact{{Kind: catalog.FactPlacement, Key: "archive/0", Revision: rev(), Sighting: &catalog.Sighting{
		Slate: "archive/0", Root: "archive/0", Kind: catalog.KindSnapshots, Seen: catalog.SeenLive, Incarnation: "I-" + region, IncarnationKept: true,
		Lineage: "L", Position: &head, PositionDomain: "lsn", Orphans: w.orphans[region],
	}}}
	for at := uint64(1); at <= head; at++ {
		st, ok := w.points[region][at]
		if !ok {
			continue
		}
		made, position, verified := w.now.Add(-time.Duration(head-at)*time.Hour), at, w.now
		facts = append(facts, catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey("archive/0", folder(at)), Revision: rev(), RestorePoint: &catalog.RestorePoint{
			Slate: "archive/0", Root: "archive/0", Incarnation: "I-" + region, ID: folder(at), Name: fmt.Sprint("snap_", at), Source: catalog.SourceSnapshot,
			Position: &position, PositionDomain: "lsn", Lineage: "L", State: st, CreatedAt: &made, VerifiedAt: &verified,
		}})
	}
	if p := w.permit[region]; p != nil {
		facts = append(facts, catalog.Fact{Kind: catalog.FactPermit, Key: "archive/0", Revision: rev(), Permit: p})
	}
	return facts, catalog.Revision{Start: uint64(pruneSessions[region]), Counter: w.revision[region]}
}

func folder(at uint64) string { return fmt.Sprintf("lsn_%020d-snap_%d", at, at) }

// tell has an agent tell what changed: those that are listed no more are withdrawn.
func (w *pruneWorld) tell(region string) {
	facts, upto := w.facts(region)
	for rp := range w.s.View().RestorePointsOf("archive/0") {
		if rp.Region == region && !slices.ContainsFunc(facts, func(f catalog.Fact) bool { return f.RestorePoint != nil && f.RestorePoint.ID == rp.ID }) {
			w.revision[region]++
			upto.Counter = w.revision[region]
			facts = append(facts, catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey("archive/0", rp.ID), Revision: upto, Gone: "the pointer no longer lists it"})
		}
	}
	w.step(state.Delta{Session: pruneSessions[region], Facts: facts, Upto: upto})
}

// settle lets the time go by until nothing more is decided, and has the agents
// do what they are told.
func (w *pruneWorld) settle(seconds int) {
	for range seconds {
		w.now = w.now.Add(time.Second)
		for _, region := range []string{"ap", "eu"} {
			w.step(state.Beat{Session: pruneSessions[region], BucketID: region, ReadOK: true,
				At: catalog.Revision{Start: uint64(pruneSessions[region]), Counter: w.revision[region]}})
		}
		w.step(state.Tick{})
		for range 20 {
			w.step(state.Tend{})
		}
		for _, d := range w.s.Decisions() {
			if d.Stage == state.StageSent && !w.taken[d.Decision.ID] {
				w.taken[d.Decision.ID] = true
				w.act(d)
			}
		}
	}
}

func (w *pruneWorld) act(d *state.Decided) {
	x := &d.Decision
	o := catalog.Outcome{Decision: x.ID, Verb: x.Verb, Slate: x.Slate, Sequence: x.Sequence, State: catalog.OutcomeDone, Reasons: []catalog.Reason{}}
	switch x.Verb {
	case catalog.VerbPermit:
		n := uint64(1)
		if p := w.permit[x.Region]; p != nil {
			n = p.Number + 1
		}
		w.permit[x.Region] = &catalog.Permit{Version: 1, Number: n, Slate: x.Slate, Root: x.Root, Incarnation: x.Incarnation, UpTo: x.Position, PositionDomain: x.PositionDomain,
			Lineage: x.Lineage, Decision: x.ID, Ledger: x.Ledger, Term: x.Term, Sequence: x.Sequence, Issued: w.now, NotAfter: w.now.Add(x.Parameters.ValidFor)}
		w.did = append(w.did, fmt.Sprintf("%s permit %d", x.Region, *x.Position))
		o.Saw.Permit, o.Saw.Position = &n, x.Position
	case catalog.VerbPrune:
		floor := "nothing"
		if x.Position != nil {
			floor = fmt.Sprint(*x.Position)
		}
		var gone []string
		for _, path := range x.Parameters.Remove {
			var at uint64
			if _, err := fmt.Sscanf(path, "lsn_%020d-", &at); err != nil {
				w.t.Fatal(err)
			}
			if w.sees {
				delete(w.points[x.Region], at)
			}
			gone = append(gone, fmt.Sprint(at))
			o.Saw.Removed = append(o.Saw.Removed, path)
		}
		if x.Parameters.SweepOrphans {
			for _, one := range w.orphans[x.Region] {
				o.Saw.Removed = append(o.Saw.Removed, one.Path)
			}
			w.orphans[x.Region] = nil
			gone = append(gone, "orphans")
		}
		w.did = append(w.did, fmt.Sprintf("%s prune %s, floor %s", x.Region, strings.Join(gone, " "), floor))
	}
	w.step(state.Settled{Session: pruneSessions[x.Region], Outcome: o})
	w.tell(x.Region)
}

func (w *pruneWorld) done() string {
	slices.Sort(w.did)
	out := strings.Join(w.did, "; ")
	w.did = nil
	return out
}

const pruningPolicy = "trim: {require: {all: true}}\nrestorePoints: {perRegion: 2, keep: {hourly: 1}}\n"

func (w *pruneWorld) with(region string, at ...uint64) {
	for _, n := range at {
		w.points[region][n] = catalog.RestoreVerified
	}
}

// A policy that says what is kept removes the others by itself: first those
// between, and the lowest when the permit that lets the log be cut so far is seen
// in the region's bucket.
func TestAPolicyPrunesWhatIsBeyondIt(t *testing.T) {
	w := newPruneWorld(t, pruningPolicy)
	w.with("ap", 10, 20, 30, 40)
	w.with("eu", 10, 30, 40, 50)
	w.begin()
	w.settle(1)
	if got := w.done(); got != "ap permit 30; ap prune 20, floor nothing; eu permit 30; eu prune 30, floor nothing" {
		t.Errorf("at first %s", got)
	}
	// The floor is 30. eu has 40 and 50 above it: the log there may be cut up to 30,
	// and without 10 its owner would cut it up to 40.
	w.settle(20)
	if got := w.done(); got != "ap prune 10, floor 30" {
		t.Errorf("then %s", got)
	}
	w.settle(7200)
	if got := w.done(); got != "" {
		t.Errorf("and after that %s", got)
	}
	for _, d := range w.s.Decisions() {
		if d.Stage != state.StageDone || d.Decision.Verb == catalog.VerbPrune && (d.Policy.Name != "archives" || d.Plan == "" || len(d.Decision.Preconditions) != 2 || d.Decision.Parameters.Restorable != 2) {
			t.Errorf("%+v", d)
		}
	}
}

// What an agent says that it removed and is still there was not removed.
func TestRS11_APruningThatIsNotSeenIsNotDone(t *testing.T) {
	w := newPruneWorld(t, pruningPolicy)
	w.with("ap", 10, 20, 30, 40)
	w.with("eu", 30, 40)
	w.sees = false
	w.begin()
	w.settle(100)
	for _, d := range w.s.Decisions() {
		if d.Decision.Verb == catalog.VerbPrune && d.Stage != state.StageClaimed {
			t.Errorf("after 100 s it is %s", d.Stage)
		}
	}
	w.settle(60)
	pruned := 0
	for _, d := range w.s.Decisions() {
		if d.Decision.Verb == catalog.VerbPrune {
			if pruned++; pruned == 1 && (d.Stage != state.StageNotEffective || d.Reasons[0].Code != catalog.CodeNotEffective) {
				t.Errorf("it is %s %v", d.Stage, d.Reasons)
			}
		}
	}
	if pruned == 0 {
		t.Error("nothing was decided")
	}
}

// Orphans go by policy alone, and only when one is older than the policy says;
// what was swept without effect is not swept again and again.
func TestRS8_OrphansGoByPolicyAlone(t *testing.T) {
	w := newPruneWorld(t, "trim: {require: {all: true}}\n")
	w.with("ap", 30)
	w.with("eu", 30)
	old, young := w.now.Add(-50*time.Hour), w.now.Add(-time.Hour)
	w.orphans["ap"] = []catalog.Orphan{{Path: folder(20), Position: 20, What: "incomplete", ChangedAt: &old}}
	w.orphans["eu"] = []catalog.Orphan{{Path: folder(25), Position: 25, What: "failed-upload", ChangedAt: &young}, {Path: folder(26), Position: 26, What: "failed-upload"}}
	w.begin()
	w.settle(60)
	if got := w.done(); got != "ap permit 30; eu permit 30" {
		t.Errorf("without a word of the policy: %s", got)
	}
	w.apply("trim: {require: {all: true}}\nrestorePoints: {sweepOrphans: {enabled: true, olderThan: 48h}}\n")
	w.settle(60)
	if got := w.done(); got != "ap prune orphans, floor 30" {
		t.Errorf("with it: %s", got)
	}
}

// A person's word prunes what the plan shows, once; another plan than is found
// now is refused, and so is what the rules hold back.
func TestAPersonPrunes(t *testing.T) {
	w := newPruneWorld(t, "trim: {require: {all: true}}\nrestorePoints: {perRegion: 2}\n")
	w.with("ap", 10, 20, 30, 40)
	w.with("eu", 30, 40)
	w.begin()
	w.settle(30)
	if got := w.done(); got != "ap permit 30; eu permit 30" {
		t.Fatal(got)
	}
	plans := func() *state.PrunePlan {
		p, err := state.PlanPrune(w.s.View(), "archive/0", "", w.now)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	carry := func(e state.Carry) ([]state.Decided, error) {
		var made []state.Decided
		e.Verb, e.Slate, e.By, e.Decided = catalog.VerbPrune, "archive/0", "mina", &made
		r := w.s.Step(e, w.now)
		w.append(r.Records)
		return made, r.Err
	}
	p := plans()
	if p.Action != plan.Wait || p.Reasons[0].Code != plan.NoPolicy {
		t.Errorf("%+v", p)
	}
	if _, err := carry(state.Carry{}); !errors.Is(err, state.ErrRefused) || !strings.Contains(err.Error(), "no-policy") {
		t.Errorf("without a policy: %v", err)
	}
	w.step(state.Freeze{Scope: "slate/archive/0", By: "mina"})
	w.apply(pruningPolicy)
	if _, err := carry(state.Carry{}); !errors.Is(err, state.ErrRefused) || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("frozen: %v", err)
	}
	w.step(state.Thaw{Scope: "slate/archive/0", By: "mina"})
	p = plans()
	if _, err := carry(state.Carry{Plan: "p-0000000000000000"}); !errors.Is(err, state.ErrPlanExpired) {
		t.Errorf("another plan: %v", err)
	}
	if made, err := carry(state.Carry{Plan: p.Plan, Region: "eu"}); err != nil || len(made) != 0 {
		t.Errorf("in eu nothing is beyond it: %v %v", made, err)
	}
	made, err := carry(state.Carry{Plan: p.Plan})
	if err != nil || len(made) != 1 || len(made[0].Decision.Parameters.Remove) != 2 || made[0].By != "mina" {
		t.Fatalf("%+v %v", made, err)
	}
	again, err := carry(state.Carry{})
	if err != nil || len(again) > 1 || len(again) == 1 && again[0].Number != made[0].Number {
		t.Errorf("a second time: %+v %v", again, err)
	}
	w.settle(30)
	if got := w.done(); got != "ap prune 20 10, floor 30" {
		t.Errorf("then %s", got)
	}
	if p := plans(); p.Action != plan.Keep {
		t.Errorf("after it: %+v", p)
	}
}
