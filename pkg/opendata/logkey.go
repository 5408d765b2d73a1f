package opendata

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// LogTag says what a row of a log's slate is.
type LogTag byte

const (
	// LogEntry: one record of the log.
	LogEntry LogTag = 0x10
	// LogSequenceBlock: the sequences that the writer has reserved.
	LogSequenceBlock LogTag = 0x20
	// LogSegmentMeta: a segment of the log's own index. A segment without
	// it does not exist any more, whatever rows are left of it.
	LogSegmentMeta LogTag = 0x30
	// LogListing: that a user's key has entries in a segment.
	LogListing LogTag = 0x40
)

// ErrLogTag is wrapped by [ParseLogKey] for a key that is a log's, of a tag
// that this package does not know.
var ErrLogTag = errors.New("unknown tag in a log's key")

// LogKey is a key of a log's slate, taken apart:
//
//	03 01 00000000 20                     sequence block
//	03 01 00000000 30 SEG32               segment meta
//	03 01 SEG32    10 escaped key 00 REL  entry
//	03 01 SEG32    40 key                 listing
type LogKey struct {
	Tag LogTag
	// Segment is the one that the row belongs to or, for LogSegmentMeta,
	// describes. Segment 0 holds the log's own rows.
	Segment uint32
	// Key is the user's, for LogEntry and LogListing. For LogListing it
	// shares the memory of the key that was parsed.
	Key []byte
	// Relative is an entry's sequence less its segment's first.
	Relative uint64
}

const (
	logSubsystem = 3
	logVersion   = 1
	logPrefix    = 2 + 4 // subsystem, version, segment
)

// ParseLogKey takes a key of a log's slate apart. Every byte must be accounted
// for. For an unknown tag it returns what it knows and [ErrLogTag].
func ParseLogKey(b []byte) (LogKey, error) {
	if len(b) <= logPrefix || b[0] != logSubsystem || b[1] != logVersion {
		return LogKey{}, fmt.Errorf("key %x is not a log's of version %d", clip(b), logVersion)
	}
	k := LogKey{Segment: binary.BigEndian.Uint32(b[2:]), Tag: LogTag(b[logPrefix])}
	rest := b[logPrefix+1:]
	system := k.Tag == LogSequenceBlock || k.Tag == LogSegmentMeta
	if known := system || k.Tag == LogEntry || k.Tag == LogListing; !known {
		return k, fmt.Errorf("key %x: %w %02x", clip(b), ErrLogTag, byte(k.Tag))
	}
	if system != (k.Segment == 0) {
		return LogKey{}, fmt.Errorf("key %x: tag %02x in segment %d", clip(b), byte(k.Tag), k.Segment)
	}
	var err error
	switch k.Tag {
	case LogEntry:
		if k.Key, rest, err = unescape(rest); err == nil {
			k.Relative, rest, err = varU64(rest)
		}
	case LogSegmentMeta:
		if len(rest) < 4 {
			return LogKey{}, fmt.Errorf("key %x ends within the segment's id", clip(b))
		}
		if k.Segment, rest = binary.BigEndian.Uint32(rest), rest[4:]; k.Segment == 0 {
			err = errors.New("segment 0 has no meta")
		}
	case LogListing:
		k.Key, rest = rest, nil
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes too many", len(rest))
	}
	if err != nil {
		return LogKey{}, fmt.Errorf("key %x: %w", clip(b), err)
	}
	return k, nil
}

// clip keeps errors about long keys readable.
func clip(b []byte) []byte { return b[:min(len(b), 48)] }

// unescape reads a user's key up to its end mark 00. Within it 00 is written
// 01 01 and 01 is written 01 02. FF stands for itself; the layout once had
// 01 03 for it, which is read as well.
func unescape(b []byte) (key, rest []byte, err error) {
	key = []byte{}
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case 0:
			return key, b[i+1:], nil
		case 1:
			i++
			if i == len(b) {
				return nil, nil, errors.New("ends within an escape")
			}
			switch b[i] {
			case 1:
				key = append(key, 0)
			case 2:
				key = append(key, 1)
			case 3:
				key = append(key, 0xFF)
			default:
				return nil, nil, fmt.Errorf("unknown escape 01 %02x", b[i])
			}
		default:
			key = append(key, b[i])
		}
	}
	return nil, nil, errors.New("the user's key has no end mark")
}

// varU64 reads a number whose first byte has the count of bytes after it in its
// high four bits and the number's highest bits in its low four; the rest is
// big-endian, so that the bytes sort as the numbers do. Only the shortest form
// of a number is one.
func varU64(b []byte) (n uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errors.New("the sequence is missing")
	}
	more := int(b[0] >> 4)
	if more > 8 || more == 8 && b[0]&15 != 0 {
		return 0, nil, fmt.Errorf("sequence begins with %02x, more than 64 bits", b[0])
	}
	if len(b) < 1+more {
		return 0, nil, fmt.Errorf("sequence needs %d bytes, %d are left", 1+more, len(b))
	}
	n = uint64(b[0] & 15)
	for _, c := range b[1 : 1+more] {
		n = n<<8 | uint64(c)
	}
	if more > 0 && n < 1<<(4+8*(more-1)) {
		return 0, nil, fmt.Errorf("sequence %d is written in %d bytes, too many", n, 1+more)
	}
	return n, b[1+more:], nil
}
