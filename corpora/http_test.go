package corpora_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const httpConfiguration = `
trust_domain: acme.internal
replica: a
data_dir: data
issuer: {url: "http://127.0.0.1:1", listen: "127.0.0.1:0"}
telemetry: {listen: "127.0.0.1:0"}
gateway: {listen: "127.0.0.1:0"%s}
providers:
  - name: lab
    oidc: {issuer: %q, jwks_file: %q, audiences: [%q]}
services:
  - name: app
    audiences: [%q]
    accept: [lab]
    http:
      hosts: [app.test]
      upstream: "http://%s"
      identity_headers: {X-Forwarded-User: principal.name}
      routes: [{path: /public/, public: true}]
policies:
  - {name: lab-uses-app, allow: ["principalSet:lab/*"], to: [app], actions: ["http.*"], when: 'under(request.path, "/app")'}
`

// The attacks of the corpus on a proxy, over HTTP/1.1, h2c and TLS. Cases of slow clients
// take 35 s and run side by side; -short leaves them out.
func TestHTTPCases(t *testing.T) {
	t.Parallel()
	dir := security(t, "171 hostile conversations with the gateway over HTTP/1.1 and HTTP/2")
	httpcases := filepath.Join(bin, "httpcases")
	build := exec.Command("go", "build", "-C", dir, "-o", httpcases, "./cmd/httpcases")
	build.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if err := run(build); err != nil {
		t.Fatal(err)
	}
	cases, _, jwks := generate(t, dir, "jwt", canary(t))
	var good string
	for _, c := range cases {
		if c.Expect == "accept" && c.ID != hurried && c.Transport != "raw" {
			good = c.Token
			break
		}
	}
	subject := subjectOf(t, good)
	cert := selfSigned(t)
	for _, tt := range []struct {
		name, tls string
		args      func(gateway string) []string
	}{
		{"HTTP/1.1 and h2c", "", func(g string) []string { return []string{"-addr", g, "-h2c", g} }},
		{"HTTP/1.1 and HTTP/2 over TLS", fmt.Sprintf(", tls: [{cert_file: %q, key_file: %q}]", cert, cert), func(g string) []string { return []string{"-addr", "", "-tls", g} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			folder, up := t.TempDir(), free(t)
			config := filepath.Join(folder, "sallyport.yaml")
			text := fmt.Sprintf(httpConfiguration, tt.tls, issuer, jwks, audience, audience, up)
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s := serve(t, config)
			args := append(tt.args(s.gateway), "-upstream", up, "-token", good, "-id-header", "X-Forwarded-User", "-id-value", subject)
			if testing.Short() {
				args = append(args, "-slow", "0")
			}
			out, _ := exec.Command(httpcases, args...).Output() // the last line says what failed
			s.stop(t)
			lines := bufio.NewScanner(bytes.NewReader(out))
			var passed, failed int
			for lines.Scan() {
				switch line := lines.Text(); {
				case strings.HasPrefix(line, "FAIL "):
					t.Error(line)
				case strings.HasPrefix(line, "soft "):
					t.Log(line) // each is argued in docs/spec/rfc9110.md
				default:
					_, _ = fmt.Sscanf(line, "%d passed, %d failed", &passed, &failed)
				}
			}
			t.Logf("%d passed, %d failed", passed, failed)
			if passed < 120 || failed > 0 {
				t.Errorf("%d passed, %d failed\n%s", passed, failed, out)
			}
		})
	}
}

// free returns a loopback address that nobody listens on: with a port below 32768, which
// the system gives to nobody who does not ask for it.
func free(t *testing.T) string {
	t.Helper()
	for range 100 {
		port, err := rand.Int(rand.Reader, big.NewInt(20000))
		if err != nil {
			t.Fatal(err)
		}
		address := fmt.Sprintf("127.0.0.1:%d", 12000+port.Int64())
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// selfSigned returns a PEM file with a certificate for app.test and its key.
func selfSigned(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app.test"}, DNSNames: []string{"app.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "app.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// subjectOf reads `sub` of a token that nobody has to verify.
func subjectOf(t *testing.T, raw string) string {
	t.Helper()
	var claims struct{ Sub string }
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err == nil {
		err = json.Unmarshal(body, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return claims.Sub
}
