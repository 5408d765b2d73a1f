package state

import (
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// copied is what the hub holds of an agent's records, as they travelled: the
// agent keeps the same, and each beat says whether the two still agree. Rows
// are made from more than this (what is missing stays, registrations join), so
// it is kept beside them.
type copied struct {
	held   map[factKey]heldSum
	digest catalog.Digest
	// aside are records that could not be understood. They count, and they say
	// nothing about what they described (P1).
	aside map[factKey]aside
}

type heldSum struct {
	counter uint64
	sum     catalog.Sum
}

type aside struct {
	rev   catalog.Revision
	sum   catalog.Sum
	fresh bool // since the last snapshot
}

// repairRest is the least time between two repairs of one region: a fault that
// a snapshot does not cure must not become a stream of them.
const repairRest = time.Minute

func (c *copied) put(k factKey, counter uint64, sum catalog.Sum) {
	old, had := c.held[k]
	if had && counter <= old.counter {
		return
	}
	if c.held == nil {
		c.held = map[factKey]heldSum{}
	}
	c.digest.Remove(old.sum)
	c.digest.Add(sum)
	c.held[k] = heldSum{counter, sum}
}

// add counts records of a delta.
func (c *copied) add(facts []catalog.Fact) {
	for i := range facts {
		k := factKey{facts[i].Kind, facts[i].Key}
		c.put(k, facts[i].Revision.Counter, facts[i].Sum)
		if a, ok := c.aside[k]; ok && a.rev.Counter < facts[i].Revision.Counter {
			delete(c.aside, k)
		}
	}
}

// setAside counts a record that could not be understood.
func (c *copied) setAside(k factKey, rev catalog.Revision, sum catalog.Sum) {
	if c.aside == nil {
		c.aside = map[factKey]aside{}
	}
	c.aside[k] = aside{rev, sum, true}
	c.put(k, rev.Counter, sum)
}

// replace begins anew from a snapshot. What was put aside while it was staged
// is part of it.
func (c *copied) replace(start uint64, facts []catalog.Fact) {
	before := c.aside
	*c = copied{}
	for k, a := range before {
		if a.fresh && a.rev.Start == start {
			c.setAside(k, a.rev, a.sum)
		}
	}
	c.add(facts)
	for k, a := range c.aside {
		a.fresh = false
		c.aside[k] = a
	}
}

// drifted asks for everything again when the agent's digest is not the one
// of what it has sent.
func (s *State) drifted(r *region, e Beat) bool {
	if e.Digest == ([32]byte{}) || e.At != r.applied || r.copied.digest.Root() == e.Digest {
		return false
	}
	if r.repairedAt != 0 && s.mono-r.repairedAt < repairRest {
		return true
	}
	r.repairedAt = max(s.mono, 1)
	s.want(r, "the digests of hub and agent differ")
	return true
}
