package slatedb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	store "github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Writers up to 0.15 claim WAL ids before they put them. What such a one leaves
// when it crashes is no hole, and verification says what it cannot know; a
// checkpoint of it ends where the WAL does, and so it stays when others go on.
func TestIdsClaimedAtTheEndOfTheWALAreNoHole(t *testing.T) {
	p := copyOf(t, "0.12.1/expired")
	claimed := p.head.Manifest.WALLastSeen
	if claimed <= p.head.Manifest.ReplayAfterWAL || p.head.Manifest.Version != manifest.V1 {
		t.Fatalf("the fixture is another than it was: %+v", p.head.Manifest)
	}
	p.remove(slatedb.WALKey("db", claimed))
	verified := func(when string, want uint64) {
		t.Helper()
		rep, err := slatedb.Verify(t.Context(), p, "db", slatedb.VerifyOptions{Checksums: true})
		if err != nil || !rep.OK() || rep.WALClaimed != want {
			t.Fatalf("%s: %v, %d claimed, want %d, %v", when, err, rep.WALClaimed, want, rep.Findings)
		}
	}
	rows := func(o slatedb.ReaderOptions) []slatedb.Entry {
		t.Helper()
		r, err := slatedb.OpenReader(t.Context(), p, "db", o)
		if err != nil {
			t.Fatal(err)
		}
		return scan(t, r, nil, nil)
	}
	verified("crashed", claimed)
	before := rows(slatedb.ReaderOptions{})

	b, err := store.Open(t.Context(), "file://"+p.Path(""))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	admin := slatedb.Admin{Store: b, Root: "db"}
	// One as SlateDB's own Admin makes it, which leaves the ids alone.
	m := p.head.Manifest.Clone()
	theirs := manifest.Checkpoint{ID: uuid.New(), ManifestID: p.head.ID, Create: time.Now().Truncate(time.Second).UTC(), Name: "theirs", Named: true}
	m.Checkpoints = append(m.Checkpoints, theirs)
	raw, err := manifest.Encode(m)
	if err == nil {
		err = b.PutNew(t.Context(), slatedb.ManifestKey("db", p.head.ID+1), raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	verified("with a checkpoint of theirs", claimed)
	if got := rows(slatedb.ReaderOptions{Checkpoint: "theirs"}); len(got) != len(before) {
		t.Errorf("%d rows in the checkpoint of theirs, there were %d", len(got), len(before))
	}
	if _, err := admin.DeleteCheckpoint(t.Context(), theirs.ID); err != nil {
		t.Fatal(err)
	}

	_, id, err := admin.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "ours"})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := slatedb.At(t.Context(), b, "db", id); err != nil || h.Manifest.WALLastSeen >= claimed {
		t.Fatalf("the checkpoint's WAL ends at %d, which is not there: %v", h.Manifest.WALLastSeen, err)
	}
	verified("with a checkpoint of ours", 0)
	w, err := slatedb.Open(t.Context(), b, "db", slatedb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Put(t.Context(), []byte("afterwards"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.Abandon()
	verified("somebody went on", 0)
	if got := rows(slatedb.ReaderOptions{Checkpoint: "ours"}); len(got) != len(before) {
		t.Errorf("%d rows in the checkpoint of ours, there were %d", len(got), len(before))
	}
	if got := rows(slatedb.ReaderOptions{}); len(got) != len(before)+1 {
		t.Errorf("%d rows after one more, there were %d", len(got), len(before))
	}
}
