package bucket_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
)

// careless is a store that gets put-if-absent wrong in one of the ways that real
// ones do.
type careless struct {
	bucket.Store
	overwrites func(key string) bool // when asked only to create
	lazily     bool                  // looks first, and writes a moment later
}

func (c careless) Put(ctx context.Context, key string, data []byte, onlyNew bool) error {
	if onlyNew && c.lazily {
		if _, err := c.Stat(ctx, key); err == nil {
			return fs.ErrExist
		}
		time.Sleep(10 * time.Millisecond)
	}
	return c.Store.Put(ctx, key, data, onlyNew && !c.lazily && !c.overwrites(key))
}

func never(string) bool { return false }

func TestAStoreThatIgnoresPutIfAbsentIsRefused(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	for name, c := range map[string]struct {
		store careless
		says  string
	}{
		"always":               {careless{overwrites: func(string) bool { return true }}, "overwritten"},
		"for what it found":    {careless{overwrites: func(key string) bool { return key == ".quarry/region.json" }}, `".quarry/region.json" was there before`},
		"for what it wrote":    {careless{overwrites: func(key string) bool { return strings.Contains(key, "check-") }}, "second create-if-absent"},
		"between two at once":  {careless{overwrites: never, lazily: true}, "of 8 writers at once"},
		"never, which is well": {careless{overwrites: never}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			inner := open(t, dir)
			put := func(key string) {
				t.Helper()
				if err := inner.PutNew(t.Context(), key, []byte(key)); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(dir+"/"+key, old, old); err != nil {
					t.Fatal(err)
				}
			}
			for _, key := range []string{".quarry/inbox/1.json", ".quarry/leases/a/writer-1.json", ".quarry/region.json", "dbs/x/manifest/1"} {
				put(key)
			}
			b := bucket.Wrap(inner, func(s bucket.Store) bucket.Store {
				c.store.Store = s
				return c.store
			})
			err := b.CheckPutNew(t.Context(), ".quarry/")
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else if !errors.Is(err, bucket.ErrPutNewIgnored) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "use a store that honours") {
				t.Fatalf("got %v", err)
			}
			// Nothing was lost or left, and what others change or remove was
			// not even touched.
			for _, key := range keysOf(t, inner, "") {
				data, err := inner.Get(t.Context(), key)
				if err != nil || string(data) != key {
					t.Errorf("%s holds %q, %v", key, data, err)
				}
				_, modified, _ := inner.Stat(t.Context(), key)
				if key != ".quarry/region.json" && !modified.Equal(old.Truncate(0)) {
					t.Errorf("%s was written again", key)
				}
			}
		})
	}
}

func TestCheckPutNewSaysWhenItCouldNotCheck(t *testing.T) {
	b, faults := faulty.New(open(t, "mem://"))
	faults.Add(faulty.Fault{Method: bucket.PutNew, Err: fs.ErrPermission})
	if err := b.CheckPutNew(t.Context(), ".quarry/"); !errors.Is(err, fs.ErrPermission) || errors.Is(err, bucket.ErrPutNewIgnored) {
		t.Errorf("got %v", err)
	}
	// Not being allowed to remove its traces is no reason to refuse a store.
	faults.Clear()
	faults.Add(faulty.Fault{Method: bucket.Delete, Times: -1, Err: fs.ErrPermission})
	if err := b.CheckPutNew(t.Context(), ".quarry/"); err != nil {
		t.Error(err)
	}
}

func TestWrappedBucketsShareCountersAndClosing(t *testing.T) {
	var closed atomic.Int64
	inner := open(t, "mem://")
	b := bucket.Wrap(inner, func(s bucket.Store) bucket.Store { return closing{s, &closed} })
	if _, err := b.Sub("x").Get(t.Context(), "k"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if r := inner.Requests(); r.Get != 1 || r.Misses != 1 {
		t.Errorf("%+v", r)
	}
	b.Close()
	b.Sub("x").Close()
	inner.Close()
	if closed.Load() != 1 {
		t.Errorf("closed %d times", closed.Load())
	}
}

type closing struct {
	bucket.Store
	closed *atomic.Int64
}

func (c closing) Close() error { c.closed.Add(1); return c.Store.Close() }

func TestRequestsHaveAPrice(t *testing.T) {
	r := bucket.Requests{Get: 900, Head: 100, List: 10, Put: 90, Delete: 1000}
	if got := r.Cost(0.4, 5); got < 0.8999 || got > 0.9001 {
		t.Errorf("cost %v", got)
	}
}
