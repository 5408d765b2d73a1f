package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// memory is a store in a map that fails or tears its n-th write.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	times   map[string]time.Time // nil: objects have none
	writes  int
	failAt  int  // this write fails; 0: none
	tear    bool // and leaves half of the object
	lose    bool // and leaves all of it: only the answer is lost
	dead    bool // after the failed write nothing works: the process was killed
	killed  bool
}

var errStore = errors.New("the store says no")

func newMemory() *memory { return &memory{objects: map[string][]byte{}} }

func (m *memory) write() error {
	m.writes++
	if m.killed {
		return errStore
	}
	if m.writes == m.failAt {
		m.killed = m.dead
		return errStore
	}
	return nil
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.killed {
		return nil, errStore
	}
	b, ok := m.objects[key]
	if !ok {
		return nil, fmt.Errorf("get %s: %w", key, fs.ErrNotExist)
	}
	return bytes.Clone(b), nil
}

func (m *memory) Walk(_ context.Context, prefix, after string, each func(string, int64, time.Time) error) error {
	m.mu.Lock()
	keys := slices.Sorted(maps.Keys(m.objects))
	killed := m.killed
	m.mu.Unlock()
	if killed {
		return errStore
	}
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) && k > after {
			m.mu.Lock()
			n, at := len(m.objects[k]), m.times[k]
			m.mu.Unlock()
			if err := each(k, int64(n), at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) PutNew(_ context.Context, key string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok {
		return fmt.Errorf("put %s: %w", key, fs.ErrExist)
	}
	was := m.killed
	if err := m.write(); err != nil {
		switch {
		case was:
		case m.tear:
			m.objects[key] = bytes.Clone(data[:len(data)/2])
		case m.lose:
			m.objects[key] = bytes.Clone(data)
		}
		return err
	}
	m.objects[key] = bytes.Clone(data)
	if m.times != nil {
		m.times[key] = time.Now()
	}
	return nil
}

func (m *memory) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := m.Get(ctx, key)
	off = min(off, int64(len(b)))
	return b[off:min(off+n, int64(len(b)))], err
}

func (m *memory) Stat(_ context.Context, key string) (int64, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.killed {
		return 0, time.Time{}, errStore
	}
	if b, ok := m.objects[key]; ok {
		return int64(len(b)), m.times[key], nil
	}
	return 0, time.Time{}, fmt.Errorf("stat %s: %w", key, fs.ErrNotExist)
}

func (m *memory) Put(_ context.Context, key string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.write(); err != nil {
		return err
	}
	m.objects[key] = bytes.Clone(data)
	if m.times != nil {
		m.times[key] = time.Now()
	}
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.write(); err != nil {
		return err
	}
	delete(m.objects, key)
	return nil
}

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func open(m *memory, holder string, names ...string) (*ledger.Ledger, state.Saved, error) {
	return ledger.Open(context.Background(), m, ledger.Config{Regions: names, Holder: holder, ID: holder, Now: now, MaxEvents: 6, Log: slog.New(slog.DiscardHandler)})
}

func TestRegionsBeginAnEmptyStoreAndRuleAfterwards(t *testing.T) {
	m := newMemory()
	if _, _, err := open(m, "h0"); !errors.Is(err, ledger.ErrRegions) || !strings.Contains(err.Error(), "--regions") {
		t.Errorf("an empty store without --regions: %v", err)
	}
	if len(m.objects) != 0 {
		t.Errorf("a refused start wrote %v", slices.Collect(maps.Keys(m.objects)))
	}
	if _, s, err := open(m, "h1", "us", "eu"); err != nil || strings.Join(s.Regions.Names(), ",") != "eu,us" {
		t.Fatalf("%v, %v", s.Regions, err)
	}
	if _, s, err := open(m, "h2"); err != nil || len(s.Regions.Regions) != 2 {
		t.Errorf("without the flag the stored set rules: %v, %v", s.Regions, err)
	}
	if _, _, err := open(m, "h3", "eu", "us"); err != nil {
		t.Errorf("the same set in any order: %v", err)
	}
	_, _, err := open(m, "h4", "eu", "uss")
	if !errors.Is(err, ledger.ErrRegions) || !strings.Contains(err.Error(), "eu,uss") || !strings.Contains(err.Error(), "eu,us;") {
		t.Errorf("a typo drops no region, and both sets are named: %v", err)
	}
	if _, _, err := open(m, "h5", "e/u"); !errors.Is(err, regions.ErrInvalid) {
		t.Errorf("a bad name: %v", err)
	}
	for k := range m.objects {
		if strings.HasPrefix(k, "regions/") {
			m.objects[k] = m.objects[k][:10]
		}
	}
	if _, _, err := open(m, "h6", "eu", "us"); !errors.Is(err, ledger.ErrRegions) || !strings.Contains(err.Error(), "regions/00000000000000000001.json") {
		t.Errorf("a region set that cannot be read refuses to start and names the object: %v", err)
	}
}

func TestOfTwoHubsOnOneStoreOneEnds(t *testing.T) {
	m := newMemory()
	old, _, err := open(m, "old", "eu")
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Check(t.Context()); err != nil {
		t.Fatalf("alone: %v", err)
	}
	young, _, err := open(m, "young")
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Check(t.Context()); !errors.Is(err, ledger.ErrTaken) || !strings.Contains(err.Error(), "young") {
		t.Errorf("the older hub learns who has the store: %v", err)
	}
	event := func(seq uint64, what string) state.EventsRecord {
		return state.EventsRecord{Events: []catalog.Event{{Seq: seq, Type: "finding", What: what}}}
	}
	if err := young.Append(t.Context(), event(1, "young")); err != nil {
		t.Fatal(err)
	}
	if err := old.Append(t.Context(), event(1, "old")); !errors.Is(err, ledger.ErrTaken) {
		t.Errorf("the older hub's write collides: %v", err)
	}
	// And when the older one was quicker, the younger one ends rather than
	// guess: what it would write goes under a number it does not own.
	third, _, err := open(m, "third")
	if err != nil {
		t.Fatal(err)
	}
	if err := young.Append(t.Context(), event(2, "young")); err != nil {
		t.Fatal("nothing was in its way", err)
	}
	if err := third.Append(t.Context(), event(2, "third")); !errors.Is(err, ledger.ErrTaken) {
		t.Errorf("third: %v", err)
	}
	_, s, err := open(m, "fourth")
	if err != nil || len(s.Events) != 2 || s.Events[1].What != "young" {
		t.Errorf("what was written stands: %+v, %v", s.Events, err)
	}
}

func TestEventsAreBoundedByDeletingTheOldest(t *testing.T) {
	m := newMemory()
	l, _, err := open(m, "h", "eu")
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 20; seq += 2 {
		if err := l.Append(t.Context(), state.EventsRecord{Events: []catalog.Event{{Seq: seq}, {Seq: seq + 1}}}); err != nil {
			t.Fatal(err)
		}
	}
	_, s, err := open(m, "h2")
	if err != nil || len(s.Events) != 6 || s.Events[0].Seq != 15 || s.Events[5].Seq != 20 {
		t.Errorf("kept %+v, %v; want 15 to 20", s.Events, err)
	}
}

// life is a hub's life on a store: it appends what its state records, saves
// its view twice, and stops at the first error as a killed process does.
func life(ctx context.Context, m *memory, holder string) (acked []catalog.Event, set regions.Set, err error) {
	l, saved, err := open(m, holder, "eu")
	if err != nil {
		return nil, set, err
	}
	set = saved.Regions
	s := state.New(state.Config{}, saved, now)
	step := func(e state.Event) error {
		for _, rec := range s.Step(e, now).Objects {
			if err := l.Append(ctx, rec); err != nil {
				return err
			}
			switch rec := rec.(type) {
			case state.EventsRecord:
				acked = append(acked, rec.Events...)
			case state.RegionsRecord:
				set = rec.Set
			}
		}
		return nil
	}
	fact := func(root string, n, epoch uint64) catalog.Fact {
		return catalog.Fact{Kind: catalog.FactPlacement, Key: root, Revision: catalog.Revision{Start: 1, Counter: n},
			Sighting: &catalog.Sighting{Slate: root, Root: root, Seen: catalog.SeenLive, ManifestID: &n, WriterEpoch: &epoch, Incarnation: "I"}}
	}
	rev := func(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }
	for i, e := range []state.Event{
		state.Hello{Session: 1, Region: "eu", Cluster: "a", Agent: "x", Start: 1, Generation: 1, BucketID: "B"},
		state.Beat{Session: 1, BucketID: "B", ReadOK: true},
		state.Snapshot{Session: 1, Facts: []catalog.Fact{fact("orders", 1, 1)}, Upto: rev(1)},
		state.Delta{Session: 1, Facts: []catalog.Fact{fact("orders", 2, 2)}, Upto: rev(2)},
		state.Delta{Session: 1, Facts: []catalog.Fact{fact("users", 3, 1)}, Upto: rev(3)},
		state.Delta{Session: 1, Facts: []catalog.Fact{fact("orders", 4, 3)}, Upto: rev(4)},
	} {
		if err := step(e); err != nil {
			return acked, set, err
		}
		if i >= 2 {
			if err := l.SaveView(ctx, s.View()); err != nil {
				return acked, set, err
			}
		}
	}
	return acked, set, nil
}

// Kill the hub at every write it makes, in three ways: the write did nothing,
// left half an object, or was done and only the answer was lost. Then start
// again: whatever was recorded is there, once and in order, no row is lost
// and nothing is told twice.
func TestKilledAtEveryWrite(t *testing.T) {
	whole := newMemory()
	if _, _, err := life(t.Context(), whole, "h"); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"nothing", "torn", "unanswered"} {
		for n := 1; n <= whole.writes; n++ {
			t.Run(fmt.Sprintf("%s/%d", how, n), func(t *testing.T) {
				m := newMemory()
				m.failAt, m.dead, m.tear, m.lose = n, true, how == "torn", how == "unanswered"
				acked, set, err := life(t.Context(), m, "killed")
				if err == nil && m.killed && n < whole.writes-2 {
					t.Fatal("it was killed and did not notice")
				}
				m.failAt, m.killed = 0, false

				_, saved, err := open(m, "next", "eu")
				if how == "torn" && errors.Is(err, ledger.ErrRegions) {
					// Only a store that breaks its contract tears a write. Then
					// a person is asked, and the cure that is named works.
					for k, b := range m.objects {
						if strings.HasPrefix(k, "regions/") && !bytes.HasSuffix(b, []byte("}\n")) {
							if !strings.Contains(err.Error(), k) {
								t.Fatalf("%v does not name %s", err, k)
							}
							delete(m.objects, k)
						}
					}
					_, saved, err = open(m, "next", "eu")
				}
				if err != nil {
					t.Fatalf("start again: %v", err)
				}
				if saved.Regions.Number < set.Number {
					t.Errorf("region set %d, recorded was %d", saved.Regions.Number, set.Number)
				}
				if len(saved.Events) < len(acked) {
					t.Errorf("%d events, recorded were %d", len(saved.Events), len(acked))
				}
				s := state.New(state.Config{}, saved, now)
				for _, e := range acked {
					if e.Type == catalog.EventSlateAppeared && s.View().Placement("eu", e.Root) == nil {
						t.Errorf("the row of %s is lost", e.Root)
					}
				}
				// The same life once more: it ends where an undisturbed one
				// does, and the log tells each change once.
				if _, _, err := life(t.Context(), m, "again"); err != nil {
					t.Fatalf("live again: %v", err)
				}
				_, saved, err = open(m, "last", "eu")
				if err != nil {
					t.Fatal(err)
				}
				v := state.New(state.Config{}, saved, now).View()
				if p := v.Placement("eu", "orders"); p == nil || *p.WriterEpoch != 3 {
					t.Errorf("orders is %+v", p)
				}
				if v.Placement("eu", "users") == nil {
					t.Error("users is lost")
				}
				appeared := map[string]int{}
				for i, e := range saved.Events {
					if i > 0 && e.Seq <= saved.Events[i-1].Seq {
						t.Errorf("event %d follows %d", e.Seq, saved.Events[i-1].Seq)
					}
					if e.Type == catalog.EventSlateAppeared {
						appeared[e.Root]++
					}
				}
				for root, times := range appeared {
					if times > 1 {
						t.Errorf("%s appeared %d times", root, times)
					}
				}
			})
		}
	}
}

func TestADamagedSavedViewFallsBackToTheOneBefore(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"torn":    func(b []byte) []byte { return b[:len(b)-7] },
		"empty":   func([]byte) []byte { return nil },
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"other":   func([]byte) []byte { return []byte("{}\n{}\n") },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			if _, _, err := life(t.Context(), m, "h"); err != nil {
				t.Fatal(err)
			}
			var views []string
			for k := range m.objects {
				if strings.HasPrefix(k, "view/") {
					views = append(views, k)
				}
			}
			slices.Sort(views)
			if len(views) != 2 {
				t.Fatalf("saved views %v, want the newest and the one before", views)
			}
			m.objects[views[1]] = damage(m.objects[views[1]])
			_, saved, err := open(m, "next")
			if err != nil || saved.View == nil {
				t.Fatalf("%v, %v", saved.View, err)
			}
			// The one before did not know of the last change; the event log did.
			if e := *saved.View.Tables.Placement("eu", "orders").WriterEpoch; e != 2 {
				t.Errorf("epoch %d in the saved view, want 2 of the one before", e)
			}
			p := state.New(state.Config{}, saved, now).View().Placement("eu", "orders")
			if *p.WriterEpoch != 3 {
				t.Errorf("epoch %d in the state, want 3 from the log", *p.WriterEpoch)
			}
			m.objects[views[0]] = nil
			if _, saved, err = open(m, "bare"); err != nil || saved.View != nil {
				t.Errorf("with no whole view the log and the region set are enough: %v", err)
			}
		})
	}
}
