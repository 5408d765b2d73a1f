// Package report keeps what an agent knows and tells it to the hub: the newest
// value of every fact, over one outbound stream that resumes after a cut and
// never believes a fact sent before the hub has acknowledged it.
//
// It looks at no bucket and judges nothing. Begin with [New]; the watcher
// calls [Report.Set], [Report.Withdraw], [Report.SetHealth] and
// [Report.Ready], and somebody runs [Report.Run].
package report

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
)

// Options say who reports and to whom. Region, Cluster, Agent, Hub and Start
// are needed; the rest works when zero.
type Options struct {
	Region  string // configured name, no "/"
	Cluster string // configured name, no "/"
	Agent   string // identity of this process, for people
	Version string // build version, for people
	Bucket  string // where the region's bucket is, without secrets, for people
	Hub     string // host:port; a loopback address unless TLS is set

	// Start is the Revision.Start of everything reported: unix milliseconds of
	// this process's start. A later process of the same cluster has a higher one.
	Start     uint64
	StartedAt time.Time // by this machine's clock, shown and never used

	// TLS secures the stream. Until there are certificates it is nil, and then
	// the hub's address must be a loopback one.
	TLS *tls.Config
	// Generation orders holders of the same region and cluster; Start when zero.
	Generation uint64
	// Dial replaces the TCP dialer, for tests and proxies.
	Dial func(ctx context.Context, addr string) (net.Conn, error)

	Log *slog.Logger
	// Seed makes jitter repeatable; zero: random.
	Seed uint64
	// Backoff is the first window of the full-jitter reconnect, 1 s when zero;
	// windows double up to 60 s.
	Backoff time.Duration
	// LookFirst is how long Run waits for the first word about the bucket
	// before it connects; zero: not at all. Without it every start of an agent
	// would tell the hub of a blind region that is only not looked at yet.
	LookFirst time.Duration
	// Linger is the least time between two deltas: what changes meanwhile is
	// told once, with the newest value. 50 ms when zero. A first change after
	// such a pause, and more than fit well into a frame, are told at once.
	Linger time.Duration
	// RefusedEvery is about how often a refused agent asks again, 60 s when zero.
	RefusedEvery time.Duration
}

// Health is what the agent thinks of itself. A change of anything but Spend
// and Budget is told at once, not with the next regular beat.
type Health struct {
	ReadOK     bool               // the bucket can be read
	Reason     string             // why not
	CannotKeep string             // what cannot be recorded for lack of rights; empty: nothing
	BucketID   string             // incarnation in the bucket's region.json; empty: none seen
	BucketWhy  string             // why BucketID is empty
	Spend      map[string]float64 // requests per hour by class
	Budget     float64            // requests per hour allowed; 0: none set
}

// Role is what the hub has asked of this agent.
type Role string

// The roles.
const (
	RoleNone     Role = ""         // not welcomed by any hub now
	RoleReporter Role = "reporter" // this agent brings the region's facts
	RoleStandby  Role = "standby"  // another agent of the region does; beats only
)

// Status is how the link stands, for the agent's status port and its logs.
type Status struct {
	Connected   bool             `json:"connected"` // welcomed on a live stream
	Role        Role             `json:"role"`
	Waiting     bool             `json:"waiting"` // for its turn to bring a snapshot
	Ahead       int              `json:"ahead"`   // regions before it when it began to wait
	Since       time.Time        `json:"since"`   // of Connected having its value
	Refused     string           `json:"refused"` // why the hub refuses this agent; empty: it does not
	LastError   string           `json:"last_error"`
	Facts       int              `json:"facts"`     // held now
	Pending     int              `json:"pending"`   // changed since the last acknowledged revision
	Head        catalog.Revision `json:"head"`      // newest
	Acked       catalog.Revision `json:"acked"`     // newest that a hub is known to have
	Snapshots   int              `json:"snapshots"` // begun in this life
	Repairs     int              `json:"repairs"`   // of parts that the hub held otherwise, in this life
	Quarantined []Quarantined    `json:"quarantined"`
}

// Quarantined is a fact that could not travel as it is.
type Quarantined struct {
	Kind catalog.FactKind `json:"kind"`
	Key  string           `json:"key"`
	Why  string           `json:"why"`
}

// Report is the newest of everything this agent knows. All methods may be
// called by many goroutines at once; Run by one.
type Report struct {
	o   Options
	log *slog.Logger

	mu      sync.Mutex
	facts   facts
	ready   bool
	health  Health
	urgent  bool          // health changed: beat at once
	looked  chan struct{} // closed once something is known of the bucket
	changed chan struct{} // one poke: something for the link to do

	hubBucket string
	hubKnown  bool
	hubMoved  chan struct{}

	orders orders // decisions and outcomes, see decisions.go

	status      Status
	acked       uint64
	quarantined map[factKey]string // why a fact, or what is left of it, does not travel

	jitter *rand.Rand // used by Run alone
}

// New checks the options. It starts nothing.
func New(o Options) (*Report, error) {
	for _, n := range []struct{ field, name string }{{"Region", o.Region}, {"Cluster", o.Cluster}} {
		if err := catalog.CheckName(n.name); err != nil {
			return nil, fmt.Errorf("%s: %w", n.field, err)
		}
		if strings.Contains(n.name, "/") {
			return nil, fmt.Errorf("%s: name %q: no \"/\", write for example %q: %w", n.field, n.name, strings.ReplaceAll(n.name, "/", "-"), catalog.ErrInvalid)
		}
	}
	if o.Start == 0 {
		return nil, fmt.Errorf("Start is 0; give the process's start in unix milliseconds: %w", catalog.ErrInvalid)
	}
	if err := checkHub(o); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Generation == 0 {
		o.Generation = o.Start
	}
	if o.Backoff <= 0 {
		o.Backoff = time.Second
	}
	if o.Linger <= 0 {
		o.Linger = 50 * time.Millisecond
	}
	if o.RefusedEvery <= 0 {
		o.RefusedEvery = time.Minute
	}
	for _, s := range []*string{&o.Agent, &o.Version, &o.Bucket} {
		*s = tidy(*s)
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	return &Report{
		o: o, log: o.Log.With("hub", o.Hub),
		facts:    newFacts(),
		changed:  make(chan struct{}, 1),
		hubMoved: make(chan struct{}),
		looked:   make(chan struct{}),
		health:   Health{BucketWhy: notLooked, Reason: notLooked},

		orders: newOrders(),

		quarantined: map[factKey]string{},
		jitter:      rand.New(rand.NewPCG(o.Seed, o.Start)),
		status:      Status{Since: time.Now()},
	}, nil
}

// checkHub keeps the region's facts on this machine until there are
// certificates.
func checkHub(o Options) error {
	host, _, err := net.SplitHostPort(o.Hub)
	if err != nil {
		return fmt.Errorf("Hub: %w; write host:port, for example 127.0.0.1:7701", err)
	}
	if o.TLS != nil || o.Dial != nil || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("Hub: %s is not a loopback address, and there are no certificates yet to tell a hub from a stranger; use for example 127.0.0.1:7701", o.Hub)
	}
	return nil
}

// Set gives the newest value of a fact; the newest wins per kind and key. An
// unchanged value makes no new revision. The fact's own Revision and Sum are
// ignored: the report numbers. It never waits for the link and keeps nothing
// of f. A value that cannot travel is logged, shown in [Status] and told to
// the hub as such.
func (r *Report) Set(f catalog.Fact) {
	if f.Gone != "" {
		r.Withdraw(f.Kind, f.Key, f.Gone)
		return
	}
	key := factKey{uint32(f.Kind), f.Key}
	if f.Key == "" {
		key.key = wire.KeyOf(f)
	}
	if f.Kind == catalog.FactPlacement && f.Sighting != nil && r.sight(key, f.Sighting) {
		return
	}
	rec, err := wire.Encode(f) // outside the lock: it may be large
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.quarantine(key, err.Error())
	} else {
		delete(r.quarantined, key)
	}
	switch {
	case rec == nil:
	case len(rec.GetUnsendable()) > 0:
		if r.facts.set(key, asUnsendable, rec.GetUnsendable()) {
			r.poke()
		}
	default:
		if r.facts.set(key, asValue, rec.GetValue()) {
			r.poke()
		}
	}
}

// sight is Set for placements: most of them only move. It reports false for one
// that cannot travel.
func (r *Report) sight(key factKey, s *catalog.Sighting) bool {
	buf := stills.Get().(*[]byte)
	defer stills.Put(buf)
	still, err := wire.AppendStill((*buf)[:0], s)
	*buf = still
	if err != nil {
		return false
	}
	n := wire.NumbersOf(s)
	news, known := r.sighted(key, still, &n, false)
	if !known {
		// Outside the lock, and not again for what was checked.
		if wire.CheckKey(key.kind, key.key) != nil || wire.CheckSighting(key.key, s) != nil {
			return false
		}
		news, _ = r.sighted(key, still, &n, true)
	}
	if news {
		r.poke()
	}
	return true
}

func (r *Report) sighted(key factKey, still []byte, n *wire.Numbers, checked bool) (news, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if news, known = r.facts.sight(key, still, n, checked); known && len(r.quarantined) > 0 {
		delete(r.quarantined, key)
	}
	return news, known
}

// stills are buffers for what stands still of sightings.
var stills = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Withdraw says that a fact no longer holds, and why. Placements are never
// withdrawn (P1): set a Sighting that says missing. Unknown keys are ignored.
func (r *Report) Withdraw(kind catalog.FactKind, key, why string) {
	if why == "" {
		why = "no longer there"
	}
	rec, err := wire.Encode(catalog.Fact{Kind: kind, Key: key, Gone: why})
	if err != nil {
		r.log.Error("a fact was not withdrawn", "error", err)
		return
	}
	k := factKey{uint32(kind), key}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.quarantined, k)
	if r.facts.withdraw(k, rec.GetGone()) {
		r.poke()
	}
}

const notLooked = "not looked yet"

// SetHealth says what the agent thinks of itself. Until the bucket's
// incarnation or why there is none was given once, nothing is said of it: a
// bucket that answers and has no name yet would look like one that lost it.
func (r *Report) SetHealth(h Health) {
	h.Spend = maps.Clone(h.Spend)
	maps.DeleteFunc(h.Spend, func(_ string, v float64) bool { return !shown(v) })
	if !shown(h.Budget) {
		h.Budget = 0
	}
	// One text that cannot travel would silence the beats.
	for _, s := range []*string{&h.Reason, &h.CannotKeep, &h.BucketID, &h.BucketWhy} {
		*s = tidy(*s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.looked:
	default:
		if h.BucketID != "" || h.BucketWhy != "" {
			close(r.looked)
			break
		}
		h.BucketWhy = notLooked
		if h.ReadOK {
			h.ReadOK, h.Reason = false, notLooked
		}
	}
	old := r.health
	r.health = h
	old.Spend, old.Budget, h.Spend, h.Budget = nil, 0, nil, 0
	if !reflect.DeepEqual(old, h) {
		r.urgent = true
		r.poke()
	}
}

// Ready says that the first full look at the bucket is complete. Before it
// only hellos and beats are sent: half a look must not pass for a whole one.
func (r *Report) Ready() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = true
	r.poke()
}

// HubBucket gives the incarnation of this region's bucket that the hub said it
// knows. known is false until a hub has welcomed this process; an empty id
// with known true means that the hub knows none. changed is closed at the next
// change of either.
func (r *Report) HubBucket() (id string, known bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hubBucket, r.hubKnown, r.hubMoved
}

// Status says how the link stands.
func (r *Report) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Facts = r.facts.live
	s.Pending = r.facts.since(r.acked)
	s.Head = catalog.Revision{Start: r.o.Start, Counter: r.facts.head}
	s.Acked = catalog.Revision{Start: r.o.Start, Counter: r.acked}
	s.Quarantined = []Quarantined{}
	for k, why := range r.quarantined {
		s.Quarantined = append(s.Quarantined, Quarantined{Kind: catalog.FactKind(k.kind), Key: k.key, Why: why})
	}
	slices.SortFunc(s.Quarantined, func(a, b Quarantined) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	return s
}

// maxQuarantined bounds what is remembered of facts that do not travel.
const maxQuarantined = 1000

// quarantine notes, and says once per reason, that a fact does not travel.
func (r *Report) quarantine(k factKey, why string) {
	if r.quarantined[k] == why {
		return
	}
	if len(r.quarantined) >= maxQuarantined {
		return
	}
	r.quarantined[k] = why
	r.log.Warn("a fact cannot be reported", "kind", wire.KindName(k.kind), "key", k.key, "why", why)
}

// tidy makes a text for people fit to travel.
func tidy(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > 4<<10 {
		s = strings.ToValidUTF8(s[:4<<10], "") + " …"
	}
	return s
}

// shown reports whether a number can be shown.
func shown(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) && v >= 0 }

// poke wakes the link; many pokes are one.
func (r *Report) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
