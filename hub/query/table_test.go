package query_test

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

var start = time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC)

// fleet changes a view at random and keeps the rows beside it, as plain
// structs that were put.
type fleet struct {
	rng *rand.Rand
	b   *view.Builder
	n   int
}

func (f *fleet) pick(of ...string) string { return of[f.rng.IntN(len(of))] }

func some[T any](f *fleet, v T) *T {
	if f.rng.IntN(4) == 0 {
		return nil
	}
	return &v
}

func (f *fleet) number() uint64 {
	return []uint64{0, 1, 2, 3, 1 << 10, 1 << 20, 1<<63 + 1, 1<<64 - 1, f.rng.Uint64N(1000)}[f.rng.IntN(9)]
}

func (f *fleet) time() time.Time { return start.Add(time.Duration(f.rng.IntN(9)-4) * 30 * time.Minute) }

func (f *fleet) placement(i int) *catalog.Placement {
	p := &catalog.Placement{
		Region: fmt.Sprint("r", i%3), State: catalog.PlacementState(f.pick("live", "live", "missing", "unreadable")), StateReason: f.pick("", "", "Torn", "gone"),
		StateSince: f.time(), Registered: f.rng.IntN(2) == 0, Owner: f.pick("", "ann", "Bob"), Contact: f.pick("", "x@y"), ObservedAt: f.time(),
		FirstSeen: f.time(), RestorePoints: uint64(f.rng.IntN(3)), VerifiedRestorePoints: uint64(f.rng.IntN(2)), WriterSince: some(f, f.time()),
		Disagreement: f.pick("", "", "two writers declared"),
	}
	p.Root = fmt.Sprintf("dbs/n%03d", i)
	p.Slate = f.pick(p.Root, p.Root, "named", fmt.Sprint("s", i%7))
	p.Kind, p.KindFrom, p.Seen = catalog.Kind(f.pick("log", "slatedb", "vector")), f.pick("", "layout"), catalog.Seen(f.pick("live", "missing"))
	p.Incarnation, p.Lineage, p.IncarnationKept = f.pick("", "01A", "01B"), f.pick("", "01A", "L"), f.rng.IntN(2) == 0
	p.Reason, p.Extractor, p.PositionDomain, p.Pill = f.pick("", "bad"), f.pick("", "time"), f.pick("seq", "lsn"), f.pick("", "deleted")
	p.ManifestID, p.ManifestVersion, p.WriterEpoch = some(f, f.number()), some(f, uint64(f.rng.IntN(3))), some(f, f.number())
	p.Position, p.Bytes, p.WALGap = some(f, f.number()), some(f, f.number()), some(f, f.number())
	p.Initialized, p.ListedAt, p.MoreCheckpoints = some(f, f.rng.IntN(2) == 0), some(f, f.time()), uint64(f.rng.IntN(2))
	p.Checkpoints, p.Readers = []catalog.Checkpoint{}, []catalog.Reader{}
	if f.rng.IntN(3) == 0 {
		p.Labels = map[string]string{"team": f.pick("x", "y", ""), "a.b/c": "1"}
		p.Checkpoints = append(p.Checkpoints, catalog.Checkpoint{ID: f.pick("c1", "c2"), Name: f.pick("", "n"), Expires: some(f, f.time()), ManifestID: f.number()})
		p.Readers = append(p.Readers, catalog.Reader{ID: "c1", Name: f.pick("", "ann"), From: f.pick("lease", "checkpoint"), Lapsed: f.rng.IntN(2) == 0})
		p.PinnedBy = []string{f.pick("dbs/n001", "copy")}
	}
	return p
}

// change makes some changes of all kinds.
func (f *fleet) change(times int) {
	for range times {
		i := f.rng.IntN(f.n)
		region, root := fmt.Sprint("r", i%3), fmt.Sprintf("dbs/n%03d", i)
		var slates []string
		if s := f.b.Slot(region, root); f.b.Placement(region, root) != nil {
			slates = append(slates, f.b.Name(s))
		}
		switch k := f.rng.IntN(12); {
		case k < 6:
			p := f.placement(i)
			f.b.SetPlacement(p, false)
			slates = append(slates, p.Slate)
		case k < 9 && slates != nil:
			var values [len(catalog.MoveFields)]uint64
			for k := range values {
				values[k] = f.number()
			}
			f.b.Move(f.b.Slot(region, root), &view.Moved{Mask: uint32(f.rng.Uint64()) & 0x7fff, Null: uint32(f.rng.Uint64()) & 0x7fff & uint32(f.rng.Uint64()), Values: &values, At: f.time()})
		case k < 10:
			f.b.RemovePlacement(region, root)
		default:
			f.b.StaleRegion(fmt.Sprint("r", f.rng.IntN(3)), f.rng.IntN(2) == 0, "region-stale: silent", f.time())
		}
		for _, name := range slates {
			f.slate(name)
		}
	}
}

// slate sums up the placements of a name.
func (f *fleet) slate(name string) {
	row := &catalog.Slate{Name: name, Regions: []string{}}
	for p := range f.b.PlacementsOf(name) {
		row.Kind, row.State, row.ObservedAt = p.Kind, catalog.StateLive, p.ObservedAt
		row.Placements++
		if !slices.Contains(row.Regions, p.Region) {
			row.Regions = append(row.Regions, p.Region)
		}
		row.Bytes, row.Labels, row.Owner = p.Bytes, p.Labels, p.Owner
	}
	if row.Placements == 0 {
		f.b.RemoveSlate(name)
	} else {
		f.b.SetSlate(row, false)
	}
}

// asker writes random questions about rows of a type.
type asker struct {
	f     *fleet
	typ   *query.Type
	names []string
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

// The answers from columns are those of a plain reading of the same rows:
// every form of filter, any order, pages across changes, summaries.
func TestColumnsAnswerAsAPlainReadingDoes(t *testing.T) {
	want := 6_000
	if os.Getenv("QUARRY_SOAK") != "" {
		want = 150_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 7))
	f := &fleet{rng: rng, b: view.NewBuilder(0, 0, 0), n: 160}
	f.change(1000)
	placements := query.TypeOf[catalog.Placement]("placements", nil, "slate", "region", "root")
	slates := query.TypeOf[catalog.Slate]("slates", nil, "name")
	askers := []*asker{{f, placements, placements.Names()}, {f, slates, slates.Names()}}
	asked, found, pages := 0, 0, 0
	v := f.b.Publish(start)
	var rows [2][]any
	collect := func() {
		rows = [2][]any{}
		for p := range v.Placements() {
			rows[0] = append(rows[0], p)
		}
		for s := range v.Slates() {
			rows[1] = append(rows[1], s)
		}
	}
	collect()
	for asked < want {
		if rng.IntN(100) == 0 {
			f.change(1 + rng.IntN(100))
			v = f.b.Publish(start)
			collect()
		}
		k := 0
		if rng.IntN(4) == 0 {
			k = 1
		}
		a := askers[k]
		req := query.Request{OrderBy: a.order(), PageSize: 1 + rng.IntN(12)}
		if rng.IntN(10) > 0 {
			req.Filter = a.filter(rng.IntN(3))
		}
		plain := func() query.Source {
			all := rows[k]
			return query.Source{Rows: func(*query.Filter) iter.Seq[any] { return slices.Values(all) }}
		}
		columns := func() query.Source {
			if k == 0 {
				return placementsOf(v)
			}
			return slatesOf(v)
		}
		now := f.time()
		if rng.IntN(8) == 0 {
			by := a.f.pick("state", "kind,state", "owner", "registered,kind,state")
			sum, err := a.typ.Summary(by)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := a.typ.Plan(query.Request{Filter: req.Filter})
			if refused(err) {
				continue
			}
			asked++
			x, errX := sum.GroupsOf(plan, plain(), now)
			y, errY := sum.GroupsOf(plan, columns(), now)
			if (errX == nil) != (errY == nil) || len(x) != len(y) {
				t.Fatalf("by %s of %q: %d groups (%v), want %d (%v)", by, req.Filter, len(y), errY, len(x), errX)
			}
			for i := range x {
				if g, w := string(sum.AppendJSON(nil, y[i])), string(sum.AppendJSON(nil, x[i])); g != w {
					t.Fatalf("by %s of %q:\ngot  %s\nwant %s", by, req.Filter, g, w)
				}
			}
			continue
		}
		plan, err := a.typ.Plan(req)
		if refused(err) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		for page := 0; ; page++ {
			asked++
			x, y := plan.Page(plain(), now), plan.Page(columns(), now)
			if g, w := show(y), show(x); g != w || x.Next != y.Next {
				t.Fatalf("page %d of %+v:\ngot  %s (next %q)\nwant %s (next %q)", page, req, g, y.Next, w, x.Next)
			}
			found += len(x.Rows)
			if x.Next == "" || page > 3 {
				break
			}
			pages++
			if rng.IntN(3) == 0 { // rows move between pages
				f.change(1 + rng.IntN(20))
				v = f.b.Publish(start)
				collect()
			}
			req.PageToken = x.Next
			if plan, err = a.typ.Plan(req); err != nil {
				t.Fatal(err)
			}
		}
		if rng.IntN(20) == 0 {
			plan, _ := a.typ.Plan(query.Request{Filter: req.Filter})
			var x, y []string
			for r := range plan.Matches(plain(), now) {
				x = append(x, string(r.AppendJSON(nil, nil)))
			}
			for r := range plan.Matches(columns(), now) {
				y = append(y, string(r.AppendJSON(nil, nil)))
			}
			slices.Sort(x)
			slices.Sort(y)
			if !slices.Equal(x, y) {
				t.Fatalf("matches of %q: %d, want %d", req.Filter, len(y), len(x))
			}
		}
	}
	t.Logf("%d questions, %d rows given, %d further pages", asked, found, pages)
}

func show(p query.Page) string {
	var b []byte
	for _, r := range p.Rows {
		b = append(r.AppendJSON(b, nil), '\n')
	}
	return string(b)
}
