// Package buckettest is what every store must do to be a bucket: the cases that
// folders, memory, S3, Google and Azure pass alike. A store that is new to us is
// supported when [Run] passes on a real server of it.
package buckettest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// Caps says where stores may differ. The zero value is the least.
type Caps struct {
	// KeyBesideFolder: "a" and "a/b" may both be there.
	KeyBesideFolder bool
	// StagedNames: names such as x#1 are names like any other.
	StagedNames bool
	// OwnOrder: keys with control characters or any of #%?\" may be listed out
	// of order, because the store keeps them escaped.
	OwnOrder bool
	// Signs: SignedURL works, and the server looks at the signature.
	Signs bool
	// PutHeaders must be sent with a PUT to a signed URL.
	PutHeaders http.Header
	// NoReplace: the store cannot replace on a condition, and says so.
	NoReplace bool
	// Vanish takes the whole bucket away from under b; nil when it cannot be
	// done. The bucket is not used afterwards.
	Vanish func(t *testing.T, b *bucket.Bucket)
}

type test struct {
	name string
	run  func(t *testing.T, b *bucket.Bucket, caps Caps)
}

// Run runs the suite. open returns a bucket that is empty and that nobody else
// writes to; it is called once for each case.
func Run(t *testing.T, open func(t *testing.T) *bucket.Bucket, caps Caps) {
	for _, c := range slices.Concat(reading, writing, replacing, listing, failing) {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t), caps) })
	}
}

func put(t *testing.T, b *bucket.Bucket, key, data string) {
	t.Helper()
	if err := b.PutNew(t.Context(), key, []byte(data)); err != nil {
		t.Fatalf("PutNew: %v", err)
	}
}

func holds(t *testing.T, b *bucket.Bucket, key, want string) {
	t.Helper()
	got, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	if string(got) != want {
		t.Fatalf("%q holds %s, want %s", key, short(string(got)), short(want))
	}
}

func short(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%q… (%d bytes)", s[:60], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// is checks the class of an error, and that it has no other.
func is(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("got error %v, want one that wraps %v", err, class)
	}
	for _, other := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, bucket.ErrNoBucket, bucket.ErrUnavailable, bucket.ErrChanged, errors.ErrUnsupported} {
		if !errors.Is(class, other) && errors.Is(err, other) {
			t.Fatalf("error %v wraps %v and also %v", err, class, other)
		}
	}
}

func walk(t *testing.T, b *bucket.Bucket, prefix, after string) []string {
	t.Helper()
	keys := []string{}
	err := b.Walk(t.Context(), prefix, after, func(key string, _ int64, _ time.Time) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		t.Fatalf("Walk(%q, %q): %v", prefix, after, err)
	}
	return keys
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func level(t *testing.T, b *bucket.Bucket, prefix string) (keys, folders []string) {
	t.Helper()
	objects, folders, err := b.List(t.Context(), prefix)
	if err != nil {
		t.Fatalf("List(%q): %v", prefix, err)
	}
	keys = []string{}
	for _, o := range objects {
		keys = append(keys, o.Key)
	}
	return keys, folders
}
