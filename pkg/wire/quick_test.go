package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// real is a sighting as the fleets of the benchmarks have them.
func realSighting(i uint64) *catalog.Sighting {
	p := func(v uint64) *uint64 { return &v }
	root := fmt.Sprintf("prod/commerce/orders-%06d", i%1_000_000)
	yes := true
	return &catalog.Sighting{
		Slate: root, Root: root, Kind: catalog.KindLog, KindFrom: "extractor", Seen: catalog.SeenLive,
		Incarnation: "01J9ZV7Q4Y8K3M5N6P7R8S9TAB", IncarnationKept: true, Lineage: "01J9ZV7Q4Y8K3M5N6P7R8S9TAB",
		ManifestID: p(42 + i), ManifestVersion: p(2), WriterEpoch: p(3), CompactorEpoch: p(3), Initialized: &yes,
		Extractor: "opendata/log-extractor", LastL0Seq: p(1_000_000 + i), ReplayAfterWAL: p(900 + i), WALTail: p(907 + i), WALGap: p(7),
		L0Count: p(4), RunCount: p(3), SegmentCount: p(12), Compaction: "completed",
		Position: p(1_000_000 + i), PositionDomain: "log-seq", TrimmedTo: p(12), Bytes: p(3_000_000_000 + i),
		Checkpoints: []catalog.Checkpoint{},
	}
}

// slowly is what the generated code makes of a value.
func slowly(b []byte) (*catalog.Sighting, error) {
	m := new(quarryv1.Sighting)
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, err
	}
	var c checker
	s := c.sighting(m)
	return s, c.err
}

// What is written by hand is what the generated code would read, and what is
// read by hand is what the generated code reads.
func TestTheQuickWayIsTheWay(t *testing.T) {
	for _, s := range []*catalog.Sighting{full()[0].Sighting, realSighting(1), {Slate: "a", Checkpoints: []catalog.Checkpoint{}}} {
		b, err := AppendStill(nil, s)
		if err != nil {
			t.Fatal(err)
		}
		n := NumbersOf(s)
		if before := len(b); n.Size() != len(n.Append(b))-before {
			t.Errorf("size %d", n.Size())
		}
		b = n.Append(b)
		got, err := slowly(b)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%v\n%+v\n%+v", err, got, s)
		}
		if q := quickSighting(b, s.Root); q != nil && !reflect.DeepEqual(q, s) {
			t.Errorf("\n%+v\n%+v", q, s)
		}
	}
	b, _ := AppendStill(nil, realSighting(1))
	if quickSighting(b, "") == nil {
		t.Error("it gives up on what is common")
	}
}

func FuzzSighting(f *testing.F) {
	for _, s := range []*catalog.Sighting{full()[0].Sighting, realSighting(1)} {
		b, _ := AppendStill(nil, s)
		n := NumbersOf(s)
		f.Add(n.Append(b))
		s.External, s.Orphans = nil, nil
		b, _ = AppendStill(nil, s)
		f.Add(n.Append(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		quick := quickSighting(b, "prod/commerce/orders-000001")
		if quick == nil {
			return
		}
		slow, err := slowly(b)
		if err != nil || !reflect.DeepEqual(quick, slow) {
			t.Fatalf("%v\nquickly %+v\nslowly %+v", err, quick, slow)
		}
		var c checker
		if c.sane(quick, false); c.err != nil {
			return
		}
		// What a hub takes an agent can send, and nothing of it gets lost.
		if err := CheckSighting(quick.Root, quick); err != nil {
			t.Fatalf("the agent would not send it: %v", err)
		}
		still, err := AppendStill(nil, quick)
		if err != nil {
			return
		}
		n := NumbersOf(quick)
		again, err := slowly(n.Append(still))
		if err != nil || !reflect.DeepEqual(again, slow) {
			t.Fatalf("%v\n%+v\n%+v", err, again, slow)
		}
	})
}

func FuzzFrameQuick(f *testing.F) {
	rec, _ := Encode(catalog.Fact{Kind: catalog.FactPlacement, Sighting: realSighting(1)})
	rec.Revision, rec.Ordinal = 7, 1
	rev := &quarryv1.Revision{Start: 3, Counter: 9}
	for _, fr := range []*quarryv1.AgentFrame{
		{Number: 3, Session: 5, Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{From: rev, Upto: rev, Records: []*quarryv1.Record{rec, {Kind: 4, Key: []byte("x"), Gone: []byte("y")}}, Moves: []byte{1, 1, 2, 3}}}},
		{Number: 4, Session: 5, Body: &quarryv1.AgentFrame_SnapshotBatch{SnapshotBatch: &quarryv1.SnapshotBatch{Records: []*quarryv1.Record{rec}}}},
		{Number: 4, Session: 5, Body: &quarryv1.AgentFrame_RepairBatch{RepairBatch: &quarryv1.RepairBatch{Records: []*quarryv1.Record{rec}}}},
	} {
		b, err := proto.Marshal(fr)
		if err != nil {
			f.Fatal(err)
		}
		if quickFrame(b) == nil {
			f.Error("it gives up on what is common")
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		quick := quickFrame(b)
		if quick == nil {
			return
		}
		slow := new(quarryv1.AgentFrame)
		if err := proto.Unmarshal(b, slow); err != nil || !proto.Equal(quick, slow) {
			t.Fatalf("%v\nquickly %v\nslowly %v", err, quick, slow)
		}
	})
}

// Batches say what the generated code would say, and fill frames without ever
// overflowing them.
func TestABatchIsAFrame(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 3))
	for range 200 {
		var a Batch
		a.Reset(10)
		var want []*quarryv1.Record
		moves, revision := 0, uint64(10)
		big := rng.IntN(2) == 0
		for {
			revision += 1 + rng.Uint64N(3)
			if rng.IntN(2) == 0 {
				n := Numbers{Known: rng.Uint32() & knownFields}
				for i := range n.Values {
					if n.Known&(1<<i) != 0 {
						n.Values[i] = rng.Uint64() >> rng.UintN(64)
					}
				}
				if !a.FitsMove() {
					break
				}
				a.Move(1+rng.Uint32()%1000, revision, 1+rng.Uint32()%knownFields, &n)
				moves++
				continue
			}
			s := realSighting(rng.Uint64N(1000))
			if big {
				s.Reason = string(bytes.Repeat([]byte{'x'}, rng.IntN(maxText)))
			}
			n := NumbersOf(s)
			still, err := AppendStill(nil, s)
			if err != nil {
				t.Fatal(err)
			}
			it := Item{Kind: 1, Key: s.Root, Revision: revision, Ordinal: rng.Uint32() % 3, Still: still, Numbers: &n}
			if rng.IntN(10) == 0 {
				it = Item{Kind: 4, Key: s.Root, Revision: revision, Gone: []byte("bye")}
			}
			if !a.Fits(&it) {
				break
			}
			a.Add(&it)
			rec := &quarryv1.Record{Kind: it.Kind, Key: []byte(it.Key), Revision: it.Revision, Ordinal: it.Ordinal, Gone: it.Gone}
			if it.Gone == nil {
				rec.Value = n.Append(bytes.Clone(still))
			}
			if sum, _ := it.Sum(nil); sum != Sum(rec) {
				t.Error("the sums differ")
			}
			if 1+it.size() > RecordSize(rec) {
				t.Errorf("size %d, record %d", it.size(), RecordSize(rec))
			}
			want = append(want, rec)
		}
		b := a.Delta(1<<63, 1<<62, 1<<62, 10, revision)
		if len(b) > MaxFrame || len(b) < MaxFrame/2 {
			t.Fatalf("frame of %d bytes", len(b))
		}
		f := new(quarryv1.AgentFrame)
		if err := proto.Unmarshal(b, f); err != nil {
			t.Fatal(err)
		}
		d := f.GetDelta()
		if f.Number != 1<<63 || f.Session != 1<<62 || d.GetFrom().GetCounter() != 10 || d.GetUpto().GetStart() != 1<<62 || a.Records != len(want) || a.Moves != moves {
			t.Errorf("%d %d %v %v", f.Number, f.Session, d.GetFrom(), d.GetUpto())
		}
		if !proto.Equal(&quarryv1.SnapshotBatch{Records: d.Records}, &quarryv1.SnapshotBatch{Records: want}) {
			t.Error("other records")
		}
		if got, err := DecodeMoves(d.GetMoves(), 10, revision); err != nil || len(got) != moves {
			t.Errorf("%v: %d moves of %d", err, len(got), moves)
		}
	}
}

// BenchmarkWhole is the share of the wire in a record that is told whole: what
// both ends do between the sighting in the agent and the fact in the hub, 500
// to a frame.
func BenchmarkWhole(b *testing.B) {
	b.ReportAllocs()
	const batch = 500
	var a Batch
	sightings, stills := make([]*catalog.Sighting, batch), make([][]byte, batch)
	for i := range sightings {
		sightings[i] = realSighting(uint64(i))
	}
	var scratch []byte
	i, n := 0, uint64(0)
	for b.Loop() {
		s := sightings[i]
		n++
		*s.WriterEpoch = n
		if i == 0 {
			a.Reset(n - 1)
		}
		still, _ := AppendStill(stills[i][:0], s)
		stills[i] = still
		if err := CheckSighting(s.Root, s); err != nil {
			b.Fatal(err)
		}
		nums := NumbersOf(s)
		it := Item{Kind: 1, Key: s.Root, Revision: n, Ordinal: 1, Still: still, Numbers: &nums}
		a.Add(&it)
		_, scratch = it.Sum(scratch)
		if i++; i == batch {
			decodeDelta(b, bytes.Clone(a.Delta(1, 2, 3, n-batch, n)))
			i = 0
		}
	}
}

func decodeDelta(b testing.TB, frame []byte) (facts []catalog.Fact, moves []catalog.Move) {
	f, err := DecodeFrame(frame)
	if err != nil {
		b.Fatal(err)
	}
	d := f.GetDelta()
	facts = make([]catalog.Fact, 0, len(d.GetRecords()))
	for _, r := range d.GetRecords() {
		fact, err := Decode(3, r)
		if err != nil {
			b.Fatal(err)
		}
		facts = append(facts, fact)
	}
	moves, err = DecodeMoves(d.GetMoves(), d.GetFrom().GetCounter(), d.GetUpto().GetCounter())
	if err != nil {
		b.Fatal(err)
	}
	return facts, moves
}

// BenchmarkMoves is the same for moves of five numbers.
func BenchmarkMoves(b *testing.B) {
	b.ReportAllocs()
	const batch = 500
	var a Batch
	sums := make([]catalog.Sum, batch)
	i, n := 0, uint64(0)
	nums := NumbersOf(realSighting(1))
	for b.Loop() {
		if i == 0 {
			a.Reset(n)
		}
		n++
		nums.Values[0]++
		packed := a.Move(uint32(i+1)*977, n, 1|2|4|8|256, &nums)
		sums[i] = sums[i].Moved(n, packed)
		if i++; i == batch {
			_, moves := decodeDelta(b, bytes.Clone(a.Delta(1, 2, 3, n-batch, n)))
			for j := range moves {
				sums[j] = sums[j].Moved(moves[j].Counter, moves[j].Packed)
			}
			i = 0
		}
	}
}
