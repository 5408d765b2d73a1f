package slatedb

import "fmt"

// Code names a kind of finding. Scripts may rely on the spelling.
type Code string

// What [Verify] and [Symptoms] can find.
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
	SegmentsLost         Code = "segments-lost"          // an earlier manifest had them
	WALHole              Code = "wal-hole"               // a missing id that later ones follow
	WALDamaged           Code = "wal-damaged"
	WALStoreUnknown      Code = "wal-store-unknown"  // the WAL is elsewhere and was not given
	WALStoreUnmarked     Code = "wal-store-unmarked" // the WAL seems to be elsewhere and nothing says so
	CollectorStuck       Code = "collector-stuck"    // manifests or compactions pile up
	MixedVersions        Code = "mixed-versions"     // a release in use cannot open it, or damages it
	Unreadable           Code = "unreadable"         // the store did not answer; says nothing of the object
)

// Finding is one thing that is wrong with a database.
type Finding struct {
	Code   Code   `json:"code"`
	Object string `json:"object"` // key in the store
	What   string `json:"what"`
	Who    string `json:"who"`  // who is hurt
	Cure   string `json:"cure"` // what a person can do
	// Repair: [Admin.Repair] makes the cure.
	Repair bool `json:"repair"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s; it hurts %s; %s", f.Code, f.Object, f.What, f.Who, f.Cure)
}

// Whom findings hurt, where several say the same.
const (
	everybody   = "whoever opens the database"
	theirReads  = "whoever reads these rows"
	pinnedReads = "whoever opens the checkpoint, and the collector, which stops at it and keeps everything"
)

const fromCopy = "put the table back from a copy (another region's, a restore point's); its rows are nowhere else in this database"

func filterMismatch(key string, manifestID uint64, said, is int8) Finding {
	return Finding{
		Code: FilterFormatMismatch, Object: key,
		What:   fmt.Sprintf("manifest %d says filter format %d, the table itself %d: a process of release 0.12 has written the manifest", manifestID, said, is),
		Who:    "point reads of every release, which find rows absent that are there; scans are right",
		Cure:   "keep release 0.12 away, then `quarry slatedb repair`, which writes a manifest with the filter formats of the tables",
		Repair: true,
	}
}

// filterMismatchPinned is the same of a manifest that only a checkpoint needs:
// nobody can write that one again.
func filterMismatchPinned(key string, manifestID uint64, said, is int8) Finding {
	f := filterMismatch(key, manifestID, said, is)
	f.Who = "point reads of whoever opens the checkpoint that pins this manifest; scans are right"
	f.Cure = "once the newest manifest is right, make another checkpoint in place of this one"
	f.Repair = false
	return f
}

func boundaryAhead(root string, boundary, latest uint64) Finding {
	return Finding{
		Code: BoundaryAhead, Object: BoundaryKey(root),
		What:   fmt.Sprintf("says that manifests up to %d are gone, the newest is %d", boundary, latest),
		Who:    "every open, read and administration call of SlateDB 0.14.1 to 0.17.0: they spin without an error, with requests without limit",
		Cure:   "let nobody open the database, then `quarry slatedb repair`, which puts the newest manifest again above the boundary",
		Repair: boundary-latest < maxRefill,
	}
}

func boundaryUnreadable(key string, err error) Finding {
	return Finding{
		Code: BoundaryUnreadable, Object: key, What: err.Error(), Who: "every open of SlateDB 0.14.1 and later",
		Cure: "put the id of the last collected manifest, in decimal",
	}
}

func unreadable(key string, err error) Finding {
	return Finding{Code: Unreadable, Object: key, What: err.Error(), Who: "nobody, perhaps: nothing is known", Cure: "look at the store and its permissions, then verify again"}
}

func segmentsLost(root string, latest, had uint64, extractor string, repair bool) Finding {
	f := Finding{
		Code: SegmentsLost, Object: ManifestKey(root, latest),
		What:   fmt.Sprintf("manifest %d had segments by %q, manifest %d has none: a process of release 0.12 has written it", had, extractor, latest),
		Who:    "everybody: the rows of the segments are gone from reads, and the owner cannot open the database (segment extractor configuration mismatch)",
		Cure:   "keep release 0.12 and every collector away, then `quarry slatedb repair`, which puts the segments back into the newest manifest",
		Repair: repair,
	}
	if !repair {
		f.Cure = "keep every collector away; rows were written since, so no manifest has all: ask for help, or restore a copy"
	}
	return f
}

func walHole(root string, id uint64, what string) Finding {
	return Finding{
		Code: WALHole, Object: WALKey(root, id), What: what,
		Who:  "whoever opens it: 0.12 and 0.13 fail, later writers take the hole for the end and lose what is behind it, readers show less without an error",
		Cure: "let nobody open the database for writing; put the object back from a copy, or name the WAL's own store if it has one (--wal)",
	}
}

func walUnmarked(root, what string) Finding {
	return Finding{
		Code: WALStoreUnmarked, Object: below(root, "wal/"), What: what,
		Who:  "whoever opens it without its WAL store: rows are missing without an error, and what he writes is lost to the others",
		Cure: "name the WAL's own store (--wal); until then the database is unverified: nothing of it is held, copied or collected",
	}
}

func walMarked(root string, id uint64) Finding {
	return Finding{
		Code: WALStoreUnknown, Object: ManifestKey(root, id), What: ErrWALStore.Error() + ": its rows were not looked at",
		Who: "nobody: SlateDB refuses to open it without the store", Cure: "name the store (--wal)",
	}
}
