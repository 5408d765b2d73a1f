package view

import (
	"iter"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// How placements and slates lie in columns. What has few values over a whole
// fleet is a trait, so that it is stored once for all rows alike and counted;
// what an agent or hub needs of a row and nobody reads is hidden.
var (
	placementSchema = table.SchemaOf[catalog.Placement](table.Options{
		Ident: [3]string{"slate", "region", "root"},
		Traits: []string{"region", "kind", "kind_from", "seen", "state", "incarnation_kept", "initialized", "extractor",
			"compaction", "position_domain", "manifest_version", "registered"},
		Symbols: []string{"owner", "contact", "labels"},
		Ordered: []string{"bytes"}, Summed: []string{"bytes"},
		Covered: []string{"state", "state_reason", "state_since"},
		Hidden: []string{hidSumHi, hidSumLo, hidBucket, hidCounter, hidContentStart, hidContent, hidPresenceStart, hidPresence,
			hidStart, hidFlags, hidMoved, hidSlate},
	})
	slateSchema = table.SchemaOf[catalog.Slate](table.Options{
		Ident:   [3]string{"name"},
		Traits:  []string{"kind", "state", "regions", "registered"},
		Symbols: []string{"owner", "labels"},
		Ordered: []string{"bytes"}, Summed: []string{"bytes"},
		Covered: []string{"state"},
		// Both follow from the placements.
		Virtual: []string{"where", "lineages"},
	})
)

// Names of hidden columns.
const (
	hidSumHi         = "hidden.sum_hi"
	hidSumLo         = "hidden.sum_lo"
	hidBucket        = "hidden.bucket"
	hidCounter       = "hidden.counter"
	hidContentStart  = "hidden.content_start"
	hidContent       = "hidden.content"
	hidPresenceStart = "hidden.presence_start"
	hidPresence      = "hidden.presence"
	hidStart         = "hidden.start"
	hidFlags         = "hidden.flags"
	hidMoved         = "hidden.moved_at"
	hidSlate         = "hidden.slate"
)

var col = struct {
	state, stateReason, stateSince, observed, bytes, region, seen                 int
	sumHi, sumLo, bucket, counter, contentStart, content, presenceStart, presence int
	start, flags, moved, slate                                                    int
	move                                                                          [len(catalog.MoveFields)]int
}{
	state: placementSchema.Col("state"), stateReason: placementSchema.Col("state_reason"), stateSince: placementSchema.Col("state_since"),
	observed: placementSchema.Col("observed_at"), bytes: placementSchema.Col("bytes"), region: placementSchema.Col("region"), seen: placementSchema.Col("seen"),
	sumHi: placementSchema.Col(hidSumHi), sumLo: placementSchema.Col(hidSumLo), bucket: placementSchema.Col(hidBucket),
	counter: placementSchema.Col(hidCounter), contentStart: placementSchema.Col(hidContentStart), content: placementSchema.Col(hidContent),
	presenceStart: placementSchema.Col(hidPresenceStart), presence: placementSchema.Col(hidPresence), start: placementSchema.Col(hidStart),
	flags: placementSchema.Col(hidFlags), moved: placementSchema.Col(hidMoved), slate: placementSchema.Col(hidSlate),
	move: func() (cols [len(catalog.MoveFields)]int) {
		for i, name := range catalog.MoveFields {
			cols[i] = placementSchema.Col(name)
		}
		return cols
	}(),
}

var slateCol = struct{ state, regions, observed, bytes, placements int }{
	slateSchema.Col("state"), slateSchema.Col("regions"), slateSchema.Col("observed_at"), slateSchema.Col("bytes"), slateSchema.Col("placements"),
}

// stale is why and since when a region's rows may not be called current.
type stale struct {
	why   string
	since time.Time
}

// PlacementTable is the placements in columns, for queries.
func (v *View) PlacementTable() *table.Table { return v.fleet }

// SlateTable is the slates in columns, for queries. Their lineages and where
// are empty in rows that the table makes; [View.FillSlate] adds them.
func (v *View) SlateTable() *table.Table { return v.slates }

// Placements lists all placements, ordered by slate, region, root. Each row is
// made for the caller.
func (v *View) Placements() iter.Seq[*catalog.Placement] {
	return placementsIn(v.fleet, func(yield func(uint64, *table.Ident) bool) { v.fleet.Names().Ascend(table.First, yield) })
}

// Placement is the placement at a root of a region, nil when there is none.
func (v *View) Placement(region, root string) *catalog.Placement {
	p, _ := v.fleet.Row(v.fleet.Find(region, root)).(*catalog.Placement)
	return p
}

// PlacementsOf lists the placements of one slate, ordered by region, root.
func (v *View) PlacementsOf(slate string) iter.Seq[*catalog.Placement] {
	return placementsIn(v.fleet, named(v.fleet, slate))
}

// PlacementsIn lists the placements of one region, ordered by root.
func (v *View) PlacementsIn(region string) iter.Seq[*catalog.Placement] {
	return placementsIn(v.fleet, func(yield func(uint64, *table.Ident) bool) {
		v.fleet.In(region, func(id *table.Ident) bool { return yield(0, id) })
	})
}

// named walks the rows of one slate.
func named(t *table.Table, slate string) func(func(uint64, *table.Ident) bool) {
	return func(yield func(uint64, *table.Ident) bool) {
		t.Names().Ascend(table.Mark{Slate: slate}, func(_ uint64, id *table.Ident) bool { return id.Slate == slate && yield(0, id) })
	}
}

func placementsIn(t *table.Table, walk func(func(uint64, *table.Ident) bool)) iter.Seq[*catalog.Placement] {
	return func(yield func(*catalog.Placement) bool) {
		walk(func(_ uint64, id *table.Ident) bool { return yield(t.Row(id.Slot).(*catalog.Placement)) })
	}
}

// Slates lists all slates, ordered by name. Each row is made for the caller.
func (v *View) Slates() iter.Seq[*catalog.Slate] {
	return func(yield func(*catalog.Slate) bool) {
		v.slates.Names().Ascend(table.First, func(_ uint64, id *table.Ident) bool {
			s := v.slates.Row(id.Slot).(*catalog.Slate)
			v.FillSlate(s)
			return yield(s)
		})
	}
}

// Slate is the slate of that name, nil when there is none.
func (v *View) Slate(name string) *catalog.Slate {
	s, _ := v.slates.Row(v.slates.Named(name)).(*catalog.Slate)
	if s != nil {
		v.FillSlate(s)
	}
	return s
}

// FillSlate adds to a slate's row what follows from its placements: where it
// is and which lineages it has.
func (v *View) FillSlate(s *catalog.Slate) {
	s.Lineages, s.Where = []string{}, nil
	for p := range v.PlacementsOf(s.Name) {
		s.Where = append(s.Where, p.In())
		if p.Lineage != "" && !slices.Contains(s.Lineages, p.Lineage) {
			s.Lineages = append(s.Lineages, p.Lineage)
		}
	}
	slices.Sort(s.Lineages)
}

// OwnerOf is the owner's row of a placement.
func OwnerOf(p *catalog.Placement, moved *time.Time) *catalog.OwnerRow {
	return &catalog.OwnerRow{
		Slate: p.Slate, Region: p.Region, Root: p.Root, Owner: p.Owner, Contact: p.Contact, Declared: p.Registered,
		WriterEpoch: p.WriterEpoch, WriterSince: p.WriterSince, MovedAt: moved, Leases: p.Leases, Disagreement: p.Disagreement,
	}
}

// ownerAt is the owner's row of the placement at a slot.
func ownerAt(t *table.Table, s table.Slot) *catalog.OwnerRow {
	return OwnerOf(t.Row(s).(*catalog.Placement), movedAt(t, s))
}

func movedAt(t *table.Table, s table.Slot) *time.Time {
	if c, i := t.At(s); c != nil {
		if n, ok := c.Number(col.moved, i); ok {
			at := table.NumberTime(n)
			return &at
		}
	}
	return nil
}

// Owners lists who is responsible for what, ordered by slate, region, root. A
// registration of a root where no database was seen has a row here too.
func (v *View) Owners() iter.Seq[*catalog.OwnerRow] {
	return func(yield func(*catalog.OwnerRow) bool) {
		declared := slices.Collect(v.owners.all()) // few: roots where nothing is
		more := true
		v.fleet.Names().Ascend(table.First, func(_ uint64, id *table.Ident) bool {
			for more && len(declared) > 0 && v.owners.less(declared[0], &catalog.OwnerRow{Slate: id.Slate, Region: id.Region, Root: id.Root}) {
				more = yield(declared[0])
				declared = declared[1:]
			}
			more = more && yield(ownerAt(v.fleet, id.Slot))
			return more
		})
		for _, o := range declared {
			if more = more && yield(o); !more {
				return
			}
		}
	}
}

// Declared lists the owners' rows of roots where no database was seen.
func (v *View) Declared() iter.Seq[*catalog.OwnerRow] { return v.owners.all() }

// owner is the owner's row of a root.
func (v *View) owner(region, root string) *catalog.OwnerRow {
	if s := v.fleet.Find(region, root); s != table.None {
		return ownerAt(v.fleet, s)
	}
	return v.owners.get(&catalog.OwnerRow{Region: region, Root: root})
}
