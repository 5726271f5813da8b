package app

import (
	"fmt"
	"net"
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/config"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

// Demo is the service that dev mode protects: it answers with what it was told of
// the caller, and does what a real one should: it verifies the assertion.
type Demo struct {
	http   *http.Server
	verify *verifier.Verifier
	want   string // audience of assertions for it
}

// StartDemo serves the first service of a completed c on l until Close.
func StartDemo(l net.Listener, c *config.Config) *Demo {
	v, err := verifier.New(verifier.Config{
		Issuer: issuer.AssertionIssuer(c.Issuer.URL),
		Keys:   verifier.NewRemoteKeys(c.Issuer.URL+"/assertion/jwks.json", nil, nil, nil),
		Rules:  verifier.OwnRules(token.TypeAssertion),
	})
	if err != nil {
		panic(err) // never: the three fields are set
	}
	d := &Demo{verify: v, want: issuer.AssertionAudience(c.TrustDomain, c.Services[0].Name)}
	d.http = &http.Server{Handler: d, ReadHeaderTimeout: httpproxy.ReadHeaderTimeout}
	go func() { _ = d.http.Serve(l) }() // ends at Close
	return d
}

// Close ends the service.
func (d *Demo) Close() { _ = d.http.Close() }

// ServeHTTP implements http.Handler.
func (d *Demo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	good, err := d.verify.Verify(r.Context(), r.Header.Get(httpproxy.AssertionHeader), d.want)
	if err != nil {
		http.Error(w, "this request did not come through the gateway: "+err.Error(), http.StatusForbidden)
		return
	}
	_, _ = fmt.Fprintf(w, "hello %s, you asked for %s %s\n", good.Claims.Subject, r.Method, r.URL.Path)
}
