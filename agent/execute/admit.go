package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// admit takes a decision: its number is written down, so that it is never taken
// again, by whomever. An outcome is a refusal of one that is not taken; with an
// error nothing is known and it is tried again.
func (e *Executor) admit(ctx context.Context, t *task) (*catalog.Outcome, error) {
	d := &t.d
	refuse := func(code, format string, args ...any) (*catalog.Outcome, error) {
		o := t.outcome(catalog.OutcomeRefused, because(code, format, args...))
		return &o, nil
	}
	switch k := &e.books; {
	case t.err != nil:
		return refuse(catalog.CodeInvalid, "%v", t.err)
	case d.Region != e.o.Region:
		return refuse(catalog.CodeOtherRegion, "it is for region %s, this is %s", d.Region, e.o.Region)
	case k.ledger != "" && d.Ledger != k.ledger:
		return refuse(catalog.CodeOtherLedger, "it is of ledger %s; this region obeys %s until its agent is started with --ledger %s", d.Ledger, k.ledger, d.Ledger)
	case d.Term < k.term:
		return refuse(catalog.CodeStaleTerm, "it is of term %d, this region has obeyed term %d", d.Term, k.term)
	case t.over():
		o := t.outcome(catalog.OutcomeExpired, because(catalog.CodeExpired, "its time was over before it was written down"))
		return &o, nil
	}
	if e.books.ledger == "" {
		if err := e.pin(ctx, d.Ledger, "first decision "+d.ID); err != nil {
			return nil, err
		}
		if e.books.ledger != d.Ledger {
			return refuse(catalog.CodeOtherLedger, "it is of ledger %s; this region obeys %s", d.Ledger, e.books.ledger)
		}
	}
	if d.Sequence <= e.books.highest {
		return refuse(catalog.CodeReplayed, "number %d was taken before; this region has come to %d", d.Sequence, e.books.highest)
	}
	return nil, e.take(ctx, t)
}

// permitted says why the configuration or the journal forbids what t asks,
// nothing being known of the slate yet; nil when nothing does.
func (e *Executor) permitted(ctx context.Context, t *task) error {
	d := &t.d
	if err := e.allowedVerb(d.Verb); err != nil {
		return err
	}
	if !d.Verb.OfRegion() && !e.within(d.Root) {
		return refused(catalog.CodeOutside, "%s is not below %q, which is what this agent may touch", d.Root, e.o.Prefixes)
	}
	if e.books.unread != "" && (d.Verb.Irreversible() || d.Verb == catalog.VerbThaw) {
		return refused(catalog.CodeUnreadable, "whom this region has obeyed is not known, for %s cannot be understood; a newer quarry may have written it, upgrade this agent", e.books.unread)
	}
	if d.Verb.Irreversible() {
		return e.thawed(ctx)
	}
	return nil
}

func (e *Executor) allowedVerb(v catalog.Verb) error {
	for _, a := range e.o.Allow {
		if a == v {
			return nil
		}
	}
	return refused(catalog.CodeNotAllowed, "this agent does not %s; start it with --allow %s to let it", v, v)
}

// within reports whether a root is the agent's to touch. Quarry's own folder
// never is.
func (e *Executor) within(root string) bool {
	if catalog.CheckName(root) != nil || strings.HasPrefix(root+"/", catalog.Prefix) {
		return false
	}
	for _, p := range e.o.Prefixes {
		if p = strings.Trim(p, "/"); p == "" || strings.HasPrefix(root+"/", p+"/") {
			return true
		}
	}
	return false
}

// meant proves that what is at the root now is what the decision is about.
func (e *Executor) meant(ctx context.Context, t *task) (catalog.Sighting, error) {
	d := &t.d
	s, err := e.eyes.Prove(ctx, d.Root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, refused(catalog.CodeIncarnation, "nothing is known at %s: %v", d.Root, err)
	case err != nil:
		return s, err
	case s.Seen != catalog.SeenLive:
		return s, refused(catalog.CodeUnreadable, "%s is %s: %s", d.Root, s.Seen, s.Reason)
	case s.Incarnation != d.Incarnation:
		return s, refused(catalog.CodeIncarnation, "incarnation %s is at %s now, %s was meant", s.Incarnation, d.Root, d.Incarnation)
	case !s.IncarnationKept:
		return s, refused(catalog.CodeIncarnation, "the incarnation of %s is not recorded in the bucket: nothing proves that it is the one that was meant", d.Root)
	case s.Slate != d.Slate:
		return s, refused(catalog.CodeIncarnation, "%s is called %s now, %s was meant", d.Root, s.Slate, d.Slate)
	case d.Lineage != "" && d.Lineage != s.Lineage:
		return s, refused(catalog.CodeIncomparable, "its positions are of lineage %s, those here of %s", d.Lineage, s.Lineage)
	}
	return s, nil
}

// still checks the preconditions.
func (e *Executor) still(ctx context.Context, t *task, s *catalog.Sighting) error {
	looked := false
	var points []point
	for _, c := range t.d.Preconditions {
		var now string
		switch c.What {
		case catalog.PreManifest:
			var want uint64
			if _, err := fmt.Sscan(c.Value, &want); err != nil {
				return refused(catalog.CodeInvalid, "precondition %s %q is no number", c.What, c.Value)
			}
			if s.ManifestID != nil && *s.ManifestID >= want {
				continue
			}
			now = "none"
			if s.ManifestID != nil {
				now = fmt.Sprint(*s.ManifestID)
			}
		case catalog.PrePointer:
			p, err := e.partition(ctx, s.Root)
			if err != nil {
				return err
			}
			if t.begun || p.PointerSHA256 == c.Value { // what was begun has moved it itself
				continue
			}
			now = p.PointerSHA256
		case catalog.PreRestorePoint:
			if !looked { // once for all of them
				var err error
				if points, err = e.points(ctx, s); err != nil {
					return err
				}
				looked = true
			}
			now = "not there"
			for _, p := range points {
				if p.id == c.Value {
					if now = string(p.state); p.state == catalog.RestoreVerified {
						now = c.Value
					}
				}
			}
			if now == c.Value {
				continue
			}
		default:
			return refused(catalog.CodeMoved, "precondition %q is not known to this agent; upgrade it", c.What)
		}
		return refused(catalog.CodeMoved, "%s is %s now, %s was meant", c.What, now, c.Value)
	}
	return nil
}

// refusal is why something must not be done. Trying again does not cure it.
type refusal struct{ reasons []catalog.Reason }

func (r *refusal) Error() string {
	var all []string
	for _, x := range r.reasons {
		all = append(all, x.String())
	}
	return strings.Join(all, "; ")
}

func refused(code, format string, args ...any) error {
	return &refusal{[]catalog.Reason{because(code, format, args...)}}
}

// wait is why something is not done yet.
type wait struct{ reason catalog.Reason }

func (w *wait) Error() string { return w.reason.String() }

func waiting(code, format string, args ...any) error {
	return &wait{because(code, format, args...)}
}
