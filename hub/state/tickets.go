package state

import (
	"slices"
	"time"
)

// After a herd came back to a hub that has forgotten, everybody has everything
// to tell. Few do so at once, the others wait in the order in which they came:
// then each is soon done and what is staged stays small. A ticket ends with
// the snapshot, with the session, or when it is held for too long: it keeps
// nobody from what is theirs.

// ticketFor is how long a ticket keeps others waiting.
const ticketFor = 30 * time.Second

// admit says whether a session may bring its snapshot now, or else how many
// are before it.
func (s *State) admit(id SessionID) (now bool, ahead int) {
	if _, has := s.bringing[id]; has {
		return true, 0
	}
	if i := slices.Index(s.queue, id); i >= 0 {
		return false, i
	}
	if len(s.bringing) < s.cfg.Tickets {
		s.bringing[id] = s.mono
		return true, 0
	}
	s.queue = append(s.queue, id)
	return false, len(s.queue) - 1
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
		s.bringing[id] = s.mono
		s.send(id, WantSnapshot{Why: "it is its turn to tell everything"})
	}
}

func (s *State) expireTickets() {
	for id, at := range s.bringing {
		if s.mono-at >= ticketFor {
			delete(s.bringing, id)
		}
	}
	s.next()
}
