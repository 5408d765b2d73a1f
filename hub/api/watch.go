package api

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/view"
)

// watcher follows the rows of one resource for one reader. It holds two views
// and no queue: what changed between them is asked of the newer one, so a
// reader that is slow skips states in between and costs the hub nothing more.
type watcher struct {
	*stream
	res  *resource
	plan *query.Plan
	bind string
	told *view.View // what the reader knows; nil: only seq is known
	seq  uint64
	when time.Time // when the filter was last asked, for its "now"
	sent uint64    // the seq of the last id given
}

func (c *call) watch(res *resource) error {
	plan, err := res.typ.Plan(query.Request{Filter: c.query.Get("filter"), Fields: c.query.Get("fields")})
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(res.name + "\x00" + strings.TrimSpace(plan.Filter.String())))
	w := &watcher{res: res, plan: plan, bind: fmt.Sprintf("%x", sum[:6])}
	from, resume, err := w.cursor(c.lastID())
	if err != nil {
		return err
	}
	v, err := c.current()
	if err != nil {
		return err
	}
	s, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	w.stream = s
	if resume {
		w.seq, w.sent = from, from
		err = w.changes(v)
	} else {
		err = w.all(v)
	}
	for err == nil {
		var quiet bool
		if quiet, err = s.next(w.seq); err != nil {
			break
		}
		if quiet {
			err = w.beat()
			continue
		}
		err = w.changes(c.src.View())
	}
	// The stream has begun, so nobody can be told of an error any more, and
	// the reader knows where to go on.
	return nil
}

// lastID is where the reader wants to go on.
func (c *call) lastID() string {
	if id := c.r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return c.query.Get("cursor")
}

// A cursor is the resource and filter it belongs to, and the view's seq.
func (w *watcher) id(seq uint64) string { return fmt.Sprintf("%s.%d", w.bind, seq) }

func (w *watcher) cursor(id string) (seq uint64, ok bool, err error) {
	if id == "" {
		return 0, false, nil
	}
	bind, n, _ := strings.Cut(id, ".")
	seq, err = strconv.ParseUint(n, 10, 64)
	if err != nil || len(bind) != len(w.bind) {
		return 0, false, problem(http.StatusBadRequest, CodeBadCursor, "cursor", "leave it out to begin anew", "%q is no cursor", id)
	}
	if bind != w.bind {
		return 0, false, problem(http.StatusBadRequest, CodeBadCursor, "cursor", "use it with the filter it came with, or leave it out", "this cursor belongs to another resource or filter")
	}
	return seq, true, nil
}

// all sends every row and a bookmark.
func (w *watcher) all(v *view.View) error {
	now := w.c.o.Now()
	for row := range w.plan.Matches(sourceOf(w.res, v), now) {
		value := row.Value()
		w.row(w.res.key(value), value)
		if w.err != nil {
			return w.err
		}
	}
	w.told, w.seq, w.when = v, v.Seq(), now
	return w.bookmark()
}

// changes sends what changed since the reader was last told.
func (w *watcher) changes(v *view.View) error {
	keys, ok := v.ChangedSince(w.res.name, w.seq)
	if !ok {
		w.c.metrics.resyncs.Inc()
		w.event("resync", []byte(`{"reason":"the changes since then are not kept any more; every row follows"}`))
		return w.all(v)
	}
	now := w.c.o.Now()
	any := false
	for _, key := range keys {
		any = w.change(v, key, now) || any
		if w.err != nil {
			return w.err
		}
	}
	w.told, w.seq, w.when = v, v.Seq(), now
	if !any {
		return nil
	}
	w.sent = w.seq
	return w.end(w.id(w.seq))
}

// change sends one row's newest state, unless the reader has it already.
func (w *watcher) change(v *view.View, key string, now time.Time) bool {
	row := v.Row(w.res.name, key)
	var old any
	if w.told != nil {
		old = w.told.Row(w.res.name, key)
		if old != nil && !w.plan.Filter.Match(old, w.when) {
			old = nil
		}
	}
	if row == nil || !w.plan.Filter.Match(row, now) {
		if w.told != nil && old == nil {
			return false // never told of it
		}
		w.event("gone", appendKey([]byte(nil), key, '}'))
		return true
	}
	if old != nil && (old == row || bytes.Equal(w.res.typ.AppendJSON(nil, old, w.plan.Mask), w.res.typ.AppendJSON(nil, row, w.plan.Mask))) {
		return false
	}
	w.row(key, row)
	return true
}

func (w *watcher) row(key string, row any) {
	b := appendKey(make([]byte, 0, 1024), key, ',')
	b = append(b, `"item":`...)
	b = append(w.res.typ.AppendJSON(b, row, w.plan.Mask), '}')
	w.event("row", b)
}

// appendKey begins an event's data. The key is opaque to readers; its parts
// are separated by a character that JSON escapes.
func appendKey(dst []byte, key string, end byte) []byte {
	dst = append(dst, `{"key":`...)
	dst = append(dst, jsonText(key)...)
	return append(dst, end)
}

func (w *watcher) bookmark() error {
	fresh := freshAt(w.c.src.View(), w.c.o.Now(), nil)
	fresh.idle = w.c.idle()
	b := fresh.object()
	w.event("bookmark", b)
	w.sent = w.seq
	return w.end(w.id(w.seq))
}

// beat keeps the connection open through proxies, and moves the cursor past
// changes that the reader did not want to see.
func (w *watcher) beat() error {
	if err := w.comment("beat"); err != nil {
		return err
	}
	if w.sent == w.seq {
		return nil
	}
	return w.bookmark()
}
