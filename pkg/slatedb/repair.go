package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

var (
	// ErrMoving is wrapped when a database that nobody was to write is
	// written.
	ErrMoving = errors.New("somebody writes the database")
	// ErrMayBeIdle is wrapped when nobody vouches for the writer being gone:
	// from the store alone an idle one cannot be told from a stopped one.
	ErrMayBeIdle = errors.New("a writer may be idle, and would undo the repair or lose by it")
)

// RepairOptions say what [Admin.Repair] may do.
type RepairOptions struct {
	// Only are the findings to cure; none: all that can be.
	Only []Code
	// DryRun only tells what would be done.
	DryRun bool
	// WriterStopped: the caller vouches that no process has the database
	// open for writing, nor a compactor, nor opens it meanwhile.
	WriterStopped bool
	// Fence: whoever writes is fenced by the repair itself. It must open
	// the database again.
	Fence bool
	// Watch is how long to look whether something moves after all; 0 means
	// 3 s.
	Watch time.Duration
}

// Repaired is what [Admin.Repair] has done, or would do.
type Repaired struct {
	ManifestID uint64   `json:"manifest_id"` // the newest before
	Cure       []string `json:"cure"`        // what was, or is to be, changed
	Written    uint64   `json:"written"`     // the manifest that has it; 0: none was written
	WALID      uint64   `json:"wal_id"`      // of the fence; 0: none
	// Cured are the findings that were to be cured; Left those that are
	// there now.
	Cured []Finding `json:"cured"`
	Left  []Finding `json:"left"`
}

// Repair cures the findings for which a new manifest is enough: filter formats
// and segments that a process of release 0.12 has lost, and a collector's mark
// that is not below the newest manifest. It patches the newest manifest and
// nothing else of it: epochs never fall, checkpoints stay, and every table it
// names is there. Then it verifies the database again.
//
// It refuses with [ErrMayBeIdle] unless the caller vouches for the writer or
// lets it be fenced, and with [ErrMoving] when the database moves all the same.
func (a *Admin) Repair(ctx context.Context, o RepairOptions) (Repaired, error) {
	set(&o.Watch, 3*time.Second)
	rep, err := a.verify(ctx)
	if err != nil {
		return Repaired{}, err
	}
	done := Repaired{ManifestID: rep.ManifestID, Cure: []string{}, Cured: []Finding{}, Left: rep.Findings}
	wanted := func(f Finding) bool { return f.Repair && (len(o.Only) == 0 || slices.Contains(o.Only, f.Code)) }
	for _, f := range rep.Findings {
		if wanted(f) {
			done.Cured = append(done.Cured, f)
		}
	}
	if len(done.Cured) == 0 {
		return done, nil
	}
	if o.DryRun {
		h, err := Latest(ctx, a.Store, a.Root)
		if err != nil {
			return done, err
		}
		_, done.Cure, err = a.cure(ctx, h, h.Manifest.Clone(), done.Cured, &o)
		return done, err
	}
	if err := a.mayRepair(ctx, &o); err != nil {
		return done, err
	}
	h, err := a.writeCure(ctx, &done, &o)
	if err != nil {
		return done, fmt.Errorf("repair %s: %w", named(a.Root), err)
	}
	done.Written = h.ID
	if o.Fence {
		if done.WALID, err = a.blockWAL(ctx, h); err != nil {
			return done, fmt.Errorf("the repair is written; fence the WAL: %w", err)
		}
	}
	if rep, err = a.verify(ctx); err != nil {
		return done, fmt.Errorf("the repair is written; verify: %w", err)
	}
	done.Left = rep.Findings
	if i := slices.IndexFunc(rep.Findings, wanted); i >= 0 {
		return done, fmt.Errorf("repair %s: still there: %s", named(a.Root), rep.Findings[i])
	}
	return done, nil
}

func (a *Admin) verify(ctx context.Context) (Report, error) {
	o := VerifyOptions{Now: a.now}
	if a.WALStore != nil {
		o.WALStore = a.WALStore
	}
	return Verify(ctx, a.Store, a.Root, o)
}

// mayRepair makes sure that nobody writes.
func (a *Admin) mayRepair(ctx context.Context, o *RepairOptions) error {
	if o.Fence {
		return nil
	}
	before, err := a.where(ctx)
	if err != nil {
		return err
	}
	select {
	case <-time.After(o.Watch):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := a.where(ctx)
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("repair %s: manifest %d and WAL %d went on to %d and %d: %w; stop it, or let the repair fence it",
			named(a.Root), before.manifest, before.wal, after.manifest, after.wal, ErrMoving)
	}
	if !o.WriterStopped {
		return fmt.Errorf("repair %s: nothing moved for %v, but %w; stop it and say so, or let the repair fence it", named(a.Root), o.Watch, ErrMayBeIdle)
	}
	return nil
}

type whereabouts struct{ manifest, wal uint64 }

// where returns the ends of manifests and WAL.
func (a *Admin) where(ctx context.Context) (whereabouts, error) {
	h, err := Latest(ctx, a.Store, a.Root)
	if err != nil {
		return whereabouts{}, err
	}
	w := whereabouts{manifest: h.ID}
	ids, err := walIDs(ctx, a.walStore(), a.Root, h.Manifest, false)
	if len(ids) > 0 {
		w.wal = ids[len(ids)-1]
	}
	return w, err
}

// writeCure puts the patched manifest: as the next one, or above the mark.
func (a *Admin) writeCure(ctx context.Context, done *Repaired, o *RepairOptions) (*Head, error) {
	if slices.ContainsFunc(done.Cured, func(f Finding) bool { return f.Code == BoundaryAhead }) {
		return a.refill(ctx, done, o)
	}
	return commit(ctx, a.Store, a.Root, nil, func(h *Head, m *manifest.Manifest) error {
		_, cure, err := a.cure(ctx, h, m, done.Cured, o)
		if err == nil && len(cure) == 0 {
			err = errNoChange
		}
		done.Cure = cure
		return err
	})
}

// maxRefill bounds how many manifests are put to get above a mark.
const maxRefill = 1000

// refill puts the newest manifest, patched, under every id up to the first that
// the mark does not cover: ids must have no gap, and what the mark covers
// nobody reads. It may be stopped and begun again.
func (a *Admin) refill(ctx context.Context, done *Repaired, o *RepairOptions) (*Head, error) {
	h, err := Latest(ctx, a.Store, a.Root)
	if err != nil {
		return nil, err
	}
	mark, err := Boundary(ctx, a.Store, a.Root)
	if err != nil {
		return nil, err
	}
	m := h.Manifest.Clone()
	if m, done.Cure, err = a.cure(ctx, h, m, done.Cured, o); err != nil {
		return nil, err
	}
	for id := h.ID + 1; ; id++ {
		raw, err := manifest.Encode(m)
		if err != nil {
			return nil, fmt.Errorf("manifest %d: %w", id, err)
		}
		unique := putID()
		raw = append(raw, unique[:]...)
		if err := putNew(ctx, a.Store, ManifestKey(a.Root, id), raw); errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("manifest %d: %w", id, ErrMoving)
		} else if err != nil {
			return nil, err
		}
		if id > mark {
			return headOf(a.Root, id, raw)
		}
	}
}

// cure patches m, the newest manifest h, and says how.
func (a *Admin) cure(ctx context.Context, h *Head, m *manifest.Manifest, found []Finding, o *RepairOptions) (*manifest.Manifest, []string, error) {
	if m.UnknownFields {
		return nil, nil, &ObjectError{Key: ManifestKey(a.Root, h.ID), Err: fmt.Errorf("fields that this release of quarry does not know: %w", manifest.ErrUnwritable)}
	}
	cure := []string{}
	has := func(c Code) bool { return slices.ContainsFunc(found, func(f Finding) bool { return f.Code == c }) }
	// Segments first: their tables may need the other cure too.
	if has(SegmentsLost) {
		what, err := a.restoreSegments(ctx, h, m)
		if err != nil {
			return nil, nil, err
		}
		cure = append(cure, what...)
	}
	if has(FilterFormatMismatch) {
		what, err := a.restoreFilters(ctx, m)
		if err != nil {
			return nil, nil, err
		}
		cure = append(cure, what...)
	}
	if has(BoundaryAhead) {
		mark, err := Boundary(ctx, a.Store, a.Root)
		if err != nil {
			return nil, nil, err
		}
		if mark >= h.ID {
			cure = append(cure, fmt.Sprintf("manifest %d again as %d to %d, above the boundary %d", h.ID, h.ID+1, mark+1, mark))
		}
	}
	if len(cure) == 0 {
		return m, nil, nil
	}
	if o.Fence {
		m.WriterEpoch++
		m.CompactorEpoch++
		cure = append(cure, fmt.Sprintf("writer epoch %d, compactor epoch %d: who has it open is fenced", m.WriterEpoch, m.CompactorEpoch))
	}
	if err := allThere(ctx, a.Store, a.Root, h.ID+1, m); err != nil {
		return nil, nil, fmt.Errorf("a manifest that is right would need what is not there: %w", err)
	}
	return m, cure, nil
}

// restoreSegments takes the trees of the newest manifest that had segments.
func (a *Admin) restoreSegments(ctx context.Context, h *Head, m *manifest.Manifest) ([]string, error) {
	if segmentedBy(m) != "" {
		return nil, nil
	}
	all, err := listed(ctx, a.Store, below(a.Root, "manifest/"), "")
	if err != nil {
		return nil, err
	}
	var had *Head
	for _, b := range before(ctx, a.Store, a.Root, h, all) {
		if b.Manifest != nil && segmentedBy(b.Manifest) != "" {
			had = b
		}
	}
	if had == nil {
		return nil, &ObjectError{Key: ManifestKey(a.Root, h.ID), Err: fmt.Errorf("the manifest that had the segments: %w", fs.ErrNotExist)}
	}
	if !restorable(m, had.Manifest) {
		return nil, &ObjectError{Key: ManifestKey(a.Root, h.ID), Err: fmt.Errorf("%w: rows were written since manifest %d, which had them", ErrSegmented, had.ID)}
	}
	from := had.Manifest.Clone()
	m.Version, m.Tree, m.Segments, m.ExtractorName = manifest.V2, from.Tree, from.Segments, from.ExtractorName
	return []string{fmt.Sprintf("%d segments by %q, from manifest %d", len(m.Segments), m.ExtractorName, had.ID)}, nil
}

// restoreFilters takes the filter formats from the tables themselves.
func (a *Admin) restoreFilters(ctx context.Context, m *manifest.Manifest) ([]string, error) {
	v := &verification{ctx: ctx, s: &counter{s: a.Store}, root: a.Root}
	formats := map[string]int8{}
	err := v.each(needed(a.Root, []pinnedState{{0, m, false}}), func(n *need) {
		size, ok := v.present(n)
		if !ok {
			return
		}
		foot, err := v.footer(n.key, size, n.views[0].table.Info)
		if err != nil {
			v.tableFault(n.key, err)
			return
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		formats[n.key] = foot.Info.FilterFormat
	})
	if err != nil {
		return nil, err
	}
	if len(v.rep.Findings) > 0 {
		f := v.rep.Findings[0]
		return nil, &ObjectError{Key: f.Object, Err: errors.New(f.What)}
	}
	keyOf := tableKeys(a.Root, m)
	changed := map[string]bool{}
	m.Trees(func(_ []byte, t *manifest.Tree) {
		for r := range t.Runs {
			t.Runs[r].Tables = slices.Clone(t.Runs[r].Tables) // a clone shares them
		}
	})
	m.Tables(func(t *manifest.Table) {
		if key := keyOf(t.ID); t.Info.FilterFormat != formats[key] {
			t.Info.FilterFormat = formats[key]
			changed[key] = true
		}
	})
	if len(changed) == 0 {
		return nil, nil
	}
	return []string{fmt.Sprintf("the filter format of %d tables, from their own footers", len(changed))}, nil
}
