package httpproxy_test

import (
	"context"
	"io"
	"net"
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
