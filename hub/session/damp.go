package session

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// damper keeps an agent that comes and goes, again and again, from making the
// hub work for each time: some times it is let in at once, then it waits for
// its turn. Nobody else waits for it. An agent whose link breaks every few
// seconds is not one of these.
type damper struct {
	every time.Duration // a session each, in the long run; not positive: no damping
	log   *slog.Logger

	mu    sync.Mutex
	flaps map[string]*flap
}

// flap is how often one agent came.
type flap struct {
	// spare are the sessions it may still open at once, as of at.
	spare   float64
	at      time.Time
	waiting chan struct{} // closed when a newer stream takes this one's place; nil: none waits
	said    bool
}

// sparing is how many sessions an agent may open at once after a quiet time.
const sparing = 10

var errFlapped = errors.New("the same agent has opened a newer stream while this one waited: it connects too often")

// admit returns nil when the agent may open a session; it waits for that. Of
// streams of the same agent that wait the newest stays.
func (d *damper) admit(ctx context.Context, agent string) error {
	if d.every <= 0 {
		return nil
	}
	for {
		wait, displaced := d.ask(agent, time.Now())
		if wait <= 0 {
			return nil
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			// Asked anew: another may have been quicker.
			d.leave(agent, displaced)
		case <-displaced:
			t.Stop()
			return errFlapped
		case <-ctx.Done():
			t.Stop()
			d.leave(agent, displaced)
			return context.Cause(ctx)
		}
	}
}

// ask takes a turn, or says how long until there is one.
func (d *damper) ask(agent string, now time.Time) (wait time.Duration, displaced chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.flaps[agent]
	if f == nil {
		d.forget(now)
		f = &flap{spare: sparing, at: now}
		d.flaps[agent] = f
	}
	f.spare = min(f.spare+float64(now.Sub(f.at))/float64(d.every), sparing)
	f.at = now
	if f.spare >= sparing/2 {
		f.said = false
	}
	if f.spare >= 1 {
		f.spare--
		return 0, nil
	}
	if !f.said {
		f.said = true
		name := strings.Split(agent, "\x00")
		d.log.Warn("an agent connects too often and has to wait", "region", name[0], "cluster", name[1], "agent", name[2], "every", d.every)
	}
	if f.waiting != nil {
		close(f.waiting)
	}
	f.waiting = make(chan struct{})
	return time.Duration((1-f.spare)*float64(d.every)) + time.Millisecond, f.waiting
}

// leave is for a stream that waits no more.
func (d *damper) leave(agent string, place chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.flaps[agent]; f != nil && f.waiting == place {
		f.waiting = nil
	}
}

// forget drops whoever was quiet for long, now and then.
func (d *damper) forget(now time.Time) {
	if len(d.flaps)%1024 != 1023 {
		return
	}
	for a, f := range d.flaps {
		if f.waiting == nil && now.Sub(f.at) > sparing*d.every {
			delete(d.flaps, a)
		}
	}
}
