package load

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// Plan is a whole run: a fleet, its agents, and changes at a rate.
type Plan struct {
	Fleet    Options
	Link     Link
	Rate     float64       // changes a second, over all regions; 0: none
	Duration time.Duration // of the changes; 0: until ctx ends
	// LoadWithin is how long the hub may take to acknowledge what exists, 10
	// minutes when zero; DrainWithin the same for the last changes, 30 s.
	LoadWithin, DrainWithin time.Duration
	// Progress, when not nil, is called a few times a second, by one goroutine.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Phase    string // connect, load, change, drain
	Facts    int    // that exist
	Behind   int    // not acknowledged yet
	Sent     uint64
	P99      time.Duration
	Elapsed  time.Duration // of the phase
	Duration time.Duration // of the phase; 0: open
}

// Summary is what a run did.
type Summary struct {
	Hub        string            `json:"hub"`
	Regions    []string          `json:"regions"`
	Slates     int               `json:"slates_per_region"`
	Agents     int               `json:"agents"`
	Seed       uint64            `json:"seed"`
	Epoch      uint64            `json:"epoch"`
	Rate       float64           `json:"rate"`
	Ended      string            `json:"ended"` // duration, interrupted, not-loaded, not-drained
	Load       Loaded            `json:"load"`
	Changes    map[string]uint64 `json:"changes"`     // by mix
	FactsSent  uint64            `json:"facts_sent"`  // changes set
	FactsAcked uint64            `json:"facts_acked"` // of these
	Seconds    float64           `json:"seconds"`     // of the changes, without drain
	PerSecond  float64           `json:"sent_per_second"`
	Ack        Latency           `json:"set_to_ack"`
	Reconnects int64             `json:"reconnects"`
	Bytes      Traffic           `json:"traffic"`
	Snapshots  int               `json:"snapshots_again"` // reports of everything beyond each agent's first
	Refused    int               `json:"facts_quarantined"`
	CPU        float64           `json:"cpu_seconds"` // of this process
}

// Loaded is the first report of everything.
type Loaded struct {
	Facts   int     `json:"facts"`
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"`
}

// Latency in milliseconds, from set at the agent to acknowledged there.
type Latency struct {
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	Max        float64 `json:"max_ms"`
	Samples    uint64  `json:"samples"`
	Resolution float64 `json:"resolution_ms"`
}

// Run carries out a plan. It ends early, without an error, when ctx ends. The
// error wraps [ErrRefused] when the hub refuses a region, and
// context.DeadlineExceeded when it does not take in what exists in time; the
// summary says what was done until then.
func Run(ctx context.Context, p Plan) (Summary, error) {
	if p.LoadWithin <= 0 {
		p.LoadWithin = 10 * time.Minute
	}
	if p.DrainWithin <= 0 {
		p.DrainWithin = 30 * time.Second
	}
	sum := Summary{
		Hub: p.Link.Hub, Regions: p.Fleet.Regions, Slates: p.Fleet.Slates, Agents: len(p.Fleet.Regions) * max(1, p.Link.PerOne),
		Seed: p.Fleet.Seed, Epoch: p.Fleet.Epoch, Rate: p.Rate, Ended: "duration", Changes: map[string]uint64{},
	}
	fleet, err := New(p.Fleet)
	if err != nil {
		return sum, err
	}
	agents, err := NewAgents(fleet, p.Link)
	if err != nil {
		return sum, err
	}
	linked, cut := context.WithCancel(context.WithoutCancel(ctx))
	down := make(chan error, 1)
	go func() { down <- agents.Run(linked) }()

	err = p.drive(ctx, fleet, agents, &sum)

	cut()
	err = errors.Join(err, <-down)
	t := agents.Traffic()
	sum.Bytes, sum.Reconnects = t, max(0, t.Dials-int64(sum.Agents))
	sum.FactsAcked = min(agents.Acked(), sum.FactsSent)
	var disagree int
	sum.Refused, sum.Snapshots, disagree = agents.Trouble()
	if disagree > 0 {
		err = errors.Join(err, fmt.Errorf("%d agents number their facts otherwise than the load tool: its times of acknowledgement mean nothing", disagree))
	}
	l := agents.Latency()
	sum.Ack = Latency{ms(l.Quantile(.5)), ms(l.Quantile(.99)), ms(l.Max()), l.Count(), ms(resolution)}
	sum.CPU = cpuSeconds()
	return sum, err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// drive loads, changes and drains.
func (p *Plan) drive(ctx context.Context, fleet *Fleet, agents *Agents, sum *Summary) error {
	for ag := range agents.each {
		sum.Load.Facts += int(ag.base)
	}
	sum.Load.Facts /= max(1, p.Link.PerOne)
	tell := func(phase string, began time.Time, of time.Duration) {
		if p.Progress != nil {
			l := agents.Latency()
			p.Progress(Progress{Phase: phase, Facts: sum.Load.Facts, Behind: agents.Behind(), Sent: sum.FactsSent, P99: l.Quantile(.99), Elapsed: time.Since(began), Duration: of})
		}
	}
	began := time.Now()
	err := p.await(ctx, agents, p.LoadWithin, func() { tell("load", began, 0) })
	sum.Load.Seconds, sum.Load.Bytes = time.Since(began).Seconds(), agents.Traffic().Sent
	if err != nil {
		if ctx.Err() != nil {
			sum.Ended = "interrupted"
			return nil
		}
		sum.Ended = "not-loaded"
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("the hub has not taken in %d of %d facts after %s: %w", agents.Behind(), sum.Load.Facts, p.LoadWithin, err)
		}
		return err
	}

	began = time.Now()
	limited := ctx
	if p.Duration > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, p.Duration)
		defer cancel()
	}
	// In steps of five milliseconds, so that waiting costs little at any rate.
	step := max(1, int(p.Rate/200))
	pace := rate.NewLimiter(rate.Limit(p.Rate), step)
	told := began
	for limited.Err() == nil {
		if p.Rate <= 0 {
			select {
			case <-limited.Done():
			case <-time.After(progressEvery):
			}
		} else {
			// The limiter refuses at once what would be due after the deadline.
			if err := pace.WaitN(limited, step); err != nil {
				<-limited.Done()
				break
			}
			for range step {
				c := fleet.Next()
				agents.Set(c)
				sum.Changes[c.Mix.String()]++
				sum.FactsSent++
			}
		}
		if time.Since(told) >= progressEvery {
			told = time.Now()
			tell("change", began, p.Duration)
		}
	}
	sum.Seconds = time.Since(began).Seconds()
	sum.PerSecond = float64(sum.FactsSent) / sum.Seconds

	// The last changes are waited for, also after an interrupt: shortly then.
	within := p.DrainWithin
	if ctx.Err() != nil {
		sum.Ended = "interrupted"
		within = min(within, 2*time.Second)
	}
	began = time.Now()
	err = p.await(context.WithoutCancel(ctx), agents, within, func() { tell("drain", began, within) })
	if err != nil && sum.Ended != "interrupted" {
		sum.Ended = "not-drained"
		return fmt.Errorf("the hub has not acknowledged the last %d changes within %s: %w", agents.Behind(), within, err)
	}
	return nil
}

const progressEvery = 250 * time.Millisecond

func (p *Plan) await(ctx context.Context, agents *Agents, within time.Duration, tell func()) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- agents.Await(ctx) }()
	t := time.NewTicker(progressEvery)
	defer t.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-t.C:
			tell()
		}
	}
}
