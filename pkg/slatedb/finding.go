package slatedb

import "fmt"

// Code names a kind of finding. Scripts may rely on the spelling.
type Code string

// What [Verify] can find.
const (
	ManifestUnreadable   Code = "manifest-unreadable"    // missing, damaged, or of an unknown version
	ClosedForDeletion    Code = "closed-for-deletion"    // the newest manifest is a pill
	Uninitialized        Code = "uninitialized"          // a clone under construction
	BoundaryAhead        Code = "boundary-ahead"         // every open of SlateDB would spin
	BoundaryUnreadable   Code = "boundary-unreadable"    // not a decimal number
	CheckpointDangling   Code = "checkpoint-dangling"    // the manifest it pins is gone
	ObjectMissing        Code = "object-missing"         // a table that a manifest needs
	ObjectTruncated      Code = "object-truncated"       // shorter than the manifest says
	TableDamaged         Code = "table-damaged"          // footer, info, index, filter, stats or a block
	TableUnordered       Code = "table-unordered"        // rows not in order or outside of first and last key
	UnknownFormat        Code = "unknown-format"         // a format version or codec that no release has
	InfoMismatch         Code = "info-mismatch"          // manifest and footer disagree
	FilterFormatMismatch Code = "filter-format-mismatch" // the same, of the kind of filter: reads are lost
	WALHole              Code = "wal-hole"               // a missing id that later ones follow
	WALDamaged           Code = "wal-damaged"
	WALStoreUnknown      Code = "wal-store-unknown" // the WAL is elsewhere and was not given
	Unreadable           Code = "unreadable"        // the store did not answer; says nothing of the object
)

// Finding is one thing that is wrong with a database.
type Finding struct {
	Code   Code   `json:"code"`
	Object string `json:"object"` // key in the store
	What   string `json:"what"`
	Cure   string `json:"cure"` // what a person can do
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s; %s", f.Code, f.Object, f.What, f.Cure)
}

func filterMismatch(key string, manifestID uint64, said, is int8) Finding {
	return Finding{
		Code: FilterFormatMismatch, Object: key,
		What: fmt.Sprintf("manifest %d says filter format %d, the table itself %d: SlateDB loses point reads there, scans are right", manifestID, said, is),
		Cure: "a process of release 0.12.1 has written the manifest: keep it away, then write a manifest with the filter formats of the tables",
	}
}
