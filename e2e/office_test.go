//go:build e2e

package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Who may decide, seen from the buckets: what is published comes from the hub
// that has the ledger, once.

// startPublished is a hub with three agents that has published what it may.
func startPublished(t *testing.T) *threeMoments {
	t.Helper()
	w := startThreeMoments(t)
	w.apply(t, archives("{require: {all: true}}"))
	w.allPublished(t, 425)
	return w
}

func (w *threeMoments) allPublished(t testing.TB, n uint64) {
	t.Helper()
	for _, dir := range w.dirs {
		published(t, dir, "archive/0", n)
	}
}

// permitCount is how many permits lie in the buckets, of all slates.
func (w *threeMoments) permitCount(t testing.TB) (n int) {
	t.Helper()
	for _, dir := range w.dirs {
		n += len(allPermits(t, dir))
	}
	return n
}

// unmoved watches for a while that nothing is published.
func (w *threeMoments) unmoved(t testing.TB, limit time.Duration, why string) {
	t.Helper()
	n := w.permitCount(t)
	for until := time.Now().Add(limit); time.Now().Before(until); time.Sleep(300 * time.Millisecond) {
		if now := w.permitCount(t); now != n {
			t.Fatalf("%d permits, there were %d: %s", now, n, why)
		}
	}
}

// calm waits until no decision is under way.
func (h *hub) calm(t testing.TB) []decision {
	t.Helper()
	var all []decision
	eventually(t, time.Minute, "every decision has ended", func() (err error) {
		all, err = h.decisions(t)
		for _, d := range all {
			switch d.Stage {
			case "proposed", "approved", "sent", "claimed":
				return errors.New(d.String())
			}
		}
		return err
	})
	return all
}

// catchUp brings us to where eu is: the floor may rise.
func (w *threeMoments) catchUp(t testing.TB) {
	t.Helper()
	copyTree(t, fixture("restate", "three-copies-of-one-cluster", "current"), filepath.Join(w.dirs["us"], "archive"))
}

// A hub that is started anew, and an agent that is, know what is published by
// the buckets, and nothing is published twice.
func TestWhatIsPublishedIsKnownAfterARestart(t *testing.T) {
	w := startPublished(t)
	before, objects := w.calm(t), w.permitCount(t)
	for _, who := range []string{"the hub", "an agent", "all"} {
		if who != "an agent" {
			w.hub.kill()
		}
		if who != "the hub" {
			w.agents["us"].kill()
			w.begin(t, "us")
		}
		if who != "an agent" {
			w.hub.restart(t)
		}
		w.permits(t, "archive/0", 425, "us")
		w.unmoved(t, 8*time.Second, who+" was started anew")
	}
	permits := func(all []decision) (n int) {
		for _, d := range all {
			if d.Verb == "permit" {
				n++
			}
		}
		return n
	}
	if after := w.calm(t); permits(after) != permits(before) || w.permitCount(t) != objects {
		t.Errorf("%d decisions to permit and %d permits, were %d and %d", permits(after), w.permitCount(t), permits(before), objects)
	}
	// And it goes on from there.
	w.catchUp(t)
	w.allPublished(t, 609)
}

// Of two hubs on one store only the newer publishes, whichever the agents talk to.
func TestOfTwoHubsOnOneStoreOnlyTheNewerPublishes(t *testing.T) {
	w := startPublished(t)
	w.calm(t)
	second := &hub{web: freePort(t), agents: freePort(t), store: w.hub.store, regions: w.hub.regions}
	second.restart(t)
	eventually(t, 30*time.Second, "the first says that it does not decide", func() error {
		if o := w.cli(t, "get", "regions"); !strings.Contains(o.stderr, "not deciding") {
			return errors.New(o.stderr)
		}
		return nil
	})
	// Its agents tell it that more could be trimmed; it shows so and publishes nothing.
	w.catchUp(t)
	w.permits(t, "archive/0", 609, "ap")
	w.unmoved(t, 8*time.Second, "by a hub that has lost its ledger")

	first := w.hub
	for _, region := range []string{"ap", "eu", "us"} {
		w.agents[region].kill()
	}
	w.hub = second
	for _, region := range []string{"ap", "eu", "us"} {
		w.begin(t, region)
	}
	w.allPublished(t, 609)
	first.stop()
	for region, dir := range w.dirs {
		terms := map[uint64]bool{}
		for _, p := range allPermits(t, dir) {
			if p.UpTo != nil && p.Slate == "archive/0" {
				terms[p.Term] = true
			}
		}
		if len(terms) != 2 {
			t.Errorf("%s: permits of terms %v", region, terms)
		}
	}
}

// The hub's store is brought back from a backup that is older than what agents
// have obeyed: that hub decides nothing, and says why, and what is published stays.
func TestALedgerFromABackupPublishesNothing(t *testing.T) {
	w := startThreeMoments(t)
	w.apply(t, archives("{require: {all: true}, safetyGap: {positions: 100}}"))
	w.allPublished(t, 325)
	w.calm(t)
	w.hub.stop()
	backup := t.TempDir()
	copyTree(t, w.hub.store, backup)
	w.hub.restart(t)
	w.permits(t, "archive/0", 325, "us")
	w.apply(t, archives("{require: {all: true}}"))
	w.allPublished(t, 425)
	w.calm(t)
	w.hub.stop()

	w.hub.store = backup
	w.hub.restart(t)
	eventually(t, time.Minute, "it says that its ledger was set back", func() error {
		if o := w.cli(t, "get", "regions"); !strings.Contains(o.stderr, "not deciding") {
			return errors.New(o.stderr)
		}
		return nil
	})
	w.catchUp(t)
	w.unmoved(t, 8*time.Second, "by a hub with a ledger from a backup")
	for region, dir := range w.dirs {
		if p := rules(t, dir, "archive/0"); p == nil || p.UpTo == nil || *p.UpTo != 425 {
			t.Errorf("%s: what was published is now %+v", region, p)
		}
	}
	if o := w.cli(t, "hold", "archive/0"); o.code == 0 {
		t.Errorf("it takes a hold, and could not enforce it: %s", o.stdout)
	}
}

// A hub with a ledger of its own comes in the place of the one that a region
// obeys. The agents do nothing that it says, until each was told on its own side
// to obey that ledger.
func TestARegionObeysOneLedgerUntilItsOwnSideSaysOtherwise(t *testing.T) {
	w := startPublished(t)
	w.calm(t)
	w.hub.stop()
	w.hub.store = t.TempDir()
	w.hub.restart(t)
	w.apply(t, archives("{require: {all: true}}"))
	w.catchUp(t)
	w.permits(t, "archive/0", 609, "ap")
	w.unmoved(t, 8*time.Second, "by a hub of another ledger")

	_, ledger, found := strings.Cut(w.hub.log.String(), " ledger=")
	ledger, _, _ = strings.Cut(ledger, " ")
	if !found {
		t.Fatalf("the hub does not say at its start which ledger it has:\n%s", w.hub.log)
	}
	// One region's side says so; the others stay as they are.
	w.agents["ap"].stop()
	w.agents["ap"] = startAgent(t, w.hub, "ap", "file://"+w.dirs["ap"], nil, "--ledger", strings.TrimSpace(ledger))
	published(t, w.dirs["ap"], "archive/0", 609)
	for _, region := range []string{"eu", "us"} {
		if p := rules(t, w.dirs[region], "archive/0"); p == nil || p.UpTo == nil || *p.UpTo != 425 {
			t.Errorf("%s: %+v", region, p)
		}
	}
}
