package state

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// forgotten is a [ForgetPlacement] whose entry in the audit is durable.
type forgotten ForgetPlacement

func (forgotten) event() {}

// mayForget refuses what cannot be forgotten, and has it put into the audit
// before it is: a row that is gone does not come back.
func (s *State) mayForget(e ForgetPlacement) error {
	if _, err := s.forgettable(e); err != nil {
		return err
	}
	s.audit(AuditEntry{Who: e.By, What: "forgotten", Of: "placement/" + e.Region + "/" + e.Slate, Why: "it was missing"})
	s.out.Then = forgotten(e)
	return nil
}

// forgettable finds the missing placements that the command names.
func (s *State) forgettable(e ForgetPlacement) ([]*seat, error) {
	r := s.regions[e.Region]
	if r == nil {
		return nil, fmt.Errorf("region %s is not in the region set: %w", e.Region, fs.ErrNotExist)
	}
	var seats []*seat
	if st := s.seatAt(r, e.Slate); st != nil && st.row != nil {
		seats = append(seats, st)
	} else {
		for p := range s.b.PlacementsOf(e.Slate) {
			if p.Region == r.name {
				seats = append(seats, s.seatAt(r, p.Root))
			}
		}
	}
	if len(seats) == 0 {
		return nil, fmt.Errorf("placement of %s in %s: %w", e.Slate, e.Region, fs.ErrNotExist)
	}
	var errs []error
	for _, st := range seats {
		if st.presence != catalog.SeenMissing {
			errs = append(errs, fmt.Errorf("%s in %s is %s; only what is missing can be forgotten: %w", st.root, r.name, st.row.State, ErrNotMissing))
		}
	}
	return seats, errors.Join(errs...)
}

func (s *State) forget(e ForgetPlacement) error {
	seats, err := s.forgettable(e)
	if err != nil {
		return err
	}
	r := s.regions[e.Region]
	for _, st := range seats {
		s.emit(catalog.Event{Type: catalog.EventSlateForgotten, Region: r.name, Slate: st.row.Slate, Root: st.root,
			Before: string(catalog.SeenMissing), After: e.By,
			What: fmt.Sprintf("%s forgot the missing %s", firstOf(e.By, "somebody"), st.root)})
		s.vacate(r, st)
	}
	s.stirred[r.name] = true
	return nil
}

// vacate removes a placement's row. Only a person's word leads here (P1).
func (s *State) vacate(r *region, st *seat) {
	for _, x := range st.content.External {
		s.unpin(r, x.Path, st.root)
	}
	s.slates[st.row.Slate] = true
	s.keepHeld(r, st)
	r.placements--
	r.missing--
	if p := r.reporter; p != nil {
		gone := s.b.Slot(r.name, st.root)
		for i, slot := range p.slots {
			if slot == gone {
				p.slots[i] = table.None
			}
		}
	}
	if st.due != 0 {
		s.due.Delete(deadline{st.due, s.b.Slot(r.name, st.root)})
	}
	s.b.RemovePlacement(r.name, st.root)
	delete(r.names, st.root)
	st.content, st.row, st.since, st.movedAt = nil, nil, nil, nil
	st.due, st.next, st.late = 0, 0, false
	st.presence, st.presenceWhy = "", ""
	st.name, st.hidden = "", view.Hidden{}
	st.contentRev, st.presenceRev = catalog.Revision{}, catalog.Revision{}
	s.touch(r, st.root)
}
