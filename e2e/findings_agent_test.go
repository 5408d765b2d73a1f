//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
)

// What the real releases did to databases is found by an agent that follows
// them: what was so when it came, and what happens while it looks. Each shows
// once as an event, in `quarry get findings`, at its placement, and is gone
// when it was cured; databases that are well have none.
func TestFindings_ARunningAgentFindsThemAndSeesThemCured(t *testing.T) {
	bucket := t.TempDir()
	folder := func(name string) string {
		f := filepath.Join(bucket, name)
		if err := os.MkdirAll(f, 0o755); err != nil {
			t.Fatal(err)
		}
		return f
	}
	const release = "0.17.0"
	for _, v := range peers.Versions {
		acts(t, v, folder("healthy-"+v), step{"open", opts{"filter": true}}, step{"fill", 0, 40}, step{"l0"}, step{"fill", 40, 10}, step{"l0"}, step{"put", opts{"in": "the WAL"}}, step{"close"})
	}
	acts(t, release, folder("rich"), step{"open", opts{"compact": true, "gc": true, "filter": true}}, step{"compactions", 6}, step{"checkpoint", "keep"}, step{"fill", 0, 30}, step{"close"})

	// So before it comes.
	acts(t, release, folder("boundary"), step{"open"}, step{"fill", 0, 50}, step{"l0"}, step{"close"})
	newest := manifestOf(t, "file://"+folder("boundary"), "db").ID
	if err := os.MkdirAll(filepath.Join(folder("boundary"), "db", "gc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder("boundary"), "db", "gc", "manifest.boundary"), strconv.AppendUint(nil, newest+2, 10), 0o644); err != nil {
		t.Fatal(err)
	}
	acts(t, release, folder("hole"), step{"open"}, step{"put", opts{"a": "1"}}, step{"put", opts{"b": "2"}}, step{"put", opts{"c": "3"}}, step{"put", opts{"d": "4"}})
	wal := filepath.Join(folder("hole"), "db", "wal", "00000000000000000003.sst")
	object, err := os.ReadFile(wal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(wal); err != nil {
		t.Fatal(err)
	}
	acts(t, release, folder("unmarked"), step{"open", opts{"wal": true}}, step{"put", opts{"a": "1"}}, step{"l0"}, step{"put", opts{"b": "2"}})
	a := acts(t, release, folder("dangling"), step{"open"}, step{"fill", 0, 30}, step{"l0"}, step{"checkpoint", "keep"}, step{"fill", 30, 30}, step{"l0"}, step{"close"})
	var checkpoint string
	if err := json.Unmarshal(a[3], &checkpoint); err != nil {
		t.Fatal(err)
	}
	pinned := manifestOf(t, "file://"+folder("dangling"), "db").Checkpoints[0].ManifestID
	if err := os.Remove(filepath.Join(folder("dangling"), "db", "manifest", fmt.Sprintf("%020d.manifest", pinned))); err != nil {
		t.Fatal(err)
	}
	acts(t, release, folder("missing"), step{"open"}, step{"fill", 0, 30}, step{"l0"}, step{"close"})
	tables := glob(t, folder("missing"), "compacted")
	if err := os.Remove(tables[0]); err != nil {
		t.Fatal(err)
	}
	acts(t, release, folder("stuck"), step{"open", opts{"compact": true, "gc": true}}, step{"compactions", 14}, step{"churn", 30}, step{"close"})
	for _, path := range files(t, folder("stuck")) { // two hours later
		at := time.Now().Add(-2 * time.Hour)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	// And before it looks away: nobody has harmed these yet.
	acts(t, release, folder("filters"), step{"open", opts{"filter": true}}, step{"fill", 0, 100}, step{"l0"}, step{"fill", 50, 100}, step{"l0"}, step{"close"})
	acts(t, release, folder("segments"), step{"open", opts{"segments": true}}, step{"put", opts{"aa/1": "1", "bb/2": "2", "cc/3": "3"}}, step{"l0"}, step{"close"})
	acts(t, release, folder("pill"), step{"open"}, step{"fill", 0, 30}, step{"l0"}, step{"close"})

	h := startHub(t, "eu")
	const budget = 36_000
	agent := startAgent(t, h, "eu", "file://"+bucket, nil, "--budget", fmt.Sprintf("%d/h", budget))
	want := map[string][]string{
		"boundary": {"boundary-ahead"}, "hole": {"wal-hole"}, "unmarked": {"wal-store-unmarked"}, "dangling": {"checkpoint-dangling"},
		"missing": {"object-missing"}, "stuck": {"collector-stuck"},
	}
	found := func(limit time.Duration) {
		t.Helper()
		eventually(t, limit, fmt.Sprintf("findings %v", want), func() error { return h.finds(t, want) })
	}
	found(90 * time.Second)

	// While it looks.
	act(t, "0.12.1", folder("filters"), step{"read"})
	act(t, "0.12.1", folder("segments"), step{"read"})
	must(t, nil, "slatedb", "pill", "--bucket", "file://"+folder("pill"), "db", "--reason", "moving house", "--yes")
	want["filters"], want["segments"], want["pill"] = []string{"filter-format-mismatch"}, []string{"segments-lost"}, []string{"closed-for-deletion"}
	found(60 * time.Second)

	// What people see.
	rows := h.cli(t, "get", "findings")
	header, _, _ := strings.Cut(rows.stdout, "\n")
	if got := strings.Join(strings.Fields(header), " "); got != "SLATE REGION CODE OBJECT WHO IS HURT CURE" {
		t.Errorf("get findings: %s", rows.stdout)
	}
	if o := h.cli(t, "describe", "slate", "segments/db"); !strings.Contains(o.stdout, "segments-lost") || !strings.Contains(o.stdout, "hurts: everybody") || !strings.Contains(o.stdout, "cure: ") {
		t.Errorf("describe: %s", o.stdout)
	}
	at := func(filter string) []string {
		t.Helper()
		l, err := get[placement](h, t, "placements", "--filter", filter)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range l.Items {
			names = append(names, strings.TrimSuffix(p.Slate, "/db"))
		}
		return slices.Sorted(slices.Values(names))
	}
	if got, all := at("has:findings"), slices.Sorted(maps.Keys(want)); !slices.Equal(got, all) {
		t.Errorf("has:findings gives %v, not %v", got, all)
	}
	if got := at(`findings.code = "wal-hole"`); !slices.Equal(got, []string{"hole"}) {
		t.Errorf("by code: %v", got)
	}

	// The cures that are named.
	for name, code := range map[string]string{"filters": "filter-format-mismatch", "segments": "segments-lost", "boundary": "boundary-ahead"} {
		repaired(t, folder(name), code, "--writer-stopped")
	}
	must(t, nil, "slatedb", "unpill", "--bucket", "file://"+folder("pill"), "db", "--yes")
	must(t, nil, "slatedb", "checkpoints", "delete", "--bucket", "file://"+folder("dangling"), "db", checkpoint)
	if err := os.WriteFile(wal, object, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, nil, "slatedb", "gc", "--bucket", "file://"+folder("stuck"), "db", "--yes")
	acts(t, release, folder("stuck"), step{"open"}, step{"put", opts{"new": "row"}}, step{"close"}) // its next manifest says that it goes on
	want = map[string][]string{"unmarked": {"wal-store-unmarked"}, "missing": {"object-missing"}}
	found(150 * time.Second)

	type event struct{ Type, Slate, Before, After, What string }
	told := func() []event {
		t.Helper()
		var log listing[event]
		if err := json.Unmarshal([]byte(must(t, nil, "events", "--hub", "http://"+h.web, "-o", "json", "--limit", "0")), &log); err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(log.Items, func(e event) bool { return !strings.HasPrefix(e.Type, "finding") })
	}
	events := told()
	for _, e := range events {
		if strings.HasPrefix(e.Slate, "healthy") || e.Slate == "rich/db" {
			t.Errorf("a false alarm: %+v", e)
		}
	}
	for name, code := range map[string]string{"filters": "filter-format-mismatch", "segments": "segments-lost", "boundary": "boundary-ahead", "hole": "wal-hole", "pill": "closed-for-deletion", "dangling": "checkpoint-dangling"} {
		count := map[string]map[string]int{} // type, then code and object: how often
		for _, e := range events {
			if said := e.Before + e.After; e.Slate == name+"/db" && strings.HasPrefix(said, code) {
				if count[e.Type] == nil {
					count[e.Type] = map[string]int{}
				}
				count[e.Type][said]++
			}
		}
		if len(count["finding"]) == 0 || !maps.Equal(count["finding"], count["finding-gone"]) {
			t.Errorf("events of %s: %v", name, count)
		}
		for _, n := range count["finding"] {
			if n != 1 {
				t.Errorf("events of %s: %v", name, count)
			}
		}
	}
	type region struct {
		Spend map[string]float64 `json:"requests_per_hour"`
	}
	regions, err := get[region](h, t, "regions")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, n := range regions.Items[0].Spend {
		sum += n
	}
	t.Logf("requests per hour by class: %v, budget %d", regions.Items[0].Spend, budget)
	if len(regions.Items[0].Spend) == 0 || sum > budget*1.05 {
		t.Errorf("%.0f requests an hour with a budget of %d", sum, budget)
	}

	// An agent that begins anew has nothing to say that was not said, and keeps
	// nothing back; one that is told which releases are in use says more.
	again := func(want map[string][]string, extra ...string) {
		t.Helper()
		agent.stop()
		since := time.Now()
		agent = startAgent(t, h, "eu", "file://"+bucket, nil, append([]string{"--budget", fmt.Sprintf("%d/h", budget)}, extra...)...)
		eventually(t, 90*time.Second, fmt.Sprintf("findings %v, and everything looked through", want), func() error {
			type row struct {
				Slate  string
				State  string
				Listed *time.Time `json:"listed_at"`
			}
			l, err := get[row](h, t, "placements")
			if err != nil {
				return err
			}
			for _, r := range l.Items {
				if r.State == "live" && (r.Listed == nil || r.Listed.Before(since)) {
					return fmt.Errorf("%s was not looked through", r.Slate)
				}
			}
			return h.finds(t, want)
		})
	}
	again(want)
	if now := told(); !slices.Equal(now, events) {
		t.Errorf("a restart of the agent told %v", now[len(events):])
	}
	mixed := maps.Clone(want)
	folders, err := os.ReadDir(bucket)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range folders {
		o := quarry(t, nil, "slatedb", "verify", "--bucket", "file://"+folder(d.Name()), "db", "--in-use", "0.12.1")
		if !strings.HasPrefix(d.Name(), ".") && strings.Contains(o.stdout, "mixed-versions") {
			mixed[d.Name()] = slices.Sorted(slices.Values(append(slices.Clone(want[d.Name()]), "mixed-versions")))
			n++
		}
	}
	if n < 4 || n == len(folders) {
		t.Fatalf("%d of %d are nothing for 0.12.1: nothing is proven", n, len(folders))
	}
	again(mixed, "--in-use", "0.12.1")
	again(want)
}

// finds compares the codes of the findings of all slates with what is wanted.
func (h *hub) finds(t *testing.T, want map[string][]string) error {
	type row struct{ Slate, Code, Object, What, Who, Cure string }
	l, err := get[row](h, t, "findings")
	if err != nil {
		return err
	}
	got := map[string][]string{}
	for _, r := range l.Items {
		if r.Object == "" || r.What == "" || r.Who == "" || r.Cure == "" {
			return fmt.Errorf("a finding has object, who is hurt and cure: %+v", r)
		}
		name := strings.TrimSuffix(r.Slate, "/db")
		if !slices.Contains(got[name], r.Code) {
			got[name] = append(got[name], r.Code)
		}
	}
	for _, codes := range got {
		slices.Sort(codes)
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		return errors.New(fmt.Sprint(got))
	}
	return nil
}
