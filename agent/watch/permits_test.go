package watch

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// The permit that is told is the one that lies there with the highest number,
// whoever says that he wrote which.
func TestThePermitThatIsToldIsTheOneThatLiesThere(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		put := func(n, upTo uint64) {
			raw, err := json.Marshal(catalog.Permit{Version: 1, Number: n, Slate: "archive/0", Incarnation: "I", UpTo: &upTo, Decision: "d", Ledger: "l", Term: 1, Sequence: n})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.b.PutNew(t.Context(), catalog.PermitKey("archive/0", n), raw); err != nil {
				t.Fatal(err)
			}
		}
		put(1, 40)
		put(2, 60)
		defer r.start()()
		wait(time.Minute)
		if p := r.hub.permits["archive/0"]; p == nil || p.Number != 2 || *p.UpTo != 60 {
			t.Errorf("told %+v", p)
		}
		put(3, 70)
		wait(time.Minute)
		if p := r.hub.permits["archive/0"]; p == nil || p.Number != 3 {
			t.Errorf("told %+v", p)
		}
		if err := r.b.PutNew(t.Context(), catalog.PermitKey("archive/0", 4), []byte("{")); err != nil {
			t.Fatal(err)
		}
		wait(time.Minute)
		if p := r.hub.permits["archive/0"]; p != nil {
			t.Errorf("told %+v of one that cannot be understood", p)
		}
	})
}
