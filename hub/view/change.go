package view

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// SetPlacement puts a row as it is stored: what a silent region's rows show
// instead is [Builder.StaleRegion]'s business. The row's lists belong to the
// view from now on. quiet: nothing changed but when it was observed, do not
// tell watchers.
func (b *Builder) SetPlacement(r *catalog.Placement, quiet bool) table.Slot {
	if !quiet && b.stirred != nil {
		b.stirAt(b.pb.Find(r.Region, r.Root)) // it may have gone by another name
		b.stir(r.Slate)
	}
	s, _ := b.pb.Put(r)
	b.touched[Placements] = true
	if !quiet {
		b.notePlacement(s)
	}
	if o := b.owners.get(&catalog.OwnerRow{Region: r.Region, Root: r.Root}); o != nil {
		b.owners.remove(o) // from now on the placement tells
		b.touched[Owners] = true
	}
	return s
}

func (b *Builder) notePlacement(s table.Slot) {
	b.dirty = true
	b.placed.add(b.seq+1, b.fleet.Ident(s), b.maxChanges)
}

// Slot is where the placement at a root of a region lies, or [table.None]. It
// stays there while it is not removed.
func (b *Builder) Slot(region, root string) table.Slot { return b.pb.Find(region, root) }

// Placement is the row as it was put, made for the caller; nil when there is
// none.
func (b *Builder) Placement(region, root string) *catalog.Placement {
	return b.pb.Row(b.pb.Find(region, root))
}

// PlacementAt is the row at a slot as it was put, made for the caller.
func (b *Builder) PlacementAt(s table.Slot) *catalog.Placement { return b.pb.Row(s) }

// PlacementsOf lists the placements of one slate as they were put, ordered by
// region, root. Nothing may be set meanwhile.
func (b *Builder) PlacementsOf(slate string) iter.Seq[*catalog.Placement] {
	return func(yield func(*catalog.Placement) bool) {
		named(b.fleet, slate)(func(_ uint64, id *table.Ident) bool { return yield(b.pb.Row(id.Slot)) })
	}
}

// Roots lists the roots of a region's placements, in order. Nothing may be set
// meanwhile.
func (b *Builder) Roots(region string) iter.Seq2[string, table.Slot] {
	return func(yield func(string, table.Slot) bool) {
		b.fleet.In(region, func(id *table.Ident) bool { return yield(id.Root, id.Slot) })
	}
}

// RemovePlacement takes a row out, and with it the owner's row that it told;
// watchers of both hear of it. Only a person's word may lead here (P1).
func (b *Builder) RemovePlacement(region, root string) {
	if s := b.pb.Find(region, root); s != table.None {
		b.stirAt(s)
		b.notePlacement(s)
		note(b, Owners, &b.owners.log, PlacementKey(region, root))
		b.pb.Remove(s)
		b.touched[Placements] = true
	}
}

// Seen is what the last look at the placement at a slot gave.
func (b *Builder) Seen(s table.Slot) catalog.Seen {
	c, i := b.fleet.At(s)
	if c == nil {
		return ""
	}
	return catalog.Seen(b.fleet.Class(c.Class(i)).Stored(col.seen).Text)
}

// Hidden is what the hub keeps of a placement beside its row.
type Hidden struct {
	Sum               catalog.Sum // of its record, as it travelled
	Counter           uint64      // of that record's revision
	Content, Presence catalog.Revision
	Start             uint64 // of the agent that brought the content
	Flags             uint64 // the state's own
}

// Hidden reads what is kept beside the row at a slot.
func (b *Builder) Hidden(s table.Slot) Hidden {
	n := func(c int) uint64 { v, _ := b.pb.Number(s, c); return v }
	h := Hidden{
		Sum:     catalog.Sum{Hi: n(col.sumHi), Lo: n(col.sumLo), Bucket: uint8(n(col.bucket))},
		Counter: n(col.counter), Content: catalog.Revision{Start: n(col.contentStart), Counter: n(col.content)},
		Presence: catalog.Revision{Start: n(col.presenceStart), Counter: n(col.presence)}, Start: n(col.start), Flags: n(col.flags),
	}
	// What is not there is that of the record: most of the time it is.
	if _, apart := b.pb.Number(s, col.content); !apart {
		h.Content.Counter = h.Counter
	}
	if _, apart := b.pb.Number(s, col.presence); !apart {
		h.Presence.Counter = h.Counter
	}
	return h
}

// Kept is the start of the agent that brought the content of the placement at
// a slot, and the state's own flags.
func (b *Builder) Kept(s table.Slot) (start, flags uint64) {
	start, _ = b.pb.Number(s, col.start)
	flags, _ = b.pb.Number(s, col.flags)
	return start, flags
}

// SetHidden keeps something beside the row at a slot. Watchers are not told.
func (b *Builder) SetHidden(s table.Slot, h Hidden) {
	b.touched[Placements] = true
	b.SetSum(s, h.Counter, h.Sum)
	for _, x := range [...]struct {
		col int
		v   uint64
	}{
		{col.contentStart, h.Content.Start}, {col.presenceStart, h.Presence.Start}, {col.start, h.Start}, {col.flags, h.Flags},
	} {
		b.setNumber(s, x.col, x.v)
	}
	apart := func(c int, v uint64) {
		if v == h.Counter {
			b.pb.SetNull(s, c)
		} else if was, had := b.pb.Number(s, c); !had || was != v {
			b.pb.SetNumber(s, c, v)
		}
	}
	apart(col.content, h.Content.Counter)
	apart(col.presence, h.Presence.Counter)
}

// SetSum keeps the sum of the record behind the row at a slot.
func (b *Builder) SetSum(s table.Slot, counter uint64, sum catalog.Sum) {
	b.touched[Placements] = true
	b.setNumber(s, col.counter, counter)
	b.setNumber(s, col.bucket, uint64(sum.Bucket))
	b.setNumber(s, col.sumHi, sum.Hi)
	b.setNumber(s, col.sumLo, sum.Lo)
}

// Sum is the sum of the record behind the row at a slot, and its counter.
func (b *Builder) Sum(s table.Slot) (counter uint64, sum catalog.Sum) {
	n := func(c int) uint64 { v, _ := b.pb.Number(s, c); return v }
	return n(col.counter), catalog.Sum{Hi: n(col.sumHi), Lo: n(col.sumLo), Bucket: uint8(n(col.bucket))}
}

// setNumber sets a column that is null until it is not zero.
func (b *Builder) setNumber(s table.Slot, c int, v uint64) {
	if was, had := b.pb.Number(s, c); had && was != v || !had && v != 0 {
		b.pb.SetNumber(s, c, v)
	}
}

// MovedAt is when the placement at a slot was last seen to move; nil: never.
func (b *Builder) MovedAt(s table.Slot) *time.Time { return movedAt(b.fleet, s) }

// SetMovedAt keeps when the placement at a slot was seen to move.
func (b *Builder) SetMovedAt(s table.Slot, at time.Time) {
	if n, ok := table.TimeNumber(at); ok {
		b.pb.SetNumber(s, col.moved, n)
		b.touched[Placements] = true
	}
}

// Moved is a change of nothing but numbers, straight into the columns.
type Moved struct {
	Mask, Null uint32
	Values     *[len(catalog.MoveFields)]uint64
	At         time.Time // observed
	Stirred    bool      // it counts as a movement of the database
}

// Move sets the numbers of the placement at a slot, and those of its slate
// when that has no other placement; else alone is false and the slate has to
// be summed up anew. changed is false when all numbers were so already.
func (b *Builder) Move(s table.Slot, m *Moved) (changed, alone bool) {
	b.touched[Placements] = true
	for i := range m.Values {
		bit := uint32(1) << i
		switch {
		case m.Mask&bit == 0:
		case m.Null&bit != 0:
			if _, had := b.pb.Number(s, col.move[i]); had {
				b.pb.SetNull(s, col.move[i])
				changed = true
			}
		default:
			if was, had := b.pb.Number(s, col.move[i]); !had || was != m.Values[i] {
				b.pb.SetNumber(s, col.move[i], m.Values[i])
				changed = true
			}
		}
	}
	b.pb.SetNull(s, col.content) // that of the record, from now on
	b.pb.SetNull(s, col.presence)
	at, _ := table.TimeNumber(m.At)
	b.pb.SetNumber(s, col.observed, at)
	if m.Stirred && changed {
		b.pb.SetNumber(s, col.moved, at)
	}
	if changed {
		b.notePlacement(s)
	}
	return changed, b.moveSlate(s, at, changed)
}

// moveSlate brings the slate of a single placement to its numbers.
func (b *Builder) moveSlate(s table.Slot, at uint64, changed bool) bool {
	id := b.fleet.Ident(s)
	n, ok := b.pb.Number(s, col.slate)
	slot := table.Slot(n)
	if sl := b.slates.Ident(slot); !ok || sl == nil || sl.Slate != id.Slate {
		if slot = b.sb.Named(id.Slate); slot == table.None {
			return false
		}
		b.pb.SetNumber(s, col.slate, uint64(slot))
	}
	if n, _ := b.sb.Number(slot, slateCol.placements); n != 1 {
		return false
	}
	b.touched[Slates] = true
	b.sb.SetNumber(slot, slateCol.observed, at)
	if v, ok := b.pb.Number(s, col.bytes); ok {
		b.sb.SetNumber(slot, slateCol.bytes, v)
	} else {
		b.sb.SetNull(slot, slateCol.bytes)
	}
	if changed {
		b.slated.add(b.seq+1, b.slates.Ident(slot), b.maxChanges)
	}
	return true
}

// SetSlate puts a row; what follows from placements is left out. quiet as in
// [Builder.SetPlacement].
func (b *Builder) SetSlate(r *catalog.Slate, quiet bool) {
	s, _ := b.sb.Put(r)
	b.touched[Slates] = true
	if !quiet {
		b.dirty = true
		b.slated.add(b.seq+1, b.slates.Ident(s), b.maxChanges)
	}
}

// Slate is the row as it was put, made for the caller, without what follows
// from placements; nil when there is none.
func (b *Builder) Slate(name string) *catalog.Slate { return b.sb.Row(b.sb.Named(name)) }

// RemoveSlate takes a row out.
func (b *Builder) RemoveSlate(name string) {
	if s := b.sb.Named(name); s != table.None {
		b.dirty, b.touched[Slates] = true, true
		b.slated.add(b.seq+1, b.slates.Ident(s), b.maxChanges)
		b.sb.Remove(s)
	}
}

// SetOwner puts a row. Of a placement's it keeps when it moved; the rest the
// placement itself tells, which was put before.
func (b *Builder) SetOwner(r *catalog.OwnerRow) {
	s := b.pb.Find(r.Region, r.Root)
	if s == table.None {
		put(b, Owners, &b.owners, r, false)
		return
	}
	if r.MovedAt != nil {
		b.SetMovedAt(s, *r.MovedAt)
	}
	note(b, Owners, &b.owners.log, PlacementKey(r.Region, r.Root))
}

// Owner is the row of a root, nil when there is none.
func (b *Builder) Owner(region, root string) *catalog.OwnerRow { return b.owner(region, root) }

// RemoveOwner takes the row of a root without a placement out; that of a
// placement goes with it, see [Builder.RemovePlacement].
func (b *Builder) RemoveOwner(region, root string) {
	remove(b, Owners, &b.owners, &catalog.OwnerRow{Region: region, Root: root})
}

// StaleRegion says whether a region's rows may be called current. While they
// may not, those that are live or unreadable show that they are stale, why and
// since when. It costs by how many kinds of rows there are, not how many rows.
func (b *Builder) StaleRegion(region string, is bool, why string, since time.Time) {
	was, had := b.stale[region]
	now := stale{why, since}
	if is == had && (!is || was == now) {
		return
	}
	if is {
		b.stale[region] = now
	} else {
		delete(b.stale, region)
	}
	b.late = maps.Clone(b.stale)
	b.pb.CoverAgain(b.placedIn[region])
	b.sb.CoverAgain(b.slatedIn[region])
	b.dirty, b.touched[Placements], b.touched[Slates] = true, true, true
	all := &table.Ident{Region: region}
	b.placed.add(b.seq+1, all, b.maxChanges)
	b.slated.add(b.seq+1, all, b.maxChanges)
}

// forget takes a class out of those that a region's rows have.
func forget(in map[string][]uint32, region string, id uint32) {
	if in[region] = slices.DeleteFunc(in[region], func(x uint32) bool { return x == id }); len(in[region]) == 0 {
		delete(in, region)
	}
}

// cover makes classes of rows show which regions are stale, and remembers
// which classes a region's rows have.
func (b *Builder) cover() {
	b.placedIn, b.slatedIn = map[string][]uint32{}, map[string][]uint32{}
	known := uint32(0)
	b.pb.Cover(func(c, old *table.Class) map[int]table.Value {
		region := c.Stored(col.region).Text
		if old != nil {
			forget(b.placedIn, old.Stored(col.region).Text, c.ID)
		}
		if c.ID >= known || old != nil { // the first time
			known = max(known, c.ID+1)
			b.placedIn[region] = append(b.placedIn[region], c.ID)
		}
		s, is := b.stale[region]
		if !is || c.Stored(col.state).Text == string(catalog.StateMissing) {
			return nil
		}
		since, ok := table.TimeNumber(s.since)
		return map[int]table.Value{
			col.state: {Text: string(catalog.StateStale)}, col.stateReason: {Text: s.why}, col.stateSince: {Num: since, Null: !ok},
		}
	})
	knownSlates := uint32(0)
	b.sb.Cover(func(c, old *table.Class) map[int]table.Value {
		regions := table.List(c.Stored(slateCol.regions))
		if old != nil {
			for _, r := range table.List(old.Stored(slateCol.regions)) {
				forget(b.slatedIn, r, c.ID)
			}
		}
		if c.ID >= knownSlates || old != nil {
			knownSlates = max(knownSlates, c.ID+1)
			for _, r := range regions {
				b.slatedIn[r] = append(b.slatedIn[r], c.ID)
			}
		}
		if c.Stored(slateCol.state).Text != string(catalog.StateLive) {
			return nil // what is worse shows
		}
		if slices.ContainsFunc(regions, func(r string) bool { _, is := b.stale[r]; return is }) {
			return map[int]table.Value{slateCol.state: {Text: string(catalog.StateStale)}}
		}
		return nil
	})
}
