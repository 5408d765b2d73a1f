package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// session is one welcomed or waiting agent. Frames are taken by one goroutine,
// messages written by another; post may be called by anybody.
type session struct {
	id       state.SessionID
	log      *slog.Logger
	inbox    Inbox
	maxFrame int
	version  uint32 // of the protocol
	drain    time.Duration
	window   uint64 // bytes that the agent lets be under way; 0: any number

	poke     chan struct{} // something is in the mailbox
	greeting chan struct{} // a Welcome is being sent: silence counts anew
	refused  chan struct{} // closed when a Refuse was sent, or had its time

	mu      sync.Mutex
	mailbox mailbox
	beat    time.Duration
	greeted bool // a Welcome was taken for sending
	intake  intake
	welcome state.Welcome // the last
	credit  credit
}

// maxUnderway is what an agent may have under way to a hub that has not taken
// it. With the frame in hand and what the transport lets pass beyond it a
// session that does not move on costs a megabyte.
const maxUnderway = 512 << 10

// maxMailbox is the most bytes that one mailbox sends.
const maxMailbox = 640 << 10

// notDrained is why a session whose agent does not read is closed.
func notDrained(within time.Duration) error {
	return fmt.Errorf("the agent has not read within %s what was said to it: its link or the agent is stuck", within)
}

// credit is what is under way in either direction, in bytes.
type credit struct {
	taken, told uint64 // of the agent's frames: taken, and what of it the agent knows

	sent, read uint64    // to the agent: sent, and known to be read
	mark       uint64    // what was sent when
	since      time.Time // the agent had last read what was sent
}

// stuck says that what was sent before a beat is still unread.
func (c *credit) stuck(now time.Time, within time.Duration) bool {
	return c.read < c.mark && now.Sub(c.since) > within
}

// hears notes how much the agent has read, and whether it reads at all.
func (c *credit) hears(read uint64, now time.Time, within time.Duration) error {
	c.read = min(max(c.read, read), c.sent)
	if c.read >= c.mark {
		c.mark, c.since = c.sent, now
	} else if c.stuck(now, within) {
		return notDrained(within)
	}
	return nil
}

// mailbox is what is to be said, newest of each kind.
type mailbox struct {
	welcome     *state.Welcome
	again       bool // the last welcome, to resume from what was had
	ack         *state.Ack
	want        *state.WantSnapshot
	digests     *state.WantDigests
	buckets     *state.WantBuckets
	refuse      *state.Refuse
	quarantined []*quarryv1.Quarantined
	decisions   []catalog.Decision // in the order in which they were posted, each once
	settled     []string
}

// maxQuarantined bounds what waits to be said about bad records; the hub has
// the rest as events.
const maxQuarantined = 64

func (se *session) post(m state.Message) {
	se.mu.Lock()
	defer se.mu.Unlock()
	switch m := m.(type) {
	case state.Welcome:
		se.mailbox.welcome = &m
	case state.Ack:
		se.mailbox.ack = &m
	case state.WantSnapshot:
		se.mailbox.want = &m
	case state.WantDigests:
		se.mailbox.digests = &m
	case state.WantBuckets:
		se.mailbox.buckets = &m
	case state.Decide:
		se.mailbox.decide(m.Decision)
	case state.Settle:
		se.mailbox.settle(m.Decisions)
	case state.Refuse:
		if se.mailbox.refuse == nil {
			se.mailbox.refuse = &m
			// An agent that does not read is not heard out.
			time.AfterFunc(5*time.Second, se.finishRefusal)
		}
	default:
		panic(fmt.Sprintf("session: message %T has no frame", m))
	}
	se.wake()
}

func (se *session) wake() {
	select {
	case se.poke <- struct{}{}:
	default:
	}
}

func (se *session) finishRefusal() {
	se.mu.Lock()
	defer se.mu.Unlock()
	select {
	case <-se.refused:
	default:
		close(se.refused)
	}
}

func (se *session) refuseWhy() string {
	se.mu.Lock()
	defer se.mu.Unlock()
	return se.mailbox.refuse.Why
}

// patience is how long an agent may be silent.
func (se *session) patience() time.Duration {
	se.mu.Lock()
	defer se.mu.Unlock()
	return max(min(3*se.beat, 45*time.Second), se.beat*3/2)
}

// take handles one frame: it delivers what the frame means and says whether
// the frame was a good one.
func (se *session) take(ctx context.Context, raw []byte) (good bool, err error) {
	se.mu.Lock()
	out := se.intake.frame(raw, se.maxFrame)
	for _, q := range out.quarantined {
		if len(se.mailbox.quarantined) < maxQuarantined {
			se.mailbox.quarantined = append(se.mailbox.quarantined, q)
		}
	}
	if out.want != "" {
		se.mailbox.want = &state.WantSnapshot{Why: out.want}
	}
	se.mailbox.again = se.mailbox.again || out.resume
	if se.window > 0 && out.beat {
		err = se.credit.hears(out.read, time.Now(), se.drain)
	}
	se.mu.Unlock()
	if err != nil {
		return false, err
	}
	if out.refuse != "" {
		se.post(state.Refuse{Why: out.refuse})
	}
	se.wake()
	for _, e := range out.events {
		if q, ok := e.(state.Quarantined); ok {
			se.log.Warn("record quarantined", "kind", q.Kind, "key", q.Key, "why", q.Why)
		}
		if err := se.inbox.Deliver(ctx, e); err != nil {
			return out.good, err
		}
	}
	if out.charged {
		// Only now: what the inbox has not taken is still under way.
		se.mu.Lock()
		se.credit.taken += uint64(len(raw))
		tell := se.credit.taken-se.credit.told >= maxUnderway/4
		se.mu.Unlock()
		if tell {
			se.wake()
		}
	}
	return out.good, nil
}

// write sends what is in the mailbox, and a pulse each beat, until ctx ends.
// It is the only sender of the stream once the session is open. An agent that
// does not let it go on ends the session.
func (se *session) write(ctx context.Context, stream quarryv1.Federation_SessionServer, end context.CancelCauseFunc) {
	send := func(f *quarryv1.HubFrame) bool {
		stuck := time.AfterFunc(se.drain, func() { end(notDrained(se.drain)) })
		defer stuck.Stop()
		se.mu.Lock()
		se.credit.sent += uint64(proto.Size(f))
		se.mu.Unlock()
		return stream.Send(f) == nil // else the reader hears why
	}
	pulse := time.NewTicker(pulseOf(se.beatNow()))
	defer pulse.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-se.poke:
			frames, last := se.collect()
			for _, f := range frames {
				if !send(f) {
					return
				}
				if f.GetWelcome() != nil {
					pulse.Reset(pulseOf(se.beatNow()))
				}
			}
			if last {
				se.finishRefusal()
				return
			}
		case <-pulse.C:
			// Sent whatever the inbox is doing: a slow hub is not a dead link.
			se.mu.Lock()
			heard := se.intake.number
			stuck := se.window > 0 && se.credit.stuck(time.Now(), se.drain)
			se.mu.Unlock()
			if stuck {
				end(notDrained(se.drain))
				return
			}
			if !send(&quarryv1.HubFrame{Body: &quarryv1.HubFrame_Pulse{Pulse: &quarryv1.Pulse{Heard: heard}}}) {
				return
			}
		}
	}
}

// pulseOf is how often a hub says that it lives.
func pulseOf(beat time.Duration) time.Duration { return min(beat, 15*time.Second) }

func (se *session) beatNow() time.Duration {
	se.mu.Lock()
	defer se.mu.Unlock()
	return se.beat
}

// collect empties the mailbox into frames; last says that nothing may follow.
func (se *session) collect() (frames []*quarryv1.HubFrame, last bool) {
	se.mu.Lock()
	defer se.mu.Unlock()
	m := &se.mailbox
	w, again := m.welcome, false
	if w == nil && m.again && se.greeted && !se.intake.standby {
		c := se.welcome
		c.Wait, c.Ahead, c.Resume = false, 0, catalog.Revision{Start: se.intake.start, Counter: se.intake.upto}
		w, again = &c, true
	}
	m.again = false
	if w != nil {
		m.welcome = nil
		if w.Beat > 0 {
			se.beat = max(w.Beat, time.Millisecond)
		}
		se.greeted = true
		select {
		case se.greeting <- struct{}{}:
		default:
		}
		f := &quarryv1.Welcome{
			Version: se.version, Session: se.intake.token, Reporter: w.Reporter, BucketId: w.BucketID,
			BeatMs: uint32(se.beat.Milliseconds()), SpreadMs: uint32(max(w.Spread, 0).Milliseconds()),
			Wait: w.Wait, Ahead: uint32(max(w.Ahead, 0)),
		}
		if se.version >= wire.Moving {
			f.Credit = maxUnderway
		}
		if w.Resume.Counter > 0 {
			f.Resume = &quarryv1.Revision{Start: w.Resume.Start, Counter: w.Resume.Counter}
		}
		if !again {
			// Before the frame leaves: its answer may be here at once.
			se.welcome = *w
			se.intake.welcome(*w)
		}
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_Welcome{Welcome: f}})
	}
	if !se.greeted && m.refuse == nil {
		return nil, false // nothing comes before the Welcome
	}
	if c := &se.credit; m.refuse == nil && se.window > 0 && c.sent-c.read+maxMailbox > max(se.window, maxMailbox) {
		return frames, false // the newest waits until the agent has read; its beat pokes
	}
	for _, q := range m.quarantined {
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_Quarantined{Quarantined: q}})
	}
	m.quarantined = nil
	if m.want != nil {
		se.intake.wanted(nil)
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_WantSnapshot{WantSnapshot: &quarryv1.WantSnapshot{Why: m.want.Why}}})
		m.want = nil
	}
	if m.digests != nil {
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_WantDigests{WantDigests: &quarryv1.WantDigests{Why: m.digests.Why}}})
		m.digests = nil
	}
	if m.buckets != nil {
		buckets := slices.Compact(slices.Sorted(slices.Values(m.buckets.Buckets)))
		if len(buckets) > 0 {
			se.intake.wanted(buckets)
			frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_WantBuckets{WantBuckets: &quarryv1.WantBuckets{Buckets: buckets}}})
		}
		m.buckets = nil
	}
	frames = append(frames, se.decided()...)
	if c := &se.credit; se.version >= wire.Moving && c.taken-c.told >= maxUnderway/4 {
		c.told = c.taken
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_Credit{Credit: &quarryv1.Credit{Taken: c.taken}}})
	}
	if m.ack != nil {
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_Ack{Ack: &quarryv1.Ack{
			Applied: &quarryv1.Revision{Start: m.ack.Applied.Start, Counter: m.ack.Applied.Counter}}}})
		m.ack = nil
	}
	if m.refuse != nil {
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_Refuse{Refuse: &quarryv1.Refuse{Why: m.refuse.Why}}})
		return frames, true
	}
	return frames, false
}

// incoming is one frame as it came, or the end of the stream.
type incoming struct {
	raw []byte
	err error
}

// read passes frames on one by one. While nobody takes them it does not read,
// and the agent's stream fills.
func read(ctx context.Context, stream quarryv1.Federation_SessionServer, to chan<- incoming) {
	for {
		var f rawFrame
		err := stream.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			err = errors.New("the agent ended the stream")
		} else if err != nil {
			err = fmt.Errorf("read the agent's stream: %w", err)
		}
		select {
		case to <- incoming{f.b, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// rawFrame is a message that is left as it came, so that one that does not
// decode is the session's to judge and not the end of the stream.
type rawFrame struct{ b []byte }

// frameCodec is the protobuf codec, and leaves raw frames raw.
type frameCodec struct{}

func (frameCodec) Name() string { return protocodec.Name }

func (frameCodec) Marshal(v any) (mem.BufferSlice, error) {
	return encoding.GetCodecV2(protocodec.Name).Marshal(v)
}

func (frameCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*rawFrame); ok {
		f.b = data.Materialize()
		return nil
	}
	return encoding.GetCodecV2(protocodec.Name).Unmarshal(data, v)
}

// refusal is a reason that another attempt will not cure by itself.
type refusal struct{ why string }

func (r *refusal) Error() string { return "refused: " + r.why }

var (
	errStopping = errors.New("the hub is stopping")
	errGone     = errors.New("the agent's connection is gone")
)

// reason prefers what ended ctx to what that did to the call under way.
func reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// refuseStream ends a stream that never became a session.
func refuseStream(stream quarryv1.Federation_SessionServer, err error) error {
	var r *refusal
	if errors.As(err, &r) {
		// Best effort: the status says the same.
		_ = stream.Send(&quarryv1.HubFrame{Body: &quarryv1.HubFrame_Refuse{Refuse: &quarryv1.Refuse{Why: r.why}}})
	}
	return closing(err)
}

// closing is the status that ends a stream.
func closing(why error) error {
	var r *refusal
	if errors.As(why, &r) {
		return status.Error(codes.FailedPrecondition, r.why)
	}
	return status.Error(codes.Unavailable, why.Error())
}
