package view

import (
	"cmp"
	"iter"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// Names of resources about what people decided.
const (
	Policies = "policies"
	Holds    = "holds"
	Freezes  = "freezes"
	// Decisions are what came of it.
	Decisions = "decisions"
)

// ruled is what people decided and by what right the hub decides: it is in the
// view so that a verdict is given from one moment's rules and facts.
type ruled struct {
	rules    *regions.Rules
	term     uint64
	policies rows[catalog.Policy]
	holds    rows[catalog.Hold]
	freezes  rows[catalog.Freeze]
	decided  rows[catalog.DecisionRow]
	breaker  catalog.BreakerRow
	// late are the regions whose rows may not be called current, and told
	// those that have told everything in this hub's life. Never changed once
	// published.
	late map[string]stale
	told map[string]bool
}

func newRuled() ruled {
	named := func(p []string) string {
		if len(p) != 1 {
			return ""
		}
		return p[0]
	}
	byPolicy := func(a, b *catalog.Policy) bool { return cmp.Less(a.Name, b.Name) }
	byHold := func(a, b *catalog.Hold) bool { return cmp.Less(a.Name, b.Name) }
	byScope := func(a, b *catalog.Freeze) bool { return cmp.Less(a.Scope, b.Scope) }
	return ruled{
		rules: &regions.Rules{},
		policies: newRows(func(r *catalog.Policy) string { return r.Name },
			func(p []string) *catalog.Policy { return &catalog.Policy{Name: named(p)} }, byPolicy, byPolicy),
		holds: newRows(func(r *catalog.Hold) string { return r.Name },
			func(p []string) *catalog.Hold { return &catalog.Hold{Name: named(p)} }, byHold, byHold),
		freezes: newRows(func(r *catalog.Freeze) string { return r.Scope },
			func(p []string) *catalog.Freeze { return &catalog.Freeze{Scope: named(p)} }, byScope, byScope),
		decided: decisionTable(),
	}
}

// Rules are the documents in force, never nil; nobody may change them.
func (v *View) Rules() *regions.Rules { return v.rules }

// Term is the number of the hub's right to decide; 0: it has none.
func (v *View) Term() uint64 { return v.term }

// Told reports whether a region has told everything since this hub began:
// before, what is known of it was loaded, and no decision relies on it.
func (v *View) Told(region string) bool { return v.told[region] }

// Late reports whether the rows of a region may be out of date, since when and
// why. A region that beats and does not look is late too.
func (v *View) Late(region string) (since time.Time, why string, late bool) {
	l, late := v.late[region]
	return l.since, l.why, late
}

// Policies lists the policies, ordered by name.
func (v *View) Policies() iter.Seq[*catalog.Policy] { return v.policies.all() }

// Policy is the policy of that name, nil when there is none.
func (v *View) Policy(name string) *catalog.Policy {
	return v.policies.get(&catalog.Policy{Name: name})
}

// Holds lists the holds, ordered by name.
func (v *View) Holds() iter.Seq[*catalog.Hold] { return v.holds.all() }

// Hold is the hold of that name, nil when there is none.
func (v *View) Hold(name string) *catalog.Hold { return v.holds.get(&catalog.Hold{Name: name}) }

// Freezes lists what is frozen, ordered by scope.
func (v *View) Freezes() iter.Seq[*catalog.Freeze] { return v.freezes.all() }

// SetRules puts the documents in force, with their rows.
func (b *Builder) SetRules(r *regions.Rules, policies []*catalog.Policy, holds []*catalog.Hold, freezes []*catalog.Freeze) {
	b.rules = r
	b.dirty = true
	replace(b, Policies, &b.policies, policies, func(a, b *catalog.Policy) bool { return *a == *b })
	replace(b, Holds, &b.holds, holds, func(a, b *catalog.Hold) bool {
		return a.Revision == b.Revision && a.Releasing == b.Releasing && reflect.DeepEqual(a.Where, b.Where)
	})
	replace(b, Freezes, &b.freezes, freezes, func(a, b *catalog.Freeze) bool { return *a == *b })
}

// replace makes a table hold these rows and no others; watchers hear of those
// that differ.
func replace[T any](b *Builder, resource string, t *rows[T], to []*T, same func(a, b *T) bool) {
	for _, old := range slices.Collect(t.all()) {
		if !slices.ContainsFunc(to, func(r *T) bool { return t.key(r) == t.key(old) }) {
			remove(b, resource, t, old)
		}
	}
	for _, r := range to {
		if old := t.get(r); old == nil || !same(old, r) {
			put(b, resource, t, r, false)
		}
	}
}

// SetTerm puts the number of the hub's right to decide.
func (b *Builder) SetTerm(n uint64) {
	b.term, b.dirty = n, true
	b.touched[Regions] = true
}

// SetTold notes whether a region has told everything in this hub's life.
func (b *Builder) SetTold(region string, told bool) {
	if b.told[region] == told {
		return
	}
	b.told = maps.Clone(b.told)
	if b.told == nil {
		b.told = map[string]bool{}
	}
	b.told[region] = told
	b.touched[Regions] = true
}

// KindAt is the kind of the placement at a slot, without making its row.
func (v *View) KindAt(s table.Slot) catalog.Kind {
	c, i := v.fleet.At(s)
	if c == nil {
		return ""
	}
	return catalog.Kind(v.fleet.Class(c.Class(i)).Stored(kindCol).Text)
}
