package sst

import (
	"bytes"
	"context"
)

// Sizes of the requests of a scan. It begins small, in case only a few rows
// are wanted, and doubles.
const (
	firstChunk = 128 << 10
	lastChunk  = 2 << 20
)

// Scanner walks over the rows of a table in its order, reading ahead by one
// request. It is for one goroutine. Close it when done.
type Scanner struct {
	cur Cursor // in block at of chunk

	ctx      context.Context
	t        *Table
	from, to []byte

	p      *parts
	next   int // block to ask for next
	until  int
	size   int64
	chunk  chunk
	at     int // block of chunk that cur is in
	err    error
	done   bool
	ahead  chan chunk         // one read ahead, nil before the first
	cancel context.CancelFunc // of the read ahead
}

// Scan returns a scanner of the rows from ≤ key < to; nil bounds are none. It
// reads nothing before the first Next.
func (t *Table) Scan(ctx context.Context, from, to []byte) *Scanner {
	return &Scanner{ctx: ctx, t: t, from: from, to: to}
}

// Row is the current row, valid until the next call of Next.
func (s *Scanner) Row() *Row { return &s.cur.Row }

// Err returns what ended the scan, nil when it came to its end.
func (s *Scanner) Err() error { return s.err }

// Next goes to the next row.
func (s *Scanner) Next() bool {
	for !s.done {
		if s.cur.Next() {
			if s.to != nil && bytes.Compare(s.cur.Row.Key, s.to) >= 0 {
				s.Close()
				return false
			}
			return true
		}
		if !s.nextBlock() {
			s.Close()
			return false
		}
	}
	return false
}

// nextBlock puts the cursor into the next block.
func (s *Scanner) nextBlock() bool {
	if err := s.cur.Err(); err != nil {
		off, _ := s.p.index.Span(s.chunk.first + s.at)
		s.err = fault(PartBlock, off, err)
		return false
	}
	if s.p == nil && !s.begin() {
		return false
	}
	seek := s.chunk.blocks == nil && s.from != nil
	s.at++
	for s.at >= len(s.chunk.blocks) {
		if s.err = s.chunk.err; s.err != nil || !s.nextChunk() {
			return false
		}
	}
	s.cur.Reset(s.chunk.blocks[s.at])
	if seek {
		s.cur.Seek(s.from)
	}
	return true
}

func (s *Scanner) begin() bool {
	if s.p, s.err = s.t.load(s.ctx, false); s.err != nil {
		return false
	}
	x := &s.p.index
	if !x.Ordered() {
		s.err = fault(PartIndex, int64(s.p.foot.Info.IndexOffset), corrupt("separators do not ascend"))
		return false
	}
	s.until = x.Until(s.to)
	if s.from != nil {
		s.next = x.From(s.from)
	}
	s.size = firstChunk
	return true
}

// nextChunk takes the chunk that was read ahead, or reads one, and has the
// following one read in the meantime.
func (s *Scanner) nextChunk() bool {
	old := s.chunk.arena
	switch {
	case s.ahead != nil:
		s.chunk = <-s.ahead
		s.ahead = nil
		s.cancel()
	case s.next < s.until:
		from, to := s.plan()
		c, err := s.t.readChunk(s.ctx, s.p, from, to, nil)
		c.err = err
		s.chunk = c
	default:
		s.chunk = chunk{blocks: []Block{}}
		return false
	}
	s.at = 0
	if s.next < s.until && s.chunk.err == nil {
		from, to := s.plan()
		ctx, cancel := context.WithCancel(s.ctx)
		ahead := make(chan chunk, 1)
		s.ahead, s.cancel = ahead, cancel
		arena := old // no block aliases it: its rows have been passed
		go func() {
			c, err := s.t.readChunk(ctx, s.p, from, to, arena)
			c.err = err
			ahead <- c
		}()
	}
	return true
}

// plan chooses the blocks of the next request.
func (s *Scanner) plan() (from, to int) {
	from, to = s.next, s.next+1
	start, _ := s.p.index.Span(from)
	for to < s.until {
		off, n := s.p.index.Span(to)
		if off+n-start > s.size {
			break
		}
		to++
	}
	s.next, s.size = to, min(2*s.size, lastChunk)
	return from, to
}

// Close ends the scan and waits for its last request to end.
func (s *Scanner) Close() {
	s.done = true
	if s.ahead != nil {
		s.cancel()
		<-s.ahead
		s.ahead = nil
	}
}
