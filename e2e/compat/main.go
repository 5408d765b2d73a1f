// Command compat makes the table of docs/slatedb-compat.md out of what
// `go test -json` says: a row for each test that names releases of SlateDB in
// its subtests, a column for each release. See scripts/compat.
//
//	go test -tags e2e -json ./e2e/ | go run ./e2e/compat [-docs docs/slatedb-compat.md]
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/e2e/peers"
)

func main() {
	docs := flag.String("docs", "", "file whose table is to be replaced; none: print it")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *docs); err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, docs string) error {
	t, err := read(in)
	if err != nil {
		return err
	}
	text := t.markdown()
	fmt.Fprint(out, text)
	if docs != "" && len(t.tests) > 0 {
		old, err := os.ReadFile(docs)
		if err != nil {
			return err
		}
		now, err := replace(old, text)
		if err != nil {
			return fmt.Errorf("%s: %w", docs, err)
		}
		if err := os.WriteFile(docs, now, 0o644); err != nil {
			return err
		}
	}
	if t.failed {
		return fmt.Errorf("a test failed")
	}
	return nil
}

// table counts the outcomes of tests by release.
type table struct {
	tests  []string // in the order in which they began
	cells  map[string]map[string]*cell
	failed bool
}

type cell struct{ passed, failed, skipped int }

var release = regexp.MustCompile(`0\.\d+\.\d+`)

// read takes the events of `go test -json`; lines that are none are passed over.
func read(in io.Reader) (*table, error) {
	t := &table{cells: map[string]map[string]*cell{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct{ Action, Test string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		if e.Action == "fail" {
			t.failed = true
		}
		test, sub, _ := strings.Cut(e.Test, "/")
		named := release.FindAllString(sub, -1)
		if len(named) == 0 || strings.Contains(sub, "/") {
			continue
		}
		if t.cells[test] == nil {
			t.cells[test] = map[string]*cell{}
			t.tests = append(t.tests, test)
		}
		slices.Sort(named)
		for _, r := range slices.Compact(named) {
			c := t.cells[test][r]
			if c == nil {
				c = &cell{}
				t.cells[test][r] = c
			}
			switch e.Action {
			case "pass":
				c.passed++
			case "fail":
				c.failed++
			case "skip":
				c.skipped++
			}
		}
	}
	return t, lines.Err()
}

func (t *table) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| case | %s |\n|---|%s\n", strings.Join(peers.Versions, " | "), strings.Repeat("---|", len(peers.Versions)))
	for _, test := range t.tests {
		fmt.Fprintf(&b, "| %s |", sentence(test))
		for _, r := range peers.Versions {
			fmt.Fprintf(&b, " %s |", t.cells[test][r])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (c *cell) String() string {
	switch {
	case c == nil || c.passed+c.failed+c.skipped == 0:
		return "–"
	case c.failed > 0:
		return "**fails**"
	case c.passed == 0:
		return "skipped"
	case c.passed > 1:
		return fmt.Sprintf("ok ×%d", c.passed)
	}
	return "ok"
}

// sentence makes TestAdmin_ACopyLacksNothing "Admin: a copy lacks nothing".
func sentence(test string) string {
	group, name, ok := strings.Cut(strings.TrimPrefix(test, "Test"), "_")
	if !ok {
		group, name = "", group
	}
	words := word.FindAllString(name, -1)
	for i, w := range words {
		switch {
		case len(w) == 4 && w[0] == '0': // a release: 0121
			words[i] = w[:1] + "." + w[1:3] + "." + w[3:]
		case w[1:] == strings.ToLower(w[1:]) && w != "L0" && w != "S3":
			words[i] = strings.ToLower(w)
		}
	}
	text := strings.Join(words, " ")
	if group == "" {
		return text
	}
	return group + ": " + text
}

var word = regexp.MustCompile(`WAL|TTL|GC|L0|S3|V[12]|[0-9]+|[A-Z][a-z]*|[a-z]+`)

var marks = [2][]byte{[]byte("<!-- table: scripts/compat -->\n"), []byte("<!-- end of table -->\n")}

// replace puts text between the marks.
func replace(old []byte, text string) ([]byte, error) {
	head, rest, ok := bytes.Cut(old, marks[0])
	_, tail, ok2 := bytes.Cut(rest, marks[1])
	if !ok || !ok2 {
		return nil, fmt.Errorf("no %q and %q to put the table between", bytes.TrimSpace(marks[0]), bytes.TrimSpace(marks[1]))
	}
	return slices.Concat(head, marks[0], []byte(text), marks[1], tail), nil
}
