package slatedb_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb"
)

func admin(s slatedb.AdminStore) *slatedb.Admin { return &slatedb.Admin{Store: s, Root: "db"} }

func TestAFencedWriterLosesNothingAndWritesNothing(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	put(t, w, "a", "1")
	f, err := admin(b).Fence(t.Context(), slatedb.FenceOptions{Checkpoint: "deleting:test"})
	if err != nil {
		t.Fatal(err)
	}
	if f.WriterEpoch != 2 || f.CompactorEpoch != 1 || f.Checkpoint == nil {
		t.Errorf("fence: %+v", f)
	}
	_, err = w.Put(t.Context(), []byte("b"), []byte("2"))
	if fenced, ok := errors.AsType[*slatedb.FencedError](err); !ok || fenced.By != 2 {
		t.Fatalf("put of a fenced writer: %v", err)
	}
	want := map[string]string{"a": "1"}
	equalRows(t, "after the fence", contents(t, b), want)
	whole(t, b)
	// The checkpoint has the row that was only in the WAL, and goes on having
	// it when the database goes on.
	again := openWriter(t, b, slatedb.Options{})
	put(t, again, "c", "3")
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{Checkpoint: "deleting:test"})
	if err != nil {
		t.Fatal(err)
	}
	equalRows(t, "the checkpoint", scanned(t, r), want)
}

// What a writer puts between the manifest of a fence and its WAL object was
// acknowledged, and the checkpoint of the fence has it.
func TestTheCheckpointOfAFenceHasWhatWasPutMeanwhile(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	put(t, w, "a", "1")
	between := &betweenPuts{AdminStore: b, after: "manifest/", do: func() { put(t, w, "late", "2") }}
	if _, err := admin(between).Fence(t.Context(), slatedb.FenceOptions{Checkpoint: "c"}); err != nil {
		t.Fatal(err)
	}
	r, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{Checkpoint: "c"})
	if err != nil {
		t.Fatal(err)
	}
	equalRows(t, "the checkpoint", scanned(t, r), map[string]string{"a": "1", "late": "2"})
}

func TestAPillShutsTheDatabaseAndUnpillOpensItWithEveryRow(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	put(t, w, "a", "1")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := admin(b)
	if _, err := a.Unpill(t.Context()); !errors.Is(err, slatedb.ErrNotPilled) || !slatedb.Refused(err) {
		t.Errorf("unpill of an open database: %v", err)
	}
	if _, err := a.Pill(t.Context(), slatedb.PillOptions{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a pill without a reason: %v", err)
	}
	before, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.Pill(t.Context(), slatedb.PillOptions{Reason: "moving house", By: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != before.ID+1 || p.Boundary != p.ID-2 {
		t.Errorf("pill %+v after manifest %d: it follows directly, and the mark is two below", p, before.ID)
	}
	h, err := slatedb.Latest(t.Context(), b, "db")
	if h == nil || h.Pill == nil || !strings.Contains(h.Pill.Reason, "moving house") || !strings.Contains(h.Pill.Reason, "ann") {
		t.Fatalf("the pill does not say why: %+v %v", h, err)
	}
	for what, try := range map[string]func() error{
		"open":       func() error { _, err := slatedb.Open(t.Context(), b, "db", slatedb.Options{}); return err },
		"read":       func() error { _, err := slatedb.OpenReader(t.Context(), b, "db", slatedb.ReaderOptions{}); return err },
		"checkpoint": func() error { _, _, err := a.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{}); return err },
		"fence":      func() error { _, err := a.Fence(t.Context(), slatedb.FenceOptions{}); return err },
		"collect":    func() error { _, err := a.Collect(t.Context(), slatedb.CollectOptions{}); return err },
		"pill":       func() error { _, err := a.Pill(t.Context(), slatedb.PillOptions{Reason: "again"}); return err },
	} {
		if err := try(); err == nil || !slatedb.Refused(err) {
			t.Errorf("%s under a pill: %v", what, err)
		}
	}
	now, err := a.Unpill(t.Context())
	if err != nil || now.ID != before.ID {
		t.Fatalf("unpill: %+v %v", now, err)
	}
	equalRows(t, "after the undo", contents(t, b), map[string]string{"a": "1"})
	put(t, openWriter(t, b, slatedb.Options{}), "b", "2")
	equalRows(t, "written again", contents(t, b), map[string]string{"a": "1", "b": "2"})
}

func TestUnpillRefusesOnceTheRemovalHasBegun(t *testing.T) {
	b := memory(t)
	w := openWriter(t, b, slatedb.Options{})
	put(t, w, "a", "1")
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil {
		t.Fatal(err)
	}
	a := admin(b)
	p, err := a.Pill(t.Context(), slatedb.PillOptions{Reason: "r"})
	if err != nil {
		t.Fatal(err)
	}
	// A mark that somebody set too high: every open would spin.
	if err := b.Put(t.Context(), slatedb.BoundaryKey("db"), []byte("99")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Unpill(t.Context()); !errors.Is(err, slatedb.ErrBoundaryAhead) {
		t.Errorf("unpill under a mark of 99: %v", err)
	}
	if err := b.Put(t.Context(), slatedb.BoundaryKey("db"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), slatedb.TableKey("db", h.Manifest.L0[0].ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Unpill(t.Context()); !errors.Is(err, slatedb.ErrMissing) {
		t.Errorf("unpill of a database without its tables: %v", err)
	}
	if h, _ := slatedb.Latest(t.Context(), b, "db"); h.Pill == nil || h.ID != p.ID {
		t.Errorf("the pill is gone")
	}
}

// Who writes a segmented database is fenced like others: no row is written.
func TestASegmentedDatabaseIsFencedHeldAndCopied(t *testing.T) {
	b := original(t, "0.17.0/segments")
	want := contents(t, b)
	a := admin(b)
	f, err := a.Fence(t.Context(), slatedb.FenceOptions{Checkpoint: "c"})
	if err != nil {
		t.Fatal(err)
	}
	h, err := slatedb.Latest(t.Context(), b, "db")
	if err != nil || h.Manifest.ExtractorName == "" || len(h.Manifest.Segments) == 0 || h.ID != f.ManifestID {
		t.Errorf("after the fence: %+v %v", h, err)
	}
	equalRows(t, "after the fence", contents(t, b), want)
	whole(t, b)
}

// The WAL in a store of its own is fenced there.
func TestAWALInAStoreOfItsOwnIsFencedThere(t *testing.T) {
	b, wal := memory(t), memory(t)
	w := openWriter(t, b, slatedb.Options{WALStore: wal})
	put(t, w, "a", "1")
	a := &slatedb.Admin{Store: b, Root: "db", WALStore: wal}
	if _, err := a.Fence(t.Context(), slatedb.FenceOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Put(t.Context(), []byte("b"), []byte("2")); !errors.Is(err, slatedb.ErrFenced) {
		t.Errorf("put of a fenced writer: %v", err)
	}
}
