package link

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/quarry-db/quarry/hub/session"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// countingListener counts what its connections read and write.
type countingListener struct {
	net.Listener
	read, written atomic.Int64
}

type countedConn struct {
	net.Conn
	l *countingListener
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{c, l}, nil
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.l.read.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.l.written.Add(int64(n))
	return n, err
}

// most is what one session may cost a hub, either way.
const most = 1 << 20

// A hub that takes nothing has at most a megabyte from an agent under way,
// whether the agent keeps to its credit or not; the link lives on, and goes on.
func TestAHubThatTakesNothingHoldsAMegabyteAtMost(t *testing.T) {
	m := newMirror(t)
	m.beat = 500 * time.Millisecond
	release := make(chan struct{})
	m.gate = func(ctx context.Context) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis := &countingListener{Listener: inner}
	srv := session.New(session.Options{Inbox: m, Beat: m.beat, Every: -1})
	m.post = srv.Post
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Run(ctx, lis); err != nil {
			t.Error(err)
		}
	})
	defer func() { cancel(); wg.Wait() }()
	addr := inner.Addr().String()

	r, _ := startAgent(t, options(addr))
	r.Set(place("first", 1))
	r.Ready()
	eventually(t, "the first snapshot is under way", func() bool { return r.Status().Snapshots == 1 })
	want := map[string]uint64{"first": 1}
	for i := range uint64(20_000) { // three megabytes
		root := fmt.Sprintf("dbs/%d", i)
		r.Set(place(root, i))
		want[root] = i
	}
	time.Sleep(5 * m.beat)
	if n := lis.read.Load(); n > most {
		t.Errorf("%d bytes were read and not taken", n)
	}
	polite := lis.read.Load()
	m.do(func() {
		if s := r.Status(); !s.Connected || len(m.closed) > 0 {
			t.Errorf("it was taken for dead: %+v", s)
		}
	})

	// One of another make sends what it likes.
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rude, err := quarryv1.NewFederationClient(conn).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := rude.Send(&quarryv1.AgentFrame{Number: 1, Body: &quarryv1.AgentFrame_Hello{Hello: &quarryv1.Hello{
		MinVersion: 1, MaxVersion: 2, Region: "eu", Cluster: "k2", Agent: "rude", Start: 1000, Generation: 1000}}}); err != nil {
		t.Fatal(err)
	}
	f, err := rude.Recv()
	if err != nil {
		t.Fatal(err)
	}
	token := f.GetWelcome().GetSession()
	before := lis.read.Load()
	var sent atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		big := make([]byte, 200<<10)
		for n := uint64(2); ; n++ {
			// The first is a snapshot's end, and waits at the gate.
			f := &quarryv1.AgentFrame{Number: n, Session: token, Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{
				From: &quarryv1.Revision{Start: 1000}, Upto: &quarryv1.Revision{Start: 1000, Counter: n},
				Records: []*quarryv1.Record{{Kind: 4, Key: []byte("x"), Revision: n, Value: big}}}}}
			switch n {
			case 2:
				f.Body = &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{Empty: true, Digest: emptyRoot(), Upto: &quarryv1.Revision{Start: 1000}}}
			case 3:
				f.Body = &quarryv1.AgentFrame_SnapshotEnd{SnapshotEnd: &quarryv1.SnapshotEnd{}}
			}
			if rude.Send(f) != nil {
				return
			}
			sent.Add(1)
		}
	}()
	time.Sleep(time.Second)
	if n := lis.read.Load() - before; n > most || sent.Load() < 3 {
		t.Errorf("%d bytes of the rude one were read and not taken, of %d frames", n, sent.Load())
	}
	t.Logf("seed 1: of one that keeps to its credit %d bytes were under way, of one that does not %d", polite, lis.read.Load()-before)
	conn.Close()
	<-done

	close(release)
	m.do(func() { m.reporter = 1 })
	eventually(t, "all arrives", func() bool { return same(want, m.positions()) })
}
