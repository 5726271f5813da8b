package sink_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/audit/audittest"
	"github.com/sallyport-dev/sallyport/internal/audit/sink"
)

func add(t *testing.T, l *audittest.Log, n int) {
	t.Helper()
	defer l.Sign(t)
	for range n {
		if _, err := l.Append(&audit.Record{Kind: audit.Admit, Decision: audit.Deny, Rule: "r", Service: "invoices",
			Payload: audit.Payload{Principal: "serviceAccount:orders", Action: "http.get", Reason: "no_match", Peer: "127.0.0.1:7"}}, audit.Written); err != nil {
			t.Fatal(err)
		}
	}
}

// receiver is the end of an OTLP export.
type receiver struct {
	mu     sync.Mutex
	got    []*logspb.LogRecord
	answer func(n int) int // status of the n-th request; nil: 200
	n      int
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if r.answer != nil {
		if status := r.answer(r.n); status != http.StatusOK {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(status)
			return
		}
	}
	var export collector.ExportLogsServiceRequest
	if err := proto.Unmarshal(body, &export); err != nil || req.URL.Path != "/v1/logs" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, resource := range export.ResourceLogs {
		for _, scope := range resource.ScopeLogs {
			r.got = append(r.got, scope.LogRecords...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// seqs returns the numbers that were received, in order.
func (r *receiver) seqs() (out []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.got {
		for _, a := range rec.Attributes {
			if a.Key == "seq" {
				out = append(out, a.Value.GetIntValue())
			}
		}
	}
	return out
}

func follower(t *testing.T, r *audit.Reader, url, cursor string) *sink.Follower {
	t.Helper()
	c := sink.OTLP{Endpoint: url}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	f, err := sink.NewFollower(t.Context(), c, r, cursor, "1.2", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Every record arrives, in order, whatever the collector does in between and however
// often the server starts again.
func TestOTLPLosesNothing(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	rec := &receiver{answer: func(n int) int { return []int{503, 200, 429, 400, 200}[n%5] }}
	server := httptest.NewServer(rec)
	t.Cleanup(server.Close)
	cursor := filepath.Join(t.TempDir(), "cursor")
	sent := 0
	for range 6 {
		add(t, l, 300)
		sent += 300
		f := follower(t, l.Reader, server.URL, cursor) // as after a restart
		for range 3 {
			_, _ = f.Step(t.Context())
		}
	}
	f := follower(t, l.Reader, server.URL, cursor)
	for range 20 {
		_, _ = f.Step(t.Context())
	}
	if f.Lag() != 0 {
		t.Errorf("%d behind", f.Lag())
	}
	next := int64(0)
	for _, seq := range rec.seqs() {
		if seq > next {
			t.Fatalf("record %d came where %d should", seq, next)
		}
		if seq == next { // it may come again
			next++
		}
	}
	if next != int64(sent) {
		t.Errorf("%d of %d arrived", next, sent)
	}
	plain := map[string]string{}
	for _, a := range rec.got[0].Attributes {
		plain[a.Key] = a.Value.GetStringValue()
	}
	if plain["principal"] != "serviceAccount:orders" || plain["reason"] != "no_match" || plain["id"] != "a-0" || rec.got[0].SeverityText != "WARN" {
		t.Errorf("attributes %v, severity %s", plain, rec.got[0].SeverityText)
	}
}

// What a collector took only in part is not sent again, for ever.
func TestOTLPPartialSuccess(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		body, err := proto.Marshal(&collector.ExportLogsServiceResponse{PartialSuccess: &collector.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "no room"}})
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	add(t, l, 3)
	f := follower(t, l.Reader, server.URL, filepath.Join(t.TempDir(), "cursor"))
	for range 3 {
		if _, err := f.Step(t.Context()); err != nil {
			t.Errorf("it stands still: %v", err)
		}
	}
	if asked != 1 || f.Lag() != 0 {
		t.Errorf("asked %d times, %d behind", asked, f.Lag())
	}
}

// A collector that is away, or that never answers, costs the log nothing.
func TestOTLPNeverBlocksTheLog(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	stuck := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-stuck:
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(func() { close(stuck); server.Close() })
	add(t, l, 10)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	f := follower(t, l.Reader, server.URL, filepath.Join(t.TempDir(), "cursor"))
	go func() { f.Run(ctx); close(done) }()
	add(t, l, 5000) // with the export under way
	stop()
	<-done
	away := follower(t, l.Reader, "http://127.0.0.1:1", filepath.Join(t.TempDir(), "cursor"))
	if _, err := away.Step(t.Context()); err == nil || away.Lag() == 0 {
		t.Errorf("nobody is there: %v, lag %d", err, away.Lag())
	}
}

func TestOTLPCursor(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	cursor := filepath.Join(t.TempDir(), "cursor")
	if err := os.WriteFile(cursor, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := follower(t, l.Reader, "http://127.0.0.1:1", cursor).Step(t.Context()); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("garbage in the cursor: %v", err)
	}
	for _, bad := range []string{"", "otel:4318", "http://otel:4318", "https://u:p@otel", "ftp://x", "https://x?y=1"} {
		if err := (&sink.OTLP{Endpoint: bad}).Complete(); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// said is a server's own log.
type said struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func heard(t *testing.T, r *audit.Reader, url, cursor string) (*sink.Follower, *said) {
	t.Helper()
	s := &said{}
	f, err := sink.NewFollower(t.Context(), sink.OTLP{Endpoint: url}, r, cursor, "1.2", slog.New(slog.NewTextHandler(s, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return f, s
}

// A redirect would take records, and the credential, to somebody else.
func TestOTLPFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	add(t, l, 1)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	if _, err := follower(t, l.Reader, server.URL, filepath.Join(t.TempDir(), "cursor")).Step(t.Context()); err == nil {
		t.Error("a redirect was taken for an answer")
	}
}

// Where records go is for the file to say, not for what other OpenTelemetry programs
// read from the environment.
func TestOTLPEnvironment(t *testing.T) {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"} {
		t.Setenv(name, "x-env=1")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	l := audittest.Open(t, "acme.internal/a")
	add(t, l, 1)
	var header http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { header = req.Header }))
	defer server.Close()
	if _, err := follower(t, l.Reader, server.URL, filepath.Join(t.TempDir(), "cursor")).Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if header.Get("X-Env") != "" || header.Get("Content-Encoding") != "" {
		t.Errorf("the environment's header fields: %v", header)
	}
}

// A collector that asks to be left alone is left alone that long.
func TestOTLPRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{"": 0, "x": 0, "-1": 0, "7": 7 * time.Second, "999999": 5 * time.Minute, "99999999999999999999": 0,
		"Sat, 28 Nov 2026 08:00:30 GMT": 30 * time.Second, "Sat, 28 Nov 2026 07:00:00 GMT": 0} {
		if got := sink.RetryAfter(text, now); got != want {
			t.Errorf("Retry-After %q: %v, want %v", text, got, want)
		}
	}
	l := audittest.Open(t, "acme.internal/a")
	add(t, l, 1)
	var mu sync.Mutex
	var came []time.Time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if came = append(came, time.Now()); len(came) == 1 {
			w.Header().Set("Retry-After", "4")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	f := follower(t, l.Reader, server.URL, filepath.Join(t.TempDir(), "cursor"))
	go func() { f.Run(ctx); close(done) }()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		n := len(came)
		mu.Unlock()
		if n > 1 {
			break
		}
	}
	stop()
	<-done
	if len(came) != 2 || came[1].Sub(came[0]) < 4*time.Second {
		t.Errorf("it came back too early, or not: %v", came)
	}
}

// A log that is not the one which the cursor is of, because it was moved away for a new
// one, is sent from its start: silence until it is as long would lose what is in it.
func TestOTLPCursorBeyondTheLog(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	add(t, l, 3)
	rec := &receiver{}
	server := httptest.NewServer(rec)
	defer server.Close()
	cursor := filepath.Join(t.TempDir(), "cursor")
	if err := sink.WriteCursor(cursor, 100); err != nil {
		t.Fatal(err)
	}
	f, s := heard(t, l.Reader, server.URL, cursor)
	for range 3 {
		if _, err := f.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := rec.seqs(); len(got) != 3 || got[0] != 0 || strings.Count(s.String(), "level=ERROR") != 1 {
		t.Errorf("got %v; it said %s", got, s)
	}
}

// A batch stays below what collectors take of one request, and what one answers does
// not fill the server's log.
func TestOTLPSizes(t *testing.T) {
	t.Parallel()
	l := audittest.Open(t, "acme.internal/a")
	for range 100 {
		if _, err := l.Append(&audit.Record{Kind: audit.Admit, Decision: audit.Deny, Payload: audit.Payload{Vars: map[string]string{"a": strings.Repeat("x", 4000), "b": strings.Repeat("y", 4000),
			"c": strings.Repeat("z", 4000), "d": strings.Repeat("w", 4000), "e": strings.Repeat("v", 4000), "f": strings.Repeat("u", 4000)}}}, audit.Written); err != nil {
			t.Fatal(err)
		}
	}
	add(t, l, 1)
	var largest int
	refuse := true
	rec := &receiver{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if refuse {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, strings.Repeat("no ", 100_000))
			return
		}
		largest = max(largest, int(req.ContentLength))
		rec.ServeHTTP(w, req)
	}))
	defer server.Close()
	f := follower(t, l.Reader, server.URL, filepath.Join(t.TempDir(), "cursor"))
	if _, err := f.Step(t.Context()); err == nil || len(err.Error()) > 1000 {
		t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
	}
	refuse = false
	for more := true; more; {
		var err error
		if more, err = f.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(rec.seqs()); n != 101 || largest > 2<<20 || largest < 1<<19 {
		t.Errorf("%d records, the largest request has %d bytes", n, largest)
	}
}
