package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/agent/watch"
)

// status answers /livez and /status, and takes /hint, on a port of this machine
// only.
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
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status port: %w", err)
	}
	return nil
}

func (s *status) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(s.now()) // who asked has gone
	})
	mux.HandleFunc("POST /hint", s.hint)
	return mux
}

// Hint is the body of POST /hint: a writer's word to the agent beside it that
// something has changed at a root, so that it is looked at now and not in its
// turn. It is no evidence of anything.
type Hint struct {
	Root string `json:"root"` // key of the root from the bucket's root
}

// maxHint is how large the body of a hint may be, in bytes.
const maxHint = 4 << 10

func (s *status) hint(w http.ResponseWriter, r *http.Request) {
	// A page in a browser on this machine can send a form to any port, but not
	// this type, and not under a name that is this machine's.
	if s.reachedByName(r.Host) {
		http.Error(w, "send it to this machine's own address", http.StatusForbidden)
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		http.Error(w, `send {"root": "dbs/orders"} as application/json`, http.StatusUnsupportedMediaType)
		return
	}
	var h Hint
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxHint))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		http.Error(w, fmt.Sprintf(`%v; send {"root": "dbs/orders"}`, err), http.StatusBadRequest)
		return
	}
	switch err := s.watch.Hint(h.Root); {
	case err == nil:
		w.WriteHeader(http.StatusAccepted)
	case errors.Is(err, watch.ErrNotFollowed):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, watch.ErrTooManyHints):
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusTooManyRequests)
	default:
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// reachedByName reports whether a request came over the network and called us
// by another name than loopback's: somebody else's name was pointed at us.
func (s *status) reachedByName(host string) bool {
	if s.l != nil && s.l.Addr().Network() == "unix" {
		return false
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return !loopback(strings.Trim(host, "[]"))
}

func (s *status) now() Status {
	slates, ready := s.watch.Progress()
	return Status{
		Region: s.cfg.Region, Cluster: s.cfg.Cluster, Version: s.cfg.Version, Started: s.started,
		Health: s.watch.Health(), Slates: slates, Ready: ready, Link: s.report.Status(),
	}
}
