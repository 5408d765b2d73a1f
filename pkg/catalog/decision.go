package catalog

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Verb is what a decision asks of a region's agent.
type Verb string

// The verbs: a closed list. An agent refuses those that it does not know, that
// it cannot do yet, and that its configuration does not allow.
const (
	VerbHold     Verb = "hold"     // pin the history of a slate from now on, and let go of an older pin
	VerbRelease  Verb = "release"  // remove a pin of ours
	VerbPermit   Verb = "permit"   // publish how far the history may be cut
	VerbWithdraw Verb = "withdraw" // publish that it may not be cut any more
	VerbPrune    Verb = "prune"    // remove restore points beyond the policy's, and orphans by policy
	VerbVerify   Verb = "verify"   // look at every object of the restore points now
	VerbResync   Verb = "resync"   // look at everything and tell it anew
	VerbFreeze   Verb = "freeze"   // do nothing irreversible until thaw
	VerbThaw     Verb = "thaw"

	VerbDrain      Verb = "drain"
	VerbFence      Verb = "fence"
	VerbUnfence    Verb = "unfence"
	VerbPill       Verb = "pill"
	VerbUnpill     Verb = "unpill"
	VerbTombstone  Verb = "tombstone"
	VerbPurge      Verb = "purge"
	VerbSeedSource Verb = "seed-source"
	VerbSeedCopy   Verb = "seed-copy"
)

// Verbs lists all verbs.
var Verbs = []Verb{
	VerbHold, VerbRelease, VerbPermit, VerbWithdraw, VerbPrune, VerbVerify, VerbResync, VerbFreeze, VerbThaw,
	VerbDrain, VerbFence, VerbUnfence, VerbPill, VerbUnpill, VerbTombstone, VerbPurge, VerbSeedSource, VerbSeedCopy,
}

// DefaultVerbs are those that an agent carries out when its configuration does
// not say which.
var DefaultVerbs = []Verb{VerbHold, VerbRelease, VerbPermit, VerbWithdraw, VerbVerify, VerbResync, VerbFreeze, VerbThaw}

// Valid reports whether v is one of [Verbs].
func (v Verb) Valid() bool { return slices.Contains(Verbs, v) }

// Irreversible reports whether carrying v out may let something go that cannot
// be had back. A frozen agent does none of these. A verb that is not known is
// one of them.
func (v Verb) Irreversible() bool {
	switch v {
	case VerbHold, VerbWithdraw, VerbVerify, VerbResync, VerbFreeze, VerbThaw, VerbUnfence, VerbUnpill:
		return false
	}
	return true
}

// OfRegion reports whether v is about a region and not about one slate in it:
// such a decision has no slate, root and incarnation.
func (v Verb) OfRegion() bool { return v == VerbFreeze || v == VerbThaw || v == VerbResync }

// Purposes of holds that are not the names of documents.
const (
	// PurposeTrim holds what is not archived everywhere yet: it goes on with the
	// floor.
	PurposeTrim = "trim"
	// PurposeRestorePoint is a restore point that a policy asked for.
	PurposeRestorePoint = "restore-point"
)

// NameHold is the name of the checkpoint that a decision's hold is; purpose
// says for people why it is held.
func NameHold(purpose, decision string) string {
	return HoldName + purpose + ":" + decision
}

// MaxExpiry is the longest that a decision may wait to be carried out.
const MaxExpiry = 24 * time.Hour

// Decision is a durable, numbered instruction of a hub to one region's agent.
// The hub's ledger has it before it leaves the hub (P8), and the agent does it
// only if its own bucket agrees (P7).
type Decision struct {
	// ID is a UUID: the decision's name in the ledger, the journal, outcomes and audit.
	ID     string `json:"id"`
	Verb   Verb   `json:"verb"`
	Region string `json:"region"`
	// Slate, Root and Incarnation say what it is about; empty for verbs
	// that are about the region.
	Slate       string `json:"slate,omitempty"`
	Root        string `json:"root,omitempty"`
	Incarnation string `json:"incarnation,omitempty"`

	// Ledger is the UUID of the ledger that has it, Term the number of the hub's
	// right to decide, from 1. Sequence grows with every decision of the ledger
	// for this region, from 1: an agent takes each number once.
	Ledger   string `json:"ledger"`
	Term     uint64 `json:"term"`
	Sequence uint64 `json:"sequence"`

	// Position is inclusive, of PositionDomain and Lineage: for permit how far
	// may be cut, for prune the floor above which the lowest restore point
	// must not be lifted, for hold the least that the hold must contain; nil: none.
	Position       *uint64 `json:"position,omitempty"`
	PositionDomain string  `json:"position_domain,omitempty"`
	Lineage        string  `json:"lineage,omitempty"`

	Parameters    Parameters     `json:"parameters"`
	Preconditions []Precondition `json:"preconditions,omitempty"`
	// Evidence is the SHA-256 of what it was decided by, as the ledger has it.
	Evidence [32]byte `json:"evidence"`
	// Expires is counted from receipt on the agent's own clock, up to
	// [MaxExpiry], in whole milliseconds. What was not done by then is not done.
	Expires time.Duration `json:"expires_ns"`
}

// Parameters are what some verbs need beside a position. What a verb does not
// use is zero.
type Parameters struct {
	// Restorable is the k of the policy, from 1: for permit the k-th newest
	// verified restore point of the region must be at or above the position;
	// for prune as many verified ones must be left, and for release besides the
	// one that goes.
	Restorable uint64 `json:"restorable,omitempty"`
	// Purpose of a hold, for people: [PurposeTrim], [PurposeRestorePoint] or the
	// name of a hold's document.
	Purpose string `json:"purpose,omitempty"`
	// Replaces is the checkpoint that a hold takes the place of: released once
	// the new one is there. Empty: none.
	Replaces string `json:"replaces,omitempty"`
	// Checkpoint is the one to release.
	Checkpoint string `json:"checkpoint,omitempty"`
	// ValidFor is how long a permit may be used, from when it is written.
	ValidFor time.Duration `json:"valid_for_ns,omitempty"`
	// Remove are the restore points to prune, by folder.
	Remove []string `json:"remove,omitempty"`
	// Grace is how long a folder that the pointer does not list may be an upload
	// that is going on.
	Grace time.Duration `json:"grace_ns,omitempty"`
	// SweepOrphans removes folders that the pointer does not list and that have
	// not changed for OrphansOlder.
	SweepOrphans bool          `json:"sweep_orphans,omitempty"`
	OrphansOlder time.Duration `json:"orphans_older_ns,omitempty"`
	// Reason is a person's word, for freeze and thaw.
	Reason string `json:"reason,omitempty"`
}

// Precondition is a fact that must still be so when the decision is carried
// out. An agent refuses one whose name it does not know.
type Precondition struct {
	What  string `json:"what"`
	Value string `json:"value"`
}

// The preconditions that there are.
const (
	// PrePointer: the SHA-256 of latest.json in hex.
	PrePointer = "pointer-sha256"
	// PreManifest: the newest manifest has at least this id.
	PreManifest = "manifest-at-least"
	// PreRestorePoint: the restore point of this id is there and verified.
	PreRestorePoint = "restore-point"
)

// Validate checks a decision before it is written down, sent or taken. What
// the decision asks for may still be refused.
func (d *Decision) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("decision %.64q: %w: %w", d.ID, fmt.Errorf(format, args...), ErrInvalid)
	}
	if id, err := uuid.Parse(d.ID); err != nil || id.String() != d.ID {
		return bad("the id is no UUID")
	}
	if id, err := uuid.Parse(d.Ledger); err != nil || id.String() != d.Ledger {
		return bad("ledger %.64q is no UUID", d.Ledger)
	}
	if err := CheckName(d.Region); err != nil {
		return bad("region: %w", err)
	}
	if d.Verb == "" || len(d.Verb) > 32 || !printable(string(d.Verb)) {
		return bad("verb %.64q is no word", d.Verb)
	}
	if d.Verb.OfRegion() {
		if d.Slate != "" || d.Root != "" || d.Incarnation != "" {
			return bad("%s is about a region, not about slate %.200q", d.Verb, d.Slate)
		}
	} else {
		if err := CheckName(d.Slate); err != nil {
			return bad("slate: %w", err)
		}
		if err := CheckName(d.Root); err != nil {
			return bad("root: %w", err)
		}
		if d.Incarnation == "" {
			return bad("no incarnation")
		}
	}
	if d.Term == 0 || d.Sequence == 0 {
		return bad("term %d and sequence %d count from 1", d.Term, d.Sequence)
	}
	if d.Expires < time.Millisecond || d.Expires > MaxExpiry || d.Expires%time.Millisecond != 0 {
		return bad("it expires after %v; between 1ms and %v, in whole milliseconds", d.Expires, MaxExpiry)
	}
	p := &d.Parameters
	for _, t := range []struct {
		field string
		v     time.Duration
	}{{"valid_for", p.ValidFor}, {"grace", p.Grace}, {"orphans_older", p.OrphansOlder}} {
		if t.v < 0 || t.v > 10*365*24*time.Hour || t.v%time.Millisecond != 0 {
			return bad("%s %v: from 0 to ten years, in whole milliseconds", t.field, t.v)
		}
	}
	for _, s := range []struct{ field, v string }{
		{"incarnation", d.Incarnation}, {"position_domain", d.PositionDomain}, {"lineage", d.Lineage},
		{"purpose", p.Purpose}, {"replaces", p.Replaces}, {"checkpoint", p.Checkpoint}, {"reason", p.Reason},
	} {
		if len(s.v) > 512 || !printable(s.v) {
			return bad("%s: at most 512 bytes of printable text", s.field)
		}
	}
	if len(p.Remove) > 1024 || len(d.Preconditions) > 256 {
		return bad("%d restore points to remove and %d preconditions; at most 1024 and 256", len(p.Remove), len(d.Preconditions))
	}
	for _, r := range p.Remove {
		if CheckName(r) != nil || strings.Contains(r, "/") {
			return bad("remove %.200q is no folder's name", r)
		}
	}
	for _, c := range d.Preconditions {
		if c.What == "" || len(c.What) > 64 || len(c.Value) > 512 || !printable(c.What) || !printable(c.Value) {
			return bad("precondition %.64q: short printable texts", c.What)
		}
	}
	return nil
}

// OutcomeState says how a decision ended in its region.
type OutcomeState string

// How decisions end.
const (
	// OutcomeDone: the effect was seen.
	OutcomeDone OutcomeState = "done"
	// OutcomeRefused: the agent did nothing, for the reasons given.
	OutcomeRefused OutcomeState = "refused"
	// OutcomeFailed: something may have been done, not all of it.
	OutcomeFailed OutcomeState = "failed"
	// OutcomeNotEffective: it was tried, and the effect was not seen in time.
	OutcomeNotEffective OutcomeState = "not-effective"
	// OutcomeExpired: its time was over before anything was done.
	OutcomeExpired OutcomeState = "expired"
)

// OutcomeStates lists all of them.
var OutcomeStates = []OutcomeState{OutcomeDone, OutcomeRefused, OutcomeFailed, OutcomeNotEffective, OutcomeExpired}

// Outcome is what an agent saw and did. It is told until the hub says that it
// has been settled, and never changes.
type Outcome struct {
	Decision string       `json:"decision"` // its id
	Region   string       `json:"region"`   // of the session; set by the hub
	Verb     Verb         `json:"verb"`
	Slate    string       `json:"slate,omitempty"`
	Sequence uint64       `json:"sequence"`
	State    OutcomeState `json:"state"`
	Reasons  []Reason     `json:"reasons"` // why it is not done; empty when it is
	Saw      Saw          `json:"saw"`
	Steps    []Step       `json:"steps"` // a tree from the top: each after the one that it is part of
}

// Reason is one fact that holds something back. Codes are part of the API.
type Reason struct {
	Code    string `json:"code"`
	Message string `json:"message"` // one sentence; the last words say what a person can do
}

func (r Reason) String() string { return r.Code + ": " + r.Message }

// The codes of reasons that agents give, besides those that the rules give too.
const (
	CodeStaleTerm       = "stale-term"          // a newer term was seen
	CodeReplayed        = "replayed"            // its number was taken before
	CodeExpired         = "plan-expired"        // its time is over, or the agent restarted before it was checked
	CodeOtherLedger     = "another-ledger"      // the agent obeys another one
	CodeOtherRegion     = "another-region"      // it is for another region
	CodeIncarnation     = "another-incarnation" // what is there now is not what was meant
	CodeOutside         = "outside-prefixes"    // the root is not the agent's to touch
	CodeNotAllowed      = "verb-not-allowed"    // by the agent's configuration, or not known to it
	CodeAboveLimit      = "above-local-limit"   // the agent's own verified archived position is lower
	CodeNotOurs         = "not-ours"            // a checkpoint that Quarry did not make
	CodeMoved           = "moved"               // a precondition does not hold any more
	CodeUnreadable      = "unreadable"          // what has to be re-checked cannot be read
	CodeFrozen          = "frozen"
	CodeBelowMin        = "below-min-snapshots"
	CodeLast            = "last-snapshot"
	CodeFloor           = "would-strand"       // it would lift the lowest restore point above the floor
	CodeUploading       = "upload-in-progress" // a folder newer than the pointer is young
	CodeNoReplace       = "no-compare-and-set" // the store cannot replace an object conditionally
	CodeHistoryGap      = "history-gap"
	CodeIncomparable    = "incomparable-positions"
	CodeNotEffective    = "not-effective"
	CodeInvalid         = "invalid"
	CodeStore           = "store" // the store failed
	CodeStaleRestore    = "snapshot-incomplete"
	CodeBelowPublished  = "below-published" // a permit may not move down; withdraw first
	CodeArchiveUnread   = "archive-unreadable"
	CodeNotOnDuty       = "not-on-duty"
	CodeHoldMissing     = "hold-missing"
	CodePositionMissing = "position-missing" // the hold does not contain what was asked for
)

// Saw is what an agent saw when it acted. Nil and empty mean not observed.
type Saw struct {
	// Position that is in force now: the permit's, or the highest that the hold
	// contains.
	Position *uint64 `json:"position,omitempty"`
	// Limit is the agent's own: its region's verified archived position.
	Limit *uint64 `json:"limit,omitempty"`
	// Permit is the number of the permit that was read back.
	Permit *uint64 `json:"permit,omitempty"`
	// Checkpoint is the hold's id, Manifest the manifest that has it (or has it
	// no more).
	Checkpoint string  `json:"checkpoint,omitempty"`
	Manifest   *uint64 `json:"manifest,omitempty"`
	// Verified counts restore points that were verified, Lowest is the lowest
	// position that the pointer lists.
	Verified *uint64 `json:"verified,omitempty"`
	Lowest   *uint64 `json:"lowest,omitempty"`
	// Removed are restore points and orphans that are gone, Objects and Bytes
	// what that was.
	Removed []string `json:"removed,omitempty"`
	Objects uint64   `json:"objects,omitempty"`
	Bytes   uint64   `json:"bytes,omitempty"`
	// Done are the decisions of the slate that had been carried out when it was
	// withdrawn.
	TrimmedTo *uint64 `json:"trimmed_to,omitempty"`
}

// Step is one step of carrying a decision out.
type Step struct {
	Name  string        `json:"name"`
	Took  time.Duration `json:"took_ns"`
	Error string        `json:"error,omitempty"`
	// Depth is how many steps this one is part of.
	Depth uint32 `json:"depth,omitempty"`
}

// Validate checks an outcome before it is sent and after it came.
func (o *Outcome) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("outcome of %.64q: %w: %w", o.Decision, fmt.Errorf(format, args...), ErrInvalid)
	}
	if id, err := uuid.Parse(o.Decision); err != nil || id.String() != o.Decision {
		return bad("the decision's id is no UUID")
	}
	if !slices.Contains(OutcomeStates, o.State) {
		return bad("state %.64q: one of %q", o.State, OutcomeStates)
	}
	if (o.State == OutcomeDone) != (len(o.Reasons) == 0) {
		return bad("it is %s with %d reasons", o.State, len(o.Reasons))
	}
	if len(o.Reasons) > 64 || len(o.Steps) > 512 || len(o.Saw.Removed) > 2048 {
		return bad("%d reasons, %d steps, %d removed; at most 64, 512 and 2048", len(o.Reasons), len(o.Steps), len(o.Saw.Removed))
	}
	if o.Sequence == 0 {
		return bad("sequence counts from 1")
	}
	if !o.Verb.OfRegion() {
		if err := CheckName(o.Slate); err != nil {
			return bad("slate: %w", err)
		}
	}
	for _, r := range o.Reasons {
		if r.Code == "" || len(r.Code) > 64 || !printable(r.Code) || len(r.Message) > 4<<10 {
			return bad("reason %.64q: a short code, and a message of at most 4 KiB", r.Code)
		}
	}
	for _, s := range o.Steps {
		if s.Name == "" || len(s.Name) > 512 || len(s.Error) > 4<<10 || s.Took < 0 || s.Took > 10*365*24*time.Hour {
			return bad("step %.64q: a name, a time that it took, and an error of at most 4 KiB", s.Name)
		}
	}
	for _, r := range o.Saw.Removed {
		if r == "" || len(r) > 1024 {
			return bad("removed %.64q: names", r)
		}
	}
	return nil
}
