package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

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
