package reaction

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Report is what a run came to.
type Report struct {
	Result
	Err  error // [Exit] is none
	Tree *Node // of every step, those that did not run among them
}

// Run runs the step and returns when everything that it started has returned.
// When ctx is done no step is begun any more.
func (s *Step) Run(ctx context.Context) Report {
	r := &run{began: time.Now(), shared: map[*Step]*once{}}
	tree := s.Describe()
	res, err := r.step(ctx, s, tree)
	if exits(err) {
		err = nil
	}
	return Report{res, err, tree}
}

// run is one run of a tree.
type run struct {
	began  time.Time
	mu     sync.Mutex
	shared map[*Step]*once
}

// once is the run of a shared step; res and err are there when done is closed.
type once struct {
	done chan struct{}
	res  Result
	err  error
}

// errGone is what a goroutine comes to that a step ended with runtime.Goexit.
var errGone = errors.New("a step ended its goroutine")

// step runs s and writes into n what came of it.
func (r *run) step(ctx context.Context, s *Step, n *Node) (Result, error) {
	if s == nil {
		n.State = Done
		return Result{}, nil
	}
	n.Began = time.Since(r.began)
	if err := context.Cause(ctx); err != nil {
		n.Error = err.Error() // and it stays NotRun
		return Result{}, err
	}
	res, err := r.run(ctx, s, n)
	n.Took = time.Since(r.began) - n.Began
	n.After = res.After
	switch {
	case n.State == Panicked:
	case exits(err):
		n.State = Exited
	case err != nil:
		n.State = Failed
	case res.Again:
		n.State = Again
	default:
		n.State = Done
	}
	return res, err
}

func (r *run) run(ctx context.Context, s *Step, n *Node) (Result, error) {
	switch s.kind {
	case KindJoin:
		return r.join(ctx, s.of, n.Of)
	case KindOrderedJoin:
		var all joined
		for i, one := range s.of {
			all.add(r.step(ctx, one, n.Of[i]))
		}
		return all.result()
	case KindSequential:
		for i, one := range s.of {
			if res, err := r.step(ctx, one, n.Of[i]); err != nil || res.Again {
				return res, err
			}
		}
		return Result{}, nil
	case KindTimeout:
		return r.timeout(ctx, s, n)
	case KindRetry:
		return r.retry(ctx, s, n)
	case KindParallel:
		return r.join(ctx, s.of, n.Of)
	case KindShared:
		return r.share(ctx, s, n)
	case KindIf:
		return r.branch(ctx, s, n)
	default:
		return do(ctx, s, n)
	}
}

// do runs a step of the caller's.
func do(ctx context.Context, s *Step, n *Node) (Result, error) {
	var res Result
	err := caught(s, n, func() (err error) { res, err = s.act(ctx); return err })
	res.After = max(0, res.After)
	res.Again = res.Again || res.After > 0
	return res, err
}

// caught calls what the caller gave for s, and makes an error of a panic.
func caught(s *Step, n *Node, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err, n.State = &PanicError{v, debug.Stack()}, Panicked
		}
		if err != nil {
			if !exits(err) {
				n.Error = err.Error()
			}
			err = fmt.Errorf("%s: %w", s.what, err)
		}
	}()
	return f()
}

func (r *run) join(ctx context.Context, steps []*Step, nodes []*Node) (Result, error) {
	came := make([]joined, len(steps))
	var wg sync.WaitGroup
	for i, one := range steps {
		came[i].add(Result{}, errGone) // until it has returned
		wg.Go(func() {
			res, err := r.step(ctx, one, nodes[i])
			came[i] = joined{}
			came[i].add(res, err)
		})
	}
	wg.Wait()
	var all joined
	for _, c := range came {
		all.add(c.result())
	}
	return all.result()
}

// joined is what several steps came to.
type joined struct {
	res  Result
	exit error
	errs []error
}

func (j *joined) add(res Result, err error) {
	j.res.Again = j.res.Again || res.Again
	if res.After > 0 && (j.res.After == 0 || res.After < j.res.After) {
		j.res.After = res.After
	}
	switch {
	case err == nil:
	case exits(err):
		j.exit = err
	default:
		j.errs = append(j.errs, err)
	}
}

func (j *joined) result() (Result, error) {
	switch len(j.errs) {
	case 0:
		return j.res, j.exit
	case 1:
		return j.res, j.errs[0]
	}
	return j.res, errors.Join(j.errs...)
}

// exits reports whether an error is [Exit], wrapped or not. One that is joined
// with other errors is not: they count.
func exits(err error) bool {
	for err != nil {
		if err == Exit { //nolint:errorlint // of errors.Join only the joined would be asked
			return true
		}
		err = errors.Unwrap(err)
	}
	return false
}

func (r *run) timeout(ctx context.Context, s *Step, n *Node) (Result, error) {
	ends := time.Now().Add(s.limit)
	ctx, cancel := context.WithDeadlineCause(ctx, ends, fmt.Errorf("not done within %s: %w", s.limit, context.DeadlineExceeded))
	defer cancel()
	res, err := r.step(ctx, s.of[0], n.Of[0])
	n.Late = max(0, time.Since(ends))
	return res, err
}

func (r *run) retry(ctx context.Context, s *Step, n *Node) (Result, error) {
	for {
		n.Tries++
		n.Of[0] = s.of[0].Describe() // of the last try
		res, err := r.step(ctx, s.of[0], n.Of[0])
		var panicked *PanicError
		if err == nil || exits(err) || errors.As(err, &panicked) || n.Tries == s.tries || ctx.Err() != nil {
			return res, err
		}
		pause := time.NewTimer(s.limit)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
		if cause := context.Cause(ctx); cause != nil {
			n.Error = fmt.Sprintf("not tried again: %v", cause)
			return res, errors.Join(err, cause)
		}
	}
}

func (r *run) share(ctx context.Context, s *Step, n *Node) (Result, error) {
	r.mu.Lock()
	o, begun := r.shared[s]
	if !begun {
		o = &once{done: make(chan struct{}), err: errGone}
		r.shared[s] = o
	}
	r.mu.Unlock()
	if begun {
		n.Elsewhere, n.Of = true, nil
		select {
		case <-o.done:
			return o.res, o.err
		case <-ctx.Done():
			n.Error = context.Cause(ctx).Error()
			return Result{}, context.Cause(ctx)
		}
	}
	defer close(o.done)
	o.res, o.err = r.step(ctx, s.of[0], n.Of[0])
	return o.res, o.err
}

func (r *run) branch(ctx context.Context, s *Step, n *Node) (Result, error) {
	var holds bool
	if err := caught(s, n, func() (err error) { holds, err = s.holds(ctx); return err }); err != nil {
		return Result{}, err
	}
	n.Holds = &holds
	taken := 1
	if holds {
		taken = 0
	}
	return r.step(ctx, s.of[taken], n.Of[taken])
}
