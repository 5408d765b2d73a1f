package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inbox remembers events; answer, when set, is called for each.
type inbox struct {
	answer func(ctx context.Context, e state.Event) error

	mu     sync.Mutex
	events []state.Event
}

func (b *inbox) Deliver(ctx context.Context, e state.Event) error {
	b.mu.Lock()
	b.events = append(b.events, e)
	b.mu.Unlock()
	if b.answer != nil {
		return b.answer(ctx, e)
	}
	return nil
}

// ends counts the Closed events of a session, and gives the reason of one.
func (b *inbox) ends(id state.SessionID) (n int, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if c, ok := e.(state.Closed); ok && c.Session == id {
			n, why = n+1, c.Why
		}
	}
	return n, why
}

func (b *inbox) has(ok func(state.Event) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if ok(e) {
			return true
		}
	}
	return false
}

// serve runs a server on loopback until the test ends or stop is called.
func serve(t *testing.T, o Options) (s *Server, addr string, stop func()) {
	t.Helper()
	o.Every = -1 // tests come often
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, lis) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, lis.Addr().String(), stop
}

// agent is a stream by hand: it says what no good agent would.
type agent struct {
	t      *testing.T
	stream quarryv1.Federation_SessionClient
	number uint64
	token  uint64
	cancel context.CancelFunc
}

func dial(t *testing.T, addr string) *agent {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := quarryv1.NewFederationClient(conn).Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &agent{t: t, stream: stream, cancel: cancel}
}

func (a *agent) say(f *quarryv1.AgentFrame) {
	a.t.Helper()
	a.number++
	f.Number, f.Session = a.number, a.token
	if err := a.stream.Send(f); err != nil {
		_, err = a.hear()
		a.t.Fatalf("send: %v", err)
	}
}

func (a *agent) hello() {
	a.t.Helper()
	a.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Hello{Hello: &quarryv1.Hello{
		MinVersion: 1, MaxVersion: 1, Region: "eu", Cluster: "k1", Start: 9, Generation: 9}}})
}

// hear gives the next frame that is no pulse.
func (a *agent) hear() (*quarryv1.HubFrame, error) {
	for {
		f, err := a.stream.Recv()
		if err != nil || f.GetPulse() == nil {
			return f, err
		}
	}
}

func (a *agent) welcome() {
	a.t.Helper()
	f, err := a.hear()
	if err != nil || f.GetWelcome() == nil {
		a.t.Fatalf("heard %v %v, want a welcome", f, err)
	}
	a.token = f.GetWelcome().GetSession()
}

// greeter welcomes every session.
func greeter(o Options, w state.Welcome) (*inbox, *Options, **Server) {
	b, srv := &inbox{}, new(*Server)
	b.answer = func(_ context.Context, e state.Event) error {
		if h, ok := e.(state.Hello); ok {
			(*srv).Post(h.Session, w)
		}
		return nil
	}
	o.Inbox = b
	return b, &o, srv
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestOnlyLoopbackIsServedWithoutCertificates(t *testing.T) {
	lis, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	err = New(Options{Inbox: &inbox{}}).Run(t.Context(), lis)
	if err == nil || !strings.Contains(err.Error(), "listen on a loopback address") {
		t.Errorf("error %v", err)
	}
	if _, err := lis.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is still open: %v", err)
	}
}

func TestAHelloThatWillNotDoIsRefusedInWords(t *testing.T) {
	b := &inbox{}
	_, addr, _ := serve(t, Options{Inbox: b})
	a := dial(t, addr)
	a.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Hello{Hello: &quarryv1.Hello{
		MinVersion: 1, MaxVersion: 1, Region: "../us", Cluster: "k1", Start: 9, Generation: 9}}})
	f, err := a.hear()
	if err != nil || !strings.Contains(f.GetRefuse().GetWhy(), `region: name "../us"`) {
		t.Fatalf("heard %v %v", f, err)
	}
	if _, err := a.hear(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the stream ended with %v", err)
	}
	if b.has(func(state.Event) bool { return true }) {
		t.Errorf("the hub heard of it: %v", b.events)
	}
}

func TestAStreamThatNeverSaysHelloIsClosed(t *testing.T) {
	_, addr, _ := serve(t, Options{Inbox: &inbox{}, HelloWithin: 20 * time.Millisecond})
	_, err := dial(t, addr).hear()
	if err == nil || !strings.Contains(err.Error(), "no hello within 20ms") {
		t.Errorf("error %v", err)
	}
}

// T19: an oversize frame is told its limit, and the session goes on.
func TestAnOversizeFrameIsToldTheLimit(t *testing.T) {
	b, o, srv := greeter(Options{}, state.Welcome{Reporter: true, Beat: 10 * time.Second})
	s, addr, _ := serve(t, *o)
	*srv = s
	a := dial(t, addr)
	a.hello()
	a.welcome()
	big := func(n int) *quarryv1.AgentFrame {
		return &quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBatch{SnapshotBatch: &quarryv1.SnapshotBatch{
			Records: []*quarryv1.Record{{Kind: 1, Key: []byte("a"), Revision: 1, Value: make([]byte, n)}}}}}
	}
	a.say(big(wire.MaxFrame))
	f, err := a.hear()
	if err != nil || !strings.Contains(f.GetQuarantined().GetWhy(), "at most 262144") {
		t.Fatalf("heard %v %v", f, err)
	}
	a.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Beat{Beat: &quarryv1.Beat{ReadOk: true}}})
	within(t, "the next beat is heard", func() bool {
		return b.has(func(e state.Event) bool { x, ok := e.(state.Beat); return ok && x.ReadOK })
	})
	// What is too large to be read at all ends the stream, by gRPC, with the limit.
	a.say(big(5 << 20))
	for err = nil; err == nil; {
		_, err = a.hear()
	}
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), fmt.Sprint(4*wire.MaxFrame)) {
		t.Errorf("the stream ended with %v", err)
	}
	within(t, "the session is closed, once", func() bool { n, _ := b.ends(1); return n == 1 })
}

// T5: an agent that was welcomed and is silent for three beats is gone,
// whatever its socket says.
func TestASilentAgentIsTakenForGone(t *testing.T) {
	b, o, srv := greeter(Options{}, state.Welcome{Beat: 20 * time.Millisecond})
	s, addr, stop := serve(t, *o)
	*srv = s
	a := dial(t, addr)
	a.hello()
	a.welcome()
	within(t, "closed", func() bool { n, _ := b.ends(1); return n > 0 })
	if _, why := b.ends(1); !strings.Contains(why, "no frame for 60ms") {
		t.Errorf("closed: %s", why)
	}
	stop()
	if n, _ := b.ends(1); n != 1 {
		t.Errorf("closed %d times", n)
	}
}

// A hub that is slow to welcome must not take the waiting agent for dead: it
// may not speak yet. And a pulse tells the agent that the hub is there.
func TestAnAgentThatWaitsForItsWelcomeIsNotSilent(t *testing.T) {
	b := &inbox{}
	s, addr, _ := serve(t, Options{Inbox: b, Beat: 5 * time.Millisecond})
	a := dial(t, addr)
	a.hello()
	for range 8 { // well over three beats
		f, err := a.stream.Recv()
		if err != nil || f.GetPulse().GetHeard() != 1 {
			t.Fatalf("heard %v %v, want a pulse", f, err)
		}
	}
	if n, why := b.ends(1); n > 0 {
		t.Fatalf("closed: %s", why)
	}
	s.Post(1, state.Welcome{Beat: time.Second})
	a.welcome()
}

func TestARefuseIsSaidAndEndsTheSession(t *testing.T) {
	b := &inbox{}
	s, addr, _ := serve(t, Options{Inbox: b})
	b.answer = func(_ context.Context, e state.Event) error {
		if h, ok := e.(state.Hello); ok {
			s.Post(h.Session, state.Refuse{Why: "region eu is retired"})
		}
		return nil
	}
	a := dial(t, addr)
	a.hello()
	f, err := a.hear()
	if err != nil || f.GetRefuse().GetWhy() != "region eu is retired" {
		t.Fatalf("heard %v %v", f, err)
	}
	if _, err = a.hear(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the stream ended with %v", err)
	}
	within(t, "closed", func() bool { n, _ := b.ends(1); return n == 1 })
	s.Post(1, state.Ack{}) // gone: ignored
}

// T9: an agent that reads nothing costs its session's mailbox and no more, and
// never makes the hub's loop wait.
func TestPostNeverWaitsForAnAgentThatDoesNotRead(t *testing.T) {
	b, o, srv := greeter(Options{}, state.Welcome{Reporter: true, Beat: 10 * time.Second})
	s, addr, stop := serve(t, *o)
	*srv = s
	a := dial(t, addr)
	a.hello()
	a.welcome()
	why := strings.Repeat("x", 10_000)
	began := time.Now()
	for i := range uint64(20_000) { // 200 MB, if it were queued
		s.Post(1, state.WantSnapshot{Why: why})
		s.Post(1, state.Ack{Applied: catalog.Revision{Start: 9, Counter: i}})
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("40000 posts took %s", d)
	}
	s.Post(1, state.Ack{Applied: catalog.Revision{Start: 9, Counter: 77777}})
	// What is heard in the end is the newest.
	for last := uint64(0); last != 77777; {
		f, err := a.hear()
		if err != nil {
			t.Fatal(err)
		}
		if f.GetAck() != nil {
			last = f.GetAck().GetApplied().GetCounter()
		}
	}
	stop()
	if n, why := b.ends(1); n != 1 || !strings.Contains(why, "stopping") {
		t.Errorf("closed %d times: %s", n, why)
	}
}

// While the inbox is full the session does not read on; that is not held
// against the agent, and the other sessions flow.
func TestAFullInboxStopsOneSessionAndNoOther(t *testing.T) {
	b := &inbox{}
	s, addr, _ := serve(t, Options{Inbox: b})
	release := make(chan struct{})
	b.answer = func(ctx context.Context, e state.Event) error {
		switch e := e.(type) {
		case state.Hello:
			s.Post(e.Session, state.Welcome{Reporter: true, Beat: 300 * time.Millisecond})
		case state.Beat:
			if e.Session == 1 {
				select {
				case <-release:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	}
	slow, quick := dial(t, addr), dial(t, addr)
	beat := func() *quarryv1.AgentFrame {
		return &quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Beat{Beat: &quarryv1.Beat{}}}
	}
	slow.hello()
	slow.welcome()
	quick.hello()
	quick.welcome()
	slow.say(beat())
	said := 0
	for began := time.Now(); time.Since(began) < 1200*time.Millisecond; said++ { // more than three beats
		quick.say(beat())
		time.Sleep(10 * time.Millisecond)
	}
	beats := func(id state.SessionID) (n int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, e := range b.events {
			if x, ok := e.(state.Beat); ok && x.Session == id {
				n++
			}
		}
		return n
	}
	within(t, "the other's beats are heard", func() bool { return beats(2) == said })
	if n, why := b.ends(1); n > 0 {
		t.Fatalf("the slow one was closed: %s", why)
	}
	close(release)
	slow.say(beat())
	within(t, "it goes on", func() bool { return beats(1) == 2 })
}

// An inbox that fails ends the session that it failed, with its reason.
func TestAnInboxThatFailsEndsTheSession(t *testing.T) {
	b := &inbox{}
	b.answer = func(_ context.Context, e state.Event) error {
		if _, ok := e.(state.Hello); ok {
			return errors.New("the loop has ended")
		}
		return nil
	}
	_, addr, _ := serve(t, Options{Inbox: b})
	a := dial(t, addr)
	a.hello()
	if _, err := a.hear(); err == nil || !strings.Contains(err.Error(), "the loop has ended") {
		t.Errorf("the stream ended with %v", err)
	}
	within(t, "closed", func() bool { n, _ := b.ends(1); return n == 1 })
}

// However a session ends, its end is told once, after all else.
func TestTheEndIsToldOnceAndLast(t *testing.T) {
	b, o, srv := greeter(Options{}, state.Welcome{Reporter: true, Beat: time.Second})
	s, addr, stop := serve(t, *o)
	*srv = s
	for i := range 20 {
		a := dial(t, addr)
		a.hello()
		if i%2 == 0 {
			a.welcome()
			a.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Beat{Beat: &quarryv1.Beat{}}})
		}
		switch i % 4 {
		case 0, 1:
			a.cancel()
		case 2:
			a.stream.CloseSend()
		}
	}
	within(t, "half have ended", func() bool {
		n := 0
		for id := range state.SessionID(20) {
			e, _ := b.ends(id + 1)
			n += e
		}
		return n >= 5
	})
	stop()
	ended := map[state.SessionID]bool{}
	hello := map[state.SessionID]bool{}
	for _, e := range b.events {
		var id state.SessionID
		switch e := e.(type) {
		case state.Hello:
			id = e.Session
			hello[id] = true
		case state.Beat:
			id = e.Session
		case state.Closed:
			id = e.Session
			if ended[id] {
				t.Errorf("session %d ended twice", id)
			}
			ended[id] = true
			continue
		}
		if ended[id] {
			t.Errorf("%T of session %d after its end", e, id)
		}
	}
	if len(ended) != len(hello) {
		t.Errorf("%d sessions, %d ends", len(hello), len(ended))
	}
}
