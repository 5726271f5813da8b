// Package issuer turns a pass into a credential: ID tokens and access tokens of
// service accounts, and the assertions that the gateway hands upstream.
//
// It decides nothing: that somebody may have a token is what the Pass proves,
// and the token says exactly what was admitted. Keys are internal/keys'; the
// doors that hand tokens out are internal/door's.
package issuer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/token"
)

// Config is decoded from the "issuer" section of the file.
type Config struct {
	// URL is `iss`, and where keys are published: https, or http on loopback.
	// Required.
	URL string `yaml:"url"`

	// Audience is that of access tokens for our own APIs. Default URL.
	Audience string `yaml:"audience,omitempty"`

	// Listen is the address that serves URL. Required.
	Listen string `yaml:"listen"`

	// Hosts are names it answers to besides the one in URL.
	Hosts []string `yaml:"hosts,omitempty"`

	// Audiences may be minted for, besides those of services: patterns in which
	// "*" stops at "/"; exactly "*" means any text.
	Audiences []string `yaml:"audiences,omitempty"`
}

// Complete fills defaults and reports every mistake below "issuer".
func (c *Config) Complete() error {
	var bad []error
	if err := checkURL(c.URL); err != nil {
		bad = append(bad, fmt.Errorf("url: %q: %w", c.URL, err))
	}
	if c.Audience == "" {
		c.Audience = c.URL
	}
	if c.Listen == "" {
		bad = append(bad, errors.New("listen: is missing: write an address such as 127.0.0.1:8400"))
	}
	for i, a := range c.Audiences {
		if !policy.ValidPattern(a) {
			bad = append(bad, fmt.Errorf("audiences[%d]: %q: want text, with * for any text within one path segment", i, a))
		}
	}
	return errors.Join(bad...)
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return errors.New("want an absolute URL such as https://id.acme.internal")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	switch {
	case u.Scheme != "https" && !(u.Scheme == "http" && loopback):
		return errors.New("an issuer is https; plain http is for loopback addresses only")
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.HasSuffix(text, "#"):
		return errors.New("an issuer here is scheme and host alone, without a trailing slash")
	}
	return nil
}

// Lifetimes of what is issued.
const (
	// TokenLifetime is that of ID and access tokens. Google's Go libraries never
	// read `exp` and keep a token for 55 minutes (contract google-clients, 0.1).
	TokenLifetime = time.Hour

	// AssertionLifetime is the longest an assertion lives.
	AssertionLifetime = 5 * time.Minute

	// backdate is how far `iat` and `nbf` lie in the past: Python's library allows
	// no skew at all (contract google-clients, section 4).
	backdate = 5 * time.Second
)

// scope of every access token: what Google's metadata server answers whatever
// scopes are asked for (contract google-clients, 1.4).
const scope = "https://www.googleapis.com/auth/cloud-platform"

// An Issuer mints. It is safe for concurrent use.
type Issuer struct {
	c           Config
	trustDomain string
	keys        *keys.Set
	now         func() time.Time
	assertions  assertionCache
}

// New returns an Issuer for a completed Config.
func New(c Config, trustDomain string, set *keys.Set, now func() time.Time) *Issuer {
	return &Issuer{c: c, trustDomain: trustDomain, keys: set, now: now}
}

// URL returns `iss`.
func (i *Issuer) URL() string { return i.c.URL }

// common are the claims of every token of a service account.
type common struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expiry    int64  `json:"exp"`
	ID        string `json:"jti"`
}

type idToken struct {
	common
	AuthorizedParty string `json:"azp"`
	Email           string `json:"email"`
	EmailVerified   bool   `json:"email_verified"`
	Sallyport       *own   `json:"sallyport,omitzero"`
}

// own is our claim in the full format: what the kernel vouched for.
type own struct {
	Attested map[string]string `json:"attested"`
}

type accessToken struct {
	common
	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
}

// ErrNotAdmitted means that a pass does not cover what was to be minted: a bug of
// the door, never the caller's.
var ErrNotAdmitted = errors.New("the pass was not given for this")

// IDToken mints an ID token for audience, in the full format with the attested
// facts. The pass must admit token.mint on that audience. Before it returns, the
// caller is looked at once more (Pass.Still).
func (i *Issuer) IDToken(ctx context.Context, pass *guard.Pass, audience string, full bool) (string, error) {
	a, err := admitted(pass, policy.Resource{Kind: policy.AudienceResource, Name: audience})
	if err != nil {
		return "", err
	}
	c := idToken{common: i.common(&a, audience), Email: a.Principal.Email, EmailVerified: true}
	c.AuthorizedParty = c.Subject
	if full {
		c.Sallyport = &own{a.Attested}
	}
	return i.sign(ctx, pass, token.TypeID, c)
}

// AccessToken mints an access token for our own APIs (RFC 9068). The pass must
// admit token.mint on the account itself.
func (i *Issuer) AccessToken(ctx context.Context, pass *guard.Pass) (string, error) {
	a, err := pass.Admission()
	if err != nil {
		return "", err
	}
	if a, err = admitted(pass, policy.Resource{Kind: policy.AccountResource, Name: a.Principal.Name}); err != nil {
		return "", err
	}
	c := accessToken{common: i.common(&a, i.c.Audience), Scope: scope}
	c.ClientID = c.Subject
	return i.sign(ctx, pass, token.TypeAccess, c)
}

// admitted returns what pass admits if that is minting for want.
func admitted(pass *guard.Pass, want policy.Resource) (guard.Admission, error) {
	a, err := pass.Admission()
	if err != nil {
		return a, err
	}
	if a.Action != guard.ActionMint || a.Resource != want || a.Principal.Kind != identity.ServiceAccount || a.IssuedTokenID == "" {
		return a, fmt.Errorf("mint for %s: %w", want, ErrNotAdmitted)
	}
	return a, nil
}

func (i *Issuer) common(a *guard.Admission, audience string) common {
	from := i.now().Add(-backdate).Unix()
	return common{
		Issuer: i.c.URL, Subject: identity.SPIFFEID(i.trustDomain, a.Principal.Name), Audience: audience,
		IssuedAt: from, NotBefore: from, Expiry: i.now().Add(TokenLifetime).Unix(), ID: a.IssuedTokenID,
	}
}

func (i *Issuer) sign(ctx context.Context, pass *guard.Pass, typ string, claims any) (string, error) {
	raw, err := i.keys.Sign(keys.Tokens, typ, claims)
	if err != nil {
		return "", fmt.Errorf("mint: %w", err)
	}
	if err := pass.Still(ctx); err != nil {
		return "", err
	}
	return raw, nil
}
