package manifest

import (
	"cmp"
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

// ErrUnwritable is wrapped when a manifest must not be written: it says
// something that this package does not understand, or that its version has no
// form for.
var ErrUnwritable = errors.New("manifest cannot be written")

func unwritable(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrUnwritable)
}

// Encode writes m in the version it has, which is the version it was read in:
// processes of several releases may be at work on one database, and the ones
// that came with a version are the ones that read it. What [Decode] makes of
// the result is m again. The layout is that of SlateDB's own writer.
func Encode(m *Manifest) ([]byte, error) {
	if m.UnknownFields {
		return nil, unwritable("it has fields that this release of quarry does not know; use a newer one")
	}
	e := &encoder{}
	var root fb.Ref
	switch m.Version {
	case V1:
		root = e.v1(m)
	case V2:
		root = e.v2(m)
	default:
		return nil, unwritable("version %d is not one of 1, 2", m.Version)
	}
	if e.err != nil {
		return nil, e.err
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(m.Version)), e.b.Finish(root)...), nil
}

// encoder holds the first thing that has no form.
type encoder struct {
	b   fb.Builder
	err error
}

func (e *encoder) refuse(format string, args ...any) {
	if e.err == nil {
		e.err = unwritable(format, args...)
	}
}

// vector makes a vector of tables, each made by one.
func vector[T any](e *encoder, all []T, one func(T) fb.Ref) fb.Ref {
	refs := make([]fb.Ref, len(all))
	for i := range all {
		refs[i] = one(all[i])
	}
	return e.b.Refs(refs)
}

// bytes makes an optional vector of bytes; nil is absent.
func (e *encoder) bytes(p []byte) fb.Ref {
	if p == nil {
		return 0
	}
	return e.b.Bytes(p)
}

func (e *encoder) head(f *fb.Fields, m *Manifest, external fb.Ref) {
	f.Ref(1, external)
	f.Bool(2, m.Initialized)
	f.Uint64(3, m.WriterEpoch, 0)
	f.Uint64(4, m.CompactorEpoch, 0)
	f.Uint64(5, m.ReplayAfterWAL, 0)
	f.Uint64(6, m.WALLastSeen, 0)
}

func (e *encoder) v1(m *Manifest) fb.Ref {
	if len(m.Segments) > 0 || m.ExtractorName != "" {
		e.refuse("version 1 has no segments")
	}
	m.Tables(func(t *Table) {
		if t.ViewID != t.ID {
			e.refuse("version 1 has no views, and table %s is seen as %s", t.ID, t.ViewID)
		}
	})
	l0 := vector(e, m.L0, e.tableV1)
	last := e.optionalULID(m.LastCompactedL0)
	runs := e.runs(m.Runs, e.tableV1)
	checkpoints := vector(e, m.Checkpoints, e.checkpoint)
	external := e.externals(m)
	var uri fb.Ref
	if m.WALStoreMarked {
		uri = e.b.String("")
	}
	tracker := e.bytes(m.SequenceTracker)
	f := e.b.Table()
	e.head(f, m, external)
	f.Ref(7, last)
	f.Ref(8, l0)
	f.Ref(9, runs)
	f.Uint64(10, uint64(m.LastL0ClockTick), 0)
	f.Ref(11, checkpoints)
	f.Uint64(12, m.LastL0Seq, 0)
	f.Ref(13, uri)
	f.Uint64(14, m.RecentSnapshotMinSeq, 0)
	f.Ref(15, tracker)
	return f.End()
}

func (e *encoder) v2(m *Manifest) fb.Ref {
	if m.WALStoreMarked {
		e.refuse("version 2 has no mark for a separate WAL store")
	}
	shared := e.sharedTables(m)
	last, l0, runs := e.tree(&m.Tree)
	checkpoints := vector(e, m.Checkpoints, e.checkpoint)
	external := e.externals(m)
	tracker := e.bytes(m.SequenceTracker)
	// Written even when there are none, as releases from 0.16 on do.
	segments := vector(e, m.Segments, func(s Segment) fb.Ref {
		prefix := e.b.Bytes(s.Prefix)
		last, l0, runs := e.tree(&s.Tree)
		f := e.b.Table()
		f.Ref(0, prefix)
		f.Ref(1, last)
		f.Ref(2, l0)
		f.Ref(3, runs)
		return f.End()
	})
	var extractor fb.Ref
	if m.ExtractorName != "" {
		extractor = e.b.String(m.ExtractorName)
	}
	f := e.b.Table()
	e.head(f, m, external)
	f.Ref(7, last)
	f.Ref(8, shared)
	f.Ref(9, l0)
	f.Ref(10, runs)
	f.Uint64(11, uint64(m.LastL0ClockTick), 0)
	f.Ref(12, checkpoints)
	f.Uint64(13, m.LastL0Seq, 0)
	f.Uint64(14, m.RecentSnapshotMinSeq, 0)
	f.Ref(15, tracker)
	f.Ref(16, segments)
	f.Ref(17, extractor)
	return f.End()
}

func (e *encoder) tree(t *Tree) (last, l0, runs fb.Ref) {
	last = e.optionalULID(t.LastCompactedL0)
	l0 = vector(e, t.L0, e.view)
	runs = e.runs(t.Runs, e.view)
	return last, l0, runs
}

func (e *encoder) runs(runs []Run, table func(Table) fb.Ref) fb.Ref {
	return vector(e, runs, func(r Run) fb.Ref {
		tables := vector(e, r.Tables, table)
		f := e.b.Table()
		f.Uint32(0, r.ID, 0)
		f.Ref(1, tables)
		return f.End()
	})
}

func (e *encoder) tableV1(t Table) fb.Ref {
	id, info, visible := e.id(t.ID), e.info(t.Info), e.visible(t.Visible)
	f := e.b.Table()
	f.Ref(0, id)
	f.Ref(1, info)
	f.Ref(2, visible)
	f.Uint16(3, t.Format)
	return f.End()
}

// sharedTables writes each table once, in the order of their ids.
func (e *encoder) sharedTables(m *Manifest) fb.Ref {
	seen := map[ulid.ULID]bool{}
	var all []Table
	m.Tables(func(t *Table) {
		if !seen[t.ID] {
			seen[t.ID] = true
			all = append(all, *t)
		}
	})
	slices.SortFunc(all, func(a, b Table) int { return a.ID.Compare(b.ID) })
	return vector(e, all, func(t Table) fb.Ref {
		id, info := e.id(t.ID), e.info(t.Info)
		f := e.b.Table()
		f.Ref(0, id)
		f.Ref(1, info)
		f.Uint16(2, t.Format)
		return f.End()
	})
}

func (e *encoder) view(t Table) fb.Ref {
	id, table, visible := e.id(t.ViewID), e.id(t.ID), e.visible(t.Visible)
	f := e.b.Table()
	f.Ref(0, id)
	f.Ref(1, table)
	f.Ref(2, visible)
	return f.End()
}

func (e *encoder) info(i Info) fb.Ref { return writeInfo(&e.b, i) }

// writeInfo is the one form of an info, in manifests and in tables alike.
func writeInfo(b *fb.Builder, i Info) fb.Ref {
	var first, last fb.Ref
	if i.FirstKey != nil {
		first = b.Bytes(i.FirstKey)
	}
	if i.LastKey != nil {
		last = b.Bytes(i.LastKey)
	}
	f := b.Table()
	f.Ref(0, first)
	f.Uint64(1, i.IndexOffset, 0)
	f.Uint64(2, i.IndexLen, 0)
	f.Uint64(3, i.FilterOffset, 0)
	f.Uint64(4, i.FilterLen, 0)
	f.Uint8(5, uint8(i.Compression), 0)
	f.Uint8(6, uint8(i.Type), 0)
	f.Ref(7, last)
	f.Uint64(8, i.StatsOffset, 0)
	f.Uint64(9, i.StatsLen, 0)
	f.Uint8(10, uint8(i.FilterFormat), 0)
	return f.End()
}

// EncodeInfo writes an info as a table's footer holds it, without checksum.
func EncodeInfo(i Info) []byte {
	var b fb.Builder
	return b.Finish(writeInfo(&b, i))
}

func (e *encoder) visible(r *Range) fb.Ref {
	if r == nil {
		return 0
	}
	start, end := e.bound(r.Start), e.bound(r.End)
	f := e.b.Table()
	f.Ref(0, start)
	f.Ref(1, end)
	return f.End()
}

func (e *encoder) bound(b Bound) fb.Ref {
	kind := uint8(3)
	switch {
	case b.Unbounded:
		kind = 1
	case b.Inclusive:
		kind = 2
	}
	var key fb.Ref
	if !b.Unbounded {
		key = e.b.Bytes(b.Key)
	}
	f := e.b.Table()
	f.Ref(0, key)
	f.Uint8(1, kind, 0)
	return f.End()
}

func (e *encoder) checkpoint(c Checkpoint) fb.Ref {
	id := e.id(c.ID)
	var metadata, name fb.Ref
	switch c.MetadataType {
	case 0:
	case MetadataWriter:
		f := e.b.Table()
		f.Uint64(0, c.MetadataEpoch, 0)
		metadata = f.End()
	default:
		e.refuse("checkpoint %s has metadata of kind %d", c.ID, c.MetadataType)
	}
	if c.Named {
		name = e.b.String(c.Name)
	}
	f := e.b.Table()
	f.Ref(0, id)
	f.Uint64(1, c.ManifestID, 0)
	f.Uint32(2, e.seconds(c.Expire), 0)
	f.Uint32(3, e.seconds(c.Create), 0)
	f.Uint8(4, c.MetadataType, 0)
	f.Ref(5, metadata)
	f.Ref(6, name)
	return f.End()
}

// seconds is 0 for the zero time. Seconds are rounded up: what was promised to
// live until then does.
func (e *encoder) seconds(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	s := t.Unix()
	if t.Nanosecond() > 0 {
		s++
	}
	if s < 0 || s > math.MaxUint32 {
		e.refuse("%s is outside of the years 1970 to 2106", t)
	}
	return uint32(s)
}

func (e *encoder) externals(m *Manifest) fb.Ref {
	if len(m.ExternalDBs) == 0 {
		return 0
	}
	return vector(e, m.ExternalDBs, func(x ExternalDB) fb.Ref {
		path := e.b.String(x.Path)
		source := e.id(x.SourceCheckpoint)
		var final fb.Ref
		if x.FinalCheckpoint != nil {
			final = e.id(*x.FinalCheckpoint)
		}
		tables := vector(e, x.Tables, func(u ulid.ULID) fb.Ref { return e.id(u) })
		f := e.b.Table()
		f.Ref(0, path)
		f.Ref(1, source)
		f.Ref(2, final)
		f.Ref(3, tables)
		return f.End()
	})
}

func (e *encoder) optionalULID(u *ulid.ULID) fb.Ref {
	if u == nil {
		return 0
	}
	return e.id(*u)
}

// id writes 128 bits as two numbers.
func (e *encoder) id(id [16]byte) fb.Ref {
	f := e.b.Table()
	f.Uint64(0, binary.BigEndian.Uint64(id[:]), 0)
	f.Uint64(1, binary.BigEndian.Uint64(id[8:]), 0)
	return f.End()
}

// New returns the manifest of a database that holds nothing and that nobody
// has opened, in version 1: releases that write version 2 alone read it.
func New() *Manifest {
	return &Manifest{
		Version: V1, Initialized: true, LastL0ClockTick: math.MinInt64,
		SequenceTracker: append([]byte{trackerVersion}, make([]byte, 12)...),
	}
}

// Clone returns a copy of m whose lists may be changed and whose tables, keys
// and trackers must not.
func (m *Manifest) Clone() *Manifest {
	c := *m
	tree := func(t Tree) Tree {
		t.L0, t.Runs = slices.Clone(t.L0), slices.Clone(t.Runs)
		return t
	}
	c.Tree = tree(c.Tree)
	c.Segments = slices.Clone(c.Segments)
	for i := range c.Segments {
		c.Segments[i].Tree = tree(c.Segments[i].Tree)
	}
	c.Checkpoints = slices.Clone(c.Checkpoints)
	c.ExternalDBs = slices.Clone(c.ExternalDBs)
	return &c
}

// Checkpoint returns where the checkpoint with the id is in m.Checkpoints, -1
// when it is not.
func (m *Manifest) Checkpoint(id uuid.UUID) int {
	return slices.IndexFunc(m.Checkpoints, func(c Checkpoint) bool { return c.ID == id })
}

// NextRun returns an id for a sorted run that is newer than all in t.
func (t *Tree) NextRun() uint32 {
	if len(t.Runs) == 0 {
		return 0
	}
	return 1 + slices.MaxFunc(t.Runs, func(a, b Run) int { return cmp.Compare(a.ID, b.ID) }).ID
}
