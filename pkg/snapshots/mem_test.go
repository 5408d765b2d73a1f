package snapshots

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fixtures holds repositories that real Restate servers wrote.
const fixtures = "../../e2e/fixtures/data/restate"

type object struct {
	data     []byte
	modified time.Time
}

// mem is a store in memory that counts requests. onObject, when set, runs
// before each object is handed over, so that a test can change the store under
// a listing.
type mem struct {
	objects  map[string]object
	gets     []string
	walks    int
	onObject func(key string)
	fail     map[string]error // by key, for Get and GetRange
}

var written = time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)

// load copies a folder of the fixtures to below prefix.
func load(t testing.TB, dir, prefix string) *mem {
	t.Helper()
	m := &mem{objects: map[string]object{}}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		m.objects[join(prefix, filepath.ToSlash(rel))] = object{b, written}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.objects) == 0 {
		t.Fatalf("no objects in %s", dir)
	}
	return m
}

func (m *mem) put(key, data string)   { m.objects[key] = object{[]byte(data), written} }
func (m *mem) del(key string)         { delete(m.objects, key) }
func (m *mem) text(key string) string { return string(m.objects[key].data) }

func (m *mem) Get(ctx context.Context, key string) ([]byte, error) {
	m.gets = append(m.gets, key)
	if err := m.fail[key]; err != nil {
		return nil, err
	}
	o, ok := m.objects[key]
	if !ok {
		return nil, fmt.Errorf("get %s: %w", key, fs.ErrNotExist)
	}
	return slices.Clone(o.data), nil
}

func (m *mem) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := m.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	off = min(off, int64(len(b)))
	return b[off:min(off+n, int64(len(b)))], nil
}

func (m *mem) Walk(ctx context.Context, prefix, after string, each func(string, int64, time.Time) error) error {
	m.walks++
	if err := m.fail[prefix]; err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if !strings.HasPrefix(key, prefix) || key <= after {
			continue
		}
		if m.onObject != nil {
			m.onObject(key)
		}
		o, ok := m.objects[key]
		if !ok {
			continue
		}
		if err := each(key, int64(len(o.data)), o.modified); err != nil {
			return err
		}
	}
	return nil
}
