package grpcverifier_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sallyport-dev/sallyport/verifier"
)

const check = "/grpc.health.v1.Health/Check"

// Which calls reach their handler, and what the others are told: unary and stream
// alike.
func TestCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handler = echo
	good := w.token(t, nil)
	for _, tt := range []struct {
		name          string
		authorization []string
		code          codes.Code
		text          string
		reason        string
	}{
		{"a good token", []string{"Bearer " + good}, codes.OK, "", ""},
		{"the scheme in another case", []string{"bearer " + good}, codes.OK, "", ""},
		{"no credential", nil, codes.Unauthenticated, "no credential", "credential_missing"},
		{"another scheme is none", []string{"Basic eA=="}, codes.Unauthenticated, "no credential", "credential_missing"},
		{"a token without a scheme", []string{good}, codes.Unauthenticated, "no credential", "credential_missing"},
		{"twice", []string{"Bearer " + good, "Bearer " + good}, codes.InvalidArgument, "credential malformed", "credential_malformed"},
		{"two in one", []string{"Bearer " + good + ",Bearer " + good}, codes.InvalidArgument, "credential malformed", "credential_malformed"},
		{"no token", []string{"Bearer abc"}, codes.Unauthenticated, "token malformed", "token_malformed"},
		{"expired", []string{"Bearer " + w.token(t, map[string]any{"exp": start.Unix() - 60})}, codes.Unauthenticated, "token expired", "token_expired"},
		{"for another", []string{"Bearer " + w.token(t, map[string]any{"aud": "https://b"})}, codes.Unauthenticated, "wrong audience", "audience_wrong"},
		{"of a stranger", []string{"Bearer " + w.token(t, map[string]any{"iss": "https://x"})}, codes.Unauthenticated, "token not trusted", "issuer_unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := outgoing(t.Context(), tt.authorization...)
			_, err := grpc_health_v1.NewHealthClient(w.client).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			reports, callers := w.take()
			if ran := slices.Equal(callers, []string{"serviceAccount:orders"}); ran != (tt.code == codes.OK) {
				t.Errorf("the handler was told %q", callers)
			}
			judge(t, err, tt.code, tt.text, reports, check, tt.reason)

			s, err := w.client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Talk")
			if err != nil {
				t.Fatal(err)
			}
			_ = s.SendMsg(wrapperspb.String("hello")) // the refusal is in what is received
			got, err := hear(s)
			reports, _ = w.take()
			if (got == "hello") != (tt.code == codes.OK) {
				t.Errorf("the stream said %q", got)
			}
			judge(t, err, tt.code, tt.text, reports, "/test.Echo/Talk", tt.reason)
		})
	}
}

// judge holds an outcome against what was expected, and against its report.
func judge(t *testing.T, err error, code codes.Code, text string, reports []verifier.Report, method, reason string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != text {
		t.Errorf("%s: got %v, want %v %q", method, err, code, text)
	}
	if len(reports) != 1 {
		t.Fatalf("%s: reported %+v", method, reports)
	}
	r := reports[0]
	want := verifier.Report{Time: start.UTC(), Kind: "admit", Decision: "allow", Service: "app", Action: "grpc.call", Resource: method,
		Reason: reason, TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Reported: true}
	if code != codes.OK {
		want.Kind, want.Decision = "refuse", "deny"
	}
	if !strings.HasPrefix(r.Peer, "127.0.0.1:") {
		t.Errorf("the peer is %q", r.Peer)
	}
	if code == codes.OK && r.Principal != "serviceAccount:orders" {
		t.Errorf("the principal is %q", r.Principal)
	}
	r.Peer, r.Principal, r.Provider, r.TokenID, r.Unverified = "", "", "", "", nil // package verifier's tests have these
	if !reflect.DeepEqual(r, want) {
		t.Errorf("reported %+v\nwant     %+v", r, want)
	}
}

func TestKeysOutOfReach(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.change(errors.New("dial tcp 192.0.2.7:443: no route to host"))
	_, err := grpc_health_v1.NewHealthClient(w.client).Check(outgoing(t.Context(), "Bearer "+w.token(t, nil)), &grpc_health_v1.HealthCheckRequest{})
	reports, _ := w.take()
	judge(t, err, codes.Unavailable, "the issuer's keys cannot be reached", reports, check, "keys_unavailable")
}

// A call without any metadata at all has no credential.
func TestNoMetadata(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := grpc_health_v1.NewHealthClient(w.client).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
}

// What ends a live stream, and as what.
func TestLiveStream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*world)
		code   codes.Code // OK: it goes on
		text   string
		reason string
	}{
		{"nothing has happened", func(*world) {}, codes.OK, "", ""},
		{"the token is in its leeway", func(w *world) { w.clock.Add(3600 + 59) }, codes.OK, "", ""},
		{"the token has expired", func(w *world) { w.clock.Add(3600 + 60) }, codes.Unauthenticated, "token expired", "token_expired"},
		{"another key was published", func(w *world) { w.change(nil, w.keys...) }, codes.OK, "", ""},
		{"its key was withdrawn", func(w *world) { w.change(nil) }, codes.Unauthenticated, "token not trusted", "key_unknown"},
		{"the issuer's keys have become too old to believe", func(w *world) { w.change(errors.New("no route to host")) }, codes.Unavailable,
			"the issuer's keys cannot be reached", "keys_unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.handler = echo
			s := w.talk(t)
			say(t, s, "one")
			if got, err := hear(s); got != "one" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			w.take()
			tt.change(w)
			say(t, s, "two")
			got, err := hear(s)
			reports, _ := w.take()
			if tt.code == codes.OK {
				if got != "two" || err != nil || len(reports) != 0 {
					t.Errorf("got %q, %v, reported %+v", got, err, reports)
				}
				return
			}
			if st := status.Convert(err); st.Code() != tt.code || st.Message() != tt.text || got != "" {
				t.Errorf("got %q, %v", got, err)
			}
			if len(reports) != 1 || reports[0].Kind != "refuse" || reports[0].Reason != tt.reason || reports[0].Principal != "serviceAccount:orders" {
				t.Errorf("reported %+v", reports)
			}
		})
	}
}

// A handler that does not care gets nothing more, sends nothing more, has its
// context ended, and cannot make the end look like its own.
func TestAHandlerThatDoesNotCare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var received []string
	var errs []error
	w.handler = func(s grpc.ServerStream) error {
		for len(errs) < 3 {
			var m wrapperspb.StringValue
			if err := s.RecvMsg(&m); err != nil {
				errs = append(errs, err, s.SendMsg(wrapperspb.String("after")), s.RecvMsg(&m))
				continue
			}
			received = append(received, m.Value)
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
		<-s.Context().Done()
		errs = append(errs, context.Cause(s.Context()))
		if caller, ok := verifier.FromContext(s.Context()); !ok || caller.Principal() != "serviceAccount:orders" {
			t.Error("the handler was not told who calls")
		}
		return nil
	}
	s := w.talk(t)
	say(t, s, "one")
	if _, err := hear(s); err != nil {
		t.Fatal(err)
	}
	w.take()
	w.change(nil)
	say(t, s, "two")
	say(t, s, "three")
	got, err := hear(s)
	if status.Code(err) != codes.Unauthenticated || got != "" || !slices.Equal(received, []string{"one"}) {
		t.Errorf("client got %q, %v; handler received %q", got, err, received)
	}
	for _, e := range errs {
		if status.Code(e) != codes.Unauthenticated {
			t.Errorf("the handler was told %v", errs)
		}
	}
	if reports, _ := w.take(); len(reports) != 1 {
		t.Errorf("reported %+v", reports)
	}
}

// In a stream of the server alone nothing is received after its beginning: what is
// sent is asked about too.
func TestServerStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	watch, err := grpc_health_v1.NewHealthClient(w.client).Watch(outgoing(t.Context(), "Bearer "+w.token(t, nil)), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := watch.Recv(); err != nil || m.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("got %v, %v", m, err)
	}
	w.clock.Add(int64((time.Hour + time.Minute).Seconds()))
	w.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	m, err := watch.Recv()
	if st := status.Convert(err); m != nil || st.Code() != codes.Unauthenticated || st.Message() != "token expired" {
		t.Errorf("got %v, %v", m, err)
	}
}

// A stream that ends by itself ends as its handler says.
func TestAStreamsOwnEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handler = echo
	s := w.talk(t)
	say(t, s, "one")
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if got, err := hear(s); got != "one" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := hear(s); status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), "EOF") { // echo returns it as it is
		t.Errorf("got %v", err)
	}
	w.handler = func(grpc.ServerStream) error { return status.Error(codes.Aborted, "enough") }
	if _, err := hear(w.talk(t)); status.Code(err) != codes.Aborted {
		t.Errorf("got %v", err)
	}
}

// Both directions may ask at the same time, and one end is reported.
func TestBothDirectionsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.handler = func(s grpc.ServerStream) error {
		var wg sync.WaitGroup
		wg.Go(func() {
			for s.RecvMsg(&wrapperspb.StringValue{}) == nil {
			}
		})
		wg.Go(func() {
			for s.SendMsg(wrapperspb.String("tick")) == nil {
			}
		})
		wg.Wait()
		return nil
	}
	s := w.talk(t)
	go func() {
		for s.SendMsg(wrapperspb.String("x")) == nil {
		}
	}()
	for i := 0; ; i++ {
		if i == 100 {
			w.change(nil)
		}
		if _, err := hear(s); err != nil {
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("got %v", err)
			}
			break
		}
	}
	if reports, _ := w.take(); len(reports) != 2 || reports[1].Reason != "key_unknown" {
		t.Errorf("reported %+v", reports)
	}
}
