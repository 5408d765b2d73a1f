package cmd

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

func ptr[T any](v T) *T { return &v }

// aDecision is one that an agent refused on its way.
func aDecision() *catalog.DecisionRow {
	proposed := time.Now().Add(-10 * time.Minute)
	return &catalog.DecisionRow{
		ID: "6f1c1c3e-9d1e-4c8c-9a50-0b6a3c1b0001", Number: 12, Verb: catalog.VerbPermit, Slate: "archive/0", Region: "us", Root: "archive/0", Incarnation: "01J",
		Position: ptr(uint64(425)), PositionDomain: "lsn", Stage: catalog.StageRefused, By: "sam", Why: "the disk is full", Waiting: []string{}, Needs: 1,
		Approved: []catalog.ApprovalRow{{By: "kim", At: proposed.Add(time.Minute)}}, Proposed: proposed, NotAfter: proposed.Add(time.Hour),
		Sent: ptr(proposed.Add(90 * time.Second)), Ended: ptr(proposed.Add(2 * time.Minute)), Term: 3, Sequence: 5, Policy: "archives", Revision: 4, Plan: "p-0011223344556677", Evidence: strings.Repeat("ab", 32),
		Reasons:   []catalog.Reason{{Code: catalog.CodeAboveLimit, Message: "this region has verified up to 420"}},
		Parameter: catalog.Parameters{Restorable: 2, ValidFor: 24 * time.Hour}, Must: []catalog.Precondition{{What: catalog.PrePointer, Value: "00ff"}},
		Outcome: &catalog.Outcome{State: catalog.OutcomeRefused, Saw: catalog.Saw{Limit: ptr(uint64(420)), Verified: ptr(uint64(3)), Objects: 2, Bytes: 4096},
			Steps: []catalog.Step{
				{Name: "permit", Took: 14 * time.Millisecond},
				{Name: "re-check", Took: 12 * time.Millisecond, Depth: 1},
				{Name: "read the pointer", Took: 2 * time.Millisecond, Depth: 2},
				{Name: "verify", Took: 9 * time.Millisecond, Error: "above-local-limit: this region has\nverified up to 420", Depth: 2},
				{Name: "say so", Took: time.Millisecond, Depth: 1},
			}},
	}
}

// Whoever reads it learns what was meant, why nothing came of it, and how the
// agent went about it, step by step.
func TestADecisionIsDescribedWithTheStepsOfItsAgent(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out, output: "table", noColor: true}
	a.printDecision(aDecision())
	got := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`).ReplaceAllString(out.String(), "DATE")
	want := `permit of archive/0 in us up to 425 lsn   refused
  id               6f1c1c3e-9d1e-4c8c-9a50-0b6a3c1b0001 (number 12)
  asked for by     sam (the disk is full)
  policy           archives@4
  root             archive/0, incarnation 01J
  restore points   2 newest ones must stay restorable
  valid for        24h0m0s
  must be so       pointer-sha256 00ff
  evidence         p-0011223344556677 abababababababababababababababababababababababababababababababab
  proposed         DATE (10m ago)
  approvals        1 of 1
  approved by      kim, 9m ago
  sent             90s after that, term 3, sequence 5
  ended            DATE (8m ago)
  because          above-local-limit: this region has verified up to 420

what the agent saw
  its own limit    420
  verified         3
  that was         2 objects, 4KiB

what the agent did
  permit: failed, 14ms
  ├─ re-check: failed, 12ms
  │  ├─ read the pointer: done, 2ms
  │  └─ verify: failed, 9ms: above-local-limit: this region has verified up to 420
  └─ say so: done, 1ms
`
	if got != want {
		t.Errorf("it is printed as\n%s\nand should be\n%s", got, want)
	}
}

// Steps are put together as they say, however odd what they say is.
func TestStepsThatDoNotFitTogetherAreStillShown(t *testing.T) {
	trees := stepTrees([]catalog.Step{{Name: "deep", Depth: 7}, {Name: "other"}, {Name: "below", Depth: 1}, {Name: "far below", Depth: 4_000_000_000, Error: "no"}})
	var all []string
	for _, n := range trees {
		all = append(all, n.String())
	}
	if got := strings.Join(all, ""); got != "deep: done, 0s\nother: failed, 0s\n└─ below: failed, 0s\n   └─ far below: failed, 0s: no\n" {
		t.Errorf("%s", got)
	}
	if len(stepTrees(nil)) != 0 {
		t.Error("no steps are no tree")
	}
}

func TestWhatAPersonMeansByADecision(t *testing.T) {
	for what, want := range map[string]string{
		"6F1C":                 `id = "6f1c*"`,
		"6f1c-":                `id = "6f1c-*"`,
		"12":                   `number = 12 OR id = "12*"`,
		"18446744073709551616": `id = "18446744073709551616*"`,
	} {
		if got, err := decisionFilter(what); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", what, got, err, want)
		}
	}
	for _, what := range []string{"", "xyz", "*", `a" OR id = "b`, "archive/0"} {
		if got, err := decisionFilter(what); exitCode(err) != exitNotFound {
			t.Errorf("%q: %q, %v", what, got, err)
		}
	}
}
