package state

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/btree"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// Saved is what a hub remembers of its life before.
type Saved struct {
	Regions regions.Set
	// View is the newest saved view that was whole; nil: none.
	View *SavedView
	// Events are the entries of the event log that are kept, in order. Those
	// after View.Event happened after the view was saved.
	Events []catalog.Event
}

// SavedView is a view read back. The state takes the rows as its own.
type SavedView struct {
	Seq   uint64    `json:"seq"`
	Event uint64    `json:"event"` // the last event that the rows contain
	At    time.Time `json:"at"`

	Regions  []*catalog.Region
	Clusters []*catalog.Cluster
	// Tables are the placements and slates of a view that was saved by columns;
	// nil: they are in Placements.
	Tables        *view.Tables `json:"-"`
	Placements    []*catalog.Placement
	RestorePoints []*catalog.RestorePoint
	Owners        []*catalog.OwnerRow
	Findings      []*catalog.Finding
	Registrations []*view.Registration
	Leases        []*view.Lease
	Held          []*view.Held
	Permits       []*view.Permit
	Pins          []*catalog.Pin
}

// unsavedSeqs is more than a life publishes after its last save: at fifty a
// second, years.
const unsavedSeqs = 1 << 32

// New begins a hub's life at now with what it remembers. Every region is
// stale, for none has been heard; its rows are yesterday's and say so.
func New(cfg Config, saved Saved, now time.Time) *State {
	cfg = cfg.withDefaults()
	start := uint64(max(0, now.UnixMicro()))
	if saved.View != nil {
		// Beyond what was published after it was saved, whatever the clock says.
		start = max(start, saved.View.Seq+unsavedSeqs)
	}
	s := &State{
		cfg: cfg, set: saved.Regions.Clone(), setDone: true, dec: newDecisions(), documented: map[string]int{}, placed: map[string]map[string]*catalog.Pin{}, lagging: map[lagging]bool{}, rules: &regions.Rules{},
		regions: map[string]*region{}, sessions: map[SessionID]*session{},
		b:     view.NewBuilder(start, cfg.MaxEvents, cfg.MaxChanges),
		told:  map[string]string{},
		due:   btree.NewBTreeG(deadline.less),
		seats: map[seatKey]bool{}, slates: map[string]bool{}, stirred: map[string]bool{}, refused: map[string]bool{}, bringing: map[SessionID]*ticket{}, tellAnew: map[string]bool{},
	}
	s.clock(now)
	s.names = s.set.Names()
	for _, n := range s.names {
		s.addRegion(n)
	}
	upto := uint64(0)
	if saved.View != nil {
		s.load(saved.View)
		upto = saved.View.Event
	}
	for i := range saved.Events {
		e := saved.Events[i]
		s.b.AddEvent(&e)
		s.recall(&e, e.Seq > upto)
	}
	s.b.StartEventsAt(upto)
	if saved.View == nil || saved.View.Tables == nil {
		for _, n := range s.names {
			s.touchAll(s.regions[n])
		}
	}
	s.settleAll()
	return s
}

// addRegion begins what is known of a region of the set.
func (s *State) addRegion(name string) {
	s.regions[name] = &region{
		name: name, seats: map[string]*seat{}, kept: map[string]*kept{}, names: map[string]string{}, leases: map[string]map[string]*said{}, rootless: map[string]map[string]*said{},
		pins: map[string]map[string]bool{}, said: map[factKey]*said{}, clusters: map[string]*cluster{}, since: s.wall, shedAt: maxGone,
	}
	s.stirred[name] = true
}

func (s *State) load(v *SavedView) {
	for _, row := range v.Regions {
		r := s.regions[row.Name]
		if r == nil {
			continue
		}
		r.asOf, r.bucket, r.cannotKeep, r.since = row.AsOf, row.Bucket, row.CannotKeep, row.Since
		switch row.State {
		case catalog.RegionConnected, catalog.RegionSuspect:
			r.told, r.since = "connected", s.wall
		case catalog.RegionReset:
			r.told, r.since = "reset", s.wall
		case catalog.RegionBlind:
			r.told, r.since = "blind", s.wall
		}
		r.state = catalog.RegionStale
	}
	for _, row := range v.Regions {
		if r := s.regions[row.Name]; r != nil && v.Tables != nil {
			// The rows contain everything up to here: an agent that was not
			// restarted goes on from there.
			if rev, err := catalog.ParseRevision(row.Revision); err == nil {
				r.applied, r.floor = rev, rev
			}
		}
	}
	for _, row := range v.Clusters {
		if r := s.regions[row.Region]; r != nil {
			c := &cluster{name: row.Name, region: r, row: *row}
			r.clusters[row.Name] = c
			s.showCluster(c)
		}
	}
	for _, row := range v.Permits {
		if s.regions[row.Region] != nil {
			s.b.SetPermit(row)
		}
	}
	for _, row := range v.Pins {
		if s.regions[row.Region] != nil {
			s.showPin(row)
		}
	}
	if v.Tables != nil {
		s.adopt(v)
		return
	}
	for _, row := range v.Placements {
		if r := s.regions[row.Region]; r != nil && row.Root != "" {
			s.seatSaved(r, row)
		}
	}
	s.loadOwners(v)
	for _, row := range v.RestorePoints {
		if r := s.regions[row.Region]; r != nil {
			s.b.SetRestorePoint(row)
			s.place(r, s.savedPoint(row))
		}
	}
	for _, row := range v.Findings {
		if r := s.regions[row.Region]; r != nil {
			s.b.SetFinding(row)
			if row.Code == conflictCode {
				k := s.keep(r, row.Root)
				k.conflicts = append(k.conflicts, row.Object)
				continue
			}
			s.place(r, savedFinding(row))
		}
	}
	for _, row := range v.Registrations {
		if r := s.regions[row.Region]; r != nil {
			s.place(r, &said{key: factKey{catalog.FactRegistration, row.ID}, registration: &row.Registration})
		}
	}
	for _, row := range v.Pins {
		if r := s.regions[row.Region]; r != nil {
			s.place(r, savedPin(row))
		}
	}
	s.loadLeases(v)
}

func (s *State) loadOwners(v *SavedView) {
	for _, row := range v.Owners {
		if r := s.regions[row.Region]; r != nil && row.Root != "" {
			if st := s.seatAt(r, row.Root); st != nil {
				st.movedAt = row.MovedAt
			}
			s.b.SetOwner(row)
		}
	}
}

func (s *State) loadLeases(v *SavedView) {
	for _, row := range v.Leases {
		if r := s.regions[row.Region]; r != nil {
			s.place(r, &said{key: factKey{catalog.FactLease, row.Key}, lease: &row.Lease})
		}
	}
}

// savedPoint is a restore point as it was said before this life began, as long
// ago as its row tells.
func (s *State) savedPoint(row *catalog.RestorePoint) *said {
	return &said{key: factKey{catalog.FactRestorePoint, catalog.RestorePointKey(row.Root, row.ID)}, root: row.Root, restore: row,
		since: -max(0, s.wall.Sub(row.ObservedAt))}
}

func savedFinding(row *catalog.Finding) *said {
	return &said{key: factKey{catalog.FactFinding, catalog.FindingKey(row.Code, row.Root, row.Object)}, root: row.Root, finding: row}
}

func savedPin(row *catalog.Pin) *said {
	return &said{key: factKey{catalog.FactHold, catalog.PinKey(row.Root, row.ID)}, root: row.Root, pin: row}
}

// seatSaved gives a saved placement its seat.
func (s *State) seatSaved(r *region, row *catalog.Placement) {
	st := s.seat(r, row.Root)
	st.row, st.content, st.name = row, &row.Sighting, row.Slate
	st.observed = row.ObservedAt
	st.presence, st.presenceWhy = row.Seen, row.Reason
	st.movedSinceGone = strings.Contains(row.Disagreement, movingText)
	r.placements++
	if row.Seen == catalog.SeenMissing {
		r.missing++
	}
	s.b.SetPlacement(row, false)
	s.slates[row.Slate] = true
	s.repin(r, st, nil, row.External)
}

// recall makes use of a kept event. late: it happened after the view was
// saved, so the rows do not know of it yet; what it tells must not be told
// again.
func (s *State) recall(e *catalog.Event, late bool) {
	if e.Type == catalog.EventAgentRefused {
		s.refused[refusedKey(e.Region, e.After)] = true
		return
	}
	r := s.regions[e.Region]
	if r == nil {
		return
	}
	switch e.Type {
	case catalog.EventRegionConnected, catalog.EventRegionStale, catalog.EventRegionBlind, catalog.EventRegionReset:
		r.told = e.After
	}
	if !late {
		return
	}
	if e.Root != "" {
		// What the log tells of a row is settled, or the next news of it might
		// find nothing to do.
		defer func() {
			if s.known(r, e.Root) {
				s.touch(r, e.Root)
			}
		}()
	}
	switch e.Type {
	case catalog.EventRegionAccepted, catalog.EventRegionReset:
		r.applied = catalog.Revision{} // everything was wanted anew
	case catalog.EventSlateAppeared, catalog.EventSlateMissing, catalog.EventSlateBack, catalog.EventUnreadable:
		s.recallPresence(r, e)
	case catalog.EventSlateForgotten:
		if st := s.seatAt(r, e.Root); st != nil && st.row != nil {
			s.vacate(r, st)
		}
	case catalog.EventWriterChanged, catalog.EventIncarnation:
		st := s.seatAt(r, e.Root)
		if st == nil || st.row == nil {
			return
		}
		row := *st.row
		if e.Type == catalog.EventIncarnation {
			// Of the new one nothing else is known: numbers of the one before would
			// make what is told of it look like a read of the past.
			row.Sighting = catalog.Sighting{
				Slate: row.Slate, Root: row.Root, Kind: row.Kind, KindFrom: row.KindFrom, Seen: row.Seen, Reason: row.Reason,
				Incarnation: e.After, Predecessor: e.Before, PositionDomain: row.PositionDomain, Checkpoints: []catalog.Checkpoint{},
			}
		} else if n, err := strconv.ParseUint(e.After, 10, 64); err == nil {
			at := e.Time
			row.WriterEpoch, row.WriterSince = &n, &at
		}
		s.b.SetPlacement(&row, false)
		st.row, st.content = &row, &row.Sighting
	case catalog.EventLastSnapshotLost:
		s.told[toldKey(r.name, "points", e.Root)] = pointsLost
	case catalog.EventReaderChanged:
		s.told[toldKey(r.name, "readers", e.Root)] = e.After
	case catalog.EventRegistered, catalog.EventDeregistered:
		s.told[toldKey(r.name, "owner", e.Root)] = e.After
	case catalog.EventSnapshotIncomplete:
		s.told[toldKey(r.name, "point\x00"+e.After, e.Root)] = string(catalog.RestoreIncomplete)
	case catalog.EventFindingGone:
		s.told[toldKey(r.name, "finding\x00"+e.Before, e.Root)] = ""
	case catalog.EventFinding:
		s.told[toldKey(r.name, "finding\x00"+e.After, e.Root)] = "found"
	}
}

// recallPresence brings a row to what the log says of its being there. A row
// that the log alone knows has nothing but its name until it is seen again.
func (s *State) recallPresence(r *region, e *catalog.Event) {
	if e.Root == "" {
		return
	}
	st := s.seatAt(r, e.Root)
	if st == nil || st.row == nil {
		row := &catalog.Placement{Region: r.name, ObservedAt: e.Time, FirstSeen: e.Time, StateSince: e.Time, State: catalog.StateLive}
		row.Slate, row.Root, row.Seen = e.Slate, e.Root, catalog.Seen(e.After)
		row.Readers, row.Checkpoints, row.Findings = []catalog.Reader{}, []catalog.Checkpoint{}, []catalog.FoundHere{}
		s.seatSaved(r, row)
		st = s.seatAt(r, e.Root)
		st.bare, st.heardOf = true, true
		return
	}
	row := *st.row
	was := row.Seen
	row.Seen, row.Reason = catalog.Seen(e.After), ""
	if row.Seen != catalog.SeenLive {
		_, row.Reason, _ = strings.Cut(e.What, ": ")
	}
	if was != catalog.SeenMissing && row.Seen == catalog.SeenMissing {
		r.missing++
	} else if was == catalog.SeenMissing && row.Seen != catalog.SeenMissing {
		r.missing--
	}
	s.b.SetPlacement(&row, false)
	st.row, st.content, st.presence, st.presenceWhy = &row, &row.Sighting, row.Seen, row.Reason
}

// Rows gives what a saved view has to contain, as lists; for the ledger.
func Rows(v *view.View) *SavedView {
	out := Beside(v)
	out.Placements, out.Owners = slices.Collect(v.Placements()), slices.Collect(v.Owners())
	return out
}

// Beside is [Rows] without the placements and what follows from them, which
// are saved by columns: see [view.View.WritePlacements].
func Beside(v *view.View) *SavedView {
	return &SavedView{
		Seq: v.Seq(), Event: v.LastEvent(), At: v.At(),
		Regions: slices.Collect(v.Regions()), Clusters: slices.Collect(v.Clusters()), RestorePoints: slices.Collect(v.RestorePoints()),
		Owners: slices.Collect(v.Declared()), Findings: slices.Collect(v.Findings()),
		Registrations: slices.Collect(v.Registrations()), Leases: slices.Collect(v.Leases()), Held: slices.Collect(v.Held()), Permits: slices.Collect(v.Permits()),
		Pins: slices.Collect(v.Pins()),
	}
}
