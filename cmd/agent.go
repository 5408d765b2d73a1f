package cmd

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/agent"
	"github.com/quarry-db/quarry/agent/watch"
)

// agentFile is agent.yaml: the agent's own configuration and how to log.
type agentFile struct {
	agent.Config `yaml:",inline"`
	LogLevel     string `yaml:"log-level"`
	LogFormat    string `yaml:"log-format"`
}

func newAgent(a *app) *cobra.Command {
	flags := defaultAgent()
	var file string
	var checkOnly bool
	var logs logFlags
	c := &cobra.Command{
		Use:   "agent --region R --cluster C --bucket URL --discover PREFIX --hub HOST:PORT",
		Short: "Run the agent of one region: watch its bucket, tell the hub",
		Long: `The agent reads its region's bucket and reports what it sees to the hub, over one stream
that it opens itself; it listens on nothing. Of itself it writes nothing outside .quarry/, and
without the right to write there it still gives the whole inventory and says what it cannot keep.

--allow lists what it does at the hub's word, below the prefixes of --discover and never more
than its own bucket bears out; --allow "" is nothing. See docs/permissions.md for the rights that
each verb needs.

--discover names the prefixes in which slates are looked for; --discover "" is the whole
bucket. --budget bounds what it may ask of the bucket.`,
		Example: "  quarry agent --region eu --cluster eu-1 --bucket file:///srv/eu --discover \"\" --hub 127.0.0.1:7701\n" +
			"  quarry agent --region us --cluster us-1 --bucket 's3://slates?region=us-east-1' --discover dbs --discover logs --hub 127.0.0.1:7701",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg := agentFile{Config: defaultAgent(), LogLevel: "info", LogFormat: "text"}
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
			override(set("region"), &cfg.Region, flags.Region)
			override(set("cluster"), &cfg.Cluster, flags.Cluster)
			override(set("bucket"), &cfg.Bucket, flags.Bucket)
			override(set("discover"), &cfg.Discover, flags.Discover)
			override(set("exclude"), &cfg.Exclude, flags.Exclude)
			override(set("hub"), &cfg.Hub, flags.Hub)
			override(set("poll"), &cfg.Poll, flags.Poll)
			override(set("budget"), &cfg.Budget, flags.Budget)
			override(set("duty-ttl"), &cfg.DutyTTL, flags.DutyTTL)
			override(set("in-use"), &cfg.InUse, flags.InUse)
			override(set("status"), &cfg.Status, flags.Status)
			override(set("allow"), &cfg.Allow, flags.Allow)
			override(set("ledger"), &cfg.Ledger, flags.Ledger)
			override(set("log-level"), &cfg.LogLevel, logs.level)
			override(set("log-format"), &cfg.LogFormat, logs.format)
			if err := cfg.Validate(); err != nil {
				return withCode(exitUsage, inFile(file, said, set, err))
			}
			log, err := (&logFlags{cfg.LogLevel, cfg.LogFormat}).logger(a.err)
			if err != nil {
				return withCode(exitUsage, inFile(file, said, set, err))
			}
			// What no cloud need be asked for is checked here; a folder may be
			// made later.
			if !checkOnly || !isFolder(cfg.Bucket) {
				b, err := openBucket(c.Context(), cfg.Bucket)
				if err != nil {
					return err
				}
				_ = b.Close()
			}
			if checkOnly {
				_, err := fmt.Fprintln(a.out, "the configuration is good")
				return err
			}
			cfg.Version = buildVersion()
			err = agent.Run(c.Context(), cfg.Config, log)
			if code := exitCode(err); err != nil && (code == exitOK || code == exitInterrupted) {
				// Whoever restarts it must not take it for a clean end.
				return withCode(exitError, err)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file (YAML); unknown fields are refused")
	f.BoolVar(&checkOnly, "check", false, "only check the configuration")
	f.StringVar(&flags.Region, "region", "", "the region this bucket is of")
	f.StringVar(&flags.Cluster, "cluster", "", "this cluster's name")
	f.StringVar(&flags.Bucket, "bucket", "", "URL of the region's bucket")
	f.StringArrayVar(&flags.Discover, "discover", flags.Discover, "prefix in which to look for slates; may be repeated; \"\": the whole bucket")
	f.StringArrayVar(&flags.Exclude, "exclude", nil, "glob of roots to leave out; may be repeated")
	f.StringVar(&flags.Hub, "hub", flags.Hub, "hub's address for agents")
	f.DurationVar(&flags.Poll, "poll", flags.Poll, "how often a moving slate is asked for news")
	f.StringVar(&flags.Budget, "budget", flags.Budget, "requests it may make, such as 36000/h")
	f.DurationVar(&flags.DutyTTL, "duty-ttl", 0, "after how long without a beat others take over the region duty; 0: 30s, longer with a small budget")
	f.StringSliceVar(&flags.InUse, "in-use", nil, "SlateDB releases that open the databases here, such as 0.12.1,0.17.0: what they cannot open or would damage is a finding")
	f.StringVar(&flags.Status, "status", "", "loopback host:port or unix:/path for /livez, /status and POST /hint; empty: none")
	f.StringSliceVar(&flags.Allow, "allow", nil, "verbs to carry out; unless given hold,release,permit,withdraw,verify,resync,freeze,thaw")
	f.StringVar(&flags.Ledger, "ledger", "", "UUID of the hub's ledger to obey from now on, in place of the one that the bucket is pinned to")
	logs.register(f)
	return c
}

func isFolder(url string) bool {
	return !strings.Contains(url, "://") || strings.HasPrefix(url, "file:")
}

// defaultAgent is an agent's configuration before anything is said.
func defaultAgent() agent.Config {
	return agent.Config{Hub: "127.0.0.1:7701", Poll: watch.DefaultPoll, Budget: fmt.Sprintf("%d/h", watch.DefaultBudget)}
}
