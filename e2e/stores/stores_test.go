//go:build e2e

// Package stores runs the conformance suite of buckets on real servers of each
// protocol.
package stores

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/servers"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/buckettest"
)

// store is a server with a way to make buckets on it.
type store interface {
	Make(t testing.TB, name string) (url string)
	URL(name string) string
	Remove(t testing.TB, name string)
}

func openBucket(t testing.TB, url string) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// conform runs the suite with a new bucket on the server for each case.
func conform(t *testing.T, on store, caps buckettest.Caps) {
	var n atomic.Int64
	buckettest.Run(t, func(t *testing.T) *bucket.Bucket {
		return openBucket(t, on.Make(t, fmt.Sprintf("bucket-%d", n.Add(1))))
	}, caps)
}

// named returns the name of the bucket that b is.
func named(b *bucket.Bucket) string {
	_, rest, _ := strings.Cut(b.URL(), "://")
	name, _, _ := strings.Cut(rest, "?")
	return name
}

func TestStoreS3(t *testing.T) {
	s := servers.S3(t)
	conform(t, s, buckettest.Caps{
		StagedNames: true, OwnOrder: true, Signs: true,
		Vanish: func(t *testing.T, b *bucket.Bucket) { s.Remove(t, named(b)) },
	})
}

func TestStoreAzure(t *testing.T) {
	s := servers.Azure(t)
	conform(t, s, buckettest.Caps{
		KeyBesideFolder: true, StagedNames: true, OwnOrder: true, Signs: true,
		PutHeaders: http.Header{"X-Ms-Blob-Type": {"BlockBlob"}},
		Vanish:     func(t *testing.T, b *bucket.Bucket) { s.Remove(t, named(b)) },
	})
}

func TestStoreGCS(t *testing.T) {
	s := servers.GCS(t)
	conform(t, s, buckettest.Caps{
		KeyBesideFolder: true, StagedNames: true, OwnOrder: true,
		Vanish: func(t *testing.T, b *bucket.Bucket) {
			if err := b.Delete(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			s.Remove(t, named(b))
		},
	})
}

// Files that are copied into a gateway's folder have no ETag, and versitygw then
// overwrites them in spite of If-None-Match. A region whose bucket was seeded by
// rsync would lose create-if-absent exactly where it matters.
func TestStoreGatewayOverCopiedFilesIsRefused(t *testing.T) {
	s := servers.S3(t)
	b := openBucket(t, s.Make(t, "copied"))
	if err := b.CheckPutNew(t.Context(), ".quarry/"); err != nil {
		t.Fatalf("while the bucket is empty: %v", err)
	}
	path := filepath.Join(s.Dir, "copied/.quarry/region.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"region":"eu"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	yesterday := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(path, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	err := b.CheckPutNew(t.Context(), ".quarry/")
	if err == nil || !strings.Contains(err.Error(), "ignores put-if-absent") || !strings.Contains(err.Error(), "region.json") {
		t.Fatalf("got %v", err)
	}
	if data, err := b.Get(t.Context(), ".quarry/region.json"); err != nil || string(data) != `{"region":"eu"}` {
		t.Fatalf("the check changed it: %s, %v", data, err)
	}
}

// The emulator verifies no signature, so only the shape of the URL is tested:
// that it names the key, the signer and the lifetime.
func TestStoreGCSSignsWithAKey(t *testing.T) {
	s := servers.GCS(t)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	b := openBucket(t, s.Make(t, "signing")+"&access_id=quarry@example.com&private_key_path="+path)
	signed, err := b.SignedURL(t.Context(), "GET", "dbs/a b", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Path != "/signing/dbs/a b" || !strings.HasPrefix(q.Get("X-Goog-Credential"), "quarry@example.com/") ||
		q.Get("X-Goog-Expires") != "3600" && q.Get("X-Goog-Expires") != "3599" || q.Get("X-Goog-Signature") == "" {
		t.Errorf("signed as %s", signed)
	}
}
