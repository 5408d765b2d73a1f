//go:build e2e

package e2e

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// tap stands on the wire between one agent and the hub, keeps what the hub says,
// and may say something else in the agent's name.
type tap struct {
	quarryv1.UnimplementedFederationServer
	addr string
	hub  quarryv1.FederationClient

	// lie is asked about each decision that the hub sends: with an answer the
	// agent never hears of it, and the hub is told the answer. nil: it is passed on.
	lie func(*quarryv1.Decision) *quarryv1.Outcome

	mu   sync.Mutex
	said []*quarryv1.HubFrame // by the hub, in order, of all sessions
}

func startTap(t testing.TB, hub string, lie func(*quarryv1.Decision) *quarryv1.Outcome) *tap {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+hub, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &tap{hub: quarryv1.NewFederationClient(conn), lie: lie}
	p.addr = serve(t, p)
	return p
}

// serve is a hub's port for agents.
func serve(t testing.TB, s quarryv1.FederationServer) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	quarryv1.RegisterFederationServer(srv, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return l.Addr().String()
}

func (p *tap) Session(agent quarryv1.Federation_SessionServer) error {
	ctx, cancel := context.WithCancel(agent.Context())
	defer cancel()
	hub, err := p.hub.Session(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex // of what goes up: a lie is a frame more, and they are numbered
	var number, session uint64
	up := func(f *quarryv1.AgentFrame) error {
		mu.Lock()
		defer mu.Unlock()
		number++
		f.Number = number
		return hub.Send(f)
	}
	go func() {
		defer cancel()
		for {
			f, err := agent.Recv()
			if err != nil || up(f) != nil {
				return
			}
		}
	}()
	for {
		f, err := hub.Recv()
		if err != nil {
			return err
		}
		if w := f.GetWelcome(); w != nil {
			session = w.GetSession()
		}
		p.mu.Lock()
		p.said = append(p.said, proto.CloneOf(f))
		p.mu.Unlock()
		if d := f.GetDecision(); d != nil && p.lie != nil {
			if o := p.lie(d); o != nil {
				if err := up(&quarryv1.AgentFrame{Session: session, Body: &quarryv1.AgentFrame_Outcome{Outcome: o}}); err != nil {
					return err
				}
				continue
			}
		}
		if err := agent.Send(f); err != nil {
			return err
		}
	}
}

// heard is what the hub has said so far.
func (p *tap) heard() []*quarryv1.HubFrame {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*quarryv1.HubFrame(nil), p.said...)
}
