package hub_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

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
