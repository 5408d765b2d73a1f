package state

import (
	"fmt"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// A snapshot repository whose last restore point went in a region, without
// anybody's decision, is frozen by its name: a bucket's lifecycle rule, or
// whatever it was, may go on in the others, and what is cut meanwhile nobody
// can bring back. The freeze is like a person's, in the ledger, and ends when
// the region has a verified one again, or at a person's word.

// lastLost is a loss that is to be frozen for.
type lastLost struct{ slate, region string }

// lose remembers that a region has lost a slate's last restore point.
func (s *State) lose(r *region, row *catalog.Placement) {
	m := s.set.Get(r.name)
	if row.Kind != catalog.KindSnapshots || m == nil || m.Membership == catalog.Retired {
		return
	}
	if s.losing == nil {
		s.losing = map[lastLost]bool{}
	}
	s.losing[lastLost{row.Slate, r.name}] = false
}

// freezeLost freezes what was lost in this step, once it may record that, and
// again when it could not be recorded.
func (s *State) freezeLost(ticked bool) {
	if len(s.losing) == 0 || s.deciding() == 0 || s.mute || s.out.Err != nil {
		return
	}
	var all []lastLost
	for l := range s.losing {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b lastLost) int {
		return strings.Compare(a.slate+"\x00"+a.region, b.slate+"\x00"+b.region)
	})
	for _, l := range all {
		scope := regions.FreezeSlate + l.slate
		if regions.CheckScope(scope) != nil {
			delete(s.losing, l) // of a name like that nothing can be decided either
			continue
		}
		was := s.freezeOf(scope)
		if was != nil && (len(was.Lost) == 0 || slices.Contains(was.Lost, l.region)) {
			if s.losing[l] && ticked || !s.losing[l] {
				delete(s.losing, l) // a person froze it, or it is recorded
			}
			continue
		}
		lost, at := []string{l.region}, s.wall
		if was != nil {
			lost = append(slices.Clone(was.Lost), l.region)
			slices.Sort(lost)
			at = was.At
		}
		f := regions.Freeze{Scope: scope, By: "hub", At: at, Lost: lost,
			Why: fmt.Sprintf("%s: %s has no restore point of it left, and nobody decided that", catalog.EventLastSnapshotLost, strings.Join(lost, " and "))}
		if next, err := s.rules.Frozen(f); err == nil {
			s.record(freezeKey(scope), freezeRecord{Version: recordVersion, Freeze: f})
			s.deed(catalog.EventFrozen, f.By, f.Why, scope, scope+" was frozen")
			s.adoptRules(next)
			s.losing[l] = true
		}
	}
}

// found ends a freeze for a loss, when the region has a verified restore point:
// when it was told so, for what a hub remembers may be from before the loss.
func (s *State) found(r *region, row *catalog.Placement) {
	if row.VerifiedRestorePoints == 0 || row.Seen != catalog.SeenLive || len(s.rules.Freezes) == 0 && len(s.losing) == 0 {
		return
	}
	if !r.snapped || !s.heardInTerm(r) {
		return // [State.unfound] has it looked at again
	}
	delete(s.losing, lastLost{row.Slate, r.name})
	scope := regions.FreezeSlate + row.Slate
	was := s.freezeOf(scope)
	if was == nil || !slices.Contains(was.Lost, r.name) || s.deciding() == 0 || s.mute || s.out.Err != nil {
		return
	}
	f := *was
	f.Lost = slices.DeleteFunc(slices.Clone(was.Lost), func(n string) bool { return n == r.name })
	if len(f.Lost) > 0 {
		if next, err := s.rules.Frozen(f); err == nil {
			s.record(freezeKey(scope), freezeRecord{Version: recordVersion, Freeze: f})
			s.adoptRules(next)
		}
		return
	}
	if next, err := s.rules.Thawed(scope); err == nil {
		s.out.Records = append(s.out.Records, Record{Key: freezeKey(scope)})
		s.deed(catalog.EventThawed, "hub", r.name+" has a verified restore point again", scope, scope+" was thawed")
		s.adoptRules(next)
	}
}

// unfound has the regions looked at again that a freeze for a loss is about: one
// may have a verified restore point whose news could not be recorded.
func (s *State) unfound() {
	for i := range s.rules.Freezes {
		f := &s.rules.Freezes[i]
		for _, name := range f.Lost {
			slate := strings.TrimPrefix(f.Scope, regions.FreezeSlate)
			for p := range s.b.PlacementsOf(slate) {
				if r := s.regions[name]; r != nil && p.Region == name && p.VerifiedRestorePoints > 0 {
					s.touch(r, p.Root)
				}
			}
		}
	}
}

func (s *State) freezeOf(scope string) *regions.Freeze {
	for i := range s.rules.Freezes {
		if f := &s.rules.Freezes[i]; f.Scope == scope {
			return f
		}
	}
	return nil
}

// lostWords is what a verdict says of a freeze for a loss; empty: it is a
// person's.
func lostWords(f *regions.Freeze, s *plan.Slate) string {
	if len(f.Lost) == 0 {
		return ""
	}
	return fmt.Sprintf("%s lost its last restore point of %s at %s, and nobody decided that", strings.Join(f.Lost, " and "), s.Name, f.At.UTC().Format("2006-01-02 15:04:05Z07:00"))
}
