package session

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// script says frames to an intake as an agent would, and remembers the last.
type script struct {
	t      *testing.T
	in     intake
	number uint64
	last   []byte
}

func newScript(t *testing.T) *script {
	return &script{t: t, in: intake{id: 1, start: 9, token: 5, number: 1, maxStaged: 1 << 20}, number: 1}
}

func (s *script) say(f *quarryv1.AgentFrame) outcome {
	s.t.Helper()
	s.number++
	f.Number, f.Session = s.number, 5
	b, err := proto.Marshal(f)
	if err != nil {
		s.t.Fatal(err)
	}
	s.last = b
	return s.in.frame(b, wire.MaxFrame)
}

func (s *script) begin(recs []*quarryv1.Record, upto uint64, empty bool) outcome {
	s.t.Helper()
	var d catalog.Digest
	for _, r := range recs {
		d.Add(wire.Sum(r))
	}
	root := d.Root()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{
		Count: uint64(len(recs)), Digest: root[:], Upto: rev(upto), Empty: empty}}})
}

func (s *script) batch(recs ...*quarryv1.Record) outcome {
	s.t.Helper()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBatch{SnapshotBatch: &quarryv1.SnapshotBatch{Records: recs}}})
}

func (s *script) end() outcome {
	s.t.Helper()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotEnd{SnapshotEnd: &quarryv1.SnapshotEnd{}}})
}

func (s *script) delta(from, upto uint64, recs ...*quarryv1.Record) outcome {
	s.t.Helper()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{From: rev(from), Upto: rev(upto), Records: recs}}})
}

func (s *script) beat(b *quarryv1.Beat) outcome {
	s.t.Helper()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Beat{Beat: b}})
}

// whole says a snapshot of recs that is applied.
func (s *script) whole(upto uint64, recs ...*quarryv1.Record) outcome {
	s.t.Helper()
	s.begin(recs, upto, len(recs) == 0)
	if len(recs) > 0 {
		s.batch(recs...)
	}
	return s.end()
}

func rev(n uint64) *quarryv1.Revision { return &quarryv1.Revision{Start: 9, Counter: n} }

func sight(root string, at uint64) *quarryv1.Record {
	rec, err := wire.Encode(catalog.Fact{Kind: catalog.FactPlacement, Sighting: &catalog.Sighting{
		Slate: root, Root: root, Kind: catalog.KindLog, Seen: catalog.SeenLive, Position: &at}})
	if err != nil {
		panic(err)
	}
	rec.Revision = at
	return rec
}

// say tells an outcome in one line.
func say(o outcome) string {
	var words []string
	for _, e := range o.events {
		switch e := e.(type) {
		case state.Snapshot:
			words = append(words, fmt.Sprintf("snapshot of %d up to %d empty=%v", e.Count(), e.Upto.Counter, e.Empty))
		case state.Delta:
			words = append(words, fmt.Sprintf("delta of %d up to %d", len(e.Facts), e.Upto.Counter))
		case state.Quarantined:
			words = append(words, "quarantined "+strings.TrimSpace(e.Kind+" "+e.Key))
		case state.Moves:
			words = append(words, fmt.Sprintf("%d moves up to %d", len(e.Moves), e.Upto.Counter))
		case state.Digests:
			words = append(words, fmt.Sprintf("digests of %d at %d", e.Count, e.At.Counter))
		case state.Repair:
			words = append(words, fmt.Sprintf("repair of %d with %d up to %d", len(e.Buckets), len(e.Facts), e.Upto.Counter))
		case state.Beat:
			words = append(words, fmt.Sprintf("beat at %d", e.At.Counter))
		default:
			words = append(words, reflect.TypeOf(e).Name())
		}
	}
	if o.want != "" {
		words = append(words, "want")
	}
	if o.resume {
		words = append(words, "again")
	}
	if o.refuse != "" {
		words = append(words, "refuse")
	}
	return strings.Join(words, ", ")
}

func expect(t *testing.T, o outcome, want string) {
	t.Helper()
	if got := say(o); got != want {
		t.Errorf("got %q, want %q (%+v)", got, want, o)
	}
}

func TestASnapshotIsAppliedWholeOrNotAtAll(t *testing.T) {
	a, b := sight("a", 1), sight("b", 2)
	for _, c := range []struct {
		name string
		do   func(s *script) outcome
		want string
	}{
		{"whole", func(s *script) outcome { return s.whole(2, a, b) }, "snapshot of 2 up to 2 empty=false"},
		{"empty and said so", func(s *script) outcome { return s.whole(0) }, "snapshot of 0 up to 0 empty=true"},
		{"empty and not said", func(s *script) outcome { return s.begin(nil, 0, false) }, "quarantined snapshot, want"},
		{"the end of an empty one that was not said", func(s *script) outcome { s.begin(nil, 0, false); return s.end() }, ""},
		{"said to be empty and is not", func(s *script) outcome { return s.begin([]*quarryv1.Record{a}, 1, true) }, "quarantined snapshot, want"},
		{"a record is missing", func(s *script) outcome {
			s.begin([]*quarryv1.Record{a, b}, 2, false)
			s.batch(a)
			return s.end()
		}, "quarantined snapshot, want"},
		{"a record is another", func(s *script) outcome {
			s.begin([]*quarryv1.Record{a, b}, 2, false)
			s.batch(a, sight("c", 2))
			return s.end()
		}, "quarantined snapshot, want"},
		{"a record too many", func(s *script) outcome {
			s.begin([]*quarryv1.Record{a}, 2, false)
			return s.batch(a, b)
		}, "quarantined snapshot, want"},
		{"a delta in the middle", func(s *script) outcome {
			s.begin([]*quarryv1.Record{a, b}, 2, false)
			s.batch(a)
			return s.delta(2, 3, sight("c", 3))
		}, "quarantined snapshot, want"},
		{"the rest of a dropped one", func(s *script) outcome {
			s.begin([]*quarryv1.Record{a, b}, 2, false)
			s.delta(2, 3, sight("c", 3))
			s.batch(a, b)
			return s.end()
		}, ""},
		{"another begins in the middle", func(s *script) outcome {
			s.begin([]*quarryv1.Record{a, b}, 2, false)
			s.batch(a)
			return s.whole(2, b)
		}, "snapshot of 1 up to 2 empty=false"},
		{"a batch that was lost on the way", func(s *script) outcome {
			s.begin([]*quarryv1.Record{a, b}, 2, false)
			s.number++
			return s.batch(b)
		}, "quarantined frame, quarantined snapshot, want"},
		{"a beat in the middle", func(s *script) outcome {
			s.begin([]*quarryv1.Record{a}, 1, false)
			s.batch(a)
			s.beat(&quarryv1.Beat{At: rev(0)})
			return s.end()
		}, "snapshot of 1 up to 1 empty=false"},
		{"a record newer than the snapshot", func(s *script) outcome {
			s.begin([]*quarryv1.Record{b}, 1, false)
			return s.batch(b)
		}, "quarantined snapshot, want"},
		{"a withdrawn record", func(s *script) outcome {
			gone := &quarryv1.Record{Kind: 4, Key: []byte("x"), Revision: 1, Gone: []byte("bye")}
			s.begin([]*quarryv1.Record{gone}, 1, false)
			return s.batch(gone)
		}, "quarantined snapshot, want"},
		{"one bad record does not hold back the others", func(s *script) outcome {
			return s.whole(3, a, &quarryv1.Record{Kind: 60, Key: []byte("new"), Revision: 3}, b)
		}, "quarantined kind-60 new, snapshot of 2 up to 3 empty=false"},
		{"larger than any may be", func(s *script) outcome {
			s.in.maxStaged = 20
			s.begin([]*quarryv1.Record{a, b}, 2, false)
			return s.batch(a, b)
		}, "refuse"},
		{"of another process", func(s *script) outcome {
			return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{
				Count: 1, Digest: make([]byte, 32), Upto: &quarryv1.Revision{Start: 8, Counter: 1}}}})
		}, "quarantined snapshot, want"},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, c.do(newScript(t)), c.want) })
	}
}

func TestDeltasNeedWhatTheyAddTo(t *testing.T) {
	t.Run("before any snapshot", func(t *testing.T) {
		s := newScript(t)
		expect(t, s.delta(0, 1, sight("a", 1)), "want")
		expect(t, s.delta(1, 2, sight("a", 2)), "") // it has asked already
		expect(t, s.whole(2, sight("a", 2)), "snapshot of 1 up to 2 empty=false")
		expect(t, s.delta(2, 3, sight("a", 3)), "delta of 1 up to 3")
	})
	t.Run("after a resume", func(t *testing.T) {
		s := newScript(t)
		s.in.welcome(state.Welcome{Reporter: true, Resume: catalog.Revision{Start: 9, Counter: 4}})
		expect(t, s.delta(4, 5, sight("a", 5)), "delta of 1 up to 5")
	})
	t.Run("after a resume of another process's", func(t *testing.T) {
		s := newScript(t)
		s.in.welcome(state.Welcome{Reporter: true, Resume: catalog.Revision{Start: 8, Counter: 4}})
		expect(t, s.delta(4, 5, sight("a", 5)), "want")
	})
	t.Run("with a hole before them", func(t *testing.T) {
		s := newScript(t)
		s.whole(2, sight("a", 2))
		expect(t, s.delta(3, 4, sight("a", 4)), "again")
		expect(t, s.delta(4, 5, sight("a", 5)), "") // it was asked already
		expect(t, s.delta(2, 5, sight("a", 5)), "delta of 1 up to 5")
	})
	t.Run("an overlap is harmless", func(t *testing.T) {
		s := newScript(t)
		s.whole(4, sight("a", 4))
		expect(t, s.delta(2, 5, sight("b", 3), sight("a", 5)), "delta of 2 up to 5")
	})
	t.Run("a beat beyond what was heard", func(t *testing.T) {
		s := newScript(t)
		s.whole(2, sight("a", 2))
		expect(t, s.beat(&quarryv1.Beat{At: rev(3)}), "beat at 3, again")
	})
	t.Run("one bad record does not hold back the others", func(t *testing.T) {
		s := newScript(t)
		s.whole(0)
		o := s.delta(0, 4, sight("a", 1), &quarryv1.Record{Kind: 1, Key: []byte("b"), Revision: 2, Value: []byte("\xff")}, sight("c", 3), sight("d", 99))
		expect(t, o, "quarantined placement b, quarantined placement d, delta of 2 up to 4")
		if len(o.quarantined) != 2 || o.events[0].(state.Quarantined).Sum == (catalog.Sum{}) {
			t.Errorf("the agent is not told, or the digests will part: %+v", o)
		}
	})
}

// T3: whatever is said twice, or by an earlier session, is heard once.
func TestRepeatedAndForeignFramesSayNothingNew(t *testing.T) {
	s := newScript(t)
	s.begin([]*quarryv1.Record{sight("a", 1)}, 1, false)
	s.batch(sight("a", 1))
	expect(t, s.in.frame(s.last, wire.MaxFrame), "") // or the count would be off
	expect(t, s.end(), "snapshot of 1 up to 1 empty=false")
	expect(t, s.in.frame(s.last, wire.MaxFrame), "")
	s.delta(1, 2, sight("a", 2))
	old := s.last
	s.delta(2, 3, sight("a", 3))
	expect(t, s.in.frame(old, wire.MaxFrame), "")

	other := newScript(t)
	other.in.token = 6
	o := other.delta(1, 2, sight("a", 2))
	expect(t, o, "quarantined frame")
	if o.good {
		t.Error("a frame of another session passes for a sign of life")
	}
}

func TestFramesThatAreNoneAreToldAndSurvived(t *testing.T) {
	s := newScript(t)
	s.whole(1, sight("a", 1))
	for _, c := range []struct {
		name, why string
		raw       []byte
	}{
		{"noise", "does not decode", []byte("\xff\xff\xff")},
		{"a frame larger than any may be", "at most 262144", make([]byte, wire.MaxFrame+1)},
	} {
		o := s.in.frame(c.raw, wire.MaxFrame)
		expect(t, o, "quarantined frame")
		if o.good || len(o.quarantined) != 1 || !strings.Contains(o.quarantined[0].GetWhy(), c.why) {
			t.Errorf("%s: the agent hears %+v", c.name, o)
		}
	}
	expect(t, s.delta(1, 2, sight("a", 2)), "delta of 1 up to 2")
}

func TestBeatsThatCannotBeShownAreNotHeard(t *testing.T) {
	for _, c := range []struct {
		name string
		beat *quarryv1.Beat
		want string
	}{
		{"a good one", &quarryv1.Beat{At: rev(0), Digest: make([]byte, 32), Spend: map[string]float64{"get": 3}}, "beat at 0"},
		{"a digest of another length", &quarryv1.Beat{Digest: []byte{1}}, "quarantined beat"},
		{"of another process", &quarryv1.Beat{At: &quarryv1.Revision{Start: 1, Counter: 1}}, "quarantined beat"},
		{"a budget without end", &quarryv1.Beat{Budget: math.Inf(1)}, "quarantined beat"},
		{"spending that is no number", &quarryv1.Beat{Spend: map[string]float64{"get": math.NaN()}}, "quarantined beat"},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, newScript(t).beat(c.beat), c.want) })
	}
}

func TestHelloIsCheckedBeforeTheHubHearsIt(t *testing.T) {
	for _, c := range []struct {
		name, why string
		change    func(*quarryv1.Hello)
	}{
		{"good", "", func(*quarryv1.Hello) {}},
		{"a newer agent that still speaks ours", "", func(h *quarryv1.Hello) { h.MaxVersion = 7 }},
		{"an agent too new", "upgrade", func(h *quarryv1.Hello) { h.MinVersion, h.MaxVersion = 6, 7 }},
		{"no version", "upgrade", func(h *quarryv1.Hello) { h.MaxVersion = 0 }},
		{"no region", "region: empty name", func(h *quarryv1.Hello) { h.Region = "" }},
		{"a region that is a path", `no "/"`, func(h *quarryv1.Hello) { h.Region = "eu/west" }},
		{"a cluster that climbs", `".."`, func(h *quarryv1.Hello) { h.Cluster = ".." }},
		{"a region with a line break", "printable", func(h *quarryv1.Hello) { h.Region = "eu\nus" }},
		{"no start", "start 0", func(h *quarryv1.Hello) { h.Start = 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &quarryv1.Hello{MinVersion: 1, MaxVersion: 1, Region: "eu", Cluster: "k1", Start: 9, Generation: 9}
			c.change(h)
			_, _, err := checkHello(&quarryv1.AgentFrame{Number: 1, Body: &quarryv1.AgentFrame_Hello{Hello: h}})
			if (err == nil) != (c.why == "") || (err != nil && !strings.Contains(err.Error(), c.why)) {
				t.Errorf("error %v, want one with %q", err, c.why)
			}
		})
	}
	if _, _, err := checkHello(&quarryv1.AgentFrame{Number: 1}); err == nil {
		t.Error("a frame that is no hello was taken for one")
	}
}

// A long run of mostly sensible frames, of which some are lost and some said
// twice, leaves a hub that never thinks it has what it has not.
func TestLostAndRepeatedFramesNeverPassForWhole(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		s := newScript(t)
		agent, hub := map[string]uint64{}, map[string]uint64{}
		head, sent, based, again := uint64(0), uint64(0), false, false
		apply := func(o outcome) {
			for _, e := range o.events {
				switch e := e.(type) {
				case state.Snapshot:
					clear(hub)
					for f := range e.All() {
						hub[f.Key] = f.Revision.Counter
					}
				case state.Delta:
					for _, f := range e.Facts {
						hub[f.Key] = max(hub[f.Key], f.Revision.Counter)
					}
				}
			}
			if o.want != "" {
				based = false
			}
			if o.resume {
				again = true
			}
		}
		for range 300 {
			lose, twice := rng.IntN(6) == 0, rng.IntN(6) == 0
			pass := func(f func() outcome) {
				before := s.in
				var staged staged
				if before.staged != nil {
					staged = *before.staged
				}
				o := f()
				if lose { // as if it had never come
					s.in = before
					if before.staged != nil {
						*before.staged = staged
					}
					return
				}
				apply(o)
				if twice {
					apply(s.in.frame(s.last, wire.MaxFrame))
				}
			}
			head++
			k := fmt.Sprint(rng.IntN(20))
			agent[k] = head
			if !based {
				var recs []*quarryv1.Record
				for k, at := range agent {
					recs = append(recs, sight(k, at))
				}
				pass(func() outcome { return s.begin(recs, head, false) })
				lose = rng.IntN(6) == 0
				pass(func() outcome { return s.batch(recs...) })
				based, sent = true, head
				pass(func() outcome { return s.end() })
				continue
			}
			from := sent
			sent = head
			recs := []*quarryv1.Record{sight(k, head)}
			if again { // everything after what the hub has had
				again, from, recs = false, s.in.upto, nil
				for k, at := range agent {
					if at > from {
						recs = append(recs, sight(k, at))
					}
				}
			}
			pass(func() outcome { return s.delta(from, head, recs...) })
		}
		// Calm: a beat finds out what is missing, or there is nothing missing.
		apply(s.beat(&quarryv1.Beat{At: rev(head)}))
		if based && !s.in.asked && !again && !reflect.DeepEqual(agent, hub) {
			t.Errorf("seed %d: the hub takes %v for %v", seed, hub, agent)
		}
	}
}

// A standby that sent a snapshot all the same had it staged, up to the limit
// of one, for nothing: only the reporter's facts are kept.
func TestAStandbyStagesNothing(t *testing.T) {
	s := newScript(t)
	s.begin([]*quarryv1.Record{sight("a", 1)}, 1, false)
	s.in.welcome(state.Welcome{Reporter: false})
	expect(t, s.batch(sight("a", 1)), "")
	expect(t, s.end(), "")
	s.begin([]*quarryv1.Record{sight("a", 1)}, 1, false)
	if s.in.staged != nil {
		t.Error("a standby's snapshot is staged")
	}
	s.in.welcome(state.Welcome{Reporter: true})
	expect(t, s.whole(1, sight("a", 1)), "snapshot of 1 up to 1 empty=false")
}
