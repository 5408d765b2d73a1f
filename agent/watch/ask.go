package watch

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// answers are how the last look and the last upkeep of a slate went; under mu.
type answers struct{ look, upkeep error }

func (s *slate) answered(how func(*answers)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how(&s.answers)
}

// Prove looks at a root now, proves again that what is there descends from what
// was there, and returns what was seen: what may be acted on at this moment. It
// waits for its turn among the other looks, until ctx is over. An error wraps
// fs.ErrNotExist when the root is not followed and everything was looked for;
// before that it is not known, which is another error: ask again.
func (w *Watcher) Prove(ctx context.Context, root string) (catalog.Sighting, error) {
	s, err := w.follows(root)
	if err != nil {
		return catalog.Sighting{}, err
	}
	// First what is new there, then whether it is still the same.
	for _, ask := range []func(){func() { s.hinted.Store(true) }, func() { s.doubted.Store(true) }} {
		ask()
		if err := s.await(ctx, w.looks, s.lookTask); err != nil {
			return catalog.Sighting{}, err
		}
		s.mu.Lock()
		err := s.answers.look
		s.mu.Unlock()
		if err != nil {
			return catalog.Sighting{}, fmt.Errorf("look at %s: %w", root, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sight.Root == "" {
		return catalog.Sighting{}, fmt.Errorf("%s: nothing is known of it yet", root)
	}
	return s.sight, nil
}

// follows is what is followed at a root.
func (w *Watcher) follows(root string) (*slate, error) {
	_, all := w.Progress() // before it is looked for, or it may be found between the two
	switch s := w.followed(root); {
	case s != nil:
		return s, nil
	case !all:
		return nil, fmt.Errorf("%s: no slate is followed there yet, and the bucket is still being looked through", root)
	default:
		return nil, fmt.Errorf("%s: no slate is followed there: %w", root, fs.ErrNotExist)
	}
}

// Points are the restore points of a root, each with every object of it looked
// at during this call, newest first. Prove comes before it. It waits until ctx
// is over.
func (w *Watcher) Points(ctx context.Context, root string) ([]catalog.RestorePoint, error) {
	s, err := w.follows(root)
	if err != nil {
		return nil, err
	}
	for s.anew.Store(true); s.anew.Load(); {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("verify %s: %w", root, ctx.Err())
		}
		if err := s.await(ctx, w.tending, s.upkeepTask); err != nil {
			return nil, err
		}
		s.mu.Lock()
		err, seen, why := s.answers.upkeep, s.sight.Seen, s.sight.Reason
		s.mu.Unlock()
		if err == nil && seen != catalog.SeenLive {
			s.anew.Store(false)
			err = fmt.Errorf("it is %s: %s", seen, why)
		}
		if err != nil {
			return nil, fmt.Errorf("verify %s: %w", root, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	points := slices.Collect(maps.Values(s.points))
	slices.SortFunc(points, func(a, b catalog.RestorePoint) int {
		switch {
		case a.Position == nil || b.Position == nil:
			if (a.Position == nil) != (b.Position == nil) {
				if a.Position == nil {
					return 1
				}
				return -1
			}
		case *a.Position > *b.Position:
			return -1
		case *a.Position < *b.Position:
			return 1
		}
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return points, nil
}

// await waits for a run of the task that begins from now on.
func (s *slate) await(ctx context.Context, q *queue, t *task) error {
	served := q.ask(t)
	select {
	case <-served:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", s.root, ctx.Err())
	}
	if s.stopped.Load() {
		return fmt.Errorf("%s: no slate is followed there any more: %w", s.root, fs.ErrNotExist)
	}
	return nil
}

// Resync makes everything looked at in full now, as when somebody says of each
// slate that it has moved. It does not wait for it.
func (w *Watcher) Resync() {
	for _, s := range w.all() {
		s.hinted.Store(true)
		s.doubted.Store(true)
		w.looks.hurry(s.lookTask)
	}
	w.looks.hurry(w.discovery)
}
