package view

import (
	"time"

	"github.com/tidwall/btree"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Builder is the one writer of views. It belongs to one goroutine. Between
// publications its own [View] methods show what has been set so far; nobody
// else may see them.
type Builder struct {
	View
	pb    *table.Builder[catalog.Placement]
	sb    *table.Builder[catalog.Slate]
	stale map[string]stale // regions whose rows may not be called current
	// The classes that rows of a region have.
	placedIn, slatedIn map[string][]uint32
	maxEvents          int
	maxChanges         int
	dirty              bool
	// last says at which publication a key changed last, by resource: what a
	// reader of the newest-wins log must not be told twice.
	last map[string]map[string]uint64
	// shared is what the newest published view holds, reused for tables that
	// were not touched since.
	shared  *View
	touched map[string]bool
	stirred map[string]struct{} // slates; nil: nobody wants to know
}

// DefaultMaxEvents and DefaultMaxChanges bound the event log and, per
// resource, the log of changed keys.
const (
	DefaultMaxEvents  = 50_000
	DefaultMaxChanges = 100_000
)

// NewBuilder starts with nothing; the first view published will have a Seq
// above start. Zero bounds mean the defaults.
func NewBuilder(start uint64, maxEvents, maxChanges int) *Builder {
	if maxEvents <= 0 {
		maxEvents = DefaultMaxEvents
	}
	if maxChanges <= 0 {
		maxChanges = DefaultMaxChanges
	}
	b := &Builder{
		View: View{
			seq:     start,
			restore: restoreTable(),
			owners:  ownerTable(), findings: findingTable(), clusters: clusterTable(),
			regions: regionTable(), registrations: registrationTable(), leases: leaseTable(), permits: permitTable(), pins: pinTable(),
			events: btree.NewBTreeGOptions(func(a, b *catalog.Event) bool { return a.Seq < b.Seq }, unlocked),
			ruled:  newRuled(),
		},
		maxEvents: maxEvents, maxChanges: maxChanges,
		last:    map[string]map[string]uint64{},
		touched: map[string]bool{},
		pb:      table.NewBuilder[catalog.Placement](placementSchema), sb: table.NewBuilder[catalog.Slate](slateSchema),
		stale: map[string]stale{},
	}
	b.View.fleet, b.View.slates = b.pb.Table(), b.sb.Table()
	b.held = heldTree()
	b.placed.floor, b.slated.floor = start, start
	b.cover()
	for _, r := range []string{RestorePoints, Owners, Findings, Clusters, Regions, Policies, Holds, Freezes, Decisions, Pins} {
		b.last[r] = map[string]uint64{}
		b.changes(r).floor = start
	}
	return b
}

// Publish gives a view of everything set so far. It costs the same however
// many rows there are.
func (b *Builder) Publish(now time.Time) *View {
	if b.dirty || b.shared == nil {
		b.seq++
		b.dirty = false
	}
	v := b.View // copies the headers of the tables
	v.at = now
	old := b.shared
	v.fleet, v.slates = b.pb.Share(), b.sb.Share()
	keep(&b.View.restore, &v.restore, shareOf(old, func(o *View) *rows[catalog.RestorePoint] { return &o.restore }), b.touched[RestorePoints])
	keep(&b.View.owners, &v.owners, shareOf(old, func(o *View) *rows[catalog.OwnerRow] { return &o.owners }), b.touched[Owners])
	keep(&b.View.findings, &v.findings, shareOf(old, func(o *View) *rows[catalog.Finding] { return &o.findings }), b.touched[Findings])
	keep(&b.View.clusters, &v.clusters, shareOf(old, func(o *View) *rows[catalog.Cluster] { return &o.clusters }), b.touched[Clusters])
	keep(&b.View.regions, &v.regions, shareOf(old, func(o *View) *rows[catalog.Region] { return &o.regions }), b.touched[Regions])
	keep(&b.View.policies, &v.policies, shareOf(old, func(o *View) *rows[catalog.Policy] { return &o.policies }), b.touched[Policies])
	keep(&b.View.holds, &v.holds, shareOf(old, func(o *View) *rows[catalog.Hold] { return &o.holds }), b.touched[Holds])
	keep(&b.View.freezes, &v.freezes, shareOf(old, func(o *View) *rows[catalog.Freeze] { return &o.freezes }), b.touched[Freezes])
	keep(&b.View.decided, &v.decided, shareOf(old, func(o *View) *rows[catalog.DecisionRow] { return &o.decided }), b.touched[Decisions])
	keep(&b.View.pins, &v.pins, shareOf(old, func(o *View) *rows[catalog.Pin] { return &o.pins }), b.touched[Pins])
	keep(&b.View.registrations, &v.registrations, shareOf(old, func(o *View) *rows[Registration] { return &o.registrations }), b.touched[declared])
	keep(&b.View.leases, &v.leases, shareOf(old, func(o *View) *rows[Lease] { return &o.leases }), b.touched[declared])
	keep(&b.View.permits, &v.permits, shareOf(old, func(o *View) *rows[Permit] { return &o.permits }), b.touched[declared])
	if old == nil || b.touched[declared] {
		v.held = b.View.held.Copy()
	} else {
		v.held = old.held
	}
	if old == nil || b.touched[events] {
		v.events = b.View.events.Copy()
	} else {
		v.events = old.events
	}
	clear(b.touched)
	b.shared = &v
	return &v
}

// Tables without a log of changes.
const (
	declared = "declared"
	events   = "events"
)

func shareOf[T any](old *View, pick func(*View) *rows[T]) *rows[T] {
	if old == nil {
		return nil
	}
	return pick(old)
}

func keep[T any](mine, out, before *rows[T], touched bool) {
	if before == nil || touched {
		*out = mine.share()
	} else {
		*out = *before
	}
}

// SetRestorePoint puts a row.
func (b *Builder) SetRestorePoint(r *catalog.RestorePoint) {
	b.stirPoint(r)
	put(b, RestorePoints, &b.restore, r, false)
}

// RestorePoint is the row with that key, nil when there is none.
func (b *Builder) RestorePoint(region, root, id string) *catalog.RestorePoint {
	return b.restore.get(&catalog.RestorePoint{Region: region, Root: root, ID: id})
}

// RemoveRestorePoint takes a row out.
func (b *Builder) RemoveRestorePoint(region, root, id string) {
	r := &catalog.RestorePoint{Region: region, Root: root, ID: id}
	b.stirPoint(r)
	remove(b, RestorePoints, &b.restore, r)
}

// stirPoint stirs the slates that a restore point is and was of.
func (b *Builder) stirPoint(r *catalog.RestorePoint) {
	if b.stirred == nil {
		return
	}
	if was := b.restore.get(r); was != nil {
		b.stir(was.Slate)
	}
	if r.Slate != "" {
		b.stir(r.Slate)
	}
}

// SetFinding puts a row.
func (b *Builder) SetFinding(r *catalog.Finding) { put(b, Findings, &b.findings, r, false) }

// Finding is the row with that key, nil when there is none.
func (b *Builder) Finding(region, code, root, object string) *catalog.Finding {
	return b.findings.get(&catalog.Finding{Region: region, Code: code, Root: root, Object: object})
}

// RemoveFinding takes a row out.
func (b *Builder) RemoveFinding(region, code, root, object string) {
	remove(b, Findings, &b.findings, &catalog.Finding{Region: region, Code: code, Root: root, Object: object})
}

// SetCluster puts a row; quiet: only its clocks moved, do not tell watchers.
func (b *Builder) SetCluster(r *catalog.Cluster, quiet bool) {
	put(b, Clusters, &b.clusters, r, quiet)
}

// Cluster is the row of that name, nil when there is none.
func (b *Builder) Cluster(region, name string) *catalog.Cluster {
	return b.clusters.get(&catalog.Cluster{Region: region, Name: name})
}

// SetRegion puts a row; quiet: only its clocks moved, do not tell watchers.
func (b *Builder) SetRegion(r *catalog.Region, quiet bool) {
	put(b, Regions, &b.regions, r, quiet)
}

// SlateCount is how many slates there are.
func (b *Builder) SlateCount() int { return b.sb.Len() }

// RemoveRegion takes a region's row out: one that joined and could not be
// recorded.
func (b *Builder) RemoveRegion(name string) {
	remove(b, Regions, &b.regions, &catalog.Region{Name: name})
}

// SetRegistration keeps a declaration for the saved view.
func (b *Builder) SetRegistration(r *Registration) {
	b.registrations.set(r)
	b.touched[declared] = true
}

// RemoveRegistration forgets a declaration.
func (b *Builder) RemoveRegistration(region, id string) {
	p := &Registration{Region: region}
	p.ID = id
	b.registrations.remove(p)
	b.touched[declared] = true
}

// SetLease keeps a lease for the saved view.
func (b *Builder) SetLease(r *Lease) {
	b.leases.set(r)
	b.touched[declared] = true
}

// RemoveLease forgets a lease.
func (b *Builder) RemoveLease(region, key string) {
	b.leases.remove(&Lease{Region: region, Key: key})
	b.touched[declared] = true
}

// AddEvent appends to the log and drops the oldest beyond the bound. Sequence
// numbers must grow.
func (b *Builder) AddEvent(e *catalog.Event) {
	b.View.events.Set(e)
	b.lastEvent = max(b.lastEvent, e.Seq)
	for b.View.events.Len() > b.maxEvents {
		b.View.events.PopMin()
	}
	b.touched[events] = true
	b.dirty = true
}

// DropEventsAfter takes back what was added to the log after an event, as if it
// had not been: nobody may have seen it yet.
func (b *Builder) DropEventsAfter(seq uint64) {
	for b.lastEvent > seq {
		if e, some := b.View.events.Max(); some && e.Seq > seq {
			b.View.events.PopMax()
			continue
		}
		b.lastEvent = seq
	}
}

// Touched reports whether anything was set since the last publication, quietly
// or not.
func (b *Builder) Touched() bool { return len(b.touched) > 0 || b.shared == nil }

// StartEventsAt makes the next event's number at least one above last.
func (b *Builder) StartEventsAt(last uint64) { b.lastEvent = max(b.lastEvent, last) }

func put[T any](b *Builder, resource string, t *rows[T], r *T, quiet bool) {
	t.set(r)
	b.touched[resource] = true
	if !quiet {
		note(b, resource, &t.log, t.key(r))
	}
}

func remove[T any](b *Builder, resource string, t *rows[T], probe *T) {
	if _, had := t.remove(probe); had {
		note(b, resource, &t.log, t.key(probe))
	}
}

func note(b *Builder, resource string, log *changes, key string) {
	b.dirty = true
	b.touched[resource] = true
	next := b.seq + 1
	last := b.last[resource]
	if at, known := last[key]; known {
		if at == next {
			return
		}
		log.tree.Delete(change{at, key})
	}
	last[key] = next
	log.tree.Set(change{next, key})
	for log.tree.Len() > b.maxChanges {
		oldest, _ := log.tree.PopMin()
		delete(last, oldest.key)
		log.floor = oldest.seq
	}
}
