package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Put stages the contents beside the object, makes them durable, and only then
// gives them their name: link(2) fails when the name is taken, whoever took it,
// in this process or another; rename(2) replaces. Then the folder is synced, so
// that the name survives a power cut too. A process killed in between leaves a
// staged file that nobody lists.
func (s *fileStore) Put(_ context.Context, key string, data []byte, onlyNew bool) error {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	folder := filepath.Dir(path)
	stage, err := s.stage(folder, data)
	if err != nil {
		return err
	}
	defer os.Remove(stage)

	if onlyNew {
		err = link(stage, path)
	} else {
		// A file system without locks has no Replace to keep out.
		if release, err := hold(folder); err == nil {
			defer release()
		}
		err = os.Rename(stage, path)
	}
	if err != nil {
		return s.taken(path, err)
	}
	if onlyNew {
		os.Remove(stage) // before the sync, which then covers both names
	}
	return syncFolder(folder)
}

// link is link(2), except that it fills the place of folders that hold nothing.
func link(stage, path string) error {
	err := os.Link(stage, path)
	if errors.Is(err, fs.ErrExist) && removeEmpty(path) {
		err = os.Link(stage, path)
	}
	return err
}

// taken explains why a name could not be had.
func (s *fileStore) taken(path string, err error) error {
	info, statErr := os.Lstat(path)
	if statErr == nil && info.IsDir() {
		return fmt.Errorf("a folder cannot hold a key beside others below it: %w", fs.ErrInvalid)
	}
	if errors.Is(err, fs.ErrExist) {
		return fs.ErrExist
	}
	if gone := s.there(); gone != nil {
		return gone
	}
	return err
}

// stage writes data to a new file in folder, which it makes when it is not
// there, and returns its path.
func (s *fileStore) stage(folder string, data []byte) (string, error) {
	f, err := s.create(folder)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func (s *fileStore) create(folder string) (*os.File, error) {
	for range 3 {
		name := folder + "/.quarry#" + strconv.FormatUint(rand.Uint64(), 10)
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, fs.ErrExist): // another number
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
			if err := s.makeFolders(folder); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
	return nil, fmt.Errorf("make a file in %s: others remove the folder as often as we make it: %w", folder, ErrUnavailable)
}

// makeFolders makes folder and what is missing above it, but never the root: a
// root that is gone has been taken away, and writing into a new one would hide
// that. Each new name is synced.
func (s *fileStore) makeFolders(folder string) error {
	if err := s.there(); err != nil {
		return err
	}
	at := s.root
	for segment := range strings.SplitSeq(strings.TrimPrefix(folder, s.root+"/"), "/") {
		above := at
		at += "/" + segment
		err := os.Mkdir(at, 0o755)
		switch {
		case err == nil:
			if err := syncFolder(above); err != nil {
				return err
			}
		case errors.Is(err, fs.ErrExist):
		case errors.Is(err, syscall.ENOTDIR):
			return fmt.Errorf("a folder cannot hold a key beside others below it (%s): %w", above, fs.ErrInvalid)
		default:
			return s.missing(err)
		}
	}
	if info, err := os.Stat(folder); err == nil && !info.IsDir() {
		return fmt.Errorf("a folder cannot hold a key beside others below it (%s): %w", folder, fs.ErrInvalid)
	}
	return nil
}

// removeEmpty removes path if it is a folder with nothing but such folders in
// it. rmdir(2) refuses a folder that is not empty, so nothing can be lost.
func removeEmpty(path string) bool {
	entries, err := os.ReadDir(path)
	if err != nil {
		return false
	}
	for _, entry := range entries {
		if !entry.IsDir() || !removeEmpty(path+"/"+entry.Name()) {
			return false
		}
	}
	return syscall.Rmdir(path) == nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
