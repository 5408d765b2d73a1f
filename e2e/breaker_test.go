//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/snapshots/snapshotstest"
)

// Somebody means one slate and writes a pattern that is every slate's name. The
// breaker opens, nothing is acted on, in no region; whoever looks is told; and
// when a person has said how many are meant, it goes on.
func TestATypoThatWouldTouchEverySlateActsOnNone(t *testing.T) {
	const slates = 200
	dirs := map[string]string{"eu": t.TempDir(), "us": t.TempDir()}
	for _, dir := range dirs {
		b, err := bucket.Open(t.Context(), "file://"+dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := range slates {
			p := snapshotstest.Partition{Prefix: fmt.Sprintf("archive/%d", i), Number: uint64(i), Snapshots: []snapshotstest.Snapshot{{LSN: 40}, {LSN: 60}}}
			if err := p.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		b.Close()
	}
	h := startHub(t, "eu,us")
	for region, dir := range dirs {
		startAgent(t, h, region, "file://"+dir, nil)
	}
	eventually(t, 2*time.Minute, "every slate is known and verified", func() error {
		l, err := get[struct {
			State string `json:"state"`
		}](h, t, "restore-points", "--filter", `state = "verified"`)
		if err == nil && len(l.Items) != 2*2*slates {
			err = fmt.Errorf("%d restore points are verified", len(l.Items))
		}
		return err
	})
	policy := func(names string) string {
		return "apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: archives}\nselect: {names: [" + names + "]}\ntrim: {require: {all: true}}\nrestorePoints: {perRegion: 1}\n"
	}
	permitted := func() (n int) {
		for _, dir := range dirs {
			n += len(allPermits(t, dir))
		}
		return n
	}
	h.apply(t, policy(`archive/7`))
	for _, dir := range dirs {
		published(t, dir, "archive/7", 60)
	}

	h.apply(t, policy(`"archive/*"`)) // and meant was archive/8
	type breaker struct {
		Open bool   `json:"open"`
		Why  string `json:"why"`
	}
	eventually(t, time.Minute, "the breaker opens", func() error {
		o := h.cli(t, "breaker", "-o", "json")
		var b breaker
		if err := json.Unmarshal([]byte(o.stdout), &b); err != nil {
			return fmt.Errorf("%w: %s%s", err, o.stdout, o.stderr)
		}
		if !b.Open || !strings.Contains(b.Why, fmt.Sprint(slates-1)) {
			return errors.New(o.stdout)
		}
		return nil
	})
	if o := h.cli(t, "summary"); !strings.Contains(o.stdout, "breaker") {
		t.Errorf("summary does not say that the breaker is open:\n%s%s", o.stdout, o.stderr)
	}
	eventually(t, 10*time.Second, "an event tells of the breaker", func() error {
		if o := h.cli(t, "events", "-o", "json"); !strings.Contains(o.stdout, "breaker-open") {
			return errors.New(o.stderr)
		}
		return nil
	})
	// It stays so, also for a hub that starts anew.
	for range 2 {
		for until := time.Now().Add(5 * time.Second); time.Now().Before(until); time.Sleep(500 * time.Millisecond) {
			if n := permitted(); n != 2 {
				t.Fatalf("%d permits are in the buckets, and the breaker is open", n)
			}
		}
		h.proc.kill()
		h.restart(t)
	}
	if o := h.cli(t, "breaker", "close", "--slates", "3", "--why", "meant"); o.code == 0 {
		t.Errorf("three are meant, and it closes for all: %s", o.stdout)
	}
	if n := permitted(); n != 2 {
		t.Errorf("%d permits", n)
	}
	if o := h.cli(t, "breaker", "close", "--slates", fmt.Sprint(slates-1), "--why", "all of them are meant"); o.code != 0 {
		t.Fatalf("close: exit %d, %s", o.code, o.stderr)
	}
	eventually(t, 4*time.Minute, "what was meant is done", func() error {
		if n := permitted(); n < 2*slates {
			return fmt.Errorf("%d permits", n)
		}
		return nil
	})
	for _, dir := range dirs {
		for i := range slates {
			published(t, dir, fmt.Sprintf("archive/%d", i), 60)
		}
		if names, _ := filepath.Glob(filepath.Join(dir, ".quarry", "permits", "*", "*.json")); len(names) != slates {
			t.Errorf("%d permits for %d slates: some were published twice", len(names), slates)
		}
	}
}
