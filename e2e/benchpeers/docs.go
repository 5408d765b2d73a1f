package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/e2e/load"
)

// exampleRow is only there to have the names of the queries.
var exampleRow = load.Row{Region: "r1", Slate: "x"}

// The part of the page between these lines is written by the harness.
const (
	measuredBegin = "<!-- measured: written by make bench-peers ARGS=--docs, do not edit -->"
	measuredEnd   = "<!-- measured: end -->"
)

// renderDocs rewrites the measured part of a page and the pictures beside it
// from all results in a folder.
func renderDocs(page, results string) error {
	files, err := filepath.Glob(filepath.Join(results, "results-*.json"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no results-*.json in %q; measure first", results)
	}
	var reports []*Report
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		r := new(Report)
		if err := json.Unmarshal(b, r); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		reports = append(reports, r)
	}
	slices.SortFunc(reports, func(a, b *Report) int { return a.Size - b.Size })
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), measuredBegin)
	_, after, ok2 := strings.Cut(rest, measuredEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", page, measuredBegin, measuredEnd)
	}
	folder := strings.TrimSuffix(page, filepath.Ext(page))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var out bytes.Buffer
	out.WriteString(before + measuredBegin + "\n")
	fmt.Fprint(&out, "\n### Growth\n\n")
	pictures := charts(reports)
	for _, c := range pictures {
		if err := os.WriteFile(filepath.Join(folder, c.file), c.svg(), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&out, "![%s](%s/%s)\n", c.title, filepath.Base(folder), c.file)
	}
	if len(reports) > 1 {
		exponents(pictures).markdown(&out)
	}
	for _, r := range slices.Backward(reports) {
		fmt.Fprintf(&out, "\n### %s placements\n\n%s; `%s`, seed %d; %s; load average before %s, after %s.\n",
			thousands(r.Size), r.Machine, r.Command, r.Seed, r.At.Format("2006-01-02"), r.LoadBefore, r.LoadAfter)
		for _, a := range r.Absent {
			fmt.Fprintf(&out, "\nSkipped: %s.\n", a)
		}
		grids := r.grids()
		slices.Reverse(grids) // the verdicts first
		for _, g := range grids {
			g.markdown(&out)
		}
	}
	out.WriteString("\n" + measuredEnd + after)
	return os.WriteFile(page, out.Bytes(), 0o644)
}

// exponents say how each cost grows: 0 not at all, 1 with the number of
// placements.
func exponents(pictures []*chart) *grid {
	g := &grid{title: "Exponent of growth (slope in log–log, least squares): 0 is not at all, 1 is with the number of placements",
		head: []string{"cost", "Quarry", "PostgreSQL", "Redis"}}
	for _, c := range pictures {
		cells := []string{c.title}
		for _, name := range g.head[1:] {
			cell := "–"
			for _, l := range c.lines {
				if l.name == name && len(l.points) > 1 {
					cell = fmt.Sprintf("%.2f", l.slope())
				}
			}
			cells = append(cells, cell)
		}
		g.add(cells...)
	}
	return g
}

// slope of the line that fits best, in log–log.
func (l *line) slope() float64 {
	var n, sx, sy, sxx, sxy float64
	for _, p := range l.points {
		x, y := math.Log(p[0]), math.Log(p[1])
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// charts are the pictures of cost against size.
func charts(reports []*Report) []*chart {
	var out []*chart
	add := func(file, title, unit string, value func(*Result) float64) {
		c := &chart{file: file, title: title, unit: unit}
		for _, r := range reports {
			for _, s := range r.Systems {
				// The API server holds a few thousand at any size: no curve.
				if v := value(s); v > 0 && s.Name != "CRD" {
					c.point(s.Name, float64(r.Size), v)
				}
			}
		}
		if len(c.lines) > 0 {
			out = append(out, c)
		}
	}
	query := func(name string, of func(*QueryResult) []float64) func(*Result) float64 {
		return func(s *Result) float64 {
			if q := s.Queries[name]; q != nil {
				return median(of(q))
			}
			return 0
		}
	}
	p50 := func(q *QueryResult) []float64 { return q.P50 }
	add("update.svg", "CPU of an update (mix)", "µs", func(s *Result) float64 { return cpuOf(s, "mix") })
	add("page.svg", "3 filters, sort, 50: p50", "ms", query("3 filters, sort, 50", p50))
	add("label.svg", "Label without index: p50", "ms", query("label without index, sort, 50", p50))
	add("facets.svg", "Facets on 3 dimensions: p50", "ms", query("facets on 3 dimensions", p50))
	add("busy.svg", "3 filters, sort, 50 under updates: p99", "ms", query("3 filters, sort, 50", func(q *QueryResult) []float64 { return q.BusyP99 }))
	add("space.svg", "Bytes a placement", "B", func(s *Result) float64 { return float64(s.Bytes) / float64(max(1, s.Rows)) })
	return out
}
