package state

import "github.com/quarry-db/quarry/pkg/catalog"

// Moves brings what changed of placements that the session has told whole
// before, by the ordinals of those facts. A move applies when its counter is
// above its row's; an ordinal that nobody has is ignored, the digest finds it.
type Moves struct {
	Session SessionID
	Moves   []catalog.Move
	Upto    catalog.Revision
}

// Digests answers WantDigests: the sums of all that the agent has sent up to
// At, by bucket.
type Digests struct {
	Session SessionID
	At      catalog.Revision
	Buckets [catalog.DigestBuckets][16]byte
	Count   uint64
}

// Repair brings all facts of the buckets that were asked for, already checked
// against their count and digest. Facts may be newer than Upto: they come
// again with what else is.
type Repair struct {
	Session SessionID
	Buckets []uint8
	Facts   []catalog.Fact
	Upto    catalog.Revision
}

func (Moves) event()   {}
func (Digests) event() {}
func (Repair) event()  {}

// WantDigests asks the reporter for its digests by bucket.
type WantDigests struct{ Why string }

// WantBuckets asks the reporter for all facts of some buckets.
type WantBuckets struct{ Buckets []uint8 }

func (WantDigests) message() {}
func (WantBuckets) message() {}
