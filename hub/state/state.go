package state

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/btree"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// Config are the limits by which the hub judges. Its zero value works.
type Config struct {
	// StaleAfter is how long a region may be silent before its rows are no
	// longer called current; 60 s.
	StaleAfter time.Duration
	// SuspectAfter is how late a beat may be before it shows; three beats.
	SuspectAfter time.Duration
	// Beat is how often agents are asked to beat; 5 s.
	Beat time.Duration
	// Spread is the window over which agents scatter a reconnect; two beats.
	Spread time.Duration
	// ReaderMargin is how long after its lifetime an unchanged checkpoint or
	// lease still counts as a reader; 15 minutes, longer than the slowest look
	// of an agent (DESIGN §5: at most 10 minutes apart).
	ReaderMargin time.Duration
	// Tickets is how many regions may bring a snapshot at once; 32.
	Tickets int
	// MaxEvents and MaxChanges bound the event log and the log of changed
	// rows; zero: the defaults of package view.
	MaxEvents, MaxChanges int
	// Budgets bound decisions; the zero value works.
	Budgets Budgets
	// PermitFor is how long a permit may be used, 24 h, and PassEvery how long the
	// steward rests between two looks at all slates under a policy, at least: 5 s.
	PermitFor, PassEvery time.Duration
	// EffectWithin is how long after an agent's word that a decision is done, or
	// after the decision's time was over, the hub waits to see the effect or to
	// hear of it, before it is not effective; 2 minutes.
	EffectWithin time.Duration
	// HoldEvery is how often a hold that trims goes on at most, while the head and
	// the floor do: 10 min. Each time costs a few manifests.
	HoldEvery time.Duration
	// Slice is how many facts of a snapshot one step applies; zero: all. With
	// it, [Ready.More] asks for [Continue].
	Slice int
}

func (c Config) withDefaults() Config {
	c.StaleAfter = cmp.Or(c.StaleAfter, time.Minute)
	c.Beat = cmp.Or(c.Beat, 5*time.Second)
	c.SuspectAfter = min(cmp.Or(c.SuspectAfter, 3*c.Beat), c.StaleAfter)
	c.Spread = cmp.Or(c.Spread, 2*c.Beat)
	c.ReaderMargin = cmp.Or(c.ReaderMargin, 15*time.Minute)
	c.Tickets = cmp.Or(c.Tickets, 32)
	c.PermitFor = cmp.Or(c.PermitFor, DefaultPermitFor)
	c.PassEvery = cmp.Or(c.PassEvery, 5*time.Second)
	c.EffectWithin = cmp.Or(c.EffectWithin, 2*time.Minute)
	c.HoldEvery = cmp.Or(c.HoldEvery, 10*time.Minute)
	c.MaxEvents = cmp.Or(c.MaxEvents, view.DefaultMaxEvents)
	return c
}

// DefaultPermitFor is how long a permit may be used when nobody says otherwise.
const DefaultPermitFor = 24 * time.Hour

// Ready is what has to happen after a step, in this order: the records become
// durable, the messages leave, the view is published.
type Ready struct {
	// Objects must be durable before Send leaves the process: an agent that
	// was told of a bucket's incarnation which the hub forgets after a crash
	// would be judged by another one.
	Objects []Object
	// Records are what people and the hub itself decided. They belong together:
	// either all of them are durable before anything of this step is sent or
	// answered, or the step did not happen (P8).
	Records []Record
	Send    []Send
	// More: something is under way that goes on with [Continue].
	More bool
	// Tend: the steward is at work and goes on with [Tend].
	Tend bool
	// Then, when not nil, is the event to step once the records are durable:
	// what a person's command does that could not be taken back.
	Then Event
	// Changed: [State.View] has something new.
	Changed bool
	// Err is the refusal of a person's command ([AcceptRegion],
	// [ForgetPlacement], any [Command]); then nothing else has changed.
	Err error
}

// Record is one key of the ledger, put or removed. Keys are of the tree that
// [State.Replay] reads; values are JSON with a version.
type Record struct {
	Key   string
	Value []byte // nil: the key is removed
}

// Object is something that must not be forgotten and is kept beside the ledger,
// as a numbered object: one of the types below.
type Object interface{ object() }

// RegionsRecord is the next version of the region set.
type RegionsRecord struct{ Set regions.Set }

// EventsRecord are entries of the event log, in order, all from one step.
type EventsRecord struct{ Events []catalog.Event }

func (RegionsRecord) object() {}
func (EventsRecord) object()  {}

// Refusals of people's commands.
var (
	ErrNotMissing      = errors.New("not missing")
	ErrNothingToAccept = errors.New("nothing to accept")
)

// State is what the hub knows. One goroutine owns it.
type State struct {
	cfg  Config
	set  regions.Set
	same same

	rules *regions.Rules // what people decided; replaced, never changed

	// mono is the time the hub has been alive for, by which all patience is
	// measured. It never goes back, whatever the wall clock does; a jump ahead
	// makes regions stale until their next beat (P2).
	mono time.Duration
	// listened is mono at the last [Tick], before which all that waited was
	// heard: silence is measured up to there and not up to a step that comes
	// while beats still wait behind it.
	listened time.Duration
	last     time.Time // the now of the last step
	wall     time.Time // the same in UTC, for people

	regions  map[string]*region
	names    []string // of regions, in order
	sessions map[SessionID]*session

	b     *view.Builder
	shown *view.View
	told  map[string]string // what the event log said after the saved view

	due *btree.BTreeG[deadline]

	office  office
	audited AuditHead
	dec     decisions
	steward steward
	clerk   *clerk // of what rules read; nil while there are no policies
	// documented counts the pins of documents by slate: they are looked at
	// though nothing in force is about them.
	documented map[string]int
	// placed are the pins of documents, by the document's name and their key;
	// replaced says that they changed in this step.
	placed   map[string]map[string]*catalog.Pin
	replaced bool
	// lagging are the archives that were told to be behind.
	lagging map[lagging]bool

	// What this step has touched.
	out      Ready
	events   []catalog.Event
	setDone  bool     // the set as recorded is the set
	wholes   []*whole // snapshots under way, oldest first
	seats    map[seatKey]bool
	warm     []warmSeat
	bringing map[SessionID]*ticket // who tells everything now
	queue    []SessionID           // who waits to
	ordinals []ordinal
	slates   map[string]bool
	stirred  map[string]bool // regions to judge again
	tellAnew map[string]bool // regions of which everything is told now
	refused  map[string]bool // refusals told already, so that retries are not

	// losing are losses to freeze for; true: done, and not known to be recorded.
	losing map[lastLost]bool
	mute   bool // whoever steps this event takes no records
}

type seatKey struct{ region, root string }

// deadline is when a placement has to be looked at again without news: a reader
// of it may have lapsed.
type deadline struct {
	at   time.Duration
	slot table.Slot
}

func (d deadline) less(o deadline) bool {
	return d.at < o.at || d.at == o.at && d.slot < o.slot
}

// patience bounds how many placements a tick looks at again: what is due later
// than it might be holds back a moment longer.
const patience = 300

// Step takes one event into account. It is total and deterministic: the same
// state, event and time give the same result, and no event is an error of the
// caller's. now need not grow.
func (s *State) Step(e Event, now time.Time) Ready {
	s.clock(now)
	s.out = Ready{}
	switch e.(type) {
	case Office, accepted, forgotten, retired:
		s.mute = true
	default:
		s.mute = false
	}
	if !s.behind(e) {
		s.take(e)
	}
	s.settleAll()
	if s.replaced {
		s.replaced = false
		s.showRules()
	}
	_, ticked := e.(Tick)
	s.freezeLost(ticked)
	_, tends := e.(Tend)
	if (ticked || tends) && s.clerks() {
		s.walkOn(walkAtOnce)
	}
	switch {
	case tends:
		s.out.Tend = s.tend()
	case ticked:
		s.out.Tend = s.tendDue()
	default:
		s.out.Tend = s.steward.stage != resting
	}
	s.out.Tend = s.clerks() || s.out.Tend
	if !s.setDone {
		s.set.Number++
		s.out.Objects = append(s.out.Objects, RegionsRecord{s.set.Clone()})
		s.setDone = true
	}
	if len(s.events) > 0 {
		s.out.Objects = append(s.out.Objects, EventsRecord{s.events})
		s.events = nil
	}
	if len(s.tellAnew) > 0 {
		for k := range s.told {
			if region, _, _ := strings.Cut(k, "\x00"); s.tellAnew[region] {
				delete(s.told, k)
			}
		}
		clear(s.tellAnew)
	}
	s.out.Changed, s.out.More = s.b.Touched(), len(s.wholes) > 0
	return s.out
}

// take takes one event into account.
func (s *State) take(e Event) {
	switch e := e.(type) {
	case Hello:
		s.hello(e)
	case Beat:
		s.beat(e)
	case Delta:
		s.delta(e)
	case Snapshot:
		s.snapshot(e)
	case Moves:
		s.moves(e)
	case Digests:
		s.digests(e)
	case Repair:
		s.repair(e)
	case Quarantined:
		s.quarantined(e)
	case Closed:
		s.closed(e)
	case Continue:
		if len(s.wholes) > 0 {
			s.goOn(s.wholes[0], s.cfg.Slice)
		}
	case Tick:
		s.tick()
		s.unfound()
		s.ageDecisions()
	case Settled:
		s.settled(e)
	case AcceptRegion:
		s.out.Err = s.mayAccept(e)
	case accepted:
		s.out.Err = s.accept(AcceptRegion(e))
	case ForgetPlacement:
		s.out.Err = s.mayForget(e)
	case forgotten:
		s.out.Err = s.forget(ForgetPlacement(e))
	case retired:
		s.sendAway(e)
	case Office:
		s.takeOffice(e)
	case Command:
		s.out.Err = e.enact(s)
	}
}

// View gives the state as it is after the last step. Views may be read by
// anybody; this call belongs to the owner of the state.
func (s *State) View() *view.View {
	s.settleSlates()
	s.shareDocket()
	if s.shown == nil || s.b.Touched() || !s.shown.At().Equal(s.wall) {
		s.shown = s.b.Publish(s.wall)
	}
	return s.shown
}

// settleSlates sums up what slates come to: one of many regions once for all
// that happened to it.
func (s *State) settleSlates() {
	for _, n := range sortedKeys(s.slates) {
		s.settleSlate(n, s.slates[n])
	}
	clear(s.slates)
}

// Set is the region set as it stands.
func (s *State) Set() regions.Set { return s.set.Clone() }

func (s *State) clock(now time.Time) {
	if !s.last.IsZero() {
		// Sub uses the monotonic reading when both have one.
		s.mono += max(0, now.Sub(s.last))
	}
	s.last = now
	s.wall = now.UTC()
}

func (s *State) tick() {
	s.listened = s.mono
	s.expireTickets()
	for _, n := range s.names {
		s.stirred[n] = true
		s.relieve(s.regions[n])
	}
	for range patience {
		d, some := s.due.Min()
		if !some || d.at > s.mono {
			break
		}
		s.due.Delete(d)
		if id := s.b.PlacementTable().Ident(d.slot); id != nil {
			r := s.regions[id.Region]
			s.keep(r, id.Root).due = 0
			s.touch(r, id.Root)
		}
	}
	for _, n := range s.names {
		r := s.regions[n]
		if r.rowsStale {
			continue
		}
		for n := min(len(r.late), patience); n > 0; n-- {
			slot := r.late[len(r.late)-1]
			r.late = r.late[:len(r.late)-1]
			if id := s.b.PlacementTable().Ident(slot); id != nil && id.Region == r.name {
				s.touch(r, id.Root)
			}
		}
		if len(r.late) == 0 {
			r.late = nil
		}
	}
}

func (s *State) send(to SessionID, m Message) { s.out.Send = append(s.out.Send, Send{to, m}) }

func (s *State) emit(e catalog.Event) {
	e.Seq = s.b.LastEvent() + 1
	e.Time = s.wall
	s.events = append(s.events, e)
	s.b.AddEvent(&e)
}

func (s *State) touch(r *region, root string) { s.seats[seatKey{r.name, root}] = true }

// touchAll has everything of a region settled anew. It costs by the number of
// rows: only for a beginning.
func (s *State) touchAll(r *region) {
	for root := range r.kept {
		s.touch(r, root)
	}
	for root := range s.b.Roots(r.name) {
		s.touch(r, root)
	}
}

// touchLeaving has those seats of a region settled anew where something is
// withdrawn and still shown, for nobody could see.
func (s *State) touchLeaving(r *region) {
	for sd := range r.leaving {
		if sd.lease != nil {
			s.touchSlate(r, sd.lease.Slate)
		} else {
			s.touch(r, sd.root)
		}
	}
}

// settleAll makes the rows say what the step has brought. Settling one seat
// may touch others (a clone's parent), so it goes on until nothing is left;
// each round is in order, so that events are.
func (s *State) settleAll() {
	for _, n := range sortedKeys(s.stirred) {
		s.judge(s.regions[n])
	}
	for len(s.seats) > 0 {
		round := make([]seatKey, 0, len(s.seats))
		for k := range s.seats {
			round = append(round, k)
		}
		clear(s.seats)
		slices.SortFunc(round, func(a, b seatKey) int {
			return cmp.Or(cmp.Compare(a.region, b.region), cmp.Compare(a.root, b.root))
		})
		for _, k := range round {
			r := s.regions[k.region]
			if st := s.seatAt(r, k.root); st != nil {
				s.settle(r, st)
				s.stirred[r.name] = true
			}
		}
	}
	for _, n := range sortedKeys(s.stirred) {
		s.showRegion(s.regions[n])
	}
	clear(s.stirred)
	s.cool()
	s.nameOrdinals()
}

func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
