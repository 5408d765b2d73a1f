package duty

import (
	"maps"
	"sync"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Sightings is what this process sees of the region, without a request. Calls
// may run at once with everything, and do not block.
type Sightings interface {
	// Roots are the roots that are followed.
	Roots() []string
	// Sighting is what was last seen at a root; false: nothing can be said
	// of it. The caller changes nothing in it.
	Sighting(root string) (catalog.Sighting, bool)
	// Complete reports whether everything was looked at once, and leases
	// whether those were read. Until then what is not among them may be there.
	Complete() (sightings, leases bool)
}

// notes are what was told of the region since the keeper last asked.
type notes struct {
	mu     sync.Mutex
	asked  bool                     // there is a keeper
	roots  map[string]struct{}      // told of since
	leases map[string]catalog.Lease // all of them, by the path of their rows
	paths  map[string]string        // those paths by the leases' keys
	turned bool                     // a lease was told of since
	moved  chan struct{}            // one poke
}

// Saw takes in a fact that was told: of placements only that there is news, of
// leases all. It does not block, keeps nothing of a sighting, and may be called
// by many goroutines at once.
func (d *Duty) Saw(f catalog.Fact) {
	n := &d.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case f.Kind == catalog.FactPlacement && n.asked:
		n.roots[f.Key] = struct{}{}
	case f.Kind == catalog.FactLease && f.Lease != nil:
		path, _ := catalog.LeaseRow(*f.Lease)
		n.paths[f.Key], n.leases[path], n.turned = path, *f.Lease, true
	case f.Kind == catalog.FactLease:
		delete(n.leases, n.paths[f.Key])
		delete(n.paths, f.Key)
		n.turned = true
	default:
		return
	}
	if n.asked {
		select {
		case n.moved <- struct{}{}:
		default:
		}
	}
}

// ask makes notes of roots from now on, or no more.
func (n *notes) ask(now bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked, n.roots, n.turned = now, map[string]struct{}{}, true
}

// take adds the roots noted since to roots, and gives the leases of now when
// any was told of since.
func (n *notes) take(roots map[string]struct{}) (leases map[string]catalog.Lease, turned bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.Copy(roots, n.roots)
	clear(n.roots)
	if turned = n.turned; turned {
		leases, n.turned = maps.Clone(n.leases), false
	}
	return leases, turned
}

// waiting reports whether anything was noted since.
func (n *notes) waiting() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.turned || len(n.roots) > 0
}
