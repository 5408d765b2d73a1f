package query_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/view"
)

// fuzzed is a small fleet with all kinds of rows, the same in each process.
func fuzzed() (*view.View, []*asker) {
	f := &fleet{rng: rand.New(rand.NewPCG(3, 3)), b: view.NewBuilder(0, 0, 0), n: 150}
	f.change(600)
	v := f.b.Publish(start)
	all := askers(f)
	for _, a := range all {
		a.plain = slices.Collect(a.rows(v))
	}
	return v, all
}

// told: a refusal names the part of the request, and says something.
func told(t *testing.T, err error, params ...string) {
	t.Helper()
	e, ok := errors.AsType[*query.Error](err)
	if !ok || e.Msg == "" || !slices.Contains(params, e.Param) {
		t.Fatalf("%#v", err)
	}
	if e.Column > len([]rune(e.Input))+1 {
		t.Fatalf("%v: column %d of %q", e, e.Column, e.Input)
	}
	_ = e.Caret()
}

// FuzzFilterOverColumns: a filter that parses finds in columns the rows that it
// finds among the same rows as structs, in whatever order is asked for, and a
// page further too.
func FuzzFilterOverColumns(f *testing.F) {
	v, all := fuzzed()
	for _, s := range []string{
		`state = live AND NOT (bytes > 1KiB OR registered)`, `labels.team = "x" "ann"`, `slate = "dbs/*n0*" OR root:N00`, `readers.name = ann`,
		`checkpoints.expires < now-1h`, `has:owner -lineage:"0"`, `"n00"`, `observed_at < now`, `where.state = live`, `lineages:"01A"`, `pinned_by:copy`,
		`regions:r1`, `state_reason = "region*"`, `declared = true`, `writer_epoch = null`, `contact != "x@y"`, `slate > "dbs/n01"`,
	} {
		f.Add(s, "bytes desc", uint8(3))
		f.Add(s, "region, state desc", uint8(0))
	}
	f.Fuzz(func(t *testing.T, filter, orderBy string, size uint8) {
		for _, a := range all {
			req := query.Request{Filter: filter, OrderBy: orderBy, PageSize: int(size)}
			for range 3 {
				plan, err := a.typ.Plan(req)
				if err != nil {
					told(t, err, "filter", "order_by")
					break
				}
				x, y := plan.Page(a.source(), start), plan.Page(a.columns(v), start)
				if got, want := show(y), show(x); got != want || x.Next != y.Next {
					t.Fatalf("%s: %+v:\ngot  %s (next %q)\nwant %s (next %q)", a.name, req, got, y.Next, want, x.Next)
				}
				if req.PageToken = x.Next; x.Next == "" {
					break
				}
			}
		}
	})
}

// FuzzSummary: what is summarised by is refused with a reason, or counted in
// columns as it is among structs.
func FuzzSummary(f *testing.F) {
	v, all := fuzzed()
	for _, by := range []string{"region,kind,state", "owner,labels.team", "l0_count", "labels.a.b/c", "slate,,", "readers.name", "bytes, bytes", "observed_at"} {
		f.Add(by, "")
		f.Add(by, `bytes > 1KiB`)
	}
	f.Fuzz(func(t *testing.T, by, filter string) {
		for _, a := range all {
			sum, err := a.typ.Summary(by)
			if err != nil {
				told(t, err, "by")
				continue
			}
			plan, err := a.typ.Plan(query.Request{Filter: filter})
			if err != nil {
				told(t, err, "filter")
				continue
			}
			x, errX := sum.GroupsOf(plan, a.source(), start)
			y, errY := sum.GroupsOf(plan, a.columns(v), start)
			if errX != nil || errY != nil || len(x) != len(y) {
				t.Fatalf("%s by %q of %q: %d groups (%v), want %d (%v)", a.name, by, filter, len(y), errY, len(x), errX)
			}
			for i := range x {
				if got, want := string(sum.AppendJSON(nil, y[i])), string(sum.AppendJSON(nil, x[i])); got != want {
					t.Fatalf("%s by %q of %q:\ngot  %s\nwant %s", a.name, by, filter, got, want)
				}
			}
		}
	})
}

// FuzzFields: a mask is refused with a reason, or shows of a row in columns
// what it shows of the struct.
func FuzzFields(f *testing.F) {
	v, all := fuzzed()
	for _, s := range []string{"", "*", "slate,bytes", "readers.name,labels.team", "labels.a.b/c", "where.region,lineages", "bytes,", " slate ,region", "slate.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, fields string) {
		for _, a := range all {
			plan, err := a.typ.Plan(query.Request{Fields: fields})
			if err != nil {
				told(t, err, "fields")
				continue
			}
			x, y := plan.Page(a.source(), start), plan.Page(a.columns(v), start)
			for i := range x.Rows {
				if got, want := string(y.Rows[i].AppendJSON(nil, plan.Mask)), string(x.Rows[i].AppendJSON(nil, plan.Mask)); got != want {
					t.Fatalf("%s %q:\ngot  %s\nwant %s", a.name, fields, got, want)
				}
			}
		}
	})
}

// FuzzPageTokenOverColumns: a page token from anywhere is refused, saying what
// to do, or gives the page that the same rows give as structs.
func FuzzPageTokenOverColumns(f *testing.F) {
	v, all := fuzzed()
	for _, by := range []string{"", "bytes desc", "observed_at, registered", "region, bytes desc", "labels.team"} {
		plan, err := all[0].typ.Plan(query.Request{OrderBy: by, PageSize: 7})
		if err != nil {
			f.Fatal(err)
		}
		next := plan.Page(all[0].columns(v), start).Next
		if next == "" {
			f.Fatal("no token")
		}
		f.Add(by, next)
		f.Add(by, next[:len(next)/2])
	}
	f.Fuzz(func(t *testing.T, by, token string) {
		for _, a := range all {
			plan, err := a.typ.Plan(query.Request{OrderBy: by, PageSize: 7, PageToken: token})
			if err != nil {
				told(t, err, "page_token", "order_by")
				if e, ok := errors.AsType[*query.Error](err); ok && e.Param == "page_token" && e.Hint == "" {
					t.Fatalf("%v does not say what to do", e)
				}
				continue
			}
			x, y := plan.Page(a.source(), start), plan.Page(a.columns(v), start)
			if got, want := show(y), show(x); got != want || x.Next != y.Next {
				t.Fatalf("%s by %q after %q:\ngot  %s (next %q)\nwant %s (next %q)", a.name, by, token, got, y.Next, want, x.Next)
			}
		}
	})
}
