package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"
)

// ErrPutNewIgnored means that a store overwrites objects that it was asked only
// to create. Nothing of Quarry can be kept there.
var ErrPutNewIgnored = errors.New("this store ignores put-if-absent")

// How many objects that were there before CheckPutNew looks at, how large they
// may be, and how long they must have lain there.
const (
	checkListed  = 3
	checkLargest = 64 << 10
	checkSettled = time.Minute
)

// CheckPutNew returns nil when the store honours put-if-absent, and
// [ErrPutNewIgnored] when it does not. It must be run before the first PutNew
// that anybody relies on, at start and by doctor.
//
// It looks at three things. An object that it writes itself below prefix must
// not be replaced. Of eight writers at once, one must win. And up to three
// objects that it finds below prefix must not be replaced either: gateways that
// show a folder as a bucket know when an object was written through them by
// attributes that files copied into the folder lack, and then overwrite them in
// spite of If-None-Match (versitygw does). That last part is why prefix must be
// one where objects, once written, are neither changed nor removed by others:
// Quarry's own ".quarry/", of which it leaves out the inbox and the leases. Each
// found object is offered its own bytes, so that a store which fails the check
// has lost nothing.
//
// Its own objects are removed again; where removing is not permitted two small
// ones named prefix + "check-…" stay.
func (b *Bucket) CheckPutNew(ctx context.Context, prefix string) error {
	if err := b.checkListed(ctx, prefix); err != nil {
		return err
	}
	key := prefix + "check-" + rand.Text()
	if err := b.checkOwn(ctx, key); err != nil {
		return err
	}
	return b.checkRace(ctx, key+"-race")
}

func (b *Bucket) checkOwn(ctx context.Context, key string) error {
	first, second := []byte("first "+key), []byte("second "+key)
	if err := b.PutNew(ctx, key, first); err != nil {
		return fmt.Errorf("check put-if-absent: %w", err)
	}
	defer func() { _ = b.Delete(context.WithoutCancel(ctx), key) }()

	err := b.PutNew(ctx, key, second)
	if err == nil {
		return b.ignored(key, "was overwritten by a second create-if-absent")
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("check put-if-absent: %w", err)
	}
	there, err := b.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("check put-if-absent: %w", err)
	}
	if !bytes.Equal(there, first) {
		return b.ignored(key, "was overwritten by a create-if-absent that the store said it refused")
	}
	return nil
}

func (b *Bucket) checkRace(ctx context.Context, key string) error {
	defer func() { _ = b.Delete(context.WithoutCancel(ctx), key) }()
	var (
		wait sync.WaitGroup
		errs [8]error
	)
	for i := range errs {
		wait.Go(func() { errs[i] = b.PutNew(ctx, key, fmt.Appendf(nil, "writer %d of %s", i, key)) })
	}
	wait.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, fs.ErrExist):
			return fmt.Errorf("check put-if-absent: %w", err)
		}
	}
	if won != 1 {
		return b.ignored(key, fmt.Sprintf("was created by %d of %d writers at once", won, len(errs)))
	}
	return nil
}

// checkListed offers objects that are there their own bytes.
func (b *Bucket) checkListed(ctx context.Context, prefix string) error {
	var found []string
	errEnough := errors.New("enough")
	settled := time.Now().Add(-checkSettled)
	err := b.Walk(ctx, prefix, "", func(key string, size int64, modified time.Time) error {
		if below := key[len(prefix):]; strings.HasPrefix(below, "inbox/") || strings.HasPrefix(below, "leases/") {
			return nil
		}
		if size > checkLargest || modified.After(settled) {
			return nil
		}
		if found = append(found, key); len(found) == checkListed {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("check put-if-absent: %w", err)
	}
	for _, key := range found {
		if err := b.checkFound(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bucket) checkFound(ctx context.Context, key string) error {
	there, err := b.Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile, so no promise to test
	}
	if err != nil {
		return fmt.Errorf("check put-if-absent: %w", err)
	}
	// Not PutNew, whose reading back would find our bytes and call it success.
	err = b.put(ctx, PutNew, key, there)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err == nil:
		return b.ignored(key, "was there before and was overwritten by a create-if-absent (with its own bytes, so nothing is lost); "+
			"if it was copied into the folder behind an S3 gateway, copy it through the gateway, or use the folder itself with file://")
	default:
		return fmt.Errorf("check put-if-absent: %w", err)
	}
}

func (b *Bucket) ignored(key, how string) error {
	return fmt.Errorf("%w: in %s the object %q %s; use a store that honours If-None-Match", ErrPutNewIgnored, b.URL(), key, how)
}
