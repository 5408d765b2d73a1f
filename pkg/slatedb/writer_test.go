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
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
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

func TestTheLastWriterToOpenIsTheOnlyOne(t *testing.T) {
	b := memory(t)
	first := openWriter(t, b, slatedb.Options{})
	put(t, first, "a", "1")
	second := openWriter(t, b, slatedb.Options{})
	_, err := first.Put(t.Context(), []byte("b"), []byte("lost"))
	fenced, ok := errors.AsType[*slatedb.FencedError](err)
	if !ok || fenced.By != 2 || fenced.Epoch != 1 || fenced.At.IsZero() {
		t.Fatalf("the first writer's put: %v", err)
	}
	if _, err := first.Put(t.Context(), []byte("b"), nil); !errors.Is(err, slatedb.ErrFenced) {
		t.Errorf("and again: %v", err)
	}
	if err := first.Flush(t.Context()); !errors.Is(err, slatedb.ErrFenced) {
		t.Errorf("flush: %v", err)
	}
	if err := first.Close(t.Context()); !errors.Is(err, slatedb.ErrFenced) {
		t.Errorf("close: %v", err)
	}
	put(t, second, "c", "2")
	want := map[string]string{"a": "1", "c": "2"}
	equalRows(t, "after the change of writers", contents(t, b), want)
	if err := second.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	equalRows(t, "after the close", contents(t, b), want)
	if _, err := second.Put(t.Context(), []byte("x"), nil); !errors.Is(err, slatedb.ErrClosed) {
		t.Errorf("put after close: %v", err)
	}
}

func TestAnIdleWriterNoticesThatItWasReplaced(t *testing.T) {
	b := memory(t)
	first := openWriter(t, b, slatedb.Options{Poll: 5 * time.Millisecond})
	openWriter(t, b, slatedb.Options{})
	for deadline := time.Now().Add(10 * time.Second); first.Status().Err == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not noticed")
		}
	}
	if err := first.Status().Err; !errors.Is(err, slatedb.ErrFenced) {
		t.Fatal(err)
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

// The writer is killed at every one of its calls to the store, in every way in
// which a call can fail. Whoever opens next sees the acknowledged batches, all
// of each, and perhaps the one that was on its way.
func TestKilledAtEveryCallOfTheStore(t *testing.T) {
	script := func(ctx context.Context, s slatedb.WriteStore) (acked, sent int) {
		o := slatedb.Options{FlushWAL: 3, Patience: time.Nanosecond, Poll: time.Hour}
		w, err := slatedb.Open(ctx, s, "db", o)
		if err != nil {
			return 0, 0
		}
		defer w.Abandon()
		for n := 1; n <= 7; n++ {
			var batch slatedb.Batch
			for _, k := range []string{"x", "y", "z"} {
				batch.Put([]byte(k), fmt.Append(nil, n))
			}
			batch.Put(fmt.Append(nil, "n", n), nil)
			sent = n
			if _, err := w.Write(ctx, &batch); err != nil {
				return acked, sent
			}
			acked = n
		}
		_ = w.Close(ctx)
		return acked, sent
	}
	clean, faults := faulty.New(memory(t))
	if acked, _ := script(t.Context(), clean); acked != 7 {
		t.Fatalf("without faults %d of 7 are acknowledged", acked)
	}
	calls := len(faults.Calls())
	if calls < 20 {
		t.Fatalf("only %d calls", calls)
	}
	for nth := 1; nth <= calls; nth++ {
		for kind, name := range map[faulty.Kind]string{faulty.Refuse: "refused", faulty.Lose: "answer lost"} {
			inner := memory(t)
			s, faults := faulty.New(inner)
			faults.Add(faulty.Fault{Nth: nth, Kind: kind})
			faults.Add(faulty.Fault{Nth: nth, Times: -1}) // and the process is dead
			acked, sent := script(t.Context(), s)
			when := fmt.Sprintf("call %d of %d %s, %d acknowledged, %d sent", nth, calls, name, acked, sent)
			w, err := slatedb.Open(t.Context(), inner, "db", slatedb.Options{})
			if err != nil {
				t.Fatalf("%s: open: %v", when, err)
			}
			got := scanned(t, w.Snapshot())
			n := 0
			fmt.Sscan(got["x"], &n)
			if n != acked && n != sent || n > 0 && (got["y"] != got["x"] || got["z"] != got["x"] || len(got) != 3+n) {
				t.Fatalf("%s: %v", when, got)
			}
			put(t, w, "after", "x")
			if err := w.Close(t.Context()); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			got["after"] = "x"
			equalRows(t, when, contents(t, inner), got)
			whole(t, inner)
		}
	}
	t.Logf("%d calls, each failed in two ways", calls)
}

// A put without an answer is repeated, and what came of it is found out: the
// writer goes on as if nothing had been.
func TestAnswersThatGetLostAreFoundOut(t *testing.T) {
	b, faults := faulty.New(memory(t))
	w := openWriter(t, b, slatedb.Options{FlushWAL: 4})
	want := map[string]string{}
	for i := range 60 {
		faults.Add(faulty.Fault{Method: store.PutNew, Nth: 1 + i%3, Kind: []faulty.Kind{faulty.Lose, faulty.Refuse}[i%2]})
		if i%5 == 0 { // the look at what came of it fails too
			faults.Add(faulty.Fault{Method: store.Get, Nth: 1})
		}
		k := fmt.Sprintf("k%02d", i)
		put(t, w, k, "v")
		want[k] = "v"
	}
	faults.Clear()
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	equalRows(t, "afterwards", contents(t, b), want)
	whole(t, b)
}

// Ten openers at once on nothing: one database, epochs one by one, no batch
// lost that was acknowledged.
func TestManyOpenersAtOnce(t *testing.T) {
	b := memory(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	want := map[string]string{}
	epochs := map[uint64]bool{}
	for i := range 10 {
		wg.Go(func() {
			w, err := slatedb.Open(t.Context(), b, "db", slatedb.Options{})
			if errors.Is(err, slatedb.ErrFenced) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Abandon()
			mu.Lock()
			if epochs[w.Epoch()] {
				t.Errorf("epoch %d twice", w.Epoch())
			}
			epochs[w.Epoch()] = true
			mu.Unlock()
			for j := range 10 {
				k := fmt.Sprintf("w%d-%d", i, j)
				if _, err := w.Put(t.Context(), []byte(k), nil); err != nil {
					if !errors.Is(err, slatedb.ErrFenced) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				want[k] = ""
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	equalRows(t, "in the end", contents(t, b), want)
	whole(t, b)
}

func TestWhatIsNotUnderstoodIsNotWritten(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		spoil func(m *manifest.Manifest)
		raw   []byte
		other func(b *store.Bucket) error
		want  error
		admin error // what checkpoints say; nil: the same
		free  bool  // checkpoints may be made
	}{
		"a clone under construction": {spoil: func(m *manifest.Manifest) { m.Initialized = false }, want: slatedb.ErrUninitialized},
		"a marked WAL store":         {spoil: func(m *manifest.Manifest) { m.WALStoreMarked = true }, want: slatedb.ErrWALStore},
		"an unmarked WAL store":      {spoil: func(m *manifest.Manifest) { m.WriterEpoch, m.ReplayAfterWAL, m.WALLastSeen = 3, 7, 7 }, want: slatedb.ErrWALUnmarked},
		"segments":                   {spoil: func(m *manifest.Manifest) { m.Version, m.ExtractorName = manifest.V2, "fix1" }, want: slatedb.ErrSegmented, free: true},
		"a pill":                     {raw: []byte("\xff\xff{\"why\":\"gone\"}"), want: &manifest.Pill{Reason: `{"why":"gone"}`}},
		"a later version":            {raw: []byte("\x00\x03x"), want: &manifest.VersionError{Format: "manifest", Version: 3}},
		"a boundary ahead":           {other: func(b *store.Bucket) error { return b.Put(ctx, "db/gc/manifest.boundary", []byte("2")) }, want: slatedb.ErrBoundaryAhead},
	} {
		b := memory(t)
		m := manifest.New()
		first, err := manifest.Encode(m)
		if err == nil {
			err = b.PutNew(ctx, slatedb.ManifestKey("db", 1), first)
		}
		if err != nil {
			t.Fatal(name, err)
		}
		if c.spoil != nil {
			c.spoil(m)
		}
		raw, err := manifest.Encode(m)
		if c.raw != nil {
			raw, err = c.raw, nil
		}
		if err == nil {
			err = b.PutNew(ctx, slatedb.ManifestKey("db", 2), raw)
		}
		if err == nil && c.other != nil {
			err = c.other(b)
		}
		if err != nil {
			t.Fatal(name, err)
		}
		check := func(what string, err error) {
			if !slatedb.Refused(err) || !errors.Is(err, c.want) && !strings.Contains(err.Error(), c.want.Error()) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		_, err = slatedb.Open(ctx, b, "db", slatedb.Options{})
		check("open", err)
		a := slatedb.Admin{Store: b, Root: "db"}
		if _, _, err = a.CreateCheckpoint(ctx, slatedb.CheckpointOptions{Name: "n"}); !c.free {
			check("checkpoint", err)
		} else if err != nil {
			t.Errorf("%s: checkpoint: %v", name, err)
			continue
		}
		if ids, err := slatedb.ManifestIDs(ctx, b, "db"); err != nil || len(ids) != 2 && !c.free {
			t.Errorf("%s: manifests %v afterwards: %v", name, ids, err)
		}
	}
	b := memory(t)
	if _, err := slatedb.Open(ctx, b, "db", slatedb.Options{Existing: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if err := b.PutNew(ctx, slatedb.WALKey("db", 4), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := slatedb.Open(ctx, b, "db", slatedb.Options{}); err == nil {
		t.Error("a fence of an earlier database is in the way, and nobody says so")
	}
}

func TestAHoleInTheWALIsNotWrittenInto(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	for i := range 6 {
		put(t, w, fmt.Sprint("k", i), "v")
	}
	w.Abandon()
	if err := b.Delete(t.Context(), slatedb.WALKey("db", 4)); err != nil {
		t.Fatal(err)
	}
	_, err := slatedb.Open(t.Context(), b, "db", slatedb.Options{})
	if err == nil || !strings.Contains(err.Error(), "WAL object 4 is missing") {
		t.Fatal(err)
	}
	if _, _, err := (&slatedb.Admin{Store: b, Root: "db"}).CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "n"}); err == nil {
		t.Error("a checkpoint of a WAL with a hole")
	}
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

// A copy or a clone of a database that was closed begins with the ids of the
// other and no WAL object. That is not a WAL that is elsewhere.
func TestADatabaseMayBeBornWithoutAWAL(t *testing.T) {
	from, b := memory(t), memory(t)
	w := openWriter(t, from, slatedb.Options{})
	put(t, w, "k", "v")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := slatedb.Latest(t.Context(), from, "db")
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range h.Manifest.L0 {
		raw, err := from.Get(t.Context(), slatedb.TableKey("db", table.ID))
		if err == nil {
			err = b.PutNew(t.Context(), slatedb.TableKey("db", table.ID), raw)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.PutNew(t.Context(), slatedb.ManifestKey("db", 1), h.Raw); err != nil {
		t.Fatal(err)
	}
	w = openWriter(t, b, slatedb.Options{})
	put(t, w, "l", "v")
	equalRows(t, "the copy", contents(t, b), map[string]string{"k": "v", "l": "v"})
}

// Writers up to 0.14 count WAL objects that they still hold in memory. After a
// crash the manifest may know ids that never came to be.
func TestIdsThatAnOldWriterTookAndDidNotUse(t *testing.T) {
	for _, version := range []int{manifest.V1, manifest.V2} {
		b := memory(t)
		w := openWriter(t, b, slatedb.Options{})
		put(t, w, "k", "v")
		w.Abandon()
		h, err := slatedb.Latest(t.Context(), b, "db")
		if err != nil {
			t.Fatal(err)
		}
		m := h.Manifest.Clone()
		m.Version, m.WALLastSeen = version, 4
		raw, err := manifest.Encode(m)
		if err == nil {
			err = b.PutNew(t.Context(), slatedb.ManifestKey("db", h.ID+1), raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		w, err = slatedb.Open(t.Context(), b, "db", slatedb.Options{})
		if version == manifest.V2 { // 0.15 and later, which know better
			if err == nil || !strings.Contains(err.Error(), "WAL object 3 is missing") {
				t.Errorf("version 2: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		put(t, w, "l", "v")
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		equalRows(t, "afterwards", contents(t, b), map[string]string{"k": "v", "l": "v"})
		whole(t, b)
	}
}

// With nowhere to put tables, writes go on until memory is full, are told so,
// and go on again when the store takes tables again.
func TestAStoreThatTakesNoTables(t *testing.T) {
	b, faults := faulty.New(memory(t))
	w := openWriter(t, b, slatedb.Options{FlushBytes: 2000, Patience: time.Millisecond})
	faults.Add(faulty.Fault{Keys: "db/compacted/*", Times: -1})
	want := map[string]string{}
	for i := 0; ; i++ {
		k := fmt.Sprintf("k%03d", i)
		_, err := w.Put(t.Context(), []byte(k), []byte("0123456789"))
		if errors.Is(err, slatedb.ErrMemoryFull) {
			break
		}
		if err != nil || i > 1000 {
			t.Fatal(i, err)
		}
		want[k] = "0123456789"
	}
	equalRows(t, "while memory is full", contents(t, b), want)
	faults.Clear()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := w.Put(t.Context(), []byte("again"), nil)
		if err == nil {
			break
		}
		if !errors.Is(err, slatedb.ErrMemoryFull) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	want["again"] = ""
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	equalRows(t, "in the end", contents(t, b), want)
	whole(t, b)
}

// A store that says no has not taken anything: the writer goes on afterwards.
func TestARefusedWriteEndsNothing(t *testing.T) {
	b, faults := faulty.New(memory(t))
	w := openWriter(t, b, slatedb.Options{})
	put(t, w, "a", "1")
	faults.Add(faulty.Fault{Method: store.PutNew, Err: fs.ErrPermission})
	if _, err := w.Put(t.Context(), []byte("b"), nil); !errors.Is(err, fs.ErrPermission) || errors.Is(err, slatedb.ErrUncertain) {
		t.Fatal(err)
	}
	put(t, w, "c", "2")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	equalRows(t, "afterwards", contents(t, b), map[string]string{"a": "1", "c": "2"})
}

// The WAL of a database may be in a store of its own, which is said in its
// manifest and found out when it is said wrongly.
func TestAWALInAStoreOfItsOwn(t *testing.T) {
	b, log, other := memory(t), memory(t), memory(t)
	w := openWriter(t, b, slatedb.Options{WALStore: log})
	put(t, w, "a", "1")
	if _, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{}); !errors.Is(err, slatedb.ErrWALStore) {
		t.Errorf("read without it: %v", err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]slatedb.Options{"without": {}, "another": {WALStore: other}} {
		if _, err := slatedb.Open(t.Context(), b, "db", o); !slatedb.Refused(err) {
			t.Errorf("opened with %s WAL store: %v", name, err)
		}
	}
	w = openWriter(t, b, slatedb.Options{WALStore: log})
	put(t, w, "b", "2")
	r, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{WALStore: log})
	if err != nil {
		t.Fatal(err)
	}
	equalRows(t, "with it", scanned(t, r), map[string]string{"a": "1", "b": "2"})
}
