package sst

import (
	"bytes"
	"context"
	"errors"
)

// ErrOrder is wrapped by faults of rows that are whole but not where they may
// be.
var ErrOrder = errors.New("rows out of order")

// Check reads the whole table in long requests and calls found with every
// fault: checksums, the order of rows, the borders of blocks, first and last
// key, statistics, and keys that the filter denies. It returns the number of
// rows read; an error only when the table could not be read.
func (t *Table) Check(ctx context.Context, found func(*Fault)) (rows int64, err error) {
	// failed sorts damage, which is told, from failed reads.
	failed := func(err error) error {
		if f, ok := IsFault(err); ok {
			found(f)
			return nil
		}
		return err
	}
	p, err := t.load(ctx, false)
	if err != nil {
		return 0, failed(err)
	}
	c := checker{t: t, p: p, found: found}
	if f, err := t.Filter(ctx); err != nil {
		if err := failed(err); err != nil {
			return 0, err
		}
	} else {
		c.filter = f
	}
	if !p.index.Ordered() {
		c.fault(PartIndex, p.foot.Info.IndexOffset, "separators do not ascend")
	}
	s := Scanner{t: t, p: p, until: len(p.index.Blocks), size: lastChunk}
	for s.next < s.until {
		from, to := s.plan()
		chunk, err := t.readChunk(ctx, p, from, to, s.chunk.arena)
		for i, b := range chunk.blocks {
			c.block(from+i, b)
		}
		if err != nil {
			if err := failed(err); err != nil {
				return c.rows, err
			}
			c.damaged = true
			s.next = from + len(chunk.blocks) + 1
		}
		s.chunk = chunk
	}
	c.end()
	st, ok, err := t.Stats(ctx)
	if err != nil {
		return c.rows, failed(err)
	}
	if ok && !c.damaged && (st.Puts != c.stats.Puts || st.Deletes != c.stats.Deletes || st.Merges != c.stats.Merges) {
		c.fault(PartStats, p.foot.Info.StatsOffset, "%d puts, %d deletes, %d merges; rows are %d, %d, %d",
			st.Puts, st.Deletes, st.Merges, c.stats.Puts, c.stats.Deletes, c.stats.Merges)
	}
	return c.rows, nil
}

type checker struct {
	t       *Table
	p       *parts
	filter  *Filter
	found   func(*Fault)
	cur     Cursor
	last    []byte
	lastSeq uint64
	rows    int64
	stats   Stats
	damaged bool
}

func (c *checker) fault(part Part, off uint64, format string, args ...any) {
	c.found(&Fault{Part: part, Offset: int64(off), Err: corrupt(format, args...)})
}

func (c *checker) disorder(off uint64, format string, args ...any) {
	c.found(&Fault{Part: PartBlock, Offset: int64(off), Err: errors.Join(ErrOrder, corrupt(format, args...))})
}

// block checks the rows of block i. One fault of a kind is enough.
func (c *checker) block(i int, b Block) {
	meta := c.p.index.Blocks[i]
	info := &c.p.foot.Info
	c.cur.Reset(b)
	restart, denied, disorder := 0, false, false
	for n := 0; c.cur.Next(); n++ {
		r := &c.cur.Row
		if restart < b.offsets() && b.offset(restart) == c.cur.before {
			if b.format == V2 {
				if _, ok := c.cur.restart(restart); !ok {
					c.fault(PartBlock, meta.Offset, "restart %d shares bytes with the row before", restart)
				}
			}
			restart++
		}
		if n == 0 && i > 0 && c.rows > 0 && !c.damaged && bytes.Compare(meta.Key, c.last) < 0 {
			c.fault(PartIndex, info.IndexOffset, "separator %d is below the last key before it", i)
		}
		switch cmp := bytes.Compare(c.last, r.Key); {
		case disorder:
		case c.rows > 0 && cmp > 0:
			c.disorder(meta.Offset, "row %d has a key below the one before", n)
			disorder = true
		case c.rows > 0 && cmp == 0 && c.lastSeq <= r.Seq:
			c.disorder(meta.Offset, "row %d has sequence number %d after %d of the same key", n, r.Seq, c.lastSeq)
			disorder = true
		case bytes.Compare(r.Key, meta.Key) < 0:
			c.disorder(meta.Offset, "row %d has a key below the separator", n)
			disorder = true
		case info.FirstKey != nil && bytes.Compare(r.Key, info.FirstKey) < 0,
			info.LastKey != nil && bytes.Compare(r.Key, info.LastKey) > 0:
			c.disorder(meta.Offset, "row %d has a key outside of the first and last of the table", n)
			disorder = true
		}
		if c.filter != nil && !denied && !c.filter.MayContain(r.Key) {
			c.fault(PartFilter, info.FilterOffset, "denies a key of the block at %d", meta.Offset)
			denied = true
		}
		switch {
		case r.Tombstone():
			c.stats.Deletes++
		case r.Merge():
			c.stats.Merges++
		default:
			c.stats.Puts++
		}
		c.last, c.lastSeq = append(c.last[:0], r.Key...), r.Seq
		c.rows++
	}
	if err := c.cur.Err(); err != nil {
		c.found(&Fault{Part: PartBlock, Offset: int64(meta.Offset), Err: err})
		c.damaged = true
	} else if restart != b.offsets() {
		c.fault(PartBlock, meta.Offset, "offset %d of %d is not where a row begins", restart, b.offsets())
	}
}

// end checks what only the last row shows.
func (c *checker) end() {
	info := &c.p.foot.Info
	if !c.damaged && c.rows > 0 && info.LastKey != nil && !bytes.Equal(c.last, info.LastKey) {
		c.disorder(info.IndexOffset, "the last row does not have the last key of the table")
	}
}
