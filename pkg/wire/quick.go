package wire

import (
	"encoding/binary"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// What follows reads messages in the form in which they nearly always come: each
// field once, none that is not known. For anything else it gives up, and the
// generated code says what is so.

// sightingBox is a Sighting with room for what it points to.
type sightingBox struct {
	s           catalog.Sighting
	numbers     [18]uint64
	initialized bool
	listedAt    time.Time
}

// quickSighting reads a serialised Sighting; nil when it gives up. key is
// shared when it is the root.
func quickSighting(b []byte, key string) *catalog.Sighting {
	box := new(sightingBox)
	s, used := &box.s, 0
	var had uint64
	for len(b) > 0 {
		tag, n := uvarint(b)
		if n <= 0 {
			return nil
		}
		b = b[n:]
		field, typ := tag>>3, protowire.Type(tag&7)
		if field > 38 {
			return nil
		}
		if field < 35 || field == 37 {
			if had&(1<<field) != 0 {
				return nil
			}
			had |= 1 << field
		}
		switch typ {
		case protowire.VarintType:
			v, n := uvarint(b)
			if n <= 0 {
				return nil
			}
			b = b[n:]
			switch field {
			case 8:
				s.IncarnationKept = v != 0
				continue
			case 15:
				box.initialized = v != 0
				s.Initialized = &box.initialized
				continue
			case 37:
				s.MoreCheckpoints = v
				continue
			}
			p := numberAt(s, field)
			if p == nil {
				return nil
			}
			box.numbers[used] = v
			*p = &box.numbers[used]
			used++
		case protowire.BytesType:
			size, n := uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return nil
			}
			v := b[n : n+int(size)]
			b = b[n+int(size):]
			if !utf8.Valid(v) && field < 33 {
				return nil
			}
			switch field {
			case 1:
				s.Slate = shared(v, key)
			case 2:
				s.Root = shared(v, key)
			case 3:
				s.Kind = catalog.Kind(word(v))
			case 4:
				s.KindFrom = word(v)
			case 5:
				s.Seen = catalog.Seen(word(v))
			case 6:
				s.Reason = string(v)
			case 7:
				s.Incarnation = string(v)
			case 9:
				s.Predecessor = string(v)
			case 10:
				s.Lineage = shared(v, s.Incarnation)
			case 16:
				s.Extractor = word(v)
			case 17:
				s.Pill = string(v)
			case 25:
				s.Compaction = word(v)
			case 27:
				s.PositionDomain = word(v)
			case 33:
				t, ok := quickTime(v)
				if !ok {
					return nil
				}
				box.listedAt = t
				s.ListedAt = &box.listedAt
			case 36:
				p, ok := quickCheckpoint(v)
				if !ok {
					return nil
				}
				s.Checkpoints = append(s.Checkpoints, p)
			default:
				return nil
			}
		default:
			return nil
		}
	}
	if s.Checkpoints == nil {
		s.Checkpoints = []catalog.Checkpoint{} // empty, not null, for people's programs
	}
	return s
}

func numberAt(s *catalog.Sighting, field uint64) **uint64 {
	switch field {
	case 11:
		return &s.ManifestID
	case 12:
		return &s.ManifestVersion
	case 13:
		return &s.WriterEpoch
	case 14:
		return &s.CompactorEpoch
	case 18:
		return &s.LastL0Seq
	case 19:
		return &s.ReplayAfterWAL
	case 20:
		return &s.WALTail
	case 21:
		return &s.WALGap
	case 22:
		return &s.L0Count
	case 23:
		return &s.RunCount
	case 24:
		return &s.SegmentCount
	case 26:
		return &s.Position
	case 28:
		return &s.TrimmedTo
	case 29:
		return &s.Archived
	case 30:
		return &s.Bytes
	case 31:
		return &s.ListedBytes
	case 32:
		return &s.ListedObjects
	case 34:
		return &s.Backlog
	}
	return nil
}

func quickCheckpoint(b []byte) (p catalog.Checkpoint, ok bool) {
	var had uint64
	for len(b) > 0 {
		field, v, num, rest := quickField(b)
		if rest == nil || field > 6 || had&(1<<field) != 0 {
			return p, false
		}
		had |= 1 << field
		b = rest
		if (field == 3) != (v == nil) || !utf8.Valid(v) && field != 4 && field != 5 {
			return p, false
		}
		switch field {
		case 1:
			p.ID = string(v)
		case 2:
			p.Name = string(v)
		case 3:
			p.ManifestID = num
		case 4, 5:
			t, ok := quickTime(v)
			if !ok {
				return p, false
			}
			if field == 4 {
				p.Created = &t
			} else {
				p.Expires = &t
			}
		case 6:
			p.Looks = word(v)
		default:
			return p, false
		}
	}
	return p, true
}

// quickTime reads a Timestamp between the years 1 and 9999.
func quickTime(b []byte) (t time.Time, ok bool) {
	var seconds, nanos uint64
	var had uint64
	for len(b) > 0 {
		field, v, num, rest := quickField(b)
		if rest == nil || v != nil || field > 2 || had&(1<<field) != 0 {
			return t, false
		}
		had |= 1 << field
		b = rest
		switch field {
		case 1:
			seconds = num
		case 2:
			nanos = num
		default:
			return t, false
		}
	}
	if int64(seconds) < 0 || int64(seconds) > latest.Unix() || nanos >= 1e9 {
		return t, false
	}
	return time.Unix(int64(seconds), int64(nanos)).UTC(), true
}

// quickField reads one field, a varint (v is nil) or bytes. rest is nil when it
// is neither.
func quickField(b []byte) (field uint64, v []byte, num uint64, rest []byte) {
	tag, n := uvarint(b)
	if n <= 0 {
		return 0, nil, 0, nil
	}
	b = b[n:]
	num, n = uvarint(b)
	if n <= 0 {
		return 0, nil, 0, nil
	}
	b = b[n:]
	switch protowire.Type(tag & 7) {
	case protowire.VarintType:
		return tag >> 3, nil, num, b
	case protowire.BytesType:
		if num > uint64(len(b)) {
			return 0, nil, 0, nil
		}
		return tag >> 3, b[:num:num], 0, b[num:]
	}
	return 0, nil, 0, nil
}

// uvarint reads a varint; n is not positive when there is none.
func uvarint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

// shared is v as a string, like when they are the same.
func shared(v []byte, like string) string {
	if string(v) == like {
		return like
	}
	return string(v)
}

// word is v as a string, without a new one for the words that most values use.
func word(v []byte) string {
	switch string(v) {
	case "":
		return ""
	case "log":
		return "log"
	case "timeseries":
		return "timeseries"
	case "vector":
		return "vector"
	case "keyvalue":
		return "keyvalue"
	case "buffer":
		return "buffer"
	case "snapshots":
		return "snapshots"
	case "slatedb":
		return "slatedb"
	case "live":
		return "live"
	case "missing":
		return "missing"
	case "unreadable":
		return "unreadable"
	case "extractor":
		return "extractor"
	case "first-key":
		return "first-key"
	case "layout":
		return "layout"
	case "submitted":
		return "submitted"
	case "running":
		return "running"
	case "completed":
		return "completed"
	case "failed":
		return "failed"
	case "scheduled":
		return "scheduled"
	case "compacted":
		return "compacted"
	case "seq":
		return "seq"
	case "log-seq":
		return "log-seq"
	case "lsn":
		return "lsn"
	case "buffer-seq":
		return "buffer-seq"
	case "named":
		return "named"
	case "reader":
		return "reader"
	case "guard":
		return "guard"
	case "clone-source":
		return "clone-source"
	case "clone-pin":
		return "clone-pin"
	}
	return string(v)
}

// quickFrame reads a frame of records; nil when it gives up. The records'
// bytes are those of b.
func quickFrame(b []byte) *quarryv1.AgentFrame {
	f := new(quarryv1.AgentFrame)
	var body []byte
	var kind, had uint64
	for len(b) > 0 {
		tag, n := uvarint(b)
		if n <= 0 {
			return nil
		}
		if tag == 2<<3|uint64(protowire.Fixed64Type) && len(b) >= n+8 && had&2 == 0 {
			f.Session = binary.LittleEndian.Uint64(b[n:])
			b, had = b[n+8:], had|2
			continue
		}
		field, v, num, rest := quickField(b)
		switch {
		case rest == nil:
			return nil
		case field == 1 && v == nil && had&1 == 0:
			f.Number, had = num, had|1
		case (field == 5 || field == 7 || field == 11) && v != nil && had&4 == 0:
			kind, body, had = field, v, had|4
		default:
			return nil
		}
		b = rest
	}
	switch kind {
	case 5:
		d := new(quarryv1.Delta)
		recs, ok := quickRecords(body, 3, func(field uint64, v []byte) bool {
			switch {
			case field == 1 && d.From == nil:
				d.From = quickRevision(v)
				return d.From != nil
			case field == 2 && d.Upto == nil:
				d.Upto = quickRevision(v)
				return d.Upto != nil
			case field == 4 && d.Moves == nil:
				d.Moves = v
				return true
			}
			return false
		})
		if !ok {
			return nil
		}
		d.Records = recs
		f.Body = &quarryv1.AgentFrame_Delta{Delta: d}
	case 7, 11:
		recs, ok := quickRecords(body, 1, func(uint64, []byte) bool { return false })
		if !ok {
			return nil
		}
		if kind == 7 {
			f.Body = &quarryv1.AgentFrame_SnapshotBatch{SnapshotBatch: &quarryv1.SnapshotBatch{Records: recs}}
		} else {
			f.Body = &quarryv1.AgentFrame_RepairBatch{RepairBatch: &quarryv1.RepairBatch{Records: recs}}
		}
	default:
		return nil
	}
	return f
}

// quickRecords reads the records in field number records of a message, and
// gives its other fields to other.
func quickRecords(b []byte, records uint64, other func(field uint64, v []byte) bool) ([]*quarryv1.Record, bool) {
	count := 0
	for rest := b; len(rest) > 0; {
		field, v, _, next := quickField(rest)
		if next == nil || v == nil {
			return nil, false
		}
		if rest = next; field == records {
			count++
		} else if !other(field, v) {
			return nil, false
		}
	}
	slab, recs := make([]quarryv1.Record, count), make([]*quarryv1.Record, count)
	for i := 0; len(b) > 0; {
		field, v, _, next := quickField(b)
		if b = next; field != records {
			continue
		}
		if !quickRecord(v, &slab[i]) {
			return nil, false
		}
		recs[i] = &slab[i]
		i++
	}
	return recs, true
}

func quickRecord(b []byte, r *quarryv1.Record) bool {
	var had uint64
	for len(b) > 0 {
		field, v, num, rest := quickField(b)
		if rest == nil || field > 7 || had&(1<<field) != 0 {
			return false
		}
		had |= 1 << field
		b = rest
		switch {
		case field == 1 && v == nil:
			r.Kind = uint32(num)
		case field == 2 && v != nil:
			r.Key = v
		case field == 3 && v == nil:
			r.Revision = num
		case field == 4 && v != nil:
			r.Value = v
		case field == 5 && v != nil:
			r.Gone = v
		case field == 6 && v != nil:
			r.Unsendable = v
		case field == 7 && v == nil:
			r.Ordinal = uint32(num)
		default:
			return false
		}
	}
	return true
}

func quickRevision(b []byte) *quarryv1.Revision {
	r := new(quarryv1.Revision)
	var had uint64
	for len(b) > 0 {
		field, v, num, rest := quickField(b)
		if rest == nil || v != nil || field > 2 || had&(1<<field) != 0 {
			return nil
		}
		had |= 1 << field
		b = rest
		switch field {
		case 1:
			r.Start = num
		case 2:
			r.Counter = num
		default:
			return nil
		}
	}
	return r
}
