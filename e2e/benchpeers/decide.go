package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
	"github.com/quarry-db/quarry/regions/plan"
)

// The rule for trimming over a fleet, by regions/plan and as SQL: in four
// regions every slate has one to three restore points, some of them not whole
// or verified too long ago; one in twenty has a hold or a reader, one in a
// thousand is frozen. The policies are these.
const (
	decideRule = `all: true}, safetyGap: {positions: 10, age: 1h}}`
	decideTest = `all: true}, safetyGap: {positions: 25, age: 2h}}`
)

var decideRegions = []string{"ams", "eu", "sgp", "us"}

// gap is what SQL has of a policy.
type gap struct {
	positions int
	age       time.Duration
}

var gapRule, gapTest = gap{10, time.Hour}, gap{25, 2 * time.Hour}

func decidePolicy(trim string) (regions.Policy, error) {
	d, err := regions.ParseDocuments("policy", []byte("apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: p}\nselect: {kinds: [snapshots]}\ntrim: {require: {"+trim+"\n"))
	if err != nil {
		return regions.Policy{}, err
	}
	return d.Policies[0], nil
}

// decideSlate makes the next slate of a fleet, in the room that s has.
func decideSlate(rng *rand.Rand, s *plan.Slate, now time.Time) {
	*s = plan.Slate{Name: "archive/0", Lineage: "l", Regions: s.Regions[:0], Pins: s.Pins[:0]}
	for _, name := range decideRegions {
		r := plan.Region{Name: name, Membership: catalog.Active, State: catalog.RegionConnected, Heard: true, Placed: true, Lineage: "l"}
		position := 1000 + uint64(rng.IntN(1000))
		for range 1 + rng.IntN(3) {
			pt := plan.Point{Position: position, State: catalog.RestoreVerified, FirstSeen: now.Add(-time.Duration(rng.IntN(3000)) * time.Minute)}
			pt.VerifiedAt = now.Add(-time.Duration(rng.IntN(1600)) * time.Minute)
			if rng.IntN(50) == 0 {
				pt.State = catalog.RestoreIncomplete
			}
			r.Points = append(r.Points, pt)
			position -= 1 + uint64(rng.IntN(300))
		}
		s.Regions = append(s.Regions, r)
	}
	if rng.IntN(20) == 0 {
		pin := plan.Pin{Kind: plan.PinHold, ID: "h"}
		if rng.IntN(10) > 0 {
			pin.Position = new(uint64(rng.IntN(3000)))
		}
		s.Pins = append(s.Pins, pin)
	}
	if rng.IntN(1000) == 0 {
		s.Frozen = "frozen"
	}
}

func decideFleet(o options, now time.Time) iter.Seq2[int, *plan.Slate] {
	return func(yield func(int, *plan.Slate) bool) {
		rng := rand.New(rand.NewPCG(o.seed, 6))
		var s plan.Slate
		for i := range o.decide {
			if decideSlate(rng, &s, now); !yield(i, &s) {
				return
			}
		}
	}
}

// The tables as one would make them, and one with a row for each slate that has
// the newest three restore points of each region in columns: what SQL can do at
// its best, while no slate has a fourth.
var decideTables = []string{
	"CREATE TABLE regions (region smallint PRIMARY KEY, membership text NOT NULL, state text NOT NULL, heard boolean NOT NULL)",
	"CREATE TABLE slates (slate int NOT NULL, frozen boolean NOT NULL)",
	"CREATE TABLE archives (slate int NOT NULL, region smallint NOT NULL, comparable boolean NOT NULL, readable boolean NOT NULL)",
	"CREATE TABLE points (slate int NOT NULL, region smallint NOT NULL, position bigint NOT NULL, state text NOT NULL, first_seen timestamptz NOT NULL, verified_at timestamptz NOT NULL)",
	"CREATE TABLE pins (slate int NOT NULL, position bigint)",
	"CREATE TABLE wide (slate int NOT NULL, frozen boolean NOT NULL, pin bigint, " + strings.Join(wideColumns(true), ", ") + ")",
}

var decideIndexes = []string{
	"ALTER TABLE slates ADD PRIMARY KEY (slate)", "ALTER TABLE archives ADD PRIMARY KEY (slate, region)",
	"CREATE INDEX ON points (slate, region, position DESC)", "CREATE INDEX ON pins (slate)", "ALTER TABLE wide ADD PRIMARY KEY (slate)",
	"VACUUM (ANALYZE) regions, slates, archives, points, pins, wide",
}

const widest = 3 // restore points of a region

func wideColumns(types bool) (out []string) {
	for r := range decideRegions {
		for k := range widest {
			for _, c := range []struct{ name, of string }{{"p", " bigint"}, {"s", " timestamptz"}, {"v", " timestamptz"}} {
				name := fmt.Sprintf("%s%d_%d", c.name, r, k)
				if types {
					name += c.of
				}
				out = append(out, name)
			}
		}
	}
	return out
}

// sqlTables is the rule over the tables: slate and floor of those that may be
// cut; where says of which slates.
func sqlTables(g gap, now time.Time, where string) string {
	return fmt.Sprintf(`
WITH asked AS (SELECT region, heard AND state IN ('connected', 'suspect') AS believed FROM regions WHERE membership <> 'retired'),
reach AS (SELECT slate, region, max(position) AS position FROM points
	WHERE state = 'verified' AND verified_at >= %[1]s AND first_seen <= %[2]s%[4]s GROUP BY slate, region),
agreed AS (SELECT r.slate, min(r.position) AS floor
	FROM reach r JOIN archives a ON a.slate = r.slate AND a.region = r.region JOIN asked q ON q.region = r.region
	WHERE q.believed AND a.comparable AND a.readable
	GROUP BY r.slate HAVING count(*) = (SELECT count(*) FROM asked)),
pinned AS (SELECT slate, bool_or(position IS NULL OR position = 0) AS everything, min(position) AS lowest FROM pins p WHERE true%[4]s GROUP BY slate)
SELECT a.slate, LEAST(a.floor - %[3]d, CASE WHEN p.lowest <= a.floor THEN p.lowest - 1 END) AS floor
FROM agreed a JOIN slates s ON s.slate = a.slate LEFT JOIN pinned p ON p.slate = a.slate
WHERE NOT s.frozen AND a.floor >= %[3]d AND NOT coalesce(p.everything, false)`,
		at(now.Add(-plan.FreshFor)), at(now.Add(-g.age)), g.positions, where)
}

func at(t time.Time) string { return "'" + t.UTC().Format(time.RFC3339) + "'::timestamptz" }

// sqlWide is the rule over the wide table, as an expression: the floor, or null.
// The regions' standing is the caller's, for it is the same in every row.
func sqlWide(g gap, now time.Time) string {
	var reach []string
	for r := range decideRegions {
		c := "CASE"
		for k := range widest {
			c += fmt.Sprintf(" WHEN v%d_%d >= %s AND s%d_%d <= %s THEN p%d_%d", r, k, at(now.Add(-plan.FreshFor)), r, k, at(now.Add(-g.age)), r, k)
		}
		reach = append(reach, c+" END")
	}
	// A sum is null when any part is; LEAST is not.
	agreed := fmt.Sprintf("(CASE WHEN (%s) IS NOT NULL THEN LEAST(%s) END)", strings.Join(reach, ") + ("), strings.Join(reach, ", "))
	return fmt.Sprintf("(SELECT CASE WHEN NOT frozen AND floor >= %[1]d AND pin IS DISTINCT FROM 0 THEN LEAST(floor - %[1]d, CASE WHEN pin <= floor THEN pin - 1 END) END FROM (SELECT %[2]s AS floor) agreed)", g.positions, agreed)
}

// measureDecide prints what the rule costs over a fleet, by regions/plan on one
// core and as SQL, in turns, and fails where any slate gets another floor.
func measureDecide(ctx context.Context, o options) error {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	before := loadAverage()
	policy, err := decidePolicy(decideRule)
	if err != nil {
		return err
	}
	test, err := decidePolicy(decideTest)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-decide-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	home := filepath.Join(dir, "postgresql")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	pg, err := newPostgres(ctx, home)
	if err != nil {
		return err // there is nothing to compare with
	}
	defer pg.close()

	progress("%d slates are taken in", o.decide)
	fleet := plan.NewFleet(decideRegions...)
	for i, s := range decideFleet(o, now) {
		if err := fleet.Put(i, s); err != nil {
			return err
		}
	}
	if err := loadDecide(ctx, pg, o, now); err != nil {
		return err
	}

	var set []plan.Standing
	for _, name := range decideRegions {
		set = append(set, plan.Standing{Name: name, Membership: catalog.Active, State: catalog.RegionConnected, Heard: true})
	}
	rule, other := fleet.Rule([]regions.Policy{policy}, set, now), fleet.Rule([]regions.Policy{test}, set, now)
	wide := fmt.Sprintf("SELECT slate, %s AS floor FROM wide", sqlWide(gapRule, now))
	for name, sql := range map[string]string{"the tables": sqlTables(gapRule, now, ""), "the wide table": wide} {
		progress("every floor is compared, over %s", name)
		if err := compareFloors(ctx, pg, sql, fleet, rule); err != nil {
			return fmt.Errorf("over %s: %w", name, err)
		}
	}

	ours := func(f func() (int64, int64)) func() (int64, int64, error) {
		return func() (int64, int64, error) { n, sum := f(); return n, sum, nil }
	}
	sql := func(q string) func() (int64, int64, error) {
		return func() (n, sum int64, err error) { return n, sum, pg.read.QueryRow(ctx, q).Scan(&n, &sum) }
	}
	total := func(q string) string {
		return "SELECT count(floor), coalesce(sum(floor), 0)::bigint FROM (" + q + ") q"
	}
	again := ours(func() (n, sum int64) {
		for i := range fleet.Len() {
			if r := fleet.Decide(rule, i); r.Permit {
				n, sum = n+1, sum+int64(r.UpTo)
			}
		}
		return n, sum
	})
	tested := ours(func() (n, same int64) {
		for i := range fleet.Len() {
			a, b := fleet.Decide(rule, i), fleet.Decide(other, i)
			if a.Permit != b.Permit || a.UpTo != b.UpTo {
				n++
			}
		}
		return n, 0
	})
	// One change: the newest restore point of a region is verified again.
	const changes = 20_000
	rng := rand.New(rand.NewPCG(o.seed, 7))
	changed := make([]plan.Slate, changes)
	places := rng.Perm(o.decide)[:min(changes, o.decide)]
	wanted := map[int]int{}
	for i, place := range places {
		wanted[place] = i
	}
	for place, s := range decideFleet(o, now) {
		if i, ok := wanted[place]; ok {
			changed[i] = plan.Slate{Name: s.Name, Lineage: s.Lineage, Frozen: s.Frozen, Regions: slices.Clone(s.Regions), Pins: slices.Clone(s.Pins)}
			changed[i].Regions[0].Points[0].VerifiedAt = now
			changed[i].Regions[0].Points[0].State = catalog.RestoreVerified
		}
	}
	oneOurs := func() (n, sum int64, err error) {
		for i, place := range places {
			if err := fleet.Put(place, &changed[i]); err != nil {
				return 0, 0, err
			}
			if r := fleet.Decide(rule, place); r.Permit {
				n, sum = n+1, sum+int64(r.UpTo)
			}
		}
		return n, sum, nil
	}
	update := "UPDATE wide SET "
	for i, c := range wideColumns(false)[:3*widest] {
		update += fmt.Sprintf("%s = $%d, ", c, i+2)
	}
	update = strings.TrimSuffix(update, ", ") + " WHERE slate = $1"
	oneSQL := func() (n, sum int64, err error) {
		for i, place := range places {
			if _, err := pg.read.Exec(ctx, update, append([]any{place}, wideCells(&changed[i].Regions[0])...)...); err != nil {
				return 0, 0, err
			}
			var floor *int64
			if err := pg.read.QueryRow(ctx, wide+" WHERE slate = $1", place).Scan(new(int), &floor); err != nil {
				return 0, 0, err
			}
			if floor != nil {
				n, sum = n+1, sum+*floor
			}
		}
		return n, sum, nil
	}
	for _, q := range []string{"SET max_parallel_workers_per_gather = 0", "SET jit = off", "SET synchronous_commit = off"} {
		if _, err := pg.read.Exec(ctx, q); err != nil {
			return err
		}
	}
	groups := []struct {
		title string
		per   int
		ways  []*decideWay
	}{
		{"all again", 1, []*decideWay{{who: "Quarry", run: again, pid: os.Getpid()}, {who: "SQL, a row a slate", run: sql(total(wide))}, {who: "SQL, tables", run: sql(total(sqlTables(gapRule, now, "")))}}},
		{"policy test", 1, []*decideWay{{who: "Quarry", run: tested, pid: os.Getpid()}, {who: "SQL, a row a slate", run: sql(fmt.Sprintf("SELECT count(*), 0 FROM wide WHERE %s IS DISTINCT FROM %s", sqlWide(gapRule, now), sqlWide(gapTest, now)))}}},
		{"a change", len(places), []*decideWay{{who: "Quarry", run: oneOurs, pid: os.Getpid()}, {who: "SQL, a row a slate", run: oneSQL}}},
	}
	for _, g := range groups { // changes come last: the tables do not get them
		for round := range o.rounds {
			progress("%s, round %d", g.title, round+1)
			ways := slices.Clone(g.ways)
			if round%2 == 1 {
				slices.Reverse(ways)
			}
			for _, w := range ways {
				if err := w.measure(pg); err != nil {
					return fmt.Errorf("%s by %s: %w", g.title, w.who, err)
				}
			}
			for _, w := range g.ways[1:] {
				if w.count != g.ways[0].count || w.sum != g.ways[0].sum {
					return fmt.Errorf("%s: %s comes to %d, %d; %s to %d, %d", g.title, w.who, w.count, w.sum, g.ways[0].who, g.ways[0].count, g.ways[0].sum)
				}
			}
		}
	}
	fmt.Printf("\n%s; PostgreSQL %s; %s slates in 4 regions, seed %d, %d rounds; load average before %s, after %s\n`%s`\n\n",
		machine(), pg.version, thousands(o.decide), o.seed, o.rounds, before, loadAverage(), o.command)
	return printDecide(os.Stdout, func(row func(cells ...string)) {
		for _, g := range groups {
			first := median(g.ways[0].cpu)
			for _, w := range g.ways {
				waited := ""
				if w.waited > tooBusy {
					waited = " (waited)"
				}
				row(g.title, w.who, perUnit(w.cpu, g.per), perUnit(w.wall, g.per)+waited, fmt.Sprintf("%.1f", median(w.cpu)/first), fmt.Sprint(w.count))
			}
		}
	})
}

// decideWay is one way of coming to the same answer.
type decideWay struct {
	who        string
	run        func() (count, sum int64, err error)
	pid        int // whose CPU it is; 0: the server's and ours
	cpu, wall  []float64
	count, sum int64
	waited     float64
}

func (w *decideWay) measure(pg *pgSystem) (err error) {
	pids := []int{os.Getpid()}
	if w.pid == 0 {
		pids = append(pids, pg.pids()...)
	}
	runtime.GC() // what was done before is not ours to pay for
	was, began := spentBy(pids), time.Now()
	w.count, w.sum, err = w.run()
	took, is := time.Since(began), spentBy(pids).minus(was)
	w.cpu, w.wall = append(w.cpu, is.run.Seconds()), append(w.wall, took.Seconds())
	if is.run > 0 {
		w.waited = max(w.waited, is.wait.Seconds()/is.run.Seconds())
	}
	return err
}

func perUnit(seconds []float64, n int) string {
	unit, by := "ms", 1e3
	if n > 1 {
		unit, by = "µs", 1e6/float64(n)
	}
	scaled := make([]float64, len(seconds))
	for i, s := range seconds {
		scaled[i] = s * by
	}
	return spread(scaled) + " " + unit
}

func printDecide(to io.Writer, fill func(row func(cells ...string))) error {
	w := tabwriter.NewWriter(to, 0, 0, 1, ' ', 0)
	row := func(cells ...string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, "\t| ")) }
	row("work", "by", "CPU", "on the clock", "CPU of Quarry's", "came to")
	row("---", "---", "---", "---", "---", "---")
	fill(row)
	return w.Flush()
}

// compareFloors compares the floor of every slate.
func compareFloors(ctx context.Context, pg *pgSystem, sql string, fleet *plan.Fleet, rule *plan.Rule) error {
	got := make([]int64, fleet.Len())
	for i := range got {
		got[i] = -1
	}
	rows, err := pg.read.Query(ctx, sql)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var slate int
		var floor *int64
		if err := rows.Scan(&slate, &floor); err != nil {
			return err
		}
		if floor != nil {
			got[slate] = *floor
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	permits := 0
	for i, floor := range got {
		want := int64(-1)
		if r := fleet.Decide(rule, i); r.Permit {
			want = int64(r.UpTo)
			permits++
		}
		if floor != want {
			return fmt.Errorf("slate %d: SQL says %d, regions/plan %d", i, floor, want)
		}
	}
	if permits == 0 || permits == len(got) {
		return errors.New("all slates are ruled alike: this compares nothing")
	}
	return nil
}

func loadDecide(ctx context.Context, pg *pgSystem, o options, now time.Time) error {
	for _, ddl := range decideTables {
		if _, err := pg.write.Exec(ctx, ddl); err != nil {
			return err
		}
	}
	for i := range decideRegions {
		if _, err := pg.write.Exec(ctx, "INSERT INTO regions VALUES ($1, 'active', 'connected', true)", i); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		name    string
		columns []string
		rows    func(i int, s *plan.Slate, row func(...any) bool) bool
	}{
		{"slates", []string{"slate", "frozen"}, func(i int, s *plan.Slate, row func(...any) bool) bool { return row(i, s.Frozen != "") }},
		{"archives", []string{"slate", "region", "comparable", "readable"}, func(i int, s *plan.Slate, row func(...any) bool) bool {
			for r := range s.Regions {
				if !row(i, int16(r), true, true) {
					return false
				}
			}
			return true
		}},
		{"points", []string{"slate", "region", "position", "state", "first_seen", "verified_at"}, func(i int, s *plan.Slate, row func(...any) bool) bool {
			for r := range s.Regions {
				for _, p := range s.Regions[r].Points {
					if !row(i, int16(r), int64(p.Position), string(p.State), p.FirstSeen, p.VerifiedAt) {
						return false
					}
				}
			}
			return true
		}},
		{"pins", []string{"slate", "position"}, func(i int, s *plan.Slate, row func(...any) bool) bool {
			for _, p := range s.Pins {
				if !row(i, signed(p.Position)) {
					return false
				}
			}
			return true
		}},
		{"wide", append([]string{"slate", "frozen", "pin"}, wideColumns(false)...), wideRow},
	} {
		next, stop := iter.Pull(func(yield func([]any) bool) {
			for i, s := range decideFleet(o, now) {
				if !t.rows(i, s, func(cells ...any) bool { return yield(cells) }) {
					return
				}
			}
		})
		_, err := pg.write.CopyFrom(ctx, pgx.Identifier{t.name}, t.columns, pgx.CopyFromFunc(func() ([]any, error) {
			row, _ := next()
			return row, nil
		}))
		stop()
		if err != nil {
			return fmt.Errorf("copy into %s: %w", t.name, err)
		}
	}
	for _, ddl := range decideIndexes {
		if _, err := pg.write.Exec(ctx, ddl); err != nil {
			return fmt.Errorf("%s: %w", ddl, err)
		}
	}
	return nil
}

// wideRow has the lowest pin (0: everything is kept) and the verified restore
// points of each region, newest first.
func wideRow(i int, s *plan.Slate, row func(...any) bool) bool {
	var pin *int64
	for _, p := range s.Pins {
		lowest := int64(0)
		if p.Position != nil {
			lowest = int64(*p.Position)
		}
		if pin == nil || lowest < *pin {
			pin = &lowest
		}
	}
	cells := []any{i, s.Frozen != "", pin}
	for r := range s.Regions {
		cells = append(cells, wideCells(&s.Regions[r])...)
	}
	return row(cells...)
}

func wideCells(r *plan.Region) (cells []any) {
	for _, p := range r.Points {
		if p.State == catalog.RestoreVerified {
			cells = append(cells, int64(p.Position), p.FirstSeen, p.VerifiedAt)
		}
	}
	for len(cells) < 3*widest {
		cells = append(cells, nil)
	}
	return cells
}
