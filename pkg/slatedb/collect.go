package slatedb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// ErrUnproven is wrapped when something that may hold objects could not be
// read: then nothing is known to be garbage.
var ErrUnproven = errors.New("what this holds is not known, so nothing is collected")

// CollectOptions say what a collection may take.
type CollectOptions struct {
	// MinAge is how old an object must be; 0 means 15 minutes. Less is for
	// databases that nobody else writes or reads.
	MinAge time.Duration
	// FenceAge is the same of WAL objects that may be fences; 0 means a
	// day, and never less than MinAge.
	FenceAge time.Duration
	// Only, when not nil, is what [Admin.PlanCollection] has shown: nothing
	// else is taken.
	Only []Garbage
	// Progress is told each object when it is gone and how many there are.
	// One call at a time; nil: nobody is told.
	Progress func(done, total int, key string)

	sole bool                          // the caller is the only compactor, and at rest
	only map[string]bool               // keys of Only
	read map[uint64]*manifest.Manifest // manifests that were read; they do not change
}

func (o *CollectOptions) complete() error {
	if o.MinAge < 0 || o.FenceAge < 0 {
		return fmt.Errorf("ages of %v and %v: %w; 0 is the default", o.MinAge, o.FenceAge, fs.ErrInvalid)
	}
	set(&o.MinAge, 15*time.Minute)
	set(&o.FenceAge, 24*time.Hour)
	o.FenceAge = max(o.FenceAge, o.MinAge)
	o.read = map[uint64]*manifest.Manifest{}
	if o.Only != nil {
		o.only = map[string]bool{}
		for _, g := range o.Only {
			o.only[g.Key] = true
		}
	}
	return nil
}

// Garbage is an object that nothing needs.
type Garbage struct {
	Class Class `json:"class"`
	Stored
}

// Keeping counts the objects of one class that are kept for one reason.
type Keeping struct {
	Class   Class `json:"class"`
	Why     Kept  `json:"why"`
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Collection is what a collection takes, or has taken.
type Collection struct {
	Root       string `json:"root"`
	ManifestID uint64 `json:"manifest_id"`
	// Now is the time ages are counted to: of a plan our clock, of a pass
	// the lesser of our clock and the store's.
	Now     time.Time `json:"now"`
	Garbage []Garbage `json:"garbage"`
	Bytes   int64     `json:"bytes"` // of Garbage
	Kept    []Keeping `json:"kept"`
	// The collector's marks as they will be: the highest ids that are gone.
	// 0 where nothing of the kind ever was collected.
	ManifestBoundary    uint64 `json:"manifest_boundary"`
	CompactionsBoundary uint64 `json:"compactions_boundary"`
}

// PlanCollection tells what [Admin.Collect] would take now. It writes nothing.
//
// It refuses like every change of the database does, and with [ErrUnproven]
// when the manifest of a checkpoint is gone or damaged, the WAL has a hole, or
// the compactor's state has what this release does not know.
func (a *Admin) PlanCollection(ctx context.Context, o CollectOptions) (Collection, error) {
	if err := o.complete(); err != nil {
		return Collection{}, err
	}
	now := a.now()
	h, err := a.holdings(ctx, &o, now)
	if err != nil {
		return Collection{}, err
	}
	return a.planCollection(ctx, h, &o, now)
}

// holdings reads everything that holds objects. The order matters: a compaction
// that ends between the first and the second read is in the manifest then, and
// one that ends after both is in the compactor's state.
func (a *Admin) holdings(ctx context.Context, o *CollectOptions, now time.Time) (*holdings, error) {
	h := &holdings{root: a.Root, sole: o.sole, manifests: map[uint64]bool{}}
	var err error
	h.compactions, err = LatestCompactions(ctx, a.Store, a.Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrUnproven, err)
	}
	if h.compactions != nil && h.compactions.Compactions.UnknownFields {
		return nil, &ObjectError{Key: CompactionsKey(a.Root, h.compactions.ID), Err: fmt.Errorf("fields that this release of quarry does not know: %w", ErrUnproven)}
	}
	if h.head, err = aboveBoundary(ctx, a.Store, a.Root, nil); err != nil {
		return nil, err
	}
	if err := writable(h.head, a.WALStore != nil); err != nil {
		return nil, err
	}
	m := h.head.Manifest
	if _, err := a.walEnd(ctx, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnproven, err)
	}
	h.states = []pinnedState{{h.head.ID, m, false}}
	all, err := listed(ctx, a.Store, below(a.Root, "manifest/"), "")
	if err != nil {
		return nil, err
	}
	for _, c := range m.Checkpoints {
		if gone, err := a.lapsed(ctx, h.head, c, all, o, now); err != nil {
			return nil, err
		} else if gone {
			continue
		}
		h.manifests[c.ManifestID] = true
		if slices.ContainsFunc(h.states, func(st pinnedState) bool { return st.checkpoint && st.id == c.ManifestID }) {
			continue
		}
		// That of the newest manifest too: as a checkpoint it also holds WAL.
		pinned, err := a.readOnce(ctx, o, c.ManifestID)
		if errors.Is(err, ErrMissing) && c.Expired(now) {
			continue // it had lapsed: a collector, ours or SlateDB's, was here
		}
		if err == nil && pinned.UnknownFields {
			err = &ObjectError{Key: ManifestKey(a.Root, c.ManifestID), Err: errors.New("fields that this release of quarry does not know")}
		}
		if err != nil {
			return nil, fmt.Errorf("checkpoint %s: %w: %w", c.ID, ErrUnproven, err)
		}
		h.states = append(h.states, pinnedState{c.ManifestID, pinned, true})
	}
	h.settle()
	return h, nil
}

// lapsed reports whether a checkpoint holds nothing any more: it has expired,
// and it stands unchanged since longer than the lifetime it was given and the
// minimum age. That is counted on the store's clock, from a manifest that has it
// as it is now, so a holder whose clock is behind is not robbed. The entry
// itself stays, for whoever made it or SlateDB's collector to remove.
func (a *Admin) lapsed(ctx context.Context, h *Head, c manifest.Checkpoint, all []Stored, o *CollectOptions, now time.Time) (bool, error) {
	if !c.Expired(now) || c.Lifetime() <= 0 {
		return false, nil
	}
	since := now.Add(-c.Lifetime() - o.MinAge)
	// The newest one that is old enough tells of most of them; after a
	// collection the one that it pins may be the only one left.
	var newest, own uint64
	for _, m := range all {
		id, ok := ParseManifestKey(a.Root, m.Key)
		if !ok || id > h.ID || !m.Modified.Before(since) {
			continue
		}
		if newest = max(newest, id); id == c.ManifestID {
			own = id
		}
	}
	for _, id := range []uint64{newest, own} {
		if id == 0 {
			continue
		}
		m, err := a.readOnce(ctx, o, id)
		if errors.Is(err, ErrMissing) || undecodable(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		if i := m.Checkpoint(c.ID); i >= 0 && m.Checkpoints[i].Expire.Equal(c.Expire) && m.Checkpoints[i].ManifestID == c.ManifestID {
			return true, nil
		}
	}
	return false, nil
}

// readOnce reads a manifest, once in a pass.
func (a *Admin) readOnce(ctx context.Context, o *CollectOptions, id uint64) (*manifest.Manifest, error) {
	if m := o.read[id]; m != nil {
		return m, nil
	}
	m, err := readManifest(ctx, a.Store, ManifestKey(a.Root, id))
	if err == nil {
		o.read[id] = m
	}
	return m, err
}

// planCollection lists the objects and divides them.
func (a *Admin) planCollection(ctx context.Context, h *holdings, o *CollectOptions, now time.Time) (Collection, error) {
	p := Collection{Root: a.Root, ManifestID: h.head.ID, Now: now, Garbage: []Garbage{}, Kept: []Keeping{}}
	var keptManifests, keptStates []uint64
	for _, l := range []struct {
		class  Class
		s      Store
		folder string
	}{
		{ClassCompactions, a.Store, "compactions/"}, {ClassWAL, a.walStore(), "wal/"},
		{ClassTable, a.Store, "compacted/"}, {ClassManifest, a.Store, "manifest/"},
	} {
		err := l.s.Walk(ctx, below(a.Root, l.folder), "", func(key string, size int64, modified time.Time) error {
			g := Garbage{l.class, Stored{key, size, modified}}
			why := h.keeps(l.class, g.Stored, o, now)
			if why == "" && o.only != nil && !o.only[key] {
				why = KeptYoung // it was, when the plan was shown
			}
			if why == "" {
				p.Garbage, p.Bytes = append(p.Garbage, g), p.Bytes+size
				return nil
			}
			p.keep(l.class, why, size)
			if id, ok := ParseManifestKey(a.Root, key); ok {
				keptManifests = append(keptManifests, id)
			} else if id, ok := ParseCompactionsKey(a.Root, key); ok {
				keptStates = append(keptStates, id)
			}
			return nil
		})
		if err != nil {
			return Collection{}, fmt.Errorf("list %s: %w", below(a.Root, l.folder), err)
		}
	}
	p.ManifestBoundary = lastGone(h.head.ID, keptManifests)
	if h.compactions != nil {
		p.CompactionsBoundary = lastGone(h.compactions.ID, keptStates)
	}
	return p, nil
}

func (p *Collection) keep(c Class, why Kept, size int64) {
	i := slices.IndexFunc(p.Kept, func(k Keeping) bool { return k.Class == c && k.Why == why })
	if i < 0 {
		i = len(p.Kept)
		p.Kept = append(p.Kept, Keeping{Class: c, Why: why})
	}
	p.Kept[i].Objects++
	p.Kept[i].Bytes += size
}

// lastGone returns the highest id below newest that is not among kept: what it
// and those before it were, somebody may still expect to find, and only the
// mark tells him that they are gone. Ids begin with 1.
func lastGone(newest uint64, kept []uint64) uint64 {
	slices.Sort(kept)
	for i := len(kept) - 1; i >= 0 && newest > 1; i-- {
		switch {
		case kept[i] >= newest:
		case kept[i] == newest-1:
			newest--
		default:
			return newest - 1
		}
	}
	return newest - min(newest, 1)
}

// Collect removes what nothing needs, under the rules of SlateDB's own
// collector and stricter ones: it removes no checkpoint, and one that has
// expired holds for as long again as it was given, by the store's clock; it
// counts ages to the lesser of our clock and the store's; it keeps what may be a
// fence for a day. Before each class it
// reads again what holds objects. The collector's marks are raised before the
// manifests and states they stand for go. It returns what was removed, also
// with an error. It may be stopped at any moment and run again, beside writers,
// compactors and other collectors.
func (a *Admin) Collect(ctx context.Context, o CollectOptions) (Collection, error) {
	if err := o.complete(); err != nil {
		return Collection{}, err
	}
	now, err := a.storeTime(ctx)
	if err != nil {
		return Collection{}, err
	}
	h, err := a.holdings(ctx, &o, now)
	if err != nil {
		return Collection{}, err
	}
	plan, err := a.planCollection(ctx, h, &o, now)
	if err != nil {
		return Collection{}, err
	}
	gone := plan
	gone.Garbage, gone.Bytes = []Garbage{}, 0
	for _, class := range []Class{ClassCompactions, ClassWAL, ClassTable, ClassManifest} {
		if err := a.collectClass(ctx, class, &plan, &gone, &o); err != nil {
			return gone, fmt.Errorf("collect %s: %w", named(a.Root), err)
		}
	}
	return gone, nil
}

// collectClass removes what the plan has of one class and what is still
// garbage now.
func (a *Admin) collectClass(ctx context.Context, c Class, plan, gone *Collection, o *CollectOptions) error {
	var victims []Garbage
	for _, g := range plan.Garbage {
		if g.Class == c {
			victims = append(victims, g)
		}
	}
	mark := func() error { return nil }
	switch {
	case c == ClassManifest && plan.ManifestBoundary > 0:
		mark = func() error {
			_, err := a.raiseBoundary(ctx, BoundaryKey(a.Root), plan.ManifestBoundary)
			return err
		}
	case c == ClassCompactions && plan.CompactionsBoundary > 0:
		mark = func() error {
			_, err := a.raiseBoundary(ctx, CompactionsBoundaryKey(a.Root), plan.CompactionsBoundary)
			return err
		}
	}
	if len(victims) > 0 {
		h, err := a.holdings(ctx, o, plan.Now)
		if err != nil {
			return err
		}
		if h.head.ID < plan.ManifestID {
			return &ObjectError{Key: ManifestKey(a.Root, h.head.ID), Err: fmt.Errorf("%w: manifest %d was newer and is gone", ErrUnproven, plan.ManifestID)}
		}
		victims = slices.DeleteFunc(victims, func(g Garbage) bool { return h.keeps(c, g.Stored, o, plan.Now) != "" })
	}
	if err := mark(); err != nil {
		return err
	}
	slices.SortFunc(victims, func(x, y Garbage) int { return cmp.Compare(x.Key, y.Key) })
	if err := a.remove(ctx, c, victims, plan, gone, o); err != nil {
		return err
	}
	return mark() // see raiseBoundary
}

// remove deletes objects: manifests one by one, the lowest first, so that those
// who have missed some find their way from the ones above; others at once.
func (a *Admin) remove(ctx context.Context, c Class, victims []Garbage, plan, gone *Collection, o *CollectOptions) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	if c == ClassManifest {
		g.SetLimit(1)
	}
	s := a.Store
	if c == ClassWAL {
		s = a.walStore()
	}
	for _, v := range victims {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.Delete(ctx, v.Key); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			gone.Garbage, gone.Bytes = append(gone.Garbage, v), gone.Bytes+v.Size
			if o.Progress != nil {
				o.Progress(len(gone.Garbage), len(plan.Garbage), v.Key)
			}
			return nil
		})
	}
	return g.Wait()
}

// storeTime returns the lesser of our clock and the store's, which it learns
// from an object that it writes and removes: a clock that is ahead, ours or
// whosever, must not make young objects old.
func (a *Admin) storeTime(ctx context.Context) (time.Time, error) {
	prefix := below(a.Root, "gc/quarry-")
	key := prefix + ulid.Make().String() + ".now"
	if err := a.Store.PutNew(ctx, key, []byte("quarry asks what time it is; this may be removed\n")); err != nil {
		return time.Time{}, fmt.Errorf("ask the store for its time: %w", err)
	}
	_, at, err := a.Store.Stat(ctx, key)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the store for its time: %w", err)
	}
	now := a.now()
	if at.Before(now) {
		now = at
	}
	// Ours, and those of passes that ended before they could.
	var left []string
	err = a.Store.Walk(ctx, prefix, "", func(k string, _ int64, modified time.Time) error {
		if k == key || modified.Before(now.Add(-time.Hour)) {
			left = append(left, k)
		}
		return nil
	})
	for _, k := range left {
		if again := a.Store.Delete(ctx, k); again != nil && !errors.Is(again, fs.ErrNotExist) {
			err = again
		}
	}
	return now, err
}
