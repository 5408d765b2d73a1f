package execute

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/agent/duty"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/reaction"
)

// task is a decision that is not concluded yet.
type task struct {
	d   catalog.Decision
	err error // why it cannot be understood

	taken    bool // its number is written down
	resumed  bool // by an earlier process
	checked  bool // and that it was re-checked
	begun    bool // and a step with an effect
	ended    bool // nothing more is to be done
	deadline time.Time
	next     time.Time
	tries    int

	saw   catalog.Saw
	steps []catalog.Step
	sight catalog.Sighting

	storeAt, storeSince time.Time       // the store's clock, and ours when it was read
	why                 *catalog.Reason // it waits, or did not get on so far
}

func (t *task) over() bool { return !time.Now().Before(t.deadline) }

func (e *Executor) backoff(t *task) time.Duration {
	t.tries++
	return min(e.pause<<min(t.tries-1, 8), tryMost)
}

func (t *task) outcome(state catalog.OutcomeState, why ...catalog.Reason) catalog.Outcome {
	if why == nil {
		why = []catalog.Reason{}
	}
	return catalog.Outcome{
		Decision: t.d.ID, Verb: t.d.Verb, Slate: t.d.Slate, Sequence: t.d.Sequence, State: state,
		Reasons: why, Saw: t.saw, Steps: t.steps,
	}
}

// work is how a verb is carried out: checked as often as it is tried, then its
// effects, then whether they are seen. Doing any of it twice is the same as once.
type work struct {
	check   func(ctx context.Context) error
	act     []*reaction.Step
	observe func(ctx context.Context) error // errNotSeen: not yet
}

var errNotSeen = errors.New("the effect is not seen")

// attempt carries a decision out as far as it gets. Without an outcome it is to
// be tried again.
func (e *Executor) attempt(ctx context.Context, t *task) (*catalog.Outcome, time.Duration) {
	if t.resumed && !t.checked {
		// Another process was killed before it was re-checked, or had not come
		// to it: nobody knows how long it has waited.
		var c checkedIntent
		err := e.record(ctx, t, stepChecked, checkedIntent{Abandoned: true}, &c)
		if t.checked = err == nil && !c.Abandoned; t.checked {
			return nil, 0 // the other process has gone on after all
		}
		if err == nil || errors.Is(err, errOver) || isRefusal(err) {
			return end(t, catalog.OutcomeExpired, because(catalog.CodeExpired, "the agent was restarted before it was re-checked"))
		}
		return e.again(ctx, t, err)
	}
	w := e.work(t)
	if t.begun {
		// What an earlier attempt did may be all there is to do; then it is
		// not asked again whether it may be done.
		if r := e.run(ctx, t, reaction.Do("look for what was done before", quiet(w.observe))); r.Err == nil {
			return end(t, catalog.OutcomeDone)
		}
	}
	steps := []*reaction.Step{reaction.Do("re-check", quiet(func(ctx context.Context) error {
		if err := e.permitted(ctx, t); err != nil {
			return err
		}
		return w.check(ctx)
	})), reaction.Do("write down that it was re-checked", quiet(func(ctx context.Context) error {
		if t.checked {
			return nil
		}
		var c checkedIntent
		if err := e.record(ctx, t, stepChecked, checkedIntent{}, &c); err != nil {
			return err
		}
		if c.Abandoned {
			return errOver
		}
		t.checked = true
		return nil
	}))}
	steps = append(append(steps, w.act...), reaction.Do("look for the effect", quiet(w.observe)))
	r := e.run(ctx, t, reaction.Sequential(string(t.d.Verb), steps...))
	if r.Err == nil {
		return end(t, catalog.OutcomeDone)
	}
	return e.again(ctx, t, r.Err)
}

// run runs steps and keeps what they came to, of the last attempt.
func (e *Executor) run(ctx context.Context, t *task, s *reaction.Step) reaction.Report {
	r := s.Run(ctx)
	t.steps = flat(nil, r.Tree, 0)
	return r
}

// maxSteps is how many steps of a tree an outcome tells.
const maxSteps = 256

func flat(to []catalog.Step, n *reaction.Node, depth uint32) []catalog.Step {
	if n == nil || n.State == reaction.NotRun || len(to) >= maxSteps {
		return to
	}
	said := n.Error
	if len(said) > 1000 {
		said = strings.ToValidUTF8(said[:1000], "")
	}
	name := n.What
	if name == "" {
		name = string(n.Kind)
	}
	to = append(to, catalog.Step{Name: name, Took: n.Took.Truncate(time.Microsecond), Error: said, Depth: depth})
	for _, below := range n.Of {
		to = flat(to, below, depth+1)
	}
	return to
}

// quiet makes a step of what only fails or does not.
func quiet(f func(ctx context.Context) error) func(context.Context) (reaction.Result, error) {
	return func(ctx context.Context) (reaction.Result, error) { return reaction.Result{}, f(ctx) }
}

func end(t *task, state catalog.OutcomeState, why ...catalog.Reason) (*catalog.Outcome, time.Duration) {
	o := t.outcome(state, why...)
	return &o, 0
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*refusal](err)
	return ok
}

// again sorts what went wrong by what is to be done now.
func (e *Executor) again(ctx context.Context, t *task, err error) (*catalog.Outcome, time.Duration) {
	if ctx.Err() != nil && !t.over() {
		return nil, e.pause // the process ends, or it took too long; the journal knows
	}
	no, isNo := errors.AsType[*refusal](err)
	later, isLater := errors.AsType[*wait](err)
	switch {
	case errors.Is(err, errOffDuty):
		e.loaded = false // what is there is read anew, by whoever is on duty
		return nil, dutyEvery
	case isNo && !t.begun:
		return end(t, catalog.OutcomeRefused, no.reasons...)
	case isNo:
		return end(t, catalog.OutcomeFailed, no.reasons...)
	case isLater:
		t.why = &later.reason
	case errors.Is(err, errNotSeen):
		r := because(catalog.CodeNotEffective, "%v", err)
		t.why = &r
	case !errors.Is(err, errOver):
		r := because(catalog.CodeStore, "%v", err)
		t.why = &r
		e.log.Debug("carried out later", "decision", t.d.ID, "verb", t.d.Verb, "slate", t.d.Slate, "error", err)
	}
	if !t.over() && !errors.Is(err, errOver) {
		return nil, min(e.backoff(t), max(time.Until(t.deadline), 10*time.Millisecond))
	}
	why := []catalog.Reason{because(catalog.CodeExpired, "its time is over")}
	if t.why != nil {
		why = append([]catalog.Reason{*t.why}, why...)
	}
	if !t.begun {
		return end(t, catalog.OutcomeExpired, why...)
	}
	// Something was tried. Whether it took effect is what counts; attempt has
	// just looked.
	return end(t, catalog.OutcomeNotEffective, why...)
}

// ruling is the number of the duty's claim that rules; 0: there is none.
func (e *Executor) ruling(ctx context.Context) (uint64, error) {
	var n uint64
	err := e.b.Walk(ctx, duty.Prefix, "", func(key string, _ int64, _ time.Time) error {
		if s, ok := strings.CutSuffix(strings.TrimPrefix(key, duty.Prefix), ".json"); ok {
			if got, err := strconv.ParseUint(s, 10, 64); err == nil {
				n = max(n, got)
			}
		}
		return nil
	})
	return n, err
}

// numbered is the newest of a folder of numbered objects; 0: there is none.
func (e *Executor) numbered(ctx context.Context, prefix string) (n uint64, raw []byte, err error) {
	var key string
	err = e.b.Walk(ctx, prefix, "", func(k string, _ int64, _ time.Time) error {
		s, ok := strings.CutSuffix(strings.TrimPrefix(k, prefix), ".json")
		if got, err := strconv.ParseUint(s, 10, 64); ok && err == nil && got > n {
			n, key = got, k
		}
		return nil
	})
	if err != nil || n == 0 {
		return 0, nil, err
	}
	raw, err = e.b.Get(ctx, key)
	return n, raw, err
}

// pinned is .quarry/ledger/<n>.json: the ledger that this region obeys.
type pinned struct {
	Version int       `json:"version"` // 1
	Ledger  string    `json:"ledger"`
	By      string    `json:"by"` // for people
	At      time.Time `json:"at"` // agent's clock
}

// loadPin reads whom to obey, and changes it when whoever runs this agent says so.
func (e *Executor) loadPin(ctx context.Context) error {
	n, raw, err := e.numbered(ctx, pinPrefix)
	if err != nil {
		return err
	}
	if n > 0 {
		var p pinned
		if err := json.Unmarshal(raw, &p); err != nil || p.Version != 1 || p.Ledger == "" {
			return refused(catalog.CodeUnreadable, "the ledger that this region is pinned to cannot be understood (%s): %v", numberedKey(pinPrefix, n), err)
		}
		e.books.ledger = p.Ledger
	}
	if e.o.Ledger == "" || e.o.Ledger == e.books.ledger {
		return nil
	}
	return e.pinAs(ctx, n+1, e.o.Ledger, "--ledger of "+e.o.Holder)
}

// pin pins the region to the first ledger that decides for it.
func (e *Executor) pin(ctx context.Context, ledger, by string) error {
	err := e.pinAs(ctx, 1, ledger, by)
	if errors.Is(err, fs.ErrExist) {
		return e.loadPin(ctx) // another process was first
	}
	return err
}

func (e *Executor) pinAs(ctx context.Context, n uint64, ledger, by string) error {
	raw, err := json.Marshal(pinned{Version: 1, Ledger: ledger, By: by, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	if err := e.b.PutNew(ctx, numberedKey(pinPrefix, n), raw); err != nil {
		return err
	}
	e.books.ledger = ledger
	e.log.Info("this region obeys a ledger", "ledger", ledger, "by", by)
	return nil
}

func numberedKey(prefix string, n uint64) string {
	digits := strconv.FormatUint(n, 10)
	return prefix + strings.Repeat("0", max(0, 20-len(digits))) + digits + ".json"
}

// work says how a verb is carried out.
func (e *Executor) work(t *task) work {
	switch t.d.Verb {
	case catalog.VerbHold:
		return e.hold(t)
	case catalog.VerbRelease:
		return e.release(t)
	case catalog.VerbPermit, catalog.VerbWithdraw:
		return e.permit(t)
	case catalog.VerbPrune:
		return e.prune(t)
	case catalog.VerbFreeze, catalog.VerbThaw:
		return e.freeze(t)
	case catalog.VerbVerify:
		return e.verify(t)
	case catalog.VerbResync:
		return work{check: nothing, observe: func(context.Context) error { e.eyes.Resync(); return nil }}
	}
	return work{check: func(context.Context) error {
		return refused(catalog.CodeNotAllowed, "this agent cannot %s; it can %v", t.d.Verb, built)
	}, observe: nothing}
}

func nothing(context.Context) error { return nil }
