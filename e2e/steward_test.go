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
	defer func() {
		if t.Failed() {
			t.Log(w.cli(t, "get", "decisions").stdout)
		}
	}()
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

// settles waits until no decision is under way, and gives how many there are.
func (h *hub) settles(t testing.TB) (n int) {
	t.Helper()
	eventually(t, time.Minute, "every decision is settled", func() error {
		l, err := get[struct {
			ID, Verb, Region, Stage string
		}](h, t, "decisions")
		if err != nil {
			return err
		}
		n = len(l.Items)
		for _, d := range l.Items {
			if d.Stage != "done" {
				return fmt.Errorf("%+v", d)
			}
		}
		return nil
	})
	return n
}

// A policy acts on its own: each region's bucket gets the permit, for no more
// than the floor and no more than the region itself can restore. What people
// narrow is withdrawn at once, and published anew lower; a hub or an agent that
// starts again publishes nothing twice.
func TestRS2_APolicyPublishesPermitsInEveryRegion(t *testing.T) {
	w := startThreeMoments(t)
	w.apply(t, archives("{require: {all: true}}"))
	w.published(t, "archive/0", map[string]uint64{"ap": 425, "eu": 425, "us": 425})
	if n := w.settles(t); n != 6 {
		t.Errorf("%d decisions for two slates in three regions", n)
	}
	w.apply(t, archives("{require: {atLeast: 2}}"))
	w.published(t, "archive/0", map[string]uint64{"ap": 609, "eu": 609, "us": 425})
	for region, dir := range w.dirs {
		for _, p := range permitsIn(t, dir, "archive/0") {
			if p.UpTo == nil || time.Until(p.NotAfter) < 23*time.Hour {
				t.Errorf("%s: %+v", region, p)
			}
		}
	}
	if n := w.settles(t); n != 10 {
		t.Errorf("%d decisions, for two slates in two regions more 10 were wanted", n)
	}

	w.apply(t, "apiVersion: quarry/v1\nkind: Hold\nmetadata: {name: case-1}\nselect: {names: [archive/0]}\nfrom: {position: 501}\n")
	w.published(t, "archive/0", map[string]uint64{"ap": 500, "eu": 500, "us": 425})
	for region, want := range map[string][]string{"ap": {"425", "609", "none", "500"}, "eu": {"425", "609", "none", "500"}, "us": {"425"}} {
		var got []string
		for _, p := range permitsIn(t, w.dirs[region], "archive/0") {
			if p.UpTo == nil {
				got = append(got, "none")
			} else {
				got = append(got, fmt.Sprint(*p.UpTo))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has permits %v, want %v", region, got, want)
		}
	}
	before := w.settles(t)

	w.agents["eu"].stop()
	w.begin(t, "eu")
	w.permits(t, "archive/0", 500, "")
	w.restart(t)
	w.permits(t, "archive/0", 500, "")
	time.Sleep(12 * time.Second) // two passes: nothing is seen of something that does not happen
	if n := w.settles(t); n != before {
		t.Errorf("%d decisions, there were %d before the agent and the hub began again", n, before)
	}

	if o := w.cli(t, "freeze", "--why", "audit"); o.code != 0 {
		t.Fatalf("freeze: %s", o.stderr)
	}
	eventually(t, time.Minute, "nothing is permitted anywhere", func() error {
		for region, dir := range w.dirs {
			all := permitsIn(t, dir, "archive/0")
			if p := all[len(all)-1]; p.UpTo != nil {
				return fmt.Errorf("%s: %+v", region, p)
			}
		}
		return nil
	})
}
