// Package hub is the loop that owns what the hub knows: one goroutine takes
// events, steps the state, makes records durable, sends messages and publishes
// the view, in this order. It has no way to any region's bucket.
//
// Begin with [New] and [Hub.Run].
package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
)

// Config says how to run a hub. Store and Post must be set; the rest has
// defaults.
type Config struct {
	// Regions as named at start; they begin an empty store, and are held
	// against the stored set otherwise. Empty: the stored set.
	Regions []string
	Store   ledger.Store
	// Post hands a message to a session. It must not block and may be called
	// for a session that has ended.
	Post  func(to state.SessionID, m state.Message)
	State state.Config
	// Now is the hub's clock; time.Now, whose readings are monotonic.
	Now func() time.Time
	Log *slog.Logger
	// Holder and ID name this process in its claim of the store.
	Holder, ID string
	// Mailbox is how many events wait before [Hub.Deliver] does; 1024.
	Mailbox int
	// SaveEvery is how often the view is saved at most; 30 s.
	SaveEvery time.Duration
}

// ErrStopped is returned to callers of a hub whose Run has ended.
var ErrStopped = errors.New("the hub has stopped")

const (
	tickEvery    = time.Second
	checkEvery   = 10 * time.Second       // how often to look for another hub
	storeWait    = 5 * time.Second        // how long the loop waits for the store
	storeRest    = 10 * time.Second       // and leaves it alone after that
	finalWait    = 30 * time.Second       // for the last save
	batchLimit   = 256                    // events taken before they are published
	saveSoon     = time.Second            // after a change, when none was saved lately
	checkWait    = 20 * time.Second       // for a look at the store, or a save
	publishEvery = 20 * time.Millisecond  // at most; the first news after a rest at once
	wholeWait    = 250 * time.Millisecond // for a snapshot to be whole before its rows are shown one by one
	holdMost     = 4 * time.Millisecond   // how long the loop takes events before it lets results out
	slice        = 256                    // facts of a snapshot that it applies at once
	saveShare    = 20                     // times as long as a save took the next one waits at least
	maxOwed      = 4096                   // events in one record
)

// Hub is a running hub, or one about to run.
type Hub struct {
	cfg    Config
	log    *slog.Logger
	ledger *ledger.Ledger
	// journal is the ledger slate: what was decided.
	journal *ledger.Journal
	state   *state.State

	mailbox chan letter
	emptied chan struct{} // the store has lost what was recorded
	taken   chan error    // another hub has claimed the store
	stopped chan struct{}
	deposed atomic.Pointer[error] // why this hub will not decide again; nil: it may

	current atomic.Pointer[view.View]
	audited atomic.Pointer[state.AuditHead] // what of the audit is durable
	mu      sync.Mutex
	newer   chan struct{} // closed when a newer view is published

	// Of the loop alone.
	owed      []state.Object   // not durable yet, in order
	held      []state.Send     // waiting for a region set to become durable
	published time.Time        // when a view last was
	due       <-chan time.Time // when the next has to be; nil: nothing is new
	more      <-chan struct{}  // ready while a snapshot is under way; nil: none
	tending   <-chan struct{}  // ready while the steward is at work; nil: it rests
	ready     chan struct{}    // always ready
	half      atomic.Bool      // the published view has half a snapshot
	restTill  time.Time
	failing   bool
	calmTill  time.Time // when the ledger may be claimed again

	stats struct{ events, failures, unsaved, savedAt atomic.Int64 }
}

type letter struct {
	event state.Event
	reply chan error // nil: nobody waits
}

// decides reports whether stepping it decides something and takes in nothing:
// what of it cannot be recorded did not happen at all.
func (l *letter) decides() bool {
	_, tends := l.event.(state.Tend)
	return l.reply != nil || tends
}

// New opens the store and remembers. It claims the store and the ledger in it:
// a hub that had them decides no more. [Hub.View] works from now on and shows
// yesterday's rows. The ledger is open until Run ends; a hub that is not run
// must be closed.
func New(ctx context.Context, cfg Config) (*Hub, error) {
	if cfg.Store == nil || cfg.Post == nil {
		return nil, errors.New("hub: Config.Store and Config.Post must be set")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Mailbox = cmp.Or(cfg.Mailbox, 1024)
	cfg.SaveEvery = cmp.Or(cfg.SaveEvery, 30*time.Second)
	cfg.State.Slice = cmp.Or(cfg.State.Slice, slice)
	now := cfg.Now()
	l, saved, err := ledger.Open(ctx, cfg.Store, ledger.Config{
		Regions: cfg.Regions, Holder: cfg.Holder, ID: cfg.ID, Now: now, MaxEvents: cfg.State.MaxEvents, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	h := &Hub{
		cfg: cfg, log: cfg.Log, ledger: l, state: state.New(cfg.State, saved, now),
		mailbox: make(chan letter, cfg.Mailbox), emptied: make(chan struct{}, 1), taken: make(chan error, 1),
		stopped: make(chan struct{}), newer: make(chan struct{}), ready: make(chan struct{}),
	}
	close(h.ready)
	if err := h.openJournal(ctx); err != nil {
		return nil, err
	}
	h.current.Store(h.state.View())
	return h, nil
}

// View is the newest published view. Anybody may call it at any time.
func (h *Hub) View() *view.View { return h.current.Load() }

// Wait returns when a view with a Seq above seq is published, or the context
// or the hub ends.
func (h *Hub) Wait(ctx context.Context, seq uint64) error {
	for {
		h.mu.Lock()
		newer := h.newer
		h.mu.Unlock()
		if h.View().Seq() > seq {
			return nil
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return ctx.Err()
		case <-h.stopped:
			return ErrStopped
		}
	}
}

// Deliver hands an event to the loop, which owns it and what it points to
// from then on. It waits while the mailbox is full, and does not wait for the
// event to be taken into account. Events of one caller keep their order.
func (h *Hub) Deliver(ctx context.Context, e state.Event) error {
	return h.deliver(ctx, letter{event: e})
}

func (h *Hub) deliver(ctx context.Context, l letter) error {
	select {
	case <-h.stopped:
		return ErrStopped
	default:
	}
	select {
	case h.mailbox <- l:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.stopped:
		return ErrStopped
	}
}

// AcceptRegion is a person's word that a region is right as it is now. The
// error wraps fs.ErrNotExist for a region not in the set and
// [state.ErrNothingToAccept] when nobody asked.
func (h *Hub) AcceptRegion(ctx context.Context, name, by string) error {
	return h.command(ctx, state.AcceptRegion{Region: name, By: by})
}

// Forget removes the row of a missing placement at a person's word; slate is
// its name or its root. The error wraps fs.ErrNotExist when there is none and
// [state.ErrNotMissing] when it is not missing.
func (h *Hub) Forget(ctx context.Context, region, slate, by string) error {
	return h.command(ctx, state.ForgetPlacement{Region: region, Slate: slate, By: by})
}

func (h *Hub) command(ctx context.Context, e state.Event) error {
	reply := make(chan error, 1)
	if err := h.deliver(ctx, letter{e, reply}); err != nil {
		return err
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-h.stopped:
		select {
		case err := <-reply:
			return err
		default:
			return ErrStopped
		}
	}
}

// Run runs the loop until ctx ends, then saves the view and returns nil. When
// another hub takes the store it goes on answering and decides no more; see
// [Hub.Deciding]. It may be called once.
func (h *Hub) Run(ctx context.Context) error {
	defer close(h.stopped)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer h.Close()
	var keeping sync.WaitGroup
	keeping.Go(func() { h.keep(ctx) })
	defer keeping.Wait()
	defer cancel() // runs first

	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case l := <-h.mailbox:
			h.take(ctx, l)
		case <-tick.C:
			// What waits is heard before time passes: a hub that was held up
			// must not take its own silence for the agents'.
			for waiting := len(h.mailbox); waiting > 0 && len(h.mailbox) > 0; waiting -= batchLimit {
				h.take(ctx, <-h.mailbox)
			}
			h.tend(ctx)
			h.take(ctx, letter{event: state.Tick{}})
		case <-h.more:
			h.take(ctx, letter{event: state.Continue{}})
		case <-h.tending:
			h.take(ctx, letter{event: state.Tend{}})
		case <-h.due:
			h.due = nil
			h.show(false)
		case <-h.emptied:
			h.recordAnew(ctx)
		case err := <-h.taken:
			h.depose(ctx, err)
		case <-ctx.Done():
			cancel()
			keeping.Wait()
			return h.finish(ctx)
		}
	}
}

// batch is what steps that follow each other have brought: all of them of
// people's commands and the steward's work, or none.
type batch struct {
	commands bool
	mark     state.Mark // before the first
	records  []state.Record
	objects  []state.Object
	send     []state.Send
	answers  []answer
}

// answer is owed to whoever gave a command.
type answer struct {
	to   chan error
	err  error
	then state.Event // what the command does once its records are durable; nil: it is done
}

// take steps through one event and those that wait behind it, then lets the
// results out.
func (h *Hub) take(ctx context.Context, l letter) {
	began := h.cfg.Now()
	b := batch{commands: l.decides(), mark: h.state.Mark(l.decides())}
	for n := 0; ; n++ {
		if commands := l.decides(); commands != b.commands {
			h.let(ctx, &b)
			b = batch{commands: commands, mark: h.state.Mark(commands)}
		}
		now := h.cfg.Now()
		h.step(&b, l, now)
		_, ticked := l.event.(state.Tick)
		if n >= batchLimit || ticked || now.Sub(began) > holdMost {
			break
		}
		select {
		case l = <-h.mailbox:
			continue
		default:
		}
		break
	}
	h.let(ctx, &b)
}

func (h *Hub) step(b *batch, l letter, now time.Time) {
	if b.commands {
		// A hub that has lost its right must not even try: what it knows may be
		// what another hub has changed.
		if err := h.Deciding(); errors.Is(err, ledger.ErrTaken) {
			h.tending = nil
			if l.reply != nil {
				b.answers = append(b.answers, answer{to: l.reply, err: err})
			}
			return
		}
	}
	if e, ok := l.event.(state.Hello); ok {
		h.hearTerm(e)
	}
	ready := h.state.Step(l.event, now)
	h.stats.events.Add(1)
	if h.more = nil; ready.More {
		h.more = h.ready
	}
	if h.tending = nil; ready.Tend {
		h.tending = h.ready
	}
	b.records = append(b.records, ready.Records...)
	if ready.Err != nil && ready.Then != nil {
		// What is refused can have a consequence of its own.
		after := h.state.Step(ready.Then, now)
		b.records = append(b.records, after.Records...)
		ready.Objects, ready.Send, ready.Then = append(ready.Objects, after.Objects...), append(ready.Send, after.Send...), nil
	}
	b.objects = append(b.objects, ready.Objects...)
	b.send = append(b.send, ready.Send...)
	if l.reply != nil {
		b.answers = append(b.answers, answer{l.reply, ready.Err, ready.Then})
	}
}

// let lets the results of a batch out: what was decided becomes durable, then
// what was seen, then messages leave, the view is published and people are
// answered (P8). What was decided and could not be made durable did not happen.
func (h *Hub) let(ctx context.Context, b *batch) {
	if err := h.record(ctx, b.records); err != nil {
		h.undo(b, err)
		if errors.Is(err, ledger.ErrTaken) {
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWait)
			h.regain(limited, err)
			cancel()
			h.tell()
		}
	}
	for i := range b.answers {
		if a := &b.answers[i]; a.err == nil && a.then != nil {
			ready := h.state.Step(a.then, h.cfg.Now())
			b.objects, b.send = append(b.objects, ready.Objects...), append(b.send, ready.Send...)
			a.err = ready.Err
		}
	}
	h.owe(b.objects)
	unsaved, err := h.persist(ctx)
	h.post(b.send)
	h.show(len(b.answers) > 0)
	for _, a := range b.answers {
		if a.err == nil && unsaved {
			a.err = fmt.Errorf("done, but not recorded yet: the hub's store fails; it is tried again: %w", err)
		}
		a.to <- a.err
	}
}

// show publishes what is new, now or soon. Publications follow each other at a
// distance: each costs by what it touches, and so do the sums of slates that
// are in many regions. A snapshot is shown whole, unless that takes long.
func (h *Hub) show(now bool) {
	every := publishEvery
	if h.more != nil {
		every = wholeWait
	}
	if rest := every - h.cfg.Now().Sub(h.published); now || rest <= 0 {
		h.publish()
	} else if h.due == nil {
		h.due = time.After(min(rest, publishEvery))
	}
}

func (h *Hub) publish() {
	h.published, h.due = h.cfg.Now(), nil
	v := h.state.View()
	h.half.Store(h.more != nil)
	before := h.current.Swap(v)
	if before.Seq() == v.Seq() {
		return
	}
	h.mu.Lock()
	close(h.newer)
	h.newer = make(chan struct{})
	h.mu.Unlock()
}

// keep saves the view now and then, and looks whether the store is still ours,
// for as long as it is.
func (h *Hub) keep(ctx context.Context) {
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	// A change after a quiet time is saved soon, changes without end now and
	// then, and what only grew older rarely.
	save := time.NewTicker(min(h.cfg.SaveEvery, saveSoon))
	defer save.Stop()
	var savedSeq uint64
	var savedAt time.Time
	var cost time.Duration // of the last save
	for h.deposed.Load() == nil {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			lost, err := h.look(ctx)
			if err != nil {
				h.taken <- err
				return
			}
			if lost {
				savedSeq, savedAt = 0, time.Time{}
			}
		case <-save.C:
			v, rest := h.View(), max(h.cfg.SaveEvery, saveShare*cost)
			if v.Seq() == savedSeq {
				rest *= 10
			}
			if !savedAt.IsZero() && (h.cfg.Now().Sub(savedAt) < rest || h.half.Load() && h.cfg.Now().Sub(savedAt) < 10*rest) {
				continue
			}
			// A hub that was replaced saves nothing beside the one that did.
			if _, err := h.look(ctx); err != nil {
				h.taken <- err
				return
			}
			savedAt = h.cfg.Now() // of the try: a store that fails is left alone as long
			if err := h.save(ctx, v); err == nil {
				savedSeq = v.Seq()
			}
			// A large view is saved more rarely, so that saving never takes more
			// than a small part of the time.
			cost = h.cfg.Now().Sub(savedAt)
		}
	}
}

// look returns an error when another hub holds the store, and has everything
// recorded anew when the store has lost it.
func (h *Hub) look(ctx context.Context) (lost bool, _ error) {
	err := h.check(ctx)
	switch {
	case errors.Is(err, ledger.ErrTaken):
		return false, err
	case errors.Is(err, ledger.ErrEmptied):
		h.log.Error("what this hub wrote is gone from its store; it is written again", "error", err)
		select {
		case h.emptied <- struct{}{}:
		default:
		}
		return true, nil
	}
	return false, nil
}

func (h *Hub) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	return h.ledger.Check(ctx)
}

func (h *Hub) save(ctx context.Context, v *view.View) error {
	limited, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	if err := h.ledger.SaveView(limited, v); err != nil {
		if ctx.Err() == nil {
			h.stats.failures.Add(1)
			h.log.Error("the view was not saved; it is tried again", "error", err)
		}
		return err
	}
	h.stats.savedAt.Store(v.At().UnixMilli())
	return nil
}

// finish records and saves before the end. A hub whose store was taken leaves
// it alone.
func (h *Hub) finish(ctx context.Context) error {
	h.restTill = time.Time{}
	_, err := h.persist(ctx)
	h.publish()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalWait)
	defer cancel()
	if cerr := h.check(ctx); errors.Is(cerr, ledger.ErrTaken) {
		h.depose(ctx, cerr)
	}
	if h.deposed.Load() != nil {
		return nil
	}
	serr := h.save(ctx, h.View())
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("end the hub: %w", err)
	}
	return nil
}

// Stats are numbers for metrics, since the start.
type Stats struct {
	Events        int64 // taken by the loop
	Waiting       int64 // in the mailbox now
	StoreFailures int64 // failed writes to the hub's store
	Unrecorded    int64 // records that wait for the store now
	SavedAt       time.Time
}

// Stats gives the numbers of now. Anybody may call it.
func (h *Hub) Stats() Stats {
	st := Stats{
		Events: h.stats.events.Load(), Waiting: int64(len(h.mailbox)),
		StoreFailures: h.stats.failures.Load(), Unrecorded: h.stats.unsaved.Load(),
	}
	if at := h.stats.savedAt.Load(); at != 0 {
		st.SavedAt = time.UnixMilli(at).UTC()
	}
	return st
}
