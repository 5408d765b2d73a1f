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
	w.names, w.roots = now, make(map[string]string, len(now))
	for root, r := range now {
		w.roots[r.Slate] = root
	}
	w.mu.Unlock()
	for _, s := range changed {
		s.renamed()
	}
}

// hurryNamed looks at once at the slate of a name: a registered one, or a root.
func (w *Watcher) hurryNamed(name string) {
	w.mu.Lock()
	root, registered := w.roots[name]
	if !registered {
		root = name
	}
	s := w.slates[root]
	w.mu.Unlock()
	if s != nil && w.nameOf(root) == name {
		s.awaited.Store(true)
		w.looks.hurry(s.lookTask)
	}
}
