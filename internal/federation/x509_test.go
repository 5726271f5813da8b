package federation_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/federation"
)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate; a nil issuer makes an authority of its own.
func issue(t *testing.T, by *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	if by == nil {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{made, key}
}

func named(t *testing.T, uris ...string) func(*x509.Certificate) {
	t.Helper()
	return func(c *x509.Certificate) {
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	const orders = "spiffe://mesh.test/orders"
	ca, other := issue(t, nil, nil), issue(t, nil, nil)
	between := issue(t, ca, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	})
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c := federation.Config{Name: "mesh", X509: &federation.X509{CAFile: file}}
	if err := c.Complete("/"); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	p := federation.NewCertificates(c, func() time.Time { return now })
	with := func(a func(*x509.Certificate), b func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) { a(c); b(c) }
	}
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		why   string // "" is good
	}{
		{"of the authority", []*x509.Certificate{issue(t, ca, named(t, orders)).cert}, ""},
		{"by one in between", []*x509.Certificate{issue(t, between, named(t, orders)).cert, between.cert}, ""},
		{"by one in between that is not shown", []*x509.Certificate{issue(t, between, named(t, orders)).cert}, "unknown authority"},
		{"of another authority", []*x509.Certificate{issue(t, other, named(t, orders)).cert}, "unknown authority"},
		{"of another authority, which is shown, too", []*x509.Certificate{issue(t, other, named(t, orders)).cert, other.cert}, "unknown authority"},
		{"an authority's own", []*x509.Certificate{ca.cert}, "authority's own"},
		{"one of a chain's authorities", []*x509.Certificate{between.cert}, "authority's own"},
		{"without a name", []*x509.Certificate{issue(t, ca, nil).cert}, "has 0 URIs"},
		{"with two names", []*x509.Certificate{issue(t, ca, named(t, orders, "spiffe://mesh.test/admin")).cert}, "has 2 URIs"},
		{"for servers only", []*x509.Certificate{issue(t, ca, with(named(t, orders), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })).cert}, "does not verify"},
		{"that has expired", []*x509.Certificate{issue(t, ca, with(named(t, orders), func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })).cert}, "has expired"},
		{"that is not valid yet", []*x509.Certificate{issue(t, ca, with(named(t, orders), func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) })).cert}, "does not verify"},
		{"none", nil, "no certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proof, err := p.ProveCertificate(t.Context(), tt.chain)
			if tt.why != "" {
				if err == nil || !strings.Contains(err.Error(), tt.why) {
					t.Errorf("got %+v, %v", proof, err)
				}
				return
			}
			if err != nil || proof.Principal.ID() != "principal:mesh/"+orders || !strings.HasPrefix(proof.TokenID, "x509-") || proof.Still(t.Context()) != nil {
				t.Errorf("got %+v, %v", proof, err)
			}
		})
	}
	proof, err := p.ProveCertificate(t.Context(), []*x509.Certificate{issue(t, ca, named(t, orders)).cert})
	if err != nil {
		t.Fatal(err)
	}
	if now = now.Add(2 * time.Hour); proof.Still(t.Context()) == nil {
		t.Error("it outlives its time")
	}
	for want, c := range map[string]federation.Config{
		"oidc: a provider is of one kind": {Name: "mesh"},
		"x509.ca_file: is missing":        {Name: "mesh", X509: &federation.X509{}},
		"has no certificate in PEM":       {Name: "mesh", X509: &federation.X509{CAFile: "/etc/hostname"}},
	} {
		if err := c.Complete("/"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A proof ends with the first certificate that it needs, not only with the caller's own:
// it is remembered, and a chain that is shown again is not verified again.
func TestAProofEndsWithItsChain(t *testing.T) {
	t.Parallel()
	ca := issue(t, nil, nil)
	now := time.Now()
	short := issue(t, ca, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.NotAfter = true, x509.KeyUsageCertSign, nil, now.Add(time.Minute)
	})
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c := federation.Config{Name: "mesh", X509: &federation.X509{CAFile: file}}
	if err := c.Complete("/"); err != nil {
		t.Fatal(err)
	}
	p := federation.NewCertificates(c, func() time.Time { return now })
	chain := []*x509.Certificate{issue(t, short, named(t, "spiffe://mesh.test/orders")).cert, short.cert}
	proof, err := p.ProveCertificate(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	if !proof.Expires.Equal(short.cert.NotAfter) || proof.Still(t.Context()) != nil {
		t.Errorf("it expires %v, want %v", proof.Expires, short.cert.NotAfter)
	}
	now = now.Add(2 * time.Minute)
	if _, err := p.ProveCertificate(t.Context(), chain); err == nil {
		t.Error("it is proven anew")
	}
	if proof.Still(t.Context()) == nil {
		t.Error("it still holds")
	}
}
