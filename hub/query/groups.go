package query

import (
	"reflect"
	"slices"
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
	c := x.filter(p.Filter)
	if traits {
		g.byClass(c)
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
func (g *grouping) byClass(c *clause) {
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
		x.each(c, func(in table.Mask) bool {
			has := g.read()
			classes := x.c.Classes()
			for m := in; m != 0; m &= m - 1 {
				i := first(m)
				t := &tallies[classes[i]]
				t.count++
				t.sum += x.buf[i] & -uint64(has>>i&1)
				t.known += uint64(has >> i & 1)
			}
			return true
		})
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

// read reads the bytes of the chunk.
func (g *grouping) read() table.Mask {
	if g.bytes < 0 {
		return 0
	}
	return g.x.c.Numbers(g.bytes, &g.x.buf)
}

// codes are what tells rows apart by the fields of a summary: classes, symbols
// or numbers.
type codes [3]uint64

// byRow counts by the rows' own values. Few fields that are no texts are told
// apart by their codes.
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
	tallies := map[codes]*tally{}
	var last *tally
	var lastIs codes
	coded := g.coder()
	x.each(c, func(in table.Mask) bool {
		has := g.read()
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			know := uint64(has >> i & 1)
			sum := x.buf[i] & -know
			if coded == nil {
				g.add(values(x.slot(i)), 1, sum, know)
				continue
			}
			is := coded(i)
			if last == nil || is != lastIs {
				if last = tallies[is]; last == nil {
					last = &tally{slot: x.slot(i)}
					tallies[is] = last
				}
				lastIs = is
			}
			last.count++
			last.sum += sum
			last.known += know
		}
		return len(g.groups) <= MaxGroups && len(tallies) <= 64*MaxGroups
	})
	for _, t := range tallies {
		g.add(values(t.slot), t.count, t.sum, t.known)
	}
}

// coder gives the codes of rows; nil: some field has none.
func (g *grouping) coder() func(i int) codes {
	x := g.x
	var each []func(i int) uint64
	class := false
	for _, tm := range g.s.by {
		f := tm.path.fields[0]
		col, _ := x.column(f)
		switch info := x.cols[col]; {
		case info.Covered || info.Kind == table.Trait:
			class = true
			if info.Kind == table.Trait {
				continue
			}
			fallthrough
		default:
			switch info.Kind {
			case table.Symbol:
				each = append(each, func(i int) uint64 {
					if ids := x.c.Symbols(col); ids != nil {
						return uint64(ids[i])
					}
					return 0
				})
			case table.Number:
				each = append(each, func(i int) uint64 { v, _ := x.c.Number(col, i); return v },
					func(i int) uint64 {
						if _, ok := x.c.Number(col, i); ok {
							return 1
						}
						return 0
					})
			default:
				return nil
			}
		}
	}
	if class {
		each = append(each, func(i int) uint64 { return uint64(x.c.Class(i)) })
	}
	if len(each) > len(codes{}) {
		return nil
	}
	return func(i int) (is codes) {
		for k, f := range each {
			is[k] = f(i)
		}
		return is
	}
}
