package snapshots_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/snapshots"
	"github.com/quarry-db/quarry/pkg/snapshots/snapshotstest"
)

func mem(t testing.TB) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(context.Background(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func verified(t testing.TB, b *bucket.Bucket, prefix string) snapshots.Partition {
	t.Helper()
	p, err := snapshots.Verify(context.Background(), b, prefix, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func allowed(context.Context) error { return nil }

// carryOut does what an agent does with a plan.
func carryOut(ctx context.Context, b *bucket.Bucket, plan snapshots.PrunePlan) error {
	if err := plan.MovePointer(ctx, b); err != nil {
		return err
	}
	for _, f := range plan.Folders {
		if _, _, err := plan.RemoveFolder(ctx, b, f, allowed); err != nil {
			return err
		}
	}
	return nil
}

func at(n uint64) *uint64 { return &n }

// RS-7, RS-8: what may go, what must not, and why.
func TestRS7_PruningKeepsWhatThePolicyKeeps(t *testing.T) {
	later := time.Now().Add(100 * time.Hour)
	for _, c := range []struct {
		name string
		p    snapshotstest.Partition
		want snapshots.Pruning
		now  time.Time
		err  error
		left []uint64 // positions that the pointer lists then
		gone int      // folders
	}{
		{name: "the oldest of four goes, three whole ones stay", p: four(), left: []uint64{80, 60, 40}, gone: 1,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 3, Floor: at(40)}},
		{name: "without a floor the lowest is not lifted", p: four(), err: snapshots.ErrAboveFloor,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 3}},
		{name: "a floor below what would be lowest stops it", p: four(), err: snapshots.ErrAboveFloor,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 3, Floor: at(39)}},
		{name: "one from the middle lifts nothing and needs no floor", p: four(), left: []uint64{80, 60, 20}, gone: 1,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(40)}, Keep: 3}},
		{name: "two of four are one too many when three must stay", p: four(), err: snapshots.ErrBelowMinimum,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20), snapshotstest.Folder(40)}, Keep: 3, Floor: at(60)}},
		{name: "incomplete ones do not count as kept", p: four(60), err: snapshots.ErrBelowMinimum,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 3, Floor: at(40)}},
		{name: "an incomplete one may go", p: four(60), left: []uint64{80, 40, 20}, gone: 1,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(60)}, Keep: 3}},
		{name: "the newest never goes", p: four(), err: snapshots.ErrWouldLoseLast,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(80)}, Keep: 1}},
		{name: "the last whole one never goes, whatever is asked", p: four(80, 60, 40), err: snapshots.ErrWouldLoseLast,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Floor: at(99)}},
		{name: "a path out of the partition is not taken", p: four(), err: snapshots.ErrNotAsMeant,
			want: snapshots.Pruning{Remove: []string{"../1/x"}, Keep: 1}},
		{name: "a young folder above the pointer is waited for", p: with(four(), 90), err: snapshots.ErrMayBeUploading, now: time.Now(),
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 1, Floor: at(99), Grace: time.Hour}},
		{name: "whatever grace a decision gives, it is waited for", p: with(four(), 90), err: snapshots.ErrMayBeUploading, now: time.Now().Add(snapshots.LeastGrace / 2),
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 1, Floor: at(99), Grace: time.Millisecond}},
		{name: "and none so young is swept", p: with(four(), 50), left: []uint64{80, 60, 40, 20}, gone: 0, now: time.Now().Add(snapshots.LeastGrace / 2),
			want: snapshots.Pruning{Keep: 3, SweepOrphans: true, OrphansOlder: time.Millisecond, Grace: time.Millisecond}},
		{name: "an old one is a failed upload, and stays where no policy sweeps", p: with(four(), 90), left: []uint64{80, 60, 40}, gone: 1,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 3, Floor: at(99), Grace: time.Hour}},
		{name: "a policy sweeps orphans that are old enough", p: with(four(), 90, 50), left: []uint64{80, 60, 40, 20}, gone: 2,
			want: snapshots.Pruning{Keep: 3, SweepOrphans: true, OrphansOlder: 48 * time.Hour}},
		{name: "and leaves those that are not", p: with(four(), 90, 50), left: []uint64{80, 60, 40, 20}, gone: 0,
			want: snapshots.Pruning{Keep: 3, SweepOrphans: true, OrphansOlder: 200 * time.Hour}},
		{name: "a V1 pointer lists one, which stays", p: v1(four()), err: snapshots.ErrWouldLoseLast,
			want: snapshots.Pruning{Remove: []string{snapshotstest.Folder(80)}}},
		{name: "what a V1 server left behind is swept by policy", p: v1(four()), left: []uint64{80}, gone: 3,
			want: snapshots.Pruning{SweepOrphans: true, OrphansOlder: time.Hour}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := mem(t)
			if err := c.p.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if c.now.IsZero() {
				c.now = later
			}
			before := verified(t, b, "archive/0")
			plan, err := before.PlanPrune(c.want, c.now)
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatalf("%v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			for range 2 { // twice is the same as once
				if err := carryOut(t.Context(), b, plan); err != nil {
					t.Fatal(err)
				}
			}
			now := verified(t, b, "archive/0")
			var left []uint64
			for _, s := range now.Points {
				left = append(left, s.LSN)
			}
			if !slices.Equal(left, c.left) {
				t.Errorf("left %v, want %v", left, c.left)
			}
			if n := len(before.Points) + len(before.Unlisted) - len(now.Points) - len(now.Unlisted); n != c.gone {
				t.Errorf("%d folders went, want %d", n, c.gone)
			}
		})
	}
}

// four is a partition with snapshots at 20, 40, 60 and 80; those named lack a
// table.
func four(damaged ...uint64) snapshotstest.Partition {
	p := snapshotstest.Partition{Prefix: "archive/0"}
	for _, lsn := range []uint64{20, 40, 60, 80} {
		s := snapshotstest.Snapshot{LSN: lsn}
		if slices.Contains(damaged, lsn) {
			s.Without = "000002.sst"
		}
		p.Snapshots = append(p.Snapshots, s)
	}
	return p
}

func with(p snapshotstest.Partition, orphans ...uint64) snapshotstest.Partition {
	for _, lsn := range orphans {
		p.Unlisted = append(p.Unlisted, snapshotstest.Snapshot{LSN: lsn, Without: "metadata.json"})
	}
	return p
}

func v1(p snapshotstest.Partition) snapshotstest.Partition { p.V1 = true; return p }

// The pointer may hold members that this version does not know; what a pruning
// writes has them all, in their order.
func TestAPointerKeepsWhatIsNotUnderstood(t *testing.T) {
	b := mem(t)
	p := four()
	if err := p.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	raw, _ := p.Pointer()
	raw = bytes.Replace(raw, []byte(`"log_id"`), []byte(`"new_in_1.9": {"a": [1, 2]}, "log_id"`), 1)
	if err := b.Put(t.Context(), "archive/0/latest.json", raw); err != nil {
		t.Fatal(err)
	}
	plan, err := verified(t, b, "archive/0").PlanPrune(snapshots.Pruning{Remove: []string{snapshotstest.Folder(40)}, Keep: 3}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var was, is map[string]json.RawMessage
	if json.Unmarshal(raw, &was) != nil || json.Unmarshal(plan.Pointer, &is) != nil {
		t.Fatal("no JSON")
	}
	for name := range was {
		if name != "retained_snapshots" && !bytes.Equal(was[name], is[name]) {
			t.Errorf("%s is %s, was %s", name, is[name], was[name])
		}
	}
}

// Of a race between a pruning and an upload the upload always wins: the pointer
// is the uploader's, and nothing that it lists is touched.
func TestRS7_AnUploadWinsAgainstAPruning(t *testing.T) {
	b := mem(t)
	p := four()
	if err := p.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	plan, err := verified(t, b, "archive/0").PlanPrune(snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 1, Floor: at(99)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p.Snapshots = append(p.Snapshots, snapshotstest.Snapshot{LSN: 100})
	if err := p.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := plan.MovePointer(t.Context(), b); !errors.Is(err, snapshots.ErrPointerMoved) {
		t.Errorf("the pointer was replaced: %v", err)
	}
	if _, _, err := plan.RemoveFolder(t.Context(), b, snapshotstest.Folder(20), allowed); !errors.Is(err, snapshots.ErrPointerMoved) {
		t.Errorf("what the pointer lists was removed: %v", err)
	}
	if now := verified(t, b, "archive/0"); len(now.VerifiedLSNs()) != 5 {
		t.Errorf("%v is left", now.VerifiedLSNs())
	}
}

// What is left of a removal that was interrupted never looks whole: metadata.json
// goes last.
func TestAHalfRemovedSnapshotNeverLooksWhole(t *testing.T) {
	for stop := 1; stop <= 3; stop++ {
		inner := mem(t)
		p := four()
		if err := p.Write(t.Context(), inner); err != nil {
			t.Fatal(err)
		}
		b, faults := faulty.New(inner)
		plan, err := verified(t, b, "archive/0").PlanPrune(snapshots.Pruning{Remove: []string{snapshotstest.Folder(20)}, Keep: 1, Floor: at(99)}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := plan.MovePointer(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		faults.Add(faulty.Fault{Method: bucket.Delete, Nth: stop, Times: -1})
		if _, _, err := plan.RemoveFolder(t.Context(), b, snapshotstest.Folder(20), allowed); err == nil {
			t.Fatal("nothing failed")
		}
		if now := verified(t, inner, "archive/0"); len(now.Unlisted) != 1 || (stop > 1) == (now.Unlisted[0].State == snapshots.Verified) {
			t.Errorf("after %d deletes: %+v", stop-1, now.Unlisted)
		}
	}
}

// P4, P5 over random partitions and wishes: whatever is planned and carried out,
// the newest stays, at least one whole one and the policy's minimum stay, the
// lowest is not lifted above the floor, and nothing but what was named goes.
func TestNoPruningLosesTheLastOrPassesTheFloor(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	worlds, planned := 3000, 0
	if testing.Short() {
		worlds = 300
	}
	for world := range worlds {
		p := snapshotstest.Partition{Prefix: "archive/0", V1: rng.IntN(5) == 0}
		lsn := uint64(0)
		for range 1 + rng.IntN(5) {
			lsn += 1 + rng.Uint64N(20)
			s := snapshotstest.Snapshot{LSN: lsn, Files: 1, Bytes: 1 + rng.IntN(9)}
			switch rng.IntN(6) {
			case 0:
				s.Without = "000001.sst"
			case 1:
				s.Short = "000001.sst"
			}
			if rng.IntN(6) == 0 {
				p.Unlisted = append(p.Unlisted, s)
			} else {
				p.Snapshots = append(p.Snapshots, s)
			}
		}
		b := mem(t)
		if err := p.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		before := verified(t, b, "archive/0")
		want := snapshots.Pruning{Keep: rng.Uint64N(4), SweepOrphans: rng.IntN(2) == 0, OrphansOlder: time.Duration(rng.IntN(4)) * time.Hour, Grace: time.Hour}
		for _, s := range slices.Concat(p.Snapshots, p.Unlisted) {
			if rng.IntN(2) == 0 {
				want.Remove = append(want.Remove, snapshotstest.Folder(s.LSN))
			}
		}
		if rng.IntN(3) > 0 {
			want.Floor = at(rng.Uint64N(lsn + 5))
		}
		plan, err := before.PlanPrune(want, time.Now().Add(time.Duration(rng.IntN(5))*time.Hour))
		if err != nil {
			continue
		}
		planned++
		if err := carryOut(t.Context(), b, plan); err != nil {
			t.Fatal(err)
		}
		now := verified(t, b, "archive/0")
		say := func(why string) {
			t.Fatalf("seed %d, world %d: %s\nbefore %+v\nwant %+v\nplan %+v\nnow %+v", seed, world, why, before, want, plan, now)
		}
		was, _ := before.ArchivedLSN()
		is, ok := now.ArchivedLSN()
		switch {
		case !ok || now.Pointer.Path != before.Pointer.Path:
			say("the pointer points elsewhere")
		case is != was && (want.Floor == nil || is > *want.Floor):
			say("the lowest was lifted above the floor")
		case len(now.Points) < len(before.Points) && uint64(len(now.VerifiedLSNs())) < max(1, want.Keep):
			say("too few are left")
		}
		for _, s := range slices.Concat(before.Points, before.Unlisted) {
			still := slices.ContainsFunc(slices.Concat(now.Points, now.Unlisted), func(x snapshots.Snapshot) bool { return x.Path == s.Path && x.Objects == s.Objects })
			named := slices.Contains(want.Remove, s.Path) || want.SweepOrphans && s.Standing != snapshots.InPointer
			if !still && !named && s.Objects > 0 {
				say(fmt.Sprintf("%s went and nobody named it", s.Path))
			}
		}
	}
	if planned < worlds/20 {
		t.Errorf("only %d of %d worlds had a plan: this says little", planned, worlds)
	}
	t.Logf("%d of %d worlds had a plan", planned, worlds)
}
