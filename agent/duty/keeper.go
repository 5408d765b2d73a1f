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
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

const (
	foldAtOnce = 500     // inbox objects in one batch
	flushBytes = 8 << 20 // of the catalog's memtable
	flushWAL   = 200     // WAL objects that a reader has to replay at most
)

// keeper has the catalog slate open as its writer. It belongs to one goroutine.
type keeper struct {
	b        *bucket.Bucket
	w        *slatedb.Writer
	revision uint64
	declared map[string]catalog.Registration // by id, what the rows say
	rows     map[string]catalog.Registration // by path
	strange  map[string]bool                 // paths of rows that cannot be understood: they stay
	passed   map[string]time.Time            // inbox objects that cannot be understood, as they were
	told     func(map[string]catalog.Registration)
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
func open(ctx context.Context, b *bucket.Bucket) (*keeper, error) {
	w, err := slatedb.Open(ctx, b, catalog.CatalogRoot, slatedb.Options{FlushBytes: flushBytes, FlushWAL: flushWAL, Tidy: &slatedb.Tidy{}})
	if err != nil {
		return nil, fmt.Errorf("open the catalog slate: %w", err)
	}
	k := &keeper{b: b, w: w, declared: map[string]catalog.Registration{}, rows: map[string]catalog.Registration{}, strange: map[string]bool{}}
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
		if !catalog.HoldsDeclaration(row.Path) {
			continue
		}
		var id struct{ ID string }
		if json.Unmarshal(row.Value, &id) != nil || id.ID == "" {
			k.strange[path] = true
			continue
		}
		r, err := catalog.ReadRegistration(id.ID+".json", row.Value)
		if err != nil {
			k.strange[path] = true
			continue
		}
		k.declared[r.ID], k.rows[path] = r, r
	}
	return nil
}

// fold takes what lies in the inbox into the catalog, one batch, and removes it
// only when the batch is durable. It reports how many were taken and whether
// more lie there. What cannot be understood stays where it is: the watcher
// tells of it. After a crash between batch and removal the same objects are
// found again, change no row and are removed.
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
	if len(folded) == 0 {
		return 0, false, nil
	}
	if err := k.write(ctx, c, catalog.Settled(all)); err != nil {
		return 0, false, err
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

// write makes the rows those of declared, in one batch with the next revision.
// Rows that are as they should be are not written.
func (k *keeper) write(ctx context.Context, c claim, declared map[string]catalog.Registration) error {
	want, next := catalog.DeclarationPaths(declared), k.revision+1
	for path := range k.strange {
		if r, taken := want[path]; taken {
			delete(want, path)
			want[catalog.DeclaredPath(r.Slate, r.ID)] = r
		}
	}
	var batch slatedb.Batch
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if was, ok := k.rows[path]; ok && same(was, want[path]) {
			continue
		}
		row, err := catalog.EncodeRow(path, want[path], next)
		if err != nil {
			return err
		}
		batch.Put(row.Key(), row.Value)
	}
	for path := range k.rows {
		if _, still := want[path]; !still {
			batch.Delete(catalog.Row{Path: path}.Key())
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	row, err := catalog.EncodeRow(catalog.HeadPath, head{Version: 1, Holder: c.Holder, Claim: c.Number}, next)
	if err != nil {
		return err
	}
	batch.Put(row.Key(), row.Value)
	if _, err := k.w.Write(ctx, &batch); err != nil {
		return fmt.Errorf("write revision %d of the catalog: %w", next, err)
	}
	k.revision, k.declared, k.rows = next, declared, want
	k.tell()
	return nil
}

func (k *keeper) tell() {
	if k.told != nil {
		k.told(maps.Clone(k.declared))
	}
}
