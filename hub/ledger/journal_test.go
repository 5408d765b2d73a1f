package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
)

func journal(t *testing.T, m *memory, holder string) *ledger.Journal {
	t.Helper()
	j, err := ledger.OpenJournal(t.Context(), m, ledger.JournalConfig{Holder: holder, ID: holder, Patience: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	return j
}

func rec(key, value string) state.Record { return state.Record{Key: key, Value: []byte(value)} }

// all is what a journal holds, as key=value.
func all(t *testing.T, j *ledger.Journal) []string {
	t.Helper()
	out := []string{}
	for r, err := range j.Replay(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r.Key+"="+string(r.Value))
	}
	return out
}

func TestWhatWasRecordedIsReplayedInTheOrderOfItsKeys(t *testing.T) {
	m := newMemory()
	j := journal(t, m, "first")
	id := j.ID()
	if !j.Began() || j.Term() != 1 || len(id) != 36 {
		t.Errorf("a new ledger: began %v, term %d, id %q", j.Began(), j.Term(), id)
	}
	for _, batch := range [][]state.Record{
		{rec("document/policy/b", "1"), rec("document/policy/a", "1"), rec("freeze/all", "x")},
		{rec("document/policy/a", "2"), {Key: "freeze/all"}},
		nil,
	} {
		if err := j.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"document/policy/a=2", "document/policy/b=1"}
	if got := all(t, j); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := j.Append(t.Context(), []state.Record{rec("ledger/id", "mine")}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("the ledger's own rows are written by nobody else: %v", err)
	}
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := journal(t, m, "second")
	if got := all(t, next); !slices.Equal(got, want) || next.ID() != id || next.Term() != 2 || next.Began() {
		t.Errorf("the next hub: %q, id %s (was %s), term %d, began %v", got, next.ID(), id, next.Term(), next.Began())
	}
}

func TestOfTwoHubsTheFirstLearnsWhoHasTheLedger(t *testing.T) {
	m := newMemory()
	old, young := journal(t, m, "old"), journal(t, m, "young")
	err := old.Append(t.Context(), []state.Record{rec("freeze/all", "by the old one")})
	var why *ledger.NotDecidingError
	if !errors.As(err, &why) || !errors.Is(err, ledger.ErrTaken) || !errors.Is(err, ledger.ErrNotDeciding) || why.Holder != "young" || why.By != 2 || why.Since.IsZero() {
		t.Fatalf("%v (%+v)", err, why)
	}
	if err := old.Deciding(); !errors.Is(err, ledger.ErrTaken) || !strings.Contains(err.Error(), "young") {
		t.Errorf("it stays so: %v", err)
	}
	if got := all(t, young); len(got) != 0 {
		t.Errorf("what the fenced hub wanted to record is there: %q", got)
	}
	if err := young.Append(t.Context(), []state.Record{rec("freeze/all", "by the young one")}); err != nil {
		t.Errorf("the younger one: %v", err)
	}
}

// A write whose answer is lost may have been done. The caller is told that
// nobody knows; Recover finds out, whichever way it was.
func TestAWriteWithoutAnAnswerIsFoundOut(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("written %v", lost), func(t *testing.T) {
			m := newMemory()
			j := journal(t, m, "hub")
			if err := j.Append(t.Context(), []state.Record{rec("document/hold/a", "1")}); err != nil {
				t.Fatal(err)
			}
			m.mu.Lock()
			m.failAt, m.lose, m.dead = m.writes+1, lost, true
			m.mu.Unlock()
			batch := []state.Record{rec("document/hold/a", "2"), rec("document/hold/b", "2"), rec(state.AuditKey(1), "{}")}
			if err := j.Append(t.Context(), batch); !errors.Is(err, ledger.ErrUnknown) {
				t.Fatalf("%v", err)
			}
			if err := j.Append(t.Context(), batch); !errors.Is(err, ledger.ErrNotDeciding) {
				t.Errorf("before it is found out nothing else is recorded: %v", err)
			}
			m.mu.Lock()
			m.failAt, m.dead, m.killed = 0, false, false
			m.mu.Unlock()
			changed, err := j.Recover(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := []state.Record(nil)
			if lost {
				want = batch
			}
			if !slices.EqualFunc(changed, want, func(a, b state.Record) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) }) {
				t.Errorf("found %q, want %q", changed, want)
			}
			if j.Term() != 2 {
				t.Errorf("term %d", j.Term())
			}
			if err := j.Append(t.Context(), []state.Record{rec("document/hold/c", "3")}); err != nil {
				t.Errorf("it goes on: %v", err)
			}
		})
	}
}

// The hub's store was set back to last week's backup. What was decided since is
// not in it; an agent that obeyed it says so, and the hub decides nothing.
func TestALedgerThatWasSetBackDecidesNothing(t *testing.T) {
	m := newMemory()
	open := func() *ledger.Journal { return journal(t, m, "hub") }
	first := open()
	_ = first.Append(t.Context(), []state.Record{rec("document/hold/a", "1")})
	_ = first.Close(t.Context())
	backup := maps.Clone(m.objects)
	for range 3 {
		j := open()
		j.Told("eu")
		if err := j.SawTerm(t.Context(), "eu", j.Term()); err != nil {
			t.Errorf("an agent that connects again was told of this very term: %v", err)
		}
		if err := j.SawTerm(t.Context(), "us", j.Term()-1); err != nil {
			t.Errorf("an agent that knows an earlier term: %v", err)
		}
		_ = j.Close(t.Context())
	}
	m.mu.Lock()
	m.objects = maps.Clone(backup)
	m.mu.Unlock()
	for life, seen := range []uint64{4, 3} { // 4 is above the term of this life, 3 the same as of the next
		j := open()
		var why *ledger.NotDecidingError
		if err := j.SawTerm(t.Context(), "eu", seen); !errors.As(err, &why) || why.Seen == 0 || why.Region != "eu" || errors.Is(err, ledger.ErrTaken) {
			t.Errorf("life %d: %v", life, err)
		}
		if err := j.Append(t.Context(), []state.Record{rec("document/hold/b", "1")}); !errors.Is(err, ledger.ErrNotDeciding) {
			t.Errorf("life %d records: %v", life, err)
		}
		_ = j.Close(t.Context())
	}
	if err := open().Deciding(); !errors.Is(err, ledger.ErrNotDeciding) {
		t.Errorf("a restart is no cure, for what was decided is still not there: %v", err)
	}
	m.mu.Lock()
	m.objects = maps.Clone(backup)
	m.mu.Unlock()
	j := open()
	if err := j.SawTerm(t.Context(), "us", j.Term()); !errors.Is(err, ledger.ErrNotDeciding) {
		t.Errorf("a region that this life told nothing knows its very term: %v", err)
	}
}

// A year of small decisions: what a newer one replaced goes, what lives stays.
func TestTheLedgerStaysSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.times = map[string]time.Time{}
		j, err := ledger.OpenJournal(t.Context(), m, ledger.JournalConfig{Holder: "hub", ID: "hub", MinAge: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		value := bytes.Repeat([]byte("x"), 500)
		most, sum := 0, 0
		const rounds = 5_000
		for n := range rounds {
			if err := j.Append(t.Context(), []state.Record{{Key: fmt.Sprintf("decision/%d", n%50), Value: fmt.Appendf(nil, "%d %s", n, value)}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			if n%500 == 499 {
				m.mu.Lock()
				sum = 0
				for _, b := range m.objects {
					sum += len(b)
				}
				most = max(most, len(m.objects))
				m.mu.Unlock()
			}
		}
		t.Logf("%d appends of 500 bytes: %d objects at most, %d bytes at the end", rounds, most, sum)
		if most > 1000 || sum > 2<<20 {
			t.Errorf("%d objects, %d bytes", most, sum)
		}
		if got := all(t, j); len(got) != 50 || !strings.HasPrefix(got[49], "decision/9=4959 ") {
			t.Errorf("%d rows live, the last is %.40q", len(got), got[len(got)-1])
		}
		if err := j.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
