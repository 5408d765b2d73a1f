package session

import (
	"fmt"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// offer is what a hello says about the stream itself.
type offer struct {
	version uint32 // that both speak
	window  uint64 // bytes that may be under way to the agent; 0: any number
}

// checkHello reads the first frame of a stream. Its errors are for the agent's
// operator.
func checkHello(f *quarryv1.AgentFrame) (state.Hello, offer, error) {
	m := f.GetHello()
	if m == nil {
		return state.Hello{}, offer{}, fmt.Errorf("the first frame is not a hello")
	}
	h := state.Hello{
		Region: m.GetRegion(), Cluster: m.GetCluster(), Agent: clip(m.GetAgent()), Version: clip(m.GetAgentVersion()),
		Generation: m.GetGeneration(), Start: m.GetStart(),
		Bucket: clip(m.GetBucket()), BucketID: clip(m.GetBucketId()), BucketWhy: clip(m.GetBucketWhy()),
		Last:  revision(m.GetLast()),
		Obeys: state.Obeys{Known: m.Term != nil, Term: m.GetTerm(), Ledger: clip(m.GetLedger())}, Decides: m.GetMaxVersion() >= wire.Deciding,
	}
	if m.GetMinVersion() > wire.MaxVersion || m.GetMaxVersion() < wire.MinVersion {
		return h, offer{}, fmt.Errorf("the agent speaks protocol versions %d to %d, this hub %d to %d; upgrade the older of the two",
			m.GetMinVersion(), m.GetMaxVersion(), wire.MinVersion, wire.MaxVersion)
	}
	for _, n := range []struct{ what, name string }{{"region", h.Region}, {"cluster", h.Cluster}} {
		if err := checkName(n.name); err != nil {
			return h, offer{}, fmt.Errorf("%s: %w", n.what, err)
		}
	}
	if f.GetNumber() != 1 || h.Start == 0 || h.Generation == 0 {
		return h, offer{}, fmt.Errorf("the hello has frame number %d, start %d and generation %d; want 1 and two that are not 0", f.GetNumber(), h.Start, h.Generation)
	}
	at, err := wire.Time(m.GetStartedAt())
	if err != nil {
		return h, offer{}, fmt.Errorf("started at: %w", err)
	}
	if at != nil {
		h.StartedAt = *at
	}
	return h, offer{version: min(m.GetMaxVersion(), wire.MaxVersion), window: m.GetCredit()}, nil
}

func (in *intake) beat(out *outcome, b *quarryv1.Beat) {
	e, err := in.readBeat(b)
	if err != nil {
		in.complain(out, "beat", err.Error())
		out.good = false
		return
	}
	if in.staged != nil {
		e.Staged = in.staged.bytes
	}
	out.events = append(out.events, e)
	if in.based && e.At.Counter > in.upto && in.staged == nil {
		in.gap = false // a beat later it is asked once more
		in.again(out)
	}
}

func (in *intake) readBeat(b *quarryv1.Beat) (state.Beat, error) {
	e := state.Beat{
		Session: in.id, BucketID: clip(b.GetBucketId()), BucketWhy: clip(b.GetBucketWhy()),
		ReadOK: b.GetReadOk(), Reason: clip(b.GetReason()), CannotKeep: clip(b.GetCannotKeep()),
		At: revision(b.GetAt()), Budget: b.GetBudget(),
		Obeys: state.Obeys{Known: b.Term != nil, Term: b.GetTerm(), Ledger: clip(b.GetLedger())},
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
