package slatedb_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/internal/dirstore"
)

const fixtures = "../../e2e/fixtures/data"

// database is one database written by a real core, and what that core read
// back from it.
type database struct {
	name   string // as in 0.17.0/clone:parent
	dir    string // the store
	root   string
	wal    string // folder of the separate WAL store, "" for none
	concat bool   // merge operands are joined with ","
	rows   []expectedRow
	absent [][]byte
}

type expectedRow struct {
	key    []byte
	value  []byte
	hash   string // of a value that is not spelled out
	length int
	seq    uint64
	times  bool // create and expire were recorded
	create *int64
	expire *int64
	merged bool // the value depends on an operator that only the writer has
}

func (r *expectedRow) matches(value []byte) bool {
	if r.hash == "" {
		return bytes.Equal(value, r.value)
	}
	sum := sha256.Sum256(value)
	return len(value) == r.length && hex.EncodeToString(sum[:]) == r.hash
}

func read[T any](tb testing.TB, path string) T {
	tb.Helper()
	var v T
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return v
}

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func get[T any](tb testing.TB, raw json.RawMessage) T {
	tb.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		tb.Fatalf("%s: %v", raw, err)
	}
	return v
}

// databases returns every database of the fixtures.
func databases(tb testing.TB) []database {
	tb.Helper()
	var all []database
	files, err := filepath.Glob(fixtures + "/0.*/*/expected.json")
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range files {
		e := read[struct {
			Roots  map[string]string
			Wal    string
			Merge  string
			Scan   map[string][][]json.RawMessage
			Absent map[string][]string
		}](tb, f)
		for name, root := range e.Roots {
			dir := filepath.Dir(f)
			rel, _ := filepath.Rel(fixtures, dir)
			d := database{name: filepath.ToSlash(rel) + ":" + name, dir: dir, root: root, wal: e.Wal, concat: e.Merge == "concat"}
			for _, row := range e.Scan[name] {
				r := expectedRow{key: unhex(tb, get[string](tb, row[0])), seq: get[uint64](tb, row[2])}
				if row[1][0] == '"' {
					r.value = unhex(tb, get[string](tb, row[1]))
				} else {
					v := get[struct {
						Len    int
						Sha256 string
					}](tb, row[1])
					r.length, r.hash = v.Len, v.Sha256
				}
				if len(row) == 5 {
					r.times, r.create, r.expire = true, get[*int64](tb, row[3]), get[*int64](tb, row[4])
				}
				d.rows = append(d.rows, r)
			}
			for _, k := range e.Absent[name] {
				d.absent = append(d.absent, unhex(tb, k))
			}
			all = append(all, d)
		}
	}
	files, err = filepath.Glob(fixtures + "/opendata/*/expected-raw.json")
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range files {
		e := read[struct {
			MergedKeys []string `json:"merged_keys"`
			Rows       [][]json.RawMessage
			Total      int
		}](tb, f)
		merged := map[string]bool{}
		for _, k := range e.MergedKeys {
			merged[k] = true
		}
		dir := filepath.Dir(f)
		d := database{name: "opendata/" + filepath.Base(dir), dir: dir, root: "slate"}
		for _, row := range e.Rows {
			k := get[string](tb, row[0])
			r := expectedRow{key: unhex(tb, k), seq: get[uint64](tb, row[3]), merged: merged[k]}
			if !r.merged {
				r.hash, r.length = get[string](tb, row[1]), get[int](tb, row[2])
			}
			d.rows = append(d.rows, r)
		}
		if len(d.rows) != e.Total {
			tb.Fatalf("%s: %d rows of %d", f, len(d.rows), e.Total)
		}
		all = append(all, d)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	// 144 databases of SlateDB in 135 folders and 8 of OpenData: a changed
	// number means that some are not looked at any more.
	if len(all) != 144+8 {
		tb.Fatalf("%d databases in the fixtures", len(all))
	}
	return all
}

func (d *database) open(tb testing.TB, opts slatedb.ReaderOptions) (*slatedb.Reader, *dirstore.Store) {
	tb.Helper()
	s := dirstore.New(d.dir)
	if d.wal != "" {
		opts.WALStore = dirstore.New(filepath.Join(d.dir, d.wal))
	}
	r, err := slatedb.OpenReader(tb.Context(), s, d.root, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return r, s
}

// mismatch tells how e differs from what the real core read, "" when not.
func (d *database) mismatch(want *expectedRow, e *slatedb.Entry) string {
	value := e.Value
	switch {
	case !bytes.Equal(e.Key, want.key):
		return fmt.Sprintf("key %x, want %x", e.Key, want.key)
	case want.merged:
		// An operand alone, or an L0 where the crate's own operator has
		// joined them: the key counts, its value is private.
	case len(e.Operands) > 0 && !d.concat:
		return fmt.Sprintf("%d merge operands", len(e.Operands))
	case len(e.Operands) > 0:
		parts := e.Operands
		if e.Base != nil {
			parts = append([][]byte{e.Base}, parts...)
		}
		value = bytes.Join(parts, []byte(","))
	}
	switch {
	case (e.Value == nil) != (len(e.Operands) > 0):
		return "value and operands do not exclude each other"
	case !want.merged && !want.matches(value):
		return fmt.Sprintf("value %.40q, want %.40q (%d %s)", value, want.value, want.length, want.hash)
	case e.Seq != want.seq:
		return fmt.Sprintf("sequence number %d, want %d", e.Seq, want.seq)
	case want.times && differ(e.CreateTS, e.HasCreate, want.create):
		return fmt.Sprintf("created %d, want %v", e.CreateTS, want.create)
	case want.times && differ(e.ExpireTS, e.HasExpire, want.expire):
		return fmt.Sprintf("expires %d %v, want %v", e.ExpireTS, e.HasExpire, want.expire)
	}
	return ""
}

func differ(ts int64, has bool, want *int64) bool {
	return has != (want != nil) || has && ts != *want
}

func scan(tb testing.TB, r *slatedb.Reader, from, to []byte) []slatedb.Entry {
	tb.Helper()
	var all []slatedb.Entry
	for e, err := range r.Scan(tb.Context(), from, to) {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, e.Clone())
	}
	return all
}

func TestEveryDatabaseReadsBackAsTheRealCoreReadIt(t *testing.T) {
	rows, merged := 0, 0
	for _, d := range databases(t) {
		t.Run(d.name, func(t *testing.T) {
			r, _ := d.open(t, slatedb.ReaderOptions{})
			got := scan(t, r, nil, nil)
			for i := range min(len(got), len(d.rows)) {
				if m := d.mismatch(&d.rows[i], &got[i]); m != "" {
					t.Fatalf("row %d: %s", i, m)
				}
				if len(got[i].Operands) > 0 {
					merged++
				}
			}
			if len(got) != len(d.rows) {
				t.Fatalf("%d rows, want %d", len(got), len(d.rows))
			}
			rows += len(got)

			// A fresh reader, so that nothing is in memory.
			r, s := d.open(t, slatedb.ReaderOptions{})
			for i := range d.rows {
				e, err := r.Get(t.Context(), d.rows[i].key)
				if err != nil {
					t.Fatalf("get %x: %v", d.rows[i].key, err)
				}
				if m := d.mismatch(&d.rows[i], &e); m != "" {
					t.Fatalf("get: %s", m)
				}
			}
			present := map[string]bool{}
			for i := range d.rows {
				present[string(d.rows[i].key)] = true
			}
			absent := d.absent
			for i := range d.rows {
				for _, k := range neighbours(d.rows[i].key) {
					if !present[string(k)] {
						absent = append(absent, k)
					}
				}
			}
			for _, k := range absent {
				if e, err := r.Get(t.Context(), k); !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("get absent %x: %+v %v", k, e, err)
				}
			}
			for _, c := range s.Calls() {
				if c.Op == "get" && strings.Contains(c.Key, "/compacted/") {
					t.Fatalf("the whole table %s was read for single keys", c.Key)
				}
			}
			if f := r.Findings(); len(f) > 0 {
				t.Fatalf("findings %v", f)
			}
		})
	}
	t.Logf("%d rows, %d of them with merge operands", rows, merged)
	if merged == 0 {
		t.Error("no row with merge operands")
	}
}

// neighbours are keys just beside key.
func neighbours(key []byte) [][]byte {
	longer := append(bytes.Clone(key), 0)
	shorter := bytes.Clone(key[:len(key)-1])
	changed := bytes.Clone(key)
	changed[len(changed)-1] ^= 1
	return [][]byte{longer, shorter, changed}
}

func TestScansOfRangesArePartsOfTheFullScan(t *testing.T) {
	for _, d := range databases(t) {
		t.Run(d.name, func(t *testing.T) {
			r, _ := d.open(t, slatedb.ReaderOptions{})
			full := scan(t, r, nil, nil)
			rng := rand.New(rand.NewPCG(1, uint64(len(full))))
			bound := func() []byte {
				if len(full) == 0 || rng.IntN(8) == 0 {
					return [][]byte{nil, {}, {0}, {0xff, 0xff}, []byte("user:")}[rng.IntN(5)]
				}
				k := full[rng.IntN(len(full))].Key
				switch rng.IntN(3) {
				case 0:
					return k
				case 1:
					return k[:rng.IntN(len(k)+1)]
				}
				n := neighbours(k)
				return n[rng.IntN(len(n))]
			}
			for range 25 {
				from, to := bound(), bound()
				var want []slatedb.Entry
				for _, e := range full {
					if bytes.Compare(e.Key, from) >= 0 && (to == nil || bytes.Compare(e.Key, to) < 0) {
						want = append(want, e)
					}
				}
				same(t, fmt.Sprintf("[%x,%x)", from, to), scan(t, r, from, to), want)
			}
			for range 5 {
				prefix := bound()
				var want, got []slatedb.Entry
				for _, e := range full {
					if bytes.HasPrefix(e.Key, prefix) {
						want = append(want, e)
					}
				}
				for e, err := range r.ScanPrefix(t.Context(), prefix) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, e.Clone())
				}
				same(t, fmt.Sprintf("prefix %x", prefix), got, want)
			}
		})
	}
}

func same(t *testing.T, what string, got, want []slatedb.Entry) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d entries, want %d", what, len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i].Key, want[i].Key) || !bytes.Equal(got[i].Value, want[i].Value) || got[i].Seq != want[i].Seq {
			t.Fatalf("%s: entry %d is %x, want %x", what, i, got[i].Key, want[i].Key)
		}
	}
}

func TestVersionsHoldTheNewestOfEachKeyFirst(t *testing.T) {
	older := 0
	for _, d := range databases(t) {
		t.Run(d.name, func(t *testing.T) {
			r, _ := d.open(t, slatedb.ReaderOptions{})
			var kept []slatedb.Entry // newest, not deleted
			var last []byte
			var seq uint64
			for e, err := range r.ScanVersions(t.Context(), nil, nil) {
				if err != nil {
					t.Fatal(err)
				}
				switch c := bytes.Compare(last, e.Key); {
				case last != nil && c > 0, last != nil && c == 0 && seq <= e.Seq:
					t.Fatalf("%x %d after %x %d", e.Key, e.Seq, last, seq)
				case last != nil && c == 0:
					older++
				case !e.Tombstone:
					kept = append(kept, e.Clone())
				}
				last, seq = bytes.Clone(e.Key), e.Seq
			}
			full := scan(t, r, nil, nil)
			if len(kept) != len(full) {
				t.Fatalf("%d keys, the scan has %d", len(kept), len(full))
			}
			for i := range kept {
				if !bytes.Equal(kept[i].Key, full[i].Key) || kept[i].Merge != (len(full[i].Operands) > 0) {
					t.Fatalf("key %d is %x, the scan has %x", i, kept[i].Key, full[i].Key)
				}
			}
		})
	}
	if older == 0 {
		t.Error("no database keeps an older version")
	}
}

func TestVerifyFindsNothingWrongWithWhatTheRealCoresLeft(t *testing.T) {
	for _, d := range databases(t) {
		t.Run(d.name, func(t *testing.T) {
			for _, checksums := range []bool{false, true} {
				opts := slatedb.VerifyOptions{Checksums: checksums}
				if d.wal != "" {
					opts.WALStore = dirstore.New(filepath.Join(d.dir, d.wal))
				}
				rep, err := slatedb.Verify(context.Background(), dirstore.New(d.dir), d.root, opts)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range rep.Findings {
					t.Errorf("checksums %v: %s", checksums, f)
				}
				if checksums && rep.Rows < int64(len(d.rows)) {
					t.Errorf("%d rows read of at least %d", rep.Rows, len(d.rows))
				}
			}
		})
	}
}
