package watch

import "fmt"

// mark is what distinguishes a moment of a database's history: the newest
// manifest that was seen, what was in it that never goes backwards.
type mark struct {
	ID             uint64 `json:"manifest_id"`
	SHA256         string `json:"sha256"` // of the manifest object, hex
	WriterEpoch    uint64 `json:"writer_epoch"`
	CompactorEpoch uint64 `json:"compactor_epoch"`
	LastL0Seq      uint64 `json:"last_l0_seq"`
}

// verdict says whether what is at a root now descends from what was there.
type verdict int

const (
	same    verdict = iota // proven
	another                // another database, or an older state of this one
	unknown                // cannot be told: nothing is concluded, look again
)

// history is the evidence for a verdict on a database.
type history struct {
	Was mark
	// AtWas is the hash of the object that has Was's id now; empty: none.
	AtWas string
	// Newest is the highest id that is listed now, Now what is in it; nil:
	// it could not be understood.
	Newest uint64
	Now    *mark
	// Boundary is the highest id that the collector says it removed; nil:
	// there is no such object (SlateDB before 0.14, or switched off).
	Boundary *uint64
}

// continuous is the rule of DESIGN §5: the last manifest that was seen must be
// there unchanged, or have been collected by a history that went on from it.
// Where it cannot be told whether a manifest was collected or swept away
// together with its database, this says another: a false change of incarnation
// holds data back, a false continuity would let restore points of a database
// that is gone count for its successor.
func continuous(h history) (verdict, string) {
	switch {
	case h.Newest < h.Was.ID:
		return another, fmt.Sprintf("newest manifest is %d, %d was there before", h.Newest, h.Was.ID)
	case h.AtWas == h.Was.SHA256:
		return same, ""
	case h.AtWas != "":
		return another, fmt.Sprintf("manifest %d is not the one that was there before", h.Was.ID)
	case h.Boundary != nil && *h.Boundary < h.Was.ID:
		return another, fmt.Sprintf("manifest %d is gone, and the collector says it removed only those up to %d", h.Was.ID, *h.Boundary)
	case h.Now == nil:
		return unknown, fmt.Sprintf("manifest %d is gone and %d cannot be read", h.Was.ID, h.Newest)
	}
	return follows(h.Was, *h.Now)
}

// follows says whether now can come after was in one history: nothing in a
// mark ever goes backwards.
func follows(was, now mark) (verdict, string) {
	for _, f := range []struct {
		name     string
		was, now uint64
	}{
		{"writer epoch", was.WriterEpoch, now.WriterEpoch},
		{"compactor epoch", was.CompactorEpoch, now.CompactorEpoch},
		{"last sequence number in tables", was.LastL0Seq, now.LastL0Seq},
	} {
		if f.now < f.was {
			return another, fmt.Sprintf("%s is %d in manifest %d, it was %d in manifest %d", f.name, f.now, now.ID, f.was, was.ID)
		}
	}
	return same, ""
}

// continuousPointer is the rule for a partition of a snapshot repository:
// its pointer never goes backwards, and its cluster never changes. Fingerprints
// that a pointer does not have say nothing.
func continuousPointer(wasCluster string, wasLSN uint64, nowCluster string, nowLSN uint64) (verdict, string) {
	switch {
	case wasCluster != "" && nowCluster != "" && wasCluster != nowCluster:
		return another, fmt.Sprintf("cluster fingerprint is %s, it was %s", nowCluster, wasCluster)
	case nowLSN < wasLSN:
		return another, fmt.Sprintf("newest snapshot is at %d, one at %d was there before", nowLSN, wasLSN)
	}
	return same, ""
}

// continuousBuffer is the rule for a buffer.
func continuousBuffer(wasEpoch, wasNext, nowEpoch, nowNext uint64) (verdict, string) {
	switch {
	case nowEpoch < wasEpoch:
		return another, fmt.Sprintf("consumer epoch is %d, it was %d", nowEpoch, wasEpoch)
	case nowNext < wasNext:
		return another, fmt.Sprintf("next sequence is %d, it was %d", nowNext, wasNext)
	}
	return same, ""
}
