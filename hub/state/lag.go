package state

import (
	"fmt"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// lagging names an archive that is behind.
type lagging struct{ slate, lineage, region string }

// tellLag tells in the event log where the archive of a slate falls behind what
// a policy bears, and where it has caught up, once each. It is the same whatever
// the policy does then. After a restart of the hub what is behind is told again.
func (s *State) tellLag(sub *Subject, v *plan.Verdict, policies []regions.Policy) {
	wanted, some := false, false
	for i := range policies {
		if t := policies[i].Trim; t != nil && t.MaxLag != nil {
			some = true
			wanted = wanted || t.MaxLag.Then == regions.ThenRequestSnapshot
		}
	}
	if !some && len(s.lagging) == 0 {
		return
	}
	for i := range v.Regions {
		o := &v.Regions[i]
		k := lagging{sub.Name, sub.Lineage, o.Region}
		why := ""
		for _, r := range o.Reasons {
			if r.Code == plan.RegionLagging {
				why = r.Message
			}
		}
		e := catalog.Event{Region: o.Region, Slate: sub.Name}
		switch {
		case why != "" && !s.lagging[k]:
			s.lagging[k] = true
			e.Type, e.What, e.After = catalog.EventRegionLagging, why, positionText(o.Verified)
			s.emit(e)
			if wanted && !holdable(sub.Kind) {
				e.Type, e.What = catalog.EventSnapshotWanted, fmt.Sprintf("a snapshot of %s is wanted in %s, and only its owner can make one: %s", sub.Name, o.Region, why)
				s.emit(e)
			}
		case why == "" && s.lagging[k] && (o.State == catalog.RegionConnected || o.State == catalog.RegionSuspect):
			delete(s.lagging, k)
			e.Type, e.After = catalog.EventRegionCaughtUp, positionText(o.Verified)
			e.What = fmt.Sprintf("the archive of %s in %s is not behind any more", sub.Name, o.Region)
			s.emit(e)
		}
	}
}

func positionText(n *uint64) string {
	if n == nil {
		return ""
	}
	return fmt.Sprint(*n)
}
