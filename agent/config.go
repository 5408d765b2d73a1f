package agent

import (
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Config is what an agent is told: agent.yaml, over which flags rule.
type Config struct {
	// Region and Cluster name this agent's place; the hub's region set must
	// have the region.
	Region  string `yaml:"region"`
	Cluster string `yaml:"cluster"`
	// Bucket is the URL of the region's bucket.
	Bucket string `yaml:"bucket"`
	// Discover names the prefixes in which slates are looked for; "" is the
	// whole bucket.
	Discover []string `yaml:"discover"`
	// Exclude holds globs of roots that are left out ([path.Match], and
	// "prefix/**" for all below).
	Exclude []string `yaml:"exclude"`
	// Hub is the hub's host:port for agents.
	Hub string `yaml:"hub"`
	// Poll is how often a slate that moves is asked for news.
	Poll time.Duration `yaml:"poll"`
	// Budget bounds the requests to the bucket: "N/h".
	Budget string `yaml:"budget"`
	// Status is a loopback address for /livez and /status; empty: none.
	Status string `yaml:"status"`

	// Version is the build's, for people.
	Version string `yaml:"-"`
}

// Defaults is the configuration before anything is said.
func Defaults() Config {
	return Config{Hub: "127.0.0.1:7701", Poll: time.Second, Budget: "360000/h"}
}

// Validate checks the whole. Its errors name the field, its value, and a value
// that would be right.
func (c *Config) Validate() error {
	for _, f := range []struct{ field, v, as string }{{"region", c.Region, "eu-west"}, {"cluster", c.Cluster, "eu-west-1"}} {
		if f.v == "" {
			return fmt.Errorf("%s is not set: name it, such as --%s %s", f.field, f.field, f.as)
		}
		if err := catalog.CheckName(f.v); err != nil || strings.Contains(f.v, "/") {
			return fmt.Errorf("%s %q: printable text without a slash, such as %s", f.field, f.v, f.as)
		}
	}
	if c.Bucket == "" {
		return errors.New("bucket is not set: give its URL, such as --bucket file:///srv/eu or --bucket 's3://slates?region=eu-west-1'")
	}
	if len(c.Discover) == 0 {
		return errors.New("discover is not set: name the prefixes to look in, such as --discover dbs; --discover \"\" is the whole bucket")
	}
	for _, g := range c.Exclude {
		if _, err := path.Match(g, "x"); err != nil {
			return fmt.Errorf("exclude %q: a glob such as dbs/test-* or tmp/**", g)
		}
	}
	if _, _, err := net.SplitHostPort(c.Hub); err != nil {
		return fmt.Errorf("hub %q: host and port of the hub's door for agents, such as 127.0.0.1:7701", c.Hub)
	}
	if c.Poll < 50*time.Millisecond || c.Poll > 5*time.Minute {
		return fmt.Errorf("poll %s: between 50ms and 5m, such as 1s", c.Poll)
	}
	if _, err := c.PerHour(); err != nil {
		return err
	}
	if c.Status != "" {
		host, _, err := net.SplitHostPort(c.Status)
		ip := net.ParseIP(host)
		if err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("status %q: a loopback address, such as 127.0.0.1:7702; an agent listens on nothing else", c.Status)
		}
	}
	return nil
}

// PerHour is the budget as a number of requests an hour.
func (c *Config) PerHour() (float64, error) {
	n, ok := strings.CutSuffix(c.Budget, "/h")
	v, err := strconv.ParseFloat(n, 64)
	if !ok || err != nil || v < 60 || v > 1e9 {
		return 0, fmt.Errorf("budget %q: requests an hour, at least 60/h, such as 36000/h", c.Budget)
	}
	return v, nil
}
