package agent

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/agent/execute"
	"github.com/quarry-db/quarry/agent/watch"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// Config says which bucket an agent watches and to whom it reports. The yaml
// names are those of the configuration file; flags have the same names with
// dashes.
type Config struct {
	Region  string `yaml:"region"`
	Cluster string `yaml:"cluster"`
	// Bucket is the region's bucket as bucket.Open takes it.
	Bucket string `yaml:"bucket"`
	// Discover are the folders below which slates are looked for; "" is the
	// whole bucket. None: only what is registered is followed.
	Discover []string `yaml:"discover"`
	// Exclude are globs of folders that are not looked into.
	Exclude []string `yaml:"exclude"`
	// Hub is host:port of the hub's agent port; a loopback address, until
	// there are certificates.
	Hub string `yaml:"hub"`
	// Poll is how often what moves is looked at; 0: 1s.
	Poll time.Duration `yaml:"poll"`
	// Budget is how many requests the agent may make of the bucket, as in
	// "360000/h"; "": that.
	Budget string `yaml:"budget"`
	// DutyTTL is after how long without a beat of this agent others take the
	// region duty over; 0: 30s, or longer where the budget is small. It is the
	// pace of the duty's own requests too: two in a third of it.
	DutyTTL time.Duration `yaml:"duty-ttl"`
	// InUse are the SlateDB releases that open the databases of this bucket, such
	// as "0.12.1": what they cannot open or would damage is found. None: not known.
	InUse []string `yaml:"in-use"`
	// Status is where the status port listens: a loopback host:port or
	// unix:/path; "": nowhere.
	Status string `yaml:"status"`

	// Allow are the verbs that the agent carries out at the hub's word; nil:
	// catalog.DefaultVerbs. None: it only looks.
	Allow []string `yaml:"allow"`
	// Ledger is the UUID of a hub's ledger that the region obeys from now on; "":
	// the one that its bucket is pinned to, or the first that decides.
	Ledger string `yaml:"ledger"`

	// Version of the program, for people.
	Version string `yaml:"-"`
}

// FieldError says which field of a [Config] is wrong, and what would be right.
type FieldError struct {
	Field string // its name in the configuration file
	Value string
	Why   string
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s %q: %s", e.Field, e.Value, e.Why) }

// Validate checks a configuration. Errors are *[FieldError]s.
func (c *Config) Validate() error {
	for _, name := range []struct{ field, value, example string }{{"region", c.Region, "eu-west"}, {"cluster", c.Cluster, "eu-west-1"}} {
		if err := checkWord(name.value); err != "" {
			return &FieldError{name.field, name.value, err + "; for example " + name.example}
		}
	}
	if c.Bucket == "" {
		return &FieldError{"bucket", "", "the URL of the region's bucket, for example file:///var/lib/quarry/eu or s3://bucket?region=eu-west-1"}
	}
	for _, d := range c.Discover {
		if p := strings.Trim(d, "/"); p != "" && catalog.CheckName(p) != nil {
			return &FieldError{"discover", d, "a folder such as dbs, or \"\" for the whole bucket"}
		}
	}
	if err := checkHub(c.Hub); err != "" {
		return &FieldError{"hub", c.Hub, err}
	}
	if c.Poll != 0 && (c.Poll < 10*time.Millisecond || c.Poll > time.Minute) {
		return &FieldError{"poll", c.Poll.String(), "between 10ms and 1m, for example 1s"}
	}
	if _, err := c.requestsPerHour(); err != nil {
		return err
	}
	if c.DutyTTL != 0 && (c.DutyTTL < time.Second || c.DutyTTL > time.Hour) {
		return &FieldError{"duty-ttl", c.DutyTTL.String(), "between 1s and 1h, for example 30s"}
	}
	for _, release := range c.InUse {
		if err := slatedb.CheckRelease(release); err != nil {
			return &FieldError{"in-use", release, "a release of SlateDB, for example 0.12.1"}
		}
	}
	if c.Status != "" {
		if _, _, err := statusAddress(c.Status); err != nil {
			return &FieldError{"status", c.Status, err.Error()}
		}
	}
	for _, v := range c.Allow {
		do := c.execution("", nil)
		do.Allow = []catalog.Verb{catalog.Verb(v)}
		if err := do.Validate(); err != nil {
			return &FieldError{"allow", v, err.Error()}
		}
	}
	do := c.execution("", nil)
	if err := do.Validate(); err != nil {
		return &FieldError{"ledger", c.Ledger, err.Error()}
	}
	o := watch.Options{Region: c.Region, Exclude: c.Exclude}
	if err := o.Validate(); err != nil {
		return &FieldError{"exclude", strings.Join(c.Exclude, ","), err.Error()}
	}
	return nil
}

// execution says what the agent does at the hub's word.
func (c *Config) execution(holder string, onDuty func() bool) execute.Options {
	o := execute.Options{Region: c.Region, Holder: cmp.Or(holder, "nobody"), OnDuty: onDuty, Prefixes: c.Discover, Ledger: c.Ledger}
	if onDuty == nil {
		o.OnDuty = func() bool { return false }
	}
	if c.Allow != nil {
		o.Allow = []catalog.Verb{}
	}
	for _, v := range c.Allow {
		o.Allow = append(o.Allow, catalog.Verb(v))
	}
	return o
}

func checkWord(s string) string {
	switch {
	case s == "":
		return "is needed"
	case len(s) > 63:
		return "at most 63 bytes"
	case catalog.CheckName(s) != nil || strings.Contains(s, "/"):
		return "a name without slashes"
	}
	return ""
}

func checkHub(addr string) string {
	const example = "for example 127.0.0.1:7701"
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "host:port of the hub's agent port, " + example
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "the port is a number up to 65535, " + example
	}
	if !loopback(host) {
		return "until there are certificates the hub must be on this machine, " + example
	}
	return ""
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// requestsPerHour reads the budget; 0 stands for the default.
func (c *Config) requestsPerHour() (float64, error) {
	if c.Budget == "" {
		return 0, nil
	}
	number, per, _ := strings.Cut(c.Budget, "/")
	hours := map[string]float64{"": 1, "h": 1, "m": 60, "s": 3600}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	factor, known := hours[strings.TrimSpace(per)]
	if err != nil || !known || !(n*factor >= 60) || n*factor > 1e12 {
		return 0, &FieldError{"budget", c.Budget, "requests per hour, at least 60/h, for example 360000/h"}
	}
	return n * factor, nil
}

// statusAddress is the network and the address of the status port. It is never
// reachable from another machine.
func statusAddress(s string) (network, addr string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return "", "", fmt.Errorf("unix: needs a path, for example unix:/run/quarry/agent.sock")
		}
		return "unix", path, nil
	}
	host, _, err := net.SplitHostPort(s)
	if err != nil || !loopback(host) {
		return "", "", fmt.Errorf("a loopback host:port or unix:/path, for example 127.0.0.1:7702")
	}
	return "tcp", s, nil
}
