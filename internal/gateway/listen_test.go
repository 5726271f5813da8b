package gateway_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gateway"
)

// write puts a new certificate for name into file, with its key.
func write(t *testing.T, file, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shown returns the name on the certificate that a client gets, and the protocol.
func shown(t *testing.T, c *tls.Config, name string, version uint16) (cn, protocol string, err error) {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() { _ = tls.Server(far, c).Handshake(); _ = far.Close() }()
	client := tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: version, NextProtos: []string{"h2"}})
	if err := client.Handshake(); err != nil {
		return "", "", err
	}
	s := client.ConnectionState()
	return s.PeerCertificates[0].Subject.CommonName, s.NegotiatedProtocol, nil
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.pem"), filepath.Join(dir, "b.pem")
	write(t, a, "a.test")
	write(t, b, "b.test")
	now := time.Now()
	var log bytes.Buffer
	c, err := gateway.OpenCertificates([]gateway.Certificate{{CertFile: a, KeyFile: a}, {CertFile: b, KeyFile: b}}, slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	config := c.TLS()
	want := func(what, name, cn string) {
		t.Helper()
		now = now.Add(2 * time.Second)
		if got, protocol, err := shown(t, config, name, 0); err != nil || got != cn || protocol != "h2" {
			t.Errorf("%s: %s is shown %q over %q, want %q: %v", what, name, got, protocol, cn, err)
		}
	}
	want("by name", "a.test", "a.test")
	want("by name", "b.test", "b.test")
	want("the first for others", "c.test", "a.test")
	if _, _, err := shown(t, config, "a.test", tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	write(t, b, "c.test")
	want("after a change", "c.test", "c.test")
	if err := os.WriteFile(b, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("with a broken file the old one stays", "c.test", "c.test")
	if !strings.Contains(log.String(), "cannot be used") {
		t.Errorf("the log says %s", log.String())
	}
	write(t, b, "d.test")
	want("after the file was mended", "d.test", "d.test")
	if _, err := gateway.OpenCertificates([]gateway.Certificate{{CertFile: a, KeyFile: filepath.Join(dir, "none")}}, nil, nil); err == nil {
		t.Error("a key that is not there is no mistake")
	}
}

func TestClient(t *testing.T) {
	t.Parallel()
	c := gateway.Config{TrustedProxies: gateway.TrustedProxies{Networks: []string{"10.0.0.0/24", "fd00::/8"}, Headers: []string{"x-forwarded-for"}}}
	if err := c.Complete(""); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, peer string
		header     []string
		want       string
	}{
		{"a stranger is not believed", "192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1:5"},
		{"a proxy is", "10.0.0.1:5", []string{"198.51.100.1"}, "198.51.100.1:0"},
		{"a proxy that says nothing is the client", "10.0.0.1:5", nil, "10.0.0.1:5"},
		{"from the right, the first that is no proxy", "10.0.0.1:5", []string{"1.1.1.1, 198.51.100.1 , 10.0.0.2"}, "198.51.100.1:0"},
		{"over several lines", "10.0.0.1:5", []string{"1.1.1.1, 198.51.100.1", "10.0.0.2"}, "198.51.100.1:0"},
		{"an IPv4 address in IPv6 is one of IPv4", "[::ffff:10.0.0.1]:5", []string{"::ffff:198.51.100.1"}, "198.51.100.1:0"},
		{"what is no address ends it at who wrote it", "10.0.0.1:5", []string{"198.51.100.1, unknown, 10.0.0.2"}, "10.0.0.2:0"},
		{"only proxies", "10.0.0.1:5", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3:0"},
		{"over IPv6", "[fd00::1]:5", []string{"2001:db8::1"}, "[2001:db8::1]:0"},
	} {
		got := c.TrustedProxies.Client(netip.MustParseAddrPort(tt.peer), http.Header{"X-Forwarded-For": tt.header})
		if got.String() != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	for _, bad := range []gateway.TrustedProxies{{Networks: []string{"10.0.0.0/24"}}, {Headers: []string{"x-forwarded-for"}}, {Networks: []string{"0.0.0.0/0"}, Headers: []string{"x-forwarded-for"}},
		{Networks: []string{"10.0.0.1/24"}, Headers: []string{"x-forwarded-for"}}, {Networks: []string{"10.0.0.0/24"}, Headers: []string{"x-real-ip"}}} {
		if err := (&gateway.Config{TrustedProxies: bad}).Complete(""); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// The PROXY protocol is a trusted proxy's alone.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, network, header, want string
	}{
		{"of a trusted proxy", "127.0.0.0/8", "PROXY TCP4 198.51.100.1 192.0.2.1 5 443\r\n", "198.51.100.1:5"},
		{"a trusted proxy may leave it out", "127.0.0.0/8", "", "127.0.0.1"},
		{"of a stranger it is no HTTP", "10.0.0.0/8", "PROXY TCP4 198.51.100.1 192.0.2.1 5 443\r\n", "400"},
	} {
		c := gateway.Config{TrustedProxies: gateway.TrustedProxies{Networks: []string{tt.network}, ProxyProtocol: true}}
		if err := c.Complete(""); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })}
		go func() { _ = s.Serve(c.TrustedProxies.Listen(l)) }() // ends at Close
		t.Cleanup(func() { _ = s.Close() })
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, tt.header+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if got, err := io.ReadAll(conn); err != nil || !strings.Contains(string(got), tt.want) || tt.want == "400" && strings.Contains(string(got), "198.51.100.1") {
			t.Errorf("%s: got %q %v", tt.name, got, err)
		}
		_ = conn.Close()
	}
}
