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
	// Put replaces an object. Only the collector's marks are written so, and
	// only where the store is no [Replacer].
	Put(ctx context.Context, key string, data []byte) error
}

// Replacer is a store that can replace an object on the condition that nobody
// else has. *bucket.Bucket is one.
type Replacer interface {
	// GetVersion is Get, and what names these contents to Replace.
	GetVersion(ctx context.Context, key string) (data []byte, version string, err error)
	// Replace writes an object that is still of that version. It fails when
	// it is not, and with [errors.ErrUnsupported] where it cannot be done.
	Replace(ctx context.Context, key string, data []byte, version string) error
}

// CompactionsBoundaryKey is [BoundaryKey] for the compactor's states.
func CompactionsBoundaryKey(root string) string { return below(root, "gc/compactions.boundary") }

// raiseBoundary makes the mark at key at least to and returns what it is then.
// A mark never goes down.
//
// Where the store can replace on a condition nobody is undone. Elsewhere, and
// behind a gateway that ignores the condition, who overtakes us with a higher
// mark may be undone by our put for a moment, so we look again after it; and
// whoever relies on a mark looks again after what he relied on it for.
func (a *Admin) raiseBoundary(ctx context.Context, key string, to uint64) (uint64, error) {
	highest := to
	var last error // of the attempt before
	for range attempts {
		raw, version, err := a.mark(ctx, key)
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
		// Why a replacement did not work says the next look.
		if last = a.replaceMark(ctx, key, strconv.AppendUint(nil, highest, 10), version); last != nil && ctx.Err() != nil {
			break
		}
	}
	if last != nil {
		return 0, fmt.Errorf("raise the collector's boundary: %w: %w", ErrBusy, last)
	}
	return 0, &ObjectError{Key: key, Err: ErrBusy}
}

// mark reads the mark and, where the store tells, its version.
func (a *Admin) mark(ctx context.Context, key string) ([]byte, string, error) {
	if r, ok := a.Store.(Replacer); ok {
		return r.GetVersion(ctx, key)
	}
	raw, err := a.Store.Get(ctx, key)
	return raw, "", err
}

func (a *Admin) replaceMark(ctx context.Context, key string, data []byte, version string) error {
	if r, ok := a.Store.(Replacer); ok {
		if err := r.Replace(ctx, key, data, version); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	return a.Store.Put(ctx, key, data)
}
