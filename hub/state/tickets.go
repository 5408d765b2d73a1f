package state

import (
	"cmp"
	"slices"
	"time"
)

// After a herd came back to a hub that has forgotten, everybody has everything
// to tell. Few do so at once, the others wait in the order in which they came:
// then each is soon done and what is staged stays small. A ticket ends with
// the snapshot, with the session, or when its holder gets no further while
// others wait: it keeps nobody from what is theirs.

// ticketFor is how long a ticket without progress keeps others waiting.
const ticketFor = 30 * time.Second

// ticket is a session's turn to bring its snapshot.
type ticket struct {
	at     time.Duration // when it last got further
	staged int
}

// admit says whether a session may bring its snapshot now, or else how many
// are before it.
func (s *State) admit(id SessionID) (now bool, ahead int) {
	if t := s.bringing[id]; t != nil {
		*t = ticket{at: s.mono}
		return true, 0
	}
	if i := slices.Index(s.queue, id); i >= 0 {
		return false, i
	}
	if len(s.queue) == 0 && len(s.bringing) < s.cfg.Tickets {
		s.bringing[id] = &ticket{at: s.mono}
		return true, 0
	}
	s.queue = append(s.queue, id)
	return false, len(s.queue) - 1
}

// progress notes what a beat says of the snapshot under way.
func (s *State) progress(id SessionID, staged int) {
	if t := s.bringing[id]; t != nil && staged != t.staged {
		t.at, t.staged = s.mono, staged
	}
}

// done takes a session's ticket, or its place in the queue.
func (s *State) done(id SessionID) {
	delete(s.bringing, id)
	if i := slices.Index(s.queue, id); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	s.next()
}

// next lets those who wait begin.
func (s *State) next() {
	for len(s.queue) > 0 && len(s.bringing) < s.cfg.Tickets {
		id := s.queue[0]
		s.queue = s.queue[1:]
		p := s.sessions[id]
		if p == nil || p.synced || p.region.reporter != p {
			continue
		}
		s.bringing[id] = &ticket{at: s.mono}
		s.send(id, WantSnapshot{Why: cmp.Or(p.wanted, "it is its turn to tell everything")})
	}
}

// idle reports whether a session neither brings a snapshot nor waits to.
func (s *State) idle(id SessionID) bool {
	return s.bringing[id] == nil && !slices.Contains(s.queue, id)
}

func (s *State) expireTickets() {
	for id, t := range s.bringing {
		if s.mono-t.at >= ticketFor {
			delete(s.bringing, id)
		}
	}
	s.next()
}
