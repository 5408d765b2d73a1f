package bucket

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
)

// GetVersion returns the whole object, as [Bucket.Get] does, and what names
// these contents to [Bucket.Replace]. The version is of this store and key
// alone; it says nothing of order.
func (b *Bucket) GetVersion(ctx context.Context, key string) (data []byte, version string, err error) {
	err = b.call(ctx, Get, key, 0, func(ctx *bounded, full string) (err error) {
		data, version, err = b.core.store.GetVersion(ctx, full)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	b.core.meter.read.Add(int64(len(data)))
	return data, version, nil
}

// Replace writes an object if it still is what [Bucket.GetVersion] returned
// version for; else it fails with [ErrChanged] and leaves it alone, also when it
// is gone. Of several callers at once with one version exactly one succeeds. When
// it returns nil the object is durable and whole.
//
// When the store gives no clear answer the object is read back, as
// [Bucket.PutNew] does: what holds exactly data was replaced. Else the answer is
// [ErrUnavailable], and the write may still happen.
//
// Stores that cannot do it return errors.ErrUnsupported, as do keys that a cloud
// keeps escaped. A gateway that ignores the condition replaces all the same: only
// what is mended by looking again may rely on it. On a folder the callers of
// Replace and Put exclude each other, in all processes of one machine; a Delete
// in the same instant may be undone.
func (b *Bucket) Replace(ctx context.Context, key string, data []byte, version string) error {
	err := b.call(ctx, Replace, key, len(data), func(ctx *bounded, full string) error {
		err := b.core.store.Replace(ctx, full, data, version)
		if class := classify(err); errors.Is(class, fs.ErrNotExist) || errors.Is(class, fs.ErrExist) {
			return &judged{ErrChanged, err}
		}
		return err
	})
	if err == nil {
		b.core.meter.written.Add(int64(len(data)))
		return nil
	}
	if !errors.Is(err, ErrUnavailable) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	if there, readErr := b.Get(ctx, key); readErr == nil && bytes.Equal(there, data) {
		return nil
	}
	return err
}
