package view

import (
	"slices"
	"sort"

	"github.com/quarry-db/quarry/hub/table"
)

// journal says what changed of a table at which publication, oldest first. It
// is only ever added to at the end, so that views share it; a row that changes
// often is in it often, and readers take its last place.
type journal struct {
	entries []entry
	floor   uint64 // changes up to here may have been forgotten
}

// entry is one row, or with an id of a region alone all rows of that region.
type entry struct {
	seq uint64
	id  *table.Ident
}

func (j *journal) add(seq uint64, id *table.Ident, bound int) {
	j.entries = append(j.entries, entry{seq, id})
	if len(j.entries) > bound+bound/4 {
		// Views go on sharing the old one.
		cut := len(j.entries) - bound
		seq := j.entries[cut-1].seq
		for cut < len(j.entries) && j.entries[cut].seq == seq {
			cut++ // a publication is known whole or not at all
		}
		j.entries = append(make([]entry, 0, bound+bound/4+1), j.entries[cut:]...)
		j.floor = seq
	}
}

// since gives the idents of what changed after a publication, each once, the
// oldest last change first. rows expands a region's entry.
func (j *journal) since(seq uint64, rows func(region string, yield func(*table.Ident))) []*table.Ident {
	at := sort.Search(len(j.entries), func(i int) bool { return j.entries[i].seq > seq })
	type name struct{ slate, region, root string }
	seen := map[name]bool{}
	var out []*table.Ident
	add := func(id *table.Ident) {
		k := name{"", id.Region, id.Root}
		if id.Region == "" {
			k.slate = id.Slate
		}
		if !seen[k] {
			seen[k] = true
			out = append(out, id)
		}
	}
	for i := len(j.entries) - 1; i >= at; i-- {
		if id := j.entries[i].id; id.Slate == "" && id.Root == "" {
			rows(id.Region, add)
		} else {
			add(id)
		}
	}
	slices.Reverse(out)
	return out
}
