package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Where things lie. All are created if absent and never overwritten.
const (
	takenPrefix  = catalog.Prefix + "taken/"  // <ledger>/<sequence>.json: the decision with that number
	pinPrefix    = catalog.Prefix + "ledger/" // <n>.json: whom to obey; the highest rules
	freezePrefix = catalog.Prefix + "freeze/" // <n>.json: frozen or not; the highest rules
)

// books is what the bucket says of decisions.
type books struct {
	ledger  string
	term    uint64
	highest uint64 // sequence
	// unread is a decision that was taken and cannot be understood: a term may
	// have been obeyed that is higher than ours.
	unread string
	// outcomes are those that are not settled, and that of the highest number.
	outcomes map[string]catalog.Outcome
	numbers  map[string]uint64 // of those, by decision
	last     string            // settled, and kept for it has the highest number
}

// takenRecord is a decision that this region has taken. Whoever creates it is
// the one that did; the highest number is never removed, so that no number is
// ever taken twice.
type takenRecord struct {
	Version  int              `json:"version"` // 1
	Decision catalog.Decision `json:"decision"`
	Holder   string           `json:"holder"`
	// At is when it came, by the agent's clock: its time counts from there, also
	// for the process that goes on with it.
	At time.Time `json:"at"`
}

// stepRecord is .quarry/journal/<decision>/<step>.json: what is about to be done.
type stepRecord struct {
	Version  int             `json:"version"` // 1
	Decision string          `json:"decision"`
	Step     string          `json:"step"`
	Holder   string          `json:"holder"`
	At       time.Time       `json:"at"`
	Intent   json.RawMessage `json:"intent,omitempty"`
}

// The steps that every decision has.
const (
	stepChecked = "1-checked" // it was re-checked, or will never be
	stepOutcome = "9-outcome"
)

// checkedIntent says whether a decision was re-checked. A process that finds
// one that was not, because another was killed, says that it never will be:
// both cannot be written.
type checkedIntent struct {
	Abandoned bool `json:"abandoned,omitempty"`
}

func takenKey(ledger string, n uint64) string {
	return fmt.Sprintf("%s%s/%020d.json", takenPrefix, ledger, n)
}
func stepKey(id, step string) string { return catalog.JournalPrefix + id + "/" + step + ".json" }

// load reads what the bucket says, and resumes what was under way.
func (e *Executor) load(ctx context.Context) error {
	claim, err := e.ruling(ctx)
	if err != nil {
		return err
	}
	e.claim, e.books = claim, books{outcomes: map[string]catalog.Outcome{}, numbers: map[string]uint64{}}
	if err := e.loadPin(ctx); err != nil {
		return err
	}
	steps := map[string][]string{}
	err = e.b.Walk(ctx, catalog.JournalPrefix, "", func(key string, _ int64, _ time.Time) error {
		id, step, ok := strings.Cut(strings.TrimPrefix(key, catalog.JournalPrefix), "/")
		if step, isStep := strings.CutSuffix(step, ".json"); ok && isStep {
			steps[id] = append(steps[id], step)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var keys []string
	if e.books.ledger != "" {
		err = e.b.Walk(ctx, takenPrefix+e.books.ledger+"/", "", func(key string, _ int64, _ time.Time) error {
			keys = append(keys, key)
			return nil
		})
		if err != nil {
			return err
		}
	}
	var resumed []*task
	known := map[string]bool{}
	for _, key := range keys {
		n, err := strconv.ParseUint(strings.TrimSuffix(key[strings.LastIndexByte(key, '/')+1:], ".json"), 10, 64)
		if err != nil {
			continue
		}
		e.books.highest = max(e.books.highest, n)
		t, err := e.recall(ctx, key, n, steps)
		if err != nil {
			return err
		}
		if t != nil {
			known[t.d.ID] = true
			if !t.ended {
				resumed = append(resumed, t)
			}
		}
	}
	e.tasks = append(resumed, slices.DeleteFunc(e.tasks, func(t *task) bool { return t.taken || known[t.d.ID] })...)
	for id, of := range steps {
		if !known[id] {
			e.removeJournal(ctx, id, of) // what is left of one that was pruned
		}
	}
	e.hub.Obey(e.books.term, e.books.ledger)
	for _, o := range e.books.outcomes {
		e.tell(o)
	}
	return nil
}

// recall reads a decision that was taken. One that cannot be read stays as it
// is: its number is taken, and nobody carries it out.
func (e *Executor) recall(ctx context.Context, key string, n uint64, steps map[string][]string) (*task, error) {
	raw, err := e.b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	var r takenRecord
	if err := json.Unmarshal(raw, &r); err != nil || r.Version != 1 || r.Decision.Sequence != n || r.Decision.Validate() != nil {
		e.log.Error("a decision in the journal cannot be understood; it is not carried out", "key", key, "error", err)
		e.books.unread = key
		return nil, nil
	}
	e.books.term = max(e.books.term, r.Decision.Term)
	t := &task{d: r.Decision, taken: true, resumed: true}
	left := time.Until(r.At.Add(r.Decision.Expires))
	if left > r.Decision.Expires {
		left = 0 // the clock went back: how long ago it came is not known
	}
	t.deadline = time.Now().Add(left)
	of := steps[r.Decision.ID]
	for _, step := range of {
		t.begun = t.begun || step != stepChecked && step != stepOutcome
	}
	var c checkedIntent
	var o catalog.Outcome
	if slices.Contains(of, stepChecked) {
		if err = e.readStep(ctx, t, stepChecked, &c); err == nil {
			t.checked = !c.Abandoned
		}
	}
	if err == nil && slices.Contains(of, stepOutcome) {
		if err = e.readStep(ctx, t, stepOutcome, &o); err == nil {
			e.books.outcomes[t.d.ID], e.books.numbers[t.d.ID] = o, n
			t.ended = true
		}
	}
	if no, ok := errors.AsType[*refusal](err); ok {
		e.log.Error("a step in the journal cannot be understood; its decision is not carried out", "decision", t.d.ID, "error", no)
		t.ended = true
		return t, nil
	}
	return t, err
}

// take writes a decision down under its number.
func (e *Executor) take(ctx context.Context, t *task) error {
	key := takenKey(t.d.Ledger, t.d.Sequence)
	raw, err := json.Marshal(takenRecord{Version: 1, Decision: t.d, Holder: e.o.Holder, At: t.deadline.Add(-t.d.Expires).UTC()})
	if err != nil {
		return err
	}
	err = e.b.PutNew(ctx, key, raw)
	if errors.Is(err, fs.ErrExist) {
		raw, err = e.b.Get(ctx, key)
		if err != nil {
			return err
		}
		var r takenRecord
		if json.Unmarshal(raw, &r) != nil || r.Decision.ID != t.d.ID || r.Holder != e.o.Holder {
			// Another process's, or another decision of that number. What is
			// there says what is so.
			e.loaded = false
			return fmt.Errorf("%s is there: %w", key, fs.ErrExist)
		}
	}
	if err != nil {
		return err
	}
	t.taken = true
	e.books.highest, e.books.term = t.d.Sequence, max(e.books.term, t.d.Term)
	e.hub.Obey(e.books.term, e.books.ledger)
	return nil
}

// record writes a step down before its effect, if none has: then into has what
// was intended at first. It is for this process to go on only when the duty is
// its own, nothing is frozen and there is time.
func (e *Executor) record(ctx context.Context, t *task, step string, intent, into any) error {
	if err := e.mayAct(ctx, t, step); err != nil {
		return err
	}
	raw, err := json.Marshal(intent)
	if err != nil {
		return err
	}
	raw, err = json.Marshal(stepRecord{Version: 1, Decision: t.d.ID, Step: step, Holder: e.o.Holder, At: time.Now().UTC(), Intent: raw})
	if err != nil {
		return err
	}
	err = e.b.PutNew(ctx, stepKey(t.d.ID, step), raw)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if step != stepChecked && step != stepOutcome {
		t.begun = true
	}
	return e.readStep(ctx, t, step, into)
}

// mayAct says why nothing may be done now.
func (e *Executor) mayAct(ctx context.Context, t *task, step string) error {
	now, err := e.ruling(ctx)
	if err != nil {
		return err
	}
	if !e.o.OnDuty() || now != e.claim {
		return errOffDuty
	}
	if step == stepOutcome {
		return nil
	}
	if t.d.Verb.Irreversible() {
		if err := e.thawed(ctx); err != nil {
			return err
		}
	}
	if t.over() {
		return errOver
	}
	return nil
}

var (
	errOffDuty = errors.New("another process holds the region duty")
	errOver    = errors.New("its time is over")
)

func (e *Executor) readStep(ctx context.Context, t *task, step string, into any) error {
	raw, err := e.b.Get(ctx, stepKey(t.d.ID, step))
	if err != nil {
		return err
	}
	var r stepRecord
	if err := json.Unmarshal(raw, &r); err != nil || r.Version != 1 || r.Decision != t.d.ID || r.Step != step {
		return refused(catalog.CodeUnreadable, "%s cannot be understood: %v", stepKey(t.d.ID, step), err)
	}
	if err := json.Unmarshal(r.Intent, into); err != nil {
		return refused(catalog.CodeUnreadable, "%s cannot be understood: %v", stepKey(t.d.ID, step), err)
	}
	return nil
}

// conclude writes the outcome down. When one is there already that one stands.
func (e *Executor) conclude(ctx context.Context, t *task, o catalog.Outcome) (catalog.Outcome, error) {
	var kept catalog.Outcome
	if err := e.record(ctx, t, stepOutcome, o, &kept); err != nil {
		return o, err
	}
	e.books.outcomes[t.d.ID], e.books.numbers[t.d.ID] = kept, t.d.Sequence
	return kept, nil
}

// settled removes what the hub has of decisions, but for the highest number.
// What cannot be removed now is told again by the next process, and settled then.
func (e *Executor) settled(ctx context.Context, ids []string) {
	if !e.loaded || !e.o.OnDuty() {
		return
	}
	for _, id := range ids {
		n, ok := e.books.numbers[id]
		if !ok {
			continue
		}
		if n == e.books.highest {
			if was := e.books.last; was != "" && was != id {
				e.forget(ctx, was, e.books.numbers[was]) // it has the highest number no more
			}
			e.books.last = id
			continue
		}
		e.forget(ctx, id, n)
	}
	if id := e.books.last; id != "" {
		if n := e.books.numbers[id]; n < e.books.highest {
			e.books.last = ""
			e.forget(ctx, id, n)
		}
	}
}

// forget removes the number first: a journal without one is only what is left.
func (e *Executor) forget(ctx context.Context, id string, n uint64) {
	err := e.b.Delete(ctx, takenKey(e.books.ledger, n))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.complain("what is settled cannot be removed from the journal", err)
		return
	}
	delete(e.books.outcomes, id)
	delete(e.books.numbers, id)
	var steps []string
	_ = e.b.Walk(ctx, catalog.JournalPrefix+id+"/", "", func(key string, _ int64, _ time.Time) error {
		steps = append(steps, strings.TrimSuffix(strings.TrimPrefix(key, catalog.JournalPrefix+id+"/"), ".json"))
		return nil
	})
	e.removeJournal(ctx, id, steps)
}

func (e *Executor) removeJournal(ctx context.Context, id string, steps []string) {
	for _, step := range steps {
		if err := e.b.Delete(ctx, stepKey(id, step)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return // the next process finds it again
		}
	}
}
