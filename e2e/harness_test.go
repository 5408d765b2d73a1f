//go:build e2e

// Package e2e proves the whole from outside: the real binary, real object
// stores, real SlateDB processes. It knows nothing of the code's inside.
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "quarry-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "quarry")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = peers.Repo()
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build quarry: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// output of one run of the command line.
type output struct {
	stdout, stderr string
	code           int
}

// quarry runs the command line once, with env added to a clean environment.
func quarry(t testing.TB, env []string, args ...string) output {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = append(cleanEnv(t), env...)
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("quarry %s: %v", strings.Join(args, " "), err)
	}
	return output{o.String(), e.String(), c.ProcessState.ExitCode()}
}

// must is quarry for a run that has to succeed.
func must(t testing.TB, env []string, args ...string) string {
	t.Helper()
	o := quarry(t, env, args...)
	if o.code != 0 {
		t.Fatalf("quarry %s: exit %d\n%s%s", strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

func cleanEnv(t testing.TB) []string {
	var env []string
	for _, kv := range os.Environ() {
		k, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(k, "AWS_") || strings.HasPrefix(k, "AZURE_") || strings.HasPrefix(k, "QUARRY_") {
			continue
		}
		env = append(env, kv)
	}
	return append(env, "QUARRY_CONFIG=/nonexistent/quarry.yaml", "AWS_EC2_METADATA_DISABLED=true", "NO_COLOR=1")
}

// proc is a long-running quarry process.
type proc struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

func start(t testing.TB, env []string, args ...string) *proc {
	t.Helper()
	return startAs(t, binary, env, args...)
}

// startAs is start of another build of the program.
func startAs(t testing.TB, binary string, env []string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, cmd: exec.Command(binary, args...), log: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Env = append(cleanEnv(t), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("quarry %s:\n%s", strings.Join(args, " "), p.log.tail(6000))
		}
	})
	return p
}

// kill ends the process as a crash does.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop ends it as an operator does, and returns the exit code.
func (p *proc) stop() int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatalf("still running 20 s after SIGTERM\n%s", p.log.tail(4000))
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *proc) wait(limit time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.t.Fatalf("still running after %s\n%s", limit, p.log.tail(4000))
	}
	return p.cmd.ProcessState.ExitCode()
}

// eventually repeats check until it returns nil, and fails with its last
// error after the limit.
func eventually(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	var last error
	for time.Now().Before(deadline) {
		if last = check(); last == nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("%s: not within %s: %v", what, limit, last)
}

// freePort is a loopback port that was free a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// hub is a running hub and how to reach it.
type hub struct {
	*proc
	web, agents, store string
	regions            string
	extra              []string
	program            string // "": the ordinary one
	env                []string
}

func startHub(t testing.TB, regions string, extra ...string) *hub {
	t.Helper()
	h := &hub{web: freePort(t), agents: freePort(t), store: t.TempDir(), regions: regions, extra: extra}
	h.restart(t)
	return h
}

// startHubAs is startHub of another build of the program.
func startHubAs(t testing.TB, program string, env []string, regions string, extra ...string) *hub {
	t.Helper()
	h := &hub{web: freePort(t), agents: freePort(t), store: t.TempDir(), regions: regions, extra: extra, program: program, env: env}
	h.restart(t)
	return h
}

// restart starts the hub's process (again) on the same store and ports.
func (h *hub) restart(t testing.TB) {
	t.Helper()
	args := append([]string{"hub", "--listen", h.web, "--agent-listen", h.agents, "--store", "file://" + h.store,
		"--regions", h.regions, "--beat", "500ms", "--stale-after", "4s"}, h.extra...)
	h.proc = startAs(t, cmp.Or(h.program, binary), h.env, args...)
	eventually(t, 20*time.Second, "hub ready", func() error {
		if o := quarry(t, nil, "get", "regions", "--hub", "http://"+h.web, "-o", "json"); o.code != 0 {
			return errors.New(o.stderr)
		}
		return nil
	})
}

// cli runs the command line against this hub.
func (h *hub) cli(t testing.TB, args ...string) output {
	t.Helper()
	return quarry(t, nil, append([]string{"--hub", "http://" + h.web}, args...)...)
}

func startAgent(t testing.TB, h *hub, region, bucket string, env []string, extra ...string) *proc {
	t.Helper()
	args := append([]string{"agent", "--region", region, "--cluster", region + "-1", "--bucket", bucket,
		"--discover", "", "--hub", h.agents, "--poll", "300ms"}, extra...)
	return start(t, env, args...)
}

// placement is what the tests look at of a row.
type placement struct {
	Slate       string            `json:"slate"`
	Region      string            `json:"region"`
	Root        string            `json:"root"`
	Kind        string            `json:"kind"`
	Registered  bool              `json:"registered"`
	Owner       string            `json:"owner"`
	Labels      map[string]string `json:"labels"`
	State       string            `json:"state"`
	StateReason string            `json:"state_reason"`
	ManifestID  *uint64           `json:"manifest_id"`
	WriterEpoch *uint64           `json:"writer_epoch"`
	Position    *uint64           `json:"position"`
	Domain      string            `json:"position_domain"`
	TrimmedTo   *uint64           `json:"trimmed_to"`
	Incarnation string            `json:"incarnation"`
	Predecessor string            `json:"predecessor"`
	Backlog     *uint64           `json:"backlog"`
	ObservedAt  time.Time         `json:"observed_at"`
	Readers     []struct {
		ID      string     `json:"id"`
		Expires *time.Time `json:"expires"`
	} `json:"readers"`
	Checkpoints []struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"checkpoints"`
}

func (p placement) String() string {
	b, _ := json.Marshal(p)
	return string(b)
}

type regionRow struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason"`
}

type listing[T any] struct {
	Items       []T                        `json:"items"`
	AsOf        map[string]json.RawMessage `json:"as_of"`
	Unreachable []string                   `json:"unreachable"`
}

func get[T any](h *hub, t testing.TB, args ...string) (listing[T], error) {
	t.Helper()
	var l listing[T]
	o := h.cli(t, append([]string{"get", "-o", "json", "--limit", "0"}, args...)...)
	if o.code != 0 {
		return l, fmt.Errorf("get %v: exit %d: %s", args, o.code, o.stderr)
	}
	if err := json.Unmarshal([]byte(o.stdout), &l); err != nil {
		return l, fmt.Errorf("get %v printed no JSON: %w: %q", args, err, o.stdout)
	}
	return l, nil
}

// placements by "region slate".
func (h *hub) placements(t testing.TB) (map[string]placement, error) {
	t.Helper()
	l, err := get[placement](h, t, "placements")
	if err != nil {
		return nil, err
	}
	m := map[string]placement{}
	for _, p := range l.Items {
		m[p.Region+" "+p.Slate] = p
	}
	return m, nil
}

func (h *hub) region(t testing.TB, name string) (regionRow, error) {
	t.Helper()
	l, err := get[regionRow](h, t, "regions")
	if err != nil {
		return regionRow{}, err
	}
	for _, r := range l.Items {
		if r.Name == name {
			return r, nil
		}
	}
	return regionRow{}, fmt.Errorf("no region %s", name)
}

// copyTree copies a folder of fixtures into a folder that is a bucket.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, p)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func fixture(parts ...string) string {
	return filepath.Join(append([]string{peers.Repo(), "e2e", "fixtures", "data"}, parts...)...)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) tail(n int) string {
	s := l.String()
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
