// Package api is the hub's public web API on net/http: resources as JSON
// under /v1, watched as server-sent events, errors as RFC 9457 problems,
// described by /openapi.json. The command line and the pages use nothing else.
//
// It never decides anything and never blocks the hub: every answer is read
// from one immutable view, and a slow reader holds nothing but that view.
// There is no authentication yet, so it serves loopback addresses only.
//
// Begin with [New]; operations.go lists everything it can be asked.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
)

// Source is what the API needs of the hub. All methods may be called by many
// at once.
type Source interface {
	// View is the newest view; it never blocks. Nil: none is loaded yet.
	View() *view.View
	// Wait blocks until the newest view's Seq is above seq (nil) or ctx ends
	// (its error).
	Wait(ctx context.Context, seq uint64) error
	// AcceptRegion and Forget carry a person's word to the hub's loop and
	// return when it has been applied or refused. A refusal of an unknown name
	// wraps fs.ErrNotExist, one by a rule state.ErrNothingToAccept or
	// state.ErrNotMissing.
	AcceptRegion(ctx context.Context, name, by string) error
	Forget(ctx context.Context, region, slate, by string) error
	// Do carries any other command to the hub's loop and returns when it is in
	// force, or with its refusal.
	Do(ctx context.Context, c state.Command) error
}

// Options of the API; the zero value works.
type Options struct {
	Version string       // of the program, shown in the OpenAPI answer's headers and metrics
	Log     *slog.Logger // nil: slog.Default
	// Metrics is where the API's own metrics go and what /metrics shows; nil
	// makes a registry of its own.
	Metrics *prometheus.Registry
	// Ledger is the hub's; nil: there is none, and nothing is said of it.
	Ledger Ledger
	// Now is the hub's clock; nil: time.Now.
	Now func() time.Time
	// Hosts are names besides loopback ones that a request may be addressed
	// to. Others are refused, or any web page could read the hub by binding
	// its own name to this machine.
	Hosts []string

	MaxWatchers int           // streams at once; 0: 1000
	Heartbeat   time.Duration // of streams; 0: 15 s
	Settle      time.Duration // a stream waits so long for more changes before it sends; 0: 50 ms
	Patience    time.Duration // a stream's reader may take so long to read; 0: 30 s
}

// Validate fills in the zero values, and refuses values that cannot work.
func (o *Options) Validate() error {
	if o.MaxWatchers < 0 || o.Heartbeat < 0 || o.Settle < 0 || o.Patience < 0 {
		return errors.New("api options: MaxWatchers, Heartbeat, Settle and Patience must not be negative; 0 is a good default")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.MaxWatchers = or(o.MaxWatchers, 1000)
	o.Heartbeat = or(o.Heartbeat, 15*time.Second)
	o.Settle = or(o.Settle, 50*time.Millisecond)
	o.Patience = or(o.Patience, 30*time.Second)
	return nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// API answers requests. Make it with [New].
type API struct {
	src      Source
	o        Options
	ops      []*operation
	document []byte
	metrics  *metrics
	once     *onces
	watchers atomic.Int64
}

// New makes the API; it starts nothing.
func New(src Source, o Options) (*API, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	a := &API{src: src, o: o, ops: operations(), once: newOnces(o.Now)}
	doc, err := document(a.ops)
	if err != nil {
		return nil, err
	}
	a.document = doc
	a.metrics, err = newMetrics(a)
	return a, err
}

// Limits of the HTTP server.
const (
	maxBody    = 64 << 10
	maxHeader  = 64 << 10
	writeLimit = time.Minute
	graceful   = 5 * time.Second
)

// Run serves on lis until ctx ends, then closes streams, lets other answers
// finish for a few seconds, and returns nil. It refuses listeners that others
// than this machine can reach, for there is no authentication yet.
func (a *API) Run(ctx context.Context, lis net.Listener) error {
	if err := loopback(lis.Addr()); err != nil {
		lis.Close()
		return err
	}
	streams, stop := context.WithCancel(ctx)
	defer stop()
	srv := &http.Server{
		Handler:           a,
		BaseContext:       func(net.Listener) context.Context { return streams },
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(a.o.Log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the web API on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	stop()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceful)
	defer cancel()
	if err := srv.Shutdown(last); err != nil {
		_ = srv.Close()
	}
	if err := <-served; err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the web API on %s: %w", lis.Addr(), err)
	}
	return nil
}

// loopback refuses addresses that other machines can reach.
func loopback(addr net.Addr) error {
	switch x := addr.(type) {
	case *net.TCPAddr:
		if x.IP.IsLoopback() {
			return nil
		}
	case *net.UnixAddr:
		return nil
	}
	return fmt.Errorf("refuse to serve the web API on %s: there is no authentication yet, so only this machine may reach it; listen on 127.0.0.1:7700 or [::1]:7700", addr)
}

// hostAllowed says whether a request's Host names this machine.
func (a *API) hostAllowed(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if name == "localhost" {
		return true
	}
	if ip := net.ParseIP(name); ip != nil && ip.IsLoopback() {
		return true
	}
	for _, h := range a.o.Hosts {
		if strings.EqualFold(name, h) {
			return true
		}
	}
	return false
}
