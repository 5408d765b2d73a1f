package wal_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

const fixtures = "../../../e2e/fixtures/data"

func objects(tb testing.TB, each func(path string, raw []byte)) {
	tb.Helper()
	err := filepath.WalkDir(fixtures, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".sst") || filepath.Base(filepath.Dir(path)) != "wal" {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil {
			each(path, raw)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func TestEveryWALObjectOfTheRealCoresReads(t *testing.T) {
	rows, empty, rowless := 0, 0, map[int]int{}
	objects(t, func(path string, raw []byte) {
		o, err := wal.Decode(raw)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		rows += len(o.Rows)
		if o.Fence() {
			rowless[len(raw)]++
		}
		if len(raw) == 0 {
			empty++
		}
		for i := 1; i < len(o.Rows); i++ {
			if a, b := &o.Rows[i-1], &o.Rows[i]; a.Seq > b.Seq || a.Seq == b.Seq && string(a.Key) >= string(b.Key) {
				t.Errorf("%s: row %d is not in commit order", path, i)
			}
		}
	})
	t.Logf("%d rows; fences by size %v", rows, rowless)
	// 0, 114 and 122 bytes are the fences of 0.14, 0.12 and 0.13.
	if rows == 0 || rowless[0] == 0 || rowless[114] == 0 || rowless[122] == 0 {
		t.Errorf("fixtures lost their variety: %d rows, fences by size %v", rows, rowless)
	}
}

func TestAMissingIdIsNamed(t *testing.T) {
	for _, c := range []struct {
		after, last uint64
		ids         []uint64
		hole        uint64
	}{
		{0, 0, nil, 0},
		{3, 0, []uint64{4, 5}, 0},
		{3, 5, []uint64{4, 5}, 0},
		{3, 0, []uint64{5}, 4},
		{3, 0, []uint64{4, 5, 7}, 6},
		{3, 6, []uint64{4, 5}, 6},
		{3, 4, nil, 4},
	} {
		err := wal.Check(c.after, c.last, c.ids)
		if c.hole == 0 {
			if err != nil {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if h, ok := err.(*wal.Hole); !ok || h.ID != c.hole {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
