//go:build e2e

package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// yesterday is a hub that says again, word for word, what a hub said to a region
// a day ago, and listens to what the agent makes of it.
type yesterday struct {
	quarryv1.UnimplementedFederationServer
	said []*quarryv1.HubFrame

	mu       sync.Mutex
	outcomes map[string]*quarryv1.Outcome // by decision
}

func (y *yesterday) Session(agent quarryv1.Federation_SessionServer) error {
	if _, err := agent.Recv(); err != nil { // the hello
		return err
	}
	gone := make(chan error, 1)
	go func() {
		for {
			f, err := agent.Recv()
			if err != nil {
				gone <- err
				return
			}
			if o := f.GetOutcome(); o != nil {
				y.mu.Lock()
				y.outcomes[o.GetDecision()] = o
				y.mu.Unlock()
			}
		}
	}()
	for _, f := range y.said {
		if err := agent.Send(f); err != nil {
			return err
		}
	}
	beat := time.NewTicker(200 * time.Millisecond)
	defer beat.Stop()
	for {
		select {
		case err := <-gone:
			return err
		case <-beat.C:
			if err := agent.Send(&quarryv1.HubFrame{Body: &quarryv1.HubFrame_Pulse{Pulse: &quarryv1.Pulse{}}}); err != nil {
				return err
			}
		}
	}
}

// objectsOf are a bucket's objects by their hashes, but those below these folders.
func objectsOf(t testing.TB, dir string, but ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, name)
		if err != nil || e.IsDir() || slices.ContainsFunc(but, func(p string) bool { return strings.HasPrefix(rel, p) }) {
			return err
		}
		all[rel] = fmt.Sprintf("%x", sha256.Sum256(read(t, name)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Everything that the hub said to a region in a day, permits and withdrawals, is
// said again the next day by somebody who recorded it, over the same protocol and in
// the name of the same ledger. The agent does none of it, and
// says so; nor does one whose journal was pruned to what must stay.
func TestADayOfCommandsReplayedTheNextDayHasNoEffect(t *testing.T) {
	program := built(t, skewed)
	w := &threeMoments{dirs: map[string]string{}, agents: map[string]*proc{}}
	for region, from := range map[string]string{"eu": "current", "us": "lagging", "ap": "current"} {
		w.dirs[region] = t.TempDir()
		copyTree(t, fixture("restate", "three-copies-of-one-cluster", from), filepath.Join(w.dirs[region], "archive"))
	}
	w.hub = startHub(t, "ap,eu,us")
	wire := startTap(t, w.hub.agents, nil)
	agent := func(hub string, program string, env []string) *proc {
		return startAs(t, program, env, "agent", "--region", "eu", "--cluster", "eu-1", "--bucket", "file://"+w.dirs["eu"],
			"--discover", "", "--hub", hub, "--poll", "300ms", "--duty-ttl", "1s", "--allow", "hold,release,permit,withdraw,prune,verify,resync,freeze,thaw")
	}
	w.begin(t, "ap")
	w.begin(t, "us")
	eu := agent(wire.addr, binary, nil)

	// The day: a permit, a hold that withdraws it, another permit, a hold again.
	w.apply(t, archives("{require: {all: true}}"))
	published(t, w.dirs["eu"], "archive/0", 425)
	hold := func() {
		must(t, nil, "hold", "archive/0", "--name", "case", "--scope", "trim", "--hub", "http://"+w.web)
		eventually(t, time.Minute, "the permit is withdrawn", func() error {
			if p := rules(t, w.dirs["eu"], "archive/0"); p == nil || p.UpTo != nil {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
	hold()
	must(t, nil, "release", "case", "--yes", "--hub", "http://"+w.web)
	published(t, w.dirs["eu"], "archive/0", 425)
	hold()
	eventually(t, time.Minute, "all that was decided has ended", func() error {
		all, err := w.decisions(t)
		for _, d := range all {
			if d.Stage == "sent" || d.Stage == "claimed" || d.Stage == "approved" {
				return errors.New(d.String())
			}
		}
		return err
	})
	eu.stop()
	w.hub.stop()

	var said []*quarryv1.HubFrame
	commands := map[string]*quarryv1.Decision{}
	for _, f := range wire.heard() {
		if len(said) > 0 && f.GetWelcome() != nil || f.GetRefuse() != nil {
			continue // one stream is welcomed once
		}
		said = append(said, f)
		if d := f.GetDecision(); d != nil {
			commands[d.GetId()] = d
		}
	}
	verbs := map[string]int{}
	for _, d := range commands {
		verbs[d.GetVerb()]++
	}
	t.Logf("recorded: %d frames, %d commands: %v", len(said), len(commands), verbs)
	if verbs["permit"] < 2 || verbs["withdraw"] < 2 {
		t.Fatalf("the day was too quiet: %v", verbs)
	}

	// What an agent does by itself when it starts is no effect of a command.
	own := []string{".quarry/duty", ".quarry/catalog", ".quarry/journal", ".quarry/leases"}
	recorded := w.dirs["eu"]
	for _, journal := range []string{"as it was left", "pruned to what must stay"} {
		t.Run("journal "+journal, func(t *testing.T) {
			w.dirs["eu"] = t.TempDir()
			copyTree(t, recorded, w.dirs["eu"])
			if journal != "as it was left" {
				if err := os.RemoveAll(filepath.Join(w.dirs["eu"], ".quarry", "journal")); err != nil {
					t.Fatal(err)
				}
				taken, err := filepath.Glob(filepath.Join(w.dirs["eu"], ".quarry", "taken", "*", "*.json"))
				if err != nil || len(taken) == 0 {
					t.Fatalf("%v %v", taken, err)
				}
				slices.Sort(taken)
				for _, name := range taken[:len(taken)-1] {
					if err := os.Remove(name); err != nil {
						t.Fatal(err)
					}
				}
			}
			before := objectsOf(t, w.dirs["eu"], own...)
			tomorrow := newClock(t)
			tomorrow.set(t, 24*time.Hour)
			y := &yesterday{said: said, outcomes: map[string]*quarryv1.Outcome{}}
			again := agent(serve(t, y), program, tomorrow.env())
			eventually(t, 2*time.Minute, "the agent has answered every command", func() error {
				y.mu.Lock()
				defer y.mu.Unlock()
				for id, d := range commands {
					if y.outcomes[id] == nil {
						return fmt.Errorf("no answer to %s %d", d.GetVerb(), d.GetSequence())
					}
				}
				return nil
			})
			again.stop()
			states := map[string]int{}
			for id, o := range y.outcomes {
				code := ""
				if len(o.GetReasons()) > 0 {
					code = " " + o.GetReasons()[0].GetCode()
				}
				states[o.GetState()+code]++
				// Of what its journal still has, the agent tells what became of it then.
				_, err := os.Stat(filepath.Join(recorded, ".quarry", "journal", id, "9-outcome.json"))
				if o.GetState() == "done" && (err != nil || journal != "as it was left") {
					t.Errorf("it did it again: %v", o)
				}
			}
			t.Logf("answers: %v", states)
			after := objectsOf(t, w.dirs["eu"], own...)
			if !maps.Equal(before, after) {
				for name, sum := range after {
					if before[name] != sum {
						t.Errorf("%s was changed", name)
					}
				}
				for name := range before {
					if after[name] == "" {
						t.Errorf("%s was removed", name)
					}
				}
			}
			if p := rules(t, w.dirs["eu"], "archive/0"); p == nil || p.UpTo != nil {
				t.Errorf("it permits what was withdrawn: %+v", p)
			}
		})
	}
}
