package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// settledFolder has which revision of each policy has gone through a pass.
const settledFolder = "settled/"

func settledKey(policy string) string { return settledFolder + policy }

type settledRecord struct {
	Version  int    `json:"version"`
	Policy   string `json:"policy"`
	Revision uint64 `json:"revision"`
}

// judgeWishes looks at what a pass has come to as a whole (P11): where so many
// slates would be touched for the first time, or by a policy that nobody has
// seen at work yet, that it looks like a mistake, none of it is done and the
// breaker opens.
func (s *State) judgeWishes() {
	k := &s.steward
	if s.dec.breaker.Open {
		k.wishes = nil
		return
	}
	touched, fresh, ack := map[string]bool{}, map[string]bool{}, ackFor
	var policies []string
	for i := range k.wishes {
		w := &k.wishes[i]
		if w.Renewal {
			continue
		}
		touched[w.Decision.Slate] = true
		if k.cleared[w.Decision.Slate] || !w.first() && s.settledRevision(w.Policy) {
			continue
		}
		fresh[w.Decision.Slate] = true
		if p := w.Policy.Name; p != "" && !slices.Contains(policies, p) {
			policies = append(policies, p)
		}
	}
	for _, name := range policies {
		if p := s.rules.Policy(name); p != nil && p.Limits != nil && p.Limits.Breaker.AckTTL > 0 {
			ack = min(ack, time.Duration(p.Limits.Breaker.AckTTL))
		}
	}
	many, why := s.tooMany(len(fresh)), ""
	if many {
		slices.Sort(policies)
		why = s.wouldTouch(len(fresh)) + ", by policy " + strings.Join(policies, ", ")
	} else if at := s.regionThatCameBackOther(); at != "" && len(touched) > 0 {
		// What is known of it is another bucket's, or much less than it was: what the
		// others permit may rest on that nobody is there any more.
		many, fresh = true, touched
		why = fmt.Sprintf("region %s came back with another bucket or with much less in it, and %d slates would be touched; accept it first (quarry region accept %s), or find out what became of it", at, len(touched), at)
	}
	if many && len(fresh) > s.dec.breaker.allowed(s.wall) {
		k.wishes = nil
		s.trip("hub", why, uint64(len(fresh)), ack)
		return
	}
	if many {
		s.spendAllowance(len(fresh))
		if k.cleared == nil {
			k.cleared = map[string]bool{}
		}
		for slate := range fresh {
			k.cleared[slate] = true // budgets may have them wait for longer than the word holds
		}
	}
	s.settlePolicies()
	// Who has waited longest comes first: budgets may not have room for all.
	since := func(w *Wish) time.Time {
		if o := s.before(&w.Decision); o != nil {
			return o.Sent
		}
		return time.Time{}
	}
	slices.SortStableFunc(k.wishes, func(a, b Wish) int { return since(&a).Compare(since(&b)) })
}

// first reports whether a wish brings about what was not there before.
func (w *Wish) first() bool {
	switch w.Decision.Verb {
	case catalog.VerbPermit:
		return w.unruled
	case catalog.VerbHold:
		p := &w.Decision.Parameters
		return p.Replaces == "" && p.Purpose != catalog.PurposeRestorePoint
	}
	return false
}

// regionThatCameBackOther names a region whose bucket is not the one that was
// known, or that lacks much; empty: none.
func (s *State) regionThatCameBackOther() string {
	for _, n := range s.names {
		if m := s.set.Get(n); m.Membership != catalog.Retired && (m.Reset != "" || s.regions[n].mismatch != "") {
			return n
		}
	}
	return ""
}

// note counts what a verdict says of the policies that select its slate.
func (k *steward) note(policies []regions.Policy, v *plan.Verdict) {
	if k.stage != looking {
		return
	}
	ignorant := v.Action == plan.Wait && slices.ContainsFunc(v.Reasons, func(r plan.Reason) bool { return ofIgnorance(r.Code) })
	for i := range policies {
		p := &policies[i]
		t := k.tally[p.Name]
		if t == nil {
			t = &tally{revision: p.Applied.Revision}
			k.tally[p.Name] = t
		}
		t.slates++
		if ignorant {
			t.ignorant++
		}
	}
}

// ofIgnorance are the reasons that say nothing of what may be cut, only that
// nobody can see or that it is not the time.
func ofIgnorance(c plan.Code) bool {
	switch c {
	case plan.RegionStale, plan.RegionBlind, plan.RegionReset, plan.RegionJoining, plan.WindowClosed, plan.Frozen:
		return true
	}
	return false
}

// settlePolicies writes down which revisions have gone through a pass: from then
// on what they ask for day by day is what they are for. One that most slates
// could not be judged by has not.
func (s *State) settlePolicies() {
	percent := s.cfg.Budgets.withDefaults().Percent
	for _, name := range sortedKeys(s.steward.tally) {
		t := s.steward.tally[name]
		if s.settledRevision(PolicyRef{name, t.revision}) || t.ignorant*100 > percent*t.slates {
			continue
		}
		s.setSettled(name, t.revision)
		s.record(settledKey(name), settledRecord{recordVersion, name, t.revision})
	}
	for _, name := range sortedKeys(s.dec.settled) {
		if s.rules.Policy(name) == nil {
			s.setSettled(name, 0)
			s.out.Records = append(s.out.Records, Record{Key: settledKey(name)})
		}
	}
}

func (s *State) settledRevision(p PolicyRef) bool {
	return p.Name == "" || p.Revision > 0 && s.dec.settled[p.Name] == p.Revision
}

// setSettled replaces what is known, so that [State.Undo] can go back.
func (s *State) setSettled(policy string, revision uint64) {
	next := make(map[string]uint64, len(s.dec.settled)+1)
	for k, v := range s.dec.settled {
		if k != policy {
			next[k] = v
		}
	}
	if revision > 0 {
		next[policy] = revision
	}
	s.dec.settled = next
}

func (s *State) replaySettled(policy string, value []byte) error {
	var v settledRecord
	if err := decodeRecord(value, &v, func() int { return v.Version }); err != nil {
		return err
	}
	if v.Policy != policy || v.Revision == 0 {
		return fmt.Errorf("it is of policy %q, revision %d", v.Policy, v.Revision)
	}
	s.setSettled(policy, v.Revision)
	return nil
}

// room reports whether the hourly budgets have room for one more wish, and takes
// it. What has none waits for a later pass: it is wished for again.
func (s *State) room(w *Wish, used *spent, budgets Budgets) bool {
	d := &w.Decision
	if w.Renewal || !d.Verb.Irreversible() {
		return true
	}
	if budgets.full(used, d) {
		return false
	}
	if p := s.rules.Policy(w.Policy.Name); p != nil && p.Limits != nil {
		of := used.policySlates[p.Name]
		if n := p.Limits.PerHour.Slates; n > 0 && !of[d.Slate] && len(of) >= n {
			return false
		}
		if percent := p.Limits.PerHour.BytesPercent; percent > 0 && w.Bytes > 0 {
			if total := s.bytesUnder(p); float64(used.policyBytes[p.Name]+w.Bytes)*100 > percent*float64(total) {
				return false
			}
		}
	}
	used.add(d, w.Policy.Name, w.Bytes)
	return true
}

// bytesUnder is how many bytes the slates of a policy have in their buckets, as
// far as that is known.
func (s *State) bytesUnder(p *regions.Policy) (total uint64) {
	for row := range s.b.Placements() {
		if p.Select.Matches(regions.Subject{Name: row.Slate, Kind: row.Kind}) {
			total += orZero(cmp.Or(row.ListedBytes, row.Bytes))
		}
	}
	return total
}
