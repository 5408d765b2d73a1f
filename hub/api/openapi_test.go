package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

func TestTheDocumentIsTheOneCommitted(t *testing.T) {
	doc, err := document(operations())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "openapi.json", doc)
}

// contract is the document as a validator that also refuses what it does not
// name: the document lets things be added, but what is there today is all in it.
func contract(t *testing.T) *openapi3.T {
	t.Helper()
	b, err := document(operations())
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]any
	if err := json.Unmarshal(b, &raw); err != nil {
		t.Fatal(err)
	}
	for name, s := range raw["components"].(map[string]any)["schemas"].(map[string]any) {
		if name != "Group" {
			s.(map[string]any)["additionalProperties"] = false
		}
	}
	if b, err = json.Marshal(raw); err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Fatalf("the document is not OpenAPI 3.1: %v", err)
	}
	return doc
}

// TestEveryOperationAnswersAsDocumented asks each operation of the document
// once, and refuses an operation that nobody asks here.
func TestEveryOperationAnswersAsDocumented(t *testing.T) {
	doc := contract(t)
	f := newFleet()
	_, s := serve(t, f, Options{})
	asked := map[string]bool{}
	check := func(id, method, path, body string) {
		t.Helper()
		asked[id] = true
		var op *openapi3.Operation
		for _, item := range doc.Paths.Map() {
			for _, o := range item.Operations() {
				if o.OperationID == id {
					op = o
				}
			}
		}
		if op == nil {
			t.Fatalf("%s is not in the document", id)
		}
		var got answer
		if strings.HasPrefix(id, "watch_") {
			next, stop := follow(t, s, path)
			next()
			stop()
			return
		}
		got = ask(t, s, method, path, body)
		media, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
		res := op.Responses.Status(got.status)
		if res == nil {
			t.Errorf("%s: status %d is not in the document", path, got.status)
			return
		}
		m := res.Value.Content.Get(media)
		if m == nil {
			t.Errorf("%s: %d of type %s is not in the document", path, got.status, media)
			return
		}
		if media == "text/plain" {
			return
		}
		var v any
		got.json(t, &v)
		if err := m.Schema.Value.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
			t.Errorf("%s: %v\n%s", path, err, got.body)
		}
	}
	for _, r := range append(resources(), eventRows()) {
		id := strings.ReplaceAll(r.name, "-", "_")
		first := r.typ.Fields[0].Name
		check("list_"+id, "GET", "/v1/"+r.name, "")
		check("list_"+id, "GET", "/v1/"+r.name+"?page_size=1&require_fresh=2h", "")
		check("list_"+id, "GET", "/v1/"+r.name+"?filter=nothing%3D1", "")
		check("list_"+id, "GET", "/v1/"+r.name+"?require_fresh=1s", "")
		check("summarize_"+id, "GET", "/v1/"+r.name+":summarize?by="+first, "")
		check("watch_"+id, "GET", "/v1/"+r.name+":watch", "")
	}
	check("list_events", "GET", "/v1/events?after=1000", "")
	check("get_slate", "GET", "/v1/slates/dbs%2Forders", "")
	check("get_slate", "GET", "/v1/slates/nobody", "")
	check("get_region", "GET", "/v1/regions/eu", "")
	check("accept_region", "POST", "/v1/regions/us:accept", "{}")
	check("accept_region", "POST", "/v1/regions/eu:accept", "{}")
	check("forget_placement", "POST", "/v1/placements:forget", `{"slate":"dbs/lost","region":"us"}`)
	check("forget_placement", "POST", "/v1/placements:forget", `{"slate":"dbs/orders","region":"us"}`)
	documents := `{"file":"p.yaml","content":` + strconv.Quote(archives+aHold) + `}`
	check("test_policies", "POST", "/v1/policies:test", documents)
	check("test_policies", "POST", "/v1/policies:test", `{"file":"p.yaml","content":"kind: Policy"}`)
	check("apply_documents", "POST", "/v1/documents:apply?validate_only=true", documents)
	check("apply_documents", "POST", "/v1/documents:apply", documents)
	check("apply_documents", "POST", "/v1/documents:apply", `{"file":"p.yaml","content":""}`)
	check("get_policy", "GET", "/v1/policies/archives", "")
	check("get_hold", "GET", "/v1/holds/case-4711", "")
	check("explain_slate", "GET", "/v1/slates/archive%2F0:explain", "")
	check("explain_slate", "GET", "/v1/slates/dbs%2Forders:explain?verb=trim", "")
	check("explain_slate", "GET", "/v1/slates/nobody:explain", "")
	check("trim_slate", "POST", "/v1/slates/archive%2F0:trim?validate_only=true", "{}")
	check("trim_slate", "POST", "/v1/slates/archive%2F0:trim", `{"up_to":5}`)
	check("trim_slate", "POST", "/v1/slates/nobody:trim", "{}")
	check("prune_slate", "POST", "/v1/slates/archive%2F0:prune?validate_only=true", "{}")
	check("prune_slate", "POST", "/v1/slates/archive%2F0:prune", `{"region":"eu"}`)
	check("prune_slate", "POST", "/v1/slates/nobody:prune", "{}")
	check("summarize_trims", "GET", "/v1/trims:summarize", "")
	check("freeze", "POST", "/v1/freezes:freeze", `{"scope":"all","why":"a test"}`)
	check("list_freezes", "GET", "/v1/freezes", "")
	check("thaw", "POST", "/v1/freezes:thaw", `{"scope":"all"}`)
	check("thaw", "POST", "/v1/freezes:thaw", `{"scope":"all"}`)
	check("release_hold", "POST", "/v1/holds/case-4711:release", `{"why":"settled"}`)
	check("remove_policy", "POST", "/v1/policies/archives:remove", `{}`)
	check("join_region", "POST", "/v1/regions/ap:join", `{}`)
	check("join_region", "POST", "/v1/regions/ap:join", `{"as":"active"}`)
	check("join_region", "POST", "/v1/regions/ap:join", `{"as":"king"}`)
	check("retire_region", "POST", "/v1/regions/ap:retire", `{}`)
	f.propose(t, "sam", 1, "dbs/orders", "dbs/users")
	check("list_decisions", "GET", "/v1/decisions", "")
	check("get_breaker", "GET", "/v1/breaker", "")
	check("get_decision", "GET", "/v1/decisions/"+f.decided(0).ID, "")
	check("get_decision", "GET", "/v1/decisions/none", "")
	check("approve_decision", "POST", "/v1/decisions/"+f.decided(0).ID+":approve", "{}")
	check("approve_decision", "POST", "/v1/decisions/none:approve", "{}")
	check("refuse_decision", "POST", "/v1/decisions/"+f.decided(1).ID+":refuse", `{"why":"not now"}`)
	check("refuse_decision", "POST", "/v1/decisions/"+f.decided(1).ID+":refuse", "{}")
	check("close_breaker", "POST", "/v1/breaker:close", `{"slates":3}`)
	check("list_audit", "GET", "/v1/audit?after=1&since=1h&page_size=2", "")
	check("list_audit", "GET", "/v1/audit?since=soon", "")
	check("list_audit", "GET", "/v1/audit?of=freeze/all", "")
	check("verify_audit", "GET", "/v1/audit:verify", "")
	check("verify_audit", "GET", "/v1/audit:verify?head=1:2", "")
	for _, id := range []string{"openapi", "livez", "readyz", "metrics"} {
		for path, item := range doc.Paths.Map() {
			if item.Get != nil && item.Get.OperationID == id {
				check(id, "GET", path, "")
			}
		}
	}
	check("readyz", "GET", "/readyz?verbose", "")
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if !asked[op.OperationID] {
				t.Errorf("nobody asks %s %s here", method, path)
			}
		}
	}
}

// A broken answer must not pass, or the test above says nothing.
func TestTheValidatorRefusesBrokenRows(t *testing.T) {
	doc := contract(t)
	s := doc.Components.Schemas["RestorePoint"].Value
	good := `{"slate":"a","region":"eu","root":"a","incarnation":"","id":"x","source":"snapshot","position":18446744073709551615,"position_domain":"lsn","lineage":"","created_at":null,"state":"listed","observed_at":"2026-11-21T12:00:00Z","first_seen":"2026-11-21T12:00:00Z"}`
	for text, ok := range map[string]bool{
		good: true,
		strings.Replace(good, `"state":"listed",`, "", 1):        false,
		strings.Replace(good, `"x"`, `null`, 1):                  false,
		strings.Replace(good, `"x"`, `"x","more":1`, 1):          false,
		strings.Replace(good, `18446744073709551615`, `-1`, 1):   false,
		strings.Replace(good, `18446744073709551615`, `null`, 1): true,
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := s.VisitJSON(v, openapi3.EnableJSONSchema2020()); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestEveryParameterIsDocumentedAndNamedInSnakeCase(t *testing.T) {
	for _, op := range operations() {
		for _, p := range op.params {
			if p.doc == "" || p.in == "query" && !regexp.MustCompile(`^[a-z_]+$`).MatchString(p.name) {
				t.Errorf("%s: parameter %q", op.id, p.name)
			}
		}
		if op.method != http.MethodGet && op.method != http.MethodPost {
			t.Errorf("%s: the document knows no %s", op.id, op.method)
		}
	}
}
