package state

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// PrunePlan is which restore points of a slate are beyond policy, and what a
// [Carry] to prune would do.
type PrunePlan struct {
	Slate          string  `json:"slate"`
	PositionDomain string  `json:"position_domain" doc:"What the positions count."`
	Lineage        string  `json:"lineage"`
	UpTo           *uint64 `json:"up_to" doc:"How far the log may be cut now: no region's lowest restore point is lifted above it; null: none is lifted."`
	plan.Pruning
	Policies []PolicyRef `json:"policies" doc:"Those that select the slate: what any of them keeps is kept."`
	Plan     string      `json:"plan" doc:"Names the evidence: the same evidence under the same rules gives the same plan."`
	Term     uint64      `json:"term" doc:"Number of the hub's right to decide; 0: this hub does not decide."`
	AsOf     time.Time   `json:"evaluated_at" doc:"Hub's clock."`

	sub    *Subject
	wishes []Wish
}

// PlanPrune says which restore points of a slate are beyond policy, from one
// view. The error is that of [ExplainTrim]; that nothing may go now is no error.
// Anybody may call it.
func PlanPrune(v *view.View, slate, region string, now time.Time) (*PrunePlan, error) {
	sub, err := subjectOf(v, slate, region)
	if err != nil {
		return nil, err
	}
	leaving := map[string][]string{}
	for d := range v.Decisions() {
		if d.Verb == catalog.VerbPrune && d.Slate == slate && goesOn(d.Stage, d.Ended, now) {
			leaving[d.Region] = append(leaving[d.Region], d.Parameter.Remove...)
		}
	}
	return sub.prune(v, v.Rules(), v.Term(), leaving, now), nil
}

// goneWithin is how long after an agent said that it had removed restore points
// they count as gone although they are still shown.
const goneWithin = 5 * time.Minute

// goesOn reports whether a decision may still remove something, or has and the
// news of it may be under way.
func goesOn(stage Stage, ended *time.Time, now time.Time) bool {
	return !stage.Settled() || stage != StageRefused && stage != StageExpired && ended != nil && now.Sub(*ended) < goneWithin
}

// leaving are the restore points of a slate that decisions remove, by region.
func (s *State) leaving(sub *Subject) map[string][]string {
	var out map[string][]string
	for i := range sub.Sites {
		region := sub.Sites[i].Region
		for _, n := range s.dec.about[matter{region, sub.Name}] {
			d := s.dec.all[n]
			if d.Decision.Verb != catalog.VerbPrune || !goesOn(d.Stage, &d.Ended, s.wall) {
				continue
			}
			if out == nil {
				out = map[string][]string{}
			}
			out[region] = append(out[region], d.Decision.Parameters.Remove...)
		}
	}
	return out
}

// sawPruned reports whether what a decision removes is shown no more.
func (s *State) sawPruned(d *Decided) bool {
	x := &d.Decision
	for _, key := range x.Parameters.Remove {
		if s.b.RestorePoint(x.Region, x.Root, key) != nil {
			return false
		}
	}
	row := s.b.Placement(x.Region, x.Root)
	return row == nil || d.Outcome == nil || !slices.ContainsFunc(row.Orphans, func(o catalog.Orphan) bool { return slices.Contains(d.Outcome.Saw.Removed, o.Path) })
}

// prune says what is beyond policy, and what decisions that asks for.
func (s *Subject) prune(v *view.View, rules *regions.Rules, term uint64, leaving map[string][]string, now time.Time) *PrunePlan {
	s.rule(rules, now)
	trim, _ := s.Trim(rules, now)
	policies := s.Policies(rules)
	p := &PrunePlan{Slate: s.Name, PositionDomain: s.Domain, Lineage: s.Lineage, UpTo: trim.UpTo, Term: term, AsOf: now.UTC(), Policies: []PolicyRef{}, sub: s}
	for i := range policies {
		p.Policies = append(p.Policies, PolicyRef{policies[i].Name, policies[i].Applied.Revision})
	}
	if s.Kind != catalog.KindSnapshots {
		p.Pruning = plan.Pruning{Action: plan.Wait, Regions: []plan.RegionPruning{}, Reasons: []plan.Reason{{Code: plan.NoArchive,
			Message: fmt.Sprintf("%s is no snapshot repository: its restore points are checkpoints, which those remove who made them", s.Name)}}}
	} else {
		p.Pruning = plan.Prune(policies, s.forPrune(v, rules, leaving, now), trim.UpTo, now)
	}
	evidence := p.evidence()
	p.Plan = planName(evidence)
	p.wishes = wishesPrune(s, &p.Pruning, p.by(policies), bearing{now: now, policies: policies, plan: p.Plan, evidence: evidence})
	return p
}

// by is the policy whose word it is: the first that says what is kept.
func (p *PrunePlan) by(policies []regions.Policy) PolicyRef {
	for i := range policies {
		if prunes(&policies[i]) {
			return p.Policies[i]
		}
	}
	return PolicyRef{}
}

// prunes reports whether a policy says what may be removed.
func prunes(p *regions.Policy) bool {
	return p.RestorePoints.Keep != (regions.Keep{}) || p.RestorePoints.SweepOrphans.Enabled
}

// forPrune is the slate as the rule about restore points sees it.
func (s *Subject) forPrune(v *view.View, rules *regions.Rules, leaving map[string][]string, now time.Time) plan.Slate {
	out := s.Slate
	out.Pins = slices.Clone(s.seen)
	for i := range rules.Holds {
		if h := &rules.Holds[i]; s.heldBy(h) && h.Forbids(regions.ActionPrune, now) {
			from := h.From.Position
			pin := plan.Pin{Kind: plan.PinHold, ID: h.Name, Position: &from}
			if h.Legal {
				pin.Kind = plan.PinLegal
			}
			out.Pins = append(out.Pins, pin)
		}
	}
	out.Regions = slices.Clone(s.Regions)
	for i := range out.Regions {
		r := &out.Regions[i]
		if gone := leaving[r.Name]; len(gone) > 0 {
			r.Points = slices.Clone(r.Points)
			for j := range r.Points {
				r.Points[j].Leaving = slices.Contains(gone, r.Points[j].Key)
			}
		}
		for j := range s.Sites {
			site := &s.Sites[j]
			if site.Region != r.Name {
				continue
			}
			if p := site.Permit; p != nil && p.UpTo != nil && p.Incarnation == site.Incarnation && p.PositionDomain == s.Domain && p.Lineage == s.Lineage &&
				now.Before(p.Seen.Add(p.NotAfter.Sub(p.Issued))) {
				r.Permitted = p.UpTo
			}
			if row := v.Placement(site.Region, site.Root); row != nil {
				for _, o := range row.Orphans {
					one := plan.Orphan{ID: o.Path}
					if o.ChangedAt != nil {
						one.ChangedAt = *o.ChangedAt
					}
					r.Orphans = append(slices.Clip(r.Orphans), one)
				}
			}
		}
	}
	return out
}

// evidence is the SHA-256 of what a pruning follows from, without its moments.
func (p *PrunePlan) evidence() [32]byte {
	type fate struct {
		Key      string
		Position uint64
		State    catalog.RestoreState
		Stays    bool
		Why      plan.Stay
	}
	type region struct {
		Name    string
		Action  plan.Action
		Fates   []fate
		Sweep   bool
		Floor   *uint64
		Reasons []plan.Code
	}
	codes := func(all []plan.Reason) (out []plan.Code) {
		for _, r := range all {
			out = append(out, r.Code)
		}
		return out
	}
	of := struct {
		Slate, Domain, Lineage string
		Policies               []PolicyRef
		Regions                []region
		Reasons                []plan.Code
	}{Slate: p.Slate, Domain: p.PositionDomain, Lineage: p.Lineage, Policies: p.Policies, Reasons: codes(p.Reasons)}
	for i := range p.Regions {
		r := &p.Regions[i]
		one := region{r.Region, r.Action, nil, r.Sweep, r.Floor, codes(r.Reasons)}
		for _, f := range r.Points {
			one.Fates = append(one.Fates, fate{f.Key, f.Position, f.State, f.Stays, f.Why})
		}
		of.Regions = append(of.Regions, one)
	}
	raw, err := json.Marshal(of)
	if err != nil {
		panic(fmt.Errorf("state: evidence: %w", err)) // plain values
	}
	return sha256.Sum256(raw)
}

// pruneExpires is longer than of other decisions: the requests of a pruning are
// paid from the agent's hourly budget, object by object.
const pruneExpires = time.Hour

const (
	maxRemove = 256 // restore points in one decision; the others go by the next
	maxMust   = 16  // of those that stay, looked at once more before
)

// wishesPrune are the decisions that a pruning asks for: one in each region that
// has something to remove.
func wishesPrune(s *Subject, p *plan.Pruning, by PolicyRef, m bearing) []Wish {
	var out []Wish
	for i := range p.Regions {
		r := &p.Regions[i]
		if r.Action != plan.Remove || p.Action != plan.Remove {
			continue
		}
		var sites []*Site
		for j := range s.Sites {
			if s.Sites[j].Region == r.Region {
				sites = append(sites, &s.Sites[j])
			}
		}
		if len(sites) != 1 || !sites[0].Live {
			continue // which of two is meant nobody could say
		}
		d := catalog.Decision{
			Verb: catalog.VerbPrune, Region: r.Region, Slate: s.Name, Root: sites[0].Root, Incarnation: sites[0].Incarnation,
			Position: r.Floor, PositionDomain: s.Domain, Lineage: s.Lineage,
			// The lowest first: so that however many go at once, what stays is what was meant.
			Parameters: catalog.Parameters{Remove: r.Remove[max(0, len(r.Remove)-maxRemove):], Restorable: r.Keep, Grace: plan.UploadGrace},
			Evidence:   m.evidence, Expires: pruneExpires,
		}
		if r.Sweep {
			d.Parameters.SweepOrphans, d.Parameters.OrphansOlder = true, r.OlderThan
		}
		for _, f := range r.Points {
			if f.Stays && f.State == catalog.RestoreVerified && uint64(len(d.Preconditions)) < min(r.Keep, maxMust) {
				d.Preconditions = append(d.Preconditions, catalog.Precondition{What: catalog.PreRestorePoint, Value: f.Key})
			}
		}
		out = append(out, Wish{Proposal: Proposal{Decision: d, Bytes: r.Bytes}, Plan: m.plan, Policy: by})
	}
	return out
}

// wishesPruneNow are those of a subject as things stand: none that was carried
// out not long ago by the same evidence and changed nothing.
func (s *State) wishesPruneNow(sub *Subject) []Wish {
	if sub.Kind != catalog.KindSnapshots || !slices.ContainsFunc(s.rules.Policies, func(p regions.Policy) bool { return prunes(&p) && sub.under(&p) }) {
		return nil
	}
	p := sub.prune(&s.b.View, s.rules, s.deciding(), s.leaving(sub), s.wall)
	return slices.DeleteFunc(p.wishes, func(w Wish) bool {
		o := s.before(&w.Decision)
		return o != nil && o.Plan == w.Plan && o.Stage == StageDone && s.wall.Sub(o.Ended) < time.Hour
	})
}

// carryPrune carries out a pruning at a person's word.
func (e Carry) carryPrune(s *State, sub *Subject) error {
	if e.UpTo != nil {
		return fmt.Errorf("a pruning has no position: what stays is the policy's to say: %w", catalog.ErrInvalid)
	}
	p := sub.prune(&s.b.View, s.rules, s.deciding(), s.leaving(sub), s.wall)
	wishes := p.wishes
	if e.Region != "" {
		wishes = slices.DeleteFunc(wishes, func(w Wish) bool { return w.Decision.Region != e.Region })
	}
	switch {
	case e.Plan != "" && e.Plan != p.Plan:
		return fmt.Errorf("%w: plan %s is not what is found now, which is %s; look at it again", ErrPlanExpired, e.Plan, p.Plan)
	case len(wishes) == 0 && len(p.waits(e.Region)) > 0:
		return &Refused{"no restore point of " + sub.Name + " is removed", p.waits(e.Region)}
	}
	var under []uint64 // what is asked for and under way already
	for i := range sub.Sites {
		o := s.underWay(&catalog.Decision{Verb: e.Verb, Region: sub.Sites[i].Region, Slate: sub.Name})
		if o != nil && (e.Region == "" || o.Decision.Region == e.Region) {
			under = append(under, o.Number)
		}
	}
	if err := s.carry(wishes, e); err != nil {
		return err
	}
	if e.Decided != nil {
		for _, o := range s.asTheyAre(under) {
			if !slices.ContainsFunc(*e.Decided, func(d Decided) bool { return d.Number == o.Number }) {
				*e.Decided = append(*e.Decided, o)
			}
		}
	}
	return nil
}

// waits are the reasons for which nothing goes, everywhere or in a region.
func (p *PrunePlan) waits(region string) []plan.Reason {
	out := slices.Clone(p.Reasons)
	for i := range p.Regions {
		if r := &p.Regions[i]; region == "" || r.Region == region {
			out = append(out, r.Reasons...)
		}
	}
	return out
}
