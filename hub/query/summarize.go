package query

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxGroups is how many groups a summary may have: it is for fields with few
// values.
const MaxGroups = 10_000

// Summary counts rows by the values of some fields.
type Summary struct {
	by     []term
	bytes  *Field
	oldest *Field
}

// Group is one group of a summary.
type Group struct {
	Count uint64
	// Bytes is the sum over the rows whose bytes are known; nil when there is
	// none. Unknown says how many are not known.
	Bytes   *uint64
	Unknown uint64
	by      []value
	oldest  value
}

// Summary reads "region,kind". Every refusal is an [*Error].
func (t *Type) Summary(by string) (*Summary, error) {
	s := &Summary{bytes: t.byName["bytes"], oldest: t.byName["created_at"]}
	at := 0
	for part := range strings.SplitSeq(by, ",") {
		col := at + len(part) - len(strings.TrimLeft(part, " "))
		at += len(part) + 1
		name := strings.TrimSpace(part)
		refuse := func(hint, format string, args ...any) (*Summary, error) {
			return nil, &Error{Param: "by", Input: by, Column: utf8.RuneCountInString(by[:min(col, len(by))]) + 1, Msg: fmt.Sprintf(format, args...), Hint: hint}
		}
		if name == "" {
			return refuse("for example by=region,kind", "a field is missing")
		}
		p, bad, hint := t.resolve(strings.Split(name, "."))
		switch {
		case bad >= 0:
			return refuse(hint, "%s have no field %q", t.Name, name)
		case p.repeated() || !p.kind().scalar():
			return refuse("group by a text, a number, a time, or true and false", "%s is %s", name, p.kind())
		case slices.ContainsFunc(s.by, func(x term) bool { return x.name == name }):
			return refuse("", "%s is there twice", name)
		}
		s.by = append(s.by, term{path: p, name: name})
	}
	return s, nil
}

// HasBytes says whether groups tell how many bytes their rows have.
func (s *Summary) HasBytes() bool { return s.bytes != nil }

// GroupsOf counts the rows of a source that match a plan's filter, ordered by the
// values grouped by, null last. More than [MaxGroups] groups are refused.
func (s *Summary) GroupsOf(p *Plan, src Source, now time.Time) ([]*Group, error) {
	if src.Table == nil || s.oldest != nil {
		return s.groups(p.Matches(src, now))
	}
	return s.groupsOf(p, &src, now)
}

// groups counts rows one by one.
func (s *Summary) groups(rows iter.Seq[Row]) ([]*Group, error) {
	groups := map[string]*Group{}
	var key []byte
	by := make([]value, len(s.by))
	for row := range rows {
		v := elem(row.Value())
		key = key[:0]
		for i, tm := range s.by {
			by[i] = tm.read(v)
			key = append(appendKey(key, by[i]), 0)
		}
		g := groups[string(key)]
		if g == nil {
			if len(groups) == MaxGroups {
				return nil, tooMany()
			}
			g = &Group{by: slices.Clone(by)}
			groups[string(key)] = g
		}
		g.Count++
		if s.bytes != nil {
			if x := s.bytes.get(v); x.null() {
				g.Unknown++
			} else {
				if g.Bytes == nil {
					g.Bytes = new(uint64)
				}
				*g.Bytes += x.num.mag
			}
		}
		if s.oldest != nil {
			if x := s.oldest.get(v); !x.null() && (g.oldest.null() || x.t.Before(g.oldest.t)) {
				g.oldest = x
			}
		}
	}
	return s.sorted(groups), nil
}

func (s *Summary) sorted(groups map[string]*Group) []*Group {
	out := make([]*Group, 0, len(groups))
	for _, g := range groups {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *Group) int {
		for i, tm := range s.by {
			if c := tm.compare(a.by[i], b.by[i]); c != 0 {
				return c
			}
		}
		return 0
	})
	return out
}

func tooMany() error {
	return &Error{Param: "by", Msg: fmt.Sprintf("more than %d groups", MaxGroups), Hint: "group by fields with few values, or narrow the filter"}
}

// appendKey tells values apart exactly; null is not "null".
func appendKey(dst []byte, x value) []byte {
	if x.kind == Time {
		x.t = x.t.UTC().Round(0)
	}
	return appendValue(append(dst, byte(x.kind)), x)
}

// AppendJSON appends a group: the values by their names, then count, and
// bytes and oldest_created_at where the rows have them.
func (s *Summary) AppendJSON(dst []byte, g *Group) []byte {
	dst = append(dst, '{')
	for i, tm := range s.by {
		dst = appendString(dst, tm.name)
		dst = append(dst, ':')
		dst = append(appendValue(dst, g.by[i]), ',')
	}
	dst = fmt.Appendf(dst, `"count":%d`, g.Count)
	if s.bytes != nil {
		if g.Bytes == nil {
			dst = append(dst, `,"bytes":null`...)
		} else {
			dst = fmt.Appendf(dst, `,"bytes":%d`, *g.Bytes)
		}
		dst = fmt.Appendf(dst, `,"bytes_unknown":%d`, g.Unknown)
	}
	if s.oldest != nil {
		dst = append(dst, `,"oldest_created_at":`...)
		if g.oldest.null() {
			dst = append(dst, "null"...)
		} else {
			dst = appendString(dst, g.oldest.t.Format(time.RFC3339Nano))
		}
	}
	return append(dst, '}')
}
