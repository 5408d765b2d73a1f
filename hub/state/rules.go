package state

import (
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// Command is a person's word about what may be done: one of the types below.
// Its refusal is [Ready.Err]; otherwise it is in force in the same step, and
// [Ready.Records] says so.
type Command interface {
	Event
	enact(*State) error
}

// ApplyDocuments puts policies and holds in force: all of them, or none.
type ApplyDocuments struct {
	Documents regions.Documents
	By        string
	// Changes, when it is not nil, gets what became of each document.
	Changes *[]regions.Change
	// Withdrawn, when it is not nil, gets the permits that are withdrawn by it,
	// those that agents had carried out among them.
	Withdrawn *[]Withdrawal
}

// RemovePolicy takes a policy out of force. What only it permitted is not
// permitted any more.
type RemovePolicy struct {
	Name, By, Why string
	Withdrawn     *[]Withdrawal // as of [ApplyDocuments]
}

// ReleaseHold ends a hold. A legal one needs the word of two people.
type ReleaseHold struct {
	Name, By, Why string
	// Waits, when it is not nil, is set to whether another person has to agree.
	Waits *bool
}

// Freeze stops everything irreversible in a scope.
type Freeze struct {
	Scope, By, Why string
	Withdrawn      *[]Withdrawal // as of [ApplyDocuments]
}

// Thaw ends a freeze of exactly that scope.
type Thaw struct{ Scope, By, Why string }

// JoinRegion takes a region into the set as joining, or with Active makes one
// of it that atLeast counts. Of a region that one person wants to retire it takes
// that word back.
type JoinRegion struct {
	Region, By string
	Active     bool
}

// RetireRegion has a region agree to nothing any more. Its agents are refused;
// its rows stay as they were last seen. A region that a policy requires needs
// the word of two people.
type RetireRegion struct {
	Region, By, Why string
	// Waits, when it is not nil, is set to whether another person has to agree.
	Waits *bool
}

func (ApplyDocuments) event() {}
func (RemovePolicy) event()   {}
func (ReleaseHold) event()    {}
func (Freeze) event()         {}
func (Thaw) event()           {}
func (JoinRegion) event()     {}
func (RetireRegion) event()   {}

// Rules are the documents in force.
func (s *State) Rules() *regions.Rules { return s.rules }

func (e ApplyDocuments) enact(s *State) error {
	next, changes, err := s.rules.Apply(e.Documents, s.set, e.By, s.wall)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if c.Change == regions.Unchanged {
			continue
		}
		what, typ := "policy", catalog.EventPolicyApplied
		if c.Kind == regions.KindPolicy {
			s.record(policyKey(c.Name), documentOf(c.Kind, c.Name, "", next.Policy(c.Name).Applied))
		} else {
			what, typ = "hold", catalog.EventHoldApplied
			s.record(holdKey(c.Name), documentOf(c.Kind, c.Name, "", next.Hold(c.Name).Applied))
			if slices.Contains(s.rules.Released, c.Name) {
				s.out.Records = append(s.out.Records, Record{Key: releasedKey(c.Name)})
			}
		}
		s.deed(typ, e.By, "", c.Name, fmt.Sprintf("%s %s was %s, revision %d", what, c.Name, c.Change, c.Revision))
	}
	s.adoptRules(next)
	if e.Changes != nil {
		*e.Changes = changes
	}
	s.narrow(e.By, "", e.Withdrawn)
	return nil
}

func (e RemovePolicy) enact(s *State) error {
	next, err := s.rules.RemovePolicy(e.Name)
	if err != nil {
		return err
	}
	s.out.Records = append(s.out.Records, Record{Key: policyKey(e.Name)})
	s.deed(catalog.EventPolicyRemoved, e.By, e.Why, e.Name, fmt.Sprintf("policy %s was removed", e.Name))
	s.adoptRules(next)
	s.narrow(e.By, e.Why, e.Withdrawn)
	return nil
}

func (e ReleaseHold) enact(s *State) error {
	next, done, err := s.rules.Release(e.Name, e.By)
	if err != nil {
		return err
	}
	if e.Waits != nil {
		*e.Waits = !done
	}
	if !done {
		s.record(holdKey(e.Name), documentOf(regions.KindHold, e.Name, e.By, next.Hold(e.Name).Applied))
		s.deed(catalog.EventHoldReleased, e.By, e.Why, e.Name, fmt.Sprintf("the release of legal hold %s was asked for; another person has to agree", e.Name))
	} else {
		s.out.Records = append(s.out.Records, Record{Key: holdKey(e.Name)})
		if slices.Contains(next.Released, e.Name) {
			s.record(releasedKey(e.Name), releasedRecord{Version: recordVersion, Name: e.Name, By: e.By, At: s.wall})
		}
		s.deed(catalog.EventHoldReleased, e.By, e.Why, e.Name, fmt.Sprintf("hold %s was released", e.Name))
	}
	s.adoptRules(next)
	return nil
}

func (e Freeze) enact(s *State) error {
	f := regions.Freeze{Scope: e.Scope, By: e.By, At: s.wall, Why: e.Why}
	next, err := s.rules.Frozen(f)
	if err != nil {
		return err
	}
	s.record(freezeKey(e.Scope), freezeRecord{Version: recordVersion, Freeze: f})
	s.deed(catalog.EventFrozen, e.By, e.Why, e.Scope, e.Scope+" was frozen")
	s.adoptRules(next)
	s.narrow(e.By, e.Why, e.Withdrawn)
	return nil
}

func (e Thaw) enact(s *State) error {
	next, err := s.rules.Thawed(e.Scope)
	if err != nil {
		return err
	}
	for l := range s.losing {
		if regions.FreezeSlate+l.slate == e.Scope {
			delete(s.losing, l)
		}
	}
	s.out.Records = append(s.out.Records, Record{Key: freezeKey(e.Scope)})
	s.deed(catalog.EventThawed, e.By, e.Why, e.Scope, e.Scope+" was thawed")
	s.adoptRules(next)
	return nil
}

func (e JoinRegion) enact(s *State) error {
	if err := regions.CheckName(e.Region); err != nil {
		return err
	}
	to := catalog.Joining
	if e.Active {
		to = catalog.Active
	}
	set, known := s.set.Clone(), s.set.Get(e.Region)
	if known != nil && known.Retiring != "" && known.Membership == to {
		set.Get(e.Region).Retiring = ""
		s.retiring(set, e.Region, catalog.EventRegionStays, firstOf(e.By, "somebody"), "", fmt.Sprintf("region %s stays %s; %s had asked that it retires", e.Region, to, known.Retiring))
		return nil
	}
	switch {
	case known == nil && e.Active:
		return fmt.Errorf("region %s is not in the region set; it joins first: %w", e.Region, fs.ErrNotExist)
	case known == nil:
		set.Insert(regions.Region{Name: e.Region, Membership: to})
	case known.Membership == to:
		return fmt.Errorf("region %s is %s: %w", e.Region, to, fs.ErrExist)
	case known.Membership == catalog.Retired && e.Active:
		return fmt.Errorf("region %s is retired; it joins first: %w", e.Region, ErrMembership)
	case known.Membership == catalog.Active:
		return fmt.Errorf("region %s is active, which is more than joining: %w", e.Region, fs.ErrExist)
	default:
		r := set.Get(e.Region)
		r.Membership, r.Retiring = to, ""
	}
	if err := set.Validate(); err != nil {
		return err
	}
	typ := catalog.EventRegionJoining
	if e.Active {
		typ = catalog.EventRegionActive
	}
	s.member(set, e.Region, to, typ, e.By, "")
	return nil
}

func (e RetireRegion) enact(s *State) error {
	by := firstOf(e.By, "somebody")
	set, done, err := s.rules.Retire(s.set, e.Region, by)
	if err != nil {
		return err
	}
	if e.Waits != nil {
		*e.Waits = !done
	}
	if !done {
		s.retiring(set, e.Region, catalog.EventRegionRetiring, by, e.Why, fmt.Sprintf("%s asks that region %s retires; another person has to agree, for policy %s requires it", by, e.Region, s.rules.Requires(e.Region)[0]))
		return nil
	}
	s.member(set, e.Region, catalog.Retired, catalog.EventRegionRetired, e.By, e.Why)
	s.out.Then = retired(e)
	return nil
}

// retiring takes down, or back, that one of two people asked for a region's end.
func (s *State) retiring(set regions.Set, name, typ, by, why, what string) {
	r := set.Get(name)
	set.Why = what
	s.set, s.setDone = set, false
	s.stirred[name] = true
	s.record(regionKey(name), regionRecord{Version: recordVersion, Name: name, Membership: r.Membership, Number: set.Number + 1, Retiring: r.Retiring})
	s.emit(catalog.Event{Type: typ, Region: name, After: by, What: withWhy(what, why)})
	s.auditDeed(typ, by, why, name, what)
}

// retired is a [RetireRegion] that is durable: its agents hear of it.
type retired RetireRegion

func (retired) event() {}

func (s *State) sendAway(e retired) {
	r := s.regions[e.Region]
	for _, n := range sortedKeys(r.clusters) {
		if p := r.clusters[n].session; p != nil {
			s.send(p.id, Refuse{Why: fmt.Sprintf("region %s is retired: stop its agents", r.name)})
			s.drop(p)
			s.showCluster(r.clusters[n])
		}
	}
}

// member changes a region's membership.
func (s *State) member(set regions.Set, name string, to catalog.Membership, typ, by, why string) {
	was := "none"
	if known := s.set.Get(name); known != nil {
		was = string(known.Membership)
	}
	set.Why = fmt.Sprintf("%s made %s %s", firstOf(by, "somebody"), name, to)
	s.set, s.setDone = set, false
	if s.regions[name] == nil {
		s.addRegion(name)
		s.names = s.set.Names()
	}
	s.stirred[name] = true
	// The ledger's word counts: a set whose object was not written any more is
	// put right from it at the next start.
	s.record(regionKey(name), regionRecord{Version: recordVersion, Name: name, Membership: to, Number: set.Number + 1})
	s.emit(catalog.Event{Type: typ, Region: name, Before: was, After: by, What: withWhy(fmt.Sprintf("region %s is %s, was %s", name, to, was), why)})
	s.auditDeed(typ, by, why, name, fmt.Sprintf("it was %s", was))
}

// deed tells what a person did in the event log.
func (s *State) deed(typ, by, why, about, what string) {
	s.emit(catalog.Event{Type: typ, Slate: "", Before: about, After: by, What: withWhy(what, why)})
	s.auditDeed(typ, by, why, about, what)
}

func withWhy(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// adoptRules puts rules in force.
func (s *State) adoptRules(next *regions.Rules) {
	if next == s.rules {
		return
	}
	if next.Number != s.rules.Number {
		s.record(revisionKey, revisionRecord{Version: recordVersion, Revision: next.Number})
	}
	s.rules = next
	s.showRules()
}

// showRules has the rows of the view say what is in force.
func (s *State) showRules() {
	var policies []*catalog.Policy
	for i := range s.rules.Policies {
		p := &s.rules.Policies[i]
		policies = append(policies, &catalog.Policy{
			Name: p.Name, Revision: p.Applied.Revision, Owner: p.Owner, Selects: p.Select.String(), Trims: trims(p),
			PerRegion: uint64(p.RestorePoints.PerRegion), AppliedBy: p.Applied.By, AppliedAt: p.Applied.At, Document: p.Applied.Source,
		})
	}
	var holds []*catalog.Hold
	for i := range s.rules.Holds {
		h := &s.rules.Holds[i]
		row := &catalog.Hold{
			Name: h.Name, Revision: h.Applied.Revision, Selects: h.Select.String(), Scope: []string{}, From: h.From.Position, Until: h.Until,
			Legal: h.Legal, Enforce: h.Enforce, Why: h.Reason, Releasing: h.Releasing, AppliedBy: h.Applied.By, AppliedAt: h.Applied.At, Document: h.Applied.Source,
		}
		for _, a := range h.Scope {
			row.Scope = append(row.Scope, string(a))
		}
		if len(row.Scope) == 0 {
			row.Scope = []string{string(regions.ActionAll)}
		}
		row.Where, row.HeldBytes = s.whereHeld(h.Name)
		holds = append(holds, row)
	}
	var freezes []*catalog.Freeze
	for _, f := range s.rules.Freezes {
		freezes = append(freezes, &catalog.Freeze{Scope: f.Scope, By: f.By, At: f.At.Round(0).In(time.UTC), Why: f.Why})
	}
	s.b.SetRules(s.rules, policies, holds, freezes)
}

// trims says in words which regions must have archived.
func trims(p *regions.Policy) string {
	if p.Trim == nil {
		return ""
	}
	r := p.Trim.Require
	out := "all"
	if !r.All {
		out = fmt.Sprintf("at least %d", r.AtLeast)
	}
	for i, n := range r.Include {
		if i == 0 {
			out += " with "
		} else {
			out += ", "
		}
		out += n
	}
	return out
}
