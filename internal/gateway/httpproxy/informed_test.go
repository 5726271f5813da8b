package httpproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Early hints reach a client of HTTP/1.1, and none of HTTP/1.0.
func TestInformed(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{discard: true, answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "done")
	}})
	for _, tt := range []struct {
		version string
		hints   bool
	}{{"1.1", true}, {"1.0", false}} {
		conn, err := net.Dial("tcp", b.gateway)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, strings.Replace(request("GET /v1", bearer(good(t)), "Connection: close"), "HTTP/1.1", "HTTP/"+tt.version, 1))
		text, err := io.ReadAll(bufio.NewReader(conn))
		_ = conn.Close()
		hints := strings.HasPrefix(string(text), "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200")
		if err != nil || hints != tt.hints || !strings.HasSuffix(string(text), "done") || strings.Count(string(text), "Link:") > 1 {
			t.Errorf("%s: %v\n%s", tt.version, err, text)
		}
	}
}
