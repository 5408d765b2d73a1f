//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demo is a running `quarry demo`.
type demo struct {
	*proc
	web, agents string
	folders     string // TMPDIR of the process: its folder is the only thing in it
}

func startDemo(t testing.TB) *demo {
	t.Helper()
	d := &demo{web: freePort(t), agents: freePort(t), folders: t.TempDir()}
	d.proc = start(t, []string{"TMPDIR=" + d.folders}, "demo", "--listen", d.web, "--agent-listen", d.agents)
	eventually(t, 30*time.Second, "the demo says what to try", func() error {
		if !strings.Contains(d.log.String(), "openapi.json") {
			return errors.New("not yet")
		}
		return nil
	})
	return d
}

// printedCommands are the command lines in what the demo printed.
func (d *demo) printedCommands() []string {
	var all []string
	for line := range strings.Lines(d.log.String()) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, binary+" ") || strings.HasPrefix(line, "curl ") {
			all = append(all, line)
		}
	}
	return all
}

// Somebody pastes every line that the demo prints into a shell.
func TestEveryCommandTheDemoPrintsWorks(t *testing.T) {
	d := startDemo(t)
	if strings.Contains(d.log.String(), "level=") {
		t.Errorf("a first look begins with log lines:\n%s", d.log.String())
	}
	commands := d.printedCommands()
	if len(commands) < 9 {
		t.Fatalf("only %d commands in\n%s", len(commands), d.log.String())
	}
	for _, line := range commands {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		watching := strings.Contains(line, "--watch")
		if watching {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 4*time.Second)
		}
		// exec: the interrupt goes to the command, as ctrl-c does.
		c := exec.CommandContext(ctx, "sh", "-c", "exec "+line)
		c.Cancel = func() error { return c.Process.Signal(syscall.SIGINT) }
		c.WaitDelay = 10 * time.Second
		c.Env = cleanEnv(t)
		var stdout, stderr strings.Builder
		c.Stdout, c.Stderr = &stdout, &stderr
		err := c.Run()
		cancel()
		want := 0
		if watching {
			want = 130
		}
		if code := c.ProcessState.ExitCode(); code != want {
			t.Errorf("%s\nexit %d, expected %d (%v)\n%s", line, code, want, err, stderr.String())
		}
		if stderr.String() != "" {
			t.Errorf("%s\nsays on stderr: %s", line, stderr.String())
		}
		if strings.Count(stdout.String(), "\n") < 1 && !strings.HasPrefix(stdout.String(), "{") {
			t.Errorf("%s\nshows nothing: %q", line, stdout.String())
		}
		if strings.HasPrefix(line, "curl") {
			var l listing[map[string]any]
			if err := json.Unmarshal([]byte(stdout.String()), &l); err != nil || len(l.Items) != 2 {
				t.Errorf("%s\nshows %d logs, expected 2 (%v): %s", line, len(l.Items), err, stdout.String())
			}
		}
	}
}

// The demo's regions hold what it promises: every kind, a registration, a
// clone, a reader, restore points.
func TestTheDemoShowsEveryKind(t *testing.T) {
	d := startDemo(t)
	h := &hub{web: d.web}
	kinds, registered, readers, clones := map[string]bool{}, 0, 0, 0
	l, err := get[struct {
		placement
		External []struct{ Path string } `json:"external"`
	}](h, t, "placements")
	if err != nil {
		t.Fatal(err)
	}
	regions := map[string]bool{}
	for _, p := range l.Items {
		kinds[p.Kind], regions[p.Region] = true, true
		if p.Registered {
			registered++
		}
		readers += len(p.Readers)
		clones += len(p.External)
	}
	for _, k := range []string{"log", "timeseries", "vector", "buffer", "snapshots", "slatedb"} {
		if !kinds[k] {
			t.Errorf("no %s in the demo", k)
		}
	}
	if len(regions) != 3 || registered < 2 || registered == len(l.Items) || readers == 0 || clones == 0 {
		t.Errorf("%d regions, %d of %d registered, %d readers, %d clones", len(regions), registered, len(l.Items), readers, clones)
	}
	if points, err := get[map[string]any](h, t, "restore-points"); err != nil || len(points.Items) == 0 {
		t.Errorf("%d restore points (%v)", len(points.Items), err)
	}
}

// What --watch is for: something moves, each change is one aligned line.
func TestTheDemoMovesAndTheWatchShowsIt(t *testing.T) {
	d := startDemo(t)
	c := exec.Command(binary, "get", "slates", "--watch", "--hub", "http://"+d.web)
	c.Env = cleanEnv(t)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })

	limit := time.After(30 * time.Second)
	var header string
	kindAt, seen, changes := -1, map[string]bool{}, 0
	for changes < 2 {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatal("the watch ended")
			}
			fields := strings.Fields(line)
			if fields[0] == "TIME" {
				header, kindAt = line, strings.Index(line, "KIND")
				continue
			}
			if header == "" || len(line) <= kindAt || line[kindAt-1] != ' ' || line[kindAt] == ' ' {
				t.Errorf("not below its header:\n%s\n%s", header, line)
			}
			switch fields[1] {
			case "now":
				seen[fields[2]] = true
			case "changed":
				if fields[2] != "live" {
					t.Errorf("%s changes, and nobody touches it: %s", fields[2], line)
				}
				changes++
			}
		case <-limit:
			t.Fatalf("%d changes in 30 s; seen at first: %v", changes, seen)
		}
	}
	if len(seen) < 10 {
		t.Errorf("the watch began with %d slates: %v", len(seen), seen)
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for range lines {
	}
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != 130 {
		t.Errorf("ctrl-c: exit %d, expected 130", code)
	}
}

// Ctrl-c ends the demo as if it had never been there.
func TestCtrlCEndsTheDemoCleanly(t *testing.T) {
	d := startDemo(t)
	at := regexp.MustCompile(regexp.QuoteMeta(d.folders) + `/quarry-demo-[0-9]+`).FindString(d.log.String())
	if _, err := os.Stat(at); err != nil || at == "" {
		t.Fatalf("the folder it names, %q: %v", at, err)
	}
	_ = d.cmd.Process.Signal(os.Interrupt)
	if code := d.wait(15 * time.Second); code != 0 {
		t.Errorf("exit %d", code)
	}
	left, err := os.ReadDir(d.folders)
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v (%v)", left, err)
	}
	if log := d.log.String(); strings.Contains(log, "level=") || strings.Contains(log, "quarry:") {
		t.Errorf("its end is noisy:\n%s", log)
	}
}

// A second demo on the same port says so in one line and leaves nothing.
func TestASecondDemoOnTheSamePort(t *testing.T) {
	d := startDemo(t)
	folders := t.TempDir()
	for _, ports := range [][2]string{{d.web, freePort(t)}, {freePort(t), d.agents}} {
		o := quarry(t, []string{"TMPDIR=" + folders}, "demo", "--listen", ports[0], "--agent-listen", ports[1])
		if o.code != 1 || strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "in use") || !strings.Contains(o.stderr, "listen") {
			t.Errorf("exit %d: %s%s", o.code, o.stdout, o.stderr)
		}
	}
	if left, err := os.ReadDir(folders); err != nil || len(left) > 0 {
		t.Errorf("it left %v (%v)", left, err)
	}
	// The first one did not notice.
	if o := quarry(t, nil, "get", "slates", "--hub", "http://"+d.web); o.code != 0 {
		t.Errorf("the first demo: exit %d: %s", o.code, o.stderr)
	}
}

// --dir keeps what was made; a folder in use is not touched.
func TestTheDemoKeepsANamedFolder(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if o := quarry(t, nil, "demo", "--dir", full); o.code != 2 || strings.Count(o.stderr, "\n") != 1 {
		t.Errorf("a folder with something in it: exit %d: %s", o.code, o.stderr)
	}
	dir := filepath.Join(t.TempDir(), "new")
	web := freePort(t)
	p := start(t, nil, "demo", "--dir", dir, "--listen", web, "--agent-listen", freePort(t))
	eventually(t, 30*time.Second, "the demo is up", func() error {
		if o := quarry(t, nil, "get", "slates", "--hub", "http://"+web); o.code != 0 || !strings.Contains(o.stdout, "orders") {
			return errors.New(o.stdout + o.stderr)
		}
		return nil
	})
	if code := p.stop(); code != 0 {
		t.Errorf("SIGTERM: exit %d", code)
	}
	for _, name := range []string{"hub", "us-east", "eu-west", "ap-south"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
