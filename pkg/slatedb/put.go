package slatedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
)

// WriteStore is a [Store] that can be written. *bucket.Bucket is one.
type WriteStore interface {
	Store
	// PutNew creates an object or returns an error that wraps
	// [fs.ErrExist] when the key is taken; of several callers, in whatever
	// process, exactly one succeeds. Nil means durable and whole. After
	// any other error the object may be there, or may come to be there.
	PutNew(ctx context.Context, key string, data []byte) error
}

// ErrUncertain is wrapped when the store did not say whether it took an
// object: what was to be written may be there, now or later.
var ErrUncertain = errors.New("the store gave no answer, it is not known whether this was written")

// Whether a put of ours won is decided by the bytes of the object: after a put
// without an answer the object is read back and compared. So no two attempts
// of different writers may propose the same bytes for one key.
//
// Writer epochs alone do not see to that. Two processes that open one database
// at once propose the same manifest (the same state, epoch + 1) until one has
// won, and two replicas that log the same fact in the same millisecond can
// propose the same WAL object. SlateDB has a put id in the object's metadata
// for it, which not every store keeps and which folders could only keep in
// objects beside it. So the put id, 16 random bytes, is in the object, where no
// reader looks: behind the last byte of a manifest's buffer, between index and
// info of a WAL object, before the index of a fence. Tables need none, their
// names are random. An attempt keeps its bytes for as long as it is repeated,
// and a new proposal gets a new id.

// putID returns a new put id.
func putID() [16]byte { return uuid.New() }

// patience is how long an unanswered put is repeated.
const patience = 30 * time.Second

// putNew creates an object and finds out about it: nil means that data is there
// and was put by this call, an error that wraps [fs.ErrExist] that somebody
// else's is, one that wraps [ErrUncertain] that nobody knows. All other errors
// mean that nothing was written.
func putNew(ctx context.Context, s WriteStore, key string, data []byte) error {
	return putWithin(ctx, s, key, data, patience)
}

func putWithin(ctx context.Context, s WriteStore, key string, data []byte, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	uncertain := false
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := s.PutNew(ctx, key, data)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrExist):
			if !uncertain {
				return err
			}
			// Perhaps it was an earlier attempt of ours that came late.
			there, readErr := s.Get(ctx, key)
			if readErr == nil {
				if bytes.Equal(there, data) {
					return nil
				}
				return err
			}
			err = readErr
		case !uncertain && (errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrInvalid)):
			return err
		default:
			uncertain = true
		}
		if ctx.Err() != nil || time.Now().Add(pause).After(deadline) {
			return fmt.Errorf("put %s: %w: %w", key, ErrUncertain, err)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}
