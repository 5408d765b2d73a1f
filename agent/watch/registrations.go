package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// ReadRegistrations reads all that owners declared in a bucket, in the catalog
// slate and in the inbox, ordered by id: for the command line, which has no
// watcher. Objects that cannot be understood are findings; the error is the
// store's.
func ReadRegistrations(ctx context.Context, b *bucket.Bucket) ([]catalog.Registration, []catalog.Finding, error) {
	var bad []catalog.Finding
	unreadable := func(key string, err error) {
		bad = append(bad, catalog.Finding{Code: "registration-unreadable", Object: key, What: err.Error()})
	}
	all := map[string]catalog.Registration{}
	r, err := slatedb.OpenReader(ctx, b, catalog.CatalogRoot, slatedb.ReaderOptions{})
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, fmt.Errorf("read the catalog slate: %w", err)
	default:
		for e, err := range r.ScanPrefix(ctx, catalogPrefix) {
			if err != nil {
				return nil, nil, fmt.Errorf("read the catalog slate: %w", err)
			}
			reg, ok, err := catalogRow(e)
			switch {
			case err != nil:
				unreadable(catalog.CatalogRoot+" "+string(e.Key[2:]), err)
			case ok:
				all[reg.ID] = reg
			}
		}
	}
	objects, _, err := b.List(ctx, catalog.InboxPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list the inbox: %w", err)
	}
	for _, o := range objects {
		if !strings.HasSuffix(o.Key, ".json") {
			continue
		}
		if o.Size > catalog.MaxDeclared {
			unreadable(o.Key, fmt.Errorf("%d bytes, at most %d", o.Size, catalog.MaxDeclared))
			continue
		}
		raw, err := b.Get(ctx, o.Key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // folded in since it was listed
		}
		if err != nil {
			return nil, nil, err
		}
		reg, err := catalog.DecodeRegistration(o.Key, raw)
		if err != nil {
			unreadable(o.Key, err)
			continue
		}
		all[reg.ID] = reg
	}
	var out []catalog.Registration
	for _, reg := range all {
		out = append(out, reg)
	}
	slices.SortFunc(out, func(a, b catalog.Registration) int { return strings.Compare(a.ID, b.ID) })
	return out, bad, nil
}

// catalogRow decodes a row of the catalog slate; ok is false for rows that are
// no registrations.
func catalogRow(e *slatedb.Entry) (reg catalog.Registration, ok bool, err error) {
	if !strings.HasSuffix(string(e.Key), "/registration") {
		return reg, false, nil
	}
	var id struct{ ID string }
	if err := json.Unmarshal(e.Value, &id); err != nil {
		return reg, false, err
	}
	reg, err = catalog.DecodeRegistration(id.ID+".json", e.Value)
	return reg, err == nil, err
}
