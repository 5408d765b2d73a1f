package cmd

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// What the hub is asked for must be all that the table shows: a row with
// something in each field looks the same when only those are left.
func TestATableAsksForWhatItShows(t *testing.T) {
	r, err := findResource("slates")
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(7)
	whole, err := json.Marshal(catalog.Slate{
		Name: "dbs/orders", Kind: catalog.KindSlateDB, State: catalog.StateMissing, Regions: []string{"eu", "us"}, Placements: 2, Lineages: []string{"a", "b"},
		Registered: true, Owner: "ann", Labels: map[string]string{"team": "x"}, Bytes: &n, Readers: 3, RestorePoints: 4, ObservedAt: time.Now().Add(-time.Hour),
		Where: []catalog.SlateIn{{Region: "eu", Kind: catalog.KindSlateDB, WriterEpoch: &n}, {Region: "us", Kind: catalog.KindSlateDB}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var all, left map[string]any
	if err := json.Unmarshal(whole, &all); err != nil {
		t.Fatal(err)
	}
	left = map[string]any{}
	for _, name := range strings.Split(r.shown, ",") {
		if outer, inner, ok := strings.Cut(name, "."); ok {
			rows, _ := left[outer].([]any)
			for i, e := range all[outer].([]any) {
				if len(rows) <= i {
					rows = append(rows, map[string]any{})
				}
				rows[i].(map[string]any)[inner] = e.(map[string]any)[inner]
			}
			left[outer] = rows
			continue
		}
		v, ok := all[name]
		if !ok {
			t.Fatalf("slates have no field %q", name)
		}
		left[name] = v
	}
	few, err := json.Marshal(left)
	if err != nil {
		t.Fatal(err)
	}
	want, err := r.cells(whole, false)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.cells(few, false)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v (%v), want %v", got, err, want)
	}
	var empty catalog.Slate
	blank, err := json.Marshal(empty)
	if err != nil {
		t.Fatal(err)
	}
	none, err := r.cells(blank, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if want[i] == none[i] {
			t.Errorf("column %d shows %q whatever the row: the test shows nothing of it", i, want[i])
		}
	}
	if reflect.DeepEqual(all, left) {
		t.Error("nothing was left out")
	}
}
