package link

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// cutsEach is how many cuts each of four runs makes.
var cutsEach = 25

func init() {
	if os.Getenv("QUARRY_SOAK") == "1" {
		cutsEach = 1000
	}
}

// T1: wherever the link is cut, in hello, snapshot, delta, moves, repair or
// acknowledgement, in the end the hub has what the agent has: no fact lost, no
// ghost of one withdrawn. 500 cuts with the tag e2e, QUARRY_LINK_CUTS=500 makes
// it 2000.
func TestWhereverTheLinkIsCutNothingIsLostAndNothingHaunts(t *testing.T) {
	cuts := cutsEach
	if v := os.Getenv("QUARRY_LINK_CUTS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		cuts = n
	}
	for _, c := range []struct {
		name     string
		restarts bool
	}{{"one hub", false}, {"a hub that restarts and forgets", true}} {
		for seed := uint64(1); seed <= 2; seed++ {
			t.Run(fmt.Sprintf("%s, seed %d", c.name, seed), func(t *testing.T) { cutLinks(t, seed, cuts, c.restarts) })
		}
	}
}

func cutLinks(t *testing.T, seed uint64, cuts int, restarts bool) {
	rng := rand.New(rand.NewPCG(seed, 7))
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	cut := &cutter{rng: rand.New(rand.NewPCG(seed, 8))}
	o := options(h.addr)
	o.Dial, o.Seed = cut.dial, seed
	r, _ := startAgent(t, o)

	want := map[string]uint64{}
	change := func(i int) {
		root := fmt.Sprintf("dbs/%d", rng.IntN(60))
		switch rng.IntN(5) {
		case 0: // a withdrawal
			k := catalog.RestorePointKey(root, "cp")
			r.Withdraw(catalog.FactRestorePoint, k, "no longer listed")
			delete(want, k)
		case 1, 2:
			r.Set(restore(root, "cp", uint64(i)))
			want[catalog.RestorePointKey(root, "cp")] = uint64(i)
		default:
			r.Set(place(root, uint64(i)))
			want[root] = uint64(i)
		}
	}
	for i := range 100 {
		change(i)
	}
	r.Ready()
	drifts := 0
	deadline := time.Now().Add(60*time.Second + time.Duration(cuts)*200*time.Millisecond)
	for i := 100; cut.cuts.Load() < int64(cuts); i++ {
		change(i)
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
		}
		if rng.IntN(300) == 0 { // so that repairs are cut too
			h.do(func() { drifts += h.spoil(rng, 3) })
		}
		if restarts && rng.IntN(400) == 0 {
			h.stop()
			h = startHub(t, newMirror(t), h.addr)
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d cuts; %+v", cut.cuts.Load(), r.Status())
		}
	}
	cut.setCalm()
	var before int
	h.do(func() { before = h.sessions })

	eventually(t, "the hub has what the agent has", func() bool { return same(want, h.positions()) })
	eventually(t, "the digests agree, and all is acknowledged", func() bool {
		s := r.Status()
		ok := s.Pending == 0 && s.Acked == s.Head && s.Facts == len(want)
		h.do(func() { ok = ok && h.applied == s.Head && h.agreed > 0 })
		return ok
	})
	h.do(func() {
		if n := h.sessions - before; n > 2 {
			t.Errorf("%d sessions after the link was whole again, at most 2", n)
		}
		if h.mismatches > 0 && drifts == 0 {
			t.Errorf("%d beats had another digest than the hub at the same revision", h.mismatches)
		}
		if len(h.quarantined) > 0 {
			t.Errorf("quarantined: %+v", h.quarantined)
		}
		st := r.Status()
		t.Logf("seed %d: %d cuts, %d sessions, %d revisions; snapshots begun %d, repairs begun %d for %d sums spoilt; the last hub took %d snapshots, %d repairs, %d whole facts, %d moves; %d digests agreed; 0 facts lost, 0 ghosts",
			seed, cut.cuts.Load(), h.sessions, h.applied.Counter, st.Snapshots, st.Repairs, drifts, h.snapshots, h.repairs, h.whole, h.moves, h.agreed)
	})
}

// A reconnect to the same hub costs what changed, not the region.
func TestAReconnectResumesWithoutASnapshot(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	cut := &cutter{rng: rand.New(rand.NewPCG(1, 1)), calm: true}
	o := options(h.addr)
	o.Dial = cut.dial
	r, stop := startAgent(t, o)
	want := map[string]uint64{}
	for i := range uint64(500) {
		root := fmt.Sprintf("dbs/%d", i)
		r.Set(place(root, i))
		want[root] = i
	}
	r.Ready()
	eventually(t, "the snapshot is applied", func() bool { return same(want, h.positions()) })
	_ = stop
	// The same process, another stream: a hub that closes it for silence, a
	// proxy that restarts. Here the hub itself goes, and keeps its memory.
	h.stop()
	r.Set(place("dbs/7", 777))
	want["dbs/7"] = 777
	h = startHub(t, h.mirror, h.addr)
	eventually(t, "the change arrives", func() bool { return maps.Equal(want, h.positions()) })
	if n := r.Status().Snapshots; n != 1 {
		t.Errorf("%d snapshots were sent, one would do", n)
	}
}

// A hub that was restarted knows nothing; what it acknowledged in its earlier
// life must not be taken for known.
func TestAHubThatForgotGetsEverything(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	r, _ := startAgent(t, options(h.addr))
	r.Set(place("a", 1))
	r.Set(place("b", 2))
	r.Ready()
	eventually(t, "all is acknowledged", func() bool { return r.Status().Pending == 0 && r.Status().Connected })
	h.stop()
	h = startHub(t, newMirror(t), h.addr)
	eventually(t, "the new hub has all", func() bool { return same(map[string]uint64{"a": 1, "b": 2}, h.positions()) })
}

// Half a look at a bucket must not pass for a whole one.
func TestBeforeTheFirstFullLookOnlyBeatsAreSent(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	r, _ := startAgent(t, options(h.addr))
	r.Set(place("a", 1))
	r.SetHealth(report.Health{ReadOK: true})
	eventually(t, "three beats", func() bool {
		n := 0
		h.do(func() { n = len(h.beats) })
		return n >= 3
	})
	if got := h.positions(); len(got) > 0 || r.Status().Snapshots > 0 {
		t.Fatalf("the hub has %v", got)
	}
	r.Ready()
	eventually(t, "the fact arrives", func() bool { return len(h.positions()) == 1 })
}

// An empty region is a fact; silence about its rows is not.
func TestARegionWithoutSlatesSaysSo(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	r, _ := startAgent(t, options(h.addr))
	r.Ready()
	eventually(t, "an empty snapshot is applied", func() bool {
		n := 0
		h.do(func() { n = h.snapshots })
		return n == 1
	})
}
