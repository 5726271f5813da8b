package httpproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

// BenchmarkProxiedRequest is a GET through the gateway by a caller whose token was
// seen before, with its record written, beside the same reverse proxy without
// anything of ours, over http.Transport and over our own upstream client. All have the
// same client and upstream, on real sockets.
func BenchmarkProxiedRequest(b *testing.B) {
	answer := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") }
	ours := newRig(b, settings{answer: answer, discard: true, identity: map[string]string{"X-Forwarded-User": "principal.name"}})
	target, err := url.Parse(ours.upstream)
	if err != nil {
		b.Fatal(err)
	}
	rewrite := func(pr *httputil.ProxyRequest) {
		pr.SetURL(target)
		pr.SetXForwarded()
	}
	pool, err := upstream.New(upstream.Config{Upstream: ours.upstream}, upstream.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	bare := httptest.NewServer(httpproxy.Bare(rewrite, &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}))
	defer bare.Close()
	pooled := httptest.NewServer(httpproxy.Bare(rewrite, pool))
	defer pooled.Close()
	token := good(b)
	for _, tt := range []struct{ name, address string }{
		{"bare", bare.Listener.Addr().String()},
		{"bare with our upstream client", pooled.Listener.Addr().String()},
		{"admitted", ours.gateway},
	} {
		b.Run(tt.name, func(b *testing.B) {
			transport := &http.Transport{MaxIdleConnsPerHost: 256}
			defer transport.CloseIdleConnections()
			b.SetParallelism(16) // goroutines for each processor
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := get(transport, tt.address, token); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func get(transport *http.Transport, address, token string) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+address+"/v1/invoices", nil)
	if err != nil {
		return err
	}
	req.Host = "app.test"
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
