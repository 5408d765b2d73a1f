package slatedb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/internal/dirstore"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestACheckpointShowsWhatItPinned(t *testing.T) {
	seen := 0
	for _, version := range []string{"0.14.1", "0.15.0", "0.16.0", "0.17.0"} {
		s := dirstore.New(filepath.Join(fixtures, version, "checkpoints"))
		head, err := slatedb.Latest(t.Context(), s, "db")
		if err != nil {
			t.Fatal(err)
		}
		newest, err := slatedb.OpenReader(t.Context(), s, "db", slatedb.ReaderOptions{Head: head})
		if err != nil {
			t.Fatal(err)
		}
		now := map[string]uint64{}
		for _, e := range scan(t, newest, nil, nil) {
			now[string(e.Key)] = e.Seq
		}
		fewer := false
		for _, cp := range head.Manifest.Checkpoints {
			byID, err := slatedb.OpenReader(t.Context(), s, "db", slatedb.ReaderOptions{Checkpoint: cp.ID.String()})
			if err != nil {
				t.Fatalf("%s %s: %v", version, cp.ID, err)
			}
			if byID.ManifestID() != cp.ManifestID || byID.WALTail() != max(byID.Manifest().WALLastSeen, byID.Manifest().ReplayAfterWAL) {
				t.Errorf("%s %s: manifest %d, WAL to %d", version, cp.ID, byID.ManifestID(), byID.WALTail())
			}
			rows := scan(t, byID, nil, nil)
			for _, e := range rows {
				if e.Seq > byID.LastSeq() || now[string(e.Key)] < e.Seq {
					t.Errorf("%s %s: %x has sequence number %d, now %d", version, cp.ID, e.Key, e.Seq, now[string(e.Key)])
				}
			}
			fewer = fewer || len(rows) < len(now)
			if cp.Named && cp.Name != "" {
				byName, err := slatedb.OpenReader(t.Context(), s, "db", slatedb.ReaderOptions{Checkpoint: cp.Name})
				if err != nil {
					t.Fatalf("%s %q: %v", version, cp.Name, err)
				}
				same(t, cp.Name, scan(t, byName, nil, nil), rows)
				seen++
			}
		}
		if !fewer {
			t.Errorf("%s: every checkpoint shows as much as the newest state", version)
		}
		if _, err := slatedb.OpenReader(t.Context(), s, "db", slatedb.ReaderOptions{Checkpoint: "nobody"}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: an unknown checkpoint: %v", version, err)
		}
	}
	if seen == 0 {
		t.Error("no named checkpoint in the fixtures")
	}
}

// A cold point read asks for the end of a table and one block; a warm one for
// the block, and nothing when that is kept.
func TestWhatAGetCosts(t *testing.T) {
	p := copyOf(t, "0.17.0/codec-none")
	open := func(cache int64) *slatedb.Reader {
		r, err := slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{SkipWAL: true, BlockCacheBytes: cache})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	tables := 0
	p.head.Manifest.Trees(func(_ []byte, tree *manifest.Tree) { tables += len(tree.L0) + len(tree.Runs) })
	r := open(-1)
	key := scan(t, r, nil, nil)[500].Key
	cost := func(r *slatedb.Reader) int64 {
		before := r.Requests().Gets
		if _, err := r.Get(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		return r.Requests().Gets - before
	}
	r = open(-1)
	if n := cost(r); n > int64(tables)+1 {
		t.Errorf("a cold get takes %d requests for %d tables", n, tables)
	}
	if n := cost(r); n != 1 {
		t.Errorf("a warm get takes %d requests", n)
	}
	r = open(0)
	cost(r)
	if n := cost(r); n != 0 {
		t.Errorf("a get of a block that is kept takes %d requests", n)
	}
}

// Stopping early, ending the context and failing requests must leave nothing
// behind: goleak looks when all tests are done.
func TestAScanMayEndAnywhere(t *testing.T) {
	for _, d := range databases(t) {
		if !strings.HasSuffix(d.name, "/codec-zstd:db") && !strings.Contains(d.name, "segments") {
			continue
		}
		r, _ := d.open(t, slatedb.ReaderOptions{})
		for stop := range 40 {
			n := 0
			for range r.Scan(t.Context(), nil, nil) {
				if n++; n > stop {
					break
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			n = 0
			var last error
			for _, err := range r.Scan(ctx, nil, nil) {
				if n++; n == stop {
					cancel()
				}
				last = err
			}
			cancel()
			if last != nil && !errors.Is(last, context.Canceled) {
				t.Fatal(last)
			}
		}
	}
}

func TestManyReadAtOnce(t *testing.T) {
	for _, d := range databases(t) {
		if d.name != "0.17.0/compacted:db" && d.name != "opendata/log-lz4" {
			continue
		}
		r, _ := d.open(t, slatedb.ReaderOptions{BlockCacheBytes: 9000})
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range d.rows {
					want := &d.rows[(i*7+g*31)%len(d.rows)]
					e, err := r.Get(context.Background(), want.key)
					if err != nil {
						t.Error(err)
						return
					}
					if m := d.mismatch(want, &e); m != "" {
						t.Error(m)
					}
				}
				n := 0
				for _, err := range r.Scan(context.Background(), nil, nil) {
					if err != nil {
						t.Error(err)
					}
					n++
				}
				if n != len(d.rows) {
					t.Errorf("%d rows of %d", n, len(d.rows))
				}
			})
		}
		wg.Wait()
	}
}

// failing fails its n-th ranged read.
type failing struct {
	*dirstore.Store
	mu   sync.Mutex
	left int
}

var errFault = errors.New("503 slow down")

func (f *failing) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	f.mu.Lock()
	f.left--
	fail := f.left == 0
	f.mu.Unlock()
	if fail {
		return nil, errFault
	}
	return f.Store.GetRange(ctx, key, off, n)
}

func TestAFailedRequestEndsTheScanAndTheNextOneIsClean(t *testing.T) {
	for _, d := range databases(t) {
		if d.name != "0.17.0/codec-none:db" && d.name != "0.17.0/compacted:db" {
			continue
		}
		for n := 1; ; n++ {
			s := &failing{Store: dirstore.New(d.dir)}
			r, err := slatedb.OpenReader(t.Context(), s, d.root, slatedb.ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			s.left = n
			rows := 0
			var failed error
			for e, err := range r.Scan(t.Context(), nil, nil) {
				if err != nil {
					failed = err
					break
				}
				if m := d.mismatch(&d.rows[rows], e); m != "" {
					t.Fatal(m)
				}
				rows++
			}
			if failed == nil {
				if s.left > 0 && rows == len(d.rows) {
					break // fewer requests than n
				}
				// A failure ahead of need (the next index of a run) is
				// tried again when it matters.
				if rows != len(d.rows) {
					t.Fatalf("failure %d: %d rows of %d and no error", n, rows, len(d.rows))
				}
			} else if oe, ok := errors.AsType[*slatedb.ObjectError](failed); !ok || !errors.Is(failed, errFault) || oe.Key == "" {
				t.Fatalf("failure %d: %v", n, failed)
			}
			if again := scan(t, r, nil, nil); len(again) != len(d.rows) {
				t.Fatalf("after failure %d: %d rows of %d", n, len(again), len(d.rows))
			}
		}
	}
}

// The writer flushed its WAL and the collector took the objects away while the
// reader was between the manifest and the listing.
func TestAReaderOpensWhileTheDatabaseMovesOn(t *testing.T) {
	p := copyOf(t, "0.17.0/codec-none")
	head := p.head
	// The newest manifest's state as an older head: one whose WAL is gone.
	stale := *head
	m := *head.Manifest
	m.ReplayAfterWAL, m.WALLastSeen = 0, 1
	stale.Manifest, stale.ID = &m, head.ID-1
	p.remove(slatedb.WALKey("db", 1))
	r, err := slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{Head: &stale})
	if err != nil || r.ManifestID() != head.ID {
		t.Fatalf("%v", err)
	}
	stale.ID = head.ID // now there is nothing newer to explain it
	if _, err := slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{Head: &stale}); err == nil {
		t.Error("a hole was passed over")
	}
}

// A database below a prefix finds the tables of its parent from the store's
// root, as their path is recorded.
func TestARootMayLieDeep(t *testing.T) {
	for _, d := range databases(t) {
		if d.name != "0.17.0/wal-only:db" {
			continue
		}
		dir := t.TempDir()
		if err := os.CopyFS(filepath.Join(dir, "a/b"), os.DirFS(d.dir)); err != nil {
			t.Fatal(err)
		}
		for _, root := range []string{"a/b/db", "a/b/db/", "/a/b/db"} {
			r, err := slatedb.OpenReader(t.Context(), dirstore.New(dir), root, slatedb.ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(scan(t, r, nil, nil)); n != len(d.rows) {
				t.Errorf("%s: %d rows", root, n)
			}
		}
		if _, err := slatedb.OpenReader(t.Context(), dirstore.New(dir), "a/b", slatedb.ReaderOptions{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no database: %v", err)
		}
		if _, err := slatedb.Verify(t.Context(), dirstore.New(dir), "a/b", slatedb.VerifyOptions{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no database: %v", err)
		}
	}
}

func TestVerifyTellsItsProgress(t *testing.T) {
	p := copyOf(t, "0.17.0/compacted")
	var told []string
	rep, err := slatedb.Verify(t.Context(), p, "db", slatedb.VerifyOptions{Progress: func(done, total int, key string) {
		told = append(told, fmt.Sprint(done, "/", total))
	}})
	if err != nil || len(told) != rep.Tables+rep.WALObjects || told[len(told)-1] != fmt.Sprint(len(told), "/", len(told)) {
		t.Errorf("%d tables, %d WAL objects, told %v %v", rep.Tables, rep.WALObjects, told, err)
	}
	for _, c := range p.Calls() {
		if c.Op == "get" && bytes.Contains([]byte(c.Key), []byte("/compacted/")) {
			t.Errorf("the whole of %s was read", c.Key)
		}
	}
}
