package keys

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/sallyport-dev/sallyport/token"
)

// rootLife is how long a root certificate is valid: longer than any key may be kept
// (Config.Rotate is at most a year).
const rootLife = 2 * 365 * 24 * time.Hour

// Roots returns the certificates of the authority of X.509-SVIDs, as they are to be
// in the trust bundle: of the keys that will sign, sign, or signed what is still
// good.
func (s *Set) Roots() ([]*x509.Certificate, error) {
	now := s.o.Now()
	r := s.ring(Authority, token.ES256)
	var out []*x509.Certificate
	for _, p := range r.public(now) {
		for _, k := range r {
			if k.ID != p.ID {
				continue
			}
			root, err := k.root(s.o.TrustDomain)
			if err != nil {
				return nil, err
			}
			out = append(out, root)
		}
	}
	return out, nil
}

// Certificate signs a certificate for pub after template, which says everything but
// the issuer, and returns it in DER.
func (s *Set) Certificate(template *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	k := s.ring(Authority, token.ES256).current(s.o.Now())
	if k == nil {
		return nil, errors.New("every key for X.509-SVIDs was revoked")
	}
	root, err := k.root(s.o.TrustDomain)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, template, root, pub, k.signer)
}

// root returns the key's own certificate. It is not kept: it follows from the key
// and the trust domain, and comes out the same each time, since a nil source of
// randomness makes ECDSA deterministic (RFC 6979).
func (k *key) root(trustDomain string) (*x509.Certificate, error) {
	id, err := base64.RawURLEncoding.DecodeString(k.ID)
	if err != nil {
		return nil, fmt.Errorf("key %s: its name is no thumbprint: %w", k.ID, err)
	}
	serial := sha256.Sum256(append([]byte("serial "), id...))
	serial[0] &= 0x7f // positive, RFC 5280 section 4.1.2.2
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:16]),
		Subject:      pkix.Name{Organization: []string{trustDomain}, CommonName: "SVID authority " + k.ID[:8]},
		URIs:         []*url.URL{{Scheme: "spiffe", Host: trustDomain}}, // X509-SVID section 3.1: a signing certificate has no path
		NotBefore:    k.row.Created, NotAfter: k.row.Created.Add(rootLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId: id[:20],
	}
	der, err := x509.CreateCertificate(nil, template, template, k.signer.Public(), k.signer)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of key %s: %w", k.ID, err)
	}
	return x509.ParseCertificate(der)
}
