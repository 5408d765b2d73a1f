package view

import (
	"cmp"
	"iter"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Pins names the resource of checkpoints with which Quarry holds history.
const Pins = "pins"

// PinKey is the key of a pin.
func PinKey(region, root, id string) string { return join(region, root, id) }

func pinTable() rows[catalog.Pin] {
	type row = catalog.Pin
	return newRows(
		func(r *row) string { return PinKey(r.Region, r.Root, r.ID) },
		func(p []string) *row {
			if len(p) != 3 {
				return nil
			}
			return &row{Region: p[0], Root: p[1], ID: p[2]}
		},
		func(a, b *row) bool {
			return cmp.Or(cmp.Compare(a.Slate, b.Slate), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Root, b.Root), cmp.Compare(a.ID, b.ID)) < 0
		},
		func(a, b *row) bool {
			return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Root, b.Root), cmp.Compare(a.ID, b.ID)) < 0
		})
}

// Pins lists Quarry's holds in slates, ordered by slate, region, name.
func (v *View) Pins() iter.Seq[*catalog.Pin] { return v.pins.all() }

// SetPin puts a row.
func (b *Builder) SetPin(r *catalog.Pin) { put(b, Pins, &b.pins, r, false) }

// Pin is the row with that key, nil when there is none.
func (b *Builder) Pin(region, root, id string) *catalog.Pin {
	return b.pins.get(&catalog.Pin{Region: region, Root: root, ID: id})
}

// RemovePin takes a row out.
func (b *Builder) RemovePin(region, root, id string) {
	remove(b, Pins, &b.pins, &catalog.Pin{Region: region, Root: root, ID: id})
}
