package view

import (
	"iter"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// decisionTable lists the newest decision first, and finds one by its id.
func decisionTable() rows[catalog.DecisionRow] {
	type row = catalog.DecisionRow
	return newRows(
		func(r *row) string { return r.ID },
		func(p []string) *row {
			if len(p) != 1 {
				return nil
			}
			return &row{ID: p[0]}
		},
		func(a, b *row) bool { return a.Number > b.Number },
		func(a, b *row) bool { return a.ID < b.ID })
}

// Decisions lists the decisions that the hub keeps, the newest first. Those that
// are settled are forgotten after a while; the audit has all of them.
func (v *View) Decisions() iter.Seq[*catalog.DecisionRow] { return v.decided.all() }

// Decision is the decision with that id, nil when it is not kept.
func (v *View) Decision(id string) *catalog.DecisionRow {
	return v.decided.get(&catalog.DecisionRow{ID: id})
}

// Breaker is how the breaker stands.
func (v *View) Breaker() catalog.BreakerRow { return v.breaker }

// SetDecision puts a row.
func (b *Builder) SetDecision(r *catalog.DecisionRow) { put(b, Decisions, &b.decided, r, false) }

// RemoveDecision takes a row out.
func (b *Builder) RemoveDecision(id string) {
	remove(b, Decisions, &b.decided, &catalog.DecisionRow{ID: id})
}

// SetBreaker puts how the breaker stands.
func (b *Builder) SetBreaker(r catalog.BreakerRow) {
	if b.breaker != r {
		b.breaker, b.dirty = r, true
		b.touched[Decisions] = true
	}
}
