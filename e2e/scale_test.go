//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// residentMB is a process's resident memory.
func residentMB(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kb >> 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// manySlates makes n databases of one, by hard links.
func manySlates(t testing.TB, dir string, n int) {
	t.Helper()
	from := fixture("0.15.0", "fresh", "db")
	first := filepath.Join(dir, "dbs", "team-00", "db-00000")
	copyTree(t, from, first)
	var files []string
	if err := filepath.WalkDir(first, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(first, p)
			files = append(files, rel)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < n; i++ {
		root := filepath.Join(dir, "dbs", fmt.Sprintf("team-%02d", i%50), fmt.Sprintf("db-%05d", i))
		for _, f := range files {
			to := filepath.Join(root, f)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(filepath.Join(first, f), to); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// ask is one GET of the API: how long it took, and the body.
func ask(t testing.TB, h *hub, path string) (time.Duration, []byte) {
	t.Helper()
	began := time.Now()
	resp, err := http.Get("http://" + h.web + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %d %s (%v)", path, resp.StatusCode, b, err)
	}
	return time.Since(began), b
}

// spent waits for the agent's first count of what it asks its bucket: requests
// per hour.
func spent(t testing.TB, status string) (sum float64) {
	t.Helper()
	eventually(t, 20*time.Second, "what the agent spends", func() error {
		resp, err := http.Get("http://" + status + "/status")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var s struct {
			Health struct {
				Spend map[string]float64 `json:"requests_per_hour"`
			} `json:"health"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
			return err
		}
		sum = 0
		for _, n := range s.Health.Spend {
			sum += n
		}
		if sum == 0 {
			return fmt.Errorf("%v", s.Health.Spend)
		}
		return nil
	})
	return sum
}

// Ten thousand slates in one region. What it costs is logged; what must hold
// is that nothing is lost when the agent is killed and that a query is
// answered within a second all the while.
func TestScaleTenThousandSlates(t *testing.T) {
	n := soak(10_000, 30_000)
	dir := t.TempDir()
	began := time.Now()
	manySlates(t, dir, n)
	t.Logf("%d slates made in %s", n, time.Since(began).Round(time.Millisecond))

	h := startHub(t, "eu")
	status := freePort(t)
	began = time.Now()
	a := startAgent(t, h, "eu", "file://"+dir, nil, "--budget", "7200000/h", "--status", status)
	type page struct {
		Items []struct {
			State string `json:"state"`
		} `json:"items"`
		Unreachable []string `json:"unreachable"`
	}
	counted := func() (live, all int) {
		_, b := ask(t, h, "/v1/slates:summarize?by=state")
		var sum struct {
			Groups []map[string]json.RawMessage `json:"groups"`
		}
		if err := json.Unmarshal(b, &sum); err != nil {
			t.Fatal(err)
		}
		for _, g := range sum.Groups {
			var c int
			if err := json.Unmarshal(g["count"], &c); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			all += c
			if string(g["state"]) == `"live"` {
				live += c
			}
		}
		return live, all
	}
	eventually(t, 80*time.Second, "full inventory", func() error {
		if live, all := counted(); live != n {
			return fmt.Errorf("%d live of %d", live, all)
		}
		return nil
	})
	t.Logf("full inventory after %s; RSS hub %d MB, agent %d MB", time.Since(began).Round(100*time.Millisecond),
		residentMB(t, h.cmd.Process.Pid), residentMB(t, a.cmd.Process.Pid))

	began = time.Now()
	l, err := get[json.RawMessage](h, t, "slates")
	if err != nil || len(l.Items) != n {
		t.Fatalf("get slates: %d (%v)", len(l.Items), err)
	}
	t.Logf("get slates --limit 0 -o json: %s", time.Since(began).Round(time.Millisecond))
	if requests := spent(t, status); requests == 0 {
		t.Error("the agent does not say what it spends")
	} else {
		t.Logf("the agent says it asks its bucket %.0f times an hour (a rate over its first seconds)", requests)
	}

	a.kill()
	killed := time.Now()
	var slowest time.Duration
	for {
		took, b := ask(t, h, "/v1/placements?page_size=100")
		slowest = max(slowest, took)
		var p page
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatal(err)
		}
		if len(p.Items) != 100 {
			t.Fatalf("%d rows", len(p.Items))
		}
		if p.Items[99].State == "stale" && len(p.Unreachable) == 1 {
			break
		}
		if time.Since(killed) > 15*time.Second {
			t.Fatal("not stale 15 s after the kill")
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("stale %s after the kill (--stale-after 4s); the slowest query meanwhile took %s",
		time.Since(killed).Round(10*time.Millisecond), slowest.Round(time.Millisecond))
	if slowest > time.Second {
		t.Errorf("a query took %s while the region turned stale", slowest)
	}
	began = time.Now()
	h.kill()
	h.restart(t)
	t.Logf("a killed hub serves again after %s", time.Since(began).Round(time.Millisecond))
	if live, all := counted(); all != n || live != 0 {
		t.Errorf("after the restart: %d slates, %d live; want %d and none", all, live, n)
	}
}
