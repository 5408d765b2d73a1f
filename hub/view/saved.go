package view

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/tidwall/btree"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Tables are the placements and slates of a saved view, for a builder to go on
// with.
type Tables struct {
	fleet  *table.Builder[catalog.Placement]
	slates *table.Builder[catalog.Slate]
}

// WritePlacements saves the placements, with what is kept beside them.
func (v *View) WritePlacements(w io.Writer) error {
	if err := v.fleet.Write(w); err != nil {
		return fmt.Errorf("save the placements: %w", err)
	}
	return nil
}

// WriteSlates saves the slates.
func (v *View) WriteSlates(w io.Writer) error {
	if err := v.slates.Write(w); err != nil {
		return fmt.Errorf("save the slates: %w", err)
	}
	return nil
}

// ReadTables reads what [View.WritePlacements] and [View.WriteSlates] saved,
// both at once, each up to its end. The error wraps [table.ErrDamaged] when
// they are not whole, or of another version.
func ReadTables(placements, slates io.Reader) (*Tables, error) {
	var t Tables
	var errs [2]error
	var reading sync.WaitGroup
	reading.Go(func() {
		if t.slates, errs[1] = table.Read[catalog.Slate](slateSchema, slates); errs[1] != nil {
			errs[1] = fmt.Errorf("read the slates: %w", errs[1])
		}
	})
	if t.fleet, errs[0] = table.Read[catalog.Placement](placementSchema, placements); errs[0] != nil {
		errs[0] = fmt.Errorf("read the placements: %w", errs[0])
	}
	reading.Wait()
	if err := cmp.Or(errs[0], errs[1]); err != nil {
		return nil, err
	}
	return &t, nil
}

// Adopt makes a builder that has no rows go on with saved ones, which belong
// to it from now on.
func (b *Builder) Adopt(t *Tables) {
	b.pb, b.sb = t.fleet, t.slates
	b.View.fleet, b.View.slates = b.pb.Table(), b.sb.Table()
	b.cover()
	b.dirty, b.touched[Placements], b.touched[Slates] = true, true, true
}

// Sums yields what is kept of every placement's record: region, counter, sum.
// Nothing may be set meanwhile.
func (b *Builder) Sums() iter.Seq2[string, catalog.Sum] {
	return func(yield func(string, catalog.Sum) bool) {
		var hi, lo, bucket [table.ChunkRows]uint64
		for i := range b.fleet.Chunks() {
			c := b.fleet.Chunk(i)
			if c == nil {
				continue
			}
			has := c.Numbers(col.sumHi, &hi) | c.Numbers(col.sumLo, &lo)
			hasBucket := c.Numbers(col.bucket, &bucket)
			for k := range table.ChunkRows {
				bit := table.Mask(1) << k
				if c.Live()&has&bit == 0 {
					continue
				}
				s := catalog.Sum{Hi: hi[k], Lo: lo[k]}
				if hasBucket&bit != 0 {
					s.Bucket = uint8(bucket[k])
				}
				if !yield(c.Idents()[k].Region, s) {
					return
				}
			}
		}
	}
}

// Special yields the slots of placements that are more than their columns:
// with checkpoints or databases they borrow from. Nothing may be set meanwhile.
func (b *Builder) Special() iter.Seq[table.Slot] {
	return func(yield func(table.Slot) bool) {
		for i := range b.fleet.Chunks() {
			c := b.fleet.Chunk(i)
			if c == nil {
				continue
			}
			for k := range table.ChunkRows {
				if c.Live()&(1<<k) == 0 {
					continue
				}
				points, _ := c.Object(checkpointsCol, k).([]catalog.Checkpoint)
				if (len(points) > 0 || c.Object(externalCol, k) != nil) && !yield(table.Slot(i*table.ChunkRows+k)) {
					return
				}
			}
		}
	}
}

// Count is how many placements a region has, and how many of them are missing.
func (b *Builder) Count(region string) (all, missing uint64) {
	for _, id := range b.placedIn[region] {
		c := b.fleet.Class(id)
		if all += c.Count; c.Stored(col.seen).Text == string(catalog.SeenMissing) {
			missing += c.Count
		}
	}
	return all, missing
}

// Held is what is counted of a record that is no placement's row.
type Held struct {
	Region  string
	Kind    catalog.FactKind
	Key     string
	Counter uint64
	Sum     catalog.Sum
}

func heldTree() *btree.BTreeG[*Held] {
	return btree.NewBTreeGOptions(func(a, b *Held) bool {
		if a.Region != b.Region {
			return a.Region < b.Region
		}
		if a.Kind != b.Kind {
			return a.Kind < b.Kind
		}
		return a.Key < b.Key
	}, unlocked)
}

// Held lists what is counted beside placements, by region, kind and key.
func (v *View) Held() iter.Seq[*Held] { return v.held.Scan }

// HeldOf is what is counted of a record; nil: nothing.
func (b *Builder) HeldOf(region string, kind catalog.FactKind, key string) *Held {
	h, _ := b.held.Get(&Held{Region: region, Kind: kind, Key: key})
	return h
}

// Hold counts a record; what it points to is the view's from now on.
func (b *Builder) Hold(h *Held) {
	b.held.Set(h)
	b.touched[declared] = true
}

// Release counts a record no more.
func (b *Builder) Release(region string, kind catalog.FactKind, key string) {
	b.held.Delete(&Held{Region: region, Kind: kind, Key: key})
	b.touched[declared] = true
}

// Beside is what a saved view has beside placements and slates, each in the
// order of its lists.
type Beside struct {
	RestorePoints []*catalog.RestorePoint
	Findings      []*catalog.Finding
	Registrations []*Registration
	Held          []*Held
}

// LoadBeside puts rows into a builder that has none of their kinds; they belong
// to it from now on. No watcher is told: what was watched before is watched
// anew. Placements and slates may be read meanwhile.
func (b *Builder) LoadBeside(rows *Beside) {
	b.restore.load(rows.RestorePoints)
	b.findings.load(rows.Findings)
	b.registrations.load(rows.Registrations)
	for _, h := range rows.Held {
		b.held.Load(h)
	}
	b.dirty, b.touched[RestorePoints], b.touched[Findings], b.touched[declared] = true, true, true, true
}

// HeldIn lists what is counted of a region beside its placements. Nothing may
// be set meanwhile.
func (b *Builder) HeldIn(region string) iter.Seq[*Held] {
	return func(yield func(*Held) bool) {
		b.held.Ascend(&Held{Region: region}, func(h *Held) bool { return h.Region == region && yield(h) })
	}
}

// Len is how many placements there are.
func (t *Tables) Len() int { return t.fleet.Len() }

// Placement is the row at a root of a region as it was put; nil: none.
func (t *Tables) Placement(region, root string) *catalog.Placement {
	return t.fleet.Row(t.fleet.Find(region, root))
}
