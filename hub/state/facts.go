package state

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

type factKey struct {
	kind catalog.FactKind
	key  string
}

// said is a statement about a bucket that can be withdrawn: a restore point,
// a registration, a lease, a finding.
type said struct {
	key  factKey
	rev  catalog.Revision
	root string // what it is about; "" for leases and for what is about no root
	// gone remembers a withdrawal, so that an older fact does not undo it.
	gone bool
	// leaving: withdrawn, but shown as last seen while its placement is
	// missing or its region blind.
	leaving bool
	// unsaid: it leaves because a report of everything lacked it, not because
	// its agent took it back.
	unsaid bool
	since  time.Duration // when it last changed
	lapsed bool          // a lease that was not renewed for its time

	restore      *catalog.RestorePoint
	registration *catalog.Registration
	lease        *catalog.Lease
	finding      *catalog.Finding
	pin          *catalog.Pin
}

// seat is a root of a region and everything that is known about it, for the
// length of a step; see [State.seatAt].
type seat struct {
	root string
	kept

	// content is the last sighting that had any; nil: never seen. After it is
	// settled it points into row, with the name that the agent gave apart.
	content    *catalog.Sighting
	name       string
	contentRev catalog.Revision
	bare       bool // content is only a name: it was never seen alive
	observed   time.Time
	renewed    bool // content is new since the row was made
	heardOf    bool // the row is made from the event log: only that it is there is known

	presence    catalog.Seen
	presenceWhy string
	presenceRev catalog.Revision
	agentStart  uint64 // who brought the content

	hidden view.Hidden
	doubt  bool          // what is known of it is told again
	next   time.Duration // when to look at it again without news; 0: no need

	declaredGone   bool
	movedSinceGone bool

	movedAt *time.Time
	row     *catalog.Placement // as the view has it; nil: none
}

// kept is what is remembered of a root beside its row when the step is over.
type kept struct {
	said []*said
	// since is since when its unnamed checkpoints look as they do, in the order
	// of the row; those it does not reach look so since the hub began.
	since     []time.Duration
	due       time.Duration // the deadline it has; 0: none
	late      bool          // it is looked at again when its region can be seen
	conflicts []string      // ids of registrations that differ from the standing one
}

func (k *kept) empty() bool {
	return len(k.said) == 0 && len(k.since) == 0 && k.due == 0 && !k.late && len(k.conflicts) == 0
}

// newer says whether b may follow a. Of one start the counter decides; a
// reporter of another start is the present, whatever its clock says, for only
// the session that the hub chose is heard.
func newer(a, b catalog.Revision) bool { return a.Start != b.Start || b.Counter > a.Counter }

func (s *State) reporter(id SessionID) (*region, *session) {
	p := s.sessions[id]
	if p == nil || p.region.reporter != p {
		return nil, nil
	}
	return p.region, p
}

func (s *State) delta(e Delta) {
	r, p := s.reporter(e.Session)
	// Before its snapshot a session's deltas say nothing whole, and of another
	// bucket they say nothing about this region.
	if r == nil || !p.synced || !s.proven(r, p) {
		return
	}
	s.stirred[r.name] = true
	for i := range e.Facts {
		f := &e.Facts[i]
		if s.retold(r, f) {
			s.again(r, f)
		}
		s.apply(r, p, f)
		s.counted(r, f)
	}
	if e.Upto.Start == p.start && e.Upto.Compare(r.applied) > 0 {
		r.applied = e.Upto
	}
	s.shedGone(r)
	s.send(p.id, Ack{Applied: r.applied})
}

// maxGone bounds how many withdrawals are remembered one by one.
const maxGone = 10_000

// shedGone lets go of the memory of single withdrawals when it grows: from
// then on whatever is not newer than what was applied counts as a replay, as
// after a snapshot.
func (s *State) shedGone(r *region) {
	if len(r.said) < r.shedAt {
		return
	}
	n := 0
	for _, sd := range r.said {
		if sd.gone {
			n++
		}
	}
	if n > maxGone {
		for k, sd := range r.said {
			if sd.gone {
				delete(r.said, k)
			}
		}
		r.floor = r.applied
	}
	r.shedAt = len(r.said) + maxGone
}

// guarded is how many live rows a snapshot may lack without a person's word.
func guarded(live int) int { return max(10, live/10) }

func (s *State) snapshot(e Snapshot) {
	r, p := s.reporter(e.Session)
	if r == nil {
		return
	}
	s.stirred[r.name] = true
	if r.blind != "" || !s.proven(r, p) {
		r.owed = true // asked for again when it can see
		r.unstage()
		s.done(p.id)
		return
	}
	if e.Count() == 0 && !e.Empty {
		why := fmt.Sprintf("an empty snapshot of %s that does not say it is meant to be empty was not applied: check what its agent sees of the bucket", r.name)
		s.noteCluster(p.cluster, why)
		s.refuse(Hello{Session: p.id, Region: r.name, Cluster: p.cluster.name, Agent: p.agent}, why)
		s.drop(p)
		s.promote(r)
		s.showCluster(p.cluster)
		return
	}
	s.begin(r, p, e)
}

// recollect has everything settled anew of which the event log alone knows
// something, when all has been told since.
func (s *State) recollect(r *region) {
	for k := range s.told {
		if part := strings.SplitN(k, "\x00", 2); part[0] == r.name {
			if root := k[strings.LastIndexByte(k, 0)+1:]; s.known(r, root) {
				s.touch(r, root)
			}
		}
	}
	s.tellAnew[r.name] = true
}

// apply takes one fact into account. Applying is idempotent, and for the
// facts of one start the order does not matter: the highest revision stays.
func (s *State) apply(r *region, p *session, f *catalog.Fact) {
	if f.Revision.Start != p.start {
		s.setAside(r, kindName(f.Kind), f.Key, fmt.Sprintf("revision %s is of another start than this session's %d", f.Revision, p.start))
		return
	}
	if f.Revision.Start == r.floor.Start && f.Revision.Counter <= r.floor.Counter {
		return // contained in a snapshot
	}
	if why := malformed(f); why != "" {
		s.setAside(r, kindName(f.Kind), f.Key, why)
		return
	}
	if f.Kind == catalog.FactPlacement {
		if !s.quick(r, p, f) {
			if taken := s.sighted(r, p, f); f.Ordinal > 0 && !taken {
				p.named(f.Ordinal, table.None)
			} else if f.Ordinal > 0 {
				s.ordinals = append(s.ordinals, ordinal{p, f.Ordinal, f.Key})
			}
		}
		return
	}
	k := factKey{f.Kind, f.Key}
	old := r.said[k]
	if old != nil && !newer(old.rev, f.Revision) {
		return
	}
	if f.Gone != "" {
		if f.Kind == catalog.FactPermit {
			s.b.RemovePermit(r.name, f.Key) // its agent looked, and says that it is not there
		}
		if old == nil {
			r.said[k] = &said{key: k, rev: f.Revision, gone: true}
		} else if !old.gone {
			old.unsaid = false
			s.withdraw(r, old, f.Revision)
		} else {
			old.rev = f.Revision
		}
		return
	}
	if old != nil {
		delete(r.leaving, old) // or what comes in its place would go with it
	}
	sd := &said{key: k, rev: f.Revision, since: s.mono,
		restore: f.RestorePoint, registration: f.Registration, lease: f.Lease, finding: f.Finding, pin: f.Pin}
	if f.Permit != nil {
		s.sawPermit(r, f.Permit)
	}
	if old != nil && sd.lease != nil && old.lease != nil && *old.lease == *sd.lease {
		sd.since, sd.lapsed = old.since, old.lapsed
	}
	if old != nil && sd.restore != nil && old.restore != nil && sameLook(old.restore, sd.restore) {
		sd.since = old.since // told again is not verified again
	}
	if old != nil && !old.gone && old.registration != nil &&
		(old.registration.Root != sd.registration.Root || old.registration.Slate != sd.registration.Slate) {
		s.unseat(r, old) // an inbox object that was replaced, against the contract
	}
	s.place(r, sd)
}

// sameLook reports whether a restore point is told as it was last seen, and
// not as it was seen anew.
func sameLook(old, is *catalog.RestorePoint) bool {
	if old.VerifiedAt != nil || is.VerifiedAt != nil {
		return old.VerifiedAt != nil && is.VerifiedAt != nil && old.VerifiedAt.Equal(*is.VerifiedAt)
	}
	c := *is
	c.Region, c.Slate, c.ObservedAt, c.FirstSeen = old.Region, old.Slate, old.ObservedAt, old.FirstSeen // the hub's
	return reflect.DeepEqual(old, &c)
}

// malformed says what is wrong with a fact, empty when nothing is.
func malformed(f *catalog.Fact) string {
	var has, want bool
	switch f.Kind {
	case catalog.FactPlacement:
		if f.Gone != "" {
			return "a placement is never withdrawn; it is sighted as missing"
		}
		if want = f.Sighting != nil; want && (f.Sighting.Root != f.Key || catalog.CheckName(f.Sighting.Root) != nil || catalog.CheckName(f.Sighting.Slate) != nil) {
			return "root and slate must be names, and the root its key"
		}
		if want && f.Sighting.Seen != catalog.SeenLive && f.Sighting.Seen != catalog.SeenMissing && f.Sighting.Seen != catalog.SeenUnreadable {
			return "seen must be live, missing or unreadable"
		}
		has = want
	case catalog.FactRestorePoint:
		has = f.RestorePoint != nil
		if has && catalog.RestorePointKey(f.RestorePoint.Root, f.RestorePoint.ID) != f.Key {
			return "root and id must be its key"
		}
	case catalog.FactRegistration:
		has = f.Registration != nil
		if has && f.Registration.ID != f.Key {
			return "id must be its key"
		}
	case catalog.FactLease:
		has = f.Lease != nil
	case catalog.FactFinding:
		has = f.Finding != nil
		if has && catalog.FindingKey(f.Finding.Code, f.Finding.Root, f.Finding.Object) != f.Key {
			return "code, root and object must be its key"
		}
	case catalog.FactPermit:
		has = f.Permit != nil
		if has && f.Permit.Slate != f.Key {
			return "slate must be its key"
		}
	case catalog.FactHold:
		has = f.Pin != nil
		if has && (catalog.PinKey(f.Pin.Root, f.Pin.ID) != f.Key || catalog.CheckName(f.Pin.Root) != nil) {
			return "root and id must be its key"
		}
	default:
		return "a kind of fact that this hub does not know"
	}
	if has == (f.Gone != "") {
		return "it must have a value or say why it is gone, one of the two"
	}
	return ""
}

func kindName(k catalog.FactKind) string {
	switch k {
	case catalog.FactPlacement:
		return "placement"
	case catalog.FactRestorePoint:
		return "restore-point"
	case catalog.FactRegistration:
		return "registration"
	case catalog.FactLease:
		return "lease"
	case catalog.FactFinding:
		return "finding"
	case catalog.FactPermit:
		return "permit"
	case catalog.FactHold:
		return "hold"
	}
	return fmt.Sprintf("kind-%d", k)
}

// sighted takes a sighting of a placement. What was seen and whether it is
// there are two facets: a sighting that only says missing leaves what was
// seen before as it was last seen. taken is false for a read of the past: then
// what moves from there has nothing here to go on from. Its agent must not
// name it, so that the digest finds what moves.
func (s *State) sighted(r *region, p *session, f *catalog.Fact) (taken bool) {
	g := f.Sighting
	st := s.seat(r, f.Key)
	bare := g.Seen != catalog.SeenLive && g.ManifestID == nil && g.WriterEpoch == nil && g.Position == nil
	fresh := st.content == nil || newer(st.contentRev, f.Revision)
	takes := fresh && !bare || st.content == nil || st.bare && (fresh || !bare)
	if takes && !st.doubt && regressed(st.content, g) {
		// A read of the past (a list that lags): within one incarnation
		// manifests only grow. It says nothing about being there either.
		return false
	}
	if takes {
		c := *g
		st.content, st.name, st.contentRev, st.bare = &c, g.Slate, f.Revision, bare
		st.observed, st.renewed = s.wall, true
		restarted := st.agentStart != p.start
		st.agentStart = p.start
		if restarted && st.row != nil {
			st.keepIncarnation()
		}
	}
	if st.presence == "" || newer(st.presenceRev, f.Revision) {
		st.presence, st.presenceWhy, st.presenceRev = g.Seen, g.Reason, f.Revision
	}
	s.touch(r, st.root)
	return true
}

// keepIncarnation: an agent that may not write in its bucket mints a new
// incarnation at every start of its own. When nothing else speaks for another
// database, it is the one that was there.
func (st *seat) keepIncarnation() {
	was, is := &st.row.Sighting, st.content
	if was.IncarnationKept || is.IncarnationKept || is.Predecessor != "" || was.Incarnation == "" {
		return
	}
	if was.ManifestID != nil && is.ManifestID != nil && *is.ManifestID >= *was.ManifestID {
		row := *st.row
		row.Incarnation = is.Incarnation // follows without an event
		st.row = &row
	}
}

func regressed(was, is *catalog.Sighting) bool {
	return was != nil && was.Incarnation == is.Incarnation && was.ManifestID != nil && is.ManifestID != nil && *is.ManifestID < *was.ManifestID
}

// place puts a statement where it is looked for.
func (s *State) place(r *region, sd *said) {
	r.said[sd.key] = sd
	switch {
	case sd.key.kind == catalog.FactPermit:
		return // of decisions; no row follows from them
	case sd.lease != nil:
		of := r.leases[sd.lease.Slate]
		if of == nil {
			of = map[string]*said{}
			r.leases[sd.lease.Slate] = of
		}
		of[sd.key.key] = sd
		row := &view.Lease{Region: r.name, Key: sd.key.key, Lease: *sd.lease}
		s.b.SetLease(row)
		sd.lease = &row.Lease // one, not two
		s.touchSlate(r, sd.lease.Slate)
		return
	case sd.registration != nil:
		sd.root = strings.Trim(sd.registration.Root, "/")
		row := &view.Registration{Region: r.name, Registration: *sd.registration}
		row.Owner, row.Contact, row.Domain, row.Labels = s.same.text(row.Owner), s.same.text(row.Contact), s.same.text(row.Domain), s.same.set(row.Labels)
		s.b.SetRegistration(row)
		sd.registration = &row.Registration
		if sd.root == "" {
			of := r.rootless[sd.registration.Slate]
			if of == nil {
				of = map[string]*said{}
				r.rootless[sd.registration.Slate] = of
			}
			of[sd.key.key] = sd
			s.touchRegistered(r, sd.registration.Slate)
			return
		}
	case sd.restore != nil:
		sd.root = sd.restore.Root
	case sd.finding != nil:
		sd.root = sd.finding.Root
	case sd.pin != nil:
		sd.root = sd.pin.Root
	}
	s.keep(r, sd.root).put(sd)
	s.touch(r, sd.root)
}

// lacked takes a statement back that a report of everything does not have. What
// was found in a database stays: an agent that began anew has not looked for it
// yet (P1).
func (s *State) lacked(r *region, sd *said, at catalog.Revision) {
	sd.unsaid = sd.finding != nil && sd.root != ""
	s.withdraw(r, sd, at)
}

// unlooked reports whether the agent has yet to look for findings at a root. Of
// a root that it does not see it tells them with its first report.
func (st *seat) unlooked() bool {
	return st.content != nil && (st.content.ListedAt == nil || st.presence != catalog.SeenLive)
}

// withdraw takes a statement back, as of a revision. The seat decides when it
// is settled whether it is still shown.
func (s *State) withdraw(r *region, sd *said, at catalog.Revision) {
	sd.rev = at
	switch {
	case sd.lease != nil:
		s.touchSlate(r, sd.lease.Slate)
		if s.shownAsLastSeen(r, sd.lease.Slate) {
			s.leave(r, sd)
			return
		}
		s.unseat(r, sd)
	case sd.registration != nil && sd.root == "":
		s.touchRegistered(r, sd.registration.Slate)
		s.unseat(r, sd)
	default:
		s.leave(r, sd)
		s.touch(r, sd.root)
	}
}

// leave marks a statement that is withdrawn and still shown.
func (s *State) leave(r *region, sd *said) {
	sd.leaving = true
	if r.leaving == nil {
		r.leaving = map[*said]bool{}
	}
	r.leaving[sd] = true
}

// unseat removes a statement from everywhere but the memory that it is gone.
func (s *State) unseat(r *region, sd *said) {
	switch {
	case sd.lease != nil:
		delete(r.leases[sd.lease.Slate], sd.key.key)
		if len(r.leases[sd.lease.Slate]) == 0 {
			delete(r.leases, sd.lease.Slate)
		}
		s.b.RemoveLease(r.name, sd.key.key)
		s.touchSlate(r, sd.lease.Slate)
	case sd.registration != nil:
		if of := r.rootless[sd.registration.Slate]; of != nil {
			delete(of, sd.key.key)
		}
		s.b.RemoveRegistration(r.name, sd.registration.ID)
	case sd.restore != nil:
		s.b.RemoveRestorePoint(r.name, sd.restore.Root, sd.restore.ID)
	case sd.finding != nil:
		s.b.RemoveFinding(r.name, sd.finding.Code, sd.finding.Root, sd.finding.Object)
	case sd.pin != nil:
		s.removePin(r, sd.pin.Root, sd.pin.ID)
	}
	if k := s.keptOf(r, sd.root); k != nil {
		k.drop(sd.key)
		s.touch(r, sd.root)
	}
	delete(r.leaving, sd)
	sd.restore, sd.registration, sd.lease, sd.finding, sd.pin = nil, nil, nil, nil, nil
	sd.gone, sd.leaving = true, false
}

// shownAsLastSeen reports whether statements about a slate stay although the
// bucket no longer has them: all its placements are missing, or nobody can see.
func (s *State) shownAsLastSeen(r *region, slate string) bool {
	if r.blind != "" || r.mismatch != "" {
		return true
	}
	some := false
	for p := range s.b.PlacementsOf(slate) {
		if p.Region != r.name {
			continue
		}
		some = true
		if s.seatAt(r, p.Root).presence != catalog.SeenMissing {
			return false
		}
	}
	return some
}

func (s *State) touchSlate(r *region, slate string) {
	for p := range s.b.PlacementsOf(slate) {
		if p.Region == r.name {
			s.touch(r, p.Root)
		}
	}
}

func (s *State) touchRegistered(r *region, slate string) {
	for _, sd := range r.said {
		if sd.registration != nil && sd.registration.Slate == slate && sd.root != "" {
			s.touch(r, sd.root)
		}
	}
}
