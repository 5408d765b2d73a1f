package duty

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// stored is how many objects there are below the catalog's root, and their
// bytes, by folder.
func stored(t testing.TB, b *bucket.Bucket) (objects, bytes map[string]int) {
	t.Helper()
	objects, bytes = map[string]int{}, map[string]int{}
	err := b.Walk(context.Background(), catalog.CatalogRoot+"/", "", func(key string, size int64, _ time.Time) error {
		folder, _, _ := strings.Cut(strings.TrimPrefix(key, catalog.CatalogRoot+"/"), "/")
		for _, f := range []string{folder, "all"} {
			objects[f]++
			bytes[f] += int(size)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return objects, bytes
}

// The catalog does not grow with its age. For 10,000 batches, more than fourteen
// hours at a batch in 5 s, something happens to five of 300 slates every time,
// and readers come and go. The store's clock is the test's, so collection is as
// it runs in earnest. docs/bucket-contract.md promises these bounds.
func TestTheCatalogSlateStaysWithinItsBound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		b, err := bucket.Open(t.Context(), "mem://")
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		w := newWorld()
		defer keeping(t, b, w)()
		const halfHour = 360 // batches: what is younger than twice the collector's age may be there still
		const slates = 300
		folds, steps := uint64(10_000), 12_800
		if raced {
			folds, steps = folds/5, steps/5
		}
		happens := func(i int) {
			s := sighted(fmt.Sprintf("dbs/%03d", i), rng.Uint64N(1e6), catalog.Checkpoint{ID: fmt.Sprintf("%032d", rng.Uint64N(1e9)), ManifestID: 1})
			s.WriterEpoch = num(rng.Uint64N(1e6))
			w.see(s)
		}
		for i := range slates {
			happens(i)
		}
		most, mostBytes, early := map[string]int{}, map[string]int{}, map[string]int{}
		for n := range steps {
			for range 5 {
				happens(rng.IntN(slates))
			}
			time.Sleep(DefaultEvery)
			if n%50 != 49 {
				continue
			}
			objects, bytes := stored(t, b)
			for f := range objects {
				most[f], mostBytes[f] = max(most[f], objects[f]), max(mostBytes[f], bytes[f])
			}
			if n < steps/5 {
				early["objects"], early["bytes"] = most["all"], mostBytes["all"]
			}
		}
		time.Sleep(time.Minute)
		got, revisions := table(t, b)
		differ(t, got, w.rowsOf(t))
		rows := 0
		for path, v := range got {
			rows += len(path) + len(v.(string))
		}
		t.Logf("revision %d; about %d bytes of rows; at most %v objects, %v bytes; in the first fifth %v", revisions[catalog.HeadPath], rows, most, mostBytes, early)
		if revisions[catalog.HeadPath] < folds {
			t.Errorf("revision %d: these were not %d batches", revisions[catalog.HeadPath], folds)
		}
		if most["wal"] > flushWAL+halfHour || most["all"]-most["wal"] > 40 {
			t.Errorf("at most %v objects", most)
		}
		// A batch of five slates is about 6 kB here.
		if bound := 8*flushBytes + 4*rows/3 + halfHour*8_000; mostBytes["all"] > bound {
			t.Errorf("at most %v bytes, %d are promised", mostBytes, bound)
		}
		if most["all"] > early["objects"]*5/4 || mostBytes["all"] > early["bytes"]*3/2 {
			t.Errorf("it grows: %v and %v, in the first fifth %v", most, mostBytes, early)
		}
	})
}
