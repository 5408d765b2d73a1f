//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// ring is one region's bucket for which agents fight. They have no hub: the
// bucket says already whose it is.
type ring struct {
	t   testing.TB
	dir string
	hub string // where none is

	mu      sync.Mutex
	dropped []string
}

func newRing(t testing.TB) *ring {
	r := &ring{t: t, dir: t.TempDir(), hub: freePort(t)}
	copyTree(t, fixture("0.17.0", "fresh", "db"), filepath.Join(r.dir, "dbs", "a"))
	copyTree(t, fixture("0.17.0", "fresh", "db"), filepath.Join(r.dir, "dbs", "b"))
	if err := os.MkdirAll(filepath.Join(r.dir, ".quarry", "inbox"), 0o755); err != nil {
		t.Fatal(err)
	}
	region := `{"version":1,"region":"eu","bucket":"7b1e9d0e-6f0e-4c8f-9d68-0f4d3a2b1c00","catalog":".quarry/catalog"}`
	if err := os.WriteFile(filepath.Join(r.dir, ".quarry", "region.json"), []byte(region), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *ring) url() string { return "file://" + r.dir }

// fighter starts an agent that wants the region's duty.
func (r *ring) fighter(name, ttl string) *proc {
	return start(r.t, nil, "agent", "--region", "eu", "--cluster", name, "--bucket", r.url(), "--discover", "dbs",
		"--hub", r.hub, "--poll", "300ms", "--duty-ttl", ttl)
}

// drop registers a slate as a program in any language does: one JSON object,
// made if absent, whole from the first moment.
func (r *ring) drop(id string) {
	body := fmt.Sprintf(`{"version":1,"action":"register","slate":"slate-%s","root":"logs/%s","kind":"log","owner":"team"}`, id, id)
	whole := filepath.Join(r.t.TempDir(), id)
	if err := os.WriteFile(whole, []byte(body), 0o644); err != nil {
		r.t.Error(err)
		return
	}
	// Ids are ordered as ULIDs are.
	name := fmt.Sprintf("01J%023s.json", strings.ToUpper(id))
	if err := os.Link(whole, filepath.Join(r.dir, ".quarry", "inbox", name)); err != nil {
		r.t.Error(err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped = append(r.dropped, "slate-"+id)
}

// empty says how much lies in the inbox.
func (r *ring) empty() error {
	left, err := filepath.Glob(filepath.Join(r.dir, ".quarry", "inbox", "*.json"))
	if err != nil || len(left) > 0 {
		return fmt.Errorf("%d in the inbox: %w", len(left), err)
	}
	return nil
}

// holder is who took the duty last.
func (r *ring) holder() string {
	claims, err := filepath.Glob(filepath.Join(r.dir, ".quarry", "duty", "*.json"))
	if err != nil || len(claims) == 0 {
		return ""
	}
	raw, err := os.ReadFile(slices.Max(claims))
	var c struct{ Holder string }
	if err != nil || json.Unmarshal(raw, &c) != nil {
		return ""
	}
	return c.Holder
}

// batch is one batch of the catalog, as its WAL object shows it.
type batch struct {
	Claim    uint64 `json:"claim"`
	Revision uint64 `json:"revision"`
	Holder   string `json:"holder"`
	rows     int
}

// batches are all that were ever written, in their order: nothing is collected
// in so short a time.
func (r *ring) batches() []batch {
	objects, err := filepath.Glob(filepath.Join(r.dir, ".quarry", "catalog", "wal", "*.sst"))
	if err != nil {
		r.t.Fatal(err)
	}
	slices.Sort(objects)
	var all []batch
	for i, name := range objects {
		if want := fmt.Sprintf("%020d.sst", i+1); filepath.Base(name) != want {
			r.t.Fatalf("WAL object %d is called %s", i+1, filepath.Base(name))
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			r.t.Fatal(err)
		}
		o, err := wal.Decode(raw)
		if err != nil {
			r.t.Fatalf("%s: %v", name, err)
		}
		for _, row := range o.Rows {
			if string(row.Key) != "\x51\x01catalog" {
				continue
			}
			b := batch{rows: len(o.Rows)}
			if err := json.Unmarshal(row.Value, &b); err != nil {
				r.t.Fatal(err)
			}
			all = append(all, b)
		}
	}
	return all
}

// judge checks that revisions strictly grew over all holders, that nobody wrote
// after the next one had, and that each registration is there once.
func (r *ring) judge() []batch {
	r.t.Helper()
	all := r.batches()
	for i := 1; i < len(all); i++ {
		if all[i].Revision <= all[i-1].Revision {
			r.t.Errorf("revision %d of %s follows %d of %s", all[i].Revision, all[i].Holder, all[i-1].Revision, all[i-1].Holder)
		}
		if all[i].Claim < all[i-1].Claim {
			r.t.Errorf("%s wrote with claim %d after claim %d", all[i].Holder, all[i].Claim, all[i-1].Claim)
		}
	}
	d := dumped(r.t, r.url())
	if len(all) == 0 || d.Revision != all[len(all)-1].Revision {
		r.t.Fatalf("the catalog is at revision %d after %v", d.Revision, all)
	}
	seen := map[string]int{}
	for _, row := range d.Items {
		if row.Revision == 0 || row.Revision > d.Revision {
			r.t.Errorf("%s has revision %d of %d", row.Path, row.Revision, d.Revision)
		}
		if !strings.HasSuffix(row.Path, "/registration") && !strings.Contains(row.Path, "/declared/") {
			continue
		}
		var v struct{ Slate string }
		if err := json.Unmarshal(row.Value, &v); err != nil {
			r.t.Fatal(err)
		}
		seen[v.Slate]++
	}
	want := map[string]int{}
	for _, slate := range r.dropped {
		want[slate] = 1
	}
	if !maps.Equal(seen, want) {
		r.t.Errorf("%d registrations in the catalog, %d were dropped", len(seen), len(want))
	}
	for _, slate := range []string{"dbs%2Fa", "dbs%2Fb"} {
		if !slices.ContainsFunc(d.Items, func(row row) bool { return row.Path == "slate/"+slate+"/placement" }) {
			r.t.Errorf("no placement of %s", slate)
		}
	}
	return all
}

// Two agents fight for the duty of one bucket. They are killed, stopped for
// longer than the other waits and woken again, or told to go, at random
// moments; registrants go on meanwhile. No record is lost, revisions strictly
// grow, and of two that believe to have the duty one writes.
func TestTwoAgentsFightForTheDutyAndLoseNothing(t *testing.T) {
	long, least := 8*time.Second, 1
	if os.Getenv("QUARRY_SOAK") != "" {
		long, least = time.Minute, 10
	}
	rng := rand.New(rand.NewPCG(seedOf(t), 1))
	r := newRing(t)
	fighters := []*proc{r.fighter("eu-1", "1s"), r.fighter("eu-2", "1s")}
	var all []*proc
	all = append(all, fighters...)

	over := make(chan struct{})
	var registrants sync.WaitGroup
	for who := range 4 {
		mine := rand.New(rand.NewPCG(rng.Uint64(), 1))
		registrants.Go(func() {
			for n := 0; ; n++ {
				r.drop(fmt.Sprintf("%d-%05d", who, n))
				select {
				case <-over:
					return
				case <-time.After(time.Duration(mine.IntN(150)) * time.Millisecond):
				}
			}
		})
	}
	eventually(t, 20*time.Second, "one takes the duty", func() error {
		if r.holder() == "" {
			return errors.New("nobody has")
		}
		return nil
	})
	did := map[string]int{}
	for began := time.Now(); time.Since(began) < long; {
		time.Sleep(time.Duration(rng.IntN(700)) * time.Millisecond)
		i := rng.IntN(2)
		if strings.HasPrefix(r.holder(), fmt.Sprintf("eu-%d ", 2-i)) && rng.IntN(4) > 0 {
			i = 1 - i // whoever has it is hit more often
		}
		p := fighters[i]
		// One that is started anew waits for a hub before it fights.
		switch what := []string{"killed", "told to go", "stopped", "stopped", "stopped", "stopped", "stopped", "stopped"}[rng.IntN(8)]; what {
		case "stopped":
			did[what]++
			_ = p.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(800+rng.IntN(1700)) * time.Millisecond)
			_ = p.cmd.Process.Signal(syscall.SIGCONT)
		default:
			did[what]++
			if what == "killed" {
				p.kill()
			} else if code := p.stop(); code != 0 {
				t.Errorf("told to go, an agent ended with %d", code)
			}
			fighters[i] = r.fighter(fmt.Sprintf("eu-%d", i+1), "1s")
			all = append(all, fighters[i])
		}
	}
	close(over)
	registrants.Wait()
	eventually(t, time.Minute, "the inbox is folded", r.empty)
	eventually(t, time.Minute, "what is seen is in the catalog", func() error {
		for _, row := range dumped(t, r.url()).Items {
			if row.Path == "slate/dbs%2Fb/placement" {
				return nil
			}
		}
		return errors.New("no placement yet")
	})
	for _, p := range fighters {
		p.stop()
	}
	history := r.judge()
	takeovers := 0
	for i := 1; i < len(history); i++ {
		if history[i].Claim != history[i-1].Claim {
			takeovers++
		}
	}
	lost, fenced := 0, 0
	for _, p := range all {
		for line := range strings.SplitSeq(p.log.String(), "\n") {
			if strings.Contains(line, "region duty lost") {
				lost++
				if strings.Contains(line, "fenced") {
					fenced++
				}
			}
		}
	}
	t.Logf("%d registrations, %d batches, last revision %d; the duty passed on %d times among those who wrote, %d were told that they had lost it (%d by the store's fence); %v",
		len(r.dropped), len(history), history[len(history)-1].Revision, takeovers, lost, fenced, did)
	if takeovers < least {
		t.Errorf("the duty passed on %d times: the fight was none", takeovers)
	}
}

// A second agent takes the duty over from one that is stopped. When the first
// wakes up it gets no write in, leaves its write loop and stands by: once the
// second is killed it takes the duty again.
func TestOD5_TheSecondAgentFencesTheFirstWhichStandsByThen(t *testing.T) {
	r := newRing(t)
	taken := func(p *proc, claim int) func() error {
		return func() error {
			if !strings.Contains(p.log.String(), fmt.Sprintf(`msg="region duty taken" region=eu claim=%d`, claim)) {
				return errors.New(p.log.tail(500))
			}
			return nil
		}
	}
	folded := func(claim uint64) func() error {
		return func() error {
			if err := r.empty(); err != nil {
				return err
			}
			if all := r.batches(); len(all) == 0 || all[len(all)-1].Claim != claim {
				return fmt.Errorf("%v", all)
			}
			return nil
		}
	}
	first := r.fighter("eu-1", "1s")
	eventually(t, 20*time.Second, "the first takes the duty", taken(first, 1))
	r.drop("a")
	eventually(t, 40*time.Second, "the first folds", folded(1))
	// Fenced while nobody has claimed the duty after it: the first gets no
	// write in, leaves its write loop, and opens the catalog anew.
	must(t, nil, "slatedb", "fence", "--bucket", r.url(), ".quarry/catalog", "--yes")
	r.drop("fenced")
	eventually(t, 40*time.Second, "the first folds after it was fenced", folded(1))
	if log := first.log.String(); !strings.Contains(log, "the catalog cannot be written") || strings.Contains(log, "region duty lost") {
		t.Errorf("a fenced write went unsaid, or cost the duty:\n%s", first.log.tail(2000))
	}
	second := r.fighter("eu-2", "1s")
	time.Sleep(3 * time.Second)
	if strings.Contains(second.log.String(), "region duty taken") {
		t.Fatalf("the second took the duty of one that lives:\n%s", second.log.tail(2000))
	}
	_ = first.cmd.Process.Signal(syscall.SIGSTOP)
	eventually(t, 20*time.Second, "the second takes the duty", taken(second, 2))
	r.drop("b")
	eventually(t, 40*time.Second, "the second folds", folded(2))
	before := len(r.batches())
	r.drop("c") // for whoever comes first
	_ = first.cmd.Process.Signal(syscall.SIGCONT)
	eventually(t, 20*time.Second, "the first knows that it lost the duty", func() error {
		if !strings.Contains(first.log.String(), "region duty lost: standing by") {
			return errors.New(first.log.tail(500))
		}
		return nil
	})
	eventually(t, 40*time.Second, "the second folds", folded(2))
	for _, b := range r.batches()[before:] {
		if b.Claim != 2 {
			t.Errorf("after it was fenced %s wrote %+v", b.Holder, b)
		}
	}
	second.kill()
	eventually(t, 20*time.Second, "the first takes the duty again", taken(first, 3))
	r.drop("d")
	eventually(t, 40*time.Second, "the first folds again", folded(3))
	first.stop()
	r.judge()
}
