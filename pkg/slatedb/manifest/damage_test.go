package manifest_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb/fbtest"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

type (
	table  = fbtest.Table
	vector = []fbtest.Table
)

// object puts a version in front of a table.
func encode(version uint16, t table) []byte {
	return append(binary.BigEndian.AppendUint16(nil, version), fbtest.Build(t)...)
}

func id128(n uint64) table { return table{0: n << 16, 1: n} }

func sst(n uint64) table { return table{0: id128(n), 1: table{0: []byte("a"), 7: []byte("z")}} }

// with returns t with field id changed; nil removes it.
func with(t table, id int, v any) table {
	out := table{}
	for k, x := range t {
		out[k] = x
	}
	if out[id] = v; v == nil {
		delete(out, id)
	}
	return out
}

// smallV1 and smallV2 are the smallest valid manifests with one of everything.
func smallV1() table {
	ranged := with(sst(2), 2, table{0: table{0: []byte("b"), 1: uint8(2)}, 1: table{1: uint8(1)}})
	return table{
		1: vector{externalDB()},
		2: true, 7: id128(1), 8: vector{sst(1), ranged},
		9:  vector{{0: uint32(5), 1: vector{sst(3)}}},
		11: vector{checkpoint()},
	}
}

func smallV2() table {
	view := table{0: id128(7), 1: id128(1)}
	return table{
		1: vector{externalDB()},
		2: true, 7: id128(1), 8: vector{sst(1)}, 9: vector{view},
		10: vector{{0: uint32(5), 1: vector{view}}}, 12: vector{checkpoint()},
		16: vector{{0: []byte("bb"), 2: vector{view}, 3: vector{}}, {0: []byte("aa"), 2: vector{}, 3: vector{{1: vector{view}}}}},
		17: "fix2",
	}
}

func externalDB() table {
	return table{0: "parent", 1: id128(1), 2: id128(2), 3: vector{id128(3)}}
}

func checkpoint() table {
	return table{0: id128(9), 1: uint64(3), 2: uint32(200), 3: uint32(100), 6: "keep"}
}

func TestSmallManifests(t *testing.T) {
	m, err := manifest.Decode(encode(1, smallV1()))
	if err != nil {
		t.Fatal(err)
	}
	if v := m.L0[1].Visible; v == nil || string(v.Start.Key) != "b" || !v.Start.Inclusive || !v.End.Unbounded || v.Start.Unbounded {
		t.Errorf("visible range: %+v", v)
	}
	if m.L0[0].Format != 1 || m.L0[0].ViewID != m.L0[0].ID || m.Runs[0].ID != 5 || m.UnknownFields || m.SequenceTracker != nil {
		t.Errorf("manifest: %+v", m)
	}
	if c := m.Checkpoints[0]; c.Name != "keep" || c.Lifetime().Seconds() != 100 {
		t.Errorf("checkpoint: %+v", c)
	}
	if m, err = manifest.Decode(encode(2, smallV2())); err != nil {
		t.Fatal(err)
	}
	if len(m.Segments) != 2 || string(m.Segments[0].Prefix) != "aa" || m.ExtractorName != "fix2" {
		t.Errorf("segments are not sorted by prefix: %+v", m.Segments)
	}
	if m.L0[0].ViewID == m.L0[0].ID || m.L0[0].ID != (ulid.ULID(sstID(1))) {
		t.Errorf("view: %+v", m.L0[0])
	}
}

// sstID is the table id that id128(n) encodes: high half first.
func sstID(n uint64) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], n<<16)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func TestWrongManifestsNameTheField(t *testing.T) {
	info := func(id int, v any) vector { return vector{{0: id128(1), 1: table{id: v}}} }
	bound := func(b table) vector { return vector{with(sst(1), 2, table{0: table{1: uint8(1)}, 1: b})} }
	v1, v2 := smallV1(), smallV2()
	for _, c := range []struct {
		name    string
		version uint16
		t       table
		field   string
	}{
		{"no L0", 1, with(v1, 8, nil), "l0"},
		{"no runs", 1, with(v1, 9, nil), "compacted"},
		{"no checkpoints", 1, with(v1, 11, nil), "checkpoints"},
		{"no table list", 2, with(v2, 8, nil), "ssts"},
		{"no views", 2, with(v2, 9, nil), "l0"},
		{"no runs in V2", 2, with(v2, 10, nil), "compacted"},
		{"no checkpoints in V2", 2, with(v2, 12, nil), "checkpoints"},
		{"a run without tables", 1, with(v1, 9, vector{{}, {0: uint32(1)}}), "compacted[0].ssts"},
		{"a table without id", 1, with(v1, 8, vector{sst(1), {1: table{}}}), "l0[1].id"},
		{"a table without info", 1, with(v1, 8, vector{{0: id128(1)}}), "l0[0].info"},
		{"a checkpoint without id", 1, with(v1, 11, vector{{1: uint64(1)}}), "checkpoints[0].id"},
		{"a checkpoint of an unknown kind without value", 1, with(v1, 11, vector{with(checkpoint(), 4, uint8(1))}), "checkpoints[0].metadata"},
		{"a checkpoint's metadata without a kind", 1, with(v1, 11, vector{with(checkpoint(), 5, table{})}), "checkpoints[0].metadata"},
		{"a checkpoint named in no known letters", 2, with(v2, 12, vector{with(checkpoint(), 6, "\xff")}), "checkpoints[0].name"},
		{"an external database without path", 1, with(v1, 1, vector{with(externalDB(), 0, nil)}), "external_dbs[0].path"},
		{"an external database without source", 1, with(v1, 1, vector{with(externalDB(), 1, nil)}), "external_dbs[0].source_checkpoint_id"},
		{"an external database without tables", 1, with(v1, 1, vector{with(externalDB(), 3, nil)}), "external_dbs[0].sst_ids"},
		{"a view of no table", 2, with(v2, 9, vector{{0: id128(7), 1: id128(8)}}), "l0[0].sst_id"},
		{"a view without table", 2, with(v2, 9, vector{{0: id128(7)}}), "l0[0].sst_id"},
		{"a segment without prefix", 2, with(v2, 16, vector{{2: vector{}, 3: vector{}}}), "segments[0].prefix"},
		{"a segment without L0", 2, with(v2, 16, vector{{0: []byte("a"), 3: vector{}}}), "segments[0].l0"},
		{"a segment without runs", 2, with(v2, 16, vector{{0: []byte("a"), 2: vector{}}}), "segments[0].compacted"},
		{"a view of no table in a segment's run", 2, with(v2, 16, vector{{0: []byte("a"), 2: vector{}, 3: vector{{1: vector{{0: id128(7), 1: id128(8)}}}}}}), "segments[0].compacted[0].ssts[0].sst_id"},
		{"an index beyond any object", 1, with(v1, 8, info(1, uint64(math.MaxUint64))), "l0[0].info.index_len"},
		{"a filter beyond any object", 1, with(v1, 8, info(4, uint64(math.MaxInt64))), "l0[0].info.filter_len"},
		{"statistics beyond any object", 2, with(v2, 8, info(8, uint64(math.MaxUint64))), "ssts[0].info.stats_len"},
		{"an unbounded bound with a key", 1, with(v1, 8, bound(table{0: []byte("k"), 1: uint8(1)})), "l0[0].visible_range.end_bound.bound_type"},
		{"an inclusive bound without key", 1, with(v1, 8, bound(table{1: uint8(2)})), "l0[0].visible_range.end_bound.bound_type"},
		{"an exclusive bound without key", 1, with(v1, 8, bound(table{1: uint8(3)})), "l0[0].visible_range.end_bound.bound_type"},
		{"a bound of no type", 1, with(v1, 8, bound(table{0: []byte("k")})), "l0[0].visible_range.end_bound.bound_type"},
		{"a bound of an unknown type", 1, with(v1, 8, bound(table{0: []byte("k"), 1: uint8(4)})), "l0[0].visible_range.end_bound.bound_type"},
		{"a range without end", 1, with(v1, 8, vector{with(sst(1), 2, table{0: table{1: uint8(1)}})}), "l0[0].visible_range.end_bound"},
		{"a vector that points outside", 1, with(v1, 8, fbtest.Offset(1<<30)), "l0"},
	} {
		_, err := manifest.Decode(encode(c.version, c.t))
		var field *manifest.FieldError
		if !errors.As(err, &field) || field.Field != c.field || !errors.Is(err, manifest.ErrCorrupt) {
			t.Errorf("%s: got %v, want field %s", c.name, err, c.field)
		}
	}
}

// A newer writer may have put fields there that we would lose by writing the
// manifest back, wherever they are.
func TestUnknownFieldsAreNoticed(t *testing.T) {
	for name, c := range map[string]struct {
		version uint16
		t       table
	}{
		"in V1":             {1, with(smallV1(), 16, uint64(1))},
		"in V2":             {2, with(smallV2(), 18, uint64(1))},
		"in a checkpoint":   {1, with(smallV1(), 11, vector{with(checkpoint(), 7, true)})},
		"in a table's info": {2, with(smallV2(), 8, vector{{0: id128(1), 1: table{11: true}}})},
	} {
		m, err := manifest.Decode(encode(c.version, c.t))
		if err != nil || !m.UnknownFields {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestPills(t *testing.T) {
	for raw, want := range map[string]string{
		"\xff\xff":                                "no reason given",
		"\xff\xff" + `{"reason":"moved"}`:         `{"reason":"moved"}`,
		"\xff\xff\x1b[2Jgone\x00\xfe":             "\uFFFD[2Jgone\uFFFD\uFFFD", // nothing that a terminal obeys
		"\xff\xff two\nlines ":                    "two lines",
		"\xff\xff" + strings.Repeat("x", 100_000): strings.Repeat("x", 4096) + "…",
	} {
		_, err := manifest.Decode([]byte(raw))
		var p *manifest.Pill
		if !errors.As(err, &p) || p.Reason != want || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %.80v", raw, err)
		}
	}
}

func TestWhatIsNoManifest(t *testing.T) {
	for _, raw := range []string{"", "\x00", "\xff"} {
		if _, err := manifest.Decode([]byte(raw)); !errors.Is(err, manifest.ErrEmpty) {
			t.Errorf("%q: %v", raw, err)
		}
	}
	for _, raw := range []string{"\x00\x00", "\x00\x03abcd", "\xff\xfe", "{}"} {
		_, err := manifest.Decode([]byte(raw))
		var v *manifest.VersionError
		if !errors.As(err, &v) || v.Format != "manifest" || v.Version != binary.BigEndian.Uint16([]byte(raw)) {
			t.Errorf("%q: %v", raw, err)
		}
	}
	for _, raw := range []string{"\x00\x01", "\x00\x02\x00\x00\x00\x00", "\x00\x01\xff\xff\xff\xff"} {
		if _, err := manifest.Decode([]byte(raw)); !errors.Is(err, manifest.ErrCorrupt) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

// use does with a decoded manifest what readers do.
func use(t testing.TB, m *manifest.Manifest) {
	m.Tables(func(tab *manifest.Table) { _ = tab.Info.Size() })
	if _, err := json.Marshal(m.JSON(1)); err != nil {
		t.Errorf("no JSON: %v", err)
	}
}

// check decodes b and sees that it gives one thing or the other.
func check(t testing.TB, b []byte) (decoded bool) {
	m, err := manifest.Decode(b)
	if (m == nil) == (err == nil) {
		t.Fatalf("decode of %d bytes: %v and %v", len(b), m, err)
	}
	if err != nil {
		return false
	}
	use(t, m)
	return true
}

// damaged are real manifests with one of everything.
func damaged(t testing.TB) map[string][]byte {
	all := objects(t, ".manifest")
	out := map[string][]byte{}
	for _, name := range []string{
		"0.17.0/segments/db/manifest/00000000000000000010.manifest",
		"0.15.0/projection/clone/manifest/00000000000000000002.manifest",
		"0.16.0/clone/clone/manifest/00000000000000000003.manifest",
		"0.13.1/compacted/db/manifest/00000000000000000029.manifest",
		"0.12.1/fresh/db/manifest/00000000000000000001.manifest",
	} {
		if out[name] = all[name]; out[name] == nil {
			t.Fatalf("no fixture %s", name)
		}
	}
	return out
}

// A real manifest cut anywhere gives an error or, where only padding is lost,
// the value; bytes that say nothing may be wrong without anyone seeing, for a
// manifest has no checksum.
func TestTruncationsAndBitFlips(t *testing.T) {
	for name, raw := range damaged(t) {
		short := 0
		for n := range raw {
			if check(t, raw[:n]) {
				short++
			}
		}
		if short > 8 {
			t.Errorf("%s: %d of %d truncations decode", name, short, len(raw))
		}
		bad := 0
		for bit := range 8 * len(raw) {
			b := slices.Clone(raw)
			b[bit/8] ^= 1 << (bit % 8)
			if !check(t, b) {
				bad++
			}
		}
		t.Logf("%s: %d bytes, %d truncations and %d of %d flips are harmless or unseen", path.Dir(name), len(raw), short, 8*len(raw)-bad, 8*len(raw))
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range damaged(f) {
		f.Add(b)
	}
	f.Add(encode(1, smallV1()))
	f.Add(encode(2, smallV2()))
	f.Add([]byte("\xff\xff{}"))
	f.Fuzz(func(t *testing.T, b []byte) { check(t, b) })
}
