//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/quarry-db/quarry/e2e/load"
)

// herd is a fleet with its agents in this process and a real hub in another.
type herd struct {
	*hub
	fleet  *load.Fleet
	agents *load.Agents
	stop   func()
	pipes  *pipes
}

// seedOf is the seed of a test: QUARRY_SEED, or one of now. It is printed.
func seedOf(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano()) & 0xffffffff
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("QUARRY_SEED %q: %v", s, err)
		}
		seed = n
	}
	t.Logf("seed %d (QUARRY_SEED=%d repeats it)", seed, seed)
	return seed
}

// pipes are the connections of all agents, to be cut.
type pipes struct {
	mu   sync.Mutex
	open map[net.Conn]bool
	cuts int
	down bool // dialling fails
}

func (p *pipes) dial(ctx context.Context, addr string) (net.Conn, error) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	if down {
		return nil, fmt.Errorf("dial %s: the network is down", addr)
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		p.mu.Lock()
		p.open[c] = true
		p.mu.Unlock()
	}
	return c, err
}

// cut ends connections as a network does: with a reset, in the middle of
// whatever is on its way. all: every one, else each with chance in a thousand.
func (p *pipes) cut(rng *rand.Rand, chance int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if rng.IntN(1000) >= chance {
			continue
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.Close()
		delete(p.open, c)
		p.cuts++
	}
}

// startHerd runs a hub with one agent for each of n regions, slates in each.
func startHerd(t testing.TB, n, slates int, seed uint64, extra ...string) *herd {
	t.Helper()
	var regions []string
	for i := range n {
		regions = append(regions, fmt.Sprintf("r%04d", i))
	}
	f, err := load.New(load.Options{Regions: regions, Slates: slates, Seed: seed, Epoch: 1000})
	if err != nil {
		t.Fatal(err)
	}
	h := &herd{hub: startHub(t, strings.Join(regions, ","), extra...), fleet: f, pipes: &pipes{open: map[net.Conn]bool{}}}
	h.agents, err = load.NewAgents(f, load.Link{Hub: h.hub.agents, Start: uint64(time.Now().UnixMilli()), Seed: seed, Dial: h.pipes.dial})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.agents.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agents: %v", err)
		}
	})
	t.Cleanup(h.stop)
	h.await(t, 5*time.Minute)
	return h
}

func (h *herd) await(t testing.TB, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := h.agents.Await(ctx); err != nil {
		t.Fatalf("%d facts behind after %s: %v", h.agents.Behind(), limit, err)
	}
	return time.Since(began)
}

// green counts the regions that are connected and confirmed: their agent's
// last beat had the digest of what the hub holds of it (I3).
func (h *herd) green(t testing.TB) (n int, why string) {
	t.Helper()
	for token, more := "", true; more; more = token != "" {
		_, b := ask(t, h.hub, "/v1/regions?page_size=1000&fields=name,state,reason&page_token="+url.QueryEscape(token))
		var page struct {
			Items []regionRow `json:"items"`
			Next  string      `json:"next_page_token"`
		}
		if err := json.Unmarshal(b, &page); err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Items {
			if r.State == "connected" && r.Reason == "" {
				n++
			} else {
				why = r.Name + " is " + r.State + ": " + r.Reason
			}
		}
		token = page.Next
	}
	return n, why
}

func (h *herd) awaitGreen(t testing.TB, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		n, why := h.green(t)
		if n == len(h.fleet.Regions()) {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("after %s %d of %d regions are connected and agree; %s", limit, n, len(h.fleet.Regions()), why)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// invariants: every row of the fleet is in the inventory exactly as the fleet
// has it, and no other row is (I3, I5).
func (h *herd) invariants(t testing.TB) {
	t.Helper()
	want := map[string]load.Row{}
	for r := range h.fleet.Rows() {
		want[r.Key()] = r
	}
	rows, wrong := 0, 0
	for token, more := "", true; more; more = token != "" {
		_, b := ask(t, h.hub, "/v1/placements?page_size=1000&fields=region,slate,state,incarnation,position,bytes,manifest_id,writer_epoch&page_token="+url.QueryEscape(token))
		var page struct {
			Items []struct {
				Region      string `json:"region"`
				Slate       string `json:"slate"`
				State       string `json:"state"`
				Incarnation string `json:"incarnation"`
				Position    uint64 `json:"position"`
				Bytes       uint64 `json:"bytes"`
				ManifestID  uint64 `json:"manifest_id"`
				WriterEpoch uint64 `json:"writer_epoch"`
			} `json:"items"`
			Next string `json:"next_page_token"`
		}
		if err := json.Unmarshal(b, &page); err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Items {
			rows++
			w, known := want[p.Region+"/"+p.Slate]
			same := known && p.State == string(w.State) && p.Incarnation == w.Incarnation && p.Position == w.Position && p.Bytes == w.Bytes &&
				(w.ManifestID == nil || p.ManifestID == *w.ManifestID) && (w.WriterEpoch == nil || p.WriterEpoch == *w.WriterEpoch)
			if !same {
				if wrong++; wrong <= 3 {
					_, ev := ask(t, h.hub, "/v1/events?page_size=100&filter="+url.QueryEscape(fmt.Sprintf("region=%q AND slate=%q", p.Region, p.Slate)))
					t.Errorf("the hub shows %+v, the fleet has %+v; its events: %s", p, w, ev)
				}
			}
		}
		token = page.Next
	}
	if rows != len(want) || wrong > 0 {
		t.Errorf("%d rows, %d of them wrong; the fleet has %d", rows, wrong, len(want))
	}
	if q, _, disagree := h.agents.Trouble(); q > 0 || disagree > 0 {
		t.Errorf("%d facts quarantined, %d agents disagree", q, disagree)
	}
}

// change makes changes at a rate until ctx ends.
func (h *herd) change(ctx context.Context, perSecond float64) (n int) {
	pace := rate.NewLimiter(rate.Limit(perSecond), 10)
	for pace.WaitN(ctx, 10) == nil {
		for range 10 {
			h.agents.Set(h.fleet.Next())
			n++
		}
	}
	return n
}

// T2: links that flap every one to ten seconds, under 200 changes a second
// from 50 agents; when it is quiet the hub has converged within five seconds.
func TestT2_FlappingLinks(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 2))
	h := startHerd(t, 50, 40, seed)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(soak(60, 1800))*time.Second)
	defer cancel()
	changed := make(chan int, 1)
	go func() { changed <- h.change(ctx, 200) }()
	for ctx.Err() == nil {
		h.pipes.cut(rng, 18) // each 100 ms: a link lives 5.5 s in the mean
		time.Sleep(100 * time.Millisecond)
	}
	n := <-changed
	began := time.Now()
	h.await(t, 30*time.Second)
	h.awaitGreen(t, 30*time.Second)
	took := time.Since(began)
	h.invariants(t)
	_, snapshots, _ := h.agents.Trouble()
	t.Logf("T2: %d changes, %d cuts, %d connections; converged %s after it was quiet; %d reports of everything beyond the first",
		n, h.pipes.cuts, h.agents.Traffic().Dials, took.Round(time.Millisecond), snapshots)
	if h.pipes.cuts < 100 {
		t.Errorf("only %d cuts: the test proves less than it says", h.pipes.cuts)
	}
}

// T10 and T11: a thousand agents find their hub again after it was killed,
// without telling everything again; and when the hub's store is wiped, they do
// tell everything, in turn, and the hub does not swell.
func TestT10_T11_TheHerd(t *testing.T) {
	seed := seedOf(t)
	agents, slates := 1000, soak(20, 100)
	h := startHerd(t, agents, slates, seed, "--beat", "1s", "--stale-after", "60s")
	first := h.agents.Traffic().Sent
	h.awaitGreen(t, time.Minute)
	time.Sleep(6 * time.Second) // the view is saved
	steady := residentMB(t, h.proc.cmd.Process.Pid)
	facts := h.fleet.Size()
	t.Logf("%d agents, %d slates: the first report of everything was %d bytes (%.0f a slate); the hub takes %d MB", agents, facts, first, float64(first)/float64(facts), steady)

	// T10: the links break, the hub stays.
	again := func(what string, breakIt func()) (bytes int64, took time.Duration, snapshots int) {
		_, before, _ := h.agents.Trouble()
		sent := h.agents.Traffic().Sent
		began := time.Now()
		breakIt()
		peak := 0
		for {
			if n, _ := h.green(t); n == agents {
				break
			}
			peak = max(peak, residentMB(t, h.proc.cmd.Process.Pid))
			if time.Since(began) > 2*time.Minute {
				n, why := h.green(t)
				t.Fatalf("%s: %d of %d agents are back: %s", what, n, agents, why)
			}
			time.Sleep(50 * time.Millisecond)
		}
		took = time.Since(began)
		bytes = h.agents.Traffic().Sent - sent
		_, after, _ := h.agents.Trouble()
		t.Logf("%s: all green after %s, %d bytes sent (%.2f %% of the first report), %d reports of everything, hub at most %d MB (%.2fx)",
			what, took.Round(10*time.Millisecond), bytes, 100*float64(bytes)/float64(first), after-before, peak, float64(peak)/float64(steady))
		return bytes, took, after - before
	}
	rng := rand.New(rand.NewPCG(seed, 10))
	_, _, snapshots := again("T10: every link was cut", func() { h.pipes.cut(rng, 1000); time.Sleep(time.Second) })
	if snapshots > 0 {
		t.Errorf("%d agents told everything again after a cut link", snapshots)
	}
	_, _, snapshots = again("T10: the hub was killed and started", func() { h.proc.kill(); h.restart(t) })
	if snapshots > agents/20 {
		t.Errorf("%d of %d agents told everything again after the hub's restart, at most 5 %% should", snapshots, agents)
	}
	h.invariants(t)

	// T11: the hub has forgotten everything.
	_, _, snapshots = again("T11: the hub's store was wiped", func() {
		h.proc.kill()
		if err := os.RemoveAll(h.store); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(h.store, 0o755); err != nil {
			t.Fatal(err)
		}
		h.restart(t)
	})
	if snapshots != agents {
		t.Errorf("%d of %d agents told everything to a hub that had forgotten", snapshots, agents)
	}
	h.invariants(t)
}

// T29, in the small: what people ask is answered while changes pour in. What
// is timed is logged; what must hold is that every answer is right.
func TestT29_QueriesUnderChanges(t *testing.T) {
	seed := seedOf(t)
	h := startHerd(t, 8, soak(5_000, 125_000), seed)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(soak(15, 120))*time.Second)
	defer cancel()
	changed := make(chan int, 1)
	go func() { changed <- h.change(ctx, 500) }()
	queries := []string{
		"/v1/placements?filter=" + url.QueryEscape(`region="r0002" AND state="live" AND kind="log"`) + "&order_by=bytes+desc&page_size=50",
		"/v1/placements?filter=" + url.QueryEscape(`labels.team="payments"`) + "&order_by=position+desc",
		"/v1/placements?filter=" + url.QueryEscape(`observed_at < now-10m`),
		"/v1/placements?filter=" + url.QueryEscape(`slate = "*7*" AND bytes > 1GiB`),
		"/v1/placements?filter=" + url.QueryEscape(`state = missing`) + "&order_by=bytes+desc",
		"/v1/placements?filter=" + url.QueryEscape(`owner = nobody`),
		"/v1/slates?filter=" + url.QueryEscape(`regions:r0003 AND readers > 0`) + "&order_by=bytes+desc",
		"/v1/placements:summarize?by=region,kind,state",
		"/v1/placements:summarize?by=kind&filter=" + url.QueryEscape(`region=r0001`),
	}
	times := map[string][]time.Duration{}
	for ctx.Err() == nil {
		for _, q := range queries {
			took, _ := ask(t, h.hub, q)
			times[q] = append(times[q], took)
		}
	}
	n := <-changed
	worst := time.Duration(0)
	for _, q := range queries {
		d := times[q]
		slices.Sort(d)
		p99 := d[len(d)*99/100]
		worst = max(worst, p99)
		t.Logf("T29: p50 %8s p99 %8s of %4d  %s", d[len(d)/2].Round(10*time.Microsecond), p99.Round(10*time.Microsecond), len(d), q)
	}
	t.Logf("T29: %d placements, %d changes meanwhile, the slowest p99 %s, the hub takes %d MB", h.fleet.Size(), n, worst.Round(10*time.Microsecond), residentMB(t, h.proc.cmd.Process.Pid))
	h.await(t, time.Minute)
	h.awaitGreen(t, time.Minute)
	h.invariants(t)
}

// The hub is killed while it saves its view, again and again, at random moments.
// Every restart shows every row at once, before any agent is back; agents go on
// from what was saved, and their digests say that it was true (I3, I5).
func TestTheHubIsKilledWhileItSaves(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 4))
	h := startHerd(t, 3, 4000, seed, "--stale-after", "30s")
	h.awaitGreen(t, 30*time.Second)
	time.Sleep(3 * time.Second) // saved once, whole
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changed := make(chan int, 1)
	go func() { changed <- h.change(ctx, 500) }()
	times := soak(12, 50)
	for n := range times {
		// A hub that has just begun saves after a second.
		time.Sleep(900*time.Millisecond + time.Duration(rng.IntN(400))*time.Millisecond)
		h.proc.kill()
		h.restart(t)
		_, b := ask(t, h.hub, "/v1/placements:summarize?by=region")
		var sum struct {
			Groups []struct {
				Region string `json:"region"`
				Count  int    `json:"count"`
			} `json:"groups"`
		}
		if err := json.Unmarshal(b, &sum); err != nil {
			t.Fatal(err)
		}
		for i, r := range h.fleet.Regions() {
			if i >= len(sum.Groups) || sum.Groups[i].Region != r || sum.Groups[i].Count < 4000 {
				t.Fatalf("kill %d: the restarted hub shows %s", n+1, b)
			}
		}
	}
	cancel()
	changes := <-changed
	h.await(t, 30*time.Second)
	time.Sleep(2 * time.Second) // some beats: what differs is found and repaired
	h.awaitGreen(t, 30*time.Second)
	h.invariants(t)
	_, snapshots, _ := h.agents.Trouble()
	views, _ := os.ReadDir(h.store + "/view")
	t.Logf("%d kills, %d changes meanwhile, %d reports of everything again, %d saved views lie there", times, changes, snapshots, len(views))
}
