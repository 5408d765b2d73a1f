package agent

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/agent/watch"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// deaf is a report that nobody hears, and a hub that wants nothing yet.
type deaf struct{}

func (deaf) Set(catalog.Fact)                          {}
func (deaf) Withdraw(catalog.FactKind, string, string) {}
func (deaf) SetHealth(watch.Health)                    {}
func (deaf) Ready()                                    {}
func (deaf) Wanted(context.Context)                    {}
func (deaf) HubBucket() (string, bool, <-chan struct{}) {
	return "", true, nil
}

// A hint comes as JSON and nothing else: a page in a browser on this machine
// cannot send one. What is wrong with it is answered, and how to say it.
func TestHintsAreTakenAsJSONAndRefusedWithTheReason(t *testing.T) {
	b, err := bucket.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	w, err := watch.New(b, deaf{}, watch.Options{Region: "eu", Discover: []string{"dbs"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	h := (&status{watch: w}).handler()
	for _, c := range []struct {
		kind, body string
		want       int
		says       string
	}{
		{"application/json", `{"root":"other/db"}`, http.StatusNotFound, "not followed here"},
		{"application/json", `{"root":""}`, http.StatusBadRequest, "root"},
		{"application/json", `{"slate":"x"}`, http.StatusBadRequest, `send {"root"`},
		{"application/json", `{"root":"` + strings.Repeat("x", maxHint) + `"}`, http.StatusBadRequest, "too large"},
		{"text/plain", `{"root":"dbs/a"}`, http.StatusUnsupportedMediaType, "application/json"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/hint", strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		r.Host = "127.0.0.1:7702"
		got := httptest.NewRecorder()
		h.ServeHTTP(got, r)
		if got.Code != c.want || !strings.Contains(got.Body.String(), c.says) {
			t.Errorf("%.60s: %d %s", c.body, got.Code, got.Body)
		}
	}
	for host, want := range map[string]int{"localhost": http.StatusNotFound, "[::1]:7702": http.StatusNotFound, "rebound.example:7702": http.StatusForbidden} {
		r := httptest.NewRequest(http.MethodPost, "/hint", strings.NewReader(`{"root":"other/db"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Host = host
		got := httptest.NewRecorder()
		if h.ServeHTTP(got, r); got.Code != want {
			t.Errorf("called %s: %d %s", host, got.Code, got.Body)
		}
	}
}
