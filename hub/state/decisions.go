package state

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Stage is where a decision is in its life.
type Stage = catalog.Stage

// The stages, as package catalog explains them.
const (
	StageProposed     = catalog.StageProposed
	StageApproved     = catalog.StageApproved
	StageSent         = catalog.StageSent
	StageClaimed      = catalog.StageClaimed
	StageDone         = catalog.StageDone
	StageRefused      = catalog.StageRefused
	StageFailed       = catalog.StageFailed
	StageExpired      = catalog.StageExpired
	StageNotEffective = catalog.StageNotEffective
)

// Decided is a decision as the ledger has it. Values are replaced, never changed.
type Decided struct {
	Version int    `json:"version"` // 1
	Number  uint64 `json:"number"`  // in the ledger, from 1
	// Decision has term and sequence from when it is sent: an agent takes
	// sequences in their order, however long one was thought about.
	Decision catalog.Decision `json:"decision"`
	Stage    Stage            `json:"stage"`
	By       string           `json:"by"`
	Why      string           `json:"why,omitempty"`
	// Needs is how many people besides By have to approve; Approved are those.
	Needs    int        `json:"needs,omitempty"`
	Approved []Approval `json:"approved,omitempty"`
	Proposed time.Time  `json:"proposed"`
	// NotAfter: if it is not sent by then, it expires.
	NotAfter time.Time        `json:"not_after"`
	Sent     time.Time        `json:"sent,omitzero"`
	Ended    time.Time        `json:"ended,omitzero"`
	Outcome  *catalog.Outcome `json:"outcome,omitempty"`
	Reasons  []catalog.Reason `json:"reasons,omitempty"` // of the hub, beside the outcome's

	// Plan names the evidence that asked for it, Policy the policy whose word it
	// was; empty: a person proposed it as it is.
	Plan   string    `json:"plan,omitempty"`
	Policy PolicyRef `json:"policy,omitzero"`
	// Renewal: it lets nothing go that was not let go before. Bytes is what may
	// go by it; 0: not known. Tries counts those of the same plan, about the same,
	// that failed one after the other before it.
	Renewal bool   `json:"renewal,omitempty"`
	Bytes   uint64 `json:"bytes,omitempty"`
	Tries   int    `json:"tries,omitempty"`
}

// Approval is a person's yes.
type Approval struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Refusals of commands about decisions.
var (
	ErrNotDeciding = errors.New("this hub does not decide")
	ErrStage       = errors.New("the decision is past that")
	ErrSamePerson  = errors.New("another person has to approve")
	ErrBreaker     = errors.New("breaker-open")
	ErrQuota       = errors.New("quota-exceeded")
	ErrNoBreaker   = errors.New("the breaker is closed; there is nothing to close")
)

// decisions are what the state knows of them.
type decisions struct {
	all      map[uint64]*Decided
	ids      map[string]uint64
	open     map[uint64]bool     // not settled
	about    map[matter][]uint64 // those of one matter, by number
	recent   map[uint64]bool     // sent in the last hour, or longer ago, and counted by budgets
	swept    time.Duration       // mono, when too old ones were looked for last
	counters counters
	breaker  Breaker
	settled  map[string]uint64 // the revision of each policy that has gone through a pass; replaced, never changed

	// As they were at the mark; see [State.Undo].
	were        map[uint64]*Decided // nil: there was none
	countersWas counters
	breakerWas  Breaker
	settledWas  map[string]uint64
}

// counters outlive the decisions that they counted.
type counters struct {
	Version   int               `json:"version"` // 1
	Number    uint64            `json:"number"`
	Sequences map[string]uint64 `json:"sequences"` // by region
}

const (
	decisionFolder = "decision/"
	countersKey    = "counters"
	breakerKey     = "breaker"

	// keptDecisions bounds those that are settled; the audit has all of them.
	keptDecisions = 10_000
	keepSettled   = 30 * 24 * time.Hour
	sweepEvery    = time.Minute // how often those that are too old are looked for
)

func decisionKey(n uint64) string { return fmt.Sprintf("%s%020d", decisionFolder, n) }

// Propose asks for decisions, all of them or none: people's word, or a policy's.
type Propose struct {
	Decisions []Proposal
	By, Why   string
	// Decided, when it is not nil, gets the decisions that were made.
	Decided *[]Decided
}

// Proposal is a decision that is wanted. Of Decision the id, ledger, term and
// sequence are the hub's to say.
type Proposal struct {
	Decision catalog.Decision
	// Needs is how many people besides the one who proposes have to approve.
	Needs int
	// Bytes is what may go by it, for the budgets; 0: not known.
	Bytes uint64
	// Within is how long it may wait to be sent; 0: an hour.
	Within time.Duration
}

// Approve is a person's yes to a proposed decision, RefuseDecision the no to one
// that was not sent yet.
type Approve struct{ ID, By, Why string }

// RefuseDecision is the no to a decision; see [Approve].
type RefuseDecision struct{ ID, By, Why string }

func (Propose) event()        {}
func (Approve) event()        {}
func (RefuseDecision) event() {}

func (e Propose) enact(s *State) error {
	if s.deciding() == 0 {
		return fmt.Errorf("%w: %s", ErrNotDeciding, firstOf(s.office.Why, "it has no term"))
	}
	if err := s.mayDecide(e.Decisions); err != nil {
		return err
	}
	wishes := make([]Wish, len(e.Decisions))
	for i := range e.Decisions {
		wishes[i].Proposal = e.Decisions[i]
	}
	made, err := s.propose(wishes, e.By, e.Why)
	if err != nil {
		return err
	}
	s.issue()
	if e.Decided != nil {
		*e.Decided = s.asTheyAre(made)
	}
	return nil
}

// asTheyAre gives the newest values of decisions.
func (s *State) asTheyAre(numbers []uint64) []Decided {
	out := make([]Decided, 0, len(numbers))
	for _, n := range numbers {
		out = append(out, *s.dec.all[n])
	}
	return out
}

// propose makes decisions of wishes, all of them or none, and gives their
// numbers. Whether so many may be made is the caller's to ask.
func (s *State) propose(wishes []Wish, by, why string) ([]uint64, error) {
	ledger, err := uuid.Parse(s.office.Ledger)
	if err != nil {
		return nil, fmt.Errorf("%w: its ledger has no id", ErrNotDeciding)
	}
	var made []*Decided
	number := s.dec.counters.Number
	for i := range wishes {
		w := &wishes[i]
		number++
		d := w.Decision
		d.Ledger, d.Term, d.Sequence = s.office.Ledger, s.deciding(), 1
		// The same ledger and number give the same name: a replay finds it.
		d.ID = uuid.NewSHA1(ledger, []byte("decision "+strconv.FormatUint(number, 10))).String()
		if s.set.Get(d.Region) == nil {
			return nil, fmt.Errorf("region %s is not in the region set: %w", d.Region, fs.ErrNotExist)
		}
		if err := d.Validate(); err != nil {
			return nil, err
		}
		d.Term, d.Sequence = 0, 0
		within := w.Within
		if within <= 0 {
			within = time.Hour
		}
		one := &Decided{Version: 1, Number: number, Decision: d, Stage: StageProposed, By: firstOf(by, "somebody"), Why: why,
			Needs: max(0, w.Needs), Proposed: s.wall.Round(0), NotAfter: s.wall.Round(0).Add(within),
			Plan: w.Plan, Policy: w.Policy, Renewal: w.Renewal, Bytes: w.Bytes, Tries: s.tries(w)}
		if one.Needs == 0 {
			one.Stage = StageApproved
		}
		made = append(made, one)
	}
	numbers := make([]uint64, 0, len(made))
	for _, d := range made {
		s.putDecided(d)
		s.auditDecision("proposed", d, by, why)
		numbers = append(numbers, d.Number)
	}
	if len(made) > 0 {
		s.count(func(c *counters) { c.Number = number })
	}
	return numbers, nil
}

func (e Approve) enact(s *State) error {
	d, err := s.waiting(e.ID)
	if err != nil {
		return err
	}
	if err := mayApprove(s.decidedRow(d), e.By); err != nil {
		return err
	}
	next := *d
	next.Approved = append(slices.Clone(d.Approved), Approval{e.By, s.wall.Round(0)})
	if len(next.Approved) >= next.Needs {
		next.Stage = StageApproved
	}
	s.putDecided(&next)
	s.auditDecision("approved", &next, e.By, e.Why)
	s.issue()
	return nil
}

func (e RefuseDecision) enact(s *State) error {
	d, err := s.waiting(e.ID)
	if err != nil {
		return err
	}
	if err := mayRefuse(s.decidedRow(d)); err != nil {
		return err
	}
	s.end(d, StageRefused, nil, e.By, e.Why)
	return nil
}

// waiting finds a decision by its id.
func (s *State) waiting(id string) (*Decided, error) {
	n, ok := s.dec.ids[id]
	if !ok {
		return nil, fmt.Errorf("decision %s: %w", id, fs.ErrNotExist)
	}
	return s.dec.all[n], nil
}

// Decisions gives what is known of decisions, by their number. It belongs to
// the owner of the state; what it gives may be kept by anybody.
func (s *State) Decisions() []*Decided {
	out := make([]*Decided, 0, len(s.dec.all))
	for _, n := range slices.Sorted(maps.Keys(s.dec.all)) {
		out = append(out, s.dec.all[n])
	}
	return out
}

// issue sends what is approved to the regions that can take it. The records are
// durable before a message leaves (P8).
func (s *State) issue() {
	if s.deciding() == 0 || len(s.dec.open) == 0 {
		return
	}
	used := s.spent(false)
	for _, n := range slices.Sorted(maps.Keys(s.dec.open)) {
		d := s.dec.all[n]
		if d.Stage != StageApproved || !s.wall.Before(d.NotAfter) {
			continue
		}
		r := s.regions[d.Decision.Region]
		if r == nil || !s.heardInTerm(r) || r.mismatch != "" || r.blind != "" || !s.obeyed(r) || s.overQuota(d, used) {
			continue
		}
		to := s.deciders(r)
		if len(to) == 0 || !s.stillSo(d) {
			continue
		}
		next := *d
		next.Stage, next.Sent = StageSent, s.wall.Round(0)
		s.count(func(c *counters) {
			c.Sequences[r.name]++
			next.Decision.Sequence = c.Sequences[r.name]
		})
		next.Decision.Term = s.deciding()
		s.putDecided(&next)
		s.auditDecision("sent", &next, "hub", "")
		if next.spends() {
			used.add(&next.Decision, next.Policy.Name, next.Bytes)
		}
		for _, id := range to {
			s.send(id, Decide{next.Decision})
		}
	}
}

// deciders are the sessions of a region that understand decisions: whoever of
// them is on duty carries them out.
func (s *State) deciders(r *region) []SessionID {
	var out []SessionID
	for id, p := range s.sessions {
		if p.region == r && p.decides {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// obeyed reports whether the region's agents, as far as they have said, would
// take a decision of this ledger.
func (s *State) obeyed(r *region) bool {
	for _, p := range s.sessions {
		if p.region == r && p.obeys.Known && p.obeys.Ledger != "" && p.obeys.Ledger != s.office.Ledger {
			return false
		}
	}
	return true
}

// tellAgain says to a new session what its region was sent and has not settled.
func (s *State) tellAgain(p *session) {
	if !p.decides || s.deciding() == 0 {
		return
	}
	for _, n := range slices.Sorted(maps.Keys(s.dec.open)) {
		// The agent refuses what is of an older term; it says so, and that settles it.
		d := s.dec.all[n]
		if d.Stage != StageSent || d.Decision.Region != p.region.name {
			continue
		}
		if d.Decision.Verb == catalog.VerbPermit {
			s.retract(d.Decision.Slate, "hub", "")
			if s.withdrawnAfter(d) {
				continue // whoever has it hears of that; whoever has not, never does it
			}
		}
		if d.Decision.Term == s.deciding() && s.narrowedSince(d) {
			continue // whoever has it not never hears of it
		}
		s.send(p.id, Decide{d.Decision})
	}
}

// settled takes down what an agent saw and did, and says so to it once that is
// durable. An outcome of a decision that this ledger does not have is left: it
// tells of a ledger that was set back.
func (s *State) settled(e Settled) {
	p := s.sessions[e.Session]
	n, ok := s.dec.ids[e.Outcome.Decision]
	if p == nil || !ok || s.deciding() == 0 {
		return
	}
	d := s.dec.all[n]
	o := e.Outcome
	if d.Decision.Region != p.region.name || d.Sent.IsZero() {
		return // not that region's to say
	}
	s.send(p.id, Settle{[]string{o.Decision}})
	if d.Outcome != nil {
		return
	}
	next := *d
	next.Outcome = &o
	late := ""
	if d.Stage.Settled() {
		late = "told late; it was " + string(d.Stage)
	}
	switch o.State {
	case catalog.OutcomeDone:
		if needsSeeing(d.Decision.Verb) && !s.sawEffect(&next) {
			next.Stage, next.Ended = StageClaimed, s.wall.Round(0)
			s.putDecided(&next)
			return
		}
		s.end(&next, StageDone, nil, "hub", late)
	case catalog.OutcomeRefused:
		s.end(&next, StageRefused, nil, "hub", late)
	case catalog.OutcomeExpired:
		s.end(&next, StageExpired, nil, "hub", late)
	case catalog.OutcomeNotEffective:
		s.end(&next, StageNotEffective, nil, "hub", late)
	default:
		s.end(&next, StageFailed, nil, "hub", late)
	}
}

// needsSeeing are verbs whose effect is among what agents report: their word
// alone is not enough (P3).
func needsSeeing(v catalog.Verb) bool {
	return v == catalog.VerbPermit || v == catalog.VerbWithdraw || v == catalog.VerbPrune || v == catalog.VerbHold || v == catalog.VerbRelease
}

func notSeen(v catalog.Verb) string {
	switch v {
	case catalog.VerbPrune:
		return "what it should have removed is still there"
	case catalog.VerbHold, catalog.VerbRelease:
		return "what it should have done to the slate's checkpoints is not seen"
	}
	return "the permit that it should have written is not seen"
}

// sawPermit takes down the permit that rules in a region's bucket.
func (s *State) sawPermit(r *region, p *catalog.Permit) {
	row := &view.Permit{Region: r.name, Permit: *p, Seen: s.wall.Round(0)}
	if old := s.b.Permit(r.name, p.Slate); old != nil && old.Number == p.Number && old.Decision == p.Decision {
		row.Seen = old.Seen
	}
	s.b.SetPermit(row)
	for _, n := range s.dec.about[matter{r.name, p.Slate}] {
		if d := s.dec.all[n]; d.Stage == StageClaimed && s.sawEffect(d) {
			s.end(d, StageDone, nil, "hub", "")
		}
	}
}

// sawEffect reports whether the permit that a decision should have written was
// seen, or a later one that was written after it.
func (s *State) sawEffect(d *Decided) bool {
	switch d.Decision.Verb {
	case catalog.VerbPrune:
		return s.sawPruned(d)
	case catalog.VerbHold, catalog.VerbRelease:
		return s.sawHold(d)
	}
	p := s.b.Permit(d.Decision.Region, d.Decision.Slate)
	switch {
	case p == nil:
		return false
	case p.Decision == d.Decision.ID:
		return true
	}
	return p.Ledger == d.Decision.Ledger && p.Sequence > d.Decision.Sequence &&
		d.Outcome != nil && d.Outcome.Saw.Permit != nil && *d.Outcome.Saw.Permit < p.Number
}

// age ends decisions whose time is over, and forgets old ones that are settled.
func (s *State) ageDecisions() {
	if s.deciding() == 0 {
		return
	}
	for _, n := range slices.Sorted(maps.Keys(s.dec.open)) {
		d := s.dec.all[n]
		switch {
		case (d.Stage == StageProposed || d.Stage == StageApproved) && !s.wall.Before(d.NotAfter):
			s.end(d, StageExpired, []catalog.Reason{{Code: catalog.CodeExpired, Message: "it was not sent by " + d.NotAfter.Format(time.RFC3339) + "; propose it again"}}, "hub", "")
		case d.Stage == StageSent && s.wall.Sub(d.Sent) >= d.Decision.Expires+s.cfg.EffectWithin:
			s.end(d, StageNotEffective, []catalog.Reason{{Code: catalog.CodeNotEffective, Message: "no agent has said what became of it; see the region's agent"}}, "hub", "")
		case d.Stage == StageClaimed && s.sawEffect(d): // its being seen could not be recorded
			s.end(d, StageDone, nil, "hub", "")
		case d.Stage == StageClaimed && s.wall.Sub(d.Ended) >= s.cfg.EffectWithin:
			s.end(d, StageNotEffective, []catalog.Reason{{Code: catalog.CodeNotEffective, Message: "an agent said that it was done, and " + notSeen(d.Decision.Verb)}}, "hub", "")
		}
	}
	s.issue()
	s.showWaiting()
	for n := range s.dec.recent {
		if s.wall.Sub(s.dec.all[n].Sent) >= time.Hour {
			delete(s.dec.recent, n)
		}
	}
	forget := len(s.dec.all) - len(s.dec.open) - keptDecisions
	if len(s.dec.all) <= len(s.dec.open) || forget <= 0 && s.mono < s.dec.swept+sweepEvery {
		return
	}
	s.dec.swept = s.mono
	for _, n := range slices.Sorted(maps.Keys(s.dec.all)) {
		d := s.dec.all[n]
		if !d.Stage.Settled() || s.dec.recent[n] { // budgets count it yet
			continue
		}
		if forget <= 0 && s.wall.Sub(d.Ended) < keepSettled {
			break
		}
		forget--
		s.dropDecided(d)
		s.out.Records = append(s.out.Records, Record{Key: decisionKey(n)})
	}
}

// end settles a decision.
func (s *State) end(d *Decided, stage Stage, reasons []catalog.Reason, by, why string) {
	next := *d
	next.Stage, next.Ended, next.Reasons = stage, s.wall.Round(0), append(slices.Clone(d.Reasons), reasons...)
	s.putDecided(&next)
	for _, r := range next.Reasons {
		why = strings.TrimPrefix(why+"; "+r.String(), "; ")
	}
	if next.Outcome != nil {
		for _, r := range next.Outcome.Reasons {
			why = strings.TrimPrefix(why+"; "+r.String(), "; ")
		}
	}
	s.auditDecision(string(stage), &next, by, why)
}

func (s *State) auditDecision(what string, d *Decided, by, why string) {
	x := &d.Decision
	evidence := ""
	if x.Evidence != ([32]byte{}) {
		evidence = hex.EncodeToString(x.Evidence[:])
	}
	about := fmt.Sprintf("%s of %s in %s", x.Verb, firstOf(x.Slate, "everything"), x.Region)
	s.audit(AuditEntry{Who: by, What: what, Of: "decision/" + x.ID, Why: withWhy(about, why), Evidence: evidence})
	s.tellDecided(what, d, by, why)
}

// replayDecision takes in a record of decisions.
func (s *State) replayDecision(r Record) error {
	switch r.Key {
	case countersKey:
		var c counters
		if err := decodeRecord(r.Value, &c, func() int { return c.Version }); err != nil {
			return err
		}
		s.dec.counters = c
		return nil
	case breakerKey:
		var b Breaker
		if err := decodeRecord(r.Value, &b, func() int { return b.Version }); err != nil {
			return err
		}
		s.dec.breaker = b
		s.showBreaker()
		return nil
	}
	var d Decided
	if err := decodeRecord(r.Value, &d, func() int { return d.Version }); err != nil {
		return err
	}
	if decisionKey(d.Number) != r.Key {
		return fmt.Errorf("it is decision %d", d.Number)
	}
	s.keepDecided(&d)
	return nil
}

// deciding is the term; 0 when this hub does not decide.
func (s *State) deciding() uint64 {
	if s.office.Why != "" {
		return 0
	}
	return s.office.Term
}
