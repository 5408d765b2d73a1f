package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/opendata"
	"github.com/quarry-db/quarry/pkg/reaction"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/regions/plan"
)

func (e *Executor) admin(root string) *slatedb.Admin { return &slatedb.Admin{Store: e.b, Root: root} }

// database is what the newest manifest of a root says, for changing it.
func (e *Executor) database(ctx context.Context, t *task) (*slatedb.Head, error) {
	if t.sight.Kind == catalog.KindSnapshots || t.sight.Kind == catalog.KindBuffer {
		return nil, refused(catalog.CodeInvalid, "%s is no SlateDB database: it has no checkpoints", t.d.Root)
	}
	h, err := slatedb.Latest(ctx, e.b, t.d.Root)
	if err != nil && slatedb.Refused(err) {
		return nil, refused(catalog.CodeUnreadable, "%v", err)
	}
	return h, err
}

func changed(err error) error {
	if err != nil && slatedb.Refused(err) {
		return refused(catalog.CodeUnreadable, "the database must not be changed as it is: %v", err)
	}
	return err
}

// hold makes a checkpoint without expiry that SlateDB's own collector obeys,
// with the tail of the WAL, and lets go of the one that it takes the place of.
// The new one first: at no moment is there none.
func (e *Executor) hold(t *task) work {
	d := &t.d
	name := catalog.NameHold(d.Parameters.Purpose, d.ID)
	find := func(ctx context.Context) error {
		h, err := e.database(ctx, t)
		if err != nil {
			return err
		}
		for _, c := range h.Manifest.Checkpoints {
			if c.Named && c.Name == name && c.Expire.IsZero() {
				t.saw.Checkpoint, t.saw.Manifest = c.ID.String(), &c.ManifestID
				return nil
			}
		}
		return fmt.Errorf("no checkpoint %s: %w", name, errNotSeen)
	}
	// there finds a restore point that has what is wanted: then a restore point on
	// demand is there already, whoever made it.
	there := func(ctx context.Context) (bool, error) {
		if d.Parameters.Purpose != catalog.PurposeRestorePoint || d.Position == nil || d.Parameters.Replaces != "" {
			return false, nil
		}
		points, err := e.points(ctx, &t.sight)
		if err != nil {
			return false, err
		}
		for _, p := range points {
			if p.state == catalog.RestoreVerified && p.domain == d.PositionDomain && p.lineage == d.Lineage && p.position >= *d.Position {
				t.saw.Checkpoint, t.saw.Position = p.id, &p.position
				return true, nil
			}
		}
		return false, nil
	}
	created := func(ctx context.Context) error {
		err := find(ctx)
		if errors.Is(err, errNotSeen) {
			var stale bool
			if stale, err = there(ctx); err == nil && !stale {
				err = fmt.Errorf("no checkpoint %s: %w", name, errNotSeen)
			}
		}
		return err
	}
	create := func(ctx context.Context) error {
		if err := created(ctx); err == nil || !errors.Is(err, errNotSeen) {
			return err
		}
		var i struct {
			Name string `json:"name"`
		}
		i.Name = name
		if err := e.record(ctx, t, "2-hold", i, &i); err != nil {
			return err
		}
		_, _, err := e.admin(d.Root).CreateCheckpoint(ctx, slatedb.CheckpointOptions{Name: name})
		if err != nil {
			return changed(err)
		}
		return find(ctx)
	}
	measure := func(ctx context.Context) (err error) {
		// The eyes have to see the new checkpoint first.
		if t.sight, err = e.meant(ctx, t); err != nil {
			return err
		}
		points, err := e.points(ctx, &t.sight)
		if err != nil {
			return err
		}
		for _, p := range points {
			if p.id != t.saw.Checkpoint {
				continue
			}
			if t.saw.Position = &p.position; d.Position != nil && p.position < *d.Position {
				return refused(catalog.CodePositionMissing, "it contains %d and what is below, %d was asked for; it stays", p.position, *d.Position)
			}
			if p.state != catalog.RestoreVerified && (d.Position != nil || d.Parameters.Replaces != "") {
				return refused(catalog.CodeStaleRestore, "the new hold is %s; the old one stays", p.state)
			}
			return nil
		}
		return fmt.Errorf("the hold %s is not among the restore points: %w", t.saw.Checkpoint, errNotSeen)
	}
	letGo := func(ctx context.Context) error {
		if d.Parameters.Replaces == "" {
			return nil
		}
		old, there, err := e.ours(ctx, t, d.Parameters.Replaces)
		if err != nil || !there {
			return err
		}
		// To hold is never forbidden; to let go is.
		if err := e.thawed(ctx); err != nil {
			return err
		}
		if err := e.noGap(ctx, t, old.String()); err != nil {
			return err
		}
		var i struct {
			Checkpoint string `json:"checkpoint"`
		}
		i.Checkpoint = old.String()
		if err := e.record(ctx, t, "3-release", i, &i); err != nil {
			return err
		}
		return e.remove(ctx, d.Root, old)
	}
	return work{
		check: func(ctx context.Context) (err error) {
			if d.Parameters.Purpose == "" {
				return refused(catalog.CodeInvalid, "it does not say what is held for")
			}
			if t.sight, err = e.meant(ctx, t); err != nil {
				return err
			}
			if _, err := e.database(ctx, t); err != nil {
				return err
			}
			if d.Parameters.Replaces != "" {
				if _, _, err := e.ours(ctx, t, d.Parameters.Replaces); err != nil {
					return err
				}
			}
			return e.still(ctx, t, &t.sight)
		},
		act: []*reaction.Step{
			reaction.Do("make the hold", quiet(create)),
			reaction.Do("look at what it contains", quiet(measure)),
			reaction.Do("let go of the old one", quiet(letGo)),
		},
		observe: func(ctx context.Context) error {
			if err := created(ctx); err != nil {
				return err
			}
			if t.saw.Position == nil { // by a process that was killed, it was made
				if err := measure(ctx); err != nil {
					return err
				}
			}
			if d.Parameters.Replaces == "" {
				return nil
			}
			if _, there, err := e.ours(ctx, t, d.Parameters.Replaces); err != nil {
				return err
			} else if there {
				return fmt.Errorf("checkpoint %s is still there: %w", d.Parameters.Replaces, errNotSeen)
			}
			return nil
		},
	}
}

// ours finds a checkpoint that Quarry made, and refuses every other.
func (e *Executor) ours(ctx context.Context, t *task, id string) (uuid.UUID, bool, error) {
	key, err := uuid.Parse(id)
	if err != nil {
		return key, false, refused(catalog.CodeInvalid, "%q is no checkpoint's id", id)
	}
	h, err := e.database(ctx, t)
	if err != nil {
		return key, false, err
	}
	i := h.Manifest.Checkpoint(key)
	if i < 0 {
		return key, false, nil
	}
	if c := h.Manifest.Checkpoints[i]; !c.Named || !strings.HasPrefix(c.Name, catalog.HoldName) {
		return key, true, refused(catalog.CodeNotOurs, "checkpoint %s %q was not made by Quarry: it begins with %s", id, c.Name, catalog.HoldName)
	}
	t.saw.Manifest = &h.ID
	return key, true, nil
}

func (e *Executor) remove(ctx context.Context, root string, id uuid.UUID) error {
	_, err := e.admin(root).DeleteCheckpoint(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return changed(err)
}

// release removes a hold of ours.
func (e *Executor) release(t *task) work {
	d := &t.d
	var id uuid.UUID
	return work{
		check: func(ctx context.Context) (err error) {
			if t.sight, err = e.meant(ctx, t); err != nil {
				return err
			}
			var there bool
			if id, there, err = e.ours(ctx, t, d.Parameters.Checkpoint); err != nil {
				return err
			}
			if there {
				if err := e.enoughWithout(ctx, t, id.String()); err != nil {
					return err
				}
			}
			return e.still(ctx, t, &t.sight)
		},
		act: []*reaction.Step{reaction.Do("remove the checkpoint", quiet(func(ctx context.Context) error {
			var i struct {
				Checkpoint string `json:"checkpoint"`
			}
			i.Checkpoint = id.String()
			if err := e.record(ctx, t, "2-release", i, &i); err != nil {
				return err
			}
			return e.remove(ctx, d.Root, id)
		}))},
		observe: func(ctx context.Context) error {
			_, there, err := e.ours(ctx, t, d.Parameters.Checkpoint)
			if err == nil && there {
				err = fmt.Errorf("checkpoint %s is still there: %w", d.Parameters.Checkpoint, errNotSeen)
			}
			t.saw.Checkpoint = d.Parameters.Checkpoint
			return err
		},
	}
}

// enoughWithout refuses to let go of a hold when fewer verified restore points
// would be left than the decision says there must be (P4), or when the archived
// position would fall below what the owner may have cut by now (P5).
func (e *Executor) enoughWithout(ctx context.Context, t *task, id string) error {
	must := t.d.Parameters.Restorable
	permit, err := e.rulingPermit(ctx, t.d.Slate)
	if err != nil {
		return err
	}
	ruling := permit != nil && permit.Rules(t.d.Incarnation, time.Now())
	if must == 0 && !ruling {
		return nil
	}
	points, err := e.points(ctx, &t.sight)
	if err != nil {
		return err
	}
	left := uint64(0)
	var with, without []uint64 // of the positions that the permit is of
	for _, p := range points {
		if p.state != catalog.RestoreVerified {
			continue
		}
		same := ruling && p.domain == permit.PositionDomain && p.lineage == permit.Lineage
		if same {
			with = append(with, p.position)
		}
		if p.id == id {
			continue
		}
		left++
		if same {
			without = append(without, p.position)
		}
	}
	if t.saw.Verified = &left; left < must {
		return refused(catalog.CodeBelowMin, "%d verified restore points would be left, %d must be", left, must)
	}
	if !ruling {
		return nil
	}
	k := max(must, 1)
	is, some := plan.Archived(with, k)
	at, enough := plan.Archived(without, k)
	switch {
	case !some: // it archives nothing as it is
	case !enough:
		return refused(catalog.CodeBelowPublished, "permit %d is up to %d, and nothing would be archived without it; make a restore point first", permit.Number, *permit.UpTo)
	case at < is && at < *permit.UpTo:
		return refused(catalog.CodeBelowPublished, "permit %d is up to %d, and without it only what is up to %d would be archived; make a restore point first", permit.Number, *permit.UpTo, at)
	}
	return nil
}

// noGap refuses to let go of an old hold of a log whose owner has cut it
// between the two: what the old one contains and the new one does not could be
// had nowhere any more. Other kinds cut nothing.
func (e *Executor) noGap(ctx context.Context, t *task, old string) error {
	if t.sight.Kind != catalog.KindLog {
		return nil
	}
	was, err := e.logAt(ctx, t.d.Root, old)
	if err != nil {
		return err
	}
	is, err := e.logAt(ctx, t.d.Root, t.saw.Checkpoint)
	if err != nil {
		return err
	}
	head, known := was.Head()
	trimmed, known2 := is.TrimmedTo()
	switch {
	case known && !known2: // nothing was ever cut
		return nil
	case !known:
		return refused(catalog.CodeHistoryGap, "how far the old hold reaches cannot be told; both stay")
	case trimmed > head:
		return refused(catalog.CodeHistoryGap, "the log was cut up to %d, and the old hold ends at %d; both stay", trimmed, head)
	}
	return nil
}

func (e *Executor) logAt(ctx context.Context, root, checkpoint string) (*opendata.LogState, error) {
	r, err := slatedb.OpenReader(ctx, e.b, root, slatedb.ReaderOptions{Checkpoint: checkpoint})
	if err != nil {
		return nil, err
	}
	log := new(opendata.LogState)
	for want, more := log.Next(); more; want, more = log.Next() {
		for row, err := range r.Scan(ctx, want.From, want.To) {
			if err == nil {
				err = log.Add(row.Key, row.Value)
			}
			if err != nil {
				return nil, err
			}
		}
		log.Done(want)
	}
	return log, nil
}
