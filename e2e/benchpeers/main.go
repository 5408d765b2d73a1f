// Benchpeers does the same work on Quarry and on what one would use instead:
// PostgreSQL with the ideal indexes, Redis, a custom resource in a real
// Kubernetes API server. It counts CPU by the kernel's schedstat over clients
// and servers, and compares every answer with a plain scan of the same rows.
//
// It starts and ends everything itself, on loopback. Begin with measureSize.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/quarry-db/quarry/e2e/load"
)

type options struct {
	sizes   []int
	rounds  int
	steps   int
	within  time.Duration
	rate    float64
	seed    uint64
	only    []string
	kube    string
	kubeN   int
	out     string
	docs    string
	command string
	decide  int
}

// Report is one run at one size.
type Report struct {
	Size       int
	Regions    int
	Seed       uint64
	Rounds     int
	Steps      int
	Rate       float64
	Command    string
	Machine    string
	At         time.Time
	LoadBefore string
	LoadAfter  string
	Systems    []*Result
	Absent     []string
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "hub" {
		if err := hubMain(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	o := options{command: cmp.Or(os.Getenv("BENCH_COMMAND"), "bench-peers "+strings.Join(os.Args[1:], " "))}
	var sizes, only string
	flag.StringVar(&sizes, "sizes", "100000", "placements, several with commas: 10000,100000,1000000")
	flag.IntVar(&o.rounds, "rounds", 3, "how often every system has its turn")
	flag.IntVar(&o.steps, "steps", 20_000, "updates of each kind and round")
	flag.DurationVar(&o.within, "query", 500*time.Millisecond, "how long each query is asked in each round")
	flag.Float64Var(&o.rate, "rate", 20_000, "updates a second that pour in while queries are asked")
	flag.Uint64Var(&o.seed, "seed", 1, "of the fleet and its changes")
	flag.StringVar(&only, "only", "quarry,postgresql,redis,crd", "the systems")
	flag.StringVar(&o.kube, "kube", "", "folder with etcd and kube-apiserver")
	flag.IntVar(&o.kubeN, "crd-objects", 2000, "placements in the API server, which takes no more in this time")
	flag.StringVar(&o.out, "out", "", "folder for results-SIZE.json")
	flag.StringVar(&o.docs, "docs", "", "rewrite the measured part of this page, and the pictures beside it, from all results in --out")
	flag.IntVar(&o.decide, "decide", 0, "only the rule for trimming, over so many slates in four regions, and the same as SQL")
	renderOnly := flag.Bool("render", false, "measure nothing; rewrite --docs")
	flag.Parse()
	if o.decide > 0 {
		return measureDecide(ctx, o)
	}
	for s := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1000 || n > 2_000_000 {
			return fmt.Errorf("-sizes %q: numbers from 1000 to 2000000, such as 10000,100000", sizes)
		}
		o.sizes = append(o.sizes, n)
	}
	o.only = strings.Split(only, ",")
	for _, n := range o.only {
		if !slices.Contains([]string{"quarry", "postgresql", "redis", "crd"}, n) {
			return fmt.Errorf("-only %q: of quarry, postgresql, redis, crd", n)
		}
	}
	differ := false
	for _, n := range o.sizes {
		if *renderOnly {
			break
		}
		r, err := measureSize(ctx, o, n)
		if err != nil {
			return err
		}
		printReport(os.Stdout, r)
		for _, s := range r.Systems {
			differ = differ || len(s.Differences) > 0
		}
		if o.out != "" {
			b, err := json.MarshalIndent(r, "", " ")
			if err != nil {
				return err
			}
			if err := os.MkdirAll(o.out, 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(o.out, fmt.Sprintf("results-%d.json", n)), append(b, '\n'), 0o644); err != nil {
				return err
			}
		}
	}
	if o.docs != "" {
		if err := renderDocs(o.docs, o.out); err != nil {
			return err
		}
	}
	if differ {
		return errors.New("answers differ: see above")
	}
	return nil
}

// regionsOf a fleet of n: as many for every size, so that only the size grows.
var regionNames = []string{"r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"}

func newContender(s system, n int, o options, steps int) (*contender, error) {
	f, err := load.New(load.Options{Regions: regionNames, Slates: max(1, n/len(regionNames)), Seed: o.seed, Epoch: 1000})
	if err != nil {
		return nil, err
	}
	var sizes []uint64
	var one load.Row
	for row := range f.Rows() {
		sizes = append(sizes, row.Bytes)
		if len(sizes) == n/2 {
			one = row
		}
	}
	slices.Sort(sizes)
	return &contender{
		system: s, fleet: f, queries: questions(regionNames, sizes[len(sizes)/2], &one), steps: steps,
		res: &Result{Name: s.name(), What: s.what(), Updates: map[string]*Samples{}, Queries: map[string]*QueryResult{}},
	}, nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

func measureSize(ctx context.Context, o options, n int) (*Report, error) {
	rep := &Report{Size: n, Regions: len(regionNames), Seed: o.seed, Rounds: o.rounds, Steps: o.steps, Rate: o.rate,
		Command: o.command, Machine: machine(), At: time.Now().UTC().Truncate(time.Second), LoadBefore: loadAverage()}
	dir, err := os.MkdirTemp("", "bench-peers-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// Servers that do not run as root must get through to their own folder.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	var all []*contender
	defer func() {
		for _, c := range slices.Backward(all) {
			c.close()
		}
	}()
	var hub *quarrySystem
	for _, name := range o.only {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			return nil, err
		}
		var s system
		var err error
		rows, steps := n, o.steps
		switch name {
		case "quarry":
			if hub, err = newQuarry(at, regionNames); err == nil {
				s = hub
			}
		case "postgresql":
			s, err = newPostgres(ctx, at)
		case "redis":
			s, err = newRedis(ctx, at)
		case "crd":
			s, err = newKube(ctx, at, o.kube)
			rows, steps = min(n, o.kubeN), min(o.steps, 1000)
		}
		if isAbsent(err) {
			progress("SKIPPED: %v", err)
			rep.Absent = append(rep.Absent, err.Error())
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c, err := newContender(s, rows, o, steps)
		if err != nil {
			s.close()
			return nil, err
		}
		all = append(all, c)
		rep.Systems = append(rep.Systems, c.res)
	}
	for _, c := range all {
		progress("%s takes in %d placements", c.name(), c.fleet.Size())
		if err := c.measureLoad(ctx); err != nil {
			return nil, err
		}
	}
	if err := checkAll(ctx, all, "after the load"); err != nil {
		return nil, err
	}
	for round := range o.rounds {
		if err := measureRound(ctx, o, all, round); err != nil {
			return nil, err
		}
	}
	if err := checkAll(ctx, all, "at the end"); err != nil {
		return nil, err
	}
	for _, c := range all {
		c.res.Rows = c.fleet.Size()
		c.res.ResidentKB = residentKB(c.pids())
		if c.res.Bytes, c.res.BytesOf, err = c.memory(ctx); err != nil {
			return nil, fmt.Errorf("%s: memory: %w", c.name(), err)
		}
	}
	if hub != nil {
		progress("the hub is restarted")
		took, err := hub.restart(ctx)
		if err != nil {
			return nil, fmt.Errorf("restart the hub: %w", err)
		}
		for _, c := range all {
			if c.system == system(hub) {
				c.res.Restart = took.Seconds()
			}
		}
	}
	rep.LoadAfter = loadAverage()
	return rep, nil
}

// measureRound gives every system its turn at everything; every other round
// goes the other way round, so that none always follows the same one.
func measureRound(ctx context.Context, o options, all []*contender, round int) error {
	order := slices.Clone(all)
	if round%2 == 1 {
		slices.Reverse(order)
	}
	for _, w := range works {
		progress("round %d: updates (%s)", round+1, w.name)
		for _, c := range order {
			if w.durable && c.name() != "PostgreSQL" || c.name() == "CRD" && w.name != "mix" {
				// The others have no such choice; they get the same changes.
				if err := c.apply(ctx, c.make(c.steps, w.next), false); err != nil {
					return err
				}
				continue
			}
			if err := c.measureUpdates(ctx, w); err != nil {
				return err
			}
		}
	}
	for _, c := range order {
		progress("round %d: queries of %s", round+1, c.name())
		if err := c.measureQueries(ctx, o.within); err != nil {
			return err
		}
		if c.name() == "CRD" {
			continue // 20,000 updates a second are not to be had there
		}
		if err := c.measureBusy(ctx, o.rate, o.within); err != nil {
			return err
		}
		quiet(ctx, c.pids(), time.Second)
	}
	// Those that took in less meanwhile get the rest, so that all are alike when
	// the next round begins.
	mixed := 0
	for _, c := range all {
		mixed = max(mixed, c.mixed)
	}
	for _, c := range all {
		if c.name() == "CRD" {
			continue // a smaller fleet of its own
		}
		if err := c.catchUp(ctx, mixed); err != nil {
			return err
		}
	}
	return nil
}

// checkAll compares all answers with the plain scan, and those of systems that
// hold the same with each other.
func checkAll(ctx context.Context, all []*contender, when string) error {
	for _, c := range all {
		progress("answers of %s are compared, %s", c.name(), when)
		if err := c.check(ctx, when); err != nil {
			return err
		}
		for _, d := range c.res.Differences {
			progress("DIFFERENT: %s: %s", c.name(), d)
		}
		first := all[0]
		if c.fleet.Size() < first.fleet.Size()/2 {
			continue
		}
		for _, q := range c.queries {
			if a, b := first.query(q).Hash, c.query(q).Hash; a != "" && b != "" && a != b {
				d := fmt.Sprintf("%s, %s: %s answers %s, %s answers %s", when, q.name, first.name(), a, c.name(), b)
				c.res.Differences = append(c.res.Differences, d)
				progress("DIFFERENT: %s", d)
			}
		}
	}
	return nil
}

// machine in words that say what matters and nothing that identifies it.
func machine() string {
	model := "unknown CPU"
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			break
		}
	}
	var mem string
	b, _ = os.ReadFile("/proc/meminfo")
	if f := strings.Fields(string(b)); len(f) > 1 {
		kb, _ := strconv.Atoi(f[1])
		mem = fmt.Sprintf("%d GiB", (kb+1<<19)>>20)
	}
	return fmt.Sprintf("%d cores of %s, %s, %s", runtime.NumCPU(), model, mem, runtime.Version())
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}
