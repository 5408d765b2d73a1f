//go:build e2e

// Package benchcore measures our SlateDB beside the real core, in one run, on
// the same stores, with the same keys and sizes: a folder and an S3 server. Each
// measurement is a process of its own, timed inside; the sides take turns, and
// the table has the medians.
//
// Begin with [BenchmarkBesideTheRealCore]; `make bench` runs it.
package benchcore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
	"github.com/quarry-db/quarry/e2e/servers"
	"github.com/quarry-db/quarry/pkg/bucket"
)

// TestMain lets this binary be our side: BENCHCORE_BUCKET names the store, the
// arguments are those of core.py.
func TestMain(m *testing.M) {
	if url := os.Getenv("BENCHCORE_BUCKET"); url != "" {
		if err := runOurs(url, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// place is one store, as both sides reach it.
type place struct {
	name string
	b    *bucket.Bucket
	url  string
	env  []string // of the real core
	ours []string // of our side, besides
}

// bench is one run.
type bench struct {
	b      *testing.B
	core   string // its version
	python string
	script string
	seed   uint64
	times  map[string][]timing // by place, work and side
	order  []string
}

const (
	readRows   = 200_000
	walObjects = 1000
	rounds     = 3
)

// BenchmarkBesideTheRealCore prints a table of what both sides need for the same
// work. QUARRY_SEED repeats the values. It is one long run: -benchtime 1x.
func BenchmarkBesideTheRealCore(b *testing.B) {
	x := &bench{b: b, core: peers.Versions[len(peers.Versions)-1], seed: 1, times: map[string][]timing{}}
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		var err error
		if x.seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			b.Fatal(err)
		}
	}
	x.python = peers.Python(b, x.core)
	x.script = filepath.Join(peers.Repo(), "e2e", "benchcore", "core.py")
	folder := b.TempDir()
	server := servers.S3(b)
	s3 := server.Make(b, "bench")
	env := servers.S3Env()
	s3Place := place{name: "S3", url: s3, env: peers.S3(server.Endpoint(), "bench", env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])}
	for k, v := range env {
		s3Place.ours = append(s3Place.ours, k+"="+v)
	}
	for _, p := range []place{{name: "folder", url: "file://" + folder, env: peers.Local(folder)}, s3Place} {
		var err error
		if p.b, err = bucket.Open(b.Context(), p.url); err != nil {
			b.Fatal(err)
		}
		x.at(&p)
		if err := p.b.Close(); err != nil {
			b.Error(err)
		}
	}
	x.print()
}

// at measures everything on one store.
func (x *bench) at(p *place) {
	x.theirs(p, "", "load", "read", readRows, "100ms")
	x.theirs(p, "", "wals", "wals", walObjects, "1ms")
	for round := range rounds {
		for _, w := range []struct {
			work   string
			n, few int // few: where each waits for 100 ms
		}{{"put", 300, 30}, {"put, 64 at once", 6400, 1280}, {"batches of 1000", 50_000, 20_000}} {
			root := func(side string) string {
				return fmt.Sprintf("put/%s-%d-%s", strings.ReplaceAll(w.work, ", ", "-"), round, side)
			}
			x.theirs(p, "core, as it comes", w.work, root("default"), w.few, "100ms")
			x.theirs(p, "core", w.work, root("core"), w.n, "1ms")
			x.ours(p, w.work, root("ours"), w.n)
		}
		x.theirs(p, "core", "scan", "read", readRows, "100ms")
		x.ours(p, "scan", "read", readRows)
		x.theirs(p, "core", "gets", "read", readRows, "100ms")
		x.ours(p, "gets", "read", readRows)
		for _, side := range []string{"core", "ours"} {
			to := fmt.Sprintf("open/%d-%s", round, side)
			x.copy(p, "wals", to)
			if side == "core" {
				x.theirs(p, side, "open", to, walObjects, "100ms")
			} else {
				x.ours(p, "open", to, walObjects)
			}
		}
		x.theirs(p, "core", "nothing", "none", 1, "100ms")
		x.ours(p, "nothing", "none", 1)
	}
}

func (x *bench) theirs(p *place, side, work, root string, n int, interval string) {
	cmd := exec.CommandContext(x.b.Context(), x.python, x.script, work, root, strconv.Itoa(n), strconv.FormatUint(x.seed, 10), interval)
	cmd.Env = append(os.Environ(), p.env...)
	x.run(cmd, p, side)
}

func (x *bench) ours(p *place, work, root string, n int) {
	cmd := exec.CommandContext(x.b.Context(), os.Args[0], work, root, strconv.Itoa(n), strconv.FormatUint(x.seed, 10))
	cmd.Env = append(append(os.Environ(), p.ours...), "BENCHCORE_BUCKET="+p.url)
	x.run(cmd, p, "ours")
}

// run keeps what the process says, under side; "" is only a preparation.
func (x *bench) run(cmd *exec.Cmd, p *place, side string) {
	x.b.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		x.b.Fatalf("%s: %s: %v\n%s", p.name, strings.Join(cmd.Args, " "), err, stderr.String())
	}
	for d := json.NewDecoder(bytes.NewReader(out)); side != ""; {
		var t timing
		if err := d.Decode(&t); err != nil {
			if len(out) == 0 {
				x.b.Fatalf("%s: %s said nothing\n%s", p.name, strings.Join(cmd.Args, " "), stderr.String())
			}
			return
		}
		row := p.name + "|" + t.Name
		if !slices.Contains(x.order, row) {
			x.order = append(x.order, row)
		}
		x.times[row+"|"+side] = append(x.times[row+"|"+side], t)
	}
}

// copy makes a database like another.
func (x *bench) copy(p *place, from, to string) {
	x.b.Helper()
	err := p.b.Walk(x.b.Context(), from+"/", "", func(k string, _ int64, _ time.Time) error {
		data, err := p.b.Get(x.b.Context(), k)
		if err != nil {
			return err
		}
		return p.b.PutNew(x.b.Context(), to+strings.TrimPrefix(k, from), data)
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		x.b.Fatal(err)
	}
}

// median is the timing in the middle, by the clock, with the largest memory.
func median(all []timing) (timing, bool) {
	if len(all) == 0 {
		return timing{}, false
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b timing) int {
		switch {
		case a.Seconds/float64(a.N) < b.Seconds/float64(b.N):
			return -1
		case a.Seconds/float64(a.N) > b.Seconds/float64(b.N):
			return 1
		}
		return 0
	})
	m := all[len(all)/2]
	for _, t := range all {
		m.RSS = max(m.RSS, t.RSS)
	}
	return m, true
}

// print writes the table as Markdown, which is how the docs keep it.
func (x *bench) print() {
	fmt.Printf("\nReal core %s through its Python binding, %d rounds, medians, QUARRY_SEED=%d; times of the core with flush_interval 1ms, and as it comes (100ms) in brackets\n\n", x.core, rounds, x.seed)
	fmt.Println("| store | work | core | ours | ours/core | core CPU/op | ours CPU/op | core RSS | ours RSS |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, row := range x.order {
		store, work, _ := strings.Cut(row, "|")
		core, ok1 := median(x.times[row+"|core"])
		mine, ok2 := median(x.times[row+"|ours"])
		if !ok1 || !ok2 {
			x.b.Errorf("%s: only one side was measured", row)
			continue
		}
		theirs := rate(core)
		if as, ok := median(x.times[row+"|core, as it comes"]); ok {
			theirs += " (" + rate(as) + ")"
		}
		faster := core.Seconds / float64(core.N) / (mine.Seconds / float64(mine.N))
		ratio := fmt.Sprintf("%.2f", faster)
		if work == "nothing" {
			theirs, ratio = "–", "–"
			mine.CPU, core.CPU = 0, 0
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s | %d MB | %d MB |\n", store, work, theirs, rate(mine), ratio, perOp(core), perOp(mine), core.RSS>>10, mine.RSS>>10)
	}
}

func rate(t timing) string {
	perSecond := float64(t.N) / t.Seconds
	switch t.Name {
	case "nothing":
		return "–"
	case "open":
		return fmt.Sprintf("%.0f ms", t.Seconds*1000)
	case "scan", "batches of 1000":
		return fmt.Sprintf("%.1f MB/s", float64(t.Bytes)/t.Seconds/1e6)
	}
	return fmt.Sprintf("%.0f/s", perSecond)
}

func perOp(t timing) string {
	return fmt.Sprintf("%.1f µs", t.CPU/float64(t.N)*1e6)
}
