package manifest

import (
	"encoding/hex"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// JSON is a manifest as `quarry slatedb manifest -o json` prints it: keys in
// hex, times in UTC, numbers as numbers, null for what is not there. Fields
// are added to it, never renamed.
type JSON struct {
	ID                   uint64           `json:"id"`
	Version              int              `json:"version"`
	Initialized          bool             `json:"initialized"`
	WriterEpoch          uint64           `json:"writer_epoch"`
	CompactorEpoch       uint64           `json:"compactor_epoch"`
	ReplayAfterWALID     uint64           `json:"replay_after_wal_id"`
	WALIDLastSeen        uint64           `json:"wal_id_last_seen"`
	LastL0Seq            uint64           `json:"last_l0_seq"`
	LastL0ClockTick      *int64           `json:"last_l0_clock_tick"` // ms
	RecentSnapshotMinSeq uint64           `json:"recent_snapshot_min_seq"`
	WALStoreMarked       bool             `json:"wal_store_marked"`
	SegmentExtractor     *string          `json:"segment_extractor"`
	UnknownFields        bool             `json:"unknown_fields"`
	Bytes                uint64           `json:"bytes"` // [Manifest.Size]
	TreeJSON                              // of the root
	Segments             []SegmentJSON    `json:"segments"`
	Checkpoints          []CheckpointJSON `json:"checkpoints"`
	ExternalDBs          []ExternalJSON   `json:"external_dbs"`
	SequenceTracker      TrackerJSON      `json:"sequence_tracker"`
}

// TreeJSON is a [Tree].
type TreeJSON struct {
	LastCompactedL0 *ulid.ULID  `json:"last_compacted_l0"`
	L0              []TableJSON `json:"l0"`
	SortedRuns      []RunJSON   `json:"sorted_runs"`
}

// SegmentJSON is a [Segment].
type SegmentJSON struct {
	Prefix string `json:"prefix"`
	TreeJSON
}

// RunJSON is a [Run].
type RunJSON struct {
	ID     uint32      `json:"id"`
	Tables []TableJSON `json:"tables"`
}

// TableJSON is a [Table].
type TableJSON struct {
	ID           ulid.ULID  `json:"id"`
	View         ulid.ULID  `json:"view"`
	Format       uint16     `json:"format"`
	FirstKey     *string    `json:"first_key"`
	LastKey      *string    `json:"last_key"`
	Visible      *RangeJSON `json:"visible_range"`
	Compression  int8       `json:"compression"`
	FilterFormat int8       `json:"filter_format"`
	IndexOffset  uint64     `json:"index_offset"`
	IndexLen     uint64     `json:"index_len"`
	FilterOffset uint64     `json:"filter_offset"`
	FilterLen    uint64     `json:"filter_len"`
	StatsOffset  uint64     `json:"stats_offset"`
	StatsLen     uint64     `json:"stats_len"`
	Bytes        uint64     `json:"bytes"` // [Info.Size]
}

// RangeJSON is a [Range]; a bound that is null is none.
type RangeJSON struct {
	Start          *string `json:"start"`
	StartInclusive bool    `json:"start_inclusive"`
	End            *string `json:"end"`
	EndInclusive   bool    `json:"end_inclusive"`
}

// CheckpointJSON is a [Checkpoint]; no expiry and no name are null.
type CheckpointJSON struct {
	ID         uuid.UUID  `json:"id"`
	Name       *string    `json:"name"`
	ManifestID uint64     `json:"manifest_id"`
	Created    time.Time  `json:"created"`
	Expires    *time.Time `json:"expires"`
}

// ExternalJSON is an [ExternalDB].
type ExternalJSON struct {
	Path             string      `json:"path"`
	SourceCheckpoint uuid.UUID   `json:"source_checkpoint"`
	FinalCheckpoint  *uuid.UUID  `json:"final_checkpoint"`
	Tables           []ulid.ULID `json:"tables"`
}

// TrackerJSON sums up a [Tracker]: how many samples there are, the oldest and
// the newest.
type TrackerJSON struct {
	Samples int         `json:"samples"`
	First   *SampleJSON `json:"first"`
	Last    *SampleJSON `json:"last"`
	Error   string      `json:"error,omitempty"` // why it cannot be read
}

// SampleJSON is a [Sample].
type SampleJSON struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
}

// JSON returns m, which was read under the given id, in the form for people
// and scripts.
func (m *Manifest) JSON(id uint64) *JSON {
	j := &JSON{
		ID: id, Version: m.Version, Initialized: m.Initialized,
		WriterEpoch: m.WriterEpoch, CompactorEpoch: m.CompactorEpoch,
		ReplayAfterWALID: m.ReplayAfterWAL, WALIDLastSeen: m.WALLastSeen,
		LastL0Seq: m.LastL0Seq, RecentSnapshotMinSeq: m.RecentSnapshotMinSeq,
		WALStoreMarked: m.WALStoreMarked, UnknownFields: m.UnknownFields, Bytes: m.Size(),
		TreeJSON:    m.Tree.json(),
		Segments:    make([]SegmentJSON, len(m.Segments)),
		Checkpoints: make([]CheckpointJSON, len(m.Checkpoints)),
		ExternalDBs: make([]ExternalJSON, len(m.ExternalDBs)),
	}
	if m.LastL0ClockTick != math.MinInt64 {
		j.LastL0ClockTick = &m.LastL0ClockTick
	}
	if m.ExtractorName != "" {
		j.SegmentExtractor = &m.ExtractorName
	}
	for i := range m.Segments {
		s := &m.Segments[i]
		j.Segments[i] = SegmentJSON{Prefix: hex.EncodeToString(s.Prefix), TreeJSON: s.Tree.json()}
	}
	for i, c := range m.Checkpoints {
		j.Checkpoints[i] = c.JSON()
	}
	for i, e := range m.ExternalDBs {
		j.ExternalDBs[i] = ExternalJSON(e)
	}
	t, err := DecodeTracker(m.SequenceTracker)
	if err != nil {
		j.SequenceTracker.Error = err.Error()
		return j
	}
	if n := len(t.Samples); n > 0 {
		first, last := SampleJSON(t.Samples[0]), SampleJSON(t.Samples[n-1])
		j.SequenceTracker = TrackerJSON{Samples: n, First: &first, Last: &last}
	}
	return j
}

// JSON returns c in the form for people and scripts.
func (c Checkpoint) JSON() CheckpointJSON {
	j := CheckpointJSON{ID: c.ID, ManifestID: c.ManifestID, Created: c.Create}
	if c.Named {
		j.Name = &c.Name
	}
	if !c.Expire.IsZero() {
		j.Expires = &c.Expire
	}
	return j
}

func (t *Tree) json() TreeJSON {
	j := TreeJSON{LastCompactedL0: t.LastCompactedL0, L0: tablesJSON(t.L0), SortedRuns: make([]RunJSON, len(t.Runs))}
	for i, r := range t.Runs {
		j.SortedRuns[i] = RunJSON{ID: r.ID, Tables: tablesJSON(r.Tables)}
	}
	return j
}

func tablesJSON(tables []Table) []TableJSON {
	out := make([]TableJSON, len(tables))
	for i, t := range tables {
		n := t.Info
		out[i] = TableJSON{
			ID: t.ID, View: t.ViewID, Format: t.Format,
			FirstKey: hexKey(n.FirstKey), LastKey: hexKey(n.LastKey), Visible: t.Visible.json(),
			Compression: n.Compression, FilterFormat: n.FilterFormat,
			IndexOffset: n.IndexOffset, IndexLen: n.IndexLen, FilterOffset: n.FilterOffset, FilterLen: n.FilterLen,
			StatsOffset: n.StatsOffset, StatsLen: n.StatsLen, Bytes: n.Size(),
		}
	}
	return out
}

func (r *Range) json() *RangeJSON {
	if r == nil {
		return nil
	}
	return &RangeJSON{hexKey(r.Start.Key), r.Start.Inclusive, hexKey(r.End.Key), r.End.Inclusive}
}

func hexKey(b []byte) *string {
	if b == nil {
		return nil
	}
	s := hex.EncodeToString(b)
	return &s
}
