// Package agent is the process in a region's cluster: it ties what watch sees
// to what report tells the hub, and says on a local port how both do. It
// listens on nothing that another machine could reach.
//
// Begin with [Config] and [Run].
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/agent/duty"
	"github.com/quarry-db/quarry/agent/execute"
	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/agent/watch"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Run runs an agent until ctx is over and then returns nil. It returns an
// error when the configuration is wrong, when the bucket cannot be opened, and
// when the bucket is another region's (it wraps [watch.ErrAnotherRegion]). An
// unreachable hub and a bucket that fails later are waited for.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("agent configuration: %w", err)
	}
	perHour, err := cfg.requestsPerHour()
	if err != nil {
		return err
	}
	b, err := bucket.Open(ctx, cfg.Bucket)
	if err != nil {
		return err
	}
	defer b.Close()
	// Only a store that shows that it ignores create-if-absent is refused. One
	// that cannot be written or reached now is the watcher's to tell.
	if err := b.CheckPutNew(ctx, catalog.Prefix); errors.Is(err, bucket.ErrPutNewIgnored) {
		return err
	}

	started := time.Now()
	r, err := report.New(report.Options{
		Region: cfg.Region, Cluster: cfg.Cluster, Agent: identity(started), Version: cfg.Version, Bucket: b.URL(),
		Hub: cfg.Hub, Start: uint64(started.UnixMilli()), StartedAt: started, Log: log,
		LookFirst: 3 * time.Second,
	})
	if err != nil {
		return err
	}
	// Who watches and who writes down in the bucket need each other; neither
	// does anything before Run.
	var onDuty *duty.Duty
	to := link{r, new(atomic.Bool), func(f catalog.Fact) { onDuty.Saw(f) }}
	w, err := watch.New(b, to, watch.Options{
		Region: cfg.Region, Discover: cfg.Discover, Exclude: cfg.Exclude, Poll: cfg.Poll, Budget: perHour, InUse: cfg.InUse, Log: log,
		Declared: func() { onDuty.Poke() }, Keeping: func() bool { return onDuty.Keeping() },
	})
	if err != nil {
		return err
	}
	if perHour == 0 {
		perHour = watch.DefaultBudget
	}
	ttl, every := duty.Frugal(perHour)
	if cfg.DutyTTL != 0 {
		ttl = cfg.DutyTTL
	}
	onDuty, err = duty.New(b, duty.Options{
		Holder: cfg.Cluster + " " + identity(started), Ready: to.identified.Load, Log: log.With("region", cfg.Region),
		TTL: ttl, Every: every, Folded: w.TakeCatalog, Seen: w, Pay: w.Pay,
	})
	if err != nil {
		return err
	}
	doing := cfg.execution(cfg.Cluster+" "+identity(started), func() bool { return onDuty.Keeping() && to.identified.Load() })
	doing.Log, doing.Pay = log, w.Pay
	executor, err := execute.New(b, w, r, doing)
	if err != nil {
		return err
	}
	var port *status
	if cfg.Status != "" {
		if port, err = listen(ctx, cfg.Status); err != nil {
			return err
		}
		port.report, port.watch, port.cfg, port.started = r, w, cfg, started
	}
	log.Info("agent starts", "region", cfg.Region, "cluster", cfg.Cluster, "bucket", b.URL(), "hub", cfg.Hub)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.Run(ctx) })
	g.Go(func() error { return w.Run(ctx) })
	g.Go(func() error { settle(ctx, w); return nil })
	g.Go(func() error {
		// Who stands by costs the bucket next to nothing, and contends for nothing.
		if to.Wanted(ctx); ctx.Err() != nil {
			return nil
		}
		return onDuty.Run(ctx)
	})
	g.Go(func() error { return executor.Run(ctx) })
	if port != nil {
		g.Go(func() error { return port.run(ctx) })
	}
	return g.Wait()
}

// identity is who this process is, for people.
func identity(started time.Time) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d@%d", host, os.Getpid(), started.UnixMilli())
}

// link is the report as watch knows it.
type link struct {
	*report.Report
	identified *atomic.Bool // the bucket says it is this region's, and can be read
	saw        func(catalog.Fact)
}

// Set tells the hub, and whoever keeps the catalog that there is news.
func (l link) Set(f catalog.Fact) {
	l.Report.Set(f)
	l.saw(f)
}

// Withdraw is Set of a fact that no longer holds.
func (l link) Withdraw(kind catalog.FactKind, key, why string) {
	l.Report.Withdraw(kind, key, why)
	l.saw(catalog.Fact{Kind: kind, Key: key, Gone: why})
}

func (l link) SetHealth(h watch.Health) {
	l.identified.Store(h.ReadOK && h.BucketID != "")
	l.Report.SetHealth(report.Health{
		ReadOK: h.ReadOK, Reason: h.Reason, CannotKeep: h.CannotKeep,
		BucketID: h.BucketID, BucketWhy: h.BucketWhy, Spend: h.Spend, Budget: h.Budget,
	})
}

// aloneAfter is how long an agent waits for a hub that tells it whether it is
// wanted, before it looks all the same.
const aloneAfter = 3 * time.Second

// Wanted waits for as long as another agent of the region brings its facts. One
// that stands by goes on standing by when the hub is away: nobody would hear
// what it sees. It never stops again: an agent that was relieved keeps looking,
// so that it can take over at once.
func (l link) Wanted(ctx context.Context) {
	began, standby := time.Now(), false
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		switch l.Status().Role {
		case report.RoleReporter:
			return
		case report.RoleStandby:
			if !standby {
				standby = true
				tick.Reset(time.Second)
			}
		case report.RoleNone:
			if !standby && time.Since(began) > aloneAfter {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

var _ watch.Reporter = link{}
