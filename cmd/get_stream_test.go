package cmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/apiclient"
)

// A hub with n rows, which fails after the page that ends at failAt.
func pages(t *testing.T, n, failAt int) (*apiclient.Client, *int) {
	most := 0 // rows asked for ahead of those that were printed
	h := func(w http.ResponseWriter, r *http.Request) {
		from := 0
		fmt.Sscan(r.URL.Query().Get("page_token"), &from)
		size := 0
		fmt.Sscan(r.URL.Query().Get("page_size"), &size)
		most = max(most, size)
		if failAt > 0 && from >= failAt {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"code":"not-ready","title":"the hub is loading"}`)
			return
		}
		var items []string
		for i := from; i < min(n, from+size); i++ {
			items = append(items, fmt.Sprintf(`{"name":"<a&b> ä %d","list":[],"labels":{},"n":18446744073709551615,"in":[{"x":null},{}]}`, i))
		}
		next := ""
		if from+size < n {
			next = fmt.Sprint(from + size)
		}
		fmt.Fprintf(w, `{"items":[%s],"next_page_token":%q,"as_of":{"eu":{"state":"connected","at":null,"age_ms":5}},"unreachable":[]}`, strings.Join(items, ","), next)
	}
	s := httptest.NewServer(http.HandlerFunc(h))
	t.Cleanup(s.Close)
	c, err := apiclient.New(s.URL, apiclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c, &most
}

// What is printed row by row is what a whole document would be.
func TestAStreamedListIsTheDocument(t *testing.T) {
	r, err := findResource("slates")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 2, 2500} {
		cl, most := pages(t, n, 0)
		var got, want bytes.Buffer
		a := &app{out: &got, err: &bytes.Buffer{}, output: "json"}
		printed, err := a.listRows(t.Context(), cl, r, getFlags{})
		if err != nil || printed != n {
			t.Fatalf("%d rows, %v; want %d", printed, err, n)
		}
		whole, err := a.list(t.Context(), cl, r.name, apiclient.Query{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		a.out = &want
		if err := a.printJSON(whole.json()); err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() {
			t.Errorf("%d rows:\n%.600s\nwant\n%.600s", n, got.String(), want.String())
		}
		if *most > 1000 {
			t.Errorf("pages of %d rows", *most)
		}
	}
}

// A hub that goes away in the middle leaves a document that no program takes
// for whole, and an error.
func TestAnExportThatBreaksOffIsNoDocument(t *testing.T) {
	r, err := findResource("slates")
	if err != nil {
		t.Fatal(err)
	}
	cl, _ := pages(t, 2500, 1000)
	var got bytes.Buffer
	a := &app{out: &got, err: &bytes.Buffer{}, output: "json"}
	n, err := a.listRows(t.Context(), cl, r, getFlags{})
	if err == nil || n != 1000 || json.Valid(got.Bytes()) {
		t.Errorf("%d rows, error %v, valid JSON: %v", n, err, json.Valid(got.Bytes()))
	}
	// When nothing came, nothing is printed.
	cl, _ = pages(t, 2500, 0)
	got.Reset()
	if _, err := a.listRows(t.Context(), cl, r, getFlags{limit: 3}); err != nil || strings.Count(got.String(), `"name"`) != 3 {
		t.Errorf("three of them: %v\n%s", err, got.String())
	}
}
