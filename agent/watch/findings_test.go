package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// Somebody removes a WAL object of a quiet database that is followed. Nobody
// looks at it again, so the listing of the day shows the hole; when the object
// is back an hour's examination takes the finding away. The database beside it
// is well all the time.
func TestAHoleThatComesWhileItIsQuietIsFoundAndGoes(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/wal-only/db", "dbs/hole")
		r.put("0.17.0/wal-only/db", "dbs/well")
		r.o.Poll = 20 * time.Second
		defer r.start()()
		wait(time.Hour)
		if len(r.hub.finds) > 0 {
			t.Fatalf("findings of whole databases: %v", r.hub.finds)
		}
		key := slatedb.WALKey("dbs/hole", 4)
		object, err := os.ReadFile(filepath.Join(r.dir, key))
		if err != nil {
			t.Fatal(err)
		}
		r.remove(key)
		wait(listQuietEvery + 10*time.Minute)
		if len(r.hub.finds) != 1 {
			t.Fatalf("findings: %v", r.hub.finds)
		}
		for _, f := range r.hub.finds {
			if f.Code != string(slatedb.WALHole) || f.Object != key || f.Slate != "dbs/hole" || f.Who == "" || f.Cure == "" {
				t.Errorf("%+v", f)
			}
		}
		r.write(key, string(object))
		wait(examineEvery + 10*time.Minute)
		if len(r.hub.finds) > 0 {
			t.Errorf("cured, and told all the same: %v", r.hub.finds)
		}
	})
}

// What a day of looking for findings costs a healthy quiet database beyond
// its looks: the listing for its size, which was made before, and with it a
// manifest, at first two.
func TestADayOfLookingForFindingsCostsAManifestRead(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		const n, days = 4, 2
		for i := range n {
			r.put("0.17.0/compacted/db", fmt.Sprintf("dbs/%02d", i))
		}
		b, faults := faulty.New(r.b)
		r.b, r.o.Poll = b, 20*time.Second
		defer r.start()()
		wait(time.Hour)
		before := len(faults.Calls())
		wait(days * 24 * time.Hour)
		lists, ends := 0, 0
		for _, c := range faults.Calls()[before:] {
			if len(c.Key) < len("dbs/00/") || c.Key[:4] != "dbs/" {
				continue
			}
			if c.Method == bucket.List {
				lists++
			}
			if filepath.Base(filepath.Dir(c.Key)) == "compacted" {
				ends++
			}
		}
		if len(r.hub.finds) > 0 {
			t.Errorf("findings: %v", r.hub.finds)
		}
		// A look without a boundary lists what comes after a pinned manifest,
		// so the listings are bounded, not counted.
		if most := n * (days + 1); lists > most || lists < n*(days-1) || ends > 0 {
			t.Errorf("%d listings of %d databases in %d days, at most %d; %d tables were read", lists, n, days, most, ends)
		}
	})
}
