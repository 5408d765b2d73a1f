package api

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

const archives = `apiVersion: quarry/v1
kind: Policy
metadata: {name: archives}
select: {kinds: [snapshots]}
trim: {require: {all: true}}
`

const aHold = `---
apiVersion: quarry/v1
kind: Hold
metadata: {name: case-4711}
select: {names: [archive/*]}
`

func documentsBody(text string) string {
	return `{"file":"p.yaml","content":` + strconv.Quote(text) + `}`
}

func TestAFileIsAppliedAsAWhole(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	var got AppliedDocuments
	ask(t, s, "POST", "/v1/documents:apply", documentsBody(archives+aHold)).json(t, &got)
	if !got.Done || len(got.Changes) != 2 || got.Changes[0].Name != "archives" || got.Changes[0].Revision != 1 || got.Changes[1].Change != "created" {
		t.Fatalf("%+v", got)
	}
	// A region that is not in the set refuses the file, the good half of it too,
	// and says where.
	bad := strings.Replace(archives, "{kinds: [snapshots]}", "{kinds: [snapshots], names: [a*]}", 1) + strings.Replace(aHold, "names: [archive/*]", "names: [a], regions: [mars]", 1)
	p := ask(t, s, "POST", "/v1/documents:apply", documentsBody(bad)).problem(t, 409, CodeRejected)
	if p.Line != 10 || p.Column == 0 || !strings.Contains(p.Detail, "mars") || !strings.HasPrefix(p.Detail, "p.yaml:10:") {
		t.Errorf("%+v", p)
	}
	var row struct{ Item catalog.Policy }
	get(t, s, "/v1/policies/archives").json(t, &row)
	if row.Item.Revision != 1 || row.Item.Selects != "kinds snapshots" || !strings.Contains(row.Item.Document, "name: archives") {
		t.Errorf("%+v", row.Item)
	}
	// What is only checked is not done.
	ask(t, s, "POST", "/v1/documents:apply?validate_only=true", documentsBody(strings.Replace(archives, "all: true", "atLeast: 2", 1))).json(t, &got)
	if got.Done || got.Changes[0].Change != "configured" || f.View().Rules().Number != 1 {
		t.Errorf("%+v, number %d", got, f.View().Rules().Number)
	}
}

func TestExplainHasTheFieldsThatScriptsRelyOn(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	f.change(func(b *view.Builder) {
		for _, r := range []string{"asia", "eu", "us"} {
			b.SetPlacement(&catalog.Placement{Region: r, State: catalog.StateLive, Sighting: catalog.Sighting{
				Slate: "archive/0", Root: "archive/0", Kind: catalog.KindSnapshots, Seen: catalog.SeenLive, PositionDomain: "lsn", Lineage: "X"}}, false)
			b.SetTold(r, true)
			at := noon
			b.SetRegion(&catalog.Region{Name: r, State: catalog.RegionConnected, Membership: catalog.Active, AsOf: &at, HeardAt: &at}, false)
		}
		for r, n := range map[string]uint64{"asia": 120, "eu": 100, "us": 80} {
			b.SetRestorePoint(&catalog.RestorePoint{Slate: "archive/0", Region: r, Root: "archive/0", ID: r, Position: &n, PositionDomain: "lsn", Lineage: "X",
				Source: catalog.SourceSnapshot, State: catalog.RestoreVerified, ObservedAt: noon, FirstSeen: noon})
		}
	})
	f.change(func(b *view.Builder) { b.SetTerm(7) })
	ask(t, s, "POST", "/v1/documents:apply", documentsBody(archives))
	var e map[string]json.RawMessage
	get(t, s, "/v1/slates/archive%2F0:explain").json(t, &e)
	for field, want := range map[string]string{
		"slate": `"archive/0"`, "action": `"permit"`, "up_to": "80", "position_domain": `"lsn"`, "binding_region": `"us"`,
		"holds": "[]", "reasons": "[]", "policy": `{"name":"archives","revision":1}`,
	} {
		if string(e[field]) != want {
			t.Errorf("%s: %s, want %s", field, e[field], want)
		}
	}
	var rows []map[string]any
	if err := json.Unmarshal(e["regions"], &rows); err != nil || len(rows) != 3 {
		t.Fatalf("%v, %s", err, e["regions"])
	}
	for _, field := range []string{"region", "state", "verified", "newest", "age_seconds", "reasons"} {
		if _, ok := rows[0][field]; !ok {
			t.Errorf("regions[] has no %s: %v", field, rows[0])
		}
	}
	if len(e["plan"]) < 12 || e["term"] == nil {
		t.Errorf("plan %s, term %s", e["plan"], e["term"])
	}
	plan := string(e["plan"])
	get(t, s, "/v1/slates/archive%2F0:explain").json(t, &e)
	if string(e["plan"]) != plan {
		t.Errorf("the same evidence has another plan: %s, was %s", e["plan"], plan)
	}
	var tested state.Tested
	ask(t, s, "POST", "/v1/policies:test", documentsBody(strings.Replace(archives, "all: true", "atLeast: 2", 1))).json(t, &tested)
	if tested.Raised != 1 || tested.Changes[0].Slate != "archive/0" || *tested.Changes[0].Before != 80 || *tested.Changes[0].After != 100 {
		t.Errorf("%+v", tested)
	}
	ask(t, s, "POST", "/v1/policies:test", documentsBody(archives+aHold)).json(t, &tested)
	if tested.Closed != 1 || len(tested.Changes) != 1 || tested.Changes[0].After != nil || tested.Changes[0].Reasons[0] != "hold" {
		t.Errorf("%+v", tested)
	}
}

func TestRefusalsOfRulesSayWhatToDo(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	ask(t, s, "POST", "/v1/documents:apply", documentsBody(strings.Replace(archives, "{all: true}", "{atLeast: 3}", 1)+strings.Replace(aHold, "select:", "legal: true\nselect:", 1)))
	if p := ask(t, s, "POST", "/v1/regions/us:retire", `{}`).problem(t, 409, CodeRefused); !strings.Contains(p.Detail, "archives") {
		t.Errorf("%+v", p)
	}
	ask(t, s, "POST", "/v1/regions/mars:retire", `{}`).problem(t, 404, CodeNotFound)
	ask(t, s, "POST", "/v1/holds/none:release", `{}`).problem(t, 404, CodeNotFound)
	ask(t, s, "POST", "/v1/holds/case-4711:release", `{}`, as("ann")...)
	ask(t, s, "POST", "/v1/holds/case-4711:release", `{}`, as("ann")...).problem(t, 409, CodeRefused)
	ask(t, s, "POST", "/v1/freezes:freeze", `{"scope":"everything"}`).problem(t, 400, CodeBadBody)
	ask(t, s, "POST", "/v1/freezes:freeze", `{"scopes":"all"}`).problem(t, 400, CodeBadBody)
	ask(t, s, "POST", "/v1/regions/eu:join", `{}`).problem(t, 409, CodeRefused)
	get(t, s, "/v1/slates/dbs%2Forders:explain?verb=delete").problem(t, 400, CodeBadParameter)
	get(t, s, "/v1/slates/nobody:explain").problem(t, 404, CodeNotFound)
}

// Nobody is not another person than the one who asked.
func TestWhatNeedsTwoPeopleIsRefusedToWhomNobodyNames(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	ask(t, s, "POST", "/v1/documents:apply", documentsBody(strings.Replace(archives, "{all: true}", "{all: true}", 1)+strings.Replace(aHold, "select:", "legal: true\nselect:", 1)))
	f.propose(t, "sam", 1, "a")
	for _, path := range []string{"/v1/holds/case-4711:release", "/v1/regions/us:retire", "/v1/decisions/" + f.decided(0).ID + ":approve"} {
		for _, who := range [][]string{nil, as(""), as("a\tb"), as("sam//x"), as(strings.Repeat("x", 257))} {
			if p := ask(t, s, "POST", path, `{}`, who...).problem(t, 400, CodeBadParameter); p.Field != "Quarry-By" {
				t.Errorf("%s by %q: %+v", path, who, p)
			}
		}
	}
	if h := f.View().Hold("case-4711"); h == nil || h.Releasing != "" || f.View().Region("us").Retiring != "" || len(f.decided(0).Approved) != 0 {
		t.Errorf("%+v", h)
	}
	ask(t, s, "POST", "/v1/freezes:freeze", `{"scope":"all"}`, as("sam//x")...).problem(t, 400, CodeBadParameter)

	// A second person's word is not the first one's sent again.
	key := []string{"Idempotency-Key", "k"}
	ask(t, s, "POST", "/v1/holds/case-4711:release", `{}`, append(as("ann"), key...)...)
	ask(t, s, "POST", "/v1/holds/case-4711:release", `{}`, append(as("bob"), key...)...).problem(t, 422, CodeKeyReused)
	ask(t, s, "POST", "/v1/holds/case-4711:release", `{}`, as("bob")...)
	if h := f.View().Hold("case-4711"); h != nil {
		t.Errorf("%+v", h)
	}
}

func TestAJoinThatIsOnlyCheckedSaysWhatTheRealOneWould(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	ask(t, s, "POST", "/v1/regions/us:retire", `{}`)
	ask(t, s, "POST", "/v1/regions/mars:join", `{}`)
	for _, c := range []struct {
		region, body string
		status       int
	}{
		{"us", `{"as":"active"}`, 409}, {"eu", `{"as":"joining"}`, 409}, {"eu", `{"as":"active"}`, 409}, {"venus", `{"as":"active"}`, 404}, {"mars", `{}`, 409},
		{"us", `{}`, 200}, {"mars", `{"as":"active"}`, 200}, {"venus", `{}`, 200},
	} {
		for _, query := range []string{"?validate_only=true", ""} {
			if a := ask(t, s, "POST", "/v1/regions/"+c.region+":join"+query, c.body); a.status != c.status {
				t.Errorf("%s %s%s: %d %s", c.region, c.body, query, a.status, a.body)
			}
		}
	}
}
