package httpproxy_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// token is what a client of gRPC sends with each call.
type callToken string

func (c callToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if c == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + string(c)}, nil
}
func (callToken) RequireTransportSecurity() bool { return false }

// calls is a gateway before gRPC's own interop server.
func calls(t *testing.T) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	go func() { _ = s.Serve(l) }() // ends at Stop
	t.Cleanup(s.Stop)
	return newRig(t, settings{upstream: "h2c://" + l.Addr().String()})
}

func callDial(t *testing.T, b *rig, token string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+b.gateway, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("app.test"),
		grpc.WithPerRPCCredentials(callToken(token)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// gRPC's own cases (doc/interop-test-descriptions.md of grpc/grpc), through the gateway. They
// end the process where they fail.
func TestInterop(t *testing.T) {
	t.Parallel()
	conn := callDial(t, calls(t), good(t))
	client := testgrpc.NewTestServiceClient(conn)
	ctx := t.Context()
	interop.DoEmptyUnaryCall(ctx, client)
	interop.DoLargeUnaryCall(ctx, client)
	interop.DoClientStreaming(ctx, client)
	interop.DoServerStreaming(ctx, client)
	interop.DoPingPong(ctx, client)
	interop.DoEmptyStream(ctx, client)
	interop.DoStatusCodeAndMessage(ctx, client)
	interop.DoSpecialStatusMessage(ctx, client)
	interop.DoUnimplementedMethod(ctx, conn)
	interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	interop.DoCustomMetadata(ctx, client)
	interop.DoCancelAfterBegin(ctx, client)
	interop.DoCancelAfterFirstResponse(ctx, client)
	interop.DoTimeoutOnSleepingServer(ctx, client)
}

// A refusal is a status, with the decision in its metadata.
func TestCallRefused(t *testing.T) {
	t.Parallel()
	b := calls(t)
	for _, tt := range []struct {
		name, token string
		code        codes.Code
	}{
		{"without a credential", "", codes.Unauthenticated},
		{"with one that is none", "x.y.z", codes.Unauthenticated},
		{"that policy does not allow", good(t), codes.PermissionDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var header, trailer metadata.MD
			path := "/grpc.testing.TestService/EmptyCall"
			if tt.code == codes.PermissionDenied {
				path = "/admin/EmptyCall"
			}
			err := callDial(t, b, tt.token).Invoke(t.Context(), path, &testgrpc.Empty{}, &testgrpc.Empty{}, grpc.Header(&header), grpc.Trailer(&trailer))
			if got := status.Convert(err); got.Code() != tt.code || got.Message() == "" {
				t.Errorf("got %v", err)
			}
			if len(header.Get("sallyport-decision"))+len(trailer.Get("sallyport-decision")) == 0 {
				t.Errorf("no decision in %v %v", header, trailer)
			}
		})
	}
}

// A stream that is open when its pass ends gets a status, not a broken stream.
func TestStreamEnds(t *testing.T) {
	t.Parallel()
	b := calls(t)
	stream, err := testgrpc.NewTestServiceClient(callDial(t, b, good(t))).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := &testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 1}}}
	if err := stream.Send(ask); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, b.guard.Close)
	_, err = stream.Recv()
	if got := status.Convert(err); err == io.EOF || got.Code() != codes.Unavailable || !strings.HasPrefix(got.Message(), "shutting down (decision a-") {
		t.Errorf("got %v", err)
	}
}

// An upstream that gives a call up when its deadline is over, before the client does, is no
// upstream that is away.
func TestCallDeadline(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "Begun") {
			w.Header().Set("Content-Type", "application/grpc")
			_ = http.NewResponseController(w).Flush()
		}
		time.Sleep(20 * time.Millisecond) // past the deadline that the call says
		panic(http.ErrAbortHandler)
	}), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	b := newRig(t, settings{upstream: "h2c://" + l.Addr().String()})
	plain := new(http.Protocols)
	plain.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: plain}
	defer transport.CloseIdleConnections()
	for _, tt := range []struct{ path, timeout, want string }{
		{"/s/Never", "10m", "4"}, {"/s/Begun", "10m", "4"}, {"/s/Never", "10S", "14"}, {"/s/Begun", "", "14"}, {"/s/Never", "x", "14"}, {"/s/Never", "99999999H", "14"},
	} {
		r, err := http.NewRequest(http.MethodPost, "http://"+b.gateway+tt.path, strings.NewReader("\x00\x00\x00\x00\x00"))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "app.test"
		r.Header = http.Header{"Authorization": {"Bearer " + good(t)}, "Content-Type": {"application/grpc"}, "Te": {"trailers"}}
		if tt.timeout != "" {
			r.Header.Set("Grpc-Timeout", tt.timeout)
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if got := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status"); err != nil || got != tt.want {
			t.Errorf("%s with %q: status %q, %v, want %s", tt.path, tt.timeout, got, err, tt.want)
		}
	}
}

// A request that a server may take for a call is judged as one, however it is written.
func TestCallsAreKnown(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Transport{Protocols: protocols}
	defer h2.CloseIdleConnections()
	for _, tt := range []struct {
		types     []string
		http1, h2 string // what is asked; "" is refused
	}{
		{[]string{"application/grpc"}, "", "grpc.call"},
		{[]string{"application/grpc+proto"}, "", "grpc.call"},
		{[]string{"application/grpc;x=y"}, "", "grpc.call"},
		{[]string{"application/grpc ; x=y"}, "", "grpc.call"},
		{[]string{"Application/GRPC"}, "", "grpc.call"},
		{[]string{"text/plain", "application/grpc"}, "", ""}, // grpc-go takes any
		{[]string{"application/grpc", "text/plain"}, "", ""},
		{[]string{"application/grpc-web"}, "http.post", "http.post"},
		{[]string{"text/plain"}, "http.post", "http.post"},
		{nil, "http.post", "http.post"},
	} {
		for want, transport := range map[*string]http.RoundTripper{&tt.http1: http.DefaultTransport, &tt.h2: h2} {
			r, _ := http.NewRequest(http.MethodPost, "http://"+b.gateway+"/v1", strings.NewReader("x"))
			r.Host = "app.test"
			r.Header = http.Header{"Authorization": {"Bearer " + good(t)}}
			if tt.types != nil {
				r.Header["Content-Type"] = tt.types
			}
			resp, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			e := b.record(t, "")
			if refused := e.Payload.Reason == "header_malformed"; refused != (*want == "") || !refused && e.Payload.Action != *want {
				t.Errorf("%s, %q: judged as %s (%s)", resp.Proto, tt.types, e.Payload.Action, e.Payload.Reason)
			}
		}
	}
}
