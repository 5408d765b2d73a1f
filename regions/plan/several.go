package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/quarry-db/quarry/regions"
)

// Under is [Trim] where several policies select a slate: the most restrictive
// wins. Each that speaks of trimming is asked by itself, with the largest number
// of restore points that any of them keeps, and one that waits outweighs all;
// else the lowest floor counts. Windows and freezes of every policy count,
// whether it speaks of trimming or not. by is the policy whose word it was, an
// index into policies; -1: no policy permits trimming.
func Under(policies []regions.Policy, s Slate, now time.Time) (v Verdict, by int) {
	by = -1
	_, keep := together(policies)
	for i := range policies {
		if policies[i].Trim == nil {
			continue
		}
		p := policies[i]
		p.RestorePoints.PerRegion = keep
		w := Trim(p, s, now)
		switch {
		case by < 0:
			v, by = w, i
		case v.Action == Wait && w.Action == Wait:
			v.Reasons = append(v.Reasons, unsaid(v.Reasons, w.Reasons)...)
			v.Regions = joined(v.Regions, w.Regions)
		case w.Action == Wait, v.Action == Permit && *w.UpTo < *v.UpTo:
			w.Regions = joined(w.Regions, v.Regions)
			v, by = w, i
		default:
			v.Regions = joined(v.Regions, w.Regions)
		}
	}
	if by < 0 {
		return Trim(regions.Policy{}, s, now), -1
	}
	for i := range policies {
		if closed, why := onlyClosed(&policies[i], now); closed {
			v.Action, v.UpTo, v.Binding, by = Wait, nil, "", i
			v.Reasons = append(v.Reasons, reason(WindowClosed, "trimming is %s, by policy %s", why, policies[i].Name))
		}
	}
	return v, by
}

// together are those of several policies that speak of trimming, and how many
// restore points they keep, all of them together.
func together(policies []regions.Policy) (speak []regions.Policy, keep int) {
	keep = 1
	for i := range policies {
		keep = max(keep, policies[i].RestorePoints.PerRegion)
		if policies[i].Trim != nil {
			speak = append(speak, policies[i])
		}
	}
	return speak, keep
}

// onlyClosed reports whether a policy says nothing of trimming but that it is
// not the time for it.
func onlyClosed(p *regions.Policy, now time.Time) (closed bool, why string) {
	if p.Trim != nil {
		return false, "" // its windows are asked for with the rest
	}
	open, why := p.Open(regions.ActionTrim, now)
	return !open, why
}

// unsaid are the reasons that were not given yet.
func unsaid(said, more []Reason) []Reason {
	return slices.DeleteFunc(slices.Clone(more), func(r Reason) bool { return slices.Contains(said, r) })
}

// joined are the opinions of all regions that any policy requires, those of
// the first where both do.
func joined(a, b []RegionOpinion) []RegionOpinion {
	out := slices.Clone(a)
	for _, o := range b {
		if !slices.ContainsFunc(a, func(x RegionOpinion) bool { return x.Region == o.Region }) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b RegionOpinion) int { return cmp.Compare(a.Region, b.Region) })
	return out
}
