package httpproxy_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// An unmodified client and an unmodified server, with and without compression, talk
// through the gateway, and both understand how a session is ended.
func TestWebSocketLibraries(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		mode   websocket.CompressionMode
		err    error
		code   websocket.StatusCode
		reason string
	}{
		{"without compression, revoked", websocket.CompressionDisabled, errRevoked, websocket.StatusPolicyViolation, "token revoked (a-17)"},
		{"with compression, revoked", websocket.CompressionContextTakeover, errRevoked, websocket.StatusPolicyViolation, "token revoked (a-17)"},
		{"with compression by message, drained", websocket.CompressionNoContextTakeover, errDraining, websocket.StatusServiceRestart, "shutting down"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			served := make(chan error, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				served <- echo(w, r, &websocket.AcceptOptions{CompressionMode: tt.mode, Subprotocols: []string{"chat"}})
			}))
			defer srv.Close()
			b := newBridge(t, srv.Listener.Addr().String(), httpproxy.RelayTerms{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			conn, resp, err := websocket.Dial(ctx, "ws://"+b.address+"/v1", &websocket.DialOptions{CompressionMode: tt.mode, Host: "app.test", Subprotocols: []string{"chat"}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.CloseNow() }()
			if got := resp.Header.Get("Sec-Websocket-Extensions"); (got != "") != (tt.mode != websocket.CompressionDisabled) || conn.Subprotocol() != "chat" {
				t.Errorf("agreed on extensions %q, subprotocol %q", got, conn.Subprotocol())
			}
			conn.SetReadLimit(-1)
			for _, size := range []int{0, 5, 600, 20000, 1 << 20, 5} {
				message := strings.Repeat("hello", size/5)
				if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
					t.Fatal(err)
				}
				if _, got, err := conn.Read(ctx); err != nil || string(got) != message {
					t.Fatalf("%d bytes: got %d, %v", size, len(got), err)
				}
			}
			seen := make(chan error, 1)
			go func() { // a pong is for who reads
				_, _, err := conn.Read(ctx)
				seen <- err
			}()
			if err := conn.Ping(ctx); err != nil {
				t.Errorf("ping: %v", err)
			}
			b.pass.end(tt.err)
			var saw websocket.CloseError
			if err := <-seen; !errors.As(err, &saw) || saw.Code != tt.code || saw.Reason != tt.reason {
				t.Errorf("the client saw %v", err)
			}
			if err := <-served; websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("the server saw %v", err)
			}
			b.ended(t)
		})
	}
}

// echo answers every message with itself until the session ends, and returns why.
func echo(w http.ResponseWriter, r *http.Request, o *websocket.AcceptOptions) error {
	conn, err := websocket.Accept(w, r, o)
	if err != nil {
		return err // it has answered
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(-1)
	for {
		kind, b, err := conn.Read(context.Background())
		if err != nil {
			return err
		}
		if err := conn.Write(context.Background(), kind, b); err != nil {
			return err
		}
	}
}
