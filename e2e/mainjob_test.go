//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
	"github.com/quarry-db/quarry/e2e/servers"
)

func environ(m map[string]string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return out
}

// The main job: three regions on a folder, a real S3 server and a real Azure
// server; real SlateDB processes of every version that installs write, read,
// close, get killed and fence each other; the inventory is exactly what is
// there.
func TestMainJob(t *testing.T) {
	s3, az := servers.S3(t), servers.Azure(t)
	s3URL, azURL := s3.Make(t, "slates"), az.Make(t, "slates")
	folder := t.TempDir()
	s3Env, azEnv := environ(servers.S3Env()), environ(servers.AzureEnv())
	stores := map[string][]string{
		"local": peers.Local(folder),
		"s3":    peers.S3(s3.Endpoint(), "slates", servers.S3Env()["AWS_ACCESS_KEY_ID"], servers.S3Env()["AWS_SECRET_ACCESS_KEY"]),
		"azure": peers.Azure(fmt.Sprintf("http://127.0.0.1:%d", az.Port), "slates"),
	}

	h := startHub(t, "local,s3,azure")
	startAgent(t, h, "local", "file://"+folder, nil)
	startAgent(t, h, "s3", s3URL, s3Env)
	startAgent(t, h, "azure", azURL, azEnv)

	watch := watchSlates(t, h)

	// Every version writes into the folder and into S3; Azure, which is slow
	// here, gets the oldest and the newest.
	type written struct{ region, slate string }
	want := map[written]bool{}
	writers := map[written]*peers.Peer{}
	for _, region := range []string{"local", "s3", "azure"} {
		versions := peers.Versions
		if region == "azure" {
			versions = []string{versions[0], versions[len(versions)-1]}
		}
		for _, v := range versions {
			w := written{region, "dbs/v" + v}
			p := peers.Start(t, v, stores[region])
			p.Open(w.slate)
			p.Put(w.slate, map[string]string{"k1": "v1", "k2": "v2"})
			want[w], writers[w] = true, p
		}
	}

	exactly := func() error {
		got, err := h.placements(t)
		if err != nil {
			return err
		}
		for w := range want {
			p, ok := got[w.region+" "+w.slate]
			if !ok {
				return fmt.Errorf("%v is not listed; there is %v", w, slices.Sorted(maps.Keys(got)))
			}
			if p.State != "live" || p.Kind != "slatedb" || p.WriterEpoch == nil || *p.WriterEpoch != 1 || p.Registered || p.Root != w.slate {
				return fmt.Errorf("%v: %s", w, p)
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("%d placements, expected %d: %v", len(got), len(want), slices.Sorted(maps.Keys(got)))
		}
		return nil
	}
	eventually(t, 30*time.Second, "exactly what was written is listed", exactly)

	// The position is the newest sequence number, with the WAL's tail.
	one := written{"local", "dbs/v0.15.0"}
	writers[one].Put(one.slate, map[string]string{"k3": "v3"})
	eventually(t, 20*time.Second, "the position moves", func() error {
		return check(h, t, one.region, one.slate, func(p placement) bool { return p.Position != nil && *p.Position == 2 && p.Domain == "seq" })
	})

	// A managed reader is a checkpoint; it goes when the reader closes.
	for _, w := range []written{{"local", "dbs/v0.17.0"}, {"s3", "dbs/v0.13.1"}, {"azure", "dbs/v0.12.1"}} {
		r := peers.Start(t, strings.TrimPrefix(w.slate, "dbs/v"), stores[w.region])
		r.Op("read", w.slate)
		eventually(t, 20*time.Second, fmt.Sprintf("%v: its reader is shown", w), func() error {
			return check(h, t, w.region, w.slate, func(p placement) bool { return len(p.Readers) == 1 && p.Readers[0].Expires != nil })
		})
		r.Op("unread", w.slate)
		eventually(t, 20*time.Second, fmt.Sprintf("%v: its reader is gone", w), func() error {
			return check(h, t, w.region, w.slate, func(p placement) bool { return len(p.Readers) == 0 })
		})
	}

	// A killed reader leaves its checkpoint behind: still somebody.
	dead := written{"s3", "dbs/v0.16.0"}
	r := peers.Start(t, "0.16.0", stores["s3"])
	r.Op("read", dead.slate)
	r.Kill()
	eventually(t, 20*time.Second, "the killed reader's checkpoint counts", func() error {
		return check(h, t, dead.region, dead.slate, func(p placement) bool { return len(p.Readers) == 1 })
	})

	// A second writer: the epoch changes, and an event says so.
	second := peers.Start(t, "0.14.1", stores["local"])
	second.Open("dbs/v0.14.1")
	second.Put("dbs/v0.14.1", map[string]string{"k": "second"})
	eventually(t, 20*time.Second, "the second writer's epoch", func() error {
		return check(h, t, "local", "dbs/v0.14.1", func(p placement) bool { return *p.WriterEpoch == 2 })
	})
	eventually(t, 10*time.Second, "the event of the second writer", func() error {
		n := 0
		for _, e := range events(t, h) {
			if e.Type == "writer-changed" && e.Slate == "dbs/v0.14.1" && e.Region == "local" {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%d writer-changed events of dbs/v0.14.1, expected one", n)
		}
		return nil
	})

	// Declared by its owner: name, owner, kind, labels.
	must(t, s3Env, "catalog", "register", "--bucket", s3URL, "--name", "orders", "--root", "dbs/v0.15.0", "--kind", "keyvalue", "--owner", "team-a", "--label", "tier=gold")
	eventually(t, 20*time.Second, "the registration", func() error {
		return check(h, t, "s3", "orders", func(p placement) bool {
			return p.Registered && p.Owner == "team-a" && p.Labels["tier"] == "gold" && p.Root == "dbs/v0.15.0" && p.State == "live"
		})
	})
	must(t, s3Env, "catalog", "deregister", "--bucket", s3URL, "--name", "orders")
	eventually(t, 20*time.Second, "the registration withdrawn", func() error {
		return check(h, t, "s3", "dbs/v0.15.0", func(p placement) bool { return !p.Registered })
	})

	// Closed and killed writers leave databases that are still there.
	for w, p := range writers {
		if w.region == "azure" {
			p.Op("close", w.slate)
		}
		p.Kill()
	}
	time.Sleep(time.Second)
	got, err := h.placements(t)
	if err != nil || len(got) != len(want) {
		t.Fatalf("after the writers ended: %d placements, expected %d (%v)", len(got), len(want), err)
	}

	watch.each(t, h)
}

func check(h *hub, t testing.TB, region, slate string, good func(placement) bool) error {
	got, err := h.placements(t)
	if err != nil {
		return err
	}
	p, ok := got[region+" "+slate]
	if !ok {
		return fmt.Errorf("no placement of %s in %s", slate, region)
	}
	if !good(p) {
		return fmt.Errorf("it is %s", p)
	}
	return nil
}

type event struct {
	Seq    uint64 `json:"seq"`
	Type   string `json:"type"`
	Region string `json:"region"`
	Slate  string `json:"slate"`
	Root   string `json:"root"`
	What   string `json:"what"`
}

func events(t testing.TB, h *hub) []event {
	t.Helper()
	o := h.cli(t, "events", "-o", "json", "--limit", "0")
	if o.code != 0 {
		t.Fatalf("events: exit %d: %s", o.code, o.stderr)
	}
	var l listing[event]
	if err := json.Unmarshal([]byte(o.stdout), &l); err != nil {
		t.Fatalf("events printed no JSON: %v: %q", err, o.stdout)
	}
	return l.Items
}

// watcher collects what `get slates --watch -o json` prints, a line a change.
type watcher struct {
	mu    sync.Mutex
	lines []string
}

func watchSlates(t testing.TB, h *hub) *watcher {
	t.Helper()
	w := &watcher{}
	c := exec.Command(binary, "get", "slates", "--watch", "-o", "json", "--hub", "http://"+h.web)
	c.Env = cleanEnv(t)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		sc := bufio.NewScanner(out)
		sc.Buffer(nil, 16<<20)
		for sc.Scan() {
			w.mu.Lock()
			w.lines = append(w.lines, sc.Text())
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() { _ = c.Process.Kill(); <-done; _ = c.Wait() })
	return w
}

// each checks that no change was printed twice in a row, and that the last
// line of every slate is what a list says now.
func (w *watcher) each(t testing.TB, h *hub) {
	t.Helper()
	time.Sleep(time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	last := map[string]string{}
	for _, line := range w.lines {
		var row struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatalf("watch printed %q: %v", line, err)
		}
		if last[row.Name] == line {
			t.Errorf("the same change of %s was printed twice", row.Name)
		}
		last[row.Name] = line
	}
	l, err := get[struct {
		Name  string `json:"name"`
		Where []struct {
			Region      string  `json:"region"`
			WriterEpoch *uint64 `json:"writer_epoch"`
		} `json:"where"`
	}](h, t, "slates")
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Items) == 0 {
		t.Fatal("no slates are listed")
	}
	for _, s := range l.Items {
		if last[s.Name] == "" {
			t.Errorf("watch never printed %s", s.Name)
		}
		if len(s.Where) == 0 || s.Where[0].WriterEpoch == nil {
			t.Errorf("%s: its row does not say where it is and its writer's epoch", s.Name)
		}
	}
}
