package state

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// What is published may stay while nobody knows better: a region that is silent,
// blind, reset or joining, a window that is closed and an open breaker withdraw
// nothing (RS-3, RS-4). What people decided, and what is seen to be lost, does.

// Withdrawal is what became of a permit that may not be any more.
type Withdrawal struct {
	Slate  string `json:"slate"`
	Region string `json:"region"`
	// Permit is the decision that was carried out, or under way, and Stage how
	// far it had come; UpTo is its position.
	Permit string        `json:"permit" doc:"The decision that had permitted it."`
	Stage  catalog.Stage `json:"stage" doc:"How far it had come: done is what an owner may have acted by."`
	UpTo   uint64        `json:"up_to" doc:"Position that it permitted, inclusive."`
	// TrimmedTo is what was observed to be cut; nil: not known.
	TrimmedTo *uint64 `json:"trimmed_to" doc:"What the owner was observed to have cut; null: not known."`
	// Decision is the one that withdraws it; empty: it was stopped before it left.
	Decision string `json:"decision" doc:"The decision that withdraws it; empty: it had not left the hub."`
}

// ceiling is how far may be published in a region at most.
type ceiling struct {
	none bool // nothing may
	upTo uint64
	why  []plan.Reason
}

func (c *ceiling) allows(n uint64) bool { return !c.none && n <= c.upTo }

var noCeiling = ceiling{upTo: math.MaxUint64}

// excused is the slate as it would be if every region of which nothing is known
// had archived everything, and everything that is listed were whole: what is
// held back then is held back by what is known. some is whether there was such a
// region.
func (s *Subject) excused(keep int, now time.Time) (out plan.Slate, some bool) {
	out = s.Slate
	out.Regions = slices.Clone(s.Regions)
	long := now.Add(-100 * 365 * 24 * time.Hour)
	for i := range out.Regions {
		r := &out.Regions[i]
		blind := unseen(r)
		r.Points = slices.Clone(r.Points)
		listed := false
		for j := range r.Points {
			p := &r.Points[j]
			if p.State == catalog.RestoreListed { // it is still to be looked at
				p.State = catalog.RestoreVerified
			}
			if p.State == catalog.RestoreVerified {
				p.FirstSeen, p.VerifiedAt, listed = long, now, true
			}
		}
		if blind || r.Membership == catalog.Joining && !listed {
			some = true
			r.Heard, r.State, r.Placed, r.Lineage, r.Unreadable, r.Points = true, catalog.RegionConnected, true, s.Lineage, "", nil
			for range keep {
				r.Points = append(r.Points, plan.Point{ID: "not known", Position: math.MaxUint64, State: catalog.RestoreVerified, FirstSeen: long, VerifiedAt: now})
			}
		}
	}
	return out, some
}

// unseen reports whether nothing that is known of a region may be believed now.
func unseen(r *plan.Region) bool {
	return !r.Heard || r.State != catalog.RegionConnected && r.State != catalog.RegionSuspect
}

// ceilingOf is how far may be published of a slate anywhere, by what is known.
func (s *Subject) ceilingOf(rules *regions.Rules, now time.Time) ceiling {
	policies := slices.Clone(s.Policies(rules))
	for i := range policies {
		p := &policies[i]
		p.Windows = nil
		if p.Trim != nil {
			t := *p.Trim
			t.MaxLag = nil // who lags has not lost anything
			p.Trim = &t
		}
	}
	m := bearing{policies: policies}
	slate, some := s.excused(m.keep(), now)
	v, _ := plan.Under(policies, slate, now)
	if v.Action == plan.Permit {
		return ceiling{upTo: *v.UpTo}
	}
	if some && !slices.ContainsFunc(v.Reasons, func(r plan.Reason) bool { return r.Code != plan.WouldStrand }) {
		return noCeiling // nobody knows how far it would be
	}
	return ceiling{none: true, why: v.Reasons}
}

// ceilingIn is how far may be published in one region: no further than what it
// can restore itself.
func (s *Subject) ceilingIn(region string, all ceiling, keep int, now time.Time) ceiling {
	r := s.In(region)
	if all.none || r == nil || unseen(r) || !r.Placed {
		return all
	}
	var have []uint64
	for i := range r.Points {
		if p := &r.Points[i]; p.State == catalog.RestoreVerified || p.State == catalog.RestoreListed {
			have = append(have, p.Position)
		}
	}
	slices.Sort(have)
	if len(have) < keep {
		return ceiling{none: true, why: []plan.Reason{{Code: plan.BelowMinSnapshots, Message: fmt.Sprintf("region %s has %d restore points, %d must be", region, len(have), keep)}}}
	}
	if own := have[len(have)-keep]; own < all.upTo {
		return ceiling{upTo: own, why: []plan.Reason{{Code: plan.BelowMinSnapshots, Message: fmt.Sprintf("region %s can restore up to %d", region, own)}}}
	}
	return all
}

// retract withdraws what is published, or about to be, of the slates of a name
// beyond what may be.
func (s *State) retract(name, by, why string) (out []Withdrawal) {
	var subjects []Subject
	for _, r := range s.names {
		at := matter{r, name}
		permits := s.mayRule(at)
		if len(permits) == 0 {
			continue
		}
		if subjects == nil {
			subjects = s.subjects(name)
		}
		for _, p := range permits {
			c := s.ceilingFor(subjects, r, p.lineage, p.incarnation)
			if c.allows(p.upTo) {
				continue
			}
			w := Withdrawal{Slate: name, Region: r, Permit: p.decision, Stage: p.stage, UpTo: p.upTo, TrimmedTo: trimmedTo(subjects, r, p.root)}
			if d := s.dec.all[p.number]; d != nil && d.Sent.IsZero() {
				s.end(d, StageRefused, told(c.why), by, why)
			} else {
				w.Decision = s.withdrawn(&p, at, c, by, why)
			}
			out = append(out, w)
		}
	}
	return out
}

// mayRuling is a permit that rules a slate in a region, or may, or may soon.
type mayRuling struct {
	decision                           string
	number                             uint64 // of the decision; 0: the ledger does not have it
	stage                              catalog.Stage
	upTo                               uint64
	root, incarnation, lineage, domain string
}

// mayRule are the permits of a matter that may let an owner cut: the one that
// was seen, those under way, those that came to an end which says little, and
// where nothing was seen yet what the ledger says was done.
func (s *State) mayRule(at matter) (out []mayRuling) {
	row := s.b.Permit(at.region, at.slate)
	if row.MayRule(s.wall) {
		out = append(out, mayRuling{row.Decision, s.dec.ids[row.Decision], catalog.StageDone, *row.UpTo, row.Root, row.Incarnation, row.Lineage, row.PositionDomain})
	}
	for _, n := range s.dec.about[at] {
		d := s.dec.all[n]
		x := &d.Decision
		switch {
		case x.Verb == catalog.VerbWithdraw && d.Stage == StageDone:
			out = slices.DeleteFunc(out, func(p mayRuling) bool { return p.number < n })
		case x.Verb != catalog.VerbPermit || x.Position == nil || row != nil && row.Decision == x.ID:
		case d.Stage == StageRefused || d.Stage == StageExpired:
		case row != nil && row.Ledger == x.Ledger && x.Sequence != 0 && row.Sequence > x.Sequence: // another one rules since
		case d.Stage == StageDone && row != nil && row.Ledger != x.Ledger: // another ledger's does
		case d.Stage.Settled() && s.wall.Sub(d.Sent) >= x.Expires+x.Parameters.ValidFor+view.ClocksBehind:
		default:
			out = append(out, mayRuling{x.ID, n, d.Stage, *x.Position, x.Root, x.Incarnation, x.Lineage, x.PositionDomain})
		}
	}
	return out
}

func trimmedTo(subjects []Subject, region, root string) *uint64 {
	for i := range subjects {
		for j := range subjects[i].Sites {
			if site := &subjects[i].Sites[j]; site.Region == region && site.Root == root {
				return site.TrimmedTo
			}
		}
	}
	return nil
}

// ceilingFor is how far may be published for a database in a region. Of one that
// nobody sees any more nothing is known: what rules it stays until it is over.
func (s *State) ceilingFor(subjects []Subject, region, lineage, incarnation string) ceiling {
	for i := range subjects {
		sub := &subjects[i]
		if sub.Lineage != lineage || !slices.ContainsFunc(sub.Sites, func(o Site) bool { return o.Region == region && o.Incarnation == incarnation }) {
			continue
		}
		c := sub.ceilingOf(s.rules, s.wall)
		m := bearing{policies: sub.Policies(s.rules)}
		return sub.ceilingIn(region, c, m.keep(), s.wall)
	}
	return noCeiling
}

// withdrawn has a permit withdrawn, by a decision after its own, and gives the
// decision's id; empty when it could not be.
func (s *State) withdrawn(p *mayRuling, at matter, c ceiling, by, why string) string {
	for _, o := range s.dec.about[at] {
		if d := s.dec.all[o]; o > p.number && d.Decision.Verb == catalog.VerbWithdraw && !d.Stage.Settled() {
			return d.Decision.ID
		}
	}
	w := Wish{Plan: "withdraw " + p.decision, Proposal: Proposal{Within: catalog.MaxExpiry, Decision: catalog.Decision{
		Verb: catalog.VerbWithdraw, Region: at.region, Slate: at.slate, Root: p.root, Incarnation: p.incarnation,
		PositionDomain: p.domain, Lineage: p.lineage, Expires: decisionExpires,
	}}}
	if by == "hub" && s.triedLately(&w) { // a person's word goes at once
		return s.before(&w.Decision).Decision.ID
	}
	because := fmt.Sprintf("up to %d may be published", c.upTo)
	if len(c.why) > 0 {
		because = c.why[0].String()
	}
	if why = withWhy(why, because); strings.HasPrefix(why, ": ") {
		why = because
	}
	made, err := s.propose([]Wish{w}, by, why)
	if err != nil {
		return ""
	}
	return s.dec.all[made[0]].Decision.ID
}

// narrowedSince reports whether people, or a loss, have forbidden what a decision
// other than a permit would let go, since it was proposed: of words that only the
// hub has, agents know nothing.
func (s *State) narrowedSince(d *Decided) bool {
	x := &d.Decision
	if x.Verb == catalog.VerbPermit || x.Verb.OfRegion() || !x.Verb.Irreversible() && x.Parameters.Replaces == "" {
		return false
	}
	if p := d.Policy; p.Revision > 0 {
		policy, hold := s.rules.Policy(p.Name), s.rules.Hold(p.Name)
		if (policy == nil || policy.Applied.Revision != p.Revision) && (hold == nil || hold.Applied.Revision != p.Revision) {
			return true
		}
	}
	subjects := s.subjects(x.Slate)
	for i := range subjects {
		sub := &subjects[i]
		if sub.Lineage != x.Lineage {
			continue
		}
		if sub.Frozen != "" || sub.Lost != "" {
			return true
		}
		for j := range s.rules.Holds {
			h := &s.rules.Holds[j]
			if h.Applied.At.After(d.Proposed) && sub.heldBy(h) && (h.Forbids(regions.ActionPrune, s.wall) || h.Forbids(regions.ActionTrim, s.wall)) {
				return true
			}
		}
		if slices.ContainsFunc(sub.Policies(s.rules), func(p regions.Policy) bool { return p.Applied.At.After(d.Proposed) }) {
			return true
		}
	}
	return false
}

// forbidden ends a decision that was not sent yet and is forbidden since, and
// reports whether it did.
func (s *State) forbidden(d *Decided, by, why string) bool {
	if !d.Sent.IsZero() || !s.narrowedSince(d) {
		return false
	}
	s.end(d, StageRefused, []catalog.Reason{{Code: catalog.CodeExpired, Message: "people have forbidden it since, or something was lost; it was not sent"}}, by, why)
	return true
}

// stillSo reports whether what waits to be sent is still what the rules permit.
// What cannot be any more ends; a permit of which nobody knows waits on.
func (s *State) stillSo(d *Decided) bool {
	x := &d.Decision
	if s.forbidden(d, "hub", "") {
		return false
	}
	if x.Verb != catalog.VerbPermit || d.Plan == "" || x.Position == nil {
		return true
	}
	subjects := s.subjects(x.Slate)
	for i := range subjects {
		sub := &subjects[i]
		if sub.Lineage != x.Lineage || sub.Domain != x.PositionDomain {
			continue
		}
		v, _ := sub.Trim(s.rules, s.wall)
		if v.Action != plan.Permit {
			continue
		}
		m := s.bearingOf(sub, v)
		for j := range sub.Sites {
			if site := &sub.Sites[j]; site.Region == x.Region && site.Root == x.Root && site.Incarnation == x.Incarnation {
				if target, ok := sub.target(site, *v.UpTo, m); ok && *x.Position <= target {
					return true
				}
			}
		}
	}
	if c := s.ceilingFor(subjects, x.Region, x.Lineage, x.Incarnation); !c.allows(*x.Position) {
		s.end(d, StageRefused, append(told(c.why), catalog.Reason{Code: catalog.CodeExpired, Message: "it is not what is found now"}), "hub", "")
	}
	return false
}

// withdrawnAfter reports whether a permit is withdrawn by a later decision that is
// under way.
func (s *State) withdrawnAfter(d *Decided) bool {
	return slices.ContainsFunc(s.dec.about[matter{d.Decision.Region, d.Decision.Slate}], func(n uint64) bool {
		o := s.dec.all[n]
		return n > d.Number && o.Decision.Verb == catalog.VerbWithdraw && !o.Stage.Settled()
	})
}

func told(reasons []plan.Reason) (out []catalog.Reason) {
	for _, r := range reasons {
		out = append(out, catalog.Reason{Code: string(r.Code), Message: r.Message})
	}
	return out
}

// checkAtOnce is how many slates with permits one step looks at, and narrowAtOnce
// how many a person's command does: the rest is looked at in the next steps,
// before anything else.
const (
	checkAtOnce  = 64
	narrowAtOnce = 512
)

// checkPublished withdraws what may not be of some more slates, and reports
// whether there are more.
func (s *State) checkPublished() (more bool) {
	k := &s.steward
	names, more := s.published(k.at, k.begun, checkAtOnce)
	for _, n := range names {
		k.at, k.begun = n, true
		s.retract(n, "hub", "")
	}
	s.issue()
	return more
}

// published are the names of some slates, after one, that have permits which may
// rule.
func (s *State) published(after string, begun bool, most int) (names []string, more bool) {
	for p := range s.b.PermitsFrom(after) {
		switch {
		case begun && p.Slate == after, len(names) > 0 && names[len(names)-1] == p.Slate, !p.MayRule(s.wall):
		case len(names) == most:
			return names, true
		default:
			names = append(names, p.Slate)
		}
	}
	return names, false
}

// narrow withdraws, in the step in which people decided something, what they
// have forbidden by it, and says what agents had carried out.
func (s *State) narrow(by, why string, withdrawn *[]Withdrawal) {
	out := []Withdrawal{}
	if withdrawn != nil {
		defer func() { *withdrawn = out }()
	}
	if s.deciding() == 0 {
		return
	}
	names, _ := s.published("", false, narrowAtOnce)
	for _, d := range s.dec.all {
		row := s.b.Permit(d.Decision.Region, d.Decision.Slate) // of a saved view it may be an older one
		if d.Decision.Verb == catalog.VerbPermit && (!d.Stage.Settled() || row == nil || row.Sequence < d.Decision.Sequence) {
			names = append(names, d.Decision.Slate)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, n := range names {
		out = append(out, s.retract(n, firstOf(by, "somebody"), why)...)
	}
	for _, n := range slices.Sorted(maps.Keys(s.dec.open)) {
		s.forbidden(s.dec.all[n], firstOf(by, "somebody"), why)
	}
	s.issue()
}
