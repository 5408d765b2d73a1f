// Package execute carries out the hub's decisions in one region's bucket, each
// once, or refuses them: the hub decides, the agent agrees (P7). It never does
// more than its own bucket bears out at the moment of acting, whatever a
// decision says, and every step is in the region's journal before its effect
// (P8): killed at any instruction, the next process resumes or leaves things
// blocked. What was done is told until the hub has it.
//
// Begin with [New] and [Executor.Run]; then admit.go (which decisions are
// taken), journal.go (what is written down), attempt.go (how one is carried
// out), and a file for each kind of effect.
package execute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/agent/duty"
	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Eyes see the bucket as it is now. *watch.Watcher is one.
type Eyes interface {
	// Prove looks at a root and proves that what is there is what was there.
	// An error that wraps fs.ErrNotExist says that nothing is followed there.
	Prove(ctx context.Context, root string) (catalog.Sighting, error)
	// Points looks at every object of a root's restore points.
	Points(ctx context.Context, root string) ([]catalog.RestorePoint, error)
	// Resync looks at everything anew, and does not wait for it.
	Resync()
}

// Hub is whoever decides. *report.Report is one.
type Hub interface {
	NextOrder(ctx context.Context) (report.Order, error)
	// Settle tells an outcome until it is settled.
	Settle(catalog.Outcome) error
	// Settled gives the decisions whose outcomes the hub has.
	Settled() <-chan []string
	// Obey says whom this region has obeyed so far.
	Obey(term uint64, ledger string)
}

// Options say what may be done. Region, Holder and OnDuty are needed.
type Options struct {
	Region string
	Holder string // who this process is, for people
	// OnDuty says whether this process holds the region duty, as far as it
	// knows; it must not block. Before each effect the duty's claims are read too.
	OnDuty func() bool
	// Prefixes are the folders below which slates may be touched; "" is the
	// whole bucket. None: nothing may.
	Prefixes []string
	// Allow are the verbs that are carried out; nil: catalog.DefaultVerbs.
	Allow []catalog.Verb
	// Ledger is the UUID of a ledger to obey from now on, at the word of whoever
	// runs this agent; "": the one that the bucket is pinned to, or the first.
	Ledger string
	// Pay is called before each request to the bucket and may wait, for as long as
	// its context; nil: nothing need be paid.
	Pay func(context.Context) error
	Log *slog.Logger // nil: slog.Default()
}

// Validate checks the options and fills in defaults. Errors name the field and
// a value that would be right.
func (o *Options) Validate() error {
	if o.Region == "" || o.Holder == "" || o.OnDuty == nil {
		return errors.New("execute: Region, Holder and OnDuty are needed")
	}
	if o.Allow == nil {
		o.Allow = catalog.DefaultVerbs
	}
	for _, v := range o.Allow {
		if !slices.Contains(built, v) {
			return fmt.Errorf("allow %q: one of %v", v, built)
		}
	}
	for i, p := range o.Prefixes {
		p = strings.Trim(p, "/")
		if p != "" {
			if err := catalog.CheckName(p); err != nil {
				return fmt.Errorf("prefix %q: %w; for example dbs, or \"\" for the whole bucket", o.Prefixes[i], err)
			}
		}
	}
	if o.Ledger != "" {
		if id, err := uuid.Parse(o.Ledger); err != nil || id.String() != o.Ledger {
			return fmt.Errorf("ledger %q: the UUID that quarry hub says at its start", o.Ledger)
		}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return nil
}

// built are the verbs that this version can carry out.
var built = []catalog.Verb{
	catalog.VerbHold, catalog.VerbRelease, catalog.VerbPermit, catalog.VerbWithdraw, catalog.VerbPrune,
	catalog.VerbVerify, catalog.VerbResync, catalog.VerbFreeze, catalog.VerbThaw,
}

// Executor carries decisions out, one at a time.
type Executor struct {
	b    duty.Store
	eyes Eyes
	hub  Hub
	o    Options
	log  *slog.Logger

	// Of Run's goroutine. What follows is read from the bucket when the duty is won.
	loaded bool
	claim  uint64 // the duty's claim that ruled then
	books  books
	tasks  []*task // in the order in which they came

	said string // the last complaint

	pause time.Duration // after the store failed, doubled up to tryMost
}

// New makes an executor over the region's bucket. It starts nothing.
func New(b *bucket.Bucket, eyes Eyes, hub Hub, o Options) (*Executor, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return &Executor{b: duty.NewStore(b, o.Pay), eyes: eyes, hub: hub, o: o, log: o.Log.With("region", o.Region), pause: tryAgain}, nil
}

const (
	dutyEvery = time.Second      // how often to look whether this process is on duty
	tryAgain  = time.Second      // after the store failed, doubled up to
	tryMost   = 30 * time.Second // this
	perStep   = 10 * time.Minute // the longest that one attempt may take
)

// Run carries out what the hub decides while this process is on duty, until ctx
// is over, and returns nil then. What fails is logged and tried again.
func (e *Executor) Run(ctx context.Context) error {
	orders := make(chan report.Order)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for {
			o, err := e.hub.NextOrder(ctx)
			if err != nil {
				return
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { <-reading }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case o := <-orders:
			e.receive(o)
		case ids := <-e.hub.Settled():
			e.settled(ctx, ids)
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		timer.Reset(e.step(ctx))
	}
}

// step does what is due and says when to come again.
func (e *Executor) step(ctx context.Context) time.Duration {
	if !e.o.OnDuty() {
		// Another may have been: everything is read anew when it is ours.
		e.loaded = false
		e.tasks = slices.DeleteFunc(e.tasks, func(t *task) bool { return t.taken || t.over() })
		return dutyEvery
	}
	if !e.loaded {
		if err := e.load(ctx); err != nil {
			e.complain("the journal cannot be read; nothing is carried out", err)
			return e.pause
		}
		e.loaded = true
	}
	next := dutyEvery
	for _, t := range slices.Clone(e.tasks) {
		if ctx.Err() != nil {
			return 0
		}
		wait := time.Until(t.next)
		if wait <= 0 {
			wait = e.attend(ctx, t)
			t.next = time.Now().Add(wait)
		}
		if !t.ended {
			next = min(next, max(wait, 0))
			if !t.taken {
				break // numbers are taken in the order in which they came
			}
		}
	}
	e.tasks = slices.DeleteFunc(e.tasks, func(t *task) bool { return t.ended })
	return next
}

// receive takes an order into account.
func (e *Executor) receive(o report.Order) {
	for _, t := range e.tasks {
		if t.d.ID == o.Decision.ID {
			return // it is under way; its time counts from when it came first
		}
	}
	if done, ok := e.books.outcomes[o.Decision.ID]; ok && e.loaded {
		e.tell(done)
		return
	}
	e.tasks = append(e.tasks, &task{d: o.Decision, err: o.Err, deadline: o.Received.Add(o.Decision.Expires)})
}

// attend takes a decision or carries it out, and says when to try again.
func (e *Executor) attend(ctx context.Context, t *task) time.Duration {
	if !t.taken {
		o, err := e.admit(ctx, t)
		switch {
		case o != nil:
			t.ended = true
			e.log.Warn("a decision is refused", "decision", t.d.ID, "verb", t.d.Verb, "slate", t.d.Slate, "reasons", o.Reasons)
			e.tell(*o)
			return 0
		case err != nil && t.over():
			t.ended = true
			e.tell(t.outcome(catalog.OutcomeExpired, because(catalog.CodeExpired, "it could not be written down in its time: %v", err)))
			return 0
		case err != nil:
			e.complain("a decision cannot be written down", err)
			return e.backoff(t)
		}
		t.tries = 0
	}
	within, cancel := context.WithTimeout(ctx, perStep)
	defer cancel()
	o, again := e.attempt(within, t)
	if o == nil {
		return again
	}
	// The outcome is in the journal before it is told, and never changes.
	kept, err := e.conclude(ctx, t, *o)
	if err != nil {
		e.complain("an outcome cannot be written down", err)
		return e.backoff(t)
	}
	t.ended = true
	e.said = ""
	e.log.Info("decision carried out", "decision", t.d.ID, "verb", t.d.Verb, "slate", t.d.Slate, "state", kept.State, "reasons", kept.Reasons)
	e.tell(kept)
	return 0
}

func (e *Executor) tell(o catalog.Outcome) {
	// One of a decision that said too little to be answered cannot travel.
	err := o.Validate()
	if err == nil {
		err = e.hub.Settle(o)
	}
	if err != nil {
		e.log.Error("an outcome cannot be told", "decision", o.Decision, "error", err)
	}
}

// complain logs what goes wrong, once while it goes wrong in the same way.
func (e *Executor) complain(what string, err error) {
	if errors.Is(err, context.Canceled) || e.said == what {
		return
	}
	e.said = what
	e.log.Warn(what, "error", err)
}

func because(code, format string, args ...any) catalog.Reason {
	m := fmt.Sprintf(format, args...)
	if len(m) > 2000 {
		m = strings.ToValidUTF8(m[:2000], "") + " …"
	}
	return catalog.Reason{Code: code, Message: m}
}
