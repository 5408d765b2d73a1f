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

	"github.com/quarry-db/quarry/hub/table"
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

	fleet    *table.Table // placements
	slates   *table.Table
	placed   journal
	slated   journal
	restore  rows[catalog.RestorePoint]
	owners   rows[catalog.OwnerRow] // of roots without a placement
	findings rows[catalog.Finding]
	clusters rows[catalog.Cluster]
	regions  rows[catalog.Region]

	registrations rows[Registration]
	leases        rows[Lease]
	permits       rows[Permit]
	pins          rows[catalog.Pin]
	held          *btree.BTreeG[*Held]

	events    *btree.BTreeG[*catalog.Event]
	lastEvent uint64

	ruled
	kept any // the state's own
}

// Seq grows with every publication in which something changed that a watcher
// would want to know. It also grows across restarts of the hub.
func (v *View) Seq() uint64 { return v.seq }

// At is when the view was published, on the hub's clock. A view that only
// says "still the same, a second later" has the Seq of the one before.
func (v *View) At() time.Time { return v.at }

// RestorePoints lists all restore points, ordered by slate, region, and the
// highest position first.
func (v *View) RestorePoints() iter.Seq[*catalog.RestorePoint] { return v.restore.all() }

// RestorePointsOf lists the restore points of one slate in the same order.
func (v *View) RestorePointsOf(slate string) iter.Seq[*catalog.RestorePoint] {
	return v.restore.from(&catalog.RestorePoint{Slate: slate, Position: &maxPosition},
		func(r *catalog.RestorePoint) bool { return r.Slate == slate })
}

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
	switch resource {
	case Placements:
		if seq < v.placed.floor || seq > v.seq {
			return nil, false
		}
		for _, id := range v.placed.since(seq, func(region string, yield func(*table.Ident)) {
			v.fleet.In(region, func(id *table.Ident) bool { yield(id); return true })
		}) {
			keys = append(keys, PlacementKey(id.Region, id.Root))
		}
		return keys, true
	case Slates:
		if seq < v.slated.floor || seq > v.seq {
			return nil, false
		}
		for _, id := range v.slated.since(seq, func(region string, yield func(*table.Ident)) {
			v.fleet.In(region, func(id *table.Ident) bool { yield(&table.Ident{Slate: id.Slate}); return true })
		}) {
			keys = append(keys, id.Slate)
		}
		return keys, true
	}
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
		if p := split(key); len(p) == 2 {
			return found(v.Placement(p[0], p[1]))
		}
	case Slates:
		return found(v.Slate(key))
	case RestorePoints:
		return row(&v.restore, key)
	case Owners:
		if p := split(key); len(p) == 2 {
			return found(v.owner(p[0], p[1]))
		}
	case Findings:
		return row(&v.findings, key)
	case Clusters:
		return row(&v.clusters, key)
	case Regions:
		return row(&v.regions, key)
	case Policies:
		return row(&v.policies, key)
	case Holds:
		return row(&v.holds, key)
	case Freezes:
		return row(&v.freezes, key)
	case Decisions:
		return row(&v.decided, key)
	case Pins:
		return row(&v.pins, key)
	}
	return nil
}

func found[T any](r *T) any {
	if r == nil {
		return nil
	}
	return r
}

func (v *View) changes(resource string) *changes {
	switch resource {
	case RestorePoints:
		return &v.restore.log
	case Pins:
		return &v.pins.log
	case Owners:
		return &v.owners.log
	case Findings:
		return &v.findings.log
	case Clusters:
		return &v.clusters.log
	case Regions:
		return &v.regions.log
	case Policies:
		return &v.policies.log
	case Holds:
		return &v.holds.log
	case Freezes:
		return &v.freezes.log
	case Decisions:
		return &v.decided.log
	}
	return nil
}
