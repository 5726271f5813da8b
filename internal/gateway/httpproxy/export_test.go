package httpproxy

import (
	"io"
	"net/http"
	"net/http/httputil"

	"github.com/sallyport-dev/sallyport/internal/guard"
	"time"
)

// Canonical is canonical, for fuzzing without a socket between.
func Canonical(raw string) (decoded, escaped string, err error) {
	p, err := canonical(raw)
	return p.decoded, p.escaped, err
}

// Bearer is bearer.
func Bearer(h http.Header) (raw, header string, err error) { return bearer(h) }

// Stall sets how long p waits for clients.
func (p *Proxy) Stall(d time.Duration) { p.stall = d }

// Bare is the proxy without anything of ours.
func Bare(rewrite func(*httputil.ProxyRequest), transport http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{Rewrite: rewrite, Transport: transport}
}

// CopyBody is what passes an answer on under a pass, as far as a test sees it.
func CopyBody(w http.ResponseWriter, pass *guard.Pass, from io.Reader) error {
	x := &exchange{pass: pass}
	x.count.ResponseWriter = w
	return x.copyBody(from, false)
}

// Informed passes on an answer that informs when the real one is there, or is not.
func Informed(w http.ResponseWriter, answered bool) error {
	x := &exchange{w: w}
	x.count.ResponseWriter = w
	watch := &watched{}
	if answered {
		watch.answered()
	}
	return x.informed(watch, http.StatusEarlyHints, nil)
}
