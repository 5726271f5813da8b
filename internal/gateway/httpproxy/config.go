package httpproxy

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Config is decoded from "services[i].http".
type Config struct {
	// Hosts are the names that the service is reached by, compared without port
	// and without case. Required.
	Hosts []string `yaml:"hosts"`

	upstream.Config `yaml:",inline"`

	// IdentityHeaders are set upstream: the name of a header to one of
	// principal.name, principal.id, principal.kind, principal.provider and
	// principal.email. A caller's own copies are removed.
	IdentityHeaders map[string]string `yaml:"identity_headers,omitempty"`

	// Routes say more of some paths. Default: all are judged by their methods.
	Routes []Route `yaml:"routes,omitempty"`

	longest []*Route // of Routes, the longest first
}

// fields are what identity headers can be set to.
var fields = map[string]func(*identity.Principal) string{
	"principal.name":     func(p *identity.Principal) string { return p.Name },
	"principal.id":       func(p *identity.Principal) string { return p.ID() },
	"principal.kind":     func(p *identity.Principal) string { return string(p.Kind) },
	"principal.provider": func(p *identity.Principal) string { return p.Provider },
	"principal.email":    func(p *identity.Principal) string { return p.Email },
}

// neverIdentity are headers that carry something else, in folded form.
var neverIdentity = []string{"authorization", "x-serverless-authorization", "proxy-authorization", "host", "content-length", "content-type",
	"transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "cookie", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
	identity.Fold(AssertionHeader)}

// Complete fills defaults and reports every mistake below "services[i]".
func (c *Config) Complete() error {
	var bad []error
	if len(c.Hosts) == 0 {
		bad = append(bad, errors.New("http.hosts: is empty: name the hosts that this service is reached by"))
	}
	for i, h := range c.Hosts {
		if n, ok := ownHost(h); !ok {
			bad = append(bad, fmt.Errorf("http.hosts[%d]: %q: want a host name or address, without a port or a pattern", i, h))
		} else if c.Hosts[i] = n; slices.Contains(c.Hosts[:i], n) {
			bad = append(bad, fmt.Errorf("http.hosts[%d]: %q: is there twice", i, h))
		}
	}
	bad = append(bad, c.Config.Complete())
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(c.IdentityHeaders)) {
		field, folded := c.IdentityHeaders[name], identity.Fold(name)
		switch {
		case seen[folded]:
			bad = append(bad, fmt.Errorf("http.identity_headers: %q: is there twice, in another spelling", name))
		case !httpguts.ValidHeaderFieldName(name) || slices.Contains(neverIdentity, folded):
			bad = append(bad, fmt.Errorf("http.identity_headers: %q: this header cannot carry an identity", name))
		case fields[field] == nil:
			bad = append(bad, fmt.Errorf("http.identity_headers.%s: %q: want principal.name, .id, .kind, .provider or .email", name, field))
		}
		seen[folded] = true
	}
	return errors.Join(append(bad, c.completeRoutes()...)...)
}

// ownHost returns a host of the file as hostName does. An IPv6 address may stand
// in brackets or without.
func ownHost(h string) (string, bool) {
	if ip, err := netip.ParseAddr(h); err == nil && ip.Is6() {
		h = "[" + h + "]"
	}
	bracketed := strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]")
	n, ok := hostName(h)
	return n, ok && !strings.Contains(h, "*") && (bracketed || !strings.Contains(h, ":"))
}

// hostName returns a request's or the file's host in the form it is compared in:
// without port, lower case, without the root's final dot.
func hostName(h string) (string, bool) {
	u := &url.URL{Host: h}
	name := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if name == "" || !httpguts.ValidHostHeader(h) || strings.ContainsAny(name, "/?#@\\ ,%\t") || strings.Contains(h, "@") {
		return "", false
	}
	return name, true
}

// set writes the identity headers of who to h.
func (c *Config) set(h http.Header, who *identity.Principal) error {
	for name, field := range c.IdentityHeaders {
		v := fields[field](who)
		if !httpguts.ValidHeaderFieldValue(v) || strings.TrimSpace(v) != v {
			return fmt.Errorf("%s cannot be written in the header %s", field, name)
		}
		h.Set(name, v)
	}
	return nil
}
