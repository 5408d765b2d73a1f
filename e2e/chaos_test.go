//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// soak makes the long version of a test.
func soak(short, long int) int {
	if os.Getenv("QUARRY_SOAK") != "" {
		return long
	}
	return short
}

// alarms are the events that wake somebody up.
var alarms = map[string]bool{
	"region-stale": true, "region-blind": true, "region-reset": true, "slate-missing": true, "slate-unreadable": true,
	"incarnation-changed": true, "last-snapshot-lost": true, "agent-refused": true, "writer-changed": true,
	"deregistered": true, "reader-changed": true, "snapshot-incomplete": true,
}

// story is the event log as a test reads it: sequence numbers grow, nothing
// that was read changes later, and nothing is told twice.
type story struct {
	told map[uint64]event
	last uint64
}

func (s *story) read(t testing.TB, h *hub) (fresh []event) {
	t.Helper()
	if s.told == nil {
		s.told = map[uint64]event{}
	}
	last := uint64(0)
	now := map[uint64]event{}
	for _, e := range events(t, h) {
		if e.Seq <= last {
			t.Errorf("event %d follows %d", e.Seq, last)
		}
		last = e.Seq
		now[e.Seq] = e
		if was, known := s.told[e.Seq]; known && was != e {
			t.Errorf("event %d was %+v and is %+v", e.Seq, was, e)
		} else if !known {
			fresh = append(fresh, e)
			s.told[e.Seq] = e
		}
	}
	for seq, e := range s.told {
		if _, there := now[seq]; !there {
			t.Errorf("event %d is not told any more: %+v", seq, e)
		}
	}
	s.last = max(s.last, last)
	return fresh
}

// declared puts a registration, a lease and restore points into a bucket.
func declared(t testing.TB, dir string) {
	t.Helper()
	copyTree(t, fixture("0.14.1", "checkpoints", "db"), filepath.Join(dir, "dbs", "kept"))
	for key, body := range map[string]string{
		".quarry/inbox/01JD0000000000000000000001.json": `{"version":1,"action":"register","slate":"sessions","root":"dbs/sessions","owner":"ann"}`,
		".quarry/leases/sessions/writer-w1.json":        `{"version":1,"slate":"sessions","role":"writer","id":"w1","holder":"pod-1","ttl_seconds":3600}`,
	} {
		p := filepath.Join(dir, filepath.FromSlash(key))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// census counts what must not be lost of a region.
func census(t testing.TB, h *hub) (string, error) {
	t.Helper()
	var out []string
	for _, resource := range []string{"placements", "restore-points", "owners"} {
		l, err := get[struct {
			Declared   *bool             `json:"declared"`
			Registered *bool             `json:"registered"`
			Leases     []json.RawMessage `json:"leases"`
		}](h, t, resource)
		if err != nil {
			return "", err
		}
		owned, leases := 0, 0
		for _, i := range l.Items {
			if i.Declared != nil && *i.Declared || i.Registered != nil && *i.Registered {
				owned++
			}
			leases += len(i.Leases)
		}
		out = append(out, fmt.Sprintf("%s %d registered %d leases %d", resource, len(l.Items), owned, leases))
	}
	return strings.Join(out, "; "), nil
}

// Agents and hubs are restarted all day. None of that is news: no alarm, no
// slate that appears again, nothing lost. (False alarms teach people to look
// away.)
func TestChaosRestartsAreNoNews(t *testing.T) {
	t.Parallel()
	h := startHub(t, "eu", "--stale-after", "10s") // slow machines start agents slowly
	dir := world(t)
	declared(t, dir)
	a := startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize+1)
	var log story
	var full string
	eventually(t, 20*time.Second, "registration, lease and restore points", func() (err error) {
		full, err = census(t, h)
		if err == nil && (!strings.Contains(full, "owners 5 registered 1 leases 1") || strings.Contains(full, "restore-points 0")) {
			err = fmt.Errorf("there is %s", full)
		}
		return err
	})
	time.Sleep(7 * time.Second) // the view is saved, which the hub does now and then
	log.read(t, h)
	for i := range soak(6, 60) {
		switch i % 3 {
		case 0:
			a.kill()
			a = startAgent(t, h, "eu", "file://"+dir, nil)
		case 1:
			if code := a.stop(); code != 0 {
				t.Errorf("SIGTERM: exit %d", code)
			}
			a = startAgent(t, h, "eu", "file://"+dir, nil)
		case 2:
			h.kill()
			h.restart(t)
		}
		for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
			if now, err := census(t, h); err != nil || now != full {
				t.Fatalf("round %d: %s (%v), before: %s", i, now, err, full)
			}
		}
		waitRegion(t, h, 10*time.Second, "eu", "connected", "")
		waitRows(t, h, 10*time.Second, "eu", "live", worldSize+1)
	}
	for _, e := range log.read(t, h) {
		t.Errorf("a restart was told as news: %+v", e)
	}
}

// A bucket that cannot be seen for a while takes nothing with it: restore
// points, registrations and leases stay, and one blindness is told as one.
func TestChaosBlindnessTakesNothing(t *testing.T) {
	t.Parallel()
	h := startHub(t, "eu")
	dir := world(t)
	declared(t, dir)
	a := startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize+1)
	var full string
	eventually(t, 20*time.Second, "registration, lease and restore points", func() (err error) {
		full, err = census(t, h)
		if err == nil && !strings.Contains(full, "owners 5 registered 1 leases 1") {
			err = fmt.Errorf("there is %s", full)
		}
		return err
	})
	time.Sleep(7 * time.Second) // the view is saved
	var log story
	log.read(t, h)
	away := dir + "-away"
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(away) })
	waitRegion(t, h, 20*time.Second, "eu", "blind", "region-blind")
	for range 20 {
		if now, err := census(t, h); err != nil || now != full {
			t.Fatalf("while blind: %s (%v), before: %s", now, err, full)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// Neither end's restart changes that.
	h.kill()
	h.restart(t)
	waitRegion(t, h, 10*time.Second, "eu", "blind", "region-blind")
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	waitRegion(t, h, 30*time.Second, "eu", "connected", "")
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize+1)
	if now, err := census(t, h); err != nil || now != full {
		t.Errorf("after it: %s (%v), before: %s", now, err, full)
	}
	_ = a
	var types []string
	for _, e := range log.read(t, h) {
		types = append(types, e.Type)
	}
	if got := strings.Join(types, " "); got != "region-blind region-connected" {
		t.Errorf("one blindness was told as %s", got)
	}
}

// The hub is killed at random moments while slates come, go and come back.
// Each life loads what the one before recorded: no row is lost, sequence
// numbers grow, what was read once stays, and nothing is told twice.
func TestChaosTheHubIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	h := startHub(t, "eu")
	dir := world(t)
	startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	// The world changes all the time; made says what was ever there.
	var mu sync.Mutex
	made := map[string]bool{}
	stop := make(chan struct{})
	var changing sync.WaitGroup
	defer changing.Wait()
	defer close(stop)
	changing.Go(func() {
		for i := 0; ; i++ {
			name := fmt.Sprintf("dbs/made-%03d", i)
			copyTree(t, fixture("0.15.0", "fresh", "db"), filepath.Join(dir, filepath.FromSlash(name)))
			mu.Lock()
			made[name] = true
			mu.Unlock()
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond):
			}
		}
	})

	var log story
	rows := map[string]bool{}
	look := func() {
		t.Helper()
		told := map[string]bool{}
		log.read(t, h)
		now, err := h.placements(t) // after the events: who was told of a row must find it
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range log.told {
			if e.Type == "slate-appeared" {
				if told[e.Root] {
					t.Errorf("%s appeared twice", e.Root)
				}
				told[e.Root] = true
			}
			if alarms[e.Type] {
				t.Errorf("alarm: %+v", e)
			}
		}
		for k := range told {
			rows["eu "+k] = true
		}
		for k := range rows {
			if _, there := now[k]; !there {
				t.Errorf("%s was shown and is gone", k)
			}
		}
		for k := range now {
			rows[k] = true
		}
	}
	for range soak(12, 100) {
		time.Sleep(time.Duration(rng.IntN(1200)) * time.Millisecond)
		if rng.IntN(3) > 0 {
			look()
		}
		h.kill()
		h.restart(t)
		look()
		if t.Failed() {
			return
		}
	}
	eventually(t, 30*time.Second, "everything that was made is shown", func() error {
		now, err := h.placements(t)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		missing := 0
		for name := range made {
			if now["eu "+name].State != "live" {
				missing++
			}
		}
		if missing > 5 { // the newest are still on their way
			return fmt.Errorf("%d of %d are not live", missing, len(made))
		}
		return nil
	})
	look()
}

// Two clusters of one region: one reports, the other stands by. When the first
// is killed the other takes over before anything turns stale, and when the
// first comes back it stands by: no ping-pong.
func TestChaosTwoClustersOfOneRegion(t *testing.T) {
	t.Parallel()
	h := startHub(t, "eu")
	dir := world(t)
	a := startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	startAgent(t, h, "eu", "file://"+dir, nil, "--cluster", "eu-2")
	clusters := func() (string, error) {
		l, err := get[struct {
			Name  string `json:"name"`
			State string `json:"state"`
		}](h, t, "clusters")
		var out []string
		for _, c := range l.Items {
			out = append(out, c.Name+" "+c.State)
		}
		return strings.Join(out, ", "), err
	}
	are := func(want string) {
		t.Helper()
		eventually(t, 15*time.Second, want, func() error {
			if now, err := clusters(); err != nil || now != want {
				return fmt.Errorf("%s (%v)", now, err)
			}
			return nil
		})
	}
	are("eu-1 reporting, eu-2 standby")
	time.Sleep(2 * time.Second) // the second has had its first look
	var log story
	log.read(t, h)
	a.kill()
	are("eu-1 silent, eu-2 reporting")
	// What changes now is told by the second.
	copyTree(t, fixture("0.15.0", "fresh", "db"), filepath.Join(dir, "dbs", "later"))
	waitRows(t, h, 15*time.Second, "eu", "live", worldSize+1)
	startAgent(t, h, "eu", "file://"+dir, nil)
	are("eu-1 standby, eu-2 reporting")
	time.Sleep(5 * time.Second) // longer than a region's patience
	are("eu-1 standby, eu-2 reporting")
	var types []string
	for _, e := range log.read(t, h) {
		types = append(types, e.Type+" "+e.Root)
	}
	if got := strings.Join(types, ", "); got != "slate-appeared dbs/later" {
		t.Errorf("a change of reporters was told as: %s", got)
	}
}

// An agent of a region that the hub does not know is told so, and so is
// whoever looks at the events: once, also over restarts of the hub.
func TestChaosAnAgentOfNoRegion(t *testing.T) {
	t.Parallel()
	h := startHub(t, "eu")
	a := startAgent(t, h, "mars", "file://"+world(t), nil)
	refusals := func() (n int) {
		for _, e := range events(t, h) {
			if e.Type == "agent-refused" {
				n++
				if !strings.Contains(e.What, `"mars"`) || !strings.Contains(e.What, "eu") {
					t.Errorf("the refusal says %q", e.What)
				}
			}
		}
		return n
	}
	eventually(t, 15*time.Second, "a refusal", func() error {
		if n := refusals(); n != 1 || !strings.Contains(a.log.String(), "refuses this agent") {
			return fmt.Errorf("%d told; its log: %s", n, a.log.tail(500))
		}
		return nil
	})
	if l, err := get[placement](h, t, "placements"); err != nil || len(l.Items) > 0 {
		t.Errorf("its slates are shown: %v (%v)", l.Items, err)
	}
}

// The hub's store is taken away, put back, and emptied while the hub runs: it
// goes on showing what it sees, says so, and the next start knows everything.
func TestChaosTheStoreIsTakenAway(t *testing.T) {
	t.Parallel()
	h := startHub(t, "eu,us")
	dir := world(t)
	startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	var log story
	log.read(t, h)
	away := h.store + "-away"
	if err := os.Rename(h.store, away); err != nil {
		t.Fatal(err)
	}
	copyTree(t, fixture("0.15.0", "fresh", "db"), filepath.Join(dir, "dbs", "later"))
	waitRows(t, h, 15*time.Second, "eu", "live", worldSize+1)
	eventually(t, 15*time.Second, "it says so", func() error {
		if !strings.Contains(h.log.String(), "the hub's store fails") {
			return fmt.Errorf("%s", h.log.tail(500))
		}
		return nil
	})
	if err := os.Rename(away, h.store); err != nil {
		t.Fatal(err)
	}
	eventually(t, 25*time.Second, "it recovers", func() error {
		if !strings.Contains(h.log.String(), "works again") {
			return fmt.Errorf("%s", h.log.tail(500))
		}
		return nil
	})
	log.read(t, h)
	entries, err := os.ReadDir(h.store)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(h.store, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 25*time.Second, "it notices that the store is empty", func() error {
		if regions, _ := filepath.Glob(filepath.Join(h.store, "regions", "*")); len(regions) == 0 {
			return fmt.Errorf("%s", h.log.tail(500))
		}
		return nil
	})
	time.Sleep(time.Second)
	h.kill()
	h.restart(t)
	waitRows(t, h, 15*time.Second, "eu", "live", worldSize+1)
	for _, e := range log.read(t, h) {
		if e.Region == "eu" {
			t.Errorf("told anew: %+v", e)
		}
	}
}

// Files of the store are torn by a crash of its disk: the hub starts, says
// what it passed over, and only what was in them is missing. A torn region set
// stops it, with the way out.
func TestChaosTornFilesInTheStore(t *testing.T) {
	t.Parallel()
	h := startHub(t, "eu")
	dir := world(t)
	startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	newest := func(folder string) string {
		var all []string
		eventually(t, 15*time.Second, "a file in "+folder, func() error {
			if all, _ = filepath.Glob(filepath.Join(h.store, folder, "0*")); len(all) == 0 {
				return fmt.Errorf("none")
			}
			return nil
		})
		return all[len(all)-1]
	}
	tear := func(p string) {
		t.Helper()
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, info.Size()/2); err != nil {
			t.Fatal(err)
		}
	}
	newest("view")
	h.kill()
	tear(newest("view"))
	tear(newest("events"))
	tear(newest("hubs"))
	h.restart(t)
	if log := h.log.String(); !strings.Contains(log, "saved view passed over") || !strings.Contains(log, "events passed over") {
		t.Errorf("it does not say what it passed over: %s", log)
	}
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)
	h.kill()
	tear(newest("regions"))
	o := quarry(t, nil, "hub", "--listen", h.web, "--agent-listen", h.agents, "--store", "file://"+h.store, "--regions", "eu")
	if o.code == 0 || !strings.Contains(o.stderr, "restore it, or delete it") {
		t.Errorf("a torn region set: exit %d: %s", o.code, o.stderr)
	}
}
