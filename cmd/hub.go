package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/hub"
	"github.com/quarry-db/quarry/hub/api"
	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/session"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/regions"
)

// hubConfig is hub.yaml; flags of the same names rule over it.
type hubConfig struct {
	Listen      string        `yaml:"listen"`
	AgentListen string        `yaml:"agent-listen"`
	Store       string        `yaml:"store"`
	Regions     []string      `yaml:"regions"`
	Beat        time.Duration `yaml:"beat"`
	StaleAfter  time.Duration `yaml:"stale-after"`
	HoldEvery   time.Duration `yaml:"hold-every"`
	SlateHour   int           `yaml:"slate-hour"`
	RegionHour  int           `yaml:"region-hour"`
	FleetHour   int           `yaml:"fleet-hour"`
	LogLevel    string        `yaml:"log-level"`
	LogFormat   string        `yaml:"log-format"`
}

func defaultHubConfig() hubConfig {
	return hubConfig{
		Listen: "127.0.0.1:7700", AgentListen: "127.0.0.1:7701", Store: "file://./quarry-data/hub?create=true",
		Beat: 5 * time.Second, StaleAfter: time.Minute, HoldEvery: 10 * time.Minute, SlateHour: 6, RegionHour: 200, FleetHour: 500, LogLevel: "info", LogFormat: "text",
	}
}

// validate names the field, the value, and a value that would be right.
func (c *hubConfig) validate() error {
	switch {
	case c.Beat < 100*time.Millisecond || c.Beat > time.Minute:
		return usagef("beat %s: between 100ms and 1m, such as 5s", c.Beat)
	case c.StaleAfter < 2*c.Beat:
		return usagef("stale-after %s: at least twice the beat of %s, such as %s", c.StaleAfter, c.Beat, 12*c.Beat)
	case c.HoldEvery < time.Second:
		return usagef("hold-every %s: at least 1s, such as 10m", c.HoldEvery)
	case len(c.Regions) > 0 && regionsError(c.Regions) != nil:
		return usagef("regions %q: %w", strings.Join(c.Regions, ","), regionsError(c.Regions))
	case c.Store == "":
		return usagef("store is empty: the URL of the hub's own bucket, such as file:///var/lib/quarry")
	}
	for _, n := range []struct {
		field string
		v     int
	}{{"slate-hour", c.SlateHour}, {"region-hour", c.RegionHour}, {"fleet-hour", c.FleetHour}} {
		if n.v < 1 || n.v > 1_000_000 {
			return usagef("%s %d: from 1 to 1000000, such as 500", n.field, n.v)
		}
	}
	for _, addr := range []struct{ field, v string }{{"listen", c.Listen}, {"agent-listen", c.AgentListen}} {
		host, _, err := net.SplitHostPort(addr.v)
		if err != nil {
			return usagef("%s %q: host and port, such as 127.0.0.1:7700", addr.field, addr.v)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return usagef("%s %q: a loopback address, such as 127.0.0.1:7700; there are no certificates yet, so nobody else may reach this hub", addr.field, addr.v)
		}
	}
	return nil
}

func regionsError(names []string) error {
	_, err := regions.Parse(names)
	return err
}

func newHub(a *app) *cobra.Command {
	flags := defaultHubConfig()
	var file string
	var checkOnly bool
	var logs logFlags
	c := &cobra.Command{
		Use:   "hub --regions a,b,c",
		Short: "Run the hub: the global view, the web API, the agents' door",
		Long: `The hub keeps the global view of all regions. It has no credentials for any region's
bucket: agents come to it. Its own bucket (a folder by default) holds the region set, the
events and the saved view.

--regions initialises an empty store. Afterwards the stored set rules, and a different
--regions refuses to start, so that no region is dropped by a typo.`,
		Example: "  quarry hub --regions eu,us\n  quarry hub --store s3://quarry-hub?region=eu-west-1 --regions eu,us,ap",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg := defaultHubConfig()
			var said []byte // of the file
			if file != "" {
				var err error
				if said, err = os.ReadFile(file); err != nil {
					return withCode(exitUsage, fmt.Errorf("read the configuration: %w", err))
				}
				if err := decodeStrict(file, said, &cfg); err != nil {
					return err
				}
			}
			set := c.Flags().Changed
			override(set("listen"), &cfg.Listen, flags.Listen)
			override(set("agent-listen"), &cfg.AgentListen, flags.AgentListen)
			override(set("store"), &cfg.Store, flags.Store)
			override(set("regions"), &cfg.Regions, flags.Regions)
			override(set("beat"), &cfg.Beat, flags.Beat)
			override(set("stale-after"), &cfg.StaleAfter, flags.StaleAfter)
			override(set("hold-every"), &cfg.HoldEvery, flags.HoldEvery)
			override(set("slate-hour"), &cfg.SlateHour, flags.SlateHour)
			override(set("region-hour"), &cfg.RegionHour, flags.RegionHour)
			override(set("fleet-hour"), &cfg.FleetHour, flags.FleetHour)
			override(set("log-level"), &cfg.LogLevel, logs.level)
			override(set("log-format"), &cfg.LogFormat, logs.format)
			if err := cfg.validate(); err != nil {
				return withCode(exitUsage, inFile(file, said, set, err))
			}
			log, err := (&logFlags{cfg.LogLevel, cfg.LogFormat}).logger(a.err)
			if err != nil {
				return withCode(exitUsage, inFile(file, said, set, err))
			}
			if checkOnly {
				_, err := fmt.Fprintln(a.out, "the configuration is good")
				return err
			}
			return runHub(c.Context(), cfg, log, nil)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file (YAML); unknown fields are refused")
	f.BoolVar(&checkOnly, "check", false, "only check the configuration")
	f.StringVar(&flags.Listen, "listen", flags.Listen, "web API's address, loopback only until there are certificates")
	f.StringVar(&flags.AgentListen, "agent-listen", flags.AgentListen, "agents' address, loopback only until there are certificates")
	f.StringVar(&flags.Store, "store", flags.Store, "URL of the hub's own bucket")
	f.StringSliceVar(&flags.Regions, "regions", nil, "the region set, for an empty store")
	f.DurationVar(&flags.Beat, "beat", flags.Beat, "how often agents beat")
	f.DurationVar(&flags.StaleAfter, "stale-after", flags.StaleAfter, "a region not heard for this long is stale")
	f.DurationVar(&flags.HoldEvery, "hold-every", flags.HoldEvery, "how often the hold of a slate that is trimmed moves on at most")
	f.IntVar(&flags.SlateHour, "slate-hour", flags.SlateHour, "what may be let go of in an hour of one slate in one region: decisions; more waits")
	f.IntVar(&flags.RegionHour, "region-hour", flags.RegionHour, "the same of one region")
	f.IntVar(&flags.FleetHour, "fleet-hour", flags.FleetHour, "the same in all")
	logs.register(f)
	return c
}

func override[T any](changed bool, to *T, from T) {
	if changed {
		*to = from
	}
}

// runHub runs hub, session server and API until ctx ends or one fails. ready,
// when not nil, is called with the two addresses once both listen.
func runHub(ctx context.Context, cfg hubConfig, log *slog.Logger, ready func(web, agents string)) error {
	store, err := openBucket(ctx, cfg.Store)
	if err != nil {
		return fmt.Errorf("the hub's store: %w", err)
	}
	defer store.Close()
	if err := store.CheckPutNew(ctx, "check/"); err != nil {
		return fmt.Errorf("the hub's store: %w", err)
	}
	var lc net.ListenConfig
	people, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for people: %w; is another hub running? choose another --listen", err)
	}
	defer people.Close()
	agents, err := lc.Listen(ctx, "tcp", cfg.AgentListen)
	if err != nil {
		return fmt.Errorf("listen for agents: %w; is another hub running? choose another --agent-listen", err)
	}
	defer agents.Close()

	// The three know each other by hand: agents' frames go to the loop, the
	// loop's messages go to the sessions, and the API reads what the loop shows.
	var server *session.Server
	host, _ := os.Hostname()
	h, err := hub.New(ctx, hub.Config{
		Regions: cfg.Regions, Store: store, Log: log, SaveEvery: 5 * time.Second,
		State: hookState(state.Config{Beat: cfg.Beat, StaleAfter: cfg.StaleAfter, HoldEvery: cfg.HoldEvery,
			Budgets: state.Budgets{SlateHour: cfg.SlateHour, RegionHour: cfg.RegionHour, FleetHour: cfg.FleetHour}}),
		Holder: fmt.Sprintf("%s pid %d", host, os.Getpid()), ID: ulid.Make().String(),
		Post: func(to state.SessionID, m state.Message) { server.Post(to, m) },
	})
	if errors.Is(err, ledger.ErrRegions) && exitCode(err) == exitError {
		return withCode(exitRefused, err)
	} else if err != nil {
		return err
	}
	server = session.New(session.Options{Inbox: h, Log: log, Beat: cfg.Beat})
	web, err := api.New(h, api.Options{Log: log, Version: buildVersion(), Ledger: h})
	if err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.Run(ctx) })
	g.Go(func() error { return server.Run(ctx, agents) })
	g.Go(func() error { return web.Run(ctx, people) })
	log.Info("hub is up", "web", "http://"+people.Addr().String(), "agents", agents.Addr().String(), "store", store.URL(), "ledger", h.Ledger(), "version", buildVersion())
	if ready != nil {
		ready(people.Addr().String(), agents.Addr().String())
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("hub has ended")
	return nil
}
