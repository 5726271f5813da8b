package app

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
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
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}
