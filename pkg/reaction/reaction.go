// Package reaction puts steps together: side by side, one after the other,
// within a time, again. What is put together can be described before it runs,
// and a run leaves a tree that says what each step came to and how long it took.
//
// Whatever the steps do, a run returns only when all that it started has, and a
// panic is an error. Nothing is kept from one run to the next, so a tree of
// steps may run many times, also at the same time. Begin with [Do] and
// [Step.Run].
package reaction

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Result is what a step says besides its error.
type Result struct {
	// Again asks the caller to run it all once more later.
	Again bool
	// After is when, counted from the end of the run; 0: whenever the caller
	// comes round. More than 0 means Again; less counts as 0.
	After time.Duration
}

// Exit is returned by a step to say that nothing is left to do: it ends a
// [Sequential] as an error does, is not tried again by [Retry], gives way to
// every error in a join, and is no error of the run.
var Exit = errors.New("nothing is left to do") //nolint:staticcheck // ST1012: it is not an error, as io.EOF is none

// PanicError is a panic of a step. It is not tried again by [Retry].
type PanicError struct {
	Value any    // what it panicked with
	Stack []byte // of its goroutine, as debug.Stack writes it
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap gives the error that it panicked with, when that was one.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Kind says how a step runs those below it.
type Kind string

// The kinds of steps.
const (
	KindDo          Kind = "do"
	KindJoin        Kind = "join"
	KindOrderedJoin Kind = "ordered-join"
	KindSequential  Kind = "sequential"
	KindTimeout     Kind = "timeout"
	KindRetry       Kind = "retry"
	KindParallel    Kind = "parallel"
	KindShared      Kind = "shared"
	KindIf          Kind = "if"
)

// Step is something that can be described and run. It is immutable; nil is a
// step with nothing to do.
type Step struct {
	what  string
	kind  Kind
	of    []*Step
	act   func(context.Context) (Result, error)
	holds func(context.Context) (bool, error)
	limit time.Duration // of a timeout, or between the tries of a retry
	tries int
}

// Do is a step of the caller's. Its error is wrapped with what. It should
// return soon after ctx is done: nothing can stop it (see [Timeout]).
func Do(what string, act func(ctx context.Context) (Result, error)) *Step {
	return &Step{what: what, kind: KindDo, act: act}
}

// Join runs all steps at once, each in a goroutine of its own, and waits for
// all: a failure stops none of the others. The results are joined: again when
// any says so, after the shortest time that any names; the errors of all in the
// order of the steps, [Exit] only when there is no other.
func Join(what string, steps ...*Step) *Step { return several(what, KindJoin, steps) }

// OrderedJoin is [Join] one after the other, in the order given.
func OrderedJoin(what string, steps ...*Step) *Step { return several(what, KindOrderedJoin, steps) }

// Sequential runs the steps in the order given until one returns an error or
// asks to be run again, and returns what that one did.
func Sequential(what string, steps ...*Step) *Step { return several(what, KindSequential, steps) }

// Timeout gives the context of a step a deadline. It is a request: a step that
// does not heed its context is waited for all the same, what it returns counts,
// and the tree says how late it was. Of several around a step the tightest
// counts.
func Timeout(within time.Duration, s *Step) *Step {
	return &Step{kind: KindTimeout, limit: within, of: []*Step{s}}
}

// Retry runs a step until it returns no error, at most so many times in all
// (fewer than 1 is 1), with a pause between. [Exit] and a panic end it at once,
// and so does a context that is done.
func Retry(times int, pause time.Duration, s *Step) *Step {
	return &Step{kind: KindRetry, tries: max(1, times), limit: pause, of: []*Step{s}}
}

// Parallel runs a step in a goroutine of its own and waits for it.
func Parallel(s *Step) *Step { return &Step{kind: KindParallel, of: []*Step{s}} }

// Shared is a step that stands in several places of a tree and runs once in a
// run of it: who comes first runs it with its own context, the others wait and
// get the same. Those whose context is done meanwhile wait no longer.
func Shared(s *Step) *Step { return &Step{kind: KindShared, of: []*Step{s}} }

// If asks a question and runs one of two steps; either may be nil. A question
// that cannot be answered is an error, and neither runs.
func If(what string, holds func(ctx context.Context) (bool, error), then, otherwise *Step) *Step {
	return &Step{what: what, kind: KindIf, holds: holds, of: []*Step{then, otherwise}}
}

func several(what string, k Kind, steps []*Step) *Step {
	s := &Step{what: what, kind: k}
	for _, one := range steps {
		if one != nil {
			s.of = append(s.of, one)
		}
	}
	return s
}
