package slatedb_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Tables know what a manifest of 0.12 says wrongly of them, and a few of them
// are enough to ask. Of a manifest that says what is so none is asked.
func TestTablesTellTheFormatOfTheirFilters(t *testing.T) {
	b := original(t, "0.17.0/compacted")
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	start := b.Requests()
	if found, err := slatedb.Filters(t.Context(), b, h, 64); err != nil || len(found) > 0 {
		t.Errorf("%v %v", found, err)
	}
	if cost := b.Requests().Since(start); cost.Get+cost.Head > 0 {
		t.Errorf("tables were asked without a reason: %+v", cost)
	}
	tables := 0
	forget := func(all []manifest.Table) {
		for i := range all {
			all[i].Info.FilterFormat = 0
			tables++
		}
	}
	forget(h.Manifest.L0)
	for i := range h.Manifest.Runs {
		forget(h.Manifest.Runs[i].Tables)
	}
	if tables < 2 {
		t.Fatalf("%d tables: nothing is proven", tables)
	}
	start = b.Requests()
	found, err := slatedb.Filters(t.Context(), b, h, 1)
	if err != nil || len(found) != 1 || found[0].Code != slatedb.FilterFormatMismatch || !found[0].Repair {
		t.Errorf("%v %v", found, err)
	}
	if cost := b.Requests().Since(start); cost.Get != 1 || cost.Head != 1 {
		t.Errorf("one table cost %+v", cost)
	}
}

// A table that a listing did not show may have come since; the store is asked.
func TestATableIsMissingOnlyIfTheStoreSaysSo(t *testing.T) {
	b := original(t, "0.17.0/compacted")
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := slatedb.Missing(t.Context(), b, h, map[string]bool{}, 100); err != nil || len(found) > 0 {
		t.Errorf("%v %v", found, err)
	}
	var keys []string
	h.Manifest.Tables(func(x *manifest.Table) { keys = append(keys, slatedb.TableKey("db", x.ID)) })
	if err := b.Delete(t.Context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	found, err := slatedb.Missing(t.Context(), b, h, map[string]bool{}, 100)
	if err != nil || !slices.Equal(codes(found), []slatedb.Code{slatedb.ObjectMissing}) || found[0].Object != keys[0] {
		t.Errorf("%v %v", found, err)
	}
}

// A store that did not answer says nothing of the database.
func TestHeadlessIsOfWhatIsThere(t *testing.T) {
	if f, ok := slatedb.Headless(errors.New("the wire broke")); ok {
		t.Errorf("%v", f)
	}
	if f, ok := slatedb.Headless(&slatedb.ObjectError{Key: "db/manifest/1", Err: &manifest.Pill{Reason: "moving"}}); !ok || f.Code != slatedb.ClosedForDeletion {
		t.Errorf("%v %v", f, ok)
	}
	if f, ok := slatedb.Headless(&slatedb.ObjectError{Key: "db/manifest/1", Err: manifest.ErrCorrupt}); !ok || f.Code != slatedb.ManifestUnreadable {
		t.Errorf("%v %v", f, ok)
	}
}
