package state

import (
	"cmp"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// blockedSince is since when something has held a slate back, as far as the
// evidence says when it began; nil: it does not say, or nothing holds it back.
// It is never too early: where only several regions together hold it back, it
// is since the last of them does.
func (s *Subject) blockedSince(v *plan.Verdict, p *regions.Policy, rules *regions.Rules) *time.Time {
	var since, late *time.Time
	earlier := func(t time.Time) {
		if since == nil || t.Before(*since) {
			since = &t
		}
	}
	for _, why := range v.Reasons {
		switch why.Code {
		case plan.Frozen, plan.LastSnapshot:
			for i := range rules.Freezes {
				if f := &rules.Freezes[i]; f.Covers(s.Name, s.Placed) {
					earlier(f.At.UTC())
				}
			}
		case plan.OnHold, plan.OnLegalHold:
			for i := range rules.Holds {
				if h := &rules.Holds[i]; s.heldBy(h) && h.From.Position == 0 {
					earlier(h.Applied.At.UTC())
				}
			}
		case plan.RegionStale, plan.RegionBlind, plan.RegionReset:
			r := s.regionOf(v, why)
			if r == nil || !r.Heard {
				continue // since before this hub knows anything
			}
			at := r.Since.UTC()
			if p != nil && p.Trim != nil && p.Trim.Require.All || r.Membership == catalog.Joining {
				earlier(at)
			} else if late == nil || at.After(*late) {
				late = &at
			}
		}
	}
	if since == nil {
		return late
	}
	return since
}

// regionOf is the region whose opinion a reason is.
func (s *Subject) regionOf(v *plan.Verdict, why plan.Reason) *plan.Region {
	for i := range v.Regions {
		if o := &v.Regions[i]; slices.Contains(o.Reasons, why) {
			for j := range s.Slate.Regions {
				if r := &s.Slate.Regions[j]; r.Name == o.Region {
					return r
				}
			}
		}
	}
	return nil
}

// history adds what a placement keeps in its bucket beside its newest state:
// objects that only its restore points, holds and readers still need, or that
// nobody has collected yet.
func (s *Subject) history(p *catalog.Placement, points []*catalog.RestorePoint) {
	if p.ListedBytes == nil {
		return
	}
	newest := p.Bytes
	if p.Kind == catalog.KindSnapshots {
		newest = nil
		for _, rp := range points { // the highest position first
			if rp.Region == p.Region && rp.Root == p.Root && rp.Position != nil {
				newest = rp.Bytes
				break
			}
		}
	}
	if newest == nil {
		return
	}
	n := uint64(0)
	if *p.ListedBytes > *newest {
		n = *p.ListedBytes - *newest
	}
	if s.HeldBytes == nil {
		s.HeldBytes = new(uint64)
	}
	*s.HeldBytes += n
}

// Trims sums up the verdicts on trimming over all slates that any policy
// selects.
type Trims struct {
	Slates    uint64        `json:"slates" doc:"Slates that any policy selects."`
	Permitted uint64        `json:"permitted" doc:"May be trimmed, up to their floors."`
	Blocked   uint64        `json:"blocked" doc:"Wait."`
	HeldBytes *uint64       `json:"held_bytes" doc:"Bytes that the blocked keep beside their newest state; null: of none it is known."`
	Since     *time.Time    `json:"blocked_since" doc:"Since when the one that waits longest has waited, as far as is known."`
	Reasons   []BlockReason `json:"reasons" doc:"Why they wait; a slate may wait for several reasons."`
}

// BlockReason is how much waits for one reason.
type BlockReason struct {
	Code      string     `json:"code"`
	Slates    uint64     `json:"slates"`
	HeldBytes *uint64    `json:"held_bytes"`
	Since     *time.Time `json:"blocked_since"`
}

// SumTrims gives the sums from one view. It costs by the slates that policies
// select: a fraction of a microsecond for each that is permitted, some
// microseconds for each that waits. Anybody may call it.
func SumTrims(v *view.View, now time.Time) *Trims {
	out := &summer{Trims: Trims{Reasons: []BlockReason{}}, by: map[plan.Code]*BlockReason{}, rules: v.Rules(), now: now}
	if k := docketOf(v); k != nil {
		out.docketed(k, v)
	} else {
		eachUnder(v, func(s *Subject) {
			s.rule(out.rules, now)
			out.add(s)
		}, out.rules)
	}
	for _, b := range out.by {
		out.Reasons = append(out.Reasons, *b)
	}
	slices.SortFunc(out.Reasons, func(a, b BlockReason) int {
		return cmp.Or(cmp.Compare(b.Slates, a.Slates), cmp.Compare(a.Code, b.Code))
	})
	return &out.Trims
}

// summer adds verdicts up.
type summer struct {
	Trims
	by    map[plan.Code]*BlockReason
	rules *regions.Rules
	now   time.Time
}

// docketed adds up what the docket has: who is permitted is counted, who waits is
// asked why.
func (t *summer) docketed(k *docket, v *view.View) {
	j := newJudge(k, v, t.rules, t.now)
	w := witness{regions: standings(v)}
	for place := range k.places {
		r, selected := j.on(place)
		switch {
		case !selected:
		case r.Permit:
			t.Slates++
			t.Permitted++
		default:
			row := k.row(place)
			subjects := w.hear(v, row.name)
			for i := range subjects {
				if s := &subjects[i]; s.Lineage == row.lineage && s.Domain == row.domain {
					s.rule(t.rules, t.now)
					t.add(s)
				}
			}
		}
	}
}

// add counts a slate.
func (t *summer) add(s *Subject) {
	verdict, p := s.Trim(t.rules, t.now)
	t.Slates++
	if verdict.Action == plan.Permit {
		t.Permitted++
		return
	}
	t.Blocked++
	since := s.blockedSince(&verdict, p, t.rules)
	t.HeldBytes, t.Since = plus(t.HeldBytes, s.HeldBytes), earliest(t.Since, since)
	for i, why := range verdict.Reasons {
		if slices.ContainsFunc(verdict.Reasons[:i], func(r plan.Reason) bool { return r.Code == why.Code }) {
			continue
		}
		b := t.by[why.Code]
		if b == nil {
			b = &BlockReason{Code: string(why.Code)}
			t.by[why.Code] = b
		}
		b.Slates++
		b.HeldBytes, b.Since = plus(b.HeldBytes, s.HeldBytes), earliest(b.Since, since)
	}
}

func plus(sum, n *uint64) *uint64 {
	if n == nil {
		return sum
	}
	total := *n
	if sum != nil {
		total += *sum
	}
	return &total
}

func earliest(a, b *time.Time) *time.Time {
	if a == nil || b != nil && b.Before(*a) {
		return b
	}
	return a
}

// eachUnder gives the slates that a policy of any of the rules selects, in
// order of their names. Of most slates of a fleet no policy says anything: they
// cost a look at name and kind.
func eachUnder(v *view.View, each func(*Subject), rules ...*regions.Rules) {
	t := v.PlacementTable()
	last, done := "", false
	t.Names().Ascend(table.First, func(_ uint64, id *table.Ident) bool {
		if id.Slate == last && done {
			return true
		}
		if id.Slate != last {
			last, done = id.Slate, false
		}
		o := regions.Subject{Name: id.Slate, Kind: v.KindAt(id.Slot)}
		if !slices.ContainsFunc(rules, func(r *regions.Rules) bool { return selected(r, o) }) {
			return true
		}
		done = true
		for _, s := range Subjects(v, id.Slate) {
			if slices.ContainsFunc(rules, func(r *regions.Rules) bool {
				return slices.ContainsFunc(r.Policies, func(p regions.Policy) bool { return s.under(&p) })
			}) {
				each(&s)
			}
		}
		return true
	})
}

// selected reports whether a policy may be about a slate of that name and kind.
func selected(r *regions.Rules, o regions.Subject) bool {
	for i := range r.Policies {
		if r.Policies[i].Select.Matches(o) {
			return true
		}
	}
	return false
}
