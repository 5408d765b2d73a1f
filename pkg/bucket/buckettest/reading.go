package buckettest

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

var reading = []test{
	{"a missing object is not there, for Get, GetRange and Stat", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		_, err := b.Get(t.Context(), "nobody")
		is(t, err, fs.ErrNotExist)
		_, err = b.GetRange(t.Context(), "nobody", 0, 10)
		is(t, err, fs.ErrNotExist)
		_, err = b.GetRange(t.Context(), "nobody", 0, 0)
		is(t, err, fs.ErrNotExist)
		_, _, err = b.Stat(t.Context(), "nobody")
		is(t, err, fs.ErrNotExist)
	}},
	{"a missing object below a folder that is not there is not there", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		_, err := b.Get(t.Context(), "no/such/folder/x")
		is(t, err, fs.ErrNotExist)
		_, _, err = b.Stat(t.Context(), "no/such/folder/x")
		is(t, err, fs.ErrNotExist)
	}},
	{"a folder is not an object", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "dbs/orders/1", "x")
		_, err := b.Get(t.Context(), "dbs/orders")
		is(t, err, fs.ErrNotExist)
		_, err = b.GetRange(t.Context(), "dbs", 0, 1)
		is(t, err, fs.ErrNotExist)
		_, _, err = b.Stat(t.Context(), "dbs")
		is(t, err, fs.ErrNotExist)
	}},
	{"nothing lies below an object", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "a", "x")
		_, err := b.Get(t.Context(), "a/b")
		is(t, err, fs.ErrNotExist)
		_, _, err = b.Stat(t.Context(), "a/b")
		is(t, err, fs.ErrNotExist)
		same(t, "below it", walk(t, b, "a/", ""), []string{})
	}},
	{"an empty object is there and empty", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "empty", "")
		holds(t, b, "empty", "")
		size, _, err := b.Stat(t.Context(), "empty")
		if err != nil || size != 0 {
			t.Fatalf("Stat: %d, %v", size, err)
		}
		got, err := b.GetRange(t.Context(), "empty", 0, 10)
		if err != nil || len(got) != 0 {
			t.Fatalf("GetRange: %q, %v", got, err)
		}
		same(t, "listed", walk(t, b, "", ""), []string{"empty"})
	}},
	{"contents come back byte by byte, all 256 of them", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		var all []byte
		for i := range 1024 {
			all = append(all, byte(i), byte(i>>2))
		}
		put(t, b, "binary", string(all))
		holds(t, b, "binary", string(all))
	}},
	{"contents that look like gzip, JSON or HTML come back as they are", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		for key, data := range map[string]string{"x.gz": "\x1f\x8b\x08\x00\x00", "x.json": `{"a":1}`, "x.html": "<!doctype html><html>", "x.txt": "\ufeffa\r\nb"} {
			put(t, b, key, data)
			holds(t, b, key, data)
		}
	}},
	{"twelve MiB come back whole and in ranges", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		big := make([]byte, 12<<20)
		_, _ = rand.NewChaCha8([32]byte{12}).Read(big)
		if err := b.PutNew(t.Context(), "big", big); err != nil {
			t.Fatal(err)
		}
		got, err := b.Get(t.Context(), "big")
		if err != nil || !bytes.Equal(got, big) {
			t.Fatalf("Get: %d bytes, equal %v, %v", len(got), bytes.Equal(got, big), err)
		}
		for _, r := range [][2]int64{{0, 1}, {8<<20 - 5, 10}, {11 << 20, 1 << 20}, {12<<20 - 3, 100}} {
			got, err := b.GetRange(t.Context(), "big", r[0], r[1])
			want := big[r[0]:min(r[0]+r[1], int64(len(big)))]
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("GetRange(%d, %d): %d bytes, %v", r[0], r[1], len(got), err)
			}
		}
		is(t, b.PutNew(t.Context(), "big", big[:100]), fs.ErrExist)
		is(t, b.PutNew(t.Context(), "big", append([]byte("other"), big...)), fs.ErrExist)
		size, _, err := b.Stat(t.Context(), "big")
		if err != nil || size != 12<<20 {
			t.Fatalf("after refused writes: %d bytes, %v", size, err)
		}
	}},
	{"ranges at the edges", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "ten", "0123456789")
		for _, c := range []struct {
			off, n int64
			want   string
		}{
			{0, 10, "0123456789"}, {0, 1, "0"}, {9, 1, "9"}, {3, 4, "3456"},
			{0, 100, "0123456789"}, {5, 100, "56789"}, {9, 2, "9"},
			{0, 0, ""}, {5, 0, ""}, {10, 0, ""},
		} {
			got, err := b.GetRange(t.Context(), "ten", c.off, c.n)
			if err != nil || string(got) != c.want {
				t.Errorf("GetRange(%d, %d) = %q, %v, want %q", c.off, c.n, got, err, c.want)
			}
		}
	}},
	{"a range past the end is empty and no error", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "ten", "0123456789")
		for _, off := range []int64{10, 11, 1 << 40} {
			got, err := b.GetRange(t.Context(), "ten", off, 5)
			if err != nil || len(got) != 0 {
				t.Errorf("GetRange(%d, 5) = %q, %v", off, got, err)
			}
		}
	}},
	{"a negative range is refused", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "ten", "0123456789")
		_, err := b.GetRange(t.Context(), "ten", -1, 5)
		is(t, err, fs.ErrInvalid)
		_, err = b.GetRange(t.Context(), "ten", 0, -1)
		is(t, err, fs.ErrInvalid)
	}},
	{"what Get returns is the caller's own", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		data := []byte("mine")
		if err := b.PutNew(t.Context(), "k", data); err != nil {
			t.Fatal(err)
		}
		data[0] = 'x'
		holds(t, b, "k", "mine")
		got, _ := b.Get(t.Context(), "k")
		got[0] = 'y'
		part, _ := b.GetRange(t.Context(), "k", 0, 4)
		part[1] = 'z'
		holds(t, b, "k", "mine")
	}},
	{"Stat tells size and a time near now", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "k", "12345")
		size, modified, err := b.Stat(t.Context(), "k")
		if err != nil || size != 5 {
			t.Fatalf("Stat: %d, %v", size, err)
		}
		if age := time.Since(modified); age < -5*time.Second || age > time.Minute {
			t.Fatalf("modified %v ago", age)
		}
	}},
	{"Stat and Walk tell the same", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "a/k", "12345")
		size, modified, err := b.Stat(t.Context(), "a/k")
		if err != nil {
			t.Fatal(err)
		}
		err = b.Walk(t.Context(), "", "", func(key string, s int64, m time.Time) error {
			// A HEAD has whole seconds on most clouds, a listing milliseconds.
			if key != "a/k" || s != size || !m.Truncate(time.Second).Equal(modified.Truncate(time.Second)) {
				t.Errorf("Walk: %s %d %v, Stat: %d %v", key, s, m, size, modified)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}},
	{"sixteen readers at once", func(t *testing.T, b *bucket.Bucket, _ Caps) {
		put(t, b, "k", "shared")
		done := make(chan string)
		for range 16 {
			go func() {
				got, err := b.Get(t.Context(), "k")
				if err != nil {
					got = []byte(err.Error())
				}
				done <- string(got)
			}()
		}
		for range 16 {
			if got := <-done; got != "shared" {
				t.Error(got)
			}
		}
	}},
}
