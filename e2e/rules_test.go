//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// explanation is what scripts read of `quarry explain trim NAME -o json`.
type explanation struct {
	Slate   string  `json:"slate"`
	Action  string  `json:"action"`
	UpTo    *uint64 `json:"up_to"`
	Domain  string  `json:"position_domain"`
	Binding string  `json:"binding_region"`
	Regions []struct {
		Region   string  `json:"region"`
		State    string  `json:"state"`
		Verified *uint64 `json:"verified"`
		Newest   *uint64 `json:"newest"`
		Age      *int64  `json:"age_seconds"`
		Reasons  []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"reasons"`
	} `json:"regions"`
	Holds   []json.RawMessage `json:"holds"`
	Reasons []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"reasons"`
	Policy struct {
		Name     string `json:"name"`
		Revision uint64 `json:"revision"`
	} `json:"policy"`
	Plan string `json:"plan"`
	Term uint64 `json:"term"`
}

func (e *explanation) String() string {
	b, _ := json.Marshal(e)
	return string(b)
}

func (h *hub) explain(t testing.TB, slate string) (*explanation, error) {
	t.Helper()
	o := h.cli(t, "explain", "trim", slate, "-o", "json")
	if o.code != 0 {
		return nil, fmt.Errorf("exit %d: %s", o.code, o.stderr)
	}
	e := new(explanation)
	if err := json.Unmarshal([]byte(o.stdout), e); err != nil {
		return nil, fmt.Errorf("explain printed no JSON: %w: %q", err, o.stdout)
	}
	return e, nil
}

// permits waits until the verdict is a permit up to n for a region.
func (h *hub) permits(t testing.TB, slate string, n uint64, binding string) *explanation {
	t.Helper()
	var last *explanation
	eventually(t, 30*time.Second, fmt.Sprintf("a permit up to %d for %s", n, binding), func() error {
		e, err := h.explain(t, slate)
		if err != nil {
			return err
		}
		last = e
		if e.Action != "permit" || e.UpTo == nil || *e.UpTo != n || e.Binding != binding || len(e.Reasons) != 0 {
			return errors.New(e.String())
		}
		return nil
	})
	return last
}

// waits waits until the verdict is to wait, for this reason in front.
func (h *hub) waits(t testing.TB, slate, code string) *explanation {
	t.Helper()
	var last *explanation
	eventually(t, 30*time.Second, "a verdict that waits for "+code, func() error {
		e, err := h.explain(t, slate)
		if err != nil {
			return err
		}
		last = e
		if e.Action != "wait" || e.UpTo != nil || e.Binding != "" || len(e.Reasons) == 0 || e.Reasons[0].Code != code {
			return errors.New(e.String())
		}
		return nil
	})
	return last
}

// apply puts documents in force.
func (h *hub) apply(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	o := h.cli(t, "apply", "-f", file)
	if o.code != 0 {
		t.Fatalf("apply: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

// archives is a policy for snapshot repositories with this trim section.
func archives(trim string) string {
	return "apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: archives}\nselect: {kinds: [snapshots]}\ntrim: " + trim + "\nrestorePoints: {perRegion: 1}\n"
}

// threeMoments is a hub with three regions as processes, each with a snapshot
// repository of one cluster at another moment: us has up to 425, ap up to 609,
// eu up to 631 of partition 0.
type threeMoments struct {
	*hub
	dirs   map[string]string
	agents map[string]*proc
}

func startThreeMoments(t testing.TB) *threeMoments {
	t.Helper()
	w := &threeMoments{dirs: map[string]string{}, agents: map[string]*proc{}}
	for region, from := range map[string]string{"eu": "current", "us": "lagging", "ap": "current"} {
		w.dirs[region] = t.TempDir()
		copyTree(t, fixture("restate", "three-copies-of-one-cluster", from), filepath.Join(w.dirs[region], "archive"))
	}
	// ap is the same cluster a moment before its newest snapshot.
	repoint(t, filepath.Join(w.dirs["ap"], "archive", "0"), 609, 580)
	w.hub = startHub(t, "ap,eu,us")
	for _, region := range []string{"ap", "eu", "us"} {
		w.begin(t, region)
	}
	return w
}

func (w *threeMoments) begin(t testing.TB, region string) {
	t.Helper()
	w.agents[region] = startAgent(t, w.hub, region, "file://"+w.dirs[region], nil)
}

// repoint makes a partition's pointer list only the snapshots of these
// positions, of those it lists, and removes the folders of the others.
func repoint(t testing.TB, partition string, keep ...uint64) {
	t.Helper()
	file := filepath.Join(partition, "latest.json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var p map[string]json.RawMessage
	var listed, kept []map[string]json.RawMessage
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(p["retained_snapshots"], &listed); err != nil {
		t.Fatal(err)
	}
	for _, s := range listed {
		var lsn uint64
		if err := json.Unmarshal(s["min_applied_lsn"], &lsn); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(keep, lsn) {
			kept = append(kept, s)
			continue
		}
		var path string
		if err := json.Unmarshal(s["path"], &path); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(partition, path)); err != nil {
			t.Fatal(err)
		}
	}
	if len(kept) != len(keep) {
		t.Fatalf("%s lists %d of the %d positions %v", file, len(kept), len(keep), keep)
	}
	for _, field := range []string{"snapshot_id", "min_applied_lsn", "created_at", "path"} {
		p[field] = kept[0][field]
	}
	if p["retained_snapshots"], err = json.Marshal(kept); err != nil {
		t.Fatal(err)
	}
	if b, err = json.Marshal(p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// A log is cut only where every region that has to agree can restore: the table
// of the reference, with the region that binds, for each way to ask for regions.
func TestRS2_TrimNeedsEveryRequiredRegion(t *testing.T) {
	w := startThreeMoments(t)
	w.waits(t, "archive/0", "no-policy")
	if out := w.apply(t, archives("{require: {all: true}}")); out != "policy archives created, revision 1\n" {
		t.Errorf("apply printed %q", out)
	}
	e := w.permits(t, "archive/0", 425, "us")
	if e.Domain != "lsn" || e.Policy.Name != "archives" || e.Policy.Revision != 1 || !strings.HasPrefix(e.Plan, "p-") || len(e.Regions) != 3 || e.Term == 0 {
		t.Errorf("%v", e)
	}
	for i, want := range []struct {
		region   string
		verified uint64
	}{{"ap", 609}, {"eu", 631}, {"us", 425}} {
		if r := e.Regions[i]; r.Region != want.region || r.State != "connected" || r.Verified == nil || *r.Verified != want.verified || r.Newest == nil || *r.Newest != want.verified || r.Age == nil {
			t.Errorf("%s: %v", want.region, e)
		}
	}
	again, err := w.explain(t, "archive/0")
	if err != nil || again.Plan != e.Plan {
		t.Errorf("the same evidence: plan %s, was %s (%v)", again.Plan, e.Plan, err)
	}
	human := w.cli(t, "explain", "trim", "archive/0").stdout
	for _, line := range []string{"archive/0 (lsn)   trim: PERMIT up to 425", "us       425", "<- binding", "policy archives@1 · inventory ", " · plan p-", "gap none · holds none · readers none · quorum all("} {
		if !strings.Contains(human, line) {
			t.Errorf("the table has no %q:\n%s", line, human)
		}
	}
	if o := w.cli(t, "trim", "archive/0"); o.code != 0 || !strings.Contains(o.stdout, "PERMIT up to 425") {
		t.Errorf("trim: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}

	w.apply(t, archives("{require: {atLeast: 2}}"))
	w.permits(t, "archive/0", 609, "ap")
	w.apply(t, archives("{require: {atLeast: 2, include: [us]}}"))
	w.permits(t, "archive/0", 425, "us")
	w.apply(t, strings.Replace(archives("{require: {all: true}}"), "kinds: [snapshots]", "kinds: [snapshots], regions: [eu, ap]", 1))
	w.permits(t, "archive/0", 609, "ap")
	w.apply(t, archives("{require: {all: true}, safetyGap: {positions: 10}}"))
	eventually(t, 10*time.Second, "the gap is kept", func() error {
		e, err := w.explain(t, "archive/0")
		if err == nil && (e.UpTo == nil || *e.UpTo != 415) {
			err = errors.New(e.String())
		}
		return err
	})

	// A typo of a region refuses the whole file, and what was in force stays.
	file := filepath.Join(t.TempDir(), "typo.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(archives("{require: {all: true}}"), "kinds: [snapshots]", "kinds: [snapshots], regions: [eu, mars]", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if o := w.cli(t, "apply", "-f", file); o.code != 4 || !strings.Contains(o.stderr, "typo.yaml:4:") || !strings.Contains(o.stderr, "mars") {
		t.Errorf("a region that is not there: exit %d, %s", o.code, o.stderr)
	}
	if e, err := w.explain(t, "archive/0"); err != nil || e.UpTo == nil || *e.UpTo != 415 || e.Policy.Revision != 5 {
		t.Errorf("after the typo: %v %v", e, err)
	}
}

// A region that falls silent holds the cut back, unless the policy can do
// without it; when it is back, so is the verdict.
func TestRS3_ASilentRegionHoldsBack(t *testing.T) {
	w := startThreeMoments(t)
	w.apply(t, archives("{require: {all: true}}"))
	before := w.permits(t, "archive/0", 425, "us")

	w.agents["eu"].kill()
	e := w.waits(t, "archive/0", "region-stale")
	if !strings.Contains(e.Reasons[0].Message, "eu has not reported for") || !strings.Contains(e.Reasons[0].Message, "quarry region retire eu") {
		t.Errorf("%v", e)
	}
	if o := w.cli(t, "trim", "archive/0"); o.code != 4 || !strings.Contains(o.stderr, "region-stale") {
		t.Errorf("trim of what waits: exit %d, %s", o.code, o.stderr)
	}
	// What it had is shown, and does not count.
	if r := e.Regions[1]; r.Region != "eu" || r.State != "stale" || r.Verified == nil || *r.Verified != 631 {
		t.Errorf("%v", e)
	}

	w.apply(t, archives("{require: {atLeast: 2}}"))
	w.permits(t, "archive/0", 425, "us")

	w.apply(t, archives("{require: {all: true}}"))
	w.waits(t, "archive/0", "region-stale")
	w.begin(t, "eu")
	after := w.permits(t, "archive/0", 425, "us")
	if after.Term != before.Term {
		t.Errorf("term %d, was %d", after.Term, before.Term)
	}

	// A hub that starts anew believes nothing that it loaded until all were heard,
	// and knows what is in force.
	for _, a := range w.agents {
		a.kill()
	}
	w.hub.kill()
	w.hub.restart(t)
	e = w.waits(t, "archive/0", "region-stale")
	if len(e.Reasons) != 3 || e.Policy.Revision != 3 {
		t.Errorf("%v", e)
	}
	if e.Term <= before.Term {
		t.Errorf("term %d after a restart, was %d", e.Term, before.Term)
	}
	for _, region := range []string{"ap", "eu", "us"} {
		w.begin(t, region)
	}
	w.permits(t, "archive/0", 425, "us")
}

// A snapshot that lacks one object cannot be restored: its region falls back to
// the next one that is whole, says which object, and the cut with it.
func TestRS5_ADamagedSnapshotDoesNotCount(t *testing.T) {
	w := startThreeMoments(t)
	w.apply(t, archives("{require: {all: true}}"))
	w.permits(t, "archive/0", 425, "us")

	newest, err := filepath.Glob(filepath.Join(w.dirs["us"], "archive", "0", "lsn_00000000000000000425-*"))
	if err != nil || len(newest) != 1 {
		t.Fatalf("%v %v", newest, err)
	}
	tables, err := filepath.Glob(filepath.Join(newest[0], "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("%v %v", tables, err)
	}
	lost := tables[len(tables)-1]
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	// An agent looks at every object again after hours; one that starts, at once.
	w.agents["us"].kill()
	w.begin(t, "us")
	e := w.permits(t, "archive/0", 374, "us")
	us := e.Regions[2]
	if us.Verified == nil || *us.Verified != 374 || us.Newest == nil || *us.Newest != 425 || len(us.Reasons) != 1 || us.Reasons[0].Code != "snapshot-incomplete" ||
		!strings.Contains(us.Reasons[0].Message, filepath.Base(lost)) {
		t.Errorf("%v", e)
	}
	eventually(t, 10*time.Second, "the event names the snapshot", func() error {
		o := w.cli(t, "events", "-o", "json")
		if !strings.Contains(o.stdout, `"snapshot-incomplete"`) || !strings.Contains(o.stdout, filepath.Base(lost)) {
			return errors.New(o.stdout)
		}
		return nil
	})
	// With two to keep in each region there is one more to fall back to.
	w.apply(t, strings.Replace(archives("{require: {all: true}}"), "perRegion: 1", "perRegion: 2", 1))
	w.permits(t, "archive/0", 275, "us")
	w.apply(t, strings.Replace(archives("{require: {all: true}}"), "perRegion: 1", "perRegion: 3", 1))
	if e := w.waits(t, "archive/0", "below-min-snapshots"); !strings.Contains(e.String(), "us has 2 verified restore points") {
		t.Errorf("%v", e)
	}

	// A byte less is as bad as an object less.
	for _, name := range []string{"lsn_00000000000000000374-*", "lsn_00000000000000000275-*"} {
		found, err := filepath.Glob(filepath.Join(w.dirs["us"], "archive", "0", name, "*.sst"))
		if err != nil || len(found) == 0 {
			t.Fatalf("%v %v", found, err)
		}
		info, err := os.Stat(found[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(found[0], info.Size()-1); err != nil {
			t.Fatal(err)
		}
	}
	w.apply(t, archives("{require: {all: true}}"))
	w.agents["us"].kill()
	w.begin(t, "us")
	w.waits(t, "archive/0", "no-archive")
}

// A region in the policy's set without a repository has archived nothing.
func TestRS12_ARegionWithoutARepositoryBlocks(t *testing.T) {
	w := startThreeMoments(t)
	w.apply(t, archives("{require: {all: true}}"))
	w.permits(t, "archive/0", 425, "us")
	if o := w.cli(t, "region", "join", "sa", "--yes"); o.code != 0 {
		t.Fatalf("join: exit %d, %s", o.code, o.stderr)
	}
	w.waits(t, "archive/0", "region-stale")
	w.dirs["sa"] = t.TempDir()
	copyTree(t, fixture("0.17.0", "reader", "db"), filepath.Join(w.dirs["sa"], "dbs", "other"))
	w.begin(t, "sa")
	w.waits(t, "archive/0", "region-joining")
	if o := w.cli(t, "region", "join", "sa", "--active", "--yes"); o.code != 0 {
		t.Fatalf("join: exit %d, %s", o.code, o.stderr)
	}
	e := w.waits(t, "archive/0", "no-archive")
	if !strings.Contains(e.Reasons[0].Message, "make a snapshot there") {
		t.Errorf("%v", e)
	}
	// The region leaves, and what waited for it waits no more.
	// The policy requires it: two people have to agree.
	if o := w.cli(t, "region", "retire", "sa", "--yes", "--as", "ann", "--why", "we leave it"); o.code != 0 || !strings.Contains(o.stdout, "another person has to agree") {
		t.Fatalf("retire: exit %d, %s%s", o.code, o.stdout, o.stderr)
	}
	w.waits(t, "archive/0", "no-archive")
	if o := w.cli(t, "region", "retire", "sa", "--yes", "--as", "ann"); o.code != 4 || !strings.Contains(o.stderr, "another person has to agree") {
		t.Errorf("the same person twice: exit %d, %s", o.code, o.stderr)
	}
	if o := w.cli(t, "region", "retire", "sa", "--yes", "--as", "bob"); o.code != 0 || o.stdout != "region sa is retired\n" {
		t.Fatalf("retire: exit %d, %s%s", o.code, o.stdout, o.stderr)
	}
	w.permits(t, "archive/0", 425, "us")
	// A region that a policy cannot do without stays.
	w.apply(t, archives("{require: {atLeast: 2, include: [us]}}"))
	if o := w.cli(t, "region", "retire", "us", "--yes"); o.code != 4 || !strings.Contains(o.stderr, "archives") {
		t.Errorf("retire us: exit %d, %s", o.code, o.stderr)
	}
	// And the memberships outlive the hub.
	w.hub.regions = ""
	w.hub.kill()
	w.hub.restart(t)
	l, err := get[struct{ Name, Membership string }](w.hub, t, "regions")
	if err != nil || len(l.Items) != 4 || l.Items[2].Name != "sa" || l.Items[2].Membership != "retired" {
		t.Errorf("%+v %v", l.Items, err)
	}
}
