//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// hostile opens a stream to the hub as an agent that keeps no rules.
func hostile(t testing.TB, h *hub, opts ...grpc.DialOption) quarryv1.Federation_SessionClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+h.agents, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); conn.Close() })
	s, err := quarryv1.NewFederationClient(conn).Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func hello(region, cluster string, change func(*quarryv1.Hello)) *quarryv1.AgentFrame {
	m := &quarryv1.Hello{MinVersion: 1, MaxVersion: 1, Region: region, Cluster: cluster, Agent: "hostile", Generation: 1, Start: 1, BucketId: "B"}
	if change != nil {
		change(m)
	}
	return &quarryv1.AgentFrame{Number: 1, Body: &quarryv1.AgentFrame_Hello{Hello: m}}
}

// ended reads a stream to its end and returns what ended it.
func ended(s quarryv1.Federation_SessionClient, limit time.Duration) error {
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Recv(); err != nil {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return errors.New("still open")
	}
}

// Agents that lie, babble, stall and flap do not hurt other regions: their
// changes are shown as fast as ever, and the hub stays small.
func TestChaosHostileAgents(t *testing.T) {
	t.Parallel()
	h := startHub(t, "eu,us", "--stale-after", "15s") // a loaded machine is no hostile agent
	dir := world(t)
	startAgent(t, h, "eu", "file://"+dir, nil)
	waitRows(t, h, 20*time.Second, "eu", "live", worldSize)

	for name, change := range map[string]func(*quarryv1.Hello){
		"another protocol":    func(m *quarryv1.Hello) { m.MinVersion, m.MaxVersion = 90, 99 },
		"no region":           func(m *quarryv1.Hello) { m.Region = "" },
		"a path as a region":  func(m *quarryv1.Hello) { m.Region = "../eu" },
		"a path as a cluster": func(m *quarryv1.Hello) { m.Cluster = "a/b" },
		"a huge name":         func(m *quarryv1.Hello) { m.Cluster = strings.Repeat("x", 100_000) },
		"no start":            func(m *quarryv1.Hello) { m.Start = 0 },
	} {
		s := hostile(t, h)
		if err := s.Send(hello("us", "h", change)); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if err := ended(s, 10*time.Second); err == nil || strings.Contains(err.Error(), "still open") {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A flood of a snapshot that never ends, a reader of one byte a second, one
	// that never speaks, and clusters that come and go.
	stop := make(chan struct{})
	flood := func(cluster string, opts ...grpc.DialOption) {
		s := hostile(t, h, opts...)
		go func() {
			if s.Send(hello("us", cluster, nil)) != nil {
				return
			}
			f, err := s.Recv()
			if err != nil || f.GetWelcome() == nil {
				return
			}
			token, n := f.GetWelcome().GetSession(), uint64(1)
			put := func(f *quarryv1.AgentFrame) error {
				n++
				f.Number, f.Session = n, token
				return s.Send(f)
			}
			junk := &quarryv1.Record{Kind: 1, Key: []byte("k"), Revision: 1, Value: []byte(strings.Repeat("\xff", 60_000))}
			if put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{
				Count: 1 << 40, Digest: make([]byte, 32), Upto: &quarryv1.Revision{Start: 1, Counter: 1}}}}) != nil {
				return
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if put(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBatch{SnapshotBatch: &quarryv1.SnapshotBatch{
					Records: []*quarryv1.Record{junk, junk, junk}}}}) != nil {
					return
				}
			}
		}()
	}
	defer close(stop)
	flood("flood")
	flood("standby")
	flood("slow", grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		return &slowReader{Conn: c}, err
	}))
	hostile(t, h) // never speaks
	go func() {
		for i := 0; i < 50; i++ {
			select {
			case <-stop:
				return
			default:
			}
			s := hostile(t, h)
			_ = s.Send(hello("us", fmt.Sprintf("flap-%d", i), nil))
			_, _ = s.Recv()
			_ = s.CloseSend()
		}
	}()

	var slowest time.Duration
	for i := range soak(8, 60) {
		name := fmt.Sprintf("dbs/new-%d", i)
		copyTree(t, fixture("0.15.0", "fresh", "db"), filepath.Join(dir, filepath.FromSlash(name)))
		made := time.Now()
		eventually(t, 15*time.Second, name+" is shown", func() error {
			return check(h, t, "eu", name, func(p placement) bool { return p.State == "live" })
		})
		slowest = max(slowest, time.Since(made))
	}
	rss := residentMB(t, h.cmd.Process.Pid)
	t.Logf("slowest new slate %s, hub's RSS %d MB", slowest.Round(time.Millisecond), rss)
	if rss > 1200 {
		t.Errorf("the hub has grown to %d MB", rss)
	}
	waitRegion(t, h, 5*time.Second, "eu", "connected", "")
	for _, e := range events(t, h) {
		if e.Region == "eu" && alarms[e.Type] {
			t.Errorf("eu was hurt: %+v", e)
		}
	}
}

// slowReader takes one byte a second once it is connected.
type slowReader struct {
	net.Conn
	read int
}

func (s *slowReader) Read(b []byte) (int, error) {
	if s.read > 300 { // of which the greeting of HTTP/2 is less
		time.Sleep(time.Second)
		b = b[:1]
	}
	n, err := s.Conn.Read(b)
	s.read += n
	return n, err
}
