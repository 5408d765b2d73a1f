package watch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// OD-1: two databases in one bucket are listed with name and kind; one that is
// deleted turns missing and is not silently absent.
func TestOD1_ListsSlatesAndTheDeletedOneIsMissing(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/wal-only/db", "dbs/orders")
		r.put("opendata/log/slate", "dbs/events")
		defer r.start()()
		wait(time.Second)
		if got := fmt.Sprint(r.hub.roots()); got != "[dbs/events dbs/orders]" || !r.hub.ready {
			t.Fatalf("listed %s, ready %v", got, r.hub.ready)
		}
		if s := r.hub.sight(t, "dbs/orders"); s.Kind != catalog.KindSlateDB || s.Slate != "dbs/orders" || s.Seen != catalog.SeenLive {
			t.Errorf("orders: %+v", s)
		}
		if s := r.hub.sight(t, "dbs/events"); s.Kind != catalog.KindLog || s.KindFrom != "extractor" {
			t.Errorf("events: %+v", s)
		}
		before := r.hub.sight(t, "dbs/orders")
		r.remove("dbs/orders")
		wait(15 * time.Second)
		s := r.hub.sight(t, "dbs/orders")
		if s.Seen != catalog.SeenMissing || *s.ManifestID != *before.ManifestID || s.Incarnation != before.Incarnation || s.Reason == "" {
			t.Errorf("deleted: %+v", s)
		}
		if s := r.hub.sight(t, "dbs/events"); s.Seen != catalog.SeenLive {
			t.Errorf("the other one: %+v", s)
		}
	})
}

// Everything that is there, of every layout, and nothing else.
func TestDiscoveryListsExactlyWhatIsThere(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		want := map[string]catalog.Kind{}
		for _, f := range []struct {
			fixture, root string
			kind          catalog.Kind
		}{
			{"0.12.1/compacted/db", "old/db", catalog.KindSlateDB},
			{"0.16.0/segments/db", "a/b/c/segments", catalog.KindSlateDB},
			{"0.17.0/fresh/db", "fresh", catalog.KindSlateDB},
			{"opendata/log-retained/slate", "od/log", catalog.KindLog},
			{"opendata/timeseries/slate", "od/ts", catalog.KindTimeseries},
			{"opendata/vector/slate", "od/vec", catalog.KindVector},
			{"opendata/buffer/bucket/q1", "od/q1", catalog.KindBuffer},
			{"restate/v2-retained-3/0", "archive/0", catalog.KindSnapshots},
			{"restate/v2-retained-3/1", "archive/1", catalog.KindSnapshots},
		} {
			r.put(f.fixture, f.root)
			want[f.root] = f.kind
		}
		r.put("0.17.0/fresh/db", "tmp/scratch") // excluded
		r.put("0.17.0/fresh/db", "1/2/3/4/5/6/7/8/9/deep")
		r.put("0.17.0/fresh/db", ".quarry/catalog")
		r.write("notes/manifest", "no buffer's manifest")
		r.write("notes/latest.json", "{}")
		r.write("a/manifest/readme.txt", "no manifest")
		r.o.Exclude = []string{"tmp"}
		defer r.start()()
		wait(time.Minute)
		for root, kind := range want {
			if s := r.hub.sight(t, root); s.Kind != kind || s.Seen != catalog.SeenLive {
				t.Errorf("%s is %s (%s %s), want %s", root, s.Kind, s.Seen, s.Reason, kind)
			}
		}
		if got := r.hub.roots(); len(got) != len(want) {
			t.Errorf("listed %v, want %d", got, len(want))
		}
		for key, f := range r.hub.finds {
			t.Errorf("finding %q: %+v", key, f)
		}
	})
}

// Only the configured folders are looked into, but a registered root is
// followed wherever it is.
func TestARegisteredRootOutsideThePrefixesIsFollowed(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/fresh/db", "dbs/in")
		r.put("0.17.0/fresh/db", "elsewhere/out")
		r.put("0.17.0/fresh/db", "dbs-old/not")
		r.o.Discover = []string{"dbs/"}
		defer r.start()()
		wait(5 * time.Second)
		if got := fmt.Sprint(r.hub.roots()); got != "[dbs/in]" {
			t.Fatalf("listed %s", got)
		}
		r.write(".quarry/inbox/01M7XXZP2TSZHXPM5ZGGKM7MPD.json", `{"version":1,"action":"register","slate":"orders","root":"elsewhere/out","owner":"shop"}`)
		r.write(".quarry/inbox/01M7XXZP2TSZHXPM5ZGGKM7MPE.json", `{"version":1,"action":"register","slate":"ghost","root":"no/such"}`)
		r.write(".quarry/inbox/01M7XXZP2TSZHXPM5ZGGKM7MPF.json", `{"version":1,"action":"register","slate":"mine","root":"elsewhere/out","owner":"thief"}`)
		r.write(".quarry/inbox/01M7XXZP2TSZHXPM5ZGGKM7MPG.json", `not JSON`)
		r.write(".quarry/inbox/01M7XXZP2TSZHXPM5ZGGKM7MPH.json", strings.Repeat("x", 65<<10))
		wait(30 * time.Second)
		if s := r.hub.sight(t, "elsewhere/out"); s.Slate != "orders" || s.Seen != catalog.SeenLive {
			t.Errorf("%+v", s)
		}
		codes := map[string]int{}
		for _, f := range r.hub.finds {
			codes[f.Code]++
		}
		if fmt.Sprint(codes) != "map[registration-conflict:1 registration-unreadable:2 registration-without-root:1]" {
			t.Errorf("findings: %v", codes)
		}
		if len(r.hub.regs) != 3 || r.hub.regs["01M7XXZP2TSZHXPM5ZGGKM7MPD"].Owner != "shop" {
			t.Errorf("registrations: %+v", r.hub.regs)
		}
		// It is deregistered: the root's own name comes back.
		r.write(".quarry/inbox/01M7XXZP2TSZHXPM5ZGGKM7MPZ.json", `{"version":1,"action":"deregister","slate":"orders"}`)
		r.remove(".quarry/inbox/01M7XXZP2TSZHXPM5ZGGKM7MPF.json")
		wait(30 * time.Second)
		if s := r.hub.sight(t, "elsewhere/out"); s.Slate != "elsewhere/out" {
			t.Errorf("named %s", s.Slate)
		}
	})
}

// OD-13, the listing part: a buffer with its epoch and backlog.
func TestOD13_BufferIsListedWithEpochAndBacklog(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("opendata/buffer/bucket/q1", "ingest")
		defer r.start()()
		wait(5 * time.Second)
		s := r.hub.sight(t, "ingest")
		if s.Kind != catalog.KindBuffer || deref(s.WriterEpoch) != uint64(1) || deref(s.Backlog) != uint64(6) ||
			deref(s.Position) != uint64(7) || s.PositionDomain != "buffer-seq" || deref(s.ListedObjects) != uint64(9) {
			t.Errorf("%+v", s)
		}
		r.remove("ingest/manifest")
		wait(time.Minute)
		if s := r.hub.sight(t, "ingest"); s.Seen != catalog.SeenMissing || deref(s.Backlog) != uint64(6) {
			t.Errorf("%+v", s)
		}
	})
}
