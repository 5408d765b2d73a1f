package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// tidied waits until the writer has merged what was to be merged.
func tidied(tb testing.TB, b *store.Bucket, w *slatedb.Writer) *manifest.Manifest {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		h, err := slatedb.Latest(tb.Context(), b, "db")
		if err != nil {
			tb.Fatal(err)
		}
		if s := w.Status(); s.Untidy != nil || s.Err != nil {
			tb.Fatal(s.Untidy, s.Err)
		}
		if len(h.Manifest.L0) < 4 {
			return h.Manifest
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%d tables in L0 after 20 s", len(h.Manifest.L0))
		}
	}
}

func objects(tb testing.TB, b *store.Bucket, folder string) (n int, size int64) {
	tb.Helper()
	err := b.Walk(tb.Context(), "db/"+folder, "", func(_ string, s int64, _ time.Time) error {
		n++
		size += s
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n, size
}

// A catalog: the same keys are written again and again, now more of them and now
// fewer. What is stored stays within the bound that Tidy promises, at every
// moment; nothing piles up that is needed no more; and the rows are right.
func TestADatabaseThatIsTidiedDoesNotGrow(t *testing.T) {
	const flush = 10_000
	b := memory(t)
	o := slatedb.Options{FlushBytes: flush, Tidy: &slatedb.Tidy{MinAge: time.Nanosecond, FenceAge: time.Nanosecond}}
	w := openWriter(t, b, o)
	rng := rand.New(rand.NewPCG(1, 1))
	want := map[string]string{}
	var peak, worst float64
	for step := range 600 {
		var batch slatedb.Batch
		for range 10 {
			k := fmt.Sprintf("placement/%04d", rng.IntN(700))
			if rng.IntN(4) == 0 {
				batch.Delete([]byte(k))
				delete(want, k)
			} else {
				v := strings.Repeat(string(rune('a'+rng.IntN(26))), 40+rng.IntN(80))
				batch.Put([]byte(k), []byte(v))
				want[k] = v
			}
		}
		if _, err := w.Write(t.Context(), &batch); err != nil {
			t.Fatal(err)
		}
		live := 0
		for k, v := range want {
			live += len(k) + len(v) + 30 // about what a row costs in a table
		}
		peak = max(peak, float64(live))
		if step%20 == 19 {
			m := tidied(t, b, w)
			if got := float64(m.Size()); got > 4.0/3*peak+8*flush {
				t.Fatalf("step %d: tables of %.0f bytes; the most rows ever were %.0f", step, got, peak)
			}
			worst = max(worst, float64(m.Size())/peak)
			if n := len(m.Runs); n > 6 {
				t.Errorf("step %d: %d runs", step, n)
			}
		}
		if step%200 == 199 { // another writer, now and then
			if err := w.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			equalRows(t, "read by others", contents(t, b), want)
			w = openWriter(t, b, o)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	equalRows(t, "in the end", contents(t, b), want)
	whole(t, b)
	for folder, most := range map[string]int{"wal/": 60, "manifest/": 60, "compacted/": 60} {
		if n, _ := objects(t, b, folder); n > most {
			t.Errorf("%d objects in %s", n, folder)
		}
	}
	n, size := objects(t, b, "")
	h, _ := slatedb.Latest(t.Context(), b, "db")
	t.Logf("600 batches, manifest %d: tables up to %.1f times the rows; %d objects of %d bytes are left", h.ID, worst, n, size)
}

// When all is deleted, nothing is left: no tombstone, no table.
func TestTombstonesGoInTheEnd(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{Tidy: &slatedb.Tidy{MinAge: time.Nanosecond}})
	for round := range 12 {
		var batch slatedb.Batch
		for i := range 50 {
			if k := fmt.Appendf(nil, "k%02d", i); round < 6 {
				batch.Put(k, []byte("value"))
			} else {
				batch.Delete(k)
			}
		}
		if _, err := w.Write(t.Context(), &batch); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		tidied(t, b, w)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	if m := h.Manifest; len(m.Runs) > 0 || len(m.L0) >= 4 {
		t.Errorf("%d runs, %d tables in L0", len(m.Runs), len(m.L0))
	}
	equalRows(t, "in the end", contents(t, b), nil)
	whole(t, b)
}

// Merging changes nothing that can be read: operands keep their order and what
// they stand on, and a row that expires gives way to nothing older.
func TestMergingTablesKeepsWhatIsRead(t *testing.T) {
	b := memory(t)
	now := time.UnixMilli(1_000_000)
	o := slatedb.Options{Now: func() time.Time { return now }}
	w := openWriter(t, b, o)
	flush := func(fill func(*slatedb.Batch)) {
		t.Helper()
		var batch slatedb.Batch
		fill(&batch)
		if _, err := w.Write(t.Context(), &batch); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	flush(func(b *slatedb.Batch) {
		b.Put([]byte("based"), []byte("0"))
		b.Put([]byte("expires"), []byte("old"))
		b.Put([]byte("gone"), []byte("x"))
	})
	flush(func(b *slatedb.Batch) {
		b.Merge([]byte("based"), []byte("1"))
		b.Merge([]byte("loose"), []byte("1"))
		b.PutTTL([]byte("expires"), []byte("new"), time.Minute)
	})
	flush(func(b *slatedb.Batch) { b.Delete([]byte("gone")); b.Merge([]byte("based"), []byte("2")) })
	flush(func(b *slatedb.Batch) { b.Merge([]byte("gone"), []byte("3")) })
	read := func(when string, expires bool) {
		t.Helper()
		r, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for e, err := range r.Scan(t.Context(), nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprintf("%s=%s%s%q ", e.Key, e.Value, e.Base, e.Operands)
		}
		want := `based=0["1" "2"] `
		if expires {
			want += `expires=new[] `
		}
		want += `gone=["3"] loose=["1"] `
		if got != want {
			t.Fatalf("%s: %s\nexpected %s", when, got, want)
		}
	}
	read("before", true)
	w.Abandon()
	now = now.Add(time.Hour)
	o.Tidy = &slatedb.Tidy{MinAge: time.Nanosecond}
	w = openWriter(t, b, o)
	m := tidied(t, b, w)
	if len(m.Runs) != 1 || len(m.L0) != 0 {
		t.Fatalf("%d runs, %d tables in L0", len(m.Runs), len(m.L0))
	}
	read("after", false)
	whole(t, b)
}

// A checkpoint holds what it pins, however often everything is merged and
// collected meanwhile.
func TestACheckpointOutlivesTidying(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{Tidy: &slatedb.Tidy{MinAge: time.Nanosecond, FenceAge: time.Nanosecond}})
	write := func(round int) {
		t.Helper()
		for i := range 20 {
			put(t, w, fmt.Sprintf("k%02d", i), fmt.Sprint(round))
		}
	}
	write(0)
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(1)
	a := slatedb.Admin{Store: b, Root: "db"}
	if _, _, err := a.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "hold"}); err != nil {
		t.Fatal(err)
	}
	want := contents(t, b)
	for round := range 20 {
		write(round + 2)
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		tidied(t, b, w)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{Checkpoint: "hold"})
	if err != nil {
		t.Fatal(err)
	}
	equalRows(t, "what the checkpoint pins", scanned(t, r), want)
	whole(t, b)
}

// A writer that tidies is killed at every call of the store, whatever part of it
// makes the call.
func TestKilledWhileTidying(t *testing.T) {
	script := func(ctx context.Context, s slatedb.WriteStore) (acked, sent int) {
		o := slatedb.Options{FlushWAL: 1, Patience: time.Nanosecond, Poll: time.Hour, Tidy: &slatedb.Tidy{MinAge: time.Nanosecond, FenceAge: time.Nanosecond}}
		w, err := slatedb.Open(ctx, s, "db", o)
		if err != nil {
			return 0, 0
		}
		defer w.Abandon()
		for n := 1; n <= 9; n++ {
			var batch slatedb.Batch
			for _, k := range []string{"x", "y", "z"} {
				batch.Put([]byte(k), fmt.Append(nil, n))
			}
			sent = n
			if _, err := w.Write(ctx, &batch); err != nil {
				return acked, sent
			}
			acked = n
			if w.Flush(ctx) != nil {
				return acked, sent
			}
		}
		_ = w.Close(ctx)
		return acked, sent
	}
	clean, faults := faulty.New(memory(t))
	if acked, _ := script(t.Context(), clean); acked != 9 {
		t.Fatalf("without faults %d of 9 are acknowledged", acked)
	}
	calls := len(faults.Calls())
	for nth := 1; nth <= calls; nth++ {
		for kind, name := range map[faulty.Kind]string{faulty.Refuse: "refused", faulty.Lose: "answer lost"} {
			inner := memory(t)
			s, faults := faulty.New(inner)
			faults.Add(faulty.Fault{Nth: nth, Kind: kind})
			faults.Add(faulty.Fault{Nth: nth, Times: -1})
			acked, sent := script(t.Context(), s)
			when := fmt.Sprintf("call %d of %d %s, %d acknowledged, %d sent", nth, calls, name, acked, sent)
			w, err := slatedb.Open(t.Context(), inner, "db", slatedb.Options{})
			if err != nil {
				t.Fatalf("%s: open: %v", when, err)
			}
			got := scanned(t, w.Snapshot())
			w.Abandon()
			w, err = slatedb.Open(t.Context(), inner, "db", slatedb.Options{Tidy: &slatedb.Tidy{MinAge: time.Nanosecond}})
			if err != nil {
				t.Fatalf("%s: open again: %v", when, err)
			}
			n := 0
			fmt.Sscan(got["x"], &n)
			if n != acked && n != sent || n > 0 && (got["y"] != got["x"] || got["z"] != got["x"]) {
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
	t.Logf("about %d calls, each failed in two ways", calls)
}

// Somebody else compacts from now on: the writer writes on, says so, and leaves
// the tables to him.
func TestAnotherCompactorTakesOver(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{Poll: time.Hour, Tidy: &slatedb.Tidy{}})
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	m := h.Manifest.Clone()
	m.CompactorEpoch++
	raw, err := manifest.Encode(m)
	if err == nil {
		err = b.PutNew(t.Context(), slatedb.ManifestKey("db", h.ID+1), raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for i := range 6 {
		k := fmt.Sprint("k", i)
		put(t, w, k, "v")
		want[k] = "v"
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); w.Status().Untidy == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not noticed")
		}
	}
	if err := w.Status().Untidy; !strings.Contains(err.Error(), "another compactor") {
		t.Error(err)
	}
	put(t, w, "on", "")
	want["on"] = ""
	got := contents(t, b)
	if !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestTidyingWantsAStoreThatRemoves(t *testing.T) {
	type writeOnly struct{ slatedb.WriteStore }
	_, err := slatedb.Open(t.Context(), writeOnly{memory(t)}, "db", slatedb.Options{Tidy: &slatedb.Tidy{}})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// What is too young when it is no longer needed goes later, also when nobody
// writes any more.
func TestWhatWasTooYoungGoesLater(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{Tidy: &slatedb.Tidy{MinAge: 100 * time.Millisecond, FenceAge: 200 * time.Millisecond}})
	for i := range 5 {
		put(t, w, fmt.Sprint("k", i), strings.Repeat("v", 200))
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tidied(t, b, w)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		wals, _ := objects(t, b, "wal/")
		manifests, _ := objects(t, b, "manifest/")
		tables, _ := objects(t, b, "compacted/")
		if wals == 1 && manifests == 1 && tables <= 4 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d WAL objects, %d manifests, %d tables after 20 s", wals, manifests, tables)
		}
	}
	if n := len(contents(t, b)); n != 5 {
		t.Errorf("%d rows", n)
	}
}
