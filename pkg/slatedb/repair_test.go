package slatedb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// rewrite puts a changed manifest as the next one, as somebody else does.
func rewrite(t *testing.T, a *slatedb.Admin, change func(*manifest.Manifest)) *slatedb.Head {
	t.Helper()
	h, err := slatedb.Latest(t.Context(), a.Store, "db")
	if err != nil {
		t.Fatal(err)
	}
	m := h.Manifest.Clone()
	change(m)
	raw, err := manifest.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Store.PutNew(t.Context(), slatedb.ManifestKey("db", h.ID+1), raw); err != nil {
		t.Fatal(err)
	}
	if h, err = slatedb.Latest(t.Context(), a.Store, "db"); err != nil {
		t.Fatal(err)
	}
	return h
}

// old0121 writes the manifest as release 0.12 does: it knows no filter formats
// and no segments.
func old0121(m *manifest.Manifest) {
	m.Version, m.Segments, m.ExtractorName = manifest.V1, nil, ""
	for i := range m.L0 {
		m.L0[i].Info.FilterFormat, m.L0[i].ViewID = 0, m.L0[i].ID
	}
	for r := range m.Runs {
		m.Runs[r].Tables = slices.Clone(m.Runs[r].Tables)
		for i := range m.Runs[r].Tables {
			m.Runs[r].Tables[i].Info.FilterFormat, m.Runs[r].Tables[i].ViewID = 0, m.Runs[r].Tables[i].ID
		}
	}
}

func codes(found []slatedb.Finding) []slatedb.Code {
	var all []slatedb.Code
	for _, f := range found {
		all = append(all, f.Code)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var stopped = slatedb.RepairOptions{WriterStopped: true, Watch: time.Millisecond}

func TestARepairPatchesTheNewestManifestAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		fixture string
		code    slatedb.Code
	}{
		{"0.13.1/codec-none", slatedb.FilterFormatMismatch}, {"0.17.0/compacted", slatedb.FilterFormatMismatch}, {"0.14.1/prefix-filter", slatedb.FilterFormatMismatch},
		{"0.14.1/segments", slatedb.SegmentsLost}, {"0.17.0/segments", slatedb.SegmentsLost},
	} {
		t.Run(c.fixture, func(t *testing.T) {
			a, _ := aged(t, c.fixture, time.Minute)
			before := contents(t, a.Store)
			good, err := slatedb.Latest(t.Context(), a.Store, "db")
			if err != nil {
				t.Fatal(err)
			}
			damaged := rewrite(t, a, func(m *manifest.Manifest) {
				old0121(m)
				m.WriterEpoch += 3
			})
			// Somebody holds the damaged state; that stays.
			held, _, err := a.CreateCheckpoint(t.Context(), slatedb.CheckpointOptions{Name: "since the damage"})
			if err != nil {
				t.Fatal(err)
			}
			dry, err := a.Repair(t.Context(), slatedb.RepairOptions{DryRun: true})
			if err != nil || len(dry.Cured) == 0 || len(dry.Cure) == 0 || dry.Written != 0 {
				t.Fatalf("dry: %+v %v", dry, err)
			}
			if h, err := slatedb.Latest(t.Context(), a.Store, "db"); err != nil || h.ID != damaged.ID+1 {
				t.Fatalf("a dry repair wrote manifest %d (%v)", h.ID, err)
			}
			if _, err := a.Repair(t.Context(), slatedb.RepairOptions{Watch: time.Millisecond}); !errors.Is(err, slatedb.ErrMayBeIdle) || !slatedb.Refused(err) {
				t.Errorf("nobody vouches for the writer: %v", err)
			}
			if done, err := a.Repair(t.Context(), slatedb.RepairOptions{Only: []slatedb.Code{slatedb.BoundaryAhead}, WriterStopped: true}); err != nil || done.Written != 0 {
				t.Errorf("another finding was asked for: %+v %v", done, err)
			}
			done, err := a.Repair(t.Context(), stopped)
			if err != nil {
				t.Fatal(err)
			}
			if got := codes(done.Cured); !slices.Contains(got, c.code) || done.Written != damaged.ID+2 {
				t.Errorf("cured %v in manifest %d, expected %s", got, done.Written, c.code)
			}
			h, err := slatedb.Latest(t.Context(), a.Store, "db")
			if err != nil {
				t.Fatal(err)
			}
			m := h.Manifest
			if m.WriterEpoch != good.Manifest.WriterEpoch+3 || m.Checkpoint(held.ID) < 0 || len(m.Checkpoints) != len(good.Manifest.Checkpoints)+1 || m.ExtractorName != good.Manifest.ExtractorName {
				t.Errorf("after the repair: %+v", m.JSON(h.ID))
			}
			equalRows(t, "after the repair", contents(t, a.Store), before)
			// What the checkpoint pins nobody can write again; it says so.
			for _, f := range done.Left {
				if f.Code != slatedb.FilterFormatMismatch || f.Repair {
					t.Errorf("left: %v", f)
				}
			}
		})
	}
}

func TestARepairWithItsOwnFenceStopsTheWriterAndLosesNothing(t *testing.T) {
	b := memory(t)
	a := admin(b)
	w := openWriter(t, b, slatedb.Options{})
	put(t, w, "a", "1")
	if err := b.Put(t.Context(), slatedb.BoundaryKey("db"), []byte("7")); err != nil {
		t.Fatal(err)
	}
	done, err := a.Repair(t.Context(), slatedb.RepairOptions{Fence: true})
	if err != nil {
		t.Fatal(err)
	}
	if done.Written != 8 || done.WALID == 0 || len(done.Left) > 0 {
		t.Errorf("repaired: %+v", done)
	}
	ids, err := slatedb.ManifestIDs(t.Context(), b, "db")
	if err != nil || len(ids) != 8 {
		t.Errorf("ids without a gap: %v %v", ids, err)
	}
	if _, err := w.Put(t.Context(), []byte("b"), []byte("2")); !errors.Is(err, slatedb.ErrFenced) {
		t.Errorf("the writer goes on: %v", err)
	}
	again := openWriter(t, b, slatedb.Options{})
	put(t, again, "c", "3")
	equalRows(t, "afterwards", contents(t, b), map[string]string{"a": "1", "c": "3"})
	whole(t, b)
}

// moves does something while a repair looks whether anything moves.
type moves struct {
	slatedb.AdminStore
	seen int
	do   func()
}

func (m *moves) Walk(ctx context.Context, prefix, after string, each func(string, int64, time.Time) error) error {
	err := m.AdminStore.Walk(ctx, prefix, after, each)
	if prefix == "db/wal/" && m.do != nil {
		if m.seen++; m.seen > 2 { // the look of verify, and the first one
			do := m.do
			m.do = nil
			do()
		}
	}
	return err
}

func TestARepairRefusesWhileAWriterMovesWhateverItWasTold(t *testing.T) {
	a, _ := aged(t, "0.13.1/codec-none", time.Minute)
	w := openWriter(t, a.Store, slatedb.Options{})
	rewrite(t, a, old0121)
	m := &moves{AdminStore: a.Store, do: func() { put(t, w, "moves", "x") }}
	a.Store = m
	o := stopped
	o.Watch = 20 * time.Millisecond
	_, err := a.Repair(t.Context(), o)
	if m.do == nil && err == nil {
		t.Error("a repair under a moving writer")
	}
	if !errors.Is(err, slatedb.ErrMoving) {
		t.Errorf("%v", err)
	}
}

func TestARepairNamesNoObjectThatIsNotThere(t *testing.T) {
	a, _ := aged(t, "0.17.0/segments", time.Minute)
	good, err := slatedb.Latest(t.Context(), a.Store, "db")
	if err != nil {
		t.Fatal(err)
	}
	h := rewrite(t, a, old0121)
	var gone string
	good.Manifest.Tables(func(table *manifest.Table) { gone = slatedb.TableKey("db", table.ID) })
	remove(t, a, gone) // a collector was here
	_, err = a.Repair(t.Context(), stopped)
	if !errors.Is(err, slatedb.ErrMissing) {
		t.Errorf("%v", err)
	}
	if now, err := slatedb.Latest(t.Context(), a.Store, "db"); err != nil || now.ID != h.ID {
		t.Errorf("manifest %d was written (%v)", now.ID, err)
	}
}

// Rows that 0.12 has flushed since into the root are in no manifest with
// segments: then no manifest is the cure, and none is offered.
func TestSegmentsAreNotPutBackOverRowsWrittenSince(t *testing.T) {
	a, _ := aged(t, "0.17.0/segments", time.Minute)
	rewrite(t, a, func(m *manifest.Manifest) {
		var some manifest.Table
		m.Tables(func(table *manifest.Table) { some = *table })
		old0121(m)
		m.L0 = []manifest.Table{some}
		m.L0[0].ViewID = m.L0[0].ID
	})
	rep, err := slatedb.Verify(t.Context(), a.Store, "db", slatedb.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range rep.Findings {
		if f.Code == slatedb.SegmentsLost && f.Repair {
			t.Errorf("offered: %v", f)
		}
	}
	done, err := a.Repair(t.Context(), slatedb.RepairOptions{Only: []slatedb.Code{slatedb.SegmentsLost}, WriterStopped: true, Watch: time.Millisecond})
	if err != nil || done.Written != 0 || !slices.Contains(codes(done.Left), slatedb.SegmentsLost) {
		t.Errorf("%+v %v", done, err)
	}
}

// A repair that dies before its last manifest is begun again.
func TestARefillMayBeStoppedAnywhere(t *testing.T) {
	for n := range 6 {
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
		if err := b.Put(t.Context(), slatedb.BoundaryKey("db"), fmt.Append(nil, h.ID+4)); err != nil {
			t.Fatal(err)
		}
		_, err = admin(failsAfter(b, n)).Repair(t.Context(), stopped)
		if (err == nil) != (n == 5) || err != nil && !errors.Is(err, errDown) {
			t.Fatalf("after %d puts: %v", n, err)
		}
		if _, err := admin(b).Repair(t.Context(), stopped); err != nil {
			t.Fatalf("again after %d puts: %v", n, err)
		}
		whole(t, b)
		equalRows(t, "after the repair", contents(t, b), map[string]string{"a": "1"})
		put(t, openWriter(t, b, slatedb.Options{}), "b", "2")
	}
}
