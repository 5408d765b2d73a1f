package query

import (
	"strings"
	"sync/atomic"

	"github.com/quarry-db/quarry/hub/table"
)

// Sketches remember of each chunk of a table which three letters follow each
// other in its rows' texts, so that a search for a text passes over the chunks
// that cannot have it. One is made when a search first reads the chunk, and
// made again when its texts have changed; what rows' numbers do is no matter
// to it. It takes 1 KiB for 64 rows that were ever searched.
//
// The zero value is ready. It belongs to the views of one fleet, of which it is
// best asked about the newest; any number of goroutines may use it.
type Sketches struct {
	pages [1024]atomic.Pointer[sketchPage]
}

// sketchPage is the sketches of 256 chunks: of 16 million rows in all pages.
type sketchPage [256]atomic.Pointer[sketch]

// sketchWords is how many words a sketch has. Sixty-four rows with two texts of
// their own set a fifth of the bits: six letters are found by chance in one
// chunk of a thousand.
const sketchWords = 128

// maxTexts is how many columns of texts a sketch covers.
const maxTexts = 16

// sketch is a set of hashes of three bytes of lower-case text, of what these
// columns hold. Chunks are copied when they are changed, so that equal columns
// mean equal texts.
type sketch struct {
	idents *[table.ChunkRows]*table.Ident
	texts  [maxTexts]*[table.ChunkRows]string
	bits   [sketchWords]uint64
}

// needle is what texts must have that contain some parts.
type needle []uint16

// needleOf is nil when the parts are too short to say anything.
func needleOf(parts ...string) (n needle) {
	for _, p := range parts {
		trigrams(lowered(p), func(h uint16) { n = append(n, h) })
	}
	return n
}

// needleFor is what a text must have that fulfils a comparison.
func needleFor(r *restriction) needle {
	switch {
	case r.quoted, r.arg != "null" && r.arg != "*":
	default:
		return nil
	}
	switch r.op {
	case ":":
		return needleOf(strings.ToLower(unescape(r.arg)))
	case "=":
		return needleOf(newPattern(r.arg).parts...)
	}
	return nil
}

// lowered makes ASCII letters lower-case and leaves everything else.
func lowered(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func trigrams(s string, yield func(uint16)) {
	for i := 2; i < len(s); i++ {
		yield(trigram(s[i-2], s[i-1], s[i]))
	}
}

func trigram(a, b, c byte) uint16 {
	return uint16((uint32(a)<<16|uint32(b)<<8|uint32(c))*2654435761>>16) & (sketchWords*64 - 1)
}

func (k *sketch) has(n needle) bool {
	for _, h := range n {
		if k.bits[h>>6]>>(h&63)&1 == 0 {
			return false
		}
	}
	return true
}

// add takes a text in. One beyond ASCII is searched with its letters lowered
// in either way.
func (k *sketch) add(s string) {
	var a, b, high byte
	for i := range len(s) {
		c := s[i]
		high |= c
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if i > 1 {
			h := trigram(a, b, c)
			k.bits[h>>6] |= 1 << (h & 63)
		}
		a, b = b, c
	}
	if high >= 0x80 {
		trigrams(strings.ToLower(s), func(h uint16) { k.bits[h>>6] |= 1 << (h & 63) })
	}
}

// textColumns are the columns of texts; nil when they are too many.
func textColumns(cols []table.Column) (texts []int) {
	for i, c := range cols {
		if c.Kind == table.Text {
			texts = append(texts, i)
		}
	}
	if len(texts) > maxTexts {
		return nil
	}
	return texts
}

func (k *sketch) of(c *table.Chunk, texts []int) bool {
	if k.idents != c.Idents() {
		return false
	}
	for i, col := range texts {
		if k.texts[i] != c.Texts(col) {
			return false
		}
	}
	return true
}

func newSketch(c *table.Chunk, texts []int) *sketch {
	k := &sketch{idents: c.Idents()}
	for i, col := range texts {
		k.texts[i] = c.Texts(col)
	}
	for m := c.Live(); m != 0; m &= m - 1 {
		row := first(m)
		id := k.idents[row]
		k.add(id.Slate)
		k.add(id.Region)
		if id.Root != id.Slate {
			k.add(id.Root)
		}
		before := ""
		for _, texts := range k.texts {
			if texts != nil && texts[row] != before {
				before = texts[row]
				k.add(before)
			}
		}
	}
	return k
}

// slot is where the sketch of a chunk is kept; nil: nowhere.
func (s *Sketches) slot(chunk int) *atomic.Pointer[sketch] {
	if chunk >= len(s.pages)*len(sketchPage{}) {
		return nil
	}
	at := &s.pages[chunk/len(sketchPage{})]
	p := at.Load()
	if p == nil {
		at.CompareAndSwap(nil, &sketchPage{})
		p = at.Load()
	}
	return &p[chunk%len(sketchPage{})]
}

// newSketches is how many sketches one query makes at most, so that the first
// search does not do the work of all that follow.
const newSketches = 4096

// mayHave says whether a text of the chunk where the scan is can have what a
// search needs. many: the whole chunk is asked about, and not a row of it.
func (x *scan) mayHave(n needle, many bool) bool {
	if n == nil || x.src.Sketches == nil || x.texted == nil {
		return true
	}
	slot := x.src.Sketches.slot(x.ci)
	if slot == nil {
		return true
	}
	k := slot.Load()
	if k == nil || !k.of(x.c, x.texted) {
		if !many || x.sketched >= newSketches {
			return true
		}
		x.sketched++
		k = newSketch(x.c, x.texted)
		slot.Store(k)
	}
	return k.has(n)
}
