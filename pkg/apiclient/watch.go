package apiclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// What a watch tells.
const (
	Row      = "row"      // Item is the newest state of the row with Key
	Gone     = "gone"     // the row with Key is no more, or matches no more
	Bookmark = "bookmark" // everything so far has been told; Freshness is set
	Resync   = "resync"   // forget all rows: all of them follow, then a Bookmark
	Broken   = "broken"   // the connection broke (Err); it goes on by itself
)

// Change is one thing that a watch tells.
type Change struct {
	Type string
	Key  string          // opaque, the same for the same row
	Item json.RawMessage // of a Row
	Err  error           // of Broken: why
	Freshness
}

// Watch tells the newest state of all rows that match, then a Bookmark, then
// changes, until ctx ends or the caller stops; it then ends without an error.
// After a broken connection it goes on where it was, telling Broken once. A
// refusal by the hub ends it with a [*Problem]; a hub that cannot be reached
// at the beginning ends it with [ErrUnreachable]. Of the query Filter and
// Fields count.
func (c *Client) Watch(ctx context.Context, resource string, q Query) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		v := url.Values{}
		if q.Filter != "" {
			v.Set("filter", q.Filter)
		}
		if q.Fields != "" {
			v.Set("fields", q.Fields)
		}
		// Until the first bookmark nothing can be resumed: a second try tells
		// the rows again, and those told before must be forgotten.
		partial := false
		c.follow(ctx, "/v1/"+resource+":watch?"+v.Encode(), "", func(m message, lastID string) (bool, error) {
			if m.broken != nil {
				return yield(Change{Type: Broken, Err: m.broken}, nil), nil
			}
			if m.opened {
				if partial && lastID == "" && !yield(Change{Type: Resync}, nil) {
					return false, nil
				}
				return true, nil
			}
			ch := Change{Type: m.name}
			switch m.name {
			case Row, Gone:
				var d struct {
					Key  string          `json:"key"`
					Item json.RawMessage `json:"item"`
				}
				if err := json.Unmarshal(m.data, &d); err != nil {
					return false, fmt.Errorf("watch %s: %w", resource, err)
				}
				ch.Key, ch.Item = d.Key, d.Item
				partial = true
			case Bookmark:
				if err := json.Unmarshal(m.data, &ch.Freshness); err != nil {
					return false, fmt.Errorf("watch %s: %w", resource, err)
				}
			case Resync:
			default: // of a later hub
				return true, nil
			}
			return yield(ch, nil), nil
		}, func(err error) { yield(Change{}, err) })
	}
}

// Event is one entry of the log of events.
type Event struct {
	Seq  uint64
	Item json.RawMessage
}

// Events tells the events after a number, in order and none left out, until
// ctx ends or the caller stops; nil: from the next one on. After a broken
// connection it goes on by itself. When the hub has dropped events that were
// not told yet it ends with a [*Problem] of code events-gone. Of the query
// Filter and Fields count.
func (c *Client) Events(ctx context.Context, after *uint64, q Query) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		v := url.Values{}
		if q.Filter != "" {
			v.Set("filter", q.Filter)
		}
		if q.Fields != "" {
			v.Set("fields", q.Fields)
		}
		from := ""
		if after != nil {
			from = strconv.FormatUint(*after, 10)
		}
		c.follow(ctx, "/v1/events:watch?"+v.Encode(), from, func(m message, _ string) (bool, error) {
			switch m.name {
			case "event":
				seq, err := strconv.ParseUint(m.id, 10, 64)
				if err != nil {
					return false, fmt.Errorf("watch events: id %q: %w", m.id, err)
				}
				return yield(Event{Seq: seq, Item: m.data}, nil), nil
			case "problem":
				p := &Problem{}
				if err := json.Unmarshal(m.data, p); err != nil {
					return false, fmt.Errorf("watch events: %w", err)
				}
				return false, p
			}
			return true, nil
		}, func(err error) { yield(Event{}, err) })
	}
}

// message is what a stream brings: an event, or word of the connection.
type message struct {
	name, id string
	data     []byte
	opened   bool
	broken   error
}

// Patience with a broken connection.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
	// silence is longer than two heartbeats of the hub: a connection that says
	// nothing for so long is dead, whatever TCP thinks.
	silence = 40 * time.Second
)

// follow reads a stream and opens it again when it breaks, each time from the
// last id. handle says whether to go on; an error it gives, or a refusal, goes
// to fail.
func (c *Client) follow(ctx context.Context, path, lastID string, handle func(message, string) (bool, error), fail func(error)) {
	opened, wait := false, firstRetry
	for {
		again, err := c.read(ctx, path, &lastID, func(m message) (bool, error) {
			opened, wait = true, firstRetry
			return handle(m, lastID)
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil && !again || err != nil && !opened {
			fail(err)
			return
		}
		if !again {
			return
		}
		if goOn, err := handle(message{broken: err}, lastID); !goOn || err != nil {
			if err != nil {
				fail(err)
			}
			return
		}
		select {
		case <-time.After(rand.N(wait) + time.Millisecond):
			wait = min(2*wait, lastRetry)
		case <-ctx.Done():
			return
		}
	}
}

// read follows one connection. again says that it broke and may be tried
// again; err says why it ended.
func (c *Client) read(ctx context.Context, path string, lastID *string, handle func(message) (bool, error)) (again bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h := http.Header{"Accept": {"text/event-stream"}}
	if *lastID != "" {
		h.Set("Last-Event-ID", *lastID)
	}
	res, err := c.do(ctx, http.MethodGet, path, h, nil)
	if err != nil {
		p, refused := errors.AsType[*Problem](err)
		return !refused || p.Status == http.StatusServiceUnavailable, err
	}
	defer res.Body.Close()
	dead := time.AfterFunc(silence, func() { cancel(errors.New("nothing heard for " + silence.String())) })
	defer dead.Stop()
	if goOn, err := handle(message{opened: true}); !goOn {
		return false, err
	}
	var m message
	lines := bufio.NewReaderSize(res.Body, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			// Half an event is none: its end says that it is whole.
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			} else if errors.Is(err, io.EOF) {
				err = errors.New("the hub ended the stream")
			}
			return true, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, err)
		}
		dead.Reset(silence)
		line = bytes.TrimRight(line, "\r\n")
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case len(line) == 0 && m.name != "":
			goOn, err := handle(m)
			if !goOn {
				return false, err
			}
			if m.id != "" {
				*lastID = m.id
			}
			m = message{}
		case len(line) == 0:
			m = message{}
		case string(name) == "event":
			m.name = string(value)
		case string(name) == "id":
			m.id = string(value)
		case string(name) == "data":
			m.data = append(m.data, value...)
		}
	}
}
