package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	"github.com/googleapis/gax-go/v2"
	"gocloud.dev/blob"
	"gocloud.dev/blob/gcsblob"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
)

func init() {
	providers["gs"] = provider{
		example: "gs://bucket",
		options: []string{"endpoint", "anonymous", "access_id", "private_key_path"},
		open:    openGCS,
	}
}

// openGCS makes the client itself: gocloud's opener prints to stdout when it
// finds no credentials, and repeats requests without end.
func openGCS(ctx context.Context, u *url.URL) (Store, error) {
	query := u.Query()
	opts := []option.ClientOption{storage.WithDisabledClientMetrics()}
	anonymous := false
	if given := query.Get("anonymous"); given != "" {
		var err error
		if anonymous, err = strconv.ParseBool(given); err != nil {
			return nil, fmt.Errorf("anonymous=%s; say true or false", given)
		}
	}
	if given := query.Get("endpoint"); given != "" {
		e, err := url.Parse(given)
		if err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" {
			return nil, fmt.Errorf("endpoint=%s; it must be like endpoint=http://127.0.0.1:4443", given)
		}
		opts = append(opts, option.WithEndpoint(strings.TrimSuffix(given, "/")+"/storage/v1/"))
		anonymous = anonymous || e.Scheme == "http"
	}
	if anonymous {
		opts = append(opts, option.WithoutAuthentication())
	}
	sign := &storage.SignedURLOptions{Scheme: storage.SigningSchemeV4, GoogleAccessID: query.Get("access_id")}
	if path := query.Get("private_key_path"); path != "" {
		key, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		sign.PrivateKey = key
	}

	client, err := storage.NewClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w; set GOOGLE_APPLICATION_CREDENTIALS, or run where Google gives a service account", err)
	}
	client.SetRetry(storage.WithMaxAttempts(3), storage.WithBackoff(gax.Backoff{Initial: 200 * time.Millisecond, Max: time.Second}))
	reads, err := gcsblob.OpenBucket(ctx, nil, u.Host, &gcsblob.Options{Client: client})
	if err != nil {
		return nil, err
	}
	s := &cloudStore{reads: reads, writes: reads, answer: gcsAnswer, close: client.Close}
	s.beforeWrite = func(as func(any) bool) error {
		var object **storage.ObjectHandle
		if as(&object) {
			*object = (*object).Retryer(storage.WithPolicy(storage.RetryNever))
		}
		var w *storage.Writer
		if as(&w) {
			w.ChunkSize = 0 // one request, and no buffer of 16 MiB for each
		}
		return nil
	}
	s.startAfter = func(as func(any) bool, after string) {
		var q *storage.Query
		if as(&q) {
			q.StartOffset = after // inclusive
		}
	}
	// Google says which of the two is missing; others of the protocol may not.
	s.vague = func(err error) bool {
		_, code := gcsAnswer(err)
		return code != "NoSuchKey"
	}
	s.prove = func(ctx context.Context) error {
		s.extra(List)
		it := client.Bucket(u.Host).Objects(ctx, &storage.Query{Projection: storage.ProjectionNoACL})
		it.PageInfo().MaxSize = 1
		if _, err := it.Next(); err != nil && !errors.Is(err, iterator.Done) {
			return err
		}
		return nil
	}
	s.version = func(r *blob.Reader) string {
		var in *storage.Reader
		if r.As(&in) && in.Attrs.Generation > 0 {
			return strconv.FormatInt(in.Attrs.Generation, 10)
		}
		return ""
	}
	s.replace = func(ctx context.Context, key string, data []byte, version string) error {
		generation, err := strconv.ParseInt(version, 10, 64)
		if err != nil {
			return fmt.Errorf("version %q is no generation: %w", version, fs.ErrInvalid)
		}
		w := client.Bucket(u.Host).Object(key).If(storage.Conditions{GenerationMatch: generation}).
			Retryer(storage.WithPolicy(storage.RetryNever)).NewWriter(ctx)
		w.ChunkSize, w.ContentType = 0, "application/octet-stream"
		_, err = w.Write(data)
		return errors.Join(err, w.Close())
	}
	s.sign = func(_ context.Context, method, key string, ttl time.Duration) (string, error) {
		how := *sign
		how.Method, how.Expires = method, time.Now().Add(ttl)
		signed, err := client.Bucket(u.Host).SignedURL(key, &how)
		if err != nil {
			return "", &judged{errors.ErrUnsupported, fmt.Errorf("these credentials cannot sign (add access_id= and private_key_path=): %w", err)}
		}
		return signed, nil
	}
	return s, nil
}

func gcsAnswer(err error) (status int, code string) {
	var api *googleapi.Error
	switch {
	case errors.As(err, &api):
		if api.Code == http.StatusNotFound && (strings.Contains(api.Body, "NoSuchBucket") || strings.Contains(api.Body, "specified bucket does not exist")) {
			return api.Code, "NoSuchBucket"
		}
		if api.Code == http.StatusNotFound && (strings.Contains(api.Body, "NoSuchKey") || strings.Contains(api.Body, "No such object")) {
			return api.Code, "NoSuchKey"
		}
		return api.Code, ""
	case errors.Is(err, storage.ErrBucketNotExist):
		return http.StatusNotFound, "NoSuchBucket"
	case errors.Is(err, storage.ErrObjectNotExist):
		return http.StatusNotFound, ""
	}
	return 0, ""
}
