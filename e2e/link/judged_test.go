package link

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/hub/session"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// startJudge serves a judge until the test ends.
func startJudge(t testing.TB, j *judge, beat time.Duration) (addr string) {
	t.Helper()
	srv := session.New(session.Options{Inbox: j, Every: -1, Beat: beat})
	j.post = srv.Post
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Run(ctx, lis); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { j.run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return lis.Addr().String()
}

// world is what one region is, and who tells the hub of it.
type world struct {
	rng     *rand.Rand
	r       *report.Report
	rows    map[string]*catalog.Sighting
	restore map[string]uint64
}

// change changes something: mostly numbers move, sometimes more changes, a
// restore point comes or goes, a placement is lost sight of.
func (w *world) change(i uint64, roots int) {
	root := fmt.Sprintf("dbs/%d", w.rng.IntN(roots))
	switch w.rng.IntN(12) {
	case 0:
		k := catalog.RestorePointKey(root, "cp")
		w.r.Withdraw(catalog.FactRestorePoint, k, "no longer listed")
		delete(w.restore, k)
		return
	case 1:
		w.r.Set(restore(root, "cp", i))
		w.restore[catalog.RestorePointKey(root, "cp")] = i
		return
	}
	s := w.rows[root]
	if s == nil {
		p := func() *uint64 { v := uint64(0); return &v }
		s = &catalog.Sighting{Slate: root, Root: root, Kind: catalog.KindLog, Seen: catalog.SeenLive, Incarnation: "01J" + root, Lineage: "01J" + root,
			ManifestID: p(), Position: p(), Bytes: p(), L0Count: p(), WriterEpoch: p(), PositionDomain: "log-seq", Checkpoints: []catalog.Checkpoint{}}
	} else {
		c := *s
		s = &c
	}
	manifest, position, bytes, l0 := *s.ManifestID+1, i, i*1000, uint64(w.rng.IntN(5))
	s.ManifestID, s.Position, s.Bytes, s.L0Count = &manifest, &position, &bytes, &l0
	s.TrimmedTo = nil
	if w.rng.IntN(2) == 0 {
		s.TrimmedTo = &l0
	}
	if w.rng.IntN(10) == 0 {
		epoch := *s.WriterEpoch + 1
		s.WriterEpoch = &epoch
	}
	s.Seen, s.Reason = catalog.SeenLive, ""
	if w.rng.IntN(40) == 0 {
		s.Seen, s.Reason = catalog.SeenUnreadable, "for the test"
	}
	w.rows[root] = s
	w.r.Set(catalog.Fact{Kind: catalog.FactPlacement, Key: root, Sighting: s})
}

// differ says where a view is not what the world is; empty: nowhere (I3, by
// rows: what people read is what the agent saw).
func (w *world) differ(v *view.View, region string) string {
	eq := func(a, b *uint64) bool { return a == b || a != nil && b != nil && *a == *b }
	n := 0
	for p := range v.PlacementsIn(region) {
		n++
		s := w.rows[p.Root]
		if s == nil {
			return "a ghost: " + p.Root
		}
		if !eq(s.ManifestID, p.ManifestID) || !eq(s.Position, p.Position) || !eq(s.Bytes, p.Bytes) || !eq(s.L0Count, p.L0Count) ||
			!eq(s.TrimmedTo, p.TrimmedTo) || !eq(s.WriterEpoch, p.WriterEpoch) || s.Seen != p.Seen {
			return fmt.Sprintf("%s: the agent saw %v %v %v, the hub shows %v %v %v", p.Root, *s.ManifestID, *s.Position, s.Seen, *p.ManifestID, *p.Position, p.Seen)
		}
	}
	if n != len(w.rows) {
		return fmt.Sprintf("%d rows of %d", n, len(w.rows))
	}
	points := 0
	for p := range v.RestorePoints() {
		points++
		if at, ok := w.restore[catalog.RestorePointKey(p.Root, p.ID)]; !ok || at != *p.Position {
			return fmt.Sprintf("restore point of %s at %d, want %d %v", p.Root, *p.Position, at, ok)
		}
	}
	if points != len(w.restore) {
		return fmt.Sprintf("%d restore points of %d", points, len(w.restore))
	}
	return ""
}

// T1 against the hub's real rules: wherever the link is cut, what people read
// in the end is what the agent saw (I3), and no row ever goes away (I5).
func TestWhereverTheLinkIsCutPeopleReadWhatWasSeen(t *testing.T) {
	for seed := uint64(1); seed <= 2; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 17))
			j := newJudge(t, state.Config{Beat: 100 * time.Millisecond}, "eu")
			cut := &cutter{rng: rand.New(rand.NewPCG(seed, 18))}
			o := options(startJudge(t, j, 100*time.Millisecond))
			o.Dial, o.Seed = cut.dial, seed
			r, _ := startAgent(t, o)
			r.SetHealth(report.Health{ReadOK: true, BucketID: "B"})
			w := &world{rng: rng, r: r, rows: map[string]*catalog.Sighting{}, restore: map[string]uint64{}}
			for i := range uint64(200) {
				w.change(i, 60)
			}
			r.Ready()
			had := map[string]bool{}
			looks := 0
			look := func() {
				looks++
				now := map[string]bool{}
				for p := range j.view().PlacementsIn("eu") {
					now[p.Root] = true
				}
				for root := range had {
					if !now[root] {
						t.Fatalf("the row of %s went away", root)
					}
				}
				had = now
			}
			// Now and then the hub loses an event, so that repairs are cut too.
			lost, losing := 0, false
			j.mu.Lock()
			j.deaf = func(e state.Event) bool {
				switch e.(type) {
				case state.Moves, state.Delta:
					if losing {
						losing = false
						lost++
						return true
					}
				}
				return false
			}
			j.mu.Unlock()
			deadline := time.Now().Add(60*time.Second + time.Duration(cutsEach)*time.Second/2)
			i := uint64(200)
			for ; cut.cuts.Load() < int64(2*cutsEach); i++ {
				w.change(i, 60)
				if rng.IntN(4) == 0 {
					time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
				}
				if i%50 == 0 {
					look()
				}
				if i%2500 == 0 && cut.cuts.Load() < int64(cutsEach) {
					j.mu.Lock()
					losing = true
					j.mu.Unlock()
				}
				if time.Now().After(deadline) {
					t.Fatalf("only %d cuts; %+v", cut.cuts.Load(), r.Status())
				}
			}
			cut.setCalm()
			why := ""
			eventually(t, "what people read is what was seen", func() bool {
				why = w.differ(j.view(), "eu")
				s := r.Status()
				return why == "" && s.Acked == s.Head
			})
			look()
			before := time.Now()
			var row *catalog.Region
			defer func() {
				if t.Failed() {
					t.Logf("%+v\n%+v", row, r.Status())
				}
			}()
			// Current means: the digests of both agreed at the same revision.
			eventually(t, "the region is current", func() bool {
				row = j.view().Region("eu")
				return row.State == catalog.RegionConnected && row.AsOf != nil && row.AsOf.After(before)
			})
			s := r.Status()
			j.mu.Lock()
			defer j.mu.Unlock()
			t.Logf("seed %d: %d cuts, %d sessions, %d changes, %d events lost inside the hub, %d snapshots and %d repairs begun; %d rows, 0 lost, 0 ghosts, none went away in %d looks",
				seed, cut.cuts.Load(), j.hellos, i, lost, s.Snapshots, s.Repairs, len(w.rows), looks)
		})
	}
}

// A restarted agent once could not send a placement's record any more; its
// snapshot had it, as one that cannot be sent, and the row was called missing.
// What is there and not understood is not missing (P1).
func TestARecordThatCannotBeSentIsNotMissing(t *testing.T) {
	j := newJudge(t, state.Config{Beat: 100 * time.Millisecond}, "eu")
	addr := startJudge(t, j, 100*time.Millisecond)
	for start := uint64(1000); start <= 2000; start += 1000 {
		o := options(addr)
		o.Start = start
		r, stop := startAgent(t, o)
		r.SetHealth(report.Health{ReadOK: true, BucketID: "B"})
		a := place("a", start)
		if start == 2000 {
			a.Sighting.Kind = "of a newer version"
		}
		r.Set(a)
		r.Set(place("b", start))
		r.Ready()
		eventually(t, "its snapshot is applied", func() bool {
			b := j.view().Placement("eu", "b")
			return b != nil && b.Position != nil && *b.Position == start
		})
		stop()
	}
	if a := j.view().Placement("eu", "a"); a == nil || a.Seen != catalog.SeenLive || *a.Position != 1000 {
		t.Errorf("the row says %+v", a)
	}
	findings := 0
	for f := range j.view().Findings() {
		if f.Code == "record-quarantined" {
			findings++
		}
	}
	if findings != 1 {
		t.Errorf("%d findings tell of it", findings)
	}
}

// T27 against the hub's real rules: moves, facts and withdrawals that were lost
// inside the hub are found by a digest, told again, and nothing else is.
func TestWhatTheHubLostIsToldAgain(t *testing.T) {
	const seed, beat = 3, 200 * time.Millisecond
	rng := rand.New(rand.NewPCG(seed, 1))
	j := newJudge(t, state.Config{Beat: beat}, "eu")
	var mt meter
	o := options(startJudge(t, j, beat))
	o.Dial = mt.dial
	r, _ := startAgent(t, o)
	r.SetHealth(report.Health{ReadOK: true, BucketID: "B"})
	w := &world{rng: rng, r: r, rows: map[string]*catalog.Sighting{}, restore: map[string]uint64{}}
	i := uint64(0)
	for ; i < 20_000; i++ {
		w.change(i, 5000)
	}
	r.Ready()
	settled := func() {
		t.Helper()
		why := ""
		defer func() {
			if t.Failed() {
				t.Log(why, r.Status())
			}
		}()
		eventually(t, "what people read is what was seen", func() bool {
			why = w.differ(j.view(), "eu")
			s := r.Status()
			return why == "" && s.Acked == s.Head
		})
		since := time.Now()
		eventually(t, "the digests agree", func() bool {
			row := j.view().Region("eu")
			return row.State == catalog.RegionConnected && row.AsOf != nil && row.AsOf.After(since)
		})
	}
	settled()
	snapshot := mt.sent.Load()
	lost, repairs := 0, 0
	j.mu.Lock()
	j.deaf = func(e state.Event) bool {
		switch e := e.(type) {
		case state.Moves, state.Delta:
			if lost < 2 {
				lost++
				return true
			}
		case state.Repair:
			repairs += len(e.Facts)
		}
		return false
	}
	j.mu.Unlock()
	before := mt.sent.Load()
	for range 12 {
		w.change(i, 5000)
		i++
		time.Sleep(5 * time.Millisecond)
	}
	settled()
	j.mu.Lock()
	defer j.mu.Unlock()
	s := r.Status()
	if lost != 2 || s.Repairs < 1 || s.Repairs > 2 || s.Snapshots != 1 || j.hellos != 1 {
		t.Errorf("%d events lost, %d repairs, %d snapshots, %d sessions", lost, s.Repairs, s.Snapshots, j.hellos)
	}
	resent := mt.sent.Load() - before
	if resent > snapshot/10 {
		t.Errorf("%d bytes for what was lost, a snapshot has %d", resent, snapshot)
	}
	t.Logf("seed %d: %d events lost inside the hub; %d repairs with %d facts, %d bytes with all else; a snapshot of %d facts has %d: 1/%d",
		seed, lost, s.Repairs, repairs, resent, s.Facts, snapshot, snapshot/resent)
}
