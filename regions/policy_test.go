package regions

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

const smallest = `apiVersion: quarry/v1
kind: Policy
metadata: {name: archives}
select: {kinds: [snapshots]}
trim:
  require: {all: true}            # or {atLeast: 2, include: [ams]}
  safetyGap: {positions: 0}       # optional, also age
restorePoints: {perRegion: 1}
`

const full = `apiVersion: quarry/v1
kind: Policy
metadata: {name: logs-prod, owner: team-data}
select:
  labels: {env: prod}
  kinds: [log, snapshots]
  regions: ["eu-*", us-east-1]
  names: ["orders*"]
  except: {labels: {legal: "yes"}}
trim:
  require: {atLeast: 2, include: [eu-west-1]}
  safetyGap: {positions: 1000, age: 10m}
  keepNewest: {age: 24h}
  maxLag: {positions: 100000, age: 1h, then: alert}
restorePoints:
  perRegion: 3
  total: 4
  maxAgeOfNewest: 6h
  keep: {hourly: 24, daily: 7, weekly: 4}
  sweepOrphans: {olderThan: 48h, enabled: false}
delete:
  requires: [no-writer, no-reader, no-clone, backlog-zero, owner-ack]
  quiet: 30m
  undoWindow: 7d
  approvals: {count: 2, groups: [sre, team-data]}
  final: {archiveTo: eu-west-1, proof: verified}
seed: {sources: nearest, maxBytesPerSecond: 50MiB, concurrency: 8, verify: full}
windows:
  - {allow: [trim, prune, delete], cron: "0 1-5 * * 1-5", tz: Europe/Berlin}
  - {deny: [all], from: 2026-12-20, to: 2027-01-02, reason: freeze}
limits: {perHour: {slates: 5, bytesPercent: 2}, breaker: {ackTTL: 15m}}
---
apiVersion: quarry/v1
kind: Hold
metadata: {name: case-4711}
select: {names: [orders]}
scope: [trim, prune, delete]
from: {position: 0}
until: released
enforce: checkpoint
`

func parse(t *testing.T, s string) Documents {
	t.Helper()
	d, err := ParseDocuments("p.yaml", []byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAPolicyIsReadAsWritten(t *testing.T) {
	p := parse(t, smallest).Policies[0]
	if p.Name != "archives" || !p.Trim.Require.All || p.RestorePoints.PerRegion != 1 || p.Select.Kinds[0] != catalog.KindSnapshots {
		t.Errorf("read %+v", p)
	}
	d := parse(t, full)
	p, h := d.Policies[0], d.Holds[0]
	switch {
	case p.Owner != "team-data", p.Trim.Require.AtLeast != 2, p.Trim.SafetyGap != Gap{1000, Duration(10 * time.Minute)}, p.Trim.MaxLag.Then != ThenAlert,
		p.RestorePoints.PerRegion != 3, p.RestorePoints.SweepOrphans.OlderThan != Duration(48*time.Hour), p.Delete.UndoWindow != Duration(7*24*time.Hour),
		p.Seed.MaxBytesPerSecond != 50<<20, p.Limits.PerHour.BytesPercent != 2, p.Limits.Breaker.AckTTL != Duration(15*time.Minute):
		t.Errorf("read %+v", p)
	}
	if h.Name != "case-4711" || h.Until != nil || h.Enforce != "checkpoint" || !h.Forbids(ActionTrim, time.Unix(1e10, 0)) || h.Forbids(ActionSeed, time.Unix(0, 0)) {
		t.Errorf("read %+v", h)
	}
}

// Whatever is wrong refuses the whole file, and says where and what would be right.
func TestAWrongPolicySaysWhereItIsWrong(t *testing.T) {
	for _, c := range []struct{ old, wrong, where, says string }{
		{"kinds: [snapshots]", "kinds: [snapshot]", "p.yaml:4:18", "one of [log"},
		{"require: {all: true}", "requires: {all: true}", "p.yaml:6:3", "unknown field"},
		{"require: {all: true}", "require: {}", "p.yaml:6:", "atLeast: 2"},
		{"require: {all: true}", "require: {all: true, atLeast: 1}", "p.yaml:6:", "say one"},
		{"require: {all: true}", "require: {atLeast: -1}", "p.yaml:6:", "at least 1"},
		{"require: {all: true}", "require: {all: [x]}", "p.yaml:6:", ""},
		{"safetyGap: {positions: 0}", "safetyGap: {age: soon}", "p.yaml:7:", "such as 10m"},
		{"safetyGap: {positions: 0}", "safetyGap: {positions: -1}", "p.yaml:7:", ""},
		{"safetyGap: {positions: 0}", "maxLag: {age: 1h, then: sing}", "p.yaml:7:", "one of alert"},
		{"perRegion: 1", "perRegion: -1", "p.yaml:8:", "between 1 and 10000"},
		{"perRegion: 1", "sweepOrphans: {enabled: true}", "p.yaml:8:", "at least 10m"},
		{"name: archives", "name: ''", "p.yaml:3:", "1 to 63"},
		{"kind: Policy", "kind: Polcy", "p.yaml:2:", "Policy or Hold"},
		{"apiVersion: quarry/v1", "apiVersion: quarry/v2", "p.yaml:1:", "reads quarry/v1"},
		{"select: {kinds: [snapshots]}", "select: {names: ['']}", "p.yaml:4:", "selects nothing"},
		{"select: {kinds: [snapshots]}", "select: {kinds: [snapshots], kinds: [log]}", "p.yaml:4:", ""},
		{"select: {kinds: [snapshots]}", "select: {regions: ['a b']}", "p.yaml:4:", "a pattern such as eu-*"},
		{"restorePoints: {perRegion: 1}", "windows: [{allow: [trim], cron: '61 * * * *'}]", "p.yaml:8:", "five fields"},
		{"restorePoints: {perRegion: 1}", "windows: [{allow: [trim], cron: '1 * * * *', tz: Mars/Olympus}]", "p.yaml:8:", "Europe/Berlin"},
		{"restorePoints: {perRegion: 1}", "windows: [{deny: [trim]}]", "p.yaml:8:", "say when"},
		{"restorePoints: {perRegion: 1}", "windows: [{deny: [trim], from: 2027-01-02, to: 2026-01-02}]", "p.yaml:8:", "not after"},
		{"restorePoints: {perRegion: 1}", "---\napiVersion: quarry/v1\nkind: Policy\nmetadata: {name: archives}\ntrim: {require: {all: true}}\n", "p.yaml:11:", "twice"},
		{"restorePoints: {perRegion: 1}", "---\napiVersion: quarry/v1\nkind: Hold\nmetadata: {name: h}\n", "p.yaml:9:", "names what it holds"},
		{smallest, "", "p.yaml", "no document"},
		{smallest, "- 1\n", "p.yaml", "mapping"},
		{smallest, "a: [", "p.yaml:1:", ""},
	} {
		text := strings.Replace(smallest, c.old, c.wrong, 1)
		if text == smallest {
			t.Fatalf("%q is not in the policy", c.old)
		}
		d, err := ParseDocuments("p.yaml", []byte(text))
		if !errors.Is(err, ErrInvalid) || len(d.Policies)+len(d.Holds) != 0 {
			t.Errorf("%s: read %+v, %v", c.wrong, d, err)
			continue
		}
		if !strings.HasPrefix(err.Error(), c.where) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s:\n%v\nwant %s … %s", c.wrong, err, c.where, c.says)
		}
		t.Log(err)
	}
}

func TestASelectionMeansWhatItSays(t *testing.T) {
	p := parse(t, full).Policies[0]
	orders := Subject{Name: "orders/eu", Kind: catalog.KindLog, Labels: map[string]string{"env": "prod"}}
	if !p.Select.Matches(orders) {
		t.Error("it does not select orders/eu")
	}
	for why, s := range map[string]Subject{
		"another name":   {Name: "payments", Kind: catalog.KindLog, Labels: map[string]string{"env": "prod"}},
		"another kind":   {Name: "orders", Kind: catalog.KindVector, Labels: map[string]string{"env": "prod"}},
		"another label":  {Name: "orders", Kind: catalog.KindLog, Labels: map[string]string{"env": "dev"}},
		"without labels": {Name: "orders", Kind: catalog.KindLog},
		"excepted":       {Name: "orders", Kind: catalog.KindLog, Labels: map[string]string{"env": "prod", "legal": "yes"}},
	} {
		if p.Select.Matches(s) {
			t.Errorf("it selects one of %s", why)
		}
	}
	set, err := Parse([]string{"eu-north", "eu-west-1", "us-east-1", "us-west-1"})
	if err != nil {
		t.Fatal(err)
	}
	set.Get("eu-north").Membership = catalog.Retired
	var names []string
	for _, r := range p.Required(set) {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, " "); got != "eu-west-1 us-east-1" {
		t.Errorf("required are %s", got)
	}
	if err := p.CheckIn(set); err != nil {
		t.Error(err)
	}
	p.Trim.Require.AtLeast = 3
	if err := p.CheckIn(set); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "2 active") {
		t.Errorf("more regions are required than there are: %v", err)
	}
	p.Trim.Require = Require{All: true, Include: []string{"us-west-1"}}
	if err := p.CheckIn(set); !errors.Is(err, ErrInvalid) {
		t.Errorf("a region that is not selected is included: %v", err)
	}
	p.Trim.Require.Include, p.Select.Regions = nil, []string{"mars"}
	if err := p.CheckIn(set); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "mars") {
		t.Errorf("a region that is not there: %v", err)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		is            bool
	}{
		{"*", "", true}, {"*", "dbs/orders", true}, {"orders*", "orders", true}, {"orders*", "border", false}, {"*/0", "archive/0", true},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "aXbYbZ", false}, {"", "", true}, {"", "a", false}, {"**a", "ba", true},
	} {
		if Glob(c.pattern, c.name) != c.is {
			t.Errorf("Glob(%q, %q) is %v", c.pattern, c.name, !c.is)
		}
	}
}

func TestWindows(t *testing.T) {
	p := parse(t, full).Policies[0]
	for _, c := range []struct {
		when string
		a    Action
		open bool
		why  string
	}{
		{"2026-11-23T00:30:00Z", ActionTrim, true, ""},                       // Monday 01:30 in Berlin
		{"2026-11-23T04:59:59Z", ActionTrim, true, ""},                       // 05:59:59
		{"2026-11-23T05:00:00Z", ActionTrim, false, "allowed only at 0 1-5"}, // 06:00
		{"2026-11-22T00:30:00Z", ActionTrim, false, "allowed only at"},       // Sunday
		{"2026-11-22T00:30:00Z", ActionSeed, true, ""},                       // no window speaks of it
		{"2026-12-19T23:59:59Z", ActionSeed, true, ""},
		{"2026-12-20T00:00:00Z", ActionSeed, false, "freeze"},               // midnight
		{"2026-12-21T00:30:00Z", ActionTrim, false, "denied to 2027-01-02"}, // allowed and denied
		{"2027-01-02T23:59:59Z", ActionSeed, false, "freeze"},               // the last day is of it
		{"2027-01-03T00:00:00Z", ActionSeed, true, ""},                      // and the next is not
	} {
		now, err := time.Parse(time.RFC3339, c.when)
		if err != nil {
			t.Fatal(err)
		}
		open, why := p.Open(c.a, now)
		if open != c.open || !strings.Contains(why, c.why) {
			t.Errorf("%s %s: %v %q", c.when, c.a, open, why)
		}
	}
}

func TestDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{"10m": 10 * time.Minute, "7d": 168 * time.Hour, "2w": 336 * time.Hour, "36h": 36 * time.Hour, "0s": 0, "90s": 90 * time.Second} {
		d, err := ParseDuration(s)
		if err != nil || time.Duration(d) != want {
			t.Errorf("%s is %v, %v", s, d, err)
		}
		if back, err := ParseDuration(d.String()); err != nil || back != d {
			t.Errorf("%s is written %s, read back %v, %v", s, d, back, err)
		}
	}
	for _, s := range []string{"", "-1m", "1", "d", "99999999d", "1y", "-3d"} {
		if d, err := ParseDuration(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is %v, %v", s, d, err)
		}
	}
}

// A small file takes little memory, whatever it is made of.
func TestWhatIsNestedTooDeeplyIsRefusedBeforeItIsParsed(t *testing.T) {
	for _, unit := range []string{"[", "{", "- ", "[a: ", "{a: ", "[- ", "[}", "{]", "{? a: ", "[a, ", "[!a ", "[\n---\n", "- - \"x\n", "---\n"} {
		text := strings.Repeat(unit, 48_000)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseDocuments("f.yaml", []byte(text))
		runtime.ReadMemStats(&after)
		var d *DocumentError
		if !errors.Is(err, ErrInvalid) || !errors.As(err, &d) {
			t.Errorf("%q: %v", unit, err)
		}
		if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 500 {
			t.Errorf("%q took %d MiB", unit, mib)
		}
	}
	_, err := ParseDocuments("f.yaml", []byte(smallest+"x: "+strings.Repeat("[", 63)))
	if d := (*DocumentError)(nil); !errors.As(err, &d) || strings.Contains(d.Error(), "nested") {
		t.Errorf("so many are not too many: %v", err)
	}
	_, err = ParseDocuments("f.yaml", []byte(smallest+"x: "+strings.Repeat("[", 64)))
	if d := (*DocumentError)(nil); !errors.As(err, &d) || d.Line != 9 || !strings.Contains(d.Error(), "nested more than 64 deep") {
		t.Errorf("%v", err)
	}
	if _, err := ParseDocuments("f.yaml", []byte(smallest+strings.Repeat("---\n"+smallest, 100))); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("what is wide is not deep: %v", err)
	}
}

func FuzzParseDocuments(f *testing.F) {
	f.Add([]byte(smallest))
	f.Add([]byte(full))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte(strings.Repeat("[", 4000)))
	f.Add([]byte(strings.Repeat("- ", 4000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDocuments("f", b)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%v does not wrap ErrInvalid", err)
		}
		for _, p := range d.Policies {
			if p.RestorePoints.PerRegion < 1 || p.Trim != nil && !p.Trim.Require.All && p.Trim.Require.AtLeast < 1 {
				t.Errorf("%q gives %+v", b, p)
			}
		}
	})
}
