package link

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/hub/session"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// decider is a hub that says one decision in each session, and settles its
// outcome only when it was told so often.
type decider struct {
	srv      *session.Server
	reporter bool
	d        catalog.Decision
	settleAt int

	mu       sync.Mutex
	outcomes []catalog.Outcome
	obeys    state.Obeys
	sessions []state.SessionID
}

func (h *decider) Deliver(_ context.Context, e state.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch e := e.(type) {
	case state.Hello:
		h.sessions = append(h.sessions, e.Session)
		h.srv.Post(e.Session, state.Welcome{Reporter: h.reporter, Beat: 100 * time.Millisecond})
		h.srv.Send(e.Region, h.d)
		h.srv.Send(e.Region, h.d) // said twice is said once
	case state.Beat:
		h.obeys = e.Obeys
	case state.Settled:
		h.outcomes = append(h.outcomes, e.Outcome)
		if len(h.outcomes) >= h.settleAt {
			h.srv.Post(e.Session, state.Settle{Decisions: []string{e.Outcome.Decision}})
		}
	}
	return nil
}

func (h *decider) told() []catalog.Outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]catalog.Outcome(nil), h.outcomes...)
}

func startDecider(t *testing.T, h *decider) (addr string) {
	t.Helper()
	h.srv = session.New(session.Options{Inbox: h, Every: -1})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.srv.Run(ctx, lis); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return lis.Addr().String()
}

func someDecision() catalog.Decision {
	at := uint64(80)
	return catalog.Decision{
		ID: uuid.NewString(), Verb: catalog.VerbPermit, Region: "eu", Slate: "archive/0", Root: "archive/0", Incarnation: "01J",
		Ledger: uuid.NewString(), Term: 3, Sequence: 9, Position: &at, PositionDomain: "lsn", Lineage: "restate:1:0",
		Parameters: catalog.Parameters{Restorable: 1, ValidFor: time.Hour}, Evidence: [32]byte{1}, Expires: time.Minute,
	}
}

// A decision reaches the agent, whether it reports or stands by. Its outcome is
// told in each session until the hub says that it has it durably, and then never
// again; and the hub hears whom the region obeys.
func TestAnOutcomeIsToldUntilItIsSettled(t *testing.T) {
	for name, reporter := range map[string]bool{"by the one that reports": true, "by one that stands by": false} {
		t.Run(name, func(t *testing.T) {
			h := &decider{reporter: reporter, d: someDecision(), settleAt: 2}
			addr := startDecider(t, h)
			r, _ := startAgent(t, options(addr))
			r.Ready()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			order, err := r.NextOrder(ctx)
			if err != nil || order.Err != nil || order.Decision.ID != h.d.ID || *order.Decision.Position != 80 {
				t.Fatalf("%+v, %v", order, err)
			}
			if order.Received.IsZero() || time.Since(order.Received) > time.Minute {
				t.Errorf("received %v", order.Received)
			}
			r.Obey(3, h.d.Ledger)
			o := catalog.Outcome{Decision: h.d.ID, Verb: h.d.Verb, Slate: h.d.Slate, Sequence: 9, State: catalog.OutcomeRefused,
				Reasons: []catalog.Reason{{Code: catalog.CodeAboveLimit, Message: "40 is as far as it goes"}}}
			if err := r.Settle(o); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the outcome came", func() bool { return len(h.told()) == 1 })
			eventually(t, "the hub heard whom the region obeys", func() bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.obeys == state.Obeys{Known: true, Term: 3, Ledger: h.d.Ledger}
			})
			// The hub went down before it was durable: told again.
			h.mu.Lock()
			last := h.sessions[len(h.sessions)-1]
			h.mu.Unlock()
			h.srv.Post(last, state.Refuse{Why: "going away"})
			eventually(t, "the outcome came again", func() bool { return len(h.told()) == 2 })
			select {
			case ids := <-r.Settled():
				if len(ids) != 1 || ids[0] != h.d.ID {
					t.Errorf("settled %v", ids)
				}
			case <-ctx.Done():
				t.Fatal("the agent never heard that it was settled")
			}
			h.mu.Lock()
			last, n := h.sessions[len(h.sessions)-1], len(h.sessions)
			h.mu.Unlock()
			h.srv.Post(last, state.Refuse{Why: "once more"})
			eventually(t, "a third session", func() bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return len(h.sessions) > n
			})
			// The decision is said again there: it is an order anew, for the
			// agent's journal to recognise.
			for {
				order, err := r.NextOrder(ctx)
				if err != nil {
					t.Fatal("a decision that is said again does not come again")
				}
				if order.Decision.ID == h.d.ID {
					break
				}
			}
			for _, o := range h.told() {
				if o.Region != "eu" || o.State != catalog.OutcomeRefused || o.Reasons[0].Code != catalog.CodeAboveLimit {
					t.Errorf("told %+v", o)
				}
			}
			if n := len(h.told()); n != 2 {
				t.Errorf("told %d times", n)
			}
		})
	}
}

// What cannot travel is an error where it is given, and harms no other.
func TestAnOutcomeThatSaysNothingIsRefusedAtOnce(t *testing.T) {
	r, err := report.New(options("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Settle(catalog.Outcome{Decision: "x"}); err == nil {
		t.Error("taken")
	}
}
