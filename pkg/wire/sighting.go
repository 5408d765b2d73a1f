package wire

import (
	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

func fromSighting(s *catalog.Sighting) *quarryv1.Sighting {
	m := &quarryv1.Sighting{
		Slate: s.Slate, Root: s.Root, Kind: string(s.Kind), KindFrom: tidy(s.KindFrom),
		Seen: string(s.Seen), Reason: tidy(s.Reason),

		Incarnation: s.Incarnation, IncarnationKept: s.IncarnationKept,
		Predecessor: s.Predecessor, Lineage: s.Lineage,

		ManifestId: s.ManifestID, ManifestVersion: s.ManifestVersion,
		WriterEpoch: s.WriterEpoch, CompactorEpoch: s.CompactorEpoch,
		Initialized: s.Initialized, Extractor: tidy(s.Extractor), Pill: tidy(s.Pill),

		LastL0Seq: s.LastL0Seq, ReplayAfterWal: s.ReplayAfterWAL, WalTail: s.WALTail, WalGap: s.WALGap,
		L0Count: s.L0Count, RunCount: s.RunCount, SegmentCount: s.SegmentCount, Compaction: tidy(s.Compaction),

		Position: s.Position, PositionDomain: s.PositionDomain, TrimmedTo: s.TrimmedTo, Archived: s.Archived,
		Bytes: s.Bytes, ListedBytes: s.ListedBytes, ListedObjects: s.ListedObjects, ListedAt: stampOf(s.ListedAt),
		Backlog: s.Backlog, MoreCheckpoints: s.MoreCheckpoints,
	}
	for _, o := range s.Orphans {
		m.Orphans = append(m.Orphans, &quarryv1.Orphan{
			Path: tidy(o.Path), Position: o.Position, Bytes: o.Bytes, Complete: o.Complete, What: tidy(o.What),
		})
	}
	for _, p := range s.Checkpoints {
		m.Checkpoints = append(m.Checkpoints, &quarryv1.Checkpoint{
			Id: p.ID, Name: tidy(p.Name), ManifestId: p.ManifestID,
			Created: stampOf(p.Created), Expires: stampOf(p.Expires), Looks: tidy(p.Looks),
		})
	}
	for _, e := range s.External {
		m.External = append(m.External, &quarryv1.ExternalDB{
			Path: tidy(e.Path), FinalCheckpoint: e.FinalCheckpoint, Tables: e.Tables,
		})
	}
	return m
}

func (c *checker) sighting(m *quarryv1.Sighting) *catalog.Sighting {
	s := &catalog.Sighting{
		Slate: c.slate(m.Slate), Root: c.root(m.Root), Kind: catalog.Kind(m.Kind), KindFrom: c.text("kind_from", m.KindFrom),
		Seen: catalog.Seen(m.Seen), Reason: c.text("reason", m.Reason),

		Incarnation: c.id("incarnation", m.Incarnation), IncarnationKept: m.IncarnationKept,
		Predecessor: c.id("predecessor", m.Predecessor), Lineage: c.id("lineage", m.Lineage),

		ManifestID: m.ManifestId, ManifestVersion: m.ManifestVersion,
		WriterEpoch: m.WriterEpoch, CompactorEpoch: m.CompactorEpoch,
		Initialized: m.Initialized, Extractor: c.text("extractor", m.Extractor), Pill: c.text("pill", m.Pill),

		LastL0Seq: m.LastL0Seq, ReplayAfterWAL: m.ReplayAfterWal, WALTail: m.WalTail, WALGap: m.WalGap,
		L0Count: m.L0Count, RunCount: m.RunCount, SegmentCount: m.SegmentCount, Compaction: c.text("compaction", m.Compaction),

		Position: m.Position, PositionDomain: c.id("position_domain", m.PositionDomain), TrimmedTo: m.TrimmedTo, Archived: m.Archived,
		Bytes: m.Bytes, ListedBytes: m.ListedBytes, ListedObjects: m.ListedObjects, ListedAt: c.timePtr("listed_at", m.ListedAt),
		Backlog: m.Backlog, MoreCheckpoints: m.MoreCheckpoints,
		// Lists are empty, not null, for people's programs.
		Checkpoints: make([]catalog.Checkpoint, 0, len(m.Checkpoints)),
	}
	kinds := make([]string, len(catalog.Kinds))
	for i, k := range catalog.Kinds {
		kinds[i] = string(k)
	}
	c.oneOf("kind", m.Kind, kinds...)
	c.oneOf("seen", m.Seen, string(catalog.SeenLive), string(catalog.SeenMissing), string(catalog.SeenUnreadable))
	for _, o := range m.Orphans {
		s.Orphans = append(s.Orphans, catalog.Orphan{
			Path: c.text("orphans.path", o.GetPath()), Position: o.GetPosition(), Bytes: o.GetBytes(),
			Complete: o.GetComplete(), What: c.text("orphans.what", o.GetWhat()),
		})
	}
	for _, p := range m.Checkpoints {
		s.Checkpoints = append(s.Checkpoints, catalog.Checkpoint{
			ID: c.id("checkpoints.id", p.GetId()), Name: c.text("checkpoints.name", p.GetName()), ManifestID: p.GetManifestId(),
			Created: c.timePtr("checkpoints.created", p.GetCreated()), Expires: c.timePtr("checkpoints.expires", p.GetExpires()),
			Looks: c.text("checkpoints.looks", p.GetLooks()),
		})
	}
	for _, e := range m.External {
		s.External = append(s.External, catalog.ExternalDB{
			Path: c.text("external.path", e.GetPath()), FinalCheckpoint: c.id("external.final_checkpoint", e.GetFinalCheckpoint()), Tables: e.GetTables(),
		})
	}
	return s
}
