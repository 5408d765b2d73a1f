package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// spent is what a set of processes has spent since they began: on a core, and
// waiting for one while they could have run.
type spent struct{ run, wait time.Duration }

func (s spent) minus(o spent) spent { return spent{s.run - o.run, s.wait - o.wait} }

// spentBy adds up the threads of processes and of all their descendants, from
// schedstat, and what reaped descendants left behind, which the kernel counts
// in ticks of 10 ms. Threads that have ended are not counted: runtimes here
// keep theirs.
func spentBy(pids []int) (s spent) {
	for _, pid := range descendants(pids) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, t := range tasks {
			b, err := os.ReadFile(t)
			if err != nil {
				continue // it has just ended
			}
			f := strings.Fields(string(b))
			if len(f) < 2 {
				continue
			}
			run, _ := strconv.ParseInt(f[0], 10, 64)
			wait, _ := strconv.ParseInt(f[1], 10, 64)
			s.run += time.Duration(run)
			s.wait += time.Duration(wait)
		}
		if f := statFields(pid); len(f) > 14 && pid != os.Getpid() {
			for _, ticks := range f[13:15] { // cutime, cstime
				n, _ := strconv.ParseInt(ticks, 10, 64)
				s.run += time.Duration(n) * 10 * time.Millisecond
			}
		}
	}
	return s
}

// statFields are those of /proc/PID/stat from the state on, so that the n-th
// of proc(5) is at n-3; nil when the process has ended.
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return append(strings.Fields(rest), "")
}

// descendants are the processes and all that they started. Our own process is
// never followed: its children are the servers.
func descendants(pids []int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if f := statFields(pid); len(f) > 1 {
				ppid, _ := strconv.Atoi(f[1])
				children[ppid] = append(children[ppid], pid)
			}
		}
	}
	var all []int
	for rest := pids; len(rest) > 0; rest = rest[1:] {
		all = append(all, rest[0])
		if rest[0] != os.Getpid() {
			rest = append(rest[:1:1], append(children[rest[0]], rest[1:]...)...)
		}
	}
	return all
}

// residentKB is the resident memory of processes and their descendants; for
// PostgreSQL the proportional share, for its processes share their buffers.
func residentKB(pids []int) (kb int64) {
	for _, pid := range descendants(pids) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
				n, _ := strconv.ParseInt(f[1], 10, 64)
				kb += n
			}
		}
	}
	return kb
}

// quiet waits until processes do next to nothing, at least for so long and at
// most for twelve seconds.
func quiet(ctx context.Context, pids []int, atLeast time.Duration) {
	began, before := time.Now(), spentBy(pids).run
	for time.Since(began) < 12*time.Second && ctx.Err() == nil {
		time.Sleep(250 * time.Millisecond)
		now := spentBy(pids).run
		if now-before < 10*time.Millisecond && time.Since(began) >= atLeast {
			return
		}
		before = now
	}
}

// server is a process that we started and must end.
type server struct {
	cmd  *exec.Cmd
	name string
	log  string
}

// launch starts a server; what it says goes to a file in dir.
func launch(dir, name string, cmd *exec.Cmd, asUser *syscall.Credential) (*server, error) {
	logs, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer logs.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = logs
	}
	cmd.Stderr = logs
	// Should we be killed, it dies with us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true, Credential: asUser}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &server{cmd, name, logs.Name()}, nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// stop asks once and then insists. A nil signal: it was asked already.
func (s *server) stop(sig os.Signal) {
	if sig != nil {
		_ = s.cmd.Process.Signal(sig)
	}
	insist := time.AfterFunc(15*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer insist.Stop()
	_ = s.cmd.Wait() // how it ended is of no interest here
}

// tail is the end of what a server said, for errors.
func (s *server) tail() string {
	b, _ := os.ReadFile(s.log)
	return string(b[max(0, len(b)-800):])
}

// until asks again and again until ready returns nil.
func (s *server) until(ctx context.Context, within time.Duration, ready func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w; it says: %s", s.name, within, err, s.tail())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freePort is a loopback port that nobody uses now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// nobody is whom servers run as that refuse to run as root; nil when we are
// not root.
func nobody(names ...string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, n := range names {
		u, err := user.Lookup(n)
		if err != nil {
			continue
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("none of the users %v exists, and it does not run as root", names)
}

// program finds an executable on PATH or in one of the places given as globs.
func program(name string, places ...string) (string, error) {
	for _, p := range places {
		found, _ := filepath.Glob(filepath.Join(p, name))
		if len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	return exec.LookPath(name)
}

// absent says that a peer is not on this machine, and how to get it.
type absent struct{ what, install string }

func (a *absent) Error() string { return a.what + " is not here; " + a.install }

func isAbsent(err error) bool {
	var a *absent
	return errors.As(err, &a)
}
