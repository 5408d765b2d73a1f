//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// terminal is somebody at a terminal in front of a hub that has a great many
// slates.
type terminal struct {
	t   testing.TB
	hub *hub
}

// command makes a run of the command line against the hub.
func (s *terminal) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, binary, append(args, "--hub", "http://"+s.hub.web)...)
	c.Env = cleanEnv(s.t)
	return c
}

// feel runs a command some times and logs how long it takes as a whole, its
// process included.
func (s *terminal) feel(least int, args ...string) time.Duration {
	s.t.Helper()
	var took []time.Duration
	lines := 0
	for range 9 {
		began := time.Now()
		out := must(s.t, nil, append(args, "--hub", "http://"+s.hub.web)...)
		took = append(took, time.Since(began))
		lines = strings.Count(out, "\n")
	}
	slices.Sort(took)
	s.t.Logf("%5d ms (%d to %d)  %5d lines  quarry %s", took[4].Milliseconds(), took[0].Milliseconds(), took[8].Milliseconds(), lines, strings.Join(args, " "))
	if lines < least {
		s.t.Errorf("quarry %s: %d lines, at least %d are due", strings.Join(args, " "), lines, least)
	}
	return took[4]
}

// count is how many placements the hub counts.
func (s *terminal) count() (n int) {
	s.t.Helper()
	_, b := ask(s.t, s.hub, "/v1/placements:summarize?by=region")
	var sum struct {
		Groups []struct{ Count int }
	}
	if err := json.Unmarshal(b, &sum); err != nil {
		s.t.Fatal(err)
	}
	for _, g := range sum.Groups {
		n += g.Count
	}
	return n
}

// watch logs when the first row stands on the terminal and when the first
// change of a row is told.
func (s *terminal) watch(args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 4*time.Minute)
	defer cancel()
	args = append([]string{"get"}, append(args, "--watch")...)
	c := s.command(ctx, args...)
	out, err := c.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	began := time.Now()
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	var row, change time.Duration
	rows, rss := 0, 0
	lines := bufio.NewScanner(out)
	for change == 0 && lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] == "TIME" {
			continue
		}
		if rows++; rows == 1 {
			row = time.Since(began)
		}
		if f[1] != "now" {
			change = time.Since(began)
			rss = residentMB(s.t, c.Process.Pid)
		}
	}
	cancel()
	_ = c.Wait()
	s.t.Logf("%5d ms to the first row, %d ms and %d rows to the first change, %d MB  quarry %s",
		row.Milliseconds(), change.Milliseconds(), rows, rss, strings.Join(args, " "))
	if change == 0 {
		s.t.Errorf("quarry %s: %d rows, and no change was told", strings.Join(args, " "), rows)
	}
}

// export reads all placements as JSON and follows what hub and command line
// need for it.
func (s *terminal) export() {
	s.t.Helper()
	before := s.count()
	c := s.command(s.t.Context(), "get", "placements", "-o", "json", "--limit", "0")
	out, err := c.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	began := time.Now()
	idle := residentMB(s.t, s.hub.cmd.Process.Pid)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	// Both are looked at all the while.
	var hub, cli []int
	stop := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			h, hOK := resident(s.hub.cmd.Process.Pid)
			q, qOK := resident(c.Process.Pid)
			if !hOK || !qOK { // it has written everything and is gone
				return
			}
			hub, cli = append(hub, h), append(cli, q)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-stop:
				return
			}
		}
	})
	read := &counted{Reader: out}
	rows, last := 0, ""
	d := json.NewDecoder(read)
	for _, want := range []any{json.Delim('{'), "items", json.Delim('[')} {
		if got, err := d.Token(); err != nil || got != want {
			s.t.Fatalf("the export begins with %v (%v), want %v", got, err, want)
		}
	}
	for d.More() {
		var row struct{ Slate, Region, Root string }
		if err := d.Decode(&row); err != nil {
			s.t.Fatalf("after %d rows: %v", rows, err)
		}
		key := row.Slate + "\x00" + row.Region + "\x00" + row.Root
		if key <= last {
			s.t.Fatalf("%q follows %q", key, last)
		}
		last = key
		if rows++; rows == before/2 {
			s.t.Logf("half of the export after %.1f s", time.Since(began).Seconds())
		}
	}
	var rest bytes.Buffer
	close(stop)
	looking.Wait()
	if _, err := io.Copy(&rest, io.MultiReader(d.Buffered(), read)); err != nil {
		s.t.Fatal(err)
	}
	whole := strings.Contains(rest.String(), `"as_of"`) && strings.HasSuffix(strings.TrimSpace(rest.String()), "}")
	if err := c.Wait(); err != nil || !whole {
		s.t.Fatalf("the export ends with %v and %q", err, rest.String())
	}
	took := time.Since(began)
	after := s.count()
	s.t.Logf("export: %d rows, %d MB in %.1f s; the hub counted %d before and %d after", rows, read.n>>20, took.Seconds(), before, after)
	s.t.Logf("resident MB at the eighths of the export: hub %v (%d before), command line %v", eighths(hub), idle, eighths(cli))
	// Slates come and go meanwhile, one change in a hundred.
	if near := 50 + before/1000; rows < min(before, after)-near || rows > max(before, after)+near {
		s.t.Errorf("%d rows were exported of %d to %d", rows, before, after)
	}
	// What a page needs, and not what the fleet does.
	if most := slices.Max(cli); most > 120 {
		s.t.Errorf("the command line needed %d MB", most)
	}
	// The hub's heap breathes by half between collections, export or not.
	if most := slices.Max(hub); most > idle+idle/2+128 {
		s.t.Errorf("the hub grew from %d to %d MB", idle, most)
	}
}

// resident is a process's resident memory; ok is false when it has none any
// more.
func resident(pid int) (mb int, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, false
	}
	var size, pages int
	if n, err := fmt.Sscan(string(b), &size, &pages); n != 2 || err != nil || pages == 0 {
		return 0, false
	}
	return pages * os.Getpagesize() >> 20, true
}

type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// eighths is the most in each eighth.
func eighths(mb []int) (out []int) {
	for i := range 8 {
		if part := mb[i*len(mb)/8 : (i+1)*len(mb)/8]; len(part) > 0 {
			out = append(out, slices.Max(part))
		}
	}
	return out
}

// paging goes through pages of fifty, as a page in a browser does.
func (s *terminal) paging(pages int, path string) {
	s.t.Helper()
	var took []time.Duration
	token := ""
	for range pages {
		d, b := ask(s.t, s.hub, path+"&page_token="+url.QueryEscape(token))
		took = append(took, d)
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next_page_token"`
		}
		if err := json.Unmarshal(b, &page); err != nil {
			s.t.Fatal(err)
		}
		if len(page.Items) != 50 || page.Next == "" {
			s.t.Fatalf("%s: a page of %d rows, next %q", path, len(page.Items), page.Next)
		}
		token = page.Next
	}
	slices.Sort(took)
	at := func(p int) float64 { return float64(took[len(took)*p/100].Microseconds()) / 1000 }
	s.t.Logf("%5.1f ms the median page of %d, p99 %.1f ms  GET %s", at(50), pages, at(99), path)
}

// A million placements in front of one terminal, while they change: what it
// takes to look at them, and that a full export needs no more memory than a
// page of it. Times are logged and not judged: other work may run here.
func TestAMillionOnATerminal(t *testing.T) {
	n := soak(100_000, 1_000_000)
	seed := seedOf(t)
	regions := []string{"ap", "ca", "eu", "in", "jp", "sa", "uk", "us"}
	s := &terminal{t, startHub(t, strings.Join(regions, ","))}
	began := time.Now()
	load := start(t, nil, "loadgen", "--hub", s.hub.agents, "--regions", strings.Join(regions, ","),
		"--slates", strconv.Itoa(n/len(regions)), "--rate", "500", "--duration", "0", "--seed", fmt.Sprint(seed))
	eventually(t, 10*time.Minute, "all placements", func() error {
		if got := s.count(); got < n-n/100 {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
	t.Logf("%d placements after %.1f s; the hub has %d MB", s.count(), time.Since(began).Seconds(), residentMB(t, s.hub.cmd.Process.Pid))
	// The agents' first news after all of it is told.
	time.Sleep(2 * time.Second)

	t.Log("median of nine runs, the process and all; 500 changes a second meanwhile")
	s.feel(1, "version")
	s.feel(500, "get", "slates")
	s.feel(500, "get", "slates", "--filter", `kind = log AND bytes > 1MiB`)
	s.feel(500, "get", "slates", "--sort-by", "bytes desc")
	s.feel(500, "get", "slates", "--filter", `regions:eu AND labels.env = "prod"`, "--sort-by", "bytes desc")
	s.feel(500, "get", "slates", "--filter", `where.region = "eu" AND where.state = live`)
	s.feel(500, "get", "placements", "--sort-by", "region, bytes desc")
	s.feel(500, "get", "placements", "--filter", "observed_at < now-1s", "--sort-by", "observed_at")
	s.feel(0, "get", "placements", "--filter", `"nothing has this text"`)
	s.feel(0, "get", "slates", "--filter", `"nothing has this text"`)
	s.feel(0, "get", "placements", "--filter", `readers.name = "nobody"`)
	s.feel(2000, "get", "placements", "--limit", "2000")
	s.feel(8, "summary", "--by", "region,kind,state")
	s.feel(8, "summary", "--by", "region,kind,state", "--filter", "bytes > 1MiB")
	s.paging(100, "/v1/slates?order_by=bytes+desc")
	s.paging(100, "/v1/placements?order_by=position&filter="+url.QueryEscape(`region = "eu"`))
	s.watch("slates", "--filter", "kind = log")
	s.watch("slates")
	s.export()
	select {
	case <-load.done:
		t.Errorf("the load ended on its own: %s", load.log.tail(1000))
	default:
	}
}
