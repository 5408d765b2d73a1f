package watch

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// Two agents watch; one of them is the first to record that another database
// is at a root. The other found the record, took the name over from it, and
// went on showing the restore points and the WAL of the database that was gone.
func TestTheSecondAgentToNoticeAnotherDatabaseVoidsItsRestorePointsToo(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/checkpoints/db", "db")
		hubs := []*hub{r.hub, newHub()}
		for _, h := range hubs {
			r.hub = h
			defer r.start()()
		}
		wait(10 * time.Second)
		was := hubs[0].sight(t, "db")
		for _, h := range hubs {
			if len(h.points) == 0 {
				t.Fatal("no restore points")
			}
		}
		r.remove("db")
		r.put("0.17.0/fresh/db", "db")
		wait(10 * time.Minute)
		now := hubs[0].sight(t, "db")
		for i, h := range hubs {
			s := h.sight(t, "db")
			if s.Incarnation == was.Incarnation || s.Incarnation != now.Incarnation || deref(s.WALTail) != deref(now.WALTail) {
				t.Errorf("agent %d: %s with WAL to %v, it was %s; the other says %s and %v", i, s.Incarnation, deref(s.WALTail), was.Incarnation, now.Incarnation, deref(now.WALTail))
			}
			if len(h.points) != 0 {
				t.Errorf("agent %d still shows %v", i, h.points)
			}
		}
	})
}

// A database with restore points was removed, and a buffer made at its root.
// The restore points of the database stayed for ever.
func TestWhatIsAtARootTakesBackWhatWasToldOfAnotherLayout(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/checkpoints/db", "x")
		defer r.start()()
		wait(10 * time.Second)
		was := r.hub.sight(t, "x")
		if len(r.hub.points) == 0 {
			t.Fatal("no restore points")
		}
		r.remove("x")
		wait(time.Minute)
		if s := r.hub.sight(t, "x"); s.Seen != catalog.SeenMissing || len(r.hub.points) == 0 {
			t.Fatalf("gone is missing, never deleted: %s with %d restore points", s.Seen, len(r.hub.points))
		}
		r.put("opendata/"+aBuffer(t), "x")
		wait(10 * time.Minute)
		now := r.hub.sight(t, "x")
		if now.Kind != catalog.KindBuffer || now.Predecessor != was.Incarnation {
			t.Errorf("%+v", now)
		}
		if len(r.hub.points) != 0 {
			t.Errorf("still there: %v", r.hub.points)
		}
	})
}

// aBuffer is a fixture's folder that holds a buffer.
func aBuffer(t *testing.T) string {
	t.Helper()
	base := filepath.Join(fixtures, "opendata")
	found := ""
	_ = filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() == "manifest" && found == "" {
			found, _ = filepath.Rel(base, filepath.Dir(p))
		}
		return err
	})
	if found == "" {
		t.Fatal("no buffer among the fixtures")
	}
	return found
}

// A snapshot repository was removed and a database made at its root. Something
// was listed there and the pointer was not, so the root was an unreadable
// repository for ever, and the database was never shown.
func TestADatabaseWhereARepositoryWasIsShown(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("restate/v2-retained-3/0", "archive/0")
		defer r.start()()
		wait(10 * time.Second)
		was := r.hub.sight(t, "archive/0")
		if was.Kind != catalog.KindSnapshots || len(r.hub.points) == 0 {
			t.Fatalf("%+v", was)
		}
		r.remove("archive/0")
		r.put("0.17.0/compacted/db", "archive/0")
		wait(10 * time.Minute)
		now := r.hub.sight(t, "archive/0")
		if now.Kind == catalog.KindSnapshots || now.Seen != catalog.SeenLive || now.Predecessor != was.Incarnation {
			t.Errorf("%+v", now)
		}
		if len(r.hub.points) != 0 {
			t.Errorf("still there: %v", r.hub.points)
		}
	})
}

// gate is a store that holds back the answers to some requests.
type gate struct {
	bucket.Store
	mu      sync.Mutex
	held    []string // parts of keys
	waiting map[string]bool
}

func (g *gate) hold(part string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = append(g.held, part)
}

func (g *gate) open(part string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = slices.DeleteFunc(g.held, func(h string) bool { return h == part })
}

// await waits until a request for part is held back.
func (g *gate) await(t *testing.T, part string) {
	t.Helper()
	for range 7200 {
		wait(time.Second)
		g.mu.Lock()
		there := g.waiting[part]
		g.mu.Unlock()
		if there {
			return
		}
	}
	t.Fatalf("%s was never asked for", part)
}

func (g *gate) pass(key string) {
	for {
		g.mu.Lock()
		i := slices.IndexFunc(g.held, func(part string) bool { return strings.Contains(key, part) })
		if i < 0 {
			g.mu.Unlock()
			return
		}
		g.waiting[g.held[i]] = true
		g.mu.Unlock()
		time.Sleep(100 * time.Millisecond)
	}
}

func (g *gate) Get(ctx context.Context, key string, announce func(int64)) ([]byte, error) {
	b, err := g.Store.Get(context.WithoutCancel(ctx), key, announce)
	g.pass(key)
	return b, err
}

func (g *gate) List(ctx context.Context, prefix, after string, level bool, page func(bucket.Page) error) error {
	g.pass("list " + prefix)
	return g.Store.List(context.WithoutCancel(ctx), prefix, after, level, page)
}

// gated is a region that holds back what the gate holds.
func gated(r *region) *gate {
	g := &gate{waiting: map[string]bool{}}
	r.b = bucket.Wrap(r.b, func(s bucket.Store) bucket.Store { g.Store = s; return g })
	return g
}

// While upkeep read what a checkpoint pins, another database was made at the
// root. Upkeep then told the first one's restore points as the second's.
func TestUpkeepOfADatabaseThatIsGoneSaysNothingOfItsSuccessor(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/checkpoints/db", "db")
		h, err := slatedb.Latest(t.Context(), r.b, "db")
		if err != nil {
			t.Fatal(err)
		}
		held := "none"
		for _, c := range holdsOf(h.Manifest) {
			if c.ManifestID != h.ID {
				held = manifestName(c.ManifestID)
			}
		}
		g := gated(r)
		g.hold(held)
		defer r.start()()
		g.await(t, held)
		was := r.hub.sight(t, "db")
		r.remove("db")
		r.put("0.12.1/fresh/db", "db")
		for range 60 {
			if wait(time.Second); r.hub.sight(t, "db").Incarnation != was.Incarnation {
				break
			}
		}
		g.open(held)
		wait(time.Minute)
		r.hub.mu.Lock()
		for _, p := range r.hub.everPoints {
			if p.Incarnation != was.Incarnation {
				t.Errorf("a restore point of what is gone was told as its successor's: %+v", p)
			}
		}
		r.hub.mu.Unlock()
		if len(r.hub.points) != 0 {
			t.Errorf("still there: %v", r.hub.points)
		}
		if s := r.hub.sight(t, "db"); s.Incarnation == was.Incarnation || s.Seen != catalog.SeenLive {
			t.Errorf("%+v", s)
		}
	})
}

// Upkeep asked for the collector's boundary; meanwhile another database was
// found at the root, of which nothing was known yet, not even its manifest's
// id. The agent fell over when it compared the two.
func TestUpkeepSurvivesTheMomentBetweenTwoDatabases(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "db")
		const boundary, list = "gc/manifest.boundary", "list db/wal/"
		g := gated(r)
		g.hold(boundary)
		defer r.start()()
		g.await(t, boundary) // upkeep's
		was := r.hub.sight(t, "db")
		g.hold(list)
		r.remove("db")
		r.put("0.17.0/fresh/db", "db")
		g.await(t, list) // the look's, between the two
		g.open(boundary)
		wait(10 * time.Second)
		g.open(list)
		wait(time.Minute)
		if s := r.hub.sight(t, "db"); s.Incarnation == was.Incarnation || s.Seen != catalog.SeenLive {
			t.Errorf("%+v", s)
		}
	})
}

// For ten minutes the store refused to give a database's objects; then it gave
// them again, and nothing had changed meanwhile. The database stayed unreadable
// until its next manifest, which for a quiet one may be never.
func TestWhatCanBeReadAgainIsLiveAgain(t *testing.T) {
	for fixture, root := range map[string]string{"0.17.0/compacted/db": "x", "restate/v2-retained-3/0": "archive/0", "opendata/" + aBuffer(t): "y"} {
		story(t, func(t *testing.T, r *region) {
			r.put(fixture, root)
			r.put("0.17.0/fresh/db", "other") // which is read all the time
			b, faults := faulty.New(r.b)
			r.b = b
			defer r.start()()
			wait(time.Minute)
			before := r.hub.sight(t, root)
			refused := fmt.Errorf("403: %w", fs.ErrPermission)
			faults.Add(faulty.Fault{Keys: root + "/*", Times: 60, Err: refused})
			for range 60 {
				wait(10 * time.Second)
				if r.hub.sight(t, root).Seen == catalog.SeenUnreadable {
					break
				}
			}
			if s := r.hub.sight(t, root); s.Seen != catalog.SeenUnreadable {
				t.Fatalf("%s: %+v", root, s)
			}
			wait(2 * time.Hour)
			if now := r.hub.sight(t, root); now.Seen != catalog.SeenLive || now.Reason != "" || now.Incarnation != before.Incarnation {
				t.Errorf("%s: %s, %s", root, now.Seen, now.Reason)
			}
		})
	}
}

// Of two agents one wrote down how far a history had come, and removed what it
// had written before, after the other had listed the records at its start. The
// other read what was not there any more, again and again, and was never ready.
func TestARecordThatWasReplacedSinceItWasListedIsLookedUpAgain(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.15.0/compacted/db", "far/db")
		stop := r.start()
		wait(time.Minute)
		before := r.hub.sight(t, "far/db")
		stop()
		dir := filepath.Join(r.dir, ".quarry/incarnations/far%2Fdb")
		files, err := os.ReadDir(dir)
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		raw, err := os.ReadFile(filepath.Join(dir, files[0].Name()))
		if err != nil {
			t.Fatal(err)
		}
		r.write(".quarry/incarnations/far%2Fdb/1.900.json", string(raw)) // an observation
		r.hub = newHub()
		r.o.Discover = nil // it is known by its record alone
		r.b = bucket.Wrap(r.b, func(s bucket.Store) bucket.Store { return &other{Store: s, region: r, record: string(raw)} })
		defer r.start()()
		wait(time.Minute)
		if !r.hub.isReady() {
			t.Fatal("never ready")
		}
		if now := r.hub.sight(t, "far/db"); now.Incarnation != before.Incarnation || now.Seen != catalog.SeenLive {
			t.Errorf("%+v", now)
		}
	})
}

// other is a store on which another agent writes a newer observation, and
// removes the one before, just before we read that.
type other struct {
	bucket.Store
	region *region
	record string
	once   sync.Once
}

func (o *other) Get(ctx context.Context, key string, announce func(int64)) ([]byte, error) {
	if strings.HasSuffix(key, "1.900.json") {
		o.once.Do(func() {
			o.region.write(strings.Replace(key, "900", "901", 1), o.record)
			o.region.remove(key)
		})
	}
	return o.Store.Get(ctx, key, announce)
}

// A collector without a boundary object (before 0.14, or switched off) kept the
// manifest we know for its checkpoint's sake and took the next. Nobody said so,
// and the database stood still for us for ever.
func TestACollectorThatSaysNothingIsNoticedToo(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		n := pinned(t, r)
		defer r.start()()
		wait(30 * time.Minute)
		before := r.hub.sight(t, "db")
		goOn(t, r, n)
		wait(10 * time.Minute)
		after := r.hub.sight(t, "db")
		if *after.ManifestID != n+2 || after.Incarnation != before.Incarnation {
			t.Errorf("manifest %d of %s, want %d of %s", *after.ManifestID, after.Incarnation, n+2, before.Incarnation)
		}
	})
}

// The same with a boundary object, seen by upkeep before the looks came to it:
// it was told as boundary-ahead, an alarm of a database that spins at open,
// where only our own knowledge was old.
func TestABoundaryThatIsAheadOfUsAloneIsNoFinding(t *testing.T) {
	for minute := range 12 { // upkeep and looks meet at different moments
		story(t, func(t *testing.T, r *region) {
			n := pinned(t, r)
			r.o.Poll = 30 * time.Second
			defer r.start()()
			wait(55*time.Minute + time.Duration(minute)*time.Minute)
			goOn(t, r, n)
			r.write("db/gc/manifest.boundary", fmt.Sprint(n+1))
			for range 20 * 6 {
				wait(10 * time.Second)
				r.hub.mu.Lock()
				for _, f := range r.hub.finds {
					t.Errorf("after %d minutes: %s: %s", 55+minute, f.Code, f.What)
				}
				r.hub.mu.Unlock()
				if t.Failed() {
					return
				}
			}
			if s := r.hub.sight(t, "db"); *s.ManifestID != n+2 {
				t.Errorf("manifest %d, want %d", *s.ManifestID, n+2)
			}
		})
	}
}

// pinned puts a database whose newest manifest, the n-th, a checkpoint pins.
func pinned(t *testing.T, r *region) (n uint64) {
	t.Helper()
	from := filepath.Join(fixtures, "0.17.0/reader/db")
	files, _ := filepath.Glob(from + "/manifest/*.manifest")
	copyTree(t, from, filepath.Join(r.dir, "db"), nil)
	return uint64(len(files))
}

// goOn puts the manifest after the next one: the next was collected.
func goOn(t *testing.T, r *region, n uint64) {
	t.Helper()
	dir := filepath.Join(r.dir, "db/manifest")
	if err := copyFile(filepath.Join(dir, manifestName(n)), filepath.Join(dir, manifestName(n+2))); err != nil {
		t.Fatal(err)
	}
}

// An object in the middle of a WAL was missing, which was told; then somebody
// put it back, as the finding says. The finding stayed until the agent's next
// start.
func TestAHoleInTheWALThatIsFilledIsNoFindingAnyMore(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/wal-only/db", "db")
		key := "db/wal/00000000000000000004.sst"
		r.remove(key)
		defer r.start()()
		wait(10 * time.Minute)
		if len(r.hub.finds) != 1 {
			t.Fatalf("findings: %v", r.hub.finds)
		}
		if err := copyFile(filepath.Join(fixtures, "0.17.0/wal-only/db/wal/00000000000000000004.sst"), filepath.Join(r.dir, key)); err != nil {
			t.Fatal(err)
		}
		wait(time.Hour + 10*time.Minute)
		if len(r.hub.finds) != 0 {
			t.Errorf("findings: %v", r.hub.finds)
		}
	})
}
