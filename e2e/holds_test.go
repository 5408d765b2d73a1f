//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
)

// pinRow is what the tests look at of `get pins`.
type pinRow struct {
	Slate    string  `json:"slate"`
	Region   string  `json:"region"`
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	Position *uint64 `json:"position"`
	Held     *uint64 `json:"held_bytes"`
}

// pins are the holds in a region for a purpose.
func (h *hub) pins(t testing.TB, region, purpose string) ([]pinRow, error) {
	t.Helper()
	l, err := get[pinRow](h, t, "pins")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(l.Items, func(p pinRow) bool {
		return p.Region != region || !strings.HasPrefix(p.Name, "quarry:"+purpose+":")
	}), nil
}

// pinned waits for one hold in a region that was not there before.
func (h *hub) pinned(t testing.TB, region, purpose string, before ...string) pinRow {
	t.Helper()
	var is pinRow
	eventually(t, 60*time.Second, "one hold for "+purpose+" in "+region, func() error {
		found, err := h.pins(t, region, purpose)
		if err != nil {
			return err
		}
		if len(found) != 1 || slices.Contains(before, found[0].ID) || found[0].Position == nil {
			return fmt.Errorf("%+v, before %v", found, before)
		}
		is = found[0]
		return nil
	})
	return is
}

// guardian reads everything that each hold of Quarry's contains, all the time:
// it must always be what it was when the hold was first read.
type guardian struct {
	t      *testing.T
	folder string
	stop   chan struct{}
	wg     sync.WaitGroup

	mu    sync.Mutex
	was   map[string]model // by checkpoint
	reads int
}

func guard(t *testing.T, folder string) *guardian {
	g := &guardian{t: t, folder: folder, stop: make(chan struct{}), was: map[string]model{}}
	g.wg.Go(func() {
		for {
			select {
			case <-g.stop:
				return
			case <-time.After(200 * time.Millisecond):
				g.read()
			}
		}
	})
	t.Cleanup(g.end)
	return g
}

func (g *guardian) end() {
	select {
	case <-g.stop:
	default:
		close(g.stop)
	}
	g.wg.Wait()
}

// held are the checkpoints of Quarry's in the newest manifest.
func (g *guardian) held() []string {
	o := quarry(g.t, nil, at(g.folder, "checkpoints", "db", "-o", "json")...)
	var all struct{ Items []struct{ ID, Name string } }
	if o.code != 0 || json.Unmarshal([]byte(o.stdout), &all) != nil {
		g.t.Errorf("checkpoints: exit %d: %s", o.code, o.stderr)
	}
	var ids []string
	for _, c := range all.Items {
		if strings.HasPrefix(c.Name, "quarry:") {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func (g *guardian) read() {
	for _, id := range g.held() {
		o := quarry(g.t, nil, at(g.folder, "scan", "db", "--checkpoint", id, "-o", "json")...)
		if !slices.Contains(g.held(), id) {
			continue // it was let go of meanwhile
		}
		if o.code != 0 {
			g.t.Errorf("what hold %s needs cannot be read: exit %d: %s", id, o.code, o.stderr)
			continue
		}
		is := model{}
		for line := range strings.Lines(o.stdout) {
			var r struct{ Key, Value string }
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				g.t.Error(err)
			}
			is[r.Key] = r.Value
		}
		g.mu.Lock()
		if was, some := g.was[id]; some && !maps.Equal(was, is) {
			g.t.Errorf("hold %s has %d rows, had %d: %s", id, len(is), len(was), differ(is, was))
		}
		g.was[id] = is
		g.reads++
		g.mu.Unlock()
	}
}

// names are the objects of a folder of the database, without their ages.
func names(t *testing.T, folder, of string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, f := range glob(t, folder, of) {
		all[filepath.Base(f)] = true
	}
	return all
}

const trimsDB = `apiVersion: quarry/v1
kind: Policy
metadata: {name: dbs}
select: {names: [db]}
trim: {require: {all: true}}
restorePoints: {perRegion: 1}
`

// Real writers, with their own compactor (0.17, whose guards can be short) and
// their own collector of one second, beside our holds: what a hold needs is
// there as long as the hold is, object by object; a copy in a second region
// makes the floor move, the hold moves on under the live writer, and what it let
// go of is reclaimed by the database itself.
func TestHolds_NothingDisappearsAndWhatIsReleasedIsReclaimed(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			holdsBesideTheRealCollector(t, release)
		})
	}
}

func holdsBesideTheRealCollector(t *testing.T, release string) {
	compacts := release == "0.17.0"
	eu, us := t.TempDir(), t.TempDir()
	acked := model{}
	p := peers.Start(t, release, peers.Local(eu))
	p.Do(map[string]any{"op": "open", "root": "db", "compact": compacts, "gc": true, "poll": "200ms"})
	round := 0
	writes := func(n int) {
		for range n {
			more := map[string]string{}
			for i := range 20 {
				more[fmt.Sprintf("k%03d", (round*7+i)%150)] = fmt.Sprintf("r%d-%d", round, i)
			}
			round++
			write(t, p, acked, more)
			if compacts || round < 6 {
				p.Op("l0", "db")
			}
		}
		write(t, p, acked, map[string]string{"tail": fmt.Sprint(round)}) // in the WAL alone
	}
	writes(2)

	h := startHub(t, "eu,us", "--hold-every", "1s")
	startAgent(t, h, "eu", "file://"+eu, nil)
	startAgent(t, h, "us", "file://"+us, nil)
	h.apply(t, trimsDB)
	first := h.pinned(t, "eu", "trim")
	g := guard(t, eu)
	walThen, tablesThen := names(t, eu, "wal"), names(t, eu, "compacted")
	copied := func() {
		t.Helper()
		// A copy is refreshed by making it anew: a copy onto a database is refused.
		if err := os.RemoveAll(filepath.Join(us, "db")); err != nil {
			t.Fatal(err)
		}
		must(t, nil, at(eu, "copy", "db", "--to", "file://"+us)...)
	}

	// Nothing is in us: what eu holds, it keeps, however much is written.
	writes(3)
	time.Sleep(3 * time.Second) // its collector runs many times
	if now := h.pinned(t, "eu", "trim"); now.ID != first.ID {
		t.Errorf("the hold moved to %v, and nothing is archived in us", now)
	}
	if e, err := h.explain(t, "db"); err != nil || e.Action != "wait" {
		t.Errorf("%v %v", e, err)
	}

	// The copy is of the same lineage, and reaches further: the hold moves on.
	copied()
	there := h.pinned(t, "us", "trim")
	if *there.Position < *first.Position {
		t.Fatalf("us has %d, eu held %d", *there.Position, *first.Position)
	}
	writes(2)
	second := h.pinned(t, "eu", "trim", first.ID)
	if *second.Position < *there.Position {
		t.Errorf("the new hold is at %d, below the copy at %d", *second.Position, *there.Position)
	}
	writes(2)
	copied()
	h.pinned(t, "us", "trim", there.ID)
	writes(1)
	third := h.pinned(t, "eu", "trim", first.ID, second.ID)

	// What the holds let go of, the database itself reclaims.
	m := manifestOf(t, "file://"+eu, "db")
	eventually(t, 60*time.Second, "what was let go of is reclaimed", func() error {
		writes(1)
		wal := names(t, eu, "wal")
		left := 0
		for name := range walThen {
			if wal[name] {
				left++
			}
		}
		if left > 1 { // the one at the mark stays
			return fmt.Errorf("%d of the %d WAL objects that the first hold had are left: %v", left, len(walThen), slices.Sorted(maps.Keys(wal)))
		}
		if !compacts {
			return nil
		}
		tables := names(t, eu, "compacted")
		for name := range tablesThen {
			if !tables[name] {
				return nil
			}
		}
		return fmt.Errorf("all %d tables that the first hold had are there; manifest %d", len(tablesThen), m.ID)
	})
	g.end()
	if g.reads < 10 || len(g.was) < 3 {
		t.Errorf("%d reads of %d holds prove nothing", g.reads, len(g.was))
	}
	t.Logf("%d reads of %d holds at %d, %d, %d; %d WAL objects and %d tables were held first", g.reads, len(g.was), *first.Position, *second.Position, *third.Position, len(walThen), len(tablesThen))
	shows(t, "the writer", theirs(t, p.Op("scan", "db")), acked)

	// Without a hub for good, a person lets go of all of it.
	h.kill()
	must(t, nil, at(eu, "checkpoints", "delete", "db", "--name", "quarry:*")...)
	if o := quarry(t, nil, at(eu, "checkpoints", "delete", "db", "--name", "quarry:*")...); o.code != 3 {
		t.Errorf("deleted twice: exit %d: %s", o.code, o.stderr)
	}
	if left := g.held(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	writes(1)
	p.Kill()
	shows(t, "us, after the crash", ours(t, eu, "db"), acked)
	healthy(t, eu, "--checksums")
}

// A document that is enforced is a checkpoint in each region that it selects,
// until it is released; one that nobody claims any more is shown as such.
func TestHolds_ADocumentIsACheckpointUntilItIsReleased(t *testing.T) {
	eu, us := t.TempDir(), t.TempDir()
	for _, f := range []string{eu, us} {
		copyTree(t, fixture("0.17.0", "reader", "db"), filepath.Join(f, "dbs", "orders"))
	}
	h := startHub(t, "eu,us")
	startAgent(t, h, "eu", "file://"+eu, nil)
	us1 := startAgent(t, h, "us", "file://"+us, nil)
	eventually(t, 30*time.Second, "both are seen", func() error {
		all, err := h.placements(t)
		if err == nil && len(all) != 2 {
			err = fmt.Errorf("%v", all)
		}
		return err
	})
	if o := h.cli(t, "hold", "dbs/orders", "--name", "case-1", "--region", "eu", "--checkpoint", "--why", "an audit", "--wait"); o.code != 0 {
		t.Fatalf("hold: exit %d: %s%s", o.code, o.stdout, o.stderr)
	}
	if found, err := h.pins(t, "eu", "case-1"); err != nil || len(found) != 1 {
		t.Errorf("after --wait: %v %v", found, err)
	}
	if found, err := h.pins(t, "us", "case-1"); err != nil || len(found) != 0 {
		t.Errorf("in us too: %v %v", found, err)
	}
	rows, err := get[struct {
		Name    string `json:"name"`
		Enforce string `json:"enforce"`
		Why     string `json:"why"`
		Where   []struct {
			Region string `json:"region"`
		} `json:"where"`
		Held *uint64 `json:"held_bytes"`
	}](h, t, "holds")
	if err != nil || len(rows.Items) != 1 || rows.Items[0].Enforce != "checkpoint" || rows.Items[0].Why != "an audit" ||
		len(rows.Items[0].Where) != 1 || rows.Items[0].Where[0].Region != "eu" || rows.Items[0].Held == nil {
		t.Errorf("%+v %v", rows.Items, err)
	}

	// Another hub's hold, or one of before the ledger was set back: nobody here
	// claims it, and nobody lets go of it.
	us1.kill()
	must(t, nil, "slatedb", "checkpoints", "--bucket", "file://"+us, "create", "dbs/orders", "--name", "quarry:case-0:6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	startAgent(t, h, "us", "file://"+us, nil)
	eventually(t, 30*time.Second, "the orphan is listed", func() error {
		o := h.cli(t, "get", "holds", "--orphaned")
		if o.code != 0 || strings.Count(o.stdout, "quarry:") != 1 || !strings.Contains(o.stdout, "quarry:case-0:") {
			return errors.New(o.stdout + o.stderr)
		}
		return nil
	})

	if o := h.cli(t, "release", "case-1", "--yes", "--wait", "--why", "it is over"); o.code != 0 {
		t.Fatalf("release: exit %d: %s%s", o.code, o.stdout, o.stderr)
	}
	eventually(t, 30*time.Second, "it is let go of in eu, and the other is not", func() error {
		mine, err := h.pins(t, "eu", "case-1")
		other, err2 := h.pins(t, "us", "case-0")
		if err != nil || err2 != nil || len(mine) != 0 || len(other) != 1 {
			return fmt.Errorf("%v %v %v %v", mine, err, other, err2)
		}
		return nil
	})
	// After the hub is set back to before it knew of any hold, all of it is an
	// orphan: what is in the buckets stays.
	if o := h.cli(t, "hold", "dbs/orders", "--name", "case-2", "--checkpoint", "--wait"); o.code != 0 {
		t.Fatalf("hold: exit %d: %s%s", o.code, o.stdout, o.stderr)
	}
	h.kill()
	h.store = t.TempDir()
	h.restart(t)
	eventually(t, 60*time.Second, "three orphans", func() error {
		o := h.cli(t, "get", "holds", "--orphaned")
		if o.code != 0 || strings.Count(o.stdout, "quarry:") != 3 {
			return errors.New(o.stdout + o.stderr)
		}
		return nil
	})
}

// A policy that asks for restore points gets one where the archive is too far
// behind, not by time, and no more than it keeps.
func TestHolds_ARestorePointIsMadeWhenTheArchiveIsBehind(t *testing.T) {
	eu := t.TempDir()
	acked := model{}
	p := peers.Start(t, "0.16.0", peers.Local(eu))
	p.Open("db")
	write(t, p, acked, map[string]string{"a": "1"})
	h := startHub(t, "eu,us", "--hold-every", "1h")
	startAgent(t, h, "eu", "file://"+eu, nil)
	startAgent(t, h, "us", "file://"+t.TempDir(), nil)
	h.apply(t, strings.Replace(trimsDB, "{all: true}", "{all: true}, maxLag: {positions: 10, then: request-snapshot}", 1))
	h.pinned(t, "eu", "trim")
	for i := range 8 {
		write(t, p, acked, map[string]string{fmt.Sprint("b", i): "1"})
	}
	time.Sleep(7 * time.Second) // more than a pass
	if found, err := h.pins(t, "eu", "restore-point"); err != nil || len(found) != 0 {
		t.Errorf("within the lag: %v %v", found, err)
	}
	for i := range 8 {
		write(t, p, acked, map[string]string{fmt.Sprint("c", i): "1"})
	}
	one := h.pinned(t, "eu", "restore-point")
	if *one.Position < 12 {
		t.Errorf("it contains %d", *one.Position)
	}
	for i := range 12 {
		write(t, p, acked, map[string]string{fmt.Sprint("d", i): "1"})
	}
	two := h.pinned(t, "eu", "restore-point", one.ID) // and the first was let go of
	if *two.Position <= *one.Position {
		t.Errorf("%d after %d", *two.Position, *one.Position)
	}
	p.Op("close", "db")
}

// An archive that only its owner can write and that falls behind is told, with
// what to run; with block it holds the cut back.
func TestHolds_AnArchiveThatIsBehindIsTold(t *testing.T) {
	w := startThreeMoments(t)
	w.apply(t, archives("{require: {all: true}, maxLag: {positions: 100, then: request-snapshot}}"))
	e := w.permits(t, "archive/0", 425, "us")
	if us := e.Regions[2]; len(us.Reasons) != 1 || us.Reasons[0].Code != "region-lagging" || !strings.Contains(us.Reasons[0].Message, "206 positions behind") ||
		!strings.Contains(us.Reasons[0].Message, "restatectl snapshots create") {
		t.Errorf("%v", e)
	}
	eventually(t, 30*time.Second, "the events say so, once", func() error {
		o := w.cli(t, "events", "--filter", `slate = "archive/0"`, "-o", "json")
		if strings.Count(o.stdout, `"snapshot-wanted"`) != 1 || strings.Count(o.stdout, `"region-lagging"`) != 1 {
			return errors.New(o.stdout)
		}
		return nil
	})
	w.apply(t, archives("{require: {atLeast: 1}, maxLag: {positions: 100, then: block}}"))
	w.waits(t, "archive/0", "region-lagging")
	w.apply(t, archives("{require: {atLeast: 1}, maxLag: {positions: 300, then: block}}"))
	w.permits(t, "archive/0", 631, "eu")
	eventually(t, 30*time.Second, "it is not behind any more", func() error {
		if o := w.cli(t, "events", "--filter", `slate = "archive/0"`, "-o", "json"); strings.Count(o.stdout, `"region-caught-up"`) != 1 {
			return errors.New(o.stdout)
		}
		return nil
	})
}
