package watch

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

func TestContinuity(t *testing.T) {
	was := mark{ID: 5, SHA256: "aa", WriterEpoch: 2, CompactorEpoch: 1, LastL0Seq: 100}
	later := &mark{ID: 9, SHA256: "ff", WriterEpoch: 3, CompactorEpoch: 1, LastL0Seq: 150}
	fresh := &mark{ID: 9, SHA256: "ff", WriterEpoch: 1, CompactorEpoch: 0, LastL0Seq: 7}
	upTo := func(id uint64) *uint64 { return &id }
	for _, c := range []struct {
		story string
		h     history
		want  verdict
		why   string
	}{
		{"nothing happened", history{Was: was, AtWas: "aa", Newest: 5, Now: &was}, same, ""},
		{"it went on", history{Was: was, AtWas: "aa", Newest: 9, Now: later}, same, ""},
		{"it went on and the newest is damaged", history{Was: was, AtWas: "aa", Newest: 9}, same, ""},
		{"made again, and as far as before", history{Was: was, AtWas: "bb", Newest: 9, Now: later}, another, "is not the one"},
		{"made again, not as far yet", history{Was: was, Newest: 3, Now: fresh}, another, "newest manifest is 3"},
		{"yesterday's copy", history{Was: was, Newest: 4, Now: &mark{ID: 4, WriterEpoch: 2, CompactorEpoch: 1, LastL0Seq: 90}}, another, "newest manifest is 4"},
		{"collected, and the collector says so", history{Was: was, Newest: 9, Now: later, Boundary: upTo(7)}, same, ""},
		{"collected by one that keeps no boundary", history{Was: was, Newest: 9, Now: later}, same, ""},
		{"gone, and no collector did it", history{Was: was, Newest: 9, Now: later, Boundary: upTo(2)}, another, "only those up to 2"},
		{"made again, further than before and collected", history{Was: was, Newest: 9, Now: fresh, Boundary: upTo(8)}, another, "writer epoch is 1"},
		{"gone, and the newest is damaged", history{Was: was, Newest: 9}, unknown, "cannot be read"},
	} {
		if v, why := continuous(c.h); v != c.want || !strings.Contains(why, c.why) || (v == same) != (why == "") {
			t.Errorf("%s: %v %q, want %v %q", c.story, v, why, c.want, c.why)
		}
	}
	if v, _ := continuousPointer("1", 50, "1", 50); v != same {
		t.Error("an unchanged pointer is another's")
	}
	if v, _ := continuousPointer("1", 50, "", 60); v != same {
		t.Error("a pointer without fingerprint is another's")
	}
	if v, why := continuousPointer("1", 50, "2", 60); v != another || why == "" {
		t.Error("another cluster's pointer is taken for the same")
	}
	if v, _ := continuousPointer("1", 50, "1", 49); v != another {
		t.Error("a pointer that went back is taken for the same")
	}
	if v, _ := continuousBuffer(2, 8, 2, 8); v != same {
		t.Error("an unchanged buffer is another")
	}
	if v, _ := continuousBuffer(2, 8, 1, 9); v != another {
		t.Error("a buffer whose epoch went back is the same")
	}
}

// manifests copies those of a fixture's manifests with ids up to n, and
// everything else.
func manifestsUpTo(n string) func(rel string) bool {
	return func(rel string) bool {
		dir, name := filepath.Split(rel)
		return dir != "manifest/" || strings.TrimSuffix(name, ".manifest") <= "0000000000000000000"[:20-len(n)]+n
	}
}

// A database appears manifest by manifest, as its writers, readers and
// compactors wrote it: every look gives the newest, and nothing goes back.
func TestAHistoryIsFollowedObjectByObject(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		from := filepath.Join(fixtures, "0.15.0/checkpoints/db")
		files, _ := filepath.Glob(from + "/manifest/*.manifest")
		if len(files) < 5 {
			t.Fatalf("%d manifests", len(files))
		}
		copyTree(t, from, filepath.Join(r.dir, "db"), func(rel string) bool { return !strings.HasPrefix(rel, "manifest/") })
		defer r.start()()
		for i, f := range files {
			if err := copyFile(f, filepath.Join(r.dir, "db/manifest", filepath.Base(f))); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				wait(15 * time.Second) // discovery finds the root
			}
			wait(time.Duration(max(2, 12-6*i)) * time.Second) // and then it moves
			if s := r.hub.sight(t, "db"); *s.ManifestID != uint64(i+1) {
				t.Errorf("manifest %d is seen as %d", i+1, *s.ManifestID)
			}
		}
		var last catalog.Sighting
		for _, s := range r.hub.history {
			if last.ManifestID != nil && (*s.ManifestID < *last.ManifestID || *s.WriterEpoch < *last.WriterEpoch || s.Incarnation != last.Incarnation) {
				t.Errorf("went back from %d to %d", *last.ManifestID, *s.ManifestID)
			}
			last = s
		}
		if len(last.Checkpoints) == 0 || last.Predecessor != "" || !last.IncarnationKept {
			t.Errorf("%+v", last)
		}
	})
}

// OD-2, the part that storage shows: a writer and an open reader are seen, and
// a second writer is a new epoch.
func TestOD2_WritersEpochAndReadersCheckpoint(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/reader/db", "reader")
		from := filepath.Join(fixtures, "0.17.0/fenced/db")
		copyTree(t, from, filepath.Join(r.dir, "fenced"), manifestsUpTo("2"))
		defer r.start()()
		wait(time.Second)
		s := r.hub.sight(t, "reader")
		if deref(s.WriterEpoch) != uint64(1) || len(s.Checkpoints) != 1 || s.Checkpoints[0].Looks != "reader" || s.Checkpoints[0].Expires == nil {
			t.Errorf("%+v", s)
		}
		before := r.hub.sight(t, "fenced")
		copyTree(t, from, filepath.Join(r.dir, "fenced"), nil)
		wait(20 * time.Second)
		if after := r.hub.sight(t, "fenced"); *after.WriterEpoch <= *before.WriterEpoch || deref(after.WriterEpoch) != uint64(3) {
			t.Errorf("epoch %d after %d", *after.WriterEpoch, *before.WriterEpoch)
		}
	})
}

// Deleted and made again at the same root: another incarnation, whose
// predecessor's restore points are void.
func TestMadeAgainAtTheSameRootIsAnotherIncarnation(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/checkpoints/db", "db")
		defer r.start()()
		wait(10 * time.Second)
		before := r.hub.sight(t, "db")
		if len(r.hub.points) == 0 {
			t.Fatal("no restore points")
		}
		r.remove("db")
		r.put("0.17.0/compacted/db", "db")
		wait(10 * time.Minute)
		after := r.hub.sight(t, "db")
		if after.Incarnation == before.Incarnation || after.Predecessor != before.Incarnation || after.Seen != catalog.SeenLive {
			t.Errorf("%s after %s, predecessor %s", after.Incarnation, before.Incarnation, after.Predecessor)
		}
		if len(r.hub.points) != 0 {
			t.Errorf("still there: %v", r.hub.points)
		}
		for _, why := range r.hub.gone {
			if why != "void: incarnation changed" && why != "no longer so" {
				t.Errorf("withdrawn because %s", why)
			}
		}
	})
}

// Set back to yesterday's copy while we watch, and while we do not.
func TestYesterdaysCopyIsAnotherIncarnation(t *testing.T) {
	for _, watching := range []bool{true, false} {
		story(t, func(t *testing.T, r *region) {
			from := filepath.Join(fixtures, "0.15.0/compacted/db")
			copyTree(t, from, filepath.Join(r.dir, "db"), nil)
			stop := r.start()
			wait(time.Minute)
			before := r.hub.sight(t, "db")
			if !watching {
				stop()
			}
			r.remove("db")
			copyTree(t, from, filepath.Join(r.dir, "db"), manifestsUpTo("3"))
			if !watching {
				r.hub = newHub()
				stop = r.start()
			}
			wait(10 * time.Minute)
			after := r.hub.sight(t, "db")
			if after.Incarnation == before.Incarnation || after.Predecessor != before.Incarnation || deref(after.ManifestID) != uint64(3) {
				t.Errorf("watching %v: incarnation %s after %s, predecessor %q, manifest %d", watching, after.Incarnation, before.Incarnation, after.Predecessor, *after.ManifestID)
			}
			stop()
		})
	}
}

// A restarted agent proves that what is there is what was there, whether it
// stood still, went on, or went on and was collected; and it knows a root that
// is gone.
func TestARestartedAgentProvesContinuity(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "still")
		moving := filepath.Join(fixtures, "0.15.0/compacted/db")
		copyTree(t, moving, filepath.Join(r.dir, "moving"), manifestsUpTo("3"))
		r.put("0.17.0/fresh/db", "gone")
		r.put("restate/v2-retained-3/0", "archive/0")
		stop := r.start()
		wait(time.Minute)
		before := map[string]catalog.Sighting{}
		for _, root := range r.hub.roots() {
			before[root] = r.hub.sight(t, root)
		}
		stop()
		copyTree(t, moving, filepath.Join(r.dir, "moving"), nil)
		r.remove("moving/manifest/00000000000000000003.manifest") // collected
		r.remove("gone")
		r.hub = newHub()
		defer r.start()()
		wait(time.Minute)
		for root, was := range before {
			now := r.hub.sight(t, root)
			if now.Incarnation != was.Incarnation || now.Predecessor != "" || !now.IncarnationKept {
				t.Errorf("%s: incarnation %s, it was %s", root, now.Incarnation, was.Incarnation)
			}
		}
		if now := r.hub.sight(t, "moving"); *now.ManifestID <= 3 {
			t.Errorf("moving is at %d", *now.ManifestID)
		}
		if now := r.hub.sight(t, "gone"); now.Seen != catalog.SeenMissing || deref(now.ManifestID) != *before["gone"].ManifestID || now.Kind != catalog.KindSlateDB {
			t.Errorf("gone: %+v", now)
		}
		if !r.hub.ready {
			t.Error("never ready")
		}
	})
}

// A collector kept the manifest that we know, for a checkpoint pins it, and
// removed the next one: asking for the next id alone would say "nothing new"
// for ever.
func TestACollectorThatLeftOurManifestAndTookTheNextIsNoticed(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		from := filepath.Join(fixtures, "0.17.0/reader/db")
		files, _ := filepath.Glob(from + "/manifest/*.manifest")
		copyTree(t, from, filepath.Join(r.dir, "db"), nil)
		defer r.start()()
		wait(30 * time.Minute)
		before := r.hub.sight(t, "db")
		n := uint64(len(files))
		if *before.ManifestID != n || before.Checkpoints[0].ManifestID != n {
			t.Fatalf("the newest manifest is not the one that is pinned: %+v", before)
		}
		// Two manifests later; the first of them was collected.
		next := filepath.Join(r.dir, "db/manifest", manifestName(n+2))
		if err := copyFile(files[n-1], next); err != nil {
			t.Fatal(err)
		}
		r.write("db/gc/manifest.boundary", fmt.Sprint(n+1))
		wait(10 * time.Minute)
		after := r.hub.sight(t, "db")
		if *after.ManifestID != n+2 || after.Incarnation != before.Incarnation {
			t.Errorf("manifest %d of %s, want %d of %s", *after.ManifestID, after.Incarnation, n+2, before.Incarnation)
		}
	})
}

func manifestName(id uint64) string { return fmt.Sprintf("%020d.manifest", id) }

// Two agents of one region begin at the same moment: whoever records an
// incarnation first, both speak of the same one.
func TestTwoAgentsOfARegionAgreeOnIncarnations(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		for _, root := range []string{"a", "b", "c", "d"} {
			r.put("0.17.0/compacted/db", root)
		}
		first := r.hub
		defer r.start()()
		second := newHub()
		r.hub = second
		defer r.start()()
		wait(time.Minute)
		for _, root := range []string{"a", "b", "c", "d"} {
			x, y := first.sight(t, root), second.sight(t, root)
			if x.Incarnation != y.Incarnation || !x.IncarnationKept || !y.IncarnationKept || x.Predecessor != "" {
				t.Errorf("%s: %s and %s", root, x.Incarnation, y.Incarnation)
			}
		}
		if a, b := first.now().BucketID, second.now().BucketID; a != b || a == "" {
			t.Errorf("buckets %q and %q", a, b)
		}
	})
}

// While nobody can be sure, restore points count for nothing: the incarnation's
// record is damaged, so what is there now is taken for another database.
func TestADamagedRecordProvesNothing(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "dbs/x")
		stop := r.start()
		wait(time.Minute)
		before := r.hub.sight(t, "dbs/x")
		stop()
		r.write(".quarry/incarnations/dbs%2Fx/1.json", "{}")
		r.hub = newHub()
		defer r.start()()
		wait(time.Minute)
		after := r.hub.sight(t, "dbs/x")
		if after.Incarnation == before.Incarnation || after.Incarnation == "" || !after.IncarnationKept || after.Predecessor != "" {
			t.Errorf("%+v", after)
		}
	})
}
