package session

import (
	"fmt"
	"math"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// intake turns one session's frames into events. It is pure; whoever has it
// calls it from one goroutine at a time.
type intake struct {
	id        state.SessionID
	start     uint64 // of the agent process
	token     uint64
	region    string
	maxStaged int

	number  uint64 // of the newest frame
	records uint64 // that came
	// standby: the agent was told that another brings the region's facts. What
	// it sends of them all the same is neither kept nor asked for again.
	standby bool
	// based says that the hub has a basis for deltas: it resumed, or applied a
	// snapshot of this session. upto is the counter up to which it has had all.
	based  bool
	upto   uint64
	staged *staged
	// waiting: the region has no turn to bring its snapshot yet.
	waiting bool
	// gap: frames were lost, and the agent was asked to resume from upto.
	gap bool
	// buckets are those that were asked for and did not come yet.
	buckets []uint8
	// asked says that a snapshot was wanted and none has begun since: asking
	// again would only make the agent begin again.
	asked bool
}

// outcome is what one frame means.
type outcome struct {
	good        bool // it was an understandable frame of this session
	events      []state.Event
	quarantined []*quarryv1.Quarantined // to tell the agent
	want        string                  // why a snapshot is wanted; empty: it is not
	resume      bool                    // the agent is to begin again from upto
	refuse      string                  // why the session must end; empty: it need not
	beat        bool                    // it was a beat, and says that
	read        uint64                  // so many bytes of the hub's frames were read
	charged     bool                    // the frame is paid from the agent's credit
}

// welcome notes what the hub is about to tell the agent.
func (in *intake) welcome(w state.Welcome) {
	in.gap, in.buckets = false, nil
	if in.standby = !w.Reporter; in.standby {
		in.staged, in.based, in.asked = nil, false, false
	}
	in.waiting = w.Reporter && w.Wait
	if w.Reporter && w.Resume.Counter > 0 && w.Resume.Start == in.start {
		in.based = true
		in.upto = max(in.upto, w.Resume.Counter)
	}
}

// wanted notes that the hub is about to ask for a snapshot, or for buckets.
func (in *intake) wanted(buckets []uint8) {
	if buckets == nil {
		in.waiting = false
		return
	}
	in.buckets = buckets
}

// frame takes one frame after the hello. Whatever the bytes are, it gives an
// outcome: it never panics and never ends a session for what one frame says,
// except for a snapshot larger than any may be.
func (in *intake) frame(raw []byte, maxFrame int) outcome {
	if len(raw) > maxFrame {
		return in.noise(fmt.Sprintf("frame of %d bytes, at most %d are read", len(raw), maxFrame))
	}
	f, err := wire.DecodeFrame(raw)
	if err != nil {
		return in.noise(err.Error())
	}
	if f.GetSession() != in.token {
		return in.noise("frame of another session")
	}
	if f.GetNumber() <= in.number {
		return outcome{good: true} // a repetition says nothing new
	}
	out := in.next(f)
	switch f.GetBody().(type) {
	case *quarryv1.AgentFrame_Hello, *quarryv1.AgentFrame_Beat:
		out.charged = false
	default:
		out.charged = true
	}
	return out
}

// next takes a frame that is newer than all before it.
func (in *intake) next(f *quarryv1.AgentFrame) outcome {
	lost := f.GetNumber() - in.number - 1
	in.number = f.GetNumber()

	var out outcome
	if lost > 0 {
		// Lost deltas show in the next one's From; a snapshot with a hole can
		// only be dropped.
		out = in.noise(fmt.Sprintf("%d frames before frame %d were lost", lost, in.number))
		if in.staged != nil {
			in.drop(&out, "frames of it were lost")
		}
	}
	out.good = true
	switch f.GetBody().(type) {
	case *quarryv1.AgentFrame_Beat, *quarryv1.AgentFrame_Hello, *quarryv1.AgentFrame_Outcome:
		// Who is on duty in a region need not be the one that reports.
	default:
		if in.standby {
			return out
		}
	}
	switch b := f.GetBody().(type) {
	case *quarryv1.AgentFrame_Beat:
		in.beat(&out, b.Beat)
		out.beat, out.read = out.good, b.Beat.GetTaken()
	case *quarryv1.AgentFrame_Delta:
		in.delta(&out, b.Delta)
	case *quarryv1.AgentFrame_SnapshotBegin:
		in.begin(&out, b.SnapshotBegin)
	case *quarryv1.AgentFrame_SnapshotBatch:
		in.batch(&out, b.SnapshotBatch.GetRecords(), false)
	case *quarryv1.AgentFrame_SnapshotEnd:
		in.end(&out, false)
	case *quarryv1.AgentFrame_Digests:
		in.digests(&out, b.Digests)
	case *quarryv1.AgentFrame_RepairBegin:
		in.beginRepair(&out, b.RepairBegin)
	case *quarryv1.AgentFrame_RepairBatch:
		in.batch(&out, b.RepairBatch.GetRecords(), true)
	case *quarryv1.AgentFrame_RepairEnd:
		in.end(&out, true)
	case *quarryv1.AgentFrame_Outcome:
		in.outcome(&out, b.Outcome)
	case *quarryv1.AgentFrame_Hello:
		in.complain(&out, "frame", "a second hello in one session")
		out.good = false
	default:
		// A frame of a newer version: nothing that this hub asked for.
		in.complain(&out, "frame", "frame of a kind that this hub does not know")
	}
	if out.want != "" {
		// One that waits for its turn has not begun out of turn either.
		if in.asked || in.waiting {
			out.want = ""
		}
		in.asked = true
	}
	return out
}

// noise is the outcome of bytes that are no frame of this session.
func (in *intake) noise(why string) outcome {
	out := outcome{charged: true}
	in.complain(&out, "frame", why)
	out.quarantined = append(out.quarantined, &quarryv1.Quarantined{Why: why})
	return out
}

func (in *intake) complain(out *outcome, kind, why string) {
	out.events = append(out.events, state.Quarantined{Session: in.id, Kind: kind, Why: why})
}

func (in *intake) delta(out *outcome, d *quarryv1.Delta) {
	from, upto := revision(d.GetFrom()), revision(d.GetUpto())
	switch {
	case in.staged != nil:
		in.drop(out, "a delta came in the middle of it")
		return
	case upto.Start != in.start || (from.Counter > 0 && from.Start != in.start) || upto.Counter < from.Counter:
		in.complain(out, "delta", fmt.Sprintf("from %s up to %s is no delta of start %d", from, upto, in.start))
		out.good = false
		return
	case !in.based:
		out.want = "deltas came before there was anything to add them to"
		return
	case from.Counter > in.upto:
		in.again(out)
		return
	}
	moves, err := wire.DecodeMoves(d.GetMoves(), from.Counter, upto.Counter)
	if err != nil {
		// The agent tells whole what it tells again.
		in.complain(out, "delta", err.Error())
		out.quarantined = append(out.quarantined, &quarryv1.Quarantined{Why: clip(err.Error())})
		in.again(out)
		return
	}
	var bad []state.Event
	facts := make([]catalog.Fact, 0, len(d.GetRecords()))
	for _, r := range d.GetRecords() {
		if r.GetRevision() > upto.Counter {
			bad = append(bad, in.refused(out, r, fmt.Errorf("revision %d is beyond its delta's %d", r.GetRevision(), upto.Counter)))
			continue
		}
		f, err := in.decode(r)
		if err != nil {
			bad = append(bad, in.refused(out, r, err))
			continue
		}
		facts = append(facts, f)
	}
	before := in.upto
	in.upto, in.gap = max(in.upto, upto.Counter), false
	// Bad records before the delta: what the delta lets the hub acknowledge
	// includes them. Moves last, for the same reason.
	out.events = append(out.events, bad...)
	if len(moves) == 0 {
		out.events = append(out.events, state.Delta{Session: in.id, Facts: facts, Upto: upto})
		return
	}
	if len(facts) > 0 {
		out.events = append(out.events, state.Delta{Session: in.id, Facts: facts, Upto: catalog.Revision{Start: in.start, Counter: before}})
	}
	out.events = append(out.events, state.Moves{Session: in.id, Moves: moves, Upto: upto})
}

// decode reads one record.
func (in *intake) decode(r *quarryv1.Record) (catalog.Fact, error) {
	f, err := wire.Decode(in.start, r)
	in.records++
	// Ordinals are dense: one far beyond what was ever sent is no name that
	// anybody should remember. What moves under it the digest finds.
	if n := r.GetOrdinal(); f.Kind == catalog.FactPlacement && uint64(n) <= in.records+lostRecords {
		f.Ordinal = n
	}
	return f, err
}

// lostRecords is by how much ordinals may be ahead of the records that came:
// frames may be lost.
const lostRecords = 1 << 16

// again asks the agent to tell everything after upto again, once.
func (in *intake) again(out *outcome) {
	out.resume = !in.gap
	in.gap = true
}

// refused is the event for one bad record.
func (in *intake) refused(out *outcome, r *quarryv1.Record, err error) state.Quarantined {
	q := state.Quarantined{
		Session: in.id, Kind: wire.KindName(r.GetKind()), Key: clip(string(r.GetKey())), Why: clip(err.Error()),
		Fact: r.GetKind(), Revision: catalog.Revision{Start: in.start, Counter: r.GetRevision()}, Sum: wire.Sum(r),
	}
	out.quarantined = append(out.quarantined, &quarryv1.Quarantined{
		Kind: r.GetKind(), Key: []byte(q.Key), Revision: r.GetRevision(), Why: q.Why,
	})
	return q
}

func revision(r *quarryv1.Revision) catalog.Revision {
	return catalog.Revision{Start: r.GetStart(), Counter: r.GetCounter()}
}

func number(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) && f >= 0 }
