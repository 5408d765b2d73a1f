package reaction

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// State says what a step came to.
type State string

// The states.
const (
	NotRun   State = "not-run"
	Done     State = "done"
	Again    State = "again"  // and asks to be run once more
	Exited   State = "exit"   // with [Exit], its own or that of a step below
	Failed   State = "failed" // with an error, its own or that of a step below
	Panicked State = "panicked"
)

// Node is a step and what came of it. It is plain data: as JSON it can be kept
// and printed elsewhere. Times are of the clock of the process that ran it.
type Node struct {
	What  string `json:"what,omitempty"`
	Kind  Kind   `json:"kind"` // empty: a branch of an If with nothing to do
	State State  `json:"state"`
	// Error is what the step itself failed with. Of a failure below it is
	// empty, for it is told there.
	Error string `json:"error,omitempty"`
	// Began is counted from the beginning of the run; Took is until it returned.
	Began time.Duration `json:"began_ns,omitempty"`
	Took  time.Duration `json:"took_ns,omitempty"`
	After time.Duration `json:"after_ns,omitempty"` // when it asks to be run again; 0: any time

	Limit time.Duration `json:"limit_ns,omitempty"` // of a timeout
	Late  time.Duration `json:"late_ns,omitempty"`  // how long after that it returned
	Tries int           `json:"tries,omitempty"`    // of a retry, begun; below it is the last
	// AtMost is how many tries a retry would have begun.
	AtMost int   `json:"at_most,omitempty"`
	Holds  *bool `json:"holds,omitempty"` // the answer to an If; nil: not asked, or none
	// Elsewhere: a shared step whose run stands elsewhere in the tree.
	Elsewhere bool    `json:"elsewhere,omitempty"`
	Of        []*Node `json:"of,omitempty"` // the steps below, in the order given; of an If two
}

// Describe gives the tree of a step before any run.
func (s *Step) Describe() *Node {
	n := &Node{State: NotRun}
	if s == nil {
		return n
	}
	n.What, n.Kind, n.AtMost = s.what, s.kind, s.tries
	if s.kind == KindTimeout {
		n.Limit = s.limit
	}
	for _, one := range s.of {
		n.Of = append(n.Of, one.Describe())
	}
	return n
}

// String prints the tree, a line for each step.
func (n *Node) String() string {
	var b strings.Builder
	n.print(&b, "", "", 0)
	return b.String()
}

// deepest is how far down a tree is printed; ours have a few levels.
const deepest = 100

func (n *Node) print(b *strings.Builder, first, rest string, depth int) {
	b.WriteString(first)
	if depth == deepest {
		b.WriteString("…\n")
		return
	}
	b.WriteString(n.line())
	b.WriteByte('\n')
	below := n.Of
	if n.Kind == KindIf { // the branch that is there, or was taken
		below = nil
		for _, one := range n.Of {
			if one != nil && one.Kind != "" {
				below = append(below, one)
			}
		}
	}
	for i, one := range below {
		switch {
		case one == nil: // not ours: JSON of somebody else
		case i == len(below)-1:
			one.print(b, rest+"└─ ", rest+"   ", depth+1)
		default:
			one.print(b, rest+"├─ ", rest+"│  ", depth+1)
		}
	}
}

// line is what a tree says of one step: what it is, and what came of it.
func (n *Node) line() string {
	var b strings.Builder
	switch n.Kind {
	case KindTimeout:
		fmt.Fprintf(&b, "within %s", n.Limit)
	case KindRetry:
		fmt.Fprintf(&b, "up to %d times", n.AtMost)
	case KindParallel:
		b.WriteString("apart")
	case KindShared:
		b.WriteString("once")
	default:
		b.WriteString(oneLine(n.What))
	}
	switch n.Kind {
	case KindJoin:
		b.WriteString(" (all at once)")
	case KindOrderedJoin:
		b.WriteString(" (all in turn)")
	case KindSequential:
		b.WriteString(" (in turn until one fails)")
	case KindIf:
		b.WriteByte('?')
		if n.Holds != nil {
			b.WriteString(map[bool]string{true: " yes", false: " no"}[*n.Holds])
		}
	}
	b.WriteString(": ")
	switch n.State {
	case NotRun:
		b.WriteString("not run")
	case Again:
		b.WriteString("again")
		if n.After > 0 {
			fmt.Fprintf(&b, " in %s", short(n.After))
		}
	case Exited:
		b.WriteString("nothing is left to do")
	default:
		b.WriteString(oneLine(string(n.State)))
	}
	if n.State != NotRun {
		fmt.Fprintf(&b, ", %s", short(n.Took))
	}
	if n.Tries > 1 {
		fmt.Fprintf(&b, ", the last of %d tries", n.Tries)
	}
	if n.Late >= time.Millisecond {
		fmt.Fprintf(&b, ", %s late", short(n.Late))
	}
	if n.Elsewhere {
		b.WriteString(", run elsewhere in this tree")
	}
	if n.Error != "" {
		b.WriteString(": ")
		b.WriteString(oneLine(n.Error))
	}
	return b.String()
}

// oneLine keeps what others wrote from breaking the tree, or the terminal.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
}

// short is a duration with three digits or so.
func short(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Minute, time.Second, time.Millisecond, time.Microsecond} {
		if d >= unit {
			return d.Round(max(1, unit/100))
		}
	}
	return d
}
