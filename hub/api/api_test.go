package api

import (
	"context"
	"encoding/json"
	"flag"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

var update = flag.Bool("update", false, "write openapi.json and golden files anew")

// golden compares with a file of this package, or writes it with -update.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got)+"\n" {
		t.Errorf("%s differs from the code; read the difference, then go test -update. Now:\n%s", file, got)
	}
}

func TestAPlacementLooksLikeThis(t *testing.T) {
	_, s := serve(t, newFleet(), Options{})
	var list struct{ Items []json.RawMessage }
	get(t, s, `/v1/placements?filter=region="eu"&page_size=1`).json(t, &list)
	var pretty any
	if err := json.Unmarshal(list.Items[0], &pretty); err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(pretty, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/placement.json", b)
}

func TestAListSaysHowCurrentItIs(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	f.mu.Lock()
	f.now = noon.Add(10 * time.Second)
	f.mu.Unlock()
	var list struct {
		Items       []json.RawMessage
		AsOf        map[string]catalog.Freshness `json:"as_of"`
		Unreachable []string
		Next        *string `json:"next_page_token"`
	}
	get(t, s, "/v1/placements").json(t, &list)
	if len(list.Items) != 5 || len(list.AsOf) != 3 || !slices.Equal(list.Unreachable, []string{"asia", "us"}) || list.Next == nil || *list.Next != "" {
		t.Errorf("%+v", list)
	}
	// The age goes on while nothing happens.
	if age := list.AsOf["eu"].AgeMS; age == nil || *age != 12_000 {
		t.Errorf("eu is %v ms old, want 12000", age)
	}
	list.AsOf, list.Unreachable = nil, nil
	get(t, s, `/v1/placements?filter=region="eu"`).json(t, &list)
	if len(list.AsOf) != 1 || len(list.Unreachable) != 0 {
		t.Errorf("an answer about eu covers %v, %v", list.AsOf, list.Unreachable)
	}
}

func TestRequireFreshFailsClosed(t *testing.T) {
	_, s := serve(t, newFleet(), Options{})
	p := get(t, s, "/v1/slates?require_fresh=30s").problem(t, 409, CodeNotFresh)
	if len(p.Regions) != 1 || p.Regions[0].Name != "asia" || *p.Regions[0].AgeMS != 3_600_000 {
		t.Errorf("late regions: %+v", p.Regions)
	}
	get(t, s, "/v1/slates/dbs%2Forders?require_fresh=30s").problem(t, 409, CodeNotFresh)
	get(t, s, "/v1/placements?filter=region=mars&require_fresh=30s").problem(t, 409, CodeNotFresh)
	get(t, s, "/v1/slates?require_fresh=soon").problem(t, 400, CodeBadParameter)
	for _, path := range []string{"/v1/slates?require_fresh=2h", `/v1/placements?filter=region="eu"&require_fresh=30s`, "/v1/regions/eu?require_fresh=3s"} {
		if a := get(t, s, path); a.status != 200 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestSummaries(t *testing.T) {
	_, s := serve(t, newFleet(), Options{})
	for path, want := range map[string]string{
		"/v1/placements:summarize?by=region,kind":                   `[{"region":"eu","kind":"log","count":2,"bytes":3221225472,"bytes_unknown":0},{"region":"us","kind":"log","count":3,"bytes":3221225479,"bytes_unknown":0}]`,
		"/v1/placements:summarize?by=labels.team&filter=region=eu":  `[{"labels.team":"payments","count":2,"bytes":3221225472,"bytes_unknown":0}]`,
		"/v1/events:summarize?by=type":                              `[{"type":"slate-appeared","count":10}]`,
		"/v1/restore-points:summarize?by=slate":                     `[{"slate":"archive/0","count":5,"bytes":500,"bytes_unknown":0,"oldest_created_at":"2026-11-21T08:00:00Z"}]`,
		"/v1/placements:summarize?by=state&filter=region%3Dnowhere": `[]`,
	} {
		var got struct{ Groups json.RawMessage }
		get(t, s, path).json(t, &got)
		if string(got.Groups) != want {
			t.Errorf("%s:\n%s, want\n%s", path, got.Groups, want)
		}
	}
	get(t, s, "/v1/placements:summarize").problem(t, 400, CodeBadParameter)
	get(t, s, "/v1/placements:summarize?by=readers").problem(t, 400, CodeBadParameter)
}

func TestPagesAreStableWhileRowsChange(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	var seen []string
	token := ""
	for range 20 {
		var list struct {
			Items []struct{ Slate, Region string }
			Next  string `json:"next_page_token"`
		}
		get(t, s, "/v1/placements?page_size=1&page_token="+token).json(t, &list)
		for _, p := range list.Items {
			seen = append(seen, p.Slate+"@"+p.Region)
		}
		if token = list.Next; token == "" {
			break
		}
		// Rows come and go behind and before the page.
		f.change(func(b *view.Builder) {
			b.SetPlacement(placement("asia", "a/"+token[:8], 1), false)
			b.RemovePlacement("us", "dbs/lost")
		})
	}
	want := "dbs/lost@us dbs/orders@eu dbs/orders@us dbs/users@eu dbs/users@us"
	if got := strings.Join(seen, " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAPageTokenBelongsToItsFilterAndOrder(t *testing.T) {
	_, s := serve(t, newFleet(), Options{})
	var list struct {
		Next string `json:"next_page_token"`
	}
	get(t, s, "/v1/placements?page_size=1&order_by=bytes+desc").json(t, &list)
	get(t, s, "/v1/placements?order_by=bytes&page_token="+list.Next).problem(t, 400, CodeBadPageToken)
	get(t, s, "/v1/placements?order_by=bytes+desc&filter=registered&page_token="+list.Next).problem(t, 400, CodeBadPageToken)
	get(t, s, "/v1/slates?page_token="+list.Next).problem(t, 400, CodeBadPageToken)
	get(t, s, "/v1/placements?page_token=rubbish").problem(t, 400, CodeBadPageToken)
	if a := get(t, s, "/v1/placements?page_size=3&order_by=bytes+desc&fields=slate&page_token="+list.Next); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestRefusalsAreProblems(t *testing.T) {
	_, s := serve(t, newFleet(), Options{})
	p := get(t, s, "/v1/placements?filter=region+%3D+eu+AND+byts+%3E+1").problem(t, 400, CodeBadFilter)
	if p.Field != "filter" || p.Column != 17 || !strings.Contains(p.Hint, "bytes") || !strings.HasSuffix(p.Caret, "\n                ^") {
		t.Errorf("%+v", p)
	}
	get(t, s, "/v1/placements?order_by=byts").problem(t, 400, CodeBadOrder)
	get(t, s, "/v1/placements?fields=byts").problem(t, 400, CodeBadFields)
	get(t, s, "/v1/placements?page_size=-1").problem(t, 400, CodeBadParameter)
	get(t, s, "/v1/placements?page_size=many").problem(t, 400, CodeBadParameter)
	get(t, s, "/v1/placements?limit=3").problem(t, 400, CodeUnknownParam)
	get(t, s, "/v1/placements?filter=a&filter=b").problem(t, 400, CodeBadParameter)
	get(t, s, "/v1/slates/nobody").problem(t, 404, CodeNotFound)
	get(t, s, "/v1/nothing").problem(t, 404, CodeNotFound)
	get(t, s, "/v1/slates/dbs/orders").problem(t, 404, CodeNotFound)
	get(t, s, "/slates").problem(t, 404, CodeNotFound)
	if a := ask(t, s, "DELETE", "/v1/slates", ""); a.header.Get("Allow") != "GET" {
		t.Errorf("Allow: %q", a.header.Get("Allow"))
	} else {
		a.problem(t, 405, CodeMethod)
	}
	ask(t, s, "GET", "/v1/slates", "", "Host", "evil.example:7700").problem(t, 421, CodeHost)
	for _, host := range []string{"localhost:7700", "127.0.0.1", "[::1]:7700"} {
		if a := ask(t, s, "GET", "/v1/slates", "", "Host", host); a.status != 200 {
			t.Errorf("Host %s: %d", host, a.status)
		}
	}
}

func TestASlateIsFoundByItsEncodedName(t *testing.T) {
	_, s := serve(t, newFleet(), Options{})
	var got struct{ Item catalog.Slate }
	get(t, s, "/v1/slates/dbs%2Forders").json(t, &got)
	if got.Item.Name != "dbs/orders" {
		t.Errorf("%+v", got)
	}
	if a := get(t, s, "/v1/slates/dbs%2Forders?fields=kind"); !strings.HasPrefix(a.body, `{"item":{"kind":"log"},"as_of":`) {
		t.Error(a.body)
	}
}

func TestAcceptAndForgetNameWhoAsked(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	ask(t, s, "POST", "/v1/regions/mars:accept", "").problem(t, 404, CodeNotFound)
	ask(t, s, "POST", "/v1/regions/eu:accept", "").problem(t, 409, CodeNothingToAccept)
	ask(t, s, "POST", "/v1/regions/asia:accept", "").problem(t, 409, CodeNothingToAccept)
	ask(t, s, "POST", "/v1/regions/us:accept?validate_only=perhaps", "").problem(t, 400, CodeBadParameter)
	if a := ask(t, s, "POST", "/v1/regions/us:accept?validate_only=true", ""); a.status != 200 || !strings.Contains(a.body, `"done":false`) || f.accepted != nil {
		t.Errorf("%s, %v", a.body, f.accepted)
	}
	for range 2 {
		if a := ask(t, s, "POST", "/v1/regions/us:accept", "{}", "Quarry-By", "ann", "Idempotency-Key", "k1"); a.status != 200 || !strings.Contains(a.body, `"done":true`) {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if !slices.Equal(f.accepted, []string{"us by ann"}) {
		t.Errorf("the same key twice: accepted %v", f.accepted)
	}
	ask(t, s, "POST", "/v1/placements:forget", `{"slate":"dbs/lost","region":"us"}`, "Idempotency-Key", "k1").problem(t, 422, CodeKeyReused)
	ask(t, s, "POST", "/v1/placements:forget", `{"slate":"dbs/orders","region":"us"}`).problem(t, 409, CodeNotMissing)
	ask(t, s, "POST", "/v1/placements:forget", `{"slate":"dbs/orders","region":"asia"}`).problem(t, 404, CodeNotFound)
	ask(t, s, "POST", "/v1/placements:forget", `{"slate":"dbs/lost"}`).problem(t, 400, CodeBadBody)
	ask(t, s, "POST", "/v1/placements:forget", `{"slate":"dbs/lost","region":"us","force":true}`).problem(t, 400, CodeBadBody)
	ask(t, s, "POST", "/v1/placements:forget", "").problem(t, 415, CodeBadBody)
	ask(t, s, "POST", "/v1/placements:forget", `{"slate":"`+strings.Repeat("x", maxBody)+`"}`).problem(t, 413, CodeBadBody)
	ask(t, s, "POST", "/v1/placements:forget", `{"slate":"dbs/lost","region":"us"}`, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site").problem(t, 403, CodeOrigin)
	if f.forgot != nil {
		t.Errorf("forgot %v", f.forgot)
	}
	if a := ask(t, s, "POST", "/v1/placements:forget", `{"slate":"dbs/lost","region":"us"}`); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if !slices.Equal(f.forgot, []string{"us dbs/lost by somebody at 127.0.0.1"}) {
		t.Errorf("forgot %v", f.forgot)
	}
}

func TestOnlyThisMachineIsServed(t *testing.T) {
	a, err := New(newFleet(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	everywhere, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context(), everywhere); err == nil || !strings.Contains(err.Error(), "only this machine") {
		t.Errorf("on 0.0.0.0: %v", err)
	}
	if _, err := everywhere.Accept(); err == nil {
		t.Error("the refused listener is still open")
	}
}

func TestRunEndsStreamsWhenItsContextEnds(t *testing.T) {
	f := newFleet()
	a, err := New(f, Options{Now: f.clock})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, lis) }()
	con, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	if _, err := con.Write([]byte("GET /v1/slates:watch HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := con.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(graceful):
		t.Error("an open stream holds the server back")
	}
}

func TestBeforeTheViewIsLoadedNothingIsInvented(t *testing.T) {
	f := newFleet()
	f.v = nil
	_, s := serve(t, f, Options{})
	get(t, s, "/readyz").problem(t, 503, CodeNotReady)
	get(t, s, "/v1/slates").problem(t, 503, CodeNotReady)
	get(t, s, "/v1/slates:watch").problem(t, 503, CodeNotReady)
	if a := get(t, s, "/livez"); a.status != 200 {
		t.Error(a.status)
	}
	if a := get(t, s, "/metrics"); a.status != 200 || strings.Contains(a.body, "quarry_hub_placements") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestMetricsNameRegionsAndNeverSlates(t *testing.T) {
	_, s := serve(t, newFleet(), Options{Version: "v1.2.3"})
	get(t, s, "/v1/slates")
	a := get(t, s, "/metrics")
	for _, want := range []string{
		`quarry_hub_view_age_seconds{region="asia"} 3600`, `quarry_hub_placements{region="eu"} 2`,
		`quarry_hub_query_seconds_count{endpoint="list_slates"} 1`, `version="v1.2.3"`, `quarry_hub_agents{region="us",state="reporting"} 1`,
		`quarry_hub_region_state{region="us",state="reset"} 1`,
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("no %s in\n%s", want, a.body)
		}
	}
	if strings.Contains(a.body, "dbs/") {
		t.Error("a slate's name is in the metrics")
	}
}
