package slatedb

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// Options say how a [Writer] works. The zero value works like SlateDB with its
// defaults, except that nothing is compacted or collected.
type Options struct {
	// WALStore holds the WAL when it is not in the store of the tables. It
	// must be the one that the database has always had.
	WALStore WriteStore
	// Existing refuses to make a database where there is none.
	Existing bool
	// Linger is how long the first batch of a WAL object waits for others;
	// 0 means not at all. Batches that come while an object is being put
	// share the next one in any case.
	Linger time.Duration
	// Table says how WAL objects and tables are written.
	Table sst.Options
	// FlushBytes is from how many bytes on rows go from memory to a table;
	// 0 means 64 MiB. Twice as much can be in memory.
	FlushBytes int
	// FlushWAL is the same as a number of WAL objects, which the next open
	// has to read; 0 means 1000.
	FlushWAL int
	// Poll is how often the manifest is looked at for what others did to
	// it; 0 means 5 s. Another writer is noticed at the next write at the
	// latest, however long this is.
	Poll time.Duration
	// Patience is how long a put without an answer is repeated before the
	// writer gives up; 0 means 30 s.
	Patience time.Duration
	// Tidy compacts and collects the database; nil: that is left to others.
	// The stores must be [AdminStore]s then.
	Tidy *Tidy
	// Now is the clock; nil means time.Now. Rows never get a time before
	// that of older rows, whatever it says.
	Now func() time.Time
}

func (o *Options) complete() error {
	if err := o.Table.Validate(); err != nil {
		return fmt.Errorf("Table.%w", err)
	}
	for _, f := range []struct {
		name string
		v    int64
	}{{"Linger", int64(o.Linger)}, {"FlushBytes", int64(o.FlushBytes)}, {"FlushWAL", int64(o.FlushWAL)}, {"Poll", int64(o.Poll)}, {"Patience", int64(o.Patience)}} {
		if f.v < 0 {
			return fmt.Errorf("%s %d is negative; 0 is the default", f.name, f.v)
		}
	}
	set(&o.FlushBytes, 64<<20)
	set(&o.FlushWAL, 1000)
	set(&o.Poll, 5*time.Second)
	set(&o.Patience, patience)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tidy == nil {
		return nil
	}
	t := *o.Tidy
	o.Tidy = &t
	collect := CollectOptions{MinAge: t.MinAge, FenceAge: t.FenceAge}
	if err := collect.complete(); err != nil {
		return fmt.Errorf("Tidy: %w", err)
	}
	t.MinAge, t.FenceAge = collect.MinAge, collect.FenceAge
	return nil
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Writer writes a database: one at a time, the last one to open it. It is made
// by [Open] and must be closed. Calls may run at once.
//
// What Write has acknowledged is durable and stays, whatever happens to this
// process. When another writer opens the database, the next write here fails
// with a *[FencedError] and so do all after it; reads go on with what was
// written until then.
type Writer struct {
	store, wal WriteStore
	counted    *counter // store, for reads
	root       string
	o          Options
	epoch      uint64

	ctx    context.Context // of the goroutines; ends when they must
	cancel context.CancelFunc
	wg     sync.WaitGroup
	cache  *blockCache

	compactor   uint64        // our epoch as a compactor; 0 without Tidy
	untidy      chan struct{} // poked when there are tables to merge
	tidyMu      sync.Mutex    // held while merging and collecting
	collected   [2]uint64     // manifest and WAL as they were before the last collection
	collectedAt time.Time
	ripe        time.Time // when more can be removed although nothing has changed; zero: never

	mu      sync.Mutex
	room    *sync.Cond // a memtable became a table, or the writer died
	queue   []*pending
	putting bool          // a WAL object is on its way
	work    chan struct{} // poked when there is something in queue
	flushes chan struct{} // poked when there is something to flush
	head    *Head         // the newest we know
	trees   []tree        // of head
	tables  map[string]*table
	mem     *memtable
	frozen  []*memtable // being flushed, newest first
	nextWAL uint64
	lastSeq uint64
	tick    int64      // newest creation time
	newest  *ulid.ULID // newest L0 table ever
	waiting []*flushWait
	messy   error // why compacting or collecting did not work; nil: it did
	stuck   error // why the last flush did not work; nil: it did
	dead    error // nothing can be written any more
	closing bool
}

// Open opens the database at root for writing and makes it when there is none.
// It fences whoever wrote it before: that one's next write fails. It reads the
// WAL since the last table.
//
// It refuses, without a trace, what it cannot continue faithfully, see
// [Refused]; a WAL with a hole is an error that holds a *[wal.Hole]. When ctx
// ends, Open returns; a writer that is open does not depend on it.
func Open(ctx context.Context, s WriteStore, root string, o Options) (*Writer, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	w := &Writer{
		store: s, wal: s, counted: &counter{s: s}, root: root, o: o,
		cache: newBlockCache(0), tables: map[string]*table{}, mem: newMemtable(),
		work: make(chan struct{}, 1), flushes: make(chan struct{}, 1), untidy: make(chan struct{}, 1),
	}
	if o.Tidy != nil {
		for _, s := range []WriteStore{s, o.WALStore} {
			if _, ok := s.(AdminStore); s != nil && !ok {
				return nil, fmt.Errorf("options: Tidy wants a store that can remove objects: %w", errors.ErrUnsupported)
			}
		}
	}
	w.room = sync.NewCond(&w.mu)
	if o.WALStore != nil {
		w.wal = o.WALStore
	}
	if err := w.takeOver(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", named(root), err)
	}
	w.ctx, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.mu.Lock()
	if w.full() { // those before us did not come to it
		w.freeze()
		poke(w.flushes)
	}
	w.mu.Unlock()
	w.wg.Go(w.commits)
	w.wg.Go(w.upkeep)
	if o.Tidy != nil {
		poke(w.untidy)
		w.wg.Go(w.tidying)
	}
	return w, nil
}

// adopt makes h what we know, unless we know a later one. The lock is held, or
// nobody else knows w.
func (w *Writer) adopt(h *Head) {
	if w.head != nil && h.ID <= w.head.ID {
		return
	}
	r := &Reader{store: w.counted, root: w.root, m: h.Manifest}
	r.plant(w.tables)
	w.head, w.trees = h, r.trees
	used := map[string]*table{}
	keyOf := tableKeys(w.root, h.Manifest)
	h.Manifest.Tables(func(t *manifest.Table) {
		key := keyOf(t.ID)
		used[key] = w.tables[key]
	})
	w.tables = used
}

// Epoch returns the writer epoch that was claimed.
func (w *Writer) Epoch() uint64 { return w.epoch }

// Status is where a writer stands.
type Status struct {
	Epoch      uint64
	ManifestID uint64 // the newest it knows
	NextWAL    uint64
	LastSeq    uint64 // of the rows acknowledged
	MemBytes   int    // about what is in memory and not in tables
	Untidy     error  // why compacting or collecting did not work when last tried; nil: it did
	Err        error  // why it cannot write any more; nil: it can
}

// Status returns where the writer stands.
func (w *Writer) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Status{Epoch: w.epoch, ManifestID: w.head.ID, NextWAL: w.nextWAL, LastSeq: w.lastSeq, MemBytes: w.mem.bytes, Untidy: w.messy, Err: w.dead}
	for _, f := range w.frozen {
		s.MemBytes += f.bytes
	}
	return s
}

// Snapshot returns the state of this moment, with every acknowledged write and
// none that comes later. It costs no request. Nothing holds the tables it reads
// once they have been compacted: keep it no longer than a collector's minimum
// age.
func (w *Writer) Snapshot() *Reader {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &Reader{
		store: w.counted, root: w.root, manifestID: w.head.ID, m: w.head.Manifest,
		trees: w.trees, walTail: w.nextWAL - 1, cache: w.cache,
	}
	if w.mem.rows.Len() > 0 {
		r.mem = append(r.mem, w.mem.copy())
	}
	r.mem = append(r.mem, w.frozen...)
	return r
}

// Get is Snapshot and [Reader.Get].
func (w *Writer) Get(ctx context.Context, key []byte) (Entry, error) {
	return w.Snapshot().Get(ctx, key)
}

// Scan is Snapshot and [Reader.Scan]: writes meanwhile make no difference.
func (w *Writer) Scan(ctx context.Context, from, to []byte) iter.Seq2[*Entry, error] {
	return w.Snapshot().Scan(ctx, from, to)
}

// ScanPrefix is Snapshot and [Reader.ScanPrefix].
func (w *Writer) ScanPrefix(ctx context.Context, prefix []byte) iter.Seq2[*Entry, error] {
	return w.Snapshot().ScanPrefix(ctx, prefix)
}

// Close waits for the writes under way, moves all rows to a table and ends the
// writer. After it the next open has nothing to replay. When ctx ends first, or
// the store does not answer, the rows stay in the WAL and nothing is lost.
// Closing a writer that was fenced returns the *[FencedError]; it writes
// nothing. Closing twice returns [ErrClosed].
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	if w.closing {
		w.mu.Unlock()
		return ErrClosed
	}
	w.closing = true
	w.mu.Unlock()
	poke(w.work)
	err := w.settle(ctx)
	if err == nil {
		err = w.flush(ctx)
	}
	if err == nil && w.o.Tidy != nil {
		// Also of a writer that is never open for long. The database is
		// whole whatever comes of it.
		_ = w.tidy(ctx, false)
	}
	w.stop(ErrClosed)
	return err
}

// Abandon ends the writer at once, as a crash would: what was acknowledged is
// in the WAL, what was not may be.
func (w *Writer) Abandon() {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
	w.stop(ErrClosed)
}

// stop ends the goroutines and fails what is still waiting.
func (w *Writer) stop(why error) {
	w.cancel()
	w.die(why)
	poke(w.work)
	w.wg.Wait()
}

// die makes the writer fail everything from now on.
func (w *Writer) die(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dieLocked(why)
}

func (w *Writer) dieLocked(why error) {
	if w.dead == nil {
		w.dead = why
	}
	for _, p := range w.queue {
		p.done <- outcome{err: w.dead}
	}
	w.queue = nil
	for _, f := range w.waiting {
		f.done <- w.dead
	}
	w.waiting = nil
	w.room.Broadcast()
}

// poke wakes whoever waits on c; once is enough.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
