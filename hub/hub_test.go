package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/hub"
	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// memory is a store in a map that can be told to refuse writes.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	broken  bool
	hangs   bool // writes do not come back before their context ends
	mute    bool // what is written stays, and the answer is an error all the same
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.objects[key]; ok {
		return bytes.Clone(b), nil
	}
	return nil, fmt.Errorf("get %s: %w", key, fs.ErrNotExist)
}

func (m *memory) Walk(_ context.Context, prefix, after string, each func(string, int64, time.Time) error) error {
	m.mu.Lock()
	keys := slices.Sorted(maps.Keys(m.objects))
	m.mu.Unlock()
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) && k > after {
			if err := each(k, 0, time.Time{}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) PutNew(ctx context.Context, key string, data []byte) error {
	m.mu.Lock()
	if m.hangs {
		m.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("503 from the store")
	}
	if _, ok := m.objects[key]; ok {
		return fmt.Errorf("put %s: %w", key, fs.ErrExist)
	}
	m.objects[key] = bytes.Clone(data)
	if m.mute {
		return errors.New("no answer from the store")
	}
	return nil
}

func (m *memory) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := m.Get(ctx, key)
	off = min(off, int64(len(b)))
	return b[off:min(off+n, int64(len(b)))], err
}

func (m *memory) Stat(_ context.Context, key string) (int64, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.objects[key]; ok {
		return int64(len(b)), time.Time{}, nil
	}
	return 0, time.Time{}, fmt.Errorf("stat %s: %w", key, fs.ErrNotExist)
}

func (m *memory) Put(_ context.Context, key string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("503 from the store")
	}
	m.objects[key] = bytes.Clone(data)
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; !ok {
		return fmt.Errorf("delete %s: %w", key, fs.ErrNotExist) // as a folder says
	}
	delete(m.objects, key)
	return nil
}

func (m *memory) breakDown(b bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = b
}

func (m *memory) count(prefix string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.objects {
		if strings.HasPrefix(k, prefix) {
			n++
		}
	}
	return n
}

// house is a hub that runs, and what it posted.
type house struct {
	*hub.Hub
	mu     sync.Mutex
	posted []string
	ended  chan error
	stop   context.CancelFunc
}

func (h *house) said() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.posted)
}

func start(t *testing.T, m *memory, holder string) *house {
	t.Helper()
	return startWith(t, m, holder, state.Config{})
}

func startWith(t *testing.T, m *memory, holder string, cfg state.Config) *house {
	t.Helper()
	w := &house{ended: make(chan error, 1)}
	h, err := hub.New(t.Context(), hub.Config{
		Regions: []string{"eu", "us"}, Store: m, Holder: holder, ID: holder, Log: slog.New(slog.DiscardHandler), State: cfg,
		Post: func(to state.SessionID, msg state.Message) {
			w.mu.Lock()
			defer w.mu.Unlock()
			// What an agent is told is durable (P8).
			if x, ok := msg.(state.Welcome); ok && x.BucketID != "" && m.count("regions/") < 2 {
				t.Errorf("session %d was told of a bucket that is not recorded", to)
			}
			w.posted = append(w.posted, fmt.Sprintf("%d %T", to, msg))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.Hub, w.stop = h, cancel
	go func() { w.ended <- h.Run(ctx) }()
	return w
}

func (h *house) deliver(t *testing.T, events ...state.Event) {
	t.Helper()
	for _, e := range events {
		if err := h.Deliver(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

func fact(root string, n uint64) catalog.Fact {
	return catalog.Fact{Kind: catalog.FactPlacement, Key: root, Revision: catalog.Revision{Start: 1, Counter: n},
		Sighting: &catalog.Sighting{Slate: root, Root: root, Seen: catalog.SeenLive, ManifestID: &n, WriterEpoch: &n}}
}

func rev(n uint64) catalog.Revision { return catalog.Revision{Start: 1, Counter: n} }

var arrival = []state.Event{
	state.Hello{Session: 1, Region: "eu", Cluster: "a", Agent: "x", Start: 1, Generation: 1, BucketID: "B"},
	state.Beat{Session: 1, BucketID: "B", ReadOK: true},
	state.Snapshot{Session: 1, Facts: []catalog.Fact{fact("orders", 1)}, Upto: rev(1)},
}

func TestARegionThatFallsSilentAndAHubThatIsRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := start(t, m, "first")
		h.deliver(t, arrival...)
		if p := h.View().Placement("eu", "orders"); p == nil || p.State != catalog.StateLive {
			t.Fatalf("orders: %+v", p)
		}
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if got := h.View().Region("eu").State; got != catalog.RegionSuspect {
			t.Errorf("after 50 s of silence: %s", got)
		}
		seq := h.View().Seq()
		waited := make(chan error, 1)
		go func() { waited <- h.Wait(t.Context(), seq) }()
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if p := h.View().Placement("eu", "orders"); p.State != catalog.StateStale {
			t.Errorf("after 62 s orders is %s", p.State)
		}
		select {
		case err := <-waited:
			if err != nil || h.View().Seq() <= seq {
				t.Errorf("Wait: %v, seq %d after %d", err, h.View().Seq(), seq)
			}
		default:
			t.Error("Wait did not wake up")
		}
		if un := h.View().Unreachable(); !slices.Equal(un, []string{"eu", "us"}) {
			t.Errorf("unreachable: %v", un)
		}
		seq = h.View().Seq()
		h.stop()
		if err := <-h.ended; err != nil {
			t.Fatalf("a clean end: %v", err)
		}
		if err := h.Deliver(t.Context(), state.Tick{}); !errors.Is(err, hub.ErrStopped) {
			t.Errorf("a stopped hub: %v", err)
		}

		next := start(t, m, "second")
		if p := next.View().Placement("eu", "orders"); p == nil || p.State != catalog.StateStale || *p.ManifestID != 1 {
			t.Errorf("a restarted hub shows yesterday's row: %+v", p)
		}
		if next.View().Seq() <= seq {
			t.Errorf("Seq went from %d to %d", seq, next.View().Seq())
		}
		events, oldest := next.View().Events(0, 0)
		if oldest != 1 || len(events) != 4 { // connected, appeared, eu stale, us stale
			t.Errorf("events from %d: %+v", oldest, events)
		}
		next.stop()
		if err := <-next.ended; err != nil {
			t.Fatal(err)
		}
	})
}

func TestPeoplesCommandsAreAnsweredByErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &memory{objects: map[string][]byte{}}, "hub")
		h.deliver(t, arrival...)
		for _, c := range []struct {
			what string
			err  error
			want error
		}{
			{"forget what is live", h.Forget(t.Context(), "eu", "orders", "eve"), state.ErrNotMissing},
			{"forget what is not there", h.Forget(t.Context(), "eu", "nothing", "eve"), fs.ErrNotExist},
			{"forget in no region", h.Forget(t.Context(), "mars", "orders", "eve"), fs.ErrNotExist},
			{"accept what asks for nothing", h.AcceptRegion(t.Context(), "eu", "eve"), state.ErrNothingToAccept},
			{"accept no region", h.AcceptRegion(t.Context(), "mars", "eve"), fs.ErrNotExist},
		} {
			if !errors.Is(c.err, c.want) {
				t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
			}
		}
		h.deliver(t, state.Snapshot{Session: 1, Upto: rev(2), Empty: true})
		if err := h.Forget(t.Context(), "eu", "orders", "eve"); err != nil {
			t.Error(err)
		}
		if h.View().Placement("eu", "orders") != nil {
			t.Error("orders is still there")
		}
		h.stop()
		<-h.ended
	})
}

func TestAFailingStoreStopsNothingButRecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := start(t, m, "hub")
		m.breakDown(true)
		h.deliver(t, arrival...)
		if h.View().Placement("eu", "orders") == nil {
			t.Error("the view does not go on")
		}
		if said := h.said(); len(said) != 0 {
			t.Errorf("an agent was told %v of a bucket that the hub could forget", said)
		}
		if st := h.Stats(); st.Unrecorded == 0 || st.StoreFailures == 0 {
			t.Errorf("it is not loud: %+v", st)
		}
		time.Sleep(25 * time.Second)
		m.breakDown(false)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if said := h.said(); !slices.Equal(said, []string{"1 state.Welcome", "1 state.Ack"}) {
			t.Errorf("what was held back is said when it is recorded, in order: %v", said)
		}
		if st := h.Stats(); st.Unrecorded != 0 {
			t.Errorf("%d records still wait", st.Unrecorded)
		}
		h.stop()
		if err := <-h.ended; err != nil {
			t.Fatal(err)
		}
		_, saved, err := ledger.Open(t.Context(), m, ledger.Config{Holder: "reader", Now: time.Now()})
		if err != nil || len(saved.Events) != 2 || saved.Regions.Get("eu").BucketID != "B" {
			t.Errorf("recorded: %+v, %+v, %v", saved.Events, saved.Regions, err)
		}
	})
}

// A write is done and only its answer is lost; meanwhile more happens. The
// second try must find its own bytes, not think that another hub wrote them.
func TestALostAnswerIsNotAnotherHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := start(t, m, "hub")
		h.deliver(t, arrival...)
		m.mu.Lock()
		m.mute = true
		m.mu.Unlock()
		for n := uint64(2); n < 5; n++ {
			h.deliver(t, state.Delta{Session: 1, Facts: []catalog.Fact{fact("orders", n)}, Upto: rev(n)})
		}
		m.mu.Lock()
		m.mute = false
		m.mu.Unlock()
		time.Sleep(15 * time.Second)
		h.stop()
		if err := <-h.ended; err != nil {
			t.Fatal(err)
		}
		_, saved, err := ledger.Open(t.Context(), m, ledger.Config{Holder: "reader", Now: time.Now()})
		if err != nil || len(saved.Events) != 5 {
			t.Errorf("events %+v, %v; want connected, appeared and three changes of the writer", saved.Events, err)
		}
	})
}

// Somebody starts a second hub on the same store. The first one goes on showing
// what its agents say, and neither decides nor writes beside the second.
func TestTheOlderOfTwoHubsDecidesNoMoreAndGoesOnAnswering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		old := start(t, m, "old")
		old.deliver(t, arrival...)
		if err := old.Deciding(); err != nil {
			t.Errorf("alone it decides: %v", err)
		}
		young := start(t, m, "young")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		err := old.Deciding()
		var why *ledger.NotDecidingError
		if !errors.As(err, &why) || !errors.Is(err, ledger.ErrTaken) || why.Term != 1 || why.By != 2 || why.Holder != "young" || why.Since.IsZero() {
			t.Errorf("the older one: %v (%+v)", err, why)
		}
		old.deliver(t, state.Delta{Session: 1, Facts: []catalog.Fact{fact("orders", 2)}, Upto: rev(2)}, state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: rev(2)})
		time.Sleep(time.Second)
		if p := old.View().Placement("eu", "orders"); p == nil || *p.ManifestID != 2 {
			t.Errorf("what its agents say is shown: %+v", p)
		}
		if err := old.AcceptRegion(t.Context(), "eu", "eve"); !errors.Is(err, ledger.ErrNotDeciding) {
			t.Errorf("a command to the older one: %v", err)
		}
		if n := m.count("view/"); n > 2 {
			t.Errorf("%d views are saved; the older one must not save beside the younger one", n)
		}
		before := m.count("")
		old.stop()
		if err := <-old.ended; err != nil {
			t.Errorf("the older one ends: %v", err)
		}
		if after := m.count(""); after != before {
			t.Errorf("at its end the older one wrote: %d objects, then %d", before, after)
		}
		if err := young.Deciding(); err != nil {
			t.Errorf("the younger one: %v", err)
		}
		young.stop()
		if err := <-young.ended; err != nil {
			t.Errorf("the younger one: %v", err)
		}
	})
}

// A store that stays away while regions change was once remembered without
// bound, and each change copied all that waited. What the log would not keep
// is let go, in order, and the rest is recorded when the store is back.
func TestAStoreThatStaysAwayCostsNoMemoryWithoutBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := start(t, m, "hub")
		h.deliver(t, arrival...)
		m.breakDown(true)
		const changes = 70_000
		for n := uint64(2); n < changes; n++ {
			if err := h.Deliver(t.Context(), state.Delta{Session: 1, Facts: []catalog.Fact{fact("orders", n)}, Upto: rev(n)}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := h.Stats().Unrecorded; n < 2 || n > 20 {
			t.Errorf("%d records wait", n)
		}
		m.breakDown(false)
		time.Sleep(15 * time.Second)
		h.stop()
		if err := <-h.ended; err != nil {
			t.Fatal(err)
		}
		_, saved, err := ledger.Open(t.Context(), m, ledger.Config{Holder: "reader", Now: time.Now()})
		if err != nil || len(saved.Events) < 50_000 {
			t.Fatalf("%d events, %v", len(saved.Events), err)
		}
		last := uint64(0)
		for _, e := range saved.Events {
			if e.Seq <= last {
				t.Fatalf("event %d after %d", e.Seq, last)
			}
			last = e.Seq
		}
		if last != changes {
			t.Errorf("the last event is %d, want %d", last, changes)
		}
	})
}

// A store that hangs holds the hub's loop up for seconds. With a short
// --stale-after the hub then called regions stale whose beats lay in its own
// mailbox: what waits is heard before time passes.
func TestAHubThatIsHeldUpDoesNotBlameItsAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := startWith(t, m, "hub", state.Config{Beat: 500 * time.Millisecond, StaleAfter: 4 * time.Second})
		h.deliver(t, arrival...)
		m.mu.Lock()
		m.hangs = true
		m.mu.Unlock()
		for n := uint64(2); n < 100; n++ { // 49 s
			time.Sleep(500 * time.Millisecond)
			for _, e := range []state.Event{
				state.Delta{Session: 1, Facts: []catalog.Fact{fact("orders", n)}, Upto: rev(n)},
				state.Beat{Session: 1, BucketID: "B", ReadOK: true, At: rev(n)},
			} {
				if err := h.Deliver(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		events, _ := h.View().Events(0, 0)
		for _, e := range events {
			if e.Type == catalog.EventRegionStale && e.Region == "eu" {
				t.Errorf("%s %s", e.Time.Format(time.StampMilli), e.What)
			}
		}
		h.stop()
		<-h.ended
	})
}

// Somebody empties the hub's store under it. The hub went on as if nothing
// was, and its next start had no region set, no known bucket and no events:
// every slate appeared again. Now it notices and writes all of it again.
func TestAStoreThatIsEmptiedIsFilledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := start(t, m, "hub")
		h.deliver(t, arrival...)
		time.Sleep(31 * time.Second)
		m.mu.Lock()
		clear(m.objects)
		m.mu.Unlock()
		time.Sleep(41 * time.Second)
		h.deliver(t, state.Delta{Session: 1, Facts: []catalog.Fact{fact("orders", 2)}, Upto: rev(2)})
		time.Sleep(time.Second) // it is published
		before, _ := h.View().Events(0, 0)
		h.stop()
		if err := <-h.ended; err != nil {
			t.Fatal(err)
		}
		_, saved, err := ledger.Open(t.Context(), m, ledger.Config{Holder: "next", Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(saved.Regions.Names(), []string{"eu", "us"}) || saved.Regions.Get("eu").BucketID != "B" {
			t.Errorf("region set: %+v", saved.Regions)
		}
		if len(saved.Events) != len(before) || len(before) < 3 || saved.Events[0].Seq != 1 {
			t.Errorf("events: %+v, before %+v", saved.Events, before)
		}
		if saved.View == nil || saved.View.Tables.Len() != 1 {
			t.Errorf("view: %+v", saved.View)
		}
	})
}

// A folder says so when what it shall delete is not there. A saved view whose
// write had failed was never there, and from then on none was ever deleted.
func TestAFailedSaveDoesNotKeepOldViewsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := start(t, m, "hub")
		h.deliver(t, arrival...)
		m.breakDown(true)
		time.Sleep(100 * time.Second)
		m.breakDown(false)
		for n := uint64(2); n < 30; n++ {
			h.deliver(t, state.Delta{Session: 1, Facts: []catalog.Fact{fact("orders", n)}, Upto: rev(n)})
			time.Sleep(31 * time.Second)
		}
		if n := m.count("view/"); n > 2 {
			t.Errorf("%d saved views are kept", n)
		}
		h.stop()
		<-h.ended
	})
}

// records is what the ledger in a store holds.
func records(t *testing.T, m *memory) []state.Record {
	t.Helper()
	j, err := ledger.OpenJournal(t.Context(), m, ledger.JournalConfig{Holder: "reader", ID: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close(t.Context()) }()
	var out []state.Record
	for rec, err := range j.Replay(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

const keepAll = `apiVersion: quarry/v1
kind: Policy
metadata: {name: %s}
select: {kinds: [snapshots]}
trim: {require: {all: true}}
`

func policies(t *testing.T, names ...string) regions.Documents {
	t.Helper()
	var text []string
	for _, n := range names {
		text = append(text, fmt.Sprintf(keepAll, n))
	}
	d, err := regions.ParseDocuments("test.yaml", []byte(strings.Join(text, "---\n")))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// P8: a policy is in the ledger before anybody hears that it is in force. A
// ledger that cannot be written refuses it, and nothing is left of it.
func TestAPolicyIsDurableBeforeItIsInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := start(t, m, "hub")
		h.deliver(t, arrival...)
		if err := h.Do(t.Context(), state.ApplyDocuments{Documents: policies(t, "first"), By: "ann"}); err != nil {
			t.Fatal(err)
		}
		before, _ := h.View().Events(0, 0)
		m.breakDown(true)
		for _, c := range []struct {
			what    string
			command state.Command
		}{
			{"a policy", state.ApplyDocuments{Documents: policies(t, "second", "third"), By: "bob"}},
			{"a freeze", state.Freeze{Scope: "all", By: "bob"}},
			{"a region that joins", state.JoinRegion{Region: "ap", By: "bob"}},
			{"a region that retires", state.RetireRegion{Region: "us", By: "bob"}},
			{"the end of a policy", state.RemovePolicy{Name: "first", By: "bob"}},
		} {
			if err := h.Do(t.Context(), c.command); err == nil {
				t.Errorf("%s was answered as if it were recorded", c.what)
			}
		}
		v := h.View()
		if v.Policy("second") != nil || v.Policy("first") == nil || len(slices.Collect(v.Freezes())) != 0 {
			t.Error("what could not be recorded is in force")
		}
		if v.Region("ap") != nil || v.Region("us").Membership != catalog.Active {
			t.Errorf("the region set has changed: %+v, %+v", v.Region("ap"), v.Region("us"))
		}
		if after, _ := v.Events(0, 0); len(after) != len(before) {
			t.Errorf("the event log tells of it: %+v", after[len(before):])
		}
		if err := h.Deciding(); !errors.Is(err, ledger.ErrNotDeciding) {
			t.Errorf("a hub that cannot record does not say so: %v", err)
		}
		m.breakDown(false)
		time.Sleep(15 * time.Second)
		if err := h.Deciding(); err != nil {
			t.Errorf("the store works again: %v", err)
		}
		if err := h.Do(t.Context(), state.Freeze{Scope: "all", By: "ann", Why: "moving"}); err != nil {
			t.Errorf("the store works again: %v", err)
		}
		h.stop()
		if err := <-h.ended; err != nil {
			t.Fatal(err)
		}

		next := start(t, m, "next")
		if v := next.View(); v.Policy("first") == nil || v.Policy("second") != nil || len(slices.Collect(v.Freezes())) != 1 {
			t.Error("the next hub has other policies or freezes in force")
		}
		next.stop()
		<-next.ended
		var did []string
		var audit []state.Record
		for _, rec := range records(t, m) {
			if e, err := state.DecodeAudit(rec.Value); err == nil && strings.HasPrefix(rec.Key, "audit/") {
				did, audit = append(did, e.Who+" "+e.What+" "+e.Of), append(audit, rec)
			}
		}
		if want := []string{"hub founded ledger", "ann applied document/policy/first", "ann frozen freeze/all"}; !slices.Equal(did, want) {
			t.Errorf("the audit: %q, want %q", did, want)
		}
		if r := state.VerifyAudit(audit, state.AuditHead{}); len(r.Problems) > 0 {
			t.Errorf("%+v", r)
		}
	})
}

// A store that an older version left has a region set and no ledger: the set is
// taken over once, and rules from then on.
func TestAnOlderStoreIsTakenOverOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		if _, _, err := ledger.Open(t.Context(), m, ledger.Config{Regions: []string{"eu", "us"}, Holder: "older", Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		for life := range 2 {
			h := start(t, m, fmt.Sprint("life ", life))
			h.stop()
			if err := <-h.ended; err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, rec := range records(t, m) {
				keys = append(keys, rec.Key)
			}
			if want := []string{state.AuditKey(1), "region/eu", "region/us"}; !slices.Equal(keys, want) {
				t.Errorf("life %d: %q, want %q", life, keys, want)
			}
		}
		h := start(t, m, "third")
		if err := h.Do(t.Context(), state.RetireRegion{Region: "us", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		h.stop()
		<-h.ended
		// The object of the set is lost to a crash; the ledger still knows.
		m.mu.Lock()
		for k := range m.objects {
			if strings.HasPrefix(k, "regions/") && k > "regions/00000000000000000001" && !strings.HasPrefix(k, "regions/00000000000000000001.") {
				delete(m.objects, k)
			}
		}
		m.mu.Unlock()
		h = start(t, m, "fourth")
		if got := h.View().Region("us").Membership; got != catalog.Retired {
			t.Errorf("us is %s again", got)
		}
		h.stop()
		<-h.ended
	})
}

// A hub that claimed the store first and was slow to open the ledger writes into
// it before it notices: what it wrote is in force, and the one that rules goes on
// from there.
func TestWhatAnotherHubWroteIsLearntAfterWhatFailedIsUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[string][]byte{}}
		h := start(t, m, "hub")
		h.deliver(t, arrival...)
		for _, c := range []state.Command{
			state.ApplyDocuments{Documents: policies(t, "first"), By: "ann"},
			state.Propose{By: "ann", Decisions: []state.Proposal{{Decision: catalog.Decision{Verb: catalog.VerbResync, Region: "us", Expires: time.Minute}}}},
		} {
			if err := h.Do(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		slow, err := ledger.OpenJournal(t.Context(), m, ledger.JournalConfig{Holder: "slow", ID: "slow", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		set, err := regions.Parse([]string{"eu", "us"})
		if err != nil {
			t.Fatal(err)
		}
		its := state.New(state.Config{}, state.Saved{Regions: set}, time.Now())
		for rec, err := range slow.Replay(t.Context()) {
			if err == nil {
				err = its.Replay(rec)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		its.Step(state.Office{Term: slow.Term(), Ledger: slow.ID()}, time.Now())
		for _, c := range []state.Event{state.ApplyDocuments{Documents: policies(t, "second"), By: "bob"}, state.TripBreaker{By: "hub", Why: "too many", Slates: 50}} {
			r := its.Step(c, time.Now())
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			if err := slow.Append(t.Context(), r.Records); err != nil {
				t.Fatal(err)
			}
		}

		defer func() { _ = slow.Close(t.Context()) }()

		if err := h.Do(t.Context(), state.Freeze{Scope: "all", By: "ann"}); !errors.Is(err, ledger.ErrTaken) {
			t.Errorf("a command that is not in the ledger: %v", err)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		v := h.View()
		if v.Policy("first") == nil || v.Policy("second") == nil || len(slices.Collect(v.Freezes())) != 0 {
			t.Error("in force is not what is in the ledger")
		}
		if err := h.Do(t.Context(), state.ApplyDocuments{Documents: policies(t, "third"), By: "ann"}); err != nil {
			t.Fatal(err)
		}
		var number uint64
		var breaker *state.Breaker
		var audit []state.Record
		h.stop()
		<-h.ended
		for _, rec := range records(t, m) {
			switch {
			case strings.HasPrefix(rec.Key, "audit/"):
				audit = append(audit, rec)
			case rec.Key == "counters":
				var c struct{ Number uint64 }
				if err := json.Unmarshal(rec.Value, &c); err != nil {
					t.Fatal(err)
				}
				number = c.Number
			case rec.Key == "breaker":
				breaker = new(state.Breaker)
				if err := json.Unmarshal(rec.Value, breaker); err != nil {
					t.Fatal(err)
				}
			}
		}
		if r := state.VerifyAudit(audit, state.AuditHead{}); len(r.Problems) > 0 {
			t.Errorf("%+v", r.Problems)
		}
		if number != 1 || breaker == nil || !breaker.Open {
			t.Errorf("decisions are counted to %d, the breaker is %+v", number, breaker)
		}
		next := start(t, m, "next")
		if err := next.Do(t.Context(), state.Propose{By: "ann", Decisions: []state.Proposal{{Decision: catalog.Decision{Verb: catalog.VerbResync, Region: "us", Expires: time.Minute}}}}); !errors.Is(err, state.ErrBreaker) {
			t.Errorf("the breaker was opened: %v", err)
		}
		next.stop()
		<-next.ended
	})
}
