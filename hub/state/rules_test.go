package state_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/regions"
)

// command does what scenarios about rules say, such as "hold orders by=alice".
func (w *world) command(name string, args []string, opt map[string]string) bool {
	by, why := opt["by"], opt["why"]
	switch name {
	case "apply": // the documents follow, indented
		docs, err := regions.ParseDocuments("scenario.yaml", []byte(strings.Join(w.raw, "\n")+"\n"))
		if err != nil {
			w.sent = append(w.sent, "refused: "+err.Error())
			return true
		}
		var changes []regions.Change
		w.step(state.ApplyDocuments{Documents: docs, By: by, Changes: &changes})
		for _, c := range changes {
			w.sent = append(w.sent, fmt.Sprintf("%s %s %s, revision %d", c.Kind, c.Name, c.Change, c.Revision))
		}
	case "remove-policy":
		w.step(state.RemovePolicy{Name: args[0], By: by, Why: why})
	case "release":
		w.step(state.ReleaseHold{Name: args[0], By: by, Why: why})
	case "freeze":
		w.step(state.Freeze{Scope: args[0], By: by, Why: why})
	case "thaw":
		w.step(state.Thaw{Scope: args[0], By: by, Why: why})
	case "join":
		w.step(state.JoinRegion{Region: args[0], By: by, Active: opt["active"] != ""})
	case "retire":
		w.step(state.RetireRegion{Region: args[0], By: by, Why: why})
	case "began":
		n, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			w.t.Fatal(err)
		}
		w.step(state.Office{Term: n})
	default:
		return w.decide(name, args, opt)
	}
	return true
}

// append does what the ledger does.
func (w *world) append(records []state.Record) {
	for _, r := range records {
		if r.Value == nil {
			delete(w.ledger, r.Key)
		} else {
			w.ledger[r.Key] = r.Value
		}
	}
}

func (w *world) replay() {
	for _, k := range slices.Sorted(maps.Keys(w.ledger)) {
		if err := w.s.Replay(state.Record{Key: k, Value: w.ledger[k]}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// showRule shows what is about rules.
func (w *world) showRule(v *view.View, what string) (out []string, ok bool) {
	n := func(p *uint64) string {
		if p == nil {
			return "nothing"
		}
		return strconv.FormatUint(*p, 10)
	}
	switch what {
	case "trim": // show trim NAME [REGION]
		e, err := state.ExplainTrim(v, w.args[0], strings.Join(w.args[1:], ""), w.now)
		if err != nil {
			return []string{"refused: " + err.Error()}, true
		}
		l := string(e.Action)
		if e.UpTo != nil {
			l += " up to " + n(e.UpTo)
		}
		if e.Binding != "" {
			l += ", for " + e.Binding
		}
		if e.Policy.Name != "" {
			l += fmt.Sprintf(", by %s@%d", e.Policy.Name, e.Policy.Revision)
		}
		out = append(out, l)
		for _, r := range e.Regions {
			l := fmt.Sprintf("%s %s %s", r.Region, r.State, n(r.Verified))
			for _, why := range r.Reasons {
				l += " | " + why.String()
			}
			out = append(out, l)
		}
		for _, p := range e.Holds {
			out = append(out, fmt.Sprintf("%s %s from %s", p.Kind, p.ID, n(p.Position)))
		}
		for _, r := range e.Reasons {
			out = append(out, r.String())
		}
		if e.Since != nil {
			out = append(out, "blocked since "+e.Since.Sub(dawn).String())
		}
	case "trims":
		t := state.SumTrims(v, w.now)
		out = append(out, fmt.Sprintf("%d slates, %d permitted, %d blocked", t.Slates, t.Permitted, t.Blocked))
		for _, r := range t.Reasons {
			l := fmt.Sprintf("%s %d", r.Code, r.Slates)
			if r.Since != nil {
				l += " since " + r.Since.Sub(dawn).String()
			}
			out = append(out, l)
		}
	case "rules":
		for p := range v.Policies() {
			out = append(out, fmt.Sprintf("policy %s@%d by %s: %s; trims %q", p.Name, p.Revision, p.AppliedBy, p.Selects, p.Trims))
		}
		for h := range v.Holds() {
			out = append(out, fmt.Sprintf("hold %s@%d by %s: %s; from %d %s", h.Name, h.Revision, h.AppliedBy, h.Selects, h.From, h.Releasing))
		}
		for f := range v.Freezes() {
			out = append(out, fmt.Sprintf("freeze %s by %s: %s", f.Scope, f.By, f.Why))
		}
		for _, r := range w.s.Set().Regions {
			out = append(out, fmt.Sprintf("region %s %s", r.Name, r.Membership))
		}
	case "ledger":
		out = append(out, slices.Sorted(maps.Keys(w.ledger))...)
	case "decisions":
		return w.showDecisions(), true
	default:
		return nil, false
	}
	return out, true
}

const archives = `apiVersion: quarry/v1
kind: Policy
metadata: {name: archives}
select: {kinds: [snapshots]}
trim: {require: {all: true}}
`

// A record that cannot be understood may be the one that holds something back.
func TestReplayRefusesWhatItDoesNotUnderstand(t *testing.T) {
	set, err := regions.Parse([]string{"eu", "us"})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"document/policy/archives": `{"version":1,"kind":"Policy","name":"other","revision":1,"by":"a","at":"2026-01-01T00:00:00Z","source":""}`,
		"document/policy/a":        `{"version":2,"kind":"Policy","name":"a","revision":1,"by":"a","at":"2026-01-01T00:00:00Z","source":""}`,
		"document/hold/a":          `{"version":1,"kind":"Hold","name":"a","revision":1,"by":"a","at":"2026-01-01T00:00:00Z","source":` + strconv.Quote(archives) + `}`,
		"document/revision":        `{"version":1,"revision":1,"more":1}`,
		"freeze/all":               `{"version":1,"scope":"slate/a","by":"a","at":"2026-01-01T00:00:00Z"}`,
		"region/eu":                `{"version":1,"name":"eu","membership":"perhaps","number":2}`,
		"region/us":                `not JSON`,
	} {
		s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
		if err := s.Replay(state.Record{Key: key, Value: []byte(value)}); !errors.Is(err, state.ErrRecord) {
			t.Errorf("%s: %v", key, err)
		}
	}
	s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
	if err := s.Replay(state.Record{Key: "other/1", Value: []byte("of somebody else")}); err != nil {
		t.Error(err)
	}
}

// Whatever is replayed, nothing panics, and what was taken is shown.
func FuzzReplay(f *testing.F) {
	f.Add("document/policy/archives", `{"version":1,"kind":"Policy","name":"archives","revision":1,"by":"a","at":"2026-01-01T00:00:00Z","source":`+strconv.Quote(archives)+`}`)
	f.Add("freeze/all", `{"version":1,"scope":"all","by":"a","at":"2026-01-01T00:00:00Z"}`)
	f.Add("region/ap", `{"version":1,"name":"ap","membership":"joining","number":2}`)
	f.Add("document/revision", `{"version":1,"revision":7}`)
	f.Fuzz(func(t *testing.T, key, value string) {
		set, err := regions.Parse([]string{"eu", "us"})
		if err != nil {
			t.Fatal(err)
		}
		s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
		if err := s.Replay(state.Record{Key: key, Value: []byte(value)}); err != nil && !errors.Is(err, state.ErrRecord) {
			t.Fatal(err)
		}
		s.Step(state.Tick{}, dawn)
		s.View()
	})
}

// What an applied document says is what is replayed, word for word, and applied
// again it changes nothing.
func TestDocumentsComeBackAsTheyWereApplied(t *testing.T) {
	set, err := regions.Parse([]string{"eu", "us"})
	if err != nil {
		t.Fatal(err)
	}
	text := archives + `windows:
  - {allow: [trim], cron: "0 1-5 * * 1-5", tz: Europe/Berlin}
  - {deny: [all], from: 2026-12-20, to: 2027-01-02, reason: freeze}
---
# Somebody looks into this.
apiVersion: quarry/v1
kind: Hold
metadata: {name: case-4711}
select: {names: ["orders*"]}
scope: [trim, delete]
until: 2027-01-31
legal: true
`
	docs, err := regions.ParseDocuments("a.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
	r := s.Step(state.ApplyDocuments{Documents: docs, By: "alice"}, dawn)
	if r.Err != nil || len(r.Records) != 5 { // two of them of the audit
		t.Fatalf("%v, %d records", r.Err, len(r.Records))
	}
	again := state.New(state.Config{}, state.Saved{Regions: set}, dawn)
	for _, rec := range r.Records {
		if err := again.Replay(rec); err != nil {
			t.Fatal(err)
		}
	}
	a, b := s.View(), again.View()
	if x, y := slices.Collect(a.Policies()), slices.Collect(b.Policies()); len(y) != 1 || *x[0] != *y[0] {
		t.Errorf("policies: %+v, were %+v", y, x)
	}
	if x, y := slices.Collect(a.Holds()), slices.Collect(b.Holds()); len(y) != 1 || x[0].Document != y[0].Document || !x[0].Until.Equal(*y[0].Until) {
		t.Errorf("holds: %+v, were %+v", y, x)
	}
	var changes []regions.Change
	if r := again.Step(state.ApplyDocuments{Documents: docs, By: "bob", Changes: &changes}, dawn); r.Err != nil || len(r.Records) != 0 {
		t.Errorf("applied again: %v, %d records", r.Err, len(r.Records))
	}
	for _, c := range changes {
		if c.Change != regions.Unchanged || c.Revision != 1 {
			t.Errorf("%+v", c)
		}
	}
	if got := again.Rules().Holds[0]; !got.Forbids(regions.ActionTrim, dawn) || got.Forbids(regions.ActionSeed, dawn) {
		t.Errorf("the hold forbids something else: %+v", got)
	}
	if ok, _ := again.Rules().Policies[0].Open(regions.ActionTrim, dawn.AddDate(0, 11, 24)); ok {
		t.Error("the window that denies is gone")
	}
}

// RS-4: a region that joins is heard before anything more is cut, whatever
// atLeast says, and no permit of that time exceeds the one before.
func TestRS4_AJoiningRegionIsHeardFirst(t *testing.T) {
	out := play(t, `regions eu us
apply by=alice
  apiVersion: quarry/v1
  kind: Policy
  metadata: {name: archives}
  select: {kinds: [snapshots]}
  trim: {require: {atLeast: 1}}
hello 1 eu a bucket=E
beat 1 bucket=E
snapshot 1 upto=2
  slate a pos=90 kind=snapshots lin=X rev=1
  point a s9 verified pos=90 lin=X rev=2
hello 2 us a bucket=U
beat 2 bucket=U
snapshot 2 upto=2
  slate a pos=60 kind=snapshots lin=X rev=1
  point a s6 verified pos=60 lin=X rev=2
show trim a
----

join ap by=bob
show trim a
----

hello 3 ap a bucket=A
beat 3 bucket=A
snapshot 3 upto=1 empty=yes
show trim a
----

delta 3 upto=3
  slate a pos=70 kind=snapshots lin=X rev=2
  point a s7 verified pos=70 lin=X rev=3
show trim a
----
`)
	for _, want := range []string{"permit up to 90, for eu", "wait, by archives@1", "region-joining", "permit up to 70, for ap"} {
		if !strings.Contains(out, want) {
			t.Errorf("nobody says %q:\n%s", want, out)
		}
	}
}
