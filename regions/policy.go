package regions

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Policy is what people want kept and allow to be done with the slates it
// selects. Where several select a slate the most restrictive wins; a slate
// that none selects is left alone.
type Policy struct {
	Name  string `yaml:"-" json:"name"`
	Owner string `yaml:"-" json:"owner,omitempty"`
	// Applied is of a policy among [Rules]; one that was only read has its
	// Source.
	Applied Applied `yaml:"-" json:"-"`

	Select Select `yaml:"select" json:"select"`
	// Trim: nil permits no trimming.
	Trim          *Trim         `yaml:"trim" json:"trim,omitempty"`
	RestorePoints RestorePoints `yaml:"restorePoints" json:"restorePoints"`
	// Delete: nil permits no deletion.
	Delete *Delete `yaml:"delete" json:"delete,omitempty"`
	Seed   *Seed   `yaml:"seed" json:"seed,omitempty"`
	// Windows say when actions may be taken; none: always.
	Windows []Window `yaml:"windows" json:"windows,omitempty"`
	Limits  *Limits  `yaml:"limits" json:"limits,omitempty"`
}

// Select says which slates a policy or hold is about: all that is given must
// apply, and what is not given does not restrict.
type Select struct {
	Labels  map[string]string `yaml:"labels" json:"labels,omitempty"` // each with this value
	Kinds   []catalog.Kind    `yaml:"kinds" json:"kinds,omitempty"`   // one of them
	Regions []string          `yaml:"regions" json:"regions,omitempty"`
	Names   []string          `yaml:"names" json:"names,omitempty"`
	// Except takes out what it matches, all of whose fields must apply.
	Except *Except `yaml:"except" json:"except,omitempty"`
}

// Except is what a selection leaves out.
type Except struct {
	Labels map[string]string `yaml:"labels" json:"labels,omitempty"`
	Kinds  []catalog.Kind    `yaml:"kinds" json:"kinds,omitempty"`
	Names  []string          `yaml:"names" json:"names,omitempty"`
}

// Trim says how much of a slate's history must be archived before it may be
// cut.
type Trim struct {
	Require   Require `yaml:"require" json:"require"`
	SafetyGap Gap     `yaml:"safetyGap" json:"safetyGap"`
	// KeepNewest is kept whatever is archived.
	KeepNewest Gap     `yaml:"keepNewest" json:"keepNewest"`
	MaxLag     *MaxLag `yaml:"maxLag" json:"maxLag,omitempty"`
}

// Require says which regions must have archived: every one that the policy's
// selection matches, or at least so many of them. Joining regions are required
// beside atLeast; those of Include bound the result from above.
type Require struct {
	All     bool     `yaml:"all" json:"all,omitempty"`
	AtLeast int      `yaml:"atLeast" json:"atLeast,omitempty"`
	Include []string `yaml:"include" json:"include,omitempty"`
}

// Gap is an amount of history: the larger of both counts.
type Gap struct {
	Positions uint64   `yaml:"positions" json:"positions,omitempty"`
	Age       Duration `yaml:"age" json:"age,omitempty"`
}

// MaxLag says how far a region's archive may be behind, and what then.
type MaxLag struct {
	Positions uint64   `yaml:"positions" json:"positions,omitempty"`
	Age       Duration `yaml:"age" json:"age,omitempty"`
	Then      Then     `yaml:"then" json:"then"`
}

// Then is what follows a lag.
type Then string

// What can follow a lag.
const (
	ThenAlert           Then = "alert"
	ThenBlock           Then = "block"
	ThenRequestSnapshot Then = "request-snapshot"
)

// RestorePoints says how many restore points are kept.
type RestorePoints struct {
	// PerRegion verified ones in each required region; 1 when not given. The
	// archived position of a region is that of its PerRegion-th newest.
	PerRegion      int      `yaml:"perRegion" json:"perRegion"`
	Total          int      `yaml:"total" json:"total,omitempty"` // over all regions
	MaxAgeOfNewest Duration `yaml:"maxAgeOfNewest" json:"maxAgeOfNewest,omitempty"`
	Keep           Keep     `yaml:"keep" json:"keep"`
	SweepOrphans   Sweep    `yaml:"sweepOrphans" json:"sweepOrphans"`
}

// Keep says of how many hours, days and weeks (UTC) that have any the newest
// verified restore point is kept, beside those of PerRegion. All zero: nothing
// is ever removed.
type Keep struct {
	Hourly int `yaml:"hourly" json:"hourly,omitempty"`
	Daily  int `yaml:"daily" json:"daily,omitempty"`
	Weekly int `yaml:"weekly" json:"weekly,omitempty"`
}

// Sweep says whether and when folders that no pointer lists are removed.
type Sweep struct {
	OlderThan Duration `yaml:"olderThan" json:"olderThan,omitempty"`
	Enabled   bool     `yaml:"enabled" json:"enabled,omitempty"`
}

// Delete says what a deletion needs. It is validated; no rule reads it yet.
type Delete struct {
	Requires   []string  `yaml:"requires" json:"requires,omitempty"`
	Quiet      Duration  `yaml:"quiet" json:"quiet,omitempty"`
	UndoWindow Duration  `yaml:"undoWindow" json:"undoWindow,omitempty"`
	Approvals  Approvals `yaml:"approvals" json:"approvals"`
	Final      *Final    `yaml:"final" json:"final,omitempty"`
}

// Approvals is how many people of which groups must agree.
type Approvals struct {
	Count  int      `yaml:"count" json:"count,omitempty"`
	Groups []string `yaml:"groups" json:"groups,omitempty"`
}

// Final is the archive a deletion leaves.
type Final struct {
	ArchiveTo string `yaml:"archiveTo" json:"archiveTo"`
	Proof     string `yaml:"proof" json:"proof,omitempty"`
}

// Seed says how a region is brought up. It is validated; no rule reads it yet.
type Seed struct {
	Sources           string `yaml:"sources" json:"sources,omitempty"`
	MaxBytesPerSecond Size   `yaml:"maxBytesPerSecond" json:"maxBytesPerSecond,omitempty"`
	Concurrency       int    `yaml:"concurrency" json:"concurrency,omitempty"`
	Verify            string `yaml:"verify" json:"verify,omitempty"`
}

// Limits bound how much may be done in an hour before a person is asked.
type Limits struct {
	PerHour PerHour `yaml:"perHour" json:"perHour"`
	Breaker Breaker `yaml:"breaker" json:"breaker"`
}

// PerHour bounds one hour's actions.
type PerHour struct {
	Slates       int     `yaml:"slates" json:"slates,omitempty"`
	BytesPercent float64 `yaml:"bytesPercent" json:"bytesPercent,omitempty"`
}

// Breaker says how long a person's word that a mass of actions is meant holds.
type Breaker struct {
	AckTTL Duration `yaml:"ackTTL" json:"ackTTL,omitempty"`
}

// Hold keeps the history of the slates it selects, whatever policies permit. It
// is a document of its own, with a permission of its own.
type Hold struct {
	Name    string  `yaml:"-" json:"name"`
	Applied Applied `yaml:"-" json:"-"` // as of a [Policy]
	// Releasing is who asked first for the release of a legal hold.
	Releasing string `yaml:"-" json:"-"`

	Select Select `yaml:"select" json:"select"`
	// Scope is what it forbids; none given: everything.
	Scope []Action `yaml:"scope" json:"scope,omitempty"`
	From  From     `yaml:"from" json:"from"`
	// Until is "released" or a moment; nil is "released".
	Until *time.Time `yaml:"-" json:"until,omitempty"`
	Legal bool       `yaml:"legal" json:"legal,omitempty"`
	// Enforce is "checkpoint" when the region's agents also hold it with a
	// SlateDB checkpoint.
	Enforce string `yaml:"enforce" json:"enforce,omitempty"`
	// Reason is why, for people and the record.
	Reason string `yaml:"reason" json:"reason,omitempty"`
}

// From is where the history that a hold keeps begins.
type From struct {
	Position uint64 `yaml:"position" json:"position"`
}

// Action is something that a window or a hold is about.
type Action string

// The actions.
const (
	ActionTrim   Action = "trim"
	ActionPrune  Action = "prune"
	ActionDelete Action = "delete"
	ActionSeed   Action = "seed"
	ActionAll    Action = "all"
)

// Forbids reports whether the hold is about an action at a time.
func (h *Hold) Forbids(a Action, now time.Time) bool {
	if h.Until != nil && !now.Before(*h.Until) {
		return false
	}
	return len(h.Scope) == 0 || slices.Contains(h.Scope, a) || slices.Contains(h.Scope, ActionAll)
}

// Subject is what a selection looks at: a slate's name, its kind, and the
// labels its owner declared.
type Subject struct {
	Name   string
	Kind   catalog.Kind
	Labels map[string]string
}

// Matches reports whether the selection is about s. Its regions say which of
// the slate's regions it is about: ask [Select.InRegion].
func (s *Select) Matches(o Subject) bool {
	if !fits(s.Labels, s.Kinds, s.Names, o) {
		return false
	}
	e := s.Except
	return e == nil || !fits(e.Labels, e.Kinds, e.Names, o)
}

// Named reports whether the selection may be about a slate of that name.
func (s *Select) Named(name string) bool {
	return len(s.Names) == 0 || slices.ContainsFunc(s.Names, func(g string) bool { return Glob(g, name) })
}

// InRegion reports whether the selection is about a region.
func (s *Select) InRegion(region string) bool {
	return len(s.Regions) == 0 || slices.ContainsFunc(s.Regions, func(g string) bool { return Glob(g, region) })
}

func fits(labels map[string]string, kinds []catalog.Kind, names []string, o Subject) bool {
	for k, v := range labels {
		if have, ok := o.Labels[k]; !ok || have != v {
			return false
		}
	}
	return (len(kinds) == 0 || slices.Contains(kinds, o.Kind)) &&
		(len(names) == 0 || slices.ContainsFunc(names, func(g string) bool { return Glob(g, o.Name) }))
}

// Glob reports whether a name is one that a pattern means: '*' stands for any
// run of characters, '/' among them, and '?' for one.
func Glob(pattern, name string) bool {
	star, back := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, back = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p, n = p+1, n+1
		case star >= 0:
			back++
			p, n = star+1, back
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// Required are the regions of the set that the policy requires to have
// archived a slate: all active and joining ones that its selection matches,
// whether the slate is there or not. In order of their names.
func (p *Policy) Required(set Set) []Region {
	var out []Region
	for _, r := range set.Regions {
		if r.Membership != catalog.Retired && p.Select.InRegion(r.Name) {
			out = append(out, r)
		}
	}
	return out
}

// CheckIn refuses a policy that names a region which the set does not have, or
// requires more regions than it matches. That is a matter of both, and is
// looked at when either changes.
func (p *Policy) CheckIn(set Set) error {
	if field, err := p.checkIn(set); err != nil {
		return fmt.Errorf("policy %s: %s: %w", p.Name, field, err)
	}
	return nil
}

func (p *Policy) checkIn(set Set) (field string, err error) {
	if field, err := p.Select.checkIn(set); err != nil {
		return field, err
	}
	if p.Trim == nil {
		return "", nil
	}
	required := p.Required(set)
	for i, name := range p.Trim.Require.Include {
		field := fmt.Sprintf("trim.require.include[%d]", i)
		if set.Get(name) == nil {
			return field, noRegion(name, set)
		}
		if !slices.ContainsFunc(required, func(r Region) bool { return r.Name == name }) {
			return field, fmt.Errorf("region %q is retired or not among select.regions: %w", name, ErrInvalid)
		}
	}
	active := 0
	for _, r := range required {
		if r.Membership == catalog.Active {
			active++
		}
	}
	if n := p.Trim.Require.AtLeast; n > active {
		return "trim.require.atLeast", fmt.Errorf("%d, but it matches %d active regions: %w", n, active, ErrInvalid)
	}
	return "", nil
}

// checkIn refuses a selection that names a region which the set does not have.
func (s *Select) checkIn(set Set) (field string, err error) {
	for i, g := range s.Regions {
		if !strings.ContainsAny(g, "*?") && set.Get(g) == nil {
			return fmt.Sprintf("select.regions[%d]", i), noRegion(g, set)
		}
	}
	return "", nil
}

func noRegion(name string, set Set) error {
	return fmt.Errorf("there is no region %q; there are %s: %w", name, strings.Join(set.Names(), ", "), ErrInvalid)
}

// String says in words what the selection is about.
func (s *Select) String() string {
	var parts []string
	add := func(what string, list []string) {
		if len(list) > 0 {
			parts = append(parts, what+" "+strings.Join(list, ","))
		}
	}
	add("names", s.Names)
	add("kinds", kindNames(s.Kinds))
	add("labels", labelTexts(s.Labels))
	add("regions", s.Regions)
	if e := s.Except; e != nil {
		add("except names", e.Names)
		add("except kinds", kindNames(e.Kinds))
		add("except labels", labelTexts(e.Labels))
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, "; ")
}

func kindNames(kinds []catalog.Kind) []string {
	var out []string
	for _, k := range kinds {
		out = append(out, string(k))
	}
	return out
}

func labelTexts(labels map[string]string) []string {
	var out []string
	for k, v := range labels {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}
