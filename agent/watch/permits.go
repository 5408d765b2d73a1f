package watch

import (
	"context"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// permitsTask tells the permit that rules each slate, as it lies in the bucket:
// what an agent says that it wrote is one thing, what is seen there another.
// One that cannot be understood is told as none: its owner may not cut by it.
func (w *Watcher) permitsTask(ctx context.Context) time.Duration {
	const every = 10
	newest := map[string]uint64{}
	err := w.look.Walk(ctx, catalog.PermitsPrefix, "", func(key string, _ int64, _ time.Time) error {
		if slate, n, ok := catalog.ParsePermitKey(key); ok {
			newest[slate] = max(newest[slate], n)
		}
		return nil
	})
	if err != nil {
		return every * w.o.Poll
	}
	for slate, n := range newest {
		if w.permits[slate] == n {
			continue
		}
		raw, err := w.look.Get(ctx, catalog.PermitKey(slate, n))
		if err != nil {
			continue // the next time
		}
		w.permits[slate] = n
		p, err := catalog.DecodePermit(raw)
		if err != nil || p.Slate != slate || p.Number != n {
			w.log.Warn("a permit cannot be understood", "slate", slate, "number", n, "error", err)
			w.to.Withdraw(catalog.FactPermit, catalog.PermitFactKey(slate), "the newest cannot be understood")
			continue
		}
		w.to.Set(catalog.Fact{Kind: catalog.FactPermit, Key: catalog.PermitFactKey(slate), Permit: &p})
	}
	for slate := range w.permits {
		if newest[slate] == 0 {
			delete(w.permits, slate)
			w.to.Withdraw(catalog.FactPermit, catalog.PermitFactKey(slate), "its object was removed")
		}
	}
	return every * w.o.Poll
}
