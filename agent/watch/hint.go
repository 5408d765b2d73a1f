package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// What hints may cost. They come from anybody on this machine, so they are
// rationed before the purse is asked: however many are wrong, most of the
// budget stays with the looks that nobody asked for.
const (
	hintShare    = 0.25             // of the budget, over time
	hintCost     = 2                // requests: the next manifest, the next WAL object
	hintsBurst   = time.Minute      // what a quiet minute saves may come at once
	strangers    = 20               // roots not followed yet that wait to be listed
	strangerRest = 10 * time.Second // between two listings of such, which are dear
)

var (
	// ErrNotFollowed is wrapped when a hint is about a root that is not
	// followed and that discovery would not come to, and when this process
	// stands by.
	ErrNotFollowed = errors.New("not followed here")
	// ErrTooManyHints is returned when hints come faster than they are taken.
	ErrTooManyHints = errors.New("too many hints; what they were about is looked at in its turn")
)

// Hint is an owner's word that something has changed at a root: the next look
// at it is due now and asks everything. A root below the discovered folders
// that is not followed yet is listed soon. A hint is no evidence: it changes
// when we look and nothing of what we say, and a look is paid from the budget
// as every other. Errors wrap [catalog.ErrInvalid] when root is no root's key,
// [ErrNotFollowed] or [ErrTooManyHints]. Hint does not block and may be called
// at once.
func (w *Watcher) Hint(root string) error {
	root = strings.Trim(root, "/")
	if err := catalog.CheckName(root); err != nil {
		return fmt.Errorf("root %q: %w", root, err)
	}
	s := w.followed(root)
	switch {
	case s == nil && !w.discovers(root):
		return fmt.Errorf("root %q: %w", root, ErrNotFollowed)
	case s == nil:
		if !w.strange.add(root) {
			return ErrTooManyHints
		}
		w.looks.hurry(w.strange.look)
	case s.hinted.Load():
		// It is due already; one look answers for both.
	case !w.hints.take(time.Now()):
		return ErrTooManyHints
	default:
		s.hinted.Store(true)
		w.looks.hurry(s.lookTask)
	}
	return nil
}

// discovers reports whether discovery would come to a root by itself.
func (w *Watcher) discovers(root string) bool {
	if !w.onDuty.Load() || strings.HasPrefix(root+"/", catalog.Prefix) {
		return false
	}
	return slices.ContainsFunc(w.o.Discover, func(dir string) bool {
		if dir = strings.Trim(dir, "/"); dir != "" {
			dir += "/"
		}
		below, ok := strings.CutPrefix(root, dir)
		return ok && below != "" && w.reaches(dir, strings.Split(below, "/"))
	})
}

// reaches reports whether discovery goes down from a folder by these names:
// nothing on the way is excluded, or a root itself.
func (w *Watcher) reaches(dir string, names []string) bool {
	if len(names) > maxDepth {
		return false
	}
	at := strings.TrimSuffix(dir, "/")
	for _, name := range names {
		if at != "" && w.followed(at) != nil {
			return false
		}
		if at != "" {
			at += "/"
		}
		if at += name; w.excluded(at) {
			return false
		}
	}
	return true
}

// ration is how many more hints are taken now.
type ration struct {
	perSecond, most float64

	mu    sync.Mutex
	spent float64
	at    time.Time
}

func newRation(budget float64) *ration {
	r := &ration{perSecond: budget / 3600 * hintShare / hintCost}
	r.most = max(1, r.perSecond*hintsBurst.Seconds())
	return r
}

func (r *ration) take(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spent = max(0, r.spent-now.Sub(r.at).Seconds()*r.perSecond)
	r.at = now
	if r.spent+1 > r.most {
		return false
	}
	r.spent++
	return true
}

// unfollowed are the roots that hints named and that are not followed yet. One
// task lists them, a few at a time, so that they hold up one worker at most.
type unfollowed struct {
	look *task

	mu    sync.Mutex
	roots []string
	last  time.Time // when some were listed
}

func (u *unfollowed) add(root string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.Contains(u.roots, root) {
		return true
	}
	if len(u.roots) >= strangers {
		return false
	}
	u.roots = append(u.roots, root)
	return true
}

// take empties the list, or says how long it must rest.
func (u *unfollowed) take(now time.Time) ([]string, time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if rest := strangerRest - now.Sub(u.last); rest > 0 && len(u.roots) > 0 {
		return nil, rest
	}
	roots := u.roots
	if u.roots = nil; len(roots) > 0 {
		u.last = now
	}
	return roots, time.Hour
}

// strangersTask lists the roots that were hinted at as discovery would. What is
// recognised is followed; of what is not, nothing is said.
func (w *Watcher) strangersTask(ctx context.Context) time.Duration {
	roots, again := w.strange.take(time.Now())
	p := &pass{w: w}
	for _, root := range roots {
		objects, folders, err := p.list(ctx, root+"/")
		if err == nil {
			var l layout
			if l, err = p.recognise(ctx, root, objects, folders); err == nil && l != "" {
				w.follow(root, l)
			}
		}
		if err != nil {
			w.log.Debug("a hint was not followed", "root", root, "err", err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return again
}
