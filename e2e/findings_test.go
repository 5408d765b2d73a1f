//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
)

// A reader of 0.12.1 is enough: it writes the manifest without the filter
// formats, and from then on point reads of every release lose rows. So does a
// writer of it, even one that fails to open.
func TestFindings_FilterFormatsLostTo0121(t *testing.T) {
	for _, release := range releasesFrom("0.13.1") {
		for _, by := range []step{{"read"}, {"open"}} {
			t.Run(release+" damaged by "+by[0].(string), func(t *testing.T) {
				t.Parallel()
				folder := t.TempDir()
				was := acts(t, release, folder, step{"open", opts{"filter": true}}, step{"fill", 0, 100}, step{"l0"}, step{"fill", 50, 100}, step{"l0"}, step{"scan"}, step{"close"})
				healthy(t, folder)
				damaged := copied(t, folder)
				act(t, "0.12.1", damaged, by)
				if lost := acts(t, release, damaged, step{"lost", 0, 150}).number(t, 0); lost == 0 {
					t.Fatalf("0.12.1 did no damage: nothing is proven")
				}
				f := diagnosed(t, damaged, "filter-format-mismatch")
				if !f.Repair || !strings.Contains(f.What, "0.12") {
					t.Errorf("%+v", f)
				}
				epoch := manifestOf(t, "file://"+damaged, "db").WriterEpoch
				repaired(t, damaged, "filter-format-mismatch", "--writer-stopped")
				healthy(t, damaged)
				if now := manifestOf(t, "file://"+damaged, "db").WriterEpoch; now < epoch {
					t.Errorf("the writer epoch fell from %d to %d", epoch, now)
				}
				now := acts(t, release, damaged, step{"lost", 0, 150}, step{"open", opts{"filter": true}}, step{"scan"}, step{"lost", 0, 150}, step{"put", opts{"new": "row"}}, step{"close"})
				if now.number(t, 0) != 0 || now.number(t, 3) != 0 {
					t.Errorf("after the repair %s rows are lost to a reader, %s to a writer", now[0], now[3])
				}
				if now.rows(t, 2) != was.rows(t, 5) {
					t.Errorf("rows before %s\nafter %s", was[5], now[2])
				}
			})
		}
	}
}

// The same reader drops segments: no row is left, and the owner cannot open.
func TestFindings_SegmentsLostTo0121(t *testing.T) {
	for _, release := range releasesFrom("0.14.1") {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			rows := opts{}
			for i := range 40 {
				rows[fmt.Sprintf("%s/%02d", []string{"aa", "bb", "cc"}[i%3], i)] = fmt.Sprint(i)
			}
			was := acts(t, release, folder, step{"open", opts{"segments": true}}, step{"put", rows}, step{"l0"}, step{"put", opts{"aa/tail": "in the WAL"}}, step{"scan"})
			healthy(t, folder)
			damaged := copied(t, folder)
			act(t, "0.12.1", damaged, step{"read"})
			if said := act(t, release, damaged, step{"open", opts{"segments": true}}).refused(0); !strings.Contains(said, "segment extractor configuration mismatch") {
				t.Fatalf("the owner could open: %q", said)
			}
			if f := diagnosed(t, damaged, "segments-lost"); !f.Repair {
				t.Errorf("%+v", f)
			}
			repaired(t, damaged, "segments-lost", "--fence")
			healthy(t, damaged)
			now := acts(t, release, damaged, step{"open", opts{"segments": true}}, step{"scan"}, step{"put", opts{"bb/new": "row"}}, step{"l0"}, step{"close"})
			if now.rows(t, 1) != was.rows(t, 4) {
				t.Errorf("rows before %s\nafter %s", was[4], now[1])
			}
		})
	}
}

// What a deleted database leaves can make every open of the next one spin: a
// boundary that nobody removed, and the stray manifest that the first open
// leaves on it.
func TestFindings_ABoundaryThatMakesEveryOpenSpin(t *testing.T) {
	for _, release := range releasesFrom("0.14.1") {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			boundary := filepath.Join(folder, "db", "gc", "manifest.boundary")
			if err := os.MkdirAll(filepath.Dir(boundary), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(boundary, []byte("3"), 0o644); err != nil {
				t.Fatal(err)
			}
			if said := act(t, release, folder, step{"open"}).refused(0); said == "" {
				t.Fatal("the open on a leftover boundary succeeded")
			}
			if said := act(t, release, folder, step{"open"}).refused(0); said != "timeout" {
				t.Fatalf("the next open did not spin: %q", said)
			}
			if f := diagnosed(t, folder, "boundary-ahead"); !f.Repair {
				t.Errorf("%+v", f)
			}
			repaired(t, folder, "boundary-ahead", "--writer-stopped")
			healthy(t, folder)
			now := acts(t, release, folder, step{"open"}, step{"put", opts{"a": "1"}}, step{"close"}, step{"scan"})
			if now.rows(t, 3) != `[["a", "1"]]` {
				t.Errorf("rows %s", now[3])
			}
		})
	}
	// A database with rows, of which somebody has raised the mark too far: the
	// same, and every row is there after the repair.
	t.Run("with rows", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		was := acts(t, "0.17.0", folder, step{"open"}, step{"fill", 0, 50}, step{"l0"}, step{"fill", 50, 20}, step{"scan"})
		newest := manifestOf(t, "file://"+folder, "db").ID
		if err := os.MkdirAll(filepath.Join(folder, "db", "gc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "db", "gc", "manifest.boundary"), strconv.AppendUint(nil, newest+2, 10), 0o644); err != nil {
			t.Fatal(err)
		}
		if said := act(t, "0.17.0", folder, step{"scan"}).refused(0); said != "timeout" {
			t.Fatalf("a reader did not spin: %q", said)
		}
		diagnosed(t, folder, "boundary-ahead")
		repaired(t, folder, "boundary-ahead", "--fence")
		healthy(t, folder)
		now := acts(t, "0.17.0", folder, step{"open"}, step{"scan"}, step{"close"})
		if now.rows(t, 1) != was.rows(t, 4) {
			t.Errorf("rows before %s\nafter %s", was[4], now[1])
		}
	})
}

// A WAL object that is missing: each release does something else with it, none
// the right thing. There is no cure by a manifest; putting the object back is.
func TestFindings_AHoleInTheWAL(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			was := acts(t, release, folder, step{"open"}, step{"put", opts{"a": "1"}}, step{"put", opts{"b": "2"}}, step{"put", opts{"c": "3"}}, step{"put", opts{"d": "4"}}, step{"scan"})
			healthy(t, folder)
			wal := filepath.Join(folder, "db", "wal", "00000000000000000003.sst")
			object, err := os.ReadFile(wal)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(wal); err != nil {
				t.Fatal(err)
			}
			if f := diagnosed(t, folder, "wal-hole"); f.Object != "db/wal/00000000000000000003.sst" || f.Repair {
				t.Errorf("%+v", f)
			}
			if o := quarry(t, nil, "slatedb", "put", "--bucket", "file://"+folder, "db", "k", "v"); o.code == 0 {
				t.Error("quarry wrote to a database with a hole")
			}
			for _, refused := range [][]string{{"checkpoints", "create", "--name", "n"}, {"copy", "--to", "file://" + t.TempDir()}, {"gc", "--yes"}, {"fence", "--yes"}} {
				if o := quarry(t, nil, append([]string{"slatedb", "--bucket", "file://" + folder}, append(refused, "db")...)...); o.code == 0 {
					t.Errorf("%v of a database with a hole: %s", refused, o.stdout)
				}
			}
			if err := os.WriteFile(wal, object, 0o644); err != nil {
				t.Fatal(err)
			}
			healthy(t, folder)
			if now := acts(t, release, folder, step{"open"}, step{"scan"}); now.rows(t, 1) != was.rows(t, 5) {
				t.Errorf("rows before %s\nafter %s", was[5], now[1])
			}
		})
	}
}

// Manifests of 0.16 and later do not say that the WAL is in another store, and
// lose the mark that earlier ones made.
func TestFindings_AWALStoreThatNothingSays(t *testing.T) {
	elsewhere := opts{"wal": true}
	for _, release := range releasesFrom("0.16.0") {
		t.Run("made by "+release, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			acts(t, release, folder, step{"open", elsewhere}, step{"put", opts{"a": "1"}}, step{"l0"}, step{"put", opts{"b": "2"}})
			unmarked(t, folder, release)
		})
		for _, first := range []string{"0.12.1", "0.13.1", "0.14.1", "0.15.0"} {
			t.Run("marked by "+first+", lost to "+release, func(t *testing.T) {
				t.Parallel()
				folder := t.TempDir()
				acts(t, first, folder, step{"open", elsewhere}, step{"put", opts{"a": "1"}}, step{"l0"}, step{"put", opts{"b": "2"}})
				if found, unverified := examine(t, folder); !unverified || len(found) != 1 || found[0].Code != "wal-store-unknown" {
					t.Errorf("the mark: %+v, unverified: %v", found, unverified)
				}
				if first == "0.12.1" {
					// 0.12 fences with an object that all can replay.
					acts(t, release, folder, step{"open", elsewhere}, step{"put", opts{"c": "3"}})
				} else {
					acts(t, release, folder, step{"open", elsewhere})
				}
				unmarked(t, folder, release)
			})
		}
	}
}

// unmarked: the real core shows too few rows without an error; we say so, and
// touch nothing until the store is named.
func unmarked(t *testing.T, folder, release string) {
	t.Helper()
	with := acts(t, release, copied(t, folder), step{"scan", opts{"wal": true}}).rows(t, 0)
	without := acts(t, release, copied(t, folder), step{"scan"}).rows(t, 0)
	if with == without {
		t.Fatalf("the core misses nothing without the store: %s", without)
	}
	found, unverified := examine(t, folder)
	if !unverified || !slices.ContainsFunc(found, func(f finding) bool { return f.Code == "wal-store-unmarked" }) {
		t.Fatalf("%+v, unverified: %v", found, unverified)
	}
	before := files(t, folder)
	for _, refused := range [][]string{{"checkpoints", "create", "--name", "n"}, {"copy", "--to", "file://" + t.TempDir()}, {"gc", "--yes"}, {"fence", "--yes"}, {"put", "k", "v"}} {
		args := append([]string{"slatedb", "--bucket", "file://" + folder, refused[0]}, "db")
		if refused[0] == "checkpoints" {
			args = []string{"slatedb", "--bucket", "file://" + folder, "checkpoints", "create", "db", "--name", "n"}
			refused = nil
		}
		if len(refused) > 0 {
			args = append(args, refused[1:]...)
		}
		if o := quarry(t, nil, args...); o.code != 4 {
			t.Errorf("%v: exit %d: %s", args, o.code, o.stderr)
		}
	}
	if after := files(t, folder); !slices.Equal(before, after) {
		t.Errorf("refused, and changed %v to %v", before, after)
	}
	store := "file://" + filepath.Join(folder, "walstore")
	healthy(t, folder, "--wal", store)
	must(t, nil, "slatedb", "checkpoints", "create", "--bucket", "file://"+folder, "--wal", store, "db", "--name", "n")
}

// What a checkpoint pins is gone.
func TestFindings_CheckpointsWhoseManifestOrObjectsAreGone(t *testing.T) {
	for _, release := range releasesFrom("0.14.1") {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			a := acts(t, release, folder, step{"open"}, step{"fill", 0, 30}, step{"l0"}, step{"checkpoint", "keep"}, step{"fill", 30, 30}, step{"l0"}, step{"close"})
			var id string
			if err := json.Unmarshal(a[3], &id); err != nil {
				t.Fatal(err)
			}
			healthy(t, folder)
			m := manifestOf(t, "file://"+folder, "db")
			pinned := fmt.Sprintf("db/manifest/%020d.manifest", m.Checkpoints[0].ManifestID)

			lost := copied(t, folder)
			if err := os.Remove(filepath.Join(lost, pinned)); err != nil {
				t.Fatal(err)
			}
			if f := diagnosed(t, lost, "checkpoint-dangling"); f.Object != pinned || !strings.Contains(f.What, id) {
				t.Errorf("%+v", f)
			}
			if o := quarry(t, nil, "slatedb", "gc", "--bucket", "file://"+lost, "db", "--yes", "--min-age", "1ms"); o.code != 4 {
				t.Errorf("a collection beside a dangling checkpoint: exit %d: %s", o.code, o.stderr)
			}
			must(t, nil, "slatedb", "checkpoints", "delete", "--bucket", "file://"+lost, "db", id)
			healthy(t, lost)
			acts(t, release, lost, step{"open"}, step{"put", opts{"new": "row"}}, step{"close"})

			gone := copied(t, folder)
			oldest := m.L0[len(m.L0)-1].ID
			if err := os.Remove(filepath.Join(gone, "db", "compacted", oldest+".sst")); err != nil {
				t.Fatal(err)
			}
			if f := diagnosed(t, gone, "object-missing"); f.Object != "db/compacted/"+oldest+".sst" || !strings.Contains(f.What, ",") {
				t.Errorf("both manifests need it: %+v", f)
			}
		})
	}
}

// On a folder the collector of 0.14 and later stops after its first run and
// says nothing; one that nobody runs is the same from outside. Ours takes it,
// and the real core reads every row afterwards.
func TestFindings_ACollectorThatStopped(t *testing.T) {
	for _, release := range releasesFrom("0.14.1") {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			was := acts(t, release, folder, step{"open", opts{"compact": true, "gc": true}}, step{"compactions", 14}, step{"churn", 30}, step{"scan"}, step{"close"})
			if n := len(glob(t, folder, "manifest")); n < 60 {
				t.Fatalf("%d manifests: the collector did not stop", n)
			}
			// Two hours later.
			for _, path := range files(t, folder) {
				at := time.Now().Add(-2 * time.Hour)
				if err := os.Chtimes(path, at, at); err != nil {
					t.Fatal(err)
				}
			}
			f := diagnosed(t, folder, "collector-stuck")
			if !strings.Contains(f.Cure, "quarry slatedb gc") {
				t.Errorf("%+v", f)
			}
			must(t, nil, "slatedb", "gc", "--bucket", "file://"+folder, "db", "--yes")
			healthy(t, folder)
			if n := len(glob(t, folder, "manifest")); n > 10 {
				t.Errorf("%d manifests are left", n)
			}
			now := acts(t, release, folder, step{"open"}, step{"scan"}, step{"put", opts{"new": "row"}}, step{"close"})
			if now.rows(t, 1) != was.rows(t, 3) {
				t.Errorf("rows before %s\nafter %s", was[3], now[1])
			}
		})
	}
}

func glob(t *testing.T, folder, of string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(folder, "db", of, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What we say a release cannot open, it cannot open.
func TestFindings_ReleasesInUseThatCannotOpen(t *testing.T) {
	t.Run("0.12.1 meets a compactor's state of a later one", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		acts(t, "0.13.1", folder, step{"open", opts{"compact": true}}, step{"put", opts{"a": "1"}}, step{"close"})
		healthy(t, folder)
		healthy(t, folder, "--in-use", "0.13.1,0.17.0")
		f := diagnosed(t, folder, "mixed-versions", "--in-use", "0.12.1")
		if said := act(t, "0.12.1", folder, step{"open", opts{"compact": true}}).refused(0); !strings.Contains(said, "unsupported compactions format version") {
			t.Errorf("%+v, and the core: %q", f, said)
		}
	})
	for _, old := range []string{"0.12.1", "0.13.1"} {
		t.Run(old+" meets an empty fence", func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			acts(t, "0.14.1", folder, step{"open"}, step{"put", opts{"a": "1"}})
			healthy(t, folder, "--in-use", "0.14.1")
			f := diagnosed(t, folder, "mixed-versions", "--in-use", old)
			if said := act(t, old, copied(t, folder), step{"open"}).refused(0); !strings.Contains(said, "empty SSTable") {
				t.Errorf("%+v, and the core: %q", f, said)
			}
			// The cure that is named.
			acts(t, "0.14.1", folder, step{"open"}, step{"close"})
			healthy(t, folder, "--in-use", old)
			acts(t, old, folder, step{"open"}, step{"scan"})
		})
	}
	for _, c := range []struct{ writer, reader string }{{"0.17.0", "0.15.0"}, {"0.16.0", "0.14.1"}, {"0.17.0", "0.16.0"}} {
		t.Run(c.reader+" reads beside "+c.writer+" at a full L0", func(t *testing.T) {
			t.Parallel()
			folder, acked := t.TempDir(), model{}
			p := peers.Start(t, c.writer, peers.Local(folder))
			p.Do(map[string]any{"op": "open", "root": "db", "compact": false})
			for i := range 8 {
				if i == 5 {
					healthy(t, folder, "--in-use", c.reader+","+c.writer)
				}
				write(t, p, acked, map[string]string{fmt.Sprint("k", i): "row"})
				p.Op("l0", "db")
			}
			p.Kill()
			stops := c.reader < "0.16"
			if stops {
				diagnosed(t, folder, "mixed-versions", "--in-use", c.reader+","+c.writer)
			}
			healthy(t, folder, "--in-use", c.writer)
			// The compactor makes room at once, the writer sees it seconds later.
			w, r := peers.Start(t, c.writer, peers.Local(folder)), peers.Start(t, c.reader, peers.Local(folder))
			w.Do(map[string]any{"op": "open", "root": "db", "compact": true, "poll": "4s"})
			write(t, w, acked, map[string]string{"more": "row"})
			eventually(t, 3*time.Second, "room in L0", func() error {
				if n := len(manifestOf(t, "file://"+folder, "db").L0); n > 1 {
					return fmt.Errorf("%d tables", n)
				}
				return nil
			})
			r.Op("scan", "db")
			if said, flushed := w.Hurry(map[string]any{"op": "l0", "root": "db"}, 15*time.Second); flushed == stops {
				t.Errorf("it flushed: %t: %+v", flushed, said)
			}
			// The cure that is named; nothing was lost.
			next := peers.Start(t, c.writer, peers.Local(folder))
			next.Do(map[string]any{"op": "open", "root": "db"})
			next.Op("l0", "db")
			next.Op("close", "db")
			shows(t, "us", ours(t, folder, "db"), acked)
		})
	}
	t.Run("readers of 0.14.1 meet a clone", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		acts(t, "0.17.0", folder, step{"open"}, step{"fill", 0, 20}, step{"l0"}, step{"close"})
		must(t, nil, "slatedb", "clone", "--bucket", "file://"+folder, "db", "--to-root", "kid")
		if err := os.Rename(filepath.Join(folder, "db"), filepath.Join(folder, "parent")); err != nil {
			t.Fatal(err)
		}
		o := quarry(t, nil, "slatedb", "verify", "--bucket", "file://"+folder, "kid", "--in-use", "0.14.1")
		if !strings.Contains(o.stdout, "mixed-versions") {
			t.Errorf("exit %d: %s", o.code, o.stdout)
		}
	})
}

// A database that is being deleted, and the way back.
func TestFindings_APillAndTheWayBack(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			was := acts(t, release, folder, step{"open"}, step{"fill", 0, 30}, step{"l0"}, step{"fill", 30, 10}, step{"scan"}, step{"close"})
			must(t, nil, "slatedb", "pill", "--bucket", "file://"+folder, "db", "--reason", "moving house", "--yes")
			if f := diagnosed(t, folder, "closed-for-deletion"); !strings.Contains(f.What, "moving house") {
				t.Errorf("%+v", f)
			}
			for _, try := range []step{{"open"}, {"scan"}} {
				if said := act(t, release, folder, try).refused(0); !strings.Contains(said, "unsupported manifest format version") {
					t.Errorf("%v under a pill: %q", try, said)
				}
			}
			must(t, nil, "slatedb", "unpill", "--bucket", "file://"+folder, "db", "--yes")
			healthy(t, folder)
			now := acts(t, release, folder, step{"open"}, step{"scan"}, step{"put", opts{"new": "row"}}, step{"close"})
			if now.rows(t, 1) != was.rows(t, 4) {
				t.Errorf("rows before %s\nafter %s", was[4], now[1])
			}
		})
	}
}
