package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/quarry-db/quarry/e2e/load"
	"github.com/quarry-db/quarry/e2e/load/house"
)

// quarrySystem is a hub in a process of its own, with TLS on the agents' door;
// its agents are in this process.
type quarrySystem struct {
	dir     string
	srv     *server
	in      io.WriteCloser
	out     *bufio.Reader
	up      house.Up
	cert    []byte
	regions []string

	agents *load.Agents
	stop   context.CancelFunc
	done   chan error
	client *http.Client
	tokens map[string]string // of queries for a second page
}

// hubMain is the child: it serves until its input ends, and answers "heap".
func hubMain(dir, regions string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cert, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	tlsConfig, err := house.Server(cert, key)
	if err != nil {
		return err
	}
	o := house.Options{Store: "file://" + filepath.Join(dir, "store") + "?create=true", Regions: strings.Split(regions, ","), TLS: tlsConfig}
	return house.Run(ctx, o, func(u house.Up) {
		fmt.Println(u.Web, u.Agents)
		go func() {
			for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
				fmt.Println(heapNow())
			}
			cancel()
		}()
	})
}

func newQuarry(dir string, regions []string) (*quarrySystem, error) {
	s := &quarrySystem{dir: dir, regions: regions, tokens: map[string]string{},
		client: &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	cert, key, err := house.Certificate()
	if err != nil {
		return nil, err
	}
	s.cert = cert
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600); err != nil {
		return nil, err
	}
	return s, s.startHub()
}

func (s *quarrySystem) startHub() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "hub", s.dir, strings.Join(s.regions, ","))
	if s.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if s.srv, err = launch(s.dir, "hub", cmd, nil); err != nil {
		return err
	}
	s.out = bufio.NewReader(out)
	if _, err := fmt.Fscanln(s.out, &s.up.Web, &s.up.Agents); err != nil {
		return fmt.Errorf("the hub did not say where it serves: %w; it says: %s", err, s.srv.tail())
	}
	return nil
}

func (s *quarrySystem) name() string { return "Quarry" }
func (s *quarrySystem) what() string {
	return "agents and hub, TLS between them; view in memory, saved beside"
}
func (s *quarrySystem) pids() []int { return []int{s.srv.pid()} }

func (s *quarrySystem) load(ctx context.Context, f *load.Fleet) error {
	client, err := house.Client(s.cert)
	if err != nil {
		return err
	}
	if s.agents, err = load.NewAgents(f, load.Link{Hub: s.up.Agents, TLS: client, Start: uint64(time.Now().UnixMilli()), Seed: 1}); err != nil {
		return err
	}
	var linked context.Context
	linked, s.stop = context.WithCancel(context.Background())
	s.done = make(chan error, 1)
	go func() { s.done <- s.agents.Run(linked) }()
	return s.wait(ctx)
}

func (s *quarrySystem) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := s.agents.Await(ctx); err != nil {
		return fmt.Errorf("%d facts are not acknowledged: %w", s.agents.Behind(), err)
	}
	return nil
}

// apply returns when the hub has acknowledged all, which it does when they are
// in the view. No more than window are under way, as an agent's own rate of
// discovery would have it: otherwise the newest would overtake the rest.
func (s *quarrySystem) apply(ctx context.Context, steps []step, _ bool) error {
	const window = 4096
	for len(steps) > 0 {
		n := min(window/4, len(steps))
		for s.agents.Behind() > window-n {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			time.Sleep(time.Millisecond)
		}
		for i := range steps[:n] {
			s.agents.Set(steps[i].change)
		}
		steps = steps[n:]
	}
	return s.wait(ctx)
}

func (s *quarrySystem) get(ctx context.Context, path string, v url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.up.Web+path+"?"+v.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %.300s", path, resp.Status, b)
	}
	return json.Unmarshal(b, into)
}

// item is a row as the API gives it: the columns all systems have.
type item struct {
	Region         string            `json:"region"`
	Slate          string            `json:"slate"`
	Kind           string            `json:"kind"`
	State          string            `json:"state"`
	Owner          string            `json:"owner,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Incarnation    string            `json:"incarnation"`
	Lineage        string            `json:"lineage"`
	PositionDomain string            `json:"position_domain"`
	Position       uint64            `json:"position"`
	Bytes          uint64            `json:"bytes"`
	ManifestID     *uint64           `json:"manifest_id,omitempty"`
	WriterEpoch    *uint64           `json:"writer_epoch,omitempty"`
	WALTail        *uint64           `json:"wal_tail_id,omitempty"`
}

func (s *quarrySystem) ask(ctx context.Context, q *query) (answer, error) {
	var out answer
	if q.by != "" {
		var got struct {
			Groups []struct {
				Region, Kind, State string
				Count, Bytes        uint64
			}
		}
		if err := s.get(ctx, "/v1/placements:summarize", url.Values{"by": {q.by}, "filter": {q.filter}}, &got); err != nil {
			return nil, err
		}
		for _, g := range got.Groups {
			var by []string
			for _, v := range []string{g.Region, g.Kind, g.State} {
				if v != "" {
					by = append(by, v)
				}
			}
			out = append(out, groupLine(strings.Join(by, "|"), g.Count, g.Bytes))
		}
		return out, nil
	}
	v := url.Values{"filter": {q.filter}, "order_by": {q.order}, "page_size": {"50"}, "fields": {columns}}
	var got struct {
		Items []item
		Next  string `json:"next_page_token"`
	}
	if q.second {
		token := s.tokens[q.name]
		if token == "" {
			if err := s.get(ctx, "/v1/placements", v, &got); err != nil {
				return nil, err
			}
			token = got.Next
			s.tokens[q.name] = token
			got.Items = nil
		}
		v.Set("page_token", token)
	}
	if err := s.get(ctx, "/v1/placements", v, &got); err != nil {
		return nil, err
	}
	for i := range got.Items {
		out = append(out, got.Items[i].Region+"/"+got.Items[i].Slate)
	}
	return out, nil
}

// forget drops what was remembered of moving rows.
func (s *quarrySystem) forget() { clear(s.tokens) }

// memory is the hub's heap after a collection, in bytes.
func (s *quarrySystem) memory(context.Context) (bytes int64, what string, err error) {
	if _, err := fmt.Fprintln(s.in, "heap"); err != nil {
		return 0, "", err
	}
	_, err = fmt.Fscanln(s.out, &bytes)
	return bytes, "hub's heap after a collection, everything it holds", err
}

// restart ends the hub as an operator would and says how long the next one
// takes until it answers from the saved view.
func (s *quarrySystem) restart(ctx context.Context) (time.Duration, error) {
	s.hangUp()
	s.in.Close()
	s.srv.stop(nil)
	began := time.Now()
	if err := s.startHub(); err != nil {
		return 0, err
	}
	var got struct{ Groups []json.RawMessage }
	err := s.srv.until(ctx, 2*time.Minute, func() error {
		resp, err := s.client.Get("http://" + s.up.Web + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %s", resp.Status)
		}
		return s.get(ctx, "/v1/placements:summarize", url.Values{"by": {"region"}}, &got)
	})
	return time.Since(began), err
}

func (s *quarrySystem) hangUp() {
	if s.stop != nil {
		s.stop()
		<-s.done
		s.stop = nil
	}
}

func (s *quarrySystem) close() {
	s.hangUp()
	s.in.Close()
	s.srv.stop(nil)
}
