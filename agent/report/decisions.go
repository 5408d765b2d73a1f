package report

import (
	"context"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// Order is a decision as it came.
type Order struct {
	Decision catalog.Decision
	// Received is when it came first, on this process's clock, monotonic: its
	// time counts from there.
	Received time.Time
	// Err says why it cannot be understood, wrapping catalog.ErrInvalid; then
	// Decision has what could be read, its id perhaps.
	Err error
}

// orders are the decisions that came and the outcomes that go. Everything is
// under the report's lock.
type orders struct {
	waiting []Order
	came    chan struct{} // one poke: something waits
	settled chan []string // what the hub has, for whoever prunes

	outcomes []outcome // not settled, in the order in which they were given

	term   *uint64 // nil: not known yet
	ledger string
}

type outcome struct {
	id   string
	m    *quarryv1.Outcome
	told bool // in this stream
}

// maxOrders bounds what waits for the agent to act. The hub says again what
// did not fit.
const maxOrders = 1024

func newOrders() orders {
	return orders{came: make(chan struct{}, 1), settled: make(chan []string, 64)}
}

func (o *orders) receive(m *quarryv1.Decision, now time.Time) {
	d, err := wire.ToDecision(m)
	if len(o.waiting) >= maxOrders || slices.ContainsFunc(o.waiting, func(w Order) bool { return w.Decision.ID == d.ID }) {
		return
	}
	// An outcome that is known is told again, whatever has been told.
	for i := range o.outcomes {
		if o.outcomes[i].id == d.ID {
			return
		}
	}
	o.waiting = append(o.waiting, Order{Decision: d, Received: now, Err: err})
	select {
	case o.came <- struct{}{}:
	default:
	}
}

func (o *orders) settle(ids []string) {
	o.outcomes = slices.DeleteFunc(o.outcomes, func(x outcome) bool { return slices.Contains(ids, x.id) })
	select {
	case o.settled <- ids:
	default: // who prunes finds out otherwise
	}
}

// begin makes a new stream tell everything that is not settled.
func (o *orders) begin() {
	for i := range o.outcomes {
		o.outcomes[i].told = false
	}
}

// next is the next outcome to tell, nil when there is none.
func (o *orders) next() *quarryv1.Outcome {
	for i := range o.outcomes {
		if !o.outcomes[i].told {
			o.outcomes[i].told = true
			return o.outcomes[i].m
		}
	}
	return nil
}

// NextOrder waits for the next decision; the error is ctx's. The hub says a
// decision again in each session until its outcome is settled, so the same one
// may come more than once. One goroutine may call it.
func (r *Report) NextOrder(ctx context.Context) (Order, error) {
	for {
		r.mu.Lock()
		if len(r.orders.waiting) > 0 {
			o := r.orders.waiting[0]
			r.orders.waiting = slices.Delete(r.orders.waiting, 0, 1)
			r.mu.Unlock()
			return o, nil
		}
		r.mu.Unlock()
		select {
		case <-r.orders.came:
		case <-ctx.Done():
			return Order{}, ctx.Err()
		}
	}
}

// Settle tells the hub how a decision ended, in this session and in each later
// one until the hub has it. The outcome must be durable in the region's journal:
// telling it is not what makes it so. One that cannot travel is an error.
func (r *Report) Settle(o catalog.Outcome) error {
	m, err := wire.FromOutcome(&o)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.ContainsFunc(r.orders.outcomes, func(x outcome) bool { return x.id == o.Decision }) {
		r.orders.outcomes = append(r.orders.outcomes, outcome{id: o.Decision, m: m})
		r.poke()
	}
	return nil
}

// Settled gives the decisions whose outcomes the hub says it has, as it says so.
// What nobody takes is dropped: the hub says it again when it is told again.
func (r *Report) Settled() <-chan []string { return r.orders.settled }

// Obey says whom this region has obeyed so far, as its bucket has it: told with
// the next hello and each beat. Before it is called nothing is said of it.
func (r *Report) Obey(term uint64, ledger string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.orders.term == nil || *r.orders.term != term || r.orders.ledger != ledger {
		r.orders.term, r.orders.ledger = &term, ledger
		r.urgent = true
		r.poke()
	}
}
