package catalog

// MoveFields names the fields of a [Sighting] that a [Move] can carry, as JSON
// names them, in the order of the bits of its masks. The order is part of the
// protocol: new fields are added at the end.
var MoveFields = [...]string{
	"manifest_id", "last_l0_seq", "replay_after_wal_id", "wal_tail_id", "wal_gap",
	"l0_count", "run_count", "segment_count", "position", "trimmed_to", "archived",
	"bytes", "listed_bytes", "listed_objects", "backlog",
}

// Move says which numbers of a placement changed since the agent last told of
// it in the same session; everything else is as it was.
type Move struct {
	// Ordinal is what the agent called the placement when it last sent it
	// whole in this session; from 1.
	Ordinal uint32
	// Counter is that of the record's new revision.
	Counter uint64
	// Mask has the bits of the fields that changed, Null those of them that
	// are no longer known.
	Mask, Null uint32
	// Values are by field; only those in Mask and not in Null count.
	Values [len(MoveFields)]uint64
	// Packed is the move as it travelled, without its ordinal: what [Sum.Moved] takes.
	Packed []byte
}

// Moved is the sum of a record after a move. Both sides chain it over what
// travelled: a whole record begins a new chain.
func (s Sum) Moved(counter uint64, packed []byte) Sum {
	next := NewSum(0, "", counter, byte(s.Bucket), append(binarySum(s), packed...))
	next.Bucket = s.Bucket
	return next
}

func binarySum(s Sum) []byte {
	b := make([]byte, 0, 64)
	for i := 56; i >= 0; i -= 8 {
		b = append(b, byte(s.Hi>>i))
	}
	for i := 56; i >= 0; i -= 8 {
		b = append(b, byte(s.Lo>>i))
	}
	return b
}
