package httpproxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
)

// The certificate of a proxy that is trusted to say where requests come from is not the
// certificate of whoever it says.
func TestCertificateOfAProxy(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{trusted: []string{"10.0.0.0/24"}})
	for _, tt := range []struct{ peer, forwarded, reason string }{
		{"10.0.0.7:5000", "", "issuer_not_accepted"}, // its own request: the certificate is judged
		{"10.0.0.7:5000", "192.0.2.1", "credential_missing"},
		{"10.0.0.7:5000", "nonsense", "credential_missing"},
		{"192.0.2.1:5000", "192.0.2.2", "issuer_not_accepted"},
	} {
		r := httptest.NewRequest(http.MethodGet, "https://app.test/v1", nil)
		r.RemoteAddr, r.TLS = tt.peer, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte("x")}}}
		if tt.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tt.forwarded)
		}
		b.handler.ServeHTTP(httptest.NewRecorder(), r)
		if e := b.record(t, ""); e.Payload.Reason != tt.reason {
			t.Errorf("%s for %q: %s, want %s", tt.peer, tt.forwarded, e.Payload.Reason, tt.reason)
		}
	}
}
