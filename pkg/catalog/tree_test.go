package catalog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// A registrant registers at each start of its pod: one row, not one a start.
// What was said in between keeps both.
func TestARepeatedRegistrationIsKeptOnce(t *testing.T) {
	reg := func(id, slate, root string, a Action) Registration {
		return Registration{Version: 1, ID: id, Action: a, Slate: slate, Root: root}
	}
	all := map[string]Registration{}
	for i := range 100 {
		id := fmt.Sprintf("%03d", i)
		all[id] = reg(id, "orders", "dbs/a", Register)
	}
	if kept := Settled(all); len(kept) != 1 || kept["000"].Slate != "orders" {
		t.Errorf("kept %v", kept)
	}
	all["050x"] = reg("050x", "orders", "", Deregister)
	if kept := Settled(all); len(kept) != 3 || kept["051"].Action != Register {
		t.Errorf("kept %v", kept)
	}
	all["070x"] = reg("070x", "users", "dbs/a", Register)
	if kept := Settled(all); len(kept) != 5 {
		t.Errorf("kept %v", kept)
	}
}

// Settling what is settled changes nothing, and every declaration has one row.
func TestEachDeclarationHasOneRow(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		all := map[string]Registration{}
		for i := range rng.IntN(30) {
			id := fmt.Sprintf("%02d", i)
			r := Registration{Version: 1, ID: id, Action: Register, Slate: fmt.Sprintf("s/%d", rng.IntN(3)), Root: fmt.Sprintf("r%d", rng.IntN(3))}
			if rng.IntN(3) == 0 {
				r.Action = Deregister
			}
			all[id] = r
		}
		kept := Settled(all)
		if again := Settled(kept); len(again) != len(kept) {
			t.Fatalf("%v, then %v", kept, again)
		}
		ids := map[string]bool{}
		for path, r := range DeclarationPaths(kept) {
			row, err := EncodeRow(path, r, 7)
			if err != nil {
				t.Fatal(err)
			}
			back, err := DecodeRow(row.Key(), row.Value)
			if err != nil || back.Path != path || back.Revision != 7 || !HoldsDeclaration(path) {
				t.Fatalf("%+v: %v", back, err)
			}
			got, err := ReadRegistration(r.ID+".json", back.Value)
			if err != nil || !saysTheSame(got, r) {
				t.Fatalf("%+v came back as %+v: %v", r, got, err)
			}
			ids[r.ID] = true
		}
		if len(ids) != len(kept) {
			t.Fatalf("%d of %d declarations have a row", len(ids), len(kept))
		}
	}
}

func FuzzDecodeRow(f *testing.F) {
	f.Add([]byte("\x51\x01slate/orders/registration"), []byte(`{"version":1,"revision":3,"slate":"orders"}`))
	f.Add([]byte("\x51\x01catalog"), []byte(`{"version":1,"revision":-1}`))
	f.Add([]byte("x"), []byte("null"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := DecodeRow(key, value)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if string(r.Key()) != string(key) {
			t.Fatalf("key %q became %q", key, r.Key())
		}
		HoldsDeclaration(r.Path)
		_, _ = ReadRegistration("x.json", value)
	})
}
