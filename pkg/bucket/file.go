package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// fileStore keeps each object in the file of its name below root, with nothing
// beside it, so that real SlateDB processes can read and write the same folder.
// It is safe between processes: an object appears whole, by link(2) or
// rename(2), after its contents are on disk.
//
// What a folder cannot hold: keys with empty, "." or ".." segments, segments
// over 255 bytes, names like x#1 (the Rust object_store that SlateDB uses stages
// its writes under them, and neither it nor we list them), and a key beside
// others below it ("a" and "a/b").
type fileStore struct {
	root string // absolute
}

func openFile(dir string, create bool) (*fileStore, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if create {
		if err := os.MkdirAll(root, 0o755); err != nil {
			return nil, fmt.Errorf("make the folder %s: %w", root, err)
		}
	}
	s := &fileStore{root: root}
	return s, s.there()
}

// there returns nil while the root is a folder.
func (s *fileStore) there() error {
	info, err := os.Stat(s.root)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("the folder %s does not exist: %w", s.root, ErrNoBucket)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is a file, not a folder: %w", s.root, ErrNoBucket)
	}
	return nil
}

// missing is the error for something that is not there: only in a root that is
// there does it mean that there is no such object.
func (s *fileStore) missing(err error) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	if gone := s.there(); gone != nil {
		return gone
	}
	return fs.ErrNotExist
}

// find is path for reading: what a folder cannot hold is not there.
func (s *fileStore) find(key string) (string, error) {
	path, err := s.path(key)
	if err != nil {
		return "", s.missing(fs.ErrNotExist)
	}
	return path, nil
}

func (s *fileStore) path(key string) (string, error) {
	for segment := range strings.SplitSeq(key, "/") {
		switch {
		case segment == "" || segment == "." || segment == "..":
			return "", fmt.Errorf("a folder cannot hold a key with a segment %q: %w", segment, fs.ErrInvalid)
		case len(segment) > 255:
			return "", fmt.Errorf("a folder cannot hold a key with a segment of %d bytes: %w", len(segment), fs.ErrInvalid)
		}
	}
	if staged(key[strings.LastIndexByte(key, '/')+1:]) {
		return "", fmt.Errorf("names that end in # and digits are unfinished writes in a folder: %w", fs.ErrInvalid)
	}
	return s.root + "/" + key, nil
}

// staged reports whether a file of this name is a write in progress: SlateDB's,
// or one of ours, which follow the same rule so that SlateDB skips them too. The
// rule is object_store's: what follows the first # is digits.
func staged(name string) bool {
	_, suffix, found := strings.Cut(name, "#")
	return found && suffix != "" && strings.Trim(suffix, "0123456789") == ""
}

func (s *fileStore) open(key string) (*os.File, fs.FileInfo, error) {
	path, err := s.find(key)
	if err != nil {
		return nil, nil, err
	}
	// Not to wait for a writer if somebody left a named pipe here.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, s.missing(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func (s *fileStore) Get(_ context.Context, key string, _ func(int64)) ([]byte, error) {
	f, info, err := s.open(key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("the file shrank while it was read: %w", err)
	}
	return data, nil
}

func (s *fileStore) GetRange(_ context.Context, key string, off, n int64) ([]byte, error) {
	f, info, err := s.open(key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	off = min(off, info.Size())
	data := make([]byte, min(n, info.Size()-off))
	if _, err := f.ReadAt(data, off); err != nil && (err != io.EOF || len(data) > 0) {
		return nil, fmt.Errorf("the file shrank while it was read: %w", err)
	}
	return data, nil
}

func (s *fileStore) Stat(_ context.Context, key string) (Object, error) {
	path, err := s.find(key)
	if err != nil {
		return Object{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Object{}, s.missing(err)
	}
	if !info.Mode().IsRegular() {
		return Object{}, fs.ErrNotExist
	}
	return Object{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil
}

// Delete leaves empty folders behind: removing them could pull one from under a
// process that has just made it to write there. List does not show them.
func (s *fileStore) Delete(_ context.Context, key string) error {
	path, err := s.find(key)
	if err != nil {
		return err
	}
	if err := syscall.Unlink(path); err != nil {
		// Unlinking a folder is EISDIR on Linux, EPERM elsewhere.
		if info, statErr := os.Lstat(path); statErr == nil && info.IsDir() {
			return fs.ErrNotExist
		}
		return s.missing(&fs.PathError{Op: "unlink", Path: path, Err: err})
	}
	return syncFolder(filepath.Dir(path))
}

func (s *fileStore) SignedURL(context.Context, string, string, time.Duration) (string, error) {
	return "", fmt.Errorf("a folder has no URLs to sign: %w", errors.ErrUnsupported)
}

func (s *fileStore) Close() error { return nil }
