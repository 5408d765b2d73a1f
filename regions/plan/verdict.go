// Package plan has the rules: what may be done with a slate, and if nothing
// may, which facts hold it back. Values and a time in, a verdict out: no I/O,
// no clock, no log, so that every verdict can be given again from the evidence
// that was recorded with it (P9).
//
// Ignorance holds back (P2): a region that is silent, blind, unverified or
// unknown counts as one that has archived nothing. Begin with [Trim].
package plan

import (
	"fmt"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Code says why something waits. The spelling is the same in verdicts, logs,
// metrics, the API and the pages.
type Code string

// The codes that [Trim] gives.
const (
	RegionStale        Code = "region-stale"
	RegionBlind        Code = "region-blind"
	RegionJoining      Code = "region-joining"
	RegionReset        Code = "region-reset"
	NoArchive          Code = "no-archive"
	ArchiveUnreadable  Code = "archive-unreadable"
	SnapshotIncomplete Code = "snapshot-incomplete"
	BelowMinSnapshots  Code = "below-min-snapshots"
	OnHold             Code = "hold"
	OnLegalHold        Code = "legal-hold"
	WindowClosed       Code = "window-closed"
	ReaderActive       Code = "reader-active"
	PinnedByClone      Code = "pinned-by-clone"
	Incomparable       Code = "incomparable-positions"
	WouldStrand        Code = "would-strand"
	Frozen             Code = "frozen"
	LastSnapshot       Code = "last-snapshot"
	NoPolicy           Code = "no-policy"
	RegionLagging      Code = "region-lagging" // by maxLag; it stops the verdict when that says block
)

// Reason is one fact that holds back.
type Reason struct {
	Code    Code   `json:"code"`
	Message string `json:"message"` // one sentence; the last words say what a person can do
}

func (r Reason) String() string { return string(r.Code) + ": " + r.Message }

func reason(c Code, format string, args ...any) Reason {
	return Reason{c, fmt.Sprintf(format, args...)}
}

// Action is what a verdict says to do.
type Action string

// The actions of [Trim].
const (
	Permit Action = "permit" // everything at or below UpTo may be cut
	Wait   Action = "wait"
)

// Verdict is the answer of [Trim]: something to do, or the reasons to wait;
// never both, never neither.
type Verdict struct {
	Action Action `json:"action"`
	// UpTo is the floor, inclusive, in the slate's position domain; nil when
	// waiting.
	UpTo *uint64 `json:"up_to"`
	// Binding names the required region that the floor comes from, less the
	// safety gap; empty when a hold, a reader or what keepNewest keeps is lower.
	Binding string          `json:"binding_region"`
	Regions []RegionOpinion `json:"regions"` // of the required regions, by name
	Holds   []Pin           `json:"holds"`   // those that bound the floor, lowest first
	Reasons []Reason        `json:"reasons"` // why it waits; empty for a permit
}

// RegionOpinion is what one required region adds to a verdict.
type RegionOpinion struct {
	Region string              `json:"region"`
	State  catalog.RegionState `json:"state"`
	// Verified is the region's archived position: that of its k-th newest
	// verified restore point; nil: nothing that counts.
	Verified *uint64 `json:"verified"`
	Newest   *uint64 `json:"newest"` // position of its newest restore point, verified or not
	// AgeSeconds since the hub first heard of the newest verified one.
	AgeSeconds *int64   `json:"age_seconds"`
	Reasons    []Reason `json:"reasons"` // what counts against it, whether it stops the verdict or not
}

// Slate is a slate as the rules see it: its placements of one lineage.
type Slate struct {
	Name    string
	Domain  string // of every position here
	Lineage string
	Head    *uint64 // highest position seen anywhere; nil: none, and the newest are those up to what is archived
	Regions []Region
	Pins    []Pin
	Frozen  string // why people froze it; empty: they did not
	// Lost says which region lost its last restore point, though nobody had it
	// removed; empty: none, or a person has said that it goes on.
	Lost string
}

// Region is what is known of a slate in one region of the set.
type Region struct {
	Name       string
	Membership catalog.Membership
	State      catalog.RegionState
	Since      time.Time // of State, on the hub's clock
	// Heard is false until the region was heard in this term: what is known of
	// it was loaded, and decides nothing.
	Heard bool
	// Placed is false when the slate has no placement there.
	Placed bool
	// Lineage of its placement, when that is not the slate's: its positions
	// say nothing.
	Lineage string
	// Unreadable says why the archive's list itself cannot be read; empty: it
	// can.
	Unreadable string
	Points     []Point
	Orphans    []Orphan
	// Permitted is how far the permit that rules in its bucket, as it was seen
	// there, lets the owner cut; nil: not at all.
	Permitted *uint64
}

// Point is a restore point.
type Point struct {
	ID       string
	Position uint64
	State    catalog.RestoreState
	Reason   string // why it is not verified
	// FirstSeen and VerifiedAt are moments of the hub's clock: when it first
	// heard of the point, and of its last verification.
	FirstSeen, VerifiedAt time.Time
	// Key is what decisions call it; empty: as ID.
	Key string
	// Made is by its maker's clock; zero: not known.
	Made time.Time
	// Bytes of its objects; 0: not known.
	Bytes uint64
	// Leaving says that a decision which removes it was made: for [Prune] it
	// counts as gone.
	Leaving bool
}

// Orphan is a folder beside the restore points that nothing lists.
type Orphan struct {
	ID        string
	ChangedAt time.Time // of its newest object, by the store's clock; zero: not known
}

// Pin is something that keeps history from a position on.
type Pin struct {
	Kind     PinKind `json:"kind"`
	ID       string  `json:"id"`
	Region   string  `json:"region,omitempty"`
	Position *uint64 `json:"position"` // the lowest it still needs; nil: unknown, which is everything
	Message  string  `json:"message,omitempty"`
}

// PinKind says what a pin is.
type PinKind string

// The kinds of pins.
const (
	PinHold     PinKind = "hold"
	PinLegal    PinKind = "legal-hold"
	PinReader   PinKind = "reader"   // a live reader: its checkpoint, or a lease
	PinClone    PinKind = "clone"    // a clone that reads this slate's tables
	PinConsumer PinKind = "consumer" // reads on from a position, or begins again from a restore point
)
