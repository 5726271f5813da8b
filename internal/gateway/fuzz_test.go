package gateway_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway"
)

// Whatever a caller writes, the client is who connects unless that is a trusted proxy; and
// then it is an address that is in the field, or the proxy.
func FuzzClient(f *testing.F) {
	for _, s := range []string{"198.51.100.1", "1.1.1.1, 10.0.0.2", "unknown", "::ffff:10.0.0.1,2001:db8::1", ",,", "fe80::1%eth0"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	c := gateway.Config{TrustedProxies: gateway.TrustedProxies{Networks: []string{"10.0.0.0/24"}, Headers: []string{"x-forwarded-for"}}}
	if err := c.Complete(""); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string, trusted bool) {
		peer := netip.MustParseAddrPort("192.0.2.1:5")
		if trusted {
			peer = netip.MustParseAddrPort("10.0.0.1:5")
		}
		got := c.TrustedProxies.Client(peer, http.Header{"X-Forwarded-For": {value}})
		if !got.IsValid() || !trusted && got != peer {
			t.Fatalf("%q: got %s", value, got)
		}
		if got == peer || got.Addr() == peer.Addr() {
			return
		}
		for element := range strings.SplitSeq(value, ",") {
			if a, err := netip.ParseAddr(strings.TrimSpace(element)); err == nil && a.Unmap() == got.Addr() {
				return
			}
		}
		t.Fatalf("%q: %s is not in it", value, got)
	})
}
