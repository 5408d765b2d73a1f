//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// decisionRow is what scripts read of `quarry get decisions -o json`.
type decisionRow struct {
	ID       string  `json:"id"`
	Verb     string  `json:"verb"`
	Slate    string  `json:"slate"`
	Region   string  `json:"region"`
	Position *uint64 `json:"position"`
	Stage    string  `json:"stage"`
	By       string  `json:"by"`
	Policy   string  `json:"policy"`
	Outcome  *struct {
		Steps []struct {
			Name string `json:"name"`
		} `json:"steps"`
	} `json:"outcome"`
}

// settled waits until all decisions that match are at their end, and gives them.
func (h *hub) settled(t testing.TB, filter string) []decisionRow {
	t.Helper()
	var all []decisionRow
	eventually(t, time.Minute, "decisions come to their end", func() error {
		l, err := get[decisionRow](h, t, "decisions", "--filter", filter, "--sort-by", "number")
		if err != nil {
			return err
		}
		for _, d := range l.Items {
			switch d.Stage {
			case "proposed", "approved", "sent", "claimed":
				return fmt.Errorf("%s in %s is %s", d.Verb, d.Region, d.Stage)
			}
		}
		if all = l.Items; len(all) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	return all
}

// What a person asks for is planned, carried out and seen through from the
// command line; each decision can be read with the steps of its agent.
func TestAPersonTrimsAndSeesWhatCameOfIt(t *testing.T) {
	w := startThreeMoments(t)
	w.waits(t, "archive/0", "no-policy")
	if o := w.cli(t, "trim", "archive/0", "--yes", "--wait"); o.code != 4 || !strings.Contains(o.stderr, "no-policy") {
		t.Errorf("no policy: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	w.apply(t, archives("{require: {all: true}}"))
	e := w.permits(t, "archive/0", 425, "us")

	dry := w.cli(t, "trim", "archive/0")
	if dry.code != 0 || !strings.Contains(dry.stdout, "PERMIT up to 425") || !strings.Contains(dry.stderr, "quarry trim archive/0 --plan "+e.Plan+" --yes") {
		t.Errorf("the plan: exit %d\n%s%s", dry.code, dry.stdout, dry.stderr)
	}
	if o := w.cli(t, "trim", "archive/0", "--up-to", "600", "--yes"); o.code != 4 || !strings.Contains(o.stderr, "below-min-snapshots: region us can restore up to 425") {
		t.Errorf("above the floor: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if o := w.cli(t, "trim", "archive/0", "--plan", "p-0123456789abcdef", "--yes"); o.code != 4 || !strings.HasPrefix(o.stderr, "quarry: plan-expired: ") {
		t.Errorf("another plan: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	o := w.cli(t, "trim", "archive/0", "--yes", "--wait", "--why", "the disk is full", "--as", "sam", "-o", "json")
	var done struct {
		Done      bool          `json:"done"`
		By        string        `json:"by"`
		UpTo      *uint64       `json:"up_to"`
		Decisions []decisionRow `json:"decisions"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &done); err != nil || o.code != 0 || o.stderr != "" {
		t.Fatalf("exit %d, %v\n%s%s", o.code, err, o.stdout, o.stderr)
	}
	if !done.Done || done.By != "sam" || done.UpTo == nil || *done.UpTo != 425 {
		t.Errorf("%s", o.stdout)
	}
	for _, d := range done.Decisions { // the policy may have been faster in some regions
		if d.Stage != "done" {
			t.Errorf("waited for and not at its end: %+v", d)
		}
	}
	w.published(t, "archive/0", map[string]uint64{"ap": 425, "eu": 425, "us": 425})
	if o := w.cli(t, "trim", "archive/0", "--yes", "--wait"); o.code != 0 || !strings.Contains(o.stdout, "it is published already") {
		t.Errorf("once more: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}

	w.settled(t, "")
	all := w.settled(t, `verb = "permit" AND slate = "archive/0"`)
	if len(all) != 3 {
		t.Errorf("one permit in each region: %+v", all)
	}
	d := all[0]
	for _, id := range []string{d.ID, d.ID[:8], strings.ToUpper(d.ID[:12]), "1"} {
		o := w.cli(t, "describe", "decision", id)
		if o.code != 0 && id == "1" && strings.Contains(o.stderr, "may be") {
			continue // an id begins so too
		}
		for _, line := range []string{"permit of archive/0 in " + d.Region + " up to 425 lsn   done", "id               " + d.ID, "what the agent did", "re-check: done, ", "publish: done, ", "in force         425", "audit", "proposed", "sent"} {
			if !strings.Contains(o.stdout, line) {
				t.Errorf("describe decision %s: exit %d, no %q in\n%s%s", id, o.code, line, o.stdout, o.stderr)
			}
		}
	}
	if o := w.cli(t, "get", "decisions"); o.code != 0 || strings.Count(o.stdout, "archive/0") != 3 || !strings.HasPrefix(o.stdout, "DECISION") {
		t.Errorf("exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if o := w.cli(t, "get", "decisions", d.ID[:8], "-o", "name"); o.stdout != d.ID+"\n" {
		t.Errorf("exit %d: %q %q", o.code, o.stdout, o.stderr)
	}
	if o := w.cli(t, "__complete", "describe", "decision", d.ID[:4]); !strings.Contains(o.stdout, d.ID+"\tpermit of archive/0 in "+d.Region) {
		t.Errorf("completion: %q", o.stdout)
	}
	if o := w.cli(t, "approve", d.ID, "--yes"); o.code != 4 || !strings.Contains(o.stderr, "is done") {
		t.Errorf("what is done is not approved: exit %d %s", o.code, o.stderr)
	}
	if o := w.cli(t, "refuse", d.ID); o.code != 4 || !strings.Contains(o.stderr, "is done") {
		t.Errorf("nor refused: exit %d %s", o.code, o.stderr)
	}
	for _, args := range [][]string{{"explain", "trim", "archive/0"}, {"describe", "slate", "archive/0"}, {"trim", "archive/0"}} {
		if o := w.cli(t, args...); o.code != 0 || !strings.Contains(o.stdout, "permit 1 in us: up to 425, until 20") || !strings.Contains(o.stdout, "permit 1 in ap: up to 425") {
			t.Errorf("%q shows no permits: exit %d\n%s%s", args, o.code, o.stdout, o.stderr)
		}
	}
	if o := w.cli(t, "summary", "-o", "json"); o.code != 0 || !strings.Contains(o.stdout, `"done": 6`) {
		t.Errorf("summary counts decisions: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if o := w.cli(t, "breaker"); o.code != 0 || o.stdout != "closed; it was never open\n" {
		t.Errorf("exit %d: %q", o.code, o.stdout)
	}
	if o := w.cli(t, "events", "--filter", `type = "decision-done" AND slate = "archive/0"`, "-o", "json"); strings.Count(o.stdout, `"type": "decision-done"`) != 3 {
		t.Errorf("the log of events:\n%s", o.stdout)
	}
}
