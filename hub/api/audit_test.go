package api

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
)

func (f *fleet) record(records []state.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rec := range records {
		if strings.HasPrefix(rec.Key, "audit/") {
			f.trail = append(f.trail, rec)
		}
	}
}

func (f *fleet) Deciding() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.idle
}

func (f *fleet) Audit(_ context.Context, after uint64) iter.Seq2[state.Record, error] {
	f.mu.Lock()
	trail := slices.Clone(f.trail)
	f.mu.Unlock()
	return func(yield func(state.Record, error) bool) {
		for _, rec := range trail {
			if rec.Key > state.AuditKey(after) && !yield(rec, nil) {
				return
			}
		}
	}
}

func (f *fleet) AuditHead() state.AuditHead {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ruler.AuditHead()
}

func TestTheAuditIsListedAndVerified(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	for i := range 5 {
		f.mu.Lock()
		f.now = noon.Add(time.Duration(i) * time.Hour)
		f.mu.Unlock()
		verb := []string{"freeze", "thaw"}[i%2]
		if a := ask(t, s, "POST", "/v1/freezes:"+verb, `{"scope":"all","why":"a test"}`); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	for path, want := range map[string]string{
		"/v1/audit":                     "1 frozen, 2 thawed, 3 frozen, 4 thawed, 5 frozen; next 0 of 5",
		"/v1/audit?after=3":             "4 thawed, 5 frozen; next 0 of 5",
		"/v1/audit?page_size=2":         "1 frozen, 2 thawed; next 2 of 5",
		"/v1/audit?page_size=2&after=2": "3 frozen, 4 thawed; next 4 of 5",
		"/v1/audit?page_size=2&after=4": "5 frozen; next 0 of 5",
		"/v1/audit?since=90m":           "4 thawed, 5 frozen; next 0 of 5",
		"/v1/audit?after=5":             "; next 0 of 5",
	} {
		var got audited
		get(t, s, path).json(t, &got)
		var says []string
		for _, e := range got.Items {
			says = append(says, fmt.Sprint(e.Number, " ", e.What))
			if e.Hash == "" || e.Of != "freeze/all" || !strings.Contains(e.Why, "a test") || e.Who == "" {
				t.Errorf("%+v", e)
			}
		}
		if is := fmt.Sprintf("%s; next %d of %d", strings.Join(says, ", "), got.Next, got.Head.Number); is != want {
			t.Errorf("%s: %s, want %s", path, is, want)
		}
	}
	get(t, s, "/v1/audit?since=soon").problem(t, 400, CodeBadParameter)
	get(t, s, "/v1/audit?after=x").problem(t, 400, CodeBadParameter)
	get(t, s, "/v1/audit:verify?head=x").problem(t, 400, CodeBadParameter)

	var whole state.AuditReport
	get(t, s, "/v1/audit:verify").json(t, &whole)
	if whole.Entries != 5 || len(whole.Problems) != 0 || whole.Head != f.AuditHead() {
		t.Errorf("%+v", whole)
	}
	// Somebody cuts the end off the stored audit; the hub that runs remembers.
	f.mu.Lock()
	kept := f.trail
	f.trail = kept[:3]
	f.mu.Unlock()
	var cut state.AuditReport
	get(t, s, "/v1/audit:verify").json(t, &cut)
	if len(cut.Problems) != 1 || cut.Problems[0].Number != 4 || cut.Problems[0].What != "missing" {
		t.Errorf("%+v", cut)
	}
	f.mu.Lock()
	f.trail = kept
	f.mu.Unlock()
	var other state.AuditReport
	get(t, s, "/v1/audit:verify?head=2:"+strings.Repeat("ab", 32)).json(t, &other)
	if len(other.Problems) != 1 || other.Problems[0].Number != 2 {
		t.Errorf("a head that was kept of another history: %+v", other)
	}
}

func TestAHubThatDoesNotDecideSaysSo(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	if a := get(t, s, "/v1/regions"); strings.Contains(a.body, "not_deciding") {
		t.Errorf("%s", a.body)
	}
	if a := get(t, s, "/readyz?verbose"); !strings.Contains(a.body, "[+] deciding") {
		t.Errorf("%s", a.body)
	}
	f.mu.Lock()
	f.idle = &ledger.NotDecidingError{Term: 6, By: 7, Holder: "hub-b pid 12", Since: noon}
	f.mu.Unlock()
	const says = "not deciding: hub-b pid 12 holds the ledger since 2026-11-21T12:00:00Z with term 7, this hub's is 6; stop one of the two"
	var list struct {
		Items []any
		Not   string `json:"not_deciding"`
	}
	get(t, s, "/v1/regions").json(t, &list)
	if list.Not != says || len(list.Items) != 3 {
		t.Errorf("%+v", list)
	}
	for _, path := range []string{"/readyz", "/readyz?verbose"} {
		if a := get(t, s, path); a.status != 200 || !strings.Contains(a.body, says) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
