package upstream_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

// BenchmarkRoundTrip is an exchange with an upstream that costs as little as one can,
// over our own client and over http.Transport.
func BenchmarkRoundTrip(b *testing.B) {
	answer := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024)
	s := newScript(b, func(_ *script, _ int32, c net.Conn) {
		request := make([]byte, 4096)
		for { // one read has a whole request: there is nothing but its head
			if _, err := c.Read(request); err != nil {
				return
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	})
	theirs := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1024}
	defer theirs.CloseIdleConnections()
	for _, tt := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"ours", newPool(b, upstream.Config{Upstream: s.url()}, upstream.Options{})},
		{"http.Transport", theirs},
	} {
		b.Run(tt.name, func(b *testing.B) {
			b.SetParallelism(16)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r, err := http.NewRequestWithContext(b.Context(), "GET", s.url()+"/v1", nil)
					if err != nil {
						b.Error(err)
						return
					}
					resp, err := tt.rt.RoundTrip(r)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		})
	}
}
