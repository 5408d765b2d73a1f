package hub_test

import (
	"errors"
	"io/fs"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/hub"
	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

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
