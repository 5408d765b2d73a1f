package wire

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// marshal is deterministic, so that an unchanged value gives the same bytes.
var marshal = proto.MarshalOptions{Deterministic: true}

var errNoValue = fmt.Errorf("it has no value of its kind: %w", catalog.ErrInvalid)

// encodeValue gives the bytes of f's value after the checks that Decode makes.
func encodeValue(f catalog.Fact) ([]byte, error) {
	var m proto.Message
	switch f.Kind {
	case catalog.FactPlacement:
		if f.Sighting == nil {
			return nil, errNoValue
		}
		return encodeSighting(f)
	case catalog.FactRestorePoint:
		if f.RestorePoint == nil {
			return nil, errNoValue
		}
		m = fromRestorePoint(f.RestorePoint)
	case catalog.FactRegistration:
		if f.Registration == nil {
			return nil, errNoValue
		}
		m = fromRegistration(f.Registration)
	case catalog.FactLease:
		if f.Lease == nil {
			return nil, errNoValue
		}
		m = fromLease(f.Lease)
	case catalog.FactFinding:
		if f.Finding == nil {
			return nil, errNoValue
		}
		m = fromFinding(f.Finding)
	case catalog.FactHold:
		if f.Pin == nil {
			return nil, errNoValue
		}
		m = fromPin(f.Pin)
	case catalog.FactPermit:
		if f.Permit == nil {
			return nil, errNoValue
		}
		m = fromPermit(f.Permit)
	default:
		return nil, fmt.Errorf("kind %d cannot travel: %w", f.Kind, catalog.ErrInvalid)
	}
	return marshalChecked(f, m)
}

// marshalChecked reads back what it wrote: the bytes an agent sends are bytes
// a hub of its own version accepts.
func marshalChecked(f catalog.Fact, m proto.Message) ([]byte, error) {
	b, err := marshal.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, catalog.ErrInvalid)
	}
	back := catalog.Fact{Kind: f.Kind, Key: f.Key}
	if err := decodeValue(&back, b); err != nil {
		return nil, err
	}
	return b, nil
}

// encodeSighting gives the whole value of a placement.
func encodeSighting(f catalog.Fact) ([]byte, error) {
	if err := CheckSighting(f.Key, f.Sighting); err != nil {
		return nil, err
	}
	b, err := AppendStill(make([]byte, 0, 512), f.Sighting)
	if err != nil {
		return nil, err
	}
	n := NumbersOf(f.Sighting)
	return n.Append(b), nil
}

// decodeValue reads value into f by f.Kind and checks it, also against f.Key.
func decodeValue(f *catalog.Fact, value []byte) error {
	read := func(m proto.Message) error {
		if err := proto.Unmarshal(value, m); err != nil {
			return fmt.Errorf("value of %d bytes does not decode: %w: %w", len(value), err, catalog.ErrInvalid)
		}
		return nil
	}
	var c checker
	switch f.Kind {
	case catalog.FactPlacement:
		if f.Sighting = quickSighting(value, f.Key); f.Sighting == nil {
			m := new(quarryv1.Sighting)
			if err := read(m); err != nil {
				return err
			}
			f.Sighting = c.sighting(m)
		}
		c.sane(f.Sighting, false)
	case catalog.FactRestorePoint:
		m := new(quarryv1.RestorePoint)
		if err := read(m); err != nil {
			return err
		}
		f.RestorePoint = c.restorePoint(m)
	case catalog.FactRegistration:
		m := new(quarryv1.Registration)
		if err := read(m); err != nil {
			return err
		}
		f.Registration = c.registration(m)
	case catalog.FactLease:
		m := new(quarryv1.Lease)
		if err := read(m); err != nil {
			return err
		}
		f.Lease = c.lease(m)
	case catalog.FactFinding:
		m := new(quarryv1.Finding)
		if err := read(m); err != nil {
			return err
		}
		f.Finding = c.finding(m)
	case catalog.FactHold:
		m := new(quarryv1.Hold)
		if err := read(m); err != nil {
			return err
		}
		f.Pin = c.pin(m)
	case catalog.FactPermit:
		m := new(quarryv1.Permit)
		if err := read(m); err != nil {
			return err
		}
		f.Permit = c.permit(m)
	default:
		return fmt.Errorf("kind %d cannot travel: %w", f.Kind, catalog.ErrInvalid)
	}
	if want := KeyOf(*f); c.err == nil && want != f.Key {
		c.err = otherKey(f.Key, want)
	}
	return c.err
}

func otherKey(key, want string) error {
	return fmt.Errorf("its key is %q, its value's is %q: %w", key, want, catalog.ErrInvalid)
}

func fromRestorePoint(p *catalog.RestorePoint) *quarryv1.RestorePoint {
	return &quarryv1.RestorePoint{
		Slate: p.Slate, Root: p.Root, Incarnation: p.Incarnation, Id: p.ID, Name: p.Name,
		Source: string(p.Source), Position: p.Position, PositionDomain: p.PositionDomain,
		Lineage: p.Lineage, CreatedAt: stampOf(p.CreatedAt), State: string(p.State),
		Reason: tidy(p.Reason), VerifiedAt: stampOf(p.VerifiedAt), Bytes: p.Bytes,
	}
}

func (c *checker) restorePoint(m *quarryv1.RestorePoint) *catalog.RestorePoint {
	p := &catalog.RestorePoint{
		Slate: c.slate(m.Slate), Root: c.root(m.Root),
		Incarnation: c.id("incarnation", m.Incarnation), ID: c.id("id", m.Id), Name: c.text("name", m.Name),
		Source: catalog.RestoreSource(m.Source), Position: m.Position,
		PositionDomain: c.id("position_domain", m.PositionDomain), Lineage: c.id("lineage", m.Lineage),
		CreatedAt: c.timePtr("created_at", m.CreatedAt), State: catalog.RestoreState(m.State),
		Reason: c.text("reason", m.Reason), VerifiedAt: c.timePtr("verified_at", m.VerifiedAt), Bytes: m.Bytes,
	}
	c.must(p.ID != "", "id is empty")
	c.oneOf("source", m.Source, string(catalog.SourceCheckpoint), string(catalog.SourceSnapshot))
	c.oneOf("state", m.State, string(catalog.RestoreListed), string(catalog.RestoreVerified),
		string(catalog.RestoreIncomplete), string(catalog.RestoreUnreadable))
	return p
}

func fromRegistration(r *catalog.Registration) *quarryv1.Registration {
	return &quarryv1.Registration{
		Version: int64(r.Version), Action: string(r.Action), Slate: r.Slate, Root: r.Root,
		Kind: string(r.Kind), Owner: r.Owner, Contact: r.Contact, Labels: r.Labels,
		Domain: r.Domain, At: Stamp(r.At), Id: r.ID,
	}
}

func (c *checker) registration(m *quarryv1.Registration) *catalog.Registration {
	r := &catalog.Registration{
		Version: int(m.Version), Action: catalog.Action(m.Action), Slate: m.Slate, Root: m.Root,
		Kind: catalog.Kind(m.Kind), Owner: m.Owner, Contact: m.Contact, Labels: m.Labels,
		Domain: m.Domain, At: c.time("at", m.At), ID: c.id("id", m.Id),
	}
	c.must(r.ID != "", "id is empty")
	if c.err == nil {
		c.err = r.Validate()
	}
	return r
}

func fromLease(l *catalog.Lease) *quarryv1.Lease {
	return &quarryv1.Lease{
		Version: int64(l.Version), Slate: l.Slate, Role: l.Role, Id: l.ID, Holder: l.Holder,
		TtlSeconds: l.TTL, Renewed: Stamp(l.Renewed), Touched: Stamp(l.Touched),
	}
}

func (c *checker) lease(m *quarryv1.Lease) *catalog.Lease {
	l := &catalog.Lease{
		Version: int(m.Version), Slate: c.slate(m.Slate), Role: m.Role, ID: c.id("id", m.Id),
		Holder: c.id("holder", m.Holder), TTL: m.TtlSeconds,
		Renewed: c.time("renewed", m.Renewed), Touched: c.time("touched", m.Touched),
	}
	c.must(l.ID != "", "id is empty")
	c.oneOf("role", l.Role, "owner", "writer", "reader")
	c.must(finite(l.TTL), "ttl_seconds is no number that can be shown")
	return l
}

func fromFinding(f *catalog.Finding) *quarryv1.Finding {
	return &quarryv1.Finding{
		Code: f.Code, Slate: f.Slate, Root: f.Root, Object: f.Object,
		What: tidy(f.What), Who: tidy(f.Who), Cure: tidy(f.Cure),
	}
}

func (c *checker) finding(m *quarryv1.Finding) *catalog.Finding {
	f := &catalog.Finding{
		Code: c.id("code", m.Code), Root: c.root(m.Root), Object: c.text("object", m.Object),
		What: c.text("what", m.What), Who: c.text("who", m.Who), Cure: c.text("cure", m.Cure),
	}
	if m.Slate != "" { // some findings are about the region
		f.Slate = c.slate(m.Slate)
	}
	c.must(f.Code != "", "code is empty")
	return f
}

// oneOf refuses words of a newer version: what this hub cannot classify it
// must not show as if it could.
func (c *checker) oneOf(field, v string, words ...string) {
	if c.err == nil && !slices.Contains(words, v) {
		c.err = fmt.Errorf("%s %.100q: one of %q: %w", field, v, words, catalog.ErrInvalid)
	}
}

func (c *checker) must(ok bool, otherwise string) {
	if c.err == nil && !ok {
		c.err = fmt.Errorf("%w: %w", errors.New(otherwise), catalog.ErrInvalid)
	}
}
