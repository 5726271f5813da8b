package federation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// X509 says that the provider issues client certificates.
type X509 struct {
	// CAFile holds the certificates, in PEM, that callers' must come from. A relative
	// path starts at the file's folder. Required.
	CAFile string `yaml:"ca_file"`

	pem []byte // of CAFile, so that another content is another provider
}

func (x *X509) complete(dir string) error {
	if x.CAFile == "" {
		return errors.New("x509.ca_file: is missing: write the file with the certificates that callers' must come from")
	}
	if !filepath.IsAbs(x.CAFile) {
		x.CAFile = filepath.Join(dir, x.CAFile)
	}
	text, err := os.ReadFile(x.CAFile)
	if err != nil {
		return fmt.Errorf("x509.ca_file: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return fmt.Errorf("x509.ca_file: %s: has no certificate in PEM", x.CAFile)
	}
	x.pem = text
	return nil
}

// A CertificateProver proves the principals of client certificates: principal:NAME/URI, the
// one URI among the certificate's subject alternative names (RFC 5280 section 4.2.1.6), which
// a SPIFFE ID is.
type CertificateProver struct {
	name  string
	roots *x509.CertPool
	now   func() time.Time
}

// NewCertificates returns the prover of a completed Config with X509.
func NewCertificates(c Config, now func() time.Time) *CertificateProver {
	p := &CertificateProver{name: c.Name, roots: x509.NewCertPool(), now: now}
	p.roots.AppendCertsFromPEM(c.X509.pem) // Complete has tried it
	return p
}

// Name returns the provider's name.
func (p *CertificateProver) Name() string { return p.name }

// errCertificate is a certificate that is not accepted.
type errCertificate struct{ code, why string }

func (e errCertificate) Error() string { return e.why }
func (e errCertificate) Code() string  { return e.code }
func (errCertificate) Class() string   { return "certificate not accepted" }

// errCertificateExpired is one whose time is over.
type errCertificateExpired struct{}

func (errCertificateExpired) Error() string { return "the certificate has expired" }
func (errCertificateExpired) Code() string  { return "token_expired" }
func (errCertificateExpired) Class() string { return "certificate expired" }

// ProveCertificate proves who shows chain, whose first certificate is the caller's own: TLS
// has seen that the caller holds its key, and nothing else.
func (p *CertificateProver) ProveCertificate(_ context.Context, chain []*x509.Certificate) (*identity.Proof, error) {
	if len(chain) == 0 {
		return nil, errCertificate{"certificate_missing", "no certificate was shown"}
	}
	leaf, between := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	now := p.now()
	switch {
	case leaf.IsCA:
		return nil, errCertificate{"certificate_refused", "the certificate is an authority's own, which is no caller's"}
	case now.After(leaf.NotAfter):
		return nil, errCertificateExpired{}
	case len(leaf.URIs) != 1 || leaf.URIs[0].String() == "":
		return nil, errCertificate{"certificate_refused", fmt.Sprintf("the certificate has %d URIs among its alternative names: exactly one says who it is", len(leaf.URIs))}
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: p.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, errCertificate{"certificate_refused", "the certificate does not verify: " + err.Error()}
	}
	until := holds(chains)
	sum := sha256.Sum256(leaf.Raw)
	return &identity.Proof{
		Principal: identity.Principal{Kind: identity.Federated, Provider: p.name, Name: leaf.URIs[0].String()},
		Provider:  p.name,
		TokenID:   "x509-" + hex.EncodeToString(sum[:16]),
		Issued:    leaf.NotBefore,
		Expires:   until,
		Still: func(context.Context) error {
			if p.now().After(until) {
				return errCertificateExpired{}
			}
			return nil
		},
		For: func([]string) error { return nil }, // TLS has said to whom it was shown
	}, nil
}

// holds returns when the last of some chains ends, each with the first of its certificates.
func holds(chains [][]*x509.Certificate) (last time.Time) {
	for _, chain := range chains {
		until := chain[0].NotAfter
		for _, c := range chain[1:] {
			if c.NotAfter.Before(until) {
				until = c.NotAfter
			}
		}
		if until.After(last) {
			last = until
		}
	}
	return last
}
