package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

func memory(tb testing.TB) *store.Bucket {
	tb.Helper()
	b, err := store.Open(tb.Context(), "mem://")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close() })
	return b
}

func openWriter(tb testing.TB, s slatedb.WriteStore, o slatedb.Options) *slatedb.Writer {
	tb.Helper()
	w, err := slatedb.Open(tb.Context(), s, "db", o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.Abandon)
	return w
}

func put(tb testing.TB, w *slatedb.Writer, k, v string) {
	tb.Helper()
	if _, err := w.Put(tb.Context(), []byte(k), []byte(v)); err != nil {
		tb.Fatal(err)
	}
}

// contents reads a database as any reader would.
func contents(tb testing.TB, s slatedb.Store) map[string]string {
	tb.Helper()
	r, err := slatedb.OpenReader(tb.Context(), s, "db", slatedb.ReaderOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return scanned(tb, r)
}

func scanned(tb testing.TB, r *slatedb.Reader) map[string]string {
	tb.Helper()
	got := map[string]string{}
	for e, err := range r.Scan(tb.Context(), nil, nil) {
		if err != nil {
			tb.Fatal(err)
		}
		got[string(e.Key)] = string(e.Value)
	}
	return got
}

func equalRows(tb testing.TB, when string, got, want map[string]string) {
	tb.Helper()
	if maps.Equal(got, want) {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[k]; !ok || v != want[k] {
			tb.Errorf("%s: %q is %q (there: %v), expected %q", when, k, v, ok, want[k])
			break
		}
	}
	tb.Fatalf("%s: %d rows, expected %d", when, len(got), len(want))
}

func whole(tb testing.TB, s slatedb.Store) {
	tb.Helper()
	rep, err := slatedb.Verify(tb.Context(), s, "db", slatedb.VerifyOptions{Checksums: true})
	if err != nil || !rep.OK() {
		tb.Fatalf("verify: %v %v", err, rep.Findings)
	}
}

func TestWhatIsAcknowledgedIsThereAfterACrashAndAfterAClose(t *testing.T) {
	b := memory(t)
	want := map[string]string{}
	rng := rand.New(rand.NewPCG(1, 1))
	for round := range 12 {
		w := openWriter(t, b, slatedb.Options{FlushBytes: 3000, Table: sst.Options{Compression: int8(round % 5), Filter: true, FilterFrom: 1}})
		equalRows(t, fmt.Sprintf("round %d, opened", round), scanned(t, w.Snapshot()), want)
		for range 30 {
			var batch slatedb.Batch
			for range 1 + rng.IntN(6) {
				k := fmt.Sprintf("k%03d", rng.IntN(80))
				if rng.IntN(4) == 0 {
					batch.Delete([]byte(k))
					delete(want, k)
				} else {
					v := strings.Repeat(string(rune('a'+rng.IntN(26))), rng.IntN(100))
					batch.Put([]byte(k), []byte(v))
					want[k] = v
				}
			}
			if _, err := w.Write(t.Context(), &batch); err != nil {
				t.Fatal(err)
			}
		}
		equalRows(t, "while writing", scanned(t, w.Snapshot()), want)
		for i := range 80 {
			k := fmt.Sprintf("k%03d", i)
			e, err := w.Get(t.Context(), []byte(k))
			if v, ok := want[k]; ok != (err == nil) || ok && v != string(e.Value) {
				t.Fatalf("get %s: %q, %v; expected %q", k, e.Value, err, v)
			}
		}
		if round%2 == 0 {
			w.Abandon()
		} else if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		equalRows(t, "read by others", contents(t, b), want)
		whole(t, b)
	}
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	if m := h.Manifest; m.ReplayAfterWAL != m.WALLastSeen || m.WriterEpoch != 12 || len(m.L0) < 10 || m.Version != manifest.V1 {
		t.Errorf("after a close: %+v", m)
	}
}

// Many callers at once: every batch is whole in one WAL object, they share
// objects, and sequence numbers are one a batch.
func TestBatchesOfManyCallersShareObjects(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{Linger: 2 * time.Millisecond})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seqs := map[uint64]bool{}
	for c := range 40 {
		wg.Go(func() {
			for i := range 10 {
				var batch slatedb.Batch
				for j := range 3 {
					batch.Put(fmt.Appendf(nil, "c%02d-%02d-%d", c, i, j), []byte("v"))
				}
				seq, err := w.Write(t.Context(), &batch)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seqs[seq] {
					t.Errorf("sequence number %d twice", seq)
				}
				seqs[seq] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got := len(contents(t, b)); got != 1200 {
		t.Fatalf("%d rows of 1200", got)
	}
	for i := range uint64(400) {
		if !seqs[i+1] {
			t.Fatalf("no batch has sequence number %d", i+1)
		}
	}
	if objects := w.Status().NextWAL - 1; objects > 200 {
		t.Errorf("%d WAL objects for 400 batches", objects)
	}
}

func TestASnapshotDoesNotMove(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	want := map[string]string{}
	for i := range 200 {
		k := fmt.Sprintf("k%03d", i)
		put(t, w, k, "old")
		want[k] = "old"
	}
	before := w.Snapshot()
	for i := range 200 {
		put(t, w, fmt.Sprintf("k%03d", i), "new")
		if i == 100 {
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	equalRows(t, "a snapshot from before", scanned(t, before), want)
	if e, err := before.Get(t.Context(), []byte("k007")); err != nil || string(e.Value) != "old" {
		t.Errorf("%q %v", e.Value, err)
	}
	if e, err := w.Get(t.Context(), []byte("k007")); err != nil || string(e.Value) != "new" {
		t.Errorf("%q %v", e.Value, err)
	}
}

// Time does not go back, whatever the clock says: not within a writer, and not
// from one to the next.
func TestTimesNeverGoBack(t *testing.T) {
	b := memory(t)
	now := time.UnixMilli(1_000_000)
	o := slatedb.Options{Now: func() time.Time { return now }}
	w := openWriter(t, b, o)
	put(t, w, "a", "1")
	now = time.UnixMilli(500_000)
	put(t, w, "b", "1")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	w = openWriter(t, b, o)
	put(t, w, "c", "1")
	for _, k := range []string{"a", "b", "c"} {
		if e, err := w.Get(t.Context(), []byte(k)); err != nil || e.CreateTS != 1_000_000 {
			t.Errorf("%s: %d %v", k, e.CreateTS, err)
		}
	}
	var last string
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, _ := slatedb.Latest(t.Context(), b, "db")
	for _, table := range slices.Backward(h.Manifest.L0) {
		if table.ID.String() <= last {
			t.Errorf("table %s after %s", table.ID, last)
		}
		last = table.ID.String()
	}
}

func TestRowsThatHaveExpiredBecomeTombstonesAtTheFlush(t *testing.T) {
	b := memory(t)
	now := time.UnixMilli(1_000_000)
	w := openWriter(t, b, slatedb.Options{Now: func() time.Time { return now }})
	var batch slatedb.Batch
	batch.PutTTL([]byte("short"), []byte("x"), time.Second)
	batch.PutTTL([]byte("long"), []byte("x"), time.Hour)
	if _, err := w.Write(t.Context(), &batch); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	put(t, w, "later", "x")
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	equalRows(t, "after the flush", contents(t, b), map[string]string{"long": "x", "later": "x"})
}

// A checkpoint made beside a live writer has the rows that are only in the WAL,
// keeps them while the writer goes on, lives as long as it was told, and goes.
func TestCheckpointsPinTheTailOfTheWAL(t *testing.T) {
	ctx := t.Context()
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	want := map[string]string{}
	for i := range 10 {
		k := fmt.Sprint("k", i)
		put(t, w, k, "v")
		want[k] = "v"
	}
	now := time.Unix(1_700_000_000, 500)
	a := slatedb.Admin{Store: b, Root: "db", Now: func() time.Time { return now }}
	made, id, err := a.CreateCheckpoint(ctx, slatedb.CheckpointOptions{Name: "hold", Lifetime: time.Hour})
	if err != nil || made.ManifestID != id {
		t.Fatal(made, id, err)
	}
	for i := range 10 {
		put(t, w, fmt.Sprint("later", i), "v")
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := slatedb.OpenReader(ctx, b, "db", slatedb.ReaderOptions{Checkpoint: "hold"})
	if err != nil {
		t.Fatal(err)
	}
	equalRows(t, "the pinned state", scanned(t, r), want)

	if c, _, err := a.RefreshCheckpoint(ctx, made.ID, time.Minute); err != nil || !c.Expire.Equal(made.Expire) {
		t.Errorf("a shorter life: %v %v", c.Expire, err)
	}
	if c, _, err := a.RefreshCheckpoint(ctx, made.ID, 2*time.Hour); err != nil || c.Expire.Sub(made.Expire) != time.Hour {
		t.Errorf("a longer life: %v %v", c.Expire, err)
	}
	derived, _, err := a.CreateCheckpoint(ctx, slatedb.CheckpointOptions{Source: made.ID})
	if err != nil || derived.ManifestID != made.ManifestID || derived.Named {
		t.Errorf("derived: %+v %v", derived, err)
	}
	if _, err := a.DeleteCheckpoint(ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"delete again":   second(a.DeleteCheckpoint(ctx, made.ID)),
		"refresh":        third(a.RefreshCheckpoint(ctx, made.ID, time.Hour)),
		"unknown source": third(a.CreateCheckpoint(ctx, slatedb.CheckpointOptions{Source: uuid.New()})),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	put(t, w, "end", "v")
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if rows, err := a.Checkpoints(ctx); err != nil || len(rows) != 1 || rows[0].ID != derived.ID {
		t.Errorf("%v %v", rows, err)
	}
	whole(t, b)
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// Fifty tools make checkpoints at once while a writer flushes: each is there,
// once, and so is every row.
func TestManyCheckpointsAtOnce(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{FlushWAL: 2})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			a := slatedb.Admin{Store: b, Root: "db"}
			if _, _, err := a.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: fmt.Sprint("c", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 20 {
		put(t, w, fmt.Sprint("k", i), "v")
	}
	wg.Wait()
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil || len(h.Manifest.Checkpoints) != 20 {
		t.Fatalf("%d checkpoints, %v", len(h.Manifest.Checkpoints), err)
	}
	if n := len(contents(t, b)); n != 20 {
		t.Errorf("%d rows", n)
	}
	whole(t, b)
}

func TestBatchesThatCannotBeWritten(t *testing.T) {
	w := openWriter(t, memory(t), slatedb.Options{})
	for name, fill := range map[string]func(*slatedb.Batch){
		"an empty key":                func(b *slatedb.Batch) { b.Put(nil, nil) },
		"a long key":                  func(b *slatedb.Batch) { b.Delete(make([]byte, 65536)) },
		"an operand beside a value":   func(b *slatedb.Batch) { b.Put([]byte("k"), nil); b.Merge([]byte("k"), nil) },
		"a time to live that is over": func(b *slatedb.Batch) { b.PutTTL([]byte("k"), nil, -1) },
	} {
		var batch slatedb.Batch
		fill(&batch)
		if _, err := w.Write(t.Context(), &batch); err == nil {
			t.Error(name)
		}
	}
	put(t, w, "still", "works")
	var batch slatedb.Batch
	batch.Merge([]byte("m"), []byte("1"))
	if _, err := w.Write(t.Context(), &batch); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(t.Context(), &batch); err != nil { // the same one again
		t.Fatal(err)
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, err := w.Get(t.Context(), []byte("m")); err != nil || len(e.Operands) != 2 {
		t.Errorf("%+v %v", e, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Put(ctx, []byte("k"), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
