package httpproxy_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// Fields that only the gateway writes, or that concern one connection, are no more the
// service's in trailers than in the header.
func TestTrailersOfAnAnswer(t *testing.T) {
	t.Parallel()
	for name, prefix := range map[string]string{"announced": "", "not announced": http.TrailerPrefix} {
		b := newRig(t, settings{discard: true, answer: func(w http.ResponseWriter, _ *http.Request) {
			if prefix == "" {
				w.Header()["Trailer"] = []string{"X-Sum", httpproxy.DecisionHeader, "Keep-Alive"}
			}
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			for _, name := range []string{"X-Sum", httpproxy.DecisionHeader, "Keep-Alive"} {
				w.Header().Set(prefix+name, "mallory")
			}
		}})
		r, _ := http.NewRequest(http.MethodGet, "http://"+b.gateway+"/v1", nil)
		r.Host = "app.test"
		r.Header.Set("Authorization", "Bearer "+good(t))
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || len(resp.Trailer) != 1 || resp.Trailer.Get("X-Sum") != "mallory" {
			t.Errorf("%s: got the trailers %v, %v", name, resp.Trailer, err)
		}
	}
}

// An answer that has no content says nothing of its length: over HTTP/2 there are clients
// that wait for that much.
func TestNoContent(t *testing.T) {
	t.Parallel()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Transport{Protocols: protocols}
	defer h2.CloseIdleConnections()
	for _, status := range []string{"204 No Content", "304 Not Modified"} {
		b := newRig(t, settings{discard: true, answer: func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 "+status+"\r\nContent-Length: 5\r\n\r\n")
			_ = c.Close()
		}})
		r, _ := http.NewRequest(http.MethodGet, "http://"+b.gateway+"/v1", nil)
		r.Host = "app.test"
		r.Header.Set("Authorization", "Bearer "+good(t))
		resp, err := h2.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if length := resp.Header["Content-Length"]; err != nil || length != nil {
			t.Errorf("%s: got the length %q, %v", status, length, err)
		}
	}
}
