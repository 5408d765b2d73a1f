package state

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions/plan"
)

// settle makes the rows of one root say what is known, and tells each change
// against what they said before once.
func (s *State) settle(r *region, st *seat) {
	s.depart(r, st)
	own := st.standing(r)
	old := st.row
	moved := false
	if st.content != nil {
		if st.renewed && old != nil {
			moved = hasMoved(&old.Sighting, st.content)
			if !reflect.DeepEqual(old.External, st.content.External) {
				s.repin(r, st, old.External, st.content.External)
			}
		} else if old == nil {
			s.repin(r, st, nil, st.content.External)
		}
	}
	if own.gone && !st.declaredGone {
		st.movedSinceGone = false
	}
	st.declaredGone = own.gone
	if moved {
		at := s.wall
		st.movedAt = &at
		st.movedSinceGone = st.movedSinceGone || own.gone
	}

	var row *catalog.Placement
	if st.content != nil {
		row = s.row(r, st, own)
		s.tellRow(r, st, old, row)
	}
	owner := s.b.Owner(r.name, st.root) // before the row tells another
	points, verified := s.settlePoints(r, st, own)
	s.settlePins(r, st, own)
	found := s.settleFindings(r, st, own)
	if row != nil {
		row.RestorePoints, row.VerifiedRestorePoints, row.Findings = points, verified, found
		s.tellLost(r, st, old, row)
		s.found(r, row)
		s.putRow(r, st, old, row)
	}
	s.settleOwner(r, st, own, row, owner)
	if st.renewed {
		st.renewed, st.heardOf = false, false
	}
}

// depart lets go of withdrawn statements, unless they stay as last seen.
func (s *State) depart(r *region, st *seat) {
	if st.presence == catalog.SeenMissing || r.blind != "" || r.mismatch != "" {
		return
	}
	for _, sd := range slices.Clone(st.said) {
		if sd.leaving && !(sd.unsaid && st.unlooked()) {
			if f := sd.finding; f != nil {
				s.findingGone(r, f.Code, f.Root, f.Object)
			}
			s.unseat(r, sd)
			delete(s.seats, seatKey{r.name, st.root}) // this very seat is being settled
		}
	}
	if st.row != nil {
		for _, sd := range r.leases[st.row.Slate] {
			if sd.leaving {
				s.unseat(r, sd)
			}
		}
	}
}

func hasMoved(a, b *catalog.Sighting) bool {
	return !eq(a.ManifestID, b.ManifestID) || !eq(a.WALTail, b.WALTail) || !eq(a.Position, b.Position) || !eq(a.WriterEpoch, b.WriterEpoch)
}

func eq[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// row is the placement as people see it.
func (s *State) row(r *region, st *seat, own standing) *catalog.Placement {
	old := st.row
	row := &catalog.Placement{Region: r.name, Sighting: *st.content, ObservedAt: st.observed, FirstSeen: s.wall}
	row.Seen, row.Reason = st.presence, st.presenceWhy
	row.Slate = st.name
	if reg := own.registration; reg != nil {
		row.Slate = reg.Slate
		row.Registered, row.Owner, row.Contact, row.Labels = true, reg.Owner, reg.Contact, reg.Labels
	}
	switch row.Seen {
	case catalog.SeenMissing:
		row.State, row.StateReason = catalog.StateMissing, firstOf(row.Reason, "its agent no longer finds it")
	case catalog.SeenUnreadable:
		row.State, row.StateReason = catalog.StateUnreadable, row.Reason
	default:
		row.State = catalog.StateLive
	}
	row.StateSince = s.wall
	if old != nil {
		row.FirstSeen, row.WriterSince = old.FirstSeen, old.WriterSince
		if old.State == row.State {
			row.StateSince = old.StateSince
		}
		switch {
		case another(old, row):
			row.WriterSince = nil // of this database no change was seen
		case writerChanged(old, row):
			at := s.wall
			row.WriterSince = &at
		}
	}
	if row.Checkpoints == nil {
		row.Checkpoints = []catalog.Checkpoint{}
	}
	s.readers(r, st, row)
	row.PinnedBy = sortedKeys(r.pins[st.root])
	row.Disagreement = s.disagreement(r, st, own, row)
	return row
}

// another reports whether the root has another database than before.
func another(old, row *catalog.Placement) bool {
	return old.Incarnation != row.Incarnation && old.Incarnation != "" && row.Incarnation != ""
}

func writerChanged(old, row *catalog.Placement) bool {
	return old.WriterEpoch != nil && row.WriterEpoch != nil && *old.WriterEpoch != *row.WriterEpoch
}

// putRow hands the row to the view, and wakes watchers only when it says
// something new.
func (s *State) putRow(r *region, st *seat, old, row *catalog.Placement) {
	st.row, st.content = row, &row.Sighting
	if old == nil {
		r.placements++
	} else if old.Seen == catalog.SeenMissing {
		r.missing--
	}
	if row.Seen == catalog.SeenMissing {
		r.missing++
	}
	quiet := false
	if old != nil {
		before := *old
		before.ObservedAt = row.ObservedAt
		if quiet = reflect.DeepEqual(&before, row); quiet && old.ObservedAt.Equal(row.ObservedAt) {
			st.row, st.content = old, &old.Sighting
			return
		}
		if old.Slate != row.Slate {
			s.slates[old.Slate] = true
		}
	}
	s.b.SetPlacement(row, quiet)
	s.slates[row.Slate] = s.slates[row.Slate] || !quiet
}

// tellRow puts what changed into the event log.
func (s *State) tellRow(r *region, st *seat, old, row *catalog.Placement) {
	e := catalog.Event{Region: r.name, Slate: row.Slate, Root: row.Root}
	was := catalog.Seen("")
	if old != nil {
		was = old.Seen
	}
	if was != row.Seen {
		e.Before, e.After = string(was), string(row.Seen)
		switch {
		case row.Seen == catalog.SeenMissing:
			e.Type, e.What = catalog.EventSlateMissing, fmt.Sprintf("%s is missing: %s", row.Slate, row.StateReason)
		case row.Seen == catalog.SeenUnreadable:
			e.Type, e.What = catalog.EventUnreadable, fmt.Sprintf("%s cannot be read: %s", row.Slate, row.Reason)
			if old == nil { // it appears, too: first one, then the other
				a := e
				a.Type, a.What, a.After = catalog.EventSlateAppeared, fmt.Sprintf("%s (%s) appeared", row.Slate, row.Kind), string(catalog.SeenLive)
				s.emit(a)
				e.Before = string(catalog.SeenLive)
			}
		case old == nil:
			e.Type, e.What = catalog.EventSlateAppeared, fmt.Sprintf("%s (%s) appeared", row.Slate, row.Kind)
		case was == catalog.SeenUnreadable:
			e.Type, e.What = catalog.EventSlateBack, fmt.Sprintf("%s can be read again", row.Slate)
		default:
			e.Type, e.What = catalog.EventSlateBack, fmt.Sprintf("%s is back", row.Slate)
		}
		s.emit(e)
	}
	if old == nil {
		return
	}
	e.Before, e.After = "", ""
	if another(old, row) {
		e.Type, e.Before, e.After = catalog.EventIncarnation, old.Incarnation, row.Incarnation
		e.What = fmt.Sprintf("%s is another database than before; what was known of the old one is void", row.Slate)
		s.emit(e)
	}
	if writerChanged(old, row) && !another(old, row) {
		e.Type, e.Before, e.After = catalog.EventWriterChanged, strconv.FormatUint(*old.WriterEpoch, 10), strconv.FormatUint(*row.WriterEpoch, 10)
		e.What = fmt.Sprintf("the writer epoch of %s went from %s to %s", row.Slate, e.Before, e.After)
		s.emit(e)
	}
	before, after := strconv.Itoa(live(old.Readers)), strconv.Itoa(live(row.Readers))
	if st.heardOf {
		before = after // how many it had is not known: that is no change
	}
	if before, changed := s.say(r, "readers", row.Root, before, after); changed {
		e.Type, e.Before, e.After = catalog.EventReaderChanged, before, after
		e.What = fmt.Sprintf("%s has %s readers, had %s", row.Slate, after, before)
		s.emit(e)
	}
}

// tellLost tells that a placement's last restore point went.
func (s *State) tellLost(r *region, st *seat, old, row *catalog.Placement) {
	// Of what a snapshot merely lacks nobody has seen that it is gone (P1); of what
	// its agent looked for and no longer finds somebody has.
	if old == nil || row.Seen == catalog.SeenMissing && (row.Kind != catalog.KindSnapshots || strings.HasPrefix(st.presenceWhy, absentReason)) {
		return
	}
	has := func(p *catalog.Placement) string {
		if p.RestorePoints > 0 {
			return "some"
		}
		return pointsLost
	}
	was, is := has(old), has(row)
	if row.Seen == catalog.SeenMissing { // its restore points stay as last seen
		is = pointsLost
		if old.Seen == catalog.SeenMissing {
			was = pointsLost
		}
	}
	if _, changed := s.say(r, "points", row.Root, was, is); changed && is == pointsLost {
		s.emit(catalog.Event{Type: catalog.EventLastSnapshotLost, Region: r.name, Slate: row.Slate, Root: row.Root,
			Before: strconv.FormatUint(old.RestorePoints, 10), After: "0", What: fmt.Sprintf("%s has no restore point left in %s", row.Slate, r.name)})
		s.lose(r, row)
	}
}

const pointsLost = "none"

// say reports whether something differs from what the event log says of it,
// and what that was. was is what the rows say; the log knows better when the
// hub ended between writing an event and saving its view. Until a snapshot
// has told everything, what only the log knows is taken to be still so.
func (s *State) say(r *region, what, root, was, is string) (before string, changed bool) {
	k := toldKey(r.name, what, root)
	if t, ok := s.told[k]; ok {
		if !r.snapped {
			return t, false
		}
		delete(s.told, k)
		was = t
	}
	return was, was != is
}

func toldKey(region, what, root string) string {
	return strings.Join([]string{region, what, root}, "\x00")
}

// settlePoints shows the restore points of the incarnation that is there:
// those of another one are void.
func (s *State) settlePoints(r *region, st *seat, own standing) (counted, verified uint64) {
	for _, k := range st.keys(catalog.FactRestorePoint) {
		rp := *k.restore
		old := s.b.RestorePoint(r.name, rp.Root, rp.ID)
		if rp.State == catalog.RestoreVerified {
			s.age(st, k, &rp)
		}
		if st.content != nil && st.content.Incarnation != rp.Incarnation && st.content.Incarnation != "" && rp.Incarnation != "" {
			if old != nil {
				s.b.RemoveRestorePoint(r.name, rp.Root, rp.ID)
			}
			continue
		}
		rp.Region, rp.Slate, rp.ObservedAt, rp.FirstSeen = r.name, st.slate(own, rp.Slate), s.wall, s.wall
		if old != nil {
			rp.ObservedAt = old.ObservedAt
			if eq(old.Position, rp.Position) { // at another position it is another one
				rp.FirstSeen = old.FirstSeen
			}
			if !reflect.DeepEqual(old, &rp) {
				if k.since == s.mono {
					rp.ObservedAt = s.wall
				}
				s.b.SetRestorePoint(&rp)
			}
		} else {
			s.b.SetRestorePoint(&rp)
		}
		switch rp.State {
		case catalog.RestoreVerified:
			verified++
			counted++
		case catalog.RestoreListed:
			counted++
		}
		was := string(rp.State)
		if old != nil {
			was = string(old.State)
		} else if rp.State == catalog.RestoreIncomplete {
			was = ""
		}
		if was, changed := s.say(r, "point\x00"+rp.ID, rp.Root, was, string(rp.State)); changed && rp.State == catalog.RestoreIncomplete {
			s.emit(catalog.Event{Type: catalog.EventSnapshotIncomplete, Region: r.name, Slate: rp.Slate, Root: rp.Root, Before: was, After: rp.ID,
				What: fmt.Sprintf("restore point %s of %s is incomplete: %s", rp.ID, rp.Slate, firstOf(rp.Reason, "an object is missing or has another size"))})
		}
	}
	return counted, verified
}

// age shows a verified restore point as listed again when it is too long ago,
// by the hub's clock, that its agent said so.
func (s *State) age(st *seat, k *said, rp *catalog.RestorePoint) {
	till := k.since + plan.FreshFor
	if till <= s.mono || st.content == nil { // of what nobody sees nothing is verified
		rp.State, rp.Reason = catalog.RestoreListed, "its verification is more than a day old"
		if till > s.mono {
			rp.Reason = "no database was seen there"
		}
	} else if st.next == 0 || till < st.next {
		st.next = till
	}
}

// settleFindings shows what agents found and the registrations in conflict.
func (s *State) settleFindings(r *region, st *seat, own standing) []catalog.FoundHere {
	here := []catalog.FoundHere{}
	show := func(f catalog.Finding) {
		here = append(here, catalog.FoundHere{Code: f.Code, Object: f.Object})
		f.Region, f.ObservedAt = r.name, s.wall
		if st.root != "" {
			f.Slate = st.slate(own, f.Slate)
		}
		old := s.b.Finding(r.name, f.Code, f.Root, f.Object)
		if old != nil {
			f.ObservedAt = old.ObservedAt
			if *old == f {
				return
			}
		}
		s.b.SetFinding(&f)
		was := ""
		if old != nil {
			was = "found"
		}
		if _, changed := s.say(r, "finding\x00"+f.Code+" "+f.Object, f.Root, was, "found"); changed {
			s.emit(catalog.Event{Type: catalog.EventFinding, Region: r.name, Slate: f.Slate, Root: f.Root, What: f.What, After: f.Code + " " + f.Object})
		}
	}
	for _, k := range st.keys(catalog.FactFinding) {
		show(*k.finding)
	}
	conflicts := make([]string, 0, len(own.conflicts))
	for _, c := range own.conflicts {
		conflicts = append(conflicts, c.ID)
		show(catalog.Finding{
			Code: conflictCode, Slate: c.Slate, Root: st.root, Object: c.ID,
			What: fmt.Sprintf("registration %s of %s differs in %s from %s, which came first and stands", c.ID, st.root, differs(own.first, c), own.first.ID),
			Cure: "remove the one that is wrong, or deregister and register again",
		})
	}
	for _, id := range st.conflicts {
		if !slices.Contains(conflicts, id) {
			s.findingGone(r, conflictCode, st.root, id)
			s.b.RemoveFinding(r.name, conflictCode, st.root, id)
		}
	}
	st.conflicts = conflicts
	return here
}

// findingGone tells that a finding that is shown is no longer so.
func (s *State) findingGone(r *region, code, root, object string) {
	f := s.b.Finding(r.name, code, root, object)
	if f == nil {
		return
	}
	if _, changed := s.say(r, "finding\x00"+code+" "+object, root, "found", ""); changed {
		s.emit(catalog.Event{Type: catalog.EventFindingGone, Region: r.name, Slate: f.Slate, Root: root,
			What: fmt.Sprintf("%s of %s is no longer so", code, firstOf(object, root)), Before: code + " " + object})
	}
}

// settleOwner shows who is responsible for a root, seen or only registered.
func (s *State) settleOwner(r *region, st *seat, own standing, row *catalog.Placement, old *catalog.OwnerRow) {
	if st.root == "" {
		return
	}
	was := ""
	if old != nil && old.Declared {
		was = firstOf(old.Owner, unnamed)
	}
	is := ""
	if own.registration != nil {
		is = firstOf(own.registration.Owner, unnamed)
	}
	slate := st.slate(own, "")
	if row != nil {
		slate = row.Slate
	} else if slate == "" && old != nil {
		slate = old.Slate
	}
	if was, changed := s.say(r, "owner", st.root, was, is); changed {
		e := catalog.Event{Type: catalog.EventRegistered, Region: r.name, Slate: slate, Root: st.root, Before: was, After: is}
		named := ""
		if slate != "" && slate != st.root {
			named = " as " + slate
		}
		e.What = fmt.Sprintf("%s was registered%s, owner %s", st.root, named, is)
		if is == "" {
			e.Type, e.What = catalog.EventDeregistered, fmt.Sprintf("%s was deregistered, owner was %s", st.root, was)
		}
		s.emit(e)
	}
	if row == nil && own.registration == nil {
		s.b.RemoveOwner(r.name, st.root)
		return
	}
	o := &catalog.OwnerRow{Slate: slate, Region: r.name, Root: st.root}
	if reg := own.registration; reg != nil {
		o.Declared, o.Owner, o.Contact = true, reg.Owner, reg.Contact
	}
	if row != nil {
		o.WriterEpoch, o.WriterSince, o.MovedAt = row.WriterEpoch, row.WriterSince, st.movedAt
		o.Leases, o.Disagreement = row.Leases, row.Disagreement
	}
	if old == nil || !reflect.DeepEqual(old, o) {
		s.b.SetOwner(o)
	}
}

const (
	unnamed      = "unnamed"
	conflictCode = "registration-conflict"
)

// settleSlate sums up the placements of one name. loud: one of them says
// something new, so the slate does.
func (s *State) settleSlate(name string, loud bool) {
	row := s.b.SumSlate(name, badness)
	if row == nil {
		s.b.RemoveSlate(name)
		return
	}
	s.b.SetSlate(row, !loud)
}

func badness(st catalog.PlacementState) int {
	return slices.Index([]catalog.PlacementState{catalog.StateLive, catalog.StateStale, catalog.StateUnreadable, catalog.StateMissing}, st)
}

// keys are the statements of one kind about the seat, in order.
func (st *seat) keys(kind catalog.FactKind) []*said {
	var out []*said
	for _, sd := range st.said {
		if sd.key.kind == kind {
			out = append(out, sd)
		}
	}
	slices.SortFunc(out, func(a, b *said) int { return cmp.Compare(a.key.key, b.key.key) })
	return out
}

// slate is the name by which the root goes: the registered one, else the one
// of its sighting, else what was said.
func (st *seat) slate(own standing, said string) string {
	if own.registration != nil {
		return own.registration.Slate
	}
	if st.content != nil {
		return st.name
	}
	return said
}

func timeOf(p *time.Time) time.Time {
	if p == nil {
		return time.Time{}
	}
	return *p
}
