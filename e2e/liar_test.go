//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// decision is what the tests look at of one.
type decision struct {
	ID       string  `json:"id"`
	Number   uint64  `json:"number"`
	Verb     string  `json:"verb"`
	Slate    string  `json:"slate"`
	Region   string  `json:"region"`
	Position *uint64 `json:"position"`
	Stage    string  `json:"stage"`
	Renewal  bool    `json:"renewal"`
	Term     uint64  `json:"term"`
	Sequence uint64  `json:"sequence"`
	Policy   string  `json:"policy"`
	Reasons  []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"reasons"`
}

func (d decision) String() string {
	b, _ := json.Marshal(d)
	return string(b)
}

func (h *hub) decisions(t testing.TB) ([]decision, error) {
	t.Helper()
	l, err := get[decision](h, t, "decisions")
	return l.Items, err
}

// permit is a permit as it lies in a bucket.
type permit struct {
	Number   uint64    `json:"number"`
	Slate    string    `json:"slate"`
	UpTo     *uint64   `json:"up_to"`
	Decision string    `json:"decision"`
	Term     uint64    `json:"term"`
	Sequence uint64    `json:"sequence"`
	Issued   time.Time `json:"issued"`
	NotAfter time.Time `json:"not_after"`
}

// allPermits are the permits of a bucket, each slate's in their order.
func allPermits(t testing.TB, dir string) (all []permit) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, ".quarry", "permits", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var p permit
		if err := json.Unmarshal(read(t, name), &p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, p)
	}
	return all
}

// rules is the permit with the highest number of a slate; nil: there is none.
func rules(t testing.TB, dir, slate string) (last *permit) {
	t.Helper()
	for _, p := range allPermits(t, dir) {
		if p.Slate == slate && (last == nil || p.Number > last.Number) {
			last = &p
		}
	}
	return last
}

// published waits until a region's bucket permits up to n, and nothing more.
func published(t testing.TB, dir, slate string, n uint64) *permit {
	t.Helper()
	var p *permit
	eventually(t, time.Minute, fmt.Sprintf("a permit of %s up to %d in the bucket", slate, n), func() error {
		if p = rules(t, dir, slate); p == nil {
			return errors.New("there is none")
		}
		if p.UpTo == nil || *p.UpTo != n {
			return fmt.Errorf("%+v", *p)
		}
		return nil
	})
	return p
}

// An agent says that it has published a permit, and has not: the hub looks for
// the object, does not see it, and says so. What was asked for is nowhere shown
// as permitted; the regions beside it are served.
func TestRS11_AnExecutorThatLiesIsFoundOut(t *testing.T) {
	w := &threeMoments{dirs: map[string]string{}, agents: map[string]*proc{}}
	for region, from := range map[string]string{"eu": "current", "us": "lagging", "ap": "current"} {
		w.dirs[region] = t.TempDir()
		copyTree(t, fixture("restate", "three-copies-of-one-cluster", from), filepath.Join(w.dirs[region], "archive"))
	}
	w.hub = startHubAs(t, built(t, gated), []string{"QUARRY_TEST_EFFECT_WITHIN=3s"}, "ap,eu,us")
	liar := startTap(t, w.hub.agents, func(d *quarryv1.Decision) *quarryv1.Outcome {
		return &quarryv1.Outcome{Decision: d.GetId(), Verb: d.GetVerb(), Slate: d.GetSlate(), Sequence: d.GetSequence(), State: "done",
			Saw: &quarryv1.Saw{Permit: proto.Uint64(1), Position: d.Position}}
	})
	w.begin(t, "ap")
	w.begin(t, "us")
	w.agents["eu"] = start(t, nil, "agent", "--region", "eu", "--cluster", "eu-1", "--bucket", "file://"+w.dirs["eu"],
		"--discover", "", "--hub", liar.addr, "--poll", "300ms")
	w.waits(t, "archive/0", "no-policy")
	w.apply(t, archives("{require: {all: true}}"))

	published(t, w.dirs["us"], "archive/0", 425)
	published(t, w.dirs["ap"], "archive/0", 425)
	var lied decision
	eventually(t, time.Minute, "the hub says that it had no effect", func() error {
		all, err := w.decisions(t)
		for _, d := range all {
			if d.Region == "eu" && d.Verb == "permit" && d.Slate == "archive/0" {
				if d.Stage == "done" {
					t.Fatalf("the hub believes it: %v", d)
				}
				if d.Stage == "not-effective" {
					lied = d
					return nil
				}
			}
		}
		return errors.Join(err, fmt.Errorf("%v", all))
	})
	if len(lied.Reasons) == 0 || lied.Reasons[0].Code != "not-effective" {
		t.Errorf("it does not say why: %v", lied)
	}
	if all := allPermits(t, w.dirs["eu"]); len(all) != 0 {
		t.Errorf("permits of eu: %+v; the test does not lie", all)
	}
	// What it was to permit is nowhere shown as permitted.
	slate := w.cli(t, "get", "placements", "--filter", `region = "eu"`, "-o", "json").stdout
	for _, shown := range []string{`"permit":{`, `"up_to":425`, `"trimmed_to":425`} {
		if strings.Contains(strings.ReplaceAll(slate, " ", ""), shown) {
			t.Errorf("%s is shown of eu:\n%s", shown, slate)
		}
	}
	o := w.cli(t, "audit", "-o", "json")
	if !strings.Contains(o.stdout, `"not-effective"`) || !strings.Contains(o.stdout, lied.ID) {
		t.Errorf("the audit does not tell:\n%s%s", o.stdout, o.stderr)
	}
	if o := w.cli(t, "audit", "--verify"); o.code != 0 {
		t.Errorf("the audit: exit %d %s%s", o.code, o.stdout, o.stderr)
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func put(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
