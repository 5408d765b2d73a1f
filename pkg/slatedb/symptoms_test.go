package slatedb_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func manifests(ages map[uint64]time.Duration) []slatedb.Stored {
	all := []slatedb.Stored{}
	for id, age := range ages {
		all = append(all, slatedb.Stored{Key: slatedb.ManifestKey("db", id), Size: 100, Modified: noon.Add(-age)})
	}
	return all
}

func logs(size int64, ids ...uint64) []slatedb.Stored {
	all := []slatedb.Stored{}
	for _, id := range ids {
		all = append(all, slatedb.Stored{Key: slatedb.WALKey("db", id), Size: size, Modified: noon})
	}
	return all
}

func upTo(n uint64, age time.Duration) map[uint64]time.Duration {
	m := map[uint64]time.Duration{}
	for id := uint64(1); id <= n; id++ {
		m[id] = age
	}
	return m
}

func boundary(n uint64) *uint64 { return &n }

// What is told, and what is not: ignorance concludes nothing.
func TestSymptoms(t *testing.T) {
	composite := manifest.Table{ID: ulid.MustNew(1, nil2{}), Format: 2, Info: manifest.Info{FilterLen: 9, FilterFormat: 1}}
	composite.ViewID = composite.ID
	legacy := composite
	legacy.Info.FilterFormat = 0
	head := func(id uint64, change func(*manifest.Manifest)) *slatedb.Head {
		m := manifest.New()
		m.Initialized = true
		if change != nil {
			change(m)
		}
		return &slatedb.Head{Root: "db", ID: id, Manifest: m}
	}
	segmented := head(8, func(m *manifest.Manifest) { m.Version, m.ExtractorName = manifest.V2, "two" })
	pinned := head(9, func(m *manifest.Manifest) {
		m.Checkpoints = []manifest.Checkpoint{{ID: uuid.New(), ManifestID: 3}, {ID: uuid.New(), ManifestID: 3}}
	})
	used := head(9, func(m *manifest.Manifest) { m.ReplayAfterWAL, m.WALLastSeen = 4, 6 })
	tablesOf := func(n int) []manifest.Table { return slices.Repeat([]manifest.Table{legacy}, n) }
	crowded := func(n int) *slatedb.Head { return head(9, func(m *manifest.Manifest) { m.L0 = tablesOf(n) }) }
	for _, c := range []struct {
		name string
		see  slatedb.Sight
		want []slatedb.Code
	}{
		{"nothing was looked at", slatedb.Sight{Head: head(9, nil)}, nil},
		{"no manifest to look at", slatedb.Sight{Head: &slatedb.Head{ID: 9}}, nil},
		{"a boundary below", slatedb.Sight{Head: head(9, nil), Boundary: boundary(8)}, nil},
		{"a boundary at the newest", slatedb.Sight{Head: head(9, nil), Boundary: boundary(9)}, []slatedb.Code{slatedb.BoundaryAhead}},
		{"segments were there and are gone", slatedb.Sight{Head: head(9, nil), Before: []*slatedb.Head{segmented}}, []slatedb.Code{slatedb.SegmentsLost}},
		{"segments are there", slatedb.Sight{Head: &slatedb.Head{Root: "db", ID: 9, Manifest: segmented.Manifest}, Before: []*slatedb.Head{segmented}}, nil},
		{"a later manifest is no earlier one", slatedb.Sight{Head: head(7, nil), Before: []*slatedb.Head{segmented}}, nil},
		{
			"a filter that was composite and is legacy",
			slatedb.Sight{
				Head:   head(9, func(m *manifest.Manifest) { m.L0 = []manifest.Table{legacy} }),
				Before: []*slatedb.Head{head(8, func(m *manifest.Manifest) { m.L0 = []manifest.Table{composite} })},
			},
			[]slatedb.Code{slatedb.FilterFormatMismatch},
		},
		{
			"a filter that was legacy and is composite: it was repaired",
			slatedb.Sight{
				Head:   head(9, func(m *manifest.Manifest) { m.L0 = []manifest.Table{composite} }),
				Before: []*slatedb.Head{head(8, func(m *manifest.Manifest) { m.L0 = []manifest.Table{legacy} })},
			},
			nil,
		},
		{"a WAL without a hole", slatedb.Sight{Head: used, WAL: logs(200, 4, 5, 6, 7)}, nil},
		{"a hole", slatedb.Sight{Head: used, WAL: logs(200, 4, 5, 7)}, []slatedb.Code{slatedb.WALHole}},
		{"ids at the end that a writer up to 0.15 may have claimed and not put", slatedb.Sight{Head: used, WAL: logs(200, 4, 5)}, nil},
		{"a hole at the end that a writer from 0.16 on knows", slatedb.Sight{Head: head(9, func(m *manifest.Manifest) {
			m.Version, m.ReplayAfterWAL, m.WALLastSeen = manifest.V2, 4, 6
		}), WAL: logs(200, 4, 5)}, []slatedb.Code{slatedb.WALHole}},
		{"no WAL object at all", slatedb.Sight{Head: used, WAL: []slatedb.Stored{}}, []slatedb.Code{slatedb.WALStoreUnmarked}},
		{"no WAL object in the store that was named", slatedb.Sight{Head: used, WAL: []slatedb.Stored{}, WALNamed: true}, []slatedb.Code{slatedb.WALHole}},
		{"a clone begins without its parent's WAL", slatedb.Sight{Head: head(2, func(m *manifest.Manifest) {
			m.ReplayAfterWAL, m.WALLastSeen, m.ExternalDBs = 4, 4, []manifest.ExternalDB{{Path: "parent"}}
		}), WAL: []slatedb.Stored{}}, nil},
		{"a mark that was there and is gone", slatedb.Sight{Head: head(9, nil), Before: []*slatedb.Head{head(8, func(m *manifest.Manifest) { m.WALStoreMarked = true })}}, []slatedb.Code{slatedb.WALStoreUnmarked}},
		{"a mark, and the store was not named", slatedb.Sight{Head: head(9, func(m *manifest.Manifest) { m.WALStoreMarked, m.WALLastSeen = true, 5 }), WAL: []slatedb.Stored{}}, nil},
		{"a pinned manifest is gone, twice pinned", slatedb.Sight{Head: pinned, Manifests: manifests(map[uint64]time.Duration{9: 0})}, []slatedb.Code{slatedb.CheckpointDangling}},
		{"a pinned manifest is there", slatedb.Sight{Head: pinned, Manifests: manifests(map[uint64]time.Duration{3: 0, 9: 0})}, nil},
		{"manifests nobody listed", slatedb.Sight{Head: pinned}, nil},
		{"sixty old manifests", slatedb.Sight{Head: head(60, nil), Manifests: manifests(upTo(60, 2*time.Hour))}, []slatedb.Code{slatedb.CollectorStuck}},
		{"sixty young manifests", slatedb.Sight{Head: head(60, nil), Manifests: manifests(upTo(60, 20*time.Minute))}, nil},
		{"0.12.1 and composite filters", slatedb.Sight{Head: head(9, func(m *manifest.Manifest) { m.L0 = []manifest.Table{composite} }), InUse: []string{"0.12.1", "0.17.0"}}, []slatedb.Code{slatedb.MixedVersions}},
		{"0.12.1 and legacy filters", slatedb.Sight{Head: head(9, func(m *manifest.Manifest) { m.L0 = []manifest.Table{legacy} }), InUse: []string{"0.12.1"}}, nil},
		{"0.13.1 and an empty fence to replay", slatedb.Sight{Head: used, WAL: slices.Concat(logs(200, 4, 5, 6), logs(0, 7)), InUse: []string{"v0.13.1"}}, []slatedb.Code{slatedb.MixedVersions}},
		{"0.13.1 and an empty fence that was passed", slatedb.Sight{Head: used, WAL: slices.Concat(logs(0, 4), logs(200, 5, 6)), InUse: []string{"0.13.1"}}, nil},
		{"0.13.1 and segments", slatedb.Sight{Head: &slatedb.Head{Root: "db", ID: 9, Manifest: segmented.Manifest}, InUse: []string{"0.13.1"}}, []slatedb.Code{slatedb.MixedVersions}},
		{"0.15.0 reads beside 0.17.0, and L0 is nearly full", slatedb.Sight{Head: crowded(6), InUse: []string{"0.15.0", "0.17.0"}}, []slatedb.Code{slatedb.MixedVersions}},
		{"the same in a segment", slatedb.Sight{Head: head(9, func(m *manifest.Manifest) {
			m.ExtractorName, m.Segments = "x", []manifest.Segment{{Prefix: []byte("a"), Tree: manifest.Tree{L0: tablesOf(7)}}}
		}), InUse: []string{"0.16.0", "0.14.1"}}, []slatedb.Code{slatedb.MixedVersions}},
		{"0.15.0 reads beside 0.17.0, and there is room in L0", slatedb.Sight{Head: crowded(5), InUse: []string{"0.15.0", "0.17.0"}}, nil},
		{"0.17.0 is alone with a full L0", slatedb.Sight{Head: crowded(8), InUse: []string{"0.16.0", "0.17.0"}}, nil},
		{"0.15.0 is alone with a full L0", slatedb.Sight{Head: crowded(8), InUse: []string{"0.14.1", "0.15.0"}}, nil},
		{"a full L0 is of a moment", slatedb.Sight{Head: crowded(8), InUse: []string{"0.15.0", "0.17.0"}, Lasting: true}, nil},
		{"composite filters last", slatedb.Sight{Head: head(9, func(m *manifest.Manifest) { m.L0 = []manifest.Table{composite} }), InUse: []string{"0.12.1"}, Lasting: true}, []slatedb.Code{slatedb.MixedVersions}},
		{"a release that nobody knows", slatedb.Sight{Head: used, InUse: []string{"yesterday's", "1.0.0"}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.see.Root, c.see.Now = "db", noon
			found := slatedb.Symptoms(&c.see)
			if got := codes(found); !slices.Equal(got, c.want) || len(found) != len(c.want) {
				t.Errorf("%v, expected %v", found, c.want)
			}
			for _, f := range found {
				if f.Object == "" || f.What == "" || f.Who == "" || f.Cure == "" {
					t.Errorf("a finding has code, object, who is hurt and cure: %+v", f)
				}
			}
		})
	}
}

func TestAReleaseInUseHasAName(t *testing.T) {
	for _, good := range []string{"0.12.1", "v0.17.0", "0.14", "1.0.0"} {
		if err := slatedb.CheckRelease(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "12", "yesterday's", "0.-1.2", "0.x", "0.99999999999999999999"} {
		if slatedb.CheckRelease(bad) == nil {
			t.Errorf("%q passes for a release", bad)
		}
	}
}

// Padded blocks are in the tables; who reads them all sees them.
func TestPaddedBlocksAreTooNewForReleasesInUse(t *testing.T) {
	b := original(t, "0.18.0/aligned")
	for release, want := range map[string]bool{"0.17.0": true, "0.18.0": false} {
		rep, err := slatedb.Verify(t.Context(), b, "db", slatedb.VerifyOptions{Checksums: true, InUse: []string{release}})
		if err != nil || slices.Contains(codes(rep.Findings), slatedb.MixedVersions) != want {
			t.Errorf("%s: %v %v", release, rep.Findings, err)
		}
	}
}

// Who has the manifests pays for three listings and the collector's mark. One
// that is no number is told.
func TestALookIsThreeListingsAndTheMark(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	put(t, w, "a", "1")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	start := b.Requests()
	sight, err := slatedb.Look(t.Context(), b, "db", slatedb.LookOptions{Head: h, Before: []*slatedb.Head{h}})
	if err != nil || len(slatedb.Symptoms(sight)) > 0 {
		t.Errorf("%v %v", sight, err)
	}
	if cost := b.Requests().Since(start); cost.List != 3 || cost.Get > 1 {
		t.Errorf("a look cost %+v", cost)
	}
	if err := b.Put(t.Context(), slatedb.BoundaryKey("db"), []byte("a lot")); err != nil {
		t.Fatal(err)
	}
	if sight, err = slatedb.Look(t.Context(), b, "db", slatedb.LookOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := codes(slatedb.Symptoms(sight)); !slices.Equal(got, []slatedb.Code{slatedb.BoundaryUnreadable}) {
		t.Errorf("%v", got)
	}
}

// nil2 is randomness that is not random.
type nil2 struct{}

func (nil2) Read(p []byte) (int, error) { return len(p), nil }
