package httpproxy

import (
	"net/http"
	"net/http/httputil"
)

// Canonical is canonical, for fuzzing without a socket between.
func Canonical(raw string) (decoded, escaped string, err error) {
	p, err := canonical(raw)
	return p.decoded, p.escaped, err
}

// Bearer is bearer.
func Bearer(h http.Header) (raw, header string, err error) { return bearer(h) }

// Bare is the proxy without anything of ours.
func Bare(rewrite func(*httputil.ProxyRequest), transport http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{Rewrite: rewrite, Transport: transport}
}
