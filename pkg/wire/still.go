package wire

import (
	"fmt"
	"math/bits"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// A placement's value travels in two parts, one after the other: what stands
// still, and the numbers that move. Together they are one serialised Sighting,
// written here by hand for it is what an agent with many slates does most;
// that it is the same is checked against the generated code.

// maxNumbers is the most bytes that [Numbers.Append] appends.
const maxNumbers = len(catalog.MoveFields) * 12

// AppendStill appends what stands still of a sighting, which the caller has
// checked with [CheckSighting]. A sighting that is too large loses checkpoints,
// which its more_checkpoints counts; one that is too large without them is an
// error, and b is given back as it was.
func AppendStill(b []byte, s *catalog.Sighting) ([]byte, error) {
	const room = MaxRecord - MaxKey - 64
	start := len(b)
	b = appendString(b, 1, s.Slate)
	b = appendString(b, 2, s.Root)
	b = appendString(b, 3, string(s.Kind))
	b = appendText(b, 4, s.KindFrom)
	b = appendString(b, 5, string(s.Seen))
	b = appendText(b, 6, s.Reason)
	b = appendString(b, 7, s.Incarnation)
	b = appendBool(b, 8, s.IncarnationKept)
	b = appendString(b, 9, s.Predecessor)
	b = appendString(b, 10, s.Lineage)
	b = appendNumber(b, 12, s.ManifestVersion)
	b = appendNumber(b, 13, s.WriterEpoch)
	b = appendNumber(b, 14, s.CompactorEpoch)
	if s.Initialized != nil {
		b = append(b, 15<<3, byte(protowire.EncodeBool(*s.Initialized)))
	}
	b = appendText(b, 16, s.Extractor)
	b = appendText(b, 17, s.Pill)
	b = appendText(b, 25, s.Compaction)
	b = appendString(b, 27, s.PositionDomain)
	b = appendTime(b, 33, s.ListedAt)
	for i := range s.Orphans {
		o := &s.Orphans[i]
		b = appendMessage(b, 35, func(b []byte) []byte {
			b = appendText(b, 1, o.Path)
			b = appendCount(b, 2, o.Position)
			b = appendCount(b, 3, o.Bytes)
			b = appendBool(b, 4, o.Complete)
			b = appendText(b, 5, o.What)
			return appendTime(b, 6, o.ChangedAt)
		})
	}
	for i := range s.External {
		e := &s.External[i]
		b = appendMessage(b, 38, func(b []byte) []byte {
			b = appendText(b, 1, e.Path)
			b = appendString(b, 2, e.FinalCheckpoint)
			return appendCount(b, 3, e.Tables)
		})
	}
	more := s.MoreCheckpoints
	for i := range s.Checkpoints {
		p := &s.Checkpoints[i]
		before := len(b)
		b = appendMessage(b, 36, func(b []byte) []byte {
			b = appendString(b, 1, p.ID)
			b = appendText(b, 2, p.Name)
			b = appendCount(b, 3, p.ManifestID)
			b = appendTime(b, 4, p.Created)
			b = appendTime(b, 5, p.Expires)
			return appendText(b, 6, p.Looks)
		})
		if len(b)-start > room-maxNumbers-12 {
			b = b[:before]
			more += uint64(len(s.Checkpoints) - i)
			break
		}
	}
	b = appendCount(b, 37, more)
	if n := len(b) - start; n > room-maxNumbers {
		return b[:start], fmt.Errorf("%d bytes without its checkpoints, at most %d travel: %w", n, room-maxNumbers, catalog.ErrInvalid)
	}
	return b, nil
}

// Numbers are the fields of a sighting that a [catalog.Move] can carry.
type Numbers struct {
	// Known has the bits of the fields that were observed; the others are zero.
	Known  uint32
	Values [len(catalog.MoveFields)]uint64
}

// NumbersOf takes a sighting's numbers.
func NumbersOf(s *catalog.Sighting) (n Numbers) {
	for i, p := range [...]*uint64{
		s.ManifestID, s.LastL0Seq, s.ReplayAfterWAL, s.WALTail, s.WALGap,
		s.L0Count, s.RunCount, s.SegmentCount, s.Position, s.TrimmedTo, s.Archived,
		s.Bytes, s.ListedBytes, s.ListedObjects, s.Backlog,
	} {
		if p != nil {
			n.Known |= 1 << i
			n.Values[i] = *p
		}
	}
	return n
}

// numberFields are the numbers of the message's fields.
var numberFields = [len(catalog.MoveFields)]protowire.Number{11, 18, 19, 20, 21, 22, 23, 24, 26, 28, 29, 30, 31, 32, 34}

// Append appends the numbers as fields of a serialised Sighting.
func (n *Numbers) Append(b []byte) []byte {
	for m := n.Known; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(m)
		b = protowire.AppendTag(b, numberFields[i], protowire.VarintType)
		b = protowire.AppendVarint(b, n.Values[i])
	}
	return b
}

// Size is how many bytes Append appends.
func (n *Numbers) Size() (size int) {
	for m := n.Known; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(m)
		size += protowire.SizeTag(numberFields[i]) + protowire.SizeVarint(n.Values[i])
	}
	return size
}

// Since is the mask of the fields that are not as they were.
func (n *Numbers) Since(old *Numbers) uint32 {
	mask := n.Known ^ old.Known
	for i := range n.Values {
		if n.Values[i] != old.Values[i] {
			mask |= 1 << i
		}
	}
	return mask
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// appendText appends what somebody else wrote for people.
func appendText(b []byte, field protowire.Number, s string) []byte {
	return appendString(b, field, tidy(s))
}

func appendBool(b []byte, field protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return append(protowire.AppendTag(b, field, protowire.VarintType), 1)
}

func appendNumber(b []byte, field protowire.Number, v *uint64) []byte {
	if v == nil {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, *v)
}

func appendCount(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return appendNumber(b, field, &v)
}

func appendTime(b []byte, field protowire.Number, t *time.Time) []byte {
	ts := stampOf(t)
	if ts == nil {
		return b
	}
	return appendMessage(b, field, func(b []byte) []byte {
		b = appendCount(b, 1, uint64(ts.Seconds))
		return appendCount(b, 2, uint64(int64(ts.Nanos)))
	})
}

// appendMessage appends a message whose length is known once it is written.
func appendMessage(b []byte, field protowire.Number, body func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	at := len(b)
	b = body(append(b, 0)) // one byte for the length is mostly enough
	n := len(b) - at - 1
	if size := protowire.SizeVarint(uint64(n)); size > 1 {
		b = append(b, make([]byte, size-1)...)
		copy(b[at+size:], b[at+1:at+1+n])
	}
	protowire.AppendVarint(b[at:at:len(b)], uint64(n))
	return b
}
