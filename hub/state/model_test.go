package state_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// record is what an agent holds under one key, and what it last sent of it.
type record struct {
	kind    catalog.FactKind
	key     string
	counter uint64
	gone    bool

	// Of a placement.
	seen                      catalog.Seen
	life                      int
	manifest, position, bytes uint64
	listed                    bool // looked through for findings in this life
	// Of a registration; root of a finding too.
	root, owner string

	sum     catalog.Sum
	moved   uint32
	whole   bool
	session state.SessionID // in which ordinal is its name
	ordinal uint32
}

func (r *record) fact(start uint64) catalog.Fact {
	f := catalog.Fact{Kind: r.kind, Key: r.key, Revision: catalog.Revision{Start: start, Counter: r.counter}, Ordinal: r.ordinal}
	switch {
	case r.gone:
		f.Gone = "removed"
	case r.kind == catalog.FactPlacement:
		m, p, b := r.manifest, r.position, r.bytes
		f.Sighting = &catalog.Sighting{Slate: r.key, Root: r.key, Seen: r.seen, Incarnation: fmt.Sprint("I", r.life), IncarnationKept: true}
		if r.seen == catalog.SeenLive {
			f.Sighting.ManifestID, f.Sighting.Position, f.Sighting.Bytes = &m, &p, &b
		}
		if r.listed {
			f.Sighting.ListedAt = &dawn
		}
	case r.kind == catalog.FactFinding:
		f.Finding = &catalog.Finding{Code: "wal-hole", Slate: r.root, Root: r.root, Object: "7"}
	default:
		f.Registration = &catalog.Registration{Version: 1, Action: catalog.Register, ID: r.key, Slate: r.root, Root: r.root, Owner: r.owner}
	}
	f.Sum = catalog.NewSum(uint32(r.kind), r.key, r.counter, 0, fmt.Append(nil, r.gone, r.seen, r.life, r.manifest, r.position, r.bytes, r.listed, r.root, r.owner))
	return f
}

// teller is an agent as the protocol describes one: it tells the newest of each
// key, what only moved as a move, and begins again where the hub says.
type teller struct {
	region  string
	start   uint64
	id      state.SessionID // 0: no session
	counter uint64
	held    map[string]*record
	told    catalog.Digest

	sent, clean uint64
	based       bool
	ordinals    uint32
	wants       []state.Message
	way         []state.Event // on its way to the hub
}

func (a *teller) sorted() []*record {
	return slices.SortedFunc(maps.Values(a.held), func(x, y *record) int { return cmp.Compare(x.counter, y.counter) })
}

// change notes that a key says something new; mask is what moved, 0: more did.
func (a *teller) change(r *record, mask uint32) {
	a.counter++
	r.counter = a.counter
	r.moved |= mask
	r.whole = r.whole || mask == 0
	a.held[r.key] = r
}

func (a *teller) tell(r *record, sum catalog.Sum) {
	a.told.Remove(r.sum)
	a.told.Add(sum)
	r.sum, r.moved, r.whole = sum, 0, false
}

func (a *teller) send(r *record) catalog.Fact {
	if r.kind == catalog.FactPlacement && r.session != a.id {
		a.ordinals++
		r.session, r.ordinal = a.id, a.ordinals
	}
	f := r.fact(a.start)
	a.tell(r, f.Sum)
	return f
}

func (a *teller) rev(n uint64) catalog.Revision { return catalog.Revision{Start: a.start, Counter: n} }

// flush puts what changed on its way.
func (a *teller) flush() {
	if !a.based || a.sent == a.counter {
		return
	}
	var facts []catalog.Fact
	var moves []catalog.Move
	before := a.sent
	for _, r := range a.sorted() {
		switch {
		case r.counter <= a.sent:
		case r.session == a.id && !r.whole && r.moved != 0:
			m := catalog.Move{Ordinal: r.ordinal, Counter: r.counter, Mask: r.moved, Packed: fmt.Append(nil, r.moved, r.manifest, r.position, r.bytes)}
			m.Values[0], m.Values[8], m.Values[11] = r.manifest, r.position, r.bytes
			a.tell(r, r.sum.Moved(m.Counter, m.Packed))
			moves = append(moves, m)
		default:
			facts = append(facts, a.send(r))
		}
	}
	a.sent = a.counter
	if len(facts) > 0 || len(moves) == 0 {
		upto := a.sent
		if len(moves) > 0 {
			upto = before
		}
		a.way = append(a.way, state.Delta{Session: a.id, Facts: facts, Upto: a.rev(upto)})
	}
	if len(moves) > 0 {
		a.way = append(a.way, state.Moves{Session: a.id, Moves: moves, Upto: a.rev(a.sent)})
	}
}

func (a *teller) all(wanted map[uint8]bool) (facts []catalog.Fact) {
	for _, r := range a.sorted() {
		if wanted != nil && !wanted[catalog.BucketOf(uint32(r.kind), r.key)] {
			continue
		}
		if r.gone {
			a.tell(r, catalog.Sum{})
			continue
		}
		facts = append(facts, a.send(r))
	}
	return facts
}

// answer does what the hub asked for.
func (a *teller) answer() {
	for _, m := range a.wants {
		switch m := m.(type) {
		case state.Welcome:
			switch {
			case m.Resume.Counter > 0:
				a.based, a.sent, a.clean = true, m.Resume.Counter, a.counter
				if m.Resume.Counter > a.counter || m.Resume.Start != a.start {
					panic(fmt.Sprintf("%s is to resume from %s and is at %s", a.region, m.Resume, a.rev(a.counter)))
				}
			case !m.Wait:
				a.snapshot()
			}
		case state.WantSnapshot:
			a.snapshot()
		case state.WantDigests:
			if a.based && a.sent >= a.clean {
				e := state.Digests{Session: a.id, At: a.rev(a.sent), Count: a.told.Count()}
				for i := range e.Buckets {
					e.Buckets[i] = a.told.Bucket(uint8(i))
				}
				a.way = append(a.way, e)
			}
		case state.WantBuckets:
			wanted := map[uint8]bool{}
			for _, b := range m.Buckets {
				wanted[b] = true
			}
			a.way = append(a.way, state.Repair{Session: a.id, Buckets: m.Buckets, Facts: a.all(wanted), Upto: a.rev(a.sent)})
		case state.Refuse:
			a.id, a.based = 0, false
		}
	}
	a.wants = nil
}

func (a *teller) snapshot() {
	facts := a.all(nil)
	a.way = append(a.way, state.Snapshot{Session: a.id, Facts: facts, Upto: a.rev(a.counter), Empty: len(facts) == 0})
	a.sent, a.clean, a.based = a.counter, 0, true
}

func (a *teller) beat() {
	e := state.Beat{Session: a.id, BucketID: "B-" + a.region, ReadOK: true, At: a.rev(a.sent)}
	if a.based && a.sent >= a.clean {
		e.Digest = a.told.Root()
	}
	a.way = append(a.way, e)
}

// fleet is two agents, their hub, and what lies between them.
type fleet struct {
	t     *rapid.T
	cfg   state.Config
	s     *state.State
	now   time.Time
	set   regions.Set
	log   []catalog.Event
	saved *stored
	next  state.SessionID
	more  bool

	agents []*teller
	past   []state.Event // of sessions that are over
	ever   map[string]bool
}

func (f *fleet) step(e state.Event) {
	r := f.s.Step(e, f.now)
	for _, rec := range r.Objects {
		switch rec := rec.(type) {
		case state.RegionsRecord:
			f.set = rec.Set
		case state.EventsRecord:
			f.log = append(f.log, rec.Events...)
		}
	}
	for _, m := range r.Send {
		for _, a := range f.agents {
			if a.id == m.To {
				a.wants = append(a.wants, m.Message)
			}
		}
	}
	f.more = r.More
	if r.Then != nil {
		f.step(r.Then)
	}
}

func (f *fleet) finish() {
	for f.more {
		f.step(state.Continue{})
	}
}

func (f *fleet) hello(a *teller) {
	f.next++
	f.past = append(f.past, a.way...)
	a.way, a.wants, a.based = nil, nil, false
	a.id, a.ordinals = f.next, 0
	f.step(state.Hello{Session: a.id, Region: a.region, Cluster: "k", Agent: fmt.Sprint(a.region, a.start), Generation: a.start, Start: a.start, BucketID: "B-" + a.region})
}

// look notes which rows there are: none of them may vanish (I5).
func (f *fleet) look() {
	v := f.s.View()
	there := map[string]bool{}
	for p := range v.Placements() {
		there[p.Region+"/"+p.Root] = true
	}
	for k := range f.ever {
		if !there[k] {
			f.t.Fatalf("the row of %s vanished", k)
		}
	}
	f.ever = there
}

// Two agents tell of slates that move, appear, vanish and are made anew, and
// of registrations. What is on its way is lost, repeated, or comes from a
// session that is over; agents and hub are killed and come back, the hub with
// what it saved last. When all has calmed down the rows are what the agents
// hold, hub and agents agree on their digests (I3), and nothing has vanished
// (I5).
func TestWhateverHappensTheRowsAreWhatTheAgentsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { lives(t, actions) })
}

// The same with findings, which an agent that begins anew looks for after it
// has reported: what the hub shows beyond what its agent holds may be of a
// database only that was not looked through since.
func TestWhateverHappensFindingsAreWhatTheAgentsHoldOrHaveYetToLookFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lives(t, slices.Concat(actions, []string{"find", "find", "cure", "look through", "look through"}))
	})
}

var actions = []string{
	"move", "move", "move", "move", "flush", "flush", "flush", "deliver", "deliver", "deliver", "deliver", "answer", "answer", "beat", "beat", "slate", "slate",
	"missing", "anew", "register", "deregister", "lose", "repeat", "past", "reconnect", "restart agent", "save", "kill hub", "tick", "continue",
}

func lives(t *rapid.T, actions []string) {
	set, err := regions.Parse([]string{"eu", "us"})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, now: dawn, set: set, next: 0, ever: map[string]bool{}}
	f.cfg = state.Config{Slice: rapid.IntRange(0, 3).Draw(t, "slice"), Tickets: rapid.IntRange(1, 2).Draw(t, "tickets")}
	f.s = state.New(f.cfg, state.Saved{Regions: set}, f.now)
	for i, region := range []string{"eu", "us"} {
		f.agents = append(f.agents, &teller{region: region, start: uint64(i + 1), held: map[string]*record{}})
	}
	starts := uint64(2)
	for range rapid.IntRange(1, 120).Draw(t, "events") {
		f.now = f.now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
		a := f.agents[rapid.IntRange(0, 1).Draw(t, "agent")]
		root := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "root")
		r := a.held[root]
		switch rapid.SampledFrom(actions).Draw(t, "what") {
		case "move":
			if r != nil && r.seen == catalog.SeenLive {
				r.manifest++
				r.position += 10
				a.change(r, 1|1<<8)
			}
		case "slate":
			if r == nil {
				r = &record{kind: catalog.FactPlacement, key: root}
			}
			if r.seen == catalog.SeenMissing && rapid.Bool().Draw(t, "made again") {
				r.life++
				r.manifest = 1
			}
			r.seen = catalog.SeenLive
			r.bytes += 100
			a.change(r, 0)
		case "missing":
			if r != nil && r.seen == catalog.SeenLive {
				r.seen = catalog.SeenMissing
				a.change(r, 0)
			}
		case "anew":
			if r != nil && r.seen == catalog.SeenLive {
				r.life++
				r.manifest = 1
				a.change(r, 0)
			}
		case "find":
			if r != nil && r.seen == catalog.SeenLive {
				key := catalog.FindingKey("wal-hole", root, "7")
				a.change(&record{kind: catalog.FactFinding, key: key, root: root, sum: sumOf(a.held[key])}, 0)
			}
		case "cure":
			if r := a.held[catalog.FindingKey("wal-hole", root, "7")]; r != nil && !r.gone {
				r.gone = true
				a.change(r, 0)
			}
		case "look through":
			if r != nil && r.seen == catalog.SeenLive && !r.listed {
				r.listed = true
				a.change(r, 0)
			}
		case "register":
			a.change(&record{kind: catalog.FactRegistration, key: "reg-" + root, root: root, owner: fmt.Sprint("o", a.counter), sum: sumOf(a.held["reg-"+root])}, 0)
		case "deregister":
			if r := a.held["reg-"+root]; r != nil && !r.gone {
				r.gone = true
				a.change(r, 0)
			}
		case "flush":
			a.flush()
		case "answer":
			a.answer()
		case "beat":
			if a.id != 0 {
				a.beat()
			}
		case "deliver":
			for range min(len(a.way), 3) {
				f.step(a.way[0])
				f.past, a.way = append(f.past, a.way[0]), a.way[1:]
			}
		case "lose": // inside the hub: the link itself knows of gaps
			if len(a.way) > 0 {
				a.way = a.way[1:]
			}
		case "repeat", "past":
			if len(f.past) == 0 || f.more {
				break
			}
			e := f.past[rapid.IntRange(0, len(f.past)-1).Draw(t, "old")]
			id := sessionOf(e)
			if _, is := e.(state.Beat); is && id == a.id {
				break // an agent's beats say how it is now
			}
			over := !slices.ContainsFunc(f.agents, func(a *teller) bool { return a.id == id })
			was := rowsOf(f.s.View())
			f.step(e)
			if now := rowsOf(f.s.View()); over && was != now {
				t.Fatalf("a %T of a session of the past changed rows: %s", e, firstDifference(was, now))
			}
		case "reconnect":
			if a.id != 0 && rapid.Bool().Draw(t, "closed") {
				f.step(state.Closed{Session: a.id})
			}
			f.hello(a)
		case "restart agent":
			starts++
			a.start, a.counter, a.told, a.sent = starts, 0, catalog.Digest{}, 0
			for _, r := range a.sorted() {
				if r.gone || r.kind == catalog.FactFinding || r.kind == catalog.FactPlacement && r.seen == catalog.SeenMissing {
					delete(a.held, r.key) // it is not there to be found, or not yet
					continue
				}
				r.sum, r.session, r.listed = catalog.Sum{}, 0, false
				a.change(r, 0)
			}
			f.hello(a)
		case "save":
			if !f.more {
				f.saved = store(t, f.s.View())
			}
		case "kill hub":
			f.s = state.New(f.cfg, state.Saved{Regions: f.set, View: f.saved.read(t), Events: f.log}, f.now)
			f.more = false
			for _, a := range f.agents {
				f.past = append(f.past, a.way...)
				a.way, a.wants, a.id, a.based = nil, nil, 0, false
			}
			f.past, f.next = nil, 0 // session numbers are of one life of a hub
		case "tick":
			f.step(state.Tick{})
		case "continue":
			f.step(state.Continue{})
		}
		f.look()
	}
	f.calm()
	f.compare()
}

func firstDifference(a, b string) string {
	was, is := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(was), len(is)) {
		if was[i] != is[i] {
			return was[i] + " became " + is[i]
		}
	}
	return fmt.Sprint(len(was), " lines became ", len(is))
}

func sumOf(r *record) catalog.Sum {
	if r == nil {
		return catalog.Sum{}
	}
	return r.sum
}

func sessionOf(e state.Event) state.SessionID {
	switch e := e.(type) {
	case state.Delta:
		return e.Session
	case state.Moves:
		return e.Session
	case state.Snapshot:
		return e.Session
	case state.Repair:
		return e.Session
	case state.Digests:
		return e.Session
	case state.Beat:
		return e.Session
	}
	return 0
}

// calm lets everybody say what there is to say.
func (f *fleet) calm() {
	quiet := 0
	for range 80 {
		f.now = f.now.Add(5 * time.Second)
		f.finish()
		busy := false
		for _, a := range f.agents {
			if a.id == 0 {
				f.hello(a)
				busy = true
			}
			busy = busy || len(a.wants) > 0 || len(a.way) > 0 || a.sent != a.counter
			a.answer()
			a.flush()
			if a.id != 0 {
				a.beat()
			}
			for _, e := range a.way {
				f.step(e)
				f.finish()
			}
			a.way = nil
			busy = busy || len(a.wants) > 1 || !a.based
		}
		f.step(state.Tick{})
		f.finish()
		f.look()
		if quiet++; busy {
			quiet = 0
		}
		if quiet == 10 { // longer than a ticket lasts
			return
		}
	}
	for _, a := range f.agents {
		f.t.Logf("%s: based %t, session %d, sent %d of %d, wants %+v", a.region, a.based, a.id, a.sent, a.counter, a.wants)
	}
	f.t.Fatal("it never calms down")
}

func (f *fleet) compare() {
	t, v := f.t, f.s.View()
	for _, a := range f.agents {
		r := v.Region(a.region)
		if r.State != catalog.RegionConnected || r.AsOf == nil || f.now.Sub(*r.AsOf) > 0 {
			t.Fatalf("%s is %s, as of %v at %s: %s", a.region, r.State, r.AsOf, f.now, r.Reason)
		}
		owners := map[string]string{}
		for g := range v.Registrations() {
			if g.Region == a.region {
				owners[g.ID] = g.Owner
			}
		}
		found := map[string]bool{}
		for x := range v.Findings() {
			if x.Region == a.region {
				found[x.Root] = true
			}
		}
		for p := range v.PlacementsIn(a.region) {
			h := a.held[p.Root]
			x := a.held[catalog.FindingKey("wal-hole", p.Root, "7")]
			holds, shown := x != nil && !x.gone, found[p.Root]
			// What it does not hold it may not have looked for yet.
			if holds && !shown || shown && !holds && p.State == catalog.StateLive && h.listed {
				t.Fatalf("%s/%s: a finding is held: %t, shown: %t, looked for: %t", a.region, p.Root, holds, shown, h != nil && h.listed)
			}
			switch {
			case h == nil || h.seen == catalog.SeenMissing:
				if p.State != catalog.StateMissing {
					t.Fatalf("%s/%s is %s, its agent does not have it", a.region, p.Root, p.State)
				}
				delete(owners, "reg-"+p.Root) // stays as last seen
				continue
			case p.State != catalog.StateLive || p.Incarnation != fmt.Sprint("I", h.life) || *p.ManifestID != h.manifest || *p.Position != h.position || *p.Bytes != h.bytes:
				t.Fatalf("%s/%s: the hub shows %s %s m=%d pos=%d bytes=%d, its agent holds %+v", a.region, p.Root, p.State, p.Incarnation, *p.ManifestID, *p.Position, *p.Bytes, *h)
			}
			if s := v.Slate(p.Slate); *s.Bytes == 0 {
				t.Fatalf("slate %s has no bytes", p.Slate)
			}
		}
		for _, h := range a.sorted() {
			switch {
			case h.kind == catalog.FactPlacement:
				if v.Placement(a.region, h.key) == nil {
					t.Fatalf("%s/%s has no row", a.region, h.key)
				}
			case h.kind == catalog.FactRegistration && !h.gone:
				if p := v.Placement(a.region, h.root); owners[h.key] != h.owner && (p == nil || p.State != catalog.StateMissing) {
					t.Fatalf("%s of %s: owner %q, its agent holds %q", h.key, a.region, owners[h.key], h.owner)
				}
				delete(owners, h.key)
			}
		}
		if len(owners) > 0 {
			t.Fatalf("registrations that nobody holds in %s: %v", a.region, owners)
		}
	}
}
