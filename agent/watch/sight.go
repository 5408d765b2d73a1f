package watch

import (
	"bytes"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/opendata"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Limits that keep a sighting within a frame of the link (256 KiB).
const (
	maxCheckpoints = 300
	maxExternal    = 100
	maxName        = 256
)

// sightOf is what a manifest says. What it does not say (identity, WAL tail,
// listed sizes, a log's own positions) is kept from before.
func sightOf(root string, h *slatedb.Head, before catalog.Sighting) catalog.Sighting {
	m, s := h.Manifest, before
	s.Root, s.Seen, s.Reason, s.Pill = root, catalog.SeenLive, "", ""
	s.ManifestID, s.ManifestVersion = ptr(h.ID), ptr(uint64(m.Version))
	s.WriterEpoch, s.CompactorEpoch = ptr(m.WriterEpoch), ptr(m.CompactorEpoch)
	s.Initialized = ptr(m.Initialized)
	s.Extractor = m.ExtractorName
	s.LastL0Seq, s.ReplayAfterWAL = ptr(m.LastL0Seq), ptr(m.ReplayAfterWAL)
	s.Bytes = ptr(m.Size())

	var l0, runs uint64
	m.Trees(func(_ []byte, t *manifest.Tree) {
		l0 += uint64(len(t.L0))
		runs += uint64(len(t.Runs))
	})
	s.L0Count, s.RunCount, s.SegmentCount = ptr(l0), ptr(runs), ptr(uint64(len(m.Segments)))

	s.Checkpoints, s.MoreCheckpoints = checkpointsOf(h)
	s.External = nil
	for _, e := range m.ExternalDBs[:min(len(m.ExternalDBs), maxExternal)] {
		x := catalog.ExternalDB{Path: strings.Trim(e.Path, "/"), Tables: uint64(len(e.Tables))}
		if e.FinalCheckpoint != nil {
			x.FinalCheckpoint = e.FinalCheckpoint.String()
		}
		s.External = append(s.External, x)
	}
	return s
}

func checkpointsOf(h *slatedb.Head) (list []catalog.Checkpoint, more uint64) {
	// No time is asked for: an expired checkpoint is listed until a
	// collector removes it, and the hub judges by its own clock.
	for _, c := range h.Checkpoints(time.Time{}) {
		if len(list) == maxCheckpoints {
			more++
			continue
		}
		row := catalog.Checkpoint{ID: c.ID.String(), Name: clip(c.Name), ManifestID: c.ManifestID, Looks: string(c.Kind)}
		if c.Create.Unix() > 0 {
			row.Created = ptr(c.Create)
		}
		if !c.Expire.IsZero() {
			row.Expires = ptr(c.Expire)
		}
		list = append(list, row)
	}
	return list, more
}

func clip(name string) string {
	if len(name) > maxName {
		return strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return name
}

// holdsOf are the checkpoints that are restore points: named, without expiry.
// Guards, readers' and clones' never have a name.
func holdsOf(m *manifest.Manifest) []manifest.Checkpoint {
	var holds []manifest.Checkpoint
	for _, c := range m.Checkpoints {
		if c.Named && c.Name != "" && c.Expire.IsZero() {
			holds = append(holds, c)
		}
	}
	return holds
}

// setKind says what the database contains: by its extractor's name, else by
// its first key, else nothing is known but that it is a database. The caller
// holds mu.
func (d *database) setKind(m *manifest.Manifest) {
	s := &d.sight
	if kind, ok := opendata.KindOfExtractor(m.ExtractorName); ok {
		s.Kind, s.KindFrom = catalog.Kind(kind), "extractor"
	} else if kind, ok := opendata.KindOfFirstKey(firstKey(m, d.wal.firstKey)); ok {
		s.Kind, s.KindFrom = catalog.Kind(kind), "first-key"
	} else if s.Kind == "" || s.KindFrom == "record" || m.ExtractorName != "" {
		s.Kind, s.KindFrom = catalog.KindSlateDB, "layout"
	}
	if s.Kind == catalog.KindLog {
		s.PositionDomain = domainLog // upkeep reads its positions from the rows
		return
	}
	s.PositionDomain, s.Position = domainSeq, ptr(max(m.LastL0Seq, d.wal.seq))
}

// firstKey is the smallest key that is known without reading a table.
func firstKey(m *manifest.Manifest, fromWAL []byte) []byte {
	first := fromWAL
	m.Tables(func(t *manifest.Table) {
		if k := t.Info.FirstKey; len(k) > 0 && (first == nil || bytes.Compare(k, first) < 0) {
			first = k
		}
	})
	return bytes.Clone(first)
}
