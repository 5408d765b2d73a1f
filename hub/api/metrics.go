package api

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// metrics of the web API and of the view it reads. Labels are regions and
// things with few values, never slates.
type metrics struct {
	a        *API
	queries  *prometheus.HistogramVec
	answers  *prometheus.CounterVec
	resyncs  prometheus.Counter
	age      *prometheus.Desc
	rows     *prometheus.Desc
	missing  *prometheus.Desc
	state    *prometheus.Desc
	agents   *prometheus.Desc
	seq      *prometheus.Desc
	watching *prometheus.Desc
	build    *prometheus.Desc
}

func newMetrics(a *API) (*metrics, error) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("quarry_hub_"+name, help, labels, nil)
	}
	m := &metrics{
		a: a,
		queries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "quarry_hub_query_seconds", Help: "Time to answer, streams left out.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"endpoint"}),
		answers:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quarry_hub_answers_total", Help: "Answers by HTTP status."}, []string{"endpoint", "code"}),
		resyncs:  prometheus.NewCounter(prometheus.CounterOpts{Name: "quarry_hub_watch_resyncs_total", Help: "Streams that had to begin anew, for their cursor was too old."}),
		age:      desc("view_age_seconds", "How long ago the region's rows were last known to be current.", "region"),
		rows:     desc("placements", "Placements of the region.", "region"),
		missing:  desc("placements_missing", "Placements of the region that are no longer seen.", "region"),
		state:    desc("region_state", "1 for the state the region is in.", "region", "state"),
		agents:   desc("agents", "Clusters of the region by state.", "region", "state"),
		seq:      desc("view_seq", "Number of the newest view."),
		watching: desc("watch_clients", "Streams that are open."),
		build:    desc("build_info", "1; the labels say what runs.", "version", "go"),
	}
	for _, c := range []prometheus.Collector{m.queries, m.answers, m.resyncs, m} {
		if err := a.o.Metrics.Register(c); err != nil {
			if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); again {
				return nil, fmt.Errorf("metrics of the web API: two hubs share one registry: %w", err)
			}
			return nil, fmt.Errorf("metrics of the web API: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) answered(endpoint string, status int, stream bool, took time.Duration) {
	m.answers.WithLabelValues(endpoint, strconv.Itoa(status)).Inc()
	if !stream {
		m.queries.WithLabelValues(endpoint).Observe(took.Seconds())
	}
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.age, m.rows, m.missing, m.state, m.agents, m.seq, m.watching, m.build} {
		ch <- d
	}
}

// Collect reads the newest view.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(m.watching, float64(m.a.watchers.Load()))
	gauge(m.build, 1, or(m.a.o.Version, "unknown"), runtime.Version())
	v := m.a.src.View()
	if v == nil {
		return
	}
	gauge(m.seq, float64(v.Seq()))
	now := m.a.o.Now()
	for r := range v.Regions() {
		if r.AsOf != nil { // an age that is not known is not shown (P12)
			gauge(m.age, max(0, now.Sub(*r.AsOf).Seconds()), r.Name)
		}
		gauge(m.rows, float64(r.Placements), r.Name)
		gauge(m.missing, float64(r.Missing), r.Name)
		for _, s := range []catalog.RegionState{catalog.RegionConnected, catalog.RegionSuspect, catalog.RegionStale, catalog.RegionBlind, catalog.RegionReset} {
			is := 0.0
			if r.State == s {
				is = 1
			}
			gauge(m.state, is, r.Name, string(s))
		}
	}
	type agents struct{ region, state string }
	count := map[agents]int{}
	for c := range v.Clusters() {
		count[agents{c.Region, c.State}]++
	}
	for a, n := range count {
		gauge(m.agents, float64(n), a.region, a.state)
	}
}
