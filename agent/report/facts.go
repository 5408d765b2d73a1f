package report

import (
	"bytes"
	"sort"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
)

// facts is the newest of every key, the order in which they changed, and what
// of it was told. Its size goes by the number of keys, not of changes.
type facts struct {
	held map[factKey]*held
	// log has one entry for each revision still held, in order, among entries
	// that a newer revision of their key made stale.
	log  []entry
	head uint64 // newest revision
	live int    // held and not withdrawn
	// floor is the newest withdrawal forgotten: deltas after anything older
	// would leave ghosts.
	floor uint64

	// told is the digest of the sums of everything held: of what was sent, for
	// that is what the hub can have.
	told catalog.Digest
	// session tells ordinals of the present stream from those of earlier ones.
	session  uint64
	ordinals uint32

	scratch []byte
}

type factKey struct {
	kind uint32
	key  string
}

// held is one key's newest, and what was last sent of it.
type held struct {
	key      factKey
	revision uint64
	form     form
	// value is replaced when it changes, never changed. Of a placement it is
	// what stands still.
	value   []byte
	numbers *wire.Numbers // of a placement; else nil

	// sum is of what was sent, zero before that.
	sum catalog.Sum
	// moved are the numbers that changed since; whole says that more did.
	moved uint32
	whole bool
	// sent is the revision that was sent.
	sent uint64
	// ordinal is its name in session's moves.
	session uint64
	ordinal uint32
}

// form says what a held value is.
type form uint8

const (
	asValue form = iota
	asGone
	asUnsendable
)

type entry struct {
	revision uint64
	h        *held
}

func (e entry) stale() bool { return e.h.revision != e.revision }

func newFacts() facts { return facts{held: map[factKey]*held{}} }

// sight takes what stands still of a placement and its numbers, and reports
// whether they say anything new. When checked is false and more than the
// numbers changed it takes nothing, and known is false: the caller checks
// first.
func (f *facts) sight(k factKey, still []byte, n *wire.Numbers, checked bool) (news, known bool) {
	h := f.held[k]
	same := h != nil && h.form == asValue && h.numbers != nil && bytes.Equal(h.value, still)
	switch {
	case same:
		mask := n.Since(h.numbers)
		if mask == 0 {
			return false, true
		}
		*h.numbers = *n
		h.moved |= mask
	case !checked:
		return false, false
	default:
		h = f.hold(k)
		h.form, h.value, h.whole = asValue, bytes.Clone(still), true
		if h.numbers == nil {
			h.numbers = new(wire.Numbers)
		}
		*h.numbers = *n
	}
	f.changed(h)
	return true, true
}

// set takes a key's newest value, or why it cannot be sent, and reports whether
// it says anything new. It keeps value.
func (f *facts) set(k factKey, as form, value []byte) bool {
	if h := f.held[k]; h != nil && h.form == as && h.numbers == nil && bytes.Equal(h.value, value) {
		return false
	}
	h := f.hold(k)
	h.form, h.value, h.numbers, h.whole = as, value, nil, true
	f.changed(h)
	return true
}

// withdraw replaces a live fact by why it is gone.
func (f *facts) withdraw(k factKey, why []byte) bool {
	h := f.held[k]
	if h == nil || h.form == asGone {
		return false
	}
	f.live--
	h.form, h.value, h.numbers, h.whole = asGone, why, nil, true
	f.changed(h)
	return true
}

// hold gives the entry of a key that will be live.
func (f *facts) hold(k factKey) *held {
	h := f.held[k]
	if h == nil {
		h = &held{key: k}
		f.held[k] = h
		f.live++
	} else if h.form == asGone {
		f.live++
	}
	return h
}

func (f *facts) changed(h *held) {
	f.head++
	h.revision = f.head
	f.log = append(f.log, entry{f.head, h})
	// Twice what compacting leaves at most, so that it is rarely done.
	if len(f.log) > 2*(2*f.live+keepGone)+64 {
		f.compact()
	}
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
		case e.h.form == asGone && gone > f.live+keepGone:
			gone--
			f.floor = e.revision
			f.told.Remove(e.h.sum)
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

// since counts the facts that changed after revision.
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

// begin begins anew, in a new stream or after a Welcome in the same: what was
// declared before is not declared any more. Within a stream no ordinal is used
// twice, so that a move that is late can only miss.
func (f *facts) begin(stream bool) {
	f.session++
	if stream {
		f.ordinals = 0
	}
}

// item is a fact as it is now, with its numbers copied when the item is to
// outlive the lock.
func (f *facts) item(h *held, copied bool) wire.Item {
	it := wire.Item{Kind: h.key.kind, Key: h.key.key, Revision: h.revision}
	switch h.form {
	case asGone:
		it.Gone = h.value
	case asUnsendable:
		it.Unsendable = h.value
	default:
		it.Still, it.Numbers = h.value, h.numbers
		if copied && h.numbers != nil {
			n := *h.numbers
			it.Numbers = &n
		}
	}
	if h.numbers != nil && h.session == f.session {
		it.Ordinal = h.ordinal
	}
	return it
}

// declare names a placement for the moves of this stream. It is called before
// item when the fact is about to be sent whole.
func (f *facts) declare(h *held, moving bool) {
	if moving && h.numbers != nil && h.session != f.session && f.ordinals < 1<<32-1 {
		f.ordinals++
		h.session, h.ordinal = f.session, f.ordinals
	}
}

// tell notes that a fact is sent with the given sum.
func (f *facts) tell(h *held, sum catalog.Sum) {
	f.told.Remove(h.sum)
	f.told.Add(sum)
	h.sum, h.sent, h.moved, h.whole = sum, h.revision, 0, false
}

// tellWhole notes that a fact is sent whole, as it.
func (f *facts) tellWhole(h *held, it *wire.Item) {
	var sum catalog.Sum
	sum, f.scratch = it.Sum(f.scratch)
	f.tell(h, sum)
}

// delta puts what changed after revision into a frame, oldest first, until it
// is full, and gives the revision up to which it is complete. Placements that
// were declared in this stream and only moved go as moves, when moving.
func (f *facts) delta(b *wire.Batch, revision uint64, moving bool) (upto uint64) {
	b.Reset(revision)
	upto = revision
	for _, e := range f.log[f.after(revision):] {
		h := e.h
		switch {
		case e.stale():
			continue
		case h.sent == h.revision && h.session == f.session && h.session > 0:
			// A repair has brought it in this stream.
		case moving && !h.whole && h.numbers != nil && h.session == f.session && h.moved != 0:
			if !b.FitsMove() {
				return upto
			}
			packed := b.Move(h.ordinal, h.revision, h.moved, h.numbers)
			f.tell(h, h.sum.Moved(h.revision, packed))
		default:
			f.declare(h, moving)
			it := f.item(h, false)
			if !b.Fits(&it) {
				return upto
			}
			b.Add(&it)
			f.tellWhole(h, &it)
		}
		upto = e.revision
	}
	return f.head
}

// all gives every live fact as of now, to be sent whole, and their digest;
// only those of wanted buckets when wanted is not nil. That they are all says
// of the others that they are gone.
func (f *facts) all(moving bool, wanted *[catalog.DigestBuckets]bool) (items []wire.Item, digest catalog.Digest) {
	if wanted == nil {
		items = make([]wire.Item, 0, f.live)
	}
	for _, e := range f.log {
		h := e.h
		if e.stale() || wanted != nil && !wanted[h.bucket()] {
			continue
		}
		if h.form == asGone {
			f.tell(h, catalog.Sum{})
			continue
		}
		f.declare(h, moving)
		it := f.item(h, true)
		f.tellWhole(h, &it)
		digest.Add(h.sum)
		items = append(items, it)
	}
	return items, digest
}

func (h *held) bucket() uint8 {
	if h.sum != (catalog.Sum{}) {
		return h.sum.Bucket
	}
	return catalog.BucketOf(h.key.kind, h.key.key)
}
