package report

import (
	"bytes"
	"sort"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// facts is the newest record of every key, and the order in which they
// changed. Its size goes by the number of keys, not of changes.
type facts struct {
	held map[factKey]*held
	// log has one entry for each revision still held, in order, among entries
	// that a newer revision of their key made stale.
	log    []entry
	head   uint64 // newest revision
	live   int    // held and not withdrawn
	digest catalog.Digest
	// floor is the newest withdrawal forgotten: deltas after anything older
	// would leave ghosts.
	floor uint64
}

type factKey struct {
	kind uint32
	key  string
}

// held is one key's newest record. Records are never changed once held, so
// that the link may send them while newer ones come.
type held struct {
	key factKey
	rec *quarryv1.Record
	sum catalog.Sum
}

type entry struct {
	revision uint64
	h        *held
}

func (e entry) stale() bool { return e.h.rec.GetRevision() != e.revision }

func newFacts() facts { return facts{held: map[factKey]*held{}} }

// set takes rec, not yet numbered, as its key's newest and reports whether it
// says anything new.
func (f *facts) set(k factKey, rec *quarryv1.Record) bool {
	h := f.held[k]
	if h != nil && sameWords(h.rec, rec) {
		return false
	}
	if h == nil {
		h = &held{key: k}
		f.held[k] = h
		f.live++
	} else if len(h.rec.GetGone()) > 0 {
		f.live++
	}
	f.put(h, rec)
	return true
}

// withdraw replaces a live record by rec, which says why it is gone.
func (f *facts) withdraw(k factKey, rec *quarryv1.Record) bool {
	h := f.held[k]
	if h == nil || len(h.rec.GetGone()) > 0 {
		return false
	}
	f.live--
	f.put(h, rec)
	return true
}

func (f *facts) put(h *held, rec *quarryv1.Record) {
	f.head++
	rec.Revision = f.head
	f.digest.Remove(h.sum)
	h.rec, h.sum = rec, wire.Sum(rec)
	f.digest.Add(h.sum)
	f.log = append(f.log, entry{f.head, h})
	// Twice what compacting leaves at most, so that it is rarely done.
	if len(f.log) > 2*(2*f.live+keepGone)+64 {
		f.compact()
	}
}

func sameWords(a, b *quarryv1.Record) bool {
	return bytes.Equal(a.GetValue(), b.GetValue()) && bytes.Equal(a.GetGone(), b.GetGone()) &&
		bytes.Equal(a.GetUnsendable(), b.GetUnsendable())
}

// keepGone is how many withdrawals are remembered beyond the number of live
// records, for hubs that resume from before them.
const keepGone = 1024

// compact drops stale entries, and the oldest withdrawals when there are more
// than there are live records.
func (f *facts) compact() {
	gone := len(f.held) - f.live
	kept := f.log[:0]
	for _, e := range f.log {
		switch {
		case e.stale():
		case len(e.h.rec.GetGone()) > 0 && gone > f.live+keepGone:
			gone--
			f.floor = e.revision
			delete(f.held, e.h.key)
		default:
			kept = append(kept, e)
		}
	}
	clear(f.log[len(kept):])
	f.log = kept
}

// after is the index in log of the first entry newer than revision.
func (f *facts) after(revision uint64) int {
	return sort.Search(len(f.log), func(i int) bool { return f.log[i].revision > revision })
}

// since counts the records that changed after revision.
func (f *facts) since(revision uint64) int {
	n := 0
	for _, e := range f.log[f.after(revision):] {
		if !e.stale() {
			n++
		}
	}
	return n
}

// resumable reports whether everything that happened after revision is known.
func (f *facts) resumable(revision uint64) bool { return revision >= f.floor && revision <= f.head }

// delta gives records that changed after revision, oldest first, as many as
// fit into one frame, and the revision up to which they are complete.
func (f *facts) delta(revision uint64) (recs []*quarryv1.Record, upto uint64) {
	room := wire.MaxRecords
	for _, e := range f.log[f.after(revision):] {
		if e.stale() {
			continue
		}
		if room -= wire.RecordSize(e.h.rec); room < 0 {
			return recs, recs[len(recs)-1].GetRevision()
		}
		recs = append(recs, e.h.rec)
	}
	return recs, f.head
}

// all gives every live record as of now.
func (f *facts) all() []*quarryv1.Record {
	recs := make([]*quarryv1.Record, 0, f.live)
	for _, e := range f.log {
		if !e.stale() && len(e.h.rec.GetGone()) == 0 {
			recs = append(recs, e.h.rec)
		}
	}
	return recs
}
