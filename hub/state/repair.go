package state

import (
	"fmt"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// drifted finds out, when the agent's digest is not the one of what it has
// sent, which buckets differ, and has those told again.
func (s *State) drifted(r *region, e Beat) bool {
	if e.Digest == ([32]byte{}) || e.At != r.applied || r.copied.digest.Root() == e.Digest {
		return false
	}
	r.confirmed = false
	if s.mayRepair(r) {
		s.send(r.reporter.id, WantDigests{Why: "the digests of hub and agent differ"})
	}
	return true
}

// missed has the reporter go on from what was applied when it says twice that
// it has told more: something was lost on the way.
func (s *State) missed(r *region, p *session, e Beat) {
	if e.At.Start != r.applied.Start || e.At.Compare(r.applied) <= 0 {
		p.behind = catalog.Revision{}
		return
	}
	if p.behind == r.applied && s.mayRepair(r) {
		s.welcome(r, p)
	}
	p.behind = r.applied
}

// mayRepair bounds how often something is asked for that is lacking.
func (s *State) mayRepair(r *region) bool {
	if r.repairedAt != 0 && s.mono-r.repairedAt < repairRest {
		if r.repairs >= maxRepairs {
			return false
		}
	} else {
		r.repairs = 0
	}
	r.repairs++
	r.repairedAt = max(s.mono, 1)
	return true
}

// A fault that a repair does not cure must not become a stream of them.
const (
	repairRest = time.Minute
	maxRepairs = 3
)

// digests answers with the buckets that differ.
func (s *State) digests(e Digests) {
	r, p := s.reporter(e.Session)
	if r == nil || !p.synced || !s.proven(r, p) {
		return
	}
	if e.At != r.applied {
		r.repairs = max(0, r.repairs-1) // more was on its way: the next beat tells
		return
	}
	var differ []uint8
	for i := range e.Buckets {
		if r.copied.digest.Bucket(uint8(i)) != e.Buckets[i] {
			differ = append(differ, uint8(i))
		}
	}
	switch {
	case len(differ) == 0 && e.Count == r.copied.digest.Count():
	case len(differ) == 0 || len(differ) > catalog.DigestBuckets/2:
		s.want(r, fmt.Sprintf("the digests of hub and agent differ in %d of %d buckets", len(differ), catalog.DigestBuckets))
	default:
		s.send(p.id, WantBuckets{Buckets: differ})
	}
}

// repair takes all facts of some buckets in the place of what was known of
// these. What is lacking is missing or withdrawn, as after a snapshot.
func (s *State) repair(e Repair) {
	r, p := s.reporter(e.Session)
	if r == nil {
		return
	}
	if !p.synced || !s.proven(r, p) || r.blind != "" {
		r.unstage()
		return
	}
	s.stirred[r.name] = true
	var in [catalog.DigestBuckets]bool
	for _, b := range e.Buckets {
		in[b] = true
	}
	inside := make(map[factKey]bool, len(e.Facts))
	for i := range e.Facts {
		inside[factKey{e.Facts[i].Kind, e.Facts[i].Key}] = true
	}
	covers := func(k factKey) bool { return in[catalog.BucketOf(uint32(k.kind), k.key)] }
	for k, a := range r.copied.aside {
		about := asideKey(kindName(k.kind), k.key)
		if covers(k) && !a.fresh { // what the repair does not have is aside no more
			delete(r.copied.aside, k)
			if sd := r.said[about]; sd != nil && !sd.gone {
				s.withdraw(r, sd, e.Upto)
			}
			continue
		}
		a.fresh = false
		r.copied.aside[k] = a
		inside[k], inside[about] = true, true
	}
	older := func(rev catalog.Revision) bool { return rev.Start != e.Upto.Start || rev.Counter <= e.Upto.Counter }

	live := 0
	var lacking []string
	for root, slot := range s.b.Roots(r.name) {
		there := s.b.Seen(slot) != catalog.SeenMissing
		if there {
			live++
		}
		k := factKey{catalog.FactPlacement, root}
		if covers(k) && !inside[k] && older(s.b.Hidden(slot).Presence) && there {
			lacking = append(lacking, root)
		}
	}
	for _, h := range slices.Collect(s.b.HeldIn(r.name)) {
		if k := (factKey{h.Kind, h.Key}); covers(k) && !inside[k] {
			s.letGo(r, k)
		}
	}
	for k, sd := range r.said {
		if covers(k) && !sd.gone && !inside[k] && older(sd.rev) {
			s.lacked(r, sd, e.Upto)
		}
	}
	for _, root := range lacking { // missing, never gone (P1)
		st := s.seatAt(r, root)
		st.presence, st.presenceRev = catalog.SeenMissing, e.Upto
		st.presenceWhy = absentReason + ": its agent's report of everything does not have it any more"
		r.copied.digest.Remove(st.hidden.Sum)
		st.hidden.Counter, st.hidden.Sum = 0, catalog.Sum{}
		s.touch(r, root)
	}
	for i := range e.Facts {
		f := &e.Facts[i]
		s.again(r, f)
		s.apply(r, p, f)
		s.counted(r, f)
	}
	if n := len(lacking); n > guarded(live) {
		s.set.Get(r.name).Reset = fmt.Sprintf("%s: a repair of %s lacked %d of %d slates; if it is right as it is: quarry region accept %s",
			regionReset, r.name, n, live, r.name)
		s.setDone = false
	}
}

// retold reports whether a fact is held at this very revision under another sum:
// what came as moves before a link or a hub broke comes whole now.
func (s *State) retold(r *region, f *catalog.Fact) bool {
	if f.Sum == (catalog.Sum{}) {
		return false
	}
	var counter uint64
	var sum catalog.Sum
	if h := s.b.HeldOf(r.name, f.Kind, f.Key); h != nil {
		counter, sum = h.Counter, h.Sum
	} else if f.Kind == catalog.FactPlacement {
		counter, sum = s.heldOf(r, f.Key)
	}
	return counter == f.Revision.Counter && sum != f.Sum
}

// lost reports whether a fact should be in the rows already, by its revision,
// and is not: it was told and never came here.
func (s *State) lost(r *region, k factKey, f *catalog.Fact) bool {
	if f.Revision.Start != r.floor.Start || f.Revision.Counter > r.floor.Counter || f.Sum == (catalog.Sum{}) {
		return false
	}
	counter, sum := uint64(0), catalog.Sum{}
	if h := s.b.HeldOf(r.name, k.kind, k.key); h != nil {
		counter, sum = h.Counter, h.Sum
	} else if k.kind == catalog.FactPlacement {
		counter, sum = s.heldOf(r, k.key)
	}
	return counter != f.Revision.Counter || sum != f.Sum
}

// again makes room for a fact that is told a second time: what is held of it
// is in doubt, whatever its revision.
func (s *State) again(r *region, f *catalog.Fact) {
	k := factKey{f.Kind, f.Key}
	before := catalog.Revision{Start: f.Revision.Start}
	if f.Revision.Counter > 0 {
		before.Counter = f.Revision.Counter - 1
	}
	s.letGo(r, k)
	if f.Kind == catalog.FactPlacement {
		if st := s.seatAt(r, f.Key); st != nil {
			r.copied.digest.Remove(st.hidden.Sum)
			st.hidden.Counter, st.hidden.Sum, st.doubt = 0, catalog.Sum{}, true
			if !newer(st.contentRev, f.Revision) {
				st.contentRev = before
			}
			if !newer(st.presenceRev, f.Revision) {
				st.presenceRev = before
			}
		}
	} else if sd := r.said[k]; sd != nil && !newer(sd.rev, f.Revision) {
		sd.rev = before
	}
	if r.floor.Start == f.Revision.Start && r.floor.Counter >= f.Revision.Counter {
		r.floor.Counter = before.Counter
	}
}
