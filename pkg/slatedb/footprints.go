package slatedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// Filters asks the tables of a manifest themselves whether their filters are
// of the old format, as it says of them; a process of release 0.12 says so of
// all. It reads the ends of at most that many tables, two requests each, and
// none of a manifest that says so of none. Tables that are not there or damaged are
// passed over: [Verify] names them. An error means that the store did not
// answer. h must have a manifest.
func Filters(ctx context.Context, s Store, h *Head, most int) ([]Finding, error) {
	v := &verification{ctx: ctx, s: &counter{s: s}}
	keyOf := tableKeys(h.Root, h.Manifest)
	var found []Finding
	var failed error
	asked := map[string]bool{}
	h.Manifest.Tables(func(t *manifest.Table) {
		key := keyOf(t.ID)
		if failed != nil || t.Info.FilterFormat != 0 || asked[key] || len(asked) >= most {
			return
		}
		asked[key] = true
		size, _, err := s.Stat(ctx, key)
		if err == nil {
			foot, ferr := v.footer(key, size, t.Info)
			if err = ferr; err == nil && foot.Info.FilterFormat != 0 {
				found = append(found, filterMismatch(key, h.ID, t.Info.FilterFormat, foot.Info.FilterFormat))
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, sst.ErrCorrupt) && !errors.Is(err, errShort) {
			failed = fmt.Errorf("read the end of %s: %w", key, err)
		}
	})
	return found, failed
}

// Missing asks the store for the tables that a manifest names and listed, the
// keys of a listing of the database's own folder, does not have; for at most
// that many, a request each. It is for who has listed anyway. What a collector
// takes while the database moves on is told too: whoever concludes something
// makes sure that h is still the newest. h must have a manifest.
func Missing(ctx context.Context, s Store, h *Head, listed map[string]bool, most int) ([]Finding, error) {
	keyOf := tableKeys(h.Root, h.Manifest)
	own := below(h.Root, "")
	var found []Finding
	var failed error
	h.Manifest.Tables(func(t *manifest.Table) {
		key := keyOf(t.ID)
		if failed != nil || listed[key] || most == 0 || len(key) < len(own) || key[:len(own)] != own {
			return
		}
		listed[key] = true
		most--
		_, _, err := s.Stat(ctx, key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			found = append(found, Finding{Code: ObjectMissing, Object: key, What: fmt.Sprintf("needed by manifest %d", h.ID), Who: theirReads, Cure: fromCopy})
		case err != nil:
			failed = fmt.Errorf("look for %s: %w", key, err)
		}
	})
	return found, failed
}

// Headless is the finding that a newest manifest which cannot be read amounts
// to, from the error that [Latest] gave with it. ok is false when the error
// says nothing of the database: the store did not answer.
func Headless(err error) (f Finding, ok bool) {
	oe, ok := errors.AsType[*ObjectError](err)
	if !ok {
		return Finding{}, false
	}
	if pill, is := errors.AsType[*manifest.Pill](err); is {
		return Finding{
			Code: ClosedForDeletion, Object: oe.Key, What: pill.Error(), Who: "whoever opens it: nobody can",
			Cure: "nothing, if it is to be deleted; else `quarry slatedb unpill`, as long as nothing was removed",
		}, true
	}
	if !undecodable(err) {
		return Finding{}, false
	}
	return Finding{
		Code: ManifestUnreadable, Object: oe.Key, What: oe.Err.Error(), Who: everybody,
		Cure: "stop all writers; the manifest before it may be put again as the next id when nothing was collected since",
	}, true
}
