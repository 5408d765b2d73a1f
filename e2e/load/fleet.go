// Package load makes seeded fleets of slates and lets real agents tell real
// hubs about them: what exists, and an endless mix of changes.
//
// A [Fleet] is pure: the same options give the same facts and the same changes
// on every machine. [Agents] and [Run] carry them over the real protocol; no
// bucket is behind them. Begin with [New], or with [Run].
package load

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Options of a fleet. Regions and Slates are needed.
type Options struct {
	Regions []string
	Slates  int // in each region at the beginning
	Seed    uint64
	// Epoch is above what positions and manifest ids begin: a later run of the
	// same fleet must give a higher one, or a hub that remembers the first
	// takes the second for reads of the past. At most 2^40.
	Epoch uint64
	// From is the time that checkpoints and registrations are dated by; the
	// beginning of 2026 when zero.
	From time.Time
}

// Validate names the field, the value, and a value that would be right.
func (o *Options) Validate() error {
	if len(o.Regions) == 0 {
		return fmt.Errorf("Regions is empty; name at least one, such as eu: %w", catalog.ErrInvalid)
	}
	seen := map[string]bool{}
	for _, r := range o.Regions {
		if err := catalog.CheckName(r); err != nil {
			return fmt.Errorf("Regions: %w", err)
		}
		if seen[r] {
			return fmt.Errorf("Regions: %s is there twice: %w", r, catalog.ErrInvalid)
		}
		seen[r] = true
	}
	if o.Slates < 1 || o.Slates > 9_000_000 {
		return fmt.Errorf("Slates %d: 1 to 9000000: %w", o.Slates, catalog.ErrInvalid)
	}
	if o.Epoch > 1<<40 {
		return fmt.Errorf("Epoch %d: at most 2^40, such as the unix time: %w", o.Epoch, catalog.ErrInvalid)
	}
	return nil
}

// Fleet is what exists now. One goroutine may use it at a time.
type Fleet struct {
	o       Options
	rng     *rand.Rand
	regions []region
}

type region struct {
	name    string
	slots   []slot
	missing []int32 // indices of slates that were deleted and not made again
}

// slot is what changes of one slate; everything else follows from its number.
type slot struct {
	position, manifest, epoch, wal, bytes uint64
	life                                  uint32 // how often it was made again
	seen                                  catalog.Seen
}

// New makes the fleet as it is before the first change.
func New(o Options) (*Fleet, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.From.IsZero() {
		o.From = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	f := &Fleet{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0x9a44))}
	for r, name := range o.Regions {
		reg := region{name: name, slots: make([]slot, 0, o.Slates)}
		for i := range o.Slates {
			reg.slots = append(reg.slots, f.fresh(r, i))
			switch h := trait(i, ofPresence) % 1000; {
			case h < 5 && i > 0:
				reg.slots[i].seen = catalog.SeenUnreadable
			case h < 15 && i > 0:
				reg.slots[i].seen = catalog.SeenMissing
				reg.missing = append(reg.missing, int32(i))
			}
		}
		f.regions = append(f.regions, reg)
	}
	return f, nil
}

// fresh is a slate as it begins.
func (f *Fleet) fresh(r, i int) slot {
	h := mix(trait(i, ofStart) ^ f.o.Seed ^ uint64(r)<<40)
	s := slot{
		position: f.o.Epoch<<16 + h%(1<<16), manifest: f.o.Epoch<<8 + h>>16%200, epoch: 1 + h>>24%50, wal: f.o.Epoch<<8 + h>>32%256,
		seen: catalog.SeenLive,
	}
	// Sizes from kilobytes to a terabyte, as many of each magnitude.
	magnitude := uint64(1) << (10 + h>>40%30)
	s.bytes = magnitude + mix(h)%magnitude
	return s
}

// Mix says what a change is.
type Mix uint8

// What changes can be.
const (
	Moved   Mix = iota // the position went on: nine of ten
	Taken              // a new manifest by a new writer: nine of a hundred
	Made               // a new slate, or a new one where one was deleted
	Deleted            // no longer found
)

func (m Mix) String() string { return [...]string{"moved", "taken", "made", "deleted"}[m] }

// Change is one fact that is new.
type Change struct {
	Region int // index in Options.Regions
	Slate  int // number in its region
	Mix    Mix
	Fact   catalog.Fact
}

// Next makes the next change: 90 % positions, 9 % new manifests with a change
// of writer, 1 % slates made and deleted. What exists stays about as many.
func (f *Fleet) Next() Change {
	r := f.rng.IntN(len(f.regions))
	reg := &f.regions[r]
	p := f.rng.IntN(1000)
	full := len(reg.slots) >= f.o.Slates+f.o.Slates/20+10
	if canMake := !full || len(reg.missing) > 0; canMake && (p >= 995 || p >= 990 && len(reg.missing)*2 > len(reg.slots)) {
		return f.change(r, f.make(r, full), Made)
	}
	i := f.liveFrom(r, f.rng.IntN(len(reg.slots)))
	switch {
	case p >= 990 && i > 0:
		reg.slots[i].seen = catalog.SeenMissing
		reg.missing = append(reg.missing, int32(i))
		return f.change(r, i, Deleted)
	case p >= 900:
		return f.take(r, i)
	}
	return f.move(r, i)
}

// NextMoved is a change that is only a new position, NextTaken one that is a
// new manifest by a new writer: for measuring the two apart.
func (f *Fleet) NextMoved() Change {
	r, i := f.anyLive()
	return f.move(r, i)
}

// NextTaken see [Fleet.NextMoved].
func (f *Fleet) NextTaken() Change {
	r, i := f.anyLive()
	return f.take(r, i)
}

func (f *Fleet) anyLive() (r, i int) {
	r = f.rng.IntN(len(f.regions))
	return r, f.liveFrom(r, f.rng.IntN(len(f.regions[r].slots)))
}

// liveFrom is the first live slate from the i-th on.
func (f *Fleet) liveFrom(r, i int) int {
	slots := f.regions[r].slots
	for slots[i].seen != catalog.SeenLive {
		if i++; i == len(slots) {
			i = 0 // the first slate of a region is never deleted
		}
	}
	return i
}

func (f *Fleet) take(r, i int) Change {
	s := &f.regions[r].slots[i]
	s.manifest += 1 + f.rng.Uint64N(3)
	s.epoch++
	s.position += 1 + f.rng.Uint64N(1000)
	s.wal++
	// A new manifest names other tables: between two thirds and four thirds of
	// what it was.
	s.bytes = max(1024, s.bytes*2/3+f.rng.Uint64N(s.bytes*2/3+1))
	return f.change(r, i, Taken)
}

func (f *Fleet) move(r, i int) Change {
	s := &f.regions[r].slots[i]
	s.position += 1 + f.rng.Uint64N(1000)
	s.wal++
	return f.change(r, i, Moved)
}

// make brings a slate into being: half of them where one was deleted, with a
// new incarnation, the others at a new root; all where one was when it is full.
func (f *Fleet) make(r int, full bool) int {
	reg := &f.regions[r]
	if n := len(reg.missing); n > 0 && (full || f.rng.IntN(2) == 0) {
		k := f.rng.IntN(n)
		i := int(reg.missing[k])
		reg.missing[k] = reg.missing[n-1]
		reg.missing = reg.missing[:n-1]
		s := f.fresh(r, i)
		s.life, s.position = reg.slots[i].life+1, reg.slots[i].position+1
		reg.slots[i] = s
		return i
	}
	reg.slots = append(reg.slots, f.fresh(r, len(reg.slots)))
	return len(reg.slots) - 1
}

func (f *Fleet) change(r, i int, m Mix) Change {
	return Change{Region: r, Slate: i, Mix: m, Fact: f.placement(r, i)}
}

// Facts gives everything that one region's agent knows now: a placement for
// every slate, the registrations of their owners, and restore points.
func (f *Fleet) Facts(r int) iter.Seq[catalog.Fact] {
	return func(yield func(catalog.Fact) bool) {
		for i := range f.regions[r].slots {
			if !yield(f.placement(r, i)) {
				return
			}
			if registered(i) && i < f.o.Slates && !yield(f.registration(r, i)) {
				return
			}
			if hasPoint(i) && !yield(f.point(r, i)) {
				return
			}
		}
	}
}

// Regions are the names, in order.
func (f *Fleet) Regions() []string { return f.o.Regions }

// Count is how many slates a region has, missing ones too; Row takes numbers
// below it.
func (f *Fleet) Count(r int) int { return len(f.regions[r].slots) }

// Size is how many placements there are, missing ones too.
func (f *Fleet) Size() int {
	n := 0
	for i := range f.regions {
		n += len(f.regions[i].slots)
	}
	return n
}
