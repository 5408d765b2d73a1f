package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// JournalRoot is where the ledger slate lies in the hub's store. Any SlateDB
// reader can follow it.
const JournalRoot = "ledger"

// JournalPrefix is what every key of the ledger slate begins with; the rest is
// the key of a [state.Record].
const JournalPrefix = "\x51\x02"

// Rows of the ledger slate that no record has.
const (
	ownRows   = "ledger/" // no record's key begins so
	idRow     = ownRows + "id"
	holderRow = ownRows + "holder"
	seenRow   = ownRows + "seen"
)

// auditRows are only read from the slate and never kept in memory: there are
// more of them every day.
const auditRows = "audit/"

var (
	// ErrNotDeciding is wrapped by every *[NotDecidingError].
	ErrNotDeciding = errors.New("not deciding")
	// ErrUnknown is wrapped when it is not known whether records are durable:
	// the store did not say. [Journal.Recover] finds out.
	ErrUnknown = errors.New("it is not known whether this was recorded")
)

// NotDecidingError says why a hub makes nothing durable in its ledger, and so
// decides nothing. It goes on answering questions.
type NotDecidingError struct {
	Term uint64 // of this hub
	// Fenced by another hub: the term that it has, who it is and since when;
	// zero values where the store does not say.
	By     uint64
	Holder string
	Since  time.Time
	// Seen is a term that an agent of Region was told of and that this ledger did
	// not give out: it was set back, from a backup for example. Zero: none.
	Seen   uint64
	Region string
	Err    error // what the store said; nil: nothing
}

func (e *NotDecidingError) Error() string {
	if e.Seen != 0 {
		return fmt.Sprintf("%v: an agent of %s obeyed a hub of term %d, and this ledger is at term %d and has not given that out: it was set back, from a backup perhaps; start the hub with the newest ledger",
			ErrNotDeciding, e.Region, e.Seen, e.Term)
	}
	if e.By == 0 && e.Holder == "" {
		return fmt.Sprintf("%v: the ledger cannot be written: %v; it is tried again", ErrNotDeciding, e.Err)
	}
	who, since := cmp.Or(e.Holder, "another hub"), ""
	if !e.Since.IsZero() {
		since = " since " + e.Since.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%v: %s holds the ledger%s with term %d, this hub's is %d; stop one of the two", ErrNotDeciding, who, since, e.By, e.Term)
}

// Unwrap returns [ErrNotDeciding], [ErrTaken] when another hub has the ledger,
// and what the store said.
func (e *NotDecidingError) Unwrap() []error {
	out := []error{ErrNotDeciding}
	if e.By != 0 || e.Holder != "" {
		out = append(out, ErrTaken)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// JournalConfig says how to open a journal. Its zero value works.
type JournalConfig struct {
	// Holder names this process to people; ID distinguishes this life of a hub
	// from all others.
	Holder, ID string
	// Now is the hub's clock; nil: time.Now.
	Now func() time.Time
	// Patience is how long a write is repeated for a store that does not answer;
	// 0: 4 s. The hub's loop waits as long.
	Patience time.Duration
	// MinAge is how old an object of the slate must be to be collected; 0: 15
	// minutes.
	MinAge time.Duration
	Log    *slog.Logger // nil: silent
}

// The bound of the slate: what lives in it are documents, decisions that are not
// settled for long, and the audit, which only grows, by a few hundred bytes with
// each act of a person or decision. Everything else, every version of a row that
// a newer one replaced, is collected: the tables are at most four thirds of what
// lives and eight times journalFlush (see [slatedb.Tidy]), and a start replays
// at most journalWAL objects.
const (
	journalFlush = 4 << 20 // bytes in memory before they become a table
	journalWAL   = 200     // WAL objects before they do
)

// Journal is the ledger slate: what people and the hub decided, durable. Its
// writer epoch is the term: who opens it fences the hub before.
//
// Append, Recover and Close belong to one goroutine; everything else anybody may
// call at any time.
type Journal struct {
	store slatedb.AdminStore
	cfg   JournalConfig
	log   *slog.Logger

	mu     sync.Mutex
	w      *slatedb.Writer
	id     string
	began  bool              // this life made the ledger
	kept   map[string][]byte // what is durable, but the audit
	audit  uint64            // the last number of the audit that is durable
	fenced *NotDecidingError
	broken error           // the writer has died, or may have written what we do not know of
	seen   seenTerm        // a term that this ledger did not give out
	issued map[string]bool // regions that were told of our term
}

// idOf, holderOf and seenTerm are the ledger's own rows.
type idOf struct {
	Version int       `json:"version"` // 1
	ID      string    `json:"id"`      // a UUID; agents obey no other
	Created time.Time `json:"created"`
}

type holderOf struct {
	Version int       `json:"version"` // 1
	Term    uint64    `json:"term"`
	ID      string    `json:"id"`
	Holder  string    `json:"holder"`
	Since   time.Time `json:"since"`
}

type seenTerm struct {
	Version int    `json:"version"` // 1
	Term    uint64 `json:"term"`
	Region  string `json:"region"`
}

// OpenJournal claims the ledger slate in the hub's store, and makes it where
// there is none: from then on the hub that had it writes nothing. It starts
// goroutines, which Close ends.
func OpenJournal(ctx context.Context, store slatedb.AdminStore, cfg JournalConfig) (*Journal, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Patience = cmp.Or(cfg.Patience, 4*time.Second)
	j := &Journal{store: store, cfg: cfg, log: cfg.Log, kept: map[string][]byte{}, issued: map[string]bool{}}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	if _, err := j.claim(ctx); err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	return j, nil
}

// claim opens the slate as its writer, says who has it, and takes what is in it
// for what is durable. It returns what that changes against before.
func (j *Journal) claim(ctx context.Context) ([]state.Record, error) {
	w, err := slatedb.Open(ctx, j.store, JournalRoot, slatedb.Options{
		FlushBytes: journalFlush, FlushWAL: journalWAL, Patience: j.cfg.Patience, Now: j.cfg.Now, Tidy: &slatedb.Tidy{MinAge: j.cfg.MinAge},
	})
	if err != nil {
		return nil, err
	}
	changed, err := j.adopt(ctx, w)
	if err != nil {
		w.Abandon()
		return nil, err
	}
	return changed, nil
}

func (j *Journal) adopt(ctx context.Context, w *slatedb.Writer) ([]state.Record, error) {
	kept, own := map[string][]byte{}, map[string][]byte{}
	var audits []state.Record
	var last uint64
	for e, err := range w.ScanPrefix(ctx, []byte(JournalPrefix)) {
		if err != nil {
			return nil, err
		}
		key := string(e.Key[len(JournalPrefix):])
		switch {
		case strings.HasPrefix(key, ownRows):
			own[key] = slices.Clone(e.Value)
		case strings.HasPrefix(key, auditRows):
			// What is no entry is for `quarry audit --verify` to say.
			n, err := state.AuditNumber(key)
			if err != nil {
				continue
			}
			if last = n; n > j.audit {
				audits = append(audits, state.Record{Key: key, Value: slices.Clone(e.Value)})
			}
		default:
			kept[key] = slices.Clone(e.Value)
		}
	}
	var id idOf
	var seen seenTerm
	switch raw, there := own[idRow]; {
	case there:
		if err := json.Unmarshal(raw, &id); err != nil || id.ID == "" {
			return nil, fmt.Errorf("row %s cannot be read, so nobody knows which ledger this is: %w", idRow, cmp.Or(err, errDamaged))
		}
	case len(kept) > 0 || last > 0:
		return nil, fmt.Errorf("row %s is not there, so nobody knows which ledger this is: %w", idRow, errDamaged)
	}
	if raw, there := own[seenRow]; there {
		if err := json.Unmarshal(raw, &seen); err != nil {
			return nil, fmt.Errorf("row %s: %w", seenRow, err)
		}
	}
	now := j.cfg.Now().UTC()
	var b slatedb.Batch
	began := id.ID == ""
	if began {
		id = idOf{1, cmp.Or(j.id, uuid.NewString()), now}
		put(&b, idRow, marshal(id))
	}
	put(&b, holderRow, marshal(holderOf{1, w.Epoch(), j.cfg.ID, j.cfg.Holder, now}))
	if _, err := w.Write(ctx, &b); err != nil {
		return nil, err
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	var changed []state.Record
	for _, key := range slices.Sorted(maps.Keys(kept)) {
		if was, there := j.kept[key]; !there || string(was) != string(kept[key]) {
			changed = append(changed, state.Record{Key: key, Value: kept[key]})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(j.kept)) {
		if _, still := kept[key]; !still {
			changed = append(changed, state.Record{Key: key})
		}
	}
	changed = append(changed, audits...)
	j.w, j.id, j.began, j.kept, j.audit, j.seen = w, id.ID, began, kept, last, seen
	j.fenced, j.broken = nil, nil
	clear(j.issued)
	return changed, nil
}

func put(b *slatedb.Batch, key string, value []byte) {
	k := []byte(JournalPrefix + key)
	if value == nil {
		b.Delete(k)
	} else {
		b.Put(k, value)
	}
}

// ID is the ledger's UUID. It stays when the hub is another.
func (j *Journal) ID() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.id
}

// Term is the number of this hub's right to decide: the slate's writer epoch.
// It grows with every claim, also with that of [Journal.Recover].
func (j *Journal) Term() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.w.Epoch()
}

// Began reports whether this life made the ledger: an older store has to be
// imported into it.
func (j *Journal) Began() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.began
}

// Append makes the records durable, all of them or none, and returns when they
// are. An error that wraps [ErrNotDeciding] stays until [Journal.Recover] has
// worked; after one that wraps [ErrUnknown] Recover must be called, for the
// records may be durable. After any other nothing was written.
func (j *Journal) Append(ctx context.Context, records []state.Record) error {
	if len(records) == 0 {
		return nil
	}
	var b slatedb.Batch
	for _, r := range records {
		if strings.HasPrefix(r.Key, ownRows) || r.Key == "" {
			return fmt.Errorf("record %q: the ledger's own rows are not for records: %w", r.Key, errors.ErrUnsupported)
		}
		put(&b, r.Key, r.Value)
	}
	if err := j.write(ctx, &b); err != nil {
		return fmt.Errorf("record %s in the ledger: %w", records[0].Key, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range records {
		switch n, err := state.AuditNumber(r.Key); {
		case err == nil:
			j.audit = max(j.audit, n)
		case r.Value == nil:
			delete(j.kept, r.Key)
		default:
			j.kept[r.Key] = r.Value
		}
	}
	return nil
}

// write writes a batch, and finds out what it means when that does not work.
func (j *Journal) write(ctx context.Context, b *slatedb.Batch) error {
	if err := j.Deciding(); err != nil {
		return err
	}
	j.mu.Lock()
	w := j.w
	j.mu.Unlock()
	_, err := w.Write(ctx, b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, slatedb.ErrFenced):
		return j.Depose(ctx, err)
	case errors.Is(err, slatedb.ErrUncertain):
		j.mu.Lock()
		defer j.mu.Unlock()
		j.broken = err
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

// Deciding says why nothing can be made durable now, as a *[NotDecidingError];
// nil: something can.
func (j *Journal) Deciding() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.broken
	if err == nil {
		err = j.w.Status().Err
	}
	switch {
	case j.fenced != nil:
		return j.fenced
	case j.seen.Term != 0:
		return &NotDecidingError{Term: j.w.Epoch(), Seen: j.seen.Term, Region: j.seen.Region}
	case err != nil && errors.Is(err, slatedb.ErrFenced):
		fenced := &NotDecidingError{Term: j.w.Epoch(), Holder: "another hub", Err: err}
		if f, ok := errors.AsType[*slatedb.FencedError](err); ok {
			fenced.By, fenced.Since = f.By, f.At
		}
		return fenced
	case err != nil:
		return &NotDecidingError{Term: j.w.Epoch(), Err: err}
	}
	return nil
}

// Look finds out who has the ledger when it is no longer ours, and keeps that;
// nil when it is. It reads the store only then.
func (j *Journal) Look(ctx context.Context) error {
	err := j.Deciding()
	if !errors.Is(err, slatedb.ErrFenced) {
		return err
	}
	j.mu.Lock()
	known := j.fenced != nil
	j.mu.Unlock()
	if known {
		return err
	}
	return j.Depose(ctx, err)
}

// Depose remembers that another hub has the ledger, finds out who, and returns
// that as a *[NotDecidingError].
func (j *Journal) Depose(ctx context.Context, err error) error {
	fenced := &NotDecidingError{Term: j.Term(), Holder: "another hub", Err: err}
	if f, ok := errors.AsType[*slatedb.FencedError](err); ok {
		fenced.By, fenced.Since = f.By, f.At
	}
	if h, rerr := j.holder(ctx); rerr == nil && h.ID != j.cfg.ID && h.Term > fenced.Term {
		fenced.By, fenced.Holder, fenced.Since = h.Term, h.Holder, h.Since
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fenced = fenced
	return fenced
}

// holder reads from the slate as it is now who has it.
func (j *Journal) holder(ctx context.Context) (h holderOf, err error) {
	r, err := slatedb.OpenReader(ctx, j.store, JournalRoot, slatedb.ReaderOptions{})
	if err != nil {
		return h, err
	}
	e, err := r.Get(ctx, []byte(JournalPrefix+holderRow))
	if err != nil {
		return h, err
	}
	return h, json.Unmarshal(e.Value, &h)
}

// Recover claims the ledger again after [Journal.Deciding] has said that it
// cannot be written, and returns what is durable against what was known to be:
// it has to be replayed, in order. A write whose answer was lost may be among
// it. It takes the ledger from whoever has it: the caller knows that nobody has
// a newer claim to the store.
func (j *Journal) Recover(ctx context.Context) ([]state.Record, error) {
	j.mu.Lock()
	w := j.w
	j.mu.Unlock()
	w.Abandon()
	changed, err := j.claim(ctx)
	if err != nil {
		return nil, fmt.Errorf("claim the ledger again: %w", err)
	}
	return changed, nil
}

// Replay gives every record that is durable, in the order of their keys.
func (j *Journal) Replay(ctx context.Context) iter.Seq2[state.Record, error] {
	return j.scan(ctx, "", "\xff")
}

// scan gives the records from a key on and below another.
func (j *Journal) scan(ctx context.Context, from, to string) iter.Seq2[state.Record, error] {
	return func(yield func(state.Record, error) bool) {
		j.mu.Lock()
		r := j.w.Snapshot()
		j.mu.Unlock()
		for e, err := range r.Scan(ctx, []byte(JournalPrefix+from), []byte(JournalPrefix+to)) {
			if err != nil {
				yield(state.Record{}, fmt.Errorf("read the ledger: %w", err))
				return
			}
			key := string(e.Key[len(JournalPrefix):])
			if strings.HasPrefix(key, ownRows) {
				continue
			}
			if !yield(state.Record{Key: key, Value: slices.Clone(e.Value)}, nil) {
				return
			}
		}
	}
}

// Audit gives the records of the audit after a number, in order.
func (j *Journal) Audit(ctx context.Context, after uint64) iter.Seq2[state.Record, error] {
	return j.scan(ctx, state.AuditKey(after)+"\x00", auditRows+"\xff")
}

// Break has [Journal.Deciding] say why what is in the ledger cannot be used,
// until Recover.
func (j *Journal) Break(why error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = why
}

// Told says that a region was told of this hub's term.
func (j *Journal) Told(region string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.issued[region] = true
}

// SawTerm is what an agent of a region says is the highest term that it was
// told of. A ledger at or below a term that it did not give out was set back:
// what the hub of that term decided is not in it. From then on this hub, and
// every later one with this ledger, decides nothing; the error says so and
// wraps [ErrNotDeciding].
func (j *Journal) SawTerm(ctx context.Context, region string, n uint64) error {
	j.mu.Lock()
	term := j.w.Epoch()
	foreign := n > term || n == term && !j.issued[region]
	if j.fenced != nil && foreign {
		foreign = false // it is of the hub that has the ledger now
	}
	known := j.seen.Term >= n
	if foreign && !known {
		j.seen = seenTerm{1, n, region}
	}
	seen, w := j.seen, j.w
	j.mu.Unlock()
	if !foreign {
		return nil
	}
	if !known {
		var b slatedb.Batch
		put(&b, seenRow, marshal(seen))
		if _, err := w.Write(ctx, &b); err != nil {
			// It is in memory all the same, and the agent will say so again.
			j.log.Error("that this ledger was set back could not be recorded in it", "error", err)
		}
	}
	return j.Deciding()
}

// Close ends the journal. What was appended is durable whatever it returns.
func (j *Journal) Close(ctx context.Context) error {
	j.mu.Lock()
	w, fenced := j.w, j.fenced != nil || j.broken != nil || j.w.Status().Err != nil
	j.mu.Unlock()
	if fenced {
		w.Abandon()
		return nil
	}
	if err := w.Close(ctx); err != nil && !errors.Is(err, slatedb.ErrClosed) {
		w.Abandon()
		if !errors.Is(err, slatedb.ErrFenced) {
			return fmt.Errorf("close the ledger: %w", err)
		}
	}
	return nil
}
