package manifest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb"
)

// Decode reads a manifest object. The result aliases b, which must not change
// while it is in use.
//
// Its errors are [ErrEmpty], *[Pill], *[VersionError] and *[FieldError], to be
// asked for with errors.Is and errors.As. What Decode returns without an error
// is complete: required fields were there, and every view has its table. The
// work is bounded by the length of b.
func Decode(b []byte) (*Manifest, error) {
	if len(b) < 2 {
		return nil, ErrEmpty
	}
	version := binary.BigEndian.Uint16(b)
	switch version {
	case V1, V2:
	case pillVersion:
		return nil, newPill(b[2:])
	default:
		return nil, &VersionError{Format: "manifest", Version: version}
	}
	root, err := fb.Root(b[2:])
	if err != nil {
		return nil, fieldError(err)
	}
	d := &decoder{}
	m := &Manifest{Version: int(version)}
	if version == V1 {
		d.v1(root, m)
	} else {
		d.v2(root, m)
	}
	if err := root.Err(); err != nil {
		return nil, fieldError(err)
	}
	m.UnknownFields = d.unknown
	return m, nil
}

// fieldError gives a fault of the buffer the form that callers see.
func fieldError(err error) error {
	var f *fb.Error
	if !errors.As(err, &f) {
		return err
	}
	return &FieldError{Field: f.Field, Err: fmt.Errorf("%s: %w", f.Reason, ErrCorrupt)}
}

// decoder holds what the tables of one object have in common.
type decoder struct {
	unknown bool
	// tables are the shared tables of a V2 manifest, by id.
	tables map[ulid.ULID]int32
	shared []Table
}

// known notes whether t has fields beyond the n that are known.
func (d *decoder) known(t fb.Table, n int) {
	if t.Fields() > n {
		d.unknown = true
	}
}

// count returns how many elements to make room for. Elements may be shared, so
// a damaged length must not buy much memory before the elements were seen.
func count(t fb.Table, id int, field string) int { return min(t.Len(id, field, 4), 1024) }

// need faults t when the required field id is not there.
func need(t fb.Table, present bool, field string) {
	if !present {
		t.Fail(field, "required and missing")
	}
}

// head reads the fields that both versions have under the same ids.
func (d *decoder) head(t fb.Table, m *Manifest) {
	if n := count(t, 1, "external_dbs"); n > 0 {
		m.ExternalDBs = make([]ExternalDB, 0, n)
	}
	t.Tables(1, "external_dbs", func(_ int, e fb.Table) { m.ExternalDBs = append(m.ExternalDBs, d.externalDB(e)) })
	m.Initialized = t.Bool(2, "initialized")
	m.WriterEpoch = t.Uint64(3, "writer_epoch", 0)
	m.CompactorEpoch = t.Uint64(4, "compactor_epoch", 0)
	m.ReplayAfterWAL = t.Uint64(5, "replay_after_wal_id", 0)
	m.WALLastSeen = t.Uint64(6, "wal_id_last_seen", 0)
}

func (d *decoder) v1(t fb.Table, m *Manifest) {
	d.known(t, 16)
	d.head(t, m)
	m.LastCompactedL0 = d.optionalULID(t, 7, "l0_last_compacted")
	m.L0 = d.tablesV1(t, 8, "l0")
	m.Runs = d.runs(t, 9, "compacted", d.tablesV1)
	m.LastL0ClockTick = t.Int64(10, "last_l0_clock_tick", 0)
	m.Checkpoints = d.checkpoints(t, 11)
	m.LastL0Seq = t.Uint64(12, "last_l0_seq", 0)
	// The string itself is always empty: that it is there is the mark.
	_, m.WALStoreMarked = t.String(13, "wal_object_store_uri")
	m.RecentSnapshotMinSeq = t.Uint64(14, "recent_snapshot_min_seq", 0)
	m.SequenceTracker = t.Bytes(15, "sequence_tracker")
}

func (d *decoder) v2(t fb.Table, m *Manifest) {
	d.known(t, 18)
	d.head(t, m)
	d.sharedTables(t)
	m.Tree = d.tree(t, 7, 9, 10)
	m.LastL0ClockTick = t.Int64(11, "last_l0_clock_tick", 0)
	m.Checkpoints = d.checkpoints(t, 12)
	m.LastL0Seq = t.Uint64(13, "last_l0_seq", 0)
	m.RecentSnapshotMinSeq = t.Uint64(14, "recent_snapshot_min_seq", 0)
	m.SequenceTracker = t.Bytes(15, "sequence_tracker")
	if n := count(t, 16, "segments"); n > 0 {
		m.Segments = make([]Segment, 0, n)
	}
	t.Tables(16, "segments", func(_ int, e fb.Table) {
		d.known(e, 4)
		prefix := e.Bytes(0, "prefix")
		need(e, prefix != nil, "prefix")
		m.Segments = append(m.Segments, Segment{Prefix: prefix, Tree: d.tree(e, 1, 2, 3)})
	})
	// The core sorts them too.
	slices.SortStableFunc(m.Segments, func(a, b Segment) int { return bytes.Compare(a.Prefix, b.Prefix) })
	m.ExtractorName, _ = t.String(17, "segment_extractor_name")
}

// tree reads a V2 tree: the root's or a segment's.
func (d *decoder) tree(t fb.Table, last, l0, runs int) Tree {
	return Tree{
		LastCompactedL0: d.optionalULID(t, last, "last_compacted_l0_sst_view_id"),
		L0:              d.views(t, l0, "l0"),
		Runs:            d.runs(t, runs, "compacted", d.views),
	}
}

func (d *decoder) runs(t fb.Table, id int, field string, tables func(t fb.Table, id int, field string) []Table) []Run {
	out := make([]Run, 0, count(t, id, field))
	need(t, t.Tables(id, field, func(_ int, e fb.Table) {
		d.known(e, 2)
		out = append(out, Run{ID: e.Uint32(0, "id", 0), Tables: tables(e, 1, "ssts")})
	}), field)
	return out
}

// tablesV1 reads a required vector of CompactedSsTable.
func (d *decoder) tablesV1(t fb.Table, id int, field string) []Table {
	out := make([]Table, 0, count(t, id, field))
	need(t, t.Tables(id, field, func(_ int, e fb.Table) { out = append(out, d.tableV1(e)) }), field)
	return out
}

func (d *decoder) tableV1(e fb.Table) Table {
	d.known(e, 4)
	tab := Table{ID: d.ulid(e, 0, "id"), Info: d.info(e, 1), Visible: d.visible(e, 2), Format: e.Uint16(3, "format_version", 1)}
	tab.ViewID = tab.ID
	return tab
}

// sharedTables reads the table list that V2's views refer to.
func (d *decoder) sharedTables(t fb.Table) {
	n := count(t, 8, "ssts")
	d.shared = make([]Table, 0, n)
	d.tables = make(map[ulid.ULID]int32, n)
	need(t, t.Tables(8, "ssts", func(i int, e fb.Table) {
		d.known(e, 3)
		tab := Table{ID: d.ulid(e, 0, "id"), Info: d.info(e, 1), Format: e.Uint16(2, "format_version", 1)}
		d.shared = append(d.shared, tab)
		d.tables[tab.ID] = int32(i)
	}), "ssts")
}

// views reads a required vector of CompactedSsTableView.
func (d *decoder) views(t fb.Table, id int, field string) []Table {
	out := make([]Table, 0, count(t, id, field))
	need(t, t.Tables(id, field, func(_ int, e fb.Table) {
		d.known(e, 3)
		view, sst := d.ulid(e, 0, "id"), d.ulid(e, 1, "sst_id")
		i, ok := d.tables[sst]
		if !ok {
			e.Fail("sst_id", "%s is not in the list of tables", sst)
			return
		}
		tab := d.shared[i]
		tab.ViewID = view
		tab.Visible = d.visible(e, 2)
		out = append(out, tab)
	}), field)
	return out
}

// info reads the required SsTableInfo field id of t.
func (d *decoder) info(t fb.Table, id int) (info Info) {
	need(t, t.Sub(id, "info", func(e fb.Table) {
		d.known(e, 11)
		info = Info{
			FirstKey:     e.Bytes(0, "first_entry"),
			IndexOffset:  e.Uint64(1, "index_offset", 0),
			IndexLen:     e.Uint64(2, "index_len", 0),
			FilterOffset: e.Uint64(3, "filter_offset", 0),
			FilterLen:    e.Uint64(4, "filter_len", 0),
			Compression:  int8(e.Uint8(5, "compression_format", 0)),
			Type:         int8(e.Uint8(6, "sst_type", 0)),
			LastKey:      e.Bytes(7, "last_entry"),
			StatsOffset:  e.Uint64(8, "stats_offset", 0),
			StatsLen:     e.Uint64(9, "stats_len", 0),
			FilterFormat: int8(e.Uint8(10, "filter_format", 0)),
		}
		inObject(e, "index_len", info.IndexOffset, info.IndexLen)
		inObject(e, "filter_len", info.FilterOffset, info.FilterLen)
		inObject(e, "stats_len", info.StatsOffset, info.StatsLen)
	}), "info")
	return info
}

// inObject faults t when no object could hold n bytes from off, so that
// nobody after us has to think of sums that overflow.
func inObject(t fb.Table, field string, off, n uint64) {
	const largest = math.MaxInt64 / 2
	if off > largest || n > largest {
		t.Fail(field, "%d bytes from %d: no object is as large", n, off)
	}
}

// visible reads the optional BytesRange field id.
func (d *decoder) visible(t fb.Table, id int) (r *Range) {
	t.Sub(id, "visible_range", func(e fb.Table) { r = d.keyRange(e) })
	return r
}

func (d *decoder) keyRange(e fb.Table) *Range {
	d.known(e, 2)
	return &Range{Start: d.bound(e, 0, "start_bound"), End: d.bound(e, 1, "end_bound")}
}

func (d *decoder) bound(t fb.Table, id int, field string) (b Bound) {
	need(t, t.Sub(id, field, func(e fb.Table) {
		d.known(e, 2)
		b.Key = e.Bytes(0, "key")
		kind := e.Uint8(1, "bound_type", 0)
		switch {
		case kind == 1 && b.Key == nil:
			b.Unbounded = true
		case kind == 2 && b.Key != nil:
			b.Inclusive = true
		case kind == 3 && b.Key != nil:
		case e.Err() != nil:
		default:
			// The real decoder panics on these.
			e.Fail("bound_type", "%d with key present: %v", kind, b.Key != nil)
		}
	}), field)
	return b
}

func (d *decoder) checkpoints(t fb.Table, id int) []Checkpoint {
	out := make([]Checkpoint, 0, count(t, id, "checkpoints"))
	need(t, t.Tables(id, "checkpoints", func(_ int, e fb.Table) {
		d.known(e, 7)
		c := Checkpoint{
			ID:           d.uuid(e, 0, "id"),
			ManifestID:   e.Uint64(1, "manifest_id", 0),
			Create:       seconds(e.Uint32(3, "checkpoint_create_time_s", 0)),
			MetadataType: e.Uint8(4, "metadata_type", 0),
		}
		if s := e.Uint32(2, "checkpoint_expire_time_s", 0); s != 0 {
			c.Expire = seconds(s)
		}
		if (c.MetadataType != 0) != e.Has(5) {
			e.Fail("metadata", "type %d with value present: %v", c.MetadataType, e.Has(5))
		}
		if c.MetadataType == MetadataWriter {
			e.Sub(5, "metadata", func(w fb.Table) {
				d.known(w, 1)
				c.MetadataEpoch = w.Uint64(0, "epoch", 0)
			})
		}
		c.Name, c.Named = e.String(6, "name")
		out = append(out, c)
	}), "checkpoints")
	return out
}

func seconds(s uint32) time.Time { return time.Unix(int64(s), 0).UTC() }

func (d *decoder) externalDB(e fb.Table) ExternalDB {
	d.known(e, 4)
	var x ExternalDB
	path, ok := e.String(0, "path")
	need(e, ok, "path")
	x.Path = path
	x.SourceCheckpoint = d.uuid(e, 1, "source_checkpoint_id")
	if e.Has(2) {
		id := d.uuid(e, 2, "final_checkpoint_id")
		x.FinalCheckpoint = &id
	}
	x.Tables = d.ulids(e, 3, "sst_ids")
	need(e, x.Tables != nil, "sst_ids")
	return x
}

// ulids reads a vector of Ulid; nil when it is absent.
func (d *decoder) ulids(t fb.Table, id int, field string) []ulid.ULID {
	out := make([]ulid.ULID, 0, count(t, id, field))
	if !t.Tables(id, field, func(_ int, e fb.Table) { out = append(out, d.halves(e)) }) {
		return nil
	}
	return out
}

// halves reads a 128-bit id that is stored as two numbers.
func (d *decoder) halves(e fb.Table) (id [16]byte) {
	d.known(e, 2)
	binary.BigEndian.PutUint64(id[:], e.Uint64(0, "high", 0))
	binary.BigEndian.PutUint64(id[8:], e.Uint64(1, "low", 0))
	return id
}

// id reads the required 128-bit id field.
func (d *decoder) id(t fb.Table, field int, name string) (id [16]byte) {
	need(t, t.Sub(field, name, func(e fb.Table) { id = d.halves(e) }), name)
	return id
}

func (d *decoder) ulid(t fb.Table, id int, field string) ulid.ULID { return d.id(t, id, field) }
func (d *decoder) uuid(t fb.Table, id int, field string) uuid.UUID { return d.id(t, id, field) }

func (d *decoder) optionalULID(t fb.Table, id int, field string) *ulid.ULID {
	if !t.Has(id) {
		return nil
	}
	u := d.ulid(t, id, field)
	return &u
}
