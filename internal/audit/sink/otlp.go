package sink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// OTLP is decoded from "telemetry.otlp" in the file: where records go as OpenTelemetry
// logs.
type OTLP struct {
	// Endpoint is the collector: https, or plain http on loopback. Logs go to
	// Endpoint/v1/logs.
	Endpoint string `yaml:"endpoint"`

	// CAFile holds the certificates that the collector's is checked with, as PEM.
	// Default: the system's.
	CAFile string `yaml:"ca_file,omitempty"`

	// AuthorizationFile holds the value of the Authorization header.
	AuthorizationFile string `yaml:"authorization_file,omitempty"`
}

// Complete reports every mistake below "telemetry.otlp".
func (c *OTLP) Complete() error {
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.User != nil:
		return fmt.Errorf("endpoint: %q: want the collector's URL, such as https://otel:4318", c.Endpoint)
	case u.Scheme == "http" && !loopback(u.Hostname()), u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("endpoint: %q: want https; plain http is for loopback addresses", c.Endpoint)
	}
	return nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

const (
	otlpBatch   = 512              // records of one export
	otlpEvery   = time.Second      // between looks for new ones
	otlpTimeout = 10 * time.Second // of one export
	maxBackOff  = time.Minute

	otlpBatchBytes = 1 << 20         // of payload text in one export; collectors refuse requests of some MiB
	maxRetryAfter  = 5 * time.Minute // longer is taken as this
	maxAnswer      = 64 << 10        // bytes of the collector's answer
	maxError       = 512             // bytes of an error, which holds that answer
)

// A Follower sends the records of a log to a collector, in order and at least once. It
// reads the log behind the server: a collector that is slow or away makes it late, and
// never makes anybody wait or anything be dropped.
type Follower struct {
	reader   *audit.Reader
	exporter sdklog.Exporter
	collect  *collector
	logger   log.Logger
	slog     *slog.Logger
	cursor   string
	lag      atomic.Uint64
	throttle *throttle
}

// NewFollower returns a Follower that keeps in the file cursor how far it has come.
func NewFollower(ctx context.Context, c OTLP, r *audit.Reader, cursor, version string, logger *slog.Logger) (*Follower, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("telemetry.otlp.ca_file: %s holds no certificate: %w", c.CAFile, err)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	headers := map[string]string{} // none, or variables of the environment would say them
	if c.AuthorizationFile != "" {
		text, err := os.ReadFile(c.AuthorizationFile)
		if err != nil {
			return nil, fmt.Errorf("telemetry.otlp.authorization_file: %w", err)
		}
		headers["Authorization"] = strings.TrimSpace(string(text))
	}
	throttle := &throttle{next: transport}
	exporter, err := otlploghttp.New(ctx, otlploghttp.WithEndpointURL(strings.TrimSuffix(c.Endpoint, "/")+"/v1/logs"), otlploghttp.WithHeaders(headers),
		otlploghttp.WithCompression(otlploghttp.NoCompression), otlploghttp.WithRetry(otlploghttp.RetryConfig{Enabled: false}), otlploghttp.WithMaxResponseSize(maxAnswer),
		// a redirect would take records, and the credential, elsewhere
		otlploghttp.WithHTTPClient(&http.Client{Transport: throttle, Timeout: otlpTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}))
	if err != nil {
		return nil, fmt.Errorf("telemetry.otlp: %w", err)
	}
	collect := &collector{}
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(collect), sdklog.WithResource(resource.NewSchemaless(
		attribute.String("service.name", "sallyport"), attribute.String("service.version", version), attribute.String("service.instance.id", r.Replica()))))
	return &Follower{reader: r, exporter: exporter, collect: collect, logger: provider.Logger("sallyport/audit"), slog: logger, cursor: cursor, throttle: throttle}, nil
}

// collector is a log processor that keeps what was emitted.
type collector struct {
	mu   sync.Mutex
	have []sdklog.Record
}

func (c *collector) OnEmit(_ context.Context, r *sdklog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.have = append(c.have, r.Clone())
	return nil
}

func (c *collector) take() []sdklog.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.have
	c.have = nil
	return out
}

func (c *collector) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }
func (c *collector) Shutdown(context.Context) error                         { return nil }
func (c *collector) ForceFlush(context.Context) error                       { return nil }

// Lag returns how many records the collector does not have yet.
func (f *Follower) Lag() uint64 { return f.lag.Load() }

// Run sends records until ctx ends. What fails is tried again, later each time.
func (f *Follower) Run(ctx context.Context) {
	wait, failed := otlpEvery, false
	for {
		more, err := f.Step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failed {
				f.slog.Error("the collector does not take the audit log's records; they wait in the log, and it is tried again", "error", err.Error())
			}
			failed = true
			wait = min(2*wait, maxBackOff)
		case failed:
			f.slog.Info("the collector takes the audit log's records again")
			failed = false
			fallthrough
		default:
			wait = otlpEvery
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(wait+rand.N(wait/4), time.Duration(f.throttle.after.Swap(0)))):
		}
	}
}

// Step sends one batch, and reports whether there is more to send at once.
func (f *Follower) Step(ctx context.Context) (more bool, err error) {
	next, err := readCursor(f.cursor)
	if err != nil {
		return false, err
	}
	head, err := f.reader.Head() // what no checkpoint covers yet may still be withdrawn
	if err != nil {
		return false, err
	}
	size := head.Size
	if next > size { // only what was covered is sent, so this is another log, or one that was set back
		f.slog.Error("the collector has more of the audit log than there is: another log lies there now, and all of it is sent", "taken", next, "records", size)
		next = 0
		if err := writeCursor(f.cursor, next); err != nil {
			return false, err
		}
	}
	if f.lag.Store(size - next); next == size {
		return false, nil
	}
	f.collect.take() // of a step that failed
	n, bytes := 0, 0
	for e, err := range f.reader.Entries(ctx, next) {
		if err != nil {
			return false, err
		}
		if e.Seq >= size {
			break
		}
		if e.Seq > next {
			f.slog.Error("records of the audit log were pruned before the collector took them", "records", e.Seq-next, "from", next)
		}
		f.emit(ctx, e)
		next = e.Seq + 1
		bytes += len(e.PayloadText)
		if n++; n == otlpBatch || bytes >= otlpBatchBytes {
			break
		}
	}
	if n == 0 {
		return false, nil
	}
	sending, cancel := context.WithTimeout(ctx, otlpTimeout)
	defer cancel()
	switch err := f.exporter.Export(sending, f.collect.take()); {
	case err != nil && partial(err): // and what was taken may not be sent again
		f.slog.Error("the collector took a batch of the audit log's records and refused some of it", "before", next, "error", short(err).Error())
	case err != nil:
		return false, short(err)
	}
	if err := writeCursor(f.cursor, next); err != nil {
		return false, err
	}
	f.lag.Store(size - min(size, next))
	return n == otlpBatch || bytes >= otlpBatchBytes, nil
}

// short is err with at most maxError bytes of text: it holds what the collector answered.
func short(err error) error {
	if text := err.Error(); len(text) > maxError {
		return errors.New(strings.ToValidUTF8(text[:maxError], "") + "…")
	}
	return err
}

// throttle remembers how long the last answer asks to be left alone.
type throttle struct {
	next  http.RoundTripper
	after atomic.Int64 // nanoseconds
}

// RoundTrip implements http.RoundTripper.
func (t *throttle) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		t.after.Store(int64(retryAfter(resp.Header.Get("Retry-After"), time.Now())))
	}
	return resp, err
}

// retryAfter reads RFC 9110 section 10.2.3: seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// partial reports whether the collector answered with a partial success (OTLP/HTTP
// response). The exporter does not export its type; a test holds it to the text.
func partial(err error) bool { return strings.Contains(err.Error(), "OTLP partial success") }

func (f *Follower) emit(ctx context.Context, e *audit.Entry) {
	var r log.Record
	r.SetTimestamp(e.Time)
	severity := log.SeverityInfo
	if e.Decision == audit.Deny {
		severity = log.SeverityWarn
	}
	r.SetSeverity(severity)
	r.SetSeverityText(severity.String())
	r.SetEventName("sallyport.audit." + string(e.Kind))
	l := f.reader.Line(e)
	p := e.Payload
	if p == nil {
		p = new(audit.Payload)
	}
	r.SetBody(attribute.StringValue(strings.TrimSpace(strings.Join([]string{string(e.Decision), p.Principal, p.Action, e.Service}, " "))))
	add := func(key, v string) {
		if v != "" {
			r.AddAttributes(attribute.String(key, strings.ToValidUTF8(v, "\uFFFD")))
		}
	}
	r.AddAttributes(attribute.Int64("seq", int64(e.Seq)))
	for _, a := range []struct{ key, value string }{
		{"id", l.ID}, {"kind", string(e.Kind)}, {"decision", string(e.Decision)}, {"rule", e.Rule}, {"service", e.Service}, {"policy", e.Policy},
		{"state", e.State}, {"principal", p.Principal}, {"actors", strings.Join(p.Actors, " ")}, {"provider", p.Provider}, {"token_id", p.TokenID},
		{"issued_token_id", p.IssuedTokenID}, {"action", p.Action}, {"resource", p.Resource}, {"reason", p.Reason}, {"peer", p.Peer},
		{"replica", p.Replica}, {"trace_id", p.TraceID}, {"near", p.Near}, {"detail", p.Detail}, {"leaf", l.Leaf},
	} {
		add(a.key, a.value)
	}
	for prefix, m := range map[string]map[string]string{"attested.": p.Attested, "vars.": p.Vars, "unverified.": p.Unverified} {
		for k, v := range m {
			add(prefix+k, v)
		}
	}
	if p.Count > 0 {
		r.AddAttributes(attribute.Int64("count", p.Count))
	}
	f.logger.Emit(ctx, r)
}

// The cursor is a file of twelve bytes: the next entry, and a checksum.
const cursorSize = 8 + 4

var errCursor = errors.New("is not what this program writes: delete it to send the log again from its start")

func readCursor(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err == nil && (len(b) != cursorSize || crc32.ChecksumIEEE(b[:8]) != binary.BigEndian.Uint32(b[8:])) {
		err = fmt.Errorf("%s %w", path, errCursor)
	}
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

func writeCursor(path string, next uint64) error {
	b := binary.BigEndian.AppendUint64(nil, next)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return audit.ReplaceFile(path, b)
}
