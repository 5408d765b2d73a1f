package view

import (
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// traitCols are the columns that a sighting tells and that a move never
// changes.
var (
	kindCol      = placementSchema.Col("kind")
	kindFromCol  = placementSchema.Col("kind_from")
	keptCol      = placementSchema.Col("incarnation_kept")
	initCol      = placementSchema.Col("initialized")
	extractorCol = placementSchema.Col("extractor")
	compactCol   = placementSchema.Col("compaction")
	domainCol    = placementSchema.Col("position_domain")
	versionCol   = placementSchema.Col("manifest_version")

	reasonCol      = placementSchema.Col("reason")
	incarnationCol = placementSchema.Col("incarnation")
	predecessorCol = placementSchema.Col("predecessor")
	lineageCol     = placementSchema.Col("lineage")
	pillCol        = placementSchema.Col("pill")

	writerCol    = placementSchema.Col("writer_epoch")
	compactorCol = placementSchema.Col("compactor_epoch")
	moreCol      = placementSchema.Col("more_checkpoints")
	listedAtCol  = placementSchema.Col("listed_at")

	checkpointsCol = placementSchema.Col("checkpoints")
	orphansCol     = placementSchema.Col("orphans")
	externalCol    = placementSchema.Col("external")
)

// OnlyNumbers reports whether a sighting says of the placement at a slot what
// its row says already, but for numbers that a [Moved] can carry, and gives
// those. name is what the agent called the slate when it was last sighted.
func (b *Builder) OnlyNumbers(s table.Slot, g *catalog.Sighting, name string, m *Moved, values *[len(catalog.MoveFields)]uint64) bool {
	c, i := b.fleet.At(s)
	if c == nil || g.Slate != name {
		return false
	}
	class := b.fleet.Class(c.Class(i))
	text := func(col int, is string) bool { return class.Stored(col).Text == is }
	if !text(kindCol, string(g.Kind)) || !text(kindFromCol, g.KindFrom) || !text(col.seen, string(g.Seen)) || !text(extractorCol, g.Extractor) ||
		!text(compactCol, g.Compaction) || !text(domainCol, g.PositionDomain) || (class.Stored(keptCol).Num == 1) != g.IncarnationKept {
		return false
	}
	if v := class.Stored(initCol); v.Null != (g.Initialized == nil) || g.Initialized != nil && (v.Num == 1) != *g.Initialized {
		return false
	}
	if v := class.Stored(versionCol); v.Null != (g.ManifestVersion == nil) || g.ManifestVersion != nil && v.Num != *g.ManifestVersion {
		return false
	}
	own := func(col int, is string) bool {
		t := c.Texts(col)
		return t == nil && is == "" || t != nil && t[i] == is
	}
	if !own(reasonCol, g.Reason) || !own(incarnationCol, g.Incarnation) || !own(predecessorCol, g.Predecessor) || !own(lineageCol, g.Lineage) || !own(pillCol, g.Pill) {
		return false
	}
	number := func(col int, is *uint64) bool {
		v, ok := c.Number(col, i)
		return ok == (is != nil) && (is == nil || v == *is)
	}
	if !number(writerCol, g.WriterEpoch) || !number(compactorCol, g.CompactorEpoch) {
		return false
	}
	if v, _ := c.Number(moreCol, i); v != g.MoreCheckpoints {
		return false
	}
	at, listed := c.Number(listedAtCol, i)
	if listed != (g.ListedAt != nil) {
		return false
	} else if listed {
		if n, _ := table.TimeNumber(*g.ListedAt); n != at {
			return false
		}
	}
	if len(g.Orphans) > 0 || len(g.External) > 0 || c.Object(orphansCol, i) != nil || c.Object(externalCol, i) != nil {
		return false // rare: compared the long way
	}
	had, _ := c.Object(checkpointsCol, i).([]catalog.Checkpoint)
	if !slices.EqualFunc(had, g.Checkpoints, sameCheckpoint) {
		return false
	}
	m.Mask, m.Null, m.Values = 0, 0, values
	for k, v := range [...]*uint64{g.ManifestID, g.LastL0Seq, g.ReplayAfterWAL, g.WALTail, g.WALGap, g.L0Count, g.RunCount, g.SegmentCount,
		g.Position, g.TrimmedTo, g.Archived, g.Bytes, g.ListedBytes, g.ListedObjects, g.Backlog} {
		was, had := c.Number(col.move[k], i)
		switch {
		case v == nil && had:
			m.Mask |= 1 << k
			m.Null |= 1 << k
		case v != nil && (!had || was != *v):
			m.Mask |= 1 << k
			values[k] = *v
		}
	}
	return true
}

func sameCheckpoint(a, b catalog.Checkpoint) bool {
	return a.ID == b.ID && a.Name == b.Name && a.ManifestID == b.ManifestID && a.Looks == b.Looks &&
		sameTime(a.Created, b.Created) && sameTime(a.Expires, b.Expires)
}

func sameTime(a, b *time.Time) bool { return a == b || a != nil && b != nil && a.Equal(*b) }

// Fields of a [Moved], by their bits.
const (
	MovedManifest = 1 << 0
	MovedWALTail  = 1 << 3
	MovedPosition = 1 << 8
)

// ManifestID is that of the placement at a slot; ok is false when it is not
// known.
func (b *Builder) ManifestID(s table.Slot) (id uint64, ok bool) { return b.pb.Number(s, col.move[0]) }

// Name is what the placement at a slot is called.
func (b *Builder) Name(s table.Slot) (slate string) { return b.fleet.Ident(s).Slate }

// Root is where the placement at a slot is.
func (b *Builder) Root(s table.Slot) string { return b.fleet.Ident(s).Root }
