package slatedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// CopyOptions say where [Admin.Copy] copies to.
type CopyOptions struct {
	To     WriteStore // required; may be the store of the database itself
	ToRoot string     // another one than the database's when To is its store
	// Checkpoint is the id or name of a checkpoint whose state to copy; ""
	// makes one of this moment, with all rows in the WAL, prolongs it
	// while the copy is made and removes it after.
	Checkpoint string
	// Commit is called when all objects are there and verified, before the
	// manifest that makes them a database is put, with that manifest: the
	// place to record where the copy came from. Its error ends the copy.
	Commit func(ctx context.Context, c Copied) error
	// Progress is told each object when it is there, and how many objects
	// and bytes there are. One call at a time; nil: nobody is told.
	Progress func(done, total int, bytes, of int64, key string)
}

// Copied is what [Admin.Copy] has copied.
type Copied struct {
	// Source is the manifest that was copied; its SHA256 is of the object.
	Source *Head `json:"-"`
	// Head is manifest 1 of the copy.
	Head       *Head `json:"-"`
	Tables     int   `json:"tables"`
	WALObjects int   `json:"wal_objects"`
	Bytes      int64 `json:"bytes"`
	// Present are objects that an earlier attempt had copied already.
	Present int   `json:"present"`
	Rows    int64 `json:"rows"` // in all objects, superseded ones too
}

// ErrTaken is wrapped when the place for a copy or a clone is not empty.
var ErrTaken = errors.New("there is a database already")

const (
	copyLifetime = time.Hour // of the checkpoint that holds the source
	copyMemory   = 512 << 20 // of objects on their way
)

// Copy makes an independent copy in any store. Every table that the manifest
// names is copied, those of other databases that a clone borrows too, and the
// WAL without holes; every block of every object is checked on its way, and
// every object is looked for at its place before manifest 1 is created. That is
// the last thing that happens: before it no database is there, and an attempt
// that was interrupted can be repeated, objects that are there already are
// compared and kept.
//
// The copy has no checkpoints and borrows nothing. It keeps the version of the
// manifest, segments, epochs, sequence numbers and times; a writer whose clock
// is behind the newest row waits or fails, with SlateDB. When somebody makes a
// database there meanwhile the error wraps [ErrTaken] and [fs.ErrExist]: the
// objects of the copy are among his then.
func (a *Admin) Copy(ctx context.Context, o CopyOptions) (Copied, error) {
	if ids, err := ManifestIDs(ctx, o.To, o.ToRoot); err != nil {
		return Copied{}, err
	} else if len(ids) > 0 {
		return Copied{}, &ObjectError{Key: ManifestKey(o.ToRoot, ids[len(ids)-1]), Err: fmt.Errorf("%w: %w; copy to an empty place", ErrTaken, fs.ErrExist)}
	}
	if mark, err := Boundary(ctx, o.To, o.ToRoot); err != nil {
		return Copied{}, err
	} else if mark > 0 {
		return Copied{}, &ObjectError{Key: BoundaryKey(o.ToRoot), Err: fmt.Errorf("%w: what is left of a deleted database would make every open of the copy spin; remove it first", ErrBoundaryAhead)}
	}
	source, release, err := a.holdSource(ctx, o.Checkpoint, "quarry copy to "+named(o.ToRoot))
	if err != nil {
		return Copied{}, err
	}
	c := &copying{a: a, o: o, m: source.Manifest.Clone(), done: Copied{Source: source}}
	err = c.run(ctx)
	if again := release(); err == nil && again != nil {
		err = fmt.Errorf("the copy is whole; remove the checkpoint that held its source: %w", again)
	}
	return c.done, err
}

// holdSource returns the manifest that a checkpoint pins. One of its own it
// prolongs until release, which ends that and removes it.
func (a *Admin) holdSource(ctx context.Context, checkpoint, name string) (h *Head, release func() error, err error) {
	release = func() error { return nil }
	var at uint64
	if checkpoint != "" {
		newest, err := Latest(ctx, a.Store, a.Root)
		if err != nil {
			return nil, nil, err
		}
		if err := writable(newest, a.WALStore != nil); err != nil {
			return nil, nil, err
		}
		// An old state may lack the mark that the newest has, and the
		// other way round: both must have their WAL.
		if _, err := a.walEnd(ctx, newest.Manifest); err != nil {
			return nil, nil, err
		}
		cp, err := Checkpoint(newest.Manifest, checkpoint)
		if err != nil {
			return nil, nil, fmt.Errorf("manifest %d of %s: %w", newest.ID, named(a.Root), err)
		}
		if cp.Expired(a.now()) {
			return nil, nil, fmt.Errorf("checkpoint %s of %s has expired: %w", cp.ID, named(a.Root), fs.ErrNotExist)
		}
		at = cp.ManifestID
	} else {
		cp, _, err := a.CreateCheckpoint(ctx, CheckpointOptions{Name: name, Lifetime: copyLifetime})
		if err != nil {
			return nil, nil, err
		}
		release, at = a.prolong(ctx, cp.ID), cp.ManifestID
	}
	h, err = At(ctx, a.Store, a.Root, at)
	if err == nil {
		err = writable(h, a.WALStore != nil)
	}
	if err != nil {
		return nil, nil, errors.Join(err, release())
	}
	return h, release, nil
}

// prolong keeps the checkpoint alive until the function it returns is called,
// which removes it.
func (a *Admin) prolong(ctx context.Context, id uuid.UUID) func() error {
	ctx = context.WithoutCancel(ctx)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(copyLifetime / 4)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				// A miss is made good by the next one, and one that
				// was removed shows in what can no longer be read.
				_, _, _ = a.RefreshCheckpoint(ctx, id, copyLifetime)
			case <-stop:
				return
			}
		}
	})
	return func() error {
		close(stop)
		wg.Wait()
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if _, err := a.DeleteCheckpoint(ctx, id); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("checkpoint %s, which expires by itself: %w", id, err)
		}
		return nil
	}
}

// copying is one copy under way.
type copying struct {
	a *Admin
	o CopyOptions
	m *manifest.Manifest

	mu    sync.Mutex
	done  Copied
	count int
	total int
	of    int64
	moved int64
	sizes map[string]int64 // of the objects at their place
}

// part is one object to be copied.
type part struct {
	from   Store
	key    string
	to     string
	size   int64
	rows   func(raw []byte) (int64, error) // checks and counts
	fabric []byte                          // when it is made and not read
}

func (c *copying) run(ctx context.Context) error {
	c.m.Checkpoints, c.m.ExternalDBs, c.m.Initialized, c.m.WALStoreMarked = nil, nil, true, false
	tables, err := c.tables(ctx)
	if err != nil {
		return err
	}
	logs, err := c.logs(ctx)
	if err != nil {
		return err
	}
	c.done.Tables, c.done.WALObjects, c.sizes = len(tables), len(logs), map[string]int64{}
	c.total = len(tables) + len(logs)
	for _, p := range slices.Concat(tables, logs) {
		c.of += p.size
	}
	if err := c.all(ctx, tables); err != nil {
		return err
	}
	// The WAL last: whoever opens the place before there is a manifest makes
	// a database of his own, and would take WAL objects for his.
	if ids, err := ManifestIDs(ctx, c.o.To, c.o.ToRoot); err != nil {
		return err
	} else if len(ids) > 0 {
		return c.overtaken("nothing that he could take for his was put")
	}
	if err := c.all(ctx, logs); err != nil {
		return err
	}
	if err := c.present(ctx); err != nil {
		return err
	}
	return c.commit(ctx)
}

// tables lists the tables of all trees, wherever they are.
func (c *copying) tables(ctx context.Context) ([]part, error) {
	var parts []part
	needs := needed(c.a.Root, []pinnedState{{c.done.Source.ID, c.done.Source.Manifest, true}})
	for _, n := range needs {
		size, _, err := c.a.Store.Stat(ctx, n.key)
		if err != nil {
			return nil, &ObjectError{Key: n.key, Err: missing(err)}
		}
		t := n.views[0].table
		parts = append(parts, part{from: c.a.Store, key: n.key, to: TableKey(c.o.ToRoot, t.ID), size: size, rows: func(raw []byte) (int64, error) {
			return wholeTable(ctx, raw, t.Info)
		}})
	}
	return parts, nil
}

// wholeTable checks every byte of a table, and that it is the one that the
// manifest means.
func wholeTable(ctx context.Context, raw []byte, info manifest.Info) (int64, error) {
	t, err := sst.Whole(raw)
	if err != nil {
		return 0, err
	}
	foot, err := t.Footer(ctx)
	if err != nil {
		return 0, err
	}
	if foot.Info.IndexOffset != info.IndexOffset || foot.Info.IndexLen != info.IndexLen || !bytes.Equal(foot.Info.FirstKey, info.FirstKey) {
		return 0, fmt.Errorf("not the table that the manifest means: %w", sst.ErrCorrupt)
	}
	var first error
	rows, err := t.Check(ctx, func(f *sst.Fault) {
		if first == nil {
			first = f
		}
	})
	if err == nil {
		err = first
	}
	return rows, err
}

// logs lists the WAL objects after the tables, and the one at the mark: no row
// of it is needed, but it shows where the WAL is.
func (c *copying) logs(ctx context.Context) ([]part, error) {
	m, from := c.done.Source.Manifest, c.a.walStore()
	ids, err := walIDs(ctx, from, c.a.Root, m, true)
	if err == nil {
		err = checkPinned(ctx, from, c.a.Root, m, ids)
	}
	if err != nil {
		return nil, err
	}
	var parts []part
	for _, id := range ids {
		parts = append(parts, c.log(from, id))
	}
	if m.ReplayAfterWAL > 0 {
		at := c.log(from, m.ReplayAfterWAL)
		at.fabric, err = wal.Encode(nil, sst.None, [16]byte{})
		if err != nil {
			return nil, err
		}
		parts = append(parts, at)
	}
	for i := range parts {
		if parts[i].fabric != nil {
			parts[i].size = int64(len(parts[i].fabric))
			continue
		}
		if parts[i].size, _, err = from.Stat(ctx, parts[i].key); err != nil {
			return nil, &ObjectError{Key: parts[i].key, Err: missing(err)}
		}
	}
	return parts, nil
}

func (c *copying) log(from Store, id uint64) part {
	return part{from: from, key: WALKey(c.a.Root, id), to: WALKey(c.o.ToRoot, id), rows: func(raw []byte) (int64, error) {
		o, err := wal.Decode(raw)
		return int64(len(o.Rows)), err
	}}
}

func (c *copying) all(ctx context.Context, parts []part) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	room := semaphore.NewWeighted(copyMemory)
	for _, p := range parts {
		weight := min(p.size, copyMemory)
		if room.Acquire(ctx, weight) != nil {
			break
		}
		g.Go(func() error {
			defer room.Release(weight)
			return c.one(ctx, p)
		})
	}
	return g.Wait()
}

// one copies an object.
func (c *copying) one(ctx context.Context, p part) error {
	raw := p.fabric
	if raw == nil {
		var err error
		if raw, err = p.from.Get(ctx, p.key); err != nil {
			return &ObjectError{Key: p.key, Err: missing(err)}
		}
	}
	rows, err := p.rows(raw)
	if err != nil {
		return &ObjectError{Key: p.key, Err: err}
	}
	present := false
	if err := putNew(ctx, c.o.To, p.to, raw); errors.Is(err, fs.ErrExist) {
		there, err := c.o.To.Get(ctx, p.to)
		if err != nil {
			return &ObjectError{Key: p.to, Err: err}
		}
		// At the mark of the tables any object will do.
		if present = bytes.Equal(there, raw) || p.fabric != nil; !present {
			return &ObjectError{Key: p.to, Err: fmt.Errorf("another object is there, of another copy or another database: %w; copy to an empty place", fs.ErrExist)}
		}
	} else if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.fabric == nil {
		c.sizes[p.to] = int64(len(raw))
	}
	c.count++
	c.moved += int64(len(raw))
	c.done.Bytes += int64(len(raw))
	c.done.Rows += rows
	if present {
		c.done.Present++
	}
	if c.o.Progress != nil {
		c.o.Progress(c.count, c.total, c.moved, c.of, p.to)
	}
	return nil
}

// present looks for every object at its place, and that no WAL object is behind
// the last: it would be replayed. Those before the mark, of an earlier attempt,
// nobody reads.
func (c *copying) present(ctx context.Context) error {
	left := len(c.sizes)
	for _, folder := range []string{"compacted/", "wal/"} {
		err := c.o.To.Walk(ctx, below(c.o.ToRoot, folder), "", func(key string, size int64, _ time.Time) error {
			want, ours := c.sizes[key]
			if id, log := ParseWALKey(c.o.ToRoot, key); !ours && log && id > max(c.m.ReplayAfterWAL, c.m.WALLastSeen) {
				return &ObjectError{Key: key, Err: fmt.Errorf("a WAL object of somebody else's: %w; copy to an empty place", fs.ErrExist)}
			}
			if !ours {
				return nil
			}
			if size != want {
				return &ObjectError{Key: key, Err: fmt.Errorf("%d bytes where %d were put", size, want)}
			}
			left--
			return nil
		})
		if err != nil {
			return err
		}
	}
	if left > 0 {
		return fmt.Errorf("%d objects that were put below %s are not listed there: %w", left, named(c.o.ToRoot), ErrMissing)
	}
	return nil
}

// commit creates manifest 1.
func (c *copying) commit(ctx context.Context) error {
	raw, err := manifest.Encode(c.m)
	if err != nil {
		return fmt.Errorf("manifest of the copy: %w", err)
	}
	unique := putID()
	raw = append(raw, unique[:]...)
	if c.done.Head, err = headOf(c.o.ToRoot, 1, raw); err != nil {
		return err
	}
	if c.o.Commit != nil {
		if err := c.o.Commit(ctx, c.done); err != nil {
			return err
		}
	}
	if err := putNew(ctx, c.o.To, ManifestKey(c.o.ToRoot, 1), raw); errors.Is(err, fs.ErrExist) {
		return c.overtaken("its WAL may hold objects of the copy: let nobody use it")
	} else if err != nil {
		return err
	}
	return nil
}

func (c *copying) overtaken(so string) error {
	return &ObjectError{Key: ManifestKey(c.o.ToRoot, 1), Err: fmt.Errorf("%w: somebody made it while the copy was on its way (%w); nothing was committed; %s", ErrTaken, fs.ErrExist, so)}
}

// ClockAhead returns by how much the newest row of m is ahead of now, 0 when it
// is not: a SlateDB writer waits for seconds, and fails for a minute or more.
func ClockAhead(m *manifest.Manifest, now time.Time) time.Duration {
	if m.LastL0ClockTick == math.MinInt64 {
		return 0
	}
	return max(0, time.UnixMilli(m.LastL0ClockTick).Sub(now))
}
