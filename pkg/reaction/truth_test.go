package reaction

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What each step must come to, written from the table of what an operator's
// reactions promise, not from the code:
//
//	step          runs                           result
//	join          all, at once                   again: any; after: shortest above 0; nil+err=err; exit+err=err; errors merged
//	ordered-join  all, in turn                   the same
//	sequential    in turn until err or again     that one's
//	timeout       with a deadline, cooperative   its own; nested: the tighter
//	retry         n in all, only on error        the last one's; not on again, not on exit; the pause heeds ctx
//	parallel      in another goroutine           its own; a panic stays in it
//	shared        once, with the first's ctx     the same for everybody
//	if            one of two                     its own
//
// The model below says the same as a function of the time at which a step
// begins and the deadline it has.

// spec is a step of a random tree.
type spec struct {
	kind  Kind
	id    int // of a leaf
	of    []*spec
	takes time.Duration // of a leaf
	heeds bool          // a leaf that returns when its context is done
	comes []word        // what a leaf says: the first time, the second, …; the last for ever
	limit time.Duration
	tries int
	yes   bool

	memo *outcome // of the model: what a shared step came to
}

type word struct {
	again bool
	after time.Duration
	end   string // "", "error", "exit", "panic"
}

type outcome struct {
	again bool
	after time.Duration
	exit  bool
	errs  []string // names of leaves that failed, "ctx" for a deadline; sorted, without doubles
	panic bool
	ends  time.Duration
}

func (o outcome) failed() bool { return len(o.errs) > 0 }

func merge(all []outcome) (out outcome) {
	for _, o := range all {
		out.again = out.again || o.again
		if o.after > 0 && (out.after == 0 || o.after < out.after) {
			out.after = o.after
		}
		out.exit = out.exit || o.exit
		out.panic = out.panic || o.panic
		out.errs = append(out.errs, o.errs...)
		out.ends = max(out.ends, o.ends)
	}
	slices.Sort(out.errs)
	out.errs = slices.Compact(out.errs)
	out.exit = out.exit && !out.failed()
	return out
}

const never = time.Duration(1 << 62)

// model is the table. ran counts how often each leaf was begun.
func model(s *spec, at, deadline time.Duration, ran map[int]int) outcome {
	if at >= deadline {
		return outcome{errs: []string{"ctx"}, ends: at}
	}
	switch s.kind {
	case KindDo:
		w := s.comes[min(ran[s.id], len(s.comes)-1)]
		ran[s.id]++
		if s.heeds && at+s.takes > deadline {
			return outcome{errs: []string{"ctx"}, ends: deadline}
		}
		o := outcome{again: w.again || w.after > 0, after: max(0, w.after), exit: w.end == "exit", panic: w.end == "panic", ends: at + s.takes}
		if w.end == "error" || w.end == "panic" {
			o.errs = []string{fmt.Sprint("leaf", s.id)}
		}
		if w.end == "panic" { // it said nothing else
			o.again, o.after = false, 0
		}
		return o
	case KindJoin:
		all := []outcome{{ends: at}}
		for _, one := range s.of {
			all = append(all, model(one, at, deadline, ran))
		}
		return merge(all)
	case KindOrderedJoin:
		all := []outcome{{ends: at}}
		for _, one := range s.of {
			o := model(one, at, deadline, ran)
			at = o.ends
			all = append(all, o)
		}
		return merge(all)
	case KindSequential:
		for _, one := range s.of {
			o := model(one, at, deadline, ran)
			if at = o.ends; o.failed() || o.exit || o.again {
				return o
			}
		}
		return outcome{ends: at}
	case KindTimeout:
		return model(s.of[0], at, min(deadline, at+s.limit), ran)
	case KindRetry:
		for n := 1; ; n++ {
			o := model(s.of[0], at, deadline, ran)
			if !o.failed() || o.panic || n == s.tries || o.ends >= deadline {
				return o
			}
			if at = o.ends + s.limit; at >= deadline {
				o.errs = slices.Compact(slices.Sorted(slices.Values(append(o.errs, "ctx"))))
				o.ends = deadline
				return o
			}
		}
	case KindShared:
		if s.memo == nil {
			o := model(s.of[0], at, deadline, ran)
			s.memo = &o
			return o
		}
		o := *s.memo
		o.ends = at
		return o
	case KindIf:
		if s.yes {
			return model(s.of[0], at, deadline, ran)
		}
		return model(s.of[1], at, deadline, ran)
	default: // parallel
		return model(s.of[0], at, deadline, ran)
	}
}

// leafError names the leaf that failed.
type leafError int

func (e leafError) Error() string { return fmt.Sprint("leaf", int(e)) }

// real makes the step that a spec describes. Shared ones are made once.
func (s *spec) real(ran map[int]*int, made map[*spec]*Step) *Step {
	if one, ok := made[s]; ok {
		return one
	}
	var of []*Step
	for _, one := range s.of {
		of = append(of, one.real(ran, made))
	}
	what := fmt.Sprint(s.kind, s.id)
	var step *Step
	switch s.kind {
	case KindDo:
		n := new(int) // a leaf stands in one place: its tries are in turn
		ran[s.id] = n
		step = Do(what, func(ctx context.Context) (Result, error) {
			w := s.comes[min(*n, len(s.comes)-1)]
			*n++
			wait := time.NewTimer(s.takes)
			defer wait.Stop()
			if s.heeds {
				select {
				case <-wait.C:
				case <-ctx.Done():
					return Result{}, ctx.Err()
				}
			} else {
				<-wait.C
			}
			res := Result{w.again, w.after}
			switch w.end {
			case "error":
				return res, fmt.Errorf("wrapped: %w", leafError(s.id))
			case "exit":
				return res, fmt.Errorf("wrapped: %w", Exit)
			case "panic":
				panic(leafError(s.id))
			}
			return res, nil
		})
	case KindJoin:
		step = Join(what, of...)
	case KindOrderedJoin:
		step = OrderedJoin(what, of...)
	case KindSequential:
		step = Sequential(what, of...)
	case KindTimeout:
		step = Timeout(s.limit, of[0])
	case KindRetry:
		step = Retry(s.tries, s.limit, of[0])
	case KindParallel:
		step = Parallel(of[0])
	case KindShared:
		step = Shared(of[0])
	case KindIf:
		step = If(what, func(context.Context) (bool, error) { return s.yes, nil }, of[0], of[1])
	}
	made[s] = step
	return step
}

// randomTree makes a spec. shared are the shared steps so far that may stand
// here too: below a join there are none, for who comes first there is chance.
func randomTree(rng *rand.Rand, depth int, ids *int, shared *[]*spec) *spec {
	*ids++
	s := &spec{id: *ids, kind: KindDo, takes: time.Duration(1 + rng.Int64N(1e9)), heeds: rng.IntN(2) == 0}
	kinds := []Kind{KindDo, KindJoin, KindJoin, KindOrderedJoin, KindOrderedJoin, KindSequential, KindSequential, KindSequential, KindTimeout, KindTimeout, KindRetry, KindRetry, KindParallel, KindShared, KindIf}
	if depth > 0 {
		s.kind = kinds[rng.IntN(len(kinds))]
	}
	below := func(n int) {
		inside := shared
		if s.kind == KindJoin {
			inside = nil
		}
		for range n {
			s.of = append(s.of, randomTree(rng, depth-1, ids, inside))
		}
	}
	switch s.kind {
	case KindDo:
		for range 1 + rng.IntN(3) {
			w := word{again: rng.IntN(8) == 0, end: []string{"", "", "", "", "error", "error", "exit", "panic"}[rng.IntN(8)]}
			if rng.IntN(6) == 0 {
				w.after = time.Duration(rng.IntN(5)-1) * time.Second
			}
			s.comes = append(s.comes, w)
		}
	case KindJoin, KindOrderedJoin, KindSequential:
		below(rng.IntN(5))
	case KindTimeout:
		s.limit = time.Duration(1 + rng.Int64N(2e9))
		below(1)
	case KindRetry:
		s.tries, s.limit = 1+rng.IntN(4), time.Duration(rng.Int64N(1e9))
		below(1)
	case KindParallel:
		below(1)
	case KindShared:
		if shared != nil && len(*shared) > 0 && rng.IntN(2) == 0 {
			return (*shared)[rng.IntN(len(*shared))]
		}
		below(1)
		if shared != nil {
			*shared = append(*shared, s)
		}
	case KindIf:
		s.yes = rng.IntN(2) == 0
		below(2)
	}
	return s
}

func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano()) & 0xffffffff
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d", seed)
	return seed
}

// leavesOf are the leaves that an error names, and "ctx".
func leavesOf(err error) []string {
	var out []string
	switch e := err.(type) {
	case nil:
	case leafError:
		out = append(out, e.Error())
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			out = append(out, leavesOf(one)...)
		}
	default:
		if err == context.DeadlineExceeded {
			return []string{"ctx"}
		}
		out = leavesOf(errors.Unwrap(err))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// RW-2: on random trees the steps do what the table says: what ran how often,
// what came of it, and when it was over.
func TestRW2_RandomTreesDoWhatTheTableSays(t *testing.T) {
	trees := 20_000
	if testing.Short() {
		trees = 2000
	}
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 2))
	seen := map[string]int{}
	for n := range trees {
		ids := 0
		s := randomTree(rng, 1+rng.IntN(4), &ids, &[]*spec{})
		ran := map[int]int{}
		want := model(s, 0, never, ran)
		synctest.Test(t, func(t *testing.T) {
			counts := map[int]*int{}
			step := s.real(counts, map[*spec]*Step{})
			began := time.Now()
			got := step.Run(t.Context())
			took := time.Since(began)
			fail := func(format string, args ...any) {
				t.Fatalf("seed %d, tree %d: %s\n%s", seed, n, fmt.Sprintf(format, args...), got.Tree)
			}
			if got.Again != want.again || got.After != want.after {
				fail("%+v, the table says %+v", got.Result, want)
			}
			if errs := leavesOf(got.Err); !slices.Equal(errs, want.errs) {
				fail("failed %v (%v), the table says %v", errs, got.Err, want.errs)
			}
			if took != want.ends {
				fail("took %s, the table says %s", took, want.ends)
			}
			for id, times := range counts {
				if *times != ran[id] {
					fail("leaf%d ran %d times, the table says %d", id, *times, ran[id])
				}
			}
			if want.panic != errors.As(got.Err, new(*PanicError)) {
				fail("panic: %v, the table says %v", got.Err, want.panic)
			}
			if got.Tree.Took != took || (got.Tree.State == Failed || got.Tree.State == Panicked) != want.failed() || (got.Tree.State == Exited) != want.exit {
				fail("the tree does not agree with the run")
			}
			if strings.Count(got.Tree.String(), "\n") < 1 {
				fail("it cannot be printed")
			}
		})
		seen[string(s.kind)]++
		seen[fmt.Sprintf("exit=%t failed=%t again=%t", want.exit, want.failed(), want.again)]++
	}
	t.Log(seen)
}
