// Package state is what the hub knows and what it wants next. It is pure: an
// event and a time in, a [Ready] out; no I/O, no clock, no goroutine. One
// goroutine owns a [State]; everybody else reads the immutable view it
// publishes.
//
// Begin with [State.Step].
package state

import (
	"iter"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// SessionID names one agent's stream within one life of the hub process. It
// grows: a later session has a higher id.
type SessionID uint64

// Event is something that happened: one of the types below.
type Event interface{ event() }

// Hello opens a session. Everything but Session is what the agent says.
type Hello struct {
	Session SessionID
	Region  string
	Cluster string
	Agent   string // identity of the process
	Version string
	// Generation orders holders of the same region and cluster; an older one
	// is refused. Until there are leases it is the agent's start.
	Generation uint64
	Start      uint64 // Revision.Start of everything it reports
	StartedAt  time.Time
	Bucket     string // where its bucket is, without secrets
	// BucketID is the incarnation in the bucket's region.json: empty when the
	// object is not there or cannot be read, then BucketWhy says which.
	BucketID  string
	BucketWhy string
	// Last is the highest revision the agent knows to be acknowledged by a hub.
	Last  catalog.Revision
	Obeys Obeys
	// Decides: the agent understands decisions.
	Decides bool
}

// Obeys is whom a region has obeyed so far, as its agent knows it from the bucket.
type Obeys struct {
	// Known is false until the agent has read it: then the rest says nothing.
	Known bool
	// Term is the highest term of a decision that was taken, 0: none. A hub at or
	// below a term that it did not issue must not decide.
	Term uint64
	// Ledger is the UUID of the only ledger whose decisions are taken, empty:
	// none yet, the first one's will be.
	Ledger string
}

// What BucketWhy says when BucketID is empty although the bucket can be read;
// more may follow either. Anything else means that it cannot be read now.
const (
	BucketNotThere    = "not there"
	BucketMayNotWrite = "may not write" // not there, and the agent may not make one
)

// Beat says that the agent lives and what it thinks of itself.
type Beat struct {
	Session SessionID
	// BucketID as in Hello: it may change while a session lasts, for the agent
	// looks again.
	BucketID  string
	BucketWhy string
	// ReadOK is false when the agent cannot read its bucket; Reason says why.
	ReadOK     bool
	Reason     string
	CannotKeep string // what it cannot record for lack of rights; empty: nothing
	AgentClock time.Time
	At         catalog.Revision   // everything up to here has been sent
	Digest     [32]byte           // root of the catalog.Digest over all facts the agent holds at At; zero: not given
	Spend      map[string]float64 // requests per hour by class
	Budget     float64
	// Staged is how many bytes of a snapshot the hub has staged for this
	// session: whether one that is under way goes on.
	Staged int
	Obeys  Obeys
}

// Delta brings facts; each is newer than what was sent before.
type Delta struct {
	Session SessionID
	Facts   []catalog.Fact
	Upto    catalog.Revision
}

// Snapshot brings all facts of a region, already checked against its count
// and digest. Empty must be said when it is meant to have none.
type Snapshot struct {
	Session SessionID
	Facts   []catalog.Fact
	// Later gives Rest more, one by one: facts that are kept as they came until
	// it is their turn, for as values they are several times as large.
	Later func() (catalog.Fact, bool)
	Rest  int
	Upto  catalog.Revision
	Empty bool
}

// Count is how many facts the snapshot still has.
func (e *Snapshot) Count() int { return len(e.Facts) + e.Rest }

// All takes the facts out of the snapshot, in their order.
func (e *Snapshot) All() iter.Seq[*catalog.Fact] {
	return func(yield func(*catalog.Fact) bool) {
		for e.Count() > 0 {
			var f catalog.Fact
			if len(e.Facts) > 0 {
				f = e.Facts[0]
				e.Facts = e.Facts[1:]
			} else {
				var ok bool
				if f, ok = e.Later(); !ok {
					e.Rest = 0
					return
				}
				e.Rest--
			}
			if !yield(&f) {
				return
			}
		}
	}
}

// Quarantined tells of a record that could not be understood. It never ends
// the session, and it says nothing about what the record described (P1).
type Quarantined struct {
	Session SessionID
	Kind    string
	Key     string
	Why     string
	// Fact is the number of the record's kind, zero when not one record but a
	// frame or a snapshot was bad; then Revision and Sum are zero too.
	Fact     uint32
	Revision catalog.Revision
	// Sum belongs in the digest of what the hub holds, under (Fact, Key), until
	// a newer record or a snapshot takes its place: the agent counts it too.
	Sum catalog.Sum
	// Staged: it is part of the snapshot or the repair that is the session's next
	// event: the agent holds it at that moment.
	Staged bool
}

// Closed ends a session.
type Closed struct {
	Session SessionID
	Why     string
}

// Settled brings what an agent saw and did. It is told again, in this session
// and in later ones, until a [Settle] names its decision.
type Settled struct {
	Session SessionID
	Outcome catalog.Outcome // Region is the session's
}

// Tick lets time pass. Whoever sends it has first sent what was waiting.
type Tick struct{}

// AcceptRegion is a person's word that a region that came back different or
// with much less is right as it is now.
type AcceptRegion struct{ Region, By string }

// ForgetPlacement removes a missing row at a person's word.
type ForgetPlacement struct{ Region, Slate, By string }

func (Hello) event()           {}
func (Beat) event()            {}
func (Delta) event()           {}
func (Snapshot) event()        {}
func (Quarantined) event()     {}
func (Closed) event()          {}
func (Settled) event()         {}
func (Tick) event()            {}
func (AcceptRegion) event()    {}
func (ForgetPlacement) event() {}

// Send is a message for one session.
type Send struct {
	To      SessionID
	Message Message
}

// Message is something the hub says to an agent: one of the types below.
type Message interface{ message() }

// Welcome answers a hello.
type Welcome struct {
	// Reporter: this session brings the region's facts. Of several clusters
	// of one region one reports, the others stand by until told.
	Reporter bool
	// Resume: deltas from here on are enough. Zero: a snapshot is wanted.
	Resume catalog.Revision
	// BucketID is the incarnation of the region's bucket that the hub knows,
	// empty when it knows none: only then may the agent write region.json.
	BucketID string
	Beat     time.Duration // how often to beat
	// Spread is the window over which the agent should scatter a reconnect.
	Spread time.Duration
	// Wait: a snapshot is wanted, and WantSnapshot says when. Ahead is how many
	// regions are before this one.
	Wait  bool
	Ahead int
}

// Ack says that everything up to Applied is in the state, and in the next view.
type Ack struct{ Applied catalog.Revision }

// WantSnapshot asks the reporter for a snapshot.
type WantSnapshot struct{ Why string }

// Refuse ends a session for a reason that another attempt will not cure
// by itself; the agent says it and tries again rarely.
type Refuse struct{ Why string }

// Decide brings a decision that the ledger has. It is for every session of the
// region that [Hello.Decides], for the agent on duty need not be the one that
// reports; those that are not say nothing. It may get lost with the session:
// until the outcome comes or the time is over it is said again in each new one.
type Decide struct{ Decision catalog.Decision }

// Settle says that the outcomes of these decisions are durable here.
type Settle struct{ Decisions []string }

func (Decide) message()       {}
func (Settle) message()       {}
func (Welcome) message()      {}
func (Ack) message()          {}
func (WantSnapshot) message() {}
func (Refuse) message()       {}
