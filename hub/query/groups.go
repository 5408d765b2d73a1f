package query

import (
	"reflect"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// groupsOf counts the rows of a table. What classes tell they have counted
// already; else the matching rows are counted by class, and fields that
// classes do not tell are read row by row.
func (s *Summary) groupsOf(p *Plan, src *Source, now time.Time) ([]*Group, error) {
	x := newScan(src, p.typ, now)
	order := sorter{x: x, terms: s.by}
	traits := true
	for _, tm := range s.by {
		read := x.reader(tm)
		if read == nil {
			return s.groups(p.Matches(*src, now))
		}
		order.read = append(order.read, read)
		col, _ := x.column(tm.path.fields[0])
		traits = traits && x.cols[col].Kind == table.Trait
	}
	g := &grouping{s: s, x: x, bytes: -1, groups: map[string]*Group{}}
	if s.bytes != nil {
		if col, ok := x.column(s.bytes); ok {
			g.bytes = col
		} else {
			return s.groups(p.Matches(*src, now))
		}
	}
	if c := x.filter(p.Filter); traits {
		g.byClass(c, p.Filter)
	} else {
		g.byRow(c, order.read)
	}
	if src.Extra != nil {
		for row := range p.Matches(Source{Rows: src.Extra}, now) {
			v := elem(row.Value())
			by := make([]value, len(s.by))
			for i, tm := range s.by {
				by[i] = tm.read(v)
			}
			sum, known := uint64(0), uint64(0)
			if s.bytes != nil {
				if b := s.bytes.get(v); !b.null() {
					sum, known = b.num.mag, 1
				}
			}
			g.add(by, 1, sum, known)
		}
	}
	if len(g.groups) > MaxGroups {
		return nil, tooMany()
	}
	return s.sorted(g.groups), nil
}

type grouping struct {
	s      *Summary
	x      *scan
	bytes  int // column; -1: rows have none
	groups map[string]*Group
	key    []byte
}

// add counts rows of one group.
func (g *grouping) add(by []value, count, sum, known uint64) {
	g.key = g.key[:0]
	for _, v := range by {
		g.key = append(appendKey(g.key, v), 0)
	}
	at := g.groups[string(g.key)]
	if at == nil {
		at = &Group{by: slices.Clone(by)}
		g.groups[string(g.key)] = at
	}
	at.Count += count
	if g.s.bytes == nil {
		return
	}
	at.Unknown += count - known
	if known > 0 {
		if at.Bytes == nil {
			at.Bytes = new(uint64)
		}
		*at.Bytes += sum
	}
}

// tally is what was counted under one combination of classes, symbols and
// numbers. Several may be one group.
type tally struct {
	count, sum, known uint64
	slot              table.Slot // of one of its rows
}

// byClass counts by class.
func (g *grouping) byClass(c *clause, f *Filter) {
	x := g.x
	tallies := make([]tally, x.t.Classes())
	if c == nil || c.exact && (g.bytes < 0 || x.cols[g.bytes].Summed) {
		for id := range tallies {
			if class := x.t.Class(uint32(id)); class.Count > 0 && (c == nil || c.may[id] != 0) {
				tallies[id].count = class.Count
				if g.bytes >= 0 {
					tallies[id].sum, tallies[id].known = class.Sum(g.bytes)
				}
			}
		}
	} else {
		tallies = g.counted(c, f)
	}
	by := make([]value, len(g.s.by))
	for id, t := range tallies {
		if t.count == 0 {
			continue
		}
		for k, tm := range g.s.by {
			f := tm.path.fields[0]
			col, _ := x.column(f)
			x.with(f, x.t.Class(uint32(id)).Value(col), func(row reflect.Value) { by[k] = tm.read(row) })
		}
		g.add(by, t.count, t.sum, t.known)
	}
}

// A large table is counted by several goroutines, each a stretch of chunks that
// is worth starting it for, and so many that others find a core.
const hands = 4

var stretch = 2048

// counted counts the matching rows by class. c is the filter f for g.x.
func (g *grouping) counted(c *clause, f *Filter) []tally {
	chunks := g.x.t.Chunks()
	n := max(1, min(hands, runtime.GOMAXPROCS(0), chunks/stretch))
	parts := make([][]tally, n)
	var wg sync.WaitGroup
	for i := range n {
		x, c := g.x, c
		if i > 0 { // steps and scans are of one goroutine
			x = newScan(g.x.src, g.x.typ, g.x.now)
			c = x.filter(f)
		}
		x.begin, x.end = chunks*i/n, chunks*(i+1)/n
		count := func() { parts[i] = x.tallies(c, g.bytes) }
		if i == n-1 {
			count()
		} else {
			wg.Go(count)
		}
	}
	wg.Wait()
	for _, part := range parts[1:] {
		for id, t := range part {
			at := &parts[0][id]
			at.count += t.count
			at.sum += t.sum
			at.known += t.known
		}
	}
	return parts[0]
}

// tallies counts the matching rows by class, and sums the column bytes.
func (x *scan) tallies(c *clause, bytes int) []tally {
	out := make([]tally, x.t.Classes())
	x.each(c, func(in table.Mask) bool {
		has := x.read(bytes)
		classes := x.c.Classes()
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			t := &out[classes[i]]
			t.count++
			t.sum += x.buf[i] & -uint64(has>>i&1)
			t.known += uint64(has >> i & 1)
		}
		return true
	})
	return out
}

// read reads the bytes of the chunk.
func (x *scan) read(bytes int) table.Mask {
	if bytes < 0 {
		return 0
	}
	return x.c.Numbers(bytes, &x.buf)
}

// byRow counts by the rows' own values. Fields that are no texts are told apart
// by codes: a class, a symbol, a number.
func (g *grouping) byRow(c *clause, read []func(*table.Chunk, int) sortKey) {
	x := g.x
	values := func(s table.Slot) []value {
		by := make([]value, len(g.s.by))
		chunk, i := x.t.At(s)
		for k, tm := range g.s.by {
			by[k] = tm.path.value(read[k](chunk, i))
		}
		return by
	}
	code, codes := g.coder()
	var dense []tally
	if codes > 0 && codes <= 1<<18 {
		dense = make([]tally, codes)
	}
	sparse := map[uint64]*tally{}
	settle := func() {
		for _, t := range sparse {
			g.add(values(t.slot), t.count, t.sum, t.known)
		}
		clear(sparse)
	}
	x.each(c, func(in table.Mask) bool {
		has := x.read(g.bytes)
		var at *[table.ChunkRows]uint64
		if code != nil {
			at = code()
		}
		if at == nil {
			for m := in; m != 0; m &= m - 1 {
				i := first(m)
				know := uint64(has >> i & 1)
				g.add(values(x.slot(i)), 1, x.buf[i]&-know, know)
			}
			return len(g.groups) <= MaxGroups
		}
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			var t *tally
			if k := at[i]; dense != nil {
				t = &dense[k]
			} else if t = sparse[k]; t == nil {
				t = &tally{}
				sparse[k] = t
			}
			know := uint64(has >> i & 1)
			t.slot = x.slot(i)
			t.count++
			t.sum += x.buf[i] & -know
			t.known += know
		}
		if len(sparse) > 16*MaxGroups {
			settle()
		}
		return len(g.groups) <= MaxGroups
	})
	for i := range dense {
		if t := &dense[i]; t.count > 0 {
			g.add(values(t.slot), t.count, t.sum, t.known)
		}
	}
	settle()
}

// smallNumbers bounds numbers that have a code: counts, levels, versions.
const smallNumbers = 1 << 10

// coder gives for the rows of a chunk codes, below the number of codes, that
// rows with different values never share; or nil, when a number is too large.
// Without a code function there are none, for what is grouped by are texts.
func (g *grouping) coder() (code func() *[table.ChunkRows]uint64, codes uint64) {
	x := g.x
	type dimension struct {
		col  int // -1: the class
		size uint64
	}
	var dims []dimension
	class := false
	for _, tm := range g.s.by {
		col, _ := x.column(tm.path.fields[0])
		info := x.cols[col]
		class = class || info.Kind == table.Trait || info.Covered && x.cover
		switch info.Kind {
		case table.Trait:
		case table.Symbol:
			dims = append(dims, dimension{col, uint64(x.t.Symbols(col))})
		case table.Number:
			dims = append(dims, dimension{col, smallNumbers})
		default:
			return nil, 0
		}
	}
	if class {
		dims = append(dims, dimension{-1, uint64(x.t.Classes())})
	}
	codes = 1
	for _, d := range dims {
		if codes *= max(1, d.size); codes > 1<<40 {
			return nil, 0
		}
	}
	var out, buf [table.ChunkRows]uint64
	return func() *[table.ChunkRows]uint64 {
		clear(out[:])
		for _, d := range dims {
			switch {
			case d.col < 0:
				for i, id := range x.c.Classes() {
					out[i] = out[i]*d.size + uint64(id)
				}
			case x.cols[d.col].Kind == table.Symbol:
				ids := x.c.Symbols(d.col)
				for i := range out {
					if out[i] *= d.size; ids != nil {
						out[i] += uint64(ids[i])
					}
				}
			default:
				has := x.c.Numbers(d.col, &buf)
				for i := range out {
					if out[i] *= d.size; has>>i&1 != 0 {
						if buf[i] >= smallNumbers-1 {
							return nil
						}
						out[i] += buf[i] + 1
					}
				}
			}
		}
		return &out
	}, codes
}
