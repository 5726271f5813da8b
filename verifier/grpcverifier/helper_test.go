package grpcverifier_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
	"github.com/sallyport-dev/sallyport/verifier/grpcverifier"
)

var start = time.Unix(1_800_000_000, 0)

// world is a gRPC server on loopback, protected by a Gate whose clock and keys a
// test changes: the health service, and "test.Echo/Talk", a stream in both
// directions whose handler a test chooses.
type world struct {
	key     ed25519.PrivateKey
	clock   atomic.Int64
	health  *health.Server
	client  *grpc.ClientConn
	handler func(grpc.ServerStream) error

	mu         sync.Mutex
	keys       []token.Key
	err        error
	generation uint64
	reports    []verifier.Report
	callers    []string // principals that handlers of unary calls were told
}

// Find implements verifier.KeySource.
func (w *world) Find(_ context.Context, kid string, alg token.Algorithm) (token.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return token.Key{}, w.err
	}
	return token.FindKey(w.keys, kid, alg)
}

// Generation implements verifier.KeySource.
func (w *world) Generation() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.generation
}

func (w *world) change(err error, keys ...token.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.keys = err, keys
	w.generation++
}

// Observe implements verifier.Observer.
func (w *world) Observe(_ context.Context, r verifier.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reports = append(w.reports, r)
}

func (w *world) take() (reports []verifier.Report, callers []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	reports, callers = w.reports, w.callers
	w.reports, w.callers = nil, nil
	return reports, callers
}

func newWorld(t testing.TB) *world {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{key: key, health: health.NewServer(), keys: []token.Key{{ID: "k", Algorithm: token.EdDSA, Public: pub}}}
	w.clock.Store(start.Unix())
	now := func() time.Time { return time.Unix(w.clock.Load(), 0) }
	v, err := verifier.New(verifier.Config{Issuer: "https://id", Keys: w, Rules: verifier.OwnRules(token.TypeID), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := verifier.NewGate(verifier.Requirement{Verifiers: []*verifier.Verifier{v}, Audiences: []string{"https://a"}, Service: "app", Observer: w, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpcverifier.Unary(gate), w.spy),
		grpc.ChainStreamInterceptor(grpcverifier.Stream(gate)),
	)
	grpc_health_v1.RegisterHealthServer(server, w.health)
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "test.Echo", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return w.handler(s) },
	}}}, w)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	if w.client, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.client.Close() })
	return w
}

// spy stands where a handler does.
func (w *world) spy(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	who := "nobody"
	if caller, ok := verifier.FromContext(ctx); ok {
		who = caller.Principal()
	}
	w.mu.Lock()
	w.callers = append(w.callers, who)
	w.mu.Unlock()
	return handler(ctx, req)
}

// token returns one of the account orders, changed.
func (w *world) token(t testing.TB, changes map[string]any) string {
	t.Helper()
	c := map[string]any{"iss": "https://id", "sub": "spiffe://test/sa/orders", "aud": "https://a", "iat": start.Unix(), "exp": start.Unix() + 3600, "jti": "token-1"}
	maps.Copy(c, changes)
	in, err := token.SigningInput(token.EdDSA, "k", token.TypeID, c)
	if err != nil {
		t.Fatal(err)
	}
	return token.Seal(in, ed25519.Sign(w.key, in))
}

func outgoing(ctx context.Context, authorization ...string) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.MD{"authorization": authorization,
		"traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "x-forwarded-user": {"admin"}})
}

// talk opens a stream of test.Echo with a good token.
func (w *world) talk(t testing.TB) grpc.ClientStream {
	t.Helper()
	s, err := w.client.NewStream(outgoing(t.Context(), "Bearer "+w.token(t, nil)), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Talk")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// echo sends back what it receives.
func echo(s grpc.ServerStream) error {
	for {
		var m wrapperspb.StringValue
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		if err := s.SendMsg(&m); err != nil {
			return err
		}
	}
}

func say(t testing.TB, s grpc.ClientStream, text string) {
	t.Helper()
	if err := s.SendMsg(wrapperspb.String(text)); err != nil {
		t.Fatal(err)
	}
}

func hear(s grpc.ClientStream) (string, error) {
	var m wrapperspb.StringValue
	err := s.RecvMsg(&m)
	return m.Value, err
}
