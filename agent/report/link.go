package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// How long the link waits for a hub that has said nothing yet; afterwards the
// hub's own beat interval rules.
const (
	firstBeat = 5 * time.Second
	healthy   = time.Minute // a session that lasted this long was a good one
	maxWindow = time.Minute // of the jitter
)

// Run keeps one stream to the hub until ctx ends; then it returns nil. It
// never ends by itself: an unreachable or refusing hub is tried again.
func (r *Report) Run(ctx context.Context) error {
	attempts, said := 0, ""
	if r.o.LookFirst > 0 {
		select {
		case <-r.looked:
		case <-time.After(r.o.LookFirst):
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		began := time.Now()
		end := r.connect(ctx)
		var refused *refusedError
		var wait time.Duration
		switch {
		case ctx.Err() != nil: // asked to end
			r.ended(context.Cause(ctx).Error(), "")
		case errors.As(end.err, &refused):
			if said != refused.why {
				r.log.Error("the hub refuses this agent", "region", r.o.Region, "cluster", r.o.Cluster, "why", refused.why, "again", r.o.RefusedEvery)
				said = refused.why
			}
			r.ended(end.err.Error(), refused.why)
			wait = time.Duration(float64(r.o.RefusedEvery) * (0.75 + r.jitter.Float64()/2))
			attempts = 0
		case end.welcomed:
			r.log.Warn("lost the hub", "error", end.err, "after", time.Since(began).Round(time.Millisecond))
			r.ended(end.err.Error(), "")
			said = ""
			if time.Since(began) >= healthy {
				attempts = 0
			}
			// A link that keeps breaking is not left alone for long: it did work.
			attempts = min(attempts+1, 3)
			if attempts == 1 {
				wait = jitter(r.jitter, max(end.spread, r.o.Backoff))
			} else {
				wait = jitter(r.jitter, window(r.o.Backoff, attempts))
			}
		default:
			attempts++
			if attempts == 1 || attempts%10 == 0 {
				r.log.Warn("cannot reach the hub", "error", end.err, "attempts", attempts)
			}
			r.ended(end.err.Error(), "")
			wait = jitter(r.jitter, window(r.o.Backoff, attempts))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

// window is the n-th window of the full jitter: it doubles from base.
func window(base time.Duration, n int) time.Duration {
	return min(base<<min(n-1, 16), maxWindow)
}

// jitter is anywhere in the window, so that a herd does not stay one.
func jitter(rng *rand.Rand, window time.Duration) time.Duration {
	return time.Duration(rng.Float64() * float64(window))
}

type refusedError struct{ why string }

func (e *refusedError) Error() string { return "refused: " + e.why }

// ended notes that the link is down.
func (r *Report) ended(why, refused string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.Connected {
		r.status.Connected, r.status.Role, r.status.Since = false, RoleNone, time.Now()
	}
	r.status.LastError, r.status.Refused = why, refused
}

// ending is how a stream was.
type ending struct {
	err      error         // why it ended, never nil
	welcomed bool          // the hub had welcomed it
	spread   time.Duration // over which the hub wants reconnects scattered
}

// connect opens one stream and serves it to its end.
func (r *Report) connect(ctx context.Context) ending {
	conn, err := r.dial()
	if err != nil {
		return ending{err: err}
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Any word of the hub is a sign of life; without one the link is taken for
	// half open, and cancelling frees a Send that nobody reads.
	watchdog := time.AfterFunc(patience(firstBeat), func() { cancel(errSilent) })
	defer watchdog.Stop()

	stream, err := quarryv1.NewFederationClient(conn).Session(ctx, grpc.ForceCodecV2(frameCodec{}))
	if err != nil {
		return ending{err: cause(ctx, err)}
	}
	l := &link{r: r, stream: stream, watchdog: watchdog, beat: firstBeat, done: make(chan struct{}), credited: make(chan struct{}, 1)}
	go l.receive(cancel)

	err = l.send(ctx)
	if ctx.Err() == nil {
		// The stream broke under a Send; the receiver hears the story.
		select {
		case <-l.done:
		case <-time.After(time.Second):
		}
	}
	err = cause(ctx, err)
	// The receiver is freed by the cancel and waited for: after this nothing of
	// this stream touches the report.
	cancel(nil)
	<-l.done
	return ending{err: err, welcomed: l.greeted, spread: l.spread}
}

var errSilent = errors.New("the hub has said nothing for three beats: the link is half open or the hub hangs")

// patience is how long either side may be silent: three beats, and not much
// more than 45 s.
func patience(beat time.Duration) time.Duration {
	return max(min(3*beat, 45*time.Second), beat*3/2)
}

// cause is what ended ctx, if that is the reason for err.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var refused *refusedError
	if s, ok := status.FromError(err); ok && !errors.As(err, &refused) && s.Message() != "" {
		if s.Code() == codes.FailedPrecondition { // a Refuse whose frame was lost
			return &refusedError{s.Message()}
		}
		return errors.New(s.Message())
	}
	return err
}

func (r *Report) dial() (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if r.o.TLS != nil {
		creds = credentials.NewTLS(r.o.TLS)
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(4*wire.MaxFrame), grpc.MaxCallSendMsgSize(wire.MaxFrame)),
		// More than the hub's enforcement allows at least, or it would send us away.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
		// Reconnecting is Run's, which looks up the address anew each time.
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
	}
	if r.o.Dial != nil {
		opts = append(opts, grpc.WithContextDialer(r.o.Dial))
	}
	return grpc.NewClient("passthrough:///"+r.o.Hub, opts...)
}

// link is one stream. send runs in one goroutine, receive in another; what
// they share is under the report's lock.
type link struct {
	r        *Report
	stream   quarryv1.Federation_SessionClient
	watchdog *time.Timer
	done     chan struct{} // closed when receive has returned

	// credited is poked when the hub has taken something.
	credited chan struct{}

	// Of send alone.
	number  uint64
	session uint64
	took    time.Time // when the last snapshot was taken
	spoke   time.Time // when the last delta was sent
	out     uint64    // bytes sent that need credit
	batch   wire.Batch

	// Under r.mu.
	greeted  bool
	token    uint64
	reporter bool
	moving   bool   // the hub understands moves
	deciding bool   // the hub understands outcomes
	window   uint64 // bytes that may be under way; 0: any number
	taken    uint64 // bytes that the hub has taken
	heard    uint64 // bytes of the hub that were taken
	beat     time.Duration
	spread   time.Duration
	resume   *uint64 // a Welcome to act on: deltas after this; 0: a snapshot
	wait     bool    // for WantSnapshot, before any snapshot
	want     string  // why a snapshot is wanted; empty: it is not
	digests  bool    // digests by bucket are wanted
	buckets  []byte  // all facts of these are wanted
	// repairing: a repair is under way, and the hub's digest is between two.
	repairing bool
	begun     bool // a Welcome of this stream was acted on
	based     bool // the hub has what deltas after sent need
	sent      uint64
	// clean is where what was told before this stream, and perhaps lost, ends:
	// once that is sent again the digest of what was told is the hub's.
	clean uint64
}

// mostUnderway is how many bytes the hub may have under way to an agent that
// has not confirmed them.
const mostUnderway = 1 << 20

// byHub begins the reason of what the hub did not understand.
const byHub = "the hub: "

// receive takes what the hub says until the stream ends, and cancels with why.
func (l *link) receive(cancel context.CancelCauseFunc) {
	defer close(l.done)
	for {
		f, err := l.stream.Recv()
		if err != nil {
			cancel(err) // the first cause stands
			return
		}
		if err := l.take(f); err != nil {
			cancel(err)
			return
		}
	}
}

func (l *link) take(f *quarryv1.HubFrame) error {
	r := l.r
	r.mu.Lock()
	defer r.mu.Unlock()
	l.heard += uint64(proto.Size(f))
	switch b := f.GetBody().(type) {
	case *quarryv1.HubFrame_Welcome:
		if v := b.Welcome.GetVersion(); v < wire.MinVersion || v > wire.MaxVersion {
			return &refusedError{fmt.Sprintf("the hub chose protocol version %d, this agent speaks %d to %d; upgrade the older of the two", v, wire.MinVersion, wire.MaxVersion)}
		}
		l.welcome(b.Welcome)
	case *quarryv1.HubFrame_Ack:
		// Only of this process, and only what it may have sent.
		if a := b.Ack.GetApplied(); a.GetStart() == r.o.Start && a.GetCounter() <= r.facts.head {
			r.acked = max(r.acked, a.GetCounter())
		}
	case *quarryv1.HubFrame_WantSnapshot:
		l.want, l.wait, r.status.Waiting = cmp.Or(b.WantSnapshot.GetWhy(), "the hub wants one"), false, false
		r.poke()
	case *quarryv1.HubFrame_WantDigests:
		l.digests = true
		r.poke()
	case *quarryv1.HubFrame_WantBuckets:
		l.buckets = b.WantBuckets.GetBuckets()
		r.poke()
	case *quarryv1.HubFrame_Credit:
		l.taken = max(l.taken, b.Credit.GetTaken())
		select {
		case l.credited <- struct{}{}:
		default:
		}
		r.poke()
	case *quarryv1.HubFrame_Decision:
		r.orders.receive(b.Decision, time.Now())
	case *quarryv1.HubFrame_Settled:
		r.orders.settle(b.Settled.GetDecisions())
	case *quarryv1.HubFrame_Refuse:
		return &refusedError{b.Refuse.GetWhy()}
	case *quarryv1.HubFrame_Quarantined:
		q := b.Quarantined
		r.quarantine(factKey{q.GetKind(), string(q.GetKey())}, byHub+q.GetWhy())
	}
	l.watchdog.Reset(patience(l.beat))
	return nil
}

func (l *link) welcome(w *quarryv1.Welcome) {
	r := l.r
	if ms := w.GetBeatMs(); ms > 0 {
		l.beat = time.Duration(ms) * time.Millisecond
	}
	l.spread = time.Duration(w.GetSpreadMs()) * time.Millisecond
	l.token = w.GetSession()
	l.reporter = w.GetReporter()
	l.moving = w.GetVersion() >= wire.Moving
	l.deciding = w.GetVersion() >= wire.Deciding
	if l.moving {
		l.window = w.GetCredit()
	}
	l.wait = w.GetWait()
	l.want, l.digests, l.buckets = "", false, nil // wishes of before
	role := RoleStandby
	if l.reporter {
		role = RoleReporter
		resume := uint64(0)
		if w.GetResume().GetStart() == r.o.Start {
			resume = w.GetResume().GetCounter()
		}
		l.resume = &resume
	} else {
		l.resume, l.based = nil, false
	}
	if !l.greeted || r.status.Role != role {
		r.log.Info("welcomed by the hub", "role", role, "session", l.token)
	}
	if !l.greeted {
		l.greeted = true
		r.orders.begin()
		r.status.Connected, r.status.Since = true, time.Now()
		r.urgent = true // the first beat says how we are
		// Another hub, or a newer one, may understand what the last did not.
		maps.DeleteFunc(r.quarantined, func(_ factKey, why string) bool { return strings.HasPrefix(why, byHub) })
	}
	r.status.Role, r.status.Refused = role, ""
	r.status.Waiting, r.status.Ahead = l.reporter && l.wait, int(w.GetAhead())
	if !r.hubKnown || r.hubBucket != w.GetBucketId() {
		r.hubBucket, r.hubKnown = w.GetBucketId(), true
		close(r.hubMoved)
		r.hubMoved = make(chan struct{})
	}
	r.poke()
}
