package slatedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

var (
	// ErrWALStore is wrapped when a database keeps its WAL in another store
	// and [ReaderOptions.WALStore] is not given.
	ErrWALStore = errors.New("the WAL of this database is in another store")
	// ErrUninitialized is wrapped when a database is a clone whose making
	// has not ended.
	ErrUninitialized = errors.New("the database is a clone under construction")
	// ErrMissing is wrapped when an object that a manifest needs is not
	// there. It does not wrap [fs.ErrNotExist], which says of a database, a
	// checkpoint or a key that there is none: that is an answer, this is
	// damage, or the database has moved on since the reader was opened.
	ErrMissing = errors.New("the manifest needs this object and it is not there; if the database has moved on meanwhile, a new reader does not need it")
)

// ReaderOptions say what a [Reader] shows. The zero value shows the newest
// state with the rows of the WAL.
type ReaderOptions struct {
	// Checkpoint is the id or the name of a checkpoint of the newest
	// manifest: show the state it pins.
	Checkpoint string
	// WALStore holds the WAL objects when they are not in the store of the
	// tables. The root is the same.
	WALStore Store
	// SkipWAL leaves out the rows that are only in the WAL.
	SkipWAL bool
	// BlockCacheBytes is how much of the blocks of point reads to keep; 0
	// means 32 MiB, less than 0 none. Indexes and filters of the tables
	// read are kept besides.
	BlockCacheBytes int64
	// Head is the newest manifest when the caller has just read it; nil:
	// OpenReader reads it.
	Head *Head
}

// Reader is an immutable view of a database at one moment. It leaves no trace
// in the store: nothing holds the objects it reads, so a reader kept longer
// than the collector's minimum age may find them gone. Calls may run at once.
type Reader struct {
	store      *counter
	root       string
	manifestID uint64
	m          *manifest.Manifest
	trees      []tree
	mem        []*memtable // of a writer, newest first; they do not change any more
	replayed   memory
	walTail    uint64
	cache      *blockCache

	mu       sync.Mutex
	findings []Finding
}

// tree is one merge tree with its tables found.
type tree struct {
	prefix []byte // all keys in it begin so
	l0     []tablePart
	runs   [][]tablePart
}

// table is a table of the database and the object it is in.
type table struct {
	*sst.Table
	key  string
	hint manifest.Info
	told sync.Once // that hint and footer differ
}

func (t *table) wrap(err error) error {
	if _, ok := errors.AsType[*ObjectError](err); ok {
		return err
	}
	return &ObjectError{Key: t.key, Err: err}
}

// OpenReader reads the newest manifest of the database below root, or takes
// the one in opts, and the WAL objects after it. A WAL object missing between
// others is an error that holds a *[wal.Hole]. Tables are read when asked for.
func OpenReader(ctx context.Context, s Store, root string, opts ReaderOptions) (*Reader, error) {
	c := &counter{s: s}
	head := opts.Head
	if head != nil && head.Manifest == nil {
		head = nil // a pill, or damaged: reading it again says which
	}
	for {
		if head == nil {
			var err error
			if head, err = Latest(ctx, c, root); err != nil {
				return nil, err
			}
		}
		r, err := open(ctx, c, root, head, opts)
		if _, hole := errors.AsType[*wal.Hole](err); err == nil || !hole && !errors.Is(err, ErrMissing) {
			return r, err
		}
		// The writer may have gone on and the collector after it: only
		// what is missing of the newest manifest is missing.
		newer, again := Latest(ctx, c, root)
		if again != nil || newer.ID <= head.ID {
			return nil, err
		}
		head = newer
	}
}

func open(ctx context.Context, c *counter, root string, head *Head, opts ReaderOptions) (*Reader, error) {
	id, m := head.ID, head.Manifest
	if opts.Checkpoint != "" {
		var err error
		if id, m, err = pinned(ctx, c, root, head, opts.Checkpoint); err != nil {
			return nil, err
		}
	}
	if !m.Initialized {
		return nil, &ObjectError{Key: ManifestKey(root, id), Err: ErrUninitialized}
	}
	r := &Reader{store: c, root: root, manifestID: id, m: m, walTail: m.ReplayAfterWAL, cache: newBlockCache(opts.BlockCacheBytes)}
	r.plant(map[string]*table{})
	if opts.SkipWAL {
		return r, nil
	}
	walStore := Store(c)
	if opts.WALStore != nil {
		walStore = c.beside(opts.WALStore)
	} else if m.WALStoreMarked {
		return nil, &ObjectError{Key: ManifestKey(root, id), Err: fmt.Errorf("%w; name it (--wal), or leave out the rows that are only there", ErrWALStore)}
	}
	rows, tail, err := replay(ctx, walStore, root, m, opts.Checkpoint != "")
	if err != nil {
		return nil, err
	}
	r.replayed, r.walTail = rows, tail
	return r, nil
}

// pinned finds a checkpoint in head and reads the manifest it pins.
func pinned(ctx context.Context, s Store, root string, head *Head, want string) (uint64, *manifest.Manifest, error) {
	cp, err := Checkpoint(head.Manifest, want)
	if err != nil {
		return 0, nil, fmt.Errorf("manifest %d of %s: %w", head.ID, root, err)
	}
	if cp.ManifestID == head.ID {
		return head.ID, head.Manifest, nil
	}
	m, err := readManifest(ctx, s, ManifestKey(root, cp.ManifestID))
	if err != nil {
		return 0, nil, fmt.Errorf("checkpoint %s: %w", cp.ID, err)
	}
	return cp.ManifestID, m, nil
}

// Checkpoint finds the checkpoint of m with the given id or name. Names are
// not unique: one that several have is an error, one that none has wraps
// [fs.ErrNotExist].
func Checkpoint(m *manifest.Manifest, want string) (manifest.Checkpoint, error) {
	id, err := uuid.Parse(want)
	byID := err == nil
	var found []manifest.Checkpoint
	for _, c := range m.Checkpoints {
		if byID && c.ID == id {
			return c, nil
		}
		if c.Named && c.Name == want {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return manifest.Checkpoint{}, fmt.Errorf("checkpoint %q: %w", want, fs.ErrNotExist)
	case 1:
		return found[0], nil
	}
	return manifest.Checkpoint{}, fmt.Errorf("%d checkpoints are named %q; choose one by its id, %s for example", len(found), want, found[0].ID)
}

// missing turns the error for an object that is not there into [ErrMissing].
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return ErrMissing
	}
	return err
}

func readManifest(ctx context.Context, s Store, key string) (*manifest.Manifest, error) {
	raw, err := s.Get(ctx, key)
	if err != nil {
		return nil, &ObjectError{Key: key, Err: missing(err)}
	}
	m, err := manifest.Decode(raw)
	if err != nil {
		return nil, &ObjectError{Key: key, Err: err}
	}
	return m, nil
}

// tableKeys returns where the tables of m are: below root, or below the
// database that a clone borrows them from, whose path is relative to the store.
func tableKeys(root string, m *manifest.Manifest) func(ulid.ULID) string {
	external := map[ulid.ULID]string{}
	for _, db := range m.ExternalDBs {
		for _, id := range db.Tables {
			external[id] = path.Clean(db.Path)
		}
	}
	return func(id ulid.ULID) string {
		if p, ok := external[id]; ok {
			return TableKey(p, id)
		}
		return TableKey(root, id)
	}
}

// plant makes the trees of the manifest, of the known tables where it can. New
// ones come to be known.
func (r *Reader) plant(tables map[string]*table) {
	keyOf := tableKeys(r.root, r.m)
	view := func(v manifest.Table) tablePart {
		key := keyOf(v.ID)
		t := tables[key]
		if t == nil {
			t = &table{key: key, hint: v.Info}
			t.Table = sst.NewTable(func(ctx context.Context, off, n int64) ([]byte, error) {
				b, err := r.store.GetRange(ctx, key, off, n)
				if err != nil {
					return nil, &ObjectError{Key: key, Err: missing(err)}
				}
				return b, nil
			}, v.Info)
			tables[key] = t
		}
		return tablePart{t: t, span: stored(v.Info).and(visible(v.Visible))}
	}
	r.m.Trees(func(prefix []byte, mt *manifest.Tree) {
		t := tree{prefix: prefix}
		for _, v := range mt.L0 {
			t.l0 = append(t.l0, view(v))
		}
		for _, run := range mt.Runs {
			var parts []tablePart
			for _, v := range run.Tables {
				parts = append(parts, view(v))
			}
			t.runs = append(t.runs, parts)
		}
		if t.l0 != nil || t.runs != nil {
			r.trees = append(r.trees, t)
		}
	})
}

// ManifestID returns the id of the manifest the reader shows.
func (r *Reader) ManifestID() uint64 { return r.manifestID }

// Manifest returns the manifest the reader shows. It must not be changed.
func (r *Reader) Manifest() *manifest.Manifest { return r.m }

// WALTail returns the id of the last WAL object the reader shows.
func (r *Reader) WALTail() uint64 { return r.walTail }

// WALRows returns how many rows the reader has from the WAL alone.
func (r *Reader) WALRows() int { return len(r.replayed) }

// LastSeq returns the greatest sequence number the reader shows.
func (r *Reader) LastSeq() uint64 {
	last := r.m.LastL0Seq
	for _, t := range r.mem {
		last = max(last, t.lastSeq)
	}
	for i := range r.replayed {
		last = max(last, r.replayed[i].Seq)
	}
	return last
}

// Requests returns what the reader has asked of the store so far.
func (r *Reader) Requests() Requests { return r.store.count() }

// Findings returns the damage that reads have met and got around so far.
func (r *Reader) Findings() []Finding {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.findings)
}

// Scan gives the entries from ≤ key < to in the order of their keys; nil
// bounds are none. An entry is valid until the next one: Clone what is to be
// kept. After an error there are no more. Rows whose time to live has passed
// are given like others, as SlateDB itself does.
func (r *Reader) Scan(ctx context.Context, from, to []byte) iter.Seq2[*Entry, error] {
	return r.scan(ctx, span{from, to}, (*view).next)
}

// ScanPrefix is Scan of the keys that begin with prefix.
func (r *Reader) ScanPrefix(ctx context.Context, prefix []byte) iter.Seq2[*Entry, error] {
	return r.scan(ctx, prefixed(prefix), (*view).next)
}

// ScanVersions is like Scan but gives every row that is still stored:
// overwritten ones, tombstones and operands, the versions of a key newest
// first.
func (r *Reader) ScanVersions(ctx context.Context, from, to []byte) iter.Seq2[*Entry, error] {
	return r.scan(ctx, span{from, to}, (*view).nextVersion)
}

func (r *Reader) scan(ctx context.Context, w span, next func(*view) bool) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		if w.empty() {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		var v view
		defer v.close()
		defer cancel()
		r.sources(ctx, w, &v.merge)
		for next(&v) {
			if !yield(&v.entry, nil) {
				return
			}
		}
		if v.fault != nil {
			yield(nil, v.fault)
		}
	}
}

// sources adds all that may hold keys of w, the newest first.
func (r *Reader) sources(ctx context.Context, w span, m *merge) {
	for _, t := range r.mem {
		if src, lowest := t.in(w); src != nil {
			m.add(src, lowest)
		}
	}
	if rows := r.replayed.in(w); len(rows) > 0 {
		m.add(&memorySource{rows: rows}, rows[0].Key)
	}
	add := func(views []tablePart) {
		src := &tableSource{ctx: ctx}
		for _, v := range views {
			if p := v.and(w); !p.empty() {
				src.parts = append(src.parts, tablePart{t: v.t, span: p})
			}
		}
		if len(src.parts) > 0 {
			m.add(src, src.parts[0].from)
		}
	}
	for i := range r.trees {
		t := &r.trees[i]
		for j := range t.l0 {
			add(t.l0[j : j+1])
		}
		for _, run := range t.runs {
			add(run)
		}
	}
}

// under reports whether key may be in the tree.
func (t *tree) under(key []byte) bool { return bytes.HasPrefix(key, t.prefix) }
