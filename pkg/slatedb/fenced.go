package slatedb

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrFenced is wrapped by every *[FencedError].
	ErrFenced = errors.New("another writer has taken over")
	// ErrClosed is returned by a writer that was closed.
	ErrClosed = errors.New("the writer is closed")
)

// FencedError says that a writer is one no longer: nothing it writes from then
// on is in the database, and nothing that it acknowledged before is lost.
type FencedError struct {
	Root  string
	Epoch uint64 // ours
	// By is the epoch that took over, 0 when nobody has claimed one: then
	// somebody has only put an object at our next WAL id.
	By uint64
	// Object is what told us: a manifest or a WAL object.
	Object string
	At     time.Time // the store's time of Object; zero: not known
}

func (e *FencedError) Error() string {
	who := "somebody who claimed no epoch"
	if e.By != 0 {
		who = fmt.Sprintf("epoch %d", e.By)
	}
	when := ""
	if !e.At.IsZero() {
		when = " at " + e.At.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("writer of %s, epoch %d: %v: %s wrote %s%s", named(e.Root), e.Epoch, ErrFenced, who, e.Object, when)
}

// Unwrap returns [ErrFenced].
func (e *FencedError) Unwrap() error { return ErrFenced }

// deposed returns the error for a manifest with another writer's epoch.
func deposed(ctx context.Context, s Store, h *Head, epoch uint64) *FencedError {
	e := &FencedError{Root: h.Root, Epoch: epoch, By: h.Manifest.WriterEpoch, Object: ManifestKey(h.Root, h.ID), At: h.Modified}
	if e.At.IsZero() {
		_, e.At, _ = s.Stat(ctx, e.Object) // the time is for people
	}
	return e
}

// outrun returns the error for a WAL id of ours that somebody else took.
func outrun(ctx context.Context, s, wal Store, root string, id, epoch uint64) error {
	h, err := Latest(ctx, s, root)
	if err == nil && h.Manifest.WriterEpoch != epoch {
		return deposed(ctx, s, h, epoch)
	}
	e := &FencedError{Root: root, Epoch: epoch, Object: WALKey(root, id)}
	_, e.At, _ = wal.Stat(ctx, e.Object)
	if h != nil && h.Pill != nil {
		return fmt.Errorf("%w: %w", e, h.Pill)
	}
	return e
}
