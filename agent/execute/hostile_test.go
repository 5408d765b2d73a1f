package execute

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// liar says that it wrote what it did not.
type liar struct {
	bucket.Store
	about string
}

func (l *liar) Put(ctx context.Context, key string, data []byte, onlyNew bool) error {
	if strings.HasPrefix(key, l.about) {
		return nil
	}
	return l.Store.Put(ctx, key, data, onlyNew)
}

// RS-11: what was written and is not seen is not-effective, never done.
func TestRS11_WhatIsNotSeenIsNotEffective(t *testing.T) {
	for verb, about := range map[catalog.Verb]string{
		catalog.VerbPermit: catalog.PermitsPrefix, catalog.VerbWithdraw: catalog.PermitsPrefix, catalog.VerbFreeze: freezePrefix,
	} {
		b := memory(t)
		archive(t, b, "archive/0", 40, 60)
		w := newWorld(t, b)
		p := w.start(bucket.Wrap(b, func(s bucket.Store) bucket.Store { return &liar{s, about} }))
		o := p.do(t, w.decide(verb, "archive/0", upTo(40), func(d *catalog.Decision) { d.Expires = 300 * time.Millisecond }))
		if codes(o) != "not-effective not-effective plan-expired" {
			t.Errorf("%s: %s", verb, codes(o))
		}
		// Said again, the same is answered; it is not tried again.
		p.stop()
		if kept := w.start(b); codes(kept.do(t, catalog.Decision{
			ID: o.Decision, Verb: verb, Region: "eu", Ledger: w.ledger, Term: 1, Sequence: o.Sequence, Expires: time.Second,
		})) != codes(o) {
			t.Errorf("%s: another answer the second time", verb)
		}
	}
}

// Whatever a hub that was taken over decides, or what becomes of its words on
// the way: nothing above the region's own verified position is ever published,
// and nothing of a slate is touched.
func TestMutatedDecisionsNeverExceedTheLocalLimit(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	many := 10_000
	if testing.Short() {
		many = 1000
	}
	b := memory(t)
	archive(t, b, "archive/0", 20, 40, 60, 80)
	limits := []uint64{80, 60, 40, 20} // by k
	w := newWorld(t, b)
	p := w.start(b, func(o *Options) { o.Allow = catalog.DefaultVerbs })
	base := w.decide(catalog.VerbPermit, "archive/0", upTo(20))
	if o := p.do(t, base); o.State != catalog.OutcomeDone { // from now on the region is pinned to this ledger
		t.Fatal(codes(o))
	}
	before := objects(t, b, ".quarry/")
	done, term := map[string]int{}, uint64(1)
	for range many {
		w.seq++
		d := base
		d.ID, d.Sequence, d.Term, d.Expires = uuid.NewString(), w.seq, term, 5*time.Second
		at := rng.Uint64N(100)
		d.Position, d.Parameters.Restorable = &at, 1+rng.Uint64N(5)
		for range rng.IntN(3) {
			mutate(rng, &d)
		}
		// Its bytes as well: JSON is what the journal keeps.
		if raw, err := json.Marshal(d); err == nil && rng.IntN(4) == 0 {
			raw[rng.IntN(len(raw))] ^= byte(1 << rng.IntN(7))
			var bent catalog.Decision
			if json.Unmarshal(raw, &bent) == nil {
				id := d.ID
				d = bent
				d.ID = id
			}
		}
		if d.Sequence > w.seq+1000 || d.Term > term+1000 {
			continue // it would end the test: everything after it is older
		}
		w.seq, term = max(w.seq, d.Sequence), max(term, d.Term)
		if o := (&task{d: d}).outcome(catalog.OutcomeDone); o.Validate() != nil {
			continue // nobody could hear what came of it
		}
		d.Expires = max(min(d.Expires, 5*time.Second), time.Millisecond)
		o := p.do(t, d)
		done[codes(o)]++
		ruling, err := p.rulingPermit(t.Context(), "archive/0")
		if err != nil {
			t.Fatal(err)
		}
		if ruling != nil && ruling.UpTo != nil && ruling.Decision == d.ID {
			k := d.Parameters.Restorable
			if k == 0 || k > 4 || *ruling.UpTo > limits[k-1] || d.Incarnation != base.Incarnation || d.Root != "archive/0" || d.Ledger != base.Ledger {
				t.Fatalf("seed %d: %d (%+v) was published by %+v", seed, *ruling.UpTo, o.Saw, d)
			}
			// So that the next ones are judged by the limit and not by this one.
			w.seq++
			wd := base
			wd.ID, wd.Verb, wd.Sequence, wd.Term = uuid.NewString(), catalog.VerbWithdraw, w.seq, term
			if o := p.do(t, wd); o.State != catalog.OutcomeDone && codes(o) != "refused replayed" {
				t.Fatalf("withdraw: %s", codes(o))
			}
		}
		if rng.IntN(200) == 0 {
			p.desk.settled <- []string{d.ID}
		}
	}
	after := objects(t, b, ".quarry/")
	if len(after) != len(before) {
		t.Errorf("of the slate is left %v", keys(after))
	}
	for k, sum := range before {
		if after[k] != sum {
			t.Errorf("%s was touched", k)
		}
	}
	if len(done) < 8 || done["done"] < many/20 {
		t.Errorf("too few kinds of ends to say anything: %v", done)
	}
	t.Logf("%d decisions: %v", many, done)
}

func mutate(rng *rand.Rand, d *catalog.Decision) {
	switch rng.IntN(14) {
	case 0:
		d.Verb = catalog.Verbs[rng.IntN(len(catalog.Verbs))]
		if d.Verb == catalog.VerbFreeze || d.Verb == catalog.VerbResync || d.Verb == catalog.VerbThaw {
			d.Verb = catalog.VerbVerify // a region that is frozen refuses all the rest
		}
	case 1:
		d.Root = []string{"archive/1", ".quarry/catalog", "archive", "archive/0/x"}[rng.IntN(4)]
	case 2:
		d.Slate = "other"
	case 3:
		d.Incarnation = "01J"
	case 4:
		d.Region = "us"
	case 5:
		d.Ledger = uuid.NewString()
	case 6:
		d.Term = rng.Uint64N(d.Term + 2)
	case 7:
		d.Sequence = 1 + rng.Uint64N(d.Sequence+3)
	case 8:
		d.Lineage = "restate:1:0"
	case 9:
		d.PositionDomain = "seq"
	case 10:
		d.Position = nil
	case 11:
		d.Parameters.Restorable = rng.Uint64N(7)
	case 12:
		d.Parameters.ValidFor = 0
	case 13:
		d.Preconditions = append(d.Preconditions, catalog.Precondition{What: []string{catalog.PrePointer, catalog.PreManifest, catalog.PreRestorePoint, "x"}[rng.IntN(4)], Value: "7"})
	}
}

// Whatever lies in the journal, a process starts, does nothing of what it does
// not understand, and never panics.
func FuzzJournal(f *testing.F) {
	b := memory(f)
	archive(f, b, "archive/0", 40)
	w := newWorld(f, b)
	d := w.decide(catalog.VerbPermit, "archive/0", upTo(40))
	raw, _ := json.Marshal(takenRecord{Version: 1, Decision: d, At: time.Now()})
	step, _ := json.Marshal(stepRecord{Version: 1, Decision: d.ID, Step: stepChecked, Intent: json.RawMessage(`{"abandoned":true}`)})
	out, _ := json.Marshal((&task{d: d}).outcome(catalog.OutcomeDone))
	end, _ := json.Marshal(stepRecord{Version: 1, Decision: d.ID, Step: stepOutcome, Intent: out})
	permit, _ := json.Marshal(catalog.Permit{Version: 1, Number: 1, Slate: "archive/0", Incarnation: "x", Decision: "y", Ledger: "z", Term: 1, Sequence: 1})
	f.Add(raw, step, end, permit)
	f.Add([]byte("{}"), []byte(`{"intent":null}`), []byte("["), []byte("null"))
	f.Fuzz(func(t *testing.T, taken, checked, outcome, permit []byte) {
		b := memory(t)
		put := func(key string, raw []byte) {
			if err := b.Put(t.Context(), key, raw); err != nil {
				t.Fatal(err)
			}
		}
		pin, _ := json.Marshal(pinned{Version: 1, Ledger: d.Ledger})
		put(numberedKey(pinPrefix, 1), pin)
		put(takenKey(d.Ledger, d.Sequence), taken)
		put(stepKey(d.ID, stepChecked), checked)
		put(stepKey(d.ID, stepOutcome), outcome)
		put(catalog.PermitKey("archive/0", 1), permit)
		put(numberedKey(freezePrefix, 1), permit)
		e := w.idle(b)
		if err := e.load(t.Context()); err != nil {
			t.Fatalf("what lies there stops the agent: %v", err)
		}
		if e.books.highest != d.Sequence {
			t.Errorf("number %d could be taken again", d.Sequence)
		}
		_, _ = e.rulingPermit(t.Context(), "archive/0")
		_ = e.thawed(t.Context())
		for _, task := range e.tasks {
			_, _ = e.attempt(t.Context(), task)
		}
	})
}
