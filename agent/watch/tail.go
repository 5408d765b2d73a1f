package watch

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// tail is how far a database's WAL reaches. It is listed once and then
// followed by asking for the next id: ids have no gaps.
type tail struct {
	known     bool
	elsewhere bool   // the WAL cannot be seen here: it is in another store
	id        uint64 // the newest object; 0: none ever
	seq       uint64 // highest sequence number read from it
	firstKey  []byte // smallest key of the objects read, for the kind
	hole      uint64 // an id that is missing between others; 0: none
}

// maxFences is how many objects without rows are stepped over to find the
// newest sequence number.
const maxFences = 4

// follow brings the tail in line with a new manifest; the first time it lists
// the objects that are not in tables.
func (t *tail) follow(ctx context.Context, d *database, h *slatedb.Head) error {
	m := h.Manifest
	if t.elsewhere = m.WALStoreMarked; t.elsewhere {
		return nil
	}
	if t.known {
		t.id = max(t.id, m.ReplayAfterWAL)
		if t.hole > 0 && m.ReplayAfterWAL >= t.hole {
			t.hole = 0 // nobody replays it any more
			d.mu.Lock()
			d.walNotes = nil
			d.mu.Unlock()
		}
		return nil
	}
	// From the object before: the last one that is in tables is never
	// collected, so a WAL that is here shows it.
	listed := []slatedb.Stored{}
	after := slatedb.WALKey(d.root, max(m.ReplayAfterWAL, 1)-1)
	err := d.w.look.Walk(ctx, d.root+"/wal/", after, func(key string, size int64, modified time.Time) error {
		listed = append(listed, slatedb.Stored{Key: key, Size: size, Modified: modified})
		return nil
	})
	if err != nil {
		return err
	}
	t.id, t.hole = m.ReplayAfterWAL, 0
	for _, o := range listed {
		if id, ok := slatedb.ParseWALKey(d.root, o.Key); ok {
			t.id = max(t.id, id)
		}
	}
	found := slatedb.Symptoms(&slatedb.Sight{Root: d.root, Head: h, WAL: listed, Now: time.Now()})
	for _, f := range found {
		t.elsewhere = t.elsewhere || f.Code == slatedb.WALStoreUnmarked
		if id, ok := slatedb.ParseWALKey(d.root, f.Object); ok && f.Code == slatedb.WALHole {
			t.hole = id
		}
	}
	notes := noted(found...)
	d.mu.Lock()
	d.walNotes = notes
	d.mu.Unlock()
	if err := t.readBack(ctx, d, m.ReplayAfterWAL); err != nil {
		return err
	}
	t.known = !t.elsewhere // looked for again with the next manifest
	return nil
}

// readBack reads from the newest object down until it finds rows.
func (t *tail) readBack(ctx context.Context, d *database, replayed uint64) error {
	for id := t.id; id > replayed && t.id-id < maxFences; id-- {
		raw, err := d.w.look.Get(ctx, slatedb.WALKey(d.root, id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a hole, or collected since
		}
		if err != nil {
			return err
		}
		if t.take(raw) {
			return nil
		}
	}
	return nil
}

// take reads the rows of an object and reports whether there were any. One
// that cannot be decoded has none to tell of; verification names it.
func (t *tail) take(raw []byte) bool {
	o, err := wal.Decode(raw)
	if err != nil || o.Fence() {
		return false
	}
	for i := range o.Rows {
		t.seq = max(t.seq, o.Rows[i].Seq)
		if k := o.Rows[i].Key; t.firstKey == nil || string(k) < string(t.firstKey) {
			t.firstKey = append([]byte{}, k[:min(len(k), 16)]...)
		}
	}
	return true
}

// lookForWAL asks for the object after the tail. When there is one it leaps
// ahead, since ids have no gaps, and reads the newest.
func (d *database) lookForWAL(ctx context.Context) (bool, error) {
	t := &d.wal
	if t.elsewhere || !t.known {
		return false, nil
	}
	if t.hole > 0 {
		_, _, err := d.w.look.Stat(ctx, slatedb.WALKey(d.root, t.hole))
		if err == nil {
			*t = tail{} // it was put back: look at the whole WAL again
			d.suspect.Store(true)
			d.passed.Store(true)
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	raw, err := d.w.look.Get(ctx, slatedb.WALKey(d.root, t.id+1))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	first := t.id + 1
	last, err := leap(first, func(id uint64) (bool, error) {
		_, _, err := d.w.look.Stat(ctx, slatedb.WALKey(d.root, id))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return false, err
	}
	t.id = last
	if last > first || !t.take(raw) {
		if err := t.readBack(ctx, d, first-1); err != nil {
			return true, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sight.ReplayAfterWAL != nil {
		d.tellTail(*d.sight.ReplayAfterWAL)
	}
	if d.sight.PositionDomain == domainSeq && d.sight.LastL0Seq != nil {
		d.sight.Position = ptr(max(*d.sight.LastL0Seq, t.seq))
	}
	d.movedLast = time.Now()
	d.tell()
	return true, nil
}

// tellTail puts the tail into the sighting. The caller holds mu.
func (d *database) tellTail(replayed uint64) {
	d.sight.WALTail, d.sight.WALGap = nil, nil
	if d.wal.known && !d.wal.elsewhere {
		d.sight.WALTail, d.sight.WALGap = ptr(d.wal.id), ptr(d.wal.id-min(d.wal.id, replayed))
	}
}

// leap finds the last of the ids that exist, given one that does and that
// there are no gaps, with about twice the logarithm of their number of calls.
func leap(id uint64, exists func(uint64) (bool, error)) (uint64, error) {
	step := uint64(1)
	for {
		ok, err := exists(id + step)
		if err != nil {
			return id, err
		}
		if !ok {
			break
		}
		id += step
		step *= 2
	}
	for step /= 2; step > 0; step /= 2 {
		ok, err := exists(id + step)
		if err != nil {
			return id, err
		}
		if ok {
			id += step
		}
	}
	return id, nil
}
