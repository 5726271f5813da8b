package httpproxy_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// An upgrade is admitted as the action http.websocket before the upstream hears of it;
// the session's bytes are in its closing record.
func TestWebSocketAdmitted(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{answer: func(w http.ResponseWriter, r *http.Request) { _ = echo(w, r, nil) }})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, "ws://"+b.gateway+"/v1/chat", &websocket.DialOptions{Host: "app.test",
		HTTPHeader: http.Header{"Authorization": {"Bearer " + good(t)}, "X-Sallyport-Assertion": {"mallory"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if resp.Header.Get(httpproxy.DecisionHeader) != "" {
		t.Errorf("the 101 has %v", resp.Header)
	}
	if e := b.record(t, ""); e.Kind != audit.Admit || e.Decision != audit.Allow || e.Payload.Action != "http.websocket" {
		t.Errorf("the record is %+v %+v", e.Header, e.Payload)
	}
	up := b.only(t)
	if up.header.Get("Authorization") != "" || len(up.header[httpproxy.AssertionHeader]) != 1 || up.header.Get(httpproxy.AssertionHeader) == "mallory" || up.uri != "/v1/chat" {
		t.Errorf("the upstream got %s %v", up.uri, up.header)
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(ctx); err != nil || string(got) != "hello" {
		t.Fatalf("got %q %v", got, err)
	}
	time.Sleep(1100 * time.Millisecond) // shorter sessions have no closing record
	if err := conn.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
	for e := b.record(t, ""); e.Kind != audit.Close; e = b.record(t, "") {
		if ctx.Err() != nil {
			t.Fatal("there is no closing record")
		}
		time.Sleep(10 * time.Millisecond)
	}
	// A masked frame of 5 bytes and a masked close frame of 5; the same without masks.
	if e := b.record(t, ""); e.Payload.BytesIn != 11+11 || e.Payload.BytesOut != 7+7 {
		t.Errorf("the closing record is %+v", e.Payload)
	}
}

// What policy does not allow is refused as any request is. A handshake that cannot be one
// is looked at only after the credential, and answered with the version that is served.
func TestWebSocketRefused(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	for _, tt := range []struct {
		name, path, version, credential, reason string
		status                                  int
	}{
		{"policy does not allow it", "/admin", "13", bearer(good(t)), "no_match", 403},
		{"there is no credential", "/v1", "13", "X: y", "credential_missing", 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.send(t, request("GET "+tt.path, tt.credential, "Connection: Upgrade", "Upgrade: websocket",
				"Sec-WebSocket-Key: "+testKey, "Sec-WebSocket-Version: "+tt.version))
			if e := b.refused(t, got); got.status != tt.status || e.Payload.Reason != tt.reason || e.Payload.Action != "http.websocket" && tt.version == "13" && tt.status == 403 {
				t.Errorf("got %d, the record is %+v", got.status, e.Payload)
			}
		})
	}
	for want, lines := range map[int][]string{426: {"Sec-WebSocket-Key: " + testKey, "Sec-WebSocket-Version: 8"}, 400: {"Sec-WebSocket-Version: 13"}} {
		got := b.send(t, request("GET /v1", append([]string{bearer(good(t)), "Connection: Upgrade", "Upgrade: websocket"}, lines...)...))
		if got.status != want || (got.header.Get("Sec-Websocket-Version") == "13") != (want == 426) || len(b.take()) != 0 {
			t.Errorf("got %d %v, want %d", got.status, got.header, want)
		}
	}
}

// An upstream that answers an upgrade with anything but 101 is passed on; with a 101
// that is not right, it has not answered.
func TestWebSocketNotSwitched(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, answer string
		status       int
	}{
		{"an answer of its own", "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope", 404},
		{"a 101 for another key", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n", 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newRig(t, settings{upstream: raw(t, tt.answer)})
			got := b.send(t, request("GET /v1", bearer(good(t)), "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: "+testKey, "Sec-WebSocket-Version: 13"))
			if got.status != tt.status {
				t.Errorf("got %d %s", got.status, got.body)
			}
		})
	}
}
