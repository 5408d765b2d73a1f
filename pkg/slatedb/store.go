// Package slatedb reads and writes SlateDB databases in an object store in pure
// Go. It gives the newest manifest of a database, snapshots with scans and
// point reads, a verification of every object a database needs, checkpoints
// made from outside ([Admin]) and a writer ([Open]). Reading leaves no trace.
// What it writes, every published release opens and continues; what it does not
// understand it refuses to write.
//
// Begin with [Latest], [OpenReader] and [Open]. The packages manifest, sst and
// wal below it hold the codecs, which are pure.
package slatedb

import (
	"context"
	"time"
)

// Store is what this package asks of an object store. *bucket.Bucket is one.
// Calls may run at once. A missing object is an error that wraps
// [io/fs.ErrNotExist].
type Store interface {
	// Get returns the whole object. The caller may keep and change it.
	Get(ctx context.Context, key string) ([]byte, error)
	// GetRange returns n bytes from off, fewer only when the object ends.
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)
	// Stat returns size and time of the last change.
	Stat(ctx context.Context, key string) (size int64, modified time.Time, err error)
	// Walk calls each for every object whose key begins with prefix and is
	// greater than after ("" for all), in the order of their keys, until
	// each returns an error, which Walk returns.
	Walk(ctx context.Context, prefix, after string, each func(key string, size int64, modified time.Time) error) error
}
