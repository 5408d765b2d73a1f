package state

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// Tested is what other rules would change, over the inventory of one view.
type Tested struct {
	Slates    uint64 `json:"slates" doc:"Slates that any policy selects, before or after."`
	Opened    uint64 `json:"opened" doc:"Waited and would be permitted."`
	Raised    uint64 `json:"raised" doc:"Permitted, and would be further."`
	Lowered   uint64 `json:"lowered" doc:"Permitted, and would be less far."`
	Closed    uint64 `json:"closed" doc:"Permitted, and would wait."`
	Reasoned  uint64 `json:"reasoned" doc:"Waits, and would wait for other reasons."`
	Unchanged uint64 `json:"unchanged"`
	// Changes are the first of those that would change, the most dangerous
	// kind first.
	Changes []VerdictChange `json:"changes"`
}

// VerdictChange is what other rules would change about one slate.
type VerdictChange struct {
	Slate   string   `json:"slate"`
	Lineage string   `json:"lineage"`
	Change  string   `json:"change" doc:"opened, raised, lowered, closed or reasoned."`
	Before  *uint64  `json:"before" doc:"Floor under the rules in force; null: it waits."`
	After   *uint64  `json:"after" doc:"Floor under the tested rules; null: it would wait."`
	Reasons []string `json:"reasons" doc:"Codes of why it would wait."`

	domain string
}

// mostChanges bounds the list; the counts are of all.
const mostChanges = 1000

// TestTrim compares the verdicts on trimming under the rules of a view with
// those under others. It costs by the slates that rules are about: some 200 ns
// for each that a policy of the view may be about too, and some microseconds for
// each of the others. Anybody may call it.
func TestTrim(v *view.View, after *regions.Rules, now time.Time) *Tested {
	t := &tester{now: now, v: v}
	if k := docketOf(v); k != nil {
		t.docketed(k, v.Rules(), after)
		if !amongSelections(after, v.Rules()) {
			t.others(after, v.Rules())
		}
	} else {
		t.others(after, nil)
	}
	return t.told()
}

// told is the counts with the list of changes.
func (t *tester) told() *Tested {
	t.Changes = []VerdictChange{}
	for _, list := range t.first {
		more := list.sorted()
		t.Changes = append(t.Changes, more[:min(len(more), mostChanges-len(t.Changes))]...)
	}
	return &t.Tested
}

// tester counts what changes.
type tester struct {
	Tested
	now   time.Time
	v     *view.View
	first [len(changeNames)]firstChanges
}

// docketed compares what the docket has, on all cores.
func (t *tester) docketed(k *docket, before, after *regions.Rules) {
	parts := make([]tester, max(1, min(runtime.GOMAXPROCS(0), k.places/worthACore)))
	var all sync.WaitGroup
	for i := range parts {
		all.Go(func() {
			parts[i] = tester{now: t.now, v: t.v}
			parts[i].compare(k, before, after, k.places*i/len(parts), k.places*(i+1)/len(parts))
		})
	}
	all.Wait()
	for i := range parts {
		t.add(&parts[i])
	}
}

// worthACore is how many slates are ruled upon while a core is got to work.
const worthACore = 10_000

// add takes what another has counted into account.
func (t *tester) add(o *tester) {
	t.Slates, t.Unchanged = t.Slates+o.Slates, t.Unchanged+o.Unchanged
	t.Opened, t.Raised, t.Lowered = t.Opened+o.Opened, t.Raised+o.Raised, t.Lowered+o.Lowered
	t.Closed, t.Reasoned = t.Closed+o.Closed, t.Reasoned+o.Reasoned
	for kind := range o.first {
		for _, c := range o.first[kind].list {
			if t.first[kind].wants(&c) {
				t.first[kind].add(c)
			}
		}
	}
}

// compare compares what the docket has from one place up to another.
func (t *tester) compare(k *docket, before, after *regions.Rules, from, to int) {
	was, is := newJudge(k, t.v, before, t.now), newJudge(k, t.v, after, t.now)
	for place := from; place < to; place++ {
		a, under := was.on(place)
		b, underNow := is.on(place)
		if !under && !underNow {
			continue
		}
		if row := k.row(place); t.differs(a, b) {
			t.note(a, b, row.name, row.lineage, row.domain)
		}
	}
}

// others compares slates one by one: those that a policy of after or of the view
// selects, and that no policy of known may be about; nil: whatever it is.
func (t *tester) others(after, known *regions.Rules) {
	before := t.v.Rules()
	eachUnder(t.v, func(s *Subject) {
		if known != nil && selectedIn(t.v, known, s.Name) {
			return
		}
		s.rule(before, t.now)
		a := s.ruling(before, t.now)
		s.rule(after, t.now)
		b := s.ruling(after, t.now)
		if t.differs(a, b) {
			t.note(a, b, s.Name, s.Lineage, s.Domain)
		}
	}, before, after)
}

// ruling is a verdict on trimming without its words.
func (s *Subject) ruling(rules *regions.Rules, now time.Time) plan.Ruling {
	v, _ := s.Trim(rules, now)
	r := plan.Ruling{Binding: -1, Permit: v.Action == plan.Permit, Why: plan.CodesOf(v.Reasons)}
	if r.Permit {
		r.UpTo = *v.UpTo
	}
	return r
}

var changeNames = [5]string{"opened", "raised", "lowered", "closed", "reasoned"}

// differs counts a slate, and reports whether it would change.
func (t *tester) differs(a, b plan.Ruling) bool {
	t.Slates++
	if a.Permit == b.Permit && a.UpTo == b.UpTo && (a.Permit || a.Why == b.Why) {
		t.Unchanged++
		return false
	}
	return true
}

// note counts a change.
func (t *tester) note(a, b plan.Ruling, slate, lineage, domain string) {
	count := func(n *uint64, kind int) int { *n++; return kind }
	var kind int
	switch {
	case !a.Permit && b.Permit:
		kind = count(&t.Opened, 0)
	case a.Permit && !b.Permit:
		kind = count(&t.Closed, 3)
	case a.Permit && b.UpTo > a.UpTo:
		kind = count(&t.Raised, 1)
	case a.Permit:
		kind = count(&t.Lowered, 2)
	default:
		kind = count(&t.Reasoned, 4)
	}
	c := VerdictChange{Slate: slate, Lineage: lineage, Change: changeNames[kind], Reasons: []string{}, domain: domain}
	if !t.first[kind].wants(&c) {
		return
	}
	if a.Permit {
		c.Before = new(a.UpTo)
	}
	if b.Permit {
		c.After = new(b.UpTo)
	} else {
		for code := range b.Why.All() {
			c.Reasons = append(c.Reasons, string(code))
		}
	}
	t.first[kind].add(c)
}

// firstChanges are the first mostChanges of many, by their slates' names.
type firstChanges struct {
	list []VerdictChange // in no order
	last *VerdictChange  // none after it is wanted
}

func (f *firstChanges) wants(c *VerdictChange) bool { return f.last == nil || c.compare(f.last) < 0 }

func (f *firstChanges) add(c VerdictChange) {
	if f.list = append(f.list, c); len(f.list) == 2*mostChanges {
		f.list = f.sorted()[:mostChanges]
		last := f.list[mostChanges-1]
		f.last = &last
	}
}

func (f *firstChanges) sorted() []VerdictChange {
	slices.SortFunc(f.list, func(a, b VerdictChange) int { return a.compare(&b) })
	return f.list
}

func (c *VerdictChange) compare(o *VerdictChange) int {
	return cmp.Or(cmp.Compare(c.Slate, o.Slate), cmp.Compare(c.Lineage, o.Lineage), cmp.Compare(c.domain, o.domain))
}
