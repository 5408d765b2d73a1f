package state

import (
	"cmp"
	"encoding/hex"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// A hold on a SlateDB slate is a checkpoint of its own, which SlateDB's collector
// obeys whether Quarry runs or not. What asks for one, and what lets go of one,
// is here: policies that trim, documents that hold, and policies that want
// restore points when an archive falls behind. Nothing is let go by what is not
// seen any more: only by a verdict, or by a word that this ledger has.

// Held is a hold of Quarry's at a site, as its newest manifest has it.
type Held struct {
	ID, Name string
	// Purpose is catalog.PurposeTrim, catalog.PurposeRestorePoint or the name of
	// a hold's document.
	Purpose  string
	Position *uint64 // the highest that it contains; nil: not known (yet)
	Verified bool    // every object of it was seen, lately
	Since    time.Time
}

// holdable reports whether slates of a kind have checkpoints.
func holdable(k catalog.Kind) bool {
	return k != catalog.KindSnapshots && k != catalog.KindBuffer && k != ""
}

// cutByPermit reports whether the owner of a slate of that kind cuts it by what
// is permitted. Of the other SlateDB kinds the move of the hold is the trim.
func cutByPermit(k catalog.Kind) bool { return !holdable(k) || k == catalog.KindLog }

// heldAt are the holds of Quarry's at a placement. What a checkpoint contains is
// known once its restore point was told.
func heldAt(p *catalog.Placement, points []*catalog.RestorePoint) []Held {
	var out []Held
	add := func(id, name string) {
		purpose, held := heldFor(name)
		if !held {
			return
		}
		h := Held{ID: id, Name: name, Purpose: purpose}
		for _, rp := range points {
			if rp.Region == p.Region && rp.Root == p.Root && rp.ID == id && rp.PositionDomain == p.PositionDomain && rp.Lineage == p.Lineage {
				h.Position, h.Verified, h.Since = rp.Position, rp.State == catalog.RestoreVerified, rp.FirstSeen
			}
		}
		out = append(out, h)
	}
	for i := range p.Checkpoints {
		add(p.Checkpoints[i].ID, p.Checkpoints[i].Name)
	}
	if len(p.Checkpoints) >= mostCheckpoints { // the row may not have all of them
		for _, rp := range points {
			if rp.Region == p.Region && rp.Root == p.Root && !slices.ContainsFunc(out, func(h Held) bool { return h.ID == rp.ID }) {
				add(rp.ID, rp.Name)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Held) int {
		return cmp.Or(cmp.Compare(orNone(a.Position), orNone(b.Position)), a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// mostCheckpoints is how many checkpoints agents tell with a placement.
const mostCheckpoints = 300

// orNone has what is not known come last.
func orNone(n *uint64) uint64 {
	if n == nil {
		return ^uint64(0)
	}
	return *n
}

// wishesHolds are the holds that a verdict and documents ask for at each site of
// a SlateDB slate, and those that they let go of.
func wishesHolds(s *Subject, v plan.Verdict, rules *regions.Rules, m bearing) []Wish {
	if !holdable(s.Kind) || s.Domain == "" {
		return nil
	}
	h := holder{s: s, v: v, rules: rules, m: m}
	for i := range s.Sites {
		site := &s.Sites[i]
		if !site.Live || !h.seen(site) {
			continue // nobody can see what is there
		}
		h.trim(site)
		h.documents(site)
		h.demanded(site)
	}
	return h.out
}

// holder makes the wishes of one subject.
type holder struct {
	s     *Subject
	v     plan.Verdict
	rules *regions.Rules
	m     bearing
	out   []Wish
}

// seen reports whether what is known of a site is as it is now.
func (h *holder) seen(site *Site) bool {
	r := h.s.In(site.Region)
	return r != nil && r.Heard && r.Placed && r.Unreadable == "" && r.Membership != catalog.Retired &&
		(r.State == catalog.RegionConnected || r.State == catalog.RegionSuspect)
}

// wish adds a wish. What names its matter, so that what was refused is not asked
// for again and again while the head goes on.
func (h *holder) wish(site *Site, verb catalog.Verb, by PolicyRef, p catalog.Parameters, position *uint64) {
	sum := fnv.New64a()
	for _, part := range []string{h.s.Name, h.s.Lineage, site.Region, site.Root, string(verb), p.Purpose, p.Replaces, p.Checkpoint, by.Name} {
		_, _ = sum.Write([]byte(part + "\x00"))
	}
	h.out = append(h.out, Wish{
		Proposal: Proposal{Decision: catalog.Decision{
			Verb: verb, Region: site.Region, Slate: h.s.Name, Root: site.Root, Incarnation: site.Incarnation,
			Position: position, PositionDomain: h.s.Domain, Lineage: h.s.Lineage,
			Parameters: p, Evidence: h.m.evidence, Expires: decisionExpires,
		}},
		Plan: "h-" + hex.EncodeToString(sum.Sum(nil)), Policy: by,
	})
}

// of are the holds at a site for a purpose, the oldest first.
func (site *Site) of(purpose string) []Held {
	var out []Held
	for _, x := range site.Held {
		if x.Purpose == purpose {
			out = append(out, x)
		}
	}
	return out
}

// trim keeps one hold for trimming at a site that a policy trims: what it
// contains and what comes after stays until it is archived wherever it has to
// be. It goes on when the floor has reached it and there is more to hold, not
// more often than every holdEvery. The agent makes the new one first.
func (h *holder) trim(site *Site) {
	var by *regions.Policy
	for i := range h.m.policies {
		if p := &h.m.policies[i]; p.Trim != nil && p.Select.InRegion(site.Region) {
			by = p
			break
		}
	}
	if by == nil {
		return
	}
	ref := PolicyRef{by.Name, by.Applied.Revision}
	holds := site.of(catalog.PurposeTrim)
	if len(holds) == 0 {
		h.wish(site, catalog.VerbHold, ref, catalog.Parameters{Purpose: catalog.PurposeTrim}, nil)
		return
	}
	if slices.ContainsFunc(holds, func(x Held) bool { return x.Position == nil && x.Since.IsZero() }) {
		return // one was made, and was not looked at yet
	}
	i := slices.IndexFunc(holds, func(x Held) bool { return x.Position == nil })
	if i == 0 && len(holds) == 1 && site.Head != nil {
		// It was made of a log without an entry, and holds nothing of what came
		// after. Of two that say nothing a third would not say more.
		h.wish(site, catalog.VerbHold, ref, catalog.Parameters{Purpose: catalog.PurposeTrim}, nil)
	}
	if i > 0 && holds[i-1].Verified && h.s.Frozen == "" && h.s.Lost == "" && h.uncut(site) {
		h.wish(site, catalog.VerbRelease, ref, catalog.Parameters{Checkpoint: holds[i].ID, Restorable: uint64(h.m.keep())}, nil)
	}
	if i >= 0 {
		return
	}
	oldest, newest := holds[0], holds[len(holds)-1]
	if h.v.Action != plan.Permit || h.v.UpTo == nil || oldest.Position == nil || *h.v.UpTo < *oldest.Position {
		return
	}
	if len(holds) > 1 {
		// An agent was killed between the two, or the owner had cut between them:
		// then both stay until what was cut is archived everywhere.
		if newest.Verified && (h.uncut(site) || site.TrimmedTo != nil && *site.TrimmedTo <= *oldest.Position) {
			h.wish(site, catalog.VerbRelease, ref, catalog.Parameters{Checkpoint: oldest.ID, Restorable: uint64(h.m.keep())}, nil)
		}
		return
	}
	if site.Head == nil || *site.Head <= *oldest.Position || h.m.now.Sub(oldest.Since) < h.m.holdEvery {
		return
	}
	h.wish(site, catalog.VerbHold, ref, catalog.Parameters{Purpose: catalog.PurposeTrim, Replaces: oldest.ID}, site.Head)
}

// uncut reports whether nothing was cut at a site that is not archived wherever
// it has to be.
func (h *holder) uncut(site *Site) bool {
	switch {
	case h.s.Kind != catalog.KindLog:
		return true // nobody cuts it
	case site.TrimmedTo == nil:
		return site.Head != nil // it has entries, and they begin with the first
	default:
		return h.v.Action == plan.Permit && h.v.UpTo != nil && *site.TrimmedTo <= *h.v.UpTo
	}
}

// documents keeps one hold at a site for each document that asks for it, and
// lets go of those whose document is over.
func (h *holder) documents(site *Site) {
	for i := range h.rules.Holds {
		d := &h.rules.Holds[i]
		if enforced(d, h.m.now) && h.s.heldBy(d) && d.Select.InRegion(site.Region) && len(site.of(d.Name)) == 0 {
			h.wish(site, catalog.VerbHold, PolicyRef{d.Name, d.Applied.Revision}, catalog.Parameters{Purpose: d.Name}, nil)
		}
	}
	if h.s.Frozen != "" || h.s.Lost != "" {
		return // to hold is never forbidden; to let go is
	}
	for _, x := range site.Held {
		if x.Purpose == catalog.PurposeTrim || x.Purpose == catalog.PurposeRestorePoint {
			continue
		}
		ref := PolicyRef{Name: x.Purpose}
		switch d := h.rules.Hold(x.Purpose); {
		case d == nil && !slices.Contains(h.rules.Released, x.Purpose):
			continue // of another ledger, or of this one before it was set back: a person has to say
		case d == nil:
		case !d.Legal && (d.Enforce == "" || d.Until != nil && !h.m.now.Before(*d.Until) || narrowed(d, &x) && outOf(&d.Select, h.s.Name, site.Region)),
			d.Legal && d.Until != nil && !h.m.now.Before(*d.Until):
			ref.Revision = d.Applied.Revision
		default:
			continue
		}
		must := uint64(0)
		if slices.ContainsFunc(h.m.policies, func(p regions.Policy) bool { return p.Trim != nil && p.Select.InRegion(site.Region) }) {
			must = uint64(h.m.keep())
		}
		h.wish(site, catalog.VerbRelease, ref, catalog.Parameters{Checkpoint: x.ID, Restorable: must}, nil)
	}
}

// enforced reports whether a document asks for checkpoints at a moment.
func enforced(d *regions.Hold, now time.Time) bool {
	return d.Enforce == "checkpoint" && (d.Until == nil || now.Before(*d.Until))
}

// narrowed reports whether a document was applied since a hold was made. A slate
// that came to another name by a registration is let go of by nobody's word.
func narrowed(d *regions.Hold, x *Held) bool {
	return !x.Since.IsZero() && !d.Applied.At.Before(x.Since)
}

// outOf reports whether a selection surely leaves a slate in a region out. By
// labels nobody is out: they come and go with registrations (P1). Neither is it
// by its kind, which may be found out later.
func outOf(sel *regions.Select, slate, region string) bool {
	if !sel.Named(slate) || !sel.InRegion(region) {
		return true
	}
	e := sel.Except
	return e != nil && len(e.Labels) == 0 && len(e.Kinds) == 0 && len(e.Names) > 0 &&
		slices.ContainsFunc(e.Names, func(g string) bool { return regions.Glob(g, slate) })
}

// demanded asks for a restore point where the archive is too far behind and a
// policy wants one then, and lets go of those of Quarry's own that are beyond
// what policies keep. Where nothing was written there is nothing new to restore,
// however long ago the last one was made.
func (h *holder) demanded(site *Site) {
	own := site.of(catalog.PurposeRestorePoint)
	if slices.ContainsFunc(own, func(x Held) bool { return x.Position == nil }) {
		return // one was made, and was not looked at yet
	}
	r := h.s.In(site.Region)
	for i := range h.m.policies {
		p := &h.m.policies[i]
		if p.Trim == nil || p.Trim.MaxLag == nil || p.Trim.MaxLag.Then != regions.ThenRequestSnapshot || !p.Select.InRegion(site.Region) {
			continue
		}
		if least, behind := h.behind(site, r, p); behind {
			h.wish(site, catalog.VerbHold, PolicyRef{p.Name, p.Applied.Revision}, catalog.Parameters{Purpose: catalog.PurposeRestorePoint}, &least)
			return
		}
	}
	if len(own) > 0 {
		h.beyond(site, own)
	}
}

// behind reports whether an archive is further behind than a policy bears, and
// the least position of a restore point that would bring it forward.
func (h *holder) behind(site *Site, r *plan.Region, p *regions.Policy) (least uint64, yes bool) {
	if site.Head == nil {
		return 0, false
	}
	newest := uint64(0)
	some := false
	for i := range r.Points {
		if pt := &r.Points[i]; pt.State == catalog.RestoreVerified {
			newest, some = max(newest, pt.Position), true
		}
	}
	if some && *site.Head <= newest {
		return 0, false // there is nothing new here
	}
	least = newest + 1
	at, enough := archivedIn(r, h.m.keep(), h.m.now)
	if !enough {
		return min(least, *site.Head), true
	}
	head, lag := *site.Head, p.Trim.MaxLag
	if h.s.Head != nil {
		head = max(head, *h.s.Head)
	}
	if n := lag.Positions; n > 0 && head > at && head-at > n {
		return max(least, min(head-n, *site.Head)), true
	}
	if lag.Age > 0 {
		for i := range r.Points {
			if pt := &r.Points[i]; pt.State == catalog.RestoreVerified && pt.Position == at && h.m.now.Sub(pt.FirstSeen) >= time.Duration(lag.Age) {
				return least, true
			}
		}
	}
	return 0, false
}

// beyond lets go of restore points of Quarry's own that no policy keeps.
func (h *holder) beyond(site *Site, own []Held) {
	policies := slices.Clone(h.m.policies)
	by := slices.IndexFunc(policies, func(p regions.Policy) bool { return p.Select.InRegion(site.Region) })
	if by < 0 {
		return // nobody says how many are kept: all are
	}
	if !slices.ContainsFunc(policies, func(p regions.Policy) bool {
		return p.Select.InRegion(site.Region) && p.RestorePoints.Keep != (regions.Keep{})
	}) {
		for i := range policies {
			policies[i].RestorePoints.Keep.Hourly = 1 // of the newest hour the newest: it stays in any case
		}
	}
	sub := h.s.Slate
	sub.Regions = slices.Clone(sub.Regions)
	for i := range sub.Regions {
		sub.Regions[i].Permitted = h.v.UpTo // no owner's trimming follows these
	}
	for _, r := range plan.Prune(policies, sub, h.v.UpTo, h.m.now).Regions {
		if r.Region != site.Region {
			continue
		}
		for _, f := range r.Points {
			i := slices.IndexFunc(own, func(x Held) bool { return x.Name == f.ID })
			if i < 0 || f.Stays {
				continue
			}
			ref := PolicyRef{policies[by].Name, policies[by].Applied.Revision}
			h.wish(site, catalog.VerbRelease, ref, catalog.Parameters{Checkpoint: own[i].ID, Restorable: r.Keep}, nil)
		}
	}
}

// placesHold reports whether the documents may be about a slate of that name and
// kind: a hold that agents enforce, or one that was ended and may still be there.
func (s *State) placesHold(o regions.Subject) bool {
	if s.documented[o.Name] > 0 {
		return true
	}
	if !holdable(o.Kind) {
		return false
	}
	for i := range s.rules.Holds {
		if d := &s.rules.Holds[i]; enforced(d, s.wall) && d.Select.Named(o.Name) {
			return true
		}
	}
	return false
}

// anyHold reports whether documents may ask for anything at all.
func (s *State) anyHold() bool {
	return len(s.documented) > 0 || slices.ContainsFunc(s.rules.Holds, func(d regions.Hold) bool { return enforced(&d, s.wall) })
}

// document is the name of the document that a pin is for; empty: of none.
func document(p *catalog.Pin) string {
	switch purpose, held := heldFor(p.Name); {
	case !held, purpose == catalog.PurposeTrim, purpose == catalog.PurposeRestorePoint:
		return ""
	default:
		return strings.ToValidUTF8(purpose, "")
	}
}

// settlePins shows the holds of Quarry's at a root: those of another incarnation
// went with it.
func (s *State) settlePins(r *region, st *seat, own standing) {
	for _, k := range st.keys(catalog.FactHold) {
		p := *k.pin
		if st.content != nil && st.content.Incarnation != p.Incarnation && st.content.Incarnation != "" && p.Incarnation != "" {
			s.removePin(r, p.Root, p.ID)
			continue
		}
		old := s.b.Pin(r.name, p.Root, p.ID)
		p.Region, p.Slate, p.ObservedAt = r.name, st.slate(own, p.Slate), s.wall
		if old != nil {
			p.ObservedAt = old.ObservedAt
			if reflect.DeepEqual(old, &p) {
				continue
			}
			p.ObservedAt = s.wall
			s.forgetDocumented(old)
		}
		s.showPin(&p)
	}
}

func (s *State) showPin(p *catalog.Pin) {
	s.b.SetPin(p)
	if name := document(p); name != "" {
		s.documented[p.Slate]++
		if s.placed[name] == nil {
			s.placed[name] = map[string]*catalog.Pin{}
		}
		s.placed[name][view.PinKey(p.Region, p.Root, p.ID)] = p
		s.replaced = true
	}
}

func (s *State) removePin(r *region, root, id string) {
	if old := s.b.Pin(r.name, root, id); old != nil {
		s.forgetDocumented(old)
		s.b.RemovePin(r.name, root, id)
	}
}

func (s *State) forgetDocumented(p *catalog.Pin) {
	name := document(p)
	if name == "" {
		return
	}
	s.replaced = true
	delete(s.placed[name], view.PinKey(p.Region, p.Root, p.ID))
	if len(s.placed[name]) == 0 {
		delete(s.placed, name)
	}
	if s.documented[p.Slate]--; s.documented[p.Slate] <= 0 {
		delete(s.documented, p.Slate)
	}
}

// whereHeld is where agents hold a document with a checkpoint, and what that
// costs; nil: of none it is known.
func (s *State) whereHeld(name string) ([]catalog.HoldPlace, *uint64) {
	out := []catalog.HoldPlace{}
	var bytes *uint64
	for _, k := range sortedKeys(s.placed[name]) {
		p := s.placed[name][k]
		out = append(out, catalog.HoldPlace{Slate: p.Slate, Region: p.Region, Checkpoint: p.ID, Position: p.Position, HeldBytes: p.HeldBytes})
		if p.HeldBytes != nil {
			bytes = plus(bytes, p.HeldBytes)
		}
	}
	slices.SortStableFunc(out, func(a, b catalog.HoldPlace) int {
		return cmp.Or(cmp.Compare(a.Slate, b.Slate), cmp.Compare(a.Region, b.Region))
	})
	return out, bytes
}

// sawHold reports whether the placement shows the hold that a decision should
// have made, and lacks the one that it let go of.
func (s *State) sawHold(d *Decided) bool {
	x := &d.Decision
	row := s.b.Placement(x.Region, x.Root)
	if row == nil || row.Seen != catalog.SeenLive || row.Incarnation != x.Incarnation {
		return false
	}
	has := func(id string) bool {
		return slices.ContainsFunc(row.Checkpoints, func(c catalog.Checkpoint) bool { return c.ID == id }) ||
			len(row.Checkpoints) >= mostCheckpoints && s.b.RestorePoint(x.Region, x.Root, id) != nil
	}
	if x.Verb == catalog.VerbRelease {
		return !has(x.Parameters.Checkpoint)
	}
	return d.Outcome != nil && has(d.Outcome.Saw.Checkpoint) && (x.Parameters.Replaces == "" || !has(x.Parameters.Replaces))
}
