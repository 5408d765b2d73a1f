// Package report keeps what an agent knows and tells it to the hub: the newest
// value of every fact, over one outbound stream that resumes after a cut and
// never believes a fact sent before the hub has acknowledged it.
//
// It looks at no bucket and judges nothing. Begin with [New]; the watcher
// calls [Report.Set], [Report.Withdraw], [Report.SetHealth] and
// [Report.Ready], and somebody runs [Report.Run].
package report

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
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
	// Dial replaces the TCP dialer, for tests and proxies.
	Dial func(ctx context.Context, addr string) (net.Conn, error)

	Log *slog.Logger
	// Seed makes jitter repeatable; zero: random.
	Seed uint64
	// Backoff is the first window of the full-jitter reconnect, 1 s when zero;
	// windows double up to 60 s.
	Backoff time.Duration
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
	Since       time.Time        `json:"since"`   // of Connected having its value
	Refused     string           `json:"refused"` // why the hub refuses this agent; empty: it does not
	LastError   string           `json:"last_error"`
	Facts       int              `json:"facts"`     // held now
	Pending     int              `json:"pending"`   // changed since the last acknowledged revision
	Head        catalog.Revision `json:"head"`      // newest
	Acked       catalog.Revision `json:"acked"`     // newest that a hub is known to have
	Snapshots   int              `json:"snapshots"` // sent in this life
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
	o  Options
	mu sync.Mutex

	hubBucket string
	hubKnown  bool
	hubMoved  chan struct{}
}

// New checks the options. It starts nothing.
func New(o Options) (*Report, error) {
	if o.Start == 0 {
		return nil, fmt.Errorf("report: Start is 0; give the process's start in unix milliseconds")
	}
	return &Report{o: o, hubMoved: make(chan struct{})}, nil
}

// Set gives the newest value of a fact; the newest wins per kind and key. An
// unchanged value makes no new revision. The fact's own Revision is ignored:
// the report numbers. It never blocks and keeps nothing of f.
func (r *Report) Set(f catalog.Fact) {}

// Withdraw says that a fact no longer holds, and why. Placements are never
// withdrawn (P1): set a Sighting that says missing. Unknown keys are ignored.
func (r *Report) Withdraw(kind catalog.FactKind, key, why string) {}

// SetHealth says what the agent thinks of itself.
func (r *Report) SetHealth(h Health) {}

// Ready says that the first full look at the bucket is complete. Before it
// only hellos and beats are sent: half a look must not pass for a whole one.
func (r *Report) Ready() {}

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
func (r *Report) Status() Status { return Status{} }

// Run keeps one stream to the hub until ctx ends; then it returns nil. It
// never ends by itself: an unreachable or refusing hub is tried again.
func (r *Report) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
