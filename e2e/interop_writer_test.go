//go:build e2e

package e2e

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// everyVersion runs the case with each real core.
func everyVersion(t *testing.T, run func(t *testing.T, version string)) {
	for _, version := range peers.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			run(t, version)
		})
	}
}

var codecs = []struct {
	name string
	id   int8
}{{"none", sst.None}, {"snappy", sst.Snappy}, {"zlib", sst.Zlib}, {"lz4", sst.LZ4}, {"zstd", sst.Zstd}}

// What we write with each codec, with and without filters, in tables and in the
// WAL, after a crash and after a close: the real core reads it, goes on with the
// next sequence number, compacts and collects; we read that, and go on.
func TestInteropWriter_OursThenTheirsThenOurs(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		all := folderArena(t, "")
		for _, codec := range codecs {
			for _, filter := range []bool{false, true} {
				if !filter && codec.id != sst.None && os.Getenv("QUARRY_SOAK") == "" {
					continue
				}
				a := all.at(fmt.Sprintf("dbs/%s-%v", codec.name, filter))
				rng := rand.New(rand.NewPCG(uint64(codec.id), 1))
				o := slatedb.Options{Table: sst.Options{Compression: codec.id, Filter: filter, BlockSize: 1024 << rng.IntN(3)}}
				w := a.ours(o)
				for i := range 12 {
					c := some(rng, 60)
					for j := range 100 {
						c[fmt.Sprintf("row-%02d-%03d", i, j)] = new(strings.Repeat("v", rng.IntN(60)))
					}
					c[fmt.Sprintf("long-%02d", i)] = new(strings.Repeat("x", 20_000))
					c[fmt.Sprintf("empty-%02d", i)] = new(string)
					a.write(w, c)
					if i == 8 || filter && i == 4 {
						if err := w.Flush(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				last := w.Status().LastSeq
				if codec.id%2 == 0 {
					w.Abandon()
				} else if err := w.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				a.weRead("written by us")
				a.theyRead("written by us", version)

				p := a.theirs(version)
				a.theyRead("opened", version)
				c := some(rng, 10)
				a.put(p, c)
				r, err := slatedb.OpenReader(t.Context(), a.b, a.root, slatedb.ReaderOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if r.LastSeq() != last+1 {
					t.Errorf("we ended with sequence number %d, they went on with %d", last, r.LastSeq())
				}
				p.Op("l0", a.root)
				a.put(p, some(rng, 10))
				p.Op("close", a.root)
				a.weRead("they went on")

				w = a.ours(o)
				a.write(w, some(rng, 30))
				if err := w.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				a.theyRead("we went on", version)
			}
		}
	})
}

// Tables of ours are compacted by the real core, with its own, and what is left
// over is collected, while we take turns with it.
func TestInteropWriter_TheyCompactAndCollectWhatWeWrote(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		a := folderArena(t, "db")
		rng := rand.New(rand.NewPCG(2, 2))
		compacted, collected := 0, 0
		for round := range 4 {
			w := a.ours(slatedb.Options{Table: sst.Options{Filter: round%2 == 0, FilterFrom: 1, Compression: int8(round)}})
			for range 5 {
				a.write(w, some(rng, 80))
				if err := w.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			a.write(w, some(rng, 20))
			if round%2 == 0 {
				w.Abandon()
			} else if err := w.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			ours := w.Status().NextWAL - 1 // the last with rows
			p := a.theirs(version, "compact", "gc")
			a.put(p, some(rng, 20))
			p.Op("l0", a.root)
			deadline := time.Now().Add(20 * time.Second)
			for len(a.head().Manifest.Runs) == 0 || slices.Contains(a.wal(), ours) {
				if time.Now().After(deadline) {
					t.Fatalf("round %d: after 20 s %d tables in L0, %d runs, WAL %v with %d", round, len(a.head().Manifest.L0), len(a.head().Manifest.Runs), a.wal(), ours)
				}
				a.put(p, some(rng, 5))
				p.Op("l0", a.root)
				time.Sleep(200 * time.Millisecond)
			}
			compacted += len(a.head().Manifest.Runs)
			collected += int(w.Status().NextWAL) - len(a.wal())
			if round%2 == 0 {
				p.Op("close", a.root)
			}
			a.kill(version)
			a.weRead(fmt.Sprintf("round %d, compacted and collected", round))
		}
		a.theyRead("in the end", version)
		t.Logf("%d runs seen, %d WAL objects collected", compacted, collected)
	})
}

// Whoever opens last is the only writer, whether it is us or them, killed or
// not, and what either acknowledged stays.
func TestInteropWriter_FencingBothWays(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		a := folderArena(t, "db")
		rng := rand.New(rand.NewPCG(3, 3))
		w := a.ours(slatedb.Options{Poll: time.Hour})
		for round := range 6 {
			when := fmt.Sprintf("round %d", round)
			a.write(w, some(rng, 20))

			// They fence us, in the middle of our writes.
			fenced := make(chan error, 1)
			go func() {
				for n := 0; ; n++ {
					last := some(rand.New(rand.NewPCG(uint64(round), uint64(n))), 20)
					if _, err := w.Write(t.Context(), last.batch()); err != nil {
						fenced <- err
						return
					}
					a.acked = last.in(a.acked)
				}
			}()
			p := a.theirs(version, "big")
			err := <-fenced
			told, ok := errors.AsType[*slatedb.FencedError](err)
			if !ok || told.By != a.head().Manifest.WriterEpoch || told.At.IsZero() {
				t.Fatalf("%s: our write after they took over: %v", when, err)
			}
			if err := w.Close(t.Context()); !errors.Is(err, slatedb.ErrFenced) {
				t.Fatalf("%s: close: %v", when, err)
			}
			a.theyRead(when+", they fenced us", version) // and the fenced batch is not there
			a.put(p, some(rng, 20))

			// We fence them, killed or alive.
			killed := rng.IntN(2) == 0
			if killed {
				a.kill(version)
			}
			w = a.ours(slatedb.Options{Poll: time.Hour})
			if !killed {
				answer := p.Try(map[string]any{"op": "put", "root": a.root, "rows": map[string]any{"00": "00"}})
				if !strings.Contains(answer.Error, "detected newer DB client") {
					t.Fatalf("%s: their put after we took over: %q", when, answer.Error)
				}
				a.kill(version)
			}
			a.is(when+", we fenced them", scan(t, when, w.Snapshot()))
			a.weRead(when + ", we fenced them")
		}
	})
}

// Two of ours and a real one open at once, again and again: epochs grow by one
// with each, the WAL has no hole, and what was acknowledged is there.
func TestInteropWriter_Races(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		a := folderArena(t, "db")
		var mu sync.Mutex
		acked := model{}
		contested := 0
		p := a.peer(version)
		races := 25
		if os.Getenv("QUARRY_SOAK") != "" {
			races = 100
		}
		for race := range races {
			var wg sync.WaitGroup
			for i := range 2 {
				wg.Go(func() {
					w, err := slatedb.Open(t.Context(), a.b, a.root, slatedb.Options{Poll: time.Hour})
					for j := 0; err == nil && j < 5; j++ {
						k := fmt.Sprintf("ours-%d-%d-%d", race, i, j)
						if _, err = w.Put(t.Context(), []byte(k), []byte("v")); err == nil {
							mu.Lock()
							acked[k] = "v"
							mu.Unlock()
						}
					}
					if w != nil {
						w.Abandon()
					}
					if err != nil {
						mu.Lock()
						contested++
						mu.Unlock()
						if !errors.Is(err, slatedb.ErrFenced) {
							t.Errorf("race %d: %v", race, err)
						}
					}
				})
			}
			said := p.Try(map[string]any{"op": "open", "root": a.root}).Error
			for j := 0; said == "" && j < 3; j++ {
				k := fmt.Sprintf("theirs-%d-%d", race, j)
				said = p.Try(map[string]any{"op": "put", "root": a.root, "rows": map[string]any{hex.EncodeToString([]byte(k)): "76"}}).Error
				if said == "" {
					mu.Lock()
					acked[k] = "v"
					mu.Unlock()
				}
			}
			if said != "" && !strings.Contains(said, "newer DB client") && !strings.Contains(said, "already exists") {
				t.Errorf("race %d: they said %q", race, said)
			}
			wg.Wait()
		}
		a.acked = acked
		a.kill(version)
		a.weRead("after the races")
		if contested == 0 {
			t.Error("nobody was ever fenced: these were no races")
		}
		ids := a.wal()
		if len(ids) != int(ids[len(ids)-1]-ids[0])+1 {
			t.Errorf("the WAL has holes: %v", ids)
		}
		var epoch uint64
		for id := uint64(1); id <= a.head().ID; id++ {
			h, err := slatedb.At(t.Context(), a.b, a.root, id)
			if err != nil {
				t.Fatal(err)
			}
			if e := h.Manifest.WriterEpoch; e < epoch || e > epoch+1 {
				t.Errorf("manifest %d: epoch %d after %d", id, e, epoch)
			}
			epoch = h.Manifest.WriterEpoch
		}
		if int(epoch) < races*12/5 {
			t.Errorf("%d epochs in %d races of three", epoch, races)
		}
		a.theyRead("after the races", version)
	})
}

// We keep the version of manifest that we find, so chains with writers of both
// kinds alternate only where they do.
func TestInteropWriter_TheVersionOfAManifestIsKept(t *testing.T) {
	a := folderArena(t, "db")
	rng := rand.New(rand.NewPCG(4, 4))
	for round, version := range []string{"0.13.1", "0.17.0", "0.15.0", "0.16.0", "0.14.1", "0.17.0"} {
		when := fmt.Sprintf("round %d, SlateDB %s", round, version)
		// A real writer waits for a compactor once there are eight tables.
		p := a.theirs(version, "compact")
		a.put(p, some(rng, 30))
		p.Op("l0", a.root)
		a.put(p, some(rng, 30))
		a.kill(version)
		found := a.head().Manifest.Version
		if want := map[bool]int{true: manifest.V2, false: manifest.V1}[version >= "0.16"]; found != want {
			t.Errorf("%s wrote version %d", when, found)
		}
		w := a.ours(slatedb.Options{})
		a.write(w, some(rng, 30))
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.write(w, some(rng, 30))
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v := a.head().Manifest.Version; v != found {
			t.Errorf("%s: we made version %d of %d", when, v, found)
		}
		a.weRead(when)
		a.theyRead(when, version)
		a.kill(version)
	}
}

// A row that has expired when it is flushed is gone, whoever wrote it and
// whoever flushes it.
func TestInteropWriter_ExpiryBothWays(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		all := folderArena(t, "")
		want := model{"long": "x", "plain": "x", "later": "x"}
		rows := map[string]any{}
		for _, k := range []string{"short", "long", "plain"} {
			rows[hex.EncodeToString([]byte(k))] = "78"
		}
		ttl := map[string]any{hex.EncodeToString([]byte("short")): 1, hex.EncodeToString([]byte("long")): 3_600_000}

		ours := all.at("ours")
		w := ours.ours(slatedb.Options{})
		var b slatedb.Batch
		b.PutTTL([]byte("short"), []byte("x"), time.Millisecond)
		b.PutTTL([]byte("long"), []byte("x"), time.Hour)
		b.Put([]byte("plain"), []byte("x"))
		if _, err := w.Write(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		w.Abandon()
		time.Sleep(5 * time.Millisecond)
		p := ours.theirs(version)
		ours.put(p, changes{"later": new("x")})
		p.Op("l0", ours.root)
		ours.acked = want
		ours.theyRead("flushed by them", version)
		ours.weRead("flushed by them")

		theirs := all.at("theirs")
		p = theirs.theirs(version)
		p.Do(map[string]any{"op": "put", "root": theirs.root, "rows": rows, "ttl": ttl})
		w = theirs.ours(slatedb.Options{})
		time.Sleep(5 * time.Millisecond)
		theirs.write(w, changes{"later": new("x")})
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		all.kill(version)
		theirs.acked = want
		theirs.theyRead("flushed by us", version)
		theirs.weRead("flushed by us")
		r, err := slatedb.OpenReader(t.Context(), theirs.b, theirs.root, slatedb.ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := r.Get(t.Context(), []byte("long")); err != nil || e.ExpireTS == 0 || e.ExpireTS-e.CreateTS != 3_600_000 {
			t.Errorf("a row that has not expired: %+v %v", e, err)
		}
	})
}

// Writers up to 0.15 claim WAL ids before they put them, so a crash can leave a
// manifest that lies ahead of its WAL. The real core opens that as if nothing
// were missing, and so do we; a checkpoint of ours ends where the WAL does, for
// every reader, also when the next writer has taken the ids that were claimed.
func TestInteropWriter_IdsThatWereClaimedAndNotPut(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		a := folderArena(t, "db")
		rng := rand.New(rand.NewPCG(5, 5))
		p := a.theirs(version)
		for range 3 {
			a.put(p, some(rng, 20))
		}
		a.kill(version)
		h := a.head()
		if h.Manifest.Version != manifest.V1 {
			t.Skipf("NOT FOR THIS RELEASE: SlateDB %s writes manifests of version %d, and claims no id before it is put", version, h.Manifest.Version)
		}
		m := h.Manifest.Clone()
		ids := a.wal()
		m.WALLastSeen = ids[len(ids)-1] + 3
		raw, err := manifest.Encode(m)
		if err == nil {
			err = a.b.PutNew(t.Context(), slatedb.ManifestKey(a.root, h.ID+1), raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.weRead("three ids claimed")
		a.theyRead("three ids claimed", version)
		admin := slatedb.Admin{Store: a.b, Root: a.root}
		c, id, err := admin.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "pinned"})
		if err != nil {
			t.Fatal(err)
		}
		if h, err := slatedb.At(t.Context(), a.b, a.root, id); err != nil || h.Manifest.WALLastSeen != ids[len(ids)-1] {
			t.Fatalf("the WAL of the checkpoint ends at %d, the last object is %d: %v", h.Manifest.WALLastSeen, ids[len(ids)-1], err)
		}
		pinned := maps.Clone(a.acked)
		p = a.theirs(version)
		for range 5 {
			a.put(p, some(rng, 20))
		}
		a.kill(version)
		a.weRead("they went on")
		a.theyRead("they went on", version)
		got := said(a.peer(version).Do(map[string]any{"op": "scan", "root": a.root, "checkpoint": c.ID.String()}))
		if !maps.Equal(got, pinned) {
			t.Errorf("they read %d rows in the checkpoint, %d were pinned: %s", len(got), len(pinned), differ(got, pinned))
		}
		r, err := slatedb.OpenReader(t.Context(), a.b, a.root, slatedb.ReaderOptions{Checkpoint: "pinned"})
		if err != nil {
			t.Fatal(err)
		}
		if got := scan(t, "pinned", r); !maps.Equal(got, pinned) {
			t.Errorf("we read %d rows in the checkpoint, %d were pinned: %s", len(got), len(pinned), differ(got, pinned))
		}
	})
}

// Into a hole in the WAL nothing is written, and nothing is left behind by the
// attempt.
func TestInteropWriter_AHoleIsRefused(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		a := folderArena(t, "db")
		p := a.theirs(version)
		for i := range 6 {
			a.put(p, changes{fmt.Sprint("k", i): new("v")})
		}
		a.kill(version)
		ids := a.wal()
		if err := a.b.Delete(t.Context(), slatedb.WALKey(a.root, ids[3])); err != nil {
			t.Fatal(err)
		}
		before := a.head().ID
		_, err := slatedb.Open(t.Context(), a.b, a.root, slatedb.Options{})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("WAL object %d is missing", ids[3])) {
			t.Fatalf("open: %v", err)
		}
		if now := a.wal(); a.head().ID != before || !slices.Equal(now, slices.Delete(ids, 3, 4)) {
			t.Errorf("the attempt left a trace: manifest %d after %d, WAL %v", a.head().ID, before, now)
		}
	})
}
