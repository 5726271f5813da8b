package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
)

// TrustedProxies says who may tell where a request comes from, and how.
type TrustedProxies struct {
	// Networks are the proxies' own addresses, such as 10.0.0.0/24. Default: none; the
	// client is who connects.
	Networks []string `yaml:"networks,omitempty"`

	// Headers are what they say it in: x-forwarded-for is the only one there is.
	Headers []string `yaml:"headers,omitempty"`

	// ProxyProtocol lets connections from Networks begin with a header of the PROXY
	// protocol, version 1 or 2 (haproxy.org, proxy-protocol.txt). Others may not.
	ProxyProtocol bool `yaml:"proxy_protocol,omitempty"`

	networks []netip.Prefix
}

func (t *TrustedProxies) complete() error {
	var bad []error
	t.networks = nil
	for i, n := range t.Networks {
		p, err := netip.ParsePrefix(n)
		switch {
		case err != nil || p.Masked() != p || p.Addr().Is4In6():
			bad = append(bad, fmt.Errorf("trusted_proxies.networks[%d]: %q: want a network such as 10.0.0.0/24", i, n))
		case p.Bits() == 0:
			bad = append(bad, fmt.Errorf("trusted_proxies.networks[%d]: %q: is everybody: name the proxies' own network", i, n))
		default:
			t.networks = append(t.networks, p)
		}
	}
	for i, h := range t.Headers {
		if !strings.EqualFold(h, "x-forwarded-for") {
			bad = append(bad, fmt.Errorf("trusted_proxies.headers[%d]: %q: want x-forwarded-for", i, h))
		}
	}
	if says := len(t.Headers) > 0 || t.ProxyProtocol; (len(t.Networks) > 0) != says {
		bad = append(bad, errors.New("trusted_proxies: want networks, and headers or proxy_protocol; or nothing"))
	}
	return errors.Join(bad...)
}

func (t *TrustedProxies) trusts(a netip.Addr) bool {
	for _, n := range t.networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// Client returns where a request comes from: peer, unless that is a trusted proxy; then
// the first address from the right in X-Forwarded-For that is none. An element that is no
// address ends the search at the proxy that wrote it.
func (t *TrustedProxies) Client(peer netip.AddrPort, h http.Header) netip.AddrPort {
	at := peer.Addr().Unmap()
	if len(t.Headers) == 0 || !t.trusts(at) {
		return peer
	}
	lines := h["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			element := rest
			j := strings.LastIndexByte(rest, ',')
			if more = j >= 0; more {
				element, rest = rest[j+1:], rest[:j]
			}
			a, err := netip.ParseAddr(strings.TrimSpace(element))
			if err != nil || a.Zone() != "" {
				return netip.AddrPortFrom(at, 0)
			}
			if at = a.Unmap(); !t.trusts(at) {
				return netip.AddrPortFrom(at, 0)
			}
		}
	}
	if at == peer.Addr().Unmap() {
		return peer
	}
	return netip.AddrPortFrom(at, 0)
}

// proxyHeader is how long a proxy may take for the header of its protocol.
const proxyHeader = 10 * time.Second

// Listen returns l, or a listener that believes the PROXY protocol of trusted proxies. From
// others such a header is no HTTP, and they are refused as net/http refuses that.
func (t *TrustedProxies) Listen(l net.Listener) net.Listener {
	if !t.ProxyProtocol {
		return l
	}
	return &proxyproto.Listener{Listener: l, ReadHeaderTimeout: proxyHeader, ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
		from, err := netip.ParseAddrPort(o.Upstream.String())
		if err != nil || !t.trusts(from.Addr().Unmap()) {
			return proxyproto.SKIP, nil
		}
		return proxyproto.USE, nil
	}}
}

// Bare returns the connection that a client's bytes came over, below TLS and the PROXY
// protocol.
func Bare(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if p, ok := c.(*proxyproto.Conn); ok {
		c = p.Raw()
	}
	return c
}
