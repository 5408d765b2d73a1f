// Package peers runs the real SlateDB core beside us in tests: one child
// process a role, of any published version, killed at will. Each version is
// the published Python package in an environment of its own below .cache.
package peers

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Versions are the published cores that install here, oldest first.
var Versions = []string{"0.12.1", "0.13.1", "0.14.1", "0.15.0", "0.16.0", "0.17.0"}

// Repo is the root of this checkout.
func Repo() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

var installing sync.Mutex

// Python returns the interpreter that has slatedb==version, installing it
// first when it is not in .cache yet. Without python3 or the package the test
// fails: a peer that is not there is no success.
func Python(t testing.TB, version string) string {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	dir := filepath.Join(Repo(), ".cache", "peers", "slatedb-"+version)
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
		return python
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"python3", "-m", "venv", dir},
		{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "slatedb==" + version},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("install the real SlateDB %s: %s: %v\n%s", version, strings.Join(argv, " "), err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ready"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return python
}

// Peer is one real SlateDB process.
type Peer struct {
	t       testing.TB
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	err     *tail
	Version string
}

// Local is the environment of a store that is a folder.
func Local(folder string) []string {
	return []string{"CLOUD_PROVIDER=local", "LOCAL_PATH=" + folder}
}

// S3 is the environment of a bucket behind an S3 endpoint.
func S3(endpoint, bucket, key, secret string) []string {
	return []string{
		"CLOUD_PROVIDER=aws", "AWS_BUCKET=" + bucket, "AWS_REGION=us-east-1", "AWS_ENDPOINT=" + endpoint,
		"AWS_ALLOW_HTTP=true", "AWS_ACCESS_KEY_ID=" + key, "AWS_SECRET_ACCESS_KEY=" + secret,
	}
}

// Azure is the environment of a container of azurite.
func Azure(endpoint, container string) []string {
	return []string{
		"PEER_STORE=az://" + container, "AZURE_STORAGE_USE_EMULATOR=true", "AZURITE_BLOB_STORAGE_URL=" + endpoint,
		"AZURE_CONTAINER_NAME=" + container, "AZURE_ALLOW_HTTP=true",
	}
}

// Start runs a process of the given version over the store that env names. It
// ends with the test.
func Start(t testing.TB, version string, env []string) *Peer {
	t.Helper()
	return run(t, version, env, Python(t, version), filepath.Join(Repo(), "e2e", "peers", "slatedb_peer.py"))
}

// Ours is the Version of a peer that is our own writer.
const Ours = "quarry"

// StartOurs runs a process of our own writer over the bucket with the given
// URL, with env added to its environment. It ends with the test.
func StartOurs(t testing.TB, bucket string, env []string) *Peer {
	t.Helper()
	built, err := ourPeer()
	if err != nil {
		t.Fatal(err)
	}
	return run(t, Ours, append([]string{"PEER_BUCKET=" + bucket}, env...), built)
}

// ourPeer builds the program once a test run.
var ourPeer = sync.OnceValues(func() (string, error) {
	path := filepath.Join(Repo(), ".cache", "ourpeer", "ourpeer")
	build := exec.Command("go", "build", "-o", path, "./e2e/ourpeer")
	build.Dir = Repo()
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build ourpeer: %w\n%s", err, out)
	}
	return path, nil
})

func run(t testing.TB, version string, env []string, argv ...string) *Peer {
	t.Helper()
	p := &Peer{t: t, Version: version, err: &tail{}}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	for _, kv := range os.Environ() {
		if k, _, _ := strings.Cut(kv, "="); !strings.HasPrefix(k, "AWS_") && !strings.HasPrefix(k, "AZURE_") && k != "CLOUD_PROVIDER" && k != "LOCAL_PATH" {
			p.cmd.Env = append(p.cmd.Env, kv)
		}
	}
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stderr = p.err
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReaderSize(out, 1<<20)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start SlateDB %s: %v", version, err)
	}
	t.Cleanup(p.Kill)
	return p
}

// Kill ends the process as a crash does (SIGKILL). It may be called twice.
func (p *Peer) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// Answer is what the process says to one operation.
type Answer struct {
	Error       string      `json:"error"`
	ID          string      `json:"id"`
	Rows        [][2]string `json:"rows"`
	Values      []*string   `json:"values"` // in hex; nil: no such key
	Checkpoints []struct {
		ID         string `json:"id"`
		Name       string `json:"name"`
		ManifestID uint64 `json:"manifest_id"`
	} `json:"checkpoints"`
}

// Try does one operation and returns its answer, which may carry the core's
// own error. A process that does not answer within a minute fails the test:
// SlateDB repeats some failing calls for ever without a word.
func (p *Peer) Try(op map[string]any) Answer {
	p.t.Helper()
	line, err := json.Marshal(op)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		p.t.Fatalf("SlateDB %s, %s: %v\n%s", p.Version, line, err, p.err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	b, err := p.out.ReadBytes('\n')
	if err != nil {
		p.t.Fatalf("SlateDB %s gave no answer to %s: %v\n%s", p.Version, line, err, p.err)
	}
	var a Answer
	if err := json.Unmarshal(b, &a); err != nil {
		p.t.Fatalf("SlateDB %s answered %q: %v", p.Version, b, err)
	}
	return a
}

// Hurry begins an operation and kills the process after a while, answered or
// not. It is false when there was no answer: then nobody knows what came of it.
func (p *Peer) Hurry(op map[string]any, after time.Duration) (Answer, bool) {
	p.t.Helper()
	line, err := json.Marshal(op)
	if err == nil {
		_, err = p.in.Write(append(line, '\n'))
	}
	if err != nil {
		p.t.Fatalf("SlateDB %s, %s: %v\n%s", p.Version, line, err, p.err)
	}
	said := make(chan []byte, 1)
	go func() {
		b, _ := p.out.ReadBytes('\n')
		said <- b
	}()
	time.Sleep(after)
	_ = p.cmd.Process.Kill()
	b := <-said // whole, or cut off by the kill
	_ = p.cmd.Wait()
	var a Answer
	if len(b) == 0 || b[len(b)-1] != '\n' || json.Unmarshal(b, &a) != nil {
		return Answer{}, false
	}
	return a, true
}

// Do is Try for an operation that must succeed.
func (p *Peer) Do(op map[string]any) Answer {
	p.t.Helper()
	a := p.Try(op)
	if a.Error != "" {
		p.t.Fatalf("SlateDB %s: %v: %s", p.Version, op, a.Error)
	}
	return a
}

// Open opens a writer at root.
func (p *Peer) Open(root string) { p.t.Helper(); p.Do(map[string]any{"op": "open", "root": root}) }

// Put writes one durable batch.
func (p *Peer) Put(root string, rows map[string]string) {
	p.t.Helper()
	enc := map[string]any{}
	for k, v := range rows {
		enc[hex.EncodeToString([]byte(k))] = hex.EncodeToString([]byte(v))
	}
	p.Do(map[string]any{"op": "put", "root": root, "rows": enc})
}

// Op does a named operation on root.
func (p *Peer) Op(op, root string) Answer {
	p.t.Helper()
	return p.Do(map[string]any{"op": op, "root": root})
}

func (p *Peer) String() string {
	return fmt.Sprintf("SlateDB %s (pid %d)", p.Version, p.cmd.Process.Pid)
}

// tail keeps the last bytes that a process wrote to its standard error.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 8<<10 {
		t.b = t.b[len(t.b)-8<<10:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
