package session

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// FuzzFrame: whatever bytes an agent sends, the hub's side of its session
// stands, hears no more than was said, and what it hears can be shown.
func FuzzFrame(f *testing.F) {
	seed := func(frames ...*quarryv1.AgentFrame) {
		var all []byte
		for i, fr := range frames {
			fr.Number, fr.Session = uint64(i+2), 5
			b, err := proto.Marshal(fr)
			if err != nil {
				f.Fatal(err)
			}
			all = append(append(all, byte(len(b)>>8), byte(len(b))), b...)
		}
		f.Add(all)
	}
	a := sight("a", 1)
	var d catalog.Digest
	d.Add(wire.Sum(a))
	root := d.Root()
	seed(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Beat{Beat: &quarryv1.Beat{At: rev(1), Spend: map[string]float64{"get": 1}}}})
	seed(
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{Count: 1, Digest: root[:], Upto: rev(1)}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBatch{SnapshotBatch: &quarryv1.SnapshotBatch{Records: []*quarryv1.Record{a}}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotEnd{SnapshotEnd: &quarryv1.SnapshotEnd{}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{From: rev(1), Upto: rev(2), Records: []*quarryv1.Record{sight("a", 2)}}}},
	)
	declared := sight("a", 1)
	declared.Ordinal = 7
	seed(
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{Count: 1, Digest: root[:], Upto: rev(1)}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBatch{SnapshotBatch: &quarryv1.SnapshotBatch{Records: []*quarryv1.Record{declared}}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotEnd{SnapshotEnd: &quarryv1.SnapshotEnd{}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{From: rev(1), Upto: rev(4), Moves: move(move(nil, 7, 1, 5), 7, 2, 6)}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Digests{Digests: &quarryv1.Digests{At: rev(4), Buckets: make([]byte, 4096), Count: 1}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_RepairBegin{RepairBegin: &quarryv1.RepairBegin{Buckets: []byte{catalog.BucketOf(1, "a")}, Count: 1, Digest: root[:], Upto: rev(4)}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_RepairBatch{RepairBatch: &quarryv1.RepairBatch{Records: []*quarryv1.Record{a}}}},
		&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_RepairEnd{RepairEnd: &quarryv1.RepairEnd{}}},
	)
	seed(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Hello{Hello: &quarryv1.Hello{Region: "eu"}}})
	f.Add([]byte("\x00\x03\xff\xff\xff"))

	f.Fuzz(func(t *testing.T, all []byte) {
		in := intake{id: 1, start: 9, token: 5, number: 1, maxStaged: 4096}
		upto := uint64(0)
		asked := []uint8{catalog.BucketOf(1, "a")}
		in.wanted(asked)
		for len(all) >= 2 {
			n := min(int(all[0])<<8|int(all[1]), len(all)-2)
			if fr, err := wire.DecodeFrame(all[2 : 2+n]); err == nil {
				_, _, _ = checkHello(fr)
			}
			out := in.frame(all[2:2+n], wire.MaxFrame)
			all = all[2+n:]
			for _, e := range out.events {
				var facts []catalog.Fact
				switch e := e.(type) {
				case state.Delta:
					facts = e.Facts
				case state.Snapshot:
					for f := range e.All() {
						facts = append(facts, *f)
					}
					if (len(facts) == 0) != e.Empty && in.staged != nil {
						t.Error("an empty snapshot that nobody meant")
					}
				case state.Repair:
					facts = e.Facts
					if !slices.Equal(e.Buckets, asked) {
						t.Error("a repair that nobody asked for")
					}
				case state.Moves:
					last := uint64(0)
					for _, m := range e.Moves {
						if m.Counter <= last || m.Counter > e.Upto.Counter || m.Ordinal == 0 || m.Mask == 0 && m.Null != 0 {
							t.Errorf("%+v after %d", m, last)
						}
						last = m.Counter
					}
				}
				for _, fact := range facts {
					checkFact(t, fact)
				}
			}
			if in.upto < upto {
				t.Errorf("what was heard went from %d to %d", upto, in.upto)
			}
			upto = in.upto
			if in.staged != nil && in.staged.bytes > in.maxStaged {
				t.Error("more is staged than may be")
			}
		}
	})
}

// checkFact holds what every fact that reaches the hub has.
func checkFact(t *testing.T, f catalog.Fact) {
	t.Helper()
	if f.Revision.Start != 9 || f.Revision.Counter == 0 {
		t.Errorf("revision %s", f.Revision)
	}
	if f.Gone != "" {
		if f.Kind == catalog.FactPlacement {
			t.Error("a placement was withdrawn")
		}
		return
	}
	if wire.KeyOf(f) != f.Key {
		t.Errorf("key %q of a value whose key is %q", f.Key, wire.KeyOf(f))
	}
	// What was understood can be said again.
	if _, err := wire.Encode(f); err != nil {
		t.Errorf("it cannot travel on: %v", err)
	}
}
