package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// UploadGrace is how long a folder that nothing lists may be an upload that is
// going on: nothing of it is removed before.
const UploadGrace = time.Hour

// Actions of [Prune], beside Wait.
const (
	Remove Action = "prune" // what is beyond the policy may be removed
	Keep   Action = "keep"  // nothing is beyond it
)

// Pruning is the answer of [Prune]: in each region something to remove, that
// nothing is beyond policy, or the reasons to wait.
type Pruning struct {
	// Action is Remove when any region has something to remove, else Wait when
	// any waits, else Keep.
	Action  Action          `json:"action"`
	Regions []RegionPruning `json:"regions"` // where the slate is, by name
	// Left is how many verified restore points there are over all regions that
	// are believed when everything is removed.
	Left    uint64   `json:"verified_left"`
	Reasons []Reason `json:"reasons"` // what holds back everywhere
}

// RegionPruning is what may be removed in one region.
type RegionPruning struct {
	Region string              `json:"region"`
	State  catalog.RegionState `json:"state"`
	Action Action              `json:"action"`
	// Points are all restore points, newest first, and what becomes of each.
	Points []Fate `json:"points"`
	// Remove are the keys of those that may go, newest first, and Bytes what they
	// are known to have; none unless Action is Remove.
	Remove []string `json:"remove"`
	Bytes  uint64   `json:"bytes"`
	// Sweep says that folders that nothing lists go too, when they have not
	// changed for OlderThan.
	Sweep     bool          `json:"sweep_orphans"`
	OlderThan time.Duration `json:"orphans_older_ns"`
	// Keep is how many verified ones must be left, Left how many are.
	Keep uint64 `json:"keep"`
	Left uint64 `json:"verified_left"`
	// Floor is how far the lowest restore point may be lifted here: the lower of
	// the floor and of what is permitted in its bucket; nil: not at all.
	Floor   *uint64  `json:"floor"`
	Reasons []Reason `json:"reasons"` // why it waits, beside what holds back everywhere; empty otherwise
}

// Fate is what becomes of a restore point, and why.
type Fate struct {
	ID       string               `json:"id"`
	Key      string               `json:"key"`
	Position uint64               `json:"position"`
	State    catalog.RestoreState `json:"state"`
	Made     time.Time            `json:"made"` // by its maker's clock; else when the hub first heard of it
	Stays    bool                 `json:"stays"`
	Why      Stay                 `json:"why"`
	Message  string               `json:"message"`
	Bytes    uint64               `json:"bytes"` // 0: not known
}

// Stay is a reason for which a restore point stays or goes.
type Stay string

// Why restore points stay.
const (
	StayNewest     Stay = "newest"     // what the pointer points to
	StayCount      Stay = "per-region" // one of those that every region must have
	StaySchedule   Stay = "schedule"   // the newest of an hour, a day or a week that is kept
	StayHeld       Stay = "hold"
	StayUnverified Stay = "unverified" // nobody has looked at it lately
	StayFloor      Stay = "floor"      // without it the lowest would be lifted above the floor
	StayTotal      Stay = "total"      // the fleet must have as many
	StayBlocked    Stay = "blocked"    // nothing is removed in its region now
)

// Why restore points go.
const (
	GoBeyond     Stay = "beyond-policy"
	GoIncomplete Stay = "incomplete" // it cannot be restored, and a newer one can
	GoUnderWay   Stay = "under-way"  // a decision that removes it was made
)

// Prune says which restore points of a slate are beyond what policies keep: all
// but, in each region, the newest, the perRegion newest verified ones, and the
// newest of each hour, day and week that is kept. Those that are not whole do
// not count. Several policies keep together what each of them keeps; where none
// that is about a region says which hours, days and weeks, all are kept there. floor is
// how far the log may be cut, as [Trim] permits; nil: not at all. Of s.Pins those
// that are no consumers keep all restore points from the one on with which their
// history begins. now is the hub's clock.
//
// What it lets go never leaves a region with fewer verified ones than perRegion
// and one, or the fleet with fewer than total (P4), and does not lift a
// region's lowest position above the floor, nor above what is permitted there: the
// owner's own trimming follows it (P5).
func Prune(policies []regions.Policy, s Slate, floor *uint64, now time.Time) Pruning {
	p := pruner{s: &s, now: now, floor: floor}
	p.read(policies)
	out := Pruning{Action: Keep, Regions: []RegionPruning{}, Reasons: []Reason{}}
	p.everywhere(&out)
	order := make([]*Region, 0, len(s.Regions))
	for i := range s.Regions {
		order = append(order, &s.Regions[i])
	}
	slices.SortStableFunc(order, func(a, b *Region) int { return cmp.Compare(a.Name, b.Name) })
	all := uint64(0) // verified ones of regions that are believed, whether they are pruned or not
	for _, r := range order {
		if !r.Placed && len(r.Points) == 0 {
			continue
		}
		one := p.region(r, len(out.Reasons) > 0)
		all += p.verified(r)
		out.Regions = append(out.Regions, one)
	}
	p.total(&out, all)
	for i := range out.Regions {
		r := &out.Regions[i]
		switch {
		case r.Action == Remove:
			out.Action = Remove
		case r.Action == Wait && out.Action == Keep:
			out.Action = Wait
		}
	}
	if len(out.Reasons) > 0 {
		out.Action = Wait
	}
	return out
}

// pruner is what Prune knows that is the same for all regions.
type pruner struct {
	s        *Slate
	now      time.Time
	policies []regions.Policy
	speaks   []regions.Policy // that say what is kept, or that orphans go
	count    int              // perRegion
	fleet    int              // total
	fresh    time.Duration    // maxAgeOfNewest; 0: any age
	floor    *uint64
}

func (p *pruner) read(policies []regions.Policy) {
	p.policies, p.count = policies, 1
	for i := range policies {
		r := &policies[i].RestorePoints
		p.count, p.fleet = max(p.count, r.PerRegion), max(p.fleet, r.Total)
		if d := time.Duration(r.MaxAgeOfNewest); d > 0 && (p.fresh == 0 || d < p.fresh) {
			p.fresh = d
		}
		if r.Keep != (regions.Keep{}) || r.SweepOrphans.Enabled {
			p.speaks = append(p.speaks, policies[i])
		}
	}
}

// keep is what the policies that are about a region keep there together.
func (p *pruner) keep(region string) (k regions.Keep) {
	for i := range p.speaks {
		if o := &p.speaks[i]; o.Select.InRegion(region) {
			r := &o.RestorePoints.Keep
			k.Hourly, k.Daily, k.Weekly = max(k.Hourly, r.Hourly), max(k.Daily, r.Daily), max(k.Weekly, r.Weekly)
		}
	}
	return k
}

// everywhere tells what holds back in all regions.
func (p *pruner) everywhere(out *Pruning) {
	say := func(c Code, format string, args ...any) {
		out.Reasons = append(out.Reasons, reason(c, format, args...))
	}
	if len(p.speaks) == 0 {
		say(NoPolicy, "no policy says which restore points of %s are kept; see restorePoints.keep in quarry policy --help", p.s.Name)
	}
	if p.s.Frozen != "" {
		say(Frozen, "%s; see quarry thaw", p.s.Frozen)
	}
	if p.s.Lost != "" {
		say(LastSnapshot, "%s", p.s.Lost)
	}
	for i := range p.policies {
		if open, why := p.policies[i].Open(regions.ActionPrune, p.now); !open {
			say(WindowClosed, "%s, by policy %s", why, p.policies[i].Name)
		}
	}
}

// believed says why what is known of a region does not count; ok: it does.
func (p *pruner) believed(r *Region) (Reason, bool) {
	in := stands(&Standing{r.Name, r.Membership, r.State, r.Heard})
	switch {
	case in != archived:
	case r.Lineage != p.s.Lineage:
		in = incomparable
	case r.Unreadable != "":
		in = unreadable
	default:
		return Reason{}, true
	}
	w := words{s: p.s, now: p.now}
	return w.stance(in, r, reach{}), false
}

// whole reports whether a restore point counts.
func (p *pruner) whole(pt *Point) bool {
	return pt.State == catalog.RestoreVerified && !pt.Leaving && !pt.VerifiedAt.Before(p.now.Add(-FreshFor))
}

// verified is how many of a region count.
func (p *pruner) verified(r *Region) (n uint64) {
	if _, ok := p.believed(r); !ok || r.Membership == catalog.Retired {
		return 0
	}
	for i := range r.Points {
		if p.whole(&r.Points[i]) {
			n++
		}
	}
	return n
}

// region says what may go in a region. blocked: nothing may anywhere.
func (p *pruner) region(r *Region, blocked bool) RegionPruning {
	out := RegionPruning{Region: r.Name, State: r.State, Action: Keep, Points: []Fate{}, Remove: []string{}, Keep: uint64(p.count), Reasons: []Reason{}}
	if p.floor != nil && r.Permitted != nil {
		out.Floor = new(min(*p.floor, *r.Permitted))
	}
	points := slices.Clone(r.Points)
	slices.SortStableFunc(points, newestFirst)
	fates := make([]Fate, len(points))
	for i := range points {
		pt := &points[i]
		fates[i] = Fate{ID: pt.ID, Key: cmp.Or(pt.Key, pt.ID), Position: pt.Position, State: pt.State, Made: made(pt), Bytes: pt.Bytes}
		if pt.State == catalog.RestoreVerified && !pt.Leaving && !p.whole(pt) {
			fates[i].State = catalog.RestoreListed // so long ago that it is a claim
		}
	}
	p.counted(points, fates)
	keep := p.keep(r.Name)
	p.schedule(points, fates, keep)
	p.held(points, fates)
	p.rest(points, fates, keep)
	p.lowest(points, fates, out.Floor)
	out.Points, out.Left = fates, left(fates)
	out.Reasons = p.waits(r, points)
	if len(out.Reasons) > 0 || blocked {
		out.block()
	}
	if !blocked && len(out.Reasons) == 0 {
		p.sweep(r, &out)
	}
	out.settle()
	if blocked {
		out.Action = Wait
	}
	return out
}

// waits are the reasons for which nothing goes in a region.
func (p *pruner) waits(r *Region, points []Point) (why []Reason) {
	why = []Reason{}
	switch said, ok := p.believed(r); {
	case !ok:
		return append(why, said)
	case r.Membership == catalog.Joining:
		return append(why, reason(RegionJoining, "%s is joining; nothing is removed there before it is relied on", r.Name))
	case r.Membership == catalog.Retired || !slices.ContainsFunc(p.speaks, func(o regions.Policy) bool { return o.Select.InRegion(r.Name) }):
		return append(why, reason(NoPolicy, "no policy that says what is kept is about %s; see its select.regions", r.Name))
	}
	whole, newest := 0, time.Time{}
	for i := range points {
		if p.whole(&points[i]) {
			if whole++; whole == 1 {
				newest = made(&points[i])
			}
		}
	}
	switch {
	case whole == 0:
		why = append(why, reason(LastSnapshot, "%s has no verified restore point of %s left; make a snapshot there", r.Name, p.s.Name))
	case whole < p.count:
		why = append(why, reason(BelowMinSnapshots, "%s has %d verified restore points, %d must stay", r.Name, whole, p.count))
	case p.fresh > 0 && p.now.Sub(newest) > p.fresh:
		why = append(why, reason(BelowMinSnapshots, "the newest verified restore point in %s is %s old, the policy wants one of at most %s; make a snapshot there", r.Name, p.now.Sub(newest).Round(time.Second), p.fresh))
	}
	return why
}

// made is when a restore point was made, as far as is known: not after the hub
// first heard of it, whatever its maker's clock says.
func made(pt *Point) time.Time {
	if pt.Made.IsZero() || pt.Made.After(pt.FirstSeen) {
		return pt.FirstSeen
	}
	return pt.Made
}

func (f *Fate) stay(why Stay, format string, args ...any) {
	if f.Why == "" {
		f.Stays, f.Why, f.Message = true, why, fmt.Sprintf(format, args...)
	}
}

func (f *Fate) leave(why Stay, format string, args ...any) {
	if f.Why == "" {
		f.Why, f.Message = why, fmt.Sprintf(format, args...)
	}
}

// counted keeps the newest, and the newest verified ones.
func (p *pruner) counted(points []Point, fates []Fate) {
	n := 0
	for i := range points {
		if points[i].Leaving {
			fates[i].leave(GoUnderWay, "a decision that removes it was made")
		}
	}
	for i := range points {
		if p.whole(&points[i]) {
			if n++; n <= p.count {
				fates[i].stay(StayCount, "%d. of %d verified ones that must stay", n, p.count)
			}
		}
		if points[i].Position == points[0].Position {
			fates[i].stay(StayNewest, "it is the newest, and what the pointer points to")
		}
	}
}

// schedule keeps the newest of each hour, day and week, for as many of them as
// have any.
func (p *pruner) schedule(points []Point, fates []Fate, keep regions.Keep) {
	for _, grid := range []struct {
		n    int
		of   string
		name func(t time.Time) string
	}{
		{keep.Hourly, "hour", func(t time.Time) string { return t.Format("2006-01-02 15:00") }},
		{keep.Daily, "day", func(t time.Time) string { return t.Format(time.DateOnly) }},
		{keep.Weekly, "week", func(t time.Time) string {
			y, w := t.ISOWeek()
			return fmt.Sprintf("%d-W%02d", y, w)
		}},
	} {
		seen := map[string]bool{}
		for i := range points {
			if len(seen) == grid.n {
				break
			}
			if !p.whole(&points[i]) {
				continue
			}
			if name := grid.name(made(&points[i]).UTC()); !seen[name] {
				seen[name] = true
				fates[i].stay(StaySchedule, "the newest of the %s %s, of %d that are kept", grid.of, name, grid.n)
			}
		}
	}
}

// held keeps what is needed to have the history that a pin keeps: from the
// restore point on that it begins with.
func (p *pruner) held(points []Point, fates []Fate) {
	for j := range p.s.Pins {
		pin := &p.s.Pins[j]
		if pin.Kind == PinConsumer {
			continue
		}
		begins, at := false, uint64(0)
		for i := range points { // the newest first
			if begins && points[i].Position < at {
				break
			}
			fates[i].stay(StayHeld, "%s %s keeps what begins at %d", pin.Kind, pin.ID, from(*pin))
			if points[i].Position <= from(*pin) && p.whole(&points[i]) {
				begins, at = true, points[i].Position // it is restored from this one
			}
		}
	}
}

// rest lets go of what nothing keeps.
func (p *pruner) rest(points []Point, fates []Fate, keep regions.Keep) {
	newer := false // a whole one
	for i := range points {
		f := &fates[i]
		if keep == (regions.Keep{}) {
			f.stay(StaySchedule, "no policy says what may go; see restorePoints.keep")
		}
		switch {
		case f.State == catalog.RestoreVerified:
			f.leave(GoBeyond, "nothing keeps it")
		case f.State == catalog.RestoreIncomplete && newer:
			f.leave(GoIncomplete, "it cannot be restored: %s", cmp.Or(points[i].Reason, "an object of it is missing"))
		case f.State == catalog.RestoreIncomplete:
			f.stay(StayUnverified, "it cannot be restored, and no newer one can")
		default:
			f.stay(StayUnverified, "it is %s: what nobody could look at lately is not removed", f.State)
		}
		newer = newer || p.whole(&points[i])
	}
}

// lowest keeps one restore point more where the lowest position would be lifted
// above the floor without it.
func (p *pruner) lowest(points []Point, fates []Fate, floor *uint64) {
	before, after := uint64(math.MaxUint64), uint64(math.MaxUint64)
	for i := range points {
		if points[i].Leaving {
			continue
		}
		before = min(before, fates[i].Position)
		if fates[i].Stays {
			after = min(after, fates[i].Position)
		}
	}
	if after == before || floor != nil && after <= *floor {
		return
	}
	bring := func(ok func(f *Fate) bool) bool {
		for i := range fates {
			if f := &fates[i]; !f.Stays && !points[i].Leaving && ok(f) {
				f.Stays, f.Why = true, StayFloor
				f.Message = "the owner cuts its log up to the lowest restore point, and nothing is permitted here now"
				if floor != nil {
					f.Message = fmt.Sprintf("the owner cuts its log up to the lowest restore point, and up to %d is permitted here", *floor)
				}
				return true
			}
		}
		return false
	}
	within := func(f *Fate) bool { return floor != nil && f.Position <= *floor }
	if bring(func(f *Fate) bool { return within(f) && f.State == catalog.RestoreVerified }) || bring(within) {
		return
	}
	bring(func(f *Fate) bool { return f.Position == before })
}

// sweep says whether orphans go.
func (p *pruner) sweep(r *Region, out *RegionPruning) {
	for i := range p.speaks {
		o := &p.speaks[i]
		if o.RestorePoints.SweepOrphans.Enabled && o.Select.InRegion(r.Name) {
			out.OlderThan = max(out.OlderThan, time.Duration(o.RestorePoints.SweepOrphans.OlderThan))
		}
	}
	if out.OlderThan == 0 {
		return
	}
	out.OlderThan = max(out.OlderThan, UploadGrace)
	for i := range r.Orphans {
		if o := &r.Orphans[i]; !o.ChangedAt.IsZero() && p.now.Sub(o.ChangedAt) >= out.OlderThan {
			out.Sweep = true
		}
	}
}

// total keeps restore points, the newest first, until the fleet has as many
// verified ones as it must. all is how many it has.
func (p *pruner) total(out *Pruning, all uint64) {
	going := uint64(0)
	for i := range out.Regions {
		for j := range out.Regions[i].Points {
			if f := &out.Regions[i].Points[j]; !f.Stays && f.Why != GoUnderWay && f.State == catalog.RestoreVerified {
				going++
			}
		}
	}
	out.Left = all - min(all, going)
	for out.Left < uint64(p.fleet) {
		var most *Fate
		of := 0
		for i := range out.Regions {
			for j := range out.Regions[i].Points {
				f := &out.Regions[i].Points[j]
				if !f.Stays && f.Why != GoUnderWay && f.State == catalog.RestoreVerified && (most == nil || f.Position > most.Position) {
					most, of = f, i
				}
			}
		}
		if most == nil {
			break
		}
		most.Stays, most.Why, most.Message = true, StayTotal, fmt.Sprintf("the fleet must have %d verified ones", p.fleet)
		out.Left++
		r := &out.Regions[of]
		r.Left = left(r.Points)
		r.settle()
	}
	if out.Left >= uint64(p.fleet) || len(p.speaks) == 0 {
		return
	}
	for i := range out.Regions {
		r := &out.Regions[i]
		if r.Action != Wait {
			r.Reasons = append(r.Reasons, reason(BelowMinSnapshots, "%s has %d verified restore points in all regions that are heard, %d must stay", p.s.Name, all, p.fleet))
			r.block()
			r.settle()
		}
	}
}

// left counts the verified ones that stay.
func left(fates []Fate) (n uint64) {
	for i := range fates {
		if fates[i].Stays && fates[i].State == catalog.RestoreVerified {
			n++
		}
	}
	return n
}

// block lets nothing go.
func (r *RegionPruning) block() {
	r.Sweep = false
	for i := range r.Points {
		if f := &r.Points[i]; !f.Stays && f.Why != GoUnderWay {
			f.Stays, f.Why, f.Message = true, StayBlocked, "nothing is removed here now; see the reasons"
		}
	}
	r.Left = left(r.Points)
}

// settle says what the region comes to.
func (r *RegionPruning) settle() {
	r.Remove, r.Bytes = r.Remove[:0], 0
	for i := range r.Points {
		if f := &r.Points[i]; !f.Stays && f.Why != GoUnderWay {
			r.Remove = append(r.Remove, f.Key)
			r.Bytes += f.Bytes
		}
	}
	switch {
	case len(r.Remove) > 0 || r.Sweep:
		r.Action = Remove
	case len(r.Reasons) > 0:
		r.Action = Wait
	default:
		r.Action = Keep
	}
}
