package slatedb_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/internal/dirstore"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// patient is a copy of a database that a test may damage.
type patient struct {
	t   *testing.T
	dir string
	*dirstore.Store
	head *slatedb.Head
}

func copyOf(t *testing.T, fixture string) *patient {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(fixtures, fixture))); err != nil {
		t.Fatal(err)
	}
	p := &patient{t: t, dir: dir, Store: dirstore.New(dir)}
	head, err := slatedb.Latest(t.Context(), p, "db")
	if err != nil {
		t.Fatal(err)
	}
	p.head = head
	return p
}

// biggest is the table with the most bytes: it has a filter and many blocks.
func (p *patient) biggest() (key string, info manifest.Info) {
	p.head.Manifest.Tables(func(t *manifest.Table) {
		if t.Info.Size() > info.Size() {
			key, info = slatedb.TableKey("db", t.ID), t.Info
		}
	})
	return key, info
}

func (p *patient) change(key string, how func([]byte) []byte) string {
	p.t.Helper()
	raw, err := os.ReadFile(p.Path(key))
	if err == nil {
		err = os.WriteFile(p.Path(key), how(bytes.Clone(raw)), 0o644)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return key
}

func (p *patient) flip(key string, at uint64) string {
	return p.change(key, func(b []byte) []byte {
		b[at] ^= 0x10
		return b
	})
}

func (p *patient) remove(key string) string {
	p.t.Helper()
	if err := os.Remove(p.Path(key)); err != nil {
		p.t.Fatal(err)
	}
	return key
}

// tail are the ids of the WAL objects that are replayed.
func (p *patient) tail() (first, last uint64) {
	first = p.head.Manifest.ReplayAfterWAL + 1
	for last = first; ; last++ {
		if _, err := os.Stat(p.Path(slatedb.WALKey("db", last+1))); err != nil {
			break
		}
	}
	if last == first {
		p.t.Fatal("the fixture has too short a WAL tail")
	}
	return first, last
}

func TestVerifyNamesTheObjectOfEachKindOfDamage(t *testing.T) {
	const whole = "0.17.0/codec-none"
	for _, c := range []struct {
		name     string
		fixture  string
		code     slatedb.Code
		shallow  bool // found without reading every byte
		unopened bool // a reader does not open
		damage   func(p *patient) string
	}{
		{"a flipped byte in a block", whole, slatedb.TableDamaged, false, false, func(p *patient) string {
			key, _ := p.biggest()
			return p.flip(key, 5000)
		}},
		{"a flipped byte in the index", whole, slatedb.TableDamaged, false, false, func(p *patient) string {
			key, i := p.biggest()
			return p.flip(key, i.IndexOffset+i.IndexLen/2)
		}},
		{"a flipped byte in the filter", whole, slatedb.TableDamaged, false, false, func(p *patient) string {
			key, i := p.biggest()
			return p.flip(key, i.FilterOffset+i.FilterLen/2)
		}},
		{"a flipped byte in the statistics", whole, slatedb.TableDamaged, false, false, func(p *patient) string {
			key, i := p.biggest()
			return p.flip(key, i.StatsOffset+4)
		}},
		{"a flipped byte in the info", whole, slatedb.TableDamaged, true, false, func(p *patient) string {
			key, i := p.biggest()
			return p.flip(key, i.Size()+20)
		}},
		{"a flipped byte in the manifest", whole, slatedb.ManifestUnreadable, true, true, func(p *patient) string {
			return p.flip(slatedb.ManifestKey("db", p.head.ID), 4)
		}},
		{"a manifest of a newer format", whole, slatedb.ManifestUnreadable, true, true, func(p *patient) string {
			return p.change(slatedb.ManifestKey("db", p.head.ID), func(b []byte) []byte { return append([]byte{0, 9}, b[2:]...) })
		}},
		{"a pill", whole, slatedb.ClosedForDeletion, true, true, func(p *patient) string {
			key := slatedb.ManifestKey("db", p.head.ID+1)
			if err := os.WriteFile(p.Path(key), []byte("\xff\xff{\"reason\":\"bye\"}"), 0o644); err != nil {
				p.t.Fatal(err)
			}
			return key
		}},
		{"a table cut off in its blocks", whole, slatedb.ObjectTruncated, true, false, func(p *patient) string {
			key, i := p.biggest()
			return p.change(key, func(b []byte) []byte { return b[:i.IndexOffset/2] })
		}},
		{"a table cut off by a byte", whole, slatedb.TableDamaged, true, false, func(p *patient) string {
			key, _ := p.biggest()
			return p.change(key, func(b []byte) []byte { return b[:len(b)-1] })
		}},
		{"an empty table", whole, slatedb.ObjectTruncated, true, false, func(p *patient) string {
			key, _ := p.biggest()
			return p.change(key, func(b []byte) []byte { return nil })
		}},
		{"a missing table", whole, slatedb.ObjectMissing, true, false, func(p *patient) string {
			key, _ := p.biggest()
			return p.remove(key)
		}},
		{"another table's bytes under its name", whole, slatedb.InfoMismatch, true, false, func(p *patient) string {
			key, i := p.biggest()
			var other []byte
			p.head.Manifest.Tables(func(t *manifest.Table) {
				if t.Info.Size() != i.Size() {
					other, _ = os.ReadFile(p.Path(slatedb.TableKey("db", t.ID)))
				}
			})
			if other == nil {
				p.t.Fatal("the fixture has one table only")
			}
			// As long as it should be: its size gives nothing away.
			return p.change(key, func(b []byte) []byte {
				pad := len(b) - len(other)
				at := binary.BigEndian.Uint64(other[len(other)-10:])
				out := append(bytes.Clone(other[:at]), make([]byte, pad)...)
				out = append(out, other[at:]...)
				binary.BigEndian.PutUint64(out[len(out)-10:], at+uint64(pad))
				return out
			})
		}},
		{"a hole in the WAL", whole, slatedb.WALHole, true, true, func(p *patient) string {
			first, _ := p.tail()
			return p.remove(slatedb.WALKey("db", first))
		}},
		{"a WAL that ends before the manifest does", "0.17.0/blocks-64k", slatedb.WALHole, true, true, func(p *patient) string {
			if p.head.Manifest.WALLastSeen <= p.head.Manifest.ReplayAfterWAL {
				p.t.Fatal("the manifest has not seen its WAL")
			}
			return p.remove(slatedb.WALKey("db", p.head.Manifest.WALLastSeen))
		}},
		{"a WAL object cut off", whole, slatedb.WALDamaged, true, true, func(p *patient) string {
			_, last := p.tail()
			return p.change(slatedb.WALKey("db", last), func(b []byte) []byte { return b[:len(b)-7] })
		}},
		{"a flipped byte in a WAL object", whole, slatedb.WALDamaged, true, true, func(p *patient) string {
			_, last := p.tail()
			return p.flip(slatedb.WALKey("db", last), 9)
		}},
		{"an unknown block format", whole, slatedb.UnknownFormat, true, false, func(p *patient) string {
			key, _ := p.biggest()
			return p.change(key, func(b []byte) []byte {
				b[len(b)-1] = 9
				return b
			})
		}},
		{"a footer that points elsewhere", whole, slatedb.TableDamaged, true, false, func(p *patient) string {
			key, _ := p.biggest()
			return p.change(key, func(b []byte) []byte {
				binary.BigEndian.PutUint64(b[len(b)-10:], 1<<40)
				return b
			})
		}},
		{"a checkpoint whose manifest is gone", "0.17.0/checkpoints", slatedb.CheckpointDangling, true, false, func(p *patient) string {
			for _, c := range p.head.Manifest.Checkpoints {
				if c.ManifestID != p.head.ID {
					return p.remove(slatedb.ManifestKey("db", c.ManifestID))
				}
			}
			p.t.Fatal("no checkpoint of an older manifest")
			return ""
		}},
		{"a boundary at the newest manifest", whole, slatedb.BoundaryAhead, true, false, func(p *patient) string {
			key := slatedb.BoundaryKey("db")
			if err := os.MkdirAll(filepath.Dir(p.Path(key)), 0o755); err != nil {
				p.t.Fatal(err)
			}
			if err := os.WriteFile(p.Path(key), []byte("1000"), 0o644); err != nil {
				p.t.Fatal(err)
			}
			return key
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := copyOf(t, c.fixture)
			key := c.damage(p)
			for _, checksums := range []bool{true, false} {
				rep, err := slatedb.Verify(t.Context(), p, "db", slatedb.VerifyOptions{Checksums: checksums})
				if err != nil {
					t.Fatal(err)
				}
				if !checksums && !c.shallow {
					continue
				}
				found := false
				for _, f := range rep.Findings {
					if f.Object != key {
						t.Errorf("%s is blamed too: %s", f.Object, f)
					}
					found = found || f.Code == c.code && f.Object == key
					if f.What == "" || f.Cure == "" {
						t.Errorf("%+v does not say what to do", f)
					}
				}
				if !found {
					t.Fatalf("checksums %v: no %s of %s in %v", checksums, c.code, key, rep.Findings)
				}
			}
			r, err := slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{})
			if (err != nil) != c.unopened {
				t.Fatalf("open: %v", err)
			}
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), key) {
					t.Errorf("open: %v", err)
				}
				return
			}
			for _, err := range r.Scan(t.Context(), nil, nil) {
				if err != nil && (!strings.Contains(err.Error(), key) || errors.Is(err, fs.ErrNotExist)) {
					t.Errorf("scan: %v", err)
				}
			}
		})
	}
}

// A key must never look absent because the table that holds it is gone.
func TestAMissingTableIsNotAMissingKey(t *testing.T) {
	p := copyOf(t, "0.17.0/codec-none")
	r, err := slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{SkipWAL: true})
	if err != nil {
		t.Fatal(err)
	}
	full := scan(t, r, nil, nil)
	if r, err = slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{SkipWAL: true}); err != nil {
		t.Fatal(err)
	}
	key, _ := p.biggest()
	p.remove(key)
	lost := 0
	for i := range full {
		switch _, err := r.Get(t.Context(), full[i].Key); {
		case errors.Is(err, slatedb.ErrMissing) && !errors.Is(err, fs.ErrNotExist):
			lost++
		case err != nil:
			t.Errorf("get: %v", err)
		}
	}
	if lost == 0 {
		t.Error("no key was in the table")
	}
	for _, err := range r.Scan(t.Context(), nil, nil) {
		if err != nil && !errors.Is(err, slatedb.ErrMissing) {
			t.Errorf("scan: %v", err)
		}
	}
}

// A process of 0.12.1 opened the database, as a reader even, and wrote a
// manifest without filter formats. From then on every SlateDB loses point
// reads, because it takes a composite filter for a bare one.
func TestGetsAreRightUnderAManifestThatLostItsFilterFormats(t *testing.T) {
	for _, d := range databases(t) {
		if !strings.HasPrefix(d.name, "0.17.0/codec-none:") {
			continue
		}
		p := copyOf(t, "0.17.0/codec-none")
		key, _ := p.biggest()
		damaged := 0
		for at := range p.head.Raw {
			if p.head.Raw[at] != 1 {
				continue
			}
			raw := bytes.Clone(p.head.Raw)
			raw[at] = 0
			m, err := manifest.Decode(raw)
			if err != nil {
				continue
			}
			changed := 0
			m.Tables(func(t *manifest.Table) {
				if slatedb.TableKey("db", t.ID) == key && t.Info.FilterFormat == 0 {
					t.Info.FilterFormat = 1
					changed++
				}
			})
			if changed == 1 && reflect.DeepEqual(m, p.head.Manifest) {
				damaged++
				p.change(slatedb.ManifestKey("db", p.head.ID), func([]byte) []byte { return raw })
			}
		}
		if damaged != 1 {
			t.Fatalf("%d places in the manifest hold the filter format", damaged)
		}
		rep, err := slatedb.Verify(t.Context(), p, "db", slatedb.VerifyOptions{})
		if err != nil || len(rep.Findings) != 1 || rep.Findings[0].Code != slatedb.FilterFormatMismatch || rep.Findings[0].Object != key {
			t.Errorf("verify: %v %v", rep.Findings, err)
		}
		r, err := slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.rows {
			e, err := r.Get(t.Context(), d.rows[i].key)
			if err != nil {
				t.Fatal(err)
			}
			if m := d.mismatch(&d.rows[i], &e); m != "" {
				t.Fatal(m)
			}
		}
		if f := r.Findings(); len(f) != 1 || f[0].Code != slatedb.FilterFormatMismatch || f[0].Object != key {
			t.Errorf("the reader says %v", f)
		}
		return
	}
	t.Fatal("fixture not found")
}

func TestAHoleIsNamedWithItsId(t *testing.T) {
	p := copyOf(t, "0.12.1/wal-only")
	first, last := p.tail()
	p.remove(slatedb.WALKey("db", last-1))
	_, err := slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{})
	hole, ok := errors.AsType[*wal.Hole](err)
	if !ok || hole.ID != last-1 || hole.Last != last {
		t.Errorf("WAL %d to %d without %d: %v", first, last, last-1, err)
	}
}

func TestADatabaseWithItsWALElsewhereIsNotReadWithoutIt(t *testing.T) {
	for _, version := range []string{"0.12.1", "0.13.1", "0.14.1", "0.15.0"} {
		s := dirstore.New(filepath.Join(fixtures, version, "wal-store"))
		if _, err := slatedb.OpenReader(t.Context(), s, "db", slatedb.ReaderOptions{}); !errors.Is(err, slatedb.ErrWALStore) {
			t.Errorf("%s: %v", version, err)
		}
		if _, err := slatedb.OpenReader(t.Context(), s, "db", slatedb.ReaderOptions{SkipWAL: true}); err != nil {
			t.Errorf("%s, without the WAL: %v", version, err)
		}
		rep, err := slatedb.Verify(t.Context(), s, "db", slatedb.VerifyOptions{})
		if err != nil || len(rep.Findings) == 0 || rep.Findings[0].Code != slatedb.WALStoreUnknown {
			t.Errorf("%s: %v %v", version, rep.Findings, err)
		}
	}
}

// Every single flipped bit of a manifest gives a manifest or an error; a
// manifest has no checksum, so some flips only show against the tables.
func TestNoFlipInAManifestBreaksVerify(t *testing.T) {
	p := copyOf(t, "0.17.0/versions")
	key := slatedb.ManifestKey("db", p.head.ID)
	told, silent := 0, 0
	for at := range p.head.Raw {
		p.change(key, func([]byte) []byte {
			raw := bytes.Clone(p.head.Raw)
			raw[at] ^= 1 << (at % 8)
			return raw
		})
		rep, err := slatedb.Verify(t.Context(), p, "db", slatedb.VerifyOptions{})
		if err != nil || !rep.OK() {
			told++
		} else {
			silent++
		}
		if r, err := slatedb.OpenReader(t.Context(), p, "db", slatedb.ReaderOptions{}); err == nil {
			for _, err := range r.Scan(t.Context(), nil, nil) {
				_ = err
			}
		}
	}
	t.Logf("%d of %d flips are told", told, told+silent)
	if told < len(p.head.Raw)/2 {
		t.Errorf("%d of %d flips are told", told, told+silent)
	}
}
