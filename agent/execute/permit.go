package execute

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/reaction"
	"github.com/quarry-db/quarry/pkg/snapshots"
	"github.com/quarry-db/quarry/regions/plan"
)

// point is a restore point as it is now, looked at object by object.
type point struct {
	id       string
	position uint64
	domain   string
	lineage  string
	state    catalog.RestoreState
}

// points are a slate's restore points, newest first, each looked at just now.
// Those whose position is not known are left out.
func (e *Executor) points(ctx context.Context, s *catalog.Sighting) ([]point, error) {
	var out []point
	if s.Kind == catalog.KindSnapshots {
		p, err := e.partition(ctx, s.Root)
		if err != nil {
			return nil, err
		}
		for _, x := range p.Points {
			out = append(out, point{x.Path, x.LSN, s.PositionDomain, s.Lineage, catalog.RestoreState(x.State)})
		}
		return out, nil
	}
	began := time.Now()
	all, err := e.eyes.Points(ctx, s.Root)
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if x.Position == nil {
			continue
		}
		state := x.State
		if state == catalog.RestoreVerified && (x.VerifiedAt == nil || x.VerifiedAt.Before(began.Add(-time.Second))) {
			state = catalog.RestoreListed // of an earlier look
		}
		out = append(out, point{x.ID, *x.Position, x.PositionDomain, x.Lineage, state})
	}
	return out, nil
}

// partition looks at every object of a partition now.
func (e *Executor) partition(ctx context.Context, root string) (snapshots.Partition, error) {
	p, err := snapshots.Verify(ctx, e.b, root, nil)
	if err != nil {
		return p, err
	}
	if err := p.Err(); err != nil {
		return p, refused(catalog.CodeArchiveUnread, "%v", err)
	}
	return p, nil
}

// limit is this region's own: the position of its k-th newest verified restore
// point. Whatever was decided, nothing above it is permitted.
func (e *Executor) limit(ctx context.Context, t *task) (uint64, error) {
	k := t.d.Parameters.Restorable
	if k == 0 {
		return 0, refused(catalog.CodeInvalid, "it does not say how many restore points must be left")
	}
	points, err := e.points(ctx, &t.sight)
	if err != nil {
		return 0, err
	}
	var verified []uint64
	for _, p := range points {
		if p.state != catalog.RestoreVerified {
			continue
		}
		if p.domain != t.d.PositionDomain || p.lineage != t.d.Lineage {
			return 0, refused(catalog.CodeIncomparable, "its position is of %q %s, restore point %s is of %s %s", t.d.PositionDomain, t.d.Lineage, p.id, p.domain, p.lineage)
		}
		verified = append(verified, p.position)
	}
	n := uint64(len(verified))
	t.saw.Verified, t.saw.Limit = &n, nil
	limit, ok := plan.Archived(verified, k)
	if !ok {
		return 0, refused(catalog.CodeAboveLimit, "%d verified restore points are here, %d must be", n, k)
	}
	t.saw.Limit = &limit
	return limit, nil
}

// rulingPermit is the permit with the highest number; nil: there is none. One
// that cannot be understood stops everything about its slate.
func (e *Executor) rulingPermit(ctx context.Context, slate string) (*catalog.Permit, error) {
	n, raw, err := e.numbered(ctx, catalog.PermitFolder(slate))
	if err != nil || n == 0 {
		return nil, err
	}
	p, err := catalog.DecodePermit(raw)
	if err == nil && (p.Number != n || p.Slate != slate) {
		err = fmt.Errorf("it says permit %d of %s", p.Number, p.Slate)
	}
	if err != nil {
		return nil, refused(catalog.CodeUnreadable, "%s: %v", catalog.PermitKey(slate, n), err)
	}
	return &p, nil
}

// permit publishes how far the owner may cut, or that it may not. The effect is
// the numbered object read back; the owner's cut is observed apart.
func (e *Executor) permit(t *task) work {
	d := &t.d
	const step = "2-permit"
	var was *catalog.Permit
	check := func(ctx context.Context) (err error) {
		t.sight, err = e.meant(ctx, t)
		if err == nil {
			err = e.still(ctx, t, &t.sight)
		}
		// What nobody can see, or is not what it was, may be cut even less.
		if err != nil && (d.Verb != catalog.VerbWithdraw || ctx.Err() != nil) {
			return err
		}
		t.saw.TrimmedTo = t.sight.TrimmedTo
		if was, err = e.rulingPermit(ctx, d.Slate); err != nil {
			return err
		}
		if was != nil && was.Ledger == d.Ledger && was.Sequence > d.Sequence {
			return refused(catalog.CodeReplayed, "permit %d is of a later decision", was.Number)
		}
		if d.Verb == catalog.VerbWithdraw {
			return nil
		}
		switch {
		case d.Position == nil || d.Parameters.ValidFor <= 0:
			return refused(catalog.CodeInvalid, "a permit needs a position and how long it is valid")
		case d.PositionDomain != t.sight.PositionDomain && t.sight.Kind == catalog.KindSnapshots, d.Lineage != t.sight.Lineage:
			return refused(catalog.CodeIncomparable, "its position is of %s %s, those here are of %s %s", d.PositionDomain, d.Lineage, t.sight.PositionDomain, t.sight.Lineage)
		}
		limit, err := e.limit(ctx, t)
		if err != nil {
			return err
		}
		if *d.Position > limit {
			return refused(catalog.CodeAboveLimit, "%d was decided, %d is the %d. newest verified restore point here", *d.Position, limit, d.Parameters.Restorable)
		}
		if was != nil && was.Rules(d.Incarnation, time.Now()) && *was.UpTo > *d.Position && was.Decision != d.ID {
			return refused(catalog.CodeBelowPublished, "permit %d is for %d already; withdraw it first", was.Number, *was.UpTo)
		}
		return nil
	}
	publish := func(ctx context.Context) error {
		p := catalog.Permit{
			Version: 1, Number: 1, Slate: d.Slate, Root: d.Root, Incarnation: d.Incarnation,
			PositionDomain: d.PositionDomain, Lineage: d.Lineage,
			Decision: d.ID, Ledger: d.Ledger, Term: d.Term, Sequence: d.Sequence, Evidence: hex.EncodeToString(d.Evidence[:]),
			Issued: time.Now().UTC().Truncate(time.Millisecond),
		}
		p.NotAfter = p.Issued
		if d.Verb == catalog.VerbPermit {
			p.UpTo, p.NotAfter = d.Position, p.Issued.Add(d.Parameters.ValidFor)
		}
		// What was written down first is what is written, also by a process that
		// goes on after another; but for the number, which another decision may
		// have taken.
		if err := e.record(ctx, t, step, p, &p); err != nil {
			return err
		}
		if p.Number = 1; was != nil {
			p.Number = was.Number + 1
		}
		raw, err := json.Marshal(p)
		if err != nil {
			return err
		}
		err = e.b.PutNew(ctx, catalog.PermitKey(d.Slate, p.Number), raw)
		if errors.Is(err, fs.ErrExist) {
			err = nil // ours, or another's: reading it back tells
		}
		return err
	}
	return work{
		check: check,
		act:   []*reaction.Step{reaction.Do("publish", quiet(publish))},
		observe: func(ctx context.Context) error {
			p, err := e.rulingPermit(ctx, d.Slate)
			if err != nil {
				return err
			}
			if p == nil || p.Decision != d.ID {
				return fmt.Errorf("no permit of this decision rules: %w", errNotSeen)
			}
			t.saw.Permit, t.saw.Position = &p.Number, p.UpTo
			return nil
		},
	}
}

// verify looks at every object of the restore points.
func (e *Executor) verify(t *task) work {
	return work{
		check: func(ctx context.Context) (err error) {
			if t.sight, err = e.meant(ctx, t); err == nil {
				err = e.still(ctx, t, &t.sight)
			}
			return err
		},
		observe: func(ctx context.Context) error {
			points, err := e.eyes.Points(ctx, t.d.Root) // and so it is told as well
			if err != nil {
				return err
			}
			n := uint64(0)
			for _, p := range points {
				if p.State == catalog.RestoreVerified {
					n++
				}
			}
			t.saw.Verified = &n
			return nil
		},
	}
}
