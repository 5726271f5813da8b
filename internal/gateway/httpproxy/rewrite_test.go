package httpproxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// The upstream gets the host as policy saw it, in one spelling, and the port that
// the client wrote.
func TestHostForwarded(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	raw := good(t)
	for sent, want := range map[string]string{"app.test": "app.test", "APP.Test": "app.test", "app.test.": "app.test", "App.test:8443": "app.test:8443"} {
		got := b.send(t, strings.Replace(request("GET /v1", bearer(raw)), "Host: app.test", "Host: "+sent, 1))
		if up := b.only(t); got.status != http.StatusOK || up.host != want {
			t.Errorf("Host %q: %d, upstream got %q, want %q", sent, got.status, up.host, want)
		}
	}
}

// What only we say, an upstream cannot.
func TestUpstreamCannotNameADecision(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Sallyport-Decision", "forged-1")
		w.Header().Set("X-Own", "kept")
	}})
	got := b.send(t, request("GET /v1", bearer(good(t))))
	if got.header.Get("Sallyport-Decision") != "" || got.header.Get("X-Own") != "kept" {
		t.Errorf("the client got %v", got.header)
	}
}

// A request that lasts has a closing record with what went each way, a chunked
// body included.
func TestClosingRecordCountsBytes(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{answer: func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(1100 * time.Millisecond) // the record is for what lasts a second
		_, _ = io.WriteString(w, "answer")
	}})
	const head = "POST /v1 HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
	if got := b.send(t, head+bearer(good(t))+"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"); got.status != http.StatusOK {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	var e *audit.Entry
	for range 1000 { // the answer is out before the pass is closed
		if e = b.record(t, ""); e.Kind == audit.Close {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if e.Kind != audit.Close || e.Payload.BytesIn != 5 || e.Payload.BytesOut != 6 || e.Payload.DurationMS < 1000 || e.Payload.Principal != "serviceAccount:orders" {
		t.Errorf("closing record %+v %+v", e.Header, e.Payload)
	}
}
