package wire

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

const someUUID = "6f1f9f7e-53a5-4a3c-9d6b-0c1f6d4f4a11"

func fullDecision() catalog.Decision {
	at := uint64(80)
	return catalog.Decision{
		ID: someUUID, Verb: catalog.VerbPrune, Region: "eu", Slate: "archive/0", Root: "archive/0", Incarnation: "01J",
		Ledger: someUUID, Term: 3, Sequence: 9, Position: &at, PositionDomain: "lsn", Lineage: "restate:1:0",
		Parameters: catalog.Parameters{
			Restorable: 2, Purpose: "trim", Replaces: "r", Checkpoint: "c", ValidFor: time.Hour, Remove: []string{"a", "b"},
			Grace: time.Minute, SweepOrphans: true, OrphansOlder: 2 * time.Hour, Reason: "because",
		},
		Preconditions: []catalog.Precondition{{What: catalog.PrePointer, Value: "ab"}, {What: catalog.PreManifest, Value: "7"}},
		Evidence:      [32]byte{1, 2, 3}, Expires: 90 * time.Second,
	}
}

func fullOutcome() catalog.Outcome {
	n := func(v uint64) *uint64 { return &v }
	return catalog.Outcome{
		Decision: someUUID, Verb: catalog.VerbPrune, Slate: "archive/0", Sequence: 9, State: catalog.OutcomeRefused,
		Reasons: []catalog.Reason{{Code: catalog.CodeBelowMin, Message: "one verified, two are wanted"}},
		Saw: catalog.Saw{
			Position: n(1), Limit: n(2), Permit: n(3), Checkpoint: "c", Manifest: n(4), Verified: n(5), Lowest: n(6),
			Removed: []string{"x", "y"}, Objects: 7, Bytes: 8, TrimmedTo: n(9),
		},
		Steps: []catalog.Step{{Name: "accept", Took: time.Millisecond}, {Name: "check", Took: 2 * time.Second, Error: "no", Depth: 1}},
	}
}

// noZero fails for a field that the example leaves out: it would not be tested.
func noZero(t *testing.T, v reflect.Value, path string, but ...string) {
	t.Helper()
	for i := range v.NumField() {
		name := path + v.Type().Field(i).Name
		switch {
		case v.Field(i).Kind() == reflect.Struct:
			noZero(t, v.Field(i), name+".", but...)
		case v.Field(i).IsZero() && !strings.Contains(strings.Join(but, " "), name):
			t.Errorf("%s is not set in the example", name)
		}
	}
}

// A field of a decision or of an outcome that is forgotten on the wire fails
// here, and so does one that the example does not set.
func TestEveryFieldOfADecisionAndOfItsOutcomeTravels(t *testing.T) {
	d := fullDecision()
	noZero(t, reflect.ValueOf(d), "")
	m, err := FromDecision(&d)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	back := new(quarryv1.Decision)
	if err := proto.Unmarshal(raw, back); err != nil {
		t.Fatal(err)
	}
	got, err := ToDecision(back)
	if err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("%v: got\n%+v\nwant\n%+v", err, got, d)
	}

	o := fullOutcome()
	noZero(t, reflect.ValueOf(o), "", "Region")
	mo, err := FromOutcome(&o)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ToOutcome(mo); err != nil || !reflect.DeepEqual(got, o) {
		t.Errorf("%v: got\n%+v\nwant\n%+v", err, got, o)
	}
}

// A newer hub may restrict a decision by a field that this agent has never
// heard of. Carrying out what is left of it would be more than was decided.
func TestADecisionWithAFieldThatIsNotKnownIsRefused(t *testing.T) {
	d := fullDecision()
	for _, where := range []func(*quarryv1.Decision) proto.Message{
		func(m *quarryv1.Decision) proto.Message { return m },
		func(m *quarryv1.Decision) proto.Message { return m.Parameters },
		func(m *quarryv1.Decision) proto.Message { return m.Preconditions[1] },
	} {
		m, err := FromDecision(&d)
		if err != nil {
			t.Fatal(err)
		}
		where(m).ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 500, protowire.VarintType), 1))
		got, err := ToDecision(m)
		if !errors.Is(err, catalog.ErrInvalid) || got.ID != d.ID {
			t.Errorf("%q taken: %v", got.ID, err)
		}
	}
}

func TestDecisionsThatSayTooLittleOrTooMuchDoNotTravel(t *testing.T) {
	for name, spoil := range map[string]func(*catalog.Decision){
		"no id":                  func(d *catalog.Decision) { d.ID = "" },
		"an id that is a path":   func(d *catalog.Decision) { d.ID = "../../orders" },
		"an id in capitals":      func(d *catalog.Decision) { d.ID = strings.ToUpper(d.ID) },
		"no ledger":              func(d *catalog.Decision) { d.Ledger = "" },
		"term 0":                 func(d *catalog.Decision) { d.Term = 0 },
		"sequence 0":             func(d *catalog.Decision) { d.Sequence = 0 },
		"a root that climbs":     func(d *catalog.Decision) { d.Root = "a/../../b" },
		"no incarnation":         func(d *catalog.Decision) { d.Incarnation = "" },
		"no expiry":              func(d *catalog.Decision) { d.Expires = 0 },
		"an expiry of a week":    func(d *catalog.Decision) { d.Expires = 7 * 24 * time.Hour },
		"a folder to remove up":  func(d *catalog.Decision) { d.Parameters.Remove = []string{"../x"} },
		"freeze of one slate":    func(d *catalog.Decision) { d.Verb = catalog.VerbFreeze },
		"a verb that is no word": func(d *catalog.Decision) { d.Verb = "" },
	} {
		d := fullDecision()
		spoil(&d)
		if _, err := FromDecision(&d); !errors.Is(err, catalog.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An outcome always fits a frame: it loses steps before reasons.
func TestALongOutcomeTravelsWithItsReasons(t *testing.T) {
	o := fullOutcome()
	for len(o.Steps) < 512 {
		o.Steps = append(o.Steps, catalog.Step{Name: "delete", Error: strings.Repeat("x", 1000)})
	}
	m, err := FromOutcome(&o)
	if err != nil {
		t.Fatal(err)
	}
	if n := proto.Size(m); n > MaxRecord || len(m.Reasons) != 1 {
		t.Errorf("%d bytes, %d reasons", n, len(m.Reasons))
	}
	if _, err := ToOutcome(m); err != nil {
		t.Error(err)
	}
}

// Whatever a hub's or an agent's bytes say, they are taken as something valid
// or refused, and what is taken travels again.
func FuzzDecision(f *testing.F) {
	d, o := fullDecision(), fullOutcome()
	md, _ := FromDecision(&d)
	mo, _ := FromOutcome(&o)
	b1, _ := proto.Marshal(md)
	b2, _ := proto.Marshal(mo)
	f.Add(b1)
	f.Add(b2)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		c := append([]byte(nil), b1...)
		c[rng.IntN(len(c))] ^= byte(1 << rng.IntN(8))
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := new(quarryv1.Decision)
		if proto.Unmarshal(raw, m) == nil {
			d, err := ToDecision(m)
			if err == nil {
				if _, err := FromDecision(&d); err != nil {
					t.Errorf("taken, and does not travel: %v", err)
				}
			} else if !errors.Is(err, catalog.ErrInvalid) {
				t.Errorf("%v is no refusal", err)
			}
		}
		mo := new(quarryv1.Outcome)
		if proto.Unmarshal(raw, mo) == nil {
			o, err := ToOutcome(mo)
			if err == nil {
				if _, err := FromOutcome(&o); err != nil {
					t.Errorf("taken, and does not travel: %v", err)
				}
			} else if !errors.Is(err, catalog.ErrInvalid) {
				t.Errorf("%v is no refusal", err)
			}
		}
	})
}
