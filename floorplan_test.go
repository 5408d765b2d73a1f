package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/quarry-db/quarry"

// pkgInfo is what `go list` says of one package.
type pkgInfo struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// pure packages reach no I/O and no clock: what they decide can be replayed.
var pure = []string{
	"regions", "regions/plan", "pkg/catalog", "hub/state", "hub/pack", "hub/table", "hub/view", "hub/query",
	"pkg/slatedb/manifest", "pkg/slatedb/sst", "pkg/slatedb/wal", "pkg/slatedb/internal/fb", "pkg/opendata",
}

// io lists what a pure package must not import itself. (Dependencies of
// dependencies are not held against it: encoding/json knows os.)
var ioPackages = []string{"os", "os/exec", "net", "net/http", "log", "log/slog", "database/sql", "io/ioutil", "path/filepath", "syscall"}

// doors: each outside dependency enters through these packages only.
var doors = []struct {
	outside, because string
	through          []string
}{
	{"gocloud.dev", "one door to object stores", []string{"pkg/bucket"}},
	{"google.golang.org/grpc", "one link, two ends", []string{"agent/report", "hub/session", "proto/quarry/v1"}},
	{"github.com/spf13/cobra", "the command line is cmd", []string{"cmd"}},
	{"github.com/hashicorp/memberlist", "membership is hub/peers", []string{"hub/peers"}},
	{"k8s.io/client-go", "Kubernetes is agent/kube", []string{"agent/kube"}},
	{"google.golang.org/protobuf", "catalog types are ours, protobuf is the wire", []string{"proto/quarry/v1", "pkg/wire", "agent/report", "hub/session"}},
	{"github.com/danielgtaylor/huma", "the web API is hub/api", []string{"hub/api"}},
}

// walls: from must not reach to, even through others.
var walls = []struct{ from, to, because string }{
	{"hub", "pkg/bucket", "the hub has no code path to a region's bucket; cmd hands it the store of its own"},
	{"hub", "agent", "they meet on the wire only"},
	{"agent", "hub", "they meet on the wire only"},
	{"pkg", "hub", "what both sides use knows neither"},
	{"pkg", "agent", "what both sides use knows neither"},
	{"pkg/slatedb", "pkg/bucket", "slatedb declares the store it needs"},
	{"pkg/snapshots", "pkg/bucket", "snapshots declares the store it needs"},
	{"pkg/slatedb", "pkg/snapshots", "adapters do not know each other"},
	{"pkg/snapshots", "pkg/slatedb", "adapters do not know each other"},
	{"regions", "pkg/bucket", "rules have no I/O"},
	{"agent/watch", "agent/report", "watch says what it needs; agent ties them"},
	{"agent/report", "agent/watch", "report carries facts and knows no bucket"},
	{"agent/report", "pkg/bucket", "report carries facts and knows no bucket"},
	{"hub/api", "hub/session", "two protocols on purpose"},
	{"hub/session", "hub/api", "two protocols on purpose"},
}

func packages(t *testing.T) map[string]pkgInfo {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]pkgInfo{}
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkgInfo
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
	return pkgs
}

func under(pkg, folder string) bool {
	full := module + "/" + folder
	return pkg == full || strings.HasPrefix(pkg, full+"/")
}

// The floor plan of docs/ARCHITECTURE.md, kept.
func TestFloorPlan(t *testing.T) {
	pkgs := packages(t)
	for _, name := range pure {
		p, ok := pkgs[module+"/"+name]
		if !ok {
			t.Errorf("%s is in the floor plan but not in the house", name)
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(ioPackages, imp) {
				t.Errorf("%s imports %s: it is pure, it decides and does not act", name, imp)
			}
		}
	}
	for path, p := range pkgs {
		for _, d := range doors {
			for _, imp := range p.Imports {
				if imp != d.outside && !strings.HasPrefix(imp, d.outside+"/") {
					continue
				}
				if !slices.ContainsFunc(d.through, func(room string) bool { return under(path, room) }) {
					t.Errorf("%s imports %s, which enters through %v only: %s", path, imp, d.through, d.because)
				}
			}
		}
		for _, w := range walls {
			if !under(path, w.from) {
				continue
			}
			for _, dep := range p.Deps {
				if under(dep, w.to) {
					t.Errorf("%s reaches %s: %s", path, dep, w.because)
				}
			}
		}
	}
}
