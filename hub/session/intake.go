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
	maxStaged int

	number uint64 // of the newest frame
	// standby: the agent was told that another brings the region's facts. What
	// it sends of them all the same is neither kept nor asked for again.
	standby bool
	// based says that the hub has a basis for deltas: it resumed, or applied a
	// snapshot of this session. upto is the counter up to which it has had all.
	based  bool
	upto   uint64
	staged *staged
	// asked says that a snapshot was wanted and none has begun since: asking
	// again would only make the agent begin again.
	asked bool
}

// staged is a snapshot under way. It becomes an event whole, or nothing.
type staged struct {
	count  uint64
	root   [32]byte
	upto   uint64
	empty  bool
	bytes  int
	digest catalog.Digest
	facts  []catalog.Fact
	bad    []state.Event
}

// outcome is what one frame means.
type outcome struct {
	good        bool // it was an understandable frame of this session
	events      []state.Event
	quarantined []*quarryv1.Quarantined // to tell the agent
	want        string                  // why a snapshot is wanted; empty: it is not
	refuse      string                  // why the session must end; empty: it need not
}

// welcome notes what the hub is about to tell the agent.
func (in *intake) welcome(w state.Welcome) {
	if in.standby = !w.Reporter; in.standby {
		in.staged, in.based, in.asked = nil, false, false
	}
	if w.Reporter && w.Resume.Counter > 0 && w.Resume.Start == in.start {
		in.based = true
		in.upto = max(in.upto, w.Resume.Counter)
	}
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
	lost := f.GetNumber() - in.number - 1
	in.number = f.GetNumber()

	var out outcome
	if lost > 0 {
		// Lost deltas show in the next one's From; a snapshot with a hole can
		// only be dropped.
		out = in.noise(fmt.Sprintf("%d frames before frame %d were lost", lost, in.number))
		if in.staged != nil {
			in.drop(&out, "frames of the snapshot were lost")
		}
	}
	out.good = true
	switch f.GetBody().(type) {
	case *quarryv1.AgentFrame_Delta, *quarryv1.AgentFrame_SnapshotBegin, *quarryv1.AgentFrame_SnapshotBatch, *quarryv1.AgentFrame_SnapshotEnd:
		if in.standby {
			return out
		}
	}
	switch b := f.GetBody().(type) {
	case *quarryv1.AgentFrame_Beat:
		in.beat(&out, b.Beat)
	case *quarryv1.AgentFrame_Delta:
		in.delta(&out, b.Delta)
	case *quarryv1.AgentFrame_SnapshotBegin:
		in.begin(&out, b.SnapshotBegin)
	case *quarryv1.AgentFrame_SnapshotBatch:
		in.batch(&out, b.SnapshotBatch)
	case *quarryv1.AgentFrame_SnapshotEnd:
		in.end(&out)
	case *quarryv1.AgentFrame_Hello:
		in.complain(&out, "frame", "a second hello in one session")
		out.good = false
	default:
		// A frame of a newer version: nothing that this hub asked for.
		in.complain(&out, "frame", "frame of a kind that this hub does not know")
	}
	if out.want != "" {
		if in.asked {
			out.want = ""
		}
		in.asked = true
	}
	return out
}

// noise is the outcome of bytes that are no frame of this session.
func (in *intake) noise(why string) outcome {
	var out outcome
	in.complain(&out, "frame", why)
	out.quarantined = append(out.quarantined, &quarryv1.Quarantined{Why: why})
	return out
}

func (in *intake) complain(out *outcome, kind, why string) {
	out.events = append(out.events, state.Quarantined{Session: in.id, Kind: kind, Why: why})
}

func (in *intake) beat(out *outcome, b *quarryv1.Beat) {
	e, err := in.readBeat(b)
	if err != nil {
		in.complain(out, "beat", err.Error())
		out.good = false
		return
	}
	out.events = append(out.events, e)
	if in.based && e.At.Counter > in.upto && in.staged == nil {
		out.want = fmt.Sprintf("the agent has sent up to %d, this hub has had %d", e.At.Counter, in.upto)
	}
}

func (in *intake) readBeat(b *quarryv1.Beat) (state.Beat, error) {
	e := state.Beat{
		Session: in.id, BucketID: clip(b.GetBucketId()), BucketWhy: clip(b.GetBucketWhy()),
		ReadOK: b.GetReadOk(), Reason: clip(b.GetReason()), CannotKeep: clip(b.GetCannotKeep()),
		At: revision(b.GetAt()), Budget: b.GetBudget(),
	}
	clock, err := wire.Time(b.GetAgentClock())
	if err != nil {
		return e, fmt.Errorf("agent clock: %w", err)
	}
	if clock != nil {
		e.AgentClock = *clock
	}
	if e.At.Counter > 0 && e.At.Start != in.start {
		return e, fmt.Errorf("it is of start %d, the session's is %d", e.At.Start, in.start)
	}
	switch n := len(b.GetDigest()); {
	case b.Digest == nil:
	case n == len(e.Digest):
		e.Digest = [32]byte(b.GetDigest())
	default:
		return e, fmt.Errorf("digest of %d bytes, a digest has %d", n, len(e.Digest))
	}
	if len(b.GetSpend()) > 32 || !number(e.Budget) {
		return e, fmt.Errorf("spend of %d classes and budget of %g cannot be shown", len(b.GetSpend()), e.Budget)
	}
	if len(b.GetSpend()) > 0 {
		e.Spend = make(map[string]float64, len(b.GetSpend()))
	}
	for class, perHour := range b.GetSpend() {
		if len(class) > 64 || !number(perHour) {
			return e, fmt.Errorf("spend of class %.64q cannot be shown", class)
		}
		e.Spend[class] = perHour
	}
	return e, nil
}

func (in *intake) delta(out *outcome, d *quarryv1.Delta) {
	from, upto := revision(d.GetFrom()), revision(d.GetUpto())
	switch {
	case in.staged != nil:
		in.drop(out, "a delta came in the middle of the snapshot")
		return
	case upto.Start != in.start || (from.Counter > 0 && from.Start != in.start) || upto.Counter < from.Counter:
		in.complain(out, "delta", fmt.Sprintf("from %s up to %s is no delta of start %d", from, upto, in.start))
		out.good = false
		return
	case !in.based:
		out.want = "deltas came before there was anything to add them to"
		return
	case from.Counter > in.upto:
		out.want = fmt.Sprintf("deltas after %d came, this hub has had %d", from.Counter, in.upto)
		return
	}
	var facts []catalog.Fact
	var bad []state.Event
	for _, r := range d.GetRecords() {
		if r.GetRevision() > upto.Counter {
			bad = append(bad, in.refused(out, r, fmt.Errorf("revision %d is beyond its delta's %d", r.GetRevision(), upto.Counter)))
			continue
		}
		f, err := wire.Decode(in.start, r)
		if err != nil {
			bad = append(bad, in.refused(out, r, err))
			continue
		}
		facts = append(facts, f)
	}
	in.upto = max(in.upto, upto.Counter)
	// Bad records before the delta: what the delta lets the hub acknowledge
	// includes them.
	out.events = append(out.events, bad...)
	out.events = append(out.events, state.Delta{Session: in.id, Facts: facts, Upto: upto})
}

// refused is the event for one bad record.
func (in *intake) refused(out *outcome, r *quarryv1.Record, err error) state.Event {
	q := state.Quarantined{
		Session: in.id, Kind: wire.KindName(r.GetKind()), Key: clip(string(r.GetKey())), Why: clip(err.Error()),
		Fact: r.GetKind(), Revision: catalog.Revision{Start: in.start, Counter: r.GetRevision()}, Sum: wire.Sum(r),
	}
	out.quarantined = append(out.quarantined, &quarryv1.Quarantined{
		Kind: r.GetKind(), Key: []byte(q.Key), Revision: r.GetRevision(), Why: q.Why,
	})
	return q
}

func (in *intake) begin(out *outcome, b *quarryv1.SnapshotBegin) {
	in.staged, in.asked = nil, false // a new beginning ends an old one
	upto := revision(b.GetUpto())
	switch {
	case upto.Counter > 0 && upto.Start != in.start:
		out.want = fmt.Sprintf("the snapshot is of start %d, the session's is %d", upto.Start, in.start)
	case len(b.GetDigest()) != 32:
		out.want = fmt.Sprintf("the snapshot's digest has %d bytes, a digest has 32", len(b.GetDigest()))
	case b.GetCount() == 0 && !b.GetEmpty():
		out.want = "the snapshot has no records and does not say that it is meant to have none"
	case b.GetCount() > 0 && b.GetEmpty():
		out.want = fmt.Sprintf("the snapshot says that it is empty and has %d records", b.GetCount())
	default:
		in.staged = &staged{count: b.GetCount(), root: [32]byte(b.GetDigest()), upto: upto.Counter, empty: b.GetEmpty()}
		return
	}
	in.complain(out, "snapshot", out.want)
}

func (in *intake) batch(out *outcome, b *quarryv1.SnapshotBatch) {
	st := in.staged
	if st == nil {
		return // the rest of one that was dropped
	}
	for _, r := range b.GetRecords() {
		st.bytes += wire.RecordSize(r)
		if st.bytes > in.maxStaged {
			in.drop(out, "")
			out.refuse = fmt.Sprintf("the region's snapshot has more than %d bytes; raise the hub's limit on snapshots or let the agent discover less", in.maxStaged)
			return
		}
		if r.GetRevision() > st.upto {
			in.drop(out, fmt.Sprintf("the snapshot up to %d has a record of revision %d", st.upto, r.GetRevision()))
			return
		}
		f, err := wire.Decode(in.start, r)
		switch {
		case f.Gone != "":
			in.drop(out, "the snapshot has a withdrawn record")
			return
		case err != nil:
			st.bad = append(st.bad, in.refused(out, r, err))
		default:
			st.facts = append(st.facts, f)
		}
		st.digest.Add(wire.Sum(r))
	}
	if st.digest.Count() > st.count {
		in.drop(out, fmt.Sprintf("the snapshot has more than the %d records it announced", st.count))
	}
}

func (in *intake) end(out *outcome) {
	st := in.staged
	if st == nil {
		return
	}
	switch {
	case st.digest.Count() != st.count:
		in.drop(out, fmt.Sprintf("the snapshot has %d of the %d records it announced", st.digest.Count(), st.count))
		return
	case st.digest.Root() != st.root:
		in.drop(out, fmt.Sprintf("the digest over the snapshot's %d records is not the one it announced", st.count))
		return
	}
	in.staged = nil
	in.based = true
	in.upto = max(in.upto, st.upto)
	// The snapshot first: it replaces whatever was quarantined before it.
	out.events = append(out.events, state.Snapshot{
		Session: in.id, Facts: st.facts, Upto: catalog.Revision{Start: in.start, Counter: st.upto}, Empty: st.empty,
	})
	out.events = append(out.events, st.bad...)
}

// drop forgets the staged snapshot and asks for another.
func (in *intake) drop(out *outcome, why string) {
	in.staged = nil
	if why != "" {
		in.complain(out, "snapshot", why)
		out.want = why
	}
}

// checkHello reads the first frame of a stream. Its errors are for the agent's
// operator.
func checkHello(f *quarryv1.AgentFrame) (state.Hello, error) {
	m := f.GetHello()
	if m == nil {
		return state.Hello{}, fmt.Errorf("the first frame is not a hello")
	}
	h := state.Hello{
		Region: m.GetRegion(), Cluster: m.GetCluster(), Agent: clip(m.GetAgent()), Version: clip(m.GetAgentVersion()),
		Generation: m.GetGeneration(), Start: m.GetStart(),
		Bucket: clip(m.GetBucket()), BucketID: clip(m.GetBucketId()), BucketWhy: clip(m.GetBucketWhy()),
		Last: revision(m.GetLast()),
	}
	if m.GetMinVersion() > wire.MaxVersion || m.GetMaxVersion() < wire.MinVersion {
		return h, fmt.Errorf("the agent speaks protocol versions %d to %d, this hub %d to %d; upgrade the older of the two",
			m.GetMinVersion(), m.GetMaxVersion(), wire.MinVersion, wire.MaxVersion)
	}
	for _, n := range []struct{ what, name string }{{"region", h.Region}, {"cluster", h.Cluster}} {
		if err := checkName(n.name); err != nil {
			return h, fmt.Errorf("%s: %w", n.what, err)
		}
	}
	if f.GetNumber() != 1 || h.Start == 0 || h.Generation == 0 {
		return h, fmt.Errorf("the hello has frame number %d, start %d and generation %d; want 1 and two that are not 0", f.GetNumber(), h.Start, h.Generation)
	}
	at, err := wire.Time(m.GetStartedAt())
	if err != nil {
		return h, fmt.Errorf("started at: %w", err)
	}
	if at != nil {
		h.StartedAt = *at
	}
	return h, nil
}

func revision(r *quarryv1.Revision) catalog.Revision {
	return catalog.Revision{Start: r.GetStart(), Counter: r.GetCounter()}
}

func number(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) && f >= 0 }
