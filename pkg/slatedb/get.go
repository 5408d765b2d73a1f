package slatedb

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"slices"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// Get returns the entry of key, which is the caller's; an error that wraps
// [fs.ErrNotExist] when there is none. It asks the filters first and reads one
// block of each table that may hold the key, never a whole table.
func (r *Reader) Get(ctx context.Context, key []byte) (Entry, error) {
	var rows []sst.Row
	for _, t := range r.mem {
		var done bool
		if rows, done = t.get(key, rows); done {
			return entryOf(key, rows)
		}
	}
	for _, row := range r.replayed.in(span{key, after(key)}) {
		rows = append(rows, row)
		if !row.Merge() {
			return entryOf(key, rows) // nothing in a table is newer
		}
	}
	found := len(rows)
	for i := range r.trees {
		if t := &r.trees[i]; t.under(key) {
			var err error
			if rows, err = r.getTree(ctx, t, key, rows); err != nil {
				return Entry{}, err
			}
		}
	}
	// Only one tree holds a key, unless a database was made segmented by
	// hand: then sequence numbers tell what is newer.
	slices.SortStableFunc(rows[found:], func(a, b sst.Row) int {
		switch {
		case a.Seq > b.Seq:
			return -1
		case a.Seq < b.Seq:
			return 1
		}
		return 0
	})
	return entryOf(key, rows)
}

// entryOf makes the entry of the rows of key, newest first.
func entryOf(key []byte, rows []sst.Row) (Entry, error) {
	var g gather
	for i := range rows {
		g.add(&rows[i])
	}
	if !g.finish() {
		return Entry{}, fmt.Errorf("key %q: %w", key, fs.ErrNotExist)
	}
	g.e.Key = key
	return g.e.Clone(), nil
}

// getTree appends the rows of key in t, from the newest to the first that is
// no operand.
func (r *Reader) getTree(ctx context.Context, t *tree, key []byte, rows []sst.Row) ([]sst.Row, error) {
	var done bool
	var err error
	for i := range t.l0 {
		if rows, done, err = r.getTable(ctx, &t.l0[i], key, rows); done || err != nil {
			return rows, err
		}
	}
	for _, run := range t.runs {
		// More than one table of a run can hold the key: its versions may
		// lie on both sides of a border.
		i, _ := slices.BinarySearchFunc(run, key, func(p tablePart, key []byte) int {
			if p.to != nil && bytes.Compare(p.to, key) <= 0 {
				return -1
			}
			return 1
		})
		for ; i < len(run) && run[i].has(key); i++ {
			if rows, done, err = r.getTable(ctx, &run[i], key, rows); done || err != nil {
				return rows, err
			}
		}
	}
	return rows, nil
}

// getTable appends the rows of key in one table. done: older rows do not
// matter.
func (r *Reader) getTable(ctx context.Context, p *tablePart, key []byte, rows []sst.Row) (_ []sst.Row, done bool, err error) {
	if !p.has(key) {
		return rows, false, nil
	}
	t := p.t
	filter, err := t.Filter(ctx)
	if err != nil {
		return rows, false, t.wrap(err)
	}
	r.compare(ctx, t)
	if !filter.MayContain(key) {
		return rows, false, nil
	}
	x, err := t.Index(ctx)
	if err != nil {
		return rows, false, t.wrap(err)
	}
	var cur sst.Cursor
	for i, end := x.From(key), x.Through(key); i < end; i++ {
		// Two blocks can hold the key when it is equal to the border
		// between them; they are read together.
		b, err := r.block(ctx, t, i, min(end, i+2))
		if err != nil {
			return rows, false, t.wrap(err)
		}
		cur.Reset(b)
		cur.Seek(key)
		for cur.Next() {
			c := bytes.Compare(cur.Row.Key, key)
			if c > 0 {
				return rows, false, nil
			}
			if c == 0 {
				row := cur.Row
				row.Key = key
				rows = append(rows, row)
				if !row.Merge() {
					return rows, true, nil
				}
			}
		}
		if err := cur.Err(); err != nil {
			off, _ := x.Span(i)
			return rows, false, t.wrap(&sst.Fault{Part: sst.PartBlock, Offset: off, Err: err})
		}
	}
	return rows, false, nil
}

// block returns block i, from the cache or with those up to end.
func (r *Reader) block(ctx context.Context, t *table, i, end int) (sst.Block, error) {
	if b, ok := r.cache.get(blockID{t, i}); ok {
		return b, nil
	}
	blocks, err := t.Blocks(ctx, i, end)
	if err != nil {
		return sst.Block{}, err
	}
	for j, b := range blocks {
		r.cache.put(blockID{t, i + j}, b)
	}
	return blocks[0], nil
}

// compare tells once when the manifest has another kind of filter than the
// table, of which the table is right.
func (r *Reader) compare(ctx context.Context, t *table) {
	t.told.Do(func() {
		f, err := t.Footer(ctx)
		if err != nil || f.Info.FilterFormat == t.hint.FilterFormat {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.findings = append(r.findings, filterMismatch(t.key, r.manifestID, t.hint.FilterFormat, f.Info.FilterFormat))
	})
}
