package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// catalogEvery is how many polls lie between two looks at the catalog slate, and
// catalogRarely when it goes on moving without another declaration: what it
// keeps of placements moves all the time, and what leaves the inbox is looked
// for at once.
const (
	catalogEvery  = 60
	catalogRarely = 10 * catalogEvery
)

// fold is the catalog slate as it was last read. It belongs to its task.
type fold struct {
	head  *slatedb.Head // without contents; nil: never read
	tail  uint64        // the last WAL object that was read
	looks int
	every time.Duration // in polls; 0: catalogEvery
}

// catalogTask reads registrations from the catalog slate when there is one. It
// only reads: nobody but the region's duty writes there, and when that is this
// process it knows without reading.
func (w *Watcher) catalogTask(ctx context.Context) time.Duration {
	w.catalogMu.Lock()
	defer w.catalogMu.Unlock()
	if w.o.Keeping != nil && w.o.Keeping() {
		w.catalog.every = 0
		return catalogEvery * w.o.Poll
	}
	if w.catalog.head == nil || w.catalog.moved(ctx, w.look) {
		w.pending.Lock()
		before := w.fromCatalog
		w.pending.Unlock()
		every, err := w.catalog.every, w.refreshCatalog(ctx)
		w.pending.Lock()
		same := maps.EqualFunc(before, w.fromCatalog, sameRegistration)
		w.pending.Unlock()
		if w.catalog.every = 0; err == nil && same {
			w.catalog.every = min(max(2*every, 2*catalogEvery), catalogRarely)
		}
	}
	return max(w.catalog.every, catalogEvery) * w.o.Poll
}

// refreshCatalog reads the catalog slate anew. That there is none is no error:
// none yet, or it was taken away, and what it said stands. catalogMu is held.
func (w *Watcher) refreshCatalog(ctx context.Context) error {
	rows, bad, err := w.readCatalog(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil && (bucketWide(err) || ctx.Err() != nil):
		return err
	case err != nil:
		// What was read before stands; that it is not the newest is told.
		bad = []catalog.Finding{unreadableRegistration(catalog.CatalogRoot, err)}
		w.log.Warn("the catalog slate cannot be read", "err", err)
	}
	w.pending.Lock()
	if err == nil {
		w.fromCatalog = rows
	}
	w.badInCatalog = bad
	w.pending.Unlock()
	w.inboxAgain.Store(true)
	w.looks.hurry(w.inboxLook)
	return err
}

// TakeCatalog takes over the declarations of the catalog slate, by id, from
// the process's own region duty, which has just written them: they need not be
// read. The map must not be changed any more. It may wait for a reading of the
// catalog that is under way.
func (w *Watcher) TakeCatalog(declared map[string]catalog.Registration) {
	w.catalogMu.Lock()
	defer w.catalogMu.Unlock()
	w.pending.Lock()
	w.fromCatalog = declared
	w.pending.Unlock()
	w.inboxAgain.Store(true)
	w.looks.hurry(w.inboxLook)
}

// moved asks whether there is a newer manifest or a newer WAL object, and now
// and then whether it is still the same database. Rows lie in the WAL long
// before a manifest knows of them.
func (f *fold) moved(ctx context.Context, e eyes) bool {
	if next, err := f.head.Next(ctx, e); next != nil || err != nil {
		return true
	}
	if _, _, err := e.Stat(ctx, slatedb.WALKey(catalog.CatalogRoot, f.tail+1)); !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if f.looks++; f.looks%10 == 0 {
		still, err := f.head.StillThere(ctx, e)
		return !still || err != nil
	}
	return false
}

func (w *Watcher) readCatalog(ctx context.Context) (map[string]catalog.Registration, []catalog.Finding, error) {
	head, err := slatedb.Latest(ctx, w.look, catalog.CatalogRoot)
	if err != nil {
		return nil, nil, err
	}
	r, err := slatedb.OpenReader(ctx, w.look, catalog.CatalogRoot, slatedb.ReaderOptions{Head: head, BlockCacheBytes: -1})
	if err != nil {
		return nil, nil, err
	}
	rows, bad, err := registrationsIn(ctx, r)
	if err == nil && r.ManifestID() == head.ID {
		w.catalog.head, w.catalog.tail, w.catalog.looks = &slatedb.Head{Root: head.Root, ID: head.ID, SHA256: head.SHA256}, r.WALTail(), 0
	}
	return rows, bad, err
}

// ReadRegistrations reads all that owners declared in a bucket, in the catalog
// slate and in the inbox, ordered by id: for the command line, which has no
// watcher. Objects that cannot be understood are findings; the error is the
// store's.
func ReadRegistrations(ctx context.Context, b *bucket.Bucket) ([]catalog.Registration, []catalog.Finding, error) {
	var bad []catalog.Finding
	inbox := map[string]catalog.Registration{}
	// The inbox first: what is folded in meanwhile is in the catalog then.
	objects, _, err := b.List(ctx, catalog.InboxPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list the inbox: %w", err)
	}
	for _, o := range objects {
		if !strings.HasSuffix(o.Key, ".json") {
			continue
		}
		if err := fitting(o.Key, o.Size); err != nil {
			bad = append(bad, unreadableRegistration(o.Key, err))
			continue
		}
		raw, err := b.Get(ctx, o.Key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // folded in since it was listed
		}
		if err != nil {
			return nil, nil, err
		}
		reg, err := catalog.ReadRegistration(o.Key, raw)
		if err != nil {
			bad = append(bad, unreadableRegistration(o.Key, err))
			continue
		}
		inbox[reg.ID] = reg
	}
	all := map[string]catalog.Registration{}
	r, err := slatedb.OpenReader(ctx, b, catalog.CatalogRoot, slatedb.ReaderOptions{})
	if err == nil {
		var strange []catalog.Finding
		all, strange, err = registrationsIn(ctx, r)
		bad = append(strange, bad...)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil // nobody has made one
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the catalog slate: %w", err)
	}
	maps.Copy(all, inbox)
	return slices.SortedFunc(maps.Values(all), func(a, b catalog.Registration) int { return strings.Compare(a.ID, b.ID) }), bad, nil
}

// Standing says which declaration of each root stands, by root: the first
// registration that no later deregistration of its slate withdrew.
func Standing(all []catalog.Registration) map[string]catalog.Registration {
	byID := map[string]catalog.Registration{}
	for _, r := range all {
		byID[r.ID] = r
	}
	standing, _ := stand(byID)
	return standing
}

// registrationsIn are the registrations of the catalog slate by id; rows that
// cannot be understood are findings and hide no others.
func registrationsIn(ctx context.Context, r *slatedb.Reader) (map[string]catalog.Registration, []catalog.Finding, error) {
	all := map[string]catalog.Registration{}
	var bad []catalog.Finding
	for e, err := range r.ScanPrefix(ctx, []byte(catalog.RowPrefix+"slate/")) {
		if err != nil {
			return nil, nil, err
		}
		if !catalog.HoldsDeclaration(string(e.Key[len(catalog.RowPrefix):])) {
			continue
		}
		var id struct{ ID string }
		reg, err := catalog.Registration{}, json.Unmarshal(e.Value, &id)
		if err == nil {
			reg, err = catalog.ReadRegistration(id.ID+".json", e.Value)
		}
		if err != nil {
			bad = append(bad, unreadableRegistration(catalog.CatalogRoot+" "+string(e.Key[2:]), err))
			continue
		}
		all[reg.ID] = reg
	}
	return all, bad, nil
}

// fitting refuses what others dropped and nobody has to read.
func fitting(key string, size int64) error {
	if size > catalog.MaxDeclared {
		return fmt.Errorf("%s: %d bytes, at most %d: %w", key, size, catalog.MaxDeclared, catalog.ErrInvalid)
	}
	return nil
}

func unreadableRegistration(object string, err error) catalog.Finding {
	return catalog.Finding{
		Code: "registration-unreadable", Object: object, What: err.Error() + "; it is passed over",
		Cure: "remove it, and write it again as its error says",
	}
}
