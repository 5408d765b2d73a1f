package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// overtaken lets somebody raise the mark between our look and our replacement.
type overtaken struct {
	*store.Bucket
	to   atomic.Uint64
	seen []uint64 // what the mark was after each call of ours
}

func (o *overtaken) Replace(ctx context.Context, key string, data []byte, version string) error {
	if to := o.to.Swap(0); to > 0 {
		if err := o.Bucket.Put(ctx, key, strconv.AppendUint(nil, to, 10)); err != nil {
			return err
		}
	}
	err := o.Bucket.Replace(ctx, key, data, version)
	is, readErr := slatedb.Boundary(ctx, o.Bucket, "db")
	o.seen = append(o.seen, is)
	return errors.Join(err, readErr)
}

// A collector that raises the boundary while ours is at it is never undone, not
// for a moment.
func TestABoundaryRaisedByOthersStays(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	for i := range 12 {
		put(t, w, fmt.Sprint("k", i), "v")
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.PutNew(t.Context(), slatedb.BoundaryKey("db"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	o := &overtaken{Bucket: b}
	theirs := h.ID - 1
	o.to.Store(theirs)
	a := slatedb.Admin{Store: o, Root: "db", Now: func() time.Time { return time.Now().Add(48 * time.Hour) }}
	if _, err := a.Pill(t.Context(), slatedb.PillOptions{Reason: "to be moved"}); err != nil {
		t.Fatal(err)
	}
	if len(o.seen) == 0 {
		t.Fatal("the boundary was never replaced: this tests nothing")
	}
	for _, is := range o.seen {
		if is < theirs {
			t.Errorf("the boundary was %d, somebody had raised it to %d", is, theirs)
		}
	}
}

// Where the store cannot replace on a condition the mark is raised all the same.
func TestABoundaryIsRaisedWithoutConditions(t *testing.T) {
	b, faults := faulty.New(memory(t))
	w := openWriter(t, b, slatedb.Options{})
	put(t, w, "k", "v")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.PutNew(t.Context(), slatedb.BoundaryKey("db"), []byte("0")); err != nil {
		t.Fatal(err)
	}
	faults.Add(faulty.Fault{Method: store.Replace, Times: -1, Err: errors.ErrUnsupported})
	if _, err := admin(b).Pill(t.Context(), slatedb.PillOptions{Reason: "to be moved"}); err != nil {
		t.Fatal(err)
	}
	if is, err := slatedb.Boundary(t.Context(), b, "db"); err != nil || is == 0 {
		t.Errorf("the boundary is %d: %v", is, err)
	}
}
