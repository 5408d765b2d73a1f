// Package session is the hub's end of the agents' streams: it checks what
// agents say, stages their snapshots and turns frames into events for the hub's
// loop; what the loop wants said goes out without ever making it wait.
//
// It judges no region and keeps no fact once it is delivered. Begin with
// [Server.Run] and [Server.Post].
package session

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// Inbox takes what happened. Deliver may block: then this one session stops
// reading, and its agent, not the hub, holds what is newer. It is called by
// many sessions at once, in order within one session: a Hello first, a Closed
// last. The event belongs to the inbox from then on. An error other than ctx's
// ends the session.
type Inbox interface {
	Deliver(ctx context.Context, e state.Event) error
}

// Options of a server. Inbox is needed; the rest works when zero.
type Options struct {
	Inbox Inbox
	Log   *slog.Logger
	// TLS secures the port. Without it only loopback addresses are served.
	TLS *tls.Config
	// MaxFrame is the largest frame read, in bytes; wire.MaxFrame when zero,
	// and never more.
	MaxFrame int
	// MaxSnapshot bounds the encoded bytes of one staged snapshot, 256 MiB when
	// zero. A region with more is refused.
	MaxSnapshot int
	// Beat is the interval of a session that no Welcome gave another, 5 s when
	// zero. A session is closed after three without a good frame.
	Beat time.Duration
	// Every is the least time between sessions of one agent in the long run, 3 s
	// when zero: one that comes back at once is let in a few times, and then
	// waits. Negative: none waits.
	Every time.Duration
	// Drain is how long what was said to an agent may stay unread before its
	// session is closed, 45 s when zero.
	Drain time.Duration
	// HelloWithin is how long a stream may take to say hello, 10 s when zero.
	HelloWithin time.Duration
}

// Server serves agents.
type Server struct {
	quarryv1.UnimplementedFederationServer
	o Options

	mu       sync.Mutex
	last     state.SessionID
	sessions map[state.SessionID]*session

	damper damper

	stop     context.Context // ends when Run is asked to
	children sync.WaitGroup  // the readers and writers of all streams
}

// New makes a server. It starts nothing.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxFrame <= 0 || o.MaxFrame > wire.MaxFrame {
		o.MaxFrame = wire.MaxFrame
	}
	if o.MaxSnapshot <= 0 {
		o.MaxSnapshot = 256 << 20
	}
	if o.Beat <= 0 {
		o.Beat = 5 * time.Second
	}
	if o.HelloWithin <= 0 {
		o.HelloWithin = 10 * time.Second
	}
	if o.Drain <= 0 {
		o.Drain = 45 * time.Second
	}
	if o.Every == 0 {
		o.Every = 3 * time.Second
	}
	return &Server{o: o, sessions: map[state.SessionID]*session{}, stop: context.Background(),
		damper: damper{every: o.Every, log: o.Log, flaps: map[string]*flap{}}}
}

// streamWindow is what one agent may have under way to a hub that does not
// read: the bound of what a stalled session costs.
const streamWindow = maxUnderway + 256<<10

// Run serves lis until ctx ends, then closes every session and returns nil
// when the last has gone. It closes lis. It may be called once.
func (s *Server) Run(ctx context.Context, lis net.Listener) error {
	if err := s.checkAddress(lis.Addr()); err != nil {
		lis.Close()
		return err
	}
	s.stop = ctx
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(frameCodec{}),
		// Frames between MaxFrame and this are read, so that their agent can be
		// told the limit on a session that goes on.
		grpc.MaxRecvMsgSize(4 * wire.MaxFrame),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(streamWindow),
		grpc.MaxConcurrentStreams(4), // of one connection; an agent has one
		// Most connections say little most of the time: what they hold then is
		// what a thousand of them cost.
		grpc.ReadBufferSize(8 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// Less than what the agent's side does, or it would be sent away for it.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
	if s.o.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(s.o.TLS)))
	}
	srv := grpc.NewServer(opts...)
	quarryv1.RegisterFederationServer(srv, s)

	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	var err error
	select {
	case err = <-served:
		err = fmt.Errorf("serve agents on %s: %w", lis.Addr(), err)
		srv.Stop()
	case <-ctx.Done():
		// The sessions see ctx too and say goodbye; who does not hear is cut.
		cut := time.AfterFunc(3*time.Second, srv.Stop)
		srv.GracefulStop()
		cut.Stop()
		err = <-served // nil, after a stop
	}
	s.children.Wait()
	return err
}

// checkAddress keeps an open port from strangers until agents have certificates.
func (s *Server) checkAddress(a net.Addr) error {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || s.o.TLS != nil || tcp.IP.IsLoopback() {
		return nil
	}
	return fmt.Errorf("listen for agents on %s: agents have no certificates yet, so anybody who reaches that address could report as any region; listen on a loopback address such as 127.0.0.1:%d", a, tcp.Port)
}

// Send says a decision to every session of a region whose agent understands
// decisions, and reports how many these are. It never blocks. None is an answer
// too: the caller says it again when one comes.
func (s *Server) Send(region string, d catalog.Decision) int {
	s.mu.Lock()
	var to []*session
	for _, se := range s.sessions {
		if se.intake.region == region && se.version >= wire.Deciding {
			to = append(to, se)
		}
	}
	s.mu.Unlock()
	for _, se := range to {
		se.post(state.Decide{Decision: d})
	}
	return len(to)
}

// Post says m to a session. It never blocks. Of welcomes, acknowledgements and
// each kind of wants that are not sent yet the newest wins; a Refuse ends the session once
// it is sent. A session that is gone is ignored.
func (s *Server) Post(to state.SessionID, m state.Message) {
	s.mu.Lock()
	se := s.sessions[to]
	s.mu.Unlock()
	if se != nil {
		se.post(m)
	}
}

// Session serves one agent's stream; gRPC calls it.
func (s *Server) Session(stream quarryv1.Federation_SessionServer) error {
	ctx, end := context.WithCancelCause(context.WithoutCancel(stream.Context()))
	defer end(nil)
	defer context.AfterFunc(stream.Context(), func() { end(errGone) })()
	defer context.AfterFunc(s.stop, func() { end(errStopping) })()

	frames := make(chan incoming) // unbuffered: one frame ahead at most
	s.children.Go(func() { read(ctx, stream, frames) })

	hello, offer, err := s.hello(ctx, frames)
	if err == nil {
		err = s.damper.admit(ctx, hello.Region+"\x00"+hello.Cluster+"\x00"+hello.Agent)
	}
	if err != nil {
		return refuseStream(stream, err)
	}
	se := s.open(hello, offer)
	defer s.forget(se)
	s.o.Log.Info("agent connected", "session", se.id, "region", hello.Region, "cluster", hello.Cluster, "agent", hello.Agent)
	// Deferred before the hello is delivered: whoever may have heard of the
	// session hears of its end.
	why := errors.New("closed")
	defer func() { s.closed(se, why) }()

	hello.Session = se.id
	if err := s.o.Inbox.Deliver(ctx, hello); err != nil {
		why = reason(ctx, err)
		return closing(why)
	}
	s.children.Go(func() { se.write(ctx, stream, end) })
	why = s.serve(ctx, se, frames)
	return closing(why)
}

// hello waits for the first frame.
func (s *Server) hello(ctx context.Context, frames <-chan incoming) (state.Hello, offer, error) {
	late := time.NewTimer(s.o.HelloWithin)
	defer late.Stop()
	select {
	case in := <-frames:
		if in.err != nil {
			return state.Hello{}, offer{}, in.err
		}
		f, err := wire.DecodeFrame(in.raw)
		if err != nil {
			return state.Hello{}, offer{}, &refusal{err.Error()}
		}
		h, o, err := checkHello(f)
		if err != nil {
			return state.Hello{}, offer{}, &refusal{err.Error()}
		}
		return h, o, nil
	case <-late.C:
		return state.Hello{}, offer{}, fmt.Errorf("no hello within %s", s.o.HelloWithin)
	case <-ctx.Done():
		return state.Hello{}, offer{}, context.Cause(ctx)
	}
}

func (s *Server) open(h state.Hello, o offer) *session {
	var token [8]byte
	rand.Read(token[:]) // never fails
	se := &session{
		log:      s.o.Log.With("region", h.Region, "cluster", h.Cluster),
		poke:     make(chan struct{}, 1),
		refused:  make(chan struct{}),
		greeting: make(chan struct{}, 1),
		beat:     s.o.Beat,
		maxFrame: s.o.MaxFrame,
		version:  o.version,
		window:   o.window,
		drain:    s.o.Drain,
		intake:   intake{start: h.Start, token: binary.BigEndian.Uint64(token[:]) | 1, number: 1, maxStaged: s.o.MaxSnapshot, region: h.Region},
		inbox:    s.o.Inbox,
		credit:   credit{since: time.Now()},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	se.id, se.intake.id = s.last, s.last
	s.sessions[se.id] = se
	return se
}

func (s *Server) forget(se *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, se.id)
}

// closed delivers the session's end. It waits as long as the hub runs, for a
// region whose session ended unnoticed would look connected.
func (s *Server) closed(se *session, why error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(s.stop, func() {
		select {
		case <-time.After(2 * time.Second):
			cancel()
		case <-ctx.Done():
		}
	})()
	s.o.Log.Info("agent disconnected", "session", se.id, "why", why)
	if err := s.o.Inbox.Deliver(ctx, state.Closed{Session: se.id, Why: why.Error()}); err != nil && s.stop.Err() == nil {
		s.o.Log.Error("the end of a session could not be delivered", "session", se.id, "error", err)
	}
}

// serve takes frames until something ends the session, and says what.
func (s *Server) serve(ctx context.Context, se *session, frames <-chan incoming) error {
	// Until it is welcomed an agent must not speak, so its silence counts from
	// then on.
	silent := time.NewTimer(time.Hour)
	defer silent.Stop()
	silent.Stop()
	for {
		select {
		case in := <-frames:
			if in.err != nil {
				return in.err
			}
			good, err := se.take(ctx, in.raw)
			if err != nil {
				return reason(ctx, err)
			}
			if good { // noise is no sign of life
				// After the delivery: time that the inbox made the agent wait
				// does not count against it.
				silent.Reset(se.patience())
			}
		case <-se.greeting:
			silent.Reset(se.patience())
		case <-silent.C:
			return fmt.Errorf("no frame for %s: the link is half open or the agent hangs", se.patience())
		case <-se.refused:
			return &refusal{se.refuseWhy()}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
