package slatedb

import (
	"bytes"
	"context"
	"slices"
	"sort"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// tableSource is the rows of tables that follow each other: one table, or the
// tables of a sorted run.
type tableSource struct {
	ctx   context.Context
	parts []tablePart
	cur   *sst.Scanner
	fault error
	warm  chan struct{} // closed when the index of the next table was read
}

// tablePart is what is wanted of one table.
type tablePart struct {
	t *table
	span
}

func (s *tableSource) next() bool {
	for {
		if s.cur != nil {
			if s.cur.Next() {
				return true
			}
			if err := s.cur.Err(); err != nil {
				s.fault = s.parts[0].t.wrap(err)
				return false
			}
			s.cur = nil
			s.parts = s.parts[1:]
		}
		if len(s.parts) == 0 || s.fault != nil {
			return false
		}
		s.await()
		p := s.parts[0]
		s.cur = p.t.Scan(s.ctx, p.from, p.to)
		if len(s.parts) > 1 {
			// Have the next index by the time this table ends.
			s.warm = make(chan struct{})
			go func(t *table, done chan struct{}) {
				defer close(done)
				_, _ = t.Index(s.ctx) // an error comes again when it matters
			}(s.parts[1].t, s.warm)
		}
	}
}

func (s *tableSource) await() {
	if s.warm != nil {
		<-s.warm
		s.warm = nil
	}
}

func (s *tableSource) row() *sst.Row { return s.cur.Row() }
func (s *tableSource) err() error    { return s.fault }

func (s *tableSource) close() {
	if s.cur != nil {
		s.cur.Close()
	}
	s.await()
}

// memory is rows sorted by key, the versions of one key newest first.
type memory []sst.Row

func (m memory) sort() {
	slices.SortFunc(m, func(a, b sst.Row) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		switch { // newest first
		case a.Seq > b.Seq:
			return -1
		case a.Seq < b.Seq:
			return 1
		}
		return 0
	})
}

// in returns the rows of w.
func (m memory) in(w span) memory {
	i := sort.Search(len(m), func(i int) bool { return bytes.Compare(m[i].Key, w.from) >= 0 })
	m = m[i:]
	if w.to != nil {
		m = m[:sort.Search(len(m), func(i int) bool { return bytes.Compare(m[i].Key, w.to) >= 0 })]
	}
	return m
}

type memorySource struct {
	rows memory
	at   int // of the row after the current one
}

func (s *memorySource) next() bool {
	s.at++
	return s.at <= len(s.rows)
}

func (s *memorySource) row() *sst.Row { return &s.rows[s.at-1] }
func (s *memorySource) err() error    { return nil }
func (s *memorySource) close()        {}
