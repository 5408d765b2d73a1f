package bucket_test

import (
	"os"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/buckettest"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

func open(t testing.TB, url string) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestConformance(t *testing.T) {
	t.Run("mem", func(t *testing.T) {
		buckettest.Run(t, func(t *testing.T) *bucket.Bucket { return open(t, "mem://") },
			buckettest.Caps{KeyBesideFolder: true, StagedNames: true})
	})
	t.Run("file", func(t *testing.T) {
		buckettest.Run(t, func(t *testing.T) *bucket.Bucket { return open(t, t.TempDir()) },
			buckettest.Caps{Vanish: func(t *testing.T, b *bucket.Bucket) {
				if err := os.RemoveAll(strings.TrimPrefix(b.URL(), "file://")); err != nil {
					t.Fatal(err)
				}
			}})
	})
	t.Run("below a prefix", func(t *testing.T) {
		buckettest.Run(t, func(t *testing.T) *bucket.Bucket { return open(t, "mem:///some/where") },
			buckettest.Caps{KeyBesideFolder: true, StagedNames: true})
	})
}

// What the database code asks of a store is what a bucket is.
var _ slatedb.Store = (*bucket.Bucket)(nil)
