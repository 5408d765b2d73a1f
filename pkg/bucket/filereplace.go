package bucket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// fingerprint is the version of contents where the store has no other.
func fingerprint(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

func (s *fileStore) GetVersion(ctx context.Context, key string) ([]byte, string, error) {
	data, err := s.Get(ctx, key, func(int64) {})
	return data, fingerprint(data), err
}

// Replace looks and renames while it holds the folder: rename(2) has no
// condition of its own. The kernel gives the folder back when a process dies.
func (s *fileStore) Replace(ctx context.Context, key string, data []byte, version string) error {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	folder := filepath.Dir(path)
	release, err := hold(folder)
	if err != nil {
		return s.missing(err)
	}
	defer release()
	_, is, err := s.GetVersion(ctx, key)
	if err != nil {
		return err
	}
	if is != version {
		return ErrChanged
	}
	stage, err := s.stage(folder, data)
	if err != nil {
		return err
	}
	defer os.Remove(stage)
	if err := os.Rename(stage, path); err != nil {
		return s.taken(path, err)
	}
	return syncFolder(folder)
}

// hold keeps other replacers out of folder until release is called. Where the
// file system has no such locks it is errors.ErrUnsupported.
func hold(folder string) (release func(), err error) {
	d, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return func() { d.Close() }, nil
	}
	d.Close()
	return nil, &judged{errors.ErrUnsupported, fmt.Errorf("lock the folder %s: %w", folder, err)}
}
