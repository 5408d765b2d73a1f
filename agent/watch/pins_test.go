package watch

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// segmentOf are the rows of a log's segment with ten entries.
func segmentOf(id uint32) (meta []byte, start []byte, entries [][]byte) {
	meta = binary.BigEndian.AppendUint32([]byte{3, 1, 0, 0, 0, 0, 0x30}, id)
	start = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(id-1)*10), 1)
	for rel := range byte(10) {
		key := append(binary.BigEndian.AppendUint32([]byte{3, 1}, id), 0x10, 'k', 0, rel)
		entries = append(entries, key)
	}
	return meta, start, entries
}

// owner is the owner of a log, who appends segments of ten and cuts them.
type owner struct {
	t  *testing.T
	db *slatedb.Writer
}

func ownLog(t *testing.T, b *bucket.Bucket, root string) *owner {
	t.Helper()
	db, err := slatedb.Open(t.Context(), b, root, slatedb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &owner{t, db}
}

func (o *owner) change(rows func(*slatedb.Batch)) {
	o.t.Helper()
	b := new(slatedb.Batch)
	rows(b)
	if _, err := o.db.Write(o.t.Context(), b); err != nil {
		o.t.Fatal(err)
	}
}

func (o *owner) append(id uint32) {
	o.t.Helper()
	meta, start, entries := segmentOf(id)
	o.change(func(b *slatedb.Batch) {
		b.Put(meta, start)
		for _, e := range entries {
			b.Put(e, []byte("v"))
		}
	})
}

func (o *owner) cut(id uint32) {
	o.t.Helper()
	meta, _, entries := segmentOf(id)
	o.change(func(b *slatedb.Batch) {
		b.Delete(meta)
		for _, e := range entries {
			b.Delete(e)
		}
	})
}

func holdIt(t *testing.T, b *bucket.Bucket, root, purpose string) string {
	t.Helper()
	cp, _, err := (&slatedb.Admin{Store: b, Root: root}).CreateCheckpoint(context.Background(), slatedb.CheckpointOptions{Name: catalog.NameHold(purpose, "d")})
	if err != nil {
		t.Fatal(err)
	}
	return cp.ID.String()
}

// A hold on a log counts as the log does: it is told with the position of the
// newest entry in it, and what was cut between two of them is a finding.
func TestHoldsOfALogCountAsTheLogDoesAndShowWhatWasCutBetween(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		log := ownLog(t, r.b, "logs/a")
		defer log.db.Abandon()
		log.append(1)
		first := holdIt(t, r.b, "logs/a", "trim")
		defer r.start()()
		wait(10 * time.Minute)
		s := r.hub.sight(t, "logs/a")
		if s.Kind != catalog.KindLog || deref(s.Position) != uint64(9) {
			t.Fatalf("%s at %d, %+v", s.Kind, deref(s.Position), s)
		}
		p := r.hub.pins[catalog.PinKey("logs/a", first)]
		if deref(p.Position) != uint64(9) || p.PositionDomain != "log-seq" || p.HeldBytes == nil || p.Lineage != s.Lineage || p.Name != "quarry:trim:d" {
			t.Errorf("told %+v", p)
		}
		if rp := r.hub.points[catalog.RestorePointKey("logs/a", first)]; deref(rp.Position) != uint64(9) || rp.PositionDomain != "log-seq" || rp.State != catalog.RestoreVerified {
			t.Errorf("told %+v", rp)
		}
		gaps := func() (all []string) {
			for _, f := range r.hub.finds {
				if f.Code == "history-gap" {
					all = append(all, f.Object+": "+f.What)
				}
			}
			slices.Sort(all)
			return all
		}
		log.append(2)
		log.cut(1)
		wait(30 * time.Minute)
		if g := gaps(); len(g) != 0 {
			t.Errorf("nothing was cut beyond the hold: %v", g)
		}
		log.append(3)
		log.cut(2)
		wait(30 * time.Minute)
		if g := gaps(); len(g) != 1 || !strings.Contains(g[0], first+": the log was cut up to 19") || !strings.Contains(g[0], "the log itself") {
			t.Errorf("10 to 19 are gone: %v", g)
		}
		second := holdIt(t, r.b, "logs/a", "trim")
		wait(30 * time.Minute)
		if g := gaps(); len(g) != 1 || !strings.Contains(g[0], "and hold "+second+" begins after the cut") {
			t.Errorf("the gap is between the two: %v", g)
		}
		if p := r.hub.pins[catalog.PinKey("logs/a", second)]; deref(p.Position) != uint64(29) {
			t.Errorf("told %+v", p)
		}
	})
}

// A copy has the positions of what it was copied from until somebody writes to
// it; another database that is made at its root later has its own.
func TestACopyHasTheLineageOfItsSourceUntilItIsWrittenTo(t *testing.T) {
	const source = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
	story(t, func(t *testing.T, r *region) {
		from, err := slatedb.Open(t.Context(), r.b, "elsewhere/db", slatedb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer from.Abandon()
		if _, err := from.Put(t.Context(), []byte("k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
		record := func(c slatedb.Copied, root, lineage string) {
			sum := hex.EncodeToString(c.Head.SHA256[:])
			raw, err := json.Marshal(catalog.LineageRecord{Version: 1, Root: root, ManifestSHA256: sum, Source: catalog.LineageSource{Root: "dbs/orders", Incarnation: source, Lineage: lineage}})
			if err == nil {
				err = r.b.PutNew(t.Context(), catalog.LineageKey(root, sum), raw)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		duplicate := func(root, lineage string) {
			t.Helper()
			_, err := (&slatedb.Admin{Store: r.b, Root: "elsewhere/db"}).Copy(t.Context(), slatedb.CopyOptions{To: r.b, ToRoot: root, Commit: func(_ context.Context, c slatedb.Copied) error {
				record(c, root, lineage)
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		duplicate("dbs/a", "")
		holdIt(t, r.b, "dbs/a", "trim") // it is past manifest 1 when it is first seen
		stop := r.start()
		wait(time.Minute)
		a := r.hub.sight(t, "dbs/a")
		if a.Lineage != source || a.Incarnation == source {
			t.Errorf("%+v", a)
		}
		duplicate("dbs/b", "01BX5ZZKBKACTAV9WEVGEMMVRZ") // while the agent runs, a copy of a copy
		wait(30 * time.Minute)
		if b := r.hub.sight(t, "dbs/b"); b.Lineage != "01BX5ZZKBKACTAV9WEVGEMMVRZ" {
			t.Errorf("%+v", b)
		}
		if other := r.hub.sight(t, "elsewhere/db"); other.Lineage != other.Incarnation {
			t.Errorf("%+v", other)
		}
		stop()

		stop = r.start() // what is recorded of it is read again
		wait(time.Minute)
		if again := r.hub.sight(t, "dbs/a"); again.Lineage != source || again.Incarnation != a.Incarnation {
			t.Errorf("after a restart %+v", again)
		}
		w, err := slatedb.Open(t.Context(), r.b, "dbs/a", slatedb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abandon()
		if _, err := w.Put(t.Context(), []byte("k"), []byte("its own")); err != nil {
			t.Fatal(err)
		}
		wait(30 * time.Minute)
		now := r.hub.sight(t, "dbs/a")
		if now.Incarnation != a.Incarnation || now.Lineage != now.Incarnation {
			t.Errorf("it was written to, and is still compared: %+v", now)
		}
		for _, p := range r.hub.points {
			if p.Root == "dbs/a" && p.Lineage != now.Lineage {
				t.Errorf("a restore point of it is still compared: %+v", p)
			}
		}
		stop()
	})
}
