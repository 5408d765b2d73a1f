package sst_test

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

func rowsOf(tb testing.TB, t *sst.Table) []sst.Row {
	tb.Helper()
	var rows []sst.Row
	s := t.Scan(context.Background(), nil, nil)
	defer s.Close()
	for s.Next() {
		r := *s.Row()
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		rows = append(rows, r)
	}
	if s.Err() != nil {
		tb.Fatal(s.Err())
	}
	return rows
}

func write(tb testing.TB, rows []sst.Row, o sst.Options) ([]byte, manifest.Info) {
	tb.Helper()
	w, err := sst.NewWriter(o)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range rows {
		if err := w.Add(&rows[i]); err != nil {
			tb.Fatal(err)
		}
	}
	raw, info, err := w.Finish()
	if err != nil {
		tb.Fatal(err)
	}
	return raw, info
}

// Every table of every real core, written again by us with each codec, has the
// same rows and statistics; without compression and in the core's own block
// size, blocks, index and separators are the core's byte for byte.
func TestRealTablesWrittenAgain(t *testing.T) {
	all, same := 0, 0
	ctx := t.Context()
	tables(t, "compacted", func(path string, raw []byte) {
		tab, err := sst.Whole(raw)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		foot, err := tab.Footer(ctx)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		rows := rowsOf(t, tab)
		all++
		for codec := int8(sst.None); codec <= sst.Zstd; codec++ {
			out, info := write(t, rows, sst.Options{Compression: codec, Filter: codec%2 == 0, FilterFrom: 10})
			back, err := sst.Whole(out)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if got := rowsOf(t, back); !reflect.DeepEqual(got, rows) {
				t.Fatalf("%s, codec %d: rows changed", path, codec)
			}
			f, err := back.Footer(ctx)
			if err != nil || !reflect.DeepEqual(f.Info, info) {
				t.Fatalf("%s, codec %d: info %+v, returned was %+v: %v", path, codec, f.Info, info, err)
			}
			filter, err := back.Filter(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if !filter.MayContain(r.Key) {
					t.Fatalf("%s, codec %d: the filter lost %q", path, codec, r.Key)
				}
			}
			old, ok, err := tab.Stats(ctx)
			now, _, err2 := back.Stats(ctx)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			if ok && (old.Puts != now.Puts || old.Deletes != now.Deletes || old.Merges != now.Merges || old.RawKeySize != now.RawKeySize || old.RawValueSize != now.RawValueSize) {
				t.Errorf("%s: stats %+v, the core's %+v", path, now, old)
			}
			// What 0.12.1 writes, filter included.
			if codec == foot.Info.Compression && foot.Info.FilterFormat == 0 && codec == sst.None {
				mine, _ := write(t, rows, sst.Options{Filter: true})
				if bytes.Equal(mine, raw) {
					same++
				}
			}
		}
	})
	t.Logf("%d tables, %d are byte for byte those of 0.12.1", all, same)
	if all < 300 || same < 10 {
		t.Errorf("%d tables, %d the same bytes: too few", all, same)
	}
}

func drawRows(t *rapid.T) []sst.Row {
	keys := rapid.SliceOfNDistinct(rapid.SliceOfN(rapid.Byte(), 1, 40), 1, 300, func(b []byte) string { return string(b) }).Draw(t, "keys")
	slices.SortFunc(keys, bytes.Compare)
	var rows []sst.Row
	for i, k := range keys {
		n := 1
		if i%7 == 3 {
			n = rapid.IntRange(1, 40).Draw(t, "versions")
		}
		for v := range n {
			r := sst.Row{Key: k, Seq: uint64(1000 - v), Flags: sst.Flags(rapid.SampledFrom([]int{0, 1, 2, 4, 5, 6, 8, 12, 14}).Draw(t, "flags"))}
			if !r.Tombstone() {
				size := rapid.SampledFrom([]int{0, 1, 30, 200, 5000}).Draw(t, "size")
				r.Value = bytes.Repeat([]byte{byte(i)}, size)
			}
			if r.Flags&sst.HasCreate != 0 {
				r.CreateTS = rapid.Int64().Draw(t, "create")
			}
			if r.Flags&sst.HasExpire != 0 {
				r.ExpireTS = rapid.Int64().Draw(t, "expire")
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// Whatever rows go in come out, scanned and found one by one.
func TestWrittenTablesGiveTheirRowsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := drawRows(t)
		o := sst.Options{
			BlockSize:   rapid.SampledFrom([]int{0, 1024, 65536}).Draw(t, "block"),
			Compression: int8(rapid.IntRange(0, 4).Draw(t, "codec")),
			Filter:      rapid.Bool().Draw(t, "filter"), FilterFrom: 1,
		}
		w, err := sst.NewWriter(o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if err := w.Add(&rows[i]); err != nil {
				t.Fatal(err)
			}
		}
		raw, _, err := w.Finish()
		if err != nil {
			t.Fatal(err)
		}
		tab, err := sst.Whole(raw)
		if err != nil {
			t.Fatal(err)
		}
		var got []sst.Row
		s := tab.Scan(context.Background(), nil, nil)
		for s.Next() {
			r := *s.Row()
			r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
			got = append(got, r)
		}
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
		if !reflect.DeepEqual(got, rows) {
			t.Fatalf("%d rows in, %d out, or others", len(rows), len(got))
		}
		for _, r := range rows {
			n := 0
			s := tab.Scan(context.Background(), r.Key, append(bytes.Clone(r.Key), 0))
			for s.Next() {
				n++
			}
			if n == 0 {
				t.Fatalf("key %x is not found", r.Key)
			}
		}
		if n, err := tab.Check(context.Background(), func(f *sst.Fault) { t.Fatalf("our check of our own table: %v", f) }); err != nil || n != int64(len(rows)) {
			t.Fatalf("%d of %d rows checked: %v", n, len(rows), err)
		}
	})
}

func TestWritersRefuse(t *testing.T) {
	w, _ := sst.NewWriter(sst.Options{})
	if _, _, err := w.Finish(); err == nil {
		t.Error("a table without rows")
	}
	for name, r := range map[string]sst.Row{
		"an empty key":             {Value: []byte("x")},
		"a long key":               {Key: make([]byte, 65536)},
		"a tombstone with a value": {Key: []byte("k"), Flags: sst.Tombstone, Value: []byte("v")},
		"a deleted operand":        {Key: []byte("k"), Flags: sst.Tombstone | sst.Merge},
		"an unknown flag":          {Key: []byte("k"), Flags: 64},
	} {
		w, _ := sst.NewWriter(sst.Options{})
		if err := w.Add(&r); err == nil {
			t.Error(name)
		}
	}
	w, _ = sst.NewWriter(sst.Options{})
	_ = w.Add(&sst.Row{Key: []byte("b"), Seq: 1})
	if err := w.Add(&sst.Row{Key: []byte("b"), Seq: 2}); err == nil {
		t.Error("a newer version after an older one")
	}
}

// Every WAL object of every core, written again, has the same rows; two with
// the same rows differ by their marks alone.
func TestRealWALWrittenAgain(t *testing.T) {
	fences, same := 0, 0
	tables(t, "wal", func(path string, raw []byte) {
		o, err := wal.Decode(raw)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for codec := int8(sst.None); codec <= sst.Zstd; codec++ {
			a, err := wal.Encode(o.Rows, codec, [16]byte{1})
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			b, _ := wal.Encode(o.Rows, codec, [16]byte{2})
			if bytes.Equal(a, b) {
				t.Fatalf("%s: the mark makes no difference", path)
			}
			back, err := wal.Decode(a)
			if err != nil || fmt.Sprint(back.Rows) != fmt.Sprint(o.Rows) {
				t.Fatalf("%s, codec %d: rows changed: %v", path, codec, err)
			}
			if codec == sst.None && len(o.Rows) > 0 && len(raw) > 100 && bytes.HasPrefix(a, raw[:100]) && len(a) == len(raw)+16 {
				same++
			}
		}
		if o.Fence() {
			fences++
		}
	})
	t.Logf("%d fences; %d objects are those of 0.12.1 but for the mark", fences, same)
	if fences == 0 || same == 0 {
		t.Error("nothing compared")
	}
}
