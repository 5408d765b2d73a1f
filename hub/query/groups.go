package query

import (
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
)

// groupsOf counts the rows of a table. What classes tell, they have counted
// already; else the matching rows are counted by class, and only fields that
// classes do not tell are read row by row.
func (s *Summary) groupsOf(p *Plan, src Source, now time.Time) ([]*Group, error) {
	x := newScan(src.Table, p.typ, now, src.Fill)
	f := p.Filter.columns(x)
	sc := src.Table.Schema()
	bytes := -1
	if s.bytes != nil {
		bytes, _ = sc.Column(s.bytes.Name)
	}
	traits := true
	for _, tm := range s.by {
		col, ok := sc.Column(tm.path.fields[0].Name)
		traits = traits && ok && sc.Columns()[col].Kind == table.Trait && len(tm.path.fields) == 1
	}
	g := grouping{s: s, groups: map[string]*Group{}, by: make([]value, len(s.by))}
	for _, tm := range s.by {
		read, ok := x.reader(tm)
		if !ok {
			return s.Groups(p.Matches(src, now))
		}
		g.read = append(g.read, read)
	}
	if !traits {
		var buf [table.ChunkRows]uint64
		x.each64(f, func(in table.Mask) {
			var has table.Mask
			if bytes >= 0 {
				has = x.c.Numbers(bytes, &buf)
			}
			for m := in; m != 0; m &= m - 1 {
				i := first(m)
				for k, read := range g.read {
					g.by[k] = read(i)
				}
				g.add(1, buf[i], uint64(has>>i&1), bytes >= 0)
			}
		})
		return g.result()
	}
	// By class.
	n := src.Table.Classes()
	count, sum, known := make([]uint64, n), make([]uint64, n), make([]uint64, n)
	if f == nil || f.class != nil {
		for id := range n {
			if c := src.Table.Class(uint32(id)); c.Count > 0 && (f == nil || f.class(c)) {
				count[id] = c.Count
				if bytes >= 0 {
					sum[id], known[id] = c.Sum(bytes)
				}
			}
		}
	} else {
		var buf [table.ChunkRows]uint64
		x.each64(f, func(in table.Mask) {
			classes := x.c.Classes()
			var has table.Mask
			if bytes >= 0 {
				has = x.c.Numbers(bytes, &buf)
			}
			for m := in; m != 0; m &= m - 1 {
				i := first(m)
				id := classes[i]
				count[id]++
				if has&(1<<i) != 0 {
					sum[id] += buf[i]
					known[id]++
				}
			}
		})
	}
	for id := range n {
		if count[id] == 0 {
			continue
		}
		for k, tm := range s.by {
			g.by[k] = x.ofClass(tm, uint32(id))
		}
		g.add(count[id], sum[id], known[id], bytes >= 0)
	}
	return g.result()
}

type grouping struct {
	s      *Summary
	groups map[string]*Group
	read   []func(i int) value
	by     []value
	key    []byte
	over   bool
}

// add counts rows of the group whose values are in by.
func (g *grouping) add(count, sum, known uint64, bytes bool) {
	g.key = g.key[:0]
	for _, v := range g.by {
		g.key = append(appendKey(g.key, v), 0)
	}
	at := g.groups[string(g.key)]
	if at == nil {
		if len(g.groups) == MaxGroups {
			g.over = true
			return
		}
		at = &Group{by: slices.Clone(g.by)}
		g.groups[string(g.key)] = at
	}
	at.Count += count
	if !bytes {
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

func (g *grouping) result() ([]*Group, error) {
	if g.over {
		return nil, tooMany()
	}
	return g.s.sorted(g.groups), nil
}
