//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// permitObject is what scripts and owners read of a permit.
type permitObject struct {
	Number   uint64    `json:"number"`
	Slate    string    `json:"slate"`
	UpTo     *uint64   `json:"up_to"`
	Decision string    `json:"decision"`
	NotAfter time.Time `json:"not_after"`
}

// permitsIn are the permits of a slate as they lie in a region's bucket, the one
// that rules last.
func permitsIn(t testing.TB, bucket, slate string) (out []permitObject) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(bucket, ".quarry", "permits", url.PathEscape(slate), "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var p permitObject
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out = append(out, p)
	}
	return out
}

// published waits until the permit that rules the slate in each region is up to
// these positions.
func (w *threeMoments) published(t testing.TB, slate string, want map[string]uint64) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("permits %v of %s", want, slate), func() error {
		for region, n := range want {
			all := permitsIn(t, w.dirs[region], slate)
			if len(all) == 0 {
				return fmt.Errorf("%s has no permit", region)
			}
			if p := all[len(all)-1]; p.UpTo == nil || *p.UpTo != n {
				return fmt.Errorf("%s has %+v", region, p)
			}
		}
		return nil
	})
}

// A policy acts on its own: each region's bucket gets the permit, for no more
// than the floor and no more than the region itself can restore.
func TestRS2_APolicyPublishesPermitsInEveryRegion(t *testing.T) {
	w := startThreeMoments(t)
	w.apply(t, archives("{require: {all: true}}"))
	w.published(t, "archive/0", map[string]uint64{"ap": 425, "eu": 425, "us": 425})
	w.apply(t, archives("{require: {atLeast: 2}}"))
	w.published(t, "archive/0", map[string]uint64{"ap": 609, "eu": 609, "us": 425})
	for region, dir := range w.dirs {
		for _, p := range permitsIn(t, dir, "archive/0") {
			if p.UpTo == nil || time.Until(p.NotAfter) < 23*time.Hour {
				t.Errorf("%s: %+v", region, p)
			}
		}
	}
}
