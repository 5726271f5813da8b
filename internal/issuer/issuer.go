// Package issuer turns a pass into a credential: ID tokens, access tokens and SVIDs
// of service accounts, and the assertions that the gateway hands upstream.
//
// It decides nothing: that somebody may have a token is what the Pass proves,
// and the token says exactly what was admitted. Keys are internal/keys'; the
// doors that hand tokens out are internal/door's.
package issuer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/sealing"
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

	// Signing says with what tokens are signed, and when keys rotate.
	Signing keys.Config `yaml:"signing,omitempty"`

	// KeyEncryption says where the key is that seals the others at rest.
	KeyEncryption sealing.Config `yaml:"key_encryption,omitempty"`
}

// Minting is the part of an entry of "service_accounts" that says how its tokens are
// made.
type Minting struct {
	// Algorithm signs its ID and access tokens: RS256 or ES256. Default
	// issuer.signing.algorithm. It is the account's and never the caller's choice.
	Algorithm token.Algorithm `yaml:"algorithm,omitempty"`
}

// Complete reports every mistake below "service_accounts[i]".
func (a *Minting) Complete() error {
	if a.Algorithm == "" {
		return nil
	}
	if err := keys.CheckAlgorithm(a.Algorithm); err != nil {
		return fmt.Errorf("algorithm: %w", err)
	}
	return nil
}

// Complete fills defaults and reports every mistake below "issuer". Relative paths
// start at dir.
func (c *Config) Complete(dir string) error {
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
	bad = append(bad, below("signing", c.Signing.Complete())...)
	bad = append(bad, below("key_encryption", c.KeyEncryption.Complete(dir))...)
	return errors.Join(bad...)
}

// below puts a path before each of joined errors.
func below(path string, err error) []error {
	if err == nil {
		return nil
	}
	j, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{fmt.Errorf("%s.%w", path, err)}
	}
	var out []error
	for _, e := range j.Unwrap() {
		out = append(out, below(path, e)...)
	}
	return out
}

// Ours reports whether an audience is one of our own APIs, or an address below
// them: those take access tokens, and no ID token is for them.
func (c *Config) Ours(audience string) bool {
	for _, own := range []string{c.URL, c.Audience} {
		if own != "" && (audience == own || strings.HasPrefix(audience, own+"/") || strings.HasPrefix(audience, own+"?") || strings.HasPrefix(audience, own+"#")) {
			return true
		}
	}
	return false
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return errors.New("want an absolute URL such as https://id.acme.internal")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := err == nil && ip.IsLoopback()
	switch {
	case u.Scheme != "https" && !(u.Scheme == "http" && loopback):
		return errors.New("an issuer is https; plain http is for loopback addresses only, such as http://127.0.0.1:8400")
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

// An Issuer mints. It is safe for concurrent use.
type Issuer struct {
	c           Config
	trustDomain string
	algorithms  map[string]token.Algorithm
	keys        *keys.Set
	now         func() time.Time
	assertions  assertionCache
	minted      mintedCache
}

// New returns an Issuer for a completed Config; algorithms are those of accounts
// that do not have the default one.
func New(c Config, trustDomain string, algorithms map[string]token.Algorithm, set *keys.Set, now func() time.Time) *Issuer {
	return &Issuer{c: c, trustDomain: trustDomain, algorithms: algorithms, keys: set, now: now}
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

// own is our claim in the full format: what the kernel vouched for, but for the
// process's number.
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

// IDToken returns an ID token for audience, in the full format with the attested
// facts. The pass must admit token.mint on that audience; if its token id is that of
// a token that HeldIDToken found, that one is returned. Before it returns, the caller
// is looked at once more (Pass.Still).
func (i *Issuer) IDToken(ctx context.Context, pass *guard.Pass, audience string, full bool) (string, error) {
	a, err := admitted(pass, policy.Resource{Kind: policy.AudienceResource, Name: audience})
	if err != nil {
		return "", err
	}
	raw, _, err := i.mint(ctx, pass, &a, i.idKey(&a.Principal, a.Attested, audience, full), token.TypeID, func(c common) any {
		out := idToken{common: c, AuthorizedParty: c.Subject, Email: a.Principal.Email, EmailVerified: true}
		if full {
			out.Sallyport = &own{lasting(a.Attested)}
		}
		return out
	})
	return raw, err
}

// lasting are the attested facts without the one that is new with each process.
func lasting(facts map[string]string) map[string]string {
	out := maps.Clone(facts)
	delete(out, attest.PID)
	return out
}

// AccessToken returns an access token for our own APIs (RFC 9068) with these scopes,
// and when it expires. The pass must admit token.mint on the account itself.
func (i *Issuer) AccessToken(ctx context.Context, pass *guard.Pass, scopes []string) (raw string, expires time.Time, err error) {
	a, err := pass.Admission()
	if err != nil {
		return "", expires, err
	}
	if a, err = admitted(pass, policy.Resource{Kind: policy.AccountResource, Name: a.Principal.Name}); err != nil {
		return "", expires, err
	}
	return i.mint(ctx, pass, &a, i.accessKey(&a.Principal, scopes), token.TypeAccess, func(c common) any {
		return accessToken{common: c, ClientID: c.Subject, Scope: strings.Join(scopes, " ")}
	})
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

// mint returns the token that is held under key and has the pass's token id, or
// signs a new one, and keeps it.
func (i *Issuer) mint(ctx context.Context, pass *guard.Pass, a *guard.Admission, key mintedKey, typ string, claims func(common) any) (string, time.Time, error) {
	held, ok := i.minted.get(key, a.IssuedTokenID)
	if !ok {
		c := i.common(a, key.audience)
		raw, kid, err := i.keys.Sign(keys.Tokens, key.algorithm, typ, claims(c))
		if err != nil {
			return "", time.Time{}, fmt.Errorf("mint: %w", err)
		}
		held = minted{raw: raw, id: a.IssuedTokenID, kid: kid, expires: time.Unix(c.Expiry, 0)}
		i.minted.put(key, held)
	}
	if err := pass.Still(ctx); err != nil {
		return "", time.Time{}, err
	}
	return held.raw, held.expires, nil
}
