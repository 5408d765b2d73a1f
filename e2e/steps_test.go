//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
)

// step is one thing that a real SlateDB process does; see findings_peer.py.
type step []any

// options of a step.
type opts map[string]any

// answers are what it said to each step.
type answers []json.RawMessage

// act lets a process of the release do the steps on the database "db" in the
// folder; then it dies as a crash does.
func act(t *testing.T, release, folder string, steps ...step) answers {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	in, err := json.Marshal(steps)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(ctx, peers.Python(t, release), filepath.Join(peers.Repo(), "e2e", "findings_peer.py"), folder)
	c.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, _ := c.Output() // it never ends well: it crashes on purpose
	var a answers
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatalf("SlateDB %s: %v: %q\n%s", release, err, out, stderr.String())
	}
	return a
}

// acts is act where nothing may be refused.
func acts(t *testing.T, release, folder string, steps ...step) answers {
	t.Helper()
	a := act(t, release, folder, steps...)
	for i := range steps {
		if said := a.refused(i); said != "" {
			t.Fatalf("SlateDB %s, %v: %s", release, steps[i], said)
		}
	}
	return a
}

// refused is the core's own text, "" when it did the step.
func (a answers) refused(i int) string {
	if i >= len(a) {
		return "not reached"
	}
	var e struct{ Error string }
	if json.Unmarshal(a[i], &e) != nil {
		return ""
	}
	return e.Error
}

func (a answers) number(t *testing.T, i int) int {
	t.Helper()
	n, err := strconv.Atoi(string(a[i]))
	if err != nil {
		t.Fatalf("step %d answered %s", i, a[i])
	}
	return n
}

func (a answers) rows(t *testing.T, i int) string {
	t.Helper()
	if said := a.refused(i); said != "" {
		t.Fatalf("step %d: %s", i, said)
	}
	return string(a[i])
}

// finding is one of `verify`.
type finding struct {
	Code, Object, What, Who, Cure string
	Repair                        bool
}

// examine runs `quarry slatedb verify`.
func examine(t *testing.T, folder string, extra ...string) (found []finding, unverified bool) {
	t.Helper()
	o := quarry(t, nil, append([]string{"slatedb", "verify", "--bucket", "file://" + folder, "db", "-o", "json"}, extra...)...)
	var r struct {
		Findings   []finding
		Unverified bool
	}
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		t.Fatalf("verify: exit %d: %s %s", o.code, o.stdout, o.stderr)
	}
	if (len(r.Findings) > 0) != (o.code == 1) {
		t.Errorf("verify: exit %d with %d findings", o.code, len(r.Findings))
	}
	for _, f := range r.Findings {
		if f.Object == "" || f.What == "" || f.Who == "" || f.Cure == "" {
			t.Errorf("a finding has code, object, who is hurt and cure: %+v", f)
		}
	}
	return r.Findings, r.Unverified
}

func diagnosed(t *testing.T, folder, code string, extra ...string) finding {
	t.Helper()
	found, _ := examine(t, folder, extra...)
	i := slices.IndexFunc(found, func(f finding) bool { return f.Code == code })
	if i < 0 {
		t.Fatalf("verify does not find %s: %+v", code, found)
	}
	return found[i]
}

func healthy(t *testing.T, folder string, extra ...string) {
	t.Helper()
	if found, unverified := examine(t, folder, extra...); len(found) > 0 || unverified {
		t.Fatalf("findings (unverified: %v): %+v", unverified, found)
	}
}

// repaired runs `quarry slatedb repair`: dry by default, refused without a word
// for the writer, then done.
func repaired(t *testing.T, folder, code, how string) {
	t.Helper()
	repair := []string{"slatedb", "repair", "--bucket", "file://" + folder, "db", "--finding", code}
	before := files(t, folder)
	must(t, nil, repair...)
	if o := quarry(t, nil, append(repair, "--yes")...); o.code != 4 || !strings.Contains(o.stderr, "idle") {
		t.Errorf("repair without a word for the writer: exit %d: %s", o.code, o.stderr)
	}
	if after := files(t, folder); !slices.Equal(before, after) {
		t.Errorf("a dry repair changed %v to %v", before, after)
	}
	must(t, nil, append(repair, "--yes", how)...)
}

func files(t *testing.T, folder string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func copied(t *testing.T, folder string) string {
	t.Helper()
	to := t.TempDir()
	copyTree(t, folder, to)
	return to
}

// releasesFrom are the releases from one on.
func releasesFrom(first string) []string {
	return peers.Versions[slices.Index(peers.Versions, first):]
}
