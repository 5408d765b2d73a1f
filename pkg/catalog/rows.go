package catalog

import "time"

// PlacementState is the state people see of a placement.
type PlacementState string

// The states of placements.
const (
	StateLive       PlacementState = "live"
	StateMissing    PlacementState = "missing"    // no longer seen; never evidence of deletion (P1)
	StateStale      PlacementState = "stale"      // its region is silent or blind; shown as last seen
	StateUnreadable PlacementState = "unreadable" // there, but what it says cannot be understood
)

// Placement is a slate's presence in one region, as people see it: the last
// sighting, joined with what owners declared and how fresh it is.
type Placement struct {
	Region string `json:"region"`
	Sighting
	State       PlacementState `json:"state" doc:"live, missing, stale or unreadable."`
	StateReason string         `json:"state_reason,omitempty" doc:"Why it is not live."`
	StateSince  time.Time      `json:"state_since"`

	Registered bool              `json:"registered" doc:"An owner registered it; false: discovered."`
	Owner      string            `json:"owner,omitempty"`
	Contact    string            `json:"contact,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Readers    []Reader          `json:"readers"`
	Leases     []Lease           `json:"leases,omitempty"`
	// PinnedBy names the roots of clones in this region that read its tables.
	PinnedBy []string `json:"pinned_by,omitempty"`
	// Disagreement says where declaration and store contradict each other.
	Disagreement string `json:"disagreement,omitempty"`

	WriterSince           *time.Time `json:"writer_since,omitempty" doc:"When the hub saw the writer epoch change to what it is."`
	ObservedAt            time.Time  `json:"observed_at" doc:"When the hub received the sighting (hub's clock)."`
	FirstSeen             time.Time  `json:"first_seen"`
	RestorePoints         uint64     `json:"restore_points"`
	VerifiedRestorePoints uint64     `json:"verified_restore_points"`
	// Findings are by code and object; most placements have none.
	Findings []FoundHere `json:"findings" doc:"What is wrong or dangerous here; the findings of the same code and object say more."`
}

// FoundHere is a [Finding] as its placement shows it.
type FoundHere struct {
	Code   string `json:"code"`
	Object string `json:"object,omitempty" doc:"Key of the object."`
}

// Reader is someone who reads a placement, or may.
type Reader struct {
	ID         string     `json:"id" doc:"Checkpoint id, or the lease's id."`
	Name       string     `json:"name"`
	ManifestID uint64     `json:"manifest_id"`
	Expires    *time.Time `json:"expires" doc:"null: never."`
	From       string     `json:"from" doc:"checkpoint or lease."`
	Looks      string     `json:"looks,omitempty" doc:"Display only; every unnamed checkpoint counts as a reader."`
	// Lapsed readers are listed and not counted.
	Lapsed bool `json:"lapsed,omitempty" doc:"Has not changed for longer than its lifetime and a margin: shown, no longer counted."`
}

// RegionState is the state of a region as the hub judges it on its own clock.
type RegionState string

// The states of regions.
const (
	RegionConnected RegionState = "connected"
	RegionSuspect   RegionState = "suspect" // beats are late, or the session closed lately
	RegionStale     RegionState = "stale"   // not heard for longer than the limit
	RegionBlind     RegionState = "blind"   // connected, but the agent cannot read its bucket or must not
	RegionReset     RegionState = "reset"   // came back with much less; a person must accept it
)

// Membership is a region's place in the region set, changed by people only.
type Membership string

// The memberships.
const (
	Joining Membership = "joining"
	Active  Membership = "active"
	Retired Membership = "retired"
)

// Region is one row of the region set.
type Region struct {
	Name            string             `json:"name"`
	State           RegionState        `json:"state"`
	Membership      Membership         `json:"membership"`
	Retiring        string             `json:"retiring,omitempty" doc:"Who asked that it retires, where another person has to agree."`
	Reason          string             `json:"reason" doc:"Why it is not connected, beginning with a reason code."`
	Since           time.Time          `json:"since" doc:"Since when it has this state."`
	HeardAt         *time.Time         `json:"heard_at" doc:"Last valid beat (hub's clock); null: not since this hub started."`
	AsOf            *time.Time         `json:"as_of" doc:"When its rows were last known to be current."`
	Clusters        []string           `json:"clusters"`
	BucketID        string             `json:"bucket_id,omitempty" doc:"The bucket's incarnation that this hub knows."`
	Bucket          string             `json:"bucket,omitempty" doc:"Where the agent says its bucket is."`
	CannotKeep      string             `json:"cannot_keep,omitempty" doc:"What the agent cannot record because it may not write .quarry/."`
	Placements      uint64             `json:"placements"`
	Missing         uint64             `json:"missing"`
	Revision        string             `json:"revision,omitempty"`
	RequestsPerHour map[string]float64 `json:"requests_per_hour,omitempty" doc:"What the agent asked of its bucket in the last hour, by class; since its start when that is shorter."`
	RequestBudget   float64            `json:"request_budget,omitempty" doc:"Requests per hour it may spend."`
}

// Cluster is one agent's cluster.
type Cluster struct {
	Name        string     `json:"name"`
	Region      string     `json:"region"`
	State       string     `json:"state" doc:"reporting, standby, silent or refused."`
	Agent       string     `json:"agent" doc:"Identity of the agent process."`
	Version     string     `json:"version"`
	Started     *time.Time `json:"started,omitempty" doc:"By the agent's clock."`
	HeardAt     *time.Time `json:"heard_at"`
	ClockSkewMS *int64     `json:"clock_skew_ms,omitempty" doc:"Agent's clock minus the hub's, at the last beat. Shown, never used."`
	Reason      string     `json:"reason,omitempty"`
}

// Slate is one logical database: all placements of one name.
type Slate struct {
	Name          string            `json:"name"`
	Kind          Kind              `json:"kind"`
	State         PlacementState    `json:"state" doc:"The worst of its placements'."`
	Regions       []string          `json:"regions"`
	Placements    uint64            `json:"placements"`
	Lineages      []string          `json:"lineages" doc:"More than one: equal names, different databases."`
	Registered    bool              `json:"registered"`
	Owner         string            `json:"owner,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Bytes         *uint64           `json:"bytes" doc:"Sum over its placements; null when none is known."`
	Readers       uint64            `json:"readers"`
	RestorePoints uint64            `json:"restore_points"`
	ObservedAt    time.Time         `json:"observed_at" doc:"The oldest of its placements'."`
	// Where is what the store shows of it in each region, by region and root.
	Where []SlateIn `json:"where" doc:"What the store shows of it in each region."`
}

// SlateIn is the part of a placement that a slate's row carries.
type SlateIn struct {
	Region         string         `json:"region"`
	Root           string         `json:"root"`
	Kind           Kind           `json:"kind"`
	State          PlacementState `json:"state"`
	Incarnation    string         `json:"incarnation"`
	Lineage        string         `json:"lineage"`
	ManifestID     *uint64        `json:"manifest_id"`
	WriterEpoch    *uint64        `json:"writer_epoch"`
	Position       *uint64        `json:"position"`
	PositionDomain string         `json:"position_domain"`
	Registered     bool           `json:"registered"`
	Owner          string         `json:"owner,omitempty"`
	Readers        []Reader       `json:"readers"`
	Checkpoints    []Checkpoint   `json:"checkpoints"`
}

// In gives the part of p that its slate's row carries.
func (p *Placement) In() SlateIn {
	return SlateIn{
		Region: p.Region, Root: p.Root, Kind: p.Kind, State: p.State, Incarnation: p.Incarnation, Lineage: p.Lineage,
		ManifestID: p.ManifestID, WriterEpoch: p.WriterEpoch, Position: p.Position, PositionDomain: p.PositionDomain,
		Registered: p.Registered, Owner: p.Owner, Readers: p.Readers, Checkpoints: p.Checkpoints,
	}
}

// OwnerRow says who is responsible for a placement and what the store shows
// of its writer.
type OwnerRow struct {
	Slate        string     `json:"slate"`
	Region       string     `json:"region"`
	Root         string     `json:"root"`
	Owner        string     `json:"owner" doc:"As declared; empty: nobody said."`
	Contact      string     `json:"contact,omitempty"`
	Declared     bool       `json:"declared"`
	WriterEpoch  *uint64    `json:"writer_epoch"`
	WriterSince  *time.Time `json:"writer_since,omitempty"`
	MovedAt      *time.Time `json:"moved_at,omitempty" doc:"When the hub last saw the placement's manifest, WAL or position move."`
	Leases       []Lease    `json:"leases,omitempty"`
	Disagreement string     `json:"disagreement,omitempty"`
}

// Event is one entry of the ordered, persisted, bounded log of changes.
type Event struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time" doc:"Hub's clock."`
	Type   string    `json:"type"`
	Region string    `json:"region,omitempty"`
	Slate  string    `json:"slate,omitempty"`
	Root   string    `json:"root,omitempty"`
	What   string    `json:"what" doc:"One sentence."`
	Before string    `json:"before,omitempty"`
	After  string    `json:"after,omitempty"`
}

// The types of events.
const (
	EventSlateAppeared      = "slate-appeared"
	EventSlateMissing       = "slate-missing"
	EventSlateBack          = "slate-back"
	EventSlateForgotten     = "slate-forgotten"
	EventUnreadable         = "slate-unreadable"
	EventWriterChanged      = "writer-changed"
	EventReaderChanged      = "reader-changed"
	EventIncarnation        = "incarnation-changed"
	EventRegistered         = "registered"
	EventDeregistered       = "deregistered"
	EventRegionConnected    = "region-connected"
	EventRegionStale        = "region-stale"
	EventRegionBlind        = "region-blind"
	EventRegionReset        = "region-reset"
	EventRegionAccepted     = "region-accepted"
	EventSnapshotIncomplete = "snapshot-incomplete"
	EventLastSnapshotLost   = "last-snapshot-lost"
	EventFinding            = "finding"
	EventFindingGone        = "finding-gone"
	EventAgentRefused       = "agent-refused"
)

// Freshness says how current a region's rows in an answer are.
type Freshness struct {
	State    RegionState `json:"state"`
	At       *time.Time  `json:"at" doc:"When its rows were last known to be current; null: not since this hub started."`
	AgeMS    *int64      `json:"age_ms"`
	Revision string      `json:"revision,omitempty"`
}
