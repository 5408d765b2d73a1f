// Package watch turns one region's bucket into sightings: it finds the slates,
// follows each with as few requests as it can, proves that what is at a root
// is still what was there, and reads what owners declare. It writes only
// Quarry's own objects (region.json, records of incarnations) and judges
// nothing: what it cannot see it says, and what is gone is missing, never
// deleted (P1, P12).
//
// Begin with [New] and [Watcher.Run]; then discover.go, slate.go and
// database.go, in the order in which a slate comes to be known.
package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// Reporter takes what is seen. Its methods may be called by many goroutines at
// once, do not block, and keep nothing that they are given but the values.
type Reporter interface {
	// Set gives the newest value of a fact. It may be the one that it has.
	Set(catalog.Fact)
	// Withdraw says that a fact no longer holds. Placements never are.
	Withdraw(kind catalog.FactKind, key, why string)
	// SetHealth says how looking goes.
	SetHealth(Health)
	// Ready says that everything was looked at once.
	Ready()
	// Wanted returns when this process is to look: at once, or when the
	// process that looks for this region has gone; or when ctx is over.
	Wanted(ctx context.Context)
	// HubBucket is the bucket that the hub knows for this region, "" when
	// none; known is false until a hub has said. changed is closed at the
	// next change.
	HubBucket() (id string, known bool, changed <-chan struct{})
}

// Health is how looking goes.
type Health struct {
	ReadOK     bool   `json:"read_ok"`     // the bucket can be read
	Reason     string `json:"reason"`      // why not; with ReadOK: why looks are late
	CannotKeep string `json:"cannot_keep"` // what cannot be recorded for lack of rights
	BucketID   string `json:"bucket_id"`   // incarnation in region.json
	BucketWhy  string `json:"bucket_why"`  // why BucketID is empty
	// Spend is the requests of the last hour, since the start when that is
	// shorter, by class: get, head, list, put, delete.
	Spend  map[string]float64 `json:"requests_per_hour"`
	Budget float64            `json:"budget"` // requests per hour allowed
}

// The defaults of [Options].
const (
	DefaultPoll   = time.Second
	DefaultBudget = 360_000 // requests per hour, 100 per second
)

// Options say what to watch. Region is needed.
type Options struct {
	Region string
	// Discover are the folders below which slates are looked for; "" is the
	// whole bucket. None: only what is registered is followed.
	Discover []string
	// Exclude are globs of folders that are not looked into: one without a
	// slash is compared with a folder's name, one with a slash with its key.
	Exclude []string
	Poll    time.Duration // of what moves; 0: DefaultPoll
	Budget  float64       // requests per hour; 0: DefaultBudget
	// InUse are the SlateDB releases that are known to open the databases of this
	// bucket, as [slatedb.CheckRelease] takes them; none: not known.
	InUse []string
	Log   *slog.Logger // nil: slog.Default()
	// Declared is called when something lies in the inbox; it must not block.
	// nil: nobody folds it into the catalog in this process.
	Declared func()
	// Keeping reports whether this process writes the catalog slate itself:
	// then [Watcher.TakeCatalog] says what is declared in it, and it is not
	// read. It must not block. nil: it does not.
	Keeping func() bool
}

// Validate checks the options and fills in defaults.
func (o *Options) Validate() error {
	if o.Region == "" {
		return errors.New("region is empty; name the region whose bucket this is, for example eu-west")
	}
	if o.Poll == 0 {
		o.Poll = DefaultPoll
	}
	if o.Poll < 10*time.Millisecond || o.Poll > time.Minute {
		return fmt.Errorf("poll %v: between 10ms and 1m, for example 1s", o.Poll)
	}
	if o.Budget == 0 {
		o.Budget = DefaultBudget
	}
	if !(o.Budget >= 60) {
		return fmt.Errorf("budget %v: at least 60 requests per hour, for example %d", o.Budget, DefaultBudget)
	}
	for _, d := range o.Discover {
		if p := strings.Trim(d, "/"); p != "" {
			if err := catalog.CheckName(p); err != nil {
				return fmt.Errorf("discover %q: %w; give a folder such as dbs, or \"\" for the whole bucket", d, err)
			}
		}
	}
	for _, g := range o.Exclude {
		if _, err := path.Match(g, ""); err != nil || g == "" {
			return fmt.Errorf("exclude %q is not a glob; for example tmp or dbs/test-*", g)
		}
	}
	for _, release := range o.InUse {
		if err := slatedb.CheckRelease(release); err != nil {
			return fmt.Errorf("in-use: %w", err)
		}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return nil
}

// Watcher watches one bucket.
type Watcher struct {
	b   *bucket.Bucket
	to  Reporter
	o   Options
	log *slog.Logger

	purse      *purse
	senses     *senses
	look, tend eyes
	looks      *queue // slates, the inbox, discovery
	tending    *queue // upkeep of slates
	discovery  *task
	inboxLook  *task
	regionLook *task
	ending     atomic.Bool // the process ends: write down what was seen
	behind     atomic.Bool
	inboxAgain atomic.Bool
	leasesRead atomic.Bool
	spend      spending
	onDuty     atomic.Bool // it looks; else it stands by
	hints      *ration
	strange    unfollowed
	telling    sync.Mutex

	pending      sync.Mutex // guards what follows
	fromCatalog  map[string]catalog.Registration
	badInCatalog []catalog.Finding

	// Each belongs to its task.
	discoverEvery     time.Duration
	inbox, leases     drops
	inboxFindings     findings
	leaseFindings     findings
	declaredFindings  findings
	toldRegistrations map[string]catalog.Registration
	permits           map[string]uint64 // the number that was told, by slate
	copies            copies
	catalog           fold       // under catalogMu
	catalogMu         sync.Mutex // held while the catalog is read and taken over

	mu         sync.Mutex
	region     descriptor
	foreign    string // the bucket says it is another region's
	slates     map[string]*slate
	children   map[string]map[string]*slate // by parent folder
	names      map[string]catalog.Registration
	roots      map[string]string // of those names
	records    map[string]remembered
	notBuffers map[string]bucket.Object
	discovered bool
	unlooked   int // slates of which not everything was told once
	told       bool
}

// New makes a watcher of b that reports to to. It starts nothing.
func New(b *bucket.Bucket, to Reporter, o Options) (*Watcher, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	w := &Watcher{
		b: b, to: to, o: o, log: o.Log.With("region", o.Region),
		looks: newQueue(), tending: newQueue(),
		slates: map[string]*slate{}, children: map[string]map[string]*slate{}, notBuffers: map[string]bucket.Object{},
		toldRegistrations: map[string]catalog.Registration{},
		permits:           map[string]uint64{},
		copies:            copies{turn: make(chan struct{}, 1)},
		inbox:             drops{prefix: catalog.InboxPrefix, code: "registration-unreadable"},
		leases:            drops{prefix: catalog.LeasesPrefix, code: "lease-unreadable"},
	}
	w.regionLook = &task{do: w.regionTask}
	w.discovery = &task{do: w.discoverTask}
	w.inboxLook = &task{do: w.inboxTask}
	w.strange.look = &task{do: w.strangersTask}
	w.hints = newRation(o.Budget)
	w.senses = &senses{patience: 3 * o.Poll, changed: w.tellHealth}
	w.purse = newPurse(o.Budget, time.Now())
	w.look = eyes{b: b, purse: w.purse, lane: looking, senses: w.senses}
	w.tend = eyes{b: b, purse: w.purse, lane: upkeep, senses: w.senses}
	return w, nil
}

const (
	lookers  = 8 // workers that look
	tenders  = 3 // workers for upkeep
	farewell = 3 * time.Second
)

// Run watches until ctx is over and returns nil then. It returns an error that
// wraps [ErrAnotherRegion] when the bucket is another region's at the start.
func (w *Watcher) Run(ctx context.Context) error {
	w.spend.begin(w.b.Requests(), time.Now())
	w.tellHealth()
	if err := w.start(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	w.looks.put(w.regionLook, w.o.Poll)
	w.looks.put(&task{do: w.healthTask}, w.o.Poll)

	var wg sync.WaitGroup
	wg.Go(func() { w.looks.run(ctx, lookers) })
	wg.Go(func() { w.heedHub(ctx) })
	wg.Go(func() {
		// Until then only the region's descriptor is read: a process that
		// stands by must cost the bucket, and the machine, next to nothing.
		if w.to.Wanted(ctx); ctx.Err() != nil {
			return
		}
		if err := w.recollect(ctx); err != nil || ctx.Err() != nil {
			return
		}
		w.looks.put(w.inboxLook, w.o.Poll)
		w.looks.put(w.discovery, 0)
		w.looks.put(w.strange.look, 0)
		w.onDuty.Store(true)
		w.looks.put(&task{do: w.leasesTask}, w.o.Poll)
		w.looks.put(&task{do: w.permitsTask}, w.o.Poll)
		w.looks.put(&task{do: w.catalogTask}, catalogEvery*w.o.Poll)
		w.tending.run(ctx, tenders)
	})
	wg.Wait()
	w.leave()
	return nil
}

// start finds out whose bucket this is.
func (w *Watcher) start(ctx context.Context) error {
	return w.stubbornly(ctx, w.lookAtRegion)
}

// recollect does what must be known before any slate is told: which
// incarnations were recorded, and what the slates are called.
func (w *Watcher) recollect(ctx context.Context) error {
	return w.stubbornly(ctx,
		func(ctx context.Context) error {
			records, err := w.remember(ctx)
			w.mu.Lock()
			w.records = records
			w.mu.Unlock()
			return err
		},
		func(ctx context.Context) error {
			// The inbox first: what is folded in meanwhile is in the
			// catalog then.
			if _, err := w.scanInbox(ctx); err != nil {
				return err
			}
			w.catalogTask(ctx) // one that cannot be read is told and tried again
			w.takeRegistrations()
			return nil
		},
		w.readLeases,
	)
}

// stubbornly does steps one after the other; while the bucket cannot be read it
// tries again.
func (w *Watcher) stubbornly(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		for wait := w.o.Poll; ; wait = min(2*wait, 10*w.o.Poll) {
			err := step(ctx)
			if err == nil {
				break
			}
			if errors.Is(err, ErrAnotherRegion) {
				return err
			}
			if !bucketWide(err) && !errors.Is(err, catalog.ErrInvalid) {
				// Quarry's own folder may not be read: the rest may.
				w.log.Warn("starting without what cannot be read", "err", err)
				break
			}
			w.tellHealth()
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
		}
	}
	w.tellHealth()
	return nil
}

// leave writes down how far the histories have come, so that the next process
// compares with now and not with an hour ago.
func (w *Watcher) leave() {
	w.ending.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	work := make(chan *slate)
	var wg sync.WaitGroup
	for range lookers {
		wg.Go(func() {
			for s := range work {
				if ctx.Err() == nil {
					if err := s.record(ctx); err != nil {
						w.log.Debug("not recorded at the end", "slate", s.root, "err", err)
					}
				}
			}
		})
	}
	for _, s := range w.all() {
		work <- s
	}
	close(work)
	wg.Wait()
}

// heedHub looks at the region's descriptor again when the hub has said
// something about it.
func (w *Watcher) heedHub(ctx context.Context) {
	for {
		_, _, changed := w.to.HubBucket()
		select {
		case <-changed:
			w.looks.hurry(w.regionLook)
		case <-ctx.Done():
			return
		}
	}
}

// follow begins to follow a root and reports whether it was not followed
// before. A missing one that is there again is looked at at once.
func (w *Watcher) follow(root string, l layout) bool {
	s := &slate{w: w, root: root, began: time.Now()}
	w.mu.Lock()
	for old := w.slates[root]; old != nil; old = w.slates[root] {
		w.mu.Unlock()
		if old.layout() == l {
			if old.missing() {
				w.looks.hurry(old.lookTask)
			}
			return false
		}
		w.forget(old)
		// What was told of the root is the successor's to take back.
		old.mu.Lock()
		s.sight.Incarnation, s.points, s.pins, s.findings = old.sight.Incarnation, old.points, old.pins, old.findings
		old.points, old.findings = nil, nil
		old.mu.Unlock()
		w.mu.Lock()
	}
	if w.discovered {
		s.movedAt = time.Now() // it is new: more may come
	}
	switch l {
	case layoutPartition:
		s.follower = &partition{slate: s}
	case layoutBuffer:
		s.follower = &buffer{slate: s}
	default:
		s.follower = &database{slate: s}
	}
	s.lookTask, s.upkeepTask = &task{do: s.doLook}, &task{do: s.doUpkeep}
	w.slates[root] = s
	parent := parentOf(root)
	if w.children[parent] == nil {
		w.children[parent] = map[string]*slate{}
	}
	w.children[parent][root] = s
	w.unlooked++
	w.mu.Unlock()
	w.looks.put(s.lookTask, 0)
	return true
}

func parentOf(root string) string {
	return root[:strings.LastIndexByte(root, '/')+1]
}

// forget stops following without a word: something of another layout is there
// now, or nothing ever was.
func (w *Watcher) forget(s *slate) {
	s.stopped.Store(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slates[s.root] == s {
		delete(w.slates, s.root)
		delete(w.children[parentOf(s.root)], s.root)
	}
}

// drop forgets a root at which there turned out to be nothing.
func (w *Watcher) drop(s *slate) {
	w.forget(s)
	w.lookedAt(s)
}

// lookedAt notes that a slate's first look has come to an end; from then on it
// is kept up.
func (w *Watcher) lookedAt(s *slate) {
	s.mu.Lock()
	first := !s.looked
	s.looked = true
	s.mu.Unlock()
	if !first {
		return
	}
	if s.stopped.Load() {
		w.tendedTo(s)
		return
	}
	w.tending.put(s.upkeepTask, 0)
}

// tendedTo notes that a slate's restore points were told for the first time.
func (w *Watcher) tendedTo(s *slate) {
	s.mu.Lock()
	first := !s.tended
	s.tended = true
	s.mu.Unlock()
	if !first {
		return
	}
	w.mu.Lock()
	w.unlooked--
	w.mu.Unlock()
	w.ready()
}

// ready tells once that everything was looked at.
func (w *Watcher) ready() {
	w.mu.Lock()
	now := w.discovered && w.unlooked == 0 && !w.told
	w.told = w.told || now
	n := len(w.slates)
	w.mu.Unlock()
	if now {
		w.log.Info("first look is complete", "slates", n)
		w.to.Ready()
	}
}

func (w *Watcher) followed(root string) *slate {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slates[root]
}

func (w *Watcher) all() []*slate {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*slate, 0, len(w.slates))
	for _, s := range w.slates {
		list = append(list, s)
	}
	return list
}

func (w *Watcher) recall(root string) (remembered, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.records[root]
	return r, ok
}

func (w *Watcher) recollections() map[string]remembered {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.records)
}

func (w *Watcher) registered() map[string]catalog.Registration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.names)
}

func (w *Watcher) setDeclaredFindings(found []catalog.Finding) { w.declaredFindings.set(w.to, found) }

// mayBeBuffer is false for an object called manifest that was read and is none
// of a buffer's.
func (w *Watcher) mayBeBuffer(o bucket.Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was, ok := w.notBuffers[o.Key]
	return !ok || was.Size != o.Size || !was.Modified.Equal(o.Modified)
}

func (w *Watcher) notBuffer(o bucket.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notBuffers[o.Key] = o
}

// observeEvery is how often a history that goes on is written down: so that
// all together are about a thousand writes an hour.
func (w *Watcher) observeEvery() time.Duration {
	w.mu.Lock()
	n := len(w.slates)
	w.mu.Unlock()
	return min(max(time.Duration(n)*3600*time.Millisecond, time.Minute), time.Hour)
}

func (w *Watcher) random(n int64) int64 {
	if n <= 0 {
		return 0
	}
	return rand.Int64N(n)
}
