package reaction

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errBroken = errors.New("broken")

// takes is a step that takes some time, whatever its context says, and then
// says this.
func takes(what string, d time.Duration, res Result, err error) *Step {
	return Do(what, func(context.Context) (Result, error) { time.Sleep(d); return res, err })
}

// heeds is a step that would take some time and returns when its context is
// done.
func heeds(what string, d time.Duration) *Step {
	return Do(what, func(ctx context.Context) (Result, error) {
		select {
		case <-time.After(d):
			return Result{}, nil
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
	})
}

func is(what string, yes bool) func(context.Context) (bool, error) {
	return func(context.Context) (bool, error) { return yes, nil }
}

var nothing, again = Result{}, Result{Again: true}

func in(d time.Duration) Result { return Result{Again: true, After: d} }

// RW-1: what each step does, row by row, with the traps of those we learn from.
func TestRW1_WhatEachStepDoes(t *testing.T) {
	const s = time.Second
	ok := takes("ok", s, nothing, nil)
	broken := takes("broken", 2*s, nothing, errBroken)
	later := takes("later", 3*s, in(time.Minute), nil)
	exit := takes("exit", s, nothing, Exit)
	for _, c := range []struct {
		story string
		step  *Step
		want  Report
		took  time.Duration
		tree  string // what it must say, in short
	}{
		{"nothing to do is done", nil, Report{}, 0, "done"},
		{"nor is an empty join hard", Join("all"), Report{}, 0, "done"},
		{"a join is over when the last is", Join("all", ok, broken, later), Report{Result: in(time.Minute), Err: errBroken}, 3 * s, "all (all at once): failed, 3s"},
		{"in turn, failures stop nothing", OrderedJoin("all", broken, ok, later), Report{Result: in(time.Minute), Err: errBroken}, 6 * s, "all (all in turn): failed, 6s"},
		{"a failure ends a sequence", Sequential("first", ok, broken, later), Report{Err: errBroken}, 3 * s, "later: not run"},
		{"so does being asked to come again", Sequential("first", later, ok, broken), Report{Result: in(time.Minute)}, 3 * s, "ok: not run"},
		{"and exit, which is no failure", Sequential("first", exit, broken), Report{}, s, "first (in turn until one fails): nothing is left to do, 1s"},
		{"exit gives way to an error", Join("all", exit, broken), Report{Err: errBroken}, 2 * s, "failed"},
		{"the shortest delay wins over none", Join("all", takes("a", 0, again, nil), takes("b", 0, in(5*s), nil), takes("c", 0, in(3*s), nil)), Report{Result: in(3 * s)}, 0, "all (all at once): again in 3s"},
		{"less than no delay is none", takes("a", 0, Result{After: -s}, nil), Report{}, 0, "a: done"},
		{"a delay asks to come again", takes("a", 0, Result{After: s}, nil), Report{Result: in(s)}, 0, "a: again in 1s"},
		{"who heeds its context is on time", Timeout(2*s, heeds("slow", time.Hour)), Report{Err: context.DeadlineExceeded}, 2 * s, "within 2s: failed, 2s\n└─ slow: failed, 2s: context deadline exceeded"},
		{"who does not is waited for, and it is told", Timeout(s, broken), Report{Err: errBroken}, 2 * s, "within 1s: failed, 2s, 1s late"},
		{"the tighter of two times counts", Timeout(time.Hour, Timeout(s, Timeout(time.Minute, heeds("slow", 2*time.Hour)))), Report{Err: context.DeadlineExceeded}, s, "slow: failed, 1s"},
		{"no time at all", Timeout(0, ok), Report{Err: context.DeadlineExceeded}, 0, "ok: not run: not done within 0s: context deadline exceeded"},
		{"three tries are three in all", Retry(3, time.Minute, broken), Report{Err: errBroken}, 126 * s, "up to 3 times: failed, 2m6s, the last of 3 tries"},
		{"fewer than one try is one", Retry(0, time.Minute, broken), Report{Err: errBroken}, 2 * s, "up to 1 times: failed, 2s\n"},
		{"to be asked to come again is no failure", Retry(3, s, later), Report{Result: in(time.Minute)}, 3 * s, "again in 1m0s, 3s\n"},
		{"exit is not tried again", Retry(3, s, exit), Report{}, s, "up to 3 times: nothing is left to do"},
		{"the pause heeds the context", Timeout(10*s, Retry(3, time.Minute, broken)), Report{Err: errBroken}, 10 * s, "up to 3 times: failed, 10s: not tried again: not done within 10s"},
		{"in a goroutine of its own", Parallel(broken), Report{Err: errBroken}, 2 * s, "apart: failed, 2s\n└─ broken: failed, 2s: broken"},
		{"yes", If("is it so", is("", true), ok, broken), Report{}, s, "is it so? yes: done, 1s\n├─ ok: done, 1s\n└─ broken: not run"},
		{"no", If("is it so", is("", false), ok, broken), Report{Err: errBroken}, 2 * s, "is it so? no: failed, 2s\n├─ ok: not run"},
		{"no, and nothing to do then", If("is it so", is("", false), ok, nil), Report{}, 0, "is it so? no: done, 0s\n└─ ok: not run\n"},
		{"who does not know does nothing", If("is it so", func(context.Context) (bool, error) { return true, errBroken }, ok, ok), Report{Err: errBroken}, 0, "is it so?: failed, 0s: broken\n├─ ok: not run"},
		{"nothing among steps is nothing", Join("all", nil, ok, nil), Report{}, s, "all (all at once): done, 1s\n└─ ok: done, 1s\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			got := c.step.Run(t.Context())
			if got.Result != c.want.Result || !errors.Is(got.Err, c.want.Err) || time.Since(began) != c.took {
				t.Errorf("%s: %+v %v after %s, want %+v %v after %s", c.story, got.Result, got.Err, time.Since(began), c.want.Result, c.want.Err, c.took)
			}
			if !strings.Contains(got.Tree.String(), c.tree) {
				t.Errorf("%s: the tree does not say %q:\n%s", c.story, c.tree, got.Tree)
			}
		})
	}
}

// RW-1: the errors of all are kept, and each says which step it is of.
func TestRW1_NoErrorIsLost(t *testing.T) {
	got := Join("all", takes("a", 0, nothing, errBroken), takes("b", 0, nothing, fs.ErrNotExist), takes("c", 0, nothing, nil)).Run(t.Context())
	if !errors.Is(got.Err, errBroken) || !errors.Is(got.Err, fs.ErrNotExist) || got.Err.Error() != "a: broken\nb: file does not exist" {
		t.Error(got.Err)
	}
	// Exit beside an error that the step itself joined hides nothing.
	got = takes("a", 0, nothing, errors.Join(Exit, errBroken)).Run(t.Context())
	if !errors.Is(got.Err, errBroken) {
		t.Error(got.Err)
	}
	got = takes("a", 0, nothing, &fs.PathError{Op: "read", Path: "x", Err: Exit}).Run(t.Context())
	if got.Err != nil || got.Tree.State != Exited {
		t.Error("a wrapped exit is one:", got.Err)
	}
}

// RW-1: no panic reaches anybody, wherever it is; whoever waits gets it as an
// error, and it is not tried again.
func TestRW1_APanicIsAnError(t *testing.T) {
	var ran atomic.Int64
	boom := Do("boom", func(context.Context) (Result, error) {
		ran.Add(1)
		m := map[string]int(nil)
		m["x"] = 1 //nolint:staticcheck // the panic is meant
		return nothing, nil
	})
	one := Shared(boom)
	for _, s := range []*Step{
		boom, Join("j", boom), OrderedJoin("o", boom), Sequential("s", boom), Timeout(time.Hour, boom), Retry(5, 0, boom), Parallel(boom),
		Join("two wait for one", one, one), Do("no function", nil),
		If("boom", func(context.Context) (bool, error) { panic(errBroken) }, nil, nil),
	} {
		ran.Store(0)
		got := s.Run(t.Context())
		var p *PanicError
		if !errors.As(got.Err, &p) || !bytes.Contains(p.Stack, []byte("reaction")) || ran.Load() > 1 {
			t.Errorf("%s: ran %d times: %v", got.Tree, ran.Load(), got.Err)
		}
		var r runtime.Error
		if !errors.As(got.Err, &r) && !errors.Is(got.Err, errBroken) {
			t.Errorf("what it panicked with is lost: %v", got.Err)
		}
		if !strings.Contains(got.Tree.String(), "panicked") {
			t.Errorf("the tree hides it:\n%s", got.Tree)
		}
	}
	got := Do("a word", func(context.Context) (Result, error) { panic("a word") }).Run(t.Context())
	if errors.Unwrap(errors.Unwrap(got.Err)) != nil || got.Err.Error() != "a word: panic: a word" {
		t.Error(got.Err)
	}
}

// RW-1: a step that ends its goroutine leaves nobody waiting.
func TestRW1_AStepThatEndsItsGoroutineLeavesNobodyWaiting(t *testing.T) {
	gone := Do("gone", func(context.Context) (Result, error) { runtime.Goexit(); return nothing, nil })
	one := Shared(gone)
	for _, s := range []*Step{Parallel(gone), Join("j", gone, one, one)} {
		if got := s.Run(t.Context()); !errors.Is(got.Err, errGone) {
			t.Error(got.Err)
		}
	}
}

// RW-1: when the context is done nothing is begun any more, and what was begun
// is waited for.
func TestRW1_NothingIsBegunWhenTheContextIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("we are told to stop")
		got := Sequential("s",
			Join("j", takes("a", time.Second, nothing, nil), Do("b", func(context.Context) (Result, error) {
				time.Sleep(time.Millisecond)
				cancel(stopped)
				return nothing, nil
			})),
			takes("c", time.Second, nothing, nil)).Run(ctx)
		if !errors.Is(got.Err, stopped) || !strings.Contains(got.Tree.String(), "a: done, 1s") || !strings.Contains(got.Tree.String(), "c: not run: we are told to stop") {
			t.Errorf("%v\n%s", got.Err, got.Tree)
		}
	})
}

// RW-1: what is shared runs once in a run, and again in the next.
func TestRW1_SharedRunsOnceInARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := 0
		one := Shared(Do("look", func(context.Context) (Result, error) {
			time.Sleep(time.Second)
			ran++
			return in(time.Minute), errBroken
		}))
		s := OrderedJoin("o", Join("j", one, Sequential("s", one), Timeout(time.Hour, one)), one)
		for n := range 3 {
			began := time.Now()
			got := s.Run(t.Context())
			if ran != n+1 || time.Since(began) != time.Second || got.Result != in(time.Minute) || strings.Count(got.Err.Error(), "broken") != 4 {
				t.Errorf("ran %d times in %d runs: %+v", ran, n+1, got)
			}
			if elsewhere := strings.Count(got.Tree.String(), "run elsewhere"); elsewhere != 3 {
				t.Errorf("%d of 4 say that it ran elsewhere:\n%s", elsewhere, got.Tree)
			}
		}
	})
}

// RW-1: the first one's context is what a shared step has; whose own time is up
// waits no longer, and does not spoil it for the others.
func TestRW1_WhoseTimeIsUpWaitsNoLongerForWhatIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := Shared(heeds("look", time.Minute))
		wait := takes("wait", time.Second, nothing, nil)
		got := Join("j", one, Sequential("short of time", wait, Timeout(time.Second, one)), Sequential("patient", wait, one)).Run(t.Context())
		if got.Err == nil || strings.Count(got.Err.Error(), "not done within 1s") != 1 || got.Tree.Took != time.Minute {
			t.Errorf("%v\n%s", got.Err, got.Tree)
		}
		if n := got.Tree.Of[1]; n.State != Failed || n.Took != 2*time.Second || got.Tree.Of[2].State != Done {
			t.Errorf("\n%s", got.Tree)
		}
		// The other way round the first is the one that is short of time, and
		// all get what it got.
		got = Join("j", Timeout(time.Second, one), Sequential("patient", takes("wait", time.Millisecond, nothing, nil), one)).Run(t.Context())
		if strings.Count(got.Err.Error(), "deadline exceeded") != 2 || got.Tree.Took != time.Second {
			t.Errorf("%v\n%s", got.Err, got.Tree)
		}
	})
}

// RW-3: ten thousand runs that fail, panic, time out and wait for each other
// leave no goroutine.
func TestRW3_NoGoroutineIsLeft(t *testing.T) {
	base := runtime.NumGoroutine()
	boom := Do("boom", func(context.Context) (Result, error) { panic("boom") })
	slow := Shared(heeds("slow", time.Hour))
	s := Join("all",
		Parallel(boom),
		Timeout(time.Second, Join("late", slow, Parallel(slow), takes("deaf", 2*time.Second, nothing, nil))),
		Timeout(time.Minute, Retry(100, time.Second, takes("broken", time.Second, nothing, errBroken))),
		Sequential("exit", takes("exit", 0, nothing, Exit), boom),
		Timeout(3*time.Second, slow))
	synctest.Test(t, func(t *testing.T) {
		for range 10_000 {
			if got := s.Run(t.Context()); got.Err == nil || got.Tree.Took < time.Minute {
				t.Fatal(got.Tree)
			}
		}
	})
	// One that is just ending is counted still.
	for ends := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > base && time.Now().Before(ends); {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > base {
		buf := make([]byte, 1<<16)
		t.Fatalf("%d goroutines, %d before:\n%s", n, base, buf[:runtime.Stack(buf, true)])
	}
}

// RW-3: a tree may run many times at once.
func TestRW3_ATreeRunsManyTimesAtOnce(t *testing.T) {
	var ran atomic.Int64
	one := Shared(Do("look", func(context.Context) (Result, error) { ran.Add(1); return nothing, nil }))
	s := Join("j", one, one, Retry(2, 0, Sequential("s", one, takes("broken", 0, nothing, errBroken))))
	const many = 100
	done := make(chan Report, many)
	for range many {
		go func() { done <- s.Run(t.Context()) }()
	}
	for range many {
		if got := <-done; !errors.Is(got.Err, errBroken) || got.Tree.Of[2].Tries != 2 {
			t.Error(got.Tree)
		}
	}
	if ran.Load() != many {
		t.Errorf("what is shared ran %d times in %d runs", ran.Load(), many)
	}
}

// RW-4: what ran is told with its result and how long it took, as a tree and as
// JSON that gives the same tree.
func TestRW4_TheTreeTellsWhatRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		look := Shared(takes("read latest.json", 12*time.Millisecond, nothing, nil))
		s := Sequential("cut archive/0 in eu",
			Join("check again", Sequential("the pointer", look), Sequential("each restore point", look, takes("lsn_80", 340*time.Millisecond, nothing, nil))),
			If("is the pointer below the floor", is("", true),
				Timeout(5*time.Second, Retry(3, time.Second, takes("move the pointer", 20*time.Millisecond, nothing, errors.New("412\r\n\x1b[31mprecondition failed")))), nil),
			takes("delete data", time.Second, nothing, nil))
		planned := s.Describe().String()
		got := s.Run(t.Context())
		want := `cut archive/0 in eu (in turn until one fails): failed, 2.41s
├─ check again (all at once): done, 352ms
│  ├─ the pointer (in turn until one fails): done, 12ms
│  │  └─ once: done, 12ms
│  │     └─ read latest.json: done, 12ms
│  └─ each restore point (in turn until one fails): done, 352ms
│     ├─ once: done, 12ms, run elsewhere in this tree
│     └─ lsn_80: done, 340ms
├─ is the pointer below the floor? yes: failed, 2.06s
│  └─ within 5s: failed, 2.06s
│     └─ up to 3 times: failed, 2.06s, the last of 3 tries
│        └─ move the pointer: failed, 20ms: 412 [31mprecondition failed
└─ delete data: not run
`
		swapped := strings.NewReplacer("│  │  └─ once: done, 12ms\n│  │     └─ read latest.json: done, 12ms\n", "│  │  └─ once: done, 12ms, run elsewhere in this tree\n",
			"│     ├─ once: done, 12ms, run elsewhere in this tree\n", "│     ├─ once: done, 12ms\n│     │  └─ read latest.json: done, 12ms\n").Replace(want)
		if tree := got.Tree.String(); tree != want && tree != swapped { // who looks first is chance
			t.Errorf("got:\n%s\nwant:\n%s", tree, want)
		}
		b, err := json.Marshal(got.Tree)
		if err != nil {
			t.Fatal(err)
		}
		var back Node
		if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(&back, got.Tree) {
			t.Errorf("%v: %s", err, b)
		}
		if strings.Count(planned, "not run") != strings.Count(planned, "\n") || !strings.Contains(planned, "move the pointer: not run") {
			t.Errorf("what is planned:\n%s", planned)
		}
	})
}

// RW-4: a tree comes as JSON from elsewhere; whatever it is, it prints.
func FuzzTree(f *testing.F) {
	b, _ := json.Marshal(Join("j", Timeout(1, Retry(2, 3, Do("x", nil))), If("q", is("", true), nil, Shared(Parallel(nil)))).Run(context.Background()).Tree)
	f.Add(b)
	f.Add([]byte(`{"kind":"if","of":[null,{"kind":"do"}]}`))
	f.Add([]byte(strings.Repeat(`{"of":[`, 300) + strings.Repeat(`]}`, 300)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var n Node
		if json.Unmarshal(b, &n) != nil {
			return
		}
		s := n.String()
		if s == "" || strings.ContainsAny(s, "\x1b\r\x00") {
			t.Errorf("%q", s)
		}
	})
}

func TestDurationsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 7: "7ns", 1234567: "1.23ms", 12345678901: "12.35s", 1234567890123: "20m34.8s", 1234: "1.23µs",
	} {
		if got := short(d).String(); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}
