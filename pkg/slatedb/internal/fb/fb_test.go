package fb_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb"
	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb/fbtest"
)

func root(t *testing.T, b []byte) fb.Table {
	t.Helper()
	r, err := fb.Root(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEveryKindOfFieldReadsBack(t *testing.T) {
	r := root(t, fbtest.Build(fbtest.Table{
		0: uint64(1 << 63), 1: int64(-5), 2: uint32(7), 3: uint16(8), 4: uint8(9), 5: true,
		6: []byte{1, 2}, 7: "héllo", 8: []uint16{3, 4}, 9: []uint32{5, 6},
		10: fbtest.Table{0: uint32(11)},
		11: []fbtest.Table{{0: uint32(12)}, {}, {0: uint32(13)}},
		13: []byte{}, 14: "",
	}))
	if r.Uint64(0, "f", 0) != 1<<63 || r.Int64(1, "f", 0) != -5 || r.Uint32(2, "f", 0) != 7 ||
		r.Uint16(3, "f", 0) != 8 || r.Uint8(4, "f", 0) != 9 || !r.Bool(5, "f") {
		t.Error("a scalar reads back wrong")
	}
	if s, ok := r.String(7, "f"); s != "héllo" || !ok {
		t.Errorf("string: %q, %v", s, ok)
	}
	if !slices.Equal(r.Bytes(6, "f"), []byte{1, 2}) || !slices.Equal(r.Uint16s(8, "f"), []uint16{3, 4}) || !slices.Equal(r.Uint32s(9, "f"), []uint32{5, 6}) {
		t.Error("a vector reads back wrong")
	}
	if !r.Sub(10, "f", func(e fb.Table) {
		if e.Uint32(0, "f", 0) != 11 {
			t.Error("the sub-table reads back wrong")
		}
	}) {
		t.Error("the sub-table is not there")
	}
	var got []uint32
	r.Tables(11, "f", func(_ int, e fb.Table) { got = append(got, e.Uint32(0, "f", 99)) })
	if !slices.Equal(got, []uint32{12, 99, 13}) || r.Len(11, "f", 4) != 3 {
		t.Errorf("vector of tables: %v of %d", got, r.Len(11, "f", 4))
	}
	// Absent, and beyond the vtable: the default, and not a fault.
	for _, id := range []int{12, 15, 4000} {
		if r.Has(id) || r.Uint64(id, "f", 42) != 42 || r.Bytes(id, "f") != nil || r.Table(id, "f").Present() {
			t.Errorf("field %d is there", id)
		}
		if _, ok := r.String(id, "f"); ok {
			t.Errorf("string %d is there", id)
		}
	}
	// Present and empty is not absent.
	if b := r.Bytes(13, "f"); b == nil || len(b) != 0 {
		t.Errorf("empty bytes: %v", b)
	}
	if s, ok := r.String(14, "f"); s != "" || !ok {
		t.Errorf("empty string: %q, %v", s, ok)
	}
	if r.Fields() != 15 {
		t.Errorf("%d fields", r.Fields())
	}
	if r.Err() != nil {
		t.Error(r.Err())
	}
}

func TestFaultsNameTheirField(t *testing.T) {
	leaf := fbtest.Table{0: fbtest.Offset(1 << 30)}
	r := root(t, fbtest.Build(fbtest.Table{0: []fbtest.Table{{}, {1: leaf}}}))
	r.Tables(0, "runs", func(_ int, e fb.Table) {
		e.Sub(1, "info", func(e fb.Table) { e.Bytes(0, "first_key") })
	})
	var fault *fb.Error
	if err := r.Err(); !errors.Is(err, fb.ErrCorrupt) || !errors.As(err, &fault) || fault.Field != "runs[1].info.first_key" {
		t.Fatalf("fault: %v", err)
	}
	// The first fault stays, and everything after it is absent.
	r.Fail("other", "second")
	if r.Err() != error(fault) || r.Has(0) || r.Len(0, "runs", 4) != 0 {
		t.Errorf("a fault does not stick: %v", r.Err())
	}
}

func TestStringsAreCheckedLikeTheRealVerifierDoes(t *testing.T) {
	if r := root(t, fbtest.Build(fbtest.Table{0: "\xff\xfe"})); func() bool { _, ok := r.String(0, "s"); return ok }() || r.Err() == nil {
		t.Error("a string that is not UTF-8 passes")
	}
	// The same bytes as a vector have no zero byte behind them.
	if r := root(t, fbtest.Build(fbtest.Table{0: []byte("abc")})); func() bool { _, ok := r.String(0, "s"); return ok }() || r.Err() == nil {
		t.Error("a string without its zero byte passes")
	}
}

// A small buffer can point at the same table from many places, several levels
// deep, and so describe more work than anyone has time for.
func TestWorkIsBoundedByTheBuffer(t *testing.T) {
	r := root(t, fbtest.Build(fbtest.Table{0: make([]fbtest.Table, 1000)}))
	size := len(fbtest.Build(fbtest.Table{0: make([]fbtest.Table, 1000)}))
	visits := 0
	var visit func(e fb.Table, depth int)
	visit = func(e fb.Table, depth int) {
		visits++
		if depth < 5 {
			// As if each element held the root's vector once more.
			r.Tables(0, "f", func(_ int, e fb.Table) { visit(e, depth+1) })
		}
	}
	visit(r, 0)
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "more elements") {
		t.Errorf("after %d visits: %v", visits, err)
	}
	if visits > 1024+size/4+1 {
		t.Errorf("%d visits in %d bytes", visits, size)
	}
}

// probe reads b in every way there is, to a depth that real schemas have.
func probe(b []byte) {
	r, err := fb.Root(b)
	if err != nil {
		return
	}
	var walk func(t fb.Table, depth int)
	walk = func(t fb.Table, depth int) {
		for id := range min(t.Fields(), 20) {
			// Each way on a buffer of its own would be fairer to later
			// ones, but a fault in one must silence the rest anyway.
			t.Uint64(id, "u64", 0)
			t.Bool(id, "bool")
			if depth < 4 {
				t.Sub(id, "sub", func(e fb.Table) { walk(e, depth+1) })
				t.Tables(id, "tables", func(_ int, e fb.Table) { walk(e, depth+1) })
			}
			t.Bytes(id, "bytes")
			_, _ = t.String(id, "string")
			t.Uint16s(id, "u16s")
			t.Uint32s(id, "u32s")
		}
	}
	walk(r, 0)
	_ = r.Err()
}

func TestDamagedBuffersNeverPanic(t *testing.T) {
	whole := seeds(t)[0]
	for n := range whole {
		probe(whole[:n])
	}
	for bit := range 8 * len(whole) {
		b := slices.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		probe(b)
	}
	for _, b := range [][]byte{nil, {0}, {0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 0}, {4, 0, 0, 0}, {4, 0, 0, 0, 0, 0, 0, 0x80}} {
		probe(b)
		if _, err := fb.Root(b); err == nil {
			t.Errorf("% x has a root", b)
		}
	}
}

// seeds returns the flatbuffers of some real objects, the largest first.
func seeds(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for _, glob := range []string{"0.17.0/segments/db/manifest/*", "0.15.0/projection/*/manifest/*", "0.17.0/compacted/db/compactions/*"} {
		paths, err := filepath.Glob(filepath.Join("..", "..", "..", "..", "e2e", "fixtures", "data", glob))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no fixtures at %s: %v", glob, err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b[2:])
		}
	}
	slices.SortStableFunc(out, func(a, b []byte) int { return len(b) - len(a) })
	return out
}

func FuzzTable(f *testing.F) {
	for _, b := range seeds(f)[:20] {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { probe(b) })
}
