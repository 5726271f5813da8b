package upstream_test

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

func newPool(t testing.TB, c upstream.Config, o upstream.Options) *upstream.Pool {
	t.Helper()
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	p, err := upstream.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// script is an upstream that reads one request at a time and answers with bytes.
type script struct {
	net.Listener
	conns, requests, ended atomic.Int32
}

// newScript calls serve for each connection, with its number from 1.
func newScript(t testing.TB, serve func(s *script, n int32, c net.Conn)) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := s.conns.Add(1)
			go func() {
				defer s.ended.Add(1)
				defer c.Close()
				serve(s, n, c)
			}()
		}
	}()
	return s
}

func (s *script) url() string { return "http://" + s.Addr().String() }

// got waits for one request head; it reports false at the connection's end.
func (s *script) got(c net.Conn) bool {
	var tail [4]byte
	one := make([]byte, 1)
	for string(tail[:]) != "\r\n\r\n" {
		if _, err := c.Read(one); err != nil {
			return false
		}
		copy(tail[:], tail[1:])
		tail[3] = one[0]
	}
	s.requests.Add(1)
	return true
}

// always answers each request with the same bytes, on a connection that stays.
func always(answer string) func(*script, int32, net.Conn) {
	return func(s *script, _ int32, c net.Conn) {
		for s.got(c) {
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
}

func newRequest(t testing.TB, method string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://app.test/v1?x=1", body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// do returns status and body, or the error of either.
func do(p http.RoundTripper, r *http.Request) (int, string, error) {
	resp, err := p.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// eventually waits for what another goroutine does.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%s: not within five seconds", what)
}
