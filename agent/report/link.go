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
	watchdog := time.AfterFunc(3*firstBeat, func() { cancel(errSilent) })
	defer watchdog.Stop()

	stream, err := quarryv1.NewFederationClient(conn).Session(ctx)
	if err != nil {
		return ending{err: cause(ctx, err)}
	}
	l := &link{r: r, stream: stream, watchdog: watchdog, beat: firstBeat, done: make(chan struct{})}
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

	// Of send alone.
	number  uint64
	session uint64
	took    time.Time // when the last snapshot was taken

	// Under r.mu.
	greeted  bool
	token    uint64
	reporter bool
	beat     time.Duration
	spread   time.Duration
	resume   *uint64 // a Welcome to act on: deltas after this; 0: a snapshot
	want     string  // why a snapshot is wanted; empty: it is not
	based    bool    // the hub has what deltas after sent need
	sent     uint64
}

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
		l.want = cmp.Or(b.WantSnapshot.GetWhy(), "the hub wants one")
		r.poke()
	case *quarryv1.HubFrame_Refuse:
		return &refusedError{b.Refuse.GetWhy()}
	case *quarryv1.HubFrame_Quarantined:
		q := b.Quarantined
		r.quarantine(factKey{q.GetKind(), string(q.GetKey())}, byHub+q.GetWhy())
	}
	l.watchdog.Reset(3 * l.beat)
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
		r.status.Connected, r.status.Since = true, time.Now()
		r.urgent = true // the first beat says how we are
		// Another hub, or a newer one, may understand what the last did not.
		maps.DeleteFunc(r.quarantined, func(_ factKey, why string) bool { return strings.HasPrefix(why, byHub) })
	}
	r.status.Role, r.status.Refused = role, ""
	if !r.hubKnown || r.hubBucket != w.GetBucketId() {
		r.hubBucket, r.hubKnown = w.GetBucketId(), true
		close(r.hubMoved)
		r.hubMoved = make(chan struct{})
	}
	r.poke()
}

// send says everything this side has to say, until ctx ends or the stream
// breaks. It never sends before the welcome, apart from the hello.
func (l *link) send(ctx context.Context) error {
	if err := l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Hello{Hello: l.hello()}}); err != nil {
		return err
	}
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	beats := &beats{rng: rand.New(rand.NewPCG(l.r.o.Seed, 1))}
	for {
		if err := l.flush(beats); err != nil {
			return err
		}
		if next := beats.next; !next.IsZero() {
			due.Reset(time.Until(next))
		}
		select {
		case <-l.r.changed:
		case <-due.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// beats is when the next beat is due and what it may say about the facts.
type beats struct {
	rng    *rand.Rand
	next   time.Time // zero: not welcomed yet
	at     uint64    // everything up to here was sent
	digest [32]byte  // of everything held at that moment; zero: unknown
}

// flush sends whatever is due now: a snapshot, deltas, a beat.
func (l *link) flush(b *beats) error {
	for {
		if err := l.beatIfDue(b); err != nil {
			return err
		}
		next := l.step(b)
		if next == nil {
			return nil
		}
		if err := next(); err != nil {
			return err
		}
	}
}

// step decides, under the lock, what comes next, and returns how to send it.
func (l *link) step(b *beats) func() error {
	r := l.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if !l.greeted {
		return nil
	}
	l.session = l.token
	if !l.reporter || !r.ready {
		b.at, b.digest = 0, [32]byte{}
		return nil
	}
	if l.resume != nil {
		from := *l.resume
		l.resume = nil
		switch {
		case from > 0 && r.facts.resumable(from):
			// An acknowledgement too: the hub's last may have been lost.
			l.sent, l.based, r.acked = from, true, max(r.acked, from)
		case from > 0:
			l.want, l.based = "cannot resume from that far back", false
		default:
			l.want, l.based = "the hub has nothing of this agent", false
		}
	}
	// A hub that is never content gets two snapshots a beat at most.
	if l.want != "" && time.Since(l.took) >= l.beat/2 {
		return l.snapshot(b)
	}
	if !l.based {
		return nil
	}
	recs, upto := r.facts.delta(l.sent)
	if upto == r.facts.head {
		// With this the hub has all we hold, which is when the digests of both
		// can be compared.
		b.at, b.digest = upto, r.facts.digest.Root()
	} else {
		b.at, b.digest = upto, [32]byte{}
	}
	if upto == l.sent {
		return nil
	}
	f := &quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{
		From: l.revision(l.sent), Upto: l.revision(upto), Records: recs}}}
	l.sent = upto
	return func() error { return l.put(f) }
}

// snapshot takes all facts as of now and returns how to send them. The caller
// holds the lock.
func (l *link) snapshot(b *beats) func() error {
	r := l.r
	recs, upto, root := r.facts.all(), r.facts.head, r.facts.digest.Root()
	r.log.Info("sending a snapshot", "why", l.want, "facts", len(recs), "upto", upto)
	l.want, l.based, l.took = "", false, time.Now()
	r.status.Snapshots++
	b.at, b.digest = 0, [32]byte{} // nothing is complete before its end
	return func() error {
		if err := l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{
			Count: uint64(len(recs)), Digest: root[:], Upto: l.revision(upto), Empty: len(recs) == 0}}}); err != nil {
			return err
		}
		for rest := recs; len(rest) > 0; {
			n, room := 0, wire.MaxRecords
			for n < len(rest) && room >= wire.RecordSize(rest[n]) {
				room -= wire.RecordSize(rest[n])
				n++
			}
			if err := l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBatch{SnapshotBatch: &quarryv1.SnapshotBatch{Records: rest[:n]}}}); err != nil {
				return err
			}
			rest = rest[n:]
			if err := l.beatIfDue(b); err != nil {
				return err
			}
			if l.overtaken() {
				return nil // a new wish of the hub: what was begun is dropped there
			}
		}
		if err := l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotEnd{SnapshotEnd: &quarryv1.SnapshotEnd{}}}); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if l.reporter {
			l.sent, l.based = upto, true
		}
		return nil
	}
}

// overtaken reports that the hub has asked for something else meanwhile.
func (l *link) overtaken() bool {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return l.want != "" || l.resume != nil || !l.reporter
}

// beatIfDue sends a beat when its time has come or something changed that the
// hub should know at once.
func (l *link) beatIfDue(b *beats) error {
	r := l.r
	now := time.Now()
	r.mu.Lock()
	if !l.greeted || (!r.urgent && now.Before(b.next)) {
		r.mu.Unlock()
		return nil
	}
	l.session = l.token
	r.urgent = false
	h := r.health
	m := &quarryv1.Beat{
		BucketId: h.BucketID, BucketWhy: h.BucketWhy, ReadOk: h.ReadOK, Reason: h.Reason, CannotKeep: h.CannotKeep,
		AgentClock: wire.Stamp(now), At: l.revision(b.at), Spend: h.Spend, Budget: h.Budget,
	}
	if b.digest != [32]byte{} {
		m.Digest = append([]byte(nil), b.digest[:]...)
	}
	// 15 % either way, so that agents started together do not beat together.
	b.next = now.Add(time.Duration(float64(l.beat) * (0.85 + 0.3*b.rng.Float64())))
	r.mu.Unlock()
	return l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Beat{Beat: m}})
}

func (l *link) hello() *quarryv1.Hello {
	o := l.r.o
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return &quarryv1.Hello{
		MinVersion: wire.MinVersion, MaxVersion: wire.MaxVersion,
		Region: o.Region, Cluster: o.Cluster, Agent: o.Agent, AgentVersion: o.Version,
		Generation: o.Generation, Start: o.Start, StartedAt: wire.Stamp(o.StartedAt),
		Bucket: o.Bucket, BucketId: l.r.health.BucketID, BucketWhy: l.r.health.BucketWhy,
		Last: l.revision(l.r.acked),
	}
}

func (l *link) revision(counter uint64) *quarryv1.Revision {
	return &quarryv1.Revision{Start: l.r.o.Start, Counter: counter}
}

// put sends one frame. It may block while the hub does not read.
func (l *link) put(f *quarryv1.AgentFrame) error {
	l.number++
	f.Number, f.Session = l.number, l.session
	if err := l.stream.Send(f); err != nil {
		return fmt.Errorf("send to the hub: %w", err)
	}
	return nil
}
