package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
)

// AdminStore is what [Admin] asks of an object store. *bucket.Bucket is one.
type AdminStore interface {
	WriteStore
	// Delete removes an object. One that is not there is an error that wraps
	// [fs.ErrNotExist].
	Delete(ctx context.Context, key string) error
	// Put replaces an object. Only the collector's marks are written so.
	Put(ctx context.Context, key string, data []byte) error
}

// CompactionsBoundaryKey is [BoundaryKey] for the compactor's states.
func CompactionsBoundaryKey(root string) string { return below(root, "gc/compactions.boundary") }

// raiseBoundary makes the mark at key at least to and returns what it is then.
// A mark never goes down.
//
// Stores differ in whether they can replace an object only if it is unchanged;
// none of them needs to here. Who overtakes us with a higher mark may be undone
// by our put for a moment, so we look again after it; and whoever relies on a
// mark looks again after what he relied on it for.
func (a *Admin) raiseBoundary(ctx context.Context, key string, to uint64) (uint64, error) {
	highest := to
	for range attempts {
		raw, err := a.Store.Get(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			if to == 0 {
				return 0, nil
			}
			err = a.Store.PutNew(ctx, key, strconv.AppendUint(nil, to, 10))
			if err == nil || errors.Is(err, fs.ErrExist) {
				continue
			}
		}
		if err != nil {
			return 0, &ObjectError{Key: key, Err: err}
		}
		is, err := ParseBoundary(raw)
		if err != nil {
			return 0, &ObjectError{Key: key, Err: err}
		}
		if highest = max(highest, is); is >= highest {
			return is, nil
		}
		if err := a.Store.Put(ctx, key, strconv.AppendUint(nil, highest, 10)); err != nil {
			return 0, fmt.Errorf("raise the collector's boundary: %w", err)
		}
	}
	return 0, &ObjectError{Key: key, Err: ErrBusy}
}
