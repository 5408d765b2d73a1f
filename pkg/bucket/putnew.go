package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// settle is how long PutNew tries to find out whether an unanswered write
// happened.
const settle = 10 * time.Second

// PutNew creates an object, or returns fs.ErrExist when the key is taken. Of
// several callers at once, in one process or many, exactly one succeeds; when it
// returns nil the object is durable and whole.
//
// When the store gives no clear answer (a timeout, a 5xx) the object is read
// back: if it holds exactly data, PutNew succeeds, so two callers who write the
// same bytes may both believe that they won; whoever needs a single winner puts
// an id of its own into data. If it holds something else the answer is
// fs.ErrExist. If it is not there, or cannot be read, the answer is
// [ErrUnavailable] (or the caller's own context error), and the object may still
// appear.
func (b *Bucket) PutNew(ctx context.Context, key string, data []byte) error {
	err := b.put(ctx, PutNew, key, data)
	if !errors.Is(err, ErrUnavailable) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	there, readErr := b.Get(ctx, key)
	switch {
	case readErr != nil:
		return err
	case bytes.Equal(there, data):
		return nil
	default:
		return b.translate(ctx, PutNew, key, fmt.Errorf("somebody else's, seen after %s: %w", err.Error(), fs.ErrExist))
	}
}

func (b *Bucket) put(ctx context.Context, method Method, key string, data []byte) error {
	err := b.call(ctx, method, key, len(data), func(ctx *bounded, full string) error {
		return b.core.store.Put(ctx, full, data, method == PutNew)
	})
	if err == nil {
		b.core.meter.written.Add(int64(len(data)))
	}
	return err
}
