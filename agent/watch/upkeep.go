package watch

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/opendata"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// How often what is rarely needed is done for one root.
const (
	compactionsEvery = 5 * time.Minute // while it moves
	boundaryEvery    = time.Hour
	listEvery        = time.Hour      // while it moves
	listQuietEvery   = 24 * time.Hour // otherwise: nothing but a collector changes sizes
	verifyEvery      = 4 * time.Hour
	verifyAgain      = time.Minute // after something was found, while it moves
)

// maxLogRequests is what one reading of a log's own positions may cost.
const maxLogRequests = 500

// care is what upkeep of a database knows.
type care struct {
	// of is the incarnation that all of it is of: what is known of a database
	// that is gone says nothing of its successor.
	of string

	logAt, compactionsAt, boundaryAt, listedAt, verifiedAt time.Time
	logNext                                                time.Time
	begun                                                  bool
	holds                                                  map[uuid.UUID]*hold
	boundaryNotes, verifyNotes, gapNotes                   []catalog.Finding
	exam                                                   exam
	// unscreened is a listing that was not looked through yet; untold what one
	// counted, until what it shows was examined.
	unscreened *listing
	untold     *sizes
}

// hold is a restore point's checkpoint with what its manifest says, read once.
type hold struct {
	position *uint64 // nil: it is not known
	domain   string  // of position
	trimmed  *uint64 // of a log: its owner had cut up to there; nil: nothing, or not known
	bytes    uint64
	needs    map[string]uint64 // tables, with their bytes
	wal      [2]uint64         // after the first, up to the second
	dangling string            // why there is no manifest
	unread   string            // why it cannot be understood
	state    catalog.RestoreState
	reason   string
	at       *time.Time // verified
	judged   bool       // a verification has said something of it
}

func (d *database) upkeep(ctx context.Context) (time.Duration, error) {
	d.mu.Lock()
	live, of := d.sight.Seen == catalog.SeenLive, d.sight.Incarnation
	kind, extractor := d.sight.Kind, d.sight.KindFrom
	moved, compactor := d.movedLast, d.epoch > 0
	holds := d.holds
	d.mu.Unlock()
	c, now := &d.care, time.Now()
	if !live {
		d.tellHeadless()
		return listEvery, nil
	}
	if c.of != of {
		*c = care{of: of}
	}
	if !c.begun {
		// First all that is there to be told; looking at every object of it
		// may take long.
		if err := d.listPoints(ctx, holds); err != nil {
			return 0, err
		}
		c.begun = true
		return 0, nil
	}
	next := listEvery
	if kind == catalog.KindLog && extractor != "" && moved.After(c.logAt) {
		if wait := time.Until(c.logNext); wait > 0 {
			next = min(next, wait)
		} else if err := d.readLog(ctx); err != nil {
			return 0, err
		}
	}
	if err := d.keepPoints(ctx, holds); err != nil {
		return 0, err
	}
	if _, told := d.w.Progress(); !told {
		// Until everything was looked at once, what the budget has left goes
		// to finding the other slates: the inventory comes first.
		d.tellFindings()
		return min(next, 5*d.w.o.Poll), nil
	}
	if compactor && moved.After(c.compactionsAt) {
		if wait := compactionsEvery - now.Sub(c.compactionsAt); wait > 0 && !c.compactionsAt.IsZero() {
			next = min(next, wait)
		} else if err := d.readCompactions(ctx); err != nil {
			return 0, err
		}
	}
	if now.Sub(c.boundaryAt) >= boundaryEvery {
		if err := d.checkBoundary(ctx); err != nil {
			return 0, err
		}
	}
	if age := now.Sub(c.listedAt); age >= listQuietEvery || age >= listEvery && moved.After(c.listedAt) {
		seen := newListing(d.root)
		sizes, err := d.measure(ctx, d.root+"/", seen.take)
		if err != nil {
			return 0, err
		}
		c.listedAt, c.untold, c.unscreened = now, sizes, seen
	}
	if c.unscreened != nil {
		if err := d.screen(ctx, c.unscreened); err != nil {
			return 0, err
		}
		c.unscreened = nil
	}
	wait, err := d.examineWhenDue(ctx, moved)
	if err != nil {
		return 0, err
	}
	d.tellFindings()
	if c.untold != nil {
		looked := !d.suspect.Load() // else there may be more
		d.tellSizes(of, c.untold, looked)
		if looked {
			c.untold = nil
		}
	}
	return min(next, wait), nil
}

func (d *database) tellFindings() {
	d.mu.Lock()
	notes := slices.Concat(d.walNotes, d.care.boundaryNotes, d.care.verifyNotes, d.care.gapNotes, d.care.exam.found, d.care.exam.strangers)
	d.mu.Unlock()
	d.setFindings(notes)
}

// sizes are what a listing counted.
type sizes struct {
	bytes, objects uint64
	at             time.Time
}

// measure lists everything below a prefix and gives each object to whoever else
// has a use for it (nil: nobody).
func (s *slate) measure(ctx context.Context, prefix string, each func(slatedb.Stored)) (*sizes, error) {
	n := new(sizes)
	err := s.w.tend.Walk(ctx, prefix, "", func(key string, size int64, modified time.Time) error {
		n.objects++
		n.bytes += uint64(size)
		if each != nil {
			each(slatedb.Stored{Key: key, Size: size, Modified: modified})
		}
		return nil
	})
	n.at = time.Now().UTC()
	return n, err
}

// tellSizes tells the sizes of the incarnation of; looked: and what the listing
// shows was told. When another is there by now it does nothing: that one is
// looked at by itself.
func (s *slate) tellSizes(of string, n *sizes, looked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sight.Incarnation != of {
		return
	}
	s.sight.ListedBytes, s.sight.ListedObjects = &n.bytes, &n.objects
	if looked {
		s.sight.ListedAt = &n.at
	}
	s.tell()
}

// dear is a store that refuses after so many requests.
type dear struct {
	eyes
	left int
}

var errDear = errors.New("it would take too many requests")

func (s *dear) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if s.left--; s.left < 0 {
		return nil, errDear
	}
	return s.eyes.GetRange(ctx, key, off, n)
}

// readLog reads a log's own positions from its rows: the head and what was
// trimmed. The next time is the later the more it took.
func (d *database) readLog(ctx context.Context) error {
	began := time.Now()
	store := &dear{eyes: d.w.tend, left: maxLogRequests}
	var log opendata.LogState
	r, err := slatedb.OpenReader(ctx, store, d.root, slatedb.ReaderOptions{})
	if err == nil {
		err = feed(ctx, r, &log)
	}
	cost := maxLogRequests
	if r != nil {
		q := r.Requests()
		cost = int(q.Gets + q.Stats + q.Lists)
	}
	d.care.logNext = time.Now().Add(max(2*d.w.o.Poll, time.Duration(cost)*100*time.Millisecond))
	_, damaged := errors.AsType[*slatedb.ObjectError](err)
	if err != nil && !errors.Is(err, errDear) && (!damaged || bucketWide(err)) {
		return err
	}
	d.care.logAt = began
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sight.Incarnation != d.care.of {
		return nil
	}
	d.sight.Position, d.sight.TrimmedTo = nil, nil // unknown, never an old number as a new one
	if err == nil {
		if head, ok := log.Head(); ok {
			d.sight.Position = &head
		}
		if trimmed, ok := log.TrimmedTo(); ok {
			d.sight.TrimmedTo = &trimmed
		}
	} else {
		d.w.log.Debug("a log's positions are unknown", "slate", d.root, "err", err)
	}
	d.tell()
	return nil
}

func feed(ctx context.Context, r *slatedb.Reader, log *opendata.LogState) error {
	for want, more := log.Next(); more; want, more = log.Next() {
		for e, err := range r.Scan(ctx, want.From, want.To) {
			if err == nil {
				err = log.Add(e.Key, e.Value)
			}
			if err != nil {
				return err
			}
		}
		log.Done(want)
	}
	return nil
}

func (d *database) readCompactions(ctx context.Context) error {
	state, err := slatedb.LatestCompactions(ctx, d.w.tend, d.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !undecodable(err) {
		return err
	}
	d.care.compactionsAt = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sight.Incarnation != d.care.of {
		return nil
	}
	d.sight.Compaction = ""
	if err == nil {
		d.sight.Compaction = newestCompaction(state.Compactions)
	}
	d.tell()
	return nil
}

func newestCompaction(c *manifest.Compactions) string {
	var newest *manifest.Compaction
	for i := range c.Recent {
		if newest == nil || newest.ID.Compare(c.Recent[i].ID) < 0 {
			newest = &c.Recent[i]
		}
	}
	if newest == nil {
		return ""
	}
	return newest.Status.String()
}

func (d *database) checkBoundary(ctx context.Context) error {
	b, err := slatedb.Boundary(ctx, d.w.tend, d.root)
	if err != nil && !undecodable(err) {
		return err
	}
	d.mu.Lock()
	known, again := d.sight.ManifestID, d.sight.Incarnation != d.care.of
	d.mu.Unlock()
	if known == nil || again {
		return nil // another database is there by now
	}
	newest := *known
	if err == nil && b >= newest && newest > 0 {
		// Or it is we who are behind: a checkpoint made the collector keep
		// the manifest that we know, and it took the ones after it.
		ids, err := slatedb.ManifestIDs(ctx, d.w.tend, d.root)
		if err != nil {
			return err
		}
		if len(ids) > 0 && ids[len(ids)-1] > newest {
			newest = ids[len(ids)-1]
			d.passed.Store(true)
			d.w.looks.hurry(d.lookTask)
		}
	}
	d.care.boundaryAt, d.care.boundaryNotes = time.Now(), nil
	told := &slatedb.Sight{Root: d.root, Head: &slatedb.Head{Root: d.root, ID: newest, Manifest: manifest.New()}}
	if err != nil {
		told.BoundaryError = err
	} else if newest > 0 {
		told.Boundary = &b
	}
	d.care.boundaryNotes = noted(slatedb.Symptoms(told)...)
	return nil
}

// keepPoints tells the restore points, and verifies the database when one is
// new or the last time was long ago.
func (d *database) keepPoints(ctx context.Context, checkpoints []manifest.Checkpoint) error {
	if err := d.listPoints(ctx, checkpoints); err != nil {
		return err
	}
	c := &d.care
	fresh := false
	for _, h := range c.holds {
		fresh = fresh || h.dangling == "" && h.unread == "" && !h.judged
	}
	d.mu.Lock()
	moved := d.movedLast
	d.mu.Unlock()
	age := time.Since(c.verifiedAt)
	cured := len(c.verifyNotes) > 0 && moved.After(c.verifiedAt) && age >= verifyAgain
	if anew := d.anew.Load(); fresh || cured || len(c.holds) > 0 && (anew || age >= verifyEvery) {
		if err := d.verify(ctx); err != nil {
			return err
		}
	}
	if len(c.holds) == 0 {
		c.verifyNotes = nil
	}
	d.tellPoints(checkpoints)
	d.anew.Store(false)
	return nil
}

// listPoints reads what the checkpoints pin that are not known yet, and tells
// the restore points as far as they are known.
func (d *database) listPoints(ctx context.Context, checkpoints []manifest.Checkpoint) error {
	c := &d.care
	d.mu.Lock()
	domain := d.sight.PositionDomain
	d.mu.Unlock()
	var known map[uuid.UUID]*hold
	if len(checkpoints) > 0 {
		known = map[uuid.UUID]*hold{}
	}
	for _, cp := range checkpoints {
		h := c.holds[cp.ID]
		if h == nil || h.dangling != "" || h.domain != domain {
			var err error
			if h, err = d.readHold(ctx, cp, domain); err != nil {
				return err
			}
		}
		known[cp.ID] = h
	}
	c.holds = known
	d.tellPoints(checkpoints)
	return nil
}

func (d *database) tellPoints(checkpoints []manifest.Checkpoint) {
	points := make(map[string]catalog.RestorePoint, len(checkpoints))
	for _, cp := range checkpoints {
		h := d.care.holds[cp.ID]
		if h.dangling != "" {
			continue // a finding, not a restore point
		}
		p := catalog.RestorePoint{
			ID: cp.ID.String(), Name: clip(cp.Name), Source: catalog.SourceCheckpoint,
			PositionDomain: h.domain, State: h.state, Reason: h.reason, VerifiedAt: h.at,
		}
		if h.unread == "" {
			p.Position, p.Bytes = h.position, ptr(h.bytes)
		}
		if cp.Create.Unix() > 0 {
			p.CreatedAt = ptr(cp.Create)
		}
		points[p.ID] = p
	}
	d.setPoints(d.care.of, points, "the checkpoint was removed")
	d.tellPins(checkpoints)
}

// readHold reads what a checkpoint pins. Its position is the highest it
// contains: its tables', or that of the newest WAL row it pins; of a log that
// of the newest entry in it, read from its rows.
func (d *database) readHold(ctx context.Context, cp manifest.Checkpoint, domain string) (*hold, error) {
	head, err := slatedb.At(ctx, d.w.tend, d.root, cp.ManifestID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &hold{dangling: err.Error(), domain: domain}, nil
	case head == nil:
		return nil, err
	case err != nil:
		return &hold{unread: err.Error(), domain: domain, state: catalog.RestoreUnreadable, reason: err.Error()}, nil
	}
	m := head.Manifest
	h := &hold{
		domain: domain, bytes: m.Size(), needs: sizesOf(d.root, m),
		wal: [2]uint64{m.ReplayAfterWAL, m.WALLastSeen}, state: catalog.RestoreListed,
	}
	if domain == domainLog {
		h.position, h.trimmed, err = d.logPositions(ctx, cp.ID)
		return h, err
	}
	if m.WALStoreMarked {
		h.position = ptr(m.LastL0Seq)
		return h, nil
	}
	var pinned tail
	for id := m.WALLastSeen; id > m.ReplayAfterWAL && m.WALLastSeen-id < maxFences; id-- {
		raw, err := d.w.tend.Get(ctx, slatedb.WALKey(d.root, id))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && pinned.take(raw) {
			break
		}
	}
	h.position = ptr(max(m.LastL0Seq, pinned.seq))
	return h, nil
}

// verify looks at every object that the database and its checkpoints need.
func (d *database) verify(ctx context.Context) error {
	rep, err := slatedb.Verify(ctx, d.w.tend, d.root, slatedb.VerifyOptions{})
	if err != nil {
		return err
	}
	c, now := &d.care, time.Now().UTC()
	c.verifiedAt, c.verifyNotes = now, nil
	for _, f := range rep.Findings {
		if !examined[f.Code] {
			c.verifyNotes = append(c.verifyNotes, noted(f)...)
		}
	}
	for _, h := range c.holds {
		if h.dangling == "" && h.unread == "" {
			h.judge(d.root, rep.Findings, now)
		}
	}
	return nil
}

// judge says how much of a restore point is there, by what verification found.
// What could not be looked at is listed, never verified (P3).
func (h *hold) judge(root string, found []slatedb.Finding, now time.Time) {
	h.state, h.reason, h.at, h.judged = catalog.RestoreVerified, "", &now, true
	for _, f := range found {
		id, isWAL := slatedb.ParseWALKey(root, f.Object)
		if _, table := h.needs[f.Object]; !table && !(isWAL && id > h.wal[0] && id <= h.wal[1]) && f.Code != slatedb.WALStoreUnknown {
			continue
		}
		switch f.Code {
		case slatedb.FilterFormatMismatch: // scans are right, nothing is lost
		case slatedb.Unreadable, slatedb.WALStoreUnknown:
			if h.state == catalog.RestoreVerified {
				h.state, h.reason, h.at = catalog.RestoreListed, f.Object+": "+f.What, nil
			}
		default:
			h.state, h.reason, h.at = catalog.RestoreIncomplete, f.Object+": "+f.What, nil
			return
		}
	}
}
