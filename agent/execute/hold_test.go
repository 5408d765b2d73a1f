package execute

import (
	"encoding/binary"
	"testing"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// aLog is the owner of a log who appends segments of ten entries and cuts them.
type aLog struct {
	t  *testing.T
	db *slatedb.Writer
}

func ownLog(t *testing.T, b *bucket.Bucket, root string) *aLog {
	t.Helper()
	db, err := slatedb.Open(t.Context(), b, root, slatedb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Abandon() })
	return &aLog{t, db}
}

// segment appends a segment, from 1, or cuts it.
func (o *aLog) segment(id uint32, cut bool) {
	o.t.Helper()
	b := new(slatedb.Batch)
	put := func(k, v []byte) {
		if cut {
			b.Delete(k)
		} else {
			b.Put(k, v)
		}
	}
	start := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(id-1)*10), 1)
	put(binary.BigEndian.AppendUint32([]byte{3, 1, 0, 0, 0, 0, 0x30}, id), start)
	for rel := range byte(10) {
		put(append(binary.BigEndian.AppendUint32([]byte{3, 1}, id), 0x10, 'k', 0, rel), []byte("v"))
	}
	if _, err := o.db.Write(o.t.Context(), b); err != nil {
		o.t.Fatal(err)
	}
}

func ourHolds(t *testing.T, b *bucket.Bucket, root string) map[string]bool {
	t.Helper()
	rows, err := (&slatedb.Admin{Store: b, Root: root}).Checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, c := range rows {
		ids[c.ID.String()] = true
	}
	return ids
}

// An owner cut his log between two holds: what lay between is in neither, so the
// old one stays beside the new one. Where he cut nothing beyond the old one, it
// goes.
func TestBothHoldsStayWhereTheOwnerCutBetweenThem(t *testing.T) {
	b := memory(t)
	log := ownLog(t, b, "logs/a")
	log.segment(1, false)
	w := newWorld(t, b)
	p := w.start(b)
	hold := func(at uint64, replaces string) catalog.Outcome {
		t.Helper()
		return p.do(t, w.decide(catalog.VerbHold, "logs/a", upTo(at), func(d *catalog.Decision) {
			d.Parameters.Purpose, d.Parameters.Replaces = catalog.PurposeTrim, replaces
		}))
	}
	first := hold(9, "")
	if codes(first) != "done" || *first.Saw.Position != 9 {
		t.Fatalf("%s %+v %v", codes(first), first.Saw, first.Reasons)
	}
	log.segment(2, false)
	log.segment(1, true) // up to 9, which the hold contains
	second := hold(19, first.Saw.Checkpoint)
	if codes(second) != "done" || *second.Saw.Position != 19 {
		t.Fatalf("%s %+v %v", codes(second), second.Saw, second.Reasons)
	}
	if now := ourHolds(t, b, "logs/a"); len(now) != 1 || !now[second.Saw.Checkpoint] {
		t.Errorf("%v after %s", now, second.Saw.Checkpoint)
	}
	log.segment(3, false)
	log.segment(4, false)
	log.segment(2, true)
	log.segment(3, true) // up to 29, and the hold ends at 19
	third := hold(39, second.Saw.Checkpoint)
	if codes(third) != "failed history-gap" {
		t.Fatalf("%s %v", codes(third), third.Reasons)
	}
	if now := ourHolds(t, b, "logs/a"); len(now) != 2 || !now[second.Saw.Checkpoint] {
		t.Errorf("%v: both should be there", now)
	}
}

// A restore point on demand that is there by the time it is asked for is not
// made again; and none is let go of that a policy needs.
func TestARestorePointThatIsThereIsNotMadeAgain(t *testing.T) {
	b := memory(t)
	database(t, b, "dbs/orders")
	w := newWorld(t, b)
	p := w.start(b)
	demand := func(at uint64) catalog.Outcome {
		t.Helper()
		return p.do(t, w.decide(catalog.VerbHold, "dbs/orders", upTo(at), func(d *catalog.Decision) { d.Parameters.Purpose = catalog.PurposeRestorePoint }))
	}
	first := demand(4)
	again := demand(5)
	if codes(first) != "done" || codes(again) != "done" || again.Saw.Checkpoint != first.Saw.Checkpoint || *again.Saw.Position != 5 {
		t.Errorf("%s %+v, then %s %+v", codes(first), first.Saw, codes(again), again.Saw)
	}
	if now := ourHolds(t, b, "dbs/orders"); len(now) != 1 {
		t.Errorf("%v", now)
	}
	release := func(id string, must uint64) string {
		t.Helper()
		return codes(p.do(t, w.decide(catalog.VerbRelease, "dbs/orders", func(d *catalog.Decision) {
			d.Parameters.Checkpoint, d.Parameters.Restorable = id, must
		})))
	}
	if got := release(first.Saw.Checkpoint, 1); got != "refused below-min-snapshots" {
		t.Errorf("the last one: %s", got)
	}
	trim := p.do(t, w.decide(catalog.VerbHold, "dbs/orders", func(d *catalog.Decision) { d.Parameters.Purpose = catalog.PurposeTrim }))
	if got := release(first.Saw.Checkpoint, 1); got != "done" {
		t.Errorf("beside another: %s", got)
	}
	if now := ourHolds(t, b, "dbs/orders"); len(now) != 1 || !now[trim.Saw.Checkpoint] {
		t.Errorf("%v", now)
	}
}

// A hold of a log by which its owner was permitted to cut stays until there is
// another restore point that reaches as far; one below goes.
func TestNoHoldGoesThatAPermitRestsOn(t *testing.T) {
	b := memory(t)
	log := ownLog(t, b, "logs/a")
	log.segment(1, false)
	w := newWorld(t, b)
	p := w.start(b)
	hold := func(purpose string, at uint64) string {
		t.Helper()
		o := p.do(t, w.decide(catalog.VerbHold, "logs/a", upTo(at), func(d *catalog.Decision) { d.Parameters.Purpose = purpose }))
		if codes(o) != "done" || *o.Saw.Position != at {
			t.Fatalf("%s %+v %v", codes(o), o.Saw, o.Reasons)
		}
		return o.Saw.Checkpoint
	}
	release := func(id string, must uint64) string {
		t.Helper()
		return codes(p.do(t, w.decide(catalog.VerbRelease, "logs/a", func(d *catalog.Decision) {
			d.Parameters.Checkpoint, d.Parameters.Restorable = id, must
		})))
	}
	low := hold(catalog.PurposeTrim, 9)
	log.segment(2, false)
	high := hold("case-1", 19)
	w.permitted(b, "logs/a", 15)
	for _, must := range []uint64{0, 1} {
		if got := release(high, must); got != "refused below-published" {
			t.Errorf("the permit rests on it, %d must be left: %s", must, got)
		}
	}
	if got := release(low, 1); got != "done" {
		t.Errorf("below what the permit rests on: %s", got)
	}
	if got := release(high, 0); got != "refused below-published" {
		t.Errorf("the last one, though no policy says how many: %s", got)
	}
	log.segment(3, false)
	hold(catalog.PurposeRestorePoint, 29)
	if got := release(high, 1); got != "done" {
		t.Errorf("beside a new one: %s", got)
	}
}
