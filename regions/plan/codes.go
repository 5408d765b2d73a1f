package plan

import (
	"iter"
	"math/bits"
	"slices"
	"strings"
)

// Codes is a set of reasons.
type Codes uint32

// One bit for each code that [Trim] gives.
const (
	regionStale Codes = 1 << iota
	regionBlind
	regionJoining
	regionReset
	noArchive
	archiveUnreadable
	snapshotIncomplete
	belowMinSnapshots
	onHold
	onLegalHold
	windowClosed
	readerActive
	pinnedByClone
	incomparablePositions
	wouldStrand
	frozen
	lastSnapshot
	noPolicy
	regionLagging
)

// spelled are the codes in the order of their bits.
var spelled = [...]Code{
	RegionStale, RegionBlind, RegionJoining, RegionReset, NoArchive, ArchiveUnreadable, SnapshotIncomplete, BelowMinSnapshots,
	OnHold, OnLegalHold, WindowClosed, ReaderActive, PinnedByClone, Incomparable, WouldStrand, Frozen, LastSnapshot, NoPolicy, RegionLagging,
}

// All gives the codes of the set, always in the same order.
func (c Codes) All() iter.Seq[Code] {
	return func(yield func(Code) bool) {
		for rest := uint32(c); rest != 0; rest &= rest - 1 {
			i := bits.TrailingZeros32(rest)
			if i >= len(spelled) || !yield(spelled[i]) {
				return
			}
		}
	}
}

// CodesOf are the codes of reasons.
func CodesOf(reasons []Reason) (c Codes) {
	for _, r := range reasons {
		if i := slices.Index(spelled[:], r.Code); i >= 0 {
			c |= 1 << i
		}
	}
	return c
}

// Has reports whether a code is in the set.
func (c Codes) Has(code Code) bool {
	for one := range c.All() {
		if one == code {
			return true
		}
	}
	return false
}

// String lists the codes with spaces between.
func (c Codes) String() string {
	var all []string
	for one := range c.All() {
		all = append(all, string(one))
	}
	return strings.Join(all, " ")
}

func (c Codes) code() Code { return spelled[bits.TrailingZeros32(uint32(c))] }
