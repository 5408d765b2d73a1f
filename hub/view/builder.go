package view

import (
	"time"

	"github.com/tidwall/btree"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Builder is the one writer of views. It belongs to one goroutine. Between
// publications its own [View] methods show what has been set so far; nobody
// else may see them.
type Builder struct {
	View
	maxEvents  int
	maxChanges int
	dirty      bool
	// last says at which publication a key changed last, by resource: what a
	// reader of the newest-wins log must not be told twice.
	last map[string]map[string]uint64
	// shared is what the newest published view holds, reused for tables that
	// were not touched since.
	shared  *View
	touched map[string]bool
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
			seq:        start,
			placements: placementTable(), slates: slateTable(), restore: restoreTable(),
			owners: ownerTable(), findings: findingTable(), clusters: clusterTable(),
			regions: regionTable(), registrations: registrationTable(), leases: leaseTable(),
			events: btree.NewBTreeGOptions(func(a, b *catalog.Event) bool { return a.Seq < b.Seq }, unlocked),
		},
		maxEvents: maxEvents, maxChanges: maxChanges,
		last:    map[string]map[string]uint64{},
		touched: map[string]bool{},
	}
	for _, r := range []string{Placements, Slates, RestorePoints, Owners, Findings, Clusters, Regions} {
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
	keep(&b.View.placements, &v.placements, shareOf(old, func(o *View) *table[catalog.Placement] { return &o.placements }), b.touched[Placements])
	keep(&b.View.slates, &v.slates, shareOf(old, func(o *View) *table[catalog.Slate] { return &o.slates }), b.touched[Slates])
	keep(&b.View.restore, &v.restore, shareOf(old, func(o *View) *table[catalog.RestorePoint] { return &o.restore }), b.touched[RestorePoints])
	keep(&b.View.owners, &v.owners, shareOf(old, func(o *View) *table[catalog.OwnerRow] { return &o.owners }), b.touched[Owners])
	keep(&b.View.findings, &v.findings, shareOf(old, func(o *View) *table[catalog.Finding] { return &o.findings }), b.touched[Findings])
	keep(&b.View.clusters, &v.clusters, shareOf(old, func(o *View) *table[catalog.Cluster] { return &o.clusters }), b.touched[Clusters])
	keep(&b.View.regions, &v.regions, shareOf(old, func(o *View) *table[catalog.Region] { return &o.regions }), b.touched[Regions])
	keep(&b.View.registrations, &v.registrations, shareOf(old, func(o *View) *table[Registration] { return &o.registrations }), b.touched[declared])
	keep(&b.View.leases, &v.leases, shareOf(old, func(o *View) *table[Lease] { return &o.leases }), b.touched[declared])
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

func shareOf[T any](old *View, pick func(*View) *table[T]) *table[T] {
	if old == nil {
		return nil
	}
	return pick(old)
}

func keep[T any](mine, out, before *table[T], touched bool) {
	if before == nil || touched {
		*out = mine.share()
	} else {
		*out = *before
	}
}

// SetPlacement puts a row; the row belongs to the view from now on. quiet:
// nothing changed but when it was observed, do not tell watchers.
func (b *Builder) SetPlacement(r *catalog.Placement, quiet bool) {
	put(b, Placements, &b.placements, r, quiet)
}

// RemovePlacement takes a row out. Only a person's word may lead here (P1).
func (b *Builder) RemovePlacement(region, root string) {
	remove(b, Placements, &b.placements, probePlacement(region, root))
}

// SetSlate puts a row; quiet as in [Builder.SetPlacement].
func (b *Builder) SetSlate(r *catalog.Slate, quiet bool) { put(b, Slates, &b.slates, r, quiet) }

// RemoveSlate takes a row out.
func (b *Builder) RemoveSlate(name string) {
	remove(b, Slates, &b.slates, &catalog.Slate{Name: name})
}

// SetRestorePoint puts a row.
func (b *Builder) SetRestorePoint(r *catalog.RestorePoint) {
	put(b, RestorePoints, &b.restore, r, false)
}

// RestorePoint is the row with that key, nil when there is none.
func (b *Builder) RestorePoint(region, root, id string) *catalog.RestorePoint {
	return b.restore.get(&catalog.RestorePoint{Region: region, Root: root, ID: id})
}

// RemoveRestorePoint takes a row out.
func (b *Builder) RemoveRestorePoint(region, root, id string) {
	remove(b, RestorePoints, &b.restore, &catalog.RestorePoint{Region: region, Root: root, ID: id})
}

// SetOwner puts a row.
func (b *Builder) SetOwner(r *catalog.OwnerRow) { put(b, Owners, &b.owners, r, false) }

// Owner is the row of a root, nil when there is none.
func (b *Builder) Owner(region, root string) *catalog.OwnerRow {
	return b.owners.get(&catalog.OwnerRow{Region: region, Root: root})
}

// RemoveOwner takes a row out.
func (b *Builder) RemoveOwner(region, root string) {
	remove(b, Owners, &b.owners, &catalog.OwnerRow{Region: region, Root: root})
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

// Touched reports whether anything was set since the last publication, quietly
// or not.
func (b *Builder) Touched() bool { return len(b.touched) > 0 || b.shared == nil }

// StartEventsAt makes the next event's number at least one above last.
func (b *Builder) StartEventsAt(last uint64) { b.lastEvent = max(b.lastEvent, last) }

func put[T any](b *Builder, resource string, t *table[T], r *T, quiet bool) {
	t.set(r)
	b.touched[resource] = true
	if !quiet {
		note(b, resource, &t.log, t.key(r))
	}
}

func remove[T any](b *Builder, resource string, t *table[T], probe *T) {
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
