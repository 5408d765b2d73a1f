package watch

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// layout is what is at a root.
type layout string

const (
	layoutDatabase  layout = "slatedb"
	layoutPartition layout = "snapshots"
	layoutBuffer    layout = "buffer"
)

// follower knows one layout. look runs at most once at a time, and so does
// upkeep, but each may run while the other does.
type follower interface {
	// look asks what is new, with one request when the root is quiet and
	// nothing is. An error means that the store did not answer: nothing is
	// known that was not known before.
	look(ctx context.Context, quiet bool) (moved bool, err error)
	// turns is how many looks ask everything once when the root is quiet.
	turns() int
	// afresh makes the next look take what is there as if it had never been
	// seen. It is the look's own.
	afresh()
	// upkeep does what is needed rarely, and says when it is needed again.
	upkeep(ctx context.Context) (time.Duration, error)
}

// slate is one root that is followed.
type slate struct {
	w     *Watcher
	root  string
	began time.Time // to be followed
	follower
	lookTask, upkeepTask *task
	doubted              atomic.Bool // discovery no longer sees it: prove it
	passed               atomic.Bool // a collector may have gone past what we know: list
	hinted               atomic.Bool // somebody says that it has moved: look in full
	awaited              atomic.Bool // its lease was touched: it is about to move
	headless             atomic.Bool // what makes it what it is is gone, other things are there
	stopped              atomic.Bool // it is no longer followed
	anew                 atomic.Bool // somebody is about to act: verify everything, whenever that was last done

	// The look's own.
	movedAt  time.Time
	full     bool // somebody says that it has moved: rest no question
	failures int32
	misses   int32

	mu       sync.Mutex
	sight    catalog.Sighting                // Root is empty until there is something to say
	looked   bool                            // the first look has come to an end
	tended   bool                            // and the first upkeep: restore points are told
	points   map[string]catalog.RestorePoint // by id, as told
	pins     map[string]catalog.Pin          // by id, as told
	findings map[string]catalog.Finding      // by key, as told
	identity identity                        // Incarnation is empty: none yet
	kept     bool
	observed observation
	answers  answers
}

// observation is what was last recorded of an identity.
type observation struct {
	key  string
	at   time.Time
	mark uint64
}

// illegible stands for the incarnation of a record that cannot be understood.
const illegible = "illegible"

var (
	kindOfLayout   = map[layout]catalog.Kind{layoutDatabase: catalog.KindSlateDB, layoutPartition: catalog.KindSnapshots, layoutBuffer: catalog.KindBuffer}
	domainOfLayout = map[layout]string{layoutDatabase: domainSeq, layoutPartition: domainLSN, layoutBuffer: domainBuffer}
)

// errNothing: there is nothing at this root and never was.
var errNothing = errors.New("there is nothing")

// doLook is the task of looking.
func (s *slate) doLook(ctx context.Context) time.Duration {
	if s.stopped.Load() {
		s.w.tendedTo(s)
		return -1
	}
	if s.awaited.Swap(false) {
		s.movedAt = time.Now()
	}
	hinted := s.hinted.Swap(false)
	s.full = hinted
	quiet := !hinted && time.Since(s.movedAt) > quietAfter*s.w.o.Poll
	moved, err := s.look(ctx, quiet)
	s.answered(func(a *answers) { a.look = err })
	switch {
	case ctx.Err() != nil:
		return time.Hour
	case errors.Is(err, errNothing):
		s.w.drop(s)
		return -1
	case err != nil:
		if hinted {
			s.hinted.Store(true) // what was said is not answered yet
		}
		s.failures++
		if readable, _, _ := s.w.senses.state(); s.failures >= 3 && readable && !bucketWide(err) {
			s.cannotRead(err)
			s.w.lookedAt(s)
		}
		return min(s.w.o.Poll<<min(s.failures, 6), time.Minute)
	}
	s.failures = 0
	s.w.lookedAt(s)
	if moved {
		s.movedAt, s.misses = time.Now(), 0
		s.w.tending.hurry(s.upkeepTask)
	} else {
		s.misses++
	}
	return s.w.pace(s)
}

// doUpkeep is the task of upkeep.
func (s *slate) doUpkeep(ctx context.Context) time.Duration {
	if s.stopped.Load() {
		s.w.tendedTo(s)
		return -1
	}
	again, err := s.upkeep(ctx)
	s.answered(func(a *answers) { a.upkeep = err })
	if err == nil {
		err = s.record(ctx)
	}
	if ctx.Err() != nil {
		return time.Hour
	}
	if err != nil {
		s.w.log.Debug("upkeep", "slate", s.root, "err", err)
		again = time.Minute
		if _, ready := s.w.Progress(); !ready {
			again = 5 * s.w.o.Poll // the region's first word waits for it
		}
	}
	if err == nil || !bucketWide(err) {
		s.w.tendedTo(s)
	}
	return again
}

func (s *slate) missing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sight.Seen == catalog.SeenMissing
}

func (s *slate) layout() layout {
	switch s.follower.(type) {
	case *partition:
		return layoutPartition
	case *buffer:
		return layoutBuffer
	}
	return layoutDatabase
}

// quietAfter polls without a movement a root is quiet: then a look is a single
// request, and looks become rarer.
const quietAfter = 10

// longestTurn is within what every root is asked everything once, whatever it
// costs; ten minutes are promised.
const longestTurn = 9 * time.Minute

// pace says when a root is looked at again: after a quarter of the time that
// it has been quiet, within limits that depend on how many there are.
func (w *Watcher) pace(s *slate) time.Duration {
	if s.missing() {
		return longestTurn // discovery, which lists, makes it sooner
	}
	most := longestTurn / time.Duration(s.turns())
	if few := w.quietest(); few < most {
		most = few
	}
	d := min(max(time.Since(s.movedAt)/4, w.o.Poll), max(most, w.o.Poll))
	return d - time.Duration(w.random(int64(d/10)))
}

// quietest is the longest interval that keeps the cost of looking at quiet
// roots within a tenth of the budget; a few roots may be asked often.
func (w *Watcher) quietest() time.Duration {
	w.mu.Lock()
	n := len(w.slates)
	w.mu.Unlock()
	return max(time.Duration(float64(n)*3600/(w.o.Budget/10)*float64(time.Second)), 3*w.o.Poll)
}

var noCheckpoints = []catalog.Checkpoint{}

// tell gives the report what the sighting says now. It keeps no copy to compare
// with: the report knows what it was told. The caller holds s.mu; Set does not
// block.
func (s *slate) tell() {
	if s.sight.Root == "" || s.stopped.Load() {
		return // nothing to say, or it is a successor's to say
	}
	s.sight.Slate = s.w.nameOf(s.root)
	if s.sight.Checkpoints == nil {
		s.sight.Checkpoints = noCheckpoints
	}
	out := s.sight
	s.w.to.Set(catalog.Fact{Kind: catalog.FactPlacement, Key: catalog.PlacementKey(s.root), Sighting: &out})
}

// vanished makes the sighting say that nothing is there any more, with what
// was last seen of it (P1).
func (s *slate) vanished(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sight.Root == "" {
		return
	}
	s.sight.Seen, s.sight.Reason = catalog.SeenMissing, why
	s.tell()
}

// cannotRead makes the sighting say that an object of it cannot be read.
// Nothing more may be known of it than that discovery saw it.
func (s *slate) cannotRead(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sight.Root == "" {
		s.sight.Root, s.sight.Kind, s.sight.KindFrom = s.root, kindOfLayout[s.layout()], "layout"
		s.sight.PositionDomain = domainOfLayout[s.layout()]
	}
	s.sight.Seen, s.sight.Reason = catalog.SeenUnreadable, err.Error()
	s.tell()
	s.afresh() // once it can be read it is live again, moved or not
}

// identify finds or makes the incarnation of what is there now. prove judges
// whether it descends from a record. When the verdict is another, the restore
// points of what was there are void.
func (s *slate) identify(ctx context.Context, now record, prove func(was record) (verdict, string, error)) (verdict, error) {
	now.Root = s.root
	s.mu.Lock()
	told := s.sight.Incarnation
	s.mu.Unlock()
	was, kept, err := s.recorded(ctx)
	if err != nil {
		return unknown, err
	}
	for {
		now.N, now.Predecessor = 1, ""
		if was.Incarnation != "" {
			v, why, err := prove(was)
			if err != nil || v == unknown {
				return unknown, err
			}
			if v == same {
				if told != "" && told != was.Incarnation {
					// Another agent was the first to record what is there now.
					s.withdrawPoints(voided)
					v = another
				}
				s.settle(was, kept, now)
				return v, nil
			}
			s.w.log.Warn("another database is at this root", "root", s.root, "was", was.Incarnation, "reason", why)
			now.N = was.N + 1
			if was.Incarnation != illegible {
				now.Predecessor = was.Incarnation
			}
		}
		if err := s.w.inherit(ctx, &now, s.began); err != nil {
			return unknown, err
		}
		minted, ok, err := s.w.mint(ctx, now)
		switch {
		case err == nil:
			s.withdrawPoints(voided)
			s.settle(minted, ok, now)
			return another, nil
		case errors.Is(err, fs.ErrExist):
			was, kept = minted, true // another agent's, or one we had forgotten
		default:
			return unknown, err
		}
	}
}

// recorded is the identity that is known, in memory or in the bucket.
func (s *slate) recorded(ctx context.Context) (record, bool, error) {
	s.mu.Lock()
	known, kept := s.identity, s.kept
	s.mu.Unlock()
	if known.Incarnation != "" {
		return record{Root: s.root, identity: known}, kept, nil
	}
	r, some := s.w.recall(s.root)
	if !some {
		return record{}, false, nil
	}
	rec, r, err := s.w.newestRecord(ctx, s.root, r)
	switch {
	case errors.Is(err, catalog.ErrInvalid):
		// Nothing can be proven against it; the next number is free.
		s.w.log.Warn("a record of an incarnation is unreadable", "err", err)
		return record{identity: identity{Incarnation: illegible, N: r.n}}, false, nil
	case err != nil && !bucketWide(err):
		s.w.log.Warn("a record of an incarnation cannot be read", "err", err)
		return record{}, false, nil
	case err == nil && rec.Incarnation == "":
		return record{}, false, nil
	}
	if err == nil && r.observation {
		s.mu.Lock()
		s.observed = observation{key: r.newest, mark: r.progress}
		s.mu.Unlock()
	}
	return rec, err == nil, err
}

// settle takes an identity over and advances it to now.
func (s *slate) settle(r record, kept bool, now record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.identity.Incarnation != r.Incarnation {
		s.observed.at, s.observed.mark = time.Now(), r.progress()
	}
	s.identity, s.kept = r.identity, kept
	s.identity.advance(now.identity)
	s.sight.Incarnation, s.sight.IncarnationKept, s.sight.Predecessor = r.Incarnation, kept, r.Predecessor
}

// advance moves a record along its history.
func (r *identity) advance(now identity) {
	r.mark, r.Layout, r.Cluster, r.Position = now.mark, now.Layout, now.Cluster, now.Position
}

// record writes an observation when the history has gone on for a while.
func (s *slate) record(ctx context.Context) error {
	s.mu.Lock()
	r, o, kept := record{Root: s.root, Kind: s.sight.Kind, identity: s.identity}, s.observed, s.kept
	s.mu.Unlock()
	due := time.Since(o.at) >= s.w.observeEvery() || s.w.ending.Load()
	if !kept || r.Incarnation == "" || r.progress() <= o.mark || !due {
		return nil
	}
	key, err := s.w.observe(ctx, r, o.key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.observed = observation{key: key, at: time.Now(), mark: r.progress()}
	s.mu.Unlock()
	return nil
}

// voided is why restore points are withdrawn when another database is at their
// root.
const voided = "void: incarnation changed"

// setPoints replaces the restore points that were told by these, which were
// read of the incarnation of. When another is there by now it does nothing:
// restore points of a database that is gone must never count for its successor.
func (s *slate) setPoints(of string, points map[string]catalog.RestorePoint, whyGone string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of == s.sight.Incarnation {
		s.replacePoints(points, whyGone)
	}
}

func (s *slate) withdrawPoints(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replacePoints(nil, why)
	s.replacePins(nil, why)
}

// replacePoints is for callers who hold mu.
func (s *slate) replacePoints(points map[string]catalog.RestorePoint, whyGone string) {
	if s.stopped.Load() || len(points) == 0 && len(s.points) == 0 {
		return
	}
	name := s.w.nameOf(s.root)
	for id, p := range points {
		p.Slate, p.Root, p.Incarnation, p.Lineage = name, s.root, s.sight.Incarnation, s.sight.Lineage
		points[id] = p
		if !reflect.DeepEqual(p, s.points[id]) {
			s.w.to.Set(catalog.Fact{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey(s.root, id), RestorePoint: &p})
		}
	}
	for id := range s.points {
		if _, still := points[id]; !still {
			s.w.to.Withdraw(catalog.FactRestorePoint, catalog.RestorePointKey(s.root, id), whyGone)
		}
	}
	s.points = points
}

// setFindings replaces the findings that were told by these.
func (s *slate) setFindings(found []catalog.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped.Load() || len(found) == 0 && len(s.findings) == 0 {
		return
	}
	now := make(map[string]catalog.Finding, len(found))
	for _, f := range found {
		f.Slate, f.Root = s.w.nameOf(s.root), s.root
		key := catalog.FindingKey(f.Code, f.Root, f.Object)
		now[key] = f
		if !reflect.DeepEqual(f, s.findings[key]) {
			s.w.to.Set(catalog.Fact{Kind: catalog.FactFinding, Key: key, Finding: &f})
		}
	}
	for key := range s.findings {
		if _, still := now[key]; !still {
			s.w.to.Withdraw(catalog.FactFinding, key, "no longer so")
		}
	}
	s.findings = now
}

// renamed tells everything again after a registration changed the name.
func (s *slate) renamed() {
	s.mu.Lock()
	s.tell()
	s.replacePoints(maps.Clone(s.points), "")
	s.replacePins(maps.Clone(s.pins), "")
	var found []catalog.Finding
	for _, f := range s.findings {
		found = append(found, f)
	}
	s.mu.Unlock()
	s.setFindings(found)
}

func ptr[T any](v T) *T { return &v }
