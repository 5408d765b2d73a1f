package cmd

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeHub answers each request, given as "METHOD path" with what is asked for,
// with the first of its answers that begins it; those of a status are refusals.
type fakeHub struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string][]string // one after the other, the last for ever
	asked   []string
}

func newFakeHub(t *testing.T, answers map[string][]string) *fakeHub {
	h := &fakeHub{answers: answers}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what := r.Method + " " + r.URL.Path
	if r.URL.Query().Get("validate_only") == "true" {
		what += " dry"
	}
	h.asked = append(h.asked, what)
	list := h.answers[what]
	if len(list) == 0 {
		list = []string{`404 not-found`}
	}
	if len(list) > 1 {
		h.answers[what] = list[1:]
	}
	var status int
	var code string
	if n, _ := fmt.Sscanf(list[0], "%d %s", &status, &code); n == 2 {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"status":%d,"code":%q,"detail":"it is so"}`, status, code)
		return
	}
	fmt.Fprintln(w, list[0])
}

// did reports whether something was asked of it.
func (h *fakeHub) did(what string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.asked, what)
}

// says runs a command line against it.
func (h *fakeHub) says(t *testing.T, args ...string) (code int, out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{out: &o, err: &e, in: strings.NewReader("")}
	code = a.run(t.Context(), append(args, "--hub", h.URL))
	return code, o.String(), e.String()
}

const (
	applied = "POST /v1/documents:apply"
	aRegion = `{"items":[{"name":"eu","membership":"active","as_of":"2026-11-21T12:00:00Z"},{"name":"us","membership":"active","as_of":"2026-11-21T12:00:00Z"},{"name":"old","membership":"retired"}]}`
	noItems = `{"items":[]}`
)

func changes(change string) []string {
	return []string{fmt.Sprintf(`{"done":true,"changes":[{"kind":"Hold","name":"dbs-ledger","revision":2,"change":%q}]}`, change)}
}

// The names that are made of slates are not different for all slates.
func TestAHoldWithoutANameOfItsOwnChangesNoOther(t *testing.T) {
	h := newFakeHub(t, map[string][]string{applied + " dry": changes("configured"), applied: changes("configured")})
	code, _, text := h.says(t, "hold", "dbs-ledger")
	if code != exitRefused || h.did(applied) || !strings.Contains(text, "--name") {
		t.Errorf("exit %d, asked %v: %s", code, h.asked, text)
	}
	if code, out, text := h.says(t, "hold", "dbs/ledger", "--name", "dbs-ledger"); code != 0 || !h.did(applied) || !strings.Contains(out, "configured") {
		t.Errorf("exit %d, asked %v: %s%s", code, h.asked, out, text)
	}
	for _, change := range []string{"created", "unchanged"} {
		h := newFakeHub(t, map[string][]string{applied + " dry": changes(change), applied: changes(change)})
		if code, _, text := h.says(t, "hold", "dbs/ledger"); code != 0 || !h.did(applied) {
			t.Errorf("%s: exit %d, asked %v: %s", change, code, h.asked, text)
		}
	}
}

func TestAReleaseByASlatesNameMeansExactlyThat(t *testing.T) {
	holds := `{"items":[{"name":"all","selects":"names archive/*"},{"name":"one","selects":"names archive/0"},{"name":"a","selects":"names twice"},{"name":"b","selects":"names twice"}]}`
	for name, want := range map[string]string{"archive/*": "all", "archive/0": "one", "archive/?": "", "*": "", "twice": ""} {
		h := newFakeHub(t, map[string][]string{"GET /v1/holds": {holds},
			"POST /v1/holds/all:release": {`{"done":true,"what":"all is released"}`}, "POST /v1/holds/one:release": {`{"done":true,"what":"one is released"}`}})
		code, out, text := h.says(t, "release", name, "--yes")
		if want == "" && (code == 0 || out != "") || want != "" && (code != 0 || out != want+" is released\n") {
			t.Errorf("release %s: exit %d: %s%s", name, code, out, text)
		}
		// What is asked about is what is released.
		if _, _, text := h.says(t, "release", name); want != "" && !strings.Contains(text, "release hold "+want+" ") {
			t.Errorf("release %s asks: %s", name, text)
		}
	}
}

func TestHoldWaitsForWhatCannotBeSeen(t *testing.T) {
	place := func(region, state, kind string) string {
		return fmt.Sprintf(`{"slate":"dbs/ledger","region":%q,"root":"dbs/ledger","kind":%q,"state":%q}`, region, kind, state)
	}
	pin := func(region string) string { return fmt.Sprintf(`{"region":%q,"root":"dbs/ledger"}`, region) }
	items := func(rows ...string) []string { return []string{`{"items":[` + strings.Join(rows, ",") + `]}`} }
	never := `{"items":[{"name":"eu","membership":"joining","as_of":null}]}`
	for what, c := range map[string]struct {
		set, placed, pins []string
		args              []string
		code              int
		says              string
	}{
		"seen everywhere":       {placed: items(place("eu", "live", "log"), place("us", "live", "log")), pins: items(pin("eu"), pin("us"))},
		"a region is stale":     {placed: items(place("eu", "live", "log"), place("us", "stale", "log")), pins: items(pin("eu"), pin("us")), code: exitTimeout, says: "1 of 2 after 1.2s; hold dbs-ledger is in force"},
		"elsewhere it is stale": {placed: items(place("eu", "live", "log"), place("us", "stale", "log")), pins: items(pin("eu")), args: []string{"--region", "eu"}},
		"never heard":           {set: []string{never}, placed: items(), code: exitTimeout, says: "0 of 1 after 1.2s; hold dbs-ledger is in force"},
		"nowhere":               {placed: items(), code: exitNotFound, says: "no slate dbs/ledger is seen; hold dbs-ledger is in force"},
		"gone":                  {placed: items(place("eu", "missing", "log")), code: exitNotFound, says: "is in force"},
		"where it is not":       {placed: items(place("eu", "live", "log")), args: []string{"--region", "us"}, code: exitNotFound, says: "no slate dbs/ledger is seen in us;"},
		"retired":               {placed: items(place("eu", "live", "log"), place("old", "stale", "log")), pins: items(pin("eu"))},
		"snapshots":             {placed: items(place("eu", "stale", "snapshots"))},
		"a failed poll":         {set: []string{"503 not-ready", aRegion}, placed: items(place("eu", "live", "log")), pins: items(pin("eu"))},
		"an error":              {set: []string{"400 bad-fields"}, code: exitUsage, says: "hold dbs-ledger is in force"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if c.set == nil {
				c.set = []string{aRegion}
			}
			if c.pins == nil {
				c.pins = items()
			}
			h := newFakeHub(t, map[string][]string{applied + " dry": changes("created"), applied: changes("created"),
				"GET /v1/regions": c.set, "GET /v1/placements": c.placed, "GET /v1/pins": c.pins})
			code, out, text := h.says(t, append([]string{"hold", "dbs/ledger", "--wait", "--timeout", "1200ms"}, c.args...)...)
			if code != c.code || !strings.Contains(text, c.says) || !strings.Contains(out, "created, revision 2") {
				t.Errorf("exit %d, want %d: %s%s", code, c.code, out, text)
			}
		})
	}
	t.Run("a pattern", func(t *testing.T) {
		h := newFakeHub(t, map[string][]string{applied + " dry": changes("created"), applied: changes("created"),
			"GET /v1/regions": {aRegion}, "GET /v1/placements": {noItems}, "GET /v1/pins": {noItems}})
		if code, out, text := h.says(t, "hold", "dbs/*", "--wait"); code != 0 {
			t.Errorf("exit %d: %s%s", code, out, text)
		}
	})
}

func TestReleaseWaitsOnThroughAPollThatFails(t *testing.T) {
	released := []string{`{"done":true,"what":"hold case is released"}`}
	h := newFakeHub(t, map[string][]string{"GET /v1/holds/case": {`{"item":{"name":"case"}}`, "503 not-ready", "404 not-found"}, "POST /v1/holds/case:release": released,
		"GET /v1/pins": {`{"items":[{"name":"quarry:case:1"}]}`, noItems}})
	if code, out, text := h.says(t, "release", "case", "--yes", "--wait"); code != 0 || out != "hold case is released\n" || !h.did("GET /v1/pins") {
		t.Errorf("exit %d: %s%s", code, out, text)
	}
	h.answers["GET /v1/holds/case"], h.answers["GET /v1/pins"] = []string{`{"item":{"name":"case"}}`, "404 not-found"}, []string{`{"items":[{"name":"quarry:case:1"}]}`}
	code, _, text := h.says(t, "release", "case", "--yes", "--wait", "--timeout", "700ms")
	if code != exitTimeout || !strings.Contains(text, "0 of 1 after 700ms; hold case is released") {
		t.Errorf("exit %d: %s", code, text)
	}
}
