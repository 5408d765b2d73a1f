package manifest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// fixtures is where the databases written by the real systems are.
var fixtures = filepath.Join("..", "..", "..", "e2e", "fixtures", "data")

// objects returns every fixture whose name ends in suffix, by its path below
// the fixtures.
func objects(t testing.TB, suffix string) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	err := filepath.WalkDir(fixtures, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, suffix) {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(fixtures, path)
		out[filepath.ToSlash(rel)] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryRealManifestDecodes(t *testing.T) {
	all := objects(t, ".manifest")
	if len(all) < 1000 {
		t.Fatalf("only %d manifests found", len(all))
	}
	versions := map[int]int{}
	for name, b := range all {
		m, err := manifest.Decode(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		versions[m.Version]++
		if m.UnknownFields {
			t.Errorf("%s: unknown fields", name)
		}
	}
	t.Logf("%d manifests by version: %v", len(all), versions)
}
