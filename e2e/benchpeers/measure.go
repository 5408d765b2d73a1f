package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/quarry-db/quarry/e2e/load"
)

// system is one of those that do the same work.
type system interface {
	name() string
	what() string // in one line: version, and how it is used
	// load brings in what a fleet is at the beginning.
	load(ctx context.Context, f *load.Fleet) error
	// apply returns when every step is applied and visible to queries. durable
	// asks for synchronous commits where a system has the choice.
	apply(ctx context.Context, steps []step, durable bool) error
	// ask returns errCannot for what the system has no way to answer.
	ask(ctx context.Context, q *query) (answer, error)
	forget() // what was remembered of rows that have moved since
	memory(ctx context.Context) (bytes int64, what string, err error)
	pids() []int // of its servers; the client is this process
	close()
}

var errCannot = errors.New("it cannot answer this")

// step is one change, and the row as it is after it.
type step struct {
	change load.Change
	row    load.Row
}

// kind of work: which changes, and how durable.
type work struct {
	name    string
	next    func(*load.Fleet) load.Change
	durable bool
}

var works = []work{
	{"mix", (*load.Fleet).Next, false},
	{"positions", (*load.Fleet).NextMoved, false},
	{"manifests", (*load.Fleet).NextTaken, false},
	{"mix, durable", (*load.Fleet).Next, true},
}

// contender is a system and its own copy of the fleet: the same seed and the
// same calls keep all copies alike.
type contender struct {
	system
	fleet   *load.Fleet
	queries []*query
	steps   int // for each round
	mixed   int // changes of the mix poured in while queries ran
	res     *Result
}

// Result is what was measured of one system.
type Result struct {
	Name, What  string
	Rows        int
	LoadSeconds float64
	LoadCPU     float64 `json:"LoadCPUSeconds"`
	Bytes       int64   // memory or disk, as BytesOf says
	BytesOf     string
	ResidentKB  int64
	Restart     float64 `json:"RestartSeconds,omitempty"`
	Updates     map[string]*Samples
	Queries     map[string]*QueryResult
	Differences []string  // answers that are not those of the plain scan
	Poured      []float64 // updates a second while it was asked
}

// Samples are the rounds of one kind of update.
type Samples struct {
	CPU    []float64 // µs an update until it is visible, all processes
	After  []float64 // µs an update that the servers spend afterwards
	Rate   []float64 // updates a second by the clock
	Waited []float64 // time waiting for a core as a share of time on one
}

// QueryResult is one query of one system, a value for each round.
type QueryResult struct {
	Hash             string    // of the last answer
	P50, P99         []float64 // ms, nothing else going on
	CPU              []float64 // ms a query, all processes
	BusyP50, BusyP99 []float64 // ms, while updates pour in
	Waited           []float64
	N, BusyN         int
}

func (c *contender) everybody() []int { return append([]int{os.Getpid()}, c.pids()...) }

// make makes the next changes of a kind, outside of what is measured.
func (c *contender) make(n int, next func(*load.Fleet) load.Change) []step {
	steps := make([]step, n)
	for i := range steps {
		ch := next(c.fleet)
		steps[i] = step{ch, c.fleet.Row(ch.Region, ch.Slate)}
	}
	return steps
}

func (c *contender) measureLoad(ctx context.Context) error {
	before, began := spentBy(c.everybody()), time.Now()
	if err := c.load(ctx, c.fleet); err != nil {
		return fmt.Errorf("%s: load: %w", c.name(), err)
	}
	c.res.LoadSeconds = time.Since(began).Seconds()
	c.res.LoadCPU = spentBy(c.everybody()).minus(before).run.Seconds()
	c.res.Rows = c.fleet.Size()
	return nil
}

// measureUpdates is one round of one kind of work.
func (c *contender) measureUpdates(ctx context.Context, w work) error {
	steps := c.make(c.steps, w.next)
	runtime.GC() // what making them left behind is not the client's
	before, began := spentBy(c.everybody()), time.Now()
	if err := c.apply(ctx, steps, w.durable); err != nil {
		return fmt.Errorf("%s: %s: %w", c.name(), w.name, err)
	}
	took := time.Since(began)
	used := spentBy(c.everybody()).minus(before)
	after := spentBy(c.pids())
	quiet(ctx, c.pids(), 1500*time.Millisecond)
	rest := spentBy(c.pids()).minus(after)
	s := c.res.Updates[w.name]
	if s == nil {
		s = &Samples{}
		c.res.Updates[w.name] = s
	}
	n := float64(len(steps))
	s.CPU = append(s.CPU, float64(used.run.Microseconds())/n)
	s.After = append(s.After, float64(rest.run.Microseconds())/n)
	s.Rate = append(s.Rate, n/took.Seconds())
	s.Waited = append(s.Waited, used.wait.Seconds()/max(used.run.Seconds(), 1e-9))
	return nil
}

// check asks everything and compares with the plain scan.
func (c *contender) check(ctx context.Context, when string) error {
	c.forget()
	answers := scanAll(c.fleet.Rows(), c.queries)
	for k, q := range c.queries {
		var got answer
		var err error
		want := answers[k].hash(q)
		// What was acknowledged is visible; a region that has just spoken after a
		// silence may be a moment behind.
		for range 20 {
			if got, err = c.ask(ctx, q); err != nil || got.hash(q) == want {
				break
			}
			c.forget()
			time.Sleep(250 * time.Millisecond)
		}
		if errors.Is(err, errCannot) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.name(), q.name, err)
		}
		if got.hash(q) != want {
			c.res.Differences = append(c.res.Differences, fmt.Sprintf("%s, %s: %d lines, %s", when, q.name, len(got), firstDifference(got, answers[k], q)))
		}
		c.query(q).Hash = got.hash(q)
	}
	return nil
}

func firstDifference(got, want answer, q *query) string {
	if q.by != "" {
		slices.Sort(got)
		slices.Sort(want)
	}
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			return fmt.Sprintf("line %d is %s, want %s", i+1, g, w)
		}
	}
	return "no difference"
}

func (c *contender) query(q *query) *QueryResult {
	r := c.res.Queries[q.name]
	if r == nil {
		r = &QueryResult{}
		c.res.Queries[q.name] = r
	}
	return r
}

// repeat asks for a time or so many times, and at least three times.
func (c *contender) repeat(ctx context.Context, q *query, most int, within time.Duration) (h load.Histogram, err error) {
	for began := time.Now(); h.Count() < 3 || int(h.Count()) < most && time.Since(began) < within; {
		at := time.Now()
		if _, err := c.ask(ctx, q); err != nil {
			return h, err
		}
		h.Add(time.Since(at))
	}
	return h, nil
}

const (
	mostAsked = 2000
	warmUp    = 5
)

// measureQueries asks each query alone, with nothing else going on.
func (c *contender) measureQueries(ctx context.Context, within time.Duration) error {
	c.forget()
	for _, q := range c.queries {
		if _, err := c.repeat(ctx, q, warmUp, within/4); errors.Is(err, errCannot) {
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %s: %w", c.name(), q.name, err)
		}
		before := spentBy(c.everybody())
		h, err := c.repeat(ctx, q, mostAsked, within)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.name(), q.name, err)
		}
		used := spentBy(c.everybody()).minus(before)
		r := c.query(q)
		r.P50, r.P99 = append(r.P50, millis(h.Quantile(.5))), append(r.P99, millis(h.Quantile(.99)))
		r.CPU = append(r.CPU, used.run.Seconds()*1000/float64(h.Count()))
		r.Waited = append(r.Waited, used.wait.Seconds()/max(used.run.Seconds(), 1e-9))
		r.N += int(h.Count())
	}
	return nil
}

func millis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// measureBusy asks each query while updates pour in at a rate, or as fast as
// the system takes them if that is slower.
func (c *contender) measureBusy(ctx context.Context, rate float64, within time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.forget()
	var applied atomic.Int64
	done := make(chan error, 1)
	end := make(chan struct{})
	go func() {
		// Batches of a twentieth of a second; a system that is slower is never
		// left with more than one of them.
		n := max(1, min(1000, int(rate/20)))
		every := time.Duration(float64(n) / rate * float64(time.Second))
		next := time.Now()
		for {
			select {
			case <-end:
				done <- nil
				return
			case <-time.After(time.Until(next)):
			}
			next = next.Add(every)
			if behind := time.Since(next); behind > every {
				next = time.Now()
			}
			if err := c.apply(ctx, c.make(n, (*load.Fleet).Next), false); err != nil {
				done <- err
				return
			}
			applied.Add(int64(n))
		}
	}()
	began := time.Now()
	var failed error
	for _, q := range c.queries {
		h, err := c.repeat(ctx, q, mostAsked, within)
		if errors.Is(err, errCannot) {
			continue
		}
		if err != nil {
			failed = fmt.Errorf("%s: %s under load: %w", c.name(), q.name, err)
			break
		}
		r := c.query(q)
		r.BusyP50, r.BusyP99 = append(r.BusyP50, millis(h.Quantile(.5))), append(r.BusyP99, millis(h.Quantile(.99)))
		r.BusyN += int(h.Count())
	}
	close(end)
	err := errors.Join(failed, <-done)
	c.mixed += int(applied.Load())
	c.res.Poured = append(c.res.Poured, float64(applied.Load())/time.Since(began).Seconds())
	return err
}

// catchUp gives a system the changes that others had more of.
func (c *contender) catchUp(ctx context.Context, mixed int) error {
	for c.mixed < mixed {
		n := min(10_000, mixed-c.mixed)
		if err := c.apply(ctx, c.make(n, (*load.Fleet).Next), false); err != nil {
			return err
		}
		c.mixed += n
	}
	return nil
}

// pull gives a fleet's rows one after the other.
func pull(f *load.Fleet) (next func() (load.Row, bool), stop func()) { return iter.Pull(f.Rows()) }

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// heapNow is what this process holds after a collection.
func heapNow() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
