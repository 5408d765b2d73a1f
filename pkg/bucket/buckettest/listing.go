package buckettest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

var listing = []test{
	{"an empty bucket lists nothing", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		same(t, "walked", walk(t, b, "", ""), []string{})
		same(t, "walked", walk(t, b, "no/such/", "no/such/x"), []string{})
		keys, folders := level(t, b, "")
		if len(keys) != 0 || len(folders) != 0 {
			t.Errorf("listed %q and %q", keys, folders)
		}
	}},
	{"the order is that of whole keys, not of folders", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		// '-' and '.' sort before '/', '0' after it.
		want := []string{"a-b", "a.b", "a/b", "a/b-c", "a/b.c", "a/c/d", "a0", "aa", "b", "Z"}
		slices.Sort(want)
		for _, i := range []int{5, 2, 9, 0, 7, 3, 1, 8, 4, 6} {
			put(t, b, want[i], "x")
		}
		same(t, "walked", walk(t, b, "", ""), want)
		for i := range want {
			same(t, "walked after "+want[i], walk(t, b, "", want[i]), want[i+1:])
		}
		for i, cut := range []string{"a", "a-", "a/", "a/b", "a/b/", "a/c/", "a/c/z", "a/z", "b/"} {
			first, _ := slices.BinarySearch(want, cut)
			if first < len(want) && want[first] == cut {
				first++
			}
			same(t, fmt.Sprintf("%d: walked after %s, which is no key or one", i, cut), walk(t, b, "", cut), want[first:])
		}
	}},
	{"order of keys beyond ASCII is by bytes", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		want := []string{"x a", "x!", "xZ", "xa", "xä", "x世", "x🦀"}
		slices.Sort(want)
		for _, key := range want {
			put(t, b, "u/"+key, "x")
		}
		var got []string
		for _, key := range walk(t, b, "u/", "") {
			got = append(got, key[2:])
		}
		same(t, "walked", got, want)
		same(t, "walked after", walk(t, b, "u/", "u/xä"), []string{"u/x世", "u/x🦀"})
	}},
	{"order of keys with awkward characters", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		want := []string{"x\x01", "x\"q", "x#h", "x%p", "x?q", "x\\b", "xa"}
		for _, key := range want {
			put(t, b, key, "x")
		}
		got := walk(t, b, "", "")
		if caps.OwnOrder {
			slices.Sort(got)
		}
		same(t, "walked", got, want)
		got = walk(t, b, "", "x#h")
		if caps.OwnOrder {
			slices.Sort(got)
		}
		same(t, "walked after", got, want[3:])
	}},
	{"a prefix is a prefix of text, not a folder", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for _, key := range []string{"db", "db-old/1", "dbs/1", "dbs/2/x", "dc/1", "d"} {
			put(t, b, key, "x")
		}
		for prefix, want := range map[string][]string{
			"":       {"d", "db", "db-old/1", "dbs/1", "dbs/2/x", "dc/1"},
			"d":      {"d", "db", "db-old/1", "dbs/1", "dbs/2/x", "dc/1"},
			"db":     {"db", "db-old/1", "dbs/1", "dbs/2/x"},
			"dbs":    {"dbs/1", "dbs/2/x"},
			"dbs/":   {"dbs/1", "dbs/2/x"},
			"dbs/2":  {"dbs/2/x"},
			"dbs/2/": {"dbs/2/x"},
			"dbs/1":  {"dbs/1"},
			"dbs/1/": {},
			"db/":    {},
			"e":      {},
			"dbs/2x": {},
		} {
			same(t, "prefix "+prefix, walk(t, b, prefix, ""), want)
		}
	}},
	{"after works with a prefix, inside it, before it and behind it", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for _, key := range []string{"a/1", "m/1", "m/2", "m/3", "z/1"} {
			put(t, b, key, "x")
		}
		for after, want := range map[string][]string{
			"a/1": {"m/1", "m/2", "m/3"}, "m": {"m/1", "m/2", "m/3"}, "m/": {"m/1", "m/2", "m/3"}, "m/1": {"m/2", "m/3"},
			"m/15": {"m/2", "m/3"}, "m/3": {}, "m/4": {}, "n": {}, "z/1": {},
		} {
			same(t, "after "+after, walk(t, b, "m/", after), want)
		}
	}},
	{"one level has objects and folders", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for _, key := range []string{"top", "dbs/a/manifest/1", "dbs/a/wal/1", "dbs/b-x/1", "dbs/b/1", "dbs/note", "dbs-2/x"} {
			put(t, b, key, "12")
		}
		for prefix, want := range map[string][2][]string{
			"":          {{"top"}, {"dbs-2/", "dbs/"}},
			"dbs/":      {{"dbs/note"}, {"dbs/a/", "dbs/b-x/", "dbs/b/"}},
			"dbs":       {{}, {"dbs-2/", "dbs/"}},
			"dbs/b":     {{}, {"dbs/b-x/", "dbs/b/"}},
			"dbs/n":     {{"dbs/note"}, nil},
			"dbs/a/":    {{}, {"dbs/a/manifest/", "dbs/a/wal/"}},
			"to":        {{"top"}, nil},
			"dbs/note/": {{}, nil},
			"none/":     {{}, nil},
		} {
			keys, folders := level(t, b, prefix)
			same(t, "objects of "+prefix, keys, want[0])
			same(t, "folders of "+prefix, folders, want[1])
		}
		objects, _, err := b.List(t.Context(), "dbs/")
		if err != nil || len(objects) != 1 || objects[0].Size != 2 || time.Since(objects[0].Modified) > time.Minute {
			t.Errorf("%+v, %v", objects, err)
		}
	}},
	{"a folder is gone with its last object", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "a/b/c", "x")
		put(t, b, "d", "x")
		if err := b.Delete(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
		_, folders := level(t, b, "")
		same(t, "folders", folders, nil)
	}},
	{"two thousand five hundred objects come in pages, each once and in order", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		want := many(t, b, 2500)
		before := b.Requests()
		same(t, "walked", walk(t, b, "", ""), want)
		if pages := b.Requests().Since(before).List; pages < 3 || pages > 6 {
			t.Errorf("counted %d list requests", pages)
		}
		same(t, "walked after", walk(t, b, "", want[1999]), want[2000:])
		keys, folders := level(t, b, "n/")
		same(t, "level", keys, want)
		same(t, "folders", folders, nil)
		_, folders = level(t, b, "")
		same(t, "folders", folders, []string{"n/"})
	}},
	{"Walk ends when the caller has seen enough", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for i := range 10 {
			put(t, b, fmt.Sprint("k", i), "x")
		}
		enough := errors.New("enough")
		seen := 0
		err := b.Walk(t.Context(), "", "", func(string, int64, time.Time) error {
			if seen++; seen == 3 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) || seen != 3 {
			t.Errorf("%v after %d", err, seen)
		}
	}},
	{"the caller may write and delete while it walks", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for i := range 10 {
			put(t, b, fmt.Sprint("k", i), "x")
		}
		err := b.Walk(t.Context(), "", "", func(key string, _ int64, _ time.Time) error {
			put(t, b, "copy/"+key, "x")
			return b.Delete(t.Context(), key)
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := walk(t, b, "k", ""); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
		if got := walk(t, b, "copy/k", ""); len(got) != 10 {
			t.Errorf("copied: %q", got)
		}
	}},
	{"what was written before a walk is in it, whatever others write", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for i := range 50 {
			put(t, b, fmt.Sprintf("s/%02d/x", i), "x")
		}
		stop := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("s/%02d/y%d", i%50, i)
				if err := b.PutNew(t.Context(), key, nil); err != nil {
					t.Error(err)
				}
				if err := b.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		})
		for range 10 {
			got := slices.DeleteFunc(walk(t, b, "s/", ""), func(key string) bool { return key[len(key)-1] != 'x' })
			if len(got) != 50 || !slices.IsSorted(got) {
				t.Errorf("%d of 50: %q", len(got), got)
			}
		}
		close(stop)
		wait.Wait()
	}},
	{"a prefix that is not UTF-8 is refused", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		if err := b.Walk(t.Context(), "\xff", "", nil); err == nil {
			t.Error("no error")
		}
	}},
}

// many writes n objects and returns their keys in order.
func many(t *testing.T, b *bucket.Bucket, n int) []string {
	t.Helper()
	keys := make([]string, n)
	next := make(chan string)
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for key := range next {
				if err := b.PutNew(t.Context(), key, []byte(key)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range keys {
		keys[i] = fmt.Sprintf("n/%06d", i)
		next <- keys[i]
	}
	close(next)
	wait.Wait()
	return keys
}
