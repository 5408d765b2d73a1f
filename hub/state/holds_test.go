package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// holdWorld is a SlateDB slate in eu and us, under documents.
type holdWorld struct {
	t     *testing.T
	now   time.Time
	sub   Subject
	rules *regions.Rules
}

func newHoldWorld(t *testing.T, kind catalog.Kind) *holdWorld {
	w := &holdWorld{t: t, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), rules: &regions.Rules{}}
	w.sub = Subject{Slate: plan.Slate{Name: "orders", Domain: "seq", Lineage: "L"}, Kind: kind}
	for _, r := range []string{"eu", "us"} {
		w.sub.Placed = append(w.sub.Placed, r)
		w.sub.Sites = append(w.sub.Sites, Site{Region: r, Root: "orders", Incarnation: "I-" + r, Live: true})
		w.sub.Regions = append(w.sub.Regions, plan.Region{Name: r, Membership: catalog.Active, State: catalog.RegionConnected, Heard: true, Placed: true, Lineage: "L"})
	}
	return w
}

func (w *holdWorld) apply(text string) {
	w.t.Helper()
	d, err := regions.ParseDocuments("test", []byte("apiVersion: quarry/v1\n"+text))
	if err != nil {
		w.t.Fatal(err)
	}
	set := regions.Set{}
	for _, r := range []string{"eu", "us"} {
		set.Insert(regions.Region{Name: r, Membership: catalog.Active})
	}
	if w.rules, _, err = w.rules.Apply(d, set, "anna", w.now); err != nil {
		w.t.Fatal(err)
	}
}

func (w *holdWorld) site(region string) *Site {
	for i := range w.sub.Sites {
		if w.sub.Sites[i].Region == region {
			return &w.sub.Sites[i]
		}
	}
	return nil
}

func (w *holdWorld) head(region string, n uint64) {
	w.site(region).Head = &n
	if w.sub.Head == nil || *w.sub.Head < n {
		w.sub.Head = &n
	}
}

// holds puts a verified hold of Quarry's, made by a decision id.
func (w *holdWorld) holds(region, purpose, id string, at uint64) {
	site := w.site(region)
	site.Held = append(site.Held, Held{ID: id, Name: catalog.NameHold(purpose, id), Purpose: purpose, Position: &at, Verified: true, Since: w.now})
	r := w.sub.In(region)
	r.Points = append(r.Points, plan.Point{ID: catalog.NameHold(purpose, id), Position: at, State: catalog.RestoreVerified, FirstSeen: w.now, VerifiedAt: w.now})
}

func (w *holdWorld) gone(region, id string) {
	site, r := w.site(region), w.sub.In(region)
	for i, x := range site.Held {
		if x.ID == id {
			site.Held = append(site.Held[:i:i], site.Held[i+1:]...)
		}
	}
	for i, p := range r.Points {
		if strings.HasSuffix(p.ID, ":"+id) {
			r.Points = append(r.Points[:i:i], r.Points[i+1:]...)
		}
	}
}

func (w *holdWorld) later(d time.Duration) {
	w.now = w.now.Add(d)
	for i := range w.sub.Regions {
		for j := range w.sub.Regions[i].Points {
			w.sub.Regions[i].Points[j].VerifiedAt = w.now
		}
	}
}

// wishes are those for holds, one a line.
func (w *holdWorld) wishes() string {
	w.sub.rule(w.rules, w.now)
	v, _ := w.sub.Trim(w.rules, w.now)
	m := bearing{now: w.now, policies: w.sub.Policies(w.rules), holdEvery: 10 * time.Minute}
	var out []string
	for _, x := range wishesHolds(&w.sub, v, w.rules, m) {
		d := &x.Decision
		d.ID, d.Ledger, d.Term, d.Sequence = "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", 1, 1
		if err := d.Validate(); err != nil {
			w.t.Error(err)
		}
		if x.Plan == "" {
			w.t.Errorf("a wish without a plan: %+v", x)
		}
		line := fmt.Sprintf("%s %s %s", d.Verb, d.Region, d.Parameters.Purpose+d.Parameters.Checkpoint)
		if d.Parameters.Replaces != "" {
			line += " for " + d.Parameters.Replaces
		}
		if d.Position != nil {
			line += fmt.Sprint(" from ", *d.Position)
		}
		if d.Parameters.Restorable > 0 {
			line += fmt.Sprint(" leaving ", d.Parameters.Restorable)
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

func (w *holdWorld) want(why, what string) {
	w.t.Helper()
	if got := w.wishes(); got != what {
		w.t.Errorf("%s:\n got %q\nwant %q", why, got, what)
	}
}

const trimOrders = "kind: Policy\nmetadata: {name: keep}\nselect: {kinds: [slatedb, log]}\ntrim: {require: {all: true}%s}\nrestorePoints: {perRegion: 1}\n"

// A policy that trims holds a SlateDB slate wherever it is, whatever the verdict;
// the hold goes on when the floor has reached it and there is more to hold.
func TestAPolicyThatTrimsHoldsAndMovesOn(t *testing.T) {
	w := newHoldWorld(t, catalog.KindSlateDB)
	w.head("eu", 100)
	w.head("us", 100)
	w.want("no policy", "")
	w.apply(fmt.Sprintf(trimOrders, ""))
	w.want("nothing is held", "hold eu trim; hold us trim")
	w.holds("eu", "trim", "e1", 100)
	w.holds("us", "trim", "u1", 100)
	w.want("all is held", "")
	w.head("eu", 150)
	w.want("it was made a moment ago", "")
	w.later(time.Hour)
	w.want("the head has gone on in eu", "hold eu trim for e1 from 150")
	w.gone("eu", "e1")
	w.holds("eu", "trim", "e2", 150)
	w.head("eu", 200)
	w.later(time.Hour)
	w.want("us is behind: what eu holds is not archived there", "")
	w.head("us", 180)
	w.want("us has been copied to again", "hold us trim for u1 from 180")
	w.gone("us", "u1")
	w.holds("us", "trim", "u2", 180)
	w.want("now eu may go on", "hold eu trim for e2 from 200")

	w.sub.In("us").State = catalog.RegionStale
	w.want("us is silent", "")
	w.sub.In("us").State = catalog.RegionConnected
	w.sub.Frozen = "" // a freeze is a rule
	w.rules, _ = w.rules.Frozen(regions.Freeze{Scope: regions.FreezeAll, By: "anna"})
	w.want("frozen", "")
}

// Two holds are left where an agent was killed between them, and where an owner
// cut his log between them: one goes when nothing is lost by it.
func TestOfTwoHoldsTheOlderGoesWhenNothingIsLost(t *testing.T) {
	w := newHoldWorld(t, catalog.KindSlateDB)
	w.apply(fmt.Sprintf(trimOrders, ""))
	w.head("eu", 200)
	w.head("us", 200)
	w.holds("us", "trim", "u1", 200)
	w.holds("eu", "trim", "e1", 100)
	w.holds("eu", "trim", "e2", 200)
	w.want("killed between the two", "release eu e1 leaving 1")

	w.sub.Kind = catalog.KindLog
	head := w.site("eu").Head
	w.site("eu").Head = nil
	w.want("how far the log was cut is not known", "")
	w.site("eu").Head = head
	w.want("it was never cut", "release eu e1 leaving 1")
	cut := uint64(100)
	w.site("eu").TrimmedTo = &cut
	w.want("it was not cut between them", "release eu e1 leaving 1")
	cut = 150
	w.want("it was, and all that was cut is archived", "release eu e1 leaving 1")
	w.gone("us", "u1")
	w.holds("us", "trim", "u1", 120)
	w.want("us lacks what was cut", "")
}

// A hold of a log without an entry holds nothing of what is appended later: then
// another is made, and the empty one goes when that was looked at.
func TestAHoldOfAnEmptyLogIsFollowedByAnother(t *testing.T) {
	w := newHoldWorld(t, catalog.KindLog)
	w.sub.Sites, w.sub.Regions, w.sub.Placed = w.sub.Sites[:1], w.sub.Regions[:1], w.sub.Placed[:1]
	w.apply(fmt.Sprintf(trimOrders, ""))
	w.want("nothing is held", "hold eu trim")
	empty := Held{ID: "e0", Name: catalog.NameHold("trim", "e0"), Purpose: "trim"}
	site := w.site("eu")
	site.Held = append(site.Held, empty)
	w.head("eu", 9)
	w.want("it was not looked at yet", "")
	site.Held[0].Since, site.Held[0].Verified = w.now, true
	w.want("it holds nothing", "hold eu trim")
	site.Head = nil
	w.want("the log is empty", "")
	w.head("eu", 9)
	w.gone("eu", "e0")
	w.holds("eu", "trim", "e1", 9)
	empty.Since = w.now
	site.Held = append(site.Held, empty)
	w.want("beside another", "release eu e0 leaving 1")
	site.Held[0].Verified = false
	w.want("the other was not looked at", "")
	site.Held[0].Verified = true
	cut := uint64(12)
	site.TrimmedTo = &cut
	w.want("more was cut than is archived", "")
	cut = 9
	w.want("what was cut is archived", "release eu e0 leaving 1")
	rules := w.rules
	w.rules, _ = w.rules.Frozen(regions.Freeze{Scope: regions.FreezeAll, By: "anna"})
	w.want("frozen", "")
	w.rules = rules
	w.gone("eu", "e0")
	w.want("one is enough", "")
	empty.ID, site.Held = "e2", []Held{empty, empty}
	w.want("two of which nothing is known", "")
}

// Documents that are enforced are held where they say; they are let go of by a
// word of this ledger, never because nobody speaks of them.
func TestDocumentsAreHeldAndLetGoByAWord(t *testing.T) {
	const doc = "kind: Hold\nmetadata: {name: case-1}\nselect: {names: [%s]%s}\nscope: [trim]\nfrom: {position: 1}\n%s\n"
	w := newHoldWorld(t, catalog.KindSlateDB)
	w.head("eu", 100)
	w.holds("us", "elsewhere", "x1", 50)
	w.apply(fmt.Sprintf(doc, "orders", ", regions: [eu]", "enforce: checkpoint"))
	w.want("in eu alone; what another ledger made stays", "hold eu case-1")
	w.holds("eu", "case-1", "c1", 100)
	w.want("held", "")
	w.later(time.Minute)
	w.site("eu").Held[0].Since, w.sub.Name = w.now, "orders-eu"
	w.want("its owner registered it by another name", "")
	w.sub.Name = "orders"
	w.later(time.Minute)
	w.apply(fmt.Sprintf(doc, "orders", "", "enforce: checkpoint"))
	w.want("now everywhere", "hold us case-1")
	w.apply(fmt.Sprintf(doc, "'other*'", "", "enforce: checkpoint"))
	w.want("it is about others", "release eu c1")
	w.apply(fmt.Sprintf(doc, "orders", "", ""))
	w.want("it is not enforced any more", "release eu c1")
	w.apply(fmt.Sprintf(doc, "orders", ", regions: [eu]", "enforce: checkpoint\nuntil: 2026-12-01"))
	w.want("until December", "")
	w.later(30 * 24 * time.Hour)
	w.want("over", "release eu c1")
	w.apply(fmt.Sprintf(doc, "orders", ", regions: [eu]", "enforce: checkpoint"))
	next, done, err := w.rules.Release("case-1", "anna")
	if err != nil || !done {
		t.Fatal(done, err)
	}
	released := w.rules
	w.rules = next
	w.want("released", "release eu c1")
	if w.rules, err = next.Frozen(regions.Freeze{Scope: regions.FreezeAll, By: "anna"}); err != nil {
		t.Fatal(err)
	}
	w.want("released and frozen", "")
	w.rules = &regions.Rules{}
	w.want("a ledger that knows nothing of it", "")
	w.rules = released
	w.apply(fmt.Sprintf(doc, "orders", ", regions: [eu], labels: {team: a}", "enforce: checkpoint"))
	w.want("labels come and go", "")
	w.rules = next
	w.apply(fmt.Sprintf(doc, "orders", ", regions: [eu]", "enforce: checkpoint"))
	w.want("it is in force again", "")
}

// A restore point is asked for where the archive is too far behind, not by time
// alone; those beyond what policies keep go.
func TestARestorePointIsMadeWhenTheArchiveIsBehind(t *testing.T) {
	w := newHoldWorld(t, catalog.KindSlateDB)
	w.apply(fmt.Sprintf(trimOrders, ", maxLag: {positions: 50, age: 1h, then: request-snapshot}"))
	w.head("eu", 100)
	w.head("us", 100)
	w.holds("eu", "trim", "e1", 100)
	w.holds("us", "trim", "u1", 100)
	w.want("up to date", "")
	w.later(24 * time.Hour)
	w.want("a day passed and nothing was written", "")
	w.head("eu", 110)
	// us holds 100 and goes no further: what it lacks it has to be given.
	w.sub.In("us").State = catalog.RegionStale
	w.want("an old archive beside a head that went on", "hold eu restore-point from 101")
	w.holds("eu", "restore-point", "r1", 110)
	w.head("eu", 161)
	w.want("51 positions behind", "hold eu restore-point from 111")
	w.holds("eu", "restore-point", "r2", 161)
	w.want("one more than the policy keeps; the hold stays, for us is silent", "release eu r1 leaving 1")
	w.gone("eu", "r1")
	w.sub.In("us").State = catalog.RegionConnected
	w.want("us is there: the hold goes on", "hold eu trim for e1 from 161")
	unknown := Held{ID: "r3", Name: "quarry:restore-point:r3", Purpose: "restore-point"}
	w.site("eu").Held = append(w.site("eu").Held, unknown)
	w.head("eu", 400)
	if got := w.wishes(); strings.Contains(got, "restore-point") {
		t.Errorf("one is under way: %s", got)
	}
}

// Of two policies the one that is not about a region does not have it keep every
// restore point of Quarry's own, wherever it stands among them.
func TestAPolicyOfElsewhereKeepsNoRestorePointHere(t *testing.T) {
	w := newHoldWorld(t, catalog.KindSlateDB)
	w.apply("kind: Policy\nmetadata: {name: a-us}\nselect: {kinds: [slatedb], regions: [us]}\ntrim: {require: {all: true}}\nrestorePoints: {perRegion: 1}\n")
	w.apply("kind: Policy\nmetadata: {name: b-eu}\nselect: {kinds: [slatedb], regions: [eu]}\ntrim: {require: {all: true}}\nrestorePoints: {perRegion: 1}\n")
	w.head("eu", 200)
	w.head("us", 200)
	w.holds("us", "trim", "u1", 200)
	w.holds("eu", "restore-point", "r1", 100)
	w.holds("eu", "restore-point", "r2", 150)
	w.holds("eu", "trim", "e1", 200)
	w.want("r1 and r2 are beyond", "release eu r2 leaving 1; release eu r1 leaving 1")
}

// Of two holds of one slate that come to nothing in turn each waits longer and
// longer before it is tried again.
func TestHoldsThatComeToNothingWaitEachForItself(t *testing.T) {
	s := &State{dec: newDecisions(), wall: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	wish := func(verb catalog.Verb, plan string) *Wish {
		return &Wish{Plan: plan, Proposal: Proposal{Decision: catalog.Decision{Verb: verb, Region: "eu", Slate: "orders"}}}
	}
	asked := map[string]int{}
	for n := uint64(1); s.wall.Hour() < 13; s.wall = s.wall.Add(time.Second) {
		for _, w := range []*Wish{wish(catalog.VerbHold, "h-trim"), wish(catalog.VerbHold, "h-case-1"), wish(catalog.VerbRelease, "h-case-2")} {
			if s.triedLately(w) {
				continue
			}
			asked[w.Plan]++
			at := matter{"eu", "orders"}
			s.dec.all[n] = &Decided{Number: n, Decision: w.Decision, Stage: StageRefused, Plan: w.Plan, Tries: s.tries(w), Ended: s.wall}
			s.dec.about[at] = append(s.dec.about[at], n)
			n++
		}
	}
	for plan, times := range asked {
		if times != 6 { // at once, and after 1, 2, 4, 8, 16 minutes
			t.Errorf("%s was asked for %d times in an hour", plan, times)
		}
	}
}

// Of what nobody can see now nothing follows.
func TestNothingIsHeldWhereNobodySees(t *testing.T) {
	for name, blind := range map[string]func(*holdWorld){
		"not heard":      func(w *holdWorld) { w.sub.In("eu").Heard = false },
		"blind":          func(w *holdWorld) { w.sub.In("eu").State = catalog.RegionBlind },
		"unreadable":     func(w *holdWorld) { w.sub.In("eu").Unreadable = "it is missing" },
		"retired":        func(w *holdWorld) { w.sub.In("eu").Membership = catalog.Retired },
		"not kept":       func(w *holdWorld) { w.site("eu").Live = false },
		"no checkpoints": func(w *holdWorld) { w.sub.Kind = catalog.KindSnapshots },
	} {
		w := newHoldWorld(t, catalog.KindSlateDB)
		w.sub.Sites, w.sub.Placed = w.sub.Sites[:1], w.sub.Placed[:1]
		w.apply(fmt.Sprintf(trimOrders, ""))
		blind(w)
		if got := w.wishes(); got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
}
