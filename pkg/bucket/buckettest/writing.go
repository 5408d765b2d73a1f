package buckettest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

var writing = []test{
	{"PutNew creates once", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "k", "first")
		is(t, b.PutNew(t.Context(), "k", []byte("second")), fs.ErrExist)
		is(t, b.PutNew(t.Context(), "k", []byte("first")), fs.ErrExist)
		holds(t, b, "k", "first")
	}},
	{"PutNew does not replace an empty object", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "k", "")
		is(t, b.PutNew(t.Context(), "k", []byte("second")), fs.ErrExist)
		holds(t, b, "k", "")
	}},
	{"PutNew creates again what was deleted", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "k", "first")
		if err := b.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		put(t, b, "k", "second")
		holds(t, b, "k", "second")
	}},
	{"of sixteen racing PutNews one wins, and its bytes stay", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for round := range 8 {
			key := fmt.Sprintf("race/%d", round)
			var (
				wait sync.WaitGroup
				errs [16]error
				gun  = make(chan struct{})
			)
			for i := range errs {
				wait.Go(func() {
					<-gun
					errs[i] = b.PutNew(t.Context(), key, fmt.Appendf(nil, "writer %d %s", i, strings.Repeat("x", 1000)))
				})
			}
			close(gun)
			wait.Wait()
			winner := -1
			for i, err := range errs {
				switch {
				case err == nil && winner < 0:
					winner = i
				case err == nil:
					t.Fatalf("round %d: writers %d and %d both won", round, winner, i)
				default:
					is(t, err, fs.ErrExist)
				}
			}
			if winner < 0 {
				t.Fatalf("round %d: nobody won", round)
			}
			holds(t, b, key, fmt.Sprintf("writer %d %s", winner, strings.Repeat("x", 1000)))
		}
	}},
	{"Put replaces", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for _, data := range []string{"first", "", "third and longer"} {
			if err := b.Put(t.Context(), "lease", []byte(data)); err != nil {
				t.Fatal(err)
			}
			holds(t, b, "lease", data)
		}
		is(t, b.PutNew(t.Context(), "lease", nil), fs.ErrExist)
	}},
	{"a reader of a lease sees one writing or the next, never a mixture", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		text := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), 1000+i*100) }
		if err := b.Put(t.Context(), "lease", []byte(text(0))); err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := b.Get(t.Context(), "lease")
				if err != nil {
					t.Error(err)
					return
				}
				if i := (len(got) - 1000) / 100; string(got) != text(i) {
					t.Errorf("a torn read: %s", short(string(got)))
				}
			}
		})
		for i := range 20 {
			if err := b.Put(t.Context(), "lease", []byte(text(i))); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		wait.Wait()
	}},
	{"odd keys are keys", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		odd := []string{
			"with space", " leading", "trailing ", "plus+plus", "per%20cent", "per%cent%", "a&b=c", "semi;colon:", "at@home",
			"quote'", `double"quote`, "<tag>", "[brackets]", "{curly}", "pipe|", "caret^", "back`tick", "tilde~", "comma,",
			"star*", "dollar$", "bang!", "question?", "hash#tag", "ümläut", "日本語", "🦀", "e\u0301 and \u00e9", ".hidden", "..two", "three...",
			"dbs%2Forders", "a.b.c", "-dash", "UPPER", "upper", "back\\slash", "tab\tstop", "new\nline", "bell\a", "del\x7f",
		}
		for _, key := range odd {
			put(t, b, "odd/"+key, key)
		}
		for _, key := range odd {
			holds(t, b, "odd/"+key, key)
		}
		var listed []string
		for _, key := range walk(t, b, "odd/", "") {
			listed = append(listed, strings.TrimPrefix(key, "odd/"))
		}
		slices.Sort(listed)
		slices.Sort(odd)
		same(t, "listed", listed, odd)
		for _, key := range odd {
			if err := b.Delete(t.Context(), "odd/"+key); err != nil {
				t.Errorf("%q: %v", key, err)
			}
		}
		same(t, "left", walk(t, b, "", ""), []string{})
	}},
	{"long keys and deep keys", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for _, key := range []string{strings.Repeat("k", 200), strings.Repeat("deep/", 40) + "x", strings.Repeat("ä", 100)} {
			put(t, b, key, key)
			holds(t, b, key, key)
		}
	}},
	{"keys that no store can hold are refused everywhere", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for _, key := range []string{"", "zero\x00byte", "not\xffutf8", strings.Repeat("k", 1025)} {
			is(t, b.PutNew(t.Context(), key, nil), fs.ErrInvalid)
			is(t, b.Put(t.Context(), key, nil), fs.ErrInvalid)
			_, err := b.Get(t.Context(), key)
			is(t, err, fs.ErrInvalid)
			is(t, b.Delete(t.Context(), key), fs.ErrInvalid)
		}
	}},
	{"keys with empty and dotted segments are not written, and never followed", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "a/b", "x")
		for _, key := range []string{"a//b", "/a", "a/", "./a", "a/./b", "a/../b", "..", "../../outside", "a/b/"} {
			is(t, b.PutNew(t.Context(), key, nil), fs.ErrInvalid)
			is(t, b.Put(t.Context(), key, nil), fs.ErrInvalid)
		}
		same(t, "there", walk(t, b, "", ""), []string{"a/b"})
	}},
	{"keys that cannot be written are not there", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for _, key := range []string{"a//b", "a/./b", "a/../b", "../../outside", "a/", "dir/y#1"} {
			_, err := b.Get(t.Context(), key)
			is(t, err, fs.ErrNotExist)
			is(t, b.Delete(t.Context(), key), fs.ErrNotExist)
		}
	}},
	{"a key beside keys below it is kept or refused, never lost", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		put(t, b, "a/b", "below")
		put(t, b, "c", "beside")
		for key, data := range map[string]string{"a": "beside", "c/d": "below"} {
			err := b.PutNew(t.Context(), key, []byte(data))
			if caps.KeyBesideFolder {
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
			is(t, err, fs.ErrInvalid)
			is(t, b.Put(t.Context(), key, []byte(data)), fs.ErrInvalid)
		}
		holds(t, b, "a/b", "below")
		holds(t, b, "c", "beside")
		want := []string{"a/b", "c"}
		if caps.KeyBesideFolder {
			want = []string{"a", "a/b", "c", "c/d"}
		}
		same(t, "listed", walk(t, b, "", ""), want)
	}},
	{"a key may take the place of a folder that is empty again", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "a/b/c", "x")
		if err := b.Delete(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
		put(t, b, "a", "y")
		holds(t, b, "a", "y")
	}},
	{"names of unfinished writes are kept or refused, never hidden", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		err := b.PutNew(t.Context(), "dir/x#1", []byte("x"))
		if caps.StagedNames {
			if err != nil {
				t.Fatal(err)
			}
			same(t, "listed", walk(t, b, "", ""), []string{"dir/x#1"})
			return
		}
		is(t, err, fs.ErrInvalid)
		same(t, "listed", walk(t, b, "", ""), []string{})
	}},
	{"Delete removes, and says when there was nothing", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "a/k", "x")
		put(t, b, "a/l", "y")
		if err := b.Delete(t.Context(), "a/k"); err != nil {
			t.Fatal(err)
		}
		_, err := b.Get(t.Context(), "a/k")
		is(t, err, fs.ErrNotExist)
		is(t, b.Delete(t.Context(), "a/k"), fs.ErrNotExist)
		is(t, b.Delete(t.Context(), "no/such/k"), fs.ErrNotExist)
		is(t, b.Delete(t.Context(), "a"), fs.ErrNotExist)
		same(t, "left", walk(t, b, "", ""), []string{"a/l"})
	}},
	{"Sub is the same store below a prefix", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		sub := b.Sub("dbs").Sub("orders/")
		put(t, sub, "manifest/1", "x")
		put(t, b, "dbs/orders-old/manifest/1", "not below")
		holds(t, b, "dbs/orders/manifest/1", "x")
		holds(t, b.Sub("dbs/orders"), "manifest/1", "x")
		same(t, "walked", walk(t, sub, "", ""), []string{"manifest/1"})
		same(t, "walked after", walk(t, sub, "", "manifest/1"), []string{})
		_, folders := level(t, sub, "")
		same(t, "folders", folders, []string{"manifest/"})
		if !strings.Contains(sub.URL(), "dbs/orders") || b.Sub("").URL() != b.URL() {
			t.Errorf("URLs: %s, %s", sub.URL(), b.Sub("").URL())
		}
		if sub.Requests() != b.Requests() {
			t.Errorf("counters differ: %+v, %+v", sub.Requests(), b.Requests())
		}
	}},
	{"requests are counted by class", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		before := b.Requests()
		put(t, b, "k", "12345")
		is(t, b.PutNew(t.Context(), "k", []byte("x")), fs.ErrExist)
		holds(t, b, "k", "12345")
		if _, err := b.GetRange(t.Context(), "k", 1, 2); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Stat(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		walk(t, b, "", "")
		walk(t, b, "nothing/", "")
		r := b.Requests().Since(before)
		if r.Put != 2 || r.Get != 2 || r.Head != 1 || r.List != 2 || r.Misses != 1 || r.Errors != 0 || r.BytesWritten != 5 || r.BytesRead != 7 {
			t.Errorf("%+v", r)
		}
		if r.ReadClass() != 3 || r.WriteClass() != 4 {
			t.Errorf("classes: %d reads, %d writes", r.ReadClass(), r.WriteClass())
		}
	}},
	{"put-if-absent is honoured, and checking it leaves nothing behind", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, ".quarry/region.json", "{}")
		put(t, b, ".quarry/leases/a.json", "{}")
		if err := b.CheckPutNew(t.Context(), ".quarry/"); err != nil {
			t.Fatal(err)
		}
		same(t, "left", walk(t, b, "", ""), []string{".quarry/leases/a.json", ".quarry/region.json"})
		holds(t, b, ".quarry/region.json", "{}")
	}},
	{"a signed URL reads and writes for whoever has it, for a while", func(t *testing.T, b *bucket.Bucket, caps Caps) {
		put(t, b, "dir/k", "signed")
		got, err := b.SignedURL(t.Context(), "GET", "dir/k", time.Minute)
		if !caps.Signs {
			if err == nil {
				return // signs, but the server here does not look at it
			}
			is(t, err, errors.ErrUnsupported)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		signed(t, b, caps, got)
	}},
	{"only GET, PUT and DELETE are signed, and not for nothing", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		_, err := b.SignedURL(t.Context(), "POST", "k", time.Minute)
		is(t, err, fs.ErrInvalid)
		_, err = b.SignedURL(t.Context(), "GET", "k", 0)
		is(t, err, fs.ErrInvalid)
	}},
}
