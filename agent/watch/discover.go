package watch

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/opendata"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/snapshots"
)

const (
	maxDepth = 8 // levels below a configured prefix
	atOnce   = 8 // listings in flight
	// discoveryShare of the budget may go to listing the same folders again.
	discoveryShare = 0.1
	// listWeight is how many reads cost as much as a listing, at list prices.
	listWeight = 12.5
)

// pass is one discovery: the configured prefixes listed level by level, down
// to the roots that are recognised.
type pass struct {
	w *Watcher

	mu       sync.Mutex
	requests int
	found    int // roots that were not followed before
}

// discoverTask makes a pass, and says when the next is due: soon after one
// that found something, and rarely when a pass is dear.
func (w *Watcher) discoverTask(ctx context.Context) time.Duration {
	p := &pass{w: w}
	err := p.run(ctx)
	if err == nil {
		err = p.declared(ctx)
	}
	if err != nil {
		if ctx.Err() == nil {
			w.log.Debug("discovery", "err", err)
		}
		return 2 * w.o.Poll
	}
	w.mu.Lock()
	w.discovered = true
	w.mu.Unlock()
	w.ready()
	if p.found > 0 {
		w.discoverEvery = 2 * w.o.Poll
	} else {
		w.discoverEvery = min(max(2*w.discoverEvery, 2*w.o.Poll), 10*w.o.Poll)
	}
	dear := time.Duration(float64(p.requests) * listWeight * 3600 / (w.o.Budget * discoveryShare) * float64(time.Second))
	return max(w.discoverEvery, dear)
}

// run lists the levels. A folder that may not be read is passed over and told;
// a store that does not answer ends the pass: half a look is none.
func (p *pass) run(ctx context.Context) error {
	level := make([]string, 0, len(p.w.o.Discover))
	for _, prefix := range p.w.o.Discover {
		if prefix = strings.Trim(prefix, "/"); prefix != "" {
			prefix += "/"
		}
		level = append(level, prefix)
	}
	for depth := 0; len(level) > 0 && depth <= maxDepth; depth++ {
		var mu sync.Mutex
		var next []string
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(atOnce)
		for _, dir := range level {
			g.Go(func() error {
				below, err := p.visit(gctx, dir)
				mu.Lock()
				next = append(next, below...)
				mu.Unlock()
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		level = next
	}
	return nil
}

// visit lists one folder and returns those below it that are to be visited.
func (p *pass) visit(ctx context.Context, dir string) ([]string, error) {
	root := strings.TrimSuffix(dir, "/")
	s := p.w.followed(root)
	if s != nil && !s.missing() && !s.headless.Load() {
		return nil, nil
	}
	objects, folders, err := p.list(ctx, dir)
	if err != nil {
		if bucketWide(err) {
			return nil, err
		}
		p.w.log.Warn("a folder cannot be listed", "folder", dir, "err", err)
		return nil, nil
	}
	l, err := p.recognise(ctx, root, objects, folders)
	if err != nil {
		return nil, err
	}
	if l != "" {
		if p.w.follow(root, l) {
			p.mu.Lock()
			p.found++
			p.mu.Unlock()
		}
		return nil, nil
	}
	if s != nil && !s.missing() {
		return nil, nil // nothing else that we know is there
	}
	p.w.doubtAbsent(dir, folders)
	var below []string
	for _, f := range folders {
		name := strings.TrimSuffix(f, "/")
		if f == catalog.Prefix || p.w.excluded(name) {
			continue
		}
		below = append(below, f)
	}
	return below, nil
}

func (p *pass) list(ctx context.Context, dir string) ([]bucket.Object, []string, error) {
	objects, folders, err := p.w.tend.list(ctx, dir)
	p.mu.Lock()
	p.requests += 1 + (len(objects)+len(folders))/page
	p.mu.Unlock()
	return objects, folders, err
}

// recognise says what is at a root, by the names directly below it; "" when
// it is a folder like any other.
func (p *pass) recognise(ctx context.Context, root string, objects []bucket.Object, folders []string) (layout, error) {
	if catalog.CheckName(root) != nil {
		return "", nil // the bucket's own root, or a name that cannot be one
	}
	var names, subs []string
	for _, o := range objects {
		names = append(names, path.Base(o.Key))
	}
	for _, f := range folders {
		subs = append(subs, path.Base(f))
	}
	if slices.Contains(subs, "manifest") {
		// With a WAL or tables beside it this is a database, or was one: the
		// first look lists its manifests anyway. Else one more listing tells.
		if slices.Contains(subs, "wal") || slices.Contains(subs, "compacted") {
			return layoutDatabase, nil
		}
		if some, err := p.hasManifest(ctx, root); some || err != nil {
			return layoutDatabase, err
		}
	}
	if snapshots.IsPartition(path.Base(root), subs, names) {
		return layoutPartition, nil
	}
	if opendata.IsBufferListing(names) {
		return layoutBuffer, nil
	}
	for _, o := range objects {
		if path.Base(o.Key) == opendata.BufferManifest && p.w.mayBeBuffer(o) {
			raw, err := p.w.tend.Get(ctx, o.Key)
			if err != nil {
				return "", ignoreSingle(err)
			}
			if _, err := opendata.DecodeBuffer(raw); err == nil {
				return layoutBuffer, nil
			}
			p.w.notBuffer(o)
		}
	}
	return "", nil
}

var errFound = errors.New("found")

func (p *pass) hasManifest(ctx context.Context, root string) (bool, error) {
	p.mu.Lock()
	p.requests++
	p.mu.Unlock()
	err := p.w.tend.Walk(ctx, root+"/manifest/", "", func(key string, _ int64, _ time.Time) error {
		if _, ok := slatedb.ParseManifestKey(root, key); ok {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, ignoreSingle(err)
}

// declared follows what was registered wherever it is, and what the records of
// incarnations tell of that no listing shows any more.
func (p *pass) declared(ctx context.Context) error {
	var found []catalog.Finding
	for root, r := range p.w.registered() {
		if s := p.w.followed(root); s != nil && !s.missing() {
			continue
		}
		objects, folders, err := p.list(ctx, root+"/")
		if err != nil {
			if bucketWide(err) {
				return err
			}
			continue
		}
		l, err := p.recognise(ctx, root, objects, folders)
		if err != nil {
			return err
		}
		_, recorded := p.w.recall(root)
		switch {
		case l != "":
			if p.w.follow(root, l) {
				p.found++
			}
		case p.w.followed(root) == nil && !recorded:
			found = append(found, catalog.Finding{
				Code: "registration-without-root", Slate: r.Slate, Root: root, Object: catalog.InboxPrefix + r.ID + ".json",
				What: "registered, and nothing recognisable is at its root", Cure: "correct the root, or deregister it",
			})
		}
	}
	p.w.setDeclaredFindings(found)
	for root := range p.w.recollections() {
		if p.w.followed(root) != nil || p.w.excluded(root) {
			continue
		}
		m, _ := p.w.recall(root)
		r, _, err := p.w.newestRecord(ctx, root, m)
		if errors.Is(err, catalog.ErrInvalid) || err == nil && r.Incarnation == "" {
			continue
		}
		if err != nil {
			return err
		}
		p.w.follow(root, r.Layout)
	}
	return nil
}

// doubtAbsent makes the roots that were directly below a folder, and are not
// among what is listed there now, be looked at at once.
func (w *Watcher) doubtAbsent(dir string, folders []string) {
	there := make(map[string]bool, len(folders))
	for _, f := range folders {
		there[strings.TrimSuffix(f, "/")] = true
	}
	w.mu.Lock()
	var gone []*slate
	for root, s := range w.children[dir] {
		if !there[root] {
			gone = append(gone, s)
		}
	}
	w.mu.Unlock()
	for _, s := range gone {
		if !s.missing() {
			s.doubted.Store(true)
			w.looks.hurry(s.lookTask)
		}
	}
}

// excluded reports whether a folder is kept from discovery: a glob without a
// slash is compared with its own name, one with a slash with its whole key.
func (w *Watcher) excluded(folder string) bool {
	for _, glob := range w.o.Exclude {
		what := folder
		if !strings.Contains(glob, "/") {
			what = path.Base(folder)
		}
		if ok, _ := path.Match(strings.Trim(glob, "/"), what); ok {
			return true
		}
	}
	return false
}

// anything reports whether there is an object below a prefix.
func (w *Watcher) anything(ctx context.Context, e eyes, prefix string) (bool, error) {
	err := e.Walk(ctx, prefix, "", func(string, int64, time.Time) error { return errFound })
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

// bucketWide reports whether an error says something of the whole bucket and
// not of one object.
func bucketWide(err error) bool {
	return errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrNoBucket) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func ignoreSingle(err error) error {
	if err != nil && bucketWide(err) {
		return err
	}
	return nil
}
