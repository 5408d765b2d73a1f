package link

import (
	"fmt"
	"testing"
	"time"

	"github.com/quarry-db/quarry/agent/report"
)

// T5: a link on which nothing passes any more, in one direction or both, is
// noticed by both ends within 45 s, whatever the beat; a healthy one is never
// taken for such.
func TestADeadLinkIsNoticedAtBothEnds(t *testing.T) {
	for _, beat := range []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 28 * time.Second} {
		for _, c := range []struct {
			name       string
			lost, mute bool
		}{{"the agent's words are lost", true, false}, {"the hub's words are lost", false, true}, {"all is lost", true, true}} {
			t.Run(fmt.Sprintf("beat %s, %s", beat, c.name), func(t *testing.T) {
				timedWith(t, newPipes(), beat, func(p *pipes, m *mirror, r *report.Report) {
					r.Set(place("a", 1))
					r.Ready()
					time.Sleep(30 * time.Minute)
					m.do(func() {
						if m.sessions != 1 || len(m.closed) > 0 {
							t.Fatalf("a healthy link: %d sessions, closed %v", m.sessions, m.closed)
						}
					})
					p.lost.Store(c.lost)
					p.mute.Store(c.mute)
					var hub, agent time.Duration
					for began := time.Now(); time.Since(began) < 2*time.Minute && (hub == 0 || agent == 0); time.Sleep(100 * time.Millisecond) {
						if s := r.Status(); agent == 0 && !s.Connected {
							agent = time.Since(began)
						}
						m.do(func() {
							if hub == 0 && len(m.closed) > 0 {
								hub = time.Since(began)
							}
						})
					}
					if hub == 0 || hub > 45*time.Second || agent == 0 || agent > 45*time.Second {
						t.Errorf("the hub noticed after %s, the agent after %s", hub, agent)
					}
					p.lost.Store(false)
					p.mute.Store(false)
					r.Set(place("a", 2))
					time.Sleep(2 * time.Minute)
					if got := m.positions(); got["a"] != 2 {
						t.Errorf("two minutes after: %v, %+v", got, r.Status())
					}
					m.do(func() {
						if m.mismatches > 0 {
							t.Errorf("%d mismatches", m.mismatches)
						}
					})
					t.Logf("seed 1: the hub noticed after %s, the agent after %s", hub, agent)
				})
			})
		}
	}
}

// T5: what is between forgets connections that say nothing for a while. Ours
// never do, for a day.
func TestWhatForgetsIdleConnectionsForgetsNoneOfOurs(t *testing.T) {
	for _, c := range []struct {
		name    string
		idle    time.Duration
		closing bool
	}{
		{"a NAT of 30s", 30 * time.Second, false}, {"a NAT of 350s", 350 * time.Second, false},
		{"a proxy of 60s", time.Minute, true}, {"a proxy of 600s", 10 * time.Minute, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPipes()
			p.idle, p.closing = c.idle, c.closing
			timedWith(t, p, 5*time.Second, func(p *pipes, m *mirror, r *report.Report) {
				r.Set(place("a", 1))
				r.Ready()
				time.Sleep(24 * time.Hour)
				m.do(func() {
					if m.sessions != 1 || len(m.closed) > 0 || p.cuts.Load() > 0 {
						t.Errorf("in a day: %d sessions, closed %v, %d connections forgotten", m.sessions, m.closed, p.cuts.Load())
					}
				})
			})
		})
	}
}

// A NAT that forgets faster than we beat is no match either: the link breaks,
// is noticed, and what changed arrives with the next.
func TestANATThatForgetsFasterThanWeBeatDelaysAndLosesNothing(t *testing.T) {
	p := newPipes()
	p.idle = 3 * time.Second
	timedWith(t, p, 5*time.Second, func(p *pipes, m *mirror, r *report.Report) {
		r.Set(place("a", 0))
		r.Ready()
		for i := range uint64(200) {
			r.Set(place("a", i))
			time.Sleep(20 * time.Second)
		}
		time.Sleep(2 * time.Minute)
		if got := m.positions(); got["a"] != 199 {
			t.Errorf("the hub has %v", got)
		}
		m.do(func() {
			if m.mismatches > 0 || p.cuts.Load() < 20 {
				t.Errorf("%d mismatches, %d connections forgotten", m.mismatches, p.cuts.Load())
			}
			t.Logf("seed 1: %d connections forgotten, %d sessions, %d snapshots, %d mismatches", p.cuts.Load(), m.sessions, m.snapshots, m.mismatches)
		})
	})
}
