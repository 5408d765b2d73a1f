package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// aged is a fixture whose objects are as old as the test says.
func aged(t *testing.T, fixture string, age time.Duration) (*slatedb.Admin, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(fixtures, fixture))); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-age)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
	return admin(folder(t, dir)), dir
}

func classes(g []slatedb.Garbage) map[slatedb.Class]int {
	n := map[slatedb.Class]int{}
	for _, x := range g {
		n[x.Class]++
	}
	return n
}

// The core compacted and nobody collected: what is superseded goes, and every
// row of the database and of its checkpoints is still there.
func TestACollectionTakesWhatIsSupersededAndNothingElse(t *testing.T) {
	for _, fixture := range []string{"0.12.1/compacted", "0.14.1/compacted", "0.17.0/compacted"} {
		t.Run(fixture, func(t *testing.T) {
			a, _ := aged(t, fixture, 48*time.Hour)
			want := contents(t, a.Store)
			plan, err := a.PlanCollection(t.Context(), slatedb.CollectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			before, err := slatedb.ManifestIDs(t.Context(), a.Store, "db")
			if err != nil {
				t.Fatal(err)
			}
			n := classes(plan.Garbage)
			if n[slatedb.ClassManifest] == 0 || n[slatedb.ClassCompactions] == 0 || n[slatedb.ClassWAL] == 0 {
				t.Fatalf("the plan: %v, kept %v", n, plan.Kept)
			}
			if now, _ := slatedb.ManifestIDs(t.Context(), a.Store, "db"); !slices.Equal(before, now) {
				t.Fatal("a plan removed something")
			}
			gone, err := a.Collect(t.Context(), slatedb.CollectOptions{Only: plan.Garbage})
			if err != nil {
				t.Fatal(err)
			}
			if len(gone.Garbage) != len(plan.Garbage) || gone.Bytes != plan.Bytes {
				t.Errorf("planned %d, gone %d", len(plan.Garbage), len(gone.Garbage))
			}
			equalRows(t, "after the collection", contents(t, a.Store), want)
			whole(t, a.Store)
			mark, err := slatedb.Boundary(t.Context(), a.Store, "db")
			if err != nil || mark != gone.ManifestBoundary || mark >= before[len(before)-1] || mark == 0 {
				t.Errorf("the mark is %d (%v), expected %d", mark, err, gone.ManifestBoundary)
			}
			again, err := a.Collect(t.Context(), slatedb.CollectOptions{})
			if err != nil || len(again.Garbage) > 0 {
				t.Errorf("a second time: %v %v", again.Garbage, err)
			}
			put(t, openWriter(t, a.Store, slatedb.Options{}), "new", "row")
			want["new"] = "row"
			equalRows(t, "written again", contents(t, a.Store), want)
		})
	}
}

func TestACollectionKeepsWhatIsYoungAndWhatMayBeAFence(t *testing.T) {
	a, _ := aged(t, "0.14.1/compacted", 10*time.Minute)
	plan, err := a.PlanCollection(t.Context(), slatedb.CollectOptions{})
	if err != nil || len(plan.Garbage) > 0 {
		t.Errorf("ten minutes old: %v %v", plan.Garbage, err)
	}
	// A clock that is two days ahead makes nothing old: the store's counts.
	a.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	if plan, err = a.PlanCollection(t.Context(), slatedb.CollectOptions{}); err != nil || len(plan.Garbage) == 0 {
		t.Errorf("by that clock there is garbage: %v %v", plan.Garbage, err)
	}
	gone, err := a.Collect(t.Context(), slatedb.CollectOptions{})
	if err != nil || len(gone.Garbage) > 0 {
		t.Errorf("a pass by that clock took %v %v", gone.Garbage, err)
	}

	a, _ = aged(t, "0.14.1/fenced", 3*time.Hour)
	w := openWriter(t, a.Store, slatedb.Options{})
	if err := w.Close(t.Context()); err != nil { // its flush passes the fences
		t.Fatal(err)
	}
	gone, err = a.Collect(t.Context(), slatedb.CollectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fences := 0
	for _, k := range gone.Kept {
		if k.Why == slatedb.KeptFence {
			fences = k.Objects
		}
	}
	if fences < 2 {
		t.Errorf("fences of three hours that were kept: %d; kept %v", fences, gone.Kept)
	}
	for _, g := range gone.Garbage {
		if g.Size == 0 {
			t.Errorf("a fence went: %v", g)
		}
	}
}

// Whatever a checkpoint names stays, with the WAL it replays, until it has
// expired and stood unchanged for its lifetime on the store's clock; and it is
// not ours to remove.
func TestACollectionObeysCheckpointsAndRemovesNone(t *testing.T) {
	a, dir := aged(t, "0.17.0/compacted", 48*time.Hour)
	w := openWriter(t, a.Store, slatedb.Options{})
	put(t, w, "pinned", "1")
	// The clock of its maker is three hours behind: it is born expired.
	a.Now = func() time.Time { return time.Now().Add(-3 * time.Hour) }
	held, _, err := a.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "slow clock", Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	a.Now = nil
	want := contents(t, a.Store)
	put(t, w, "later", "2")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	age := func(by time.Duration) {
		at := time.Now().Add(-by)
		if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chtimes(path, at, at)) }); err != nil {
			t.Fatal(err)
		}
	}
	age(50 * time.Minute)
	if gone, err := a.Collect(t.Context(), slatedb.CollectOptions{FenceAge: time.Nanosecond}); err != nil || len(gone.Garbage) == 0 {
		t.Fatalf("%v %v", gone.Garbage, err)
	}
	r, err := slatedb.OpenReader(t.Context(), a.Store, "db", slatedb.ReaderOptions{Checkpoint: held.ID.String()})
	if err != nil {
		t.Fatal(err)
	}
	equalRows(t, "the checkpoint", scanned(t, r), want)

	// Its hour and the minimum age are over by the store's clock.
	age(80 * time.Minute)
	gone, err := a.Collect(t.Context(), slatedb.CollectOptions{FenceAge: time.Nanosecond})
	if err != nil || !slices.ContainsFunc(gone.Garbage, func(g slatedb.Garbage) bool { return g.Key == slatedb.ManifestKey("db", held.ManifestID) }) {
		t.Errorf("%v %v", gone.Garbage, err)
	}
	h, err := slatedb.Latest(t.Context(), a.Store, "db")
	if err != nil || h.Manifest.Checkpoint(held.ID) < 0 {
		t.Errorf("the checkpoint was removed: %v", err)
	}
	// Also when no manifest is old enough any more to show for how long.
	rewrite(t, a, func(*manifest.Manifest) {})
	remove(t, a, slatedb.ManifestKey("db", h.ID))
	if _, err := a.PlanCollection(t.Context(), slatedb.CollectOptions{}); err != nil {
		t.Errorf("what it pinned is gone, and nobody may collect any more: %v", err)
	}
	whole(t, a.Store)
}

// One that is refreshed goes on holding, however old it is.
func TestARefreshedCheckpointHolds(t *testing.T) {
	a, dir := aged(t, "0.17.0/compacted", 48*time.Hour)
	old := time.Now().Add(-5 * time.Hour)
	a.Now = func() time.Time { return old }
	held, _, err := a.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "kept alive", Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	put(t, openWriter(t, a.Store, slatedb.Options{}), "later", "2")
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chtimes(path, old, old)) }); err != nil {
		t.Fatal(err)
	}
	// Ten minutes ago, by a clock that is three hours behind.
	a.Now = func() time.Time { return time.Now().Add(-3 * time.Hour) }
	if _, _, err := a.RefreshCheckpoint(t.Context(), held.ID, time.Hour); err != nil {
		t.Fatal(err)
	}
	a.Now = nil
	if _, err := a.Collect(t.Context(), slatedb.CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := slatedb.OpenReader(t.Context(), a.Store, "db", slatedb.ReaderOptions{Checkpoint: held.ID.String()}); err != nil {
		t.Error(err)
	}
}

func TestNothingIsCollectedWhenWhatHoldsItCannotBeRead(t *testing.T) {
	for _, c := range []struct {
		name, fixture string
		damage        func(t *testing.T, a *slatedb.Admin, h *slatedb.Head)
		want          error
	}{
		{"the manifest of a checkpoint is gone", "0.17.0/checkpoints", func(t *testing.T, a *slatedb.Admin, h *slatedb.Head) {
			remove(t, a, slatedb.ManifestKey("db", h.Manifest.Checkpoints[0].ManifestID))
		}, slatedb.ErrUnproven},
		{"the compactor's state is damaged", "0.17.0/compacted", func(t *testing.T, a *slatedb.Admin, _ *slatedb.Head) {
			c, err := slatedb.LatestCompactions(t.Context(), a.Store, "db")
			if err != nil {
				t.Fatal(err)
			}
			replace(t, a, slatedb.CompactionsKey("db", c.ID), []byte{0, 9, 1})
		}, slatedb.ErrUnproven},
		{"a pill", "0.17.0/compacted", func(t *testing.T, a *slatedb.Admin, _ *slatedb.Head) {
			if _, err := a.Pill(t.Context(), slatedb.PillOptions{Reason: "r"}); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"the boundary is ahead", "0.17.0/compacted", func(t *testing.T, a *slatedb.Admin, h *slatedb.Head) {
			replace(t, a, slatedb.BoundaryKey("db"), fmt.Appendf(nil, "%d", h.ID))
		}, slatedb.ErrBoundaryAhead},
		{"the WAL is elsewhere and marked so", "0.14.1/wal-store", func(*testing.T, *slatedb.Admin, *slatedb.Head) {}, slatedb.ErrWALStore},
		{"the WAL is elsewhere and nothing says so", "0.17.0/wal-store", func(*testing.T, *slatedb.Admin, *slatedb.Head) {}, slatedb.ErrWALUnmarked},
		{"a clone under construction", "0.17.0/compacted", func(t *testing.T, a *slatedb.Admin, h *slatedb.Head) {
			m := h.Manifest.Clone()
			m.Initialized = false
			raw, err := manifest.Encode(m)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, a, slatedb.ManifestKey("db", h.ID+1), raw)
		}, slatedb.ErrUninitialized},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, dir := aged(t, c.fixture, 48*time.Hour)
			h, err := slatedb.Latest(t.Context(), a.Store, "db")
			if err != nil {
				t.Fatal(err)
			}
			c.damage(t, a, h)
			before := tree(t, dir)
			_, planErr := a.PlanCollection(t.Context(), slatedb.CollectOptions{})
			_, err = a.Collect(t.Context(), slatedb.CollectOptions{})
			for _, err := range []error{planErr, err} {
				if err == nil || !slatedb.Refused(err) || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("%v", err)
				}
			}
			if after := tree(t, dir); !slices.Equal(before, after) {
				t.Errorf("before %v\nafter %v", before, after)
			}
		})
	}
}

func remove(t *testing.T, a *slatedb.Admin, key string) {
	t.Helper()
	if err := a.Store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, a *slatedb.Admin, key string, raw []byte) {
	t.Helper()
	if err := a.Store.Put(t.Context(), key, raw); err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A table that is about to be published is in no manifest: those minted since
// the oldest compaction that is remembered, and since the newest L0, stay.
func TestTablesOnTheirWayIntoAManifestStay(t *testing.T) {
	a, _ := aged(t, "0.17.0/compacted", 48*time.Hour)
	state, err := slatedb.LatestCompactions(t.Context(), a.Store, "db")
	if err != nil || len(state.Compactions.Recent) == 0 {
		t.Fatalf("%+v %v", state, err)
	}
	oldest := state.Compactions.Recent[0].ID.Time()
	for _, c := range state.Compactions.Recent {
		oldest = min(oldest, c.ID.Time())
	}
	under, before := ulid.MustNew(oldest, ulid.DefaultEntropy()), ulid.MustNew(oldest-1, ulid.DefaultEntropy())
	later := time.Now().Add(48 * time.Hour)
	for _, id := range []ulid.ULID{under, before} {
		replace(t, a, slatedb.TableKey("db", id), []byte("whatever"))
	}
	a.Now = func() time.Time { return later }
	plan, err := a.PlanCollection(t.Context(), slatedb.CollectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	has := func(id ulid.ULID) bool {
		return slices.ContainsFunc(plan.Garbage, func(g slatedb.Garbage) bool { return g.Key == slatedb.TableKey("db", id) })
	}
	if has(under) || !has(before) {
		t.Errorf("minted with the oldest compaction: %v, before it: %v", has(under), has(before))
	}
}

// The clever rule beside a dumb one, on random histories: after a pass with no
// minimum age every row of the newest state and of every checkpoint is there,
// and ids that are gone are under the mark.
func TestRandomHistoriesSurviveCollectionsAtNoAge(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 3))
		b := memory(t)
		a := admin(b)
		rows := map[string]string{}
		type kept struct {
			id   string
			rows map[string]string
		}
		var held []kept
		w := openWriter(t, b, slatedb.Options{})
		for step := range 60 {
			when := fmt.Sprintf("seed %d, step %d", seed, step)
			switch rng.IntN(7) {
			case 0, 1, 2:
				k := fmt.Sprint(rng.IntN(20))
				put(t, w, k, when)
				rows[k] = when
			case 3:
				if err := w.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			case 4:
				c, _, err := a.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: when})
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, kept{c.ID.String(), maps.Clone(rows)})
			case 5:
				w.Abandon()
				w = openWriter(t, b, slatedb.Options{})
			case 6:
				if _, err := a.Collect(t.Context(), slatedb.CollectOptions{MinAge: time.Nanosecond, FenceAge: time.Nanosecond}); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				equalRows(t, when, contents(t, b), rows)
				for _, k := range held {
					r, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{Checkpoint: k.id})
					if err != nil {
						t.Fatalf("%s: %v", when, err)
					}
					equalRows(t, when+": a checkpoint", scanned(t, r), k.rows)
				}
				ids, err := slatedb.ManifestIDs(t.Context(), b, "db")
				if err != nil {
					t.Fatal(err)
				}
				mark, err := slatedb.Boundary(t.Context(), b, "db")
				if err != nil {
					t.Fatal(err)
				}
				for id := mark + 1; id <= ids[len(ids)-1]; id++ {
					if !slices.Contains(ids, id) {
						t.Fatalf("%s: manifest %d is gone and the mark is %d", when, id, mark)
					}
				}
			}
		}
		whole(t, b)
		w.Abandon()
	}
}

// Whoever is killed in a pass leaves a database that lacks nothing, with a mark
// that covers what is gone.
func TestAPassMayBeStoppedAtAnyDeletion(t *testing.T) {
	for n := 0; ; n++ {
		a, _ := aged(t, "0.14.1/compacted", 48*time.Hour)
		want := contents(t, a.Store)
		real := a.Store
		stops := &stopsDeleting{AdminStore: real}
		stops.left.Store(int64(n))
		a.Store = stops
		_, err := a.Collect(t.Context(), slatedb.CollectOptions{})
		a.Store = real
		equalRows(t, fmt.Sprintf("after %d deletions", n), contents(t, real), want)
		ids, err2 := slatedb.ManifestIDs(t.Context(), real, "db")
		mark, err3 := slatedb.Boundary(t.Context(), real, "db")
		if err2 != nil || err3 != nil || mark >= ids[len(ids)-1] || ids[0] > 1 && mark < ids[0]-1 {
			t.Fatalf("after %d deletions: the mark is %d, manifests %v (%v %v)", n, mark, ids, err2, err3)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		n += n / 3
	}
}

type stopsDeleting struct {
	slatedb.AdminStore
	left atomic.Int64
}

func (s *stopsDeleting) Delete(ctx context.Context, key string) error {
	if strings.Contains(key, "/gc/") {
		return s.AdminStore.Delete(ctx, key)
	}
	if s.left.Add(-1) < 0 {
		return errDown
	}
	return s.AdminStore.Delete(ctx, key)
}

// A compactor leaves a checkpoint at every compaction, and where nobody collects
// there are thousands: a pass must not read as many manifests.
func TestAPassOverManyLapsedCheckpointsIsCheap(t *testing.T) {
	a, dir := aged(t, "0.17.0/compacted", 48*time.Hour)
	const many = 300
	rewrite(t, a, func(m *manifest.Manifest) {
		for range many {
			m.Checkpoints = append(m.Checkpoints, manifest.Checkpoint{
				ID: uuid.New(), ManifestID: 2, Create: time.Now().Add(-48 * time.Hour).Truncate(time.Second), Expire: time.Now().Add(-47 * time.Hour).Truncate(time.Second),
			})
		}
	})
	at := time.Now().Add(-40 * time.Hour)
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Chtimes(path, at, at)) }); err != nil {
		t.Fatal(err)
	}
	b := a.Store.(*store.Bucket)
	start := b.Requests()
	gone, err := a.Collect(t.Context(), slatedb.CollectOptions{})
	if err != nil || classes(gone.Garbage)[slatedb.ClassManifest] == 0 {
		t.Fatalf("%v %v", gone.Garbage, err)
	}
	if cost := b.Requests().Since(start); cost.Get > 60 {
		t.Errorf("%d checkpoints cost %+v", many, cost)
	}
}
