package slatedb

import (
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Class is a kind of object that a collector looks at.
type Class string

// The classes, in the order in which they are collected: what makes others
// matter goes last.
const (
	ClassCompactions Class = "compactions"
	ClassWAL         Class = "wal"
	ClassTable       Class = "table"
	ClassManifest    Class = "manifest"
)

// Kept is why an object is not collected.
type Kept string

// The reasons, the strongest first.
const (
	KeptNewest     Kept = "newest"     // the newest of its kind, or not older than the newest manifest needs
	KeptNeeded     Kept = "needed"     // by the newest manifest
	KeptCheckpoint Kept = "checkpoint" // a checkpoint needs it that has not lapsed
	KeptYoung      Kept = "young"      // younger than the minimum age
	KeptUnderWay   Kept = "under-way"  // a compaction or a flush may be about to publish it
	KeptFence      Kept = "fence"      // it may be a fence, which stops a stalled writer for as long as it is there
	KeptForeign    Kept = "foreign"    // no object of SlateDB's
)

// Stored is an object as a listing shows it.
type Stored struct {
	Key      string    `json:"key"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"` // the store's
}

// fenceSize is the size up to which a WAL object may be a fence: those of 0.12
// have 114 to 140 bytes, of 0.13 122, of 0.14 and later none, ours 130.
const fenceSize = 160

// holdings are all things that hold objects. They were read in the order that
// makes them complete: the compactor's state, the newest manifest, those of its
// checkpoints.
type holdings struct {
	root        string
	head        *Head
	states      []pinnedState   // the newest manifest first, then what checkpoints pin that have not lapsed
	compactions *CompactorState // nil: no compactor has left a state
	sole        bool            // no compaction is under way but those that compactions has

	manifests map[uint64]bool    // pinned by checkpoints that have not lapsed
	tables    map[ulid.ULID]Kept // needed, and by whom
	cutoff    time.Time          // tables minted since then may be about to be published; zero: all
}

// settle works out what follows from what was read.
func (h *holdings) settle() {
	h.tables = map[ulid.ULID]Kept{}
	for i := len(h.states) - 1; i >= 0; i-- {
		st := h.states[i]
		why := KeptNeeded
		if st.checkpoint {
			why = KeptCheckpoint
		}
		st.m.Tables(func(t *manifest.Table) { h.tables[t.ID] = why })
	}
	h.cutoff = h.underWay()
}

// underWay returns the time from which on minted tables may be about to be
// published: by a compaction that is not older than the oldest one the
// compactor remembers, or by a flush, whose tables are never older than the
// newest that was published. Where neither says anything the answer is the
// zero time: nothing can be proven unreferenced. This is the core's own rule.
func (h *holdings) underWay() time.Time {
	var recent []manifest.Compaction
	if h.compactions != nil {
		recent = h.compactions.Compactions.Recent
	}
	if h.sole { // others ended theirs before
		recent = slices.DeleteFunc(slices.Clone(recent), func(c manifest.Compaction) bool { return c.Status.Ended() })
	} else if len(recent) == 0 {
		return time.Time{}
	}
	var oldest, newest time.Time
	for i, c := range recent {
		if at := ulid.Time(c.ID.Time()); i == 0 || at.Before(oldest) {
			oldest = at
		}
		for _, t := range c.Outputs {
			if _, ok := h.tables[t.ID]; !ok {
				h.tables[t.ID] = KeptUnderWay
			}
		}
		for _, p := range c.Parts {
			for _, t := range p.Outputs {
				if _, ok := h.tables[t.ID]; !ok {
					h.tables[t.ID] = KeptUnderWay
				}
			}
		}
	}
	h.head.Manifest.Trees(func(_ []byte, t *manifest.Tree) {
		for i := range t.L0 {
			if at := ulid.Time(t.L0[i].ID.Time()); at.After(newest) {
				newest = at
			}
		}
		if len(t.L0) == 0 && t.LastCompactedL0 != nil {
			if at := ulid.Time(t.LastCompactedL0.Time()); at.After(newest) {
				newest = at
			}
		}
	})
	if len(recent) == 0 || newest.IsZero() || newest.Before(oldest) {
		return newest
	}
	return oldest
}

// keeps returns why the object is kept, "" when it is garbage.
func (h *holdings) keeps(c Class, o Stored, opts *CollectOptions, now time.Time) Kept {
	young := !o.Modified.Before(now.Add(-opts.MinAge))
	switch c {
	case ClassManifest:
		id, ok := ParseManifestKey(h.root, o.Key)
		switch {
		case !ok:
			return KeptForeign
		case id >= h.head.ID:
			return KeptNewest
		case h.manifests[id]:
			return KeptCheckpoint
		case young:
			return KeptYoung
		}
	case ClassCompactions:
		id, ok := ParseCompactionsKey(h.root, o.Key)
		switch {
		case !ok:
			return KeptForeign
		case h.compactions == nil || id >= h.compactions.ID:
			return KeptNewest
		case young:
			return KeptYoung
		}
	case ClassWAL:
		id, ok := ParseWALKey(h.root, o.Key)
		switch {
		case !ok:
			return KeptForeign
		case id >= h.head.Manifest.ReplayAfterWAL:
			// The one at the mark itself too: the search for the end of
			// the WAL begins there.
			return KeptNeeded
		case h.walPinned(id):
			return KeptCheckpoint
		case young:
			return KeptYoung
		case o.Size <= fenceSize && !o.Modified.Before(now.Add(-opts.FenceAge)):
			return KeptFence
		}
	case ClassTable:
		id, ok := ParseTableKey(h.root, o.Key)
		if !ok {
			return KeptForeign
		}
		if why := h.tables[id]; why != "" {
			return why
		}
		minted := ulid.Time(id.Time())
		switch {
		case young || !minted.Before(now.Add(-opts.MinAge)):
			return KeptYoung
		case !minted.Before(h.cutoff): // of the zero time nothing is before
			return KeptUnderWay
		}
	default:
		return KeptForeign
	}
	return ""
}

func (h *holdings) walPinned(id uint64) bool {
	for i := range h.states {
		if m := h.states[i].m; h.states[i].checkpoint && id > m.ReplayAfterWAL && id <= m.WALLastSeen {
			return true
		}
	}
	return false
}
