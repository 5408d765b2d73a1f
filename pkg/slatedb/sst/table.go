package sst

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// ReadRange reads from one object: n bytes from off, fewer only when the
// object ends. Calls may run at once; the result belongs to the caller.
type ReadRange func(ctx context.Context, off, n int64) ([]byte, error)

// Table is a table in an object store. Nothing is read before it is needed;
// what lies together is read in one request. Calls may run at once.
type Table struct {
	read ReadRange
	hint manifest.Info
	busy chan struct{} // one loads, the others wait
	got  atomic.Pointer[parts]
}

// parts is what was read of the end of a table. It is replaced, not changed.
type parts struct {
	foot   Footer
	index  Index
	filter *Filter // nil: not read yet
	tail   []byte  // from tailAt to the end of the object
	tailAt int64
}

// NewTable returns the table behind read. Hint is what the manifest says of
// the table: it tells where to read first, but the footer decides.
func NewTable(read ReadRange, hint manifest.Info) *Table {
	return &Table{read: read, hint: hint, busy: make(chan struct{}, 1)}
}

// Whole returns the table in object, which must not change.
func Whole(object []byte) (*Table, error) {
	f, _, err := ParseFooter(object, int64(len(object)))
	if err != nil {
		return nil, err
	}
	return NewTable(func(_ context.Context, off, n int64) ([]byte, error) {
		off = min(max(off, 0), int64(len(object)))
		end := min(off+max(n, 0), int64(len(object)))
		return object[off:end:end], nil
	}, f.Info), nil
}

// Footer returns the footer, reading the end of the table when nothing was
// read before.
func (t *Table) Footer(ctx context.Context) (Footer, error) {
	p, err := t.load(ctx, false)
	if err != nil {
		return Footer{}, err
	}
	return p.foot, nil
}

// Index returns the index, read with the footer in one request.
func (t *Table) Index(ctx context.Context) (*Index, error) {
	p, err := t.load(ctx, false)
	if err != nil {
		return nil, err
	}
	return &p.index, nil
}

// Filter returns the filter; when nothing was read before, footer and index
// come with it in one request. A table without a filter gives one that knows
// nothing.
func (t *Table) Filter(ctx context.Context) (*Filter, error) {
	p, err := t.load(ctx, true)
	if err != nil {
		return nil, err
	}
	return p.filter, nil
}

// Stats returns the statistics and whether the table has any.
func (t *Table) Stats(ctx context.Context) (Stats, bool, error) {
	p, err := t.load(ctx, false)
	if err != nil {
		return Stats{}, false, err
	}
	i := p.foot.Info
	if i.StatsLen == 0 {
		return Stats{}, false, nil
	}
	plain, err := t.part(ctx, p, PartStats, i.StatsOffset, i.StatsLen)
	if err != nil {
		return Stats{}, false, err
	}
	s, err := ParseStats(plain)
	if err != nil {
		return Stats{}, false, fault(PartStats, int64(i.StatsOffset), err)
	}
	return s, true, nil
}

// load reads what is missing of footer, index and, if asked for, filter.
func (t *Table) load(ctx context.Context, filter bool) (*parts, error) {
	if p := t.got.Load(); p != nil && (p.filter != nil || !filter) {
		return p, nil
	}
	select {
	case t.busy <- struct{}{}:
		defer func() { <-t.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p := t.got.Load()
	if p == nil {
		var err error
		if p, err = t.loadEnd(ctx, filter); err != nil {
			return nil, err
		}
	}
	if filter && p.filter == nil {
		f, err := t.loadFilter(ctx, p)
		if err != nil {
			return nil, err
		}
		p = &parts{foot: p.foot, index: p.index, filter: &f}
	}
	// The statistics are read once in a while at most: no reason to keep
	// the end of the object for them.
	keep := *p
	keep.tail = nil
	t.got.Store(&keep)
	return &keep, nil
}

// loadEnd reads footer and index in one request if the manifest knows where
// they are, beginning with the filter when that is wanted too.
func (t *Table) loadEnd(ctx context.Context, filter bool) (*parts, error) {
	h := t.hint
	from := h.IndexOffset
	if filter && h.FilterLen > 0 && h.FilterOffset < from && from-h.FilterOffset <= MaxPart {
		from = h.FilterOffset
	}
	if h.Size() < from || h.Size()-from > 3*MaxPart || from > 1<<62 {
		return nil, fault(PartFooter, 0, corrupt("the manifest has the index at %d and the end at %d", from, h.Size()))
	}
	// Info repeats the two keys; its other fields take some hundred bytes.
	n := int64(h.Size()-from) + int64(len(h.FirstKey)+len(h.LastKey)) + 512
	tail, err := t.read(ctx, int64(from), n)
	if err != nil {
		return nil, err
	}
	if int64(len(tail)) == n { // longer than the manifest knows
		more, err := t.read(ctx, int64(from)+n, MaxInfo)
		if err != nil {
			return nil, err
		}
		if len(more) == MaxInfo {
			return nil, fault(PartFooter, int64(from)+n, corrupt("the object is longer than the manifest says"))
		}
		tail = append(tail, more...)
	}
	size := int64(from) + int64(len(tail))
	if len(tail) == 0 {
		return nil, fault(PartFooter, int64(from), corrupt("the object ends before its index"))
	}
	foot, need, err := ParseFooter(tail, size)
	if err != nil {
		return nil, err
	}
	if need > 0 {
		if tail, err = t.read(ctx, size-need, need); err != nil {
			return nil, err
		}
		if int64(len(tail)) != need {
			return nil, fault(PartFooter, size-need, corrupt("the object changed while it was read"))
		}
		if foot, need, err = ParseFooter(tail, size); err != nil {
			return nil, err
		}
		if need > 0 {
			return nil, fault(PartFooter, size-need, corrupt("info of %d bytes", need))
		}
	}
	p := &parts{foot: foot, tail: tail, tailAt: size - int64(len(tail))}
	plain, err := t.part(ctx, p, PartIndex, foot.Info.IndexOffset, foot.Info.IndexLen)
	if err != nil {
		return nil, err
	}
	if p.index, err = ParseIndex(plain, foot.dataEnd()); err != nil {
		return nil, fault(PartIndex, int64(foot.Info.IndexOffset), err)
	}
	return p, nil
}

func (t *Table) loadFilter(ctx context.Context, p *parts) (Filter, error) {
	i := p.foot.Info
	if i.FilterLen == 0 {
		return Filter{}, nil
	}
	plain, err := t.part(ctx, p, PartFilter, i.FilterOffset, i.FilterLen)
	if err != nil {
		return Filter{}, err
	}
	f, err := ParseFilter(plain, i.FilterFormat)
	if err != nil {
		return Filter{}, fault(PartFilter, int64(i.FilterOffset), err)
	}
	return f, nil
}

// part returns the plain content of a part, from the tail when it lies there.
func (t *Table) part(ctx context.Context, p *parts, name Part, off, n uint64) ([]byte, error) {
	var stored []byte
	if at := int64(off) - p.tailAt; p.tail != nil && at >= 0 && at+int64(n) <= int64(len(p.tail)) {
		stored = p.tail[at : at+int64(n)]
	} else {
		var err error
		if stored, err = t.read(ctx, int64(off), int64(n)); err != nil {
			return nil, err
		}
		if uint64(len(stored)) != n {
			return nil, fault(name, int64(off), corrupt("%d bytes of %d", len(stored), n))
		}
	}
	plain, _, err := open(stored, p.foot.Info.Compression, nil)
	if err != nil {
		return nil, fault(name, int64(off), err)
	}
	return plain, nil
}

// Block returns data block i of the index, read with its own request.
func (t *Table) Block(ctx context.Context, i int) (Block, error) {
	blocks, err := t.Blocks(ctx, i, i+1)
	if err != nil {
		return Block{}, err
	}
	return blocks[0], nil
}

// Blocks returns data blocks from up to but without to in one request.
func (t *Table) Blocks(ctx context.Context, from, to int) ([]Block, error) {
	p, err := t.load(ctx, false)
	if err != nil {
		return nil, err
	}
	c, err := t.readChunk(ctx, p, from, to, nil)
	if err != nil {
		return nil, err
	}
	return c.blocks, nil
}

// chunk is some adjacent blocks, read together.
type chunk struct {
	first  int // of the blocks in the index
	blocks []Block
	arena  []byte // what the blocks alias when they were compressed
	err    error  // after the blocks
}

// readChunk reads blocks from up to to. The plain content goes to arena, which
// must not be in use. A damaged block ends the chunk with an error; those
// before it are in the chunk.
func (t *Table) readChunk(ctx context.Context, p *parts, from, to int, arena []byte) (chunk, error) {
	c := chunk{first: from, arena: arena[:0]}
	if from < 0 || to > len(p.index.Blocks) || from >= to {
		return c, fmt.Errorf("blocks %d to %d of %d", from, to, len(p.index.Blocks))
	}
	start, _ := p.index.Span(from)
	lastOff, lastLen := p.index.Span(to - 1)
	stored, err := t.read(ctx, start, lastOff+lastLen-start)
	if err != nil {
		return c, err
	}
	c.blocks = make([]Block, 0, to-from)
	for i := from; i < to; i++ {
		off, n := p.index.Span(i)
		if off-start+n > int64(len(stored)) {
			return c, fault(PartBlock, off, corrupt("the object ends inside of the block"))
		}
		var plain []byte
		plain, c.arena, err = open(stored[off-start:off-start+n], p.foot.Info.Compression, c.arena)
		if err != nil {
			return c, fault(PartBlock, off, err)
		}
		b, err := ParseBlock(plain, p.foot.Format)
		if err != nil {
			return c, fault(PartBlock, off, err)
		}
		c.blocks = append(c.blocks, b)
	}
	return c, nil
}

// IsFault reports whether err is damage of the table, not a failed read, and
// gives the damage.
func IsFault(err error) (*Fault, bool) {
	f, ok := errors.AsType[*Fault](err)
	return f, ok
}
