package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/term"
)

// outputs are the formats of -o.
var outputs = []string{"table", "wide", "json", "yaml", "name"}

func (a *app) checkOutput() error {
	for _, o := range outputs {
		if a.output == o {
			return nil
		}
	}
	return usagef("-o %q: one of %s", a.output, strings.Join(outputs, ", "))
}

// printObject prints v as JSON or YAML when -o asks for it, else calls human.
func (a *app) printObject(v any, human func() error) error {
	if err := a.checkOutput(); err != nil {
		return err
	}
	switch a.output {
	case "json":
		return a.printJSON(v)
	case "yaml":
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		y, err := yaml.JSONToYAML(b)
		if err != nil {
			return err
		}
		_, err = a.out.Write(y)
		return err
	}
	return human()
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table writes aligned columns of rows that are all known.
type table struct {
	w *tabwriter.Writer
}

func newTable(w io.Writer, header ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)}
	if len(header) > 0 {
		t.row(header...)
	}
	return t
}

func (t *table) row(cells ...string) {
	fmt.Fprintln(t.w, strings.Join(cleanCells(cells), "\t"))
}

// cleanCells leaves no cell empty: a line can be cut into columns again.
func cleanCells(cells []string) []string {
	out := make([]string, len(cells))
	for i, c := range cells {
		if out[i] = clean(c); out[i] == "" {
			out[i] = "-"
		}
	}
	return out
}

func (t *table) flush() error { return t.w.Flush() }

// clean keeps control characters from names out of the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colour wraps s in an ANSI colour when out is a terminal and nobody objects
// (NO_COLOR, --no-color; CLICOLOR_FORCE insists).
func (a *app) colour(code, s string) string {
	if a.noColor || os.Getenv("NO_COLOR") != "" {
		return s
	}
	if os.Getenv("CLICOLOR_FORCE") == "" && !isTerminal(a.out) {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// age prints how long ago t was, short: 4s, 12m, 3h, 9d.
func age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return shortDuration(time.Since(t))
}

func shortDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// byteSize prints n in binary units with three digits.
func byteSize(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.3g%ciB", f, units[i])
}

func num(p *uint64) string {
	if p == nil {
		return "?"
	}
	return fmt.Sprint(*p)
}

func size(p *uint64) string {
	if p == nil {
		return "?"
	}
	return byteSize(*p)
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
