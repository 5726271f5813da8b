package otelobserver_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/log/noop"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport-dev/sallyport/verifier"
	"github.com/sallyport-dev/sallyport/verifier/otelobserver"
)

// receiver is the end of an OTLP export over HTTP.
type receiver struct {
	t   testing.TB
	mu  sync.Mutex
	got []*logspb.LogRecord
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var export collector.ExportLogsServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &export)
	}
	if err != nil || req.URL.Path != "/v1/logs" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		r.t.Errorf("%s %s: %v", req.URL.Path, req.Header.Get("Content-Type"), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range export.ResourceLogs {
		for _, scope := range resource.ScopeLogs {
			r.got = append(r.got, scope.LogRecords...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// plain is an attribute's value without its wrapping.
func plain(v *commonpb.AnyValue) any {
	switch x := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return x.StringValue
	case *commonpb.AnyValue_BoolValue:
		return x.BoolValue
	case *commonpb.AnyValue_KvlistValue:
		return attributes(x.KvlistValue.Values)
	}
	return v
}

func attributes(kvs []*commonpb.KeyValue) map[string]any {
	out := map[string]any{}
	for _, kv := range kvs {
		out[kv.Key] = plain(kv.Value)
	}
	return out
}

// From a report to the bytes that a collector gets: the real SDK and exporter, and
// a receiver that decodes them.
func TestExport(t *testing.T) {
	t.Parallel()
	end := &receiver{t: t}
	srv := httptest.NewServer(end)
	defer srv.Close()
	exporter, err := otlploghttp.New(t.Context(), otlploghttp.WithEndpointURL(srv.URL+"/v1/logs"))
	if err != nil {
		t.Fatal(err)
	}
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter)))
	observer := otelobserver.New(provider.Logger("app"))

	at := time.Date(2026, 11, 25, 12, 0, 0, 5000, time.UTC)
	for _, tt := range []struct {
		name     string
		report   verifier.Report
		severity logspb.SeverityNumber
		text     string
		body     string
		want     map[string]any
	}{
		{"what was refused, with everything", verifier.Report{Time: at, Kind: "refuse", Decision: "deny", Service: "app", Principal: "serviceAccount:orders", Provider: "https://id",
			TokenID: "t", Action: "http.get", Resource: "/x", Reason: "audience_wrong", Peer: "192.0.2.1:9", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
			Unverified: map[string]string{"kid": "k", "iss": "i"}, Cut: true, Reported: true},
			logspb.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN", "call refused",
			map[string]any{"kind": "refuse", "decision": "deny", "service": "app", "principal": "serviceAccount:orders", "provider": "https://id",
				"token_id": "t", "action": "http.get", "resource": "/x", "reason": "audience_wrong", "peer": "192.0.2.1:9", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
				"unverified": map[string]any{"kid": "k", "iss": "i"}, "cut": true, "reported": true}},
		{"what was let through, with what is always there", verifier.Report{Time: at, Kind: "admit", Decision: "allow", Service: "app", Reported: true},
			logspb.SeverityNumber_SEVERITY_NUMBER_INFO, "INFO", "call admitted",
			map[string]any{"kind": "admit", "decision": "allow", "service": "app", "reported": true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			observer.Observe(t.Context(), tt.report)
			if err := provider.ForceFlush(t.Context()); err != nil {
				t.Fatal(err)
			}
			end.mu.Lock()
			defer end.mu.Unlock()
			if len(end.got) != 1 {
				t.Fatalf("the collector got %v", end.got)
			}
			r := end.got[0]
			end.got = nil
			if r.TimeUnixNano != uint64(at.UnixNano()) || r.SeverityNumber != tt.severity || r.SeverityText != tt.text || plain(r.Body) != tt.body {
				t.Errorf("time %d, severity %v %q, body %v", r.TimeUnixNano, r.SeverityNumber, r.SeverityText, r.Body)
			}
			if got := attributes(r.Attributes); !reflect.DeepEqual(got, tt.want) || len(r.Attributes) != len(tt.want) {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
		})
	}
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// deaf is a logger that wants nothing below WARN.
type deaf struct {
	noop.Logger
	emitted *int
}

func (deaf) Enabled(_ context.Context, p log.EnabledParameters) bool {
	return p.Severity >= log.SeverityWarn
}

func (d deaf) Emit(context.Context, log.Record) { *d.emitted++ }

func TestALoggerThatIsNotEnabledIsNotBothered(t *testing.T) {
	t.Parallel()
	n := 0
	o := otelobserver.New(deaf{emitted: &n})
	o.Observe(t.Context(), verifier.Report{Decision: "allow"})
	o.Observe(t.Context(), verifier.Report{Decision: "deny"})
	if n != 1 {
		t.Errorf("%d reports were emitted", n)
	}
}
