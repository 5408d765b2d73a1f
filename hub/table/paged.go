package table

import "slices"

// pageLen is how many values lie in a page: a publication copies the pages
// that it changed, and the list of pages.
const pageLen = 32

// paged is a list whose pages are shared with older publications until they
// are changed. A copy of it stays as it is while the original goes on, when
// that has a higher generation afterwards.
type paged[V any] struct {
	gen   uint64 // at which the list of pages was copied
	pages []*page[V]
}

type page[V any] struct {
	gen uint64
	v   [pageLen]V
}

func (p *paged[V]) at(i int) V { return p.pages[i/pageLen].v[i%pageLen] }

// room is how many values the pages hold.
func (p *paged[V]) room() int { return len(p.pages) * pageLen }

// mine is value i, to be changed by the publication gen. Pages are added until
// there is one.
func (p *paged[V]) mine(gen uint64, i int) *V {
	if p.gen != gen {
		p.pages, p.gen = slices.Clone(p.pages), gen
	}
	for p.room() <= i {
		p.pages = append(p.pages, &page[V]{gen: gen})
	}
	at := p.pages[i/pageLen]
	if at.gen != gen {
		c := *at
		c.gen = gen
		at = &c
		p.pages[i/pageLen] = at
	}
	return &at.v[i%pageLen]
}
