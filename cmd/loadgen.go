package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/e2e/load"
	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func newLoadgen(a *app) *cobra.Command {
	var p load.Plan
	var logs logFlags
	c := &cobra.Command{
		Use:    "loadgen --hub HOST:PORT --regions a,b,c --slates N --rate R --duration D --seed S",
		Short:  "Load a hub with agents of regions that do not exist",
		Hidden: true,
		Long: `Starts one agent for each region, with N slates each, over the real protocol, and then
changes R slates a second in all: 90 % new positions, 9 % new manifests by another writer,
1 % slates made and deleted. The hub must know the regions (quarry hub --regions a,b,c) and
is one that nothing else depends on: what is told to it is invented.

The same --seed makes the same changes. Progress goes to stderr on a terminal; at the end,
or on SIGTERM, a summary is printed as JSON.`,
		Example: "  quarry loadgen --hub 127.0.0.1:7701 --regions eu,us,ap --slates 10000 --rate 5000 --duration 30s --seed 1",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := logs.logger(a.err)
			if err != nil {
				return err
			}
			if p.Rate < 0 || p.Rate > 10_000_000 {
				return usagef("--rate %g: changes a second, 0 to 10000000, such as 5000", p.Rate)
			}
			if p.Duration < 0 {
				return usagef("--duration %s: 0 (until it is ended) or more, such as 30s", p.Duration)
			}
			if p.Link.PerOne < 1 || p.Link.PerOne > 1000 {
				return usagef("--agents %d: 1 to 1000 for each region", p.Link.PerOne)
			}
			now := time.Now()
			// A later run of the same regions is the same databases, further on.
			p.Fleet.Epoch, p.Link.Start = uint64(now.Unix()), uint64(now.UnixMilli())
			p.Link.Seed, p.Link.Log, p.Link.Version = p.Fleet.Seed, log, buildVersion()
			if err := p.Fleet.Validate(); errors.Is(err, catalog.ErrInvalid) {
				return withCode(exitUsage, err)
			}
			if err := reachable(c.Context(), p.Link.Hub); err != nil {
				return err
			}
			if isTerminal(a.err) {
				p.Progress = func(s load.Progress) { showProgress(a.err, s) }
			}
			sum, err := load.Run(c.Context(), p)
			if p.Progress != nil {
				fmt.Fprint(a.err, "\r\033[K")
			}
			if errors.Is(err, load.ErrRefused) {
				err = withCode(exitRefused, err)
			}
			if sum.Load.Facts > 0 {
				e := json.NewEncoder(a.out)
				e.SetIndent("", "  ")
				err = errors.Join(e.Encode(sum), err)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&p.Link.Hub, "hub", "127.0.0.1:7701", "the hub's address for agents, a loopback one")
	f.StringSliceVar(&p.Fleet.Regions, "regions", nil, "the regions, all of them known to the hub")
	f.IntVar(&p.Fleet.Slates, "slates", 1000, "slates of each region")
	f.Float64Var(&p.Rate, "rate", 1000, "changes a second, over all regions")
	f.DurationVar(&p.Duration, "duration", 30*time.Second, "how long to change; 0: until it is ended")
	f.Uint64Var(&p.Fleet.Seed, "seed", 1, "what happens, and in which order")
	f.IntVar(&p.Link.PerOne, "agents", 1, "agents of each region; the hub lets one report, the others stand by")
	f.DurationVar(&p.LoadWithin, "load-within", 10*time.Minute, "how long the hub may take to hear of everything that exists")
	logs.register(f)
	_ = f.Set("log-level", "error")
	return c
}

// reachable tells a hub that is not there from one that comes and goes while
// it is loaded.
func reachable(ctx context.Context, addr string) error {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("%w: %w; is a hub running, and is this its address for agents (--agent-listen)?", apiclient.ErrUnreachable, err)
	}
	return conn.Close()
}

func showProgress(w io.Writer, s load.Progress) {
	of := ""
	if s.Duration > 0 {
		of = " of " + s.Duration.String()
	}
	line := fmt.Sprintf("%s %s%s", s.Phase, s.Elapsed.Round(time.Second), of)
	switch s.Phase {
	case "load":
		line += fmt.Sprintf(", %d of %d facts acknowledged", s.Facts-min(s.Behind, s.Facts), s.Facts)
	default:
		line += fmt.Sprintf(", %d changes, %d not acknowledged, p99 %s", s.Sent, s.Behind, s.P99.Round(time.Millisecond))
	}
	fmt.Fprint(w, "\r\033[K"+line)
}
