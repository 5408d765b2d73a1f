package watch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/opendata"
)

// buffer follows an OpenData buffer by reading its manifest, which is
// overwritten in place.
type buffer struct {
	*slate
	seen      string // hash of the manifest last taken, "" none; look's own
	listedAt  time.Time
	movedLast time.Time // under mu
}

func (b *buffer) turns() int { return 1 }

func (b *buffer) afresh() { b.seen = "" }

func (b *buffer) key() string { return b.root + "/" + opendata.BufferManifest }

func (b *buffer) look(ctx context.Context, _ bool) (bool, error) {
	raw, err := b.w.look.Get(ctx, b.key())
	if errors.Is(err, fs.ErrNotExist) {
		b.seen = ""
		return false, b.gone(ctx, layoutBuffer, b.key()+" is not there any more")
	}
	if err != nil {
		return false, err
	}
	hash := hexOf(sha256.Sum256(raw))
	if hash == b.seen {
		return false, nil
	}
	now, err := opendata.DecodeBuffer(raw)
	if err != nil {
		return b.takeTrouble(hash, err)
	}
	at := record{identity: identity{Layout: layoutBuffer, mark: mark{WriterEpoch: now.Epoch}, Position: now.NextSequence}}
	if _, err := b.identify(ctx, at, func(was record) (verdict, string, error) {
		if was.Layout != layoutBuffer {
			return another, "it was no buffer before", nil
		}
		v, why := continuousBuffer(was.WriterEpoch, was.Position, now.Epoch, now.NextSequence)
		return v, why, nil
	}); err != nil {
		return false, err
	}
	b.seen = hash
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.sight
	s.Root, s.Kind, s.KindFrom, s.Seen, s.Reason = b.root, catalog.KindBuffer, "layout", catalog.SeenLive, ""
	s.Lineage, s.PositionDomain = s.Incarnation, domainBuffer
	s.WriterEpoch, s.Backlog = ptr(now.Epoch), ptr(uint64(now.Backlog()))
	s.Position, s.TrimmedTo = nil, nil
	if now.NextSequence > 0 {
		s.Position = ptr(now.NextSequence - 1)
	}
	if first, ok := firstQueued(now); ok && first > 0 {
		s.TrimmedTo = ptr(first - 1)
	}
	b.movedLast = time.Now()
	b.tell()
	return true, nil
}

// firstQueued is the lowest sequence that is not acknowledged; of a drained
// buffer the next one to come.
func firstQueued(b opendata.Buffer) (uint64, bool) {
	if len(b.Entries) > 0 {
		return b.Entries[0].Sequence, true
	}
	return b.NextSequence, true
}

func (b *buffer) takeTrouble(hash string, err error) (bool, error) {
	b.seen = hash
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.sight
	s.Root, s.Kind, s.KindFrom, s.PositionDomain = b.root, catalog.KindBuffer, "layout", domainBuffer
	s.Seen, s.Reason = catalog.SeenUnreadable, fmt.Sprintf("%s: %v", b.key(), err)
	s.Position, s.Backlog = nil, nil // unknown, not what they were
	b.tell()
	return true, nil
}

func (b *buffer) upkeep(ctx context.Context) (time.Duration, error) {
	b.mu.Lock()
	live, moved, of := b.sight.Seen == catalog.SeenLive, b.movedLast, b.sight.Incarnation
	b.mu.Unlock()
	if age := time.Since(b.listedAt); live && (age >= listQuietEvery || age >= listEvery && moved.After(b.listedAt)) {
		began := time.Now()
		sizes, err := b.measure(ctx, b.root+"/", nil)
		if err != nil {
			return 0, err
		}
		b.listedAt = began
		b.tellSizes(of, sizes, true)
		b.mu.Lock()
		b.sight.Bytes = b.sight.ListedBytes
		b.tell()
		b.mu.Unlock()
	}
	return listEvery, nil
}
