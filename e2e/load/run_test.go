package load_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quarry-db/quarry/e2e/load"
	"github.com/quarry-db/quarry/e2e/load/house"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startHub serves a hub until the test ends.
func startHub(t testing.TB, o house.Options) house.Up {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	up, done := make(chan house.Up, 1), make(chan error, 1)
	o.Store = "file://" + t.TempDir()
	go func() { done <- house.Run(ctx, o, func(u house.Up) { up <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("hub: %v", err)
		}
	})
	select {
	case u := <-up:
		return u
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	return house.Up{}
}

// started gives each run of this process a later start than the one before.
var started = func() func() uint64 {
	var mu sync.Mutex
	last := uint64(0)
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		last = max(last+1000, uint64(time.Now().UnixMilli()))
		return last
	}
}()

// startAgents lets a fleet's agents run until the test ends.
func startAgents(t testing.TB, f *load.Fleet, l load.Link) *load.Agents {
	t.Helper()
	l.Start = started()
	a, err := load.NewAgents(f, l)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agents: %v", err)
		}
	})
	return a
}

func await(t testing.TB, a *load.Agents) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := a.Await(ctx); err != nil {
		t.Fatalf("%d facts behind: %v", a.Behind(), err)
	}
}

// After thousands of changes, over a link that broke many times, the hub shows
// exactly what the fleet is: every field that a row of it has.
func TestTheHubShowsWhatTheFleetIs(t *testing.T) {
	up := startHub(t, house.Options{Regions: []string{"eu", "us"}, Beat: 200 * time.Millisecond})
	f, err := load.New(load.Options{Regions: []string{"eu", "us"}, Slates: 800, Seed: 5, Epoch: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	a := startAgents(t, f, load.Link{Hub: up.Agents, PerOne: 2, Seed: 5, Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			conns[c] = true
		}
		return c, err
	}})
	await(t, a)
	for n := range 20_000 {
		a.Set(f.Next())
		if n%5000 == 4000 {
			mu.Lock()
			for c := range conns {
				c.Close()
			}
			clear(conns)
			mu.Unlock()
		}
	}
	await(t, a)
	if q, _, disagree := a.Trouble(); q > 0 || disagree > 0 {
		t.Errorf("%d quarantined, %d agents number otherwise", q, disagree)
	}
	if a.Traffic().Dials <= 4 {
		t.Error("no link ever broke: the test proves less than it says")
	}
	if a.Acked() != 20_000 {
		t.Errorf("%d of 20000 acknowledged", a.Acked())
	}

	want := map[string]load.Row{}
	for row := range f.Rows() {
		want[row.Key()] = row
	}
	compare := func() error {
		n := 0
		for p := range up.View().Placements() {
			n++
			readers := 0
			for _, r := range p.Readers {
				if !r.Lapsed {
					readers++
				}
			}
			got := load.Row{
				Region: p.Region, Slate: p.Slate, Kind: p.Kind, State: p.State, Owner: p.Owner, Labels: p.Labels,
				Incarnation: p.Incarnation, Lineage: p.Lineage, Domain: p.PositionDomain, Position: *p.Position, Bytes: *p.Bytes,
				ManifestID: p.ManifestID, WriterEpoch: p.WriterEpoch, WALTail: p.WALTail, Readers: readers,
			}
			if !reflect.DeepEqual(got, want[got.Key()]) {
				return fmt.Errorf("the hub shows\n%+v, the fleet is\n%+v", got, want[got.Key()])
			}
		}
		if n != len(want) {
			return fmt.Errorf("%d rows, want %d", n, len(want))
		}
		return nil
	}
	// A link that broke leaves its region suspect for a beat, not its rows wrong.
	var last error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if last = compare(); last == nil {
			return
		}
	}
	t.Error(last)
}

func TestARunSaysWhatItDid(t *testing.T) {
	up := startHub(t, house.Options{Regions: []string{"eu", "us"}})
	plan := func() load.Plan {
		return load.Plan{
			Fleet: load.Options{Regions: []string{"eu", "us"}, Slates: 300, Seed: 2, Epoch: uint64(time.Now().Unix())},
			Link:  load.Link{Hub: up.Agents, Start: started()}, Rate: 2000, Duration: time.Second,
		}
	}
	s, err := load.Run(t.Context(), plan())
	if err != nil {
		t.Fatal(err)
	}
	if s.Ended != "duration" || s.FactsSent < 100 || s.FactsAcked != s.FactsSent || s.Ack.Samples == 0 || s.Ack.P99 < s.Ack.P50 ||
		s.Load.Facts < 600 || s.Bytes.Sent < s.Load.Bytes || s.Load.Bytes == 0 || s.Reconnects != 0 || s.Changes["moved"] < s.FactsSent*8/10 {
		t.Errorf("%+v", s)
	}

	// Ended from outside, it says so and is no error; and a second run of the
	// same regions is the same databases, further on.
	p := plan()
	p.Duration = 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.Progress = func(at load.Progress) {
		if at.Phase == "change" && at.Sent > 0 {
			cancel()
		}
	}
	if s, err = load.Run(ctx, p); err != nil || s.Ended != "interrupted" || s.FactsSent == 0 {
		t.Errorf("%v: %+v", err, s)
	}
	for p := range up.View().Placements() {
		if p.Predecessor == "" && p.State == catalog.StateMissing && p.StateReason == "" {
			t.Errorf("%s is missing without a reason", p.Slate)
		}
	}

	p = plan()
	p.Fleet.Regions = []string{"nowhere"}
	if s, err = load.Run(t.Context(), p); !errors.Is(err, load.ErrRefused) || s.Ended != "not-loaded" {
		t.Errorf("a region the hub does not know: %v: %+v", err, s)
	}
	p = plan()
	p.Link.Hub, p.LoadWithin = "127.0.0.1:1", 300*time.Millisecond
	if s, err = load.Run(t.Context(), p); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no hub there: %v: %+v", err, s)
	}
	p.Link.Hub = "10.1.2.3:7701"
	if _, err = load.Run(t.Context(), p); err == nil {
		t.Error("load was sent away from this machine")
	}
}

// BenchmarkUpdate is one change on its whole way: encoded and sent by an agent
// over TLS, received, applied, indexed, visible and acknowledged. Both ends are
// in this process; cpu-us/op is what both and the garbage collector spend on
// all cores. Changes are made beforehand.
func BenchmarkUpdate(b *testing.B) {
	for _, size := range []int{10_000, 100_000} {
		for _, mix := range []struct {
			name string
			next func(*load.Fleet) load.Change
		}{{"mix", (*load.Fleet).Next}, {"position", (*load.Fleet).NextMoved}, {"manifest", (*load.Fleet).NextTaken}} {
			b.Run(fmt.Sprintf("%s/%d", mix.name, size), func(b *testing.B) {
				cert, key, err := house.Certificate()
				if err != nil {
					b.Fatal(err)
				}
				var server, client *tls.Config
				if server, err = house.Server(cert, key); err != nil {
					b.Fatal(err)
				}
				if client, err = house.Client(cert); err != nil {
					b.Fatal(err)
				}
				regions := []string{"r1", "r2", "r3", "r4"}
				up := startHub(b, house.Options{Regions: regions, TLS: server})
				f, err := load.New(load.Options{Regions: regions, Slates: size / len(regions), Seed: 1, Epoch: 1000})
				if err != nil {
					b.Fatal(err)
				}
				a := startAgents(b, f, load.Link{Hub: up.Agents, TLS: client, Seed: 1})
				await(b, a)
				changes := make([]load.Change, 0, 20_000)
				var spent time.Duration
				before := a.Traffic().Sent
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					if n%cap(changes) == 0 {
						b.StopTimer()
						await(b, a)
						changes = changes[:0]
						for range cap(changes) {
							changes = append(changes, mix.next(f))
						}
						spent -= cpu()
						b.StartTimer()
					}
					a.Set(changes[n%cap(changes)])
					if n%cap(changes) == cap(changes)-1 {
						await(b, a)
						spent += cpu()
					}
				}
				await(b, a)
				if b.N%cap(changes) != 0 {
					spent += cpu()
				}
				b.ReportMetric(float64(spent.Nanoseconds())/1000/float64(b.N), "cpu-us/op")
				b.ReportMetric(float64(a.Traffic().Sent-before)/float64(b.N), "wire-B/op")
			})
		}
	}
}

// cpu is what this process has spent so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
