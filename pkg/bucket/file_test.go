package bucket_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// The test binary is also the writer of the test that needs several processes.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BUCKET_RACER_DIR"); dir != "" {
		if err := race(dir, os.Getenv("BUCKET_RACER")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const racedKeys = 200

// race creates every key and prints those that it won.
func race(dir, name string) error {
	b, err := bucket.Open(background, dir)
	if err != nil {
		return err
	}
	for { // until all are here
		if _, err := os.Stat(dir + "/go"); err == nil {
			break
		}
	}
	for i := range racedKeys {
		key := fmt.Sprintf("race/%d/%03d", i%7, i)
		switch err := b.PutNew(background, key, []byte(name+strings.Repeat("!", 5000))); {
		case err == nil:
			fmt.Println(key)
		case !errors.Is(err, fs.ErrExist):
			return err
		}
	}
	return nil
}

func TestPutNewHasOneWinnerAmongProcesses(t *testing.T) {
	dir := t.TempDir()
	const racers = 4
	var (
		cmds [racers]*exec.Cmd
		outs [racers]strings.Builder
	)
	for i := range cmds {
		cmds[i] = exec.Command(os.Args[0])
		cmds[i].Env = append(os.Environ(), "BUCKET_RACER_DIR="+dir, "BUCKET_RACER="+strconv.Itoa(i))
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], os.Stderr
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond) // lets them reach the line; the test holds without it
	if err := os.WriteFile(dir+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir)
	winners := map[string]string{}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		won := strings.Fields(outs[i].String())
		t.Logf("process %d won %d", i, len(won))
		for _, key := range won {
			if other, twice := winners[key]; twice {
				t.Errorf("%s was won by %s and by %d", key, other, i)
			}
			winners[key] = strconv.Itoa(i)
		}
	}
	if len(winners) != racedKeys {
		t.Errorf("%d of %d keys were won", len(winners), racedKeys)
	}
	for key, name := range winners {
		data, err := b.Get(t.Context(), key)
		if err != nil || string(data) != name+strings.Repeat("!", 5000) {
			t.Errorf("%s was won by %s and holds %.10q…, %v", key, name, data, err)
		}
	}
	if keys := keysOf(t, b, "race/"); len(keys) != racedKeys {
		t.Errorf("%d keys are listed", len(keys))
	}
}

func keysOf(t *testing.T, b *bucket.Bucket, prefix string) []string {
	t.Helper()
	var keys []string
	err := b.Walk(t.Context(), prefix, "", func(key string, _ int64, _ time.Time) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// files returns every name below dir, as find does.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Real SlateDB processes share the folder: they must find our objects and
// nothing else, no sidecars and no stages.
func TestFolderHoldsTheObjectsAndNothingBesideThem(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	for _, key := range []string{"a", "dbs/x/manifest/1", "dbs/x/manifest/2"} {
		if err := b.PutNew(t.Context(), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := b.PutNew(t.Context(), key, []byte("y")); !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	if err := b.Put(t.Context(), "a", []byte("z")); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, dir), []string{"a", "dbs/x/manifest/1", "dbs/x/manifest/2"}; !slices.Equal(got, want) {
		t.Errorf("files: %q, want %q", got, want)
	}
}

// SlateDB writes name#1 first and links it to name; a process that was killed in
// between leaves it for good. The rule is that of the object_store crate: digits
// after the first #.
func TestUnfinishedWritesOfOthersAreNotObjects(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	for _, name := range []string{"m/1.manifest", "m/1.manifest#1", "m/2.manifest#27", "m/#5", "m/.quarry#123456", "m/x#y", "m/x#1#2", "m/x#", "only/staged#1"} {
		if err := os.MkdirAll(filepath.Dir(dir+"/"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/"+name, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"m/1.manifest", "m/x#", "m/x#1#2", "m/x#y"}
	if got := keysOf(t, b, ""); !slices.Equal(got, want) {
		t.Errorf("walked %q, want %q", got, want)
	}
	_, folders, err := b.List(t.Context(), "")
	if err != nil || !slices.Equal(folders, []string{"m/"}) {
		t.Errorf("folders %q, %v", folders, err)
	}
	if _, err := b.Get(t.Context(), "m/1.manifest#1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %v", err)
	}
}

func TestFolderFollowsLinksOnceAndSkipsWhatIsNoFile(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	b := open(t, dir)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(elsewhere+"/db/manifest", 0o755))
	must(os.WriteFile(elsewhere+"/db/manifest/1", []byte("x"), 0o644))
	must(os.Symlink(elsewhere+"/db", dir+"/db"))
	must(os.Symlink(elsewhere+"/db/manifest/1", dir+"/one"))
	must(os.Symlink(elsewhere+"/nothing", dir+"/dangling"))
	must(os.Symlink(elsewhere+"/db", elsewhere+"/db/loop"))
	must(syscall.Mkfifo(dir+"/pipe", 0o644))
	if got, want := keysOf(t, b, ""), []string{"db/manifest/1", "one"}; !slices.Equal(got, want) {
		t.Errorf("walked %q, want %q", got, want)
	}
	for _, key := range []string{"pipe", "dangling"} {
		if _, err := b.Get(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// An agent whose folder is unmounted or moved away must be blind; one that wrote
// a new folder in its place would report an empty region.
func TestFolderTakenAwayIsNotMadeAgain(t *testing.T) {
	dir := t.TempDir() + "/eu"
	b := open(t, "file://"+dir+"?create=true")
	if err := b.PutNew(t.Context(), "dbs/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := b.PutNew(t.Context(), "dbs/y", nil); !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("PutNew: %v", err)
	}
	if _, err := b.Get(t.Context(), "dbs/x"); !errors.Is(err, bucket.ErrNoBucket) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is back: %v", err)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if got := keysOf(t, b, ""); !slices.Equal(got, []string{"dbs/x"}) {
		t.Errorf("after it came back: %q", got)
	}
	// A file in its place is no bucket either.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), "dbs/x"); !errors.Is(err, bucket.ErrNoBucket) {
		t.Errorf("Get in a file: %v", err)
	}
}

func TestFolderThatMayNotBeReadIsNotSkipped(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	if err := b.PutNew(t.Context(), "closed/x", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/closed", 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir+"/closed", 0o755)
	if os.Getuid() == 0 {
		// Root may read everything, so this thread becomes somebody else as
		// far as files go. It is never unlocked, and ends with the test.
		runtime.LockOSThread()
		const nobody = 65534
		syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0)
		defer syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0)
	}
	err := b.Walk(t.Context(), "", "", func(string, int64, time.Time) error { return nil })
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Walk: %v", err)
	}
	if _, err := b.Get(t.Context(), "closed/x"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Get: %v", err)
	}
}

// The walk in the order of keys is clever about what to skip; this compares it
// with reading everything, sorting, and cutting.
func TestFolderWalkAgainstASimpleOne(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	var all []string
	parts := []string{"a", "a-", "a.b", "a0", "b", "é", "-"}
	for _, x := range parts {
		for _, y := range parts {
			for _, z := range parts {
				all = append(all, x+"/"+y+"/"+z, x+"/"+y+"!"+z, x+"~"+y)
			}
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, key := range all {
		if err := os.MkdirAll(filepath.Dir(dir+"/"+key), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/"+key, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cuts := append(slices.Clone(all), "", "a", "a/", "a/a", "a/a/", "a/a-/", "b/zz", "zz", "a!")
	for i, prefix := range cuts {
		for _, after := range []string{"", cuts[(i*31+7)%len(cuts)], cuts[(i*17+3)%len(cuts)]} {
			var want, got []string
			for _, key := range all {
				if strings.HasPrefix(key, prefix) && key > after {
					want = append(want, key)
				}
			}
			err := b.Walk(t.Context(), prefix, after, func(key string, _ int64, _ time.Time) error {
				got = append(got, key)
				return nil
			})
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("Walk(%q, %q): %v\n got %q\nwant %q", prefix, after, err, got, want)
			}
		}
	}
}

func BenchmarkFolderWalk100k(b *testing.B) {
	dir := b.TempDir()
	for i := range 100 {
		sub := fmt.Sprintf("%s/dbs/%03d/compacted", dir, i)
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 1000 {
			if err := os.WriteFile(fmt.Sprintf("%s/%026d.sst", sub, j), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	bk := open(b, dir)
	for b.Loop() {
		n := 0
		err := bk.Walk(b.Context(), "", "", func(string, int64, time.Time) error { n++; return nil })
		if err != nil || n != 100_000 {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

// With after, a poll of one folder among many reads only that one.
func BenchmarkFolderWalkAfter(b *testing.B) {
	dir := b.TempDir()
	for i := range 100 {
		sub := fmt.Sprintf("%s/dbs/%03d", dir, i)
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(fmt.Sprintf("%s/%03d", sub, j), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	bk := open(b, dir)
	for b.Loop() {
		err := bk.Walk(b.Context(), "dbs/", "dbs/099/050", func(string, int64, time.Time) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFolderPutNew(b *testing.B) {
	for _, size := range []int{200, 64 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			bk := open(b, b.TempDir())
			data := make([]byte, size)
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				if err := bk.PutNew(b.Context(), fmt.Sprintf("wal/%020d.sst", i), data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFolderGetMiss(b *testing.B) {
	bk := open(b, b.TempDir())
	for b.Loop() {
		if _, err := bk.Get(b.Context(), "manifest/00000000000000000043.manifest"); !errors.Is(err, fs.ErrNotExist) {
			b.Fatal(err)
		}
	}
}
