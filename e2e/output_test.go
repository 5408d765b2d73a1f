//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// shape is what scripts rely on of a row: field and JSON type. "number?" may
// be null.
type shape map[string]string

var shapes = map[string]shape{
	"placements": {
		"slate": "string", "region": "string", "root": "string", "kind": "string", "registered": "bool", "state": "string",
		"manifest_id": "number?", "writer_epoch": "number?", "compactor_epoch": "number?", "position": "number?", "bytes": "number?",
		"readers": "array", "checkpoints": "array", "position_domain": "string", "incarnation": "string", "lineage": "string",
		"trimmed_to": "number?", "observed_at": "time",
	},
	"restore-points": {
		"slate": "string", "region": "string", "position": "number", "source": "string", "id": "string", "created_at": "time?", "state": "string",
	},
	"regions":  {"name": "string", "state": "string", "membership": "string", "reason": "string", "clusters": "array"},
	"slates":   {"name": "string", "kind": "string", "state": "string", "regions": "array", "lineages": "array", "registered": "bool", "where": "array"},
	"clusters": {"name": "string", "region": "string", "state": "string", "heard_at": "time?"},
	"owners":   {"slate": "string", "region": "string", "root": "string", "owner": "string", "declared": "bool", "writer_epoch": "number?"},
	"findings": {"code": "string", "region": "string", "object": "string", "what": "string", "cure": "string"},
}

var (
	checkpointShape = shape{"id": "string", "name": "string", "manifest_id": "number", "expires": "time?"}
	eventShape      = shape{"seq": "number", "time": "time", "type": "string", "what": "string"}
	spellings       = map[string][]string{
		"placements state":           {"live", "missing", "stale", "unreadable"},
		"restore-points state":       {"listed", "verified", "incomplete", "unreadable"},
		"restore-points source":      {"checkpoint", "snapshot"},
		"regions state":              {"connected", "suspect", "stale", "blind", "reset"},
		"regions membership":         {"joining", "active", "retired"},
		"placements kind":            {"log", "timeseries", "vector", "keyvalue", "buffer", "snapshots", "slatedb"},
		"placements position_domain": {"seq", "log-seq", "lsn", "buffer-seq"},
	}
	whole = regexp.MustCompile(`^[0-9]+$`)
)

func (s shape) check(t *testing.T, what string, row map[string]any) {
	t.Helper()
	for name, typ := range s {
		v, ok := row[name]
		if !ok {
			t.Errorf("%s has no field %s: %v", what, name, row)
			continue
		}
		kind, nullable := strings.CutSuffix(typ, "?")
		if v == nil && nullable {
			continue
		}
		good := false
		switch v := v.(type) {
		case string:
			_, err := time.Parse(time.RFC3339Nano, v)
			good = kind == "string" || kind == "time" && err == nil
		case json.Number:
			good = kind == "number" && whole.MatchString(v.String())
		case bool:
			good = kind == "bool"
		case []any:
			good = kind == "array"
		}
		if !good {
			t.Errorf("%s: %s is %#v, expected %s", what, name, v, typ)
		}
		if known := spellings[what+" "+name]; known != nil && !slices.Contains(known, fmt.Sprint(v)) {
			t.Errorf("%s: %s is %v, expected one of %v", what, name, v, known)
		}
	}
}

// strictly decodes exactly one JSON value and nothing after it.
func strictly(t *testing.T, out string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		t.Fatalf("no JSON: %v: %q", err, out)
	}
	if d.More() {
		t.Fatalf("something follows the JSON: %q", out)
	}
}

// What scripts rely on: the frame, the fields and their types, and nothing but
// JSON on standard output.
func TestJSONIsWhatScriptsRelyOn(t *testing.T) {
	h, _ := fleet(t)
	for resource, want := range shapes {
		t.Run(resource, func(t *testing.T) {
			o := h.cli(t, "get", resource, "-o", "json", "--limit", "0")
			if o.code != 0 || o.stderr != "" {
				t.Fatalf("exit %d: %s", o.code, o.stderr)
			}
			if !regexp.MustCompile(`(?s)^\{\s*"items":`).MatchString(o.stdout) {
				t.Errorf("what was asked for does not come first: %.80s", o.stdout)
			}
			var l struct {
				Items       []map[string]any          `json:"items"`
				AsOf        map[string]map[string]any `json:"as_of"`
				Unreachable []string                  `json:"unreachable"`
			}
			strictly(t, o.stdout, &l)
			if len(l.Items) == 0 {
				t.Fatal("no rows")
			}
			if !slices.Equal(l.Unreachable, []string{"us"}) || l.AsOf["eu"]["state"] != "connected" || l.AsOf["eu"]["age_ms"] == nil {
				t.Errorf("unreachable %v, as_of %v", l.Unreachable, l.AsOf)
			}
			for _, row := range l.Items {
				want.check(t, resource, row)
				for _, field := range []string{"readers", "checkpoints"} {
					if list, ok := row[field].([]any); ok {
						for _, c := range list {
							checkpointShape.check(t, field, c.(map[string]any))
						}
					}
				}
			}

			// The same rows in the other formats.
			names := strings.Fields(must(t, nil, "get", resource, "-o", "name", "--limit", "0", "--hub", h.web))
			if len(names) != len(l.Items) || len(slices.Compact(slices.Clone(names))) != len(names) {
				t.Errorf("-o name: %v for %d rows", names, len(l.Items))
			}
			if out := must(t, nil, "get", resource, "-o", "yaml", "--limit", "0", "--hub", h.web); !strings.HasPrefix(out, "items:\n") || !strings.Contains(out, "\nas_of:\n") || strings.Contains(out, "{") && strings.Contains(out, `":`) {
				t.Errorf("-o yaml: %s", out)
			}
			table := strings.Split(strings.TrimSpace(h.cli(t, "get", resource, "--limit", "0").stdout), "\n")
			wide := strings.Split(strings.TrimSpace(h.cli(t, "get", resource, "-o", "wide", "--limit", "0").stdout), "\n")
			bare := strings.Split(strings.TrimSpace(h.cli(t, "get", resource, "--no-headers", "--limit", "0").stdout), "\n")
			if len(table) != len(l.Items)+1 || len(bare) != len(l.Items) || len(wide) != len(table) || !strings.HasPrefix(wide[0], strings.Fields(table[0])[0]) {
				t.Errorf("table of %d lines, wide %d, without header %d, for %d rows", len(table), len(wide), len(bare), len(l.Items))
			}
			for _, line := range append(table, wide...) {
				if len(regexp.MustCompile(`\s{2,}`).Split(line, -1)) < 3 || strings.HasSuffix(line, " ") && !strings.Contains(table[0], "WHY") {
					t.Errorf("an empty cell: %q", line)
				}
			}
		})
	}
	t.Run("fingerprints are strings", func(t *testing.T) {
		var l struct{ Items []map[string]any }
		strictly(t, h.cli(t, "get", "placements", "-o", "json", "--filter", "kind = snapshots").stdout, &l)
		for _, p := range l.Items {
			if s, _ := p["lineage"].(string); !regexp.MustCompile(`^restate:[0-9]{10,}:[0-9]+$`).MatchString(s) {
				t.Errorf("lineage %v", p["lineage"])
			}
		}
		if len(l.Items) != 2 {
			t.Errorf("%d partitions", len(l.Items))
		}
	})
	t.Run("events", func(t *testing.T) {
		var l struct{ Items []map[string]any }
		strictly(t, h.cli(t, "events", "-o", "json", "--limit", "0").stdout, &l)
		last := int64(0)
		for _, e := range l.Items {
			eventShape.check(t, "event", e)
			if seq, _ := e["seq"].(json.Number).Int64(); seq <= last {
				t.Errorf("event %d after %d", seq, last)
			} else {
				last = seq
			}
		}
		if len(l.Items) < 6 {
			t.Errorf("%d events", len(l.Items))
		}
	})
	t.Run("objects", func(t *testing.T) {
		for args, fields := range map[string][]string{
			"describe slate orders":    {"slate", "placements", "restore_points", "findings", "events"},
			"describe region eu":       {"region", "clusters", "findings", "events"},
			"summary --by region,kind": {"groups", "as_of", "unreachable"},
			"version":                  {"version", "go", "platform"},
			"config get-contexts":      {"current", "contexts"},
		} {
			o := h.cli(t, append(words(args), "-o", "json")...)
			var v map[string]any
			if o.code != 0 {
				t.Fatalf("%s: exit %d: %s", args, o.code, o.stderr)
			}
			strictly(t, o.stdout, &v)
			for _, f := range fields {
				if _, ok := v[f]; !ok {
					t.Errorf("%s has no %s", args, f)
				}
			}
			if o := h.cli(t, append(words(args), "-o", "yaml")...); o.code != 0 || strings.HasPrefix(o.stdout, "{") {
				t.Errorf("%s -o yaml: exit %d: %s", args, o.code, o.stdout)
			}
		}
	})
}

// Filters, orders, fields and limits give what they say.
func TestFilterSortFieldsAndLimit(t *testing.T) {
	h, _ := fleet(t)
	lines := func(args ...string) []string {
		t.Helper()
		return strings.Fields(must(t, nil, append(args, "--hub", h.web)...))
	}
	if got := lines("get", "slates", "-o", "name", "--filter", `kind = "slatedb"`); !slices.Equal(got, []string{"dbs/ledger", "dbs/sessions"}) {
		t.Errorf("filter: %v", got)
	}
	if got := lines("get", "slates", "-o", "name", "--filter", `labels.tier = "gold" AND NOT kind = buffer`); !slices.Equal(got, []string{"orders"}) {
		t.Errorf("filter by label: %v", got)
	}
	up, down := lines("get", "slates", "-o", "name", "--sort-by", "bytes"), lines("get", "slates", "-o", "name", "--sort-by", "bytes desc, name")
	slices.Reverse(down)
	if len(up) != 5 || !slices.Equal(up, down) {
		t.Errorf("sorted up %v, down and reversed %v", up, down)
	}
	// Names are names in one column, so that they can be given back.
	for _, alias := range []string{"slate", "sl", "slates"} {
		if got := lines("get", alias, "orders", "-o", "name"); !slices.Equal(got, []string{"orders"}) {
			t.Errorf("get %s orders: %v", alias, got)
		}
	}
	var l struct{ Items []map[string]any }
	strictly(t, must(t, nil, "get", "placements", "-o", "json", "--fields", "slate,position", "--limit", "2", "--hub", h.web), &l)
	if len(l.Items) != 2 || len(l.Items[0]) != 2 {
		t.Errorf("two fields of two rows: %v", l.Items)
	}
	table := must(t, nil, "get", "slates", "--fields", "name,labels.tier", "--filter", `name = "orders"`, "--hub", h.web)
	if !regexp.MustCompile(`^NAME +LABELS.TIER\norders +gold\n$`).MatchString(table) {
		t.Errorf("fields as columns:\n%s", table)
	}
	o := h.cli(t, "get", "slates", "--limit", "1")
	if strings.Count(o.stdout, "\n") != 2 || !strings.Contains(o.stderr, "--limit 0") {
		t.Errorf("a cut list: %q %q", o.stdout, o.stderr)
	}
	// Where a region is silent a table says so beside the rows.
	if o := h.cli(t, "get", "slates"); !strings.Contains(o.stderr, "us") || strings.Contains(o.stdout, "region us is") {
		t.Errorf("%q %q", o.stdout, o.stderr)
	}
}

// Completion scripts are accepted by their shells, and names come live from
// the hub; when there is none, quickly and silently nothing.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := must(t, nil, "completion", shell)
		if !strings.Contains(script, "__complete") {
			t.Errorf("%s: no completion script: %.200s", shell, script)
		}
		if path, err := exec.LookPath(shell); err == nil {
			c := exec.Command(path, "-n")
			c.Stdin = strings.NewReader(script)
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%s does not take it: %v: %s", shell, err, out)
			}
		}
	}
	h, _ := fleet(t)
	for _, c := range []struct{ args, want string }{
		{"get sl", "slates"},
		{"get slates or", "orders"},
		{"get placements dbs/s", "dbs/sessions"},
		{"get restore-points dbs/", "dbs/ledger"},
		{"describe slate archive/1", "archive/1"},
		{"describe region u", "us"},
		{"region accept e", "eu"},
		{"forget placement ord", "orders"},
		{"slatedb ver", "verify"},
		{"catalog register --kind time", "timeseries"},
		{"get slates -o js", "json"},
	} {
		o := quarry(t, []string{"QUARRY_HUB=" + h.web}, append([]string{"__complete"}, words(c.args)...)...)
		typed := c.args[strings.LastIndex(c.args, " ")+1:]
		var got []string
		for line := range strings.Lines(o.stdout) {
			if name, _, _ := strings.Cut(strings.TrimSpace(line), "\t"); name != "" && name[0] != ':' && strings.HasPrefix(name, typed) { // as the shells do
				got = append(got, name)
			}
		}
		if !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s: %v, expected %s", c.args, got, c.want)
		}
	}
	o := quarry(t, []string{"QUARRY_HUB=" + freePort(t)}, "__complete", "get", "slates", "or")
	if o.code != 0 || strings.TrimSpace(o.stdout) != ":4" || strings.Contains(o.stderr, "unreachable") {
		t.Errorf("without a hub: exit %d: %q %q", o.code, o.stdout, o.stderr)
	}
}

// --hub rules over QUARRY_HUB, that over the context in use; a context named
// by --context rules over QUARRY_HUB.
func TestWhichHub(t *testing.T) {
	a, b := startHub(t, "a"), startHub(t, "b")
	env := []string{"QUARRY_CONFIG=" + filepath.Join(t.TempDir(), "deep", "config.yaml")}
	which := func(env []string, args ...string) string {
		t.Helper()
		return strings.TrimSpace(must(t, env, append([]string{"get", "regions", "-o", "name"}, args...)...))
	}
	must(t, env, "config", "set-context", "one", "--hub", "http://"+a.web)
	must(t, env, "config", "set-context", "two", "--hub", b.web)
	wrong{words("config set-context three --hub ftp://x"), 2, "ftp://x"}.refused(t, env...)
	if got := which(env); got != "a" {
		t.Errorf("the first context is in use: %s", got)
	}
	must(t, env, "config", "use-context", "two")
	if got := strings.TrimSpace(must(t, env, "config", "current-context")); got != "two" {
		t.Error(got)
	}
	if got := which(env); got != "b" {
		t.Errorf("after use-context: %s", got)
	}
	if got := which(env, "--context", "one"); got != "a" {
		t.Errorf("--context: %s", got)
	}
	withHub := append(env, "QUARRY_HUB="+a.web)
	if got := which(withHub); got != "a" {
		t.Errorf("QUARRY_HUB: %s", got)
	}
	if got := which(withHub, "--hub", b.web); got != "b" {
		t.Errorf("--hub over QUARRY_HUB: %s", got)
	}
	if got := which(withHub, "--context", "two"); got != "b" {
		t.Errorf("--context over QUARRY_HUB: %s", got)
	}
	if out := must(t, env, "config", "get-contexts"); !strings.Contains(out, "*         two") {
		t.Errorf("get-contexts:\n%s", out)
	}
	file := strings.TrimPrefix(env[0], "QUARRY_CONFIG=")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v", info, err)
	}
	if err := os.WriteFile(file, []byte("current: one\ncontext: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong{words("get slates"), 2, file + ":2:1: "}.refused(t, env...)
}

// Colour is for terminals, and NO_COLOR and --no-color are the last word.
func TestColour(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		env  []string
		args string
		want bool
	}{
		{[]string{"NO_COLOR="}, "", false}, // no terminal
		{[]string{"NO_COLOR=", "CLICOLOR_FORCE=1"}, "", true},
		{[]string{"NO_COLOR=1", "CLICOLOR_FORCE=1"}, "", false},
		{[]string{"NO_COLOR=", "CLICOLOR_FORCE=1"}, "--no-color", false},
		{[]string{"NO_COLOR=", "CLICOLOR_FORCE=1"}, "-o json", false},
	} {
		out := must(t, c.env, append(words(c.args), "doctor", "--bucket", "file://"+dir)...)
		if got := strings.Contains(out, "\x1b["); got != c.want {
			t.Errorf("%v %s: colour %v", c.env, c.args, got)
		}
	}
}

func TestVersion(t *testing.T) {
	if out := must(t, nil, "version"); !regexp.MustCompile(`^quarry \S+ \(go1\.\S+, \S+/\S+\)\n$`).MatchString(out) {
		t.Errorf("%q", out)
	}
}

// A registration can be made, listed and withdrawn with no hub and no agent.
func TestCatalog(t *testing.T) {
	bucket := "file://" + t.TempDir()
	list := func() (l struct{ Items []map[string]any }) {
		t.Helper()
		strictly(t, must(t, nil, "catalog", "list", "--bucket", bucket, "-o", "json"), &l)
		return l
	}
	if l := list(); l.Items == nil || len(l.Items) != 0 {
		t.Errorf("an empty catalog: %v", l.Items)
	}
	if o := quarry(t, nil, "catalog", "list", "--bucket", bucket); o.code != 0 || o.stdout != "" || !strings.Contains(o.stderr, "catalog register") {
		t.Errorf("an empty catalog teaches nothing: %q %q", o.stdout, o.stderr)
	}
	must(t, nil, "catalog", "register", "--bucket", bucket, "--name", "orders", "--root", "dbs/orders/", "--kind", "log", "--owner", "team-a", "--label", "a=b", "--label", "c=d=e")
	l := list()
	want := map[string]any{"action": "register", "slate": "orders", "root": "dbs/orders", "kind": "log", "owner": "team-a"}
	for k, v := range want {
		if len(l.Items) != 1 || l.Items[0][k] != v {
			t.Fatalf("%s: %v", k, l.Items)
		}
	}
	if labels, _ := l.Items[0]["labels"].(map[string]any); labels["a"] != "b" || labels["c"] != "d=e" {
		t.Errorf("labels %v", labels)
	}
	if out := must(t, nil, "catalog", "list", "--bucket", bucket, "-o", "name"); out != "orders\n" {
		t.Errorf("-o name: %q", out)
	}
	must(t, nil, "catalog", "deregister", "--bucket", bucket, "--name", "orders")
	wrong{[]string{"catalog", "deregister", "--bucket", bucket, "--name", "orders"}, 3, "orders"}.refused(t)
	// A name at two roots has to be said with its root.
	for _, root := range []string{"a", "b"} {
		must(t, nil, "catalog", "register", "--bucket", bucket, "--name", "twice", "--root", root)
	}
	wrong{[]string{"catalog", "deregister", "--bucket", bucket, "--name", "twice"}, 2, "--root"}.refused(t)
	must(t, nil, "catalog", "deregister", "--bucket", bucket, "--name", "twice", "--root", "b")
}
