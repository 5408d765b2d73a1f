package execute

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/reaction"
	"github.com/quarry-db/quarry/pkg/snapshots"
)

// prune removes restore points beyond what the policy keeps, and orphans when
// it says so: the pointer first, then folder by folder, data before metadata.
func (e *Executor) prune(t *task) work {
	d := &t.d
	const step = "2-prune"
	want := snapshots.Pruning{
		Remove: d.Parameters.Remove, Keep: d.Parameters.Restorable, Floor: d.Position, Grace: d.Parameters.Grace,
		SweepOrphans: d.Parameters.SweepOrphans, OrphansOlder: d.Parameters.OrphansOlder,
	}
	var plan snapshots.PrunePlan
	var moving snapshots.PrunePlan // the plan that was written down
	check := func(ctx context.Context) (err error) {
		if t.sight, err = e.meant(ctx, t); err != nil {
			return err
		}
		switch {
		case t.sight.Kind != catalog.KindSnapshots:
			return refused(catalog.CodeInvalid, "%s is no snapshot repository", d.Root)
		case d.Position != nil && (d.PositionDomain != t.sight.PositionDomain || d.Lineage != t.sight.Lineage):
			return refused(catalog.CodeIncomparable, "its floor is of %s %s, the positions here are of %s %s", d.PositionDomain, d.Lineage, t.sight.PositionDomain, t.sight.Lineage)
		case want.Keep == 0:
			return refused(catalog.CodeInvalid, "it does not say how many restore points must be left")
		}
		if err := e.still(ctx, t, &t.sight); err != nil {
			return err
		}
		if want.Floor, err = e.floor(ctx, t); err != nil {
			return err
		}
		p, err := e.partition(ctx, d.Root)
		if err != nil {
			return err
		}
		now, err := e.storeTime(ctx, t)
		if err != nil {
			return err
		}
		if plan, err = p.PlanPrune(want, now); err != nil {
			return planError(err)
		}
		t.saw.Verified, t.saw.Lowest = &plan.Verified, &plan.Lowest
		if len(plan.Pointer) == 0 || t.begun {
			return nil
		}
		// Before anything is written down: what cannot be done was not tried.
		_, version, err := e.b.GetVersion(ctx, d.Root+"/latest.json")
		if err == nil && version == "" || errors.Is(err, errors.ErrUnsupported) {
			return refused(catalog.CodeNoReplace, "this store names no version of %s/latest.json, by which it could be replaced only if it has not changed; "+
				"one that was copied into a gateway's folder by hand has none until it is written through it", d.Root)
		}
		return err
	}
	point := func(ctx context.Context) error {
		// Another process may have written its plan down before it was killed:
		// that is finished. One that the pointer's owner has overtaken before
		// anything was done of it gives way to the next.
		for round := range 16 {
			moving = snapshots.PrunePlan{}
			if err := e.record(ctx, t, fmt.Sprintf("%s-%02d", step, round+1), plan, &moving); err != nil {
				return err
			}
			err := moving.MovePointer(ctx, e.b)
			switch {
			case errors.Is(err, errors.ErrUnsupported):
				return refused(catalog.CodeNoReplace, "this store cannot replace latest.json only if it has not changed: %v", err)
			case errors.Is(err, snapshots.ErrPointerMoved):
				if obsolete, err := e.lists(ctx, &moving); err != nil || !obsolete {
					return err // it was carried out, and the owner has gone on from there
				}
				if moving.Was == plan.Was {
					return waiting(catalog.CodeMoved, "a snapshot was made meanwhile: %v", err)
				}
			case errors.Is(err, bucket.ErrChanged):
				return waiting(catalog.CodeMoved, "a snapshot was made meanwhile: %v", err)
			default:
				return err
			}
		}
		return refused(catalog.CodeMoved, "the pointer moves again and again")
	}
	sweep := func(ctx context.Context) error {
		// Again, right before what cannot be undone.
		p, err := e.partition(ctx, d.Root)
		if err != nil {
			return err
		}
		if n := uint64(len(p.VerifiedLSNs())); n < want.Keep || n == 0 {
			return refused(catalog.CodeBelowMin, "%d verified restore points are left, %d must be; nothing more is removed", n, want.Keep)
		}
		for _, path := range moving.Folders {
			objects, size, err := moving.RemoveFolder(ctx, e.b, path, func(ctx context.Context) error {
				return e.mayAct(ctx, t, step)
			})
			t.saw.Objects += objects
			t.saw.Bytes += size
			if errors.Is(err, snapshots.ErrPointerMoved) {
				return refused(catalog.CodeMoved, "%v", err)
			}
			if err != nil {
				return err
			}
			if !slices.Contains(t.saw.Removed, path) {
				t.saw.Removed = append(t.saw.Removed, path)
			}
		}
		return nil
	}
	return work{
		check: check,
		act:   []*reaction.Step{reaction.Do("move the pointer", quiet(point)), reaction.Do("remove the folders", quiet(sweep))},
		observe: func(ctx context.Context) error {
			p, err := e.partition(ctx, d.Root)
			if err != nil {
				return err
			}
			gone := func(s snapshots.Snapshot) bool {
				return slices.Contains(want.Remove, s.Path) || slices.Contains(moving.Folders, s.Path)
			}
			for _, s := range slices.Concat(p.Points, p.Unlisted) {
				if gone(s) {
					return fmt.Errorf("%s is still there: %w", s.Path, errNotSeen)
				}
			}
			if moving.Prefix == "" && want.SweepOrphans {
				return fmt.Errorf("which orphans were meant is not known yet: %w", errNotSeen)
			}
			// And so it is told: the hub takes nobody's word for it.
			if _, err := e.eyes.Points(ctx, d.Root); err != nil {
				return err
			}
			n := uint64(len(p.VerifiedLSNs()))
			t.saw.Verified = &n
			if lowest, ok := p.ArchivedLSN(); ok {
				t.saw.Lowest = &lowest
			}
			t.saw.Removed = slices.Clone(want.Remove)
			for _, path := range moving.Folders {
				if !slices.Contains(t.saw.Removed, path) {
					t.saw.Removed = append(t.saw.Removed, path)
				}
			}
			return nil
		},
	}
}

// lists reports whether the pointer lists any folder of a plan.
func (e *Executor) lists(ctx context.Context, plan *snapshots.PrunePlan) (bool, error) {
	p, err := snapshots.ReadPartition(ctx, e.b, plan.Prefix)
	if err == nil {
		err = p.Err()
	}
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(p.Points, func(s snapshots.Snapshot) bool { return slices.Contains(plan.Folders, s.Path) }), nil
}

// floor is up to where the lowest restore point may be lifted, for the owner's
// own trimming follows it: not above what is permitted here, whatever was
// decided; nil: not at all.
func (e *Executor) floor(ctx context.Context, t *task) (*uint64, error) {
	p, err := e.rulingPermit(ctx, t.d.Slate)
	if err != nil || p == nil || t.d.Position == nil || !p.Rules(t.d.Incarnation, time.Now()) {
		return nil, err
	}
	if p.PositionDomain != t.d.PositionDomain || p.Lineage != t.d.Lineage {
		return nil, refused(catalog.CodeIncomparable, "its floor is of %s %s, what is permitted of %s %s", t.d.PositionDomain, t.d.Lineage, p.PositionDomain, p.Lineage)
	}
	floor := min(*t.d.Position, *p.UpTo)
	return &floor, nil
}

// planError sorts why a pruning must not be done.
func planError(err error) error {
	for _, x := range []struct {
		is   error
		code string
	}{
		{snapshots.ErrWouldLoseLast, catalog.CodeLast}, {snapshots.ErrBelowMinimum, catalog.CodeBelowMin},
		{snapshots.ErrAboveFloor, catalog.CodeFloor}, {snapshots.ErrNotAsMeant, catalog.CodeMoved},
	} {
		if errors.Is(err, x.is) {
			return refused(x.code, "%v", err)
		}
	}
	if errors.Is(err, snapshots.ErrMayBeUploading) {
		return waiting(catalog.CodeUploading, "%v", err)
	}
	return err
}

// storeTime is a moment of the store's clock that is not after now: a folder
// looks younger by it, never older.
func (e *Executor) storeTime(ctx context.Context, t *task) (time.Time, error) {
	if t.storeAt.IsZero() {
		asked := time.Now()
		_, modified, err := e.b.Stat(ctx, takenKey(t.d.Ledger, t.d.Sequence))
		if err != nil {
			return time.Time{}, err
		}
		t.storeAt, t.storeSince = modified, asked
	}
	return t.storeAt.Add(time.Since(t.storeSince)), nil
}
