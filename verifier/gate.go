package verifier

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// What a Gate refuses before there is a token to judge. Their texts may be shown
// to the caller.
var (
	// ErrNoCredential means that the call shows no Bearer credential.
	ErrNoCredential = errors.New("no credential")

	// ErrCredentialMalformed means that it does not show exactly one well-formed
	// Bearer credential: which one is meant cannot be told.
	ErrCredentialMalformed = errors.New("credential malformed")
)

// A Requirement is what a service asks of its callers.
type Requirement struct {
	// Verifiers say whose tokens are taken, one for each issuer. Required. At most
	// one may have OwnRules: the accounts of two Sallyports have the same names.
	Verifiers []*Verifier

	// Audiences are what a token must be for, one of them exactly. Required.
	Audiences []string

	// Service is how reports call the service. Required.
	Service string

	// Realm is that of HTTP challenges (RFC 9110 section 11.5): printable ASCII
	// without quotes and backslashes. Default Service.
	Realm string

	// Observer hears of every outcome. Default: nobody does.
	Observer Observer

	// Now is the clock of reports; tokens are judged by their verifier's. Default
	// time.Now.
	Now func() time.Time
}

// check reports every mistake at once.
func (r *Requirement) check() error {
	var bad []error
	own := map[string]bool{}
	seen := map[string]bool{}
	for i, v := range r.Verifiers {
		switch {
		case v == nil:
			bad = append(bad, fmt.Errorf("verifier: Verifiers[%d] is nil", i))
			continue
		case seen[v.Issuer()]:
			bad = append(bad, fmt.Errorf("verifier: Verifiers[%d]: a second one for the issuer %s", i, v.Issuer()))
		case slices.ContainsFunc(v.c.Rules.Types, isAssertion):
			bad = append(bad, fmt.Errorf("verifier: Verifiers[%d]: takes assertions, which are no bearer tokens", i))
		}
		seen[v.Issuer()] = true
		if v.own() {
			own[v.Issuer()] = true
		}
	}
	if len(own) > 1 {
		bad = append(bad, errors.New("verifier: Verifiers: two have OwnRules, and their accounts could not be told apart: give one ProviderRules"))
	}
	if len(r.Verifiers) == 0 {
		bad = append(bad, errors.New("verifier: Verifiers is empty"))
	}
	if len(r.Audiences) == 0 || slices.Contains(r.Audiences, "") {
		bad = append(bad, errors.New("verifier: Audiences is empty, or one of them is"))
	}
	if r.Service == "" {
		bad = append(bad, errors.New("verifier: Service is empty"))
	}
	if strings.ContainsFunc(r.Realm, func(c rune) bool { return c < ' ' || c > '~' || c == '"' || c == '\\' }) {
		bad = append(bad, fmt.Errorf("verifier: Realm: %q: want printable ASCII without quotes and backslashes", r.Realm))
	}
	return errors.Join(bad...)
}

func isAssertion(typ string) bool { return strings.EqualFold(typ, token.TypeAssertion) }

// A Gate admits calls to one service: for HTTP by Protect, for gRPC by package
// grpcverifier, for anything else by Admit. It remembers verdicts and asks each
// again on every use. It is safe for concurrent use.
type Gate struct {
	r        Requirement
	issuers  map[string]*Verifier
	verdicts verdicts
}

// NewGate returns a Gate, or an error that names every mistake in r.
func NewGate(r Requirement) (*Gate, error) {
	if r.Realm == "" {
		r.Realm = r.Service
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	r.Audiences = slices.Clone(r.Audiences)
	g := &Gate{r: r, issuers: map[string]*Verifier{}}
	for _, v := range r.Verifiers {
		g.issuers[v.Issuer()] = v
	}
	return g, nil
}

// An Attempt is a call, in words that no protocol owns.
type Attempt struct {
	// Authorization holds every value of that header or metadata, as they came.
	Authorization []string

	// Traceparent holds every value of that one; the trace id of one that is valid
	// is reported (W3C Trace Context section 3.2).
	Traceparent []string

	// Action is what is asked, in the protocol's own words: "http.get", "grpc.call".
	Action string

	// Resource is of what: a path without its query, a full method.
	Resource string

	// Peer is the other end of the connection.
	Peer string
}

// Admit returns the verified token of a call that may go on, and reports the
// outcome before it returns. It makes no access decision beyond that: what this
// caller may do is for the service to say.
//
// A call that may not go on fails with ErrNoCredential, ErrCredentialMalformed or
// an *Error, whose Class may be shown to the caller and nothing else of it; with
// the reason KeysUnavailable it may be good, and the same call later may be
// admitted.
func (g *Gate) Admit(ctx context.Context, a Attempt) (*Verified, error) {
	t, unverified, err := g.verify(ctx, a.Authorization)
	if err == nil {
		err = t.For(g.r.Audiences...)
	}
	g.observe(ctx, &a, t, unverified, err)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Still asks again for a call that lasts, with the token that Admit returned for
// it. It fails with an *Error, and reports that, when the token is good no longer.
func (g *Gate) Still(ctx context.Context, t *Verified, a Attempt) error {
	if t.Still(ctx) == nil {
		return nil
	}
	// judged anew, it tells a key that was withdrawn from one that is out of reach
	_, err := t.verifier.VerifyParsed(ctx, t.Token)
	if err != nil {
		g.observe(ctx, &a, t, nil, err)
	}
	return err
}

// verify returns the verdict on the one token in an Authorization header, all but
// its audience. Of a token that is not taken it returns what it says of itself.
func (g *Gate) verify(ctx context.Context, authorization []string) (*Verified, map[string]string, error) {
	raw, err := bearer(authorization)
	if err != nil {
		return nil, nil, err
	}
	if len(raw) > token.MaxLength { // before it is hashed
		_, err := token.Parse(raw)
		return nil, nil, fail(Malformed, err)
	}
	hash := sha256.Sum256([]byte(raw))
	if t := g.verdicts.get(hash); t != nil {
		if t.Still(ctx) == nil {
			return t, nil, nil
		}
		g.verdicts.drop(hash) // and judge anew: what is remembered changes no answer
	}
	t, err := token.Parse(raw)
	if err != nil {
		return nil, nil, fail(Malformed, err)
	}
	unverified := map[string]string{"iss": t.Claims.Issuer, "kid": t.Header.KeyID}
	v, ok := g.issuers[t.Claims.Issuer]
	if !ok {
		return nil, unverified, fail(IssuerUnknown, nil)
	}
	got, err := v.VerifyParsed(ctx, t)
	if err != nil {
		return nil, unverified, err
	}
	g.verdicts.put(hash, got)
	return got, nil, nil
}

// bearer finds the one token in an Authorization header (RFC 6750 section 2.1,
// RFC 9110 section 11.4: the scheme is compared without case).
func bearer(authorization []string) (string, error) {
	switch len(authorization) {
	case 0:
		return "", ErrNoCredential
	case 1:
	default:
		return "", ErrCredentialMalformed
	}
	scheme, raw, ok := strings.Cut(authorization[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", ErrNoCredential // another scheme: not for us, and not enough
	}
	if raw = strings.TrimLeft(raw, " "); raw == "" || strings.ContainsAny(raw, " \t,\"") {
		return "", ErrCredentialMalformed
	}
	return raw, nil
}

type contextKey struct{}

// NewContext returns a context in which FromContext finds t: for protocols other
// than those that a Gate serves itself.
func NewContext(ctx context.Context, t *Verified) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// FromContext returns the token that a call was admitted with, and whether ctx is
// of a call that a Gate admitted.
func FromContext(ctx context.Context) (*Verified, bool) {
	t, ok := ctx.Value(contextKey{}).(*Verified)
	return t, ok
}
