package link

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// T19: records that cannot travel, or that the hub cannot read, are seen by
// people on both ends; the session stays and the others flow.
func TestPoisonIsSeenOnBothEndsAndHarmsNothingElse(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	r, _ := startAgent(t, options(h.addr))
	huge := place("huge", 1)
	for range 110_000 { // 5 MiB
		huge.Sighting.Orphans = append(huge.Sighting.Orphans, catalog.Orphan{Path: strings.Repeat("x", 46)})
	}
	many := place("many", 2)
	for i := range 10_000 {
		many.Sighting.Checkpoints = append(many.Sighting.Checkpoints, catalog.Checkpoint{ID: fmt.Sprintf("%036d", i)})
	}
	newer := place("newer", 3)
	newer.Sighting.Kind = "graph"
	r.Set(huge)
	r.Set(many)
	r.Set(newer)
	r.Set(place("\xff", 4)) // its key cannot even be said
	r.Ready()
	r.Set(place("good", 5))
	eventually(t, "the good ones arrive", func() bool {
		return same(map[string]uint64{"many": 2, "good": 5}, h.positions())
	})
	eventually(t, "the digests agree all the same", func() bool {
		ok := false
		h.do(func() { ok = h.agreed > 0 })
		return ok
	})
	h.do(func() {
		if h.sessions != 1 || h.mismatches > 0 {
			t.Errorf("%d sessions, %d mismatches", h.sessions, h.mismatches)
		}
		said := fmt.Sprintf("%+v", h.quarantined)
		for _, want := range []string{"Kind:placement Key:huge Why:the agent cannot send it", "at most 257", `kind "graph"`} {
			if !strings.Contains(said, want) {
				t.Errorf("the hub was not told %q: %s", want, said)
			}
		}
		if c := h.facts[key{catalog.FactPlacement, "many"}].Sighting; c.MoreCheckpoints == 0 || len(c.Checkpoints) == 0 {
			t.Errorf("%d checkpoints and %d more", len(c.Checkpoints), c.MoreCheckpoints)
		}
	})
	roots := func() (s []string) {
		for _, q := range r.Status().Quarantined {
			s = append(s, q.Key)
		}
		return s
	}
	if got := fmt.Sprintf("%q", roots()); got != `["huge" "newer" "\xff"]` {
		t.Errorf("the agent shows %s", got)
	}
	// A value that travels again ends the quarantine, on both ends.
	r.Set(place("huge", 6))
	eventually(t, "it arrives", func() bool { return h.positions()["huge"] == 6 })
	if got := fmt.Sprintf("%q", roots()); got != `["newer" "\xff"]` {
		t.Errorf("the agent shows %s", got)
	}
}

// A hub that is slow holds back neither the watcher nor the newest state: what
// was superseded while it was busy is never sent.
func TestASlowHubGetsTheNewestAndNotTheHistory(t *testing.T) {
	m := newMirror(t)
	release := make(chan struct{})
	m.gate = func(ctx context.Context) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.beat = 400 * time.Millisecond // a busy machine must not look like a dead peer
	h := startHub(t, m, "127.0.0.1:0")
	r, _ := startAgent(t, options(h.addr))
	r.Set(place("a", 0))
	r.Ready()
	eventually(t, "the snapshot is under way", func() bool { return r.Status().Snapshots == 1 })
	began := time.Now()
	for i := range uint64(100_000) {
		r.Set(place(fmt.Sprintf("dbs/%d", i%10), i))
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("100000 changes took %s while the hub was busy", d)
	}
	time.Sleep(4 * m.beat) // longer than either side would wait for a dead peer
	h.do(func() {
		if h.sessions != 1 || len(h.closed) > 0 {
			t.Errorf("a slow hub was taken for a dead one: %d sessions, closed %v", h.sessions, h.closed)
		}
	})
	if s := r.Status(); s.Pending != 11 {
		t.Errorf("%d facts wait, there are 11", s.Pending)
	}
	close(release)
	eventually(t, "the newest arrive", func() bool {
		got := h.positions()
		for i := range uint64(10) {
			if got[fmt.Sprintf("dbs/%d", i)] != 99_990+i {
				return false
			}
		}
		return true
	})
}

// T4: of two processes with one identity the older is refused and says why;
// the two do not take turns.
func TestTwoAgentsOfOneIdentityDoNotTakeTurns(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	older := options(h.addr)
	newer := options(h.addr)
	newer.Start, newer.Agent, newer.Seed = 2000, "pod-2", 2
	a, _ := startAgent(t, older)
	a.Set(place("a", 1))
	a.Ready()
	eventually(t, "the first reports", func() bool { return len(h.positions()) == 1 })
	b, _ := startAgent(t, newer)
	b.Set(place("a", 2))
	b.Ready()
	eventually(t, "the newer takes over", func() bool { return h.positions()["a"] == 2 })
	eventually(t, "the older is refused", func() bool { return a.Status().Refused != "" && !a.Status().Connected })
	var before int
	h.do(func() { before = h.sessions })
	time.Sleep(300 * time.Millisecond) // six times as long as a refused agent waits
	h.do(func() {
		if h.positions0()["a"] != 2 {
			t.Error("the older took over again")
		}
		if n := h.sessions - before; n < 2 || n > 10 {
			t.Errorf("the refused one tried %d times", n)
		}
	})
	if s := b.Status(); !s.Connected || s.Role != report.RoleReporter {
		t.Errorf("the newer is %+v", s)
	}
}

func (m *mirror) positions0() map[string]uint64 {
	got := map[string]uint64{}
	for k, f := range m.facts {
		got[k.key] = *f.Sighting.Position
	}
	return got
}

// A standby beats and keeps its facts to itself, until it is told otherwise.
func TestAStandbyWaitsForItsTurn(t *testing.T) {
	m := newMirror(t)
	h := startHub(t, m, "127.0.0.1:0")
	post := m.post
	m.do(func() {
		m.post = func(to state.SessionID, msg state.Message) {
			if w, ok := msg.(state.Welcome); ok {
				w.Reporter = false
				msg = w
			}
			post(to, msg)
		}
	})
	r, _ := startAgent(t, options(h.addr))
	r.Set(place("a", 1))
	r.Ready()
	eventually(t, "two beats", func() bool { n := 0; h.do(func() { n = len(h.beats) }); return n >= 2 })
	if s := r.Status(); s.Role != report.RoleStandby || s.Snapshots > 0 {
		t.Fatalf("%+v", s)
	}
	post(1, state.Welcome{Reporter: true, Beat: m.beat})
	eventually(t, "its facts arrive", func() bool { return len(h.positions()) == 1 })
}

// What changes about the agent itself is told at once, not with the next beat.
func TestHealthIsToldAtOnce(t *testing.T) {
	m := newMirror(t)
	m.beat = 20 * time.Second
	h := startHub(t, m, "127.0.0.1:0")
	r, _ := startAgent(t, options(h.addr))
	eventually(t, "the first beat", func() bool { n := 0; h.do(func() { n = len(h.beats) }); return n == 1 })
	r.SetHealth(report.Health{ReadOK: false, Reason: "access denied \xff"})
	eventually(t, "the second", func() bool {
		ok := false
		h.do(func() { ok = len(h.beats) == 2 && strings.Contains(h.beats[1].Reason, "access denied") })
		return ok
	})
	r.SetHealth(report.Health{ReadOK: false, Reason: "access denied \xff", Spend: map[string]float64{"get": 7}})
	time.Sleep(50 * time.Millisecond)
	h.do(func() {
		if len(h.beats) != 2 {
			t.Error("what is spent can wait for the next beat, and did not")
		}
	})
}

// The hub's word about the region's bucket reaches who waits for it.
func TestTheHubsBucketIsPassedOn(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	o := options(h.addr)
	r, err := report.New(o)
	if err != nil {
		t.Fatal(err)
	}
	_, known, changed := r.HubBucket()
	if known {
		t.Fatal("known before any hub was asked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-changed
	if id, known, _ := r.HubBucket(); id != "" || !known {
		t.Errorf("%q %v", id, known)
	}
	_, _, changed = r.HubBucket()
	h.do(func() { h.post(h.reporter, state.Welcome{Reporter: true, BucketID: "b-1", Beat: h.beat}) })
	<-changed
	if id, known, _ := r.HubBucket(); id != "b-1" || !known {
		t.Errorf("%q %v", id, known)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// freezer is a network that can stop carrying what comes back, without a word
// to either end.
type freezer struct {
	frozen atomic.Bool
	mu     sync.Mutex
	conns  []*frozenConn
}

type frozenConn struct {
	net.Conn
	f    *freezer
	gone chan struct{}
	once sync.Once
}

func (f *freezer) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &frozenConn{Conn: conn, f: f, gone: make(chan struct{})}
	f.conns = append(f.conns, c)
	return c, nil
}

func (c *frozenConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.f.frozen.Load() && err == nil {
		<-c.gone
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *frozenConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// T5: when nothing comes back any more the agent notices within three beats,
// though its own words still leave, and starts anew.
func TestAHalfOpenLinkIsNoticedByTheAgent(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	f := &freezer{}
	o := options(h.addr)
	o.Dial = f.dial
	r, _ := startAgent(t, o)
	r.Set(place("a", 1))
	r.Ready()
	eventually(t, "acknowledged", func() bool { return r.Status().Pending == 0 && r.Status().Connected })
	f.frozen.Store(true)
	began := time.Now()
	eventually(t, "noticed", func() bool { return !r.Status().Connected })
	if d := time.Since(began); d < 100*time.Millisecond {
		t.Errorf("after %s: too soon for three beats of 100ms", d)
	}
	if why := r.Status().LastError; !strings.Contains(why, "half open") {
		t.Errorf("it says %q", why)
	}
	f.frozen.Store(false)
	r.Set(place("a", 2))
	// The connection that was being opened while nothing came back hangs until
	// the first-beat limit; a new network does not wait for it here.
	f.mu.Lock()
	for _, c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	eventually(t, "it goes on", func() bool { return h.positions()["a"] == 2 })
}
