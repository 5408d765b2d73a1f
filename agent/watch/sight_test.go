package watch

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Every database that the real cores wrote, all in one bucket, is sighted as
// the core that wrote it describes it: epochs, ids, trees, checkpoints, and a
// position no lower than any row that it read.
func TestEveryRealDatabaseIsSightedAsItsCoreDescribesIt(t *testing.T) {
	type described struct {
		ID            uint64
		WriterEpoch   uint64           `json:"writer_epoch"`
		Compactor     uint64           `json:"compactor_epoch"`
		Replayed      uint64           `json:"replay_after_wal_id"`
		LastL0Seq     uint64           `json:"last_l0_seq"`
		External      []map[string]any `json:"external_dbs"`
		L0            []any
		Compacted     []any
		Segments      []any
		WALStore      *string `json:"wal_object_store_uri"`
		NextWAL       uint64  `json:"next_wal_sst_id"`
		Initialized   bool
		unmarkedStore bool
	}
	story(t, func(t *testing.T, r *region) {
		files, _ := filepath.Glob(filepath.Join(fixtures, "0.1[2-7].*/*/expected.json"))
		if len(files) < 100 {
			t.Fatalf("%d fixtures", len(files))
		}
		want := map[string]described{}
		highest := map[string]uint64{}
		checkpoints := map[string]int{}
		for _, f := range files {
			var e struct {
				Case        string
				Roots       map[string]string
				Manifest    map[string]described
				Checkpoints map[string][]any
				Scan        map[string][][]any
			}
			b, err := os.ReadFile(f)
			if err == nil {
				err = json.Unmarshal(b, &e)
			}
			if err != nil {
				t.Fatal(f, err)
			}
			rel, _ := filepath.Rel(fixtures, filepath.Dir(f))
			for name, folder := range e.Roots {
				m, ok := e.Manifest[name]
				if !ok {
					continue
				}
				root := rel + "/" + folder
				r.put(root, root)
				m.unmarkedStore = e.Case == "wal-store" && m.WALStore == nil
				want[root], checkpoints[root] = m, len(e.Checkpoints[name])
				for _, row := range e.Scan[name] {
					if len(row) > 2 {
						if seq, ok := row[2].(float64); ok {
							highest[root] = max(highest[root], uint64(seq))
						}
					}
				}
			}
		}
		defer r.start()()
		wait(5 * time.Minute)
		if got := r.hub.roots(); len(got) != len(want) || !r.hub.ready {
			t.Errorf("%d slates listed, want %d; ready %v", len(got), len(want), r.hub.ready)
		}
		for root, w := range want {
			s := r.hub.sight(t, root)
			got := fmt.Sprint(s.Seen, deref(s.ManifestID), deref(s.WriterEpoch), deref(s.CompactorEpoch), deref(s.ReplayAfterWAL), deref(s.LastL0Seq), deref(s.Initialized), len(s.Checkpoints), len(s.External))
			expect := fmt.Sprint(catalog.SeenLive, w.ID, w.WriterEpoch, w.Compactor, w.Replayed, w.LastL0Seq, w.Initialized, checkpoints[root], len(w.External))
			if got != expect {
				t.Errorf("%s:\n got %s\nwant %s", root, got, expect)
			}
			if w.WALStore != nil || w.unmarkedStore {
				if s.WALTail != nil || s.WALGap != nil {
					t.Errorf("%s: WAL tail %v of a WAL that cannot be seen", root, deref(s.WALTail))
				}
				continue
			}
			if s.Position == nil || *s.Position < highest[root] || s.WALTail == nil || s.PositionDomain != "seq" {
				t.Errorf("%s: position %v %s, rows up to %d; WAL tail %v", root, deref(s.Position), s.PositionDomain, highest[root], deref(s.WALTail))
			}
			if s.ListedBytes == nil || *s.ListedBytes < *s.Bytes && len(s.External) == 0 {
				t.Errorf("%s: %v bytes in tables, %v listed", root, deref(s.Bytes), deref(s.ListedBytes))
			}
		}
		for _, f := range r.hub.finds {
			if f.Code != "wal-store-unmarked" || filepath.Base(filepath.Dir(f.Root)) != "wal-store" {
				t.Errorf("finding: %+v", f)
			}
		}
	})
}

// A lease is told, told again when it is touched, and withdrawn when it is
// removed; one that nobody can read is a finding.
func TestLeasesAreTold(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/fresh/db", "dbs/orders")
		r.write(".quarry/leases/dbs%2Forders/owner-a.json", `{"version":1,"slate":"dbs/orders","role":"owner","id":"a","holder":"shop","ttl_seconds":30}`)
		r.write(".quarry/leases/dbs%2Forders/reader-b.json", `{"version":1,"slate":"dbs/orders","role":"king","id":"b"}`)
		defer r.start()()
		wait(5 * time.Second)
		key := catalog.LeaseKey("dbs/orders", "owner", "a")
		if l := r.hub.leases[key]; l.Holder != "shop" || l.TTL != 30 || l.Touched.IsZero() {
			t.Errorf("%+v", r.hub.leases)
		}
		if len(r.hub.finds) != 1 {
			t.Errorf("%v", r.hub.finds)
		}
		r.write(".quarry/leases/dbs%2Forders/owner-a.json", `{"version":1,"slate":"dbs/orders","role":"owner","id":"a","holder":"another","ttl_seconds":30}`)
		wait(30 * time.Second)
		if l := r.hub.leases[key]; l.Holder != "another" {
			t.Errorf("%+v", l)
		}
		r.remove(".quarry/leases")
		wait(30 * time.Second)
		if len(r.hub.leases) != 0 || len(r.hub.finds) != 0 {
			t.Errorf("%v %v", r.hub.leases, r.hub.finds)
		}
	})
}
