package slatedb

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"
)

// ObjectError says which object of a database is damaged, missing or cannot
// be read. It wraps what is wrong with it.
type ObjectError struct {
	Key string
	Err error
}

func (e *ObjectError) Error() string { return fmt.Sprintf("%s: %v", e.Key, e.Err) }

func (e *ObjectError) Unwrap() error { return e.Err }

// below returns the key of an object of the database at root. The root "" is
// the bucket's own root; slashes around a root do not count.
func below(root, name string) string {
	if root = strings.Trim(root, "/"); root == "" {
		return name
	}
	return root + "/" + name
}

// ManifestKey returns the key of manifest id of the database at root.
func ManifestKey(root string, id uint64) string {
	return below(root, fmt.Sprintf("manifest/%020d.manifest", id))
}

// CompactionsKey returns the key of the compactor's state id.
func CompactionsKey(root string, id uint64) string {
	return below(root, fmt.Sprintf("compactions/%020d.compactions", id))
}

// WALKey returns the key of WAL object id, in whichever store the WAL is.
func WALKey(root string, id uint64) string {
	return below(root, fmt.Sprintf("wal/%020d.sst", id))
}

// TableKey returns the key of a table.
func TableKey(root string, id ulid.ULID) string {
	return below(root, "compacted/"+id.String()+".sst")
}

// BoundaryKey returns the key of the object in which collectors say up to
// which manifest they have deleted.
func BoundaryKey(root string) string { return below(root, "gc/manifest.boundary") }

// ParseManifestKey returns the id of a manifest of the database at root. It is
// false for every key that [ManifestKey] does not give: other objects, staging
// files such as …manifest#1, anything below.
func ParseManifestKey(root, key string) (uint64, bool) {
	return numbered(root, key, "manifest/", ".manifest")
}

// ParseCompactionsKey is like [ParseManifestKey] for [CompactionsKey].
func ParseCompactionsKey(root, key string) (uint64, bool) {
	return numbered(root, key, "compactions/", ".compactions")
}

// ParseWALKey is like [ParseManifestKey] for [WALKey].
func ParseWALKey(root, key string) (uint64, bool) { return numbered(root, key, "wal/", ".sst") }

// ParseTableKey is like [ParseManifestKey] for [TableKey].
func ParseTableKey(root, key string) (ulid.ULID, bool) {
	stem, ok := between(key, below(root, "compacted/"), ".sst")
	if !ok {
		return ulid.ULID{}, false
	}
	id, err := ulid.ParseStrict(stem)
	// Lower case is another object, which nobody would find by its id.
	return id, err == nil && id.String() == stem
}

func numbered(root, key, folder, suffix string) (uint64, bool) {
	stem, ok := between(key, below(root, folder), suffix)
	if !ok || len(stem) != 20 || strings.Trim(stem, "0123456789") != "" {
		return 0, false
	}
	id, err := strconv.ParseUint(stem, 10, 64)
	return id, err == nil // twenty digits may be more than 64 bits hold
}

func between(s, prefix, suffix string) (string, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, suffix)
}
