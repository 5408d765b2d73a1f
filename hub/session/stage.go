package session

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// staged is a snapshot or a repair under way. It becomes an event whole, or
// nothing.
type staged struct {
	count   uint64
	root    [32]byte
	upto    uint64
	empty   bool
	buckets []uint8 // of a repair; nil: a snapshot
	bytes   int
	digest  catalog.Digest
	facts   []catalog.Fact // of a repair
	// records of a snapshot, read once to know that they can be: as facts they
	// would take several times the room while they wait.
	records []*quarryv1.Record
	bad     []state.Event
}

func (in *intake) begin(out *outcome, b *quarryv1.SnapshotBegin) {
	in.staged, in.asked, in.waiting = nil, false, false // a new beginning ends an old one
	upto := revision(b.GetUpto())
	switch {
	case upto.Counter > 0 && upto.Start != in.start:
		out.want = fmt.Sprintf("the snapshot is of start %d, the session's is %d", upto.Start, in.start)
	case len(b.GetDigest()) != 32:
		out.want = fmt.Sprintf("the snapshot's digest has %d bytes, a digest has 32", len(b.GetDigest()))
	case b.GetCount() == 0 && !b.GetEmpty():
		out.want = "the snapshot has no records and does not say that it is meant to have none"
	case b.GetCount() > 0 && b.GetEmpty():
		out.want = fmt.Sprintf("the snapshot says that it is empty and has %d records", b.GetCount())
	default:
		in.staged = &staged{count: b.GetCount(), root: [32]byte(b.GetDigest()), upto: upto.Counter, empty: b.GetEmpty()}
		return
	}
	in.complain(out, "snapshot", out.want)
}

// beginRepair stages the buckets that were asked for, and no others: what a
// repair lacks is taken for gone.
func (in *intake) beginRepair(out *outcome, b *quarryv1.RepairBegin) {
	if in.staged != nil {
		in.drop(out, "a repair came in the middle of it")
	}
	upto := revision(b.GetUpto())
	switch {
	case !in.based || in.gap:
		return // what comes instead says all
	case in.buckets == nil || !bytes.Equal(b.GetBuckets(), in.buckets):
		in.complain(out, "repair", fmt.Sprintf("of %d buckets that were not asked for", len(b.GetBuckets())))
		return
	case len(b.GetDigest()) != 32 || upto.Start != in.start:
		in.complain(out, "repair", fmt.Sprintf("its digest has %d bytes and it is of start %d; want 32 and %d", len(b.GetDigest()), upto.Start, in.start))
		return
	case upto.Counter > in.upto:
		in.again(out)
		return
	}
	in.staged = &staged{count: b.GetCount(), root: [32]byte(b.GetDigest()), upto: in.upto, buckets: in.buckets}
	in.buckets = nil
}

func (in *intake) batch(out *outcome, records []*quarryv1.Record, repair bool) {
	st := in.staged
	if st == nil || repair != (st.buckets != nil) {
		return // the rest of one that was dropped
	}
	for _, r := range records {
		st.bytes += wire.RecordSize(r)
		if st.bytes > in.maxStaged {
			in.drop(out, "")
			out.refuse = fmt.Sprintf("the region's snapshot has more than %d bytes; raise the hub's limit on snapshots or let the agent discover less", in.maxStaged)
			return
		}
		if r.GetRevision() > st.upto && !repair {
			in.drop(out, fmt.Sprintf("the snapshot up to %d has a record of revision %d", st.upto, r.GetRevision()))
			return
		}
		f, err := in.decode(r)
		switch {
		case f.Gone != "":
			in.drop(out, "it has a withdrawn record")
			return
		case err != nil:
			q := in.refused(out, r, err)
			q.Staged = true
			st.bad = append(st.bad, q)
		case repair:
			st.facts = append(st.facts, f)
		default:
			r.Ordinal = f.Ordinal
			st.records = append(st.records, r)
		}
		if repair && !slices.Contains(st.buckets, f.Sum.Bucket) {
			in.drop(out, "it has a record of another bucket")
			return
		}
		st.digest.Add(f.Sum)
	}
	if st.digest.Count() > st.count {
		in.drop(out, fmt.Sprintf("it has more than the %d records it announced", st.count))
	}
}

func (in *intake) end(out *outcome, repair bool) {
	st := in.staged
	if st == nil || repair != (st.buckets != nil) {
		return
	}
	switch {
	case st.digest.Count() != st.count:
		in.drop(out, fmt.Sprintf("it has %d of the %d records it announced", st.digest.Count(), st.count))
		return
	case st.digest.Root() != st.root:
		in.drop(out, fmt.Sprintf("the digest over its %d records is not the one it announced", st.count))
		return
	}
	in.staged = nil
	// Bad records first: what is there and not understood is not missing.
	out.events = append(out.events, st.bad...)
	if repair {
		out.events = append(out.events, state.Repair{
			Session: in.id, Buckets: st.buckets, Facts: st.facts, Upto: catalog.Revision{Start: in.start, Counter: st.upto},
		})
		return
	}
	in.based = true
	in.upto = max(in.upto, st.upto)
	out.events = append(out.events, state.Snapshot{
		Session: in.id, Later: later(in.start, st.records), Rest: len(st.records),
		Upto: catalog.Revision{Start: in.start, Counter: st.upto}, Empty: st.empty,
	})
}

// later reads records again, one by one, and lets each go.
func later(start uint64, records []*quarryv1.Record) func() (catalog.Fact, bool) {
	return func() (catalog.Fact, bool) {
		if len(records) == 0 {
			return catalog.Fact{}, false
		}
		r := records[0]
		records[0] = nil
		records = records[1:]
		f, err := wire.Decode(start, r)
		if err != nil {
			panic(fmt.Sprintf("a record that was read cannot be read again: %v", err))
		}
		f.Ordinal = r.GetOrdinal()
		return f, true
	}
}

// drop forgets what is staged. A snapshot is asked for again; that a repair
// did not happen the next beat's digest says.
func (in *intake) drop(out *outcome, why string) {
	what := "snapshot"
	if in.staged.buckets != nil {
		what = "repair"
	} else if why != "" {
		out.want = "the snapshot was dropped: " + why
	}
	in.staged = nil
	if why != "" {
		in.complain(out, what, why)
	}
}

// digests passes on the sums by bucket.
func (in *intake) digests(out *outcome, d *quarryv1.Digests) {
	e := state.Digests{Session: in.id, At: revision(d.GetAt()), Count: d.GetCount()}
	if len(d.GetBuckets()) != len(e.Buckets)*16 || e.At.Start != in.start {
		in.complain(out, "digests", fmt.Sprintf("%d bytes of start %d; want %d of %d", len(d.GetBuckets()), e.At.Start, len(e.Buckets)*16, in.start))
		out.good = false
		return
	}
	for i := range e.Buckets {
		copy(e.Buckets[i][:], d.GetBuckets()[i*16:])
	}
	out.events = append(out.events, e)
}
