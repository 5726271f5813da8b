package upstream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

const hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

// What an upstream does wrong is an error, and its connection is never used again.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, answer string }{
		{"no answer", ""},
		{"something else", "SSH-2.0-x\r\n\r\n"},
		{"a body shorter than its length, then more", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"},
		{"a length that is no number", "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello"},
		{"a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello"},
		{"two lengths that differ", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\nhello"},
		{"a coding that nobody knows", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
		{"a chunk whose size is no number", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n"},
		{"chunks without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"header fields without an end", "HTTP/1.1 200 OK\r\nX: y\r\n"},
		{"a field that is none", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"},
		{"large header fields", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 128<<10) + "\r\n\r\n"},
		{"a million header fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 1_000_000) + "\r\n"},
		{"a change of protocol that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + hello},
		{"a status below all", "HTTP/1.1 099 What\r\n\r\n" + hello},
		{"a status with a sign", "HTTP/1.1 +20 What\r\n\r\n" + hello},
		{"informational answers without an end", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 10_000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, func(s *script, n int32, c net.Conn) {
				if n > 1 {
					always(hello)(s, n, c)
				} else if s.got(c) {
					_, _ = io.WriteString(c, tt.answer)
				}
			})
			p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{})
			if status, body, err := do(p, newRequest(t, "GET", nil)); err == nil {
				t.Errorf("got %d %q", status, body)
			}
			if s.requests.Load() != 1 {
				t.Errorf("it was asked %d times", s.requests.Load())
			}
			if status, body, err := do(p, newRequest(t, "GET", nil)); status != 200 || body != "hello" || err != nil {
				t.Errorf("afterwards: %d %q %v", status, body, err)
			}
			if s.conns.Load() != 2 {
				t.Errorf("there were %d connections", s.conns.Load())
			}
		})
	}
}

// When a connection serves again, and when it must not.
func TestReuse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, answer string
		want                 int32 // connections for three requests
	}{
		{"a length", "GET", hello, 1},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1},
		{"no body by status", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 1},
		{"no body by method", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 1},
		{"after one that informs", "GET", "HTTP/1.1 103 Early Hints\r\n\r\n" + hello, 1},
		{"HTTP/1.0 that stays", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", 1},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 3},
		{"the server wants to close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", 3},
		{"more than the answer", "GET", hello + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", 3},
		{"a body where none may be", "GET", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, always(tt.answer))
			p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{})
			for range 3 {
				if _, body, err := do(p, newRequest(t, tt.method, nil)); err != nil || body != "hello" && body != "" {
					t.Fatalf("got %q %v", body, err)
				}
			}
			if s.conns.Load() != tt.want {
				t.Errorf("there were %d connections, want %d", s.conns.Load(), tt.want)
			}
		})
	}
}

// Bytes that come when nobody has asked are nobody's answer.
func TestLatePoison(t *testing.T) {
	t.Parallel()
	late := make(chan bool)
	s := newScript(t, func(s *script, n int32, c net.Conn) {
		if n > 1 {
			always(hello)(s, n, c)
			return
		}
		s.got(c)
		_, _ = io.WriteString(c, hello)
		<-late
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
		late <- true
		<-late
	})
	defer close(late)
	p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{})
	_, _, _ = do(p, newRequest(t, "GET", nil))
	late <- true
	<-late
	if _, body, err := do(p, newRequest(t, "POST", strings.NewReader("x"))); body != "hello" || err != nil {
		t.Errorf("got %q %v", body, err)
	}
}

// A kept connection that ends is asked again only for what is safe.
func TestRetry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, body string
		retried            bool
	}{
		{"GET", "GET", "", true},
		{"HEAD", "HEAD", "", true},
		{"OPTIONS", "OPTIONS", "", true},
		{"DELETE may have been done", "DELETE", "", false},
		{"POST", "POST", "", false},
		{"GET with a body", "GET", "x", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, func(s *script, n int32, c net.Conn) {
				if n > 1 {
					always("HTTP/1.1 204 No Content\r\n\r\n")(s, n, c)
					return
				}
				s.got(c)
				_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				s.got(c) // and ends
			})
			p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{})
			if _, _, err := do(p, newRequest(t, "GET", nil)); err != nil {
				t.Fatal(err)
			}
			var body io.Reader
			if tt.body != "" {
				body = strings.NewReader(tt.body)
			}
			_, _, err := do(p, newRequest(t, tt.method, body))
			if (err == nil) != tt.retried || (s.requests.Load() == 3) != tt.retried {
				t.Errorf("got %v after %d requests", err, s.requests.Load())
			}
		})
	}
}

// A connection that ended while nobody used it is not noticed by anybody.
func TestStale(t *testing.T) {
	t.Parallel()
	ended := make(chan bool, 10)
	s := newScript(t, func(s *script, _ int32, c net.Conn) {
		s.got(c)
		_, _ = io.WriteString(c, hello)
		_ = c.Close()
		ended <- true
	})
	p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{})
	for range 5 {
		if _, body, err := do(p, newRequest(t, "POST", strings.NewReader("x"))); body != "hello" || err != nil {
			t.Errorf("got %q %v", body, err)
		}
		<-ended
	}
}

// An answer that is not read to its end takes its connection with it, and of those
// that are, no more stay than may.
func TestKept(t *testing.T) {
	t.Parallel()
	s := newScript(t, always(hello))
	p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{Idle: upstream.NewIdle(1)})
	open := func() io.ReadCloser {
		resp, err := p.RoundTrip(newRequest(t, "GET", nil))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	ends := func(b io.ReadCloser) {
		if text, err := io.ReadAll(b); string(text) != "hello" || err != nil {
			t.Errorf("got %q %v", text, err)
		}
		_ = b.Close()
		if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after the end: %d %v", n, err)
		}
	}
	one, two := open(), open()
	ends(one)
	ends(two) // one too many
	three, four := open(), open()
	if s.conns.Load() != 3 {
		t.Errorf("there were %d connections, want 3", s.conns.Load())
	}
	_ = three.Close()
	if n, err := three.Read(make([]byte, 1)); n != 0 || err != http.ErrBodyReadAfterClose {
		t.Errorf("after closing: %d %v", n, err)
	}
	_ = four.Close()
	ends(open())
	if s.conns.Load() != 4 {
		t.Errorf("there were %d connections, want 4", s.conns.Load())
	}
	eventually(t, "connections end", func() bool { return s.ended.Load() == 3 })
}

func TestStall(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(s *script, _ int32, c net.Conn) { s.got(c); s.got(c) })
	p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{ResponseHeader: 50 * time.Millisecond})
	if _, _, err := do(p, newRequest(t, "GET", nil)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if s.requests.Load() != 1 {
		t.Errorf("it was asked %d times", s.requests.Load())
	}
}

// Who leaves ends the exchange, before the answer and within it.
func TestCancel(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{"before the answer": "", "within its header fields": "HTTP/1.1 200 OK\r\n",
		"within its body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan bool, 1)
			asked := make(chan bool, 1)
			s := newScript(t, func(s *script, _ int32, c net.Conn) {
				s.got(c)
				_, _ = io.WriteString(c, answer)
				asked <- true
				ended <- !s.got(c)
			})
			p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-asked; cancel() }()
			if _, _, err := do(p, newRequest(t, "GET", nil).WithContext(ctx)); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if !<-ended {
				t.Error("the connection was used again")
			}
		})
	}
}

func TestInformational(t *testing.T) {
	t.Parallel()
	s := newScript(t, always("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"+hello))
	p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{})
	var got []string
	r := newRequest(t, "GET", nil)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		got = append(got, http.StatusText(code)+h.Get("Link"))
		return nil
	}}))
	if _, body, err := do(p, r); body != "hello" || err != nil || len(got) != 1 || got[0] != "Early Hints</a.css>" {
		t.Errorf("got %q %v %q", body, err, got)
	}
}

// Many at once get each their own answer; afterwards nothing of it is left.
func TestConcurrent(t *testing.T) {
	before, descriptors := runtime.NumGoroutine(), countDescriptors(t)
	s := newScript(t, always(hello))
	p := newPool(t, upstream.Config{Upstream: s.url()}, upstream.Options{Idle: upstream.NewIdle(8)})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 50 {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+j)%7 == 0 {
					go cancel()
				}
				if _, body, err := do(p, newRequest(t, "POST", strings.NewReader("x")).WithContext(ctx)); err == nil && body != "hello" || err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("got %q %v", body, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	p.Close()
	_ = s.Close()
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
	eventually(t, "descriptors are closed", func() bool { return countDescriptors(t) <= descriptors })
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("only Linux lists descriptors")
	}
	return len(d)
}
