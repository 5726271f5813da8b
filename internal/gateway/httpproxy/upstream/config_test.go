package upstream_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

func TestConfigComplete(t *testing.T) {
	t.Parallel()
	several := func(s ...upstream.Server) upstream.Config { return upstream.Config{Upstreams: s} }
	auth := func(a upstream.Auth) upstream.Config { return upstream.Config{Upstream: "http://a", Auth: &a} }
	token := func(t upstream.IDToken) upstream.Config { return auth(upstream.Auth{IDToken: &t}) }
	for _, tt := range []struct {
		name   string
		config upstream.Config
		want   []string // beginnings of the mistakes, in order
	}{
		{"HTTP/2 in the clear", upstream.Config{Upstream: "h2c://10.0.0.1:80"}, nil},
		{"a Unix socket", upstream.Config{Upstream: "unix:///run/app.sock"}, nil},
		{"a Unix socket without its whole path", upstream.Config{Upstream: "unix://app.sock"}, []string{`http.upstream: "unix://app.sock": want the whole path`}},
		{"neither", upstream.Config{}, []string{`http.upstream: ""`}},
		{"both", upstream.Config{Upstream: "http://a", Upstreams: []upstream.Server{{URL: "http://b"}}}, []string{"http.upstreams: is there beside upstream"}},
		{"everything", several(upstream.Server{URL: "https://a", CAFile: "ca", ServerName: "b", CertFile: "c", KeyFile: "k"}, upstream.Server{URL: "http://b"}), nil},
		{"one twice", several(upstream.Server{URL: "http://a"}, upstream.Server{URL: "http://a/"}), []string{`http.upstreams[1].url: "http://a/": is there twice`}},
		{"TLS settings in the clear", several(upstream.Server{URL: "http://a", CAFile: "ca"}), []string{"http.upstreams[0]: ca_file"}},
		{"a certificate without its key", several(upstream.Server{URL: "https://a", CertFile: "c"}), []string{"http.upstreams[0]: cert_file and key_file"}},
		{"no credential", auth(upstream.Auth{}), []string{"http.upstream_auth: want exactly one"}},
		{"two credentials", auth(upstream.Auth{IDToken: &upstream.IDToken{Audience: "a", From: "gcp"}, Header: &upstream.Header{Name: "X", File: "f"}}), []string{"http.upstream_auth: want exactly one"}},
		{"an ID token of nobody", token(upstream.IDToken{}), []string{"http.upstream_auth.id_token.audience:", "http.upstream_auth.id_token.from:"}},
		{"one of our own without an account", token(upstream.IDToken{Audience: "a", From: "self"}), []string{"http.upstream_auth.id_token.service_account: is missing"}},
		{"Google's with an account of ours", token(upstream.IDToken{Audience: "a", From: "gcp", ServiceAccount: "x"}), []string{"http.upstream_auth.id_token.service_account: is for from: self"}},
		{"our own by a file of Google's", token(upstream.IDToken{Audience: "a", From: "self", ServiceAccount: "x", CredentialsFile: "f"}), []string{"http.upstream_auth.id_token.credentials_file:"}},
		{"a header that frames", auth(upstream.Auth{Header: &upstream.Header{Name: "content-length", File: "f"}}), []string{"http.upstream_auth.header.name:"}},
		{"a header from nowhere", auth(upstream.Auth{Header: &upstream.Header{Name: "X-Key"}}), []string{"http.upstream_auth.header.file:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			if err := tt.config.Complete(); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}
