package watch

import "github.com/quarry-db/quarry/pkg/catalog"

// nameOf is what the slate at a root is called: the registered name, else the
// root's full key.
func (w *Watcher) nameOf(root string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r, ok := w.names[root]; ok {
		return r.Slate
	}
	return root
}

// setNames takes the standing registrations over; slates whose name changes
// are told anew.
func (w *Watcher) setNames(now map[string]catalog.Registration) {
	w.mu.Lock()
	var changed []*slate
	for root, s := range w.slates {
		if w.names[root].Slate != now[root].Slate {
			changed = append(changed, s)
		}
	}
	w.names = now
	w.mu.Unlock()
	for _, s := range changed {
		s.renamed()
	}
}

func (w *Watcher) hurryNamed(name string) {
	for _, s := range w.all() {
		if w.nameOf(s.root) == name {
			s.hinted.Store(true)
			w.looks.hurry(s.lookTask)
		}
	}
}
