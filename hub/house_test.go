package hub_test

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
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/hub"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// memory is a store in a map that can be told to refuse writes.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	broken  bool
	hangs   bool // writes do not come back before their context ends
	mute    bool // what is written stays, and the answer is an error all the same
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.objects[key]; ok {
		return bytes.Clone(b), nil
	}
	return nil, fmt.Errorf("get %s: %w", key, fs.ErrNotExist)
}

func (m *memory) Walk(_ context.Context, prefix, after string, each func(string, int64, time.Time) error) error {
	m.mu.Lock()
	keys := slices.Sorted(maps.Keys(m.objects))
	m.mu.Unlock()
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) && k > after {
			if err := each(k, 0, time.Time{}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) PutNew(ctx context.Context, key string, data []byte) error {
	m.mu.Lock()
	if m.hangs {
		m.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("503 from the store")
	}
	if _, ok := m.objects[key]; ok {
		return fmt.Errorf("put %s: %w", key, fs.ErrExist)
	}
	m.objects[key] = bytes.Clone(data)
	if m.mute {
		return errors.New("no answer from the store")
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
	if b, ok := m.objects[key]; ok {
		return int64(len(b)), time.Time{}, nil
	}
	return 0, time.Time{}, fmt.Errorf("stat %s: %w", key, fs.ErrNotExist)
}

func (m *memory) Put(_ context.Context, key string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("503 from the store")
	}
	m.objects[key] = bytes.Clone(data)
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; !ok {
		return fmt.Errorf("delete %s: %w", key, fs.ErrNotExist) // as a folder says
	}
	delete(m.objects, key)
	return nil
}

func (m *memory) breakDown(b bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = b
}

func (m *memory) count(prefix string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.objects {
		if strings.HasPrefix(k, prefix) {
			n++
		}
	}
	return n
}

// house is a hub that runs, and what it posted.
type house struct {
	*hub.Hub
	mu     sync.Mutex
	posted []string
	ended  chan error
	stop   context.CancelFunc
}

func (h *house) said() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.posted)
}

func start(t *testing.T, m *memory, holder string) *house {
	t.Helper()
	return startWith(t, m, holder, state.Config{})
}

func startWith(t *testing.T, m *memory, holder string, cfg state.Config) *house {
	t.Helper()
	w := &house{ended: make(chan error, 1)}
	h, err := hub.New(t.Context(), hub.Config{
		Regions: []string{"eu", "us"}, Store: m, Holder: holder, ID: holder, Log: slog.New(slog.DiscardHandler), State: cfg,
		Post: func(to state.SessionID, msg state.Message) {
			w.mu.Lock()
			defer w.mu.Unlock()
			// What an agent is told is durable (P8).
			if x, ok := msg.(state.Welcome); ok && x.BucketID != "" && m.count("regions/") < 2 {
				t.Errorf("session %d was told of a bucket that is not recorded", to)
			}
			w.posted = append(w.posted, fmt.Sprintf("%d %T", to, msg))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.Hub, w.stop = h, cancel
	go func() { w.ended <- h.Run(ctx) }()
	return w
}

func (h *house) deliver(t *testing.T, events ...state.Event) {
	t.Helper()
	for _, e := range events {
		if err := h.Deliver(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

func fact(root string, n uint64) catalog.Fact {
	return catalog.Fact{Kind: catalog.FactPlacement, Key: root, Revision: catalog.Revision{Start: 1, Counter: n},
		Sighting: &catalog.Sighting{Slate: root, Root: root, Seen: catalog.SeenLive, ManifestID: &n, WriterEpoch: &n}}
}

func rev(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }

var arrival = []state.Event{
	state.Hello{Session: 1, Region: "eu", Cluster: "a", Agent: "x", Start: 1, Generation: 1, BucketID: "B"},
	state.Beat{Session: 1, BucketID: "B", ReadOK: true},
	state.Snapshot{Session: 1, Facts: []catalog.Fact{fact("orders", 1)}, Upto: rev(1)},
}
