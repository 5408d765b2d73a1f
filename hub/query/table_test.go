package query_test

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// asker writes random questions about rows of a type.
type asker struct {
	f     *fleet
	name  string // of the resource
	typ   *query.Type
	names []string
	// plain has the rows as structs, columns as the hub asks for them.
	rows    func(v *view.View) iter.Seq[any]
	columns func(v *view.View) query.Source
	key     func(row any) string
	plain   []any
}

func (a *asker) source() query.Source {
	all := a.plain
	return query.Source{Rows: func(*query.Filter) iter.Seq[any] { return slices.Values(all) }}
}

func (a *asker) filter(depth int) string {
	r := a.f.rng
	if depth > 0 && r.IntN(2) == 0 {
		x, y := a.filter(depth-1), a.filter(depth-1)
		return []string{x + " AND (" + y + ")", "(" + x + ") OR (" + y + ")", "NOT (" + x + ")", "(" + x + ") (" + y + ")"}[r.IntN(4)]
	}
	if r.IntN(20) == 0 {
		return `"` + a.f.pick("ann", "n00", "x", "LAY", "torn", "r1", "named") + `"`
	}
	name := a.names[r.IntN(len(a.names))]
	if r.IntN(10) == 0 {
		return a.f.pick("has:"+name, name+":*", "NOT has:"+name, name+" = null", name+" != null")
	}
	op := a.f.pick("=", "!=", "<", "<=", ">", ">=", ":")
	arg := a.f.pick("0", "1", "2", "1Ki", "1.5", "-1", "18446744073709551615", "9223372036854775809", "now", "now-1h", "now+30m", "2026-11-21T04:00:00Z",
		"true", "false", "ann", "x", "live", "stale", "missing", "log", "*n0*", "dbs/n00*", "dbs/n004", "named", "s3", "r1", "01A", "c1", "lease", `""`, "*", "seq")
	if r.IntN(5) == 0 && strings.HasPrefix(name, "labels") {
		name = "labels." + a.f.pick("team", `"a.b/c"`, "none")
	}
	return name + op + arg
}

func (a *asker) order() string {
	var terms []string
	for range a.f.rng.IntN(3) {
		n := a.names[a.f.rng.IntN(len(a.names))]
		if a.f.rng.IntN(3) == 0 {
			n = a.f.pick("bytes", "observed_at", "state")
		}
		terms = append(terms, n+a.f.pick("", " desc"))
	}
	return strings.Join(terms, ",")
}

// refused: the question itself was wrong, in both ways alike.
func refused(err error) bool { _, ok := errors.AsType[*query.Error](err); return ok }

func anyOf[T any](rows iter.Seq[*T]) iter.Seq[any] {
	return func(yield func(any) bool) {
		for r := range rows {
			if !yield(r) {
				return
			}
		}
	}
}

func askers(f *fleet) []*asker {
	p, s, o := theTypes.placements, theTypes.slates, theTypes.owners
	return []*asker{
		{f: f, name: view.Placements, typ: p, names: p.Names(), rows: func(v *view.View) iter.Seq[any] { return anyOf(v.Placements()) }, columns: placementsOf,
			key: func(r any) string { p := r.(*catalog.Placement); return view.PlacementKey(p.Region, p.Root) }},
		{f: f, name: view.Slates, typ: s, names: s.Names(), rows: func(v *view.View) iter.Seq[any] { return anyOf(v.Slates()) }, columns: slatesOf,
			key: func(r any) string { return r.(*catalog.Slate).Name }},
		{f: f, name: view.Owners, typ: o, names: o.Names(), rows: func(v *view.View) iter.Seq[any] { return anyOf(v.Owners()) }, columns: ownersOf,
			key: func(r any) string { o := r.(*catalog.OwnerRow); return view.PlacementKey(o.Region, o.Root) }},
	}
}

// The answers from columns are those of a plain reading of the same rows:
// every form of filter, any order, pages across changes, summaries, single
// rows, and watches.
func TestColumnsAnswerAsAPlainReadingDoes(t *testing.T) {
	*query.Stretch = 1 // small tables are counted by several goroutines too
	defer func() { *query.Stretch = 2048 }()
	want := 100_000
	switch {
	case os.Getenv("QUARRY_SOAK") != "":
		want = 1_000_000
	case testing.Short():
		want = 10_000
	}
	seed := rand.Uint64()
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("QUARRY_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 7))
	var c counts
	for c.asked < want {
		f := &fleet{rng: rng, b: view.NewBuilder(0, 0, 0), n: 1 + rng.IntN(150)}
		w := &world{t: t, f: f, askers: askers(f), counts: &c}
		w.change(rng.IntN(600))
		for range 300 {
			w.ask()
		}
	}
	t.Logf("0 differences: %+v", c)
	if c.found == 0 || c.further == 0 || c.groups == 0 || c.watched == 0 {
		t.Error("something was never asked: the test shows nothing of it")
	}
}

// counts is what was compared.
type counts struct{ asked, found, further, groups, single, watched int }

// world is a fleet and its newest view.
type world struct {
	*counts
	t      *testing.T
	f      *fleet
	v      *view.View
	askers []*asker
	old    []*view.View
}

func (w *world) change(n int) {
	w.f.change(n)
	w.v = w.f.b.Publish(start)
	for _, a := range w.askers {
		a.plain = slices.Collect(a.rows(w.v))
	}
	if w.f.rng.IntN(4) == 0 {
		w.old = append(w.old, w.v)
	}
}

// ask asks one question, of one page or several.
func (w *world) ask() {
	rng := w.f.rng
	if rng.IntN(100) == 0 {
		w.change(1 + rng.IntN(50))
	}
	a := w.askers[[]int{0, 0, 0, 0, 1, 1, 2}[rng.IntN(7)]]
	req := query.Request{OrderBy: a.order(), PageSize: 1 + rng.IntN(12)}
	if rng.IntN(10) > 0 {
		req.Filter = a.filter(rng.IntN(3))
	}
	plan, err := a.typ.Plan(req)
	if err != nil {
		if !refused(err) {
			w.t.Fatal(err)
		}
		return
	}
	now := w.f.time()
	switch rng.IntN(12) {
	case 0:
		w.groupBy(a, req.Filter, now)
	case 1:
		w.matches(a, req.Filter, now)
	case 2:
		w.watch(a, req.Filter, now)
	default:
		w.pages(a, plan, req, now)
	}
}

func (w *world) pages(a *asker, plan *query.Plan, req query.Request, now time.Time) {
	for page := 0; ; page++ {
		w.asked++
		x, y := plan.Page(a.source(), now), plan.Page(a.columns(w.v), now)
		if g, want := show(y), show(x); g != want || x.Next != y.Next {
			w.t.Fatalf("%s: page %d of %+v:\ngot  %s (next %q)\nwant %s (next %q)", a.name, page, req, g, y.Next, want, x.Next)
		}
		w.found += len(x.Rows)
		if x.Next == "" || page > 3 {
			return
		}
		w.further++
		if w.f.rng.IntN(10) == 0 { // rows move between pages
			w.change(1 + w.f.rng.IntN(20))
		}
		req.PageToken = x.Next
		var err error
		if plan, err = a.typ.Plan(req); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) groupBy(a *asker, filter string, now time.Time) {
	var by []string
	for range 1 + w.f.rng.IntN(3) {
		if n := a.names[w.f.rng.IntN(len(a.names))]; !slices.Contains(by, n) {
			by = append(by, n)
		}
	}
	if w.f.rng.IntN(2) == 0 {
		by = strings.Split(w.f.pick("owner", "owner,slate", "owner,region", "owner,labels.team"), ",")
		if a.name == view.Placements {
			by = strings.Split(w.f.pick("state", "kind,state", "registered,kind,region", "labels.team", "owner,state", "state_reason", "l0_count,region", "manifest_version"), ",")
		}
	}
	sum, err := a.typ.Summary(strings.Join(by, ","))
	if refused(err) {
		return
	}
	plan, err := a.typ.Plan(query.Request{Filter: filter})
	if err != nil {
		w.t.Fatal(err)
	}
	w.asked++
	w.groups++
	x, errX := sum.GroupsOf(plan, a.source(), now)
	y, errY := sum.GroupsOf(plan, a.columns(w.v), now)
	if errX != nil || errY != nil || len(x) != len(y) {
		w.t.Fatalf("%s by %s of %q: %d groups (%v), want %d (%v)", a.name, by, filter, len(y), errY, len(x), errX)
	}
	for i := range x {
		if g, want := string(sum.AppendJSON(nil, y[i])), string(sum.AppendJSON(nil, x[i])); g != want {
			w.t.Fatalf("%s by %s of %q:\ngot  %s\nwant %s", a.name, by, filter, g, want)
		}
	}
}

// matches compares all matching rows, and a row asked for by its key.
func (w *world) matches(a *asker, filter string, now time.Time) {
	w.asked++
	want, got := w.matching(a, a.source(), filter, now), w.matching(a, a.columns(w.v), filter, now)
	if !maps.Equal(got, want) {
		w.t.Fatalf("%s: matches of %q: %d, want %d", a.name, filter, len(got), len(want))
	}
	for key, row := range want {
		w.single++
		if got := string(a.typ.AppendJSON(nil, w.v.Row(a.name, key), nil)); got != row {
			w.t.Fatalf("%s %q:\ngot  %s\nwant %s", a.name, key, got, row)
		}
		break
	}
}

// matching is the rows of a source that match, as JSON by key.
func (w *world) matching(a *asker, src query.Source, filter string, now time.Time) map[string]string {
	plan, err := a.typ.Plan(query.Request{Filter: filter})
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for r := range plan.Matches(src, now) {
		key := a.key(r.Value())
		if out[key] != "" {
			w.t.Fatalf("%s %q matches %q twice", a.name, key, filter)
		}
		out[key] = string(r.AppendJSON(nil, nil))
	}
	return out
}

var quiet = regexp.MustCompile(`"observed_at":"[^"]*"`)

// watch goes from what matched at an old view to what matches now, by the keys
// that the view says have changed.
func (w *world) watch(a *asker, filter string, now time.Time) {
	if len(w.old) == 0 {
		return
	}
	old := w.old[w.f.rng.IntN(len(w.old))]
	keys, ok := w.v.ChangedSince(a.name, old.Seq())
	if !ok {
		return
	}
	w.asked++
	w.watched++
	rows := w.matching(a, a.columns(old), filter, now)
	f, err := a.typ.Filter(filter)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, key := range keys {
		if row := w.v.Row(a.name, key); row != nil && f.Match(row, now) {
			rows[key] = string(a.typ.AppendJSON(nil, row, nil))
		} else {
			delete(rows, key)
		}
	}
	want := w.matching(a, a.source(), filter, now)
	for key, row := range want {
		// That a row was merely observed again is told to nobody.
		if quiet.ReplaceAllString(rows[key], "") != quiet.ReplaceAllString(row, "") {
			w.t.Fatalf("%s %q by %q, watched from %d to %d:\ngot  %s\nwant %s", a.name, key, filter, old.Seq(), w.v.Seq(), rows[key], row)
		}
	}
	if len(rows) != len(want) {
		w.t.Fatalf("%s by %q: watched %d rows, want %d", a.name, filter, len(rows), len(want))
	}
}

func show(p query.Page) string {
	var b []byte
	for _, r := range p.Rows {
		b = append(r.AppendJSON(b, nil), '\n')
	}
	return string(b)
}
