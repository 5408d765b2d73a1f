package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/load"
)

// plain is the simplest system there can be: it scans. It may lose changes.
type plain struct {
	rows  map[string]load.Row
	loses int // every so many-th change; 0: none
	seen  int
}

func (p *plain) name() string { return "plain" }
func (p *plain) what() string { return "a map" }
func (p *plain) load(_ context.Context, f *load.Fleet) error {
	p.rows = map[string]load.Row{}
	for r := range f.Rows() {
		p.rows[r.Key()] = r
	}
	return nil
}

func (p *plain) apply(_ context.Context, steps []step, _ bool) error {
	for _, s := range steps {
		if p.seen++; p.loses > 0 && p.seen%p.loses == 0 {
			continue
		}
		p.rows[s.row.Key()] = s.row
	}
	return nil
}

func (p *plain) ask(_ context.Context, q *query) (answer, error) {
	return scan(func(yield func(load.Row) bool) {
		for _, r := range p.rows {
			if !yield(r) {
				return
			}
		}
	}, q), nil
}
func (p *plain) forget()                                       {}
func (p *plain) memory(context.Context) (int64, string, error) { return 0, "", nil }
func (p *plain) pids() []int                                   { return nil }
func (p *plain) close()                                        {}

// The comparison is a test of correctness: a system that applies all changes
// agrees, one that loses a few is found out.
func TestASystemThatLosesChangesIsFoundOut(t *testing.T) {
	for _, loses := range []int{0, 20} {
		c, err := newContender(&plain{loses: loses}, 4000, options{seed: 3}, 3000)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.measureLoad(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.apply(t.Context(), c.make(3000, (*load.Fleet).Next), false); err != nil {
			t.Fatal(err)
		}
		if err := c.check(t.Context(), "now"); err != nil {
			t.Fatal(err)
		}
		if (len(c.res.Differences) > 0) != (loses > 0) {
			t.Errorf("loses %d: %v", loses, c.res.Differences)
		}
		if loses > 0 {
			return
		}
		for _, q := range c.queries {
			a, _ := c.ask(t.Context(), q)
			if len(a) == 0 && q.name != "nothing matches" {
				t.Errorf("%s: no answer: it compares nothing", q.name)
			}
		}
	}
}

// What children of a server spent and left behind is the server's.
func TestCPUOfChildrenIsCounted(t *testing.T) {
	s, err := launch(t.TempDir(), "shell", exec.Command("sh", "-c", `sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; sleep 30`), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop(os.Kill)
	deadline := time.Now().Add(20 * time.Second)
	for {
		if run := spentBy([]int{s.pid()}).run; run >= 50*time.Millisecond && len(descendants([]int{s.pid()})) == 2 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("only %s after a loop of a quarter million, descendants %v", run, descendants([]int{s.pid()}))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestNoVerdictOnABusyMachine(t *testing.T) {
	for want, got := range map[string]string{
		"met": verdict(1, 2, 0, true), "**missed by 2.0x**": verdict(4, 2, .4, true), "not measured": verdict(0, 1, 0, true),
		"no verdict: waited 80 % of the time on a core": verdict(1, 2, .8, true),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestPicturesAreWellFormed(t *testing.T) {
	c := &chart{file: "x.svg", title: `a < b & "c"`, unit: "µs"}
	for i, n := range []string{"Quarry", "PostgreSQL", "Redis"} {
		for _, size := range []float64{1e4, 1e5, 1e6} {
			c.point(n, size, 3.5*float64(i+1)*size/1e4)
		}
	}
	if s := c.lines[0].slope(); s < .999 || s > 1.001 {
		t.Errorf("what grows with the size has the exponent %g", s)
	}
	d := xml.NewDecoder(bytes.NewReader(c.svg()))
	texts := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "text" {
			texts++
		}
	}
	if texts < 10 {
		t.Errorf("%d texts", texts)
	}
}

// What people wrote around the measured part stays.
func TestOnlyTheMeasuredPartOfThePageIsWritten(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "performance.md")
	if err := os.WriteFile(page, []byte("# Before\n"+measuredBegin+"\nold\n"+measuredEnd+"\nAfter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "results-10000.json"), []byte(`{"Size":10000,"Rounds":1,"Command":"scripts/bench-peers","Systems":[{"Name":"Quarry","Rows":10000,"Bytes":5,
		"Updates":{"mix":{"CPU":[3,1,2],"After":[0],"Rate":[9],"Waited":[0.1]}},"Queries":{}}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := renderDocs(page, dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	if !strings.HasPrefix(s, "# Before\n") || !strings.HasSuffix(s, "\nAfter\n") || strings.Contains(s, "old") || !strings.Contains(s, "| 2 (1–3) |") {
		t.Error(s)
	}
	if _, err := os.Stat(filepath.Join(dir, "performance", "update.svg")); err != nil {
		t.Error(err)
	}
	if err := renderDocs(page, t.TempDir()); err == nil {
		t.Error("nothing was measured and nobody said so")
	}
}

func TestMedian(t *testing.T) {
	for _, v := range [][]float64{{3, 1, 2}, {1, 3, 2, 2}} {
		before := slices.Clone(v)
		if m := median(v); m != 2 || !slices.Equal(v, before) {
			t.Errorf("median of %v: %g", before, m)
		}
	}
	if median(nil) != 0 {
		t.Error("of none")
	}
}
