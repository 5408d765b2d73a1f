package state

import (
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
}

// mostChanges bounds the list; the counts are of all.
const mostChanges = 1000

// TestTrim compares the verdicts on trimming under the rules of a view with
// those under others. It costs by the slates that rules are about. Anybody may
// call it.
func TestTrim(v *view.View, after *regions.Rules, now time.Time) *Tested {
	before := v.Rules()
	t := &Tested{}
	var byKind [5][]VerdictChange
	eachUnder(v, func(s *Subject) {
		o := *s
		o.rule(after, now)
		a, _ := s.Trim(before, now)
		b, _ := o.Trim(after, now)
		t.Slates++
		kind := t.compare(a, b)
		if kind < 0 || len(byKind[kind]) >= mostChanges {
			return
		}
		byKind[kind] = append(byKind[kind], VerdictChange{
			Slate: s.Name, Lineage: s.Lineage, Change: changeNames[kind], Before: a.UpTo, After: b.UpTo, Reasons: codes(b.Reasons),
		})
	}, before, after)
	t.Changes = []VerdictChange{}
	for _, list := range byKind {
		t.Changes = append(t.Changes, list[:min(len(list), mostChanges-len(t.Changes))]...)
	}
	return t
}

var changeNames = [5]string{"opened", "raised", "lowered", "closed", "reasoned"}

// compare counts a change and gives its place in changeNames; -1: none.
func (t *Tested) compare(a, b plan.Verdict) int {
	count := func(n *uint64, kind int) int { *n++; return kind }
	switch {
	case a.Action == plan.Wait && b.Action == plan.Permit:
		return count(&t.Opened, 0)
	case a.Action == plan.Permit && b.Action == plan.Wait:
		return count(&t.Closed, 3)
	case a.Action == plan.Permit && *b.UpTo > *a.UpTo:
		return count(&t.Raised, 1)
	case a.Action == plan.Permit && *b.UpTo < *a.UpTo:
		return count(&t.Lowered, 2)
	case a.Action == plan.Wait && !sameCodes(a.Reasons, b.Reasons):
		return count(&t.Reasoned, 4)
	}
	return count(&t.Unchanged, -1)
}

func codes(reasons []plan.Reason) []string {
	out := []string{}
	for _, r := range reasons {
		if len(out) == 0 || out[len(out)-1] != string(r.Code) {
			out = append(out, string(r.Code))
		}
	}
	return out
}

func sameCodes(a, b []plan.Reason) bool {
	x, y := codes(a), codes(b)
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i] != y[i] {
			return false
		}
	}
	return true
}
