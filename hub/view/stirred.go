package view

import "github.com/quarry-db/quarry/hub/table"

// Stir has the builder remember from now on of which slates the evidence
// changes that rules go by: placements, restore points, permits. That numbers of
// a placement went on is none of it (see [View.Head]).
func (b *Builder) Stir() {
	if b.stirred == nil {
		b.stirred = map[string]struct{}{}
	}
}

// Rest ends it.
func (b *Builder) Rest() { b.stirred = nil }

// Stirred gives each slate of which the evidence has changed since it was last
// asked, in no order. Nothing may be set meanwhile.
func (b *Builder) Stirred(yield func(slate string)) {
	for name := range b.stirred {
		yield(name)
	}
	clear(b.stirred)
}

func (b *Builder) stir(slate string) {
	if b.stirred != nil {
		b.stirred[slate] = struct{}{}
	}
}

// stirAt stirs the slate of the placement at a slot, if there is one.
func (b *Builder) stirAt(s table.Slot) {
	if b.stirred == nil || s == table.None {
		return
	}
	if id := b.fleet.Ident(s); id != nil {
		b.stir(id.Slate)
	}
}

// SetKept puts what the state keeps beside the rows, for its own functions over
// views. Nobody may change it once it is published.
func (b *Builder) SetKept(kept any) { b.View.kept = kept }

// Kept is what the state keeps beside the rows.
func (v *View) Kept() any { return v.kept }

// Head is the highest position seen in any placement of a slate that has this
// lineage and position domain; nil: none was.
func (v *View) Head(slate, lineage, domain string) (head *uint64) {
	t := v.fleet
	var highest uint64
	named(t, slate)(func(_ uint64, id *table.Ident) bool {
		c, i := t.At(id.Slot)
		n, ok := c.Number(positionCol, i)
		if !ok || head != nil && n <= highest || t.Class(c.Class(i)).Stored(domainCol).Text != domain {
			return true
		}
		of := ""
		if texts := c.Texts(lineageCol); texts != nil {
			of = texts[i]
		}
		if of == lineage {
			highest, head = n, &highest
		}
		return true
	})
	return head
}
