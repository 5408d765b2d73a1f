package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// FreshFor is how long a verification counts; an older one is a claim (P3).
const FreshFor = 24 * time.Hour

// Trim says how far the history of a slate may be cut: at most to the lowest
// archived position over the regions that the policy requires (with atLeast m
// the m-th highest), less the safety gap, and below every hold and live reader
// (P5). now is the hub's clock, as all moments in s are.
//
// The regions of s must be all of the region set, whether the slate is there or
// not: those that are not required are ignored.
func Trim(p regions.Policy, s Slate, now time.Time) Verdict {
	v := Verdict{Action: Wait, Regions: []RegionOpinion{}, Holds: []Pin{}, Reasons: []Reason{}}
	if p.Trim == nil {
		v.Reasons = append(v.Reasons, reason(NoPolicy, "no policy permits trimming %s; see quarry apply", s.Name))
		return v
	}
	if s.Frozen != "" {
		v.Reasons = append(v.Reasons, reason(Frozen, "%s; see quarry thaw", s.Frozen))
	}
	if open, why := p.Open(regions.ActionTrim, now); !open {
		v.Reasons = append(v.Reasons, reason(WindowClosed, "%s, by policy %s", why, p.Name))
	}

	asked := ask(&p, &s, now)
	for _, a := range asked {
		v.Regions = append(v.Regions, a.RegionOpinion)
	}
	floor, binding, why := agreed(p.Trim.Require, asked)
	v.Reasons = append(v.Reasons, why...)
	if len(why) > 0 {
		return v // what follows has no floor to bound
	}
	f := bound{floor: floor, binding: binding}
	f.below(p.Trim.SafetyGap.Positions, floor)
	if keep := p.Trim.KeepNewest.Positions; keep > 0 && s.Head != nil {
		f.below(keep, *s.Head)
	}
	v.Holds, why = f.pins(s.Pins, asked)
	v.Reasons = append(v.Reasons, why...)
	if len(v.Reasons) > 0 {
		return v
	}
	v.Action, v.UpTo, v.Binding = Permit, &f.floor, f.binding
	return v
}

// opinion is what a required region says; archived is false when it counts as
// having archived nothing.
type opinion struct {
	RegionOpinion
	joining  bool
	archived bool
	best     uint64 // position of its newest restore point that counts
}

// ask hears every required region.
func ask(p *regions.Policy, s *Slate, now time.Time) []opinion {
	var out []opinion
	for i := range s.Regions {
		r := &s.Regions[i]
		if r.Membership != catalog.Retired && p.Select.InRegion(r.Name) {
			out = append(out, hear(p, s, r, now))
		}
	}
	slices.SortFunc(out, func(a, b opinion) int { return cmp.Compare(a.Region, b.Region) })
	return out
}

// hear says how far a region has archived a slate, and what counts against it.
func hear(p *regions.Policy, s *Slate, r *Region, now time.Time) opinion {
	o := opinion{RegionOpinion: RegionOpinion{Region: r.Name, State: r.State, Reasons: []Reason{}}, joining: r.Membership == catalog.Joining}
	against := func(c Code, format string, args ...any) { o.Reasons = append(o.Reasons, reason(c, format, args...)) }

	// What the region knows is shown even when it does not count.
	points := slices.Clone(r.Points)
	slices.SortFunc(points, func(a, b Point) int { // newest first
		return cmp.Or(cmp.Compare(b.Position, a.Position), b.FirstSeen.Compare(a.FirstSeen), cmp.Compare(a.ID, b.ID))
	})
	settled := time.Duration(max(p.Trim.SafetyGap.Age, p.Trim.KeepNewest.Age))
	counted, verified := 0, 0
	for i := range points {
		pt := &points[i]
		if o.Newest == nil {
			o.Newest = &pt.Position
		}
		switch {
		case pt.State == catalog.RestoreIncomplete:
			against(SnapshotIncomplete, "%s at %d is not whole: %s", pt.ID, pt.Position, pt.Reason)
			continue
		case pt.State == catalog.RestoreUnreadable:
			against(ArchiveUnreadable, "%s cannot be read: %s", pt.ID, pt.Reason)
			continue
		case pt.State != catalog.RestoreVerified || now.Sub(pt.VerifiedAt) > FreshFor:
			continue // listed is a claim
		}
		if verified++; o.AgeSeconds == nil {
			age := int64(max(0, now.Sub(pt.FirstSeen)) / time.Second)
			o.AgeSeconds = &age
		}
		if now.Sub(pt.FirstSeen) < settled {
			continue // too young to rely on
		}
		if counted++; counted == 1 {
			o.best = pt.Position
		}
		if counted == p.RestorePoints.PerRegion {
			o.Verified = &pt.Position
		}
	}

	switch {
	case !r.Heard:
		against(RegionStale, "%s has not been heard since this hub began to decide; check its agent", r.Name)
	case r.State == catalog.RegionStale:
		against(RegionStale, "%s has not reported for %s; check its agent, or take it out with quarry region retire %s", r.Name, now.Sub(r.Since).Round(time.Second), r.Name)
	case r.State == catalog.RegionBlind:
		against(RegionBlind, "%s cannot read its bucket; see quarry describe region %s", r.Name, r.Name)
	case r.State == catalog.RegionReset:
		against(RegionReset, "%s came back with much less; see quarry region accept %s", r.Name, r.Name)
	case r.State != catalog.RegionConnected && r.State != catalog.RegionSuspect:
		against(RegionStale, "the state of %s is not known", r.Name)
	case r.Placed && r.Lineage != s.Lineage:
		against(Incomparable, "what %s has by this name is another database: its positions cannot be compared", r.Name)
	case r.Unreadable != "":
		against(ArchiveUnreadable, "the archive in %s cannot be read: %s", r.Name, r.Unreadable)
	case o.Verified != nil:
		o.archived = true
		return o
	case o.joining:
		against(RegionJoining, "%s is joining and has %d of %d verified restore points; it is heard before it is relied on", r.Name, verified, p.RestorePoints.PerRegion)
	case len(r.Points) == 0:
		against(NoArchive, "%s has no restore point of %s; make a snapshot there, or take the region out of policy %s", r.Name, s.Name, p.Name)
	case verified == 0:
		against(NoArchive, "%s has no verified restore point of %s", r.Name, s.Name)
	default:
		against(BelowMinSnapshots, "%s has %d verified restore points that count, policy %s asks for %d", r.Name, counted, p.Name, p.RestorePoints.PerRegion)
	}
	return o
}

// agreed is the floor that the required regions agree on: of the active ones the
// lowest, or the m-th highest; of the joining and the included ones the lowest
// in any case. why is not empty when there is none.
func agreed(r regions.Require, asked []opinion) (floor uint64, binding string, why []Reason) {
	var active, must []*opinion
	for i := range asked {
		o := &asked[i]
		if o.joining {
			must = append(must, o)
			continue
		}
		active = append(active, o)
		if r.All || slices.Contains(r.Include, o.Region) {
			must = append(must, o)
		}
	}
	if len(active) == 0 {
		return 0, "", []Reason{reason(NoArchive, "the policy requires no active region: name one in select.regions, or make one active")}
	}
	for _, name := range r.Include {
		if !slices.ContainsFunc(asked, func(o opinion) bool { return o.Region == name }) {
			why = append(why, reason(NoArchive, "%s must have archived by trim.require.include and is not a region that the policy requires", name))
		}
	}
	for _, o := range must {
		if !o.archived {
			why = append(why, o.Reasons[len(o.Reasons)-1])
		}
	}
	if !r.All {
		// Those that have archived nothing come last, so that the m-th exists
		// only when m have.
		slices.SortStableFunc(active, func(a, b *opinion) int {
			if a.archived != b.archived {
				if a.archived {
					return -1
				}
				return 1
			}
			if !a.archived {
				return 0
			}
			return cmp.Compare(*b.Verified, *a.Verified)
		})
		switch {
		case r.AtLeast < 1 || r.AtLeast > len(active):
			why = append(why, reason(NoArchive, "the policy asks for %d regions and matches %d active ones", r.AtLeast, len(active)))
		case !active[r.AtLeast-1].archived:
			for _, o := range active {
				if !o.archived && !slices.Contains(must, o) {
					why = append(why, o.Reasons[len(o.Reasons)-1])
				}
			}
		default:
			must = append(must, active[r.AtLeast-1])
		}
	}
	if len(why) > 0 {
		return 0, "", why
	}
	low := slices.MinFunc(must, func(a, b *opinion) int { return cmp.Compare(*a.Verified, *b.Verified) })
	return *low.Verified, low.Region, nil
}

// bound is a floor on its way down.
type bound struct {
	floor   uint64
	binding string // the region it comes from
	nothing bool   // not even position 0 may be cut
}

// below keeps n positions below top.
func (b *bound) below(n, top uint64) {
	switch {
	case n > top:
		b.floor, b.nothing = 0, true
		b.binding = ""
	case top-n < b.floor:
		b.floor, b.binding = top-n, ""
	}
}

// pins lowers the floor below what is pinned. It gives the pins that bound it,
// lowest first, and why nothing can be cut when that is so.
func (b *bound) pins(all []Pin, asked []opinion) (held []Pin, why []Reason) {
	held = []Pin{}
	region := b.floor
	for _, pin := range all {
		if pin.Kind == PinConsumer {
			continue
		}
		if pin.Position == nil || *pin.Position == 0 {
			held = append(held, pin)
			why = append(why, pinned(pin))
			continue
		}
		if *pin.Position <= region { // what it needs begins at or below the floor
			held = append(held, pin)
			b.below(1, *pin.Position)
		}
	}
	slices.SortStableFunc(held, func(a, b Pin) int { return cmp.Compare(from(a), from(b)) })
	// Who reads on from below the floor begins again from a restore point of its
	// own region, which must reach as far.
	for _, pin := range all {
		if pin.Kind != PinConsumer || pin.Position != nil && *pin.Position > b.floor {
			continue
		}
		if !slices.ContainsFunc(asked, func(o opinion) bool { return o.Region == pin.Region && o.archived && o.best >= b.floor }) {
			held = append(held, pin)
			why = append(why, reason(WouldStrand, "%s in %s reads below %d, and no restore point there reaches as far; make a snapshot in %s first", pin.ID, pin.Region, b.floor, pin.Region))
		}
	}
	if b.nothing && len(why) == 0 {
		why = append(why, reason(BelowMinSnapshots, "less history is archived than the policy keeps beside it"))
	}
	return held, why
}

func from(p Pin) uint64 {
	if p.Position == nil {
		return 0
	}
	return *p.Position
}

func pinned(p Pin) Reason {
	where := ""
	if p.Region != "" {
		where = " in " + p.Region
	}
	switch p.Kind {
	case PinLegal:
		return reason(OnLegalHold, "legal hold %s%s keeps all of its history", p.ID, where)
	case PinReader:
		return reason(ReaderActive, "reader %s%s may need all of its history", p.ID, where)
	case PinClone:
		return reason(PinnedByClone, "clone %s%s reads its tables", p.ID, where)
	default:
		return reason(OnHold, "hold %s%s keeps all of its history; see quarry release", p.ID, where)
	}
}
