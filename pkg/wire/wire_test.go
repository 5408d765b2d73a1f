package wire

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// fill sets every field of a struct to something that is not zero, different
// from field to field.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1_700_000_000+int64(*n), 123456789).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"b": "1", "a": "2"}))
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Int:
		v.SetInt(1)
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.5)
	default:
		panic(v.Kind().String())
	}
}

// full has one fact of every kind with every field that travels set.
func full() []catalog.Fact {
	var (
		n  int
		s  catalog.Sighting
		p  catalog.RestorePoint
		rg catalog.Registration
		l  catalog.Lease
		f  catalog.Finding
		h  catalog.Pin
		pm catalog.Permit
	)
	for _, v := range []any{&s, &p, &rg, &l, &f, &h, &pm} {
		fill(reflect.ValueOf(v).Elem(), &n)
	}
	s.Kind, s.Seen = catalog.KindLog, catalog.SeenLive
	p.Source, p.State = catalog.SourceSnapshot, catalog.RestoreVerified
	p.Region, p.ObservedAt, p.FirstSeen = "", time.Time{}, time.Time{} // the hub's to say
	rg.Action, rg.Kind = catalog.Register, catalog.KindVector
	l.Role = "reader"
	f.Region, f.ObservedAt = "", time.Time{}
	h.Region, h.ObservedAt = "", time.Time{}
	facts := []catalog.Fact{
		{Kind: catalog.FactPlacement, Sighting: &s},
		{Kind: catalog.FactRestorePoint, RestorePoint: &p},
		{Kind: catalog.FactRegistration, Registration: &rg},
		{Kind: catalog.FactLease, Lease: &l},
		{Kind: catalog.FactFinding, Finding: &f},
		{Kind: catalog.FactHold, Pin: &h},
		{Kind: catalog.FactPermit, Permit: &pm},
	}
	for i := range facts {
		facts[i].Key = KeyOf(facts[i])
		facts[i].Revision = catalog.Revision{Start: 77, Counter: uint64(i + 1)}
	}
	return facts
}

// A field added to the catalog and forgotten on the wire would be lost in
// silence; here it fails.
func TestEveryFieldOfEveryKindTravels(t *testing.T) {
	for _, f := range full() {
		t.Run(KindName(uint32(f.Kind)), func(t *testing.T) {
			rec, err := Encode(f)
			if err != nil {
				t.Fatal(err)
			}
			rec.Revision = f.Revision.Counter
			got, err := Decode(f.Revision.Start, rec)
			if err != nil {
				t.Fatal(err)
			}
			if got.Sum == (catalog.Sum{}) {
				t.Error("no sum")
			}
			got.Sum = catalog.Sum{}
			if !reflect.DeepEqual(got, f) {
				t.Errorf("got\n%+v\nwant\n%+v", got, f)
			}
		})
	}
}

func TestAbsentIsNotZero(t *testing.T) {
	zero := uint64(0)
	for _, p := range []*uint64{nil, &zero} {
		f := catalog.Fact{Kind: catalog.FactPlacement, Sighting: &catalog.Sighting{
			Slate: "a", Root: "a", Kind: catalog.KindSlateDB, Seen: catalog.SeenLive, Position: p, Bytes: p,
		}}
		rec, err := Encode(f)
		if err != nil {
			t.Fatal(err)
		}
		rec.Revision = 1
		got, err := Decode(1, rec)
		if err != nil {
			t.Fatal(err)
		}
		if s := got.Sighting; (s.Position == nil) != (p == nil) || (s.Bytes == nil) != (p == nil) || s.ManifestID != nil || s.ListedAt != nil {
			t.Errorf("sent %v, got %+v", p, s)
		}
	}
}

func TestADatabaseAtTheBucketsRootTravels(t *testing.T) {
	rec, err := Encode(catalog.Fact{Kind: catalog.FactPlacement, Sighting: &catalog.Sighting{
		Slate: "whole", Root: "", Kind: catalog.KindSlateDB, Seen: catalog.SeenLive,
	}})
	if err != nil {
		t.Fatal(err)
	}
	rec.Revision = 1
	if _, err := Decode(1, rec); err != nil {
		t.Fatal(err)
	}
}

// A writer that made ten thousand checkpoints must not make its row invisible.
func TestASightingThatIsTooLargeLosesCheckpointsAndCountsThem(t *testing.T) {
	s := catalog.Sighting{Slate: "a", Root: "a", Kind: catalog.KindSlateDB, Seen: catalog.SeenLive, MoreCheckpoints: 3}
	for i := range 10_000 {
		s.Checkpoints = append(s.Checkpoints, catalog.Checkpoint{ID: fmt.Sprintf("%036d", i), ManifestID: uint64(i)})
	}
	rec, err := Encode(catalog.Fact{Kind: catalog.FactPlacement, Sighting: &s})
	if err != nil {
		t.Fatal(err)
	}
	rec.Revision = 1 << 63
	if n := proto.Size(rec); n > MaxRecord || n < MaxRecord-2*MaxKey {
		t.Errorf("record of %d bytes: want a little under %d", n, MaxRecord)
	}
	got, err := Decode(1, rec)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Sighting.Checkpoints); n == 0 || uint64(n)+got.Sighting.MoreCheckpoints != 10_003 {
		t.Errorf("%d checkpoints and %d more", n, got.Sighting.MoreCheckpoints)
	}
	if len(s.Checkpoints) != 10_000 || s.MoreCheckpoints != 3 {
		t.Error("the caller's sighting was changed")
	}
}

func TestWhatCannotTravelSaysSo(t *testing.T) {
	ok := catalog.Sighting{Slate: "a", Root: "a", Kind: catalog.KindSlateDB, Seen: catalog.SeenLive}
	sight := func(change func(*catalog.Sighting)) catalog.Fact {
		s := ok
		change(&s)
		return catalog.Fact{Kind: catalog.FactPlacement, Sighting: &s}
	}
	for _, c := range []struct {
		name, why string
		fact      catalog.Fact
		silent    bool // not even its key can travel
	}{
		{"a value too large without checkpoints", "without its checkpoints", sight(func(s *catalog.Sighting) {
			for range 9000 {
				s.Orphans = append(s.Orphans, catalog.Orphan{Path: strings.Repeat("x", 40)})
			}
		}), false},
		{"a kind that nobody knows", `kind "graph"`, sight(func(s *catalog.Sighting) { s.Kind = "graph" }), false},
		{"an incarnation that is not UTF-8", "UTF-8", sight(func(s *catalog.Sighting) { s.Incarnation = "\xff" }), false},
		{"a key that is not that of the value", "its key is", catalog.Fact{Kind: catalog.FactPlacement, Key: "b", Sighting: &ok}, false},
		{"no value", "no value", catalog.Fact{Kind: catalog.FactLease, Key: "x"}, false},
		{"a root that is not UTF-8", "UTF-8", sight(func(s *catalog.Sighting) { s.Root = "\xff" }), true},
		{"a withdrawn placement", "never withdrawn", catalog.Fact{Kind: catalog.FactPlacement, Key: "a", Gone: "bye"}, true},
		{"a lease without end", "no number", catalog.Fact{Kind: catalog.FactLease, Lease: &catalog.Lease{
			Slate: "a", Role: "reader", ID: "x", TTL: inf()}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec, err := Encode(c.fact)
			if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Fatalf("error %v, want one with %q", err, c.why)
			}
			if (rec == nil) != c.silent {
				t.Fatalf("record %v", rec)
			}
			if rec == nil {
				return
			}
			rec.Revision = 1
			f, err := Decode(1, rec)
			if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("the hub hears %v, want %q", err, c.why)
			}
			if f.Sum == (catalog.Sum{}) || f.Key == "" {
				t.Errorf("the hub cannot count it: %+v", f)
			}
		})
	}
}

func inf() float64 { z := 0.0; return 1 / z }

func TestPoisonIsRefusedByTheHubAndStillCounts(t *testing.T) {
	good := full()[0]
	value := func() []byte {
		rec, err := Encode(good)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Value
	}()
	for _, c := range []struct {
		name string
		rec  *quarryv1.Record
		ok   bool
	}{
		{"a good one", &quarryv1.Record{Kind: 1, Key: []byte(good.Key), Revision: 1, Value: value}, true},
		{"fields of a newer version", &quarryv1.Record{Kind: 1, Key: []byte(good.Key), Revision: 1,
			Value: append(protowire.AppendString(protowire.AppendTag(nil, 999, protowire.BytesType), "new"), value...)}, true},
		{"a kind of a newer version", &quarryv1.Record{Kind: 60, Key: []byte("x"), Revision: 1, Value: value}, false},
		{"a kind that wraps around", &quarryv1.Record{Kind: 257, Key: []byte(good.Key), Revision: 1, Value: value}, false},
		{"a value that is no message", &quarryv1.Record{Kind: 1, Key: []byte(good.Key), Revision: 1, Value: []byte("\xff\xff")}, false},
		{"a value with text that is not UTF-8", &quarryv1.Record{Kind: 1, Key: []byte(good.Key), Revision: 1,
			Value: protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "\xff\xfe")}, false},
		{"no value at all", &quarryv1.Record{Kind: 1, Key: []byte(good.Key), Revision: 1}, false},
		{"a key that is not UTF-8", &quarryv1.Record{Kind: 1, Key: []byte("\xff"), Revision: 1, Value: value}, false},
		{"revision 0", &quarryv1.Record{Kind: 1, Key: []byte(good.Key), Value: value}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Decode(1, c.rec)
			if (err == nil) != c.ok {
				t.Fatalf("error %v", err)
			}
			if f.Sum == (catalog.Sum{}) {
				t.Error("no sum")
			}
			if !c.ok && f.Sighting != nil {
				t.Error("a refused record kept its value")
			}
		})
	}
}

func TestAnExpiryInTheFarFutureCanBeShown(t *testing.T) {
	far := time.Unix(1<<40, 0)
	got, err := Time(Stamp(far))
	if err != nil || got.Year() != 9999 {
		t.Fatalf("%v %v", got, err)
	}
	if _, err := got.MarshalJSON(); err != nil {
		t.Error(err)
	}
}
