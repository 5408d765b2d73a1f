package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"
)

// stream writes server-sent events. It keeps the last event back until the
// next, so that a batch's last event can carry the cursor: a reader that is
// cut off in the middle of a batch goes on from the one before.
type stream struct {
	c    *call
	rc   *http.ResponseController
	buf  bytes.Buffer
	held []byte // the last event, without its id
	err  error
}

// flushAt is how much is gathered before it is sent.
const flushAt = 32 << 10

// open begins a stream, or refuses it when too many are open. The caller calls
// done.
func (c *call) open() (s *stream, done func(), err error) {
	if n := c.watchers.Add(1); n > int64(c.o.MaxWatchers) {
		c.watchers.Add(-1)
		p := problem(http.StatusServiceUnavailable, CodeTooMany, "", "close some, or raise the hub's limit", "%d streams are open already", c.o.MaxWatchers)
		p.header = http.Header{"Retry-After": {"10"}}
		return nil, nil, p
	}
	s = &stream{c: c, rc: http.NewResponseController(c.w)}
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	// The server's deadline for reading requests must not end the stream.
	_ = s.rc.SetReadDeadline(time.Time{})
	return s, func() { c.watchers.Add(-1) }, nil
}

// event adds an event; data is one line.
func (s *stream) event(name string, data []byte) {
	s.release("")
	s.held = fmt.Appendf(s.held[:0], "event: %s\ndata: %s\n", name, data)
}

// release writes the event held back, with an id if there is one.
func (s *stream) release(id string) {
	if len(s.held) == 0 {
		return
	}
	if id != "" {
		fmt.Fprintf(&s.buf, "id: %s\n", id)
	}
	s.buf.Write(s.held)
	s.buf.WriteByte('\n')
	s.held = s.held[:0]
	if s.buf.Len() >= flushAt {
		s.send()
	}
}

// end sends a batch; id is where a reader goes on after it.
func (s *stream) end(id string) error {
	s.release(id)
	s.send()
	return s.err
}

func (s *stream) comment(text string) error {
	fmt.Fprintf(&s.buf, ": %s\n\n", text)
	s.send()
	return s.err
}

// send gives the reader its time to read, and no more: one that stalls is cut
// off, and goes on from its cursor if it comes back.
func (s *stream) send() {
	if s.err != nil || s.buf.Len() == 0 {
		s.buf.Reset()
		return
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(s.c.o.Patience))
	if _, s.err = s.c.w.Write(s.buf.Bytes()); s.err == nil {
		s.err = s.rc.Flush()
	}
	s.buf.Reset()
}

// next waits for a view above seq. quiet is true when there was none for the
// time of a heartbeat; err is not nil when the stream is over.
func (s *stream) next(seq uint64) (quiet bool, err error) {
	ctx := s.c.r.Context()
	beat, cancel := context.WithTimeout(ctx, s.c.o.Heartbeat)
	defer cancel()
	if err := s.c.src.Wait(beat, seq); err != nil {
		if ctx.Err() != nil || beat.Err() == nil {
			return false, err
		}
		return true, nil
	}
	// Changes come in flocks; the newest state of each row is enough.
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(s.c.o.Settle):
		return false, nil
	}
}
