package cmd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/quarry-db/quarry/pkg/apiclient"
)

// streamRows prints rows as they come, page after page, so that a fleet of any
// size goes through little memory. An error in the middle leaves a document
// that does not end, and an exit code that says so.
func (a *app) streamRows(ctx context.Context, cl *apiclient.Client, r resource, q apiclient.Query, limit int) (n int, err error) {
	q.Limit = limit
	l := cl.List(ctx, r.name, q)
	w := bufio.NewWriterSize(a.out, 64<<10)
	defer func() {
		if e := w.Flush(); err == nil {
			err = e
		}
	}()
	out := &jsonList{w: w}
	for raw, err := range l.Rows() {
		if err != nil {
			return n, a.hubError(err)
		}
		if a.output == "name" {
			id, err := r.id(raw)
			if err != nil {
				return n, err
			}
			fmt.Fprintln(w, clean(id))
		} else if err := out.row(raw); err != nil {
			return n, err
		}
		n++
	}
	if a.output == "name" {
		return n, nil
	}
	return n, out.end(l.Freshness)
}

// jsonList writes {"items": […], …} as printJSON would, one item at a time.
type jsonList struct {
	w    io.Writer
	buf  bytes.Buffer
	rows int
}

func (l *jsonList) row(raw json.RawMessage) error {
	l.buf.Reset()
	if l.rows++; l.rows == 1 {
		l.buf.WriteString("{\n  \"items\": [")
	} else {
		l.buf.WriteByte(',')
	}
	l.buf.WriteString("\n    ")
	if err := json.Indent(&l.buf, raw, "    ", "  "); err != nil {
		return fmt.Errorf("the hub's answer is not understood; is it of another version? %w", err)
	}
	_, err := l.w.Write(l.buf.Bytes())
	return err
}

// end closes the list and adds what is known when all rows have been read.
func (l *jsonList) end(f apiclient.Freshness) error {
	l.buf.Reset()
	if l.rows == 0 {
		l.buf.WriteString("{\n  \"items\": []")
	} else {
		l.buf.WriteString("\n  ]")
	}
	type part struct {
		name  string
		value any
	}
	parts := []part{{"as_of", f.AsOf}, {"unreachable", orEmpty(f.Unreachable)}}
	if f.NotDeciding != "" {
		parts = append(parts, part{"not_deciding", f.NotDeciding})
	}
	for _, part := range parts {
		fmt.Fprintf(&l.buf, ",\n  %q: ", part.name)
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(part.value); err != nil {
			return err
		}
		if err := json.Indent(&l.buf, bytes.TrimSpace(b.Bytes()), "  ", "  "); err != nil {
			return err
		}
	}
	l.buf.WriteString("\n}\n")
	_, err := l.w.Write(l.buf.Bytes())
	return err
}
