package view

import (
	"slices"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

var (
	registeredCol = placementSchema.Col("registered")
	ownerCol      = placementSchema.Col("owner")
	labelsCol     = placementSchema.Col("labels")
	readersCol    = placementSchema.Col("readers")
	pointsCol     = placementSchema.Col("restore_points")
)

// SumSlate sums up the placements of one name as they were put; nil when there
// is none. badness orders states: the worst is the slate's. It reads only what
// it needs, for a slate may be in a thousand regions.
func (b *Builder) SumSlate(name string, badness func(catalog.PlacementState) int) *catalog.Slate {
	var row *catalog.Slate
	named(b.fleet, name)(func(_ uint64, id *table.Ident) bool {
		c, i := b.fleet.At(id.Slot)
		class := b.fleet.Class(c.Class(i))
		state := catalog.PlacementState(class.Stored(col.state).Text)
		observed, _ := c.Number(col.observed, i)
		at := table.NumberTime(observed)
		if row == nil {
			row = &catalog.Slate{Name: name, Kind: catalog.Kind(class.Stored(kindCol).Text), State: state, ObservedAt: at, Regions: []string{}}
		}
		row.Placements++
		if !slices.Contains(row.Regions[max(0, len(row.Regions)-1):], id.Region) { // they come in order
			row.Regions = append(row.Regions, id.Region)
		}
		if badness(state) > badness(row.State) {
			row.State = state
		}
		if class.Stored(registeredCol).Num == 1 && !row.Registered {
			row.Registered = true
			if ids := c.Symbols(ownerCol); ids != nil {
				row.Owner = b.fleet.Symbol(ownerCol, ids[i])
			}
			if ids := c.Symbols(labelsCol); ids != nil {
				row.Labels = b.fleet.SymbolMap(labelsCol, ids[i])
			}
		}
		if n, ok := c.Number(col.bytes, i); ok {
			if row.Bytes != nil {
				n += *row.Bytes
			}
			row.Bytes = &n
		}
		if readers, _ := c.Object(readersCol, i).([]catalog.Reader); len(readers) > 0 {
			for k := range readers {
				if !readers[k].Lapsed {
					row.Readers++
				}
			}
		}
		n, _ := c.Number(pointsCol, i)
		row.RestorePoints += n
		if at.Before(row.ObservedAt) {
			row.ObservedAt = at
		}
		return true
	})
	return row
}
