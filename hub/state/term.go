package state

import (
	"iter"
	"strings"
	"time"

	"github.com/quarry-db/quarry/regions"
)

// Office says under which right the hub decides, from now on: an event, stepped
// at the start and whenever that changes.
type Office struct {
	Term   uint64 // of the ledger; grows
	Ledger string // its UUID
	// Why says why the hub does not decide; empty: it does.
	Why string
}

func (Office) event() {}

// office is what the state knows of it.
type office struct {
	Office
	since time.Duration // mono, when the term began
}

func (s *State) takeOffice(e Office) {
	if e.Term != s.office.Term || e.Ledger != s.office.Ledger {
		s.office.since = s.mono
		if s.office.Term != 0 {
			s.office.since++ // what was heard at this very moment was heard in the term before
		}
	}
	s.office.Office = e
	if e.Why != "" {
		e.Term = 0 // it does not decide
	}
	s.b.SetTerm(e.Term)
	for _, n := range s.names {
		s.stirred[n] = true // who was heard before this term was not heard in it
	}
}

// Office is the right under which the hub decides.
func (s *State) Office() Office { return s.office.Office }

// heardInTerm reports whether a region was heard since this term began: before
// that nothing is decided that it has a say in (DESIGN §6).
func (s *State) heardInTerm(r *region) bool { return r.heard && r.heardAt >= s.office.since }

// Mark is a point to which [State.Undo] goes back.
type Mark struct {
	event uint64
	audit AuditHead
	rules *regions.Rules
	set   *regions.Set // nil: steps since do not change it but by what they saw
}

// Mark remembers the audit and the event log as they are, and, when people's
// commands are to be stepped, what people decided.
func (s *State) Mark(commands bool) Mark {
	s.markDecisions()
	m := Mark{event: s.b.LastEvent(), audit: s.audited, rules: s.rules}
	if commands {
		set := s.set.Clone()
		m.set = &set
	}
	return m
}

// Undo takes back what steps since the mark have decided, because it could not
// be made durable (P8). After commands the events since go too, for they told of
// what did not happen.
func (s *State) Undo(m Mark) {
	s.audited = m.audit
	s.undoDecisions()
	if s.rules != m.rules {
		s.rules = m.rules
		s.showRules()
	}
	if m.set == nil {
		return
	}
	s.b.DropEventsAfter(m.event)
	s.set, s.setDone, s.names = m.set.Clone(), true, m.set.Names()
	for name := range s.regions {
		if s.set.Get(name) == nil {
			delete(s.regions, name)
			delete(s.stirred, name)
			s.b.RemoveRegion(name)
		} else {
			s.stirred[name] = true
		}
	}
	s.settleAll()
}

// Relearn takes everything that the ledger holds in the place of what was
// known, after it was found to hold something else.
func (s *State) Relearn(records iter.Seq2[Record, error]) error {
	was := s.rules
	s.forgetDecided()
	s.rules, s.audited, s.dec = &regions.Rules{}, AuditHead{}, newDecisions()
	for rec, err := range records {
		if err == nil {
			err = s.Replay(rec)
		}
		if err != nil {
			s.rules = was
			s.showRules()
			return err
		}
	}
	s.showRules()
	return nil
}

// Found gives the records with which a ledger begins: who is in the region set,
// as it was kept before there was a ledger.
func (s *State) Found(now time.Time) []Record {
	s.clock(now)
	s.out = Ready{}
	for _, r := range s.set.Regions {
		s.record(regionKey(r.Name), regionRecord{Version: recordVersion, Name: r.Name, Membership: r.Membership, Number: s.set.Number})
	}
	s.audit(AuditEntry{Who: "hub", What: "founded", Of: "ledger", Why: "with the regions " + strings.Join(s.set.Names(), ", ")})
	return s.out.Records
}

// IsMember reports whether a record is of a region's membership.
func IsMember(rec Record) bool { return strings.HasPrefix(rec.Key, regionFolder) }
