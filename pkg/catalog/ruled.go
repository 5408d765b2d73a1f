package catalog

import "time"

// Policy is a policy as people see it in a list. What it says in full is its
// document.
type Policy struct {
	Name      string    `json:"name"`
	Revision  uint64    `json:"revision" doc:"With which the policy became what it is; revisions grow over all documents."`
	Owner     string    `json:"owner,omitempty"`
	Selects   string    `json:"selects" doc:"Which slates it is about, in words."`
	Trims     string    `json:"trims" doc:"Which regions must have archived before history may be cut, in words; empty: it permits no trimming."`
	PerRegion uint64    `json:"per_region" doc:"Verified restore points that each required region keeps."`
	AppliedBy string    `json:"applied_by"`
	AppliedAt time.Time `json:"applied_at" doc:"Hub's clock."`
	Document  string    `json:"document" doc:"The policy as YAML, ready to be applied again."`
}

// Hold is a hold as people see it in a list.
type Hold struct {
	Name      string     `json:"name"`
	Revision  uint64     `json:"revision" doc:"With which the hold became what it is; revisions grow over all documents."`
	Selects   string     `json:"selects" doc:"Which slates it is about, in words."`
	Scope     []string   `json:"scope" doc:"What it forbids: trim, prune, delete, seed or all."`
	From      uint64     `json:"from" doc:"The lowest position that it keeps; 0: all history."`
	Until     *time.Time `json:"until" doc:"When it ends by itself; null: when it is released."`
	Legal     bool       `json:"legal" doc:"Its release needs two people."`
	Enforce   string     `json:"enforce,omitempty" doc:"checkpoint: the agents also hold it with a SlateDB checkpoint."`
	Why       string     `json:"why,omitempty" doc:"As its document says."`
	Releasing string     `json:"releasing,omitempty" doc:"Who asked first for the release of a legal hold."`
	AppliedBy string     `json:"applied_by"`
	AppliedAt time.Time  `json:"applied_at" doc:"Hub's clock."`
	Document  string     `json:"document" doc:"The hold as YAML, ready to be applied again."`
	// Where agents hold it with a checkpoint.
	Where     []HoldPlace `json:"where" doc:"The checkpoints with which agents hold it, by slate and region."`
	HeldBytes *uint64     `json:"held_bytes" doc:"Bytes of tables that its checkpoints keep and the newest states do not need; null: not known, or it has none."`
}

// HoldPlace is a checkpoint that is made for a hold.
type HoldPlace struct {
	Slate      string  `json:"slate"`
	Region     string  `json:"region"`
	Checkpoint string  `json:"checkpoint"`
	Position   *uint64 `json:"position" doc:"The highest that it contains."`
	HeldBytes  *uint64 `json:"held_bytes"`
}

// Freeze is a scope in which nothing irreversible is done.
type Freeze struct {
	Scope string    `json:"scope" doc:"all, region/NAME or slate/NAME."`
	By    string    `json:"by"`
	At    time.Time `json:"at" doc:"Hub's clock."`
	Why   string    `json:"why"`
}

// The types of events about what people decided.
const (
	EventPolicyApplied = "policy-applied"
	EventPolicyRemoved = "policy-removed"
	EventHoldApplied   = "hold-applied"
	EventHoldReleased  = "hold-released"
	EventFrozen        = "frozen"
	EventThawed        = "thawed"
	EventRegionJoining = "region-joining"
	EventRegionActive  = "region-active"
	EventRegionRetired = "region-retired"

	EventRegionLagging  = "region-lagging"   // its archive of a slate is further behind than a policy bears
	EventRegionCaughtUp = "region-caught-up" // it is not any more
	EventSnapshotWanted = "snapshot-wanted"  // a policy wants a restore point that only the owner can make
	// Where two people have to agree: one has asked, or that was taken back.
	EventRegionRetiring = "region-retiring"
	EventRegionStays    = "region-stays"
)
