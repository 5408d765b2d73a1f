package slatedb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// ErrPilled is wrapped when a database is closed for deletion already, or when
// it is not and should be.
var (
	ErrPilled    = errors.New("the database is closed for deletion")
	ErrNotPilled = errors.New("the database is not closed for deletion")
)

// PillOptions say what a pill tells those who meet it.
type PillOptions struct {
	Reason string // required: it is what people read when their process ends
	By     string // who decided
}

// Pill is what [Admin.Pill] has done.
type Pill struct {
	ID uint64 `json:"id"` // of the pill
	// Boundary is the collector's mark as it stands now. Who has missed
	// manifests that are gone finds the pill by it.
	Boundary uint64 `json:"boundary"`
}

// Pill closes the database for deletion: the next manifest is one that no
// release can read. Writers and managed readers of every release end when they
// next look at the manifest, and nobody can open the database until
// [Admin.Unpill]. A writer that looks rarely goes on putting until then, and
// what it puts is kept: fence first. Readers that follow without checkpoints
// go on with what they have.
//
// The collector's mark is raised to two below the pill. Processes of 0.15 and
// later that have missed manifests which are gone by now would otherwise never
// see it; one more, and after an Unpill every open would spin. When the
// database is pilled already the error wraps [ErrPilled]; the mark is seen to
// all the same.
func (a *Admin) Pill(ctx context.Context, o PillOptions) (Pill, error) {
	if o.Reason == "" {
		return Pill{}, fmt.Errorf("a pill without a reason: %w", fs.ErrInvalid)
	}
	for range attempts {
		h, err := Latest(ctx, a.Store, a.Root)
		if h != nil && h.Pill != nil {
			mark, err := a.raiseBoundary(ctx, BoundaryKey(a.Root), h.ID-min(h.ID, 2))
			if err != nil {
				return Pill{ID: h.ID}, err
			}
			return Pill{ID: h.ID, Boundary: mark}, &ObjectError{Key: ManifestKey(a.Root, h.ID), Err: fmt.Errorf("%w: %s", ErrPilled, h.Pill.Reason)}
		}
		if err != nil {
			return Pill{}, err
		}
		// Who removes the pill must find a manifest above the mark.
		if err := underBoundary(ctx, a.Store, a.Root, h); err != nil {
			return Pill{}, err
		}
		text, err := json.Marshal(struct {
			Reason      string    `json:"reason"`
			By          string    `json:"by,omitempty"`
			At          time.Time `json:"at"`
			WriterEpoch uint64    `json:"writer_epoch"`
			ID          uuid.UUID `json:"id"` // nobody else's pill has the same bytes
		}{o.Reason, o.By, a.second(), h.Manifest.WriterEpoch, uuid.New()})
		if err != nil {
			return Pill{}, err
		}
		id := h.ID + 1
		if err := putNew(ctx, a.Store, ManifestKey(a.Root, id), append([]byte{0xFF, 0xFF}, text...)); errors.Is(err, fs.ErrExist) {
			continue // others were faster
		} else if err != nil {
			return Pill{}, err
		}
		mark, err := a.raiseBoundary(ctx, BoundaryKey(a.Root), id-min(id, 2))
		if err != nil {
			return Pill{ID: id}, fmt.Errorf("pill %d of %s stands, processes that missed manifests may not see it; do it again: %w", id, named(a.Root), err)
		}
		return Pill{ID: id, Boundary: mark}, nil
	}
	return Pill{}, fmt.Errorf("pill of %s: %w", named(a.Root), ErrBusy)
}

// Unpill removes the pill: the database can be opened again, with every row
// that was acknowledged. It returns the manifest that is the newest now. It
// refuses when there is no pill ([ErrNotPilled]), when the manifest below is
// gone, or when the collector's mark covers it, for then every open would spin.
// Whoever has begun to remove objects must not call it.
func (a *Admin) Unpill(ctx context.Context) (*Head, error) {
	h, err := Latest(ctx, a.Store, a.Root)
	if h == nil || h.Pill == nil {
		if err == nil {
			err = &ObjectError{Key: ManifestKey(a.Root, h.ID), Err: ErrNotPilled}
		}
		return nil, err
	}
	under, err := At(ctx, a.Store, a.Root, h.ID-1)
	if err != nil {
		return nil, fmt.Errorf("the manifest under the pill: %w", err)
	}
	if err := underBoundary(ctx, a.Store, a.Root, under); err != nil {
		return nil, err
	}
	if err := allThere(ctx, a.Store, a.Root, under.ID, under.Manifest); err != nil {
		return nil, fmt.Errorf("the removal has begun: %w", err)
	}
	if err := a.Store.Delete(ctx, ManifestKey(a.Root, h.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	now, err := Latest(ctx, a.Store, a.Root)
	if err != nil {
		return nil, err
	}
	if now.ID < under.ID {
		return nil, &ObjectError{Key: ManifestKey(a.Root, under.ID), Err: errVanishes}
	}
	return now, nil
}

// allThere fails unless every table of m is there.
func allThere(ctx context.Context, s Store, root string, id uint64, m *manifest.Manifest) error {
	v := &verification{ctx: ctx, s: &counter{s: s}, root: root}
	if err := v.each(needed(root, []pinnedState{{id, m, false}}), func(n *need) { v.present(n) }); err != nil {
		return err
	}
	if len(v.rep.Findings) == 0 {
		return nil
	}
	f, err := v.rep.Findings[0], ErrMissing
	if f.Code != ObjectMissing {
		err = errors.New(f.What)
	}
	return &ObjectError{Key: f.Object, Err: err}
}
