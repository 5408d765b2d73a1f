package link

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/hub/session"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// judge is the hub's real state behind the link, without a store: what it
// would record is durable at once.
type judge struct {
	post func(state.SessionID, state.Message)

	// deaf, when set, drops events that it says to drop, as a hub with a fault.
	deaf func(e state.Event) bool

	mu     sync.Mutex
	s      *state.State
	shown  *view.View
	hellos int
	// reporters are who brought the region's facts, one after the other.
	reporters []string
}

func newJudge(t testing.TB, cfg state.Config, names ...string) *judge {
	t.Helper()
	set, err := regions.Parse(names)
	if err != nil {
		t.Fatal(err)
	}
	s := state.New(cfg, state.Saved{Regions: set}, time.Now())
	return &judge{s: s, shown: s.View()}
}

func (j *judge) Deliver(_ context.Context, e state.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := e.(state.Hello); ok {
		j.hellos++
	}
	if j.deaf != nil && j.deaf(e) {
		return nil
	}
	ready := j.s.Step(e, time.Now())
	for _, m := range ready.Send {
		j.post(m.To, m.Message)
	}
	if ready.Changed {
		j.shown = j.s.View()
		for c := range j.shown.Clusters() {
			if c.State == "reporting" && (len(j.reporters) == 0 || j.reporters[len(j.reporters)-1] != c.Agent) {
				j.reporters = append(j.reporters, c.Agent)
			}
		}
	}
	return nil
}

// run lets time pass for the state until ctx ends.
func (j *judge) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = j.Deliver(ctx, state.Tick{})
		case <-ctx.Done():
			return
		}
	}
}

func (j *judge) view() *view.View {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.shown
}

// T4: two agents of one identity, of whichever generations: at most one
// switch, none takes turns with the other, and people are told. The one that
// reports keeps on.
func TestTwoOfOneIdentitySwitchOnceAtMost(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second uint64 // generations
		wins          string
		switches      int
	}{
		{"the second is newer", 1000, 2000, "second", 1},
		{"the second is older", 2000, 1000, "first", 0},
		{"both are of the same", 1000, 1000, "first", 0},
		{"a cloned volume: the same start, another pod", 1000, 1000, "first", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newJudge(t, state.Config{}, "eu")
				p := newPipes()
				srv := session.New(session.Options{Inbox: j})
				j.post = srv.Post
				ctx, cancel := context.WithCancel(context.Background())
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := srv.Run(ctx, p); err != nil {
						t.Error(err)
					}
				})
				wg.Go(func() { j.run(ctx) })
				start := func(name string, generation, started, position uint64) *report.Report {
					o := options("127.0.0.1:7701")
					o.Agent, o.Generation, o.Start, o.Seed = name, generation, started, started
					o.Dial, o.Backoff, o.RefusedEvery = p.dial, time.Second, time.Minute
					r, err := report.New(o)
					if err != nil {
						t.Fatal(err)
					}
					r.SetHealth(report.Health{ReadOK: true, BucketID: "B"})
					r.Set(place("a", position))
					r.Ready()
					wg.Go(func() {
						if err := r.Run(ctx); err != nil {
							t.Error(err)
						}
					})
					return r
				}
				first := start("first", c.first, 1000, 1)
				time.Sleep(time.Minute)
				began := time.Now()
				started := uint64(2000)
				if strings.Contains(c.name, "cloned") {
					started = 1000
				}
				second := start("second", c.second, started, 2)
				time.Sleep(10 * time.Second)
				told := false
				events, _ := j.view().Events(0, 1000)
				for _, e := range events {
					told = told || e.Type == catalog.EventAgentRefused && !e.Time.Before(began)
				}
				if !told {
					t.Errorf("nobody was told within 10 s: %+v", events)
				}
				time.Sleep(5 * time.Minute)
				winner, loser, position := first, second, uint64(1)
				if c.wins == "second" {
					winner, loser, position = second, first, 2
				}
				if s := winner.Status(); !s.Connected || s.Role != report.RoleReporter || s.Acked != s.Head {
					t.Errorf("the winner: %+v", s)
				}
				if s := loser.Status(); s.Connected || s.Refused == "" {
					t.Errorf("the loser: %+v", s)
				}
				j.mu.Lock()
				if n := len(j.reporters) - 1; n != c.switches || j.reporters[n] != c.wins {
					t.Errorf("the region was reported by %v", j.reporters)
				}
				// Two to begin with, and a refused one asks once a minute.
				if j.hellos > 2+8 {
					t.Errorf("%d hellos in five minutes", j.hellos)
				}
				hellos := j.hellos
				j.mu.Unlock()
				if row := j.view().Placement("eu", "a"); row == nil || row.Position == nil || *row.Position != position {
					t.Errorf("the row is %+v", row)
				}
				t.Logf("seed 1: %d switches, %d hellos in five minutes; %s", c.switches, hellos, fmt.Sprint(j.reporters))
				cancel()
				wg.Wait()
			})
		})
	}
}
