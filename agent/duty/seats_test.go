package duty

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// world is what a process sees of a region, by hand.
type world struct {
	mu     sync.Mutex
	sights map[string]catalog.Sighting
	leases map[string]catalog.Lease // by key
	ready  bool
	d      *Duty
}

func newWorld() *world {
	return &world{sights: map[string]catalog.Sighting{}, leases: map[string]catalog.Lease{}, ready: true}
}

func (w *world) Roots() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.sights))
}

func (w *world) Sighting(root string) (catalog.Sighting, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.sights[root]
	return s, ok
}

func (w *world) Complete() (bool, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ready, w.ready
}

func (w *world) see(s catalog.Sighting) {
	w.mu.Lock()
	w.sights[s.Root] = s
	w.mu.Unlock()
	w.d.Saw(catalog.Fact{Kind: catalog.FactPlacement, Key: s.Root, Sighting: &s})
}

func (w *world) lease(l catalog.Lease) {
	key := catalog.LeaseKey(l.Slate, l.Role, l.ID)
	w.leases[key] = l
	w.d.Saw(catalog.Fact{Kind: catalog.FactLease, Key: key, Lease: &l})
}

func (w *world) unlease(l catalog.Lease) {
	key := catalog.LeaseKey(l.Slate, l.Role, l.ID)
	delete(w.leases, key)
	w.d.Saw(catalog.Fact{Kind: catalog.FactLease, Key: key, Gone: "its object was removed"})
}

// keeping starts a process that sees w and has the duty.
func keeping(t *testing.T, b *bucket.Bucket, w *world) (stop func()) {
	t.Helper()
	w.d, stop = contend(t, b, Options{Holder: "a", Seen: w})
	time.Sleep(20 * time.Second)
	return stop
}

func num(n uint64) *uint64 { return &n }

func sighted(root string, manifest uint64, checkpoints ...catalog.Checkpoint) catalog.Sighting {
	return catalog.Sighting{
		Slate: root, Root: root, Kind: catalog.KindLog, Seen: catalog.SeenLive, Incarnation: "01J", ManifestID: num(manifest),
		WriterEpoch: num(1), Position: num(10 * manifest), PositionDomain: "seq", Checkpoints: checkpoints,
	}
}

// table is the catalog as any reader sees it: values without their revisions,
// and those, by path.
func table(t testing.TB, b *bucket.Bucket) (values map[string]any, revisions map[string]uint64) {
	t.Helper()
	r, err := slatedb.OpenReader(context.Background(), b, catalog.CatalogRoot, slatedb.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	values, revisions = map[string]any{}, map[string]uint64{}
	for e, err := range r.Scan(context.Background(), nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		row, err := catalog.DecodeRow(e.Key, e.Value)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := catalog.ReadRow(row); err != nil {
			t.Fatal(err)
		}
		revisions[row.Path] = row.Revision
		if row.Path != catalog.HeadPath {
			values[row.Path] = plain(t, row.Value)
		}
	}
	return values, revisions
}

func plain(t testing.TB, raw []byte) any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	delete(v, "revision")
	return fmt.Sprint(v)
}

// rowsOf is what the catalog should hold of a world, worked out in the dumbest
// way. Only for worlds without two roots of one name, in which all is live.
func (w *world) rowsOf(t testing.TB) map[string]any {
	want := map[string]any{}
	put := func(path string, v any) {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		want[path] = plain(t, raw)
	}
	for _, s := range w.sights {
		for rest, row := range catalog.SightRows(s) {
			put(catalog.SlatePath(s.Slate)+rest, row)
		}
	}
	for _, l := range w.leases {
		path, row := catalog.LeaseRow(l)
		put(path, row)
	}
	return want
}

func differ(t testing.TB, got, want map[string]any) {
	t.Helper()
	for path := range want {
		if got[path] != want[path] {
			t.Errorf("%s is\n%v, want\n%v", path, got[path], want[path])
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s is there, and should not be: %v", path, got[path])
		}
	}
}

// What the process sees is in the catalog within a batch: the placement, the
// writer's epoch, checkpoints without a name as readers, Quarry's as holds,
// leases by their role. Another's named checkpoint stays with the placement.
func TestTheCatalogKeepsWhatIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := folder(t), newWorld()
		keeping(t, b, w)
		w.see(sighted("dbs/orders", 7, catalog.Checkpoint{ID: "r1", ManifestID: 7}, catalog.Checkpoint{ID: "h1", Name: "quarry:floor", ManifestID: 6},
			catalog.Checkpoint{ID: "n1", Name: "nightly", ManifestID: 5}))
		w.lease(catalog.Lease{Version: 1, Slate: "dbs/orders", Role: "reader", ID: "x/y", Holder: "report"})
		w.lease(catalog.Lease{Version: 1, Slate: "dbs/orders", Role: "writer", ID: "pod-1"})
		w.lease(catalog.Lease{Version: 1, Slate: "dbs/orders", Role: "owner", ID: "team"})
		time.Sleep(2 * DefaultEvery)
		got, revisions := table(t, b)
		differ(t, got, w.rowsOf(t))
		for _, path := range []string{"placement", "writer/epoch-1", "writer/lease-pod-1", "reader/r1", "reader/lease-x%2Fy", "hold/h1", "owner/lease-team"} {
			if revisions["slate/dbs%2Forders/"+path] == 0 {
				t.Errorf("no row %s with a revision in %v", path, revisions)
			}
		}
		// A reader that is gone from the newest manifest is gone, and a writer
		// has another's place.
		s := sighted("dbs/orders", 8)
		s.WriterEpoch = num(2)
		w.see(s)
		w.unlease(catalog.Lease{Slate: "dbs/orders", Role: "owner", ID: "team"})
		time.Sleep(2 * DefaultEvery)
		got, _ = table(t, b)
		differ(t, got, w.rowsOf(t))
	})
}

// Looks that see the same write nothing, numbers that go on are written once a
// minute, and everything else within a batch; there is at most one in 5 s.
func TestOnlyRowsThatChangedAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := folder(t), newWorld()
		keeping(t, b, w)
		w.see(sighted("a", 1))
		w.see(sighted("b", 1))
		time.Sleep(2 * time.Minute)
		_, before := table(t, b)
		for range 60 {
			w.see(sighted("a", 1))
			time.Sleep(time.Second)
		}
		if _, now := table(t, b); !maps.Equal(now, before) {
			t.Fatalf("%v were %v", now, before)
		}
		for n := range uint64(600) {
			w.see(sighted("a", 2+n))
			time.Sleep(time.Second)
		}
		_, now := table(t, b)
		if n := now[catalog.HeadPath] - before[catalog.HeadPath]; n < 8 || n > 12 {
			t.Errorf("%d batches for ten minutes in which only numbers went on", n)
		}
		if now["slate/b/placement"] != before["slate/b/placement"] || now["slate/a/writer/epoch-1"] != before["slate/a/writer/epoch-1"] {
			t.Errorf("rows that did not change were written: %v were %v", now, before)
		}
		before = now
		for n := range uint64(120) {
			s := sighted("a", 602+n)
			s.WriterEpoch = num(n)
			w.see(s)
			time.Sleep(time.Second)
		}
		_, now = table(t, b)
		if n := now[catalog.HeadPath] - before[catalog.HeadPath]; n < 20 || n > 26 {
			t.Errorf("%d batches in two minutes in which something happened every second", n)
		}
		time.Sleep(2 * time.Minute)
		got, _ := table(t, b)
		differ(t, got, w.rowsOf(t))
	})
}

// A slate that is found no more has its rows still, which say so, with what was
// last seen; so has one of which the next holder never heard. A lease that was
// removed is gone.
func TestP1_WhatIsMissingSaysSoAndStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := folder(t), newWorld()
		stop := keeping(t, b, w)
		for _, root := range []string{"gone", "unheard", "here"} {
			w.see(sighted(root, 7, catalog.Checkpoint{ID: "r-" + root, ManifestID: 7}))
		}
		l := catalog.Lease{Version: 1, Slate: "here", Role: "reader", ID: "a"}
		w.lease(l)
		time.Sleep(time.Minute)
		// After a restart only its record is known of it.
		w.see(catalog.Sighting{Slate: "gone", Root: "gone", Kind: catalog.KindLog, Seen: catalog.SeenMissing, Reason: "its manifests are gone"})
		time.Sleep(time.Minute)
		stop()

		w2 := newWorld()
		w2.sights["here"], w2.ready = w.sights["here"], false
		keeping(t, b, w2)
		time.Sleep(time.Hour)
		got, revisions := table(t, b)
		for path, want := range map[string]string{
			"slate/gone/placement": "reason:its manifests are gone", "slate/unheard/placement": "seen:live",
			"slate/gone/reader/r-gone": "", "slate/here/reader/lease-a": "",
		} {
			if v, ok := got[path].(string); !ok || !strings.Contains(v, want) {
				t.Errorf("%s is %v, want %s", path, got[path], want)
			}
		}
		w2.mu.Lock()
		w2.ready = true
		w2.mu.Unlock()
		time.Sleep(time.Hour)
		got, after := table(t, b)
		for path, want := range map[string]string{
			"slate/gone/placement": "manifest_id:7", "slate/unheard/placement": "reason:" + unseen, "slate/here/placement": "seen:live",
			"slate/unheard/writer/epoch-1": "", "slate/unheard/reader/r-unheard": "", "slate/here/reader/r-here": "",
		} {
			if v, ok := got[path].(string); !ok || !strings.Contains(v, want) {
				t.Errorf("%s is %v, want %s", path, got[path], want)
			}
		}
		if v := got["slate/unheard/placement"].(string); !strings.Contains(v, "seen:missing") || !strings.Contains(v, "position:70") {
			t.Errorf("%s", v)
		}
		if _, there := got["slate/here/reader/lease-a"]; there {
			t.Error("a lease that is not there any more has a row still")
		}
		if after["slate/here/placement"] != revisions["slate/here/placement"] {
			t.Error("a row was written that did not change")
		}
		// An owner names what is missing: it is under that name then, missing
		// still, and all of it is where it belongs once it is back.
		back := sighted("unheard", 8, catalog.Checkpoint{ID: "r-unheard", ManifestID: 7})
		back.Slate = "orders"
		gone := back
		gone.Seen, gone.Reason = catalog.SeenMissing, "gone"
		w2.see(gone)
		time.Sleep(time.Minute)
		got, _ = table(t, b)
		if v, _ := got["slate/orders/placement"].(string); !strings.Contains(v, "seen:missing") || got["slate/unheard/placement"] != nil {
			t.Errorf("orders is %v, unheard %v", v, got["slate/unheard/placement"])
		}
		w2.see(back)
		time.Sleep(time.Minute)
		got, _ = table(t, b)
		for path := range got {
			if strings.HasPrefix(path, "slate/unheard/") {
				t.Errorf("%s is there under a name that nothing has", path)
			}
		}
		if got["slate/orders/reader/r-unheard"] == nil || got["slate/orders/writer/epoch-1"] == nil {
			t.Errorf("not all of orders is there: %v", got)
		}
	})
}

// An owner gives a root the name that is another root's key. Both stay visible:
// the registered one takes the name's place, the other lies beside it, and is
// back in its place when the registration goes.
func TestTwoRootsOfOneNameAreBothKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := folder(t), newWorld()
		keeping(t, b, w)
		roots := func() (name, beside any) {
			time.Sleep(time.Minute)
			got, _ := table(t, b)
			where := func(path string) any {
				v, _ := got[path].(string)
				for _, root := range []string{"orders", "dbs/a"} {
					if strings.Contains(v, " root:"+root+" ") {
						return root
					}
				}
				return nil
			}
			for _, path := range []string{"slate/orders/", "slate/orders/beside/"} {
				if _, w := got[path+"writer/epoch-1"]; w != (where(path+"placement") != nil) {
					t.Errorf("the writer of %s: %v", path, got[path+"writer/epoch-1"])
				}
			}
			return where("slate/orders/placement"), where("slate/orders/beside/placement")
		}
		named := sighted("dbs/a", 3)
		named.Slate = "orders"
		w.see(sighted("orders", 1))
		if name, beside := roots(); name != "orders" || beside != nil {
			t.Fatalf("%v, %v", name, beside)
		}
		w.see(named)
		if name, beside := roots(); name != "dbs/a" || beside != "orders" {
			t.Fatalf("%v, %v", name, beside)
		}
		w.see(sighted("orders", 2))
		w.see(named)
		if name, beside := roots(); name != "dbs/a" || beside != "orders" {
			t.Fatalf("%v, %v", name, beside)
		}
		w.see(sighted("dbs/a", 4))
		if name, beside := roots(); name != "orders" || beside != nil {
			t.Fatalf("%v, %v", name, beside)
		}
		if got, _ := table(t, b); got["slate/dbs%2Fa/placement"] == nil {
			t.Errorf("dbs/a has no row: %v", got)
		}
	})
}

// Whatever is seen in whatever order, whoever holds the duty meanwhile: in the
// end the catalog is what a plain reading of the world is, revisions only grew,
// and no row was written that did not change.
func TestTheCatalogIsAPlainReadingOfTheWorld(t *testing.T) {
	s := rand.Uint64()
	t.Logf("seed %d", s)
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(s, 1))
		b, w := folder(t), newWorld()
		stop := keeping(t, b, w)
		var before map[string]any
		revisions := map[string]uint64{}
		for round := range 25 {
			for range rng.IntN(30) {
				root := fmt.Sprintf("dbs/%d", rng.IntN(12))
				var cps []catalog.Checkpoint
				for i := range rng.IntN(4) {
					cps = append(cps, catalog.Checkpoint{ID: fmt.Sprint("c", i, rng.IntN(2)), Name: []string{"", "quarry:x", "mine"}[rng.IntN(3)], ManifestID: rng.Uint64N(3)})
				}
				seen := sighted(root, rng.Uint64N(5), cps...)
				seen.WriterEpoch = num(rng.Uint64N(3))
				if rng.IntN(3) == 0 {
					seen.Slate = "name of " + root
				}
				w.see(seen)
				l := catalog.Lease{Version: 1, Slate: root, Role: []string{"reader", "writer", "owner"}[rng.IntN(3)], ID: fmt.Sprint(rng.IntN(3)), Holder: fmt.Sprint(rng.IntN(3))}
				if rng.IntN(2) == 0 {
					w.lease(l)
				} else {
					w.unlease(l)
				}
				time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
			}
			if round%5 == 4 {
				stop()
				told := w.leases
				w.leases = map[string]catalog.Lease{}
				stop = keeping(t, b, w)
				for _, l := range told {
					w.lease(l)
				}
			}
			time.Sleep(3 * time.Minute)
			got, now := table(t, b)
			differ(t, got, w.rowsOf(t))
			for path, r := range now {
				if r < revisions[path] {
					t.Fatalf("%s was at revision %d and is at %d", path, revisions[path], r)
				}
				if path != catalog.HeadPath && r == revisions[path] && got[path] != before[path] {
					t.Fatalf("%s changed and its revision did not", path)
				}
			}
			before, revisions = got, now
		}
	})
}

// Names pass between roots that are all there: whichever is compared first,
// each root's rows are under its name afterwards, and nobody else's.
func TestNamesThatPassBetweenRootsTakeNoRowsWithThem(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	synctest.Test(t, func(t *testing.T) {
		b, w := folder(t), newWorld()
		keeping(t, b, w)
		roots := []string{"dbs/a", "dbs/b", "dbs/c"}
		for round := range 60 {
			names := []string{"x", "y", "z"}
			rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			for i, root := range roots {
				s := sighted(root, 7, catalog.Checkpoint{ID: "r-" + root[4:], ManifestID: 7})
				if s.Slate = names[i]; rng.IntN(4) == 0 {
					s.Slate = root // nobody declares it now
				}
				w.see(s)
			}
			time.Sleep(time.Minute)
			got, _ := table(t, b)
			want := w.rowsOf(t)
			if !maps.Equal(got, want) {
				t.Fatalf("round %d, names %v: the catalog has\n%v\nnot\n%v", round, names, got, want)
			}
		}
	})
}

// What is not followed any more is missing under its own name, once another
// root has the name that it had; the other one's rows do not say so.
func TestWhatIsNotFollowedLeavesItsNameToTheOneThatHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := folder(t), newWorld()
		keeping(t, b, w)
		old, next := sighted("dbs/a", 7), sighted("dbs/b", 9)
		old.Slate = "x"
		w.see(old)
		time.Sleep(time.Minute)
		w.mu.Lock()
		delete(w.sights, "dbs/a")
		w.mu.Unlock()
		next.Slate = "x"
		w.see(next)
		time.Sleep(time.Hour)
		got, _ := table(t, b)
		if v, _ := got["slate/x/placement"].(string); !strings.Contains(v, "root:dbs/b") || !strings.Contains(v, "seen:live") {
			t.Errorf("x is %v", got["slate/x/placement"])
		}
		if v, _ := got["slate/dbs%2Fa/placement"].(string); !strings.Contains(v, "seen:missing") {
			t.Errorf("dbs/a is %v", got["slate/dbs%2Fa/placement"])
		}
	})
}
