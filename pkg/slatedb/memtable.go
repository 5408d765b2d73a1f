package slatedb

import (
	"bytes"

	"github.com/tidwall/btree"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// memtable is the rows that are in the WAL and not yet in a table, in the order
// of their keys, versions of one key newest first. One goroutine at a time; a
// copy does not change and may be read by many.
type memtable struct {
	rows    *btree.BTreeG[*sst.Row]
	bytes   int
	lastSeq uint64
	// lastWAL is the last WAL object whose rows are all in here or in
	// older memtables.
	lastWAL uint64
	// table is the table made of it, once it is in the store.
	table *manifest.Table
}

func newMemtable() *memtable {
	return &memtable{rows: btree.NewBTreeGOptions(func(a, b *sst.Row) bool {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c < 0
		}
		return a.Seq > b.Seq
	}, btree.Options{NoLocks: true})}
}

// add takes a row, whose memory it keeps.
func (m *memtable) add(r *sst.Row) {
	m.rows.Set(r)
	m.bytes += len(r.Key) + len(r.Value) + 64
	m.lastSeq = max(m.lastSeq, r.Seq)
}

// copy costs little however many rows there are.
func (m *memtable) copy() *memtable {
	c := *m
	c.rows = m.rows.Copy()
	return &c
}

// firstOf is before all versions of key.
func firstOf(key []byte) *sst.Row { return &sst.Row{Key: key, Seq: ^uint64(0)} }

// get appends the rows of key down to the first that is no operand. done:
// older rows do not matter.
func (m *memtable) get(key []byte, rows []sst.Row) (_ []sst.Row, done bool) {
	m.rows.Ascend(firstOf(key), func(r *sst.Row) bool {
		if !bytes.Equal(r.Key, key) {
			return false
		}
		rows = append(rows, *r)
		done = !r.Merge()
		return !done
	})
	return rows, done
}

// in returns the rows of w and the key of the first; nil when there are none.
func (m *memtable) in(w span) (source, []byte) {
	s := &treeSource{it: m.rows.Iter(), to: w.to}
	if len(w.from) > 0 {
		s.more = s.it.Seek(firstOf(w.from))
	} else {
		s.more = s.it.First()
	}
	if !s.more || w.to != nil && bytes.Compare(s.it.Item().Key, w.to) >= 0 {
		s.it.Release()
		return nil, nil
	}
	return s, s.it.Item().Key
}

// treeSource walks over a memtable that does not change.
type treeSource struct {
	it    btree.IterG[*sst.Row]
	to    []byte
	begun bool
	more  bool
}

func (s *treeSource) next() bool {
	if !s.begun {
		s.begun = true
	} else if s.more {
		s.more = s.it.Next()
	}
	if s.more && s.to != nil && bytes.Compare(s.it.Item().Key, s.to) >= 0 {
		s.more = false
	}
	return s.more
}

func (s *treeSource) row() *sst.Row { return s.it.Item() }
func (s *treeSource) err() error    { return nil }
func (s *treeSource) close()        { s.it.Release() }

// flushed gives the rows that a table must have: of each key the newest
// version, and older ones down to the first that is no operand. Older ones
// nobody can ask for: snapshots keep the memtable itself. As SlateDB does it, a
// row that has expired by tick is a tombstone, so that no older one comes back.
func (m *memtable) flushed(tick int64, each func(r *sst.Row) error) error {
	var last []byte
	any, done := false, false
	var err error
	m.rows.Scan(func(r *sst.Row) bool {
		if any && bytes.Equal(r.Key, last) {
			if done {
				return true
			}
		} else {
			last, any = r.Key, true
		}
		done = !r.Merge()
		err = each(settled(r, tick))
		return err == nil
	})
	return err
}
