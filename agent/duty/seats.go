package duty

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

const (
	// batchBytes is about how large a batch becomes; the rest is in the next.
	batchBytes = 2 << 20
	// moveEvery batches one may say of a placement that its numbers went on,
	// or of a lease that it was renewed. Everything else is in the next.
	moveEvery = 12
	// sweepEvery is how often everything is compared, told of or not.
	sweepEvery = 10 * time.Minute
)

// unseen is why a row says missing when nobody told of its root.
const unseen = "the agent that holds the region's duty does not find it"

// seat is what the catalog holds of one root.
type seat struct {
	slate  string // as the placement's row says
	beside bool
	rows   []kept
	still  uint64        // sum of the placement's row without what goes on
	at     time.Duration // since the keeper opened: when it was last written
}

// kept is a row of the catalog as it was last written or read. Its path is what
// follows that of the seat, so that ten thousand of them take little memory, or
// whole, beginning with slate/, when it lies elsewhere.
type kept struct {
	path string
	sum  uint64
}

// under is the path that the seat's own rows begin with.
func (t *seat) under() string {
	if t.beside {
		return catalog.BesidePath(t.slate)
	}
	return catalog.SlatePath(t.slate)
}

// abroad writes the paths of the seat's rows out, before it moves.
func (t *seat) abroad() {
	under := t.under()
	for i, k := range t.rows {
		if !strings.HasPrefix(k.path, "slate/") {
			t.rows[i].path = under + k.path
		}
	}
}

// held is the row of a lease.
type held struct {
	sum uint64
	at  time.Duration
}

// seats are the rows of what is seen, as the catalog holds them. They belong to
// the keeper's goroutine.
type seats struct {
	seen    Sightings // nil: none are kept
	notes   *notes
	opened  time.Time
	every   time.Duration            // between two batches
	roots   map[string]*seat         // by root
	named   map[string]string        // roots by name, where the name is another than the root
	leases  map[string]held          // by path
	todo    map[string]struct{}      // roots to compare
	later   map[string]struct{}      // roots of which only numbers went on
	renewed map[string]catalog.Lease // the leases, when they were last taken
	began   bool                     // everything that was followed was compared
	sweep   time.Duration            // when everything is compared again; 0: once all was looked at
	stirred time.Duration            // when later was last gone through
}

func newSeats(seen Sightings, n *notes, every time.Duration) *seats {
	return &seats{
		seen: seen, notes: n, every: every, opened: time.Now(),
		roots: map[string]*seat{}, named: map[string]string{}, leases: map[string]held{},
		todo: map[string]struct{}{}, later: map[string]struct{}{},
	}
}

var seed = maphash.MakeSeed()

// sumOf compares rows: of what is kept in memory a sum is enough, and nobody
// else ever sees it.
func sumOf(v any) uint64 {
	raw, err := json.Marshal(v)
	if err != nil {
		return 0 // EncodeRow will say
	}
	return maphash.Bytes(seed, raw)
}

// load takes in a row that the catalog holds. What it says beyond what this
// process knows makes no difference: two versions of agents do not rewrite
// each other's rows in turn.
func (s *seats) load(path string, row any) {
	sit := func(root string) *seat {
		if s.roots[root] == nil {
			s.roots[root] = &seat{}
		}
		t := s.roots[root]
		t.rows = append(t.rows, kept{path, sumOf(row)})
		return t
	}
	switch x := row.(type) {
	case *catalog.PlacementRow:
		t := sit(x.Root)
		t.slate, t.still = x.Slate, sumOf(catalog.Still(x.Sighting))
		_, t.beside, _, _ = catalog.Branch(path)
		if x.Slate != x.Root {
			s.named[x.Slate] = x.Root
		}
	case *catalog.HoldRow:
		sit(x.Root)
	case *catalog.WriterRow:
		if x.Lease == nil {
			sit(x.Root)
			return
		}
		s.leases[path] = held{sum: sumOf(row)}
	case *catalog.ReaderRow:
		if x.Lease == nil {
			sit(x.Root)
			return
		}
		s.leases[path] = held{sum: sumOf(row)}
	case *catalog.OwnerLeaseRow:
		s.leases[path] = held{sum: sumOf(row)}
	}
}

// changes are the rows of one batch.
type changes struct {
	batch    slatedb.Batch
	revision uint64
	bytes    int
	strange  map[string]bool // rows that cannot be understood stay as they are
}

func (c *changes) put(path string, v any) error {
	row, err := catalog.EncodeRow(path, v, c.revision)
	if err != nil {
		return err
	}
	c.batch.Put(row.Key(), row.Value)
	c.bytes += len(path) + len(row.Value)
	return nil
}

func (c *changes) remove(path string) {
	c.batch.Delete(catalog.Row{Path: path}.Key())
	c.bytes += len(path)
}

func (c *changes) full() bool { return c.bytes >= batchBytes }

// due is after how long there is something to do that nobody will tell of;
// busy: at once.
func (s *seats) due() (after time.Duration, busy bool) {
	if s.seen == nil {
		return time.Hour, false
	}
	now := time.Since(s.opened)
	if after = s.sweep - now; s.sweep == 0 {
		after = s.every
	}
	if len(s.later) > 0 || s.renewed != nil {
		after = min(after, s.stirred+moveEvery*s.every-now)
	}
	return after, len(s.todo) > 0 || s.notes.waiting()
}

// gather puts what has changed into a batch. What does not fit is left for the
// next.
func (s *seats) gather(ctx context.Context, c *changes, read func() *slatedb.Reader) error {
	if s.seen == nil {
		return nil
	}
	now := time.Since(s.opened)
	if now-s.stirred >= moveEvery*s.every {
		maps.Copy(s.todo, s.later)
		clear(s.later)
		s.stirred = now
	}
	complete, leasesRead := s.seen.Complete()
	if !s.began || complete && now >= s.sweep {
		for _, root := range s.seen.Roots() {
			s.todo[root] = struct{}{}
		}
		for root := range s.roots {
			s.todo[root] = struct{}{}
		}
		if s.began = true; complete {
			s.sweep = now + sweepEvery
		}
	}
	if leases, turned := s.notes.take(s.todo); turned {
		s.renewed = leases
	}
	if s.renewed != nil {
		if err := s.renew(c, leasesRead, now); err != nil {
			return err
		}
	}
	for root := range s.todo {
		if c.full() {
			break
		}
		delete(s.todo, root)
		if err := s.reseat(ctx, c, root, complete, read, now); err != nil {
			return err
		}
	}
	return nil
}

// renew makes the rows of leases those of now.
func (s *seats) renew(c *changes, all bool, now time.Duration) error {
	waits := !all // what is not among them may be there
	for path, lease := range s.renewed {
		_, row := catalog.LeaseRow(lease)
		was, known := s.leases[path]
		sum := sumOf(row)
		switch {
		case c.strange[path] || known && was.sum == sum:
		case c.full() || known && was.at > 0 && now-was.at < moveEvery*s.every:
			waits = true
		default:
			if err := c.put(path, row); err != nil {
				return err
			}
			s.leases[path] = held{sum, max(now, 1)}
		}
	}
	for path := range s.leases {
		if _, still := s.renewed[path]; !still && all {
			c.remove(path)
			delete(s.leases, path)
		}
	}
	if !waits {
		s.renewed = nil
	}
	return nil
}

// reseat makes the rows of one root those of what is seen there. Of what is not
// seen no row goes: they say so (P1).
func (s *seats) reseat(ctx context.Context, c *changes, root string, complete bool, read func() *slatedb.Reader, now time.Duration) error {
	t := s.roots[root]
	sight, ok := s.seen.Sighting(root)
	if !ok {
		if t == nil || t.slate == "" || !complete {
			return nil // nobody ever told of it, or it may yet be found
		}
		sight = catalog.Sighting{Slate: t.slate, Root: root, Seen: catalog.SeenMissing, Reason: unseen}
		if by, named := s.named[t.slate]; named && by != root {
			sight.Slate = root // another has its name by now
		}
	}
	if sight.Seen != catalog.SeenLive && sight.ManifestID == nil && t != nil && t.slate != "" {
		was, err := s.before(ctx, read, t, root)
		if err != nil {
			return err
		}
		if was != nil {
			was.Slate, was.Seen, was.Reason = sight.Slate, sight.Seen, sight.Reason
			sight = *was
		}
	}
	if t == nil {
		t = &seat{}
		s.roots[root] = t
	}
	s.move(t, root, sight.Slate)
	under, want := t.under(), catalog.SightRows(sight)
	still := sumOf(catalog.Still(sight))
	sums := make(map[string]uint64, len(t.rows))
	for i, k := range t.rows {
		// Of what lies elsewhere some may be where the seat is now.
		t.rows[i].path = strings.TrimPrefix(k.path, under)
		sums[t.rows[i].path] = k.sum
	}
	if was, known := sums[catalog.PlacementBranch]; known && still == t.still && t.at > 0 && now-t.at < moveEvery*s.every && len(want) == len(t.rows) {
		same := true
		for rest, row := range want {
			sum, known := sums[rest]
			same = same && known && (rest == catalog.PlacementBranch || sum == sumOf(row))
		}
		if same {
			if sumOf(want[catalog.PlacementBranch]) != was {
				s.later[root] = struct{}{}
			}
			return nil
		}
	}
	rows := make([]kept, 0, len(want))
	for rest, row := range want {
		if c.strange[under+rest] {
			continue
		}
		sum := sumOf(row)
		rows = append(rows, kept{rest, sum})
		if was, known := sums[rest]; known && was == sum {
			continue
		}
		if err := c.put(under+rest, row); err != nil {
			return err
		}
		if rest == catalog.PlacementBranch {
			t.at = max(now, 1)
		}
	}
	for _, k := range t.rows {
		if _, still := want[k.path]; still {
			continue
		}
		elsewhere := strings.HasPrefix(k.path, "slate/")
		if elsewhere && s.others(k.path, root) {
			continue
		}
		if sight.Seen != catalog.SeenLive && !(elsewhere && strings.HasSuffix(k.path, "/"+catalog.PlacementBranch)) {
			rows = append(rows, k)
			continue
		}
		if !elsewhere {
			k.path = under + k.path
		}
		c.remove(k.path)
	}
	t.rows, t.still = rows, still
	return nil
}

// before is the placement at a root as the catalog has it; nil: it has none.
func (s *seats) before(ctx context.Context, read func() *slatedb.Reader, t *seat, root string) (*catalog.Sighting, error) {
	key := catalog.Row{Path: t.under() + catalog.PlacementBranch}.Key()
	e, err := read().Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the catalog slate: %w", err)
	}
	row, err := catalog.DecodeRow(key, e.Value)
	if err != nil {
		return nil, nil // it stays as it is
	}
	v, err := catalog.ReadRow(row)
	if p, ok := v.(*catalog.PlacementRow); ok && err == nil && p.Root == root {
		return &p.Sighting, nil
	}
	return nil, nil
}

// others reports whether a row that one root had elsewhere is another root's by
// now: names have passed between them.
func (s *seats) others(path, root string) bool {
	name, beside, rest, ok := catalog.Branch(path)
	if !ok {
		return false
	}
	owner, named := s.named[name]
	if beside || !named {
		owner = name
	}
	t := s.roots[owner]
	return owner != root && t != nil && t.slate == name && t.beside == beside &&
		slices.ContainsFunc(t.rows, func(k kept) bool { return k.path == rest })
}

// move says what the slate at a root is called, and so where its rows lie. Two
// roots have one name when an owner gave to one the name that is the other's
// key: the registered one takes the name's place, the other one's rows lie
// beside.
func (s *seats) move(t *seat, root, slate string) {
	if old := t.slate; old != slate && s.named[old] == root {
		delete(s.named, old)
		s.again(old) // the name's place is free
	}
	_, taken := s.named[slate]
	beside := slate == root && taken
	if t.slate != slate || t.beside != beside {
		t.abroad()
		t.slate, t.beside = slate, beside
	}
	if slate == root || s.named[slate] == root {
		return
	}
	s.named[slate] = root
	if other := s.roots[slate]; other != nil && other.slate == slate && !other.beside {
		// What it has there is overwritten or removed here: its own next
		// comparison must not remove what is ours by then.
		other.abroad()
		t.rows = append(t.rows, other.rows...)
		other.rows = nil
		s.again(slate)
	}
}

// again compares a root once more, when there is something of it.
func (s *seats) again(root string) {
	if s.roots[root] != nil {
		s.todo[root] = struct{}{}
	}
}
