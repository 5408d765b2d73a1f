package duty

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

const (
	foldAtOnce = 500     // inbox objects in one batch
	flushBytes = 2 << 20 // of the catalog's memtable
	flushWAL   = 200     // WAL objects that a reader has to replay at most
	// pollEvery is how often the writer looks for what others did to the
	// manifest. Nobody does anything to it, and who takes over is noticed at
	// the next write.
	pollEvery = time.Minute
)

// keeper has the catalog slate open as its writer. It belongs to one goroutine.
type keeper struct {
	b        Store
	w        *slatedb.Writer
	revision uint64
	declared map[string]catalog.Registration // by id, what the rows say
	rows     map[string]catalog.Registration // by path
	strange  map[string]bool                 // paths of rows that cannot be understood: they stay
	passed   map[string]time.Time            // inbox objects that cannot be understood, as they were
	told     func(map[string]catalog.Registration)
	seats    *seats
}

// head is the row at [catalog.HeadPath].
type head struct {
	Version  int    `json:"version"` // 1
	Holder   string `json:"holder"`
	Claim    uint64 `json:"claim"`
	Revision uint64 `json:"revision"`
}

// open opens the catalog, fences who wrote it before and reads what is in it.
// Rows that cannot be understood stay as they are; a revision that cannot is
// an error, for revisions must not go back.
func open(ctx context.Context, b Store, s *seats) (*keeper, error) {
	w, err := slatedb.Open(ctx, b, catalog.CatalogRoot, slatedb.Options{
		FlushBytes: flushBytes, FlushWAL: flushWAL, Poll: pollEvery, Tidy: &slatedb.Tidy{},
	})
	if err != nil {
		return nil, fmt.Errorf("open the catalog slate: %w", err)
	}
	k := &keeper{b: b, w: w, declared: map[string]catalog.Registration{}, rows: map[string]catalog.Registration{}, strange: map[string]bool{}, seats: s}
	if err := k.load(ctx); err != nil {
		w.Abandon()
		return nil, fmt.Errorf("read the catalog slate: %w", err)
	}
	return k, nil
}

func (k *keeper) load(ctx context.Context) error {
	for e, err := range k.w.ScanPrefix(ctx, []byte(catalog.RowPrefix)) {
		if err != nil {
			return err
		}
		row, err := catalog.DecodeRow(e.Key, e.Value)
		path := string(e.Key[len(catalog.RowPrefix):])
		if path == catalog.HeadPath && err != nil {
			return err
		}
		if err != nil {
			k.strange[path] = true
			continue
		}
		k.revision = max(k.revision, row.Revision)
		v, err := catalog.ReadRow(row)
		if err != nil {
			k.strange[path] = true
			continue
		}
		if r, ok := v.(catalog.Registration); ok {
			k.declared[r.ID], k.rows[path] = r, r
			continue
		}
		k.seats.load(path, v)
	}
	return nil
}

// fold takes what lies in the inbox and what was seen since into the catalog,
// one batch, and removes from the inbox only when the batch is durable. It
// reports how many declarations were taken and whether more lie there. What
// cannot be understood stays where it is: the watcher tells of it. After a crash
// between batch and removal the same objects are found again, change no row and
// are removed.
func (k *keeper) fold(ctx context.Context, c claim) (taken int, more bool, err error) {
	listed := map[string]time.Time{}
	err = k.b.Walk(ctx, catalog.InboxPrefix, "", func(key string, size int64, modified time.Time) error {
		id := strings.TrimPrefix(key, catalog.InboxPrefix)
		if strings.HasSuffix(id, ".json") && !strings.Contains(id, "/") && size <= catalog.MaxDeclared {
			listed[key] = modified
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	maps.DeleteFunc(k.passed, func(key string, was time.Time) bool { return !listed[key].Equal(was) })
	all, folded := maps.Clone(k.declared), []string(nil)
	for _, key := range slices.Sorted(maps.Keys(listed)) {
		if _, bad := k.passed[key]; bad {
			continue
		}
		if more = len(folded) == foldAtOnce; more {
			break
		}
		raw, err := k.b.Get(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, false, err
		}
		r, err := catalog.ReadRegistration(key, raw)
		if was, used := all[r.ID]; err != nil || used && !same(was, r) {
			// Of an id that is used twice the first stands.
			if k.passed == nil {
				k.passed = map[string]time.Time{}
			}
			k.passed[key] = listed[key]
			continue
		}
		all[r.ID] = r
		folded = append(folded, key)
	}
	var declared map[string]catalog.Registration
	if len(folded) > 0 {
		declared = catalog.Settled(all)
	}
	was := k.revision
	if err := k.write(ctx, c, declared); err != nil {
		return 0, false, err
	}
	if len(folded) > 0 && k.revision == was {
		// Nothing was written, and so nothing has said yet that the rows with
		// which this was compared are the newest.
		if err := k.w.Still(ctx); err != nil {
			return 0, false, fmt.Errorf("before what was folded is removed: %w", err)
		}
	}
	for _, key := range folded {
		if err := k.b.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, false, fmt.Errorf("remove what was folded: %w", err)
		}
	}
	return len(folded), more, nil
}

func same(a, b catalog.Registration) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// follow takes what was seen since into the catalog, and leaves the inbox for
// another time.
func (k *keeper) follow(ctx context.Context, c claim) error { return k.write(ctx, c, nil) }

// write makes the rows those of declared and of what is seen, in one batch with
// the next revision. Rows that are as they should be are not written. declared is
// nil when nothing was declared.
func (k *keeper) write(ctx context.Context, c claim, declared map[string]catalog.Registration) error {
	ch := &changes{revision: k.revision + 1, strange: k.strange}
	var rows map[string]catalog.Registration
	if declared != nil {
		var err error
		if rows, err = k.declare(ch, declared); err != nil {
			return err
		}
	}
	if err := k.seats.gather(ctx, ch, sync.OnceValue(k.w.Snapshot)); err != nil {
		return err
	}
	if ch.batch.Len() == 0 {
		return nil
	}
	if err := ch.put(catalog.HeadPath, head{Version: 1, Holder: c.Holder, Claim: c.Number}); err != nil {
		return err
	}
	if _, err := k.w.Write(ctx, &ch.batch); err != nil {
		return fmt.Errorf("write revision %d of the catalog: %w", ch.revision, err)
	}
	k.revision = ch.revision
	if rows != nil {
		k.declared, k.rows = declared, rows
		k.tell()
	}
	return nil
}

// declare puts the rows of declared into a batch, and returns them; nil when
// they are those that the catalog has.
func (k *keeper) declare(ch *changes, declared map[string]catalog.Registration) (map[string]catalog.Registration, error) {
	want, before := catalog.DeclarationPaths(declared), ch.batch.Len()
	for path := range k.strange {
		if r, taken := want[path]; taken {
			delete(want, path)
			want[catalog.DeclaredPath(r.Slate, r.ID)] = r
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if was, ok := k.rows[path]; ok && same(was, want[path]) {
			continue
		}
		if err := ch.put(path, want[path]); err != nil {
			return nil, err
		}
	}
	for path := range k.rows {
		if _, still := want[path]; !still {
			ch.remove(path)
		}
	}
	if ch.batch.Len() == before {
		return nil, nil
	}
	return want, nil
}

func (k *keeper) tell() {
	if k.told != nil {
		k.told(maps.Clone(k.declared))
	}
}
