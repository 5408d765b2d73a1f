package cmd

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/e2e/fixtures"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// demoRegion is one region of the demonstration: which real database lies at
// which root of its bucket.
type demoRegion struct {
	name  string
	roots []demoRoot
	// register says what owners declared.
	register []demoRegistration
}

type demoRoot struct{ from, to string }

type demoRegistration struct{ name, root, kind, owner, label string }

// demoRegions is a small fleet: an OpenData log in two regions, snapshots of
// one Restate cluster that lag in one of them, a clone, a reader's checkpoint,
// and databases that nobody registered.
var demoRegions = []demoRegion{
	{"us-east", []demoRoot{
		{"opendata/log-lz4/slate", "logs/orders"},
		{"opendata/timeseries/slate", "metrics/checkout"},
		{"0.17.0/clone/parent", "parent"},
		{"0.17.0/clone/clone", "clone"},
		{"restate/three-copies-of-one-cluster/current", "archive"},
	}, []demoRegistration{
		{"logs/orders", "logs/orders", "log", "team-orders", "tier=gold"},
		{"live", "dbs/live", "slatedb", "team-demo", "tier=silver"},
	}},
	{"eu-west", []demoRoot{
		{"opendata/log-retained/slate", "logs/orders"},
		{"opendata/buffer/bucket", ""},
		{"0.17.0/reader/db", "dbs/sessions"},
		{"0.16.0/segments/db", "dbs/tenants"},
		{"restate/three-copies-of-one-cluster/lagging", "archive"},
	}, []demoRegistration{
		{"logs/orders", "logs/orders", "log", "team-orders", "tier=gold"},
	}},
	{"ap-south", []demoRoot{
		{"opendata/vector/slate", "search/products"},
		{"0.14.1/checkpoints/db", "dbs/ledger"},
		{"0.12.1/codec-zstd/db", "dbs/legacy"},
		{"restate/v2-default-4-partitions", "payments"},
	}, nil},
}

// demoPolicy is a policy to try: nothing is cut that one of the two regions
// could not restore.
const demoPolicy = `apiVersion: quarry/v1
kind: Policy
metadata: {name: archives}
select: {kinds: [snapshots], names: ["archive/*"], regions: [us-east, eu-west]}
trim:
  require: {all: true}
restorePoints: {perRegion: 1}
`

const demoPolicyFile = "policy.yaml"

// demoLive is the database whose real history is played back in us-east.
const (
	demoLiveFrom = "0.17.0/compacted/db"
	demoLiveTo   = "dbs/live"
)

// layOut writes the region's databases into its folder.
func (r demoRegion) layOut(dir string) error {
	for _, root := range r.roots {
		from := path.Join("data", root.from)
		err := fs.WalkDir(fixtures.Demo, from, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			return copyFixture(p, filepath.Join(dir, filepath.FromSlash(root.to), filepath.FromSlash(strings.TrimPrefix(p, from))))
		})
		if err != nil {
			return fmt.Errorf("lay out %s of %s: %w", root.to, r.name, err)
		}
	}
	return nil
}

// copyFixture writes one object the way a store does: whole or not at all.
func copyFixture(from, to string) error {
	b, err := fixtures.Demo.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	tmp := to + "#demo"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

// playHistory plays the history of a real database back into dir: each step is
// one manifest that SlateDB wrote, after the tables and WAL objects it names.
// At the end it rests, removes the database, and makes it again: the same root,
// another incarnation. It returns when ctx ends.
func playHistory(ctx context.Context, dir string, step time.Duration) error {
	src := path.Join("data", demoLiveFrom)
	dst := filepath.Join(dir, filepath.FromSlash(demoLiveTo))
	manifests, err := fs.Glob(fixtures.Demo, src+"/manifest/*.manifest")
	if err != nil || len(manifests) == 0 {
		return fmt.Errorf("the demo's history is missing from this binary: %w", err)
	}
	slices.Sort(manifests)
	wal, err := fs.Glob(fixtures.Demo, src+"/wal/*.sst")
	if err != nil {
		return err
	}
	slices.Sort(wal)
	for {
		next := 0 // of wal
		for _, name := range manifests {
			b, err := fixtures.Demo.ReadFile(name)
			if err != nil {
				return err
			}
			m, err := manifest.Decode(b)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			for ; next < len(wal) && walID(wal[next]) <= m.WALLastSeen; next++ {
				if err := copyFixture(wal[next], filepath.Join(dst, "wal", path.Base(wal[next]))); err != nil {
					return err
				}
			}
			var tables []string
			m.Tables(func(t *manifest.Table) { tables = append(tables, t.ID.String()+".sst") })
			for _, t := range tables {
				from := src + "/compacted/" + t
				if _, err := fs.Stat(fixtures.Demo, from); err != nil {
					continue // compacted away before the history was copied
				}
				if err := copyFixture(from, filepath.Join(dst, "compacted", t)); err != nil {
					return err
				}
			}
			if err := copyFixture(name, filepath.Join(dst, "manifest", path.Base(name))); err != nil {
				return err
			}
			if !sleep(ctx, step) {
				return nil
			}
		}
		if !sleep(ctx, 10*step) {
			return nil
		}
		if err := os.RemoveAll(dst); err != nil {
			return err
		}
		if !sleep(ctx, 8*step) {
			return nil
		}
	}
}

func walID(name string) uint64 {
	id, _ := strconv.ParseUint(strings.TrimSuffix(path.Base(name), ".sst"), 10, 64)
	return id
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
