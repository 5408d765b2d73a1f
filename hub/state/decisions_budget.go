package state

import (
	"fmt"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Budgets bound what may be decided without a person's word (P11). The zero
// value works.
type Budgets struct {
	// SlateHour, RegionHour and FleetHour are how many irreversible decisions may
	// be sent in an hour about one slate, to one region, and in all; 0: 6, 200,
	// 500. What is above waits.
	SlateHour, RegionHour, FleetHour int
	// Slates and Percent: a proposal for more slates than both opens the breaker,
	// whatever the verbs; 0: 20 slates, 10 percent of those that there are.
	Slates, Percent int
}

func (b Budgets) withDefaults() Budgets {
	for _, f := range []struct {
		v   *int
		def int
	}{{&b.SlateHour, 6}, {&b.RegionHour, 200}, {&b.FleetHour, 500}, {&b.Slates, 20}, {&b.Percent, 10}} {
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	return b
}

// Breaker is open when more was wanted at once than looks meant: nothing is
// decided until a person has closed it.
type Breaker struct {
	Version int       `json:"version"` // 1
	Open    bool      `json:"open"`
	Why     string    `json:"why,omitempty"`
	By      string    `json:"by,omitempty"` // who asked, or who closed it
	Since   time.Time `json:"since,omitzero"`
}

// CloseBreaker is a person's word that deciding may go on.
type CloseBreaker struct{ By, Why string }

// TripBreaker opens the breaker: a proposal was refused for what it would touch.
// It is a step of its own, for a refusal changes nothing.
type TripBreaker struct{ By, Why string }

func (CloseBreaker) event() {}
func (TripBreaker) event()  {}

func (e CloseBreaker) enact(s *State) error {
	if !s.dec.breaker.Open {
		return ErrNoBreaker
	}
	s.setBreaker(Breaker{Version: 1, By: e.By, Why: e.Why, Since: s.wall.Round(0)})
	s.audit(AuditEntry{Who: e.By, What: "closed", Of: breakerKey, Why: e.Why})
	s.issue()
	return nil
}

func (e TripBreaker) enact(s *State) error {
	if s.dec.breaker.Open {
		return nil
	}
	s.setBreaker(Breaker{Version: 1, Open: true, By: e.By, Why: e.Why, Since: s.wall.Round(0)})
	s.audit(AuditEntry{Who: e.By, What: "opened", Of: breakerKey, Why: e.Why})
	return nil
}

func (s *State) setBreaker(b Breaker) {
	s.dec.breaker = b
	s.record(breakerKey, b)
	s.tellBreaker(b)
}

// Breaker is how it stands.
func (s *State) Breaker() Breaker { return s.dec.breaker }

// mayDecide refuses proposals while the breaker is open, and those that open it:
// then [Ready.Then] does so.
func (s *State) mayDecide(proposals []Proposal) error {
	if b := s.dec.breaker; b.Open {
		return fmt.Errorf("%w since %s: %s; a person has to close it", ErrBreaker, b.Since.Format(time.RFC3339), b.Why)
	}
	budgets := s.cfg.Budgets.withDefaults()
	slates := map[string]bool{}
	for i := range proposals {
		if d := &proposals[i].Decision; d.Verb != catalog.VerbWithdraw && d.Verb != catalog.VerbVerify && !d.Verb.OfRegion() {
			slates[d.Slate] = true
		}
	}
	all := s.b.SlateCount()
	if len(slates) <= budgets.Slates || len(slates)*100 <= budgets.Percent*all {
		return nil
	}
	why := fmt.Sprintf("%d of %d slates would be touched at once, more than %d and more than %d %%", len(slates), all, budgets.Slates, budgets.Percent)
	s.out.Then = TripBreaker{By: "hub", Why: why}
	return fmt.Errorf("%w: %s; nothing was done: look at what asks for it; a person has to close the breaker", ErrBreaker, why)
}

// overQuota reports whether sending an irreversible decision now would be one
// too many of the last hour: it waits. While the breaker is open everything
// does that is not there to stop something.
func (s *State) overQuota(d *Decided) bool {
	if s.dec.breaker.Open && d.Decision.Verb != catalog.VerbWithdraw && d.Decision.Verb != catalog.VerbFreeze {
		return true
	}
	if !d.Decision.Verb.Irreversible() {
		return false
	}
	budgets := s.cfg.Budgets.withDefaults()
	slate, region, fleet := 0, 0, 0
	for _, o := range s.dec.all {
		if !o.Decision.Verb.Irreversible() || o.Sent.IsZero() || s.wall.Sub(o.Sent) >= time.Hour {
			continue
		}
		fleet++
		if o.Decision.Region == d.Decision.Region {
			region++
		}
		if o.Decision.Slate == d.Decision.Slate {
			slate++
		}
	}
	return slate >= budgets.SlateHour || region >= budgets.RegionHour || fleet >= budgets.FleetHour
}

// Waiting says why a decision that is approved was not sent yet, for people.
func (s *State) Waiting(d *Decided) []string {
	var out []string
	r := s.regions[d.Decision.Region]
	switch {
	case d.Stage != StageApproved:
		return nil
	case s.deciding() == 0:
		out = append(out, "stale-term: "+firstOf(s.office.Why, "this hub does not decide"))
	case r == nil || !s.heardInTerm(r):
		out = append(out, "region-stale: "+d.Decision.Region+" was not heard since this hub decides; check its agent")
	case len(s.deciders(r)) == 0:
		out = append(out, "region-stale: no agent of "+r.name+" that understands decisions is connected")
	}
	if s.dec.breaker.Open {
		out = append(out, "breaker-open: "+s.dec.breaker.Why)
	} else if s.overQuota(d) {
		out = append(out, "quota-exceeded: as many as an hour allows were sent; it waits its turn")
	}
	return slices.Clip(out)
}
