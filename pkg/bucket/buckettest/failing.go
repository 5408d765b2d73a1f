package buckettest

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// calls is one of each.
func calls(b *bucket.Bucket) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Get":      func(ctx context.Context) error { _, err := b.Get(ctx, "k"); return err },
		"GetRange": func(ctx context.Context) error { _, err := b.GetRange(ctx, "k", 0, 1); return err },
		"Stat":     func(ctx context.Context) error { _, _, err := b.Stat(ctx, "k"); return err },
		"Walk": func(ctx context.Context) error {
			return b.Walk(ctx, "", "", func(string, int64, time.Time) error { return nil })
		},
		"List":   func(ctx context.Context) error { _, _, err := b.List(ctx, ""); return err },
		"PutNew": func(ctx context.Context) error { return b.PutNew(ctx, "new", []byte("x")) },
		"Put":    func(ctx context.Context) error { return b.Put(ctx, "k", []byte("x")) },
		"Delete": func(ctx context.Context) error { return b.Delete(ctx, "k") },
	}
}

var failing = []test{
	{"an error names the store and the key", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		_, err := b.Sub("dbs").Get(t.Context(), "manifest/1")
		if err == nil || !strings.Contains(err.Error(), "manifest/1") || !strings.Contains(err.Error(), b.Sub("dbs").URL()) {
			t.Errorf("%v", err)
		}
	}},
	{"a cancelled call says so and does nothing", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "k", "x")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for name, call := range calls(b) {
			err := call(ctx)
			if !errors.Is(err, context.Canceled) || errors.Is(err, bucket.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		same(t, "left", walk(t, b, "", ""), []string{"k"})
		holds(t, b, "k", "x")
	}},
	{"a call whose time is up says so", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "k", "x")
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		for name, call := range calls(b) {
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}},
	{"Walk ends when its context does", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		many(t, b, 1100)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := 0
		err := b.Walk(ctx, "", "", func(string, int64, time.Time) error {
			seen++
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) || seen == 1100 {
			t.Errorf("%v after %d", err, seen)
		}
	}},
	{"a bucket that was taken away is no bucket, and not an empty one", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		if caps.Vanish == nil {
			t.Skip("this store cannot vanish")
		}
		put(t, b, "k", "x")
		caps.Vanish(t, b)
		for name, call := range calls(b) {
			err := call(t.Context())
			if !errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}},
}
