package state

import (
	"fmt"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// The steward has the hub act on its verdicts. It makes passes over all slates
// that policies are about, in slices of the loop's time, and collects what is
// wished for; only when a pass is whole does it judge what that comes to (P11),
// and then it proposes, looking at each slate once more.

// Wish is one decision that a verdict or a document asks for.
type Wish struct {
	Proposal
	// Plan names the evidence, Policy the policy whose word it is.
	Plan   string
	Policy PolicyRef
	// Renewal: it lets nothing go that what rules in the region does not.
	Renewal bool

	unruled bool // no permit of this incarnation ever ruled there, or it was withdrawn
}

// Tend goes on with a pass of the steward; see [Ready.Tend].
type Tend struct{}

func (Tend) event() {}

// bearing is what wishes follow from beside their subject. What makes wishes of it
// is pure.
type bearing struct {
	now       time.Time // hub's clock
	permitFor time.Duration
	holdEvery time.Duration    // how often a hold that trims goes on, at most
	policies  []regions.Policy // those that select the subject
	plan      string           // of the verdict
	evidence  [32]byte
}

// wishes are all that the rules ask for about a subject, at this moment.
func (s *State) wishes(sub *Subject) []Wish {
	v, by := sub.Trim(s.rules, s.wall)
	m := s.bearingOf(sub, v)
	if s.steward.stage == looking {
		s.tellLag(sub, &v, m.policies)
	}
	s.steward.note(m.policies, &v)
	out := append(wishesTrim(sub, v, by, m), wishesHolds(sub, v, s.rules, m)...)
	return append(out, s.wishesPruneNow(sub)...)
}

func (s *State) bearingOf(sub *Subject, v plan.Verdict) bearing {
	policies := sub.Policies(s.rules)
	evidence := sub.evidence(policies, v)
	return bearing{now: s.wall, permitFor: s.cfg.PermitFor, holdEvery: s.cfg.HoldEvery, policies: policies, plan: planName(evidence), evidence: evidence}
}

// subjects are those of a name as the rules see them now: as they will be
// published.
func (s *State) subjects(name string) []Subject {
	out := Subjects(&s.b.View, name)
	for i := range out {
		out[i].rule(s.rules, s.wall)
	}
	return out
}

// steward is how far a pass has come.
type steward struct {
	stage  stewarding
	rules  *regions.Rules // of this pass
	at     string         // the name that was looked at last
	begun  bool           // at says something
	wishes []Wish
	tally  map[string]*tally // by policy
	slates int               // looked at in this pass

	last    *regions.Rules // of the last pass that was whole
	rested  time.Duration  // mono, when it ended
	size    int            // its slates
	cleared map[string]bool
}

// tally is what a pass found under one policy.
type tally struct {
	revision         uint64
	slates, ignorant int // ignorant: those that wait for what nobody knows
}

// again has the next pass begin at once.
func (k *steward) again() { k.last = nil }

type stewarding uint8

const (
	resting   stewarding = iota
	checking             // what is published against what may be
	looking              // for what is to be done
	proposing            // it
)

const (
	lookAtOnce = 64 // slates of a pass that one step looks at
	actAtOnce  = 32 // wishes that one step proposes
	// lookFaster is how many slates that no policy is about cost as much as one that
	// is looked at.
	lookFaster = 16
)

// tendDue reports whether the steward has work: a pass under way, or one that is
// due.
func (s *State) tendDue() bool {
	k := &s.steward
	if s.deciding() == 0 || len(s.rules.Policies) == 0 && !s.anyHold() && s.b.PermitCount() == 0 {
		*k = steward{}
		return false
	}
	return k.stage != resting || k.last != s.rules || s.mono-k.rested >= max(s.cfg.PassEvery, time.Duration(k.size)*time.Millisecond)
}

// tend does a slice of the steward's work, and reports whether there is more.
func (s *State) tend() bool {
	k := &s.steward
	if !s.tendDue() {
		return false
	}
	if k.stage != resting && k.rules != s.rules {
		k.stage = resting // what was wished for may not be wished for any more
		k.again()
	}
	next := func(to stewarding) { k.stage, k.at, k.begun = to, "", false }
	switch k.stage {
	case resting:
		if k.rules != s.rules {
			k.cleared = nil
		}
		next(checking)
		k.rules, k.wishes, k.tally, k.slates = s.rules, nil, map[string]*tally{}, 0
	case checking:
		if !s.checkPublished() {
			next(looking)
		}
	case looking:
		if !s.look() {
			next(proposing)
			s.judgeWishes()
		}
	case proposing:
		if s.act() {
			break
		}
		next(resting)
		k.last, k.rested, k.size, k.wishes, k.tally = k.rules, s.mono, k.slates, nil, nil
		return false
	}
	return true
}

// look looks at some more slates, and reports whether there are more.
func (s *State) look() (more bool) {
	k := &s.steward
	var names []string
	from := table.First
	if k.begun {
		from = table.Mark{Slate: k.at}
	}
	looked := 0
	s.b.PlacementTable().Names().Ascend(from, func(_ uint64, id *table.Ident) bool {
		if k.begun && id.Slate == k.at {
			return true
		}
		if looked >= lookAtOnce*lookFaster || len(names) >= lookAtOnce {
			more = true
			return false
		}
		looked++
		k.at, k.begun = id.Slate, true
		if o := (regions.Subject{Name: id.Slate, Kind: s.b.KindAt(id.Slot)}); selected(s.rules, o) || s.placesHold(o) {
			names = append(names, id.Slate)
		}
		return true
	})
	seen := s.looked()
	// Of a policy that has not gone through a pass yet all slates are counted.
	unsettled := slices.DeleteFunc(slices.Clone(s.rules.Policies), func(p regions.Policy) bool {
		return s.settledRevision(PolicyRef{p.Name, p.Applied.Revision})
	})
	for _, n := range names {
		k.slates++
		if seen.unchanged(n) && !slices.ContainsFunc(unsettled, func(p regions.Policy) bool { return p.Select.Named(n) }) {
			continue
		}
		none := true
		for _, sub := range s.subjects(n) {
			for _, w := range s.wishes(&sub) {
				none = false
				if s.unheld(&w) {
					k.wishes = append(k.wishes, w)
				}
			}
		}
		if none {
			seen.nothing(n)
		}
	}
	return more
}

// unheld reports whether nothing of the hub's own stands in a wish's way: its
// matter is under way already, was refused not long ago, or its region could
// not be told.
func (s *State) unheld(w *Wish) bool {
	r := s.regions[w.Decision.Region]
	if r == nil || !s.heardInTerm(r) || r.mismatch != "" || r.blind != "" || !s.obeyed(r) || len(s.deciders(r)) == 0 {
		return false
	}
	return s.allHeard(w.Policy.Name) && s.underWay(&w.Decision) == nil && !s.triedLately(w)
}

// allHeard reports whether every region that a policy requires was heard in this
// term: before, nothing is decided by it (DESIGN §6).
func (s *State) allHeard(policy string) bool {
	p := s.rules.Policy(policy)
	if p == nil {
		return true // a document of another kind asks
	}
	return !slices.ContainsFunc(p.Required(s.set), func(r regions.Region) bool {
		known := s.regions[r.Name]
		return known == nil || !s.heardInTerm(known)
	})
}

// underWay is a decision about the same matter that is not settled; nil: none.
func (s *State) underWay(d *catalog.Decision) *Decided {
	for _, n := range s.dec.about[matter{d.Region, d.Slate}] {
		if o := s.dec.all[n]; !o.Stage.Settled() && sameTrack(o.Decision.Verb, d.Verb) {
			return o
		}
	}
	return nil
}

// sameTrack reports whether two verbs are about the same thing of a slate, so
// that one waits for the other.
func sameTrack(a, b catalog.Verb) bool {
	permits := func(v catalog.Verb) bool { return v == catalog.VerbPermit || v == catalog.VerbWithdraw }
	holds := func(v catalog.Verb) bool { return v == catalog.VerbHold || v == catalog.VerbRelease }
	return a == b || permits(a) && permits(b) || holds(a) && holds(b)
}

// before is the last decision of the same verb about the same matter; nil: none.
func (s *State) before(d *catalog.Decision) *Decided {
	of := s.dec.about[matter{d.Region, d.Slate}]
	for i := len(of) - 1; i >= 0; i-- {
		if o := s.dec.all[of[i]]; o.Decision.Verb == d.Verb {
			return o
		}
	}
	return nil
}

// triedLast is the last decision of a wish's verb about its matter; of holds, of
// which a slate may have several, the last that is about the same; nil: none.
func (s *State) triedLast(w *Wish) *Decided {
	verb := w.Decision.Verb
	if verb != catalog.VerbHold && verb != catalog.VerbRelease {
		return s.before(&w.Decision)
	}
	of := s.dec.about[matter{w.Decision.Region, w.Decision.Slate}]
	for i := len(of) - 1; i >= 0; i-- {
		if o := s.dec.all[of[i]]; o.Decision.Verb == verb && o.Plan == w.Plan {
			return o
		}
	}
	return nil
}

// tries counts the decisions of the same plan that came to nothing one after
// the other before a wish.
func (s *State) tries(w *Wish) int {
	if o := s.triedLast(w); o != nil && w.Plan != "" && o.Plan == w.Plan && o.Stage.Settled() && o.Stage != StageDone {
		return o.Tries + 1
	}
	return 0
}

// triedLately reports whether the same came to nothing not long ago: each time
// twice as long, up to an hour.
func (s *State) triedLately(w *Wish) bool {
	n := s.tries(w)
	if n == 0 {
		return false
	}
	wait := min(time.Hour, tryAgain<<min(n-1, 10))
	return s.wall.Sub(s.triedLast(w).Ended) < wait
}

const tryAgain = time.Minute

// act proposes some of what a pass wished for, each looked at once more, and
// reports whether there is more.
func (s *State) act() bool {
	k := &s.steward
	now := k.wishes[:min(actAtOnce, len(k.wishes))]
	k.wishes = k.wishes[len(now):]
	used, budgets := s.spent(true), s.cfg.Budgets.withDefaults()
	for len(now) > 0 && !s.dec.breaker.Open {
		slate := now[0].Decision.Slate
		n := 1
		for n < len(now) && now[n].Decision.Slate == slate {
			n++
		}
		meant := now[:n]
		now = now[n:]
		for _, sub := range s.subjects(slate) {
			for _, w := range s.wishes(&sub) {
				if s.unheld(&w) && slices.ContainsFunc(meant, func(m Wish) bool { return m.same(&w) }) && s.room(&w, used, budgets) {
					s.decideFor(w)
				}
			}
		}
	}
	s.issue()
	return len(k.wishes) > 0 && !s.dec.breaker.Open
}

// same reports whether two wishes ask for the same.
func (w *Wish) same(o *Wish) bool {
	a, b := &w.Decision, &o.Decision
	return a.Verb == b.Verb && a.Region == b.Region && a.Slate == b.Slate && a.Root == b.Root && a.Incarnation == b.Incarnation &&
		w.Renewal == o.Renewal && w.Policy == o.Policy
}

// decideFor makes a decision of a policy's wish.
func (s *State) decideFor(w Wish) {
	why := ""
	if w.Policy.Name != "" {
		why = fmt.Sprintf("policy %s@%d, plan %s", w.Policy.Name, w.Policy.Revision, w.Plan)
	}
	if _, err := s.propose([]Wish{w}, "hub", why); err != nil {
		// Its names are not fit to be decided about: nothing is done, and its
		// verdict still says what would be.
		return
	}
}
