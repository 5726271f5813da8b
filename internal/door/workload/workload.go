// Package workload is the SPIFFE Workload API: X.509-SVIDs and JWT-SVIDs, and the
// trust bundle, for local programs over a Unix socket. Clients are go-spiffe and
// everything else that reads SPIFFE_ENDPOINT_SOCKET.
//
// A caller gets the SVIDs of every account that it is, as the API has it; each is
// admitted and recorded by itself. X.509-SVIDs are made anew, and the caller is
// attested anew, at half of their life and when the bundle changes. Envoy's SDS and
// WIT-SVIDs are not served; what each section became is in
// docs/spec/spiffe-workload-api.md.
package workload

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	api "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/verifier"
)

// A Guard admits, and knows which accounts a local caller is.
type Guard interface {
	Admit(context.Context, guard.Attempt) (*guard.Pass, error)
	Which(ctx context.Context, c attest.Conn, among []string) []string
}

// A Minter makes SVIDs from passes.
type Minter interface {
	X509SVID(ctx context.Context, pass *guard.Pass) (*issuer.X509SVID, error)
	JWTSVID(ctx context.Context, passes []*guard.Pass) (string, error)
	Bundle() (*spiffebundle.Bundle, error)
}

// Options are what a Door needs; all are required.
type Options struct {
	Guard       Guard
	Mint        Minter
	Verify      *verifier.Verifier // of JWT-SVIDs
	Accounts    []string           // that may be given
	TrustDomain string
	Now         func() time.Time
	Every       time.Duration // how often a stream looks whether there is something to send; about a second
	Turns       *door.Turns
}

// How many calls may be open at a time, streams among them: of one uid, and of all.
const (
	maxCalls    = 512
	maxCallsAll = 16384
)

// requestTimeout is how long a call may take to say what it wants.
const requestTimeout = 10 * time.Second

// A Door serves the API.
type Door struct {
	api.UnimplementedSpiffeWorkloadAPIServer
	o    Options
	done chan struct{}
	grpc *grpc.Server
	open *door.Places
}

// maxRequest bounds what is read of a request, in bytes: audiences and a token.
const maxRequest = 64 << 10

// New returns a Door.
func New(o Options) *Door {
	d := &Door{o: o, done: make(chan struct{}), grpc: grpc.NewServer(grpc.MaxRecvMsgSize(maxRequest)), open: door.NewPlaces(maxCalls, maxCallsAll)}
	api.RegisterSpiffeWorkloadAPIServer(d.grpc, d)
	return d
}

// ServeHTTP serves gRPC over HTTP/2. Callers are those of the request's connection.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, _ := door.Caller(r.Context())
	leave, ok := d.open.Enter(c.UID())
	if !ok { // in gRPC's form of an answer that is all trailers
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(int(codes.ResourceExhausted)))
		h.Set("Grpc-Message", "too many calls of this user")
		return
	}
	defer leave()
	// of the request: streams of answers go on
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		http.Error(w, "gRPC is served over HTTP/2 alone", http.StatusHTTPVersionNotSupported)
		return
	}
	d.grpc.ServeHTTP(w, r)
}

// Close ends every stream. It is to be called once.
func (d *Door) Close() { close(d.done) }

// caller returns the connection of a call that keeps the API's first rule: that it
// carries a header which no page or proxy can be tricked into sending (SPIFFE
// Workload Endpoint section 3).
func caller(ctx context.Context) (attest.Conn, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return attest.Conn{}, status.Error(codes.InvalidArgument, "the call lacks the metadata workload.spiffe.io: true")
	}
	c, ok := door.Caller(ctx)
	if !ok {
		return c, status.Error(codes.Internal, "the connection was not accepted by a listener that attests")
	}
	return c, nil
}

// admit admits the caller as each account that it is, for what a says. It fails only
// when that leaves none.
func (d *Door) admit(ctx context.Context, c attest.Conn, among []string, a guard.Attempt) ([]*guard.Pass, error) {
	names := d.o.Guard.Which(ctx, c, among)
	if len(names) == 0 { // to be refused and recorded, unless it can be seen by now
		a.Credentials = []guard.Credential{guard.Local(c, among)}
		pass, err := d.o.Guard.Admit(ctx, a)
		if err != nil {
			return nil, err
		}
		return []*guard.Pass{pass}, nil
	}
	var out []*guard.Pass
	var last error
	for _, name := range names {
		a.Credentials = []guard.Credential{guard.Local(c, []string{name})}
		pass, err := d.o.Guard.Admit(ctx, a)
		if err != nil {
			last = err
			continue
		}
		out = append(out, pass)
	}
	if len(out) == 0 {
		return nil, last
	}
	return out, nil
}

// fail is where an error of a call gets its code.
func fail(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	f := fault.Of(err)
	code := codes.Internal
	switch f.Code {
	case fault.Invalid:
		code = codes.InvalidArgument
	case fault.Denied, fault.Unproven, fault.Missing, fault.Absent:
		code = codes.PermissionDenied
	case fault.Unsupported:
		code = codes.Unimplemented
	case fault.TooMany:
		code = codes.ResourceExhausted
	case fault.Busy:
		code = codes.Unavailable
	}
	text := f.Public
	if f.Decision != "" {
		text += " (decision " + f.Decision + ")"
	}
	return status.Error(code, text)
}

// FetchX509SVID implements the API.
func (d *Door) FetchX509SVID(_ *api.X509SVIDRequest, s grpc.ServerStreamingServer[api.X509SVIDResponse]) error {
	c, err := caller(s.Context())
	if err != nil {
		return err
	}
	return d.stream(s.Context(), func() (renew time.Time, err error) {
		out, renew, err := d.x509SVIDs(s.Context(), c)
		if err != nil {
			return renew, err
		}
		return renew, s.Send(out)
	})
}

func (d *Door) x509SVIDs(ctx context.Context, c attest.Conn) (*api.X509SVIDResponse, time.Time, error) {
	var renew time.Time
	end, err := d.o.Turns.Wait(ctx, c.UID())
	if err != nil {
		return nil, renew, err
	}
	defer end()
	passes, err := d.admit(ctx, c, d.o.Accounts, guard.Attempt{Action: guard.ActionMint, Resource: guard.ToItself(), Request: policy.Mint{}})
	if err != nil {
		return nil, renew, err
	}
	roots, err := d.roots()
	if err != nil {
		return nil, renew, err
	}
	out := &api.X509SVIDResponse{}
	for _, pass := range passes {
		svid, err := d.o.Mint.X509SVID(ctx, pass)
		if err != nil {
			return nil, renew, err
		}
		a, err := pass.Admission()
		if err != nil {
			return nil, renew, err
		}
		now := d.o.Now()
		renew = now.Add(svid.NotAfter.Sub(now) / 2)
		out.Svids = append(out.Svids, &api.X509SVID{SpiffeId: svid.ID, X509Svid: svid.Certificate, X509SvidKey: svid.Key, Bundle: roots, Hint: a.Principal.Name})
	}
	return out, renew, nil
}

// roots are the bundle's certificates, in DER, one after the other.
func (d *Door) roots() ([]byte, error) {
	b, err := d.o.Mint.Bundle()
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, root := range b.X509Authorities() {
		out = append(out, root.Raw...)
	}
	return out, nil
}

// FetchX509Bundles implements the API. The bundle is public, as at the issuer's URL.
func (d *Door) FetchX509Bundles(_ *api.X509BundlesRequest, s grpc.ServerStreamingServer[api.X509BundlesResponse]) error {
	if _, err := caller(s.Context()); err != nil {
		return err
	}
	return d.stream(s.Context(), func() (time.Time, error) {
		roots, err := d.roots()
		if err != nil {
			return time.Time{}, err
		}
		return time.Time{}, s.Send(&api.X509BundlesResponse{Bundles: map[string][]byte{d.id(): roots}})
	})
}

// FetchJWTBundles implements the API. The bundle is public, as at the issuer's URL.
func (d *Door) FetchJWTBundles(_ *api.JWTBundlesRequest, s grpc.ServerStreamingServer[api.JWTBundlesResponse]) error {
	if _, err := caller(s.Context()); err != nil {
		return err
	}
	return d.stream(s.Context(), func() (time.Time, error) {
		b, err := d.o.Mint.Bundle()
		if err != nil {
			return time.Time{}, err
		}
		b.SetX509Authorities(nil)
		doc, err := b.Marshal()
		if err != nil {
			return time.Time{}, err
		}
		return time.Time{}, s.Send(&api.JWTBundlesResponse{Bundles: map[string][]byte{d.id(): doc}})
	})
}

func (d *Door) id() string { return "spiffe://" + d.o.TrustDomain }

// stream sends at once, and again when the bundle has changed or renew, if it is not
// zero, has come: each message is the whole state (Workload API section 4.1).
func (d *Door) stream(ctx context.Context, send func() (renew time.Time, err error)) error {
	tick := time.NewTicker(d.o.Every)
	defer tick.Stop()
	for {
		sent, err := d.bundle()
		if err != nil {
			return fail(err)
		}
		renew, err := send()
		if err != nil {
			return fail(err)
		}
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-d.done:
				return status.Error(codes.Unavailable, "the server is shutting down")
			case <-tick.C:
			}
			now, err := d.bundle()
			if err != nil {
				return fail(err)
			}
			again = !bytes.Equal(now, sent) || !renew.IsZero() && !d.o.Now().Before(renew)
		}
	}
}

// bundle is what a stream compares: the whole document.
func (d *Door) bundle() ([]byte, error) {
	b, err := d.o.Mint.Bundle()
	if err != nil {
		return nil, err
	}
	b.ClearSequenceNumber()
	return b.Marshal()
}

// FetchJWTSVID implements the API.
func (d *Door) FetchJWTSVID(ctx context.Context, in *api.JWTSVIDRequest) (*api.JWTSVIDResponse, error) {
	c, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if len(in.Audience) == 0 {
		return nil, status.Error(codes.InvalidArgument, "audience: at least one is required")
	}
	for _, a := range in.Audience {
		if err := door.CheckAudience(a); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	among, err := d.among(in.SpiffeId)
	if err != nil {
		return nil, err
	}
	end, err := d.o.Turns.Wait(ctx, c.UID())
	if err != nil {
		return nil, fail(err)
	}
	defer end()
	out := &api.JWTSVIDResponse{}
	passes, err := d.admitAudiences(ctx, c, among, in.Audience)
	if err != nil {
		return nil, fail(err)
	}
	for _, of := range passes {
		raw, err := d.o.Mint.JWTSVID(ctx, of)
		if err != nil {
			return nil, fail(err)
		}
		a, err := of[0].Admission()
		if err != nil {
			return nil, fail(err)
		}
		out.Svids = append(out.Svids, &api.JWTSVID{SpiffeId: identity.SPIFFEID(d.o.TrustDomain, a.Principal.Name), Svid: raw, Hint: a.Principal.Name})
	}
	return out, nil
}

// maxAudiences bounds a JWT-SVID's audiences; one is what the standard recommends.
const maxAudiences = 8

// admitAudiences admits the caller, as each account that it is, for every audience:
// the passes of one account together. One audience that is refused refuses the
// account.
func (d *Door) admitAudiences(ctx context.Context, c attest.Conn, among, audiences []string) ([][]*guard.Pass, error) {
	if len(audiences) > maxAudiences {
		return nil, status.Errorf(codes.InvalidArgument, "audience: more than %d", maxAudiences)
	}
	var out [][]*guard.Pass
	first, err := d.admit(ctx, c, among, mint(audiences[0], ""))
	if err != nil {
		return nil, err
	}
	var last error
	for _, pass := range first {
		a, err := pass.Admission()
		if err != nil {
			return nil, err
		}
		of := []*guard.Pass{pass}
		for _, audience := range audiences[1:] {
			more, err := d.admit(ctx, c, []string{a.Principal.Name}, mint(audience, a.IssuedTokenID))
			if last = err; err != nil {
				break
			}
			of = append(of, more...)
		}
		if len(of) == len(audiences) {
			out = append(out, of)
		}
	}
	if len(out) == 0 {
		return nil, last
	}
	return out, nil
}

func mint(audience, tokenID string) guard.Attempt {
	return guard.Attempt{Action: guard.ActionMint, Resource: guard.ToAudience(audience), Request: policy.Mint{Audience: audience}, TokenID: tokenID}
}

// among returns the accounts that a request may mean: all, or the one it names.
func (d *Door) among(id string) ([]string, error) {
	if id == "" {
		return d.o.Accounts, nil
	}
	for _, name := range d.o.Accounts {
		if identity.SPIFFEID(d.o.TrustDomain, name) == id {
			return []string{name}, nil
		}
	}
	return nil, status.Error(codes.PermissionDenied, "no identity for this caller")
}

// ValidateJWTSVID implements the API: whether a JWT-SVID of this trust domain is good
// for an audience. It needs no identity; anybody could do it with the bundle.
func (d *Door) ValidateJWTSVID(ctx context.Context, in *api.ValidateJWTSVIDRequest) (*api.ValidateJWTSVIDResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	if in.Audience == "" || in.Svid == "" {
		return nil, status.Error(codes.InvalidArgument, "audience and svid are required")
	}
	good, err := d.o.Verify.Verify(ctx, in.Svid, in.Audience)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var members map[string]any
	if err := json.Unmarshal(good.Payload, &members); err != nil {
		return nil, status.Error(codes.InvalidArgument, "the claims are no JSON object")
	}
	claims, err := structpb.NewStruct(members)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "the claims cannot be told")
	}
	return &api.ValidateJWTSVIDResponse{SpiffeId: good.Claims.Subject, Claims: claims}, nil
}
