package execute

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/snapshots/snapshotstest"
)

// A permit is a numbered object that is read back; the next one goes further;
// none goes back without a withdrawal; and what is above the region's own
// verified position is refused, whatever the hub decided (P5, P7).
func TestAPermitGoesAsFarAsTheRegionItselfHasVerified(t *testing.T) {
	b := memory(t)
	archive(t, b, "archive/0", 40, 60, 80)
	w := newWorld(t, b)
	p := w.start(b)
	two := func(d *catalog.Decision) { d.Parameters.Restorable = 2 }

	o := p.do(t, w.decide(catalog.VerbPermit, "archive/0", upTo(55), two))
	if codes(o) != "done" || *o.Saw.Permit != 1 || *o.Saw.Position != 55 || *o.Saw.Limit != 60 || *o.Saw.Verified != 3 || len(o.Steps) < 5 {
		t.Fatalf("%s: %+v", codes(o), o)
	}
	if o := p.do(t, w.decide(catalog.VerbPermit, "archive/0", upTo(60), two)); codes(o) != "done" || *o.Saw.Permit != 2 {
		t.Errorf("%s: %+v", codes(o), o)
	}
	for _, c := range []struct {
		at   uint64
		want string
	}{{61, "refused above-local-limit"}, {80, "refused above-local-limit"}, {59, "refused below-published"}} {
		if o := p.do(t, w.decide(catalog.VerbPermit, "archive/0", upTo(c.at), two)); codes(o) != c.want {
			t.Errorf("%d: %s", c.at, codes(o))
		}
	}
	// A restore point that is damaged between decision and act does not count.
	if err := b.Delete(t.Context(), "archive/0/"+snapshotstest.Folder(80)+"/000001.sst"); err != nil {
		t.Fatal(err)
	}
	if o := p.do(t, w.decide(catalog.VerbPermit, "archive/0", upTo(60), two)); codes(o) != "refused above-local-limit" || *o.Saw.Limit != 40 {
		t.Errorf("%s: %+v", codes(o), o.Saw)
	}
	o = p.do(t, w.decide(catalog.VerbWithdraw, "archive/0"))
	if codes(o) != "done" || *o.Saw.Permit != 3 || o.Saw.Position != nil {
		t.Errorf("%s: %+v", codes(o), o.Saw)
	}
	raw, err := b.Get(t.Context(), catalog.PermitKey("archive/0", 3))
	if err != nil {
		t.Fatal(err)
	}
	last, err := catalog.DecodePermit(raw)
	if err != nil || last.Rules(last.Incarnation, time.Now()) || last.UpTo != nil {
		t.Errorf("%+v, %v", last, err)
	}
	if o := p.do(t, w.decide(catalog.VerbPermit, "archive/0", upTo(40), two)); codes(o) != "done" || *o.Saw.Permit != 4 {
		t.Errorf("after a withdrawal: %s", codes(o))
	}
}

// Each thing that an agent refuses, with its reason.
func TestAnAgentRefusesWhatItsOwnSideDoesNotBear(t *testing.T) {
	b := memory(t)
	archive(t, b, "archive/0", 40, 60, 80)
	archive(t, b, "elsewhere/0", 40)
	database(t, b, "dbs/orders")
	w := newWorld(t, b)
	p := w.start(b, func(o *Options) {
		o.Prefixes = []string{"archive", "dbs"}
		o.Allow = []catalog.Verb{catalog.VerbPermit, catalog.VerbRelease, catalog.VerbHold, catalog.VerbFreeze, catalog.VerbThaw}
	})
	if o := p.do(t, w.decide(catalog.VerbPermit, "archive/0", upTo(40), func(d *catalog.Decision) { d.Term = 7 })); codes(o) != "done" {
		t.Fatal(o)
	}
	theirs, _, err := (&slatedb.Admin{Store: b, Root: "dbs/orders"}).CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "nightly"})
	if err != nil {
		t.Fatal(err)
	}
	w.seq = 100
	seven := func(d *catalog.Decision) { d.Term = 7 }
	for _, c := range []struct {
		name, want string
		d          catalog.Decision
	}{
		{"an older term", "refused stale-term", w.decide(catalog.VerbPermit, "archive/0", upTo(40), func(d *catalog.Decision) { d.Term = 6 })},
		{"another ledger", "refused another-ledger", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.Ledger = uuid.NewString() })},
		{"a number that was taken", "refused replayed", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.Sequence = 1 })},
		{"another region", "refused another-region", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.Region = "us" })},
		{"another incarnation", "refused another-incarnation", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.Incarnation = "01J" })},
		{"another lineage", "refused incomparable-positions", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.Lineage = "restate:1:0" })},
		{"no lineage", "refused incomparable-positions", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.Lineage = "" })},
		{"another domain", "refused incomparable-positions", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.PositionDomain = "seq" })},
		{"a root outside of the prefixes", "refused outside-prefixes", w.decide(catalog.VerbPermit, "elsewhere/0", upTo(40), seven)},
		{"Quarry's own folder", "refused outside-prefixes", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.Root = ".quarry/catalog" })},
		{"a verb that is not allowed", "refused verb-not-allowed", w.decide(catalog.VerbPrune, "archive/0", seven)},
		{"a verb of a later version", "refused verb-not-allowed", w.decide(catalog.VerbPurge, "archive/0", seven)},
		{"no k", "refused invalid", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) { d.Parameters.Restorable = 0 })},
		{"more restore points than there are", "refused above-local-limit", w.decide(catalog.VerbPermit, "archive/0", upTo(1), seven, func(d *catalog.Decision) { d.Parameters.Restorable = 4 })},
		{"a precondition of a later version", "refused moved", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) {
			d.Preconditions = []catalog.Precondition{{What: "moon", Value: "full"}}
		})},
		{"a pointer that has moved", "refused moved", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) {
			d.Preconditions = []catalog.Precondition{{What: catalog.PrePointer, Value: "ab"}}
		})},
		{"a restore point that is not there", "refused moved", w.decide(catalog.VerbPermit, "archive/0", upTo(40), seven, func(d *catalog.Decision) {
			d.Preconditions = []catalog.Precondition{{What: catalog.PreRestorePoint, Value: snapshotstest.Folder(7)}}
		})},
		{"a checkpoint that is not ours", "refused not-ours", w.decide(catalog.VerbRelease, "dbs/orders", seven, func(d *catalog.Decision) { d.Parameters.Checkpoint = theirs.ID.String() })},
		{"a hold in place of one that is not ours", "refused not-ours", w.decide(catalog.VerbHold, "dbs/orders", seven, func(d *catalog.Decision) {
			d.Parameters.Purpose, d.Parameters.Replaces = "trim", theirs.ID.String()
		})},
		{"a hold of a snapshot repository", "refused invalid", w.decide(catalog.VerbHold, "archive/0", seven, func(d *catalog.Decision) { d.Parameters.Purpose = "trim" })},
	} {
		before := objects(t, b, ".quarry/journal/", ".quarry/taken/", ".quarry/incarnations/")
		o := p.do(t, c.d)
		if codes(o) != c.want {
			t.Errorf("%s: %s %v", c.name, codes(o), o.Reasons)
		}
		if after := objects(t, b, ".quarry/journal/", ".quarry/taken/", ".quarry/incarnations/"); len(after) != len(before) {
			t.Errorf("%s left something: %v", c.name, keys(after))
		}
	}
}

// A stream of decisions that was recorded and is played again the next day, to
// the same process, to the next one, and after the journal was pruned, has no
// effect at all.
func TestARecordedStreamHasNoEffectTheNextDay(t *testing.T) {
	b := memory(t)
	archive(t, b, "archive/0", 40, 60, 80)
	w := newWorld(t, b)
	p := w.start(b)
	var stream []catalog.Decision
	for _, at := range []uint64{40, 50, 60, 70} {
		d := w.decide(catalog.VerbPermit, "archive/0", upTo(at))
		stream = append(stream, d)
		if o := p.do(t, d); codes(o) != "done" {
			t.Fatal(codes(o))
		}
	}
	var ids []string
	for _, d := range stream {
		ids = append(ids, d.ID)
	}
	p.desk.settled <- ids
	quiet := func() []string { return keys(objects(t, b, ".quarry/incarnations/")) }
	deadline := time.Now().Add(10 * time.Second)
	for len(keys(objects(t, b, "archive/", ".quarry/permits/", ".quarry/incarnations/"))) > 6 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond) // the journal is pruned but for the highest
	}
	before := quiet()
	again := w.start(b)
	p.stop()
	for _, d := range stream {
		d.Sequence += 0
		o := again.do(t, d)
		if last := d.ID == stream[3].ID; last && codes(o) != "done" || !last && codes(o) != "refused replayed" {
			t.Errorf("%d: %s", *d.Position, codes(o))
		}
	}
	if after := quiet(); len(after) != len(before) {
		t.Errorf("before %v\nafter %v", before, after)
	}
}

// Decisions are settled one by one, as a hub that is there does: of each the
// journal is let go when the next has been settled, not at the next start.
func TestWhatIsSettledOneByOneIsPrunedOneByOne(t *testing.T) {
	b := memory(t)
	archive(t, b, "archive/0", 40, 60, 80)
	w := newWorld(t, b)
	p := w.start(b)
	journal := func() []string {
		return keys(objects(t, b, "archive/", ".quarry/permits/", ".quarry/incarnations/", ".quarry/ledger/", ".quarry/region.json"))
	}
	for _, at := range []uint64{40, 50, 60, 70} {
		d := w.decide(catalog.VerbPermit, "archive/0", upTo(at))
		if o := p.do(t, d); codes(o) != "done" {
			t.Fatal(codes(o))
		}
		p.desk.settled <- []string{d.ID}
		deadline := time.Now().Add(10 * time.Second)
		alone := func() bool {
			for _, key := range journal() {
				if !strings.Contains(key, d.ID) && !strings.HasSuffix(key, fmt.Sprintf("/%020d.json", d.Sequence)) {
					return false
				}
			}
			return true
		}
		for !alone() {
			if time.Now().After(deadline) {
				t.Fatalf("after %d decisions were settled there are still %v", d.Sequence, journal())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// A frozen region does nothing that cannot be undone, and goes on to do what
// can; a restart does not thaw it.
func TestAFrozenRegionStaysFrozenOverARestart(t *testing.T) {
	b := memory(t)
	archive(t, b, "archive/0", 40, 60, 80)
	database(t, b, "dbs/orders")
	w := newWorld(t, b)
	p := w.start(b)
	if o := p.do(t, w.decide(catalog.VerbFreeze, "", func(d *catalog.Decision) { d.Parameters.Reason = "audit" })); codes(o) != "done" {
		t.Fatal(codes(o))
	}
	p.stop()
	p = w.start(b)
	for verb, want := range map[catalog.Verb]string{
		catalog.VerbPermit: "refused frozen", catalog.VerbPrune: "refused frozen", catalog.VerbRelease: "refused frozen",
		catalog.VerbWithdraw: "done", catalog.VerbVerify: "done", catalog.VerbResync: "done",
	} {
		if o := p.do(t, w.decide(verb, "archive/0", upTo(40), func(d *catalog.Decision) { d.Parameters.Checkpoint = uuid.NewString() })); codes(o) != want {
			t.Errorf("%s: %s", verb, codes(o))
		}
	}
	if o := p.do(t, w.decide(catalog.VerbHold, "dbs/orders", func(d *catalog.Decision) { d.Parameters.Purpose = "legal" })); codes(o) != "done" {
		t.Errorf("hold: %s", codes(o))
	}
	if o := p.do(t, w.decide(catalog.VerbThaw, "")); codes(o) != "done" {
		t.Fatal(codes(o))
	}
	if o := p.do(t, w.decide(catalog.VerbPermit, "archive/0", upTo(40))); codes(o) != "done" {
		t.Errorf("after the thaw: %s", codes(o))
	}
}

// A hold is a checkpoint without expiry that has the tail of the WAL; it moves by
// making the new one first, and only ours are let go of.
func TestAHoldMovesByMakingTheNewOneFirst(t *testing.T) {
	b := memory(t)
	database(t, b, "dbs/orders")
	w := newWorld(t, b)
	p := w.start(b)
	hold := func(how ...func(*catalog.Decision)) catalog.Outcome {
		t.Helper()
		how = append([]func(*catalog.Decision){func(d *catalog.Decision) { d.Parameters.Purpose = "trim" }}, how...)
		return p.do(t, w.decide(catalog.VerbHold, "dbs/orders", how...))
	}
	first := hold(upTo(5))
	if codes(first) != "done" || first.Saw.Position == nil || *first.Saw.Position != 5 {
		t.Fatalf("%s %+v", codes(first), first.Saw)
	}
	checkpoints := func() (names []string) {
		rows, err := (&slatedb.Admin{Store: b, Root: "dbs/orders"}).Checkpoints(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range rows {
			if !c.Expire.IsZero() {
				t.Errorf("%s expires", c.Name)
			}
			names = append(names, c.ID.String())
		}
		return names
	}
	if o := hold(upTo(6)); codes(o) != "failed position-missing" || len(checkpoints()) != 2 {
		t.Errorf("a hold that does not contain what was asked for: %s %v", codes(o), checkpoints())
	}
	second := hold(upTo(5), func(d *catalog.Decision) { d.Parameters.Replaces = first.Saw.Checkpoint })
	if codes(second) != "done" || second.Saw.Checkpoint == first.Saw.Checkpoint {
		t.Fatalf("%s %v", codes(second), second.Reasons)
	}
	for _, id := range checkpoints() {
		if id == first.Saw.Checkpoint {
			t.Error("the old one is still there")
		}
	}
	o := p.do(t, w.decide(catalog.VerbRelease, "dbs/orders", func(d *catalog.Decision) { d.Parameters.Checkpoint = second.Saw.Checkpoint }))
	if codes(o) != "done" || len(checkpoints()) != 1 {
		t.Errorf("%s %v", codes(o), checkpoints())
	}
	if o := p.do(t, w.decide(catalog.VerbPermit, "dbs/orders", upTo(5))); codes(o) != "done" {
		t.Errorf("a permit by what is left: %s %v", codes(o), o.Reasons)
	}
}

// The restore points beyond the policy's go, the pointer first; the last ones,
// those above the floor and a young upload do not.
func TestAPruneStopsAtThePolicy(t *testing.T) {
	b := memory(t)
	archive(t, b, "archive/0", 20, 40, 60, 80)
	w := newWorld(t, b)
	p := w.start(b)
	prune := func(keep, floor uint64, remove ...uint64) catalog.Decision {
		return w.decide(catalog.VerbPrune, "archive/0", upTo(floor), func(d *catalog.Decision) {
			d.Parameters.Restorable, d.Parameters.Grace, d.Expires = keep, time.Hour, 3*time.Second
			for _, lsn := range remove {
				d.Parameters.Remove = append(d.Parameters.Remove, snapshotstest.Folder(lsn))
			}
		})
	}
	if o := p.do(t, prune(3, 99, 20)); codes(o) != "refused would-strand" {
		t.Errorf("nothing is permitted here: %s", codes(o))
	}
	if o := p.do(t, w.decide(catalog.VerbPermit, "archive/0", upTo(60))); codes(o) != "done" {
		t.Fatal(o)
	}
	for _, c := range []struct {
		want string
		d    catalog.Decision
	}{
		{"refused below-min-snapshots", prune(4, 99, 20)},
		{"refused would-strand", prune(3, 39, 20)},
		{"refused last-snapshot", prune(1, 99, 80)},
		{"done", prune(3, 40, 20)},
		{"done", prune(2, 60, 20, 40)}, // 20 is gone already
	} {
		if o := p.do(t, c.d); codes(o) != c.want {
			t.Errorf("%v: %s %v", c.d.Parameters.Remove, codes(o), o.Reasons)
		} else if c.want == "done" && (*o.Saw.Lowest > *c.d.Position || *o.Saw.Verified < c.d.Parameters.Restorable) {
			t.Errorf("%+v", o.Saw)
		}
	}
	up := snapshotstest.Partition{Prefix: "archive/0"}
	if err := up.WriteSnapshot(context.Background(), b, snapshotstest.Snapshot{LSN: 100, Without: "metadata.json"}); err != nil {
		t.Fatal(err)
	}
	if o := p.do(t, prune(1, 99, 60)); codes(o) != "expired upload-in-progress plan-expired" {
		t.Errorf("while an upload may be going on: %s", codes(o))
	}
	if n := len(keys(objects(t, b, ".quarry/"))); n != 1+2*3+2 {
		t.Errorf("%d objects are left: %v", n, keys(objects(t, b, ".quarry/")))
	}
}

// Every request of the executor is paid from the agent's budget before it is made:
// a pruning of thousands of objects takes its time, and no more than its share.
func TestAPruningPaysForEveryRequest(t *testing.T) {
	b := memory(t)
	p := snapshotstest.Partition{Prefix: "archive/0"}
	for _, lsn := range []uint64{20, 40, 60} {
		p.Snapshots = append(p.Snapshots, snapshotstest.Snapshot{LSN: lsn, Files: 700})
	}
	if err := p.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, b)
	w.permitted(b, "archive/0", 60)
	d := w.decide(catalog.VerbPrune, "archive/0", upTo(60), func(d *catalog.Decision) {
		d.Parameters.Restorable, d.Parameters.Remove = 1, []string{snapshotstest.Folder(20), snapshotstest.Folder(40)}
	})
	var paid atomic.Int64
	counted, calls := faulty.New(b)
	e := w.start(counted, func(o *Options) {
		o.Pay = func(ctx context.Context) error { paid.Add(1); return ctx.Err() }
	})
	o := e.do(t, d)
	e.stop()
	if codes(o) != "done" || o.Saw.Objects != 2*701 {
		t.Errorf("%s %v %+v", codes(o), o.Reasons, o.Saw)
	}
	if n := int64(len(calls.Calls())); n < 2*701 || paid.Load() < n || paid.Load() > n+10 {
		t.Errorf("%d requests, and %d were paid", n, paid.Load())
	}
}
