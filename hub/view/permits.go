package view

import (
	"cmp"
	"iter"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Permit is the permit that rules a slate in a region, as it was last seen in
// the region's bucket.
type Permit struct {
	Region string
	catalog.Permit
	// Seen is when the hub first heard of the permit of this number, by the
	// hub's clock.
	Seen time.Time
}

// MayRule reports whether the permit may still let an owner cut at now, by the
// hub's clock: it is not withdrawn, and not surely over. It was written before
// it was seen, and owners' clocks may be an hour behind.
func (p *Permit) MayRule(now time.Time) bool {
	return p != nil && p.UpTo != nil && now.Before(p.Seen.Add(p.NotAfter.Sub(p.Issued)+ClocksBehind))
}

// ClocksBehind is how far behind the hub's an owner's clock may be.
const ClocksBehind = time.Hour

func permitTable() rows[Permit] {
	byKey := func(a, b *Permit) bool {
		return cmp.Or(cmp.Compare(a.Slate, b.Slate), cmp.Compare(a.Region, b.Region)) < 0
	}
	return newRows(
		func(r *Permit) string { return join(r.Region, r.Slate) },
		func([]string) *Permit { return nil },
		byKey, byKey)
}

// Permits lists the permits that rule, ordered by slate, region.
func (v *View) Permits() iter.Seq[*Permit] { return v.permits.all() }

// PermitsFrom lists the permits that rule, from those of a slate on in the same
// order.
func (v *View) PermitsFrom(slate string) iter.Seq[*Permit] {
	p := &Permit{}
	p.Slate = slate
	return v.permits.from(p, func(*Permit) bool { return true })
}

// PermitCount is how many permits rule.
func (v *View) PermitCount() int { return v.permits.list.Len() }

// Permit is the permit that rules a slate in a region; nil: none was seen.
func (v *View) Permit(region, slate string) *Permit {
	p := &Permit{Region: region}
	p.Slate = slate
	return v.permits.get(p)
}

// SetPermit puts a row.
func (b *Builder) SetPermit(r *Permit) {
	b.stir(r.Slate)
	b.permits.set(r)
	b.touched[declared] = true
}

// RemovePermit takes a row out.
func (b *Builder) RemovePermit(region, slate string) {
	p := &Permit{Region: region}
	p.Slate = slate
	b.stir(slate)
	b.permits.remove(p)
	b.touched[declared] = true
}
