// Package sst reads and writes SlateDB's sorted string tables: the footer, the
// index, the filters, the statistics and the data blocks of both block formats
// with all five compressions. It knows nothing of databases; WAL objects have
// the same layout, and package wal knows them.
//
// Begin with [NewTable] for a table in an object store, read in ranges, with
// [Whole] for one in memory, or with [NewWriter] to make one. Whatever the bytes, the answer is a value or
// an error that names the part and its offset, never a panic, and memory stays
// within [MaxPart] for each part. Format: shared notes "SlateDB on-disk
// format", §3.
package sst

import (
	"errors"
	"fmt"
)

// Flags say what a row is and which of its times are present.
type Flags uint8

// Flags of a row, as stored.
const (
	Tombstone Flags = 1 << iota // the key is deleted; no value
	HasExpire                   // ExpireTS is present
	HasCreate                   // CreateTS is present
	Merge                       // the value is an operand for older rows of the key

	knownFlags = Tombstone | HasExpire | HasCreate | Merge
)

// Row is one version of one key. Key and Value belong to whoever gave the row
// and are valid as long as it says.
type Row struct {
	Key   []byte
	Value []byte // not nil unless the row is a tombstone
	Seq   uint64
	Flags Flags
	// Times in ms since 1970 by the writer's clock. Any value is a valid
	// time, zero too: ask Flags whether they are there.
	CreateTS int64
	ExpireTS int64
}

// Tombstone reports whether the row deletes its key.
func (r *Row) Tombstone() bool { return r.Flags&Tombstone != 0 }

// Merge reports whether the row's value is a merge operand.
func (r *Row) Merge() bool { return r.Flags&Merge != 0 }

// MaxPart is the greatest size of one part of a table (a block, an index, a
// filter), as stored and decompressed. Larger ones are refused: real parts are
// some kilobytes, and a filter of this size covers 200 million rows.
const MaxPart = 256 << 20

// MaxKey is the longest key SlateDB writes.
const MaxKey = 65535

var (
	// ErrCorrupt is wrapped by every error about the content of a table.
	ErrCorrupt = errors.New("corrupt table")
	// ErrFormat is wrapped when the format version is not one this package
	// reads.
	ErrFormat = fmt.Errorf("unknown table format: %w", ErrCorrupt)
	// ErrEmpty is the error for an object too short to be a table.
	ErrEmpty = fmt.Errorf("too short for a table: %w", ErrCorrupt)
	// ErrTooLarge is wrapped when a part is larger than [MaxPart].
	ErrTooLarge = fmt.Errorf("larger than %d bytes: %w", MaxPart, ErrCorrupt)
	// ErrChecksum is wrapped when stored bytes do not have their checksum.
	ErrChecksum = fmt.Errorf("checksum mismatch: %w", ErrCorrupt)
)

// Part names a part of a table.
type Part string

// The parts of a table.
const (
	PartFooter Part = "footer" // checksum of info, its offset, the format version
	PartInfo   Part = "info"
	PartIndex  Part = "index"
	PartFilter Part = "filter"
	PartStats  Part = "stats"
	PartBlock  Part = "block"
)

// Fault is damage found in a part of a table.
type Fault struct {
	Part   Part
	Offset int64 // of the part in the object
	Err    error
}

func (f *Fault) Error() string { return fmt.Sprintf("%s at %d: %v", f.Part, f.Offset, f.Err) }

// Unwrap returns what is wrong with the part; every fault is [ErrCorrupt].
func (f *Fault) Unwrap() []error { return []error{f.Err, ErrCorrupt} }

func fault(part Part, off int64, err error) error {
	return &Fault{Part: part, Offset: off, Err: err}
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrCorrupt)
}

func formatf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrFormat)
}

func formatError(version uint16) error { return formatf("version %d, known are 1 and 2", version) }
