package state

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions/plan"
)

// Refusals of a person's word to carry something out.
var (
	// ErrPlanExpired says that what was planned is not what is found now.
	ErrPlanExpired = errors.New("plan-expired")
	// ErrRefused is wrapped by every [Refused].
	ErrRefused = errors.New("the rules refuse it")
)

// Refused is a refusal by the rules, with the facts that hold back.
type Refused struct {
	What    string
	Reasons []plan.Reason
}

func (e *Refused) Error() string {
	var all []string
	for _, r := range e.Reasons {
		all = append(all, r.String())
	}
	return strings.TrimSuffix(e.What+": "+strings.Join(all, "; "), ": ")
}

// Unwrap gives [ErrRefused].
func (e *Refused) Unwrap() error { return ErrRefused }

// Carry is a person's word to carry out what the rules permit: it is judged
// anew inside the loop. The refusal wraps [ErrPlanExpired], [ErrRefused],
// [ErrNotDeciding], [ErrLineages], [ErrBreaker] or fs.ErrNotExist.
type Carry struct {
	Verb  catalog.Verb // permit: trim
	Slate string
	// Region says which database is meant where several go by the name: the one
	// that is there. Empty: there is only one.
	Region string
	// UpTo is how far, inclusive; nil: as far as may be.
	UpTo *uint64
	// Plan, when it is not empty, is what the person has seen; another one that
	// is found now is refused.
	Plan    string
	By, Why string
	// Decided, when it is not nil, gets the decisions: those that were made, and
	// those under way that say the same. None: all of it is published already.
	Decided *[]Decided
}

func (Carry) event() {}

// CarryPlan is what a [Carry] would do.
type CarryPlan struct {
	Explanation
	// Wanted is how far: what was asked for, or the floor.
	Wanted *uint64     `json:"wanted" doc:"How far it would be permitted, inclusive; null: nothing is."`
	Steps  []CarryStep `json:"steps" doc:"What would be done in each region where the slate is."`
	// Strands are who reads on from a position that would be gone.
	Strands []Strand `json:"strands" doc:"Readers that may meet a gap, and what they can begin again from."`

	wishes []Wish
	sub    *Subject
}

// CutByHold is why no permit is written for a slate of which the move of the
// policy's hold is the trim.
const CutByHold = "nobody cuts it by a permit: the hold of its policy goes on by itself, and SlateDB's own collector takes what that lets go of; see quarry get pins"

// CarryStep is what would be done in one region.
type CarryStep struct {
	Region    string  `json:"region"`
	Root      string  `json:"root"`
	UpTo      *uint64 `json:"up_to" doc:"Position of the permit; null: none would be written there."`
	Published *uint64 `json:"published" doc:"Position of the permit that rules there now; null: none does."`
	TrimmedTo *uint64 `json:"trimmed_to" doc:"What the owner was observed to have cut; null: not known."`
	Doing     string  `json:"doing" doc:"permit, published, or none."`
	Why       string  `json:"why" doc:"Why nothing would be done there."`
}

// Strand is a reader that may need what would be cut.
type Strand struct {
	Kind     plan.PinKind `json:"kind"`
	ID       string       `json:"id"`
	Region   string       `json:"region"`
	Position *uint64      `json:"position" doc:"Where it reads on; null: not known, so it may need anything."`
	// RestorePoint is the newest of its own region that it can begin again from.
	RestorePoint *uint64 `json:"restore_point" doc:"Highest verified restore point of its own region at or above the cut; null: there is none, and it would be stranded."`
}

// PlanFor says what a [Carry] of the same words would do, from one view. The
// error is that of [ExplainTrim], or wraps [ErrRefused] for a position above the
// floor; a verdict that waits is no error. Anybody may call it.
func PlanFor(v *view.View, verb catalog.Verb, slate, region string, upTo *uint64, now time.Time) (*CarryPlan, error) {
	switch verb {
	case catalog.VerbPermit:
		sub, err := subjectOf(v, slate, region)
		if err != nil {
			return nil, err
		}
		return planTrim(sub, v, upTo, DefaultPermitFor, now)
	}
	return nil, fmt.Errorf("%s is not carried out at a person's word: %w", verb, errors.ErrUnsupported)
}

func planTrim(sub *Subject, v *view.View, upTo *uint64, permitFor time.Duration, now time.Time) (*CarryPlan, error) {
	rules := v.Rules()
	sub.rule(rules, now)
	p := &CarryPlan{Explanation: *sub.explain(rules, v.Term(), now), Steps: []CarryStep{}, Strands: []Strand{}, sub: sub}
	p.acted(sub, v, now)
	if p.Action != plan.Permit {
		if upTo != nil {
			return p, &Refused{fmt.Sprintf("%s is not trimmed up to %d", sub.Name, *upTo), p.Reasons}
		}
		for i := range sub.Sites {
			p.Steps = append(p.Steps, step(&sub.Sites[i], "none", "the verdict waits"))
		}
		return p, nil
	}
	floor := *p.UpTo
	if upTo != nil && *upTo > floor {
		return p, &Refused{fmt.Sprintf("%s may be trimmed up to %d and not up to %d", sub.Name, floor, *upTo), aboveFloor(p, *upTo)}
	}
	if upTo != nil {
		floor = *upTo
	}
	p.Wanted = &floor
	policies := sub.Policies(rules)
	evidence := sub.evidence(policies, p.Verdict)
	m := bearing{now: now, permitFor: permitFor, policies: policies, plan: p.Plan, evidence: evidence}
	for i := range sub.Sites {
		site := &sub.Sites[i]
		target, ok := sub.target(site, floor, m)
		renewal, want := wanted(site, target, m)
		switch {
		case !cutByPermit(sub.Kind):
			p.Steps = append(p.Steps, step(site, "none", CutByHold))
		case !ok:
			p.Steps = append(p.Steps, step(site, "none", sub.whyNone(site, m)))
		case !want:
			p.Steps = append(p.Steps, step(site, "published", ""))
		default:
			one := step(site, "permit", "")
			one.UpTo = &target
			p.Steps = append(p.Steps, one)
			p.wishes = append(p.wishes, sub.permit(site, target, renewal, p.Policy, m))
		}
	}
	p.Strands = sub.strands(floor, m)
	return p, nil
}

func step(site *Site, doing, why string) CarryStep {
	out := CarryStep{Region: site.Region, Root: site.Root, TrimmedTo: site.TrimmedTo, Doing: doing, Why: why}
	if site.Permit != nil {
		out.Published = site.Permit.UpTo
	}
	return out
}

// whyNone says why nothing may be cut at a site although the floor is known.
func (s *Subject) whyNone(site *Site, m bearing) string {
	r := s.In(site.Region)
	switch {
	case r == nil:
		return "region " + site.Region + " is not in the region set"
	case !r.Heard || r.State != catalog.RegionConnected && r.State != catalog.RegionSuspect:
		return "region " + site.Region + " is " + string(r.State) + ": what it has archived is not known"
	case !site.Live:
		return "it was not seen there, or its incarnation is not recorded in the bucket"
	case len(s.Sites) > 1 && slicesCount(s.Sites, func(o Site) bool { return o.Region == site.Region }) > 1:
		return "two databases of this name are in region " + site.Region + ": register them under different names"
	}
	return fmt.Sprintf("region %s has fewer than %d verified restore points", site.Region, m.keep())
}

func slicesCount[T any](list []T, is func(T) bool) (n int) {
	for _, x := range list {
		if is(x) {
			n++
		}
	}
	return n
}

// aboveFloor are the reasons why a position above the floor is refused.
func aboveFloor(p *CarryPlan, upTo uint64) []plan.Reason {
	var out []plan.Reason
	for i := range p.Regions {
		r := &p.Regions[i]
		switch {
		case r.Verified == nil:
			out = append(out, r.Reasons...)
		case *r.Verified < upTo:
			out = append(out, plan.Reason{Code: plan.BelowMinSnapshots,
				Message: fmt.Sprintf("region %s can restore up to %d: what lies above is in its log alone; take a snapshot there first", r.Region, *r.Verified)})
		}
	}
	for _, h := range p.Holds {
		code := plan.OnHold
		switch h.Kind {
		case plan.PinLegal:
			code = plan.OnLegalHold
		case plan.PinReader:
			code = plan.ReaderActive
		case plan.PinClone:
			code = plan.PinnedByClone
		}
		out = append(out, plan.Reason{Code: code, Message: fmt.Sprintf("%s %s keeps what begins at %d", h.Kind, h.ID, orZero(h.Position))})
	}
	if len(out) == 0 {
		out = append(out, plan.Reason{Code: plan.BelowMinSnapshots, Message: fmt.Sprintf("policy %s keeps what lies above %d; see its safetyGap and keepNewest", p.Policy.Name, orZero(p.UpTo))})
	}
	return out
}

func orZero(n *uint64) uint64 {
	if n == nil {
		return 0
	}
	return *n
}

// strands are the readers known that may need what would be cut up to a position.
func (s *Subject) strands(upTo uint64, m bearing) []Strand {
	out := []Strand{}
	for i := range s.Pins {
		p := &s.Pins[i]
		if p.Kind != plan.PinConsumer && p.Kind != plan.PinReader || p.Position != nil && *p.Position > upTo {
			continue
		}
		one := Strand{Kind: p.Kind, ID: p.ID, Region: p.Region, Position: p.Position}
		if best, ok := archivedIn(s.In(p.Region), 1, m.now); ok && best >= upTo {
			one.RestorePoint = &best
		}
		out = append(out, one)
	}
	return out
}

func (e Carry) enact(s *State) error {
	if s.deciding() == 0 {
		return fmt.Errorf("%w: %s", ErrNotDeciding, firstOf(s.office.Why, "it has no term"))
	}
	for _, n := range s.names {
		s.stirred[n] = true
	}
	s.settleAll() // as it is now, and not as it was when time was last looked at
	if e.Verb != catalog.VerbPermit && e.Verb != catalog.VerbPrune {
		return fmt.Errorf("%s is not carried out at a person's word: %w", e.Verb, errors.ErrUnsupported)
	}
	v := &s.b.View
	sub, err := subjectOf(v, e.Slate, e.Region)
	if err != nil {
		return err
	}
	if e.Verb == catalog.VerbPrune {
		return e.carryPrune(s, sub)
	}
	p, err := planTrim(sub, v, e.UpTo, s.cfg.PermitFor, s.wall)
	if err == nil && p.Action != plan.Permit {
		err = &Refused{sub.Name + " is not trimmed", p.Reasons}
	}
	if e.Plan != "" && p != nil && e.Plan != p.Plan {
		return fmt.Errorf("%w: plan %s is not what is found now, which is %s; look at it again", ErrPlanExpired, e.Plan, p.Plan)
	}
	if err != nil {
		return err
	}
	return s.carry(p.wishes, e)
}

// carry proposes what a person asked for, but for what is under way.
func (s *State) carry(wishes []Wish, e Carry) error {
	var fresh []Wish
	var proposals []Proposal
	var numbers []uint64
	for _, w := range wishes {
		if o := s.underWay(&w.Decision); o != nil && says(&o.Decision, &w.Decision) {
			numbers = append(numbers, o.Number)
			continue
		}
		w.Policy = PolicyRef{} // it is this person's word, not the policy's
		fresh, proposals = append(fresh, w), append(proposals, w.Proposal)
	}
	if err := s.mayDecide(proposals); err != nil {
		return err
	}
	made, err := s.propose(fresh, e.By, e.Why)
	if err != nil {
		return err
	}
	s.issue()
	if e.Decided != nil {
		*e.Decided = s.asTheyAre(append(numbers, made...))
	}
	return nil
}

// says reports whether two decisions ask for the same.
func says(a, b *catalog.Decision) bool {
	return a.Verb == b.Verb && a.Region == b.Region && a.Slate == b.Slate && a.Root == b.Root && a.Incarnation == b.Incarnation &&
		(a.Position == nil) == (b.Position == nil) && (a.Position == nil || *a.Position == *b.Position)
}
