//go:build testhooks

package bucket

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"syscall"
)

// gate is the environment variable that names a unix socket: whoever listens
// there is asked before and after each write to any bucket of this process. It
// answers "go\n"; at any other answer, or none, the process kills itself with
// SIGKILL at that very instruction. Only binaries built with -tags testhooks
// know it.
const gate = "QUARRY_TEST_GATE"

func opened(b *Bucket) *Bucket {
	if path := os.Getenv(gate); path != "" {
		return Wrap(b, func(s Store) Store { return &gated{s, path} })
	}
	return b
}

// gated is a store that asks at a gate.
type gated struct {
	Store
	path string
}

// ask is one question at the gate: a JSON object on one line.
type ask struct {
	Pid    int    `json:"pid"`
	When   string `json:"when"` // before or after
	Method Method `json:"method"`
	Key    string `json:"key"`
	Data   []byte `json:"data"`
	Failed bool   `json:"failed"` // after: the write was refused
}

func (g *gated) pass(a ask) {
	a.Pid = os.Getpid()
	if !g.asked(a) {
		_ = syscall.Kill(a.Pid, syscall.SIGKILL)
		select {} // it takes a moment
	}
}

func (g *gated) asked(a ask) bool {
	c, err := net.Dial("unix", g.path)
	if err != nil {
		return false
	}
	defer c.Close()
	if json.NewEncoder(c).Encode(a) != nil {
		return false
	}
	said, err := bufio.NewReader(c).ReadString('\n')
	return err == nil && said == "go\n"
}

func (g *gated) through(m Method, key string, data []byte, write func() error) error {
	g.pass(ask{When: "before", Method: m, Key: key, Data: data})
	err := write()
	g.pass(ask{When: "after", Method: m, Key: key, Data: data, Failed: err != nil})
	return err
}

func (g *gated) Put(ctx context.Context, key string, data []byte, onlyNew bool) error {
	m := Put
	if onlyNew {
		m = PutNew
	}
	return g.through(m, key, data, func() error { return g.Store.Put(ctx, key, data, onlyNew) })
}

func (g *gated) Replace(ctx context.Context, key string, data []byte, version string) error {
	return g.through(Replace, key, data, func() error { return g.Store.Replace(ctx, key, data, version) })
}

func (g *gated) Delete(ctx context.Context, key string) error {
	return g.through(Delete, key, nil, func() error { return g.Store.Delete(ctx, key) })
}
