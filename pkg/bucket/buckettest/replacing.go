package buckettest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// version reads the object. A store that cannot replace on a condition ends the
// case: it must say so, and leave the object alone.
func version(t *testing.T, b *bucket.Bucket, key, want string) string {
	t.Helper()
	data, v, err := b.GetVersion(t.Context(), key)
	if err != nil {
		t.Fatalf("GetVersion: %v", err)
	}
	if string(data) != want {
		t.Fatalf("%q holds %s, want %s", key, short(string(data)), short(want))
	}
	return v
}

var replacing = []test{
	{"Replace replaces what is unchanged, once", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		put(t, b, "gc/mark", "1")
		first := version(t, b, "gc/mark", "1")
		err := b.Replace(t.Context(), "gc/mark", []byte("2"), first)
		if caps.NoReplace {
			is(t, err, errors.ErrUnsupported)
			holds(t, b, "gc/mark", "1")
			return
		}
		if err != nil {
			t.Fatalf("Replace: %v", err)
		}
		holds(t, b, "gc/mark", "2")
		is(t, b.Replace(t.Context(), "gc/mark", []byte("3"), first), bucket.ErrChanged)
		holds(t, b, "gc/mark", "2")
		second := version(t, b, "gc/mark", "2")
		if first == second {
			t.Fatalf("both versions are %q", first)
		}
		if err := b.Replace(t.Context(), "gc/mark", []byte("3"), second); err != nil {
			t.Fatalf("Replace: %v", err)
		}
		holds(t, b, "gc/mark", "3")
	}},
	{"Replace makes nothing", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		if caps.NoReplace {
			return
		}
		put(t, b, "gc/mark", "1")
		v := version(t, b, "gc/mark", "1")
		if err := b.Delete(t.Context(), "gc/mark"); err != nil {
			t.Fatal(err)
		}
		is(t, b.Replace(t.Context(), "gc/mark", []byte("2"), v), bucket.ErrChanged)
		is(t, b.Replace(t.Context(), "gc/never", []byte("2"), v), bucket.ErrChanged)
		same(t, "left", walk(t, b, "", ""), []string{})
	}},
	{"what Put wrote meanwhile is not replaced", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		if caps.NoReplace {
			return
		}
		put(t, b, "gc/mark", "1")
		v := version(t, b, "gc/mark", "1")
		if err := b.Put(t.Context(), "gc/mark", []byte("5")); err != nil {
			t.Fatal(err)
		}
		is(t, b.Replace(t.Context(), "gc/mark", []byte("2"), v), bucket.ErrChanged)
		holds(t, b, "gc/mark", "5")
	}},
	{"of sixteen who count at once nobody's count is lost", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		if caps.NoReplace {
			return
		}
		put(t, b, "gc/count", "0")
		var wait sync.WaitGroup
		for range 16 {
			wait.Go(func() {
				for range 400 {
					data, v, err := b.GetVersion(t.Context(), "gc/count")
					if err != nil {
						t.Errorf("GetVersion: %v", err)
						return
					}
					var n int
					if _, err := fmt.Sscan(string(data), &n); err != nil {
						t.Errorf("%q: %v", data, err)
						return
					}
					// Two who write the same bytes could both believe that
					// they won when an answer is lost; none is lost here.
					err = b.Replace(t.Context(), "gc/count", fmt.Append(nil, n+1), v)
					if err == nil {
						return
					}
					if !errors.Is(err, bucket.ErrChanged) && !errors.Is(err, bucket.ErrUnavailable) {
						t.Errorf("Replace: %v", err)
						return
					}
				}
				t.Error("400 times somebody else was first")
			})
		}
		wait.Wait()
		holds(t, b, "gc/count", "16")
	}},
}
