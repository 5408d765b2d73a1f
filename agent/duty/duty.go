// Package duty holds the region duty: one process for each bucket, however many
// clusters, writes the catalog slate. It folds what owners dropped into the
// inbox into rows, and only then removes it, and keeps rows of what its process
// sees of the region. It never decides by a wall clock, and never needs to be
// the only one to be safe: the catalog's writer epoch fences whoever held the
// duty before.
//
// Begin with [New] and [Duty.Run]; then claim.go (who has it), keeper.go (what
// is done with it) and seats.go (the rows of what is seen).
package duty

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// The defaults of [Options].
const (
	DefaultTTL   = 30 * time.Second
	DefaultEvery = 5 * time.Second
)

// Options say how the duty is held. Holder and Ready are needed.
type Options struct {
	Holder string // who this process is, for people
	// TTL is after how long without a beat others take over; 0: DefaultTTL.
	// All agents of a bucket should have the same.
	TTL time.Duration
	// Every is the least time between two batches of the catalog; 0:
	// DefaultEvery.
	Every time.Duration
	// Ready says whether this process may write below .quarry/: that the
	// bucket is known to be its region's (B10). It must not block.
	Ready func() bool
	// Folded is given all declarations of the catalog by id, when the duty
	// was won and after each batch, before the inbox is emptied; nil: nobody. It may keep the map and must
	// not change it.
	Folded func(map[string]catalog.Registration)
	// Seen is what this process sees of the region, for the catalog to keep;
	// [Duty.Saw] says that there is news. nil: only declarations are kept.
	Seen Sightings
	// Pay is called before each request to the bucket and may wait, for as
	// long as the budget wants it; nil: nothing need be paid.
	Pay func(context.Context) error
	Log *slog.Logger // nil: slog.Default()
}

// Frugal gives TTL and Every for a process that may make so many requests an
// hour of its bucket: the defaults, or longer, so that the duty stays within a
// sixth of them.
func Frugal(perHour float64) (ttl, every time.Duration) {
	slower := max(1, steady/(perHour/6))
	return min(time.Duration(slower*float64(DefaultTTL)), longestTTL), time.Duration(slower * float64(DefaultEvery))
}

// steady is about what the duty asks of the bucket in an hour with the
// defaults, when there is something to write every time.
const steady = 2500

// Duty contends for the region duty and does it.
type Duty struct {
	b       Store
	o       Options
	poke    chan struct{}
	notes   notes
	keeping atomic.Bool
	said    string // the last complaint
}

// New makes a duty over the region's bucket. It starts nothing.
func New(b *bucket.Bucket, o Options) (*Duty, error) {
	if o.Ready == nil || o.Holder == "" {
		return nil, errors.New("duty: Holder and Ready are needed")
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.Every == 0 {
		o.Every = DefaultEvery
	}
	if o.TTL < 0 || o.Every < 0 {
		return nil, fmt.Errorf("duty: TTL %v and Every %v must not be negative; 0 is the default", o.TTL, o.Every)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Duty{
		b: Store{b, o.Pay}, o: o, poke: make(chan struct{}, 1),
		notes: notes{roots: map[string]struct{}{}, leases: map[string]catalog.Lease{}, paths: map[string]string{}, moved: make(chan struct{}, 1)},
	}, nil
}

// Keeping reports whether this process has the catalog open as its writer, as
// far as it knows.
func (d *Duty) Keeping() bool { return d.keeping.Load() }

// Poke says that something may lie in the inbox. It does not block and may be
// called by anybody.
func (d *Duty) Poke() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// Run contends for the duty and does it until ctx is over, and returns nil
// then. What fails is logged and tried again.
func (d *Duty) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		c, err := d.win(ctx)
		if err != nil {
			return nil // ctx is over
		}
		d.o.Log.Info("region duty taken", "claim", c.Number)
		if why := d.serve(ctx, c); ctx.Err() == nil {
			d.o.Log.Warn("region duty lost: standing by", "claim", c.Number, "why", why)
		}
	}
	return nil
}

// wait sleeps, or returns early when poked.
func (d *Duty) wait(ctx context.Context, t time.Duration, poked <-chan struct{}) error {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-poked:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// complain logs what goes wrong, once while it goes wrong in the same way.
func (d *Duty) complain(what string, err error) {
	if err == nil || errors.Is(err, context.Canceled) || d.said == what {
		return
	}
	d.said = what
	d.o.Log.Warn(what, "err", err)
}

// serve does the duty until it is lost or ctx is over, and says why it was lost.
func (d *Duty) serve(ctx context.Context, c claim) (why error) {
	ours, stop := context.WithCancelCause(ctx)
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		stop(d.renew(ours, c))
	}()
	d.clear(ours, c)
	// Each opening leaves a manifest and a fence in the bucket: what fails again
	// and again is tried less often.
	rest, began := d.o.Every, time.Now()
	for ours.Err() == nil {
		err := d.keep(ours, c)
		if ours.Err() != nil {
			why = context.Cause(ours)
			break
		}
		// Fenced by one that claimed before us and was slow to open: our
		// claim rules, so we open again. By one that claimed after us: over.
		if mine, asked := d.rules(ours, c); asked == nil && !mine {
			if why = err; why == nil {
				why = errSucceeded
			}
			break
		}
		d.complain("the catalog cannot be written", err)
		if time.Since(began) > 2*restMost { // it worked for a while
			rest = d.o.Every
		}
		if d.wait(ours, rest, nil) != nil {
			break
		}
		rest, began = min(2*rest, max(restMost, d.o.Every)), time.Now()
	}
	stop(nil)
	<-beating
	if ctx.Err() != nil {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = d.beat(bye, c, 0, true) // without it the next one waits a TTL
	}
	return why
}

// restMost is the longest pause before the catalog is opened again.
const restMost = 2 * time.Minute

var (
	errSucceeded = errors.New("a higher claim rules")
	errNotOurs   = errors.New("the bucket is no longer known to be this region's")
	errSilent    = errors.New("no beat reached the bucket for as long as others wait")
)

// renew beats until it no longer may: a higher claim rules, the bucket is no
// longer known to be ours, or no beat arrived for a TTL.
func (d *Duty) renew(ctx context.Context, c claim) error {
	last := time.Now()
	for n := uint64(1); ; n++ {
		mine, err := d.rules(ctx, c)
		switch {
		case err == nil && !mine:
			return errSucceeded
		case !d.o.Ready():
			return errNotOurs
		}
		if err == nil {
			err = d.beat(ctx, c, n, false)
		}
		if err == nil {
			last = time.Now()
		}
		if time.Since(last) >= d.o.TTL {
			return errSilent
		}
		if err := d.wait(ctx, d.o.TTL/3, nil); err != nil {
			return err
		}
	}
}

// inboxEvery batches' time the inbox is listed unasked.
const inboxEvery = 5

// keep has the catalog open, and folds, until something fails.
func (d *Duty) keep(ctx context.Context, c claim) error {
	d.notes.ask(d.o.Seen != nil)
	defer d.notes.ask(false)
	k, err := open(ctx, d.b, newSeats(d.o.Seen, &d.notes, d.o.Every))
	if err != nil {
		return err
	}
	defer func() {
		d.keeping.Store(false)
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if err := k.w.Close(bye); err != nil {
			k.w.Abandon()
		}
	}()
	// Opening took its time: whoever claimed meanwhile was just fenced by us.
	if mine, err := d.rules(ctx, c); err != nil || !mine {
		return err
	}
	d.keeping.Store(true)
	k.told = d.o.Folded
	k.tell()
	inbox, listed := true, time.Now()
	for {
		more := false
		if inbox {
			listed = time.Now()
			_, more, err = k.fold(ctx, c)
		} else {
			err = k.follow(ctx, c)
		}
		if err != nil {
			return err
		}
		d.said = ""
		if err := d.wait(ctx, d.o.Every, nil); err != nil {
			return err
		}
		if inbox, err = d.rest(ctx, k, more, listed.Add(inboxEvery*d.o.Every)); err != nil {
			return err
		}
	}
}

// rest waits until there is something to do, and reports whether the inbox is
// to be listed.
func (d *Duty) rest(ctx context.Context, k *keeper, more bool, inbox time.Time) (bool, error) {
	after, busy := k.seats.due()
	if more || busy {
		after = 0
	}
	t := time.NewTimer(min(after, time.Until(inbox)))
	defer t.Stop()
	select {
	case <-d.poke:
		more = true
	case <-d.notes.moved:
	case <-t.C:
	case <-ctx.Done():
	}
	return more || !time.Now().Before(inbox), ctx.Err()
}
