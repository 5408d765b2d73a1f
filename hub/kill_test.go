package hub_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/hub"
	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/regions"
)

// acts is what people do in one life; each changes what is in force.
func acts(t *testing.T) []state.Command {
	t.Helper()
	hold, err := regions.ParseDocuments("hold.yaml", []byte("apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: case}\nselect: {names: [\"*\"]}\nscope: [trim]\n"))
	if err != nil {
		t.Fatal(err)
	}
	return []state.Command{
		state.ApplyDocuments{Documents: policies(t, "a", "b"), By: "ann"},
		state.Freeze{Scope: "all", By: "bob", Why: "moving"},
		state.ApplyDocuments{Documents: hold, By: "eve"},
		state.JoinRegion{Region: "ap", By: "ann"},
		state.RemovePolicy{Name: "a", By: "ann"},
		state.Thaw{Scope: "all", By: "bob"},
		state.RetireRegion{Region: "us", By: "ann"}, // policy b requires it
		state.RetireRegion{Region: "us", By: "bob"},
	}
}

// inForce is what people decided, as anybody sees it.
func inForce(v *view.View) string {
	var out []string
	for p := range v.Policies() {
		out = append(out, fmt.Sprint("policy ", p.Name, "@", p.Revision, " by ", p.AppliedBy))
	}
	for h := range v.Holds() {
		out = append(out, fmt.Sprint("hold ", h.Name, "@", h.Revision, " by ", h.AppliedBy))
	}
	for f := range v.Freezes() {
		out = append(out, fmt.Sprint("freeze ", f.Scope, " by ", f.By, " ", f.Why))
	}
	for r := range v.Regions() {
		out = append(out, fmt.Sprint("region ", r.Name, " ", r.Membership, " ", r.Retiring))
	}
	return strings.Join(out, ", ")
}

// lived is what came of one life of a hub.
type lived struct {
	acked   int      // acts
	inForce []string // before the first act, and after each
	err     error    // why it did not start, or the first refusal
}

// live runs a hub on the store and has people act from the n-th act on, until one
// is refused.
func live(t *testing.T, b *bucket.Bucket, from int) (out lived) {
	t.Helper()
	h, err := hub.New(t.Context(), hub.Config{Regions: []string{"eu", "us"}, Store: b, Holder: "hub", ID: fmt.Sprint(time.Now().UnixNano()),
		Log: slog.New(slog.DiscardHandler), Post: func(state.SessionID, state.Message) {}})
	if err != nil {
		// A hub whose region set is stored is started without it from then on.
		if h, err = hub.New(t.Context(), hub.Config{Store: b, Holder: "hub", ID: fmt.Sprint(time.Now().UnixNano()),
			Log: slog.New(slog.DiscardHandler), Post: func(state.SessionID, state.Message) {}}); err != nil {
			out.err = err
			return out
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	synctest.Wait()
	out.inForce = append(out.inForce, inForce(h.View()))
	for _, act := range acts(t)[from:] {
		if err := h.Do(t.Context(), act); err != nil {
			out.err = err
			break
		}
		out.acked++
		out.inForce = append(out.inForce, inForce(h.View()))
	}
	cancel()
	<-ended
	return out
}

// replayed is what a state has in force that knows nothing but the ledger, and
// what is wrong with its audit.
func replayed(t *testing.T, b *bucket.Bucket) (string, []state.Record) {
	t.Helper()
	_, saved, err := ledger.Open(t.Context(), b, ledger.Config{Holder: "reader", ID: "reader", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	j, err := ledger.OpenJournal(t.Context(), b, ledger.JournalConfig{Holder: "reader", ID: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close(t.Context()) }()
	s := state.New(state.Config{}, saved, time.Now())
	var audit []state.Record
	for rec, err := range j.Replay(t.Context()) {
		if err == nil {
			err = s.Replay(rec)
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(rec.Key, "audit/") {
			audit = append(audit, rec)
		}
	}
	s.Step(state.Tick{}, time.Now())
	return inForce(s.View()), audit
}

// The hub is killed at every write that it makes, before the write and after it,
// by a store that takes nothing from then on. Started again it is where those
// acts led that were acknowledged, or one further; what is left to do ends
// where an undisturbed life does, and the audit has every act once.
func TestAHubKilledAtEveryWriteForgetsNothingThatWasAcknowledged(t *testing.T) {
	open := func() (*bucket.Bucket, *faulty.Faults) {
		inner, err := bucket.Open(t.Context(), "mem://")
		if err != nil {
			t.Fatal(err)
		}
		return faulty.New(inner)
	}
	var whole lived
	writes, entries := 0, len(acts(t))+2 // one file has two documents, and the ledger was founded
	synctest.Test(t, func(t *testing.T) {
		b, faults := open()
		whole = live(t, b, 0)
		if whole.err != nil {
			t.Fatal(whole.err)
		}
		for _, c := range faults.Calls() {
			if c.Method == bucket.PutNew {
				writes++
			}
		}
		if got, audit := replayed(t, b); got != whole.inForce[len(whole.inForce)-1] || len(audit) != entries {
			t.Errorf("replayed: %s, %d entries in the audit; in force was %s", got, len(audit), whole.inForce[len(whole.inForce)-1])
		}
	})
	t.Logf("%d writes, %d acts: %s", writes, len(acts(t)), whole.inForce[len(whole.inForce)-1])
	if writes < 15 || len(whole.inForce) != len(acts(t))+1 {
		t.Fatalf("%d writes, %d states", writes, len(whole.inForce))
	}
	inFlight := 0
	for _, kind := range []faulty.Kind{faulty.Refuse, faulty.Lose} {
		for n := 1; n <= writes; n++ {
			t.Run(fmt.Sprintf("kind %d, write %d", kind, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, faults := open()
					if kind == faulty.Lose {
						faults.Add(faulty.Fault{Method: bucket.PutNew, Nth: n, Kind: faulty.Lose})
						n++
					}
					faults.Add(faulty.Fault{Method: bucket.PutNew, Nth: n, Times: -1})
					killed := live(t, b, 0)
					faults.Clear()
					next := live(t, b, len(acts(t))) // nobody does anything
					if next.err != nil {
						t.Fatalf("start again: %v", next.err)
					}
					at := slices.Index(whole.inForce, next.inForce[0])
					if at != killed.acked && at != killed.acked+1 {
						t.Fatalf("%d acts were acknowledged, and after a start in force is %s, as after %d", killed.acked, next.inForce[0], at)
					}
					if at > killed.acked {
						inFlight++
					}
					rest := live(t, b, at)
					if last := rest.inForce[len(rest.inForce)-1]; rest.err != nil || last != whole.inForce[len(whole.inForce)-1] {
						t.Errorf("in the end in force is %s (%v)", last, rest.err)
					}
					got, audit := replayed(t, b)
					if got != whole.inForce[len(whole.inForce)-1] {
						t.Errorf("replayed: %s", got)
					}
					if r := state.VerifyAudit(audit, state.AuditHead{}); len(r.Problems) > 0 || r.Entries != entries {
						t.Errorf("the audit: %d entries of %d, %+v", r.Entries, entries, r.Problems)
					}
				})
			})
		}
	}
	t.Logf("%d times an act was durable that nobody was told of", inFlight)
	if inFlight == 0 {
		t.Error("no kill fell between a write and its answer: the test does not test it")
	}
}

// The store fails for a while at every write in turn, and the hub lives on: what
// it has in force is what the ledger holds, whether the write that failed was
// done or not.
func TestAHubThatOutlivesItsStoreAgreesWithTheLedger(t *testing.T) {
	for _, kind := range []faulty.Kind{faulty.Refuse, faulty.Lose} {
		for n := 1; n <= 40; n += 1 {
			t.Run(fmt.Sprintf("kind %d, write %d", kind, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					inner, err := bucket.Open(t.Context(), "mem://")
					if err != nil {
						t.Fatal(err)
					}
					b, faults := faulty.New(inner)
					h, err := hub.New(t.Context(), hub.Config{Regions: []string{"eu", "us"}, Store: b, Holder: "hub", ID: "hub",
						Log: slog.New(slog.DiscardHandler), Post: func(state.SessionID, state.Message) {}})
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(t.Context())
					ended := make(chan error, 1)
					go func() { ended <- h.Run(ctx) }()
					if kind == faulty.Lose {
						faults.Add(faulty.Fault{Method: bucket.PutNew, Nth: n, Kind: faulty.Lose})
						faults.Add(faulty.Fault{Method: bucket.PutNew, Nth: n + 1, Times: 30})
						faults.Add(faulty.Fault{Method: bucket.Get, Keys: "ledger/wal/*", Nth: n, Times: 6})
					} else {
						faults.Add(faulty.Fault{Method: bucket.PutNew, Nth: n, Times: 30})
					}
					refused := 0
					for _, act := range acts(t) {
						before := inForce(h.View())
						for try := 0; ; try++ {
							err := h.Do(t.Context(), act)
							if err == nil {
								break
							}
							refused++
							if try > 20 {
								t.Fatalf("it does not recover: %v", err)
							}
							time.Sleep(15 * time.Second)
							synctest.Wait()
							// It may have been done after all: then it is seen now.
							if inForce(h.View()) != before {
								break
							}
						}
					}
					shown := inForce(h.View())
					cancel()
					<-ended
					faults.Clear()
					got, audit := replayed(t, b)
					if got != shown {
						t.Errorf("the ledger: %s, the hub that lived on: %s (%d acts were refused)", got, shown, refused)
					}
					if r := state.VerifyAudit(audit, state.AuditHead{}); len(r.Problems) > 0 {
						t.Errorf("%+v", r.Problems)
					}
				})
			})
		}
	}
}
