package guard_test

import (
	"context"
	"crypto/x509"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/audit"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// mesh vouches for everybody who shows a certificate.
type mesh struct{ name string }

func (m *mesh) Name() string { return m.name }
func (m *mesh) ProveCertificate(_ context.Context, chain []*x509.Certificate) (*identity.Proof, error) {
	return &identity.Proof{Principal: identity.Principal{Kind: identity.Federated, Provider: m.name, Name: string(chain[0].Raw)}, Provider: m.name, TokenID: "x509-1",
		Still: func(context.Context) error { return nil }, For: func([]string) error { return nil }}, nil
}

// A certificate is believed of the providers that its service accepts, and as long as they
// are what they were; it is revoked as a token is.
func TestCertificatesOfProviders(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, policy.Config{Policies: []policy.Rule{{Name: "all", Allow: []string{"anyAuthenticated"}, To: []string{"invoices", "other"}, Actions: []string{"http.*"}}}}, audit.Written)
	r := w.rules(t, policy.Config{Policies: []policy.Rule{{Name: "all", Allow: []string{"anyAuthenticated"}, To: []string{"invoices", "other"}, Actions: []string{"http.*"}}}})
	lab := &mesh{"lab"}
	r.Certificates = []guard.CertificateProver{&mesh{"stranger"}, lab}
	w.Reload(r, 10, true)
	show := func(service string) (*guard.Pass, error) {
		a := get("", "/x")
		a.Service, a.Resource = service, guard.ToService(service)
		a.Credentials = []guard.Credential{guard.Certificate([]*x509.Certificate{{Raw: []byte("orders")}})}
		return w.Admit(t.Context(), a)
	}
	for range 2 { // the second time from the cache
		if _, err := show("invoices"); fault.Of(err).Public != "token not trusted" {
			t.Errorf("a service that accepts none of them: %v", err)
		}
		pass, err := show("other")
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := pass.Admission(); a.Principal.ID() != "principal:lab/orders" {
			t.Errorf("admitted as %s", a.Principal.ID())
		}
	}
	pass, err := show("other")
	if err != nil {
		t.Fatal(err)
	}
	r.Certificates = []guard.CertificateProver{&mesh{"lab"}} // another entry of that name
	w.Reload(r, 10, true)
	if f := fault.Of(pass.Err()); !ended(pass) || f.Public != "token not trusted" {
		t.Errorf("its provider has another entry: %v", f)
	}
	if pass, err = show("other"); err != nil {
		t.Fatalf("proven again: %v", err)
	}
	if _, n, err := w.Revoke(guard.Revocation{Kind: guard.RevokeToken, Value: "x509-1"}); err != nil || n != 1 || !ended(pass) {
		t.Errorf("revoked: %d ended, %v", n, err)
	}
	if _, err := show("other"); fault.Of(err).Public != "credential revoked" {
		t.Errorf("after that: %v", err)
	}
}
