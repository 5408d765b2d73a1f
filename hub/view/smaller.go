package view

import (
	"iter"

	"github.com/tidwall/btree"
)

// rows is one of the smaller resources: its rows in the order of lists, the same rows in the
// order of keys, and which keys changed when.
type rows[T any] struct {
	key   func(*T) string
	probe func(parts []string) *T // a row with just the fields of its key
	less  func(a, b *T) bool

	list *btree.BTreeG[*T] // in the order of lists
	keys *btree.BTreeG[*T] // in the order of keys
	log  changes
}

// changes says which key changed last at which publication, newest wins.
type changes struct {
	tree *btree.BTreeG[change]
	// floor: changes up to here may have been forgotten.
	floor uint64
}

type change struct {
	seq uint64
	key string
}

// The trees carry no locks: only the builder writes, and only to trees that
// no published view holds.
var unlocked = btree.Options{NoLocks: true}

func newRows[T any](key func(*T) string, probe func([]string) *T, less, byKey func(a, b *T) bool) rows[T] {
	return rows[T]{
		key:   key,
		probe: probe,
		less:  less,
		list:  btree.NewBTreeGOptions(less, unlocked),
		keys:  btree.NewBTreeGOptions(byKey, unlocked),
		log: changes{tree: btree.NewBTreeGOptions(func(a, b change) bool {
			if a.seq != b.seq {
				return a.seq < b.seq
			}
			return a.key < b.key
		}, unlocked)},
	}
}

func (t *rows[T]) get(probe *T) *T {
	r, _ := t.keys.Get(probe)
	return r
}

func (t *rows[T]) all() iter.Seq[*T] {
	return func(yield func(*T) bool) { t.list.Scan(yield) }
}

func (t *rows[T]) from(pivot *T, while func(*T) bool) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		t.list.Ascend(pivot, func(r *T) bool { return while(r) && yield(r) })
	}
}

// set puts a row in the place of the one with its key.
func (t *rows[T]) set(r *T) {
	if old, had := t.keys.Set(r); had && (t.less(old, r) || t.less(r, old)) {
		t.list.Delete(old)
	}
	t.list.Set(r)
}

// load is set for many rows in the order of lists, when there are none yet.
func (t *rows[T]) load(rows []*T) {
	for _, r := range rows {
		if old, had := t.keys.Load(r); had && (t.less(old, r) || t.less(r, old)) {
			t.list.Delete(old)
		}
		t.list.Load(r)
	}
}

func (t *rows[T]) remove(probe *T) (*T, bool) {
	old, had := t.keys.Delete(probe)
	if had {
		t.list.Delete(old)
	}
	return old, had
}

// share gives a table that keeps what this one holds now.
func (t *rows[T]) share() rows[T] {
	c := *t
	c.list, c.keys, c.log.tree = t.list.Copy(), t.keys.Copy(), t.log.tree.Copy()
	return c
}

func row[T any](t *rows[T], key string) any {
	p := t.probe(split(key))
	if p == nil {
		return nil
	}
	if r := t.get(p); r != nil {
		return r
	}
	return nil
}
