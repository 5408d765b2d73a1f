package state

import (
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// region is what the hub knows of one region of the set.
type region struct {
	name string
	// By root; that of "" has what is about no root. Seats are of this step.
	seats map[string]*seat
	kept  map[string]*kept
	names map[string]string // what the agent calls those that go by another name
	// late are placements to look at again when the region can be seen: readers
	// of them may lapse.
	late    []table.Slot
	leaving map[*said]bool // withdrawn and still shown

	leases map[string]map[string]*said // by slate, then by the fact's key
	// rootless are deregistrations that name a slate and no root, by slate.
	rootless map[string]map[string]*said
	// pins says which clones read a root's tables: parent, clone.
	pins map[string]map[string]bool
	said map[factKey]*said
	// shedAt: at so many statements, look whether most are withdrawn.
	shedAt int

	clusters map[string]*cluster
	reporter *session // who brings the facts; nil: nobody

	// applied is up to where the reporter's facts are in the rows; zero until
	// a snapshot of this hub's life was.
	applied catalog.Revision
	// floor: facts up to here are contained in a snapshot already applied.
	floor catalog.Revision

	heard    bool          // a valid beat came in this hub's life
	heardAt  time.Duration // when the last one did
	heardSay time.Time     // the same for people
	asOf     *time.Time

	copied     copied
	repairedAt time.Duration // when a repair of drift was last asked for; 0: never
	repairs    int           // asked for since the last rest

	unjudged bool   // the reporter has not said yet which bucket it sees
	mismatch string // the bucket is not the one that is known; facts wait
	blind    string // the agent cannot read its bucket
	// confirmed: the reporter has brought everything up to its last beat.
	confirmed   bool
	confirmedAt time.Duration // when it last had
	snapped     bool          // a snapshot was applied in this hub's life
	owed        bool          // a snapshot was put aside while the bucket was blind
	// accepted: a person said that what comes next is right as it is.
	accepted bool

	state      catalog.RegionState
	reason     string
	since      time.Time
	told       string // the last state that the event log tells of
	rowsStale  bool
	rowsWhy    string
	staleSince time.Time
	freshSince time.Duration // since when looks at its bucket are continuous

	bucket     string
	cannotKeep string
	spend      map[string]float64
	budget     float64
	placements uint64
	missing    uint64
}

// Reason codes of regions (DESIGN §7).
const (
	notHeard     = "not-heard"
	regionStale  = "region-stale"
	regionBlind  = "region-blind"
	regionReset  = "region-reset"
	firstLook    = "first-look"
	absentReason = "absent-from-report"
)

// judge says what state a region is in, from the hub's own clock and what the
// reporter says of itself.
func (s *State) judge(r *region) {
	if r == nil {
		return
	}
	silent := s.listened - r.heardAt
	reset := s.set.Get(r.name).Reset
	var state catalog.RegionState
	var reason, told string
	switch {
	case !r.heard:
		state, reason = catalog.RegionStale, fmt.Sprintf("%s: no agent of %s has reported since this hub started; check its agent", notHeard, r.name)
		if s.mono >= s.cfg.StaleAfter {
			told = "stale"
		}
	case silent >= s.cfg.StaleAfter:
		state, reason = catalog.RegionStale, fmt.Sprintf("%s: %s has not reported for %s; check its agent", regionStale, r.name, s.cfg.StaleAfter)
		told = "stale"
	case r.mismatch != "":
		state, reason, told = catalog.RegionBlind, r.mismatch, "reset"
	case r.blind != "":
		state, reason, told = catalog.RegionBlind, r.blind, "blind"
	case reset != "":
		state, reason, told = catalog.RegionReset, reset, "reset"
	case r.reporter == nil || !r.reporter.beaten || silent >= s.cfg.SuspectAfter:
		state, reason = catalog.RegionSuspect, fmt.Sprintf("%s: the beat of %s is late", regionStale, r.name)
		if r.reporter == nil {
			reason = fmt.Sprintf("%s: the session of %s is closed", regionStale, r.name)
		}
	default:
		state, told = catalog.RegionConnected, "connected"
		if !r.confirmed {
			reason = fmt.Sprintf("%s: the agent of %s has not told everything yet since it connected", firstLook, r.name)
		}
	}
	if state == catalog.RegionStale {
		// What a person has to accept does not go away with silence.
		for _, why := range []string{r.mismatch, reset} {
			if why != "" {
				reason += "; and " + why
				break
			}
		}
	}
	if state != r.state {
		r.state, r.since = state, s.wall
	}
	r.reason = reason
	if told != "" && told != r.told {
		s.tell(r, told, reason)
	}
	s.judgeRows(r)
}

// tell puts a region's change into the event log.
func (s *State) tell(r *region, now, reason string) {
	types := map[string]string{
		"connected": catalog.EventRegionConnected,
		"stale":     catalog.EventRegionStale,
		"blind":     catalog.EventRegionBlind,
		"reset":     catalog.EventRegionReset,
	}
	if now == "connected" {
		reason = r.name + " reports"
	}
	s.emit(catalog.Event{Type: types[now], Region: r.name, What: reason, Before: r.told, After: now})
	r.told = now
}

// judgeRows decides whether the region's rows may be called current.
func (s *State) judgeRows(r *region) {
	switch r.state {
	case catalog.RegionStale, catalog.RegionBlind:
		code, _, _ := strings.Cut(r.reason, ":")
		was, _, _ := strings.Cut(r.rowsWhy, ":")
		// A blind agent may word each failure differently: the code decides.
		if !r.rowsStale || code != was || r.mismatch != "" && r.reason != r.rowsWhy {
			s.unfresh(r, r.reason)
		}
	default:
		// An agent that beats and has not looked for so long makes nothing
		// current (P2).
		if !r.rowsStale && s.listened-r.confirmedAt >= s.cfg.StaleAfter {
			r.confirmed = false
			s.unfresh(r, firstOf(r.reason, firstLook))
		}
		if r.rowsStale && r.confirmed {
			r.rowsStale, r.rowsWhy = false, ""
			r.freshSince = s.mono
			s.b.StaleRegion(r.name, false, "", s.wall)
			s.touchLeaving(r)
		}
	}
}

// unfresh makes the region's rows show that they may be out of date. It costs
// the same however many there are.
func (s *State) unfresh(r *region, why string) {
	if !r.rowsStale {
		r.staleSince = s.wall
	}
	r.rowsStale, r.rowsWhy = true, why
	s.b.StaleRegion(r.name, true, why, r.staleSince)
}

// showRegion makes the region's row say what is so. When only clocks moved,
// watchers sleep on.
func (s *State) showRegion(r *region) {
	known := s.set.Get(r.name)
	row := &catalog.Region{
		Name: r.name, State: r.state, Membership: known.Membership, Retiring: known.Retiring, Reason: r.reason, Since: r.since,
		AsOf: r.asOf, Clusters: sortedKeys(r.clusters), BucketID: known.BucketID, Bucket: r.bucket,
		CannotKeep: r.cannotKeep, Placements: r.placements, Missing: r.missing,
		RequestsPerHour: r.spend, RequestBudget: r.budget,
	}
	if row.Clusters == nil {
		row.Clusters = []string{}
	}
	if r.heard {
		at := r.heardSay
		row.HeardAt = &at
	}
	if r.applied != (catalog.Revision{}) {
		row.Revision = r.applied.String()
	}
	s.b.SetTold(r.name, s.heardInTerm(r) && r.snapped)
	old := s.b.Region(r.name)
	if old != nil {
		a, b := *old, *row
		a.HeardAt, a.AsOf, a.RequestsPerHour, a.Revision = nil, nil, nil, ""
		b.HeardAt, b.AsOf, b.RequestsPerHour, b.Revision = nil, nil, nil, ""
		if reflect.DeepEqual(a, b) {
			if !reflect.DeepEqual(old, row) {
				s.b.SetRegion(row, true)
			}
			return
		}
	}
	s.b.SetRegion(row, false)
}

// checkBucket judges what the reporter says of its bucket's incarnation
// against what is known. readable is whether it says that it can read it.
func (s *State) checkBucket(r *region, id, why string, readable bool) {
	known := s.set.Get(r.name)
	was := r.mismatch
	r.mismatch = ""
	switch {
	case known.BucketID == "":
		if id != "" {
			// Recorded before the agent is told: s.setDone makes the record.
			known.BucketID = id
			s.setDone = false
		}
	case id == known.BucketID:
	case id == "" && !readable:
		// It cannot say: that is being blind, not another bucket. Its facts
		// wait all the same, for the bucket is not proven to be the one.
		if r.blind == "" {
			r.blind = regionBlind + ": " + firstOf(why, "the agent cannot read its bucket's region.json")
		}
		r.mismatch = was
	case id == "":
		r.mismatch = fmt.Sprintf("%s: the bucket of %s has no incarnation any more (%s), known is %s; if it is right as it is: quarry region accept %s",
			regionReset, r.name, firstOf(why, BucketNotThere), known.BucketID, r.name)
	default:
		r.mismatch = fmt.Sprintf("%s: the bucket of %s is %s, known is %s; if it is right as it is: quarry region accept %s",
			regionReset, r.name, id, known.BucketID, r.name)
	}
	if r.mismatch != "" {
		r.confirmed = false
		r.applied = catalog.Revision{}
		if r.reporter != nil {
			r.reporter.synced = false
		}
	} else if was != "" {
		// The known bucket is back. What was sent meanwhile was not applied.
		s.want(r, "the known bucket is back")
	}
}

// want asks the reporter for everything.
func (s *State) want(r *region, why string) {
	r.confirmed = false
	r.applied = catalog.Revision{}
	r.owed = false
	if p := r.reporter; p != nil {
		p.synced, p.wanted = false, why
		if now, _ := s.admit(p.id); now {
			s.send(p.id, WantSnapshot{Why: why})
		}
	}
}

// accepted is an [AcceptRegion] whose entry in the audit is durable.
type accepted AcceptRegion

func (accepted) event() {}

// mayAccept refuses what is nothing to accept, and has the rest put into the
// audit before the agent hears of it.
func (s *State) mayAccept(e AcceptRegion) error {
	if err := s.acceptable(e); err != nil {
		return err
	}
	why := firstOf(s.regions[e.Region].mismatch, s.set.Get(e.Region).Reset)
	s.audit(AuditEntry{Who: e.By, What: "accepted", Of: "region/" + e.Region, Why: why})
	s.out.Then = accepted(e)
	return nil
}

func (s *State) acceptable(e AcceptRegion) error {
	r := s.regions[e.Region]
	if r == nil {
		return fmt.Errorf("region %s is not in the region set: %w", e.Region, fs.ErrNotExist)
	}
	if r.mismatch == "" && s.set.Get(r.name).Reset == "" {
		return fmt.Errorf("region %s is %s: %w", r.name, r.state, ErrNothingToAccept)
	}
	return nil
}

func (s *State) accept(e AcceptRegion) error {
	if err := s.acceptable(e); err != nil {
		return err
	}
	r := s.regions[e.Region]
	known := s.set.Get(r.name)
	before := known.BucketID
	s.emit(catalog.Event{Type: catalog.EventRegionAccepted, Region: r.name, Before: firstOf(r.mismatch, known.Reset), After: e.By,
		What: fmt.Sprintf("%s accepted %s as it is now (its bucket was %s)", firstOf(e.By, "somebody"), r.name, firstOf(before, "not known"))})
	known.BucketID, known.Reset = "", ""
	s.setDone = false
	r.mismatch, r.accepted = "", true
	if p := r.reporter; p != nil {
		known.BucketID = p.bucketID
		p.synced = false
		s.welcome(r, p)
	}
	s.want(r, "the region was accepted")
	s.stirred[r.name] = true
	return nil
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
