//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/servers"
)

// region waits until a region has a state and its reason begins as said.
func waitRegion(t testing.TB, h *hub, limit time.Duration, name, state, reason string) {
	t.Helper()
	eventually(t, limit, fmt.Sprintf("%s is %s (%s)", name, state, reason), func() error {
		r, err := h.region(t, name)
		if err != nil {
			return err
		}
		if r.State != state || !strings.HasPrefix(r.Reason, reason) {
			return fmt.Errorf("it is %s: %q", r.State, r.Reason)
		}
		return nil
	})
}

// rows waits until a region shows n placements in a state.
func waitRows(t testing.TB, h *hub, limit time.Duration, region, state string, n int) map[string]placement {
	t.Helper()
	var rows map[string]placement
	eventually(t, limit, fmt.Sprintf("%d %s placements in %s", n, state, region), func() error {
		all, err := h.placements(t)
		if err != nil {
			return err
		}
		rows = map[string]placement{}
		for _, p := range all {
			if p.Region == region && p.State == state {
				rows[p.Slate] = p
			}
		}
		if len(rows) != n {
			return fmt.Errorf("there are %d; all: %v", len(rows), all)
		}
		return nil
	})
	return rows
}

// world lays out a bucket with four slates.
func world(t testing.TB) string {
	dir := t.TempDir()
	copyTree(t, fixture("0.17.0", "reader", "db"), filepath.Join(dir, "dbs", "sessions"))
	copyTree(t, fixture("0.12.1", "versions", "db"), filepath.Join(dir, "dbs", "versions"))
	copyTree(t, fixture("opendata", "log", "slate"), filepath.Join(dir, "logs", "orders"))
	copyTree(t, fixture("opendata", "buffer", "bucket"), dir)
	return dir
}

const worldSize = 4

// Kill -9 an agent: its region turns stale on time, its rows stay with their
// age, nothing is dropped; the agent comes back and all is live again. (OD-11)
func TestOD11_AKilledAgentLeavesItsRows(t *testing.T) {
	h := startHub(t, "eu,us")
	eu, us := world(t), world(t)
	a := startAgent(t, h, "eu", "file://"+eu, nil)
	startAgent(t, h, "us", "file://"+us, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	waitRows(t, h, 20*time.Second, "us", "live", worldSize)

	a.kill()
	waitRegion(t, h, 10*time.Second, "eu", "stale", "region-stale")
	rows := waitRows(t, h, 5*time.Second, "eu", "stale", worldSize)
	for _, p := range rows {
		if p.ObservedAt.IsZero() {
			t.Errorf("%s has no age", p.Slate)
		}
	}
	waitRows(t, h, 5*time.Second, "us", "live", worldSize)
	l, err := get[placement](h, t, "placements")
	if err != nil || len(l.Unreachable) != 1 || l.Unreachable[0] != "eu" {
		t.Errorf("unreachable is %v (%v), expected eu", l.Unreachable, err)
	}
	if o := h.cli(t, "get", "placements", "--require-fresh", "3s"); o.code != 7 {
		t.Errorf("--require-fresh with a silent region: exit %d, expected 7: %s", o.code, o.stderr)
	}

	startAgent(t, h, "eu", "file://"+eu, nil)
	waitRegion(t, h, 15*time.Second, "eu", "connected", "")
	back := waitRows(t, h, 15*time.Second, "eu", "live", worldSize)
	for name, p := range back {
		if p.Incarnation != rows[name].Incarnation {
			t.Errorf("%s: a restarted agent gives incarnation %s, before %s", name, p.Incarnation, rows[name].Incarnation)
		}
	}
}

// Take the folder away under an agent: the region is blind, its rows stay.
// Put it back: all live.
func TestAFolderTakenAwayMakesTheRegionBlind(t *testing.T) {
	h := startHub(t, "eu")
	dir := world(t)
	startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)

	away := dir + "-away"
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(away) })
	waitRegion(t, h, 20*time.Second, "eu", "blind", "region-blind")
	waitRows(t, h, 10*time.Second, "eu", "stale", worldSize)

	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	waitRegion(t, h, 30*time.Second, "eu", "connected", "")
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
}

// An agent that comes back with an empty bucket is not believed: nothing
// disappears, the region says region-reset, until a person accepts it.
func TestAnEmptyBucketIsNotBelieved(t *testing.T) {
	h := startHub(t, "eu")
	dir := world(t)
	a := startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	if a.stop() != 0 {
		t.Errorf("SIGTERM: exit %d", a.cmd.ProcessState.ExitCode())
	}

	empty := t.TempDir()
	startAgent(t, h, "eu", "file://"+empty, nil)
	waitRegion(t, h, 20*time.Second, "eu", "blind", "region-reset")
	waitRows(t, h, 10*time.Second, "eu", "stale", worldSize)
	if _, err := os.Stat(filepath.Join(empty, ".quarry", "region.json")); err == nil {
		t.Error("the agent claimed the empty bucket although the hub knows another")
	}

	if o := h.cli(t, "region", "accept", "eu", "--yes"); o.code != 0 {
		t.Fatalf("accept: exit %d: %s", o.code, o.stderr)
	}
	waitRegion(t, h, 20*time.Second, "eu", "connected", "")
	rows := waitRows(t, h, 20*time.Second, "eu", "missing", worldSize)

	for name := range rows {
		if o := h.cli(t, "forget", "placement", name, "--region", "eu", "--yes"); o.code != 0 {
			t.Fatalf("forget %s: exit %d: %s", name, o.code, o.stderr)
		}
	}
	waitRows(t, h, 5*time.Second, "eu", "missing", 0)
}

// The same bucket emptied under a running agent: rows become missing, never
// gone, and the loss of region.json is said.
func TestABucketEmptiedUnderTheAgent(t *testing.T) {
	h := startHub(t, "eu")
	dir := world(t)
	startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	waitRegion(t, h, 30*time.Second, "eu", "blind", "region-reset")
	all, err := h.placements(t)
	if err != nil || len(all) != worldSize {
		t.Errorf("%d placements, expected %d to stay (%v)", len(all), worldSize, err)
	}
}

// An agent given another region's bucket refuses to start and names both.
// (OD-12)
func TestOD12_AnotherRegionsBucketIsRefused(t *testing.T) {
	h := startHub(t, "eu,us")
	dir := world(t)
	a := startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	a.stop()

	b := startAgent(t, h, "us", "file://"+dir, nil)
	if code := b.wait(15 * time.Second); code != 1 {
		t.Errorf("exit %d, expected 1", code)
	}
	if log := b.log.String(); !strings.Contains(log, `"eu"`) || !strings.Contains(log, `"us"`) {
		t.Errorf("the refusal names not both regions: %s", log)
	}
	rows, err := h.placements(t)
	if err != nil || len(rows) != worldSize {
		t.Errorf("%d placements, expected %d (%v)", len(rows), worldSize, err)
	}
}

// A store that answers 503 for a while: blind with the reason, nothing lost.
func TestAStoreThatAnswers503(t *testing.T) {
	s3 := servers.S3(t)
	s3.Make(t, "slates")
	target, _ := url.Parse(s3.Endpoint())
	var broken atomic.Bool
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // signatures cover it
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "slow down", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	env := environ(servers.S3Env())
	through := "s3://slates?region=us-east-1&use_path_style=true&endpoint=" + url.QueryEscape(front.URL)
	dir := world(t)
	upload(t, env, through, dir)

	h := startHub(t, "eu")
	startAgent(t, h, "eu", through, env)
	waitRows(t, h, 30*time.Second, "eu", "live", worldSize)
	broken.Store(true)
	waitRegion(t, h, 60*time.Second, "eu", "blind", "region-blind")
	waitRows(t, h, 10*time.Second, "eu", "stale", worldSize)
	broken.Store(false)
	waitRegion(t, h, 60*time.Second, "eu", "connected", "")
	waitRows(t, h, 30*time.Second, "eu", "live", worldSize)
}

// Kill -9 the hub: the inventory comes back, with the region that is down.
func TestAKilledHubRemembers(t *testing.T) {
	h := startHub(t, "eu,us")
	eu, us := world(t), world(t)
	a := startAgent(t, h, "eu", "file://"+eu, nil)
	startAgent(t, h, "us", "file://"+us, nil)
	before := waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	waitRows(t, h, 20*time.Second, "us", "live", worldSize)
	eventually(t, 30*time.Second, "a view is saved", func() error {
		saved, _ := filepath.Glob(filepath.Join(h.store, "view", "*"))
		if len(saved) == 0 {
			return fmt.Errorf("none in %s", h.store)
		}
		return nil
	})
	time.Sleep(6 * time.Second) // longer than the shortest time between saves
	a.kill()
	h.kill()
	n := 0
	h.restart(t)
	rows := waitRows(t, h, 10*time.Second, "eu", "stale", worldSize)
	for name, p := range rows {
		if p.Incarnation != before[name].Incarnation {
			t.Errorf("%s: incarnation %s, before %s", name, p.Incarnation, before[name].Incarnation)
		}
	}
	waitRegion(t, h, 5*time.Second, "eu", "stale", "not-heard")
	waitRows(t, h, 20*time.Second, "us", "live", worldSize)
	for _, e := range events(t, h) {
		if e.Type == "slate-appeared" {
			n++
		}
	}
	if n != 2*worldSize {
		t.Errorf("%d slate-appeared events, expected %d: once each, also over the restart", n, 2*worldSize)
	}

	// Another --regions is a typo until somebody says otherwise.
	if code := h.stop(); code != 0 {
		t.Errorf("SIGTERM: exit %d", code)
	}
	o := quarry(t, nil, "hub", "--listen", h.web, "--agent-listen", h.agents, "--store", "file://"+h.store, "--regions", "eu")
	if o.code == 0 || !strings.Contains(o.stderr, "us") {
		t.Errorf("a hub with a smaller --regions: exit %d: %s", o.code, o.stderr)
	}
}

// A database deleted and made again at its root, or set back to yesterday's
// copy, is another incarnation, with an event; its old restore points are void.
func TestMadeAgainAndSetBackAreOtherIncarnations(t *testing.T) {
	h := startHub(t, "eu")
	dir := t.TempDir()
	made, back := filepath.Join(dir, "dbs", "made"), filepath.Join(dir, "dbs", "back")
	copyTree(t, fixture("0.14.1", "checkpoints", "db"), made)
	copyTree(t, fixture("0.17.0", "compacted", "db"), back)
	startAgent(t, h, "eu", "file://"+dir, nil)
	before := waitRows(t, h, 20*time.Second, "eu", "live", 2)
	eventually(t, 20*time.Second, "restore points of dbs/made", func() error {
		l, err := get[struct {
			Slate string `json:"slate"`
		}](h, t, "restore-points")
		if err != nil || len(l.Items) == 0 {
			return fmt.Errorf("%d (%v)", len(l.Items), err)
		}
		return nil
	})

	if err := os.RemoveAll(made); err != nil {
		t.Fatal(err)
	}
	copyTree(t, fixture("0.15.0", "fresh", "db"), made)
	// Yesterday's copy: the newest manifests are gone.
	manifests, _ := filepath.Glob(filepath.Join(back, "manifest", "*.manifest"))
	for _, m := range manifests[len(manifests)-4:] {
		if err := os.Remove(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, slate := range []string{"dbs/made", "dbs/back"} {
		eventually(t, 60*time.Second, slate+" is another incarnation", func() error {
			return check(h, t, "eu", slate, func(p placement) bool {
				return p.Incarnation != before[slate].Incarnation && p.Predecessor == before[slate].Incarnation && p.State == "live"
			})
		})
	}
	seen := map[string]bool{}
	for _, e := range events(t, h) {
		if e.Type == "incarnation-changed" {
			seen[e.Slate] = true
		}
	}
	if !seen["dbs/made"] || !seen["dbs/back"] {
		t.Errorf("incarnation-changed events of %v, expected both", seen)
	}
	eventually(t, 10*time.Second, "the old restore points are void", func() error {
		l, err := get[struct {
			Slate       string `json:"slate"`
			Incarnation string `json:"incarnation"`
		}](h, t, "restore-points")
		if err != nil {
			return err
		}
		for _, r := range l.Items {
			if r.Slate == "dbs/made" && r.Incarnation == before["dbs/made"].Incarnation {
				return fmt.Errorf("still listed: %+v", r)
			}
		}
		return nil
	})
}
