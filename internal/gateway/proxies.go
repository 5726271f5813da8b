package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// TrustedProxies are proxies in front of the gateway that are believed about the client.
type TrustedProxies struct {
	// Networks they connect from, such as 10.0.0.0/24. Required if headers is there.
	Networks []netip.Prefix `yaml:"networks,omitempty"`

	// Headers that they say it in: x-forwarded-for, x-forwarded-proto. Default:
	// x-forwarded-for.
	Headers []string `yaml:"headers,omitempty"`
}

const (
	forwardedFor   = "x-forwarded-for"
	forwardedProto = "x-forwarded-proto"
)

func (t *TrustedProxies) complete() []error {
	var bad []error
	if len(t.Networks) == 0 && len(t.Headers) > 0 {
		bad = append(bad, fmt.Errorf("trusted_proxies.networks: is empty: name the networks whose word is taken"))
	}
	for i, n := range t.Networks {
		if n != n.Masked() {
			bad = append(bad, fmt.Errorf("trusted_proxies.networks[%d]: %s: has bits beyond its length: write %s", i, n, n.Masked()))
		}
	}
	if len(t.Networks) > 0 && t.Headers == nil {
		t.Headers = []string{forwardedFor}
	}
	for i, h := range t.Headers {
		if h != forwardedFor && h != forwardedProto {
			bad = append(bad, fmt.Errorf("trusted_proxies.headers[%d]: %q: known are %s and %s", i, h, forwardedFor, forwardedProto))
		}
	}
	return bad
}

func (t *TrustedProxies) trusts(a netip.Addr) bool {
	a = a.Unmap()
	for _, n := range t.Networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// maxHops is how many proxies in a row are believed.
const maxHops = 32

// Client returns where a request comes from that peer has forwarded: the last address in
// X-Forwarded-For that is no trusted proxy's. What stands before it anybody can have
// written. ok is false if peer is not trusted, or says nothing that can be read.
func (t *TrustedProxies) Client(peer netip.AddrPort, h http.Header) (client netip.AddrPort, scheme string, ok bool) {
	if len(t.Networks) == 0 || !t.trusts(peer.Addr()) {
		return peer, "", false
	}
	for _, name := range t.Headers {
		if name == forwardedProto && len(h["X-Forwarded-Proto"]) == 1 {
			if s := strings.ToLower(h["X-Forwarded-Proto"][0]); s == "http" || s == "https" {
				scheme = s
			}
		}
	}
	hops := strings.Split(strings.Join(h["X-Forwarded-For"], ","), ",")
	client = peer
	for i := len(hops) - 1; i >= 0 && len(hops)-i <= maxHops; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil || a.Zone() != "" {
			break
		}
		client, ok = netip.AddrPortFrom(a.Unmap(), 0), true
		if !t.trusts(a) {
			break
		}
	}
	return client, scheme, ok || scheme != ""
}
