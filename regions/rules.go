package regions

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Rules are the documents that people applied and what they froze, as one
// value. It never changes: each change gives a new one, so whoever holds one
// sees what was in force at one moment. The zero value permits nothing.
type Rules struct {
	// Number counts changes of documents: 0 when none was ever applied. A
	// document's revision is the number with which it became what it is.
	Number   uint64
	Policies []Policy // by name
	Holds    []Hold   // by name
	Freezes  []Freeze // by scope
	// Released are the names of holds that agents enforced and that were released:
	// what is left of them in buckets may go. Sorted.
	Released []string
}

// Applied says with which revision a document became what it is, by whom and
// when (the hub's clock).
type Applied struct {
	Revision uint64    `json:"revision"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	// Source is the document as YAML that [ParseDocuments] reads again.
	Source string `json:"source"`
}

// Freeze stops everything irreversible in a scope until somebody thaws it.
type Freeze struct {
	Scope string    `json:"scope"` // see [CheckScope]
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Why   string    `json:"why,omitempty"`
	// Lost are the regions that have lost the slate's last restore point, for a
	// freeze that nobody asked for; empty: a person did.
	Lost []string `json:"lost,omitempty"`
}

// FreezeAll is the scope of everything.
const FreezeAll = "all"

// The beginnings of narrower scopes.
const (
	freezeRegion = "region/"
	FreezeSlate  = "slate/" // of a slate's name
)

// CheckScope refuses what is no scope of a freeze: all, region/NAME or
// slate/NAME.
func CheckScope(scope string) error {
	name, region := strings.CutPrefix(scope, freezeRegion)
	slate, ok := strings.CutPrefix(scope, FreezeSlate)
	switch {
	case scope == FreezeAll || ok && slate != "" && len(slate) <= 1024 && !strings.ContainsFunc(slate, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil
	case region:
		return CheckName(name)
	}
	return fmt.Errorf("scope %q: all, region/NAME or slate/NAME: %w", scope, ErrInvalid)
}

// Covers reports whether the freeze is about a slate that is in these regions.
func (f *Freeze) Covers(slate string, in []string) bool {
	if name, ok := strings.CutPrefix(f.Scope, freezeRegion); ok {
		return slices.Contains(in, name)
	}
	return f.Scope == FreezeAll || f.Scope == FreezeSlate+slate
}

// Change is what became of one document.
type Change struct {
	Kind     string `json:"kind" doc:"Policy or Hold."`
	Name     string `json:"name"`
	Revision uint64 `json:"revision" doc:"With which the document became what it is."`
	Change   string `json:"change" doc:"created, configured, unchanged or removed."`
}

// What can become of a document.
const (
	Created    = "created"
	Configured = "configured"
	Unchanged  = "unchanged"
	Removed    = "removed"
)

// The kinds of documents.
const (
	KindPolicy = "Policy"
	KindHold   = "Hold"
)

// Apply gives the rules with all documents of a file, or refuses all of them:
// one that names a region which the set does not have may be the one that was
// meant to hold something back. The error is a *[DocumentError] that wraps
// [ErrInvalid]. A document that says what it said before keeps its revision.
func (r *Rules) Apply(d Documents, set Set, by string, at time.Time) (*Rules, []Change, error) {
	if err := d.CheckIn(set); err != nil {
		return nil, nil, err
	}
	next := r.clone()
	next.Number++
	stamp := func(source string) Applied { return Applied{next.Number, by, at.UTC(), source} }
	var changes []Change
	for _, p := range d.Policies {
		i, found := slices.BinarySearchFunc(next.Policies, p.Name, func(p Policy, n string) int { return strings.Compare(p.Name, n) })
		change := Change{KindPolicy, p.Name, next.Number, Created}
		switch {
		case !found:
			p.Applied = stamp(p.Applied.Source)
			next.Policies = slices.Insert(next.Policies, i, p)
		case next.Policies[i].Applied.Source == p.Applied.Source:
			change.Change, change.Revision = Unchanged, next.Policies[i].Applied.Revision
		default:
			p.Applied = stamp(p.Applied.Source)
			next.Policies[i], change.Change = p, Configured
		}
		changes = append(changes, change)
	}
	for _, h := range d.Holds {
		next.Released = slices.DeleteFunc(next.Released, func(n string) bool { return n == h.Name })
		i, found := slices.BinarySearchFunc(next.Holds, h.Name, func(h Hold, n string) int { return strings.Compare(h.Name, n) })
		change := Change{KindHold, h.Name, next.Number, Created}
		switch {
		case !found:
			h.Applied = stamp(h.Applied.Source)
			next.Holds = slices.Insert(next.Holds, i, h)
		case next.Holds[i].Applied.Source == h.Applied.Source && next.Holds[i].Releasing == "":
			change.Change, change.Revision = Unchanged, next.Holds[i].Applied.Revision
		case next.Holds[i].Legal && !h.covers(&next.Holds[i]):
			return nil, nil, d.at(KindHold, h.Name, "metadata.name", fmt.Errorf("legal hold %s may be widened and not narrowed: apply one that holds at least as much, or release it: %w", h.Name, ErrInvalid))
		default:
			h.Applied = stamp(h.Applied.Source)
			next.Holds[i], change.Change = h, Configured
		}
		changes = append(changes, change)
	}
	if !slices.ContainsFunc(changes, func(c Change) bool { return c.Change != Unchanged }) {
		return r, changes, nil
	}
	return next, changes, nil
}

// covers reports whether h surely holds all that o does. It may say no where a
// closer look would say yes.
func (h *Hold) covers(o *Hold) bool {
	same := func(a, b []string) bool { return slices.Equal(a, b) }
	names := len(h.Select.Names) == 1 && h.Select.Names[0] == "*" && len(h.Select.Labels) == 0 && len(h.Select.Kinds) == 0 && len(h.Select.Regions) == 0 && h.Select.Except == nil
	selects := names || same(h.Select.Names, o.Select.Names) && same(h.Select.Regions, o.Select.Regions) && slices.Equal(h.Select.Kinds, o.Select.Kinds) &&
		equalLabels(h.Select.Labels, o.Select.Labels) && (h.Select.Except == nil || o.Select.Except != nil && equalExcept(h.Select.Except, o.Select.Except))
	scope := len(h.Scope) == 0 || slices.Contains(h.Scope, ActionAll) ||
		len(o.Scope) > 0 && !slices.ContainsFunc(o.Scope, func(a Action) bool { return !slices.Contains(h.Scope, a) })
	until := h.Until == nil || o.Until != nil && !h.Until.Before(*o.Until)
	enforce := h.Enforce == o.Enforce || o.Enforce == ""
	return h.Legal && selects && scope && until && enforce && h.From.Position <= o.From.Position
}

func equalLabels(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func equalExcept(a, b *Except) bool {
	return equalLabels(a.Labels, b.Labels) && slices.Equal(a.Kinds, b.Kinds) && slices.Equal(a.Names, b.Names)
}

// RemovePolicy gives the rules without a policy. The error wraps
// fs.ErrNotExist when there is none of that name.
func (r *Rules) RemovePolicy(name string) (*Rules, error) {
	i := slices.IndexFunc(r.Policies, func(p Policy) bool { return p.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("policy %s: %w", name, fs.ErrNotExist)
	}
	next := r.clone()
	next.Number++
	next.Policies = slices.Delete(next.Policies, i, i+1)
	return next, nil
}

// Release gives the rules without a hold, at a person's word. A legal hold
// needs two people: the first is remembered, and done is false. The error wraps
// fs.ErrNotExist when there is no such hold, [ErrSecondPerson] when the one who
// asked first asks again.
func (r *Rules) Release(name, by string) (next *Rules, done bool, err error) {
	i := slices.IndexFunc(r.Holds, func(h Hold) bool { return h.Name == name })
	if i < 0 {
		return nil, false, fmt.Errorf("hold %s: %w", name, fs.ErrNotExist)
	}
	h := &r.Holds[i]
	next = r.clone()
	switch {
	case h.Legal && h.Releasing == "":
		next.Holds[i].Releasing = by
		return next, false, nil
	case h.Legal && h.Releasing == by:
		return nil, false, fmt.Errorf("%s has asked for the release of legal hold %s already: %w", by, name, ErrSecondPerson)
	}
	next.Number++
	if h.Enforce != "" {
		next = next.WithReleased(name)
	}
	next.Holds = slices.Delete(next.Holds, i, i+1)
	return next, true, nil
}

// WithReleased gives the rules with a hold of that name known as released.
func (r *Rules) WithReleased(name string) *Rules {
	next := r.clone()
	if i, found := slices.BinarySearch(next.Released, name); !found {
		next.Released = slices.Insert(next.Released, i, name)
	}
	return next
}

// Frozen gives the rules with a freeze; one of the same scope is replaced. The
// error wraps [ErrInvalid].
func (r *Rules) Frozen(f Freeze) (*Rules, error) {
	if err := CheckScope(f.Scope); err != nil {
		return nil, err
	}
	next := r.clone()
	i, found := slices.BinarySearchFunc(next.Freezes, f.Scope, func(f Freeze, s string) int { return strings.Compare(f.Scope, s) })
	if found {
		next.Freezes[i] = f
	} else {
		next.Freezes = slices.Insert(next.Freezes, i, f)
	}
	return next, nil
}

// Thawed gives the rules without a freeze. The error wraps fs.ErrNotExist when
// nothing is frozen by exactly that scope.
func (r *Rules) Thawed(scope string) (*Rules, error) {
	i := slices.IndexFunc(r.Freezes, func(f Freeze) bool { return f.Scope == scope })
	if i < 0 {
		return nil, fmt.Errorf("a freeze of %s: %w", scope, fs.ErrNotExist)
	}
	next := r.clone()
	next.Freezes = slices.Delete(next.Freezes, i, i+1)
	return next, nil
}

// CheckIn refuses a region set with which a policy could not be satisfied.
func (r *Rules) CheckIn(set Set) error {
	for i := range r.Policies {
		if err := r.Policies[i].CheckIn(set); err != nil {
			return err
		}
	}
	return nil
}

// Requires names the policies that wait for a region before history is cut.
func (r *Rules) Requires(region string) []string {
	var out []string
	for i := range r.Policies {
		if p := &r.Policies[i]; p.Trim != nil && p.Select.InRegion(region) {
			out = append(out, p.Name)
		}
	}
	return out
}

// Retire gives the set with a region that agrees to nothing any more, by a
// person's word. Where a policy requires the region two people have to agree:
// done is false when this was the first of them, which the set then remembers.
// The error wraps fs.ErrNotExist, fs.ErrExist, [ErrSecondPerson], or
// [ErrMembership] when a policy could not be satisfied without the region.
func (r *Rules) Retire(set Set, region, by string) (next Set, done bool, err error) {
	next = set.Clone()
	known := next.Get(region)
	switch {
	case known == nil:
		return Set{}, false, fmt.Errorf("region %s is not in the region set: %w", region, fs.ErrNotExist)
	case known.Membership == catalog.Retired:
		return Set{}, false, fmt.Errorf("region %s is retired: %w", region, fs.ErrExist)
	}
	first := known.Retiring
	known.Membership, known.Retiring = catalog.Retired, ""
	// A policy that could not be satisfied without it is changed first: nobody
	// retires a region and finds out later what waits for ever.
	if err := r.CheckIn(next); err != nil {
		return Set{}, false, fmt.Errorf("without region %s a policy cannot be satisfied; change it first: %w: %w", region, err, ErrMembership)
	}
	need := r.Requires(region)
	switch {
	case len(need) == 0:
		return next, true, nil
	case first == "":
		next = set.Clone()
		next.Get(region).Retiring = by
		return next, false, nil
	case first == by:
		return Set{}, false, fmt.Errorf("%s has asked already that region %s retires, which policy %s requires: %w", by, region, need[0], ErrSecondPerson)
	}
	return next, true, nil
}

// Policy is the one of that name; nil when there is none.
func (r *Rules) Policy(name string) *Policy {
	if i := slices.IndexFunc(r.Policies, func(p Policy) bool { return p.Name == name }); i >= 0 {
		return &r.Policies[i]
	}
	return nil
}

// Hold is the one of that name; nil when there is none.
func (r *Rules) Hold(name string) *Hold {
	if i := slices.IndexFunc(r.Holds, func(h Hold) bool { return h.Name == name }); i >= 0 {
		return &r.Holds[i]
	}
	return nil
}

func (r *Rules) clone() *Rules {
	next := *r
	next.Policies, next.Holds, next.Freezes, next.Released = slices.Clone(r.Policies), slices.Clone(r.Holds), slices.Clone(r.Freezes), slices.Clone(r.Released)
	return &next
}
