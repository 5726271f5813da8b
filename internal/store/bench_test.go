package store_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/search"
)

// benchRecords is how many records the long log has: 10,000,000 take a few minutes.
func benchRecords(b *testing.B) int {
	text := os.Getenv("SALLYPORT_BENCH_RECORDS")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 10_000 {
		b.Fatalf("SALLYPORT_BENCH_RECORDS=%q: want a number from 10000", text)
	}
	return n
}

// BenchmarkLongLog writes a long log as a day's traffic, indexes it, and searches the last
// hour of one principal of a hundred. Beside the time of a search it tells whether the rate
// and the memory of appending stay flat, and what the index costs.
func BenchmarkLongLog(b *testing.B) {
	n := benchRecords(b)
	l := newLogged(b)
	start := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	l.Pass(start.Sub(l.Now()))
	step := 24 * time.Hour / time.Duration(n)
	write := func(from, to int) time.Duration {
		began := time.Now()
		for i := from; i < to; i++ {
			r := &audit.Record{Kind: audit.Admit, Decision: audit.Allow, Rule: "read", Service: pick(i, "invoices", "ledger", "orders"), Policy: "r1",
				Payload: audit.Payload{Principal: fmt.Sprintf("serviceAccount:n%d", i*7919%100), Action: pick(i, "http.get", "http.post"), TokenID: fmt.Sprintf("t%d", i/50),
					Peer: "10.0.0.7:4000", Vars: map[string]string{"request.path": "/v1/things", "request.method": "GET", "request.host": "invoices.acme.internal"}}}
			if _, err := l.Append(r, audit.Written); err != nil {
				b.Fatal(err)
			}
			l.Pass(step)
		}
		return time.Since(began)
	}
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	tenth := n / 10
	first, early := write(0, tenth), heap()
	write(tenth, n-tenth)
	last, late := write(n-tenth, n), heap()
	if err := l.Checkpoint(); err != nil {
		b.Fatal(err)
	}
	x := openIndex(b, l.Dir)
	filler := &search.Indexer{Reader: l.Reader, Index: x}
	began := time.Now()
	for done := false; !done; {
		var err error
		if done, err = filler.Step(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	indexing := time.Since(began)
	size, err := os.Stat(l.Dir + "/index.db")
	if err != nil {
		b.Fatal(err)
	}
	report := func(b *testing.B) {
		b.ReportMetric(us(last, tenth)/us(first, tenth), "last/first") // of the time that a record takes, by tenths
		b.ReportMetric(late, "MiB-heap")                               // after the last
		b.ReportMetric(late/early, "heap/heap")                        // after the last and the first tenth
		b.ReportMetric(us(indexing, n)/us(last, tenth), "index/append")
		b.ReportMetric(float64(size.Size())/float64(n), "B-index/record")
	}
	log := &search.Log{Reader: l.Reader, Index: x}
	hour := l.Now().Add(-time.Hour)
	for name, q := range map[string]*search.Query{
		"principal-hour": {Principal: "serviceAccount:n7", From: hour},
		"token":          {TokenID: fmt.Sprintf("t%d", n/100)},
	} {
		b.Run(name, func(b *testing.B) {
			found := 0
			for b.Loop() {
				found = 0
				for _, err := range log.Search(context.Background(), q, search.Page{}) {
					if err != nil {
						b.Fatal(err)
					}
					found++
				}
			}
			if found == 0 {
				b.Fatal("nothing is found")
			}
			report(b)
		})
	}
	b.Run("read-hour", func(b *testing.B) { // what it would be without an index, from the right place on
		from := uint64(n - n/24)
		for b.Loop() {
			for _, err := range l.Reader.Entries(context.Background(), from) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("count-hour", func(b *testing.B) {
		for b.Loop() {
			if c, err := log.Count(context.Background(), &search.Query{From: hour}, "principal"); err != nil || len(c) != 100 {
				b.Fatal(len(c), err)
			}
		}
		report(b)
	})
}

func us(d time.Duration, n int) float64 { return float64(d.Microseconds()) / float64(n) }
