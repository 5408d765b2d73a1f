package view_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func placement(slate, region, root string) *catalog.Placement {
	p := &catalog.Placement{Region: region}
	p.Slate, p.Root = slate, root
	return p
}

func names(v *view.View) string {
	var out []string
	for p := range v.Placements() {
		out = append(out, p.Slate+"@"+p.Region+":"+p.Root)
	}
	return strings.Join(out, " ")
}

func TestAViewNeverChanges(t *testing.T) {
	b := view.NewBuilder(100, 0, 0)
	b.SetPlacement(placement("b", "eu", "x"), false)
	b.SetPlacement(placement("a", "us", "y"), false)
	b.SetPlacement(placement("a", "eu", "z"), false)
	v1 := b.Publish(now)
	b.SetPlacement(placement("c", "us", "y"), false) // renamed
	b.RemovePlacement("eu", "x")
	v2 := b.Publish(now)
	if got := names(v1); got != "a@eu:z a@us:y b@eu:x" {
		t.Errorf("first view: %s", got)
	}
	if got := names(v2); got != "a@eu:z c@us:y" {
		t.Errorf("second view: %s", got)
	}
	if v1.Placement("us", "y").Slate != "a" || v2.Placement("us", "y").Slate != "c" {
		t.Error("a row of a view changed")
	}
	if n := len(slices.Collect(v1.PlacementsOf("a"))); n != 2 {
		t.Errorf("%d placements of a, want 2", n)
	}
	if v1.Row(view.Placements, view.PlacementKey("eu", "x")) == nil || v2.Row(view.Placements, view.PlacementKey("eu", "x")) != nil {
		t.Error("Row is nil exactly when the row is gone")
	}
	if v2.Row("nonsense", "x") != nil || v2.Row(view.Placements, "x") != nil {
		t.Error("an unknown resource or key has no row")
	}
}

// A placement that nobody had registered was removed, and who watched owners
// went on showing its row: only the table of declared roots was asked.
func TestWatchersOfOwnersHearThatAPlacementWent(t *testing.T) {
	b := view.NewBuilder(100, 0, 0)
	b.SetPlacement(placement("a", "eu", "a"), false)
	b.SetPlacement(placement("b", "eu", "b"), false)
	v1 := b.Publish(now)
	key := view.PlacementKey("eu", "a")
	if v1.Row(view.Owners, key) == nil {
		t.Fatal("a placement has no owner's row")
	}
	b.RemovePlacement("eu", "a")
	b.RemoveOwner("eu", "a") // as hub/state does after it
	v2 := b.Publish(now)
	keys, ok := v2.ChangedSince(view.Owners, v1.Seq())
	if !ok || !slices.Equal(keys, []string{key}) {
		t.Errorf("owners that changed: %q %v, want %q", keys, ok, key)
	}
	if v2.Row(view.Owners, key) != nil {
		t.Error("the owner's row is still there")
	}
}

func TestChangesAreNewestWins(t *testing.T) {
	b := view.NewBuilder(100, 0, 3)
	key := view.PlacementKey
	b.SetPlacement(placement("a", "eu", "a"), false)
	b.SetPlacement(placement("b", "eu", "b"), false)
	v1 := b.Publish(now)
	b.SetPlacement(placement("a", "eu", "a"), false)
	b.SetPlacement(placement("b", "eu", "b"), true) // quietly
	b.SetPlacement(placement("a", "eu", "a"), false)
	v2 := b.Publish(now)
	b.RemovePlacement("eu", "b")
	v3 := b.Publish(now)
	v4 := b.Publish(now.Add(time.Second))
	if v1.Seq() <= 100 || v2.Seq() <= v1.Seq() || v3.Seq() <= v2.Seq() || v4.Seq() != v3.Seq() || !v4.At().After(v3.At()) {
		t.Errorf("seqs %d %d %d %d", v1.Seq(), v2.Seq(), v3.Seq(), v4.Seq())
	}
	for _, c := range []struct {
		v    *view.View
		seq  uint64
		want []string
		ok   bool
	}{
		{v2, v1.Seq(), []string{key("eu", "a")}, true},
		{v3, v1.Seq(), []string{key("eu", "a"), key("eu", "b")}, true},
		{v3, v2.Seq(), []string{key("eu", "b")}, true},
		{v3, v3.Seq(), nil, true},
		{v3, v3.Seq() + 1, nil, false}, // of the future, or of another hub
		{v3, 99, nil, false},           // of a hub's life before
	} {
		got, ok := c.v.ChangedSince(view.Placements, c.seq)
		if !slices.Equal(got, c.want) || ok != c.ok {
			t.Errorf("changes of view %d since %d: %q, %t; want %q, %t", c.v.Seq(), c.seq, got, ok, c.want, c.ok)
		}
	}
	// Beyond its bound the log says that it does not know.
	for i := range 4 {
		b.SetPlacement(placement("n", "eu", fmt.Sprint(i)), false)
		b.Publish(now)
	}
	v5 := b.Publish(now)
	if _, ok := v5.ChangedSince(view.Placements, v1.Seq()); ok {
		t.Error("changes that were forgotten are not an answer")
	}
	if got, ok := v5.ChangedSince(view.Placements, v5.Seq()-1); !ok || len(got) != 1 {
		t.Errorf("the newest change: %q, %t", got, ok)
	}
	if _, ok := v5.ChangedSince("nonsense", v5.Seq()); ok {
		t.Error("an unknown resource has no changes")
	}
}

func TestEventsAreBoundedAndSayWhereTheyBegin(t *testing.T) {
	b := view.NewBuilder(0, 3, 0)
	b.StartEventsAt(6)
	if _, oldest := b.Publish(now).Events(0, 0); oldest != 7 {
		t.Errorf("with no event kept, oldest is %d; want the next, 7", oldest)
	}
	for seq := uint64(7); seq <= 11; seq++ {
		b.AddEvent(&catalog.Event{Seq: seq})
	}
	v := b.Publish(now)
	events, oldest := v.Events(9, 0)
	if oldest != 9 || len(events) != 2 || events[0].Seq != 10 {
		t.Errorf("after 9: %+v from %d", events, oldest)
	}
	if events, _ = v.Events(8, 1); len(events) != 1 || events[0].Seq != 9 {
		t.Errorf("one after 8: %+v", events)
	}
}

func TestRestorePointsComeHighestFirst(t *testing.T) {
	b := view.NewBuilder(0, 0, 0)
	at := func(n uint64) *uint64 { return &n }
	for id, pos := range map[string]*uint64{"p5": at(5), "p9": at(9), "none": nil, "p0": at(0)} {
		b.SetRestorePoint(&catalog.RestorePoint{Slate: "s", Region: "eu", Root: "s", ID: id, Position: pos})
	}
	b.SetRestorePoint(&catalog.RestorePoint{Slate: "r", Region: "us", Root: "r", ID: "other"})
	v := b.Publish(now)
	var ids []string
	for r := range v.RestorePoints() {
		ids = append(ids, r.ID)
	}
	if got := strings.Join(ids, " "); got != "other p9 p5 p0 none" {
		t.Errorf("order %s", got)
	}
	if n := len(slices.Collect(v.RestorePointsOf("s"))); n != 4 {
		t.Errorf("%d restore points of s, want 4", n)
	}
}

func TestFreshnessOfEachRegion(t *testing.T) {
	b := view.NewBuilder(0, 0, 0)
	asOf := now.Add(-90 * time.Second)
	b.SetRegion(&catalog.Region{Name: "eu", State: catalog.RegionStale, AsOf: &asOf}, false)
	b.SetRegion(&catalog.Region{Name: "us", State: catalog.RegionConnected, AsOf: &now}, false)
	b.SetRegion(&catalog.Region{Name: "ap", State: catalog.RegionStale}, false)
	v := b.Publish(now)
	if un := v.Unreachable(); !slices.Equal(un, []string{"ap", "eu"}) {
		t.Errorf("unreachable %v", un)
	}
	f := v.AsOf()
	if *f["eu"].AgeMS != 90_000 || *f["us"].AgeMS != 0 || f["ap"].AgeMS != nil {
		t.Errorf("as of %+v", f)
	}
}

// Readers go on over views they hold while the writer publishes others.
func TestReadersDoNotMeetTheWriter(t *testing.T) {
	b := view.NewBuilder(0, 0, 0)
	for i := range 500 {
		b.SetPlacement(placement(fmt.Sprintf("s%03d", i), "eu", fmt.Sprintf("s%03d", i)), false)
	}
	v := b.Publish(now)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				n := 0
				for p := range v.Placements() {
					if p.Slate != fmt.Sprintf("s%03d", n) {
						t.Errorf("row %d is %s", n, p.Slate)
						return
					}
					n++
				}
				if n != 500 {
					t.Errorf("%d rows, want 500", n)
					return
				}
			}
		})
	}
	for i := range 2000 {
		b.RemovePlacement("eu", fmt.Sprintf("s%03d", i%500))
		b.SetPlacement(placement("new", "eu", fmt.Sprint(i)), false)
		b.Publish(now)
	}
	wg.Wait()
}

// What rules read without making whole rows is what the rows say.
func TestEvidenceIsWhatRowsSay(t *testing.T) {
	n := func(v uint64) *uint64 { return &v }
	b := view.NewBuilder(0, 0, 0)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	b.SetPlacement(&catalog.Placement{Region: "eu", Sighting: catalog.Sighting{Slate: "a", Root: "a", Kind: catalog.KindSnapshots, Seen: catalog.SeenLive, Lineage: "L",
		PositionDomain: "lsn", Position: n(7), Bytes: n(70), ListedBytes: n(700), Checkpoints: []catalog.Checkpoint{{ID: "c", Name: "quarry:x"}}, Incarnation: "I", IncarnationKept: true, TrimmedTo: n(3)},
		State: catalog.StateLive, Labels: map[string]string{"env": "prod"}, Readers: []catalog.Reader{{ID: "r"}}, PinnedBy: []string{"clone"}}, false)
	b.SetPlacement(&catalog.Placement{Region: "us", Sighting: catalog.Sighting{Slate: "a", Root: "b", Seen: catalog.SeenUnreadable, Reason: "no manifest", Checkpoints: []catalog.Checkpoint{}},
		State: catalog.StateUnreadable, StateReason: "no manifest", Readers: []catalog.Reader{}}, false)
	b.SetPlacement(&catalog.Placement{Region: "us", Sighting: catalog.Sighting{Slate: "ab", Root: "ab"}}, false)
	b.StaleRegion("us", true, "silent", at)
	v := b.Publish(at)
	var e view.Evidence
	for range 2 {
		var want []catalog.Placement
		for p := range v.PlacementsOf("a") {
			w := catalog.Placement{Region: p.Region, Labels: p.Labels, Readers: p.Readers, PinnedBy: p.PinnedBy, StateReason: p.StateReason}
			g := p.Sighting
			w.Sighting = catalog.Sighting{Slate: g.Slate, Root: g.Root, Kind: g.Kind, Seen: g.Seen, Reason: g.Reason, Lineage: g.Lineage, PositionDomain: g.PositionDomain,
				Position: g.Position, Bytes: g.Bytes, ListedBytes: g.ListedBytes, Checkpoints: g.Checkpoints,
				Incarnation: g.Incarnation, IncarnationKept: g.IncarnationKept, TrimmedTo: g.TrimmedTo}
			want = append(want, w)
		}
		if got := e.Of(v, "a"); len(got) != 2 || !reflect.DeepEqual(got, want) {
			t.Errorf("evidence\n%+v\nrows\n%+v", got, want)
		}
		if got := e.Of(v, "nothere"); len(got) != 0 {
			t.Errorf("%+v", got)
		}
	}
}
