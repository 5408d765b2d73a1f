package table

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

func placements() *Schema {
	return SchemaOf[catalog.Placement](Options{
		Ident: [3]string{"slate", "region", "root"},
		Traits: []string{"region", "kind", "kind_from", "seen", "state", "incarnation_kept", "initialized", "extractor", "compaction",
			"position_domain", "manifest_version", "registered"},
		Symbols: []string{"owner", "contact", "labels"}, Ordered: []string{"bytes"}, Summed: []string{"bytes"},
		Covered: []string{"state", "state_reason", "state_since"}, Hidden: []string{"counter", "sum_hi", "sum_lo"},
	})
}

func ptr[T any](v T) *T { return &v }

// row is a placement with something in every kind of field, or nothing.
func row(rng *rand.Rand, n int) *catalog.Placement {
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	at := time.Date(2026, 1, 1, 0, 0, 0, rng.IntN(1e9), time.UTC).Add(time.Duration(rng.IntN(1e6)) * time.Second)
	p := &catalog.Placement{Region: fmt.Sprint("r", n%3), State: catalog.PlacementState(pick("live", "missing")), StateReason: pick("", "why"),
		ObservedAt: at, FirstSeen: at, StateSince: at, Registered: rng.IntN(2) == 0, Owner: pick("", "a", "b"), RestorePoints: uint64(rng.IntN(3))}
	p.Root, p.Slate, p.Kind, p.Seen = fmt.Sprint("dbs/", n), pick(fmt.Sprint("dbs/", n), "named"), catalog.Kind(pick("log", "slatedb")), catalog.SeenLive
	p.Incarnation = pick("", fmt.Sprint("i", rng.IntN(5)))
	if rng.IntN(4) > 0 {
		p.ManifestID, p.Position, p.Bytes = ptr(rng.Uint64N(1<<rng.IntN(64))), ptr(rng.Uint64()), ptr(rng.Uint64N(1<<40))
		p.Initialized, p.ManifestVersion = ptr(rng.IntN(2) == 0), ptr(uint64(rng.IntN(3)))
	}
	if rng.IntN(3) == 0 {
		p.ListedAt, p.WriterSince = &at, &at
		p.Labels = map[string]string{"team": pick("x", "y"), "tier": "1"}
		p.Checkpoints = []catalog.Checkpoint{{ID: "c", Name: pick("", "n")}}
		p.PinnedBy = []string{"other"}
	}
	return p
}

// shown is the row as a table with a stale region gives it back.
func shown(p *catalog.Placement, stale map[string]time.Time) *catalog.Placement {
	c := *p
	if since, ok := stale[p.Region]; ok && p.State == catalog.StateLive {
		c.State, c.StateReason, c.StateSince = catalog.StateStale, "silent", since
	}
	return &c
}

// Whatever is done, every table ever shared goes on being what the rows were
// at its moment, however it is read.
func TestATableIsItsRows(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	sc := placements()
	b := NewBuilder[catalog.Placement](sc)
	model := map[string]*catalog.Placement{}
	stale := map[string]time.Time{}
	type moment struct {
		table *Table
		rows  map[string]*catalog.Placement
	}
	var moments []moment
	// Regions are no trait here: each of the three is told by its class's rows.
	for range 12_000 {
		n := rng.IntN(400)
		key := fmt.Sprint("r", n%3, "\x00dbs/", n)
		region, root := fmt.Sprint("r", n%3), fmt.Sprint("dbs/", n)
		switch k := rng.IntN(20); {
		case k < 8:
			p := row(rng, n)
			kept := *p
			model[key] = &kept
			b.Put(p)
		case k < 15:
			s := b.Find(region, root)
			if (s == None) != (model[key] == nil) {
				t.Fatalf("%q: found %d, the model has %v", key, s, model[key])
			}
			if s == None {
				continue
			}
			c := *model[key]
			v := rng.Uint64N(1 << rng.IntN(64))
			switch rng.IntN(4) {
			case 0:
				b.SetNumber(s, sc.Col("bytes"), v)
				c.Bytes = &v
			case 1:
				b.SetNumber(s, sc.Col("position"), v)
				c.Position = &v
			case 2:
				b.SetNull(s, sc.Col("bytes"))
				c.Bytes = nil
			case 3:
				b.SetNumber(s, sc.Col("counter"), v)
			}
			model[key] = &c
		case k < 17:
			if s := b.Find(region, root); s != None {
				b.Remove(s)
			}
			delete(model, key)
		case k < 19:
			rows := map[string]*catalog.Placement{}
			for k, p := range model {
				rows[k] = shown(p, stale)
			}
			moments = append(moments, moment{b.Share(), rows})
		default:
			for _, r := range []string{"r0", "r1", "r2"} {
				if rng.IntN(4) == 0 {
					stale[r] = time.Unix(int64(rng.IntN(1000)), 0).UTC()
				} else {
					delete(stale, r)
				}
			}
			clear(stale)
			if rng.IntN(2) == 0 { // a class knows no region here: all or none
				for _, r := range []string{"r0", "r1", "r2"} {
					stale[r] = time.Unix(77, 0).UTC()
				}
			}
			all := len(stale) > 0
			b.Cover(func(c, _ *Class) map[int]Value {
				if !all || c.Stored(sc.Col("state")).Text != "live" {
					return nil
				}
				n, _ := TimeNumber(time.Unix(77, 0))
				return map[int]Value{sc.Col("state"): {Text: "stale"}, sc.Col("state_reason"): {Text: "silent"}, sc.Col("state_since"): {Num: n}}
			})
		}
	}
	for i := 0; i < len(moments); i += 7 {
		check(t, sc, moments[i].table, moments[i].rows)
	}
	t.Logf("%d rows, %d tables, %d classes", b.Len(), len(moments), b.Table().Classes())
}

func check(t *testing.T, sc *Schema, tb *Table, want map[string]*catalog.Placement) {
	t.Helper()
	if tb.Len() != len(want) {
		t.Fatalf("%d rows, want %d", tb.Len(), len(want))
	}
	seen := 0
	for i := range tb.Chunks() {
		c := tb.Chunk(i)
		if c == nil {
			continue
		}
		for k := range ChunkRows {
			if c.Live()&(1<<k) == 0 {
				continue
			}
			seen++
			id := c.Idents()[k]
			s := Slot(i*ChunkRows + k)
			w := want[id.Region+"\x00"+id.Root]
			got := tb.Row(s).(*catalog.Placement)
			if w == nil || !reflect.DeepEqual(got, w) {
				t.Fatalf("slot %d:\ngot  %+v\nwant %+v", s, got, w)
			}
			if tb.Find(id.Region, id.Root) != s || tb.Ident(s) != id || id.Slot != s {
				t.Fatalf("slot %d is not found by its name", s)
			}
		}
	}
	if seen != len(want) {
		t.Fatalf("%d live rows, want %d", seen, len(want))
	}
	rows := make([]*catalog.Placement, 0, len(want))
	for _, p := range want {
		rows = append(rows, p)
	}
	byName := func(a, b *catalog.Placement) int {
		return cmp.Or(strings.Compare(a.Slate, b.Slate), strings.Compare(a.Region, b.Region), strings.Compare(a.Root, b.Root))
	}
	slices.SortFunc(rows, byName)
	n := 0
	tb.Names().Ascend(First, func(_ uint64, id *Ident) bool {
		if id.Root != rows[n].Root {
			t.Fatalf("row %d by name is %s, want %s", n, id.Root, rows[n].Root)
		}
		n++
		return true
	})
	tb.Names().Descend(Last, func(_ uint64, id *Ident) bool { n--; return id.Root == rows[n].Root })
	if n != 0 {
		t.Fatalf("by name descending ended at %d", n)
	}
	slices.SortFunc(rows, func(a, b *catalog.Placement) int {
		if (a.Bytes == nil) != (b.Bytes == nil) {
			if a.Bytes == nil {
				return 1
			}
			return -1
		}
		if a.Bytes != nil && *a.Bytes != *b.Bytes {
			return cmp.Compare(*a.Bytes, *b.Bytes)
		}
		return byName(a, b)
	})
	step := func(num uint64, id *Ident) bool {
		p := rows[n]
		if id.Root != p.Root || p.Bytes != nil && num != *p.Bytes {
			t.Fatalf("row %d by bytes is %s %d, want %s", n, id.Root, num, p.Root)
		}
		n++
		return true
	}
	tb.Order(sc.Col("bytes")).Ascend(First, step)
	tb.Nulls(sc.Col("bytes")).Ascend(First, step)
	if n != len(rows) {
		t.Fatalf("%d rows by bytes, want %d", n, len(rows))
	}
	count, sum, known := uint64(0), uint64(0), uint64(0)
	states := map[string]uint64{}
	for i := range tb.Classes() {
		c := tb.Class(uint32(i))
		x, k := c.Sum(sc.Col("bytes"))
		count, sum, known = count+c.Count, sum+x, known+k
		states[c.Value(sc.Col("state")).Text] += c.Count
	}
	var wantSum, wantKnown uint64
	for _, p := range rows {
		if p.Bytes != nil {
			wantSum, wantKnown = wantSum+*p.Bytes, wantKnown+1
		}
		states[string(p.State)]--
	}
	if count != uint64(len(rows)) || sum != wantSum || known != wantKnown {
		t.Fatalf("classes have %d rows, sum %d of %d; want %d, %d of %d", count, sum, known, len(rows), wantSum, wantKnown)
	}
	for s, n := range states {
		if n != 0 {
			t.Fatalf("state %s is counted %d too often", s, int64(n))
		}
	}
}

// Readers go through old tables while the builder goes on; for -race.
func TestReadersDoNotMeetTheBuilder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	sc := placements()
	b := NewBuilder[catalog.Placement](sc)
	tables := make(chan *Table, 4)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for tb := range tables {
				n := 0
				for i := range tb.Chunks() {
					if c := tb.Chunk(i); c != nil {
						var buf [ChunkRows]uint64
						c.Numbers(sc.Col("position"), &buf)
						for k := range ChunkRows {
							if c.Live()&(1<<k) != 0 {
								tb.Row(Slot(i*ChunkRows + k))
								n++
							}
						}
					}
				}
				if n != tb.Len() {
					t.Errorf("%d rows, want %d", n, tb.Len())
				}
				tb.Order(sc.Col("bytes")).Ascend(First, func(uint64, *Ident) bool { return true })
			}
		})
	}
	for range 300 {
		for range 30 {
			n := rng.IntN(500)
			if s := b.Find(fmt.Sprint("r", n%3), fmt.Sprint("dbs/", n)); s != None && rng.IntN(3) > 0 {
				b.SetNumber(s, sc.Col("bytes"), rng.Uint64N(100))
			} else if s != None && rng.IntN(3) == 0 {
				b.Remove(s)
			} else {
				b.Put(row(rng, n))
			}
		}
		tables <- b.Share()
	}
	close(tables)
	wg.Wait()
}
