package session

import (
	"bytes"
	"slices"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

func (s *script) deltaWithMoves(from, upto uint64, moves []byte, recs ...*quarryv1.Record) outcome {
	s.t.Helper()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{From: rev(from), Upto: rev(upto), Records: recs, Moves: moves}}})
}

// move moves the position.
func move(b []byte, ordinal uint32, step, position uint64) []byte {
	n := wire.Numbers{Known: 1 << 8}
	n.Values[8] = position
	b, _ = wire.AppendMove(b, ordinal, step, 1<<8, &n)
	return b
}

func TestMovesComeWithTheirDelta(t *testing.T) {
	s := newScript(t)
	a := sight("a", 2)
	a.Ordinal = 7
	o := s.whole(2, a)
	if f, ok := o.events[0].(state.Snapshot).Later(); !ok || f.Ordinal != 7 {
		t.Errorf("it is called %d", f.Ordinal)
	}
	o = s.deltaWithMoves(2, 4, move(nil, 7, 2, 99))
	expect(t, o, "1 moves up to 4")
	if m := o.events[0].(state.Moves).Moves[0]; m.Ordinal != 7 || m.Counter != 4 || m.Values[8] != 99 {
		t.Errorf("%+v", m)
	}
	far := sight("far", 4)
	far.Ordinal = 1 << 31
	o = s.delta(4, 4, far)
	if f := o.events[0].(state.Delta).Facts[0]; f.Ordinal != 0 {
		t.Errorf("of three records one is called %d", f.Ordinal)
	}
	// What the facts alone let the hub acknowledge is what was acknowledged
	// before: the moves may be older than they are.
	expect(t, s.deltaWithMoves(4, 6, move(nil, 7, 1, 100), sight("b", 6)), "delta of 1 up to 4, 1 moves up to 6")
	// Moves that cannot be read are told again, and whole.
	expect(t, s.deltaWithMoves(6, 7, []byte{7, 1, 0}), "quarantined delta, again")
	expect(t, s.deltaWithMoves(7, 8, move(nil, 7, 1, 101)), "")
	expect(t, s.delta(6, 8, sight("a", 8)), "delta of 1 up to 8")
}

func (s *script) beginRepair(buckets []byte, upto uint64, recs ...*quarryv1.Record) outcome {
	s.t.Helper()
	var d catalog.Digest
	for _, r := range recs {
		d.Add(wire.Sum(r))
	}
	root := d.Root()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_RepairBegin{RepairBegin: &quarryv1.RepairBegin{
		Buckets: buckets, Count: uint64(len(recs)), Digest: root[:], Upto: rev(upto)}}})
}

func (s *script) repairBatch(recs ...*quarryv1.Record) outcome {
	s.t.Helper()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_RepairBatch{RepairBatch: &quarryv1.RepairBatch{Records: recs}}})
}

func (s *script) endRepair() outcome {
	s.t.Helper()
	return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_RepairEnd{RepairEnd: &quarryv1.RepairEnd{}}})
}

// A repair says of what it lacks that it is gone: it is taken whole, as asked,
// or not at all.
func TestARepairIsAppliedWholeOrNotAtAll(t *testing.T) {
	a, b := sight("a", 1), sight("b", 9)
	buckets := []byte{catalog.BucketOf(1, "a"), catalog.BucketOf(1, "b")}
	slices.Sort(buckets)
	for _, c := range []struct {
		name string
		do   func(s *script) outcome
		want string
	}{
		{"whole, with a record newer than what was sent", func(s *script) outcome {
			s.beginRepair(buckets, 2, a, b)
			s.repairBatch(a)
			s.repairBatch(b)
			return s.endRepair()
		}, "repair of 2 with 2 up to 2"},
		{"nothing is left", func(s *script) outcome { s.beginRepair(buckets, 2); return s.endRepair() }, "repair of 2 with 0 up to 2"},
		{"not asked for", func(s *script) outcome { return s.beginRepair([]byte{1, 2, 3}, 2) }, "quarantined repair"},
		{"twice", func(s *script) outcome {
			s.beginRepair(buckets, 2)
			s.endRepair()
			return s.beginRepair(buckets, 2)
		}, "quarantined repair"},
		{"a record is missing", func(s *script) outcome {
			s.beginRepair(buckets, 2, a, b)
			s.repairBatch(a)
			return s.endRepair()
		}, "quarantined repair"},
		{"a record of another bucket", func(s *script) outcome {
			s.beginRepair(buckets, 2, a, b)
			return s.repairBatch(sight("zzz", 1))
		}, "quarantined repair"},
		{"a delta in the middle", func(s *script) outcome {
			s.beginRepair(buckets, 2, a, b)
			return s.delta(2, 3, sight("c", 3))
		}, "quarantined repair"},
		{"the end of a snapshot", func(s *script) outcome { s.beginRepair(buckets, 2); return s.end() }, ""},
		{"after what was lost", func(s *script) outcome { return s.beginRepair(buckets, 3) }, "again"},
		{"one bad record does not hold back the others", func(s *script) outcome {
			bad := &quarryv1.Record{Kind: 1, Key: []byte("a"), Revision: 2, Value: []byte("\xff")}
			s.beginRepair(buckets, 2, bad, b)
			s.repairBatch(bad, b)
			return s.endRepair()
		}, "quarantined placement a, repair of 2 with 1 up to 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			s.whole(2, a)
			s.in.wanted(buckets)
			expect(t, c.do(s), c.want)
		})
	}
}

func TestDigestsAreAllThere(t *testing.T) {
	s := newScript(t)
	say := func(at *quarryv1.Revision, b []byte) outcome {
		return s.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Digests{Digests: &quarryv1.Digests{At: at, Buckets: b, Count: 3}}})
	}
	b := bytes.Repeat([]byte("0123456789abcdef"), catalog.DigestBuckets)
	o := say(rev(2), b)
	expect(t, o, "digests of 3 at 2")
	if e := o.events[0].(state.Digests); string(e.Buckets[255][:]) != "0123456789abcdef" {
		t.Errorf("%x", e.Buckets[255])
	}
	expect(t, say(rev(2), b[1:]), "quarantined digests")
	expect(t, say(&quarryv1.Revision{Start: 8, Counter: 2}, b), "quarantined digests")
}

// A region that waits for its turn is not asked for what it may not send yet.
func TestWhoWaitsForItsTurnIsNotAsked(t *testing.T) {
	s := newScript(t)
	s.in.welcome(state.Welcome{Reporter: true, Wait: true})
	expect(t, s.delta(0, 1, sight("a", 1)), "")
	s.in.wanted(nil)
	expect(t, s.whole(1, sight("a", 1)), "snapshot of 1 up to 1 empty=false")
}
