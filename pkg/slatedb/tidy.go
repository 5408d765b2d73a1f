package slatedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// Tidy makes a [Writer] compact and collect its own database, so that it does
// not grow without bound. It is for databases that only Quarry writes, the
// catalog and the ledger: a compactor of SlateDB's beside it is fenced, and when
// one takes over later the writer goes on without compacting. Databases whose
// tables belong to others (clones) are left as they are.
//
// The bound, for as long as the store works: the tables of the newest manifest
// are at most four thirds of the rows that were live when the oldest run was
// made (so of the most rows there were at one time), and eight times FlushBytes.
// Runs are at most 2 + log4(size / FlushBytes). The WAL after the tables is at
// most FlushWAL objects, and those that come while a table is made. What is
// needed no more goes when it is MinAge old, or twice that, fences when they are
// FenceAge old, unless a checkpoint holds it. While no writer is open nothing
// goes, and nothing grows.
type Tidy struct {
	// MinAge is how old an object must be to be removed; 0 means 15 minutes.
	// Whoever reads the database must not take longer with one snapshot.
	MinAge time.Duration
	// FenceAge is the same of WAL objects that may be fences; 0 means a day.
	FenceAge time.Duration
}

const (
	tidyTables  = 4               // tables in L0 from which on they are merged
	tidyGrowth  = 4               // a run is merged with the tables before it unless it is more than so many times larger
	tidyTable   = 64 << 20        // about how large a table of a run becomes
	tidyPatient = 4 * time.Minute // a merge that takes longer is given up: collectors take strays after 5 minutes at the earliest
)

// mergeable says how many of the newest runs to merge with all of L0, given how
// large they are in bytes, newest first. It is false when L0 is small.
func mergeable(l0, runs []uint64) (n int, ok bool) {
	if len(l0) < tidyTables {
		return 0, false
	}
	var sum uint64
	for _, size := range l0 {
		sum += size
	}
	for n < len(runs) && runs[n] <= tidyGrowth*sum {
		sum += runs[n]
		n++
	}
	return n, true
}

// sizes are those of the tables of m and of its runs, as far as it knows them.
func sizes(m *manifest.Manifest) (l0, runs []uint64) {
	for i := range m.L0 {
		l0 = append(l0, m.L0[i].Info.Size())
	}
	for i := range m.Runs {
		var sum uint64
		for j := range m.Runs[i].Tables {
			sum += m.Runs[i].Tables[j].Info.Size()
		}
		runs = append(runs, sum)
	}
	return l0, runs
}

// job is one merge: all of L0 and the newest runs become one run.
type job struct {
	l0     []manifest.Table
	runs   []manifest.Run
	bottom bool // there is nothing older
}

// next returns what is to be merged of m, nil when nothing is.
func next(m *manifest.Manifest) *job {
	if len(m.ExternalDBs) > 0 || m.UnknownFields {
		return nil
	}
	n, ok := mergeable(sizes(m))
	if !ok {
		return nil
	}
	return &job{l0: m.L0, runs: m.Runs[:n], bottom: n == len(m.Runs)}
}

// tidying compacts and collects for as long as the writer lives.
func (w *Writer) tidying() {
	t := time.NewTicker(w.o.Tidy.MinAge)
	defer t.Stop()
	for {
		due := false
		select {
		case <-w.untidy:
		case <-t.C:
			due = true
		case <-w.ctx.Done():
			return
		}
		w.tidied(w.tidy(w.ctx, due))
	}
}

// tidied keeps what came of it, for [Status].
func (w *Writer) tidied(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead == nil {
		w.messy = err
	}
}

// tidy merges what is to be merged. After that, or when it is due, it collects
// unless it has just done so or nothing has changed.
func (w *Writer) tidy(ctx context.Context, due bool) error {
	w.tidyMu.Lock()
	defer w.tidyMu.Unlock()
	for {
		w.mu.Lock()
		head, dead := w.head, w.dead
		w.mu.Unlock()
		j := next(head.Manifest)
		if dead != nil || j == nil {
			break
		}
		due = true
		if err := w.compact(ctx, j); err != nil {
			return fmt.Errorf("compact %s: %w", named(w.root), err)
		}
	}
	s, now := w.Status(), w.o.Now()
	seen := [2]uint64{s.ManifestID, s.NextWAL}
	idle := seen == w.collected && (w.ripe.IsZero() || now.Before(w.ripe))
	if !due || s.Err != nil || idle || now.Sub(w.collectedAt) < w.o.Tidy.MinAge {
		return nil
	}
	a := Admin{Store: w.store.(AdminStore), Root: w.root, Now: w.o.Now}
	if w.o.WALStore != nil {
		a.WALStore = w.wal.(AdminStore)
	}
	done, err := a.Collect(ctx, CollectOptions{MinAge: w.o.Tidy.MinAge, FenceAge: w.o.Tidy.FenceAge, sole: true})
	if err != nil {
		return err
	}
	w.collected, w.collectedAt, w.ripe = seen, now, time.Time{}
	for _, k := range done.Kept {
		switch k.Why {
		case KeptYoung:
			w.ripe = now.Add(w.o.Tidy.MinAge)
			return nil
		case KeptFence:
			w.ripe = now.Add(w.o.Tidy.FenceAge)
		}
	}
	return nil
}

// errOvertaken says that somebody else compacts.
var errOvertaken = errors.New("another compactor has taken over; this writer compacts no more")

// compact does one job.
func (w *Writer) compact(ctx context.Context, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, tidyPatient)
	defer cancel()
	// Jobs that a compactor of SlateDB's has begun it will want to end.
	state, err := LatestCompactions(ctx, w.store, w.root)
	if err == nil {
		for _, c := range state.Compactions.Recent {
			if !c.Status.Ended() {
				return fmt.Errorf("compaction %s is %s; a compactor of SlateDB's has to end it: %w", c.ID, c.Status, ErrBusy)
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tables, err := w.merge(ctx, j)
	if err != nil {
		return err
	}
	newest := j.l0[0]
	h, err := commitWithin(ctx, w.store, w.root, nil, w.o.Patience, func(h *Head, m *manifest.Manifest) error {
		if err := w.mine(h); err != nil {
			return err
		}
		if m.CompactorEpoch != w.compactor {
			return errOvertaken
		}
		marker := newest.ID
		if m.Version == manifest.V2 {
			marker = newest.ViewID
		}
		if m.LastCompactedL0 != nil && *m.LastCompactedL0 == marker {
			return errNoChange // an attempt without an answer had worked
		}
		above := len(m.L0) - len(j.l0)
		if above < 0 || !sameTables(m.L0[above:], j.l0) || len(m.Runs) < len(j.runs) || !slices.EqualFunc(m.Runs[:len(j.runs)], j.runs, sameRun) {
			return fmt.Errorf("the tables are others than those that were merged: %w", ErrBusy)
		}
		run := manifest.Run{ID: m.NextRun(), Tables: tables}
		if n := len(j.runs); n > 0 {
			run.ID = j.runs[n-1].ID
		}
		m.L0 = slices.Clone(m.L0[:above])
		m.Runs = slices.Clone(m.Runs[len(j.runs):])
		if len(tables) > 0 {
			m.Runs = slices.Insert(m.Runs, 0, run)
		}
		m.LastCompactedL0 = &marker
		return nil
	})
	if err != nil {
		if errors.Is(err, ErrFenced) {
			w.die(err)
		}
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.adopt(h)
	return nil
}

func sameTables(a, b []manifest.Table) bool {
	return slices.EqualFunc(a, b, func(x, y manifest.Table) bool { return x.ViewID == y.ViewID && x.ID == y.ID })
}

func sameRun(a, b manifest.Run) bool { return a.ID == b.ID && sameTables(a.Tables, b.Tables) }

// merge writes the tables of the new run: none when no row is left. Of each key
// it keeps the newest version and what that needs; at the bottom no tombstones.
func (w *Writer) merge(ctx context.Context, j *job) ([]manifest.Table, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &Reader{store: w.counted, root: w.root, m: &manifest.Manifest{Tree: manifest.Tree{L0: j.l0, Runs: j.runs}}}
	r.plant(map[string]*table{})
	var m merge
	defer m.close()
	defer cancel()
	r.sources(ctx, span{}, &m)
	out := tablesOut{w: w, ctx: ctx}
	var key []byte
	now := w.o.Now().UnixMilli()
	any, done := false, false
	for row := m.top(); row != nil; row = m.top() {
		if !any || !bytes.Equal(row.Key, key) {
			key, any, done = append(key[:0], row.Key...), true, false
			if err := out.cut(tidyTable); err != nil {
				return nil, err
			}
		}
		if !done {
			if kept := settled(row, now); !kept.Tombstone() || !j.bottom {
				if err := out.add(kept); err != nil {
					return nil, err
				}
			}
			done = !row.Merge()
		}
		if !m.pass() {
			break
		}
	}
	if m.fault != nil {
		return nil, m.fault
	}
	err := out.cut(0)
	return out.tables, err
}

// settled is r, or a tombstone for it when it has expired.
func settled(r *sst.Row, now int64) *sst.Row {
	if r.Flags&sst.HasExpire == 0 || r.ExpireTS > now || r.Merge() || r.Tombstone() {
		return r
	}
	return &sst.Row{Key: r.Key, Seq: r.Seq, CreateTS: r.CreateTS, Flags: r.Flags&sst.HasCreate | sst.Tombstone}
}

// tablesOut makes the tables of a run.
type tablesOut struct {
	w      *Writer
	ctx    context.Context
	cur    *sst.Writer
	tables []manifest.Table
}

func (o *tablesOut) add(r *sst.Row) error {
	if o.cur == nil {
		var err error
		if o.cur, err = sst.NewWriter(o.w.o.Table); err != nil {
			return err
		}
	}
	return o.cur.Add(r)
}

// cut ends the table when it has size bytes and a row.
func (o *tablesOut) cut(size int) error {
	if o.cur == nil || o.cur.Size() < size {
		return nil
	}
	t, err := o.w.putTable(o.ctx, o.cur, ulid.MustNew(uint64(o.w.o.Now().UnixMilli()), ulid.DefaultEntropy()))
	o.cur = nil
	if err != nil {
		return err
	}
	o.tables = append(o.tables, *t)
	return nil
}

// putTable ends b and stores it.
func (w *Writer) putTable(ctx context.Context, b *sst.Writer, id ulid.ULID) (*manifest.Table, error) {
	raw, info, err := b.Finish()
	if err != nil {
		return nil, fmt.Errorf("make a table of %s: %w", named(w.root), err)
	}
	if err := putWithin(ctx, w.store, TableKey(w.root, id), raw, w.o.Patience); err != nil {
		return nil, err
	}
	return &manifest.Table{ID: id, ViewID: id, Format: sst.V2, Info: info}, nil
}
