package snapshots_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/snapshots"
)

var _ snapshots.Store = (*bucket.Bucket)(nil)

// A real bucket on a folder says the same, and the same again.
func TestLookThroughARealBucket(t *testing.T) {
	dir, err := filepath.Abs("../../e2e/fixtures/data/restate/v2-orphans-after-faults")
	if err != nil {
		t.Fatal(err)
	}
	b, err := bucket.Open(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var prev *snapshots.Partition
	for range 2 {
		p, err := snapshots.Verify(t.Context(), b, "0", prev)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.VerifiedLSNs()); got != "[580 425 374]" || len(p.Unlisted) != 4 {
			t.Errorf("verified %s, %d folders beside them", got, len(p.Unlisted))
		}
		for _, s := range p.Unlisted {
			if s.Modified.IsZero() {
				t.Errorf("%s has no time", s.Path)
			}
		}
		prev = &p
	}
	if p, err := snapshots.ReadPartition(t.Context(), b, "9"); err != nil || p.PointerState != snapshots.PointerMissing {
		t.Errorf("%+v, %v", p, err)
	}
}
