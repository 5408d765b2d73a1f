package wire

import (
	"slices"

	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// sighting makes a Sighting of a message; [checker.sane] judges it.
func (c *checker) sighting(m *quarryv1.Sighting) *catalog.Sighting {
	s := &catalog.Sighting{
		Slate: m.Slate, Root: m.Root, Kind: catalog.Kind(m.Kind), KindFrom: m.KindFrom,
		Seen: catalog.Seen(m.Seen), Reason: m.Reason,

		Incarnation: m.Incarnation, IncarnationKept: m.IncarnationKept,
		Predecessor: m.Predecessor, Lineage: m.Lineage,

		ManifestID: m.ManifestId, ManifestVersion: m.ManifestVersion,
		WriterEpoch: m.WriterEpoch, CompactorEpoch: m.CompactorEpoch,
		Initialized: m.Initialized, Extractor: m.Extractor, Pill: m.Pill,

		LastL0Seq: m.LastL0Seq, ReplayAfterWAL: m.ReplayAfterWal, WALTail: m.WalTail, WALGap: m.WalGap,
		L0Count: m.L0Count, RunCount: m.RunCount, SegmentCount: m.SegmentCount, Compaction: m.Compaction,

		Position: m.Position, PositionDomain: m.PositionDomain, TrimmedTo: m.TrimmedTo, Archived: m.Archived,
		Bytes: m.Bytes, ListedBytes: m.ListedBytes, ListedObjects: m.ListedObjects, ListedAt: c.timePtr("listed_at", m.ListedAt),
		Backlog: m.Backlog, MoreCheckpoints: m.MoreCheckpoints,
		// Lists are empty, not null, for people's programs.
		Checkpoints: make([]catalog.Checkpoint, 0, len(m.Checkpoints)),
	}
	for _, o := range m.Orphans {
		s.Orphans = append(s.Orphans, catalog.Orphan{
			Path: o.GetPath(), Position: o.GetPosition(), Bytes: o.GetBytes(),
			Complete: o.GetComplete(), What: o.GetWhat(), ChangedAt: c.timePtr("orphans.changed_at", o.GetChangedAt()),
		})
	}
	for _, p := range m.Checkpoints {
		s.Checkpoints = append(s.Checkpoints, catalog.Checkpoint{
			ID: p.GetId(), Name: p.GetName(), ManifestID: p.GetManifestId(),
			Created: c.timePtr("checkpoints.created", p.GetCreated()), Expires: c.timePtr("checkpoints.expires", p.GetExpires()),
			Looks: p.GetLooks(),
		})
	}
	for _, e := range m.External {
		s.External = append(s.External, catalog.ExternalDB{
			Path: e.GetPath(), FinalCheckpoint: e.GetFinalCheckpoint(), Tables: e.GetTables(),
		})
	}
	return s
}

// sane judges a sighting that came, or one that is to leave: then what people
// read is made fit to travel, and is not judged.
func (c *checker) sane(s *catalog.Sighting, leaving bool) {
	c.slate(s.Slate)
	if s.Root != s.Slate { // most are the same
		c.root(s.Root)
	}
	if !s.Kind.Valid() {
		c.oneOf("kind", string(s.Kind), kinds...)
	}
	if s.Seen != catalog.SeenLive {
		c.oneOf("seen", string(s.Seen), string(catalog.SeenLive), string(catalog.SeenMissing), string(catalog.SeenUnreadable))
	}
	c.id("incarnation", s.Incarnation)
	c.id("predecessor", s.Predecessor)
	if s.Lineage != s.Incarnation {
		c.id("lineage", s.Lineage)
	}
	c.id("position_domain", s.PositionDomain)
	for i := range s.Checkpoints {
		c.id("checkpoints.id", s.Checkpoints[i].ID)
	}
	for i := range s.External {
		c.id("external.final_checkpoint", s.External[i].FinalCheckpoint)
	}
	if leaving {
		return
	}
	c.text("kind_from", s.KindFrom)
	c.text("reason", s.Reason)
	c.text("extractor", s.Extractor)
	c.text("pill", s.Pill)
	c.text("compaction", s.Compaction)
	for i := range s.Orphans {
		c.text("orphans.path", s.Orphans[i].Path)
		c.text("orphans.what", s.Orphans[i].What)
	}
	for i := range s.Checkpoints {
		c.text("checkpoints.name", s.Checkpoints[i].Name)
		c.text("checkpoints.looks", s.Checkpoints[i].Looks)
	}
	for i := range s.External {
		c.text("external.path", s.External[i].Path)
	}
}

// kinds are the words for kinds.
var kinds = func() []string {
	var words []string
	for _, k := range catalog.Kinds {
		words = append(words, string(k))
	}
	return slices.Clip(words)
}()

// CheckSighting refuses a sighting that a hub of this version would refuse
// under that key.
func CheckSighting(key string, s *catalog.Sighting) error {
	var c checker
	c.sane(s, true)
	if c.err == nil && s.Root != key {
		c.err = otherKey(key, s.Root)
	}
	return c.err
}
