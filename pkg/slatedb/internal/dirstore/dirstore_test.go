package dirstore_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/internal/dirstore"
)

var _ slatedb.Store = (*dirstore.Store)(nil)

func folder(t *testing.T, files map[string]string) *dirstore.Store {
	t.Helper()
	dir := t.TempDir()
	for key, body := range files {
		path := filepath.Join(dir, filepath.FromSlash(key))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dirstore.New(dir)
}

func walk(t *testing.T, s *dirstore.Store, prefix, after string) []string {
	t.Helper()
	var keys []string
	err := s.Walk(context.Background(), prefix, after, func(key string, _ int64, _ time.Time) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestWalk(t *testing.T) {
	s := folder(t, map[string]string{"a/x": "1", "a-b": "2", "a/y/z": "3", "b": "4"})
	for _, c := range []struct {
		prefix, after string
		want          []string
	}{
		{"", "", []string{"a-b", "a/x", "a/y/z", "b"}},
		{"a", "", []string{"a-b", "a/x", "a/y/z"}},
		{"a/", "", []string{"a/x", "a/y/z"}},
		{"a/", "a/x", []string{"a/y/z"}},
		{"nowhere/at/all", "", nil},
	} {
		if got := walk(t, s, c.prefix, c.after); !slices.Equal(got, c.want) {
			t.Errorf("walk %q after %q: got %q, want %q", c.prefix, c.after, got, c.want)
		}
	}
	stop := errors.New("enough")
	err := s.Walk(context.Background(), "", "", func(string, int64, time.Time) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("walk does not return the callback's error: %v", err)
	}
}

func TestRead(t *testing.T) {
	ctx := context.Background()
	s := folder(t, map[string]string{"a/x": "hello"})
	if b, err := s.Get(ctx, "a/x"); err != nil || string(b) != "hello" {
		t.Errorf("get: %q, %v", b, err)
	}
	for _, c := range []struct {
		off, n int64
		want   string
	}{{1, 3, "ell"}, {3, 1 << 40, "lo"}, {5, 1, ""}, {99, 1, ""}} {
		if b, err := s.GetRange(ctx, "a/x", c.off, c.n); err != nil || string(b) != c.want {
			t.Errorf("range %d+%d: %q, %v", c.off, c.n, b, err)
		}
	}
	if size, _, err := s.Stat(ctx, "a/x"); err != nil || size != 5 {
		t.Errorf("stat: %d, %v", size, err)
	}
	for _, key := range []string{"a", "a/none", "none/none"} {
		if _, err := s.Get(ctx, key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("get %q: %v is not fs.ErrNotExist", key, err)
		}
		if _, _, err := s.Stat(ctx, key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %q: %v is not fs.ErrNotExist", key, err)
		}
	}
	if _, err := s.Get(ctx, "../x"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a key may leave the folder: %v", err)
	}
	s.Forget()
	_, _ = s.Get(ctx, "a/x")
	if got := s.Calls(); len(got) != 1 || got[0] != (dirstore.Call{Op: "get", Key: "a/x"}) {
		t.Errorf("calls: %v", got)
	}
}
