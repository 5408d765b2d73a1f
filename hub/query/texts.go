package query

import (
	"encoding/binary"
	"strings"

	"github.com/quarry-db/quarry/hub/table"
)

// textStep tests a text that each row has for itself.
type textStep struct {
	col    int
	part   int // of the ident; -1: a Text column
	accept func(string) bool
	empty  bool // what holds of a text without anything in it
	covers []uint8
	needle needle // what a text must have; nil: any may do
}

func (x *scan) byText(f *Field, col int, accept func(string) bool, test pred, n needle) clause {
	s := &textStep{col: col, part: -1, accept: accept, empty: accept(""), needle: n}
	if x.cols[col].Kind == table.Name {
		s.part = x.typ.keyPart(f)
	} else {
		s.covers = x.covers(f, col, test)
	}
	return clause{cost: x.textCost(20, n), step: s}
}

// textCost is what looking for a text costs when sketches help.
func (x *scan) textCost(cost int, n needle) int {
	if len(n) > 1 && x.src.Sketches != nil {
		return cost / 4
	}
	return cost
}

func (s *textStep) warm(c *table.Chunk) (n uint64) {
	if s.part >= 0 {
		for i, id := range c.Idents() {
			if id != nil && i%4 == 0 {
				n += uint64(id.Slot)
			}
		}
		return n
	}
	if texts := c.Texts(s.col); texts != nil {
		for i := 0; i < table.ChunkRows; i += 4 {
			n += uint64(len(texts[i]))
		}
	}
	return n
}

func (s *textStep) mask(x *scan, in table.Mask) (is table.Mask) {
	if !x.mayHave(s.needle, dense(in)) {
		return x.covering(s.covers, in, 0)
	}
	texts := s.read(x, in)
	if texts == nil {
		if s.empty {
			is = in
		}
		return x.covering(s.covers, in, is)
	}
	for m := in; m != 0; m &= m - 1 {
		if i := first(m); s.accept(texts[i]) {
			is |= 1 << i
		}
	}
	return x.covering(s.covers, in, is)
}

// read gives the texts of the chunk; nil: all are empty. It touches all of them
// before the first is tested, so that the processor fetches many at once.
func (s *textStep) read(x *scan, in table.Mask) *[table.ChunkRows]string {
	texts := &x.texts
	if s.part < 0 {
		if texts = x.c.Texts(s.col); texts == nil {
			return nil
		}
	} else {
		ids := x.c.Idents()
		for m := in; m != 0; m &= m - 1 {
			i := first(m)
			texts[i] = partOf(ids[i], s.part)
		}
	}
	if dense(in) {
		for m := in; m != 0; m &= m - 1 {
			if t := texts[first(m)]; t != "" {
				x.warmed += uint64(t[0])
			}
		}
	}
	return texts
}

// textTest compiles a comparison of a text that is there.
func textTest(r *restriction, f *Field) func(string) bool {
	switch {
	case r.op == ":" && r.arg == "*" && !r.quoted:
		return func(s string) bool { return s != "" }
	case r.arg == "null" && !r.quoted && (r.op == "=" || r.op == "!="):
		want := r.op == "="
		return func(s string) bool { return (s == "") == want }
	}
	accept, err := acceptsText(f, r.op, r, f.Name)
	if err != nil {
		panic("query: a filter that was compiled does not compile: " + err.Error())
	}
	return accept
}

// holds says whether a text contains another, in any case.
func holds(text string) func(string) bool {
	want := strings.ToLower(text)
	slow := func(s string) bool { return strings.Contains(s, want) || strings.Contains(strings.ToLower(s), want) }
	if want == "" || !ascii(want) {
		return slow
	}
	lower, upper := want[0], want[0]
	if 'a' <= lower && lower <= 'z' {
		upper -= 'a' - 'A'
	}
	find := func(s string, c byte) bool {
		for from := 0; ; from++ {
			i := strings.IndexByte(s[from:len(s)-len(want)+1], c)
			if i < 0 {
				return false
			}
			if from += i; folds(s[from:from+len(want)], want) {
				return true
			}
		}
	}
	return func(s string) bool {
		switch {
		case len(s) < len(want): // nothing gets longer to become ASCII
			return false
		case !ascii(s): // letters elsewhere have capitals of their own kind
			return slow(s)
		}
		return find(s, lower) || upper != lower && find(s, upper)
	}
}

func ascii(s string) bool {
	var all uint64
	for len(s) >= 8 {
		all |= binary.LittleEndian.Uint64([]byte(s[:8]))
		s = s[8:]
	}
	for i := range len(s) {
		all |= uint64(s[i])
	}
	return all&0x8080808080808080 == 0
}

// folds: s is want but for capitals; want has none.
func folds(s, want string) bool {
	for i := range len(want) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}
