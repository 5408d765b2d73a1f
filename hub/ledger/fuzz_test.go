package ledger

import (
	"bufio"
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// aSavedView has a row of most kinds.
func aSavedView(f testing.TB) []byte {
	b := view.NewBuilder(1, 0, 0)
	now := time.Unix(1_700_000_000, 0).UTC()
	b.SetRegion(&catalog.Region{Name: "eu"}, false)
	p := &catalog.Placement{Region: "eu", State: catalog.StateLive, ObservedAt: now}
	p.Slate, p.Root, p.Kind, p.Seen = "dbs/a", "dbs/a", catalog.KindLog, catalog.SeenLive
	b.SetPlacement(p, false)
	b.SetRestorePoint(&catalog.RestorePoint{Slate: "dbs/a", Region: "eu", Root: "dbs/a", ID: "1", ObservedAt: now})
	b.SetRegistration(&view.Registration{Region: "eu", Registration: catalog.Registration{Slate: "dbs/a", Root: "dbs/a", ID: "x", At: now, Labels: map[string]string{"team": "y"}}})
	b.Hold(&view.Held{Region: "eu", Kind: catalog.FactRegistration, Key: "x", Counter: 3, Sum: catalog.Sum{Hi: 1, Lo: 2}})
	b.SetPin(&catalog.Pin{Slate: "dbs/a", Region: "eu", Root: "dbs/a", ID: "1", Name: "quarry:case-1:x", ObservedAt: now})
	packed, err := packView(1, b.Publish(now))
	if err != nil {
		f.Fatal(err)
	}
	v, err := unpackView(packed)
	if err != nil {
		f.Fatal(err)
	}
	if len(v.Pins) != 1 || v.Pins[0].Name != "quarry:case-1:x" {
		f.Fatalf("%+v", v.Pins)
	}
	return packed
}

// Cut anywhere or changed anywhere, a saved view is passed over or read, and
// never ends the hub.
func TestADamagedSavedViewIsPassedOver(t *testing.T) {
	whole := aSavedView(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		at := rng.IntN(len(whole))
		if v, err := unpackView(whole[:at]); v != nil || !errors.Is(err, errDamaged) {
			t.Fatalf("cut at %d of %d: %v", at, len(whole), err)
		}
		bad := bytes.Clone(whole)
		bad[at] ^= 1 << rng.IntN(8)
		if v, err := unpackView(bad); (v == nil) != (err != nil) || err != nil && !errors.Is(err, errDamaged) {
			t.Fatalf("changed at %d of %d: %v", at, len(whole), err)
		}
	}
}

// FuzzPart reads the rows of every part from bytes that nothing is wrong with
// but what they say.
func FuzzPart(f *testing.F) {
	saved, err := unpackView(aSavedView(f))
	if err != nil {
		f.Fatal(err)
	}
	for i, p := range parts(saved) {
		var w bytes.Buffer
		if err := p.write(&w); err != nil {
			f.Fatal(err)
		}
		f.Add(w.Bytes(), i)
	}
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0x7f}, 0)
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f, 3, 1, 2, 3}, 1)
	f.Fuzz(func(t *testing.T, raw []byte, i int) {
		var v state.SavedView
		of := parts(&v)
		p := of[(i%len(of)+len(of))%len(of)]
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := p.read(bufio.NewReader(bytes.NewReader(raw)))
		runtime.ReadMemStats(&after)
		if took, most := after.TotalAlloc-before.TotalAlloc, uint64(2<<20+len(raw)*300); took > most {
			t.Fatalf("%d bytes of memory for %d bytes", took, len(raw))
		}
		if err != nil {
			return
		}
		var w bytes.Buffer
		if err := p.write(&w); err != nil { // what was read can be saved again
			t.Fatal(err)
		}
	})
}
