package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/agent/watch"
)

func good(t *testing.T) Config {
	return Config{Region: "eu", Cluster: "eu-1", Bucket: "file://" + t.TempDir(), Discover: []string{""}, Hub: "127.0.0.1:1", Poll: 10 * time.Millisecond}
}

func TestAWrongConfigurationNamesFieldValueAndCure(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Region = "" }, `region "": is needed; for example eu-west`},
		{func(c *Config) { c.Cluster = "a/b" }, `cluster "a/b": a name without slashes`},
		{func(c *Config) { c.Bucket = "" }, `bucket "": the URL`},
		{func(c *Config) { c.Hub = "hub" }, `hub "hub": host:port`},
		{func(c *Config) { c.Hub = "10.0.0.1:7701" }, `must be on this machine`},
		{func(c *Config) { c.Poll = time.Hour }, `poll "1h0m0s": between`},
		{func(c *Config) { c.Budget = "many" }, `budget "many": requests per hour, at least 60/h`},
		{func(c *Config) { c.Budget = "5/h" }, `budget "5/h"`},
		{func(c *Config) { c.DutyTTL = time.Millisecond }, `duty-ttl "1ms": between`},
		{func(c *Config) { c.Discover = []string{"a/../b"} }, `discover "a/../b"`},
		{func(c *Config) { c.Exclude = []string{"[x"} }, `exclude "[x"`},
		{func(c *Config) { c.Status = "0.0.0.0:7702" }, `status "0.0.0.0:7702": a loopback`},
	} {
		cfg := good(t)
		c.change(&cfg)
		err := cfg.Validate()
		var field *FieldError
		if !errors.As(err, &field) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	cfg := good(t)
	cfg.Budget, cfg.Status = "10/s", "unix:/tmp/x"
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	if n, _ := cfg.requestsPerHour(); n != 36000 {
		t.Errorf("10/s is %v/h", n)
	}
}

// Another region's bucket ends the agent at once, with both names.
func TestOD12_AnotherRegionsBucketIsRefused(t *testing.T) {
	cfg := good(t)
	dir := strings.TrimPrefix(cfg.Bucket, "file://")
	if err := os.Mkdir(filepath.Join(dir, ".quarry"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".quarry/region.json"), []byte(`{"version":1,"region":"us","bucket":"b"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if !errors.Is(err, watch.ErrAnotherRegion) || !strings.Contains(err.Error(), `"us"`) || !strings.Contains(err.Error(), `"eu"`) {
		t.Errorf("%v", err)
	}
}

// An agent without a hub looks all the same, says so on its status port, and
// ends cleanly.
func TestAnAgentWithoutAHubLooksAndSaysSo(t *testing.T) {
	cfg := good(t)
	cfg.Status = "unix:" + filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg, slog.New(slog.DiscardHandler)) }()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(cfg.Status, "unix:"))
	}}}
	defer client.CloseIdleConnections()
	var s Status
	for deadline := time.Now().Add(20 * time.Second); !s.Ready && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		resp, err := client.Get("http://agent/status")
		if err != nil {
			continue
		}
		if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if !s.Ready || s.Region != "eu" || !s.Health.ReadOK || s.Link.Connected {
		t.Errorf("%+v", s)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
