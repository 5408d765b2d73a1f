//go:build e2e

package e2e

import (
	bigendian "encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// manifestJSON is what the tests look at of `slatedb manifest -o json`.
type manifestJSON struct {
	ID          uint64      `json:"id"`
	WriterEpoch uint64      `json:"writer_epoch"`
	ReplayAfter uint64      `json:"replay_after_wal_id"`
	WALLastSeen uint64      `json:"wal_id_last_seen"`
	L0          []tableJSON `json:"l0"`
	Checkpoints []struct {
		ID         string  `json:"id"`
		Name       *string `json:"name"`
		ManifestID uint64  `json:"manifest_id"`
	} `json:"checkpoints"`
	ExternalDBs []struct {
		Path string `json:"path"`
	} `json:"external_dbs"`
}

type tableJSON struct {
	ID           string `json:"id"`
	IndexOffset  int    `json:"index_offset"`
	IndexLen     int    `json:"index_len"`
	FilterOffset int    `json:"filter_offset"`
	FilterLen    int    `json:"filter_len"`
	StatsOffset  int    `json:"stats_offset"`
	Bytes        int    `json:"bytes"`
}

func manifestOf(t *testing.T, bucket, root string) manifestJSON {
	t.Helper()
	var m manifestJSON
	if err := json.Unmarshal([]byte(must(t, nil, "slatedb", "manifest", "--bucket", bucket, root, "-o", "json")), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// report is what the tests look at of `slatedb verify -o json`.
type report struct {
	ManifestID uint64 `json:"manifest_id"`
	Tables     int    `json:"tables"`
	WALObjects int    `json:"wal_objects"`
	Rows       int    `json:"rows"`
	Checksums  bool   `json:"checksums"`
	Findings   []struct {
		Code, Object, What, Cure string
	} `json:"findings"`
}

// patient is a copy of a fixture that will be damaged.
type patient struct {
	t   *testing.T
	dir string
	manifestJSON
}

func copyOf(t *testing.T, version, name string) *patient {
	t.Helper()
	p := &patient{t: t, dir: t.TempDir()}
	copyTree(t, fixture(version, name), p.dir)
	p.manifestJSON = manifestOf(t, p.bucket(), "db")
	return p
}

func (p *patient) bucket() string { return "file://" + p.dir }

// biggest is the table with the most bytes: it has a filter and many blocks.
func (p *patient) biggest() (key string, of tableJSON) {
	of = slices.MaxFunc(p.L0, func(a, b tableJSON) int { return a.Bytes - b.Bytes })
	return "db/compacted/" + of.ID + ".sst", of
}

func (p *patient) manifestKey(id uint64) string { return fmt.Sprintf("db/manifest/%020d.manifest", id) }
func (p *patient) walKey(id uint64) string      { return fmt.Sprintf("db/wal/%020d.sst", id) }

func (p *patient) change(key string, how func([]byte) []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, key)
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, how(b), 0o644)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return key
}

func (p *patient) flip(key string, at int) string {
	return p.change(key, func(b []byte) []byte { b[at] ^= 0x10; return b })
}

func (p *patient) remove(key string) string {
	p.t.Helper()
	if err := os.Remove(filepath.Join(p.dir, key)); err != nil {
		p.t.Fatal(err)
	}
	return key
}

func (p *patient) write(key, body string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, key)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(body), 0o644)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return key
}

// Each kind of damage is found, with exit code 1, and the bad object is named
// on both forms of the output. What lies inside of tables needs --checksums.
func TestVerifyNamesEachBadObject(t *testing.T) {
	const deep = true
	for _, c := range []struct {
		name   string
		from   string // of 0.17.0
		code   string
		deep   bool // only --checksums can see it
		damage func(p *patient) string
	}{
		{"a flipped byte in a block", "codec-none", "table-damaged", deep, func(p *patient) string {
			key, _ := p.biggest()
			return p.flip(key, 5000)
		}},
		{"a flipped byte in the index", "codec-none", "table-damaged", deep, func(p *patient) string {
			key, of := p.biggest()
			return p.flip(key, of.IndexOffset+of.IndexLen/2)
		}},
		{"a flipped byte in the filter", "codec-none", "table-damaged", deep, func(p *patient) string {
			key, of := p.biggest()
			return p.flip(key, of.FilterOffset+of.FilterLen/2)
		}},
		{"a flipped byte in the statistics", "codec-none", "table-damaged", deep, func(p *patient) string {
			key, of := p.biggest()
			return p.flip(key, of.StatsOffset+4)
		}},
		{"a flipped byte in a compressed block", "codec-zstd", "table-damaged", deep, func(p *patient) string {
			key, _ := p.biggest()
			return p.flip(key, 100)
		}},
		{"a flipped byte in a table's info", "codec-none", "table-damaged", false, func(p *patient) string {
			key, of := p.biggest()
			return p.flip(key, of.Bytes+20)
		}},
		{"a missing table", "codec-none", "object-missing", false, func(p *patient) string {
			key, _ := p.biggest()
			return p.remove(key)
		}},
		{"an empty table", "codec-none", "object-truncated", false, func(p *patient) string {
			key, _ := p.biggest()
			return p.change(key, func([]byte) []byte { return nil })
		}},
		{"a table cut off in its blocks", "codec-none", "object-truncated", false, func(p *patient) string {
			key, of := p.biggest()
			return p.change(key, func(b []byte) []byte { return b[:of.IndexOffset/2] })
		}},
		{"a table that lost its last byte", "codec-none", "table-damaged", false, func(p *patient) string {
			key, _ := p.biggest()
			return p.change(key, func(b []byte) []byte { return b[:len(b)-1] })
		}},
		{"a footer that points elsewhere", "codec-none", "table-damaged", false, func(p *patient) string {
			key, _ := p.biggest()
			return p.change(key, func(b []byte) []byte { bigendian.BigEndian.PutUint64(b[len(b)-10:], 1<<40); return b })
		}},
		{"a block format that no release has", "codec-none", "unknown-format", false, func(p *patient) string {
			key, _ := p.biggest()
			return p.change(key, func(b []byte) []byte { b[len(b)-1] = 9; return b })
		}},
		{"a flipped byte in the newest manifest", "codec-none", "manifest-unreadable", false, func(p *patient) string {
			return p.flip(p.manifestKey(p.ID), 4)
		}},
		{"a newest manifest of zeros", "codec-none", "manifest-unreadable", false, func(p *patient) string {
			return p.change(p.manifestKey(p.ID), func(b []byte) []byte { clear(b); return b })
		}},
		{"a hole in the WAL", "codec-none", "wal-hole", false, func(p *patient) string {
			return p.remove(p.walKey(p.ReplayAfter + 1))
		}},
		{"a WAL object cut off", "codec-none", "wal-damaged", false, func(p *patient) string {
			return p.change(p.walKey(p.WALLastSeen), func(b []byte) []byte { return b[:len(b)-7] })
		}},
		{"a flipped byte in a WAL object", "codec-none", "wal-damaged", false, func(p *patient) string {
			return p.flip(p.walKey(p.WALLastSeen), 9)
		}},
		{"a checkpoint whose manifest is gone", "checkpoints", "checkpoint-dangling", false, func(p *patient) string {
			for _, c := range p.Checkpoints {
				if c.ManifestID != p.ID {
					return p.remove(p.manifestKey(c.ManifestID))
				}
			}
			p.t.Fatal("no checkpoint of an older manifest")
			return ""
		}},
		{"a boundary ahead of the newest manifest", "codec-none", "boundary-ahead", false, func(p *patient) string {
			return p.write("db/gc/manifest.boundary", "1000")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := copyOf(t, "0.17.0", c.from)
			before := tree(t, p.dir)
			must(t, nil, "slatedb", "verify", "--bucket", p.bucket(), "db", "--checksums")
			if after := tree(t, p.dir); !slices.Equal(before, after) {
				t.Errorf("verify left a trace: %v, before %v", after, before)
			}
			key := c.damage(p)

			o := quarry(t, nil, "slatedb", "verify", "--bucket", p.bucket(), "db", "--checksums", "-o", "json")
			if o.code != 1 {
				t.Fatalf("--checksums: exit %d: %s%s", o.code, o.stdout, o.stderr)
			}
			var r report
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
				t.Fatalf("%v: %q", err, o.stdout)
			}
			if len(r.Findings) == 0 || !r.Checksums {
				t.Fatalf("%+v", r)
			}
			for _, f := range r.Findings {
				if f.Object != key || f.Code != c.code || f.What == "" || f.Cure == "" {
					t.Errorf("%+v, expected %s of %s", f, c.code, key)
				}
			}

			o = quarry(t, nil, "slatedb", "verify", "--bucket", p.bucket(), "db")
			if c.deep {
				if o.code != 0 {
					t.Errorf("the look that does not read blocks saw it, too (is it deep?): exit %d: %s", o.code, o.stdout)
				}
				return
			}
			if o.code != 1 || !strings.Contains(o.stdout, key) || !strings.Contains(o.stdout, c.code) {
				t.Errorf("exit %d, expected %s of %s:\n%s%s", o.code, c.code, key, o.stdout, o.stderr)
			}
			if lines := strings.Count(o.stderr, "\n"); lines != 1 {
				t.Errorf("%d lines on stderr: %q", lines, o.stderr)
			}
		})
	}
}

// tree lists what is in a folder, with sizes.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			all = append(all, fmt.Sprintf("%s %d %s", path, info.Size(), info.ModTime()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A reader of a damaged table says which object, and never that a key is
// absent.
func TestReadingDamageIsAnErrorNotAnAbsence(t *testing.T) {
	p := copyOf(t, "0.17.0", "codec-none")
	key, _ := p.biggest()
	p.remove(key)
	o := quarry(t, nil, "slatedb", "scan", "--bucket", p.bucket(), "db", "-o", "json")
	if o.code != 1 || !strings.Contains(o.stderr, key) {
		t.Errorf("scan: exit %d: %s", o.code, o.stderr)
	}
	o = quarry(t, nil, "slatedb", "get", "--bucket", p.bucket(), "db", "--key", "user:000500")
	if o.code != 1 || !strings.Contains(o.stderr, key) {
		t.Errorf("get: exit %d: %s", o.code, o.stderr)
	}
}

// Every fixture is good, by both looks, with its WAL wherever it lies.
func TestVerifyPassesWhatRealSystemsWrote(t *testing.T) {
	files, err := filepath.Glob(fixture("*", "*", "expected.json"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d fixtures: %v", len(files), err)
	}
	for _, file := range files {
		var want struct {
			Roots map[string]string `json:"roots"`
			WAL   string            `json:"wal"`
		}
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &want)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		dir := filepath.Dir(file)
		for _, root := range want.Roots {
			args := []string{"slatedb", "verify", "--checksums", "--bucket", "file://" + dir, root}
			if want.WAL != "" {
				args = append(args, "--wal", "file://"+filepath.Join(dir, want.WAL))
			}
			if o := quarry(t, nil, args...); o.code != 0 {
				t.Errorf("%s %s: exit %d\n%s%s", dir, root, o.code, o.stdout, o.stderr)
			}
		}
	}
	slates, err := filepath.Glob(fixture("opendata", "*", "slate"))
	if err != nil || len(slates) == 0 {
		t.Fatalf("%d OpenData slates: %v", len(slates), err)
	}
	for _, dir := range slates {
		if o := quarry(t, nil, "slatedb", "verify", "--checksums", "file://"+dir); o.code != 0 {
			t.Errorf("%s: exit %d\n%s%s", dir, o.code, o.stdout, o.stderr)
		}
	}
}

// A database whose manifest says that its WAL is elsewhere is not read without
// it: rows would be missing without a word.
func TestASeparateWALHasToBeNamed(t *testing.T) {
	dir := fixture("0.15.0", "wal-store")
	for _, verb := range []string{"scan", "verify"} {
		o := quarry(t, nil, "slatedb", verb, "--bucket", "file://"+dir, "db")
		if o.code == 0 || !strings.Contains(o.stdout+o.stderr, "--wal") {
			t.Errorf("%s without --wal: exit %d\n%s%s", verb, o.code, o.stdout, o.stderr)
		}
		o = quarry(t, nil, "slatedb", verb, "--bucket", "file://"+dir, "db", "--wal", "file://"+filepath.Join(dir, "walstore"))
		if o.code != 0 {
			t.Errorf("%s --wal: exit %d\n%s%s", verb, o.code, o.stdout, o.stderr)
		}
	}
	o := quarry(t, nil, "slatedb", "scan", "--bucket", "file://"+dir, "db", "--wal", "file:///nonexistent")
	if o.code != 3 {
		t.Errorf("a WAL store that is not there: exit %d: %s", o.code, o.stderr)
	}
}

// Point reads find every key, with what a scan says of it, and exit with 3 for
// keys that are not there.
func TestGetFindsEveryKeyAndNoAbsentOne(t *testing.T) {
	for _, c := range []struct{ version, name, root string }{
		{"0.12.1", "versions", "db"}, {"0.17.0", "merges", "db"}, {"0.17.0", "clone", "clone"}, {"0.16.0", "segments", "db"},
		{"0.17.0", "projection", "clone"}, {"0.15.0", "drained", "db"}, {"0.14.1", "fenced", "db"}, {"0.17.0", "wal-only", "db"},
		{"0.17.0", "blocks-1k", "db"},
	} {
		t.Run(c.version+" "+c.name, func(t *testing.T) {
			t.Parallel()
			dir := fixture(c.version, c.name)
			var want struct {
				Absent map[string][]string `json:"absent"`
				Roots  map[string]string   `json:"roots"`
			}
			b, err := os.ReadFile(filepath.Join(dir, "expected.json"))
			if err == nil {
				err = json.Unmarshal(b, &want)
			}
			if err != nil {
				t.Fatal(err)
			}
			root, ok := want.Roots[c.root]
			if !ok {
				t.Fatalf("no root %s in %v", c.root, want.Roots)
			}
			out := must(t, nil, "slatedb", "scan", "--bucket", "file://"+dir, root, "-o", "json")
			lines := strings.Split(strings.TrimSpace(out), "\n")
			for _, line := range lines {
				var row struct{ Key string }
				if err := json.Unmarshal([]byte(line), &row); err != nil {
					t.Fatal(err)
				}
				got := must(t, nil, "slatedb", "get", "--bucket", "file://"+dir, root, "--key-hex", row.Key, "-o", "json")
				if strings.TrimSpace(got) != line {
					t.Errorf("key %s: get says %sscan %s", row.Key, got, line)
				}
			}
			absent := append([]string{"00deadbeef", "ffffffff"}, want.Absent[c.root]...)
			for _, key := range absent {
				o := quarry(t, nil, "slatedb", "get", "--bucket", "file://"+dir, root, "--key-hex", key, "-o", "json")
				if o.code != 3 || o.stdout != "" {
					t.Errorf("absent key %s: exit %d: %s%s", key, o.code, o.stdout, o.stderr)
				}
			}
		})
	}
}

// A database that somebody closed for deletion says so, and why, wherever one
// looks.
func TestAPillTellsItsReason(t *testing.T) {
	p := copyOf(t, "0.17.0", "codec-none")
	key := p.write(p.manifestKey(p.ID+1), "\xff\xff"+`{"by":"alice","why":"moved to eu"}`)

	o := quarry(t, nil, "slatedb", "verify", "--bucket", p.bucket(), "db")
	if o.code != 1 || !strings.Contains(o.stdout, key) || !strings.Contains(o.stdout, "closed-for-deletion") || !strings.Contains(o.stdout, "moved to eu") {
		t.Errorf("verify: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if out := must(t, nil, "slatedb", "manifest", "--bucket", p.bucket(), "db"); !strings.Contains(out, "moved to eu") || !strings.Contains(out, "writer epoch") {
		t.Errorf("manifest does not say why, or not what was below:\n%s", out)
	}
	var said struct {
		Pill     *string       `json:"pill"`
		PillID   uint64        `json:"pill_id"`
		Manifest *manifestJSON `json:"manifest"`
	}
	if err := json.Unmarshal([]byte(must(t, nil, "slatedb", "manifest", "--bucket", p.bucket(), "db", "-o", "json")), &said); err != nil {
		t.Fatal(err)
	}
	if said.Pill == nil || !strings.Contains(*said.Pill, "moved to eu") || said.PillID != p.ID+1 || said.Manifest == nil || said.Manifest.ID != p.ID {
		t.Errorf("manifest -o json: %+v", said)
	}
	if o := quarry(t, nil, "slatedb", "scan", "--bucket", p.bucket(), "db"); o.code != 1 || !strings.Contains(o.stderr, "moved to eu") {
		t.Errorf("scan: exit %d: %s", o.code, o.stderr)
	}
}

// The manifest in JSON is what the core says of it.
func TestManifestAsJSON(t *testing.T) {
	dir := fixture("0.17.0", "clone")
	var want struct {
		Manifest map[string]struct {
			ID          uint64 `json:"id"`
			WriterEpoch uint64 `json:"writer_epoch"`
		} `json:"manifest"`
		Checkpoints map[string][]struct {
			ID         string `json:"id"`
			ManifestID uint64 `json:"manifest_id"`
		} `json:"checkpoints"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err == nil {
		err = json.Unmarshal(b, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"parent", "clone"} {
		m := manifestOf(t, "file://"+dir, root)
		if m.ID != want.Manifest[root].ID || m.WriterEpoch != want.Manifest[root].WriterEpoch || m.ID == 0 {
			t.Errorf("%s: %+v, expected %+v", root, m, want.Manifest[root])
		}
		if len(m.Checkpoints) != len(want.Checkpoints[root]) {
			t.Errorf("%s: checkpoints %v, expected %v", root, m.Checkpoints, want.Checkpoints[root])
		}
	}
	if m := manifestOf(t, "file://"+dir, "clone"); len(m.ExternalDBs) != 1 || m.ExternalDBs[0].Path != "parent" {
		t.Errorf("the clone reads %v", m.ExternalDBs)
	}

	// A clone alone cannot be read, and it is said what is missing.
	o := quarry(t, nil, "slatedb", "scan", "file://"+filepath.Join(dir, "clone"))
	if o.code != 1 || !strings.Contains(o.stderr, "--bucket") {
		t.Errorf("a clone without its parent's bucket: exit %d: %s", o.code, o.stderr)
	}
}
