package httpproxy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

func TestConfigComplete(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		hosts    []string
		upstream string
		identity map[string]string
		want     []string // beginnings of the mistakes, in order
	}{
		{"the least", []string{"app.test"}, "http://127.0.0.1:8080", nil, nil},
		{"everything", []string{"App.Test.", "10.0.0.1", "[::1]", "::2"}, "https://app.internal/", map[string]string{"X-User": "principal.name", "X-Id": "principal.id", "X-Kind": "principal.kind", "X-By": "principal.provider", "X-Mail": "principal.email"}, nil},
		{"nothing", nil, "", nil, []string{"http.hosts: is empty", `http.upstream: ""`}},
		{"an empty host", []string{""}, "http://a", nil, []string{`http.hosts[0]: ""`}},
		{"a host with a port", []string{"app.test:80"}, "http://a", nil, []string{`http.hosts[0]: "app.test:80"`}},
		{"an IPv6 address with a port", []string{"[::1]:80"}, "http://a", nil, []string{`http.hosts[0]: "[::1]:80"`}},
		{"a pattern, which would match nothing", []string{"*.app.test"}, "http://a", nil, []string{`http.hosts[0]: "*.app.test"`}},
		{"a URL for a host", []string{"http://app.test"}, "http://a", nil, []string{`http.hosts[0]: "http://app.test"`}},
		{"a host twice, in two spellings", []string{"app.test", "x.test", "APP.test."}, "http://a", nil, []string{`http.hosts[2]: "APP.test.": is there twice`}},
		{"an upstream without a scheme", []string{"a"}, "10.0.0.1:80", nil, []string{"http.upstream:"}},
		{"an upstream of another scheme", []string{"a"}, "ftp://10.0.0.1", nil, []string{"http.upstream:"}},
		{"an upstream without a host", []string{"a"}, "http://:80", nil, []string{"http.upstream:"}},
		{"an upstream with a path", []string{"a"}, "http://10.0.0.1/base", nil, []string{"http.upstream:"}},
		{"an upstream with a query", []string{"a"}, "http://10.0.0.1?x", nil, []string{"http.upstream:"}},
		{"an upstream with a password", []string{"a"}, "http://u:p@10.0.0.1", nil, []string{"http.upstream:"}},
		{"an identity header that is none", []string{"a"}, "http://a", map[string]string{"X User": "principal.name"}, []string{`http.identity_headers: "X User"`}},
		{"headers that carry something else, in any spelling", []string{"a"}, "http://a", map[string]string{"authorization": "principal.name", "COOKIE": "principal.id", "X_Sallyport_Assertion": "principal.id", "X-Forwarded-For": "principal.id"},
			[]string{`http.identity_headers: "COOKIE"`, `http.identity_headers: "X-Forwarded-For"`, `http.identity_headers: "X_Sallyport_Assertion"`, `http.identity_headers: "authorization"`}},
		{"one header in two spellings", []string{"a"}, "http://a", map[string]string{"X-User": "principal.name", "x_user": "principal.id"}, []string{`http.identity_headers: "x_user": is there twice`}},
		{"a field that there is not", []string{"a"}, "http://a", map[string]string{"X-User": "principal.attributes"}, []string{"http.identity_headers.X-User:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := httpproxy.Config{Hosts: slices.Clone(tt.hosts), Config: upstream.Config{Upstream: tt.upstream}, IdentityHeaders: tt.identity}
			err := c.Complete()
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if again := c.Complete(); (again == nil) != (err == nil) {
				t.Errorf("what was completed is judged otherwise: %v", again)
			}
			if err == nil && slices.ContainsFunc(c.Hosts, func(h string) bool { return h != strings.ToLower(h) || strings.HasSuffix(h, ".") }) {
				t.Errorf("hosts are %q", c.Hosts)
			}
		})
	}
}
