// Package manifest reads SlateDB's manifest and compactions objects. It is
// pure: bytes in, values or an error that names the field out. A manifest says
// everything about a database at one moment: its tables, epochs, checkpoints
// and the databases it borrows tables from.
//
// Begin with [Decode]. Formats: shared notes "SlateDB on-disk format", §2, §6.
package manifest

import (
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// Versions of the encoding. Others are refused.
const (
	V1 = 1
	V2 = 2

	pillVersion = 0xFFFF
)

// Manifest is one decoded manifest object. The id is the object's name, not
// part of the content.
type Manifest struct {
	Version     int  // V1 or V2
	Initialized bool // false: a clone under construction

	WriterEpoch    uint64
	CompactorEpoch uint64

	// ReplayAfterWAL: everything in WAL objects up to this id is in tables.
	ReplayAfterWAL uint64
	// WALLastSeen is the newest WAL id the writer knew when it last wrote
	// the manifest. Stale by design while a writer is at work.
	WALLastSeen uint64

	// Tree is the root tree. It is empty in a segmented database.
	Tree
	Segments      []Segment // nil: none
	ExtractorName string    // segment extractor, "" when there is none

	LastL0ClockTick      int64  // highest create time in L0, ms; math.MinInt64 when there is none
	LastL0Seq            uint64 // highest sequence number in tables
	RecentSnapshotMinSeq uint64

	Checkpoints []Checkpoint
	ExternalDBs []ExternalDB
	// WALStoreMarked: the database keeps its WAL in another store (V1 only;
	// V2 has no marker, so false says nothing there).
	WALStoreMarked  bool
	SequenceTracker []byte // opaque; see [DecodeTracker]

	// UnknownFields: some table of it has more fields than this package
	// knows. Such a manifest may be read but never written back.
	UnknownFields bool
}

// Tree is a log-structured merge tree: tables written by the writer, newest
// first, and sorted runs made by the compactor, newest first.
type Tree struct {
	// LastCompactedL0 is the newest L0 that was compacted away: V1 names the
	// table, V2 the view.
	LastCompactedL0 *ulid.ULID
	L0              []Table
	Runs            []Run
}

// Segment is the tree of all keys with one prefix.
type Segment struct {
	Prefix []byte
	Tree
}

// Run is a sorted run: tables with disjoint key ranges in key order.
type Run struct {
	ID     uint32
	Tables []Table
}

// Table is a view of one table object (SST).
type Table struct {
	ViewID ulid.ULID // V1 has none: equal to ID
	ID     ulid.ULID // compacted/<ID>.sst
	Format uint16    // block format, 1 or 2
	Info   Info
	// Visible restricts what may be read of the table; nil: all.
	Visible *Range
}

// Info locates the parts of a table object. Lengths include the checksum.
type Info struct {
	FirstKey, LastKey []byte // LastKey nil when absent
	IndexOffset       uint64
	IndexLen          uint64
	FilterOffset      uint64
	FilterLen         uint64
	Compression       int8 // 0 none, 1 snappy, 2 zlib, 3 lz4, 4 zstd
	Type              int8 // 0 compacted, 1 WAL
	StatsOffset       uint64
	StatsLen          uint64
	FilterFormat      int8 // 0 legacy, 1 composite
}

// Bound is one end of a [Range].
type Bound struct {
	Key       []byte
	Unbounded bool
	Inclusive bool
}

// Range is a range of keys.
type Range struct{ Start, End Bound }

// Checkpoint pins one manifest and all it needs.
type Checkpoint struct {
	ID           uuid.UUID
	ManifestID   uint64
	Expire       time.Time // zero: never
	Create       time.Time // second granularity, the maker's clock
	Name         string
	Named        bool // Name is present (it may be present and empty)
	MetadataType uint8
	// MetadataEpoch is the writer's epoch when MetadataType is
	// [MetadataWriter]; no release is known to write it.
	MetadataEpoch uint64
}

// MetadataWriter is the one kind of checkpoint metadata that is defined.
const MetadataWriter = 1

// Expired reports whether c pins nothing any more at now: the collector
// removes it at its next run.
func (c *Checkpoint) Expired(now time.Time) bool {
	return !c.Expire.IsZero() && !c.Expire.After(now)
}

// Lifetime returns the time from creation to expiry, 0 when c never expires.
// A checkpoint that was refreshed lives longer than it was first given.
func (c *Checkpoint) Lifetime() time.Duration {
	if c.Expire.IsZero() {
		return 0
	}
	return c.Expire.Sub(c.Create)
}

// ExternalDB is a database whose tables this one (a clone) reads.
type ExternalDB struct {
	Path             string // in the same object store
	SourceCheckpoint uuid.UUID
	FinalCheckpoint  *uuid.UUID // nil when absent
	Tables           []ulid.ULID
}

// Trees calls each with every tree of m: the root tree with a nil prefix,
// then the segments'.
func (m *Manifest) Trees(each func(prefix []byte, t *Tree)) {
	each(nil, &m.Tree)
	for i := range m.Segments {
		each(m.Segments[i].Prefix, &m.Segments[i].Tree)
	}
}

// Tables calls each with every table view of m, in no promised order.
func (m *Manifest) Tables(each func(t *Table)) {
	m.Trees(func(_ []byte, tree *Tree) {
		for i := range tree.L0 {
			each(&tree.L0[i])
		}
		for r := range tree.Runs {
			for i := range tree.Runs[r].Tables {
				each(&tree.Runs[r].Tables[i])
			}
		}
	})
}

// Size returns the bytes of the table up to its statistics: what the manifest
// knows of the object's size. The object itself is slightly longer.
func (i Info) Size() uint64 {
	return max(i.IndexOffset+i.IndexLen, i.FilterOffset+i.FilterLen, i.StatsOffset+i.StatsLen)
}

// Size returns what [Info.Size] says of all tables of m, each object counted
// once however many views there are of it.
func (m *Manifest) Size() uint64 {
	var sum uint64
	seen := make(map[ulid.ULID]bool)
	m.Tables(func(t *Table) {
		if !seen[t.ID] {
			seen[t.ID] = true
			sum += t.Info.Size()
		}
	})
	return sum
}
