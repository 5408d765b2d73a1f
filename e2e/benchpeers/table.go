package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

func (r *Report) system(name string) *Result {
	for _, s := range r.Systems {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// tooBusy is the share of waiting beyond which no verdict is given: then the
// clock says more about the neighbours than about us.
const tooBusy = .5

// verdict of one figure against a goal, unless the machine was too busy.
func verdict(value, goal, waited float64, clock bool) string {
	switch {
	case value == 0:
		return "not measured"
	case clock && waited > tooBusy:
		return fmt.Sprintf("no verdict: waited %.0f %% of the time on a core", 100*waited)
	case value <= goal:
		return "met"
	}
	return fmt.Sprintf("**missed by %.1fx**", value/goal)
}

func spread(v []float64) string {
	if len(v) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", short(median(v)), short(slices.Min(v)), short(slices.Max(v)))
}

// short is a number with three digits that count.
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100_000:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

func ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return "–"
	}
	return short(a/b) + "x"
}

// grid is a table that can be printed and written in Markdown.
type grid struct {
	title string
	head  []string
	rows  [][]string
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

func (g *grid) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", g.title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range append([][]string{g.head}, g.rows...) {
		fmt.Fprintln(t, strings.ReplaceAll(strings.Join(r, "\t"), "**", ""))
	}
	t.Flush()
}

func (g *grid) markdown(w io.Writer) {
	fmt.Fprintf(w, "\n**%s**\n\n| %s |\n|%s\n", g.title, strings.Join(g.head, " | "), strings.Repeat(" --- |", len(g.head)))
	for _, r := range g.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(r, " | "))
	}
}

func (r *Report) grids() []*grid {
	return []*grid{r.updates(), r.queriesGrid(), r.space(), r.goals()}
}

func (r *Report) updates() *grid {
	g := &grid{title: fmt.Sprintf("Updates, %d placements: CPU of client and servers, median (min–max) of %d rounds of %d", r.Size, r.Rounds, r.Steps),
		head: []string{"system", "changes", "µs CPU each", "and afterwards", "by the clock, /s", "waited", "CPU beside Quarry"}}
	for _, s := range r.Systems {
		for _, w := range works {
			u := s.Updates[w.name]
			if u == nil {
				continue
			}
			beside := "1x"
			if q := r.system("Quarry"); q != nil && q != s {
				if base := q.Updates[strings.TrimSuffix(w.name, ", durable")]; base != nil {
					beside = ratio(median(u.CPU), median(base.CPU))
				}
			}
			g.add(s.Name, w.name, spread(u.CPU), short(median(u.After)), spread(u.Rate), percent(median(u.Waited)), beside)
		}
	}
	return g
}

func percent(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) }

func (r *Report) queriesGrid() *grid {
	g := &grid{title: fmt.Sprintf("Queries, %d placements: milliseconds from asking to the decoded answer", r.Size),
		head: []string{"query", "system", "p50", "p99", "CPU", "p50 under updates", "p99 under updates", "p50 beside PostgreSQL", "same under updates"}}
	pg := r.system("PostgreSQL")
	for _, q := range questions(regionNames, 1, &exampleRow) {
		for _, s := range r.Systems {
			x := s.Queries[q.name]
			if x == nil || len(x.P50) == 0 {
				continue
			}
			var beside, busy string
			if pg != nil && pg != s && s.Rows > r.Size/2 && pg.Queries[q.name] != nil {
				p := pg.Queries[q.name]
				beside, busy = ratio(median(x.P50), median(p.P50)), ratio(median(x.BusyP50), median(p.BusyP50))
			}
			g.add(q.name, s.Name, spread(x.P50), short(median(x.P99)), short(median(x.CPU)), spread(x.BusyP50), short(median(x.BusyP99)), beside, busy)
		}
	}
	return g
}

func (r *Report) space() *grid {
	g := &grid{title: fmt.Sprintf("Space and beginning, %d placements", r.Size),
		head: []string{"system", "how", "rows", "bytes a row", "what is counted", "resident, all processes", "load, s (CPU s)", "restart, s", "updates/s while asked", "answers"}}
	for _, s := range r.Systems {
		answers := "all those of a plain scan"
		if len(s.Differences) > 0 {
			answers = fmt.Sprintf("**%d differ**: %s", len(s.Differences), s.Differences[0])
		}
		restart := "–"
		if s.Restart > 0 {
			restart = short(s.Restart)
		}
		g.add(s.Name, s.What, fmt.Sprint(s.Rows), short(float64(s.Bytes)/float64(max(1, s.Rows))), s.BytesOf, fmt.Sprintf("%d MB", s.ResidentKB>>10),
			fmt.Sprintf("%s (%s)", short(s.LoadSeconds), short(s.LoadCPU)), restart, spread(s.Poured), answers)
	}
	return g
}

func cpuOf(s *Result, name string) float64 {
	if s == nil || s.Updates[name] == nil {
		return 0
	}
	return median(s.Updates[name].CPU)
}

func waitedOf(s *Result, name string) float64 {
	if s == nil || s.Updates[name] == nil {
		return 0
	}
	return median(s.Updates[name].Waited)
}

// over is a/b, or zero when one of them was not measured.
func over(a, b float64) float64 {
	if a == 0 || b == 0 {
		return 0
	}
	return a / b
}

// goals are those of the project that this run says something about.
func (r *Report) goals() *grid {
	g := &grid{title: fmt.Sprintf("Goals, %d placements", r.Size), head: []string{"goal", "is", "verdict"}}
	q, pg, rd, crd := r.system("Quarry"), r.system("PostgreSQL"), r.system("Redis"), r.system("CRD")
	if q == nil {
		return g
	}
	add := func(what string, value, goal, waited float64, clock bool, unit string) {
		g.add(what, short(value)+unit, verdict(value, goal, waited, clock))
	}
	mix := cpuOf(q, "mix")
	add("an update with a new manifest, end to end over TLS: ≤ 8 µs CPU", cpuOf(q, "manifests"), 8, waitedOf(q, "manifests"), false, " µs")
	add("a new position, end to end over TLS: ≤ 3.5 µs CPU", cpuOf(q, "positions"), 3.5, waitedOf(q, "positions"), false, " µs")
	add("CPU of the mix: ≤ 1/7 of PostgreSQL in batches of 1,000, synchronous commit off", over(mix, cpuOf(pg, "mix")), 1.0/7, 0, false, "x")
	add("the same: ≤ 1/300 of a CRD patch", over(mix, cpuOf(crd, "mix")), 1.0/300, 0, false, "x")
	add("the same: ≤ 1.0x of Redis in pipelines of 1,000", over(mix, cpuOf(rd, "mix")), 1, 0, false, "x")
	if pg != nil {
		name := "3 filters, sort, 50"
		a, b := q.Queries[name], pg.Queries[name]
		if a != nil && b != nil {
			waited := max(median(a.Waited), median(b.Waited))
			add("3 filters, sort, 50 under updates: p50 ≤ 1.0x of PostgreSQL", over(median(a.BusyP50), median(b.BusyP50)), 1, waited, true, "x")
			add("the same: p99 ≤ 0.25x of PostgreSQL", over(median(a.BusyP99), median(b.BusyP99)), .25, waited, true, "x")
		}
		name = "facets on 3 dimensions"
		if a, b := q.Queries[name], pg.Queries[name]; a != nil && b != nil {
			add("facets: CPU ≤ 1/25 of PostgreSQL", over(median(a.CPU), median(b.CPU)), 1.0/25, 0, false, "x")
		}
	}
	worst, which, waited := 0.0, "", 0.0
	for name, x := range q.Queries {
		if v := median(x.BusyP99); v > worst {
			worst, which, waited = v, name, median(x.Waited)
		}
	}
	add("any query under updates: p99 < 50 ms (the slowest: "+cmp.Or(which, "none")+")", worst, 50, waited, true, " ms")
	add("the hub's heap: ≤ 400 B a placement and its strings (≈ 150 B here)", float64(q.Bytes)/float64(max(1, q.Rows)), 550, 0, false, " B")
	if r.Size >= 1_000_000 {
		add("1M placements loaded from the saved view: ≤ 3 s", q.Restart, 3, 0, false, " s")
	} else {
		g.add("1M placements loaded from the saved view: ≤ 3 s", fmt.Sprintf("%s s with %d", short(q.Restart), q.Rows), "see 1M")
	}
	return g
}

func printReport(w io.Writer, r *Report) {
	fmt.Fprintf(w, "\n== %d placements, %s, seed %d\n%s; load average before %s, after %s\n", r.Size, r.Command, r.Seed, r.Machine, r.LoadBefore, r.LoadAfter)
	for _, a := range r.Absent {
		fmt.Fprintf(w, "SKIPPED: %s\n", a)
	}
	for _, g := range r.grids() {
		g.print(w)
	}
	for _, s := range r.Systems {
		for _, d := range s.Differences {
			fmt.Fprintf(w, "DIFFERENT: %s: %s\n", s.Name, d)
		}
	}
}
