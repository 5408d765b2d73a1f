package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// propose asks for a permit for each slate in eu.
func (f *fleet) propose(t *testing.T, by string, needs int, slates ...string) {
	t.Helper()
	if f.ruler.Office().Term == 0 {
		if err := f.step(state.Office{Term: 7, Ledger: "6f1c1c3e-9d1e-4c8c-9a50-0b6a3c1b0001"}); err != nil {
			t.Fatal(err)
		}
	}
	e := state.Propose{By: by, Why: "a test"}
	for i, s := range slates {
		e.Decisions = append(e.Decisions, state.Proposal{Needs: needs, Decision: catalog.Decision{Verb: catalog.VerbPermit, Region: "eu", Slate: s, Root: s, Incarnation: "I",
			Position: ptr(uint64(100 + i)), PositionDomain: "lsn", Evidence: [32]byte{1}, Expires: 10 * time.Minute}})
	}
	if err := f.step(e); err != nil {
		t.Fatal(err)
	}
}

// decided is the n-th decision of those that there are, from 0, in their order.
func (f *fleet) decided(n uint64) *catalog.DecisionRow {
	for d := range f.View().Decisions() {
		if d.Number == n+1 {
			return d
		}
	}
	return nil
}

func as(who string) []string { return []string{"Quarry-By", who} }

func TestDecisionsAreRowsLikeOthers(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	var none struct{ Items []json.RawMessage }
	if get(t, s, "/v1/decisions").json(t, &none); none.Items == nil || len(none.Items) != 0 {
		t.Errorf("no decisions are an empty list: %v", none.Items)
	}
	f.propose(t, "sam", 0, "a", "b", "c")
	f.propose(t, "sam", 1, "d")
	var list struct{ Items []catalog.DecisionRow }
	numbers := func(path string) string {
		t.Helper()
		list.Items = nil
		get(t, s, path).json(t, &list)
		out := ""
		for _, d := range list.Items {
			out += d.Slate
		}
		return out
	}
	for path, want := range map[string]string{
		"/v1/decisions":                                             "dcba", // the newest first
		"/v1/decisions?page_size=2":                                 "dc",
		"/v1/decisions?order_by=slate":                              "abcd",
		"/v1/decisions?filter=stage%3D%22proposed%22":               "d",
		"/v1/decisions?filter=position%3E100+AND+region%3D%22eu%22": "cb",
		"/v1/decisions?filter=waiting:%22approval-needed*%22":       "d",
	} {
		if got := numbers(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	get(t, s, "/v1/decisions?filter=stage%3D%22thought-of%22").problem(t, 400, CodeBadFilter)
	var one struct{ Item catalog.DecisionRow }
	get(t, s, "/v1/decisions/"+f.decided(0).ID).json(t, &one)
	d := one.Item
	if d.Number != 1 || d.By != "sam" || d.Why != "a test" || d.Stage != catalog.StageApproved || d.Sent != nil || d.Ended != nil || d.Outcome != nil || len(d.Waiting) != 1 || !strings.HasPrefix(d.Waiting[0], "region-stale: eu") {
		t.Errorf("%+v", d)
	}
	if d := f.decided(3); len(d.Waiting) != 1 || !strings.Contains(d.Waiting[0], "quarry approve "+d.ID) {
		t.Errorf("what waits for people says how to go on: %q", d.Waiting)
	}

	// A watcher sees each decision's newest state.
	next, stop := follow(t, s, "/v1/decisions:watch")
	defer stop()
	for range 4 {
		next()
	}
	if e := next(); e.name != "bookmark" {
		t.Fatalf("%+v", e)
	}
	ask(t, s, "POST", "/v1/decisions/"+f.decided(3).ID+":refuse", `{"why":"not now"}`, as("kim")...)
	if e := next(); e.name != "row" || !strings.Contains(e.data, `"stage":"refused"`) {
		t.Errorf("%+v", e)
	}
}

// Two people agree, by the names that they give.
func TestADecisionThatNeedsTwoGoesOnWithTheSecond(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	f.propose(t, "sam", 2, "a")
	path := "/v1/decisions/" + f.decided(0).ID + ":approve"
	ask(t, s, "POST", path, `{}`, as("sam")...).problem(t, 409, CodeRefused)
	var done Done
	ask(t, s, "POST", path+"?validate_only=true", `{}`, as("kim")...).json(t, &done)
	if done.Done || !strings.HasSuffix(done.What, "has 1 of 2 approvals") || len(f.decided(0).Approved) != 0 {
		t.Errorf("a dry run: %+v", done)
	}
	ask(t, s, "POST", path, `{}`, as("kim")...).json(t, &done)
	if !done.Done || f.decided(0).Stage != catalog.StageProposed || !strings.Contains(f.decided(0).Waiting[0], "another person has to agree") {
		t.Errorf("%+v, %+v", done, f.decided(0))
	}
	ask(t, s, "POST", path, `{}`, as("kim")...).problem(t, 409, CodeRefused)
	ask(t, s, "POST", path, `{"why":"I looked"}`, as("lee")...).json(t, &done)
	if d := f.decided(0); d.Stage != catalog.StageApproved || len(d.Approved) != 2 || d.Approved[1].By != "lee" || !strings.HasSuffix(done.What, "is approved") {
		t.Errorf("%+v, %+v", done, d)
	}
	ask(t, s, "POST", path, `{}`, as("max")...).problem(t, 409, CodeRefused)
	ask(t, s, "POST", "/v1/decisions/"+f.decided(0).ID+":refuse", `{"why":"second thoughts"}`).json(t, &done)
	if d := f.decided(0); d.Stage != catalog.StageRefused || d.Ended == nil {
		t.Errorf("%+v", d)
	}
	ask(t, s, "POST", "/v1/decisions/none:refuse", `{}`).problem(t, 404, CodeNotFound)
}

func TestTheBreakerIsShownAndClosedByAPerson(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	f.propose(t, "sam", 0, "a")
	ask(t, s, "POST", "/v1/breaker:close", `{"slates":40}`).problem(t, 409, CodeRefused)
	if err := f.step(state.TripBreaker{By: "hub", Why: "40 of 40 slates", Slates: 40}); err != nil {
		t.Fatal(err)
	}
	var b catalog.BreakerRow
	get(t, s, "/v1/breaker").json(t, &b)
	if !b.Open || b.Why != "40 of 40 slates" || b.Since == nil || b.Slates != 40 {
		t.Errorf("%+v", b)
	}
	if err := f.step(state.Tick{}); err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(f.decided(0).Waiting, "|"); !strings.Contains(w, "breaker-open: 40 of 40 slates") {
		t.Errorf("what waits for the breaker says so: %q", w)
	}
	// Whoever closes it has seen the count.
	for _, query := range []string{"", "?validate_only=true"} {
		p := ask(t, s, "POST", "/v1/breaker:close"+query, `{"slates":39,"why":"meant"}`).problem(t, 409, CodeRefused)
		if !strings.Contains(p.Detail, "39 are meant, 40 would be touched") {
			t.Errorf("%+v", p)
		}
	}
	var done Done
	ask(t, s, "POST", "/v1/breaker:close", `{"slates":40,"why":"meant"}`, as("kim")...).json(t, &done)
	b = catalog.BreakerRow{}
	if get(t, s, "/v1/breaker").json(t, &b); !done.Done || b.Open || b.By != "kim" || b.Why != "meant" {
		t.Errorf("%+v, %+v", done, b)
	}
	types := []string{}
	events, _ := f.ruler.View().Events(0, 0)
	for _, e := range events {
		types = append(types, e.Type)
	}
	if got := strings.Join(types, " "); got != "decision-proposed breaker-open breaker-closed" {
		t.Errorf("events: %s", got)
	}
}
