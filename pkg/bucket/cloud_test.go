package bucket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// clouds opens a bucket of each protocol at one server, which need not speak any
// of them: these tests are about answers that no healthy server gives.
func clouds(t *testing.T, handler http.HandlerFunc) map[string]*bucket.Bucket {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_CONFIG_FILE": "/dev/null", "AWS_PROFILE": "",
		"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "a2V5", "AZURE_STORAGE_SAS_TOKEN": "", "STORAGE_EMULATOR_HOST": "",
	} {
		t.Setenv(name, value)
	}
	host := strings.TrimPrefix(server.URL, "http://")
	return map[string]*bucket.Bucket{
		"s3":     open(t, "s3://bkt?endpoint="+server.URL),
		"gs":     open(t, "gs://bkt?endpoint="+server.URL),
		"azblob": open(t, "azblob://bkt?protocol=http&localemu=true&domain="+host),
	}
}

func each(b *bucket.Bucket) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Get":      func(ctx context.Context) error { _, err := b.Get(ctx, "k"); return err },
		"GetRange": func(ctx context.Context) error { _, err := b.GetRange(ctx, "k", 0, 1); return err },
		"Stat":     func(ctx context.Context) error { _, _, err := b.Stat(ctx, "k"); return err },
		"List":     func(ctx context.Context) error { _, _, err := b.List(ctx, ""); return err },
		"PutNew":   func(ctx context.Context) error { return b.PutNew(ctx, "new", []byte("x")) },
		"Put":      func(ctx context.Context) error { return b.Put(ctx, "k", []byte("x")) },
		"Delete":   func(ctx context.Context) error { return b.Delete(ctx, "k") },
	}
}

// A store that answers every call with the same status is sorted into what can be
// tried again and what cannot, in seconds and a handful of requests.
func TestAnswersAreSortedAndNotRepeatedForEver(t *testing.T) {
	for _, c := range []struct {
		status int
		class  error
	}{
		{500, bucket.ErrUnavailable}, {503, bucket.ErrUnavailable}, {429, bucket.ErrUnavailable},
		{403, fs.ErrPermission}, {401, fs.ErrPermission}, {400, fs.ErrInvalid},
	} {
		t.Run(fmt.Sprint(c.status), func(t *testing.T) {
			var asked atomic.Int64
			all := clouds(t, func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				w.WriteHeader(c.status)
			})
			var wait sync.WaitGroup
			calls := int64(0)
			for scheme, b := range all {
				for name, call := range each(b) {
					calls++
					wait.Go(func() {
						start := time.Now()
						err := call(t.Context())
						if !errors.Is(err, c.class) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, bucket.ErrNoBucket) {
							t.Errorf("%s %s: %v", scheme, name, err)
						}
						if took := time.Since(start); took > 15*time.Second {
							t.Errorf("%s %s: took %v", scheme, name, took)
						}
					})
				}
			}
			wait.Wait()
			if asked.Load() > 4*calls {
				t.Errorf("%d calls made %d requests", calls, asked.Load())
			}
		})
	}
}

func TestAStoreThatIsNotThereIsUnavailable(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	b := open(t, "s3://bkt?endpoint="+gone.URL)
	var wait sync.WaitGroup
	for name, call := range each(b) {
		wait.Go(func() {
			if err := call(t.Context()); !errors.Is(err, bucket.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wait.Wait()
}

func TestMissingCredentialsArePermissionDenied(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_PROFILE": "",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
	} {
		t.Setenv(name, value)
	}
	b := open(t, "s3://bkt?region=eu-west-1&endpoint=http://127.0.0.1:9")
	_, err := b.Get(t.Context(), "k")
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("got %v", err)
	}
}

// A web identity token whose file is missing is an os error deep inside; it must
// not pass for an object that does not exist.
func TestAMissingCredentialsFileIsNoMissingObject(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_PROFILE": "",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x", "AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/token",
	} {
		t.Setenv(name, value)
	}
	b := open(t, "s3://bkt?region=eu-west-1&endpoint=http://127.0.0.1:9")
	_, err := b.Get(t.Context(), "k")
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestABodyThatEndsEarlyIsUnavailable(t *testing.T) {
	for scheme, b := range clouds(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" && strings.HasPrefix(r.UserAgent(), "gcloud-golang") {
			w.WriteHeader(http.StatusServiceUnavailable) // Google's client asks for the rest
			return
		}
		w.Header().Set("Content-Length", "1000")
		w.Header().Set("Last-Modified", "Sat, 21 Nov 2026 04:00:00 GMT")
		if r.Method == http.MethodGet {
			w.Write(make([]byte, 400))
		}
	}) {
		if data, err := b.Get(t.Context(), "k"); !errors.Is(err, bucket.ErrUnavailable) {
			t.Errorf("%s: %d bytes, %v", scheme, len(data), err)
		}
	}
}

// The write arrives, the answer is a 500: PutNew reads the object back. If the
// SDK repeated the write by itself, the second try would find the first and say
// that somebody else was there.
func TestAnAmbiguousPutNewIsSettledByReadingBack(t *testing.T) {
	var (
		mu      sync.Mutex
		objects = map[string][]byte{}
		puts    int
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		data, there := objects[r.URL.Path]
		switch {
		case r.Method == http.MethodPut && there:
			puts++
			w.WriteHeader(http.StatusPreconditionFailed)
		case r.Method == http.MethodPut:
			puts++
			objects[r.URL.Path], _ = io.ReadAll(r.Body)
			w.WriteHeader(http.StatusInternalServerError)
		case there:
			w.Header().Set("Last-Modified", "Sat, 21 Nov 2026 04:00:00 GMT")
			w.Write(data)
		default:
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, "<Error><Code>NoSuchKey</Code></Error>")
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	// Without checksums the body comes as it is, and not in signed chunks.
	b := open(t, "s3://bkt/x?request_checksum_calculation=when_required&endpoint="+server.URL)
	if err := b.PutNew(t.Context(), "k", []byte("mine")); err != nil || puts != 1 {
		t.Errorf("after %d writes: %v", puts, err)
	}
	if err := b.PutNew(t.Context(), "k", []byte("mine")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a clear refusal is final, even when the bytes are equal: %v", err)
	}
}

// A store that accepts the connection and then says nothing.
func TestASilentServerIsGivenUpOn(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for real")
	}
	release := make(chan struct{})
	all := clouds(t, func(w http.ResponseWriter, r *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
	var wait sync.WaitGroup
	for scheme, b := range all {
		bucket.SetPatience(b, 300*time.Millisecond)
		for name, call := range each(b) {
			if name == "PutNew" {
				continue // also reads back, see faulty
			}
			wait.Go(func() {
				start := time.Now()
				err := call(context.Background())
				if !errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, context.Canceled) || time.Since(start) > 10*time.Second {
					t.Errorf("%s %s after %v: %v", scheme, name, time.Since(start), err)
				}
			})
		}
	}
	wait.Wait()
}
