package state

import (
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// RulingsOf is what the docket of a view says of all slates that some rules
// select, by name, lineage and domain; whole is false while the docket has not
// all of them, and then it has those that it has.
func RulingsOf(v *view.View, rules *regions.Rules, now time.Time) (says map[string]plan.Ruling, whole bool) {
	k, _ := v.Kept().(*docket)
	if k == nil {
		return nil, len(v.Rules().Policies) == 0
	}
	j := newJudge(k, v, rules, now)
	says = map[string]plan.Ruling{}
	for place := range k.places {
		row := k.row(place)
		if r, selected := j.on(place); selected {
			id := row.name + "|" + row.lineage + "|" + row.domain
			if _, twice := says[id]; twice {
				panic("the docket has " + id + " twice")
			}
			says[id] = r
		}
	}
	return says, docketOf(v) != nil
}

// SubjectRulings is the same by [Subjects] and their verdicts.
func SubjectRulings(v *view.View, rules *regions.Rules, now time.Time) map[string]plan.Ruling {
	says := map[string]plan.Ruling{}
	column := map[string]int32{}
	for r := range v.Regions() {
		column[r.Name] = int32(len(column))
	}
	eachUnder(v, func(s *Subject) {
		s.rule(rules, now)
		r := s.ruling(rules, now)
		if verdict, _ := s.Trim(rules, now); verdict.Binding != "" {
			r.Binding = column[verdict.Binding]
		}
		says[s.Name+"|"+s.Lineage+"|"+s.Domain] = r
	}, rules)
	return says
}

// TrimTestedOneByOne is [TestTrim] without the docket.
func TrimTestedOneByOne(v *view.View, after *regions.Rules, now time.Time) *Tested {
	t := &tester{now: now, v: v}
	t.others(after, nil)
	return t.told()
}

// TrimsSummedOneByOne is [SumTrims] without the docket.
func TrimsSummedOneByOne(v *view.View, now time.Time) *Trims {
	b := view.Builder{View: *v}
	b.SetKept(nil)
	return SumTrims(&b.View, now)
}

// LookedAgain reports whether the steward need not look at a slate, and if it
// has to, notes that it looked and wished for nothing.
func (s *State) LookedAgain(slate string) bool {
	seen := s.looked()
	if seen.unchanged(slate) {
		return true
	}
	seen.nothing(slate)
	return false
}

// LookAtAll is a pass of the steward over what is kept that finds nothing to wish
// for; each gets what has to be looked at.
func (s *State) LookAtAll(each func(slate string)) {
	seen := s.looked()
	for name := range s.clerk.first {
		if !seen.unchanged(name) {
			each(name)
			seen.nothing(name)
		}
	}
}

// ShareDocket is the part of [State.View] that keeps what rules read.
func (s *State) ShareDocket() { s.shareDocket() }

// HearAgain keeps anew what rules read of a slate, as when it has changed.
func (s *State) HearAgain(slate string) { s.clerk.hear(&s.b.View, slate) }

// SpoilDocket has nothing fit any more into what is kept.
func SpoilDocket(s *State) { s.clerk.facts = plan.NewFleet() }
