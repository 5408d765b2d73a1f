package snapshots

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// expected is what a fixture's .expected.json says of each partition.
type expected struct {
	PointerVersion string `json:"pointer_version"`
	Cluster        string
	Fingerprint    string
	LatestLSN      uint64 `json:"latest_lsn"`
	ArchivedLSN    uint64 `json:"archived_lsn"`
	RestorePoints  []struct {
		Path     string
		LSN      uint64
		Complete bool
	} `json:"restore_points"`
	Orphans []expectedOrphan
}

type expectedOrphan struct {
	Path     string
	LSN      uint64
	Metadata bool
	Complete bool
	Files    int
	Bytes    int64    // of the files, metadata.json not counted
	Wrong    []string `json:"missing_or_wrong_size"`
}

// Every repository that real servers left reads back to what is known of it:
// the same partitions, positions and restore points, and the same orphans.
func TestFixtures(t *testing.T) {
	var found []string
	filepath.WalkDir(fixtures, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".expected.json") {
			found = append(found, p)
		}
		return err
	})
	if len(found) != 7 {
		t.Fatalf("%d repositories in %s, want 7", len(found), fixtures)
	}
	for _, file := range found {
		dir := strings.TrimSuffix(file, ".expected.json")
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var want struct{ Partitions map[string]expected }
			b, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(b, &want)
			}
			if err != nil {
				t.Fatal(err)
			}
			m := load(t, dir, "backup/archive")
			folders, objects := m.level("backup/archive")
			if IsPartition("archive", folders, objects) {
				t.Error("the root is taken for a partition")
			}
			got := map[string]expected{}
			for _, n := range RepositoryPartitions(folders) {
				f, o := m.level("backup/archive/" + n)
				if !IsPartition(n, f, o) {
					t.Errorf("partition %s is not recognised", n)
				}
				got[n] = inWordsOfFixture(t, m, "backup/archive/"+n)
			}
			for n, w := range want.Partitions {
				if !reflect.DeepEqual(got[n], w) {
					t.Errorf("partition %s:\n got %+v\nwant %+v", n, got[n], w)
				}
			}
			if len(got) != len(want.Partitions) {
				t.Errorf("%d partitions, want %d", len(got), len(want.Partitions))
			}
		})
	}
}

// level lists the names directly below a prefix.
func (m *mem) level(prefix string) (folders, objects []string) {
	for key := range m.objects {
		rest, ok := strings.CutPrefix(key, prefix+"/")
		if !ok {
			continue
		}
		name, _, deep := strings.Cut(rest, "/")
		if deep {
			folders = append(folders, name+"/")
		} else {
			objects = append(objects, name)
		}
	}
	slices.Sort(folders)
	return slices.Compact(folders), objects
}

func inWordsOfFixture(t *testing.T, m *mem, prefix string) expected {
	t.Helper()
	p, err := Verify(t.Context(), m, prefix, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Err() != nil {
		t.Fatal(p.Err())
	}
	latest, ok := p.LatestLSN()
	archived, ok2 := p.ArchivedLSN()
	if !ok || !ok2 {
		t.Fatal("a pointer was read and there is no position")
	}
	e := expected{
		PointerVersion: p.Pointer.Version, Cluster: p.Pointer.Cluster, Fingerprint: p.Pointer.Fingerprint,
		LatestLSN: latest, ArchivedLSN: archived, Orphans: []expectedOrphan{},
	}
	for _, s := range p.Points {
		e.RestorePoints = append(e.RestorePoints, struct {
			Path     string
			LSN      uint64
			Complete bool
		}{s.Path, s.LSN, s.State == Verified})
	}
	for _, s := range p.Unlisted {
		o := expectedOrphan{Path: s.Path, LSN: s.LSN, Complete: s.State == Verified}
		if text := m.text(prefix + "/" + s.Path + "/metadata.json"); text != "" {
			o.Metadata, o.Files, o.Wrong = true, s.Files, []string{}
			o.Bytes = s.Bytes - int64(len(text))
			for _, p := range s.Problems {
				o.Wrong = append(o.Wrong, p.Key)
			}
		}
		if newer := s.LSN > latest; newer != (s.Standing == OrphanNewer) {
			t.Errorf("%s is %s, the pointer is at %d", s.Path, s.Standing, latest)
		}
		e.Orphans = append(e.Orphans, o)
	}
	var bytes int64
	for key, o := range m.objects {
		if strings.HasPrefix(key, prefix+"/") {
			bytes += int64(len(o.data))
		}
	}
	if p.Bytes != bytes || p.StrayObjects != 0 {
		t.Errorf("%d bytes and %d strays, want %d and 0", p.Bytes, p.StrayObjects, bytes)
	}
	return e
}
