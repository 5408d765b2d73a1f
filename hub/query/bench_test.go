package query_test

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// big is a view of n placements as fleets have them: eight regions, names by
// team, nearly all live, readers in one of twenty, one label in fifty.
func big(n int) *view.View {
	b := view.NewBuilder(0, 0, 0)
	rng := rand.New(rand.NewPCG(5, 5))
	ptr := func(v uint64) *uint64 { return &v }
	for i := range n {
		p := &catalog.Placement{
			Region: fmt.Sprint("region-", i%8), State: catalog.StateLive, Registered: i%3 == 0,
			ObservedAt: start.Add(-time.Duration(rng.IntN(3600)) * time.Second), FirstSeen: start.Add(-time.Hour * 1000), StateSince: start.Add(-time.Hour * 900),
		}
		p.Slate = fmt.Sprintf("dbs/team-%02d/db-%07d", i%50, i)
		p.Root, p.Kind, p.KindFrom, p.Seen, p.PositionDomain = p.Slate, catalog.Kinds[i%5], "extractor", catalog.SeenLive, "seq"
		p.Incarnation = fmt.Sprintf("01JD%022d", i)
		p.Lineage = p.Incarnation
		p.Checkpoints, p.Readers = []catalog.Checkpoint{}, []catalog.Reader{}
		p.ManifestID, p.WriterEpoch, p.CompactorEpoch = ptr(rng.Uint64N(1000)), ptr(rng.Uint64N(20)), ptr(rng.Uint64N(20))
		p.LastL0Seq, p.WALTail, p.ReplayAfterWAL = ptr(rng.Uint64N(1e6)), ptr(rng.Uint64N(1e5)), ptr(rng.Uint64N(1e5))
		p.L0Count, p.RunCount, p.Position, p.Bytes = ptr(rng.Uint64N(8)), ptr(rng.Uint64N(8)), ptr(rng.Uint64N(1e9)), ptr(rng.Uint64N(1<<36))
		p.Labels = map[string]string{"team": fmt.Sprint("t", i%50)}
		if i%3 == 0 {
			p.Owner = fmt.Sprint("owner-", i%200)
		}
		switch {
		case i%(n/20+1) == 7: // twenty or so
			p.State, p.StateReason = catalog.StateUnreadable, "manifest: bad checksum"
			p.Bytes = ptr(rng.Uint64N(1 << 10)) // the last by size
			p.Labels["rare"] = "yes"
		case i%100 == 3:
			p.State = catalog.StateMissing
		}
		if i%20 == 0 {
			e := start.Add(time.Duration(rng.IntN(7200)-3600) * time.Second)
			p.Checkpoints = append(p.Checkpoints, catalog.Checkpoint{ID: fmt.Sprint("c", i), ManifestID: 3, Expires: &e, Looks: "reader"})
			p.Readers = append(p.Readers, catalog.Reader{ID: fmt.Sprint("c", i), Name: fmt.Sprint("reader-", i%1000), ManifestID: 3, Expires: &e, From: "checkpoint"})
		}
		b.SetPlacement(p, true)
		s := &catalog.Slate{Name: p.Slate, Kind: p.Kind, State: p.State, Regions: []string{p.Region}, Placements: 1, Registered: p.Registered, Owner: p.Owner,
			Labels: p.Labels, Bytes: p.Bytes, ObservedAt: p.ObservedAt}
		b.SetSlate(s, true)
	}
	return b.Publish(start)
}

var theTypes = struct{ placements, slates, owners *query.Type }{
	query.TypeOf[catalog.Placement]("placements", nil, "slate", "region", "root"), query.TypeOf[catalog.Slate]("slates", nil, "name"),
	query.TypeOf[catalog.OwnerRow]("owners", nil, "slate", "region", "root"),
}

// ownerAt makes an owner's row of a placement.
func ownerAt(t *table.Table, s table.Slot) *catalog.OwnerRow {
	var moved *time.Time
	c, i := t.At(s)
	if n, ok := c.Number(t.Schema().Col("hidden.moved_at"), i); ok {
		at := table.NumberTime(n)
		moved = &at
	}
	return view.OwnerOf(t.Row(s).(*catalog.Placement), moved)
}

func ownersOf(v *view.View) query.Source {
	return query.Source{
		Table: v.PlacementTable(), Columns: map[string]string{"declared": "registered", "moved_at": "hidden.moved_at"},
		Row:   func(s table.Slot) any { return ownerAt(v.PlacementTable(), s) },
		Extra: func(*query.Filter) iter.Seq[any] { return anyOf(v.Declared()) },
	}
}

// Those of whatever fleet a test has at the moment.
var placementTexts, slateTexts query.Sketches

func placementsOf(v *view.View) query.Source {
	return query.Source{Table: v.PlacementTable(), Sketches: &placementTexts}
}

func slatesOf(v *view.View) query.Source {
	return query.Source{
		Table: v.SlateTable(), Fill: func(row any) { v.FillSlate(row.(*catalog.Slate)) }, Sketches: &slateTexts,
		Through: map[string]query.Through{
			"where":    {Table: v.PlacementTable(), Type: theTypes.placements, Slot: "hidden.slate", Sketches: &placementTexts},
			"lineages": {Table: v.PlacementTable(), Type: theTypes.placements, Slot: "hidden.slate", Text: "lineage", Sketches: &placementTexts},
		},
	}
}

// cpu reports what one operation costs its thread, which is what counts on a
// machine that has other work.
func cpu(b *testing.B) func() {
	spent := func() (ns float64) {
		s, err := os.ReadFile("/proc/thread-self/schedstat")
		if err == nil {
			_, err = fmt.Sscan(string(s), &ns)
		}
		if err != nil {
			return 0
		}
		return ns
	}
	runtime.LockOSThread()
	before := spent()
	return func() {
		b.ReportMetric((spent()-before)/float64(b.N), "cpu-ns/op")
		runtime.UnlockOSThread()
	}
}

// BenchmarkQueries measures a page of 50 with its JSON, for filters that help,
// hurt or match nothing. A million rows: QUARRY_BENCH_BIG=1.
func BenchmarkQueries(b *testing.B) {
	n := 100_000
	if os.Getenv("QUARRY_BENCH_BIG") == "1" {
		n = 1_000_000
	}
	v := big(n)
	for _, c := range []struct {
		name          string
		slates        bool
		filter, order string
		skip          int // pages
	}{
		{"first page", false, "", "", 0},
		{"three filters, sort", false, `region = "region-2" AND state = "live" AND bytes > 1GiB`, "bytes desc", 0},
		{"three filters, sort, page 20", false, `region = "region-2" AND state = "live" AND bytes > 1GiB`, "bytes desc", 20},
		{"page 200 by bytes", false, "", "bytes", 200},
		{"label", false, `labels.team = "t7"`, "bytes desc", 0},
		{"rare label", false, `labels.rare = "yes"`, "", 0},
		{"rare state against the order", false, `state = unreadable`, "bytes desc", 0},
		{"rare state by name", false, `state = unreadable`, "", 0},
		{"nothing: state", false, `state = stale`, "", 0},
		{"nothing: number", false, `position > 2e9`, "", 0},
		{"name prefix", false, `slate = "dbs/team-07/*"`, "", 0},
		{"name prefix, sort", false, `slate = "dbs/team-07/db-000*"`, "position desc", 0},
		{"name prefix of few", false, `slate = "dbs/team-07/db-00001*"`, "position", 0},
		{"name contains", false, `slate:"0077"`, "position", 0},
		{"no name contains", false, `slate:"nowhere"`, "", 0},
		{"any text", false, `"nowhere"`, "", 0},
		{"any text, some", false, `"0012345"`, "", 0},
		{"any text of two letters", false, `"zq"`, "", 0},
		{"name with stars", false, `slate = "*7*7*7*7*7*7"`, "", 0},
		{"age", false, `observed_at < now-59m`, "observed_at", 0},
		{"no age", false, `observed_at < now-2h`, "", 0},
		{"readers.name", false, `readers.name = "reader-40"`, "", 0},
		{"no readers.name", false, `readers.name = "nobody"`, "", 0},
		{"checkpoints.expires", false, `checkpoints.expires < now-59m`, "bytes", 0},
		{"root", false, `root = "dbs/team-07/db-0000007"`, "", 0},
		{"no root", false, `root = "dbs/team-07"`, "", 0},
		{"by a number without an order", false, `state = live`, "position desc", 0},
		{"by region and bytes", false, "", "region, bytes desc", 0},
		{"by name backwards", false, "", "slate desc", 0},
		{"by root", false, "", "root", 0},
		{"not and or", false, `NOT (kind = log OR bytes < 1GiB) AND (owner = "owner-9" OR registered = false)`, "bytes", 0},
		{"slates", true, "", "", 0},
		{"slates: three filters, sort", true, `state = live AND regions:"region-2" AND bytes > 1GiB`, "bytes desc", 0},
		{"slates: any text", true, `"nowhere"`, "", 0},
		{"slates: where", true, `where.region = "region-2" AND where.position < 1000`, "", 0},
		{"slates: no where", true, `where.readers.name = "nobody"`, "", 0},
		{"slates: lineage", true, `lineages:"01JD0000000000000000000777"`, "", 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			typ, src := theTypes.placements, placementsOf(v)
			if c.slates {
				typ, src = theTypes.slates, slatesOf(v)
			}
			req := query.Request{Filter: c.filter, OrderBy: c.order}
			for range c.skip {
				p, err := typ.Plan(req)
				if err != nil {
					b.Fatal(err)
				}
				req.PageToken = p.Page(src, start).Next
			}
			var out []byte
			rows := 0
			b.ReportAllocs()
			done := cpu(b)
			for b.Loop() {
				p, err := typ.Plan(req)
				if err != nil {
					b.Fatal(err)
				}
				out = out[:0]
				page := p.Page(src, start)
				rows = len(page.Rows)
				for _, row := range page.Rows {
					out = row.AppendJSON(out, nil)
				}
			}
			done()
			b.ReportMetric(float64(rows), "rows")
		})
	}
	for _, c := range []struct {
		name, by, filter string
		slates           bool
	}{
		{"count of two filters", "state", `bytes > 1GiB AND labels.team = "t7"`, false},
		{"facets of three", "region,kind,state", "", false},
		{"facets under a trait", "region,kind,state", "registered = true", false},
		{"facets under a filter", "region,kind,state", "position > 500000000", false},
		{"facets by owner", "owner", "", false},
		{"facets by label and region", "labels.team,region", "", false},
		{"facets by a number", "l0_count", "", false},
		{"facets by name", "slate", "", false},
		{"slates: facets", "kind,state", "", true},
	} {
		b.Run(c.name, func(b *testing.B) {
			typ, src := theTypes.placements, placementsOf(v)
			if c.slates {
				typ, src = theTypes.slates, slatesOf(v)
			}
			sum, err := typ.Summary(c.by)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			n := 0
			done := cpu(b)
			for b.Loop() {
				p, err := typ.Plan(query.Request{Filter: c.filter})
				if err != nil {
					b.Fatal(err)
				}
				g, _ := sum.GroupsOf(p, src, start)
				n = len(g)
			}
			done()
			b.ReportMetric(float64(n), "groups")
		})
	}
	b.Run("JSON of a row", func(b *testing.B) {
		p, err := theTypes.placements.Plan(query.Request{})
		if err != nil {
			b.Fatal(err)
		}
		page := p.Page(placementsOf(v), start)
		var out []byte
		b.ReportAllocs()
		done := cpu(b)
		for b.Loop() {
			out = page.Rows[3].AppendJSON(out[:0], nil)
		}
		done()
	})
}
