//go:build e2e

package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
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

// theirs is what a real core shows.
func theirs(t *testing.T, a peers.Answer) model {
	t.Helper()
	m := model{}
	for _, r := range a.Rows {
		k, err1 := hex.DecodeString(r[0])
		v, err2 := hex.DecodeString(r[1])
		if err1 != nil || err2 != nil {
			t.Fatalf("row %v", r)
		}
		m[string(k)] = string(v)
	}
	return m
}

// ours is what `quarry slatedb scan` shows.
func ours(t *testing.T, folder, root string, extra ...string) model {
	t.Helper()
	m := model{}
	out := must(t, nil, append([]string{"slatedb", "scan", "--bucket", "file://" + folder, root, "-o", "json"}, extra...)...)
	for line := range strings.Lines(out) {
		var r struct{ Key, Value string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		k, _ := hex.DecodeString(r.Key)
		v, _ := hex.DecodeString(r.Value)
		m[string(k)] = string(v)
	}
	return m
}

func shows(t *testing.T, what string, got, want model) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Fatalf("%s: %d rows, expected %d; first difference: %s", what, len(got), len(want), differ(got, want))
	}
}

// slate is a real writer's database with rows in tables and in the WAL, its
// writer alive.
func living(t *testing.T, release string, compact bool) (folder string, p *peers.Peer, acked model) {
	t.Helper()
	folder, acked = t.TempDir(), model{}
	p = peers.Start(t, release, peers.Local(folder))
	p.Do(map[string]any{"op": "open", "root": "db", "compact": compact})
	for round := range 6 {
		more := map[string]string{}
		for i := range 25 {
			more[fmt.Sprintf("k%03d", round*15+i)] = fmt.Sprintf("v%d-%d", round, i)
		}
		write(t, p, acked, more)
		if round < 5 {
			p.Op("l0", "db")
		}
	}
	return folder, p, acked
}

// write is an acknowledged batch.
func write(t *testing.T, p *peers.Peer, acked model, rows map[string]string) {
	t.Helper()
	p.Put("db", rows)
	maps.Copy(acked, rows)
}

func at(folder string, args ...string) []string {
	return append([]string{"slatedb", "--bucket", "file://" + folder}, args...)
}

// A fence stops a live writer of any release at its next put; every row that it
// acknowledged is there, in the database and in the checkpoint of the fence.
func TestAdmin_AFenceStopsALiveWriterOfAnyRelease(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder, p, acked := living(t, release, true)
			said := must(t, nil, at(folder, "fence", "db", "--checkpoint", "before", "--yes", "-o", "json")...)
			var f struct{ Checkpoint string }
			if err := json.Unmarshal([]byte(said), &f); err != nil || f.Checkpoint == "" {
				t.Fatalf("fence: %s %v", said, err)
			}
			if a := p.Try(map[string]any{"op": "put", "root": "db", "rows": map[string]any{"aa": "bb"}}); !strings.Contains(a.Error, "newer DB client") {
				t.Errorf("the next put of the fenced writer: %q", a.Error)
			}
			p.Kill()
			next := peers.Start(t, release, peers.Local(folder))
			next.Open("db")
			shows(t, "the next writer", theirs(t, next.Op("scan", "db")), acked)
			held := maps.Clone(acked)
			write(t, next, acked, map[string]string{"later": "row"})
			next.Op("close", "db")
			shows(t, "the checkpoint, to the real core", theirs(t, next.Do(map[string]any{"op": "scan", "root": "db", "checkpoint": f.Checkpoint})), held)
			shows(t, "the checkpoint, to us", ours(t, folder, "db", "--checkpoint", "before"), held)
			healthy(t, folder)
		})
	}
}

// A copy of a live database is opened by the real core as writer and as reader,
// written, compacted and collected, and lacks nothing.
func TestAdmin_ACopyOfALiveDatabaseLacksNothing(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder, p, acked := living(t, release, true)
			to := t.TempDir()
			said := must(t, nil, at(folder, "copy", "db", "--to", "file://"+to, "-o", "json")...)
			var c struct {
				Tables  int
				Lineage string
			}
			if err := json.Unmarshal([]byte(said), &c); err != nil || c.Tables == 0 {
				t.Fatalf("copy: %s %v", said, err)
			}
			record, err := os.ReadFile(filepath.Join(to, c.Lineage))
			if err != nil || !strings.Contains(string(record), "manifest_sha256") {
				t.Errorf("lineage: %s %v", record, err)
			}
			write(t, p, acked, map[string]string{"the source": "goes on"}) // unharmed
			want := maps.Clone(acked)
			delete(want, "the source")
			q := peers.Start(t, release, peers.Local(to))
			shows(t, "a reader of the copy", theirs(t, q.Op("scan", "db")), want)
			q.Do(map[string]any{"op": "open", "root": "db", "compact": true})
			for i := range 5 {
				more := map[string]string{fmt.Sprintf("k%03d", i): "of the copy"}
				write(t, q, want, more)
				q.Op("l0", "db")
			}
			time.Sleep(time.Second) // its compactor works
			if slices.Index(peers.Versions, release) >= 3 {
				q.Op("gc", "db")
			}
			shows(t, "the copy, written", theirs(t, q.Op("scan", "db")), want)
			q.Op("close", "db")
			shows(t, "the copy, to us", ours(t, to, "db"), want)
			healthy(t, to, "--checksums")
			shows(t, "the source", ours(t, folder, "db"), acked)
			if o := quarry(t, nil, at(folder, "copy", "db", "--to", "file://"+to)...); o.code != 4 {
				t.Errorf("a copy onto a database: exit %d: %s", o.code, o.stderr)
			}
		})
	}
}

// A clone has the rows of the WAL too, is written by the real core and keeps
// its parent's tables when the parent goes on, compacts and collects.
func TestAdmin_ACloneOutlivesWhatItsParentDoes(t *testing.T) {
	for _, release := range releasesFrom("0.13.1") {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder, p, acked := living(t, release, true)
			must(t, nil, at(folder, "clone", "db", "--to-root", "kid")...)
			want := maps.Clone(acked)
			for i := range 6 {
				write(t, p, acked, map[string]string{fmt.Sprintf("k%03d", i): "of the parent"})
				p.Op("l0", "db")
			}
			time.Sleep(time.Second)
			if slices.Index(peers.Versions, release) >= 3 {
				p.Op("gc", "db")
			}
			kid := peers.Start(t, release, peers.Local(folder))
			if slices.Index(peers.Versions, release) >= 3 {
				shows(t, "a reader of the clone", theirs(t, kid.Op("scan", "kid")), want)
			}
			kid.Open("kid")
			shows(t, "the clone", theirs(t, kid.Op("scan", "kid")), want)
			kid.Put("kid", map[string]string{"kid's": "own"})
			want["kid's"] = "own"
			kid.Op("l0", "kid")
			kid.Op("close", "kid")
			shows(t, "the clone, to us", ours(t, folder, "kid"), want)
			shows(t, "the parent", theirs(t, p.Op("scan", "db")), acked)
			for _, root := range []string{"db", "kid"} {
				must(t, nil, at(folder, "verify", root, "--checksums")...)
			}
		})
	}
}

// A checkpoint made by us holds the rows of the WAL through the real core's
// compaction and collection; removed, it holds nothing.
func TestAdmin_ACheckpointHoldsThroughTheRealCollector(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder, p, acked := living(t, release, false)
			id := strings.TrimSpace(must(t, nil, at(folder, "checkpoints", "create", "db", "--name", "hold", "-o", "name")...))
			held := maps.Clone(acked)
			var m manifestJSON
			for _, c := range manifestOf(t, "file://"+folder, "db").Checkpoints {
				if c.ID == id {
					m.ID = c.ManifestID
				}
			}
			pinned := filepath.Join(folder, "db", "manifest", fmt.Sprintf("%020d.manifest", m.ID))
			wal := len(glob(t, folder, "wal"))
			p.Kill()
			// Its own compactor and collector, with no minimum age.
			was := acts(t, release, folder, step{"open", opts{"compact": true, "gc": true}}, step{"compactions", 12}, step{"scan"}, step{"close"})
			if len(glob(t, folder, "compactions")) == 0 {
				t.Fatal("nothing was compacted")
			}
			reader := peers.Start(t, release, peers.Local(folder))
			shows(t, "a pinned reader", theirs(t, reader.Do(map[string]any{"op": "scan", "root": "db", "checkpoint": id})), held)
			shows(t, "the checkpoint, to us", ours(t, folder, "db", "--checkpoint", "hold"), held)
			if _, err := os.Stat(pinned); err != nil {
				t.Fatal(err)
			}
			healthy(t, folder, "--checksums")
			must(t, nil, at(folder, "checkpoints", "delete", "db", id)...)
			if o := quarry(t, nil, at(folder, "checkpoints", "delete", "db", id)...); o.code != 3 {
				t.Errorf("deleted twice: exit %d: %s", o.code, o.stderr)
			}
			// Their collector cannot raise its mark in a folder, so it keeps
			// manifests; what nothing holds any more ours takes.
			must(t, nil, at(folder, "gc", "db", "--min-age", "1ms", "--fence-age", "1ms", "--yes")...)
			if _, err := os.Stat(pinned); !os.IsNotExist(err) {
				t.Errorf("%s is still there: %v", pinned, err)
			}
			if now := len(glob(t, folder, "wal")); now >= wal {
				t.Errorf("%d WAL objects are left of %d", now, wal)
			}
			now := acts(t, release, folder, step{"open"}, step{"scan"}, step{"close"})
			if now.rows(t, 1) != was.rows(t, 2) {
				t.Errorf("rows before %s\nafter %s", was[2], now[1])
			}
		})
	}
}

// A writer that waits for its compactor, for L0 is full, goes on after we have
// made a checkpoint in its manifest: a reader of 0.15 in the same moment stops
// writers of 0.16 and 0.17 for ever (docs/slatedb-compat.md).
func TestAdmin_ACheckpointAtTheL0LimitStopsNobody(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder, p, acked := living(t, release, false)
			for i := range 3 {
				write(t, p, acked, map[string]string{fmt.Sprint("more", i): "row"})
				p.Op("l0", "db")
			}
			if n := len(manifestOf(t, "file://"+folder, "db").L0); n < 8 {
				t.Fatalf("%d tables in L0, the limit is 8", n)
			}
			p.Kill()
			next := peers.Start(t, release, peers.Local(folder))
			next.Do(map[string]any{"op": "open", "root": "db", "compact": true})
			write(t, next, acked, map[string]string{"after": "row"})
			must(t, nil, at(folder, "checkpoints", "create", "db", "--name", "hold")...)
			next.Op("l0", "db")
			write(t, next, acked, map[string]string{"later": "row"})
			next.Op("close", "db")
			shows(t, "us", ours(t, folder, "db"), acked)
		})
	}
}

// Our collector, with next to no minimum age, beside a writer and a compactor
// of the real core: no row is missed, now or after a crash.
func TestAdmin_CollectingBesideALiveWriter(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder, p, acked := living(t, release, true)
			ctx, cancel := context.WithCancel(t.Context())
			var passes, gone, tables int
			var wg sync.WaitGroup
			wg.Go(func() {
				for ctx.Err() == nil {
					letGuardsGo(t, folder)
					o := quarry(t, nil, at(folder, "gc", "db", "--min-age", "1s", "--fence-age", "1s", "--yes", "-o", "json")...)
					var c struct{ Garbage []struct{ Class string } }
					if o.code != 0 || json.Unmarshal([]byte(o.stdout), &c) != nil {
						t.Errorf("gc: exit %d: %s", o.code, o.stderr)
						return
					}
					passes++
					gone += len(c.Garbage)
					for _, g := range c.Garbage {
						if g.Class == "table" {
							tables++
						}
					}
				}
			})
			for round := range 40 {
				more := map[string]string{}
				for i := range 20 {
					more[fmt.Sprintf("k%03d", (round*7+i)%150)] = fmt.Sprintf("r%d-%d", round, i)
				}
				write(t, p, acked, more)
				if round%2 == 0 {
					p.Op("l0", "db")
				}
				time.Sleep(100 * time.Millisecond)
			}
			shows(t, "to the writer", theirs(t, p.Op("scan", "db")), acked)
			cancel()
			wg.Wait()
			p.Kill()
			t.Logf("%d passes took %d objects, %d of them tables", passes, gone, tables)
			if passes < 3 || tables == 0 {
				t.Errorf("%d passes and %d tables prove nothing", passes, tables)
			}
			shows(t, "to us after the crash", ours(t, folder, "db"), acked)
			healthy(t, folder, "--checksums")
			next := peers.Start(t, release, peers.Local(folder))
			next.Open("db")
			shows(t, "to the next writer", theirs(t, next.Op("scan", "db")), acked)
		})
	}
}

// letGuardsGo removes the checkpoints with which a compactor holds its inputs
// for a quarter of an hour: a test cannot wait for them.
func letGuardsGo(t *testing.T, folder string) {
	o := quarry(t, nil, at(folder, "checkpoints", "list", "db", "-o", "json")...)
	var all struct{ Items []struct{ ID, Kind string } }
	if o.code != 0 || json.Unmarshal([]byte(o.stdout), &all) != nil {
		t.Errorf("checkpoints: exit %d: %s", o.code, o.stderr)
	}
	for _, c := range all.Items {
		if c.Kind == "guard" {
			quarry(t, nil, at(folder, "checkpoints", "delete", "db", c.ID)...) // it may be gone
		}
	}
}

// A process that slept through a collection, with manifests gone in front of
// it, still meets the pill: the collector's mark leads it there. Nothing that it
// was told is durable is lost.
func TestAdmin_APillReachesAProcessThatSlept(t *testing.T) {
	for _, release := range peers.Versions {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			folder, p, acked := living(t, release, false)
			p.Sleep()
			for i := range 4 {
				must(t, nil, at(folder, "checkpoints", "create", "db", "--name", fmt.Sprint(i), "--lifetime", "1s")...)
			}
			time.Sleep(1200 * time.Millisecond)
			list := must(t, nil, at(folder, "checkpoints", "db", "-o", "json")...)
			var all struct{ Items []struct{ ID string } }
			if err := json.Unmarshal([]byte(list), &all); err != nil {
				t.Fatal(err)
			}
			for _, c := range all.Items {
				must(t, nil, at(folder, "checkpoints", "delete", "db", c.ID)...)
			}
			must(t, nil, at(folder, "gc", "db", "--min-age", "1ms", "--yes")...)
			must(t, nil, at(folder, "pill", "db", "--reason", "test", "--yes")...)
			if ids := glob(t, folder, "manifest"); len(ids) > 2 {
				t.Fatalf("manifests are left in front of the sleeper: %v", ids)
			}
			p.Wake()
			stopped := ""
			for i := 0; i < 60 && stopped == ""; i++ {
				k := fmt.Sprintf("after%02d", i)
				a := p.Try(map[string]any{"op": "put", "root": "db", "rows": map[string]any{hex.EncodeToString([]byte(k)): "76"}})
				if stopped = a.Error; stopped == "" {
					acked[k] = "v"
				}
				time.Sleep(100 * time.Millisecond)
			}
			if !strings.Contains(stopped, "65535") && !strings.Contains(stopped, "losed") {
				t.Errorf("the sleeper goes on: %q", stopped)
			}
			p.Kill()
			must(t, nil, at(folder, "unpill", "db", "--yes")...)
			next := peers.Start(t, release, peers.Local(folder))
			next.Open("db")
			shows(t, "after the undo", theirs(t, next.Op("scan", "db")), acked)
			next.Op("close", "db")
			healthy(t, folder)
		})
	}
}

// What scripts rely on: rows go in as one batch, and the spellings stay.
func TestAdmin_PutFromAScript(t *testing.T) {
	folder := t.TempDir()
	rows := filepath.Join(t.TempDir(), "rows")
	if err := os.WriteFile(rows, []byte("{\"key\":\"61\",\"value\":\"31\"}\n\n{\"key\":\"62\",\"value\":\"\"}\n{\"key\":\"63\",\"value\":null}"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, nil, at(folder, "put", "new/db", "--from", rows)...)
	must(t, nil, at(folder, "put", "new/db", "key", "value")...)
	want := model{"a": "1", "b": "", "key": "value"}
	shows(t, "to us", ours(t, folder, "new/db"), want)
	for _, release := range peers.Versions {
		p := peers.Start(t, release, peers.Local(folder))
		shows(t, "to "+release, theirs(t, p.Op("scan", "new/db")), want)
	}
	before := files(t, folder)
	for text, line := range map[string]string{
		"no value":          `{"key":"61"}`,
		"not hexadecimal":   `{"key":"6g","value":"31"}`,
		"not JSON":          `key=value`,
		"an unknown field":  `{"key":"61","value":"31","ttl":4}`,
		"two on a line":     `{"key":"61","value":"31"}{"key":"62","value":"31"}`,
		"a number":          `{"key":"61","value":31}`,
		"after a good line": "{\"key\":\"61\",\"value\":\"31\"}\n{}",
	} {
		if err := os.WriteFile(rows, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		if o := quarry(t, nil, at(folder, "put", "new/db", "--from", rows)...); o.code != 2 || !strings.Contains(o.stderr, "line ") {
			t.Errorf("%s: exit %d: %s", text, o.code, o.stderr)
		}
	}
	if after := files(t, folder); !slices.Equal(before, after) {
		t.Errorf("a batch that was refused wrote %v", after)
	}
}

// Nobody is there to ask: what stops or removes needs --yes, and --dry-run
// changes nothing.
func TestAdmin_WhatStopsOrRemovesAsksFirst(t *testing.T) {
	folder := t.TempDir()
	must(t, nil, at(folder, "put", "db", "k", "v")...)
	must(t, nil, at(folder, "put", "db", "k", "w")...)
	before := files(t, folder)
	for _, c := range [][]string{{"fence", "db"}, {"pill", "db", "--reason", "r"}, {"gc", "db", "--min-age", "1ms"}} {
		if o := quarry(t, nil, at(folder, c...)...); o.code != 2 || !strings.Contains(o.stderr, "--yes") {
			t.Errorf("%v: exit %d: %s", c, o.code, o.stderr)
		}
		must(t, nil, at(folder, append(c, "--dry-run")...)...)
	}
	must(t, nil, at(folder, "gc-plan", "db", "--min-age", "1ms")...)
	if after := files(t, folder); !slices.Equal(before, after) {
		t.Errorf("changed: %v", after)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"pill", "db", "--yes"}, 2, "--reason"},
		{[]string{"unpill", "db", "--yes"}, 4, "not closed"},
		{[]string{"fence", "nothing", "--yes"}, 3, "no SlateDB database"},
		{[]string{"checkpoints", "create", "db"}, 2, "--name"},
		{[]string{"checkpoints", "delete", "db", "nonsense"}, 2, "not the id"},
		{[]string{"copy", "db"}, 2, "--to"},
		{[]string{"clone", "db"}, 2, "--to-root"},
		{[]string{"repair", "db", "--finding", "nonsense"}, 2, "one of"},
		{[]string{"put", "db", "only-a-key"}, 2, "--from"},
		{[]string{"gc", "db", "--min-age", "0s"}, 2, "15m"},
	} {
		if o := quarry(t, nil, at(folder, c.args...)...); o.code != c.code || !strings.Contains(o.stderr, c.says) || strings.Count(strings.TrimSpace(o.stderr), "\n") > 0 {
			t.Errorf("%v: exit %d, expected %d: %s", c.args, o.code, c.code, o.stderr)
		}
	}
}
