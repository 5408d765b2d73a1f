package watch

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// What releases of SlateDB do to each other is recognised in three steps, each
// dearer than the one before and taken only when that gives a reason:
//
//  1. Every look compares the manifest that it read anyway with the one before
//     it ([traces]). That costs nothing.
//  2. The listing that is made for a database's size is looked through as
//     well ([database.screen]), for one request more, two the first time.
//  3. A database that looks damaged is examined ([database.examine]): its
//     folders listed, its earlier manifests and the ends of its tables read.
//     Only what this finds is told, so a glimpse of a database in motion is
//     no alarm.

// traces are what of a manifest a later one must not lack. Lists of tables are
// not kept: ten thousand databases are followed in little memory.
type traces struct{ segmented, marked, composite bool }

func tracesOf(m *manifest.Manifest) traces {
	t := traces{segmented: m.ExtractorName != "" || len(m.Segments) > 0, marked: m.WALStoreMarked}
	m.Tables(func(x *manifest.Table) { t.composite = t.composite || x.Info.FilterFormat != 0 })
	return t
}

// lost reports whether now lacks something; of filters that may be right, for
// the tables may be gone.
func (t traces) lost(now traces) bool {
	return t.segmented && !now.segmented || t.marked && !now.marked || t.composite && !now.composite
}

const (
	// fewFooters are enough to screen: whoever loses filter formats loses all.
	fewFooters, manyFooters = 2, 64
	// mostTold of the findings of one kind: the rest is for `quarry verify`.
	mostTold = 16
	// examineEvery is how often a database with findings is examined while
	// nothing moves.
	examineEvery = time.Hour
)

// examined are the codes that an examination or the collector's mark tell, so
// that a verification need not.
var examined = map[slatedb.Code]bool{
	slatedb.BoundaryAhead: true, slatedb.BoundaryUnreadable: true, slatedb.SegmentsLost: true, slatedb.WALStoreUnmarked: true,
	slatedb.CheckpointDangling: true, slatedb.CollectorStuck: true, slatedb.FilterFormatMismatch: true,
}

// exam is what upkeep knows of a database's findings.
type exam struct {
	found []catalog.Finding
	// strangers is what releases in use do to it, as the last listing showed. It
	// is no damage, so it is no reason to examine anything.
	strangers []catalog.Finding
	at        time.Time     // of the last examination
	spacing   time.Duration // until the next one, when it moves
	screened  bool          // the oldest manifest was read once
}

// listing is what a listing of a database's folder showed.
type listing struct {
	root   string
	sight  slatedb.Sight
	tables map[string]bool
}

func newListing(root string) *listing {
	l := &listing{root: root, tables: map[string]bool{}}
	l.sight = slatedb.Sight{Root: root, Manifests: []slatedb.Stored{}, Compactions: []slatedb.Stored{}, WAL: []slatedb.Stored{}}
	return l
}

func (l *listing) take(o slatedb.Stored) {
	folder, _, _ := strings.Cut(strings.TrimPrefix(o.Key, l.root+"/"), "/")
	switch folder {
	case "manifest":
		l.sight.Manifests = append(l.sight.Manifests, o)
	case "compactions":
		l.sight.Compactions = append(l.sight.Compactions, o)
	case "wal":
		l.sight.WAL = append(l.sight.WAL, o)
	case "compacted":
		l.tables[o.Key] = true
	}
}

// screen looks through a listing for a reason to examine the database.
func (d *database) screen(ctx context.Context, l *listing) error {
	oldest, newest := uint64(math.MaxUint64), uint64(0)
	for _, o := range l.sight.Manifests {
		if id, ok := slatedb.ParseManifestKey(d.root, o.Key); ok {
			oldest, newest = min(oldest, id), max(newest, id)
		}
	}
	if newest == 0 {
		return nil
	}
	read := func(id uint64) (*slatedb.Head, error) {
		h, err := slatedb.At(ctx, d.w.tend, d.root, id)
		if h == nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return h, nil // one that is gone or no manifest says nothing here
	}
	s := &l.sight
	var err error
	if s.Head, err = read(newest); err != nil || s.Head == nil || s.Head.Manifest == nil {
		return err
	}
	if !d.care.exam.screened && oldest < newest {
		h, err := read(oldest)
		if err != nil {
			return err
		}
		if h != nil {
			s.Before = []*slatedb.Head{h}
		}
	}
	s.Now = time.Now()
	if len(d.w.o.InUse) > 0 {
		if err := d.screenReleases(ctx, s); err != nil {
			return err
		}
	}
	suspect := slatedb.Symptoms(s)
	if len(suspect) == 0 {
		if suspect, err = slatedb.Missing(ctx, d.w.tend, s.Head, l.tables, 1); err != nil {
			return err
		}
	}
	if len(suspect) == 0 {
		if suspect, err = slatedb.Filters(ctx, d.w.tend, s.Head, fewFooters); err != nil {
			return err
		}
	}
	d.care.exam.screened = true
	if len(suspect) > 0 {
		d.suspect.Store(true)
	}
	return nil
}

// screenReleases finds what the releases in use do to the database.
func (d *database) screenReleases(ctx context.Context, s *slatedb.Sight) error {
	told := *s
	told.InUse, told.Lasting = d.w.o.InUse, true
	if len(s.Compactions) > 0 {
		state, err := slatedb.LatestCompactions(ctx, d.w.tend, d.root)
		switch {
		case err == nil:
			told.CompactionsVersion = state.Compactions.Version
		case !errors.Is(err, fs.ErrNotExist) && !undecodable(err):
			return err
		}
	}
	found := slices.DeleteFunc(slatedb.Symptoms(&told), func(f slatedb.Finding) bool { return f.Code != slatedb.MixedVersions })
	d.care.exam.strangers = joined(d.root, found)
	return nil
}

// joined makes one finding of several, about the whole database: their objects
// (the newest manifest) change all the time, and what is told must not.
func joined(root string, found []slatedb.Finding) []catalog.Finding {
	if len(found) == 0 {
		return nil
	}
	all := func(of func(slatedb.Finding) string) string {
		var texts []string
		for _, f := range found {
			if t := of(f); !slices.Contains(texts, t) {
				texts = append(texts, t)
			}
		}
		return strings.Join(texts, "; ")
	}
	return []catalog.Finding{{
		Code: string(found[0].Code), Object: root, What: all(func(f slatedb.Finding) string { return f.What }),
		Who: all(func(f slatedb.Finding) string { return f.Who }), Cure: all(func(f slatedb.Finding) string { return f.Cure }),
	}}
}

// examineWhenDue examines a database that is suspect or has findings, and says
// when it has to be asked again.
func (d *database) examineWhenDue(ctx context.Context, moved time.Time) (time.Duration, error) {
	e := &d.care.exam
	d.mu.Lock()
	wrong := len(e.found)+len(d.walNotes)+len(d.care.boundaryNotes) > 0
	d.mu.Unlock()
	if !wrong && !d.suspect.Load() {
		return listEvery, nil
	}
	age := time.Since(e.at)
	suspect := d.suspect.Load()
	if due := moved.After(e.at) || suspect; !e.at.IsZero() && (!due && age < examineEvery || age < e.spacing) {
		if due {
			return e.spacing - age, nil
		}
		return examineEvery - age, nil
	}
	d.suspect.Store(false)
	was := e.found
	cost, err := d.examine(ctx)
	if err != nil {
		d.suspect.Store(d.suspect.Load() || suspect)
		return 0, err
	}
	// A second for each request; the rarer the longer the same is found in a
	// database that goes on moving.
	least := max(time.Duration(cost)*time.Second, 10*d.w.o.Poll)
	if len(e.found) > 0 && slices.EqualFunc(was, e.found, func(a, b catalog.Finding) bool { return a.Code == b.Code && a.Object == b.Object }) {
		e.spacing = min(max(2*e.spacing, least), examineEvery)
	} else {
		e.spacing = least
	}
	e.at = time.Now()
	if len(e.found) == 0 {
		return listEvery, nil
	}
	return e.spacing, nil
}

// examine looks at the database as [slatedb.Look] does, and at the ends of
// tables, and keeps what it finds. cost is about how many requests it took.
func (d *database) examine(ctx context.Context) (cost int, err error) {
	of := d.care.of
	var found []slatedb.Finding
	var sight *slatedb.Sight
	still := false
	for try := 0; try < 3 && !still; try++ {
		sight, err = slatedb.Look(ctx, d.w.tend, d.root, slatedb.LookOptions{})
		switch {
		case errors.Is(err, fs.ErrNotExist), undecodable(err):
			return cost, nil // looks tell that
		case err != nil:
			return cost, err
		case sight.Head.Manifest == nil:
			return cost, nil
		}
		cost += 8 + len(sight.Before) + (len(sight.Manifests)+len(sight.Compactions)+len(sight.WAL))/page
		found = slatedb.Symptoms(sight)
		if still = !slices.ContainsFunc(found, ofAMoment); still {
			break
		}
		// A collector may have taken between manifest and listing what the
		// next manifest does not need any more.
		next, err := sight.Head.Next(ctx, d.w.tend)
		if next == nil && err != nil {
			return cost, err
		}
		still = next == nil
	}
	if !still {
		found = slices.DeleteFunc(found, ofAMoment)
		d.suspect.Store(true) // when it rests
	}
	lost, err := slatedb.Filters(ctx, d.w.tend, sight.Head, manyFooters)
	if err != nil {
		return cost, err
	}
	for _, f := range lost {
		if !slices.ContainsFunc(found, func(o slatedb.Finding) bool { return o.Code == f.Code && o.Object == f.Object }) {
			found = append(found, f)
		}
	}
	cost += 2 * len(lost)
	if len(d.care.holds) == 0 { // else a verification tells
		gone, n, err := d.missing(ctx, sight.Head)
		if cost += n; err != nil {
			return cost, err
		}
		found = append(found, gone...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sight.Incarnation != of {
		return cost, nil // another is there by now
	}
	d.care.exam.found = noted(found...)
	d.care.boundaryNotes, d.care.boundaryAt = nil, time.Now()
	if still {
		d.walNotes = nil
	}
	return cost, nil
}

// missing finds tables of the newest manifest that are gone, while that is
// still the newest.
func (d *database) missing(ctx context.Context, h *slatedb.Head) (gone []slatedb.Finding, cost int, err error) {
	l := newListing(d.root)
	n := 0
	err = d.w.tend.Walk(ctx, d.root+"/compacted/", "", func(key string, size int64, modified time.Time) error {
		l.take(slatedb.Stored{Key: key, Size: size, Modified: modified})
		n++
		return nil
	})
	if err != nil {
		return nil, 1, err
	}
	gone, err = slatedb.Missing(ctx, d.w.tend, h, l.tables, mostTold)
	cost = 1 + n/page + len(gone)
	if len(gone) == 0 || err != nil {
		return nil, cost, err
	}
	next, err := h.Next(ctx, d.w.tend)
	if next == nil && err != nil {
		return nil, cost, err
	}
	if next != nil {
		d.suspect.Store(true)
		return nil, cost, nil
	}
	return gone, cost, nil
}

// ofAMoment: it holds only if nothing moved between two requests.
func ofAMoment(f slatedb.Finding) bool {
	return f.Code == slatedb.WALHole || f.Code == slatedb.WALStoreUnmarked || f.Code == slatedb.CheckpointDangling
}

// noted makes of findings what is told of them, not too many of a kind.
func noted(found ...slatedb.Finding) []catalog.Finding {
	var notes []catalog.Finding
	kinds := map[slatedb.Code]int{}
	for _, f := range found {
		if kinds[f.Code]++; kinds[f.Code] <= mostTold {
			notes = append(notes, catalog.Finding{Code: string(f.Code), Object: f.Object, What: f.What, Who: f.Who, Cure: f.Cure})
		}
	}
	return notes
}

// tellHeadless tells what a newest manifest that cannot be read amounts to.
func (d *database) tellHeadless() {
	d.mu.Lock()
	notes := d.headNotes
	if d.sight.Seen != catalog.SeenUnreadable {
		notes = nil
	}
	d.mu.Unlock()
	if len(notes) > 0 {
		d.setFindings(notes)
	}
}
