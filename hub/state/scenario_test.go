package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

var update = flag.Bool("update", false, "write what scenarios show into their files")

// TestScenarios plays testdata/*.txt. A file is a list of commands; what a
// show command prints stands between its ---- and the next empty line.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(b))
			if got == string(b) {
				return
			}
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("%s plays differently (-update writes this):\n%s", f, got)
		})
	}
}

var dawn = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a hub's state and what it did, for one scenario.
type world struct {
	t     *testing.T
	cfg   state.Config
	s     *state.State
	now   time.Time
	sent  []string
	set   regions.Set
	saved *stored
	log   []catalog.Event
	seen  int // events shown already
	start map[state.SessionID]uint64

	ledger map[string][]byte // what the ledger remembers
	raw    []string          // the indented lines of the command, as they stand
	args   []string          // of a show command
}

func play(t *testing.T, script string) string {
	w := &world{t: t, now: dawn, start: map[state.SessionID]uint64{}, ledger: map[string][]byte{}}
	var out strings.Builder
	lines := strings.Split(strings.TrimSuffix(script, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		fmt.Fprintln(&out, l)
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		f := strings.Fields(l)
		var facts [][]string
		w.raw = nil
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  ") {
			i++
			fmt.Fprintln(&out, lines[i])
			w.raw = append(w.raw, lines[i][2:])
			facts = append(facts, strings.Fields(lines[i]))
		}
		if f[0] == "show" {
			if i+1 < len(lines) && lines[i+1] == "----" {
				for i++; i+1 < len(lines) && lines[i+1] != ""; i++ {
				}
			}
			fmt.Fprintln(&out, "----")
			w.args = f[2:]
			for _, r := range w.show(f[1]) {
				fmt.Fprintln(&out, strings.TrimRight(r, " "))
			}
			continue
		}
		w.do(f, facts)
	}
	return out.String()
}

func (w *world) do(f []string, facts [][]string) {
	w.t.Helper()
	opt := map[string]string{}
	var args []string
	for _, x := range f[1:] {
		if k, v, ok := strings.Cut(x, "="); ok {
			opt[k] = strings.ReplaceAll(v, "_", " ")
		} else {
			args = append(args, x)
		}
	}
	num := func(k string, or uint64) uint64 {
		v, ok := opt[k]
		if !ok {
			return or
		}
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			w.t.Fatalf("%v: %v", f, err)
		}
		return n
	}
	session := func() state.SessionID {
		n, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			w.t.Fatalf("%v: %v", f, err)
		}
		return state.SessionID(n)
	}
	switch f[0] {
	case "regions":
		set, err := regions.Parse(args)
		if err != nil {
			w.t.Fatal(err)
		}
		w.set = set
		w.s = state.New(w.cfg, state.Saved{Regions: set}, w.now)
	case "hello":
		id := session()
		start := num("start", uint64(id))
		w.start[id] = start
		w.step(state.Hello{Session: id, Region: args[1], Cluster: args[2], Agent: fmt.Sprintf("agent-%d", start), Generation: num("gen", start),
			Start: start, BucketID: opt["bucket"], BucketWhy: opt["why"], Decides: opt["old"] == "",
			Obeys: state.Obeys{Known: opt["obeys"] != "", Ledger: opt["obeys"]}})
	case "beat":
		_, blind := opt["blind"]
		w.step(state.Beat{Session: session(), BucketID: opt["bucket"], BucketWhy: opt["why"], ReadOK: !blind, Reason: opt["blind"],
			CannotKeep: opt["cannot-keep"], Obeys: state.Obeys{Known: opt["obeys"] != "", Ledger: opt["obeys"]}, At: catalog.Revision{Start: w.start[session()], Counter: num("at", 0)}})
	case "snapshot", "delta":
		id := session()
		upto := catalog.Revision{Start: w.start[id], Counter: num("upto", 1)}
		var fs []catalog.Fact
		for _, l := range facts {
			fs = append(fs, w.fact(l, upto))
		}
		if f[0] == "delta" {
			w.step(state.Delta{Session: id, Facts: fs, Upto: upto})
		} else {
			w.step(state.Snapshot{Session: id, Facts: fs, Upto: upto, Empty: opt["empty"] != ""})
		}
	case "fill": // fill 1 upto=3 count=40: a snapshot of so many slates
		id := session()
		upto := catalog.Revision{Start: w.start[id], Counter: num("upto", 1)}
		var fs []catalog.Fact
		for i := range num("count", 0) {
			fs = append(fs, w.fact([]string{"slate", fmt.Sprintf("db-%03d", i), "m=1"}, upto))
		}
		w.step(state.Snapshot{Session: id, Facts: fs, Upto: upto})
	case "quarantined":
		w.step(state.Quarantined{Session: session(), Kind: args[1], Key: args[2], Why: opt["why"]})
	case "closed":
		w.step(state.Closed{Session: session()})
	case "tick":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			w.t.Fatal(err)
		}
		w.now = w.now.Add(d)
		w.step(state.Tick{})
	case "run": // run 1 25m bucket=B at=1: beats every 5 s for so long
		d, err := time.ParseDuration(args[1])
		if err != nil {
			w.t.Fatal(err)
		}
		for till := w.now.Add(d); w.now.Before(till); {
			w.now = w.now.Add(5 * time.Second)
			w.step(state.Beat{Session: session(), BucketID: opt["bucket"], ReadOK: true, At: catalog.Revision{Start: w.start[session()], Counter: num("at", 0)}})
			w.step(state.Tick{})
		}
	case "accept":
		w.step(state.AcceptRegion{Region: args[0], By: args[1]})
	case "forget":
		w.step(state.ForgetPlacement{Region: args[0], Slate: args[1], By: args[2]})
	case "save":
		w.save()
	case "restart": // cleanly: the view was saved last
		w.save()
		w.revive()
	case "crash": // the view is the one last saved
		w.revive()
	default:
		if !w.command(f[0], args, opt) {
			w.t.Fatalf("unknown command %q", f[0])
		}
	}
}

func (w *world) save() {
	w.saved = store(w.t, w.s.View())
}

// stored is a view as the ledger saves it.
type stored struct{ beside, placements, slates []byte }

func store(t interface{ Fatal(...any) }, v *view.View) *stored {
	var out stored
	var placements, slates bytes.Buffer
	var err error
	if out.beside, err = json.Marshal(state.Beside(v)); err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(v.WritePlacements(&placements), v.WriteSlates(&slates)); err != nil {
		t.Fatal(err)
	}
	out.placements, out.slates = placements.Bytes(), slates.Bytes()
	return &out
}

// read is what is read back, nil when nothing was saved.
func (v *stored) read(t interface{ Fatal(...any) }) *state.SavedView {
	if v == nil {
		return nil
	}
	out := new(state.SavedView)
	if err := json.Unmarshal(v.beside, out); err != nil {
		t.Fatal(err)
	}
	var err error
	if out.Tables, err = view.ReadTables(bytes.NewReader(v.placements), bytes.NewReader(v.slates)); err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) revive() {
	w.s = state.New(w.cfg, state.Saved{Regions: w.set, View: w.saved.read(w.t), Events: w.log}, w.now)
	w.start = map[state.SessionID]uint64{}
	w.replay()
}

func (w *world) step(e state.Event) {
	r := w.s.Step(e, w.now)
	w.append(r.Records)
	for _, rec := range r.Objects {
		switch rec := rec.(type) {
		case state.RegionsRecord:
			w.set = rec.Set
		case state.EventsRecord:
			w.log = append(w.log, rec.Events...)
		}
	}
	for _, m := range r.Send {
		if said, ok := decidedSay(m); ok {
			w.sent = append(w.sent, said)
			continue
		}
		w.sent = append(w.sent, fmt.Sprintf("%d %s %+v", m.To, strings.TrimPrefix(fmt.Sprintf("%T", m.Message), "state."), m.Message))
	}
	if r.Err != nil {
		w.sent = append(w.sent, "refused: "+r.Err.Error())
	}
	if r.Then != nil {
		w.step(r.Then)
	}
}

// fact reads one fact, such as "slate orders m=5 e=1 inc=A cp=r1/600".
func (w *world) fact(l []string, rev catalog.Revision) catalog.Fact {
	opt := map[string]string{}
	var args []string
	for _, x := range l[1:] {
		if k, v, ok := strings.Cut(x, "="); ok {
			opt[k] = v
		} else {
			args = append(args, x)
		}
	}
	num := func(k string) *uint64 {
		v, ok := opt[k]
		if !ok {
			return nil
		}
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			w.t.Fatalf("%v: %v", l, err)
		}
		return &n
	}
	if n := num("rev"); n != nil {
		rev.Counter = *n
	}
	f := catalog.Fact{Revision: rev, Gone: opt["gone"]}
	switch l[0] {
	case "slate", "missing", "unreadable":
		g := &catalog.Sighting{Slate: args[0], Root: args[0], Kind: catalog.KindSlateDB, Seen: catalog.SeenLive, Reason: opt["why"],
			ManifestID: num("m"), WriterEpoch: num("e"), Position: num("pos"), Incarnation: opt["inc"], IncarnationKept: opt["inc"] != "", Lineage: opt["lin"]}
		if k, ok := opt["kind"]; ok {
			g.Kind = catalog.Kind(k)
		}
		if l[0] != "slate" {
			g.Seen = catalog.Seen(l[0])
		}
		if n := num("listed"); n != nil { // so many hours after dawn
			at := dawn.Add(time.Duration(*n) * time.Hour)
			g.ListedAt = &at
		}
		for k, v := range opt {
			if id, ok := strings.CutPrefix(k, "cp-"); ok { // cp-r1=600: unnamed, seconds to live
				secs, err := strconv.Atoi(v)
				if err != nil {
					w.t.Fatal(err)
				}
				made, dies := dawn, dawn.Add(time.Duration(secs)*time.Second)
				g.Checkpoints = append(g.Checkpoints, catalog.Checkpoint{ID: id, ManifestID: 1, Created: &made, Expires: &dies})
			}
		}
		if p := opt["parent"]; p != "" {
			g.External = []catalog.ExternalDB{{Path: p, Tables: 1}}
		}
		f.Kind, f.Key, f.Sighting = catalog.FactPlacement, g.Root, g
	case "point":
		p := &catalog.RestorePoint{Slate: args[0], Root: args[0], ID: args[1], State: catalog.RestoreState(args[2]), Source: catalog.SourceCheckpoint,
			Position: num("pos"), Incarnation: opt["inc"], Lineage: opt["lin"], Reason: strings.ReplaceAll(opt["why"], "_", " ")}
		if n := num("at"); n != nil { // verified anew
			at := dawn.Add(time.Duration(*n) * time.Hour)
			p.VerifiedAt = &at
		}
		f.Kind, f.Key, f.RestorePoint = catalog.FactRestorePoint, catalog.RestorePointKey(p.Root, p.ID), p
	case "register", "deregister":
		g := &catalog.Registration{Version: 1, Action: catalog.Action(l[0]), ID: args[0], Slate: args[1], Owner: opt["owner"], Root: args[1]}
		if r, ok := opt["root"]; ok {
			g.Root = r
		}
		f.Kind, f.Key, f.Registration = catalog.FactRegistration, g.ID, g
	case "lease":
		g := &catalog.Lease{Version: 1, Slate: args[0], Role: args[1], ID: args[2]}
		if n := num("ttl"); n != nil {
			g.TTL = float64(*n)
		}
		f.Kind, f.Key, f.Lease = catalog.FactLease, catalog.LeaseKey(g.Slate, g.Role, g.ID), g
	case "finding":
		g := &catalog.Finding{Code: args[0], Slate: args[1], Root: args[1], Object: args[2], What: "it is so"}
		f.Kind, f.Key, f.Finding = catalog.FactFinding, catalog.FindingKey(g.Code, g.Root, g.Object), g
	default:
		w.t.Fatalf("unknown fact %q", l[0])
	}
	if f.Gone != "" {
		f.RestorePoint, f.Registration, f.Lease, f.Finding = nil, nil, nil, nil
	}
	return f
}

// show prints a table of the view; times are counted from the beginning.
func (w *world) show(what string) (out []string) {
	v := w.s.View()
	ago := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return t.Sub(dawn).String()
	}
	n := func(p *uint64) string {
		if p == nil {
			return "?"
		}
		return strconv.FormatUint(*p, 10)
	}
	switch what {
	case "rows":
		for p := range v.Placements() {
			l := fmt.Sprintf("%s %s %s m=%s e=%s seen=%s", p.Region, p.Slate, p.State, n(p.ManifestID), n(p.WriterEpoch), ago(p.ObservedAt))
			for _, r := range p.Readers {
				l += " reader=" + r.ID
				if r.Lapsed {
					l += "(lapsed)"
				}
			}
			if p.Registered {
				l += " owner=" + p.Owner
			}
			if p.PinnedBy != nil {
				l += " pinned-by=" + strings.Join(p.PinnedBy, ",")
			}
			if p.RestorePoints > 0 {
				l += fmt.Sprintf(" points=%d/%d", p.VerifiedRestorePoints, p.RestorePoints)
			}
			for _, s := range []string{p.Disagreement, p.StateReason} {
				if s != "" {
					l += " | " + s
				}
			}
			out = append(out, l)
		}
	case "counts":
		by := map[string]int{}
		for p := range v.Placements() {
			by[p.Region+" "+string(p.State)]++
		}
		for _, s := range []string{"live", "missing", "stale", "unreadable"} {
			for _, r := range w.set.Names() {
				if c := by[r+" "+s]; c > 0 {
					out = append(out, fmt.Sprintf("%s %s %d", r, s, c))
				}
			}
		}
	case "regions":
		for r := range v.Regions() {
			l := fmt.Sprintf("%s %s since=%s placements=%d missing=%d", r.Name, r.State, ago(r.Since), r.Placements, r.Missing)
			if r.BucketID != "" {
				l += " bucket=" + r.BucketID
			}
			if r.Membership != catalog.Active {
				l += " " + string(r.Membership)
			}
			if r.Retiring != "" {
				l += " retiring=" + r.Retiring
			}
			if r.CannotKeep != "" {
				l += " cannot-keep=" + r.CannotKeep
			}
			if r.Reason != "" {
				l += " | " + r.Reason
			}
			out = append(out, l)
		}
	case "clusters":
		for c := range v.Clusters() {
			out = append(out, fmt.Sprintf("%s %s %s %s %s", c.Region, c.Name, c.State, c.Agent, c.Reason))
		}
	case "slates":
		for s := range v.Slates() {
			out = append(out, fmt.Sprintf("%s %s regions=%s placements=%d readers=%d points=%d owner=%s", s.Name, s.State, strings.Join(s.Regions, ","), s.Placements, s.Readers, s.RestorePoints, s.Owner))
		}
	case "points":
		for p := range v.RestorePoints() {
			out = append(out, fmt.Sprintf("%s %s %s %s pos=%s", p.Slate, p.Region, p.ID, p.State, n(p.Position)))
		}
	case "owners":
		for o := range v.Owners() {
			out = append(out, fmt.Sprintf("%s %s owner=%s declared=%t", o.Slate, o.Region, o.Owner, o.Declared))
		}
	case "findings":
		for f := range v.Findings() {
			out = append(out, fmt.Sprintf("%s %s %s %s: %s", f.Region, f.Code, f.Slate, f.Object, f.What))
		}
	case "events":
		for _, e := range w.log[w.seen:] {
			out = append(out, fmt.Sprintf("%d %s %s %s [%s>%s] %s", e.Seq, e.Type, e.Region, e.Slate, e.Before, e.After, e.What))
		}
		w.seen = len(w.log)
	case "sent":
		out, w.sent = w.sent, nil
	default:
		var ok bool
		if out, ok = w.showRule(v, what); !ok {
			w.t.Fatalf("show %q: unknown", what)
		}
	}
	if out == nil {
		out = []string{"(none)"}
	}
	return out
}
