//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/servers"
)

// doctorSays runs doctor and gives its checks by name.
func doctorSays(t *testing.T, env []string, code int, args ...string) map[string]bool {
	t.Helper()
	o := quarry(t, env, append([]string{"doctor", "-o", "json"}, args...)...)
	if o.code != code {
		t.Fatalf("doctor %v: exit %d, expected %d\n%s%s", args, o.code, code, o.stdout, o.stderr)
	}
	var d struct {
		Items []struct {
			Name, What, Fix string
			OK              bool
		}
		OK bool
	}
	strictly(t, o.stdout, &d)
	if d.OK != (code == 0) {
		t.Errorf("ok %v, exit %d", d.OK, o.code)
	}
	checks := map[string]bool{}
	for _, c := range d.Items {
		checks[c.Name] = c.OK
		if c.What == "" || !c.OK && c.Fix == "" {
			t.Errorf("%+v does not say what it is or what to do", c)
		}
	}
	return checks
}

func TestDoctorOnFolders(t *testing.T) {
	dir := t.TempDir()
	if got := doctorSays(t, nil, 0, "--bucket", "file://"+dir); !got["create-if-absent"] || !got["clock"] || !got["delete"] || !got["replace-if-unchanged"] || len(got) != 6 {
		t.Errorf("a good folder: %v", got)
	}
	// What was not tried is not claimed.
	if out := must(t, nil, "doctor", "--bucket", "file://"+dir); !strings.Contains(out, "nothing older") {
		t.Errorf("an empty folder:\n%s", out)
	}
	if left := tree(t, dir); len(left) != 0 {
		t.Errorf("doctor left %v", left)
	}
	if got := doctorSays(t, nil, 0, "--bucket", "file://"+dir, "--read-only"); len(got) != 2 {
		t.Errorf("--read-only: %v", got)
	}

	// What verbs need on slates is tried where no slate is.
	if got := doctorSays(t, nil, 0, "--bucket", "file://"+dir, "--allow", "hold,prune,permit", "--discover", "dbs,archive/"); !got["hold, release"] || !got["prune: pointer"] || !got["prune: delete"] || !got["permit"] || len(got) != 10 {
		t.Errorf("--allow: %v", got)
	}
	if left := tree(t, dir); len(left) != 0 {
		t.Errorf("doctor --allow left %v", left)
	}
	if got := doctorSays(t, nil, 0, "--bucket", "file://"+dir, "--allow", "hold", "--read-only"); got["slates"] || len(got) != 3 {
		t.Errorf("--allow --read-only: %v", got)
	}
	wrong{[]string{"doctor", "--bucket", "file://" + dir, "--allow", "everything"}, 2, "everything"}.refused(t)

	// Read-only for the one who asks: an agent can work there, and is told
	// what it cannot keep. Root may write everywhere, so somebody else asks.
	open, err := os.MkdirTemp("", "quarry-doctor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(open) })
	theirs, program := filepath.Join(open, "bucket"), filepath.Join(open, "quarry")
	copyTree(t, fixture("0.17.0", "fresh"), theirs)
	b, err := os.ReadFile(binary)
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(open, 0o755)
	}
	if err == nil {
		err = os.Chmod(theirs, 0o555)
	}
	if err != nil {
		t.Fatal(err)
	}
	ask := func(args ...string) (string, int) {
		c := exec.Command(program, args...)
		c.Env, c.Dir = cleanEnv(t), "/"
		asNobody(c)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		_ = c.Run()
		return out.String(), c.ProcessState.ExitCode()
	}
	if out, code := ask("doctor", "--bucket", "file://"+theirs); code != 0 || !strings.Contains(out, "warn  write .quarry/") || !strings.Contains(out, "cannot keep") {
		t.Errorf("a read-only folder: exit %d\n%s", code, out)
	}
	if out, code := ask("doctor", "--bucket", "file://"+theirs, "--allow", "hold,prune"); code != 5 || !strings.Contains(out, "FAIL  hold, release") || !strings.Contains(out, "FAIL  prune: pointer") || !strings.Contains(out, "warn  prune: delete") {
		t.Errorf("a read-only folder cannot be held or pruned: exit %d\n%s", code, out)
	}
	if out, code := ask("catalog", "register", "--bucket", "file://"+theirs, "--name", "a", "--root", "b"); code != 5 || strings.Count(out, "\n") != 1 {
		t.Errorf("register without the right to write: exit %d: %s", code, out)
	}
	if err := os.Chmod(theirs, 0o000); err != nil {
		t.Fatal(err)
	}
	if out, code := ask("slatedb", "verify", "--bucket", "file://"+theirs, "db"); code != 5 || strings.Count(out, "\n") != 1 {
		t.Errorf("verify without the right to read: exit %d: %s", code, out)
	}
	if out, code := ask("doctor", "--bucket", "file://"+theirs); code != 5 || !strings.Contains(out, "FAIL  list") {
		t.Errorf("doctor without the right to read: exit %d: %s", code, out)
	}
}

// On a real S3 server: a good bucket passes, one that is not there is 3,
// wrong keys are 5.
func TestDoctorOnS3(t *testing.T) {
	s3 := servers.S3(t)
	url, env := s3.Make(t, "slates"), environ(servers.S3Env())
	if got := doctorSays(t, env, 0, "--bucket", url); !got["create-if-absent"] || !got["clock"] || !got["delete"] {
		t.Errorf("a good bucket: %v", got)
	}
	if out := must(t, env, "doctor", "--bucket", url); strings.Contains(out, "FAIL") || strings.Contains(out, "warn") {
		t.Errorf("twice:\n%s", out)
	}
	if got := doctorSays(t, env, 0, "--bucket", url, "--allow", "hold,release,prune"); !got["hold, release"] || !got["prune: pointer"] || !got["prune: delete"] || got["probes"] {
		t.Errorf("--allow: %v", got)
	}
	gone := s3.URL("nobody")
	wrong{[]string{"catalog", "list", "--bucket", gone}, 3, "nobody"}.refused(t, env...)
	wrong{[]string{"slatedb", "verify", "--bucket", gone, "db"}, 3, "nobody"}.refused(t, env...)
	denied := append(slices.Clone(env), "AWS_SECRET_ACCESS_KEY=wrong")
	wrong{[]string{"catalog", "list", "--bucket", url}, 5, "slates"}.refused(t, denied...)
	wrong{[]string{"slatedb", "verify", "--bucket", url, "db"}, 5, "slates"}.refused(t, denied...)
	if o := quarry(t, denied, "doctor", "--bucket", url); o.code != 5 || !strings.Contains(o.stdout, "FAIL  list") || !strings.Contains(o.stdout, "s3:ListBucket") {
		t.Errorf("wrong keys: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}

	// Somebody copied files into the gateway's folder: objects without an
	// ETag. They read well, and the store's word on create-if-absent is tried
	// on one of its own.
	copyTree(t, fixture("0.17.0", "codec-none"), filepath.Join(s3.Dir, "slates", "dbs"))
	must(t, env, "slatedb", "verify", "--checksums", "--bucket", url, "dbs/db")
	if got := doctorSays(t, env, 0, "--bucket", url); !got["create-if-absent"] {
		t.Errorf("with files copied into its folder: %v", got)
	}
	// The same below .quarry/: this store would overwrite what it lists, so
	// two agents could both win.
	region := filepath.Join(s3.Dir, "slates", ".quarry", "region.json")
	if err := os.MkdirAll(filepath.Dir(region), 0o755); err != nil {
		t.Fatal(err)
	}
	const body = `{"version":1,"region":"eu","bucket":"7f9c2ba4-e88f-427d-9615-f1b1a3c0a8bc","catalog":".quarry/catalog","created":"2026-11-21T00:00:00Z"}`
	if err := os.WriteFile(region, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(region, old, old); err != nil {
		t.Fatal(err)
	}
	if got := doctorSays(t, env, 4, "--bucket", url); got["create-if-absent"] {
		t.Errorf("with a copied region.json: %v", got)
	}
	if b, err := os.ReadFile(region); err != nil || string(b) != body {
		t.Errorf("doctor changed region.json: %s (%v)", b, err)
	}
}

// asNobody runs a command as a user who owns nothing, when we are root, to
// whom no file is forbidden.
func asNobody(c *exec.Cmd) {
	if os.Getuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}
