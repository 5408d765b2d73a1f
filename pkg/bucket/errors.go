package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
)

// The classes of failure that io/fs has no name for. A caller sorts errors by
// what it does next: fs.ErrNotExist and fs.ErrExist are answers; ErrUnavailable
// may be tried again; ErrNoBucket, fs.ErrPermission and fs.ErrInvalid stay as
// they are until a person acts.
var (
	// ErrUnavailable means that the store did not answer properly this time:
	// a refused or broken connection, a 5xx, throttling, or no progress within
	// the bucket's patience. A write that ends so may or may not have
	// happened.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrChanged is the answer of [Bucket.Replace] when somebody else has
	// replaced or removed the object meanwhile: read it again.
	ErrChanged = errors.New("the object has changed")
	// ErrNoBucket means that there is no such bucket or folder, or no longer.
	// Nothing may be concluded about the objects in it. It is never
	// fs.ErrNotExist: who cannot see the bucket is blind, and does not see an
	// empty one.
	ErrNoBucket = errors.New("no such bucket")
)

// errStalled is the cause of a call that this package gave up on.
var errStalled = errors.New("no answer in time")

// classes are the sentinels an error of this package can wrap.
var classes = []error{
	ErrNoBucket, ErrUnavailable, ErrChanged, fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, errors.ErrUnsupported,
}

// callError is what every failed call returns. It wraps its class and, when it
// has none, the raw error; so no raw error can answer to a class it was not put
// in (a vanished folder's ENOENT must not read as "no such object").
type callError struct {
	method Method
	url    string
	key    string
	class  error
	raw    error
}

func (e *callError) Error() string {
	at := e.url
	if e.key != "" {
		at = fmt.Sprintf("%q in %s", e.key, e.url)
	}
	switch {
	case e.class == nil || errors.Is(e.raw, e.class):
		return fmt.Sprintf("%s %s: %v", e.method, at, e.raw)
	case errors.Is(e.class, fs.ErrNotExist) || errors.Is(e.class, fs.ErrExist) || errors.Is(e.class, ErrChanged):
		// The store's own words ("StatusCode: 404, RequestID: …") add nothing.
		return fmt.Sprintf("%s %s: %v", e.method, at, e.class)
	default:
		return fmt.Sprintf("%s %s: %v: %v", e.method, at, e.class, e.raw)
	}
}

func (e *callError) Unwrap() error {
	if e.class != nil {
		return e.class
	}
	return e.raw
}

// translate is the one place where errors of stores become errors of this
// package. ctx is the caller's: when it is over, its reason is the error.
func (b *Bucket) translate(ctx context.Context, method Method, key string, err error) error {
	if err == nil {
		return nil
	}
	var done *callError
	if errors.As(err, &done) {
		return err
	}
	failed := &callError{method: method, url: b.URL(), key: key, raw: err}
	if ctx.Err() != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		failed.class, failed.raw = ctx.Err(), context.Cause(ctx)
		return failed
	}
	failed.class = classify(err)
	return failed
}

// judged is a raw error whose class its store has settled, none included. It
// hides what the raw error wraps: a cloud's "credentials file does not exist" must
// not pass for an object that does not.
type judged struct{ class, raw error }

func (j *judged) Error() string { return j.raw.Error() }

func classify(err error) error {
	var judged *judged
	if errors.As(err, &judged) {
		return judged.class
	}
	for _, class := range classes {
		if errors.Is(err, class) {
			return class
		}
	}
	if trouble(err) {
		return ErrUnavailable
	}
	return nil
}

// trouble reports whether err is one of the ways in which a network or a busy
// machine fails. The caller's own context is still good when it is asked, so an
// expired context is this package's patience.
func trouble(err error) bool {
	var network net.Error
	return errors.As(err, &network) ||
		errors.Is(err, errStalled) ||
		errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, context.Canceled) ||
		errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.ECONNREFUSED) ||
		errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, syscall.EIO) ||
		errors.Is(err, syscall.ESTALE) ||
		errors.Is(err, syscall.ENOSPC) ||
		errors.Is(err, syscall.EMFILE) ||
		errors.Is(err, syscall.ENFILE)
}
