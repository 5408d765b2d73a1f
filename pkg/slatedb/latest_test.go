package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/internal/dirstore"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// realDatabases is where the databases written by the real systems are.
var realDatabases = filepath.Join("..", "..", "e2e", "fixtures", "data")

// bucket is a store in memory that remembers what it was asked, and whose
// reads a test may answer itself.
type bucket struct {
	objects map[string][]byte
	asked   []string
	get     func(key string) error // not nil: may refuse a read, or change the store before it
}

func (b *bucket) Get(_ context.Context, key string) ([]byte, error) {
	b.asked = append(b.asked, "get "+key)
	if b.get != nil {
		if err := b.get(key); err != nil {
			return nil, err
		}
	}
	if v, ok := b.objects[key]; ok {
		return slices.Clone(v), nil
	}
	return nil, fmt.Errorf("get %s: %w", key, fs.ErrNotExist)
}

func (b *bucket) GetRange(context.Context, string, int64, int64) ([]byte, error) {
	panic("manifests are read whole")
}

func (b *bucket) Stat(context.Context, string) (int64, time.Time, error) {
	panic("manifests are not looked at before they are read")
}

var modified = time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC)

func (b *bucket) Walk(_ context.Context, prefix, after string, each func(key string, size int64, modified time.Time) error) error {
	b.asked = append(b.asked, "walk "+prefix+" after "+after)
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		if strings.HasPrefix(key, prefix) && key > after {
			if err := each(key, int64(len(b.objects[key])), modified); err != nil {
				return err
			}
		}
	}
	return nil
}

// put stores manifests first to last of a real database, which it has ten of.
func (b *bucket) put(t *testing.T, first, last uint64) {
	t.Helper()
	for id := first; id <= last; id++ {
		raw, err := os.ReadFile(filepath.Join(realDatabases, "0.17.0", "checkpoints", filepath.FromSlash(slatedb.ManifestKey("db", id))))
		if err != nil {
			t.Fatal(err)
		}
		b.objects[slatedb.ManifestKey("db", id)] = raw
	}
}

func newBucket(t *testing.T, first, last uint64) *bucket {
	b := &bucket{objects: map[string][]byte{}}
	b.put(t, first, last)
	return b
}

// expect compares what the store was asked, and forgets it.
func (b *bucket) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(b.asked, want) {
		t.Errorf("asked\n\t%s\nwant\n\t%s", strings.Join(b.asked, "\n\t"), strings.Join(want, "\n\t"))
	}
	b.asked = nil
}

func key(id uint64) string { return slatedb.ManifestKey("db", id) }

func latest(t *testing.T, s slatedb.Store) *slatedb.Head {
	t.Helper()
	h, err := slatedb.Latest(context.Background(), s, "db")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

const pill = "\xff\xff" + `{"by":"alice","why":"moved to eu"}`

func TestLatestOfEveryRealDatabase(t *testing.T) {
	folders := map[string]bool{}
	err := filepath.WalkDir(realDatabases, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "manifest" {
			rel, _ := filepath.Rel(realDatabases, filepath.Dir(path))
			folders[filepath.ToSlash(rel)] = true
		}
		return err
	})
	if err != nil || len(folders) < 140 {
		t.Fatalf("%d databases: %v", len(folders), err)
	}
	s := dirstore.New(realDatabases)
	for root := range folders {
		s.Forget()
		h, err := slatedb.Latest(context.Background(), s, root)
		if err != nil {
			t.Errorf("%s: %v", root, err)
			continue
		}
		if calls := s.Calls(); len(calls) != 2 || calls[0].Op != "walk" || calls[1].Op != "get" {
			t.Errorf("%s: not one listing and one read: %v", root, calls)
		}
		ids, err := slatedb.ManifestIDs(context.Background(), s, root)
		if err != nil || h.ID != slices.Max(ids) || h.Manifest == nil || h.Modified.IsZero() {
			t.Errorf("%s: head %d of %v, %v", root, h.ID, ids, err)
		}
		if next, err := h.Next(context.Background(), s); next != nil || err != nil {
			t.Errorf("%s: something after the newest: %v, %v", root, next, err)
		}
		if there, err := h.StillThere(context.Background(), s); !there || err != nil {
			t.Errorf("%s: not there any more: %v", root, err)
		}
		boundary, err := slatedb.Boundary(context.Background(), s, root)
		if err != nil || boundary >= h.ID {
			t.Errorf("%s: boundary %d at head %d, %v", root, boundary, h.ID, err)
		}
		if strings.HasSuffix(root, "/collected/db") && root[:4] >= "0.14" && boundary == 0 {
			t.Errorf("%s: the collector's boundary is not seen", root)
		}
		_, err = slatedb.LatestCompactions(context.Background(), s, root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", root, err)
		}
		if strings.HasSuffix(root, "/compacted/db") && err != nil {
			t.Errorf("%s was compacted: %v", root, err)
		}
	}
}

func TestLatestSkipsWhatIsNoManifest(t *testing.T) {
	b := newBucket(t, 1, 3)
	b.objects["db/manifest/00000000000000000009.manifest#2"] = []byte("staged")
	b.objects["db/manifest/notes.txt"] = nil
	if h := latest(t, b); h.ID != 3 || h.Modified != modified || h.Root != "db" {
		t.Errorf("head: %+v", h)
	}
}

func TestNoDatabase(t *testing.T) {
	_, err := slatedb.Latest(context.Background(), &bucket{}, "dbs/none")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no SlateDB database at dbs/none") {
		t.Error(err)
	}
	_, err = slatedb.LatestCompactions(context.Background(), &bucket{}, "")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no compactor") {
		t.Error(err)
	}
}

// A collector may remove what was listed before it is read, because the writer
// has gone on.
func TestTheNewestIsCollectedBetweenListingAndReading(t *testing.T) {
	b := newBucket(t, 1, 3)
	b.get = func(string) error {
		delete(b.objects, key(3))
		b.put(t, 4, 5)
		b.get = nil
		return nil
	}
	if h := latest(t, b); h.ID != 5 {
		t.Errorf("head %d", h.ID)
	}
	b.expect(t, "walk db/manifest/ after ", "get "+key(3), "walk db/manifest/ after ", "get "+key(5))

	// A store that always lists what is not there must not keep us for ever,
	// nor make the database look gone.
	b.get = func(key string) error { return fmt.Errorf("get %s: %w", key, fs.ErrNotExist) }
	_, err := slatedb.Latest(context.Background(), b, "db")
	var object *slatedb.ObjectError
	if errors.Is(err, fs.ErrNotExist) || !errors.As(err, &object) || object.Key != key(5) || len(b.asked) != 10 {
		t.Errorf("after %d requests: %v", len(b.asked), err)
	}
}

func TestAStoreThatCannotBeReadIsNotAnEmptyOne(t *testing.T) {
	down := errors.New("503")
	b := newBucket(t, 1, 3)
	h := latest(t, b)
	b.get = func(string) error { return down }
	ctx := context.Background()
	if _, err := slatedb.Latest(ctx, b, "db"); !errors.Is(err, down) {
		t.Error(err)
	}
	if next, err := h.Next(ctx, b); next != nil || !errors.Is(err, down) {
		t.Error(next, err)
	}
	if _, err := h.StillThere(ctx, b); !errors.Is(err, down) {
		t.Error(err)
	}
	if _, err := slatedb.Boundary(ctx, b, "db"); !errors.Is(err, down) {
		t.Error(err)
	}
}

func TestAPillShowsItsReasonAndWhatIsBelow(t *testing.T) {
	b := newBucket(t, 1, 3)
	b.objects[key(4)] = []byte(pill)
	h, err := slatedb.Latest(context.Background(), b, "db")
	var p *manifest.Pill
	var object *slatedb.ObjectError
	if !errors.As(err, &p) || !errors.As(err, &object) || object.Key != key(4) || !strings.Contains(err.Error(), "moved to eu") {
		t.Fatal(err)
	}
	if h.ID != 4 || h.Pill != p || h.Manifest != nil || h.Below == nil || h.Below.ID != 3 || h.Below.Manifest == nil {
		t.Errorf("head: %+v", h)
	}
	if h.Checkpoints(modified) != nil {
		t.Error("a pill has checkpoints")
	}
	// Nothing moves while it stands; when it is taken away the head is gone.
	if next, err := h.Next(context.Background(), b); next != nil || err != nil {
		t.Error(next, err)
	}
	delete(b.objects, key(4))
	if there, err := h.StillThere(context.Background(), b); there || err != nil {
		t.Error(there, err)
	}

	// Everything overwritten with pills: still closed, and no search without end.
	b = newBucket(t, 1, 10)
	for k := range b.objects {
		b.objects[k] = []byte(pill)
	}
	h, err = slatedb.Latest(context.Background(), b, "db")
	if !errors.As(err, &p) || h.ID != 10 || h.Below != nil || len(b.asked) > 6 {
		t.Errorf("head %+v after %d requests: %v", h, len(b.asked), err)
	}
}

func TestADamagedNewestManifestIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		raw   string
		field string
		is    error
	}{
		"empty":   {"", "", manifest.ErrEmpty},
		"cut off": {"\x00\x02\x10\x00\x00\x00", "root", manifest.ErrCorrupt},
		"newer":   {"\x00\x03abc", "", nil},
	} {
		b := newBucket(t, 1, 3)
		b.objects[key(4)] = []byte(c.raw)
		h, err := slatedb.Latest(context.Background(), b, "db")
		var object *slatedb.ObjectError
		if !errors.As(err, &object) || object.Key != key(4) || (c.is != nil && !errors.Is(err, c.is)) {
			t.Errorf("%s: %v", name, err)
		}
		if h == nil || h.ID != 4 || h.Manifest != nil || h.Pill != nil {
			t.Errorf("%s: head %+v", name, h)
		}
		var field *manifest.FieldError
		if errors.As(err, &field) != (c.field != "") || (field != nil && field.Field != c.field) {
			t.Errorf("%s: field of %v", name, err)
		}
		var version *manifest.VersionError
		if name == "newer" && (!errors.As(err, &version) || version.Version != 3) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNextAsksForOneIdWhenNothingMoved(t *testing.T) {
	b := newBucket(t, 1, 3)
	h := latest(t, b)
	b.asked = nil
	next := func() *slatedb.Head {
		t.Helper()
		n, err := h.Next(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := next(); n != nil {
		t.Errorf("head %d out of nothing", n.ID)
	}
	b.expect(t, "get "+key(4))

	b.put(t, 4, 5)
	if n := next(); n == nil || n.ID != 5 {
		t.Fatalf("head %+v", n)
	}
	b.expect(t, "get "+key(4), "get "+key(5), "get "+key(6))

	// Far behind: a listing from where we are, and no read in between.
	b.put(t, 4, 10)
	if n := next(); n == nil || n.ID != 10 {
		t.Fatalf("head %+v", n)
	}
	b.expect(t, "get "+key(4), "get "+key(5), "get "+key(6), "get "+key(7), "walk db/manifest/ after "+key(7), "get "+key(10))

	// Exactly as far as we probe.
	for id := uint64(8); id <= 10; id++ {
		delete(b.objects, key(id))
	}
	if n := next(); n == nil || n.ID != 7 {
		t.Fatalf("head %+v", n)
	}

	// Behind a gap nothing is seen: that is what the boundary is for.
	delete(b.objects, key(4))
	if n := next(); n != nil {
		t.Errorf("head %d behind a gap", n.ID)
	}
}

func TestNextMeetsAPill(t *testing.T) {
	for pillID := uint64(4); pillID <= 9; pillID++ {
		b := newBucket(t, 1, 3)
		h := latest(t, b)
		b.put(t, 4, pillID-1)
		b.objects[key(pillID)] = []byte(pill)
		n, err := h.Next(context.Background(), b)
		var p *manifest.Pill
		if !errors.As(err, &p) || n == nil || n.ID != pillID || n.Pill != p || n.Below == nil || n.Below.ID != pillID-1 {
			t.Errorf("pill %d: head %+v, %v", pillID, n, err)
		}
	}
}

func TestNextPassesADamagedManifestThatIsNotTheNewest(t *testing.T) {
	b := newBucket(t, 1, 3)
	h := latest(t, b)
	b.objects[key(4)] = []byte("\x00\x02")
	n, err := h.Next(context.Background(), b)
	var object *slatedb.ObjectError
	if !errors.As(err, &object) || object.Key != key(4) || n == nil || n.ID != 4 {
		t.Errorf("head %+v, %v", n, err)
	}
	b.put(t, 5, 6)
	if n, err := h.Next(context.Background(), b); err != nil || n == nil || n.ID != 6 {
		t.Errorf("head %+v, %v", n, err)
	}
}

func TestADatabaseThatWasReplacedIsNotStillThere(t *testing.T) {
	b := newBucket(t, 1, 3)
	h := latest(t, b)
	// The same id again, one byte different.
	b.objects[key(3)][20] ^= 1
	if there, err := h.StillThere(context.Background(), b); there || err != nil {
		t.Error(there, err)
	}
}

func TestAt(t *testing.T) {
	b := newBucket(t, 1, 3)
	h, err := slatedb.At(context.Background(), b, "db", 2)
	if err != nil || h.ID != 2 || h.Manifest == nil {
		t.Errorf("%+v, %v", h, err)
	}
	b.expect(t, "get "+key(2))
	if _, err := slatedb.At(context.Background(), b, "db", 9); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestBoundary(t *testing.T) {
	for raw, want := range map[string]uint64{"2": 2, "20": 20, "0": 0, "18446744073709551615": 1<<64 - 1, " 7\n": 7} {
		b := &bucket{objects: map[string][]byte{"db/gc/manifest.boundary": []byte(raw)}}
		if got, err := slatedb.Boundary(context.Background(), b, "db"); got != want || err != nil {
			t.Errorf("%q: %d, %v", raw, got, err)
		}
	}
	if got, err := slatedb.Boundary(context.Background(), &bucket{}, "db"); got != 0 || err != nil {
		t.Errorf("missing: %d, %v", got, err)
	}
	for _, raw := range []string{"", "x", "-1", "1.5", "0x10", "1_0", "18446744073709551616", strings.Repeat("9", 1000), "\x00"} {
		b := &bucket{objects: map[string][]byte{"db/gc/manifest.boundary": []byte(raw)}}
		_, err := slatedb.Boundary(context.Background(), b, "db")
		var object *slatedb.ObjectError
		if !errors.As(err, &object) || object.Key != "db/gc/manifest.boundary" || !errors.Is(err, manifest.ErrCorrupt) || len(err.Error()) > 200 {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func FuzzBoundary(f *testing.F) {
	for _, s := range []string{"2", "20", "", " 1\n", "18446744073709551615", "x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := slatedb.ParseBoundary(b)
		if (err == nil) == errors.Is(err, manifest.ErrCorrupt) {
			t.Errorf("%q: %d, %v", b, id, err)
		}
		if err == nil && strings.TrimLeft(strings.TrimSpace(string(b)), "0") != strings.TrimLeft(fmt.Sprint(id), "0") {
			t.Errorf("%q reads as %d", b, id)
		}
	})
}
