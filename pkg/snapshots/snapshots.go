// Package snapshots reads snapshot repositories in Restate's layout: which
// states of a partition can be restored, whether every object of them is there
// with its recorded size, and what lies beside them that the pointer does not
// list. Only a [PrunePlan] writes and deletes, and only what it names.
//
// A repository is a prefix with one folder per partition:
//
//	<prefix>/<partition>/latest.json                          the pointer
//	<prefix>/<partition>/lsn_<20 digits>-snap_<id>/metadata.json
//	<prefix>/<partition>/lsn_<20 digits>-snap_<id>/*.sst
//
// Begin with [ReadPartition], one request for what the pointer says, and
// [Verify], one listing for what is true. [IsPartition] and
// [RepositoryPartitions] recognise the layout during discovery.
package snapshots

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Store is what this package asks of an object store. *bucket.Bucket is one.
// Calls may run at once; in particular Get and GetRange are called while a
// Walk is under way. A missing object is an error that wraps
// [io/fs.ErrNotExist], a refused one should wrap [io/fs.ErrPermission].
type Store interface {
	// Get returns the whole object. The caller may keep and change it.
	Get(ctx context.Context, key string) ([]byte, error)
	// GetRange returns n bytes from off, fewer only when the object ends.
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)
	// Walk calls each for every object whose key begins with prefix and is
	// greater than after ("" for all), in the order of their keys, until
	// each returns an error, which Walk returns.
	Walk(ctx context.Context, prefix, after string, each func(key string, size int64, modified time.Time) error) error
}

// PointerState says whether the pointer of a partition could be read.
type PointerState string

const (
	// PointerRead: latest.json was read and is consistent in itself.
	PointerRead PointerState = "read"
	// PointerMissing: there is no latest.json. Restate then knows of no
	// snapshot, whatever folders there are.
	PointerMissing PointerState = "missing"
	// PointerUnreadable: there is a latest.json and it cannot be trusted.
	// What the partition could be restored to is unknown, which is not the
	// same as nothing and not the same as position 0.
	PointerUnreadable PointerState = "unreadable"
)

// State says how much is known of one snapshot.
type State string

const (
	// Listed: the pointer says so and nobody has looked.
	Listed State = "listed"
	// Verified: metadata.json agrees with the pointer, and every file it
	// names is there with its recorded size.
	Verified State = "verified"
	// Incomplete: an object is missing or has another size; see Problems.
	Incomplete State = "incomplete"
	// Unreadable: metadata.json cannot be read, or contradicts the pointer
	// or its folder; see Reason.
	Unreadable State = "unreadable"
)

// Standing says how a snapshot's folder relates to the pointer.
type Standing string

const (
	// InPointer: a restore point.
	InPointer Standing = "in-pointer"
	// OrphanOlder: not listed, and not above the pointer's newest position:
	// a leftover of an eviction, of a server that never evicted, or of an
	// upload that failed before a later one succeeded.
	OrphanOlder Standing = "orphan-older"
	// OrphanNewer: not listed, and above the pointer's newest position: an
	// upload that failed, or one that is going on.
	OrphanNewer Standing = "orphan-newer"
	// Unplaced: there is no pointer that could be read, so nobody knows
	// whether this folder is needed.
	Unplaced Standing = "unplaced"
)

// Partition is one partition's folder as it was seen at one moment.
// [ReadPartition] fills the pointer's part, [Verify] all of it. It is a value:
// nothing in it changes after it was returned.
type Partition struct {
	// Prefix is the partition's folder, without a slash at its end.
	Prefix string

	PointerState PointerState
	// Reason says why PointerState is PointerUnreadable, else "".
	Reason string
	// PointerSHA256 is the hash of latest.json in hex, "" when it is
	// missing. The same hash means the same list.
	PointerSHA256 string
	// Pointer is the zero value unless PointerState is PointerRead.
	Pointer Pointer
	raw     []byte // latest.json as it was read

	// Points are the restore points: exactly what the pointer lists, newest
	// first. Nothing else ever is one.
	Points []Snapshot

	// Walked is set by Verify. Until then the fields below say nothing.
	Walked bool
	// Unlisted are the snapshot folders that the pointer does not list, in
	// the order of their names.
	Unlisted []Snapshot
	// Objects and Bytes count everything below Prefix, the pointer and the
	// objects outside of any snapshot folder included.
	Objects, Bytes int64
	// StrayObjects and StrayBytes count what is neither the pointer nor in
	// a snapshot folder.
	StrayObjects, StrayBytes int64
}

// Snapshot is one snapshot: a restore point or a folder beside them.
type Snapshot struct {
	// Path is the name of the snapshot's folder below the partition's.
	Path string
	// ID is the snapshot's id ("snap_…"): the pointer's word, or the
	// folder's name for one that is not listed.
	ID string
	// LSN is the position up to which the snapshot surely contains the
	// log, inclusive: the pointer's word, or the folder's name.
	LSN uint64
	// CreatedAt is the node's clock when it was made; zero when unknown.
	CreatedAt time.Time

	Standing Standing
	State    State
	// Reason says in one line why State is Incomplete or Unreadable.
	Reason string
	// Problems are the first few missing or wrong objects, ProblemCount is
	// how many there are.
	Problems     []Problem
	ProblemCount int

	// Files is the number of files that metadata.json names.
	Files int
	// Objects and Bytes count what is in the folder, metadata.json and
	// files that it does not name included.
	Objects, Bytes int64
	// Modified is the newest change of an object in the folder by the
	// store's clock; zero when unknown or the folder is empty.
	Modified time.Time

	// What the folder's listing and metadata were when State was found, so
	// that the next Verify need not read metadata.json again.
	listing [32]byte
	meta    *metadata
}

// Problem is one object that keeps a snapshot from being complete.
type Problem struct {
	Key  string
	Kind ProblemKind
	// Want and Got are sizes in bytes, for WrongSize.
	Want, Got uint64
}

// ProblemKind is what is wrong with an object.
type ProblemKind string

const (
	Missing    ProblemKind = "missing"
	WrongSize  ProblemKind = "wrong-size"
	NoMetadata ProblemKind = "no-metadata"
)

func (p Problem) String() string {
	switch p.Kind {
	case WrongSize:
		return fmt.Sprintf("%s has %d bytes, metadata.json says %d", p.Key, p.Got, p.Want)
	case NoMetadata:
		return fmt.Sprintf("%s is missing: the upload was not finished, or a deletion was", p.Key)
	}
	return p.Key + " is missing"
}

// Err returns nil when the pointer was read, else an error that says why not:
// it wraps [ErrUnreadablePointer] or [io/fs.ErrNotExist].
func (p Partition) Err() error {
	switch p.PointerState {
	case PointerRead:
		return nil
	case PointerMissing:
		return fmt.Errorf("%s: %w", pointerKey(p.Prefix), fs.ErrNotExist)
	case PointerUnreadable:
		return fmt.Errorf("%s: %w: %s", pointerKey(p.Prefix), ErrUnreadablePointer, p.Reason)
	}
	return errors.New("partition was never read")
}

// LatestLSN is the position of the newest restore point. It is false when the
// pointer is missing or unreadable: unknown, never 0.
func (p Partition) LatestLSN() (uint64, bool) {
	if p.PointerState != PointerRead {
		return 0, false
	}
	return p.Pointer.LSN, true
}

// ArchivedLSN is the lowest position over the restore points, so that any of
// them can be brought up to date from a log that was cut at it. This is the
// pointer's claim; P3 asks for [Partition.VerifiedLSNs]. It is false when the
// pointer is missing or unreadable: unknown, never 0.
func (p Partition) ArchivedLSN() (uint64, bool) {
	if p.PointerState != PointerRead {
		return 0, false
	}
	archived := p.Pointer.LSN
	for _, r := range p.Pointer.Retained {
		archived = min(archived, r.LSN)
	}
	return archived, true
}

// VerifiedLSNs are the positions of the restore points that are verified,
// newest first. The n-th is the archived position of a region that must be
// able to restore n of them.
func (p Partition) VerifiedLSNs() []uint64 {
	var lsns []uint64
	for _, s := range p.Points {
		if s.State == Verified {
			lsns = append(lsns, s.LSN)
		}
	}
	return lsns
}

// MayBeInProgress reports whether the folder may be an upload that is going
// on, which looks exactly like an orphan: files first, then metadata.json, then
// the pointer. Whoever sweeps orphans leaves these alone. A folder whose time
// of change is unknown may be one.
func (s Snapshot) MayBeInProgress(now time.Time, grace time.Duration) bool {
	if s.Standing == InPointer {
		return false
	}
	return s.Modified.IsZero() || now.Sub(s.Modified) < grace
}
