package report

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// send says everything this side has to say, until ctx ends or the stream
// breaks. It never sends before the welcome, apart from the hello.
func (l *link) send(ctx context.Context) error {
	if err := l.putFree(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Hello{Hello: l.hello()}}); err != nil {
		return err
	}
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	beats := &beats{rng: rand.New(rand.NewPCG(l.r.o.Seed, 1))}
	for {
		next, err := l.flush(ctx, beats)
		if err != nil {
			return err
		}
		if !next.IsZero() {
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

// beats is when the next beat is due.
type beats struct {
	rng  *rand.Rand
	next time.Time // zero: not welcomed yet
}

// flush sends whatever is due now: a snapshot, deltas, a beat; and says when
// something will be due, zero when only a poke can make it so.
func (l *link) flush(ctx context.Context, b *beats) (due time.Time, err error) {
	for {
		if err := l.beatIfDue(b); err != nil {
			return due, err
		}
		next, due := l.step(ctx, b)
		if next == nil {
			if due.IsZero() || b.next.Before(due) {
				due = b.next
			}
			return due, nil
		}
		if err := next(); err != nil {
			return due, err
		}
	}
}

// pressing is how many changes are told without lingering.
const pressing = 1000

// step decides, under the lock, what comes next, and returns how to send it;
// or nothing, and when it wants to be asked again.
func (l *link) step(ctx context.Context, b *beats) (next func() error, due time.Time) {
	r := l.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if !l.greeted {
		return nil, due
	}
	l.session = l.token
	if l.deciding && l.affordable() {
		if o := r.orders.next(); o != nil {
			return func() error {
				return l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Outcome{Outcome: o}})
			}, due
		}
	}
	if !l.reporter || !r.ready {
		return nil, due
	}
	if l.resume != nil {
		l.begin(*l.resume)
		l.resume = nil
	}
	if l.based && !r.facts.resumable(l.sent) {
		l.want, l.based = "more was withdrawn than is remembered", false
	}
	if !l.affordable() {
		return nil, due // a Credit pokes
	}
	if l.want != "" {
		// A hub that is never content gets two snapshots a beat at most.
		if again := l.took.Add(l.beat / 2); time.Now().Before(again) {
			return nil, again
		}
		return l.snapshot(ctx, b), due
	}
	if !l.based {
		return nil, due
	}
	if l.known() && l.digests {
		return l.tellDigests(), due
	}
	if l.known() && l.buckets != nil {
		return l.repair(ctx, b), due
	}
	if r.facts.head == l.sent {
		return nil, due
	}
	if waiting := len(r.facts.log) - r.facts.after(l.sent); waiting < pressing {
		if at := l.spoke.Add(r.o.Linger); time.Now().Before(at) {
			return nil, at
		}
	}
	from := l.sent
	l.sent = r.facts.delta(&l.batch, from, l.moving)
	l.number++
	frame := l.batch.Delta(l.number, l.session, r.o.Start, from, l.sent)
	return func() error {
		l.spoke = time.Now()
		return l.putRaw(frame)
	}, due
}

// begin acts on a Welcome: the hub has what was told up to from, or nothing.
func (l *link) begin(from uint64) {
	r := l.r
	r.facts.begin(!l.begun)
	l.begun, l.based, l.clean = true, false, r.facts.head
	switch {
	case from > 0 && r.facts.resumable(from):
		// An acknowledgement too: the hub's last may have been lost.
		l.sent, l.based, r.acked = from, true, max(r.acked, from)
	case from > 0:
		l.want = "cannot resume from that far back"
	case !l.wait && l.want == "":
		l.want = "the hub has nothing of this agent"
	}
}

// known reports whether the digest of what was told is that of what the hub
// has once it has taken all that was sent.
func (l *link) known() bool { return l.based && l.sent >= l.clean }

// snapshot takes all facts as of now and returns how to send them. The caller
// holds the lock.
func (l *link) snapshot(ctx context.Context, b *beats) func() error {
	r := l.r
	items, digest := r.facts.all(l.moving, nil)
	upto, root := r.facts.head, digest.Root()
	r.log.Info("sending a snapshot", "why", l.want, "facts", len(items), "upto", upto)
	l.want, l.based, l.took, l.wait = "", false, time.Now(), false
	l.digests, l.buckets = false, nil
	r.status.Snapshots++
	r.status.Waiting = false
	return func() error {
		if err := l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{
			Count: uint64(len(items)), Digest: root[:], Upto: l.revision(upto), Empty: len(items) == 0}}}); err != nil {
			return err
		}
		if whole, err := l.putItems(ctx, b, items, l.batch.SnapshotBatch); err != nil || !whole {
			return err
		}
		if err := l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotEnd{SnapshotEnd: &quarryv1.SnapshotEnd{}}}); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if l.reporter && l.resume == nil {
			l.sent, l.based, l.clean = upto, true, 0
		}
		return nil
	}
}

// tellDigests answers WantDigests. The caller holds the lock.
func (l *link) tellDigests() func() error {
	l.digests = false
	m := &quarryv1.Digests{At: l.revision(l.sent), Count: l.r.facts.told.Count(), Buckets: make([]byte, 0, 16*catalog.DigestBuckets)}
	for i := range catalog.DigestBuckets {
		sum := l.r.facts.told.Bucket(uint8(i))
		m.Buckets = append(m.Buckets, sum[:]...)
	}
	return func() error { return l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Digests{Digests: m}}) }
}

// repair takes all facts of the wanted buckets as of now and returns how to
// send them. The caller holds the lock.
func (l *link) repair(ctx context.Context, b *beats) func() error {
	r := l.r
	var wanted [catalog.DigestBuckets]bool
	for _, i := range l.buckets {
		wanted[i] = true
	}
	l.buckets = nil
	begin := &quarryv1.RepairBegin{Upto: l.revision(l.sent)}
	for i, yes := range wanted {
		if yes {
			begin.Buckets = append(begin.Buckets, byte(i))
		}
	}
	items, digest := r.facts.all(l.moving, &wanted)
	root := digest.Root()
	begin.Count, begin.Digest = uint64(len(items)), root[:]
	r.log.Info("repairing what the hub holds", "buckets", len(begin.Buckets), "facts", len(items))
	r.status.Repairs++
	l.repairing = true
	return func() error {
		defer func() {
			r.mu.Lock()
			l.repairing = false
			r.mu.Unlock()
		}()
		if err := l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_RepairBegin{RepairBegin: begin}}); err != nil {
			return err
		}
		if whole, err := l.putItems(ctx, b, items, l.batch.RepairBatch); err != nil || !whole {
			return err
		}
		return l.put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_RepairEnd{RepairEnd: &quarryv1.RepairEnd{}}})
	}
}

// putItems sends items in as many batches as they need, and beats between them.
// whole is false when the hub wished for something else meanwhile: what was
// begun is dropped there.
func (l *link) putItems(ctx context.Context, b *beats, items []wire.Item, seal func(number, session uint64) []byte) (whole bool, err error) {
	for len(items) > 0 {
		l.batch.ResetBatch()
		n := 0
		for n < len(items) && l.batch.Fits(&items[n]) {
			l.batch.Add(&items[n])
			n++
		}
		items = items[n:]
		l.number++
		if err := l.putRaw(seal(l.number, l.session)); err != nil {
			return false, err
		}
		if err := l.afford(ctx, b); err != nil {
			return false, err
		}
		if l.overtaken() {
			return false, nil
		}
	}
	return true, nil
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
		AgentClock: wire.Stamp(now), At: l.revision(0), Spend: h.Spend, Budget: h.Budget, Taken: l.heard,
		Term: r.orders.term, Ledger: r.orders.ledger,
	}
	if l.reporter && l.based && r.ready && l.resume == nil {
		m.At = l.revision(l.sent)
		if l.known() && !l.repairing {
			root := r.facts.told.Root()
			m.Digest = root[:]
		}
	}
	// 15 % either way, so that agents started together do not beat together.
	b.next = now.Add(time.Duration(float64(l.beat) * (0.85 + 0.3*b.rng.Float64())))
	r.mu.Unlock()
	return l.putFree(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Beat{Beat: m}})
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
		Last: l.revision(l.r.acked), Credit: mostUnderway,
		Term: l.r.orders.term, Ledger: l.r.orders.ledger,
	}
}

func (l *link) revision(counter uint64) *quarryv1.Revision {
	return &quarryv1.Revision{Start: l.r.o.Start, Counter: counter}
}

// affordable reports whether the hub's credit takes another frame. The caller
// holds the lock.
func (l *link) affordable() bool {
	return l.window == 0 || l.out+wire.MaxFrame <= l.taken+max(l.window, wire.MaxFrame)
}

// afford waits for credit, and beats meanwhile.
func (l *link) afford(ctx context.Context, b *beats) error {
	for {
		if err := l.beatIfDue(b); err != nil {
			return err
		}
		l.r.mu.Lock()
		ok := l.affordable()
		l.r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-l.credited:
		case <-time.After(time.Until(b.next)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// put sends one frame that needs credit, which there is.
func (l *link) put(f *quarryv1.AgentFrame) error {
	l.number++
	f.Number, f.Session = l.number, l.session
	frame, err := proto.Marshal(f)
	if err != nil {
		return fmt.Errorf("make a frame: %w", err)
	}
	return l.putRaw(frame)
}

// putRaw is put for a frame that is made.
func (l *link) putRaw(frame []byte) error {
	l.out += uint64(len(frame))
	if err := l.stream.SendMsg(&rawFrame{frame}); err != nil {
		return fmt.Errorf("send to the hub: %w", err)
	}
	return nil
}

// putFree sends a hello or a beat, which need no credit.
func (l *link) putFree(f *quarryv1.AgentFrame) error {
	l.number++
	f.Number, f.Session = l.number, l.session
	if err := l.stream.Send(f); err != nil {
		return fmt.Errorf("send to the hub: %w", err)
	}
	return nil
}
