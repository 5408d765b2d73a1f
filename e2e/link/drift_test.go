package link

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// meter counts what an agent sends.
type meter struct{ sent atomic.Int64 }

type metered struct {
	net.Conn
	m *meter
}

func (c *metered) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.m.sent.Add(int64(n))
	return n, err
}

func (m *meter) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &metered{c, m}, nil
}

// T27: a hub whose copy is not what the agent told it is found out by the next
// beat, and gets the buckets that differ and nothing else.
func TestADriftIsFoundWithinABeatAndCostsItsBuckets(t *testing.T) {
	const seed, rows = 5, 20_000
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, c := range []struct {
		name   string
		spoilt int
	}{{"one sum flips", 1}, {"ten sums flip", 10}, {"a delta is dropped", 0}, {"a fact vanishes", -1}, {"a fact is invented", -2}} {
		t.Run(c.name, func(t *testing.T) {
			m := newMirror(t)
			m.beat = 300 * time.Millisecond
			h := startHub(t, m, "127.0.0.1:0")
			var mt meter
			o := options(h.addr)
			o.Dial = mt.dial
			r, _ := startAgent(t, o)
			want := map[string]uint64{}
			for i := range uint64(rows) {
				root := fmt.Sprintf("dbs/%d", i)
				r.Set(place(root, i))
				want[root] = i
			}
			r.Ready()
			agree := func() {
				t.Helper()
				before := 0
				h.do(func() { before = h.agreed })
				eventually(t, "the digests agree", func() bool { ok := false; h.do(func() { ok = h.agreed > before }); return ok })
			}
			agree()
			snapshot := mt.sent.Load()
			var began time.Time
			beats := 0
			h.do(func() {
				began, beats = time.Now(), len(h.beats)
				switch {
				case c.spoilt > 0:
					h.spoil(rng, c.spoilt)
				case c.spoilt == -1:
					delete(h.facts, key{catalog.FactPlacement, "dbs/77"})
				case c.spoilt == -2:
					f := place("dbs/ghost", 7)
					f.Sum = catalog.NewSum(1, f.Key, 7, 0, nil)
					h.facts[key{catalog.FactPlacement, f.Key}] = f
				default:
					dropped := false
					m.deaf = func(e state.Event) bool {
						var upto catalog.Revision
						switch e := e.(type) {
						case state.Delta:
							upto = e.Upto
						case state.Moves:
							upto = e.Upto
						default:
							return false
						}
						if dropped {
							return false
						}
						dropped, beats = true, len(m.beats)
						m.ack(upto)
						return true
					}
				}
			})
			before := mt.sent.Load()
			if c.spoilt == 0 {
				began = time.Now()
				r.Set(place("dbs/77", 1_000_000))
				want["dbs/77"] = 1_000_000
			}
			eventually(t, "found", func() bool { ok := false; h.do(func() { ok = h.mismatches > 0 }); return ok })
			found := time.Since(began)
			eventually(t, "repaired", func() bool { ok := false; h.do(func() { ok = h.repairs > 0 }); return ok })
			agree()
			if !same(want, h.positions()) {
				t.Error("the hub has something else")
			}
			resent := mt.sent.Load() - before
			h.do(func() {
				if h.mismatches > 1 || h.repairs != 1 || h.snapshots != 1 || h.buckets > max(c.spoilt, 1) {
					t.Errorf("%d mismatches, %d repairs, %d snapshots, %d buckets", h.mismatches, h.repairs, h.snapshots, h.buckets)
				}
				if n := h.foundBy - beats; n != 1 {
					t.Errorf("found by beat %d after it", n)
				}
				// Facts spread over 256 buckets evenly; the digests are 4 KiB.
				if most := snapshot*int64(h.buckets)/catalog.DigestBuckets*3/2 + 8<<10; resent > most {
					t.Errorf("%d bytes were sent for %d buckets of a snapshot of %d", resent, h.buckets, snapshot)
				}
				t.Logf("seed %d: found by the first beat, after %s (beat %s); %d of 256 buckets differed; %d facts and %d bytes sent again, a snapshot of %d facts has %d: 1/%d",
					seed, found.Round(time.Millisecond), m.beat, h.buckets, h.repaired, resent, rows, snapshot, snapshot/max(resent, 1))
			})
		})
	}
}

// More than half the buckets are a snapshot's work.
func TestADriftOfMostBucketsIsASnapshot(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	r, _ := startAgent(t, options(h.addr))
	for i := range uint64(2000) {
		r.Set(place(fmt.Sprintf("dbs/%d", i), i))
	}
	r.Ready()
	eventually(t, "the digests agree", func() bool { ok := false; h.do(func() { ok = h.agreed > 0 }); return ok })
	h.do(func() { h.spoil(rand.New(rand.NewPCG(1, 1)), 1500) })
	eventually(t, "a snapshot comes", func() bool { ok := false; h.do(func() { ok = h.snapshots == 2 }); return ok })
	if n := r.Status().Repairs; n != 0 {
		t.Errorf("%d repairs", n)
	}
}

// A region that waits for its turn beats, and sends nothing else.
func TestASnapshotWaitsForItsTurn(t *testing.T) {
	m := newMirror(t)
	m.wait = true
	h := startHub(t, m, "127.0.0.1:0")
	r, _ := startAgent(t, options(h.addr))
	r.Set(place("a", 1))
	r.Ready()
	eventually(t, "three beats", func() bool { n := 0; h.do(func() { n = len(h.beats) }); return n >= 3 })
	r.Set(place("b", 2))
	if s := r.Status(); s.Snapshots > 0 || !s.Waiting || len(h.positions()) > 0 {
		t.Errorf("%+v", s)
	}
	h.do(func() {
		if slices.ContainsFunc(h.beats, func(b state.Beat) bool { return b.At.Counter > 0 || b.Digest != [32]byte{} }) {
			t.Error("it speaks of what it has not sent")
		}
		h.post(h.reporter, state.WantSnapshot{Why: "it is its turn"})
	})
	eventually(t, "its snapshot is applied", func() bool { return len(h.positions()) == 2 })
	if s := r.Status(); s.Waiting {
		t.Errorf("%+v", s)
	}
}
