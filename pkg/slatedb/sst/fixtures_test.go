package sst_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const fixtures = "../../../e2e/fixtures/data"

// tables calls each with every object of the fixtures that looks like a table:
// in compacted/ or wal/.
func tables(tb testing.TB, dir string, each func(path string, raw []byte)) {
	tb.Helper()
	n := 0
	err := filepath.WalkDir(fixtures, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".sst") || filepath.Base(filepath.Dir(path)) != dir {
			return err
		}
		// Snapshot repositories of Restate hold RocksDB's tables.
		if strings.Contains(path, "restate") {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		each(path, raw)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	if n == 0 {
		tb.Fatalf("no table below %s/*/%s", fixtures, dir)
	}
}
