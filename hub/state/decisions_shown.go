package state

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// showDecided has the view's row of a decision say what is so.
func (s *State) showDecided(d *Decided) { s.b.SetDecision(s.decidedRow(d)) }

// decidedRow is a decision as people see it.
func (s *State) decidedRow(d *Decided) *catalog.DecisionRow {
	x := &d.Decision
	row := &catalog.DecisionRow{
		ID: x.ID, Number: d.Number, Verb: x.Verb, Slate: x.Slate, Region: x.Region, Root: x.Root, Incarnation: x.Incarnation,
		Position: x.Position, PositionDomain: x.PositionDomain, Lineage: x.Lineage,
		Stage: d.Stage, By: d.By, Why: d.Why, Waiting: s.waitsFor(d), Needs: uint64(d.Needs), Approved: []catalog.ApprovalRow{},
		Proposed: d.Proposed, NotAfter: d.NotAfter, Sent: moment(d.Sent), Term: x.Term, Sequence: x.Sequence,
		Reasons: append([]catalog.Reason{}, d.Reasons...), Parameter: x.Parameters, Must: append([]catalog.Precondition{}, x.Preconditions...),
		Expires: x.Expires, Outcome: d.Outcome, Plan: d.Plan, Policy: d.Policy.Name, Revision: d.Policy.Revision, Renewal: d.Renewal,
	}
	if d.Stage.Settled() {
		row.Ended = moment(d.Ended)
	}
	if x.Evidence != ([32]byte{}) {
		row.Evidence = hex.EncodeToString(x.Evidence[:])
	}
	for _, a := range d.Approved {
		row.Approved = append(row.Approved, catalog.ApprovalRow(a))
	}
	if d.Outcome != nil {
		row.Reasons = append(row.Reasons, d.Outcome.Reasons...)
	}
	return row
}

// moment is a time that may not have come.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// waitsFor says why a decision was not sent yet, and what a person can do. Never
// nil, for a list is what people ask for.
func (s *State) waitsFor(d *Decided) []string {
	if d.Stage == StageProposed {
		who := "another person has"
		if n := d.Needs - len(d.Approved); n > 1 {
			who = fmt.Sprintf("%d more people have", n)
		}
		return []string{fmt.Sprintf("approval-needed: %s to agree: quarry approve %s", who, d.Decision.ID)}
	}
	return append([]string{}, s.Waiting(d)...)
}

// showWaiting looks again why what is approved was not sent: regions come and
// go, and hours pass, without a word about a decision.
func (s *State) showWaiting() {
	for _, n := range slices.Sorted(maps.Keys(s.dec.open)) {
		d := s.dec.all[n]
		if d.Stage != StageApproved {
			continue
		}
		if row := s.b.Decision(d.Decision.ID); row == nil || !slices.Equal(row.Waiting, s.waitsFor(d)) {
			s.showDecided(d)
		}
	}
}

// showBreaker has the view say how the breaker stands.
func (s *State) showBreaker() {
	b := s.dec.breaker
	s.b.SetBreaker(catalog.BreakerRow{Open: b.Open, Why: b.Why, By: b.By, Since: moment(b.Since), Slates: b.Slates})
}

// tellBreaker shows how the breaker stands from now on, and tells it.
func (s *State) tellBreaker(b Breaker) {
	s.showBreaker()
	e := catalog.Event{Type: catalog.EventBreakerClosed, After: b.By, What: withWhy("the breaker is closed", b.Why)}
	if b.Open {
		e.Type, e.What = catalog.EventBreakerOpen, withWhy("the breaker is open, nothing is decided until a person closes it", b.Why)
	}
	s.emit(e)
}

// tellDecided puts what became of a decision into the event log. That a permit
// is renewed is no news while it goes well: a fleet's renewals of one day would
// push everything else out of the log.
func (s *State) tellDecided(what string, d *Decided, by, why string) {
	if d.Renewal && (!d.Stage.Settled() || d.Stage == StageDone) {
		return
	}
	x := &d.Decision
	position := ""
	if x.Position != nil {
		position = fmt.Sprintf(" up to %d", *x.Position)
	}
	s.emit(catalog.Event{
		Type: "decision-" + what, Region: x.Region, Slate: x.Slate, Root: x.Root, Before: x.ID, After: by,
		What: withWhy(fmt.Sprintf("decision %.8s, %s%s, is %s", x.ID, x.Verb, position, what), why),
	})
}

// forgetDecided takes the rows of all decisions out of the view: what is learned
// anew puts those back that there are.
func (s *State) forgetDecided() {
	for _, d := range s.dec.all {
		s.b.RemoveDecision(d.Decision.ID)
	}
	s.b.SetBreaker(catalog.BreakerRow{})
}

// ApproveIn says what [Approve] would come to, from a view: the decision as it
// would be, or the refusal. Anybody may call it.
func ApproveIn(v *view.View, id, by string) (*catalog.DecisionRow, error) {
	d := v.Decision(id)
	if d == nil {
		return nil, fmt.Errorf("decision %s: %w", id, fs.ErrNotExist)
	}
	if err := mayApprove(d, by); err != nil {
		return nil, err
	}
	next := *d
	next.Approved = append(slices.Clone(d.Approved), catalog.ApprovalRow{By: by, At: v.At()})
	if uint64(len(next.Approved)) >= next.Needs {
		next.Stage = StageApproved
	}
	return &next, nil
}

// RefuseIn says what [RefuseDecision] would come to; see [ApproveIn].
func RefuseIn(v *view.View, id string) (*catalog.DecisionRow, error) {
	d := v.Decision(id)
	if d == nil {
		return nil, fmt.Errorf("decision %s: %w", id, fs.ErrNotExist)
	}
	return d, mayRefuse(d)
}

// mayApprove: a second person's word counts once, and not that of the one who
// asked.
func mayApprove(d *catalog.DecisionRow, by string) error {
	if d.Stage != StageProposed {
		return fmt.Errorf("decision %s is %s: %w", d.ID, d.Stage, ErrStage)
	}
	if by == "" || by == d.By || slices.ContainsFunc(d.Approved, func(a catalog.ApprovalRow) bool { return a.By == by }) {
		return fmt.Errorf("decision %s was proposed or approved by %s: %w", d.ID, firstOf(by, "somebody"), ErrSamePerson)
	}
	return nil
}

func mayRefuse(d *catalog.DecisionRow) error {
	if d.Stage != StageProposed && d.Stage != StageApproved {
		return fmt.Errorf("decision %s is %s: %w", d.ID, d.Stage, ErrStage)
	}
	return nil
}
