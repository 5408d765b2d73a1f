package catalog

import "time"

// Stage is where a decision is in its life.
type Stage string

// The stages. A decision goes down this list and never up, but that what an
// agent says late is still taken down.
const (
	StageProposed     Stage = "proposed"      // people have to approve it
	StageApproved     Stage = "approved"      // it waits for an agent of its region
	StageSent         Stage = "sent"          // an agent may have it, from now on
	StageClaimed      Stage = "claimed"       // an agent says that it is done; the effect was not seen yet
	StageDone         Stage = "done"          // the effect was seen
	StageRefused      Stage = "refused"       // by a person, or by the agent; nothing was done
	StageFailed       Stage = "failed"        // something may have been done, not all of it
	StageExpired      Stage = "expired"       // its time was over before it was sent, or before the agent did anything
	StageNotEffective Stage = "not-effective" // no effect was seen in time: never taken for done
)

// Stages lists all stages.
var Stages = []Stage{StageProposed, StageApproved, StageSent, StageClaimed, StageDone, StageRefused, StageFailed, StageExpired, StageNotEffective}

// Settled reports whether nothing more is expected.
func (s Stage) Settled() bool {
	switch s {
	case StageProposed, StageApproved, StageSent, StageClaimed:
		return false
	}
	return true
}

// DecisionRow is a decision as people see it: what is to be done, by whose
// word, how far it has come, and what the agent saw and did.
type DecisionRow struct {
	ID     string `json:"id" doc:"A UUID. Commands take the first characters of it too, where they say which one is meant."`
	Number uint64 `json:"number" doc:"In the ledger, from 1."`
	Verb   Verb   `json:"verb" doc:"What an agent is to do."`
	Slate  string `json:"slate" doc:"Empty: it is about the region."`
	Region string `json:"region" doc:"Whose agent carries it out."`
	Root   string `json:"root,omitempty"`
	// Incarnation is that of the database that was meant.
	Incarnation    string  `json:"incarnation,omitempty" doc:"Of the database that was meant: another one at the same root is left alone."`
	Position       *uint64 `json:"position" doc:"permit: how far may be cut, inclusive. prune: the floor. hold: the least that it must contain. null: none."`
	PositionDomain string  `json:"position_domain,omitempty"`
	Lineage        string  `json:"lineage,omitempty"`

	Stage Stage  `json:"stage" doc:"How far it has come. The last five are ends."`
	By    string `json:"by" doc:"Who asked for it; hub: a policy did."`
	Why   string `json:"why,omitempty" doc:"In the words of who asked for it."`
	// Waiting says why it is not sent yet, and what to do.
	Waiting   []string       `json:"waiting" doc:"Why it was not sent yet, code first, and what a person can do; empty: nothing keeps it."`
	Needs     uint64         `json:"needs" doc:"How many people besides the one who asked have to approve."`
	Approved  []ApprovalRow  `json:"approved" doc:"Who did."`
	Proposed  time.Time      `json:"proposed" doc:"When it was asked for, by the hub's clock."`
	NotAfter  time.Time      `json:"not_after" doc:"If it is not sent by then it expires."`
	Sent      *time.Time     `json:"sent" doc:"null: no agent can have it."`
	Ended     *time.Time     `json:"ended" doc:"null: it is under way."`
	Term      uint64         `json:"term" doc:"The hub's right under which it was sent; 0: it was not."`
	Sequence  uint64         `json:"sequence" doc:"Its number in the region, by which agents take each once; 0: it was not sent."`
	Reasons   []Reason       `json:"reasons" doc:"Why it ended without effect: the hub's, then the agent's."`
	Policy    string         `json:"policy,omitempty" doc:"The policy that asked for it, or by whose verdict a person did."`
	Revision  uint64         `json:"policy_revision,omitempty" doc:"Of that policy, when it did."`
	Plan      string         `json:"plan,omitempty" doc:"The evidence that it rests on, as quarry explain names it."`
	Evidence  string         `json:"evidence,omitempty" doc:"SHA-256 of that evidence, in hex, as the audit has it."`
	Renewal   bool           `json:"renewal" doc:"It only says again what rules already, before that ends."`
	Parameter Parameters     `json:"parameters" doc:"What the verb needs beside a position."`
	Must      []Precondition `json:"preconditions" doc:"What must still be so when the agent acts."`
	Expires   time.Duration  `json:"expires_ns" doc:"How long the agent may take to begin, from when it has it."`
	Outcome   *Outcome       `json:"outcome" doc:"What the agent saw and did; null: it has not said."`
}

// ApprovalRow is a person's yes.
type ApprovalRow struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// BreakerRow is how the breaker stands: open when more was wanted at once than
// looks meant. While it is open nothing is decided but what stops something.
type BreakerRow struct {
	Open   bool       `json:"open"`
	Why    string     `json:"why" doc:"Open: what was wanted. Closed: the word of who closed it; empty: it was never open."`
	By     string     `json:"by" doc:"Who asked for it, or who closed it."`
	Since  *time.Time `json:"since" doc:"null: it was never open."`
	Slates uint64     `json:"slates" doc:"How many slates would have been touched at once: the count that closing it has to name; 0: it is not known."`
}

// The types of events about decisions.
const (
	EventDecisionProposed     = "decision-proposed"
	EventDecisionApproved     = "decision-approved"
	EventDecisionSent         = "decision-sent"
	EventDecisionDone         = "decision-done"
	EventDecisionRefused      = "decision-refused"
	EventDecisionFailed       = "decision-failed"
	EventDecisionExpired      = "decision-expired"
	EventDecisionNotEffective = "decision-not-effective"
	EventBreakerOpen          = "breaker-open"
	EventBreakerClosed        = "breaker-closed"
)
