package snapshots

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	part   = "archive/0"
	newest = "lsn_00000000000000000425-snap_13eAx3cuWLG2LVyPSbnguJj"
	middle = "lsn_00000000000000000374-snap_13QOfTN4Ke1vTS7kwJouT4Z"
)

// retained is a partition of a real server with three restore points.
func retained(t testing.TB) *mem { return load(t, fixtures+"/v2-retained-3/0", part) }

func mustVerify(t *testing.T, m *mem, prev *Partition) Partition {
	t.Helper()
	p, err := Verify(t.Context(), m, part, prev)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// edit replaces text in an object and fails when it is not there.
func (m *mem) edit(t *testing.T, key, old, new string) {
	t.Helper()
	if !strings.Contains(m.text(key), old) {
		t.Fatalf("%s has no %q", key, old)
	}
	m.put(key, strings.Replace(m.text(key), old, new, 1))
}

func TestDamageToOneRestorePointIsNamedAndTheOthersStand(t *testing.T) {
	meta := part + "/" + newest + "/metadata.json"
	sst := part + "/" + newest + "/000031.sst"
	for _, c := range []struct {
		name   string
		do     func(t *testing.T, m *mem)
		state  State
		kind   ProblemKind
		reason string
	}{
		{"a table is missing", func(t *testing.T, m *mem) { m.del(sst) }, Incomplete, Missing, sst + " is missing"},
		{"a table is ten bytes short", func(t *testing.T, m *mem) { m.put(sst, m.text(sst)[10:]) },
			Incomplete, WrongSize, sst + " has 11359 bytes, metadata.json says 11369"},
		{"a table is longer", func(t *testing.T, m *mem) { m.put(sst, m.text(sst)+"x") },
			Incomplete, WrongSize, sst + " has 11370 bytes, metadata.json says 11369"},
		{"metadata.json is missing", func(t *testing.T, m *mem) { m.del(meta) }, Incomplete, NoMetadata, meta + " is missing"},
		{"the whole folder is missing", func(t *testing.T, m *mem) {
			for key := range m.objects {
				if strings.Contains(key, newest) {
					m.del(key)
				}
			}
		}, Incomplete, NoMetadata, "the pointer lists " + part + "/" + newest + ", and nothing is there"},
		{"metadata.json is cut in half", func(t *testing.T, m *mem) { m.put(meta, m.text(meta)[:600]) }, Unreadable, "", "metadata.json: not a JSON object"},
		{"metadata.json is empty", func(t *testing.T, m *mem) { m.put(meta, "") }, Unreadable, "", "metadata.json: it is empty"},
		{"metadata.json has no list of files", func(t *testing.T, m *mem) { m.edit(t, meta, `"files"`, `"fails"`) }, Unreadable, "", "metadata.json: files is missing"},
		{"metadata.json is of another version", func(t *testing.T, m *mem) { m.edit(t, meta, `"V1"`, `"V2"`) }, Unreadable, "", `metadata.json: version "V2" is unknown`},
		{"metadata.json is of another snapshot", func(t *testing.T, m *mem) { m.put(meta, m.text(part+"/"+middle+"/metadata.json")) }, Unreadable, "", "metadata.json is of snapshot snap_13QOfTN4Ke1vTS7kwJouT4Z"},
		{"metadata.json has another position", func(t *testing.T, m *mem) {
			m.edit(t, meta, `"min_applied_lsn": 425`, `"min_applied_lsn": 426`)
		}, Unreadable, "", "metadata.json has min_applied_lsn 426, not 425"},
		{"metadata.json is of another partition", func(t *testing.T, m *mem) {
			m.edit(t, meta, `"partition_id": 0`, `"partition_id": 1`)
		}, Unreadable, "", "metadata.json is of partition 1"},
		{"metadata.json is of another cluster's name", func(t *testing.T, m *mem) { m.edit(t, meta, "quarry-fixture", "quarry-other") }, Unreadable, "", `metadata.json is of cluster "quarry-other"`},
		{"metadata.json is of a cluster whose fingerprint differs in the last digit", func(t *testing.T, m *mem) { m.edit(t, meta, "10637059926839506764", "10637059926839506765") }, Unreadable, "", "metadata.json has cluster_fingerprint 10637059926839506765"},
		{"a file's name leads to another snapshot", func(t *testing.T, m *mem) { m.edit(t, meta, "/000031.sst", "/../"+middle+"/000025.sst") }, Unreadable, "", "leads out of the snapshot's folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := retained(t)
			c.do(t, m)
			p := mustVerify(t, m, nil)
			s := p.Points[0]
			if s.State != c.state || !strings.HasPrefix(s.Reason, c.reason) && !strings.Contains(s.Reason, c.reason) {
				t.Errorf("%s: %s, want %s: %s", s.State, s.Reason, c.state, c.reason)
			}
			if c.kind != "" && (s.ProblemCount != 1 || s.Problems[0].Kind != c.kind) {
				t.Errorf("problems %v, want one of kind %s", s.Problems, c.kind)
			}
			if got := fmt.Sprint(p.VerifiedLSNs()); got != "[374 275]" {
				t.Errorf("verified positions %s, want [374 275]", got)
			}
			// The pointer's own claims do not change with what is verified.
			if l, _ := p.LatestLSN(); l != 425 {
				t.Errorf("latest %d, want 425", l)
			}
			if a, _ := p.ArchivedLSN(); a != 275 {
				t.Errorf("archived %d, want 275", a)
			}
		})
	}
}

func TestManyMissingObjectsAreCountedAndTheFirstAreNamed(t *testing.T) {
	m := retained(t)
	files := strings.Repeat(`{"name":"/x.sst","size":1},`, 99)
	m.edit(t, part+"/"+newest+"/metadata.json", `"files": [`, `"files": [`+files)
	s := mustVerify(t, m, nil).Points[0]
	if s.ProblemCount != 99 || len(s.Problems) != maxProblems || !strings.HasSuffix(s.Reason, "and 98 more") {
		t.Errorf("%d problems, %d named, %s", s.ProblemCount, len(s.Problems), s.Reason)
	}
}

func TestPointerThatCannotBeTrustedIsUnreadableAndNeverZero(t *testing.T) {
	for _, c := range []struct{ name, old, new, reason string }{
		{"a version of the future", `"V2"`, `"V3"`, `version "V3" is unknown`},
		{"a newest path that climbs out", `"path": "` + newest + `",`, `"path": "../1/` + newest + `",`, "not the name of a folder"},
		{"an absolute path", `"path": "` + newest + `",`, `"path": "/` + newest + `",`, "not the name of a folder"},
		{"a path to the partition itself", `"path": "` + newest + `",`, `"path": ".",`, "not the name of a folder"},
		{"an older path that climbs out", `"path": "` + middle + `"`, `"path": ".."`, "retained_snapshots[1]: path"},
		{"a position of 0", `"min_applied_lsn": 425`, `"min_applied_lsn": 0`, "min_applied_lsn is 0"},
		{"a negative position", `"min_applied_lsn": 425`, `"min_applied_lsn": -1`, "min_applied_lsn: "},
		{"a position with an exponent", `"min_applied_lsn": 425`, `"min_applied_lsn": 1e3`, "min_applied_lsn: "},
		{"no position", `"min_applied_lsn": 425`, `"min": 425`, "min_applied_lsn is missing"},
		{"a field in other letters", `"snapshot_id"`, `"Snapshot_Id"`, "snapshot_id is missing"},
		{"V2 without a log id", `"log_id": 0,`, ``, "log_id is missing"},
		{"a time that is none", `"created_at": "2026`, `"created_at": "today`, "created_at: "},
		{"another partition's pointer", `"partition_id": 0`, `"partition_id": 7`, "it is of partition 7, in the folder of partition 0"},
		{"a list that leaves out the newest", `"path": "` + newest + `",`, `"path": "lsn_00000000000000000425-snap_other",`, "does not list"},
		{"a list with a newer one than the newest", `"min_applied_lsn": 374`, `"min_applied_lsn": 9374`, "lists LSN 9374"},
		{"a list that names one twice", middle, newest, "twice"},
		{"a list that is none", `"retained_snapshots": [`, `"retained_snapshots": 1, "x": [`, "retained_snapshots: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := retained(t)
			m.edit(t, part+"/latest.json", c.old, c.new)
			unreadable(t, m, c.reason)
		})
	}
	for name, data := range map[string]string{"empty": "", "blank": " \n", "cut": `{"version":"V2","part`, "null": "null", "a list": "[]", "too large": strings.Repeat(" ", maxPointer+1)} {
		t.Run(name, func(t *testing.T) {
			m := retained(t)
			m.put(part+"/latest.json", data)
			unreadable(t, m, "")
		})
	}
}

func unreadable(t *testing.T, m *mem, reason string) {
	t.Helper()
	p := mustVerify(t, m, nil)
	if p.PointerState != PointerUnreadable || !errors.Is(p.Err(), ErrUnreadablePointer) || !strings.Contains(p.Reason, reason) {
		t.Fatalf("%s: %v, want unreadable: %s", p.PointerState, p.Err(), reason)
	}
	if _, ok := p.LatestLSN(); ok {
		t.Error("there is a latest position")
	}
	if _, ok := p.ArchivedLSN(); ok {
		t.Error("there is an archived position")
	}
	// The folders are shown, and nobody may take them for orphans.
	if len(p.Points) != 0 || len(p.Unlisted) != 3 || p.PointerSHA256 == "" {
		t.Errorf("%d points, %d folders, hash %q", len(p.Points), len(p.Unlisted), p.PointerSHA256)
	}
	for _, s := range p.Unlisted {
		if s.Standing != Unplaced {
			t.Errorf("%s is %s", s.Path, s.Standing)
		}
	}
}

func TestPointersThatOlderAndOddServersWrite(t *testing.T) {
	v1 := `{"version":"V1","partition_id":3,"cluster_name":"c","node_name":"n","created_at":"%s","snapshot_id":"snap_a","min_applied_lsn":18446744073709551615,"path":"lsn_18446744073709551615-snap_a","later":{"x":[1]}}`
	for _, at := range []string{"2026-11-21T02:09:24Z", "2026-11-21T02:09:24.1Z", "2026-11-21T02:09:24.130000007Z"} {
		p, err := ParsePointer(fmt.Appendf(nil, v1, at))
		if err != nil {
			t.Fatal(err)
		}
		want, err := time.Parse(time.RFC3339Nano, at)
		if err != nil || !p.CreatedAt.Equal(want) {
			t.Errorf("%s is read as %s", at, p.CreatedAt)
		}
		if p.LSN != 1<<64-1 || p.LogID != nil || p.Fingerprint != "" || len(p.Retained) != 1 || p.Retained[0].Path != p.Path {
			t.Errorf("read as %+v", p)
		}
	}
	// Somebody edited the list by hand: the order is ours.
	p, err := ParsePointer([]byte(`{"version":"V2","partition_id":3,"log_id":3,"cluster_name":"c","node_name":"n","created_at":"2026-11-21T02:09:24Z","snapshot_id":"snap_b","min_applied_lsn":9,"path":"b","retained_snapshots":[
		{"snapshot_id":"snap_a","min_applied_lsn":5,"created_at":"2026-11-21T02:09:24Z","path":"a"},
		{"snapshot_id":"snap_b","min_applied_lsn":9,"created_at":"2026-11-21T02:09:24Z","path":"b"}]}`))
	if err != nil || p.Retained[0].Path != "b" || p.Retained[1].Path != "a" {
		t.Errorf("read as %+v, %v", p, err)
	}
}

func TestPartitionWithoutPointerShowsItsFoldersAsUnplaced(t *testing.T) {
	m := retained(t)
	m.del(part + "/latest.json")
	p := mustVerify(t, m, nil)
	if p.PointerState != PointerMissing || !errors.Is(p.Err(), fs.ErrNotExist) || len(p.Points) != 0 || len(p.Unlisted) != 3 || p.PointerSHA256 != "" {
		t.Errorf("%+v", p)
	}
	f, o := m.level(part)
	if !IsPartition("0", f, o) {
		t.Error("not recognised")
	}
}

func TestAgentThatVerifiesAgainReadsOnlyWhatChanged(t *testing.T) {
	m := retained(t)
	first := mustVerify(t, m, nil)
	if len(m.gets) != 4 || m.walks != 1 {
		t.Fatalf("first look: %d gets, %d listings, want 4 and 1: %v", len(m.gets), m.walks, m.gets)
	}
	m.gets, m.walks = nil, 0
	second := mustVerify(t, m, &first)
	if len(m.gets) != 1 || m.walks != 1 {
		t.Errorf("second look: %d gets, %d listings, want 1 and 1: %v", len(m.gets), m.walks, m.gets)
	}
	if !reflect.DeepEqual(second, first) {
		t.Errorf("second look differs:\n%+v\n%+v", second, first)
	}

	// A table overwritten by one of the same size leaves another time.
	key := part + "/" + middle + "/000025.sst"
	o := m.objects[key]
	o.modified = o.modified.Add(time.Nanosecond)
	m.objects[key] = o
	m.gets = nil
	third := mustVerify(t, m, &second)
	if len(m.gets) != 2 || m.gets[1] != part+"/"+middle+"/metadata.json" {
		t.Errorf("third look read %v", m.gets)
	}

	// What is lost after a good look is lost.
	m.del(key)
	if p := mustVerify(t, m, &third); p.Points[1].State != Incomplete {
		t.Errorf("%s after its table was deleted", p.Points[1].State)
	}
}

func TestMetadataThatWasReadIsComparedWithAPointerThatChanged(t *testing.T) {
	m := retained(t)
	first := mustVerify(t, m, nil)
	m.put(part+"/latest.json", strings.ReplaceAll(m.text(part+"/latest.json"), "quarry-fixture", "quarry-other"))
	if got := mustVerify(t, m, &first).VerifiedLSNs(); len(got) != 0 {
		t.Errorf("%v still count under another cluster's pointer", got)
	}
}

func TestEvictionUnderTheListingIsNotDamage(t *testing.T) {
	m := retained(t)
	before := m.text(part + "/latest.json")
	evicted := "lsn_00000000000000000275-snap_10pB8MNHLfjkfAj3HaZmxTb"
	m.onObject = func(key string) {
		if strings.HasSuffix(key, "/latest.json") && m.text(key) == before {
			// The server moves the pointer, then deletes what it no longer lists.
			start := strings.Index(before, `"retained_snapshots"`)
			m.put(key, before[:start]+`"retained_snapshots":[{"snapshot_id":"snap_13eAx3cuWLG2LVyPSbnguJj","min_applied_lsn":425,"created_at":"2026-11-21T02:09:24Z","path":"`+newest+`"}]}`)
			for key := range m.objects {
				if strings.Contains(key, evicted) {
					m.del(key)
				}
			}
		}
	}
	p := mustVerify(t, m, nil)
	if len(p.Points) != 1 || p.Points[0].State != Verified || m.walks != 2 {
		t.Errorf("after %d listings: %+v", m.walks, p.Points)
	}
}

func TestOrphanYoungerThanGraceMayBeAnUpload(t *testing.T) {
	m := load(t, fixtures+"/v2-orphans-after-faults/0", part)
	now := written.Add(time.Hour)
	key := part + "/lsn_00000000000000000545-snap_11oWcNqexANKDSvlWsa5zix/000047.sst"
	o := m.objects[key]
	o.modified = now.Add(-time.Minute)
	m.objects[key] = o
	p := mustVerify(t, m, nil)
	var got []string
	for _, s := range append(p.Points, p.Unlisted...) {
		if s.MayBeInProgress(now, 10*time.Minute) {
			got = append(got, fmt.Sprintf("%d %s %s", s.LSN, s.Standing, s.State))
		}
	}
	if fmt.Sprint(got) != "[545 orphan-older incomplete]" {
		t.Errorf("possibly in progress: %v", got)
	}
	if !(Snapshot{Standing: OrphanOlder}).MayBeInProgress(now, time.Nanosecond) {
		t.Error("a folder of unknown age may be swept")
	}
}

func TestStoreThatFailsTellsNothing(t *testing.T) {
	down := errors.New("503 slow down")
	for _, key := range []string{part + "/", part + "/latest.json", part + "/" + middle + "/metadata.json"} {
		m := retained(t)
		m.fail = map[string]error{key: down}
		if p, err := Verify(t.Context(), m, part, nil); !errors.Is(err, down) || p.Walked || p.PointerState != "" {
			t.Errorf("%s fails: %v, %+v", key, err, p)
		}
	}
}

func TestOneForbiddenObjectDoesNotHideTheOthers(t *testing.T) {
	m := retained(t)
	key := part + "/" + middle + "/metadata.json"
	m.fail = map[string]error{key: fmt.Errorf("403: %w", fs.ErrPermission)}
	p := mustVerify(t, m, nil)
	if p.Points[1].State != Unreadable || fmt.Sprint(p.VerifiedLSNs()) != "[425 275]" {
		t.Errorf("%+v", p.Points[1])
	}
	// The right was given back and no object changed.
	m.fail = nil
	if p := mustVerify(t, m, &p); p.Points[1].State != Verified {
		t.Errorf("still %s", p.Points[1].State)
	}
}

// Each folder is settled when the listing leaves it, so that only one is in
// memory. A store that comes back to one must not make half of it look whole.
func TestStoreThatListsOutOfOrderIsRefused(t *testing.T) {
	if _, err := Verify(t.Context(), &backwards{retained(t)}, part, nil); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Error(err)
	}
}

type backwards struct{ *mem }

func (b *backwards) Walk(ctx context.Context, prefix, after string, each func(string, int64, time.Time) error) error {
	for _, name := range []string{newest + "/000031.sst", middle + "/000025.sst", newest + "/metadata.json"} {
		if err := each(prefix+name, 1, written); err != nil {
			return err
		}
	}
	return nil
}

func TestWhatIsAndIsNotAPartition(t *testing.T) {
	for _, c := range []struct {
		name             string
		folders, objects []string
		want             bool
	}{
		{"0", []string{newest + "/"}, []string{"latest.json"}, true},
		{"0", []string{newest}, nil, true},
		{"any", []string{newest}, nil, true},
		{"17", nil, []string{"latest.json"}, true},
		{"releases", nil, []string{"latest.json"}, false},
		{"007", nil, []string{"latest.json"}, false},
		{"65536", nil, []string{"latest.json"}, false},
		{"0", []string{"lsn_1-snap_a", "manifest/", "wal/"}, []string{"x"}, false},
		{"0", nil, nil, false},
	} {
		if got := IsPartition(c.name, c.folders, c.objects); got != c.want {
			t.Errorf("%s %v %v: %v", c.name, c.folders, c.objects, got)
		}
	}
	if got := RepositoryPartitions([]string{"0/", "1/", "manifest/", "01/", "23"}); fmt.Sprint(got) != "[0 1 23]" {
		t.Error(got)
	}
}

func TestObjectsOutsideOfSnapshotsAreCountedApart(t *testing.T) {
	m := retained(t)
	m.put(part+"/lsn_notes.txt", "12345")
	m.put(part+"/"+newest, "beside the folder of this name")
	m.put(part+"/other/000001.sst", "123")
	p := mustVerify(t, m, nil)
	if p.StrayObjects != 3 || p.StrayBytes != 5+30+3 || len(p.Unlisted) != 0 || len(p.VerifiedLSNs()) != 3 {
		t.Errorf("%d strays of %d bytes, %d folders, %v", p.StrayObjects, p.StrayBytes, len(p.Unlisted), p.VerifiedLSNs())
	}
}
