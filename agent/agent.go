// Package agent is the loop of one cluster: it ties the watcher, which looks
// at the region's bucket, to the report, which tells the hub. It listens on
// nothing but, when asked to, a loopback status address.
//
// Begin with [Run].
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/agent/watch"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Run watches and reports until ctx ends, and returns nil then. It returns an
// error when the configuration cannot work, when the store ignores
// create-if-absent, or when the bucket is another region's. An unreachable hub
// or an unreadable bucket is no error: it goes on trying and says so.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	budget, err := cfg.PerHour()
	if err != nil {
		return err
	}
	b, err := bucket.Open(ctx, cfg.Bucket)
	if err != nil {
		return err
	}
	defer b.Close()
	// Only a store that proves the opposite is refused: one that cannot be
	// written or reached now is the watcher's to tell.
	if err := b.CheckPutNew(ctx, catalog.Prefix); errors.Is(err, bucket.ErrPutNewIgnored) {
		return err
	}
	started := time.Now()
	rep, err := report.New(report.Options{
		Region: cfg.Region, Cluster: cfg.Cluster, Agent: identity(), Version: cfg.Version, Bucket: b.URL(), Hub: cfg.Hub,
		Start: uint64(started.UnixMilli()), StartedAt: started, Log: log,
	})
	if err != nil {
		return err
	}
	w, err := watch.New(b, reporter{rep}, watch.Options{
		Region: cfg.Region, Discover: cfg.Discover, Exclude: cfg.Exclude, Poll: cfg.Poll, Budget: budget, Log: log,
	})
	if err != nil {
		return err
	}
	log.Info("agent is up", "region", cfg.Region, "cluster", cfg.Cluster, "bucket", b.URL(), "hub", cfg.Hub, "version", cfg.Version)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return rep.Run(ctx) })
	g.Go(func() error { return w.Run(ctx) })
	if cfg.Status != "" {
		g.Go(func() error { return serveStatus(ctx, cfg.Status, rep) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("agent has ended", "region", cfg.Region)
	return nil
}

// identity names this process to people: host, process, and something random,
// for pods of one name follow each other.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	var r [3]byte
	_, _ = rand.Read(r[:])
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), hex.EncodeToString(r[:]))
}

// reporter makes a report what the watcher needs.
type reporter struct{ *report.Report }

func (r reporter) SetHealth(h watch.Health) {
	r.Report.SetHealth(report.Health{
		ReadOK: h.ReadOK, Reason: h.Reason, CannotKeep: h.CannotKeep,
		BucketID: h.BucketID, BucketWhy: h.BucketWhy, Spend: h.Spend, Budget: h.Budget,
	})
}

// serveStatus answers /livez and /status on a loopback address until ctx ends.
func serveStatus(ctx context.Context, addr string, rep *report.Report) error {
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("status address: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(rep.Status())
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	err = srv.Close()
	<-served
	return err
}
