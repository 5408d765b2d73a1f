package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// fleet is a hub without a loop: the test is the one writer.
type fleet struct {
	mu       sync.Mutex
	b        *view.Builder
	v        *view.View
	now      time.Time
	news     chan struct{}
	accepted []string
	forgot   []string
	ruler    *state.State   // what people decided, by the real rules
	trail    []state.Record // its audit
	idle     error          // why it decides nothing
	ruled    bool           // what the ruler knows is all that there is
}

func newFleet() *fleet {
	f := &fleet{b: view.NewBuilder(100, 50, 40), now: noon, news: make(chan struct{})}
	set, err := regions.Parse([]string{"asia", "eu", "us"})
	if err != nil {
		panic(err)
	}
	f.ruler = state.New(state.Config{}, state.Saved{Regions: set}, noon)
	f.change(func(b *view.Builder) {
		for _, r := range []struct {
			name  string
			state catalog.RegionState
			age   time.Duration
		}{{"asia", catalog.RegionStale, time.Hour}, {"eu", catalog.RegionConnected, 2 * time.Second}, {"us", catalog.RegionReset, 5 * time.Second}} {
			at := noon.Add(-r.age)
			b.SetRegion(&catalog.Region{Name: r.name, State: r.state, Membership: catalog.Active, AsOf: &at, HeardAt: &at, Clusters: []string{r.name + "-1"}, Placements: 2}, false)
			b.SetCluster(&catalog.Cluster{Name: r.name + "-1", Region: r.name, State: "reporting"}, false)
		}
		for i, root := range []string{"dbs/orders", "dbs/users"} {
			for _, region := range []string{"eu", "us"} {
				b.SetPlacement(placement(region, root, uint64(i+1)<<30), false)
			}
			b.SetSlate(&catalog.Slate{Name: root, Kind: catalog.KindLog, State: catalog.StateLive, Regions: []string{"eu", "us"}, Placements: 2}, false)
			b.SetOwner(&catalog.OwnerRow{Slate: root, Region: "eu", Root: root, Owner: "payments", Declared: true})
		}
		lost := placement("us", "dbs/lost", 7)
		lost.State, lost.Seen = catalog.StateMissing, catalog.SeenMissing
		b.SetPlacement(lost, false)
		for i := range uint64(5) {
			b.SetRestorePoint(&catalog.RestorePoint{Slate: "archive/0", Region: "eu", Root: "archive/0", ID: fmt.Sprintf("s%d", i), Position: ptr(i * 10),
				Source: catalog.SourceSnapshot, State: catalog.RestoreVerified, CreatedAt: ptr(noon.Add(-time.Duration(i) * time.Hour)), Bytes: ptr(uint64(100))})
		}
		b.SetFinding(&catalog.Finding{Code: "wal-hole", Slate: "dbs/orders", Region: "eu", Root: "dbs/orders", What: "a hole", ObservedAt: noon})
		for i := range uint64(10) {
			b.AddEvent(&catalog.Event{Seq: i + 1, Time: noon, Type: catalog.EventSlateAppeared, Region: "eu", What: "it appeared"})
		}
	})
	return f
}

func placement(region, root string, bytes uint64) *catalog.Placement {
	p := &catalog.Placement{Region: region, State: catalog.StateLive, StateSince: noon.Add(-time.Hour), ObservedAt: noon.Add(-time.Minute), FirstSeen: noon.Add(-24 * time.Hour),
		Labels: map[string]string{"team": "payments"}, Owner: "payments", Registered: true}
	p.Slate, p.Root, p.Kind, p.KindFrom, p.Seen = root, root, catalog.KindLog, "first-key", catalog.SeenLive
	p.Bytes, p.ManifestID, p.WriterEpoch, p.PositionDomain = &bytes, ptr(uint64(42)), ptr(uint64(3)), "seq"
	p.Readers = []catalog.Reader{{ID: "c1", Name: "audit", ManifestID: 41, From: "checkpoint"}}
	p.Checkpoints = []catalog.Checkpoint{{ID: "c1", Name: "audit", ManifestID: 41}}
	return p
}

func (f *fleet) change(do func(*view.Builder)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(f.b)
	f.v = f.b.Publish(f.now)
	close(f.news)
	f.news = make(chan struct{})
}

func (f *fleet) View() *view.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.v
}

func (f *fleet) Wait(ctx context.Context, seq uint64) error {
	for {
		f.mu.Lock()
		v, news := f.v, f.news
		f.mu.Unlock()
		if v != nil && v.Seq() > seq {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fleet) AcceptRegion(_ context.Context, name, by string) error {
	if name == "asia" {
		return fmt.Errorf("region asia is stale, there is nothing to accept: %w", state.ErrNothingToAccept)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted = append(f.accepted, name+" by "+by)
	return nil
}

func (f *fleet) Forget(_ context.Context, region, slate, by string) error {
	if slate == "dbs/vanished" {
		return fs.ErrNotExist
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgot = append(f.forgot, region+" "+slate+" by "+by)
	return nil
}

func (f *fleet) Do(_ context.Context, c state.Command) error { return f.step(c) }

// step has the ruler take an event, and the view show what came of it.
func (f *fleet) step(e state.Event) error {
	f.mu.Lock()
	r := f.ruler.Step(e, f.now)
	v := f.ruler.View()
	f.mu.Unlock()
	if r.Err != nil {
		return r.Err
	}
	f.record(r.Records)
	if f.ruled {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.v = v
		close(f.news)
		f.news = make(chan struct{})
		return nil
	}
	f.change(func(b *view.Builder) {
		b.SetRules(v.Rules(), slices.Collect(v.Policies()), slices.Collect(v.Holds()), slices.Collect(v.Freezes()))
		for row := range v.Decisions() {
			if b.Decision(row.ID) != row {
				b.SetDecision(row)
			}
		}
		b.SetBreaker(v.Breaker())
		for row := range v.Regions() {
			if old := b.Region(row.Name); old == nil || old.Membership != row.Membership {
				b.SetRegion(row, false)
			}
		}
	})
	return nil
}

func (f *fleet) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// serve gives the API over the fleet and a server of it.
func serve(t *testing.T, f *fleet, o Options) (*API, *httptest.Server) {
	t.Helper()
	o.Now, o.Ledger = f.clock, f
	o.Settle = or(o.Settle, time.Millisecond)
	a, err := New(f, o)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(a)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return a, s
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

func (a answer) problem(t *testing.T, status int, code string) Problem {
	t.Helper()
	var p Problem
	a.json(t, &p)
	if a.status != status || p.Status != status || p.Code != code || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %s, want problem %d %s", a.status, a.body, status, code)
	}
	return p
}

func ask(t *testing.T, s *httptest.Server, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

func get(t *testing.T, s *httptest.Server, path string) answer { return ask(t, s, "GET", path, "") }

// event is one server-sent event; a comment has the name ":".
type event struct{ name, id, data string }

func (e event) key(t *testing.T) string {
	t.Helper()
	var d struct{ Key string }
	if err := json.Unmarshal([]byte(e.data), &d); err != nil {
		t.Fatalf("%v in %+v", err, e)
	}
	return strings.ReplaceAll(d.Key, "\x00", "|")
}

// follow opens a stream and gives its events one by one.
func follow(t *testing.T, s *httptest.Server, path string, header ...string) (next func() event, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		b, _ := io.ReadAll(res.Body)
		t.Fatalf("%s: %s %s", path, res.Status, b)
	}
	t.Cleanup(func() { cancel(); res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	return func() event {
		t.Helper()
		var e event
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "event":
				e.name = value
			case "id":
				e.id = value
			case "data":
				e.data = value
			case "":
				if value != "" {
					e.name = ":"
				} else if e != (event{}) {
					return e
				}
			}
		}
		t.Fatalf("the stream %s ended: %v", path, lines.Err())
		return e
	}, cancel
}
