package watch

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// A quiet database costs one GET a look, and is never listed.
func TestAQuietSlateCostsOneGetALookAndNoListing(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		const n = 20
		for i := range n {
			r.put("0.17.0/compacted/db", fmt.Sprintf("dbs/%02d", i))
		}
		b, faults := faulty.New(r.b)
		r.b = b
		r.o.Budget = 3600 * 20
		defer r.start()()
		wait(10 * time.Minute)
		before := len(faults.Calls())
		wait(30 * time.Minute)
		looks := map[string]int{}
		for _, c := range faults.Calls()[before:] {
			root, isSlate := strings.CutPrefix(c.Key, "dbs/")
			if !isSlate || root == "" {
				continue
			}
			if c.Method != bucket.Get {
				t.Errorf("%s %s", c.Method, c.Key)
			}
			looks[root[strings.Index(root, "/")+1:]]++
		}
		// Three questions in turn: is there a next manifest, a next WAL
		// object, and is the last manifest still the same.
		if len(looks) != 3 {
			t.Errorf("asked: %v", looks)
		}
		least, most := 1<<30, 0
		for _, n := range looks {
			least, most = min(least, n), max(most, n)
		}
		if least < most*9/10 || most == 0 {
			t.Errorf("asked unevenly: %v", looks)
		}
	})
}

// Ten thousand databases took ten minutes to be shown, because sizes and
// compactions were read, and manifests listed twice, before the first look
// was told complete. Now until then a database costs three listings (its
// folder, its manifests, its WAL), its newest manifest, and its record.
func TestTheFirstLookAsksForNothingThatCanWait(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		const n = 50
		for i := range n {
			r.put("0.17.0/fresh/db", fmt.Sprintf("dbs/%02d", i))
		}
		b, faults := faulty.New(r.b)
		r.b = b
		r.o.Budget = 3600 * 4 // so slow that the order of requests shows
		defer r.start()()
		for !r.hub.isReady() {
			wait(100 * time.Millisecond)
		}
		asked := map[string]int{}
		for _, c := range faults.Calls() {
			if strings.HasPrefix(c.Key, "dbs/") && c.Key != "dbs/" || strings.HasPrefix(c.Key, catalog.IncarnationsPrefix+"dbs") {
				asked[fmt.Sprint(c.Method)]++
			}
		}
		if lists := asked[fmt.Sprint(bucket.List)]; lists > 3*n+5 {
			t.Errorf("%d listings for %d databases before the first look was complete: %v", lists, n, asked)
		}
		if gets := asked[fmt.Sprint(bucket.Get)]; gets > 3*n {
			t.Errorf("%d gets for %d databases before the first look was complete: %v", gets, n, asked)
		}
		if asked[fmt.Sprint(bucket.List)] < n {
			t.Fatalf("the calls are not counted: %v", asked)
		}
	})
}

// A budget that is far too small is kept all the same, everything is looked at
// in its turn, and the reason is told.
func TestATooSmallBudgetIsKeptAndSaid(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		const n = 60
		for i := range n {
			r.put("0.17.0/fresh/db", fmt.Sprintf("dbs/%02d", i))
		}
		b, faults := faulty.New(r.b)
		r.b = b
		r.o.Budget = 600
		defer r.start()()
		wait(3 * time.Hour)
		if !r.hub.ready || len(r.hub.sights) != n {
			t.Fatalf("ready %v, %d slates", r.hub.ready, len(r.hub.sights))
		}
		before := len(faults.Calls())
		wait(time.Hour)
		calls := faults.Calls()[before:]
		if len(calls) > 620 || len(calls) < 300 {
			t.Errorf("%d requests in an hour", len(calls))
		}
		looked := map[string]bool{}
		for _, c := range calls {
			if p := strings.Split(c.Key, "/"); len(p) > 2 && p[0] == "dbs" {
				looked[p[1]] = true
			}
		}
		if len(looked) != n {
			t.Errorf("%d of %d were looked at in an hour", len(looked), n)
		}
		if h := r.hub.now(); !strings.HasPrefix(h.Reason, "over-budget: ") || h.Budget != 600 || h.Spend["get"] == 0 {
			t.Errorf("%+v", h)
		}
	})
}

func TestPurseKeepsTheHour(t *testing.T) {
	now := time.Now()
	p := newPurse(3600, now)
	paid := 0
	for range 3600 * 10 { // ten askers a second, for an hour
		now = now.Add(100 * time.Millisecond)
		for l := range lanes {
			p.mu.Lock()
			p.fill(now)
			can := p.tokens[l] >= 1
			p.mu.Unlock()
			if can && p.promise(l, now) == 0 {
				paid++
			}
		}
	}
	if paid > 3600 || paid < 3500 {
		t.Errorf("%d requests in the first hour of 3600", paid)
	}
}

func TestLeapFindsTheLast(t *testing.T) {
	for last := uint64(1); last < 300; last++ {
		asked := 0
		got, err := leap(1, func(id uint64) (bool, error) { asked++; return id <= last, nil })
		if err != nil || got != last || asked > 20 {
			t.Fatalf("last %d: %d after %d", last, got, asked)
		}
	}
}

// manySlates is what the benchmark's process of its own is asked for.
const manySlates = "QUARRY_WATCH_SLATES"

// TestAnHourWithManySlates is the benchmark's body; by itself it watches few.
func TestAnHourWithManySlates(t *testing.T) {
	n := 50
	if s := os.Getenv(manySlates); s != "" {
		n, _ = strconv.Atoi(s)
	}
	dir := t.TempDir()
	src := filepath.Join(fixtures, "0.17.0/wal-only/db")
	for i := range n {
		copyTree(t, src, filepath.Join(dir, fmt.Sprintf("dbs/%05d", i)), nil)
	}
	synctest.Test(t, func(t *testing.T) {
		b, err := bucket.Open(t.Context(), "file://"+dir)
		if err != nil {
			t.Fatal(err)
		}
		h := newHub()
		w, err := New(b, count{h}, Options{Region: "eu", Discover: []string{"dbs"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		var per []int64
		last := b.Requests()
		for range 2 {
			wait(time.Hour)
			now := b.Requests()
			d := now.Since(last)
			last = now
			per = append(per, d.ReadClass()+d.WriteClass()+d.Delete)
			t.Logf("an hour: %+v", d)
		}
		slates, ready := w.Progress()
		if !ready || slates != n {
			t.Errorf("%d slates, ready %v", slates, ready)
		}
		for i, n := range per {
			if float64(n) > 1.02*DefaultBudget {
				t.Errorf("hour %d: %d requests", i, n)
			}
		}
		t.Logf("MEASURED first=%d requests/h=%d RSS=%d", per[0], per[1], rss())
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// count keeps no history of sightings.
type count struct{ *hub }

func (c count) Set(f catalog.Fact) {
	c.hub.Set(f)
	c.hub.mu.Lock()
	c.hub.history = nil
	c.hub.mu.Unlock()
}

// rss is the process's resident memory in KiB; 0 where that is not known.
func rss() int {
	b, _ := os.ReadFile("/proc/self/status")
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// BenchmarkTenThousandSlates watches 10 000 databases in a folder for two hours
// of a clock that does not wait, in a process of its own: requests in the
// second hour, and resident memory, hub's copy of all sightings included.
func BenchmarkTenThousandSlates(b *testing.B) {
	for b.Loop() {
		cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestAnHourWithManySlates$", "-test.v", "-test.timeout=20m")
		cmd.Env = append(os.Environ(), manySlates+"=10000")
		out, err := cmd.CombinedOutput()
		m := regexp.MustCompile(`MEASURED first=(\d+) requests/h=(\d+) RSS=(\d+)`).FindSubmatch(out)
		if err != nil || m == nil {
			b.Fatalf("%v\n%s", err, out)
		}
		for i, unit := range []string{"first-hour-requests", "requests/h", "RSS-MB"} {
			v, _ := strconv.ParseFloat(string(m[i+1]), 64)
			if i == 2 {
				v /= 1024
			}
			b.ReportMetric(v, unit)
		}
		b.ReportMetric(DefaultBudget, "budget/h")
	}
}

// A database whose manifests move and whose WAL does not is not asked for its
// WAL at every look; one whose WAL begins to move is asked at every look again.
func TestAQuestionThatIsAlwaysDeniedRests(t *testing.T) {
	var r rests
	count := func(looks int, answer bool) (asked, longest int) {
		rest := 0
		for range looks {
			if rest++; r.due() {
				asked++
				longest, rest = max(longest, rest), 0
				r.answered(answer)
			}
		}
		return asked, longest
	}
	if asked, _ := count(quietAfter, false); asked != quietAfter {
		t.Errorf("asked %d times in the first %d looks", asked, quietAfter)
	}
	if asked, longest := count(1000, false); asked > 120 || longest > quietAfter {
		t.Errorf("denied: asked %d times in 1000 looks, once after %d", asked, longest)
	}
	count(quietAfter, true)
	if asked, longest := count(100, true); asked != 100 || longest != 1 {
		t.Errorf("granted: asked %d times in 100 looks, once after %d", asked, longest)
	}
}
