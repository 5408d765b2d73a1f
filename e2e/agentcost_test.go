//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/servers"
	"github.com/quarry-db/quarry/pkg/bucket"
)

// What the region of the cost test does, and for how long it is counted.
const (
	costSlates  = 10_000
	costBusiest = costSlates / 20  // a twentieth: each has a new manifest a minute
	costMiddle  = costSlates / 20  // each has one an hour; the others have none
	costSample  = costSlates / 100 // of the busiest, listed by the naive peer
	naiveEvery  = 10 * time.Second
	costWarm    = 60 * time.Second
	costWindow  = 120 * time.Second
)

// Dollars for a thousand requests, by list price: S3 standard.
var listPrice = map[string]float64{"get": 0.0004, "head": 0.0004, "list": 0.005, "put": 0.005, "delete": 0}

// meter stands before an S3 server, counts requests by class, and notes when a
// manifest was first read.
type meter struct {
	*httptest.Server
	mu    sync.Mutex
	count map[string]int
	read  map[string]time.Time
}

func newMeter(t *testing.T, server string) *meter {
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	m := &meter{count: map[string]int{}, read: map[string]time.Time{}}
	m.Server = httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }, // signatures cover the host
		ModifyResponse: m.note,
		// The default keeps two connections; more are made and dropped all the time.
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	})
	t.Cleanup(m.Close)
	return m
}

func (m *meter) note(r *http.Response) error {
	class := strings.ToLower(r.Request.Method)
	if class == "get" && r.Request.URL.Query().Has("list-type") {
		class = "list"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count[class]++
	if _, key, ok := strings.Cut(r.Request.URL.Path, "/slates/"); ok && class == "get" && r.StatusCode/100 == 2 && object.MatchString("/"+key) {
		if _, before := m.read[key]; !before {
			m.read[key] = time.Now()
		}
	}
	return nil
}

func (m *meter) counts() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := map[string]int{}
	for class, n := range m.count {
		c[class] = n
	}
	return c
}

// bill is what so many requests in a while cost in an hour at list prices.
func bill(requests map[string]int, while time.Duration) (perHour map[string]float64, dollars float64) {
	perHour = map[string]float64{}
	for class, n := range requests {
		perHour[class] = math.Round(float64(n) / while.Hours())
		dollars += perHour[class] / 1000 * listPrice[class]
	}
	return perHour, dollars
}

func since(before, after map[string]int) map[string]int {
	d := map[string]int{}
	for class, n := range after {
		d[class] = n - before[class]
	}
	return d
}

// writers give slates their next manifests at seeded moments: hard links of
// what a real database wrote, so each appears whole.
type writers struct {
	dir, from string
	mu        sync.Mutex
	put       map[string]time.Time
}

// run gives one slate manifests, on average so often, until ctx is over.
func (w *writers) run(ctx context.Context, root string, next int, mean time.Duration, rng *rand.Rand) {
	for ; next <= costManifests; next++ {
		timer := time.NewTimer(time.Duration(rng.ExpFloat64() * float64(mean)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		w.give(root, next)
	}
}

// give puts one manifest.
func (w *writers) give(root string, id int) {
	name := fmt.Sprintf("manifest/%020d.manifest", id)
	w.mu.Lock()
	w.put[root+"/"+name] = time.Now()
	w.mu.Unlock()
	if err := os.Link(filepath.Join(w.from, name), filepath.Join(w.dir, root, name)); err != nil && !errors.Is(err, fs.ErrExist) {
		panic(err)
	}
}

// hint says to an agent, as a writer beside it does, that a slate has changed.
func hint(t *testing.T, status, root string) {
	t.Helper()
	resp, err := http.Post("http://"+status+"/hint", "application/json", strings.NewReader(fmt.Sprintf(`{"root":%q}`, root)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("hint of %s: %s", root, resp.Status)
	}
}

const (
	costManifests = 25 // of the fixture that moves
	costBegin     = 5  // those that are there at the beginning
)

// costRoot is a slate that will move.
func costRoot(i int) string { return fmt.Sprintf("dbs/team-%02d/moving-%04d", i%50, i) }

// movingSlates makes n databases that have had their first manifests only. It
// returns the folder of whole manifests to link from.
func movingSlates(t *testing.T, dir, spare string, n int) string {
	t.Helper()
	whole := filepath.Join(spare, "whole")
	copyTree(t, fixture("0.15.0", "compacted", "db"), whole)
	for i := range n {
		root := filepath.Join(dir, costRoot(i))
		err := filepath.WalkDir(whole, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(whole, p)
			if d.IsDir() {
				return os.MkdirAll(filepath.Join(root, rel), 0o755)
			}
			if strings.HasPrefix(rel, "manifest/") && rel > fmt.Sprintf("manifest/%020d.manifest", costBegin) {
				return nil
			}
			return os.Link(p, filepath.Join(root, rel))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return whole
}

// naive is the peer: it lists every slate's manifests every ten seconds. It is
// run on a sample, spread evenly over the interval.
type naive struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

func (p *naive) run(ctx context.Context, b *bucket.Bucket, roots []string) error {
	var wg sync.WaitGroup
	failed := make(chan error, len(roots))
	for i, root := range roots {
		wg.Go(func() {
			select {
			case <-time.After(time.Duration(i) * naiveEvery / time.Duration(len(roots))):
			case <-ctx.Done():
				return
			}
			tick := time.NewTicker(naiveEvery)
			defer tick.Stop()
			for {
				objects, _, err := b.List(ctx, root+"/manifest/")
				if err != nil && ctx.Err() == nil {
					failed <- err
					return
				}
				p.mu.Lock()
				for _, o := range objects {
					if _, before := p.seen[o.Key]; !before {
						p.seen[o.Key] = time.Now()
					}
				}
				p.mu.Unlock()
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	return <-failed
}

// delays are those between put and seen of the manifests of roots that were put
// in the window; who has seen a later one has seen them. unseen are those that
// nobody has seen yet.
func delays(put, seen map[string]time.Time, roots map[string]bool, from, to time.Time) (d []time.Duration, unseen int) {
	for key, at := range put {
		root, _, _ := strings.Cut(key, "/manifest/")
		if at.Before(from) || at.After(to) || !roots[root] {
			continue
		}
		var first time.Time
		for id := manifestID(key); id <= costManifests; id++ {
			when, ok := seen[fmt.Sprintf("%s/manifest/%020d.manifest", root, id)]
			if ok && (first.IsZero() || when.Before(first)) {
				first = when
			}
		}
		if first.IsZero() {
			unseen++
		} else {
			d = append(d, first.Sub(at))
		}
	}
	slices.Sort(d)
	return d, unseen
}

func manifestID(key string) (id int) {
	_, _ = fmt.Sscanf(path.Base(key), "%020d.manifest", &id) // 0 of what is none
	return id
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(q*float64(len(d))))].Round(10 * time.Millisecond)
}

// residentKB is a process's resident memory.
func residentKB(t testing.TB, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	var kb float64
	if _, err := fmt.Sscan(after, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}

// nodeExporter runs the machine's own, asks it once as a collector would, and
// returns its resident memory in KiB; 0 when there is none.
func nodeExporter(t *testing.T) float64 {
	t.Helper()
	exporter, err := exec.LookPath("prometheus-node-exporter")
	if err != nil {
		return 0
	}
	addr := freePort(t)
	cmd := exec.Command(exporter, "--web.listen-address="+addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	eventually(t, 20*time.Second, "node exporter", func() error {
		resp, err := http.Get("http://" + addr + "/metrics")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	time.Sleep(5 * time.Second)
	return residentKB(t, cmd.Process.Pid)
}

// agentStatus is what an agent says of itself.
type agentStatus struct {
	Slates int  `json:"slates"`
	Ready  bool `json:"ready"`
	Link   struct {
		Role string `json:"role"`
	} `json:"link"`
}

func statusOf(addr string) (s agentStatus, err error) {
	resp, err := http.Get("http://" + addr + "/status")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// Ten thousand slates on S3. The busiest twentieth have a new manifest each a
// minute. The agent finds them as soon as one that lists every slate every ten
// seconds, for about a hundredth of the money; it and one that stands by are
// small. Requests are counted between agent and server, and the naive peer is
// really run, on one slate of a hundred.
func TestWhatAnAgentCostsBesideListingEveryTenSeconds(t *testing.T) {
	if os.Getenv("QUARRY_COST") == "" && os.Getenv("QUARRY_SOAK") == "" {
		t.Skip("SKIPPED: it times an agent for four minutes and means something on a quiet machine only; make bench runs it (QUARRY_COST=1)")
	}
	const seed = 1
	s3 := servers.S3(t)
	s3.Make(t, "slates")
	dir := filepath.Join(s3.Dir, "slates")
	spare, err := os.MkdirTemp(filepath.Dir(s3.Dir), "spare") // on the same file system, for links
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(spare) })
	manySlates(t, dir, costSlates-costBusiest-costMiddle)
	moving := costBusiest + costMiddle
	w := &writers{dir: dir, from: movingSlates(t, dir, spare, moving), put: map[string]time.Time{}}

	m, peer := newMeter(t, s3.Endpoint()), newMeter(t, s3.Endpoint())
	through := func(m *meter) string {
		return "s3://slates?region=us-east-1&use_path_style=true&endpoint=" + url.QueryEscape(m.URL)
	}
	env := environ(servers.S3Env())
	h := startHub(t, "eu")
	// A look every ten seconds at what moves: as often as the peer's.
	status, standbyStatus := freePort(t), freePort(t)
	began := time.Now()
	a := startAgent(t, h, "eu", through(m), env, "--poll", "10s", "--budget", "1000000/h", "--status", status)
	eventually(t, 6*time.Minute, "first look", func() error {
		s, err := statusOf(status)
		if err == nil && (!s.Ready || s.Slates != costSlates) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	t.Logf("first look at %d slates after %s: %v", costSlates, time.Since(began).Round(time.Second), m.counts())
	standby := startAgent(t, h, "eu", through(newMeter(t, s3.Endpoint())), env, "--cluster", "eu-2", "--poll", "10s", "--status", standbyStatus)
	eventually(t, 5*time.Minute, "sizes are listed", func() error {
		before := m.counts()["list"]
		time.Sleep(5 * time.Second)
		if n := m.counts()["list"] - before; n > 100 {
			return fmt.Errorf("%d listings in 5 s", n)
		}
		return nil
	})
	t.Logf("and every object's size listed after %s: %v", time.Since(began).Round(time.Second), m.counts())
	// What it does once for all that has just appeared, the verification of
	// restore points above all, is no cost of watching.
	eventually(t, 8*time.Minute, "upkeep has caught up", func() error {
		before := m.counts()["get"]
		time.Sleep(10 * time.Second)
		if n := m.counts()["get"] - before; n > 1500 {
			return fmt.Errorf("%d reads in 10 s", n)
		}
		return nil
	})
	t.Logf("and all of it looked after once after %s: %v", time.Since(began).Round(time.Second), m.counts())

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	rng := rand.New(rand.NewPCG(seed, 0))
	busiest, sample := map[string]bool{}, []string{}
	for i := range moving {
		mean := time.Minute
		if root := costRoot(i); i >= costBusiest {
			mean = time.Hour
		} else if busiest[root] = true; i < costSample {
			sample = append(sample, root)
		}
		own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		next := costBegin + 1
		if i < costBusiest {
			// It has been busy for long: else it would take the agent a whole
			// turn of nine minutes to find out. One change, and a hint of it,
			// before anything is counted; none after.
			w.give(costRoot(i), next)
			hint(t, status, costRoot(i))
			next++
		}
		wg.Go(func() { w.run(ctx, costRoot(i), next, mean, own) })
	}
	b, err := bucket.Open(t.Context(), through(peer))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	p := &naive{seen: map[string]time.Time{}}
	wg.Go(func() {
		if err := p.run(ctx, b, sample); err != nil {
			t.Errorf("the naive peer: %v", err)
		}
	})
	time.Sleep(costWarm)
	from, before, peerBefore := time.Now(), m.counts(), peer.counts()
	time.Sleep(costWindow)
	to := time.Now()
	asked, listed := since(before, m.counts()), since(peerBefore, peer.counts())
	rss := residentKB(t, a.cmd.Process.Pid)
	time.Sleep(2 * naiveEvery) // what was put last may be found still
	stop()
	wg.Wait()

	m.mu.Lock()
	ours, unseen := delays(w.put, m.read, busiest, from, to)
	m.mu.Unlock()
	sampled := map[string]bool{}
	for _, root := range sample {
		sampled[root] = true
	}
	theirs, theirUnseen := delays(w.put, p.seen, sampled, from, to)
	perHour, dollars := bill(asked, to.Sub(from))
	scale := costSlates / len(sample)
	for class := range listed {
		listed[class] *= scale
	}
	naivePerHour, naiveDollars := bill(listed, to.Sub(from))
	t.Logf("seed %d, %d slates, %d moving once a minute, %d once an hour; counted for %s", seed, costSlates, costBusiest, costMiddle, to.Sub(from).Round(time.Second))
	t.Logf("agent: requests/h %v = $%.3f/h; busiest twentieth: %d changes, median %s, p99 %s, %d not seen yet",
		perHour, dollars, len(ours), quantile(ours, 0.5), quantile(ours, 0.99), unseen)
	t.Logf("naive (run on %d slates, times %d): requests/h %v = $%.2f/h; %d changes, median %s, p99 %s, %d not seen yet",
		len(sample), scale, naivePerHour, naiveDollars, len(theirs), quantile(theirs, 0.5), quantile(theirs, 0.99), theirUnseen)
	t.Logf("AGENT-COST ratio 1/%.0f of listing (goal 1/100) at %.2f times its median delay: %s",
		naiveDollars/dollars, float64(quantile(ours, 0.5))/float64(quantile(theirs, 0.5)), verdict(dollars*100 <= naiveDollars))
	if len(ours) < costBusiest || len(theirs) < costSample || unseen > len(ours)/5 {
		t.Errorf("no verdict: the agent saw %d changes and not %d, the peer %d", len(ours), unseen, len(theirs))
	}
	if got, want := naivePerHour["list"], costSlates*3600/naiveEvery.Seconds(); got < 0.9*want || got > 1.1*want {
		t.Errorf("the naive peer listed %.0f times an hour; it should be %.0f", got, want)
	}
	if float64(quantile(ours, 0.5)) > 2*float64(quantile(theirs, 0.5)) {
		t.Errorf("half of the changes were seen after %s; listing sees them after %s", quantile(ours, 0.5), quantile(theirs, 0.5))
	}
	if dollars*costBound > naiveDollars {
		t.Errorf("$%.3f/h is more than 1/%d of $%.2f/h", dollars, costBound, naiveDollars)
	}
	if out := must(t, nil, "--hub", "http://"+h.web, "describe", "region", "eu"); !strings.Contains(out, "a thousand: $") || !strings.Contains(out, "a month of 30 days") {
		t.Errorf("describe region does not say what it costs:\n%s", out)
	}

	t.Logf("AGENT-RSS %d slates %.1f MB (goal 60): %s", costSlates, rss/1024, verdict(rss <= 60*1024))
	if rss > rssBound*1024 {
		t.Errorf("agent: %.1f MB", rss/1024)
	}
	if s, err := statusOf(standbyStatus); err != nil || s.Slates != 0 {
		t.Fatalf("it does not stand by: %+v (%v)", s, err)
	}
	small := residentKB(t, standby.cmd.Process.Pid)
	exporter := nodeExporter(t)
	if exporter == 0 {
		t.Skipf("SKIPPED THE COMPARISON of standby (%.1f MB) with node_exporter: there is none; apt-get install prometheus-node-exporter", small/1024)
	}
	t.Logf("AGENT-STANDBY %.1f MB, node_exporter %.1f MB, ratio %.2f (goal 1.2): %s", small/1024, exporter/1024, small/exporter, verdict(small <= 1.2*exporter))
	if small > standbyBound*exporter {
		t.Errorf("an agent that stands by has %.1f MB, more than %.1f times %.1f MB", small/1024, standbyBound, exporter/1024)
	}
}

// What fails the test is far from the goals, which are not met: the verdicts that
// are logged say by how much.
const (
	costBound    = 10
	rssBound     = 100
	standbyBound = 2.5
)

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}
