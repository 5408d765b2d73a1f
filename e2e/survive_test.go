//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What becomes of decisions when processes are killed: a hub and three agents
// carry a policy out, a hold comes and goes, and one process is killed with
// SIGKILL at each kind of write that it makes, once before it and once after.
// In the end everything is as if nobody had been killed.

// decidedLife is one run of the story.
type decidedLife struct {
	t      testing.TB
	hub    *hub
	dirs   map[string]string
	warden *warden
}

// begin starts the hub and its agents; victim is the one that is killed: "hub",
// a region, or "" for an undisturbed life.
func beginLife(t testing.TB, victim string, kills func(string) bool) *decidedLife {
	t.Helper()
	program := built(t, gated)
	l := &decidedLife{t: t, dirs: map[string]string{}}
	for region, from := range map[string]string{"eu": "current", "us": "lagging", "ap": "current"} {
		l.dirs[region] = t.TempDir()
		copyTree(t, fixture("restate", "three-copies-of-one-cluster", from), filepath.Join(l.dirs[region], "archive"))
	}
	l.hub = &hub{web: freePort(t), agents: freePort(t), store: t.TempDir(), regions: "ap,eu,us"}
	run := func(env []string) *proc {
		return startAs(t, program, append(env, "QUARRY_TEST_SLATE_HOUR=1000"), "hub", "--listen", l.hub.web, "--agent-listen", l.hub.agents, "--store", "file://"+l.hub.store,
			"--regions", l.hub.regions, "--beat", "500ms", "--stale-after", "4s")
	}
	if victim == "hub" {
		l.warden = warded(t, hubWrite, kills, run)
	} else {
		run(nil)
	}
	for _, region := range []string{"ap", "eu", "us"} {
		run := func(env []string) *proc {
			return startAs(t, program, env, "agent", "--region", region, "--cluster", region+"-1", "--bucket", "file://"+l.dirs[region],
				"--discover", "", "--hub", l.hub.agents, "--poll", "300ms", "--duty-ttl", "1s", "--allow", "hold,release,permit,withdraw,prune,verify")
		}
		if victim == region {
			l.warden = warded(t, agentWrite(), kills, run)
		} else {
			run(nil)
		}
	}
	return l
}

// say runs a command until the hub has heard it: it may be dying. done is what
// it says when it was done before and nobody heard the answer.
func (l *decidedLife) say(done string, args ...string) {
	l.t.Helper()
	eventually(l.t, 2*time.Minute, strings.Join(args, " "), func() error {
		o := l.hub.cli(l.t, args...)
		if o.code == 0 || done != "" && strings.Contains(o.stderr, done) {
			return nil
		}
		return fmt.Errorf("exit %d: %s%s", o.code, o.stdout, o.stderr)
	})
}

// live tells the story.
func (l *decidedLife) live() {
	t := l.t
	t.Helper()
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	put(t, policy, archives("{require: {all: true}}"))
	l.say("", "apply", "-f", policy)
	all := map[string]uint64{"ap": 425, "eu": 425, "us": 425}
	l.permitted("a policy", all)
	l.say("", "hold", "archive/0", "--name", "audit", "--scope", "trim")
	l.withdrawn("a hold")
	l.say(`there is no hold "audit"`, "release", "audit", "--yes")
	l.permitted("the hold's end", all)
	put(t, policy, archives("{require: {atLeast: 2}}"))
	l.say("", "apply", "-f", policy)
	l.permitted("a wider policy", map[string]uint64{"ap": 631, "eu": 631, "us": 425})
	put(t, policy, strings.Replace(archives("{require: {atLeast: 2}}"), "perRegion: 1", "perRegion: 1, keep: {hourly: 1}", 1))
	l.say("", "apply", "-f", policy)
	l.rest()
}

// permitted waits until every bucket permits up to what it should.
func (l *decidedLife) permitted(why string, to map[string]uint64) {
	l.t.Helper()
	for region, dir := range l.dirs {
		n := to[region]
		eventually(l.t, 3*time.Minute, fmt.Sprintf("%s permits up to %d by %s", region, n, why), func() error {
			if p := rules(l.t, dir, "archive/0"); p == nil || p.UpTo == nil || *p.UpTo != n {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
}

// withdrawn waits until no bucket permits anything.
func (l *decidedLife) withdrawn(why string) {
	l.t.Helper()
	for region, dir := range l.dirs {
		eventually(l.t, 3*time.Minute, region+" permits nothing because of "+why, func() error {
			if p := rules(l.t, dir, "archive/0"); p == nil || p.UpTo != nil {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
	}
}

// rest waits until nothing is under way, and nothing new begins.
func (l *decidedLife) rest() {
	l.t.Helper()
	var calm time.Time
	count := 0
	eventually(l.t, 4*time.Minute, "every decision has ended", func() error {
		all, err := l.hub.decisions(l.t)
		if err != nil {
			return err
		}
		for _, d := range all {
			if slices.Contains([]string{"proposed", "approved", "sent", "claimed"}, d.Stage) {
				calm = time.Time{}
				return errors.New(d.String())
			}
		}
		if len(all) != count || calm.IsZero() {
			count, calm = len(all), time.Now()
		}
		if time.Since(calm) < 12*time.Second { // two passes of the hub
			return errors.New("more may come")
		}
		return nil
	})
}

// end is what is left: what rules in each bucket, every object of the archives,
// and what the hub has in force and under way. Two lives that end alike read alike.
func (l *decidedLife) end() string {
	t := l.t
	t.Helper()
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	decided, err := l.hub.decisions(t)
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]decision{}
	for _, d := range decided {
		byID[d.ID] = d
	}
	for _, region := range []string{"ap", "eu", "us"} {
		dir := l.dirs[region]
		written := map[string]int{}
		for _, slate := range []string{"archive/0", "archive/1"} {
			if p := rules(t, dir, slate); p != nil {
				add("%s: %s is permitted up to %v", region, slate, deref(p.UpTo))
			}
		}
		for _, p := range allPermits(t, dir) {
			written[p.Decision]++
			d, known := byID[p.Decision]
			if !known || d.Region != region || (d.Verb == "permit") != (p.UpTo != nil) || p.UpTo != nil && *p.UpTo != deref(d.Position) {
				t.Errorf("%s: permit %+v is of no decision of the hub (%v)", region, p, d)
			}
		}
		for id, n := range written {
			if n != 1 {
				t.Errorf("%s: %d permits were written for %v: it was done twice", region, n, byID[id])
			}
		}
		for _, d := range decided {
			if d.Region == region && d.Stage == "done" && (d.Verb == "permit" || d.Verb == "withdraw") && written[d.ID] != 1 {
				t.Errorf("%s: the hub says that it is done, and it is not in the bucket: %v", region, d)
			}
		}
		sums := map[string]hash.Hash{} // of each partition
		err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(dir, name)
			if err != nil || e.IsDir() || strings.HasPrefix(rel, ".quarry") {
				return err
			}
			partition := filepath.Join(strings.Split(rel, string(filepath.Separator))[:2]...)
			if sums[partition] == nil {
				sums[partition] = sha256.New()
			}
			fmt.Fprintf(sums[partition], "%s %x\n", rel, sha256.Sum256(read(t, name)))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, partition := range slices.Sorted(maps.Keys(sums)) {
			add("%s: %s, all objects: %x", region, partition, sums[partition].Sum(nil)[:8])
		}
	}
	for _, what := range []string{"policies", "holds", "freezes"} {
		l, err := get[struct {
			Name     string `json:"name"`
			Scope    any    `json:"scope"`
			Revision uint64 `json:"revision"`
		}](l.hub, t, what)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range l.Items {
			b, _ := json.Marshal(x)
			add("%s: %s", what, b)
		}
	}
	if o := l.hub.cli(t, "audit", "--verify"); o.code != 0 {
		t.Errorf("the audit: exit %d, %s%s", o.code, o.stdout, o.stderr)
	}
	if o := l.hub.cli(t, "get", "regions", "-o", "name"); o.code == 0 {
		add("regions: %s", strings.Join(strings.Fields(o.stdout), " "))
	}
	return strings.Join(out, "\n")
}

// What must be among the moments at which they are killed, or the test does not
// test it. More than these are found.
var (
	hubMoments = []string{"ledger: founded", "ledger: applied document/policy", "applied document/hold", "proposed permit", "proposed withdraw", "proposed prune",
		"sent ", "done permit", "done withdraw", "done prune", "ledger: released", "put new ledger/manifest", "put new view/", "put new hubs/", "put new regions/", "put new events/"}
	agentMoments = []string{"put new .quarry/region.json", "put new .quarry/ledger/",
		"permit of archive/0: put new .quarry/taken/", "permit of archive/0: put new .quarry/journal/<id>/1-checked", "permit of archive/0: put new .quarry/journal/<id>/2-permit",
		"permit of archive/0: put new .quarry/permits/", "permit of archive/0: put new .quarry/journal/<id>/9-outcome", "delete .quarry/taken/",
		"withdraw of archive/0: put new .quarry/taken/", "withdraw of archive/0: put new .quarry/journal/<id>/1-checked", "withdraw of archive/0: put new .quarry/permits/",
		"withdraw of archive/0: put new .quarry/journal/<id>/9-outcome",
		"prune of archive/0: put new .quarry/taken/", "prune of archive/0: put new .quarry/journal/<id>/1-checked", "prune of archive/0: put new .quarry/journal/<id>/2-prune-01",
		"replace archive/0/latest.json", "delete archive/0/lsn_", "metadata.json", "prune of archive/0: put new .quarry/journal/<id>/9-outcome"}
)

// A process is killed at each kind of write that it makes, before it and after.
func TestKilledAtEveryWriteItEndsAsAnUndisturbedLifeDoes(t *testing.T) {
	// What every start of a process writes, and the second slate, are for the long
	// version; of a decision's own writes none is left out.
	victims, kills := []string{"hub", "eu"}, func(label string) bool {
		for _, long := range []string{".quarry/check-", ".quarry/duty/", ".quarry/catalog/", "archive/1"} {
			if strings.Contains(label, long) && !strings.HasPrefix(label, "before ledger") && !strings.HasPrefix(label, "after ledger") {
				return false
			}
		}
		return true
	}
	if soak(0, 1) == 1 {
		victims, kills = []string{"hub", "ap", "eu", "us"}, func(string) bool { return true }
	}
	calm := beginLife(t, "", nil)
	calm.live()
	want := calm.end()
	t.Logf("undisturbed:\n%s", want)
	for _, victim := range victims {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			l := beginLife(t, victim, kills)
			l.live()
			l.warden.log(victim)
			if got := l.end(); got != want {
				t.Errorf("it ended as\n%s\nwant\n%s", got, want)
			}
			of := hubMoments
			if victim != "hub" {
				of = agentMoments
			}
			for _, moment := range of {
				for _, when := range []string{"before ", "after "} {
					if !slices.ContainsFunc(l.warden.died, func(label string) bool { return strings.HasPrefix(label, when) && strings.Contains(label, moment) }) {
						t.Errorf("it was not killed %s%q: has the name of that write changed?", when, moment)
					}
				}
			}
		})
	}
}
