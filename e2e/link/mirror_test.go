// Package link tests the two ends of the agents' link against each other: the
// real report, the real server, real gRPC between them, and links that break.
package link

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/hub/session"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type key struct {
	kind catalog.FactKind
	key  string
}

// mirror is the simplest hub there can be: it keeps one region's facts in a
// map, resumes whom it knows, acknowledges at once and compares digests.
type mirror struct {
	t    testing.TB
	beat time.Duration
	post func(state.SessionID, state.Message)

	// gate, when set, is waited for before each event that brings facts.
	gate func(ctx context.Context) error

	mu          sync.Mutex
	open        map[state.SessionID]state.Hello
	reporter    state.SessionID
	generation  uint64
	facts       map[key]catalog.Fact
	bad         map[key]catalog.Sum
	fresh       map[key]bool // put aside since the last snapshot or repair
	applied     catalog.Revision
	bucket      string
	sessions    int
	snapshots   int
	beats       []state.Beat
	quarantined []state.Quarantined
	closed      map[state.SessionID]string
	mismatches  int
	foundBy     int // beats heard when the first mismatch was seen
	agreed      int // beats whose digest was that of the mirror
	ordinals    map[state.SessionID]map[uint32]key
	moves       int
	whole       int
	repairs     int
	repaired    int // facts that repairs brought
	buckets     int // that were asked for
	// wait, when set, makes a region that has nothing wait for WantSnapshot.
	wait bool
	// deaf, when set, drops events that it says to drop, as a hub with a fault.
	deaf func(e state.Event) bool
}

func newMirror(t testing.TB) *mirror {
	return &mirror{t: t, beat: 100 * time.Millisecond, open: map[state.SessionID]state.Hello{},
		closed: map[state.SessionID]string{}, facts: map[key]catalog.Fact{}, bad: map[key]catalog.Sum{}, fresh: map[key]bool{},
		ordinals: map[state.SessionID]map[uint32]key{}}
}

func (m *mirror) Deliver(ctx context.Context, e state.Event) error {
	switch e.(type) {
	case state.Delta, state.Snapshot, state.Moves, state.Repair:
		if m.gate != nil {
			if err := m.gate(ctx); err != nil {
				return err
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deaf != nil && m.deaf(e) {
		return nil
	}
	switch e := e.(type) {
	case state.Hello:
		m.open[e.Session] = e
		m.sessions++
		if e.Generation < m.generation {
			m.post(e.Session, state.Refuse{Why: "an agent with a newer lease reports for this cluster"})
			return nil
		}
		if m.generation != e.Generation {
			m.generation = e.Generation
		}
		if old := m.reporter; old != 0 && m.closed[old] == "" && m.open[old].Start != e.Start {
			m.post(old, state.Refuse{Why: "an agent with a newer lease reports for this cluster"})
		}
		m.reporter = e.Session
		w := state.Welcome{Reporter: true, BucketID: m.bucket, Beat: m.beat}
		if m.applied.Start == e.Start {
			w.Resume = m.applied
		} else {
			w.Wait = m.wait
		}
		m.post(e.Session, w)
	case state.Closed:
		if _, twice := m.closed[e.Session]; twice {
			m.t.Errorf("session %d closed twice", e.Session)
		}
		m.closed[e.Session] = e.Why
	case state.Quarantined:
		m.quarantined = append(m.quarantined, e)
		if e.Sum != (catalog.Sum{}) {
			k := key{catalog.FactKind(e.Fact), e.Key}
			m.bad[k], m.fresh[k] = e.Sum, true
			delete(m.facts, k)
		}
	case state.Delta:
		if e.Session != m.reporter {
			return nil
		}
		for _, f := range e.Facts {
			m.take(e.Session, f)
		}
		m.ack(e.Upto)
	case state.Moves:
		if e.Session != m.reporter {
			return nil
		}
		for _, mv := range e.Moves {
			m.move(e.Session, mv)
		}
		m.ack(e.Upto)
	case state.Snapshot:
		if e.Session != m.reporter {
			return nil
		}
		m.snapshots++
		clear(m.facts)
		m.forget(func(key) bool { return true })
		for f := range e.All() {
			m.take(e.Session, *f)
		}
		m.ack(e.Upto)
	case state.Digests:
		if e.Session != m.reporter || e.At != m.applied {
			return nil
		}
		d := m.digest()
		var differ []uint8
		for i := range e.Buckets {
			if d.Bucket(uint8(i)) != e.Buckets[i] {
				differ = append(differ, uint8(i))
			}
		}
		m.buckets += len(differ)
		if len(differ) > len(e.Buckets)/2 {
			m.post(e.Session, state.WantSnapshot{Why: "most buckets differ"})
		} else if len(differ) > 0 {
			m.post(e.Session, state.WantBuckets{Buckets: differ})
		}
	case state.Repair:
		if e.Session != m.reporter {
			return nil
		}
		m.repairs++
		m.repaired += len(e.Facts)
		in := func(k key) bool {
			return slices.Contains(e.Buckets, catalog.BucketOf(uint32(k.kind), k.key))
		}
		maps.DeleteFunc(m.facts, func(k key, _ catalog.Fact) bool { return in(k) })
		m.forget(in)
		for _, f := range e.Facts {
			m.take(e.Session, f)
		}
		m.ack(e.Upto)
	case state.Beat:
		m.beats = append(m.beats, e)
		if e.Session == m.reporter && e.At == m.applied && e.Digest != [32]byte{} {
			d := m.digest()
			if d.Root() == e.Digest {
				m.agreed++
			} else {
				if m.mismatches++; m.mismatches == 1 {
					m.foundBy = len(m.beats)
				}
				m.post(e.Session, state.WantDigests{Why: "the digests differ"})
			}
		}
	}
	return nil
}

// forget lets go of what was put aside before what is put aside with a snapshot
// or a repair.
func (m *mirror) forget(in func(key) bool) {
	maps.DeleteFunc(m.bad, func(k key, _ catalog.Sum) bool { return in(k) && !m.fresh[k] })
	clear(m.fresh)
}

// take keeps a fact unless something newer is known.
func (m *mirror) take(session state.SessionID, f catalog.Fact) {
	m.whole++
	k := key{f.Kind, f.Key}
	if f.Ordinal > 0 {
		if m.ordinals[session] == nil {
			m.ordinals[session] = map[uint32]key{}
		}
		m.ordinals[session][f.Ordinal] = k
	}
	if f.Revision.Compare(m.facts[k].Revision) < 0 {
		return
	}
	delete(m.facts, k)
	delete(m.bad, k)
	if f.Gone == "" {
		m.facts[k] = f
	}
}

// move moves the one number that the tests' placements have.
func (m *mirror) move(session state.SessionID, mv catalog.Move) {
	m.moves++
	k := m.ordinals[session][mv.Ordinal]
	f, ok := m.facts[k]
	if !ok || mv.Counter <= f.Revision.Counter {
		return
	}
	if mv.Mask != 1<<8 || mv.Null != 0 || catalog.MoveFields[8] != "position" {
		m.t.Errorf("%+v: only positions move here", mv)
	}
	s := *f.Sighting
	s.Position = &mv.Values[8]
	f.Sighting, f.Revision.Counter, f.Sum = &s, mv.Counter, f.Sum.Moved(mv.Counter, mv.Packed)
	m.facts[k] = f
}

func (m *mirror) ack(upto catalog.Revision) {
	m.applied = upto
	m.post(m.reporter, state.Ack{Applied: upto})
}

func (m *mirror) digest() *catalog.Digest {
	var d catalog.Digest
	for _, f := range m.facts {
		d.Add(f.Sum)
	}
	for _, s := range m.bad {
		d.Add(s)
	}
	return &d
}

// spoil flips the sums of some facts, as faulty memory would, and says of how
// many. The caller holds the lock.
func (m *mirror) spoil(rng *rand.Rand, n int) int {
	n = min(n, len(m.facts))
	left := n
	for k, f := range m.facts {
		if left == 0 {
			break
		}
		f.Sum.Lo ^= 1 << rng.IntN(64)
		m.facts[k] = f
		left--
	}
	return n
}

// do calls f under the mirror's lock.
func (m *mirror) do(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// positions is what the mirror shows: each placement's root and position.
func (m *mirror) positions() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	got := map[string]uint64{}
	for k, f := range m.facts {
		switch k.kind {
		case catalog.FactPlacement:
			got[k.key] = *f.Sighting.Position
		case catalog.FactRestorePoint:
			got[k.key] = *f.RestorePoint.Position
		}
	}
	return got
}

// hub serves a mirror on a loopback port until the test ends or stop is called.
type hub struct {
	*mirror
	addr string
	stop func()
}

func startHub(t testing.TB, m *mirror, addr string) *hub {
	t.Helper()
	srv := session.New(session.Options{Inbox: m, Beat: m.beat, Every: -1})
	m.do(func() {
		m.post = srv.Post
		m.open, m.closed, m.reporter = map[state.SessionID]state.Hello{}, map[state.SessionID]string{}, 0
	})
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx, lis) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("hub: %v", err)
		}
	})
	t.Cleanup(stop)
	return &hub{mirror: m, addr: lis.Addr().String(), stop: stop}
}

func options(addr string) report.Options {
	return report.Options{
		Region: "eu", Cluster: "k1", Agent: "pod-1", Hub: addr, Start: 1000, Seed: 1,
		Backoff: 2 * time.Millisecond, RefusedEvery: 50 * time.Millisecond, Linger: time.Millisecond,
	}
}

// startAgent runs a report until the test ends or stop is called.
func startAgent(t testing.TB, o report.Options) (r *report.Report, stop func()) {
	t.Helper()
	r, err := report.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

// eventually waits until what must come has come.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func place(root string, position uint64) catalog.Fact {
	return catalog.Fact{Kind: catalog.FactPlacement, Key: root, Sighting: &catalog.Sighting{
		Slate: root, Root: root, Kind: catalog.KindLog, Seen: catalog.SeenLive, Position: &position,
		Extractor: "some text so that a record has the size of a real one, which is a few hundred bytes",
	}}
}

func restore(root, id string, position uint64) catalog.Fact {
	return catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(root, id), RestorePoint: &catalog.RestorePoint{
		Slate: root, Root: root, ID: id, Source: catalog.SourceCheckpoint, State: catalog.RestoreListed, Position: &position,
	}}
}

// cutter dials connections that break after some bytes, counted over both
// directions, wherever in a frame that falls.
type cutter struct {
	mu   sync.Mutex
	rng  *rand.Rand
	calm bool
	cuts atomic.Int64
}

func (c *cutter) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calm {
		return conn, nil
	}
	// Evenly over the magnitudes: the hello is as likely to be hit as the
	// middle of a snapshot.
	after := int64(1) << c.rng.IntN(17)
	return &cutConn{Conn: conn, c: c, left: after + c.rng.Int64N(after)}, nil
}

func (c *cutter) setCalm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calm = true
}

type cutConn struct {
	net.Conn
	c    *cutter
	mu   sync.Mutex
	left int64
}

// take says how many of n bytes still pass, and cuts when they are the last.
func (c *cutConn) take(n int) (pass int, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left <= 0 {
		return 0, true
	}
	pass = int(min(int64(n), c.left))
	c.left -= int64(pass)
	if c.left == 0 {
		c.c.cuts.Add(1)
		return pass, true
	}
	return pass, false
}

func (c *cutConn) Write(b []byte) (int, error) {
	pass, cut := c.take(len(b))
	if !cut {
		return c.Conn.Write(b)
	}
	n, _ := c.Conn.Write(b[:pass])
	c.Conn.Close()
	return n, fmt.Errorf("cut")
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	pass, cut := c.take(n)
	if !cut {
		return n, nil
	}
	c.Conn.Close()
	return pass, nil
}

// emptyRoot is the digest of nothing.
func emptyRoot() []byte {
	root := new(catalog.Digest).Root()
	return root[:]
}

func same(a, b map[string]uint64) bool { return maps.Equal(a, b) }
