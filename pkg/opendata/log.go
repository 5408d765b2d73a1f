package opendata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"
)

// KeyRange is the keys from From to before To.
type KeyRange struct{ From, To []byte }

// LogSegment is one segment of a log's own index.
type LogSegment struct {
	ID uint32
	// StartSequence is the first sequence that the segment may hold.
	StartSequence uint64
	// Start is the writer's clock when it was begun.
	Start time.Time
}

// LogState is what a log's rows say of its own sequence, which has nothing to
// do with SlateDB's. The zero value has heard nothing. Feed it the rows of the
// ranges that it asks for:
//
//	for r, more := log.Next(); more; r, more = log.Next() {
//		for each row of r { err := log.Add(key, value) }
//		log.Done(r)
//	}
//
// It keeps a segment's id and numbers, not its entries, so that its size does
// not grow with the log. It must not be used by two goroutines at once.
type LogState struct {
	segments map[uint32]LogSegment
	block    *SequenceBlock
	highest  map[uint32]uint64 // per segment, the highest relative sequence met
	read     map[uint32]bool   // segments whose range is done, 0 among them
	unknown  int
}

// SequenceBlock is the sequences that the writer has reserved last: from Base,
// Size of them. A writer that opens the log again begins at the next block, so
// gaps are normal and sequences are no counts.
type SequenceBlock struct{ Base, Size uint64 }

// Next returns the range of keys that must be read next, false when all is
// known. It is the log's own rows first, a few; then the entries of the newest
// segment, for the head; and the entries of the one before only while there
// were none. The entries of a segment are sorted by the user's key, so the
// whole of one has to be read.
func (s *LogState) Next() (KeyRange, bool) {
	if !s.read[0] {
		return KeyRange{From: segmentPrefix(0), To: segmentPrefix(1)}, true
	}
	ids := slices.Sorted(maps.Keys(s.segments))
	for _, id := range slices.Backward(ids) {
		if !s.read[id] {
			p := slices.Clip(segmentPrefix(id))
			return KeyRange{From: append(p, byte(LogEntry)), To: append(p, byte(LogEntry)+1)}, true
		}
		if _, some := s.highest[id]; some {
			break
		}
	}
	return KeyRange{}, false
}

// Done says that every row of a range that Next returned was added.
func (s *LogState) Done(r KeyRange) {
	if len(r.From) < logPrefix {
		return
	}
	if s.read == nil {
		s.read = map[uint32]bool{}
	}
	s.read[binary.BigEndian.Uint32(r.From[2:])] = true
}

func segmentPrefix(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{logSubsystem, logVersion}, id)
}

// Add takes one row that is alive, in any order; value is needed for the rows
// of segment 0 only. It keeps neither slice. Rows of a tag that this package
// does not know are counted and passed over; any other row that is not as a
// log's should be is an error, after which the state must not be used.
func (s *LogState) Add(key, value []byte) error {
	k, err := ParseLogKey(key)
	if errors.Is(err, ErrLogTag) {
		s.unknown++
		return nil
	}
	if err != nil {
		return err
	}
	switch k.Tag {
	case LogSequenceBlock:
		a, b, err := twoNumbers(value)
		if err != nil {
			return fmt.Errorf("sequence block: %w", err)
		}
		if _, carry := bits.Add64(a, b, 0); carry != 0 {
			return fmt.Errorf("sequence block: %d sequences from %d", b, a)
		}
		s.block = &SequenceBlock{Base: a, Size: b}
	case LogSegmentMeta:
		a, b, err := twoNumbers(value)
		if err != nil {
			return fmt.Errorf("meta of segment %d: %w", k.Segment, err)
		}
		if s.segments == nil {
			s.segments = map[uint32]LogSegment{}
		}
		s.segments[k.Segment] = LogSegment{ID: k.Segment, StartSequence: a, Start: time.UnixMilli(int64(b)).UTC()}
	case LogEntry:
		if s.highest == nil {
			s.highest = map[uint32]uint64{}
		}
		s.highest[k.Segment] = max(s.highest[k.Segment], k.Relative)
	}
	return nil
}

// twoNumbers reads the values of the system segment. What may one day follow
// them is passed over.
func twoNumbers(value []byte) (a, b uint64, err error) {
	if len(value) < 16 {
		return 0, 0, fmt.Errorf("value has %d bytes, 16 are needed", len(value))
	}
	return binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:]), nil
}

// Segments are the segments of the log's index, the oldest first. Trees of
// segments that the log has dropped may still be in the manifest and are not
// among them.
func (s *LogState) Segments() []LogSegment {
	var list []LogSegment
	for _, id := range slices.Sorted(maps.Keys(s.segments)) {
		list = append(list, s.segments[id])
	}
	return list
}

// TrimmedTo is the highest sequence P such that everything ≤ P may be gone. It
// is false when nothing was trimmed, and when there is no segment, from which
// nothing follows. It is right once the first range of [LogState.Next] is done.
func (s *LogState) TrimmedTo() (uint64, bool) {
	first, some := uint64(0), false
	for _, seg := range s.segments {
		if !some || seg.StartSequence < first {
			first, some = seg.StartSequence, true
		}
	}
	if !some || first == 0 {
		return 0, false
	}
	return first - 1, true
}

// Head is the highest sequence that is present. It is false when no entry is,
// and until [LogState.Next] has nothing more to ask for.
func (s *LogState) Head() (uint64, bool) {
	if _, more := s.Next(); more {
		return 0, false
	}
	ids := slices.Sorted(maps.Keys(s.segments))
	for _, id := range slices.Backward(ids) {
		if relative, some := s.highest[id]; some {
			head, carry := bits.Add64(s.segments[id].StartSequence, relative, 0)
			return head, carry == 0
		}
	}
	return 0, false
}

// Reserved is the block of sequences that the writer has reserved last; false
// when there is none. The head is below its end.
func (s *LogState) Reserved() (SequenceBlock, bool) {
	if s.block == nil {
		return SequenceBlock{}, false
	}
	return *s.block, true
}

// UnknownRows is the number of rows whose tag this package does not know.
func (s *LogState) UnknownRows() int { return s.unknown }
