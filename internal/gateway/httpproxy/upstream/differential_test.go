package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

// twin is an upstream that answers every request with the bytes it was given last and
// then ends, and both clients in front of it.
type twin struct {
	*script
	mu     sync.Mutex
	answer []byte
	sent   []byte // of the last request
	ours   *upstream.Pool
	theirs *http.Transport
}

func newTwin(t testing.TB) *twin {
	w := &twin{}
	w.script = newScript(t, func(_ *script, _ int32, c net.Conn) {
		var sent bytes.Buffer
		if r, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &sent))); err == nil {
			_, _ = io.Copy(io.Discard, r.Body) // all of it, so that nothing is answered early
		}
		w.mu.Lock()
		w.sent = sent.Bytes()
		answer := w.answer
		w.mu.Unlock()
		_, _ = c.Write(answer)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c) // an end, not a reset, which could overtake the answer
	})
	w.ours = newPool(t, upstream.Config{Upstream: w.url()}, upstream.Options{ResponseHeader: 10 * time.Second})
	w.theirs = &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", w.Addr().String())
	}}
	t.Cleanup(w.theirs.CloseIdleConnections)
	return w
}

// outcome is all that a caller sees of an answer, and what the server saw of the
// request. Errors are equal: their words are not a contract.
type outcome struct {
	failed, broken          bool // without an answer, within the body
	status                  int
	length                  int64
	header, trailer, method string
	body, sent              string
}

func (w *twin) outcome(rt http.RoundTripper, method, body string) outcome {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, "http://app.test/v1", reader)
	if err != nil {
		return outcome{failed: true}
	}
	r.Header.Set("X-Test", "1")
	w.ours.Close()
	w.theirs.CloseIdleConnections() // each starts anew: what is kept has tests of its own
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return outcome{failed: true}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	o := outcome{broken: err != nil, status: resp.StatusCode, length: resp.ContentLength, header: flat(resp.Header), body: string(text), method: resp.Request.Method}
	if err == nil {
		o.trailer = flat(resp.Trailer)
	}
	w.mu.Lock()
	o.sent = string(w.sent)
	w.mu.Unlock()
	return o
}

func flat(h http.Header) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		out = append(out, fmt.Sprintf("%s=%q", name, h[name]))
	}
	return strings.Join(out, ";")
}

// stricter are answers that we refuse and http.Transport lets through.
func stricter(theirs outcome) bool {
	return theirs.status < 100 || theirs.status == http.StatusSwitchingProtocols
}

func (w *twin) same(t interface{ Errorf(string, ...any) }, method, body string, answer []byte) {
	w.mu.Lock()
	w.answer = answer
	w.mu.Unlock()
	theirs, ours := w.outcome(w.theirs, method, body), w.outcome(w.ours, method, body)
	if !theirs.failed && stricter(theirs) {
		theirs = outcome{failed: true}
	}
	if theirs.broken && ours.broken { // how far one came depends on the size of its reads
		theirs.body, ours.body = "", ""
	}
	if ours != theirs {
		t.Errorf("%s with %d bytes, answered %q:\nours   %+v\ntheirs %+v", method, len(body), answer, ours, theirs)
	}
}

// TestSameAsTransport makes answers from parts, right and wrong ones.
func TestSameAsTransport(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	part := func(of ...string) *rapid.Generator[string] { return rapid.SampledFrom(of) }
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for range rapid.IntRange(0, 2).Draw(t, "informational") {
			b.WriteString(part("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 102 Processing\r\nContent-Length: 4\r\n\r\n").Draw(t, "one"))
		}
		b.WriteString(part("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/3", "HTP/1.1").Draw(t, "version") + " ")
		b.WriteString(part("200 OK", "200 OK", "200", "204 No Content", "304 Not Modified", "404 Not Found", "500 ", "101 Switching Protocols", "099 X", "20 X", "2000 X", "-10 X", "999 X").Draw(t, "status") + "\r\n")
		for range rapid.IntRange(0, 4).Draw(t, "fields") {
			b.WriteString(part("Content-Length: 5", "Content-Length: 5", "Content-Length: 0", "Content-Length: 6", "Content-Length: 4", "Content-Length: -5", "Content-Length: +5", "Content-Length: 5, 5", "Content-Length: 99999999999999999999",
				"Transfer-Encoding: chunked", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: identity", "Transfer-Encoding: chunked, chunked", "Trailer: X-End", "Trailer: Content-Length",
				"Connection: close", "Connection: keep-alive", "X: y", "x : y", " folded", "bare", "X:\x00", "Set-Cookie: a=b", "Pragma: no-cache", ": empty", "Upgrade: websocket").Draw(t, "field") + part("\r\n", "\r\n", "\r\n", "\n").Draw(t, "end"))
		}
		b.WriteString("\r\n")
		b.WriteString(part("", "hello", "hello", "hell", "hello!", "5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;x=y\r\nhello\r\n0\r\nX-End: 1\r\n\r\n", "5\r\nhello\r\n0\r\nContent-Length: 1\r\n\r\n", "5\r\nhello\r\n", "5\r\nhell", "zz\r\nhello\r\n", "ffffffffffffffffff\r\n",
			"5\r\nhelloX0\r\n\r\n", "5\nhello\n0\n\n", strings.Repeat("x", 70<<10), "5\r\nhello\r\n0\r\n"+strings.Repeat("X-End: 1\r\n", 1000)+"\r\n").Draw(t, "body"))
		answer := b.String()
		if rapid.IntRange(0, 9).Draw(t, "truncated") == 0 {
			answer = answer[:rapid.IntRange(0, len(answer)).Draw(t, "at")]
		}
		w.same(t, part("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get").Draw(t, "method"), part("", "x", strings.Repeat("y", 20<<10)).Draw(t, "sent"), []byte(answer))
	})
}

// FuzzSameAsTransport answers with any bytes.
func FuzzSameAsTransport(f *testing.F) {
	for _, s := range []string{hello, "HTTP/1.1 200 OK\r\n\r\nclose-delimited", "HTTP/1.1 103 Early Hints\r\n\r\n" + hello,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n"} {
		f.Add("GET", "", []byte(s))
		f.Add("HEAD", "", []byte(s))
		f.Add("POST", "body", []byte(s))
	}
	w := newTwin(f)
	f.Fuzz(func(t *testing.T, method, body string, answer []byte) {
		if len(body) > 32<<10 || len(answer) > 256<<10 || method == http.MethodConnect {
			t.Skip()
		}
		w.same(t, method, body, answer)
	})
}
