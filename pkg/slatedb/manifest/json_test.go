package manifest_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the tests expect anew")

// What scripts read of a manifest does not change under them. Among the five are a
// segmented database, a clone of a range, sorted runs, checkpoints of every kind,
// and a database that nothing was written to.
func TestJSONStaysAsItIs(t *testing.T) {
	for _, root := range []string{"0.17.0/segments/db", "0.15.0/projection/clone", "0.13.1/compacted/db", "0.12.1/fresh/db", "0.17.0/checkpoints/db"} {
		id, m := newest(t, filepath.Join(fixtures, filepath.FromSlash(root)))
		got, err := json.MarshalIndent(m.JSON(id), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		golden := filepath.Join("testdata", strings.ReplaceAll(root, "/", "-")+".json")
		if *update {
			if err := os.WriteFile(golden, got, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from %s; with -update it is written anew:\n%s", root, golden, got)
		}
	}
}
