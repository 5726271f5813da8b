package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/keys"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/token"
)

// SVIDLifetime is that of X.509-SVIDs and JWT-SVIDs.
const SVIDLifetime = time.Hour

// refreshHint is how often whoever reads the trust bundle should look again.
const refreshHint = 5 * time.Minute

// SVIDIssuer returns the `iss` of JWT-SVIDs: the trust domain's own SPIFFE ID, and
// not the issuer's URL, so that nobody looks for their keys among those of ID tokens.
func SVIDIssuer(trustDomain string) string { return "spiffe://" + trustDomain }

type jwtSVID struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	IssuedAt int64    `json:"iat"`
	Expiry   int64    `json:"exp"`
	ID       string   `json:"jti"`
}

// JWTSVID returns a JWT-SVID for the audiences that passes admit, one each, all of
// one account (JWT-SVID section 3). Before it returns, the caller is looked at once
// more.
func (i *Issuer) JWTSVID(ctx context.Context, passes []*guard.Pass) (string, error) {
	var c jwtSVID
	for n, pass := range passes {
		got, err := pass.Admission()
		if err != nil {
			return "", err
		}
		a, err := admitted(pass, policy.Resource{Kind: policy.AudienceResource, Name: got.Resource.Name})
		if err != nil {
			return "", err
		}
		id := identity.SPIFFEID(i.trustDomain, a.Principal.Name)
		if n == 0 {
			now := i.now()
			c = jwtSVID{SVIDIssuer(i.trustDomain), id, nil, now.Add(-backdate).Unix(), now.Add(SVIDLifetime).Unix(), a.IssuedTokenID}
		}
		if id != c.Subject {
			return "", fmt.Errorf("mint for two accounts: %w", ErrNotAdmitted)
		}
		c.Audience = append(c.Audience, a.Resource.Name)
	}
	if len(c.Audience) == 0 {
		return "", fmt.Errorf("mint for no audience: %w", ErrNotAdmitted)
	}
	raw, _, err := i.keys.Sign(keys.SVIDs, token.ES256, token.TypeSVID, c)
	if err != nil {
		return "", fmt.Errorf("mint: %w", err)
	}
	for _, pass := range passes {
		if err := pass.Still(ctx); err != nil {
			return "", err
		}
	}
	return raw, nil
}

// An X509SVID is a certificate and its private key.
type X509SVID struct {
	ID          string // SPIFFE ID
	Certificate []byte // DER; the roots are in Bundle
	Key         []byte // PKCS #8
	NotAfter    time.Time
}

// X509SVID makes a key and a certificate for it (X509-SVID section 4). The pass must
// admit token.mint on the account itself; the certificate's serial number is the
// bytes of the record's token id. Before it returns, the caller is looked at once
// more.
func (i *Issuer) X509SVID(ctx context.Context, pass *guard.Pass) (*X509SVID, error) {
	a, err := pass.Admission()
	if err != nil {
		return nil, err
	}
	if a, err = admitted(pass, policy.Resource{Kind: policy.AccountResource, Name: a.Principal.Name}); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	out := &X509SVID{ID: identity.SPIFFEID(i.trustDomain, a.Principal.Name), NotAfter: i.now().Add(SVIDLifetime)}
	if out.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	template, err := i.certificate(&a, out)
	if err != nil {
		return nil, err
	}
	if out.Certificate, err = i.keys.Certificate(template, key.Public()); err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	if err := pass.Still(ctx); err != nil {
		return nil, err
	}
	return out, nil
}

func (i *Issuer) certificate(a *guard.Admission, svid *X509SVID) (*x509.Certificate, error) {
	uri, err := url.Parse(svid.ID)
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	id, err := base64.RawURLEncoding.DecodeString(a.IssuedTokenID)
	if err != nil || len(id) == 0 {
		return nil, fmt.Errorf("mint: the token id %q is no serial number", a.IssuedTokenID)
	}
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(append([]byte{0}, id...)), // at most 17 octets: RFC 5280 section 4.1.2.2 allows 20
		URIs:         []*url.URL{uri},                                 // the only name there is
		NotBefore:    i.now().Add(-backdate), NotAfter: svid.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, nil
}

// Bundle returns the trust bundle: the roots of X.509-SVIDs and the keys of
// JWT-SVIDs (SPIFFE Trust Domain and Bundle section 4).
func (i *Issuer) Bundle() (*spiffebundle.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(i.trustDomain)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	b := spiffebundle.New(td)
	roots, err := i.keys.Roots()
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	b.SetX509Authorities(roots)
	for _, k := range i.keys.Public(keys.SVIDs) {
		if err := b.AddJWTAuthority(k.ID, k.Public); err != nil {
			return nil, fmt.Errorf("trust bundle: %w", err)
		}
	}
	b.SetRefreshHint(refreshHint)
	b.SetSequenceNumber(i.keys.Sequence(keys.SVIDs, keys.Authority))
	return b, nil
}
