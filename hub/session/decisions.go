package session

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// Bounds of what waits to be said about decisions. What does not fit is dropped:
// whoever decides says it again in the next session.
const (
	maxDecisions = 1024
	maxSettled   = 4096
	// decisionBytes is what one emptying of the mailbox says of decisions.
	decisionBytes = maxMailbox / 2
)

// decide adds a decision behind those that wait; one that waits is said once.
func (m *mailbox) decide(d catalog.Decision) {
	if len(m.decisions) < maxDecisions && !slices.ContainsFunc(m.decisions, func(w catalog.Decision) bool { return w.ID == d.ID }) {
		m.decisions = append(m.decisions, d)
	}
}

func (m *mailbox) settle(ids []string) {
	for _, id := range ids {
		if len(m.settled) < maxSettled && !slices.Contains(m.settled, id) {
			m.settled = append(m.settled, id)
		}
	}
}

// decided takes decisions and settlements out of the mailbox, as many as one
// emptying may say. The caller holds se.mu.
func (se *session) decided() (frames []*quarryv1.HubFrame) {
	m := &se.mailbox
	if se.version < wire.Deciding {
		m.decisions, m.settled = nil, nil // the agent would not know what they are
		return nil
	}
	if n := min(len(m.settled), 256); n > 0 {
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_Settled{Settled: &quarryv1.Settled{Decisions: slices.Clone(m.settled[:n])}}})
		m.settled = m.settled[n:]
	}
	size := 0
	for len(m.decisions) > 0 && size < decisionBytes {
		d := m.decisions[0]
		m.decisions = m.decisions[1:]
		f, err := wire.FromDecision(&d)
		if err != nil {
			se.log.Error("a decision cannot travel", "decision", d.ID, "error", err)
			continue
		}
		size += proto.Size(f)
		frames = append(frames, &quarryv1.HubFrame{Body: &quarryv1.HubFrame_Decision{Decision: f}})
	}
	if len(m.decisions)+len(m.settled) > 0 {
		se.wake()
	}
	return frames
}

// outcome takes what an agent saw and did.
func (in *intake) outcome(out *outcome, m *quarryv1.Outcome) {
	o, err := wire.ToOutcome(m)
	if err != nil {
		in.complain(out, "outcome", clip(err.Error()))
		out.quarantined = append(out.quarantined, &quarryv1.Quarantined{Why: clip(err.Error())})
		return
	}
	o.Region = in.region
	out.events = append(out.events, state.Settled{Session: in.id, Outcome: o})
}
