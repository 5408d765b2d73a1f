package report

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func lease(id string, ttl float64) (factKey, []byte) {
	f := catalog.Fact{Kind: catalog.FactLease, Lease: &catalog.Lease{Version: 1, Slate: "a", Role: "reader", ID: id, TTL: ttl}}
	rec, err := wire.Encode(f)
	if err != nil {
		panic(err)
	}
	return factKey{uint32(f.Kind), string(rec.Key)}, rec.Value
}

var bye = []byte("gone")

// copyOf is what a hub holds: of every key the revision and the sum, and what
// placements are called.
type copyOf struct {
	revisions map[string]uint64
	sums      map[string]catalog.Sum
	ordinals  map[uint32]string
	digest    catalog.Digest
	whole     int
	moves     int
}

func newCopy() *copyOf {
	return &copyOf{revisions: map[string]uint64{}, sums: map[string]catalog.Sum{}, ordinals: map[uint32]string{}}
}

func (c *copyOf) clone() *copyOf {
	return &copyOf{revisions: maps.Clone(c.revisions), sums: maps.Clone(c.sums), ordinals: map[uint32]string{}, digest: c.digest}
}

func (c *copyOf) put(key string, revision uint64, sum catalog.Sum) {
	c.digest.Remove(c.sums[key])
	c.digest.Add(sum)
	if sum == (catalog.Sum{}) {
		delete(c.sums, key)
		delete(c.revisions, key)
		return
	}
	c.sums[key], c.revisions[key] = sum, revision
}

// take reads a frame as the hub does.
func (c *copyOf) take(t *testing.T, frame []byte) (upto uint64) {
	t.Helper()
	f, err := wire.DecodeFrame(frame)
	if err != nil {
		t.Fatal(err)
	}
	d := f.GetDelta()
	for _, r := range d.GetRecords() {
		key := string(r.GetKey())
		if r.GetOrdinal() > 0 {
			c.ordinals[r.GetOrdinal()] = key
		}
		c.put(key, r.GetRevision(), wire.Sum(r))
		c.whole++
	}
	moves, err := wire.DecodeMoves(d.GetMoves(), d.GetFrom().GetCounter(), d.GetUpto().GetCounter())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range moves {
		key, ok := c.ordinals[m.Ordinal]
		if !ok {
			t.Fatalf("nobody is called %d", m.Ordinal)
		}
		c.put(key, m.Counter, c.sums[key].Moved(m.Counter, m.Packed))
		c.moves++
	}
	return d.GetUpto().GetCounter()
}

// From whatever revision a hub resumes, the deltas bring it to what the agent
// holds, and the digests agree; where they could not, the agent knows it.
func TestFromAnyRevisionTheDeltasLeadToNow(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	f := newFacts()
	want := map[string]uint64{} // key to revision, live only
	step := func(k factKey, value []byte) {
		before := f.head
		if value != nil {
			f.set(k, asValue, value)
		} else {
			f.withdraw(k, bye)
		}
		if f.head != before {
			if want[k.key] = f.head; value == nil {
				delete(want, k.key)
			}
		}
	}
	move := func() {
		root := fmt.Sprint("dbs/", rng.IntN(50))
		at := rng.Uint64N(5)
		s := &catalog.Sighting{Slate: root, Root: root, Kind: catalog.KindLog, Seen: catalog.SeenLive, Position: &at}
		if rng.IntN(10) == 0 {
			s.Pill = fmt.Sprint("pill", rng.IntN(2))
		}
		if rng.IntN(10) == 0 {
			s.Position = nil
		}
		still, _ := wire.AppendStill(nil, s)
		n := wire.NumbersOf(s)
		before := f.head
		f.sight(factKey{1, root}, still, &n, true)
		if f.head != before {
			want[root] = f.head
		}
	}
	// A hub that hears all, and what it had at some revisions: hubs that resume.
	all := newCopy()
	at := map[uint64]*copyOf{}
	var b wire.Batch
	f.begin(true)
	catchUp := func(c *copyOf, sent uint64) uint64 {
		for sent < f.head {
			upto := f.delta(&b, sent, true)
			if upto <= sent {
				t.Fatalf("no progress at %d", sent)
			}
			c.take(t, b.Delta(1, 1, 1, sent, upto))
			sent = upto
		}
		return sent
	}
	sent := uint64(0)
	for i := range 6000 {
		k, value := lease(fmt.Sprint(rng.IntN(100)), float64(rng.IntN(3)))
		if rng.IntN(3) == 0 {
			value = nil
		}
		step(k, value)
		move()
		move()
		// And one that comes and goes, so that withdrawals pile up.
		k, value = lease(fmt.Sprint("once", i), 1)
		step(k, value)
		step(k, nil)
		if rng.IntN(20) == 0 {
			sent = catchUp(all, sent)
			if all.digest != f.told {
				t.Fatalf("at %d the digests differ", sent)
			}
			at[sent] = all.clone()
		}
	}
	if f.floor == 0 {
		t.Error("no withdrawal was ever forgotten: the test proves less than it says")
	}
	if all.moves < 3*all.whole/10 {
		t.Errorf("%d moves and %d whole records: the test proves less than it says", all.moves, all.whole)
	}
	resumed := 0
	for from, c := range at {
		if !f.resumable(from) {
			if from >= f.floor {
				t.Errorf("not resumable from %d, floor %d", from, f.floor)
			}
			continue
		}
		resumed++
		f.begin(true)
		catchUp(c, from)
		if !maps.Equal(c.revisions, want) {
			t.Fatalf("from %d: %d facts, want %d", from, len(c.revisions), len(want))
		}
	}
	if f.live != len(want) || resumed == 0 {
		t.Errorf("%d live, want %d; resumed %d times", f.live, len(want), resumed)
	}
	// A snapshot says the same, and so does a repair of every bucket.
	for _, wanted := range []*[catalog.DigestBuckets]bool{nil, {}} {
		if wanted != nil {
			for i := range wanted {
				wanted[i] = true
			}
		}
		items, digest := f.all(true, wanted)
		if digest != f.told || int(digest.Count()) != f.live || len(items) != f.live {
			t.Errorf("%d items of %d, told %d", len(items), f.live, f.told.Count())
		}
	}
}

// Of two links on which moves were sent and lost, neither leaves the other's
// sums behind.
func TestWhatWasLostIsToldWhole(t *testing.T) {
	f := newFacts()
	var b wire.Batch
	set := func(at uint64) {
		s := &catalog.Sighting{Slate: "a", Root: "a", Kind: catalog.KindLog, Seen: catalog.SeenLive, Position: &at}
		still, _ := wire.AppendStill(nil, s)
		n := wire.NumbersOf(s)
		f.sight(factKey{1, "a"}, still, &n, true)
	}
	hub := newCopy()
	f.begin(true)
	set(1)
	hub.take(t, b.Delta(1, 1, 1, 0, f.delta(&b, 0, true)))
	set(2)
	f.delta(&b, 1, true) // lost
	f.begin(true)
	set(3)
	hub.take(t, b.Delta(1, 1, 1, 1, f.delta(&b, 1, true)))
	if hub.digest != f.told || hub.whole != 2 {
		t.Errorf("whole %d", hub.whole)
	}
	set(4)
	hub.take(t, b.Delta(1, 1, 1, 3, f.delta(&b, 3, true)))
	if hub.digest != f.told || hub.moves != 1 {
		t.Errorf("moves %d", hub.moves)
	}
}

// What is remembered goes by what exists, not by what ever happened.
func TestMemoryGoesByWhatExists(t *testing.T) {
	f := newFacts()
	for i := range 100_000 {
		k, value := lease(fmt.Sprint(i), 1)
		f.set(k, asValue, value)
		f.withdraw(k, bye)
	}
	k, _ := lease("same", 0)
	for i := range 100_000 {
		_, value := lease("same", float64(i))
		f.set(k, asValue, value)
	}
	if len(f.held) > 3*keepGone || len(f.log) > 6*keepGone {
		t.Errorf("%d keys and %d log entries for one live fact", len(f.held), len(f.log))
	}
}

func TestAnUnchangedValueIsNoNews(t *testing.T) {
	f := newFacts()
	k, value := lease("a", 1)
	_, again := lease("a", 1)
	if !f.set(k, asValue, value) || f.set(k, asValue, again) || f.head != 1 {
		t.Errorf("head %d", f.head)
	}
	if !f.withdraw(k, bye) || f.withdraw(k, bye) || f.head != 2 {
		t.Errorf("head %d", f.head)
	}
	if !f.set(k, asValue, again) || f.head != 3 {
		t.Error("a fact that came back is news")
	}
}

// However large the records, a delta fits its frame and leaves none behind.
func TestDeltasFitTheirFrames(t *testing.T) {
	f := newFacts()
	for i := range 40 {
		f.set(factKey{1, fmt.Sprint(i)}, asValue, make([]byte, wire.MaxRecord-100*i-100))
	}
	n := 0
	var b wire.Batch
	for at := uint64(0); at < f.head; {
		upto := f.delta(&b, at, true)
		if size := len(b.Delta(1<<62, 1<<62, 1<<62, at, upto)); size > wire.MaxFrame || upto <= at {
			t.Fatalf("frame of %d bytes up to %d", size, upto)
		}
		n += b.Records
		at = upto
	}
	if n != 40 {
		t.Errorf("%d of 40 records", n)
	}
}

func TestOptionsAreCheckedOnce(t *testing.T) {
	good := Options{Region: "eu", Cluster: "k1", Hub: "127.0.0.1:7701", Start: 1}
	for _, c := range []struct {
		name, why string
		change    func(*Options)
	}{
		{"good", "", func(*Options) {}},
		{"localhost", "", func(o *Options) { o.Hub = "localhost:7701" }},
		{"a region that is a path", `"eu-west"`, func(o *Options) { o.Region = "eu/west" }},
		{"no cluster", "Cluster", func(o *Options) { o.Cluster = "" }},
		{"no start", "Start is 0", func(o *Options) { o.Start = 0 }},
		{"a hub without a port", "host:port", func(o *Options) { o.Hub = "127.0.0.1" }},
		{"a hub elsewhere", "not a loopback address", func(o *Options) { o.Hub = "10.0.0.1:7701" }},
		{"a hub by a name that may lead elsewhere", "not a loopback address", func(o *Options) { o.Hub = "hub.example.com:7701" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good
			c.change(&o)
			_, err := New(o)
			if (err == nil) != (c.why == "") || (err != nil && !strings.Contains(err.Error(), c.why)) {
				t.Errorf("error %v, want one with %q", err, c.why)
			}
		})
	}
}

func TestAPlacementIsNeverWithdrawn(t *testing.T) {
	r, err := New(Options{Region: "eu", Cluster: "k1", Hub: "127.0.0.1:7701", Start: 1})
	if err != nil {
		t.Fatal(err)
	}
	r.Set(catalog.Fact{Kind: catalog.FactPlacement, Sighting: &catalog.Sighting{Slate: "a", Root: "a", Kind: catalog.KindLog, Seen: catalog.SeenLive}})
	r.Withdraw(catalog.FactPlacement, "a", "not listed any more")
	r.Set(catalog.Fact{Kind: catalog.FactPlacement, Key: "a", Gone: "not listed any more"})
	if s := r.Status(); s.Facts != 1 || s.Head.Counter != 1 {
		t.Errorf("%+v", s)
	}
}

// Windows double from the base and end at a minute; the jitter is within them.
func TestReconnectsSpreadOut(t *testing.T) {
	r, _ := New(Options{Region: "eu", Cluster: "k1", Hub: "127.0.0.1:7701", Start: 1, Seed: 3})
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 500: time.Minute} {
		if got := window(time.Second, n); got != want {
			t.Errorf("window %d is %s, want %s", n, got, want)
		}
	}
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		d := jitter(r.jitter, time.Minute)
		low, high = min(low, d), max(high, d)
	}
	if low > 2*time.Second || high < 58*time.Second || high >= time.Minute {
		t.Errorf("from %s to %s of a minute", low, high)
	}
}

// BenchmarkSet is the agent's whole share of a change that only moves numbers,
// and of one that is told whole: from the sighting to the frame, 500 in each.
func BenchmarkSet(b *testing.B) {
	const slates = 10_000
	for _, whole := range []bool{false, true} {
		b.Run(fmt.Sprintf("whole=%v", whole), func(b *testing.B) {
			r, _ := New(Options{Region: "eu", Cluster: "k1", Hub: "127.0.0.1:7701", Start: 1})
			r.facts.begin(true)
			facts := make([]catalog.Fact, slates)
			for i := range facts {
				root := fmt.Sprintf("prod/commerce/orders-%06d", i)
				p := func() *uint64 { n := uint64(i + 1000); return &n }
				facts[i] = catalog.Fact{Kind: catalog.FactPlacement, Key: root, Sighting: &catalog.Sighting{
					Slate: root, Root: root, Kind: catalog.KindLog, KindFrom: "extractor", Seen: catalog.SeenLive,
					Incarnation: "01J9ZV7Q4Y8K3M5N6P7R8S9TAB", Lineage: "01J9ZV7Q4Y8K3M5N6P7R8S9TAB",
					ManifestID: p(), WriterEpoch: p(), LastL0Seq: p(), ReplayAfterWAL: p(), WALTail: p(), WALGap: p(),
					L0Count: p(), RunCount: p(), SegmentCount: p(), Compaction: "completed",
					Position: p(), PositionDomain: "log-seq", Bytes: p()}}
				r.Set(facts[i])
			}
			var batch wire.Batch
			sent := uint64(0)
			flush := func() {
				for sent < r.facts.head {
					upto := r.facts.delta(&batch, sent, true)
					batch.Delta(1, 1, 1, sent, upto)
					sent = upto
				}
			}
			flush()
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n++
				s := facts[n*7919%slates].Sighting
				*s.ManifestID++
				*s.LastL0Seq += 100
				*s.WALTail += 3
				*s.Position += 100
				*s.Bytes += 1 << 20
				if whole {
					*s.WriterEpoch++
				}
				r.Set(facts[n*7919%slates])
				if n%500 == 0 {
					flush()
				}
			}
		})
	}
}
