package watch

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// A database that has been quiet for hours is looked at every few minutes. Its
// writer says "look now", and within a second its news is told; one that was
// made where slates are discovered is shown within a second too. Nothing that
// is said in a hint is told, and what is not ours to look at is refused.
func TestAHintMakesAColdSlateSeenWithinASecond(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		from := filepath.Join(fixtures, "0.15.0/compacted/db")
		copyTree(t, from, filepath.Join(r.dir, "dbs/a"), manifestsUpTo("3"))
		r.o.Discover, r.o.Exclude = []string{"dbs"}, []string{"tmp"}
		r.o.Poll = time.Minute // so that a look at a quiet one is minutes away
		w, stop := r.watcher()
		defer stop()
		wait(3 * time.Hour)
		before := *r.hub.sight(t, "dbs/a").ManifestID
		copyTree(t, from, filepath.Join(r.dir, "dbs/a"), nil)
		wait(5 * time.Second)
		if now := *r.hub.sight(t, "dbs/a").ManifestID; now != before {
			t.Fatalf("it was not cold: manifest %d after %d", now, before)
		}
		if err := w.Hint("dbs/a"); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		if now := *r.hub.sight(t, "dbs/a").ManifestID; now == before {
			t.Error("a hint did not make it seen within a second")
		}
		r.put("0.17.0/fresh/db", "dbs/team/new")
		if err := w.Hint("/dbs/team/new/"); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		if s := r.hub.sight(t, "dbs/team/new"); s.Seen != catalog.SeenLive {
			t.Errorf("%+v", s)
		}
		if err := w.Hint("dbs/nothing"); err != nil { // there is nothing, and nothing is told of it
			t.Fatal(err)
		}
		wait(strangerRest + time.Second)
		if got := r.hub.roots(); len(got) != 2 {
			t.Errorf("listed %v", got)
		}
		for _, root := range []string{"elsewhere/db", ".quarry/catalog", "dbs/tmp/x", "dbs/a/inside"} {
			if err := w.Hint(root); !errors.Is(err, ErrNotFollowed) {
				t.Errorf("%s: %v", root, err)
			}
		}
		for _, root := range []string{"", "dbs/../x", "dbs//x"} {
			if err := w.Hint(root); !errors.Is(err, catalog.ErrInvalid) {
				t.Errorf("%q: %v", root, err)
			}
		}
	})
}

// Somebody on the machine who says of every slate, many times a second, that it
// has changed does not make the agent spend more than its budget, nor keep it
// from seeing in time what nobody told it. Of one slate it asks once for all
// that is said before it looks.
func TestAStormOfWrongHintsDoesNoHarm(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		const n = 40
		from := filepath.Join(fixtures, "0.15.0/compacted/db")
		copyTree(t, from, filepath.Join(r.dir, "dbs/told-by-nobody"), manifestsUpTo("3"))
		for i := range n {
			r.put("0.17.0/fresh/db", fmt.Sprintf("dbs/%02d", i))
		}
		b, faults := faulty.New(r.b)
		r.b = b
		r.o.Discover, r.o.Budget = []string{"dbs"}, 4*3600
		w, stop := r.watcher()
		defer stop()
		wait(3 * time.Hour)
		for range 1000 {
			if err := w.Hint("dbs/00"); err != nil {
				t.Fatalf("the same hint again: %v", err)
			}
		}
		before := len(faults.Calls())
		wait(100 * time.Millisecond)
		asked := 0
		for _, c := range faults.Calls()[before:] {
			if strings.HasPrefix(c.Key, "dbs/00/") {
				asked++
			}
		}
		if asked != hintCost {
			t.Errorf("a thousand hints at once about one slate cost %d requests", asked)
		}

		was := *r.hub.sight(t, "dbs/told-by-nobody").ManifestID
		before = len(faults.Calls())
		refused, seen := 0, time.Duration(0)
		for second := range 3600 {
			if second == 1800 {
				copyTree(t, from, filepath.Join(r.dir, "dbs/told-by-nobody"), nil)
			}
			for i := range n {
				for _, root := range []string{fmt.Sprintf("dbs/%02d", i), fmt.Sprintf("dbs/none-%d-%d", second, i)} {
					if err := w.Hint(root); errors.Is(err, ErrTooManyHints) {
						refused++
					} else if err != nil {
						t.Fatal(err)
					}
				}
			}
			wait(time.Second)
			if seen == 0 && *r.hub.sight(t, "dbs/told-by-nobody").ManifestID != was {
				seen = time.Duration(second-1800) * time.Second
			}
		}
		if spent := len(faults.Calls()) - before; float64(spent) > r.o.Budget*1.02 {
			t.Errorf("%d requests in an hour of %v", spent, r.o.Budget)
		}
		if refused < 3600 {
			t.Errorf("only %d of %d hints were refused", refused, 2*n*3600)
		}
		if seen <= 0 || seen > 10*time.Minute {
			t.Errorf("what nobody told was seen after %v", seen)
		}
		t.Logf("%d of %d hints refused, %d requests, untold news seen after %v", refused, 2*n*3600, len(faults.Calls())-before, seen)
	})
}

// A process that stands by asks the bucket for its descriptor alone; when the
// other is gone it looks.
func TestAStandbyDoesNotLook(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/fresh/db", "dbs/a")
		r.hub.wanted = make(chan struct{})
		w, stop := r.watcher()
		defer stop()
		wait(time.Hour)
		if q := r.b.Requests(); q.List > 0 || q.Get > 400 {
			t.Errorf("standing by costs %+v an hour", q)
		}
		if h := r.hub.now(); !h.ReadOK || h.BucketID == "" {
			t.Errorf("%+v", h)
		}
		if err := w.Hint("dbs/a"); !errors.Is(err, ErrNotFollowed) {
			t.Errorf("a hint to one that stands by: %v", err)
		}
		close(r.hub.wanted)
		wait(5 * time.Second)
		if s := r.hub.sight(t, "dbs/a"); s.Seen != catalog.SeenLive || !r.hub.isReady() {
			t.Errorf("%+v", s)
		}
	})
}
