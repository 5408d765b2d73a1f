//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/servers"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/snapshots"
	"github.com/quarry-db/quarry/pkg/snapshots/snapshotstest"
)

// pruneVerbs lets an agent prune beside what it does by itself.
const pruneVerbs = "hold,release,permit,withdraw,verify,resync,freeze,thaw,prune"

// writeArchive writes a snapshot repository's partition as a server does.
func writeArchive(t testing.TB, b *bucket.Bucket, p snapshotstest.Partition) {
	t.Helper()
	if err := p.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func openBucket(t testing.TB, url string) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func wholeOnes(lsns ...uint64) (all []snapshotstest.Snapshot) {
	for _, n := range lsns {
		all = append(all, snapshotstest.Snapshot{LSN: n})
	}
	return all
}

// inRepository are the positions that a partition's pointer lists, and folders those
// that there are, the highest first; the pointer must be readable.
func inRepository(t testing.TB, b *bucket.Bucket, prefix string) (points, folders []uint64) {
	t.Helper()
	p, err := snapshots.Verify(t.Context(), b, prefix, nil)
	if err == nil {
		err = p.Err()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Points {
		points = append(points, s.LSN)
		if s.Objects > 0 {
			folders = append(folders, s.LSN)
		}
	}
	for _, s := range p.Unlisted {
		folders = append(folders, s.LSN)
	}
	slices.Sort(folders)
	slices.Reverse(folders)
	return points, folders
}

func keeps(perRegion int, more string) string {
	return strings.Replace(archives("{require: {all: true}}"), "{perRegion: 1}", fmt.Sprintf("{perRegion: %d%s}", perRegion, more), 1)
}

// Row RS-7: with three to keep the newest three whole ones of each region stay;
// the pointer moves by compare-and-set, whoever uploads meanwhile; what a region
// cannot restore from does not count.
func TestRS7_ThreeWholeOnesStay(t *testing.T) {
	for _, store := range []string{"s3", "azure", "folder"} {
		t.Run(store, func(t *testing.T) {
			var make func(name string) string
			var env []string
			switch store {
			case "s3":
				s := servers.S3(t)
				make, env = func(n string) string { return s.Make(t, n) }, environ(servers.S3Env())
			case "azure":
				s := servers.Azure(t)
				make, env = func(n string) string { return s.Make(t, n) }, environ(servers.AzureEnv())
			default:
				make = func(string) string { return "file://" + t.TempDir() }
			}
			buckets := map[string]*bucket.Bucket{}
			h := startHub(t, "eu,us")
			parts := map[string]*snapshotstest.Partition{
				"eu": {Prefix: "archive/0", Snapshots: append(wholeOnes(10, 20, 30, 40, 60), snapshotstest.Snapshot{LSN: 50, Without: "000002.sst"})},
				"us": {Prefix: "archive/0", Snapshots: wholeOnes(40, 60, 70)},
			}
			for region, p := range parts {
				url := make("archive-" + region)
				buckets[region] = openBucket(t, url)
				writeArchive(t, buckets[region], *p)
				startAgent(t, h, region, url, env, "--allow", pruneVerbs)
			}
			// No keep: nothing goes, however much there is.
			h.apply(t, keeps(3, ""))
			h.permits(t, "archive/0", 30, "eu")
			h.settled(t, `verb = "permit"`)
			if o := h.cli(t, "prune", "archive/0"); o.code != 4 || !strings.Contains(o.stderr, "no-policy") || !strings.Contains(o.stdout, "snap_") {
				t.Errorf("without keep: exit %d\n%s%s", o.code, o.stdout, o.stderr)
			}
			if points, _ := inRepository(t, buckets["eu"], "archive/0"); len(points) != 6 {
				t.Errorf("without keep eu has %v", points)
			}
			h.apply(t, keeps(3, ", keep: {hourly: 1}"))
			eventually(t, 90*time.Second, "what is beyond policy goes", func() error {
				points, folders := inRepository(t, buckets["eu"], "archive/0")
				if fmt.Sprint(points) != "[60 40 30]" || fmt.Sprint(folders) != "[60 40 30]" {
					return fmt.Errorf("eu lists %v and has %v", points, folders)
				}
				return nil
			})
			if points, _ := inRepository(t, buckets["us"], "archive/0"); fmt.Sprint(points) != "[70 60 40]" {
				t.Errorf("us has %v", points)
			}
			for _, d := range h.settled(t, `verb = "prune"`) {
				if d.Stage != "done" || d.Region != "eu" || d.Policy != "archives" {
					t.Errorf("%+v", d)
				}
			}
			eventually(t, 20*time.Second, "nothing is left to do", func() error {
				o := h.cli(t, "prune", "archive/0", "-o", "json")
				if o.code != 0 || !strings.Contains(o.stdout, `"action": "keep"`) && !strings.Contains(o.stdout, `"action":"keep"`) {
					return fmt.Errorf("exit %d\n%s%s", o.code, o.stdout, o.stderr)
				}
				return nil
			})
			raceUploads(t, h, buckets["eu"], parts["eu"])
		})
	}
}

// raceUploads uploads snapshots as a server does while the agent prunes: none
// that an uploader was told is in the pointer is ever lost from it, but by policy.
func raceUploads(t *testing.T, h *hub, b *bucket.Bucket, p *snapshotstest.Partition) {
	t.Helper()
	lost := 0
	for lsn := uint64(80); lsn <= 160; lsn += 10 {
		if err := p.WriteSnapshot(t.Context(), b, snapshotstest.Snapshot{LSN: lsn}); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			raw, version, err := b.GetVersion(t.Context(), "archive/0/latest.json")
			if err != nil {
				t.Fatal(err)
			}
			now, err := snapshots.ParsePointer(raw)
			if err != nil {
				t.Fatalf("the pointer cannot be read in between: %v\n%s", err, raw)
			}
			next := *p
			next.Snapshots = wholeOnes(lsn)
			for _, r := range now.Retained {
				next.Snapshots = append(next.Snapshots, snapshotstest.Snapshot{LSN: r.LSN})
			}
			if raw, err = next.Pointer(); err != nil {
				t.Fatal(err)
			}
			switch err := b.Replace(t.Context(), "archive/0/latest.json", raw, version); {
			case errors.Is(err, bucket.ErrChanged):
				lost++ // the agent was first: read it again
			case err != nil:
				t.Fatal(err)
			default:
				done = true
			}
		}
		time.Sleep(300 * time.Millisecond)
	}
	t.Logf("the uploader lost %d races", lost)
	eventually(t, 2*time.Minute, "the newest three stay, and what the floor needs", func() error {
		points, folders := inRepository(t, b, "archive/0")
		if points[0] != 160 || !slices.Equal(points, folders) || len(points) > 4 {
			return fmt.Errorf("listed %v, there are %v", points, folders)
		}
		if fmt.Sprint(points[:3]) != "[160 150 140]" {
			return fmt.Errorf("listed %v", points)
		}
		return nil
	})
	// The floor is 40, by the other region: the lowest stays at or below it.
	if points, _ := inRepository(t, b, "archive/0"); points[len(points)-1] > 40 {
		t.Errorf("the lowest is %d, above the floor", points[len(points)-1])
	}
}

// A store that cannot replace an object conditionally is not pruned: the agent
// says so, and nothing is touched.
func TestRS7_WithoutCompareAndSetNothingIsPruned(t *testing.T) {
	s := servers.S3(t)
	url := s.Make(t, "archive-eu")
	h := startHub(t, "eu")
	b := openBucket(t, url)
	writeArchive(t, b, snapshotstest.Partition{Prefix: "archive/0", Snapshots: wholeOnes(10, 20, 30)})
	// A pointer that was put into the server's folder by hand has no ETag.
	file := filepath.Join(s.Dir, "archive-eu", "archive", "0", "latest.json")
	raw, err := os.ReadFile(file)
	if err == nil {
		err = os.Remove(file)
	}
	if err == nil {
		err = os.WriteFile(file, raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	startAgent(t, h, "eu", url, environ(servers.S3Env()), "--allow", pruneVerbs)
	h.apply(t, keeps(1, ", keep: {hourly: 1}"))
	var why string
	eventually(t, time.Minute, "the agent refuses", func() error {
		l, err := get[struct {
			ID      string
			Stage   string
			Reasons []struct{ Code string }
		}](h, t, "decisions", "--filter", `verb = "prune"`)
		if err != nil {
			return err
		}
		for _, d := range l.Items {
			if d.Stage == "refused" && len(d.Reasons) > 0 {
				why = d.Reasons[0].Code
				return nil
			}
		}
		return fmt.Errorf("%+v", l.Items)
	})
	if why != "no-compare-and-set" {
		t.Errorf("it says %s", why)
	}
	if points, folders := inRepository(t, b, "archive/0"); len(points) != 3 || len(folders) != 3 {
		t.Errorf("%v are listed, %v are there", points, folders)
	}
}

// goesOn waits until the verdict is a permit up to n, whoever binds.
func (h *hub) goesOn(t testing.TB, slate string, n uint64) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("a permit up to %d", n), func() error {
		e, err := h.explain(t, slate)
		if err == nil && (e.Action != "permit" || e.UpTo == nil || *e.UpTo != n) {
			err = errors.New(e.String())
		}
		return err
	})
}

// Row RS-6: a lifecycle rule of the bucket deletes old keys, which knows nothing of
// policies. Nothing is pruned where too little is left; when the last one goes,
// everything is frozen, until a new one is there or a person says otherwise.
func TestRS6_TheLastSnapshotIsProtected(t *testing.T) {
	h := startHub(t, "ap,eu,us")
	buckets, agents, dirs := map[string]*bucket.Bucket{}, map[string]*proc{}, map[string]string{}
	start := func(region string) {
		if a := agents[region]; a != nil {
			a.kill()
		}
		agents[region] = startAgent(t, h, region, "file://"+dirs[region], nil, "--allow", pruneVerbs)
	}
	p := snapshotstest.Partition{Prefix: "archive/0"}
	for region, lsns := range map[string][]uint64{"ap": {10, 20, 30}, "eu": {10, 20, 30}, "us": {10, 20, 30}} {
		dirs[region] = t.TempDir()
		buckets[region] = openBucket(t, "file://"+dirs[region])
		one := p
		one.Snapshots = wholeOnes(lsns...)
		writeArchive(t, buckets[region], one)
		start(region)
	}
	two := strings.Replace(keeps(2, ""), "{require: {all: true}}", "{require: {atLeast: 2}}", 1)
	h.apply(t, two)
	h.goesOn(t, "archive/0", 20)
	expire := func(region string, lsns ...uint64) { // the lifecycle rule
		for _, n := range lsns {
			if err := os.RemoveAll(filepath.Join(dirs[region], "archive", "0", snapshotstest.Folder(n))); err != nil {
				t.Fatal(err)
			}
		}
		start(region) // one that starts looks at every object
	}
	expire("us", 10, 20)
	h.apply(t, strings.Replace(two, "{perRegion: 2}", "{perRegion: 2, keep: {hourly: 1}}", 1))
	eventually(t, 30*time.Second, "nothing is pruned where one is left of two", func() error {
		o := h.cli(t, "prune", "archive/0", "--region", "us", "--yes")
		if o.code != 4 || !strings.Contains(o.stderr, "below-min-snapshots") {
			return fmt.Errorf("exit %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		return nil
	})
	h.goesOn(t, "archive/0", 20) // two of three regions are enough

	expire("us", 30)
	e := h.waits(t, "archive/0", "last-snapshot")
	if !strings.Contains(e.Reasons[0].Message, "us lost its last restore point of archive/0") {
		t.Errorf("%v", e)
	}
	for _, verb := range []string{"trim", "prune"} {
		if o := h.cli(t, verb, "archive/0", "--yes"); o.code != 4 || !strings.Contains(o.stderr+o.stdout, "last-snapshot") {
			t.Errorf("%s: exit %d\n%s%s", verb, o.code, o.stdout, o.stderr)
		}
	}
	if o := h.cli(t, "events", "-o", "json"); !strings.Contains(o.stdout, `"last-snapshot-lost"`) {
		t.Errorf("no event:\n%s", o.stdout)
	}
	if o := h.cli(t, "get", "freezes"); !strings.Contains(o.stdout, "slate/archive/0") || !strings.Contains(o.stdout, "hub") {
		t.Errorf("no freeze:\n%s", o.stdout)
	}
	// It is in the ledger.
	h.kill()
	h.restart(t)
	eventually(t, 30*time.Second, "frozen after a restart", func() error {
		e, err := h.explain(t, "archive/0")
		if err == nil && (e.Action != "wait" || !strings.Contains(e.String(), "us lost its last restore point")) {
			err = errors.New(e.String())
		}
		return err
	})
	// A new one is made there: it goes on by itself.
	one := p
	one.Snapshots = wholeOnes(40, 50)
	writeArchive(t, buckets["us"], one)
	h.goesOn(t, "archive/0", 20)
	// It happens again, all at once; now a person says that it goes on without us.
	if err := os.RemoveAll(filepath.Join(dirs["us"], "archive")); err != nil {
		t.Fatal(err)
	}
	h.waits(t, "archive/0", "last-snapshot")
	if o := h.cli(t, "thaw", "--slate", "archive/0", "--yes", "--reason", "us is given up"); o.code != 0 {
		t.Fatalf("thaw: exit %d %s", o.code, o.stderr)
	}
	h.goesOn(t, "archive/0", 20)
	for _, region := range []string{"ap", "eu"} {
		if points, folders := inRepository(t, buckets[region], "archive/0"); len(points) < 2 || len(folders) < 2 {
			t.Errorf("%s lists %v and has %v", region, points, folders)
		}
	}
}

// Row RS-8: a folder that was half uploaded long ago is an orphan, one that was
// half uploaded just now may be an upload; both are listed, and the old one goes
// only by policy.
func TestRS8_OrphansAreSweptByPolicyAlone(t *testing.T) {
	h := startHub(t, "eu")
	dir := t.TempDir()
	b := openBucket(t, "file://"+dir)
	p := snapshotstest.Partition{Prefix: "archive/0", Snapshots: wholeOnes(30)}
	p.Unlisted = []snapshotstest.Snapshot{{LSN: 10, Without: "metadata.json"}, {LSN: 20, Without: "metadata.json"}, {LSN: 40, Without: "metadata.json"}}
	writeArchive(t, b, p)
	for lsn, old := range map[uint64]time.Duration{10: 72 * time.Hour, 30: 100 * time.Hour, 40: 50 * time.Hour} {
		files, err := filepath.Glob(filepath.Join(dir, "archive", "0", snapshotstest.Folder(lsn), "*"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			if err := os.Chtimes(f, time.Now().Add(-old), time.Now().Add(-old)); err != nil {
				t.Fatal(err)
			}
		}
	}
	startAgent(t, h, "eu", "file://"+dir, nil, "--allow", pruneVerbs)
	h.apply(t, keeps(1, ""))
	h.permits(t, "archive/0", 30, "eu")
	eventually(t, 20*time.Second, "all three are listed", func() error {
		l, err := get[struct {
			Orphans []struct {
				Position uint64     `json:"position"`
				Changed  *time.Time `json:"changed_at"`
			} `json:"orphans"`
		}](h, t, "placements")
		if err == nil && (len(l.Items) != 1 || len(l.Items[0].Orphans) != 3 || l.Items[0].Orphans[0].Changed == nil) {
			err = fmt.Errorf("%+v", l.Items)
		}
		return err
	})
	h.settled(t, `verb = "permit"`)
	if o := h.cli(t, "archives", "-o", "wide"); !strings.Contains(o.stdout, "ORPHANS") || !strings.Contains(o.stdout, " 3 ") {
		t.Errorf("archives:\n%s%s", o.stdout, o.stderr)
	}
	if _, folders := inRepository(t, b, "archive/0"); len(folders) != 4 {
		t.Errorf("without a word of the policy %v are left", folders)
	}
	h.apply(t, keeps(1, ", sweepOrphans: {enabled: true, olderThan: 48h}"))
	eventually(t, time.Minute, "the old ones go", func() error {
		if _, folders := inRepository(t, b, "archive/0"); fmt.Sprint(folders) != "[30 20]" {
			return fmt.Errorf("there are %v", folders)
		}
		return nil
	})
	for _, d := range h.settled(t, `verb = "prune"`) {
		if d.Stage != "done" {
			t.Errorf("%+v", d)
		}
	}
	time.Sleep(3 * time.Second) // further passes find nothing to do
	if points, folders := inRepository(t, b, "archive/0"); fmt.Sprint(points, folders) != "[30] [30 20]" {
		t.Errorf("%v are listed, %v there", points, folders)
	}
}

// Row RS-1: three regions of four partitions, some written by servers of 1.6 (V1)
// and some by 1.7 (V2). What each can restore is listed; one whose pointer cannot
// be read is listed as such, has no position, and its region blocks the cut.
func TestRS1_ArchivesOfThreeRegions(t *testing.T) {
	h := startHub(t, "ap,eu,us")
	dirs := map[string]string{}
	for i, region := range []string{"ap", "eu", "us"} {
		dirs[region] = t.TempDir()
		b := openBucket(t, "file://"+dirs[region])
		for n := range uint64(4) {
			at := 100*(n+1) + 10*uint64(i)
			writeArchive(t, b, snapshotstest.Partition{Prefix: fmt.Sprintf("archive/%d", n), Number: n, V1: (int(n)+i)%2 == 0, Snapshots: wholeOnes(at, at+1, at+5), Since: time.Now().Add(-24 * time.Hour)})
		}
	}
	if err := os.WriteFile(filepath.Join(dirs["eu"], "archive", "2", "latest.json"), []byte(`{"version":"V3"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for region, dir := range dirs {
		startAgent(t, h, region, "file://"+dir, nil)
	}
	type row struct {
		Slate    string  `json:"slate"`
		Region   string  `json:"region"`
		Newest   *uint64 `json:"newest"`
		Archived *uint64 `json:"archived"`
		Lag      *uint64 `json:"lag"`
		Listed   uint64  `json:"restore_points"`
		Verified uint64  `json:"verified_restore_points"`
		NewestAt *string `json:"newest_at"`
		State    string  `json:"state"`
		Reason   string  `json:"state_reason"`
	}
	var rows []row
	eventually(t, 30*time.Second, "all twelve are looked at", func() error {
		o := h.cli(t, "archives", "-o", "json")
		var got struct{ Items []row }
		if err := json.Unmarshal([]byte(o.stdout), &got); err != nil {
			return fmt.Errorf("exit %d: %w: %s%s", o.code, err, o.stdout, o.stderr)
		}
		if rows = got.Items; len(rows) != 12 {
			return fmt.Errorf("%d rows", len(rows))
		}
		for _, r := range rows {
			if r.State == "live" && (r.Verified != r.Listed || r.Listed == 0) {
				return fmt.Errorf("%+v", r)
			}
		}
		return nil
	})
	number := func(p *uint64) string {
		if p == nil {
			return "?"
		}
		return fmt.Sprint(*p)
	}
	for i, r := range rows {
		n, region := uint64(i/3), i%3
		at := 100*(n+1) + 10*uint64(region)
		want := fmt.Sprintf("archive/%d %s newest %d archived %d lag %d 3/3 live", n, []string{"ap", "eu", "us"}[region], at+5, at, 10*uint64(2-region))
		if (int(n)+region)%2 == 0 { // V1 lists its newest alone
			want = fmt.Sprintf("archive/%d %s newest %d archived %d lag %d 1/1 live", n, []string{"ap", "eu", "us"}[region], at+5, at+5, 10*uint64(2-region))
		}
		if n == 2 && region == 1 {
			want = "archive/2 eu newest ? archived ? lag ? 0/0 unreadable"
		}
		got := fmt.Sprintf("%s %s newest %s archived %s lag %s %d/%d %s", r.Slate, r.Region, number(r.Newest), number(r.Archived), number(r.Lag), r.Verified, r.Listed, r.State)
		if got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		if (r.NewestAt == nil) != (r.State == "unreadable") || r.State == "unreadable" && !strings.Contains(r.Reason, "V3") {
			t.Errorf("%+v", r)
		}
	}
	human := h.cli(t, "archives").stdout
	if !strings.HasPrefix(human, "PARTITION ") || strings.Count(human, "\n") != 13 || !strings.Contains(human, "unreadable: archive/2/latest.json") {
		t.Errorf("the table:\n%s", human)
	}
	h.apply(t, archives("{require: {all: true}}"))
	h.permits(t, "archive/0", 101+4, "ap")
	e := h.waits(t, "archive/2", "archive-unreadable")
	if !strings.Contains(e.Reasons[0].Message, "eu") {
		t.Errorf("%v", e)
	}
}

// Row RS-10: who reads the log without a restore point of its own region that
// reaches as far as the cut would be stranded: it is named, and blocks.
func TestRS10_WhoWouldMeetAGapIsNamed(t *testing.T) {
	w := startThreeMoments(t)
	putFile(t, w.dirs["us"], ".quarry/leases/archive%2F0/reader-report.json", `{"version":1,"slate":"archive/0","role":"reader","id":"report","holder":"report-0","ttl_seconds":3600}`)
	// The log is cut by two regions alone: us has no say, and nothing as new.
	w.apply(t, strings.Replace(archives("{require: {all: true}}"), "kinds: [snapshots]", "kinds: [snapshots], regions: [eu, ap]", 1))
	e := w.waits(t, "archive/0", "would-strand")
	if !strings.Contains(e.Reasons[0].Message, "us") || !strings.Contains(e.Reasons[0].Message, "609") {
		t.Errorf("%v", e)
	}
	if o := w.cli(t, "trim", "archive/0", "--dry-run"); o.code != 4 || !strings.Contains(o.stdout+o.stderr, "would-strand") {
		t.Errorf("exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	// With us among those that must have archived it can begin again from its own.
	w.apply(t, archives("{require: {all: true}}"))
	w.permits(t, "archive/0", 425, "us")
	o := w.cli(t, "trim", "archive/0", "--dry-run", "-o", "json")
	var p struct {
		Strands []struct {
			Kind    string  `json:"kind"`
			ID      string  `json:"id"`
			Region  string  `json:"region"`
			Restore *uint64 `json:"restore_point"`
		} `json:"strands"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &p); err != nil {
		t.Fatal(err, o.stdout)
	}
	if len(p.Strands) != 1 || p.Strands[0].Region != "us" || p.Strands[0].Kind != "consumer" || p.Strands[0].Restore == nil || *p.Strands[0].Restore != 425 {
		t.Errorf("%+v", p)
	}
}
