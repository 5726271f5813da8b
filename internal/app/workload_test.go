package app_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/door/discovery"
)

// clock is time.Now, and more when a test says so.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) after(d time.Duration) { c.ahead.Add(int64(d)) }

// onlyOrders makes the test's own uid one account.
func onlyOrders(c *config.Config, _ *app.Options) {
	nobody := uint32(4711)
	c.ServiceAccounts[1].Attest = []attest.Rule{{UID: &nobody}}
}

func endpoint(p *program) workloadapi.SourceOption {
	return workloadapi.WithClientOptions(workloadapi.WithAddr("unix://" + config.WorkloadSocket(p.dir)))
}

// patience bounds what waits for the server.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Unmodified go-spiffe clients: a certificate, mutual TLS between two programs, JWT-SVIDs
// made and validated, and the bundle over the socket and at the issuer's URL.
func TestWorkloadAPIWithGoSPIFFE(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil, onlyOrders)
	ctx := patience(t)
	source, err := workloadapi.NewX509Source(ctx, endpoint(p))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil || svid.ID.String() != "spiffe://dev.internal/sa/orders" || svid.Hint != "orders" {
		t.Fatalf("got %+v, %v", svid, err)
	}

	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeMemberOf(svid.ID.TrustDomain())))
	if err != nil {
		t.Fatal(err)
	}
	mutual := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := x509svid.IDFromCert(r.TLS.PeerCertificates[0])
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, "hello "+id.String())
	})}
	go func() { _ = mutual.Serve(l) }()
	defer mutual.Close()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(svid.ID))}}
	resp, err := client.Get("https://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "hello spiffe://dev.internal/sa/orders" {
		t.Errorf("over mutual TLS: %q, %v", body, err)
	}

	tokens, err := workloadapi.NewJWTSource(ctx, endpoint(p))
	if err != nil {
		t.Fatal(err)
	}
	defer tokens.Close()
	jwt, err := tokens.FetchJWTSVID(ctx, jwtsvid.Params{Audience: config.DevAudience, ExtraAudiences: []string{"https://second.test"}})
	if err != nil || jwt.ID != svid.ID || !slices.Equal(jwt.Audience, []string{config.DevAudience, "https://second.test"}) {
		t.Fatalf("got %+v, %v", jwt, err)
	}
	if _, err := jwtsvid.ParseAndValidate(jwt.Marshal(), tokens, []string{"https://second.test"}); err != nil {
		t.Errorf("by the bundle: %v", err)
	}
	if got, err := workloadapi.ValidateJWTSVID(ctx, jwt.Marshal(), config.DevAudience, workloadapi.WithAddr("unix://"+config.WorkloadSocket(p.dir))); err != nil || got.ID != svid.ID {
		t.Errorf("by the server: %v, %v", got, err)
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, jwt.Marshal(), "https://third.test", workloadapi.WithAddr("unix://"+config.WorkloadSocket(p.dir))); err == nil {
		t.Error("validated for another audience")
	}

	_, doc := do(t, "GET", "http://"+p.addresses.Issuer+discovery.BundlePath, nil, "")
	published, err := spiffebundle.Parse(svid.ID.TrustDomain(), []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	over, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil || !over.Equal(published.X509Bundle()) {
		t.Errorf("the bundle over the socket is not the published one: %v", err)
	}
	p.end(t)
}

// A certificate is renewed at half its life, and a bundle that changed is pushed at
// once, without the client asking.
func TestWorkloadAPIPushesChanges(t *testing.T) {
	t.Parallel()
	var c clock
	p := start(t, t.TempDir(), nil, onlyOrders, func(_ *config.Config, o *app.Options) { o.Now = c.now })
	ctx := patience(t)
	source, err := workloadapi.NewX509Source(ctx, endpoint(p))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	first, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	updated := func(what string, yes func() bool) {
		t.Helper()
		for !yes() {
			select {
			case <-source.Updated():
			case <-time.After(50 * time.Millisecond): // an update before we listened
			case <-ctx.Done():
				t.Fatalf("%s: nothing was pushed", what)
			}
		}
	}
	current := func() *x509.Certificate {
		svid, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		return svid.Certificates[0]
	}
	c.after(31 * time.Minute)
	updated("half the certificate's life", func() bool { return !current().Equal(first.Certificates[0]) })

	before := current()
	if status, answer := adminDo(t, p, admin.RotatePath, `{"purposes":["svid-authority"]}`); status != 200 {
		t.Fatalf("rotate: %d %s", status, answer)
	}
	updated("a new root", func() bool {
		b, err := source.GetX509BundleForTrustDomain(first.ID.TrustDomain())
		return err == nil && len(b.X509Authorities()) == 2
	})
	if _, _, err := x509svid.Verify([]*x509.Certificate{before}, source, x509svid.WithTime(c.now())); err != nil {
		t.Errorf("a certificate of the key before: %v", err)
	}
	p.end(t) // ends the streams, too
}

// adminDo asks the admin door.
func adminDo(t *testing.T, p *program, path, body string) (int, string) {
	t.Helper()
	return overSocket(t, config.AdminSocket(p.dir), "POST", path, body, nil)
}

func dialAPI(t *testing.T, p *program) api.SpiffeWorkloadAPIClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+config.WorkloadSocket(p.dir), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return api.NewSpiffeWorkloadAPIClient(conn)
}

// What the API refuses, with which code, and that nobody gets anything by it.
func TestWorkloadAPIRefuses(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil)
	client := dialAPI(t, p)
	with := metadata.AppendToOutgoingContext(patience(t), "workload.spiffe.io", "true")
	first := func(s interface {
		Recv() (*api.X509SVIDResponse, error)
	}, err error) error {
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	fetch := func(ctx context.Context, id string, audiences ...string) error {
		_, err := client.FetchJWTSVID(ctx, &api.JWTSVIDRequest{SpiffeId: id, Audience: audiences})
		return err
	}
	many := make([]string, 9)
	for i := range many {
		many[i] = "https://" + strings.Repeat("a", i+1)
	}
	for _, tt := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"a call without the header, which a page could be tricked into", first(client.FetchX509SVID(patience(t), &api.X509SVIDRequest{})), codes.InvalidArgument},
		{"the header with another value", first(client.FetchX509SVID(metadata.AppendToOutgoingContext(patience(t), "workload.spiffe.io", "yes"), &api.X509SVIDRequest{})), codes.InvalidArgument},
		{"the header twice", fetch(metadata.AppendToOutgoingContext(with, "workload.spiffe.io", "true"), "", "https://a"), codes.InvalidArgument},
		{"no audience", fetch(with, ""), codes.InvalidArgument},
		{"an empty audience", fetch(with, "", ""), codes.InvalidArgument},
		{"an audience with a line break", fetch(with, "", "https://a\n"), codes.InvalidArgument},
		{"too many audiences", fetch(with, "", many...), codes.InvalidArgument},
		{"an identity that is not here", fetch(with, "spiffe://dev.internal/sa/ghost", "https://a"), codes.PermissionDenied},
		{"an identity of another trust domain", fetch(with, "spiffe://other/sa/orders", "https://a"), codes.PermissionDenied},
		{"one of the caller's", fetch(with, "spiffe://dev.internal/sa/reports", "https://a"), codes.OK},
		{"a profile that is not served", func() error {
			s, err := client.FetchWITSVID(with, &api.WITSVIDRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}(), codes.Unimplemented},
		{"validating nothing", func() error {
			_, err := client.ValidateJWTSVID(with, &api.ValidateJWTSVIDRequest{Audience: "a"})
			return err
		}(), codes.InvalidArgument},
		{"validating an ID token", func() error {
			_, err := client.ValidateJWTSVID(with, &api.ValidateJWTSVIDRequest{Audience: config.DevAudience, Svid: p.token(t)})
			return err
		}(), codes.InvalidArgument},
	} {
		if got := status.Code(tt.err); got != tt.want {
			t.Errorf("%s: got %v (%v), want %v", tt.name, got, tt.err, tt.want)
		}
	}
	// a caller that is two accounts gets both
	s, err := client.FetchX509SVID(with, &api.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Recv()
	if err != nil || len(got.Svids) != 2 || got.Svids[0].Hint != "orders" || got.Svids[1].Hint != "reports" {
		t.Errorf("got %+v, %v", got, err)
	}
	p.end(t)
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream at the server's end: %v", err)
	}
}

// A caller that is no account gets no identity; the bundle, which is public, it gets.
func TestWorkloadAPIOfAStranger(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil, onlyOrders, func(c *config.Config, _ *app.Options) {
		c.ServiceAccounts[0].Attest = c.ServiceAccounts[1].Attest
	})
	client := dialAPI(t, p)
	ctx := metadata.AppendToOutgoingContext(patience(t), "workload.spiffe.io", "true")
	s, err := client.FetchX509SVID(ctx, &api.X509SVIDRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if st, _ := status.FromError(err); st.Code() != codes.PermissionDenied || !strings.Contains(st.Message(), "no identity for this caller (decision dev-") {
		t.Errorf("a certificate: %v", err)
	}
	if _, err = client.FetchJWTSVID(ctx, &api.JWTSVIDRequest{Audience: []string{"https://a"}}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token: %v", err)
	}
	b, err := client.FetchX509Bundles(ctx, &api.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Recv()
	if err != nil || len(got.Bundles["spiffe://dev.internal"]) == 0 {
		t.Errorf("the bundle: %v, %v", got, err)
	}
}

// A token for two audiences is refused when one of them is: a token for the other alone
// is not what was asked for.
func TestWorkloadAPIGivesEveryAudienceOrNone(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil, onlyOrders, func(c *config.Config, _ *app.Options) { c.Issuer.Audiences = []string{"https://a.test"} })
	client := dialAPI(t, p)
	ctx := metadata.AppendToOutgoingContext(patience(t), "workload.spiffe.io", "true")
	for _, tt := range []struct {
		audiences []string
		want      codes.Code
	}{
		{[]string{"https://a.test"}, codes.OK},
		{[]string{"https://b.test"}, codes.PermissionDenied},
		{[]string{"https://a.test", "https://b.test"}, codes.PermissionDenied},
		{[]string{"https://b.test", "https://a.test"}, codes.PermissionDenied},
	} {
		got, err := client.FetchJWTSVID(ctx, &api.JWTSVIDRequest{Audience: tt.audiences})
		if status.Code(err) != tt.want {
			t.Errorf("%v: got %v, %v, want %v", tt.audiences, got, err, tt.want)
		}
	}
}

// The Workload API and a service that verifies what it is shown are two things: the
// gateway takes no JWT-SVID for an ID token.
func TestGatewayTakesNoSVID(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil, onlyOrders)
	svid, err := workloadapi.FetchJWTSVID(patience(t), jwtsvid.Params{Audience: config.DevAudience, Subject: spiffeid.RequireFromString("spiffe://dev.internal/sa/orders")},
		workloadapi.WithAddr("unix://"+config.WorkloadSocket(p.dir)))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := do(t, "GET", "http://"+p.addresses.Gateway+"/v1/x", http.Header{"Authorization": {"Bearer " + svid.Marshal()}}, ""); status != 401 {
		t.Errorf("got %d %s", status, body)
	}
	if status, body := do(t, "GET", "http://"+p.addresses.Gateway+"/v1/x", http.Header{"Authorization": {"Bearer " + p.token(t)}}, ""); status != 200 {
		t.Errorf("an ID token: %d %s", status, body)
	}
}

// A call that does not say what it wants is ended, whatever it holds open; and what it
// can hold is small.
func TestWorkloadAPIWaitsForNoRequest(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil, onlyOrders)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", config.WorkloadSocket(p.dir))
	}}}
	call := func(body io.Reader, header http.Header) (*http.Response, error) {
		req, err := http.NewRequestWithContext(patience(t), "POST", "http://x/SpiffeWorkloadAPI/FetchJWTSVID", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		header.Set("Content-Type", "application/grpc")
		header.Set("Te", "trailers")
		return client.Do(req)
	}
	if resp, err := call(http.NoBody, http.Header{"X": {strings.Repeat("x", 32<<10)}}); err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("32 KiB of header fields: %s", resp.Status)
	}
	get, err := http.NewRequestWithContext(patience(t), "GET", "http://x/computeMetadata/v1/project/project-id", nil)
	if err != nil {
		t.Fatal(err)
	}
	get.Header.Set("Metadata-Flavor", "Google")
	if resp, err := client.Do(get); err != nil || resp.StatusCode != http.StatusHTTPVersionNotSupported {
		t.Errorf("another door over HTTP/2: %v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	endless, w := io.Pipe()
	defer w.Close()
	resp, err := call(endless, http.Header{})
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("the call is still open")
	} else if err != nil {
		return // the stream was reset
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if err := resp.Request.Context().Err(); err != nil {
		t.Fatalf("the call is still open: %v", err)
	}
	if code := resp.Trailer.Get("Grpc-Status") + resp.Header.Get("Grpc-Status"); code == "" || code == "0" {
		t.Errorf("%s, header %v, trailer %v", resp.Status, resp.Header, resp.Trailer)
	}
}

// One user may have 512 streams open, and no more; one that ends makes room.
func TestWorkloadAPIStreamsAreBounded(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), nil, onlyOrders)
	ctx, stop := context.WithCancel(metadata.AppendToOutgoingContext(patience(t), "workload.spiffe.io", "true"))
	defer stop()
	open := func(client api.SpiffeWorkloadAPIClient, ctx context.Context) error {
		s, err := client.FetchX509Bundles(ctx, &api.X509BundlesRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	var last context.CancelFunc
	for range 16 {
		client := dialAPI(t, p) // a connection has 32 streams at most
		for range 32 {
			var one context.Context
			one, last = context.WithCancel(ctx)
			if err := open(client, one); err != nil {
				t.Fatalf("one of 512: %v", err)
			}
		}
	}
	client := dialAPI(t, p)
	if err := open(client, ctx); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the 513th: %v", err)
	}
	last()
	for range 200 {
		if open(client, ctx) == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a stream that ended makes no room")
}
