package query_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

var start = time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC)

// fleet changes a view at random and keeps the rows beside it, as plain
// structs that were put.
type fleet struct {
	rng *rand.Rand
	b   *view.Builder
	n   int
}

func (f *fleet) pick(of ...string) string { return of[f.rng.IntN(len(of))] }

func some[T any](f *fleet, v T) *T {
	if f.rng.IntN(4) == 0 {
		return nil
	}
	return &v
}

func (f *fleet) number() uint64 {
	return []uint64{0, 1, 2, 3, 1 << 10, 1 << 20, 1<<63 + 1, 1<<64 - 1, f.rng.Uint64N(1000)}[f.rng.IntN(9)]
}

func (f *fleet) time() time.Time { return start.Add(time.Duration(f.rng.IntN(9)-4) * 30 * time.Minute) }

func (f *fleet) placement(i int) *catalog.Placement {
	p := &catalog.Placement{
		Region: fmt.Sprint("r", i%3), State: catalog.PlacementState(f.pick("live", "live", "missing", "unreadable")), StateReason: f.pick("", "", "Torn", "gone"),
		StateSince: f.time(), Registered: f.rng.IntN(2) == 0, Owner: f.pick("", "ann", "Bob"), Contact: f.pick("", "x@y"), ObservedAt: f.time(),
		FirstSeen: f.time(), RestorePoints: uint64(f.rng.IntN(3)), VerifiedRestorePoints: uint64(f.rng.IntN(2)), WriterSince: some(f, f.time()),
		Disagreement: f.pick("", "", "two writers declared"),
	}
	p.Root = fmt.Sprintf("dbs/n%03d", i)
	p.Slate = f.pick(p.Root, p.Root, "named", fmt.Sprint("s", i%7))
	p.Kind, p.KindFrom, p.Seen = catalog.Kind(f.pick("log", "slatedb", "vector")), f.pick("", "layout"), catalog.Seen(f.pick("live", "missing"))
	p.Incarnation, p.Lineage, p.IncarnationKept = f.pick("", "01A", "01B"), f.pick("", "01A", "L"), f.rng.IntN(2) == 0
	p.Reason, p.Extractor, p.PositionDomain, p.Pill = f.pick("", "bad"), f.pick("", "time"), f.pick("seq", "lsn"), f.pick("", "deleted")
	p.ManifestID, p.ManifestVersion, p.WriterEpoch = some(f, f.number()), some(f, uint64(f.rng.IntN(3))), some(f, f.number())
	p.Position, p.Bytes, p.WALGap = some(f, f.number()), some(f, f.number()), some(f, f.number())
	p.Initialized, p.ListedAt, p.MoreCheckpoints = some(f, f.rng.IntN(2) == 0), some(f, f.time()), uint64(f.rng.IntN(2))
	p.Checkpoints, p.Readers = []catalog.Checkpoint{}, []catalog.Reader{}
	if f.rng.IntN(3) == 0 {
		p.Labels = map[string]string{"team": f.pick("x", "y", ""), "a.b/c": "1"}
		p.Checkpoints = append(p.Checkpoints, catalog.Checkpoint{ID: f.pick("c1", "c2"), Name: f.pick("", "n"), Expires: some(f, f.time()), ManifestID: f.number()})
		p.Readers = append(p.Readers, catalog.Reader{ID: "c1", Name: f.pick("", "ann"), From: f.pick("lease", "checkpoint"), Lapsed: f.rng.IntN(2) == 0})
		p.PinnedBy = []string{f.pick("dbs/n001", "copy")}
	}
	return p
}

// change makes some changes of all kinds.
func (f *fleet) change(times int) {
	for range times {
		i := f.rng.IntN(f.n)
		region, root := fmt.Sprint("r", i%3), fmt.Sprintf("dbs/n%03d", i)
		var slates []string
		if s := f.b.Slot(region, root); f.b.Placement(region, root) != nil {
			slates = append(slates, f.b.Name(s))
		}
		switch k := f.rng.IntN(12); {
		case k < 6:
			p := f.placement(i)
			f.b.SetPlacement(p, false)
			slates = append(slates, p.Slate)
		case k < 9 && slates != nil:
			var values [len(catalog.MoveFields)]uint64
			for k := range values {
				values[k] = f.number()
			}
			f.b.Move(f.b.Slot(region, root), &view.Moved{Mask: uint32(f.rng.Uint64()) & 0x7fff, Null: uint32(f.rng.Uint64()) & 0x7fff & uint32(f.rng.Uint64()), Values: &values, At: f.time()})
		case k < 10:
			f.b.RemovePlacement(region, root)
			f.b.RemoveOwner(region, root)
		default:
			f.b.StaleRegion(fmt.Sprint("r", f.rng.IntN(3)), f.rng.IntN(2) == 0, "region-stale: silent", f.time())
		}
		if f.rng.IntN(8) == 0 { // a declaration of a root, with or without a database
			if f.rng.IntN(3) == 0 {
				f.b.RemoveOwner(region, root)
			} else if f.b.Slot(region, root) == table.None {
				f.b.SetOwner(&catalog.OwnerRow{Slate: f.pick(root, "named", "s3"), Region: region, Root: root, Owner: f.pick("ann", ""), Declared: true})
			}
		}
		if s := f.b.Slot(region, root); s != table.None { // as hub/state tells of owners
			if f.rng.IntN(3) == 0 {
				f.b.SetMovedAt(s, f.time())
			}
			f.b.SetOwner(view.OwnerOf(f.b.Placement(region, root), f.b.MovedAt(s)))
		}
		for _, name := range slates {
			f.slate(name)
		}
	}
}

// slate sums up the placements of a name.
func (f *fleet) slate(name string) {
	row := &catalog.Slate{Name: name, Regions: []string{}}
	for p := range f.b.PlacementsOf(name) {
		row.Kind, row.State, row.ObservedAt = p.Kind, catalog.StateLive, p.ObservedAt
		row.Placements++
		if !slices.Contains(row.Regions, p.Region) {
			row.Regions = append(row.Regions, p.Region)
		}
		row.Bytes, row.Labels, row.Owner = p.Bytes, p.Labels, p.Owner
	}
	if row.Placements == 0 {
		f.b.RemoveSlate(name)
	} else {
		f.b.SetSlate(row, false)
	}
}
