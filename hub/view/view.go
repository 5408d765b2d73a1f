// Package view is the immutable picture of the fleet that every query reads:
// rows and the indexes over them. Readers never block the hub's loop and the
// loop never blocks readers: one writer changes a [Builder], and what it
// publishes shares all untouched rows with what it published before.
//
// The package decides nothing. What a row says is decided in hub/state.
//
// Begin with [View]; only hub/state has a [Builder].
package view

import (
	"iter"
	"time"

	"github.com/tidwall/btree"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Names of resources, as in the paths of the API.
const (
	Regions       = "regions"
	Clusters      = "clusters"
	Slates        = "slates"
	Placements    = "placements"
	Owners        = "owners"
	RestorePoints = "restore-points"
	Findings      = "findings"
)

// View is one moment of the hub's knowledge. It never changes; any number of
// goroutines may read it, and hold on to it as long as they like. Rows are
// shared between views: nobody may change one.
type View struct {
	seq uint64
	at  time.Time

	placements table[catalog.Placement]
	slates     table[catalog.Slate]
	restore    table[catalog.RestorePoint]
	owners     table[catalog.OwnerRow]
	findings   table[catalog.Finding]
	clusters   table[catalog.Cluster]
	regions    table[catalog.Region]

	registrations table[Registration]
	leases        table[Lease]

	events    *btree.BTreeG[*catalog.Event]
	lastEvent uint64
}

// Seq grows with every publication in which something changed that a watcher
// would want to know. It also grows across restarts of the hub.
func (v *View) Seq() uint64 { return v.seq }

// At is when the view was published, on the hub's clock. A view that only
// says "still the same, a second later" has the Seq of the one before.
func (v *View) At() time.Time { return v.at }

// Placements lists all placements, ordered by slate, region, root.
func (v *View) Placements() iter.Seq[*catalog.Placement] { return v.placements.all() }

// Placement is the placement at a root of a region, nil when there is none.
func (v *View) Placement(region, root string) *catalog.Placement {
	return v.placements.get(probePlacement(region, root))
}

// PlacementsOf lists the placements of one slate, ordered by region, root.
func (v *View) PlacementsOf(slate string) iter.Seq[*catalog.Placement] {
	p := &catalog.Placement{}
	p.Slate = slate
	return v.placements.from(p, func(p *catalog.Placement) bool { return p.Slate == slate })
}

// PlacementsIn lists the placements of one region, ordered by root.
func (v *View) PlacementsIn(region string) iter.Seq[*catalog.Placement] {
	return v.placements.fromKey(probePlacement(region, ""), func(p *catalog.Placement) bool { return p.Region == region })
}

// Slates lists all slates, ordered by name.
func (v *View) Slates() iter.Seq[*catalog.Slate] { return v.slates.all() }

// Slate is the slate of that name, nil when there is none.
func (v *View) Slate(name string) *catalog.Slate { return v.slates.get(&catalog.Slate{Name: name}) }

// RestorePoints lists all restore points, ordered by slate, region, and the
// highest position first.
func (v *View) RestorePoints() iter.Seq[*catalog.RestorePoint] { return v.restore.all() }

// RestorePointsOf lists the restore points of one slate in the same order.
func (v *View) RestorePointsOf(slate string) iter.Seq[*catalog.RestorePoint] {
	return v.restore.from(&catalog.RestorePoint{Slate: slate, Position: &maxPosition},
		func(r *catalog.RestorePoint) bool { return r.Slate == slate })
}

// Owners lists who is responsible for what, ordered by slate, region, root. A
// registration of a root where no database was seen has a row here too.
func (v *View) Owners() iter.Seq[*catalog.OwnerRow] { return v.owners.all() }

// Findings lists the findings, ordered by slate, region, code, root, object.
func (v *View) Findings() iter.Seq[*catalog.Finding] { return v.findings.all() }

// Clusters lists the clusters, ordered by region, name.
func (v *View) Clusters() iter.Seq[*catalog.Cluster] { return v.clusters.all() }

// Regions lists the region set, ordered by name.
func (v *View) Regions() iter.Seq[*catalog.Region] { return v.regions.all() }

// Region is the region of that name, nil when it is not in the region set.
func (v *View) Region(name string) *catalog.Region {
	return v.regions.get(&catalog.Region{Name: name})
}

// Registrations lists what owners declared, ordered by region, id.
func (v *View) Registrations() iter.Seq[*Registration] { return v.registrations.all() }

// Leases lists the leases, ordered by region, slate, role, id.
func (v *View) Leases() iter.Seq[*Lease] { return v.leases.all() }

// AsOf says for each region of the region set how current its rows are. Ages
// are counted up to [View.At].
func (v *View) AsOf() map[string]catalog.Freshness {
	out := make(map[string]catalog.Freshness)
	for r := range v.Regions() {
		f := catalog.Freshness{State: r.State, At: r.AsOf, Revision: r.Revision}
		if r.AsOf != nil {
			age := max(0, v.at.Sub(*r.AsOf).Milliseconds())
			f.AgeMS = &age
		}
		out[r.Name] = f
	}
	return out
}

// Unreachable names the regions whose rows may be out of date: all that are
// not connected (suspect counts as connected: only its beat is late).
func (v *View) Unreachable() []string {
	var out []string
	for r := range v.Regions() {
		if r.State != catalog.RegionConnected && r.State != catalog.RegionSuspect {
			out = append(out, r.Name)
		}
	}
	return out
}

// Events gives at most limit events (0: all) after the one with sequence
// number after, in order, and the lowest sequence number still kept. When
// after < oldest-1, events between were dropped: the answer is 410. With no
// event kept, oldest is the number the next event will have.
func (v *View) Events(after uint64, limit int) (events []catalog.Event, oldest uint64) {
	oldest = v.lastEvent + 1
	if e, ok := v.events.Min(); ok {
		oldest = e.Seq
	}
	v.events.Ascend(&catalog.Event{Seq: after + 1}, func(e *catalog.Event) bool {
		events = append(events, *e)
		return limit <= 0 || len(events) < limit
	})
	return events, oldest
}

// LastEvent is the sequence number of the newest event, 0 when there was none.
func (v *View) LastEvent() uint64 { return v.lastEvent }

// ChangedSince gives the keys of the resource's rows that changed after the
// publication seq, oldest change first, each key once; a row that is gone is
// among them, and [View.Row] then gives nil. ok is false when that is no
// longer known, the resource is not, or seq is not of this view's past: the
// caller starts over from the lists.
func (v *View) ChangedSince(resource string, seq uint64) (keys []string, ok bool) {
	c := v.changes(resource)
	if c == nil || seq < c.floor || seq > v.seq {
		return nil, false
	}
	c.tree.Ascend(change{seq: seq + 1}, func(c change) bool {
		keys = append(keys, c.key)
		return true
	})
	return keys, true
}

// Row is the row of a resource with that key, as a pointer to its catalog
// type; nil when it is gone.
func (v *View) Row(resource, key string) any {
	switch resource {
	case Placements:
		return row(&v.placements, key)
	case Slates:
		return row(&v.slates, key)
	case RestorePoints:
		return row(&v.restore, key)
	case Owners:
		return row(&v.owners, key)
	case Findings:
		return row(&v.findings, key)
	case Clusters:
		return row(&v.clusters, key)
	case Regions:
		return row(&v.regions, key)
	}
	return nil
}

func (v *View) changes(resource string) *changes {
	switch resource {
	case Placements:
		return &v.placements.log
	case Slates:
		return &v.slates.log
	case RestorePoints:
		return &v.restore.log
	case Owners:
		return &v.owners.log
	case Findings:
		return &v.findings.log
	case Clusters:
		return &v.clusters.log
	case Regions:
		return &v.regions.log
	}
	return nil
}
