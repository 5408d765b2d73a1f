package slatedb_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// loaded is a bucket in memory with the files below dir.
func loaded(tb testing.TB, dir string) *store.Bucket {
	tb.Helper()
	b := memory(tb)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return b.PutNew(tb.Context(), filepath.ToSlash(rel), raw)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Every database that a real core left, our writer takes over: it sees what the
// core saw, adds to it in the WAL and in a table, and what was there is there.
// Segmented ones it refuses, and those whose WAL it was not told of.
func TestTheWriterContinuesEveryRealDatabase(t *testing.T) {
	continued, refused := 0, 0
	for _, d := range databases(t) {
		t.Run(d.name, func(t *testing.T) {
			b := loaded(t, d.dir)
			o := slatedb.Options{Existing: true}
			ro := slatedb.ReaderOptions{}
			if d.wal != "" {
				h, err := slatedb.Latest(t.Context(), b, d.root)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := slatedb.Open(t.Context(), b, d.root, o); !slatedb.Refused(err) {
					t.Errorf("opened without its WAL: %v", err)
				}
				if again, err := slatedb.Latest(t.Context(), b, d.root); err != nil || again.ID != h.ID {
					t.Errorf("a refusal left manifest %d after %d: %v", again.ID, h.ID, err)
				}
				log := loaded(t, filepath.Join(d.dir, d.wal))
				o.WALStore, ro.WALStore = log, log
			}
			h, err := slatedb.Latest(t.Context(), b, d.root)
			if err != nil {
				t.Fatal(err)
			}
			w, err := slatedb.Open(t.Context(), b, d.root, o)
			if h.Manifest.ExtractorName != "" || len(h.Manifest.Segments) > 0 {
				if !errors.Is(err, slatedb.ErrSegmented) {
					t.Fatalf("a segmented database: %v", err)
				}
				refused++
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abandon()
			check := func(when string, r *slatedb.Reader, added int) {
				t.Helper()
				got := scan(t, r, nil, nil)
				if added > 0 && d.name == "0.12.1/expired:db" {
					return // in its WAL is a row that has expired since: the flush took it
				}
				if len(got) != len(d.rows)+added {
					t.Fatalf("%s: %d rows, want %d and %d", when, len(got), len(d.rows), added)
				}
				for i := range d.rows {
					if m := d.mismatch(&d.rows[i], &got[i]); m != "" {
						t.Fatalf("%s: row %d: %s", when, i, m)
					}
				}
			}
			check("opened", w.Snapshot(), 0)
			for i := range 3 {
				k := strings.Repeat("\xff", 50+i)
				if seq, err := w.Put(t.Context(), []byte(k), []byte("ours")); err != nil || seq <= h.Manifest.LastL0Seq {
					t.Fatal(seq, err)
				}
				if i == 0 {
					if err := w.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			check("written to", w.Snapshot(), 3)
			if err := w.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			r, err := slatedb.OpenReader(t.Context(), b, d.root, ro)
			if err != nil {
				t.Fatal(err)
			}
			check("closed", r, 3)
			now, err := slatedb.Latest(t.Context(), b, d.root)
			if err != nil || now.Manifest.Version != h.Manifest.Version || len(now.Manifest.Checkpoints) != len(h.Manifest.Checkpoints) {
				t.Errorf("version %d became %d, %d checkpoints %d: %v", h.Manifest.Version, now.Manifest.Version, len(h.Manifest.Checkpoints), len(now.Manifest.Checkpoints), err)
			}
			rep, err := slatedb.Verify(t.Context(), b, d.root, slatedb.VerifyOptions{Checksums: true, WALStore: ro.WALStore})
			if err != nil || !rep.OK() {
				t.Errorf("verify: %v %v", err, rep.Findings)
			}
			continued++
		})
	}
	t.Logf("%d databases continued, %d refused", continued, refused)
	if continued < 100 || refused == 0 {
		t.Errorf("%d databases continued, %d refused", continued, refused)
	}
}
