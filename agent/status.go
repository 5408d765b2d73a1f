package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/agent/watch"
)

// status answers /livez and /status on a port of this machine only.
type status struct {
	l       net.Listener
	report  *report.Report
	watch   *watch.Watcher
	cfg     Config
	started time.Time
}

// Status is what /status says.
type Status struct {
	Region  string        `json:"region"`
	Cluster string        `json:"cluster"`
	Version string        `json:"version"`
	Started time.Time     `json:"started"`
	Health  watch.Health  `json:"health"`
	Slates  int           `json:"slates"`
	Ready   bool          `json:"ready"` // everything was looked at once
	Link    report.Status `json:"link"`
}

func listen(ctx context.Context, where string) (*status, error) {
	network, addr, err := statusAddress(where)
	if err != nil {
		return nil, fmt.Errorf("status %q: %w", where, err)
	}
	if network == "unix" {
		// What an earlier process left behind; a socket only.
		if info, err := os.Lstat(addr); err == nil && info.Mode()&os.ModeSocket != 0 {
			_ = os.Remove(addr)
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("status port: %w", err)
	}
	return &status{l: l}, nil
}

func (s *status) run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(s.now()) // who asked has gone
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status port: %w", err)
	}
	return nil
}

func (s *status) now() Status {
	slates, ready := s.watch.Progress()
	return Status{
		Region: s.cfg.Region, Cluster: s.cfg.Cluster, Version: s.cfg.Version, Started: s.started,
		Health: s.watch.Health(), Slates: slates, Ready: ready, Link: s.report.Status(),
	}
}
