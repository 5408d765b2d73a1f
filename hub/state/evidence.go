package state

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// Subject is a slate as the rules see it: all placements of one name and one
// lineage, for only their positions can be compared.
type Subject struct {
	plan.Slate
	Kind   catalog.Kind
	Placed []string // in these regions, by name
	// Declared are labels that owners declared and nobody has confirmed: they
	// can hold back and permit nothing.
	Declared []map[string]string
	// HeldBytes is what its placements keep in their buckets beside their newest
	// state; nil: of none it is known.
	HeldBytes *uint64
	// Sites are its placements, by region and root.
	Sites []Site

	seen []plan.Pin // pins that storage shows, whatever the rules say
}

// Site is one placement of a slate, for whoever acts there.
type Site struct {
	Region, Root, Incarnation string
	Live                      bool // it was seen, and its incarnation is recorded in the bucket
	TrimmedTo                 *uint64
	// Permit is the one that rules the slate in this region, as it was last seen;
	// nil: none was.
	Permit *view.Permit
	Head   *uint64 // highest position seen here; nil: none
	Held   []Held  // holds of Quarry's here, the lowest position first
}

// Subjects gives the slates of a name, one for each lineage and position
// domain, in order of these; none when nothing goes by that name. The view is
// only read.
func Subjects(v *view.View, name string) []Subject {
	w := witness{regions: standings(v)}
	out := w.hear(v, name)
	for i := range out {
		out[i].rule(v.Rules(), v.At())
	}
	return out
}

// witness reads the evidence of one slate after the other, in the same room.
type witness struct {
	regions []plan.Region // all of the set, as they stand
	rows    view.Evidence
	placed  []catalog.Placement // of the slate
	points  []*catalog.RestorePoint
	ids     []identity
	out     []Subject
}

// identity is what tells slates of one name apart.
type identity struct{ lineage, domain string }

func identityOf(p *catalog.Placement) identity { return identity{p.Lineage, p.PositionDomain} }

// hear is [Subjects] without what people decided; its answer is good until the
// next.
func (w *witness) hear(v *view.View, name string) []Subject {
	placed := w.rows.Of(v, name)
	w.placed = placed
	w.ids, w.points, w.out = w.ids[:0], w.points[:0], w.out[:0]
	for i := range placed {
		if id := identityOf(&placed[i]); !slices.Contains(w.ids, id) {
			w.ids = append(w.ids, id)
		}
	}
	if len(w.ids) > 1 {
		// Of what only the event log knows the lineage is not known: it may be any
		// of them, and is none of its own.
		w.ids = slices.DeleteFunc(w.ids, func(id identity) bool { return id.lineage == "" })
		slices.SortFunc(w.ids, func(a, b identity) int {
			return cmp.Or(cmp.Compare(a.lineage, b.lineage), cmp.Compare(a.domain, b.domain))
		})
	}
	if len(placed) > 0 {
		for rp := range v.RestorePointsOf(name) {
			w.points = append(w.points, rp)
		}
	}
	for _, id := range w.ids {
		s := w.subject()
		s.Name, s.Domain, s.Lineage = name, id.domain, id.lineage
		for i := range placed {
			if p := &placed[i]; identityOf(p) == id {
				s.add(p, w.points, v.Permit(p.Region, name))
				s.history(p, w.points)
			}
		}
		for i := range w.regions {
			s.region(&w.regions[i], placed, w.points)
		}
		s.seen = slices.Clip(s.Pins)
	}
	return w.out
}

// subject is one more of what is heard, with the room that it had before.
func (w *witness) subject() *Subject {
	if n := len(w.out); n < cap(w.out) {
		w.out = w.out[:n+1]
	} else {
		w.out = append(w.out, Subject{})
	}
	s := &w.out[len(w.out)-1]
	*s = Subject{Slate: plan.Slate{Regions: s.Regions[:0], Pins: s.seen[:0]}, Placed: s.Placed[:0], Declared: s.Declared[:0], Sites: s.Sites[:0]}
	return s
}

// add takes a placement of the slate into account: who reads it, and how far it
// reaches.
func (s *Subject) add(p *catalog.Placement, points []*catalog.RestorePoint, permit *view.Permit) {
	s.Kind = p.Kind
	if !slices.Contains(s.Placed, p.Region) {
		s.Placed = append(s.Placed, p.Region)
	}
	s.Sites = append(s.Sites, Site{
		Region: p.Region, Root: p.Root, Incarnation: p.Incarnation, Live: p.Seen == catalog.SeenLive && p.IncarnationKept,
		TrimmedTo: p.TrimmedTo, Permit: permit, Head: p.Position, Held: heldAt(p, points),
	})
	if len(p.Labels) > 0 {
		s.Declared = append(s.Declared, p.Labels)
	}
	if p.Position != nil && (s.Head == nil || *p.Position > *s.Head) {
		head := *p.Position
		s.Head = &head
	}
	pin := func(kind plan.PinKind, id string, at *uint64) {
		s.Pins = append(s.Pins, plan.Pin{Kind: kind, ID: id, Region: p.Region, Position: at})
	}
	for i := range p.Readers {
		switch r := &p.Readers[i]; {
		case r.Lapsed:
		case r.From == "lease" && p.Kind == catalog.KindSnapshots:
			// Who follows the log begins again from a snapshot of its region.
			pin(plan.PinConsumer, cmp.Or(r.Name, r.ID), nil)
		default:
			pin(plan.PinReader, cmp.Or(r.Name, r.ID), nil)
		}
	}
	for _, root := range p.PinnedBy {
		pin(plan.PinClone, root, nil)
	}
	for i := range p.Checkpoints {
		c := &p.Checkpoints[i]
		if name, held := heldFor(c.Name); held && name != catalog.PurposeTrim && name != catalog.PurposeRestorePoint {
			// A hold outlives its document where an agent made it a checkpoint:
			// whoever restored an older ledger must not cut below it.
			var at *uint64
			for _, rp := range points {
				if rp.Region == p.Region && rp.Root == p.Root && rp.ID == c.ID {
					at = rp.Position
				}
			}
			pin(plan.PinHold, name, at)
		}
	}
}

// heldFor is what a checkpoint of Quarry's is for, by its name: a word or the
// name of a hold; held is false for a checkpoint that is none of Quarry's.
func heldFor(checkpoint string) (purpose string, held bool) {
	rest, held := strings.CutPrefix(checkpoint, catalog.HoldName)
	purpose, _, _ = strings.Cut(rest, ":")
	return purpose, held
}

// standings are the regions of the set as they stand, whatever the slate.
func standings(v *view.View) []plan.Region {
	var out []plan.Region
	for r := range v.Regions() {
		is := plan.Region{Name: r.Name, Membership: r.Membership, State: r.State, Since: r.Since, Heard: r.HeardAt != nil && v.Told(r.Name)}
		if r.HeardAt != nil && (r.State == catalog.RegionStale || r.State == catalog.RegionSuspect) {
			is.Since = *r.HeardAt
		}
		if since, _, late := v.Late(r.Name); late && (r.State == catalog.RegionConnected || r.State == catalog.RegionSuspect) {
			is.State, is.Since = catalog.RegionStale, since // it beats and has not looked
		}
		out = append(out, is)
	}
	return out
}

// region adds what is known of the slate in one region of the set.
func (s *Subject) region(stands *plan.Region, placed []catalog.Placement, points []*catalog.RestorePoint) {
	if n := len(s.Regions); n < cap(s.Regions) {
		s.Regions = s.Regions[:n+1]
	} else {
		s.Regions = append(s.Regions, plan.Region{})
	}
	out := &s.Regions[len(s.Regions)-1]
	room := out.Points[:0]
	*out = *stands
	out.Lineage, out.Points = s.Lineage, room
	var another, unseen string
	seen := false
	for i := range placed {
		switch p := &placed[i]; {
		case p.Region != out.Name:
		case p.Lineage == "" && s.Lineage != "":
			out.Placed, unseen = true, "it was not looked at since the hub heard that it is there"
		case p.Lineage != s.Lineage || p.PositionDomain != s.Domain:
			another = p.Lineage
		case p.Seen == catalog.SeenLive:
			out.Placed, seen = true, true
		default:
			out.Placed = true
			unseen = "it is " + string(p.Seen) + ": " + firstOf(p.StateReason, firstOf(p.Reason, "its agent does not find it"))
		}
	}
	switch {
	case !out.Placed && another != "":
		out.Placed, out.Lineage = true, another
		if another == s.Lineage {
			out.Lineage += " of another position domain"
		}
		return
	case out.Placed && !seen:
		out.Unreadable = unseen
	}
	for _, rp := range points {
		if rp.Region != out.Name || rp.Lineage != s.Lineage || rp.PositionDomain != s.Domain {
			continue
		}
		pt := plan.Point{ID: cmp.Or(rp.Name, rp.ID), State: rp.State, Reason: rp.Reason, FirstSeen: rp.FirstSeen, VerifiedAt: rp.ObservedAt, Key: rp.ID}
		if rp.CreatedAt != nil {
			pt.Made = *rp.CreatedAt
		}
		if rp.Bytes != nil {
			pt.Bytes = *rp.Bytes
		}
		if rp.Position == nil {
			if rp.State == catalog.RestoreVerified {
				pt.State = catalog.RestoreUnreadable
			}
			pt.Reason = firstOf(pt.Reason, "its position is not known")
		} else {
			pt.Position = *rp.Position
		}
		out.Points = append(out.Points, pt)
	}
}

// rule takes into account what people decided about the slate beside policies.
func (s *Subject) rule(rules *regions.Rules, now time.Time) {
	s.Pins, s.Frozen, s.Lost = s.seen, "", ""
	for i := range rules.Holds {
		if h := &rules.Holds[i]; s.heldBy(h) && h.Forbids(regions.ActionTrim, now) {
			s.Pins = append(s.Pins, pinOf(h))
		}
	}
	for i := range rules.Freezes {
		f := &rules.Freezes[i]
		switch {
		case !f.Covers(s.Name, s.Placed):
		case len(f.Lost) > 0:
			s.Lost = lostWords(f, &s.Slate)
		case s.Frozen == "":
			s.Frozen = f.Scope + " is frozen by " + f.By
			if f.Why != "" {
				s.Frozen += " (" + f.Why + ")"
			}
		}
	}
}

// pinOf is what a hold keeps.
func pinOf(h *regions.Hold) plan.Pin {
	from := h.From.Position
	pin := plan.Pin{Kind: plan.PinHold, ID: h.Name, Position: &from}
	if h.Legal {
		pin.Kind = plan.PinLegal
	}
	return pin
}

// heldBy reports whether a hold is about the slate. Labels that nobody has
// confirmed can bring a hold about, and cannot take the slate out of one.
func (s *Subject) heldBy(h *regions.Hold) bool {
	if !slices.ContainsFunc(s.Placed, h.Select.InRegion) {
		return false
	}
	sel := h.Select
	if sel.Except != nil && len(sel.Except.Labels) > 0 {
		sel.Except = nil
	}
	for _, labels := range append([]map[string]string{nil}, s.Declared...) {
		if sel.Matches(regions.Subject{Name: s.Name, Kind: s.Kind, Labels: labels}) {
			return true
		}
	}
	return false
}

// Policies are those that select the slate. Labels that nobody has confirmed
// select no policy, and can take the slate out of one.
func (s *Subject) Policies(rules *regions.Rules) []regions.Policy {
	var out []regions.Policy
	for i := range rules.Policies {
		if s.under(&rules.Policies[i]) {
			out = append(out, rules.Policies[i])
		}
	}
	return out
}

func (s *Subject) under(p *regions.Policy) bool {
	if !p.Select.Matches(regions.Subject{Name: s.Name, Kind: s.Kind}) {
		return false
	}
	e := p.Select.Except
	if e == nil || len(e.Labels) == 0 {
		return true
	}
	for _, labels := range s.Declared {
		if !p.Select.Matches(regions.Subject{Name: s.Name, Kind: s.Kind, Labels: labels}) {
			return false
		}
	}
	return true
}

// Trim is the verdict on the slate under the rules, and the policy whose word
// it was; nil: none.
func (s *Subject) Trim(rules *regions.Rules, now time.Time) (plan.Verdict, *regions.Policy) {
	policies := s.Policies(rules)
	v, by := plan.Under(policies, s.Slate, now)
	if by < 0 {
		return v, nil
	}
	return v, &policies[by]
}
