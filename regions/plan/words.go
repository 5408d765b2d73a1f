package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// words explain a ruling. They decide nothing: what is said follows from the
// account of the decision.
type words struct {
	p    *regions.Policy
	s    *Slate
	rule *Rule
	f    *facts
	x    *account
	now  time.Time
}

func (w *words) verdict(r Ruling) Verdict {
	v := Verdict{Action: Wait, Regions: make([]RegionOpinion, 0, len(w.x.opinions)), Holds: []Pin{}, Reasons: []Reason{}}
	if !w.rule.permits {
		v.Reasons = append(v.Reasons, reason(NoPolicy, "no policy permits trimming %s; see quarry apply", w.s.Name))
		return v
	}
	for i := range w.x.opinions {
		v.Regions = append(v.Regions, w.region(i))
	}
	for _, i := range w.x.held {
		v.Holds = append(v.Holds, w.s.Pins[i])
	}
	slices.SortStableFunc(v.Holds, func(a, b Pin) int { return cmp.Compare(from(a), from(b)) })
	for _, c := range w.x.causes {
		v.Reasons = append(v.Reasons, w.cause(c, v.Regions))
		if c.kind == ofConsumer {
			v.Holds = append(v.Holds, w.s.Pins[c.of])
		}
	}
	if r.Why&lastSnapshot != 0 {
		v.Reasons = append(v.Reasons, reason(LastSnapshot, "%s; a new verified one there ends this, or a person with quarry thaw --slate %s", w.s.Lost, w.s.Name))
	}
	if r.Permit {
		v.Action, v.UpTo = Permit, &r.UpTo
		if r.Binding >= 0 {
			v.Binding = w.s.Regions[r.Binding].Name
		}
	}
	return v
}

// region tells what a required region says, also what does not count.
func (w *words) region(i int) RegionOpinion {
	a, o := &w.rule.asked[i], w.x.opinions[i]
	r := &w.s.Regions[a.column]
	out := RegionOpinion{Region: r.Name, State: r.State, Reasons: []Reason{}}
	points := r.Points
	if !slices.IsSortedFunc(points, newestFirst) {
		points = slices.Clone(points)
		slices.SortFunc(points, newestFirst)
	}
	for j := range points {
		pt := &points[j]
		if out.Newest == nil {
			out.Newest = &pt.Position
		}
		switch pt.State {
		case catalog.RestoreIncomplete:
			out.Reasons = append(out.Reasons, reason(SnapshotIncomplete, "%s at %d is not whole: %s", pt.ID, pt.Position, pt.Reason))
		case catalog.RestoreUnreadable:
			out.Reasons = append(out.Reasons, reason(ArchiveUnreadable, "%s cannot be read: %s", pt.ID, pt.Reason))
		case catalog.RestoreVerified:
			if out.AgeSeconds == nil && w.rule.fresh(nanos(pt.VerifiedAt)) {
				out.AgeSeconds = new(int64(max(0, w.now.Sub(pt.FirstSeen)) / time.Second))
			}
		}
	}
	_, marks := w.f.of(a.column)
	got := w.rule.reach(marks) // shown also when it does not count
	if w.rule.enough(got) {
		out.Verified = &got.position
	}
	switch {
	case o.stance != archived:
		out.Reasons = append(out.Reasons, w.stance(o.stance, r, got))
	case w.rule.behind != nil && w.rule.lags(w.f, o):
		out.Reasons = append(out.Reasons, w.lag(r, o))
	}
	return out
}

func newestFirst(a, b Point) int {
	return cmp.Or(cmp.Compare(b.Position, a.Position), b.FirstSeen.Compare(a.FirstSeen), cmp.Compare(a.ID, b.ID))
}

// stance says why a region counts as having archived nothing.
func (w *words) stance(s stance, r *Region, got reach) Reason {
	say := func(format string, args ...any) Reason { return reason(codeOf[s].code(), format, args...) }
	switch s {
	case notHeard:
		return say("%s has not been heard since this hub began to decide; check its agent", r.Name)
	case stale:
		return say("%s has not reported for %s; check its agent, or take it out with quarry region retire %s", r.Name, w.now.Sub(r.Since).Round(time.Second), r.Name)
	case blind:
		return say("%s cannot read its bucket; see quarry describe region %s", r.Name, r.Name)
	case reset:
		return say("%s came back with much less; see quarry region accept %s", r.Name, r.Name)
	case unknownState:
		return say("the state of %s is not known", r.Name)
	case incomparable:
		return say("what %s has by this name is another database: its positions cannot be compared", r.Name)
	case unreadable:
		return say("the archive in %s cannot be read: %s", r.Name, r.Unreadable)
	case joiningFew:
		return say("%s is joining and has %d of %d verified restore points; it is heard before it is relied on", r.Name, got.fresh, w.p.RestorePoints.PerRegion)
	case noneVerified:
		if len(r.Points) == 0 {
			return say("%s has no restore point of %s; make a snapshot there, or take the region out of policy %s", r.Name, w.s.Name, w.p.Name)
		}
		return say("%s has no verified restore point of %s", r.Name, w.s.Name)
	default: // tooFew
		if got.fresh > got.counted {
			return say("%s has %d verified restore points, %d of them older than %s; policy %s asks for %d of those", r.Name, got.fresh, got.counted,
				w.settled(), w.p.Name, w.p.RestorePoints.PerRegion)
		}
		return say("%s has %d verified restore points that count, policy %s asks for %d", r.Name, got.counted, w.p.Name, w.p.RestorePoints.PerRegion)
	}
}

// lag says how far a region is behind, and what brings it forward.
func (w *words) lag(r *Region, o opinion) Reason {
	say := func(format string, args ...any) Reason { return reason(RegionLagging, format, args...) }
	m, cure := w.p.Trim.MaxLag, "make a snapshot in "+r.Name
	if w.s.Domain == "lsn" { // only its owner writes a snapshot repository
		cure += ", with restatectl snapshots create there"
	}
	switch {
	case !w.f.hasHead:
		return say("how far %s goes on was not seen yet, so nobody knows how far the archive in %s is behind", w.s.Name, r.Name)
	case m.Positions > 0 && w.f.head-o.position > m.Positions:
		return say("the archive in %s is %d positions behind, policy %s bears %d; %s", r.Name, w.f.head-o.position, w.p.Name, m.Positions, cure)
	}
	return say("the archive in %s has been at %d for %s and the head is at %d, policy %s bears %s; %s", r.Name, o.position,
		w.now.Sub(time.Unix(0, o.seen)).Round(time.Second), w.f.head, w.p.Name, time.Duration(m.Age), cure)
}

// cause says why the slate waits.
func (w *words) cause(c cause, said []RegionOpinion) Reason {
	say := func(format string, args ...any) Reason { return reason(c.code.code(), format, args...) }
	switch c.kind {
	case ofSlate:
		return say("%s; see quarry thaw", w.s.Frozen)
	case ofWindow:
		return say("trimming is %s, by policy %s", w.rule.closed, w.p.Name)
	case ofRegion, ofLag:
		r := said[c.of].Reasons
		return r[len(r)-1] // its stance comes last
	case ofAbsent:
		return say("%s must have archived by trim.require.include and is not a region that the policy requires", w.rule.absent[c.of])
	case ofNone:
		return say("the policy requires no active region: name one in select.regions, or make one active")
	case ofTooMany:
		return say("the policy asks for %d regions and matches %d active ones", w.rule.atLeast, c.of)
	case ofPin:
		return w.pinned(c.code, &w.s.Pins[c.of])
	case ofConsumer:
		pin := &w.s.Pins[c.of]
		return say("%s in %s reads below %d, and no restore point there reaches as far; make a snapshot in %s first", pin.ID, pin.Region, w.x.floor, pin.Region)
	default: // ofBounds
		return w.bounds(c.code)
	}
}

// settled is how old a restore point has to be before the policy relies on it.
func (w *words) settled() time.Duration {
	return time.Duration(max(w.p.Trim.SafetyGap.Age, w.p.Trim.KeepNewest.Age))
}

// bounds says which of the policy's own bounds leaves nothing to be cut.
func (w *words) bounds(code Codes) Reason {
	agreed := w.x.agreed
	switch head := max(agreed, w.f.head); {
	case w.rule.gap > agreed:
		return reason(code.code(), "%s is archived up to %d by all that have to, and policy %s keeps %d positions beside that", w.s.Name, agreed, w.p.Name, w.rule.gap)
	case w.rule.keep > head && w.f.hasHead:
		return reason(code.code(), "%s goes on to %d, and policy %s keeps its newest %d positions", w.s.Name, w.f.head, w.p.Name, w.rule.keep)
	case w.rule.keep > 0:
		return reason(code.code(), "%s is archived up to %d, how far it goes on was not seen, and policy %s keeps its newest %d positions", w.s.Name, agreed, w.p.Name, w.rule.keep)
	}
	return reason(code.code(), "less history is archived than policy %s keeps beside it", w.p.Name)
}

// pinned says who keeps all history.
func (w *words) pinned(code Codes, p *Pin) Reason {
	where := ""
	if p.Region != "" {
		where = " in " + p.Region
	}
	format := "hold %s%s keeps all of its history; see quarry release"
	switch code {
	case onLegalHold:
		format = "legal hold %s%s keeps all of its history"
	case readerActive:
		format = "reader %s%s may need all of its history"
	case pinnedByClone:
		format = "clone %s%s reads its tables"
	}
	return reason(code.code(), format, p.ID, where)
}

// from is where what a pin needs begins.
func from(p Pin) uint64 {
	if p.Position == nil {
		return 0
	}
	return *p.Position
}
