package watch

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// wantPartition is what a fixture's expected.json says of a partition.
type wantPartition struct {
	Fingerprint   string
	LatestLSN     uint64 `json:"latest_lsn"`
	ArchivedLSN   uint64 `json:"archived_lsn"`
	RestorePoints []struct {
		Path     string
		LSN      uint64
		Complete bool
	} `json:"restore_points"`
	Orphans []struct {
		Path     string
		Complete bool
	}
}

// The restore points of every repository that real servers left are exactly
// those its pointers list, each verified; orphans are shown and never count.
func TestEveryRepositorysRestorePointsAreThosePointersList(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		want := map[string]wantPartition{}
		base := filepath.Join(fixtures, "restate")
		_ = filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(p, ".expected.json") {
				return err
			}
			var e struct{ Partitions map[string]wantPartition }
			b, err := os.ReadFile(p)
			if err == nil {
				err = json.Unmarshal(b, &e)
			}
			if err != nil {
				t.Fatal(err)
			}
			rel, _ := filepath.Rel(base, strings.TrimSuffix(p, ".expected.json"))
			r.put("restate/"+rel, rel)
			for n, x := range e.Partitions {
				want[rel+"/"+n] = x
			}
			return nil
		})
		if len(want) < 10 {
			t.Fatalf("%d partitions", len(want))
		}
		defer r.start()()
		wait(time.Minute)
		if got := r.hub.roots(); len(got) != len(want) {
			t.Errorf("listed %v, want %d partitions", got, len(want))
		}
		points := map[string][]string{}
		for _, p := range r.hub.points {
			points[p.Root] = append(points[p.Root], fmt.Sprintf("%s %d %s", p.ID, *p.Position, p.State))
			if p.Source != catalog.SourceSnapshot || p.VerifiedAt == nil || p.CreatedAt == nil || p.Lineage != r.hub.sight(t, p.Root).Lineage {
				t.Errorf("%+v", p)
			}
		}
		for root, w := range want {
			s := r.hub.sight(t, root)
			if deref(s.Position) != w.LatestLSN || deref(s.Archived) != w.ArchivedLSN || s.PositionDomain != "lsn" ||
				s.Lineage != "restate:"+w.Fingerprint+":"+filepath.Base(root) {
				t.Errorf("%s: position %v, archived %v, lineage %s", root, deref(s.Position), deref(s.Archived), s.Lineage)
			}
			var expect []string
			for _, p := range w.RestorePoints {
				expect = append(expect, fmt.Sprintf("%s %d verified", p.Path, p.LSN))
			}
			slices.Sort(expect)
			slices.Sort(points[root])
			if !slices.Equal(points[root], expect) {
				t.Errorf("%s: restore points %v, want %v", root, points[root], expect)
			}
			var orphans, wantOrphans []string
			for _, o := range s.Orphans {
				orphans = append(orphans, fmt.Sprint(o.Path, o.Complete))
			}
			for _, o := range w.Orphans {
				wantOrphans = append(wantOrphans, fmt.Sprint(o.Path, o.Complete))
			}
			slices.Sort(wantOrphans)
			if !slices.Equal(orphans, wantOrphans) {
				t.Errorf("%s: orphans %v, want %v", root, orphans, wantOrphans)
			}
		}
	})
}

// RS-1, one region's part: latest and archived positions per partition, V1 and
// V2 mixed; a pointer that cannot be read is unreadable, never 0, and what was
// known of its restore points does not count.
func TestRS1_AnUnreadablePointerIsUnreadableAndNeverZero(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("restate/v1-v2-mixed-after-upgrade", "archive")
		defer r.start()()
		wait(time.Minute)
		if got := fmt.Sprint(r.hub.roots()); got != "[archive/0 archive/1]" {
			t.Fatalf("listed %s", got)
		}
		before := r.hub.sight(t, "archive/0")
		good, err := os.ReadFile(filepath.Join(r.dir, "archive/0/latest.json"))
		if err != nil {
			t.Fatal(err)
		}
		r.write("archive/0/latest.json", `{"version":"V3"}`)
		wait(time.Minute)
		s := r.hub.sight(t, "archive/0")
		if s.Seen != catalog.SeenUnreadable || s.Position != nil || s.Archived != nil || !strings.Contains(s.Reason, "latest.json") || s.Incarnation != before.Incarnation {
			t.Errorf("%+v", s)
		}
		n := 0
		for _, p := range r.hub.points {
			if p.Root == "archive/0" {
				n++
				if p.State != catalog.RestoreUnreadable {
					t.Errorf("%+v", p)
				}
			}
		}
		if n == 0 {
			t.Error("its restore points were dropped")
		}
		r.write("archive/0/latest.json", string(good))
		wait(time.Minute)
		if s := r.hub.sight(t, "archive/0"); s.Seen != catalog.SeenLive || deref(s.Position) != deref(before.Position) || s.Incarnation != before.Incarnation {
			t.Errorf("%+v", s)
		}
	})
}

// A snapshot file is lost: the point is incomplete and the file is named; a
// repository of another cluster at the same place is another incarnation.
func TestALostSnapshotFileMakesItsPointIncomplete(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("restate/v2-retained-3/0", "archive/0")
		files, _ := filepath.Glob(filepath.Join(r.dir, "archive/0/lsn_*/*.sst"))
		lost := files[len(files)-1]
		if err := os.Remove(lost); err != nil {
			t.Fatal(err)
		}
		defer r.start()()
		wait(time.Minute)
		states := map[catalog.RestoreState]int{}
		for _, p := range r.hub.points {
			states[p.State]++
			if p.State == catalog.RestoreIncomplete && !strings.Contains(p.Reason, filepath.Base(lost)) {
				t.Errorf("%+v", p)
			}
		}
		if states[catalog.RestoreIncomplete] != 1 || states[catalog.RestoreVerified] != 2 {
			t.Errorf("%v", states)
		}
	})
}

// Only named checkpoints without expiry are restore points, at the position of
// their own manifest, verified; with a table gone they are incomplete.
func TestNamedCheckpointsWithoutExpiryAreRestorePoints(t *testing.T) {
	for _, version := range []string{"0.14.1", "0.15.0", "0.16.0", "0.17.0"} {
		story(t, func(t *testing.T, r *region) {
			r.put(version+"/checkpoints/db", "db")
			defer r.start()()
			wait(time.Minute)
			s := r.hub.sight(t, "db")
			want := map[string]bool{}
			for _, c := range s.Checkpoints {
				if c.Name != "" && c.Expires == nil {
					want[c.ID] = true
				}
			}
			if len(want) == 0 || len(want) == len(s.Checkpoints) {
				t.Fatalf("%s: %+v", version, s.Checkpoints)
			}
			if len(r.hub.points) != len(want) {
				t.Errorf("%s: %v, want %v", version, r.hub.points, want)
			}
			for _, p := range r.hub.points {
				if !want[p.ID] || p.State != catalog.RestoreVerified || p.Position == nil || *p.Position == 0 || *p.Position > *s.Position || p.Incarnation != s.Incarnation {
					t.Errorf("%s: %+v", version, p)
				}
			}
			tables, _ := filepath.Glob(filepath.Join(r.dir, "db/compacted/*.sst"))
			for _, f := range tables {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
			wait(verifyEvery + 2*time.Hour)
			incomplete := 0
			for _, p := range r.hub.points {
				if p.State == catalog.RestoreIncomplete && strings.Contains(p.Reason, "compacted/") && p.VerifiedAt == nil {
					incomplete++
				}
			}
			if incomplete == 0 {
				t.Errorf("%s: %+v", version, r.hub.points)
			}
			missing := 0
			for _, f := range r.hub.finds {
				if f.Code == "object-missing" {
					missing++
				}
			}
			if missing != len(tables) {
				t.Errorf("%s: %d findings for %d tables: %v", version, missing, len(tables), r.hub.finds)
			}
		})
	}
}

// A log's own positions are read from its rows and are not SlateDB's.
func TestALogsOwnPositions(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		want := map[string][2]any{
			"log":          {uint64(89), nil},
			"log-retained": {nil, uint64(143)}, // head is checked against the library in pkg/opendata
			"log-open":     {nil, nil},
		}
		for name := range want {
			r.put("opendata/"+name+"/slate", name)
		}
		defer r.start()()
		wait(time.Minute)
		for name, w := range want {
			s := r.hub.sight(t, name)
			if s.Kind != catalog.KindLog || s.PositionDomain != "log-seq" || s.Position == nil || w[0] != nil && deref(s.Position) != w[0] || deref(s.TrimmedTo) != w[1] {
				t.Errorf("%s: %s %v trimmed %v, want %v", name, s.PositionDomain, deref(s.Position), deref(s.TrimmedTo), w)
			}
		}
	})
}
