package main_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A WebSocket and a call that are open are told why they end, in their own words: by who is
// revoked, and by a server that stops.
func TestOpenSessionsAreToldWhy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		do     func(*sessionHarness, *testing.T, func())
		socket websocket.StatusCode
		call   codes.Code
		class  string
		reason string
	}{
		{"revoked", func(k *sessionHarness, t *testing.T, _ func()) {
			k.run(t, "revoke", "--data-dir", k.dataDir, "--subject", "group:left", "--reason", "T-1")
		}, websocket.StatusPolicyViolation, codes.Unauthenticated, "credential revoked", "revoked"},
		{"stopped", func(_ *sessionHarness, _ *testing.T, stop func()) { stop() }, websocket.StatusServiceRestart, codes.Unavailable, "shutting down", "shutting_down"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, end := newSessionHarness(t)
			defer end()
			server := k.start(t)
			stop := sync.OnceFunc(func() { _ = server.Process.Signal(syscall.SIGTERM) }) // a second one would end it at once
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			socket, _, err := websocket.Dial(ctx, "ws://"+k.gateway+"/", &websocket.DialOptions{Host: "sockets.test",
				HTTPHeader: http.Header{"Authorization": {"Bearer " + k.mintFor(t, k.door, "sockets")}}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = socket.CloseNow() }()
			conn, err := grpc.NewClient("passthrough:///"+k.gateway, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("calls.test"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			call, err := testgrpc.NewTestServiceClient(conn).FullDuplexCall(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+k.mintFor(t, k.door, "calls")))
			if err != nil {
				t.Fatal(err)
			}
			if err := call.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 1}}}); err != nil {
				t.Fatal(err)
			}
			if _, err := call.Recv(); err != nil {
				t.Fatal(err)
			}
			tt.do(k, t, stop)
			_, _, err = socket.Read(ctx)
			if got := websocket.CloseStatus(err); got != tt.socket || !strings.Contains(err.Error(), tt.class) {
				t.Errorf("the socket: %v", err)
			}
			_, err = call.Recv()
			if got := status.Convert(err); got.Code() != tt.call || !strings.Contains(got.Message(), tt.class) {
				t.Errorf("the call: %v", err)
			}
			stop()
			if err := server.Wait(); err != nil {
				t.Errorf("the end was not clean: %v", err)
			}
			if out := k.run(t, "audit", "search", "--data-dir", k.dataDir, "--reason", tt.reason, "--kind", "close"); strings.Count(out, "serviceAccount:leaves") != 2 {
				t.Errorf("closing records:\n%s", out)
			}
		})
	}
}
