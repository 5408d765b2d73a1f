package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/hub/session"
)

// pipes is a listener and its dialer without a network, for moving time.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
	// lost drops what agents write, mute what they would read, as a network does
	// that works one way or not at all.
	lost, mute atomic.Bool
	// idle, when positive, is after how long without a byte a connection is
	// forgotten: silently, as by a NAT, or closed, as by a proxy.
	idle    time.Duration
	closing bool
	cuts    atomic.Int64
	// down refuses to connect.
	down  atomic.Bool
	dials atomic.Int64
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	p.dials.Add(1)
	if p.down.Load() {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return newLossyConn(here, p), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type lossyConn struct {
	net.Conn
	p       *pipes
	gone    atomic.Bool // forgotten by what is between
	closed  chan struct{}
	once    sync.Once
	forgets *time.Timer
}

func newLossyConn(c net.Conn, p *pipes) *lossyConn {
	l := &lossyConn{Conn: c, p: p, closed: make(chan struct{})}
	if p.idle > 0 {
		l.forgets = time.AfterFunc(p.idle, func() {
			p.cuts.Add(1)
			l.gone.Store(true)
			if p.closing {
				l.Close()
			}
		})
	}
	return l
}

func (c *lossyConn) passes() {
	if c.forgets != nil {
		c.forgets.Reset(c.p.idle)
	}
}

func (c *lossyConn) Write(b []byte) (int, error) {
	if c.p.lost.Load() || c.gone.Load() {
		return len(b), nil
	}
	c.passes()
	return c.Conn.Write(b)
}

func (c *lossyConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil && c.p.mute.Load() {
			<-c.closed // that the other end closed is lost too
			return 0, net.ErrClosed
		} else if err != nil {
			return n, err
		}
		if !c.p.mute.Load() && !c.gone.Load() {
			c.passes()
			return n, nil
		}
		select { // its bytes are lost
		case <-c.closed:
			return 0, net.ErrClosed
		default:
		}
	}
}

func (c *lossyConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		if c.forgets != nil {
			c.forgets.Stop()
		}
	})
	if c.p.lost.Load() || c.gone.Load() && !c.p.closing {
		return c.Conn.SetDeadline(time.Now()) // the other end is not told
	}
	return c.Conn.Close()
}

// timed runs hub and agent with the intervals of production, in moved time.
func timed(t *testing.T, f func(p *pipes, m *mirror, r *report.Report)) {
	t.Helper()
	timedWith(t, newPipes(), 5*time.Second, f)
}

func timedWith(t *testing.T, p *pipes, beat time.Duration, f func(p *pipes, m *mirror, r *report.Report)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t)
		m.beat = beat
		p.conns, p.done = make(chan net.Conn), make(chan struct{}) // of this bubble
		srv := session.New(session.Options{Inbox: m})
		m.post = srv.Post
		ctx, cancel := context.WithCancel(context.Background())
		o := options("127.0.0.1:7701")
		o.Dial, o.Backoff, o.RefusedEvery = p.dial, time.Second, time.Minute
		r, err := report.New(o)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := srv.Run(ctx, p); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		f(p, m, r)
		cancel()
		wg.Wait()
	})
}

// T5: at the intervals of production, an agent whose words get lost is gone
// for the hub within 15 seconds and a healthy one never is.
func TestTheHubNoticesALinkThatWorksOneWay(t *testing.T) {
	timed(t, func(p *pipes, m *mirror, r *report.Report) {
		r.Set(place("a", 1))
		r.Ready()
		time.Sleep(10 * time.Minute)
		m.do(func() {
			if m.sessions != 1 || len(m.closed) > 0 {
				t.Fatalf("a healthy link: %d sessions, closed %v", m.sessions, m.closed)
			}
			// 600 s at 5 s, each ± 15 %.
			if n := len(m.beats); n < 105 || n > 140 {
				t.Errorf("%d beats in 10 minutes", n)
			}
		})
		p.lost.Store(true)
		time.Sleep(15*time.Second + time.Millisecond)
		m.do(func() {
			if len(m.closed) != 1 {
				t.Errorf("not noticed within three beats: %v", m.closed)
			}
		})
		p.lost.Store(false)
		time.Sleep(time.Minute)
		if s := r.Status(); !s.Connected {
			t.Errorf("not back within a minute: %+v", s)
		}
	})
}

// A hub that is away for an hour is asked ever more rarely, and found again
// within the longest window.
func TestAHubThatWasAwayIsFoundAgain(t *testing.T) {
	timed(t, func(p *pipes, m *mirror, r *report.Report) {
		p.down.Store(true)
		r.Set(place("a", 1))
		r.Ready()
		time.Sleep(time.Hour)
		if n := p.dials.Load(); n < 60 || n > 240 {
			t.Errorf("%d attempts in an hour: want about one in half a minute", n)
		}
		p.down.Store(false)
		time.Sleep(61 * time.Second)
		if got := m.positions(); got["a"] != 1 {
			t.Errorf("the hub has %v, the agent says %+v", got, r.Status())
		}
	})
}

// A refused agent asks about once a minute, for ever.
func TestARefusedAgentAsksRarely(t *testing.T) {
	timed(t, func(p *pipes, m *mirror, r *report.Report) {
		m.do(func() { m.generation = 1 << 60 })
		time.Sleep(time.Hour)
		if n := p.dials.Load(); n < 50 || n > 85 {
			t.Errorf("%d attempts in an hour", n)
		}
		if s := r.Status(); s.Refused == "" || s.Connected {
			t.Errorf("%+v", s)
		}
		m.do(func() { m.generation = 0 })
		time.Sleep(2 * time.Minute)
		if s := r.Status(); s.Refused != "" || !s.Connected {
			t.Errorf("accepted now, and it says %+v", s)
		}
	})
}
