//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// storeWrite is a write to a bucket that a process is about to do, or has done.
type storeWrite struct {
	Pid    int    `json:"pid"`
	When   string `json:"when"` // before or after
	Method string `json:"method"`
	Key    string `json:"key"`
	Data   []byte `json:"data"`
	Failed bool   `json:"failed"`
}

// warden stands at the gate of one process: it is asked before and after each
// write, kills the process with SIGKILL at each kind of write once, and starts it
// anew. What it does not kill it lets pass.
type warden struct {
	t       testing.TB
	socket  string
	name    func(storeWrite) string // of the kind of write
	restart func() *proc
	kills   func(label string) bool // nil: none

	mu      sync.Mutex
	started sync.Cond // g.mu
	proc    *proc
	dead    map[int]bool   // processes that were killed
	seen    map[string]int // writes by their labels, when included
	died    []string       // labels at which it was killed, in order
	ended   bool
	wg      sync.WaitGroup
}

// warded begins a process behind a gate. restart starts it, with env.
func warded(t testing.TB, name func(storeWrite) string, kills func(string) bool, restart func(env []string) *proc) *warden {
	t.Helper()
	g := &warden{t: t, socket: filepath.Join(shortDir(t), "gate"), name: name, kills: kills, seen: map[string]int{}, dead: map[int]bool{}}
	g.started.L = &g.mu
	l, err := net.Listen("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	g.restart = func() *proc { return restart([]string{"QUARRY_TEST_GATE=" + g.socket}) }
	g.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() { g.answer(c) })
		}
	})
	t.Cleanup(func() {
		g.mu.Lock()
		g.ended = true
		g.started.Broadcast()
		p := g.proc
		g.mu.Unlock()
		if p != nil {
			p.kill()
		}
		l.Close()
		g.wg.Wait()
	})
	g.begin()
	return g
}

func (g *warden) begin() {
	p := g.restart()
	g.mu.Lock()
	g.proc = p
	ended := g.ended
	g.started.Broadcast()
	g.mu.Unlock()
	if ended {
		p.kill()
	}
}

func (g *warden) answer(c net.Conn) {
	defer c.Close()
	var w storeWrite
	if json.NewDecoder(bufio.NewReader(c)).Decode(&w) != nil {
		return
	}
	label := w.When + " " + g.name(w)
	g.mu.Lock()
	for !g.ended && !g.dead[w.Pid] && (g.proc == nil || g.proc.cmd.Process.Pid != w.Pid) {
		g.started.Wait() // it is quicker than whoever started it
	}
	p := g.proc
	dies := !g.ended && !g.dead[w.Pid] && g.seen[label] == 0 && g.kills != nil && g.kills(label)
	passes := !g.dead[w.Pid] && !dies // nothing that a dying process still tries
	if passes || dies {
		g.seen[label]++
	}
	if dies {
		g.dead[w.Pid], g.proc = true, nil
		g.died = append(g.died, label)
	}
	g.mu.Unlock()
	if passes {
		fmt.Fprintln(c, "go")
	}
	if dies {
		p.kill()
		g.begin()
	}
}

// log tells what was written, and where it was killed.
func (g *warden) log(what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.t.Logf("%s: %d kinds of writes, killed %d times:", what, len(g.seen), len(g.died))
	for _, label := range slices.Sorted(maps.Keys(g.seen)) {
		killed := ""
		if slices.Contains(g.died, label) {
			killed = "  KILLED"
		}
		g.t.Logf("  %4d × %s%s", g.seen[label], label, killed)
	}
}

// shortDir is a folder with a name short enough for a socket in it.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

var (
	uuids   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	ulids   = regexp.MustCompile(`\b[0-9A-Z]{26}\b`)
	numbers = regexp.MustCompile(`[0-9]{4,}`)
	audited = regexp.MustCompile(`"who":"[^"]*","what":"([^"]*)","of":"([^"]*)"(?:,"why":"([^";]*))?`)
)

// plain is a key without what differs from run to run.
func plain(key string) string {
	key = ulids.ReplaceAllString(uuids.ReplaceAllString(key, "<id>"), "<id>")
	return numbers.ReplaceAllString(key, "<n>")
}

// hubWrite names a write of the hub: in the ledger by what it puts into the
// audit, for that is what was decided.
func hubWrite(w storeWrite) string {
	what := map[string]bool{}
	for _, m := range audited.FindAllSubmatch(w.Data, -1) {
		about := string(m[2])
		if strings.HasPrefix(about, "decision/") {
			about = string(m[3]) // the verb, the slate, and the region
		}
		what[string(m[1])+" "+about] = true
	}
	if !strings.HasPrefix(w.Key, "ledger/wal/") || len(what) == 0 {
		return w.Method + " " + plain(w.Key)
	}
	return "ledger: " + strings.Join(slices.Sorted(maps.Keys(what)), ", ")
}

// agentWrite names the writes of an agent: those about a decision by its verb
// and slate, which the first of them says.
func agentWrite() func(storeWrite) string {
	var mu sync.Mutex
	verbs := map[string]string{}
	return func(w storeWrite) string {
		mu.Lock()
		defer mu.Unlock()
		var taken struct {
			Decision struct {
				ID    string `json:"id"`
				Verb  string `json:"verb"`
				Slate string `json:"slate"`
			} `json:"decision"`
		}
		if strings.HasPrefix(w.Key, ".quarry/taken/") && json.Unmarshal(w.Data, &taken) == nil && taken.Decision.ID != "" {
			verbs[taken.Decision.ID] = taken.Decision.Verb + " of " + taken.Decision.Slate
		}
		name := w.Method + " " + plain(w.Key)
		for id, verb := range verbs {
			if strings.Contains(w.Key, id) || strings.Contains(string(w.Data), id) {
				return verb + ": " + name
			}
		}
		return name
	}
}
