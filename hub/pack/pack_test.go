package pack

import (
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"
	"time"
)

type word string

type inner struct {
	Name word
	At   *time.Time
	N    *uint64
}

type outer struct {
	A, B   string
	Yes    bool
	I      int
	J      int64
	U      uint64
	Small  uint8
	F      float64
	At     time.Time
	Labels map[string]string
	Many   []inner
	Names  []string
	One    *inner
	Deep   inner
}

func some(rng *rand.Rand) *outer {
	texts := []string{"", "a", "prod", "dbs/team-1/x", string(make([]byte, 300))}
	pick := func() string { return texts[rng.IntN(len(texts))] }
	at := func() time.Time {
		t := time.Unix(rng.Int64N(1<<33)-1<<32, rng.Int64N(1e9))
		switch rng.IntN(3) {
		case 0:
			return time.Time{}
		case 1:
			return t.In(time.FixedZone("", (rng.IntN(48)-24)*1800))
		}
		return t.UTC()
	}
	in := func() inner {
		x := inner{Name: word(pick())}
		if rng.IntN(2) == 0 {
			x.At = new(at())
		}
		if rng.IntN(2) == 0 {
			x.N = new(rng.Uint64())
		}
		return x
	}
	o := &outer{A: pick(), B: pick(), Yes: rng.IntN(2) == 0, I: rng.IntN(100) - 50, J: int64(rng.Uint64()), U: rng.Uint64() >> rng.IntN(64),
		Small: uint8(rng.Uint32()), F: rng.NormFloat64(), At: at(), Deep: in()}
	if rng.IntN(3) > 0 {
		o.Labels = map[string]string{}
		for range rng.IntN(4) {
			o.Labels[pick()] = pick()
		}
	}
	if rng.IntN(3) > 0 {
		o.Many = []inner{}
		for range rng.IntN(3) {
			o.Many = append(o.Many, in())
		}
		o.Names = append([]string{}, make([]string, rng.IntN(3))...)
	}
	if rng.IntN(2) == 0 {
		o.One = new(in())
	}
	return o
}

// alike compares by instant and zone, not by how a zone is kept.
func alike(a, b *outer) bool {
	for _, t := range [...][2]*time.Time{{&a.At, &b.At}} {
		if t[0].Format(time.RFC3339Nano) != t[1].Format(time.RFC3339Nano) {
			return false
		}
	}
	x, y := *a, *b
	x.At, y.At = time.Time{}, time.Time{}
	same := func(p, q *inner) bool {
		if (p.At == nil) != (q.At == nil) || p.At != nil && p.At.Format(time.RFC3339Nano) != q.At.Format(time.RFC3339Nano) {
			return false
		}
		p.At, q.At = nil, nil
		return reflect.DeepEqual(p, q)
	}
	if len(x.Many) != len(y.Many) || (x.Many == nil) != (y.Many == nil) || (x.One == nil) != (y.One == nil) {
		return false
	}
	for i := range x.Many {
		if !same(&x.Many[i], &y.Many[i]) {
			return false
		}
	}
	if x.One != nil && !same(x.One, y.One) || !same(&x.Deep, &y.Deep) {
		return false
	}
	x.Many, y.Many, x.One, y.One = nil, nil, nil, nil
	return reflect.DeepEqual(x, y)
}

// What was laid out comes back, and equal maps are one.
func TestValuesComeBack(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	f := Of(reflect.TypeFor[outer]())
	var w Writer
	for range 40 {
		w.Reset()
		var all []*outer
		for range 1 + rng.IntN(20) {
			all = append(all, some(rng))
			w.Add(f, all[len(all)-1])
		}
		same := Same{}
		r := NewReader(string(w.B), same)
		for i, want := range all {
			got := new(outer)
			if !r.Next(f, got) || !alike(got, some2(want)) {
				t.Fatalf("value %d:\ngot  %+v\nwant %+v", i, got, want)
			}
		}
		if !r.Whole() {
			t.Fatal("something is left")
		}
		for cut := range len(w.B) {
			r := NewReader(string(w.B[:cut]), nil)
			for range all {
				r.Next(f, new(outer))
			}
			if r.Whole() {
				t.Fatalf("cut at %d of %d, nothing is amiss", cut, len(w.B))
			}
		}
	}
}

// some2 is a copy whose parts alike may empty.
func some2(o *outer) *outer {
	c := *o
	c.Many = append([]inner(nil), o.Many...)
	if o.Many != nil && c.Many == nil {
		c.Many = []inner{}
	}
	if o.One != nil {
		c.One = new(*o.One)
	}
	return &c
}

func TestAShapeTellsFormsApart(t *testing.T) {
	shape := func(v any) string { return Of(reflect.TypeOf(v)).Shape() }
	if got, want := shape(inner{}), "{Name:s At:*t N:*u}"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if a, b := shape(struct{ A, B string }{}), shape(struct{ B, A string }{}); a == b {
		t.Errorf("%s for both", a)
	}
	for _, v := range []any{func() {}, map[string]int{}, struct{ a int }{}, struct{}{}, [2]int{}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a %T has a form", v)
				}
			}()
			shape(v)
		}()
	}
}

func FuzzReader(f *testing.F) {
	form := Of(reflect.TypeFor[outer]())
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		var w Writer
		w.Add(form, some(rng))
		f.Add(string(w.B))
	}
	f.Add(string([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f}))
	f.Fuzz(func(t *testing.T, s string) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, n := NewReader(s, Same{}), 0
		for !r.Whole() && r.Next(form, new(outer)) {
			n++
		}
		runtime.ReadMemStats(&after)
		// A value alone is 300 bytes; of lists each element takes some bytes.
		if took, most := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+len(s)*300); took > most {
			t.Fatalf("%d bytes of memory for %d bytes", took, len(s))
		}
		if n > len(s) {
			t.Fatalf("%d values in %d bytes", n, len(s))
		}
	})
}

func BenchmarkRead(b *testing.B) {
	form := Of(reflect.TypeFor[outer]())
	rng := rand.New(rand.NewPCG(1, 1))
	var w Writer
	for range 1000 {
		w.Add(form, some(rng))
	}
	s, same := string(w.B), Same{}
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(s, same)
		for range 1000 {
			if !r.Next(form, new(outer)) {
				b.Fatal(math.NaN())
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/value")
}
