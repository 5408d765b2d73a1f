package report

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func lease(id string, ttl float64) (factKey, *quarryv1.Record) {
	f := catalog.Fact{Kind: catalog.FactLease, Lease: &catalog.Lease{Version: 1, Slate: "a", Role: "reader", ID: id, TTL: ttl}}
	rec, err := wire.Encode(f)
	if err != nil {
		panic(err)
	}
	return factKey{uint32(f.Kind), string(rec.Key)}, rec
}

func gone(k factKey) *quarryv1.Record {
	return &quarryv1.Record{Kind: k.kind, Key: []byte(k.key), Gone: []byte("gone")}
}

// From whatever revision a hub resumes, the deltas bring it to what the agent
// holds; where they could not, the agent knows it.
func TestFromAnyRevisionTheDeltasLeadToNow(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	f := newFacts()
	history := []map[string]uint64{{}} // by revision: key to revision, live only
	step := func(k factKey, rec *quarryv1.Record) {
		before := f.head
		now := maps.Clone(history[len(history)-1])
		if len(rec.Gone) == 0 {
			f.set(k, rec)
			now[k.key] = f.head
		} else {
			f.withdraw(k, rec)
			delete(now, k.key)
		}
		if f.head != before {
			history = append(history, now)
		}
	}
	for i := range 6000 {
		k, rec := lease(fmt.Sprint(rng.IntN(100)), float64(rng.IntN(3)))
		if rng.IntN(3) == 0 {
			rec = gone(k)
		}
		step(k, rec)
		// And one that comes and goes, so that withdrawals pile up.
		k, rec = lease(fmt.Sprint("once", i), 1)
		step(k, rec)
		step(k, gone(k))
	}
	if f.floor == 0 {
		t.Error("no withdrawal was ever forgotten: the test proves less than it says")
	}
	want := history[f.head]
	if f.live != len(want) || uint64(len(want)) != f.digest.Count() {
		t.Errorf("%d live, digest of %d, want %d", f.live, f.digest.Count(), len(want))
	}
	for from := uint64(0); from <= f.head; from += 37 {
		if !f.resumable(from) {
			if from >= f.floor {
				t.Errorf("not resumable from %d, floor %d", from, f.floor)
			}
			continue
		}
		got := maps.Clone(history[from])
		for at := from; at < f.head; {
			recs, upto := f.delta(at)
			if upto <= at {
				t.Fatalf("no progress at %d", at)
			}
			for _, r := range recs {
				delete(got, string(r.Key))
				if len(r.Gone) == 0 {
					got[string(r.Key)] = r.Revision
				}
			}
			at = upto
		}
		if !maps.Equal(got, want) {
			t.Fatalf("from %d: %d facts, want %d", from, len(got), len(want))
		}
	}
	var d catalog.Digest
	for _, r := range f.all() {
		d.Add(wire.Sum(r))
	}
	if d != f.digest {
		t.Error("the digest kept along the way is not that of what is held")
	}
}

// What is remembered goes by what exists, not by what ever happened.
func TestMemoryGoesByWhatExists(t *testing.T) {
	f := newFacts()
	for i := range 100_000 {
		k, rec := lease(fmt.Sprint(i), 1)
		f.set(k, rec)
		f.withdraw(k, gone(k))
	}
	k, _ := lease("same", 0)
	for i := range 100_000 {
		_, rec := lease("same", float64(i))
		f.set(k, rec)
	}
	if len(f.held) > 3*keepGone || len(f.log) > 6*keepGone {
		t.Errorf("%d keys and %d log entries for one live fact", len(f.held), len(f.log))
	}
}

func TestAnUnchangedValueIsNoNews(t *testing.T) {
	f := newFacts()
	k, rec := lease("a", 1)
	_, again := lease("a", 1)
	if !f.set(k, rec) || f.set(k, again) || f.head != 1 {
		t.Errorf("head %d", f.head)
	}
	if !f.withdraw(k, gone(k)) || f.withdraw(k, gone(k)) || f.head != 2 {
		t.Errorf("head %d", f.head)
	}
	_, again = lease("a", 1)
	if !f.set(k, again) || f.head != 3 {
		t.Error("a fact that came back is news")
	}
}

// However large the records, a delta fits its frame and leaves none behind.
func TestDeltasFitTheirFrames(t *testing.T) {
	f := newFacts()
	for i := range 40 {
		k := factKey{1, fmt.Sprint(i)}
		f.set(k, &quarryv1.Record{Kind: 1, Key: []byte(k.key), Value: make([]byte, wire.MaxRecord-100*i-100)})
	}
	n := 0
	for at := uint64(0); at < f.head; {
		recs, upto := f.delta(at)
		fr := &quarryv1.AgentFrame{Number: 1 << 62, Session: 1 << 62, Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{
			From: &quarryv1.Revision{Start: 1 << 62, Counter: at}, Upto: &quarryv1.Revision{Start: 1 << 62, Counter: upto}, Records: recs}}}
		if size := proto.Size(fr); size > wire.MaxFrame {
			t.Errorf("frame of %d bytes", size)
		}
		n += len(recs)
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

func BenchmarkSet(b *testing.B) {
	r, _ := New(Options{Region: "eu", Cluster: "k1", Hub: "127.0.0.1:7701", Start: 1})
	n := uint64(0)
	for b.Loop() {
		n++
		r.Set(catalog.Fact{Kind: catalog.FactPlacement, Sighting: &catalog.Sighting{
			Slate: "dbs/orders", Root: "dbs/orders", Kind: catalog.KindLog, Seen: catalog.SeenLive, Position: &n}})
	}
}
