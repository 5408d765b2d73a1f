package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/agent/report"
)

// Link says how a fleet's agents reach their hub. Hub and Start are needed.
type Link struct {
	Hub string // host:port
	// Start is every agent's start in unix milliseconds; a later run of the
	// same regions has a higher one.
	Start   uint64
	PerOne  int         // agents of one region, each in a cluster of its own; 1 when zero
	TLS     *tls.Config // nil: plaintext, loopback only
	Version string
	Seed    uint64
	Log     *slog.Logger
	// Dial replaces the TCP dialer, for links that break.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// ErrRefused is wrapped when the hub refuses an agent.
var ErrRefused = errors.New("the hub refuses")

// Agents are the agents of a fleet: the real link, and no bucket behind it.
// All of a region's agents know the same; the hub chooses who reports.
type Agents struct {
	fleet *Fleet
	of    [][]*agent // by region

	sent, received, dials atomic.Int64

	mu      sync.Mutex
	latency Histogram
}

type agent struct {
	region string
	report *report.Report
	number uint64 // of the newest fact set: the report numbers them alike
	base   uint64 // number of the last fact of the first report of everything

	mu      sync.Mutex
	waiting []sample // set, not known to have been acknowledged; bounded
	acked   uint64
	role    report.Role
}

type sample struct {
	number uint64
	at     time.Time
}

// maxWaiting bounds the samples of one agent: beyond it changes are not timed.
const maxWaiting = 4096

// NewAgents makes the agents and gives them all that exists. It connects to
// nothing.
func NewAgents(f *Fleet, l Link) (*Agents, error) {
	host, _, err := net.SplitHostPort(l.Hub)
	if err != nil {
		return nil, fmt.Errorf("Hub %q: %w; write host:port, such as 127.0.0.1:7701", l.Hub, err)
	}
	if ip := net.ParseIP(host); l.TLS == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("Hub %q: load goes to loopback addresses only, such as 127.0.0.1:7701", l.Hub)
	}
	a := &Agents{fleet: f}
	dial := l.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	for r, region := range f.Regions() {
		var of []*agent
		for k := range max(1, l.PerOne) {
			rep, err := report.New(report.Options{
				Region: region, Cluster: fmt.Sprintf("%s-%d", region, k+1), Agent: fmt.Sprintf("loadgen-%s-%d", region, k+1), Version: l.Version,
				Bucket: "none (loadgen)", Hub: l.Hub, Start: l.Start, StartedAt: time.UnixMilli(int64(l.Start)), TLS: l.TLS, Log: l.Log,
				Seed: mix(l.Seed^uint64(r)<<32^uint64(k)) | 1, RefusedEvery: 5 * time.Second,
				Dial: func(ctx context.Context, addr string) (net.Conn, error) {
					c, err := dial(ctx, addr)
					if err != nil {
						return nil, err
					}
					a.dials.Add(1)
					return &counted{c, a}, nil
				},
			})
			if err != nil {
				return nil, err
			}
			rep.SetHealth(report.Health{ReadOK: true, BucketID: BucketID(region)})
			of = append(of, &agent{region: region, report: rep})
		}
		for fact := range f.Facts(r) {
			for _, ag := range of {
				ag.report.Set(fact)
				ag.number++
			}
		}
		for _, ag := range of {
			ag.base = ag.number
			ag.report.Ready()
		}
		a.of = append(a.of, of)
	}
	return a, nil
}

// counted counts the bytes of all connections.
type counted struct {
	net.Conn
	a *Agents
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.a.received.Add(int64(n))
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.a.sent.Add(int64(n))
	return n, err
}

// Run keeps all links up until ctx ends, then returns nil.
func (a *Agents) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	n := 0
	for ag := range a.each {
		g.Go(func() error { return ag.report.Run(ctx) })
		n++
	}
	g.Go(func() error {
		// Looking costs a few microseconds each, and must not be what is measured.
		every := max(resolution, time.Duration(n)*20*time.Microsecond)
		t := time.NewTicker(every)
		defer t.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
				for ag := range a.each {
					a.look(ag, n%50 == 0)
				}
			}
		}
	})
	return g.Wait()
}

// resolution of the times from set to acknowledged.
const resolution = 2 * time.Millisecond

func (a *Agents) each(yield func(*agent) bool) {
	for _, of := range a.of {
		for _, ag := range of {
			if !yield(ag) {
				return
			}
		}
	}
}

// look takes note of what the hub acknowledged to one agent. Asking a report
// how it stands costs by what it has not acknowledged: agents that stand by,
// or are not through with the first report, are only looked at now and then.
func (a *Agents) look(ag *agent, thoroughly bool) {
	ag.mu.Lock()
	idle := ag.acked == ag.number || !thoroughly && (ag.role == report.RoleStandby || ag.acked < ag.base)
	ag.mu.Unlock()
	if idle {
		return
	}
	s := ag.report.Status()
	now := time.Now()
	ag.mu.Lock()
	defer ag.mu.Unlock()
	ag.acked, ag.role = s.Acked.Counter, s.Role
	done := 0
	for done < len(ag.waiting) && ag.waiting[done].number <= ag.acked {
		done++
	}
	if done == 0 {
		return
	}
	a.mu.Lock()
	for _, w := range ag.waiting[:done] {
		a.latency.Add(now.Sub(w.at))
	}
	a.mu.Unlock()
	ag.waiting = append(ag.waiting[:0], ag.waiting[done:]...)
}

// Set tells a change to the agents of its region. One goroutine may call it.
func (a *Agents) Set(c Change) {
	now := time.Now()
	for _, ag := range a.of[c.Region] {
		ag.report.Set(c.Fact)
		ag.mu.Lock()
		ag.number++
		if ag.role == report.RoleReporter && len(ag.waiting) < maxWaiting {
			ag.waiting = append(ag.waiting, sample{ag.number, now})
		}
		ag.mu.Unlock()
	}
}

// Behind is how many facts the hub has not acknowledged yet, over all regions,
// of those that their best agent holds.
func (a *Agents) Behind() (n int) {
	for _, of := range a.of {
		best := -1
		for _, ag := range of {
			ag.mu.Lock()
			if b := int(ag.number - min(ag.acked, ag.number)); best < 0 || b < best {
				best = b
			}
			ag.mu.Unlock()
		}
		n += best
	}
	return n
}

// Await waits until the hub has acknowledged everything. It returns an error
// that wraps [ErrRefused] when the hub refuses all agents of a region.
func (a *Agents) Await(ctx context.Context) error {
	for n := 0; ; n++ {
		if a.Behind() == 0 {
			return nil
		}
		if n%50 == 49 {
			if err := a.refused(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (a *Agents) refused() error {
	for r, of := range a.of {
		why, n := "", 0
		for _, ag := range of {
			if s := ag.report.Status(); s.Refused != "" {
				why = s.Refused
				n++
			}
		}
		if n == len(of) {
			return fmt.Errorf("%w the agents of region %s: %s", ErrRefused, a.fleet.Regions()[r], why)
		}
	}
	return nil
}

// Traffic is what went over the links since the beginning, as the agents
// count it: TLS included, TCP and IP not.
type Traffic struct {
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
	Dials    int64 `json:"dials"`
}

// Traffic may be called by anybody at any time.
func (a *Agents) Traffic() Traffic {
	return Traffic{Sent: a.sent.Load(), Received: a.received.Load(), Dials: a.dials.Load()}
}

// Latency is the time from Set to the acknowledgement, of the changes so far.
// It is known to a few milliseconds.
func (a *Agents) Latency() Histogram {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.latency
}

// Acked is how many of the facts set after the first report of everything the
// hub has acknowledged. A fact that a newer one overtook on its way counts.
func (a *Agents) Acked() (n uint64) {
	for _, of := range a.of {
		best := uint64(0)
		for _, ag := range of {
			ag.mu.Lock()
			best = max(best, ag.acked-min(ag.base, ag.acked))
			ag.mu.Unlock()
		}
		n += best
	}
	return n
}

// Trouble counts what went wrong: facts that did not travel, reports of
// everything beyond the first, and agents whose numbers do not agree with
// ours, which must be none.
func (a *Agents) Trouble() (quarantined, snapshots, disagree int) {
	for ag := range a.each {
		s := ag.report.Status()
		quarantined += len(s.Quarantined)
		snapshots += max(0, s.Snapshots-1)
		ag.mu.Lock()
		if s.Head.Counter != ag.number {
			disagree++
		}
		ag.mu.Unlock()
	}
	return quarantined, snapshots, disagree
}
