package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// OD-12: an agent with only a bucket finds region.json, and writes it when
// there is none and the hub knows none.
func TestOD12_TheRegionsDescriptorIsWrittenOnceAndRead(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.hub.known = false
		r.put("0.17.0/fresh/db", "db")
		stop := r.start()
		wait(time.Minute)
		if h := r.hub.now(); h.BucketID != "" || !h.ReadOK || h.BucketWhy == "" || !r.hub.ready {
			t.Errorf("before any hub: %+v", h)
		}
		r.hub.says("")
		wait(time.Second)
		id := r.hub.now().BucketID
		var d catalog.RegionDescriptor
		raw, err := os.ReadFile(filepath.Join(r.dir, ".quarry/region.json"))
		if err == nil {
			err = json.Unmarshal(raw, &d)
		}
		if err != nil || d.Region != "eu" || d.Bucket != id || d.Catalog != ".quarry/catalog" || id == "" {
			t.Fatalf("%+v, %v; told %s", d, err, id)
		}
		stop()
		r.hub = newHub()
		stop = r.start()
		wait(time.Second)
		if got := r.hub.now().BucketID; got != id {
			t.Errorf("after a restart: %s, it was %s", got, id)
		}
		stop()
		r.o.Region = "us"
		w, err := New(r.b, newHub(), r.o)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Run(t.Context()); !errors.Is(err, ErrAnotherRegion) || !strings.Contains(err.Error(), `"us"`) {
			t.Errorf("another region's agent: %v", err)
		}
	})
}

// A descriptor that was there is never written again by ourselves, nor one
// where the hub knows another bucket.
func TestALostDescriptorIsReportedAndNotMended(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		defer r.start()()
		wait(time.Second)
		if r.hub.now().BucketID == "" {
			t.Fatal("not written")
		}
		r.remove(".quarry/region.json")
		wait(15 * time.Second)
		if h := r.hub.now(); h.BucketID != "" || !strings.Contains(h.BucketWhy, "gone") {
			t.Errorf("%+v", h)
		}
		r.write(".quarry/region.json", `{"version":1,"region":"us","bucket":"theirs"}`)
		wait(15 * time.Second)
		if h := r.hub.now(); h.ReadOK || !strings.Contains(h.Reason, `"us"`) {
			t.Errorf("swapped for another region's: %+v", h)
		}
	})
	story(t, func(t *testing.T, r *region) {
		r.hub.bucket = "the-one-we-know"
		defer r.start()()
		wait(time.Minute)
		if _, err := os.Stat(filepath.Join(r.dir, ".quarry/region.json")); err == nil {
			t.Error("written although the hub knows another bucket")
		}
		if h := r.hub.now(); h.BucketID != "" || !strings.Contains(h.BucketWhy, "the-one-we-know") {
			t.Errorf("%+v", h)
		}
	})
}

// The folder is taken away under the agent: it is blind, and nothing is
// missing; then it comes back.
func TestAFolderTakenAwayMakesTheRegionBlindAndNothingMissing(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "db")
		r.put("restate/v2-retained-3/0", "archive/0")
		r.put("opendata/buffer/bucket/q1", "q")
		defer r.start()()
		wait(20 * time.Second)
		if err := os.Rename(r.dir, r.dir+"-away"); err != nil {
			t.Fatal(err)
		}
		wait(12 * time.Minute)
		if h := r.hub.now(); h.ReadOK || !strings.Contains(h.Reason, "no such bucket") {
			t.Errorf("%+v", h)
		}
		if err := os.Rename(r.dir+"-away", r.dir); err != nil {
			t.Fatal(err)
		}
		wait(2 * time.Minute)
		if h := r.hub.now(); !h.ReadOK || h.BucketID == "" {
			t.Errorf("back: %+v", h)
		}
		for _, s := range r.hub.history {
			if s.Seen != catalog.SeenLive {
				t.Errorf("%s was told to be %s: %s", s.Root, s.Seen, s.Reason)
			}
		}
	})
}

// Everything was deleted: the slates are missing by a listing, and the
// descriptor is gone.
func TestAnEmptiedBucketIsMissingSlatesAndALostDescriptor(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "db")
		r.put("restate/v2-retained-3/0", "archive/0")
		defer r.start()()
		wait(20 * time.Second)
		for _, d := range []string{"db", "archive", ".quarry"} {
			r.remove(d)
		}
		wait(time.Minute)
		for _, root := range []string{"db", "archive/0"} {
			if s := r.hub.sight(t, root); s.Seen != catalog.SeenMissing || s.Incarnation == "" {
				t.Errorf("%+v", s)
			}
		}
		if h := r.hub.now(); h.BucketID != "" || !h.ReadOK {
			t.Errorf("%+v", h)
		}
	})
}

// A store that answers 503 makes the region blind after a while, and nothing
// missing or unreadable; one that does so from the start is never ready.
func TestAStoreThatAnswers503IsBlindness(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "db")
		b, faults := faulty.New(r.b)
		r.b = b
		faults.Down(nil)
		defer r.start()()
		wait(time.Minute)
		if h := r.hub.now(); h.ReadOK || h.Reason == "" || r.hub.ready || len(r.hub.sights) != 0 {
			t.Errorf("down from the start: %+v, ready %v", h, r.hub.ready)
		}
		faults.Up()
		wait(time.Minute)
		if h := r.hub.now(); !h.ReadOK || !r.hub.ready || r.hub.sight(t, "db").Seen != catalog.SeenLive {
			t.Errorf("up: %+v, ready %v", h, r.hub.ready)
		}
		faults.Down(nil)
		wait(15 * time.Minute)
		if h := r.hub.now(); h.ReadOK || !strings.Contains(h.Reason, "unavailable") {
			t.Errorf("down: %+v", h)
		}
		for _, s := range r.hub.history {
			if s.Seen != catalog.SeenLive {
				t.Errorf("%s was told to be %s: %s", s.Root, s.Seen, s.Reason)
			}
		}
	})
}

// One object that cannot be read is one slate's trouble.
func TestOneUnreadableObjectDoesNotBlindTheRegion(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "good")
		from := filepath.Join(fixtures, "0.17.0/fresh/db")
		copyTree(t, from, filepath.Join(r.dir, "bad"), nil)
		defer r.start()()
		wait(20 * time.Second)
		was := r.hub.sight(t, "bad")
		next := fmt.Sprintf("bad/manifest/%020d.manifest", *was.ManifestID+1)
		r.write(next, "\x00\x07garbage")
		wait(30 * time.Second)
		s := r.hub.sight(t, "bad")
		if s.Seen != catalog.SeenUnreadable || !strings.Contains(s.Reason, next) || deref(s.WriterEpoch) != deref(was.WriterEpoch) || s.Incarnation != was.Incarnation {
			t.Errorf("%+v", s)
		}
		if h := r.hub.now(); !h.ReadOK || r.hub.sight(t, "good").Seen != catalog.SeenLive {
			t.Errorf("%+v", h)
		}
		// A pill instead says that it is one, and why.
		r.remove(next)
		r.write(next, "\xff\xff{\"reason\":\"moved to us\"}")
		wait(10 * time.Minute)
		if s := r.hub.sight(t, "bad"); s.Seen != catalog.SeenUnreadable || !strings.Contains(s.Pill, "moved to us") || !strings.HasPrefix(s.Reason, "pill: ") || s.Incarnation != was.Incarnation {
			t.Errorf("pill: %+v", s)
		}
		// The deletion is undone.
		r.remove(next)
		wait(10 * time.Minute)
		if s := r.hub.sight(t, "bad"); s.Seen != catalog.SeenLive || s.Pill != "" || s.Incarnation != was.Incarnation || *s.ManifestID != *was.ManifestID {
			t.Errorf("undone: %+v", s)
		}
	})
}

// Without the right to write the whole inventory is given all the same, and
// what cannot be kept is said.
func TestWithoutTheRightToWriteTheInventoryIsWhole(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/compacted/db", "db")
		r.put("restate/v2-retained-3/0", "archive/0")
		b, faults := faulty.New(r.b)
		faults.Add(faulty.Fault{Method: bucket.PutNew, Times: -1, Err: fs.ErrPermission})
		r.b = b
		defer r.start()()
		wait(time.Minute)
		for _, root := range []string{"db", "archive/0"} {
			if s := r.hub.sight(t, root); s.Seen != catalog.SeenLive || s.Incarnation == "" || s.IncarnationKept {
				t.Errorf("%+v", s)
			}
		}
		if h := r.hub.now(); !h.ReadOK || h.CannotKeep == "" || h.BucketID != "" || !r.hub.ready {
			t.Errorf("%+v", h)
		}
	})
}
