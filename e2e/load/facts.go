package load

import (
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

func (f *Fleet) incarnation(r, i int) string {
	reg := &f.regions[r]
	return id(f.o.From.Add(time.Duration(i)*time.Second), "incarnation", reg.name, strconv.Itoa(i), strconv.Itoa(int(reg.slots[i].life)))
}

// placement is what an agent sees of a slate now.
func (f *Fleet) placement(r, i int) catalog.Fact {
	reg := &f.regions[r]
	s := reg.slots[i] // a copy: the fact keeps pointers into it
	root, kind := name(reg.name, i), kinds.pick(trait(i, ofKind))
	inc := f.incarnation(r, i)
	g := &catalog.Sighting{
		Slate: root, Root: root, Kind: kind, KindFrom: "first-key", Seen: s.seen,
		Incarnation: inc, IncarnationKept: true, Lineage: inc,
		Position: &s.position, PositionDomain: "seq", Bytes: &s.bytes,
		Checkpoints: []catalog.Checkpoint{},
	}
	switch s.seen {
	case catalog.SeenMissing:
		g.Reason = "no object is found below its root any more"
	case catalog.SeenUnreadable:
		g.Reason = "the newest manifest does not decode: it ends after 512 bytes"
	}
	if s.life > 0 {
		g.Predecessor = id(f.o.From.Add(time.Duration(i)*time.Second), "incarnation", reg.name, strconv.Itoa(i), strconv.Itoa(int(s.life-1)))
	}
	if kind == catalog.KindSnapshots {
		g.KindFrom, g.PositionDomain, g.Archived = "layout", "lsn", new(s.position-s.position%1000)
		g.Lineage = "cluster-" + reg.name + "/" + strconv.Itoa(i)
		return catalog.Fact{Kind: catalog.FactPlacement, Key: root, Sighting: g}
	}
	g.ManifestID, g.ManifestVersion, g.WriterEpoch, g.CompactorEpoch = &s.manifest, new(uint64(2)), &s.epoch, new(s.epoch/2)
	g.WALTail, g.ReplayAfterWAL, g.WALGap = &s.wal, new(s.wal-s.wal%8), new(s.wal%8)
	g.L0Count, g.RunCount, g.LastL0Seq = new(s.manifest%6), new(1+s.manifest%3), new(s.position-s.position%100)
	switch kind {
	case catalog.KindLog:
		g.PositionDomain, g.SegmentCount = "log-seq", new(1+s.manifest%20)
		g.TrimmedTo = new(f.o.Epoch << 16)
	case catalog.KindBuffer:
		g.PositionDomain, g.Backlog = "buffer-seq", new(s.wal%40)
	}
	if trait(i, ofReader)%10 < 3 {
		at := f.o.From.Add(time.Duration(i) * time.Second)
		g.Checkpoints = append(g.Checkpoints, catalog.Checkpoint{
			ID: inc, ManifestID: s.manifest - s.manifest%4, Created: &at, Expires: new(at.AddDate(10, 0, 0)), Looks: "reader",
		})
	}
	if hasPoint(i) {
		at := f.o.From.Add(time.Duration(i) * time.Second)
		g.Checkpoints = append(g.Checkpoints, catalog.Checkpoint{
			ID: pointID(root), Name: "nightly", ManifestID: f.o.Epoch << 8, Created: &at, Looks: "named",
		})
	}
	return catalog.Fact{Kind: catalog.FactPlacement, Key: root, Sighting: g}
}

func (f *Fleet) registration(r, i int) catalog.Fact {
	root := name(f.regions[r].name, i)
	at := f.o.From.Add(time.Duration(i) * time.Second)
	reg := &catalog.Registration{
		Version: 1, Action: catalog.Register, Slate: root, Root: root, Owner: ownerOf(i),
		Contact: "#" + teamOf(i), Labels: labels(i), At: at, ID: id(at, "registration", root),
	}
	return catalog.Fact{Kind: catalog.FactRegistration, Key: reg.ID, Registration: reg}
}

// hasPoint: one slate in ten has a restore point.
func hasPoint(i int) bool {
	return trait(i, ofPoint)%10 == 0 && kinds.pick(trait(i, ofKind)) != catalog.KindSnapshots
}

func pointID(root string) string { return id(time.UnixMilli(1), "checkpoint", root) }

func (f *Fleet) point(r, i int) catalog.Fact {
	root := name(f.regions[r].name, i)
	at := f.o.From.Add(time.Duration(i) * time.Second)
	p := &catalog.RestorePoint{
		Slate: root, Root: root, Incarnation: f.incarnation(r, i), ID: pointID(root), Name: "nightly", Source: catalog.SourceCheckpoint,
		Position: new(f.o.Epoch << 16), PositionDomain: "seq", Lineage: f.incarnation(r, i), CreatedAt: &at, State: catalog.RestoreListed,
	}
	return catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(root, p.ID), RestorePoint: p}
}

// Row is a placement as a hub must show it while it hears of its region: for
// systems beside a hub that are to hold the same, and for checking a hub's
// answers against a plain scan.
type Row struct {
	Region, Slate string // together unique; the root is the slate
	Kind          catalog.Kind
	State         catalog.PlacementState
	Owner         string            // "" for one that nobody registered
	Labels        map[string]string // nil for one that nobody registered
	Incarnation   string
	Lineage       string
	Domain        string // of Position
	Position      uint64
	Bytes         uint64
	ManifestID    *uint64 // nil for snapshot repositories, which have none
	WriterEpoch   *uint64
	Readers       int
	WALTail       *uint64
}

// Key is the row's key in systems that have one key.
func (r *Row) Key() string { return r.Region + "/" + r.Slate }

// Row is one slate as it is now.
func (f *Fleet) Row(r, i int) Row {
	g := f.placement(r, i).Sighting
	row := Row{
		Region: f.regions[r].name, Slate: g.Slate, Kind: g.Kind, State: catalog.PlacementState(g.Seen),
		Incarnation: g.Incarnation, Lineage: g.Lineage, Domain: g.PositionDomain, Position: *g.Position, Bytes: *g.Bytes,
		ManifestID: g.ManifestID, WriterEpoch: g.WriterEpoch, WALTail: g.WALTail,
	}
	for _, c := range g.Checkpoints {
		if c.Name == "" {
			row.Readers++
		}
	}
	if registered(i) && i < f.o.Slates {
		row.Owner, row.Labels = ownerOf(i), labels(i)
	}
	return row
}

// Rows are all of them, region by region.
func (f *Fleet) Rows() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for r := range f.regions {
			for i := range f.regions[r].slots {
				if !yield(f.Row(r, i)) {
					return
				}
			}
		}
	}
}

func (f *Fleet) String() string {
	return fmt.Sprintf("%d placements in %d regions, seed %d", f.Size(), len(f.regions), f.o.Seed)
}
