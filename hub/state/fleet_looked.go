package state

import (
	"hash/maphash"
	"time"

	"github.com/quarry-db/quarry/regions"
)

// looked tells the steward which slates it need not look at again: nothing that
// wishes follow from has changed of them since it looked and wished for nothing.
// That costs a fraction of a microsecond where a look costs tens. It is good for
// one slice of a pass: nothing may be settled meanwhile.
type looked struct {
	k    *clerk
	j    *judge
	now  time.Duration
	docs uint64 // of the documents in force
}

// stamp is that a look at a slate found nothing to wish for.
type stamp struct {
	mark uint64 // of what it was looked at with; 0: it was not
	at   time.Duration
}

// lookAgain is how long at most, and half of it how long at least, a slate is not
// looked at though nothing has changed: by time alone permits have to be renewed
// and restore points grow old.
const lookAgain = 10 * time.Minute

// looked begins a slice; the zero value of what it gives would have everything
// looked at.
func (s *State) looked() looked {
	s.clerks()
	k := s.clerk
	if k == nil || k.broken {
		return looked{}
	}
	if s.hearStirred(); k.broken {
		return looked{}
	}
	return looked{k: k, j: newJudge(&k.docket, &s.b.View, s.rules, s.wall), now: s.mono, docs: documentsMark(s.rules)}
}

// unchanged reports whether a slate need not be looked at.
func (l *looked) unchanged(name string) bool {
	m := l.mark(name)
	if m == 0 {
		return false
	}
	is := l.k.stamps[l.k.first[name]-1]
	return is.mark == m && l.now-is.at < lookAgain/2+time.Duration(m%uint64(lookAgain/2))
}

// nothing notes that a look at a slate in this slice found nothing to wish for,
// whatever stands in the way of wishes.
func (l *looked) nothing(name string) {
	if m := l.mark(name); m != 0 {
		l.k.stamps[l.k.first[name]-1] = stamp{m, l.now}
	}
}

// mark is a number that is another one when anything has changed that wishes for
// a slate follow from; 0: that is not kept of it.
func (l *looked) mark(name string) uint64 {
	if l.k == nil {
		return 0
	}
	h := l.docs
	at := l.k.first[name]
	if at == 0 {
		return 0
	}
	for at != 0 {
		place := int(at) - 1
		row := l.k.row(place)
		rule, beside := l.j.law(place)
		if rule != nil {
			h = h*0x9e3779b97f4a7c15 + l.k.facts.Mark(rule, place, beside)
		}
		h = h*0x9e3779b97f4a7c15 + uint64(row.stirs)<<32 + uint64(at)
		at = row.next
	}
	return h | 1
}

var documentsSeed = maphash.MakeSeed()

// documentsMark is a number that is another one when other policies or holds are
// in force. Freezes show in the rulings.
func documentsMark(r *regions.Rules) uint64 {
	var h maphash.Hash
	h.SetSeed(documentsSeed)
	one := func(kind byte, name string, a *regions.Applied) {
		h.WriteByte(kind)
		h.WriteString(name)
		for n := a.Revision; ; n >>= 8 {
			h.WriteByte(byte(n))
			if n < 256 {
				break
			}
		}
		h.WriteByte(0)
	}
	for i := range r.Policies {
		one(1, r.Policies[i].Name, &r.Policies[i].Applied)
	}
	for i := range r.Holds {
		one(2, r.Holds[i].Name, &r.Holds[i].Applied)
	}
	return h.Sum64()
}
