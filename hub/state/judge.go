package state

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// judge rules upon what is kept of the slates of a view, under some rules. It says
// what [Subject.Trim] says, without the words. It belongs to one goroutine.
type judge struct {
	k     *docket
	v     *view.View
	rules *regions.Rules
	now   time.Time
	set   []plan.Standing

	classes    []classLaw
	byPolicies map[string]*plan.Rule
	few        [256]*plan.Rule            // byPolicies, where there are at most eight
	frozen     map[string]*regions.Freeze // of slates, by name
	held       map[string][]int           // by name: the holds that name it and say no more
	holds      []int                      // the others that forbid trimming

	chosen  []byte // of policies, a bit each
	pins    []plan.Pin
	subject Subject
	beside  plan.Beside
}

// classLaw is what the rules say of a class of slates, as far as that does not
// depend on their names.
type classLaw struct {
	known  bool
	frozen bool
	rule   *plan.Rule // of all of its slates, unless byName
	byName bool
	pins   []plan.Pin // of holds that are about all of its slates
	holds  []int      // that may be about some of them
}

func newJudge(k *docket, v *view.View, rules *regions.Rules, now time.Time) *judge {
	j := &judge{k: k, v: v, rules: rules, now: now, classes: make([]classLaw, k.classes), byPolicies: map[string]*plan.Rule{},
		frozen: map[string]*regions.Freeze{}, held: map[string][]int{}, chosen: make([]byte, (len(rules.Policies)+7)/8)}
	for _, r := range standings(v) {
		j.set = append(j.set, plan.Standing{Name: r.Name, Membership: r.Membership, State: r.State, Heard: r.Heard})
	}
	for i := range rules.Freezes {
		if f := &rules.Freezes[i]; strings.HasPrefix(f.Scope, regions.FreezeSlate) {
			j.frozen[strings.TrimPrefix(f.Scope, regions.FreezeSlate)] = f
		}
	}
	for i := range rules.Holds {
		h := &rules.Holds[i]
		switch {
		case !h.Forbids(regions.ActionTrim, now):
		case len(h.Select.Names) > 0 && !slices.ContainsFunc(h.Select.Names, func(n string) bool { return strings.ContainsAny(n, "*?") }):
			for _, n := range h.Select.Names {
				j.held[n] = append(j.held[n], i)
			}
		default:
			j.holds = append(j.holds, i)
		}
	}
	return j
}

// on rules upon the slate at a place; selected is false when no policy selects it,
// or there is none.
func (j *judge) on(place int) (r plan.Ruling, selected bool) {
	rule, beside := j.law(place)
	if rule == nil {
		return j.k.facts.Decide(nil, place), false
	}
	return j.k.facts.DecideBeside(rule, place, beside), true
}

// law is the rule that a slate is under, and what else is to be known of it; nil:
// no policy selects it.
func (j *judge) law(place int) (*plan.Rule, *plan.Beside) {
	row := j.k.row(place)
	if row.class == nil {
		return nil, nil
	}
	c := &j.classes[row.class.id]
	if !c.known {
		j.read(c, row.class)
	}
	rule := c.rule
	if c.byName {
		rule = j.choose(row)
	}
	if rule == nil {
		return nil, nil
	}
	j.beside = plan.Beside{Frozen: c.frozen, Pins: c.pins}
	if f := j.frozen[row.name]; f != nil {
		j.beside.Lost = len(f.Lost) > 0
		j.beside.Frozen = c.frozen || !j.beside.Lost
	}
	if named := j.held[row.name]; len(named) > 0 || len(c.holds) > 0 {
		j.pins = append(j.pins[:0], c.pins...)
		s := j.of(row.class)
		s.Name = row.name
		for _, list := range [2][]int{c.holds, named} {
			for _, i := range list {
				if h := &j.rules.Holds[i]; s.heldBy(h) {
					j.pins = append(j.pins, pinOf(h))
				}
			}
		}
		j.beside.Pins = j.pins
	}
	if rule.NeedsHead() {
		j.beside.Head = j.v.Head(row.name, row.lineage, row.domain)
	}
	return rule, &j.beside
}

// of is a subject of a class, without a name.
func (j *judge) of(c *docketClass) *Subject {
	j.subject.Kind, j.subject.Placed, j.subject.Declared = c.kind, c.placed, c.declared
	return &j.subject
}

// read works out what the rules say of a class.
func (j *judge) read(c *classLaw, of *docketClass) {
	c.known = true
	s := j.of(of)
	for i := range j.rules.Policies {
		if p := &j.rules.Policies[i]; namesMatter(&p.Select) {
			c.byName = true
		}
	}
	if !c.byName {
		s.Name = ""
		c.rule = j.rule(s)
	}
	for i := range j.rules.Freezes {
		if f := &j.rules.Freezes[i]; !strings.HasPrefix(f.Scope, regions.FreezeSlate) && f.Covers("", of.placed) {
			c.frozen = true
		}
	}
	for _, i := range j.holds {
		h := &j.rules.Holds[i]
		if namesMatter(&h.Select) {
			c.holds = append(c.holds, i)
		} else if s.Name = ""; s.heldBy(h) {
			c.pins = append(c.pins, pinOf(h))
		}
	}
}

// namesMatter reports whether it takes a slate's name to say whether a selection
// is about it.
func namesMatter(s *regions.Select) bool {
	return len(s.Names) > 0 || s.Except != nil && len(s.Except.Names) > 0
}

func (j *judge) choose(row *docketRow) *plan.Rule {
	s := j.of(row.class)
	s.Name = row.name
	return j.rule(s)
}

// rule is that of the policies that select a subject; nil: none does.
func (j *judge) rule(s *Subject) *plan.Rule {
	clear(j.chosen)
	any := false
	for i := range j.rules.Policies {
		if s.under(&j.rules.Policies[i]) {
			j.chosen[i/8] |= 1 << (i % 8)
			any = true
		}
	}
	if !any {
		return nil
	}
	if len(j.chosen) == 1 && j.few[j.chosen[0]] != nil {
		return j.few[j.chosen[0]]
	}
	rule := j.byPolicies[string(j.chosen)]
	if rule == nil {
		var policies []regions.Policy
		for i := range j.rules.Policies {
			if j.chosen[i/8]&(1<<(i%8)) != 0 {
				policies = append(policies, j.rules.Policies[i])
			}
		}
		rule = j.k.facts.Rule(policies, j.set, j.now)
		j.byPolicies[string(j.chosen)] = rule
	}
	if len(j.chosen) == 1 {
		j.few[j.chosen[0]] = rule
	}
	return rule
}

// docketOf is what is kept of the slates of a view; nil: not all is kept yet of
// what its policies may be about.
func docketOf(v *view.View) *docket {
	if k, _ := v.Kept().(*docket); k != nil && k.whole && sameSelections(k.rules, v.Rules()) {
		return k
	}
	return nil
}

// amongSelections reports whether policies are about no slates but such as those
// of others may be about.
func amongSelections(policies, others *regions.Rules) bool {
	return !slices.ContainsFunc(policies.Policies, func(p regions.Policy) bool {
		return !slices.ContainsFunc(others.Policies, func(o regions.Policy) bool { return reflect.DeepEqual(p.Select, o.Select) })
	})
}
