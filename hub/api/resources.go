package api

import (
	"iter"
	"reflect"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions/plan"
)

// Columns of placements that no field shows.
const (
	slateSlot = "hidden.slate"
	movedAt   = "hidden.moved_at"
)

// resource is one kind of row that can be listed.
type resource struct {
	name string // in paths, and to the view
	one  string // what one of them is called
	typ  *query.Type
	// region is the field that says whose row it is, so that an answer tells
	// the freshness of the regions it covers and of no other; empty: all.
	region string
	order  string // the order rows() yields
	rows   func(v *view.View, f *query.Filter) iter.Seq[any]
	// columns has the rows in columns; nil: rows gives them.
	columns func(v *view.View) query.Source
	get     func(v *view.View, name string) any // nil: not by name
	key     func(row any) string                // as view.Row takes it
	doc     string
}

func text[T ~string](values ...T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

// values of the named string types: comparing with another is a mistake.
var values = query.Values{
	reflect.TypeFor[catalog.Kind]():           text(catalog.Kinds...),
	reflect.TypeFor[catalog.Seen]():           text(catalog.SeenLive, catalog.SeenMissing, catalog.SeenUnreadable),
	reflect.TypeFor[catalog.PlacementState](): text(catalog.StateLive, catalog.StateMissing, catalog.StateStale, catalog.StateUnreadable),
	reflect.TypeFor[catalog.RegionState]():    text(catalog.RegionConnected, catalog.RegionSuspect, catalog.RegionStale, catalog.RegionBlind, catalog.RegionReset),
	reflect.TypeFor[catalog.Membership]():     text(catalog.Joining, catalog.Active, catalog.Retired),
	reflect.TypeFor[catalog.RestoreState]():   text(catalog.RestoreListed, catalog.RestoreVerified, catalog.RestoreIncomplete, catalog.RestoreUnreadable),
	reflect.TypeFor[catalog.RestoreSource]():  text(catalog.SourceCheckpoint, catalog.SourceSnapshot),
	reflect.TypeFor[plan.Action]():            text(plan.Permit, plan.Wait),
	reflect.TypeFor[catalog.Stage]():          text(catalog.Stages...),
	reflect.TypeFor[catalog.Verb]():           text(catalog.Verbs...),
	reflect.TypeFor[catalog.OutcomeState]():   text(catalog.OutcomeStates...),
}

func anyRow[T any](rows iter.Seq[*T]) iter.Seq[any] {
	return func(yield func(any) bool) {
		for r := range rows {
			if !yield(r) {
				return
			}
		}
	}
}

func found[T any](row *T) any {
	if row == nil {
		return nil
	}
	return row
}

// resources lists what there is. The queries and the view agree on order: a
// page in the default order stops at its end.
func resources() []*resource {
	restorePoints := query.TypeOf[catalog.RestorePoint](view.RestorePoints, values, "slate", "region", "root", "id")
	placements := query.TypeOf[catalog.Placement](view.Placements, values, "slate", "region", "root")
	restorePoints.Default = "slate, region, position desc"
	texts := new(query.Sketches) // of placements
	return append(ruled(), []*resource{
		{
			name: view.Regions, one: "region", region: "name", doc: "The region set: every region the hub expects, heard or not.",
			typ:  query.TypeOf[catalog.Region](view.Regions, values, "name"),
			rows: func(v *view.View, _ *query.Filter) iter.Seq[any] { return anyRow(v.Regions()) },
			get:  func(v *view.View, name string) any { return found(v.Region(name)) },
			key:  func(row any) string { return row.(*catalog.Region).Name },
		},
		{
			name: view.Clusters, one: "cluster", region: "region", doc: "The agents' clusters.",
			typ:  query.TypeOf[catalog.Cluster](view.Clusters, values, "region", "name"),
			rows: func(v *view.View, _ *query.Filter) iter.Seq[any] { return anyRow(v.Clusters()) },
			key:  func(row any) string { r := row.(*catalog.Cluster); return view.ClusterKey(r.Region, r.Name) },
		},
		{
			name: view.Slates, one: "slate", doc: "The logical databases: all placements of one name.",
			typ:     query.TypeOf[catalog.Slate](view.Slates, values, "name"),
			columns: slatesIn(placements, texts),
			get:     func(v *view.View, name string) any { return found(v.Slate(name)) },
			key:     func(row any) string { return row.(*catalog.Slate).Name },
		},
		{
			name: view.Placements, one: "placement", region: "region", doc: "Slates' presences in regions, with everything seen there.",
			typ:     placements,
			columns: func(v *view.View) query.Source { return query.Source{Table: v.PlacementTable(), Sketches: texts} },
			key:     func(row any) string { r := row.(*catalog.Placement); return view.PlacementKey(r.Region, r.Root) },
		},
		{
			name: view.Owners, one: "owner", region: "region", doc: "Who is responsible for what, as declared, and what the store shows of the writer.",
			typ:     query.TypeOf[catalog.OwnerRow](view.Owners, values, "slate", "region", "root"),
			columns: ownersIn(texts),
			key:     func(row any) string { r := row.(*catalog.OwnerRow); return view.PlacementKey(r.Region, r.Root) },
		},
		{
			name: view.RestorePoints, one: "restore point", region: "region", doc: "States that can be opened again.",
			typ: restorePoints,
			rows: func(v *view.View, f *query.Filter) iter.Seq[any] {
				if names, ok := f.Only("slate"); ok {
					return concat(names, v.RestorePointsOf)
				}
				return anyRow(v.RestorePoints())
			},
			key: func(row any) string {
				r := row.(*catalog.RestorePoint)
				return view.RestorePointKey(r.Region, r.Root, r.ID)
			},
		},
		{
			name: view.Findings, one: "finding", region: "region", doc: "What is wrong or dangerous, and the cure.",
			typ:  query.TypeOf[catalog.Finding](view.Findings, values, "slate", "region", "code", "root", "object"),
			rows: func(v *view.View, _ *query.Filter) iter.Seq[any] { return anyRow(v.Findings()) },
			key: func(row any) string {
				r := row.(*catalog.Finding)
				return view.FindingKey(r.Region, r.Code, r.Root, r.Object)
			},
		},
	}...)
}

// eventRows is the log of events, which is listed like rows and watched in
// its own order.
func eventRows() *resource {
	return &resource{
		name: "events", one: "event", region: "region", doc: "The ordered, persisted, bounded log of changes.",
		typ: query.TypeOf[catalog.Event]("events", values, "seq"),
	}
}

// concat yields the rows of some names, each name's in its own order; names
// come sorted, so the whole is in order too.
func concat[T any](names []string, of func(string) iter.Seq[*T]) iter.Seq[any] {
	return func(yield func(any) bool) {
		for _, n := range names {
			for r := range of(n) {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// sourceOf is where the rows of a resource come from.
func sourceOf(res *resource, v *view.View) query.Source {
	if res.columns != nil {
		return res.columns(v)
	}
	return query.Source{Rows: func(f *query.Filter) iter.Seq[any] { return res.rows(v, f) }, Order: res.order, Ordered: true}
}

// slatesIn reads slates from columns; what the store shows of them in each
// region is what their placements say.
func slatesIn(placements *query.Type, texts *query.Sketches) func(v *view.View) query.Source {
	own := new(query.Sketches)
	return func(v *view.View) query.Source {
		of := query.Through{Table: v.PlacementTable(), Type: placements, Slot: slateSlot, Sketches: texts}
		lineage := of
		lineage.Text = "lineage"
		return query.Source{
			Table: v.SlateTable(), Fill: func(row any) { v.FillSlate(row.(*catalog.Slate)) }, Sketches: own,
			Through: map[string]query.Through{"where": of, "lineages": lineage},
		}
	}
}

// ownersIn reads owners' rows from the placements' columns, and those of roots
// where no database was seen.
func ownersIn(texts *query.Sketches) func(v *view.View) query.Source {
	return func(v *view.View) query.Source {
		t := v.PlacementTable()
		return query.Source{
			Table: t, Columns: map[string]string{"declared": "registered", "moved_at": movedAt}, Sketches: texts,
			Row: func(s table.Slot) any {
				id := t.Ident(s)
				return v.Row(view.Owners, view.PlacementKey(id.Region, id.Root))
			},
			Extra: func(*query.Filter) iter.Seq[any] { return anyRow(v.Declared()) },
		}
	}
}
