package plan

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// facts are what the rule reads of a slate, and nothing else: no text, no
// pointer, moments as numbers. Explanations are written from the [Slate].
type facts struct {
	head            uint64
	hasHead, frozen bool
	lost            bool
	archives        []archive // by column of the region set
	marks           []mark    // restore points of all archives
	pins            []fact
}

// archive is what a region has of a slate: marks[from:from+n], newest first.
type archive struct {
	from   uint32
	n      uint16
	stance stance // archived, incomparable or unreadable
}

// of is what a column's region has; nothing when there is no such column.
func (f *facts) of(column int) (stance, []mark) {
	if column < 0 {
		return archived, nil
	}
	a := &f.archives[column]
	return a.stance, f.marks[a.from : a.from+uint32(a.n)]
}

// mark is a restore point that was verified once; the others decide nothing.
type mark struct {
	position       uint64
	seen, verified int64 // Unix nanoseconds
}

// fact is a pin.
type fact struct {
	position uint64
	column   int // of a consumer's region; -1: not of the set
	kind     pinKind
	known    bool // its position
}

type pinKind uint8

const (
	pinHold pinKind = iota
	pinLegal
	pinReader
	pinClone
	pinConsumer
)

var codeOfPin = [...]Codes{pinHold: onHold, pinLegal: onLegalHold, pinReader: readerActive, pinClone: pinnedByClone}

func (k PinKind) fact() pinKind {
	switch k {
	case PinLegal:
		return pinLegal
	case PinReader:
		return pinReader
	case PinClone:
		return pinClone
	case PinConsumer:
		return pinConsumer
	}
	return pinHold
}

// nanos is a moment as a number; one that does not fit is the nearest that does.
func nanos(t time.Time) int64 {
	switch {
	case t.Before(first):
		return math.MinInt64
	case t.After(last):
		return math.MaxInt64
	}
	return t.UnixNano()
}

var first, last = time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64)

// read sets the facts of a slate, whose regions are the columns at these
// places. It uses the room that f has.
func (f *facts) read(s *Slate, columns int, column func(i int) int, named func(region string) int) {
	f.hasHead, f.head, f.frozen, f.lost = s.Head != nil, 0, s.Frozen != "", s.Lost != ""
	if f.hasHead {
		f.head = *s.Head
	}
	f.archives, f.marks, f.pins = f.archives[:0], f.marks[:0], f.pins[:0]
	for range columns {
		f.archives = append(f.archives, archive{}) // nothing is there
	}
	for i := range s.Regions {
		r := &s.Regions[i]
		from := len(f.marks)
		for j := range r.Points {
			if p := &r.Points[j]; p.State == catalog.RestoreVerified {
				f.marks = append(f.marks, mark{p.Position, nanos(p.FirstSeen), nanos(p.VerifiedAt)})
			}
		}
		marks := f.marks[from:]
		slices.SortFunc(marks, func(a, b mark) int { return cmp.Compare(b.position, a.position) })
		if len(marks) > math.MaxUint16 { // the oldest; to know less holds back
			marks = marks[:math.MaxUint16]
			f.marks = f.marks[:from+len(marks)]
		}
		a := archive{from: uint32(from), n: uint16(len(marks))}
		switch {
		case r.Placed && r.Lineage != s.Lineage:
			a.stance = incomparable
		case r.Unreadable != "":
			a.stance = unreadable
		}
		f.archives[column(i)] = a
	}
	for i := range s.Pins {
		p := &s.Pins[i]
		one := fact{kind: p.Kind.fact(), known: p.Position != nil, column: -1}
		if one.known {
			one.position = *p.Position
		}
		if one.kind == pinConsumer {
			one.column = named(p.Region)
		}
		f.pins = append(f.pins, one)
	}
}
