package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// betweenPuts does something once, after the first put of a key with a part.
type betweenPuts struct {
	slatedb.AdminStore
	after string
	do    func()
	once  sync.Once
}

func (b *betweenPuts) PutNew(ctx context.Context, key string, data []byte) error {
	err := b.AdminStore.PutNew(ctx, key, data)
	if err == nil && strings.Contains(key, b.after) {
		b.once.Do(b.do)
	}
	return err
}

// fails lets n puts pass and refuses all after.
type fails struct {
	slatedb.AdminStore
	left atomic.Int64
}

func failsAfter(s slatedb.AdminStore, n int) *fails {
	f := &fails{AdminStore: s}
	f.left.Store(int64(n))
	return f
}

var errDown = fmt.Errorf("the power is out: %w", fs.ErrPermission)

func (f *fails) PutNew(ctx context.Context, key string, data []byte) error {
	if f.left.Add(-1) < 0 {
		return errDown
	}
	return f.AdminStore.PutNew(ctx, key, data)
}

func folder(tb testing.TB, dir string) *store.Bucket {
	tb.Helper()
	b, err := store.Open(tb.Context(), "file://"+dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close() })
	return b
}

// lively is a database with tables in L0 and rows in the WAL alone.
func lively(t *testing.T, b *store.Bucket) map[string]string {
	t.Helper()
	want := map[string]string{}
	w := openWriter(t, b, slatedb.Options{Table: sst.Options{Filter: true, FilterFrom: 1}})
	for i := range 60 {
		k, v := fmt.Sprintf("k%02d", i%50), fmt.Sprint(i)
		put(t, w, k, v)
		want[k] = v
		if i%20 == 19 && i < 50 {
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Abandon()
	return want
}

func readAt(tb testing.TB, s slatedb.Store, root string) map[string]string {
	tb.Helper()
	r, err := slatedb.OpenReader(tb.Context(), s, root, slatedb.ReaderOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return scanned(tb, r)
}

func verified(tb testing.TB, s slatedb.Store, root string) {
	tb.Helper()
	rep, err := slatedb.Verify(tb.Context(), s, root, slatedb.VerifyOptions{Checksums: true})
	if err != nil || !rep.OK() {
		tb.Fatalf("verify %s: %v %v", root, err, rep.Findings)
	}
}

func TestACopyHasEveryRowAndGoesItsOwnWay(t *testing.T) {
	from, to := memory(t), memory(t)
	want := lively(t, from)
	var told int
	c, err := admin(from).Copy(t.Context(), slatedb.CopyOptions{To: to, ToRoot: "seeds/db", Progress: func(done, total int, bytes, of int64, _ string) {
		if told++; done != told || bytes > of {
			t.Errorf("progress: %d of %d, %d of %d bytes", done, total, bytes, of)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Tables != 2 || c.WALObjects < 10 || told != c.Tables+c.WALObjects || c.Head.ID != 1 {
		t.Errorf("copied %+v, told %d", c, told)
	}
	equalRows(t, "the copy", readAt(t, to, "seeds/db"), want)
	verified(t, to, "seeds/db")
	if m := c.Head.Manifest; len(m.Checkpoints) > 0 || len(m.ExternalDBs) > 0 {
		t.Errorf("the copy depends on what is not there: %+v", m)
	}
	h, err := slatedb.Latest(t.Context(), from, "db")
	if err != nil || len(h.Manifest.Checkpoints) > 0 {
		t.Errorf("the source is still held: %+v %v", h.Manifest.Checkpoints, err)
	}
	w, err := slatedb.Open(t.Context(), to, "seeds/db", slatedb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, w, "only here", "x")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	verified(t, to, "seeds/db")
	equalRows(t, "the source", readAt(t, from, "db"), want)
	if _, err := admin(from).Copy(t.Context(), slatedb.CopyOptions{To: to, ToRoot: "seeds/db"}); !errors.Is(err, slatedb.ErrTaken) || !errors.Is(err, fs.ErrExist) {
		t.Errorf("a copy onto a database: %v", err)
	}
}

// A copy that is interrupted at any put is no database, and the next attempt
// finishes it, also when the source went on.
func TestAnInterruptedCopyIsNoDatabaseAndCanBeRepeated(t *testing.T) {
	from := memory(t)
	want := lively(t, from)
	for n := 0; ; n++ {
		to := memory(t)
		_, err := admin(from).Copy(t.Context(), slatedb.CopyOptions{To: failsAfter(to, n), ToRoot: "c"})
		if err == nil {
			if n < 5 {
				t.Fatalf("whole after %d puts?", n)
			}
			break
		}
		if !errors.Is(err, errDown) {
			t.Fatalf("after %d puts: %v", n, err)
		}
		if _, err := slatedb.Latest(t.Context(), to, "c"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("after %d puts there is a database: %v", n, err)
		}
		if n%4 == 0 {
			w := openWriter(t, from, slatedb.Options{})
			k := fmt.Sprintf("later%d", n)
			put(t, w, k, "v")
			want[k] = "v"
			if n%8 == 0 {
				if err := w.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			w.Abandon()
		}
		if _, err := admin(from).Copy(t.Context(), slatedb.CopyOptions{To: to, ToRoot: "c"}); err != nil {
			t.Fatalf("second attempt after %d puts: %v", n, err)
		}
		equalRows(t, "the copy", readAt(t, to, "c"), want)
		verified(t, to, "c")
	}
}

func TestACopyStopsAtDamageAndBeforeItsCommitFails(t *testing.T) {
	from, to := memory(t), memory(t)
	lively(t, from)
	no := errors.New("no record, no copy")
	_, err := admin(from).Copy(t.Context(), slatedb.CopyOptions{To: to, ToRoot: "c", Commit: func(_ context.Context, c slatedb.Copied) error {
		if c.Head == nil || c.Source == nil || c.Tables == 0 {
			t.Errorf("commit of %+v", c)
		}
		return no
	}})
	if !errors.Is(err, no) {
		t.Errorf("commit: %v", err)
	}
	h, err := slatedb.Latest(t.Context(), from, "db")
	if err != nil {
		t.Fatal(err)
	}
	key := slatedb.TableKey("db", h.Manifest.L0[0].ID)
	raw, err := from.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw[3] ^= 1
	if err := from.Put(t.Context(), key, raw); err != nil {
		t.Fatal(err)
	}
	if _, err := admin(from).Copy(t.Context(), slatedb.CopyOptions{To: memory(t)}); !errors.Is(err, sst.ErrCorrupt) || !strings.Contains(err.Error(), key) {
		t.Errorf("copy of a damaged table: %v", err)
	}
	if _, err := slatedb.Latest(t.Context(), to, "c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a database: %v", err)
	}
}

// Whoever opens the place while the copy is made has made a database there.
func TestACopyThatIsOvertakenCommitsNothing(t *testing.T) {
	from, to := memory(t), memory(t)
	lively(t, from)
	race := &betweenPuts{AdminStore: to, after: "compacted/", do: func() {
		w, err := slatedb.Open(t.Context(), to, "c", slatedb.Options{})
		if err != nil {
			t.Error(err)
			return
		}
		w.Abandon()
	}}
	_, err := admin(from).Copy(t.Context(), slatedb.CopyOptions{To: race, ToRoot: "c"})
	if !errors.Is(err, slatedb.ErrTaken) && !errors.Is(err, fs.ErrExist) {
		t.Errorf("an overtaken copy: %v", err)
	}
	if got := readAt(t, to, "c"); len(got) > 0 {
		t.Errorf("%d rows in somebody else's new database", len(got))
	}
}

// Every database that the real cores left is copied with every row of the
// state it is in: codecs, clones with their parents' tables, segments.
func TestCopiesOfWhatTheRealCoresLeft(t *testing.T) {
	for _, f := range []struct{ fixture, root string }{
		{"0.12.1/codec-zstd", "db"}, {"0.13.1/versions", "db"}, {"0.14.1/clone", "clone"}, {"0.14.1/projection", "clone"}, {"0.17.0/projection", "clone"}, {"0.15.0/compacted", "db"},
		{"0.16.0/segments", "db"}, {"0.17.0/clone", "clone"}, {"0.17.0/fenced", "db"}, {"0.18.0/mixed", "db"}, {"0.18.0/aligned", "db"},
	} {
		t.Run(f.fixture, func(t *testing.T) {
			from := original(t, f.fixture)
			want := readAt(t, from, f.root)
			to := folder(t, t.TempDir())
			a := &slatedb.Admin{Store: from, Root: f.root}
			c, err := a.Copy(t.Context(), slatedb.CopyOptions{To: to})
			if err != nil {
				t.Fatal(err)
			}
			equalRows(t, "the copy", readAt(t, to, ""), want)
			verified(t, to, "")
			if c.Head.Manifest.Version != c.Source.Manifest.Version {
				t.Errorf("version %d became %d", c.Source.Manifest.Version, c.Head.Manifest.Version)
			}
		})
	}
}

// original is a fixture in a folder of its own.
func original(t *testing.T, fixture string) *store.Bucket {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(fixtures, fixture))); err != nil {
		t.Fatal(err)
	}
	return folder(t, dir)
}

func TestACloneBorrowsPinsAndHasTheRowsOfTheWAL(t *testing.T) {
	b := memory(t)
	want := lively(t, b)
	a := admin(b)
	c, err := a.Clone(t.Context(), slatedb.CloneOptions{ToRoot: "kid"})
	if err != nil {
		t.Fatal(err)
	}
	if c.ManifestID != 2 || c.Tables != 2 || c.WALObjects < 10 || len(c.Pins) != 1 {
		t.Errorf("cloned %+v", c)
	}
	equalRows(t, "the clone", readAt(t, b, "kid"), want)
	verified(t, b, "kid")
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	if cps := h.Manifest.Checkpoints; len(cps) != 1 || cps[0].ID != c.Pins["db"] || !cps[0].Expire.IsZero() || cps[0].Named {
		t.Errorf("pins of the parent: %+v", cps)
	}
	// A clone of the clone borrows from both, and both are pinned.
	kid, err := slatedb.Open(t.Context(), b, "kid", slatedb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, kid, "kid's", "own")
	if err := kid.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	grand, err := (&slatedb.Admin{Store: b, Root: "kid"}).Clone(t.Context(), slatedb.CloneOptions{ToRoot: "grandkid"})
	if err != nil {
		t.Fatal(err)
	}
	if len(grand.Pins) != 2 {
		t.Errorf("a clone of a clone pins %v", grand.Pins)
	}
	want["kid's"] = "own"
	equalRows(t, "the clone's clone", readAt(t, b, "grandkid"), want)
	verified(t, b, "grandkid")
	for root, pin := range grand.Pins {
		h, err := slatedb.Latest(t.Context(), b, root)
		if err != nil || h.Manifest.Checkpoint(pin) < 0 {
			t.Errorf("%s does not know pin %s: %v", root, pin, err)
		}
	}
	// A copy of it borrows nothing.
	to := memory(t)
	if _, err := (&slatedb.Admin{Store: b, Root: "grandkid"}).Copy(t.Context(), slatedb.CopyOptions{To: to}); err != nil {
		t.Fatal(err)
	}
	equalRows(t, "a copy of it", readAt(t, to, ""), want)
	if _, err := a.Clone(t.Context(), slatedb.CloneOptions{ToRoot: "kid"}); !errors.Is(err, slatedb.ErrTaken) {
		t.Errorf("a clone onto a database: %v", err)
	}
}

func TestAnInterruptedCloneCannotBeReadAndIsFinishedByTheNext(t *testing.T) {
	for n := 0; ; n++ {
		b := memory(t)
		want := lively(t, b)
		_, err := admin(failsAfter(b, n)).Clone(t.Context(), slatedb.CloneOptions{ToRoot: "kid"})
		if err == nil {
			if n < 10 {
				t.Fatalf("whole after %d puts?", n)
			}
			return
		}
		if !errors.Is(err, errDown) {
			t.Fatalf("after %d puts: %v", n, err)
		}
		if _, err := slatedb.OpenReader(t.Context(), b, "kid", slatedb.ReaderOptions{}); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, slatedb.ErrUninitialized) {
			// The last put of all is the removal of the checkpoint
			// that held the source: then the clone is whole.
			if h, again := slatedb.Latest(t.Context(), b, "kid"); again != nil || !h.Manifest.Initialized {
				t.Fatalf("after %d puts: %v", n, err)
			}
			continue
		}
		if _, err := admin(b).Clone(t.Context(), slatedb.CloneOptions{ToRoot: "kid"}); err != nil {
			t.Fatalf("second attempt after %d puts: %v", n, err)
		}
		equalRows(t, "the clone", readAt(t, b, "kid"), want)
		verified(t, b, "kid")
	}
}

// The manifest of the source is not touched but for the checkpoint, whatever
// release wrote it.
func TestACopyLeavesTheSourceAsItWas(t *testing.T) {
	from := original(t, "0.16.0/segments")
	before, err := slatedb.Latest(t.Context(), from, "db")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin(from).Copy(t.Context(), slatedb.CopyOptions{To: memory(t)}); err != nil {
		t.Fatal(err)
	}
	after, err := slatedb.Latest(t.Context(), from, "db")
	if err != nil {
		t.Fatal(err)
	}
	a, b := before.Manifest.JSON(1), after.Manifest.JSON(1)
	b.WALIDLastSeen = a.WALIDLastSeen // raised, so that the WAL was held
	if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) && !sameManifest(before.Manifest, after.Manifest) {
		t.Errorf("before %+v\nafter %+v", a, b)
	}
}

func sameManifest(a, b *manifest.Manifest) bool {
	x, y := a.Clone(), b.Clone()
	y.WALLastSeen = x.WALLastSeen
	p, err1 := manifest.Encode(x)
	q, err2 := manifest.Encode(y)
	return err1 == nil && err2 == nil && string(p) == string(q)
}

// slow takes its time over each table.
type slow struct {
	slatedb.AdminStore
	t    *testing.T
	each time.Duration
}

func (s *slow) Get(ctx context.Context, key string) ([]byte, error) {
	if strings.Contains(key, "/compacted/") {
		time.Sleep(s.each)
		h, err := slatedb.Latest(ctx, s.AdminStore, "db")
		if err != nil {
			return nil, err
		}
		for _, c := range h.Manifest.Checkpoints {
			if c.Expired(time.Now()) {
				s.t.Errorf("the checkpoint that holds the source expired at %v, it is %v", c.Expire, time.Now())
			}
		}
		if len(h.Manifest.Checkpoints) != 1 {
			s.t.Errorf("%d checkpoints hold the source", len(h.Manifest.Checkpoints))
		}
	}
	return s.AdminStore.Get(ctx, key)
}

// However long a copy takes, its source is held until it is whole.
func TestACopyHoldsItsSourceForAsLongAsItTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := memory(t)
		want := lively(t, from)
		to := memory(t)
		start := time.Now()
		if _, err := admin(&slow{from, t, 5 * time.Hour}).Copy(t.Context(), slatedb.CopyOptions{To: to, ToRoot: "db"}); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) < 5*time.Hour {
			t.Errorf("it took %v", time.Since(start))
		}
		equalRows(t, "the copy", contents(t, to), want)
		h, err := slatedb.Latest(t.Context(), from, "db")
		if err != nil || len(h.Manifest.Checkpoints) > 0 {
			t.Errorf("held afterwards: %v %v", h.Manifest.Checkpoints, err)
		}
	})
}
