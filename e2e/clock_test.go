//go:build e2e

package e2e

import (
	bin "encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// clock is what a machine believes the time to be.
type clock string

func newClock(t testing.TB) clock {
	c := clock(filepath.Join(t.TempDir(), "clock"))
	c.set(t, 0)
	return c
}

func (c clock) env() []string { return []string{"QUARRY_TEST_CLOCK=" + string(c)} }

// set puts the clock off by this much, at once.
func (c clock) set(t testing.TB, off time.Duration) {
	t.Helper()
	f, err := os.OpenFile(string(c), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// In place: whoever has that clock has the file in its memory.
	if _, err := f.WriteAt(bin.BigEndian.AppendUint64(nil, uint64(off/time.Second)), 0); err != nil {
		t.Fatal(err)
	}
}

// skews waits until the hub shows by how much an agent's clock is off.
func (h *hub) skews(t testing.TB, region string, off time.Duration) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("the hub shows that the clock of %s is %v off", region, off), func() error {
		l, err := get[struct {
			Region string `json:"region"`
			State  string `json:"state"`
			Skew   *int64 `json:"clock_skew_ms"`
		}](h, t, "clusters")
		for _, c := range l.Items {
			if c.Region == region && c.State == "reporting" && c.Skew != nil && (time.Duration(*c.Skew)*time.Millisecond-off).Abs() < time.Minute {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%+v", l.Items))
	})
}

// The clock of one region's machine is set an hour ahead, then an hour behind
// the truth, while its agent runs. The hub shows by how much it is off, and
// nothing else is different: not who is heard, not what may be trimmed, not by
// which evidence, not what is permitted in any bucket.
func TestRS3_AClockThatIsAnHourOffChangesNothing(t *testing.T) {
	program := built(t, skewed)
	w := startThreeMoments(t)
	eu := newClock(t)
	w.agents["eu"].kill()
	w.agents["eu"] = startAs(t, program, eu.env(), "agent", "--region", "eu", "--cluster", "eu-1", "--bucket", "file://"+w.dirs["eu"],
		"--discover", "", "--hub", w.hub.agents, "--poll", "300ms")
	w.skews(t, "eu", 0)
	w.apply(t, archives("{require: {all: true}}"))
	before := w.permits(t, "archive/0", 425, "us")
	w.allPublished(t, 425)
	w.calm(t)
	permits := w.permitCount(t)
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		eu.set(t, off)
		w.skews(t, "eu", off)
		// For longer than a region may be silent.
		for until := time.Now().Add(6 * time.Second); time.Now().Before(until); time.Sleep(300 * time.Millisecond) {
			r, err := w.region(t, "eu")
			if err != nil || r.State != "connected" {
				t.Fatalf("%v off: eu is %+v, %v", off, r, err)
			}
			e, err := w.explain(t, "archive/0")
			if err != nil || e.Plan != before.Plan || e.Action != "permit" || e.UpTo == nil || *e.UpTo != 425 {
				t.Fatalf("%v off: %v %v; was %v", off, e, err, before)
			}
			if n := w.permitCount(t); n != permits {
				t.Fatalf("%v off: %d permits are in the buckets, %d were", off, n, permits)
			}
		}
	}
	// What may be trimmed grows, and is permitted there as it is everywhere else.
	w.catchUp(t)
	w.allPublished(t, 609)
	w.calm(t)
	eu.set(t, 0)
	w.skews(t, "eu", 0)
	w.unmoved(t, 6*time.Second, "the clock was put right")
	if p := rules(t, w.dirs["eu"], "archive/0"); p == nil || p.UpTo == nil || *p.UpTo != 609 {
		t.Errorf("%+v", p)
	}
}
