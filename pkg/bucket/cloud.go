package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

// cloudStore is a bucket behind gocloud.dev/blob. What differs between clouds is
// in its functions, which the file of each cloud fills in.
type cloudStore struct {
	// reads may repeat a request by itself; writes never does, so that an
	// answer of "already there" is never to our own first try.
	reads, writes *blob.Bucket
	// answer digs the HTTP status and the cloud's error code out of a raw
	// error; 0 when there was no answer.
	answer func(err error) (status int, code string)
	// once returns the context of a write; on Azure it switches repeating off.
	once func(context.Context) context.Context
	// beforeWrite is gocloud's hook of that name.
	beforeWrite func(as func(any) bool) error
	// startAfter tells a listing where to start, when the cloud can; what it
	// lists too early is dropped.
	startAfter func(as func(any) bool, after string)
	// prove returns nil when the bucket is there. It is asked when a miss does
	// not say whether the object or the whole bucket is missing. nil when
	// misses always say.
	prove func(ctx context.Context) error
	// vague reports whether a miss leaves that open.
	vague func(err error) bool
	// looksFirst says that gocloud asks for the object before it deletes it.
	looksFirst bool
	// version is what names the contents that r reads; replace puts an object
	// on the condition that it is still that.
	version func(r *blob.Reader) string
	replace func(ctx context.Context, key string, data []byte, version string) error
	// sign replaces gocloud's signing when it is set.
	sign func(ctx context.Context, method, key string, ttl time.Duration) (string, error)
	// close releases what the blob buckets do not own.
	close func() error

	extra func(Method) // counts requests the caller did not ask for
}

func (s *cloudStore) Get(ctx context.Context, key string, announce func(int64)) ([]byte, error) {
	r, err := s.reads.NewReader(ctx, key, nil)
	if err != nil {
		return nil, s.judge(ctx, err, true)
	}
	defer r.Close()
	announce(r.Size())
	data, err := readAll(r, r.Size())
	return data, s.judge(ctx, err, true)
}

func (s *cloudStore) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	r, err := s.reads.NewRangeReader(ctx, key, off, n, nil)
	if err != nil {
		if status, _ := s.answer(err); status == http.StatusRequestedRangeNotSatisfiable {
			return []byte{}, nil
		}
		return nil, s.judge(ctx, err, true)
	}
	defer r.Close()
	data, err := readAll(r, max(0, min(n, r.Size()-off)))
	return data, s.judge(ctx, err, true)
}

// readAll reads exactly size bytes: a body that ends early is an error even if
// the transport did not notice.
func readAll(r io.Reader, size int64) ([]byte, error) {
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return data, nil
}

func (s *cloudStore) Stat(ctx context.Context, key string) (Object, error) {
	attrs, err := s.reads.Attributes(ctx, key)
	if err != nil {
		return Object{}, s.judge(ctx, err, true)
	}
	return Object{Key: key, Size: attrs.Size, Modified: attrs.ModTime}, nil
}

func (s *cloudStore) List(ctx context.Context, prefix, after string, level bool, page func(Page) error) error {
	opts := &blob.ListOptions{Prefix: prefix}
	if level {
		opts.Delimiter = "/"
	}
	if after > prefix && s.startAfter != nil && plain(after) {
		opts.BeforeList = func(as func(any) bool) error {
			s.startAfter(as, after)
			return nil
		}
	}
	for token := blob.FirstPageToken; ; {
		objects, next, err := s.reads.ListPage(ctx, token, pageSize, opts)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.judge(ctx, err, false)
		}
		var p Page
		for _, o := range objects {
			switch {
			case o.Key <= after && after != "" && !o.IsDir:
			case o.IsDir:
				p.Folders = append(p.Folders, o.Key)
			default:
				p.Objects = append(p.Objects, Object{Key: o.Key, Size: o.Size, Modified: o.ModTime})
			}
		}
		if err := page(p); err != nil {
			return err
		}
		if len(next) == 0 {
			return nil
		}
		token = next
	}
}

// plain reports whether gocloud stores a key under its own name on every cloud.
func plain(key string) bool {
	for i := range len(key) {
		c := key[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '/' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

// Put uses Upload and never a blob.Writer: a writer on Azure panics when the
// store refuses (gocloud.dev v0.47.0).
func (s *cloudStore) Put(ctx context.Context, key string, data []byte, onlyNew bool) error {
	if s.once != nil {
		ctx = s.once(ctx)
	}
	err := s.writes.Upload(ctx, key, bytes.NewReader(data), &blob.WriterOptions{
		ContentType: "application/octet-stream",
		IfNotExist:  onlyNew,
		BeforeWrite: s.beforeWrite,
	})
	if err != nil {
		return s.judge(ctx, err, false)
	}
	return nil
}

func (s *cloudStore) GetVersion(ctx context.Context, key string) ([]byte, string, error) {
	r, err := s.reads.NewReader(ctx, key, nil)
	if err != nil {
		return nil, "", s.judge(ctx, err, true)
	}
	defer r.Close()
	data, err := readAll(r, r.Size())
	return data, s.version(r), s.judge(ctx, err, true)
}

func (s *cloudStore) Replace(ctx context.Context, key string, data []byte, version string) error {
	if !plain(key) {
		return fmt.Errorf("a key that is stored escaped: %w", errors.ErrUnsupported)
	}
	if version == "" {
		return fmt.Errorf("the store names no version: %w", errors.ErrUnsupported)
	}
	if s.once != nil {
		ctx = s.once(ctx)
	}
	return s.judge(ctx, s.replace(ctx, key, data, version), true)
}

func (s *cloudStore) Delete(ctx context.Context, key string) error {
	if s.looksFirst {
		s.extra(Head)
	}
	if err := s.reads.Delete(ctx, key); err != nil {
		return s.judge(ctx, err, true)
	}
	return nil
}

func (s *cloudStore) SignedURL(ctx context.Context, method, key string, ttl time.Duration) (string, error) {
	if s.sign != nil {
		signed, err := s.sign(ctx, method, key, ttl)
		return signed, s.judge(ctx, err, false)
	}
	signed, err := s.reads.SignedURL(ctx, key, &blob.SignedURLOptions{Method: method, Expiry: ttl})
	if gcerrors.Code(err) == gcerrors.Unimplemented {
		return "", &judged{errors.ErrUnsupported, fmt.Errorf("these credentials cannot sign: %w", err)}
	}
	return signed, s.judge(ctx, err, false)
}

func (s *cloudStore) Close() error {
	err := s.reads.Close()
	if s.writes != s.reads {
		err = errors.Join(err, s.writes.Close())
	}
	if s.close != nil {
		err = errors.Join(err, s.close())
	}
	return err
}

// judge settles the class of a raw error. onObject says that the call was about
// an object that may be missing; a 404 to any other call is about the bucket.
func (s *cloudStore) judge(ctx context.Context, err error, onObject bool) error {
	if done := new(judged); err == nil || errors.As(err, &done) {
		return err
	}
	class := s.class(err)
	if errors.Is(class, fs.ErrNotExist) {
		switch {
		case !onObject:
			class = ErrNoBucket
		case s.prove != nil && s.vague(err):
			if probe := s.prove(ctx); probe != nil {
				if class = s.class(probe); errors.Is(class, fs.ErrNotExist) {
					class = ErrNoBucket
				}
				err = fmt.Errorf("%w (asked because the object is missing)", probe)
			}
		}
	}
	return &judged{class, err}
}

// class knows the codes of all clouds; no two use one word for two things.
func (s *cloudStore) class(err error) error {
	if errors.As(err, new(*noCredentials)) {
		return fs.ErrPermission
	}
	status, code := s.answer(err)
	switch code {
	case "NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled", "InvalidBucketName", "AccountIsDisabled":
		return ErrNoBucket
	case "RequestTimeout", "ConditionalRequestConflict", "OperationAborted", "SlowDown", "ServerBusy":
		// ConditionalRequestConflict: two conditional writes at once, and
		// this one may be repeated. It is not "already there".
		return ErrUnavailable
	case "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AuthorizationHeaderMalformed":
		return fs.ErrPermission
	case "BlobAlreadyExists":
		return fs.ErrExist
	}
	switch {
	case status == http.StatusNotFound:
		return fs.ErrNotExist
	case status == http.StatusPreconditionFailed:
		return fs.ErrExist
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fs.ErrPermission
	case status == http.StatusNotImplemented:
		return errors.ErrUnsupported
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500:
		return ErrUnavailable
	case status == http.StatusBadRequest || status == http.StatusConflict:
		return fs.ErrInvalid
	case status == 0 && trouble(err):
		return ErrUnavailable
	}
	return nil
}

// noCredentials is the error of a cloud that could not be asked because nobody
// said who asks.
type noCredentials struct{ error }

func (e *noCredentials) Unwrap() error { return e.error }
