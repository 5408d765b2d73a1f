package state

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Budgets bound what may be decided without a person's word (P11). The zero
// value works.
type Budgets struct {
	// SlateHour, RegionHour and FleetHour are how many irreversible decisions may
	// be sent in an hour about one slate to one region, to one region, and in all;
	// 0: 6, 200, 500. What is above waits. Renewals are not counted.
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
// decided until a person has closed it, but what stops something.
type Breaker struct {
	Version int       `json:"version"` // 1
	Open    bool      `json:"open"`
	Why     string    `json:"why,omitempty"`
	By      string    `json:"by,omitempty"` // who asked, or who closed it
	Since   time.Time `json:"since,omitzero"`
	// Slates is how many would have been touched at once; 0: not known. For is how
	// long a person's word that they are meant will hold.
	Slates uint64        `json:"slates,omitempty"`
	For    time.Duration `json:"for_ns,omitempty"`
	// Allowed is how many may still be touched at once, up to Until: a person
	// said that they are meant.
	Allowed uint64    `json:"allowed,omitempty"`
	Until   time.Time `json:"until,omitzero"`
}

// allowed is how many slates a person said may be touched at once now.
func (b *Breaker) allowed(now time.Time) int {
	if b.Open || !now.Before(b.Until) {
		return 0
	}
	return int(min(b.Allowed, 1<<31))
}

// ackFor is how long a person's word holds when no policy says.
const ackFor = 15 * time.Minute

// ErrBreakerCount says that another number of slates is meant than was wanted.
var ErrBreakerCount = errors.New("another number of slates was wanted")

// CloseBreaker is a person's word that deciding may go on. Slates is how many are
// meant to be touched at once, as the breaker says it: for the policy's
// limits.breaker.ackTTL so many may be; another number is refused with
// [ErrBreakerCount]. With 0 nothing is meant: what is too much opens it again.
type CloseBreaker struct {
	By, Why string
	Slates  uint64
}

// TripBreaker opens the breaker: a proposal was refused for what it would touch.
// It is a step of its own, for a refusal changes nothing.
type TripBreaker struct {
	By, Why string
	Slates  uint64
}

func (CloseBreaker) event() {}
func (TripBreaker) event()  {}

func (e CloseBreaker) enact(s *State) error {
	b := s.dec.breaker
	if !b.Open {
		return ErrNoBreaker
	}
	if e.Slates != 0 && e.Slates != b.Slates {
		return fmt.Errorf("%d are meant, %d would be touched: look again at what asks for them: %w", e.Slates, b.Slates, ErrBreakerCount)
	}
	next := Breaker{Version: 1, By: e.By, Why: e.Why, Since: s.wall.Round(0)}
	if e.Slates != 0 {
		next.Allowed, next.Until = e.Slates, s.wall.Round(0).Add(cmp.Or(b.For, ackFor))
	}
	s.setBreaker(next)
	s.tellBreaker(next)
	s.audit(AuditEntry{Who: e.By, What: "closed", Of: breakerKey, Why: withWhy(fmt.Sprintf("%d slates are meant", e.Slates), e.Why)})
	s.steward.again()
	s.issue()
	return nil
}

func (e TripBreaker) enact(s *State) error {
	s.trip(e.By, e.Why, e.Slates, ackFor)
	return nil
}

// trip opens the breaker.
func (s *State) trip(by, why string, slates uint64, ack time.Duration) {
	if s.dec.breaker.Open {
		return
	}
	b := Breaker{Version: 1, Open: true, By: by, Why: why, Since: s.wall.Round(0), Slates: slates, For: ack}
	s.setBreaker(b)
	s.tellBreaker(b)
	s.audit(AuditEntry{Who: by, What: "opened", Of: breakerKey, Why: why})
}

func (s *State) setBreaker(b Breaker) {
	s.dec.breaker = b
	s.record(breakerKey, b)
	s.showBreaker()
}

// spendAllowance takes slates that are touched now from those that a person said
// are meant.
func (s *State) spendAllowance(slates int) {
	b := s.dec.breaker
	if b.allowed(s.wall) == 0 || slates == 0 {
		return
	}
	b.Allowed -= min(b.Allowed, uint64(slates))
	s.setBreaker(b)
}

// Breaker is how it stands.
func (s *State) Breaker() Breaker { return s.dec.breaker }

// mayDecide refuses proposals while the breaker is open, and those that open it:
// then [Ready.Then] does so.
func (s *State) mayDecide(proposals []Proposal) error {
	if b := s.dec.breaker; b.Open {
		return fmt.Errorf("%w since %s: %s; a person has to close it", ErrBreaker, b.Since.Format(time.RFC3339), b.Why)
	}
	slates := map[string]bool{}
	for i := range proposals {
		if d := &proposals[i].Decision; d.Verb != catalog.VerbWithdraw && d.Verb != catalog.VerbVerify && !d.Verb.OfRegion() {
			slates[d.Slate] = true
		}
	}
	if !s.tooMany(len(slates)) {
		return nil
	}
	if len(slates) <= s.dec.breaker.allowed(s.wall) {
		s.spendAllowance(len(slates))
		return nil
	}
	why := s.wouldTouch(len(slates))
	s.out.Then = TripBreaker{By: "hub", Why: why, Slates: uint64(len(slates))}
	return fmt.Errorf("%w: %s; nothing was done: look at what asks for it; a person has to close the breaker", ErrBreaker, why)
}

// tooMany reports whether so many slates at once look like a mistake.
func (s *State) tooMany(slates int) bool {
	budgets := s.cfg.Budgets.withDefaults()
	return slates > budgets.Slates && slates*100 > budgets.Percent*s.slateCount()
}

func (s *State) slateCount() int {
	s.settleSlates()
	return s.b.SlateCount()
}

func (s *State) wouldTouch(slates int) string {
	budgets := s.cfg.Budgets.withDefaults()
	return fmt.Sprintf("%d of %d slates would be touched at once, more than %d and more than %d %%", slates, s.slateCount(), budgets.Slates, budgets.Percent)
}

// spent is what of the hourly budgets is used up.
type spent struct {
	slate  map[matter]int
	region map[string]int
	fleet  int
	// What each policy had done: which slates, and how many bytes.
	policySlates map[string]map[string]bool
	policyBytes  map[string]uint64
}

// spends reports whether a decision uses up a budget: it may let something go
// that nothing before it did.
func (d *Decided) spends() bool { return d.Decision.Verb.Irreversible() && !d.Renewal }

// spent counts what was sent in the last hour, and with waiting also what is
// to be sent yet.
func (s *State) spent(waiting bool) *spent {
	out := &spent{slate: map[matter]int{}, region: map[string]int{}, policySlates: map[string]map[string]bool{}, policyBytes: map[string]uint64{}}
	for n := range s.dec.recent {
		if d := s.dec.all[n]; s.wall.Sub(d.Sent) < time.Hour {
			out.add(&d.Decision, d.Policy.Name, d.Bytes)
		}
	}
	if waiting {
		for n := range s.dec.open {
			if d := s.dec.all[n]; d.spends() && d.Sent.IsZero() {
				out.add(&d.Decision, d.Policy.Name, d.Bytes)
			}
		}
	}
	return out
}

func (x *spent) add(d *catalog.Decision, policy string, bytes uint64) {
	x.fleet++
	x.region[d.Region]++
	x.slate[matter{d.Region, d.Slate}]++
	if policy == "" {
		return
	}
	if x.policySlates[policy] == nil {
		x.policySlates[policy] = map[string]bool{}
	}
	x.policySlates[policy][d.Slate] = true
	x.policyBytes[policy] += bytes
}

// full reports whether one more decision would be too many of the last hour.
func (b Budgets) full(x *spent, d *catalog.Decision) bool {
	return x.slate[matter{d.Region, d.Slate}] >= b.SlateHour || x.region[d.Region] >= b.RegionHour || x.fleet >= b.FleetHour
}

// overQuota reports whether sending an irreversible decision now would be one
// too many of the last hour: it waits. While the breaker is open everything
// does that is not there to stop something.
func (s *State) overQuota(d *Decided, used *spent) bool {
	if s.dec.breaker.Open && d.Decision.Verb != catalog.VerbWithdraw && d.Decision.Verb != catalog.VerbFreeze {
		return true
	}
	return d.spends() && s.cfg.Budgets.withDefaults().full(used, &d.Decision)
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
	case r.mismatch != "":
		out = append(out, r.mismatch)
	case r.blind != "":
		out = append(out, r.blind+"; see quarry describe region "+r.name)
	case !s.obeyed(r):
		out = append(out, "another-ledger: the agents of "+r.name+" obey the ledger of another hub; if this hub is theirs now, start them once with --ledger "+s.office.Ledger)
	case len(s.deciders(r)) == 0:
		out = append(out, "region-stale: no agent of "+r.name+" that understands decisions is connected")
	case !s.obeyed(r):
		out = append(out, "another-ledger: "+r.name+" obeys another ledger; if this hub is to be obeyed there, start its agents with --ledger "+s.office.Ledger)
	case r.mismatch != "":
		out = append(out, "region-reset: "+r.mismatch)
	case r.blind != "":
		out = append(out, "region-blind: "+r.blind)
	}
	if s.dec.breaker.Open {
		out = append(out, "breaker-open: "+s.dec.breaker.Why)
	} else if d.spends() && s.overQuota(d, s.spent(false)) {
		out = append(out, "quota-exceeded: as many as an hour allows were sent; it waits its turn")
	}
	return slices.Clip(out)
}
