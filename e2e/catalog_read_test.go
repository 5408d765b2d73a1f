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

	"github.com/quarry-db/quarry/e2e/peers"
)

// inCatalog is what `catalog list` shows of a slate.
type inCatalog struct {
	Slate       string  `json:"slate"`
	Root        string  `json:"root"`
	Kind        string  `json:"kind"`
	State       string  `json:"state"`
	Owner       string  `json:"owner"`
	Registered  bool    `json:"registered"`
	Incarnation string  `json:"incarnation"`
	ManifestID  *uint64 `json:"manifest_id"`
	WriterEpoch *uint64 `json:"writer_epoch"`
	Position    *uint64 `json:"position"`
	Domain      string  `json:"position_domain"`
	Readers     []struct {
		From       string `json:"from"`
		Checkpoint struct {
			ID string `json:"id"`
		} `json:"checkpoint"`
		Lease struct {
			ID string `json:"id"`
		} `json:"lease"`
	} `json:"readers"`
	Holds []struct {
		Name string `json:"name"`
	} `json:"holds"`
}

// inBucket is what the bucket alone says of a region, a line for each slate in
// the order of their roots.
func inBucket(t testing.TB, url string) (lines []string, all map[string]inCatalog) {
	t.Helper()
	var l struct {
		Placements []inCatalog `json:"placements"`
	}
	if err := json.Unmarshal([]byte(must(t, nil, "catalog", "list", "--bucket", url, "-o", "json")), &l); err != nil {
		t.Fatal(err)
	}
	all = map[string]inCatalog{}
	for _, p := range l.Placements {
		all[p.Root] = p
		var readers []string
		for _, r := range p.Readers {
			readers = append(readers, r.Checkpoint.ID+r.Lease.ID)
		}
		slices.Sort(readers)
		lines = append(lines, line(p.Root, p.Slate, p.Kind, p.State, p.Owner, p.Registered, p.Incarnation, p.Domain, p.ManifestID, p.WriterEpoch, p.Position, readers))
	}
	slices.Sort(lines)
	return lines, all
}

// inHub is the hub's answer for a region in the same words.
func inHub(t testing.TB, h *hub, region string) (lines []string) {
	t.Helper()
	l, err := get[placement](h, t, "placements", "--filter", fmt.Sprintf("region = %q", region))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Items {
		var readers []string
		for _, r := range p.Readers {
			readers = append(readers, r.ID)
		}
		slices.Sort(readers)
		lines = append(lines, line(p.Root, p.Slate, p.Kind, p.State, p.Owner, p.Registered, p.Incarnation, p.Domain, p.ManifestID, p.WriterEpoch, p.Position, readers))
	}
	slices.Sort(lines)
	return lines
}

func line(root, slate, kind, state, owner string, registered bool, incarnation, domain string, numbers ...any) string {
	s := fmt.Sprintln(root, slate, kind, state, owner, registered, incarnation, domain)
	for _, n := range numbers {
		raw, _ := json.Marshal(n)
		s += string(raw) + " "
	}
	return s
}

// With the hub and the agent gone, what the bucket's catalog says of a region is
// what the hub said last: names, roots, kinds, owners, states, incarnations,
// writers' epochs, positions, readers. Every real SlateDB sees the same rows.
func TestOD4_TheCatalogAloneGivesTheHubsLastAnswer(t *testing.T) {
	dir := t.TempDir()
	url := "file://" + dir
	real := map[string]*peers.Peer{}
	for _, v := range peers.Versions {
		p := peers.Start(t, v, peers.Local(dir))
		p.Open("dbs/v" + v)
		p.Put("dbs/v"+v, map[string]string{"k1": "v1", "k2": "v2"})
		real[v] = p
	}
	peers.Start(t, "0.15.0", peers.Local(dir)).Op("read", "dbs/v0.15.0")
	must(t, nil, "slatedb", "checkpoints", "create", "--bucket", url, "dbs/v0.16.0", "--name", "quarry:floor")
	must(t, nil, "slatedb", "checkpoints", "create", "--bucket", url, "dbs/v0.16.0", "--name", "nightly")
	copyTree(t, fixture("opendata", "log"), filepath.Join(dir, "logs", "clicks"))
	copyTree(t, fixture("opendata", "buffer"), filepath.Join(dir, "buffers", "in"))
	copyTree(t, fixture("restate", "v1-from-1.6.1"), filepath.Join(dir, "archive"))
	must(t, nil, "catalog", "register", "--bucket", url, "--name", "orders", "--root", "dbs/v0.12.1", "--owner", "team-a", "--label", "tier=gold")
	must(t, nil, "catalog", "register", "--bucket", url, "--name", "clicks", "--root", "logs/clicks", "--kind", "log", "--owner", "team-b")
	must(t, nil, "catalog", "register", "--bucket", url, "--name", "mine", "--root", "dbs/v0.13.1", "--owner", "team-c")
	must(t, nil, "catalog", "deregister", "--bucket", url, "--name", "mine")
	putFile(t, dir, ".quarry/leases/orders/reader-report.json", `{"version":1,"slate":"orders","role":"reader","id":"report","holder":"report-0","ttl_seconds":3600}`)
	putFile(t, dir, ".quarry/leases/orders/owner-a.json", `{"version":1,"slate":"orders","role":"owner","id":"a","holder":"team-a"}`)

	h := startHub(t, "eu")
	agent := startAgent(t, h, "eu", url, nil)
	// One is written on; what it says at the end is no older than a minute.
	last := real["0.17.0"]
	for n := range 5 {
		last.Put("dbs/v0.17.0", map[string]string{fmt.Sprint("more", n): "v"})
		time.Sleep(time.Second)
	}
	var hubs []string
	eventually(t, 2*time.Minute, "the bucket alone says what the hub says", func() error {
		hubs = inHub(t, h, "eu")
		if len(hubs) < len(peers.Versions)+3 || !strings.Contains(strings.Join(hubs, "\n"), "dbs/v0.12.1 orders slatedb live team-a true") {
			return fmt.Errorf("the hub says\n%s", strings.Join(hubs, "\n"))
		}
		if ours, _ := inBucket(t, url); !slices.Equal(ours, hubs) {
			return fmt.Errorf("the bucket says\n%s\nthe hub\n%s", strings.Join(ours, "\n"), strings.Join(hubs, "\n"))
		}
		return nil
	})
	h.stop()
	agent.stop()

	ours, all := inBucket(t, url)
	if !slices.Equal(ours, hubs) {
		t.Errorf("the bucket says\n%s\nthe hub said\n%s", strings.Join(ours, "\n"), strings.Join(hubs, "\n"))
	}
	if p := all["dbs/v0.12.1"]; p.Slate != "orders" || p.Owner != "team-a" || len(p.Readers) != 1 || p.Readers[0].Lease.ID != "report" {
		t.Errorf("orders: %+v", p)
	}
	if p := all["dbs/v0.15.0"]; len(p.Readers) != 1 || p.Readers[0].From != "checkpoint" {
		t.Errorf("a managed reader is none: %+v", p)
	}
	if p := all["dbs/v0.16.0"]; len(p.Holds) != 1 || p.Holds[0].Name != "quarry:floor" {
		t.Errorf("a hold is none: %+v", p)
	}
	d := dumped(t, url)
	for _, want := range []string{"slate/orders/owner/lease-a", "slate/orders/reader/lease-report", "slate/orders/writer/epoch-1", "slate/orders/registration"} {
		if !slices.ContainsFunc(d.Items, func(r row) bool { return r.Path == want }) {
			t.Errorf("no row %s", want)
		}
	}
	for _, v := range peers.Versions {
		agree(t, v, dir, d)
	}
}

func putFile(t testing.TB, dir, key, body string) {
	t.Helper()
	name := filepath.Join(dir, filepath.FromSlash(key))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
}

// agree checks that a real SlateDB reads the catalog as it was dumped.
func agree(t testing.TB, version, dir string, d dump) {
	t.Helper()
	rows := said(peers.Start(t, version, peers.Local(dir)).Op("scan", ".quarry/catalog"))
	if len(rows) != len(d.Items) {
		t.Errorf("SlateDB %s sees %d rows, we %d", version, len(rows), len(d.Items))
	}
	for _, row := range d.Items {
		var a, b any
		if json.Unmarshal([]byte(rows["\x51\x01"+row.Path]), &a) != nil || json.Unmarshal(row.Value, &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("SlateDB %s sees %q under %s, we %s", version, rows["\x51\x01"+row.Path], row.Path, row.Value)
		}
	}
}

// Somebody follows the log of changes while the agent of the region is killed
// and comes back. What happened before, meanwhile and after is told once, in
// order; a restart is no change of any slate.
func TestOD6_ChangesAreFollowedInOrderAcrossARestartOfTheAgent(t *testing.T) {
	dir := t.TempDir()
	url := "file://" + dir
	writer := peers.Start(t, "0.17.0", peers.Local(dir))
	writer.Open("dbs/a")
	writer.Put("dbs/a", map[string]string{"k": "v"})
	h := startHub(t, "eu")
	follower := start(t, nil, "events", "--watch", "-o", "json", "--hub", "http://"+h.web)
	agent := startAgent(t, h, "eu", url, nil)
	followed := func() (all []event) {
		for line := range strings.Lines(follower.log.String()) {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.Region == "eu" && e.Root != "" {
				all = append(all, e)
			}
		}
		return all
	}
	heard := func(kind, root string) {
		t.Helper()
		eventually(t, 40*time.Second, kind+" of "+root, func() error {
			if !slices.ContainsFunc(followed(), func(e event) bool { return e.Type == kind && e.Root == root }) {
				return errors.New(follower.log.tail(3000))
			}
			return nil
		})
	}
	heard("slate-appeared", "dbs/a")
	second := peers.Start(t, "0.17.0", peers.Local(dir))
	second.Open("dbs/a")
	second.Put("dbs/a", map[string]string{"k": "second"})
	heard("writer-changed", "dbs/a")
	must(t, nil, "catalog", "register", "--bucket", url, "--name", "orders", "--root", "dbs/a", "--owner", "team-a")
	heard("registered", "dbs/a")

	agent.kill()
	second.Open("dbs/b")
	second.Put("dbs/b", map[string]string{"k": "v"})
	agent = startAgent(t, h, "eu", url, nil)
	heard("slate-appeared", "dbs/b")
	second.Op("read", "dbs/b")
	heard("reader-changed", "dbs/b")
	time.Sleep(3 * time.Second) // for what would be told twice
	agent.stop()

	var told []string
	var seq uint64
	for _, e := range followed() {
		if e.Seq <= seq {
			t.Errorf("event %d follows %d", e.Seq, seq)
		}
		seq = e.Seq
		told = append(told, e.Type+" "+e.Root)
	}
	want := []string{"slate-appeared dbs/a", "writer-changed dbs/a", "registered dbs/a", "slate-appeared dbs/b", "reader-changed dbs/b"}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}
