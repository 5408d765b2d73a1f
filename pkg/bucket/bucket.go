// Package bucket is the one door to object stores: folders, memory, S3, Google
// and Azure, with the same calls, the same errors and the same order on all of
// them. It never overwrites unless asked to by [Bucket.Put], and it never lets a
// store that cannot be seen look like an empty one.
//
// Begin with [Open] and [Bucket.PutNew]. Package buckettest holds what every
// store must do; package faulty makes one fail on purpose.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Bucket is an object store, or the part of one below a prefix. All methods may
// be called at once. Errors name the store and the key; [errors.Is] tells their
// class, see [ErrUnavailable] and [ErrNoBucket]. A call whose context has no
// deadline is given one (20 s, and a second for each MiB it moves), so a silent
// store is an error and not a wait.
type Bucket struct {
	core   *core
	prefix string // "" or ends with "/"
}

// core is what a bucket and those made from it by Sub share.
type core struct {
	store    Store
	url      func(prefix string) string
	meter    *meter
	patience time.Duration
	closing  *closing
}

type closing struct {
	once sync.Once
	err  error
}

// newBucket makes a bucket of a store. url shows a prefix of it, without secrets.
func newBucket(store Store, url func(prefix string) string) *Bucket {
	b := &Bucket{core: &core{store: store, url: url, meter: new(meter), patience: patience, closing: new(closing)}}
	if cloud, ok := store.(*cloudStore); ok {
		cloud.extra = b.core.meter.count
	}
	return b
}

// URL returns the bucket's URL, prefix included, without secrets: it can be
// logged, and for anything but a nameless mem:// store it can be opened again.
func (b *Bucket) URL() string { return b.core.url(b.prefix) }

// Sub returns the part of the store below prefix, as a bucket of its own: its
// keys are what follows prefix and a "/". It shares connections and counters
// with b; closing either closes both. It asks nothing of the store.
func (b *Bucket) Sub(prefix string) *Bucket {
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix == "" {
		return b
	}
	return &Bucket{core: b.core, prefix: b.prefix + prefix + "/"}
}

// Requests returns what was asked of the store so far, by b and by all buckets
// that share its store through Sub and [Wrap].
func (b *Bucket) Requests() Requests { return b.core.meter.requests() }

// Close releases connections. Calls that are still running may fail. Closing
// twice is the same as once.
func (b *Bucket) Close() error {
	b.core.closing.once.Do(func() { b.core.closing.err = b.core.store.Close() })
	return b.core.closing.err
}

// Get returns the whole object. The caller may keep and change it. A missing
// object is fs.ErrNotExist.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	var data []byte
	err := b.call(ctx, Get, key, 0, func(ctx *bounded, full string) (err error) {
		data, err = b.core.store.Get(ctx, full, ctx.more)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.core.meter.read.Add(int64(len(data)))
	return data, nil
}

// GetRange returns n bytes of the object from off, fewer only when the object
// ends, and none without an error when off is at or past its end. With n = 0 it
// tells only whether the object is there. The caller may keep and change the
// slice.
func (b *Bucket) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 {
		return nil, b.translate(ctx, GetRange, key, fmt.Errorf("range of %d bytes from %d: %w", n, off, fs.ErrInvalid))
	}
	if n == 0 {
		_, _, err := b.Stat(ctx, key)
		return []byte{}, err
	}
	var data []byte
	err := b.call(ctx, GetRange, key, int(min(n, 1<<30)), func(ctx *bounded, full string) (err error) {
		data, err = b.core.store.GetRange(ctx, full, off, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.core.meter.read.Add(int64(len(data)))
	return data, nil
}

// Stat returns the object's size in bytes and the store's time of its last
// change, which S3 keeps in whole seconds.
func (b *Bucket) Stat(ctx context.Context, key string) (size int64, modified time.Time, err error) {
	var object Object
	err = b.call(ctx, Head, key, 0, func(ctx *bounded, full string) (err error) {
		object, err = b.core.store.Stat(ctx, full)
		return err
	})
	if err != nil {
		return 0, time.Time{}, err
	}
	return object.Size, object.Modified, nil
}

// Walk calls each for every object whose key begins with prefix and is greater
// than after ("" for all), in the byte order of their keys, until each returns
// an error, which Walk returns as it is. Objects that come or go meanwhile may be
// seen or not; all others are seen once. S3 and Google skip to after themselves;
// on a folder whole sub-folders are skipped; Azure lists from the beginning.
//
// On S3, Google and Azure keys with control characters, and on Azure also those
// with any of "#%?\ and double quotes, are stored escaped and may come out of
// order.
func (b *Bucket) Walk(ctx context.Context, prefix, after string, each func(key string, size int64, modified time.Time) error) error {
	return b.list(ctx, prefix, after, false, func(page Page) error {
		for _, o := range page.Objects {
			if err := each(o.Key, o.Size, o.Modified); err != nil {
				return err
			}
		}
		return nil
	})
}

// List returns one level: the objects whose keys begin with prefix and have no
// "/" after it, and the folders, which are the distinct beginnings up to and
// with the next "/". Both in order. A folder is listed only while there is an
// object somewhere below it.
func (b *Bucket) List(ctx context.Context, prefix string) (objects []Object, folders []string, err error) {
	err = b.list(ctx, prefix, "", true, func(page Page) error {
		objects = append(objects, page.Objects...)
		folders = append(folders, page.Folders...)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(folders)
	return objects, slices.Compact(folders), nil
}

func (b *Bucket) list(ctx context.Context, prefix, after string, level bool, each func(Page) error) error {
	if !utf8.ValidString(prefix) {
		return b.translate(ctx, List, prefix, fmt.Errorf("a prefix must be UTF-8: %w", fs.ErrInvalid))
	}
	if err := ctx.Err(); err != nil {
		return b.translate(ctx, List, prefix, err)
	}
	call := b.bound(ctx, 0)
	defer call.release()

	var stopped error
	pages := 0
	full := after
	if after != "" {
		full = b.prefix + after
	}
	err := b.core.store.List(call, b.prefix+prefix, full, level, func(page Page) error {
		call.hold()
		pages++
		b.core.meter.count(List)
		for i := range page.Objects {
			page.Objects[i].Key = page.Objects[i].Key[len(b.prefix):]
		}
		for i := range page.Folders {
			page.Folders[i] = page.Folders[i][len(b.prefix):]
		}
		if stopped = each(page); stopped != nil {
			return stopped
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		call.more(0)
		return nil
	})
	if stopped != nil {
		return stopped
	}
	if err != nil || pages == 0 {
		b.core.meter.count(List) // the request that brought no page
	}
	err = b.translate(ctx, List, prefix, stalled(call, err))
	b.tally(err)
	return err
}

// Put writes an object and replaces one that is there. Only leases may be
// written so: nothing that anybody decides by is ever overwritten.
func (b *Bucket) Put(ctx context.Context, key string, data []byte) error {
	return b.put(ctx, Put, key, data)
}

// Delete removes an object. When there is none it returns fs.ErrNotExist, on
// every store this package opens.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	return b.call(ctx, Delete, key, 0, func(ctx *bounded, full string) error {
		return b.core.store.Delete(ctx, full)
	})
}

// SignedURL returns a URL with which anybody can do method ("GET", "PUT" or
// "DELETE") on key until ttl is over. It is errors.ErrUnsupported on folders, in
// memory, and where the credentials cannot sign. Whether the object exists is
// not looked at. The URL is a secret.
func (b *Bucket) SignedURL(ctx context.Context, method, key string, ttl time.Duration) (string, error) {
	if method != "GET" && method != "PUT" && method != "DELETE" {
		return "", b.translate(ctx, Sign, key, fmt.Errorf("method %q is not GET, PUT or DELETE: %w", method, fs.ErrInvalid))
	}
	if ttl <= 0 {
		return "", b.translate(ctx, Sign, key, fmt.Errorf("a lifetime of %v: %w", ttl, fs.ErrInvalid))
	}
	var signed string
	err := b.call(ctx, Sign, key, 0, func(ctx *bounded, full string) (err error) {
		signed, err = b.core.store.SignedURL(ctx, method, full, ttl)
		return err
	})
	return signed, err
}

// call does one request: checks the key, bounds the time, counts, translates.
func (b *Bucket) call(ctx context.Context, method Method, key string, size int, do func(ctx *bounded, full string) error) error {
	if err := checkKey(key, b.prefix+key, method == PutNew || method == Put || method == Replace); err != nil {
		return b.translate(ctx, method, key, err)
	}
	if err := ctx.Err(); err != nil {
		return b.translate(ctx, method, key, err)
	}
	call := b.bound(ctx, size)
	defer call.release()
	b.core.meter.count(method)
	err := do(call, b.prefix+key)
	err = b.translate(ctx, method, key, stalled(call, err))
	b.tally(err)
	return err
}

// stalled gives the reason when it was this package that ended the call.
func stalled(call *bounded, err error) error {
	if err != nil && errors.Is(context.Cause(call), errStalled) {
		return errStalled
	}
	return err
}

func (b *Bucket) tally(err error) {
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist), errors.Is(err, ErrChanged):
		b.core.meter.misses.Add(1)
	default:
		b.core.meter.errors.Add(1)
	}
}

// checkKey refuses what some store cannot hold, on all of them alike: key as the
// caller gave it, full as the store sees it. What others have written may have
// odder names than what we write.
func checkKey(key, full string, write bool) error {
	switch {
	case key == "":
		return fmt.Errorf("an empty key: %w", fs.ErrInvalid)
	case len(full) > 1024:
		return fmt.Errorf("a key of %d bytes, 1024 are allowed: %w", len(full), fs.ErrInvalid)
	case !utf8.ValidString(full):
		return fmt.Errorf("a key must be UTF-8: %w", fs.ErrInvalid)
	case strings.ContainsRune(full, 0):
		return fmt.Errorf("a key with a zero byte: %w", fs.ErrInvalid)
	}
	if !write {
		return nil
	}
	for segment := range strings.SplitSeq(full, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("a key with a segment %q: %w", segment, fs.ErrInvalid)
		}
	}
	return nil
}
