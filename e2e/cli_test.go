//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fleet is a hub with one region of everything, and one that nobody reports.
func fleet(t testing.TB) (h *hub, bucket string) {
	t.Helper()
	dir := t.TempDir()
	for to, from := range map[string][]string{
		"logs/orders":  {"opendata", "log-retained", "slate"},
		"dbs/ledger":   {"0.14.1", "checkpoints", "db"},
		"dbs/sessions": {"0.17.0", "reader", "db"},
		"archive":      {"restate", "three-copies-of-one-cluster", "current"},
	} {
		copyTree(t, fixture(from...), filepath.Join(dir, to))
	}
	bucket = "file://" + dir
	must(t, nil, "catalog", "register", "--bucket", bucket, "--name", "orders", "--root", "logs/orders", "--owner", "team-a", "--contact", "#team-a", "--label", "tier=gold")
	// Which one stands is for people to settle: a finding.
	must(t, nil, "catalog", "register", "--bucket", bucket, "--name", "bestellungen", "--root", "logs/orders", "--owner", "team-b")
	h = startHub(t, "eu,us")
	startAgent(t, h, "eu", bucket, nil)
	eventually(t, 20*time.Second, "the region is in", func() error {
		l, err := get[placement](h, t, "placements")
		if err == nil && len(l.Items) != 5 {
			err = fmt.Errorf("%d placements", len(l.Items))
		}
		return err
	})
	return h, bucket
}

// wrong is a command line that cannot work.
type wrong struct {
	args []string
	code int
	says string // part of its one line
}

func words(s string) []string { return strings.Fields(s) }

// refused checks that one line on stderr says what is wrong, and nothing is on
// stdout.
func (w wrong) refused(t *testing.T, env ...string) {
	t.Helper()
	o := quarry(t, env, w.args...)
	line := strings.TrimSuffix(o.stderr, "\n")
	if o.code != w.code || o.stdout != "" || strings.Contains(line, "\n") || !strings.HasPrefix(line, "quarry: ") || !strings.Contains(line, w.says) {
		t.Errorf("quarry %q\nexit %d, expected %d and one line with %q\nstdout %q\nstderr %q", w.args, o.code, w.code, w.says, o.stdout, o.stderr)
	}
	if len(line) > 700 {
		t.Errorf("quarry %q: %d characters are no clear line: %s", w.args, len(line), line)
	}
}

// Whatever is wrong with a command line is one line and the documented code,
// before anybody is asked.
func TestBadCommandLines(t *testing.T) {
	dir := t.TempDir()
	here := "file://" + dir
	for _, w := range []wrong{
		{words("bogus"), 2, "quarry --help"},
		{words("gett slates"), 2, "get?"},
		{words("describe"), 0, ""},
		{words("describe cluster x"), 2, "unknown command"},
		{words("slatedb bogus"), 2, "unknown command"},
		{words("help bogus"), 2, "bogus"},
		{words("completion tcsh"), 2, "bash"},
		{words("get"), 2, "slates"},
		{words("get bogus"), 2, "restore-points"},
		{words("get events"), 2, "quarry events"},
		{words("get slates a b"), 2, `"b"`},
		{words("get slates --bogus"), 2, "--bogus"},
		{words("get slates --limit -1"), 2, "--limit"},
		{words("get slates --limit many"), 2, "--limit"},
		{words("get slates --watch --sort-by name"), 2, "--sort-by"},
		{words("get slates -o xml"), 2, "table, wide, json, yaml, name"},
		{words("version -o xml"), 2, "table, wide, json, yaml, name"},
		{words("version please"), 2, "please"},
		{words("--hub ftp://x get slates"), 2, "ftp://x"},
		{words("--hub http://[::1 get slates"), 2, "http://127.0.0.1:7700"},
		{words("--context nope get slates"), 2, "set-context nope"},
		{words("config set-context prod"), 2, "--hub"},
		{words("config use-context prod"), 3, "prod"},
		{words("config current-context"), 3, "127.0.0.1:7700"},
		{words("region accept eu"), 2, "--yes"},
		{words("approve"), 2, "approve ID"},
		{words("refuse a b"), 2, "refuse ID"},
		{words("approve xyz --yes"), 3, "quarry get decisions"},
		{words("describe decision xyz"), 3, "quarry get decisions"},
		{words("get decisions xyz"), 3, "quarry get decisions"},
		{words("trim"), 2, "trim NAME"},
		{words("trim a --up-to -1"), 2, "--up-to"},
		{words("trim a --dry-run --yes"), 2, "--dry-run"},
		{words("trim a --wait --timeout 0s"), 2, "--timeout"},
		{words("prune"), 2, "prune NAME"},
		{words("prune a --dry-run --yes"), 2, "--dry-run"},
		{words("prune a --wait --timeout 0s"), 2, "--timeout"},
		{words("archives a b"), 2, "archives [NAME]"},
		{words("breaker open"), 2, "unknown command"},
		{words("breaker close"), 2, "--slates"},
		{words("breaker close --slates -3 --why x"), 2, "--slates"},
		{words("breaker close --slates 3"), 2, "--why"},
		{words("forget placement orders --yes"), 2, "--region"},
		{words("forget placement orders --region eu"), 2, "--yes"},

		{words("slatedb verify"), 2, "ROOT"},
		{words("slatedb verify file:///nonexistent/db"), 3, "/nonexistent/db"},
		{words("slatedb verify --bucket " + here + " db"), 3, "db"},
		{words("slatedb scan nosuch://x"), 2, "s3://"},
		{words("slatedb scan s3://x?bogus=1"), 2, "bogus"},
		{words("slatedb get --bucket " + here + " db"), 2, "--key-hex"},
		{words("slatedb get --bucket " + here + " db --key-hex zz"), 2, "--key-hex"},
		{words("slatedb get --bucket " + here + " db --key a --key-hex 61"), 2, "--key-hex"},
		{words("slatedb scan --bucket " + here + " db --prefix-hex 61 --to-hex 62"), 2, "--prefix-hex"},

		{words("catalog list"), 2, "--bucket"},
		{words("catalog list --bucket file:///nonexistent"), 3, "/nonexistent"},
		{words("catalog register --bucket " + here), 2, "--name"},
		{words("catalog register --bucket " + here + " --name a"), 2, "--root"},
		{words("catalog register --bucket " + here + " --name a --root b --kind blob"), 2, "timeseries"},
		{words("catalog register --bucket " + here + " --name a --root b --label x"), 2, "key=value"},
		{words("catalog register --bucket " + here + " --name a --root ../b"), 2, "root"},
		{words("catalog deregister --bucket " + here + " --name a"), 3, "catalog list"},
		{words("doctor"), 2, "--bucket"},
		{words("doctor --bucket file:///nonexistent"), 3, "/nonexistent"},

		{words("hub --listen 0.0.0.0:7700 --regions eu"), 2, "loopback"},
		{words("hub --agent-listen example.com:1 --regions eu"), 2, "agent-listen"},
		{words("hub --listen nowhere --regions eu"), 2, "listen"},
		{words("hub --beat 0s"), 2, "beat"},
		{words("hub --beat soon"), 2, "--beat"},
		{words("hub --stale-after 1s"), 2, "stale-after"},
		{words("hub --log-level loud"), 2, "log-level"},
		{words("hub --log-format xml"), 2, "log-format"},
		{words("hub --regions a,B/x"), 2, "regions"},
		{words("hub --store nosuch://x --regions eu"), 2, "nosuch"},
		{words("hub --store file:///nonexistent --regions eu"), 3, "/nonexistent"},
		{words("hub --listen 127.0.0.1:0 --agent-listen 127.0.0.1:0 --store " + here + "/hub?create=true"), 4, "--regions"},
		{words("hub --config /nonexistent.yaml"), 2, "/nonexistent.yaml"},
		{words("agent"), 2, "region"},
		{words("agent --region eu"), 2, "cluster"},
		{words("agent --region eu --cluster eu-1"), 2, "bucket"},
		{words("agent --region eu --cluster eu-1 --bucket nosuch://x --discover a"), 2, "nosuch"},
		{words("agent --region eu --cluster eu-1 --bucket nosuch://x --discover a --check"), 2, "nosuch"},
		{words("agent --region eu --cluster eu-1 --bucket file:///nonexistent --discover a"), 3, "/nonexistent"},
		{words("agent --region eu --cluster eu-1 --bucket " + here + " --discover ../a"), 2, "discover"},
		{words("agent --region eu --cluster eu-1 --bucket " + here + " --discover a --hub nowhere"), 2, "hub"},
		{words("agent --region eu --cluster eu-1 --bucket " + here + " --discover a --budget lots"), 2, "budget"},
		{words("agent --region eu --cluster eu-1 --bucket " + here + " --discover a --exclude ["), 2, "exclude"},
		{words("agent --region eu --cluster eu-1 --bucket " + here + " --discover a --poll 1"), 2, "--poll"},
		{words("agent --config /nonexistent.yaml"), 2, "/nonexistent.yaml"},
		{words("demo --listen 0.0.0.0:1"), 2, "loopback"},
		{words("demo --log-level loud"), 2, "log-level"},
	} {
		if w.code == 0 {
			if o := quarry(t, nil, w.args...); o.code != 0 || !strings.Contains(o.stdout, "Available Commands") || o.stderr != "" {
				t.Errorf("quarry %q: exit %d\n%s%s", w.args, o.code, o.stdout, o.stderr)
			}
			continue
		}
		w.refused(t)
	}
}

// A configuration file that cannot be used is refused with file, line and
// field, with --check and without.
func TestBadConfigurationFiles(t *testing.T) {
	for _, c := range []struct {
		name, role, body string
		at, says         string // line:column and field
	}{
		{"a misspelled field", "hub", "listen: 127.0.0.1:0\nbeet: 5s\n", ":2:1", "beet"},
		{"a duration that is none", "hub", "listen: 127.0.0.1:0\nbeat: soon\n", ":2:1", "beat"},
		{"a value that cannot be", "hub", "beat: 5s\n\nstale-after: 6s\n", ":3:1", "stale-after"},
		{"an address for the world", "hub", "# the hub\nagent-listen: 0.0.0.0:7701\n", ":2:1", "agent-listen"},
		{"text where a list is due", "hub", "regions: eu\n", ":1:10", "regions"},
		{"a log level that is none", "hub", "regions: [eu]\nlog-level: loud\n", ":2:1", "log-level"},
		{"no YAML", "hub", "listen: \"127\n", ":1:9", ""},
		{"a misspelled field", "agent", "region: eu\ncluster: eu-1\nbucket: file:///tmp\ndiscover: [a]\nhubb: x\n", ":5:1", "hubb"},
		{"a duration that is none", "agent", "region: eu\npoll: fast\n", ":2:1", "poll"},
		{"a budget that is none", "agent", "region: eu\ncluster: eu-1\nbucket: file:///tmp\ndiscover: [a]\nbudget: lots\n", ":5:1", "budget"},
		{"a hub that is no address", "agent", "region: eu\ncluster: eu-1\nbucket: file:///tmp\ndiscover: [a]\nhub: nowhere\n", ":5:1", "hub"},
		{"text where a list is due", "agent", "region: eu\ndiscover: dbs\n", ":2:11", "discover"},
		{"a glob that is none", "agent", "region: eu\ncluster: eu-1\nbucket: file:///tmp\ndiscover: [a]\nexclude: ['[']\n", ":5:1", "exclude"},
		{"something needed that is not there", "agent", "region: eu\n", "", "cluster"},
	} {
		t.Run(c.role+": "+c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), c.role+".yaml")
			if err := os.WriteFile(file, []byte(c.body), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, extra := range [][]string{{"--check"}, nil} {
				w := wrong{append([]string{c.role, "--config", file}, extra...), 2, file + c.at + ": "}
				w.refused(t)
				w.says = c.says
				w.refused(t)
			}
		})
	}
}

// --check says that a good file is good, and starts nothing.
func TestGoodConfigurationFiles(t *testing.T) {
	for name, body := range map[string]string{
		"hub":   "listen: 127.0.0.1:7700\nagent-listen: 127.0.0.1:7701\nstore: file:///var/lib/quarry\nregions: [eu, us]\nbeat: 5s\nstale-after: 60s\nlog-level: info\nlog-format: json\n",
		"agent": "region: eu\ncluster: eu-1\nbucket: file:///srv/eu\ndiscover: ['']\nexclude: [tmp]\nhub: 127.0.0.1:7701\npoll: 1s\nbudget: 36000/h\nlog-level: info\nlog-format: text\n",
	} {
		file := filepath.Join(t.TempDir(), name+".yaml")
		if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := must(t, nil, name, "--config", file, "--check"); !strings.Contains(out, "good") {
			t.Error(out)
		}
		// A flag rules over the file, and its value is not the file's fault.
		w := wrong{[]string{name, "--config", file, "--check", "--log-level", "loud"}, 2, "loud"}
		w.refused(t)
		if o := quarry(t, nil, w.args...); strings.Contains(o.stderr, ":7:1") {
			t.Errorf("the file is blamed for a flag: %s", o.stderr)
		}
	}
	// Nothing said is the defaults.
	empty := filepath.Join(t.TempDir(), "hub.yaml")
	if err := os.WriteFile(empty, []byte("# all as it comes\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, nil, "hub", "--config", empty, "--check")
}

// No hub, something that is no hub, and a hub's other port: exit code 6, one
// line, from every command that asks a hub.
func TestNoHubThere(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<html><body>It works!</body></html>")
	}))
	defer page.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	h := startHub(t, "eu")
	for name, at := range map[string]string{"nothing": freePort(t), "a page": page.URL, "a 404": missing.URL, "the agents' port": h.agents} {
		for _, args := range []string{
			"get slates", "get slates -o json", "get slates --watch", "get slates --watch -o json", "describe slate x", "describe region x",
			"get decisions", "describe decision 1", "approve 1 --yes", "refuse 1", "trim x", "trim x --yes -o json", "prune x", "prune x --yes -o json", "archives", "breaker", "breaker close --slates 3 --why x",
			"summary", "events", "events --watch", "region accept eu --yes", "forget placement x --region eu --yes",
		} {
			t.Run(name+": "+args, func(t *testing.T) {
				t.Parallel()
				wrong{append(words(args), "--hub", at), 6, "hub"}.refused(t)
				wrong{words(args), 6, "hub"}.refused(t, "QUARRY_HUB="+at)
			})
		}
	}
}

// What only the hub can know to be wrong.
func TestWhatTheHubRefuses(t *testing.T) {
	h, _ := fleet(t)
	for _, w := range []wrong{
		{[]string{"get", "slates", "nope"}, 3, "nope"},
		{[]string{"get", "regions", "nope"}, 3, "nope"},
		{[]string{"get", "slates", "logs/orders"}, 3, `"orders"`},
		{[]string{"describe", "slate", "nope"}, 3, "nope"},
		{[]string{"describe", "slate", "logs/orders"}, 3, `"orders"`},
		{[]string{"describe", "region", "nope"}, 3, "nope"},
		{[]string{"get", "slates", "--filter", "kind ="}, 2, "kind"},
		{[]string{"get", "slates", "--filter", `knid = "log"`}, 2, "did you mean kind?"},
		{[]string{"get", "slates", "--filter", `bytes > "a"`}, 2, "number"},
		{[]string{"get", "slates", "--filter", `(kind = "log"`}, 2, ""},
		{[]string{"get", "slates", "--sort-by", "siez"}, 2, "siez"},
		{[]string{"get", "slates", "--fields", "nmae", "-o", "json"}, 2, "did you mean name?"},
		{[]string{"get", "slates", "--watch", "--filter", "nope = 1"}, 2, "nope"},
		{[]string{"summary", "--by", "nope"}, 2, "nope"},
		{[]string{"events", "--filter", "nope = 1"}, 2, "nope"},
		{[]string{"get", "slates", "--require-fresh", "1s"}, 7, "us"},
		{[]string{"summary", "--require-fresh", "1s"}, 7, "us"},
		{[]string{"region", "accept", "eu", "--yes"}, 4, "eu"},
		{[]string{"describe", "decision", "77"}, 3, "77"},
		{[]string{"get", "decisions", "77"}, 3, "77"},
		{[]string{"approve", "77", "--yes"}, 3, "77"},
		{[]string{"trim", "nope", "--yes"}, 3, "nope"},
		{[]string{"prune", "nope", "--yes"}, 3, "nope"},
		{[]string{"archives", "nope"}, 3, "nope"},
		{[]string{"refuse", "77"}, 3, "77"},
		{[]string{"get", "decisions", "--filter", `stage = "thought-of"`}, 2, "thought-of"},
		{[]string{"breaker", "close", "--slates", "3", "--why", "x"}, 4, "nothing to close"},
		{[]string{"region", "accept", "nope", "--yes"}, 3, "nope"},
		{[]string{"forget", "placement", "orders", "--region", "eu", "--yes"}, 4, "live"},
		{[]string{"forget", "placement", "nope", "--region", "eu", "--yes"}, 3, "nope"},
		{[]string{"forget", "placement", "orders", "--region", "nope", "--yes"}, 3, "nope"},
	} {
		w.args = append(w.args, "--hub", h.web)
		w.refused(t)
	}
	// A filter that matches nothing is an answer.
	if o := h.cli(t, "get", "slates", "--filter", `kind = "vector"`); o.code != 0 || o.stdout != "" || !strings.Contains(o.stderr, "No slates match") {
		t.Errorf("exit %d: %q %q", o.code, o.stdout, o.stderr)
	}
	// Ports in use.
	for _, at := range [][2]string{{h.web, freePort(t)}, {freePort(t), h.agents}} {
		wrong{[]string{"hub", "--listen", at[0], "--agent-listen", at[1], "--store", "file://" + t.TempDir(), "--regions", "eu"}, 1, "in use"}.refused(t)
	}
}

// Ctrl-c ends what would go on for ever, with 130 and without a word.
func TestInterruptedWatches(t *testing.T) {
	h, _ := fleet(t)
	for _, args := range []string{"get slates --watch", "get regions -w -o json", "get placements -w -o name", "events --watch"} {
		c := exec.Command(binary, append(words(args), "--hub", h.web)...)
		c.Env = cleanEnv(t)
		var stdout, stderr lockedBuffer
		c.Stdout, c.Stderr = &stdout, &stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, args+" shows something", func() error {
			if stdout.String() == "" {
				return errors.New(stderr.String())
			}
			return nil
		})
		_ = c.Process.Signal(syscall.SIGINT)
		_ = c.Wait()
		if code := c.ProcessState.ExitCode(); code != 130 || stderr.String() != "" {
			t.Errorf("%s: exit %d, stderr %q", args, code, stderr.String())
		}
		if strings.Contains(args, "json") {
			for line := range strings.Lines(stdout.String()) {
				if !json.Valid([]byte(line)) {
					t.Errorf("%s: no JSON: %q", args, line)
				}
			}
		}
	}
}

// A hub that takes the connection and never answers: exit code 8.
func TestAHubThatDoesNotAnswer(t *testing.T) {
	done := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	defer silent.Close()
	defer close(done)
	for _, args := range []string{"get slates", "get slates --watch", "describe slate x", "summary", "events", "events --watch"} {
		wrong{append(words(args), "--hub", silent.URL, "--request-timeout", "300ms"), 8, "--request-timeout"}.refused(t)
	}
}
