package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// Explanation is a verdict with everything that it follows from.
type Explanation struct {
	Slate string `json:"slate"`
	// PositionDomain and Lineage are those of all positions here.
	PositionDomain string `json:"position_domain" doc:"What the positions count: lsn, seq, log-seq."`
	Lineage        string `json:"lineage" doc:"Of the placements that this is about: only within one are positions compared."`
	plan.Verdict
	Policy PolicyRef `json:"policy" doc:"The policy whose word it was; an empty name: no policy permits it."`
	// Others also select the slate, and are less restrictive.
	Others []PolicyRef `json:"other_policies" doc:"Policies that select the slate too, and restrict it less."`
	// Quorum, Gap and Keep are what that policy asks for.
	Quorum  string `json:"quorum" doc:"Which regions have to have archived: all(ams,eu), or 2 of (ams,eu,us) with ams."`
	Gap     uint64 `json:"safety_gap" doc:"Positions that are kept beside what is archived."`
	Keep    uint64 `json:"keep_newest" doc:"Positions that are kept below the head."`
	Readers uint64 `json:"readers" doc:"Live readers and consumers, whether they bound the floor or not."`
	// Inventory says which news of each required region the verdict has seen.
	Inventory []RegionRevision `json:"inventory" doc:"Newest revision of each required region that the verdict has seen."`
	HeldBytes *uint64          `json:"held_bytes" doc:"Bytes in the regions' buckets that its newest state does not need; null: not known."`
	Since     *time.Time       `json:"blocked_since" doc:"Since when something holds it back, as far as is known; null: nothing does, or it is not known."`
	Plan      string           `json:"plan" doc:"Names the evidence: the same evidence under the same rules gives the same plan."`
	Term      uint64           `json:"term" doc:"Number of the hub's right to decide; 0: this hub does not decide."`
	AsOf      time.Time        `json:"evaluated_at" doc:"Hub's clock."`
	// What was done about it, and what is being done.
	Published []Published `json:"published" doc:"The permits that lie in the regions' buckets."`
	UnderWay  []UnderWay  `json:"under_way" doc:"Decisions about the slate that are not at their end, the newest first."`
}

// PolicyRef names a policy as it was at a revision.
type PolicyRef struct {
	Name     string `json:"name"`
	Revision uint64 `json:"revision"`
}

// RegionRevision is how far a region's news was heard.
type RegionRevision struct {
	Region   string `json:"region"`
	Revision string `json:"revision" doc:"Start of its agent and a counter; empty: nothing was heard."`
}

// quorum says which regions a policy requires.
func quorum(p *regions.Policy, v *plan.Verdict) string {
	var names []string
	for i := range v.Regions {
		names = append(names, v.Regions[i].Region)
	}
	of := "(" + strings.Join(names, ",") + ")"
	if p.Trim.Require.All {
		return "all" + of
	}
	out := fmt.Sprintf("%d of %s", p.Trim.Require.AtLeast, of)
	if len(p.Trim.Require.Include) > 0 {
		out += " with " + strings.Join(p.Trim.Require.Include, ",")
	}
	return out
}

// ErrLineages says that a name means several databases and that a region has to
// say which.
var ErrLineages = errors.New("several databases go by that name")

// ExplainTrim gives the verdict on trimming a slate, from one view. Where the
// name means several databases, region says which one: the one that is there;
// empty: there is only one. The error wraps fs.ErrNotExist or [ErrLineages].
// Anybody may call it.
func ExplainTrim(v *view.View, name, region string, now time.Time) (*Explanation, error) {
	s, err := subjectOf(v, name, region)
	if err != nil {
		return nil, err
	}
	e := s.explain(v.Rules(), v.Term(), now)
	e.acted(s, v, now)
	for r := range v.Regions() {
		if slices.ContainsFunc(e.Regions, func(o plan.RegionOpinion) bool { return o.Region == r.Name }) {
			e.Inventory = append(e.Inventory, RegionRevision{r.Name, r.Revision})
		}
	}
	return e, nil
}

// subjectOf finds the one slate that a name means; see [ExplainTrim].
func subjectOf(v *view.View, name, region string) (*Subject, error) {
	subjects := Subjects(v, name)
	var found []*Subject
	for i := range subjects {
		if s := &subjects[i]; region == "" || s.in(region) {
			found = append(found, s)
		}
	}
	switch {
	case len(subjects) == 0:
		return nil, &unknownSlate{name: name, near: nearNames(v, name)}
	case len(found) == 0:
		var where []string
		for i := range subjects {
			where = append(where, subjects[i].Placed...)
		}
		slices.Sort(where)
		return nil, &unknownSlate{name: name, region: region, near: slices.Compact(where)}
	case len(found) > 1:
		var where []string
		for _, s := range found {
			where = append(where, strings.Join(s.Placed, ","))
		}
		return nil, &severalSlates{name, where}
	}
	return found[0], nil
}

func (s *Subject) in(region string) bool { return slices.Contains(s.Placed, region) }

func (s *Subject) explain(rules *regions.Rules, term uint64, now time.Time) *Explanation {
	verdict, by := s.Trim(rules, now)
	e := &Explanation{Slate: s.Name, PositionDomain: s.Domain, Lineage: s.Lineage, Verdict: verdict, Others: []PolicyRef{}, Inventory: []RegionRevision{}, Term: term, AsOf: now.UTC()}
	policies := s.Policies(rules)
	for i := range policies {
		ref := PolicyRef{policies[i].Name, policies[i].Applied.Revision}
		if by != nil && ref.Name == by.Name {
			e.Policy = ref
		} else {
			e.Others = append(e.Others, ref)
		}
	}
	if by != nil && by.Trim != nil {
		e.Quorum, e.Gap, e.Keep = quorum(by, &verdict), by.Trim.SafetyGap.Positions, by.Trim.KeepNewest.Positions
	}
	for i := range s.Pins {
		switch s.Pins[i].Kind {
		case plan.PinReader, plan.PinConsumer:
			e.Readers++
		}
	}
	e.HeldBytes, e.Since = s.HeldBytes, s.blockedSince(&verdict, by, rules)
	e.Plan = s.plan(policies, verdict)
	return e
}

// plan names what a verdict follows from.
func (s *Subject) plan(policies []regions.Policy, v plan.Verdict) string {
	return planName(s.evidence(policies, v))
}

func planName(evidence [32]byte) string { return "p-" + hex.EncodeToString(evidence[:8]) }

// evidence is the SHA-256 of what a verdict follows from. Moments are left out of it: that a
// restore point was verified once more changes no plan, and neither does the
// time that passes, unless the verdict is another by it.
func (s *Subject) evidence(policies []regions.Policy, v plan.Verdict) [32]byte {
	type point struct {
		ID       string
		Position uint64
		State    string
	}
	type region struct {
		Name, Membership, State, Lineage, Unreadable string
		Heard, Placed                                bool
		Points                                       []point
	}
	evidence := struct {
		Name, Domain, Lineage string
		Head                  *uint64
		Regions               []region
		Pins                  []plan.Pin
		Frozen                string
		Policies              []PolicyRef
		Action                plan.Action
		UpTo                  *uint64
	}{Name: s.Name, Domain: s.Domain, Lineage: s.Lineage, Pins: s.Pins, Frozen: s.Frozen, Action: v.Action, UpTo: v.UpTo}
	for i := range s.Regions {
		r := &s.Regions[i]
		state := r.State
		if state == catalog.RegionSuspect {
			state = catalog.RegionConnected // only its beat is late: the rules make no difference
		}
		out := region{r.Name, string(r.Membership), string(state), r.Lineage, r.Unreadable, r.Heard, r.Placed, nil}
		for _, p := range r.Points {
			out.Points = append(out.Points, point{p.ID, p.Position, string(p.State)})
		}
		evidence.Regions = append(evidence.Regions, out)
	}
	for i := range policies {
		evidence.Policies = append(evidence.Policies, PolicyRef{policies[i].Name, policies[i].Applied.Revision})
	}
	b, err := json.Marshal(evidence)
	if err != nil {
		panic(fmt.Errorf("state: evidence: %w", err)) // plain values
	}
	return sha256.Sum256(b)
}
