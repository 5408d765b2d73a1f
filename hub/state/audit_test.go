package state_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/regions"
)

// trail is an audit of n acts of a person, as it is stored.
func trail(t testing.TB, n int) ([]state.Record, state.AuditHead) {
	t.Helper()
	set, err := regions.Parse([]string{"eu"})
	if err != nil {
		t.Fatal(err)
	}
	var out []state.Record
	var s *state.State
	for i := range n {
		set.Regions[0].Reset = fmt.Sprintf("it lacks %d slates", i+1)
		s = state.New(state.Config{}, state.Saved{Regions: set}, dawn)
		for _, rec := range out {
			if err := s.Replay(rec); err != nil {
				t.Fatal(err)
			}
		}
		ready := s.Step(state.AcceptRegion{Region: "eu", By: "eve"}, dawn)
		if ready.Err != nil || len(ready.Records) != 1 || ready.Then == nil {
			t.Fatalf("%+v", ready)
		}
		out = append(out, ready.Records...)
	}
	return out, s.AuditHead()
}

func TestAcceptingARegionIsAuditedBeforeItIsDone(t *testing.T) {
	set, _ := regions.Parse([]string{"eu"})
	set.Regions[0].Reset = "it lacks 12 slates"
	s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
	ready := s.Step(state.AcceptRegion{Region: "eu", By: "eve"}, dawn)
	if got := s.Set(); got.Get("eu").Reset == "" {
		t.Error("it is accepted before its entry in the audit can be durable")
	}
	e, err := state.DecodeAudit(ready.Records[0].Value)
	if err != nil || e.Who != "eve" || e.What != "accepted" || e.Of != "region/eu" || e.Why != "it lacks 12 slates" || !e.At.Equal(dawn) || e.Number != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	if ready = s.Step(ready.Then, dawn); ready.Err != nil || s.Set().Get("eu").Reset != "" {
		t.Errorf("then it is done: %+v", ready)
	}
}

func TestTheAuditNamesWhatWasDoneToIt(t *testing.T) {
	whole, head := trail(t, 7)
	none := state.AuditHead{}
	value := func(rs []state.Record, n int, old, new string) []state.Record {
		rs = slices.Clone(rs)
		b := bytes.Replace(rs[n-1].Value, []byte(old), []byte(new), 1)
		if bytes.Equal(b, rs[n-1].Value) {
			t.Fatalf("%s is not in %s", old, rs[n-1].Value)
		}
		rs[n-1].Value = b
		return rs
	}
	swap := func(rs []state.Record, a, b int) []state.Record {
		rs = slices.Clone(rs)
		rs[a-1].Value, rs[b-1].Value = rs[b-1].Value, rs[a-1].Value
		return rs
	}
	// forge makes everything from an entry on anew, as one can who may write the store.
	forge := func(rs []state.Record, n int) []state.Record {
		rs = slices.Clone(rs)
		var before state.AuditEntry
		for i := n - 1; i < len(rs); i++ {
			e, _ := state.DecodeAudit(rs[i].Value)
			if i == n-1 {
				e.Who = "bob"
			} else {
				e.Previous = before.Hash()
			}
			rs[i].Value, before = e.Encode(), e
		}
		return rs
	}
	for _, c := range []struct {
		what    string
		records []state.Record
		head    state.AuditHead
		want    []string
	}{
		{"nothing", whole, none, nil},
		{"nothing, and somebody kept the head", whole, head, nil},
		{"nothing, and somebody kept an earlier head", whole, mustHead(t, whole[3]), nil},
		{"a name was edited", value(whole, 3, "eve", "bob"), none, []string{"3 edited"}},
		{"one byte was edited so that it is no entry", value(whole, 3, `{"`, `{'`), none, []string{"3 unreadable"}},
		{"a field that no entry has was put in", value(whole, 3, `"who"`, `"x":1,"who"`), none, []string{"3 unreadable"}},
		{"the hash of the one before was edited", value(whole, 3, `"previous":"`, `"previous":"0`), none, []string{"3 edited"}},
		{"the first was edited", value(whole, 1, "eve", "bob"), none, []string{"1 edited"}},
		{"the first names one before it", value(whole, 1, `"previous":"`, `"previous":"00`), none, []string{"1 edited"}},
		{"one was taken out", slices.Delete(slices.Clone(whole), 3, 4), none, []string{"4 missing"}},
		{"three were taken out", slices.Delete(slices.Clone(whole), 2, 5), none, []string{"3 missing"}},
		{"the first was taken out", whole[1:], none, []string{"1 missing"}},
		{"two change places", swap(whole, 2, 5), none, []string{"2 swapped", "5 swapped"}},
		{"two neighbours change places", swap(whole, 4, 5), none, []string{"4 swapped", "5 swapped"}},
		{"a copy has them in another order", append([]state.Record{whole[1], whole[0]}, whole[2:]...), none, []string{"1 swapped"}},
		{"the end was cut off: nobody can see that", whole[:5], none, nil},
		{"the end was cut off, and somebody kept the head", whole[:5], head, []string{"6 missing"}},
		{"all of it is gone, and somebody kept the head", nil, head, []string{"1 missing"}},
		{"the last was edited: nobody can see that", value(whole, 7, "eve", "bob"), none, nil},
		{"the last was edited, and somebody kept the head", value(whole, 7, "eve", "bob"), head, []string{"7 edited"}},
		{"the last but one was edited", value(whole, 6, "eve", "bob"), none, []string{"6 edited"}},
		{"everything from one on was made anew: nobody can see that", forge(whole, 4), none, nil},
		{"everything from one on was made anew, and somebody kept the head", forge(whole, 4), head, []string{"7 edited"}},
		{"everything from one on was made anew, and somebody kept an earlier head", forge(whole, 4), mustHead(t, whole[4]), []string{"5 edited"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := state.VerifyAudit(c.records, c.head)
			var got []string
			for _, p := range r.Problems {
				got = append(got, fmt.Sprintf("%d %s", p.Number, p.What))
				if !strings.Contains(p.Text, fmt.Sprint(p.Number)) {
					t.Errorf("%q does not name entry %d", p.Text, p.Number)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q: %+v", got, c.want, r.Problems)
			}
			if r.Entries != len(c.records) {
				t.Errorf("%d entries of %d", r.Entries, len(c.records))
			}
		})
	}
}

// Every byte of a stored entry counts, wherever it is flipped: with the head
// that was kept nothing goes unseen.
func TestNoFlippedBitOfTheAuditGoesUnseen(t *testing.T) {
	whole, head := trail(t, 3)
	for i := range whole {
		for at := range whole[i].Value {
			for bit := range 8 {
				rs := slices.Clone(whole)
				rs[i].Value = bytes.Clone(rs[i].Value)
				rs[i].Value[at] ^= 1 << bit
				r := state.VerifyAudit(rs, head)
				if len(r.Problems) > 0 {
					continue
				}
				// What reads the same is the same: JSON takes "Who" for "who".
				e, err := state.DecodeAudit(rs[i].Value)
				if err != nil || !bytes.Equal(e.Encode(), whole[i].Value) {
					t.Fatalf("entry %d, byte %d, bit %d: %s", i+1, at, bit, rs[i].Value)
				}
			}
		}
	}
}

func mustHead(t *testing.T, rec state.Record) state.AuditHead {
	t.Helper()
	e, err := state.DecodeAudit(rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	h, err := state.ParseAuditHead(state.AuditHead{Number: e.Number, Hash: e.Hash()}.String())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func FuzzDecodeAudit(f *testing.F) {
	rs, head := trail(f, 2)
	f.Add(rs[0].Value)
	f.Add(rs[1].Value)
	f.Add([]byte(`{"version":1,"number":18446744073709551615}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := state.DecodeAudit(b)
		if err == nil {
			again, err := state.DecodeAudit(e.Encode())
			if err != nil || again.Hash() != e.Hash() {
				t.Errorf("%q: %v", b, err)
			}
		}
		_ = state.VerifyAudit([]state.Record{rs[0], {Key: state.AuditKey(max(e.Number, 1)), Value: b}}, head)
	})
}
