package query_test

import (
	"fmt"
	"testing"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// A chunk that was searched is remembered as not having a text. When a row of
// it gets the text, or a row that has it comes, the search finds it; the view of
// before still has none, and what has capitals or letters beyond ASCII is found.
func TestATextThatComesLaterIsFound(t *testing.T) {
	b := view.NewBuilder(0, 0, 0)
	row := func(i int, lineage string) *catalog.Placement {
		root := fmt.Sprintf("dbs/n%03d", i)
		p := &catalog.Placement{Region: "eu", State: catalog.StateLive, ObservedAt: start}
		p.Slate, p.Root, p.Lineage = root, root, lineage
		return p
	}
	for i := range 200 {
		b.SetPlacement(row(i, "plain"), true)
	}
	var texts query.Sketches
	found := func(v *view.View, filter string) int {
		plan, err := theTypes.placements.Plan(query.Request{Filter: filter, OrderBy: "position"})
		if err != nil {
			t.Fatal(err)
		}
		return len(plan.Page(query.Source{Table: v.PlacementTable(), Sketches: &texts}, start).Rows)
	}
	filters := []string{`"zebra"`, `lineage:zebra`, `lineage = "*bra*"`}
	before := b.Publish(start)
	for _, f := range filters {
		if n := found(before, f); n != 0 {
			t.Fatalf("%s: %d rows", f, n)
		}
	}
	for step, lineage := range []string{"zebra", "a ZEbra", "Ünder zebra"} {
		b.SetPlacement(row(step, lineage), false)    // a row that was there
		b.SetPlacement(row(300+step, lineage), true) // and one that was not
		v := b.Publish(start)
		for _, f := range filters {
			want := 2 * (step + 1)
			if n := found(v, f); n != want {
				t.Errorf("after %q: %s: %d rows, want %d", lineage, f, n, want)
			}
			if n := found(before, f); n != 0 {
				t.Errorf("%s: %d rows in the view of before", f, n)
			}
		}
	}
}
