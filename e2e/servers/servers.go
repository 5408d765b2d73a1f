// Package servers starts real object stores for tests: versitygw for S3,
// azurite for Azure, fake-gcs-server for Google. Each runs on a free loopback
// port over a temporary folder or in memory, and ends with the test. What is not
// installed yet is built once into .cache/tools of the checkout, keyed by
// version; a piece that cannot be had fails the test and never skips it.
//
// Begin with [S3], [Azure] or [GCS].
package servers

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tools is the folder that holds the servers, below the root of the checkout.
func tools(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		// Built with -trimpath: the test runs in its package's folder.
		wd, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		file = wd + "/x"
	}
	for dir := filepath.Dir(file); dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir + "/go.mod"); err == nil {
			return dir + "/.cache/tools"
		}
	}
	t.Fatal("no go.mod above the test: run it in a checkout")
	return ""
}

// installing is held while something is installed, so that parallel tests of one
// process wait instead of installing twice. Between processes flock does.
var installing sync.Mutex

// installed returns folder/program below the tools, after running install in a
// new folder that becomes folder when it has succeeded.
func installed(t testing.TB, folder, program string, install func(into string) *exec.Cmd) string {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	all := tools(t)
	path := filepath.Join(all, folder, program)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(all, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(all, folder+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return path // another process has made it meanwhile
	}
	into, err := os.MkdirTemp(all, folder+".new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(into)
	cmd := install(into)
	t.Logf("installing %s: %s", folder, strings.Join(cmd.Args, " "))
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install %s: %v\n%s", folder, err, out)
	}
	final := filepath.Join(all, folder)
	if err := os.RemoveAll(final); err != nil { // one that lacks the program
		t.Fatal(err)
	}
	if err := os.Rename(into, final); err != nil {
		t.Fatal(err)
	}
	t.Logf("installed %s in %v", folder, time.Since(start).Round(time.Second))
	return path
}

// goTool installs a Go program of a pinned version.
func goTool(t testing.TB, name, module, version string) string {
	t.Helper()
	return installed(t, name+"-"+strings.TrimPrefix(version, "v"), name, func(into string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "go", "install", "-trimpath", "-ldflags=-s -w", module+"@"+version)
		cmd.Env = append(os.Environ(), "GOBIN="+into, "GOFLAGS=", "CGO_ENABLED=0")
		return cmd
	})
}

// freePort returns a loopback port that nobody listened on a moment ago. Somebody
// else may take it before the server does; start then tries another.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Process is a running server.
type Process struct {
	// Port is the loopback port it listens on.
	Port int

	cmd    *exec.Cmd
	output *bytes.Buffer
	exited chan struct{} // closed when it has ended
	stop   sync.Once
}

// Kill ends the server without warning, as a crash does. It may be called twice,
// and the test's end then has nothing left to do.
func (p *Process) Kill() {
	p.stop.Do(func() { _ = p.cmd.Process.Kill() })
	<-p.exited
}

// end asks the server to stop and insists after a while.
func (p *Process) end() {
	p.stop.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
		}
	})
	<-p.exited
}

// launch starts a server and waits until GET ready answers with 200, or with
// anything when any is set. It tries three ports.
func launch(t testing.TB, command func(port int) *exec.Cmd, ready string, any bool) *Process {
	t.Helper()
	var last error
	for range 3 {
		port := freePort(t)
		p, err := launchOn(port, command(port), fmt.Sprintf("http://127.0.0.1:%d%s", port, ready), any)
		if err == nil {
			t.Cleanup(func() {
				p.end()
				if t.Failed() {
					t.Logf("output of %s:\n%s", p.cmd.Args[0], p.output)
				}
			})
			return p
		}
		last = err
	}
	t.Fatal(last)
	return nil
}

func launchOn(port int, cmd *exec.Cmd, ready string, any bool) (*Process, error) {
	p := &Process{Port: port, cmd: cmd, output: new(bytes.Buffer), exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	// A test binary that is killed takes its servers along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig follows the thread that started the process.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its output
		}
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, ready, nil)
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if any || resp.StatusCode == http.StatusOK {
				return p, nil
			}
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("%s ended before it was ready:\n%s", strings.Join(cmd.Args, " "), p.output)
		case <-ctx.Done():
			p.end()
			return nil, fmt.Errorf("%s is not ready after a minute:\n%s", strings.Join(cmd.Args, " "), p.output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
