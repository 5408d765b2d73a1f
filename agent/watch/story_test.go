package watch

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// fixtures holds databases, buffers and repositories that the real systems
// wrote.
const fixtures = "../../e2e/fixtures/data"

// hub is a Reporter that remembers everything it was told.
type hub struct {
	mu      sync.Mutex
	sights  map[string]catalog.Sighting
	history []catalog.Sighting
	points  map[string]catalog.RestorePoint

	everPoints []catalog.RestorePoint
	finds      map[string]catalog.Finding
	regs       map[string]catalog.Registration
	leases     map[string]catalog.Lease
	permits    map[string]*catalog.Permit
	pins       map[string]catalog.Pin
	gone       map[string]string // withdrawn, and why
	health     Health
	ready      bool
	wanted     chan struct{}      // nil: from the beginning
	hears      func(catalog.Fact) // nil, or called with what is set before it is known

	bucket  string
	known   bool
	changed chan struct{}
}

func newHub() *hub {
	return &hub{
		sights: map[string]catalog.Sighting{}, points: map[string]catalog.RestorePoint{}, finds: map[string]catalog.Finding{},
		regs: map[string]catalog.Registration{}, leases: map[string]catalog.Lease{}, permits: map[string]*catalog.Permit{}, pins: map[string]catalog.Pin{}, gone: map[string]string{},
		known: true, changed: make(chan struct{}),
	}
}

func (h *hub) Set(f catalog.Fact) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hears != nil {
		h.hears(f)
	}
	switch f.Kind {
	case catalog.FactPlacement:
		if was, ok := h.sights[f.Key]; ok && reflect.DeepEqual(was, *f.Sighting) {
			return // as the report does
		}
		h.sights[f.Key] = *f.Sighting
		h.history = append(h.history, *f.Sighting)
	case catalog.FactRestorePoint:
		h.points[f.Key] = *f.RestorePoint
		h.everPoints = append(h.everPoints, *f.RestorePoint)
	case catalog.FactFinding:
		h.finds[f.Key] = *f.Finding
	case catalog.FactRegistration:
		h.regs[f.Key] = *f.Registration
	case catalog.FactLease:
		h.leases[f.Key] = *f.Lease
	case catalog.FactPermit:
		h.permits[f.Key] = f.Permit
	case catalog.FactHold:
		h.pins[f.Key] = *f.Pin
	}
}

func (h *hub) Withdraw(kind catalog.FactKind, key, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone[key] = why
	switch kind {
	case catalog.FactPlacement:
		panic("a placement was withdrawn: P1")
	case catalog.FactRestorePoint:
		delete(h.points, key)
	case catalog.FactFinding:
		delete(h.finds, key)
	case catalog.FactRegistration:
		delete(h.regs, key)
	case catalog.FactLease:
		delete(h.leases, key)
	case catalog.FactPermit:
		delete(h.permits, key)
	case catalog.FactHold:
		delete(h.pins, key)
	}
}

func (h *hub) SetHealth(x Health) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.health = x
}

func (h *hub) Ready() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = true
}

func (h *hub) isReady() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

func (h *hub) Wanted(ctx context.Context) {
	if h.wanted != nil {
		select {
		case <-h.wanted:
		case <-ctx.Done():
		}
	}
}

func (h *hub) HubBucket() (string, bool, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bucket, h.known, h.changed
}

func (h *hub) says(bucket string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bucket, h.known = bucket, true
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *hub) roots() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.sights))
}

func (h *hub) sight(t testing.TB, root string) catalog.Sighting {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.sights[root]
	if !ok {
		t.Fatalf("%s was not seen; seen: %v", root, slices.Sorted(maps.Keys(h.sights)))
	}
	return s
}

func (h *hub) now() Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.health
}

// region is a folder as a region's bucket, on which watchers can be started.
type region struct {
	testing.TB
	dir string
	b   *bucket.Bucket // what watchers see; wrap it before start
	hub *hub
	o   Options
}

// story runs f with a clock that only moves when everybody waits.
func story(t *testing.T, f func(t *testing.T, r *region)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "bucket")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		b, err := bucket.Open(t.Context(), "file://"+dir)
		if err != nil {
			t.Fatal(err)
		}
		f(t, &region{TB: t, dir: dir, b: b, hub: newHub(), o: Options{
			Region: "eu", Discover: []string{""}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		}})
	})
}

// start runs a watcher until stop is called.
func (r *region) start() (stop func()) {
	r.Helper()
	_, stop = r.watcher()
	return stop
}

// watcher is start with the watcher.
func (r *region) watcher() (w *Watcher, stop func()) {
	r.Helper()
	w, err := New(r.b, r.hub, r.o)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.Errorf("the watcher ended: %v", err)
			}
		})
	}
	r.Cleanup(stop)
	return w, stop
}

// wait lets time pass.
func wait(d time.Duration) { time.Sleep(d); synctest.Wait() }

// put copies a fixture's folder to a root.
func (r *region) put(fixture, root string) {
	r.Helper()
	copyTree(r, filepath.Join(fixtures, fixture), filepath.Join(r.dir, root), nil)
}

// copyTree copies the files for which want holds, or all.
func copyTree(t testing.TB, from, to string, want func(rel string) bool) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(from, p)
		if want != nil && !want(rel) {
			return nil
		}
		n++
		return copyFile(p, filepath.Join(to, rel))
	})
	if err != nil || n == 0 && want == nil {
		t.Fatalf("copied %d files of %s: %v", n, from, err)
	}
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

func (r *region) remove(path string) {
	r.Helper()
	if err := os.RemoveAll(filepath.Join(r.dir, path)); err != nil {
		r.Fatal(err)
	}
}

func (r *region) write(key, text string) {
	r.Helper()
	p := filepath.Join(r.dir, key)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		r.Fatal(err)
	}
}

func deref[T any](p *T) any {
	if p == nil {
		return nil
	}
	return *p
}
