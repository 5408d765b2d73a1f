package view

import (
	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

var (
	positionCol = placementSchema.Col("position")
	listedCol   = placementSchema.Col("listed_bytes")
	pinnedByCol = placementSchema.Col("pinned_by")
	trimmedCol  = placementSchema.Col("trimmed_to")
)

// Evidence reads what rules go by of one slate after the other, without making
// whole rows. Its zero value works; it belongs to one goroutine, and what it
// gives is good until it is asked again.
type Evidence struct {
	rows    []catalog.Placement
	numbers []uint64
}

// Of gives the placements of a slate, ordered by region and root, with these
// fields and no others: the names, Kind, Seen, Reason, StateReason, Lineage,
// PositionDomain, Position, Bytes, ListedBytes, Labels, Readers, PinnedBy,
// Checkpoints, Incarnation, IncarnationKept and TrimmedTo. Their lists and maps are shared and nobody may change them.
func (e *Evidence) Of(v *View, slate string) []catalog.Placement {
	e.rows, e.numbers = e.rows[:0], e.numbers[:0]
	t := v.fleet
	named(t, slate)(func(_ uint64, id *table.Ident) bool {
		e.read(t, id)
		return true
	})
	return e.rows
}

func (e *Evidence) read(t *table.Table, id *table.Ident) {
	c, i := t.At(id.Slot)
	class := t.Class(c.Class(i))
	text := func(col int) string {
		if texts := c.Texts(col); texts != nil {
			return texts[i]
		}
		return ""
	}
	number := func(col int) *uint64 {
		n, ok := c.Number(col, i)
		if !ok {
			return nil
		}
		e.numbers = append(e.numbers, n)
		return &e.numbers[len(e.numbers)-1]
	}
	e.rows = append(e.rows, catalog.Placement{Region: id.Region})
	p := &e.rows[len(e.rows)-1]
	p.Slate, p.Root = id.Slate, id.Root
	p.Kind, p.Seen = catalog.Kind(class.Stored(kindCol).Text), catalog.Seen(class.Stored(col.seen).Text)
	p.PositionDomain, p.Lineage, p.Reason = class.Stored(domainCol).Text, text(lineageCol), text(reasonCol)
	if shown, covered := class.Covers(col.stateReason); covered {
		p.StateReason = shown.Text
	} else {
		p.StateReason = text(col.stateReason)
	}
	p.Incarnation, p.IncarnationKept, p.TrimmedTo = text(incarnationCol), class.Stored(keptCol).Num != 0, number(trimmedCol)
	p.Position, p.Bytes, p.ListedBytes = number(positionCol), number(col.bytes), number(listedCol)
	if ids := c.Symbols(labelsCol); ids != nil {
		p.Labels = t.SymbolMap(labelsCol, ids[i])
	}
	p.Readers, _ = c.Object(readersCol, i).([]catalog.Reader)
	p.PinnedBy, _ = c.Object(pinnedByCol, i).([]string)
	p.Checkpoints, _ = c.Object(checkpointsCol, i).([]catalog.Checkpoint)
}
