package wire

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// FromDecision makes the frame's part that carries d, after the checks that
// [ToDecision] makes. An error wraps [catalog.ErrInvalid].
func FromDecision(d *catalog.Decision) (*quarryv1.Decision, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	p := &d.Parameters
	m := &quarryv1.Decision{
		Id: d.ID, Verb: string(d.Verb), Slate: d.Slate, Root: d.Root, Incarnation: d.Incarnation, Region: d.Region,
		Term: d.Term, Ledger: d.Ledger, Sequence: d.Sequence,
		Position: d.Position, PositionDomain: d.PositionDomain, Lineage: d.Lineage,
		Parameters: &quarryv1.Parameters{
			Restorable: p.Restorable, Purpose: p.Purpose, Replaces: p.Replaces, Checkpoint: p.Checkpoint,
			ValidForMs: millis(p.ValidFor), Remove: p.Remove, GraceMs: millis(p.Grace),
			SweepOrphans: p.SweepOrphans, OrphansOlderMs: millis(p.OrphansOlder), Reason: p.Reason,
		},
		Evidence: d.Evidence[:], ExpiresMs: millis(d.Expires),
	}
	for _, c := range d.Preconditions {
		m.Preconditions = append(m.Preconditions, &quarryv1.Precondition{What: c.What, Value: c.Value})
	}
	if n := proto.Size(m); n > MaxRecord {
		return nil, fmt.Errorf("decision %s: %d bytes, at most %d travel: %w", d.ID, n, MaxRecord, catalog.ErrInvalid)
	}
	return m, nil
}

// ToDecision reads a decision off the wire. It refuses one with fields that
// this version does not know: what is not understood could be what restricts
// it. An error wraps [catalog.ErrInvalid]; the decision then has whatever could
// be read, for the refusal to name it.
func ToDecision(m *quarryv1.Decision) (catalog.Decision, error) {
	p := m.GetParameters()
	var c checker
	d := catalog.Decision{
		ID: m.GetId(), Verb: catalog.Verb(m.GetVerb()), Region: m.GetRegion(),
		Slate: m.GetSlate(), Root: m.GetRoot(), Incarnation: m.GetIncarnation(),
		Ledger: m.GetLedger(), Term: m.GetTerm(), Sequence: m.GetSequence(),
		PositionDomain: m.GetPositionDomain(), Lineage: m.GetLineage(),
		Parameters: catalog.Parameters{
			Restorable: p.GetRestorable(), Purpose: p.GetPurpose(), Replaces: p.GetReplaces(), Checkpoint: p.GetCheckpoint(),
			ValidFor: c.millis("valid_for_ms", p.GetValidForMs()), Remove: p.GetRemove(), Grace: c.millis("grace_ms", p.GetGraceMs()),
			SweepOrphans: p.GetSweepOrphans(), OrphansOlder: c.millis("orphans_older_ms", p.GetOrphansOlderMs()), Reason: p.GetReason(),
		},
		Expires: c.millis("expires_ms", m.GetExpiresMs()),
	}
	if m != nil && m.Position != nil {
		v := *m.Position
		d.Position = &v
	}
	strange := len(m.ProtoReflect().GetUnknown()) > 0 || len(p.ProtoReflect().GetUnknown()) > 0
	for _, pre := range m.GetPreconditions() {
		d.Preconditions = append(d.Preconditions, catalog.Precondition{What: pre.GetWhat(), Value: pre.GetValue()})
		strange = strange || len(pre.ProtoReflect().GetUnknown()) > 0
	}
	c.must(len(m.GetEvidence()) == len(d.Evidence), "the evidence is no SHA-256")
	if len(m.GetEvidence()) == len(d.Evidence) {
		d.Evidence = [32]byte(m.GetEvidence())
	}
	c.must(!strange, "it has fields that this version does not know")
	if c.err != nil {
		return d, fmt.Errorf("decision %.64q: %w", d.ID, c.err)
	}
	return d, d.Validate()
}

// maxOutcome leaves room for the frame around it.
const maxOutcome = MaxRecord

// FromOutcome makes the frame's part that carries o. What is too long for a
// frame loses steps and names of what was removed, never its state nor its
// reasons. An error wraps [catalog.ErrInvalid].
func FromOutcome(o *catalog.Outcome) (*quarryv1.Outcome, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &o.Saw
	m := &quarryv1.Outcome{
		Decision: o.Decision, Verb: string(o.Verb), Slate: o.Slate, Sequence: o.Sequence, State: string(o.State),
		Saw: &quarryv1.Saw{
			Position: s.Position, Limit: s.Limit, Permit: s.Permit, Checkpoint: tidy(s.Checkpoint), Manifest: s.Manifest,
			Verified: s.Verified, Lowest: s.Lowest, Objects: s.Objects, Bytes: s.Bytes, TrimmedTo: s.TrimmedTo,
		},
	}
	for _, name := range s.Removed {
		m.Saw.Removed = append(m.Saw.Removed, tidy(name))
	}
	for _, r := range o.Reasons {
		m.Reasons = append(m.Reasons, &quarryv1.Reason{Code: r.Code, Message: clip(r.Message, 4<<10)})
	}
	for _, st := range o.Steps {
		m.Steps = append(m.Steps, &quarryv1.Step{Name: tidy(st.Name), TookUs: uint64(st.Took.Microseconds()), Error: clip(st.Error, 1<<10), Depth: st.Depth})
	}
	for proto.Size(m) > maxOutcome && len(m.Steps)+len(m.Saw.Removed) > 0 {
		m.Steps, m.Saw.Removed = m.Steps[:len(m.Steps)/2], m.Saw.Removed[:len(m.Saw.Removed)/2]
	}
	if n := proto.Size(m); n > maxOutcome {
		return nil, fmt.Errorf("outcome of %s: %d bytes, at most %d travel: %w", o.Decision, n, maxOutcome, catalog.ErrInvalid)
	}
	return m, nil
}

// ToOutcome reads and checks an outcome off the wire. An error wraps
// [catalog.ErrInvalid].
func ToOutcome(m *quarryv1.Outcome) (catalog.Outcome, error) {
	s := m.GetSaw()
	var c checker
	o := catalog.Outcome{
		Decision: m.GetDecision(), Verb: catalog.Verb(m.GetVerb()), Slate: m.GetSlate(), Sequence: m.GetSequence(),
		State: catalog.OutcomeState(m.GetState()), Reasons: []catalog.Reason{}, Steps: []catalog.Step{},
		Saw: catalog.Saw{
			Checkpoint: c.id("checkpoint", s.GetCheckpoint()), Removed: s.GetRemoved(), Objects: s.GetObjects(), Bytes: s.GetBytes(),
		},
	}
	if s != nil {
		o.Saw.Position, o.Saw.Limit, o.Saw.Permit, o.Saw.Manifest = s.Position, s.Limit, s.Permit, s.Manifest
		o.Saw.Verified, o.Saw.Lowest, o.Saw.TrimmedTo = s.Verified, s.Lowest, s.TrimmedTo
	}
	for _, r := range m.GetReasons() {
		o.Reasons = append(o.Reasons, catalog.Reason{Code: r.GetCode(), Message: r.GetMessage()})
	}
	for _, st := range m.GetSteps() {
		o.Steps = append(o.Steps, catalog.Step{Name: st.GetName(), Took: c.span("took_us", st.GetTookUs(), time.Microsecond), Error: st.GetError(), Depth: st.GetDepth()})
	}
	c.must(o.Verb.Valid(), "a verb that this version does not know")
	if c.err != nil {
		return o, fmt.Errorf("outcome of %.64q: %w", o.Decision, c.err)
	}
	return o, o.Validate()
}

func millis(d time.Duration) uint64 { return uint64(max(d, 0).Milliseconds()) }

// longest is beyond every duration that a value may have.
const longest = 100 * 365 * 24 * time.Hour

func (c *checker) millis(field string, v uint64) time.Duration {
	return c.span(field, v, time.Millisecond)
}

func (c *checker) span(field string, v uint64, unit time.Duration) time.Duration {
	if v > uint64(longest/unit) {
		c.must(false, field+" is longer than a century")
		return 0
	}
	return time.Duration(v) * unit
}

func fromPin(h *catalog.Pin) *quarryv1.Hold {
	return &quarryv1.Hold{
		Slate: h.Slate, Root: h.Root, Incarnation: h.Incarnation, Id: h.ID, Name: tidy(h.Name), ManifestId: h.ManifestID,
		Position: h.Position, PositionDomain: h.PositionDomain, Lineage: h.Lineage, CreatedAt: stampOf(h.CreatedAt), HeldBytes: h.HeldBytes,
	}
}

func (c *checker) pin(m *quarryv1.Hold) *catalog.Pin {
	h := &catalog.Pin{
		Slate: c.slate(m.Slate), Root: c.root(m.Root), Incarnation: c.id("incarnation", m.Incarnation),
		ID: c.id("id", m.Id), Name: c.text("name", m.Name), ManifestID: m.ManifestId,
		Position: m.Position, PositionDomain: c.id("position_domain", m.PositionDomain), Lineage: c.id("lineage", m.Lineage),
		CreatedAt: c.timePtr("created_at", m.CreatedAt), HeldBytes: m.HeldBytes,
	}
	c.must(h.ID != "", "id is empty")
	return h
}

func fromPermit(p *catalog.Permit) *quarryv1.Permit {
	return &quarryv1.Permit{
		Version: int64(p.Version), Number: p.Number, Slate: p.Slate, Root: p.Root, Incarnation: p.Incarnation,
		UpTo: p.UpTo, PositionDomain: p.PositionDomain, Lineage: p.Lineage,
		Decision: p.Decision, Ledger: p.Ledger, Term: p.Term, Sequence: p.Sequence, Evidence: p.Evidence,
		Issued: Stamp(p.Issued), NotAfter: Stamp(p.NotAfter),
	}
}

func (c *checker) permit(m *quarryv1.Permit) *catalog.Permit {
	p := &catalog.Permit{
		Version: int(m.Version), Number: m.Number, Slate: m.Slate, Root: m.Root, Incarnation: m.Incarnation,
		UpTo: m.UpTo, PositionDomain: m.PositionDomain, Lineage: m.Lineage,
		Decision: m.Decision, Ledger: m.Ledger, Term: m.Term, Sequence: m.Sequence, Evidence: m.Evidence,
		Issued: c.time("issued", m.Issued), NotAfter: c.time("not_after", m.NotAfter),
	}
	if c.err == nil {
		c.err = p.Validate()
	}
	return p
}
