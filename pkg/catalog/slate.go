// Package catalog holds the nouns of Quarry: what an agent saw (a Sighting),
// what owners declare (a Registration, a Lease), and the rows that people read
// (Placement, Slate, Region, RestorePoint). It is pure: no I/O and no clock.
//
// Facts are raw: agents send what they saw and only the hub classifies it.
// Begin with [Sighting], [Fact] and [Placement].
package catalog

import "time"

// Kind says what a slate contains.
type Kind string

// The kinds of slates.
const (
	KindLog        Kind = "log"
	KindTimeseries Kind = "timeseries"
	KindVector     Kind = "vector"
	KindKeyValue   Kind = "keyvalue"
	KindBuffer     Kind = "buffer"
	KindSnapshots  Kind = "snapshots" // one partition of a snapshot repository
	KindSlateDB    Kind = "slatedb"   // a SlateDB database of unknown content
)

// Kinds lists all kinds.
var Kinds = []Kind{KindLog, KindTimeseries, KindVector, KindKeyValue, KindBuffer, KindSnapshots, KindSlateDB}

// Seen is what an agent's last look at a root gave.
type Seen string

// What a look can give.
const (
	SeenLive       Seen = "live"       // there and readable
	SeenMissing    Seen = "missing"    // was there; its objects are no longer found
	SeenUnreadable Seen = "unreadable" // there, but what it says cannot be understood; Reason says why
)

// Sighting is what an agent saw at one root at one moment, raw. A nil pointer
// means "not observed" or "does not apply", never zero.
type Sighting struct {
	Slate    string `json:"slate" doc:"Name: the registered one, else the root's full key from the bucket's root."`
	Root     string `json:"root" doc:"Key of the root from the bucket's root."`
	Kind     Kind   `json:"kind" doc:"log, timeseries, vector, keyvalue, buffer, snapshots or slatedb (unknown content)."`
	KindFrom string `json:"kind_from" doc:"What the kind was read from: extractor, first-key, layout."`
	Seen     Seen   `json:"seen" doc:"The agent's last look: live, missing or unreadable."`
	Reason   string `json:"reason,omitempty" doc:"Why it is not live."`

	Incarnation     string `json:"incarnation" doc:"ULID that distinguishes this database from another made later at the same root."`
	IncarnationKept bool   `json:"incarnation_kept" doc:"The incarnation is recorded in the region's bucket; false: the agent may not write there and a restart of it forgets."`
	Predecessor     string `json:"predecessor,omitempty" doc:"The incarnation that was at this root before."`
	Lineage         string `json:"lineage" doc:"Positions are comparable within one lineage only."`

	ManifestID      *uint64 `json:"manifest_id" doc:"Id of the newest manifest."`
	ManifestVersion *uint64 `json:"manifest_version,omitempty" doc:"Encoding of the newest manifest, 1 or 2."`
	WriterEpoch     *uint64 `json:"writer_epoch" doc:"Epoch of the last writer that opened it; for a buffer the consumer's epoch."`
	CompactorEpoch  *uint64 `json:"compactor_epoch" doc:"Epoch of the last compactor."`
	Initialized     *bool   `json:"initialized,omitempty" doc:"False: a clone under construction."`
	Extractor       string  `json:"extractor,omitempty" doc:"Name of the segment extractor in the manifest."`
	Pill            string  `json:"pill,omitempty" doc:"Reason in the pill manifest: the database is being deleted."`

	LastL0Seq      *uint64 `json:"last_l0_seq,omitempty" doc:"Highest sequence number in tables."`
	ReplayAfterWAL *uint64 `json:"replay_after_wal_id,omitempty" doc:"WAL objects up to this id are in tables."`
	WALTail        *uint64 `json:"wal_tail_id,omitempty" doc:"Highest WAL object id."`
	WALGap         *uint64 `json:"wal_gap,omitempty" doc:"WAL objects that are not in tables yet."`
	L0Count        *uint64 `json:"l0_count,omitempty" doc:"Tables in L0, all trees."`
	RunCount       *uint64 `json:"run_count,omitempty" doc:"Sorted runs, all trees."`
	SegmentCount   *uint64 `json:"segment_count,omitempty" doc:"Segments."`
	Compaction     string  `json:"compaction,omitempty" doc:"State of the newest compaction: submitted, running, completed, failed, scheduled, compacted."`

	Position       *uint64 `json:"position" doc:"Highest position it contains, inclusive, in its position domain."`
	PositionDomain string  `json:"position_domain" doc:"seq (SlateDB), log-seq (OpenData log), lsn (snapshot repository), buffer-seq."`
	TrimmedTo      *uint64 `json:"trimmed_to" doc:"Everything at or below it was observed to be cut; null where storage cannot show it."`
	Archived       *uint64 `json:"archived,omitempty" doc:"Snapshot repository: lowest position over the listed snapshots."`

	Bytes         *uint64 `json:"bytes" doc:"Bytes of the tables the newest manifest names, or of the listed objects."`
	ListedBytes   *uint64 `json:"listed_bytes,omitempty" doc:"Bytes of all objects below the root at the last listing."`
	ListedObjects *uint64 `json:"listed_objects,omitempty" doc:"Objects below the root at the last listing."`
	// ListedAt is set when the listing was looked through for findings as well,
	// and these were told before: until then an agent that began anew says nothing
	// of what was found before it, and a hub goes on showing that.
	ListedAt *time.Time `json:"listed_at,omitempty" doc:"When the listing was made (agent's clock)."`

	Backlog *uint64  `json:"backlog,omitempty" doc:"Buffer: batches not yet consumed."`
	Orphans []Orphan `json:"orphans,omitempty" doc:"Snapshot folders that the pointer does not list: never restore points."`

	Checkpoints []Checkpoint `json:"checkpoints" doc:"Checkpoints in the newest manifest."`
	// MoreCheckpoints counts those left out of Checkpoints to keep the record
	// within a frame.
	MoreCheckpoints uint64       `json:"more_checkpoints,omitempty" doc:"Checkpoints left out of this row."`
	External        []ExternalDB `json:"external,omitempty" doc:"Databases whose tables this one reads: it is a clone."`
}

// Checkpoint is a checkpoint as the manifest lists it.
type Checkpoint struct {
	ID         string     `json:"id"`
	Name       string     `json:"name" doc:"Empty when it has none."`
	ManifestID uint64     `json:"manifest_id"`
	Created    *time.Time `json:"created,omitempty"`
	Expires    *time.Time `json:"expires" doc:"null: never."`
	// Looks is what it looks like, for display only.
	Looks string `json:"looks,omitempty" doc:"What it looks like from storage: named, reader, guard, clone-source, clone-pin. Display only."`
}

// ExternalDB is a database that a clone borrows tables from.
type ExternalDB struct {
	Path            string `json:"path" doc:"Root of the parent in the same bucket."`
	FinalCheckpoint string `json:"final_checkpoint,omitempty" doc:"The parent's checkpoint that pins the tables."`
	Tables          uint64 `json:"tables" doc:"How many of the parent's tables it still reads."`
}

// Orphan is a snapshot folder that its repository's pointer does not list.
type Orphan struct {
	Path     string `json:"path"`
	Position uint64 `json:"position"`
	Bytes    uint64 `json:"bytes"`
	Complete bool   `json:"complete" doc:"All files are there. It is no restore point all the same."`
	What     string `json:"what" doc:"evicted, failed-upload, incomplete or maybe-uploading."`
	// ChangedAt is when its newest object changed, by the store's clock.
	ChangedAt *time.Time `json:"changed_at,omitempty" doc:"When its newest object changed (store's clock)."`
}

// RestoreSource says where a restore point comes from.
type RestoreSource string

// The sources of restore points.
const (
	SourceCheckpoint RestoreSource = "checkpoint" // a named SlateDB checkpoint without expiry
	SourceSnapshot   RestoreSource = "snapshot"   // an entry of a snapshot repository's pointer
)

// RestoreState says how much of a restore point has been seen.
type RestoreState string

// The states of restore points.
const (
	RestoreListed     RestoreState = "listed"     // named, objects not (or not lately) checked
	RestoreVerified   RestoreState = "verified"   // every object was seen with its size
	RestoreIncomplete RestoreState = "incomplete" // an object is missing or has another size
	RestoreUnreadable RestoreState = "unreadable" // its description cannot be understood
)

// RestorePoint is a state of a placement that can be opened again.
type RestorePoint struct {
	Slate          string        `json:"slate"`
	Region         string        `json:"region" doc:"Set by the hub."`
	Root           string        `json:"root"`
	Incarnation    string        `json:"incarnation"`
	ID             string        `json:"id" doc:"Checkpoint id or snapshot folder."`
	Name           string        `json:"name,omitempty"`
	Source         RestoreSource `json:"source"`
	Position       *uint64       `json:"position" doc:"Highest position it contains."`
	PositionDomain string        `json:"position_domain"`
	Lineage        string        `json:"lineage"`
	CreatedAt      *time.Time    `json:"created_at" doc:"By the maker's clock."`
	State          RestoreState  `json:"state"`
	Reason         string        `json:"reason,omitempty" doc:"Which object is missing or wrong."`
	VerifiedAt     *time.Time    `json:"verified_at,omitempty" doc:"When its objects were last seen (agent's clock)."`
	Bytes          *uint64       `json:"bytes,omitempty"`
	ObservedAt     time.Time     `json:"observed_at" doc:"When the hub received it, or its newest verification."`
	FirstSeen      time.Time     `json:"first_seen" doc:"When the hub first heard of it."`
}

// Finding is something wrong or dangerous seen in a slate or region.
type Finding struct {
	Code       string    `json:"code"`
	Slate      string    `json:"slate,omitempty"`
	Region     string    `json:"region" doc:"Set by the hub."`
	Root       string    `json:"root,omitempty"`
	Object     string    `json:"object,omitempty" doc:"Key of the object."`
	What       string    `json:"what" doc:"What it is."`
	Who        string    `json:"who,omitempty" doc:"Who is hurt by it."`
	Cure       string    `json:"cure,omitempty" doc:"What a person can do."`
	ObservedAt time.Time `json:"observed_at"`
}
