package watch

import (
	"context"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// What the watcher knows, for those in its process who keep it elsewhere. No
// call asks anything of the bucket, and all may be made at any time.

// Roots are the roots that are followed, in no order.
func (w *Watcher) Roots() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	roots := make([]string, 0, len(w.slates))
	for root := range w.slates {
		roots = append(roots, root)
	}
	return roots
}

// Sighting is what was last told of a root; false: nothing was, or it is not
// followed. What it points to must not be changed.
func (w *Watcher) Sighting(root string) (catalog.Sighting, bool) {
	s := w.followed(root)
	if s == nil {
		return catalog.Sighting{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Without a name it was never told.
	return s.sight, s.sight.Root != "" && s.sight.Slate != "" && !s.stopped.Load()
}

// Complete reports whether everything was looked at once, and whether leases
// were read.
func (w *Watcher) Complete() (sightings, leases bool) {
	_, ready := w.Progress()
	return ready, w.leasesRead.Load()
}

// Pay waits until a request may be made within the budget. It is for those who
// ask the bucket for the same process besides. It fails only when ctx is over.
func (w *Watcher) Pay(ctx context.Context) error { return w.purse.pay(ctx, upkeep) }
