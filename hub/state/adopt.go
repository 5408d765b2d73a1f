package state

import (
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions/plan"
)

// adopt goes on with a view that was saved by columns. Its rows are settled:
// nothing is looked at one by one but what they cannot tell by themselves. What
// different regions said is put in its place side by side.
func (s *State) adopt(v *SavedView) {
	s.b.Adopt(v.Tables)
	by := s.apart(v)
	var building sync.WaitGroup
	building.Go(func() { s.b.LoadBeside(by.beside) })
	gate := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, r := range s.regions {
		building.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			s.placeAll(r, by.regions[r.name])
		})
	}
	s.adoptRows(v)
	building.Wait()
	for _, n := range s.names {
		for _, k := range by.regions[n].remind {
			s.due.Set(deadline{k.due, k.slot})
		}
	}
	s.loadOwners(v)
	clear(s.seats)
	s.loadLeases(v)
	for k := range s.seats { // leases may lapse
		if slot := s.b.Slot(k.region, k.root); slot != table.None {
			s.regions[k.region].late = append(s.regions[k.region].late, slot)
		}
	}
	clear(s.seats)
	clear(s.slates)
	s.cool()
}

// statements are what was said of one region's bucket.
type statements struct {
	points        []*catalog.RestorePoint
	findings      []*catalog.Finding
	registrations []*view.Registration
	pins          []*catalog.Pin
	held          map[string]bool // keys of findings that its agent holds
	remind        []reminder      // filled in
}

// reminder is when a placement is to be looked at again.
type reminder struct {
	*kept
	slot table.Slot
}

// sorted is a saved view's statements by region, and all of regions that are
// there.
type sorted struct {
	regions map[string]*statements
	beside  *view.Beside
}

func (s *State) apart(v *SavedView) sorted {
	by := sorted{map[string]*statements{}, &view.Beside{Held: v.Held}}
	for _, n := range s.names {
		by.regions[n] = &statements{held: map[string]bool{}}
	}
	for _, h := range v.Held {
		if of := by.regions[h.Region]; of != nil && h.Kind == catalog.FactFinding {
			of.held[h.Key] = true
		}
	}
	for _, row := range v.RestorePoints {
		if of := by.regions[row.Region]; of != nil {
			of.points = append(of.points, row)
		}
	}
	for _, row := range v.Findings {
		if of := by.regions[row.Region]; of != nil {
			of.findings = append(of.findings, row)
		}
	}
	for _, row := range v.Registrations {
		if of := by.regions[row.Region]; of != nil {
			of.registrations = append(of.registrations, row)
		}
	}
	for _, row := range v.Pins {
		if of := by.regions[row.Region]; of != nil {
			of.pins = append(of.pins, row)
		}
	}
	here := func(region string) bool { return by.regions[region] != nil }
	by.beside.RestorePoints = slices.DeleteFunc(slices.Clone(v.RestorePoints), func(r *catalog.RestorePoint) bool { return !here(r.Region) })
	by.beside.Findings = slices.DeleteFunc(slices.Clone(v.Findings), func(r *catalog.Finding) bool { return !here(r.Region) })
	by.beside.Registrations = slices.DeleteFunc(slices.Clone(v.Registrations), func(r *view.Registration) bool { return !here(r.Region) })
	by.beside.Held = slices.DeleteFunc(slices.Clone(v.Held), func(r *view.Held) bool { return !here(r.Region) })
	return by
}

// placeAll puts a region's statements where they are looked for, as
// [State.place] does one by one. It changes nothing but the region and what is
// told of it, and only reads the rows.
func (s *State) placeAll(r *region, of *statements) {
	n := len(of.points) + len(of.findings) + len(of.registrations) + len(of.pins)
	r.said, r.kept = make(map[factKey]*said, n), make(map[string]*kept, n)
	var room []kept
	keep := func(root string) *kept {
		k := r.kept[root]
		if k == nil {
			if len(room) == 0 {
				room = make([]kept, min(n, 64))
			}
			k, room = &room[0], room[1:]
			r.kept[root] = k
		}
		return k
	}
	put := func(sd *said) *kept {
		r.said[sd.key] = sd
		k := keep(sd.root)
		k.put(sd)
		return k
	}
	for _, row := range of.points {
		sd := s.savedPoint(row)
		k := put(sd)
		if row.State != catalog.RestoreVerified {
			continue
		}
		at := max(sd.since+plan.FreshFor, 1)
		switch slot := s.b.Slot(r.name, row.Root); {
		case slot == table.None:
		case k.due == 0:
			k.due = at
			of.remind = append(of.remind, reminder{k, slot})
		default:
			k.due = min(k.due, at)
		}
	}
	for _, row := range of.findings {
		if row.Code == conflictCode {
			k := keep(row.Root)
			k.conflicts = append(k.conflicts, row.Object)
			continue
		}
		sd := savedFinding(row)
		put(sd)
		if sd.root != "" && !of.held[sd.key.key] {
			sd.unsaid = true // nor will it be taken back
			s.leave(r, sd)
		}
	}
	for _, row := range of.pins {
		put(savedPin(row))
	}
	for _, row := range of.registrations {
		sd := &said{key: factKey{catalog.FactRegistration, row.ID}, registration: &row.Registration, root: strings.Trim(row.Root, "/")}
		if sd.root != "" {
			put(sd)
			continue
		}
		r.said[sd.key] = sd
		if r.rootless[row.Slate] == nil {
			r.rootless[row.Slate] = map[string]*said{}
		}
		r.rootless[row.Slate][sd.key.key] = sd
	}
}

// adoptRows counts what the saved placements and slates hold, and finds those
// that are more than their rows.
func (s *State) adoptRows(v *SavedView) {
	for region, sum := range s.b.Sums() {
		if r := s.regions[region]; r != nil {
			r.copied.digest.Add(sum)
		}
	}
	for _, h := range v.Held {
		if r := s.regions[h.Region]; r != nil {
			r.copied.digest.Add(h.Sum)
		}
	}
	for _, r := range s.regions {
		r.placements, r.missing = s.b.Count(r.name)
	}
	t := s.b.PlacementTable()
	checkpoints, external := t.Schema().Col("checkpoints"), t.Schema().Col("external")
	for slot := range s.b.Special() {
		c, i := t.At(slot)
		id := t.Ident(slot)
		r := s.regions[id.Region]
		if r == nil {
			continue
		}
		points, _ := c.Object(checkpoints, i).([]catalog.Checkpoint)
		if slices.ContainsFunc(points, func(c catalog.Checkpoint) bool { return c.Name == "" && c.Expires != nil }) {
			r.late = append(r.late, slot)
		}
		borrows, _ := c.Object(external, i).([]catalog.ExternalDB)
		for _, x := range borrows {
			parent := strings.Trim(x.Path, "/")
			if r.pins[parent] == nil {
				r.pins[parent] = map[string]bool{}
			}
			r.pins[parent][id.Root] = true
		}
	}
}
