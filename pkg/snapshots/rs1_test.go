package snapshots

import (
	"fmt"
	"strings"
	"testing"
)

// Row RS-1, the reading part: three regions of four partitions, pointers of V1
// and V2 mixed. Each region's latest position, archived position (the lowest
// retained) and count are known; the pointer that cannot be parsed is
// unreadable, not 0, and its partition is not left out.
func TestRS1_EveryRegionsSnapshotsAreKnownOrSaidToBeUnknown(t *testing.T) {
	regions := map[string][4]string{
		"eu": {"v2-orphans-after-faults/0", "three-copies-of-one-cluster/lagging/1", "v2-default-4-partitions/2", "v2-retained-3/1"},
		"us": {"v1-from-1.6.1/0", "v1-from-1.6.1/1", "v1-v2-mixed-after-upgrade/0", "v1-v2-mixed-after-upgrade/1"},
		"ap": {"v2-default-4-partitions/0", "v2-retained-3/1", "three-copies-of-one-cluster/current/0", "v2-default-4-partitions/1"},
	}
	want := map[string]string{
		"eu/0": "V2 latest 580 archived 374 points 3 verified 3 orphans 4",
		"eu/1": "V2 latest 180 archived 88 points 3 verified 3 orphans 0",
		"eu/2": "V2 latest 94 archived 94 points 1 verified 1 orphans 0",
		"eu/3": "V2 latest 180 archived 88 points 3 verified 3 orphans 0",
		"us/0": "V1 latest 86 archived 86 points 1 verified 1 orphans 1",
		"us/1": "V1 latest 44 archived 44 points 1 verified 1 orphans 1",
		"us/2": "V2 latest 118 archived 118 points 1 verified 1 orphans 1",
		"us/3": "V1 latest 44 archived 44 points 1 verified 1 orphans 1",
		"ap/0": "V2 latest 122 archived 122 points 1 verified 1 orphans 0",
		"ap/1": "V2 latest 180 archived 88 points 3 verified 3 orphans 0",
		"ap/2": "unreadable",
		"ap/3": "V2 latest 164 archived 164 points 1 verified 1 orphans 0",
	}
	got := map[string]string{}
	for region, partitions := range regions {
		m := &mem{objects: map[string]object{}}
		for i, from := range partitions {
			// A partition's number is in its folder's name and in its files.
			is := from[strings.LastIndex(from, "/")+1:]
			old, now := fmt.Sprintf(`"partition_id": %s,`, is), fmt.Sprintf(`"partition_id": %d,`, i)
			for key, o := range load(t, fixtures+"/"+from, fmt.Sprintf("archive/%d", i)).objects {
				if strings.HasSuffix(key, ".json") {
					o.data = []byte(strings.Replace(string(o.data), old, now, 1))
				}
				m.objects[key] = o
			}
		}
		if region == "ap" {
			m.put("archive/2/latest.json", m.text("archive/2/latest.json")[:100])
		}
		folders, _ := m.level("archive")
		for _, n := range RepositoryPartitions(folders) {
			p, err := Verify(t.Context(), m, "archive/"+n, nil)
			if err != nil {
				t.Fatal(err)
			}
			latest, known := p.LatestLSN()
			archived, _ := p.ArchivedLSN()
			line := string(p.PointerState)
			if known {
				line = fmt.Sprintf("%s latest %d archived %d points %d verified %d orphans %d", p.Pointer.Version, latest, archived, len(p.Points), len(p.VerifiedLSNs()), len(p.Unlisted))
				if p.Points[0].CreatedAt.IsZero() {
					t.Errorf("%s/%s: no age", region, n)
				}
			}
			got[region+"/"+n] = line
		}
	}
	for k, w := range want {
		if got[k] != w {
			t.Errorf("%s: %q, want %q", k, got[k], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d partitions, want %d", len(got), len(want))
	}
}
