package execute

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/agent/watch"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/snapshots/snapshotstest"
)

// world is a region's bucket with an agent's real eyes on it.
type world struct {
	t      testing.TB
	b      *bucket.Bucket
	eyes   *watch.Watcher
	ledger string
	seq    uint64
}

// told is what the eyes report; nobody asks for it.
type told struct{ moved chan struct{} }

func (told) Set(catalog.Fact)                          {}
func (told) Withdraw(catalog.FactKind, string, string) {}
func (told) SetHealth(watch.Health)                    {}
func (told) Ready()                                    {}
func (told) Wanted(context.Context)                    {}
func (r told) HubBucket() (string, bool, <-chan struct{}) {
	return "", true, r.moved
}

var _ watch.Reporter = told{}

// newWorld watches b, which holds something already.
func newWorld(t testing.TB, b *bucket.Bucket) *world {
	t.Helper()
	w := &world{t: t, b: b, ledger: uuid.NewString()}
	eyes, err := watch.New(b, told{make(chan struct{})}, watch.Options{
		Region: "eu", Discover: []string{""}, Poll: 10 * time.Millisecond, Budget: 1e9, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.eyes = eyes
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := eyes.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func memory(t testing.TB) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(context.Background(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// archive writes a repository with whole snapshots at these positions.
func archive(t testing.TB, b *bucket.Bucket, prefix string, lsns ...uint64) {
	t.Helper()
	p := snapshotstest.Partition{Prefix: prefix}
	for _, lsn := range lsns {
		p.Snapshots = append(p.Snapshots, snapshotstest.Snapshot{LSN: lsn})
	}
	if err := p.Write(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

// sight waits until the eyes know a root.
func (w *world) sight(root string) catalog.Sighting {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		s, err := w.eyes.Prove(ctx, root)
		if err == nil && s.Seen == catalog.SeenLive && s.IncarnationKept {
			return s
		}
		if ctx.Err() != nil {
			w.t.Fatalf("%s is not seen: %+v, %v", root, s, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// decide makes a decision about a root as a hub would.
func (w *world) decide(verb catalog.Verb, root string, how ...func(*catalog.Decision)) catalog.Decision {
	w.t.Helper()
	w.seq++
	d := catalog.Decision{
		ID: uuid.NewString(), Verb: verb, Region: "eu", Ledger: w.ledger, Term: 1, Sequence: w.seq,
		Parameters: catalog.Parameters{Restorable: 1, ValidFor: time.Hour}, Evidence: [32]byte{1}, Expires: time.Minute,
	}
	if !verb.OfRegion() {
		s := w.sight(root)
		d.Slate, d.Root, d.Incarnation, d.Lineage, d.PositionDomain = s.Slate, s.Root, s.Incarnation, s.Lineage, s.PositionDomain
	}
	for _, f := range how {
		f(&d)
	}
	return d
}

// permitted writes the permit of an earlier decision, if there is none.
func (w *world) permitted(b *bucket.Bucket, root string, n uint64) {
	w.t.Helper()
	s := w.sight(root)
	raw, err := json.Marshal(catalog.Permit{
		Version: 1, Number: 1, Slate: s.Slate, Root: s.Root, Incarnation: s.Incarnation, UpTo: &n, PositionDomain: s.PositionDomain, Lineage: s.Lineage,
		Decision: uuid.NewString(), Ledger: w.ledger, Term: 1, Sequence: 1, Issued: time.Now().UTC(), NotAfter: time.Now().Add(time.Hour).UTC(),
	})
	if err == nil {
		err = b.PutNew(context.Background(), catalog.PermitKey(s.Slate, 1), raw)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		w.t.Fatal(err)
	}
}

func upTo(n uint64) func(*catalog.Decision) {
	return func(d *catalog.Decision) { d.Position = &n }
}

// desk is a hub's side of the link: orders in, outcomes out.
type desk struct {
	orders  chan report.Order
	settled chan []string

	mu       sync.Mutex
	outcomes map[string]catalog.Outcome
	term     uint64
	ledger   string
	came     chan struct{}
}

func newDesk() *desk {
	return &desk{orders: make(chan report.Order, 1000), settled: make(chan []string, 100), outcomes: map[string]catalog.Outcome{}, came: make(chan struct{}, 1)}
}

func (d *desk) NextOrder(ctx context.Context) (report.Order, error) {
	select {
	case o := <-d.orders:
		return o, nil
	case <-ctx.Done():
		return report.Order{}, ctx.Err()
	}
}

func (d *desk) Settle(o catalog.Outcome) error {
	if err := o.Validate(); err != nil {
		return err // what cannot travel nobody hears
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.outcomes[o.Decision]; !known {
		d.outcomes[o.Decision] = o
	}
	select {
	case d.came <- struct{}{}:
	default:
	}
	return nil
}

func (d *desk) Settled() <-chan []string { return d.settled }

func (d *desk) Obey(term uint64, ledger string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.term, d.ledger = term, ledger
}

func (d *desk) outcome(id string) (catalog.Outcome, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, ok := d.outcomes[id]
	return o, ok
}

// process is one life of an executor.
type process struct {
	*Executor
	desk *desk
	stop func()
}

var procs atomic.Int64

// start runs an executor over b, which may be a faulty view of the world's.
func (w *world) start(b *bucket.Bucket, how ...func(*Options)) *process {
	w.t.Helper()
	o := Options{Region: "eu", Holder: fmt.Sprint("process ", procs.Add(1)), OnDuty: func() bool { return true }, Prefixes: []string{""},
		Allow: append(slices.Clone(catalog.DefaultVerbs), catalog.VerbPrune), Log: slog.New(slog.DiscardHandler)}
	for _, f := range how {
		f(&o)
	}
	desk := newDesk()
	e, err := New(b, w.eyes, desk, o)
	if err != nil {
		w.t.Fatal(err)
	}
	e.pause = 2 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.Run(ctx) }()
	p := &process{e, desk, sync.OnceFunc(func() { cancel(); <-done })}
	w.t.Cleanup(p.stop)
	return p
}

// idle is an executor that nobody runs.
func (w *world) idle(b *bucket.Bucket) *Executor {
	e, err := New(b, w.eyes, newDesk(), Options{Region: "eu", Holder: "idle", OnDuty: func() bool { return true }, Prefixes: []string{""}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (p *process) order(d catalog.Decision) {
	p.desk.orders <- report.Order{Decision: d, Received: time.Now(), Err: d.Validate()}
}

// do says a decision and waits for what comes of it.
func (p *process) do(t testing.TB, d catalog.Decision) catalog.Outcome {
	t.Helper()
	p.order(d)
	deadline := time.After(20 * time.Second)
	for {
		if o, ok := p.desk.outcome(d.ID); ok {
			return o
		}
		select {
		case <-p.desk.came:
		case <-deadline:
			t.Fatalf("no outcome of %s", d.Verb)
		}
	}
}

func codes(o catalog.Outcome) string {
	var all []string
	for _, r := range o.Reasons {
		all = append(all, r.Code)
	}
	return strings.TrimSpace(string(o.State) + " " + strings.Join(all, " "))
}

// objects are all objects of the bucket but those below the given prefixes, by
// the hash of what is in them.
func objects(t testing.TB, b *bucket.Bucket, but ...string) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	err := b.Walk(context.Background(), "", "", func(key string, _ int64, _ time.Time) error {
		for _, p := range but {
			if strings.HasPrefix(key, p) {
				return nil
			}
		}
		raw, err := b.Get(context.Background(), key)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the journal is being pruned
		}
		all[key] = sha256.Sum256(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func keys(m map[string][32]byte) []string { return slices.Sorted(maps.Keys(m)) }

// database makes a SlateDB database with a few rows, some of them in the WAL alone.
func database(t testing.TB, b *bucket.Bucket, root string) {
	t.Helper()
	ctx := context.Background()
	db, err := slatedb.Open(ctx, b, root, slatedb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := db.Put(ctx, fmt.Appendf(nil, "k%d", i), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	db.Abandon() // it crashed: the tail is in the WAL
}
