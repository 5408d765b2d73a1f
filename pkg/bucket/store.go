package bucket

import (
	"context"
	"time"
)

// Store is one provider behind a [Bucket]: what a folder, a memory store or a
// cloud must be able to do. Keys are checked before they reach it. Errors may be
// raw; [Bucket] translates them, in one place, by asking errors.Is for the
// sentinels of this package, of io/fs and of context. Calls may run at once.
//
// Only providers and wrappers such as package faulty have a use for it.
type Store interface {
	// Get returns the whole object. The caller owns the slice. The size is
	// announced as soon as it is known, so that a big object gets more time.
	Get(ctx context.Context, key string, announce func(size int64)) ([]byte, error)
	// GetRange returns n > 0 bytes from off >= 0, fewer only when the object
	// ends, none when off is at or past its end.
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)
	// Stat returns the object's size and time of last change.
	Stat(ctx context.Context, key string) (Object, error)
	// List calls page with the objects whose keys begin with prefix and are
	// greater than after, in the order of their keys, up to about a thousand
	// at a time. One call of page is one request in the books. When level is
	// set, keys that have a "/" after the prefix are folded into folders. An
	// error of page ends the listing and is returned as it is.
	List(ctx context.Context, prefix, after string, level bool, page func(Page) error) error
	// Put writes the object whole: a reader sees all of it or none. With
	// onlyNew it fails with fs.ErrExist when the key is taken. It tries once:
	// whether to try again is decided above, where the answer can be checked.
	Put(ctx context.Context, key string, data []byte, onlyNew bool) error
	// GetVersion is Get, and what names these contents to Replace.
	GetVersion(ctx context.Context, key string) (data []byte, version string, err error)
	// Replace writes the object if it is still of that version, whole and
	// once, like Put. It fails with [ErrChanged] when it is of another one or
	// gone, and with errors.ErrUnsupported where it cannot be done.
	Replace(ctx context.Context, key string, data []byte, version string) error
	// Delete removes the object.
	Delete(ctx context.Context, key string) error
	// SignedURL returns a URL with which anybody can do method (GET, PUT or
	// DELETE) on key for ttl, or errors.ErrUnsupported.
	SignedURL(ctx context.Context, method, key string, ttl time.Duration) (string, error)
	// Close releases connections.
	Close() error
}

// Object is one object of a listing.
type Object struct {
	// Key is the whole key below the bucket's prefix.
	Key string
	// Size is in bytes.
	Size int64
	// Modified is the store's own time of the last change. S3 keeps whole
	// seconds, so it orders nothing.
	Modified time.Time
}

// Page is one answer to a list request.
type Page struct {
	Objects []Object
	// Folders are common prefixes ending in "/", in order; only when a single
	// level was asked for.
	Folders []string
}

// Wrap returns a bucket like b whose calls go through wrap(b's store). It
// shares b's counters, prefix and URL; closing either closes the store. It is how
// package faulty gets between a bucket and its store.
func Wrap(b *Bucket, wrap func(Store) Store) *Bucket {
	core := *b.core
	core.store = wrap(core.store)
	return &Bucket{core: &core, prefix: b.prefix}
}
