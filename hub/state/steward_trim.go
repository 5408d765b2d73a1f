package state

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// decisionExpires is how long an agent may take to begin with a decision.
const decisionExpires = 10 * time.Minute

// wishesTrim are the permits that a verdict asks for: in each region where the
// slate is live one for min(floor, the region's own archived position). Nothing
// while the verdict waits; what is published already is not wished for again
// before less than a third of its time is left. SlateDB slates but logs are cut
// by their hold: no permit says anything to them.
func wishesTrim(s *Subject, v plan.Verdict, by *regions.Policy, m bearing) []Wish {
	if v.Action != plan.Permit || v.UpTo == nil || by == nil || s.Domain == "" || !cutByPermit(s.Kind) {
		return nil
	}
	var out []Wish
	for i := range s.Sites {
		site := &s.Sites[i]
		target, ok := s.target(site, *v.UpTo, m)
		if !ok {
			continue
		}
		renewal, wanted := wanted(site, target, m)
		if !wanted {
			continue
		}
		w := s.permit(site, target, renewal, PolicyRef{by.Name, by.Applied.Revision}, m)
		w.unruled = site.Permit == nil || site.Permit.UpTo == nil || site.Permit.Incarnation != site.Incarnation
		out = append(out, w)
	}
	return out
}

// permit is the wish for a permit at a site.
func (s *Subject) permit(site *Site, upTo uint64, renewal bool, by PolicyRef, m bearing) Wish {
	return Wish{
		Proposal: Proposal{Decision: catalog.Decision{
			Verb: catalog.VerbPermit, Region: site.Region, Slate: s.Name, Root: site.Root, Incarnation: site.Incarnation,
			Position: &upTo, PositionDomain: s.Domain, Lineage: s.Lineage,
			Parameters: catalog.Parameters{Restorable: uint64(m.keep()), ValidFor: m.permitFor},
			Evidence:   m.evidence, Expires: decisionExpires,
		}},
		Plan: m.plan, Policy: by, Renewal: renewal,
	}
}

// keep is how many restore points the policies keep in each region, all of them
// together: as many must be at or above what is cut.
func (m *bearing) keep() int {
	k := 1
	for i := range m.policies {
		k = max(k, m.policies[i].RestorePoints.PerRegion)
	}
	return k
}

// target is how far may be cut at a site under a floor; ok is false where
// nothing may: nobody can see there, or it has too few restore points.
func (s *Subject) target(site *Site, floor uint64, m bearing) (upTo uint64, ok bool) {
	if !site.Live || slices.ContainsFunc(s.Sites, func(o Site) bool { return o.Region == site.Region && o.Root != site.Root }) {
		return 0, false // two of one name in a region: a permit would not say whose it is
	}
	own, ok := archivedIn(s.In(site.Region), m.keep(), m.now)
	if !ok {
		return 0, false
	}
	return min(floor, own), true
}

// In is what is known of the slate in a region of the set; nil: no such region.
func (s *Subject) In(region string) *plan.Region {
	i := slices.IndexFunc(s.Regions, func(r plan.Region) bool { return r.Name == region })
	if i < 0 {
		return nil
	}
	return &s.Regions[i]
}

// archivedIn is a region's own archived position: that of its k-th newest
// restore point that was verified lately; ok is false when it has fewer or
// nobody knows.
func archivedIn(r *plan.Region, k int, now time.Time) (at uint64, ok bool) {
	if r == nil || !r.Heard || !r.Placed || r.Unreadable != "" ||
		r.State != catalog.RegionConnected && r.State != catalog.RegionSuspect {
		return 0, false
	}
	var verified []uint64
	for i := range r.Points {
		if p := &r.Points[i]; p.State == catalog.RestoreVerified && now.Sub(p.VerifiedAt) <= plan.FreshFor {
			verified = append(verified, p.Position)
		}
	}
	return plan.Archived(verified, uint64(max(k, 0)))
}

// wanted reports whether a permit for target is still to be written at a site,
// and whether it only renews what rules there, or ruled last.
func wanted(site *Site, target uint64, m bearing) (renewal, wanted bool) {
	p := site.Permit
	if p == nil || p.UpTo == nil || p.Incarnation != site.Incarnation {
		return false, true
	}
	age, lasts := m.now.Sub(p.Seen), p.NotAfter.Sub(p.Issued)
	over := age >= lasts
	switch {
	case *p.UpTo < target:
		return false, true
	case over:
		return true, true
	case *p.UpTo > target:
		return true, false // agents move no permit down; until it is over, or withdrawn
	}
	return true, lasts-age < renewBefore(p, lasts)
}

// renewBefore is how much of a permit's time is left when it is renewed: between
// a sixth and a third, so that those of one hour are not renewed all at once.
func renewBefore(p *view.Permit, lasts time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(p.Region + "\x00" + p.Slate))
	return lasts/6 + time.Duration(h.Sum32()%1024)*(lasts/6)/1024
}
