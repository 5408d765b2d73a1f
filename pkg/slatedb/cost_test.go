package slatedb_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// A durable write is one request, and writes that come at once share it.
func TestADurableWriteIsOneRequest(t *testing.T) {
	b, faults := faulty.New(memory(t))
	w := openWriter(t, b, slatedb.Options{Poll: time.Hour})
	before := len(faults.Calls())
	for i := range 100 {
		put(t, w, fmt.Sprint("k", i), "v")
	}
	calls := faults.Calls()[before:]
	if len(calls) != 100 {
		t.Errorf("%d requests for 100 writes", len(calls))
	}
	for _, c := range calls {
		if c.Method != store.PutNew || !strings.HasPrefix(c.Key, "db/wal/") {
			t.Fatalf("%s %s", c.Method, c.Key)
		}
	}
	// While one object is on its way, all others wait for the next.
	faults.Add(faulty.Fault{Method: store.PutNew, Kind: faulty.Slow, Delay: 200 * time.Millisecond})
	before = len(faults.Calls())
	var wg sync.WaitGroup
	first := make(chan struct{})
	for i := range 50 {
		wg.Go(func() {
			if i > 0 {
				<-first
			} else {
				time.AfterFunc(50*time.Millisecond, func() { close(first) })
			}
			put(t, w, fmt.Sprint("p", i), "v")
		})
	}
	wg.Wait()
	if n := len(faults.Calls()) - before; n > 4 {
		t.Errorf("%d requests for 50 writes at once", n)
	}
	if got := len(contents(t, b)); got != 150 {
		t.Errorf("%d rows", got)
	}
}

// A database that is closed for deletion stops its writer at its next look, and
// at its next write when somebody else holds the next WAL id; either says why.
func TestAPillStopsTheWriter(t *testing.T) {
	for _, fence := range []bool{false, true} {
		b := memory(t)
		o := slatedb.Options{Poll: 5 * time.Millisecond}
		if fence {
			o.Poll = time.Hour
		}
		w := openWriter(t, b, o)
		put(t, w, "k", "v")
		h, err := slatedb.Latest(t.Context(), b, "db")
		if err == nil {
			err = b.PutNew(t.Context(), slatedb.ManifestKey("db", h.ID+1), []byte("\xff\xffmoved away"))
		}
		if err == nil && fence {
			err = b.PutNew(t.Context(), slatedb.WALKey("db", w.Status().NextWAL), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if fence {
			_, err = w.Put(t.Context(), []byte("k"), nil)
		} else {
			for deadline := time.Now().Add(10 * time.Second); err == nil; time.Sleep(time.Millisecond) {
				if err = w.Status().Err; time.Now().After(deadline) {
					t.Fatal("not noticed")
				}
			}
		}
		pill, ok := errors.AsType[*manifest.Pill](err)
		if !ok || pill.Reason != "moved away" || errors.Is(err, slatedb.ErrFenced) != fence {
			t.Errorf("with a fence %v: %v", fence, err)
		}
		if err := w.Close(t.Context()); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("close: %v", err)
		}
	}
}

func benchFolder(b *testing.B) *store.Bucket {
	b.Helper()
	s, err := store.Open(b.Context(), "file://"+b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func benchWriter(b *testing.B, o slatedb.Options) *slatedb.Writer {
	b.Helper()
	w, err := slatedb.Open(b.Context(), benchFolder(b), "db", o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { w.Abandon() })
	return w
}

// One durable write after the other, on a folder.
func BenchmarkPut(b *testing.B) {
	w := benchWriter(b, slatedb.Options{})
	value := make([]byte, 100)
	for i := 0; b.Loop(); i++ {
		if _, err := w.Put(b.Context(), fmt.Appendf(nil, "key-%09d", i%100000), value); err != nil {
			b.Fatal(err)
		}
	}
}

// Durable writes of 64 callers at once, on a folder.
func BenchmarkPutOfMany(b *testing.B) {
	w := benchWriter(b, slatedb.Options{})
	value := make([]byte, 100)
	b.SetParallelism(32)
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			if _, err := w.Put(b.Context(), fmt.Appendf(nil, "key-%09d", i%100000), value); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Durable batches of 1000 rows, on a folder.
func BenchmarkBatch(b *testing.B) {
	w := benchWriter(b, slatedb.Options{})
	value := make([]byte, 100)
	b.SetBytes(1000 * 113)
	for i := 0; b.Loop(); i++ {
		var batch slatedb.Batch
		for j := range 1000 {
			batch.Put(fmt.Appendf(nil, "key-%09d", i%100*1000+j), value)
		}
		if _, err := w.Write(b.Context(), &batch); err != nil {
			b.Fatal(err)
		}
	}
}

// Opening a database with 1000 WAL objects after its tables, on a folder.
func BenchmarkOpenWithAThousandWALObjects(b *testing.B) {
	s := benchFolder(b)
	w, err := slatedb.Open(b.Context(), s, "db", slatedb.Options{FlushWAL: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		if _, err := w.Put(b.Context(), fmt.Appendf(nil, "key-%09d", i), make([]byte, 100)); err != nil {
			b.Fatal(err)
		}
	}
	w.Abandon()
	for b.Loop() {
		w, err := slatedb.Open(b.Context(), s, "db", slatedb.Options{FlushWAL: 1 << 30})
		if err != nil {
			b.Fatal(err)
		}
		w.Abandon()
	}
}
