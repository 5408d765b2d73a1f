package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/quarry-db/quarry/regions"
)

// FreshFor is how long a verification counts; an older one is a claim (P3).
const FreshFor = 24 * time.Hour

// Trim says how far the history of a slate may be cut: at most to the lowest
// archived position over the regions that the policy requires (with atLeast m
// the m-th highest), less the safety gap, and below every hold and live reader
// (P5). now is the hub's clock, as all moments in s are.
//
// The regions of s must be all of the region set, whether the slate is there or
// not: those that are not required are ignored.
//
// It decides as [Fleet.Decide] does, by the same function, and adds the words.
func Trim(p regions.Policy, s Slate, now time.Time) Verdict {
	// Columns are the places in s.Regions; the rule asks them by name.
	var places [8]int
	order := places[:0]
	for i := range s.Regions {
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(s.Regions[a].Name, s.Regions[b].Name) })
	var standings [8]Standing
	set := standings[:0]
	for _, i := range order {
		r := &s.Regions[i]
		set = append(set, Standing{r.Name, r.Membership, r.State, r.Heard})
	}
	rule := newRule(&p, set, func(i int) int { return order[i] }, now)

	var archives [8]archive
	var marks [32]mark
	f := facts{archives: archives[:0], marks: marks[:0]}
	f.read(&s, len(s.Regions), func(i int) int { return i }, func(name string) int {
		return slices.IndexFunc(s.Regions, func(r Region) bool { return r.Name == name })
	})
	var x account
	ruling := rule.decide(&f, &x)
	w := words{&p, &s, rule, &f, &x, now}
	return w.verdict(ruling)
}
