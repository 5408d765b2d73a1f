package watch

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/catalog"
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

// An agent that begins anew finds what is wrong again, and only then says that
// it has looked: a hub goes on showing what was found before until it does.
func TestAnAgentThatBeginsAnewFindsBeforeItSaysThatItHasLooked(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/wal-only/db", "dbs/hole")
		r.remove(slatedb.WALKey("dbs/hole", 4))
		r.put("0.17.0/compacted/db", "dbs/lost")
		tables, err := filepath.Glob(filepath.Join(r.dir, "dbs/lost/compacted/*"))
		if err != nil || len(tables) == 0 {
			t.Fatalf("%v %v", tables, err)
		}
		if err := os.Remove(tables[len(tables)-1]); err != nil { // the compactor has left the first ones
			t.Fatal(err)
		}
		r.put("0.17.0/compacted/db", "dbs/well")
		r.o.Poll = 20 * time.Second
		for life := range 2 {
			r.hub = newHub()
			looked := map[string]int{} // by slate: how many findings were told before
			r.hub.hears = func(f catalog.Fact) {
				if _, again := looked[f.Key]; f.Sighting != nil && f.Sighting.ListedAt != nil && !again {
					for _, x := range r.hub.finds {
						if x.Root == f.Key {
							looked[f.Key]++
						}
					}
					looked[f.Key] += 0
				}
			}
			stop := r.start()
			wait(time.Hour)
			stop()
			if want := map[string]int{"dbs/hole": 1, "dbs/lost": 1, "dbs/well": 0}; !maps.Equal(looked, want) || len(r.hub.finds) != 2 {
				t.Errorf("life %d: findings when it had looked: %v, want %v; in the end %v", life, looked, want, r.hub.finds)
			}
		}
	})
}

// Who runs an agent may say which releases open the databases: what they would
// do to one is one finding, that stays the same while the database moves on, and
// is no reason to examine it every hour.
func TestReleasesInUseAreOneFindingOfADatabase(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "dbs/composite")
		r.put("0.12.1/compacted/db", "dbs/legacy")
		b, faults := faulty.New(r.b)
		r.b, r.o.Poll, r.o.InUse = b, 20*time.Second, []string{"0.12.1", "0.17.0"}
		told := 0
		r.hub.hears = func(f catalog.Fact) {
			if f.Finding != nil {
				told++
			}
		}
		stop := r.start()
		wait(time.Hour)
		if len(r.hub.finds) != 1 || told != 1 {
			t.Fatalf("told %d times: %v", told, r.hub.finds)
		}
		for _, f := range r.hub.finds {
			if f.Code != string(slatedb.MixedVersions) || f.Object != "dbs/composite" || f.Root != "dbs/composite" || !strings.Contains(f.What, "release 0.12.1 is in use") || f.Who == "" || f.Cure == "" {
				t.Errorf("%+v", f)
			}
		}
		before := len(faults.Calls())
		wait(20 * time.Hour)
		lists := 0
		for _, c := range faults.Calls()[before:] {
			if c.Method == bucket.List && strings.HasPrefix(c.Key, "dbs/composite/") {
				lists++
			}
		}
		if told != 1 || lists > 3*20 {
			t.Errorf("told %d times; %d listings in 20 hours", told, lists)
		}
		stop()
		r.o.InUse, r.hub = nil, newHub()
		defer r.start()()
		wait(time.Hour)
		if len(r.hub.finds) > 0 {
			t.Errorf("nobody says what is in use: %v", r.hub.finds)
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
