package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Ten openers at once on nothing: one database, epochs one by one, no batch
// lost that was acknowledged.
func TestManyOpenersAtOnce(t *testing.T) {
	b := memory(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	want := map[string]string{}
	epochs := map[uint64]bool{}
	for i := range 10 {
		wg.Go(func() {
			w, err := slatedb.Open(t.Context(), b, "db", slatedb.Options{})
			if errors.Is(err, slatedb.ErrFenced) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Abandon()
			mu.Lock()
			if epochs[w.Epoch()] {
				t.Errorf("epoch %d twice", w.Epoch())
			}
			epochs[w.Epoch()] = true
			mu.Unlock()
			for j := range 10 {
				k := fmt.Sprintf("w%d-%d", i, j)
				if _, err := w.Put(t.Context(), []byte(k), nil); err != nil {
					if !errors.Is(err, slatedb.ErrFenced) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				want[k] = ""
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	equalRows(t, "in the end", contents(t, b), want)
	whole(t, b)
}

func TestWhatIsNotUnderstoodIsNotWritten(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		spoil func(m *manifest.Manifest)
		raw   []byte
		other func(b *store.Bucket) error
		want  error
		admin error // what checkpoints say; nil: the same
		free  bool  // checkpoints may be made
	}{
		"a clone under construction": {spoil: func(m *manifest.Manifest) { m.Initialized = false }, want: slatedb.ErrUninitialized},
		"a marked WAL store":         {spoil: func(m *manifest.Manifest) { m.WALStoreMarked = true }, want: slatedb.ErrWALStore},
		"an unmarked WAL store":      {spoil: func(m *manifest.Manifest) { m.WriterEpoch, m.ReplayAfterWAL, m.WALLastSeen = 3, 7, 7 }, want: slatedb.ErrWALUnmarked},
		"segments":                   {spoil: func(m *manifest.Manifest) { m.Version, m.ExtractorName = manifest.V2, "fix1" }, want: slatedb.ErrSegmented, free: true},
		"a pill":                     {raw: []byte("\xff\xff{\"why\":\"gone\"}"), want: &manifest.Pill{Reason: `{"why":"gone"}`}},
		"a later version":            {raw: []byte("\x00\x03x"), want: &manifest.VersionError{Format: "manifest", Version: 3}},
		"a boundary ahead":           {other: func(b *store.Bucket) error { return b.Put(ctx, "db/gc/manifest.boundary", []byte("2")) }, want: slatedb.ErrBoundaryAhead},
	} {
		b := memory(t)
		m := manifest.New()
		first, err := manifest.Encode(m)
		if err == nil {
			err = b.PutNew(ctx, slatedb.ManifestKey("db", 1), first)
		}
		if err != nil {
			t.Fatal(name, err)
		}
		if c.spoil != nil {
			c.spoil(m)
		}
		raw, err := manifest.Encode(m)
		if c.raw != nil {
			raw, err = c.raw, nil
		}
		if err == nil {
			err = b.PutNew(ctx, slatedb.ManifestKey("db", 2), raw)
		}
		if err == nil && c.other != nil {
			err = c.other(b)
		}
		if err != nil {
			t.Fatal(name, err)
		}
		check := func(what string, err error) {
			if !slatedb.Refused(err) || !errors.Is(err, c.want) && !strings.Contains(err.Error(), c.want.Error()) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		_, err = slatedb.Open(ctx, b, "db", slatedb.Options{})
		check("open", err)
		a := slatedb.Admin{Store: b, Root: "db"}
		if _, _, err = a.CreateCheckpoint(ctx, slatedb.CheckpointOptions{Name: "n"}); !c.free {
			check("checkpoint", err)
		} else if err != nil {
			t.Errorf("%s: checkpoint: %v", name, err)
			continue
		}
		if ids, err := slatedb.ManifestIDs(ctx, b, "db"); err != nil || len(ids) != 2 && !c.free {
			t.Errorf("%s: manifests %v afterwards: %v", name, ids, err)
		}
	}
	b := memory(t)
	if _, err := slatedb.Open(ctx, b, "db", slatedb.Options{Existing: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if err := b.PutNew(ctx, slatedb.WALKey("db", 4), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := slatedb.Open(ctx, b, "db", slatedb.Options{}); err == nil {
		t.Error("a fence of an earlier database is in the way, and nobody says so")
	}
}

func TestAHoleInTheWALIsNotWrittenInto(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	for i := range 6 {
		put(t, w, fmt.Sprint("k", i), "v")
	}
	w.Abandon()
	if err := b.Delete(t.Context(), slatedb.WALKey("db", 4)); err != nil {
		t.Fatal(err)
	}
	_, err := slatedb.Open(t.Context(), b, "db", slatedb.Options{})
	if err == nil || !strings.Contains(err.Error(), "WAL object 4 is missing") {
		t.Fatal(err)
	}
	if _, _, err := (&slatedb.Admin{Store: b, Root: "db"}).CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "n"}); err == nil {
		t.Error("a checkpoint of a WAL with a hole")
	}
}

// A copy or a clone of a database that was closed begins with the ids of the
// other and no WAL object. That is not a WAL that is elsewhere.
func TestADatabaseMayBeBornWithoutAWAL(t *testing.T) {
	from, b := memory(t), memory(t)
	w := openWriter(t, from, slatedb.Options{})
	put(t, w, "k", "v")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := slatedb.Latest(t.Context(), from, "db")
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range h.Manifest.L0 {
		raw, err := from.Get(t.Context(), slatedb.TableKey("db", table.ID))
		if err == nil {
			err = b.PutNew(t.Context(), slatedb.TableKey("db", table.ID), raw)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.PutNew(t.Context(), slatedb.ManifestKey("db", 1), h.Raw); err != nil {
		t.Fatal(err)
	}
	w = openWriter(t, b, slatedb.Options{})
	put(t, w, "l", "v")
	equalRows(t, "the copy", contents(t, b), map[string]string{"k": "v", "l": "v"})
}

// Writers up to 0.14 count WAL objects that they still hold in memory. After a
// crash the manifest may know ids that never came to be.
func TestIdsThatAnOldWriterTookAndDidNotUse(t *testing.T) {
	for _, version := range []int{manifest.V1, manifest.V2} {
		b := memory(t)
		w := openWriter(t, b, slatedb.Options{})
		put(t, w, "k", "v")
		w.Abandon()
		h, err := slatedb.Latest(t.Context(), b, "db")
		if err != nil {
			t.Fatal(err)
		}
		m := h.Manifest.Clone()
		m.Version, m.WALLastSeen = version, 4
		raw, err := manifest.Encode(m)
		if err == nil {
			err = b.PutNew(t.Context(), slatedb.ManifestKey("db", h.ID+1), raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		w, err = slatedb.Open(t.Context(), b, "db", slatedb.Options{})
		if version == manifest.V2 { // 0.15 and later, which know better
			if err == nil || !strings.Contains(err.Error(), "WAL object 3 is missing") {
				t.Errorf("version 2: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		put(t, w, "l", "v")
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		equalRows(t, "afterwards", contents(t, b), map[string]string{"k": "v", "l": "v"})
		whole(t, b)
	}
}

// The WAL of a database may be in a store of its own, which is said in its
// manifest and found out when it is said wrongly.
func TestAWALInAStoreOfItsOwn(t *testing.T) {
	b, log, other := memory(t), memory(t), memory(t)
	w := openWriter(t, b, slatedb.Options{WALStore: log})
	put(t, w, "a", "1")
	if _, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{}); !errors.Is(err, slatedb.ErrWALStore) {
		t.Errorf("read without it: %v", err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]slatedb.Options{"without": {}, "another": {WALStore: other}} {
		if _, err := slatedb.Open(t.Context(), b, "db", o); !slatedb.Refused(err) {
			t.Errorf("opened with %s WAL store: %v", name, err)
		}
	}
	w = openWriter(t, b, slatedb.Options{WALStore: log})
	put(t, w, "b", "2")
	r, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{WALStore: log})
	if err != nil {
		t.Fatal(err)
	}
	equalRows(t, "with it", scanned(t, r), map[string]string{"a": "1", "b": "2"})
}

func TestTheLastWriterToOpenIsTheOnlyOne(t *testing.T) {
	b := memory(t)
	first := openWriter(t, b, slatedb.Options{})
	put(t, first, "a", "1")
	second := openWriter(t, b, slatedb.Options{})
	_, err := first.Put(t.Context(), []byte("b"), []byte("lost"))
	fenced, ok := errors.AsType[*slatedb.FencedError](err)
	if !ok || fenced.By != 2 || fenced.Epoch != 1 || fenced.At.IsZero() {
		t.Fatalf("the first writer's put: %v", err)
	}
	if _, err := first.Put(t.Context(), []byte("b"), nil); !errors.Is(err, slatedb.ErrFenced) {
		t.Errorf("and again: %v", err)
	}
	if err := first.Flush(t.Context()); !errors.Is(err, slatedb.ErrFenced) {
		t.Errorf("flush: %v", err)
	}
	if err := first.Close(t.Context()); !errors.Is(err, slatedb.ErrFenced) {
		t.Errorf("close: %v", err)
	}
	put(t, second, "c", "2")
	want := map[string]string{"a": "1", "c": "2"}
	equalRows(t, "after the change of writers", contents(t, b), want)
	if err := second.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	equalRows(t, "after the close", contents(t, b), want)
	if _, err := second.Put(t.Context(), []byte("x"), nil); !errors.Is(err, slatedb.ErrClosed) {
		t.Errorf("put after close: %v", err)
	}
}

func TestAnIdleWriterNoticesThatItWasReplaced(t *testing.T) {
	b := memory(t)
	first := openWriter(t, b, slatedb.Options{Poll: 5 * time.Millisecond})
	openWriter(t, b, slatedb.Options{})
	for deadline := time.Now().Add(10 * time.Second); first.Status().Err == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not noticed")
		}
	}
	if err := first.Status().Err; !errors.Is(err, slatedb.ErrFenced) {
		t.Fatal(err)
	}
}

// preceded has another opener come first between this one's look for a manifest
// and its look for what an earlier database left.
type preceded struct {
	*store.Bucket
	once sync.Once
	open func()
}

func (p *preceded) Walk(ctx context.Context, prefix, after string, each func(string, int64, time.Time) error) error {
	if strings.HasSuffix(prefix, "wal/") {
		p.once.Do(p.open)
	}
	return p.Bucket.Walk(ctx, prefix, after, each)
}

func TestAnOpenerThatIsPrecededDoesNotTakeTheOthersWALForALeftover(t *testing.T) {
	b := memory(t)
	first := func() {
		w, err := slatedb.Open(t.Context(), b, "db", slatedb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Put(t.Context(), []byte("a"), []byte("1")); err != nil {
			t.Fatal(err)
		}
		w.Abandon()
	}
	w, err := slatedb.Open(t.Context(), &preceded{Bucket: b, open: first}, "db", slatedb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abandon()
	equalRows(t, "what was acknowledged", contents(t, b), map[string]string{"a": "1"})
}
