package catalog

// MoveFields names the fields of a [Sighting] that a [Move] can carry, as JSON
// names them, in the order of the bits of its masks. The order is part of the
// protocol: new fields are added at the end.
var MoveFields = [...]string{
	"manifest_id", "last_l0_seq", "replay_after_wal_id", "wal_tail_id", "wal_gap",
	"l0_count", "run_count", "segment_count", "position", "trimmed_to", "archived",
	"bytes", "listed_bytes", "listed_objects", "backlog",
}

// MaxPacked bounds a packed move, in bytes: two masks and 32 numbers, for
// newer agents may send fields that this hub does not know.
const MaxPacked = 5 + 5 + 32*10

// Move says which numbers of a placement changed since the agent last told of
// it in the same session; everything else is as it was.
type Move struct {
	// Ordinal is what the agent called the placement when it last sent it
	// whole in this session; from 1.
	Ordinal uint32
	// Counter is that of the record's new revision.
	Counter uint64
	// Mask has the bits of the fields that are told, Null those of them that
	// are not known any more. Bits beyond MoveFields are never set.
	Mask, Null uint32
	// Values are by field; only those in Mask and not in Null count.
	Values [len(MoveFields)]uint64
	// Packed is the move as it travelled, without ordinal and step: what
	// [Sum.Moved] takes. At most MaxPacked bytes.
	Packed []byte
}
