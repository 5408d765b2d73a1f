package plan

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quarry-db/quarry/regions"
)

// What a fleet shared stays as it was, whatever becomes of the fleet. What was
// not put and is told beside counts as if it had been. A mark is another one when
// the ruling is.
func TestWhatAFleetSharedStaysAsItWas(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 8))
	names := []string{"a", "b", "c", "d", "e", "f"}
	f := NewFleet(names...)
	type moment struct {
		fleet *Fleet
		rule  *Rule
		says  []Ruling
		marks []uint64
	}
	var past []moment
	besides := 0
	for step := range 3000 {
		p, s := randomWorld(rng)
		if rng.IntN(10) == 0 {
			s.Lost = "a lost its last"
		}
		place := rng.IntN(min(f.Len(), 3*perPage) + 1)
		if rng.IntN(30) == 0 {
			f.Drop(place)
		} else if err := f.Put(place, &s); err != nil {
			t.Fatal(err)
		}
		set := connectedTo(names...)
		for i := range s.Regions {
			set[i] = standings(&s)[i]
			set[i].Name = names[i]
		}
		rule := f.Rule([]regions.Policy{p}, set, now)
		if whole := f.Decide(rule, place); whole != (Ruling{}) {
			// The same with what people decided, and the head, told beside.
			bare, beside := s, Beside{Head: s.Head, Frozen: s.Frozen != "", Lost: s.Lost != ""}
			bare.Head, bare.Frozen, bare.Lost, bare.Pins = nil, "", "", nil
			for _, pin := range s.Pins {
				if pin.Kind == PinConsumer {
					bare.Pins = append(bare.Pins, pin)
				} else {
					beside.Pins = append(beside.Pins, pin)
				}
			}
			one := NewFleet(names...)
			if err := one.Put(0, &bare); err != nil {
				t.Fatal(err)
			}
			if got := one.DecideBeside(one.Rule([]regions.Policy{p}, set, now), 0, &beside); got != whole {
				t.Fatalf("seed %d, step %d: put %+v, told beside %+v\n%+v", seed, step, whole, got, s)
			}
			if a, b := one.Mark(rule, 0, &beside), f.Mark(rule, place, &Beside{}); a != b {
				t.Fatalf("seed %d, step %d: the marks of the same slate are %x and %x", seed, step, a, b)
			}
			besides++
		}
		if rng.IntN(100) == 0 {
			m := moment{fleet: f.Share(), rule: rule}
			for i := range f.Len() {
				m.says, m.marks = append(m.says, f.Decide(rule, i)), append(m.marks, f.Mark(rule, i, &Beside{}))
			}
			past = append(past, m)
		}
		if rng.IntN(300) == 0 { // another region set, and back
			more := append([]string{"z"}, names...)
			slices.Reverse(more)
			g := f.Over(more...).Over(names...)
			for i := range f.Len() {
				if a, b := f.Decide(rule, i), g.Decide(rule, i); a != b {
					t.Fatalf("seed %d, step %d: over another set and back %+v became %+v", seed, step, a, b)
				}
			}
			f = g
		}
	}
	byMark := map[uint64]Ruling{}
	for n, m := range past {
		for i, was := range m.says {
			if is, mark := m.fleet.Decide(m.rule, i), m.fleet.Mark(m.rule, i, &Beside{}); is != was || mark != m.marks[i] {
				t.Fatalf("seed %d: what was shared at first as %d said %+v of slate %d and says %+v", seed, n, was, i, is)
			}
			if other, had := byMark[m.marks[i]]; had && other != was {
				t.Fatalf("seed %d: %+v and %+v have one mark", seed, other, was)
			}
			byMark[m.marks[i]] = was
		}
	}
	t.Logf("seed %d: %d moments, %d slates told beside, %d marks", seed, len(past), besides, len(byMark))
}

// Of a region that a fleet did not have nothing is known; of one that it loses
// nothing is known any more.
func TestAFleetOverAnotherRegionSet(t *testing.T) {
	p := policy(t, "trim: {require: {all: true}}")
	f := NewFleet("a", "b")
	s := slate(at("a", 120), at("b", 100))
	s.Pins = []Pin{{Kind: PinConsumer, ID: "x", Region: "b", Position: new(uint64(7))}}
	if err := f.Put(0, &s); err != nil {
		t.Fatal(err)
	}
	if got := f.Over("c", "b", "a"); got.Len() != 1 {
		t.Error(got.Len())
	} else if v := got.Decide(got.Rule([]regions.Policy{p}, connectedTo("a", "b", "c"), now), 0); v.Permit || !v.Why.Has(NoArchive) {
		t.Errorf("%+v", v)
	} else if v := got.Decide(got.Rule([]regions.Policy{p}, connectedTo("a", "b"), now), 0); !v.Permit || v.UpTo != 100 || v.Binding != 1 {
		t.Errorf("%+v", v)
	}
	less := f.Over("a")
	if v := less.Decide(less.Rule([]regions.Policy{p}, connectedTo("a"), now), 0); v.Permit || !v.Why.Has(WouldStrand) {
		t.Errorf("a consumer in a region that is not of the set: %+v", v)
	}
}

func TestWhichRulesNeedTheHead(t *testing.T) {
	f := NewFleet("a")
	for trim, want := range map[string]bool{
		"trim: {require: {all: true}}":                                          false,
		"trim: {require: {all: true}, keepNewest: {positions: 1}}":              true,
		"trim: {require: {all: true}, keepNewest: {age: 1h}}":                   false,
		"trim: {require: {all: true}, maxLag: {positions: 5, then: block}}":     true,
		"trim: {require: {all: true}, safetyGap: {positions: 5}}":               false,
		"windows: [{deny: [all], from: 2026-11-01, to: 2026-12-01, reason: x}]": false,
	} {
		if got := f.Rule([]regions.Policy{policy(t, trim)}, connectedTo("a"), now).NeedsHead(); got != want {
			t.Errorf("%s: %t", trim, got)
		}
	}
	two := []regions.Policy{policy(t, "trim: {require: {all: true}}"), policy(t, "trim: {require: {all: true}, keepNewest: {positions: 1}}")}
	if !f.Rule(two, connectedTo("a"), now).NeedsHead() || (*Rule)(nil).NeedsHead() {
		t.Error("the second of two needs it, and none needs none")
	}
}
