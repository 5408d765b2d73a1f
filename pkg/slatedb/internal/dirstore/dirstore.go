// Package dirstore reads a folder as an object store: the simplest true
// implementation of slatedb.Store, for tests over the fixtures. It never
// writes. It counts what it is asked, so that a test can say what a read
// costs.
//
// Begin with [New].
package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Store is a folder seen as an object store: keys are slash-separated paths
// below it. Calls may run at once.
type Store struct {
	dir string

	mu    sync.Mutex
	calls []Call
}

// Call is one request that was made of a [Store].
type Call struct {
	Op     string // "get", "range", "stat", "walk"
	Key    string // the prefix, for a walk
	Off, N int64  // for a range: what was asked for
}

// New returns the store of the files below dir.
func New(dir string) *Store { return &Store{dir: dir} }

// Calls returns the requests made so far, oldest first.
func (s *Store) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Forget empties the list of requests.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// Path returns the file of key.
func (s *Store) Path(key string) string { return filepath.Join(s.dir, filepath.FromSlash(key)) }

func (s *Store) note(ctx context.Context, c Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
	return nil
}

// file stats key. A folder is no object.
func (s *Store) file(key string) (fs.FileInfo, error) {
	if !filepath.IsLocal(filepath.FromSlash(key)) {
		return nil, fmt.Errorf("key %q: %w", key, fs.ErrInvalid)
	}
	fi, err := os.Stat(s.Path(key))
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return nil, fmt.Errorf("key %q is a folder: %w", key, fs.ErrNotExist)
	}
	return fi, nil
}

// Get returns the whole object.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.note(ctx, Call{Op: "get", Key: key}); err != nil {
		return nil, err
	}
	if _, err := s.file(key); err != nil {
		return nil, err
	}
	return os.ReadFile(s.Path(key))
}

// GetRange returns n bytes from off, fewer only when the object ends.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := s.note(ctx, Call{Op: "range", Key: key, Off: off, N: n}); err != nil {
		return nil, err
	}
	fi, err := s.file(key)
	if err != nil {
		return nil, err
	}
	if off < 0 || n < 0 {
		return nil, fmt.Errorf("read %d bytes from %d of %s: %w", n, off, key, fs.ErrInvalid)
	}
	f, err := os.Open(s.Path(key))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// A caller that was misled by a damaged object may ask for far more than
	// there is.
	b := make([]byte, min(n, max(0, fi.Size()-off)))
	got, err := f.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:got], nil
}

// Stat returns size and time of the last change.
func (s *Store) Stat(ctx context.Context, key string) (int64, time.Time, error) {
	if err := s.note(ctx, Call{Op: "stat", Key: key}); err != nil {
		return 0, time.Time{}, err
	}
	fi, err := s.file(key)
	if err != nil {
		return 0, time.Time{}, err
	}
	return fi.Size(), fi.ModTime(), nil
}

// Walk calls each for the objects whose keys begin with prefix and are
// greater than after, in the order of their keys. A folder that is not there
// is an empty store.
func (s *Store) Walk(ctx context.Context, prefix, after string, each func(key string, size int64, modified time.Time) error) error {
	if err := s.note(ctx, Call{Op: "walk", Key: prefix}); err != nil {
		return err
	}
	// Only the folder that prefix ends in can hold matches.
	below := ""
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		below = prefix[:i]
	}
	if below != "" && !filepath.IsLocal(filepath.FromSlash(below)) {
		return fmt.Errorf("prefix %q: %w", prefix, fs.ErrInvalid)
	}
	var keys []string
	err := filepath.WalkDir(s.Path(below), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		if key := filepath.ToSlash(rel); !d.IsDir() && strings.HasPrefix(key, prefix) && key > after {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("walk %s: %w", prefix, err)
	}
	// By key, not folder by folder: "a-b" comes before "a/b".
	slices.Sort(keys)
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		fi, err := s.file(key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since
		}
		if err != nil {
			return err
		}
		if err := each(key, fi.Size(), fi.ModTime()); err != nil {
			return err
		}
	}
	return nil
}
