package watch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// database follows a SlateDB database by asking for the manifest after the
// last one, and for the WAL object after the last one.
type database struct {
	*slate

	// The look's own. head is the last manifest object read; zero when
	// nothing is known: look at all there is.
	head   headMark
	pinned bool // a checkpoint pins head, so a collector keeps it when later ones go
	proven time.Time
	turn   int
	// asks says when a look at a moving database asks for its WAL.
	asks rests
	// unlisted counts the turns that wanted a listing for want of a boundary; see
	// lookAtBoundary.
	unlisted uint8
	wal      tail
	traces   traces

	suspect atomic.Bool // a look saw what may be damage: examine it

	care care // upkeep's own, see upkeep.go

	// Handed from looks to upkeep, under mu.
	holds     []manifest.Checkpoint // named, without expiry
	newest    map[string]uint64     // tables of the newest manifest; nil while Quarry holds nothing
	walNotes  []catalog.Finding
	headNotes []catalog.Finding // of a newest manifest that cannot be read
	movedLast time.Time
	epoch     uint64 // the compactor's
}

// rests spaces out a question whose answer has been no for a while: after ten
// in a row it rests for one look, then for two, up to nine. The zero value asks
// at every look.
type rests struct{ misses, rest uint8 }

func (r *rests) due() bool {
	if r.rest == 0 {
		return true
	}
	r.rest--
	return false
}

func (r *rests) answered(yes bool) {
	if yes {
		*r = rests{}
		return
	}
	r.misses = min(r.misses+1, 2*quietAfter-1)
	r.rest = r.misses - min(r.misses, quietAfter)
}

// headMark is what of a manifest object tells it from every other.
type headMark struct {
	id  uint64
	sha [sha256.Size]byte
}

func (m headMark) none() bool { return m == headMark{} }

func (m headMark) of(root string) *slatedb.Head {
	return &slatedb.Head{Root: root, ID: m.id, SHA256: m.sha}
}

func (d *database) turns() int {
	if d.pinned {
		return 4
	}
	return 3
}

// look asks for the next manifest and the next WAL object; when the database
// is quiet for one of them only, or whether the last manifest is still the
// same, or for the collector's boundary: one request a look.
func (d *database) look(ctx context.Context, quiet bool) (moved bool, err error) {
	if d.passed.Swap(false) {
		d.afresh()
	}
	if d.head.none() {
		return d.lookAnew(ctx)
	}
	if d.doubted.Swap(false) {
		moved, err = d.prove(ctx, false)
		if err != nil {
			d.doubted.Store(true)
		}
		return moved, err
	}
	d.turn++
	turn := d.turn % d.turns()
	if !quiet || turn == 0 {
		if moved, err = d.lookForManifest(ctx); err != nil || d.head.none() {
			return moved, err
		}
	}
	if !quiet && (d.full || d.asks.due()) || turn == 1 && quiet {
		grown, err := d.lookForWAL(ctx)
		if moved = moved || grown; err != nil {
			return moved, err
		}
		d.asks.answered(grown)
	}
	// Every tenth miss, or when it is this one's turn.
	if !quiet && d.misses%10 == 9 || quiet && turn == 2 || time.Since(d.proven) > longestTurn {
		return d.prove(ctx, moved)
	}
	if quiet && turn == 3 {
		return d.lookAtBoundary(ctx)
	}
	return moved, nil
}

func (d *database) afresh() { d.head = headMark{} }

// prove reads the last manifest again: is this still the history we know?
func (d *database) prove(ctx context.Context, moved bool) (bool, error) {
	still, err := d.head.of(d.root).StillThere(ctx, d.w.look)
	if err != nil {
		return moved, err
	}
	if still {
		d.proven = time.Now()
		return moved, nil
	}
	d.head = headMark{}
	return d.lookAnew(ctx)
}

// lookAtBoundary finds out whether a collector went past a manifest that a
// checkpoint made it keep: then a missing next id does not mean that nothing
// is new. A collector that leaves no boundary (before 0.14, or switched off)
// says nothing; then one listing of what comes after does, the first time at
// once and then in every eighth turn: a listing costs as much as twelve
// questions, and collectors leave a manifest alone for longer than that.
func (d *database) lookAtBoundary(ctx context.Context) (bool, error) {
	b, err := slatedb.Boundary(ctx, d.w.look, d.root)
	if err != nil && !undecodable(err) {
		return false, err
	}
	if b == 0 {
		if d.unlisted%listingTurns != 0 {
			d.unlisted++
			return false, nil
		}
		later, err := d.laterListed(ctx)
		if err == nil {
			d.unlisted++
		}
		if !later || err != nil {
			return false, err
		}
	} else if b < d.head.id {
		return false, nil
	}
	return d.lookAnew(ctx)
}

// listingTurns is how many turns of a quiet database have one listing.
const listingTurns = 8

// laterListed reports whether there is a manifest after the last one we know.
func (d *database) laterListed(ctx context.Context) (bool, error) {
	err := d.w.look.Walk(ctx, d.root+"/manifest/", slatedb.ManifestKey(d.root, d.head.id), func(key string, _ int64, _ time.Time) error {
		if _, ok := slatedb.ParseManifestKey(d.root, key); ok {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

func (d *database) lookForManifest(ctx context.Context) (bool, error) {
	next, err := d.head.of(d.root).Next(ctx, d.w.look)
	if next == nil {
		return false, err
	}
	// A database that was made again since the last look may be further
	// already than the one before it ever was. What was last seen must
	// still be there, or have been collected.
	still, again := d.head.of(d.root).StillThere(ctx, d.w.look)
	if again != nil {
		return false, again
	}
	d.mu.Lock()
	was := d.identity.mark
	d.mu.Unlock()
	v := same
	if next.Manifest != nil {
		v, _ = follows(was, markOf(next))
	}
	if !still || v != same {
		d.head = headMark{}
		return d.lookAnew(ctx)
	}
	d.proven = time.Now()
	return true, d.take(ctx, next, err)
}

// lookAnew lists the manifests, proves that the newest descends from what was
// there, and takes it. When there are none the database is missing.
func (d *database) lookAnew(ctx context.Context) (bool, error) {
	before := d.head
	d.head = headMark{} // when this fails, the next look begins here
	newest, err := slatedb.Latest(ctx, d.w.look, d.root)
	if newest == nil {
		if errors.Is(err, fs.ErrNotExist) {
			return d.absent(ctx)
		}
		return false, err
	}
	good := newest
	if newest.Manifest == nil && newest.Below != nil {
		good = newest.Below
	}
	now := record{identity: identity{Layout: layoutDatabase}}
	if good.Manifest != nil {
		now.mark = markOf(good)
	} else {
		now.mark = mark{ID: good.ID, SHA256: hex.EncodeToString(good.SHA256[:])}
	}
	v, idErr := d.identify(ctx, now, func(was record) (verdict, string, error) {
		return d.judge(ctx, was, newest, good)
	})
	switch {
	case idErr != nil:
		return false, idErr
	case v == unknown:
		d.cannotRead(err)
		return false, nil
	case v == another:
		d.wal, d.traces, before = tail{}, traces{}, headMark{}
		d.mu.Lock()
		d.sight = catalog.Sighting{Incarnation: d.sight.Incarnation, IncarnationKept: d.sight.IncarnationKept, Predecessor: d.sight.Predecessor}
		d.holds, d.newest, d.walNotes = nil, nil, nil
		d.mu.Unlock()
	}
	d.proven = time.Now()
	if newest.Manifest == nil && newest.Below != nil {
		if err := d.take(ctx, newest.Below, nil); err != nil {
			return false, err
		}
	}
	err = d.take(ctx, newest, err)
	return before != headMark{newest.ID, newest.SHA256}, err
}

// judge gathers the evidence for the verdict on a recorded history.
func (d *database) judge(ctx context.Context, was record, newest, good *slatedb.Head) (verdict, string, error) {
	if was.Layout != layoutDatabase {
		return another, "it was no SlateDB database before", nil
	}
	h := history{Was: was.mark, Newest: newest.ID}
	if good.Manifest != nil {
		now := markOf(good)
		h.Now = &now
	}
	switch {
	case was.ID == newest.ID:
		h.AtWas = hex.EncodeToString(newest.SHA256[:])
	case was.ID == good.ID:
		h.AtWas = hex.EncodeToString(good.SHA256[:])
	case was.ID < newest.ID:
		at, err := slatedb.At(ctx, d.w.look, d.root, was.ID)
		if at == nil && !errors.Is(err, fs.ErrNotExist) {
			return unknown, "", err
		}
		if at != nil {
			h.AtWas = hex.EncodeToString(at.SHA256[:])
			break
		}
		b, err := slatedb.Boundary(ctx, d.w.look, d.root)
		if err != nil && !undecodable(err) {
			return unknown, "", err
		}
		if b > 0 {
			h.Boundary = &b
		}
	}
	v, why := continuous(h)
	return v, why, nil
}

// absent: the listing succeeded and had no manifest.
func (d *database) absent(ctx context.Context) (bool, error) {
	d.mu.Lock()
	known := d.sight.Root != ""
	d.mu.Unlock()
	if !known {
		r, kept, err := d.recorded(ctx)
		if err != nil {
			return false, err
		}
		if r.Incarnation == "" || r.Layout != layoutDatabase {
			return false, errNothing
		}
		d.fromRecord(r, kept)
	}
	d.vanished(fmt.Sprintf("no manifest is listed below %s/manifest/ any more", d.root))
	return false, nil
}

// fromRecord fills the sighting of a root that was gone before this process
// began with what is recorded of it.
func (s *slate) fromRecord(r record, kept bool) {
	s.settle(r, kept, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sight.Root, s.sight.Kind, s.sight.KindFrom = s.root, r.Kind, "record"
	s.sight.PositionDomain = domainOfLayout[r.Layout]
	switch r.Layout {
	case layoutDatabase:
		s.sight.Lineage = r.lineage(r.WriterEpoch)
		s.sight.ManifestID, s.sight.WriterEpoch, s.sight.CompactorEpoch = ptr(r.ID), ptr(r.WriterEpoch), ptr(r.CompactorEpoch)
		s.sight.LastL0Seq = ptr(r.LastL0Seq)
	case layoutPartition:
		s.sight.Lineage = partitionLineage(r.Cluster, s.root, r.Incarnation)
	case layoutBuffer:
		s.sight.Lineage = r.Incarnation
	}
	if s.sight.Kind == "" {
		s.sight.Kind = kindOfLayout[r.Layout]
	}
}

// The position domains.
const (
	domainSeq    = "seq"
	domainLog    = "log-seq"
	domainLSN    = "lsn"
	domainBuffer = "buffer-seq"
)

// take makes the sighting say what the manifest object h says. unread is why
// it has no manifest.
func (d *database) take(ctx context.Context, h *slatedb.Head, unread error) error {
	if h.Manifest == nil {
		d.takeUnreadable(h, unread)
		return nil
	}
	m := h.Manifest
	d.pinned = false
	for _, c := range m.Checkpoints {
		d.pinned = d.pinned || c.ManifestID == h.ID
	}
	if err := d.wal.follow(ctx, d, h); err != nil {
		return err
	}
	now := tracesOf(m)
	if d.traces.lost(now) {
		d.suspect.Store(true) // upkeep follows every movement
	}
	d.traces = now
	d.head = headMark{h.ID, h.SHA256}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity.advance(identity{Layout: layoutDatabase, mark: markOf(h)})
	if d.sight.ManifestID == nil || *d.sight.ManifestID != h.ID || d.sight.Seen != catalog.SeenLive {
		d.movedLast = time.Now()
	}
	d.sight = sightOf(d.root, h, d.sight)
	d.sight.Lineage = d.identity.lineage(m.WriterEpoch)
	d.tellTail(m.ReplayAfterWAL)
	d.setKind(m)
	d.holds, d.newest = holdsOf(m), nil
	if slices.ContainsFunc(d.holds, isOurs) {
		d.newest = sizesOf(d.root, m)
	}
	d.headNotes = nil
	d.epoch = m.CompactorEpoch
	d.tell()
	return nil
}

// takeUnreadable keeps what the last good manifest said, and says why it is
// not the newest.
func (d *database) takeUnreadable(h *slatedb.Head, unread error) {
	d.head = headMark{h.ID, h.SHA256}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.sight
	s.Root, s.Seen, s.Reason, s.Pill = d.root, catalog.SeenUnreadable, unread.Error(), ""
	if s.Kind == "" {
		s.Kind, s.KindFrom, s.PositionDomain = catalog.KindSlateDB, "layout", domainSeq
	}
	s.Lineage = d.identity.lineage(d.identity.WriterEpoch)
	s.ManifestID = ptr(h.ID)
	if h.Pill != nil {
		s.Pill, s.Reason = h.Pill.Reason, "pill: "+h.Pill.Reason
	}
	if f, ok := slatedb.Headless(unread); ok {
		d.headNotes = noted(f)
	}
	d.movedLast = time.Now()
	d.tell()
}

func markOf(h *slatedb.Head) mark {
	return mark{
		ID: h.ID, SHA256: hex.EncodeToString(h.SHA256[:]),
		WriterEpoch: h.Manifest.WriterEpoch, CompactorEpoch: h.Manifest.CompactorEpoch, LastL0Seq: h.Manifest.LastL0Seq,
	}
}

// undecodable tells an object that cannot be understood from a store that did
// not give it.
func undecodable(err error) bool {
	_, field := errors.AsType[*manifest.FieldError](err)
	_, version := errors.AsType[*manifest.VersionError](err)
	return field || version || errors.Is(err, manifest.ErrCorrupt) || errors.Is(err, manifest.ErrEmpty)
}
