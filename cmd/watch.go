package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"

	"github.com/quarry-db/quarry/pkg/apiclient"
)

// watchRows prints the newest state of each row as it changes, until
// interrupted.
func (a *app) watchRows(ctx context.Context, cl *apiclient.Client, r resource, f getFlags) error {
	if f.sort != "" || f.requireFresh != 0 {
		return usagef("--watch tells rows as they change: leave out --sort-by and --require-fresh")
	}
	r = f.shape(r, a.output)
	wide := a.output == "wide"
	table := a.output == "table" || wide
	rows := &flowingTable{width: []int{len(time.TimeOnly), len("changed")}}
	if !f.noHeaders {
		rows.header = append([]string{"TIME", "CHANGE"}, r.header(wide)...)
	}
	now := func() string { return time.Now().Format(time.TimeOnly) }
	show := func(change string, raw json.RawMessage) error {
		switch a.output {
		case "json":
			_, err := fmt.Fprintf(a.out, "%s\n", raw)
			return err
		case "yaml":
			return a.printYAMLDocument(raw)
		case "name":
			id, err := r.id(raw)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, clean(id))
			return err
		}
		cells, err := r.cells(raw, wide)
		if err != nil {
			return err
		}
		rows.row(append([]string{now(), change}, cells...)...)
		return nil
	}
	// Until the hub says that all rows of now were told, they go out many at a
	// time, so that the columns fit them; what follows goes out line by line.
	flowing := false
	flow := func() error {
		if !table || !flowing && len(rows.pending) < atATime {
			return nil
		}
		_, err := fmt.Fprint(a.out, rows.take())
		return err
	}
	// A resync tells rows again: only what differs from what was printed is a
	// change. A million rows may be told, so of each only hashes are kept.
	printed := map[uint64]uint64{}
	seed := maphash.MakeSeed()
	for ch, err := range cl.Watch(ctx, r.name, f.query()) {
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			return a.hubError(err)
		}
		switch ch.Type {
		case apiclient.Row:
			key, is := maphash.String(seed, ch.Key), maphash.Bytes(seed, ch.Item)
			before, known := printed[key]
			if known && before == is {
				continue
			}
			printed[key] = is
			change := "changed"
			switch {
			case !flowing:
				change = "now"
			case !known:
				change = "new"
			}
			if err := show(change, ch.Item); err != nil {
				return err
			}
		case apiclient.Gone:
			delete(printed, maphash.String(seed, ch.Key))
			if table {
				rows.row(now(), "gone", ch.Key)
			}
		case apiclient.Bookmark:
			if !flowing && table && len(printed) == 0 {
				fmt.Fprintln(a.err, "Nothing matches yet; waiting.")
			}
			flowing = true
		case apiclient.Broken:
			fmt.Fprintf(a.err, "quarry: the hub does not answer (%v); trying again\n", ch.Err)
		}
		if err := flow(); err != nil {
			return err
		}
	}
	return interrupted(ctx)
}

// printYAMLDocument prints one JSON object as a YAML document of a stream.
func (a *app) printYAMLDocument(raw []byte) error {
	y, err := yaml.JSONToYAML(raw)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "---\n%s", y)
	return err
}

// flowingTable aligns rows that come one after the other for ever. Columns
// are as wide as the widest cell so far: they may grow, and the header is then
// printed again, though not on every screen; they never shrink.
type flowingTable struct {
	header  []string
	width   []int // at least
	pending [][]string
	since   int // rows since the header; 0 before the first
	moved   bool
}

func (t *flowingTable) row(cells ...string) {
	t.pending = append(t.pending, cleanCells(cells))
}

// take gives what was added since the last take, aligned.
func (t *flowingTable) take() string {
	if len(t.pending) == 0 {
		return ""
	}
	t.moved = t.fit(t.header) || t.moved
	for _, r := range t.pending {
		t.moved = t.fit(r) || t.moved
	}
	var s strings.Builder
	if len(t.header) > 0 && (t.since == 0 || t.moved && t.since >= screenful) {
		t.write(&s, t.header)
		t.since, t.moved = 0, false
	}
	for _, r := range t.pending {
		t.write(&s, r)
	}
	t.since += len(t.pending)
	t.pending = nil
	return s.String()
}

const screenful = 20

// atATime is how many of the rows there are already go out together.
const atATime = 500

// fit widens the columns for a row and says whether it had to.
func (t *flowingTable) fit(cells []string) bool {
	grown := false
	for i, c := range cells[:max(len(cells)-1, 0)] { // nothing follows the last one
		for len(t.width) <= i {
			t.width = append(t.width, 0)
		}
		if n := utf8.RuneCountInString(c); n > t.width[i] {
			t.width[i], grown = n, true
		}
	}
	return grown
}

func (t *flowingTable) write(s *strings.Builder, cells []string) {
	for i, c := range cells {
		s.WriteString(c)
		if i < len(cells)-1 {
			s.WriteString(strings.Repeat(" ", t.width[i]-utf8.RuneCountInString(c)+3))
		}
	}
	s.WriteByte('\n')
}

// interrupted is the end of something that only ends when somebody says so.
func interrupted(ctx context.Context) error {
	if ctx.Err() != nil {
		return withCode(exitInterrupted, ctx.Err())
	}
	return nil
}
