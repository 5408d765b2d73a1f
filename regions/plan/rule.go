package plan

import (
	"math"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// Standing is how a region stands, whatever the slate.
type Standing struct {
	Name       string
	Membership catalog.Membership
	State      catalog.RegionState
	Heard      bool // in this term; see [Region]
}

// Ruling is a verdict without its words: what [Trim] decides, and for which
// reasons, as numbers. The zero Ruling is none: it permits nothing.
type Ruling struct {
	// UpTo is the floor, inclusive, when Permit.
	UpTo uint64
	// Binding is the place in the region set of the region that the floor comes
	// from; -1: of none.
	Binding int32
	Permit  bool
	Why     Codes // why it waits; none for a permit
}

// Stricter is the ruling of two policies that both select a slate: the most
// restrictive wins.
func Stricter(a, b Ruling) Ruling {
	switch {
	case a.Permit && b.Permit && b.UpTo < a.UpTo:
		return b
	case a.Permit && b.Permit:
		return a
	default:
		return Ruling{Binding: -1, Why: a.Why | b.Why}
	}
}

// Rule is what policies that select a slate say of it at a moment, over a region
// set: all that is the same for every slate, worked out once. It is immutable.
type Rule struct {
	others  []*Rule // of further policies: the strictest wins
	permits bool    // there is a policy to trim by
	closed  string  // why no window is open
	asked   []asked
	active  int      // how many of them are
	absent  []string // required by name, and not asked
	all     bool
	atLeast int
	which   int // of a region's restore points, counted from the newest, is its archived position
	// A restore point is verified when that was at freshSince or later, and
	// settled when it was first seen at seenBy or before: Unix nanoseconds.
	freshSince, seenBy int64
	gap, keep          uint64
	// behind is how far a region's archive may be behind; nil: as far as it likes.
	behind *lag
}

// lag is how far a region's archive may be behind the head, and whether more of
// it holds everything back.
type lag struct {
	positions uint64 // 0: any
	seenBy    int64  // what it has archived was first seen after that: Unix nanoseconds; the lowest: any time
	blocks    bool
}

// asked is a required region.
type asked struct {
	column  int // of the region set; -1: no slate has anything there
	joining bool
	must    bool // the floor is at most its archived position
	stance  stance
}

// stance is why a region counts as having archived nothing.
type stance uint8

const (
	archived stance = iota // it does not: it has archived
	notHeard
	stale
	blind
	reset
	unknownState
	incomparable
	unreadable
	joiningFew
	noneVerified
	tooFew
)

var codeOf = [...]Codes{
	notHeard: regionStale, stale: regionStale, unknownState: regionStale, blind: regionBlind, reset: regionReset,
	incomparable: incomparablePositions, unreadable: archiveUnreadable, joiningFew: regionJoining, noneVerified: noArchive, tooFew: belowMinSnapshots,
}

// newRule reads a policy. column says where a region of the set stands in what
// is known of slates. The order of asked is that of set, which is by name.
func newRule(p *regions.Policy, set []Standing, column func(i int) int, now time.Time) *Rule {
	if p.Trim == nil {
		return &Rule{}
	}
	settled := time.Duration(max(p.Trim.SafetyGap.Age, p.Trim.KeepNewest.Age))
	r := &Rule{
		permits: true, all: p.Trim.Require.All, atLeast: p.Trim.Require.AtLeast, which: p.RestorePoints.PerRegion,
		freshSince: nanos(now.Add(-FreshFor)), seenBy: nanos(now.Add(-settled)),
		gap: p.Trim.SafetyGap.Positions, keep: p.Trim.KeepNewest.Positions,
	}
	if m := p.Trim.MaxLag; m != nil {
		r.behind = &lag{positions: m.Positions, seenBy: math.MinInt64, blocks: m.Then == regions.ThenBlock}
		if m.Age > 0 {
			r.behind.seenBy = nanos(now.Add(-time.Duration(m.Age)))
		}
	}
	if open, why := p.Open(regions.ActionTrim, now); !open {
		r.closed = why
	}
	include := p.Trim.Require.Include
	r.asked = make([]asked, 0, len(set))
	for i := range set {
		s := &set[i]
		if s.Membership == catalog.Retired || !p.Select.InRegion(s.Name) {
			continue
		}
		a := asked{column: column(i), joining: s.Membership == catalog.Joining, stance: stands(s)}
		a.must = a.joining || r.all || slices.Contains(include, s.Name)
		if !a.joining {
			r.active++
		}
		r.asked = append(r.asked, a)
	}
	for _, name := range include {
		if !slices.ContainsFunc(set, func(s Standing) bool {
			return s.Name == name && s.Membership != catalog.Retired && p.Select.InRegion(name)
		}) {
			r.absent = append(r.absent, name)
		}
	}
	return r
}

// stands says whether a region may be believed at all.
func stands(s *Standing) stance {
	switch {
	case !s.Heard:
		return notHeard
	case s.State == catalog.RegionStale:
		return stale
	case s.State == catalog.RegionBlind:
		return blind
	case s.State == catalog.RegionReset:
		return reset
	case s.State != catalog.RegionConnected && s.State != catalog.RegionSuspect:
		return unknownState
	}
	return archived
}

// account is what a decision was made of, for whoever has to explain it.
type account struct {
	opinions []opinion // of the regions asked, in their order
	causes   []cause   // why it waits, in the order to be told
	held     []int     // pins that bound the floor, as they come
	agreed   uint64    // when the regions agree on a floor
	floor    uint64    // that, less what bounds it
}

// opinion is what a required region says.
type opinion struct {
	stance   stance
	position uint64 // its archived position, when that is its stance
	seen     int64  // when that was first heard of
}

// cause is a reason before it has words.
type cause struct {
	code Codes
	of   int // the region asked, the pin or the name that it is about; or a number
	kind causeKind
}

type causeKind uint8

const (
	ofSlate causeKind = iota
	ofWindow
	ofRegion
	ofAbsent   // a region required by name
	ofNone     // no active region
	ofTooMany  // atLeast
	ofPin      // it keeps everything
	ofConsumer // it would be stranded
	ofBounds
	ofLag // a region asked that is behind
)

// because counts a cause, and tells it when somebody wants to know.
func (v *Ruling) because(x *account, code Codes, kind causeKind, of int) {
	v.Why |= code
	if x != nil {
		x.causes = append(x.causes, cause{code, of, kind})
	}
}

// strictest is the ruling of all policies together.
func (r *Rule) strictest(f *facts) Ruling {
	v := r.decide(f, nil)
	for _, o := range r.others {
		v = Stricter(v, o.decide(f, nil))
	}
	return v
}

// decide is the rule: how far the history of a slate may be cut, or why not, by
// one policy. x may be nil.
func (r *Rule) decide(f *facts, x *account) Ruling {
	v := Ruling{Binding: -1}
	if !r.permits {
		v.Why = noPolicy
		if r.closed != "" {
			v.Why = windowClosed // of a policy that says no more than when
		}
		return v
	}
	if f.frozen {
		v.because(x, frozen, ofSlate, 0)
	}
	if r.closed != "" {
		v.because(x, windowClosed, ofWindow, 0)
	}
	if f.lost {
		v.Why |= lastSnapshot // told last: what is lost shows in the regions' own reasons
	}
	b := bound{binding: -1}
	if !r.agreed(f, x, &v, &b) {
		return v // what follows has no floor to bound
	}
	// The gap is kept beside what the region has archived: the floor is still its.
	agreed, from := b.floor, b.binding
	if x != nil {
		x.agreed = agreed
	}
	if b.below(r.gap, agreed); !b.nothing {
		b.binding = from
	}
	if r.keep > 0 {
		head := agreed // nobody has seen how far the log goes on
		if f.hasHead {
			head = f.head
		}
		b.below(r.keep, head)
	}
	if len(f.pins) > 0 {
		r.pins(f, x, &v, &b)
	}
	if x != nil {
		x.floor = b.floor
	}
	if b.nothing && v.Why&^(frozen|windowClosed|lastSnapshot) == 0 {
		v.because(x, belowMinSnapshots, ofBounds, 0)
	}
	if v.Why == 0 {
		v.Permit, v.UpTo, v.Binding = true, b.floor, int32(b.binding)
	}
	return v
}

// hear says how far a required region has archived a slate.
func (r *Rule) hear(a *asked, f *facts) opinion {
	if a.stance != archived {
		return opinion{stance: a.stance}
	}
	in, marks := f.of(a.column)
	if in != archived {
		return opinion{stance: in}
	}
	got := r.reach(marks)
	if !r.enough(got) {
		return opinion{stance: few(a, got.fresh)}
	}
	if r.behind == nil {
		return opinion{position: got.position}
	}
	return opinion{position: got.position, seen: r.heardOf(marks)}
}

// heardOf is when the restore point was first heard of whose position is the
// archived one, of restore points enough of which count.
func (r *Rule) heardOf(marks []mark) int64 {
	counted := 0
	for i := range marks {
		if m := &marks[i]; r.fresh(m.verified) && m.seen <= r.seenBy {
			if counted++; counted == r.which {
				return m.seen
			}
		}
	}
	return math.MinInt64
}

// reach is what restore points come to. It has no more fields than stay in
// registers, four: with five, ruling takes a quarter longer.
type reach struct {
	counted, fresh int    // how many are verified and settled, up to those asked for; and verified at all
	position, best uint64 // of the last and the first that counted: the archived position, when enough did
}

// reach reads restore points, newest first, until enough of them count.
func (r *Rule) reach(marks []mark) reach {
	var got reach
	for i := range marks {
		m := &marks[i]
		if !r.fresh(m.verified) {
			continue // it has become a claim
		}
		got.fresh++
		if m.seen > r.seenBy {
			continue // too young to rely on
		}
		got.position = m.position
		if got.counted++; got.counted == 1 {
			got.best = m.position
		}
		if got.counted == r.which {
			break
		}
	}
	return got
}

// enough reports whether as many count as a region must have.
func (r *Rule) enough(got reach) bool { return got.counted > 0 && got.counted == r.which }

// fresh reports whether a verification of that moment counts.
func (r *Rule) fresh(verified int64) bool { return verified >= r.freshSince }

// lags reports whether what a region has archived is further behind the head
// than it may be. Time alone is no lag: it counts when the head has gone on. When
// nobody has seen the head, nobody knows that it does not lag.
func (r *Rule) lags(f *facts, o opinion) bool {
	switch m := r.behind; {
	case !f.hasHead:
		return true
	case f.head <= o.position:
		return false
	default:
		return m.positions > 0 && f.head-o.position > m.positions || o.seen <= m.seenBy
	}
}

// few is the stance of a region with too few restore points.
func few(a *asked, fresh int) stance {
	switch {
	case a.joining:
		return joiningFew
	case fresh == 0:
		return noneVerified
	}
	return tooFew
}

// agreed finds the floor that the required regions agree on: of the active ones
// the lowest, or the m-th highest; of the joining and the included ones the
// lowest in any case. It reports whether there is one.
func (r *Rule) agreed(f *facts, x *account, v *Ruling, b *bound) bool {
	none := r.active == 0
	before := v.Why
	if none {
		v.because(x, noArchive, ofNone, 0)
	} else {
		for i := range r.absent {
			v.because(x, noArchive, ofAbsent, i)
		}
	}
	var top []ranked // active ones that have archived, highest first
	if !r.all {
		var room [16]ranked
		top = room[:0]
	}
	lowest := uint64(math.MaxUint64)
	for i := range r.asked {
		a := &r.asked[i]
		o := r.hear(a, f)
		if x != nil {
			x.opinions = append(x.opinions, o)
		}
		switch {
		case o.stance != archived && a.must && !none:
			v.because(x, codeOf[o.stance], ofRegion, i)
		case o.stance != archived:
		default:
			if r.behind != nil && r.behind.blocks && !none && r.lags(f, o) {
				v.because(x, regionLagging, ofLag, i)
			}
			if a.must && (b.binding < 0 || o.position < lowest) {
				lowest, b.binding = o.position, a.column
			}
			if !r.all && !a.joining {
				top = rank(top, ranked{o.position, a.column})
			}
		}
	}
	if none {
		return false
	}
	if !r.all {
		switch {
		case r.atLeast < 1 || r.atLeast > r.active:
			v.because(x, noArchive, ofTooMany, r.active)
		case r.atLeast > len(top):
			for i := range r.asked {
				if a := &r.asked[i]; !a.must {
					if o := r.hear(a, f); o.stance != archived {
						v.because(x, codeOf[o.stance], ofRegion, i)
					}
				}
			}
		default:
			if t := top[r.atLeast-1]; b.binding < 0 || t.position < lowest {
				lowest, b.binding = t.position, t.column
			}
		}
	}
	b.floor = lowest
	return v.Why == before
}

// ranked is an active region that has archived.
type ranked struct {
	position uint64
	column   int
}

// rank keeps the highest first; of equal ones the first to come.
func rank(top []ranked, one ranked) []ranked {
	top = append(top, one)
	for i := len(top) - 1; i > 0 && top[i-1].position < top[i].position; i-- {
		top[i-1], top[i] = top[i], top[i-1]
	}
	return top
}

// bound is a floor on its way down.
type bound struct {
	floor   uint64
	binding int  // column of the region it comes from; -1: of none
	nothing bool // not even position 0 may be cut
}

// below keeps n positions below top.
func (b *bound) below(n, top uint64) {
	switch {
	case n > top:
		b.floor, b.binding, b.nothing = 0, -1, true
	case top-n < b.floor:
		b.floor, b.binding = top-n, -1
	}
}

// pins lowers the floor below what is pinned.
func (r *Rule) pins(f *facts, x *account, v *Ruling, b *bound) {
	agreed, consumers := b.floor, false
	for i := range f.pins {
		p := &f.pins[i]
		switch {
		case p.kind == pinConsumer:
			consumers = true
			continue
		case !p.known || p.position == 0:
			v.because(x, codeOfPin[p.kind], ofPin, i)
		case p.position <= agreed: // what it needs begins at or below the floor
			b.below(1, p.position)
		default:
			continue
		}
		if x != nil {
			x.held = append(x.held, i)
		}
	}
	// Who reads on from below the floor begins again from a restore point of its
	// own region, which must reach as far.
	for i := range f.pins {
		if p := &f.pins[i]; consumers && p.kind == pinConsumer && (!p.known || p.position <= b.floor) && !r.reaches(f, p.column, b.floor) {
			v.because(x, wouldStrand, ofConsumer, i)
		}
	}
}

// reaches reports whether a required region has a restore point that counts at
// the floor or above it.
func (r *Rule) reaches(f *facts, column int, floor uint64) bool {
	for i := range r.asked {
		if a := &r.asked[i]; column >= 0 && a.column == column {
			if _, marks := f.of(column); r.hear(a, f).stance == archived && r.reach(marks).best >= floor {
				return true
			}
		}
	}
	return false
}
