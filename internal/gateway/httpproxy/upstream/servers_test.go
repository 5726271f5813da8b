package upstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
)

// protocol answers with the protocol that the request came by, and a trailer.
func protocol(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "X-End")
	body, _ := io.ReadAll(r.Body)
	_, _ = io.WriteString(w, r.Proto+" "+r.Host+" "+string(body))
	w.Header().Set("X-End", "1")
}

func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// clientPair returns the files of a certificate that its own key has signed, and that key.
func clientPair(t *testing.T) (cert, key string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, "CERTIFICATE", der), writePEM(t, "PRIVATE KEY", raw)
}

// All ways to a server carry small bodies, large ones and trailers.
func TestSchemes(t *testing.T) {
	t.Parallel()
	start := func(change func(*httptest.Server)) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(protocol))
		change(s)
		if s.TLS != nil {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		return s
	}
	cleartext := start(func(s *httptest.Server) {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Config.Protocols.SetHTTP1(true)
	})
	socket := filepath.Join(t.TempDir(), "app.sock")
	unix := start(func(s *httptest.Server) {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Listener.Close()
		s.Listener = l
	})
	_ = unix
	tls1 := start(func(s *httptest.Server) { s.TLS = &tls.Config{NextProtos: []string{"http/1.1"}} })
	tls2 := start(func(s *httptest.Server) { s.TLS, s.EnableHTTP2 = &tls.Config{}, true })
	mutual := start(func(s *httptest.Server) { s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert} })
	ca := writePEM(t, "CERTIFICATE", tls1.Certificate().Raw)
	cert, key := clientPair(t)
	for _, tt := range []struct {
		name   string
		server upstream.Server
		want   string // "": it fails
	}{
		{"http", upstream.Server{URL: cleartext.URL}, "HTTP/1.1"},
		{"h2c", upstream.Server{URL: strings.Replace(cleartext.URL, "http:", "h2c:", 1)}, "HTTP/2.0"},
		{"unix", upstream.Server{URL: "unix://" + socket}, "HTTP/1.1"},
		{"https that chooses HTTP/1.1", upstream.Server{URL: tls1.URL, CAFile: ca}, "HTTP/1.1"},
		{"https that chooses HTTP/2", upstream.Server{URL: tls2.URL, CAFile: ca}, "HTTP/2.0"},
		{"another server name", upstream.Server{URL: tls1.URL, CAFile: ca, ServerName: "example.com"}, "HTTP/1.1"},
		{"a server name that the certificate lacks", upstream.Server{URL: tls1.URL, CAFile: ca, ServerName: "other.test"}, ""},
		{"a certificate that the system does not know", upstream.Server{URL: tls1.URL}, ""},
		{"ours is asked for and shown", upstream.Server{URL: mutual.URL, CAFile: ca, CertFile: cert, KeyFile: key}, "HTTP/1.1"},
		{"ours is asked for and there is none", upstream.Server{URL: mutual.URL, CAFile: ca}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPool(t, upstream.Config{Upstreams: []upstream.Server{tt.server}}, upstream.Options{})
			for _, size := range []int{0, 5, 1 << 20} {
				var body io.Reader
				if size > 0 {
					body = strings.NewReader(strings.Repeat("x", size))
				}
				resp, err := p.RoundTrip(newRequest(t, "POST", body))
				if err != nil {
					if tt.want != "" {
						t.Fatalf("%d bytes: %v", size, err)
					}
					continue
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if want := tt.want + " app.test " + strings.Repeat("x", size); err != nil || string(got) != want || resp.Trailer.Get("X-End") != "1" {
					t.Errorf("%d bytes: got %.40q %v, trailer %v", size, got, err, resp.Trailer)
				}
			}
		})
	}
}

// One that fails is left out; what was not sent goes to the other.
func TestSeveral(t *testing.T) {
	t.Parallel()
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = down.Close()
	a, b := newScript(t, always(hello)), newScript(t, always(hello))
	p := newPool(t, upstream.Config{Upstreams: []upstream.Server{{URL: a.url()}, {URL: "http://" + down.Addr().String()}, {URL: b.url()}}}, upstream.Options{})
	for i := range 60 {
		body := io.Reader(strings.NewReader("x"))
		if i%4 < 2 {
			body = &closable{Reader: body} // of unknown length: http.Transport's
		}
		if _, got, err := do(p, newRequest(t, "POST", body)); got != "hello" || err != nil {
			t.Fatalf("request %d: %q %v", i, got, err)
		}
	}
	if a.requests.Load() < 20 || b.requests.Load() < 20 {
		t.Errorf("they got %d and %d", a.requests.Load(), b.requests.Load())
	}
}

// closable is a body that is gone once it is closed.
type closable struct {
	io.Reader
	closed atomic.Bool
}

func (c *closable) Read(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, io.ErrClosedPipe
	}
	return c.Reader.Read(b)
}

func (c *closable) Close() error { c.closed.Store(true); return nil }

// With all of them failing, requests are still tried.
func TestNeverAllOut(t *testing.T) {
	t.Parallel()
	broken := func(s *script, _ int32, c net.Conn) { s.got(c) }
	a, b := newScript(t, broken), newScript(t, broken)
	p := newPool(t, upstream.Config{Upstreams: []upstream.Server{{URL: a.url()}, {URL: b.url()}}}, upstream.Options{})
	for range 20 {
		if _, _, err := do(p, newRequest(t, "GET", nil)); err == nil {
			t.Error("there is an answer")
		}
	}
	if n := a.requests.Load() + b.requests.Load(); n != 20 {
		t.Errorf("they got %d requests, want 20: none is sent twice", n)
	}
}

// Out for longer each time, asked once a second afterwards, and back with an answer.
func TestHealth(t *testing.T) {
	t.Parallel()
	var h upstream.Health
	now := time.Now()
	for i, want := range []time.Duration{0, 0, 1, 2, 4, 8, 16, 30, 30} {
		if !h.Usable(now) {
			t.Fatalf("failure %d: it is out already", i)
		}
		out := h.Failed(now)
		if out != want*time.Second {
			t.Errorf("failure %d: out for %v, want %v", i, out, want*time.Second)
		}
		if out > 0 && h.Usable(now.Add(out-time.Millisecond)) {
			t.Errorf("failure %d: it is not out", i)
		}
		now = now.Add(out)
	}
	if !h.Usable(now) || h.Usable(now.Add(time.Millisecond)) {
		t.Error("one request, and one only, should try it")
	}
	h.Answered()
	if !h.Usable(now) || h.Failed(now) != 0 {
		t.Error("an answer should end it")
	}
}

// Certificates are read again when they change; half of one changes nothing.
func TestCertificatesChange(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(protocol))
	t.Cleanup(s.Close)
	s.Config.SetKeepAlivesEnabled(false)
	right, err := os.ReadFile(writePEM(t, "CERTIFICATE", s.Certificate().Raw))
	if err != nil {
		t.Fatal(err)
	}
	other, _ := clientPair(t)
	wrong, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	var p *upstream.Pool
	for _, tt := range []struct {
		name string
		text []byte
		ok   bool
	}{
		{"another's", wrong, false},
		{"the right one", right, true},
		{"half of it", right[:len(right)/2], true},
		{"another's again", wrong, false},
	} {
		if err := os.WriteFile(path, tt.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if p == nil {
			p = newPool(t, upstream.Config{Upstreams: []upstream.Server{{URL: s.URL, CAFile: path}}}, upstream.Options{})
		}
		if _, _, err := do(p, newRequest(t, "GET", nil)); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
