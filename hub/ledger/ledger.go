// Package ledger is what the hub must not forget, in the hub's own bucket:
// the region set, the event log and the saved view, as numbered documents
// that are created if absent and never overwritten. Old ones are deleted only
// after newer ones are durable.
//
//	hubs/<n>.json     which hub holds the store; the highest n rules
//	regions/<n>.json  versions of the region set; the highest n rules
//	events/<n>.jsonl  batches of the event log
//	view/<n>          saved views
//
// The newest hub that claims the store holds it. A hub that finds a higher
// claim than its own, or a number taken that it was about to write, gets
// [ErrTaken]: from then on it decides and writes nothing. So of two hubs on one
// store one goes on, and neither overwrites what the other wrote. A claim needs
// no heartbeat and outlives its hub, so a hub that was killed can be started
// again at once.
//
// What people and the hub decided is not here but in a slate, ledger/: see
// [Journal]. Its writer epoch is the term and fences an older hub; claims say
// which of two hubs that started at once may take it back.
//
// Begin with [Open].
package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/regions"
)

// Store is the hub's bucket. Calls may block until their context ends and may
// run at the same time. Get of a key that is not there wraps fs.ErrNotExist;
// PutNew of one that is there wraps fs.ErrExist, and when it returns nil the
// object is durable and whole. Delete of what is not there is no error, or wraps
// fs.ErrNotExist.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	// Walk calls each for the objects whose key begins with prefix and is
	// greater than after, in order.
	Walk(ctx context.Context, prefix, after string, each func(key string, size int64, modified time.Time) error) error
	PutNew(ctx context.Context, key string, data []byte) error
	Delete(ctx context.Context, key string) error
	// GetRange, Stat and Put are for the slate: see [slatedb.AdminStore].
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)
	Stat(ctx context.Context, key string) (size int64, modified time.Time, err error)
	Put(ctx context.Context, key string, data []byte) error
}

// ErrTaken says that another hub holds the store: this one has to end.
var ErrTaken = errors.New("another hub holds this store")

// ErrRegions says that the region set asked for is not the stored one, or
// cannot be read.
var ErrRegions = errors.New("region set")

// Config says how to open a ledger.
type Config struct {
	// Regions as named at start: they begin an empty store. Of a store that
	// has a set they must be the same, or none.
	Regions []string
	// Holder names this process in its claim: host and process id.
	Holder string
	// ID distinguishes this life of a hub from all others.
	ID  string
	Now time.Time
	// MaxEvents bounds the kept events; zero: as many as the view keeps.
	MaxEvents int
	Log       *slog.Logger
}

// Ledger is an open store. [Ledger.Append] and [Ledger.Check] belong to one
// goroutine; [Ledger.SaveView] may run beside them, one at a time.
type Ledger struct {
	store     Store
	log       *slog.Logger
	claim     claim
	maxEvents int

	nextEvents uint64
	batches    []batch
	kept       int

	nextView uint64
	views    []uint64 // numbers of saved views that exist
}

const (
	hubsFolder    = "hubs/"
	regionsFolder = "regions/"
	eventsFolder  = "events/"
	viewFolder    = "view/"
)

// Open claims the store and reads what is remembered. Anything damaged but
// the region set is passed over with a line in the log; without the region set
// nobody knows who must agree (P2), so then Open fails.
func Open(ctx context.Context, store Store, cfg Config) (*Ledger, state.Saved, error) {
	l := &Ledger{store: store, log: cfg.Log, maxEvents: cfg.MaxEvents}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.maxEvents <= 0 {
		l.maxEvents = view.DefaultMaxEvents
	}
	var saved state.Saved
	// What is wrong with the flags is said before anything is written.
	stored, err := l.readRegions(ctx)
	if err != nil {
		return nil, saved, err
	}
	set, err := chooseRegions(stored, cfg.Regions)
	if err != nil {
		return nil, saved, err
	}
	// The claim comes before reading: what the hub before still writes after
	// it collides with what this one writes.
	if err := l.takeOver(ctx, cfg); err != nil {
		return nil, saved, err
	}
	if stored, err = l.readRegions(ctx); err != nil {
		return nil, saved, err
	}
	if stored == nil {
		if err := l.put(ctx, regionsKey(set.Number), set.Encode()); err != nil {
			return nil, saved, fmt.Errorf("begin the region set: %w", err)
		}
		stored = &set
	}
	saved.Regions = *stored
	if saved.Events, err = l.readEvents(ctx); err != nil {
		return nil, saved, err
	}
	if saved.View, err = l.readView(ctx); err != nil {
		return nil, saved, err
	}
	return l, saved, nil
}

// Append makes a record durable. An error that is [ErrTaken] is final; after
// any other the same record may be appended again.
func (l *Ledger) Append(ctx context.Context, rec state.Object) error {
	switch rec := rec.(type) {
	case state.RegionsRecord:
		if err := rec.Set.Validate(); err != nil {
			return err
		}
		if err := l.put(ctx, regionsKey(rec.Set.Number), rec.Set.Encode()); err != nil {
			return fmt.Errorf("record version %d of the region set: %w", rec.Set.Number, err)
		}
		return nil
	case state.EventsRecord:
		return l.appendEvents(ctx, rec.Events)
	}
	return fmt.Errorf("record of type %T: %w", rec, errors.ErrUnsupported)
}

// put writes a numbered document; a number that is taken means another hub.
func (l *Ledger) put(ctx context.Context, key string, data []byte) error {
	err := l.store.PutNew(ctx, key, data)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	// A try that failed halfway may have written it after all.
	if there, err := l.store.Get(ctx, key); err == nil && bytes.Equal(there, data) {
		return nil
	}
	if err := l.Check(ctx); err != nil && !errors.Is(err, ErrEmptied) {
		return err
	}
	return fmt.Errorf("%s is taken: %w: it wrote there after this one had started; stop one of the two", key, ErrTaken)
}

// remove deletes a document; one that is not there is as it should be.
func (l *Ledger) remove(ctx context.Context, key string) error {
	if err := l.store.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func regionsKey(n uint64) string { return numbered(regionsFolder, n, ".json") }

// readRegions gives the newest region set; nil when there is none.
func (l *Ledger) readRegions(ctx context.Context) (*regions.Set, error) {
	all, err := l.numbers(ctx, regionsFolder, ".json")
	if err != nil {
		return nil, fmt.Errorf("%w: list %s: %w", ErrRegions, regionsFolder, err)
	}
	if len(all) == 0 {
		return nil, nil
	}
	n := all[len(all)-1]
	b, err := l.store.Get(ctx, regionsKey(n))
	if err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", ErrRegions, regionsKey(n), err)
	}
	set, err := regions.Decode(b)
	if err == nil && set.Number != n {
		err = fmt.Errorf("it calls itself number %d", set.Number)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot be used: %w; without it nobody knows which regions must agree: restore it, or delete it to go back to the version before",
			ErrRegions, regionsKey(n), err)
	}
	return &set, nil
}

// chooseRegions holds the names given at start against the stored set.
func chooseRegions(stored *regions.Set, names []string) (regions.Set, error) {
	given, err := regions.Parse(names)
	if stored == nil {
		if len(given.Regions) == 0 {
			return given, fmt.Errorf("%w: the store is empty: say which regions there are, as in --regions eu,us", ErrRegions)
		}
		if err != nil {
			return given, fmt.Errorf("%w: %w", ErrRegions, err)
		}
		given.Why = "begun with --regions"
		return given, nil
	}
	if len(given.Regions) == 0 {
		return *stored, nil
	}
	if err != nil {
		return given, fmt.Errorf("%w: %w", ErrRegions, err)
	}
	if !stored.Same(given) {
		return given, fmt.Errorf("%w: --regions says %s, the store says %s; the stored set rules, so that no region is dropped by a typo: start without --regions, or with the stored ones",
			ErrRegions, strings.Join(given.Names(), ","), strings.Join(stored.Names(), ","))
	}
	return *stored, nil
}

// numbers lists the numbers of a folder's documents, in order.
func (l *Ledger) numbers(ctx context.Context, folder, ending string) ([]uint64, error) {
	return l.numbersAfter(ctx, folder, ending, "")
}

func (l *Ledger) numbersAfter(ctx context.Context, folder, ending, after string) ([]uint64, error) {
	var out []uint64
	err := l.store.Walk(ctx, folder, after, func(key string, _ int64, _ time.Time) error {
		name, ok := strings.CutSuffix(strings.TrimPrefix(key, folder), ending)
		if n, err := strconv.ParseUint(name, 10, 64); ok && err == nil && numbered(folder, n, ending) == key {
			out = append(out, n)
		}
		return nil
	})
	return out, err
}

// numbered is the key of a numbered document. Keys sort as their numbers do.
func numbered(folder string, n uint64, ending string) string {
	return fmt.Sprintf("%s%020d%s", folder, n, ending)
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Errorf("ledger: %T: %w", v, err)) // our own rows: a broken promise of this process
	}
	return b
}
