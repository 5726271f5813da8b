// Package federation turns credentials that somebody issued into principals:
// tokens and client certificates of the providers in the file, and tokens of our own.
//
// A provider is data: a row of the file. Its subject becomes
// principal:NAME/SUBJECT; mapping to attributes and groups, conditions, other
// kinds of proof and discovery come later. Whether a token is good is package
// verifier's business, which service takes whose is internal/guard's.
package federation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// Config is one entry of the "providers" section of the file.
type Config struct {
	// Name qualifies the provider's principals. "self" and "local" are ours.
	Name string `yaml:"name"`

	// OIDC says that the provider issues OpenID Connect ID tokens, or any JWT
	// that is verified like one. This or X509 is required.
	OIDC *OIDC `yaml:"oidc,omitempty"`

	// X509 says that it issues client certificates.
	X509 *X509 `yaml:"x509,omitempty"`

	keys verifier.StaticKeys // of OIDC.JWKSFile, read by Complete
}

// OIDC describes an issuer of tokens.
type OIDC struct {
	// Issuer is compared with `iss` exactly.
	Issuer string `yaml:"issuer"`

	// JWKSFile holds the issuer's keys; a relative path starts at the file's
	// folder. It is read at start.
	JWKSFile string `yaml:"jwks_file,omitempty"`

	// JWKSURL is where the issuer publishes its keys: https, or http on loopback.
	JWKSURL string `yaml:"jwks_url,omitempty"`

	// Audiences are what its tokens may be for. A service takes one only when
	// the audience is among its own too.
	Audiences []string `yaml:"audiences"`

	// Algorithms its tokens may use. Default RS256, PS256, ES256, ES384, EdDSA.
	Algorithms []token.Algorithm `yaml:"algorithms,omitempty"`
}

// Complete fills defaults, reads the key file, and reports every mistake below
// "providers[i]". Relative paths start at dir.
func (c *Config) Complete(dir string) error {
	var bad []error
	switch {
	case !identity.ValidName(c.Name):
		bad = append(bad, fmt.Errorf("name: %q: use lower-case letters, digits, - and _, at most 63", c.Name))
	case c.Name == identity.Self || c.Name == identity.Local:
		bad = append(bad, fmt.Errorf("name: %q is ours: self is this issuer, local are attested callers", c.Name))
	}
	switch {
	case (c.OIDC == nil) == (c.X509 == nil):
		return errors.Join(append(bad, errors.New("oidc: a provider is of one kind: write oidc or x509"))...)
	case c.X509 != nil:
		return errors.Join(append(bad, c.X509.complete(dir))...)
	}
	o := c.OIDC
	if o.Issuer == "" || strings.TrimSpace(o.Issuer) != o.Issuer {
		bad = append(bad, fmt.Errorf("oidc.issuer: %q: write the issuer exactly as its tokens do", o.Issuer))
	}
	if len(o.Audiences) == 0 {
		bad = append(bad, errors.New("oidc.audiences: is empty: name what its tokens are for, or none can be taken"))
	}
	for i, a := range o.Audiences {
		if a == "" {
			bad = append(bad, fmt.Errorf("oidc.audiences[%d]: is empty", i))
		}
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = token.Algorithms()
	}
	for i, a := range o.Algorithms {
		if _, err := token.ParseAlgorithm(string(a)); err != nil {
			bad = append(bad, fmt.Errorf("oidc.algorithms[%d]: %w", i, err))
		}
	}
	bad = append(bad, c.completeKeys(dir))
	return errors.Join(bad...)
}

func (c *Config) completeKeys(dir string) error {
	o := c.OIDC
	switch {
	case (o.JWKSFile == "") == (o.JWKSURL == ""):
		return errors.New("oidc: needs jwks_file or jwks_url, one of them")
	case o.JWKSURL != "":
		if err := fetchable(o.JWKSURL); err != nil {
			return fmt.Errorf("oidc.jwks_url: %q: %w", o.JWKSURL, err)
		}
		return nil
	}
	if !filepath.IsAbs(o.JWKSFile) {
		o.JWKSFile = filepath.Join(dir, o.JWKSFile)
	}
	keys, err := ReadJWKS(o.JWKSFile)
	if err != nil {
		return fmt.Errorf("oidc.jwks_file: %w", err)
	}
	c.keys = keys
	return nil
}

// ReadJWKS reads a JWK set that has at least one key we verify with.
func ReadJWKS(file string) (verifier.StaticKeys, error) {
	doc, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	keys, skipped, err := token.ParseJWKS(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: has no key that we verify with (%s)", file, strings.Join(skipped, "; "))
	}
	return keys, nil
}

// fetchable says whether u is an absolute URL that keys may be read from: over
// plain http only where nobody is on the way.
func fetchable(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return errors.New("want an absolute https URL")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback) {
		return errors.New("want https: plain http is for loopback addresses only")
	}
	return nil
}

// RemoteKeys returns the keys at url, or an error if keys may not be read there.
func RemoteKeys(url string, now func() time.Time, log *slog.Logger) (*verifier.RemoteKeys, error) {
	if err := fetchable(url); err != nil {
		return nil, fmt.Errorf("%q: %w", url, err)
	}
	return verifier.NewRemoteKeys(url, nil, now, log), nil
}

// A Prover proves the principals of one issuer.
type Prover struct {
	name      string
	verifier  *verifier.Verifier
	principal func(*token.Claims) (identity.Principal, error)
	audiences []string // that the provider may speak for; nil: any
}

// New returns the Prover of a completed Config. The addresses of trustDomain's
// accounts are a name space that no provider may assert: a token that has one as
// its `email` is refused.
func New(c Config, trustDomain string, now func() time.Time, log *slog.Logger) (*Prover, error) {
	var keys verifier.KeySource = c.keys
	if c.OIDC.JWKSURL != "" {
		keys = verifier.NewRemoteKeys(c.OIDC.JWKSURL, nil, now, log)
	}
	v, err := verifier.New(verifier.Config{Issuer: c.OIDC.Issuer, Keys: keys, Algorithms: c.OIDC.Algorithms, Rules: verifier.ProviderRules(), Now: now})
	if err != nil {
		return nil, fmt.Errorf("provider %s: %w", c.Name, err)
	}
	reserved := strings.ToLower(identity.Email(trustDomain, ""))
	return &Prover{name: c.Name, verifier: v, audiences: c.OIDC.Audiences, principal: func(cl *token.Claims) (identity.Principal, error) {
		if strings.HasSuffix(strings.ToLower(cl.Email), reserved) {
			return identity.Principal{}, errEmail{}
		}
		return identity.Principal{Kind: identity.Federated, Provider: c.Name, Name: cl.Subject, Email: cl.Email}, nil
	}}, nil
}

// NewSelf returns the Prover of our own ID tokens, for the service accounts that
// the file declares: a token of one that was removed is refused.
func NewSelf(issuer string, keys verifier.KeySource, trustDomain string, accounts []string, now func() time.Time) (*Prover, error) {
	v, err := verifier.New(verifier.Config{Issuer: issuer, Keys: keys, Rules: verifier.OwnRules(token.TypeID), Now: now})
	if err != nil {
		return nil, err
	}
	bySubject := map[string]identity.Principal{}
	for _, name := range accounts {
		bySubject[identity.SPIFFEID(trustDomain, name)] = identity.Account(name, identity.Email(trustDomain, name))
	}
	return &Prover{name: identity.Self, verifier: v, principal: func(cl *token.Claims) (identity.Principal, error) {
		if p, ok := bySubject[cl.Subject]; ok {
			return p, nil
		}
		return identity.Principal{}, errAccount{}
	}}, nil
}

// errAccount is a good token of an account that is not in the file any more.
type errAccount struct{}

func (errAccount) Error() string { return "the token's subject is no service account of this file" }
func (errAccount) Code() string  { return "account_unknown" }
func (errAccount) Class() string { return "token not trusted" }

// errEmail is a good token of a provider that poses as one of our accounts.
type errEmail struct{}

func (errEmail) Error() string {
	return "the token's email is in the name space of this trust domain's service accounts"
}
func (errEmail) Code() string  { return "email_reserved" }
func (errEmail) Class() string { return "token not trusted" }

// Name returns the provider's name.
func (p *Prover) Name() string { return p.name }

// Issuer returns the `iss` of the tokens that p proves.
func (p *Prover) Issuer() string { return p.verifier.Issuer() }

// Prove verifies t, all but its audience, which the guard asks of the Proof on
// every use.
func (p *Prover) Prove(ctx context.Context, t *token.Token) (*identity.Proof, error) {
	good, err := p.verifier.VerifyParsed(ctx, t)
	if err != nil {
		return nil, err
	}
	who, err := p.principal(&good.Claims)
	if err != nil {
		return nil, err
	}
	return &identity.Proof{
		Principal: who,
		Provider:  p.name,
		TokenID:   good.Claims.ID,
		KeyID:     good.Header.KeyID,
		Issued:    good.Claims.IssuedAt,
		Expires:   good.Claims.Expiry,
		Still:     good.Still,
		For:       func(want []string) error { return good.For(p.common(want)...) },
	}, nil
}

// common returns those of want that the provider may speak for.
func (p *Prover) common(want []string) []string {
	if p.audiences == nil {
		return want
	}
	var out []string
	for _, a := range want {
		for _, b := range p.audiences {
			if a == b {
				out = append(out, a)
			}
		}
	}
	return out
}
