package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

const aLedger = "6f1c1c3e-9d1e-4c8c-9a50-0b6a3c1b0001"

func permitOf(slate, region string, upTo uint64) state.Proposal {
	return state.Proposal{Decision: catalog.Decision{Verb: catalog.VerbPermit, Region: region, Slate: slate, Root: slate, Incarnation: "I",
		Position: &upTo, PositionDomain: "lsn", Evidence: [32]byte{1}, Expires: 10 * time.Minute}}
}

// decide carries out the words of scenarios about decisions.
func (w *world) decide(name string, args []string, opt map[string]string) bool {
	by, why := opt["by"], opt["why"]
	number := func(k string, or int) int {
		if opt[k] == "" {
			return or
		}
		n, err := strconv.Atoi(opt[k])
		if err != nil {
			w.t.Fatal(err)
		}
		return n
	}
	id := func(s string) string { // #2
		n, err := strconv.Atoi(strings.TrimPrefix(s, "#"))
		if all := w.s.Decisions(); err == nil && n >= 1 && n <= len(all) {
			return all[n-1].Decision.ID
		}
		return s
	}
	switch name {
	case "office": // office TERM, or office TERM why=…
		n, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		w.step(state.Office{Term: n, Ledger: aLedger, Why: why})
	case "propose": // propose VERB SLATE REGION [times=40] [needs=1]
		e := state.Propose{By: by, Why: why}
		for i := range number("times", 1) {
			p := permitOf(args[1], args[2], 10)
			if number("times", 1) > 1 {
				p.Decision.Slate += fmt.Sprint("-", i)
			}
			p.Decision.Verb, p.Needs = catalog.Verb(args[0]), number("needs", 0)
			if p.Decision.Verb.OfRegion() {
				p.Decision = catalog.Decision{Verb: p.Decision.Verb, Region: args[2], Expires: p.Decision.Expires}
			}
			e.Decisions = append(e.Decisions, p)
		}
		w.step(e)
	case "approve":
		w.step(state.Approve{ID: id(args[0]), By: by})
	case "refuse":
		w.step(state.RefuseDecision{ID: id(args[0]), By: by, Why: why})
	case "close-breaker":
		w.step(state.CloseBreaker{By: by, Why: why})
	case "outcome": // outcome SESSION #N STATE
		n, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		o := catalog.Outcome{Decision: id(args[1]), State: catalog.OutcomeState(args[2])}
		if why != "" {
			o.Reasons = []catalog.Reason{{Code: opt["code"], Message: why}}
		}
		w.step(state.Settled{Session: state.SessionID(n), Outcome: o})
	case "permit-seen": // permit-seen SESSION #N at=REVISION
		n, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, d := range w.s.Decisions() {
			if d.Decision.ID == id(args[1]) {
				rev := catalog.Revision{Start: w.start[state.SessionID(n)], Counter: uint64(number("at", 0))}
				w.step(state.Delta{Session: state.SessionID(n), Upto: rev, Facts: []catalog.Fact{{Kind: catalog.FactPermit, Key: d.Decision.Slate, Revision: rev,
					Permit: &catalog.Permit{Version: 1, Slate: d.Decision.Slate, Decision: d.Decision.ID}}}})
			}
		}
	default:
		return false
	}
	return true
}

func decidedSay(m state.Send) (string, bool) {
	switch x := m.Message.(type) {
	case state.Decide:
		d := x.Decision
		return strings.TrimRight(fmt.Sprintf("%d Decide %s %s in %s, term %d, sequence %d", m.To, d.Verb, d.Slate, d.Region, d.Term, d.Sequence), " "), true
	case state.Settle:
		return fmt.Sprintf("%d Settle %d", m.To, len(x.Decisions)), true
	}
	return "", false
}

func (w *world) showDecisions() (out []string) {
	for i, d := range w.s.Decisions() {
		x := d.Decision
		l := fmt.Sprintf("#%d %s: %s %s in %s by %s", i+1, d.Stage, x.Verb, x.Slate, x.Region, d.By)
		if d.Needs > 0 {
			l += fmt.Sprintf(", %d of %d approved", len(d.Approved), d.Needs)
		}
		if x.Sequence > 0 {
			l += fmt.Sprintf(", term %d, sequence %d", x.Term, x.Sequence)
		}
		for _, r := range w.s.View().Decision(x.ID).Waiting {
			l += " | " + strings.ReplaceAll(r, x.ID, fmt.Sprint("#", i+1))
		}
		reasons := d.Reasons
		if d.Outcome != nil {
			reasons = append(slices.Clone(reasons), d.Outcome.Reasons...)
		}
		for _, r := range reasons {
			l += " | " + r.String()
		}
		out = append(out, l)
	}
	if b := w.s.Breaker(); b.Open {
		out = append(out, "the breaker is open: "+b.Why)
	}
	return out
}

// The commands and messages of random histories: several people, agents that
// come and go, answers lost, terms lost and won, and a ledger that fails.
func TestDecisionsKeepTheirOrderWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, err := regions.Parse([]string{"eu", "us"})
		if err != nil {
			t.Fatal(err)
		}
		cfg := state.Config{Budgets: state.Budgets{SlateHour: 2, RegionHour: 5, FleetHour: 7, Slates: 3, Percent: 10}}
		now := dawn
		s := state.New(cfg, state.Saved{Regions: set}, now)
		ledger := map[string][]byte{} // what is durable
		term, session := uint64(0), state.SessionID(0)
		highest := map[string]uint64{}             // sequence that left, by region
		left := map[string]catalog.Decision{}      // decisions that left, by id
		approvedBy := map[string]map[string]bool{} // people, by id
		sent := map[string][]time.Time{}           // irreversible, by region and slate; when
		settled := map[string]state.Stage{}        // as first durable
		live := map[state.SessionID]string{}       // region
		fingerprint := func(s *state.State) string {
			b, err := json.Marshal(struct {
				D []*state.Decided
				B state.Breaker
				H state.AuditHead
			}{s.Decisions(), s.Breaker(), s.AuditHead()})
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		shown := func(s *state.State) { // people see what is so
			t.Helper()
			all, v := s.Decisions(), s.View()
			rows := slices.Collect(v.Decisions())
			slices.Reverse(rows) // the oldest first
			if len(rows) != len(all) || v.Breaker().Open != s.Breaker().Open {
				t.Fatalf("%d of %d decisions are shown, and the breaker as %+v", len(rows), len(all), v.Breaker())
			}
			for i, d := range all {
				if r := rows[i]; r.ID != d.Decision.ID || r.Number != d.Number || r.Stage != d.Stage || len(r.Approved) != len(d.Approved) || r.Sequence != d.Decision.Sequence || r.Outcome != d.Outcome || v.Decision(r.ID) != r {
					t.Fatalf("it is %+v, and people see %+v", d, r)
				}
			}
		}
		step := func(e state.Event, fails bool) error {
			_, command := e.(state.Command)
			mark := s.Mark(command)
			before := fingerprint(s)
			r := s.Step(e, now)
			out, err := r.Send, r.Err
			records := r.Records
			if r.Then != nil {
				after := s.Step(r.Then, now)
				records, out = append(records, after.Records...), append(out, after.Send...)
			}
			if fails && len(records) > 0 {
				s.Undo(mark)
				if after := fingerprint(s); after != before {
					t.Fatalf("%T could not be recorded and left a trace:\n%s\n%s", e, before, after)
				}
				shown(s)
				return errors.New("not recorded")
			}
			for _, rec := range records {
				if rec.Value == nil {
					delete(ledger, rec.Key)
				} else {
					ledger[rec.Key] = bytes.Clone(rec.Value)
				}
			}
			for _, m := range out {
				d, ok := m.Message.(state.Decide)
				if !ok {
					continue
				}
				x := d.Decision
				if x.Term == 0 || x.Term > term || x.Ledger != aLedger || x.Region != live[m.To] {
					t.Fatalf("%+v to session %d of %s in term %d", x, m.To, live[m.To], term)
				}
				if err := x.Validate(); err != nil {
					t.Fatal(err)
				}
				if was, again := left[x.ID]; again {
					if was.Sequence != x.Sequence || was.Term != x.Term {
						t.Fatalf("said again, it is another: %+v, was %+v", x, was)
					}
					continue
				}
				if x.Sequence != highest[x.Region]+1 {
					t.Fatalf("sequence %d of %s after %d", x.Sequence, x.Region, highest[x.Region])
				}
				highest[x.Region], left[x.ID] = x.Sequence, x
				of := x.Region + " " + x.Slate
				sent[of] = append(sent[of], now)
				recent := 0
				for _, at := range sent[of] {
					if now.Sub(at) < time.Hour {
						recent++
					}
				}
				if recent > 2 {
					t.Fatalf("%d decisions about %s in an hour", recent, x.Slate)
				}
			}
			shown(s)
			for _, d := range s.Decisions() {
				if d.Stage != state.StageProposed && d.Stage != state.StageExpired && d.Stage != state.StageRefused && len(approvedBy[d.Decision.ID]) < d.Needs {
					t.Fatalf("%s with %d of %d approvals", d.Stage, len(approvedBy[d.Decision.ID]), d.Needs)
				}
				if was, ok := settled[d.Decision.ID]; ok && !d.Stage.Settled() && d.Stage != state.StageClaimed {
					t.Fatalf("%s after %s", d.Stage, was)
				}
				if d.Stage.Settled() {
					settled[d.Decision.ID] = d.Stage
				}
				if d.Stage == state.StageDone && d.Outcome == nil {
					t.Fatal("done, and nobody said so")
				}
			}
			return err
		}
		replayed := func() *state.State {
			again := state.New(cfg, state.Saved{Regions: set}, now)
			for _, k := range slices.Sorted(maps.Keys(ledger)) {
				if err := again.Replay(state.Record{Key: k, Value: ledger[k]}); err != nil {
					t.Fatal(err)
				}
			}
			shown(again)
			return again
		}
		people := rapid.SampledFrom([]string{"ann", "bob", "eve"})
		some := func() string {
			all := s.Decisions()
			if len(all) == 0 {
				return "none"
			}
			return all[rapid.IntRange(0, len(all)-1).Draw(t, "decision")].Decision.ID
		}
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 240).Draw(t, "seconds")) * time.Second)
			fails := rapid.IntRange(0, 9).Draw(t, "the ledger fails") == 0
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				term++
				_ = step(state.Office{Term: term, Ledger: aLedger, Why: rapid.SampledFrom([]string{"", "", "", "taken"}).Draw(t, "why")}, false)
			case 1, 2:
				session++
				region := rapid.SampledFrom([]string{"eu", "us"}).Draw(t, "region")
				live[session] = region
				_ = step(state.Hello{Session: session, Region: region, Cluster: "a", Agent: fmt.Sprint(session), Generation: uint64(session), Start: uint64(session),
					BucketID: region, Decides: rapid.Bool().Draw(t, "decides")}, fails)
				_ = step(state.Beat{Session: session, BucketID: region, ReadOK: true}, fails)
			case 3, 4:
				var e state.Propose
				e.By = people.Draw(t, "by")
				for range rapid.IntRange(1, 5).Draw(t, "proposals") {
					p := permitOf(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "slate"), rapid.SampledFrom([]string{"eu", "us"}).Draw(t, "of"), 10)
					p.Needs = rapid.IntRange(0, 2).Draw(t, "needs")
					e.Decisions = append(e.Decisions, p)
				}
				_ = step(e, fails)
			case 5:
				id, by := some(), people.Draw(t, "by")
				was := fingerprint(s)
				if approvedBy[id] == nil {
					approvedBy[id] = map[string]bool{}
				}
				had := approvedBy[id][by]
				approvedBy[id][by] = true
				if err := step(state.Approve{ID: id, By: by}, fails); err != nil {
					approvedBy[id][by] = had
					if fingerprint(s) != was {
						t.Fatalf("refused with %v, it left a trace", err)
					}
				}
			case 6:
				_ = step(state.RefuseDecision{ID: some(), By: people.Draw(t, "by")}, fails)
			case 7:
				if session > 0 {
					_ = step(state.Settled{Session: session, Outcome: catalog.Outcome{Decision: some(), State: rapid.SampledFrom(catalog.OutcomeStates).Draw(t, "outcome")}}, fails)
				}
			case 8:
				_ = step(state.CloseBreaker{By: people.Draw(t, "by")}, fails)
			case 9:
				_ = step(state.Tick{}, fails)
			}
			if rapid.IntRange(0, 7).Draw(t, "look") == 0 {
				if a, b := fingerprint(s), fingerprint(replayed()); a != b {
					t.Fatalf("the ledger says something else:\n%s\n%s", b, a)
				}
			}
		}
		var audit []state.Record
		for _, k := range slices.Sorted(maps.Keys(ledger)) {
			if strings.HasPrefix(k, "audit/") {
				audit = append(audit, state.Record{Key: k, Value: ledger[k]})
			}
		}
		if r := state.VerifyAudit(audit, s.AuditHead()); len(r.Problems) > 0 {
			t.Fatalf("%+v", r.Problems)
		}
	})
}

// What is in the ledger may be anything: it is taken in or refused, and a state
// that refused a record goes on.
func FuzzReplayOfDecisions(f *testing.F) {
	f.Add("decision/00000000000000000001", []byte(`{"version":1,"number":1,"decision":{"id":"a","verb":"permit","region":"eu"},"stage":"sent","by":"ann","proposed":"2026-01-01T00:00:00Z","not_after":"2026-01-01T01:00:00Z"}`))
	f.Add("counters", []byte(`{"version":1,"number":18446744073709551615,"sequences":{"eu":18446744073709551615}}`))
	f.Add("counters", []byte(`{"version":1}`))
	f.Add("breaker", []byte(`{"version":1,"open":true}`))
	f.Add("audit/00000000000000000001", []byte(`{}`))
	f.Add("region/eu", []byte(`{"version":1,"name":"eu","membership":"retired","number":2}`))
	f.Add("document/policy/a", []byte(`{"version":1,"kind":"Policy","name":"a","source":"kind: Policy"}`))
	f.Add("freeze/all", []byte(`{"version":1,"scope":"all"}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		set, err := regions.Parse([]string{"eu"})
		if err != nil {
			t.Fatal(err)
		}
		s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
		if err := s.Replay(state.Record{Key: key, Value: value}); err != nil && !errors.Is(err, state.ErrRecord) {
			t.Errorf("%q: %v", key, err)
		}
		s.Step(state.Office{Term: 1, Ledger: aLedger}, dawn)
		s.Step(state.Hello{Session: 1, Region: "eu", Cluster: "a", Agent: "x", Start: 1, Generation: 1, BucketID: "B", Decides: true}, dawn)
		s.Step(state.Beat{Session: 1, BucketID: "B", ReadOK: true}, dawn)
		s.Step(state.Propose{By: "ann", Decisions: []state.Proposal{permitOf("a", "eu", 1)}}, dawn)
		s.Step(state.Tick{}, dawn.Add(2*time.Hour))
		s.View()
	})
}
