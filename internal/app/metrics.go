package app

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport-dev/sallyport/internal/guard"
)

// metrics serves the server's numbers as Prometheus text. None of them waits for a disk.
func (a *App) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "sallyport", Subsystem: "audit", Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "sallyport", Subsystem: "audit", Name: name, Help: help}, value))
	}
	gauge("up", "1 while the log takes records and signs them, else 0: then every action that needs a record is refused, or records wait for a signature.", func() float64 {
		if a.log.Health() != nil {
			return 0
		}
		return 1
	})
	counter("entries_total", "Entries of the log, those that were pruned included.", func() float64 { return float64(a.log.Stats().Entries) })
	counter("signed_entries_total", "Entries that a signed checkpoint covers.", func() float64 { return float64(a.log.Stats().Signed) })
	counter("failures_total", "Records that could not be written; each was a refusal.", func() float64 { return float64(a.log.Stats().Failures) })
	gauge("buffered_bytes", "Bytes of buffered records that are not written yet.", func() float64 { return float64(a.log.Stats().Waiting) })
	gauge("disk_free_bytes", "Bytes free on the log's disk.", func() float64 { return float64(a.log.Stats().Free) })
	gauge("disk_room", "0: room for everybody; 1: less than keep_free; 2: an eighth of it, for operators only.", func() float64 { return float64(a.log.Room()) })
	gauge("index_lag_entries", "Signed entries that the index does not cover yet; searches read them from the log.", func() float64 { return float64(a.index.behind.Load()) })
	gauge("cosigned_entries", "Entries of the newest checkpoint that enough witnesses have signed.", func() float64 { return float64(a.outside.Cosigned()) })
	gauge("outside_up", "1 while every place and witness outside takes checkpoints, else 0.", func() float64 {
		if a.outside.Health() != nil {
			return 0
		}
		return 1
	})
	if a.follower != nil {
		gauge("otlp_lag_entries", "Entries that the OTLP collector does not have yet.", func() float64 { return float64(a.follower.Lag()) })
	}
	r.MustRegister(decisions{a.guard})
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "sallyport", Name: "config_in_force", Help: "1 while the file is what is in force, 0 while it is wrong, needs a restart, or is held."}, func() float64 {
		if a.ruling.stale.Load() {
			return 0
		}
		return 1
	}))
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "sallyport", Name: "revocations", Help: "Revocations in force."}, func() float64 { return float64(len(a.guard.Revocations())) }))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// decisions are the guard's numbers, by service and reason: services are those of the
// file, and reasons are ours.
type decisions struct{ guard *guard.Guard }

var (
	decided = prometheus.NewDesc("sallyport_decisions_total", `Decisions, by service ("" at our own doors) and reason; "allowed" are those that let something through.`, []string{"service", "reason"}, nil)
	ended   = prometheus.NewDesc("sallyport_sessions_ended_total", "Live requests, streams and WebSockets that were ended, by why.", []string{"service", "reason"}, nil)
	ending  = prometheus.NewDesc("sallyport_sessions_ending_seconds_total", "How long it took from the reason to the end, of all together.", []string{"service", "reason"}, nil)
	going   = prometheus.NewDesc("sallyport_sessions", "Live requests, streams and WebSockets.", nil, nil)
)

// Describe implements prometheus.Collector.
func (d decisions) Describe(c chan<- *prometheus.Desc) {
	for _, x := range []*prometheus.Desc{decided, ended, ending, going} {
		c <- x
	}
}

// Collect implements prometheus.Collector.
func (d decisions) Collect(c chan<- prometheus.Metric) {
	for _, n := range d.guard.Counts() {
		if !n.Ended {
			c <- prometheus.MustNewConstMetric(decided, prometheus.CounterValue, float64(n.N), n.Service, n.Reason)
			continue
		}
		c <- prometheus.MustNewConstMetric(ended, prometheus.CounterValue, float64(n.N), n.Service, n.Reason)
		c <- prometheus.MustNewConstMetric(ending, prometheus.CounterValue, n.Took.Seconds(), n.Service, n.Reason)
	}
	c <- prometheus.MustNewConstMetric(going, prometheus.GaugeValue, float64(d.guard.Live()))
}
