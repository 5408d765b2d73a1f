package plan

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

var update = flag.Bool("update", false, "write what scenarios show into their files")

// TestScenarios plays testdata/*.txt. A file is a list of commands; what trim
// says stands between its ---- and the next empty line. Together the stories
// have every reason that Trim can give.
//
//	policy                      its fields, indented, as people write them
//	region NAME WORDS...        joining, active, retired; connected, suspect,
//	                            stale, blind, reset, unknown; unheard, heard;
//	                            absent, another-database, here;
//	                            unreadable: WHY, readable
//	snapshot REGION POSITION    a restore point, verified now; or listed,
//	                            incomplete: WHY, unreadable: WHY
//	lost REGION POSITION WHY    one that was there is not whole any more
//	verify REGION               all that are whole are verified again now
//	head POSITION               the log reaches as far
//	hold, legal-hold, reader, clone, consumer ID [REGION] [from POSITION]
//	release ID                  none of them any more
//	freeze WHY; thaw
//	tick DURATION               time goes by
//	last-lost WHY; found        a region has lost its last restore point
//	trim                        how far may it be cut?
//	made REGION POSITION AGO    when a restore point was made
//	permitted REGION POSITION   the permit that is seen in its bucket; or none
//	orphan REGION NAME AGO      a folder that nothing lists, last changed then
//	under-way REGION POSITION   a decision that removes it was made
//	prune                       what is beyond the policy?
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	told := map[Code]bool{}
	promises := map[string]bool{}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			head, _, _ := strings.Cut(string(b), "\n\n")
			for word := range strings.FieldsFuncSeq(head, func(r rune) bool { return strings.ContainsRune(" \n#.,:()", r) }) {
				promises[word] = true
			}
			got := play(t, string(b), told)
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
	for _, c := range spelled {
		if !told[c] {
			t.Errorf("no story has the reason %s", c)
		}
	}
	for _, p := range []string{"P1", "P2", "P3", "P4", "P5", "P7", "P8", "P9", "P11", "P12"} {
		if !promises[p] {
			t.Errorf("no story says that it is about %s", p)
		}
	}
}

// Every code that verdict.go spells has its bit, and no other has.
func TestEveryCodeHasItsBit(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "verdict.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var written []Code
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.ValueSpec); ok && s.Type != nil {
			if id, ok := s.Type.(*ast.Ident); ok && id.Name == "Code" {
				text, err := strconv.Unquote(s.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				written = append(written, Code(text))
			}
		}
		return true
	})
	if !slices.Equal(written, spelled[:]) {
		t.Errorf("verdict.go has %v,\nthe bits are of %v", written, spelled)
	}
	if regionLagging.code() != RegionLagging || (regionLagging<<1)&1 != 0 || (regionLagging<<1).String() != "" || Codes(0).Has(NoPolicy) {
		t.Error("the last bit is not that of region-lagging")
	}
	if s := (frozen | regionStale).String(); s != "region-stale frozen" {
		t.Error(s)
	}
}

// world is what one scenario has come to.
type world struct {
	t    *testing.T
	p    regions.Policy
	s    Slate
	now  time.Time
	raw  []string // the indented lines of the command
	told map[Code]bool
}

func play(t *testing.T, script string, told map[Code]bool) string {
	w := &world{t: t, now: now, s: Slate{Name: "archive/0", Domain: "lsn", Lineage: "cluster-1"}, told: told}
	var out strings.Builder
	lines := strings.Split(strings.TrimSuffix(script, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		fmt.Fprintln(&out, l)
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		w.raw = nil
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  ") {
			i++
			w.raw = append(w.raw, lines[i])
			fmt.Fprintln(&out, lines[i])
		}
		show, shows := w.shows()[l]
		if !shows {
			w.do(strings.Fields(l), l)
			continue
		}
		for i+1 < len(lines) && lines[i+1] != "" {
			i++ // what it said when it was written
		}
		fmt.Fprintf(&out, "----\n%s", show())
	}
	return out.String()
}

func (w *world) do(f []string, line string) {
	arg := func(i int) string {
		if i >= len(f) {
			w.t.Fatalf("%q: something is missing", line)
		}
		return f[i]
	}
	text := func(after string) string {
		_, s, _ := strings.Cut(line, after)
		return strings.TrimSpace(s)
	}
	switch f[0] {
	case "policy":
		doc := "apiVersion: quarry/v1\nkind: Policy\nmetadata: {name: p}\n"
		for _, l := range w.raw {
			doc += strings.TrimPrefix(l, "  ") + "\n"
		}
		if !strings.Contains(doc, "\nselect:") {
			doc += "select: {kinds: [snapshots]}\n"
		}
		d, err := regions.ParseDocuments("policy", []byte(doc))
		if err != nil {
			w.t.Fatal(err)
		}
		w.p = d.Policies[0]
	case "region":
		w.region(arg(1), f[2:], line)
	case "snapshot":
		r := w.find(arg(1))
		pt := Point{ID: "lsn_" + arg(2), Position: w.position(arg(2)), State: catalog.RestoreVerified, FirstSeen: w.now, VerifiedAt: w.now}
		if len(f) > 3 {
			pt.State = catalog.RestoreState(strings.TrimSuffix(f[3], ":"))
			pt.Reason, pt.VerifiedAt = text(f[3]), time.Time{}
		}
		r.Points = append(r.Points, pt)
	case "lost":
		r := w.find(arg(1))
		for i := range r.Points {
			if pt := &r.Points[i]; pt.Position == w.position(arg(2)) {
				pt.State, pt.Reason = catalog.RestoreIncomplete, strings.Join(f[3:], " ")
			}
		}
	case "verify":
		r := w.find(arg(1))
		for i := range r.Points {
			if pt := &r.Points[i]; pt.State == catalog.RestoreVerified {
				pt.VerifiedAt = w.now
			}
		}
	case "head":
		w.s.Head = new(w.position(arg(1)))
	case "hold", "legal-hold", "reader", "clone", "consumer":
		pin := Pin{Kind: PinKind(f[0]), ID: arg(1)}
		for i := 2; i < len(f); i++ {
			if f[i] == "from" {
				pin.Position = new(w.position(arg(i + 1)))
				i++
			} else {
				pin.Region = f[i]
			}
		}
		w.s.Pins = append(w.s.Pins, pin)
	case "release":
		w.s.Pins = slices.DeleteFunc(w.s.Pins, func(p Pin) bool { return p.ID == arg(1) })
	case "freeze":
		w.s.Frozen = text("freeze")
	case "thaw":
		w.s.Frozen = ""
	case "tick":
		d, err := time.ParseDuration(arg(1))
		if err != nil {
			w.t.Fatal(err)
		}
		w.now = w.now.Add(d)
	default:
		if !w.doPrune(f, text, arg) {
			w.t.Fatalf("%q: no such command", line)
		}
	}
}

func (w *world) position(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) find(name string) *Region {
	for i := range w.s.Regions {
		if w.s.Regions[i].Name == name {
			return &w.s.Regions[i]
		}
	}
	w.t.Fatalf("there is no region %s yet", name)
	return nil
}

func (w *world) region(name string, words []string, line string) {
	if !slices.ContainsFunc(w.s.Regions, func(r Region) bool { return r.Name == name }) {
		w.s.Regions = append(w.s.Regions, Region{Name: name, Membership: catalog.Active, State: catalog.RegionConnected, Heard: true, Placed: true, Lineage: w.s.Lineage})
	}
	r := w.find(name)
	for _, word := range words {
		switch word {
		case "joining", "active", "retired":
			r.Membership = catalog.Membership(word)
		case "connected", "suspect", "stale", "blind", "reset":
			r.State, r.Since = catalog.RegionState(word), w.now
		case "unknown":
			r.State = ""
		case "heard", "unheard":
			r.Heard = word == "heard"
		case "absent":
			r.Placed, r.Points = false, nil
		case "here":
			r.Placed, r.Lineage = true, w.s.Lineage
		case "another-database":
			r.Placed, r.Lineage = true, "cluster-2"
		case "readable":
			r.Unreadable = ""
		case "unreadable:":
			_, r.Unreadable, _ = strings.Cut(line, "unreadable: ")
			return
		default:
			w.t.Fatalf("%q: what is %q?", line, word)
		}
	}
}

// trim asks Trim, and prints what it says. It also asks a fleet, which must say
// the same, and asks again from the evidence as it would be recorded, which must
// say it in the same words (P9).
func (w *world) trim() string {
	v := Trim(w.p, w.s, w.now)
	w.again(v)
	for _, list := range append([][]Reason{v.Reasons}, reasonsOf(v)...) {
		for _, r := range list {
			w.told[r.Code] = true
			if len(strings.Fields(r.Message)) < 4 {
				w.t.Errorf("%s says little: %q", r.Code, r.Message)
			}
		}
	}
	var b strings.Builder
	switch {
	case v.Action == Wait:
		fmt.Fprintln(&b, "wait")
	case v.Binding == "":
		fmt.Fprintf(&b, "permit up to %d\n", *v.UpTo)
	default:
		fmt.Fprintf(&b, "permit up to %d, for %s\n", *v.UpTo, v.Binding)
	}
	for _, r := range v.Reasons {
		fmt.Fprintf(&b, "  %s\n", r)
	}
	number := func(n *uint64) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	for _, o := range v.Regions {
		fmt.Fprintf(&b, "%s %s verified=%s newest=%s", o.Region, cmp.Or(string(o.State), "unknown"), number(o.Verified), number(o.Newest))
		if o.AgeSeconds != nil {
			fmt.Fprintf(&b, " age=%s", time.Duration(*o.AgeSeconds)*time.Second)
		}
		fmt.Fprintln(&b)
		for _, r := range o.Reasons {
			if !slices.Contains(v.Reasons, r) {
				fmt.Fprintf(&b, "  %s\n", r)
			}
		}
	}
	for _, p := range v.Holds {
		fmt.Fprintf(&b, "%s %s from %s\n", p.Kind, p.ID, number(p.Position))
	}
	return b.String()
}

func reasonsOf(v Verdict) (all [][]Reason) {
	for _, o := range v.Regions {
		all = append(all, o.Reasons)
	}
	return all
}

func (w *world) again(v Verdict) {
	var names []string
	for _, r := range w.s.Regions {
		names = append(names, r.Name)
	}
	f := NewFleet(names...)
	if err := f.Put(0, &w.s); err != nil {
		w.t.Fatal(err)
	}
	r := ruled{f.Decide(f.Rule([]regions.Policy{w.p}, standings(&w.s), w.now), 0), names}
	if r.line() != asRuling(v, r.Why) {
		w.t.Errorf("Trim says %s, a fleet %s", asRuling(v, r.Why), r.line())
	}
	b, err := json.Marshal(struct {
		Slate Slate
		Now   time.Time
	}{w.s, w.now})
	if err != nil {
		w.t.Fatal(err)
	}
	var kept struct {
		Slate Slate
		Now   time.Time
	}
	if err := json.Unmarshal(b, &kept); err != nil {
		w.t.Fatal(err)
	}
	if got := Trim(w.p, kept.Slate, kept.Now); !reflect.DeepEqual(got, v) {
		w.t.Errorf("from the evidence that was recorded it says %+v, and said %+v", got, v)
	}
}
