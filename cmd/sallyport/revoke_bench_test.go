package main_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// benchSessions is how many sessions are live: half WebSocket, half streaming gRPC. Half of
// each are of the account that is revoked.
func benchSessions(b *testing.B) int {
	n, err := strconv.Atoi(os.Getenv("SALLYPORT_BENCH_SESSIONS"))
	if os.Getenv("SALLYPORT_BENCH_SESSIONS") == "" {
		return 400
	}
	if err != nil || n < 8 {
		b.Fatalf("SALLYPORT_BENCH_SESSIONS=%s", os.Getenv("SALLYPORT_BENCH_SESSIONS"))
	}
	return n
}

// BenchmarkRevocation measures the time from the command `sallyport revoke` of a group to
// the end of each of its sessions as its client sees it, of half of all there are; the
// other half must not notice.
func BenchmarkRevocation(b *testing.B) {
	n := benchSessions(b)
	for b.Loop() {
		revokeHalf(b, n)
	}
}

func revokeHalf(b *testing.B, n int) {
	k, upstreams := newSessionHarness(b)
	defer upstreams()
	server := k.start(b)
	defer func() { _ = server.Process.Signal(syscall.SIGTERM); _ = server.Wait() }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tokens := map[string]string{}
	for _, audience := range []string{"sockets", "calls"} {
		tokens[audience+"0"], tokens[audience+"1"] = k.mintFor(b, k.door, audience), k.mintFor(b, k.second, audience)
	}
	var revoked, others sync.WaitGroup
	var began atomic.Int64 // nanoseconds
	var noticed atomic.Int64
	times := make(chan time.Duration, n)
	watch := func(i int, wait func()) {
		if i%2 == 0 {
			revoked.Go(func() {
				wait()
				times <- time.Duration(time.Now().UnixNano() - began.Load())
			})
			return
		}
		others.Go(func() {
			wait()
			if ctx.Err() == nil {
				noticed.Add(1)
			}
		})
	}
	var opening sync.WaitGroup
	slots := make(chan struct{}, 32)
	conns := make([]*grpc.ClientConn, n/2/100+1)
	for i := range conns {
		c, err := grpc.NewClient("passthrough:///"+k.gateway, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("calls.test"))
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	for i := range n {
		slots <- struct{}{}
		opening.Go(func() {
			defer func() { <-slots }()
			var wait func()
			var err error
			if i < n/2 {
				wait, err = openSocket(ctx, k.gateway, tokens["sockets"+strconv.Itoa(i%2)])
			} else {
				wait, err = openCall(ctx, conns[i%len(conns)], tokens["calls"+strconv.Itoa(i%2)])
			}
			if err != nil {
				b.Errorf("session %d: %v", i, err)
				return
			}
			watch(i, wait)
		})
	}
	opening.Wait()
	if b.Failed() {
		b.FailNow()
	}
	time.Sleep(time.Second)
	began.Store(time.Now().UnixNano())
	out := k.run(b, "revoke", "--data-dir", k.dataDir, "--subject", "group:left")
	revoked.Wait()
	if !strings.Contains(out, fmt.Sprintf("%d live sessions end", n/2)) {
		b.Errorf("revoke says %s", out)
	}
	close(times)
	var all []time.Duration
	for d := range times {
		all = append(all, d)
	}
	slices.Sort(all)
	at := func(share float64) float64 { return float64(all[int(float64(len(all)-1)*share)].Microseconds()) / 1000 }
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(at(1), "max-ms")
	b.ReportMetric(float64(len(all)), "ended")
	if noticed.Load() > 0 {
		b.Errorf("%d of the others noticed", noticed.Load())
	}
	if at(0.99) > 1000 {
		b.Logf("99 %% took %.0f ms: the budget is one second", at(0.99))
	}
	cancel()
	others.Wait()
}

func openSocket(ctx context.Context, gateway, raw string) (wait func(), err error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+gateway+"/", &websocket.DialOptions{Host: "sockets.test", HTTPHeader: http.Header{"Authorization": {"Bearer " + raw}}})
	if err != nil {
		return nil, err
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		return nil, err
	}
	if _, _, err := conn.Read(ctx); err != nil {
		return nil, err
	}
	return func() { _, _, _ = conn.Read(ctx); _ = conn.CloseNow() }, nil
}

func openCall(ctx context.Context, c *grpc.ClientConn, raw string) (wait func(), err error) {
	stream, err := testgrpc.NewTestServiceClient(c).FullDuplexCall(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+raw))
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: 1}}}); err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); err != nil {
		return nil, err
	}
	return func() { _, _ = stream.Recv() }, nil
}

// sessionHarness is a server before an echo of WebSocket and gRPC's interop server.
type sessionHarness struct {
	*killHarness
	second string // door of the account that stays
}

func newSessionHarness(b testing.TB) (*sessionHarness, func()) {
	b.Helper()
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.CloseNow() }()
		for {
			kind, text, err := conn.Read(context.Background())
			if err != nil || conn.Write(context.Background(), kind, text) != nil {
				return
			}
		}
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	calls := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(calls, interop.NewTestServer())
	go func() { _ = calls.Serve(l) }()
	k := &sessionHarness{newKillHarness(b), freeAddress(b)}
	text := fmt.Sprintf(`
trust_domain: acme.internal
replica: a
issuer: {url: "http://%[1]s", listen: "%[1]s"}
data_dir: data
telemetry: {listen: "%[2]s"}
metadata:
  - {listen: "%[3]s", service_accounts: [leaves]}
  - {listen: "%[4]s", service_accounts: [stays]}
service_accounts:
  - {name: leaves, attest: [{uid: %[5]d}]}
  - {name: stays, attest: [{uid: %[5]d}]}
groups: [{name: left, members: [serviceAccount:leaves]}]
gateway: {listen: "%[6]s"}
services:
  - {name: sockets, audiences: [sockets], http: {hosts: [sockets.test], upstream: "%[7]s"}}
  - {name: calls, audiences: [calls], http: {hosts: [calls.test], upstream: "h2c://%[8]s"}}
policies:
  - {name: all, allow: [anyAuthenticated], to: [sockets, calls], actions: [http.websocket, grpc.call]}
`, k.issuer, k.telemetry, k.door, k.second, os.Getuid(), k.gateway, echo.URL, l.Addr())
	if err := os.WriteFile(k.file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return k, func() { calls.Stop(); echo.Close() }
}
