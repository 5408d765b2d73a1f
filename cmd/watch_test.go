package cmd

import (
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// A watch prints rows minutes apart; they still stand below each other.
func TestRowsOfAWatchStayAligned(t *testing.T) {
	tab := &flowingTable{header: []string{"SLATE", "SIZE", "SEEN"}}
	if s := tab.take(); s != "" {
		t.Fatalf("nothing was added, and there is %q", s)
	}
	tab.row("orders", "1KiB", "5s")
	tab.row("a-much-longer-name", "", "5s")
	got := tab.take()
	tab.row("orders", "2KiB", "0s")
	got += tab.take()
	want := "" +
		"SLATE                SIZE   SEEN\n" +
		"orders               1KiB   5s\n" +
		"a-much-longer-name   -      5s\n" +
		"orders               2KiB   0s\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A column that has to grow takes the header along, but the header comes once
// a screen at most.
func TestAHeaderComesAgainWhenColumnsGrow(t *testing.T) {
	tab := &flowingTable{header: []string{"SLATE", "SIZE"}}
	tab.row("a", "1B")
	out := tab.take()
	tab.row("wider-than-before", "1B")
	out += tab.take()
	if n := strings.Count(out, "SLATE"); n != 1 {
		t.Errorf("%d headers on the first screen:\n%s", n, out)
	}
	for range screenful {
		tab.row("a", "1B")
		out += tab.take()
	}
	if n := strings.Count(out, "SLATE"); n != 2 {
		t.Errorf("%d headers after the columns grew, expected 2:\n%s", n, out)
	}
	if !strings.HasSuffix(out, "a                   1B\n") {
		t.Errorf("not aligned with what grew:\n%s", out)
	}
}

// The name of a slate is somebody's text: it must not steer the terminal.
func TestCellsCannotSteerTheTerminal(t *testing.T) {
	tab := &flowingTable{}
	tab.row("\x1b[31mred\n", "x")
	if out := tab.take(); strings.ContainsAny(strings.TrimSuffix(out, "\n"), "\x1b\n") {
		t.Errorf("%q", out)
	}
}

// A compactor that never ends leaves a guard at each turn. They are one line.
func TestManyGuardsAreOneLine(t *testing.T) {
	now := time.Date(2026, 11, 21, 5, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *time.Time { t := now.Add(d); return &t }
	readers := []catalog.Reader{
		{ID: "r1", From: "checkpoint", ManifestID: 30, Expires: at(time.Minute), Looks: "reader"},
		{ID: "r2", From: "lease", Name: "app", Expires: at(-time.Minute), Lapsed: true},
	}
	for i := range 6 {
		readers = append(readers, catalog.Reader{ID: "g", From: "checkpoint", ManifestID: uint64(12 + 2*i), Expires: at(time.Duration(i-8) * time.Hour), Looks: "guard"})
	}
	got := strings.Join(readerLines(readers, now), "\n")
	want := "checkpoint r1, manifest 30, expires in 60s (reader)\n" +
		"6 guard checkpoints, manifests 12 to 22, the oldest expired 8h ago, the newest expired 3h ago\n" +
		`lease r2 "app", expired 60s ago (lapsed: not counted)`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// "?" is for what was not observed, "-" for what a kind does not have.
func TestUnknownAndNotApplicableDiffer(t *testing.T) {
	one := uint64(1)
	for _, c := range []struct {
		where []catalog.SlateIn
		want  string
	}{
		{[]catalog.SlateIn{{Kind: catalog.KindSnapshots}, {Kind: catalog.KindSnapshots}}, "-"},
		{[]catalog.SlateIn{{Kind: catalog.KindLog, WriterEpoch: &one}, {Kind: catalog.KindLog}}, "1,?"},
		{[]catalog.SlateIn{{Kind: catalog.KindBuffer}}, "?"},
		{[]catalog.SlateIn{{Kind: catalog.KindLog, WriterEpoch: &one}, {Kind: catalog.KindSnapshots}}, "1,-"},
	} {
		if got := slateEpochs(&catalog.Slate{Where: c.where}); got != c.want {
			t.Errorf("%v: %q, expected %q", c.where, got, c.want)
		}
	}
}

// With --fields a table has just these columns, whatever lies in them.
func TestFieldsAreTheColumns(t *testing.T) {
	r, err := findResource("slates")
	if err != nil {
		t.Fatal(err)
	}
	r = r.only("name, where.region,bytes,labels.a.b,labels.c,readers")
	if got := strings.Join(r.header(false), "|"); got != "NAME|WHERE.REGION|BYTES|LABELS.A.B|LABELS.C|READERS" {
		t.Error(got)
	}
	cells, err := r.cells([]byte(`{"name":"orders","where":[{"region":"eu"},{"region":"us"}],"bytes":18446744073709551615,"labels":{"a.b":"x"},"readers":null}`), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(cells, "|"); got != "orders|eu,us|18446744073709551615|x||?" {
		t.Error(got)
	}
}
